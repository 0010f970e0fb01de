/* SPDX-License-Identifier: MIT */
/*
 * The way of nearly every VMREAD, VMWRITE, VMLAUNCH and VMRESUME: a 64-bit L1 in VMX root operation at CPL 0, nothing unusual
 * pending, a field that exists, a register operand. It does what instruction.c does in the phases of the SDM, in a fifth of
 * the instructions. Whatever is not of that kind it leaves untouched to instruction.c, which begins anew, as the processor does
 * with an instruction that it restarts. instruction_memory.c has those with a memory operand.
 */
#include "instruction_fast.h"

/* Not of the usual kind. What was read already is read again: keeping it would cost the usual case more than its registers. */
static COLD enum nvmx_next unusual_access(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    return instruction_in_phases(vcpu, basic_reason);
}

/* VMWRITE of a field whose value decides what else it does, or of one that has a rule of its own. */
static __attribute__((noinline)) enum nvmx_next write_by_rule(struct nvmx_vcpu *vcpu, unsigned int slot, uint64_t value, uint64_t next_rip,
                                                              uint64_t rflags) {
    if (nvmx_encoding_read_only(field_encoding[slot])) {
        return unusual_access(vcpu, NVMX_REASON_VMWRITE);
    }
    vmcs12_write(vcpu, slot, value);
    enum nvmx_status status = shadow_follow(vcpu, slot);
    if (RARE(status != NVMX_OK)) { /* which VMfail says that, the phases know: the field is written once more */
        status = host_select(vcpu, NVMX_VMCS01);
        return status == NVMX_OK ? unusual_access(vcpu, NVMX_REASON_VMWRITE) : stop(vcpu, NVMX_STOP_HOST, status);
    }
    status = end_instruction(vcpu, next_rip, rflags, 0);
    return RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : NVMX_ENTER;
}

/* Register operands. */
static inline enum nvmx_next access_field(struct nvmx_vcpu *vcpu, const uint64_t *is, uint32_t basic_reason) {
    struct vmcs12 *v = &vcpu->vmcs12[vcpu->current];
    const unsigned int reg1 = INFORMATION_REG1(is[BASE_INFO]);
    const unsigned int reg2 = INFORMATION_REG2(is[BASE_INFO]);

    if (reg1 == NVMX_RSP || reg2 == NVMX_RSP) {
        return unusual_access(vcpu, basic_reason);
    }
    const int slot = usual_field(vcpu, vcpu->regs->gpr[reg2]);
    if (slot < 0) {
        return unusual_access(vcpu, basic_reason);
    }
    __asm__("" : "+r"(v)); /* an address, from here on */
    if (basic_reason == NVMX_REASON_VMREAD) {
        if (nvmx_set_has(&v->stale, (unsigned int)slot)) {
            return unusual_access(vcpu, basic_reason);
        }
        vcpu->regs->gpr[reg1] = v->value[slot];
        return succeed(vcpu, is);
    }
    if (RARE(vcpu->write_ways.by_rule[slot])) {
        return write_by_rule(vcpu, (unsigned int)slot, vcpu->regs->gpr[reg1], is[BASE_RIP] + is[BASE_LENGTH], is[BASE_RFLAGS]);
    }
    write_field(vcpu, v, (unsigned int)slot, vcpu->regs->gpr[reg1]);
    return succeed(vcpu, is);
}

enum nvmx_next instruction_vmxoff(struct nvmx_vcpu *vcpu) {
    uint64_t is[BASE_INFO];

    if (vcpu->mode != NVMX_MODE_ROOT) {
        return instruction_in_phases(vcpu, NVMX_REASON_VMXOFF);
    }
    enum nvmx_status status = host_read_fixed(vcpu, BASE_INFO, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is)) {
        return instruction_in_phases(vcpu, NVMX_REASON_VMXOFF);
    }
    status = vmx_off(vcpu);
    return RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : succeed(vcpu, is);
}

enum nvmx_next instruction_access(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    uint64_t is[BASE_COUNT];

    if (RARE(vcpu->current < 0)) { /* outside VMX operation too */
        return unusual_access(vcpu, basic_reason);
    }
    enum nvmx_status status = host_read_fixed(vcpu, BASE_COUNT, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is)) {
        return unusual_access(vcpu, basic_reason);
    }
    if (RARE((is[BASE_INFO] & INFORMATION_REGISTER) == 0)) {
        return instruction_access_memory(vcpu, basic_reason);
    }
    return access_field(vcpu, is, basic_reason);
}

/* VMLAUNCH of what is launched, VMRESUME of what is not (SDM 29.1): VMfail(4), VMfail(5). */
static __attribute__((noinline)) enum nvmx_next refuse_entry(struct nvmx_vcpu *vcpu, bool launch) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    const uint32_t error = launch ? 4 : 5;
    uint64_t is[BASE_INFO];

    enum nvmx_status status = host_read_fixed(vcpu, BASE_INFO, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is)) {
        return instruction_in_phases(vcpu, launch ? NVMX_REASON_VMLAUNCH : NVMX_REASON_VMRESUME);
    }
    v->value[NVMX_F_VM_INSTRUCTION_ERROR] = error;
    nvmx_set_remove(&v->stale, NVMX_F_VM_INSTRUCTION_ERROR);
    vcpu->last_check = NVMX_CHECK_NONE;
    vcpu->counts.refused++;
    status = end_instruction(vcpu, is[BASE_RIP] + is[BASE_LENGTH], is[BASE_RFLAGS], RFLAGS_ZF);
    host_trace(vcpu, NVMX_TRACE_VMFAIL, error, NVMX_CHECK_NONE);
    return RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : NVMX_ENTER;
}

enum nvmx_next instruction_entry(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    const bool launch = basic_reason == NVMX_REASON_VMLAUNCH;
    const struct vmcs12 *v = vmcs12_current(vcpu);
    uint64_t is[BASE_RFLAGS];

    if (RARE(v == NULL || v->is_shadow)) { /* outside VMX operation too */
        return instruction_in_phases(vcpu, basic_reason);
    }
    if (RARE(v->launched == launch)) {
        return refuse_entry(vcpu, launch);
    }
    enum nvmx_status status = host_read_fixed(vcpu, BASE_RFLAGS, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual_entry(is)) {
        return instruction_in_phases(vcpu, basic_reason);
    }
    vcpu->counts.emulated++;
    vcpu->l1_left = (struct l1_left){true, is[BASE_CS_RIGHTS], is[BASE_SS_RIGHTS], is[BASE_ENTRY_CONTROLS], 0};
    return enter_l2(vcpu, true);
}
