/* SPDX-License-Identifier: MIT */
#include "dump.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

const char *dump_format_name(enum dump_format format) {
    static const char *const name[] = {
        [DUMP_LINUX] = "Linux (KVM)", [DUMP_XEN] = "Xen", [DUMP_NVMX] = "nvmx", [DUMP_PAIRS] = "pairs"};

    return name[format];
}

const char *dump_fact_name(enum dump_fact fact) {
    static const char *const name[DUMP_FACTS] = {"l1_long_mode",  "current_vmcs",  "link_revision", "vtpr",
                                                 "memory_pdpte0", "memory_pdpte1", "memory_pdpte2", "memory_pdpte3"};

    return name[fact];
}

const char *dump_fact_text(enum dump_fact fact) {
    static const char *const text[DUMP_FACTS] = {"L1's IA32_EFER.LMA",
                                                 "the current-VMCS pointer",
                                                 "the dword at the VMCS link pointer",
                                                 "VTPR",
                                                 "PDPTE 0 in memory",
                                                 "PDPTE 1 in memory",
                                                 "PDPTE 2 in memory",
                                                 "PDPTE 3 in memory"};

    return text[fact];
}

struct dump *dumps_add(struct dumps *dumps, enum dump_format format, size_t line) {
    struct dump *more = realloc(dumps->dump, (dumps->count + 1) * sizeof *more);

    if (!more) {
        fprintf(stderr, "nvmx: no memory\n");
        return NULL;
    }
    dumps->dump = more;
    more += dumps->count++;
    memset(more, 0, sizeof *more);
    more->format = format;
    more->first_line = line;
    return more;
}

void dumps_free(struct dumps *dumps) {
    free(dumps->dump);
    *dumps = (struct dumps){0};
}

bool dump_put(struct dump *dump, const struct input *input, size_t line, unsigned int slot, uint64_t value) {
    const struct nvmx_field_info *field = nvmx_field_info(slot);

    if (value & ~nvmx_field_mask(slot)) {
        input_error(input, line, "%" PRIX64 "H does not fit into %s (%04XH), which has %s bits", value, field->name,
                    field->encoding, nvmx_field_mask(slot) == 0xffff ? "16" : "32");
        return false;
    }
    if (dump->line[slot] && dump->value[slot] != value) {
        input_error(input, line, "%s (%04XH) is %" PRIX64 "H here and %" PRIX64 "H on line %" PRIu32, field->name,
                    field->encoding, value, dump->value[slot], dump->line[slot]);
        return false;
    }
    dump->value[slot] = value;
    dump->line[slot] = (uint32_t)line;
    return true;
}

/* A natural-width field with a bit above 31 was written in 64-bit mode: elsewhere VMWRITE has 32-bit operands
 * (SDM 33.3, VMWRITE). */
static void infer_mode(struct dump *dump) {
    if (dump->fact_known[FACT_LONG_MODE])
        return;
    for (unsigned int slot = NVMX_F_HOST_CR0; slot <= NVMX_F_HOST_INTERRUPT_SSP_TABLE_ADDR; slot++)
        if (dump->line[slot] && dump->value[slot] >> 32) {
            dump->fact[FACT_LONG_MODE] = 1;
            dump->fact_known[FACT_LONG_MODE] = true;
        }
}

static bool finish_caps(struct dump *dump, const struct input *input) {
    char why[200];

    if (dump->caps.msrs == 0)
        return true;
    if (!capset_finish(&dump->caps, why, sizeof why)) {
        input_error(input, dump->first_line, "the dump's capabilities are not complete: %s", why);
        return false;
    }
    snprintf(dump->caps.name, sizeof dump->caps.name, "the dump's own");
    return true;
}

static bool any_field(const struct dump *dump) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (dump->line[slot] || nvmx_set_has(&dump->implied, slot))
            return true;
    return false;
}

/* A heading without a field behind it: the log was cut off there, or somebody quoted the heading. The other dumps stay.
 */
static int drop_empty(struct dumps *dumps, const struct input *input) {
    size_t kept = 0, empty = 0;

    for (size_t i = 0; i < dumps->count; i++) {
        if (any_field(&dumps->dump[i])) {
            dumps->dump[kept++] = dumps->dump[i];
            continue;
        }
        empty = dumps->dump[i].first_line;
        input_error(input, empty, "no field of a VMCS follows this heading: is the dump cut off?");
    }
    dumps->count = kept;
    return kept == 0 && empty != 0 ? CLI_USAGE : CLI_OK;
}

static int by_line(const void *a, const void *b) {
    const struct dump *x = a, *y = b;

    return x->first_line < y->first_line ? -1 : x->first_line > y->first_line;
}

/* A log may have both kinds: those of a Linux that is L1, and the bare-metal host's at its end. */
static int read_headed(struct dumps *dumps, const struct input *input) {
    bool own = false, sections = false;
    int status = CLI_OK;

    for (size_t i = 0; i < input->lines; i++) {
        own = own || is_own_heading(input->line[i]);
        sections = sections || is_section_heading(input->line[i]);
    }
    if (own)
        status = read_own(dumps, input);
    if (sections && status == CLI_OK)
        status = read_sections(dumps, input);
    if (own && sections && dumps->count > 1)
        qsort(dumps->dump, dumps->count, sizeof *dumps->dump, by_line);
    return (own || sections) && status == CLI_OK ? drop_empty(dumps, input) : status;
}

int dumps_read(struct dumps *dumps, const struct input *input) {
    int status;

    *dumps = (struct dumps){0};
    status = read_headed(dumps, input);
    if (status == CLI_OK && dumps->count == 0)
        status = read_pairs(dumps, input);
    for (size_t i = 0; i < dumps->count && status == CLI_OK; i++) {
        infer_mode(&dumps->dump[i]);
        if (!finish_caps(&dumps->dump[i], input))
            status = CLI_USAGE;
    }
    return status;
}
