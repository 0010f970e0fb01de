/* SPDX-License-Identifier: MIT */
/* Where KVM keeps the fields of a vmcs12 of revision 11E57ED0H: the layout is part of Linux's user ABI and does not change. */
#include <nvmx/state_kvm.h>

#include <string.h>

#define LAUNCH_STATE 8

/* Fields that follow each other in both orders: `count` of them from `first`, each `step` bytes on. */
struct run {
    uint16_t offset;
    uint8_t step;
    uint8_t count;
    uint16_t first; /* slot */
};

static const struct run runs[] = {
    /* 64-bit */
    {40, 8, 6, NVMX_F_IO_BITMAP_A_ADDRESS},
    {88, 8, 1, NVMX_F_TSC_OFFSET},
    {96, 8, 3, NVMX_F_VIRTUAL_APIC_ADDRESS},
    {120, 8, 5, NVMX_F_EPT_POINTER},
    {160, 8, 1, NVMX_F_XSS_EXITING_BITMAP},
    {168, 8, 1, NVMX_F_GUEST_PHYSICAL_ADDRESS},
    {176, 8, 10, NVMX_F_VMCS_LINK_POINTER},
    {256, 8, 3, NVMX_F_HOST_PAT},
    {280, 8, 2, NVMX_F_VMREAD_BITMAP_ADDRESS},
    {296, 8, 1, NVMX_F_VM_FUNCTION_CONTROLS},
    {304, 8, 1, NVMX_F_EPTP_LIST_ADDRESS},
    {312, 8, 1, NVMX_F_PML_ADDRESS},
    {320, 8, 1, NVMX_F_ENCLS_EXITING_BITMAP},
    {328, 8, 1, NVMX_F_TSC_MULTIPLIER},
    /* natural width; the CR3 targets only in older kernels */
    {344, 8, 8, NVMX_F_CR0_GUEST_HOST_MASK},
    {408, 8, 1, NVMX_F_EXIT_QUALIFICATION},
    {416, 8, 1, NVMX_F_GUEST_LINEAR_ADDRESS},
    {424, 8, 20, NVMX_F_GUEST_CR0},
    {584, 8, 12, NVMX_F_HOST_CR0},
    /* 32-bit */
    {744, 4, 16, NVMX_F_PIN_BASED_CONTROLS},
    {808, 4, 8, NVMX_F_VM_INSTRUCTION_ERROR},
    {840, 4, 20, NVMX_F_GUEST_ES_LIMIT},
    {920, 4, 1, NVMX_F_GUEST_SYSENTER_CS},
    {924, 4, 1, NVMX_F_HOST_SYSENTER_CS},
    {928, 4, 1, NVMX_F_PREEMPTION_TIMER_VALUE},
    /* 16-bit */
    {960, 2, 2, NVMX_F_VPID},
    {964, 2, 9, NVMX_F_GUEST_ES_SELECTOR},
    {982, 2, 7, NVMX_F_HOST_ES_SELECTOR},
    {996, 2, 1, NVMX_F_PML_INDEX},
};

void nvmx_kvm_layout(struct nvmx_vmcs12_layout *out) {
    memset(out, 0, sizeof(*out));
    out->revision = NVMX_KVM_REVISION;
    out->launch_state = LAUNCH_STATE;
    for (unsigned int i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        for (unsigned int k = 0; k < runs[i].count; k++) {
            out->offset[runs[i].first + k] = (uint16_t)(runs[i].offset + k * runs[i].step);
        }
    }
}
