/* SPDX-License-Identifier: MIT */
/* What `nvmx explain` found out about one dump, and its two ways to say it. */
#ifndef NVMX_CLI_EXPLAIN_H
#define NVMX_CLI_EXPLAIN_H

#include "decide.h"
#include "print.h"

struct explanation {
    const char *file;
    const struct dump *dump;
    const struct capset *caps;
    bool assumed; /* nobody chose the capabilities: `permissive` */
    bool for_l1;  /* they are what nvmx offers on that CPU */
    bool verbose;
    struct subject subject;
    enum verdict verdict[NVMX_CHECK_COUNT];
    size_t count[VERDICT_ELSEWHERE + 1];
};

void explain_text(const struct explanation *e);
void explain_json(struct json *json, const struct explanation *e);

/* "VMfailValid 7", "VM-entry failure 33 (qualification 0)". */
void outcome_text(const struct nvmx_check_row *row, char *out, size_t size);

/* The bits of `diff` in words, "7, 13:11 (HLT exiting)", for people. */
void bits_text(unsigned int slot, uint64_t diff, char *out, size_t size);

/* Is a field of the dump one that does not exist under the capabilities, and not 0? */
bool is_foreign(const struct explanation *e, unsigned int slot);

/* "GUEST_CR0" as a number of its width: "0000000080000031". */
void value_text(unsigned int slot, uint64_t value, char *out, size_t size);

#endif
