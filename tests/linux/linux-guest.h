/* SPDX-License-Identifier: MIT */
/* What linux-guest.c and its parts share: the machine that Debian's Linux finds as L2. */
#ifndef LINUX_GUEST_H
#define LINUX_GUEST_H

#include "kvm.h"

#define MIB         (1u << 20)
#define MEMORY_SIZE (192u * MIB)

/* Below 1 MByte; the range from LOW_END to 1 MByte is reserved, and holds the ACPI tables. */
#define GDT_ADDRESS        0x6000u
#define BOOT_PARAMS        0x7000u
#define PAGE_TABLES        0x9000u /* PML4, PDPT, four page directories */
#define COMMAND_LINE       0x20000u
#define LOW_END            0x9f000u
#define ACPI_ADDRESS       0xe0000u
#define KERNEL_ADDRESS     (16u * MIB)

/* Where the FADT says that the power management registers are. */
#define PORT_PM1_EVENT   0xb000u
#define PORT_PM1_ENABLE  0xb002u
#define PORT_PM1_CONTROL 0xb004u
#define SLEEP_TYPE_S5    5u

struct machine {
    int kvm, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    uint64_t exits;
};

/* linux-guest-load.c: the kernel, its initramfs and what the boot protocol wants; registers as it says (64-bit entry). */
void load_linux(struct machine *machine, const char *kernel, const char *initramfs, const char *command_line);

/* linux-guest-acpi.c: tables that say one thing: how to power off. Returns the address of the RSDP. */
uint64_t put_acpi_tables(uint8_t *memory);

/* linux-guest-uart.c: a 16450 without a receiver. Its line is true while it asks for an interrupt. */
uint8_t uart_read(unsigned offset);
void uart_write(unsigned offset, uint8_t value);
bool uart_line(void);
/* The end of a line that has none. */
void uart_flush(void);

#endif
