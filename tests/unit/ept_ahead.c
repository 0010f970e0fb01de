/* SPDX-License-Identifier: MIT */
/* Pages that are mapped ahead of a sequence of violations: the host's changes find them like any other. */
#include "ept_simple.h"

/* Pages 0 on of L2 in one 2M page of ept01, and L2 goes through them until some are mapped that it has not touched. The first of those. */
static uint64_t map_ahead(struct world *w) {
    uint64_t page = 0;

    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (1024 + i) << 12 | 0x437;
    }
    do {
        cr_assert(page < 64);
        touch(w, EPTP12, page++ << 12, &writing);
    } while (!look(w, EPTP12, page << 12).valid);
    return page;
}

static uint64_t last_ahead(struct world *w, uint64_t page) {
    while (look(w, EPTP12, (page + 1) << 12).valid) {
        page++;
    }
    return page;
}

Test(ept, memory_changed_finds_pages_that_were_mapped_ahead) {
    struct world *w = simple(AD_CAPS, 0);
    uint64_t last = last_ahead(w, map_ahead(w));

    nvmx_ept_memory_changed(w->ept, &w, (1024 + last) << 12, 4096);
    cr_expect(!look(w, EPTP12, last << 12).valid);
    cr_expect(look(w, EPTP12, (last - 1) << 12).valid);
    world_delete(w);
}

Test(ept, memory_protected_finds_pages_that_were_mapped_ahead) {
    struct world *w = simple(AD_CAPS, 0);
    uint64_t last = last_ahead(w, map_ahead(w));

    world_protect01(w, (uint32_t)(1024 + last), 1);
    cr_expect_eq(look(w, EPTP12, last << 12).rights & 7, 5);
    world_delete(w);
}
