/* SPDX-License-Identifier: MIT */
/* Counts: exits by reason and by who dealt with them, and the library's callbacks. README.md describes the lines. */
#include "callbacks.h"
#include "console.h"
#include "host.h"

static uint64_t count[2][STATS_REASONS][STATS_WHO_COUNT]; /* [0]: exits of L1, [1]: of L2 */

void stats_exit(bool from_l2, uint32_t reason, enum stats_who who) {
    reason &= 0xffff;
    count[from_l2][reason < STATS_REASONS ? reason : STATS_REASONS - 1][who]++;
}

static void print_exits(bool from_l2) {
    uint64_t total[STATS_WHO_COUNT] = {0};

    for (uint32_t reason = 0; reason < STATS_REASONS; reason++) {
        const uint64_t *c = count[from_l2][reason];

        if (!(c[STATS_HOST] + c[STATS_EMULATED] + c[STATS_REFLECTED]))
            continue;
        print("nvmx-stats: exit L%u reason %u host %lu emulated %lu reflected %lu\n", from_l2 ? 2 : 1, reason,
              c[STATS_HOST], c[STATS_EMULATED], c[STATS_REFLECTED]);
        for (uint32_t who = 0; who < STATS_WHO_COUNT; who++)
            total[who] += c[who];
    }
    print("nvmx-stats: total L%u host %lu emulated %lu reflected %lu\n", from_l2 ? 2 : 1, total[STATS_HOST],
          total[STATS_EMULATED], total[STATS_REFLECTED]);
}

/* Names, and the numbers by which the library counts (struct nvmx_host, from map_page on). */
#define NUMBER(member)                                                                                                 \
    ((offsetof(struct nvmx_host, member) - offsetof(struct nvmx_host, map_page)) / sizeof(void (*)(void)))
#define ROW(name, member, inlined) [CALLBACK_##name] = {#member, NUMBER(member), inlined}

static const struct {
    const char *name;
    uint32_t number;
    bool inlined; /* calls that don't go through callbacks.c are counted by the library alone */
} callback[CALLBACK_COUNT] = {
    ROW(MAP_PAGE, map_page, true),       ROW(UNMAP_PAGE, unmap_page, true),  ROW(EPT01_LOOKUP, ept01_lookup, false),
    ROW(PAGE_ALLOC, page_alloc, false),  ROW(PAGE_FREE, page_free, false),   ROW(PAGE_POINTER, page_pointer, false),
    ROW(VMCS_SELECT, vmcs_select, true), ROW(VMCS_RESET, vmcs_reset, false), ROW(VMCS_READ, vmcs_read, true),
    ROW(VMCS_WRITE, vmcs_write, true),   ROW(TLB_FLUSH, tlb_flush, false),   ROW(MSR_READ, msr_read, false),
    ROW(MSR_WRITE, msr_write, false),
};

void report_end(void) {
    if (options.stats)
        stats_print();
    trace_print();
}

/* Of all processors' vCPUs: the struct is nothing but counts of 64 bits. */
static const struct nvmx_counts *all_counts(void) {
    static struct nvmx_counts sum;
    uint64_t *to = (uint64_t *)(void *)&sum;

    memset(&sum, 0, sizeof sum);
    for (uint32_t i = 0; i < processors_count(); i++) {
        const uint64_t *from = processor(i)->vcpu ? (const uint64_t *)(const void *)nvmx_counts(processor(i)->vcpu) : NULL;

        for (uint32_t k = 0; from && k < sizeof sum / sizeof *to; k++)
            to[k] += from[k];
    }
    return &sum;
}

static void print_callbacks(const struct nvmx_counts *counts) {
    for (uint32_t i = 0; i < CALLBACK_COUNT; i++) {
        uint64_t calls = callback_calls[i] + (callback[i].inlined ? counts->callback[callback[i].number] : 0);

        if (calls)
            print("nvmx-stats: callback %s %lu\n", callback[i].name, calls);
    }
}

void stats_print(void) {
    const struct nvmx_counts *counts = all_counts();

    print_exits(false);
    print_exits(true);
    print_callbacks(counts);
    print("nvmx-stats: fields vmread %lu vmwrite %lu\n", counts->vmreads, counts->vmwrites);
    print("nvmx-stats: refused %lu\n", counts->refused);
    shake_print();
    resize_print();
}
