/* SPDX-License-Identifier: MIT */
/*
 * Tables of ept02: their pages, their order by use, and how they go away.
 *
 * A table goes away in three steps, never fewer: unlinked (garbage), flushed, freed. ept_settle makes the last two.
 */
#include "ept.h"

/* -- order by use
 * ----------------------------------------------------------------------------------------------------------------- */

static void order_remove(struct nvmx_ept *ept, struct ept_table *table) {
    if (table->newer != NULL) {
        table->newer->older = table->older;
    } else {
        ept->newest = table->older;
    }
    if (table->older != NULL) {
        table->older->newer = table->newer;
    } else {
        ept->oldest = table->newer;
    }
}

static void order_insert(struct nvmx_ept *ept, struct ept_table *table) {
    table->newer = NULL;
    table->older = ept->newest;
    if (ept->newest != NULL) {
        ept->newest->newer = table;
    } else {
        ept->oldest = table;
    }
    ept->newest = table;
}

/* Those above first, so that a table is never older than one below it. */
void ept_table_use(struct nvmx_ept *ept, struct ept_table *table) {
    struct ept_table *path[5];
    unsigned int depth = 0;
    bool newest = ept->newest == table;

    for (; table->parent != NULL; table = table->parent) {
        table->stamp = ept->stamp;
        path[depth++] = table;
    }
    while (!newest && depth > 0) {
        order_remove(ept, path[--depth]);
        order_insert(ept, path[depth]);
    }
}

/* -- going away
 * -------------------------------------------------------------------------------------------------------------------
 */

void ept_want_flush(struct nvmx_ept *ept, unsigned int root) {
    if (ept->flush_root == EPT_NO_ROOT) {
        ept->flush_root = (uint16_t)root;
    } else if (ept->flush_root != root) {
        ept->flush_all = true;
    }
}

static void make_garbage(struct nvmx_ept *ept, struct ept_table *table) {
    table->older = ept->garbage;
    ept->garbage = table;
}

void ept_slot_clear(struct nvmx_ept *ept, struct ept_table *table, unsigned int index) {
    uint64_t hw = ept_load(&table->hw[index]);

    if (hw == 0) {
        return;
    }
    ept_slot_store(table, index, 0);
    if (ept_is_reference(table->level, hw)) {
        struct ept_table *child = ept_child(table, index);

        order_remove(ept, child);
        make_garbage(ept, child);
        table->children--;
    }
    ept_want_flush(ept, table->root);
}

void ept_table_clear(struct nvmx_ept *ept, struct ept_table *table) {
    for (unsigned int w = 0; w < 8; w++) {
        for (uint64_t used = table->used[w]; used != 0; used &= used - 1) {
            ept_slot_clear(ept, table, w * 64 + (unsigned int)__builtin_ctzll(used));
        }
    }
    table->leaf_first = UINT64_MAX;
    table->leaf_last = 0;
}

void ept_root_drop(struct nvmx_ept *ept, unsigned int index) {
    struct ept_root *root = &ept->root[index];

    make_garbage(ept, root->top);
    root->top = NULL;
    ept->flush_all = true; /* by the time of the flush the root has no EPTP02 any more */
}

static void free_page(struct nvmx_ept *ept, void *page, uint64_t hpa) {
    ept->host.page_free(ept->vm_ctx, page, hpa);
    ept->pages--;
}

static void table_delete(struct nvmx_ept *ept, struct ept_table *table) {
    if (table->hw != NULL) {
        free_page(ept, table->hw, table->hw_hpa);
    }
    if (table->composed != NULL) {
        free_page(ept, table->composed, table->composed_hpa);
    }
    table->older = ept->unused;
    ept->unused = table;
}

/* Free the garbage and all that hangs under it; what is found on the way joins the list. */
static void free_garbage(struct nvmx_ept *ept) {
    while (ept->garbage != NULL) {
        struct ept_table *table = ept->garbage;

        ept->garbage = table->older;
        for (unsigned int i = 0; i < 512 && table->children != 0; i++) {
            if (ept_is_reference(table->level, table->hw[i])) {
                order_remove(ept, ept_child(table, i));
                make_garbage(ept, ept_child(table, i));
                table->children--;
            }
        }
        table_delete(ept, table);
    }
}

void ept_settle(struct nvmx_ept *ept, void *vcpu_ctx) {
    if (vcpu_ctx == NULL) {
        /* nvmx_ept_destroy without a vCPU: the host flushes */
    } else if (ept->flush_all) {
        ept->host.tlb_flush(vcpu_ctx, NVMX_FLUSH_EPT_ALL, 0, 0);
    } else if (ept->flush_root != EPT_NO_ROOT) {
        ept->host.tlb_flush(vcpu_ctx, NVMX_FLUSH_EPT, ept->root[ept->flush_root].eptp02, 0);
    }
    ept->flush_all = false;
    ept->flush_root = EPT_NO_ROOT;
    free_garbage(ept);
}

/* -- pages
 * -------------------------------------------------------------------------------------------------------------------------
 */

static struct ept_root *oldest_idle_root(struct nvmx_ept *ept) {
    struct ept_root *oldest = NULL;

    for (unsigned int i = 0; i < ept->root_end; i++) {
        struct ept_root *root = &ept->root[i];

        if (root->top != NULL && root->users == 0 && root->top->stamp != ept->stamp &&
            (oldest == NULL || root->last_use < oldest->last_use)) {
            oldest = root;
        }
    }
    return oldest;
}

/*
 * Give pages back that were not used for long: a batch, since it costs a flush. False: there is nothing that can be
 * given. Tables above a used one are used with it, so the oldest are mostly those that refer to no other.
 */
static bool reclaim(struct nvmx_ept *ept, void *vcpu_ctx) {
    uint32_t batch = 1 + ept->pages / 64;
    bool found = ept->garbage != NULL;

    for (uint32_t i = 0; i < batch && i < 32; i++) {
        struct ept_table *table = ept->oldest;

        if (table == NULL || table->stamp == ept->stamp) {
            break;
        }
        ept_slot_clear(ept, table->parent, table->index);
        found = true;
    }
    if (!found) {
        struct ept_root *root = oldest_idle_root(ept);

        if (root == NULL) {
            return false;
        }
        ept_root_drop(ept, ept_root_index(ept, root));
    }
    ept_settle(ept, vcpu_ctx);
    return true;
}

/* A page within the budget. The host may refuse, then what is old makes room: once or twice, or this would empty ept02.
 */
static void *take_page(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t *hpa) {
    unsigned int refused = 0;

    for (;;) {
        if (ept->page_budget == 0 || ept->pages < ept->page_budget) {
            void *page = ept->host.page_alloc(ept->vm_ctx, hpa);

            if (page != NULL) {
                ept->pages++;
                return page;
            }
            if (++refused == 3) {
                return NULL;
            }
        }
        if (!reclaim(ept, vcpu_ctx)) {
            return NULL;
        }
    }
}

static struct ept_table *take_unused(struct nvmx_ept *ept, void *vcpu_ctx) {
    struct ept_table *table;

    if (ept->unused == NULL) {
        uint64_t hpa;
        struct ept_slab *slab = take_page(ept, vcpu_ctx, &hpa);

        if (slab == NULL) {
            return NULL;
        }
        slab->hpa = hpa;
        slab->next = ept->slabs;
        ept->slabs = slab;
        for (unsigned int i = 0; i < EPT_SLAB_TABLES; i++) {
            slab->table[i].older = ept->unused;
            ept->unused = &slab->table[i];
        }
    }
    table = ept->unused;
    ept->unused = table->older;
    return table;
}

struct ept_table *ept_table_new(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int level) {
    struct ept_table *table = take_unused(ept, vcpu_ctx);

    if (table == NULL) {
        return NULL;
    }
    memset(table, 0, sizeof(*table));
    table->level = (uint8_t)level;
    table->leaf_first = UINT64_MAX;
    table->stamp = ept->stamp;
    table->hw = take_page(ept, vcpu_ctx, &table->hw_hpa);
    if (table->hw != NULL) {
        table->composed = take_page(ept, vcpu_ctx, &table->composed_hpa);
    }
    if (table->composed == NULL) {
        table_delete(ept, table);
        return NULL;
    }
    return table;
}

void ept_table_link(struct nvmx_ept *ept, struct ept_table *parent, unsigned int index, struct ept_table *table,
                    uint64_t hw) {
    table->parent = parent;
    table->index = (uint16_t)index;
    table->root = parent->root;
    parent->composed[index] = (uint64_t)(uintptr_t)table;
    parent->children++;
    order_insert(ept, table);
    ept_slot_store(parent, index, hw);
}

void ept_free_slabs(struct nvmx_ept *ept) {
    while (ept->slabs != NULL) {
        struct ept_slab *slab = ept->slabs;

        ept->slabs = slab->next;
        free_page(ept, slab, slab->hpa);
    }
    ept->unused = NULL;
}
