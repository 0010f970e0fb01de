/* SPDX-License-Identifier: MIT */
/*
 * Internal: what the short ways of VMX instructions have in common (instruction_fast.c, instruction_memory.c): when L1 is as it nearly always
 * is, and how an instruction then succeeds.
 */
#ifndef NVMX_LIB_INSTRUCTION_FAST_H
#define NVMX_LIB_INSTRUCTION_FAST_H

#include "instruction.h"

/* Instruction information (SDM 30.2.5). */
#define INFORMATION_REGISTER   (1u << 10)
#define INFORMATION_REG1(info) (((info) >> 3) & 15)
#define INFORMATION_REG2(info) ((uint32_t)(info) >> 28)

/* 64-bit mode, CPL 0, no blocking; and with `flags` of RFLAGS nothing pending. */
static inline bool usual_but(const uint64_t *is, uint64_t flags) {
    return (is[BASE_ENTRY_CONTROLS] & ENTRY_IA32E) != 0 && (is[BASE_CS_RIGHTS] & RIGHTS_L) != 0 &&
           ((is[BASE_SS_RIGHTS] & RIGHTS_DPL) | (flags & (RFLAGS_TF | RFLAGS_RF | RFLAGS_VM)) | is[BASE_INTERRUPTIBILITY]) == 0;
}
static inline bool usual(const uint64_t *is) {
    return usual_but(is, is[BASE_RFLAGS]);
}

/*
 * The same of VMLAUNCH and VMRESUME, for which RFLAGS need not be read. An entry that succeeds, or fails past the checks of VMX controls and the
 * host-state area, replaces them without a trap after it (SDM 29.3.2.3, 29.8, 30.5.3); VMfail reads them itself. In 64-bit mode RFLAGS.VM is 0.
 */
static inline bool usual_entry(const uint64_t *is) {
    return usual_but(is, 0);
}

/* RIP moves on, and the arithmetic flags are `flags`. vmcs01 is selected. */
static inline enum nvmx_status end_instruction(struct nvmx_vcpu *vcpu, uint64_t next_rip, uint64_t rflags, uint64_t flags) {
    static const uint32_t encoding[] = {NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RFLAGS};
    const uint64_t value[] = {next_rip, (rflags & ~RFLAGS_ARITHMETIC) | flags};

    vcpu->counts.emulated++;
    return value[1] == rflags ? host_write_fixed(vcpu, 1, encoding, value) : host_write_fixed(vcpu, 2, encoding, value);
}

static inline enum nvmx_next succeed(struct nvmx_vcpu *vcpu, const uint64_t *is) {
    enum nvmx_status status = end_instruction(vcpu, is[BASE_RIP] + is[BASE_LENGTH], is[BASE_RFLAGS], 0);

    return RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : NVMX_ENTER;
}

/* The slot of a whole field that L1 has, or NVMX_FIELD_NONE. The table has no more places than the index can name:
 * nothing to clamp. */
static inline int usual_field(const struct nvmx_vcpu *vcpu, uint64_t encoding) {
    return (encoding & FIELD_NO_PLACE) != 0 ? NVMX_FIELD_NONE : (int)vcpu->vm->whole_field[FIELD_PLACE(encoding)] - 1;
}

/* As vmcs12_write does it, where no rule of this field's own applies. */
static inline void write_field(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    const uint64_t bit = (uint64_t)vcpu->write_ways.counts_for_entry[slot] << (slot % 64);

    v->l1_state_ready &= vcpu->write_ways.keeps_l1_state[slot];
    v->checked &= vcpu->write_ways.keeps_checks[slot];
    v->value[slot] = value & vcpu->vm->field_mask[slot];
    v->dirty.word[slot / 64] |= bit;
    v->stale.word[slot / 64] &= ~bit;
}

/* VMREAD or VMWRITE with a memory operand (instruction_memory.c). There is a current VMCS. */
COLD enum nvmx_next instruction_access_memory(struct nvmx_vcpu *vcpu, uint32_t basic_reason);

#endif
