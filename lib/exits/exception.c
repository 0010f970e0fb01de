/* SPDX-License-Identifier: MIT */
/* Exceptions that the library finds in L2, which hardware did not raise: to L2, or as an exit to L1. */
#include "exits.h"
#include "vmcs/memory.h"

#define VECTOR_UNDEFINED 6

/* A fault leaves RFLAGS.RF set, in the image that it pushes or that the exit saves (SDM 19.3.1.1, 30.3.3). */
enum nvmx_status l2_set_rf(struct nvmx_vcpu *vcpu) {
    uint64_t rflags;
    enum nvmx_status status = host_read(vcpu, NVMX_F_GUEST_RFLAGS, &rflags);

    return status == NVMX_OK ? host_write(vcpu, NVMX_F_GUEST_RFLAGS, rflags | RFLAGS_RF) : status;
}

static enum nvmx_status inject(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *event) {
    enum nvmx_status status = host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, event->interruption_info);

    if (status == NVMX_OK && (event->interruption_info & EVENT_ERROR_CODE) != 0) {
        status = host_write(vcpu, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE, event->interruption_error_code);
    }
    return status;
}

enum route route_fault(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct l1_fault *fault,
                       struct nvmx_l2_exit_info *info) {
    struct nvmx_l2_exit_info event = {
        .reason = NVMX_EXIT_EXCEPTION_OR_NMI,
        .interruption_info = EVENT_VALID | EVENT_HARDWARE_EXCEPTION | (uint8_t)fault->vector,
        .qualification = fault->vector == VECTOR_PAGE_FAULT ? fault->cr2 : 0,
    };
    uint64_t cr0 = 0;

    if (l2_set_rf(vcpu) != NVMX_OK || (fault->has_error_code && host_read(vcpu, NVMX_F_GUEST_CR0, &cr0) != NVMX_OK)) {
        return ROUTE_FAILED;
    }
    /* A real-mode L2 gets no error code, and an exit tells none (SDM 29.2.1.3, 30.2.2). */
    if ((cr0 & CR0_PE) != 0) {
        event.interruption_info |= EVENT_ERROR_CODE;
        event.interruption_error_code = fault->error_code;
    }
    if (exception_exits_to_l1(v, &event)) {
        *info = event;
        return ROUTE_L1;
    }
    if (fault->vector == VECTOR_PAGE_FAULT) {
        vcpu->regs->cr2 = fault->cr2;
    }
    return inject(vcpu, &event) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

/* SDM 7.15, 10.1.2.3: without CR0.AM, RFLAGS.AC and CPL 3 it is no misaligned access but a split lock, which the host has its processor detect. */
enum route route_alignment_check(struct nvmx_vcpu *vcpu) {
    static const uint8_t slots[] = {NVMX_F_GUEST_CR0, NVMX_F_GUEST_RFLAGS, NVMX_F_GUEST_SS_ACCESS_RIGHTS};
    uint64_t value[3];

    if ((vcpu->host_control[NVMX_F_EXCEPTION_BITMAP] & (UINT64_C(1) << VECTOR_ALIGNMENT)) == 0) {
        return ROUTE_L1;
    }
    if (host_read_many(vcpu, 3, slots, value) != NVMX_OK) {
        return ROUTE_FAILED;
    }
    bool enabled = (value[0] & CR0_AM) != 0 && (value[1] & RFLAGS_AC) != 0 && (value[2] & RIGHTS_DPL) == RIGHTS_DPL;
    return enabled ? ROUTE_L1 : ROUTE_HOST;
}

enum route route_if_offered(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, unsigned int ept_vpid_bit,
                            struct nvmx_l2_exit_info *info, bool hardware) {
    if (((vcpu->vm->caps.msr[NVMX_CAP_EPT_VPID] >> ept_vpid_bit) & 1) != 0) {
        return ROUTE_L1;
    }
    return hardware ? route_fault(vcpu, v, &(struct l1_fault){.vector = VECTOR_UNDEFINED}, info) : ROUTE_HOST;
}
