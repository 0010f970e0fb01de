/* SPDX-License-Identifier: MIT */
/* The parts of the generator. Vectors and sequences are functions of (capabilities, seed, number): any of them can be made again alone. */
#ifndef DIFF_GENERATE_H
#define DIFF_GENERATE_H

#include <nvmx/checks.h>
#include <stdio.h>

#include "../protocol.h"

#define CHANGES_MAX 14
#define BASES       16
#define POKES_MAX   128

/* What the CPU has, and what nvmx offers to L1 on it: the states keep to the latter. */
struct capabilities {
    struct nvmx_caps cpu, l1;
};

struct states {
    unsigned int bases;
    const char *name[BASES];
    uint8_t flags[BASES]; /* DIFF_VECTOR_HOST32 */
    uint64_t field[BASES][NVMX_FIELD_COUNT];
    unsigned int pokes;
    struct diff_poke poke[POKES_MAX];
};

struct vector {
    uint32_t number;
    uint8_t base, flags;
    unsigned int changes;
    struct diff_change change[CHANGES_MAX]; /* places are slots */
    const char *origin;
};

/* All that a check looks at, for one vector. in.field points into it. */
struct situation {
    uint8_t base;
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_input in;
};

struct random {
    uint64_t state;
};

struct world {
    struct capabilities caps;
    struct states states;
    struct nvmx_field_set exists; /* under l1 */
    uint64_t seed;
    bool unchecked[NVMX_CHECK_COUNT]; /* rows that the oracle does not make: they keep nothing from running */
};

/* random.c */
void random_init(struct random *r, uint64_t seed, uint64_t number);
uint64_t random_next(struct random *r);
/* 0..below - 1 */
unsigned int random_below(struct random *r, unsigned int below);

/* caps.c: lines that the image prints. 0 if they are complete. */
int caps_read(const char *path, struct capabilities *out);

/* states.c */
void states_init(struct states *s, const struct capabilities *caps);

/* situation.c */
uint64_t situation_memory(const struct world *w, const struct vector *v, uint64_t address);
void situation_init(struct situation *s, const struct world *w, const struct vector *v);
/* Would an entry failure, which loads host state too, leave L1 alive? NULL, or the reason why not. */
const char *situation_host_danger(const struct situation *s, const struct world *w);
/* Would an entry that passes all checks leave L1 and the machine alive, and end? */
const char *situation_danger(const struct situation *s, const struct world *w);
/* Does it set control bits, or anything that depends on capabilities, that the CPU has and nvmx doesn't offer? */
bool situation_beyond_l1(const struct situation *s, const struct world *w);

/* vectors.c */
unsigned int vectors_fixed(void);
bool vector_make(struct vector *v, const struct world *w, uint32_t number);

/* sequences.c */
#define OPERATIONS_MAX 48
struct sequence {
    uint32_t number, operations;
    struct diff_operation operation[OPERATIONS_MAX];
};
void sequence_make(struct sequence *s, const struct world *w, uint32_t number);
void sequence_print(const struct sequence *s);

#endif
