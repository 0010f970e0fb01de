/* SPDX-License-Identifier: MIT */
/*
 * An exit leaves most of L2's state in vmcs02, a resume checks and writes only what changed, the cache holds a few
 * vmcs12s, a shadow VMCS answers for the library. Nobody may notice: several machines go through the same steps. On one
 * L1 reads every field after every exit, so that nothing is left for later; one has room for one vmcs12 only; two have
 * VMCS shadowing, one of them a shadow VMCS for each vmcs12. Outcomes, vmcs12s and vmcs02s must be equal.
 */
#include "draw.h"
#include <stdlib.h>

#include "machine.h"

#define MACHINES 5u
#define EAGER    1u
#define REGIONS  3u

static const struct sim_options options[MACHINES] = {
    {.vmcs02_slots = 4},
    [EAGER] = {.vmcs02_slots = 4},
    {.vmcs02_slots = 1},
    {.vmcs02_slots = 2, .shadow = true},
    {.vmcs02_slots = 2, .shadow = true, .shadows = true},
};

struct world {
    struct sim *sim[MACHINES];
    uint64_t random;
    uint64_t seed;
    unsigned int current;
    bool launched[REGIONS];
};

static uint64_t region(unsigned int i) {
    return 0x200000 + i * 0x1000;
}

static uint64_t next(struct world *p) {
    return draw(&p->random);
}

/* Values that a field may well have, and some that it may not: what VM entry says of them depends on other fields. */
static const struct {
    enum nvmx_field slot;
    uint64_t value[6];
} choices[] = {
    {NVMX_F_GUEST_RIP,
     {0x1000, 0x1234, UINT64_C(0xffff800000000000), UINT64_C(0x800000000000), 0xffffffff, 0x100000000}},
    {NVMX_F_GUEST_RSP, {0x3000, 0, UINT64_MAX, 0x2ff8, 8, 0x3000}},
    {NVMX_F_GUEST_RFLAGS, {2, 0x202, 0x102, 0x302, 0x20002, 0x10246}},
    {NVMX_F_GUEST_INTERRUPTIBILITY_STATE, {0, 1, 2, 8, 0, 0}},
    {NVMX_F_GUEST_ACTIVITY_STATE, {0, 1, 0, 2, 3, 0}},
    {NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, {0, 0x4000, 0x1000, 0, 0, 0x400f}},
    {NVMX_F_GUEST_DEBUGCTL, {0, 1, 2, 3, 0, 2}},
    {NVMX_F_GUEST_DR7, {0x400, 0x401, 0x455, UINT64_C(0x100000400), 0x400, 0x400}},
    {NVMX_F_GUEST_CR0, {0x80050033, 0x8005003b, 0x80000031, 0x20, 0x80010021, 0xe0050033}},
    {NVMX_F_GUEST_CR3, {0x2000, 0x7000, 0, UINT64_C(1) << 41, 0x9018, 0x2000}},
    {NVMX_F_GUEST_CR4, {0x2020, 0x2000, 0x22020, 0x426a0, 0x2030, 0x20}},
    {NVMX_F_GUEST_EFER, {0x500, 0xd01, 0, 0xd00, 0x100, 0x800}},
    {NVMX_F_GUEST_CS_ACCESS_RIGHTS, {0xa09b, 0xc09b, 0x9b, 0xa0fb, 0xf3, 0xa099}},
    {NVMX_F_GUEST_SS_ACCESS_RIGHTS, {0xc093, 0x93, 0xc0f3, 0x10000, 0xf3, 0xc097}},
    {NVMX_F_GUEST_DS_ACCESS_RIGHTS, {0xc093, 0x10000, 0xc0f3, 0xf3, 0xc091, 0xc09b}},
    {NVMX_F_GUEST_DS_LIMIT, {0xffffffff, 0xffff, 0xfffff, 0, 0xfffffffe, 0xffffffff}},
    {NVMX_F_GUEST_GS_BASE, {0, 0x5000, UINT64_C(0xffff888000000000), UINT64_C(0x900000000000), 0, 0}},
    {NVMX_F_GUEST_TR_ACCESS_RIGHTS, {0x8b, 0x83, 0x89, 0x8b, 0x8b, 0x1008b}},
    {NVMX_F_GUEST_LDTR_ACCESS_RIGHTS, {0x10000, 0x82, 0x10000, 0x10000, 0x92, 0x10000}},
    {NVMX_F_GUEST_PAT, {6, UINT64_C(0x0007040600070406), 0x06, 2, 6, 6}},
    {NVMX_F_GUEST_SYSENTER_EIP, {0, 0x1000, UINT64_C(1) << 63, 0, 0, 0}},
    {NVMX_F_VM_ENTRY_INTERRUPTION_INFO, {0, 0x80000306, 0x80000b0d, 0x80000202, 0x80000030, 0x80000700}},
    {NVMX_F_VM_ENTRY_CONTROLS, {0x93ff, 0xd3ff, 0x91ff, 0x93fb, 0x13ff, 0xd3fb}},
    {NVMX_F_VM_EXIT_CONTROLS, {0x336fff, 0x376fff, 0x236fff, 0x336ffb, 0x3f6fff, 0x336fff}},
    {NVMX_F_PRIMARY_CONTROLS, {0x9501e1f2, 0x9501e1f6, 0x8501e1f2, 0x1401e1f2, 0x9501e1fa, 0x9501e1f2}},
    {NVMX_F_SECONDARY_CONTROLS, {0x2a, 0x8, 0xaa, 0x22, 0x2a, 0x2a}},
    {NVMX_F_PIN_BASED_CONTROLS, {0x16, 0x1e, 0x3e, 0x56, 0x17, 0x16}},
    {NVMX_F_PREEMPTION_TIMER_VALUE, {0, 1000, 77, 0, 1, 5}},
    {NVMX_F_CR0_GUEST_HOST_MASK, {0, 8, 0x80000021, 0, 0, 8}},
    {NVMX_F_TSC_OFFSET, {0, 1, UINT64_MAX, 0x1000, 0, 0}},
    {NVMX_F_VPID, {1, 2, 3, 0, 1, 9}},
};

static uint64_t choice(struct world *p, size_t *row) {
    *row = next(p) % COUNT(choices);
    return choices[*row].value[next(p) % COUNT(choices[*row].value)];
}

/* The same by all machines; the outcomes must be one. */
static void same_outcome(const struct world *p, const enum sim_outcome *outcome, const char *what) {
    for (unsigned int i = 1; i < MACHINES; i++) {
        const struct nvmx_check_row *one = nvmx_check_row(nvmx_last_check(p->sim[0]->vcpu));
        const struct nvmx_check_row *other = nvmx_check_row(nvmx_last_check(p->sim[i]->vcpu));
        cr_assert(outcome[0] == outcome[i] && one == other, "seed %lu, %s, machine %u: %s by %s, but %s by %s", p->seed,
                  what, i, sim_outcome_text(outcome[0]), one ? one->id : "-", sim_outcome_text(outcome[i]),
                  other ? other->id : "-");
    }
}

static enum sim_outcome all_enter(struct world *p) {
    enum sim_outcome outcome[MACHINES];
    for (unsigned int i = 0; i < MACHINES; i++)
        outcome[i] = p->launched[p->current] ? sim_vmresume(p->sim[i]) : sim_vmlaunch(p->sim[i]);
    same_outcome(p, outcome, "VM entry");
    p->launched[p->current] = p->launched[p->current] || outcome[0] == SIM_L2;
    return outcome[0];
}

static void all_make_current(struct world *p, unsigned int which, bool clear) {
    enum sim_outcome outcome[MACHINES];
    for (unsigned int i = 0; i < MACHINES; i++) {
        outcome[i] = clear ? sim_vmclear(p->sim[i], region(which)) : SIM_SUCCEED;
        if (outcome[i] == SIM_SUCCEED)
            outcome[i] = sim_vmptrld(p->sim[i], region(which));
    }
    same_outcome(p, outcome, "VMPTRLD");
    cr_assert_eq(outcome[0], SIM_SUCCEED);
    p->launched[which] = p->launched[which] && !clear;
    p->current = which;
}

/* Where a page or a name is the machine's own choice. */
static bool own_choice(unsigned int slot) {
    return slot == NVMX_F_EPT_POINTER || slot == NVMX_F_VPID || slot == NVMX_F_MSR_BITMAP_ADDRESS ||
           slot == NVMX_F_IO_BITMAP_A_ADDRESS || slot == NVMX_F_IO_BITMAP_B_ADDRESS;
}

/* The fields of an event count only with an event, those of other controls only with the control. */
static bool counts(const struct world *p, unsigned int slot) {
    uint64_t event = vmcs02(p->sim[0], NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    switch (slot) {
    case NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE:
        return (event & EVENT_VALID) != 0 && (event & EVENT_ERROR_CODE) != 0;
    case NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH:
        return (event & EVENT_VALID) != 0 && ((event >> 8) & 7) >= 4;
    case NVMX_F_VM_ENTRY_INTERRUPTION_INFO:
        for (unsigned int i = 0; i < MACHINES; i++)
            event |= vmcs02(p->sim[i], NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
        return (event & EVENT_VALID) != 0;
    case NVMX_F_PREEMPTION_TIMER_VALUE:
        return (vmcs02(p->sim[0], NVMX_F_PIN_BASED_CONTROLS) & PIN_PREEMPTION_TIMER) != 0;
    default:
        return !nvmx_encoding_read_only(nvmx_field_info(slot)->encoding) && !own_choice(slot);
    }
}

static void expect_same_vmcs02(const struct world *p) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        for (unsigned int i = 1; i < MACHINES && counts(p, slot); i++) {
            uint64_t one = vmcs02(p->sim[0], (enum nvmx_field)slot), other = vmcs02(p->sim[i], (enum nvmx_field)slot);
            cr_assert(one == other, "seed %lu, machine %u: %s: %#lx and %#lx", p->seed, i, nvmx_field_info(slot)->name,
                      one, other);
        }
}

static void expect_same_vmcs12(const struct world *p) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        if (!nvmx_set_has(&p->sim[0]->vcpu->vm->exists, slot))
            continue;
        for (unsigned int i = 1; i < MACHINES; i++) {
            uint64_t one = l1_reads(p->sim[0], encoding), other = l1_reads(p->sim[i], encoding);
            cr_assert(one == other, "seed %lu, machine %u: %s: %#lx and %#lx", p->seed, i, nvmx_field_info(slot)->name,
                      one, other);
        }
    }
}

static void read_all(struct sim *sim) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&sim->vcpu->vm->exists, slot))
            l1_reads(sim, nvmx_field_info(slot)->encoding);
}

/* Could the processor have left this? What an exit saves an entry takes, so the checks of guest state tell. */
static bool possible(struct sim *sim) {
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_failure failures[32];
    struct nvmx_check_input in = {
        .field = field, .caps = &sim->machine, .l1_long_mode = true, .pdpte_readable = true, .current_vmcs = 0x1000};
    bool good = true;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        field[slot] = sim_has_field(sim, slot) ? vmcs02(sim, (enum nvmx_field)slot) : 0;
    field[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = 0;
    size_t count = nvmx_check_report(&in, failures, COUNT(failures));
    for (size_t i = 0; i < count && i < COUNT(failures); i++)
        good = good && nvmx_check_row(failures[i].row)->exit_reason == 0;
    return good;
}

/* L2 ran, and left other guest state, the same on all machines. */
static void l2_runs(struct world *p) {
    for (uint64_t changes = next(p) % 5; changes > 0; changes--) {
        size_t row;
        uint64_t value = choice(p, &row);
        bool guest_state = ((nvmx_field_info(choices[row].slot)->encoding >> 10) & 3) == 2;
        uint64_t before = vmcs02(p->sim[0], choices[row].slot);
        for (unsigned int i = 0; i < MACHINES && guest_state; i++) {
            sim_set(p->sim[i], p->sim[i]->selected, choices[row].slot, value);
            if (!possible(p->sim[i]))
                sim_set(p->sim[i], p->sim[i]->selected, choices[row].slot, before);
        }
    }
    for (unsigned int i = 0; i < MACHINES; i++)
        cr_assert_eq(sim_exit(p->sim[i], NVMX_EXIT_CPUID, 0, 0, 2), NVMX_ENTER, "seed %lu", p->seed);
}

static void all_write(const struct world *p, unsigned int slot, uint64_t value) {
    for (unsigned int i = 0; i < MACHINES; i++)
        l1_writes(p->sim[i], nvmx_field_info(slot)->encoding, value);
}

/* A new start in the current region. */
static void all_write_a_good_vmcs12(struct world *p) {
    static const uint8_t nothing[4096];
    for (unsigned int i = 0; i < MACHINES; i++) {
        cr_assert_eq(sim_vmclear(p->sim[i], region(p->current)), SIM_SUCCEED);
        sim_write(p->sim[i], region(p->current), nothing, sizeof(nothing));
        sim_region(p->sim[i], region(p->current));
    }
    all_make_current(p, p->current, true);
    for (unsigned int i = 0; i < MACHINES; i++)
        cr_assert_eq(sim_vmcs12(p->sim[i]), 0);
}

/* Any bit of any field but those by which L1 would lose itself at the next exit. */
static void any_change(struct world *p) {
    unsigned int slot = (unsigned int)(next(p) % NVMX_FIELD_COUNT), bit = (unsigned int)(next(p) % 64);
    uint32_t encoding = nvmx_field_info(slot)->encoding;
    bool host_state = ((encoding >> 10) & 3) == 3;
    if (nvmx_set_has(&p->sim[0]->vcpu->vm->exists, slot) && !host_state && slot != NVMX_F_VM_EXIT_MSR_LOAD_COUNT &&
        slot != NVMX_F_VM_EXIT_MSR_STORE_COUNT)
        all_write(p, slot, l1_reads(p->sim[0], encoding) ^ UINT64_C(1) << bit);
}

/* L1 turns to another VMCS perhaps, writes a few fields and enters; a refused entry is followed by a better one. */
static void l1_runs(struct world *p) {
    read_all(p->sim[EAGER]);
    if (next(p) % 3 == 0)
        all_make_current(p, (unsigned int)(next(p) % REGIONS), next(p) % 4 == 0);
    for (uint64_t changes = next(p) % 4; changes > 0; changes--) {
        size_t row;
        uint64_t value = choice(p, &row);
        if (next(p) % 4 == 0)
            any_change(p);
        else
            all_write(p, choices[row].slot, value);
    }
    if (next(p) % 8 == 0)
        expect_same_vmcs12(p);
    if (all_enter(p) != SIM_L2) {
        expect_same_vmcs12(p);
        all_write_a_good_vmcs12(p);
        cr_assert_eq(all_enter(p), SIM_L2, "seed %lu", p->seed);
    }
    expect_same_vmcs02(p);
}

static void go(uint64_t seed) {
    struct world p = {.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1, .seed = seed};
    for (unsigned int i = 0; i < MACHINES; i++) {
        p.sim[i] = sim_new(&options[i]);
        cr_assert(sim_vmxon_ready(p.sim[i]) == SIM_SUCCEED);
        for (unsigned int k = 0; k < REGIONS; k++)
            sim_region(p.sim[i], region(k));
    }
    for (unsigned int k = 0; k < REGIONS; k++) {
        all_make_current(&p, k, true);
        all_write_a_good_vmcs12(&p);
    }
    cr_assert_eq(all_enter(&p), SIM_L2);
    for (unsigned int step = 0; step < 16; step++) {
        l2_runs(&p);
        l1_runs(&p);
    }
    for (unsigned int i = 0; i < MACHINES; i++)
        sim_free(p.sim[i]);
}

Test(enter_lazy, nobody_notices, .timeout = 120) {
    for (uint64_t seed = 1; seed <= 250; seed++)
        go(seed);
}

/* Saving fetches what an exit left in vmcs02; what L2 changes after that is L2's newest state all the same. */
Test(enter_lazy, what_was_fetched_by_saving_is_old_after_the_next_exit) {
    struct sim *sim = l2_running(NULL);
    size_t bytes;
    for (unsigned int round = 0; round < 3; round++) {
        l2_leaves(sim);
        resume(sim);
    }
    l2_leaves(sim);
    free(sim_save(sim, &bytes));
    resume(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_DS_BASE, 0x7000);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_DS_BASE), 0x7000);
    sim_free(sim);
}
