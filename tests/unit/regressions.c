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
    l2_leaves(sim);
    cr_expect_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(nvmx_last_check(sim->vcpu), NVMX_C_29_3_1_5_22);
    sim_free(sim);
}

/* A host that fences speculation is called once for each turn from L1 to L2 and back, and not for refused entries. */
Test(regressions, speculation_barriers) {
    struct sim *sim = l1_ready(NULL);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 0);
    launch(sim);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 1);
    l2_leaves(sim);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 2);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim->count[SIM_SPECULATION_BARRIER], 2);
    sim_free(sim);
}
