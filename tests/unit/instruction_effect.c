/* SPDX-License-Identifier: MIT */
/* What VMX instructions do when nothing is wrong: values, flags, RIP, blocking, single step; and how faults reach L1.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "instruction_run.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define L2_RIP   UINT64_C(0xfedcba9876543210)

static struct sim *ready(const struct sim_options *options) {
    struct sim *sim = sim_new(options);
    cr_assert_not_null(sim->vcpu);
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    return sim;
}

static bool succeeds(struct sim *sim, uint32_t reason, uint32_t info, uint64_t qualification) {
    return run(sim, reason, info, qualification).seen == SEEN_SUCCEED;
}

/* -- VMREAD, VMWRITE
 * ------------------------------------------------------------------------------------------------------------- */

/* Access sizes (SDM 27.11.2, 33.3): field, mode, access, what the field held and holds, what is moved. */
Test(instruction, fields_are_read_in_halves_and_whole) {
    static const struct {
        uint32_t encoding;
        unsigned int bits;
        uint64_t field;
        uint64_t read;
    } rows[] = {
        {NVMX_VMCS_GUEST_RIP, 64, L2_RIP, L2_RIP},          {NVMX_VMCS_GUEST_RIP, 32, L2_RIP, 0x76543210},
        {NVMX_VMCS_TSC_OFFSET, 64, L2_RIP, L2_RIP},         {NVMX_VMCS_TSC_OFFSET, 32, L2_RIP, 0x76543210},
        {NVMX_VMCS_TSC_OFFSET + 1, 64, L2_RIP, 0xfedcba98}, {NVMX_VMCS_TSC_OFFSET + 1, 32, L2_RIP, 0xfedcba98},
        {NVMX_VMCS_GUEST_CS_SELECTOR, 64, 0xabcd, 0xabcd},  {NVMX_VMCS_GUEST_CS_LIMIT, 32, 0x89abcdef, 0x89abcdef},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = ready(NULL);
        int slot = sim_slot(rows[i].encoding & ~1u);
        vmcs12_write(sim->vcpu, (unsigned int)slot, rows[i].field);
        if (rows[i].bits == 32) {
            sim_l1_mode32(sim);
        }
        /* Bits above 31 of a register do not exist outside 64-bit mode. */
        sim->regs.gpr[NVMX_RCX] = rows[i].encoding | (rows[i].bits == 32 ? UINT64_C(0xbad) << 32 : 0);
        sim->regs.gpr[9] = UINT64_MAX;
        cr_expect(succeeds(sim, VMREAD, INFO_RM_REGISTER(9) | INFO_REG2(NVMX_RCX), 0), "row %zu", i);
        cr_expect_eq(sim->regs.gpr[9], rows[i].read, "row %zu: %#llx", i, (unsigned long long)sim->regs.gpr[9]);

        sim_write64(sim, SIM_L1_OPERAND, UINT64_MAX);
        uint32_t memory = rows[i].bits == 64 ? INFO_DISPLACEMENT64 : INFO_DISPLACEMENT32;
        cr_expect(succeeds(sim, VMREAD, memory | INFO_REG2(NVMX_RCX), SIM_L1_OPERAND), "row %zu", i);
        uint64_t stored = rows[i].bits == 64 ? rows[i].read : rows[i].read | UINT64_C(0xffffffff00000000);
        cr_expect_eq(sim_read64(sim, SIM_L1_OPERAND), stored, "row %zu: only %u bits of memory may change", i,
                     rows[i].bits);
        sim_free(sim);
    }
}

Test(instruction, fields_are_written_in_halves_and_whole) {
    static const struct {
        uint32_t encoding;
        unsigned int bits;
        uint64_t source;
        uint64_t field; /* after; L2_RIP (in its width) before */
    } rows[] = {
        {NVMX_VMCS_GUEST_RIP, 64, UINT64_C(0x1122334455667788), UINT64_C(0x1122334455667788)},
        {NVMX_VMCS_GUEST_RIP, 32, UINT64_C(0x1122334455667788), 0x55667788},
        {NVMX_VMCS_TSC_OFFSET, 32, UINT64_C(0x1122334455667788), 0x55667788},
        {NVMX_VMCS_TSC_OFFSET + 1, 64, UINT64_C(0x1122334455667788), UINT64_C(0x5566778876543210)},
        {NVMX_VMCS_TSC_OFFSET + 1, 32, UINT64_C(0x1122334455667788), UINT64_C(0x5566778876543210)},
        {NVMX_VMCS_GUEST_CS_SELECTOR, 64, UINT64_C(0x1122334455667788), 0x7788},
        {NVMX_VMCS_GUEST_CS_LIMIT, 64, UINT64_C(0x1122334455667788), 0x55667788},
    };
    for (size_t i = 0; i < COUNT(rows) * 2; i++) {
        const bool from_memory = i % 2 != 0;
        const size_t row = i / 2;
        struct sim *sim = ready(NULL);
        int slot = sim_slot(rows[row].encoding & ~1u);
        vmcs12_write(sim->vcpu, (unsigned int)slot, L2_RIP);
        if (rows[row].bits == 32) {
            sim_l1_mode32(sim);
        }
        sim->regs.gpr[NVMX_RDX] = rows[row].encoding;
        sim->regs.gpr[NVMX_RBX] = rows[row].source;
        sim_write64(sim, SIM_L1_OPERAND, rows[row].source);
        uint32_t memory = rows[row].bits == 64 ? INFO_DISPLACEMENT64 : INFO_DISPLACEMENT32;
        uint32_t rm = from_memory ? memory : INFO_RM_REGISTER(NVMX_RBX);
        cr_expect(succeeds(sim, VMWRITE, rm | INFO_REG2(NVMX_RDX), from_memory ? SIM_L1_OPERAND : 0), "row %zu", row);
        cr_expect_eq(vmcs12_current(sim->vcpu)->value[slot], rows[row].field, "row %zu", row);
        sim_free(sim);
    }
}

/* RSP lies in vmcs01, not in the host's registers. */
Test(instruction, rsp_as_register_operand) {
    struct sim *sim = ready(NULL);
    vmcs12_write(sim->vcpu, NVMX_F_GUEST_RIP, L2_RIP);
    sim->regs.gpr[NVMX_RSP] = 0xbad;
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
    cr_expect(succeeds(sim, VMREAD, INFO_RM_REGISTER(NVMX_RSP) | INFO_REG2(NVMX_RCX), 0));
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP), L2_RIP);
    cr_expect_eq(sim->regs.gpr[NVMX_RSP], 0xbad);
    cr_expect(succeeds(sim, VMWRITE, INFO_RM_REGISTER(NVMX_RBX) | INFO_REG2(NVMX_RCX), 0));
    cr_expect(succeeds(sim, VMWRITE, INFO_RM_REGISTER(NVMX_RSP) | INFO_REG2(NVMX_RCX), 0));
    cr_expect_eq(vmcs12_current(sim->vcpu)->value[NVMX_F_GUEST_RIP], L2_RIP);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP, NVMX_VMCS_GUEST_RIP);
    sim->regs.gpr[NVMX_RAX] = 0;
    cr_expect(succeeds(sim, VMREAD, INFO_RM_REGISTER(NVMX_RAX) | INFO_REG2(NVMX_RSP), 0));
    cr_expect_eq(sim->regs.gpr[NVMX_RAX], L2_RIP);
    sim_free(sim);
}

/* Every encoding of the table exists for L1 exactly if its capability says so, and no other encoding does. */
Test(instruction, each_field_is_found_or_error_12) {
    struct sim *sim = ready(NULL);
    for (uint32_t encoding = 0; encoding < 0x8000; encoding++) {
        int slot = sim_slot(encoding);
        bool half = false;
        if (slot < 0 && (encoding & 1) && ((encoding >> 13) & 3) == NVMX_WIDTH_64) {
            slot = sim_slot(encoding & ~1u);
            half = true;
        }
        bool exists = slot >= 0 && nvmx_set_has(&sim->vcpu->vm->exists, (unsigned int)slot);
        sim->regs.gpr[NVMX_RCX] = encoding;
        struct seen_outcome got = run(sim, VMREAD, INFO_RM_REGISTER(NVMX_RAX) | INFO_REG2(NVMX_RCX), 0);
        struct seen_outcome want =
            exists ? (struct seen_outcome){SEEN_SUCCEED, 0} : (struct seen_outcome){SEEN_VALID, 12};
        cr_expect(same_outcome(got, want), "encoding %#x (half: %d)", encoding, half);
    }
    sim_free(sim);
}

/* -- pointers
 * ----------------------------------------------------------------------------------------------------------------------
 */

Test(instruction, vmptrst_stores_the_pointer_or_all_ones) {
    struct sim *sim = sim_new(NULL);
    uint64_t stored;
    sim_region(sim, SIM_L1_VMXON);
    cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrst(sim, &stored), SIM_SUCCEED);
    cr_expect_eq(stored, UINT64_MAX);
    sim_region(sim, SIM_L1_VMCS_A);
    cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrst(sim, &stored), SIM_SUCCEED);
    cr_expect_eq(stored, SIM_L1_VMCS_A);
    cr_expect_eq(sim_vmclear(sim, SIM_L1_VMCS_B), SIM_SUCCEED);
    cr_expect_eq(vmcs12_pointer(sim->vcpu), SIM_L1_VMCS_A);
    cr_expect_eq(sim_vmclear(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrst(sim, &stored), SIM_SUCCEED);
    cr_expect_eq(stored, UINT64_MAX);
    sim_free(sim);
}

Test(instruction, vmxoff_forgets_all_and_vmxon_starts_anew) {
    struct sim *sim = ready(NULL);
    cr_expect_eq(sim_vmxoff(sim), SIM_SUCCEED);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_OFF);
    cr_expect_eq(sim_vmxoff(sim), SIM_FAULT);
    cr_expect_eq(sim_fault_vector(sim), 6);
    cr_expect_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
    cr_expect_eq(vmcs12_pointer(sim->vcpu), NVMX_NO_ADDRESS);
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_INVALID);
    sim_free(sim);
}

/* VMXOFF leaves a region its launch state: a VMRESUME after it succeeds, which the SDM leaves to the processor (33.4, error 6). */
Test(instruction, the_launch_state_outlives_vmxoff) {
    struct sim *sim = ready(NULL);
    cr_assert_eq(sim_vmcs12(sim), 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_L2);
    cr_assert_eq(sim_exit(sim, 10, 0, 0, 2), NVMX_ENTER); /* CPUID */
    cr_expect_eq(sim_vmxoff(sim), SIM_SUCCEED);
    cr_expect_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 4);
    cr_expect_eq(sim_vmresume(sim), SIM_L2);
    sim_free(sim);
}

/* A region where there is no memory reads as all ones, which is no revision identifier. */
Test(instruction, regions_without_memory) {
    struct sim *sim = sim_new(NULL);
    cr_expect_eq(sim_vmxon(sim, SIM_RAM_BYTES), SIM_FAIL_INVALID);
    sim_region(sim, SIM_L1_VMXON);
    cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrld(sim, SIM_RAM_BYTES), SIM_FAIL_INVALID);
    sim_region(sim, SIM_L1_VMCS_A);
    cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    cr_expect_eq(sim_vmptrld(sim, SIM_RAM_BYTES), SIM_FAIL_VALID);
    cr_expect_eq(vmcs12_current(sim->vcpu)->value[NVMX_F_VM_INSTRUCTION_ERROR], 11);
    cr_expect_eq(vmcs12_pointer(sim->vcpu), SIM_L1_VMCS_A);
    sim_free(sim);
}

/* -- INVEPT, INVVPID
 * ------------------------------------------------------------------------------------------------------------------ */

/* VPIDs of L2 that have a VPID02 are flushed, exactly those that the type and the descriptor name. */
Test(instruction, invvpid_flushes_exactly_what_it_names) {
    static const struct {
        uint64_t type;
        uint64_t vpid12;
        unsigned int flushed; /* bit i: vpid02_first + i */
    } rows[] = {
        {0, 7, 2}, {1, 7, 2}, {2, 0, 10}, {2, 7, 10}, {3, 7, 2}, {1, 9, 8}, {1, 8, 0}, {0, 0xffff, 0},
    };
    static const enum nvmx_flush kinds[] = {NVMX_FLUSH_VPID_ADDRESS, NVMX_FLUSH_VPID, NVMX_FLUSH_VPID, NVMX_FLUSH_VPID_BUT_GLOBALS};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = ready(NULL);
        unsigned int flushed = 0;
        sim->vcpu->vpid12_of[1] = 7;
        sim->vcpu->vpid12_of[3] = 9;
        sim->vcpu->vpid12_of[4] = 7; /* past vpid02_count */
        sim->count[SIM_TLB_FLUSH] = 0;
        cr_expect_eq(sim_invvpid(sim, rows[i].type, rows[i].vpid12, UINT64_C(0xffff900000001000)), SIM_SUCCEED);
        for (uint64_t f = 0; f < sim->count[SIM_TLB_FLUSH]; f++) {
            flushed |= 1u << (sim->flush[f].value - sim->vcpu->vpid02_first);
            cr_expect_eq(sim->flush[f].kind, kinds[rows[i].type]);
            cr_expect_eq(sim->flush[f].linear, rows[i].type == 0 ? UINT64_C(0xffff900000001000) : 0);
        }
        cr_expect_eq(flushed, rows[i].flushed, "row %zu: %#x", i, flushed);
        sim_free(sim);
    }
}

Test(instruction, invept_reaches_a_host_that_composes) {
    struct sim_options options = {.host_composes = true};
    struct sim *sim = ready(&options);
    cr_expect_eq(sim_invept(sim, 1, 0x10001e, 0), SIM_SUCCEED);
    cr_expect_eq(sim->eptp12_asked, 0x10001e);
    cr_expect_eq(sim_invept(sim, 2, 0x666, 0), SIM_SUCCEED);
    cr_expect_eq(sim->count[SIM_EPT02_INVALIDATE], 2);
    cr_expect_eq(sim_invept(sim, 1, 0x666, 0), SIM_FAIL_VALID);
    cr_expect_eq(sim->count[SIM_EPT02_INVALIDATE], 2);
    sim_free(sim);
}

/* SDM 33.3, INVEPT: what VM entry would not take as an EPT pointer, the first one of a vCPU as any later one. */
Test(instruction, invept_refuses_what_is_no_ept_pointer) {
    static const uint64_t none[] = {UINT64_MAX, 0, 6, 0x10001e | 1, UINT64_C(1) << 63 | 0x1e};
    for (size_t i = 0; i < COUNT(none); i++) {
        struct sim *sim = ready(NULL);
        for (unsigned int again = 0; again < 2; again++) {
            cr_assert_eq(sim_invept(sim, 1, none[i], 0), SIM_FAIL_VALID, "%#llx", (unsigned long long)none[i]);
            cr_expect_eq(sim_instruction_error(sim), 28);
            cr_expect_eq(sim_invept(sim, 1, 0x10001e, 0), SIM_SUCCEED);
        }
        sim_free(sim);
    }
}

/* -- completion
 * ------------------------------------------------------------------------------------------------------------------------
 */

Test(instruction, rip_wraps_by_mode) {
    static const struct {
        unsigned int bits;
        uint64_t rip;
        uint64_t after;
    } rows[] = {
        {64, UINT64_C(0xfffffffe), UINT64_C(0x100000002)},
        {64, UINT64_C(0xfffffffffffffffc), 0},
        {32, UINT64_C(0xfffffffe), 2},
        {32, UINT64_C(0x1000), 0x1004},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = ready(NULL);
        if (rows[i].bits == 32) {
            sim_l1_mode32(sim);
        }
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, rows[i].rip);
        cr_expect_eq(sim_exit(sim, VMXOFF, 0, 0, 4), NVMX_ENTER);
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), rows[i].after, "row %zu", i);
        sim_free(sim);
    }
}

Test(instruction, blocking_ends_and_other_bits_stay) {
    for (uint32_t before = 0; before < 16; before++) {
        struct sim *sim = ready(NULL);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, before);
        cr_expect_eq(sim_vmxoff(sim), SIM_SUCCEED);
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), before & ~3u);
        sim_free(sim);
    }
}

Test(instruction, single_step_is_noted_unless_branches_only) {
    static const struct {
        uint64_t rflags;
        uint64_t debugctl;
        uint64_t pending;
    } rows[] = {{2, 0, 0}, {0x102, 0, 0x4000}, {0x102, 1, 0x4000}, {0x102, 2, 0}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = ready(NULL);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, rows[i].rflags | 0x10000);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_DEBUGCTL, rows[i].debugctl);
        cr_expect_eq(sim_vmxoff(sim), SIM_SUCCEED);
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS), rows[i].pending, "row %zu", i);
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS), rows[i].rflags, "row %zu: RF ends", i);
        sim_free(sim);
    }
}

/* A fault leaves the instruction to be executed again: flags, RIP and blocking stay, and RFLAGS.RF is set (SDM 19.3.1.1). */
Test(instruction, a_fault_changes_only_the_event) {
    struct sim *sim = ready(NULL);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 1);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    memset(&sim->vmcs[NVMX_VMCS01].written, 0, sizeof(sim->vmcs[NVMX_VMCS01].written));
    cr_expect_eq(sim_vmxoff(sim), SIM_FAULT);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool event = slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO || slot == NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE ||
                     slot == NVMX_F_GUEST_RFLAGS;
        cr_expect_eq(nvmx_set_has(&sim->vmcs[NVMX_VMCS01].written, slot), event, "%s", nvmx_field_info(slot)->name);
    }
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS), 0x108d7 & ~UINT64_C(0x8d5));
    cr_expect_eq(sim_fault_error_code(sim), 0);
    sim_free(sim);
}

/* In real mode an exception has no error code; #UD never has. */
Test(instruction, error_codes_by_mode) {
    struct sim *sim = sim_new(NULL);
    cr_expect_eq(l1_raise_gp(sim->vcpu), NVMX_ENTER);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
    cr_expect_eq(l1_raise_ud(sim->vcpu), NVMX_ENTER);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, 0x20);
    cr_expect_eq(l1_raise_gp(sim->vcpu), NVMX_ENTER);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x8000030d);
    sim_free(sim);
}

Test(instruction, a_host_with_an_event_queue_gets_the_exception) {
    struct sim_options options = {.queue_exception = true};
    struct sim *sim = sim_new(&options);
    memset(&sim->vmcs[NVMX_VMCS01].written, 0, sizeof(sim->vmcs[NVMX_VMCS01].written));
    cr_expect_eq(sim_vmxoff(sim), SIM_FAULT);
    cr_expect_eq(sim->queued_vector, 6);
    cr_expect_eq(sim->queued_error_code, -1);
    cr_expect_not(nvmx_set_has(&sim->vmcs[NVMX_VMCS01].written, NVMX_F_VM_ENTRY_INTERRUPTION_INFO));
    sim_region(sim, SIM_L1_VMXON);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    cr_expect_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_FAULT);
    cr_expect_eq(sim->queued_vector, 13);
    cr_expect_eq(sim->queued_error_code, 0);
    sim_free(sim);
}

/* What an instruction costs on any machine: one batch of reads without a memory operand, two with one, one batch of
 * writes. */
Test(instruction, batches_per_instruction) {
    struct sim *sim = ready(NULL);
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
    const struct nvmx_counts *counts = nvmx_counts(sim->vcpu);
    struct nvmx_counts before = *counts;
    cr_expect(succeeds(sim, VMREAD, INFO_RM_REGISTER(NVMX_RAX) | INFO_REG2(NVMX_RCX), 0));
    cr_expect_eq(counts->callback[9] - before.callback[9], 1);
    cr_expect_eq(counts->callback[10] - before.callback[10], 1);
    cr_expect_eq(counts->vmreads - before.vmreads, 8);
    cr_expect_eq(counts->vmwrites - before.vmwrites, 2);
    cr_expect_eq(counts->emulated - before.emulated, 1);
    /* The first sets the dirty flag of the operand's page, which is not for the short way. */
    cr_expect(succeeds(sim, VMREAD, INFO_DISPLACEMENT64 | INFO_REG2(NVMX_RCX), SIM_L1_OPERAND));
    before = *counts;
    cr_expect(succeeds(sim, VMREAD, INFO_DISPLACEMENT64 | INFO_REG2(NVMX_RCX), SIM_L1_OPERAND));
    cr_expect_eq(counts->callback[9] - before.callback[9], 2);
    cr_expect_eq(counts->callback[10] - before.callback[10], 1);
    sim_free(sim);
}

Test(instruction, a_vm_entry_counts_as_one_instruction) {
    struct sim *sim = ready(NULL);
    cr_assert_eq(sim_vmcs12(sim), 0);
    uint64_t before = nvmx_counts(sim->vcpu)->emulated;
    cr_expect_eq(sim_vmlaunch(sim), SIM_L2);
    cr_expect_eq(nvmx_counts(sim->vcpu)->emulated, before + 1);
    sim_free(sim);
}

Test(instruction, refusals_are_traced) {
    struct sim *sim = ready(NULL);
    sim->count[SIM_TRACE] = 0;
    cr_expect_eq(sim_vmclear(sim, SIM_L1_VMXON), SIM_FAIL_VALID);
    cr_expect_eq(sim->count[SIM_TRACE], 1);
    cr_expect_eq(sim->trace[0].event, NVMX_TRACE_VMFAIL);
    cr_expect_eq(sim->trace[0].reason, 3);
    cr_expect_eq(sim->trace[0].check_row, NVMX_CHECK_NONE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
    cr_expect_eq(sim_vmclear(sim, SIM_L1_VMXON), SIM_FAULT);
    cr_expect_eq(sim->trace[1].event, NVMX_TRACE_FAULT);
    cr_expect_eq(sim->trace[1].reason, 13);
    sim_free(sim);
}
