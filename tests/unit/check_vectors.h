/* SPDX-License-Identifier: MIT */
/* The tables of check_vectors.def: states that break a row, and states in which all hold. */
#ifndef NVMX_TESTS_CHECK_VECTORS_H
#define NVMX_TESTS_CHECK_VECTORS_H

#include "check_states.h"

struct vector {
    uint16_t row;
    uint16_t first; /* the first failing row: `row` itself unless it is shadowed */
    uint8_t base;
    struct change before[CHECK_CHANGES];
    struct change broken[CHECK_CHANGES];
};

#define NOTHING {{CHANGE_NONE, 0, 0}}
#define BEFORE(...) {__VA_ARGS__}
#define BREAK(...) {__VA_ARGS__}
#define SET(name, value) {CHANGE_SET, NVMX_F_##name, value}
#define OR(name, value) {CHANGE_OR, NVMX_F_##name, value}
#define CLEAR(name, value) {CHANGE_CLEAR, NVMX_F_##name, value}
#define CAP_OR(name, value) {CHANGE_CAP_OR, NVMX_CAP_##name, value}
#define CAP_CLEAR(name, value) {CHANGE_CAP_CLEAR, NVMX_CAP_##name, value}
#define CPU_OR(name) {CHANGE_CPU_OR, 0, NVMX_CPU_##name}
#define CPU_CLEAR(name) {CHANGE_CPU_CLEAR, 0, NVMX_CPU_##name}
#define VTPR(value) {CHANGE_VTPR, 0, value}
#define REVISION(value) {CHANGE_REVISION, 0, value}
#define READABLE(value) {CHANGE_READABLE, 0, value}
#define PDPTE(number, value) {CHANGE_PDPTE, number, value}
#define PDPTE_READABLE(value) {CHANGE_PDPTE_READABLE, 0, value}
#define VECTOR(section, number, base, before, broken)                                                                            \
    {NVMX_C_##section##_##number, NVMX_C_##section##_##number, base, before, broken},
#define SHADOWED(section, number, first_section, first_number, base, before, broken)                                             \
    {NVMX_C_##section##_##number, NVMX_C_##first_section##_##first_number, base, before, broken},

#define VALID(base, before)

static const struct vector vectors[] = {
#include "check_vectors.def"
};
#define VECTORS (sizeof vectors / sizeof vectors[0])

#undef VECTOR
#undef SHADOWED
#undef VALID
#define VECTOR(section, number, base, before, broken)
#define SHADOWED(section, number, first_section, first_number, base, before, broken)
#define VALID(base, before) {base, before},
static const struct {
    uint8_t base;
    struct change before[CHECK_CHANGES];
} valid[] = {
#include "check_vectors.def"
};
#define VALID_STATES (sizeof valid / sizeof valid[0])

#endif
