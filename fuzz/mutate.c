/* SPDX-License-Identifier: MIT */
/*
 * Mutation that knows what an input is made of. A harness says where each piece of its input begins while it reads it (fuzz_piece); here inputs are
 * remembered as a head and pieces, and pieces are put in, left out, moved, copied, changed alone, and taken from other inputs or from the tables. What is not
 * known, and now and then everything, is left to libFuzzer's own mutation of bytes.
 *
 * For libFuzzer; other engines have mutators of their own, and never call this.
 */
#include <string.h>

#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *out, size_t most, unsigned int seed);

/* -- where pieces begin, of the inputs that ran or came from here ------------------------------------------------------------------------------ */

#define MOST_PIECES 96u
#define REMEMBERED  16384u /* inputs: a power of two */
#define MOST_BYTES  4096u

struct shape {
    uint64_t hash;
    uint16_t count;
    uint16_t begin[MOST_PIECES];
    uint8_t kind[MOST_PIECES];
};

static struct shape shapes[REMEMBERED];
static struct shape *running; /* of the input that is being read */
static const uint8_t *running_data;

static uint64_t hash_of(const uint8_t *data, size_t size) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + size;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * UINT64_C(0x100000001b3);
    return hash != 0 ? hash : 1;
}

static struct shape *shape_of(const uint8_t *data, size_t size, bool anew) {
    uint64_t hash = hash_of(data, size);
    struct shape *shape = &shapes[(hash ^ hash >> 32) % REMEMBERED];
    if (shape->hash != hash && !anew)
        return NULL;
    if (anew) {
        shape->hash = hash;
        shape->count = 0;
    }
    return shape;
}

/* -- pieces of others, by kind ------------------------------------------------------------------------------------------------------------------- */

#define KEPT       2048u
#define KEPT_BYTES FUZZ_PIECE_BYTES

static struct kept {
    uint8_t size;
    uint8_t bytes[KEPT_BYTES];
} kept[FUZZ_PIECES][KEPT];

static void keep(unsigned int kind, const uint8_t *bytes, size_t size) {
    if (size == 0 || size > KEPT_BYTES)
        return;
    struct kept *place = &kept[kind][hash_of(bytes, size) % KEPT];
    place->size = (uint8_t)size;
    memcpy(place->bytes, bytes, size);
}

void fuzz_input_begins(const uint8_t *data, size_t size) {
    running = size <= MOST_BYTES ? shape_of(data, size, true) : NULL;
    running_data = data;
}

void fuzz_piece_begins(const uint8_t *at, enum fuzz_piece kind) {
    if (running == NULL || running->count == MOST_PIECES)
        return;
    uint16_t begin = (uint16_t)(at - running_data), count = running->count;
    bool within = count != 0 && kind == FUZZ_CHANGE && (running->kind[count - 1] == FUZZ_L1 || running->kind[count - 1] == FUZZ_L2);
    if (within || (count != 0 && running->begin[count - 1] == begin)) /* or past the end of the input */
        return;
    if (count != 0)
        keep(running->kind[count - 1], running_data + running->begin[count - 1], (size_t)(begin - running->begin[count - 1]));
    running->begin[count] = begin;
    running->kind[count] = (uint8_t)kind;
    running->count++;
}

/* -- an input taken apart ---------------------------------------------------------------------------------------------------------------------------- */

struct part {
    uint8_t kind;
    uint16_t size;
    const uint8_t *bytes;
};

struct parts {
    const uint8_t *head;
    size_t head_size;
    unsigned int count;
    struct part part[2 * MOST_PIECES];
};

/* False: not known. */
static bool take_apart(struct parts *p, const uint8_t *data, size_t size) {
    const struct shape *shape = shape_of(data, size, false);
    if (shape == NULL || shape->count == 0)
        return false;
    *p = (struct parts){.head = data, .head_size = shape->begin[0], .count = shape->count};
    for (unsigned int i = 0; i < shape->count; i++) {
        size_t end = i + 1u < shape->count ? shape->begin[i + 1] : size;
        if (end < shape->begin[i] || end > size)
            return false; /* two inputs with one hash */
        p->part[i] = (struct part){shape->kind[i], (uint16_t)(end - shape->begin[i]), data + shape->begin[i]};
    }
    return true;
}

/* Whole parts, as many as there is room for. */
static size_t put_together(const struct parts *p, uint8_t *out, size_t most) {
    static uint8_t bytes[MOST_BYTES];
    struct shape shape = {0};
    size_t size = p->head_size;
    most = most < MOST_BYTES ? most : MOST_BYTES;
    if (size > most)
        return 0;
    memcpy(bytes, p->head, size);
    for (unsigned int i = 0; i < p->count && size + p->part[i].size <= most; i++) {
        if (shape.count < MOST_PIECES) {
            shape.begin[shape.count] = (uint16_t)size;
            shape.kind[shape.count++] = p->part[i].kind;
        }
        memcpy(bytes + size, p->part[i].bytes, p->part[i].size);
        size += p->part[i].size;
    }
    memcpy(out, bytes, size);
    shape.hash = hash_of(out, size);
    *shape_of(out, size, true) = shape;
    return size;
}

static void put_in(struct parts *p, unsigned int at, struct part part) {
    if (p->count == 2 * MOST_PIECES || part.size == 0)
        return;
    memmove(&p->part[at + 1], &p->part[at], (p->count - at) * sizeof(p->part[0]));
    p->part[at] = part;
    p->count++;
}

static void leave_out(struct parts *p, unsigned int at, unsigned int count) {
    memmove(&p->part[at], &p->part[at + count], (p->count - at - count) * sizeof(p->part[0]));
    p->count -= count;
}

/* -- mutation ----------------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint32_t below(uint32_t limit) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return limit != 0 ? (uint32_t)(random_state >> 33) % limit : 0;
}

static struct part kept_part(uint8_t kind) {
    const struct kept *k = NULL;
    for (unsigned int i = 0; i < 16; i++) {
        k = &kept[kind][below(KEPT)];
        if (k->size != 0)
            break;
    }
    return (struct part){kind, k->size, k->bytes};
}

static struct part new_part(uint8_t kind) {
    static uint8_t bytes[KEPT_BYTES];
    size_t size = 0;
    if (kind == FUZZ_CHANGE)
        size = fuzz_new_change(below, bytes);
    else if (fuzz_new_operation != NULL)
        size = fuzz_new_operation((enum fuzz_piece)kind, below, bytes);
    return size != 0 ? (struct part){kind, (uint16_t)size, bytes} : kept_part(kind);
}

/* libFuzzer's mutation of this part's bytes alone. */
static struct part changed_part(const struct part *part) {
    static uint8_t bytes[MOST_BYTES];
    memcpy(bytes, part->bytes, part->size);
    size_t size = LLVMFuzzerMutate(bytes, part->size, part->size + 4u);
    return (struct part){part->kind, (uint16_t)size, bytes};
}

static void mutate(struct parts *p) {
    unsigned int at = below(p->count), other = below(p->count);
    switch (below(10)) {
    case 0: case 1: case 2:
        p->part[at] = changed_part(&p->part[at]);
        break;
    case 3:
        put_in(p, at, kept_part(p->part[at].kind));
        break;
    case 4:
        put_in(p, at + 1, kept_part(p->part[at].kind));
        break;
    case 5:
        put_in(p, at + below(2), new_part(p->part[at].kind));
        break;
    case 6:
        p->part[at] = new_part(p->part[at].kind);
        break;
    case 7:
        p->part[at] = kept_part(p->part[at].kind);
        break;
    case 8:
        leave_out(p, at, 1 + below(p->count - at < 8 ? p->count - at : 8) / 2);
        break;
    default: {
        struct part moved = p->part[at];
        if (below(2))
            leave_out(p, at, 1);
        put_in(p, other < p->count ? other : p->count, moved);
    }
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    static struct parts parts;
    random_state = seed;
    if (below(8) == 0 || !take_apart(&parts, data, size))
        return LLVMFuzzerMutate(data, size, most);
    mutate(&parts);
    size_t made = put_together(&parts, data, most);
    return made != 0 ? made : LLVMFuzzerMutate(data, size, most);
}

/* The first pieces of one, then the last ones of the other. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size, const uint8_t *other, size_t other_size, uint8_t *out, size_t most, unsigned int seed) {
    static struct parts a, b;
    random_state = seed;
    if (!take_apart(&a, one, one_size) || !take_apart(&b, other, other_size))
        return 0;
    a.count = 1 + below(a.count);
    for (unsigned int i = below(b.count); i < b.count && a.count < 2 * MOST_PIECES; i++)
        a.part[a.count++] = b.part[i];
    return put_together(&a, out, most);
}
