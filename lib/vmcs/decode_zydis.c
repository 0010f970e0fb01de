/* SPDX-License-Identifier: MIT */
/* A VMX instruction's bytes in the form of the exit's information fields (SDM 30.2.5). Hosted builds only. */
#include <nvmx/decode.h>

#ifdef NVMX_HAVE_ZYDIS
#include <Zydis/Zydis.h>

/* Which r/m operand an instruction has. */
enum form { FORM_NONE, FORM_MEMORY, FORM_REG_MEMORY, FORM_RM };

static const struct {
    ZydisMnemonic mnemonic;
    uint8_t reason;
    uint8_t form;
    uint8_t rm;   /* which of the visible operands is r/m */
    uint8_t reg2; /* and which the register */
} instructions[] = {
    {ZYDIS_MNEMONIC_VMCALL, 18, FORM_NONE, 0, 0},       {ZYDIS_MNEMONIC_VMCLEAR, 19, FORM_MEMORY, 0, 0},
    {ZYDIS_MNEMONIC_VMLAUNCH, 20, FORM_NONE, 0, 0},     {ZYDIS_MNEMONIC_VMPTRLD, 21, FORM_MEMORY, 0, 0},
    {ZYDIS_MNEMONIC_VMPTRST, 22, FORM_MEMORY, 0, 0},    {ZYDIS_MNEMONIC_VMREAD, 23, FORM_RM, 0, 1},
    {ZYDIS_MNEMONIC_VMRESUME, 24, FORM_NONE, 0, 0},     {ZYDIS_MNEMONIC_VMWRITE, 25, FORM_RM, 1, 0},
    {ZYDIS_MNEMONIC_VMXOFF, 26, FORM_NONE, 0, 0},       {ZYDIS_MNEMONIC_VMXON, 27, FORM_MEMORY, 0, 0},
    {ZYDIS_MNEMONIC_INVEPT, 50, FORM_REG_MEMORY, 1, 0}, {ZYDIS_MNEMONIC_INVVPID, 53, FORM_REG_MEMORY, 1, 0},
    {ZYDIS_MNEMONIC_VMFUNC, 59, FORM_NONE, 0, 0},
};

static uint32_t register_number(ZydisRegister reg) {
    return (uint32_t)(uint8_t)ZydisRegisterGetId(reg) & 15u;
}

static uint32_t segment_number(ZydisRegister reg) {
    return (uint32_t)(uint8_t)ZydisRegisterGetId(reg) & 7u;
}

static uint32_t scale_shift(uint8_t scale) {
    return scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
}

static uint32_t memory_information(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operand,
                                   uint64_t next_rip, uint64_t *qualification) {
    const bool rip_relative = operand->mem.base == ZYDIS_REGISTER_RIP || operand->mem.base == ZYDIS_REGISTER_EIP;
    const uint32_t size = instruction->address_width == 64 ? 2 : instruction->address_width == 32 ? 1 : 0;
    uint32_t information = size << 7 | segment_number(operand->mem.segment) << 15;
    if (operand->mem.index == ZYDIS_REGISTER_NONE) {
        information |= 1u << 22;
    } else {
        information |= scale_shift(operand->mem.scale) | register_number(operand->mem.index) << 18;
    }
    if (operand->mem.base == ZYDIS_REGISTER_NONE || rip_relative) {
        information |= 1u << 27;
    } else {
        information |= register_number(operand->mem.base) << 23;
    }
    *qualification = (uint64_t)operand->mem.disp.value + (rip_relative ? next_rip : 0);
    return information;
}

static bool decoder_init(ZydisDecoder *decoder, unsigned int bits) {
    switch (bits) {
    case 16:
        return ZYAN_SUCCESS(ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16));
    case 32:
        return ZYAN_SUCCESS(ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32));
    case 64:
        return ZYAN_SUCCESS(ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
    default:
        return false;
    }
}

/* SDM tables 30-13 (memory), 30-14 (register or memory). Bits that hardware leaves undefined are 0. */
static void fill(size_t row, const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands,
                 uint64_t rip, uint32_t *information, uint64_t *qualification) {
    const ZydisDecodedOperand *rm = &operands[instructions[row].rm];
    *information = 0;
    *qualification = 0;
    if (instructions[row].form == FORM_NONE) {
        return;
    }
    if (rm->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        *information = 1u << 10 | register_number(rm->reg.value) << 3;
    } else {
        *information = memory_information(instruction, rm, rip + instruction->length, qualification);
    }
    if (instructions[row].form != FORM_MEMORY) {
        *information |= register_number(operands[instructions[row].reg2].reg.value) << 28;
    }
}

enum nvmx_status nvmx_decode_bytes(const uint8_t *bytes, size_t length, unsigned int bits, uint64_t rip,
                                   uint32_t *basic_reason, uint32_t *instruction_length, uint32_t *information,
                                   uint64_t *qualification) {
    ZydisDecoder decoder;
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!decoder_init(&decoder, bits) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &instruction, operands))) {
        return NVMX_E_INVALID;
    }
    for (size_t row = 0; row < sizeof(instructions) / sizeof(instructions[0]); row++) {
        if (instructions[row].mnemonic == instruction.mnemonic) {
            *basic_reason = instructions[row].reason;
            *instruction_length = instruction.length;
            fill(row, &instruction, operands, rip, information, qualification);
            return NVMX_OK;
        }
    }
    return NVMX_E_INVALID;
}
#else
typedef int nvmx_built_without_zydis; /* ISO C wants a declaration in every file */
#endif
