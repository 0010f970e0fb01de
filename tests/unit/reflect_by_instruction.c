/* SPDX-License-Identifier: MIT */
/*
 * What an exit saves of L2's activity state and pending debug exceptions (SDM 30.3.4), whether or not the library reads it; and what a single step of L1
 * over its VM entry comes to.
 */
#include "exits/exits.h"
#include "machine.h"

#define TF             0x100u
#define RF             0x10000u
#define BLOCKED_MOV_SS 2u
#define PENDING_BS     0x4000u
#define HLT            1u

static uint64_t fields_read(const struct sim *sim, struct cost before) {
    return cost_since(sim, before).fields_read;
}

/* The table's rows against the list that the simulated processor has of the SDM. */
Test(reflect_by_instruction, rows) {
    unsigned int rows = 0;
    for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
        const struct exit_row *row = exit_row(reason);
        bool has_length = (row->information & INFO_N) != 0, instruction = (row->information & INFO_INSTRUCTION) != 0;
        cr_expect_eq(instruction, has_length && sim_exit_by_instruction(reason), "%u, %s", reason, nvmx_exit_name(reason));
        rows += instruction;
    }
    cr_expect_eq(rows, 49, "%u rows", rows);
}

/* L2 holds what a processor can hold when it begins to execute the instruction, and vmcs02 what an entry left there. */
static void leaves_with(struct sim *sim, uint64_t rflags, uint64_t blocking, uint64_t debug) {
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, rflags);
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, blocking);
    sim_set(sim, sim->selected, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, debug);
    l2_leaves(sim);
}

Test(reflect_by_instruction, what_l1_finds) {
    static const struct {
        uint64_t rflags, blocking, debug, found;
        uint64_t reads; /* VMREADs more than the first row's */
    } rows[] = {
        {2, 0, 0, 0, 0},
        {2, 0, PENDING_BS, 0, 0}, /* entered with, and delivered before the instruction */
        {2, 1, 0, 0, 0},          /* STI blocks no debug exception */
        {2, BLOCKED_MOV_SS, 0, 0, 11}, /* all is read again */
        {2, BLOCKED_MOV_SS, 0x1001, 0x1001, 11},
        {2 | TF, BLOCKED_MOV_SS, PENDING_BS, PENDING_BS, 11},
        {2 | TF, 0, 0, 0, 11},
    };
    uint64_t first = 0;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_running(NULL);
        l2_leaves(sim);
        resume(sim);
        struct cost before = cost_now(sim);
        leaves_with(sim, rows[i].rflags, rows[i].blocking, rows[i].debug);
        uint64_t reads = fields_read(sim, before);
        first = i == 0 ? reads : first;
        cr_expect_eq(reads, first + rows[i].reads, "row %zu: %lu and %lu VMREADs", i, reads, first);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), rows[i].found, "row %zu", i);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE), 0, "row %zu", i);
        sim_free(sim);
    }
}

/* With RFLAGS.TF Bochs saves the single step that the instruction would have ended with: L1 sees what vmcs02 holds. */
Test(reflect_by_instruction, what_a_processor_saves_with_tf) {
    struct sim *sim = l2_running(NULL);
    uint32_t number = sim->selected;
    sim_set(sim, number, NVMX_F_GUEST_RFLAGS, 2 | TF);
    sim_set(sim, number, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, PENDING_BS);
    sim_set(sim, number, NVMX_F_VM_EXIT_INSTRUCTION_LENGTH, 2);
    cr_assert_eq(nvmx_exit(sim->vcpu, NVMX_EXIT_CPUID), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), PENDING_BS);
    l1_writes(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
    sim_free(sim);
}

/* L2 was entered in the HLT state with an interrupt, or with a debug exception pending: the next entry must not bring that back. */
Test(reflect_by_instruction, the_next_entry_does_not_bring_it_back) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, HLT);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x202);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000030);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_ACTIVITY_STATE), HLT);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE), 0);
    l1_writes(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1001);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_ACTIVITY_STATE), 0);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), 0x1001);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, HLT);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_ACTIVITY_STATE), HLT);
    sim_free(sim);
}

/* All others save what there is: also those that an instruction may cause, but an event's delivery too. */
Test(reflect_by_instruction, other_exits_save_what_there_is) {
    static const uint32_t reasons[] = {NVMX_EXIT_EXCEPTION_OR_NMI, NVMX_EXIT_TRIPLE_FAULT, NVMX_EXIT_STARTUP_IPI,
                                       NVMX_EXIT_INTERRUPT_WINDOW, NVMX_EXIT_TASK_SWITCH, NVMX_EXIT_MONITOR_TRAP_FLAG};
    for (size_t i = 0; i < COUNT(reasons); i++) {
        struct sim *sim = l1_ready(NULL);
        l1_sets(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 6);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 2 | 1u << 27);
        launch(sim);
        l2_leaves(sim);
        resume(sim);
        struct nvmx_l2_exit_info info = {.reason = reasons[i]};
        info.interruption_info = reasons[i] == NVMX_EXIT_EXCEPTION_OR_NMI ? 0x80000306 : 0;
        sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, HLT);
        sim_set(sim, sim->selected, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1002);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "%u", reasons[i]);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE), HLT, "%u", reasons[i]);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), 0x1002, "%u", reasons[i]);
        sim_free(sim);
    }
}

/* The host gives L1 an exit of L2 that no exit of vmcs02 came before: vmcs02 holds what it holds. */
Test(reflect_by_instruction, an_exit_that_the_host_found) {
    struct sim *sim = l2_running(NULL);
    const struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_CPUID, .instruction_length = 2};
    sim_set(sim, sim->selected, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1004);
    cr_assert_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS), 0x1004);
    sim_free(sim);
}

/* -- a single step of L1
 * ----------------------------------------------------------------------------------------------------------------- */

/* L1 executes VMRESUME with TF and RF, 64-bit or not: RFLAGS are replaced, and no single step is due after it, nor after the exit. */
Test(reflect_by_instruction, l1_steps_over_its_vm_entry) {
    for (unsigned int flags = 0; flags < 4; flags++) {
        struct sim *sim = l2_running(NULL);
        l2_leaves(sim);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, 2 | ((flags & 1) != 0 ? TF : 0) | ((flags & 2) != 0 ? RF : 0));
        struct cost before = cost_now(sim);
        resume(sim);
        cr_expect_eq(fields_read(sim, before), 4 + sim->vcpu->vmcs12[0].inherited_count, "four of L1, and what L2 inherits: %lu",
                     fields_read(sim, before));
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS), 2);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RFLAGS), 2);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), 0);
        sim_free(sim);
    }
}

/* Where the instruction fails it completes: RF ends, and the single step is due. An entry that fails later loads L1's state, without. */
Test(reflect_by_instruction, l1_steps_over_a_vm_entry_that_fails) {
    static const struct {
        uint32_t encoding;
        uint64_t value;
        enum sim_outcome outcome;
        uint64_t rflags, debug;
    } rows[] = {
        {NVMX_VMCS_CR3_TARGET_COUNT, 5, SIM_FAIL_VALID, 2 | TF | 0x40, PENDING_BS},
        {NVMX_VMCS_HOST_CR4, 0, SIM_FAIL_VALID, 2 | TF | 0x40, PENDING_BS},
        {NVMX_VMCS_GUEST_RFLAGS, 0, SIM_ENTRY_FAILED, 2, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_running(NULL);
        l2_leaves(sim);
        l1_writes(sim, rows[i].encoding, rows[i].value);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, 2 | TF | RF);
        cr_expect_eq(sim_vmresume(sim), rows[i].outcome, "row %zu", i);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RFLAGS), rows[i].rflags, "row %zu: %#lx", i, vmcs01(sim, NVMX_F_GUEST_RFLAGS));
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), rows[i].debug, "row %zu", i);
        sim_free(sim);
    }
}
