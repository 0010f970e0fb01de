/* SPDX-License-Identifier: MIT */
/*
 * Physical memory: the loader's map, who has what of it while L1 is being placed, L0's own range and the pages in it.
 *
 * All addresses are hpa, which for L1 equal gpa1: ept01 is an identity map.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define MEMORY_MAP_MAX 128

enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2, MEMORY_ACPI = 3, MEMORY_NVS = 4 };

struct memory_region {
    uint64_t start, end; /* [start, end) */
    uint32_t type;       /* as in E820 */
};

struct memory_map {
    uint32_t count;
    struct memory_region region[MEMORY_MAP_MAX];
};

struct multiboot_info;

/* Take the loader's memory map; panics if there is none. */
void memory_init(const struct multiboot_info *info);

/* The map, L0's range marked as reserved in it once memory_take_own ran: as L1 gets it. */
const struct memory_map *memory_map(void);

/* Cut [start, end), which is RAM, out of the RAM that L1 sees. */
void memory_set_aside(uint64_t start, uint64_t end);

/* Mark [start, end) as in use, so that memory_find does not return it. */
void memory_reserve(uint64_t start, uint64_t end);
/* Forget all of memory_reserve but L0's own range. */
void memory_release_all(void);

/* Clear what nobody reserved, and where L0's image was before it moved: the loader's leavings, which would have to be moved with L1. */
void memory_clear(void);

/* RAM of `bytes` bytes within [min, max) that nobody reserved: the highest such place. 0 if there is none. */
uint64_t memory_find(uint64_t bytes, uint64_t alignment, uint64_t min, uint64_t max);

/* Is all of [start, end) RAM that belongs to L1? / Does it touch L0's range? */
bool memory_is_ram(uint64_t start, uint64_t end);
bool memory_is_own(uint64_t start, uint64_t end);
/* Likewise, with ACPI's memory and the first 640 KiB: what behaves as memory and is not L0's. */
bool memory_is_usable(uint64_t start, uint64_t end);
/* The first such page at gpa1, which is aligned, or above it; memory_direct_end() if there is none. For loops that must not walk through holes. */
uint64_t memory_usable_from(uint64_t gpa1);

/*
 * Choose L0's range (as high as possible below 4 GiB; own_mib MiB, 0: by the machine's size), move the running image
 * there and switch to L0's own page tables, in which the page at `guard` is missing. Reserve what must survive before
 * calling it.
 */
void memory_take_own(uint64_t own_mib, uint64_t guard);
const struct memory_region *memory_own(void);

/* End of what the direct map covers: 4 GiB or the end of RAM. */
uint64_t memory_direct_end(void);

/* Is the page at gpa1 memory that L1 has and the direct map covers (memory_is_usable)? */
bool memory_is_l1_page(uint64_t gpa1);
/* Of such a page: the region around it, in whole pages, of which the same holds. */
struct memory_region memory_l1_pages(uint64_t gpa1);

/* Zeroed pages of L0's range. NULL: none left. */
void *page_get(uint64_t *hpa);
/* The same for what L0 can't do without: panics. */
void *page_get_or_die(uint64_t *hpa, const char *what);
void page_put(uint64_t hpa);
/* How many page_get has left. */
uint64_t pages_left(void);

/* Zeroed memory for as long as L0 runs: consecutive pages. Panics if there are none. */
void *pages_take(uint64_t bytes);
/* The same at addresses of its own, below which a page is missing: for a stack that grows down to its start. */
void *memory_guarded(uint64_t bytes);

/* Map a page of conventional memory at its physical address, with all rights; or no longer. Other processors may still hold what was. */
void memory_map_same(uint64_t hpa, bool on);

/* Memory types as the MTRRs have them: of the 2^shift bytes at hpa, or MTRR_MIXED. */
#define MTRR_MIXED 0xffu
void mtrr_init(void);
uint32_t mtrr_type(uint64_t hpa, uint32_t shift);

void *memcpy(void *restrict to, const void *restrict from, __SIZE_TYPE__ bytes);
void *memmove(void *to, const void *from, __SIZE_TYPE__ bytes);
void *memset(void *to, int value, __SIZE_TYPE__ bytes);
int memcmp(const void *a, const void *b, __SIZE_TYPE__ bytes);

#endif
