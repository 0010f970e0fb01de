/* SPDX-License-Identifier: MIT */
/* VMREAD and VMWRITE of L2: an exit of L1's, or an access to L1's shadow VMCS that ends here (SDM 27.10). */
#include "exits.h"
#include "vmcs/memory.h"

/* L2 tries again. */
static enum route once_more(struct nvmx_vcpu *vcpu) {
    return l2_set_rf(vcpu) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

/* The operand's memory is not there for L2: what L1 gets is what the access itself would have given. */
static enum route operand_denied(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct l2_memory *memory,
                                 struct nvmx_l2_exit_info *info) {
    if (memory->verdict == NVMX_EPT_FAILED) {
        return once_more(vcpu); /* L1 keeps changing the entries */
    }
    *info = (struct nvmx_l2_exit_info){
        .reason = NVMX_EXIT_EPT_VIOLATION,
        .instruction_length = info->instruction_length,
        .guest_linear_address = memory->linear,
        .guest_physical_address = memory->access.gpa2,
    };
    return l2_set_rf(vcpu) == NVMX_OK ? route_ept_verdict(vcpu, v, memory->verdict, &memory->fault, info) : ROUTE_FAILED;
}

enum route route_shadow_vmcs(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, struct nvmx_l2_exit_info *info,
                             bool hardware) {
    struct nvmx_ept_log log;
    struct l2_memory memory = {.access = ept12_of(v, &log), .ept = (secondary_controls(v) & PROC2_EPT) != 0};
    struct l1_fault fault = {.vector = -1};

    if ((secondary_controls(v) & PROC2_VMCS_SHADOWING) == 0) {
        return ROUTE_L1;
    }
    enum l2_instruction result = instruction_of_l2(vcpu, reason, info->instruction_info, hardware, &fault, &memory);
    if (memory.access.log != NULL) {
        v->value[NVMX_F_PML_INDEX] = log.index;
    }
    switch (result) {
    case L2_INSTRUCTION_EXITS:
        return ROUTE_L1;
    case L2_INSTRUCTION_STAYS:
        return ROUTE_HOST;
    case L2_INSTRUCTION_DONE:
        return ROUTE_DONE;
    case L2_INSTRUCTION_RETRY:
        return once_more(vcpu);
    case L2_INSTRUCTION_FAULT:
        return route_fault(vcpu, v, &fault, info);
    case L2_INSTRUCTION_EPT:
        return operand_denied(vcpu, v, &memory, info);
    default:
        return ROUTE_FAILED;
    }
}
