/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include "console.h"
#include "multiboot.h"
#include "x86.h"

#define RESERVATIONS_MAX 128
#define OWN_ALIGNMENT    (2 * MIB) /* so that ept01 splits no large page at the borders */
#define OWN_MIN          (8 * MIB)
#define OWN_BASE         (32 * MIB)
#define GUARDED_START    GIB       /* linear addresses that nothing else has */
#define OWN_SHARE        128 /* plus one byte of this many of RAM: ept02 has 8 bytes per 4 KiB at worst, several roots */

/* baremetal.ld */
extern char image_start[], image_text_end[], image_rodata_end[], image_end[];
void boot_relocate(uint64_t new_cr3, void *destination, const void *source, uint64_t bytes);

static struct memory_map map;
static struct memory_region reservation[RESERVATIONS_MAX];
static uint32_t reservation_count;
static struct memory_region own;
static uint64_t direct_end;
static uint64_t page_next;      /* pages from here to own.end were never given out */
static uint64_t page_free_list; /* hpa of the first returned page, which holds the hpa of the next; 0: empty */
static uint64_t page_free_count;

static void map_add(uint64_t start, uint64_t end, uint32_t type) {
    if (start >= end)
        return;
    if (map.count == MEMORY_MAP_MAX)
        panic("the loader's memory map has more than %d entries", MEMORY_MAP_MAX);
    map.region[map.count++] = (struct memory_region){start, end, type};
}

static void map_read(const struct multiboot_info *info) {
    uint64_t at = info->memory_map_address;
    uint64_t end = at + info->memory_map_bytes;

    while (at + sizeof(struct multiboot_memory) <= end) {
        struct multiboot_memory entry;

        memcpy(&entry, phys_to_virt(at), sizeof entry);
        map_add(entry.start, entry.start + entry.bytes, entry.type);
        at += entry.entry_bytes + sizeof entry.entry_bytes;
    }
}

void memory_init(const struct multiboot_info *info) {
    if (info->flags & MULTIBOOT_INFO_MEMORY_MAP) {
        map_read(info);
    } else if (info->flags & MULTIBOOT_INFO_MEMORY) {
        map_add(0, info->memory_lower_kib * KIB, MEMORY_RAM);
        map_add(1 * MIB, 1 * MIB + info->memory_upper_kib * KIB, MEMORY_RAM);
    } else {
        panic("the boot loader gives no memory map");
    }
    direct_end = 4 * GIB;
    for (uint32_t i = 0; i < map.count; i++)
        if (map.region[i].type == MEMORY_RAM && map.region[i].end > direct_end)
            direct_end = (map.region[i].end + GIB - 1) & ~(GIB - 1);
}

const struct memory_map *memory_map(void) {
    return &map;
}

const struct memory_region *memory_own(void) {
    return &own;
}

uint64_t memory_direct_end(void) {
    return direct_end;
}

void memory_reserve(uint64_t start, uint64_t end) {
    if (reservation_count == RESERVATIONS_MAX)
        panic("more than %d pieces of memory to keep apart: too many modules", RESERVATIONS_MAX);
    reservation[reservation_count++] = (struct memory_region){start, end, MEMORY_RESERVED};
}

void memory_release_all(void) {
    reservation_count = 0;
    memory_reserve(own.start, own.end);
}

/* The highest free place in [min, max), all of which is RAM; 0: none. */
static uint64_t find_in(uint64_t bytes, uint64_t alignment, uint64_t min, uint64_t max) {
    uint64_t at;

    if (max < bytes)
        return 0;
    at = (max - bytes) & ~(alignment - 1);
    for (uint32_t i = 0; i < reservation_count;) {
        const struct memory_region *r = &reservation[i];

        if (at >= r->end || at + bytes <= r->start) {
            i++;
            continue;
        }
        if (r->start < bytes)
            return 0;
        at = (r->start - bytes) & ~(alignment - 1);
        i = 0; /* it only ever moves down, so this ends */
    }
    return at >= min ? at : 0;
}

uint64_t memory_find(uint64_t bytes, uint64_t alignment, uint64_t min, uint64_t max) {
    uint64_t best = 0;

    for (uint32_t i = 0; i < map.count; i++) {
        const struct memory_region *r = &map.region[i];
        uint64_t low = r->start > min ? r->start : min;
        uint64_t high = r->end < max ? r->end : max;
        uint64_t at;

        if (r->type != MEMORY_RAM || low >= high)
            continue;
        at = find_in(bytes, alignment, low, high);
        if (at > best)
            best = at;
    }
    return best;
}

bool memory_is_own(uint64_t start, uint64_t end) {
    return start < own.end && end > own.start;
}

bool memory_is_ram(uint64_t start, uint64_t end) {
    for (uint32_t i = 0; i < map.count; i++)
        if (map.region[i].type == MEMORY_RAM && start >= map.region[i].start && end <= map.region[i].end)
            return true;
    return false;
}

bool memory_is_usable(uint64_t start, uint64_t end) {
    if (end <= 640 * KIB)
        return true;
    for (uint32_t i = 0; i < map.count; i++)
        if (map.region[i].type != MEMORY_RESERVED && map.region[i].type <= MEMORY_NVS && start >= map.region[i].start &&
            end <= map.region[i].end)
            return true;
    return false;
}

uint64_t memory_usable_from(uint64_t gpa1) {
    uint64_t next = direct_end;

    if (gpa1 < direct_end && memory_is_usable(gpa1, gpa1 + 4 * KIB))
        return gpa1;
    for (uint32_t i = 0; i < map.count; i++) {
        uint64_t start = (map.region[i].start + 4 * KIB - 1) & ~(4 * KIB - 1);

        if (start > gpa1 && start < next && memory_is_usable(start, start + 4 * KIB))
            next = start;
    }
    return next;
}

bool memory_is_l1_page(uint64_t gpa1) {
    return gpa1 < direct_end && memory_is_usable(gpa1, gpa1 + 4 * KIB);
}

struct memory_region memory_l1_pages(uint64_t gpa1) {
    struct memory_region around = {gpa1, gpa1 + 4 * KIB, MEMORY_RAM};

    for (uint32_t i = 0; i < map.count; i++) {
        struct memory_region r = map.region[i];

        if (memory_is_usable(r.start, r.end) && gpa1 >= r.start && gpa1 + 4 * KIB <= r.end)
            around = (struct memory_region){(r.start + 4 * KIB - 1) & ~(4 * KIB - 1), r.end & ~(4 * KIB - 1), MEMORY_RAM};
    }
    if (around.end > direct_end)
        around.end = direct_end;
    return around;
}

static void map_sort(void) {
    for (uint32_t i = 1; i < map.count; i++)
        for (uint32_t j = i; j && map.region[j - 1].start > map.region[j].start; j--) {
            struct memory_region swapped = map.region[j];

            map.region[j] = map.region[j - 1];
            map.region[j - 1] = swapped;
        }
}

void memory_set_aside(uint64_t start, uint64_t end) {
    for (uint32_t i = 0; i < map.count; i++) {
        struct memory_region r = map.region[i];

        if (r.type != MEMORY_RAM || r.start > start || r.end < end)
            continue;
        map.region[i] = (struct memory_region){start, end, MEMORY_RESERVED};
        map_add(r.start, start, MEMORY_RAM);
        map_add(end, r.end, MEMORY_RAM);
        map_sort();
        return;
    }
}

static bool is_reserved(uint64_t start, uint64_t end) {
    for (uint32_t i = 0; i < reservation_count; i++)
        if (start < reservation[i].end && end > reservation[i].start && reservation[i].start != (uintptr_t)image_start)
            return true;
    return false;
}

void memory_clear(void) {
    for (uint32_t i = 0; i < map.count; i++) {
        uint64_t at = (map.region[i].start + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);

        if (map.region[i].type != MEMORY_RAM)
            continue;
        for (at = at ? at : PAGE_BYTES; at + PAGE_BYTES <= map.region[i].end && at < direct_end; at += PAGE_BYTES)
            if (!is_reserved(at, at + PAGE_BYTES))
                memset(phys_to_virt(at), 0, PAGE_BYTES);
    }
}

/* -- pages -------------------------------------------------------------------------------------------------------- */

uint64_t pages_left(void) {
    return (own.end - page_next) / PAGE_BYTES + page_free_count;
}

void *page_get(uint64_t *hpa) {
    if (page_free_list) {
        *hpa = page_free_list;
        page_free_count--;
        page_free_list = *(uint64_t *)phys_to_virt(page_free_list);
    } else if (page_next < own.end) {
        *hpa = page_next;
        page_next += PAGE_BYTES;
    } else {
        return NULL;
    }
    return memset(phys_to_virt(*hpa), 0, PAGE_BYTES);
}

void *page_get_or_die(uint64_t *hpa, const char *what) {
    void *page = page_get(hpa);

    if (!page)
        panic("no memory of L0 left for %s; give it more with the option memory=MIB", what);
    return page;
}

void *pages_take(uint64_t bytes) {
    uint64_t hpa = page_next;

    bytes = (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    if (bytes > own.end - page_next)
        panic("no memory of L0 left for %lu bytes; give it more with the option memory=MIB", bytes);
    page_next += bytes;
    return memset(phys_to_virt(hpa), 0, bytes);
}

void page_put(uint64_t hpa) {
    *(uint64_t *)phys_to_virt(hpa) = page_free_list;
    page_free_list = hpa;
    page_free_count++;
}

/* -- L0's page tables --------------------------------------------------------------------------------------------- */

#define PTE_PRESENT 1ull
#define PTE_WRITE   2ull
#define PTE_LARGE   0x80ull
#define PTE_NX      (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull

static uint64_t *table_under(uint64_t *entry) {
    uint64_t hpa;

    if (!(*entry & PTE_PRESENT)) {
        page_get_or_die(&hpa, "its page tables");
        *entry = hpa | PTE_PRESENT | PTE_WRITE;
    }
    return phys_to_virt(*entry & PTE_ADDRESS);
}

static uint64_t *table_for(uint64_t *pml4, uint64_t address, uint32_t shift) {
    uint64_t *table = pml4;

    for (uint32_t s = 39; s > shift; s -= 9)
        table = table_under(&table[address >> s & 511]);
    return &table[address >> shift & 511];
}

static uint64_t image_rights(uint64_t address) {
    if (address < (uintptr_t)image_text_end)
        return 0;
    return address < (uintptr_t)image_rodata_end ? PTE_NX : PTE_NX | PTE_WRITE;
}

static uint64_t build_page_tables(uint64_t guard) {
    bool has_1g = cpuid(0x80000001, 0).edx & 1u << 26;
    uint32_t shift = has_1g ? 30 : 21;
    uint64_t cr3;
    uint64_t *pml4 = page_get_or_die(&cr3, "its page tables");

    for (uint64_t hpa = 0; hpa < direct_end; hpa += 1ull << shift)
        *table_for(pml4, DIRECT_MAP + hpa, shift) = hpa | PTE_PRESENT | PTE_WRITE | PTE_LARGE | PTE_NX;
    for (uintptr_t address = (uintptr_t)image_start; address < (uintptr_t)image_end; address += PAGE_BYTES) {
        uint64_t hpa = own.start + (address - (uintptr_t)image_start);

        if (address != guard)
            *table_for(pml4, address, 12) = hpa | PTE_PRESENT | image_rights(address);
    }
    return cr3;
}

void *memory_guarded(uint64_t bytes) {
    static uint64_t next = GUARDED_START;
    uint64_t start = next + PAGE_BYTES, hpa;

    for (next = start; next < start + bytes; next += PAGE_BYTES) {
        page_get_or_die(&hpa, "a stack");
        *table_for(phys_to_virt(read_cr3() & PTE_ADDRESS), next, 12) = hpa | PTE_PRESENT | PTE_WRITE | PTE_NX;
    }
    return (void *)start;
}

void memory_map_same(uint64_t hpa, bool on) {
    *table_for(phys_to_virt(read_cr3() & PTE_ADDRESS), hpa, 12) = on ? hpa | PTE_PRESENT | PTE_WRITE : 0;
    write_cr3(read_cr3());
}

static uint64_t own_bytes(uint64_t own_mib) {
    uint64_t ram = 0, bytes = own_mib * MIB;

    for (uint32_t i = 0; i < map.count; i++)
        if (map.region[i].type == MEMORY_RAM)
            ram += map.region[i].end - map.region[i].start;
    if (!bytes) {
        bytes = OWN_BASE + ram / OWN_SHARE;
        if (bytes > ram / 4)
            bytes = ram / 4;
    }
    if (bytes < OWN_MIN)
        bytes = OWN_MIN;
    return (bytes + OWN_ALIGNMENT - 1) & ~(OWN_ALIGNMENT - 1);
}

void memory_take_own(uint64_t own_mib, uint64_t guard) {
    uint64_t bytes = own_bytes(own_mib);
    uint64_t image_bytes = (uint64_t)(image_end - image_start);
    uint64_t cr3;

    memory_reserve((uintptr_t)image_start, (uintptr_t)image_end);
    own.start = memory_find(bytes, OWN_ALIGNMENT, 1 * MIB, 4 * GIB);
    if (!own.start)
        panic("no %lu MiB of free memory below 4 GiB for L0", bytes / MIB);
    own.end = own.start + bytes;
    page_next = own.start + image_bytes;
    memory_set_aside(own.start, own.end);
    cr3 = build_page_tables(guard);
    boot_relocate(cr3, phys_to_virt(own.start), image_start, image_bytes);
}
