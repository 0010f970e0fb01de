/* SPDX-License-Identifier: MIT */
/* Control and debug registers of L2: guest/host masks, read shadows, targets (SDM vol. 3C, 27.6.6, 27.6.7, 28.1.3). */
#include "scenarios.h"

enum { TO_CR, FROM_CR, IS_CLTS, IS_LMSW };
#define CR(NUMBER, TYPE, REGISTER) ((uint64_t)(NUMBER) | (uint64_t)(TYPE) << 4 | (uint64_t)(REGISTER) << 8)
#define LMSW(SOURCE) (CR(0, IS_LMSW, 0) | (uint64_t)(SOURCE) << 16)
#define LMSW_MEMORY 0x40
#define DR(NUMBER, FROM, REGISTER) ((uint64_t)(NUMBER) | (FROM) << 4 | (uint64_t)(REGISTER) << 8)

enum { CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_AM = 0x40000 };

/* Mask TS and AM; shadow TS = 0, AM = 1. L2 sees the shadow in these bits and the register in the others. */
DEFINE_L2_CODE(cr0,
    "mov %cr0, %rbx\n" EXIT "vmcall\n"
    "mov %cr0, %rax\n mov %rax, %cr0\n"                     /* equals the shadow in masked bits: no exit */
    "or $2, %rax\n mov %rax, %cr0\n"                        /* MP isn't masked: changed without an exit */
    "or $8, %rax\n" EXIT "mov %rax, %cr0\n"
    "and $~0x40008, %rax\n mov %rax, %r12\n" EXIT "mov %r12, %cr0\n"
    "clts\n"                                                /* shadow TS = 0: no exit, no change */
    EXIT "vmcall\n");


static void cr0_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(CR0_MASK, CR0_TS | CR0_AM);
    vmwrite(CR0_SHADOW, CR0_AM);
    vmcs_set(GUEST_CR0, CR0_TS, CR0_AM);
}
static void cr0_first(struct l2 *l2) {
    step_equal("seen", l2->regs.gpr[RBX], 0x80050031);
    step_equal("real", vmread(GUEST_CR0), 0x80010039);
    then_skip(l2);
}
static void cr0_last(struct l2 *l2) {
    (void)l2;
    step_equal("real_at_end", vmread(GUEST_CR0), 0x8001003b);
}
static const struct expected_exit cr0_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = cr0_first},
    {.name = "set_ts", .exit = {.reason = REASON_CR, .length = 3, .qualification = CR(0, TO_CR, RAX)}},
    {.name = "clear_am", .exit = {.reason = REASON_CR, .length = 4, .qualification = CR(0, TO_CR, R12)}},
    {.name = "end", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = cr0_last},
};

DEFINE_L2_CODE(clts,
    EXIT "clts\n mov $9, %eax\n lmsw %ax\n" EXIT "vmcall\n mov $1, %eax\n" EXIT "lmsw %ax\n"
    "movw $5, 0x7010\n mov $0x7000, %ebx\n" EXIT "lmsw 0x10(%rbx)\n");


static void clts_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(CR0_MASK, CR0_TS | CR0_EM);
    vmwrite(CR0_SHADOW, CR0_TS);
    vmcs_set(GUEST_CR0, CR0_TS, CR0_EM);
}
static const struct expected_exit clts_exits[] = {
    {.name = "clts", .exit = {.reason = REASON_CR, .length = 2, .qualification = CR(0, IS_CLTS, 0)}},
    {.name = "lmsw_like_shadow", .exit = {.reason = REASON_VMCALL, .length = 3}},
    {.name = "lmsw_clears_ts", .exit = {.reason = REASON_CR, .length = 3, .qualification = LMSW(1)}},
    {.name = "lmsw_memory", .exit = {.reason = REASON_CR, .length = 4, .qualification = LMSW(5) | LMSW_MEMORY,
         .linear = 0x7010}},
};

/* CLTS with the mask bit clear acts on the register. */
DEFINE_L2_CODE(clts_free, "clts\n" EXIT "vmcall\n");


static void clts_free_setup(struct l2 *l2) {
    (void)l2;
    vmcs_set(GUEST_CR0, CR0_TS, 0);
}
static void clts_free_check(struct l2 *l2) {
    (void)l2;
    step_equal("cr0", vmread(GUEST_CR0), 0x80010031);
}
static const struct expected_exit clts_free_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = clts_free_check},
};

/* CR4: VMXE hidden by mask and shadow, as every hypervisor does for a guest that has no VMX. */
enum { CR4_TSD = 4, CR4_DE = 8 };
DEFINE_L2_CODE(cr4,
    "mov %cr4, %rbx\n" EXIT "vmcall\n"
    "mov %rbx, %rax\n or $8, %rax\n mov %rax, %cr4\n"
    "or $0x2000, %rax\n" EXIT "mov %rax, %cr4\n"
    "mov %cr4, %r9\n" EXIT "vmcall\n");


static void cr4_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(CR4_MASK, CR4_VMXE);
    vmwrite(CR4_SHADOW, 0);
}
static void cr4_first(struct l2 *l2) {
    step_equal("seen", l2->regs.gpr[RBX], 0x20);
    then_skip(l2);
}
static void cr4_last(struct l2 *l2) {
    step_equal("seen_at_end", l2->regs.gpr[R9], 0x28);
    step_equal("real_at_end", vmread(GUEST_CR4), 0x2028);
}
static const struct expected_exit cr4_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = cr4_first},
    {.name = "set_vmxe", .exit = {.reason = REASON_CR, .length = 3, .qualification = CR(4, TO_CR, RAX)}},
    {.name = "end", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = cr4_last},
};

/* Clearing VMXE without a mask: not an exit but #GP, for the bit is fixed in VMX operation. */
DEFINE_L2_CODE(cr4_fixed, "mov %cr4, %rbx\n and $~0x2000, %rbx\n" EXIT "mov %rbx, %cr4\n");


static void intercept_gp(struct l2 *l2) {
    (void)l2;
    vmwrite(EXCEPTION_BITMAP, 1u << 13);
}
static const struct expected_exit cr4_fixed_exits[] = {
    {.name = "gp", .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE_CODE(13)}},
};

DEFINE_L2_CODE(cr3,
    "mov $0x1000, %eax\n mov $0x1008, %r8d\n" EXIT "mov %rax, %cr3\n mov %r8, %cr3\n"
    EXIT "mov %cr3, %r15\n");

static void cr3_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(CR3_TARGET_COUNT, 1);
    vmwrite(CR3_TARGET0, 0x1008);
}
static const struct expected_exit cr3_exits[] = {
    {.name = "load", .exit = {.reason = REASON_CR, .length = 3, .qualification = CR(3, TO_CR, RAX)}},
    {.name = "store", .exit = {.reason = REASON_CR, .length = 4, .qualification = CR(3, FROM_CR, R15)}},
};

/* Without the controls L2 has its CR3 for itself. */
DEFINE_L2_CODE(cr3_free,
    "mov %cr3, %rbx\n lea 0x18(%rbx), %rax\n mov %rax, %cr3\n mov %cr3, %rcx\n" EXIT "vmcall\n");

static void cr3_free_check(struct l2 *l2) {
    step_equal("first", l2->regs.gpr[RBX], L2_PML4);
    step_equal("second", l2->regs.gpr[RCX], L2_PML4 | 0x18);
    step_equal("field", vmread(GUEST_CR3), L2_PML4 | 0x18);
}
static const struct expected_exit cr3_free_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = cr3_free_check},
};

DEFINE_L2_CODE(cr8, "mov $3, %ecx\n" EXIT "mov %rcx, %cr8\n" EXIT "mov %cr8, %r11\n");


static const struct expected_exit cr8_exits[] = {
    {.name = "load", .exit = {.reason = REASON_CR, .length = 4, .qualification = CR(8, TO_CR, RCX)}},
    {.name = "store", .exit = {.reason = REASON_CR, .length = 4, .qualification = CR(8, FROM_CR, R11)}},
};

DEFINE_L2_CODE(dr,
    EXIT "mov %rax, %dr0\n" EXIT "mov %dr7, %rbx\n" EXIT "mov %r9, %dr6\n" EXIT "mov %dr3, %r15\n");

static const struct expected_exit dr_exits[] = {
    {.name = "to_dr0", .exit = {.reason = REASON_DR, .length = 3, .qualification = DR(0, 0u, RAX)}},
    {.name = "from_dr7", .exit = {.reason = REASON_DR, .length = 3, .qualification = DR(7, 1u, RBX)}},
    {.name = "to_dr6", .exit = {.reason = REASON_DR, .length = 4, .qualification = DR(6, 0u, R9)}},
    {.name = "from_dr3", .exit = {.reason = REASON_DR, .length = 4, .qualification = DR(3, 1u, R15)}},
};

/* DR7 and DEBUGCTL of L2 are saved and loaded by the VMCS; DR0-DR3 and DR6 stay in the CPU. */
DEFINE_L2_CODE(dr_free,
    "mov %dr7, %rbx\n mov $0x455, %eax\n mov %rax, %dr7\n mov $0x1234, %eax\n mov %rax, %dr2\n"
    EXIT "vmcall\n mov %dr7, %rbx\n mov %dr2, %rcx\n" EXIT "vmcall\n");

static uint64_t saved_dr2;
static void dr_free_setup(struct l2 *l2) {
    (void)l2;
    __asm__ volatile("movq %%dr2, %0" : "=r"(saved_dr2));
    vmwrite(GUEST_DR7, 0x401);
}
static void dr_free_first(struct l2 *l2) {
    uint64_t dr2;
    __asm__ volatile("movq %%dr2, %0" : "=r"(dr2));
    step_equal("dr7_in_l2", l2->regs.gpr[RBX], 0x401);
    step_equal("dr7_field", vmread(GUEST_DR7), 0x455);
    step_equal("dr7_in_l1", read_dr7(), 0x400);
    step_equal("dr2_in_l1", dr2, 0x1234);
    __asm__ volatile("movq %0, %%dr2" ::"r"(0x5678ul));
    then_skip(l2);
}
static void dr_free_second(struct l2 *l2) {
    step_equal("dr7_again", l2->regs.gpr[RBX], 0x455);
    step_equal("dr2_in_l2", l2->regs.gpr[RCX], 0x5678);
    __asm__ volatile("movq %0, %%dr2" ::"r"(saved_dr2));
}
static const struct expected_exit dr_free_exits[] = {
    {.name = "first", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = dr_free_first},
    {.name = "second", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = dr_free_second},
};

static uint8_t msr_passing[4096] __attribute__((aligned(4096)));

/* Descriptor tables and segment registers that L2 changes appear in its VMCS. */
DEFINE_L2_CODE(segments,
    "movw $0x4f, 0x7000\n movq $0x5000, 0x7002\n lgdt 0x7000\n movw $0xabc, 0x7010\n movq $0x6000, 0x7012\n"
    "lidt 0x7010\n mov $0, %eax\n mov %eax, %fs\n mov $0x10, %eax\n mov %eax, %gs\n mov $0xc0000101, %ecx\n"
    "xor %edx, %edx\n mov $0x77770, %eax\n wrmsr\n" EXIT "vmcall\n");

static void segments_setup(struct l2 *l2) {
    (void)l2;
    memset(msr_passing, 0, sizeof msr_passing);
    vmwrite(MSR_BITMAP, (uint64_t)msr_passing);
}
static void segments_check(struct l2 *l2) {
    (void)l2;
    step_equal("gdtr_limit", vmread(GUEST_GDTR_LIMIT), 0x4f);
    step_equal("idtr_limit", vmread(GUEST_IDTR_LIMIT), 0xabc);
    step_equal("idtr_base", vmread(GUEST_IDTR_BASE), 0x6000);
    step_equal("fs_selector", vmread(GUEST_FS_SELECTOR), 0);
    step_equal("fs_unusable", vmread(GUEST_FS_ACCESS) >> 16 & 1, 1);
    step_equal("gs_access", vmread(GUEST_GS_ACCESS), 0xc093);
    step_equal("gs_base", vmread(GUEST_GS_BASE), 0x77770);
    step_equal("cs_access", vmread(GUEST_CS_ACCESS), 0xa09b);
    step_equal("l1_gs_base", rdmsr(MSR_GS_BASE), 0);
}
static const struct expected_exit segments_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = segments_check},
};

enum { NO_CR3 = PROC_CR3_LOAD | PROC_CR3_STORE };

static const struct scenario table[] = {
    SCENARIO("cr0", cr0, .setup = cr0_setup),
    SCENARIO("cr0.clts_lmsw", clts, .setup = clts_setup),
    SCENARIO("cr0.clts_free", clts_free, .setup = clts_free_setup),
    SCENARIO("cr4", cr4, .setup = cr4_setup),
    SCENARIO("cr4.fixed", cr4_fixed, .setup = intercept_gp),
    SCENARIO("cr3", cr3, .on = {.proc = NO_CR3}, .setup = cr3_setup),
    SCENARIO("cr3.free", cr3_free, .off = {.proc = NO_CR3}),
    SCENARIO("cr8", cr8, .on = {.proc = PROC_CR8_LOAD | PROC_CR8_STORE}),
    SCENARIO("dr", dr, .on = {.proc = PROC_MOV_DR}),
    SCENARIO("dr.free", dr_free, .off = {.proc = PROC_MOV_DR}, .setup = dr_free_setup),
    SCENARIO("segments", segments, .on = {.proc = PROC_MSR_BITMAPS}, .setup = segments_setup),
};

DEFINE_SCENARIOS(register, table);
