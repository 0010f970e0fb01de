/* SPDX-License-Identifier: MIT */
/* Controls of vmcs01 by which the processor follows what L1 puts into registers and memory: L1 gets past none of them by an L2. */
#include "machine.h"

#define LOW_DIRECTORY  UINT64_C(0x712345000)
#define HIGH_DIRECTORY UINT64_C(0x712346000)

static struct nvmx_caps capable_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_PASID << 32;
    return machine;
}

static void host_adds_bits(struct sim *sim, enum nvmx_field slot, uint64_t bits) {
    host_sets(sim, slot, vmcs01(sim, slot) | bits);
}

/*
 * SDM 27.6.2, 28.3 ENQCMD, ENQCMDS: with "PASID translation" the PASIDs that L1 has in IA32_PASID and in its commands are its own, and what they stand for
 * the host says. Without it L2 would give a device those of the host.
 */
Test(controls_host, pasids_of_l2_are_translated_as_l1s) {
    const struct nvmx_caps machine = capable_machine();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    host_adds_bits(sim, NVMX_F_SECONDARY_CONTROLS, PROC2_PASID);
    host_sets(sim, NVMX_F_LOW_PASID_DIRECTORY_ADDRESS, LOW_DIRECTORY);
    host_sets(sim, NVMX_F_HIGH_PASID_DIRECTORY_ADDRESS, HIGH_DIRECTORY);
    launch(sim);
    cr_expect_neq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_PASID, 0);
    cr_expect_eq(vmcs02(sim, NVMX_F_LOW_PASID_DIRECTORY_ADDRESS), LOW_DIRECTORY);
    cr_expect_eq(vmcs02(sim, NVMX_F_HIGH_PASID_DIRECTORY_ADDRESS), HIGH_DIRECTORY);
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_ENQCMD_PASID, 0x1005, 0, 4), NVMX_HOST);
    l2_leaves(sim);
    host_sets(sim, NVMX_F_LOW_PASID_DIRECTORY_ADDRESS, HIGH_DIRECTORY);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_LOW_PASID_DIRECTORY_ADDRESS), HIGH_DIRECTORY, "the host has another one");
    l2_leaves(sim);
    host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) & ~(uint64_t)PROC2_PASID);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_PASID, 0);
    sim_free(sim);
}
