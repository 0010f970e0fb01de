/* SPDX-License-Identifier: MIT */
/* The exit table, and the reading of what an exit left in vmcs02. */
#include "exits.h"

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

enum nvmx_status exit_information(struct nvmx_vcpu *vcpu, const struct exit_row *row, struct nvmx_l2_exit_info *info) {
    static const struct {
        uint8_t flag;
        uint8_t slot;
    } fields[] = {
        {INFO_Q, NVMX_F_EXIT_QUALIFICATION},          {INFO_L, NVMX_F_GUEST_LINEAR_ADDRESS},
        {INFO_P, NVMX_F_GUEST_PHYSICAL_ADDRESS},      {INFO_V, NVMX_F_VM_EXIT_INTERRUPTION_INFO},
        {INFO_O, NVMX_F_IDT_VECTORING_INFO},          {INFO_N, NVMX_F_VM_EXIT_INSTRUCTION_LENGTH},
        {INFO_I, NVMX_F_VM_EXIT_INSTRUCTION_INFORMATION},
    };
    uint8_t slots[sizeof(fields) / sizeof(fields[0])];
    uint64_t value[sizeof(fields) / sizeof(fields[0])];
    uint64_t by_flag[8] = {0};
    uint32_t count = 0;

    for (unsigned int i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if ((row->information & fields[i].flag) != 0) {
            slots[count++] = fields[i].slot;
        }
    }
    enum nvmx_status status = host_read_many(vcpu, count, slots, value);
    if (status != NVMX_OK) {
        return status;
    }
    count = 0;
    for (unsigned int i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if ((row->information & fields[i].flag) != 0) {
            by_flag[i] = value[count++];
        }
    }
    info->qualification = by_flag[0];
    info->guest_linear_address = by_flag[1];
    info->guest_physical_address = by_flag[2];
    info->interruption_info = (uint32_t)by_flag[3];
    info->idt_vectoring_info = (uint32_t)by_flag[4];
    info->instruction_length = (uint32_t)by_flag[5];
    info->instruction_info = (uint32_t)by_flag[6];
    return error_codes(vcpu, info);
}
