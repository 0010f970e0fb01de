/* SPDX-License-Identifier: MIT */
/* Which rules a VMCS breaks, when not all of its fields are known. */
#ifndef NVMX_CLI_DECIDE_H
#define NVMX_CLI_DECIDE_H

#include <nvmx/checks.h>

#include "dump.h"
#include "rule.h"

enum verdict {
    VERDICT_HOLDS = 0,
    VERDICT_BROKEN,
    VERDICT_UNDECIDED, /* it depends on something that is not known */
    VERDICT_ELSEWHERE, /* no rule about a VMCS */
};

/* One VMCS to judge, under the capabilities of one CPU. */
struct subject {
    struct nvmx_caps caps;
    struct nvmx_field_set exists; /* under caps; fields that do not exist hold 0 */
    struct nvmx_field_set known;
    uint64_t field[NVMX_FIELD_COUNT]; /* where known; else 0 */
    uint64_t fact[DUMP_FACTS];
    bool fact_known[DUMP_FACTS];
};

void subject_init(struct subject *subject, const struct dump *dump, const struct nvmx_caps *caps);

/*
 * The verdict on each row. A rule that reads something unknown is evaluated with many values in its place; it is
 * decided only if all of them agree.
 */
void decide(const struct subject *subject, enum verdict verdict[NVMX_CHECK_COUNT]);

/* Does the rule read something that is not known? Fields into *fields, others as bits 1 << enum dump_fact into *facts.
 */
bool unknown_to(const struct subject *subject, const struct rule *rule, struct nvmx_field_set *fields, uint32_t *facts);

/* One complete guess: what is known, and a value for all else. */
struct guess {
    uint64_t field[NVMX_FIELD_COUNT];
    uint64_t fact[DUMP_FACTS];
};

enum guess_kind { GUESS_ZEROS = 0, GUESS_ONES, GUESS_USUAL, GUESS_KINDS };
/* Unknown places hold 0, or all ones, or what a 64-bit guest on a 64-bit host usually has. */
void guess_init(struct guess *guess, const struct subject *subject, enum guess_kind kind);
/* A value that a field usually has in such a VMCS. */
uint64_t usual_value(unsigned int slot, const struct nvmx_caps *caps);

/* The rows that fail, in order; returns how many. */
size_t guess_failures(const struct guess *guess, const struct subject *subject,
                      struct nvmx_check_failure out[NVMX_CHECK_COUNT]);

#endif
