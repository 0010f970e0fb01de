/* SPDX-License-Identifier: MIT */
#ifndef CALLBACKS_H
#define CALLBACKS_H

#include <nvmx/nvmx.h>

/* For nvmx_vm_init. The context of the vCPU's callbacks is its struct cpu; that of the VM's is not used. */
extern const struct nvmx_host callbacks;

#endif
