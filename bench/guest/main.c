/* SPDX-License-Identifier: MIT */
/*
 * A hypervisor that does nothing but measure what VMX operations cost it, as seen by its own TSC. On an emulated CPU whose
 * TSC counts instructions the figures do not depend on the machine that emulates.
 *
 * For each operation one line: "bench: NAME min median max", in TSC ticks per operation. The last line is "bench: done".
 */
#include "rounds.h"
#include "serial.h"

enum { MULTIBOOT_LOADED = 0x2badb002, INFO_COMMAND_LINE = 1u << 2 };

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line;
};

void l1_main(uint32_t magic, const struct multiboot_info *info);

static void own_cpuid(void) {
    uint32_t out[4];

    cpuid(0, 0, out);
}

static void rows_without_l2(void) {
    MEASURE("l1_cpuid", own_cpuid());
    MEASURE("l1_rdmsr", (void)rdmsr(MSR_VMX_BASIC));
}

void l1_main(uint32_t magic, const struct multiboot_info *info) {
    serial_init();
    cpu_init();
    if (magic == MULTIBOOT_LOADED && (info->flags & INFO_COMMAND_LINE) != 0) {
        measure_words((const char *)(uint64_t)info->command_line);
    }
    vmx_discover();
    measure_timer();
    if (!vmx_on()) {
        print("bench: VMXON failed\n");
        power_off();
    }
    rows_without_l2();
    rows_of_exits();
    rows_of_vmcs();
    rows_of_memory();
    print("bench: done\n");
    power_off();
}
