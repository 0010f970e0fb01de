/* SPDX-License-Identifier: MIT */
/* Exceptions of L2: intercepted, delivered through L2's own IDT, double and triple faults (SDM 28.2, 30.2.2, 30.2.4). */
#include "scenarios.h"

enum { DE = 0, DB = 1, BP = 3, UD = 6, NM = 7, DF = 8, GP = 13, PF = 14 };

static void intercept_all(struct l2 *l2) {
    (void)l2;
    vmwrite(EXCEPTION_BITMAP, 0xffffffff);
}

DEFINE_L2_CODE(all,
    EXIT "ud2\n" EXIT "int3\n xor %ecx, %ecx\n" EXIT "div %ecx\n" EXIT ".byte 0xf1\n"
    "mov $0x8000000000000000, %rbx\n" EXIT "mov (%rbx), %eax\n mov $0x50, %eax\n" EXIT "mov %eax, %fs\n"
    "mov $0x80000000, %ebx\n" EXIT "mov 0x123(%rbx), %al\n" EXIT "movl $1, 0x456(%rbx)\n"
    "mov %cr0, %rax\n or $8, %rax\n mov %rax, %cr0\n" EXIT "fninit\n"
    EXIT "int3\n");


/* None of these exits defines an instruction length but those of software exceptions: L1 counts itself. */
static void skip2(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 2);
}
static void skip3(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
}
static void skip6(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 6);
}
static void skip10(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 10);
}
#define EXCEPTION(NAME, INFO, ...) {.name = NAME, .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = INFO, __VA_ARGS__}
static const struct expected_exit all_exits[] = {
    EXCEPTION("ud", EVENT_HARDWARE(UD), .length = 0), .then = skip2},
    EXCEPTION("bp", EVENT_SOFTWARE_EXCEPTION(BP), .length = 1)},
    EXCEPTION("de", EVENT_HARDWARE(DE), .length = 0), .then = skip2},
    EXCEPTION("int1", EVENT_PRIVILEGED_SOFTWARE(DB), .length = 1)},
    EXCEPTION("gp", EVENT_HARDWARE_CODE(GP), .length = 0), .then = skip2},
    EXCEPTION("gp_selector", EVENT_HARDWARE_CODE(GP), .error_code = 0x50), .then = skip2},
    EXCEPTION("pf_read", EVENT_HARDWARE_CODE(PF), .qualification = 0x80000123, .error_code = 0), .then = skip6},
    EXCEPTION("pf_write", EVENT_HARDWARE_CODE(PF), .qualification = 0x80000456, .error_code = 2), .then = skip10},
    EXCEPTION("nm", EVENT_HARDWARE(NM), .length = 0), .then = skip2},
    EXCEPTION("bp_again", EVENT_SOFTWARE_EXCEPTION(BP), .length = 1)},
};

/* An intercepted #PF leaves CR2 alone (SDM 30.1). */
DEFINE_L2_CODE(cr2,
    "mov $0x1230, %eax\n mov %rax, %cr2\n mov $0x80000000, %ebx\n" EXIT "mov 0x77(%rbx), %eax\n"
    "mov %cr2, %rcx\n" EXIT "vmcall\n");

static void check_cr2(struct l2 *l2) {
    step_equal("cr2", l2->regs.gpr[RCX], 0x1230);
}
static const struct expected_exit cr2_exits[] = {
    EXCEPTION("pf", EVENT_HARDWARE_CODE(PF), .qualification = 0x80000077), .then = skip3},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = check_cr2},
};

/* Single-step: a trap, with pending debug exceptions reported in the qualification (BS, bit 14). */
DEFINE_L2_CODE(single_step,
    "pushfq\n orq $0x100, (%rsp)\n popfq\n nop\n" EXIT "nop\n" EXIT "nop\n" EXIT "nop\n");

static void stop_stepping(struct l2 *l2) {
    (void)l2;
    vmcs_set(GUEST_RFLAGS, 0, 0x100);
    vmcs_set(EXCEPTION_BITMAP, 0, 1u << DB);
}
static const struct expected_exit single_step_exits[] = {
    EXCEPTION("first", EVENT_HARDWARE(DB), .qualification = 0x4000), .then = then_stay},
    EXCEPTION("second", EVENT_HARDWARE(DB), .qualification = 0x4000), .then = stop_stepping},
};

/* A data breakpoint. */
DEFINE_L2_CODE(breakpoint,
    "mov $0x7010, %eax\n mov %rax, %dr1\n mov $0x00d00404, %eax\n mov %rax, %dr7\n movl $1, 0x7010\n"
    EXIT "nop\n xor %eax, %eax\n mov %rax, %dr1\n" EXIT "vmcall\n");

static void drop_breakpoint(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_DR7, 0x400);
}
static const struct expected_exit breakpoint_exits[] = {
    EXCEPTION("db", EVENT_HARDWARE(DB), .qualification = 2), .then = drop_breakpoint},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

/*
 * #PF by error code: mask 1 (P), match 1. Bit 14 of the bitmap set: only protection violations exit; the
 * others go to L2's handler, which puts the error code into RDX and skips the faulting instruction.
 */
#define PF_HANDLER "3: pop %rdx\n mov %cr2, %rcx\n addq $2, (%rsp)\n iretq\n"
DEFINE_L2_CODE(pf_mask,
    "mov $0x80000000, %ebx\n mov $0x7000, %esi\n mov $0x4, %edi\n"
    "mov (%rbx), %eax\n mov %edx, %r8d\n mov %ecx, %r9d\n"
    "mov %cr0, %rax\n or $0x10000, %rax\n mov %rax, %cr0\n"
    EXIT "mov %eax, (%rsi)\n" EXIT "vmcall\n"
    ".global l2_pf_handler\n l2_pf_handler: " PF_HANDLER);


extern const uint8_t l2_pf_handler[];
static void pf_setup(struct l2 *l2, uint32_t bitmap, uint32_t mask, uint32_t match) {
    (void)l2;
    l2_gate(PF, l2_pf_handler, 0, 0);
    l2_u64(L2_PT)[L2_DATA >> 12] &= ~2ul;       /* the data page is read-only for L2 */
    vmwrite(EXCEPTION_BITMAP, bitmap);
    vmwrite(PF_MASK, mask);
    vmwrite(PF_MATCH, match);
}
static void pf_protection(struct l2 *l2) {
    pf_setup(l2, 1u << PF, 1, 1);
}
static void pf_check_first(struct l2 *l2) {
    step_equal("delivered_code", l2->regs.gpr[R8], 0);
    step_equal("delivered_cr2", l2->regs.gpr[R9], 0x80000000);
    skip2(l2);
}
static const struct expected_exit pf_mask_exits[] = {
    EXCEPTION("protection", EVENT_HARDWARE_CODE(PF), .qualification = 0x7000, .error_code = 3),
         .then = pf_check_first},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}},
};

/* Bit 14 clear inverts: what doesn't match exits, what matches is delivered. */
DEFINE_L2_CODE(pf_inverted,
    "mov $0x80000000, %ebx\n mov $0x7000, %esi\n"
    EXIT "mov (%rbx), %eax\n mov %eax, (%rsi)\n mov %edx, %r8d\n" EXIT "vmcall\n");


static void pf_inverted_setup(struct l2 *l2) {
    pf_setup(l2, 0, 1, 1);
}
static void pf_check_delivered(struct l2 *l2) {
    step_equal("delivered_code", l2->regs.gpr[R8], 3);
    step_equal("delivered_cr2", l2->regs.gpr[RCX], 0x7000);
}
static const struct expected_exit pf_inverted_exits[] = {
    EXCEPTION("not_present", EVENT_HARDWARE_CODE(PF), .qualification = 0x80000000, .error_code = 0), .then = skip2},
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = pf_check_delivered},
};

/* Nothing intercepted: L2 handles its own. */
DEFINE_L2_CODE(own,
    "mov $1, %r8d\n ud2\n int3\n mov $0x80000000, %ebx\n mov (%rbx), %eax\n" EXIT "vmcall\n"
    ".global l2_own_ud, l2_own_bp\n"
    "l2_own_ud: shl $4, %r8\n or $2, %r8\n addq $2, (%rsp)\n iretq\n"
    "l2_own_bp: shl $4, %r8\n or $3, %r8\n iretq\n");


extern const uint8_t l2_own_ud[], l2_own_bp[];
static void own_setup(struct l2 *l2) {
    (void)l2;
    l2_gate(UD, l2_own_ud, 0, 0);
    l2_gate(BP, l2_own_bp, 1, 0);
    l2_gate(PF, l2_pf_handler, 0, 0);
}
static void own_check(struct l2 *l2) {
    step_equal("order", l2->regs.gpr[R8], 0x123);
    step_equal("cr2", l2->regs.gpr[RCX], 0x80000000);
    step_equal("rsp", vmread(GUEST_RSP), L2_STACK_TOP);
}
static const struct expected_exit own_exits[] = {
    {.name = "vmcall", .exit = {.reason = REASON_VMCALL, .length = 3}, .then = own_check},
};

/* IDT of limit 0: #UD -> #GP -> #DF -> triple fault. */
DEFINE_L2_CODE(triple, EXIT "ud2\n");


static void triple_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_IDTR_LIMIT, 0);
}
static const struct expected_exit triple_exits[] = {
    {.name = "triple_fault", .exit = {.reason = REASON_TRIPLE_FAULT}},
};

/* #DF intercepted: it exits directly, so there is no vectoring event (SDM 30.2.4). */
static void double_setup(struct l2 *l2) {
    triple_setup(l2);
    vmwrite(EXCEPTION_BITMAP, 1u << DF);
}
static const struct expected_exit double_exits[] = {
    EXCEPTION("df", EVENT_HARDWARE_CODE(DF), .error_code = 0)},
};

/* #GP intercepted while #UD is delivered: error code IDT and EXT bits. */
static void vectoring_setup(struct l2 *l2) {
    triple_setup(l2);
    vmwrite(EXCEPTION_BITMAP, 1u << GP);
}
static const struct expected_exit vectoring_exits[] = {
    EXCEPTION("gp", EVENT_HARDWARE_CODE(GP), .error_code = UD * 8 + 3, .vectoring = EVENT_HARDWARE(UD))},
};

DEFINE_L2_CODE(int_n, EXIT "int $0x40\n");


static const struct expected_exit int_n_exits[] = {
    EXCEPTION("gp", EVENT_HARDWARE_CODE(GP), .error_code = 0x40 * 8 + 2, .length = 2,
              .vectoring = EVENT_SOFTWARE_INTERRUPT(0x40))},
};


static const struct scenario table[] = {
    SCENARIO("exception.all", all, .setup = intercept_all),
    SCENARIO("exception.cr2", cr2, .setup = intercept_all),
    SCENARIO("exception.single_step", single_step, .setup = intercept_all),
    SCENARIO("exception.breakpoint", breakpoint, .setup = intercept_all),
    SCENARIO("exception.pf_mask", pf_mask, .setup = pf_protection),
    SCENARIO("exception.pf_inverted", pf_inverted, .setup = pf_inverted_setup),
    SCENARIO("exception.own", own, .setup = own_setup),
    SCENARIO("exception.triple_fault", triple, .setup = triple_setup),
    {.name = "exception.double_fault", .kind = WITH_L2, L2_CODE(triple), EXITS(double_exits), .setup = double_setup},
    {.name = "exception.vectoring", .kind = WITH_L2, L2_CODE(triple), EXITS(vectoring_exits),
         .setup = vectoring_setup},
    SCENARIO("exception.vectoring_int", int_n, .setup = vectoring_setup),
};

DEFINE_SCENARIOS(exception, table);
