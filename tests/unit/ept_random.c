/* SPDX-License-Identifier: MIT */
/* Random changes and accesses: ept02 as the CPU walks it against the reference model. */
#include "ept_world.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

/* For each test, and with NVMX_FULL=1 in the environment. */
#define OPERATIONS_SHORT 30000u
#define OPERATIONS_FULL  1000000u
#define EPTPS            6u
#define INVALIDATE_LATER 15u /* percent of L1's changes that are not followed by INVEPT at once */

/* One run of random operations. */
struct run {
    struct world *w;
    uint64_t eptp12[EPTPS];
    uint64_t seed;
    unsigned int operation;
    unsigned int slot[WORLD_VCPUS]; /* which of its vmcs02 slots a vCPU runs */
    unsigned int eptp[WORLD_VCPUS][2];
    bool pending; /* L1 changed ept12 and has not invalidated */
    bool may_fail;
    uint64_t faults, granted, refused, unmapped, by_sub_page, events;
};

/* L1's tables of sub-page permissions: two roots, and two tables of level 3; two pages of tables for each entry of level 3, four of vectors. */
#define SPPT_PAGE 64u

/* L1's pages: the first 8 are roots (level 5 or 4), then each level has its own. */
static uint64_t page_of_level(struct run *r, unsigned int level) {
    static const uint8_t first[6] = {0, 32, 16, 10, 6, 0};
    static const uint8_t count[6] = {0, 32, 16, 6, 4, 6};

    return (uint64_t)(first[level] + world_random(r->w, count[level])) << 12;
}

static unsigned int some_index(struct run *r, unsigned int level) {
    static const uint16_t low[8] = {0, 1, 2, 3, 4, 5, 6, 511};

    return low[world_random(r->w, level == 1 ? 8 : level == 2 ? 3 : 2)];
}

static uint64_t some_gpa2(struct run *r) {
    uint64_t gpa2 = world_random(r->w, 4096);

    for (unsigned int level = 1; level <= 4; level++) {
        gpa2 |= (uint64_t)some_index(r, level) << (12 + 9 * (level - 1));
    }
    return world_random(r->w, 200) == 0 ? gpa2 | UINT64_C(1) << 50 : gpa2;
}

static uint64_t some_rights(struct run *r) {
    static const uint64_t rights[16] = {0x407, 0x407, 0x407, 0x407, 0x407, 0x407, 0x407, 0x403,
                                        0x003, 0x001, 0x005, 0x401, 0x405, 0x004, 0x400, 0x407};
    uint32_t which = world_random(r->w, 16);

    return world_random(r->w, 100) == 0 ? world_random(r->w, 8) : rights[which];
}

/* In the first GiB. Two numbers are never drawn in one expression: compilers differ in their order. */
static uint32_t small_page(struct world *w) {
    uint32_t block = world_random(w, 6);

    return block << 9 | world_random(w, 9);
}

static uint64_t some_leaf_address(struct run *r, unsigned int level) {
    uint64_t pfn;

    if (level == 3) {
        pfn = (uint64_t)world_random(r->w, 3) << 18;
    } else if (level == 2) {
        pfn = (uint64_t)world_random(r->w, 2) << 18;
        pfn |= (uint64_t)world_random(r->w, 6) << 9;
    } else {
        pfn = (uint64_t)world_random(r->w, 2) << 18;
        pfn |= small_page(r->w);
    }
    return pfn << 12;
}

static uint64_t some_entry(struct run *r, unsigned int level) {
    static const uint64_t types[8] = {6, 6, 6, 6, 0, 1, 4, 5};
    uint64_t rights = level > 1 && world_random(r->w, 10) != 0 ? 0x407 : some_rights(r);
    uint64_t entry = rights | (uint64_t)world_random(r->w, 1024) << 52;

    if (world_random(r->w, 100) < 2 * (6 - level)) {
        return world_random(r->w, 2) != 0 ? 0 : entry & ~UINT64_C(0x407);
    }
    if (level > 1 && (level > 3 || world_random(r->w, 4) != 0)) {
        entry |= page_of_level(r, level - 1);
    } else {
        entry |= some_leaf_address(r, level) | (level > 1 ? 0x80 : 0);
        entry |= types[world_random(r->w, 8)] << 3;
        entry |= world_random(r->w, 8) == 0 ? 0x40 : 0;
    }
    if (r->w->spp && level == 1 && world_random(r->w, 2) != 0) {
        entry = (entry & ~UINT64_C(2)) | 1 | NVMX_EPT_SUB_PAGE;
    }
    if (world_random(r->w, 60) == 0) {
        uint64_t bit = UINT64_C(1) << world_random(r->w, 52);

        /* Often a misconfiguration. What is a page of 1 GiB for ept01 is described for its first six blocks only. */
        entry ^= bit >= UINT64_C(1) << 21 && bit < UINT64_C(1) << 30 ? 0 : bit;
    }
    return entry;
}

static void store12(struct run *r, unsigned int level, uint64_t page, unsigned int index, uint64_t entry) {
    (void)level;
    r->w->l1[page >> 12][index] = entry;
    r->w->expected[page >> 12][index] = entry;
    r->w->written[page >> 12] = true;
    if (index != 511 && index >= r->w->entries[page >> 12]) {
        r->w->entries[page >> 12] = (uint16_t)(index + 1);
    }
}

static void store_some(struct run *r, unsigned int level) {
    uint64_t page = page_of_level(r, level);
    unsigned int index = some_index(r, level);

    store12(r, level, page, index, some_entry(r, level));
}

/* Flags that were set while ept12 had changes pending were not followed. They are in entries that were stored; elsewhere nothing is to be written. */
static void expect_what_is(struct world *w) {
    for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
        memcpy(w->expected[page], w->l1[page], w->entries[page] * sizeof(w->l1[page][0]));
        w->expected[page][511] = w->l1[page][511];
    }
}

/* Of the entries that were stored. The whole memory is compared at the end. */
static bool entries_are_expected(const struct world *w) {
    for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
        if (memcmp(w->l1[page], w->expected[page], w->entries[page] * sizeof(w->l1[page][0])) != 0 || w->l1[page][511] != w->expected[page][511]) {
            return false;
        }
    }
    return true;
}

/* On every processor, as L1 does. */
static void invept(struct run *r, bool all) {
    for (r->w->vcpu = 0; r->w->vcpu < WORLD_VCPUS; r->w->vcpu++) {
        if (all) {
            nvmx_ept_invept(r->w->ept, &r->w, true, 0);
        }
        for (unsigned int i = 0; i < EPTPS && !all; i++) {
            nvmx_ept_invept(r->w->ept, &r->w, false, r->eptp12[i] | world_random(r->w, 8));
        }
    }
    r->w->vcpu = 0;
    if (r->pending) {
        expect_what_is(r->w);
    }
    r->pending = false;
}

static uint64_t sppt_page(struct run *r, unsigned int level) {
    static const uint8_t first[5] = {0, 8, 4, 2, 0};
    static const uint8_t count[5] = {0, 8, 4, 2, 2};

    return (uint64_t)(SPPT_PAGE + first[level] + world_random(r->w, count[level])) << 12;
}

static void store_sppt(struct run *r) {
    unsigned int level = world_random(r->w, 3) != 0 ? 1 : 1 + world_random(r->w, 4);
    uint64_t page = sppt_page(r, level);
    unsigned int index = some_index(r, level);
    uint64_t entry;

    if (level > 1) {
        entry = sppt_page(r, level - 1) | (world_random(r->w, 12) != 0);
    } else {
        entry = (uint64_t)world_random(r->w, UINT32_MAX) << 32;
        entry = (entry | world_random(r->w, UINT32_MAX)) & UINT64_C(0x5555555555555555);
        entry |= world_random(r->w, 3) == 0 ? UINT64_C(0x5555555555555555) : 0;
    }
    if (world_random(r->w, 20) == 0) {
        entry ^= UINT64_C(1) << world_random(r->w, 64); /* often a misconfiguration */
    }
    store12(r, level, page, index, entry);
}

/* Of an EPTP12, where sub-page permissions are on. */
static uint64_t spptp12_of(const struct run *r, unsigned int eptp) {
    (void)r;
    return (uint64_t)(SPPT_PAGE + eptp % 2) << 12;
}

/* The root of one of L1's EPTPs; with it the CPU and the model know the tables of sub-page permissions. */
static enum nvmx_status enter_root(struct run *r, unsigned int user, unsigned int eptp, uint64_t *eptp02) {
    struct world *w = r->w;

    if (!w->spp) {
        return nvmx_ept_root(w->ept, &w, user, r->eptp12[eptp], w->mbec, eptp02);
    }
    w->spptp12 = spptp12_of(r, eptp);
    return nvmx_ept_root_spp(w->ept, &w, user, r->eptp12[eptp], w->mbec, w->spptp12, eptp02, &w->spptp02);
}

static void change12(struct run *r) {
    if (r->w->spp && world_random(r->w, 3) == 0) {
        store_sppt(r);
        r->pending = true;
        if (world_random(r->w, 100) >= INVALIDATE_LATER) {
            invept(r, world_random(r->w, 2) != 0);
        }
        return;
    }
    unsigned int top = (unsigned int)(r->eptp12[0] >> 3 & 7) + 1;
    unsigned int level = 1 + world_random(r->w, 2);
    uint64_t page;
    unsigned int index;

    level += world_random(r->w, 4) == 0 ? world_random(r->w, top - 1) : 0;
    level = level > top ? top : level;
    page = page_of_level(r, level);
    index = some_index(r, level);
    if (world_random(r->w, 4) == 0) {
        store12(r, level, page, index,
                r->w->l1[page >> 12][index] & ~(uint64_t)(world_random(r->w, 4) << 8)); /* clear A, D */
    } else if (world_random(r->w, 4) == 0) {
        store12(r, level, page, index, r->w->l1[page >> 12][index] ^ (2u << world_random(r->w, 2))); /* protect */
    } else {
        store12(r, level, page, index, some_entry(r, level));
    }
    r->pending = true;
    if (world_random(r->w, 100) >= INVALIDATE_LATER) {
        invept(r, world_random(r->w, 2) != 0);
    }
}

static void change01(struct run *r) {
    static const uint8_t accesses[8] = {7, 7, 7, 7, 5, 3, 1, 0};
    static const uint8_t types[8] = {6, 6, 6, 6, 0, 1, 4, 5};
    struct world *w = r->w;
    uint8_t access = accesses[world_random(w, 8)];
    uint8_t type = types[world_random(w, 8)];
    bool ignore_pat = world_random(w, 6) == 0;

    if (world_random(w, 4) == 0) {
        uint32_t pfn = small_page(w);

        world_protect01(w, pfn, 1 + world_random(w, 3));
        return;
    }
    switch (world_random(w, 200) == 0 ? 2 : world_random(w, 2)) {
    case 0: /* a 4K page; what was large around it is broken up first */
    {
        uint32_t pfn = small_page(w);
        if (w->ept01[pfn].shift != 12) {
            world_set01(w, pfn & ~511u, 512, 7, 6, false, 12);
        }
        world_set01(w, pfn, 1, access, type, ignore_pat, 12);
        break;
    }
    case 1: /* a 2M page in the first GiB, or in the second if that is not one page */
    {
        uint32_t pfn = world_random(w, 6) << 9;
        if (w->ept01[1u << 18].shift == 21 && world_random(w, 2) != 0) {
            pfn |= 1u << 18;
        }
        world_set01(w, pfn, 512, access, type, ignore_pat, 21);
        break;
    }
    default:
        /* No address that some_gpa2 gives leads beyond its first six blocks. */
        world_set01(w, 1u << 18, 512 * 6, access, type, ignore_pat, world_random(w, 3) == 0 ? 21 : 30);
        nvmx_ept_memory_changed(w->ept, &w, UINT64_C(1) << 30, UINT64_C(1) << 30);
        break;
    }
}

static struct world_access some_access(struct run *r) {
    static const uint64_t kinds[8] = {1, 1, 1, 2, 2, 3, 4, 4};
    struct world_access access = {.kind = kinds[world_random(r->w, 8)], .linear = true};

    if (world_random(r->w, 5) == 0) {
        access.walk = true;
        access.kind = 1 + world_random(r->w, 2);
    } else if (world_random(r->w, 10) == 0) {
        access.linear = false;
        access.kind = 1;
    }
    access.user = access.linear && !access.walk && world_random(r->w, 2) != 0;
    return access;
}

#define CHECK(condition)                                                                                               \
    cr_assert(condition, "seed %#llx operation %u: " #condition, (unsigned long long)r->seed, r->operation)

/* Whatever ept12 is: the page is in ept01 now, with those rights. */
static void check_ept01(struct run *r, uint64_t hpa, uint64_t rights) {
    const struct world_page01 *page = &r->w->ept01[hpa >> 12 & (WORLD_PFNS - 1)];
    uint64_t most = page->access | ((page->access & 4) != 0 ? 0x400 : 0);

    CHECK(page->pfn == hpa >> 12);
    CHECK((rights & 0x407 & ~most) == 0 || (!r->w->mbec && (rights & 7 & ~most) == 0));
}

/* Of an SPP-related event that turns out to be something else the CPU tells by itself, when L2 tries again. */
static void check_event(struct run *r, enum nvmx_ept_verdict verdict, const struct nvmx_ept_fault *fault,
                        const struct world_answer *model, uint64_t hardware) {
    r->events++;
    switch (model->outcome) {
    case WORLD_MISCONFIG:
        CHECK(verdict == NVMX_EPT_L1_MISCONFIG);
        break;
    case WORLD_SPP_EVENT:
        CHECK(verdict == NVMX_EPT_L1_SPP_EVENT);
        CHECK(fault->qualification == (model->qualification | (hardware & 0x1000)));
        break;
    default:
        CHECK(verdict == NVMX_EPT_RETRY);
        break;
    }
}

static void check_verdict(struct run *r, enum nvmx_ept_verdict verdict, const struct nvmx_ept_fault *fault,
                          const struct world_answer *model, uint64_t hardware) {
    uint64_t copied = hardware & 0x1180;

    if ((hardware & 0x180) == 0x180 && (r->w->l1_caps.msr[NVMX_CAP_EPT_VPID] & WORLD_CAPS_ADVANCED) != 0) {
        copied |= hardware & 0xe00;
    }
    switch (model->outcome) {
    case WORLD_OK:
        CHECK(verdict == NVMX_EPT_RETRY);
        break;
    case WORLD_VIOLATION:
        CHECK(verdict == NVMX_EPT_L1_VIOLATION);
        CHECK(fault->qualification == (model->qualification | copied));
        break;
    case WORLD_MISCONFIG:
        CHECK(verdict == NVMX_EPT_L1_MISCONFIG);
        break;
    case WORLD_HOST:
        CHECK(verdict == NVMX_EPT_HOST_FAULT);
        CHECK(fault->gpa1 == model->gpa1);
        break;
    case WORLD_SPP_EVENT:
        CHECK(verdict == NVMX_EPT_L1_SPP_EVENT);
        CHECK(fault->qualification == (model->qualification | (hardware & 0x1000)));
        break;
    }
}

static void one_access(struct run *r) {
    struct world *w = r->w;
    unsigned int vcpu = w->vcpu = world_random(w, WORLD_VCPUS);
    unsigned int user = vcpu * 2 + r->slot[vcpu];
    unsigned int eptp = r->eptp[vcpu][r->slot[vcpu]];
    uint64_t eptp12 = r->eptp12[eptp];
    struct nvmx_ept_access access = {.eptp12 = eptp12, .gpa2 = some_gpa2(r), .mbec = w->mbec, .spp = w->spp};
    struct world_access kind = some_access(r);
    struct nvmx_ept_fault fault;
    struct world_answer model;
    uint64_t eptp02, hpa, type;
    enum nvmx_status status = enter_root(r, user, eptp, &eptp02);

    access.spptp12 = w->spptp12;
    if (status != NVMX_OK) {
        CHECK(r->may_fail && status == NVMX_E_NO_MEMORY);
        return;
    }
    for (unsigned int attempt = 0;; attempt++) {
        enum nvmx_ept_verdict verdict;

        model = world_model(w, eptp12, access.gpa2, &kind, false);
        if (world_cpu(w, vcpu, eptp02, access.gpa2, &kind, &hpa, &type, &access.qualification)) {
            check_ept01(r, hpa, kind.kind & 3);
            if (!r->pending) {
                CHECK(model.outcome == WORLD_OK && model.hpa == hpa && model.type == type);
            }
            r->granted++;
            r->by_sub_page += (model.qualification & 0x12) == 2;
            break;
        }
        CHECK(attempt < 1 + 2u * w->spp || r->pending || r->may_fail); /* without a page L2 is to try again, too */
        r->faults++;
        access.spp_event = w->spp_event;
        struct nvmx_ept_fault unmapped_fault = {0};
        bool unmapped = !access.spp_event && nvmx_ept_unmapped(w->ept, &w, &access, &unmapped_fault);
        verdict = nvmx_ept_fault(w->ept, &w, &access, &fault);
        if (unmapped && !r->pending) {
            CHECK(verdict == NVMX_EPT_L1_VIOLATION && unmapped_fault.qualification == fault.qualification);
            CHECK(unmapped_fault.convertible == fault.convertible && unmapped_fault.gpa1 == fault.gpa1);
            r->unmapped++;
        }
        if (verdict == NVMX_EPT_FAILED) {
            CHECK(r->may_fail && fault.status == NVMX_E_NO_MEMORY);
            /* the page could not be mapped, but ept12's flags may have been set before */
            world_model(w, eptp12, access.gpa2, &kind, true);
            return;
        }
        if (!r->pending) {
            (access.spp_event ? check_event : check_verdict)(r, verdict, &fault, &model, access.qualification);
        }
        if (verdict != NVMX_EPT_RETRY || attempt == 3) {
            r->refused++;
            break;
        }
    }
    if (!r->pending) {
        world_model(w, eptp12, access.gpa2, &kind, true);
    }
}

/* Everything that ept02 permits now is permitted by the model, with the flags set. */
static void sweep(struct run *r) {
    static const struct world_access read = {.kind = 1, .linear = true};
    static const struct world_access write = {.kind = 2, .linear = true};
    static const struct world_access fetch = {.kind = 4, .linear = true};
    static const struct world_access user_fetch = {.kind = 4, .linear = true, .user = true};
    struct world *w = r->w;

    if (r->pending) {
        invept(r, true);
    }
    CHECK(entries_are_expected(w));
    CHECK(nvmx_ept_pages(w->ept) == w->allocated - w->freed);
    for (unsigned int user = 0; user < 4; user++) {
        unsigned int eptp = r->eptp[user / 2][user % 2];
        uint64_t eptp12 = r->eptp12[eptp];
        uint64_t eptp02;

        if (enter_root(r, user, eptp, &eptp02) != NVMX_OK) {
            continue;
        }
        for (unsigned int i = 0; i < 40; i++) {
            uint64_t gpa2 = some_gpa2(r);
            struct world_translation t;
            uint64_t before[4];

            if (!world_walk02(w, eptp02, gpa2, &t)) {
                continue;
            }
            check_ept01(r, t.hpa << 12, t.rights | (t.sub_page ? 2 : 0));
            if (t.sub_page && world_vector02(w, gpa2, &t) && (t.vector >> (2 * (gpa2 >> 7 & 31)) & 1) != 0) {
                CHECK(world_model(w, eptp12, gpa2, &write, true).outcome == WORLD_OK);
            }
            before[0] = (t.rights & 1) == 0 || world_model(w, eptp12, gpa2, &read, true).outcome == WORLD_OK;
            before[1] = (t.rights & 2) == 0 || world_model(w, eptp12, gpa2, &write, true).outcome == WORLD_OK;
            before[2] = (t.rights & 4) == 0 || world_model(w, eptp12, gpa2, &fetch, true).outcome == WORLD_OK;
            before[3] = !w->mbec || (t.rights >> 10 & 1) == 0 ||
                        world_model(w, eptp12, gpa2, &user_fetch, true).outcome == WORLD_OK;
            CHECK(before[0] && before[1] && before[2] && before[3]);
        }
    }
    /* The model has just set the flags of all that is mapped: they must all have been set in L1's memory before. */
    CHECK(entries_are_expected(w));
}

static void one_operation(struct run *r) {
    struct world *w = r->w;
    unsigned int what = world_random(w, 1000);
    unsigned int vcpu = world_random(w, WORLD_VCPUS);

    if (what < 700) {
        one_access(r);
    } else if (what < 800) {
        change12(r);
    } else if (what < 860) {
        change01(r);
    } else if (what < 880) {
        invept(r, true);
    } else if (what < 930) {
        r->slot[vcpu] ^= 1;
    } else if (what < 970) {
        r->eptp[vcpu][r->slot[vcpu]] = world_random(w, EPTPS);
    } else if (what < 980) {
        nvmx_ept_release(w->ept, &w, vcpu * 2 + world_random(w, 2));
    } else {
        sweep(r);
    }
}

static void fill(struct run *r, unsigned int top) {
    for (unsigned int i = 0; i < 800 && r->w->spp; i++) {
        store_sppt(r);
    }
    for (unsigned int i = 0; i < 6; i++) {
        world_set01(r->w, i << 9, 512, 7, 6, false, i < 3 ? 12 : 21);
        world_set01(r->w, 1u << 18 | i << 9, 512, 7, 6, false, 21);
    }
    for (unsigned int level = 1; level <= top; level++) {
        for (unsigned int i = 0; i < 600; i++) {
            store_some(r, level);
        }
    }
}

enum features { PLAIN = 0, MBEC = 1, SPP = 2 };

static void random_run(uint64_t cap, enum features features, uint32_t budget, unsigned int fail_percent, uint64_t seed) {
    unsigned int operations = getenv("NVMX_FULL") != NULL ? OPERATIONS_FULL : OPERATIONS_SHORT;
    struct world *w = world_new(cap, budget);
    unsigned int top = (cap & (1u << 7)) != 0 ? 5 : 4;
    struct run run = {.w = w, .seed = seed, .may_fail = fail_percent != 0};
    struct run *r = &run;

    w->mbec = (features & MBEC) != 0;
    w->spp = (features & SPP) != 0;
    w->random = seed;
    w->versions = seed % 2 != 0;
    fill(r, top);
    for (unsigned int i = 0; i < EPTPS; i++) {
        bool ad = (cap & WORLD_CAPS_AD) != 0 && i % 2 == 0;
        uint64_t page = top == 5 ? i : 6 + i % 4;

        run.eptp12[i] = page << 12 | (uint64_t)(top - 1) << 3 | 6 | (ad ? NVMX_EPTP_AD : 0);
        CHECK(nvmx_eptp_valid(&w->l1_caps, run.eptp12[i]));
    }
    w->fail_percent = fail_percent;
    for (run.operation = 0; run.operation < operations; run.operation++) {
        one_operation(r);
        CHECK(budget == 0 || nvmx_ept_pages(w->ept) <= budget);
    }
    sweep(r);
    CHECK(run.granted > operations / 10); /* or the run shows nothing */
    CHECK(run.faults > operations / 100);
    CHECK(run.refused > operations / 100);
    CHECK(run.unmapped > operations / 1000);
    CHECK(!w->spp || (run.by_sub_page > operations / 400 && run.events > operations / 3000));
    world_delete(w);
}

Test(ept, random_plain) {
    random_run(WORLD_CAPS_PLAIN, PLAIN, 0, 0, 0x1234567);
}

Test(ept, random_without_large_pages_or_execute_only) {
    random_run(WORLD_CAPS_PLAIN & ~((1u << 0) | (1u << 16) | (1u << 17)), PLAIN, 0, 0, 0x2345671);
}

Test(ept, random_accessed_and_dirty) {
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, PLAIN, 0, 0, 0x3456712);
}

Test(ept, random_mbec) {
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, MBEC, 0, 0, 0x4567123);
}

Test(ept, random_five_levels) {
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD | (1u << 7), PLAIN, 0, 0, 0x5671234);
}

Test(ept, random_small_budget) {
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD, PLAIN, 48, 0, 0x6712345);
}

Test(ept, random_allocator_fails) {
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD, PLAIN, 0, 30, 0x7123456);
    random_run(WORLD_CAPS_PLAIN, PLAIN, 40, 20, 0x7123457);
}

Test(ept, random_sub_page_permissions) {
    random_run(WORLD_CAPS_PLAIN, SPP, 0, 0, 0x1234573);
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, (enum features)(SPP | MBEC), 0, 0, 0x2345712);
    random_run(WORLD_CAPS_PLAIN | WORLD_CAPS_AD, SPP, 64, 20, 0x3457123);
}
