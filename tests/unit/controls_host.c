/* SPDX-License-Identifier: MIT */
/* Controls of vmcs01 by which the processor follows what L1 puts into registers and memory: L1 gets past none of them by an L2. */
#include "machine.h"

#include <string.h>

#define PROC3_PAGING   (PROC3_PAGING_WRITE | PROC3_PAGING_VERIFIED)
#define LOW_DIRECTORY  UINT64_C(0x712345000)
#define HIGH_DIRECTORY UINT64_C(0x712346000)

static struct nvmx_caps capable_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_PASID << 32;
    machine.msr[NVMX_CAP_PROCBASED3] = PROC3_PEBS_GPA | PROC3_PAGING;
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

/*
 * SDM 27.6.2, XSAVE feature set: XRSTORS loads what IA32_XSS has on. A host that keeps it from L1 need not have put the MSR in order for L1: its own
 * supervisor state would be L2's to load.
 */
Test(controls_host, supervisor_state_is_not_l2s_where_it_is_not_l1s) {
    for (unsigned int who = 0; who < 4; who++) {
        const bool l1 = (who & 1) != 0, host = (who & 2) != 0;
        struct nvmx_caps machine;
        sim_machine(&machine);
        machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_XSAVES << 32;
        struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, (vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) & ~(uint64_t)PROC2_XSAVES) | (host ? PROC2_XSAVES : 0));
        host_sets(sim, NVMX_F_XSS_EXITING_BITMAP, 2);
        if (l1)
            l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_XSAVES);
        l1_writes(sim, NVMX_VMCS_XSS_EXITING_BITMAP, 4);
        launch(sim);
        cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_XSAVES) != 0, l1 && host, "%u", who);
        cr_expect(!(l1 && host) || vmcs02(sim, NVMX_F_XSS_EXITING_BITMAP) == 6, "%#lx", vmcs02(sim, NVMX_F_XSS_EXITING_BITMAP));
        sim_free(sim);
    }
}

static struct sim *with_tertiary(uint64_t host, bool l1_ept) {
    const struct nvmx_caps machine = capable_machine();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    host_adds_bits(sim, NVMX_F_PRIMARY_CONTROLS, PROC_TERTIARY);
    host_sets(sim, NVMX_F_TERTIARY_CONTROLS, host);
    if (!l1_ept)
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
    launch(sim);
    return sim;
}

/*
 * SDM 27.6.2, 22.9: the addresses of L1's PEBS buffers are guest-physical ones by this control; without it the processor would write L2's records to the host's
 * memory at these addresses.
 */
Test(controls_host, pebs_of_l2_stays_behind_ept) {
    for (unsigned int l1_ept = 0; l1_ept < 2; l1_ept++) {
        struct sim *sim = with_tertiary(PROC3_PEBS_GPA, l1_ept);
        cr_expect_neq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TERTIARY, 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), PROC3_PEBS_GPA);
        sim_free(sim);
    }
}

/* SDM 31.3.3.2: bits 57 and 58 of the host's own tables mean to an L2 without ept12 what they mean to L1. ept02 has none. */
Test(controls_host, ept01_means_the_same_to_an_l2_without_ept12) {
    for (unsigned int l1_ept = 0; l1_ept < 2; l1_ept++) {
        struct sim *sim = with_tertiary(PROC3_PAGING, l1_ept);
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), l1_ept ? 0 : PROC3_PAGING, "%#lx", vmcs02(sim, NVMX_F_TERTIARY_CONTROLS));
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TERTIARY) != 0, !l1_ept);
        sim_free(sim);
    }
}

/* -- taken back while L2 runs ------------------------------------------------------------------------------------------------------------- */

#define PORT     0x3f8u
#define PORT_IN  (PORT << 16 | 8) /* of one byte */
#define SOME_MSR 0x1a0u

static bool is_set(const uint64_t *page, uint32_t bit) {
    return (page[bit / 64] >> (bit % 64) & 1) != 0;
}

/* L2 has the port and the MSR, of which nobody wants to hear. */
static struct sim *with_open_bitmaps(void) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
    memset(sim->host_io_bitmap[0], 0, NVMX_PAGE_SIZE);
    memset(sim->host_io_bitmap[1], 0, NVMX_PAGE_SIZE);
    host_adds_bits(sim, NVMX_F_PRIMARY_CONTROLS, PROC_IO_BITMAPS | PROC_MSR_BITMAPS);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
    l1_writes(sim, NVMX_VMCS_MSR_BITMAP_ADDRESS, SIM_L1_MSR_BITMAP);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_IO_BITMAPS | PROC_MSR_BITMAPS);
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = SOME_MSR;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, PORT_IN, 0, 1), NVMX_ENTER);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER);
    cr_assert_not(is_set(sim_page(sim, vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS)), PORT));
    cr_assert_not(is_set(sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS)), bitmap_msr_bit(SOME_MSR, true)));
    return sim;
}

/* L1 need not let its next VM entry come: the host can't wait for it. */
Test(controls_host, what_is_taken_back_l2_loses_before_it_goes_on) {
    struct sim *sim = with_open_bitmaps();
    const uint32_t l2 = sim->selected;
    sim->host_io_bitmap[0][PORT / 8] |= 1u << PORT % 8;
    const uint32_t bit = bitmap_msr_bit(SOME_MSR, true);
    sim->host_msr_bitmap[bit / 8] |= (uint8_t)(1u << bit % 8);
    nvmx_vmcs01_changed(sim->vcpu);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_assert_eq(sim->selected, l2);
    cr_expect(is_set(sim_page(sim, vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS)), PORT), "L2 has the port still");
    cr_expect(is_set(sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS)), bit), "L2 has the MSR still");
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, PORT_IN, 0, 1), NVMX_HOST);
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_HOST);
    l2_leaves(sim);
    resume(sim);
    cr_expect(is_set(sim_page(sim, vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS)), PORT));
    sim_free(sim);
}

Test(controls_host, intercepts_follow_before_l2_goes_on) {
    for (unsigned int on = 0; on < 2; on++) {
        struct sim *sim = l1_ready(NULL);
        const uint64_t primary = vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(PROC_IO_BITMAPS | PROC_UNCONDITIONAL_IO | 1u << 7);
        const uint64_t secondary = vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) & ~UINT64_C(0x40);
        const uint64_t more = PROC_UNCONDITIONAL_IO | 1u << 7;
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, primary | (on ? 0 : more));
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, secondary | (on ? 0 : 0x40));
        host_sets(sim, NVMX_F_EXCEPTION_BITMAP, on ? 0 : 1u << 6);
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_IO_BITMAPS | more);
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, 0x40);
        launch(sim);
        const uint64_t entry = vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~UINT64_C(0x200); /* L2 leaves IA-32e mode */
        sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_CONTROLS, entry);
        cr_assert_eq(sim_enter(sim, &(struct nvmx_pending){.interrupt = true}), NVMX_ENTER);
        const uint64_t window = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_INTERRUPT_WINDOW;
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, primary | (on ? more : 0));
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, secondary | (on ? 0x40 : 0));
        host_sets(sim, NVMX_F_EXCEPTION_BITMAP, on ? 1u << 6 : 0);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & more, on ? more : 0, "%#lx", vmcs02(sim, NVMX_F_PRIMARY_CONTROLS));
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_INTERRUPT_WINDOW, window);
        cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & 0x40) != 0, on);
        cr_expect_eq((vmcs02(sim, NVMX_F_EXCEPTION_BITMAP) & 1u << 6) != 0, on);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS), entry);
        struct cost before = cost_now(sim);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        costs(sim, "nvmx_enter", before, (struct cost){0});
        sim_free(sim);
    }
}

/* -- protected while L2 runs -------------------------------------------------------------------------------------------------------------- */

/* Bits of IA32_SPEC_CTRL. */
#define IBRS  1u
#define STIBP 2u
#define SSBD  4u

/* A machine where vmcs01 may protect the MSR, and every VM entry and exit can load it. */
static struct sim *with_spec_ctrl(struct nvmx_caps *machine) {
    *machine = capable_machine();
    for (unsigned int i = 0; i < 2; i++) {
        machine->msr[i ? NVMX_CAP_TRUE_EXIT : NVMX_CAP_EXIT] |= (uint64_t)EXIT_SECONDARY << 32;
        machine->msr[i ? NVMX_CAP_TRUE_ENTRY : NVMX_CAP_ENTRY] |= (uint64_t)ENTRY_SPEC_CTRL << 32;
    }
    machine->msr[NVMX_CAP_PROCBASED3] |= PROC3_SPEC_CTRL;
    machine->msr[NVMX_CAP_EXIT2] = EXIT2_SPEC_CTRL;
    machine->spec_ctrl_valid = IBRS | STIBP | SSBD;
    return l1_ready(&(struct sim_options){.machine = machine, .loads_on_entry = ENTRY_SPEC_CTRL});
}

/* IBRS is the host's now, and on. */
static void host_protects(struct sim *sim) {
    host_adds_bits(sim, NVMX_F_PRIMARY_CONTROLS, PROC_TERTIARY);
    host_sets(sim, NVMX_F_TERTIARY_CONTROLS, PROC3_SPEC_CTRL);
    host_sets(sim, NVMX_F_SPEC_CTRL_MASK, IBRS);
    host_sets(sim, NVMX_F_GUEST_SPEC_CTRL, IBRS);
}

/*
 * SDM 27.6.2: a WRMSR of L1 can't change the protected bits. Neither can the exit of an L2 whose VM entry came before the protection: what the exit loads the
 * host writes, as it does WRMSRs that exit.
 */
Test(controls_host, an_exit_does_not_load_what_is_protected_since) {
    for (unsigned int protects = 0; protects < 2; protects++) {
        struct nvmx_caps machine;
        struct sim *sim = with_spec_ctrl(&machine);
        sim_msr(sim, 0x48)->value = 0;
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SECONDARY);
        l1_writes(sim, NVMX_VMCS_SECONDARY_VM_EXIT_CONTROLS, EXIT2_SPEC_CTRL);
        l1_writes(sim, NVMX_VMCS_HOST_SPEC_CTRL, SSBD);
        launch(sim);
        if (protects)
            host_protects(sim);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SPEC_CTRL), protects ? IBRS : SSBD, "%#lx", vmcs01(sim, NVMX_F_GUEST_SPEC_CTRL));
        cr_expect_eq(sim_msr(sim, 0x48)->writes, protects);
        cr_expect_eq(sim_msr(sim, 0x48)->value, protects ? SSBD : 0);
        sim_free(sim);
    }
}

/* What L1 keeps of L2 it keeps of the other bits alone. */
Test(controls_host, an_exit_does_not_hand_on_what_is_protected_since) {
    for (unsigned int how = 0; how < 4; how++) {
        const bool protects = (how & 1) != 0, enters = (how & 2) != 0;
        struct nvmx_caps machine;
        struct sim *sim = with_spec_ctrl(&machine);
        launch(sim);
        sim_set(sim, sim->selected, NVMX_F_GUEST_SPEC_CTRL, STIBP); /* by WRMSR */
        if (protects)
            host_protects(sim);
        if (enters)
            cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SPEC_CTRL), protects ? IBRS | STIBP : STIBP, "%u: %#lx", how, vmcs01(sim, NVMX_F_GUEST_SPEC_CTRL));
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_SPEC_CTRL), protects ? IBRS | STIBP : STIBP);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SPEC_CTRL), protects ? IBRS | STIBP : STIBP);
        sim_free(sim);
    }
}
