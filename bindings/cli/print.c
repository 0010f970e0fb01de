/* SPDX-License-Identifier: MIT */
#include "print.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_colours(void) {
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");

    return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0 && !(no_color && *no_color);
}

const char *ink(enum ink which) {
    static const char *const sequence[] = {
        [INK_PLAIN] = "\033[0m", [INK_BOLD] = "\033[1m",   [INK_BAD] = "\033[1;31m",
        [INK_GOOD] = "\033[32m", [INK_DOUBT] = "\033[33m", [INK_DIM] = "\033[2m",
    };
    static int known = -1; /* asked once: a stream does not become a terminal */

    if (known < 0)
        known = has_colours();
    return known ? sequence[which] : "";
}

const char *tame(const char *text) {
    static char buffer[2][256];
    static unsigned int turn;
    char *out = buffer[turn ^= 1];
    size_t length = 0;

    for (; text[length] && length < sizeof buffer[0] - 1; length++) {
        unsigned char byte = (unsigned char)text[length];

        out[length] = byte < 0x20 || byte >= 0x7f ? '?' : (char)byte;
    }
    out[length] = 0;
    return out;
}

static void new_line(const struct json *json) {
    printf("\n%*s", (int)json->depth * 2, "");
}

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;

        if (byte == '"' || byte == '\\')
            printf("\\%c", byte);
        else if (byte < 0x20 || byte >= 0x7f)
            printf("\\u%04x", byte); /* as Latin-1: input need not be UTF-8, the output always is */
        else
            putchar(byte);
    }
    putchar('"');
}

static void before_value(struct json *json, const char *key) {
    if (json->depth > 0) {
        if (json->filled[json->depth - 1])
            putchar(',');
        json->filled[json->depth - 1] = true;
        new_line(json);
    }
    if (key) {
        print_quoted(key);
        printf(": ");
    }
}

static void open_value(struct json *json, const char *key, char opening, char closing) {
    before_value(json, key);
    putchar(opening);
    if (json->depth >= JSON_DEPTH)
        abort();
    json->filled[json->depth] = false;
    json->closing[json->depth++] = closing;
}

void json_object(struct json *json, const char *key) {
    open_value(json, key, '{', '}');
}

void json_array(struct json *json, const char *key) {
    open_value(json, key, '[', ']');
}

void json_end(struct json *json) {
    bool filled = json->filled[--json->depth];

    if (filled)
        new_line(json);
    putchar(json->closing[json->depth]);
    if (json->depth == 0)
        putchar('\n');
}

void json_string(struct json *json, const char *key, const char *value) {
    before_value(json, key);
    if (value)
        print_quoted(value);
    else
        printf("null");
}

void json_number(struct json *json, const char *key, uint64_t value) {
    before_value(json, key);
    printf("%" PRIu64, value);
}

void json_hex(struct json *json, const char *key, uint64_t value) {
    before_value(json, key);
    printf("\"0x%" PRIx64 "\"", value);
}

void json_bool(struct json *json, const char *key, bool value) {
    before_value(json, key);
    printf("%s", value ? "true" : "false");
}
