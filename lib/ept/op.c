/* SPDX-License-Identifier: MIT */
/*
 * Operations on a composition that several processors share: when tables may be freed, and when translations are flushed.
 *
 * A table goes away in four steps, never fewer: unlinked, flushed, in limbo until every operation that may have seen it has ended, freed.
 */
#include "ept.h"

void ept_begin(struct ept_op *op, struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root) {
    op->ept = ept;
    op->vcpu_ctx = vcpu_ctx;
    op->stamp = __atomic_add_fetch(&ept->clock, 1, __ATOMIC_RELAXED);
    op->epoch = ept_epoch_enter(ept);
    op->changes = __atomic_load_n(&ept->changes, __ATOMIC_SEQ_CST);
    op->wanted = root != NULL ? __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST) : 0;
    op->root = root;
    op->garbage = NULL;
    op->flush = EPT_FLUSH_NONE;
    op->flush_here = EPT_FLUSH_NONE;
    op->announced = false;
    op->no_room = false;
    op->refused = false;
}

/* What it needs of the others. */
void ept_begin_filling(struct ept_op *op, struct nvmx_ept *ept, struct ept_root *root) {
    op->ept = ept;
    op->stamp = __atomic_add_fetch(&ept->clock, 1, __ATOMIC_RELAXED);
    op->epoch = ept_epoch_enter(ept);
    op->changes = __atomic_load_n(&ept->changes, __ATOMIC_SEQ_CST);
    op->wanted = __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST);
    op->root = root;
    op->announced = false;
}

void ept_end_filling(const struct ept_op *op) {
    struct nvmx_ept *ept = op->ept;

    __atomic_fetch_sub(&ept->active[op->epoch & 1], 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ept->limbo, __ATOMIC_RELAXED) != NULL) {
        ept_drain(ept);
    }
}

void ept_announce(struct ept_op *op) {
    if (!op->announced) {
        op->announced = true;
        __atomic_fetch_add(&op->ept->pending, 1, __ATOMIC_SEQ_CST);
    }
}

void ept_want_flush(struct ept_op *op, uint64_t eptp02) {
    op->flush = op->flush == EPT_FLUSH_NONE || op->flush == eptp02 ? eptp02 : EPT_FLUSH_ALL;
}

void ept_discard(struct ept_op *op, struct ept_table *table) {
    __atomic_fetch_add(&op->ept->discards, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&table->state, EPT_TABLE_GONE, __ATOMIC_RELAXED);
    table->next = op->garbage;
    op->garbage = table;
}

static void flush(const struct ept_op *op) {
    const struct nvmx_host *host = &op->ept->host;

    if (op->flush == EPT_FLUSH_ALL) {
        host->tlb_flush(op->vcpu_ctx, NVMX_FLUSH_EPT_ALL, 0, 0);
    } else if (op->flush != EPT_FLUSH_NONE) {
        host->tlb_flush(op->vcpu_ctx, NVMX_FLUSH_EPT, op->flush, 0);
    } else if (op->flush_here != EPT_FLUSH_NONE) {
        host->tlb_flush(op->vcpu_ctx, NVMX_FLUSH_EPT_HERE, op->flush_here, 0);
    }
}

static void garbage_to_limbo(struct ept_op *op) {
    struct nvmx_ept *ept = op->ept;
    uint64_t epoch = __atomic_load_n(&ept->epoch, __ATOMIC_SEQ_CST);
    struct ept_table *last = op->garbage;

    for (;; last = last->next) {
        last->gone = epoch;
        if (last->next == NULL) {
            break;
        }
    }
    ept_lock(ept);
    last->next = ept->limbo;
    __atomic_store_n(&ept->limbo, op->garbage, __ATOMIC_RELAXED);
    ept_unlock(ept);
    op->garbage = NULL;
}

void ept_end(struct ept_op *op) {
    struct nvmx_ept *ept = op->ept;

    flush(op);
    if (op->announced) {
        __atomic_fetch_sub(&ept->pending, 1, __ATOMIC_SEQ_CST);
    }
    if (op->garbage != NULL) {
        garbage_to_limbo(op);
    }
    __atomic_fetch_sub(&ept->active[op->epoch & 1], 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ept->limbo, __ATOMIC_RELAXED) != NULL) {
        ept_drain(ept);
    }
}
