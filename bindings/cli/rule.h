/* SPDX-License-Identifier: MIT */
/* What the expressions in entry_checks.def read: the fields of each rule, and the feature that it is about. */
#ifndef NVMX_CLI_RULE_H
#define NVMX_CLI_RULE_H

#include <nvmx/checks.h>

#define RULE_SHOWN      16
#define RULE_NO_FEATURE (-1)

struct rule {
    struct nvmx_field_set reads; /* all fields that can matter, with those that activate others */
    uint32_t facts;              /* bits 1 << enum dump_fact, besides */
    uint8_t shown[RULE_SHOWN];   /* slots, those that the rule constrains first, then those of its condition */
    uint8_t count;
    uint8_t constrained; /* how many of them are of the first kind */
    int feature;         /* row of nvmx_cap_bit, or RULE_NO_FEATURE */
    const char *unknown; /* a word of the expression that this file does not know; NULL: none */
};

/* False past the last row. */
bool rule_of(size_t row, struct rule *rule);

/* The row of the capability table for a bit of an MSR, or -1. */
int capability_row(uint32_t msr, unsigned int bit);

/* The capability that lets bit `bit` of a control field be 1, or -1 if the field holds no controls. */
int control_capability(unsigned int slot, unsigned int bit);

#endif
