/* SPDX-License-Identifier: MIT */
/* The exit table, and the reading of what an exit left in vmcs02. */
#include "exits.h"

/* Bit 10 of the instruction information of VMREAD, VMWRITE and accesses to LDTR or TR (SDM 30.2.5). */
#define INFORMATION_REGISTER (1u << 10)

static const struct exit_row rows[NVMX_EXIT_REASONS] = {
#define EXIT(number, name, text, who, bit, information) [number] = {WHO_##who, (bit), INFORMATION(information)},
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

/* In the order of the INFO_ bits: bit, field, member of *info and its type. */
#define FIELDS_OF_INFORMATION(X)                                                                                                 \
    X(INFO_Q, EXIT_QUALIFICATION, qualification, uint64_t)                                                             \
    X(INFO_L, GUEST_LINEAR_ADDRESS, guest_linear_address, uint64_t)                                                    \
    X(INFO_P, GUEST_PHYSICAL_ADDRESS, guest_physical_address, uint64_t)                                                \
    X(INFO_V, VM_EXIT_INTERRUPTION_INFO, interruption_info, uint32_t)                                                  \
    X(INFO_O, IDT_VECTORING_INFO, idt_vectoring_info, uint32_t)                                                        \
    X(INFO_N, VM_EXIT_INSTRUCTION_LENGTH, instruction_length, uint32_t)                                                \
    X(INFO_I, VM_EXIT_INSTRUCTION_INFORMATION, instruction_info, uint32_t)                                             \
    X(INFO_D, MSR_DATA, msr_data, uint64_t)

/* Straight code where `information` is a constant. */
static inline __attribute__((always_inline)) enum nvmx_status
read_information(struct nvmx_vcpu *vcpu, uint32_t information, struct nvmx_l2_exit_info *info) {
    uint32_t encoding[8];
    uint64_t value[8];
    uint32_t count = 0;

#define X(bit, name, member, type)                                                                                     \
    if ((information & (bit)) != 0) {                                                                                  \
        encoding[count++] = NVMX_VMCS_##name;                                                                          \
    }
    FIELDS_OF_INFORMATION(X)
#undef X
    enum nvmx_status status = host_read_encoded(vcpu, count, encoding, value);
    if (RARE(status != NVMX_OK)) {
        return status;
    }
    count = 0;
#define X(bit, name, member, type)                                                                                     \
    if ((information & (bit)) != 0) {                                                                                  \
        info->member = (type)value[count++];                                                                           \
    }
    FIELDS_OF_INFORMATION(X)
#undef X
    if ((information & INFO_I) != 0 && has_no_displacement(info)) {
        info->qualification = 0;
    }
    return (information & (INFO_V | INFO_O)) != 0 ? error_codes(vcpu, info) : NVMX_OK;
}

/* Any combination; the exits that have MSR data come from processors that have the field. */
static COLD enum nvmx_status read_any_information(struct nvmx_vcpu *vcpu, uint32_t information,
                                                  struct nvmx_l2_exit_info *info) {
    if (!nvmx_set_has(&vcpu->vm->machine_fields, NVMX_F_MSR_DATA)) {
        information &= ~INFO_D;
    }
    return information != 0 ? read_information(vcpu, information, info) : NVMX_OK;
}

enum nvmx_status exit_information(struct nvmx_vcpu *vcpu, const struct exit_row *row, struct nvmx_l2_exit_info *info) {
#define STRAIGHT_FOR(combination)                                                                                      \
    case (combination):                                                                                                \
        return read_information(vcpu, (combination), info)

    switch (row->information & ~INFO_INSTRUCTION) {
    case 0:
        return NVMX_OK;
        STRAIGHT_FOR(INFO_N);                                     /* most instructions */
        STRAIGHT_FOR(INFO_Q | INFO_N);                            /* WRMSR, INVLPG, MOV DR */
        STRAIGHT_FOR(INFO_Q | INFO_L | INFO_N);                   /* control registers */
        STRAIGHT_FOR(INFO_Q | INFO_L | INFO_N | INFO_I);          /* I/O */
        STRAIGHT_FOR(INFO_Q | INFO_V | INFO_O | INFO_N);          /* exceptions */
        STRAIGHT_FOR(INFO_Q | INFO_L | INFO_P | INFO_O | INFO_N); /* EPT violations */
    default:
        return read_any_information(vcpu, row->information, info);
    }
#undef STRAIGHT_FOR
}

/* The same of a violation whose fields were read before. */
enum nvmx_status violation_information(struct nvmx_vcpu *vcpu, struct nvmx_l2_exit_info *info) {
    const uint64_t *value = vcpu->violation.value;

    info->qualification = value[VIOLATION_QUALIFICATION];
    info->guest_linear_address = value[VIOLATION_LINEAR_ADDRESS];
    info->guest_physical_address = value[VIOLATION_GPA2];
    info->idt_vectoring_info = (uint32_t)value[VIOLATION_VECTORING_INFO];
    info->instruction_length = (uint32_t)value[VIOLATION_INSTRUCTION_LENGTH];
    return error_codes(vcpu, info);
}
