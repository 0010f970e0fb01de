/* SPDX-License-Identifier: MIT */
/* ept02 follows changes: of ept12 when L1 says so by INVEPT, of ept01 when the host says so. */
#include "ept.h"

/* -- INVEPT
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* Bits of an entry that mean something; L1 may use the others as it likes. */
static uint64_t meaning(uint64_t root_key) {
    return EPT_ADDRESS | 0xff | (ept_key_mbec(root_key) ? NVMX_EPT_USER_EXECUTE : 0) |
           ((root_key & NVMX_EPTP_AD) != 0 ? EPT_AD : 0);
}

/* Clear a slot if its entry in ept12 is no longer what it was composed from. */
static void compare_slot(struct nvmx_ept *ept, struct ept_table *table, unsigned int index, uint64_t entry12,
                         uint64_t mask) {
    uint64_t hw = ept_load(&table->hw[index]);
    uint64_t composed = table->composed[index];

    if (ept_is_reference(table->level, hw)) {
        composed = ept_child(table, index)->entry12;
    }
    if (hw != 0 && ((entry12 ^ composed) & mask) != 0) {
        ept_slot_clear(ept, table, index);
    }
}

/* Only slots in use count. Where one refers to a table, `composed` is no entry of ept12, and each is looked at. */
static void compare_used(struct nvmx_ept *ept, struct ept_table *table, const uint64_t *page, unsigned int word,
                         uint64_t mask) {
    for (uint64_t used = table->used[word]; used != 0; used &= used - 1) {
        unsigned int index = word * 64 + (unsigned int)__builtin_ctzll(used);

        compare_slot(ept, table, index, ept_load(&page[index]), mask);
    }
}

/* Entries compared at a time where all are leaves: nearly always all are the same. */
#define COMPARE_BLOCK 8u

static void compare_leaves(struct nvmx_ept *ept, struct ept_table *table, const uint64_t *page, unsigned int word,
                           uint64_t mask) {
    for (unsigned int i = word * 64; i < word * 64 + 64; i += COMPARE_BLOCK) {
        uint64_t entry12[COMPARE_BLOCK];
        uint64_t different = 0;

        if ((table->used[word] >> (i % 64) & 0xff) == 0) {
            continue;
        }
        for (unsigned int k = 0; k < COMPARE_BLOCK; k++) {
            entry12[k] = ept_load(&page[i + k]);
            different |= entry12[k] ^ table->composed[i + k];
        }
        for (unsigned int k = 0; k < COMPARE_BLOCK && (different & mask) != 0; k++) {
            compare_slot(ept, table, i + k, entry12[k], mask);
        }
    }
}

static void compare_table(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_table *table, uint64_t mask) {
    uint64_t hpa;
    uint64_t *page = ept->host.map_page(vcpu_ctx, table->gpa1, NVMX_ACCESS_READ, &hpa);

    if (page == NULL) {
        ept_table_clear(ept, table);
        return;
    }
    for (unsigned int word = 0; word < 8; word++) {
        if (table->used[word] == 0) {
            continue;
        }
        if (table->children != 0) {
            compare_used(ept, table, page, word, mask);
        } else {
            compare_leaves(ept, table, page, word, mask);
        }
    }
    ept->host.unmap_page(vcpu_ctx, table->gpa1, page, false);
}

/*
 * SDM 31.4.3.1 lets INVEPT forget everything; what L1 didn't change would only have to be composed again. Each table
 * page of ept12 that ept02 has composed from is read once and compared entry by entry with what it was. A cleared slot
 * unlinks the tables below; those are still compared here, in vain but harmlessly, as the order by use does not tell.
 */
void ept_root_compare(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root) {
    unsigned int index = ept_root_index(ept, root);
    uint64_t mask = meaning(root->key);
    struct ept_table *next;

    root->stale = false;
    compare_table(ept, vcpu_ctx, root->top, mask);
    for (struct ept_table *table = ept->newest; table != NULL; table = next) {
        if (table->root == index && table->gpa1 != NVMX_NO_ADDRESS) {
            compare_table(ept, vcpu_ctx, table, mask);
        }
        next = table->older; /* after the comparison, which may have unlinked it */
    }
}

void nvmx_ept_invept(struct nvmx_ept *ept, void *vcpu_ctx, bool all, uint64_t eptp12) {
    for (unsigned int i = 0; i < ept->root_end; i++) {
        struct ept_root *root = &ept->root[i];

        if (root->top == NULL || (!all && ((root->key ^ eptp12) & EPT_ADDRESS) != 0)) {
            continue;
        }
        if (root->users == 0) {
            root->stale = true; /* compared and flushed if it is ever used again */
            continue;
        }
        ept_root_compare(ept, vcpu_ctx, root);
        /* Unchanged or not: combined mappings also hold L2's own page tables, and INVEPT drops those too. */
        ept_want_flush(ept, i);
    }
    ept_settle(ept, vcpu_ctx);
}

/* -- ept01
 * -----------------------------------------------------------------------------------------------------------------------
 */

static void forget_range(struct nvmx_ept *ept, struct ept_table *table, uint64_t first, uint64_t last) {
    if (table->gpa1 != NVMX_NO_ADDRESS && table->gpa1 <= last && table->gpa1 + NVMX_PAGE_SIZE - 1 >= first) {
        ept_table_clear(ept, table); /* the table of ept12 itself is not there any more */
        return;
    }
    if (table->leaf_first > last || table->leaf_last < first) {
        return;
    }
    for (unsigned int i = 0; i < 512; i++) {
        uint64_t hw = table->hw[i];
        uint64_t gpa1 = table->composed[i] & EPT_ADDRESS;

        if (hw != 0 && !ept_is_reference(table->level, hw) && gpa1 <= last &&
            gpa1 + ept_level_bytes(table->level) - 1 >= first) {
            ept_slot_clear(ept, table, i);
        }
    }
}

void nvmx_ept_memory_changed(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes) {
    uint64_t last = bytes - 1 > UINT64_MAX - gpa1 ? UINT64_MAX : gpa1 + bytes - 1;
    struct ept_table *next;

    if (bytes == 0) {
        return;
    }
    for (unsigned int i = 0; i < ept->root_end; i++) {
        if (ept->root[i].top != NULL) {
            forget_range(ept, ept->root[i].top, gpa1, last);
        }
    }
    for (struct ept_table *table = ept->newest; table != NULL; table = next) {
        forget_range(ept, table, gpa1, last);
        next = table->older;
    }
    ept_settle(ept, vcpu_ctx);
}
