/* SPDX-License-Identifier: MIT */
/* The input as a stream, and telling what happens. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

bool fuzz_verbose;

struct fuzz_input fuzz_start(const uint8_t *data, size_t size) {
    if (fuzz_input_begins != NULL)
        fuzz_input_begins(data, size);
    return (struct fuzz_input){data, size};
}

void fuzz_piece(const struct fuzz_input *in, enum fuzz_piece kind) {
    if (fuzz_piece_begins != NULL)
        fuzz_piece_begins(in->at, kind);
}

bool fuzz_more(const struct fuzz_input *in) {
    return in->left != 0;
}

/* FNV-1a. */
uint64_t fuzz_digest(const uint8_t *data, size_t size) {
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ data[i]) * UINT64_C(0x100000001b3);
    return digest ^ digest >> 32;
}

uint8_t fuzz_u8(struct fuzz_input *in) {
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

uint16_t fuzz_u16(struct fuzz_input *in) {
    uint16_t low = fuzz_u8(in);
    return (uint16_t)(low | fuzz_u8(in) << 8);
}

uint32_t fuzz_u32(struct fuzz_input *in) {
    uint32_t low = fuzz_u16(in);
    return low | (uint32_t)fuzz_u16(in) << 16;
}

uint64_t fuzz_u64(struct fuzz_input *in) {
    uint64_t low = fuzz_u32(in);
    return low | (uint64_t)fuzz_u32(in) << 32;
}

static const uint64_t edges[] = {
    0, 1, UINT64_MAX, 0xfff, 0x1000, UINT64_C(1) << 31, UINT32_MAX, UINT64_C(1) << 32, UINT64_C(1) << 63,
    UINT64_C(0x00007fffffffffff), UINT64_C(0x0000800000000000), UINT64_C(0xffff800000000000), UINT64_C(0xffff7fffffffffff),
    UINT64_C(0xfffffffff000), UINT64_C(1) << 40, (UINT64_C(1) << 40) - 0x1000, SIM_RAM_BYTES, SIM_RAM_BYTES - 0x1000,
    SIM_L1_VMXON, SIM_L1_VMCS_A, SIM_L1_VMCS_B, SIM_L1_VIRTUAL_APIC, SIM_L1_MSR_LISTS, SIM_L1_EPT12 | 0x1e, SIM_L1_EPT12 | 0x5e,
    SIM_L1_EPT12 | 0x26, 0x80000b0e, 0x80000202, 0x800000ff, 0x80000306, 0x80000603, 0x80000700, 0x80000500, 0x10000, 0xa09b, 0xc09b, 0xc093,
    0x8b, 0x83, 0xf3, 0x80050033, 0x80000021, 0x2020, 0x2000, 0xd01, 0x500, 0x202, 0x20202, UINT64_C(0x0007040600070406),
};

uint64_t fuzz_value(struct fuzz_input *in) {
    uint8_t kind = fuzz_u8(in);
    switch (kind & 7) {
    case 0:
        return fuzz_u8(in);
    case 1:
        return fuzz_u16(in);
    case 2:
        return fuzz_u32(in);
    case 3:
        return fuzz_u64(in);
    case 4:
        return UINT64_C(1) << (kind >> 3 | (fuzz_u8(in) & 1) << 5);
    case 5:
        return (uint64_t)fuzz_u8(in) << 12;
    default:
        return edges[fuzz_u8(in) % (sizeof(edges) / sizeof(edges[0]))];
    }
}

void fuzz_log(const char *format, ...) {
    if (!fuzz_verbose)
        return;
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

_Noreturn void fuzz_broken(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "does not hold: %s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}
