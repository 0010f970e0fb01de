/* SPDX-License-Identifier: MIT */
/*
 * A small user of KVM that boots Debian's Linux as a guest, to its own init and until it powers off: memory, KVM's interrupt controllers and timer, a serial
 * port, and as much ACPI as powering off takes.
 *
 * What the guest prints comes behind "L2: ". The last line is "linux-guest: the guest powered off" (exit status 0) or
 * "linux-guest: FAILED: ..." (1).
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "linux-guest.h"

#define COM1        0x3f8u
#define COM1_LINE   4u
#define CMOS_DATA   0x71u
#define SLEEP       0x2000u
#define HYPERVISOR  (1u << 31) /* leaf 1, ECX: KVM leaves it to its user to say so */

#define KERNEL    "/guest/vmlinuz"
#define INITRAMFS "/guest/initramfs"

static struct machine machine;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    uart_flush();
    printf("linux-guest: FAILED: ");
    vprintf(format, arguments);
    printf(" (%llu exits)\n", (unsigned long long)machine.exits);
    va_end(arguments);
    exit(1);
}

static void create_vm(void) {
    struct kvm_pit_config timer = {0};
    machine.kvm = kvm_open();
    machine.vm = kvm_create_vm(machine.kvm);
    CALL_NUMBER(machine.vm, KVM_CREATE_IRQCHIP, 0);
    CALL(machine.vm, KVM_CREATE_PIT2, &timer);
    machine.memory = kvm_make_memory(machine.vm, MEMORY_SIZE);
    madvise(machine.memory, MEMORY_SIZE, MADV_HUGEPAGE);
}

static void create_vcpu(void) {
    struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(machine.kvm);
    machine.vcpu = kvm_create_vcpu(machine.kvm, machine.vm, 0, &machine.run);
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == 1) {
            cpuid->entries[i].ecx |= HYPERVISOR;
        }
    }
    CALL(machine.vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
}

static void set_serial_line(void) {
    static bool raised;
    struct kvm_irq_level level = {.irq = COM1_LINE, .level = uart_line()};
    if (raised != uart_line()) {
        raised = uart_line();
        CALL(machine.vm, KVM_IRQ_LINE, &level);
    }
}

/* Nothing ever happens of what it enables. */
static uint16_t pm1_enable;

static uint32_t port_in(uint16_t port, uint32_t size) {
    if (port >= COM1 && port < COM1 + 8 && size == 1) {
        return uart_read(port - COM1);
    }
    if (port == PORT_PM1_ENABLE) {
        return pm1_enable;
    }
    if ((port >= PORT_PM1_EVENT && port < PORT_PM1_CONTROL + 2) || port == CMOS_DATA) {
        return 0;
    }
    return ~0U;
}

/* False: the guest powered off. */
static bool port_out(uint16_t port, uint32_t size, uint32_t value) {
    if (port >= COM1 && port < COM1 + 8 && size == 1) {
        uart_write(port - COM1, (uint8_t)value);
    }
    if (port == PORT_PM1_ENABLE) {
        pm1_enable = (uint16_t)value;
    }
    return !(port == PORT_PM1_CONTROL && size == 2 && (value & SLEEP) != 0 && ((value >> 10) & 7) == SLEEP_TYPE_S5);
}

static bool on_io(void) {
    const struct kvm_run *run = machine.run;
    uint8_t *data = (uint8_t *)machine.run + run->io.data_offset;
    bool on = true;
    for (uint32_t i = 0; i < run->io.count && on; i++, data += run->io.size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, run->io.size);
            on = port_out(run->io.port, run->io.size, value);
        } else {
            value = port_in(run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        }
    }
    set_serial_line();
    return on;
}

static bool handle_exit(void) {
    struct kvm_run *run = machine.run;
    machine.exits++;
    if (run->exit_reason == KVM_EXIT_IO) {
        return on_io();
    }
    kvm_nothing_there(run);
    return true;
}

/* The guest's command line is ours, word by word. */
static const char *join(int count, char **words) {
    static char line[2048];
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        size_t length = strlen(words[i]);
        if (used + length + 2 > sizeof(line)) {
            fail("the guest's command line is too long");
        }
        memcpy(line + used, words[i], length);
        used += length;
        line[used++] = ' ';
    }
    return line;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    create_vm();
    create_vcpu();
    load_linux(&machine, KERNEL, INITRAMFS, join(argc - 1, argv + 1));
    printf("linux-guest: %u MBytes, %s starts\n", MEMORY_SIZE / MIB, KERNEL);
    do {
        if (ioctl(machine.vcpu, KVM_RUN, 0) != 0 && errno != EINTR) {
            fail("KVM_RUN: %s", strerror(errno));
        }
    } while (handle_exit());
    uart_flush();
    printf("linux-guest: %llu exits to user space\n", (unsigned long long)machine.exits);
    printf("linux-guest: the guest powered off\n");
    return 0;
}
