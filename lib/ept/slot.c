/* SPDX-License-Identifier: MIT */
/*
 * How entries of ept02 change while several processors, and the CPUs' own page walks, use them.
 *
 * A slot is empty (0), present (it has a right), or claimed by an operation, its owner: a value without rights, so the CPU sees an entry that is not
 * present. (In a table of vectors of sub-page permissions it sees a misconfiguration, and exits as well; a CPU that does not look sees that nothing is
 * permitted.) Only the owner writes `composed` of a claimed slot, and only the owner ends the claim: by publishing an entry, or by emptying the slot.
 * Between claim and publication nothing is called, and the owner waits for nobody. Whoever meets a claimed slot has the access tried again; it waits for
 * nobody either. That claims of two operations look the same does no harm: who spoils the second one in the place of the first has it emptied, too.
 *
 *     empty or present --ept_slot_claim--> claimed --ept_slot_publish--> present
 *                  present --ept_slot_clear--> empty       claimed --ept_slot_clear--> claimed and spoilt --its owner--> empty
 *
 * What invalidates: nvmx_ept_invept raises root->wanted, nvmx_ept_memory_changed raises ept->changes, before slots are looked at. What fills: an
 * operation notes both before it reads anything, and compares them after it has claimed the slot. So either the one that fills sees that it is late, or the one
 * that invalidates sees the claim, and spoils it, or sees the entry, and compares it.
 *
 * Who takes a reference out of a slot owns the table below and discards it. As a table is never linked a second time, a slot that is read twice with the same
 * reference referred to it in between.
 */
#include "ept.h"

#define SPOILT (UINT64_C(1) << 9) /* of a claim; a reserved bit of a vector as well */

static bool swap(uint64_t *place, uint64_t old, uint64_t value) {
    return __atomic_compare_exchange_n(place, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* What the operation read is out of date. */
static bool late(const struct ept_op *op) {
    return __atomic_load_n(&op->ept->changes, __ATOMIC_SEQ_CST) != op->changes ||
           __atomic_load_n(&op->root->wanted, __ATOMIC_SEQ_CST) != op->wanted;
}

static void done_with(struct ept_table *table) {
    __atomic_fetch_add(&table->filled, 1, __ATOMIC_SEQ_CST);
}

/* End a claim without an entry. What was there before may still be in TLBs. */
static void give_up(struct ept_op *op, struct ept_table *table, unsigned int index) {
    ept_store(&table->hw[index], 0);
    done_with(table);
    if (op->announced) {
        ept_want_flush(op, op->root->eptp02);
    }
}

/* In this order: where the bit of a slot is set that of its word is, too, whoever has set it. Bits are never taken back. */
static inline void mark_used(struct ept_table *table, unsigned int index) {
    uint64_t bit = UINT64_C(1) << (index % 64);
    uint64_t *used = &table->used[index / 64 & 7];

    if ((ept_peek(used) & bit) == 0) {
        __atomic_fetch_or(&table->words, (uint8_t)(1u << (index / 64 & 7)), __ATOMIC_SEQ_CST);
        __atomic_fetch_or(used, bit, __ATOMIC_SEQ_CST);
    }
}

/* Before a slot is claimed: comparisons find it by this (invalidate.c). */
static inline void begin_to_fill(const struct ept_op *op, struct ept_table *table, unsigned int index) {
    mark_used(table, index);
    __atomic_store_n(&op->root->filled, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&table->filling, 1, __ATOMIC_SEQ_CST);
}

bool ept_slot_claim(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t old) {
    if (ept_is_claimed(old)) {
        return false;
    }
    if (old != 0) {
        ept_announce(op);
    }
    begin_to_fill(op, table, index);
    if (swap(&table->hw[index], old, EPT_CLAIM)) {
        return true;
    }
    done_with(table);
    return false;
}

bool ept_slot_publish(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t hw, uint64_t composed) {
    if (!late(op)) {
        ept_poke(&table->composed[index], composed);
        if (swap(&table->hw[index], EPT_CLAIM, hw)) {
            done_with(table);
            return true;
        }
    }
    give_up(op, table, index);
    return false;
}

bool ept_slot_fill(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t hw, uint64_t composed) {
    begin_to_fill(op, table, index);
    if (!swap(&table->hw[index], 0, EPT_CLAIM)) {
        done_with(table);
        return false;
    }
    return ept_slot_publish(op, table, index, hw, composed);
}

/* Each turn of the loop but the last means that another processor has changed the slot. */
void ept_slot_clear(struct ept_op *op, struct ept_table *table, unsigned int index) {
    for (;;) {
        uint64_t hw = __atomic_load_n(&table->hw[index], __ATOMIC_SEQ_CST);
        struct ept_table *child = NULL;

        if (hw == 0) {
            return;
        }
        ept_announce(op);
        ept_want_flush(op, op->root != NULL ? ept_peek(&op->root->eptp02) : EPT_FLUSH_ALL);
        if (ept_is_claimed(hw)) {
            if ((hw & SPOILT) != 0 || swap(&table->hw[index], hw, hw | SPOILT)) {
                return;
            }
            continue;
        }
        if (ept_is_reference(table->level, hw)) {
            child = ept_child(table, index, hw);
            if (child == NULL) {
                continue;
            }
        }
        if (swap(&table->hw[index], hw, 0)) {
            if (child != NULL) {
                ept_discard(op, child);
            }
            return;
        }
    }
}

void ept_table_clear(struct ept_op *op, struct ept_table *table) {
    struct ept_slots slots = ept_slots_of(table);

    for (unsigned int i = ept_slots_next(&slots); i < 512; i = ept_slots_next(&slots)) {
        ept_slot_clear(op, table, i);
    }
}

void ept_slot_protect(struct ept_op *op, struct ept_table *table, unsigned int index) {
    for (;;) {
        uint64_t hw = __atomic_load_n(&table->hw[index], __ATOMIC_SEQ_CST);

        if (!ept_is_present(hw)) {
            ept_slot_clear(op, table, index); /* empty, or claimed for what is out of date now */
            return;
        }
        if (ept_is_reference(table->level, hw) || (hw & EPT_WRITES) == 0) {
            return;
        }
        ept_announce(op);
        ept_want_flush(op, op->root != NULL ? ept_peek(&op->root->eptp02) : EPT_FLUSH_ALL);
        if (swap(&table->hw[index], hw, hw & ~EPT_WRITES)) {
            return;
        }
    }
}

static void widen(struct ept_table *table, uint64_t first, uint64_t last) {
    uint64_t now = ept_peek(&table->first);

    while (first < now && !__atomic_compare_exchange_n(&table->first, &now, first, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    now = ept_peek(&table->last);
    while (last > now && !__atomic_compare_exchange_n(&table->last, &now, last, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
}

/* Beginning above, so that at any time the bounds of a table lie within those of all tables above it. */
static void widen_path(struct ept_table *table, uint64_t first, uint64_t last) {
    struct ept_table *path[5];
    unsigned int count = 0;

    for (; table != NULL && count < 5; table = table->parent) {
        path[count++] = table;
    }
    while (count != 0) {
        widen(path[--count], first, last);
    }
}

void ept_table_stamp(const struct ept_op *op, struct ept_table *table) {
    do {
        ept_poke(&table->stamp, op->stamp);
        table = table->parent;
    } while (table != NULL);
}

/* Bounds may be too wide: with all that the table can map they rarely have to be widened for the next page. */
void ept_table_use(const struct ept_op *op, struct ept_table *table, uint64_t first, uint64_t last) {
    ept_table_stamp(op, table);
    if (first < __atomic_load_n(&table->first, __ATOMIC_SEQ_CST) || last > __atomic_load_n(&table->last, __ATOMIC_SEQ_CST)) {
        uint64_t inside = ept_level_bytes(table->level == 1 ? 2 : 3) - 1;

        widen_path(table, first & ~inside, last | inside);
    }
}

/* -- the tree
 * -------------------------------------------------------------------------------------------------------------------- */

static void tree_enter(struct ept_tree *tree, struct ept_table *table) {
    tree->table[tree->depth] = table;
    tree->slots[tree->depth] = table->level > 1 ? ept_slots_of(table) : (struct ept_slots){0};
}

void ept_tree_start(struct ept_tree *tree, struct ept_op *op, struct ept_table *top, uint64_t first, uint64_t last) {
    tree->op = op;
    tree->first = first;
    tree->last = last;
    tree->depth = 0;
    tree_enter(tree, top);
}

static bool leads_to(const struct ept_table *table, uint64_t first, uint64_t last) {
    return __atomic_load_n(&table->first, __ATOMIC_SEQ_CST) <= last && __atomic_load_n(&table->last, __ATOMIC_SEQ_CST) >= first;
}

/*
 * The table to which a slot leads, or NULL. Who has claimed the slot may be about to refer to the same table again (map.c), with all that hangs below it, and
 * is not late if it began after the change: the claim is spoilt. Each turn of the loop but the last means that another processor has changed the slot.
 */
static struct ept_table *tree_child(const struct ept_tree *tree, struct ept_table *table, unsigned int index) {
    for (;;) {
        uint64_t hw = ept_load(&table->hw[index]);

        if (ept_is_claimed(hw)) {
            ept_slot_clear(tree->op, table, index);
            return NULL;
        }
        if (!ept_is_reference(table->level, hw)) {
            return NULL;
        }
        struct ept_table *child = ept_child(table, index, hw);
        if (child != NULL) {
            return child;
        }
    }
}

struct ept_table *ept_tree_next(struct ept_tree *tree) {
    for (;;) {
        struct ept_table *table = tree->table[tree->depth];
        unsigned int index = ept_slots_next(&tree->slots[tree->depth]);

        if (index >= 512) {
            if (tree->depth == 0) {
                return NULL;
            }
            tree->depth--;
            continue;
        }
        struct ept_table *child = tree_child(tree, table, index);
        if (child != NULL && leads_to(child, tree->first, tree->last)) {
            tree->depth++;
            tree_enter(tree, child);
            return child;
        }
    }
}
