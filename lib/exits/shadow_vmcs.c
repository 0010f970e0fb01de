/* SPDX-License-Identifier: MIT */
/* VMREAD and VMWRITE of L2: an exit of L1's, or an access to L1's shadow VMCS that ends here (SDM 27.10). */
#include "exits.h"
#include "vmcs/memory.h"

/* L2 tries again. */
static enum route once_more(struct nvmx_vcpu *vcpu) {
    return l2_set_rf(vcpu) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

#define APIC_ACCESS_WRITE          (UINT64_C(1) << 12) /* linear; a read is 0 (SDM table 30-6) */
#define APIC_ACCESS_GUEST_PHYSICAL (UINT64_C(15) << 12)

/* An operand of 64 bits is never virtualized (SDM 32.4.2, 32.4.3), nor are L2's page tables. One of 32 bits might be, where the APIC's registers are: L1 gets
 * it all the same, as it would an access of another size. */
static enum route apic_access(struct nvmx_vcpu *vcpu, const struct l2_memory *memory, struct nvmx_l2_exit_info *info) {
    uint64_t linear = (memory->linear & (NVMX_PAGE_SIZE - 1)) | ((memory->access.qualification & NVMX_ACCESS_WRITE) != 0 ? APIC_ACCESS_WRITE : 0);
    bool final = (memory->access.qualification & QUALIFICATION_FINAL) != 0;

    *info = (struct nvmx_l2_exit_info){
        .reason = NVMX_EXIT_APIC_ACCESS,
        .instruction_length = info->instruction_length,
        .qualification = final ? linear : APIC_ACCESS_GUEST_PHYSICAL,
    };
    return l2_set_rf(vcpu) == NVMX_OK ? ROUTE_L1 : ROUTE_FAILED;
}

/* The operand's memory is not there for L2: what L1 gets is what the access itself would have given. */
static enum route operand_denied(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct l2_memory *memory,
                                 struct nvmx_l2_exit_info *info) {
    if (memory->apic_access) {
        return apic_access(vcpu, memory, info);
    }
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
    struct l2_memory memory = {.access = ept12_of(v, &log),
                               .ept = (secondary_controls(v) & PROC2_EPT) != 0,
                               .apic_access_gpa1 = NVMX_NO_ADDRESS};
    struct l1_fault fault = {.vector = -1};

    if ((secondary_controls(v) & PROC2_VMCS_SHADOWING) == 0) {
        return ROUTE_L1;
    }
    if ((secondary_controls(v) & PROC2_APIC_ACCESSES) != 0) {
        memory.apic_access_gpa1 = v->value[NVMX_F_APIC_ACCESS_ADDRESS];
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
