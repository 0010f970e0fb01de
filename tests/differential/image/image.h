/* SPDX-License-Identifier: MIT */
/* The parts of the differential's L1 image. */
#ifndef DIFF_IMAGE_H
#define DIFF_IMAGE_H

#include "../../l1/exit.h"
#include "../../l1/report.h"
#include "../../l1/vmx.h"
#include "../protocol.h"

#define DIFF_FIELDS_MAX 256u
#define DIFF_BASES_MAX  24u

/* The module's parts in memory. */
struct module {
    const struct diff_header *header;
    const uint32_t *encodings;
    const uint64_t *base[DIFF_BASES_MAX];
    const uint8_t *vectors; /* sequences follow */
};

/* FNV-1a over 64-bit values, printed as 32 bits. */
#define HASH_START 0xcbf29ce484222325ull
static inline uint64_t hash(uint64_t sum, uint64_t value) {
    for (uint32_t i = 0; i < 4; i++) {
        sum = (sum ^ (value & 0xffff)) * 0x100000001b3ull;
        value >>= 16;
    }
    return sum;
}
static inline uint32_t hash_fold(uint64_t sum) {
    return (uint32_t)(sum ^ sum >> 32);
}

/* host.c: L1's own state as an exit finds and leaves it. */
void host_init(void);
/* Hashes what the last exit loaded into L1 (and prints it if `dump`), then puts L1's own state back. */
uint64_t host_check(bool dump, bool host32);

/* vectors.c, sequences.c: run one part of the module; return the address behind it. */
const uint8_t *vectors_run(const struct module *m, const uint8_t *at);
void sequences_run(const struct module *m, const uint8_t *at);

uint64_t diff_enter(uint64_t launch);
uint64_t diff_enter_mov_ss(uint64_t launch);
uint64_t diff_enter32(void);
extern const uint8_t diff_exit[], diff_exit32[], diff_faulted[];
extern uint64_t diff_vmcs_pointer, diff_vmxon_pointer;
extern uint32_t diff_pd32, diff_pml4;

#endif
