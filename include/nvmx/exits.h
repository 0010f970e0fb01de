/* SPDX-License-Identifier: MIT */
/* The table of VM-exit reasons (SDM appendix C). Pure. */
#ifndef NVMX_EXITS_H
#define NVMX_EXITS_H

#include <nvmx/types.h>

/* NVMX_EXIT_CPUID == 10 */
enum nvmx_exit_reason {
#define EXIT(number, name, text, who, bit, information) NVMX_EXIT_##name = number,
#include <nvmx/exits.def>
#undef EXIT
    NVMX_EXIT_REASONS,
};

/* Bit 31 of the exit-reason field: the VM entry failed. */
#define NVMX_EXIT_ENTRY_FAILURE 0x80000000u

NVMX_BEGIN_C

/* The reason's name as the SDM has it; "unknown" for numbers past the table. Static storage. */
NVMX_API const char *nvmx_exit_name(uint32_t basic_reason);

NVMX_END_C

#endif
