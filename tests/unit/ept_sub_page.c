/* SPDX-License-Identifier: MIT */
/* Sub-page write permissions (SDM 31.3.4): L1's table of them, SPPT02, and bit 61 of ept02's leaves, rule by rule. */
#include "ept_simple.h"

#include <string.h>

#define SPPTP12  UINT64_C(0x40000) /* pages 64 (level 4), 65, 66, and 67 with vectors */
#define READABLE UINT64_C(0x435)   /* a leaf that can be read and executed */
#define SUB_PAGE NVMX_EPT_SUB_PAGE
#define Q_WRITE  UINT64_C(0x182)
#define MISS     UINT64_C(0x800)
#define MOST     UINT64_C(0x5555555555555555)

static const struct world_access walking = {.kind = 2, .linear = true, .walk = true};
static const struct world_access physical = {.kind = 2};
static const struct world_access both = {.kind = 3, .linear = true};

/* Page 5 can be read, and sub-page 2 of it, in which GPA2 is, written to; page 6 likewise, its sub-pages but 2. */
static struct world *spp_simple(uint64_t cap) {
    struct world *w = simple(cap, 0);

    w->spp = true;
    w->spptp12 = SPPTP12;
    w->l1[64][0] = 65 << 12 | 1;
    w->l1[65][0] = 66 << 12 | 1;
    w->l1[66][0] = 67 << 12 | 1;
    w->l1[67][5] = 1 << 4;
    w->l1[67][6] = MOST & ~(UINT64_C(1) << 4);
    w->l1[3][5] = 0x205000 | READABLE | SUB_PAGE;
    w->l1[3][6] = 0x206000 | READABLE | SUB_PAGE;
    return w;
}

/* One processor: its context is one address, which tells it from others (subpage.c). */
static void *ctx(struct world *w) {
    static struct world *of_processor;

    of_processor = w;
    return &of_processor;
}

static uint64_t enter(struct world *w, unsigned int user, uint64_t eptp12) {
    uint64_t eptp02 = 0;

    cr_assert_eq(nvmx_ept_root_spp(w->ept, ctx(w), user, eptp12, w->mbec, w->spptp12, &eptp02, &w->spptp02), NVMX_OK);
    return eptp02;
}

static struct nvmx_ept_access access_to(const struct world *w, uint64_t eptp12, uint64_t gpa2, uint64_t qualification) {
    return (struct nvmx_ept_access){.eptp12 = eptp12, .gpa2 = gpa2, .qualification = qualification, .spp = w->spp, .spptp12 = w->spptp12};
}

static enum nvmx_ept_verdict decided(struct world *w, uint64_t eptp12, uint64_t gpa2, uint64_t qualification, struct nvmx_ept_fault *fault) {
    struct nvmx_ept_access access = access_to(w, eptp12, gpa2, qualification);

    enter(w, 0, eptp12);
    return nvmx_ept_fault(w->ept, ctx(w), &access, fault);
}

struct outcome {
    enum nvmx_ept_verdict verdict; /* NVMX_EPT_RETRY: L2 got through */
    uint64_t qualification;
    unsigned int exits, events;
};

/* L2 accesses until it gets through or somebody hears of it. */
static struct outcome attempt(struct world *w, uint64_t eptp12, uint64_t gpa2, const struct world_access *access) {
    struct outcome outcome = {NVMX_EPT_RETRY, 0, 0, 0};
    uint64_t eptp02 = enter(w, 0, eptp12), hpa, type, qualification;
    struct nvmx_ept_fault fault;

    while (outcome.verdict == NVMX_EPT_RETRY && !world_cpu(w, 0, eptp02, gpa2, access, &hpa, &type, &qualification)) {
        struct nvmx_ept_access exit = access_to(w, eptp12, gpa2, qualification & ~UINT64_C(0x1e00));

        exit.spp_event = w->spp_event;
        outcome.events += w->spp_event;
        cr_assert(++outcome.exits < 6);
        outcome.verdict = nvmx_ept_fault(w->ept, ctx(w), &exit, &fault);
        outcome.qualification = fault.qualification;
    }
    return outcome;
}

static struct world_translation leaf(struct world *w, uint64_t eptp12, uint64_t gpa2) {
    struct world_translation t;

    world_walk02(w, enter(w, 0, eptp12), gpa2, &t);
    return t;
}

/* Of the pointer only the address counts, also where no vmcs12 was checked before. */
Test(ept_sub_page, low_bits_of_the_pointer_do_not_count) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);

    w->spptp12 = SPPTP12 | 0xabc;
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
    uint64_t eptp02 = enter(w, 0, EPTP12);
    w->spptp12 = SPPTP12;
    cr_expect_eq(enter(w, 1, EPTP12), eptp02, "the same root");
    world_delete(w);
}

/* What L1's table says, by the first exit of an access to a page that ept02 does not know, and by exit 66 of one that it knows. */
Test(ept_sub_page, what_l1s_table_says) {
    static const struct {
        const char *what;
        unsigned int page, index;
        uint64_t entry, gpa2;
        enum nvmx_ept_verdict verdict;
        uint64_t qualification;
    } rows[] = {
        {"sub-page 2", 67, 5, 1 << 4, 0x5123, NVMX_EPT_RETRY, 0},
        {"its last byte", 67, 5, 1 << 4, 0x517f, NVMX_EPT_RETRY, 0},
        {"sub-page 1", 67, 5, 1 << 4, 0x50ff, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {"sub-page 3", 67, 5, 1 << 4, 0x5180, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {"sub-page 0", 67, 5, 1, 0x5000, NVMX_EPT_RETRY, 0},
        {"sub-page 31", 67, 5, UINT64_C(1) << 62, 0x5fff, NVMX_EPT_RETRY, 0},
        {"not sub-page 30", 67, 5, UINT64_C(1) << 62, 0x5f7f, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {"nothing", 67, 5, 0, 0x5123, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {"the vector of another page", 67, 4, 0, 0x5123, NVMX_EPT_RETRY, 0},
        {"bit 1 of the vector", 67, 5, MOST | 2, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 63 of the vector", 67, 5, MOST | UINT64_C(1) << 63, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"level 2 invalid", 66, 0, 67 << 12, 0x5123, NVMX_EPT_L1_SPP_EVENT, MISS},
        {"level 3 invalid", 65, 0, 0, 0x5123, NVMX_EPT_L1_SPP_EVENT, MISS},
        {"level 4 invalid", 64, 0, 65 << 12, 0x5123, NVMX_EPT_L1_SPP_EVENT, MISS},
        {"invalid and reserved", 66, 0, 67 << 12 | 2, 0x5123, NVMX_EPT_L1_SPP_EVENT, MISS},
        {"bit 1 of level 2", 66, 0, 67 << 12 | 3, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 11 of level 3", 65, 0, 66 << 12 | 0x801, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 39 of level 4", 64, 0, UINT64_C(1) << 39 | 65 << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 51 of level 2", 66, 0, UINT64_C(1) << 51 | 67 << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 52 of level 2", 66, 0, UINT64_C(1) << 52 | 67 << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"bit 63 of level 2", 66, 0, UINT64_C(1) << 63 | 67 << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"a table without memory", 66, 0, WORLD_L1_PAGES << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
        {"vectors without memory", 65, 0, WORLD_L1_PAGES << 12 | 1, 0x5123, NVMX_EPT_L1_SPP_EVENT, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned int known = 0; known < 2; known++) {
            struct world *w = spp_simple(WORLD_CAPS_PLAIN);

            w->l1[rows[i].page][rows[i].index] = rows[i].entry;
            if (known) {
                attempt(w, EPTP12, rows[i].gpa2, &reading);
            }
            struct outcome outcome = attempt(w, EPTP12, rows[i].gpa2, &writing);
            cr_expect_eq(outcome.verdict, rows[i].verdict, "%s, known %u: %d", rows[i].what, known, (int)outcome.verdict);
            cr_expect(outcome.verdict == NVMX_EPT_RETRY || (outcome.qualification & ~UINT64_C(0x1000)) == rows[i].qualification,
                      "%s, known %u: %#lx", rows[i].what, known, outcome.qualification);
            cr_expect_eq(outcome.events, known, "%s", rows[i].what);
            world_delete(w);
        }
    }
}

/* Which accesses and pages the permissions apply to. */
Test(ept_sub_page, what_is_eligible) {
    static const struct {
        const char *what;
        uint64_t leaf, above;
        const struct world_access *access;
        enum nvmx_ept_verdict verdict;
        bool bit; /* 61 of the leaf of ept02 */
    } rows[] = {
        {"readable", READABLE, 0x407, &writing, NVMX_EPT_RETRY, true},
        {"readable, no fetches", 0x431, 0x407, &writing, NVMX_EPT_RETRY, true},
        {"read and write", READABLE, 0x407, &both, NVMX_EPT_RETRY, true},
        {"protected above alone", 0x437, 0x405, &writing, NVMX_EPT_RETRY, true},
        {"not readable", 0x434, 0x407, &writing, NVMX_EPT_L1_VIOLATION, false},
        {"not readable above", READABLE, 0x404, &writing, NVMX_EPT_L1_VIOLATION, false},
        {"writable", 0x437, 0x407, &writing, NVMX_EPT_RETRY, false},
        {"a paging structure of L2", READABLE, 0x407, &walking, NVMX_EPT_L1_VIOLATION, true},
        {"no linear address", READABLE, 0x407, &physical, NVMX_EPT_L1_VIOLATION, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = spp_simple(WORLD_CAPS_PLAIN);

        w->l1[67][5] = MOST;
        w->l1[3][5] = 0x205000 | rows[i].leaf | SUB_PAGE;
        w->l1[2][0] = 0x3000 | rows[i].above;
        attempt(w, EPTP12, GPA2, rows[i].leaf & rows[i].above & 1 ? &reading : &fetching);
        struct outcome outcome = attempt(w, EPTP12, GPA2, rows[i].access);
        cr_expect_eq(outcome.verdict, rows[i].verdict, "%s: %d", rows[i].what, (int)outcome.verdict);
        cr_expect_eq(leaf(w, EPTP12, GPA2).sub_page, rows[i].bit, "%s", rows[i].what);
        world_delete(w);
    }
}

Test(ept_sub_page, bit_61_means_nothing_without_the_control) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_fault fault;

    w->spp = false; /* the CPU then fails on the bit */
    cr_expect_eq(fault_at(w, EPTP12, GPA2, Q_WRITE, &fault), NVMX_EPT_L1_VIOLATION);
    touch(w, EPTP12, GPA2, &reading);
    cr_expect(!look(w, EPTP12, GPA2).sub_page);
    world_delete(w);
}

/* Neither of ept12's own, nor of one that ept01's pages split: there is no PTE. */
Test(ept_sub_page, large_pages_have_none) {
    for (uint64_t gpa1 = 0x200000; gpa1 <= 0x400000; gpa1 += 0x200000) {
        struct world *w = spp_simple(WORLD_CAPS_PLAIN);

        w->l1[66][1] = 67 << 12 | 1;
        memset(w->l1[67], 0x55, sizeof(w->l1[67]));
        w->l1[2][1] = gpa1 | READABLE | 0x80 | SUB_PAGE;
        attempt(w, EPTP12, 0x205123, &reading);
        cr_expect(leaf(w, EPTP12, 0x205123).valid && !leaf(w, EPTP12, 0x205123).sub_page);
        cr_expect_eq(attempt(w, EPTP12, 0x205123, &writing).verdict, NVMX_EPT_L1_VIOLATION);
        world_delete(w);
    }
}

Test(ept_sub_page, a_small_page_stays_small) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);

    w->l1[3][5] = 0x405000 | READABLE | SUB_PAGE; /* where ept01 has 2M */
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
    cr_expect_eq(attempt(w, EPTP12, GPA2 + 128, &writing).verdict, NVMX_EPT_L1_VIOLATION);
    cr_expect(leaf(w, EPTP12, GPA2).sub_page);
    world_delete(w);
}

Test(ept_sub_page, ept01_has_the_last_word) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);

    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
    world_protect01(w, 0x205, 1);
    cr_expect(leaf(w, EPTP12, GPA2).valid && !leaf(w, EPTP12, GPA2).sub_page, "readable it stays");
    cr_expect_eq(attempt(w, EPTP12, GPA2, &reading).exits, 0);
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_HOST_FAULT);
    cr_expect(!leaf(w, EPTP12, GPA2).sub_page);
    w->ept01[0x205].access = 7; /* the host has noted the write */
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
    cr_expect_eq(attempt(w, EPTP12, GPA2 + 128, &writing).verdict, NVMX_EPT_L1_VIOLATION);
    world_set01(w, 0x205, 1, 5, 6, false, 12);
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_HOST_FAULT);
    cr_expect_eq(attempt(w, EPTP12, GPA2 + 128, &writing).verdict, NVMX_EPT_L1_VIOLATION, "L1's refusal comes first");
    world_delete(w);
}

/* An SPP-related event where ept01 refuses by now: the CPU is to say that it is a violation. */
Test(ept_sub_page, an_event_is_never_the_hosts) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_access event = access_to(w, EPTP12, GPA2, MISS);
    struct nvmx_ept_fault fault;

    event.spp_event = true;
    attempt(w, EPTP12, GPA2, &reading);
    w->ept01[0x205].access = 5; /* the composition has not been told yet */
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &event, &fault), NVMX_EPT_RETRY);
    cr_expect(!leaf(w, EPTP12, GPA2).valid);
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_HOST_FAULT);
    w->ept01[0x205].access = 7;
    attempt(w, EPTP12, GPA2, &reading);
    w->l1[3][5] = 0; /* not invalidated: the CPU may know either */
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &event, &fault), NVMX_EPT_RETRY);
    cr_expect(!leaf(w, EPTP12, GPA2).valid);
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_L1_VIOLATION);
    world_delete(w);
}

Test(ept_sub_page, invept_follows_l1s_table) {
    static const struct {
        const char *what;
        unsigned int page, index;
        uint64_t entry;
        enum nvmx_ept_verdict verdict;
    } rows[] = {
        {"nothing changed", 67, 5, 1 << 4, NVMX_EPT_RETRY},
        {"another page's vector", 67, 6, 0, NVMX_EPT_RETRY},
        {"the vector", 67, 5, 1 << 6, NVMX_EPT_L1_VIOLATION},
        {"an odd bit", 67, 5, 3 << 4, NVMX_EPT_L1_SPP_EVENT},
        {"level 2", 66, 0, 0, NVMX_EPT_L1_SPP_EVENT},
        {"level 3, another table", 65, 0, 64 << 12 | 1, NVMX_EPT_L1_VIOLATION}, /* whose entry 0 leads to page 65, whose entry 5 is 0 */
        {"level 4, reserved", 64, 0, 65 << 12 | 0x11, NVMX_EPT_L1_SPP_EVENT},
        {"bit 61 of the page", 3, 5, 0x205000 | READABLE, NVMX_EPT_L1_VIOLATION},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = spp_simple(WORLD_CAPS_PLAIN);

        cr_assert_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
        w->l1[rows[i].page][rows[i].index] = rows[i].entry;
        cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).exits, 0, "%s: nothing is invalidated yet", rows[i].what);
        nvmx_ept_invept(w->ept, ctx(w), i % 2 != 0, EPTP12);
        struct outcome outcome = attempt(w, EPTP12, GPA2, &writing);
        cr_expect_eq(outcome.verdict, rows[i].verdict, "%s: %d", rows[i].what, (int)outcome.verdict);
        cr_expect(rows[i].verdict != NVMX_EPT_RETRY || outcome.exits == 0, "%s: kept over INVEPT", rows[i].what);
        world_delete(w);
    }
}

/* A vector that permits less, found without an INVEPT: no TLB keeps the old one. */
Test(ept_sub_page, what_is_lost_is_flushed) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_fault fault;
    uint64_t hpa, type, qualification;

    attempt(w, EPTP12, GPA2, &writing);
    cr_assert(world_cpu(w, 1, enter(w, 0, EPTP12), GPA2, &writing, &hpa, &type, &qualification));
    w->l1[67][5] = 1 << 6;
    cr_expect_eq(decided(w, EPTP12, 0x5180, Q_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect(!world_cpu(w, 1, enter(w, 0, EPTP12), GPA2, &writing, &hpa, &type, &qualification));
    world_delete(w);
}

/* One that permits more needs no flush. */
Test(ept_sub_page, what_is_gained_is_not_flushed) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_fault fault;

    attempt(w, EPTP12, GPA2, &writing);
    uint32_t flushes = w->flushes;
    w->l1[67][5] |= 1 << 6;
    cr_expect_eq(decided(w, EPTP12, 0x5180, Q_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, flushes);
    world_delete(w);
}

Test(ept_sub_page, memory_of_l1s_table_moves) {
    for (unsigned int page = 64; page < 68; page++) {
        struct world *w = spp_simple(WORLD_CAPS_PLAIN);

        attempt(w, EPTP12, GPA2, &writing);
        memset(w->l1[page], 0, sizeof(w->l1[page]));
        nvmx_ept_memory_protected(w->ept, ctx(w), (uint64_t)page << 12, 4096);
        cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).exits, 0, "page %u can be read as before", page);
        nvmx_ept_memory_changed(w->ept, ctx(w), (uint64_t)(page + 1) << 12, 4096);
        cr_expect(page < 67 || attempt(w, EPTP12, GPA2, &writing).exits == 0, "it is another page");
        nvmx_ept_memory_changed(w->ept, ctx(w), (uint64_t)page << 12, 4096);
        cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, page == 67 ? NVMX_EPT_L1_VIOLATION : NVMX_EPT_L1_SPP_EVENT, "page %u", page);
        world_delete(w);
    }
}

/* SDM 31.3.5, 31.3.6. */
Test(ept_sub_page, writes_set_the_dirty_flag_and_are_logged) {
    struct world *w = spp_simple(AD_CAPS);
    struct nvmx_ept_log log = {.gpa1 = 70 << 12, .index = 511};
    struct nvmx_ept_access write = access_to(w, EPTP12_AD, GPA2, Q_WRITE), refused = access_to(w, EPTP12_AD, GPA2 + 128, Q_WRITE);
    struct nvmx_ept_fault fault;

    write.log = refused.log = &log;
    attempt(w, EPTP12_AD, GPA2, &reading);
    cr_expect(!leaf(w, EPTP12_AD, GPA2).sub_page, "or the CPU would write without the flag");
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &refused, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(w->l1[3][5] & EPT_FLAGS, NVMX_EPT_ACCESSED);
    cr_expect_eq(log.index, 511);
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &write, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][5] & EPT_FLAGS, EPT_FLAGS);
    cr_expect_eq(log.index, 510);
    cr_expect_eq(w->l1[70][511], GPA2 & ~UINT64_C(4095));
    cr_expect(leaf(w, EPTP12_AD, GPA2).sub_page);
    cr_expect(attempt(w, EPTP12_AD, GPA2, &writing).exits <= 1, "its TLB has the page as it was");
    cr_expect_eq(attempt(w, EPTP12_AD, GPA2, &walking).verdict, NVMX_EPT_L1_VIOLATION);
    w->l1[3][6] |= EPT_FLAGS;
    attempt(w, EPTP12_AD, 0x6000, &reading);
    cr_expect(leaf(w, EPTP12_AD, 0x6000).sub_page, "dirty already");
    log.index = UINT16_MAX;
    w->l1[3][5] &= ~NVMX_EPT_DIRTY;
    nvmx_ept_invept(w->ept, ctx(w), true, 0);
    enter(w, 0, EPTP12_AD);
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &write, &fault), NVMX_EPT_L1_LOG_FULL);
    world_delete(w);
}

Test(ept_sub_page, qualification_of_events) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_fault fault;

    w->l1[66][0] = 0;
    cr_expect_eq(decided(w, EPTP12, GPA2, Q_WRITE | 0x11e38, &fault), NVMX_EPT_L1_SPP_EVENT);
    cr_expect_eq(fault.qualification, 0x11800, "NMI unblocking and asynchronous are the CPU's");
    w->l1[66][0] = 3;
    cr_expect_eq(decided(w, EPTP12, GPA2, Q_WRITE | 0x1000, &fault), NVMX_EPT_L1_SPP_EVENT);
    cr_expect_eq(fault.qualification, 0x1000);
    world_delete(w);
}

/* What is cached of permissions goes by the EPTP alone. */
Test(ept_sub_page, a_root_for_both_pointers) {
    struct world *w = spp_simple(AD_CAPS);
    uint64_t root[4], table[4], plain;

    root[0] = enter(w, 0, EPTP12);
    table[0] = w->spptp02;
    root[1] = enter(w, 1, EPTP12);
    table[1] = w->spptp02;
    w->spptp12 = SPPTP12 + 0x8000;
    root[2] = enter(w, 2, EPTP12);
    table[2] = w->spptp02;
    w->spptp12 = SPPTP12;
    root[3] = enter(w, 3, EPTP12_AD);
    table[3] = w->spptp02;
    cr_expect(root[0] == root[1] && table[0] == table[1]);
    for (unsigned int i = 0; i < 4; i++) {
        cr_assert_eq(nvmx_ept_root(w->ept, ctx(w), 4, EPTP12, false, &plain), NVMX_OK);
        cr_expect_neq(plain, root[i]);
        for (unsigned int k = 2; k < 4; k++) {
            cr_expect(k == i || ((root[i] ^ root[k]) >> 12 != 0 && table[i] != table[k]), "%u, %u", i, k);
        }
    }
    cr_expect_eq(enter(w, 2, EPTP12), root[0], "the user that had the other table");
    cr_expect_eq(w->spptp02, table[0]);
    /* Invalidated by EPTP all the same. */
    cr_assert_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_RETRY);
    w->l1[67][5] = 0;
    nvmx_ept_invept(w->ept, ctx(w), false, EPTP12);
    cr_expect(!nvmx_ept_ready(w->ept, 0));
    cr_expect_eq(attempt(w, EPTP12, GPA2, &writing).verdict, NVMX_EPT_L1_VIOLATION);
    world_delete(w);
}

Test(ept_sub_page, invalid_arguments_of_a_root) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    uint64_t eptp02, spptp02;
    struct nvmx_ept_access access = access_to(w, EPTP12, GPA2, Q_WRITE);
    struct nvmx_ept_fault fault;

    cr_expect_eq(nvmx_ept_root_spp(w->ept, ctx(w), 256, EPTP12, false, SPPTP12, &eptp02, &spptp02), NVMX_E_INVALID);
    cr_expect_eq(nvmx_ept_root_spp(w->ept, ctx(w), 0, 0x16, false, SPPTP12, &eptp02, &spptp02), NVMX_E_INVALID);
    enter(w, 0, EPTP12);
    access.spptp12 = 0x7000;
    cr_expect_eq(nvmx_ept_fault(w->ept, ctx(w), &access, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_INVALID);
    nvmx_ept_release(w->ept, ctx(w), 0);
    w->fail_percent = 100;
    cr_expect_eq(nvmx_ept_root_spp(w->ept, ctx(w), 0, EPTP12, false, 0x7000, &eptp02, &spptp02), NVMX_E_NO_MEMORY);
    w->fail_percent = 0;
    world_delete(w);
}

/* Kinds of writes to which SPP does not apply, and that no exit tells: L1 hears of them, and L2 does not hang. */
Test(ept_sub_page, a_write_that_exits_for_ever_is_refused) {
    struct world *w = spp_simple(WORLD_CAPS_PLAIN);
    struct nvmx_ept_fault fault;
    unsigned int exits = 0;

    attempt(w, EPTP12, GPA2, &writing);
    while (decided(w, EPTP12, GPA2, Q_WRITE | 0x28, &fault) == NVMX_EPT_RETRY) {
        cr_assert(++exits < 4);
    }
    cr_expect_eq(exits, 2);
    cr_expect_eq(fault.qualification, 0x1aa);
    cr_expect_eq(decided(w, EPTP12, GPA2, Q_WRITE, &fault), NVMX_EPT_L1_VIOLATION);
    /* Something was done in between. */
    cr_expect_eq(attempt(w, EPTP12, 0x6000, &writing).verdict, NVMX_EPT_RETRY);
    for (unsigned int i = 0; i < 3; i++) {
        cr_expect_eq(decided(w, EPTP12, GPA2 + i % 2, Q_WRITE, &fault), NVMX_EPT_RETRY, "another address each time");
    }
    world_delete(w);
}

/* A write that is emulated, of several bytes. */
Test(ept_sub_page, translation) {
    static const struct {
        uint64_t gpa2, qualification;
        uint32_t bytes;
        enum nvmx_ept_verdict verdict;
        uint64_t says;
    } rows[] = {
        {0x5100, Q_WRITE, 0, NVMX_EPT_RETRY, 0},
        {0x5178, Q_WRITE, 8, NVMX_EPT_RETRY, 0},
        {0x5179, Q_WRITE, 8, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {0x50fc, Q_WRITE, 8, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {0x6ffc, Q_WRITE, 8, NVMX_EPT_RETRY, 0}, /* the rest is the next page's */
        {0x6100, Q_WRITE, 8, NVMX_EPT_L1_VIOLATION, 0x1aa},
        {0x5179, 0x181, 8, NVMX_EPT_RETRY, 0},
        {0x5100, 0x082, 8, NVMX_EPT_L1_VIOLATION, 0x0aa},
        {0x5100, 0x002, 8, NVMX_EPT_L1_VIOLATION, 0x02a},
        {0x205100, Q_WRITE, 8, NVMX_EPT_L1_SPP_EVENT, MISS},
        {0x7100, Q_WRITE, 8, NVMX_EPT_L1_SPP_EVENT, 0},
    };
    struct world *w = spp_simple(AD_CAPS);

    w->l1[2][1] = 0x3407;
    w->l1[67][7] = 2;
    w->l1[3][7] = 0x207000 | READABLE | SUB_PAGE;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct nvmx_ept_access access = access_to(w, EPTP12, rows[i].gpa2, rows[i].qualification);
        struct nvmx_ept_fault fault;

        access.bytes = rows[i].bytes;
        enum nvmx_ept_verdict verdict = nvmx_ept_translate(w->ept, ctx(w), &access, &fault);
        cr_expect_eq(verdict, rows[i].verdict, "row %zu: %d", i, (int)verdict);
        cr_expect_eq(fault.qualification, rows[i].says, "row %zu: %#lx", i, fault.qualification);
        access.spp = false;
        verdict = nvmx_ept_translate(w->ept, ctx(w), &access, &fault);
        cr_expect_eq(verdict, (rows[i].qualification & 2) != 0 ? NVMX_EPT_L1_VIOLATION : NVMX_EPT_RETRY, "row %zu", i);
    }
    struct nvmx_ept_access access = access_to(w, EPTP12_AD, GPA2, Q_WRITE);
    struct nvmx_ept_fault fault;
    cr_expect_eq(nvmx_ept_translate(w->ept, ctx(w), &access, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][5] & EPT_FLAGS, EPT_FLAGS);
    cr_expect_eq(w->maps, w->unmaps);
    world_delete(w);
}
