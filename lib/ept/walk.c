/* SPDX-License-Identifier: MIT */
/* The walk of ept12: what the SDM says an EPTP and an entry mean, and reading the entries out of L1's memory. */
#include "ept.h"

/* IA32_VMX_EPT_VPID_CAP (SDM A.10). */
static bool ept_cap(const struct nvmx_caps *caps, unsigned int bit) {
    return (caps->msr[NVMX_CAP_EPT_VPID] >> bit & 1) != 0;
}

/* Bits `from`:MAXPHYADDR. */
static uint64_t beyond_width(const struct nvmx_caps *caps, unsigned int from) {
    unsigned int width = caps->physical_address_bits;
    return width > from ? 0 : ~UINT64_C(0) << width & ((UINT64_C(2) << from) - 1);
}

uint64_t ept_reserved_address(const struct nvmx_caps *l1) {
    return beyond_width(l1, 51);
}

bool nvmx_eptp_valid(const struct nvmx_caps *caps, uint64_t eptp) {
    uint64_t memory_type = eptp & 7;
    uint64_t length = eptp >> 3 & 7;

    if (!(memory_type == 0 && ept_cap(caps, EPT_CAP_UC)) && !(memory_type == 6 && ept_cap(caps, EPT_CAP_WB))) {
        return false;
    }
    if (!(length == 3 && ept_cap(caps, EPT_CAP_4_LEVEL)) && !(length == 4 && ept_cap(caps, EPT_CAP_5_LEVEL))) {
        return false;
    }
    if ((eptp & NVMX_EPTP_AD) != 0 && !ept_cap(caps, EPT_CAP_AD)) {
        return false;
    }
    if ((eptp & EPTP_SHADOW_STACK) != 0 && !ept_cap(caps, EPT_CAP_SHADOW_STACK)) {
        return false;
    }
    return (eptp & 0xf00) == 0 && (eptp & beyond_width(caps, 63)) == 0;
}

static bool is_leaf(unsigned int level, uint64_t entry) {
    return level == 1 || (level <= 3 && (entry & NVMX_EPT_LARGE) != 0);
}

static bool access_bits_misconfigured(const struct nvmx_caps *caps, uint64_t entry, bool mbec) {
    uint64_t fetch = NVMX_EPT_EXECUTE | (mbec ? NVMX_EPT_USER_EXECUTE : 0);

    if ((entry & NVMX_EPT_READ) != 0) {
        return false;
    }
    return (entry & NVMX_EPT_WRITE) != 0 || ((entry & fetch) != 0 && !ept_cap(caps, EPT_CAP_EXECUTE_ONLY));
}

static bool leaf_misconfigured(const struct nvmx_caps *caps, unsigned int level, uint64_t entry) {
    uint64_t memory_type = entry >> 3 & 7;

    if (memory_type == 2 || memory_type == 3 || memory_type == 7) {
        return true;
    }
    if ((level == 2 && !ept_cap(caps, EPT_CAP_2M)) || (level == 3 && !ept_cap(caps, EPT_CAP_1G))) {
        return true;
    }
    return (entry & (ept_level_bytes(level) - NVMX_PAGE_SIZE)) !=
           0; /* address bits below the page's alignment are reserved */
}

enum nvmx_ept_entry nvmx_ept_classify(const struct nvmx_caps *caps, unsigned int level, uint64_t entry, bool mbec) {
    uint64_t present = NVMX_EPT_READ | NVMX_EPT_WRITE | NVMX_EPT_EXECUTE | (mbec ? NVMX_EPT_USER_EXECUTE : 0);
    bool leaf = is_leaf(level, entry);

    if ((entry & present) == 0) {
        return NVMX_EPT_NOT_PRESENT;
    }
    if (access_bits_misconfigured(caps, entry, mbec) || (entry & beyond_width(caps, 51)) != 0) {
        return NVMX_EPT_MISCONFIG;
    }
    if (leaf) {
        return leaf_misconfigured(caps, level, entry) ? NVMX_EPT_MISCONFIG : NVMX_EPT_LEAF;
    }
    return (entry & 0xf8) != 0 ? NVMX_EPT_MISCONFIG : NVMX_EPT_TABLE; /* bits 7:3 of an entry that refers to a table */
}

/*
 * An entry of L1's table, read once; with a leaf, those behind it that are wanted. A place without memory reads as an empty bus does,
 * which no classification accepts.
 */
static uint64_t read_entry(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, unsigned int level, unsigned int index) {
    uint64_t hpa;
    uint64_t *page = ept->host.map_page(vcpu_ctx, walk->table[level], NVMX_ACCESS_READ, &hpa);
    uint64_t entry;

    if (page == NULL) {
        return ~UINT64_C(0);
    }
    entry = ept_load(&page[index]);
    if (walk->ahead_want != 0 && is_leaf(level, entry)) {
        unsigned int count = 511 - index < walk->ahead_want ? 511 - index : walk->ahead_want;

        for (unsigned int i = 0; i < count; i++) {
            walk->ahead[i] = ept_load(&page[index + 1 + i]);
        }
        walk->ahead_count = count;
    }
    ept->host.unmap_page(vcpu_ctx, walk->table[level], page, false);
    return entry;
}

void ept_walk_start(struct ept_walk *walk, uint64_t eptp12, bool mbec) {
    unsigned int levels = ept_eptp_levels(eptp12);

    walk->start = NULL;
    walk->gpa1 = 0;
    walk->dirtied = false;
    walk->ahead_want = 0;
    walk->ahead_count = 0;
    walk->from = levels;
    walk->five_levels = levels == 5;
    walk->table[levels] = eptp12 & EPT_ADDRESS;
    walk->rights = EPT_RWX | (mbec ? NVMX_EPT_USER_EXECUTE : 0);
    walk->mbec = mbec;
    walk->ad = (eptp12 & NVMX_EPTP_AD) != 0;
    walk->shadow_stack = (eptp12 & EPTP_SHADOW_STACK) != 0;
    walk->spp = false;
}

void ept_walk_run(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2) {
    walk->result = NVMX_EPT_NOT_PRESENT;
    /* SDM 31.3.2: bits that the walk does not index with must be 0, else an EPT violation. */
    walk->level = walk->from;
    if (!walk->five_levels && gpa2 >> 48 != 0) {
        walk->entry[walk->level] = 0;
        walk->rights = 0;
        return;
    }
    for (unsigned int level = walk->from; level >= 1; level--) {
        uint64_t entry = read_entry(ept, vcpu_ctx, walk, level, ept_index(gpa2, level));

        walk->level = level;
        walk->entry[level] = entry;
        walk->result = nvmx_ept_classify(&ept->l1, level, entry, walk->mbec);
        walk->above = walk->rights;
        if (walk->result == NVMX_EPT_NOT_PRESENT) {
            walk->rights = 0;
        } else {
            walk->rights &= entry;
        }
        if (walk->result != NVMX_EPT_TABLE) {
            break;
        }
        walk->table[level - 1] = entry & EPT_ADDRESS;
    }
    if (walk->result == NVMX_EPT_LEAF) {
        uint64_t offset = ept_level_bytes(walk->level) - 1;
        walk->gpa1 = (walk->entry[walk->level] & EPT_ADDRESS & ~offset) | (gpa2 & offset);
        if (walk->shadow_stack && (walk->above & NVMX_EPT_WRITE) != 0) {
            walk->rights |= walk->entry[walk->level] & NVMX_EPT_SHADOW_STACK;
        }
        /* SDM 31.3.4: where the right to write is there, or the one to read is not, the bit means nothing. */
        if (walk->spp && walk->level == 1 && (walk->rights & (NVMX_EPT_READ | NVMX_EPT_WRITE)) == NVMX_EPT_READ) {
            walk->rights |= walk->entry[1] & NVMX_EPT_SUB_PAGE;
        }
    }
}

/*
 * Set `flags` in one entry of L1. False: the entry is no longer what was read. Flags that others set meanwhile don't
 * count: another processor, or this walk itself where L1's tables lead to the same entry at two levels.
 */
static bool set_entry_flags(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, unsigned int level,
                            unsigned int index, uint64_t flags) {
    uint64_t hpa;
    uint64_t now = walk->entry[level];
    uint64_t *page = ept->host.map_page(vcpu_ctx, walk->table[level], NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &hpa);
    bool set = false;

    /* L1 keeps the table in memory that can't be written: there the CPU's write is lost as well. What is made of the entry stands until INVEPT. */
    if (page == NULL) {
        walk->entry[level] |= flags;
        return true;
    }
    for (unsigned int attempt = 0; attempt < 3 && !set && ((now ^ walk->entry[level]) & ~EPT_AD) == 0; attempt++) {
        set = __atomic_compare_exchange_n(&page[index], &now, now | flags, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    ept->host.unmap_page(vcpu_ctx, walk->table[level], page, set);
    if (set) {
        walk->dirtied = walk->dirtied || (flags & ~now & NVMX_EPT_DIRTY) != 0;
        walk->entry[level] = now | flags;
    }
    return set;
}

/* The flags that the entry of this level gets. */
static uint64_t due_flags(const struct ept_walk *walk, unsigned int level, bool write) {
    return NVMX_EPT_ACCESSED | (level == walk->level && write ? NVMX_EPT_DIRTY : 0);
}

bool ept_walk_lacks_flags(const struct ept_walk *walk, bool write) {
    for (unsigned int level = walk->from; level >= walk->level; level--) {
        if ((due_flags(walk, level, write) & ~walk->entry[level]) != 0) {
            return true;
        }
    }
    return false;
}

bool ept_walk_set_flags(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2, bool write) {
    for (unsigned int level = walk->from; level >= walk->level; level--) {
        uint64_t flags = due_flags(walk, level, write);

        if ((walk->entry[level] & flags) != flags &&
            !set_entry_flags(ept, vcpu_ctx, walk, level, ept_index(gpa2, level), flags)) {
            return false;
        }
    }
    return true;
}
