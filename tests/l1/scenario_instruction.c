/* SPDX-License-Identifier: MIT */
/* Instructions of L2 that cause VM exits (SDM vol. 3C, 28.1), and the same ones when nothing intercepts them. */
#include "scenarios.h"

enum { CPUID_MONITOR = 1u << 3, CPUID_XSAVE = 1u << 26, CPUID_RDRAND = 1u << 30 };

static uint32_t cpuid1_ecx(void) {
    uint32_t leaf[4];
    cpuid(1, 0, leaf);
    return leaf[2];
}

static bool has_monitor(void) {
    return (cpuid1_ecx() & CPUID_MONITOR) != 0;
}

static bool has_xsave(void) {
    return (cpuid1_ecx() & CPUID_XSAVE) != 0;
}

/* Unconditional exits. */

DEFINE_L2_CODE(cpuid,
    "mov $1, %eax\n xor %ecx, %ecx\n" EXIT "cpuid\n" EXIT "vmcall\n" EXIT "invd\n" EXIT ".byte 0x48\n"
    "cpuid\n");

static const struct expected_exit cpuid_exits[] = {
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
    {.name = "invd", .exit = {.reason = REASON_INVD, .length = 2}},
    {.name = "cpuid_prefixed", .exit = {.reason = REASON_CPUID, .length = 3}},
};

/* General-purpose registers reach L1 and go back unchanged. */
DEFINE_L2_CODE(registers,
    "mov $0x1000000000000001, %rax\n mov $0x1000000000000002, %rcx\n mov $0x1000000000000003, %rdx\n"
    "mov $0x1000000000000004, %rbx\n mov $0x1000000000000006, %rbp\n mov $0x1000000000000007, %rsi\n"
    "mov $0x1000000000000008, %rdi\n mov $0x1000000000000009, %r8\n mov $0x100000000000000a, %r9\n"
    "mov $0x100000000000000b, %r10\n mov $0x100000000000000c, %r11\n mov $0x100000000000000d, %r12\n"
    "mov $0x100000000000000e, %r13\n mov $0x100000000000000f, %r14\n mov $0x1000000000000010, %r15\n"
    EXIT "vmcall\n"
    "add %rcx, %rax\n add %rdx, %rax\n add %rbx, %rax\n add %rbp, %rax\n add %rsi, %rax\n add %rdi, %rax\n"
    "add %r8, %rax\n add %r9, %rax\n add %r10, %rax\n add %r11, %rax\n add %r12, %rax\n add %r13, %rax\n"
    "add %r14, %rax\n add %r15, %rax\n" EXIT "vmcall\n");


static void change_registers(struct l2 *l2) {
    static const uint64_t expected[16] = {
        0x1000000000000001, 0x1000000000000002, 0x1000000000000003, 0x1000000000000004, 0, 0x1000000000000006,
        0x1000000000000007, 0x1000000000000008, 0x1000000000000009, 0x100000000000000a, 0x100000000000000b,
        0x100000000000000c, 0x100000000000000d, 0x100000000000000e, 0x100000000000000f, 0x1000000000000010,
    };
    step_equal("gprs_differ", (uint64_t)memcmp(l2->regs.gpr, expected, sizeof expected), 0);
    step_equal("rsp", vmread(GUEST_RSP), L2_STACK_TOP);
    for (uint32_t i = 0; i < 16; i++) {
        l2->regs.gpr[i] = 1ul << i;
    }
    then_skip(l2);
}
static void sum_of_registers(struct l2 *l2) {
    step_equal("sum", l2->regs.gpr[RAX], 0xffef);
    then_skip(l2);
}
static const struct expected_exit register_exits[] = {
    {.name = "first", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = change_registers},
    {.name = "second", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = sum_of_registers},
};

DEFINE_L2_CODE(xsetbv, "xor %ecx, %ecx\n xor %edx, %edx\n mov $1, %eax\n" EXIT "xsetbv\n");


static void set_osxsave(struct l2 *l2) {
    (void)l2;
    vmcs_set(GUEST_CR4, 0x40000, 0);
}
static const struct expected_exit xsetbv_exits[] = {
    {.name = "xsetbv", .exit = {.reason = REASON_XSETBV, .length = 3}},
};

/* Before anything else of GETSEC, if CR4 has SMXE. */
DEFINE_L2_CODE(getsec, "xor %eax, %eax\n xor %ebx, %ebx\n" EXIT ".byte 0x0f, 0x37\n");
static bool may_set_smxe(void) {
    return (rdmsr(MSR_VMX_CR4_FIXED1) & CR4_SMXE) != 0;
}
static void set_smxe(struct l2 *l2) {
    (void)l2;
    vmcs_set(GUEST_CR4, CR4_SMXE, 0);
}
static const struct expected_exit getsec_exits[] = {
    {.name = "getsec", .exit = {.reason = REASON_GETSEC, .length = 2}},
};

/* VMX instructions of L2: never executed, whatever their operands; L2's CR4.VMXE is set. */
DEFINE_L2_CODE(vmx,
    "mov $0x7100, %ebx\n mov $3, %ecx\n mov $0x681e, %r9d\n" EXIT "vmxoff\n" EXIT "vmlaunch\n"
    EXIT "vmresume\n" EXIT "vmptrld 0x10(%rbx)\n" EXIT "vmclear -0x20(%rbx, %rcx, 4)\n"
    EXIT "vmptrst (%rbx)\n" EXIT "vmxon 0x7000(, %rcx, 8)\n" EXIT "vmptrld 8(%rsp)\n"
    EXIT "vmclear %fs:0x7008\n" EXIT "vmptrst %gs:(%r13, %r14)\n" EXIT "vmread %r9, %r10\n"
    EXIT "vmread %r9, 0x7fffffff(%r12)\n" EXIT "vmwrite %rdx, %r9\n" EXIT "vmwrite (%r8, %rbp, 2), %r15\n"
    EXIT "invept 0x18(%rbx), %rdi\n" EXIT "invvpid (%rsi), %r11\n");

#define MEM(SCALE) INFO_MEMORY(SCALE, SEGMENT_DS)
static const struct expected_exit vmx_exits[] = {
    {.name = "vmxoff", .exit = {.reason = REASON_VMXOFF, .length = 3}},
    {.name = "vmlaunch", .exit = {.reason = REASON_VMLAUNCH, .length = 3}},
    {.name = "vmresume", .exit = {.reason = REASON_VMRESUME, .length = 3}},
    {.name = "vmptrld", .exit = {.reason = REASON_VMPTRLD, .length = 4, .qualification = 0x10,
                                 .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX)}},
    {.name = "vmclear_scaled", .exit = {.reason = REASON_VMCLEAR, .length = 6, .qualification = ~0x1ful,
                                        .instruction = MEM(2) | INFO_INDEX(RCX) | INFO_BASE(RBX)}},
    {.name = "vmptrst", .exit = {.reason = REASON_VMPTRST, .length = 3,
                                 .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX)}},
    {.name = "vmxon_no_base", .exit = {.reason = REASON_VMXON, .length = 9, .qualification = 0x7000,
                                       .instruction = MEM(3) | INFO_INDEX(RCX) | INFO_NO_BASE}},
    {.name = "vmptrld_ss", .exit = {.reason = REASON_VMPTRLD, .length = 5, .qualification = 8,
                                    .instruction = INFO_MEMORY(0, SEGMENT_SS) | INFO_NO_INDEX | INFO_BASE(4)}},
    {.name = "vmclear_fs", .exit = {.reason = REASON_VMCLEAR, .length = 10, .qualification = 0x7008,
                                    .instruction = INFO_MEMORY(0, SEGMENT_FS) | INFO_NO_INDEX | INFO_NO_BASE}},
    {.name = "vmptrst_gs", .exit = {.reason = REASON_VMPTRST, .length = 7,
                                    .instruction = INFO_MEMORY(0, SEGMENT_GS) | INFO_INDEX(R14) | INFO_BASE(R13)}},
    {.name = "vmread_register", .exit = {.reason = REASON_VMREAD, .length = 4,
                                         .instruction = INFO_REGISTER(R10) | INFO_REGISTER2(R9)}},
    {.name = "vmread_memory", .exit = {.reason = REASON_VMREAD, .length = 9, .qualification = 0x7fffffff,
                                       .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(R12) | INFO_REGISTER2(R9)}},
    {.name = "vmwrite_register", .exit = {.reason = REASON_VMWRITE, .length = 4,
                                          .instruction = INFO_REGISTER(RDX) | INFO_REGISTER2(R9)}},
    {.name = "vmwrite_memory", .exit = {.reason = REASON_VMWRITE, .length = 5,
                                        .instruction = MEM(1) | INFO_INDEX(RBP) | INFO_BASE(R8) | INFO_REGISTER2(R15)}},
    {.name = "invept", .exit = {.reason = REASON_INVEPT, .length = 6, .qualification = 0x18,
                                .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX) | INFO_REGISTER2(RDI)}},
    {.name = "invvpid", .exit = {.reason = REASON_INVVPID, .length = 6,
                                 .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(RSI) | INFO_REGISTER2(R11)}},
};

/* RIP-relative: the qualification is the displacement plus the next instruction's address. */
DEFINE_L2_CODE(vmx_rip, EXIT "vmptrld 0x7000(%rip)\n" EXIT "vmread %rax, -8(%rip)\n");


static void vmx_rip_body(struct l2 *l2) {
    struct expected_exit vmptrld_exit = {
        .name = "vmptrld", .exit = {.reason = REASON_VMPTRLD, .length = 7,
        .qualification = l2_point(l2, 1) + 7 + 0x7000,
                                    .instruction = MEM(0) | INFO_NO_INDEX | INFO_NO_BASE}};
    struct expected_exit vmread_exit = {
        .name = "vmread", .exit = {.reason = REASON_VMREAD, .length = 7, .qualification = l2_point(l2, 2) + 7 - 8,
                                   .instruction = MEM(0) | INFO_NO_INDEX | INFO_NO_BASE}};
    if (l2_expect(l2, &vmptrld_exit)) {
        then_skip(l2);
        l2_expect(l2, &vmread_exit);
    }
}

/* Port I/O. */

enum { IO_IN = 8, IO_STRING = 0x10, IO_REP = 0x20, IO_IMMEDIATE = 0x40 };
#define IO_QUALIFICATION(SIZE, PORT) ((uint64_t)((SIZE) - 1) | (uint64_t)(PORT) << 16)

DEFINE_L2_CODE(io,
    "mov $0x7020, %esi\n mov $0x7040, %edi\n mov $0x512, %edx\n mov $3, %ecx\n" EXIT "in $0x80, %al\n"
    EXIT "out %al, $0x80\n" EXIT "in (%dx), %ax\n" EXIT "out %eax, (%dx)\n" EXIT "outsb\n"
    EXIT "rep outsw\n" EXIT "insl\n" EXIT "fs outsb\n" EXIT "rep insb\n");

static const struct expected_exit io_exits[] = {
    {.name = "in_imm", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(1, 0x80) | IO_IN | IO_IMMEDIATE}},
    {.name = "out_imm", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(1, 0x80) | IO_IMMEDIATE}},
    {.name = "in_word", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(2, 0x512) | IO_IN}},
    {.name = "out_dword", .exit = {.reason = REASON_IO, .length = 1, .qualification = IO_QUALIFICATION(4, 0x512)}},
    {.name = "outsb", .exit = {.reason = REASON_IO, .length = 1,
         .qualification = IO_QUALIFICATION(1, 0x512) | IO_STRING,
                               .linear = 0x7020, .instruction = INFO_MEMORY(0, SEGMENT_DS)}},
    {.name = "rep_outsw", .exit = {.reason = REASON_IO, .length = 3,
                                   .qualification = IO_QUALIFICATION(2, 0x512) | IO_STRING | IO_REP,
                                   .linear = 0x7020, .instruction = INFO_MEMORY(0, SEGMENT_DS)}},
    {.name = "insl", .exit = {.reason = REASON_IO, .length = 1,
         .qualification = IO_QUALIFICATION(4, 0x512) | IO_STRING | IO_IN,
                              .linear = 0x7040, .instruction = INFO_MEMORY(0, SEGMENT_ES)}},
    {.name = "outsb_fs", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(1, 0x512) | IO_STRING,
                                  .linear = 0x7020, .instruction = INFO_MEMORY(0, SEGMENT_FS)}},
    {.name = "rep_insb", .exit = {.reason = REASON_IO, .length = 2,
                                  .qualification = IO_QUALIFICATION(1, 0x512) | IO_STRING | IO_IN | IO_REP,
                                  .linear = 0x7040, .instruction = INFO_MEMORY(0, SEGMENT_ES)}},
};

/* With bitmaps: port 513H and 9000H intercepted, and what touches them; FFFFH + 1 wraps. */
static uint8_t io_bitmaps[2][4096] __attribute__((aligned(4096)));
static void set_io_bitmaps(struct l2 *l2) {
    (void)l2;
    memset(io_bitmaps, 0, sizeof io_bitmaps);
    io_bitmaps[0][0x513 / 8] = 1u << (0x513 % 8);
    io_bitmaps[1][(0x9000 - 0x8000) / 8] = 1;
    vmwrite(IO_BITMAP_A, (uint64_t)io_bitmaps[0]);
    vmwrite(IO_BITMAP_B, (uint64_t)io_bitmaps[1]);
}
DEFINE_L2_CODE(io_bitmap,
    "mov $0x512, %edx\n in (%dx), %al\n out %al, (%dx)\n" EXIT "in (%dx), %ax\n"
    "mov $0x510, %edx\n in (%dx), %ax\n" EXIT "out %eax, (%dx)\n"
    "mov $0x513, %edx\n" EXIT "out %al, (%dx)\n"
    "mov $0x8fff, %edx\n in (%dx), %al\n" EXIT "in (%dx), %ax\n"
    "mov $0x9000, %edx\n" EXIT "in (%dx), %al\n"
    "mov $0xffff, %edx\n in (%dx), %al\n" EXIT "in (%dx), %ax\n" EXIT "vmcall\n");


static const struct expected_exit io_bitmap_exits[] = {
    {.name = "word_touches", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(2, 0x512) | IO_IN}},
    {.name = "dword_touches", .exit = {.reason = REASON_IO, .length = 1,
         .qualification = IO_QUALIFICATION(4, 0x510)}},
    {.name = "own", .exit = {.reason = REASON_IO, .length = 1, .qualification = IO_QUALIFICATION(1, 0x513)}},
    {.name = "b_touches", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(2, 0x8fff) | IO_IN}},
    {.name = "b_own", .exit = {.reason = REASON_IO, .length = 1,
         .qualification = IO_QUALIFICATION(1, 0x9000) | IO_IN}},
    {.name = "wraps", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(2, 0xffff) | IO_IN}},
    {.name = "no_more", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

/* L1 changes a bitmap between two runs of L2. */
DEFINE_L2_CODE(io_bitmap_change,
    "mov $0x514, %edx\n in (%dx), %al\n" EXIT "vmcall\n" EXIT "in (%dx), %al\n" EXIT "vmcall\n"
    "in (%dx), %al\n" EXIT "vmcall\n");

static void intercept_514(struct l2 *l2) {
    io_bitmaps[0][0x514 / 8] |= 1u << (0x514 % 8);
    then_skip(l2);
}
static void pass_514(struct l2 *l2) {
    io_bitmaps[0][0x514 / 8] &= (uint8_t)~(1u << (0x514 % 8));
    then_skip(l2);
}
static const struct expected_exit io_bitmap_change_exits[] = {
    {.name = "passed", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = intercept_514},
    {.name = "intercepted", .exit = {.reason = REASON_IO, .length = 1,
         .qualification = IO_QUALIFICATION(1, 0x514) | IO_IN}},
    {.name = "going_back", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = pass_514},
    {.name = "passed_again", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

/* MSRs. Without bitmaps every access exits, also to MSRs that don't exist. */

DEFINE_L2_CODE(msr,
    "mov $0x174, %ecx\n" EXIT "rdmsr\n" EXIT "wrmsr\n mov $0xc0000082, %ecx\n" EXIT "rdmsr\n"
    "mov $0x40000000, %ecx\n" EXIT "rdmsr\n" EXIT "wrmsr\n");


static const struct expected_exit msr_exits[] = {
    {.name = "rdmsr", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "wrmsr", .exit = {.reason = REASON_WRMSR, .length = 2}},
    {.name = "rdmsr_high", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "rdmsr_outside", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "wrmsr_outside", .exit = {.reason = REASON_WRMSR, .length = 2}},
};

/* Bitmap: reads of 174H, writes of 175H, reads of C0000081H and writes of C0000082H exit. */
static uint8_t msr_bitmap[4096] __attribute__((aligned(4096)));
static uint64_t saved_lstar, saved_star;
enum { READ_LOW = 0, READ_HIGH = 0x400, WRITE_LOW = 0x800, WRITE_HIGH = 0xc00 };
static void intercept_msr(uint32_t part, uint32_t index) {
    index &= 0x1fff;
    msr_bitmap[part + index / 8] |= (uint8_t)(1u << (index % 8));
}
static void set_msr_bitmap(struct l2 *l2) {
    (void)l2;
    memset(msr_bitmap, 0, sizeof msr_bitmap);
    intercept_msr(READ_LOW, 0x174);
    intercept_msr(WRITE_LOW, 0x175);
    intercept_msr(READ_HIGH, MSR_STAR);
    intercept_msr(WRITE_HIGH, MSR_LSTAR);
    vmwrite(MSR_BITMAP, (uint64_t)msr_bitmap);
    vmwrite(GUEST_SYSENTER_ESP, 0x4444);
    saved_star = rdmsr(MSR_STAR);
    saved_lstar = rdmsr(MSR_LSTAR);
    wrmsr(MSR_LSTAR, 0x0000222233334444);
}
DEFINE_L2_CODE(msr_bitmap,
    "mov $0x174, %ecx\n" EXIT "rdmsr\n mov $0x55, %eax\n xor %edx, %edx\n wrmsr\n mov $0x175, %ecx\n"
    "rdmsr\n" EXIT "wrmsr\n mov $0xc0000081, %ecx\n" EXIT "rdmsr\n mov $0x12340000, %edx\n"
    "mov $0x5678, %eax\n wrmsr\n mov $0xc0000082, %ecx\n rdmsr\n" EXIT "wrmsr\n mov $0x2000, %ecx\n"
    EXIT "rdmsr\n mov $0xc0002000, %ecx\n" EXIT "wrmsr\n mov $0xbfffffff, %ecx\n" EXIT "rdmsr\n");

static void msr_read_of_l2(struct l2 *l2) {
    step_equal("sysenter_esp_in_l2", l2->regs.gpr[RDX] << 32 | l2->regs.gpr[RAX], 0x4444);
    step_equal("sysenter_cs_written", vmread(GUEST_SYSENTER_CS), 0x55);
    then_skip(l2);
}
static void msr_lstar_of_l1(struct l2 *l2) {
    step_equal("lstar_in_l2", l2->regs.gpr[RDX] << 32 | l2->regs.gpr[RAX], 0x0000222233334444);
    step_equal("star_in_l1", rdmsr(MSR_STAR), 0x1234000000005678);
    then_skip(l2);
}
static const struct expected_exit msr_bitmap_exits[] = {
    {.name = "read_low", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "write_low", .exit = {.reason = REASON_WRMSR, .length = 2}, .then = msr_read_of_l2},
    {.name = "read_high", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "write_high", .exit = {.reason = REASON_WRMSR, .length = 2}, .then = msr_lstar_of_l1},
    {.name = "read_2000", .exit = {.reason = REASON_RDMSR, .length = 2}},
    {.name = "write_c0002000", .exit = {.reason = REASON_WRMSR, .length = 2}},
    {.name = "read_bfffffff", .exit = {.reason = REASON_RDMSR, .length = 2}},
};
static void restore_syscall_msrs(struct l2 *l2) {
    (void)l2;
    wrmsr(MSR_STAR, saved_star);
    wrmsr(MSR_LSTAR, saved_lstar);
}

/* Single controls. */

DEFINE_L2_CODE(hlt, EXIT "hlt\n" EXIT "vmcall\n");


static const struct expected_exit hlt_exits[] = {
    {.name = "hlt", .exit = {.reason = REASON_HLT, .length = 1}},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

DEFINE_L2_CODE(invlpg, "mov $0x7000, %ebx\n mov $2, %ecx\n" EXIT "invlpg 0x23(%rbx, %rcx, 8)\n"
    "mov $0x123456789000, %rbx\n" EXIT "invlpg (%rbx)\n");


static const struct expected_exit invlpg_exits[] = {
    {.name = "scaled", .exit = {.reason = REASON_INVLPG, .length = 5, .qualification = 0x7033}},
    {.name = "wide", .exit = {.reason = REASON_INVLPG, .length = 3, .qualification = 0x123456789000}},
};

DEFINE_L2_CODE(invpcid, "mov $0x7000, %ebx\n mov $2, %ecx\n" EXIT "invpcid 8(%rbx), %rcx\n");


static const struct expected_exit invpcid_exits[] = {
    {.name = "invpcid", .exit = {.reason = REASON_INVPCID, .length = 6, .qualification = 8,
                                 .instruction = MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX) | INFO_REGISTER2(RCX)}},
};

DEFINE_L2_CODE(rdpmc, "xor %ecx, %ecx\n" EXIT "rdpmc\n");


static const struct expected_exit rdpmc_exits[] = {
    {.name = "rdpmc", .exit = {.reason = REASON_RDPMC, .length = 2}},
};

DEFINE_L2_CODE(rdtsc, EXIT "rdtsc\n");


static const struct expected_exit rdtsc_exits[] = {
    {.name = "rdtsc", .exit = {.reason = REASON_RDTSC, .length = 2}},
};

DEFINE_L2_CODE(rdtscp, EXIT "rdtscp\n");


static const struct expected_exit rdtscp_exits[] = {
    {.name = "rdtscp", .exit = {.reason = REASON_RDTSCP, .length = 3}},
};

DEFINE_L2_CODE(tsc_offset, "rdtsc\n" EXIT "vmcall\n");


static void set_tsc_offset(struct l2 *l2) {
    (void)l2;
    vmwrite(TSC_OFFSET, 5ul << 56);
}
static void check_tsc_offset(struct l2 *l2) {
    step_equal("top_byte", l2->regs.gpr[RDX] >> 24, 5);
}
static const struct expected_exit tsc_offset_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = check_tsc_offset},
};

DEFINE_L2_CODE(pause, EXIT "pause\n" EXIT "vmcall\n");


static const struct expected_exit pause_exits[] = {
    {.name = "pause", .exit = {.reason = REASON_PAUSE, .length = 2}},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

DEFINE_L2_CODE(monitor,
    "mov $0x7000, %eax\n xor %ecx, %ecx\n xor %edx, %edx\n" EXIT "monitor\n" EXIT "mwait\n");

static const struct expected_exit monitor_exits[] = {
    {.name = "monitor", .exit = {.reason = REASON_MONITOR, .length = 3}},
    {.name = "mwait", .exit = {.reason = REASON_MWAIT, .length = 3}},
};

DEFINE_L2_CODE(wbinvd, EXIT "wbinvd\n");


static const struct expected_exit wbinvd_exits[] = {
    {.name = "wbinvd", .exit = {.reason = REASON_WBINVD, .length = 2}},
};

DEFINE_L2_CODE(descriptor_table,
    "mov $0x7000, %ebx\n mov $2, %ecx\n"
    EXIT "sgdt (%rbx)\n" EXIT "sidt 0x10(%rbx, %rcx, 8)\n" EXIT "lgdt (%rbx)\n" EXIT "lidt -0x10(%rbx)\n"
    EXIT "sldt %ecx\n" EXIT "str %r9d\n" EXIT "lldt %cx\n" EXIT "ltr (%rbx)\n" EXIT "sldt 4(%rbx)\n");


#define RBX_ONLY (MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX))
static const struct expected_exit descriptor_table_exits[] = {
    {.name = "sgdt", .exit = {.reason = REASON_GDTR_IDTR, .length = 3, .instruction = RBX_ONLY | INFO_IDENTITY(0)}},
    {.name = "sidt", .exit = {.reason = REASON_GDTR_IDTR, .length = 5, .qualification = 0x10,
                              .instruction = MEM(3) | INFO_INDEX(RCX) | INFO_BASE(RBX) | INFO_IDENTITY(1)}},
    {.name = "lgdt", .exit = {.reason = REASON_GDTR_IDTR, .length = 3, .instruction = RBX_ONLY | INFO_IDENTITY(2)}},
    {.name = "lidt", .exit = {.reason = REASON_GDTR_IDTR, .length = 4, .qualification = ~0xful,
                              .instruction = RBX_ONLY | INFO_IDENTITY(3)}},
    {.name = "sldt", .exit = {.reason = REASON_LDTR_TR, .length = 3,
         .instruction = INFO_REGISTER(RCX) | INFO_IDENTITY(0)}},
    {.name = "str", .exit = {.reason = REASON_LDTR_TR, .length = 4,
         .instruction = INFO_REGISTER(R9) | INFO_IDENTITY(1)}},
    {.name = "lldt", .exit = {.reason = REASON_LDTR_TR, .length = 3,
         .instruction = INFO_REGISTER(RCX) | INFO_IDENTITY(2)}},
    {.name = "ltr", .exit = {.reason = REASON_LDTR_TR, .length = 3, .instruction = RBX_ONLY | INFO_IDENTITY(3)}},
    {.name = "sldt_memory", .exit = {.reason = REASON_LDTR_TR, .length = 4, .qualification = 4,
                                     .instruction = RBX_ONLY | INFO_IDENTITY(0)}},
};

DEFINE_L2_CODE(rdrand, EXIT "rdrand %ecx\n" EXIT "rdrand %r9\n");


static const struct expected_exit rdrand_exits[] = {
    {.name = "r32", .exit = {.reason = REASON_RDRAND, .length = 3, .instruction = RCX << 3 | 1u << 11}},
    {.name = "r64", .exit = {.reason = REASON_RDRAND, .length = 4, .instruction = R9 << 3 | 2u << 11}},
};

/* Bochs 2.7 gives operand size 1 (32 bits) here. */
DEFINE_L2_CODE(rdrand16, EXIT "rdrand %dx\n");


static const struct expected_exit rdrand16_exits[] = {
    {.name = "r16", .exit = {.reason = REASON_RDRAND, .length = 4, .instruction = RDX << 3}},
};

DEFINE_L2_CODE(rdseed, EXIT "rdseed %rbx\n");


static const struct expected_exit rdseed_exits[] = {
    {.name = "r64", .exit = {.reason = REASON_RDSEED, .length = 4, .instruction = RBX << 3 | 2u << 11}},
};

/* Instructions that need a control: without it they don't exist, whatever the CPU has. */
DEFINE_L2_CODE(disabled, "mov $0x7000, %ebx\n xor %eax, %eax\n xor %edx, %edx\n" EXIT "rdtscp\n"
    EXIT "invpcid (%rbx), %rax\n" EXIT "xsaves (%rbx)\n" EXIT "xrstors (%rbx)\n" EXIT "vmcall\n");

static void intercept_ud(struct l2 *l2) {
    set_osxsave(l2);
    vmwrite(EXCEPTION_BITMAP, 1u << 6);
}
static void skip3(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
}
static void skip5(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 5);
}
#define UD_EXIT(NAME, THEN) \
    {.name = NAME, .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE(6)}, .then = THEN}
static const struct expected_exit disabled_exits[] = {
    UD_EXIT("rdtscp", skip3), UD_EXIT("invpcid", skip5), UD_EXIT("xsaves", skip3), UD_EXIT("xrstors", skip3),
    VMCALL_EXIT("end"),
};

DEFINE_L2_CODE(enabled,
    "mov $0x7000, %ebx\n xor %eax, %eax\n xor %edx, %edx\n rdtscp\n mov $2, %eax\n invpcid (%rbx), %rax\n"
    "xor %eax, %eax\n xor %edx, %edx\n xsaves (%rbx)\n" EXIT "vmcall\n");
static void check_xsaves(struct l2 *l2) {
    (void)l2;
    step_equal("compacted", l2_u64(L2_DATA)[520 / 8] >> 63, 1);
}
static void no_xss_exits(struct l2 *l2) {
    intercept_ud(l2);
    vmwrite(XSS_EXITING_BITMAP, 0);
}
static const struct expected_exit enabled_exits[] = {
    VMCALL_EXIT("end", .then = check_xsaves),
};

/* A component that is asked for, enabled in IA32_XSS and in the bitmap: CET's user state. */
DEFINE_L2_CODE(xsaves, "mov $0x7000, %ebx\n xor %edx, %edx\n mov $0x100, %eax\n xsaves (%rbx)\n"
    "mov $0x800, %eax\n" EXIT "xsaves (%rbx)\n" EXIT "xrstors 8(%rbx)\n");
enum { XSS_CET_USER = 1u << 11 };
static bool has_xss_cet(void) {
    uint32_t leaf[4];
    cpuid(0xd, 1, leaf);
    return has_xsave() && (leaf[2] & XSS_CET_USER) != 0;
}
static void set_xss(struct l2 *l2) {
    intercept_ud(l2);
    wrmsr(MSR_XSS, XSS_CET_USER);
    vmwrite(XSS_EXITING_BITMAP, XSS_CET_USER);
}
static void clear_xss(struct l2 *l2) {
    (void)l2;
    wrmsr(MSR_XSS, 0);
}
#define XSAVE_OPERAND (MEM(0) | INFO_NO_INDEX | INFO_BASE(RBX))
static const struct expected_exit xsaves_exits[] = {
    {.name = "xsaves", .exit = {.reason = REASON_XSAVES, .length = 3, .instruction = XSAVE_OPERAND}},
    {.name = "xrstors", .exit = {.reason = REASON_XRSTORS, .length = 4, .qualification = 8, .instruction = XSAVE_OPERAND}},
};

DEFINE_L2_CODE(user_wait, EXIT "tpause %r9d\n" EXIT "umwait %ecx\n");
static const struct expected_exit user_wait_exits[] = {
    {.name = "tpause", .exit = {.reason = REASON_TPAUSE, .length = 5, .instruction = R9 << 3}},
    {.name = "umwait", .exit = {.reason = REASON_UMWAIT, .length = 4, .instruction = RCX << 3}},
};

/* PAUSE in a loop: an exit once the window is over; a single one isn't. */
DEFINE_L2_CODE(pause_loop, "pause\n" EXIT "vmcall\n 1: " EXIT "pause\n jmp 1b\n");

static void pause_loop_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(PLE_GAP, 1000);
    vmwrite(PLE_WINDOW, 20000);
}
static const struct expected_exit pause_loop_exits[] = {
    VMCALL_EXIT("single"),
    {.name = "loop", .exit = {.reason = REASON_PAUSE, .length = 2}},
};

/* An L2 at CPL 3: VMCALL and CPUID exit there too; HLT faults first. */
DEFINE_L2_CODE(cpl3,
    "push $0x3b\n push $0x9000\n push $0x3002\n push $0x33\n lea 1f(%rip), %rax\n push %rax\n iretq\n"
    "1: " EXIT "vmcall\n" EXIT "cpuid\n" EXIT "in $0x80, %al\n" EXIT "hlt\n");


static void intercept_gp(struct l2 *l2) {
    (void)l2;
    vmwrite(EXCEPTION_BITMAP, 1u << 13);
}
static const struct expected_exit cpl3_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
    {.name = "cpuid", .exit = {.reason = REASON_CPUID, .length = 2}},
    {.name = "in", .exit = {.reason = REASON_IO, .length = 2,
         .qualification = IO_QUALIFICATION(1, 0x80) | IO_IN | IO_IMMEDIATE}},
    {.name = "hlt_faults_first", .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE_CODE(13)}},
};


static const struct scenario table[] = {
    SCENARIO("cpuid", cpuid, .setup = 0),
    {.name = "registers", .kind = WITH_L2, L2_CODE(registers), EXITS(register_exits)},
    SCENARIO("xsetbv", xsetbv, .setup = set_osxsave, .offered = has_xsave),
    SCENARIO("getsec", getsec, .setup = set_smxe, .offered = may_set_smxe),
    SCENARIO("vmx_in_l2", vmx, .setup = 0),
    {.name = "vmx_in_l2.rip_relative", .kind = WITH_L2, L2_CODE(vmx_rip), .body = vmx_rip_body},
    SCENARIO("io.unconditional", io, .on = {.proc = PROC_IO}),
    SCENARIO("io.bitmaps", io_bitmap, .on = {.proc = PROC_IO_BITMAPS | PROC_IO}, .setup = set_io_bitmaps),
    SCENARIO("io.bitmap_change", io_bitmap_change, .on = {.proc = PROC_IO_BITMAPS}, .setup = set_io_bitmaps),
    SCENARIO("msr.all", msr, .off = {.proc = PROC_MSR_BITMAPS}),
    SCENARIO("msr.bitmaps", msr_bitmap, .on = {.proc = PROC_MSR_BITMAPS}, .setup = set_msr_bitmap,
         .finish = restore_syscall_msrs),
    SCENARIO("hlt", hlt, .on = {.proc = PROC_HLT}),
    SCENARIO("invlpg", invlpg, .on = {.proc = PROC_INVLPG}),
    SCENARIO("invpcid", invpcid, .on = {.proc = PROC_INVLPG, .proc2 = PROC2_INVPCID}),
    SCENARIO("rdpmc", rdpmc, .on = {.proc = PROC_RDPMC}),
    SCENARIO("rdtsc", rdtsc, .on = {.proc = PROC_RDTSC}),
    SCENARIO("rdtscp", rdtscp, .on = {.proc = PROC_RDTSC, .proc2 = PROC2_RDTSCP}),
    SCENARIO("tsc_offset", tsc_offset, .on = {.proc = PROC_TSC_OFFSET}, .setup = set_tsc_offset),
    SCENARIO("pause", pause, .on = {.proc = PROC_PAUSE}),
    SCENARIO("monitor_mwait", monitor, .on = {.proc = PROC_MONITOR | PROC_MWAIT}, .offered = has_monitor),
    SCENARIO("wbinvd", wbinvd, .on = {.proc2 = PROC2_WBINVD}),
    SCENARIO("descriptor_table", descriptor_table, .on = {.proc2 = PROC2_DESCRIPTOR_TABLE}),
    SCENARIO("rdrand", rdrand, .on = {.proc2 = PROC2_RDRAND}),
    SCENARIO("strict.rdrand", rdrand16, .on = {.proc2 = PROC2_RDRAND}, .only_by_name = true),
    SCENARIO("rdseed", rdseed, .on = {.proc2 = PROC2_RDSEED}),
    SCENARIO("disabled", disabled, .off = {.proc2 = PROC2_RDTSCP | PROC2_INVPCID | PROC2_XSAVES},
         .setup = intercept_ud,
             .offered = has_xsave),
    SCENARIO("enabled", enabled, .on = {.proc2 = PROC2_RDTSCP | PROC2_INVPCID | PROC2_XSAVES}, .setup = no_xss_exits),
    SCENARIO("xsaves", xsaves, .on = {.proc2 = PROC2_XSAVES}, .setup = set_xss, .finish = clear_xss, .offered = has_xss_cet),
    SCENARIO("user_wait", user_wait, .on = {.proc = PROC_RDTSC, .proc2 = PROC2_USER_WAIT}),
    SCENARIO("pause_loop", pause_loop, .on = {.proc2 = PROC2_PAUSE_LOOP}, .setup = pause_loop_setup),
    SCENARIO("cpl3", cpl3, .on = {.proc = PROC_IO | PROC_HLT}, .setup = intercept_gp),
};

DEFINE_SCENARIOS(instruction, table);
