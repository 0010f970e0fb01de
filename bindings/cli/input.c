/* SPDX-License-Identifier: MIT */
#include "input.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "print.h"

int input_error(const struct input *input, size_t line, const char *format, ...) {
    va_list list;

    va_start(list, format);
    fprintf(stderr, "nvmx: %s:%zu: ", tame(input->name), line);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    return CLI_USAGE;
}

static int cannot(const char *what, const char *name, int error) {
    fprintf(stderr, "nvmx: %s: %s: %s\n", tame(name), what, strerror(error));
    return CLI_SYSTEM;
}

/* One byte more than the file has, for the last line's end. */
static int read_bytes(struct input *input, FILE *file, size_t *size) {
    size_t room = 1 << 16, have = 0;

    for (;;) {
        char *bytes = realloc(input->bytes, room + 1);

        if (!bytes)
            return cannot("no memory", input->name, ENOMEM);
        input->bytes = bytes;
        have += fread(bytes + have, 1, room - have, file);
        if (have < room)
            break;
        if (room > INPUT_MOST_BYTES)
            return cannot("too large", input->name, EFBIG);
        room *= 2;
    }
    if (ferror(file))
        return cannot("can't be read", input->name, errno);
    *size = have;
    return CLI_OK;
}

static int cut(struct input *input, size_t size) {
    char *at = input->bytes, *end = input->bytes + size;
    size_t count = 1;

    *end = '\n';
    if (size >= strlen(BYTE_ORDER_MARK) && memcmp(at, BYTE_ORDER_MARK, strlen(BYTE_ORDER_MARK)) == 0)
        at += strlen(BYTE_ORDER_MARK);
    for (char *byte = at; byte < end; byte++)
        count += *byte == '\n';
    input->line = malloc(count * sizeof *input->line);
    if (!input->line)
        return cannot("no memory", input->name, ENOMEM);
    while (at < end) {
        char *stop = memchr(at, '\n', (size_t)(end + 1 - at));

        input->line[input->lines++] = at;
        if (memchr(at, 0, (size_t)(stop - at)))
            return input_error(input, input->lines, "a byte that is 0: this is not text");
        if (stop > at && stop[-1] == '\r')
            stop[-1] = 0;
        *stop = 0;
        at = stop + 1;
    }
    return CLI_OK;
}

int input_read(struct input *input, const char *path) {
    bool from_stdin = strcmp(path, "-") == 0;
    FILE *file = from_stdin ? stdin : fopen(path, "rb");
    size_t size = 0;
    int status;

    *input = (struct input){.name = from_stdin ? "stdin" : path};
    if (!file)
        return cannot("can't be opened", path, errno);
    status = read_bytes(input, file, &size);
    if (!from_stdin)
        fclose(file);
    return status == CLI_OK ? cut(input, size) : status;
}

void input_free(struct input *input) {
    free(input->bytes);
    free(input->line);
    *input = (struct input){0};
}

const char *skip_blanks(const char *text) {
    while (*text == ' ' || *text == '\t')
        text++;
    return text;
}

bool is_blank(const char *text) {
    return *skip_blanks(text) == 0;
}

/* One thing that a log puts before a line; `text` itself if there is none. */
static const char *one_prefix(const char *text) {
    static const char *const words[] = {"(XEN)", "kvm_intel:", "KVM:", "kvm:", "kernel:"};
    const char *kernel = strstr(text, " kernel: ");
    const char *end;

    if (kernel && kernel - text < 100)
        return kernel + strlen(" kernel: ");
    if (*text == '<' && isdigit((unsigned char)text[1]) && (end = strchr(text, '>')) != NULL && end - text < 5)
        return end + 1;
    if (*text == '[' && (end = strchr(text, ']')) != NULL &&
        strspn(text + 1, " 0123456789.:-TZ") == (size_t)(end - text - 1))
        return end + 1;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strncmp(text, words[i], strlen(words[i])) == 0)
            return text + strlen(words[i]);
    return text;
}

const char *without_prefix(const char *line) {
    const char *rest = line;

    for (;;) {
        const char *text = skip_blanks(rest);
        const char *next = one_prefix(text);

        if (next == text)
            return rest == line ? line : text;
        rest = next;
    }
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

const char *read_hex(const char *text, uint64_t *value) {
    uint64_t number = 0;
    bool any = false, prefixed = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

    if (prefixed)
        text += 2;
    for (; hex_digit(*text) >= 0 || (*text == '_' && any && hex_digit(text[1]) >= 0); text++) {
        if (*text == '_')
            continue;
        if (number >> 60 != 0)
            return NULL;
        number = number << 4 | (uint64_t)hex_digit(*text);
        any = true;
    }
    if (!any)
        return NULL;
    if (!prefixed && (*text == 'H' || *text == 'h'))
        text++;
    *value = number;
    return text;
}

bool whole_hex(const char *text, uint64_t *value) {
    const char *end = read_hex(text, value);

    return end && *end == 0;
}

void plain_name(const char *text, size_t length, char *out, size_t size) {
    size_t used = 0;
    bool gap = false;

    for (size_t i = 0; i < length && text[i]; i++) {
        unsigned char c = (unsigned char)text[i];

        if (!isalnum(c)) {
            gap = used > 0;
            continue;
        }
        if (gap && used + 1 < size)
            out[used++] = '_';
        gap = false;
        if (used + 1 < size)
            out[used++] = (char)tolower(c);
    }
    out[used] = 0;
}
