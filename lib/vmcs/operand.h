/* SPDX-License-Identifier: MIT */
/* Internal: where the memory operand of a VMX instruction of L1 lies, and whether its segment allows the access. */
#ifndef NVMX_LIB_OPERAND_H
#define NVMX_LIB_OPERAND_H

#include "memory.h"

/* A memory operand. */
struct operand_access {
    const struct nvmx_operand *operand; /* decoded from the instruction information; its displacement is not used */
    uint32_t bytes;                     /* 4, 8 or 16 */
    bool write;
};

/*
 * The linear address of the operand, from the exit qualification of vmcs01 (selected; for an instruction of L2: vmcs02), the registers and the segment;
 * completes `paging`, whose long_mode, mode64 and smap_off the caller sets. Everything is read from vmcs01 in one batch
 * (a second one with PAE paging). A segment violation sets fault->vector (SDM 33.3: #GP(0), #SS(0) for SS), else it is
 * -1. Not NVMX_OK: vmcs01 can't be read.
 */
enum nvmx_status operand_linear(struct nvmx_vcpu *vcpu, const struct operand_access *access, struct l1_paging *paging,
                                uint64_t *linear, struct l1_fault *fault);

/* L1's general-purpose register; RSP lies in vmcs01 (selected). */
enum nvmx_status operand_register(struct nvmx_vcpu *vcpu, unsigned int number, uint64_t *value);

#endif
