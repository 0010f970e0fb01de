/* SPDX-License-Identifier: MIT */
/*
 * An exit leaves most of L2's state in vmcs02, and a resume checks and writes only what changed. Nobody may notice: two
 * machines go through the same steps, and on one of them L1 reads every field after every exit, so that nothing is left
 * for later. Outcomes and vmcs02s must be equal.
 */
#include "machine.h"

#define MACHINES 2u

struct pair {
    struct sim *sim[MACHINES];
    uint64_t random;
    uint64_t seed;
};

static uint64_t next(struct pair *p) {
    p->random ^= p->random << 13;
    p->random ^= p->random >> 7;
    p->random ^= p->random << 17;
    return p->random;
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
};

static uint64_t choice(struct pair *p, size_t *row) {
    *row = next(p) % COUNT(choices);
    return choices[*row].value[next(p) % COUNT(choices[*row].value)];
}

/* The same by both machines; the outcomes must be one. */
static enum sim_outcome both_enter(struct pair *p, bool launch) {
    enum sim_outcome outcome[MACHINES];
    for (unsigned int i = 0; i < MACHINES; i++)
        outcome[i] = launch ? sim_vmlaunch(p->sim[i]) : sim_vmresume(p->sim[i]);
    const struct nvmx_check_row *lazy = nvmx_check_row(nvmx_last_check(p->sim[0]->vcpu));
    const struct nvmx_check_row *eager = nvmx_check_row(nvmx_last_check(p->sim[1]->vcpu));
    cr_assert(outcome[0] == outcome[1] && lazy == eager, "seed %lu: %s by %s, but %s by %s", p->seed,
              sim_outcome_text(outcome[0]), lazy ? lazy->id : "-", sim_outcome_text(outcome[1]),
              eager ? eager->id : "-");
    return outcome[0];
}

static void both_write(struct pair *p, uint32_t encoding, uint64_t value) {
    for (unsigned int i = 0; i < MACHINES; i++)
        l1_writes(p->sim[i], encoding, value);
}

/* vmcs02 but for what hardware tells in it, and for what only counts with an event. */
static void expect_same_vmcs02(const struct pair *p) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        bool of_event = slot == NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE || slot == NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH;
        uint64_t lazy = vmcs02(p->sim[0], (enum nvmx_field)slot), eager = vmcs02(p->sim[1], (enum nvmx_field)slot);
        if (slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO && !(lazy >> 31) && !(eager >> 31))
            continue;
        if (!nvmx_encoding_read_only(info->encoding) && !of_event)
            cr_assert(lazy == eager, "seed %lu: %s: %#lx and %#lx", p->seed, info->name, lazy, eager);
    }
}

static void expect_same_vmcs12(const struct pair *p) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        if (!nvmx_set_has(&p->sim[0]->vcpu->vm->exists, slot))
            continue;
        uint64_t lazy = l1_reads(p->sim[0], encoding), eager = l1_reads(p->sim[1], encoding);
        cr_assert(lazy == eager, "seed %lu: %s: %#lx and %#lx", p->seed, nvmx_field_info(slot)->name, lazy, eager);
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

/* L2 ran, and left other guest state, the same on both machines. */
static void l2_runs(struct pair *p) {
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

/* L1 writes a few fields and enters; a refused entry is followed by a better one. */
static void l1_runs(struct pair *p) {
    read_all(p->sim[1]);
    for (uint64_t changes = next(p) % 4; changes > 0; changes--) {
        size_t row;
        uint64_t value = choice(p, &row);
        both_write(p, nvmx_field_info(choices[row].slot)->encoding, value);
    }
    if (both_enter(p, false) == SIM_L2) {
        expect_same_vmcs02(p);
        return;
    }
    expect_same_vmcs12(p);
    for (unsigned int i = 0; i < MACHINES; i++)
        cr_assert_eq(sim_vmcs12(p->sim[i]), 0);
    cr_assert_eq(both_enter(p, false), SIM_L2, "seed %lu", p->seed);
    expect_same_vmcs02(p);
}

static void go(const struct sim_options *options, uint64_t seed) {
    struct pair p = {.random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1, .seed = seed};
    for (unsigned int i = 0; i < MACHINES; i++) {
        p.sim[i] = sim_new(options);
        cr_assert(sim_vmxon_ready(p.sim[i]) == SIM_SUCCEED && sim_vmcs12(p.sim[i]) == 0);
    }
    cr_assert_eq(both_enter(&p, true), SIM_L2);
    for (unsigned int step = 0; step < 12; step++) {
        l2_runs(&p);
        l1_runs(&p);
    }
    for (unsigned int i = 0; i < MACHINES; i++)
        sim_free(p.sim[i]);
}

Test(enter_lazy, nobody_notices, .timeout = 120) {
    static const struct sim_options options[] = {{0}, {.shadow = true}, {.external_interrupts = true, .no_vpid = true}};
    for (uint64_t seed = 1; seed <= 450; seed++)
        go(&options[seed % COUNT(options)], seed);
}
