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

uint64_t ept_common_rights(const struct nvmx_ept *ept, const struct ept_walk *walk, uint64_t rights12, uint64_t leaf12,
                           uint32_t access01, bool write) {
    uint64_t rights =
        rights12 & (EPT_RWX | NVMX_EPT_SHADOW_STACK | NVMX_EPT_SUB_PAGE | (walk->mbec ? NVMX_EPT_USER_EXECUTE : 0));

    if (walk->ad && !write && (leaf12 & NVMX_EPT_DIRTY) == 0) {
        rights &= ~EPT_WRITES; /* the first write has to come back here and set the dirty flag */
    }
    if ((access01 & NVMX_ACCESS_READ) == 0) {
        rights &= ~NVMX_EPT_READ;
    }
    if ((access01 & NVMX_ACCESS_WRITE) == 0 || (rights & NVMX_EPT_READ) == 0) {
        rights &= ~EPT_WRITES;
    }
    if ((access01 & NVMX_ACCESS_EXECUTE) == 0) {
        rights &= ~(NVMX_EPT_EXECUTE | NVMX_EPT_USER_EXECUTE);
    }
    if ((rights & NVMX_EPT_READ) == 0 && (ept->machine.msr[NVMX_CAP_EPT_VPID] >> EPT_CAP_EXECUTE_ONLY & 1) == 0) {
        rights = 0;
    }
    return rights;
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

/* Bits of the entry of a large page that its parts are made from. */
#define SPLIT_MEANING (EPT_ADDRESS | 0xff | NVMX_EPT_USER_EXECUTE | NVMX_EPT_SHADOW_STACK)

static struct ept_wanted wanted_below(const struct ept_walk *walk, unsigned int level) {
    bool split = level <= walk->level;
    uint64_t entry12 = entry12_at(walk, level);
    uint64_t all = EPT_RWX | (walk->mbec ? NVMX_EPT_USER_EXECUTE : 0);

    return (struct ept_wanted){
        .entry12 = entry12,
        .gpa1 = split ? NVMX_NO_ADDRESS : walk->table[level - 1],
        .hw_flags = (split ? all : entry12 & all) | (walk->ad ? NVMX_EPT_ACCESSED : 0),
    };
}

/* Does a linked table stand for what is wanted, but for rights and flags of the entry of ept12? */
static bool same_table(const struct ept_table *table, const struct ept_wanted *wanted) {
    return table->gpa1 == wanted->gpa1 &&
           (wanted->gpa1 != NVMX_NO_ADDRESS || ((ept_peek(&table->entry12) ^ wanted->entry12) & SPLIT_MEANING) == 0);
}

/* A reference of ept12 that has got other rights: only the slot is rewritten. */
static struct ept_table *refer_again(struct ept_op *op, struct ept_table *parent, unsigned int index, uint64_t hw,
                                     struct ept_table *table, const struct ept_wanted *wanted) {
    if (!ept_slot_claim(op, parent, index, hw)) {
        return NULL;
    }
    if ((hw & ~wanted->hw_flags & EPT_RIGHTS) != 0) {
        ept_want_flush(op, op->root->eptp02);
    }
    ept_poke(&table->entry12, wanted->entry12 | (ept_peek(&table->entry12) & EPT_AD));
    if (!ept_slot_publish(op, parent, index, table->hw_hpa | wanted->hw_flags, (uint64_t)(uintptr_t)table)) {
        ept_discard(op, table);
        return NULL;
    }
    return table;
}

struct ept_table *ept_link(struct ept_op *op, struct ept_table *parent, unsigned int index, uint64_t hw,
                           struct ept_table *old, const struct ept_wanted *wanted) {
    struct ept_table *table = ept_table_new(op->ept, &op->refused);

    if (table == NULL) {
        op->no_room = true;
        return NULL;
    }
    table->level = (uint8_t)(parent->level - 1);
    table->gpa1 = wanted->gpa1;
    ept_poke(&table->entry12, wanted->entry12);
    table->parent = parent;
    table->index = (uint16_t)index;
    if (!ept_slot_claim(op, parent, index, hw)) {
        ept_table_free(op->ept, table);
        return NULL;
    }
    if (old != NULL) {
        ept_discard(op, old);
    }
    if (hw != 0) {
        ept_want_flush(op, op->root->eptp02);
    }
    if (table->gpa1 != NVMX_NO_ADDRESS) {
        ept_table_use(op, table, table->gpa1, table->gpa1 + NVMX_PAGE_SIZE - 1);
    }
    __atomic_store_n(&table->state, EPT_TABLE_LINKED, __ATOMIC_RELEASE);
    if (!ept_slot_publish(op, parent, index, table->hw_hpa | wanted->hw_flags, (uint64_t)(uintptr_t)table)) {
        ept_table_free(op->ept, table);
        return NULL;
    }
    return table;
}

/* The table of the next level below `parent`, made if need be. NULL: op->no_room, or something changed. */
static struct ept_table *next_table(struct ept_op *op, struct ept_table *parent, uint64_t gpa2,
                                    const struct ept_walk *walk) {
    unsigned int index = ept_index(gpa2, parent->level);
    uint64_t hw = ept_load(&parent->hw[index]);
    struct ept_wanted wanted = wanted_below(walk, parent->level);
    struct ept_table *table = NULL;

    if (ept_is_reference(parent->level, hw)) {
        table = ept_child(parent, index, hw);
        if (table == NULL) {
            return NULL;
        }
        if (same_table(table, &wanted)) {
            /* Flags are remembered once seen, so that a comparison finds them when L1 clears them. */
            if ((wanted.entry12 & ~ept_peek(&table->entry12) & EPT_AD) != 0) {
                __atomic_fetch_or(&table->entry12, wanted.entry12 & EPT_AD, __ATOMIC_SEQ_CST);
            }
            return ((hw ^ wanted.hw_flags) & EPT_RIGHTS) == 0 ? table : refer_again(op, parent, index, hw, table, &wanted);
        }
    }
    return ept_link(op, parent, index, hw, table, &wanted);
}

/* -- leaves
 * ------------------------------------------------------------------------------------------------------------------------ */

#define LEAF_RIGHTS (EPT_RIGHTS | NVMX_EPT_SHADOW_STACK | NVMX_EPT_SUB_PAGE)

/* Rights that are only gained need no flush: an EPT violation drops the old translation by itself (SDM 31.4.3.1). */
static bool loses(unsigned int level, uint64_t old, uint64_t hw) {
    return ept_is_present(old) && (ept_is_reference(level, old) || ((old ^ hw) & ~(LEAF_RIGHTS | EPT_AD)) != 0 ||
                                   (old & ~hw & LEAF_RIGHTS) != 0);
}

static enum ept_mapped write_leaf(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t hw,
                                  uint64_t entry12) {
    uint64_t old = ept_load(&table->hw[index]);
    struct ept_table *child = NULL;

    if (ept_is_reference(table->level, old)) {
        child = ept_child(table, index, old);
        if (child == NULL) {
            return EPT_MAPPED_NOT;
        }
    }
    if (!ept_slot_claim(op, table, index, old)) {
        return EPT_MAPPED_NOT;
    }
    if (child != NULL) {
        ept_discard(op, child);
    }
    if (loses(table->level, old, hw)) {
        ept_want_flush(op, op->root->eptp02);
    }
    if (!ept_slot_publish(op, table, index, hw, entry12)) {
        return EPT_MAPPED_NOT;
    }
    return ((old ^ hw) & ~EPT_AD) == 0 ? EPT_MAPPED_ALREADY : EPT_MAPPED;
}

/* -- pages ahead
 * -------------------------------------------------------------------------------------------------------------------- */

#define STREAM_PAUSE 16u

/* What other processors do to the same stream meanwhile can only make it guess wrong. */
unsigned int ept_stream_window(struct ept_root *root, uint64_t gpa2) {
    struct ept_stream *stream = ept_stream_of(root, gpa2);
    uint64_t shift = ept_peek(&stream->shift) & 63;
    uint64_t pause = ept_peek(&stream->pause);
    uint64_t before = ept_peek(&stream->window);
    uint64_t window = before / 2;

    if (pause != 0) {
        ept_poke(&stream->pause, pause - 1);
        return 0;
    }
    if (shift != 0 && gpa2 >> shift == ept_peek(&stream->expected)) {
        window = before == 0 ? 2 : 2 * before;
        window = window < EPT_AHEAD_MAX ? window : EPT_AHEAD_MAX;
    }
    ept_poke(&stream->window, window);
    return (unsigned int)window;
}

/* `in_vain`: pages ahead were wanted, and none could be mapped. */
static void stream_mapped(struct ept_root *root, uint64_t gpa2, unsigned int level, unsigned int ahead, bool in_vain) {
    struct ept_stream *stream = ept_stream_of(root, gpa2);

    if (in_vain) {
        ept_poke(&stream->window, 0);
        ept_poke(&stream->pause, STREAM_PAUSE);
    }
    ept_poke(&stream->shift, ept_level_shift(level));
    ept_poke(&stream->expected, (gpa2 >> ept_level_shift(level)) + 1 + ahead);
}

/*
 * Map pages behind the one that was asked for: those whose entries of ept12 were read with it, in the same mapping of ept01. Only what the
 * CPU could do by itself without a visible trace: no flag of ept12 is set.
 */
static unsigned int map_ahead(struct ept_op *op, struct ept_table *table, unsigned int index, const struct ept_walk *walk,
                              const struct nvmx_ept01_mapping *mapping) {
    unsigned int level = table->level;
    uint64_t size = ept_level_bytes(level);
    unsigned int n;

    for (n = 0; n < walk->ahead_count; n++) {
        uint64_t entry12 = walk->ahead[n];
        uint64_t gpa1 = entry12 & EPT_ADDRESS;
        uint64_t rights = ept_common_rights(op->ept, walk, walk->above & entry12, entry12, mapping->access, false);

        if (nvmx_ept_classify(&op->ept->l1, level, entry12, walk->mbec) != NVMX_EPT_LEAF || rights == 0 ||
            (walk->ad && (entry12 & NVMX_EPT_ACCESSED) == 0) || (gpa1 ^ mapping->gpa1) >> mapping->size_shift != 0 ||
            ept_load(&table->hw[index + 1 + n]) != 0) {
            break;
        }
        ept_table_use(op, table, gpa1, gpa1 + size - 1);
        if (write_leaf(op, table, index + 1 + n,
                       (mapping->hpa + (gpa1 - mapping->gpa1)) | rights | type_bits(mapping, entry12) |
                           (level > 1 ? NVMX_EPT_LARGE : 0) | (walk->ad ? EPT_AD : 0),
                       entry12) != EPT_MAPPED) {
            break;
        }
    }
    return n;
}

enum ept_mapped ept_map(struct ept_op *op, uint64_t gpa2, const struct ept_walk *walk, uint64_t rights,
                        const struct nvmx_ept01_mapping *mapping) {
    unsigned int level = leaf_level(op->ept, walk, mapping);
    unsigned int index = ept_index(gpa2, level);
    uint64_t gpa1 = walk->gpa1 & ~(ept_level_bytes(level) - 1);
    uint64_t hw = (mapping->hpa + (gpa1 - mapping->gpa1)) | rights | type_bits(mapping, walk->entry[walk->level]);
    struct ept_table *table = walk->start;
    enum ept_mapped mapped;

    hw |= (level > 1 ? NVMX_EPT_LARGE : 0) | (walk->ad ? EPT_AD : 0);
    while (table->level > level) {
        struct ept_table *next = next_table(op, table, gpa2, walk);

        if (next == NULL) {
            ept_table_stamp(op, table); /* so that making room does not take it */
            return op->no_room ? EPT_MAPPED_NO_ROOM : EPT_MAPPED_NOT;
        }
        table = next;
    }
    ept_table_use(op, table, gpa1, gpa1 + ept_level_bytes(level) - 1);
    mapped = write_leaf(op, table, index, hw, entry12_at(walk, level));
    if (mapped == EPT_MAPPED) {
        bool try_ahead = level == walk->level && walk->ahead_count != 0;
        unsigned int ahead = try_ahead ? map_ahead(op, table, index, walk, mapping) : 0;

        stream_mapped(op->root, gpa2, level, ahead, walk->ahead_count != 0 && ahead == 0);
    }
    return mapped;
}

/* Is a leaf of ept02 what the walk says, or less? */
static bool follows(const struct ept_walk *walk, unsigned int level, uint64_t hw, uint64_t composed) {
    return walk->result == NVMX_EPT_LEAF && level <= walk->level && (hw & EPT_RIGHTS & ~walk->rights) == 0 &&
           ((composed ^ entry12_at(walk, level)) & ~EPT_AD) == 0;
}

void ept_unmap(struct ept_op *op, uint64_t gpa2, const struct ept_walk *walk) {
    struct ept_table *table = __atomic_load_n(&op->root->top, __ATOMIC_ACQUIRE);

    while (table != NULL) {
        unsigned int index = ept_index(gpa2, table->level);
        uint64_t hw = ept_load(&table->hw[index]);

        if (!ept_is_reference(table->level, hw)) {
            if (walk == NULL || !follows(walk, table->level, hw, ept_peek(&table->composed[index]))) {
                ept_slot_clear(op, table, index);
            }
            return;
        }
        table = ept_child(table, index, hw);
    }
}

void ept_violation_told(struct ept_op *op, uint64_t eptp12, uint64_t gpa2, const struct ept_walk *walk) {
    struct nvmx_ept *ept = op->ept;
    struct ept_root *own = op->root;
    uint32_t end = __atomic_load_n(&ept->root_end, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < end; i++) {
        uint64_t key = __atomic_load_n(&ept->root[i].key, __ATOMIC_SEQ_CST);

        if (key != 0 && ((key ^ eptp12) & EPT_ADDRESS) == 0) {
            op->root = &ept->root[i]; /* its translations are to be flushed */
            ept_unmap(op, gpa2, walk);
        }
    }
    op->root = own;
}
