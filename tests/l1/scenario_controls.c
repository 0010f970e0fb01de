/* SPDX-License-Identifier: MIT */
/* VM functions, page-modification logging, #VE, VMCS shadowing, TSC scaling (SDM vol. 3C, 27.10, 28.3, 28.5.7, 28.5.8, 31.3.6). */
#include "scenarios.h"

enum { READ = 1, WRITE = 2, READABLE = 8, WRITABLE = 0x10, EXECUTABLE = 0x20, LINEAR = 0x80, FINAL = 0x100 };
#define SUPPRESS_VE (1ul << 63)
#define AD_FLAGS 0x40ul                 /* of an EPTP */
#define PAGE_B (large_page + 0x3000)    /* another frame of L1 */

/*
 * Set where Bochs 2.7 does something else than the SDM says: it logs bits 11:0 too, keeps the EPTP index of an earlier VMFUNC, and looks at the
 * fields of a shadow VMCS that VMLAUNCH can't enter.
 */
static bool strict;

static uint64_t page[512] __attribute__((aligned(4096)));      /* EPTP list, log */

static void invept(uint64_t eptp) {
    uint64_t descriptor[2] = {eptp, 0};
    step_succeed("invept", vmx_invept(1, descriptor));
}

/* -- VM functions: a second ept12 in which L2_DATA2 is another frame -------------------------------------------------- */

static uint64_t second[4][512] __attribute__((aligned(4096)));

static uint64_t second_pointer(void) {
    return (uint64_t)second[0] | 3u << 3 | 6;
}

static void function_setup(struct l2 *l2) {
    uint64_t value = 0xb0b0;
    (void)l2;
    memcpy(PAGE_B, &value, sizeof value);
    *l2_u64(L2_DATA2) = 0xa0a0;
    memset(second, 0, sizeof second);
    memcpy(second[3], ept_entry(0, EPT_LEVEL_4K), sizeof second[3]);
    second[3][L2_DATA2 >> 12] = (uint64_t)PAGE_B | EPT_ALL | EPT_WB;
    second[2][0] = (uint64_t)second[3] | EPT_ALL;
    second[1][0] = (uint64_t)second[2] | EPT_ALL;
    second[0][0] = (uint64_t)second[1] | EPT_ALL;
    memset(page, 0, sizeof page);
    page[0] = ept_pointer();
    page[1] = second_pointer();
    page[2] = second_pointer() | 0x100;                         /* reserved bit */
    page[3] = (second_pointer() & ~7ul) | 4;                    /* memory type */
    page[4] = second_pointer() | cap.physical_limit;
    page[511] = second_pointer();
    vmwrite(VM_FUNCTION_CONTROLS, 1);
    vmwrite(EPTP_LIST, (uint64_t)page);
}

static void function_values(struct l2 *l2) {
    step_equal("first", l2->regs.gpr[RBX], 0xa0a0);
    step_equal("second", l2->regs.gpr[R8], 0xb0b0);
    step_equal("flags", l2->regs.gpr[R10] & VMX_FLAGS, VMX_FLAGS);
    step_equal("eptp", vmread(EPT_POINTER) == second_pointer(), 1);
    if ((cap.may.proc2 & PROC2_VE) != 0) {
        step_equal("index", vmread(EPTP_INDEX), 1);
    }
    then_skip(l2);
}
static void function_back(struct l2 *l2) {
    step_equal("first_again", l2->regs.gpr[R9], 0xa0a0);
    step_equal("eptp_again", vmread(EPT_POINTER) == ept_pointer(), 1);
    then_skip(l2);
}
static void function_last(struct l2 *l2) {
    step_equal("last_entry", l2->regs.gpr[R11], 0xb0b0);
    step_equal("eptp_last", vmread(EPT_POINTER) == second_pointer(), 1);
    then_skip(l2);
}

/* No register and no flag changes; what fails exits, and L1 skips it. */
DEFINE_L2_CODE(function,
    "mov 0xb000, %rbx\n pushq $0x8d7\n popfq\n xor %eax, %eax\n mov $1, %ecx\n pushq $0x8d7\n popfq\n vmfunc\n"
    "pushfq\n pop %r10\n mov 0xb000, %r8\n" EXIT "vmcall\n xor %eax, %eax\n xor %ecx, %ecx\n vmfunc\n"
    "mov 0xb000, %r9\n" EXIT "vmcall\n mov $2, %ecx\n" EXIT "vmfunc\n mov $3, %ecx\n" EXIT "vmfunc\n mov $4, %ecx\n"
    EXIT "vmfunc\n mov $5, %ecx\n" EXIT "vmfunc\n mov $512, %ecx\n" EXIT "vmfunc\n mov $1, %eax\n mov $1, %ecx\n"
    EXIT "vmfunc\n mov $63, %eax\n" EXIT "vmfunc\n mov 0xb000, %r9\n" EXIT "vmcall\n xor %eax, %eax\n mov $511, %ecx\n"
    "vmfunc\n mov 0xb000, %r11\n" EXIT "vmcall\n");

#define FUNCTION_EXIT(NAME) {.name = NAME, .exit = {.reason = REASON_VMFUNC, .length = 3}}
static const struct expected_exit function_exits[] = {
    VMCALL_EXIT("switched", .then = function_values),
    VMCALL_EXIT("back", .then = function_back),
    FUNCTION_EXIT("reserved_bit"),
    FUNCTION_EXIT("memory_type"),
    FUNCTION_EXIT("width"),
    FUNCTION_EXIT("empty"),
    FUNCTION_EXIT("past_the_list"),
    FUNCTION_EXIT("function_1"),
    FUNCTION_EXIT("function_63"),
    VMCALL_EXIT("unchanged", .then = function_back),
    VMCALL_EXIT("last", .then = function_last),
};

/* EAX above 63, or no VM functions: #UD, and no exit for VMFUNC. */
DEFINE_L2_CODE(function_ud, "mov $64, %eax\n" EXIT "vmfunc\n" EXIT "vmcall\n xor %eax, %eax\n" EXIT "vmfunc\n");

static void ud_setup(struct l2 *l2) {
    function_setup(l2);
    vmwrite(EXCEPTION_BITMAP, 1u << 6);
}
static void skip3(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
}
static void functions_off(struct l2 *l2) {
    vmcs_set(PROC2_CONTROLS, 0, PROC2_VMFUNC);
    then_skip(l2);
}
#define UD_EXIT(NAME) {.name = NAME, .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE(6)}, .then = skip3}
static const struct expected_exit function_ud_exits[] = {
    UD_EXIT("function_64"),
    VMCALL_EXIT("then_off", .then = functions_off),
    UD_EXIT("off"),
};

/* Controls that VM entry refuses. */
DEFINE_L2_CODE(function_refused, EXIT "vmcall\n");

static void function_refused_body(struct l2 *l2) {
    function_setup(l2);
    vmwrite(EPTP_LIST, (uint64_t)page + 8);
    l2_expect_fail(l2, "list_alignment", 7);
    vmwrite(EPTP_LIST, (uint64_t)page | cap.physical_limit);
    l2_expect_fail(l2, "list_width", 7);
    vmwrite(EPTP_LIST, (uint64_t)page);
    vmwrite(VM_FUNCTION_CONTROLS, 3);
    l2_expect_fail(l2, "function", 7);
}

/* -- page-modification logging ------------------------------------------------------------------------------------------ */

/* All flags are set but those of two pages, so that the log can hold nothing else. */
static void log_setup(struct l2 *l2) {
    (void)l2;
    strict = false;
    memset(page, 0xee, sizeof page);
    for (uint64_t gpa2 = 0; gpa2 < L2_MEMORY; gpa2 += 4096) {
        *ept_entry(gpa2, EPT_LEVEL_4K) |= EPT_ACCESSED | EPT_DIRTY;
    }
    for (uint32_t level = EPT_LEVEL_2M; level <= EPT_LEVEL_512G; level++) {
        *ept_entry(0, level) |= EPT_ACCESSED;
    }
    *ept_entry(L2_DATA, EPT_LEVEL_4K) &= ~(EPT_ACCESSED | EPT_DIRTY);
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~(EPT_ACCESSED | EPT_DIRTY);
    vmwrite(EPT_POINTER, ept_pointer() | AD_FLAGS);
    vmwrite(PML_ADDRESS, (uint64_t)page);
    vmwrite(PML_INDEX, 511);
    invept(ept_pointer() | AD_FLAGS);
}
static void strict_log_setup(struct l2 *l2) {
    log_setup(l2);
    strict = true;
}
static uint64_t flags_of(uint64_t gpa2) {
    return *ept_entry(gpa2, EPT_LEVEL_4K) & (EPT_ACCESSED | EPT_DIRTY);
}
static void log_read(struct l2 *l2) {
    step_equal("flags", flags_of(L2_DATA2), EPT_ACCESSED);
    step_equal("index", vmread(PML_INDEX), 511);
    then_skip(l2);
}
/* Of a page, bits 11:0 are 0. */
static uint64_t log_entry(uint32_t index) {
    return strict ? page[index] : page[index] & ~0xffful;
}
static void log_written(struct l2 *l2) {
    step_equal("flags", flags_of(L2_DATA2), EPT_ACCESSED | EPT_DIRTY);
    step_equal("index", vmread(PML_INDEX), 510);
    step_equal("entry", log_entry(511), L2_DATA2);
    step_equal("next", page[510], 0xeeeeeeeeeeeeeeee);
    vmwrite(PML_INDEX, 0);
    then_skip(l2);
}
static void log_last(struct l2 *l2) {
    step_equal("entry_0", log_entry(0), L2_DATA);
    step_equal("index_0", vmread(PML_INDEX), 0xffff);
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_DIRTY;
    invept(ept_pointer() | AD_FLAGS);
    then_skip(l2);
}
static void log_emptied(struct l2 *l2) {
    (void)l2;
    step_equal("flags_full", flags_of(L2_DATA2), EPT_ACCESSED);
    vmwrite(PML_INDEX, 511);
}
static void log_end(struct l2 *l2) {
    (void)l2;
    step_equal("value", *l2_u64(L2_DATA2), 0x5555);
    step_equal("entry_again", log_entry(511), L2_DATA2);
    step_equal("index_again", vmread(PML_INDEX), 510);
}

DEFINE_L2_CODE(log,
    "mov $0xb000, %ebx\n mov (%rbx), %rax\n" EXIT "vmcall\n movq $1, 0x123(%rbx)\n movq $2, 0x200(%rbx)\n"
    EXIT "vmcall\n movq $3, 0x7000\n" EXIT "vmcall\n" EXIT "movq $0x5555, (%rbx)\n" EXIT "vmcall\n");
static const struct expected_exit log_exits[] = {
    VMCALL_EXIT("read", .then = log_read),
    VMCALL_EXIT("written", .then = log_written),
    VMCALL_EXIT("last", .then = log_last),
    {.name = "full", .exit = {.reason = REASON_PML_FULL}, .then = log_emptied},
    VMCALL_EXIT("end", .then = log_end),
};

DEFINE_L2_CODE(log_refused, EXIT "vmcall\n");

static void log_refused_body(struct l2 *l2) {
    log_setup(l2);
    vmwrite(PML_ADDRESS, (uint64_t)page + 8);
    l2_expect_fail(l2, "alignment", 7);
    vmwrite(PML_ADDRESS, (uint64_t)page | cap.physical_limit);
    l2_expect_fail(l2, "width", 7);
}

/* -- #VE ----------------------------------------------------------------------------------------------------------------- */

/* The information area is L2_DATA; only L2_DATA2's violations are convertible. */
extern const uint8_t l2_ve_handler[];

static void convert_setup(struct l2 *l2) {
    (void)l2;
    strict = false;
    for (uint64_t gpa2 = 0; gpa2 < L2_MEMORY; gpa2 += 4096) {
        *ept_entry(gpa2, EPT_LEVEL_4K) |= SUPPRESS_VE;
    }
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) = 0;
    vmwrite(VE_AREA, (uint64_t)l2_memory + L2_DATA);
    vmwrite(EPTP_INDEX, 0x55);
    l2_gate(20, l2_ve_handler, 0, 0);
    invept(ept_pointer());
}
static void strict_convert_setup(struct l2 *l2) {
    convert_setup(l2);
    strict = true;
}
static void print_area(uint64_t qualification, uint64_t address) {
    const uint64_t *area = l2_u64(L2_DATA);
    step_equal("reason_and_busy", area[0], 0xffffffff00000030);
    step_equal("qualification", area[1] & 0x1bf, qualification);
    step_equal("linear", area[2], address);
    step_equal("physical", area[3], address);
    if (strict) {
        step_equal("eptp_index", area[4] & 0xffff, 0x55);
    }
}
static void map_data2(uint64_t flags) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) = ((uint64_t)l2_memory + L2_DATA2) | flags;
    invept(ept_pointer());
}
static void in_handler(struct l2 *l2) {
    print_area(READ | LINEAR | FINAL, L2_DATA2 + 8);
    map_data2(EPT_READ | EPT_EXECUTE | EPT_WB);
    *l2_u64(L2_DATA) &= 0xffffffff;
    then_skip(l2);
}
static void in_handler_again(struct l2 *l2) {
    print_area(WRITE | READABLE | EXECUTABLE | LINEAR | FINAL, L2_DATA2 + 16);
    map_data2(EPT_ALL | EPT_WB);
    then_skip(l2);
}
static void remove_data2(struct l2 *l2) {
    map_data2(0);
    then_skip(l2);
}
static void not_busy_any_more(struct l2 *l2) {
    (void)l2;
    *l2_u64(L2_DATA) &= 0xffffffff;
    map_data2(SUPPRESS_VE);
}
static void convertible_again(struct l2 *l2) {
    (void)l2;
    map_data2(0);
    vmwrite(EXCEPTION_BITMAP, 1u << 20);
}
static void intercepted(struct l2 *l2) {
    (void)l2;
    print_area(READ | LINEAR | FINAL, L2_DATA2 + 24);
    map_data2(EPT_ALL | EPT_WB);
}
static void convert_end(struct l2 *l2) {
    (void)l2;
    step_equal("written", *l2_u64(L2_DATA2 + 16), 7);
}

DEFINE_L2_CODE(convert,
    "mov $0xb000, %ebx\n mov 8(%rbx), %rax\n" EXIT "vmcall\n movq $7, 16(%rbx)\n" EXIT "vmcall\n"
    EXIT "mov 24(%rbx), %rax\n" EXIT "vmcall\n ud2\n"
    "l2_ve_handler: " EXIT "vmcall\n iretq\n");

#define HANDLER 5
#define CONVERT_EXIT(NAME, WHERE, ...) \
    {.name = NAME, .exit = {.reason = REASON_VMCALL, .length = 3}, .point = (WHERE), __VA_ARGS__}
#define VIOLATION(NAME, THEN)                                                                                   \
    {.name = NAME, .exit = {.reason = REASON_EPT_VIOLATION, .qualification = READ | LINEAR | FINAL,               \
                            .linear = L2_DATA2 + 24, .physical = L2_DATA2 + 24}, .point = 3, .then = THEN}
static const struct expected_exit convert_exits[] = {
    CONVERT_EXIT("not_present", HANDLER, .then = in_handler),
    CONVERT_EXIT("read", 1),
    CONVERT_EXIT("not_writable", HANDLER, .then = in_handler_again),
    CONVERT_EXIT("done", 2, .then = remove_data2),
    VIOLATION("busy", not_busy_any_more),
    VIOLATION("suppressed", convertible_again),
    {.name = "intercepted", .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE(20)},
     .point = 3, .then = intercepted},
    CONVERT_EXIT("end", 4, .then = convert_end),
};

/* -- mode-based execute control: L2's own U/S bits say which execute permission counts -------------------------------------- */

#define EPT_USER_EXECUTE (1ul << 10)
enum { FETCH = 4 };

static void execute_setup(struct l2 *l2) {
    (void)l2;
    for (uint64_t gpa2 = 0; gpa2 < L2_MEMORY; gpa2 += 4096) {
        *ept_entry(gpa2, EPT_LEVEL_4K) |= EPT_USER_EXECUTE;
    }
    for (uint32_t level = EPT_LEVEL_2M; level <= EPT_LEVEL_512G; level++) {
        *ept_entry(0, level) |= EPT_USER_EXECUTE;
    }
    *l2_u64(L2_DATA) = 0xc3;                    /* ret */
    *l2_u64(L2_DATA2) = 0xc3;
    l2_u64(L2_PT)[L2_DATA2 >> 12] &= ~4ul;      /* a supervisor page */
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_EXECUTE;
    *ept_entry(L2_DATA, EPT_LEVEL_4K) &= ~EPT_USER_EXECUTE;
    invept(ept_pointer());
}
static void allow(uint64_t gpa2, uint64_t right) {
    *ept_entry(gpa2, EPT_LEVEL_4K) |= right;
    invept(ept_pointer());
}
static void allow_supervisor(struct l2 *l2) {
    (void)l2;
    allow(L2_DATA2, EPT_EXECUTE);
}
static void allow_user(struct l2 *l2) {
    (void)l2;
    allow(L2_DATA, EPT_USER_EXECUTE);
}
/* Execution by bit 10 alone, and a leaf with nothing else. */
static void only_user(struct l2 *l2) {
    *ept_entry(L2_DATA, EPT_LEVEL_4K) &= ~EPT_ALL;
    invept(ept_pointer());
    then_skip(l2);
}

DEFINE_L2_CODE(execute,
    "mov $0xb000, %ebx\n call *%rbx\n mov $0x7000, %ebx\n call *%rbx\n" EXIT "vmcall\n call *%rbx\n"
    EXIT "mov (%rbx), %rax\n");

#define FETCH_EXIT(NAME, RIGHTS, GPA2, THEN)                                                                         \
    {.name = NAME, .exit = {.reason = REASON_EPT_VIOLATION, .qualification = FETCH | (RIGHTS) | LINEAR | FINAL,        \
                            .linear = GPA2, .physical = GPA2, .rip = (GPA2) - L2_CODE}, .point = NO_POINT, .then = THEN}
static const struct expected_exit execute_exits[] = {
    FETCH_EXIT("supervisor", READABLE | WRITABLE, L2_DATA2, allow_supervisor),
    FETCH_EXIT("user", READABLE | WRITABLE | EXECUTABLE, L2_DATA, allow_user),
    VMCALL_EXIT("done", .then = only_user),
    {.name = "read", .exit = {.reason = REASON_EPT_VIOLATION, .qualification = READ | LINEAR | FINAL, .linear = L2_DATA,
                              .physical = L2_DATA}},
};

static void move_and_set_up(struct l2 *l2) {
    l2_move_code(l2);
    execute_setup(l2);
}

/* -- IA32_SPEC_CTRL behind a mask and a shadow ------------------------------------------------------------------------------ */

enum { MSR_SPEC_CTRL = 0x48, IBRS = 1, STIBP = 2, SSBD = 4 };
static uint8_t passing[4096] __attribute__((aligned(4096)));

DEFINE_L2_CODE(spec_ctrl,
    "mov $0x48, %ecx\n rdmsr\n mov %eax, %esi\n mov %edx, %edi\n"
    "mov $6, %eax\n xor %edx, %edx\n wrmsr\n xor %eax, %eax\n rdmsr\n" EXIT "vmcall\n"
    "mov $0x48, %ecx\n mov $0x80000000, %eax\n xor %edx, %edx\n" EXIT "wrmsr\n");

static void spec_ctrl_body(struct l2 *l2) {
    static const struct expected_exit vmcall = VMCALL_EXIT("vmcall");
    static const struct expected_exit refused = {
        .name = "reserved_bit", .point = 2, .exit = {.interruption = EVENT_HARDWARE_CODE(13)}};
    memset(passing, 0, sizeof passing);
    vmwrite(MSR_BITMAP, (uint64_t)passing);
    vmwrite(EXCEPTION_BITMAP, 1u << 13);
    vmwrite(SPEC_CTRL_MASK, IBRS);
    vmwrite(SPEC_CTRL_SHADOW, SSBD);
    wrmsr(MSR_SPEC_CTRL, IBRS);
    if (l2_expect(l2, &vmcall)) {
        step_equal("shadow_at_first", l2->regs.gpr[RSI] | l2->regs.gpr[RDI] << 32, SSBD);
        step_equal("read_back", l2->regs.gpr[RAX], STIBP | SSBD);
        step_equal("shadow", vmread(SPEC_CTRL_SHADOW), STIBP | SSBD);
        step_equal("protected", rdmsr(MSR_SPEC_CTRL), IBRS | STIBP | SSBD);
        then_skip(l2);
        l2_expect(l2, &refused);
        step_equal("unchanged", rdmsr(MSR_SPEC_CTRL), IBRS | STIBP | SSBD);
    }
    wrmsr(MSR_SPEC_CTRL, 0);
}

/* -- TSC scaling ----------------------------------------------------------------------------------------------------------- */

/* How many ticks a loop takes: against the same loop without scaling, whatever the processor's clock is. */
DEFINE_L2_CODE(scaling,
    "1: rdtsc\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rsi\n mov $20000, %ecx\n 2: dec %ecx\n jnz 2b\n"
    "rdtsc\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rdi\n" EXIT "vmcall\n jmp 1b\n");

static uint64_t rdtsc_of_l1(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}
static uint64_t ticks(const struct l2 *l2) {
    return l2->regs.gpr[RDI] - l2->regs.gpr[RSI];
}
static bool run_loop(struct l2 *l2) {
    static const struct expected_exit at_end = {.name = "loop", .exit = {.reason = REASON_VMCALL, .length = 3}, .point = 1};
    bool ok = l2_expect(l2, &at_end);
    then_skip(l2);
    return ok;
}
/* Ratios in percent; on an emulated processor, where ticks are instructions, they are exact. */
static bool is_about(uint64_t a, uint64_t b, uint64_t percent) {
    return a * 100 > b * (percent - percent / 4) && a * 100 < b * (percent + percent / 4);
}
static void scaling_body(struct l2 *l2) {
    if (!run_loop(l2)) {
        return;
    }
    uint64_t plain = ticks(l2);
    vmcs_set(PROC2_CONTROLS, PROC2_TSC_SCALING, 0);
    vmwrite(TSC_MULTIPLIER, 1ul << 50);
    vmwrite(TSC_OFFSET, 1ul << 60);
    uint64_t before = rdtsc_of_l1();
    run_loop(l2);
    uint64_t after = rdtsc_of_l1();
    step_equal("fourfold", is_about(ticks(l2), plain, 400), 1);
    step_equal("offset", l2->regs.gpr[RSI] >= 4 * before + (1ul << 60) && l2->regs.gpr[RDI] <= 4 * after + (1ul << 60), 1);
    vmwrite(TSC_MULTIPLIER, 1ul << 47);
    run_loop(l2);
    step_equal("half", is_about(ticks(l2), plain, 50), 1);
    vmcs_set(PROC_CONTROLS, 0, PROC_TSC_OFFSET);
    run_loop(l2);
    step_equal("without_offsetting", is_about(ticks(l2), plain, 100), 1);
    vmwrite(TSC_MULTIPLIER, 0);
    l2_expect_fail(l2, "multiplier_0", 7);
}

/* -- VMCS shadowing: L2's VMREAD and VMWRITE act on vmcs_b --------------------------------------------------------------------- */

static uint8_t read_bitmap[4096] __attribute__((aligned(4096)));
static uint8_t write_bitmap[4096] __attribute__((aligned(4096)));

static void load(struct vmcs_region *region) {
    uint64_t pointer = (uint64_t)region;
    step_succeed("vmptrld", vmx_vmptrld(&pointer));
}
static void clear(struct vmcs_region *region) {
    uint64_t pointer = (uint64_t)region;
    step_succeed("vmclear", vmx_vmclear(&pointer));
}
static void intercept(uint8_t *bitmap, uint32_t encoding) {
    bitmap[encoding / 8] |= (uint8_t)(1u << encoding % 8);
}
/* The region at the link pointer has to be clear, as software leaves it. */
static void shadow_setup(struct l2 *l2) {
    strict = false;
    memset(&vmcs_b, 0, sizeof vmcs_b);
    vmcs_b.revision = cap.revision | 0x80000000;
    clear(&vmcs_b);
    load(&vmcs_b);
    vmwrite(GUEST_RIP, 0x1111222233334444);
    vmwrite(GUEST_CS_SELECTOR, 0x1234);
    vmwrite(TSC_OFFSET, 0x5555666677778888);
    clear(&vmcs_b);
    load(l2->vmcs);
    memset(read_bitmap, 0, sizeof read_bitmap);
    memset(write_bitmap, 0, sizeof write_bitmap);
    intercept(read_bitmap, GUEST_RSP);
    intercept(write_bitmap, GUEST_CR3);
    vmwrite(VMREAD_BITMAP, (uint64_t)read_bitmap);
    vmwrite(VMWRITE_BITMAP, (uint64_t)write_bitmap);
    vmwrite(VMCS_LINK_POINTER, (uint64_t)&vmcs_b);
}
static void strict_shadow_setup(struct l2 *l2) {
    shadow_setup(l2);
    strict = true;
}
static void shadow_values(struct l2 *l2) {
    step_equal("rip", l2->regs.gpr[RBX], 0x1111222233334444);
    step_equal("selector", l2->regs.gpr[RSI], 0x1234);
    step_equal("high_half", l2->regs.gpr[RDI], 0x55556666);
    step_equal("to_memory", *l2_u64(L2_DATA), 0x1111222233334444);
    step_equal("flags", l2->regs.gpr[R8] & VMX_FLAGS, 0);
    then_skip(l2);
}
/* The VMfail goes to the current VMCS, not to the shadow VMCS. */
static void shadow_failure(struct l2 *l2) {
    step_equal("unsupported", l2->regs.gpr[R8] & VMX_FLAGS, VMX_FAIL_VALID);
    step_equal("error", vmread(INSTRUCTION_ERROR), 12);
    step_equal("error_in_shadow", l2->regs.gpr[R9], 0);
    step_equal("operand", l2->regs.gpr[RBX], 0x77);
    then_skip(l2);
}
static void shadow_written(struct l2 *l2) {
    step_equal("own_rip", vmread(GUEST_RIP) != 0xaaaa, 1);
    clear(&vmcs_b);
    load(&vmcs_b);
    step_equal("written", vmread(GUEST_RIP), 0xaaaa);
    step_equal("from_memory", vmread(GUEST_RFLAGS), 0xbbbb);
    step_equal("truncated", vmread(EXCEPTION_BITMAP), 0x99999999);
    if (strict) {
        step_fail_invalid("vmlaunch", vmx_vmlaunch());
    }
    clear(&vmcs_b);
    load(l2->vmcs);
    vmwrite(VMCS_LINK_POINTER, ~0ul);
    then_skip(l2);
}
static void shadow_unlinked(struct l2 *l2) {
    step_equal("unlinked", l2->regs.gpr[R8] & VMX_FLAGS, VMX_FAIL_INVALID);
    then_skip(l2);
}

DEFINE_L2_CODE(shadow,
    "mov $0x681e, %eax\n vmread %rax, %rbx\n pushfq\n pop %r8\n mov $0x802, %ecx\n vmread %rcx, %rsi\n"
    "mov $0x2011, %ecx\n vmread %rcx, %rdi\n vmread %rax, 0x7000\n" EXIT "vmcall\n"
    "mov $0x681c, %eax\n" EXIT "vmread %rax, %rbx\n mov $0x6802, %eax\n" EXIT "vmwrite %rbx, %rax\n"
    "mov $0x8000, %eax\n" EXIT "vmread %rax, %rbx\n mov $0x77, %ebx\n mov $0x7ffe, %eax\n vmread %rax, %rbx\n"
    "pushfq\n pop %r8\n mov $0x4400, %eax\n vmread %rax, %r9\n" EXIT "vmcall\n"
    "mov $0x681e, %eax\n mov $0xaaaa, %ebx\n vmwrite %rbx, %rax\n movq $0xbbbb, 0x7000\n mov $0x6820, %eax\n"
    "vmwrite 0x7000, %rax\n mov $0x4004, %eax\n mov $0x1199999999, %rbx\n vmwrite %rbx, %rax\n" EXIT "vmcall\n"
    "mov $0x681e, %eax\n vmread %rax, %rbx\n pushfq\n pop %r8\n" EXIT "vmcall\n");
static const struct expected_exit shadow_exits[] = {
    VMCALL_EXIT("read", .then = shadow_values),
    {.name = "vmread_bitmap", .exit = {.reason = REASON_VMREAD, .length = 3,
                                       .instruction = INFO_REGISTER(RBX) | INFO_REGISTER2(RAX)}},
    {.name = "vmwrite_bitmap", .exit = {.reason = REASON_VMWRITE, .length = 3,
                                        .instruction = INFO_REGISTER(RBX) | INFO_REGISTER2(RAX)}},
    {.name = "large_encoding", .exit = {.reason = REASON_VMREAD, .length = 3,
                                        .instruction = INFO_REGISTER(RBX) | INFO_REGISTER2(RAX)}},
    VMCALL_EXIT("failure", .then = shadow_failure),
    VMCALL_EXIT("write", .then = shadow_written),
    VMCALL_EXIT("no_link", .then = shadow_unlinked),
};

/* VM entry wants the shadow indicator exactly when the control is on. */
DEFINE_L2_CODE(shadow_refused, EXIT "vmcall\n");

static void shadow_refused_body(struct l2 *l2) {
    shadow_setup(l2);
    vmcs_set(PROC2_CONTROLS, 0, PROC2_VMCS_SHADOWING);
    l2_expect_entry_failure(l2, "shadow_without_control", REASON_BAD_GUEST_STATE, 4);
    vmcs_set(PROC2_CONTROLS, PROC2_VMCS_SHADOWING, 0);
    vmcs_b.revision = cap.revision;
    l2_expect_entry_failure(l2, "control_without_shadow", REASON_BAD_GUEST_STATE, 4);
    vmwrite(VMCS_LINK_POINTER, ~0ul);
    vmwrite(VMREAD_BITMAP, (uint64_t)read_bitmap + 8);
    l2_expect_fail(l2, "vmread_bitmap", 7);
    vmwrite(VMREAD_BITMAP, (uint64_t)read_bitmap);
    vmwrite(VMWRITE_BITMAP, (uint64_t)write_bitmap | cap.physical_limit);
    l2_expect_fail(l2, "vmwrite_bitmap", 7);
}

static const struct scenario table[] = {
    SCENARIO("controls.vmfunc", function, .on = {.proc2 = PROC2_VMFUNC}, .setup = function_setup),
    SCENARIO("controls.vmfunc_ud", function_ud, .on = {.proc2 = PROC2_VMFUNC}, .setup = ud_setup),
    SCENARIO_BODY("controls.vmfunc_refused", function_refused, function_refused_body, .on = {.proc2 = PROC2_VMFUNC}),
    SCENARIO("controls.pml", log, .on = {.proc2 = PROC2_PML}, .setup = log_setup),
    SCENARIO_BODY("controls.pml_refused", log_refused, log_refused_body, .on = {.proc2 = PROC2_PML}),
    SCENARIO("controls.ve", convert, .on = {.proc2 = PROC2_VE}, .setup = convert_setup),
    SCENARIO("strict.shadow", shadow, .on = {.proc2 = PROC2_VMCS_SHADOWING}, .only_by_name = true,
             .setup = strict_shadow_setup),
    SCENARIO("strict.pml", log, .on = {.proc2 = PROC2_PML}, .only_by_name = true, .setup = strict_log_setup),
    SCENARIO("strict.ve", convert, .on = {.proc2 = PROC2_VE}, .only_by_name = true, .setup = strict_convert_setup),
    SCENARIO("controls.mbec", execute, .on = {.proc2 = PROC2_MBEC}, .ept_vpid = 1, .setup = move_and_set_up),
    SCENARIO("controls.shadow", shadow, .on = {.proc2 = PROC2_VMCS_SHADOWING}, .setup = shadow_setup),
    SCENARIO_BODY("controls.shadow_refused", shadow_refused, shadow_refused_body, .on = {.proc2 = PROC2_VMCS_SHADOWING}),
    SCENARIO_BODY("strict.spec_ctrl", spec_ctrl, spec_ctrl_body, .only_by_name = true,
         .on = {.proc = PROC_MSR_BITMAPS | PROC_TERTIARY, .proc3 = PROC3_SPEC_CTRL}),
    SCENARIO_BODY("controls.tsc_scaling", scaling, scaling_body, .on = {.proc = PROC_TSC_OFFSET}),
};
DEFINE_SCENARIOS(controls, table);
