/* SPDX-License-Identifier: MIT */
#ifndef CALLBACKS_H
#define CALLBACKS_H

#include <nvmx/nvmx.h>

/* For nvmx_vm_init. The context of the vCPU's callbacks is its struct cpu; that of the VM's is not used. */
extern const struct nvmx_host callbacks;

/* How often the library called each through the table: for stats.c. Calls that it makes through inline.h it counts
 * itself. */
enum callback {
    CALLBACK_MAP_PAGE,
    CALLBACK_UNMAP_PAGE,
    CALLBACK_EPT01_LOOKUP,
    CALLBACK_PAGE_ALLOC,
    CALLBACK_PAGE_FREE,
    CALLBACK_PAGE_POINTER,
    CALLBACK_VMCS_SELECT,
    CALLBACK_VMCS_RESET,
    CALLBACK_VMCS_READ,
    CALLBACK_VMCS_WRITE,
    CALLBACK_TLB_FLUSH,
    CALLBACK_MSR_READ,
    CALLBACK_MSR_WRITE,
    CALLBACK_COUNT,
};
extern uint64_t callback_calls[CALLBACK_COUNT];

#endif
