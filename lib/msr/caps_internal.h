/* SPDX-License-Identifier: MIT */
/* Internal: what the capabilities tell beyond the public header. */
#ifndef NVMX_LIB_MSR_CAPS_INTERNAL_H
#define NVMX_LIB_MSR_CAPS_INTERNAL_H

#include <nvmx/caps.h>

/* Does RDMSR of 480H + place work under these capabilities (SDM appendix A)? place < NVMX_CAP_MSRS. */
bool caps_msr_exists(const struct nvmx_caps *caps, unsigned int place);

#endif
