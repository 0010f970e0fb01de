/* SPDX-License-Identifier: MIT */
/* Instruction information to operands, and instruction bytes to instruction information. */
#include <criterion/criterion.h>
#include <string.h>

#include <nvmx/decode.h>

#include "instruction_run.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

Test(decode, each_field_of_the_information) {
    static const struct {
        uint32_t reason;
        uint32_t information;
        struct nvmx_operand operand; /* displacement: as the qualification */
    } rows[] = {
        {VMCLEAR, 2u | 2u << 7 | 3u << 15 | 9u << 18 | 13u << 23, {false, 0, 13, 9, 2, 64, NVMX_DS, 0, -8}},
        {VMXON, 1u << 7 | 5u << 15 | 1u << 22 | 7u << 23, {false, 0, 7, 0xff, 0, 32, NVMX_GS, 0, -8}},
        {VMPTRLD, 0u << 7 | 6u << 18 | 3u << 23, {false, 0, 3, 6, 0, 16, NVMX_ES, 0, -8}},
        {VMPTRST, 2u << 7 | 1u << 27 | 1u << 22, {false, 0, 0xff, 0xff, 0, 64, NVMX_ES, 0, -8}},
        {VMREAD, 1u << 10 | 11u << 3 | 14u << 28, {true, 11, 0xff, 0xff, 0, 0, 0, 14, 0}},
        {VMWRITE, 1u << 10 | 15u << 3, {true, 15, 0xff, 0xff, 0, 0, 0, 0, 0}},
        {VMWRITE, 2u << 7 | 2u << 15 | 4u << 23 | 1u << 22 | 5u << 28, {false, 0, 4, 0xff, 0, 64, NVMX_SS, 5, -8}},
        {INVEPT, 2u << 7 | 1u << 22 | 15u << 28, {false, 0, 0, 0xff, 0, 64, NVMX_ES, 15, -8}},
        {INVVPID, 3u | 2u << 7 | 4u << 15 | 1u << 28, {false, 0, 0, 0, 3, 64, NVMX_FS, 1, -8}},
        {VMCLEAR, 3u << 7, {false, 0, 0, 0, 0, 0, NVMX_ES, 0, -8}},           /* no such address size */
        {VMCLEAR, 2u << 7 | 6u << 15, {false, 0, 0xff, 0xff, 0, 0, 6, 0, 0}}, /* no such segment */
        {VMLAUNCH, UINT32_MAX, {false, 0, 0xff, 0xff, 0, 0, 0, 0, 0}},        /* no operand */
        {99, UINT32_MAX, {false, 0, 0xff, 0xff, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct nvmx_operand got;
        const struct nvmx_operand *want = &rows[i].operand;
        memset(&got, 0xa5, sizeof(got));
        nvmx_decode_information(rows[i].reason, rows[i].information, (uint64_t)-8, &got);
        cr_expect_eq(got.is_register, want->is_register, "row %zu", i);
        cr_expect_eq(got.rm_register, want->rm_register, "row %zu", i);
        cr_expect_eq(got.base, want->base, "row %zu", i);
        cr_expect_eq(got.index, want->index, "row %zu", i);
        cr_expect_eq(got.scale, want->scale, "row %zu", i);
        cr_expect_eq(got.address_bits, want->address_bits, "row %zu", i);
        cr_expect_eq(got.segment, want->segment, "row %zu", i);
        cr_expect_eq(got.reg2, want->reg2, "row %zu", i);
        cr_expect_eq(got.displacement, want->displacement, "row %zu", i);
    }
}

#ifdef NVMX_HAVE_ZYDIS
#define RIP        UINT64_C(0xffffffff81000000)
#define BYTES(...) {__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

Test(decode, bytes_become_what_hardware_reports) {
    static const struct {
        const char *text;
        uint8_t bytes[15];
        size_t length;
        unsigned int bits;
        uint32_t reason;
        uint32_t information;
        uint64_t qualification;
    } rows[] = {
        {"vmcall", BYTES(0x0f, 0x01, 0xc1), 64, VMCALL, 0, 0},
        {"vmlaunch", BYTES(0x0f, 0x01, 0xc2), 64, VMLAUNCH, 0, 0},
        {"vmresume", BYTES(0x0f, 0x01, 0xc3), 32, VMRESUME, 0, 0},
        {"vmxoff", BYTES(0x0f, 0x01, 0xc4), 64, VMXOFF, 0, 0},
        {"vmfunc", BYTES(0x0f, 0x01, 0xd4), 64, VMFUNC, 0, 0},
        {"vmclear [rax]", BYTES(0x66, 0x0f, 0xc7, 0x30), 64, VMCLEAR, 2u << 7 | 3u << 15 | 1u << 22, 0},
        {"vmptrld [rsp+8]", BYTES(0x0f, 0xc7, 0x74, 0x24, 0x08), 64, VMPTRLD, 2u << 7 | 2u << 15 | 1u << 22 | 4u << 23,
         8},
        {"vmptrst [rbp-16]", BYTES(0x0f, 0xc7, 0x7d, 0xf0), 64, VMPTRST, 2u << 7 | 2u << 15 | 1u << 22 | 5u << 23,
         (uint64_t)-16},
        {"vmxon fs:[r13+r9*4+0x1000]", BYTES(0x64, 0xf3, 0x43, 0x0f, 0xc7, 0xb4, 0x8d, 0x00, 0x10, 0x00, 0x00), 64,
         VMXON, 2u | 2u << 7 | 4u << 15 | 9u << 18 | 13u << 23, 0x1000},
        {"vmptrld [rip+0x100]", BYTES(0x0f, 0xc7, 0x35, 0x00, 0x01, 0x00, 0x00), 64, VMPTRLD,
         2u << 7 | 3u << 15 | 1u << 22 | 1u << 27, RIP + 7 + 0x100},
        {"vmread rax, rcx", BYTES(0x0f, 0x78, 0xc8), 64, VMREAD, 1u << 10 | 0u << 3 | 1u << 28, 0},
        {"vmread [r12], r11", BYTES(0x45, 0x0f, 0x78, 0x1c, 0x24), 64, VMREAD,
         2u << 7 | 3u << 15 | 1u << 22 | 12u << 23 | 11u << 28, 0},
        {"vmwrite rdx, r10", BYTES(0x49, 0x0f, 0x79, 0xd2), 64, VMWRITE, 1u << 10 | 10u << 3 | 2u << 28, 0},
        {"vmwrite rcx, gs:[0x10]", BYTES(0x65, 0x0f, 0x79, 0x0c, 0x25, 0x10, 0x00, 0x00, 0x00), 64, VMWRITE,
         2u << 7 | 5u << 15 | 1u << 22 | 1u << 27 | 1u << 28, 0x10},
        {"invept rdx, [rdi]", BYTES(0x66, 0x0f, 0x38, 0x80, 0x17), 64, INVEPT,
         2u << 7 | 3u << 15 | 1u << 22 | 7u << 23 | 2u << 28, 0},
        {"invvpid r8, [eax]", BYTES(0x67, 0x66, 0x44, 0x0f, 0x38, 0x81, 0x00), 64, INVVPID,
         1u << 7 | 3u << 15 | 1u << 22 | 8u << 28, 0},
        {"vmclear [bx+si+0x20]", BYTES(0x67, 0x66, 0x0f, 0xc7, 0x70, 0x20), 32, VMCLEAR, 3u << 15 | 6u << 18 | 3u << 23,
         0x20},
        {"vmptrst es:[0x1234]", BYTES(0x26, 0x0f, 0xc7, 0x3d, 0x34, 0x12, 0x00, 0x00), 32, VMPTRST,
         1u << 7 | 1u << 22 | 1u << 27, 0x1234},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint32_t reason = 0, length = 0, information = 0;
        uint64_t qualification = 0;
        cr_expect_eq(nvmx_decode_bytes(rows[i].bytes, rows[i].length, rows[i].bits, RIP, &reason, &length, &information,
                                       &qualification),
                     NVMX_OK, "%s", rows[i].text);
        cr_expect_eq(reason, rows[i].reason, "%s: reason %u", rows[i].text, reason);
        cr_expect_eq(length, rows[i].length, "%s: length %u", rows[i].text, length);
        cr_expect_eq(information, rows[i].information, "%s: %#x, not %#x", rows[i].text, information,
                     rows[i].information);
        cr_expect_eq(qualification, rows[i].qualification, "%s: %#llx", rows[i].text,
                     (unsigned long long)qualification);
    }
}

Test(decode, other_bytes_are_refused) {
    static const uint8_t cpuid[] = {0x0f, 0xa2}, cut[] = {0x0f, 0xc7}, vmread_16[] = {0x0f, 0x78, 0xc8};
    uint32_t reason, length, information;
    uint64_t qualification;
    cr_expect_eq(nvmx_decode_bytes(cpuid, 2, 64, 0, &reason, &length, &information, &qualification), NVMX_E_INVALID);
    cr_expect_eq(nvmx_decode_bytes(cut, 2, 64, 0, &reason, &length, &information, &qualification), NVMX_E_INVALID);
    cr_expect_eq(nvmx_decode_bytes(cut, 0, 64, 0, &reason, &length, &information, &qualification), NVMX_E_INVALID);
    cr_expect_eq(nvmx_decode_bytes(vmread_16, 3, 24, 0, &reason, &length, &information, &qualification),
                 NVMX_E_INVALID);
}
#endif
