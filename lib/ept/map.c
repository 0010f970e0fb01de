/* SPDX-License-Identifier: MIT */
/* Writing ept02: from the result of a walk of ept12 and a mapping of ept01 to an entry and the tables above it. */
#include "ept.h"

/*
 * Memory types (SDM 31.3.7.2). On L1's CPU the type in ept12 takes the MTRRs' place for L2. Under ept01 it has the
 * place that L1's PAT has for L1's own accesses: ept01's type in the role of the MTRR, ept12's in that of the PAT
 * (table "effective page-level memory types", SDM 13.5.2.2). So ept12 rules RAM (ept01: WB), and nothing that ept01
 * calls UC is ever cached. A type of ept01 that ignores the PAT is the host's own decision and stands alone.
 */
static const uint8_t combined_type[8][8] = {
    /*         UC      WC                      WT      WP      WB    ept12 */
    [0] = {[0] = 0, [1] = 1, [4] = 0, [5] = 0, [6] = 0}, /* ept01: UC */
    [1] = {[0] = 0, [1] = 1, [4] = 0, [5] = 0, [6] = 1}, /* WC */
    [4] = {[0] = 0, [1] = 1, [4] = 4, [5] = 5, [6] = 4}, /* WT */
    [5] = {[0] = 0, [1] = 1, [4] = 4, [5] = 5, [6] = 5}, /* WP */
    [6] = {[0] = 0, [1] = 1, [4] = 4, [5] = 5, [6] = 6}, /* WB */
};

static uint64_t type_bits(const struct nvmx_ept01_mapping *mapping, uint64_t leaf12) {
    if (mapping->ignore_pat) {
        return (uint64_t)(mapping->memory_type & 7) << 3 | EPT_IGNORE_PAT;
    }
    return (uint64_t)combined_type[mapping->memory_type & 7][leaf12 >> 3 & 7] << 3 | (leaf12 & EPT_IGNORE_PAT);
}

/* The largest page that both levels and the machine allow. */
static unsigned int leaf_level(const struct nvmx_ept *ept, const struct ept_walk *walk,
                               const struct nvmx_ept01_mapping *mapping) {
    uint64_t caps = ept->machine.msr[NVMX_CAP_EPT_VPID];
    unsigned int level = (mapping->size_shift - 12) / 9 + 1;

    level = level < walk->level ? level : walk->level;
    if (level == 3 && (caps >> EPT_CAP_1G & 1) == 0) {
        level = 2;
    }
    if (level == 2 && (caps >> EPT_CAP_2M & 1) == 0) {
        level = 1;
    }
    return level;
}

/* What ept12 says for the page of this level around the address walked; at the walk's own level and above: the entry
 * read. */
static uint64_t entry12_at(const struct ept_walk *walk, unsigned int level) {
    if (level >= walk->level) {
        return walk->entry[level];
    }
    return (walk->entry[walk->level] & ~EPT_ADDRESS) | (walk->gpa1 & EPT_ADDRESS & ~(ept_level_bytes(level) - 1));
}

/*
 * Does a linked table still stand for the same thing? A reference of ept12 may have got other rights, then only the
 * slot is rewritten; a split page must be the same in all but its flags. Flags are remembered once seen, so that a
 * comparison finds them when L1 clears them.
 */
static bool table_fits(struct nvmx_ept *ept, struct ept_table *table, uint64_t entry12, uint64_t gpa1,
                       uint64_t hw_flags) {
    uint64_t *slot = &table->parent->hw[table->index];
    uint64_t meaning = EPT_ADDRESS | 0xff | NVMX_EPT_USER_EXECUTE;

    if (table->gpa1 != gpa1 || (gpa1 == NVMX_NO_ADDRESS && ((table->entry12 ^ entry12) & meaning) != 0)) {
        return false;
    }
    if ((ept_load(slot) & ~hw_flags & EPT_RIGHTS) != 0) {
        ept_want_flush(ept, table->root);
    }
    table->entry12 = entry12 | (table->entry12 & EPT_AD);
    ept_store(slot, table->hw_hpa | hw_flags);
    return true;
}

/* The table of the next level below `parent`, made if need be. NULL: no memory. */
static struct ept_table *next_table(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_table *parent, uint64_t gpa2,
                                    const struct ept_walk *walk) {
    unsigned int level = parent->level;
    unsigned int index = ept_index(gpa2, level);
    bool split = level <= walk->level;
    uint64_t entry12 = entry12_at(walk, level);
    uint64_t gpa1 = split ? NVMX_NO_ADDRESS : walk->table[level - 1];
    uint64_t all = EPT_RWX | (walk->mbec ? NVMX_EPT_USER_EXECUTE : 0);
    uint64_t hw_flags = (split ? all : entry12 & all) | (walk->ad ? NVMX_EPT_ACCESSED : 0);
    struct ept_table *table;

    if (ept_is_reference(level, ept_load(&parent->hw[index]))) {
        table = ept_child(parent, index);
        if (table_fits(ept, table, entry12, gpa1, hw_flags)) {
            return table;
        }
    }
    ept_slot_clear(ept, parent, index);
    ept_table_use(ept, parent); /* so that making room does not take it */
    table = ept_table_new(ept, vcpu_ctx, level - 1);
    if (table != NULL) {
        table->gpa1 = gpa1;
        table->entry12 = entry12;
        ept_table_link(ept, parent, index, table, table->hw_hpa | hw_flags);
    }
    return table;
}

/* Rights that are only gained need no flush: an EPT violation drops the old translation by itself (SDM 31.4.3.1). */
static void write_leaf(struct nvmx_ept *ept, struct ept_table *table, unsigned int index, uint64_t hw,
                       uint64_t entry12) {
    uint64_t old = ept_load(&table->hw[index]);
    uint64_t first = entry12 & EPT_ADDRESS;
    uint64_t last = first + ept_level_bytes(table->level) - 1;

    if (ept_is_reference(table->level, old)) {
        ept_slot_clear(ept, table, index);
    } else if (old != 0 && (((old ^ hw) & ~(EPT_RIGHTS | EPT_AD)) != 0 || (old & ~hw & EPT_RIGHTS) != 0)) {
        ept_want_flush(ept, table->root);
    }
    table->composed[index] = entry12;
    table->leaf_first = first < table->leaf_first ? first : table->leaf_first;
    table->leaf_last = last > table->leaf_last ? last : table->leaf_last;
    ept_slot_store(table, index, hw);
}

enum nvmx_status ept_map(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root, uint64_t gpa2,
                         const struct ept_walk *walk, uint64_t rights, const struct nvmx_ept01_mapping *mapping,
                         bool *was_there) {
    unsigned int level = leaf_level(ept, walk, mapping);
    uint64_t gpa1 = walk->gpa1 & ~(ept_level_bytes(level) - 1);
    uint64_t hw = (mapping->hpa + (gpa1 - mapping->gpa1)) | rights | type_bits(mapping, walk->entry[walk->level]);
    struct ept_table *table = walk->start != NULL ? walk->start : root->top;

    hw |= (level > 1 ? NVMX_EPT_LARGE : 0) | (walk->ad ? EPT_AD : 0);
    while (table->level > level) {
        table = next_table(ept, vcpu_ctx, table, gpa2, walk);
        if (table == NULL) {
            return NVMX_E_NO_MEMORY;
        }
    }
    ept_table_use(ept, table);
    *was_there = ((table->hw[ept_index(gpa2, level)] ^ hw) & ~EPT_AD) == 0;
    write_leaf(ept, table, ept_index(gpa2, level), hw, entry12_at(walk, level));
    return NVMX_OK;
}
