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
