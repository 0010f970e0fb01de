/* SPDX-License-Identifier: MIT */
/* Says what the CPU can do, then runs what the boot module holds. */
#include "../../l1/serial.h"
#include "image.h"

enum { MULTIBOOT_LOADED = 0x2badb002, INFO_MODULES = 1u << 3 };

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line, module_count, module_address;
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

void l1_main(uint32_t magic, const struct multiboot_info *info);

static bool rdmsr_there(uint32_t index, uint64_t *value) {
    uint64_t flags;
    uint32_t low = 0, high = 0;
    fault_reset();
    __asm__ volatile(CATCHING("rdmsr") : "=&r"(flags), "=&d"(high), "=&a"(low) : "c"(index) : "memory", "cc");
    *value = (uint64_t)high << 32 | low;
    return last_fault.vector == NO_FAULT;
}

/* What include/nvmx/caps.h needs to know of a CPU, raw: the generator reads these lines. */
static void print_capabilities(void) {
    static const uint32_t leaves[] = {1, 7, 10, 0x80000001, 0x80000008};
    uint32_t leaf[4];
    cpuid(0, 0, leaf);
    const uint32_t last = leaf[0];
    for (uint32_t i = 0; i < sizeof leaves / sizeof leaves[0]; i++) {
        if (leaves[i] <= last || leaves[i] >= 0x80000000) {
            cpuid(leaves[i], 0, leaf);
            print("cpuid %x %x %x %x %x\n", leaves[i], leaf[0], leaf[1], leaf[2], leaf[3]);
        }
    }
    for (uint32_t index = 0x480; index <= 0x493; index++) {
        uint64_t value;
        if (rdmsr_there(index, &value)) {
            print("msr %x %lx\n", index, value);
        }
    }
}

static const uint8_t *aligned(const uint8_t *at) {
    return (const uint8_t *)(((uint64_t)at + 7) & ~7ul);
}

static const uint8_t *write_memory(const uint8_t *at, uint32_t count) {
    const struct diff_poke *poke = (const struct diff_poke *)at;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t *to = (uint64_t *)poke[i].address, value = poke[i].value;
        for (uint64_t k = 0; k < poke[i].count; k++, value += poke[i].step) {
            to[k] = value;
        }
    }
    return (const uint8_t *)(poke + count);
}

static void run(const struct multiboot_module *file) {
    static struct module m;
    const uint8_t *at = (const uint8_t *)(uint64_t)file->start;
    m.header = (const struct diff_header *)at;
    if (file->end - file->start < sizeof *m.header || m.header->magic != DIFF_MAGIC ||
        m.header->fields > DIFF_FIELDS_MAX || m.header->bases > DIFF_BASES_MAX) {
        report_fatal("the module is not of the generator's make");
    }
    if (file->start < DIFF_ARENA + DIFF_ARENA_SIZE && file->end > DIFF_ARENA) {
        report_fatal("the module lies in the memory that vectors use");
    }
    at += sizeof *m.header;
    m.encodings = (const uint32_t *)at;
    at = aligned(at + m.header->fields * sizeof(uint32_t));
    for (uint32_t i = 0; i < m.header->bases; i++) {
        m.base[i] = (const uint64_t *)at;
        at += m.header->fields * sizeof(uint64_t);
    }
    at = write_memory(at, m.header->pokes);
    host_init();
    if (m.header->vectors != 0) {
        at = vectors_run(&m, at);
    }
    if (m.header->sequences != 0) {
        sequences_run(&m, at);
    }
}

void l1_main(uint32_t magic, const struct multiboot_info *info) {
    serial_init();
    cpu_init();
    lapic_enable();
    vmx_discover();
    print_capabilities();
    if (magic == MULTIBOOT_LOADED && (info->flags & INFO_MODULES) != 0 && info->module_count != 0) {
        run((const struct multiboot_module *)(uint64_t)info->module_address);
    }
    print("end\n");
    power_off();
}
