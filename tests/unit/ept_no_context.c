/* SPDX-License-Identifier: MIT */
/* A host of one processor whose callbacks need no context: NULL is as good a one as any. */
#include "ept_simple.h"

#include "ept/ept.h"

#include <stdlib.h>

static struct world *alone; /* the host that the callbacks know without a context */

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    cr_assert_null(ctx);
    return alone->host.map_page(&alone, gpa1, access, hpa);
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    cr_assert_null(ctx);
    alone->host.unmap_page(&alone, gpa1, page, dirtied);
}

static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    cr_assert_null(ctx);
    alone->host.tlb_flush(&alone, kind, value, linear);
}

/* The composition of a world, made by that host. */
static struct nvmx_ept *ept_alone(struct world *w) {
    struct nvmx_ept_config config = {.size = sizeof(config), .l1 = &w->l1_caps, .machine = &w->machine};
    static struct nvmx_host host;
    struct nvmx_ept *ept = NULL;

    alone = w;
    host = w->host;
    host.map_page = map_page;
    host.unmap_page = unmap_page;
    host.tlb_flush = tlb_flush;
    void *memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    cr_assert_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_OK);
    return ept;
}

/* L2 reads GPA2; what ept02 takes out of its translation leaves the TLB, too. */
Test(ept_no_context, what_ceases_to_be_mapped_is_flushed) {
    const struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = 0x181};
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept *ept = ept_alone(w);
    struct nvmx_ept_fault fault;
    uint64_t eptp02 = 0, hpa = 0, type, qualification;

    cr_assert_eq(nvmx_ept_root(ept, NULL, 0, EPTP12, false, &eptp02), NVMX_OK);
    cr_assert_eq(nvmx_ept_fault(ept, NULL, &access, &fault), NVMX_EPT_RETRY);
    cr_assert(world_cpu(w, 0, eptp02, GPA2, &reading, &hpa, &type, &qualification));
    uint32_t flushes = w->flushes;
    nvmx_ept_memory_changed(ept, NULL, fault.gpa1 & ~UINT64_C(0xfff), 0x1000);
    cr_expect(w->flushes > flushes, "a page went, and its translation stays");
    cr_expect_not(world_cpu(w, 0, eptp02, GPA2, &reading, &hpa, &type, &qualification));

    /* The same by INVEPT: L1 withdraws the page. */
    cr_assert_eq(nvmx_ept_fault(ept, NULL, &access, &fault), NVMX_EPT_RETRY);
    cr_assert(world_cpu(w, 0, eptp02, GPA2, &reading, &hpa, &type, &qualification));
    w->l1[3][GPA2 >> 12] = 0;
    nvmx_ept_invept(ept, NULL, false, EPTP12);
    flushes = w->flushes;
    cr_assert_eq(nvmx_ept_root(ept, NULL, 0, EPTP12, false, &eptp02), NVMX_OK);
    cr_expect(w->flushes > flushes, "an entry went, and no other processor hears of it");

    void *memory = ept;
    flushes = w->flushes;
    nvmx_ept_destroy(ept, NULL);
    cr_expect_eq(w->flushes, flushes, "without a context nothing is flushed at the end");
    cr_expect_eq(nvmx_ept_pages(ept), 0);
    free(memory);
    world_delete(w);
}

/* A write that goes on as it should ends the count of those that are refused for nothing. */
Test(ept_no_context, refusals_in_vain_are_counted_anew) {
    struct ept_root root = {.key = 0};

    for (unsigned int i = 0; i < 3; i++) {
        cr_expect_not(ept_refused_again(&root, NULL, GPA2));
        cr_expect_not(ept_refused_again(&root, NULL, GPA2));
        ept_refused_cleared(&root, NULL);
    }
    ept_refused_again(&root, NULL, GPA2);
    ept_refused_again(&root, NULL, GPA2);
    cr_expect(ept_refused_again(&root, NULL, GPA2));
}
