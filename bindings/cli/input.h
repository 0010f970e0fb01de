/* SPDX-License-Identifier: MIT */
/* Text files, read whole and cut into lines; and the words and numbers in them. */
#ifndef NVMX_CLI_INPUT_H
#define NVMX_CLI_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INPUT_MOST_BYTES (64u << 20)

/* What editors of Windows put before a text. */
#define BYTE_ORDER_MARK "\xef\xbb\xbf"

struct input {
    const char *name; /* for messages; the caller's */
    char *bytes;      /* lines end with 0 */
    char **line;
    size_t lines; /* line[0] is line 1 */
};

/* Reads a file, or stdin for "-". CLI_OK, or a status after a message. input_free in both cases. */
int input_read(struct input *input, const char *path);
void input_free(struct input *input);

/* "nvmx: NAME:LINE: ..." on stderr, and CLI_USAGE. */
int input_error(const struct input *input, size_t line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * The line without what a log puts before it: "<3>", "[  12.345678]", "(XEN)", "Sep  8 22:52:20 host kernel:",
 * "kvm_intel:". Its own indentation stays if there is no such thing.
 */
const char *without_prefix(const char *line);

const char *skip_blanks(const char *text);
bool is_blank(const char *text);

/*
 * A hexadecimal number: digits, with 0x before them or H behind them, perhaps with _ between them. NULL if there is
 * none, or it has more than 64 bits; else what follows it.
 */
const char *read_hex(const char *text, uint64_t *value);

/* As read_hex, and nothing may follow. */
bool whole_hex(const char *text, uint64_t *value);

/* Lower case, each run of other characters than letters and digits one '_', none at the ends. */
void plain_name(const char *text, size_t length, char *out, size_t size);

#endif
