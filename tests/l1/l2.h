/* SPDX-License-Identifier: MIT */
/*
 * L2: its memory, its VMCS, entering it, and the tables that say what has to happen.
 *
 * gpa2 layout (L2's linear addresses are the same, mapped by L2's own page tables with 4-KB pages below 2 MB
 * and 2-MB pages up to 1 GB; the second GB is mapped too, for accesses to where ept12 has nothing):
 */
#ifndef L1_L2_H
#define L1_L2_H

#include "exit.h"
#include "ept.h"
#include "report.h"
#include "vmx.h"

enum {
    L2_PML4 = 0x1000, L2_PDPT = 0x2000, L2_PD = 0x3000, L2_PT = 0x4000,
    L2_GDT = 0x5000, L2_TSS = 0x5100, L2_IDT = 0x6000,
    L2_DATA = 0x7000,                   /* zero; for scenarios */
    L2_STACK_TOP = 0xa000,              /* two pages */
    L2_IST_TOP = 0xb000,                /* one page: IST 1 */
    L2_DATA2 = 0xb000,                  /* zero; for scenarios, alone in its page */
    L2_PD_HIGH = 0xc000,                /* maps 40000000H-7FFFFFFFH */
    L2_CODE = 0x10000,                  /* copy of section .l2text */
    L2_MEMORY = 0x20000,                /* end of what ept12 maps */
    L2_HOLE = 0x40000000,               /* first gpa2 of the second GB: not in ept12 */
    L2_LARGE = 0x200000,                /* gpa2 where map_large_page() puts a 2-MB page */
};

enum { L2_SEL_CODE64 = 0x08, L2_SEL_DATA = 0x10, L2_SEL_CODE32 = 0x18, L2_SEL_TSS = 0x20,
       L2_SEL_USER_CODE64 = 0x33, L2_SEL_USER_DATA = 0x3b };

enum { RAX, RCX, RDX, RBX, RSP_UNUSED, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

struct l2_regs {
    uint64_t gpr[16];
    uint64_t host_rflags;               /* RFLAGS as the VM exit loaded it */
};

struct l2 {
    struct l2_regs regs;
    struct vmcs_region *vmcs;
    const uint8_t *code;                /* in section .l2text */
    const uint64_t *points;             /* where exits are expected, in order */
    uint64_t base;                      /* where the code is in L2; guest RIPs are reported relative to it */
    uint32_t next_point;
    bool launched;
    struct exit_info exit;              /* the last exit */
};

/*
 * L2 code. EXIT before an instruction says that the exit happens there (guest RIP = this address); the n-th
 * EXIT belongs to the n-th row of the scenario's exits unless the row names another. Running over the end
 * meets UD2.
 */
#define EXIT "771: .pushsection .l2points, \"a\"; .quad 771b; .popsection; "
#define DEFINE_L2_CODE(NAME, TEXT)                                                           \
    extern const uint8_t l2_##NAME[];                                                        \
    extern const uint64_t l2_points_##NAME[];                                                \
    __asm__(".pushsection .l2points, \"a\"\n.balign 8\nl2_points_" #NAME ":\n.popsection\n"  \
            ".pushsection .l2text, \"ax\"\n.balign 16\nl2_" #NAME ":\n" TEXT                  \
            "\n.code64\nud2\n.popsection\n")
#define L2_CODE(NAME) .code = l2_##NAME, .points = l2_points_##NAME

/* One expected exit. Fields that are not defined for the reason needn't be given. */
struct expected_exit {
    const char *name;
    struct exit_info exit;              /* without rip */
    uint32_t point;                     /* 0: the next one; n: the n-th EXIT; NO_POINT: rip is in exit.rip */
    void (*then)(struct l2 *l2);        /* what L1 does about it; NULL: skip the instruction */
};
#define NO_POINT 0xffffffffu

enum scenario_kind { WITHOUT_VMX, IN_ROOT, WITH_L2 };

/*
 * WITHOUT_VMX and IN_ROOT: body is all. WITH_L2: a fresh L2 with `on` set and `off` cleared, then setup, then
 * either the table of exits or body, then finish. A control that the CPU doesn't offer skips the scenario.
 */
struct scenario {
    const char *name;
    enum scenario_kind kind;
    struct controls on, off;
    uint64_t misc, ept_vpid;            /* capability bits that are needed */
    bool (*offered)(void);              /* any other condition; NULL: none */
    bool only_by_name;                  /* not part of the default run: no emulated CPU can do it */
    const uint8_t *code;
    const uint64_t *points;
    void (*setup)(struct l2 *l2);
    const struct expected_exit *exits;
    uint32_t count;
    void (*body)(struct l2 *l2);
    void (*finish)(struct l2 *l2);
};
#define EXITS(TABLE) .exits = (TABLE), .count = sizeof(TABLE) / sizeof((TABLE)[0])

/* Rows: code NAME with its table NAME_exits; code and a function; the VMCALL by which L2 says where it is. */
#define SCENARIO(NAME, CODE_NAME, ...) \
    {.name = NAME, .kind = WITH_L2, L2_CODE(CODE_NAME), EXITS(CODE_NAME##_exits), __VA_ARGS__}
#define SCENARIO_BODY(NAME, CODE_NAME, FUNCTION, ...) \
    {.name = NAME, .kind = WITH_L2, L2_CODE(CODE_NAME), .body = FUNCTION, __VA_ARGS__}
#define VMCALL_EXIT(NAME, ...) {.name = NAME, .exit = {.reason = REASON_VMCALL, .length = 3}, __VA_ARGS__}

extern uint8_t l2_memory[L2_MEMORY];
extern uint8_t large_page[0x200000];
extern struct vmcs_region vmcs_a, vmcs_b;

/* Memory, ept12 and VMCS as a scenario finds them. */
void l2_prepare(struct l2 *l2, const struct scenario *s);

/* vmcs.c: clears the VMCS, makes it current, writes every field that a 64-bit L2 at rip needs. */
void vmcs_prepare(struct vmcs_region *region, const struct controls *on, const struct controls *off, uint64_t rip);
bool controls_offered(const struct controls *on, const struct controls *off);
void vmcs_set(enum vmcs_field field, uint64_t set, uint64_t clear);

/* Enters L2 once. False after VMfail; else exit holds the reduced exit information. */
bool l2_run(struct l2 *l2);
struct vmx_result l2_enter_result(struct l2 *l2);

/* Runs until an exit, and prints the step; false if it wasn't the expected one. */
bool l2_expect(struct l2 *l2, const struct expected_exit *expected);
/* The same for an entry that has to fail with VMfailValid. */
void l2_expect_fail(struct l2 *l2, const char *name, uint32_t error);
/* ... or with an entry failure (exit reason bit 31). */
void l2_expect_entry_failure(struct l2 *l2, const char *name, uint32_t reason, uint64_t qualification);

/* Drops everything that the CPU caches for EPT and VPIDs. */
void invalidate_all(void);

/* gpa2 (and L2 linear address) of a label in .l2text. */
uint64_t l2_address(const void *label);
uint64_t l2_point(const struct l2 *l2, uint32_t number);
uint64_t *l2_u64(uint64_t gpa2);
void l2_gate(uint32_t vector, const void *label, uint8_t ist, uint8_t dpl);
void map_large_page(uint64_t flags);
/* Runs the code from the fixed address L2_CODE, for scenarios whose exits happen outside it. */
void l2_move_code(struct l2 *l2);

/* Things to do about an exit. */
void then_skip(struct l2 *l2);
void then_stay(struct l2 *l2);

uint64_t l2_enter(struct l2_regs *regs, uint64_t launch);
uint64_t l2_enter_mov_ss(struct l2_regs *regs, uint64_t launch);
extern const uint8_t l2_exit[];

#endif
