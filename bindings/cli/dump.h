/* SPDX-License-Identifier: MIT */
/* VMCS dumps as text: Linux's, Xen's, nvmx's own, and plain pairs. */
#ifndef NVMX_CLI_DUMP_H
#define NVMX_CLI_DUMP_H

#include <nvmx/vmcs.h>

#include "capset.h"
#include "input.h"

enum dump_format { DUMP_LINUX = 0, DUMP_XEN, DUMP_NVMX, DUMP_PAIRS };

/* What checks need and no VMCS holds. A file of pairs may give them under the names of dump_fact_name. */
enum dump_fact {
    FACT_LONG_MODE = 0, /* 0 or 1: L1's EFER.LMA at the entry */
    FACT_CURRENT_VMCS,
    FACT_LINK_REVISION, /* dword 0 at the VMCS link pointer */
    FACT_VTPR,
    FACT_PDPTE0, /* in memory, at guest CR3 */
    FACT_PDPTE1,
    FACT_PDPTE2,
    FACT_PDPTE3,
    DUMP_FACTS,
};

struct dump {
    enum dump_format format;
    size_t first_line;
    uint64_t value[NVMX_FIELD_COUNT];
    uint32_t line[NVMX_FIELD_COUNT]; /* where the value stands; 0: not given */
    struct nvmx_field_set implied;   /* given by what the dump's format leaves out: see dump_sections.c */
    uint64_t fact[DUMP_FACTS];
    bool fact_known[DUMP_FACTS];
    struct capset caps; /* what capability MSRs the dump has; caps.msrs == 0: none */
};

struct dumps {
    struct dump *dump;
    size_t count;
};

const char *dump_format_name(enum dump_format format);

/* Name of a fact in files, and in words for people. */
const char *dump_fact_name(enum dump_fact fact);
const char *dump_fact_text(enum dump_fact fact);

/* All dumps in a text. CLI_OK with at least one, or a status after a message. dumps_free in both cases. */
int dumps_read(struct dumps *dumps, const struct input *input);
void dumps_free(struct dumps *dumps);

/* -- between the readers
 * ---------------------------------------------------------------------------------------------------------------- */

/* Another dump, empty, at the end; NULL without memory. */
struct dump *dumps_add(struct dumps *dumps, enum dump_format format, size_t line);

/* Note a field's value. False after a message: too wide for the field, or given before with another value. */
bool dump_put(struct dump *dump, const struct input *input, size_t line, unsigned int slot, uint64_t value);

/* "*** Guest State ***" and what follows (dump_sections.c); lines `ENCODING NAME VALUE` after a heading, and pairs
 * (dump_pairs.c). */
int read_sections(struct dumps *dumps, const struct input *input);
int read_own(struct dumps *dumps, const struct input *input);
int read_pairs(struct dumps *dumps, const struct input *input);
bool is_section_heading(const char *line);
bool is_own_heading(const char *line);

/* The slot of a field by a name: the SDM's, the table's, or the one that Linux or Xen uses. NVMX_FIELD_NONE if there is
 * none. */
int field_named(const char *name, size_t length);
/* The table's name of a slot, "GUEST_RIP". */
const char *field_identifier(unsigned int slot);

#endif
