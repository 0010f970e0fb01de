/* SPDX-License-Identifier: MIT */
/* The exit table, and the reading of what an exit left in vmcs02. */
#include "exits.h"

/* Bit 10 of the instruction information of VMREAD, VMWRITE and accesses to LDTR or TR (SDM 30.2.5). */
#define INFORMATION_REGISTER (1u << 10)

static const struct exit_row rows[NVMX_EXIT_REASONS] = {
#define EXIT(number, name, text, who, bit, information) [number] = {WHO_##who, (bit), (information)},
#include <nvmx/exits.def>
#undef EXIT
};

static const char *const names[NVMX_EXIT_REASONS] = {
#define EXIT(number, name, text, who, bit, information) [number] = text,
#include <nvmx/exits.def>
#undef EXIT
};

const struct exit_row *exit_row(uint32_t basic_reason) {
    return basic_reason < NVMX_EXIT_REASONS ? &rows[basic_reason] : NULL;
}

const char *nvmx_exit_name(uint32_t basic_reason) {
    return basic_reason < NVMX_EXIT_REASONS ? names[basic_reason] : "unknown";
}

static void store(struct nvmx_l2_exit_info *info, uint32_t flag, uint64_t value) {
    switch (flag) {
    case INFO_Q:
        info->qualification = value;
        break;
    case INFO_L:
        info->guest_linear_address = value;
        break;
    case INFO_P:
        info->guest_physical_address = value;
        break;
    case INFO_V:
        info->interruption_info = (uint32_t)value;
        break;
    case INFO_O:
        info->idt_vectoring_info = (uint32_t)value;
        break;
    case INFO_N:
        info->instruction_length = (uint32_t)value;
        break;
    case INFO_I:
        info->instruction_info = (uint32_t)value;
        break;
    default:
        info->msr_data = value;
        break;
    }
}

/* The error codes are read only if the event says that it has one. */
static enum nvmx_status error_codes(struct nvmx_vcpu *vcpu, struct nvmx_l2_exit_info *info) {
    uint64_t value;
    enum nvmx_status status = NVMX_OK;

    if ((info->interruption_info & (EVENT_VALID | EVENT_ERROR_CODE)) == (EVENT_VALID | EVENT_ERROR_CODE)) {
        status = host_read(vcpu, NVMX_F_VM_EXIT_INTERRUPTION_ERROR_CODE, &value);
        info->interruption_error_code = status == NVMX_OK ? (uint32_t)value : 0;
    }
    if (status == NVMX_OK &&
        (info->idt_vectoring_info & (EVENT_VALID | EVENT_ERROR_CODE)) == (EVENT_VALID | EVENT_ERROR_CODE)) {
        status = host_read(vcpu, NVMX_F_IDT_VECTORING_ERROR_CODE, &value);
        info->idt_vectoring_error_code = status == NVMX_OK ? (uint32_t)value : 0;
    }
    return status;
}

/*
 * SDM 30.2.1: of an instruction without a displacement, such as one whose operand is a register, the qualification is
 * zero. Bochs leaves there what its decoder happens to hold.
 */
static bool has_no_displacement(const struct nvmx_l2_exit_info *info) {
    uint32_t reason = info->reason & 0xffff;

    return (reason == NVMX_EXIT_VMREAD || reason == NVMX_EXIT_VMWRITE || reason == NVMX_EXIT_LDTR_TR) &&
           (info->instruction_info & INFORMATION_REGISTER) != 0;
}

enum nvmx_status exit_information(struct nvmx_vcpu *vcpu, const struct exit_row *row, struct nvmx_l2_exit_info *info) {
    /* In the order of the INFO_ bits. */
    static const uint32_t encodings[] = {
        NVMX_VMCS_EXIT_QUALIFICATION,
        NVMX_VMCS_GUEST_LINEAR_ADDRESS,
        NVMX_VMCS_GUEST_PHYSICAL_ADDRESS,
        NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO,
        NVMX_VMCS_IDT_VECTORING_INFO,
        NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH,
        NVMX_VMCS_VM_EXIT_INSTRUCTION_INFORMATION,
        NVMX_VMCS_MSR_DATA,
    };
    uint32_t encoding[sizeof(encodings) / sizeof(encodings[0])];
    uint64_t value[sizeof(encodings) / sizeof(encodings[0])];
    uint32_t information = row->information;
    uint32_t count = 0;

    /* The exits that have MSR data come from processors that have the field. */
    if ((information & INFO_D) != 0 && !nvmx_set_has(&vcpu->vm->machine_fields, NVMX_F_MSR_DATA)) {
        information &= ~INFO_D;
    }
    if (information == 0) {
        return NVMX_OK;
    }
    if (row->information == INFO_N) { /* most instructions */
        uint64_t length = 0;
        enum nvmx_status status = host_read_encoded(vcpu, 1, &encodings[5], &length);
        info->instruction_length = (uint32_t)length;
        return status;
    }
    for (uint32_t left = information; left != 0; left &= left - 1) {
        encoding[count++] = encodings[__builtin_ctz(left)];
    }
    enum nvmx_status status = host_read_encoded(vcpu, count, encoding, value);
    if (status != NVMX_OK) {
        return status;
    }
    count = 0;
    for (uint32_t left = information; left != 0; left &= left - 1) {
        store(info, left & (0u - left), value[count++]);
    }
    if ((row->information & INFO_I) != 0 && has_no_displacement(info)) {
        info->qualification = 0;
    }
    return (row->information & (INFO_V | INFO_O)) != 0 ? error_codes(vcpu, info) : NVMX_OK;
}

/* The same of a violation whose fields were read before. */
enum nvmx_status violation_information(struct nvmx_vcpu *vcpu, struct nvmx_l2_exit_info *info) {
    const uint64_t *value = vcpu->violation.value;

    info->qualification = value[0];
    info->guest_linear_address = value[1];
    info->guest_physical_address = value[2];
    info->idt_vectoring_info = (uint32_t)value[3];
    info->instruction_length = (uint32_t)value[4];
    return error_codes(vcpu, info);
}
