/* SPDX-License-Identifier: MIT */
/* tests/unit/check_vectors.def as a table: states near the edge of each rule, and the fields that it depends on. */
#include "rows.h"

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
#define VECTOR(section, number, base, before, broken) {NVMX_C_##section##_##number, base, before, broken},
#define SHADOWED(section, number, first_section, first_number, base, before, broken) \
    {NVMX_C_##section##_##number, base, before, broken},
#define VALID(base, before) {NVMX_CHECK_NONE, base, before, NOTHING},

static const struct recipe table[] = {
#include "../../unit/check_vectors.def"
};

unsigned int recipes(void) {
    return sizeof table / sizeof table[0];
}

const struct recipe *recipe(unsigned int number) {
    return &table[number];
}
