/* SPDX-License-Identifier: MIT */
/* VMREAD and VMWRITE of L2: an exit of L1's, or an access to L1's shadow VMCS that ends here (SDM 27.10). */
#include "exits.h"
#include "vmcs/memory.h"

#define VECTOR_PAGE_FAULT 14
#define EVENT_HARDWARE_EXCEPTION (3u << 8)
#define RFLAGS_RF (UINT64_C(1) << 16)

/* A fault leaves RFLAGS.RF set, in the image that it pushes or that the exit saves (SDM 19.3.1.1, 30.3.3). */
static enum nvmx_status set_rf(struct nvmx_vcpu *vcpu) {
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

/* L2 gets the exception, or L1 the exit that its exception bitmap asks for; of a page fault that exits, CR2 does not know. */
static enum route deliver(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct l1_fault *fault,
                          struct nvmx_l2_exit_info *info) {
    struct nvmx_l2_exit_info event = {
        .reason = NVMX_EXIT_EXCEPTION_OR_NMI,
        .interruption_info = EVENT_VALID | EVENT_HARDWARE_EXCEPTION | (fault->has_error_code ? EVENT_ERROR_CODE : 0) |
                             (uint8_t)fault->vector,
        .interruption_error_code = fault->error_code,
        .qualification = fault->vector == VECTOR_PAGE_FAULT ? fault->cr2 : 0,
    };

    if (set_rf(vcpu) != NVMX_OK) {
        return ROUTE_FAILED;
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

/* The operand's memory is not there for L2: what L1 gets is what the access itself would have given. */
static enum route operand_denied(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct l2_memory *memory,
                                 struct nvmx_l2_exit_info *info) {
    if (memory->verdict == NVMX_EPT_FAILED) {
        return ROUTE_DONE; /* L1 keeps changing the entries: L2 tries again */
    }
    *info = (struct nvmx_l2_exit_info){
        .reason = NVMX_EXIT_EPT_VIOLATION,
        .guest_linear_address = memory->linear,
        .guest_physical_address = memory->access.gpa2,
    };
    return set_rf(vcpu) == NVMX_OK ? route_ept_verdict(vcpu, v, memory->verdict, &memory->fault, info) : ROUTE_FAILED;
}

enum route route_shadow_vmcs(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, struct nvmx_l2_exit_info *info,
                             bool hardware) {
    struct nvmx_ept_log log;
    struct l2_memory memory = {.access = ept12_of(v, &log), .ept = (secondary_controls(v) & PROC2_EPT) != 0};
    struct l1_fault fault = {.vector = -1};

    if ((secondary_controls(v) & PROC2_VMCS_SHADOWING) == 0) {
        return ROUTE_L1;
    }
    enum l2_instruction result = instruction_of_l2(vcpu, reason, hardware, &fault, &memory);
    if (memory.access.log != NULL) {
        v->value[NVMX_F_PML_INDEX] = log.index;
    }
    switch (result) {
    case L2_INSTRUCTION_EXITS:
        return ROUTE_L1;
    case L2_INSTRUCTION_STAYS:
        return ROUTE_HOST;
    case L2_INSTRUCTION_DONE:
    case L2_INSTRUCTION_RETRY:
        return ROUTE_DONE;
    case L2_INSTRUCTION_FAULT:
        return deliver(vcpu, v, &fault, info);
    case L2_INSTRUCTION_EPT:
        return operand_denied(vcpu, v, &memory, info);
    default:
        return ROUTE_FAILED;
    }
}
