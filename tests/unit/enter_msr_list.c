/* SPDX-License-Identifier: MIT */
/* A VM-entry MSR-load list that fails half-way (SDM 29.4, 29.8): MSRs stay loaded, guest-state fields of vmcs12 do not change. */
#include "machine.h"

/* The first entry is loaded, which a host does by a write to vmcs02; FS base is not allowed. */
static const uint64_t bad_list[] = {0x174, 8, 0xc0000100, 0};

static void resume_fails(struct sim *sim, uint32_t vmcs02) {
    sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
    cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    sim_set(sim, vmcs02, NVMX_F_GUEST_SYSENTER_CS, 8);
    sim_set(sim, vmcs02, NVMX_F_GUEST_PAT, 0x0404);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
}

Test(enter_msr_list, what_a_failed_list_loaded_does_not_reach_the_next_entry) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 14);
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, 0x0606);
    launch(sim);
    uint32_t number = sim->selected;
    l2_leaves(sim);
    cr_assert_eq(l1_reads(sim, NVMX_VMCS_GUEST_SYSENTER_CS), 0);
    resume_fails(sim, number);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_SYSENTER_CS), 0, "%#lx", vmcs02(sim, NVMX_F_GUEST_SYSENTER_CS));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), 0x0606, "%#lx", vmcs02(sim, NVMX_F_GUEST_PAT));
    sim_free(sim);
}

/* The same where L1 changes nothing but its list, and what the entry loads its exits save: no control field is written, and no entry writes it by itself. */
Test(enter_msr_list, what_a_failed_list_loaded_does_not_stay_in_a_field_that_is_saved) {
    static const uint64_t good[] = {0x174, 8, 0x174, 8}, bad[] = {0x277, 0x0404, 0xc0000100, 0};
    for (unsigned int host = 0; host < 2; host++) {
        struct sim *sim = l1_ready(&(struct sim_options){.msrs_in_fields = true});
        if (!host)
            host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(UINT64_C(1) << 14));
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2 | 1u << 14);
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 2 | 1u << 18);
        l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 15);
        l1_writes(sim, NVMX_VMCS_GUEST_PAT, 0x0606);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
        sim_msr(sim, 0x174);
        sim_msr(sim, 0x277);
        sim_write(sim, SIM_L1_MSR_LISTS, good, sizeof(good));
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), 0x0606);
        l2_leaves(sim);
        sim_write(sim, SIM_L1_MSR_LISTS, bad, sizeof(bad));
        cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PAT), 0x0606);
        sim_write(sim, SIM_L1_MSR_LISTS, good, sizeof(good));
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), 0x0606, "%u: %#lx", host, vmcs02(sim, NVMX_F_GUEST_PAT));
        sim_free(sim);
    }
}

/*
 * SDM 29.3.2.1: without "load debug controls" vmcs12's DR7 is not loaded, and vmcs02 has L1's, or what was there. No exit tells of it where the list fails; nor
 * does the list load DR7, which is no MSR.
 */
Test(enter_msr_list, what_an_entry_did_not_load_the_next_one_does) {
    static const uint64_t good[] = {0x174, 8, 0x174, 8};
    for (unsigned int host = 0; host < 2; host++) {
        struct sim *sim = l1_ready(NULL);
        if (!host)
            host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(UINT64_C(1) << 2));
        l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2);
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 2);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 2);
        sim_msr(sim, 0x174);
        for (unsigned int turn = 0; turn < 2; turn++) {
            sim_write(sim, SIM_L1_MSR_LISTS, good, sizeof(good));
            enters(sim, turn == 0 ? sim_vmlaunch(sim) : sim_vmresume(sim));
            sim_set(sim, sim->selected, NVMX_F_GUEST_DR7, 0x401);
            sim_set(sim, sim->selected, NVMX_F_GUEST_DEBUGCTL, 0);
            l2_leaves(sim);
            cr_assert_eq(l1_reads(sim, NVMX_VMCS_GUEST_DR7), 0x401);
        }
        l1_writes(sim, NVMX_VMCS_GUEST_DR7, 0x403);
        sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
        cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
        sim_write(sim, SIM_L1_MSR_LISTS, good, sizeof(good));
        l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_DR7), 0x403, "%u: %#lx", host, vmcs02(sim, NVMX_F_GUEST_DR7));
        sim_free(sim);
    }
}

/* L1 has a list now. Written to the slots: a VMWRITE of controls would have all of vmcs02's state fetched. */
static void set_list(struct sim *sim, uint64_t count) {
    struct vmcs12 *v = &sim->vcpu->vmcs12[0];
    v->value[NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS] = SIM_L1_MSR_LISTS;
    v->value[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] = count;
    v->plain = false;
}

/* What an exit saved is still only in vmcs02 when the list is loaded. */
Test(enter_msr_list, what_an_exit_saved_outlives_a_failed_list) {
    struct sim *sim = l1_ready(NULL);
    launch(sim);
    uint32_t number = sim->selected;
    sim_set(sim, number, NVMX_F_GUEST_SYSENTER_CS, 0x33);
    l2_leaves(sim);
    set_list(sim, 2);
    sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
    cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    sim_set(sim, number, NVMX_F_GUEST_SYSENTER_CS, 8);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_SYSENTER_CS), 0x33);
    sim_free(sim);
}

/* IA32_EFER is the last MSR that is also a field. */
Test(enter_msr_list, efer_that_an_exit_saved_outlives_a_failed_list) {
    static const uint64_t list[] = {0xc0000080, 0x500, 0xc0000100, 0};
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 20);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 15);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0x500);
    launch(sim);
    uint32_t number = sim->selected;
    sim_set(sim, number, NVMX_F_GUEST_EFER, 0xd01);
    l2_leaves(sim);
    set_list(sim, 2);
    sim_msr(sim, 0xc0000080);
    sim_write(sim, SIM_L1_MSR_LISTS, list, sizeof(list));
    cr_assert(nvmx_set_has(&sim->vcpu->vmcs12[0].stale, NVMX_F_GUEST_EFER), "the test needs it in vmcs02 alone");
    cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    sim_set(sim, number, NVMX_F_GUEST_EFER, 0x500);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_EFER), 0xd01, "%#lx", l1_reads(sim, NVMX_VMCS_GUEST_EFER));
    sim_free(sim);
}

/*
 * What the exit saved can't be read before the list overwrites it: the host fails, not L1's list (exit 34). Entries before it may be loaded already, so
 * VMfail, which changes nothing, would not be true either.
 */
static unsigned int fails_at_each_callback(uint64_t count) {
    unsigned int failed = 0;
    for (uint64_t k = 1;; k++) {
        struct sim *sim = l1_ready(NULL);
        launch(sim);
        l2_leaves(sim);
        set_list(sim, count);
        sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
        sim->calls = sim->failed = 0;
        sim->fail.at = k;
        enum sim_outcome outcome = sim_vmresume(sim);
        bool done = sim->failed == 0, read = !done && sim->last_failed == SIM_VMCS_READ;
        sim->fail.at = 0;
        cr_expect(!read || outcome == SIM_STOPPED, "callback %lu: %s", k, sim_outcome_text(outcome));
        cr_expect(!read || nvmx_stop_reason(sim->vcpu) == NVMX_STOP_HOST);
        failed += read && sim->selected >= NVMX_VMCS02_FIRST;
        sim_free(sim);
        if (done)
            return failed;
    }
}

/* Also where L1's list ends with the entry that could not be loaded. */
Test(enter_msr_list, a_failing_host_is_not_l1s_fault) {
    cr_expect_neq(fails_at_each_callback(2), 0, "vmcs02 is read while the list is loaded");
    cr_expect_neq(fails_at_each_callback(1), 0);
}
