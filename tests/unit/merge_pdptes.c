/* SPDX-License-Identifier: MIT */
/* PDPTEs of L2: vmcs12's fields with EPT, L1's memory without (SDM 29.3.2.4, 30.3.1). */
#include "machine.h"

#define SECONDARY_EPT (1u << 1)
#define GUEST_CR3     0x2000u

static void l1_chooses_pae(struct sim *sim) {
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 9);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CR3, GUEST_CR3);
    l1_writes(sim, NVMX_VMCS_GUEST_CR4, 0x2020);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    for (uint32_t i = 0; i < 4; i++) {
        l1_writes(sim, NVMX_VMCS_GUEST_PDPTE0 + 2 * i, 0x10001 + i * 0x1000);
        sim_write64(sim, GUEST_CR3 + 8 * i, 0x20001 + i * 0x1000);
    }
}

static void expect_pdptes(const struct sim *sim, uint64_t first, const char *when) {
    for (unsigned int i = 0; i < 4; i++)
        cr_expect_eq(vmcs02(sim, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i)), first + i * 0x1000, "%s: PDPTE%u %#lx", when, i,
                     vmcs02(sim, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i)));
}

/* L1 switches EPT off and on again and writes no PDPTE meanwhile. */
Test(merge_pdptes, vmcs12s_own_count_again_after_an_entry_without_ept) {
    struct sim *sim = l1_ready(NULL);
    l1_chooses_pae(sim);
    launch(sim);
    expect_pdptes(sim, 0x10001, "with EPT");
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT);
    resume(sim);
    expect_pdptes(sim, 0x20001, "without EPT");
    l2_leaves(sim);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT);
    resume(sim);
    expect_pdptes(sim, 0x10001, "with EPT again");
    sim_free(sim);
}

/* What an exit with EPT saved is not lost when the next entry loads other PDPTEs. */
Test(merge_pdptes, saved_by_an_exit_survive_an_entry_without_ept) {
    struct sim *sim = l1_ready(NULL);
    l1_chooses_pae(sim);
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_PDPTE2, 0x77001);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT);
    resume(sim);
    expect_pdptes(sim, 0x20001, "without EPT");
    l2_leaves(sim);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, SECONDARY_EPT);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PDPTE2), 0x77001, "%#lx", vmcs02(sim, NVMX_F_GUEST_PDPTE2));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PDPTE1), 0x11001);
    sim_free(sim);
}
