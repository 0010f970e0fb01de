/* SPDX-License-Identifier: MIT */
/* Bugs that were found otherwise, each with the least that shows it. */
#include "machine.h"

/* L1 changes L2's mode and writes a segment: fetching the rest of the stale guest state for the checks must not bring the old mode back. */
Test(regressions, written_entry_controls_survive_the_fetch_of_stale_fields) {
    struct sim *sim = l2_running(NULL);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E);
    l1_reads(sim, NVMX_VMCS_GUEST_DS_LIMIT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_CONTROLS) & ENTRY_IA32E, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & ENTRY_IA32E, 0);
    sim_free(sim);
}

/*
 * L2 halted in a single step with DEBUGCTL.BTF, which vmcs12 neither saves nor loads: by vmcs12's own DEBUGCTL the step is due, and the entry must
 * fail although L1 wrote nothing.
 */
Test(regressions, single_step_by_vmcs12s_debugctl) {
    struct sim *sim = l2_running(NULL);
    sim_set(sim, sim->selected, NVMX_F_GUEST_DEBUGCTL, 2);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 0x102);
    sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, 1);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_STARTUP_IPI, 0, 0, 0), NVMX_ENTER);
    cr_expect_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(nvmx_last_check(sim->vcpu), NVMX_C_29_3_1_5_22);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 2);
    resume(sim);
    cr_expect_eq(nvmx_last_check(sim->vcpu), NVMX_CHECK_NONE, "no rule refused the last entry");
    sim_free(sim);
}

/* A host that fences speculation is called once for each turn from L1 to L2 and back, and not for refused entries. */
Test(regressions, speculation_barriers) {
    struct sim *sim = l1_ready(NULL);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 0);
    launch(sim);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 1);
    cr_expect(sim->barrier_to_l2);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_WBINVD, 0, 0, 2), NVMX_HOST);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 1, "L1 does not run");
    l2_leaves(sim);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 2);
    cr_expect_not(sim->barrier_to_l2);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 2);
    sim_free(sim);
}

/*
 * SDM 31.4.3.1: without VPIDs each transition drops what the processor kept of L2 and of L1; a refused entry that already began to load the guest
 * (SDM 29.8) is one too.
 */
Test(regressions, transitions_without_vpids_flush) {
    struct sim *sim = l1_ready(NULL);
    uint64_t secondary = sim_get(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS);
    sim_set(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS, secondary | 1u << 5);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VPID, 1);
    nvmx_vmcs01_changed(sim->vcpu);
    l1_writes(sim, NVMX_VMCS_SECONDARY_CONTROLS, l1_reads(sim, NVMX_VMCS_SECONDARY_CONTROLS) & ~(UINT64_C(1) << 5));
    launch(sim);
    sim->count[SIM_TLB_FLUSH] = 0;
    l2_leaves(sim);
    cr_expect(sim->count[SIM_TLB_FLUSH] == 1 && sim->flush[0].kind == NVMX_FLUSH_VPID && sim->flush[0].value == 1, "an exit flushes %lu times",
              sim->count[SIM_TLB_FLUSH]);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    sim->count[SIM_TLB_FLUSH] = 0;
    cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    cr_expect(sim->count[SIM_TLB_FLUSH] == 1 && sim->flush[0].value == 1, "a failed entry flushes %lu times", sim->count[SIM_TLB_FLUSH]);
    sim_free(sim);
}

/* SDM 27.6.2: a host whose secondary controls are not active uses no VPIDs, whatever else they say. */
Test(regressions, transitions_flush_only_where_the_host_uses_vpids) {
    for (unsigned int i = 0; i < 4; i++) {
        const bool active = i & 1, vpid = i & 2;
        struct sim *sim = l1_ready(NULL);
        uint64_t primary = vmcs01(sim, NVMX_F_PRIMARY_CONTROLS), secondary = vmcs01(sim, NVMX_F_SECONDARY_CONTROLS);
        sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, active ? primary | PROC_SECONDARY : primary & ~(uint64_t)PROC_SECONDARY);
        sim_set(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS, vpid ? secondary | PROC2_VPID : secondary & ~(uint64_t)PROC2_VPID);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VPID, 1);
        nvmx_vmcs01_changed(sim->vcpu);
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VPID);
        launch(sim);
        sim->count[SIM_TLB_FLUSH] = 0;
        l2_leaves(sim);
        cr_expect_eq(sim->count[SIM_TLB_FLUSH], active && vpid, "row %u: %lu", i, sim->count[SIM_TLB_FLUSH]);
        sim_free(sim);
    }
}

/* The vCPU's memory holds anything when it is made (A5H here): none of it may reach a region, or a field that L1 reads. */
Test(regressions, nothing_uninitialised_reaches_l1) {
    struct sim *sim = sim_new(NULL);
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint64_t value = 0;
        if (sim_vmread(sim, nvmx_field_info(slot)->encoding, &value) == SIM_SUCCEED)
            cr_expect((value & 0xffff) != 0xa5a5, "%s is %#lx", nvmx_field_info(slot)->name, value);
    }
    cr_assert_eq(sim_vmclear(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    for (uint64_t at = 0; at < NVMX_PAGE_SIZE; at += 4)
        cr_expect(sim_read32(sim, SIM_L1_VMCS_A + at) != 0xa5a5a5a5, "byte %#lx of the region", at);
    sim_free(sim);
}
