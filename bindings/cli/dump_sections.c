/* SPDX-License-Identifier: MIT */
/* The dumps of Linux's KVM and of Xen: "*** Guest State ***", "*** Host State ***", "*** Control State ***". */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "dump.h"
#include "print.h"

enum section { GUEST = 0, HOST, CONTROL };

#define ITEM_FIELDS    4
#define NVMX_F_NOTHING NVMX_FIELD_COUNT

struct item {
    uint8_t section;
    const char *pattern;
    uint8_t slot[ITEM_FIELDS];
};

static const struct item items[] = {
#define ITEM(section, pattern, a, b, c, d) {section, pattern, {NVMX_F_##a, NVMX_F_##b, NVMX_F_##c, NVMX_F_##d}},
#define SEGMENT(name, field)                                                                                           \
    ITEM(GUEST, name ": sel=%, attr=%, limit=%, base=%", field##_SELECTOR, field##_ACCESS_RIGHTS, field##_LIMIT,       \
         field##_BASE)                                                                                                 \
    ITEM(GUEST, name ": % % % %", field##_SELECTOR, field##_ACCESS_RIGHTS, field##_LIMIT, field##_BASE)
#include "dump_items.def"
#undef SEGMENT
#undef ITEM
};

/* The lists of MSRs that KVM prints with their content; their lengths are fields. */
static const struct {
    const char *heading;
    uint8_t slot;
} lists[] = {
    {"MSR guest autoload:", NVMX_F_VM_ENTRY_MSR_LOAD_COUNT},
    {"MSR guest autostore:", NVMX_F_VM_EXIT_MSR_STORE_COUNT},
    {"MSR host autoload:", NVMX_F_VM_EXIT_MSR_LOAD_COUNT},
};
#define LISTS (sizeof lists / sizeof lists[0])

struct reader {
    const struct input *input;
    struct dumps *dumps;
    struct dump *dump; /* being read; NULL before the first heading */
    enum section section;
    int list; /* being read, or -1 */
    uint32_t length[LISTS];
    bool prints_lists; /* this KVM prints lists that are not empty (since 5.12) */
    size_t strange;    /* the first line that is nobody's, since the last one that was understood */
};

/* -- matching
 * ------------------------------------------------------------------------------------------------------------------------------
 */

struct match {
    uint64_t value[ITEM_FIELDS];
    unsigned int values;
    uint32_t foreign; /* bit n: value n is not from the VMCS */
    const char *end;  /* after the item; where it went wrong */
    const char *want; /* what was expected there; NULL: all matched */
    bool key;         /* got as far as the first number */
};

static const char *parenthesised(const char *text) {
    const char *at = skip_blanks(text);
    const char *close = *at == '(' ? strchr(at, ')') : NULL;

    return close ? close + 1 : text;
}

static bool wrong(struct match *match, const char *at, const char *want) {
    match->end = at;
    match->want = want;
    return false;
}

static bool match_item(const char *pattern, const char *text, struct match *match) {
    *match = (struct match){0};
    for (; *pattern; pattern++) {
        const char *next = text;

        switch (*pattern) {
        case ' ':
            text = skip_blanks(text);
            break;
        case '~':
            text = parenthesised(text);
            break;
        case '!':
            next = parenthesised(text);
            if (next != text)
                match->foreign |= 1u << (match->values - 1);
            text = next;
            break;
        case '%':
            match->key = true;
            text = skip_blanks(text);
            next = read_hex(text, &match->value[match->values]);
            if (!next || isalnum((unsigned char)*next))
                return wrong(match, text, "a hexadecimal number of at most 64 bits");
            match->values++;
            text = next;
            break;
        default:
            if (*text != *pattern)
                return wrong(match, text, pattern);
            text++;
        }
    }
    match->key = true;
    match->end = text;
    return true;
}

/* -- lines
 * ------------------------------------------------------------------------------------------------------------------------------------
 */

static int store(struct reader *r, size_t line, const struct item *item, const struct match *match) {
    for (unsigned int i = 0; i < match->values; i++) {
        if (item->slot[i] == NVMX_F_NOTHING || (match->foreign >> i & 1))
            continue;
        if (!dump_put(r->dump, r->input, line, item->slot[i], match->value[i]))
            return CLI_USAGE;
    }
    return CLI_OK;
}

/* The item that `text` begins with; the one that got furthest if none matches whole. NULL: nobody knows its key. */
static const struct item *find_item(enum section section, const char *text, struct match *match) {
    const struct item *nearest = NULL;

    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++) {
        struct match found;

        if (items[i].section != (uint8_t)section)
            continue;
        if (match_item(items[i].pattern, text, &found)) {
            *match = found;
            return &items[i];
        }
        if (found.key && (!nearest || found.end > match->end)) {
            *match = found;
            nearest = &items[i];
        }
    }
    return nearest;
}

static int malformed(const struct reader *r, size_t line, const char *text, const struct match *match) {
    const char *at = *match->end ? match->end : "the end of the line";

    if (strncmp(match->want, "a hex", 5) == 0)
        return input_error(r->input, line, "%s is expected after '%.*s', not '%.40s'", match->want,
                           (int)(match->end - text), tame(text), tame(at));
    return input_error(r->input, line, "'%.20s' is expected after '%.*s', not '%.40s'", match->want,
                       (int)(match->end - text), tame(text), tame(at));
}

/* One entry of a list: "  0: msr=0x000001d9 value=0x...". */
static bool is_entry(const char *text) {
    struct match match;
    uint64_t number;

    text = skip_blanks(text);
    return isdigit((unsigned char)*text) && (text = read_hex(text, &number)) != NULL &&
           match_item(": msr=% value=%", text, &match);
}

static bool take_list(struct reader *r, const char *text) {
    if (r->list >= 0 && is_entry(text)) {
        r->length[r->list]++;
        return true;
    }
    r->list = -1;
    for (unsigned int i = 0; i < LISTS; i++)
        if (strncmp(text, lists[i].heading, strlen(lists[i].heading)) == 0) {
            r->list = (int)i;
            r->prints_lists = true;
        }
    return r->list >= 0;
}

/* Lines of others come between a dump's lines in a log. */
static void note_strange(struct reader *r) {
    if (r->strange)
        fprintf(stderr, "nvmx: %s:%zu: not part of the dump around it: '%.60s'\n", tame(r->input->name), r->strange,
                tame(r->input->line[r->strange - 1]));
    r->strange = 0;
}

/* A mail program may have wrapped the line: with the next one behind it. The caller frees it. NULL: it does not help.
 */
static char *unwrapped(const struct reader *r, size_t line, const char *text) {
    const char *more = line < r->input->lines ? skip_blanks(without_prefix(r->input->line[line])) : "";
    size_t size = strlen(text) + strlen(more) + 2;
    struct match match;
    char *joined = *more ? malloc(size) : NULL;

    if (!joined)
        return NULL;
    snprintf(joined, size, "%s %s", text, more);
    if (find_item(r->section, joined, &match) && !match.want)
        return joined;
    free(joined);
    return NULL;
}

static int take_items(struct reader *r, size_t *line, const char *text) {
    size_t first = *line;
    char *joined = NULL;
    int status = CLI_OK;
    bool any = false;

    while (*(text = skip_blanks(text)) && status == CLI_OK) {
        struct match match;
        const struct item *item = find_item(r->section, text, &match);

        if (item && match.want && is_blank(match.end) && !joined && (joined = unwrapped(r, *line, text)) != NULL) {
            text = joined;
            ++*line;
            continue;
        }
        if (!item && !any) {
            if (!r->strange)
                r->strange = first;
            break;
        }
        if (!item)
            status = input_error(r->input, first, "'%.40s' at the end of a line of the dump", tame(text));
        else if (match.want)
            status = malformed(r, first, text, &match);
        else
            status = store(r, first, item, &match);
        if (status == CLI_OK) {
            note_strange(r);
            any = true;
            r->prints_lists = r->prints_lists || strncmp(text, "EFER=", 5) == 0;
            text = match.end;
        }
    }
    free(joined);
    return status;
}

/* Lists of which a KVM that prints lists says nothing are empty. */
static void end_dump(struct reader *r) {
    for (unsigned int i = 0; r->dump && r->dump->format == DUMP_LINUX && r->prints_lists && i < LISTS; i++) {
        r->dump->value[lists[i].slot] = r->length[i];
        nvmx_set_add(&r->dump->implied, lists[i].slot);
    }
    r->dump = NULL;
}

static const char *const heading[] = {"*** Guest State ***", "*** Host State ***", "*** Control State ***"};

bool is_section_heading(const char *line) {
    return strstr(line, heading[GUEST]) != NULL;
}

static int begin_dump(struct reader *r, size_t line) {
    end_dump(r);
    *r = (struct reader){.input = r->input, .dumps = r->dumps, .list = -1};
    r->dump = dumps_add(r->dumps, strstr(r->input->line[line - 1], "(XEN)") ? DUMP_XEN : DUMP_LINUX, line);
    return r->dump ? CLI_OK : CLI_SYSTEM;
}

static int take_caps(struct reader *r, size_t line, const char *text, bool *taken) {
    char why[200];
    enum capset_take take = capset_take_line(&r->dump->caps, text, why, sizeof why);

    *taken = take != CAPSET_OTHER;
    return take == CAPSET_BAD ? input_error(r->input, line, "%s", why) : CLI_OK;
}

static int take_line(struct reader *r, size_t *line) {
    const char *text = skip_blanks(without_prefix(r->input->line[*line - 1]));
    bool taken;
    int status;

    if (is_section_heading(text))
        return begin_dump(r, *line);
    if (is_own_heading(r->input->line[*line - 1])) /* read_own reads what follows */
        end_dump(r);
    if (!r->dump || *text == 0)
        return CLI_OK;
    for (unsigned int i = HOST; i <= CONTROL; i++) {
        if (strstr(text, heading[i]) == NULL)
            continue;
        r->section = (enum section)i;
        r->list = -1;
        return CLI_OK;
    }
    if (strncmp(text, "sel ", 4) == 0) /* the heading of Xen's table; its serial console shows no "(XEN)" */
        r->dump->format = DUMP_XEN;
    status = take_caps(r, *line, text, &taken);
    return taken || take_list(r, text) ? status : take_items(r, line, text);
}

int read_sections(struct dumps *dumps, const struct input *input) {
    struct reader r = {.input = input, .dumps = dumps, .list = -1};
    int status = CLI_OK;

    for (size_t line = 1; line <= input->lines && status == CLI_OK; line++)
        status = take_line(&r, &line);
    end_dump(&r);
    return status;
}
