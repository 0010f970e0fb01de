/* SPDX-License-Identifier: MIT */
/*
 * A user of KVM with two vCPUs, each in a thread of its own bound to a processor of its own: runs smp-guest.S, exchanges the memory of one of its
 * pages meanwhile, and compares what the guest reports with what must come out.
 *
 * The last line is "kvm-smp: all N values are right" (exit status 0) or "kvm-smp: FAILED: ..." (1).
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm.h"
#include "smp-protocol.h"

#define VCPUS     2
#define RESULTS   8
#define PAGE      4096

#define POLLS_BEFORE_REPORT 200 /* who waits for the end sees how far it is */

extern const uint8_t smp_guest_start[], smp_guest_end[];

static const struct {
    const char *name;
    uint32_t value;
} expected[RESULTS] = {
    {"vCPU 1 has started", 1},
    {"turns of both", 2 * TURNS},
    {"locked additions of both", 2 * ADDITIONS},
    {"interrupts that vCPU 0 took", IPIS},
    {"interrupts that vCPU 1 took", IPIS},
    {"last number in the page that moved", MOVES},
    {"vCPU 1 is through", 1},
    {"numbers that went backwards", 0},
};

static struct {
    int kvm, vm, pages;
    uint8_t *memory;
    int vcpu[VCPUS];
    struct kvm_run *run[VCPUS];
    uint32_t result[RESULTS];
    unsigned results;
} machine;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("kvm-smp: FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

static volatile uint32_t *word(uint32_t offset) {
    return (volatile uint32_t *)(machine.memory + SMP_WORDS + offset);
}

static void create_vm(void) {
    machine.kvm = kvm_open();
    machine.vm = kvm_create_vm(machine.kvm);
    CALL_NUMBER(machine.vm, KVM_CREATE_IRQCHIP, 0);
    machine.memory = kvm_make_memory(machine.vm, SMP_MEMORY);
    machine.pages = memfd_create("pages", MFD_CLOEXEC);
    if (machine.pages < 0 || ftruncate(machine.pages, 2 * PAGE) != 0) {
        fail("no memory: %s", strerror(errno));
    }
    memcpy(machine.memory + SMP_CODE, smp_guest_start, (size_t)(smp_guest_end - smp_guest_start));
}

/* What KVM supports, and for each vCPU its own APIC identifier. */
static void set_cpuid(uint32_t id) {
    struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(machine.kvm);
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        if (entry->function == 1) {
            entry->ebx = (entry->ebx & 0xffffff) | id << 24;
        } else if (entry->function == 0xb) {
            entry->edx = id;
        }
    }
    CALL(machine.vcpu[id], KVM_SET_CPUID2, cpuid);
    free(cpuid);
}

static void create_vcpu(uint32_t id) {
    machine.vcpu[id] = kvm_create_vcpu(machine.kvm, machine.vm, id, &machine.run[id]);
    set_cpuid(id);
    if (id == 0) { /* the other begins when its start-up IPI comes */
        kvm_start_at(machine.vcpu[id], SMP_CODE);
    }
}

/* Returns false when the guest is at its end. */
static bool handle_exit(uint32_t id) {
    struct kvm_run *run = machine.run[id];
    uint32_t value = 0;
    if (run->exit_reason != KVM_EXIT_IO || run->io.direction != KVM_EXIT_IO_OUT || run->io.size != 4 || id != 0) {
        fail("vCPU %u: KVM exit %u, suberror %u", id, run->exit_reason, run->internal.suberror);
    }
    memcpy(&value, (uint8_t *)run + run->io.data_offset, sizeof(value));
    if (run->io.port == PORT_END) {
        return false;
    }
    if (run->io.port != PORT_RESULT || machine.results == RESULTS) {
        fail("output of %#x to port %#x", value, run->io.port);
    }
    machine.result[machine.results++] = value;
    return true;
}

static void *run_vcpu(void *argument) {
    uint32_t id = (uint32_t)(uintptr_t)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(id, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) {
        fail("no processor %u: %s", id, strerror(errno));
    }
    do {
        while (ioctl(machine.vcpu[id], KVM_RUN, 0) != 0) {
            if (errno != EINTR && errno != EAGAIN) {
                fail("vCPU %u: KVM_RUN: %s", id, strerror(errno));
            }
        }
    } while (handle_exit(id));
    return NULL;
}

/* Gives the guest another page at the same address, with the next number in it, when it has seen the last one. */
static void move_page(uint32_t number) {
    uint8_t *at = machine.memory + SMP_MOVING;
    off_t offset = (off_t)(number & 1) * PAGE;
    if (pwrite(machine.pages, &number, sizeof(number), offset) != sizeof(number) ||
        mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, machine.pages, offset) != at) {
        fail("page %u: %s", number, strerror(errno));
    }
    for (unsigned int polls = 1; *word(WORD_SEEN) < number; polls++) {
        usleep(500); /* the processors are for the vCPUs */
        if (polls % POLLS_BEFORE_REPORT == 0) {
            printf("kvm-smp: vCPU 1 has started %u, turns %u, additions %u, interrupts %u and %u, page %u of %u seen\n", *word(WORD_ONLINE), *word(WORD_TURN),
                   *word(WORD_SUM), *word(WORD_IPIS), *word(WORD_IPIS + 4), *word(WORD_SEEN), number);
        }
    }
}

int main(void) {
    pthread_t thread[VCPUS];
    setvbuf(stdout, NULL, _IOLBF, 0);
    create_vm();
    for (uint32_t id = 0; id < VCPUS; id++) {
        create_vcpu(id);
    }
    for (uint32_t id = 0; id < VCPUS; id++) {
        if (pthread_create(&thread[id], NULL, run_vcpu, (void *)(uintptr_t)id) != 0) {
            fail("no thread");
        }
    }
    for (uint32_t number = 1; number <= MOVES; number++) {
        move_page(number);
    }
    pthread_join(thread[0], NULL);
    for (uint32_t i = 0; i < RESULTS; i++) {
        printf("kvm-smp: %s: %u\n", expected[i].name, machine.result[i]);
        if (machine.results != RESULTS || machine.result[i] != expected[i].value) {
            fail("%s: %u, not %u", expected[i].name, machine.result[i], expected[i].value);
        }
    }
    for (uint32_t i = 0; i < SMP_PAGES; i++) {
        if (*(uint32_t *)(machine.memory + SMP_TOUCHED + i * PAGE) != VCPUS) {
            fail("page %u was not touched by both", i);
        }
    }
    printf("kvm-smp: all %d values and %d pages are right\n", RESULTS, SMP_PAGES);
    fflush(stdout);
    _exit(0); /* vCPU 1 halts in its thread */
}
