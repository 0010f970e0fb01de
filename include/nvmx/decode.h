/* SPDX-License-Identifier: MIT */
/*
 * Operands of VMX instructions, in the form of the VM-exit instruction information (SDM 30.2.5, tables 30-8 to 30-18). Pure.
 */
#ifndef NVMX_DECODE_H
#define NVMX_DECODE_H

#include <nvmx/types.h>

enum nvmx_segment { NVMX_ES = 0, NVMX_CS, NVMX_SS, NVMX_DS, NVMX_FS, NVMX_GS };

#define NVMX_NO_REGISTER 0xffu

/* The operands of one VMX instruction. */
struct nvmx_operand {
    bool is_register;      /* the r/m operand is a register (VMREAD, VMWRITE only) */
    uint8_t rm_register;   /* if so: which */
    uint8_t base;          /* 0..15 or NVMX_NO_REGISTER */
    uint8_t index;         /* 0..15 or NVMX_NO_REGISTER */
    uint8_t scale;         /* shift: 0..3 */
    uint8_t address_bits;  /* 16, 32, 64; 0: the information is invalid */
    uint8_t segment;       /* enum nvmx_segment */
    uint8_t reg2;          /* register operand: INVEPT/INVVPID type, VMREAD/VMWRITE field encoding */
    int64_t displacement;  /* exit qualification: displacement, for RIP-relative already with the next RIP added */
};

NVMX_BEGIN_C

/* From the exit's instruction-information field and qualification. `basic_reason` is one of 19, 21-23, 25, 27, 50, 53. */
NVMX_API void nvmx_decode_information(uint32_t basic_reason, uint32_t information, uint64_t qualification,
                                      struct nvmx_operand *out);

#ifdef NVMX_HAVE_ZYDIS
/*
 * From the instruction's bytes, for CPUs that give no instruction information (software CPUs): fills the exit's basic reason, instruction
 * length, instruction-information field and qualification exactly as hardware would. `bits` is 16, 32 or 64; `rip` is the
 * instruction's own. NVMX_E_INVALID: not a VMX instruction. Hosted builds only (Zydis).
 */
NVMX_API enum nvmx_status nvmx_decode_bytes(const uint8_t *bytes, size_t length, unsigned int bits, uint64_t rip,
                                            uint32_t *basic_reason, uint32_t *instruction_length, uint32_t *information,
                                            uint64_t *qualification);
#endif

NVMX_END_C

#endif
