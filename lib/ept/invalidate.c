/* SPDX-License-Identifier: MIT */
/* ept02 follows changes: of ept12 when L1 says so by INVEPT, of ept01 when the host says so. */
#include "ept.h"

/* -- INVEPT
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* Bits of an entry that mean something; L1 may use the others as it likes. */
static uint64_t meaning(uint64_t root_key) {
    return EPT_ADDRESS | 0xff | (ept_key_mbec(root_key) ? NVMX_EPT_USER_EXECUTE : 0) |
           ((root_key & NVMX_EPTP_AD) != 0 ? EPT_AD : 0) |
           ((root_key & EPTP_SHADOW_STACK) != 0 ? NVMX_EPT_SHADOW_STACK : 0) |
           (ept_key_spp(root_key) ? NVMX_EPT_SUB_PAGE : 0);
}

/* Of a table of the lowest level: is a slot still what follows from its entry of ept12? One that is being filled is not. */
static inline bool stands(const struct ept_table *table, unsigned int index, uint64_t entry12, uint64_t mask) {
    uint64_t hw = __atomic_load_n(&table->hw[index], __ATOMIC_SEQ_CST);

    if (hw == 0) {
        return true;
    }
    uint64_t composed = ept_load(&table->composed[index]);
    return ((entry12 ^ composed) & mask) == 0 && !ept_is_claimed(hw) && ept_load(&table->hw[index]) == hw;
}

static void compare_used(struct ept_op *op, struct ept_table *table, const uint64_t *page, uint64_t mask) {
    struct ept_slots slots = ept_slots_of(table);

    for (unsigned int i = ept_slots_next(&slots); i < 512; i = ept_slots_next(&slots)) {
        if (!stands(table, i, ept_load(&page[i]), mask)) {
            ept_slot_clear(op, table, i);
        }
    }
}

/* -- tables with many leaves
 * ------------------------------------------------------------------------------------------------------------------- */

/* From so many fills on a table is compared as a whole. */
#define MANY 128u

#define BLOCK 8u /* entries: a cache line */

/* A digest has a lane for each entry of a block. Each step is a bijection of what went before and of the entry, so one changed entry always shows. L1 can
 * make two pages with the same digest, and so keep what it took from its own guest; ept01's limits don't depend on it. */
#define DIGEST_PRIME UINT64_C(0x9e3779b185ebca87)

static uint64_t step(uint64_t lane, uint64_t entry) {
    return (lane ^ entry) * DIGEST_PRIME;
}

/* Never 0. */
static uint64_t digest_end(const uint64_t lane[BLOCK]) {
    uint64_t digest = 1;

    for (unsigned int i = 0; i < BLOCK; i++) {
        digest = step(digest ^ digest >> 31, lane[i] ^ lane[i] >> 29);
    }
    return digest != 0 ? digest : 1;
}

static uint64_t digest_of(const uint64_t *page) {
    uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;

    for (unsigned int i = 0; i < 512; i += BLOCK) {
        a = step(a, ept_peek(&page[i]));
        b = step(b, ept_peek(&page[i + 1]));
        c = step(c, ept_peek(&page[i + 2]));
        d = step(d, ept_peek(&page[i + 3]));
        e = step(e, ept_peek(&page[i + 4]));
        f = step(f, ept_peek(&page[i + 5]));
        g = step(g, ept_peek(&page[i + 6]));
        h = step(h, ept_peek(&page[i + 7]));
    }
    const uint64_t lane[BLOCK] = {a, b, c, d, e, f, g, h};
    return digest_end(lane);
}

static __attribute__((noinline)) bool compare_slots(struct ept_op *op, struct ept_table *table, unsigned int first, const uint64_t entry12[BLOCK],
                          uint64_t mask) {
    bool same = true;

    for (unsigned int k = 0; k < BLOCK; k++) {
        if (!stands(table, first + k, entry12[k], mask)) {
            ept_slot_clear(op, table, first + k);
            same = false;
        }
    }
    return same;
}

/* What is empty has no meaning in `composed`: then a difference only means that the slots are to be looked at. */
static bool block_in_use(const struct ept_table *table, unsigned int first) {
    return (__atomic_load_n(&table->used[first / 64], __ATOMIC_SEQ_CST) >> (first % 64) & 0xff) != 0;
}

/* Each entry is read once, into a register: they are stored only where one is different. */
static inline void compare_block(struct ept_op *op, struct ept_table *table, const uint64_t *page, unsigned int i, uint64_t mask) {
    const uint64_t *composed = &table->composed[i];
    uint64_t a = ept_peek(&page[i]), b = ept_peek(&page[i + 1]), c = ept_peek(&page[i + 2]), d = ept_peek(&page[i + 3]);
    uint64_t different = (a ^ ept_peek(&composed[0])) | (b ^ ept_peek(&composed[1])) | (c ^ ept_peek(&composed[2])) |
                         (d ^ ept_peek(&composed[3]));
    uint64_t e = ept_peek(&page[i + 4]), f = ept_peek(&page[i + 5]), g = ept_peek(&page[i + 6]), h = ept_peek(&page[i + 7]);

    different |= (e ^ ept_peek(&composed[4])) | (f ^ ept_peek(&composed[5])) | (g ^ ept_peek(&composed[6])) |
                 (h ^ ept_peek(&composed[7]));
    if (__builtin_expect((different & mask) != 0, 0) && block_in_use(table, i)) {
        const uint64_t entry12[BLOCK] = {a, b, c, d, e, f, g, h};

        compare_slots(op, table, i, entry12, mask);
    }
}

static void compare_blocks(struct ept_op *op, struct ept_table *table, const uint64_t *page, uint64_t mask) {
    for (unsigned int word = 0; word < 8; word++) {
        if (__atomic_load_n(&table->used[word], __ATOMIC_SEQ_CST) == 0) {
            continue;
        }
        for (unsigned int i = word * 64; i < (word + 1) * 64; i += BLOCK) {
            compare_block(op, table, page, i, mask);
        }
    }
}

/* The same, with the digest of what the slots were compared with; 0 if one was different. */
static uint64_t compare_and_digest(struct ept_op *op, struct ept_table *table, const uint64_t *page, uint64_t mask) {
    uint64_t lane[BLOCK] = {1, 2, 3, 4, 5, 6, 7, 8};
    bool same = true;

    for (unsigned int i = 0; i < 512; i += BLOCK) {
        uint64_t entry12[BLOCK];
        uint64_t different = 0;

        for (unsigned int k = 0; k < BLOCK; k++) {
            entry12[k] = ept_peek(&page[i + k]);
            lane[k] = step(lane[k], entry12[k]);
            different |= entry12[k] ^ ept_peek(&table->composed[i + k]);
        }
        if ((different & mask) != 0 && block_in_use(table, i)) {
            same = compare_slots(op, table, i, entry12, mask) && same;
        }
    }
    return same ? digest_end(lane) : 0;
}

/*
 * Of a large tree most tables don't change between two INVEPTs. A digest of the page of ept12 that the table was compared with answers for it, and is half
 * as much memory to read; it is good as long as no slot has been filled since. It is made when a table is compared a second time and nothing was filled
 * in between. `filling` and `filled` are equal if nobody is filling a slot: what comes later sees that it is late (slot.c).
 */
static void compare_many(struct ept_op *op, struct ept_table *table, const uint64_t *page, uint64_t mask, bool may_note) {
    uint32_t filled = __atomic_load_n(&table->filled, __ATOMIC_SEQ_CST);

    if (__atomic_load_n(&table->filling, __ATOMIC_SEQ_CST) != filled) {
        compare_used(op, table, page, mask);
        return;
    }
    /* In this order: the digest is as new as what it is said to be of, or newer. */
    bool noted = __atomic_load_n(&table->digest_at, __ATOMIC_SEQ_CST) == filled;
    uint64_t digest = ept_load(&table->digest);
    if (noted && digest != 0 && digest_of(page) == digest) {
        return;
    }
    if (noted && digest == 0) {
        digest = compare_and_digest(op, table, page, mask);
    } else {
        compare_blocks(op, table, page, mask);
        digest = 0;
    }
    if (may_note) {
        ept_poke(&table->digest, digest);
        __atomic_store_n(&table->digest_at, filled, __ATOMIC_SEQ_CST);
    }
}

/* -- the tree
 * ------------------------------------------------------------------------------------------------------------------ */

/* A comparison of a whole root. */
struct comparing {
    struct ept_op op;
    uint64_t mask;
    bool may_note; /* digests and versions */
    bool quiet;    /* no slot has been filled since the comparison before: every page is worth to be asked about */
    bool stands;   /* the version of every page so far is the one that was noted */
};

/* A table of ept02 while it is compared with the page of ept12 that it was composed from. */
struct comparison {
    struct ept_table *table;
    uint64_t *page; /* NULL: there is nothing to compare, or nothing left */
    struct ept_slots slots;
    uint64_t version; /* to be noted at the end, or 0 */
    uint32_t filled;
};

static inline void comparison_begin(struct comparing *r, struct comparison *c, struct ept_table *table) {
    uint64_t hpa;

    c->table = table;
    c->page = NULL;
    if (table->gpa1 == NVMX_NO_ADDRESS) {
        return;
    }
    c->page = r->op.ept->host.map_page(r->op.vcpu_ctx, table->gpa1, NVMX_ACCESS_READ, &hpa);
    if (c->page == NULL) {
        ept_table_clear(&r->op, table);
    }
}

static inline void comparison_end(struct comparing *r, const struct comparison *c) {
    if (c->page != NULL) {
        r->op.ept->host.unmap_page(r->op.vcpu_ctx, c->table->gpa1, c->page, false);
    }
}

/*
 * A host that knows which pages were written spares the reading of a table. The number is asked for before the page is read, so a write in between shows
 * at the next comparison. As with a digest it says nothing of slots that are filled after it was noted: they may be made of what the page held before.
 * *note: the number to be noted when the table has been compared, or 0.
 */
static bool version_stands(struct comparing *r, const struct ept_table *table, uint32_t filled, uint64_t *note) {
    bool idle = __atomic_load_n(&table->filling, __ATOMIC_SEQ_CST) == filled;
    uint64_t version = idle ? r->op.ept->host.page_version(r->op.vcpu_ctx, table->gpa1) : 0;

    if (version != 0 && ept_load(&table->version) == version &&
        __atomic_load_n(&table->version_at, __ATOMIC_SEQ_CST) == filled) {
        return true;
    }
    *note = r->may_note ? version : 0;
    r->stands = false;
    return false;
}

/* In this order: who reads the new number with the old `filled` finds that something was filled since. */
static inline void version_note(struct ept_table *table, uint32_t filled, uint64_t version) {
    if (version != 0) {
        ept_store(&table->version, version);
        __atomic_store_n(&table->version_at, filled, __ATOMIC_SEQ_CST);
    }
}

static inline bool is_split(const struct ept_table *table) {
    return table->gpa1 == NVMX_NO_ADDRESS;
}

/* While slots are filled between two comparisons no version is of use: it is asked for when a table is compared a second time. */
static inline __attribute__((always_inline)) void compare_large(struct comparing *r, struct ept_table *table, uint32_t filled) {
    bool settled = r->quiet || __atomic_load_n(&table->digest_at, __ATOMIC_SEQ_CST) == filled;
    struct comparison c = {.version = 0};

    if (settled && r->op.ept->host.page_version != NULL && !is_split(table) && version_stands(r, table, filled, &c.version)) {
        return;
    }
    comparison_begin(r, &c, table);
    if (c.page != NULL && filled >= MANY) {
        compare_many(&r->op, table, c.page, r->mask, r->may_note);
    } else if (c.page != NULL) {
        compare_used(&r->op, table, c.page, r->mask);
    }
    comparison_end(r, &c);
    version_note(table, filled, c.version);
}

/* With few leaves to ask costs as much as to look, unless all are to be asked about. */
static inline __attribute__((always_inline)) void compare_lowest(struct comparing *r, struct ept_table *table) {
    uint32_t filled = __atomic_load_n(&table->filled, __ATOMIC_SEQ_CST);
    struct comparison c;

    if (filled >= MANY || r->quiet) {
        compare_large(r, table, filled);
        return;
    }
    comparison_begin(r, &c, table);
    if (c.page != NULL) {
        compare_used(&r->op, table, c.page, r->mask);
    }
    comparison_end(r, &c);
}

/* A slot of a table above the lowest level. Returns the table to go on with, or NULL. */
static inline struct ept_table *compare_upper(struct comparing *r, const struct comparison *c, unsigned int index) {
    struct ept_table *table = c->table;
    uint64_t hw = __atomic_load_n(&table->hw[index], __ATOMIC_SEQ_CST);

    if (hw == 0) {
        return NULL;
    }
    uint64_t composed = ept_load(&table->composed[index]);
    bool present = ept_is_present(hw) && ept_load(&table->hw[index]) == hw;
    struct ept_table *child =
        present && (hw & NVMX_EPT_LARGE) == 0 ? (struct ept_table *)(uintptr_t)composed : NULL;

    composed = child != NULL ? ept_peek(&child->entry12) : composed;
    /* Who has claimed it may be about to refer to the same table again, with all that hangs below it. */
    if (!present || (c->page != NULL && ((ept_load(&c->page[index]) ^ composed) & r->mask) != 0)) {
        ept_slot_clear(&r->op, table, index);
        return NULL;
    }
    return child;
}

/* Go on with a table above the lowest level, until one below it has to be gone into first; NULL: it is done. */
static inline __attribute__((always_inline)) struct ept_table *compare_on(struct comparing *r, struct comparison *c) {
    struct ept_slots slots = c->slots;

    for (unsigned int i = ept_slots_next(&slots); i < 512; i = ept_slots_next(&slots)) {
        struct ept_table *child = compare_upper(r, c, i);

        if (child == NULL) {
            continue;
        }
        if (child->level > 1) {
            c->slots = slots;
            return child;
        }
        compare_lowest(r, child);
    }
    return NULL;
}

static inline void go_into(struct comparing *r, struct comparison *c, struct ept_table *table) {
    c->table = table;
    c->page = NULL;
    c->version = 0;
    c->filled = __atomic_load_n(&table->filled, __ATOMIC_SEQ_CST);
    if (!r->quiet || is_split(table) || !version_stands(r, table, c->filled, &c->version)) {
        comparison_begin(r, c, table);
    }
    c->slots = ept_slots_of(table);
}

/* From the top down: what hangs under a slot that went is not looked at. */
static inline __attribute__((always_inline)) void compare_tree(struct comparing *r, struct ept_table *top) {
    struct comparison path[4]; /* levels 5 to 2 */
    struct comparison *c = path;

    go_into(r, c, top);
    for (;;) {
        struct ept_table *child = compare_on(r, c);

        if (child != NULL) {
            go_into(r, ++c, child);
            continue;
        }
        comparison_end(r, c);
        version_note(c->table, c->filled, c->version);
        if (c == path) {
            return;
        }
        c--;
    }
}

/* Of vectors L1 may use no bit as it likes. Apart, so that the comparison of ept02 is compiled for itself. */
static __attribute__((noinline, cold)) void compare_sub_pages(struct comparing *r, struct ept_table *top) {
    r->mask = UINT64_MAX;
    compare_tree(r, top);
}

/* -- the root
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * An INVEPT between which and the one before nothing was written, and nothing filled, costs one question: the version of all pages together. `stands` is that
 * version as it was before a comparison which found each page of ept12 with the number that was noted, while no operation could still publish a slot that
 * it had begun before `filled` was cleared. An operation sets `filled` before it claims a slot, and looks at `wanted` after it (slot.c): it finds that it is
 * late, or is seen here.
 */
static void compare_root(struct comparing *r, struct ept_root *root, uint64_t together) {
    const uint64_t *active = r->op.ept->active;

    if (r->quiet) {
        r->stands = __atomic_load_n(&active[0], __ATOMIC_SEQ_CST) + __atomic_load_n(&active[1], __ATOMIC_SEQ_CST) == 1; /* this one */
    } else if (r->may_note) {
        __atomic_store_n(&root->filled, 0, __ATOMIC_SEQ_CST);
    }
    compare_tree(r, root->top);
    if (root->sppt != NULL) {
        compare_sub_pages(r, root->sppt);
    }
    if (r->may_note) {
        root->stands = r->stands ? together : 0;
    }
}

/*
 * SDM 31.4.3.1 lets INVEPT forget everything; what L1 didn't change would only have to be composed again. Each table
 * page of ept12 that ept02 has composed from is read and compared entry by entry with what it was. Several processors may do this at
 * a time; each comes to its own end.
 */
void ept_root_validate(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root) {
    struct comparing r;
    uint64_t together = 0;

    r.mask = meaning(root->key);
    r.may_note = __atomic_exchange_n(&root->digesting, 1, __ATOMIC_SEQ_CST) == 0;
    r.stands = false;
    ept_begin(&r.op, ept, vcpu_ctx, root);
    r.quiet = r.may_note && ept->host.page_version != NULL && __atomic_load_n(&root->filled, __ATOMIC_SEQ_CST) == 0;
    if (r.quiet) {
        together = ept->host.page_version(vcpu_ctx, NVMX_NO_ADDRESS);
    }
    if (together == 0 || together != root->stands) {
        compare_root(&r, root, together);
    }
    if (r.may_note) {
        __atomic_store_n(&root->digesting, 0, __ATOMIC_SEQ_CST);
    }
    /* What another processor has taken out and not flushed yet may have been what this comparison was for. */
    if (__atomic_load_n(&ept->pending, __ATOMIC_SEQ_CST) != (r.op.announced ? 1 : 0)) {
        ept_want_flush(&r.op, root->eptp02);
    }
    ept_end(&r.op);
    /* After the flush: who finds the root valid enters L2 without one. */
    for (uint64_t now = ept_peek(&root->validated);
         now < r.op.wanted && !__atomic_compare_exchange_n(&root->validated, &now, r.op.wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);) {
    }
}

/*
 * Only this processor's translations need to go: INVEPT is an instruction of one processor, and L1 executes it on each that it means. What
 * a comparison takes out of ept02 is flushed on all.
 */
void nvmx_ept_invept(struct nvmx_ept *ept, void *vcpu_ctx, bool all, uint64_t eptp12) {
    uint32_t end = __atomic_load_n(&ept->root_end, __ATOMIC_SEQ_CST);
    bool any = false;

    for (uint32_t i = 0; i < end; i++) {
        struct ept_root *root = &ept->root[i];
        uint64_t key = __atomic_load_n(&root->key, __ATOMIC_SEQ_CST);

        if (key != 0 && (all || ((key ^ eptp12) & EPT_ADDRESS) == 0)) {
            __atomic_fetch_add(&root->wanted, 1, __ATOMIC_SEQ_CST);
            any = true;
            /* Unchanged or not: combined mappings also hold L2's own page tables, and INVEPT drops those too. */
            if (!all) {
                ept->host.tlb_flush(vcpu_ctx, NVMX_FLUSH_EPT_HERE, ept_peek(&root->eptp02), 0);
            }
        }
    }
    if (all && any) {
        ept->host.tlb_flush(vcpu_ctx, NVMX_FLUSH_EPT_ALL_HERE, 0, 0);
    }
}

/* -- ept01
 * -----------------------------------------------------------------------------------------------------------------------
 */

/* Of a slot that is being filled it can't be told what with: it counts as in the range. */
static bool leads_into(const struct ept_table *table, unsigned int index, uint64_t hw, uint64_t first, uint64_t last) {
    uint64_t gpa1 = ept_load(&table->composed[index]) & EPT_ADDRESS;

    if (!ept_is_present(hw) || ept_load(&table->hw[index]) != hw) {
        return true;
    }
    return gpa1 <= last && gpa1 + ept_level_bytes(table->level) - 1 >= first;
}

/* Is the table page of L1, that the table was composed from, in the range? */
static bool is_of_range(const struct ept_table *table, uint64_t first, uint64_t last) {
    return table->gpa1 != NVMX_NO_ADDRESS && table->gpa1 <= last && table->gpa1 + NVMX_PAGE_SIZE - 1 >= first;
}

static void forget_range(struct ept_op *op, struct ept_table *table, uint64_t first, uint64_t last, bool protect) {
    if (!protect && is_of_range(table, first, last)) {
        ept_table_clear(op, table); /* it is not there any more */
        return;
    }
    struct ept_slots slots = ept_slots_of(table);

    for (unsigned int i = ept_slots_next(&slots); i < 512; i = ept_slots_next(&slots)) {
        uint64_t hw = __atomic_load_n(&table->hw[i], __ATOMIC_SEQ_CST);

        if (hw == 0 || ept_is_reference(table->level, hw) || !leads_into(table, i, hw, first, last)) {
            continue;
        }
        if (protect) {
            ept_slot_protect(op, table, i);
        } else {
            ept_slot_clear(op, table, i);
        }
    }
}

/* Vectors say nothing of gpa1: what L2 may write in the range, the leaves of ept02 decide. */
static void forget_vectors(struct ept_op *op, struct ept_table *top, uint64_t first, uint64_t last) {
    struct ept_tree tree;

    ept_tree_start(&tree, op, top, first, last);
    for (struct ept_table *table = top; table != NULL; table = ept_tree_next(&tree)) {
        if (is_of_range(table, first, last)) {
            ept_table_clear(op, table);
        }
    }
}

static void range_changed(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes, bool protect) {
    uint64_t last = bytes - 1 > UINT64_MAX - gpa1 ? UINT64_MAX : gpa1 + bytes - 1;
    uint32_t end = __atomic_load_n(&ept->root_end, __ATOMIC_SEQ_CST);
    struct ept_op op;

    if (bytes == 0) {
        return;
    }
    __atomic_fetch_add(&ept->changes, 1, __ATOMIC_SEQ_CST);
    ept_begin(&op, ept, vcpu_ctx, NULL);
    for (uint32_t i = 0; i < end; i++) {
        struct ept_table *top = __atomic_load_n(&ept->root[i].top, __ATOMIC_SEQ_CST);
        struct ept_tree tree;

        if (top == NULL) {
            continue;
        }
        ept_tree_start(&tree, &op, top, gpa1, last);
        for (struct ept_table *table = top; table != NULL; table = ept_tree_next(&tree)) {
            forget_range(&op, table, gpa1, last, protect);
        }
        struct ept_table *sppt = __atomic_load_n(&ept->root[i].sppt, __ATOMIC_SEQ_CST);
        if (sppt != NULL && !protect) {
            forget_vectors(&op, sppt, gpa1, last);
        }
    }
    /* What another processor has taken out and not flushed yet may be of this range. */
    if (__atomic_load_n(&ept->pending, __ATOMIC_SEQ_CST) != 0) {
        op.flush = EPT_FLUSH_ALL;
    }
    ept_end(&op);
}

void nvmx_ept_memory_changed(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes) {
    range_changed(ept, vcpu_ctx, gpa1, bytes, false);
}

void nvmx_ept_memory_protected(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes) {
    range_changed(ept, vcpu_ctx, gpa1, bytes, true);
}
