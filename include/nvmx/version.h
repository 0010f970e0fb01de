/* SPDX-License-Identifier: MIT */
#ifndef NVMX_VERSION_H
#define NVMX_VERSION_H

#include <nvmx/types.h>

#define NVMX_VERSION_MAJOR 0
#define NVMX_VERSION_MINOR 1
#define NVMX_VERSION_PATCH 0

NVMX_BEGIN_C

/* Version of the library that is linked: major * 10000 + minor * 100 + patch. */
NVMX_API uint32_t nvmx_version(void);
/* The same as text: "0.1.0"; static storage. */
NVMX_API const char *nvmx_version_text(void);

NVMX_END_C

#endif
