/* SPDX-License-Identifier: MIT */
/*
 * ept01: L1's physical memory is the machine's, except L0's own range, and single pages that ept01_set puts elsewhere or takes rights from.
 *
 * L0's range is mapped to one sacrificial page that starts as all ones. L1 was told that the range is reserved; should
 * it touch it nevertheless it meets something like a bus without a device, never L0: no instruction has to be decoded
 * for that, and no access has to be refused.
 */
#include "console.h"
#include "host.h"
#include "versions.h"

#define EPT_RWX            7ull
#define EPT_TYPE_SHIFT     3
#define EPT_LARGE          0x80ull
#define EPT_ADDRESS        0x000ffffffffff000ull
#define EPT_POINTER_WALK_4 (3ull << 3)
#define EPT_POINTER_WB     6ull
#define EPT_POINTER_AD     (1ull << 6)

#define TYPE_WB            6u

static struct {
    uint64_t root, decoy_table;
    uint32_t largest; /* shift of the largest page the CPU has */
    uint64_t end;     /* first physical address that the CPU has not */
    uint64_t first;   /* the table for the first 512 GiB, which stays what it is once it is made */
} ept01;

static uint64_t *entry_at(uint64_t table, uint64_t gpa1, uint32_t shift) {
    return (uint64_t *)phys_to_virt(table) + (gpa1 >> shift & 511);
}

/* The largest page that may hold gpa1: of one memory type, and free of L0. */
static uint32_t page_shift(uint64_t gpa1) {
    for (uint32_t shift = ept01.largest; shift > 12; shift -= 9) {
        uint64_t start = gpa1 & ~((1ull << shift) - 1);

        if (!memory_is_own(start, start + (1ull << shift)) && mtrr_type(start, shift) != MTRR_MIXED)
            return shift;
    }
    return 12;
}

bool ept01_fill(uint64_t gpa1) {
    bool is_own = memory_is_own(gpa1 & ~(PAGE_BYTES - 1), (gpa1 | (PAGE_BYTES - 1)) + 1);
    uint32_t leaf = is_own ? 21 : page_shift(gpa1);
    uint64_t table = ept01.root, hpa;
    uint64_t *entry;

    if (gpa1 >= ept01.end)
        return false;
    for (uint32_t shift = 39; shift > leaf; shift -= 9) {
        entry = entry_at(table, gpa1, shift);
        if (!*entry) {
            page_get_or_die(&hpa, "ept01");
            *entry = hpa | EPT_RWX;
        }
        table = *entry & EPT_ADDRESS;
    }
    entry = entry_at(table, gpa1, leaf);
    if (*entry)
        return true;
    if (is_own) {
        *entry = ept01.decoy_table | EPT_RWX;
    } else {
        uint64_t start = gpa1 & ~((1ull << leaf) - 1);

        *entry = start | EPT_RWX | mtrr_type(start, leaf) << EPT_TYPE_SHIFT | (leaf > 12 ? EPT_LARGE : 0);
    }
    return true;
}

/*
 * Make the mapping of gpa1 a 4-KiB one, level by level. The rights and the type of each part stay those of the whole; a TLB that still
 * holds the whole holds nothing wrong. of_l2: EPT01_OF_L2 for the parts, or 0.
 */
static uint64_t *split(uint64_t gpa1, uint64_t of_l2) {
    uint64_t table = ept01.root, hpa;

    for (uint32_t shift = 39; shift > 12; shift -= 9) {
        uint64_t *entry = entry_at(table, gpa1, shift);

        if (*entry & EPT_LARGE) {
            uint64_t *below = page_get(&hpa);
            uint64_t part = (*entry & ~EPT_LARGE) | (shift > 21 ? EPT_LARGE : of_l2);

            if (!below)
                return NULL;
            for (uint32_t i = 0; i < 512; i++)
                below[i] = part + ((uint64_t)i << (shift - 9));
            *entry = hpa | EPT_RWX;
        }
        table = *entry & EPT_ADDRESS;
    }
    return entry_at(table, gpa1, 12);
}

bool ept01_set(uint64_t gpa1, uint64_t hpa, uint32_t access) {
    uint64_t *entry = ept01_fill(gpa1) ? split(gpa1, EPT01_OF_L2) : NULL;

    if (!entry)
        return false;
    *entry = hpa | access | mtrr_type(hpa, 12) << EPT_TYPE_SHIFT;
    versions_forget(gpa1);
    return true;
}

bool ept01_split(uint64_t gpa1) {
    return ept01_fill(gpa1) && split(gpa1, 0);
}

uint64_t *ept01_small(uint64_t gpa1) {
    uint64_t table = ept01.root;

    for (uint32_t shift = 39; shift > 12; shift -= 9) {
        uint64_t entry = *entry_at(table, gpa1, shift);

        if (!entry || entry & EPT_LARGE)
            return NULL;
        table = entry & EPT_ADDRESS;
    }
    return entry_at(table, gpa1, 12);
}

uint64_t ept01_hpa(uint64_t gpa1) {
    uint64_t table = ept01.root;

    for (uint32_t shift = 39;; shift -= 9) {
        uint64_t entry = *entry_at(table, gpa1, shift);

        if (!entry)
            return NVMX_NO_ADDRESS;
        table = entry & EPT_ADDRESS;
        if (shift == 12 || entry & EPT_LARGE)
            return (table & ~((1ull << shift) - 1)) | (gpa1 & ((1ull << shift) - 1));
    }
}

void ept01_flush(void) {
    if (!vmx_has_ept(EPT_CAP_INVEPT_SINGLE) || !invept(INVEPT_SINGLE, ept01_pointer()))
        invept(INVEPT_ALL, 0);
}

static void fill_range(uint64_t start, uint64_t end) {
    while (start < end && start < ept01.end) {
        struct nvmx_ept01_mapping mapping;

        ept01_fill(start);
        ept01_find(start, &mapping);
        start = mapping.gpa1 + (1ull << mapping.size_shift);
    }
}

static void make_decoy(void) {
    uint64_t decoy;
    uint64_t *table;

    memset(page_get_or_die(&decoy, "ept01"), 0xff, PAGE_BYTES);
    table = page_get_or_die(&ept01.decoy_table, "ept01");
    for (uint32_t i = 0; i < 512; i++)
        table[i] = decoy | EPT_RWX | TYPE_WB << EPT_TYPE_SHIFT;
}

void ept01_init(void) {
    const struct memory_map *map = memory_map();
    uint32_t width = cpuid(0x80000008, 0).eax & 0xff;

    ept01.largest = vmx_has_ept(EPT_CAP_1G) ? 30 : vmx_has_ept(EPT_CAP_2M) ? 21 : 12;
    ept01.end = 1ull << (width < 48 ? width : 48);
    page_get_or_die(&ept01.root, "ept01");
    make_decoy();
    ept01_fill(0);
    ept01.first = *entry_at(ept01.root, 0, 39) & EPT_ADDRESS;
    fill_range(0, 4 * GIB);
    for (uint32_t i = 0; i < map->count; i++)
        if (map->region[i].type == MEMORY_RAM && map->region[i].end > 4 * GIB)
            fill_range(map->region[i].start & ~(PAGE_BYTES - 1), map->region[i].end);
}

uint64_t ept01_pointer(void) {
    return ept01.root | EPT_POINTER_WALK_4 | EPT_POINTER_WB | (versions_on() ? EPT_POINTER_AD : 0);
}

static inline __attribute__((always_inline)) enum nvmx_status find(uint64_t gpa1, struct nvmx_ept01_mapping *out, bool for_l2) {
    uint64_t table = gpa1 >> 39 ? ept01.root : ept01.first;

    if (gpa1 >= ept01.end)
        return NVMX_E_UNMAPPED;
    for (uint32_t shift = gpa1 >> 39 ? 39 : 30; shift >= 12; shift -= 9) {
        uint64_t *at = entry_at(table, gpa1, shift);
        uint64_t entry = *at;
        uint64_t inside = (1ull << shift) - 1;

        if (!(entry & EPT_RWX))
            return NVMX_E_UNMAPPED;
        table = entry & EPT_ADDRESS;
        if (shift > 12 && !(entry & EPT_LARGE))
            continue;
        if (shift == 12 && for_l2)
            versions_of_l2(at, gpa1);
        *out = (struct nvmx_ept01_mapping){
            .hpa = table & ~inside,
            .gpa1 = gpa1 & ~inside,
            .size_shift = shift,
            .access = entry & EPT_RWX, /* the bits of NVMX_ACCESS_ */
            .memory_type = entry >> EPT_TYPE_SHIFT & 7,
        };
        return NVMX_OK;
    }
    return NVMX_E_UNMAPPED;
}

enum nvmx_status ept01_find(uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    return find(gpa1, out, false);
}

enum nvmx_status ept01_find_for_l2(uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    return find(gpa1, out, true);
}
