/* SPDX-License-Identifier: MIT */
/* Rows of the report: samples, which rows are wanted, the VMX instructions without anything around them. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "l2.h"

enum { ROUNDS = 1000, WARM_UP = 50 };

/* Samples of the row that is being measured. */
extern uint64_t samples[ROUNDS];

/* Words of the command line: names (or their beginnings) of the rows to measure, or "trace=NAME". None: all rows. */
void measure_words(const char *line);
bool measure_wanted(const char *name);
/* A row that is not measured: after warming up one execution is put between two magic breakpoints (XCHG BX, BX). */
bool measure_traced(const char *name);

/* Finds out what an empty measurement costs; every row is printed without it. */
void measure_timer(void);

/* "bench: NAME min median max" of the first `count` samples, each divided by `per`. */
void print_row(const char *name, uint32_t count, uint32_t per);
/* The same without taking off the timer's cost: samples that are differences of measurements. */
void print_differences(const char *name, uint32_t count, uint32_t per);

static inline uint64_t ticks(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

static inline void magic_break(void) {
    __asm__ volatile("xchg %%bx, %%bx" ::: "memory");
}

/* STATEMENT once for each sample, after some for warming up. */
#define MEASURE_TIMES(NAME, TIMES, PER, STATEMENT)                                                                     \
    do {                                                                                                               \
        const uint32_t most = WARM_UP, first = (TIMES) < most ? (TIMES) : most;                                                 \
        if (!measure_wanted(NAME)) {                                                                                   \
            break;                                                                                                     \
        }                                                                                                              \
        const uint32_t last = measure_traced(NAME) ? first : first + (TIMES);                                          \
        for (uint32_t i = 0; i < last; i++) {                                                                          \
            uint64_t before = ticks();                                                                                 \
            STATEMENT;                                                                                                 \
            samples[i < first ? i : i - first] = ticks() - before;                                                     \
        }                                                                                                              \
        if (measure_traced(NAME)) {                                                                                    \
            magic_break();                                                                                             \
            STATEMENT;                                                                                                 \
            magic_break();                                                                                             \
            break;                                                                                                     \
        }                                                                                                              \
        print_row(NAME, TIMES, PER);                                                                                   \
    } while (0)
#define MEASURE(NAME, STATEMENT) MEASURE_TIMES(NAME, ROUNDS, 1, STATEMENT)

static inline uint64_t bare_vmread(uint64_t field) {
    uint64_t value;
    __asm__ volatile("vmread %1, %0" : "=r"(value) : "r"(field) : "cc");
    return value;
}

static inline void bare_vmwrite(uint64_t field, uint64_t value) {
    __asm__ volatile("vmwrite %0, %1" ::"r"(value), "r"(field) : "cc", "memory");
}

static inline void bare_vmptrld(const struct vmcs_region *region) {
    uint64_t pointer = (uint64_t)region;
    __asm__ volatile("vmptrld %0" ::"m"(pointer) : "cc", "memory");
}

static inline void bare_vmclear(const struct vmcs_region *region) {
    uint64_t pointer = (uint64_t)region;
    __asm__ volatile("vmclear %0" ::"m"(pointer) : "cc", "memory");
}

static inline uint64_t bare_vmptrst(void) {
    uint64_t pointer;
    __asm__ volatile("vmptrst %0" : "=m"(pointer)::"cc", "memory");
    return pointer;
}

static inline void bare_invept(uint64_t type, uint64_t eptp) {
    uint64_t descriptor[2] = {eptp, 0};
    __asm__ volatile("invept %0, %1" ::"m"(descriptor), "r"(type) : "cc", "memory");
}

static inline void bare_invvpid(uint64_t type, uint64_t vpid, uint64_t linear) {
    uint64_t descriptor[2] = {vpid, linear};
    __asm__ volatile("invvpid %0, %1" ::"m"(descriptor), "r"(type) : "cc", "memory");
}

#endif
