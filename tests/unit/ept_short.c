/* SPDX-License-Identifier: MIT */
/*
 * The short way through an EPT violation (lib/ept/short.c) does what the long one does: two worlds have the same accesses and the same changes, and
 * in one of them no root has entries that the short way takes for plain. Which pages are mapped ahead of a sequence may differ, so that is left out.
 */
#include <string.h>

#include "ept/ept.h"
#include "ept_simple.h"

#define STEPS 6000u

struct pair {
    struct world *w[2]; /* the second goes the long way */
    uint64_t eptp12;
    unsigned int step, shorts, verdicts[NVMX_EPT_FAILED + 1];
};

static uint64_t enter(const struct pair *p, unsigned int i) {
    uint64_t eptp02 = root_of(p->w[i], 0, p->eptp12);

    if (i == 1) {
        p->w[1]->ept->root[0].plain.all = 0;
    }
    return eptp02;
}

static uint32_t below(struct pair *p, uint32_t limit) {
    return world_random(p->w[0], limit);
}

static void store(struct pair *p, unsigned int page, unsigned int index, uint64_t entry) {
    p->w[0]->l1[page][index] = p->w[1]->l1[page][index] = entry;
}

/* Page tables in pages 3 to 6; large pages and tables lie side by side in page 2. Each number is drawn by a statement of its own: compilers differ in
 * the order within one, and the program would not be the same. */
static void change12(struct pair *p) {
    static const uint64_t rights[8] = {0x407, 0x407, 0x407, 0x407, 0x403, 0x405, 0x401, 0};
    static const uint64_t types[8] = {0x30, 0x30, 0x30, 0x30, 0x70, 0x00, 0x20, 0x10};
    uint64_t right = rights[below(p, 8)], type = types[below(p, 8)], flags = below(p, 4) << 8;
    uint64_t entry = right | flags | UINT64_C(1) << 52;

    if (below(p, 6) == 0) {
        unsigned int index = below(p, 4);
        uint64_t large = (uint64_t)(1 + below(p, 6)) << 21 | 0x80 | type;
        uint64_t reserved = below(p, 12) == 0 ? 0x1000 : 0;
        store(p, 2, index, entry | (below(p, 2) == 0 ? large | reserved : (uint64_t)(3 + below(p, 4)) << 12));
    } else if (below(p, 20) == 0) {
        unsigned int page = below(p, 2);
        store(p, page, 0, below(p, 3) == 0 ? entry : entry | 0x507); /* its address is made good again below */
    } else {
        uint64_t address = (uint64_t)(512 + below(p, 512 * 5)) << 12, reserved = below(p, 50) == 0 ? UINT64_C(1) << 51 : 0;
        unsigned int page = 3 + below(p, 4), index = below(p, 16);
        store(p, page, index, entry | address | reserved | type);
    }
    for (unsigned int page = 0; page < 2; page++) {
        store(p, page, 0, (p->w[0]->l1[page][0] & ~EPT_ADDRESS & ~UINT64_C(0xf8)) | (page + 1) << 12);
    }
    if (below(p, 4) != 0) {
        for (unsigned int i = 0; i < 2; i++) {
            nvmx_ept_invept(p->w[i]->ept, &p->w[i], false, p->eptp12);
        }
    }
}

static void change01(struct pair *p) {
    static const uint8_t accesses[4] = {7, 5, 1, 0}, types[4] = {6, 6, 0, 4};
    uint32_t pfn = 512 + below(p, 512), count = 1;
    uint8_t access = accesses[below(p, 4)], type = types[below(p, 4)], shift = 12;
    bool ignore_pat = below(p, 8) == 0;

    if (below(p, 2) == 0) {
        pfn = (2 + below(p, 5)) << 9, count = 512, shift = 21;
    } else if (below(p, 2) == 0) {
        access = 7, type = 6;
    }
    for (unsigned int i = 0; i < 2; i++) {
        world_set01(p->w[i], pfn, count, access, type, ignore_pat, shift);
    }
}

static enum nvmx_ept_verdict access_once(struct pair *p, unsigned int i, uint64_t gpa2, const struct world_access *access,
                                         struct nvmx_ept_fault *fault) {
    uint64_t eptp02 = enter(p, i), hpa, type, qualification;

    for (unsigned int attempt = 0; attempt < 4; attempt++) {
        if (world_cpu(p->w[i], 0, eptp02, gpa2, access, &hpa, &type, &qualification)) {
            memset(fault, 0, sizeof(*fault));
            return NVMX_EPT_RETRY;
        }
        struct nvmx_ept_access what = {.eptp12 = p->eptp12, .gpa2 = gpa2, .qualification = qualification};
        uint64_t filled = p->w[i]->ept->root[0].last.table != NULL ? p->w[i]->ept->root[0].last.table->filled : 0;
        enum nvmx_ept_verdict verdict = nvmx_ept_fault(p->w[i]->ept, &p->w[i], &what, fault);
        if (verdict != NVMX_EPT_RETRY) {
            return verdict;
        }
        const struct ept_table *last = p->w[i]->ept->root[0].last.table;
        p->shorts += i == 0 && last != NULL && last->filled != filled;
        cr_assert(i == 0 || last == NULL, "the second world does not go the short way");
    }
    cr_assert_fail("step %u: L2 gets on neither way", p->step);
    return NVMX_EPT_FAILED;
}

static void one_access(struct pair *p) {
    static const uint64_t kinds[4] = {1, 2, 4, 1};
    struct world_access access = {.kind = kinds[below(p, 4)], .linear = true};
    uint64_t large = below(p, 4), small = below(p, 16), gpa2 = large << 21 | small << 12 | below(p, 4096);
    struct nvmx_ept_fault fault[2];
    struct world_translation t[2];
    enum nvmx_ept_verdict verdict[2];
    bool mapped[2];

    access.walk = below(p, 8) == 0;
    for (unsigned int i = 0; i < 2; i++) {
        verdict[i] = access_once(p, i, gpa2, &access, &fault[i]);
        mapped[i] = world_walk02(p->w[i], enter(p, i), gpa2, &t[i]);
    }
    p->verdicts[verdict[0]]++;
    cr_assert_eq(verdict[0], verdict[1], "step %u: %u, the long way %u", p->step, verdict[0], verdict[1]);
    /* Bits 12:9 are what the worlds' CPUs make up. */
    cr_assert(verdict[0] == NVMX_EPT_RETRY || (((fault[0].qualification ^ fault[1].qualification) & ~UINT64_C(0x1e00)) == 0 && fault[0].gpa1 == fault[1].gpa1 &&
                                               fault[0].convertible == fault[1].convertible),
              "step %u: what L1 or the host is told", p->step);
    cr_assert(verdict[0] != NVMX_EPT_RETRY || (mapped[0] && mapped[1] && t[0].hpa == t[1].hpa && t[0].rights == t[1].rights && t[0].type == t[1].type),
              "step %u, gpa2 %#llx: rights %#llx and %#llx", p->step, (unsigned long long)gpa2, (unsigned long long)t[0].rights,
              (unsigned long long)t[1].rights);
    cr_assert(memcmp(p->w[0]->l1, p->w[1]->l1, sizeof(p->w[0]->l1)) == 0, "step %u: flags of ept12", p->step);
}

static void same_program(uint64_t cap, bool ad, uint32_t budget, uint64_t seed) {
    struct pair p = {.w = {simple(cap, budget), simple(cap, budget)}, .eptp12 = ad ? EPTP12_AD : EPTP12};

    p.w[0]->random = p.w[1]->random = seed;
    for (unsigned int i = 1; i < 4; i++) {
        store(&p, 2, i, (3 + i) << 12 | 0x507);
        memcpy(p.w[0]->l1[3 + i], p.w[0]->l1[3], 4096);
        memcpy(p.w[1]->l1[3 + i], p.w[1]->l1[3], 4096);
    }
    for (p.step = 0; p.step < STEPS; p.step++) {
        uint32_t what = below(&p, 100);
        if (what < 12) {
            change12(&p);
        } else if (what < 16) {
            change01(&p);
        } else {
            one_access(&p);
        }
    }
    cr_expect(p.shorts > STEPS / 50, "only %u violations went the short way", p.shorts);
    for (unsigned int verdict = NVMX_EPT_RETRY; verdict <= NVMX_EPT_HOST_FAULT; verdict++) {
        cr_expect(verdict == NVMX_EPT_L1_LOG_FULL || p.verdicts[verdict] != 0, "verdict %u never came", verdict);
    }
    world_delete(p.w[0]);
    world_delete(p.w[1]);
}

Test(ept_short, does_what_the_long_way_does) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        same_program(WORLD_CAPS_PLAIN, false, 0, seed * 0x1234567);
        same_program(WORLD_CAPS_PLAIN & ~(1u << 16), false, 0, seed * 0x2345671);
    }
}

Test(ept_short, does_what_the_long_way_does_with_flags) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        same_program(AD_CAPS, true, 0, seed * 0x3456712);
    }
}

/* Tables come and go, and what is remembered of them must not outlive them: the world gives pages it frees another content. */
Test(ept_short, remembers_no_table_that_is_gone) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        same_program(AD_CAPS, true, 12, seed * 0x4567123);
    }
}

static struct ept_table *last(const struct world *w) {
    return w->ept->root[0].last.table;
}

/* One callback of each kind, whether the table is found by a walk or remembered. */
Test(ept_short, costs_one_read_and_one_lookup) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    touch(w, EPTP12, GPA2, &reading); /* makes the tables */
    cr_expect_null(last(w));
    for (uint64_t page = 8; page < 40; page += 8) {
        uint32_t maps = w->maps, lookups = w->lookups;

        cr_expect_eq(touch(w, EPTP12, page << 12, &writing), 1);
        cr_expect(w->maps - maps == 1 && w->lookups - lookups == 1, "%u maps, %u look-ups", w->maps - maps, w->lookups - lookups);
        cr_assert_not_null(last(w));
        cr_expect_eq(last(w)->level, 1);
    }
    /* L1 takes the table away: what comes next is found by a walk. */
    struct ept_table *before = last(w);
    uint64_t discards = w->ept->discards;
    w->l1[2][0] = 0x4407;
    memcpy(w->l1[4], w->l1[3], 4096);
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
    cr_expect_gt(w->ept->discards, discards);
    cr_expect_eq(last(w), before, "not the way that was just gone");
    cr_expect_eq(touch(w, EPTP12, 9 << 12, &reading), 1);
    cr_expect_eq(last(w)->gpa1, 0x4000);
    world_delete(w);
}

static void upper_table_goes(struct world *w) {
    w->l1[1][0] = 0;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    root_of(w, 1, EPTP12);
}

/* The table that is remembered is unlinked by another processor while the page is looked up: nothing is mapped, and L2 learns what L1 has done. */
Test(ept_short, is_late_when_its_table_goes_meanwhile) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &reading);
    touch(w, EPTP12, 8 << 12, &reading);
    w->in_lookup = upper_table_goes;
    cr_expect_eq(fault_at(w, EPTP12, 16 << 12, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(fault_at(w, EPTP12, 16 << 12, 0x181, &fault), NVMX_EPT_L1_VIOLATION);
    world_delete(w);
}

/* L1 has executed INVEPT, and this processor has not come to nvmx_ept_root since: what ept02 remembers does not count any more. */
Test(ept_short, remembers_nothing_that_was_invalidated) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = 16 << 12, .qualification = 0x181};
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &reading);
    touch(w, EPTP12, 8 << 12, &reading);
    w->l1[2][0] = 0x4407;
    w->l1[4][16] = UINT64_C(0x240) << 12 | 0x437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(look(w, EPTP12, 16 << 12).hpa & (WORLD_PFNS - 1), 0x240);
    world_delete(w);
}

/* Bits beyond L1's width are reserved, whatever ept01 has there (SDM 31.3.2). */
Test(ept_short, leaves_reserved_address_bits_to_the_long_way) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    world_set01(w, 1u << 18, 512, 7, 6, false, 12);
    touch(w, EPTP12, GPA2, &reading);
    w->l1[3][8] = UINT64_C(1) << 30 | 0x437;
    cr_expect_eq(touch(w, EPTP12, 8 << 12, &reading), 1);
    w->ept->l1.physical_address_bits = 30;
    ept_short_init(&w->ept->root[0].plain, &w->ept->l1, EPTP12, false);
    w->l1[3][16] = UINT64_C(1) << 30 | 0x437;
    cr_expect_eq(fault_at(w, EPTP12, 16 << 12, 0x181, &fault), NVMX_EPT_L1_MISCONFIG);
    world_delete(w);
}
