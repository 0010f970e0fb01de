/* SPDX-License-Identifier: MIT */
/* What both programs of this folder have in common: atomic accesses, numbers by a seed, arguments, the end by a failure. */
#ifndef TESTS_THREADS_COMMON_H
#define TESTS_THREADS_COMMON_H

#include <stdbool.h>
#include <stdint.h>

/* A line on stderr, which begins with the program's name, then exit status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The next number below `limit`; *random is never 0. */
uint32_t below(uint64_t *random, uint32_t limit);

struct arguments {
    uint64_t operations, seed;
};

/* [OPERATIONS [SEED]]. `few`: operations where nothing is said, a million with NVMX_FULL in the environment. `how`: for the usage, by whom they are made. */
struct arguments arguments(int argc, char **argv, uint64_t few, const char *how);

static inline uint64_t load(const uint64_t *place) {
    return __atomic_load_n(place, __ATOMIC_SEQ_CST);
}

static inline void store(uint64_t *place, uint64_t value) {
    __atomic_store_n(place, value, __ATOMIC_SEQ_CST);
}

#endif
