/* SPDX-License-Identifier: MIT */
/* Outside VMX operation, VMXON, VMXOFF, and what stays forbidden while VMX is on (SDM vol. 3C, 24.7, 24.8, 33.3). */
#include "scenarios.h"

enum { UD = 6, SS = 12, GP = 13 };

struct probe {
    const char *name;
    const void *code64, *code32;
};
extern const struct probe probes[], probes_end[];

static uint64_t operand;

static uint64_t vmxon_pointer(void) {
    vmxon_region.revision = cap.revision;
    return (uint64_t)&vmxon_region;
}

static struct vmx_result vmxon_at(uint64_t pointer) {
    operand = pointer;
    return vmx_vmxon(&operand);
}

/* Every VMX instruction but VMXON, outside VMX operation. */
static void no_vmx(struct l2 *l2) {
    (void)l2;
    for (const struct probe *p = probes; p != probes_end; p++) {
        if (p != probes) {
            step_fault(p->name, fault_in(SEL_CODE64, SEL_DATA, p->code64, &operand), UD, 0);
        }
    }
}

static void no_vmxe(struct l2 *l2) {
    (void)l2;
    write_cr4(read_cr4() & ~CR4_VMXE);
    step_vmx_fault("vmxon", vmxon_at(vmxon_pointer()), UD, 0);
    step_fault("cpl3", fault_in(SEL_USER_CODE64, SEL_USER_DATA, probes[0].code64, &operand), UD, 0);
}

static struct vmx_result vmxon_through_ss(uint64_t address) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile("movq %%rbp, %%r8\n\tmovq %1, %%rbp\n\t" CATCHING("vmxon (%%rbp)") "movq %%r8, %%rbp\n\t"
                     : "=&r"(flags) : "r"(address) : "rax", "r8", "memory", "cc");
    return vmx_result(flags);
}

static void vmxon_faults(struct l2 *l2) {
    (void)l2;
    write_cr4(read_cr4() | CR4_VMXE);
    operand = vmxon_pointer();
    step_fault("cpl3", fault_in(SEL_USER_CODE64, SEL_USER_DATA, probes[0].code64, &operand), GP, 0);
    step_fault("compatibility", fault_in(SEL_CODE32, SEL_DATA, probes[0].code32, &operand), UD, 0);
    step_fault("compatibility_cpl3", fault_in(SEL_USER_CODE32, SEL_USER_DATA, probes[0].code32, &operand), UD, 0);
    write_cr0(read_cr0() & ~CR0_NE);
    step_vmx_fault("cr0_ne_clear", vmxon_at(vmxon_pointer()), GP, 0);
    write_cr0(read_cr0() | CR0_NE);
    step_page_fault("not_present", vmx_vmxon((const uint64_t *)L1_NOT_PRESENT).fault, 0, L1_NOT_PRESENT);
    step_page_fault("crosses_page", vmx_vmxon((const uint64_t *)(L1_READ_ONLY + 0xffc)).fault, 0,
         L1_READ_ONLY + 0x1000);
    step_vmx_fault("non_canonical", vmx_vmxon((const uint64_t *)L1_NON_CANONICAL), GP, 0);
    step_vmx_fault("non_canonical_ss", vmxon_through_ss(L1_NON_CANONICAL), SS, 0);
    write_cr4(read_cr4() & ~CR4_VMXE);
}

static void vmxon_pointers(struct l2 *l2) {
    (void)l2;
    write_cr4(read_cr4() | CR4_VMXE);
    uint64_t pointer = vmxon_pointer();
    step_fail_invalid("misaligned", vmxon_at(pointer + 1));
    step_fail_invalid("misaligned_high", vmxon_at(pointer + 0x800));
    step_fail_invalid("beyond_width", vmxon_at(pointer | cap.physical_limit));
    step_fail_invalid("bit63", vmxon_at(pointer | 1ul << 63));
    vmxon_region.revision = cap.revision ^ 1;
    step_fail_invalid("wrong_revision", vmxon_at(pointer));
    vmxon_region.revision = cap.revision | 0x80000000;
    step_fail_invalid("revision_bit31", vmxon_at(pointer));
    vmxon_region.revision = cap.revision;
    step_vmx_fault("still_off", vmx_vmxoff(), UD, 0);
    step_succeed("good", vmxon_at(pointer));
    step_succeed("vmxoff", vmx_vmxoff());
    write_cr4(read_cr4() & ~CR4_VMXE);
}

static void on_and_off(struct l2 *l2) {
    (void)l2;
    step_succeed("vmxoff", vmx_vmxoff());
    step_vmx_fault("vmxoff_again", vmx_vmxoff(), UD, 0);
    step_vmx_fault("vmptrst_after", vmx_vmptrst(&operand), UD, 0);
    step_succeed("vmxon_again", vmxon_at(vmxon_pointer()));
    step_succeed("vmptrst", vmx_vmptrst(&operand));
    step_equal("no_current_vmcs", operand, ~0ul);
}

static void second_vmxon(struct l2 *l2) {
    (void)l2;
    uint64_t vmcs = (uint64_t)&vmcs_a;
    step_fail_invalid("no_current", vmxon_at(vmxon_pointer()));
    step_fail_invalid("bad_pointer", vmxon_at(1));
    vmcs_a.revision = cap.revision;
    step_succeed("vmclear", vmx_vmclear(&vmcs));
    step_succeed("vmptrld", vmx_vmptrld(&vmcs));
    step_fail("with_current", vmxon_at(vmxon_pointer()), 15);
}

/* CR0 and CR4 keep the values VMX operation needs (SDM vol. 3C, 26.8). */
static void fixed_bits(struct l2 *l2) {
    (void)l2;
    step_fault("clear_vmxe", write_cr4_catching(read_cr4() & ~CR4_VMXE), GP, 0);
    step_fault("clear_ne", write_cr0_catching(read_cr0() & ~CR0_NE), GP, 0);
    step_fault("clear_pg", write_cr0_catching(read_cr0() & ~CR0_PG), GP, 0);
    uint64_t cr4 = read_cr4();
    step_fault("toggle_pge", write_cr4_catching(cr4 ^ 0x80), NO_FAULT, 0);
    write_cr4(cr4);
    step_equal("cr4_vmxe", read_cr4() & CR4_VMXE, CR4_VMXE);
}

static void root_cpl3(struct l2 *l2) {
    (void)l2;
    for (const struct probe *p = probes; p != probes_end; p++) {
        bool is_vmfunc = p->name[2] == 'f';     /* #UD in root, whatever the CPL */
        step_fault(p->name, fault_in(SEL_USER_CODE64, SEL_USER_DATA, p->code64, &operand), is_vmfunc ? UD : GP, 0);
    }
}

/* CPL comes before the operand: nothing is read at CPL 3. */
static void root_cpl3_operand(struct l2 *l2) {
    (void)l2;
    for (const struct probe *p = probes; p != probes_end; p++) {
        bool is_vmfunc = p->name[2] == 'f';
        step_fault(p->name, fault_in(SEL_USER_CODE64, SEL_USER_DATA, p->code64, (void *)L1_NOT_PRESENT),
                   is_vmfunc ? UD : GP, 0);
    }
}

static void root_compatibility(struct l2 *l2) {
    (void)l2;
    for (const struct probe *p = probes; p != probes_end; p++) {
        step_fault(p->name, fault_in(SEL_CODE32, SEL_DATA, p->code32, &operand), UD, 0);
    }
}

static const struct scenario table[] = {
    {.name = "off.no_vmx", .kind = WITHOUT_VMX, .body = no_vmx},
    {.name = "off.no_vmxe", .kind = WITHOUT_VMX, .body = no_vmxe},
    {.name = "off.vmxon_faults", .kind = WITHOUT_VMX, .body = vmxon_faults},
    {.name = "off.vmxon_pointers", .kind = WITHOUT_VMX, .body = vmxon_pointers},
    {.name = "root.on_and_off", .kind = IN_ROOT, .body = on_and_off},
    {.name = "root.second_vmxon", .kind = IN_ROOT, .body = second_vmxon},
    {.name = "root.fixed_bits", .kind = IN_ROOT, .body = fixed_bits},
    {.name = "root.cpl3", .kind = IN_ROOT, .body = root_cpl3},
    {.name = "root.cpl3_operand", .kind = IN_ROOT, .body = root_cpl3_operand},
    {.name = "root.compatibility", .kind = IN_ROOT, .body = root_compatibility},
};

DEFINE_SCENARIOS(off, table);
