/* SPDX-License-Identifier: MIT */
#include "tracefile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "print.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files of traces are little-endian, and are read as they are"
#endif

#define MOST_RECORDS (16u << 20)
#define VCPUS        65536u
#define FIRST_ROOM   1024u

static int wrong(const struct tracefile *file, const char *what) {
    fprintf(stderr, "nvmx: %s: %s\n", tame(file->path), what);
    return CLI_USAGE;
}

static int read_header(struct tracefile *file, FILE *stream) {
    struct nvmx_trace_header *h = &file->header;
    size_t got = fread(h, sizeof *h, 1, stream);

    if (ferror(stream)) {
        wrong(file, strerror(errno));
        return CLI_SYSTEM;
    }
    if (got != 1 || memcmp(h->magic, NVMX_TRACE_MAGIC, sizeof h->magic) != 0)
        return wrong(file, "no trace of nvmx (it does not begin with " NVMX_TRACE_MAGIC ")");
    if (h->version != NVMX_TRACE_VERSION || h->record_bytes != sizeof(struct nvmx_trace_record)) {
        fprintf(stderr, "nvmx: %s: a trace of version %u with records of %u bytes: this nvmx knows version %u\n",
                tame(file->path), h->version, h->record_bytes, NVMX_TRACE_VERSION);
        return CLI_USAGE;
    }
    return CLI_OK;
}

static int read_records(struct tracefile *file, FILE *stream) {
    size_t room = 0, got = 0;

    do {
        struct nvmx_trace_record *record;

        room = room ? 2 * room : FIRST_ROOM;
        if (room > MOST_RECORDS)
            return wrong(file, "too many records");
        record = realloc(file->record, room * sizeof *record);
        if (!record) {
            wrong(file, "no memory");
            return CLI_SYSTEM;
        }
        file->record = record;
        got += fread((char *)file->record + got, 1, room * sizeof *record - got, stream);
    } while (got == room * sizeof *file->record);
    if (ferror(stream)) {
        wrong(file, strerror(errno));
        return CLI_SYSTEM;
    }
    file->count = got / sizeof *file->record;
    file->cut_off = got % sizeof *file->record != 0;
    return CLI_OK;
}

int tracefile_read(struct tracefile *file, const char *path) {
    bool from_stdin = strcmp(path, "-") == 0;
    FILE *stream = from_stdin ? stdin : fopen(path, "rb");
    int status;

    *file = (struct tracefile){.path = from_stdin ? "stdin" : path};
    if (!stream) {
        wrong(file, strerror(errno));
        return CLI_SYSTEM;
    }
    status = read_header(file, stream);
    if (status == CLI_OK)
        status = read_records(file, stream);
    if (!from_stdin)
        fclose(stream);
    for (size_t i = 0; i < file->count && status == CLI_OK; i++) {
        if (file->record[i].version == NVMX_TRACE_VERSION)
            continue;
        fprintf(stderr, "nvmx: %s: record %zu is of version %u: this nvmx knows version %u\n", tame(file->path), i,
                file->record[i].version, NVMX_TRACE_VERSION);
        status = CLI_USAGE;
    }
    return status;
}

void tracefile_free(struct tracefile *file) {
    free(file->record);
    file->record = NULL;
}

/* -- round trips
 * -------------------------------------------------------------------------------------------------------------- */

static int by_reason_and_time(const void *a, const void *b) {
    const struct round_trip *x = a, *y = b;

    if (x->reason != y->reason)
        return x->reason < y->reason ? -1 : 1;
    return x->ticks < y->ticks ? -1 : x->ticks > y->ticks;
}

/* Where a vCPU is in its round trip: the exit's record + 1, 0 if in none; and exits of L1 since. */
struct trip_state {
    size_t from;
    uint32_t l1_exits;
};

static void follow(struct round_trips *trips, const struct tracefile *file, size_t i, struct trip_state *state) {
    const struct nvmx_trace_record *r = &file->record[i];

    switch (r->event) {
    case NVMX_TRACE_REFLECT:
        *state = (struct trip_state){.from = i + 1};
        break;
    case NVMX_TRACE_ENTER_L2:
        if (state->from != 0)
            trips->trip[trips->count++] = (struct round_trip){.reason = file->record[state->from - 1].reason & 0xffff,
                                                              .l1_exits = state->l1_exits,
                                                              .ticks = r->time - file->record[state->from - 1].time};
        state->from = 0;
        break;
    case NVMX_TRACE_STOP:
        state->from = 0;
        break;
    default:
        state->l1_exits += r->level == 1;
        break;
    }
}

bool round_trips_find(struct round_trips *trips, const struct tracefile *file) {
    struct trip_state *state = calloc(VCPUS, sizeof *state);

    *trips = (struct round_trips){.trip = malloc((file->count + 1) * sizeof *trips->trip)};
    if (!state || !trips->trip) {
        free(state);
        return false;
    }
    for (size_t i = 0; i < file->count; i++)
        follow(trips, file, i, &state[file->record[i].vcpu]);
    free(state);
    qsort(trips->trip, trips->count, sizeof *trips->trip, by_reason_and_time);
    return true;
}

void round_trips_free(struct round_trips *trips) {
    free(trips->trip);
    trips->trip = NULL;
}

static unsigned int bucket_of(uint64_t ticks) {
    unsigned int bucket = 0;

    while (ticks > 1) {
        ticks >>= 1;
        bucket++;
    }
    return bucket;
}

bool round_trips_group(const struct round_trips *trips, size_t *at, struct trip_group *out) {
    const struct round_trip *first = trips->trip + *at;

    if (*at >= trips->count)
        return false;
    *out = (struct trip_group){.reason = first->reason, .least = first->ticks};
    for (; *at < trips->count && trips->trip[*at].reason == out->reason; ++*at) {
        const struct round_trip *trip = &trips->trip[*at];

        out->most = trip->ticks;
        out->l1_exits += trip->l1_exits;
        out->bucket[bucket_of(trip->ticks)]++;
        out->count++;
    }
    out->median = first[out->count / 2].ticks;
    return true;
}
