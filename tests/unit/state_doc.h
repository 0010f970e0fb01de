/* SPDX-License-Identifier: MIT */
/* A blob of nested state taken apart and put together again, by the format's description and without the library's reader. */
#ifndef STATE_DOC_H
#define STATE_DOC_H

#include "state_worlds.h"

#define DOC_ITEMS 256
#define DOC_RECORDS 16

struct doc_item {
    uint32_t id, reserved;
    uint64_t value;
};

struct doc_record {
    uint32_t tag;
    bool has_head;
    uint64_t head[2];
    uint32_t items;
    struct doc_item item[DOC_ITEMS];
};

struct doc {
    uint32_t version, flags;
    uint32_t records;
    struct doc_record record[DOC_RECORDS];
};

/* Of a good blob (asserted). */
void doc_read(struct doc *doc, const uint8_t *blob, size_t bytes);
/* Length and checksum made right; returns the length. */
size_t doc_write(const struct doc *doc, uint8_t *blob, size_t room);

/* The n-th record with this tag, or NULL. */
struct doc_record *doc_find(struct doc *doc, uint32_t tag, uint32_t n);
void doc_drop(struct doc *doc, uint32_t index);
/* A copy of record `from` before place `at`. */
void doc_insert(struct doc *doc, uint32_t at, const struct doc_record *from);
/* The item's value, 0 if it is not there. */
uint64_t doc_value(const struct doc_record *record, uint32_t id);
bool doc_has(const struct doc_record *record, uint32_t id);
/* In its place by order of ids. */
void doc_set(struct doc_record *record, uint32_t id, uint64_t value);
void doc_remove(struct doc_record *record, uint32_t id);

#endif
