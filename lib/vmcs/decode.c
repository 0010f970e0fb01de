/* SPDX-License-Identifier: MIT */
/* The VM-exit instruction-information field (SDM 30.2.5). Pure. */
#include <nvmx/decode.h>

/* Tables 30-13 and 30-14: VMREAD and VMWRITE may name a register where the others have memory; INVEPT and INVVPID have
 * Reg2 too. */
#define INFO_SCALE(i)        ((i)&3u)
#define INFO_REG1(i)         (((i) >> 3) & 15u)
#define INFO_ADDRESS_SIZE(i) (((i) >> 7) & 7u)
#define INFO_IS_REGISTER(i)  (((i) >> 10) & 1u)
#define INFO_SEGMENT(i)      (((i) >> 15) & 7u)
#define INFO_INDEX(i)        (((i) >> 18) & 15u)
#define INFO_NO_INDEX(i)     (((i) >> 22) & 1u)
#define INFO_BASE(i)         (((i) >> 23) & 15u)
#define INFO_NO_BASE(i)      (((i) >> 27) & 1u)
#define INFO_REG2(i)         (((i) >> 28) & 15u)

#define REASONS_WITH_OPERANDS                                                                                          \
    (UINT64_C(1) << 19 | UINT64_C(1) << 21 | UINT64_C(1) << 22 | UINT64_C(1) << 23 | UINT64_C(1) << 25 |               \
     UINT64_C(1) << 27 | UINT64_C(1) << 50 | UINT64_C(1) << 53)

static const uint8_t address_bits[8] = {16, 32, 64, 0, 0, 0, 0, 0};

void nvmx_decode_information(uint32_t basic_reason, uint32_t information, uint64_t qualification,
                             struct nvmx_operand *out) {
    *out = (struct nvmx_operand){.base = NVMX_NO_REGISTER, .index = NVMX_NO_REGISTER};
    if (basic_reason > 63 || ((REASONS_WITH_OPERANDS >> basic_reason) & 1) == 0) {
        return;
    }
    out->reg2 = (uint8_t)INFO_REG2(information);
    if (INFO_IS_REGISTER(information)) {
        out->is_register = true;
        out->rm_register = (uint8_t)INFO_REG1(information);
        return;
    }
    out->segment = (uint8_t)INFO_SEGMENT(information);
    if (out->segment > NVMX_GS) {
        return; /* address_bits stays 0: not something that hardware reports */
    }
    out->address_bits = address_bits[INFO_ADDRESS_SIZE(information)];
    out->scale = (uint8_t)INFO_SCALE(information);
    if (!INFO_NO_BASE(information)) {
        out->base = (uint8_t)INFO_BASE(information);
    }
    if (!INFO_NO_INDEX(information)) {
        out->index = (uint8_t)INFO_INDEX(information);
    }
    out->displacement = (int64_t)qualification;
}
