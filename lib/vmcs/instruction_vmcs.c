/* SPDX-License-Identifier: MIT */
/* VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE. */
#include "instruction.h"

#define MISC_WRITE_ANY_FIELD (UINT64_C(1) << 29)

/*
 * Where a callback fails the instruction is refused with the number that says the same of the address or the field, and
 * L1 can go on.
 */
struct verdict vmclear_region(struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    if (!region_address_ok(vcpu->vm, gpa1)) {
        return VERDICT(FAIL, 2);
    }
    if (gpa1 == vcpu->vmxon_pointer) {
        return VERDICT(FAIL, 3);
    }
    return vmcs12_clear(vcpu, gpa1) == NVMX_OK ? VERDICT(SUCCEED, 0) : VERDICT(FAIL, 2);
}

struct verdict vmclear_effect(struct instruction *in) {
    return vmclear_region(in->vcpu, in->memory[0]);
}

struct verdict vmptrld_region(struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    static const struct verdict verdicts[] = {
        [VMCS12_OK] = {SUCCEED, 0},
        [VMCS12_BAD_REVISION] = {FAIL, 11},
        [VMCS12_FAILED] = {FAIL, 9},
        [VMCS12_LOST] = {STOP, NVMX_E_HOST},
    };
    if (!region_address_ok(vcpu->vm, gpa1)) {
        return VERDICT(FAIL, 9);
    }
    if (gpa1 == vcpu->vmxon_pointer) {
        return VERDICT(FAIL, 10);
    }
    return verdicts[vmcs12_make_current(vcpu, gpa1)];
}

struct verdict vmptrld_effect(struct instruction *in) {
    return vmptrld_region(in->vcpu, in->memory[0]);
}

struct verdict vmptrst_effect(struct instruction *in) {
    struct verdict stored = instruction_store(in, vmcs12_pointer(in->vcpu), 8);
    return stored.kind == GO_ON ? VERDICT(SUCCEED, 0) : stored;
}

/* -- fields
 * ------------------------------------------------------------------------------------------------------------------ */

bool instruction_field(struct instruction *in) {
    if (in->reg2 > UINT32_MAX) {
        return false;
    }
    int slot = nvmx_field_find((uint32_t)in->reg2, &in->high);
    if (slot < 0 || slot >= NVMX_FIELD_COUNT) {
        return false;
    }
    in->slot = (int)instruction_clamp((unsigned int)slot, NVMX_FIELD_COUNT);
    return nvmx_set_has(&in->vcpu->vm->exists, (unsigned int)in->slot);
}

struct verdict vmread_before(struct instruction *in) {
    if (vmcs12_current(in->vcpu) == NULL) {
        return VERDICT(FAIL_INVALID, 0);
    }
    return instruction_field(in) ? VERDICT(GO_ON, 0) : VERDICT(FAIL, 12);
}

struct verdict vmread_effect(struct instruction *in) {
    uint64_t value;
    if (vmcs12_read(in->vcpu, (unsigned int)in->slot, &value) != NVMX_OK) {
        return VERDICT(FAIL, 12);
    }
    if (in->high) {
        value >>= 32;
    }
    if (!in->paging.mode64) {
        value = (uint32_t)value;
    }
    struct verdict stored = instruction_store(in, value, instruction_operand_bytes(in));
    return stored.kind == GO_ON ? VERDICT(SUCCEED, 0) : stored;
}

struct verdict vmwrite_before(struct instruction *in) {
    return vmcs12_current(in->vcpu) == NULL ? VERDICT(FAIL_INVALID, 0) : VERDICT(GO_ON, 0);
}

/* SDM 27.11.2: an access to the high half leaves the low half; a full access with a 32-bit operand clears bits 63:32.
 */
struct verdict vmwrite_effect(struct instruction *in) {
    struct nvmx_vcpu *vcpu = in->vcpu;
    uint64_t value = in->memory[0];
    if (!instruction_field(in)) {
        return VERDICT(FAIL, 12);
    }
    if (nvmx_encoding_read_only((uint32_t)in->reg2) &&
        (vcpu->vm->caps.msr[NVMX_CAP_MISC] & MISC_WRITE_ANY_FIELD) == 0) {
        return VERDICT(FAIL, 13);
    }
    if (in->high) {
        uint64_t old;
        if (vmcs12_read(vcpu, (unsigned int)in->slot, &old) != NVMX_OK) {
            return VERDICT(FAIL, 12);
        }
        value = (value << 32) | (uint32_t)old;
    }
    vmcs12_write(vcpu, (unsigned int)in->slot, value & nvmx_field_mask((unsigned int)in->slot));
    return shadow_follow(vcpu, (unsigned int)in->slot) == NVMX_OK ? VERDICT(SUCCEED, 0) : VERDICT(FAIL, 12);
}
