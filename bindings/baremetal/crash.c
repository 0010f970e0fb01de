/* SPDX-License-Identifier: MIT */
/* What is printed when L0 or L1 comes to a bad end. */
#include "console.h"
#include "host.h"

static void print_registers(const char *whose, const uint64_t *gpr) {
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    print("nvmx: %s registers:\n", whose);
    for (uint32_t i = 0; i < 16; i += 4)
        print("  %-3s %016lx  %-3s %016lx  %-3s %016lx  %-3s %016lx\n", name[i], gpr[i], name[i + 1], gpr[i + 1],
              name[i + 2], gpr[i + 2], name[i + 3], gpr[i + 3]);
}

static void print_vmcs(const struct cpu *cpu) {
    const char *kind = cpu->selected == NVMX_VMCS01 ? "vmcs01" : cpu->selected < SLOTS ? "vmcs02" : "a shadow VMCS";

    print("nvmx: VMCS %u (%s), last exit reason 0x%x:\n", cpu->selected, kind, cpu->exit_reason);
    for (uint32_t slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *field = nvmx_field_info(slot);
        uint64_t value = 0;

        if (field && vmread_safe(field->encoding, &value))
            print("  %04x %-52s %lx\n", field->encoding, field->name, value);
    }
}

void crash_report(const struct trap_frame *frame) {
    struct cpu *cpu = this_cpu();
    uint64_t rip = 0;

    if (frame) {
        print_registers("L0's", frame->gpr);
        print("  rip %016lx  rsp %016lx  flags %lx  cr2 %016lx\n", frame->rip, frame->rsp, frame->rflags, read_cr2());
    }
    if (!vmx_is_on() || !cpu->has_run)
        return;
    vmread_safe(NVMX_VMCS_GUEST_RSP, &cpu->regs.gpr[NVMX_RSP]);
    vmread_safe(NVMX_VMCS_GUEST_RIP, &rip);
    print_registers(cpu->selected == NVMX_VMCS01 ? "L1's" : "L2's", cpu->regs.gpr);
    print("  rip %016lx  cr2 %016lx\n", rip, cpu->regs.cr2);
    print_vmcs(cpu);
}
