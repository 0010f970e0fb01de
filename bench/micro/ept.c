/* SPDX-License-Identifier: MIT */
/*
 * The composition of page tables by itself, through nvmx/ept.h alone: 1 GiB of L2 in 4 KiB pages, the size at which rebuilding hurts.
 * "violations" are those that follow the operation if L2 then touches every page once, as ept02's entries say.
 */
#include "ept.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nvmx/ept.h>

#define TABLES  1024u /* of ept12 */
#define PAGES   (UINT64_C(1) << 18)
#define EPTPS   4u
#define SAMPLES 21u
#define L2_GPA1 (UINT64_C(1) << 36)
#define ADDRESS UINT64_C(0x000ffffffffff000)
#define LEAF(page) (L2_GPA1 + ((uint64_t)(page) << 12) + 0x37)

struct bench {
    uint64_t (*table)[512];
    uint64_t version[TABLES]; /* counts the writes to each table page, as a host does that has dirty flags */
    uint32_t tables;
    uint64_t eptp12[EPTPS], eptp02;
    struct nvmx_caps caps;
    struct nvmx_host host;
    struct nvmx_ept *ept;
    void *memory;
    unsigned int mapping_shift;
};

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct bench *b = ctx;
    (void)access;
    *hpa = gpa1;
    return gpa1 >> 12 < TABLES ? b->table[gpa1 >> 12] : NULL;
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)ctx, (void)gpa1, (void)page, (void)dirtied;
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    const struct bench *b = ctx;
    uint64_t base = gpa1 & ~((UINT64_C(1) << b->mapping_shift) - 1);
    *out = (struct nvmx_ept01_mapping){.gpa1 = base, .hpa = base, .size_shift = b->mapping_shift, .access = 7, .memory_type = 6};
    return NVMX_OK;
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    void *page = aligned_alloc(4096, 4096);
    (void)ctx;
    if (page != NULL)
        memset(page, 0, 4096);
    *hpa = (uintptr_t)page;
    return page;
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    (void)ctx, (void)hpa;
    free(page);
}

static uint64_t page_version(void *ctx, uint64_t gpa1) {
    const struct bench *b = ctx;
    if (gpa1 == NVMX_NO_ADDRESS)
        return 0; /* the host would look at its own list of them */
    return gpa1 >> 12 < TABLES ? b->version[gpa1 >> 12] : 0;
}

static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    (void)ctx, (void)kind, (void)value, (void)linear;
}

static uint64_t new_table(struct bench *b) {
    return (uint64_t)b->tables++ << 12;
}

static uint64_t *entry12(struct bench *b, uint64_t eptp12, uint64_t gpa2, unsigned int level) {
    uint64_t *table = b->table[(eptp12 & ADDRESS) >> 12];
    for (unsigned int at = 4; at > level; at--) {
        uint64_t *entry = &table[gpa2 >> (12 + 9 * (at - 1)) & 511];
        if (*entry == 0)
            *entry = new_table(b) | 7;
        table = b->table[(*entry & ADDRESS) >> 12];
    }
    return &table[gpa2 >> (12 + 9 * (level - 1)) & 511];
}

static void set12(struct bench *b, uint64_t eptp12, uint64_t gpa2, unsigned int level, uint64_t value) {
    uint64_t *entry = entry12(b, eptp12, gpa2, level);
    *entry = value;
    b->version[(uint64_t)(entry - b->table[0]) / 512]++;
}

static void enter(struct bench *b, unsigned int user, unsigned int which) {
    if (nvmx_ept_root(b->ept, b, user, b->eptp12[which], false, &b->eptp02) != NVMX_OK)
        abort();
}

static struct bench *bench_with(unsigned int mapping_shift, bool knows_writes) {
    struct bench *b = calloc(1, sizeof(*b));
    struct nvmx_ept_config config = {.size = sizeof(config)};
    if (b == NULL || (b->table = aligned_alloc(4096, TABLES * 4096u)) == NULL)
        abort();
    memset(b->table, 0, TABLES * 4096u);
    b->mapping_shift = mapping_shift;
    b->caps.physical_address_bits = 52;
    b->caps.msr[NVMX_CAP_EPT_VPID] = 1u << 0 | 1u << 6 | 1u << 14 | 1u << 16 | 1u << 17;
    config.l1 = config.machine = &b->caps;
    b->host = (struct nvmx_host){.size = sizeof(b->host), .map_page = map_page, .unmap_page = unmap_page, .ept01_lookup = ept01_lookup,
                                 .page_alloc = page_alloc, .page_free = page_free, .tlb_flush = tlb_flush,
                                 .page_version = knows_writes ? page_version : NULL};
    b->memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    if (nvmx_ept_init(b->memory, nvmx_ept_size(), &b->host, b, &config, &b->ept) != NVMX_OK)
        abort();
    for (unsigned int i = 0; i < EPTPS; i++)
        b->eptp12[i] = new_table(b) | 0x1e;
    for (uint64_t page = 0; page < PAGES; page++)
        set12(b, b->eptp12[0], page << 12, 1, LEAF(page));
    for (unsigned int i = 0; i < TABLES; i++)
        b->version[i]++; /* 0 would be: not known */
    enter(b, 0, 0);
    return b;
}

static struct bench *bench_new(unsigned int mapping_shift) {
    return bench_with(mapping_shift, false);
}

static void bench_delete(struct bench *b) {
    nvmx_ept_destroy(b->ept, b);
    free(b->memory);
    free(b->table);
    free(b);
}

static void touch(struct bench *b, uint64_t gpa2) {
    struct nvmx_ept_access access = {.eptp12 = b->eptp12[0], .gpa2 = gpa2, .qualification = 0x182};
    struct nvmx_ept_fault fault;
    if (nvmx_ept_fault(b->ept, b, &access, &fault) != NVMX_EPT_RETRY)
        abort();
}

static bool present(const struct bench *b, uint64_t gpa2) {
    const uint64_t *table = (const uint64_t *)(uintptr_t)(b->eptp02 & ADDRESS);
    for (unsigned int level = 4;; level--) {
        uint64_t entry = __atomic_load_n(&table[gpa2 >> (12 + 9 * (level - 1)) & 511], __ATOMIC_ACQUIRE);
        if ((entry & 7) == 0)
            return false;
        if (level == 1 || (entry & 0x80) != 0)
            return true;
        table = (const uint64_t *)(uintptr_t)(entry & ADDRESS);
    }
}

/* L2 touches pages [first, end); how many violations that took. */
static uint64_t touch_all(struct bench *b, uint64_t first, uint64_t end) {
    uint64_t violations = 0;
    for (uint64_t page = first; page < end; page++) {
        if (!present(b, page << 12)) {
            touch(b, page << 12);
            violations++;
        }
    }
    return violations;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static bool printed;

static void print_row(const char *name, double *ns, unsigned int samples, uint64_t violations) {
    qsort(ns, samples, sizeof(*ns), ascending);
    printf("%s  {\"name\": \"%s\", \"ns\": {\"median\": %.1f, \"least\": %.1f, \"samples\": %u}, \"violations\": %llu}", printed ? ",\n" : "", name,
           ns[samples / 2], ns[0], samples, (unsigned long long)violations);
    printed = true;
    fflush(stdout);
}

/* -- operations ------------------------------------------------------------------------------------------------------------------------ */

/* Nanoseconds for a page of L2 (step: pages between one touch and the next; 1: in sequence). */
static void first_touch(const char *name, unsigned int mapping_shift, uint64_t step, bool large) {
    double ns[SAMPLES];
    uint64_t violations = 0, touched = 0;
    for (unsigned int s = 0; s < SAMPLES; s++) {
        struct bench *b = bench_new(mapping_shift);
        for (uint64_t i = 0; i < 512 && large; i++)
            set12(b, b->eptp12[0], i << 21, 2, LEAF(i << 9) | 0x80);
        if (!large)
            for (uint64_t i = 0; i < 512; i += 8)
                touch(b, i << 21); /* the tables are there */
        violations = touched = 0;
        double begin = now();
        for (uint64_t page = large ? 0 : 1; page < PAGES / 8; page += step, touched++) {
            if (!present(b, page << 12)) {
                touch(b, page << 12);
                violations++;
            }
        }
        ns[s] = (now() - begin) / (double)touched;
        bench_delete(b);
    }
    print_row(name, ns, SAMPLES, violations);
}

/* INVEPT, and what is done before L2 runs again. `changed`: every so many'th entry of ept12 gets another page first; 0: none. */
static void invept(const char *name, uint64_t changed, bool knows_writes) {
    struct bench *b = bench_with(21, knows_writes);
    double ns[SAMPLES];
    uint64_t violations = 0;
    touch_all(b, 0, PAGES);
    for (unsigned int s = 0; s < SAMPLES + 3; s++) {
        for (uint64_t page = 5; changed != 0 && page < PAGES; page += changed)
            set12(b, b->eptp12[0], page << 12, 1, *entry12(b, b->eptp12[0], page << 12, 1) ^ UINT64_C(1) << 32);
        double begin = now();
        nvmx_ept_invept(b->ept, b, false, b->eptp12[0]);
        enter(b, 0, 0);
        ns[s < 3 ? 0 : s - 3] = now() - begin;
        violations = touch_all(b, 0, PAGES);
    }
    print_row(name, ns, SAMPLES, violations);
    bench_delete(b);
}

static void switches(void) {
    struct bench *b = bench_new(21);
    double ns[SAMPLES];
    for (unsigned int s = 0; s < SAMPLES; s++) {
        double begin = now();
        for (unsigned int i = 0; i < 4000; i++)
            enter(b, 0, i % EPTPS);
        ns[s] = (now() - begin) / 4000;
    }
    print_row("switch_between_4_eptps", ns, SAMPLES, 0);
    bench_delete(b);
}

struct filler {
    struct bench *bench;
    uint64_t first, end, step, violations;
};

static void *fill(void *argument) {
    struct filler *f = argument;
    for (uint64_t page = f->first; page < f->end; page += f->step) {
        while (!present(f->bench, page << 12)) { /* the other one may be in the way: L2 tries again */
            touch(f->bench, page << 12);
            f->violations++;
        }
    }
    return NULL;
}

/* The same tree, page by page in turn: nanoseconds for the whole. */
static void fillers(const char *name, unsigned int threads) {
    double ns[5];
    uint64_t violations = 0;
    for (unsigned int s = 0; s < 5; s++) {
        struct bench *b = bench_new(12);
        struct filler filler[2];
        pthread_t id[2];
        double begin = now();
        for (unsigned int i = 0; i < threads; i++) {
            filler[i] = (struct filler){.bench = b, .first = i, .end = PAGES, .step = threads};
            if (pthread_create(&id[i], NULL, fill, &filler[i]) != 0)
                abort();
        }
        violations = 0;
        for (unsigned int i = 0; i < threads; i++) {
            pthread_join(id[i], NULL);
            violations += filler[i].violations;
        }
        ns[s] = now() - begin;
        if (touch_all(b, 0, PAGES) != 0)
            abort();
        bench_delete(b);
    }
    print_row(name, ns, 5, violations);
}

int ept_alone(void) {
    printf("{\"version\": 1, \"ept\": [\n");
    first_touch("first_touch_4k_apart", 12, 9, false);
    first_touch("first_touch_4k_in_sequence", 21, 1, false);
    first_touch("first_touch_2m", 30, 512, true);
    invept("invept_1g_nothing_changed", 0, false);
    invept("invept_1g_one_changed", PAGES, false);
    invept("invept_1g_all_changed", 1, false);
    invept("invept_1g_nothing_changed_host_knows_writes", 0, true);
    invept("invept_1g_one_changed_host_knows_writes", PAGES, true);
    invept("invept_1g_all_changed_host_knows_writes", 1, true);
    switches();
    fillers("fill_1g_1_thread", 1);
    fillers("fill_1g_2_threads", 2);
    printf("\n]}\n");
    return 0;
}
