/* SPDX-License-Identifier: MIT */
/* What the harnesses share: the input as a stream, a machine that is made once and used by many inputs, oracles. */
#ifndef FUZZ_H
#define FUZZ_H

#include <nvmx/nvmx.h>

#include "sim.h"

/* -- the entry points (libFuzzer's names; main.c and AFL++'s driver call them too) ---------------------------------------------- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* -- the input (support.c) ---------------------------------------------------------------------------------------------------------- */

/* Past the end all reads give 0: every prefix of an input is an input. */
struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* An input, from its beginning. */
struct fuzz_input fuzz_start(const uint8_t *data, size_t size);
bool fuzz_more(const struct fuzz_input *in);
/* 64 bits that follow from the whole input, for what has no place in it. */
uint64_t fuzz_digest(const uint8_t *data, size_t size);
uint8_t fuzz_u8(struct fuzz_input *in);
uint16_t fuzz_u16(struct fuzz_input *in);
uint32_t fuzz_u32(struct fuzz_input *in);
uint64_t fuzz_u64(struct fuzz_input *in);
/* A number of few bits, a bit, or a value at an edge of something: what fields are given. */
uint64_t fuzz_value(struct fuzz_input *in);

/* -- what an input is made of (mutate.c; nothing in the replay programs) --------------------------------------------------------------------- */

enum fuzz_piece { FUZZ_OTHER = 0, FUZZ_CHANGE /* of a vmcs12 */, FUZZ_L1 /* an operation while L1 runs */, FUZZ_L2, FUZZ_PIECES };

/* A piece of the input begins here, and ends where the next one begins. A change within an operation belongs to it. */
void fuzz_piece(const struct fuzz_input *in, enum fuzz_piece kind);
#define FUZZ_PIECE_BYTES 64u /* at most, of a new one */
/* A piece made from the tables, or 0: there is none of this kind. below(n): a random number less than n. The second, weak, is for a harness with operations. */
size_t fuzz_new_change(uint32_t (*below)(uint32_t limit), uint8_t *out);
size_t fuzz_new_operation(enum fuzz_piece kind, uint32_t (*below)(uint32_t limit), uint8_t *out) __attribute__((weak));
/* Weak: mutate.c's. */
void fuzz_input_begins(const uint8_t *data, size_t size) __attribute__((weak));
void fuzz_piece_begins(const uint8_t *at, enum fuzz_piece kind) __attribute__((weak));

/* -- saying what happens -------------------------------------------------------------------------------------------------------------- */

extern bool fuzz_verbose; /* main.c -v: a readable account of the input */
void fuzz_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fuzz_broken(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* An oracle: what must hold, and values that tell more. */
#define FUZZ_HOLD(condition, ...)                                                                                                \
    do {                                                                                                                         \
        if (!(condition))                                                                                                        \
            fuzz_broken(__FILE__, __LINE__, __VA_ARGS__);                                                                        \
    } while (0)

/* -- machines (machine.c) ----------------------------------------------------------------------------------------------------------------- */

#define FUZZ_PROFILES 68u /* the last four by numbers from 0xfc */
#define FUZZ_SHADOW_REGION 0xf000u /* in L1's memory: a shadow VMCS for L2 */

/* A simulated host with the capabilities and options of one profile. It is kept between inputs; fuzz_machine makes it as new. */
struct fuzz_machine {
    struct sim *sim;
    struct sim_options options;
    struct nvmx_caps machine, mask;
    struct sim_vmcs vmcs01;                /* as it was at first */
    struct sim_msr msr[SIM_MSRS];
    uint32_t msrs;
    uint8_t host_bitmap[3][NVMX_PAGE_SIZE]; /* MSRs, ports */
    bool bitmaps_changed;
    bool demanding;                        /* the host's vmcs01 uses what L1 may use, too */
    bool newest;                           /* the machine has the MSRs of everything that can be switched */
    uint8_t low_memory[0x14000];           /* L1's memory up to the end of ept12 */
    struct nvmx_field_set exists;          /* fields that L1 has */
    uint64_t field[NVMX_FIELD_COUNT];      /* a vmcs12 that passes all checks, every pointer in it a page of L1 */
    uint32_t pages_used;                   /* by page_alloc, outside VMX operation */
};

/* NULL: this profile has no VMX for L1. */
struct fuzz_machine *fuzz_machine(uint8_t profile);

/* Random controls for the host's own vmcs01, and bits in its bitmaps. */
void fuzz_host_controls(struct fuzz_machine *m, struct fuzz_input *in);

/* The host changes what vmcs01 says of L1's instructions, ports, MSRs and exceptions, as `bits` have it, while L2 runs: it may take something back. */
void fuzz_host_takes_back(struct fuzz_machine *m, uint64_t bits);

/* Put a vmcs12 into the region at SIM_L1_VMCS_A: VMXON if need be, VMCLEAR, the fields, VMPTRLD. */
void fuzz_load_vmcs12(struct fuzz_machine *m, const uint64_t *field);

/*
 * Change a vmcs12 as the input says: each change is kept if the state still passes every check, or if the input insists. Returns how many
 * changes were insisted on. `check` is what nvmx_check_first needs, with `field` as its fields; `m` NULL: what comes from memory stays as it is.
 */
unsigned int fuzz_change_vmcs12(const struct fuzz_machine *m, struct fuzz_input *in, struct nvmx_check_input *check,
                                uint64_t *field, unsigned int most);

/* What the checks need besides fields, read from L1's memory as the SDM says. */
void fuzz_gather(const struct fuzz_machine *m, struct nvmx_check_input *check);

/*
 * May the library refuse this good vmcs12 for what the host's vmcs01 uses itself? IA32_SPEC_CTRL behind the host's mask can't be loaded from vmcs12 too, nor
 * lists of MSRs be carried out past L1's mask; nor can an APIC-access page without a TPR shadow be had where user IPIs of L2 need one.
 */
bool fuzz_host_in_the_way(const struct fuzz_machine *m, const uint64_t *field);

/*
 * An event whose delivery in L2 an exit can have interrupted (SDM 30.2.4), near what the input wants; 0: none. A processor that reports another one does
 * not exist, and what a restore is given must be what an entry would take.
 */
uint32_t fuzz_event_in_flight(const struct sim_vmcs *vmcs02, uint32_t wanted);

/*
 * An L2 without EPT has all of L1's memory: where its own VMREAD stores may be L1's page tables or a VMCS region. An L1 that wants to live keeps these from
 * it: take them before such an exit (restore false), put them back after it.
 */
#define FUZZ_KEPT_BYTES (SIM_L1_MSR_BITMAP + 0x3000u)
void fuzz_keep_l1_memory(struct sim *sim, uint8_t before[FUZZ_KEPT_BYTES], bool restore);

/* -- oracles (oracle.c) -------------------------------------------------------------------------------------------------------------------- */

/* nvmx_check_first for all and for some groups against nvmx_check_report, row by row. Returns how many rows fail; *first if any. */
size_t fuzz_checks_agree(const struct nvmx_check_input *check, uint32_t groups, struct nvmx_check_failure *first);

/* L2 is about to run on vmcs12 `field`: vmcs02 is what the CPU accepts, intercepts what L1 and the host intercept, and leads only to pages it may. */
void fuzz_check_vmcs02(const struct fuzz_machine *m, const uint64_t *field);
/* The same but for what follows from L1's memory, which may have changed since. */
void fuzz_check_vmcs02_fields(const struct fuzz_machine *m, const uint64_t *field);

#endif
