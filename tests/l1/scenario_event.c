/* SPDX-License-Identifier: MIT */
/* Events: injection, windows, interrupts and NMIs, activity states, timers (SDM vol. 3C, 28.2, 29.6, 29.7). */
#include "scenarios.h"

enum { DB = 1, NMI = 2, BP = 3, UD = 6, GP = 13, EXTERNAL = 0x50, SOFTWARE = 0x41 };
enum { RFLAGS_IF = 0x200, BLOCKED_BY_STI = 1, BLOCKED_BY_NMI = 8, ACTIVITY_HLT = 1 };

static void set_if(void) {
    vmcs_set(GUEST_RFLAGS, RFLAGS_IF, 0);
}

/* A handler that shows what was pushed, and one that returns. */
DEFINE_L2_CODE(idle,
    "nop\n nop\n hlt\n"
    ".global l2_handler, l2_handler_iret\n l2_handler: " EXIT "vmcall\n iretq\n"
    "l2_handler_iret: incl 0x7000\n iretq\n");


extern const uint8_t l2_handler[], l2_handler_iret[];

static uint64_t pushed(uint32_t slot) {
    return l2_u64(vmread(GUEST_RSP))[slot];
}

struct injection {
    const char *name;
    uint32_t vector;
    uint64_t info;
    uint32_t error_code, length;
    uint64_t rflags;
    bool has_code;
};

/* IRET in L1: an injected NMI, or an NMI that exited, leaves NMIs blocked there too (SDM 30.5.5). */
static void unblock_nmis(struct l2 *l2) {
    (void)l2;
    interrupts_taken[NMI] = 0;
    __asm__ volatile("int $0x81" ::: "memory");
    if (interrupts_taken[NMI] != 0) {
        step_equal("pending_nmis", interrupts_taken[NMI], 0);
    }
}

static const struct injection injections[] = {
    {"gp", GP, EVENT_HARDWARE_CODE(GP), 0x1234, 0, 2, true},
    {"ud", UD, EVENT_HARDWARE(UD), 0, 0, 2, false},
    {"pf", 14, EVENT_HARDWARE_CODE(14), 7, 0, 2, true},
    {"nmi", NMI, EVENT_NMI, 0, 0, 2, false},
    {"external", EXTERNAL, EVENT_EXTERNAL(EXTERNAL), 0, 0, 2 | RFLAGS_IF, false},
    {"software_interrupt", SOFTWARE, EVENT_SOFTWARE_INTERRUPT(SOFTWARE), 0, 2, 2, false},
    {"software_exception", BP, EVENT_SOFTWARE_EXCEPTION(BP), 0, 1, 2, false},
    {"privileged_exception", DB, EVENT_PRIVILEGED_SOFTWARE(DB), 0, 1, 2, false},
};

/* The handler runs, finds what the event pushes, and the injection is used up. */
static void inject(struct l2 *l2, const struct injection *e) {
    uint64_t start = vmread(GUEST_RIP);
    l2_gate(e->vector, l2_handler, 0, 3);
    vmwrite(ENTRY_INTERRUPTION_INFO, e->info);
    vmwrite(ENTRY_ERROR_CODE, e->error_code);
    vmwrite(ENTRY_INSTRUCTION_LENGTH, e->length);
    vmwrite(GUEST_RFLAGS, e->rflags);
    struct expected_exit expected = VMCALL_EXIT(e->name, .point = 1);
    if (l2_expect(l2, &expected)) {
        uint32_t at = e->has_code ? 1 : 0;
        step_equal("error_code", e->has_code ? pushed(0) : 0, e->error_code);
        step_equal("pushed_rip", pushed(at) - start, e->length);
        step_equal("pushed_rflags", pushed(at + 2) & ~0x10000ul, e->rflags);
        step_equal("interruptibility", vmread(GUEST_INTERRUPTIBILITY), e->vector == NMI ? BLOCKED_BY_NMI : 0);
        step_equal("used_up", vmread(ENTRY_INTERRUPTION_INFO) >> 31, 0);
    }
    vmwrite(GUEST_RIP, start);
    vmwrite(GUEST_RSP, L2_STACK_TOP);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    unblock_nmis(l2);
}

static void inject_all(struct l2 *l2) {
    for (uint32_t i = 0; i < sizeof injections / sizeof injections[0]; i++) {
        inject(l2, &injections[i]);
    }
}

/* The exception bitmap doesn't see injected events (SDM 29.6.1). */
static void inject_intercepted(struct l2 *l2) {
    vmwrite(EXCEPTION_BITMAP, 0xffffffff);
    inject(l2, &injections[0]);
    inject(l2, &injections[1]);
}

/* Delivery of an injected event fails: the event becomes the vectoring event. */
DEFINE_L2_CODE(deliver, EXIT "nop\n" EXIT "vmcall\n");


static void deliver_gate(struct l2 *l2) {
    (void)l2;
    l2_gate(EXTERNAL, l2_handler, 0, 0);
    l2_u64(L2_IDT)[EXTERNAL * 2] &= ~0x800000000000ul;  /* not present */
    vmwrite(EXCEPTION_BITMAP, 0xffffffff);
}
static const struct expected_exit deliver_external = {
    .name = "external", .point = 1,
    .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE_CODE(11), .error_code = EXTERNAL * 8 + 3,
             .vectoring = EVENT_EXTERNAL(EXTERNAL)}};
static const struct expected_exit deliver_software = {
    .name = "software", .point = 1,
    .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE_CODE(11), .error_code = EXTERNAL * 8 + 2,
             .length = 2, .vectoring = EVENT_SOFTWARE_INTERRUPT(EXTERNAL)}};
static void deliver_body(struct l2 *l2) {
    set_if();
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_EXTERNAL(EXTERNAL));
    l2_expect(l2, &deliver_external);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_SOFTWARE_INTERRUPT(EXTERNAL));
    vmwrite(ENTRY_INSTRUCTION_LENGTH, 2);
    l2_expect(l2, &deliver_software);
}

/* ... by an EPT violation on the stack; mended, and injected again as every hypervisor does. */
static void deliver_ept(struct l2 *l2) {
    const uint64_t stack = L2_STACK_TOP - 0x1000;
    l2_gate(GP, l2_handler, 0, 0);
    l2_gate(NMI, l2_handler, 0, 0);
    *ept_entry(stack, EPT_LEVEL_4K) = 0;
    invalidate_all();
    struct expected_exit expected = {
        .name = "gp", .point = 1,
        .exit = {.reason = REASON_EPT_VIOLATION, .qualification = 0x182, .linear = L2_STACK_TOP - 8,
                 .physical = L2_STACK_TOP - 8, .vectoring = EVENT_HARDWARE_CODE(GP), .vectoring_error = 0x56}};
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_HARDWARE_CODE(GP));
    vmwrite(ENTRY_ERROR_CODE, 0x56);
    l2_expect(l2, &expected);
    expected.name = "nmi";
    expected.exit.vectoring = EVENT_NMI;
    expected.exit.vectoring_error = 0;
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_NMI);
    l2_expect(l2, &expected);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    unblock_nmis(l2);
    ept_map(stack, (uint64_t)l2_memory + stack, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_HARDWARE_CODE(GP));
    struct expected_exit again = VMCALL_EXIT("again", .point = NO_POINT);
    again.exit.rip = (int64_t)(l2_address(l2_handler) - l2->base);
    if (l2_expect(l2, &again)) {
        step_equal("error_code", pushed(0), 0x56);
    }
}

/* Windows. */

DEFINE_L2_CODE(window,
    "nop\n" EXIT "vmcall\n nop\n sti\n nop\n" EXIT "nop\n nop\n cli\n nop\n" EXIT "vmcall\n sti\n"
    EXIT "vmcall\n");

static void open_window(struct l2 *l2) {
    vmcs_set(PROC_CONTROLS, PROC_INTERRUPT_WINDOW, 0);
    then_skip(l2);
}
static void close_window(struct l2 *l2) {
    (void)l2;
    step_equal("interruptibility", vmread(GUEST_INTERRUPTIBILITY), 0);
    vmcs_set(PROC_CONTROLS, 0, PROC_INTERRUPT_WINDOW);
}
static void sti_blocks(struct l2 *l2) {
    (void)l2;
    step_equal("sti_blocking", vmread(GUEST_INTERRUPTIBILITY), BLOCKED_BY_STI);
}
static const struct expected_exit window_exits[] = {
    VMCALL_EXIT("closed", .then = open_window),
    {.name = "window", .exit = {.reason = REASON_INTERRUPT_WINDOW}, .then = close_window},
    VMCALL_EXIT("no_window", .then = open_window),
    VMCALL_EXIT("in_sti_shadow", .then = sti_blocks),
};

/* Open at the entry: the exit comes before the first instruction. */
static void window_now_setup(struct l2 *l2) {
    (void)l2;
    set_if();
    vmcs_set(PROC_CONTROLS, PROC_INTERRUPT_WINDOW, 0);
}
static const struct expected_exit window_now_exits[] = {
    {.name = "at_once", .exit = {.reason = REASON_INTERRUPT_WINDOW}, .point = NO_POINT},
};

/* Virtual NMIs: the injected NMI blocks until IRET, then the NMI window opens. */
DEFINE_L2_CODE(nmi_window,
    EXIT "nop\n" EXIT "vmcall\n .global l2_nmi_handler\n l2_nmi_handler:  " EXIT "vmcall\n iretq\n");

extern const uint8_t l2_nmi_handler[];
static void nmi_window_setup(struct l2 *l2) {
    (void)l2;
    l2_gate(NMI, l2_nmi_handler, 0, 0);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_NMI);
}
static void in_nmi_handler(struct l2 *l2) {
    step_equal("virtual_blocking", vmread(GUEST_INTERRUPTIBILITY), BLOCKED_BY_NMI);
    vmcs_set(PROC_CONTROLS, PROC_NMI_WINDOW, 0);
    then_skip(l2);
}
static void nmi_window_open(struct l2 *l2) {
    unblock_nmis(l2);
    step_equal("no_blocking", vmread(GUEST_INTERRUPTIBILITY), 0);
    vmcs_set(PROC_CONTROLS, 0, PROC_NMI_WINDOW);
}
static const struct expected_exit nmi_window_exits[] = {
    VMCALL_EXIT("handler", .point = 3, .then = in_nmi_handler),
    {.name = "window", .exit = {.reason = REASON_NMI_WINDOW}, .point = 1, .then = nmi_window_open},
    VMCALL_EXIT("end", .point = 2),
};

/* Interrupts: L1 sends itself one with its own interrupts closed, so it is pending when L2 starts. */

DEFINE_L2_CODE(interrupt,
    EXIT "nop\n nop\n" EXIT "vmcall\n .global l2_interrupt_handler\n l2_interrupt_handler:  "
    EXIT "vmcall\n iretq\n");

extern const uint8_t l2_interrupt_handler[];
static void interrupt_setup(struct l2 *l2) {
    (void)l2;
    l2_gate(EXTERNAL, l2_interrupt_handler, 0, 0);
    set_if();
    interrupts_taken[EXTERNAL] = 0;
    lapic_self_ipi(EXTERNAL);
}
static void take_interrupt(struct l2 *l2) {
    (void)l2;
    step_equal("not_taken_yet", interrupts_taken[EXTERNAL], 0);
    open_interrupts_once();
    step_equal("taken_by_l1", interrupts_taken[EXTERNAL], 1);
}
static void acknowledged(struct l2 *l2) {
    (void)l2;
    lapic_write(0xb0, 0);
    open_interrupts_once();
    step_equal("not_taken_again", interrupts_taken[EXTERNAL], 0);
}
static void end_of_interrupt(struct l2 *l2) {
    lapic_write(0xb0, 0);
    open_interrupts_once();
    step_equal("l1_saw_none", interrupts_taken[EXTERNAL], 0);
    then_skip(l2);
}
static const struct expected_exit interrupt_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT}, .point = 1, .then = take_interrupt},
    VMCALL_EXIT("end"),
};
static const struct expected_exit acknowledge_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT, .interruption = EVENT_EXTERNAL(EXTERNAL)},
         .point = 1,
     .then = acknowledged},
    VMCALL_EXIT("end"),
};
static const struct expected_exit interrupt_to_l2_exits[] = {
    VMCALL_EXIT("handler", .point = 3, .then = end_of_interrupt),
    VMCALL_EXIT("end", .point = 2),
};

/* Bochs 2.7 doesn't look at the interrupt at once if L2 starts with RFLAGS.IF = 0. */
static void interrupt_if_clear_setup(struct l2 *l2) {
    interrupt_setup(l2);
    vmwrite(GUEST_RFLAGS, 2);
}

/* An interrupt that becomes pending while L2 runs: L2 sends it through the local APIC, which ept12 maps. */
enum { L2_APIC = 0x100000 };
DEFINE_L2_CODE(own_ipi, "movl $0x44050, 0x100300\n" EXIT "1: jmp 1b\n");


/* To its own APIC ID: the self shorthand sends no NMIs. */
DEFINE_L2_CODE(own_nmi,
    "mov 0x100020, %eax\n mov %eax, 0x100310\n movl $0x4400, 0x100300\n" EXIT "1: jmp 1b\n");

static void map_apic(struct l2 *l2) {
    (void)l2;
    ept_map(L2_APIC, 0xfee00000, EPT_LEVEL_4K, EPT_READ | EPT_WRITE | EPT_UC);
    set_if();
    interrupts_taken[EXTERNAL] = 0;
}
static const struct expected_exit own_ipi_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT}, .then = take_interrupt},
};
static const struct expected_exit own_nmi_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_NMI}, .then = unblock_nmis},
};

/* The PIT through the 8259A and LINT0: interrupts that a device raises while L2 runs. */
enum { PIC_BASE = 0x70 };
/* L2 starts the count (one shot, 2000 ticks), so that what an entry costs doesn't matter. */
#define PIT_COUNT \
    "mov $0x30, %al\n out %al, $0x43\n mov $0xd0, %al\n out %al, $0x40\n mov $7, %al\n out %al, $0x40\n"
DEFINE_L2_CODE(pit, PIT_COUNT EXIT "1: jmp 1b\n");
DEFINE_L2_CODE(pit_hlt, PIT_COUNT "sti\n hlt\n" EXIT "nop\n" EXIT "vmcall\n");
static void pic_start(void) {
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x43, 0x30},                   /* mode 0, no count: the output stays low until L2 has counted down */
        {0x20, 0x11}, {0x21, PIC_BASE}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11}, {0xa1, PIC_BASE + 8}, {0xa1, 2}, {0xa1, 1},
        {0x21, 0xfe}, {0xa1, 0xff},
    };
    for (uint32_t i = 0; i < sizeof writes / sizeof writes[0]; i++) {
        outb(writes[i].port, writes[i].value);
    }
}
static void pit_setup(struct l2 *l2) {
    (void)l2;
    lapic_write(0x350, 0x700);          /* LINT0: ExtINT */
    interrupts_taken[PIC_BASE] = 0;
    set_if();
    pic_start();
}
static void pit_end(void) {
    outb(0x20, 0x20);
    outb(0x21, 0xff);
    lapic_write(0x350, 0x10700);
}
static void pit_pending(struct l2 *l2) {
    (void)l2;
    open_interrupts_once();
    step_equal("taken_by_l1", interrupts_taken[PIC_BASE], 1);
    pit_end();
}
static void pit_acknowledged(struct l2 *l2) {
    (void)l2;
    open_interrupts_once();
    step_equal("not_taken_by_l1", interrupts_taken[PIC_BASE], 0);
    pit_end();
    vmwrite(GUEST_ACTIVITY, 0);
}
static const struct expected_exit pit_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT}, .then = pit_pending},
};
static const struct expected_exit pit_hlt_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT, .interruption = EVENT_EXTERNAL(PIC_BASE)},
     .then = pit_acknowledged},
    VMCALL_EXIT("end"),
};

/* Activity state HLT. */

DEFINE_L2_CODE(halted, EXIT "nop\n" EXIT "vmcall\n");


static void halted_interrupt_setup(struct l2 *l2) {
    interrupt_setup(l2);
    vmwrite(GUEST_ACTIVITY, ACTIVITY_HLT);
}
static void wake_up(struct l2 *l2) {
    take_interrupt(l2);
    vmwrite(GUEST_ACTIVITY, 0);
}
static const struct expected_exit halted_interrupt_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT}, .point = 1, .then = wake_up},
    VMCALL_EXIT("end"),
};
/* The exit finds the processor halted, and so does the field (SDM 30.1); Bochs 2.7 wakes it first. */
static void still_halted(struct l2 *l2) {
    (void)l2;
    step_equal("activity", vmread(GUEST_ACTIVITY), ACTIVITY_HLT);
    take_interrupt(l2);
}
static const struct expected_exit still_halted_exits[] = {
    {.name = "exit", .exit = {.reason = REASON_EXTERNAL_INTERRUPT}, .point = 1, .then = still_halted},
};

/* Blocking by NMI is what the field says, whatever L1's own state is (SDM 29.7.1); Bochs 2.7 only ever sets it. */
static void nmi_unblocked_by_entry(struct l2 *l2) {
    l2_gate(NMI, l2_handler, 0, 3);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_NMI);
    struct expected_exit handler = VMCALL_EXIT("handler", .point = NO_POINT);
    handler.exit.rip = (int64_t)(l2_address(l2_handler) - l2->base);
    l2_expect(l2, &handler);
    vmwrite(GUEST_INTERRUPTIBILITY, 0);
    l2_expect(l2, &handler);
    step_equal("interruptibility", vmread(GUEST_INTERRUPTIBILITY), 0);
    unblock_nmis(l2);
}

static void halted_inject(struct l2 *l2) {
    l2_gate(EXTERNAL, l2_interrupt_handler, 0, 0);
    set_if();
    vmwrite(GUEST_ACTIVITY, ACTIVITY_HLT);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_EXTERNAL(EXTERNAL));
    struct expected_exit expected = VMCALL_EXIT("handler", .point = NO_POINT);
    expected.exit.rip = (int64_t)(l2_address(l2_interrupt_handler) - l2->base);
    l2_expect(l2, &expected);
    step_equal("activity", vmread(GUEST_ACTIVITY), 0);
}

/* Monitor trap flag: not offered by the skylake_x of Bochs 2.7; offered by its icelake_u, but it never fires. */

DEFINE_L2_CODE(mtf, "nop\n" EXIT "mov $1, %eax\n" EXIT "cpuid\n" EXIT "nop\n" EXIT "vmcall\n");


static const struct expected_exit mtf_exits[] = {
    {.name = "after_nop", .exit = {.reason = REASON_MTF}, .then = then_stay},
    {.name = "after_mov", .exit = {.reason = REASON_MTF}, .then = then_stay},
    {.name = "cpuid_itself", .exit = {.reason = REASON_CPUID, .length = 2}, .point = 2},
    {.name = "after_nop2", .exit = {.reason = REASON_MTF}, .point = 4, .then = then_stay},
};
/* After injection: before the first instruction of the handler (SDM 28.5.2). */
static void mtf_injection(struct l2 *l2) {
    l2_gate(GP, l2_handler, 0, 0);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_HARDWARE_CODE(GP));
    struct expected_exit expected = {.name = "in_handler", .exit = {.reason = REASON_MTF}, .point = NO_POINT};
    expected.exit.rip = (int64_t)(l2_address(l2_handler) - l2->base);
    l2_expect(l2, &expected);
}

/* Preemption timer. */

DEFINE_L2_CODE(timer_zero, EXIT "nop\n nop\n 1: jmp 1b\n");


static void timer_zero_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(PREEMPTION_TIMER, 0);
}
static const struct expected_exit timer_zero_exits[] = {
    {.name = "at_once", .exit = {.reason = REASON_PREEMPTION_TIMER}, .then = then_stay},
    {.name = "again", .exit = {.reason = REASON_PREEMPTION_TIMER}, .point = 1},
};
/* Saved on exit: 0 after expiry, less than before after another exit. */
DEFINE_L2_CODE(timer_saved, "mov $2000, %ecx\n 1: dec %ecx\n jnz 1b\n" EXIT "vmcall\n" EXIT "1: jmp 1b\n");


static void timer_saved_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(PREEMPTION_TIMER, 0x40000000);
}
static void timer_runs(struct l2 *l2) {
    step_equal("has_run", vmread(PREEMPTION_TIMER) < 0x40000000, 1);
    step_equal("not_expired", vmread(PREEMPTION_TIMER) > 0, 1);
    vmwrite(PREEMPTION_TIMER, 2000 >> (cap.misc & 31));
    then_skip(l2);
}
static void timer_expired(struct l2 *l2) {
    (void)l2;
    step_equal("saved", vmread(PREEMPTION_TIMER), 0);
}
static const struct expected_exit timer_saved_exits[] = {
    VMCALL_EXIT("running", .then = timer_runs),
    {.name = "expired", .exit = {.reason = REASON_PREEMPTION_TIMER}, .then = timer_expired},
};
/* Also wakes a halted L2; RIP is behind the HLT. */
DEFINE_L2_CODE(timer_hlt, "hlt\n" EXIT "nop\n");


static void timer_hlt_setup(struct l2 *l2) {
    (void)l2;
    vmwrite(PREEMPTION_TIMER, 20000 >> (cap.misc & 31));
}
static void timer_hlt_check(struct l2 *l2) {
    (void)l2;
    step_equal("activity", vmread(GUEST_ACTIVITY), ACTIVITY_HLT);
}
static const struct expected_exit timer_hlt_exits[] = {
    {.name = "halted", .exit = {.reason = REASON_PREEMPTION_TIMER}, .then = timer_hlt_check},
};

#define INTERRUPT(NAME, EXIT_TABLE, SETUP, ...) \
    {.name = NAME, .kind = WITH_L2, L2_CODE(interrupt), EXITS(EXIT_TABLE), .setup = SETUP, __VA_ARGS__}
enum { HLT_STATE = 1 << 6 };

/* What is due at an entry comes in the SDM's order (7.9, 28.2): debug trap, preemption timer, NMI window, interrupt window. */
enum { DUE_DEBUG = 1, DUE_TIMER = 2, DUE_NMI_WINDOW = 4, DUE_INTERRUPT_WINDOW = 8, DUE_ALL = 15 };
static const char *const due_names[] = {
    "none", "d", "t", "dt", "n", "dn", "tn", "dtn", "i", "di", "ti", "dti", "ni", "dni", "tni", "dtni",
};

static struct expected_exit first_of(uint32_t due) {
    struct expected_exit expected = {.name = due_names[due], .point = NO_POINT};
    if ((due & DUE_DEBUG) != 0) {
        expected.exit.interruption = EVENT_HARDWARE(DB);
        expected.exit.qualification = 1;
    } else if ((due & DUE_TIMER) != 0) {
        expected.exit.reason = REASON_PREEMPTION_TIMER;
    } else {
        expected.exit.reason = (due & DUE_NMI_WINDOW) != 0 ? REASON_NMI_WINDOW : REASON_INTERRUPT_WINDOW;
    }
    return expected;
}

static void order_body(struct l2 *l2) {
    uint64_t start = vmread(GUEST_RIP);
    vmwrite(EXCEPTION_BITMAP, 1u << DB);
    set_if();
    for (uint32_t due = 1; due <= DUE_ALL; due++) {
        struct expected_exit expected = first_of(due);
        vmcs_set(PROC_CONTROLS, 0, PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW);
        vmcs_set(PROC_CONTROLS, (due & DUE_NMI_WINDOW) != 0 ? PROC_NMI_WINDOW : 0, 0);
        vmcs_set(PROC_CONTROLS, (due & DUE_INTERRUPT_WINDOW) != 0 ? PROC_INTERRUPT_WINDOW : 0, 0);
        vmwrite(PREEMPTION_TIMER, (due & DUE_TIMER) != 0 ? 0 : 0x40000000);
        vmwrite(GUEST_PENDING_DEBUG, (due & DUE_DEBUG) != 0 ? 0x1001 : 0); /* B0, and it was enabled */
        vmwrite(GUEST_INTERRUPTIBILITY, 0);
        vmwrite(GUEST_RIP, start);
        l2_expect(l2, &expected);
    }
}

static const struct scenario table[] = {
    SCENARIO_BODY("event.inject", idle, inject_all),
    SCENARIO_BODY("event.inject_intercepted", idle, inject_intercepted),
    SCENARIO_BODY("event.delivery_gate", deliver, deliver_body, .setup = deliver_gate),
    SCENARIO_BODY("event.delivery_ept", deliver, deliver_ept),
    SCENARIO("event.interrupt_window", window, .off = {.proc = PROC_INTERRUPT_WINDOW}),
    {.name = "event.interrupt_window_now", .kind = WITH_L2, L2_CODE(interrupt), EXITS(window_now_exits),
         .setup = window_now_setup},
    SCENARIO("event.nmi_window", nmi_window, .on = {.pin = PIN_NMI | PIN_VIRTUAL_NMI}, .setup = nmi_window_setup),
    INTERRUPT("event.interrupt", interrupt_exits, interrupt_setup, .on = {.pin = PIN_EXTERNAL_INTERRUPT}),
    INTERRUPT("event.acknowledge", acknowledge_exits, interrupt_setup,
              .on = {.pin = PIN_EXTERNAL_INTERRUPT, .exit = EXIT_ACKNOWLEDGE}),
    INTERRUPT("event.interrupt_to_l2", interrupt_to_l2_exits, interrupt_setup,
         .off = {.pin = PIN_EXTERNAL_INTERRUPT}),
    INTERRUPT("strict.interrupt_if_clear", interrupt_exits, interrupt_if_clear_setup,
              .on = {.pin = PIN_EXTERNAL_INTERRUPT}, .only_by_name = true),
    SCENARIO("event.own_ipi", own_ipi, .on = {.pin = PIN_EXTERNAL_INTERRUPT}, .setup = map_apic),
    SCENARIO("event.own_nmi", own_nmi, .on = {.pin = PIN_NMI}, .setup = map_apic),
    SCENARIO("event.pit", pit, .on = {.pin = PIN_EXTERNAL_INTERRUPT}, .setup = pit_setup),
    SCENARIO("event.pit_hlt", pit_hlt, .on = {.pin = PIN_EXTERNAL_INTERRUPT, .exit = EXIT_ACKNOWLEDGE},
         .off = {.proc = PROC_HLT},
             .setup = pit_setup),
    {.name = "event.halted_interrupt", .kind = WITH_L2, L2_CODE(halted), EXITS(halted_interrupt_exits),
     .setup = halted_interrupt_setup, .on = {.pin = PIN_EXTERNAL_INTERRUPT}, .misc = HLT_STATE},
    {.name = "strict.halted_interrupt", .kind = WITH_L2, L2_CODE(halted), EXITS(still_halted_exits),
     .setup = halted_interrupt_setup, .on = {.pin = PIN_EXTERNAL_INTERRUPT}, .misc = HLT_STATE, .only_by_name = true},
    SCENARIO_BODY("strict.nmi_unblocked_by_entry", idle, nmi_unblocked_by_entry, .only_by_name = true),
    SCENARIO_BODY("event.halted_inject", halted, halted_inject, .misc = HLT_STATE),
    SCENARIO("strict.mtf", mtf, .on = {.proc = PROC_MTF}, .only_by_name = true),
    SCENARIO_BODY("strict.mtf_injection", idle, mtf_injection, .on = {.proc = PROC_MTF}, .only_by_name = true),
    SCENARIO_BODY("event.order", idle, order_body, .on = {.pin = PIN_PREEMPTION_TIMER | PIN_NMI | PIN_VIRTUAL_NMI,
         .proc = PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW}),
    SCENARIO("event.timer_zero", timer_zero, .on = {.pin = PIN_PREEMPTION_TIMER}, .setup = timer_zero_setup),
    SCENARIO("event.timer_saved", timer_saved, .on = {.pin = PIN_PREEMPTION_TIMER,
         .exit = EXIT_SAVE_PREEMPTION_TIMER},
           .setup = timer_saved_setup),
    SCENARIO("event.timer_hlt", timer_hlt, .on = {.pin = PIN_PREEMPTION_TIMER}, .off = {.proc = PROC_HLT},
         .misc = HLT_STATE,
           .setup = timer_hlt_setup),
};

DEFINE_SCENARIOS(event, table);
