/* SPDX-License-Identifier: MIT */
/* State that "load", "save" and "clear" controls switch between L1 and L2 (SDM 29.3.2.1, 30.3.1, 30.5.1), on machines that have all of it. */
#include "machine.h"

#define ALWAYS 0xffu
/* Secondary VM-exit controls. */
#define EXIT2(bit) (32 + (bit))

static const struct {
    const char *what;
    enum nvmx_field guest, host; /* alike: the exit clears */
    uint8_t entry_load, exit_save, exit_load;
    uint32_t msr;                /* 0: only where the host switches it */
    uint64_t a, b, c, d;         /* four values that the entry checks accept */
} rows[] = {
    {"PAT", NVMX_F_GUEST_PAT, NVMX_F_HOST_PAT, 14, 18, 19, 0x277, 0x0006060606060606, 0x0007040600070406, 0x0001010101010101,
     0x0404040404040404},
    {"PERF_GLOBAL_CTRL", NVMX_F_GUEST_PERF_GLOBAL_CTRL, NVMX_F_HOST_PERF_GLOBAL_CTRL, 13, 30, 12, 0x38f, 1, 2, 4, 8},
    {"BNDCFGS", NVMX_F_GUEST_BNDCFGS, NVMX_F_GUEST_BNDCFGS, 16, ALWAYS, 23, 0xd90, 0x1003, 0, 0x2001, 0x3003},
    {"LBR_CTL", NVMX_F_GUEST_LBR_CTL, NVMX_F_GUEST_LBR_CTL, 21, ALWAYS, 26, 0x14ce, 1, 0, 2, 4},
    {"PKRS", NVMX_F_GUEST_PKRS, NVMX_F_HOST_PKRS, 22, ALWAYS, 29, 0x6e1, 0x55555555, 0xaaaaaaaa, 3, 0x33333333},
    {"UINV", NVMX_F_GUEST_UINV, NVMX_F_GUEST_UINV, 19, ALWAYS, 27, 0, 0x41, 0, 0x42, 0x43},
    {"S_CET", NVMX_F_GUEST_S_CET, NVMX_F_HOST_S_CET, 20, ALWAYS, 28, 0, 1, 2, 4, 8},
    {"SSP", NVMX_F_GUEST_SSP, NVMX_F_HOST_SSP, 20, ALWAYS, 28, 0, 0x1000, 0x2000, 0x3000, 0x4000},
    {"SPEC_CTRL", NVMX_F_GUEST_SPEC_CTRL, NVMX_F_HOST_SPEC_CTRL, 24, ALWAYS, EXIT2(2), 0x48, 1, 2, 4, 3},
    {"SSP table", NVMX_F_GUEST_INTERRUPT_SSP_TABLE_ADDR, NVMX_F_HOST_INTERRUPT_SSP_TABLE_ADDR, 20, ALWAYS, 28, 0, 0x1000,
     0x2000, 0x3000, 0x4000},
};

static uint32_t encoding(enum nvmx_field slot) {
    return nvmx_field_info(slot)->encoding;
}

static struct nvmx_caps all_state(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    for (size_t i = 0; i < COUNT(rows); i++) {
        machine.msr[NVMX_CAP_ENTRY] |= UINT64_C(1) << (32 + rows[i].entry_load);
        if (rows[i].exit_load >= 32) {
            machine.msr[NVMX_CAP_EXIT] |= (uint64_t)EXIT_SECONDARY << 32;
            machine.msr[NVMX_CAP_EXIT2] |= UINT64_C(1) << (rows[i].exit_load - 32);
        } else {
            machine.msr[NVMX_CAP_EXIT] |= UINT64_C(1) << (32 + rows[i].exit_load);
        }
        if (rows[i].exit_save != ALWAYS)
            machine.msr[NVMX_CAP_EXIT] |= UINT64_C(1) << (32 + rows[i].exit_save);
    }
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= machine.msr[NVMX_CAP_ENTRY] & UINT64_C(0xffffffff00000000);
    machine.msr[NVMX_CAP_TRUE_EXIT] |= machine.msr[NVMX_CAP_EXIT] & UINT64_C(0xffffffff00000000);
    machine.lbr_ctl_valid = 0x7f000f;
    machine.spec_ctrl_valid = 7;
    return machine;
}

#define ALL_LOADS (1u << 13 | 1u << 14 | 1u << 16 | 1u << 19 | 1u << 20 | 1u << 21 | 1u << 22 | 1u << 24)

/* vmcs12's exits load the row's state. */
static void load_on_exit(struct sim *sim, size_t i) {
    if (rows[i].exit_load < 32) {
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << rows[i].exit_load);
        return;
    }
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SECONDARY);
    l1_sets(sim, NVMX_VMCS_SECONDARY_VM_EXIT_CONTROLS, 1u << (rows[i].exit_load - 32));
}

static struct sim *prepared(const struct nvmx_caps *machine, uint32_t host_loads) {
    return l1_ready(&(struct sim_options){.machine = machine, .loads_on_entry = host_loads});
}

/* vmcs12 loads everything: on entry from its guest area, on exit from its host area. */
Test(controls_state, loaded_saved_and_loaded_back) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(&machine, ALL_LOADS);
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << rows[i].entry_load);
        load_on_exit(sim, i);
        if (rows[i].exit_save != ALWAYS)
            l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << rows[i].exit_save);
        l1_writes(sim, encoding(rows[i].guest), rows[i].a);
        if (rows[i].host != rows[i].guest)
            l1_writes(sim, encoding(rows[i].host), rows[i].b);
        sim_set(sim, NVMX_VMCS01, rows[i].guest, rows[i].d);
        launch(sim);
        cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].a, "%s", rows[i].what);
        cr_expect((vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) >> rows[i].entry_load) & 1, "%s", rows[i].what);
        sim_set(sim, sim->selected, rows[i].guest, rows[i].c);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, rows[i].guest), rows[i].b, "%s: %#lx", rows[i].what, vmcs01(sim, rows[i].guest));
        cr_expect_eq(l1_reads(sim, encoding(rows[i].guest)), rows[i].c, "%s", rows[i].what);
        l1_writes(sim, encoding(rows[i].guest), rows[i].a);
        resume(sim);
        cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].a, "%s", rows[i].what);
        sim_free(sim);
    }
}

/*
 * Loaded by L1's entry, saved by nobody's wish: an exit that L1 does not see saves it (SDM 30.3.1), so that L2 goes on with what it has made of it, and not
 * with what the entry loaded (29.3.2.1). L1 sees nothing of that.
 */
Test(controls_state, loaded_by_l1_stays_l2s_over_exits_to_the_host) {
    static const struct {
        enum nvmx_field guest;
        uint8_t entry_load, exit_save;
        uint64_t a, b;
    } saved[] = {
        {NVMX_F_GUEST_PAT, 14, 18, 0x0006060606060606, 0x0007040600070406},
        {NVMX_F_GUEST_EFER, 15, 20, 0xd01, 0xd00},
        {NVMX_F_GUEST_PERF_GLOBAL_CTRL, 13, 30, 1, 2},
        {NVMX_F_GUEST_DEBUGCTL, 2, 2, 0, 1},
    };
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(saved); i++) {
        struct sim *sim = prepared(&machine, 0);
        const uint64_t bit = UINT64_C(1) << saved[i].exit_save;
        host_sets(sim, NVMX_F_VM_EXIT_CONTROLS, vmcs01(sim, NVMX_F_VM_EXIT_CONTROLS) & ~bit);
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << saved[i].entry_load);
        l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, bit);
        l1_writes(sim, encoding(saved[i].guest), saved[i].a);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) & bit, bit, "row %zu", i);
        sim_set(sim, sim->selected, saved[i].guest, saved[i].b);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_HOST);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, saved[i].guest), saved[i].b, "row %zu", i);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, encoding(saved[i].guest)), saved[i].a, "row %zu", i);
        resume(sim);
        cr_expect_eq(vmcs02(sim, saved[i].guest), saved[i].a, "row %zu", i);
        l2_leaves(sim);
        l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << saved[i].entry_load);
        if (saved[i].guest != NVMX_F_GUEST_DEBUGCTL) { /* where the host loads it, it saves it or knows it */
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) & bit, 0, "row %zu", i);
        }
        sim_free(sim);
    }
}

/*
 * The same on a processor whose exits can't save IA32_PERF_GLOBAL_CTRL, as most: what L2 writes, and nobody intercepts, goes into the MSR and into vmcs02,
 * whose next entry loads it. What faults is L2's #GP.
 */
Test(controls_state, perf_global_ctrl_that_no_exit_saves_stays_l2s) {
    for (unsigned int loads = 0; loads < 2; loads++) {
        for (unsigned int saves = 0; saves < 2; saves++) {
            struct nvmx_caps machine = all_state();
            const uint64_t bit = UINT64_C(1) << (0x38f % 64), save = UINT64_C(1) << (32 + 30);
            machine.msr[NVMX_CAP_EXIT] &= saves ? UINT64_MAX : ~save;
            machine.msr[NVMX_CAP_TRUE_EXIT] &= saves ? UINT64_MAX : ~save;
            struct sim *sim = prepared(&machine, 0);
            const bool carried = loads && !saves;
            host_gives_bitmaps(sim);
            for (unsigned int i = 0; i < NVMX_PAGE_SIZE; i++)
                sim->host_msr_bitmap[i] = 0;
            sim_msr(sim, 0x38f)->value = 4;
            if (loads)
                l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 13);
            l1_writes(sim, NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL, 1);
            launch(sim);
            const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
            const uint64_t rip = vmcs02(sim, NVMX_F_GUEST_RIP);
            sim->regs.gpr[NVMX_RCX] = 0x38f;
            cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER); /* from now on it doesn't exit */
            cr_expect_eq(page[0x38f / 64] & bit, 0);
            sim->regs.gpr[NVMX_RAX] = 2;
            sim->regs.gpr[NVMX_RDX] = 0;
            cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER);
            cr_expect_eq((page[256 + 0x38f / 64] & bit) != 0, carried, "%u %u", loads, saves);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip + (carried ? 2 : 0), "%u %u", loads, saves);
            cr_expect_eq(sim_msr(sim, 0x38f)->value, carried ? 2 : 4, "%u %u", loads, saves);
            if (carried) {
                cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PERF_GLOBAL_CTRL), 2);
                sim_msr(sim, 0x38f)->refuse_write = true;
                cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER);
                cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
                cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip + 2);
            }
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL), 1, "%u %u", loads, saves);
            resume(sim);
            if (loads)
                cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PERF_GLOBAL_CTRL), 1, "%u %u", loads, saves);
            sim_free(sim);
        }
    }
}

/* The same where the host intercepts the MSR, and got it before, of an L2 whose entry does not load it. */
Test(controls_state, perf_global_ctrl_is_not_taken_for_the_hosts) {
    struct nvmx_caps machine = all_state();
    machine.msr[NVMX_CAP_EXIT] &= ~(UINT64_C(1) << (32 + 30));
    machine.msr[NVMX_CAP_TRUE_EXIT] &= ~(UINT64_C(1) << (32 + 30));
    struct sim *sim = prepared(&machine, 0);
    host_gives_bitmaps(sim);
    for (unsigned int i = 0; i < NVMX_PAGE_SIZE; i++)
        sim->host_msr_bitmap[i] = 0xff;
    sim_msr(sim, 0x38f)->value = 4;
    launch(sim);
    for (unsigned int i = 0; i < 3; i++) {
        if (i == 2) {
            l2_leaves(sim);
            l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 13);
            l1_writes(sim, NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL, 1);
            resume(sim);
        }
        sim->regs.gpr[NVMX_RCX] = 0x38f;
        sim->regs.gpr[NVMX_RAX] = 2;
        sim->regs.gpr[NVMX_RDX] = 0;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), i < 2 ? NVMX_HOST : NVMX_ENTER, "%u", i);
    }
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PERF_GLOBAL_CTRL), 2);
    cr_expect_eq(sim_msr(sim, 0x38f)->value, 2);
    sim_free(sim);
}

/*
 * What the host intercepts of L2's WRMSRs and vmcs02 loads for L1 alone is carried out by msr_write and in vmcs02: the host, which keeps nothing of L1's in a
 * field, would write the MSR, and the next entry of vmcs02 load it anew. Where vmcs01 loads it too, the host knows the field.
 */
Test(controls_state, what_the_host_intercepts_reaches_the_field_that_vmcs02_loads) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int how = 0; rows[i].msr != 0 && how < 4; how++) {
            const uint64_t load = UINT64_C(1) << rows[i].entry_load;
            const bool by_l1 = (how & 1) != 0, by_host = (how & 2) != 0;
            struct sim *sim = prepared(&machine, 0);
            host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, (vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~load) | (by_host ? load : 0));
            host_gives_bitmaps(sim);
            for (unsigned int k = 0; k < NVMX_PAGE_SIZE; k++)
                sim->host_msr_bitmap[k] = 0xff;
            sim_msr(sim, rows[i].msr)->value = rows[i].d;
            if (by_l1)
                l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, load);
            l1_writes(sim, encoding(rows[i].guest), rows[i].a);
            launch(sim);
            sim->regs.gpr[NVMX_RCX] = rows[i].msr;
            sim->regs.gpr[NVMX_RAX] = (uint32_t)rows[i].c;
            sim->regs.gpr[NVMX_RDX] = rows[i].c >> 32;
            const bool carried = by_l1 && !by_host;
            for (unsigned int k = 0; k < 2; k++)
                cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), carried ? NVMX_ENTER : NVMX_HOST, "%s %u", rows[i].what, how);
            if (carried) {
                cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].c, "%s", rows[i].what);
                cr_expect_eq(sim_msr(sim, rows[i].msr)->value, rows[i].c, "%s", rows[i].what);
            }
            cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_HOST, "%s %u", rows[i].what, how);
            sim_free(sim);
        }
    }
}

/* IA32_SPEC_CTRL behind L1's mask, where the entry loads it too (SDM 27.6.2, 29.3.2.1): L2's write is not undone by vmcs02's next entry. */
Test(controls_state, spec_ctrl_that_is_loaded_and_virtualized) {
    struct nvmx_caps machine = all_state();
    machine.msr[NVMX_CAP_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_PROCBASED3] |= PROC3_SPEC_CTRL;
    struct sim *sim = prepared(&machine, 0);
    sim_msr(sim, 0x48)->value = 1;
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 24);
    l1_writes(sim, NVMX_VMCS_GUEST_SPEC_CTRL, 1);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TERTIARY);
    l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, PROC3_SPEC_CTRL);
    l1_writes(sim, NVMX_VMCS_SPEC_CTRL_MASK, 1);
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = 0x48;
    sim->regs.gpr[NVMX_RAX] = 4;
    sim->regs.gpr[NVMX_RDX] = 0;
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER);
    cr_expect_eq(sim_msr(sim, 0x48)->value, 5);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_SPEC_CTRL), 5, "the next entry loads %#lx", vmcs02(sim, NVMX_F_GUEST_SPEC_CTRL));
    sim_free(sim);
}

/* vmcs12 loads nothing: L2 goes on with L1's value, and L1 with L2's. */
Test(controls_state, inherited_in_both_directions) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(&machine, ALL_LOADS);
        l1_writes(sim, encoding(rows[i].guest), rows[i].a);
        sim_set(sim, NVMX_VMCS01, rows[i].guest, rows[i].d);
        launch(sim);
        cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].d, "%s", rows[i].what);
        sim_set(sim, sim->selected, rows[i].guest, rows[i].c);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, rows[i].guest), rows[i].c, "%s", rows[i].what);
        bool saved = rows[i].exit_save == ALWAYS;
        cr_expect_eq(l1_reads(sim, encoding(rows[i].guest)), saved ? rows[i].c : rows[i].a, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* A host that has no use for the state leaves it in the processor: an exit that loads it for L1 writes the MSR. */
Test(controls_state, what_the_host_does_not_switch_is_written_as_msr) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (rows[i].msr == 0 || rows[i].msr == 0x277)
            continue;
        struct sim *sim = prepared(&machine, 0);
        sim_msr(sim, rows[i].msr)->value = rows[i].d;
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << rows[i].entry_load);
        l1_writes(sim, encoding(rows[i].guest), rows[i].a);
        if (rows[i].host != rows[i].guest)
            l1_writes(sim, encoding(rows[i].host), rows[i].b);
        launch(sim);
        cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].a, "%s", rows[i].what);
        l2_leaves(sim);
        cr_expect_eq(sim_msr(sim, rows[i].msr)->writes, 0, "%s", rows[i].what);
        load_on_exit(sim, i);
        resume(sim);
        l2_leaves(sim);
        cr_expect_eq(sim_msr(sim, rows[i].msr)->writes, 1, "%s", rows[i].what);
        cr_expect_eq(sim_msr(sim, rows[i].msr)->value, rows[i].b, "%s", rows[i].what);
        sim_free(sim);
    }
}

/*
 * SDM 29.4: MSRs of the VM-entry MSR-load list are loaded after the guest-state area, and stay. vmcs02 loads for L1 what vmcs01 does not; of that the host
 * knows the MSR alone.
 */
Test(controls_state, the_msr_load_list_comes_after_what_the_entry_loads) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (rows[i].msr == 0)
            continue;
        for (unsigned int known = 0; known < 2; known++) {
            struct sim *sim = prepared(&machine, 0);
            host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(UINT64_C(1) << rows[i].entry_load));
            const uint64_t list[4] = {0, 0x77, rows[i].msr, rows[i].c}; /* MSR 0 is no register that has no number */
            sim_msr(sim, 0)->value = 0;
            sim_msr(sim, rows[i].msr)->value = rows[i].d;
            l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << rows[i].entry_load | 1u << 2);
            l1_writes(sim, encoding(rows[i].guest), rows[i].a);
            sim_write(sim, SIM_L1_MSR_LISTS, list, sizeof(list));
            l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
            if (known) {
                launch(sim);
                l2_leaves(sim);
            }
            l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
            enters(sim, known ? sim_vmresume(sim) : sim_vmlaunch(sim));
            cr_expect_eq(sim_msr(sim, rows[i].msr)->value, rows[i].c, "%s", rows[i].what);
            cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].c, "%s", rows[i].what);
            cr_expect_neq(vmcs02(sim, NVMX_F_GUEST_DR7), 0x77, "%s", rows[i].what);
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, encoding(rows[i].guest)), rows[i].exit_save == ALWAYS ? rows[i].c : rows[i].a, "%s", rows[i].what);
            l1_writes(sim, encoding(rows[i].guest), rows[i].a);
            l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
            resume(sim);
            cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].a, "%s", rows[i].what);
            sim_free(sim);
        }
    }
}

/* A reserved bit, which a host's msr_write that looks at nothing would take, is L2's #GP or fails L1's list: hardware would refuse vmcs02 with it. */
Test(controls_state, reserved_bits_reach_no_field_that_vmcs02_loads) {
    struct nvmx_caps machine = all_state();
    const uint64_t bad = UINT64_C(1) << 63;
    for (size_t i = 0; i < COUNT(rows); i++) {
        bool looked_at = rows[i].msr == 0x38f || rows[i].msr == 0x14ce || rows[i].msr == 0x6e1 || rows[i].msr == 0x48;
        if (!looked_at)
            continue;
        struct sim *sim = prepared(&machine, 0);
        const uint64_t list[2] = {rows[i].msr, bad};
        host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(UINT64_C(1) << rows[i].entry_load));
        host_gives_bitmaps(sim);
        for (unsigned int k = 0; k < NVMX_PAGE_SIZE; k++)
            sim->host_msr_bitmap[k] = 0xff;
        sim_msr(sim, rows[i].msr)->value = rows[i].d;
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << rows[i].entry_load);
        l1_writes(sim, encoding(rows[i].guest), rows[i].a);
        launch(sim);
        sim->regs.gpr[NVMX_RCX] = rows[i].msr;
        sim->regs.gpr[NVMX_RAX] = (uint32_t)bad;
        sim->regs.gpr[NVMX_RDX] = bad >> 32;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER, "%s", rows[i].what);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d, "%s", rows[i].what);
        cr_expect_eq(vmcs02(sim, rows[i].guest), rows[i].a, "%s", rows[i].what);
        cr_expect_neq(sim_msr(sim, rows[i].msr)->value, bad, "%s", rows[i].what);
        l2_leaves(sim);
        sim_write(sim, SIM_L1_MSR_LISTS, list, sizeof(list));
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
        cr_expect_eq(sim_vmresume(sim), SIM_ENTRY_FAILED, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON) & 0xffff, 34, "%s", rows[i].what);
        cr_expect_neq(sim_msr(sim, rows[i].msr)->value, bad, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* What L1 asks an exit to load for itself never reaches vmcs02: those controls are about the host's own state. */
Test(controls_state, exits_of_vmcs02_load_the_hosts_state_only) {
    struct nvmx_caps machine = all_state();
    struct sim *sim = prepared(&machine, ALL_LOADS);
    uint64_t host = vmcs01(sim, NVMX_F_VM_EXIT_CONTROLS);
    for (size_t i = 0; i < COUNT(rows); i++) {
        load_on_exit(sim, i);
        if (rows[i].host != rows[i].guest)
            l1_writes(sim, encoding(rows[i].host), rows[i].b);
    }
    launch(sim);
    for (size_t i = 0; i < COUNT(rows); i++)
        cr_expect_eq((vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) ^ host) >> rows[i].exit_load & 1, 0, "%s", rows[i].what);
    cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_VM_EXIT_CONTROLS), 0);
    sim_free(sim);
}

/* CET state and UINV can't be put back by an MSR write: without the host's promise they are not offered. */
Test(controls_state, state_without_msr_needs_the_hosts_promise) {
    struct nvmx_caps machine = all_state();
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int promised = 0; promised < 2; promised++) {
            struct sim *sim = sim_new(
                &(struct sim_options){.machine = &machine, .loads_on_entry = promised ? 1u << rows[i].entry_load : 0});
            const struct nvmx_caps *l1 = nvmx_l1_caps(sim->vm);
            bool offered = rows[i].msr != 0 || promised;
            cr_expect_eq((l1->msr[NVMX_CAP_ENTRY] >> (32 + rows[i].entry_load)) & 1, offered, "%s", rows[i].what);
            uint32_t load = rows[i].exit_load;
            uint32_t may = nvmx_caps_may_be_1(l1, load < 32 ? NVMX_CAP_EXIT : NVMX_CAP_EXIT2);
            cr_expect_eq((may >> (load % 32)) & 1, offered, "%s", rows[i].what);
            sim_free(sim);
        }
    }
}
