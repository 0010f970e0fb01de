/* SPDX-License-Identifier: MIT */
/*
 * Two processors, each a hypervisor with an L2 of its own on the same ept12 (SDM vol. 3C, 25.3, 31.3.3.1; vol. 3A, 11.4): run by name on a machine
 * that has two. Each scenario starts the second processor anew by INIT and start-up IPIs; it carries out one job after the other.
 */
#include "scenarios.h"

enum { AP_PAGE = 0x8000, NMI = 2, ROUNDS = 500, COUNTS = 100, PER_COUNT = 50, PAGES = 256, TOUCHES = 6, REMAPS = 40 };
enum { ICR_LOW = 0x300, ICR_HIGH = 0x310, ICR_NMI = 0x4400, ICR_INIT = 0x4500, ICR_STARTUP = 0x4600 };
enum { WAIT_FOR_STARTUP = 3, VECTOR = 0x9a };
#define LONG_ENOUGH 1000000u           /* iterations until the other processor is given up */

/* In L2_DATA. */
enum { TURN = 0, SUM = 1, OWN = 2, SEEN = 4, ACKNOWLEDGED = 5, NMIS = 6, SPINNING = 7 };
enum { TOUCHED = 0x400000, REMAPPED = 0x600000, LIVE_TABLES = 4, LIVE_PAGES = 160 };

extern const uint8_t ap_start[], ap_end[], ap_found[];
void second_main(void);

struct found {
    uint32_t eax, eflags, cr0, cr4, dr6, dr7, cs, efer;
};

/* What one processor has. */
struct side {
    struct l2_regs regs;
    struct vmcs_region *vmcs;
    bool launched;
    uint32_t reason;                    /* of the last exit */
    uint64_t qualification;
    uint32_t exits, invalidations;
};

static struct side side[2];
static struct vmcs_region second_vmxon;
static struct controls second_on;
static const uint8_t *volatile second_code;
static void (*volatile job)(void);
static volatile uint32_t started;
static uint8_t touched[PAGES][4096] __attribute__((aligned(4096)));
static uint64_t frame[2][512] __attribute__((aligned(4096)));

/* RDI is the processor's number. */
DEFINE_L2_CODE(exchange,
    "movl $500, %ecx\n"
    "1: movl 0x7000, %eax\n andl $1, %eax\n cmpl %edi, %eax\n je 2f\n pause\n jmp 1b\n"
    "2: incl 0x7000\n loop 1b\n vmcall\n");
DEFINE_L2_CODE(count,
    "movl $100, %r8d\n"
    "1: movl $50, %ecx\n"
    "2: lock incq 0x7008\n incq 0x7010(,%rdi,8)\n loop 2b\n"
    "xorl %eax, %eax\n xorl %ecx, %ecx\n cpuid\n decl %r8d\n jnz 1b\n vmcall\n");
/* The one from the first page upwards, the other from the last downwards. */
DEFINE_L2_CODE(touch,
    "1: movl $256, %ecx\n movl $0x400000, %esi\n movl $4096, %edx\n testl %edi, %edi\n jz 2f\n"
    "movl $0x4ff000, %esi\n negq %rdx\n"
    "2: lock incq (%rsi)\n addq %rdx, %rsi\n loop 2b\n vmcall\n jmp 1b\n");
/* Waits for the next value at a page that L1 exchanges, and says that it has seen it. */
DEFINE_L2_CODE(remap,
    "xorl %eax, %eax\n"
    "1: incq %rax\n movq %rax, 0x7020\n"
    "2: pause\n cmpq %rax, 0x600000\n jne 2b\n movq %rax, 0x7028\n cmpl $40, %eax\n jne 1b\n vmcall\n");
/* Uses four tables of ept12, then says again and again what it finds at a page. */
DEFINE_L2_CODE(watch,
    "movl $0x600000, %esi\n movl $4, %edx\n"
    "1: movl $160, %ecx\n movl %esi, %edi\n"
    "2: movq (%rdi), %rax\n addl $4096, %edi\n loop 2b\n addl $0x200000, %esi\n decl %edx\n jnz 1b\n"
    "3: movq 0x600000, %rax\n movq %rax, 0x7020\n vmcall\n jmp 3b\n");
DEFINE_L2_CODE(spin, "1: incq 0x7038\n pause\n cmpq $0, 0x7000\n je 1b\n vmcall\n");
DEFINE_L2_CODE(nmi_handler, "incq 0x7030\n iretq\n");

static void relax(void) {
    __asm__ volatile("pause" ::: "memory");
}

static bool wait_until(const volatile uint64_t *word, uint64_t value) {
    for (uint32_t i = 0; i < LONG_ENOUGH && *word != value; i++) {
        relax();
    }
    return *word == value;
}

/* -- the second processor --------------------------------------------------------------------------------------------- */

void second_main(void) {
    cpu_init_second();
    started++;
    for (;;) {
        while (job == 0) {
            relax();
        }
        job();
        job = 0;
    }
}

static void send(uint32_t command) {
    lapic_write(ICR_HIGH, 1u << 24);
    lapic_write(ICR_LOW, command);
}

static void pass_time(uint32_t iterations) {
    while (iterations-- != 0) {
        relax();
    }
}

/* Bochs loses an INIT signal that comes while the processor happens to be in VMX root operation, be it L0's: hence more tries than one. */
static bool start_second(void) {
    uint32_t before = started;
    job = 0;
    memcpy((void *)(uint64_t)AP_PAGE, ap_start, (size_t)(ap_end - ap_start));
    for (uint32_t tries = 0; tries < 4 && started == before; tries++) {
        send(ICR_INIT);
        pass_time(20000);
        send(ICR_STARTUP | AP_PAGE >> 12);
        for (uint32_t i = 0; i < 200000 && started == before; i++) {
            relax();
        }
    }
    step("start", started == before + 1, "the second processor started %u times", started - before);
    return started == before + 1;
}

static bool join(void) {
    for (uint32_t i = 0; i < LONG_ENOUGH && job != 0; i++) {
        relax();
    }
    if (job != 0) {
        step("join", false, "the second processor does not end its job");
    }
    return job == 0;
}

static void second_vmx_on(void) {
    uint64_t pointer = (uint64_t)&second_vmxon;
    write_cr4(read_cr4() | CR4_VMXE);
    second_vmxon.revision = cap.revision;
    if (vmx_vmxon(&pointer).flags != 0) {
        report_fatal("VMXON of the second processor failed");
    }
}

static void second_prepare(void) {
    static const struct controls none;
    vmcs_prepare(&vmcs_b, &second_on, &none, l2_address(second_code));
    vmwrite(GUEST_RSP, L2_STACK_TOP - 4096);
    side[1] = (struct side){.vmcs = &vmcs_b};
    side[1].regs.gpr[RDI] = 1;
}

/* -- running L2, on either ---------------------------------------------------------------------------------------------- */

static bool enter(struct side *s) {
    uint64_t rflags = l2_enter(&s->regs, !s->launched);
    s->reason = rflags != 0 ? ~0u : (uint32_t)vmread(EXIT_REASON);
    s->qualification = rflags != 0 ? 0 : vmread(EXIT_QUALIFICATION);
    s->launched = s->launched || rflags == 0;
    s->exits++;
    return rflags == 0;
}

/* Until L2 executes VMCALL; CPUID is skipped. */
static void run(struct side *s) {
    while (enter(s) && (s->reason == REASON_CPUID || s->reason == REASON_VMCALL)) {
        vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH));
        if (s->reason == REASON_VMCALL) {
            return;
        }
    }
}

/* The same for L2s that end their round by VMCALL, with all translations dropped after each. */
static void run_rounds(struct side *s) {
    for (uint32_t i = 0; i < TOUCHES; i++) {
        run(s);
        invalidate_all();
    }
}

/* NMIs exit: the other processor has changed ept12. */
static void run_invalidating(struct side *s) {
    while (enter(s) && s->reason == REASON_EXCEPTION_NMI) {
        __asm__ volatile("int $0x81" ::: "memory"); /* its IRET ends the blocking by NMI */
        invalidate_all();
        s->invalidations++;
    }
}

static void second_run(void) {
    second_prepare();
    run(&side[1]);
}

static void second_run_rounds(void) {
    second_prepare();
    run_rounds(&side[1]);
}

static void second_run_invalidating(void) {
    second_prepare();
    run_invalidating(&side[1]);
}

static void second_off(void) {
    vmx_vmxoff();
    write_cr4(read_cr4() & ~CR4_VMXE);
}

/* Both run the same code at the same time. */
static bool both(struct l2 *l2, void (*first)(struct side *), void (*second)(void)) {
    second_code = l2->code;
    side[0] = (struct side){.vmcs = l2->vmcs};
    if (!start_second()) {
        return false;
    }
    job = second_vmx_on;
    if (!join()) {
        return false;
    }
    job = second;
    first(&side[0]);
    return join();
}

static void end(void) {
    job = second_off;
    join();
}

static const volatile uint64_t *word(uint32_t number) {
    return l2_u64(L2_DATA + 8ul * number);
}

static void ended_by_vmcall(void) {
    step_equal("first", side[0].reason, REASON_VMCALL);
    step_equal("second", side[1].reason, REASON_VMCALL);
}

/* -- scenarios ----------------------------------------------------------------------------------------------------------- */

static void found_state(struct l2 *l2) {
    struct found f;
    (void)l2;
    if (!start_second()) {
        return;
    }
    memcpy(&f, (const void *)(uint64_t)(AP_PAGE + (ap_found - ap_start)), sizeof f);
    step_equal("eax", f.eax, 0);
    step_equal("eflags", f.eflags, 2);
    step_equal("cr0", f.cr0 & 0x9ffffffful, 0x10);
    step_equal("cr4", f.cr4, 0);
    step_equal("dr6", f.dr6, 0xffff0ff0ul);
    step_equal("dr7", f.dr7, 0x400);
    step_equal("cs", f.cs, AP_PAGE >> 4);
    step_equal("efer", f.efer, 0);
}

static void exchange(struct l2 *l2) {
    if (both(l2, run, second_run)) {
        ended_by_vmcall();
        step_equal("turns", *word(TURN), 2 * ROUNDS);
        end();
    }
}

static void count(struct l2 *l2) {
    if (both(l2, run, second_run)) {
        ended_by_vmcall();
        step_equal("sum", *word(SUM), 2 * COUNTS * PER_COUNT);
        step_equal("own_first", *word(OWN), COUNTS * PER_COUNT);
        step_equal("own_second", *word(OWN + 1), COUNTS * PER_COUNT);
        step_equal("exits_first", side[0].exits, COUNTS + 1);
        step_equal("exits_second", side[1].exits, COUNTS + 1);
        end();
    }
}

static void touch(struct l2 *l2) {
    uint32_t right = 0;
    memset(touched, 0, sizeof touched);
    for (uint32_t i = 0; i < PAGES; i++) {
        ept_map(TOUCHED + i * 4096ul, (uint64_t)touched[i], EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    }
    if (!both(l2, run_rounds, second_run_rounds)) {
        return;
    }
    for (uint32_t i = 0; i < PAGES; i++) {
        right += *(volatile uint64_t *)touched[i] == 2 * TOUCHES;
    }
    ended_by_vmcall();
    step_equal("pages", right, PAGES);
    end();
}

/* This processor changes ept12 while L2 of the other uses it, and calls it by an NMI, as a hypervisor does. */
static void remap_first(struct side *s) {
    uint32_t seen = 0;
    wait_until(word(SEEN), 1);
    for (uint32_t i = 1; i <= REMAPS; i++) {
        frame[i & 1][0] = i;
        *(volatile uint64_t *)ept_entry(REMAPPED, EPT_LEVEL_4K) = (uint64_t)frame[i & 1] | EPT_ALL | EPT_WB;
        invalidate_all();
        send(ICR_NMI);
        seen += wait_until(word(ACKNOWLEDGED), i);
    }
    s->exits = seen;
}

static void remap(struct l2 *l2) {
    ept_map(REMAPPED, (uint64_t)frame[0], EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    memset(frame, 0, sizeof frame);
    second_on.pin = PIN_NMI | PIN_VIRTUAL_NMI;
    if (both(l2, remap_first, second_run_invalidating)) {
        step_equal("second", side[1].reason, REASON_VMCALL);
        step_equal("seen", side[0].exits, REMAPS);
        end();
    }
    second_on.pin = 0;
}

static void wait_for_rounds(void) {
    volatile uint32_t *rounds = &side[1].invalidations;
    for (uint32_t k = 0, from = *rounds; k < LONG_ENOUGH && *rounds - from < 40; k++) {
        relax();
    }
}

/* Without an exit of the processor that writes: that it has written to its tables before must not hide a write from who asks for it. */
static void rewrite_first(struct side *s) {
    volatile uint64_t *entry = ept_entry(REMAPPED, EPT_LEVEL_4K);

    for (uint32_t i = 1; i <= REMAPS; i++) {
        frame[i & 1][0] = i;
        *entry = (uint64_t)frame[i & 1] | EPT_ALL | EPT_WB;
        s->exits += wait_until(word(SEEN), i);
        *entry = (uint64_t)frame[i & 1] | EPT_ALL | EPT_WB;
        wait_for_rounds();
    }
    *(volatile uint64_t *)l2_u64(L2_DATA) = 1;
}

static void second_watch(void) {
    second_prepare();
    while (enter(&side[1]) && side[1].reason == REASON_VMCALL && *word(TURN) == 0) {
        vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
        invalidate_all();
        side[1].invalidations++;
    }
}

/* With tables of which L0 need not read those that nobody has written: it has to know what either processor writes. */
static void rewrite(struct l2 *l2) {
    memset(frame, 0, sizeof frame);
    for (uint64_t i = 0; i < LIVE_TABLES; i++) {
        for (uint64_t page = 0; page < LIVE_PAGES; page++) {
            ept_map(REMAPPED + i * 0x200000 + page * 4096, (uint64_t)touched[page], EPT_LEVEL_4K, EPT_ALL | EPT_WB);
        }
    }
    if (both(l2, rewrite_first, second_watch)) {
        step_equal("second", side[1].reason, REASON_VMCALL);
        step_equal("seen", side[0].exits, REMAPS);
        end();
    }
}

/* NMIs for the other processor: in L1, and in its L2, which L1 lets have them. */
static void nmi_first(struct side *s) {
    uint64_t before;
    (void)s;
    for (uint32_t i = 1; i <= 5; i++) {
        before = *word(SPINNING);
        while (*word(SPINNING) == before) {
            relax();
        }
        send(ICR_NMI);
        wait_until(word(NMIS), i);
    }
    *(volatile uint64_t *)l2_u64(L2_DATA) = 1;
}

static void nmi(struct l2 *l2) {
    l2_gate(NMI, l2_nmi_handler, 0, 0);
    if (!both(l2, nmi_first, second_run)) {
        return;
    }
    step_equal("second", side[1].reason, REASON_VMCALL);
    step_equal("in_l2", *word(NMIS), 5);
    interrupts_taken[NMI] = 0;
    for (uint32_t i = 1; i <= 3; i++) {
        send(ICR_NMI);
        for (uint32_t k = 0; k < 1000000 && interrupts_taken[NMI] != i; k++) {
            relax();
        }
    }
    step_equal("in_l1", interrupts_taken[NMI], 3);
    end();
}

static void init_first(struct side *s) {
    (void)s;
    while (*word(SPINNING) < 100) {
        relax();
    }
    send(ICR_INIT);
}

static void startup_alone(void) {
    uint32_t before = started;
    job = 0;
    send(ICR_STARTUP | AP_PAGE >> 12);
    for (uint32_t i = 0; i < 2000000 && started == before; i++) {
        relax();
    }
    step("startup", started == before + 1, "the second processor started %u times", started - before);
}

static void second_exited(uint32_t reason, uint64_t qualification) {
    struct exit_info found = {.reason = side[1].reason, .qualification = side[1].qualification};
    step_begin("second", found.reason == reason && found.qualification == qualification);
    exit_print(&found);
    print("\n");
}

/* INIT while L2 runs is an exit to L1. */
static void init_in_l2(struct l2 *l2) {
    if (both(l2, init_first, second_run)) {
        second_exited(REASON_INIT, 0);
        job = second_off;
        pass_time(100000);
        start_second();
    }
}

/* As is a start-up IPI while L2 waits for one. */
static void second_wait_for_startup(void) {
    second_prepare();
    vmwrite(GUEST_ACTIVITY, WAIT_FOR_STARTUP);
    enter(&side[1]);
}

static void startup_first(struct side *s) {
    (void)s;
    pass_time(100000);
    send(ICR_STARTUP | VECTOR);
}

static void startup_in_l2(struct l2 *l2) {
    if (both(l2, startup_first, second_wait_for_startup)) {
        second_exited(REASON_STARTUP, VECTOR);
        end();
    }
}

static void nothing(void) {
}

/* In VMX root operation it waits for VMXOFF (SDM 25.3): the processor goes on until then, and is reset at once then. */
static void init_in_root(struct l2 *l2) {
    if (!both(l2, run, second_run)) {
        return;
    }
    send(ICR_INIT);
    pass_time(100000);
    job = nothing;
    step("blocked", join(), "the second processor goes on");
    job = second_off;
    pass_time(100000);
    startup_alone();
}

static void send_to_first(void) {
    lapic_write(ICR_HIGH, 0);
    lapic_write(ICR_LOW, ICR_INIT);
}

/* The machine resets, or L0 ends. */
static void init_boot(struct l2 *l2) {
    (void)l2;
    if (start_second()) {
        job = send_to_first;
        pass_time(1000000);
        step("reset", false, "the boot processor goes on");
    }
}

#define SMP(NAME, CODE) {.name = "smp." #NAME, .kind = WITH_L2, .only_by_name = true, L2_CODE(CODE), .body = NAME}

static const struct scenario scenarios[] = {
    {.name = "smp.state", .kind = WITH_L2, .only_by_name = true, L2_CODE(spin), .body = found_state},
    SMP(exchange, exchange),
    SMP(count, count),
    SMP(touch, touch),
    SMP(remap, remap),
    SMP(rewrite, watch),
    SMP(nmi, spin),
    SMP(startup_in_l2, spin),
    SMP(init_in_l2, spin),
    {.name = "strict.init_in_root", .kind = WITH_L2, .only_by_name = true, L2_CODE(exchange), .body = init_in_root},
    {.name = "strict.init_boot", .kind = WITH_L2, .only_by_name = true, L2_CODE(spin), .body = init_boot},
};
DEFINE_SCENARIOS(smp, scenarios);
