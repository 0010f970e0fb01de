/* SPDX-License-Identifier: MIT */
/*
 * Option `trace`: the library's trace records (nvmx/trace.h) in a ring, with the TSC as their clock, and at the end of
 * the machine on the serial line in hexadecimal. README.md has the lines; `boot --trace FILE` makes a file of them.
 */
#include "console.h"
#include "host.h"

#include <nvmx/trace.h>

#define WORDS_PRINTED 7 /* of the 8 of a record; the last is reserved */

static struct nvmx_trace_record *ring;
static uint64_t written;
static bool printed;

void trace_init(void) {
    if (options.trace)
        ring = pages_take((uint64_t)options.trace * sizeof *ring);
}

void trace_keep(void *ctx, struct nvmx_trace_record *record) {
    (void)ctx;
    record->time = rdtsc();
    ring[written++ % options.trace] = *record;
}

static void print_words(const void *from, uint32_t count) {
    uint64_t word[8];

    memcpy(word, from, count * sizeof word[0]);
    for (uint32_t i = 0; i < count; i++)
        print("%016lx", word[i]);
    print("\n");
}

void trace_print(void) {
    uint64_t first = written > options.trace ? written - options.trace : 0;
    struct nvmx_trace_header header;

    if (!options.trace || printed)
        return;
    printed = true;
    nvmx_trace_header_init(&header, 0, first); /* how fast the TSC counts is not known */
    print("\nnvmx-trace: header ");
    print_words(&header, sizeof header / sizeof(uint64_t));
    for (uint64_t i = first; i < written; i++) {
        print("nvmx-trace: ");
        print_words(&ring[i % options.trace], WORDS_PRINTED);
    }
    print("nvmx-trace: end %lu\n", written - first);
}
