/* SPDX-License-Identifier: MIT */
/* Pages that are mapped ahead of a sequence of violations: the host's changes find them like any other. */
#include "ept_simple.h"

#define BOUNDARY 1536u /* a page of L1 at a multiple of 2 MiB */

/* Page 0 of L2 is L1's page `first`, L1's memory one 1G page of ept01. L2 goes through its own until the next is mapped, which it has not touched. */
static uint64_t map_ahead(struct world *w, uint64_t first) {
    uint64_t page = 0;

    world_set01(w, 0, 4096, 7, 6, false, 30);
    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (first + i) << 12 | 0x437;
    }
    do {
        cr_assert(page < 64);
        touch(w, EPTP12, page++ << 12, &writing);
    } while (!look(w, EPTP12, page << 12).valid);
    return page;
}

/* What was touched lies before the boundary, what was mapped ahead beyond it: nothing but the mapping ahead leads a change there. */
static struct world *ahead_of_boundary(uint64_t *page) {
    struct world *w = simple(AD_CAPS, 0);
    uint64_t first;

    *page = map_ahead(w, BOUNDARY);
    first = BOUNDARY - *page;
    world_delete(w);
    w = simple(AD_CAPS, 0);
    cr_assert_eq(map_ahead(w, first), *page);
    return w;
}

Test(ept, memory_changed_finds_pages_that_were_mapped_ahead) {
    uint64_t page;
    struct world *w = ahead_of_boundary(&page);

    nvmx_ept_memory_changed(w->ept, &w, BOUNDARY << 12, 4096);
    cr_expect(!look(w, EPTP12, page << 12).valid);
    cr_expect(look(w, EPTP12, (page - 1) << 12).valid);
    world_delete(w);
}

Test(ept, memory_protected_finds_pages_that_were_mapped_ahead) {
    uint64_t page;
    struct world *w = ahead_of_boundary(&page);

    w->ept01[BOUNDARY].access = 5;
    nvmx_ept_memory_protected(w->ept, &w, (uint64_t)BOUNDARY << 12, 4096);
    cr_expect_eq(look(w, EPTP12, page << 12).rights & 7, 5);
    cr_expect_eq(look(w, EPTP12, (page - 1) << 12).rights & 7, 7);
    world_delete(w);
}

/*
 * With accessed and dirty flags a page ahead has only what leaves no trace (SDM 31.3.5): none where the accessed flag is clear, and no right to write where
 * the dirty flag is.
 */
Test(ept, pages_ahead_have_no_right_that_would_set_a_flag) {
    static const uint64_t flags[] = {0, NVMX_EPT_ACCESSED, NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY};

    for (unsigned int i = 0; i < 3; i++) {
        struct world *w = simple(AD_CAPS, 0);
        struct world_translation t = {.valid = false};
        uint64_t page = 0;

        world_set01(w, 0, 4096, 7, 6, false, 30);
        for (uint64_t n = 0; n < 512; n++) {
            w->l1[3][n] = (512 + n) << 12 | 0x437 | flags[i];
        }
        while (!t.valid && page < 64) {
            touch(w, EPTP12_AD, page++ << 12, &reading);
            t = look(w, EPTP12_AD, page << 12);
        }
        cr_expect_eq(t.valid, flags[i] != 0, "flags %#lx", (unsigned long)flags[i]);
        cr_expect(!t.valid || (t.rights & 7) == ((flags[i] & NVMX_EPT_DIRTY) != 0 ? 7 : 5), "flags %#lx: %#lx", (unsigned long)flags[i],
                  (unsigned long)t.rights);
        world_delete(w);
    }
}
