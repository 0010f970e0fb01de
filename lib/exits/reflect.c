/* SPDX-License-Identifier: MIT */
/* Giving L1 an exit of L2 (SDM 30), or the failure of its VM entry (SDM 29.8). */
#include "exits.h"

#include "vmcs/shadow.h"

#define VMX_ABORT_MSR_STORE 1u
#define VMX_ABORT_MSR_LOAD 4u
/* Exit-reason bits that a CPU sets beside the basic reason and that L1 may see: bit 27, enclave mode. */
#define REASON_ENCLAVE 0x08000000u

static enum nvmx_next vmx_abort(struct nvmx_vcpu *vcpu, uint32_t indicator) {
    vmcs12_abort(vcpu, indicator);
    vcpu->mode = NVMX_MODE_ROOT;
    return stop(vcpu, NVMX_STOP_VMX_ABORT, NVMX_OK);
}

/* SDM 31.4.3.1: transitions without VPIDs drop what VPID 0 tagged, which is L1's own. */
static void flush_vpid_of_l1(struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    if ((secondary_controls(v) & PROC2_VPID) != 0) {
        return;
    }
    bool host_uses_vpids = (vcpu->host_control[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 &&
                           (vcpu->host_control[NVMX_F_SECONDARY_CONTROLS] & PROC2_VPID) != 0;

    if (host_uses_vpids) {
        host_flush(vcpu, NVMX_FLUSH_VPID, vcpu->host_control[NVMX_F_VPID], 0);
    }
}

/* L1's state is loaded, or not: from there to L1's first instruction. */
static inline enum nvmx_next resume_l1(struct nvmx_vcpu *vcpu, struct vmcs12 *v, enum nvmx_status status,
                                       uint32_t abort_indicator) {
    vcpu->mode = NVMX_MODE_ROOT;
    vcpu->entry_pending = false;
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (RARE(abort_indicator != 0)) {
        return vmx_abort(vcpu, abort_indicator);
    }
    uint32_t count = (uint32_t)v->value[NVMX_F_VM_EXIT_MSR_LOAD_COUNT];
    if (count != 0 && msr_list_load(vcpu, v->value[NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS], count) != 0) {
        return vmx_abort(vcpu, VMX_ABORT_MSR_LOAD);
    }
    flush_vpid_of_l1(vcpu, v);
    host_speculation_barrier(vcpu, false);
    return NVMX_ENTER;
}

static uint64_t store_rest(struct vmcs12 *v, uint32_t information, const struct nvmx_l2_exit_info *info) {
    uint64_t behind = 0;

    if ((v->value[NVMX_F_VM_EXIT_INTERRUPTION_INFO] & EVENT_ERROR_CODE) != 0) {
        SHOW(behind, v, VM_EXIT_INTERRUPTION_ERROR_CODE, info->interruption_error_code);
    }
    if ((v->value[NVMX_F_IDT_VECTORING_INFO] & EVENT_ERROR_CODE) != 0) {
        SHOW(behind, v, IDT_VECTORING_ERROR_CODE, info->idt_vectoring_error_code);
    }
    if ((information & INFO_I) != 0) {
        SHOW(behind, v, VM_EXIT_INSTRUCTION_INFORMATION, info->instruction_info);
    }
    if ((information & INFO_L) != 0) {
        SHOW(behind, v, GUEST_LINEAR_ADDRESS, info->guest_linear_address);
    }
    if ((information & INFO_P) != 0) {
        SHOW(behind, v, GUEST_PHYSICAL_ADDRESS, info->guest_physical_address);
    }
    if ((information & INFO_D) != 0) {
        v->value[NVMX_F_MSR_DATA] = info->msr_data;
    }
    return behind;
}

/* Fields that the exit does not define keep what they held, except those that say whether others are valid. */
static inline void store_information(struct vmcs12 *v, uint32_t information, const struct nvmx_l2_exit_info *info) {
    uint64_t behind = 0;

    SHOW(behind, v, EXIT_REASON, info->reason & (0xffffu | REASON_BUS_LOCK | REASON_ENCLAVE));
    SHOW(behind, v, EXIT_QUALIFICATION, (information & INFO_Q) != 0 ? info->qualification : 0);
    SHOW(behind, v, VM_EXIT_INTERRUPTION_INFO, (information & INFO_V) != 0 ? info->interruption_info : 0);
    SHOW(behind, v, IDT_VECTORING_INFO, (information & INFO_O) != 0 ? info->idt_vectoring_info : 0);
    if ((information & INFO_N) != 0) {
        SHOW(behind, v, VM_EXIT_INSTRUCTION_LENGTH, info->instruction_length);
    }
    if ((information & ~(INFO_Q | INFO_N | INFO_INSTRUCTION)) != 0) {
        behind |= store_rest(v, information, info);
    }
    SHOW(behind, v, VM_ENTRY_INTERRUPTION_INFO, v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] & ~(uint64_t)EVENT_VALID);
    v->shadow_behind |= behind;
}

static bool is_nmi(const struct nvmx_l2_exit_info *info) {
    uint32_t event = info->interruption_info;

    return (info->reason & 0xffff) == NVMX_EXIT_EXCEPTION_OR_NMI && (event & EVENT_VALID) != 0 &&
           EVENT_TYPE(event) == EVENT_TYPE_NMI;
}

enum nvmx_next reflect(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t information,
                       const struct nvmx_l2_exit_info *info) {
    bool by_instruction = (information & INFO_INSTRUCTION) != 0;
    enum nvmx_status status = by_instruction ? sync_by_instruction(vcpu, v) : sync_from_vmcs02(vcpu, v);
    uint32_t abort_indicator;

    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    timer_end(vcpu, v);
    vcpu->bus_lock = false;
    store_information(v, information, info);
    vcpu->counts.reflected++;
    uint32_t count = (uint32_t)v->value[NVMX_F_VM_EXIT_MSR_STORE_COUNT];
    if (count != 0 && msr_list_store(vcpu, v->value[NVMX_F_VM_EXIT_MSR_STORE_ADDRESS], count) != 0) {
        return vmx_abort(vcpu, VMX_ABORT_MSR_STORE);
    }
    status = load_host_state(vcpu, v, is_nmi(info), &abort_indicator);
    enum nvmx_next next = resume_l1(vcpu, v, status, abort_indicator);
    if (next == NVMX_ENTER) {
        host_trace(vcpu, NVMX_TRACE_REFLECT, info->reason, info->qualification);
    }
    return next;
}

COLD enum nvmx_next reflect_entry_failure(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason,
                                          uint64_t qualification, bool loaded) {
    uint32_t abort_indicator;
    uint64_t behind = 0;

    SHOW(behind, v, EXIT_REASON, reason | NVMX_EXIT_ENTRY_FAILURE);
    SHOW(behind, v, EXIT_QUALIFICATION, qualification);
    v->shadow_behind |= behind;
    vcpu->counts.refused++;
    enum nvmx_status status = load_host_state_unentered(vcpu, v, loaded, &abort_indicator);
    enum nvmx_next next = resume_l1(vcpu, v, status, abort_indicator);
    if (next == NVMX_ENTER) {
        host_trace(vcpu, NVMX_TRACE_ENTRY_FAIL, reason, vcpu->last_check);
    }
    return next;
}
