/* SPDX-License-Identifier: MIT */
/*
 * What vCPUs and hosts do in their turns, and the worlds in which they do it. Each vCPU owns some entries of ept12: what it accesses through them must be what
 * it last wrote there, once it has executed INVEPT and entered again. turns_rules.c has all that must hold.
 */
#include "turns.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "turns_switch.h"

#define ROUNDS      60u
#define TRIES_MAX   3000u
#define SEEDS_FEW   8000u

static const struct kind kinds[] = {
    {.name = "two vCPUs", .vcpus = 2, .hosts = 1, .budget = 32},
    {.name = "three vCPUs", .vcpus = 3, .hosts = 1, .budget = 36},
    {.name = "large pages", .vcpus = 3, .hosts = 1, .large = true, .budget = 36},
    {.name = "sub-pages", .vcpus = 3, .hosts = 1, .sub_pages = true, .budget = 52},
    {.name = "few entries", .vcpus = 3, .hosts = 1, .narrow = true, .budget = 36},
    {.name = "changing roots", .vcpus = 3, .hosts = 1, .large = true, .roots = true, .budget = 36},
    {.name = "two hosts", .vcpus = 3, .hosts = 2, .large = true, .budget = 36},
    {.name = "no pages", .vcpus = 3, .hosts = 1, .large = true, .fails = true, .budget = 36},
    {.name = "first touches", .vcpus = 3, .hosts = 1, .rounds = 6},
    {.name = "quiet", .vcpus = 3, .hosts = 1, .quiet = true},
    {.name = "everything", .vcpus = 4, .hosts = 2, .large = true, .sub_pages = true, .roots = true, .budget = 64},
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Entries of a table that are used, next to each other and far apart; each vCPU owns some of them. */
static const uint32_t indices[24] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 64, 65, 66, 128, 129, 130, 131, 200, 300, 301, 510, 511};

static struct world world;

static unsigned int rounds(void) {
    return world.kind->rounds != 0 ? world.kind->rounds : ROUNDS;
}

static uint32_t own_index(const struct player *p) {
    uint32_t vcpus = world.kind->vcpus;

    return indices[(world.kind->narrow ? 0 : draw(24 / vcpus)) * vcpus + p->number];
}

/* -- L1's tables
 * ----------------------------------------------------------------------------------------------------------------------------------- */

#define TABLE(page)  ((uint64_t)(page) << 12 | NVMX_EPT_ACCESSED | RIGHTS)
#define LEAF(page)   ((uint64_t)(page) << 12 | NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY | WRITE_BACK | RIGHTS)
#define LARGE(first) ((uint64_t)(first) << 12 | NVMX_EPT_LARGE | NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY | WRITE_BACK | RIGHTS)

static void make_tables(struct world *w) {
    for (unsigned int i = 0; i < ROOTS; i++) {
        w->l1[PML4(i)][0] = TABLE(PDPT);
    }
    w->l1[PDPT][0] = w->l1[PDPT][1] = TABLE(PD);
    w->reached = OTHERS;
    for (unsigned int i = 0; i < 2; i++) {
        w->l1[SPPT(i, 4)][0] = (uint64_t)SPPT(i, 3) << 12 | 1;
        w->l1[SPPT(i, 3)][0] = w->l1[SPPT(i, 3)][1] = (uint64_t)SPPT(i, 2) << 12 | 1;
    }
    for (unsigned int region = 0; region < REGIONS; region++) {
        w->l1[PD][region] = region < 2 ? TABLE(PT(region)) : LARGE(region % 2 == 0 ? DATA_FIRST : BLOCK_FIRST);
        w->l1[SPPT(0, 2)][region] = (uint64_t)VECTORS(region == 1) << 12 | 1;
        w->l1[SPPT(1, 2)][region] = (uint64_t)VECTORS(region != 1) << 12 | 1;
    }
    for (uint32_t i = 0; i < 512; i++) {
        uint64_t leaf = LEAF(DATA_FIRST + i % DATA_PAGES);

        w->l1[PT(0)][i] = leaf;
        w->l1[PT(1)][i] = w->kind->large ? LEAF(BLOCK_FIRST + i) : leaf; /* there pages are mapped ahead, since ept01 has them in one */
    }
}

static void choose_roots(struct world *w) {
    bool all_alike = one_in(2), with_flags = one_in(2), two = one_in(2);

    for (unsigned int i = 0; i < w->kind->vcpus; i++) {
        bool flags = all_alike ? with_flags : one_in(2);

        w->player[i].eptp12 = (uint64_t)PML4(two && i == 1) << 12 | 0x1e | (flags ? NVMX_EPTP_AD : 0);
    }
}

/* -- vCPUs
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static enum nvmx_status root_of(struct player *p) {
    if (world.kind->sub_pages) {
        return nvmx_ept_root_spp(world.ept, p, p->number, p->eptp12, false, SPPTP12(p->sppt), &p->eptp02, &p->spptp02);
    }
    return nvmx_ept_root(world.ept, p, p->number, p->eptp12, false, &p->eptp02);
}

static void enter(struct player *p) {
    enum nvmx_status status;

    tell("enters with EPTP12 %#llx", (unsigned long long)p->eptp12);
    while ((status = root_of(p)) != NVMX_OK) {
        if (status != NVMX_E_NO_MEMORY || (world.budget == 0 && !world.kind->fails)) {
            broken("nvmx_ept_root: %d", (int)status);
        }
        TURN;
    }
    tell("has entered, EPTP02 %#llx", (unsigned long long)p->eptp02);
    p->entered = true;
}

static void invept(struct player *p, bool all) {
    TURN;
    tell("INVEPT");
    nvmx_ept_invept(world.ept, p, all, p->eptp12);
    TURN;
}

/* One access of L2 by an entry of its own, until it gets through or L1 or the host is told. */
static void touch(struct player *p, unsigned int region, uint32_t index, uint64_t access) {
    struct nvmx_ept_access violation = {.eptp12 = p->eptp12,
                                        .gpa2 = (uint64_t)region << 21 | (uint64_t)index << 12 | (uint64_t)draw(32) << 7,
                                        .spp = world.kind->sub_pages,
                                        .spptp12 = SPPTP12(p->sppt)};
    struct translation used;
    struct nvmx_ept_fault fault;

    for (unsigned int tries = 0; tries < TRIES_MAX; tries++) {
        struct wanted wanted = wanted_of(p, region, index);
        enum outcome outcome = access_once(p, violation.gpa2, access, &used, &violation.qualification);

        if (outcome == DONE) {
            rule_reached(p, &wanted, violation.gpa2, access, &used);
            world.granted++;
            world.reached = wanted.held;
            return;
        }
        violation.spp_event = outcome == SPP_EVENT;
        enum nvmx_ept_verdict verdict = nvmx_ept_fault(world.ept, p, &violation, &fault);
        tell("verdict %d", (int)verdict);
        if (verdict != NVMX_EPT_RETRY) {
            rule_refused(p, &wanted, violation.gpa2, access, &fault, verdict);
            world.refused += verdict != NVMX_EPT_FAILED;
            world.no_memory += verdict == NVMX_EPT_FAILED;
            return;
        }
        world.retries++;
    }
    broken("%#llx is tried again for ever", (unsigned long long)violation.gpa2);
}

static uint64_t some_page(void) {
    return world.kind->large && one_in(3) ? BLOCK_FIRST + draw(BLOCK_PAGES) : DATA_FIRST + draw(DATA_PAGES);
}

static uint64_t some_flags(void) {
    static const uint64_t flags[4] = {0, 0, NVMX_EPT_ACCESSED, NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY};

    return flags[draw(4)];
}

static uint64_t some_leaf(void) {
    uint64_t rights = one_in(3) ? RIGHTS & ~WRITE : RIGHTS;
    uint64_t sub_page = world.kind->sub_pages && !one_in(3) ? NVMX_EPT_SUB_PAGE : 0;
    uint64_t flags = some_flags(); /* one draw after the other, whatever the compiler */

    return some_page() << 12 | WRITE_BACK | rights | flags | sub_page;
}

static uint64_t some_vector(void) {
    uint64_t low = draw(65536);

    return ((uint64_t)draw(65536) << 24 | low) & UINT64_C(0x5555555555555555);
}

/* For the entry above the lowest level of a region that is the vCPU's alone. */
static uint64_t some_region(void) {
    if (one_in(3)) {
        return TABLE(PT(0));
    }
    uint64_t without = one_in(3) ? WRITE : 0;
    without |= one_in(3) ? NVMX_EPT_DIRTY : 0;
    return LARGE(one_in(2) ? DATA_FIRST : BLOCK_FIRST) & ~without;
}

/* What is above the lowest level of its region: in ept12, or in the table of sub-page permissions. */
static void change_region(struct player *p) {
    if (world.kind->sub_pages && one_in(3)) {
        l1_write(&world, SPPT(p->sppt, 2), REGION(p->number), (uint64_t)VECTORS(draw(2)) << 12 | 1);
    } else {
        l1_write(&world, PD, REGION(p->number), some_region());
    }
}

static void change_entry(struct player *p) {
    unsigned int shared = world.kind->narrow || (world.kind->large && p->number != 0) ? 0 : draw(2);
    uint32_t index = own_index(p);

    if (world.kind->narrow) {
        l1_write(&world, PT(0), index, LEAF(DATA_FIRST + index + draw(2)));
    } else if (world.kind->large && one_in(4)) {
        change_region(p);
    } else if (world.kind->sub_pages && one_in(2)) {
        l1_write(&world, VECTORS(shared), index, some_vector());
    } else {
        bool sequence = world.kind->large && shared == 1;

        index = sequence ? draw(40) : index;
        l1_write(&world, PT(shared), index, sequence && !one_in(3) ? LEAF(BLOCK_FIRST + draw(BLOCK_PAGES)) : some_leaf());
    }
}

static void change(struct player *p) {
    for (uint32_t n = world.kind->narrow ? 1 : 1 + draw(2); n != 0; n--) {
        change_entry(p);
    }
    invept(p, one_in(4));
    enter(p);
}

/* Nothing was written in between, at least by this vCPU: a host that knows is asked about all pages together. */
static void invalidate_again(struct player *p) {
    for (unsigned int i = 0; i < 3; i++) {
        invept(p, one_in(4));
        enter(p);
    }
}

/* Of a region that all share L1 changes a right that nobody here needs: so the table below is referred to again. */
static void change_upper(void) {
    unsigned int region = draw(2);

    l1_write(&world, PD, region, TABLE(PT(region)) & ~(one_in(2) ? NVMX_EPT_EXECUTE : 0));
}

static void change_root(struct player *p) {
    p->entered = false;
    if (!world.kind->roots || one_in(2)) {
        tell("releases its root");
        nvmx_ept_release(world.ept, p, p->number);
    }
    if (world.kind->roots) {
        unsigned int root = 2 + draw(ROOTS - 2);

        p->sppt = world.kind->sub_pages ? draw(2) : 0;
        p->eptp12 = (uint64_t)PML4(root) << 12 | 0x1e | (one_in(2) ? NVMX_EPTP_AD : 0);
        invept(p, one_in(4));
    } else if (one_in(2)) {
        p->eptp12 ^= NVMX_EPTP_AD;
        invept(p, true);
    }
    enter(p);
}

static void touch_some(struct player *p) {
    if (world.kind->large && p->number == 0 && one_in(2)) { /* in sequence, in the shared region that is its own then, where nobody else breaks the sequence */
        uint32_t first = draw(20), count = 4 + draw(12);
        uint64_t access = one_in(2) ? READ : WRITE;

        for (uint32_t i = 0; i < count; i++) {
            touch(p, AGAIN + 1, first + i, access);
        }
        return;
    }
    for (unsigned int i = 0; i < 3; i++) {
        unsigned int region = one_in(2) || world.kind->narrow ? 0 : world.kind->large ? REGION(p->number) : 1;

        uint32_t index = own_index(p);

        touch(p, region, index, one_in(3) ? WRITE : READ);
    }
}

static void quiet_round(struct player *p) {
    if (one_in(2)) {
        invalidate_again(p);
    } else {
        touch_some(p);
    }
}

static void any_round(struct player *p) {
    switch (world.kind->narrow ? draw(3) : draw(6)) {
    case 0:
        change(p);
        break;
    case 1:
        change_upper();
        break;
    case 2:
        if (one_in(world.kind->roots ? 3 : 8)) {
            change_root(p);
        }
        touch_some(p);
        break;
    default:
        touch_some(p);
        break;
    }
}

static void vcpu(struct player *p) {
    enter(p);
    for (unsigned int round = 0; round < rounds(); round++) {
        if (world.kind->quiet && !one_in(6)) {
            quiet_round(p);
        } else {
            any_round(p);
        }
        TURN;
    }
}

/* -- the host
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t first_byte(uint32_t held) {
    return (uint64_t)(held == BLOCK ? BLOCK_FIRST : DATA_FIRST + held) << 12;
}

static uint64_t bytes_of(uint32_t held) {
    return held == BLOCK ? (uint64_t)BLOCK_PAGES << 12 : 4096;
}

#define PIECE_PAGES  8u
#define PIECES_PAGES 64u /* L2 uses these in sequence */

/* The block's beginning in pieces, then the rest: none of the pages that were mapped together may be missed. */
static void block_changed(struct player *p) {
    uint64_t first = first_byte(BLOCK);

    for (uint64_t page = 0; page < PIECES_PAGES; page += PIECE_PAGES) {
        nvmx_ept_memory_changed(world.ept, p, first + (page << 12), (uint64_t)PIECE_PAGES << 12);
    }
    nvmx_ept_memory_changed(world.ept, p, first + ((uint64_t)PIECES_PAGES << 12), (uint64_t)(BLOCK_PAGES - PIECES_PAGES) << 12);
}

static void move(struct player *p, uint32_t held) {
    world.held[held].generation++;
    tell("moves page %u to place %llu", held, (unsigned long long)world.held[held].generation);
    TURN;
    if (held == BLOCK && one_in(2)) {
        block_changed(p);
    } else {
        nvmx_ept_memory_changed(world.ept, p, first_byte(held), bytes_of(held));
    }
    tell("has moved page %u", held);
    rule_taken_back(&world, held, false);
    world.held[held].settled = world.held[held].generation;
}

static void protect(struct player *p, uint32_t held) {
    world.held[held].access &= ~WRITE;
    tell("protects page %u", held);
    TURN;
    nvmx_ept_memory_protected(world.ept, p, first_byte(held), bytes_of(held));
    tell("has protected page %u", held);
    rule_taken_back(&world, held, true);
    world.held[held].read_only = true;
    for (unsigned int i = 0; i < 20; i++) {
        TURN;
    }
    world.held[held].read_only = false;
    world.held[held].access |= WRITE;
}

/* A page or the block that is this host's to change; often one that L2 has just used, or that L1 maps. */
static uint32_t some_held(const struct player *p) {
    uint32_t held = draw(DATA_PAGES);
    uint32_t which = draw(4);

    if (which < 2) {
        held = world.reached;
    } else if (which == 2) {
        uint64_t entry = world.l1[PT(world.kind->narrow ? 0 : draw(2))][indices[draw(24)]];

        held = held_of((entry & ADDRESS) >> 12);
    }
    if (world.kind->large && one_in(6)) {
        held = BLOCK;
    }
    return held % world.kind->hosts == p->number - world.kind->vcpus ? held : OTHERS;
}

static void host(struct player *p) {
    bool begins = world.kind->rounds != 0; /* then there is little to change, and it must not be over before L2 runs */

    for (unsigned int round = 0; round < (begins ? 4 : 1) * rounds(); round++) {
        for (uint32_t pause = begins ? draw(32) : 0; pause != 0; pause--) {
            TURN;
        }
        uint32_t held = some_held(p);
        uint32_t what = world.kind->narrow ? draw(12) : draw(4);

        world.in_pieces = one_in(2);
        if (held != OTHERS && what < 2) {
            move(p, held);
        } else if (held != OTHERS && what == 2) {
            protect(p, held);
        } else if (what == 3) {
            tell("has changed a page of L1's tables");
            nvmx_ept_memory_changed(world.ept, p, (uint64_t)(PD + draw(11)) << 12, 4096);
        }
        TURN;
    }
}

/* -- runs
 * ----------------------------------------------------------------------------------------------------------------------------------- */

struct totals {
    uint64_t runs, granted, refused, retries, no_memory, points;
};

static void play(unsigned int player) {
    struct player *p = &world.player[player];

    if (player < world.kind->vcpus) {
        vcpu(p);
    } else {
        host(p);
    }
}

static void run(uint64_t seed, struct totals *totals) {
    const struct kind *kind = &kinds[seed % KINDS];

    turns_seed(seed);
    world_start(&world, kind);
    tell("seed %llu: %s, budget %u, %s page_version", (unsigned long long)seed, kind->name, world.budget, world.versions ? "with" : "without");
    make_tables(&world);
    choose_roots(&world);
    turns_play(kind->vcpus + kind->hosts, play);
    rule_at_rest(&world);
    world_end(&world);
    totals->runs++;
    totals->granted += world.granted;
    totals->refused += world.refused;
    totals->retries += world.retries;
    totals->no_memory += world.no_memory;
    totals->points += turns_points();
}

static void account(const struct totals totals[KINDS]) {
    printf("%-16s %8s %10s %10s %10s %10s %12s\n", "world", "seeds", "accesses", "refused", "resolved", "no page", "points");
    for (unsigned int i = 0; i < KINDS; i++) {
        const struct totals *t = &totals[i];

        printf("%-16s %8llu %10llu %10llu %10llu %10llu %12llu\n", kinds[i].name, (unsigned long long)t->runs, (unsigned long long)t->granted,
               (unsigned long long)t->refused, (unsigned long long)t->retries, (unsigned long long)t->no_memory, (unsigned long long)t->points);
    }
}

static void usage(FILE *out, const char *name) {
    fprintf(out,
            "usage: %s [--seeds N] [--from S] [--world W] [-v]\n"
            "Several vCPUs and hosts use one ept02 and take turns at each of its atomic accesses, in an order that follows from a seed.\n"
            "  --seeds N   so many seeds (%u)\n"
            "  --from S    from this one on (1)\n"
            "  --world W   of these only those of one world; each seed belongs to the world seed %% %zu:\n",
            name, SEEDS_FEW, KINDS);
    for (unsigned int i = 0; i < KINDS; i++) {
        fprintf(out, "                %u  %s\n", i, kinds[i].name);
    }
    fprintf(out, "  -v          tell each step\n"
                 "Exit status 1: a rule was broken, by the seed that is named.\n");
}

struct options {
    uint64_t seeds, from, world;
};

static uint64_t number_of(const char *text, const char *name) {
    char *end;
    uint64_t number = strtoull(text, &end, 0);

    if (*text == 0 || *end != 0) {
        fprintf(stderr, "%s: %s is no number\n", name, text);
        exit(2);
    }
    return number;
}

static struct options options_of(int argc, char **argv) {
    static const struct option known[] = {
        {"seeds", required_argument, NULL, 's'}, {"from", required_argument, NULL, 'f'}, {"world", required_argument, NULL, 'w'},
        {"verbose", no_argument, NULL, 'v'},     {"help", no_argument, NULL, 'h'},       {0},
    };
    struct options options = {.seeds = SEEDS_FEW, .from = 1, .world = KINDS};

    for (int c; (c = getopt_long(argc, argv, "vh", known, NULL)) != -1;) {
        switch (c) {
        case 's':
            options.seeds = number_of(optarg, argv[0]);
            break;
        case 'f':
            options.from = number_of(optarg, argv[0]);
            break;
        case 'w':
            options.world = number_of(optarg, argv[0]) % KINDS;
            break;
        case 'v':
            turns_verbose = true;
            break;
        default:
            usage(c == 'h' ? stdout : stderr, argv[0]);
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (optind != argc) {
        usage(stderr, argv[0]);
        exit(2);
    }
    return options;
}

int main(int argc, char **argv) {
    struct options options = options_of(argc, argv);
    struct totals totals[KINDS] = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t i = 0; i < options.seeds; i++) {
        uint64_t seed = options.from + i;

        if (options.world == KINDS || seed % KINDS == options.world) {
            run(seed, &totals[seed % KINDS]);
        }
    }
    account(totals);
    return 0;
}
