/* SPDX-License-Identifier: MIT */
#include "state_doc.h"

#include <string.h>

static bool tag_has_head(uint32_t tag) {
    return tag == 5 || tag == 7;
}

static void read_record(struct doc_record *record, const uint8_t *blob, size_t at) {
    uint64_t first = state_word_at(blob, at);
    size_t end = at + 8 + (size_t)(first >> 32);
    *record = (struct doc_record){.tag = (uint32_t)first, .has_head = tag_has_head((uint32_t)first)};
    at += 8;
    for (unsigned int i = 0; i < 2 && record->has_head; i++, at += 8)
        record->head[i] = state_word_at(blob, at);
    for (; at + 16 <= end; at += 16) {
        uint64_t id = state_word_at(blob, at);
        cr_assert(record->items < DOC_ITEMS);
        record->item[record->items++] = (struct doc_item){(uint32_t)id, (uint32_t)(id >> 32), state_word_at(blob, at + 8)};
    }
}

void doc_read(struct doc *doc, const uint8_t *blob, size_t bytes) {
    cr_assert(bytes >= 32 && memcmp(blob, "NVMXSTAT", 8) == 0 && state_word_at(blob, 16) == bytes);
    doc->version = (uint32_t)state_word_at(blob, 8);
    doc->flags = (uint32_t)(state_word_at(blob, 8) >> 32);
    doc->records = 0;
    for (size_t at = 24; at < bytes - 8; at += 8 + (size_t)(state_word_at(blob, at) >> 32)) {
        cr_assert(doc->records < DOC_RECORDS);
        read_record(&doc->record[doc->records++], blob, at);
    }
}

static size_t put(uint8_t *blob, size_t room, size_t at, uint64_t value) {
    cr_assert(at + 8 <= room, "a blob too large for the test");
    state_put_at(blob, at, value);
    return at + 8;
}

size_t doc_write(const struct doc *doc, uint8_t *blob, size_t room) {
    size_t at = 24;
    cr_assert(room >= 32);
    memcpy(blob, "NVMXSTAT", 8);
    put(blob, room, 8, doc->version | (uint64_t)doc->flags << 32);
    for (uint32_t i = 0; i < doc->records; i++) {
        const struct doc_record *record = &doc->record[i];
        uint64_t length = (record->has_head ? 16 : 0) + 16ull * record->items;
        at = put(blob, room, at, record->tag | length << 32);
        for (unsigned int h = 0; h < 2 && record->has_head; h++)
            at = put(blob, room, at, record->head[h]);
        for (uint32_t k = 0; k < record->items; k++) {
            at = put(blob, room, at, record->item[k].id | (uint64_t)record->item[k].reserved << 32);
            at = put(blob, room, at, record->item[k].value);
        }
    }
    at = put(blob, room, at, 0);
    state_seal(blob, at);
    return at;
}

struct doc_record *doc_find(struct doc *doc, uint32_t tag, uint32_t n) {
    for (uint32_t i = 0; i < doc->records; i++)
        if (doc->record[i].tag == tag && n-- == 0)
            return &doc->record[i];
    return NULL;
}

void doc_drop(struct doc *doc, uint32_t index) {
    doc->records--;
    memmove(&doc->record[index], &doc->record[index + 1], (doc->records - index) * sizeof(doc->record[0]));
}

void doc_insert(struct doc *doc, uint32_t at, const struct doc_record *from) {
    struct doc_record copy = *from;
    cr_assert(doc->records < DOC_RECORDS);
    memmove(&doc->record[at + 1], &doc->record[at], (doc->records - at) * sizeof(doc->record[0]));
    doc->record[at] = copy;
    doc->records++;
}

static uint32_t place_of(const struct doc_record *record, uint32_t id) {
    uint32_t i = 0;
    while (i < record->items && record->item[i].id < id)
        i++;
    return i;
}

bool doc_has(const struct doc_record *record, uint32_t id) {
    uint32_t i = place_of(record, id);
    return i < record->items && record->item[i].id == id;
}

uint64_t doc_value(const struct doc_record *record, uint32_t id) {
    cr_assert(record != NULL, "there is no such record");
    return doc_has(record, id) ? record->item[place_of(record, id)].value : 0;
}

void doc_set(struct doc_record *record, uint32_t id, uint64_t value) {
    uint32_t i = place_of(record, id);
    if (!doc_has(record, id)) {
        cr_assert(record->items < DOC_ITEMS);
        memmove(&record->item[i + 1], &record->item[i], (record->items - i) * sizeof(record->item[0]));
        record->items++;
    }
    record->item[i] = (struct doc_item){id, 0, value};
}

void doc_remove(struct doc_record *record, uint32_t id) {
    uint32_t i = place_of(record, id);
    cr_assert(doc_has(record, id));
    record->items--;
    memmove(&record->item[i], &record->item[i + 1], (record->items - i) * sizeof(record->item[0]));
}
