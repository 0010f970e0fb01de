/* SPDX-License-Identifier: MIT */
/* The states of a vCPU that the tests of nvmx/state.h go through. */
#ifndef STATE_WORLDS_H
#define STATE_WORLDS_H

#include <nvmx/state.h>

#include "machine.h"

struct state_world {
    const char *name;
    struct sim_options options;
    void (*reach)(struct sim *sim); /* from sim_new on */
};

extern const struct state_world state_worlds[];
extern const size_t state_world_count;

/* A simulated host in that state. */
struct sim *state_world_new(const struct state_world *world);

/* Make the length and the checksum of a changed blob right. */
void state_seal(uint8_t *blob, size_t bytes);

static inline uint64_t state_word_at(const uint8_t *blob, size_t offset) {
    uint64_t value = 0;
    for (unsigned int i = 0; i < 8; i++)
        value |= (uint64_t)blob[offset + i] << (8 * i);
    return value;
}

static inline void state_put_at(uint8_t *blob, size_t offset, uint64_t value) {
    for (unsigned int i = 0; i < 8; i++)
        blob[offset + i] = (uint8_t)(value >> (8 * i));
}

#endif
