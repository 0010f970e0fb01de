/* SPDX-License-Identifier: MIT */
/* Tables of ept02: their pages, the budget, and which of them make room. */
#include "ept.h"

/* -- pages
 * -------------------------------------------------------------------------------------------------------------------------
 */

static void free_page(struct nvmx_ept *ept, void *page, uint64_t hpa) {
    ept->host.page_free(ept->vm_ctx, page, hpa);
    __atomic_fetch_sub(&ept->pages, 1, __ATOMIC_RELAXED);
}

/* NULL: the budget is used up, or else *refused: the host has none. */
static void *take_page(struct nvmx_ept *ept, uint64_t *hpa, bool *refused) {
    uint32_t pages = __atomic_add_fetch(&ept->pages, 1, __ATOMIC_RELAXED);
    void *page = NULL;

    if (ept->page_budget == 0 || pages <= ept->page_budget) {
        page = ept->host.page_alloc(ept->vm_ctx, hpa);
        *refused = *refused || page == NULL;
    }
    if (page == NULL) {
        __atomic_fetch_sub(&ept->pages, 1, __ATOMIC_RELAXED);
    }
    return page;
}

/* -- tables
 * ------------------------------------------------------------------------------------------------------------------------ */

static void make_unused(struct nvmx_ept *ept, struct ept_table *table) {
    __atomic_store_n(&table->state, EPT_TABLE_UNUSED, __ATOMIC_RELAXED);
    table->next = ept->unused;
    ept->unused = table;
}

static struct ept_table *take_unused(struct nvmx_ept *ept) {
    ept_lock(ept);
    struct ept_table *table = ept->unused;
    if (table != NULL) {
        ept->unused = table->next;
        __atomic_store_n(&table->state, EPT_TABLE_SPARE, __ATOMIC_RELAXED);
    }
    ept_unlock(ept);
    return table;
}

static bool add_slab(struct nvmx_ept *ept, bool *refused) {
    uint64_t hpa;
    struct ept_slab *slab = take_page(ept, &hpa, refused);

    if (slab == NULL) {
        return false;
    }
    slab->hpa = hpa;
    ept_lock(ept);
    slab->next = ept->slabs;
    ept->slabs = slab;
    for (unsigned int i = 0; i < EPT_SLAB_TABLES; i++) {
        make_unused(ept, &slab->table[i]);
    }
    ept_unlock(ept);
    return true;
}

/* What the search for the oldest looks at is atomic also here: it may look at any struct at any time. */
static void reset(struct ept_table *table) {
    table->hw = NULL;
    table->composed = NULL;
    table->parent = NULL;
    table->gone = 0;
    ept_poke(&table->first, UINT64_MAX);
    ept_poke(&table->last, 0);
    ept_poke(&table->stamp, 0);
    table->digest = 0;
    table->digest_at = 0;
    table->version = 0;
    table->version_at = 0;
    table->filling = 0;
    table->filled = 0;
    table->words = 0;
    memset(table->used, 0, sizeof(table->used));
}

struct ept_table *ept_table_new(struct nvmx_ept *ept, bool *refused) {
    struct ept_table *table = take_unused(ept);

    if (table == NULL) {
        if (!add_slab(ept, refused)) {
            return NULL;
        }
        table = take_unused(ept);
    }
    if (table == NULL) {
        return NULL; /* other processors were faster */
    }
    reset(table);
    table->hw = take_page(ept, &table->hw_hpa, refused);
    if (table->hw != NULL) {
        table->composed = take_page(ept, &table->composed_hpa, refused);
    }
    if (table->composed == NULL) {
        ept_table_free(ept, table);
        return NULL;
    }
    return table;
}

void ept_table_free(struct nvmx_ept *ept, struct ept_table *table) {
    if (table->hw != NULL) {
        free_page(ept, table->hw, table->hw_hpa);
    }
    if (table->composed != NULL) {
        free_page(ept, table->composed, table->composed_hpa);
    }
    ept_lock(ept);
    make_unused(ept, table);
    ept_unlock(ept);
}

void ept_free_slabs(struct nvmx_ept *ept) {
    while (ept->slabs != NULL) {
        struct ept_slab *slab = ept->slabs;

        ept->slabs = slab->next;
        free_page(ept, slab, slab->hpa);
    }
    ept->unused = NULL;
    ept->hand = NULL;
}

/* -- going away
 * -------------------------------------------------------------------------------------------------------------------
 */

/* The epoch moves on where it can: see op.c. */
static void advance(struct nvmx_ept *ept) {
    for (unsigned int i = 0; i < 2; i++) {
        uint64_t epoch = ept->epoch;

        if (__atomic_load_n(&ept->active[(epoch + 1) & 1], __ATOMIC_SEQ_CST) != 0) {
            return;
        }
        __atomic_store_n(&ept->epoch, epoch + 1, __ATOMIC_SEQ_CST);
    }
}

/* Those that hung under a table nobody knows are known to nobody either. */
static void children_to_limbo(struct nvmx_ept *ept, struct ept_table *table) {
    struct ept_slots slots = table->level > 1 ? ept_slots_of(table) : (struct ept_slots){0};

    for (unsigned int i = ept_slots_next(&slots); i < 512; i = ept_slots_next(&slots)) {
        if (ept_is_reference(table->level, ept_load(&table->hw[i]))) {
            struct ept_table *child = (struct ept_table *)(uintptr_t)ept_load(&table->composed[i]);

            __atomic_store_n(&child->state, EPT_TABLE_GONE, __ATOMIC_RELAXED);
            child->gone = table->gone;
            child->next = ept->limbo;
            __atomic_store_n(&ept->limbo, child, __ATOMIC_RELAXED);
        }
    }
}

/* Out of limbo, with what hangs under it: a table that nobody knows. */
static struct ept_table *take_from_limbo(struct nvmx_ept *ept) {
    struct ept_table **place;
    struct ept_table *table;

    ept_lock(ept);
    advance(ept);
    for (place = &ept->limbo; *place != NULL && (*place)->gone + 2 > ept->epoch; place = &(*place)->next) {
    }
    table = *place;
    if (table != NULL) {
        __atomic_store_n(place, table->next, __ATOMIC_RELAXED);
        children_to_limbo(ept, table);
    }
    ept_unlock(ept);
    return table;
}

void ept_drain(struct nvmx_ept *ept) {
    for (;;) {
        struct ept_table *table = take_from_limbo(ept);

        if (table == NULL) {
            return;
        }
        ept_table_free(ept, table);
    }
}

/* -- room
 * -------------------------------------------------------------------------------------------------------------------------- */

#define VICTIMS    32u
#define SLABS_SEEN 64u /* the search is exact up to this number of slabs, then it takes the oldest of a part */

struct victims {
    struct ept_table *table[VICTIMS]; /* the oldest first */
    unsigned int count, most;
};

/* Of two that were used by the same operation the lower one goes first: it takes less along. */
static bool older(const struct ept_table *a, const struct ept_table *b) {
    uint64_t stamp_a = ept_peek(&a->stamp);
    uint64_t stamp_b = ept_peek(&b->stamp);

    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the first `count` victims are set */
    return stamp_a < stamp_b || (stamp_a == stamp_b && a->level < b->level);
}

static void consider(struct victims *victims, struct ept_table *table) {
    unsigned int at = victims->count;

    if (at == victims->most) {
        if (!older(table, victims->table[at - 1])) {
            return;
        }
        at--;
    } else {
        victims->count++;
    }
    for (; at > 0 && older(table, victims->table[at - 1]); at--) {
        victims->table[at] = victims->table[at - 1];
    }
    victims->table[at] = table;
}

/* Under the lock. What is LINKED now has a parent whose pages are not freed before the lock is released. */
static void find_oldest(struct nvmx_ept *ept, struct victims *victims, uint64_t keep) {
    struct ept_slab *slab = ept->hand != NULL ? ept->hand : ept->slabs;
    struct ept_slab *first = slab;

    for (unsigned int i = 0; i < SLABS_SEEN && slab != NULL; i++) {
        for (unsigned int k = 0; k < EPT_SLAB_TABLES; k++) {
            struct ept_table *table = &slab->table[k];

            if (__atomic_load_n(&table->state, __ATOMIC_ACQUIRE) == EPT_TABLE_LINKED && ept_peek(&table->stamp) != keep) {
                consider(victims, table);
            }
        }
        slab = slab->next != NULL ? slab->next : ept->slabs;
        if (slab == first) {
            break;
        }
    }
    ept->hand = slab;
}

static bool unlink_oldest(struct ept_op *op, uint64_t keep) {
    uint32_t batch = 1 + __atomic_load_n(&op->ept->pages, __ATOMIC_RELAXED) / 64; /* a batch, since it costs a flush */
    struct victims victims = {.most = batch < VICTIMS ? batch : VICTIMS};
    bool found = false;

    find_oldest(op->ept, &victims, keep);
    for (unsigned int i = 0; i < victims.count; i++) {
        struct ept_table *table = victims.table[i];
        struct ept_table *parent = table->parent;
        uint64_t hw = ept_load(&parent->hw[table->index]);

        if (ept_is_reference(parent->level, hw) && (hw & EPT_ADDRESS) == table->hw_hpa) {
            ept_slot_clear(op, parent, table->index);
            found = true;
        }
    }
    return found;
}

bool ept_make_room(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t keep) {
    struct ept_op op;
    bool found;

    ept_begin(&op, ept, vcpu_ctx, NULL);
    ept_lock(ept);
    found = ept->limbo != NULL || unlink_oldest(&op, keep);
    if (!found) {
        struct ept_tops tops = ept_root_retire(ept, keep);

        found = tops.ept != NULL;
        ept_discard_tops(&op, &tops);
    }
    ept_unlock(ept);
    ept_end(&op);
    return found;
}
