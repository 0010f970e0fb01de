/* SPDX-License-Identifier: MIT */
/* Numbers by a seed, the same on every machine: xorshift. `state` is the seed first, and never 0. */
#ifndef NVMX_TESTS_DRAW_H
#define NVMX_TESTS_DRAW_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline uint32_t draw_below(uint64_t *state, uint32_t limit) {
    return (uint32_t)((draw(state) >> 20) % limit);
}

static inline bool draw_one_in(uint64_t *state, uint32_t n) {
    return draw_below(state, n) == 0;
}

#endif
