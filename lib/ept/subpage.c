/* SPDX-License-Identifier: MIT */
/*
 * Sub-page write permissions (SDM 31.3.4): L1's table of them, and SPPT02, which the CPU walks.
 *
 * SPPT02 is indexed by gpa2 as L1's table is, and has the same vectors, table by table. What the host forbids needs no
 * place in it: a vector counts only where the leaf of ept02 has bit 61, and it has that only where ept01 grants writing
 * (ept_common_rights). A vector that is not there is 0 and permits nothing, so the CPU reports an EPT violation there;
 * where a table is missing it reports a miss. Both come here.
 *
 * Tables, slots, claims, comparisons and flushes are those of ept02.
 */
#include "ept.h"

#define VECTOR_RESERVED UINT64_C(0xaaaaaaaaaaaaaaaa) /* the odd bits */
#define SUB_PAGE_SHIFT  7u

/* -- L1's table
 * -------------------------------------------------------------------------------------------------------------------
 */

/* A place without memory reads as an empty bus does: reserved bits are set. */
static uint64_t read_entry(const struct nvmx_ept *ept, void *vcpu_ctx, uint64_t table, unsigned int index) {
    uint64_t hpa;
    uint64_t *page = ept->host.map_page(vcpu_ctx, table, NVMX_ACCESS_READ, &hpa);

    if (page == NULL) {
        return UINT64_MAX;
    }
    uint64_t entry = ept_load(&page[index]);
    ept->host.unmap_page(vcpu_ctx, table, page, false);
    return entry;
}

/* Bits 11:1 and those beyond the physical-address width. */
static uint64_t reserved_bits(const struct nvmx_ept *ept) {
    return ~(EPT_ADDRESS | SPPT_VALID) | ept_reserved_address(&ept->l1);
}

/* Bit 2 * S of the vector permits writing to sub-page S. */
static bool vector_permits(uint64_t vector, uint64_t gpa2, uint32_t bytes) {
    uint64_t offset = gpa2 & (NVMX_PAGE_SIZE - 1);
    uint64_t end = offset + (bytes != 0 ? bytes - 1 : 0);
    unsigned int last = (unsigned int)((end < NVMX_PAGE_SIZE ? end : NVMX_PAGE_SIZE - 1) >> SUB_PAGE_SHIFT);

    for (unsigned int sub_page = (unsigned int)(offset >> SUB_PAGE_SHIFT); sub_page <= last; sub_page++) {
        if ((vector >> (2 * sub_page) & 1) == 0) {
            return false;
        }
    }
    return true;
}

enum ept_sub_page ept_sppt_walk(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_sppt_walk *walk, uint64_t spptp12,
                                uint64_t gpa2, uint32_t bytes) {
    uint64_t reserved = reserved_bits(ept);

    walk->table[SPPT_LEVELS] = spptp12 & EPT_ADDRESS;
    for (unsigned int level = SPPT_LEVELS; level > 1; level--) {
        uint64_t entry = read_entry(ept, vcpu_ctx, walk->table[level], ept_index(gpa2, level));

        walk->entry[level] = entry;
        if ((entry & SPPT_VALID) == 0) {
            return EPT_SUB_PAGE_MISS;
        }
        if ((entry & reserved) != 0) {
            return EPT_SUB_PAGE_MISCONFIG;
        }
        walk->table[level - 1] = entry & EPT_ADDRESS;
    }
    walk->entry[1] = read_entry(ept, vcpu_ctx, walk->table[1], ept_index(gpa2, 1));
    if ((walk->entry[1] & VECTOR_RESERVED) != 0) {
        return EPT_SUB_PAGE_MISCONFIG;
    }
    return vector_permits(walk->entry[1], gpa2, bytes) ? EPT_SUB_PAGE_WRITABLE : EPT_SUB_PAGE_PROTECTED;
}

/* -- SPPT02
 * -----------------------------------------------------------------------------------------------------------------------
 */

/* The table of the next level below `parent`, made if need be. NULL: op->no_room, or something changed. */
static struct ept_table *next_table(struct ept_op *op, struct ept_table *parent, uint64_t gpa2,
                                    const struct ept_sppt_walk *walk) {
    const struct ept_wanted wanted = {
        .entry12 = walk->entry[parent->level], .gpa1 = walk->table[parent->level - 1], .hw_flags = SPPT_VALID};
    unsigned int index = ept_index(gpa2, parent->level);
    uint64_t hw = ept_load(&parent->hw[index]);
    struct ept_table *table = NULL;

    if (ept_is_reference(parent->level, hw)) {
        table = ept_child(parent, index, hw);
        if (table == NULL || ept_peek(&table->entry12) == wanted.entry12) {
            return table;
        }
    }
    return ept_link(op, parent, index, hw, table, &wanted);
}

/* Sub-pages that become writable need no flush, as rights that are gained don't (map.c). */
static enum ept_mapped write_vector(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t vector) {
    uint64_t old = ept_load(&table->hw[index]);

    if (old == vector) {
        return EPT_MAPPED_ALREADY;
    }
    if (!ept_slot_claim(op, table, index, old)) {
        return EPT_MAPPED_NOT;
    }
    if ((old & ~vector) != 0) {
        ept_want_flush(op, op->root->eptp02);
    }
    return ept_slot_publish(op, table, index, vector, vector) ? EPT_MAPPED : EPT_MAPPED_NOT;
}

enum ept_mapped ept_sppt_fill(struct ept_op *op, uint64_t gpa2, const struct ept_sppt_walk *walk) {
    struct ept_table *table = op->root->sppt;

    while (table->level > 1) {
        struct ept_table *next = next_table(op, table, gpa2, walk);

        if (next == NULL) {
            ept_table_stamp(op, table); /* so that making room does not take it */
            return op->no_room ? EPT_MAPPED_NO_ROOM : EPT_MAPPED_NOT;
        }
        table = next;
    }
    ept_table_stamp(op, table);
    return write_vector(op, table, ept_index(gpa2, 1), walk->entry[1]);
}

/* -- writes to which it does not apply
 * --------------------------------------------------------------------------------------------------- */

/* So often another processor can have been first, or the TLB can have held something old. */
#define REFUSALS 3u

bool ept_refused_again(struct ept_root *root, const void *vcpu_ctx, uint64_t gpa2) {
    struct ept_refused *refused = &root->refused;
    bool same = __atomic_load_n(&refused->vcpu_ctx, __ATOMIC_RELAXED) == vcpu_ctx && ept_peek(&refused->gpa2) == gpa2;
    uint32_t before = same ? __atomic_load_n(&refused->times, __ATOMIC_RELAXED) : 0;
    uint32_t times = before < REFUSALS ? before + 1 : REFUSALS;

    __atomic_store_n(&refused->vcpu_ctx, vcpu_ctx, __ATOMIC_RELAXED);
    ept_poke(&refused->gpa2, gpa2);
    __atomic_store_n(&refused->times, times, __ATOMIC_RELAXED);
    return times == REFUSALS;
}

void ept_refused_cleared(struct ept_root *root, const void *vcpu_ctx) {
    if (__atomic_load_n(&root->refused.vcpu_ctx, __ATOMIC_RELAXED) == vcpu_ctx) {
        __atomic_store_n(&root->refused.times, 0, __ATOMIC_RELAXED);
    }
}
