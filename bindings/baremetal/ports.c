/* SPDX-License-Identifier: MIT */
/*
 * I/O ports: all are L1's. Only to print the counts before the machine ends (option `stats`) L0 looks at the two by
 * which it is switched off: ACPI's PM1a control, and Bochs's shutdown port.
 */
#include "console.h"
#include "host.h"

#define BOCHS_SHUTDOWN_PORT 0x8900
#define SLEEP_ENABLE        (1u << 13)

#define IO_SIZE(q)          (((uint32_t)(q)&7) + 1)
#define IO_IN               (1u << 3)
#define IO_STRING           (1u << 4)
#define IO_PORT(q)          ((uint16_t)((q) >> 16))

static uint8_t *bitmap[2]; /* A: ports below 8000H, B: the others */

static void intercept(uint16_t port, bool on) {
    uint8_t *byte = bitmap[port >> 15] + (port & 0x7fff) / 8;
    uint8_t bit = (uint8_t)(1u << port % 8);

    *byte = on ? *byte | bit : *byte & (uint8_t)~bit;
}

static void intercept_all(bool on) {
    uint16_t pm1a = acpi_pm1a_control();

    intercept(BOCHS_SHUTDOWN_PORT, on);
    if (!pm1a)
        return;
    intercept(pm1a, on);
    intercept((uint16_t)(pm1a + 1), on);
}

void io_bitmaps01(struct page bitmaps[2]) {
    bitmaps[0] = bitmaps[1] = (struct page){0};
    if (!options.stats && !options.trace)
        return;
    for (uint32_t i = 0; i < 2; i++) {
        bitmap[i] = page_get_or_die(&bitmaps[i].hpa, "an I/O bitmap");
        bitmaps[i].words = (const void *)bitmap[i];
    }
    intercept_all(true);
}

/* Is this the write that ends the machine? */
static bool is_last(uint16_t port, uint32_t size, uint32_t value) {
    static const char word[] = "Shutdown";
    static uint32_t matched;
    uint16_t pm1a = acpi_pm1a_control();

    if (port == BOCHS_SHUTDOWN_PORT) {
        matched = (uint8_t)value == (uint8_t)word[matched] ? matched + 1 : 0;
        return matched == sizeof word - 1;
    }
    if (port == pm1a)
        return size > 1 && value & SLEEP_ENABLE;
    return pm1a && port == pm1a + 1 && value & SLEEP_ENABLE >> 8;
}

static void port_out(uint16_t port, uint32_t size, uint32_t value) {
    if (size == 1)
        outb(port, (uint8_t)value);
    else if (size == 2)
        outw(port, (uint16_t)value);
    else
        outl(port, value);
}

static void port_in(struct cpu *cpu, uint16_t port, uint32_t size) {
    uint64_t *rax = &cpu->regs.gpr[NVMX_RAX];

    if (size == 1)
        *rax = (*rax & ~0xffull) | inb(port);
    else if (size == 2)
        *rax = (*rax & ~0xffffull) | inw(port);
    else
        *rax = inl(port);
}

void handle_io(struct cpu *cpu) {
    uint64_t qualification = vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION);
    uint16_t port = IO_PORT(qualification);
    uint32_t size = IO_SIZE(qualification);
    uint32_t value = (uint32_t)cpu->regs.gpr[NVMX_RAX];

    if (qualification & IO_STRING) {
        /* Its bytes would have to be fetched: this may be the end, so print now, and let the instruction through from
         * here on. */
        report_end();
        intercept_all(false);
        nvmx_vmcs01_changed(cpu->vcpu);
        return;
    }
    if (qualification & IO_IN) {
        port_in(cpu, port, size);
    } else {
        if (is_last(port, size, value))
            report_end();
        port_out(port, size, value);
    }
    skip_instruction();
}
