/* SPDX-License-Identifier: MIT */
/*
 * The short way through an EPT violation, for what nearly all of them are: L2 touches a page for the first time, ept02 has the tables that lead
 * there, and ept12 and ept01 grant the page for every access, with no flag to set. So what the access was does not matter.
 *
 * It does what the long way (fault.c) does with such a violation, step by step, and decides nothing else: whatever is out of the ordinary it leaves
 * as it was. A slot that is not empty is out of the ordinary, so a page that L2 can't use although it is mapped always gets to the long way.
 *
 * The table to which the last violation led is remembered. Nothing keeps it from being freed between two operations; but what is freed was discarded
 * before, and counted in ept->discards after it was unlinked. An operation that finds the count as it was before the table was reached by a walk is in
 * its epoch since before the table can have been put into limbo, and so the table stays as long as the operation runs (op.c). It may be unlinked
 * meanwhile all the same, as for any operation that walks.
 */
#include "ept.h"

#define TYPE_WB    6u
#define TYPE_BITS  (UINT64_C(7) << 3)
#define WRITE_BACK ((uint64_t)TYPE_WB << 3)
#define ACCESS_ALL (NVMX_ACCESS_READ | NVMX_ACCESS_WRITE | NVMX_ACCESS_EXECUTE)

/* Every right that there is, write-back memory, and of the flags what makes that the CPU has none to set. */
void ept_short_init(struct ept_plain *plain, const struct nvmx_caps *l1, uint64_t eptp12, bool mbec) {
    bool ad = (eptp12 & NVMX_EPTP_AD) != 0;
    uint64_t rights = EPT_RWX | (mbec ? NVMX_EPT_USER_EXECUTE : 0);

    plain->all = (eptp12 & EPTP_SHADOW_STACK) != 0 ? 0 : rights | (ad ? NVMX_EPT_ACCESSED : 0);
    plain->leaf = rights | WRITE_BACK | (ad ? EPT_AD : 0);
    plain->leaf_mask = plain->leaf | TYPE_BITS | ept_reserved_address(l1);
    plain->hw = plain->leaf;
}

/* -- sequences
 * ------------------------------------------------------------------------------------------------------------------ */

/* A sequence of violations has pages mapped ahead of it, by the long way: this one goes on with it, or its window is not closed yet. */
static inline bool in_sequence(const struct ept_stream *stream, uint64_t gpa2) {
    uint64_t shift = ept_peek(&stream->shift) & 63;

    return ept_peek(&stream->pause) == 0 &&
           (ept_peek(&stream->window) > 1 || (shift != 0 && gpa2 >> shift == ept_peek(&stream->expected)));
}

/* Of 4-KByte pages: they are often parts of one mapping. */
static inline bool in_small_sequence(const struct ept_stream *stream, uint64_t gpa2) {
    return ept_peek(&stream->shift) == 12 && in_sequence(stream, gpa2);
}

static inline void note_in_sequence(struct ept_stream *stream, uint64_t gpa2, unsigned int shift) {
    uint64_t pause = ept_peek(&stream->pause);

    if (pause != 0) {
        ept_poke(&stream->pause, pause - 1);
    } else {
        ept_poke(&stream->window, 0);
    }
    ept_poke(&stream->shift, shift);
    ept_poke(&stream->expected, (gpa2 >> shift) + 1);
}

/* -- the table
 * ------------------------------------------------------------------------------------------------------------------ */

static inline void remember(struct ept_last *last, struct ept_table *table, uint64_t gpa2, uint64_t discards) {
    if (__atomic_load_n(&last->table, __ATOMIC_RELAXED) == table && ept_peek(&last->discards) == discards) {
        return;
    }
    if (__atomic_exchange_n(&last->busy, 1, __ATOMIC_SEQ_CST) != 0) {
        return;
    }
    __atomic_store_n(&last->table, NULL, __ATOMIC_SEQ_CST);
    ept_store(&last->discards, discards);
    ept_store(&last->gpa2, gpa2 & ~(ept_level_bytes(table->level + 1u) - 1));
    __atomic_store_n(&last->table, table, __ATOMIC_SEQ_CST);
    __atomic_store_n(&last->busy, 0, __ATOMIC_RELEASE);
}

static inline struct ept_table *remembered(const struct ept_last *last, uint64_t gpa2, uint64_t discards) {
    struct ept_table *table = __atomic_load_n(&last->table, __ATOMIC_ACQUIRE);

    if (table == NULL || ept_load(&last->discards) != discards) {
        return NULL;
    }
    uint64_t first = ept_load(&last->gpa2);
    if (__atomic_load_n(&last->table, __ATOMIC_ACQUIRE) != table) {
        return NULL;
    }
    return (gpa2 ^ first) >> ept_level_shift(table->level + 1u) == 0 ? table : NULL;
}

/* From the root to where ept02 has an empty slot on the way to gpa2, if all above it is plain. NULL: there is another way to it, or none. */
static struct ept_table *walk_to_last(struct ept_table *table, uint64_t plain, uint64_t gpa2) {
    uint64_t common = plain;

    for (unsigned int shift = ept_level_shift(table->level);; shift -= 9) {
        uint64_t at = gpa2 >> shift & 511;
        const uint64_t *slot = &table->hw[at];
        uint64_t hw = ept_load(slot);

        if (hw == 0) {
            return common == plain && table->gpa1 != NVMX_NO_ADDRESS ? table : NULL;
        }
        /* A slot that is being filled, or a leaf. */
        if (!ept_is_present(hw) || (hw & NVMX_EPT_LARGE) != 0 || shift == 12) {
            return NULL;
        }
        table = (struct ept_table *)(uintptr_t)ept_load(&table->composed[at]);
        if (ept_load(slot) != hw) {
            return NULL;
        }
        common &= ept_peek(&table->entry12);
    }
}

/* Where gpa2 has an empty slot. */
static inline struct ept_table *last_table(struct ept_root *root, uint64_t gpa2, uint64_t discards) {
    struct ept_table *table = remembered(&root->last, gpa2, discards);

    if (table != NULL && ept_load(&table->hw[ept_index(gpa2, table->level)]) == 0) {
        return table;
    }
    table = __atomic_load_n(&root->top, __ATOMIC_ACQUIRE);
    return table != NULL && root->plain.all != 0 && gpa2 >> 48 == 0 ? walk_to_last(table, root->plain.all, gpa2) : NULL;
}

/* -- the page
 * ------------------------------------------------------------------------------------------------------------------- */

/* A bit for each size that a mapping can have. */
#define SIZES (UINT64_C(1) << 12 | UINT64_C(1) << 21 | UINT64_C(1) << 30)

static inline bool is_plain_mapping(const struct nvmx_ept01_mapping *mapping, unsigned int shift, uint64_t gpa1) {
    uint64_t offset = (UINT64_C(1) << (mapping->size_shift & 63)) - 1;

    return mapping->size_shift >= shift && mapping->size_shift < 64 && (SIZES >> mapping->size_shift & 1) != 0 &&
           ((mapping->access ^ ACCESS_ALL) | (mapping->memory_type ^ TYPE_WB) | (uint32_t)mapping->ignore_pat) == 0 &&
           ((mapping->hpa & (offset | ~EPT_ADDRESS)) | (mapping->gpa1 ^ (gpa1 & ~offset))) == 0;
}

/* `level`: of the page, a constant. */
static inline __attribute__((always_inline)) enum ept_short map_plain(struct ept_op *op, struct ept_table *table, unsigned int level,
                                                                      struct ept_stream *stream, uint64_t gpa2, uint64_t entry,
                                                                      uint64_t discards, uint64_t *gpa1) {
    unsigned int shift = ept_level_shift(level);
    uint64_t inside = ept_level_bytes(level) - 1, first = entry & EPT_ADDRESS, large = level == 2 ? NVMX_EPT_LARGE : 0;
    const struct ept_plain *plain = &op->root->plain;
    struct nvmx_ept *ept = op->ept;
    struct nvmx_ept01_mapping mapping;

    *gpa1 = first | (gpa2 & inside);
    if ((entry & (plain->leaf_mask | large | (inside & EPT_ADDRESS))) != (plain->leaf | large) || (level == 2 && !ept->large_2m) ||
        ept->host.ept01_lookup(ept->vm_ctx, *gpa1, &mapping) != NVMX_OK ||
        !is_plain_mapping(&mapping, shift, *gpa1)) {
        return EPT_SHORT_NOT;
    }
    ept_table_use(op, table, first, first | inside);
    if (ept_slot_fill(op, table, ept_index(gpa2, level),
                      (mapping.hpa + (first - mapping.gpa1)) | plain->hw | large | (entry & EPT_IGNORE_PAT), entry)) {
        note_in_sequence(stream, gpa2, shift);
        remember(&op->root->last, table, gpa2, discards);
    }
    return EPT_SHORT_DONE;
}

static inline enum ept_short try_short(struct ept_op *op, void *vcpu_ctx, struct ept_stream *stream, uint64_t gpa2, uint64_t *gpa1) {
    struct nvmx_ept *ept = op->ept;
    uint64_t discards = __atomic_load_n(&ept->discards, __ATOMIC_SEQ_CST);
    struct ept_table *table = last_table(op->root, gpa2, discards);
    uint64_t hpa;

    uint64_t *page = table != NULL ? ept->host.map_page(vcpu_ctx, table->gpa1, NVMX_ACCESS_READ, &hpa) : NULL;
    if (page == NULL) {
        return EPT_SHORT_NOT;
    }
    uint64_t entry = ept_load(&page[ept_index(gpa2, table->level)]);
    ept->host.unmap_page(vcpu_ctx, table->gpa1, page, false);
    if ((entry & op->root->plain.all & EPT_RIGHTS) == 0) {
        return EPT_SHORT_ABSENT;
    }
    switch (table->level) {
    case 1:
        return map_plain(op, table, 1, stream, gpa2, entry, discards, gpa1);
    case 2:
        return map_plain(op, table, 2, stream, gpa2, entry, discards, gpa1);
    default:
        return EPT_SHORT_NOT;
    }
}

enum ept_short ept_fault_short(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root, uint64_t gpa2, uint64_t *gpa1) {
    struct ept_stream *stream = ept_stream_of(root, gpa2);
    enum ept_short result = EPT_SHORT_NOT;
    struct ept_op op;

    if (in_small_sequence(stream, gpa2)) {
        return EPT_SHORT_NOT;
    }
    ept_begin_filling(&op, ept, root);
    if (__atomic_load_n(&root->validated, __ATOMIC_ACQUIRE) == op.wanted) {
        result = try_short(&op, vcpu_ctx, stream, gpa2, gpa1);
    }
    ept_end_filling(&op);
    return result;
}
