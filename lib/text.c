/* SPDX-License-Identifier: MIT */
/* Version and status codes as text. */
#include <nvmx/nvmx.h>

#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

uint32_t nvmx_version(void) {
    return NVMX_VERSION_MAJOR * 10000u + NVMX_VERSION_MINOR * 100u + NVMX_VERSION_PATCH;
}

const char *nvmx_version_text(void) {
    return TEXT(NVMX_VERSION_MAJOR) "." TEXT(NVMX_VERSION_MINOR) "." TEXT(NVMX_VERSION_PATCH);
}

const char *nvmx_status_text(enum nvmx_status status) {
    static const char *const text[] = {
        [NVMX_OK] = "success",
        [NVMX_E_INVALID] = "an argument breaks the documented contract",
        [NVMX_E_SIZE] = "the caller's memory is too small, or a size member is unknown",
        [NVMX_E_UNMAPPED] = "there is no memory at that address",
        [NVMX_E_NO_MEMORY] = "the host's page allocator is exhausted",
        [NVMX_E_DENIED] = "the host refuses",
        [NVMX_E_UNSUPPORTED] = "the host has no such service",
        [NVMX_E_HOST] = "the host failed",
    };
    return (unsigned int)status < sizeof(text) / sizeof(text[0]) ? text[status] : "unknown status";
}
