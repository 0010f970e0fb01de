/* SPDX-License-Identifier: MIT */
/* Writing to stdout: colours on a terminal only, and JSON. */
#ifndef NVMX_CLI_PRINT_H
#define NVMX_CLI_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ink { INK_PLAIN = 0, INK_BOLD, INK_BAD, INK_GOOD, INK_DOUBT, INK_DIM };

/* The escape sequence of an ink; "" unless stdout is a terminal that knows colours and NO_COLOR is not set. */
const char *ink(enum ink which);

/* Text that came from a file or an argument: bytes that a terminal might obey are shown as '?'. At most 2 * 255 bytes
 * are shown; static storage. */
const char *tame(const char *text);

/* JSON, written as it comes. A key is NULL inside arrays and for the outermost value. */
#define JSON_DEPTH 16
struct json {
    unsigned int depth;
    bool filled[JSON_DEPTH];
    char closing[JSON_DEPTH];
};

void json_object(struct json *json, const char *key);
void json_array(struct json *json, const char *key);
void json_end(struct json *json);
void json_string(struct json *json, const char *key, const char *value); /* NULL value: null */
void json_number(struct json *json, const char *key, uint64_t value);
void json_hex(struct json *json, const char *key, uint64_t value); /* a string, "0x..." */
void json_bool(struct json *json, const char *key, bool value);

#endif
