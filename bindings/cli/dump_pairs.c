/* SPDX-License-Identifier: MIT */
/*
 * `ENCODING VALUE`, `NAME VALUE` and `ENCODING NAME VALUE`, one field a line: the plain format, and, indented under a
 * heading, the one in which nvmx's bare-metal host prints a VMCS.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "dump.h"
#include "print.h"

static bool is_separator(char c) {
    return c == ' ' || c == '\t' || c == '=' || c == ':' || c == ',';
}

/* The line's last word and what is before it. False: there is only one word. */
static bool split_last(const char *line, size_t *head, const char **last) {
    size_t end = strlen(line), start;

    while (end > 0 && is_separator(line[end - 1]))
        end--;
    for (start = end; start > 0 && !is_separator(line[start - 1]);)
        start--;
    *last = line + start;
    while (start > 0 && is_separator(line[start - 1]))
        start--;
    *head = start;
    return start > 0;
}

static int put_half(struct dump *dump, const struct input *input, size_t line, unsigned int slot, uint64_t value) {
    if (value >> 32)
        return input_error(input, line, "%" PRIX64 "H does not fit into the high half of a field", value);
    value = value << 32 | (dump->value[slot] & UINT32_MAX);
    dump->value[slot] = value;
    dump->line[slot] = (uint32_t)line;
    return CLI_OK;
}

/* One of the things that no VMCS holds? CLI_BROKEN: no. */
static int take_fact(struct dump *dump, const struct input *input, size_t line, const char *name, size_t length,
                     uint64_t value) {
    static const uint64_t most[DUMP_FACTS] = {1,          UINT64_MAX, UINT32_MAX, 0xff,
                                              UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    char plain[64];

    plain_name(name, length, plain, sizeof plain);
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++) {
        if (strcmp(plain, dump_fact_name(fact)) != 0)
            continue;
        if (value > most[fact])
            return input_error(input, line, "%s is at most %" PRIX64 "H", plain, most[fact]);
        dump->fact[fact] = value;
        dump->fact_known[fact] = true;
        return CLI_OK;
    }
    return CLI_BROKEN;
}

static int take_encoding(struct dump *dump, const struct input *input, size_t line, const char *name, size_t length,
                         uint64_t encoding, uint64_t value) {
    bool high = false;
    int slot = encoding <= UINT32_MAX ? nvmx_field_find((uint32_t)encoding, &high) : NVMX_FIELD_NONE;

    if (slot == NVMX_FIELD_NONE)
        return input_error(input, line, "%" PRIX64 "H is not the encoding of a VMCS field", encoding);
    if (length > 0 && field_named(name, length) != slot)
        return input_error(input, line, "%04" PRIX64 "H is %s, not '%.*s'", encoding,
                           nvmx_field_info((unsigned int)slot)->name, (int)(length < 60 ? length : 60), tame(name));
    if (high)
        return put_half(dump, input, line, (unsigned int)slot, value);
    return dump_put(dump, input, line, (unsigned int)slot, value) ? CLI_OK : CLI_USAGE;
}

static int take_line(struct dump *dump, const struct input *input, size_t number) {
    const char *line = skip_blanks(input->line[number - 1]), *last, *rest;
    char why[200];
    size_t head;
    uint64_t value, encoding;
    int slot, status;

    switch (capset_take_line(&dump->caps, line, why, sizeof why)) {
    case CAPSET_TAKEN:
        return CLI_OK;
    case CAPSET_BAD:
        return input_error(input, number, "%s", why);
    case CAPSET_OTHER:
        break;
    }
    if (!split_last(line, &head, &last))
        return input_error(input, number, "a field and its value are expected, not '%s'", tame(line));
    if ((rest = read_hex(last, &value)) == NULL || (*rest && !is_separator(*rest)))
        return input_error(input, number, "not a hexadecimal number of at most 64 bits: '%s'", tame(last));
    rest = read_hex(line, &encoding);
    if (rest && (rest == line + head || is_separator(*rest))) {
        while (rest < line + head && is_separator(*rest))
            rest++;
        return take_encoding(dump, input, number, rest, (size_t)(line + head - rest), encoding, value);
    }
    status = take_fact(dump, input, number, line, head, value);
    if (status != CLI_BROKEN)
        return status;
    slot = field_named(line, head);
    if (slot == NVMX_FIELD_NONE)
        return input_error(input, number, "no VMCS field is called '%.*s'", (int)(head < 100 ? head : 100), tame(line));
    return dump_put(dump, input, number, (unsigned int)slot, value) ? CLI_OK : CLI_USAGE;
}

static bool any_field(const struct dump *dump) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (dump->line[slot])
            return true;
    return false;
}

int read_pairs(struct dumps *dumps, const struct input *input) {
    struct dump *dump = dumps_add(dumps, DUMP_PAIRS, 1);
    int status = dump ? CLI_OK : CLI_SYSTEM;

    for (size_t i = 0; i < input->lines && status == CLI_OK; i++) {
        const char *line = skip_blanks(input->line[i]);

        if (*line && *line != '#' && strncmp(line, "//", 2) != 0)
            status = take_line(dump, input, i + 1);
    }
    if (status == CLI_OK && !any_field(dump))
        status = input_error(input, input->lines ? input->lines : 1, "no VMCS dump in it");
    return status;
}

bool is_own_heading(const char *line) {
    const char *found = strstr(line, "nvmx: VMCS ");
    const char *open = found ? strstr(found, " (") : NULL;

    return open && strchr(open, ')');
}

int read_own(struct dumps *dumps, const struct input *input) {
    struct dump *dump = NULL;
    int status = CLI_OK;

    for (size_t i = 0; i < input->lines && status == CLI_OK; i++) {
        if (is_own_heading(input->line[i])) {
            dump = dumps_add(dumps, DUMP_NVMX, i + 1);
            status = dump ? CLI_OK : CLI_SYSTEM;
        } else if (dump && strncmp(input->line[i], "  ", 2) == 0 && !is_blank(input->line[i])) {
            status = take_line(dump, input, i + 1);
        } else {
            dump = NULL; /* the dump ends where the indentation does */
        }
    }
    return status;
}
