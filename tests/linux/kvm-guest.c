/* SPDX-License-Identifier: MIT */
/*
 * A small user of KVM: runs guest.S in a virtual machine, prints every exit to user space, and compares
 * what the guest reports with what must come out. Plain ioctls, no library.
 *
 * The last line is "kvm-guest: all N steps passed" (exit status 0) or "kvm-guest: FAILED: ..." (1).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm.h"
#include "protocol.h"

#define MAX_VALUES 4
/* A guest that runs wild must not print for ever. */
#define MAX_EXITS 2000

extern const uint8_t guest_start[], guest_end[];

/* What the guest must report for each step, in order. A mask selects the bits that are compared. */
struct expectation {
    const char *name;
    unsigned count;
    uint32_t mask;
    uint32_t values[MAX_VALUES];
};

static const struct expectation expectations[] = {
    [STEP_REAL] = {"real mode (CR0.PE = 0)", 1, 0x80000001, {0}},
    [STEP_PROTECTED] = {"protected mode (CR0.PE = 1, CR0.PG = 0)", 1, 0x80000001, {1}},
    [STEP_LONG] = {"long mode (EFER.LME = EFER.LMA = 1)", 1, 0x500, {0x500}},
    [STEP_MEMORY] = {"6 MBytes of memory written and read back", 1, ~0U, {(PATTERN_END - PATTERN_START) / 8}},
    [STEP_CPUID] = {"CPUID gives what KVM was told", 3, ~0U, {CPUID_EBX, CPUID_ECX, CPUID_EDX}},
    [STEP_MMIO] = {"MMIO writes and reads", 3, ~0U, {MMIO_READ, (uint32_t)~MMIO_READ, MMIO_READ}},
    [STEP_PORT_INPUT] = {"port input", 1, ~0U, {INPUT_VALUE}},
    [STEP_MSR] = {"WRMSR, SWAPGS, RDMSR", 2, ~0U, {0, MSR_VALUE}},
    [STEP_PAGE_FAULT] = {"page fault handled by the guest", 4, ~0U, {1, 2, UNMAPPED_LINEAR, REMAPPED_VALUE}},
    [STEP_INTERRUPT] = {"interrupts: one in HLT, one in an interrupt window", 2, ~0U, {1, 1}},
    [STEP_END] = {"final HLT", 0, 0, {0}},
};

static struct {
    int kvm, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    unsigned exits, passed;
    unsigned step, seen;
    uint32_t values[MAX_VALUES];
    unsigned mmio_seen, lines;
    char line[80];
    unsigned length, line_first_exit;
    bool interrupt_wanted, second_interrupt;
} machine;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("kvm-guest: FAILED: ");
    vprintf(format, arguments);
    printf(" (step %u, exit %u)\n", machine.step, machine.exits);
    va_end(arguments);
    exit(1);
}

static void create_vm(void) {
    machine.kvm = kvm_open();
    printf("kvm-guest: /dev/kvm works, API version %d\n", KVM_API_VERSION);
    machine.vm = kvm_create_vm(machine.kvm);
    machine.memory = kvm_make_memory(machine.vm, MEMORY_SIZE);
    memcpy(machine.memory + GUEST_BASE, guest_start, (size_t)(guest_end - guest_start));
}

/* Offers the guest what KVM supports, with our own values in the leaf that the guest looks at. */
static void set_cpuid(void) {
    struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(machine.kvm);
    struct kvm_cpuid_entry2 *leaf = NULL;
    for (unsigned i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == CPUID_LEAF) {
            leaf = &cpuid->entries[i];
        }
    }
    if (leaf == NULL) {
        fail("KVM_GET_SUPPORTED_CPUID has no leaf %#x", CPUID_LEAF);
    }
    leaf->eax = CPUID_LEAF;
    leaf->ebx = CPUID_EBX;
    leaf->ecx = CPUID_ECX;
    leaf->edx = CPUID_EDX;
    CALL(machine.vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
}

static void create_vcpu(void) {
    machine.vcpu = kvm_create_vcpu(machine.kvm, machine.vm, 0, &machine.run);
    set_cpuid();
    kvm_start_at(machine.vcpu, GUEST_BASE);
}

static void check_memory(void) {
    for (uint64_t address = PATTERN_START; address < PATTERN_END; address += 8) {
        uint64_t value;
        memcpy(&value, machine.memory + address, sizeof(value));
        if (value != address * PATTERN_FACTOR) {
            fail("memory at %#llx holds %#llx", (unsigned long long)address, (unsigned long long)value);
        }
    }
}

static void finish_step(void) {
    const struct expectation *expected = &expectations[machine.step];
    if (machine.step == 0) {
        return;
    }
    if (machine.seen != expected->count) {
        fail("%s: %u values instead of %u", expected->name, machine.seen, expected->count);
    }
    for (unsigned i = 0; i < expected->count; i++) {
        if (((machine.values[i] ^ expected->values[i]) & expected->mask) != 0) {
            fail("%s: value %u is %#x, not %#x", expected->name, i + 1, machine.values[i], expected->values[i]);
        }
    }
    if (machine.step <= STEP_LONG && machine.lines != machine.step) {
        fail("%s: %u lines of text so far", expected->name, machine.lines);
    }
    if (machine.step == STEP_MEMORY) {
        check_memory();
    }
    if (machine.step == STEP_MMIO && machine.mmio_seen != 4) {
        fail("%u MMIO exits instead of 4", machine.mmio_seen);
    }
    machine.passed++;
    printf("kvm-guest: step %u passed: %s\n", machine.step, expected->name);
}

static void start_step(uint32_t step) {
    finish_step();
    if (step != machine.step + 1 || step > STEP_END) {
        fail("the guest went on with step %u", step);
    }
    machine.step = step;
    machine.seen = 0;
}

static void take_text(const uint8_t *text, unsigned size) {
    for (unsigned i = 0; i < size; i++) {
        if (machine.length == 0) {
            machine.line_first_exit = machine.exits;
        }
        if (text[i] != '\n' && machine.length < sizeof(machine.line) - 1) {
            machine.line[machine.length++] = (char)text[i];
            continue;
        }
        machine.line[machine.length] = 0;
        printf("kvm-guest: exits %u-%u: KVM_EXIT_IO out, port %#x, text\n", machine.line_first_exit, machine.exits,
               PORT_TEXT);
        printf("L2: %s\n", machine.line);
        machine.length = 0;
        machine.lines++;
    }
}

static void give_input(uint8_t *data) {
    const uint32_t value = INPUT_VALUE;
    memcpy(data, &value, sizeof(value));
    if (machine.step == STEP_INTERRUPT) {
        /* The guest's interrupts are off just now: KVM must tell when the window opens. */
        machine.interrupt_wanted = true;
    }
}

static void on_io(void) {
    const struct kvm_run *run = machine.run;
    uint8_t *data = (uint8_t *)machine.run + run->io.data_offset;
    bool out = run->io.direction == KVM_EXIT_IO_OUT;
    uint32_t value = 0;
    if (out && run->io.port == PORT_TEXT && run->io.size == 1) {
        take_text(data, run->io.count);
        return;
    }
    if (run->io.size != 4 || run->io.count != 1) {
        fail("KVM_EXIT_IO port %#x, size %u, count %u", run->io.port, run->io.size, run->io.count);
    }
    if (!out && run->io.port == PORT_INPUT) {
        give_input(data);
    }
    memcpy(&value, data, sizeof(value));
    printf("kvm-guest: exit %u: KVM_EXIT_IO %s, port %#x = %#x\n", machine.exits, out ? "out" : "in", run->io.port,
           value);
    if (out && run->io.port == PORT_STEP) {
        start_step(value);
    } else if (out && run->io.port == PORT_VALUE && machine.seen < MAX_VALUES) {
        machine.values[machine.seen++] = value;
    } else if (out || run->io.port != PORT_INPUT) {
        fail("KVM_EXIT_IO port %#x", run->io.port);
    }
}

static void on_mmio(void) {
    struct kvm_run *run = machine.run;
    static const struct {
        uint64_t address;
        uint32_t size;
        uint8_t write;
        uint64_t value;
    } accesses[] = {
        {MMIO_BASE, 4, 1, MMIO_WRITTEN},
        {MMIO_BASE + 0x11, 1, 1, 0x7e},
        {MMIO_BASE + 8, 4, 0, MMIO_READ},
        {MMIO_BASE + 0x20, 8, 0, (uint64_t)MMIO_READ << 32 | (uint32_t)~MMIO_READ},
    };
    uint64_t value = 0;
    unsigned i = machine.mmio_seen++;
    if (i >= sizeof(accesses) / sizeof(accesses[0]) || run->mmio.phys_addr != accesses[i].address ||
        run->mmio.len != accesses[i].size || run->mmio.is_write != accesses[i].write) {
        fail("KVM_EXIT_MMIO %s of %u bytes at %#llx", run->mmio.is_write ? "write" : "read", run->mmio.len,
             run->mmio.phys_addr);
    }
    if (!run->mmio.is_write) {
        memcpy(run->mmio.data, &accesses[i].value, run->mmio.len);
    }
    memcpy(&value, run->mmio.data, run->mmio.len);
    printf("kvm-guest: exit %u: KVM_EXIT_MMIO %s, %u bytes at %#llx = %#llx\n", machine.exits,
           run->mmio.is_write ? "write" : "read", run->mmio.len, run->mmio.phys_addr, (unsigned long long)value);
    if (value != accesses[i].value) {
        fail("the guest wrote %#llx", (unsigned long long)value);
    }
}

static void inject(void) {
    struct kvm_interrupt interrupt = {.irq = INTERRUPT_VECTOR};
    CALL(machine.vcpu, KVM_INTERRUPT, &interrupt);
    printf("kvm-guest: interrupt %#x injected\n", INTERRUPT_VECTOR);
    machine.interrupt_wanted = false;
}

/* Returns false after the last HLT. */
static bool on_halt(void) {
    printf("kvm-guest: exit %u: KVM_EXIT_HLT\n", machine.exits);
    if (machine.step == STEP_END) {
        finish_step();
        return false;
    }
    if (machine.step != STEP_INTERRUPT) {
        fail("unexpected HLT");
    }
    inject();
    return true;
}

static bool handle_exit(void) {
    struct kvm_run *run = machine.run;
    machine.exits++;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        on_io();
        return true;
    case KVM_EXIT_MMIO:
        on_mmio();
        return true;
    case KVM_EXIT_HLT:
        return on_halt();
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        printf("kvm-guest: exit %u: KVM_EXIT_IRQ_WINDOW_OPEN\n", machine.exits);
        inject();
        return true;
    default:
        kvm_unexpected(run);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    create_vm();
    create_vcpu();
    do {
        if (machine.exits > MAX_EXITS) {
            fail("more than %d exits", MAX_EXITS);
        }
        machine.run->request_interrupt_window = machine.interrupt_wanted;
        if (ioctl(machine.vcpu, KVM_RUN, 0) != 0) {
            fail("KVM_RUN: %s", strerror(errno));
        }
    } while (handle_exit());
    if (machine.passed != STEP_END) {
        fail("%u of %d steps passed", machine.passed, STEP_END);
    }
    printf("kvm-guest: %u exits to user space\n", machine.exits);
    printf("kvm-guest: all %d steps passed\n", STEP_END);
    return 0;
}
