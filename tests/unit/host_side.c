/* SPDX-License-Identifier: MIT */
/* What nvmx.h and host.h promise a host, seen from its side. */
#include "machine.h"

#define BUS_LOCK (1u << 26)
#define ENCLAVE  (1u << 27)

/* SDM 27.9.1: bits beside the basic reason say what else happened, and don't make another exit of it. */
Test(host_side, an_exit_of_l1_is_known_by_its_basic_reason) {
    static const uint32_t besides[] = {0, BUS_LOCK, ENCLAVE, BUS_LOCK | ENCLAVE};

    for (size_t i = 0; i < COUNT(besides); i++) {
        struct sim *sim = sim_new(NULL);

        sim->regs.gpr[NVMX_RCX] = NVMX_MSR_VMX_FIRST;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR | besides[i], 0, 0, 2), NVMX_ENTER, "%#x", besides[i]);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_VMFUNC | besides[i], 0, 0, 3), NVMX_ENTER, "%#x", besides[i]);
        cr_expect_eq(sim_fault_vector(sim), 6);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_CPUID | besides[i], 0, 0, 2), NVMX_HOST, "%#x", besides[i]);
        /* vmcs01's own entry failed: nobody's but the host's */
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_ENTRY_FAILURE | NVMX_EXIT_INVALID_GUEST_STATE | besides[i], 0, 0, 0), NVMX_HOST);
        sim_free(sim);
    }
}

/* SDM 28.3: L2's TSC is L1's and vmcs12's offset. The host moves L1's, as for a WRMSR of L2 that L1 lets through. */
Test(host_side, l2_has_the_tsc_that_l1_has_now) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TSC_OFFSETTING);
    l1_writes(sim, NVMX_VMCS_TSC_OFFSET, 1000);
    host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | PROC_TSC_OFFSETTING);
    host_sets(sim, NVMX_F_TSC_OFFSET, 50000);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 51000);
    host_sets(sim, NVMX_F_TSC_OFFSET, 70000);
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 71000);
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 71000);
    sim_free(sim);
}
