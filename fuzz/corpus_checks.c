/* SPDX-License-Identifier: MIT */
/*
 * Seeds from the vectors of the entry checks' unit tests: for each rule a state that breaks it and the one before, as changes that vmcs_state insists on.
 * Vectors that need other capabilities or memory of L1 lose that, and are near the rule only.
 */
#include <stdio.h>
#include <string.h>

#include "check_vectors.h"

static const uint8_t profiles[] = {48, 4, 8, 2}; /* the newest machine, the simulated one, an older and a newer one */
#define MOST_BYTES 600u

void seeds_of_checks(void);

struct seed {
    uint8_t bytes[MOST_BYTES];
    size_t count;
};

/* value: what the field becomes, or with `flip` which bits of it turn. */
static void change(struct seed *seed, unsigned int slot, bool flip, uint64_t value) {
    uint8_t *at = seed->bytes + seed->count;
    if (seed->count + 11 > MOST_BYTES)
        return;
    *at++ = (uint8_t)(slot < 29 ? slot + NVMX_FIELD_COUNT : slot); /* small numbers name the fields that decide the most */
    *at++ = flip ? 0x83 : 0x81;
    *at++ = 3;
    memcpy(at, &value, sizeof(value));
    seed->count += 11;
}

static void changes(struct seed *seed, struct check_state *state, const struct change *list) {
    for (unsigned int i = 0; i < CHECK_CHANGES && list[i].kind != CHANGE_NONE; i++) {
        uint64_t before = list[i].place < NVMX_FIELD_COUNT ? state->field[list[i].place] : 0;
        check_state_change(state, &list[i], 1);
        if (list[i].kind == CHANGE_SET)
            change(seed, list[i].place, false, list[i].value);
        else if (list[i].kind == CHANGE_OR || list[i].kind == CHANGE_CLEAR)
            change(seed, list[i].place, true, before ^ state->field[list[i].place]);
    }
}

static void print(const struct seed *seed) {
    for (size_t i = 0; i < seed->count; i++)
        printf("%02x", seed->bytes[i]);
    putchar('\n');
}

/* The base state as the harness gets there from its own, which is LONG64's sister. */
static void begin(struct seed *seed, struct check_state *state, unsigned int base, uint8_t profile) {
    static struct check_state plain;
    *seed = (struct seed){.bytes = {profile, 0x7f, 0}, .count = 3};
    check_state_init(&plain, LONG64);
    check_state_init(state, (enum check_base)base);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool controls = slot == NVMX_F_PIN_BASED_CONTROLS || slot == NVMX_F_PRIMARY_CONTROLS || slot == NVMX_F_SECONDARY_CONTROLS ||
                        slot == NVMX_F_VM_EXIT_CONTROLS || slot == NVMX_F_VM_ENTRY_CONTROLS;
        if (plain.field[slot] != state->field[slot])
            change(seed, slot, controls, controls ? plain.field[slot] ^ state->field[slot] : state->field[slot]);
    }
}

static void seeds_on(uint8_t profile) {
    static struct check_state state;
    struct seed seed;
    for (size_t i = 0; i < VECTORS; i++) {
        begin(&seed, &state, vectors[i].base, profile);
        changes(&seed, &state, vectors[i].before);
        print(&seed);
        changes(&seed, &state, vectors[i].broken);
        print(&seed);
    }
    for (size_t i = 0; i < VALID_STATES; i++) {
        begin(&seed, &state, valid[i].base, profile);
        changes(&seed, &state, valid[i].before);
        print(&seed);
    }
}

void seeds_of_checks(void) {
    for (size_t i = 0; i < sizeof(profiles); i++)
        seeds_on(profiles[i]);
}
