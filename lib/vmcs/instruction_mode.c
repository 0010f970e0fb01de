/* SPDX-License-Identifier: MIT */
/* VMXON, VMXOFF, VMLAUNCH, VMRESUME, VMCALL. */
#include "instruction.h"

#define FEATURE_CONTROL_LOCK              UINT64_C(1)
#define FEATURE_CONTROL_VMXON_OUTSIDE_SMX (UINT64_C(1) << 2)

/* VMXON outside VMX operation. SMX operation is not known here: no host of this library offers it to L1. */
struct verdict vmxon_before(struct instruction *in) {
    const uint64_t allowed = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMXON_OUTSIDE_SMX;
    const struct nvmx_caps *caps = &in->vcpu->vm->caps;
    if (in->vcpu->mode != NVMX_MODE_OFF) {
        return VERDICT(FAIL, 15);
    }
    if (!nvmx_cr_fixed_ok(caps, 0, in->cr0, false) || !nvmx_cr_fixed_ok(caps, 4, in->cr4, false) ||
        in->vcpu->a20m || (in->vcpu->feature_control & allowed) != allowed) {
        return instruction_fault(in, VECTOR_GP0);
    }
    return VERDICT(GO_ON, 0);
}

/* A region without memory behind it reads as all ones: no revision identifier is that. */
struct verdict vmxon_effect(struct instruction *in) {
    struct nvmx_vcpu *vcpu = in->vcpu;
    const uint64_t gpa1 = in->memory[0];
    uint32_t revision;
    if (!region_address_ok(vcpu->vm, gpa1) || l1_physical_read(vcpu, gpa1, &revision, sizeof(revision)) != NVMX_OK ||
        revision != (vcpu->vm->caps.msr[NVMX_CAP_BASIC] & 0x7fffffff)) {
        return VERDICT(FAIL_INVALID, 0);
    }
    vcpu->mode = NVMX_MODE_ROOT;
    vcpu->vmxon_pointer = gpa1;
    return VERDICT(SUCCEED, 0);
}

/*
 * Cached VMCSs are written back, which the SDM does not ask for (27.11.1: software should VMCLEAR first) but permits.
 * INIT and A20M are unblocked by the change of mode: see nvmx_init_blocked and nvmx_a20m_blocked.
 */
enum nvmx_status vmx_off(struct nvmx_vcpu *vcpu) {
    vmcs12_drop_all(vcpu, true);
    vcpu->mode = NVMX_MODE_OFF;
    vcpu->vmxon_pointer = NVMX_NO_ADDRESS;
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK) {
        status = shadow_relink(vcpu);
    }
    return status;
}

struct verdict vmxoff_effect(struct instruction *in) {
    enum nvmx_status status = vmx_off(in->vcpu);
    return status == NVMX_OK ? VERDICT(SUCCEED, 0) : VERDICT(STOP, status);
}

/* SDM 29.1. */
static struct verdict vm_entry(struct instruction *in, bool launch) {
    const struct vmcs12 *current = vmcs12_current(in->vcpu);
    in->vcpu->last_check = NVMX_CHECK_NONE;
    if (current == NULL || current->is_shadow) {
        return VERDICT(FAIL_INVALID, 0);
    }
    if (in->interruptibility & BLOCKING_MOV_SS) {
        return VERDICT(FAIL, 26);
    }
    if (current->launched == launch) {
        return VERDICT(FAIL, launch ? 4 : 5);
    }
    return VERDICT(ENTERED, enter_l2(in->vcpu, in->paging.long_mode));
}

struct verdict vmlaunch_effect(struct instruction *in) {
    return vm_entry(in, true);
}

struct verdict vmresume_effect(struct instruction *in) {
    return vm_entry(in, false);
}

/* No dual-monitor treatment of SMIs: IA32_VMX_BASIC[49] is never offered. */
struct verdict vmcall_effect(struct instruction *in) {
    (void)in;
    return VERDICT(FAIL, 1);
}
