/* SPDX-License-Identifier: MIT */
/*
 * ept02: tables of L1 and operations against the reference walker of the unit tests (tests/unit/ept_world.h), whose operations and oracles these are.
 * There they come from one seed; here each operation has its own bytes, so that an input can be cut, joined and changed in one place.
 *
 * Held: ept02 permits at most what ept12 and ept01 permit now, as the walker finds for every access; verdicts, qualifications, accessed and dirty
 * flags are the walker's; a table is freed only after a flush; nothing is left at the end.
 *
 * Input: which world, then three bytes for each operation; of some worlds ept_stacks.c's.
 */
#include <malloc.h>

#include "../tests/unit/ept_random.c"
#include "ept_stacks.h"

/* A number of few bits becomes the state of the world's generator (splitmix64). */
static uint64_t spread(uint64_t value) {
    value = (value + 1) * UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return (value ^ value >> 27) | 1;
}

#define SECOND_GIB (1u << 18)
#define PFNS_USED  (512u * 6u) /* of each GiB */

/* ept01 as each input finds it: made once, copied after. */
static void some_memory(struct world *w) {
    static struct world_page01 first[PFNS_USED], second[PFNS_USED];
    if (first[0].access != 0) {
        memcpy(w->ept01, first, sizeof(first));
        memcpy(&w->ept01[SECOND_GIB], second, sizeof(second));
        return;
    }
    for (unsigned int i = 0; i < 6; i++)
        world_set01(w, i << 9, 512, 7, 6, false, i < 3 ? 12 : 21);
    world_set01(w, SECOND_GIB, PFNS_USED, 7, 6, false, 21);
    memcpy(first, w->ept01, sizeof(first));
    memcpy(second, &w->ept01[SECOND_GIB], sizeof(second));
}

/* ept12 as each input of one world finds it: made once, copied after. Entries 0 to 6 and 511 are used (some_index). */
static void some_tables(struct run *r, unsigned int top, uint8_t which) {
    static struct {
        bool made;
        uint64_t random, entry[WORLD_L1_PAGES][8];
        uint16_t entries[WORLD_L1_PAGES];
    } all[256];
    struct world *w = r->w;
    if (all[which].made) {
        for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
            size_t bytes = all[which].entries[page] * sizeof(uint64_t);
            memcpy(w->l1[page], all[which].entry[page], bytes);
            memcpy(w->expected[page], all[which].entry[page], bytes);
            w->l1[page][511] = w->expected[page][511] = all[which].entry[page][7];
        }
        memcpy(w->entries, all[which].entries, sizeof(w->entries));
        w->random = all[which].random;
        return;
    }
    for (unsigned int level = 1; level <= top; level++)
        for (unsigned int i = 0; i < 120; i++)
            store_some(r, level);
    for (unsigned int i = 0; i < 300 && w->spp; i++)
        store_sppt(r);
    all[which].made = true;
    all[which].random = w->random;
    memcpy(all[which].entries, w->entries, sizeof(w->entries));
    for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
        FUZZ_HOLD(w->entries[page] <= 7, "entry %u of a table is used", w->entries[page] - 1u);
        memcpy(all[which].entry[page], w->l1[page], 7 * sizeof(uint64_t));
        all[which].entry[page][7] = w->l1[page][511];
    }
}

/*
 * A table of ept12 of which many pages are used: it is compared in another way than one of few (lib/ept/invalidate.c). Its entries begin where some_index ends,
 * and the path to it is by entries 5, which some_index does not give above level 1.
 */
#define DENSE_FIRST 8u
#define DENSE_COUNT 160u
#define DENSE_PAGE  63u
static bool dense_used;

#define SUB_PAGES 0xf0u /* which world: from here on with sub-page permissions, */
#define STACKS    0xf8u /* from here on that of ept_stacks.c */

/*
 * One world's memory for all inputs: clearing all of it costs more than an input does. Of L1's pages the entries are cleared that tables were written to (that no
 * other changed was held); some_memory sets ept01 where it is used.
 */
static struct world *fresh_world(uint64_t cap, uint32_t budget) {
    static struct world world;
    static bool again;
    static struct world_page01 ept01[WORLD_PFNS];
    struct world *w = &world;
    if (!again)
        mallopt(M_TRIM_THRESHOLD, 64 << 20); /* or ept02's pages go back to the kernel, and come from there, for each input */
    again = true;
    for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
        memset(w->l1[page], 0, w->entries[page] * sizeof(w->l1[page][0]));
        memset(w->expected[page], 0, w->entries[page] * sizeof(w->l1[page][0]));
        w->l1[page][511] = w->expected[page][511] = 0;
        w->entries[page] = 0;
    }
    dense_used = false;
    memset(w->tlb, 0, sizeof(w->tlb));
    memset(w->version, 0, sizeof(w->version)); /* what was seen before them does not count */
    w->allocated = w->freed = w->maps = w->unmaps = w->flushes = w->lookups = 0;
    w->fail_percent = w->map_fail_percent = 0;
    w->lookup_status = NVMX_OK;
    w->ept01 = ept01;
    world_start(w, cap, budget);
    some_memory(w);
    return w;
}

/* An access that the host emulates: what ept12 alone says, as the walker does; it sets the same flags. */
static void translate(struct run *r) {
    struct world *w = r->w;
    struct world_access kind = some_access(r);
    unsigned int eptp = world_random(w, EPTPS);
    struct nvmx_ept_access access = {.eptp12 = r->eptp12[eptp], .mbec = w->mbec, .spp = w->spp, .spptp12 = spptp12_of(r, eptp)};
    struct nvmx_ept_fault fault;
    w->spptp12 = access.spptp12;
    access.gpa2 = some_gpa2(r);
    access.qualification = kind.kind | (kind.linear ? 0x80 : 0) | (kind.linear && !kind.walk ? 0x100 : 0) | (kind.user ? 0x200 : 0);
    struct world_answer model = world_model(w, access.eptp12, access.gpa2, &kind, !r->pending);
    enum nvmx_ept_verdict verdict = nvmx_ept_translate(w->ept, &w, &access, &fault);
    fuzz_log("translation of %#llx by %#llx, qualification %#llx: verdict %d, model %d", (unsigned long long)access.gpa2, (unsigned long long)access.eptp12,
             (unsigned long long)access.qualification, (int)verdict, (int)model.outcome);
    if (r->pending)
        expect_what_is(w);
    else if (model.outcome == WORLD_OK || model.outcome == WORLD_HOST)
        FUZZ_HOLD(verdict == NVMX_EPT_RETRY, "translation of %#llx: verdict %d", (unsigned long long)access.gpa2, (int)verdict);
    else if (model.outcome == WORLD_SPP_EVENT)
        FUZZ_HOLD(verdict == NVMX_EPT_L1_SPP_EVENT && fault.qualification == model.qualification, "translation of %#llx: verdict %d", (unsigned long long)access.gpa2,
                  (int)verdict);
    else if (model.outcome == WORLD_VIOLATION)
        FUZZ_HOLD(verdict == NVMX_EPT_L1_VIOLATION && (fault.qualification & 0x7f) == model.qualification, "translation of %#llx: verdict %d, qualification %#llx",
                  (unsigned long long)access.gpa2, (int)verdict, (unsigned long long)fault.qualification);
    else
        FUZZ_HOLD(verdict == NVMX_EPT_L1_MISCONFIG, "translation of %#llx: verdict %d", (unsigned long long)access.gpa2, (int)verdict);
}

static void touch_dense(struct run *r, uint64_t eptp12, unsigned int top) {
    static const struct world_access read = {.kind = 1, .linear = true};
    struct world *w = r->w;
    uint64_t eptp02;
    if (nvmx_ept_root(w->ept, &w, 0, eptp12, w->mbec, &eptp02) != NVMX_OK)
        return;
    for (unsigned int i = DENSE_FIRST; i < DENSE_FIRST + DENSE_COUNT; i++) {
        struct nvmx_ept_access access = {.eptp12 = eptp12, .gpa2 = (uint64_t)i << 12, .qualification = 0x181, .mbec = w->mbec};
        struct world_translation t;
        struct nvmx_ept_fault fault;
        for (unsigned int level = 2; level <= top; level++)
            access.gpa2 |= UINT64_C(5) << (12 + 9 * (level - 1));
        if (!world_walk02(w, eptp02, access.gpa2, &t)) {
            struct world_answer model = world_model(w, eptp12, access.gpa2, &read, true);
            enum nvmx_ept_verdict verdict = nvmx_ept_fault(w->ept, &w, &access, &fault);
            if (verdict != NVMX_EPT_FAILED)
                check_verdict(r, verdict, &fault, &model, access.qualification);
        } else {
            check_ept01(r, t.hpa << 12, t.rights | (t.sub_page ? 2 : 0));
            if (t.rights & 1)
                FUZZ_HOLD(world_model(w, eptp12, access.gpa2, &read, true).outcome == WORLD_OK, "ept02 permits %#llx", (unsigned long long)access.gpa2);
        }
    }
}

static void dense(struct run *r) {
    static const uint8_t path[] = {0, DENSE_PAGE, 31, 15, 9, 0};
    unsigned int top = (unsigned int)(r->eptp12[0] >> 3 & 7) + 1, index = DENSE_FIRST + world_random(r->w, DENSE_COUNT);
    uint64_t page = r->eptp12[0] & UINT64_C(0xfffffff000);
    if (r->pending)
        invept(r, true);
    if (!dense_used) {
        for (unsigned int level = top; level > 1; level--) {
            store12(r, level, page, 5, (uint64_t)path[level - 1] << 12 | 0x407);
            page = (uint64_t)path[level - 1] << 12;
        }
        for (unsigned int i = DENSE_FIRST; i < DENSE_FIRST + DENSE_COUNT; i++)
            store12(r, 1, page, i, (uint64_t)i << 12 | 0x437);
    } else if (world_random(r->w, 2)) {
        store12(r, 1, (uint64_t)DENSE_PAGE << 12, index, some_entry(r, 1));
    }
    dense_used = true;
    for (unsigned int i = world_random(r->w, 4); i > 0; i--)
        invept(r, true);
    invept(r, true);
    touch_dense(r, r->eptp12[0], top);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct {
        uint64_t cap;
        bool mbec;
        uint8_t budget, fail;
    } worlds[] = {
        {WORLD_CAPS_PLAIN, false, 0, 0},
        {WORLD_CAPS_PLAIN & ~((1u << 0) | (1u << 16) | (1u << 17)), false, 0, 0},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, false, 0, 0},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, true, 0, 0},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD | (1u << 7), false, 0, 0},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD, false, 48, 0},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD, false, 0, 30},
        {WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED, false, 0, 0}, /* with sub-page permissions */
    };
    struct fuzz_input in = fuzz_start(data, size);
    uint8_t which = fuzz_u8(&in);
    if (which >= STACKS) {
        struct world *stacks = fresh_world(WORLD_CAPS_PLAIN | WORLD_CAPS_AD | WORLD_CAPS_ADVANCED | (1u << 23), 0);
        stacks->mbec = stacks->versions = stacks->spp = false;
        ept_stacks(stacks, &in);
        world_end(stacks);
        return 0;
    }
    bool spp = which >= SUB_PAGES;
    unsigned int kind = spp ? 7 : which % 7u;
    struct world *w = fresh_world(worlds[kind].cap, worlds[kind].budget);
    unsigned int top = worlds[kind].cap & (1u << 7) ? 5 : 4;
    struct run run = {.w = w, .seed = which, .may_fail = worlds[kind].fail != 0};
    w->mbec = worlds[kind].mbec;
    w->spp = spp;
    w->versions = which / 7 % 2;
    w->random = spread(which);
    some_tables(&run, top, which);
    for (unsigned int i = 0; i < EPTPS; i++) {
        bool ad = (worlds[kind].cap & WORLD_CAPS_AD) != 0 && i % 2 == 0;
        run.eptp12[i] = (top == 5 ? i : UINT64_C(6) + i % 4) << 12 | (uint64_t)(top - 1) << 3 | 6 | (ad ? NVMX_EPTP_AD : 0);
    }
    w->fail_percent = worlds[kind].fail;
    for (run.operation = 0; run.operation < 200 && fuzz_more(&in); run.operation++) {
        fuzz_piece(&in, FUZZ_OTHER);
        uint64_t random = fuzz_u16(&in);
        random |= (uint64_t)fuzz_u8(&in) << 16;
        w->random = spread(random);
        fuzz_log("operation %u", run.operation);
        if (random >> 20 == 15)
            translate(&run);
        else if (random >> 20 == 14 && random % 4 == 0 && !spp)
            dense(&run);
        else
            one_operation(&run);
    }
    sweep(&run);
    FUZZ_HOLD(memcmp(w->l1, w->expected, sizeof(w->l1)) == 0, "L1's memory was written where no table is");
    world_end(w);
    return 0;
}
