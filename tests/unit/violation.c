/* SPDX-License-Identifier: MIT */
/*
 * EPT violations of L2 by the short way (violation_of_l2 in lib/exits/route.c) against the general one: two machines have the same exits, one of which has a
 * bus lock noted that L1 does not want to hear of, so that its exit is not one of the usual.
 */
#include <criterion/criterion.h>
#include <nvmx/exits.h>
#include <string.h>

#include "draw.h"
#include "machine.h"

#define STEPS 3000u
#define ENTRY(page) (SIM_L1_EPT12 + 0x3000 + (page) * 8)

struct pair {
    struct sim *sim[2];
    uint64_t seed;
    unsigned int step;
};

/* The page goes from ept02, and what ept12 or ept01 has of it may be another thing then. One hole at a time. */
static void change(struct pair *p, uint32_t page) {
    static const uint64_t flags[8] = {0x37, 0x37, 0x37, 0x37, 0x31, 0x33, 0, 0x36};
    uint64_t gpa1 = sim_gpa1_of(page << 12), entry = gpa1 | flags[draw_below(&p->seed, 8)];
    bool hole = draw_below(&p->seed, 6) == 0;

    for (unsigned int i = 0; i < 2; i++) {
        sim_write64(p->sim[i], ENTRY(page), entry);
        p->sim[i]->ranges = 1;
        if (hole) {
            sim_ept01(p->sim[i], gpa1, 0x1000, 0, 12, 0, 0);
        }
        nvmx_memory_changed(p->sim[i]->vcpu, gpa1, 0x1000);
    }
}

static void expect_same(const struct pair *p, const enum nvmx_next next[2]) {
    cr_assert_eq(next[0], next[1], "step %u: %d, the general way %d", p->step, next[0], next[1]);
    for (unsigned int which = 0; which < SIM_VMCSS; which = sim_next_vmcs(which)) {
        const uint64_t *a = p->sim[0]->vmcs[which].value, *b = p->sim[1]->vmcs[which].value;
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            cr_assert(a[slot] == b[slot], "step %u: VMCS %u, %s: %#lx, the general way %#lx", p->step, which, nvmx_field_info(slot)->name,
                      a[slot], b[slot]);
        }
    }
    cr_assert_eq(nvmx_host_fault_gpa1(p->sim[0]->vcpu), nvmx_host_fault_gpa1(p->sim[1]->vcpu), "step %u", p->step);
    cr_assert_eq(nvmx_mode(p->sim[0]->vcpu), nvmx_mode(p->sim[1]->vcpu));
    cr_assert(memcmp(p->sim[0]->ram, p->sim[1]->ram, SIM_L1_EPT12) == 0, "step %u: L1's memory", p->step);
    cr_assert_eq(p->sim[0]->vcpu->counts.exits_l2, p->sim[1]->vcpu->counts.exits_l2);
    cr_assert_eq(p->sim[0]->vcpu->counts.handled, p->sim[1]->vcpu->counts.handled);
    cr_assert_eq(p->sim[0]->vcpu->counts.to_host, p->sim[1]->vcpu->counts.to_host);
    cr_assert_eq(p->sim[0]->vcpu->entry_pending, p->sim[1]->vcpu->entry_pending);
}

static struct nvmx_l2_exit_info some_violation(struct pair *p, uint32_t page) {
    static const uint32_t events[8] = {0x80000202, 0x80000030, 0x80000b0e, 0x80000480, 0, 0, 0, 0};
    static const uint64_t kinds[4] = {0x181, 0x182, 0x184, 0x081};
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_EPT_VIOLATION, .instruction_length = 2};

    info.qualification = kinds[draw_below(&p->seed, 4)];
    info.qualification |= draw_below(&p->seed, 6) == 0 ? 0x1000 : 0;
    info.guest_physical_address = (uint64_t)page << 12 | draw_below(&p->seed, 4096);
    info.guest_linear_address = draw_below(&p->seed, 1u << 30);
    info.idt_vectoring_info = draw_below(&p->seed, 4) == 0 ? events[draw_below(&p->seed, 8)] : 0;
    info.idt_vectoring_error_code = (info.idt_vectoring_info & 0x800) != 0 ? draw_below(&p->seed, 8) : 0;
    return info;
}

Test(violation, short_way_does_what_the_general_one_does) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct pair p = {.sim = {l2_running(NULL), l2_running(NULL)}, .seed = seed * 0x9e3779b97f4a7c15u};
        unsigned int entered = 0, reflected = 0, host = 0;

        for (p.step = 0; p.step < STEPS; p.step++) {
            uint32_t page = 3 + draw_below(&p.seed, 6) * 7;
            enum nvmx_next next[2];

            if (draw_below(&p.seed, 2) == 0) {
                change(&p, page);
            }
            struct nvmx_l2_exit_info info = some_violation(&p, page);
            uint64_t blocking = draw_below(&p.seed, 3) == 0 ? 8 : 0;
            p.sim[1]->vcpu->bus_lock = true;
            for (unsigned int i = 0; i < 2; i++) {
                sim_set(p.sim[i], p.sim[i]->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, blocking);
                sim_set(p.sim[i], p.sim[i]->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
                next[i] = sim_exit_info(p.sim[i], &info);
            }
            expect_same(&p, next);
            entered += next[0] == NVMX_ENTER && nvmx_mode(p.sim[0]->vcpu) == NVMX_MODE_L2;
            host += next[0] == NVMX_HOST;
            if (nvmx_mode(p.sim[0]->vcpu) != NVMX_MODE_L2) {
                reflected++;
                resume(p.sim[0]);
                resume(p.sim[1]);
            }
        }
        cr_expect(entered > STEPS / 10 && reflected > STEPS / 20 && host > STEPS / 50, "%u entered, %u reflected, %u host's", entered, reflected,
                  host);
        sim_free(p.sim[0]);
        sim_free(p.sim[1]);
    }
}

/* A page that ept12 does not map is asked for again and again, in whatever way; then L1 maps it, and no other. */
Test(violation, the_last_unmapped_page_comes_back) {
    struct sim *sim = l2_running(NULL);
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_EPT_VIOLATION, .guest_physical_address = 0x5008, .guest_linear_address = 0x5008};
    static const uint64_t kinds[] = {0x181, 0x182, 0x184, 0x081, 0x001};

    sim_write64(sim, ENTRY(5), 0);
    sim_write64(sim, ENTRY(0), 0);
    for (size_t i = 0; i < COUNT(kinds); i++) {
        info.qualification = kinds[i];
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), kinds[i]);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), 0x5008);
        resume(sim);
    }
    sim_write64(sim, ENTRY(5), sim_gpa1_of(0x5000) | 0x37);
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "it is mapped now");
    info.guest_physical_address = 0;
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "page 0 is not");
    resume(sim);
    info.guest_physical_address = 0x6000;
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "another page was always there");
    sim_free(sim);
}
