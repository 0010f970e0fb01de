/* SPDX-License-Identifier: MIT */
/* Counts: exits by reason and by who dealt with them, and the library's callbacks. README.md describes the lines. */
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

/* In the order of struct nvmx_host, which is the order of nvmx_counts.callback. */
static const char *const callback_name[] = {
    "map_page",     "unmap_page",  "translate",     "ept01_lookup",    "page_alloc",          "page_free",
    "page_pointer", "vmcs_select", "vmcs_reset",    "vmcs_read",       "vmcs_write",          "tlb_flush",
    "msr_read",     "msr_write",   "ack_interrupt", "queue_exception", "speculation_barrier", "trace",
};

void stats_print(void) {
    const struct nvmx_counts *counts = nvmx_counts(this_cpu()->vcpu);

    print_exits(false);
    print_exits(true);
    for (uint32_t i = 0; i < sizeof callback_name / sizeof callback_name[0]; i++)
        if (counts->callback[i])
            print("nvmx-stats: callback %s %lu\n", callback_name[i], counts->callback[i]);
    print("nvmx-stats: fields vmread %lu vmwrite %lu\n", counts->vmreads, counts->vmwrites);
    print("nvmx-stats: refused %lu\n", counts->refused);
}
