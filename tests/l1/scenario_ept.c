/* SPDX-License-Identifier: MIT */
/* EPT: violations, misconfigurations, page sizes, invalidation (SDM vol. 3C, chapter 31). */
#include "scenarios.h"

/* Exit qualification of a violation (SDM table 30-7). */
enum { READ = 1, WRITE = 2, FETCH = 4, READABLE = 8, WRITABLE = 0x10, EXECUTABLE = 0x20, LINEAR = 0x80,
    FINAL = 0x100 };

enum { SPARE = 0x100000 };              /* gpa2 1 MB-2 MB: L2 maps it, ept12 doesn't yet */
#define PAGE_B (large_page + 0x3000)    /* another frame of L1 */

#define VIOLATION(NAME, QUALIFICATION, GPA2, ...)                                                     \
    {.name = NAME, .exit = {.reason = REASON_EPT_VIOLATION, .qualification = (QUALIFICATION) | LINEAR | FINAL, \
                            .linear = GPA2, .physical = GPA2}, __VA_ARGS__}
static void advance(uint64_t bytes) {
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + bytes);
}
static void skip3(struct l2 *l2) {
    (void)l2;
    advance(3);
}
static void skip7(struct l2 *l2) {
    (void)l2;
    advance(7);
}

static void invept(void) {
    uint64_t descriptor[2] = {ept_pointer(), 0};
    step_succeed("invept", vmx_invept(1, descriptor));
}

static void map_b(uint64_t gpa2, uint64_t flags) {
    ept_map(gpa2, (uint64_t)PAGE_B, EPT_LEVEL_4K, flags);
}

/* MMIO: nothing there. L1 emulates and skips. */
DEFINE_L2_CODE(mmio,
    "mov $0x40000000, %ebx\n" EXIT "mov 0x20(%rbx), %eax\n mov %eax, %ecx\n"
    EXIT "movl $0x77, (%rbx)\n" EXIT "movb %al, 0x7f(%rbx)\n" EXIT "mov 0x100(%rbx), %r8\n"
    "lea 1f(%rip), %rdx\n jmp *%rbx\n 1: " EXIT "vmcall\n");


static void mmio_read(struct l2 *l2) {
    l2->regs.gpr[RAX] = 0x12345678;
    advance(3);
}
static void skip6(struct l2 *l2) {
    (void)l2;
    advance(6);
}
static void to_rdx(struct l2 *l2) {
    vmwrite(GUEST_RIP, l2->regs.gpr[RDX]);
    l2->next_point = 5;
}
static void mmio_value(struct l2 *l2) {
    step_equal("value", l2->regs.gpr[RCX], 0x12345678);
}
static const struct expected_exit mmio_exits[] = {
    VIOLATION("read", READ, L2_HOLE + 0x20, .then = mmio_read),
    VIOLATION("write", WRITE, L2_HOLE, .then = skip6),
    VIOLATION("write_byte", WRITE, L2_HOLE + 0x7f, .then = skip3),
    VIOLATION("read_8", READ, L2_HOLE + 0x100, .then = skip7),
    {.name = "fetch", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = FETCH | LINEAR | FINAL,
         .linear = L2_HOLE,
                               .physical = L2_HOLE, .rip = L2_HOLE - L2_CODE}, .point = NO_POINT, .then = to_rdx},
    VMCALL_EXIT("end", .then = mmio_value),
};

/* Not present -> present needs no INVEPT: the violation dropped what was cached (SDM 31.4.3.1). */
DEFINE_L2_CODE(demand,
    "mov $0x100000, %ebx\n mov $0x1111, %ecx\n" EXIT "mov %rcx, 8(%rbx)\n mov 8(%rbx), %rdx\n"
    "mov $0x180000, %ebx\n" EXIT "mov 8(%rbx), %rsi\n" EXIT "vmcall\n");

static void map_spare(struct l2 *l2) {
    (void)l2;
    map_b(SPARE, EPT_ALL | EPT_WB);
}
static void map_alias(struct l2 *l2) {
    (void)l2;
    map_b(SPARE + 0x80000, EPT_READ | EPT_WB);
}
static void demand_check(struct l2 *l2) {
    uint64_t value;
    memcpy(&value, PAGE_B + 8, 8);
    step_equal("in_l1", value, 0x1111);
    step_equal("in_l2", l2->regs.gpr[RDX], 0x1111);
    step_equal("through_alias", l2->regs.gpr[RSI], 0x1111);
}
static const struct expected_exit demand_exits[] = {
    VIOLATION("write", WRITE, SPARE + 8, .then = map_spare),
    VIOLATION("read", READ, SPARE + 0x80008, .then = map_alias),
    VMCALL_EXIT("end", .then = demand_check),
};

/* Permissions, and raising them without INVEPT. */
DEFINE_L2_CODE(permission,
    "mov $0xb000, %ebx\n mov $0x55, %eax\n mov (%rbx), %rcx\n" EXIT "mov %eax, 4(%rbx)\n"
    "mov %eax, 8(%rbx)\n lea 1f(%rip), %rdx\n" EXIT "1: vmcall\n");

static void read_only_setup(struct l2 *l2) {
    (void)l2;
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~(EPT_WRITE | EPT_EXECUTE);
}
static void allow_write(struct l2 *l2) {
    (void)l2;
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) |= EPT_WRITE;
}
static void permission_check(struct l2 *l2) {
    (void)l2;
    step_equal("written", *l2_u64(L2_DATA2), 0x5500000000);
}
static const struct expected_exit permission_exits[] = {
    VIOLATION("write", WRITE | READABLE, L2_DATA2 + 4, .then = allow_write),
    VMCALL_EXIT("end", .then = permission_check),
};

DEFINE_L2_CODE(no_execute,
    "mov $0xb000, %ebx\n movl $0x90c3, (%rbx)\n lea 1f(%rip), %rdx\n jmp *%rbx\n 1:  " EXIT "vmcall\n");

static void no_execute_setup(struct l2 *l2) {
    l2_move_code(l2);
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_EXECUTE;
}
static void back_to_rdx(struct l2 *l2) {
    vmwrite(GUEST_RIP, l2->regs.gpr[RDX]);
    l2->next_point = 1;
}
static const struct expected_exit no_execute_exits[] = {
    {.name = "fetch", .exit = {.reason = REASON_EPT_VIOLATION,
         .qualification = FETCH | READABLE | WRITABLE | LINEAR | FINAL,
                               .linear = L2_DATA2, .physical = L2_DATA2, .rip = L2_DATA2 - L2_CODE},
                               .point = NO_POINT,
     .then = back_to_rdx},
    VMCALL_EXIT("end", .point = 0),
};

DEFINE_L2_CODE(execute_only,
    "mov $0xb000, %ebx\n call *%rbx\n" EXIT "mov 1(%rbx), %eax\n" EXIT "mov %eax, 2(%rbx)\n"
    EXIT "vmcall\n");

static void execute_only_setup(struct l2 *l2) {
    (void)l2;
    l2_memory[L2_DATA2] = 0xc3;         /* RET */
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~(EPT_READ | EPT_WRITE);
}
static const struct expected_exit execute_only_exits[] = {
    VIOLATION("read", READ | EXECUTABLE, L2_DATA2 + 1, .then = skip3),
    VIOLATION("write", WRITE | EXECUTABLE, L2_DATA2 + 2, .then = skip3),
    VMCALL_EXIT("end", .point = 0),
};

/* Permissions are the AND over all levels: the table above takes the right away. */
DEFINE_L2_CODE(upper_level,
    "mov $0x40001000, %ebx\n mov (%rbx), %rcx\n" EXIT "mov %eax, 4(%rbx)\n" EXIT "vmcall\n");

static void upper_level_setup(struct l2 *l2) {
    (void)l2;
    map_b(L2_HOLE + 0x1000, EPT_ALL | EPT_WB);
    *ept_entry(L2_HOLE, EPT_LEVEL_1G) &= ~EPT_WRITE;
}
static const struct expected_exit upper_level_exits[] = {
    VIOLATION("write", WRITE | READABLE | EXECUTABLE, L2_HOLE + 0x1004, .then = skip3),
    VMCALL_EXIT("end", .point = 0),
};

/* Taking rights away, or another frame, needs INVEPT. */
DEFINE_L2_CODE(revoke,
    "mov $0xb000, %ebx\n movl $0x11, (%rbx)\n" EXIT "vmcall\n" EXIT "movl $0x22, (%rbx)\n" EXIT "vmcall\n"
    "mov (%rbx), %eax\n" EXIT "vmcall\n" EXIT "mov 4(%rbx), %eax\n" EXIT "vmcall\n");

static void revoke_write(struct l2 *l2) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_WRITE;
    invept();
    then_skip(l2);
}
static void change_frame(struct l2 *l2) {
    uint64_t value = 0x9999;
    memcpy(PAGE_B, &value, sizeof value);
    map_b(L2_DATA2, EPT_ALL | EPT_WB);
    invept();
    then_skip(l2);
}
static void unmap(struct l2 *l2) {
    step_equal("new_frame", l2->regs.gpr[RAX], 0x9999);
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) = 0;
    invept();
    then_skip(l2);
}
static const struct expected_exit revoke_exits[] = {
    VMCALL_EXIT("start", .then = revoke_write),
    VIOLATION("write", WRITE | READABLE | EXECUTABLE, L2_DATA2, .then = skip6),
    VMCALL_EXIT("frame", .then = change_frame),
    VMCALL_EXIT("unmap", .then = unmap),
    VIOLATION("read", READ, L2_DATA2 + 4, .then = skip3),
    VMCALL_EXIT("end", .point = 0),
};

/* The same at an upper level: a whole table goes away and comes back. */
DEFINE_L2_CODE(revoke_table,
    "mov $0x40001000, %ebx\n mov (%rbx), %eax\n" EXIT "vmcall\n" EXIT "mov (%rbx), %al\n mov (%rbx), %al\n"
    EXIT "vmcall\n");

static uint64_t saved_entry;
static void revoke_table_setup(struct l2 *l2) {
    (void)l2;
    map_b(L2_HOLE + 0x1000, EPT_ALL | EPT_WB);
}
static void drop_table(struct l2 *l2) {
    uint64_t *entry = ept_entry(L2_HOLE, EPT_LEVEL_2M);
    saved_entry = *entry;
    *entry = 0;
    uint64_t descriptor[2] = {0, 0};
    step_succeed("invept_global", vmx_invept(2, descriptor));
    then_skip(l2);
}
static void restore_table(struct l2 *l2) {
    (void)l2;
    *ept_entry(L2_HOLE, EPT_LEVEL_2M) = saved_entry;
}
static const struct expected_exit revoke_table_exits[] = {
    VMCALL_EXIT("start", .then = drop_table),
    VIOLATION("read", READ, L2_HOLE + 0x1000, .then = restore_table),
    VMCALL_EXIT("end", .point = 0),
};

/* Misconfigurations: one page each, gpa2 SPARE + n pages (SDM 31.3.3.1). */
DEFINE_L2_CODE(misconfig,
    "mov $0x100000, %ebx\n" EXIT "mov 0x0040(%rbx), %eax\n" EXIT "mov 0x1040(%rbx), %eax\n"
    EXIT "mov 0x2040(%rbx), %eax\n" EXIT "mov 0x3040(%rbx), %eax\n" EXIT "mov 0x4040(%rbx), %eax\n"
    EXIT "mov 0x5040(%rbx), %eax\n" EXIT "mov 0x40000000, %al\n" EXIT "vmcall\n");

static void misconfig_setup(struct l2 *l2) {
    (void)l2;
    map_b(SPARE, EPT_WRITE | EPT_WB);
    map_b(SPARE + 0x1000, EPT_WRITE | EPT_EXECUTE | EPT_WB);
    map_b(SPARE + 0x2000, EPT_ALL | 2ul << 3);
    map_b(SPARE + 0x3000, EPT_ALL | 3ul << 3);
    map_b(SPARE + 0x4000, EPT_ALL | 7ul << 3);
    map_b(SPARE + 0x5000, EPT_ALL | EPT_WB | cap.physical_limit);
    map_b(L2_HOLE, EPT_ALL | EPT_WB);
    *ept_entry(L2_HOLE, EPT_LEVEL_1G) |= 1ul << 5;
}
#define MISCONFIG(NAME, GPA2, THEN) {.name = NAME, .exit = {.reason = REASON_EPT_MISCONFIG, .physical = GPA2}, .then = THEN}
static const struct expected_exit misconfig_exits[] = {
    MISCONFIG("write_only", SPARE + 0x40, skip3), MISCONFIG("write_execute", SPARE + 0x1040, skip6),
    MISCONFIG("type2", SPARE + 0x2040, skip6), MISCONFIG("type3", SPARE + 0x3040, skip6),
    MISCONFIG("type7", SPARE + 0x4040, skip6), MISCONFIG("beyond_width", SPARE + 0x5040, skip6),
    MISCONFIG("upper_reserved", L2_HOLE, skip7),
    VMCALL_EXIT("end", .point = 0),
};

/* 2-MB pages. */
DEFINE_L2_CODE(large,
    "mov $0x200000, %ebx\n movl $0xabcd, 0x12345(%rbx)\n mov 0x1ffff8(%rbx), %rcx\n" EXIT "vmcall\n"
    EXIT "movb $1, 0x100000(%rbx)\n" EXIT "vmcall\n");

static void large_setup(struct l2 *l2) {
    (void)l2;
    uint64_t value = 0x1122334455667788;
    memset(large_page + 0x12340, 0, 16);
    memcpy(large_page + 0x1ffff8, &value, sizeof value);
    map_large_page(EPT_ALL | EPT_WB);
}
static void large_check(struct l2 *l2) {
    uint32_t value;
    memcpy(&value, large_page + 0x12345, sizeof value);
    step_equal("in_l1", value, 0xabcd);
    step_equal("in_l2", l2->regs.gpr[RCX], 0x1122334455667788);
    map_large_page(EPT_READ | EPT_WB);
    invept();
    then_skip(l2);
}
static const struct expected_exit large_exits[] = {
    VMCALL_EXIT("first", .then = large_check),
    VIOLATION("write", WRITE | READABLE, L2_LARGE + 0x100000, .then = skip7),
    VMCALL_EXIT("end", .point = 0),
};

/* A 1-GB page at the hole: frame 0 of L1, so L2 reaches L1's own variables at L2_HOLE + their address. */
DEFINE_L2_CODE(huge, "mov 0x40000000(%rbx), %rcx\n addq $1, 0x40000000(%rbx)\n" EXIT "vmcall\n");


static volatile uint64_t huge_target;
static void huge_setup(struct l2 *l2) {
    huge_target = 0x700;
    l2->regs.gpr[RBX] = (uint64_t)&huge_target;
    ept_map(L2_HOLE, 0, EPT_LEVEL_1G, EPT_ALL | EPT_WB);
}
static void huge_check(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RCX], 0x700);
    step_equal("in_l1", huge_target, 0x701);
}
static const struct expected_exit huge_exits[] = {
    VMCALL_EXIT("vmcall", .then = huge_check),
};

/* 256 pages, each to another frame, in reverse order. */
DEFINE_L2_CODE(many,
    "mov $0x100000, %ebx\n xor %ecx, %ecx\n 1: mov %ecx, (%rbx)\n add $0x1000, %ebx\n inc %ecx\n"
    "cmp $256, %ecx\n jb 1b\n" EXIT "vmcall\n");

static void many_setup(struct l2 *l2) {
    (void)l2;
    for (uint64_t i = 0; i < 256; i++) {
        ept_map(SPARE + i * 4096, (uint64_t)large_page + (255 - i) * 4096, EPT_LEVEL_4K,
        EPT_READ | EPT_WRITE | EPT_WB);
    }
}
static void many_check(struct l2 *l2) {
    uint64_t wrong = 0;
    (void)l2;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value;
        memcpy(&value, large_page + (255 - i) * 4096, sizeof value);
        wrong += value != i ? 1 : 0;
    }
    step_equal("wrong_pages", wrong, 0);
}
static const struct expected_exit many_exits[] = {
    VMCALL_EXIT("vmcall", .then = many_check),
};

/* The walk of L2's own page tables meets a hole: a read, linear address valid, not the final translation. */
DEFINE_L2_CODE(walk, "mov $0x40200000, %ebx\n" EXIT "mov 8(%rbx), %al\n" EXIT "vmcall\n");


static void walk_setup(struct l2 *l2) {
    (void)l2;
    *ept_entry(L2_PD_HIGH, EPT_LEVEL_4K) = 0;
    map_b(L2_HOLE + 0x200000, EPT_ALL | EPT_WB);
}
static void walk_repair(struct l2 *l2) {
    (void)l2;
    ept_map(L2_PD_HIGH, (uint64_t)l2_memory + L2_PD_HIGH, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
}
static const struct expected_exit walk_exits[] = {
    {.name = "walk", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = READ | LINEAR,
         .linear = L2_HOLE + 0x200008,
                              .physical = L2_PD_HIGH + 8}, .then = walk_repair},
    VMCALL_EXIT("end", .point = 0),
};

/* Event delivery meets a hole: the stack of the handler (SDM 30.2.4). */
DEFINE_L2_CODE(delivery, EXIT "ud2\n" ".global l2_delivery_handler\n l2_delivery_handler: " EXIT "vmcall\n");


DEFINE_L2_CODE(delivery_int, EXIT "int $6\n");


extern const uint8_t l2_delivery_handler[];
static void delivery_setup(struct l2 *l2) {
    (void)l2;
    l2_gate(6, l2_delivery_handler, 1, 0);
    *ept_entry(L2_IST_TOP - 0x1000, EPT_LEVEL_4K) = 0;
}
static void delivery_repair(struct l2 *l2) {
    (void)l2;
    ept_map(L2_IST_TOP - 0x1000, (uint64_t)l2_memory + L2_IST_TOP - 0x1000, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    vmwrite(ENTRY_INTERRUPTION_INFO, vmread(IDT_VECTORING_INFO));
    vmwrite(ENTRY_INSTRUCTION_LENGTH, vmread(EXIT_INSTRUCTION_LENGTH));
}
static void delivery_check(struct l2 *l2) {
    step_equal("pushed_rip", *l2_u64(vmread(GUEST_RSP)) - l2_point(l2, 1), 0);
    step_equal("rsp", vmread(GUEST_RSP), L2_IST_TOP - 40);
}
static const struct expected_exit delivery_exits[] = {
    {.name = "stack", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = WRITE | LINEAR | FINAL,
         .linear = L2_IST_TOP - 8,
                               .physical = L2_IST_TOP - 8, .vectoring = EVENT_HARDWARE(6)}, .then = delivery_repair},
    VMCALL_EXIT("handler", .then = delivery_check),
};
static const struct expected_exit delivery_int_exits[] = {
    {.name = "stack", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = WRITE | LINEAR | FINAL,
         .linear = L2_IST_TOP - 8,
                               .physical = L2_IST_TOP - 8, .length = 2, .vectoring = EVENT_SOFTWARE_INTERRUPT(6)},
     .then = delivery_repair},
};

/* ... and the IDT itself. */
static void delivery_idt_setup(struct l2 *l2) {
    (void)l2;
    *ept_entry(L2_IDT, EPT_LEVEL_4K) = 0;
}
static const struct expected_exit delivery_idt_exits[] = {
    {.name = "idt", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = READ | LINEAR | FINAL,
         .linear = L2_IDT + 6 * 16,
                             .physical = L2_IDT + 6 * 16, .vectoring = EVENT_HARDWARE(6)}},
};

/* Accessed and dirty flags (SDM 31.3.5). */
DEFINE_L2_CODE(flags, "mov 0xb000, %al\n" EXIT "vmcall\n mov %al, 0xb001\n" EXIT "vmcall\n");


static void flags_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(EPT_POINTER, ept_pointer() | 0x40);
}
static void flags_first(struct l2 *l2) {
    step_equal("after_read", *ept_entry(L2_DATA2, EPT_LEVEL_4K) & (EPT_ACCESSED | EPT_DIRTY), EPT_ACCESSED);
    step_equal("upper", *ept_entry(L2_DATA2, EPT_LEVEL_2M) & EPT_ACCESSED, EPT_ACCESSED);
    step_equal("untouched", *ept_entry(0xd000, EPT_LEVEL_4K) & (EPT_ACCESSED | EPT_DIRTY), 0);
    then_skip(l2);
}
static void flags_second(struct l2 *l2) {
    (void)l2;
    step_equal("after_write", *ept_entry(L2_DATA2, EPT_LEVEL_4K) & (EPT_ACCESSED | EPT_DIRTY),
         EPT_ACCESSED | EPT_DIRTY);
}
static const struct expected_exit flags_exits[] = {
    VMCALL_EXIT("read", .then = flags_first),
    VMCALL_EXIT("write", .then = flags_second),
};

/* Another EPTP for the same VMCS: its mappings hold at the next entry. */
DEFINE_L2_CODE(switch_eptp,
    "mov 0xb000, %rax\n" EXIT "vmcall\n mov 0xb000, %rax\n" EXIT "vmcall\n mov 0xb000, %rax\n"
    EXIT "vmcall\n");

static uint64_t second_root[512] __attribute__((aligned(4096)));
static uint64_t second_tables[3][512] __attribute__((aligned(4096)));
static void switch_setup(struct l2 *l2) {
    (void)l2;
    uint64_t value = 0xb0b0;
    memcpy(PAGE_B, &value, sizeof value);
    *l2_u64(L2_DATA2) = 0xa0a0;
    uint64_t *old_leaves = ept_entry(0, EPT_LEVEL_4K);
    memset(second_tables, 0, sizeof second_tables);
    memcpy(second_tables[2], old_leaves, sizeof second_tables[2]);
    second_tables[2][L2_DATA2 >> 12] = (uint64_t)PAGE_B | EPT_ALL | EPT_WB;
    second_tables[1][0] = (uint64_t)second_tables[2] | EPT_ALL;
    second_tables[0][0] = (uint64_t)second_tables[1] | EPT_ALL;
    memset(second_root, 0, sizeof second_root);
    second_root[0] = (uint64_t)second_tables[0] | EPT_ALL;
}
static void to_second(struct l2 *l2) {
    step_equal("in_first", l2->regs.gpr[RAX], 0xa0a0);
    vmwrite(EPT_POINTER, (uint64_t)second_root | 3u << 3 | 6);
    then_skip(l2);
}
static void to_first(struct l2 *l2) {
    step_equal("in_second", l2->regs.gpr[RAX], 0xb0b0);
    vmwrite(EPT_POINTER, ept_pointer());
    then_skip(l2);
}
static void in_first_again(struct l2 *l2) {
    step_equal("in_first_again", l2->regs.gpr[RAX], 0xa0a0);
}
static const struct expected_exit switch_eptp_exits[] = {
    VMCALL_EXIT("first", .then = to_second),
    VMCALL_EXIT("second", .then = to_first),
    VMCALL_EXIT("third", .then = in_first_again),
};

/* L2's own page tables changed by L1: seen after INVVPID, or at the next entry if there is no VPID. */
DEFINE_L2_CODE(vpid,
    "mov 0xb000, %rax\n" EXIT "vmcall\n mov 0xb000, %rax\n" EXIT "vmcall\n mov 0xb000, %rax\n"
    EXIT "vmcall\n");
static bool vpid_on;
static void vpid_setup(struct l2 *l2) {
    (void)l2;
    vpid_on = (vmread(PROC2_CONTROLS) & PROC2_VPID) != 0;
    *l2_u64(L2_DATA2) = 0xbb;
    *l2_u64(0xd000) = 0xdd;
    *l2_u64(0xe000) = 0xee;
}
static void remap(uint64_t gpa2, uint64_t type) {
    l2_u64(L2_PT)[L2_DATA2 >> 12] = gpa2 | 0x67;
    uint64_t descriptor[2] = {1, L2_DATA2};
    if (vpid_on) {
        step_succeed("invvpid", vmx_invvpid(type, descriptor));
    }
}
static void vpid_first(struct l2 *l2) {
    step_equal("first", l2->regs.gpr[RAX], 0xbb);
    remap(0xd000, 0);
    then_skip(l2);
}
static void vpid_second(struct l2 *l2) {
    step_equal("second", l2->regs.gpr[RAX], 0xdd);
    remap(0xe000, 1);
    then_skip(l2);
}
static void vpid_third(struct l2 *l2) {
    step_equal("third", l2->regs.gpr[RAX], 0xee);
}
static const struct expected_exit vpid_exits[] = {
    VMCALL_EXIT("first_exit", .then = vpid_first),
    VMCALL_EXIT("second_exit", .then = vpid_second),
    VMCALL_EXIT("third_exit", .then = vpid_third),
};

/*
 * A full table of which one entry changes at a time: by L1's store, by a VMREAD of L1's to memory, by L2 itself. L2 has what is new from the INVEPT on,
 * however often nothing had changed before.
 */
DEFINE_L2_CODE(one_of_many,
    "1: mov (%rbx), %rax\n add $0x1000, %rbx\n loop 1b\n mov %rdx, (%rdi)\n"
    "2: vmcall\n test %rdx, %rdx\n jz 3f\n mov %rdx, (%rdi)\n 3: mov (%rbx), %rax\n jmp 2b\n");

enum { LIVE = 512, OF_EACH = 8 };
#define OWN_TABLE (L2_HOLE + 0x200000ul)

static void one_of_many_setup(struct l2 *l2) {
    for (uint64_t i = 0; i < LIVE; i++) {
        memcpy(large_page + i * 4096, &i, sizeof i);
        ept_map(L2_HOLE + i * 4096, (uint64_t)large_page + i * 4096, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    }
    uint64_t *table = ept_entry(L2_HOLE, EPT_LEVEL_4K);
    ept_map(OWN_TABLE, (uint64_t)table, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    l2->regs.gpr[RBX] = L2_HOLE;
    l2->regs.gpr[RCX] = LIVE;
    l2->regs.gpr[RDI] = OWN_TABLE;
    l2->regs.gpr[RDX] = *table;
}

static bool goes_on(struct l2 *l2) {
    uint64_t descriptor[2] = {ept_pointer(), 0};
    then_skip(l2);
    return vmx_invept(1, descriptor).flags == 0 && l2_run(l2) && l2->exit.reason == REASON_VMCALL;
}

/* Page `index` of L2 becomes frame `frame`. `how`: who writes the entry. */
static void change(struct l2 *l2, uint32_t how, uint64_t index, uint64_t frame) {
    volatile uint64_t *entry = ept_entry(L2_HOLE + index * 4096, EPT_LEVEL_4K);
    uint64_t value = ((uint64_t)large_page + frame * 4096) | EPT_ALL | EPT_WB;

    if (how == 0) {
        *entry = value;
    } else if (how == 1) {
        vmwrite(TSC_OFFSET, value);
        vmx_vmread_memory(TSC_OFFSET, (uint64_t *)entry);
    } else {
        l2->regs.gpr[RDX] = value;
        l2->regs.gpr[RDI] = OWN_TABLE + index * 8;
        goes_on(l2);
        l2->regs.gpr[RDX] = 0;
    }
}

static void one_of_many(struct l2 *l2) {
    uint32_t right[3] = {0};
    if (!l2_run(l2)) {
        return;
    }
    l2->regs.gpr[RDX] = 0;
    for (uint32_t round = 0; round < 6 * OF_EACH; round++) {
        uint32_t how = round / OF_EACH % 3;
        uint64_t index = round * 37 % LIVE, frame = (round * 101 + 5) % LIVE;
        bool on = true;

        l2->regs.gpr[RBX] = L2_HOLE + index * 4096;
        for (uint32_t i = 0; i < round % 4; i++) {
            on = on && goes_on(l2);
        }
        change(l2, how, index, frame);
        right[how] += on && goes_on(l2) && l2->regs.gpr[RAX] == frame;
    }
    step_equal("store", right[0], 2 * OF_EACH);
    step_equal("vmread", right[1], 2 * OF_EACH);
    step_equal("l2", right[2], 2 * OF_EACH);
}

enum { EXECUTE_ONLY = 1, TWO_MB = 1 << 16, ONE_GB = 1 << 17, INVEPT_SINGLE = 1 << 20 | 1 << 25,
    INVEPT_ALL = 1 << 20 | 1 << 26,
       ACCESSED_DIRTY = 1 << 21 };


static const struct scenario table[] = {
    SCENARIO("ept.mmio", mmio, .setup = l2_move_code),
    SCENARIO("ept.demand", demand, .setup = 0),
    SCENARIO("ept.permission", permission, .setup = read_only_setup),
    SCENARIO("ept.no_execute", no_execute, .setup = no_execute_setup),
    SCENARIO("ept.execute_only", execute_only, .ept_vpid = EXECUTE_ONLY, .setup = execute_only_setup),
    SCENARIO("ept.upper_level", upper_level, .setup = upper_level_setup),
    SCENARIO("ept.revoke", revoke, .ept_vpid = INVEPT_SINGLE),
    SCENARIO("ept.revoke_table", revoke_table, .ept_vpid = INVEPT_ALL, .setup = revoke_table_setup),
    SCENARIO("ept.misconfiguration", misconfig, .setup = misconfig_setup),
    SCENARIO("ept.large_page", large, .ept_vpid = TWO_MB | INVEPT_SINGLE, .setup = large_setup),
    SCENARIO("ept.huge_page", huge, .ept_vpid = ONE_GB, .setup = huge_setup),
    SCENARIO("ept.many_pages", many, .setup = many_setup),
    SCENARIO_BODY("ept.one_of_many", one_of_many, one_of_many, .ept_vpid = INVEPT_SINGLE, .setup = one_of_many_setup),
    SCENARIO("ept.guest_walk", walk, .setup = walk_setup),
    SCENARIO("ept.delivery", delivery, .setup = delivery_setup),
    SCENARIO("ept.delivery_int", delivery_int, .setup = delivery_setup),
    {.name = "ept.delivery_idt", .kind = WITH_L2, L2_CODE(delivery), EXITS(delivery_idt_exits),
         .setup = delivery_idt_setup},
    SCENARIO("ept.accessed_dirty", flags, .ept_vpid = ACCESSED_DIRTY, .setup = flags_setup),
    SCENARIO("vpid.invvpid", vpid, .on = {.proc2 = PROC2_VPID}, .ept_vpid = 1ul << 32 | 1ul << 40 | 1ul << 41,
         .setup = vpid_setup),
    SCENARIO("vpid.off", vpid, .off = {.proc2 = PROC2_VPID}, .setup = vpid_setup),
    SCENARIO("ept.switch_eptp", switch_eptp, .setup = switch_setup),
};

DEFINE_SCENARIOS(ept, table);
