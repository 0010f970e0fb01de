/* SPDX-License-Identifier: MIT */
/*
 * ept02: tables of L1 and operations against the reference walker of the unit tests (tests/unit/ept_world.h), whose operations and oracles these are.
 * There they come from one seed; here each operation has its own bytes, so that an input can be cut, joined and changed in one place.
 *
 * Held: ept02 permits at most what ept12 and ept01 permit now, as the walker finds for every access; verdicts, qualifications, accessed and dirty
 * flags are the walker's; a table is freed only after a flush; nothing is left at the end.
 *
 * Input: which world, then three bytes for each operation.
 */
#include <malloc.h>

#include "../tests/unit/ept_random.c"

/* A number of few bits becomes the state of the world's generator (splitmix64). */
static uint64_t spread(uint64_t value) {
    value = (value + 1) * UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return (value ^ value >> 27) | 1;
}

static void some_tables(struct run *r, unsigned int top) {
    for (unsigned int i = 0; i < 6; i++)
        world_set01(r->w, i << 9, 512, 7, 6, false, i < 3 ? 12 : 21);
    world_set01(r->w, 1u << 18, 512 * 6, 7, 6, false, 21);
    for (unsigned int level = 1; level <= top; level++)
        for (unsigned int i = 0; i < 120; i++)
            store12(r, level, page_of_level(r, level), some_index(r, level), some_entry(r, level));
}

/*
 * One world's memory for all inputs: clearing all of it costs more than an input does. ept01 is cleared where it was set; of L1's pages the entries
 * that some_index gives, the only ones that tables are written to (that no other changed was held).
 */
#define SECOND_GIB (1u << 18)

static struct world *fresh_world(uint64_t cap, uint32_t budget) {
    static struct world world;
    static bool again;
    static struct world_page01 ept01[WORLD_PFNS];
    struct world *w = &world;
    if (!again)
        mallopt(M_TRIM_THRESHOLD, 64 << 20); /* or ept02's pages go back to the kernel, and come from there, for each input */
    again = true;
    bool gib = ept01[SECOND_GIB + 6 * 512].shift != 0; /* change01 sets six blocks of each GiB, or the second whole */
    memset(ept01, 0, 6 * 512 * sizeof(*ept01));
    memset(&ept01[SECOND_GIB], 0, (gib ? SECOND_GIB : 6 * 512) * sizeof(*ept01));
    for (unsigned int page = 0; page < WORLD_L1_PAGES; page++) {
        memset(w->l1[page], 0, 7 * sizeof(uint64_t));
        w->l1[page][511] = 0;
    }
    memset(w->tlb, 0, sizeof(w->tlb));
    w->allocated = w->freed = w->maps = w->unmaps = w->flushes = w->lookups = 0;
    w->fail_percent = w->map_fail_percent = 0;
    w->lookup_status = NVMX_OK;
    expect_what_is(w);
    w->ept01 = ept01;
    world_start(w, cap, budget);
    return w;
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
    };
    struct fuzz_input in = {data, size};
    uint8_t which = fuzz_u8(&in);
    unsigned int kind = which % 7u;
    struct world *w = fresh_world(worlds[kind].cap, worlds[kind].budget);
    unsigned int top = worlds[kind].cap & (1u << 7) ? 5 : 4;
    struct run run = {.w = w, .seed = which, .may_fail = worlds[kind].fail != 0};
    w->mbec = worlds[kind].mbec;
    w->random = spread(which);
    some_tables(&run, top);
    for (unsigned int i = 0; i < EPTPS; i++) {
        bool ad = (worlds[kind].cap & WORLD_CAPS_AD) != 0 && i % 2 == 0;
        run.eptp12[i] = (top == 5 ? i : UINT64_C(6) + i % 4) << 12 | (uint64_t)(top - 1) << 3 | 6 | (ad ? NVMX_EPTP_AD : 0);
    }
    w->fail_percent = worlds[kind].fail;
    for (run.operation = 0; run.operation < 200 && fuzz_more(&in); run.operation++) {
        uint64_t random = fuzz_u16(&in);
        random |= (uint64_t)fuzz_u8(&in) << 16;
        w->random = spread(random);
        fuzz_log("operation %u", run.operation);
        one_operation(&run);
    }
    sweep(&run);
    FUZZ_HOLD(memcmp(w->l1, w->expected, sizeof(w->l1)) == 0, "L1's memory was written where no table is");
    world_end(w);
    return 0;
}
