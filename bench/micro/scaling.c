/* SPDX-License-Identifier: MIT */
/* How the cost of a round trip depends on the number of vmcs12s, on how much memory L2 has mapped, and on the number of processors. */
#include "scaling.h"

#include <stdio.h>

#include "samples.h"

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* What the measured function finds; one point at a time. */
static struct {
    uint32_t count, turn;
    uint64_t eptp12;
} now;

static void nothing(struct machine *m) {
    (void)m;
}

static void to_root(struct machine *m) {
    machine_to_root(m, 0);
}

static void one_cycle(struct machine *m) {
    operation_cycle(m, 0);
}

/* -- points ------------------------------------------------------------------------------------------------------------------------ */

static void print_point(struct machine *m, const struct operation *operation, const char *key, uint64_t value, uint32_t warm_up) {
    for (uint32_t i = 0; i < warm_up; i++) {
        operation->before(m);
        operation->timed(m);
    }
    struct counts counts = samples_counts(m, operation);
    uint64_t instructions = samples_instructions(m, operation);
    struct timing t = samples_time(m, operation);
    uint64_t calls = 0;
    for (uint32_t c = 0; c < COUNTER_VMREAD; c++)
        calls += counts.value[c];
    printf("  {\"%s\": %llu, \"ns\": %.1f, \"q1\": %.1f, \"q3\": %.1f, \"instructions\": %llu, \"VMREAD\": %llu, \"VMWRITE\": %llu, "
           "\"callbacks\": %llu}",
           key, (unsigned long long)value, t.median, t.quartile_low, t.quartile_high, (unsigned long long)instructions,
           (unsigned long long)counts.value[COUNTER_VMREAD], (unsigned long long)counts.value[COUNTER_VMWRITE],
           (unsigned long long)calls);
    fflush(stdout);
}

/* The next of `count` vmcs12s on processor 0. */
static void next_vmcs12(struct machine *m) {
    now.turn = (now.turn + 1) % now.count;
    machine_vmptrld(m, 0, now.turn);
    operation_cycle(m, 0);
}

static void vmcs12s(void) {
    static const uint32_t counts[] = {1, 2, 3, 4, 6, 8, 12, 16, 32, 64};
    static const struct operation operation = {"", nothing, nothing, next_vmcs12, false, false};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct machine *m = machine_new(&(struct machine_options){0});
        now.count = counts[i];
        now.turn = 0;
        for (uint32_t k = 0; k < counts[i]; k++)
            machine_vmcs12(m, 0, k);
        printf("%s", i ? ",\n" : "");
        print_point(m, &operation, "vmcs12s", counts[i], 3 * counts[i]);
        machine_free(m);
    }
}

static void invept_cycle(struct machine *m) {
    machine_invept(m, 0, now.eptp12);
    operation_cycle(m, 0);
}

/* All of L2's memory is composed; `shift`: pages of L1. */
static void memory(const struct operation *operation, unsigned int shift, const uint64_t *bytes, size_t sizes, bool first) {
    for (size_t i = 0; i < sizes; i++) {
        struct machine *m = machine_new(&(struct machine_options){0});
        machine_vmcs12(m, 0, 0);
        now.eptp12 = machine_ept12(m, bytes[i], shift);
        machine_write(m, 0, NVMX_VMCS_EPT_POINTER, now.eptp12);
        machine_to_l2(m, 0);
        for (uint64_t gpa2 = 0; gpa2 < bytes[i]; gpa2 += UINT64_C(1) << shift)
            machine_touch(m, 0, gpa2);
        machine_to_root(m, 0);
        printf("%s", first && i == 0 ? "" : ",\n");
        print_point(m, operation, shift == 12 ? "bytes_by_4k" : "bytes_by_2m", bytes[i], 20);
        machine_free(m);
    }
}

static const uint64_t by_4k[] = {4 * KIB, 64 * KIB, MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB};
static const uint64_t by_2m[] = {2 * MIB, 16 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB};

/* The next processor of the VM. */
static void next_cpu(struct machine *m) {
    now.turn = (now.turn + 1) % now.count;
    operation_cycle(m, now.turn);
}

static void cpus(void) {
    static const struct operation operation = {"", nothing, nothing, next_cpu, false, false};
    for (uint32_t count = 1; count <= MACHINE_CPUS; count++) {
        struct machine *m = machine_new(&(struct machine_options){.cpus = count});
        now.count = count;
        now.turn = 0;
        for (uint32_t cpu = 0; cpu < count; cpu++)
            machine_vmcs12(m, cpu, 0);
        printf("%s", count > 1 ? ",\n" : "");
        print_point(m, &operation, "cpus", count, 3 * count);
        machine_free(m);
    }
}

int scaling(void) {
    static const struct operation round = {"", nothing, to_root, one_cycle, false, false};
    static const struct operation invept = {"", nothing, to_root, invept_cycle, true, false};
    printf("{\"version\": 1,\n \"vmcs12s\": [\n");
    vmcs12s();
    printf("\n ],\n \"memory\": [\n");
    memory(&round, 12, by_4k, sizeof(by_4k) / sizeof(by_4k[0]), true);
    memory(&round, 21, by_2m, sizeof(by_2m) / sizeof(by_2m[0]), false);
    printf("\n ],\n \"invept\": [\n");
    memory(&invept, 12, by_4k, sizeof(by_4k) / sizeof(by_4k[0]) - 2, true);
    memory(&invept, 21, by_2m, sizeof(by_2m) / sizeof(by_2m[0]), false);
    printf("\n ],\n \"cpus\": [\n");
    cpus();
    printf("\n ]}\n");
    return 0;
}
