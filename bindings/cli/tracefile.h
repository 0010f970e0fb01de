/* SPDX-License-Identifier: MIT */
/* A file of trace records (nvmx/trace.h), and the round trips in it. */
#ifndef NVMX_CLI_TRACEFILE_H
#define NVMX_CLI_TRACEFILE_H

#include <stdbool.h>
#include <stddef.h>

#include <nvmx/trace.h>

struct tracefile {
    const char *path;
    struct nvmx_trace_header header;
    struct nvmx_trace_record *record;
    size_t count;
    bool cut_off; /* bytes follow that are no whole record */
};

/* CLI_OK, or a status after a message. tracefile_free in both cases. */
int tracefile_read(struct tracefile *file, const char *path);
void tracefile_free(struct tracefile *file);

/* From an exit of L2 that L1 got to the next VM entry of the same vCPU. */
struct round_trip {
    uint32_t reason;   /* basic exit reason */
    uint32_t l1_exits; /* exits of L1 on the way, the VM entry not counted */
    uint64_t ticks;
};

struct round_trips {
    struct round_trip *trip;
    size_t count;
};

/* All round trips, by reason, those of one reason by time. False: no memory. */
bool round_trips_find(struct round_trips *trips, const struct tracefile *file);
void round_trips_free(struct round_trips *trips);

#define TRIP_BUCKETS 64
/* Those of one reason. Bucket n counts those of at least 2^n and less than 2^(n+1) ticks; the first also 0. */
struct trip_group {
    uint32_t reason;
    size_t count;
    uint64_t least, median, most, l1_exits;
    size_t bucket[TRIP_BUCKETS];
};

/* The group that begins at trips->trip[*at]; *at moves behind it. False past the last. */
bool round_trips_group(const struct round_trips *trips, size_t *at, struct trip_group *out);

#endif
