/* SPDX-License-Identifier: MIT */
/*
 * The way of nearly every VMREAD, VMWRITE and VMRESUME: a 64-bit L1 in VMX root operation at CPL 0, nothing unusual
 * pending, register operands, a field that exists. It does what instruction.c does in the phases of the SDM, in a fifth
 * of the instructions. Whatever is not of that kind it leaves untouched to instruction.c, which answers it; a test runs
 * both ways on the same states.
 */
#include "instruction.h"

#define RFLAGS_ARITHMETIC    UINT64_C(0x8d5)   /* CF PF AF ZF SF OF */
#define RFLAGS_UNUSUAL       UINT64_C(0x30100) /* TF, RF, VM */
#define RIGHTS_L             (1u << 13)
#define RIGHTS_DPL           (3u << 5)
#define ENTRY_IA32E_GUEST    (1u << 9)
#define INFORMATION_REGISTER (1u << 10)

static bool usual(const uint64_t *is) {
    return (is[BASE_ENTRY_CONTROLS] & ENTRY_IA32E_GUEST) != 0 && (is[BASE_CS_RIGHTS] & RIGHTS_L) != 0 &&
           ((is[BASE_SS_RIGHTS] & RIGHTS_DPL) | (is[BASE_RFLAGS] & RFLAGS_UNUSUAL) | is[BASE_INTERRUPTIBILITY]) == 0;
}

static enum nvmx_status succeed(struct nvmx_vcpu *vcpu, const uint64_t *is) {
    static const uint32_t encoding[] = {NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RFLAGS};
    const uint64_t value[] = {is[BASE_RIP] + is[BASE_LENGTH], is[BASE_RFLAGS] & ~RFLAGS_ARITHMETIC};

    vcpu->counts.emulated++;
    return host_write_encoded(vcpu, value[1] == is[BASE_RFLAGS] ? 1 : 2, encoding, value);
}

/* The slot of a whole field that L1 has, or NVMX_FIELD_NONE. */
static int usual_field(const struct nvmx_vcpu *vcpu, uint64_t encoding) {
    int slot = encoding <= UINT32_MAX ? nvmx_field_find((uint32_t)encoding, NULL) : NVMX_FIELD_NONE;

    if (slot < 0) {
        return NVMX_FIELD_NONE;
    }
    slot = (int)instruction_clamp((unsigned int)slot, NVMX_FIELD_COUNT);
    return nvmx_set_has(&vcpu->vm->exists, (unsigned int)slot) ? slot : NVMX_FIELD_NONE;
}

static enum fast_outcome access_field(struct nvmx_vcpu *vcpu, const uint64_t *is, bool write) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    unsigned int reg1 = (is[BASE_INFO] >> 3) & 15;
    unsigned int reg2 = (is[BASE_INFO] >> 28) & 15;

    if ((is[BASE_INFO] & INFORMATION_REGISTER) == 0 || reg1 == NVMX_RSP || reg2 == NVMX_RSP) {
        return FAST_NOT_USUAL;
    }
    int slot = usual_field(vcpu, vcpu->regs->gpr[reg2]);
    if (slot < 0) {
        return FAST_NOT_USUAL;
    }
    if (!write) {
        if (nvmx_set_has(&v->stale, (unsigned int)slot)) {
            return FAST_NOT_USUAL;
        }
        vcpu->regs->gpr[reg1] = v->value[slot];
        return FAST_DONE;
    }
    /* Exit information may be read-only; what L1 reads from the shadow VMCS must be written there too. */
    bool shadowed = vcpu->shadow_hpa != NVMX_NO_ADDRESS && nvmx_set_has(&vcpu->vm->shadowed.fields, (unsigned int)slot);
    if (shadowed || nvmx_encoding_read_only(field_encoding[slot])) {
        return FAST_NOT_USUAL;
    }
    vmcs12_write(vcpu, (unsigned int)slot, vcpu->regs->gpr[reg1]);
    return FAST_DONE;
}

enum fast_outcome instruction_fast(struct nvmx_vcpu *vcpu, uint32_t basic_reason, struct base_values *is,
                                   enum nvmx_next *next) {
    bool resume = basic_reason == NVMX_REASON_VMRESUME;
    struct vmcs12 *v = vmcs12_current(vcpu);
    unsigned int count = resume ? BASE_RIP : BASE_COUNT;

    if (vcpu->mode != NVMX_MODE_ROOT || v == NULL || (resume && (!v->launched || v->is_shadow))) {
        return FAST_NOT_USUAL;
    }
    enum nvmx_status status = host_read_encoded(vcpu, count, instruction_base, is->value);
    if (status != NVMX_OK) {
        *next = stop(vcpu, NVMX_STOP_HOST, status);
        return FAST_DONE;
    }
    is->count = count;
    if (!usual(is->value)) {
        return FAST_NOT_USUAL;
    }
    if (resume) {
        vcpu->counts.emulated++;
        *next = enter_l2(vcpu, true);
        return FAST_DONE;
    }
    if (access_field(vcpu, is->value, basic_reason == NVMX_REASON_VMWRITE) != FAST_DONE) {
        return FAST_NOT_USUAL;
    }
    status = succeed(vcpu, is->value);
    *next = status == NVMX_OK ? NVMX_ENTER : stop(vcpu, NVMX_STOP_HOST, status);
    return FAST_DONE;
}
