/* SPDX-License-Identifier: MIT */
/* The smallest world that shows a rule of the composition, and what most tests of single rules do with it. */
#ifndef TESTS_UNIT_EPT_SIMPLE_H
#define TESTS_UNIT_EPT_SIMPLE_H

#include "ept_world.h"

#include <criterion/criterion.h>

#define AD_CAPS   (WORLD_CAPS_PLAIN | WORLD_CAPS_AD)
#define EPTP12    UINT64_C(0x1e) /* 4 levels, WB, root in page 0 */
#define EPTP12_AD (EPTP12 | NVMX_EPTP_AD)
#define GPA2      UINT64_C(0x5123) /* page 5 */
#define EPT_FLAGS (NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY)

static const struct world_access reading = {.kind = 1, .linear = true};
static const struct world_access writing = {.kind = 2, .linear = true};
static const struct world_access fetching = {.kind = 4, .linear = true};

/* Tables in pages 0 (PML4) to 3 (PT); gpa2 page n is gpa1 page 512 + n; ept01 is write-back RAM in 4K pages up to 4
 * MiB, then 2M pages. */
static inline struct world *simple(uint64_t cap, uint32_t budget) {
    struct world *w = world_new(cap, budget);

    world_set01(w, 0, 1024, 7, 6, false, 12);
    for (uint32_t pfn = 1024; pfn < 4096; pfn += 512) {
        world_set01(w, pfn, 512, 7, 6, false, 21);
    }
    w->l1[0][0] = 0x1407;
    w->l1[1][0] = 0x2407;
    w->l1[2][0] = 0x3407;
    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (512 + i) << 12 | 0x437;
    }
    return w;
}

static inline uint64_t root_of(struct world *w, unsigned int user, uint64_t eptp12) {
    uint64_t eptp02 = 0;

    cr_assert_eq(nvmx_ept_root(w->ept, &w, user, eptp12, w->mbec, &eptp02), NVMX_OK);
    return eptp02;
}

static inline enum nvmx_ept_verdict fault_at(struct world *w, uint64_t eptp12, uint64_t gpa2, uint64_t qualification,
                                             struct nvmx_ept_fault *fault) {
    struct nvmx_ept_access access = {.eptp12 = eptp12, .gpa2 = gpa2, .qualification = qualification, .mbec = w->mbec};

    root_of(w, 0, eptp12);
    return nvmx_ept_fault(w->ept, &w, &access, fault);
}

/* Faults until the CPU gets through; how many it took. */
static inline unsigned int touch(struct world *w, uint64_t eptp12, uint64_t gpa2, const struct world_access *access) {
    uint64_t eptp02 = root_of(w, 0, eptp12);
    uint64_t hpa, type, qualification;
    unsigned int faults = 0;
    struct nvmx_ept_fault fault;

    while (!world_cpu(w, 0, eptp02, gpa2, access, &hpa, &type, &qualification)) {
        cr_assert_eq(fault_at(w, eptp12, gpa2, qualification, &fault), NVMX_EPT_RETRY);
        cr_assert(++faults < 4);
    }
    return faults;
}

static inline struct world_translation look(struct world *w, uint64_t eptp12, uint64_t gpa2) {
    struct world_translation t;

    world_walk02(w, root_of(w, 0, eptp12), gpa2, &t);
    return t;
}

#endif
