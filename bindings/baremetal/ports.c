/* SPDX-License-Identifier: MIT */
/*
 * I/O ports: all are L1's. Only to print the counts before the machine ends (option `stats`) L0 looks at the two by
 * which it is switched off: ACPI's PM1a control, and Bochs's shutdown port. With the options `move-out` and `move-in` COM2 is L0's;
 * for L1 there is nothing at its ports.
 */
#include "console.h"
#include "host.h"

#define BOCHS_SHUTDOWN_PORT 0x8900
#define COM2_FIRST          0x2f8
#define COM2_LAST           0x2ff
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
    if (!options.stats && !options.trace && !options.move_out && !options.move_in)
        return;
    for (uint32_t i = 0; i < 2; i++) {
        bitmap[i] = page_get_or_die(&bitmaps[i].hpa, "an I/O bitmap");
        bitmaps[i].words = (const void *)bitmap[i];
    }
    for (uint16_t port = COM2_FIRST; port <= COM2_LAST && (options.move_out || options.move_in); port++)
        intercept(port, true);
    if (options.stats || options.trace)
        intercept_all(true);
}

static bool is_com2(uint16_t port, uint32_t size) {
    return (options.move_out || options.move_in) && port <= COM2_LAST && port + size > COM2_FIRST;
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

static void set_rax(struct cpu *cpu, uint32_t size, uint32_t value) {
    uint64_t *rax = &cpu->regs.gpr[NVMX_RAX];

    if (size == 1)
        *rax = (*rax & ~0xffull) | (value & 0xff);
    else if (size == 2)
        *rax = (*rax & ~0xffffull) | (value & 0xffff);
    else
        *rax = value;
}

static void port_in(struct cpu *cpu, uint16_t port, uint32_t size) {
    set_rax(cpu, size, size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port));
}

void handle_io(struct cpu *cpu) {
    uint64_t qualification = vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION);
    uint16_t port = IO_PORT(qualification);
    uint32_t size = IO_SIZE(qualification);
    uint32_t value = (uint32_t)cpu->regs.gpr[NVMX_RAX];

    if (is_com2(port, size)) {
        /* INS and OUTS of them are left out, whatever they would have read. */
        if (qualification & IO_IN && !(qualification & IO_STRING))
            set_rax(cpu, size, ~0u);
    } else if (qualification & IO_STRING) {
        /* Its bytes would have to be fetched: this may be the end, so print now, and let the instruction through from
         * here on. */
        report_end();
        intercept_all(false);
        nvmx_vmcs01_changed(cpu->vcpu);
        set_resume_flag();
        return;
    } else if (qualification & IO_IN) {
        port_in(cpu, port, size);
    } else {
        if (is_last(port, size, value))
            report_end();
        port_out(port, size, value);
    }
    skip_instruction();
}
