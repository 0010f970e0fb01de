/* SPDX-License-Identifier: MIT */
/*
 * VMREAD and VMWRITE of L2 that act on the shadow VMCS at vmcs12's link pointer (SDM 27.10, 33.3). They always exit from vmcs02, and are carried
 * out here if L1's bitmaps say that they would not exit: so L2 can be a hypervisor whose every access to a VMCS does not cost a turn of L1.
 *
 * It runs while L2 does: the current VMCS is vmcs12, and vmcs02 is selected.
 */
#include "instruction.h"

#define BITMAP_ENCODINGS 0x8000u
#define MISC_WRITE_ANY_FIELD (UINT64_C(1) << 29)

static uint64_t link_of(const struct instruction *in) {
    return vmcs12_current(in->vcpu)->value[NVMX_F_VMCS_LINK_POINTER];
}

static struct verdict need_link(struct instruction *in) {
    return link_of(in) == NVMX_NO_ADDRESS ? VERDICT(FAIL_INVALID, 0) : VERDICT(GO_ON, 0);
}

static struct verdict read_before(struct instruction *in) {
    struct verdict linked = need_link(in);
    return linked.kind != GO_ON || instruction_field(in) ? linked : VERDICT(FAIL, 12);
}

static struct verdict read_effect(struct instruction *in) {
    uint64_t value;
    enum nvmx_status status = vmcs12_shadow_read(in->vcpu, link_of(in), (unsigned int)in->slot, &value);
    if (status != NVMX_OK) {
        return VERDICT(STOP, status);
    }
    value = in->high ? value >> 32 : value;
    struct verdict stored =
        instruction_store(in, in->paging.mode64 ? value : (uint32_t)value, instruction_operand_bytes(in));
    return stored.kind == GO_ON ? VERDICT(SUCCEED, 0) : stored;
}

static struct verdict write_effect(struct instruction *in) {
    uint64_t value = in->memory[0];
    if (!instruction_field(in)) {
        return VERDICT(FAIL, 12);
    }
    if (nvmx_encoding_read_only((uint32_t)in->reg2) &&
        (in->vcpu->vm->caps.msr[NVMX_CAP_MISC] & MISC_WRITE_ANY_FIELD) == 0) {
        return VERDICT(FAIL, 13);
    }
    if (in->high) {
        uint64_t old;
        enum nvmx_status status = vmcs12_shadow_read(in->vcpu, link_of(in), (unsigned int)in->slot, &old);
        if (status != NVMX_OK) {
            return VERDICT(STOP, status);
        }
        value = (value << 32) | (uint32_t)old;
    }
    enum nvmx_status status = vmcs12_shadow_write(in->vcpu, link_of(in), (unsigned int)in->slot, value);
    return status == NVMX_OK ? VERDICT(SUCCEED, 0) : VERDICT(STOP, status);
}

static const struct instruction_row vmread_row = {.reason = NVMX_REASON_VMREAD,
                                                  .operand = OPERAND_RM_WRITE,
                                                  .has_reg2 = true,
                                                  .before = read_before,
                                                  .effect = read_effect};
static const struct instruction_row vmwrite_row = {.reason = NVMX_REASON_VMWRITE,
                                                   .operand = OPERAND_RM_READ,
                                                   .has_reg2 = true,
                                                   .before = need_link,
                                                   .effect = write_effect};

/* Bits 63:15 of the encoding (31:15 outside 64-bit mode) have no place in the bitmap; a bitmap without memory reads as all ones. */
static enum nvmx_status decide(struct instruction *in, bool *exits) {
    const struct vmcs12 *v = vmcs12_current(in->vcpu);
    const bool is_read = in->row == &vmread_row;
    const uint64_t bitmap = v->value[is_read ? NVMX_F_VMREAD_BITMAP_ADDRESS : NVMX_F_VMWRITE_BITMAP_ADDRESS];
    uint64_t encoding;
    uint8_t bits = 0xff;
    enum nvmx_status status = operand_register(in->vcpu, in->operand.reg2, &encoding);
    if (status != NVMX_OK) {
        return status;
    }
    encoding = in->paging.mode64 ? encoding : (uint32_t)encoding;
    if (encoding < BITMAP_ENCODINGS) {
        (void)l1_physical_read(in->vcpu, bitmap + encoding / 8, &bits, 1);
    }
    *exits = encoding >= BITMAP_ENCODINGS || ((bits >> (encoding % 8)) & 1) != 0;
    return NVMX_OK;
}

/* SDM 33.2: a VMfail is told to the current VMCS, which is vmcs12; the shadow VMCS is only what the link pointer names. */
static enum l2_instruction finish(struct instruction *in, struct verdict verdict, struct l1_fault *fault) {
    uint64_t flags = 0;
    switch (verdict.kind) {
    case SUCCEED:
        break;
    case FAIL_INVALID:
        flags = RFLAGS_CF;
        break;
    case FAIL:
        vmcs12_current(in->vcpu)->value[NVMX_F_VM_INSTRUCTION_ERROR] = verdict.number;
        flags = RFLAGS_ZF;
        break;
    case FAULT:
        *fault = in->fault;
        return in->fault.vector == FAULT_OF_EPT12 ? L2_INSTRUCTION_EPT : L2_INSTRUCTION_FAULT;
    case RETRY:
        return L2_INSTRUCTION_RETRY;
    default:
        return L2_INSTRUCTION_FAILED;
    }
    bool over = instruction_end(in, flags) == NVMX_OK && l2_instruction_over(in->vcpu) == NVMX_OK;
    return over ? L2_INSTRUCTION_DONE : L2_INSTRUCTION_FAILED;
}

enum l2_instruction instruction_of_l2(struct nvmx_vcpu *vcpu, uint32_t basic_reason, uint32_t information,
                                      bool carry_out, struct l1_fault *fault, struct l2_memory *memory) {
    struct batch out;
    struct instruction in = {.out = &out, .vmcs = vcpu->selected};
    bool exits = true;
    enum nvmx_status status = instruction_begin(
        vcpu, basic_reason == NVMX_REASON_VMREAD ? &vmread_row : &vmwrite_row, &in);
    in.paging.l2 = memory;
    /* Where nothing exited, vmcs02 has the information of an earlier exit. */
    nvmx_decode_information(basic_reason, information, 0, &in.operand);
    memory->access.bytes = instruction_operand_bytes(&in); /* of a second page, too: at its beginning these are of one sub-page */
    if (status == NVMX_OK) {
        status = decide(&in, &exits);
    }
    if (status != NVMX_OK) {
        return L2_INSTRUCTION_FAILED;
    }
    /* Information of no instruction: an operand that is neither a register nor in a segment. L1 may make of it what it can. */
    exits = exits || (!in.operand.is_register && in.operand.address_bits == 0);
    if (exits || !carry_out) {
        return exits ? L2_INSTRUCTION_EXITS : L2_INSTRUCTION_STAYS;
    }
    return finish(&in, instruction_phases(&in), fault);
}
