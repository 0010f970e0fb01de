/* SPDX-License-Identifier: MIT */
/*
 * A host that sees every write to IA32_SYSENTER_*, IA32_PAT and IA32_EFER: what the last exit of L2 left of them in vmcs01 is neither written again nor
 * read, and L1 finds the same as without.
 */
#include "machine.h"

#define SYSENTER_CS  0x174u
#define SYSENTER_ESP 0x175u
#define SYSENTER_EIP 0x176u
#define PAT          0x277u
#define EFER         0xc0000080u
#define PAT_RESET    UINT64_C(0x0007040600070406)
#define PAT_OTHER    UINT64_C(0x0007040600070400)
#define NXE          0x800u
#define EXIT_LOADS   (1u << 19 | 1u << 21) /* IA32_PAT, IA32_EFER */

static const struct sim_options watching = {.watches_msrs = true, .msrs_in_fields = true};

/* The sim's L1 keeps IA32_PAT, which L2 has of L1; or loads it, as IA32_EFER. */
static struct sim *in_l2(const struct sim_options *options, uint32_t exit_loads) {
    struct sim *sim = l1_ready(options);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_LOADS);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, exit_loads);
    l1_writes(sim, NVMX_VMCS_HOST_PAT, PAT_RESET);
    l1_writes(sim, NVMX_VMCS_HOST_EFER, 0xd00);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_CS, 0x10);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_ESP, 0x4444000);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_EIP, 0x5555000);
    launch(sim);
    l2_leaves(sim);
    resume(sim);
    return sim;
}

static void expect_host_state(const struct sim *sim, const char *when) {
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_CS), 0x10, "%s", when);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_ESP), 0x4444000, "%s", when);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_EIP), 0x5555000, "%s", when);
}

static struct cost cost_of_round_trip(struct sim *sim) {
    struct cost before = cost_now(sim);
    l2_leaves(sim);
    resume(sim);
    return cost_since(sim, before);
}

Test(watched_msrs, costs_nothing) {
    for (unsigned int loads = 0; loads < 4; loads++) {
        const uint32_t exit_loads = ((loads & 1) != 0 ? 1u << 19 : 0) | ((loads & 2) != 0 ? 1u << 21 : 0);
        struct sim *sim = in_l2(NULL, exit_loads), *watched = in_l2(&watching, exit_loads);
        cost_of_round_trip(watched);
        struct cost other = cost_of_round_trip(sim), cost = cost_of_round_trip(watched);
        /* What vmcs02 holds of IA32_PAT nobody knows where nobody reads it. */
        cr_expect_eq(other.fields_written - cost.fields_written, (loads & 1) != 0 ? 6 : 5, "%u: %lu and %lu writes", loads, other.fields_written,
                     cost.fields_written);
        /* IA32_PAT is read for L2, and of L2 unless the exit loads it; IA32_EFER L2 loads itself. */
        cr_expect_eq(other.fields_read - cost.fields_read, (loads & 1) != 0 ? 1 : 2, "%u: %lu and %lu reads", loads, other.fields_read,
                     cost.fields_read);
        sim_free(sim);
        sim_free(watched);
    }
}

/* L1 changes one of them while it runs: the next exit puts things right, whatever it is. */
Test(watched_msrs, l1_writes) {
    static const struct {
        uint32_t index;
        uint64_t value;
    } rows[] = {{SYSENTER_CS, 0x20}, {SYSENTER_ESP, 0x1000}, {SYSENTER_EIP, 0x2000}, {PAT, PAT_OTHER}, {EFER, 0x500}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (uint32_t exit_loads = 0; exit_loads <= EXIT_LOADS; exit_loads += EXIT_LOADS) {
            struct sim *sim = in_l2(&watching, exit_loads);
            l2_leaves(sim);
            cr_assert(sim_wrmsr(sim, rows[i].index, rows[i].value));
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), rows[i].index == PAT ? PAT_OTHER : PAT_RESET, "row %zu: L2 has L1's", i);
            l2_leaves(sim);
            expect_host_state(sim, "L1 had written");
            cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PAT), exit_loads == 0 && rows[i].index == PAT ? PAT_OTHER : PAT_RESET, "row %zu", i);
            /* without "load IA32_EFER" L1 keeps what L2 has */
            cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_EFER), exit_loads != 0 ? 0xd00 : vmcs01(sim, NVMX_F_GUEST_EFER), "row %zu", i);
            sim_free(sim);
        }
    }
}

/* L2 writes what it has of L1, and L1 keeps it. */
Test(watched_msrs, l2_writes) {
    for (uint32_t exit_loads = 0; exit_loads <= EXIT_LOADS; exit_loads += EXIT_LOADS) {
        struct sim *sim = in_l2(&watching, exit_loads);
        memset(sim->ram + SIM_L1_MSR_BITMAP, 0, NVMX_PAGE_SIZE);
        cr_assert(sim_wrmsr(sim, PAT, PAT_OTHER), "L1 intercepts it");
        cr_assert(sim_wrmsr(sim, SYSENTER_ESP, 0x1234));
        l2_leaves(sim);
        expect_host_state(sim, "L2 had written");
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_SYSENTER_ESP), 0x1234);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PAT), exit_loads == 0 ? PAT_OTHER : PAT_RESET);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), exit_loads == 0 ? PAT_OTHER : PAT_RESET);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_SYSENTER_ESP), 0x1234);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PAT), exit_loads == 0 ? PAT_OTHER : PAT_RESET);
        sim_free(sim);
    }
}

/* IA32_EFER of an L2 that has L1's, which its paging mode changes without a WRMSR, and its NXE with one. */
Test(watched_msrs, efer_that_l2_has_of_l1) {
    struct sim *sim = l1_ready(&watching);
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 15);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_LOADS);
    launch(sim);
    memset(sim->ram + SIM_L1_MSR_BITMAP, 0, NVMX_PAGE_SIZE);
    for (unsigned int round = 0; round < 3; round++) {
        uint64_t efer = vmcs02(sim, NVMX_F_GUEST_EFER);
        cr_expect_eq(efer, round < 2 ? 0xd00 : 0x500, "round %u: %#lx", round, efer);
        sim_set(sim, sim->selected, NVMX_F_GUEST_EFER, efer & ~UINT64_C(0x500));
        if (round == 1)
            cr_assert(sim_wrmsr(sim, EFER, efer & ~UINT64_C(0xd00)));
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_EFER), round < 1 ? 0xd00 : 0x500, "round %u", round);
        resume(sim);
    }
    sim_free(sim);
}

/* MSR lists name them: at the entry in vmcs02, after the exit in vmcs01. */
Test(watched_msrs, msr_lists) {
    static const uint64_t at_entry[] = {PAT, PAT_OTHER}, after_exit[] = {SYSENTER_EIP, 0x7777000};
    for (unsigned int lists = 1; lists < 4; lists++) {
        struct sim *sim = in_l2(&watching, 0);
        l2_leaves(sim);
        sim_write(sim, SIM_L1_MSR_LISTS, at_entry, sizeof(at_entry));
        sim_write(sim, SIM_L1_MSR_LISTS + 0x400, after_exit, sizeof(after_exit));
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, lists & 1);
        l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x400);
        l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, lists >> 1);
        resume(sim);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PAT), (lists & 1) != 0 ? PAT_OTHER : PAT_RESET, "lists %u", lists);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_EIP), (lists & 2) != 0 ? 0x7777000 : 0x5555000, "lists %u", lists);
        l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 0);
        resume(sim);
        l2_leaves(sim);
        expect_host_state(sim, "no list any more");
        sim_free(sim);
    }
}

/* L1 writes its host-state area, or goes on with another vmcs12 whose own is different. */
Test(watched_msrs, other_host_state) {
    struct sim *sim = in_l2(&watching, EXIT_LOADS);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_EIP, 0x6666000);
    resume(sim);
    l2_leaves(sim);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_EIP), 0x6666000);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_EIP, 0x5555000);
    sim_region(sim, SIM_L1_VMCS_B);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_ESP, 0x9999000);
    launch(sim);
    for (unsigned int round = 0; round < 3; round++) {
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_SYSENTER_ESP), 0x9999000, "round %u", round);
        cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        resume(sim);
        l2_leaves(sim);
        expect_host_state(sim, "A's");
        cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
        resume(sim);
    }
    sim_free(sim);
}

/* An entry that fails loads L1's state too; L1 leaves by the long way; the host changes vmcs01; the vCPU moves. */
Test(watched_msrs, other_ways_out_and_in) {
    for (unsigned int way = 0; way < 5; way++) {
        struct sim *sim = in_l2(&watching, EXIT_LOADS);
        l2_leaves(sim);
        uint64_t good = l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS);
        switch (way) {
        case 0:
            l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
            cr_assert(sim_wrmsr(sim, SYSENTER_ESP, 0x1000));
            cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
            expect_host_state(sim, "the entry failed");
            l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, good);
            break;
        case 1:
            cr_assert(sim_wrmsr(sim, SYSENTER_ESP, 0x1000));
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 1);
            break;
        case 2:
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SYSENTER_ESP, 0x1000);
            nvmx_vmcs01_changed(sim->vcpu);
            break;
        case 3:
            sim_shake(sim, true);
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SYSENTER_ESP, 0x1000); /* the machine that it came to */
            break;
        default:
            nvmx_vcpu_reset(sim->vcpu);
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SYSENTER_ESP, 0x1000);
            nvmx_vmcs01_changed(sim->vcpu);
            cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
            cr_assert_eq(sim_vmcs12(sim), 0);
            l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_CS, 0x10);
            l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_ESP, 0x4444000);
            l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_EIP, 0x5555000);
        }
        enters(sim, way == 4 ? sim_vmlaunch(sim) : sim_vmresume(sim));
        l2_leaves(sim);
        expect_host_state(sim, "the exit after it");
        sim_free(sim);
    }
}

/* Callbacks fail while they are written: nothing is taken for known, and the vCPU has stopped. */
Test(watched_msrs, callbacks_fail) {
    for (uint64_t k = 1; k < 6; k++) {
        struct sim *sim = in_l2(&watching, 0);
        l2_leaves(sim);
        cr_assert(sim_wrmsr(sim, SYSENTER_ESP, 0x1000));
        resume(sim);
        sim->calls = 0;
        sim->fail.at = k;
        enum nvmx_next next = sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2);
        sim->fail.at = 0;
        cr_expect(next == NVMX_STOP ? !sim->vcpu->watched.known : vmcs01(sim, NVMX_F_GUEST_SYSENTER_ESP) == 0x4444000, "callback %lu", k);
        sim_free(sim);
    }
}

/* L1's data is not executable, and each memory operand depends on IA32_EFER.NXE, which L1 may change. */
Test(watched_msrs, an_operand_in_data_asks_nobody_for_efer) {
    struct sim *sim = in_l2(&watching, EXIT_LOADS);
    const uint64_t pd = SIM_L1_PML4 + 0x2000, entry = sim_read64(sim, pd), eptp = UINT64_C(0x1e) | SIM_L1_EPT12;
    sim_msr(sim, EFER)->value = 0xd00;
    l2_leaves(sim);
    sim_write64(sim, pd, entry | UINT64_C(1) << 63);
    uint64_t before = sim->count[SIM_MSR_READ];
    cr_expect_eq(sim_invept(sim, 1, eptp, 0), SIM_SUCCEED);
    cr_expect_eq(sim->count[SIM_MSR_READ], before);
    cr_assert(sim_wrmsr(sim, EFER, 0x500));
    sim_msr(sim, EFER)->value = 0x500;
    cr_expect_eq(sim_invept(sim, 1, eptp, 0), SIM_FAULT, "XD is a reserved bit now");
    cr_expect_eq(sim_fault_vector(sim), 14);
    sim_write64(sim, pd, entry);
    sim_free(sim);
}
