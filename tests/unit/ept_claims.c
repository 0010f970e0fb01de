/* SPDX-License-Identifier: MIT */
/*
 * Another processor comes between the claim of a slot and its publication (lib/ept/slot.c). No callback is made there, so the page of `composed` is
 * made read-only: the store to it, which is the last before the slot is published, faults, and what the other processor does happens in the handler.
 */
#define _GNU_SOURCE /* REG_EFL */
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "ept/ept.h"
#include "ept_simple.h"

static struct {
    struct world *w;
    void *page; /* that is read-only */
    void (*meanwhile)(struct world *w);
    unsigned int faults;
} between;

static void on_fault(int number) {
    (void)number;
    /* A store elsewhere comes again and again: end it. */
    if (++between.faults > 1 || mprotect(between.page, 4096, PROT_READ | PROT_WRITE) != 0) {
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    between.meanwhile(between.w);
}

/* The first access to the page that `protection` forbids faults, and `meanwhile` comes between. */
static void guard(struct world *w, void *page, int protection, void (*meanwhile)(struct world *w)) {
    between.w = w;
    between.page = page;
    between.meanwhile = meanwhile;
    between.faults = 0;
    signal(SIGSEGV, on_fault);
    cr_assert_eq(mprotect(page, 4096, protection), 0);
}

/* The table of this level on the way to GPA2. */
static struct ept_table *table_of(const struct world *w, unsigned int level) {
    struct ept_table *table = w->ept->root[0].top;

    while (table->level > level) {
        table = (struct ept_table *)(uintptr_t)table->composed[ept_index(GPA2, table->level)];
    }
    return table;
}

static void page_5_moves(struct world *w) {
    world_set01(w, 0x205, 1, 7, 6, false, 12);
}

static void page_5_is_protected(struct world *w) {
    world_protect01(w, 0x205, 1);
}

static void l1_changes_entry_5(struct world *w) {
    w->l1[3][5] = UINT64_C(0x206) << 12 | 0x437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    root_of(w, 1, EPTP12);
}

/* What the host or L1 was told to be gone stays gone: the claim is spoilt, and L2 tries again. */
Test(ept, a_spoilt_claim_maps_nothing) {
    static const struct {
        void (*meanwhile)(struct world *w);
        uint64_t gpa1_page; /* that L2 reaches afterwards */
        uint64_t rights;
    } rows[] = {{page_5_moves, 0x205, 7}, {page_5_is_protected, 0x205, 5}, {l1_changes_entry_5, 0x206, 7}};

    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_fault fault;
        struct world_translation t;
        uint64_t hpa, type, qualification;

        cr_assert_eq(fault_at(w, EPTP12, 0x6000, 0x181, &fault), NVMX_EPT_RETRY); /* the tables are there */
        guard(w, table_of(w, 1)->composed, PROT_READ, rows[i].meanwhile);
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
        signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(between.faults, 1, "row %u: nothing came between", i);
        cr_expect(!world_walk02(w, root_of(w, 0, EPTP12), GPA2, &t), "row %u: mapped", i);
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY, "row %u", i);
        cr_assert(world_cpu(w, 0, root_of(w, 0, EPTP12), GPA2, &reading, &hpa, &type, &qualification), "row %u", i);
        cr_expect_eq(hpa >> 12, w->ept01[rows[i].gpa1_page].pfn, "row %u", i);
        cr_expect_eq(world_cpu(w, 0, root_of(w, 0, EPTP12), GPA2, &writing, &hpa, &type, &qualification), (rows[i].rights & 2) != 0, "row %u", i);
        world_delete(w);
    }
}

static void l1s_table_moves(struct world *w) {
    world_set01(w, 3, 1, 7, 6, false, 12);
}

/* The same of a table that was made to be referred to: it is not kept. */
Test(ept, a_spoilt_reference_leaves_no_table) {
    uint32_t pages[2];

    for (unsigned int spoilt = 0; spoilt < 2; spoilt++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_fault fault;

        w->l1[2][1] = 0x3407;
        cr_assert_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
        if (spoilt) {
            guard(w, table_of(w, 2)->composed, PROT_READ, l1s_table_moves);
            cr_expect_eq(fault_at(w, EPTP12, 0x200000, 0x181, &fault), NVMX_EPT_RETRY);
            signal(SIGSEGV, SIG_DFL);
            cr_assert_eq(between.faults, 1, "nothing came between");
        }
        touch(w, EPTP12, 0x200000, &reading);
        touch(w, EPTP12, GPA2, &reading);
        pages[spoilt] = nvmx_ept_pages(w->ept);
        world_delete(w);
    }
    cr_expect_eq(pages[0], pages[1], "%u, %u", pages[0], pages[1]);
}

/* -- between two instructions
 * ------------------------------------------------------------------------------------------------------------------ */

#define TRAP_FLAG 0x100u

static void page_6_is_used_and_moves(struct world *w) {
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = 0x6000, .qualification = 0x181};
    struct nvmx_ept_fault fault;

    cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_RETRY);
    world_set01(w, 0x206, 1, 7, 6, false, 12);
}

static uint64_t noted;

/* After each instruction of the fault: has what the top table says of its slots in use changed? */
static void on_step(int number) {
    const struct ept_table *top = between.w->ept->root[0].top;
    uint64_t now = top->used[0] << 8 | top->words;

    (void)number;
    if (now != noted && between.meanwhile != NULL) {
        void (*meanwhile)(struct world *w) = between.meanwhile;

        between.meanwhile = NULL;
        between.faults++;
        meanwhile(between.w);
    }
    noted = now;
}

/* Two processors use the same slot of a table for the first time, and one of them is only about to say so. */
Test(ept, a_slot_that_is_half_noted_is_found) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = 0x181};
    struct nvmx_ept_fault fault;
    struct world_translation t;

    root_of(w, 0, EPTP12);
    between.w = w;
    between.meanwhile = page_6_is_used_and_moves;
    between.faults = 0;
    noted = 0;
    signal(SIGTRAP, on_step);
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
    enum nvmx_ept_verdict verdict = nvmx_ept_fault(w->ept, &w, &access, &fault);
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(uint64_t)TRAP_FLAG);
    signal(SIGTRAP, SIG_DFL);
    cr_expect_eq(verdict, NVMX_EPT_RETRY);
    cr_assert_eq(between.faults, 1, "nothing came between");
    cr_expect(!world_walk02(w, root_of(w, 0, EPTP12), 0x6000, &t), "page %#llx is mapped", (unsigned long long)t.hpa);
    world_delete(w);
}

static unsigned int steps_left;

static void on_nth_step(int number, siginfo_t *information, void *context) {
    ucontext_t *interrupted = context;

    (void)number, (void)information;
    if (--steps_left == 0) {
        interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
        between.meanwhile(between.w);
    }
}

/* Of page 3 now, and then it steps. */
static void steps_begin_with_page_3(struct world *w) {
    if (w->maps % 4 != 0) {
        w->in_map = steps_begin_with_page_3;
    } else {
        __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() | TRAP_FLAG);
    }
}

/* It has found the table as the page was when it read it. */
static void another_comparison_ends(struct world *w) {
    struct ept_table *table = table_of(w, 1);

    table->digest = 0;
    table->digest_at = table->filled;
    w->ept->root[0].digesting = 0;
}

/*
 * All pages are mapped and a digest is noted. L1 has changed page 5, which was taken out and filled anew, and a comparison has begun since then that has not
 * ended.
 */
static struct world *with_an_old_digest(void) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    for (uint64_t i = 0; i < 512; i++) {
        touch(w, EPTP12, i << 12, &writing);
    }
    for (unsigned int i = 0; i < 2; i++) {
        nvmx_ept_invept(w->ept, &w, false, EPTP12);
        root_of(w, 0, EPTP12);
    }
    cr_assert_neq(table_of(w, 1)->digest, 0);
    w->ept->root[0].digesting = 1;
    w->l1[3][5] = UINT64_C(0x206) << 12 | 0x437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_assert_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    return w;
}

/* A digest is of the slots that were filled when it was noted, also where another comparison notes just now that it has none for those of today. */
Test(ept, a_digest_and_what_it_is_of_belong_together) {
    for (unsigned int step = 1; step < 120; step++) {
        struct world *w = with_an_old_digest();

        w->l1[3][5] = UINT64_C(0x205) << 12 | 0x437;
        nvmx_ept_invept(w->ept, &w, false, EPTP12);
        between.w = w;
        between.meanwhile = another_comparison_ends;
        steps_left = step;
        w->maps = w->unmaps = 0;
        w->in_map = steps_begin_with_page_3;
        struct sigaction stepping = {.sa_sigaction = on_nth_step, .sa_flags = SA_SIGINFO};
        sigaction(SIGTRAP, &stepping, NULL);
        uint64_t eptp02 = root_of(w, 0, EPTP12);
        signal(SIGTRAP, SIG_DFL);
        cr_assert_eq(steps_left, 0, "nothing came between");
        struct world_translation t;
        cr_expect(!world_walk02(w, eptp02, GPA2, &t), "step %u: page %#llx", step, (unsigned long long)t.hpa);
        world_delete(w);
    }
}

/* -- a reference that is claimed while what invalidates goes through the tree
 * ------------------------------------------------------------------------------------------------------------------ */

static void pages_move(struct world *w, uint32_t pfn, uint32_t count) {
    world_set01(w, pfn, count, 7, 6, false, 12);
}

static struct ept_op other;

#define GPA2_B (UINT64_C(0x200000) | GPA2) /* the same page of the next table, in page 4 */

static struct world *with_two_tables(void) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    w->l1[2][1] = 0x4407;
    for (uint64_t i = 0; i < 512; i++) {
        w->l1[4][i] = (512 + i) << 12 | 0x437;
    }
    touch(w, EPTP12, GPA2, &writing);
    touch(w, EPTP12, GPA2_B, &writing);
    return w;
}

/* L1 has given the reference other rights: what another processor does with it first (`refer_again` of map.c). */
static void another_claims_the_next_table(struct world *w) {
    struct ept_table *parent = table_of(w, 2);

    ept_begin(&other, w->ept, &between.w, &w->ept->root[0]);
    cr_assert(ept_slot_claim(&other, parent, 1, parent->hw[1]));
}

/* ... and last. */
static bool another_refers_again(struct world *w, uint64_t hw, uint64_t composed) {
    bool published = ept_slot_publish(&other, table_of(w, 2), 1, hw, composed);

    if (!published) {
        ept_discard(&other, (struct ept_table *)(uintptr_t)composed);
    }
    ept_end(&other);
    return published;
}

/* It began when the change had been announced, so it is not late, but the tables below are from before. */
Test(ept, tables_below_a_claimed_reference_are_not_passed_by) {
    static void (*const changes[])(struct world *w, uint32_t pfn, uint32_t count) = {pages_move, world_protect01};

    for (unsigned int i = 0; i < 2; i++) {
        struct world *w = with_two_tables();
        struct ept_table *parent = table_of(w, 2);
        uint64_t hw = parent->hw[1], composed = parent->composed[1];
        struct world_translation t;

        guard(w, table_of(w, 1)->hw, PROT_NONE, another_claims_the_next_table);
        changes[i](w, 0x205, 1);
        signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(between.faults, 1, "row %u: nothing came between", i);
        cr_expect(!another_refers_again(w, hw, composed), "row %u: what the host has changed is still there", i);
        cr_expect(!world_walk02(w, root_of(w, 0, EPTP12), GPA2_B, &t) || (t.rights & 2) == 0, "row %u", i);
        world_delete(w);
    }
}

static void l1_changes_a_right_and_another_sees_it(struct world *w) {
    w->l1[2][1] &= ~NVMX_EPT_EXECUTE;
    another_claims_the_next_table(w);
}

/* The same of a comparison that does not read the table above, since its page was not written when it was asked. */
Test(ept, a_comparison_does_not_pass_by_a_claimed_reference) {
    struct world *w = with_two_tables();
    struct ept_table *parent = table_of(w, 2);
    uint64_t hw = parent->hw[1], composed = parent->composed[1];
    struct world_translation t;

    between.w = w;
    w->versions = true;
    for (unsigned int i = 0; i < 4; i++) {
        nvmx_ept_invept(w->ept, &w, false, EPTP12);
        root_of(w, 0, EPTP12);
    }
    w->l1[3][7] ^= 0x1000; /* so that its page is read: this is when the other one comes */
    w->l1[4][5] = UINT64_C(0x206) << 12 | 0x437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    w->in_map = l1_changes_a_right_and_another_sees_it;
    root_of(w, 0, EPTP12);
    cr_assert_null(w->in_map, "nothing came between");
    another_refers_again(w, hw & ~NVMX_EPT_EXECUTE, composed);
    cr_expect(!world_walk02(w, root_of(w, 0, EPTP12), GPA2_B, &t) || (t.hpa & (WORLD_PFNS - 1)) == 0x206, "what L1 has invalidated is still there");
    world_delete(w);
}

/* -- a comparison that has not flushed yet
 * ------------------------------------------------------------------------------------------------------------------ */

static bool reached;
static uint64_t reached_page;

static void another_enters(struct world *w) {
    uint64_t hpa = 0, type, qualification;

    w->vcpu = 1;
    reached = world_cpu(w, 1, root_of(w, 1, EPTP12), GPA2, &reading, &hpa, &type, &qualification);
    reached_page = hpa >> 12 & (WORLD_PFNS - 1);
    w->vcpu = 0;
}

/*
 * What L1 invalidated on processor 1, where another vCPU of the VM has used it once more since, a comparison on processor 0 takes out. Before it is flushed
 * everywhere no vCPU enters L2 on what has been compared.
 */
Test(ept, nobody_enters_between_a_comparison_and_its_flush) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t hpa, type, qualification;

    touch(w, EPTP12, GPA2, &reading);
    root_of(w, 1, EPTP12);
    w->l1[3][5] = UINT64_C(0x206) << 12 | 0x437;
    w->vcpu = 1;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_assert(world_cpu(w, 1, w->ept->root[0].eptp02, GPA2, &reading, &hpa, &type, &qualification));
    w->vcpu = 0;
    w->in_flush = another_enters;
    root_of(w, 0, EPTP12);
    cr_assert_null(w->in_flush, "the other one never came");
    cr_expect(!reached || reached_page == 0x206, "page %#llx", (unsigned long long)reached_page);
    world_delete(w);
}

/* As many roots as there can be, one for each user and some that nobody uses: those that are there are found, and a new one takes the place of an idle one. */
Test(ept, a_root_for_each_user) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t eptp02 = 0, again = 0, page = 1;

    for (; page <= EPT_ROOTS_IDLE_MAX; page++) {
        root_of(w, 0, page << 12 | EPTP12);
    }
    for (unsigned int user = 0; user < EPT_USERS; user++) {
        cr_expect_eq(nvmx_ept_root(w->ept, &w, user, page++ << 12 | EPTP12, false, &eptp02), NVMX_OK, "user %u", user);
    }
    cr_expect_eq(nvmx_ept_root(w->ept, &w, 7, page++ << 12 | EPTP12, false, &again), NVMX_OK);
    cr_expect_eq(w->ept->root_end, EPT_ROOTS);
    cr_expect_neq(again, eptp02);
    cr_expect_eq(nvmx_ept_root(w->ept, &w, 7, (page - 2) << 12 | EPTP12, false, &again), NVMX_OK);
    cr_expect_eq(again, eptp02, "the last user's");
    cr_expect_eq(nvmx_ept_root(w->ept, &w, 7, page << 12 | EPTP12, false, &again), NVMX_OK);
    cr_expect_neq(again, eptp02);
    cr_expect_eq(w->ept->root_end, EPT_ROOTS);
    world_delete(w);
}

/* The struct of a table serves again: nothing of its first use is left, and where there is no page for it, none is made of the old ones. */
Test(ept, a_table_that_had_another_use_is_as_new) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    bool refused = false;
    struct ept_table *table = ept_table_new(w->ept, &refused);
    const uint64_t none[8] = {0};

    cr_assert(table != NULL && !refused);
    table->parent = table;
    table->gone = table->first = table->last = table->stamp = table->digest = table->version = 9;
    table->digest_at = table->version_at = table->filling = table->filled = 9;
    table->words = 0xff;
    memset(table->used, 0xff, sizeof(table->used));
    ept_table_free(w->ept, table);
    const uint32_t pages = nvmx_ept_pages(w->ept);
    for (uint32_t more = 0; more < 2; more++) {
        w->most_pages = pages + more;
        refused = false;
        cr_expect(ept_table_new(w->ept, &refused) == NULL && refused, "%u pages more", more);
        cr_expect_eq(nvmx_ept_pages(w->ept), pages);
    }
    w->most_pages = 0;
    refused = false;
    cr_assert(ept_table_new(w->ept, &refused) == table && !refused);
    cr_expect(table->parent == NULL && table->gone == 0 && table->first > table->last && table->stamp == 0);
    cr_expect(table->digest == 0 && table->digest_at == 0 && table->version == 0 && table->version_at == 0);
    cr_expect(table->filling == 0 && table->filled == 0 && table->words == 0 && memcmp(table->used, none, sizeof(none)) == 0);
    ept_table_free(w->ept, table);
    world_delete(w);
}

/* -- little memory ------------------------------------------------------------------------------------------------------------------- */

static enum nvmx_ept_verdict met;

static void another_needs_a_table(struct world *w) {
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = 0x181};
    struct nvmx_ept_fault fault;

    met = nvmx_ept_fault(w->ept, &w, &access, &fault);
}

/* What one processor has unlinked is nobody's until it has flushed: another, which finds no room meanwhile, tries again. */
Test(ept, room_that_is_on_its_way_is_waited_for) {
    struct world *w = simple(AD_CAPS, 12); /* two roots, one path, and what describes them */
    struct nvmx_ept_fault fault;

    met = NVMX_EPT_HOST_FAULT;
    touch(w, EPTP12, GPA2, &reading);
    root_of(w, 1, EPTP12_AD);
    w->in_flush = another_needs_a_table;
    struct nvmx_ept_access access = {.eptp12 = EPTP12_AD, .gpa2 = GPA2, .qualification = 0x181};
    cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_RETRY);
    cr_expect_null(w->in_flush, "the other one never came");
    cr_expect_eq(met, NVMX_EPT_RETRY);
    world_delete(w);
}

/* A budget in which a path has no place, with nobody to wait for, is the host's mistake: L2 does not try for ever. */
Test(ept, too_small_a_budget_is_said) {
    struct world *w = simple(AD_CAPS, 12);
    struct nvmx_ept_fault fault;

    root_of(w, 1, EPTP12_AD);
    root_of(w, 2, EPTP12 | UINT64_C(0x8000));
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_NO_MEMORY);
    world_delete(w);
}

/* A host that has no page left gets some back, and is asked again. */
Test(ept, what_is_freed_serves_the_next_root) {
    struct world *w = simple(AD_CAPS, 0);

    touch(w, EPTP12, GPA2, &reading);
    nvmx_ept_release(w->ept, &w, 0);
    w->most_pages = w->allocated - w->freed;
    root_of(w, 1, EPTP12_AD);
    world_delete(w);
}

/* -- the same of a vector of sub-page permissions
 * ------------------------------------------------------------------------------------------------------------------ */

#define SPPTP12 UINT64_C(0x40000) /* pages 64 to 67 */

static uint64_t enter_with_sub_pages(struct world *w, unsigned int user) {
    uint64_t eptp02 = 0;

    cr_assert_eq(nvmx_ept_root_spp(w->ept, &w, user, EPTP12, false, SPPTP12, &eptp02, &w->spptp02), NVMX_OK);
    return eptp02;
}

static void l1_changes_vector_5(struct world *w) {
    w->l1[67][5] = 1;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    enter_with_sub_pages(w, 1);
}

static void l1s_vectors_move(struct world *w) {
    w->l1[67][5] = 1;
    nvmx_ept_memory_changed(w->ept, &w, 67 << 12, 4096);
}

static void page_5_loses_writing(struct world *w) {
    w->l1[67][5] = 1;
    world_protect01(w, 0x205, 1);
    w->ept01[0x205].access = 7;
}

Test(ept, a_spoilt_claim_of_a_vector_permits_nothing) {
    static void (*const meanwhile[])(struct world *w) = {l1_changes_vector_5, l1s_vectors_move, page_5_loses_writing};

    for (unsigned int i = 0; i < sizeof(meanwhile) / sizeof(meanwhile[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = 0x6123, .qualification = 0x182, .spp = true, .spptp12 = SPPTP12};
        uint64_t hpa, type, qualification;
        struct nvmx_ept_fault fault;

        w->spp = true;
        for (unsigned int page = 64; page < 67; page++) {
            w->l1[page][0] = (page + 1) << 12 | 1;
        }
        w->l1[67][5] = w->l1[67][6] = 1 << 4;
        w->l1[3][5] = 0x205435 | NVMX_EPT_SUB_PAGE;
        w->l1[3][6] = 0x206435 | NVMX_EPT_SUB_PAGE;
        enter_with_sub_pages(w, 0);
        cr_assert_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_RETRY); /* the tables are there */
        struct ept_table *vectors = w->ept->root[0].sppt;
        while (vectors->level > 1) {
            vectors = (struct ept_table *)(uintptr_t)vectors->composed[0];
        }
        guard(w, vectors->composed, PROT_READ, meanwhile[i]);
        access.gpa2 = GPA2;
        cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_RETRY);
        signal(SIGSEGV, SIG_DFL);
        cr_assert_eq(between.faults, 1, "row %u: nothing came between", i);
        cr_expect(!world_cpu(w, 0, enter_with_sub_pages(w, 0), GPA2, &writing, &hpa, &type, &qualification), "row %u", i);
        /* What it was given in between decides, once it is read. */
        if (i < 2) {
            cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_L1_VIOLATION, "row %u", i);
        }
        world_delete(w);
    }
}
