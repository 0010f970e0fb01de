/* SPDX-License-Identifier: MIT */
/* vmcs01 changed while L2 runs: what vmcs02 takes from it before L2 goes on. */
#include "merge.h"

/* vmcs02 is selected, and is so again. Its pin-based controls stay, and so does what they say of who owns interrupts. */
static enum nvmx_status read_controls(struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    const uint64_t pin = vcpu->host_control[NVMX_F_PIN_BASED_CONTROLS];
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);

    if (status == NVMX_OK) {
        status = merge_read_controls(vcpu);
    }
    vcpu->host_control[NVMX_F_PIN_BASED_CONTROLS] = pin;
    enum nvmx_status back = host_select(vcpu, vmcs02_of(vcpu, v));
    return status != NVMX_OK ? status : back;
}

/*
 * L1 decides when its next VM entry comes, and may never let it come: so what the host takes back of ports, MSRs and instructions, and the tables on which L2
 * runs, can't wait for it. All that depends on L2's present state, or on what the processor loads and saves with it, does: the mode, MSRs that the host
 * switches, masks of CR0 and CR4, and what vmcs12 has pages for. That entry reads vmcs01 once more.
 */
COLD enum nvmx_status merge_vmcs01_again(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct merge m;
    enum nvmx_status status = read_controls(vcpu, v);

    merge_begin(&m, vcpu, v);
    if (status == NVMX_OK) {
        status = merge_bitmaps(&m);
    }
    if (status == NVMX_OK && (vcpu->vm->host.ept02_root != NULL || (secondary_controls(v) & PROC2_EPT) == 0)) {
        status = merge_ept_root(&m);
    }
    if (status == NVMX_OK) {
        merge_intercepts(&m);
    }
    return merge_write(&m, status);
}
