/* SPDX-License-Identifier: MIT */
/*
 * Operands of VMX instructions: from the bytes (Zydis) and from the exit's instruction information.
 *
 * Held: what nvmx_decode_bytes gives as instruction information decodes to an operand whose parts are in range and agree with the bytes; bytes past the
 * length it found don't matter; random instruction information never decodes to a register or segment that is not one.
 *
 * Input: mode, RIP, bytes of an instruction; or reason, information, qualification.
 */
#include <string.h>

#include <nvmx/decode.h>
#include <nvmx/state_kvm.h>
#include <nvmx/trace.h>

#include "fuzz.h"

static void check_operand(const struct nvmx_operand *operand) {
    FUZZ_HOLD(operand->address_bits == 0 || operand->address_bits == 16 || operand->address_bits == 32 || operand->address_bits == 64,
              "address size %u", operand->address_bits);
    FUZZ_HOLD(operand->base < 16 || operand->base == NVMX_NO_REGISTER, "base %u", operand->base);
    FUZZ_HOLD(operand->index < 16 || operand->index == NVMX_NO_REGISTER, "index %u", operand->index);
    FUZZ_HOLD(operand->scale < 4 && operand->reg2 < 16, "scale %u, register %u", operand->scale, operand->reg2);
    FUZZ_HOLD(!operand->is_register || operand->rm_register < 16, "register %u", operand->rm_register);
}

/* Whatever number: a text, and never none. */
static void texts(uint32_t number) {
    FUZZ_HOLD(nvmx_status_text((enum nvmx_status)(number & 31)) != NULL && nvmx_state_reason_text((enum nvmx_state_reason)(number & 63)) != NULL &&
                  nvmx_trace_event_text(number & 63) != NULL && nvmx_trace_handler_text(number & 63) != NULL && nvmx_kvm_note_text(number) != NULL,
              "no text for %#x", number);
    FUZZ_HOLD((nvmx_field_info(number & 511) != NULL) == ((number & 511) < NVMX_FIELD_COUNT), "field %u", number & 511);
    FUZZ_HOLD((nvmx_check_row(number & 1023) != NULL) == ((number & 1023) < NVMX_CHECK_COUNT), "check %u", number & 1023);
    FUZZ_HOLD(nvmx_version() != 0 && nvmx_version_text() != NULL, "version");
}

static void from_information(struct fuzz_input *in) {
    static const uint8_t reasons[] = {19, 21, 22, 23, 25, 27, 50, 53};
    struct nvmx_operand operand;
    uint32_t reason = reasons[fuzz_u8(in) % sizeof(reasons)], information = fuzz_u32(in);
    uint64_t qualification = fuzz_u64(in);
    texts(information);
    memset(&operand, 0xa5, sizeof(operand));
    nvmx_decode_information(reason, information, qualification, &operand);
    check_operand(&operand);
    FUZZ_HOLD(operand.segment <= NVMX_GS || operand.is_register || operand.address_bits == 0, "segment %u", operand.segment);
}

#ifdef NVMX_HAVE_ZYDIS
static void from_bytes(struct fuzz_input *in, unsigned int bits) {
    uint64_t rip = fuzz_u16(in), qualification = 0, qualification2 = 0;
    uint8_t code[15], tail[15];
    uint32_t reason = 0, length = 0, information = 0, reason2 = 0, length2 = 0, information2 = 0;
    struct nvmx_operand operand;
    for (size_t i = 0; i < sizeof(code); i++)
        code[i] = fuzz_u8(in);
    if (nvmx_decode_bytes(code, sizeof(code), bits, rip, &reason, &length, &information, &qualification) != NVMX_OK)
        return;
    fuzz_log("%u bits: exit %u, %u bytes, information %#x, qualification %#llx", bits, reason, length, information,
             (unsigned long long)qualification);
    FUZZ_HOLD(length >= 3 && length <= sizeof(code), "an instruction of %u bytes", length);
    memcpy(tail, code, sizeof(code));
    for (size_t i = length; i < sizeof(tail); i++)
        tail[i] = (uint8_t)~tail[i];
    FUZZ_HOLD(nvmx_decode_bytes(tail, sizeof(tail), bits, rip, &reason2, &length2, &information2, &qualification2) == NVMX_OK &&
                  reason2 == reason && length2 == length && information2 == information && qualification2 == qualification,
              "bytes behind the instruction change what it is");
    FUZZ_HOLD(nvmx_decode_bytes(code, length - 1, bits, rip, &reason2, &length2, &information2, &qualification2) != NVMX_OK || length2 < length,
              "an instruction of %u bytes decodes from fewer", length);
    if (reason != 19 && reason != 21 && reason != 22 && reason != 23 && reason != 25 && reason != 27 && reason != 50 && reason != 53)
        return;
    nvmx_decode_information(reason, information, qualification, &operand);
    check_operand(&operand);
    FUZZ_HOLD(operand.is_register || operand.address_bits != 0, "information %#x is invalid", information);
    FUZZ_HOLD(operand.is_register || bits != 64 || operand.address_bits != 16, "16-bit addresses in 64-bit mode");
    FUZZ_HOLD(bits == 64 || ((operand.base >= 16 || operand.base < 8) && (operand.index >= 16 || operand.index < 8) && operand.reg2 < 8),
              "registers of 64-bit mode outside it: information %#x", information);
}
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    uint8_t what = fuzz_u8(&in) % 4;
#ifdef NVMX_HAVE_ZYDIS
    static const unsigned int bits[] = {64, 32, 16};
    if (what < 3) {
        from_bytes(&in, bits[what]);
        return 0;
    }
#endif
    (void)what;
    from_information(&in);
    return 0;
}
