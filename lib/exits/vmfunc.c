/* SPDX-License-Identifier: MIT */
/*
 * VM functions of L2 (SDM 28.5.7). vmcs02 enables VMFUNC with no function on, so that each one exits; EPTP switching is carried out here,
 * and L2 goes on without L1. #UD (VM functions off, EAX above 63) is the processor's own.
 */
#include "exits.h"

#define FUNCTION_EPTP_SWITCHING 0u
#define EPTP_LIST_ENTRIES 512u
#define EPTP_WALK_LENGTH (UINT64_C(7) << 3)

static bool enabled(const struct vmcs12 *v, uint32_t function) {
    return function < 64 && ((v->value[NVMX_F_VM_FUNCTION_CONTROLS] >> function) & 1) != 0;
}

/* SDM 28.5.7.3: the entry must be an EPTP that VM entry would accept, with the walk length of the present one. */
static bool listed_eptp(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index, uint64_t *eptp12) {
    uint64_t entry = v->value[NVMX_F_EPTP_LIST_ADDRESS] + 8 * (uint64_t)index;

    return index < EPTP_LIST_ENTRIES && l1_physical_read(vcpu, entry, eptp12, sizeof(*eptp12)) == NVMX_OK &&
           nvmx_eptp_valid(&vcpu->vm->caps, *eptp12) &&
           ((*eptp12 ^ v->value[NVMX_F_EPT_POINTER]) & EPTP_WALK_LENGTH) == 0;
}

/* Where no root can be had for the new EPTP, nothing changes and L1 hears of it as of an entry that can't be used; unless other vCPUs hold for a moment what
 * it is to be made of: L2 tries again. */
static enum route switch_eptp(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t eptp12, uint16_t index) {
    uint64_t before = v->value[NVMX_F_EPT_POINTER];

    v->value[NVMX_F_EPT_POINTER] = eptp12;
    enum nvmx_status status = merge_switch_ept(vcpu, v);
    if (status != NVMX_OK) {
        bool again = room_will_come(vcpu);

        v->value[NVMX_F_EPT_POINTER] = before;
        status = merge_switch_ept(vcpu, v);
        if (status == NVMX_OK && again) {
            status = l2_set_rf(vcpu);
        }
        return status != NVMX_OK ? ROUTE_FAILED : again ? ROUTE_DONE : ROUTE_L1;
    }
    if (nvmx_set_has(&vcpu->vm->exists, NVMX_F_EPTP_INDEX)) {
        v->value[NVMX_F_EPTP_INDEX] = index;
    }
    return l2_skip(vcpu) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

enum route route_vm_function(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool hardware) {
    uint32_t function = (uint32_t)vcpu->regs->gpr[NVMX_RAX];
    uint32_t index = (uint32_t)vcpu->regs->gpr[NVMX_RCX];
    uint64_t eptp12 = 0;

    if ((secondary_controls(v) & PROC2_VM_FUNCTIONS) == 0) {
        return ROUTE_HOST;
    }
    if (function != FUNCTION_EPTP_SWITCHING || !enabled(v, function) || !listed_eptp(vcpu, v, index, &eptp12)) {
        return ROUTE_L1;
    }
    return hardware ? switch_eptp(vcpu, v, eptp12, (uint16_t)index) : ROUTE_HOST;
}
