/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "samples.h"

#include <linux/perf_event.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

enum { MOST_SAMPLES = 200, SLOW_SAMPLES = 30, BATCH = 50, VARYING_BATCH = 20, SLOW_BATCH = 2 };
/* Each step is a signal, which takes microseconds. */
enum { MOST_STEPS = 30000 };

const char *const counter_names[COUNTERS] = {
    "map_page",   "unmap_page", "translate", "ept01_lookup", "page_alloc", "page_free", "page_pointer", "vmcs_select",
    "vmcs_reset", "vmcs_read",  "vmcs_write", "tlb_flush",   "msr_read",   "msr_write", "VMREAD",       "VMWRITE"};

static double nanoseconds_per_tick;
static uint64_t timer_ticks;

/* -- time -------------------------------------------------------------------------------------------------------------------------- */

static inline uint64_t ticks(void) {
    unsigned int processor;
    uint64_t value = __rdtscp(&processor);
    _mm_lfence();
    return value;
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

void samples_calibrate(void) {
    double begin = now_ns();
    uint64_t first = ticks();
    while (now_ns() - begin < 5e7) {
    }
    nanoseconds_per_tick = (now_ns() - begin) / (double)(ticks() - first);
    timer_ticks = UINT64_MAX;
    for (uint32_t i = 0; i < 10000; i++) {
        uint64_t before = ticks();
        uint64_t cost = ticks() - before;
        timer_ticks = cost < timer_ticks ? cost : timer_ticks;
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double one_sample(struct machine *m, const struct operation *operation, uint32_t batch) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < batch; i++) {
        operation->before(m);
        uint64_t before = ticks();
        operation->timed(m);
        uint64_t cost = ticks() - before;
        sum += cost > timer_ticks ? cost - timer_ticks : 0;
    }
    return (double)sum / (double)batch * nanoseconds_per_tick;
}

struct timing samples_time(struct machine *m, const struct operation *operation) {
    static double sample[MOST_SAMPLES];
    struct timing t = {.samples = operation->slow ? SLOW_SAMPLES : MOST_SAMPLES,
                       .batch = operation->slow ? SLOW_BATCH : operation->varies ? VARYING_BATCH : BATCH};
    for (uint32_t i = 0; i < t.samples / 10; i++)
        one_sample(m, operation, t.batch);
    for (uint32_t i = 0; i < t.samples; i++)
        sample[i] = one_sample(m, operation, t.batch);
    qsort(sample, t.samples, sizeof(sample[0]), by_value);
    t.least = sample[0];
    t.quartile_low = sample[t.samples / 4];
    t.median = sample[t.samples / 2];
    t.quartile_high = sample[t.samples * 3 / 4];
    return t;
}

/* -- counts ------------------------------------------------------------------------------------------------------------------------ */

static void add_counts(struct counts *sum, const struct nvmx_counts *counts, bool negative) {
    for (uint32_t i = 0; i < COUNTERS; i++) {
        uint64_t value = i == COUNTER_VMREAD ? counts->vmreads : i == COUNTER_VMWRITE ? counts->vmwrites : counts->callback[i];
        sum->value[i] += negative ? 0 - value : value;
    }
}

struct counts samples_counts(struct machine *m, const struct operation *operation) {
    struct counts sum = {0};
    operation->before(m);
    for (uint32_t cpu = 0; cpu < m->options.cpus; cpu++)
        add_counts(&sum, nvmx_counts(machine_vcpu(m, cpu)), true);
    operation->timed(m);
    for (uint32_t cpu = 0; cpu < m->options.cpus; cpu++)
        add_counts(&sum, nvmx_counts(machine_vcpu(m, cpu)), false);
    return sum;
}

/* -- instructions -------------------------------------------------------------------------------------------------------------------- */

/* The processor's own counter of instructions in user mode, where the kernel gives it. */
static int counter(void) {
    struct perf_event_attr attributes = {
        .type = PERF_TYPE_HARDWARE,
        .size = sizeof(attributes),
        .config = PERF_COUNT_HW_INSTRUCTIONS,
        .disabled = 1,
        .exclude_kernel = 1,
        .exclude_hv = 1,
    };
    return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

static uint64_t counted(int file, struct machine *m, void (*function)(struct machine *)) {
    uint64_t value = 0;
    ioctl(file, PERF_EVENT_IOC_RESET, 0);
    ioctl(file, PERF_EVENT_IOC_ENABLE, 0);
    function(m);
    ioctl(file, PERF_EVENT_IOC_DISABLE, 0);
    return read(file, &value, sizeof(value)) == (ssize_t)sizeof(value) ? value : 0;
}

#define TRAP_FLAG 0x100
static volatile sig_atomic_t steps;

static void on_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    if (++steps == MOST_STEPS)
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

/* RFLAGS.TF: a trap after each instruction (and after each iteration of a repeated one). */
static inline void step_on(void) {
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torl $0x100, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp" ::: "cc", "memory");
}

static inline void step_off(void) {
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandl $~0x100, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp" ::: "cc", "memory");
}

static uint64_t stepped(struct machine *m, void (*function)(struct machine *)) {
    steps = 0;
    step_on();
    function(m);
    step_off();
    return (uint64_t)steps;
}

static void empty(struct machine *m) {
    (void)m;
    __asm__ volatile("");
}

static uint64_t by_counter(int file, struct machine *m, const struct operation *operation) {
    uint64_t none = counted(file, m, empty);
    operation->before(m);
    uint64_t all = counted(file, m, operation->timed);
    return all > none ? all - none : 0;
}

static uint64_t by_steps(struct machine *m, const struct operation *operation) {
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO}, before;
    sigaction(SIGTRAP, &action, &before);
    uint64_t none = stepped(m, empty);
    operation->before(m);
    uint64_t all = stepped(m, operation->timed);
    sigaction(SIGTRAP, &before, NULL);
    return all < MOST_STEPS ? all - none : 0;
}

uint64_t samples_instructions(struct machine *m, const struct operation *operation) {
    int file = counter();
    uint64_t instructions;
    if (file < 0)
        return by_steps(m, operation);
    instructions = by_counter(file, m, operation);
    close(file);
    return instructions;
}
