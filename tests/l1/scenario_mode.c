/* SPDX-License-Identifier: MIT */
/* L2 in other modes than 64-bit mode (SDM vol. 3C, 29.3.1, 29.3.2). */
#include "scenarios.h"

static uint8_t msr_passing[4096] __attribute__((aligned(4096)));

static void pass_msrs(void) {
    memset(msr_passing, 0, sizeof msr_passing);
    vmwrite(MSR_BITMAP, (uint64_t)msr_passing);
}

/* Real mode (unrestricted guest), then protected mode, PAE paging, and 64-bit mode, all by L2 itself. */
DEFINE_L2_CODE(real,
    ".code16\n mov $0x1234, %ax\n" EXIT "cpuid\n" EXIT "outb %al, $0x80\n mov $0x7040, %si\n mov $0x512, %dx\n"
    EXIT "outsw\n" EXIT "vmcall\n int $0x20\n mov $0x7000, %bx\n mov (%bx), %cx\n"
    EXIT "mov %cr0, %eax\n"                             /* not an exit: the point marks where protected mode begins */
    "lgdtl 0x7020\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n ljmpl *0x7030\n"
    ".code32\n .global l2_real_32\n l2_real_32: mov $0x10, %ax\n mov %ax, %ds\n mov %ax, %ss\n mov %ax, %es\n"
    "mov $0xa000, %esp\n" EXIT "vmcall\n" EXIT "out %eax, $0x80\n"
    "mov %cr4, %eax\n or $0x20, %eax\n mov %eax, %cr4\n mov $0x1000, %eax\n mov %eax, %cr3\n"
    "mov $0xc0000080, %ecx\n mov $0x100, %eax\n xor %edx, %edx\n wrmsr\n"
    "mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n" EXIT "vmcall\n ljmp *0x7038\n"
    ".code64\n .global l2_real_64\n l2_real_64: " EXIT "vmcall\n"
    ".code16\n .global l2_real_int\n l2_real_int: incw 0x7000\n iretw\n");



extern const uint8_t l2_real_32[], l2_real_64[], l2_real_int[];

static void real_segment(enum vmcs_field selector, uint64_t base, uint64_t rights) {
    uint32_t at = ((uint32_t)selector - GUEST_ES_SELECTOR) / 2;
    vmwrite(selector, base >> 4);
    vmwrite(GUEST_ES_BASE + at * 2, base);
    vmwrite(GUEST_ES_LIMIT + at * 2, 0xffff);
    vmwrite(GUEST_ES_ACCESS + at * 2, rights);
}

/* Runs at L2_CODE: a selector without RPL bits (Bochs 2.7 compares them with CS.DPL in real mode too). */
static uint32_t moved(const struct l2 *l2, const uint8_t *label) {
    return (uint32_t)(L2_CODE + (uint64_t)(label - l2->code));
}

static void real_setup(struct l2 *l2) {
    uint64_t code = L2_CODE;
    l2_move_code(l2);
    pass_msrs();
    for (uint32_t s = GUEST_ES_SELECTOR; s <= GUEST_GS_SELECTOR; s += 2) {
        real_segment(s, s == GUEST_CS_SELECTOR ? code : 0, s == GUEST_CS_SELECTOR ? 0x9b : 0x93);
    }
    vmwrite(GUEST_CR0, 0x30);
    vmwrite(GUEST_CR4, CR4_VMXE);
    vmwrite(GUEST_CR3, 0);
    vmwrite(GUEST_RIP, 0);
    vmwrite(GUEST_RSP, 0x9ff0);
    vmwrite(GUEST_IDTR_BASE, 0);
    vmwrite(GUEST_IDTR_LIMIT, 0x3ff);
    vmwrite(GUEST_EFER, 0);
    vmcs_set(ENTRY_CONTROLS, 0, ENTRY_IA32E);
    uint32_t vector20 = (moved(l2, l2_real_int) - L2_CODE) | (L2_CODE >> 4) << 16;
    uint32_t far32[2] = {moved(l2, l2_real_32), L2_SEL_CODE32};
    uint32_t far64[2] = {moved(l2, l2_real_64), L2_SEL_CODE64};
    struct descriptor_table gdtr = {0x7f, L2_GDT};
    memcpy(l2_memory + 0x20 * 4, &vector20, sizeof vector20);
    memcpy(l2_memory + 0x7020, &gdtr, sizeof gdtr);
    memcpy(l2_memory + 0x7030, far32, sizeof far32);
    memcpy(l2_memory + 0x7038, far64, sizeof far64);
    l2->base = 0;                                       /* RIP counts from CS */
}
static void real_vmcall(struct l2 *l2) {
    step_equal("cs_base", vmread(GUEST_CS_BASE), L2_CODE);
    step_equal("rsp", vmread(GUEST_RSP), 0x9ff0);
    step_equal("ia32e_control", vmread(ENTRY_CONTROLS) & ENTRY_IA32E, 0);
    l2->base = L2_CODE;                                 /* flat from the next exit on */
    l2->next_point = 6;
    then_skip(l2);
}
static void real_32(struct l2 *l2) {
    step_equal("interrupt_ran", l2->regs.gpr[RCX] & 0xffff, 1);
    step_equal("cs", vmread(GUEST_CS_SELECTOR), L2_SEL_CODE32);
    step_equal("cs_access", vmread(GUEST_CS_ACCESS), 0xc09b);
    step_equal("cr0", vmread(GUEST_CR0), 0x31);
    then_skip(l2);
}
static void real_paging(struct l2 *l2) {
    step_equal("cr0_paging", vmread(GUEST_CR0), 0x80000031);
    step_equal("efer_in_compatibility", vmread(GUEST_EFER), EFER_LMA | EFER_LME);
    step_equal("ia32e_control_set", vmread(ENTRY_CONTROLS) & ENTRY_IA32E, ENTRY_IA32E);
    then_skip(l2);
}
static void real_64(struct l2 *l2) {
    (void)l2;
    step_equal("cs_64", vmread(GUEST_CS_ACCESS), 0xa09b);
    step_equal("rsp_64", vmread(GUEST_RSP), 0xa000);
}
enum { IO_STRING = 0x10, IO_IMMEDIATE = 0x40 };
static const struct expected_exit real_exits[] = {
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}},
    {.name = "out", .exit = {.reason = REASON_IO, .length = 2, .qualification = 0x800000 | IO_IMMEDIATE}},
    {.name = "outsw", .exit = {.reason = REASON_IO, .length = 1, .qualification = 0x5120001 | IO_STRING,
         .linear = 0x7040,
                               .instruction = (uint64_t)SEGMENT_DS << 15}},
    VMCALL_EXIT("real", .then = real_vmcall),
    VMCALL_EXIT("protected", .then = real_32),
    {.name = "out_32", .exit = {.reason = REASON_IO, .length = 2, .qualification = 0x800003 | IO_IMMEDIATE}},
    VMCALL_EXIT("compatibility", .then = real_paging),
    VMCALL_EXIT("long", .then = real_64),
};
static bool keeps_lma_control(void) {
    return (cap.misc & 1u << 5) != 0;
}

/* 32-bit PAE paging: with EPT the entry takes the PDPTEs from the VMCS, a MOV to CR3 takes them from memory. */
enum { L2_PAE_PDPT = 0xd000, L2_PAE_PD = 0xe000, GUEST_PDPTE0 = 0x280a };
DEFINE_L2_CODE(pae,
    ".code32\n mov 0x7000, %ebx\n mov $0xd000, %eax\n mov 0xc0007000, %ecx\n" EXIT "vmcall\n"
    "mov %eax, %cr3\n mov 0x40007000, %edx\n" EXIT "vmcall\n");


static void pae_setup(struct l2 *l2) {
    (void)l2;
    l2_u64(L2_PAE_PD)[0] = L2_PT | 7;
    l2_u64(L2_PAE_PDPT)[0] = L2_PAE_PD | 1;
    l2_u64(L2_PAE_PDPT)[1] = L2_PAE_PD | 1;
    l2_u64(L2_DATA)[0] = 0xdddd;
    for (uint32_t i = 0; i < 4; i++) {
        vmwrite((enum vmcs_field)(GUEST_PDPTE0 + i * 2), i == 0 || i == 3 ? L2_PAE_PD | 1 : 0);
    }
    vmwrite(GUEST_CS_SELECTOR, L2_SEL_CODE32);
    vmwrite(GUEST_CS_ACCESS, 0xc09b);
    vmwrite(GUEST_CR3, 0xf000);
    vmwrite(GUEST_EFER, 0);
    vmcs_set(ENTRY_CONTROLS, 0, ENTRY_IA32E);
}
static void pae_first(struct l2 *l2) {
    step_equal("low", l2->regs.gpr[RBX], 0xdddd);
    step_equal("pdpte3", l2->regs.gpr[RCX], 0xdddd);
    then_skip(l2);
}
static void pae_second(struct l2 *l2) {
    step_equal("pdpte1", l2->regs.gpr[RDX], 0xdddd);
    step_equal("pdpte1_field", vmread((enum vmcs_field)(GUEST_PDPTE0 + 2)), L2_PAE_PD | 1);
    step_equal("pdpte3_field", vmread((enum vmcs_field)(GUEST_PDPTE0 + 6)) & 1, 0);
}
static const struct expected_exit pae_exits[] = {
    VMCALL_EXIT("first", .then = pae_first),
    VMCALL_EXIT("second", .then = pae_second),
};
static void pae_bad(struct l2 *l2) {
    pae_setup(l2);
    vmwrite((enum vmcs_field)(GUEST_PDPTE0 + 4), L2_PAE_PD | 7);
    l2_expect_entry_failure(l2, "reserved_bits", REASON_BAD_GUEST_STATE, 2);
    vmwrite((enum vmcs_field)(GUEST_PDPTE0 + 4), cap.physical_limit | 1);
    l2_expect_entry_failure(l2, "beyond_width", REASON_BAD_GUEST_STATE, 2);
    vmwrite((enum vmcs_field)(GUEST_PDPTE0 + 4), L2_PAE_PD | 6);
    struct expected_exit expected = VMCALL_EXIT("not_present_is_fine", .point = 1);
    l2_expect(l2, &expected);
}

/* A 32-bit protected-mode L2 without paging at CPL 0, entered directly. */
DEFINE_L2_CODE(flat, ".code32\n mov 0x7008, %eax\n" EXIT "vmcall\n" EXIT "mov 0x40000010, %ebx\n");



static void flat_setup(struct l2 *l2) {
    (void)l2;
    l2_u64(L2_DATA)[1] = 0x1cafe;
    vmwrite(GUEST_CS_SELECTOR, L2_SEL_CODE32);
    vmwrite(GUEST_CS_ACCESS, 0xc09b);
    vmwrite(GUEST_CR0, 0x31);
    vmwrite(GUEST_EFER, 0);
    vmcs_set(ENTRY_CONTROLS, 0, ENTRY_IA32E);
}
static void flat_check(struct l2 *l2) {
    step_equal("memory", l2->regs.gpr[RAX], 0x1cafe);
    then_skip(l2);
}
static const struct expected_exit flat_exits[] = {
    VMCALL_EXIT("vmcall", .then = flat_check),
    {.name = "violation", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = 0x181, .linear = 0x40000010,
                                   .physical = 0x40000010}},
};

/* Virtual-8086 mode: VMCALL exits, the other VMX instructions don't exist. */
DEFINE_L2_CODE(v86,
    ".code16\n mov $0x4321, %ax\n" EXIT "cpuid\n" EXIT "vmcall\n" EXIT "vmxoff\n" EXIT "vmlaunch\n");
static void v86_setup(struct l2 *l2) {
    l2_move_code(l2);
    for (uint32_t s = GUEST_ES_SELECTOR; s <= GUEST_GS_SELECTOR; s += 2) {
        real_segment(s, s == GUEST_CS_SELECTOR ? L2_CODE : 0, 0xf3);
    }
    vmwrite(GUEST_CR0, 0x31);
    vmwrite(GUEST_EFER, 0);
    vmwrite(GUEST_RIP, 0);
    vmwrite(GUEST_RSP, 0x9ff0);
    vmwrite(GUEST_RFLAGS, 0x20002);
    vmwrite(EXCEPTION_BITMAP, 1u << 6);
    vmcs_set(ENTRY_CONTROLS, 0, ENTRY_IA32E);
    l2->base = 0;
}
static void v86_check(struct l2 *l2) {
    step_equal("ax", l2->regs.gpr[RAX] & 0xffff, 0x4321);
    then_skip(l2);
}
static void skip3(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
}
#define UD_EXIT(NAME) \
    {.name = NAME, .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE(6)}, .then = skip3}
static const struct expected_exit v86_exits[] = {
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}, .then = v86_check},
    VMCALL_EXIT("vmcall"),
    UD_EXIT("vmxoff"),
    UD_EXIT("vmlaunch"),
};

/* Compatibility mode: the same. */
DEFINE_L2_CODE(compatibility,
    ".code32\n" EXIT "vmcall\n" EXIT "vmxoff\n" EXIT "vmresume\n" EXIT "vmptrld (%eax)\n"
    EXIT "vmread %ecx, %edx\n" EXIT "cpuid\n");
static void compatibility_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_CS_SELECTOR, L2_SEL_CODE32);
    vmwrite(GUEST_CS_ACCESS, 0xc09b);
    vmwrite(EXCEPTION_BITMAP, 1u << 6);
}
static const struct expected_exit compatibility_exits[] = {
    VMCALL_EXIT("vmcall"),
    UD_EXIT("vmxoff"),
    UD_EXIT("vmresume"),
    UD_EXIT("vmptrld"),
    UD_EXIT("vmread"),
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}},
};

/* Task switches exit always: by a far JMP or CALL, and by a task gate (SDM 28.4.2). */
enum { TASK_SELECTOR = 0x28, BY_CALL = 0, BY_JUMP = 2, BY_GATE = 3, GATE = 0x30 };
#define TASK(SOURCE) (TASK_SELECTOR | (uint64_t)(SOURCE) << 30)
DEFINE_L2_CODE(task,
    ".code32\n" EXIT "ljmp $0x28, $0\n" EXIT "lcall $0x28, $0\n" EXIT "int $0x30\n" EXIT "ud2\n");
static void task_setup(struct l2 *l2) {
    flat_setup(l2);
    l2_u64(L2_GDT)[TASK_SELECTOR / 8] = 0x0000890052000067;     /* an available 32-bit TSS at 5200H */
    l2_u64(L2_IDT)[GATE] = 0xe500ul << 32 | TASK_SELECTOR << 16; /* 8-byte gates outside IA-32e mode */
    l2_u64(L2_IDT)[6] = 0xe500ul << 32 | TASK_SELECTOR << 16;
    vmwrite(GUEST_IDTR_LIMIT, 0x7ff);
}
static const struct expected_exit task_exits[] = {
    {.name = "jump", .exit = {.reason = REASON_TASK_SWITCH, .length = 7, .qualification = TASK(BY_JUMP)}},
    {.name = "call", .exit = {.reason = REASON_TASK_SWITCH, .length = 7, .qualification = TASK(BY_CALL)}},
    {.name = "int", .exit = {.reason = REASON_TASK_SWITCH, .length = 2, .qualification = TASK(BY_GATE),
                             .vectoring = EVENT_SOFTWARE_INTERRUPT(GATE)}},
    {.name = "exception", .exit = {.reason = REASON_TASK_SWITCH, .qualification = TASK(BY_GATE),
                                   .vectoring = EVENT_HARDWARE(6)}},
};

static const struct scenario table[] = {
    SCENARIO("mode.real", real, .on = {.proc = PROC_IO | PROC_MSR_BITMAPS, .proc2 = PROC2_UNRESTRICTED,
         .entry = ENTRY_LOAD_EFER,
                                     .exit = EXIT_SAVE_EFER}, .setup = real_setup, .offered = keeps_lma_control),
    SCENARIO("mode.pae", pae, .on = {.entry = ENTRY_LOAD_EFER}, .off = {.proc = PROC_CR3_LOAD}, .setup = pae_setup),
    SCENARIO_BODY("mode.pae_bad", pae, pae_bad, .on = {.entry = ENTRY_LOAD_EFER}),
    SCENARIO("mode.flat", flat, .on = {.proc2 = PROC2_UNRESTRICTED, .entry = ENTRY_LOAD_EFER}, .setup = flat_setup),
    SCENARIO("mode.v86", v86, .on = {.proc2 = PROC2_UNRESTRICTED, .entry = ENTRY_LOAD_EFER}, .setup = v86_setup),
    SCENARIO("mode.compatibility", compatibility, .setup = compatibility_setup),
    SCENARIO("mode.task_switch", task, .on = {.proc2 = PROC2_UNRESTRICTED, .entry = ENTRY_LOAD_EFER},
         .setup = task_setup),
};

DEFINE_SCENARIOS(mode, table);
