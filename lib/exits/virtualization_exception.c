/* SPDX-License-Identifier: MIT */
/*
 * EPT-violation #VE (SDM 28.5.8). vmcs02 has no such control: ept02 is not ept12, and violations of the two are not the same. What ept12 denies
 * is turned into exception 20 here, when the library finds it.
 */
#include "exits.h"

#include <string.h>

#define VECTOR_VE 20u

/* The virtualization-exception information area. */
#define AREA_BUSY 4u
#define AREA_BYTES 34u
#define BUSY UINT32_MAX

/* False: software has not dealt with the last exception yet, or there is no memory, which reads as all ones. */
static bool fill_area(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct nvmx_l2_exit_info *info) {
    uint64_t gpa1 = v->value[NVMX_F_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS];
    uint8_t *area = host_map(vcpu, gpa1, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, NULL);
    const struct {
        uint32_t reason, busy;
        uint64_t qualification, linear, physical;
        uint16_t eptp_index;
    } content = {
        .reason = NVMX_EXIT_EPT_VIOLATION,
        .busy = BUSY,
        .qualification = info->qualification,
        .linear = info->guest_linear_address,
        .physical = info->guest_physical_address,
        .eptp_index = (uint16_t)v->value[NVMX_F_EPTP_INDEX],
    };
    uint32_t busy = BUSY;

    if (area == NULL) {
        return false;
    }
    memcpy(&busy, area + AREA_BUSY, sizeof(busy));
    if (busy == 0) {
        memcpy(area, &content, AREA_BYTES);
    }
    host_unmap(vcpu, gpa1, area, busy == 0);
    return busy == 0;
}

enum route convert_violation(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct nvmx_l2_exit_info *info) {
    uint32_t unblocking = (uint32_t)info->qualification & QUALIFICATION_NMI_UNBLOCKING;
    uint32_t event = EVENT_VALID | EVENT_HARDWARE_EXCEPTION | VECTOR_VE;
    uint64_t cr0;

    if ((info->idt_vectoring_info & EVENT_VALID) != 0 || (info->qualification & QUALIFICATION_ASYNCHRONOUS) != 0) {
        return ROUTE_L1;
    }
    if (host_read(vcpu, NVMX_F_GUEST_CR0, &cr0) != NVMX_OK) {
        return ROUTE_FAILED;
    }
    if ((cr0 & CR0_PE) == 0 || !fill_area(vcpu, v, info)) {
        return ROUTE_L1;
    }
    struct nvmx_l2_exit_info exception = {
        .reason = NVMX_EXIT_EXCEPTION_OR_NMI,
        .interruption_info = event | unblocking,
    };
    if (exception_exits_to_l1(v, &exception)) {
        *info = exception;
        return ROUTE_L1;
    }
    return host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, event) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}
