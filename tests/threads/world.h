/* SPDX-License-Identifier: MIT */
/*
 * A VM for testing ept02 under several threads, with nothing of nvmx but ept.h: each thread is a processor with a
 * TLB that runs L1 or L2, another one is the host
 * that moves, takes and write-protects L1's memory. All that real processors share is accessed by atomic loads and stores, so that
 * ThreadSanitizer reports what the library fails to order.
 */
#ifndef TESTS_THREADS_WORLD_H
#define TESTS_THREADS_WORLD_H

#include <pthread.h>

#include <nvmx/ept.h>

#include "common.h"

#define CPUS_MAX      8u
#define TLB_SLOTS     32u
#define GPA1_PAGES    1024u /* L1's memory, in pages; the first TABLE_PAGES hold ept12 */
#define TABLE_PAGES   64u
#define BLOCK_PAGES   512u  /* ... and the last ones are one 2M page of ept01 */
#define SINGLE_PAGES  (GPA1_PAGES - BLOCK_PAGES)
#define FRAMES        2048u /* the machine's memory for it: first for single pages, then for two places of the block */
#define SINGLE_FRAMES 1024u
#define FRAME_HPA     (UINT64_C(1) << 48)
#define FRAME_UNOWNED UINT64_MAX

/* What the machine uses a page of memory for. */
struct frame {
    uint64_t owner;    /* gpa1 page that it holds, or FRAME_UNOWNED: no access may reach it */
    uint64_t writable; /* 0: no write may reach it */
};

struct translation {
    uint64_t eptp02, gpa2, hpa, rights; /* pages; rights 0: empty */
    uint64_t vector;                    /* of the page's sub-pages, if it is known and counts */
    bool sub_page, has_vector;
};

struct cpu {
    struct world *world;
    unsigned int id;
    uint64_t random;
    pthread_mutex_t guest; /* held while L2 runs; a flush of all processors waits for it */
    struct translation tlb[TLB_SLOTS];
    uint64_t granted, refused, retries, no_memory;
};

struct world {
    uint64_t l1[TABLE_PAGES][512];
    uint64_t version[TABLE_PAGES]; /* of page_version, if the host offers it: it does where there is little memory, or where its allocator fails */
    uint64_t ept01[SINGLE_PAGES]; /* frame << 12 | access; 0: not mapped */
    uint64_t block;               /* ... of the 2M page */
    struct frame frame[FRAMES];
    struct cpu cpu[CPUS_MAX + 1]; /* the last one is the host's thread */
    unsigned int cpus;
    struct nvmx_ept *ept;
    void *memory;
    struct nvmx_caps caps;
    struct nvmx_host host;
    unsigned int fail_percent;
    uint64_t allocated, freed, maps, unmaps, host_moves;
    uint64_t stop;
};

uint32_t random_below(struct cpu *cpu, uint32_t limit);

struct world *world_new(unsigned int cpus, uint32_t page_budget, unsigned int fail_percent, uint64_t seed);
void world_delete(struct world *w);

enum outcome { VIOLATION, SPP_EVENT, DONE };

/* What L2 runs on. */
struct tables {
    uint64_t eptp02, spptp02;
    bool spp; /* sub-page write permissions are on */
};

/* L2 accesses gpa2 (kind: bits 2:0 of the qualification). DONE: *owner is the page of L1 that it reached. Else an exit, with its qualification. */
enum outcome access_once(struct cpu *cpu, const struct tables *tables, uint64_t gpa2, uint64_t kind, uint64_t *owner, uint64_t *qualification);

/* To be called before and after L1's tables are written: the page has a new version. */
void table_written(struct world *w, uint64_t page);

/* The host's thread: one change of L1's memory. */
void host_change(struct cpu *cpu);

static inline void count(uint64_t *place) {
    __atomic_fetch_add(place, 1, __ATOMIC_RELAXED);
}

#endif
