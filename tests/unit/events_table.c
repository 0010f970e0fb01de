/* SPDX-License-Identifier: MIT */
/*
 * Events by the book: (what is pending) x (what blocks) x (vmcs12's controls) x (what is due in L2 itself).
 *
 * One processor is modelled: what happens at an instruction boundary of a guest, in the order of priority of the SDM (7.9, 28.2, 29.6, 29.7). It runs
 * twice. First alone, with vmcs12's controls and the events at its own pins: that is what L1 must see. Then it runs vmcs02, with nothing at its pins, and the
 * host has the same events for L1 (nvmx_enter). Both histories must be the same: each exit that L1 gets, each event that L2 takes, and the state that is
 * saved.
 */
#include <stdio.h>
#include <string.h>

#include "machine.h"

#define IF          0x200u
#define STI         1u
#define MOV_SS      2u
#define BY_NMI      8u
#define BP_ENABLED  0x1001u /* pending debug exception: B0, enabled breakpoint */
#define TYPE_OTHER  7u
#define STEPS       12u
#define FAR_AWAY    1000000u
#define VECTOR      0x40u

enum { ACTIVE, HLT, SHUTDOWN, WAIT_FOR_SIPI };

/* -- the processor ---------------------------------------------------------------------------------------------------------------------- */

struct cpu {
    uint32_t pin, primary, exceptions;    /* controls */
    uint32_t event;                       /* VM-entry interruption information, for the next step */
    uint32_t blocking, rflags, activity, debug, timer;
    uint32_t threshold;                   /* of TPR, which is 0; APIC accesses are virtualized, and no interrupts */
    bool init, sipi, nmi, interrupt;      /* at its pins */
    bool trap_pending;                    /* MTF */
};

/* What a step comes to. */
struct outcome {
    enum { NOTHING, EXIT, TAKES } kind;
    uint32_t what; /* exit reason, or vector */
    uint32_t info; /* of the exit: qualification, or interruption information */
};

static struct outcome exits(uint32_t reason, uint32_t info) {
    return (struct outcome){EXIT, reason, info};
}

/* Through an interrupt gate. */
static struct outcome takes(struct cpu *cpu, uint32_t vector) {
    cpu->rflags &= ~IF;
    cpu->activity = ACTIVE;
    cpu->debug = 0;
    if (vector == 2)
        cpu->blocking |= BY_NMI;
    return (struct outcome){TAKES, vector, 0};
}

static bool window_open(const struct cpu *cpu) {
    return (cpu->rflags & IF) && !(cpu->blocking & (STI | MOV_SS));
}

/* SDM 29.6, 29.7.3: an event that the entry injects comes first, and pending debug exceptions are gone with it. */
static struct outcome inject(struct cpu *cpu) {
    uint32_t event = cpu->event;
    cpu->event = 0;
    if (((event >> 8) & 7) == TYPE_OTHER) {
        cpu->trap_pending = true;
        return (struct outcome){NOTHING, 0, 0};
    }
    return takes(cpu, event & 0xff);
}

/* SDM 29.7.7: after what the entry injects and before all else. The pending MTF exit is lost with the entry. */
static bool below_threshold(struct cpu *cpu, struct outcome *out) {
    if (cpu->threshold == 0 || cpu->activity >= SHUTDOWN)
        return false;
    cpu->trap_pending = false;
    *out = exits(NVMX_EXIT_TPR_BELOW_THRESHOLD, 0);
    return true;
}

/* INIT, SIPI: SDM 28.2. */
static bool signals(struct cpu *cpu, struct outcome *out) {
    if (cpu->activity == WAIT_FOR_SIPI) {
        *out = cpu->sipi ? exits(NVMX_EXIT_STARTUP_IPI, 0x9a) : (struct outcome){NOTHING, 0, 0};
        cpu->sipi = false;
        return true;
    }
    cpu->sipi = false;
    if (cpu->init) {
        cpu->init = cpu->trap_pending = false;
        *out = exits(NVMX_EXIT_INIT_SIGNAL, 0);
        return true;
    }
    return false;
}

/* Monitor trap flag, debug traps, the preemption timer. */
static bool traps(struct cpu *cpu, struct outcome *out) {
    if (cpu->trap_pending) {
        cpu->trap_pending = false;
        *out = exits(NVMX_EXIT_MONITOR_TRAP_FLAG, 0);
        return true;
    }
    if (cpu->debug != 0 && !(cpu->blocking & MOV_SS) && cpu->activity < SHUTDOWN) {
        if (cpu->exceptions & 2) {
            cpu->debug = 0;
            *out = exits(NVMX_EXIT_EXCEPTION_OR_NMI, 0x80000301);
        } else {
            cpu->debug = 0;
            *out = takes(cpu, 1);
        }
        return true;
    }
    if ((cpu->pin & PIN_PREEMPTION_TIMER) && cpu->timer == 0) {
        *out = exits(NVMX_EXIT_PREEMPTION_TIMER, 0);
        return true;
    }
    return false;
}

static bool nmis(struct cpu *cpu, struct outcome *out) {
    bool exiting = (cpu->pin & PIN_NMI) != 0, is_virtual = (cpu->pin & PIN_VIRTUAL_NMIS) != 0;
    bool blocked = (cpu->blocking & BY_NMI) != 0;

    if ((cpu->primary & PROC_NMI_WINDOW) && !(cpu->blocking & (STI | MOV_SS | BY_NMI))) {
        *out = exits(NVMX_EXIT_NMI_WINDOW, 0);
        return true;
    }
    if (cpu->nmi && exiting && (is_virtual || !blocked)) {
        cpu->nmi = false;
        *out = exits(NVMX_EXIT_EXCEPTION_OR_NMI, 0x80000202);
        return true;
    }
    if (cpu->nmi && !exiting && !(cpu->blocking & (STI | MOV_SS | BY_NMI))) {
        cpu->nmi = false;
        *out = takes(cpu, 2);
        return true;
    }
    return false;
}

static bool interrupts(struct cpu *cpu, struct outcome *out) {
    if (cpu->activity == SHUTDOWN)
        return false;
    if ((cpu->primary & PROC_INTERRUPT_WINDOW) && window_open(cpu)) {
        *out = exits(NVMX_EXIT_INTERRUPT_WINDOW, 0);
        return true;
    }
    if (cpu->interrupt && (cpu->pin & PIN_EXTERNAL_INTERRUPT)) {
        cpu->interrupt = false;
        *out = exits(NVMX_EXIT_EXTERNAL_INTERRUPT, 0x80000000 | VECTOR);
        return true;
    }
    if (cpu->interrupt && window_open(cpu)) {
        cpu->interrupt = false;
        *out = takes(cpu, VECTOR);
        return true;
    }
    return false;
}

/* From a VM entry, or from one boundary on, to what happens next. */
static struct outcome step(struct cpu *cpu) {
    struct outcome out = {NOTHING, 0, 0};
    if (cpu->event >> 31) {
        out = inject(cpu);
        if (out.kind == TAKES)
            return out;
    }
    if (!below_threshold(cpu, &out) && !signals(cpu, &out) && !traps(cpu, &out) && !nmis(cpu, &out))
        interrupts(cpu, &out);
    return out;
}

/* L2 runs for a while and blocks nothing any more; whoever waits for a SIPI or a signal goes on waiting. */
static void run_on(struct cpu *cpu) {
    if (cpu->activity >= SHUTDOWN)
        return;
    cpu->blocking = 0;
    cpu->rflags |= IF;
    cpu->activity = ACTIVE;
}

/* -- histories ------------------------------------------------------------------------------------------------------------------------------ */

struct entry {
    struct outcome outcome;
    uint32_t blocking, rflags, activity, debug;
};

struct history {
    struct entry entry[STEPS];
    unsigned int count;
};

static void record(struct history *h, struct outcome out, const struct cpu *cpu) {
    if (h->count < STEPS)
        h->entry[h->count++] = (struct entry){out, cpu->blocking, cpu->rflags & IF, cpu->activity, cpu->debug};
}

/* What L1's handler does, so that it does not get the same exit for ever: it ends the window, winds up the timer, wakes L2. */
static void l1_handles(struct cpu *cpu, uint32_t reason) {
    if (reason == NVMX_EXIT_INTERRUPT_WINDOW)
        cpu->primary &= ~PROC_INTERRUPT_WINDOW;
    if (reason == NVMX_EXIT_NMI_WINDOW)
        cpu->primary &= ~PROC_NMI_WINDOW;
    if (reason == NVMX_EXIT_PREEMPTION_TIMER)
        cpu->timer = FAR_AWAY;
    if (reason == NVMX_EXIT_STARTUP_IPI)
        cpu->activity = ACTIVE;
    if (reason == NVMX_EXIT_TPR_BELOW_THRESHOLD)
        cpu->threshold = 0;
}

static void alone(struct cpu cpu, struct history *h) {
    for (unsigned int i = 0; i < STEPS; i++) {
        struct outcome out = step(&cpu);
        if (out.kind == NOTHING) {
            run_on(&cpu);
            continue;
        }
        record(h, out, &cpu);
        if (out.kind == EXIT)
            l1_handles(&cpu, out.what);
    }
}

/* -- the same on vmcs02 ------------------------------------------------------------------------------------------------------------------------ */

static struct cpu of_vmcs02(const struct sim *sim) {
    return (struct cpu){
        .pin = (uint32_t)vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & ~PIN_EXTERNAL_INTERRUPT,
        .primary = (uint32_t)vmcs02(sim, NVMX_F_PRIMARY_CONTROLS),
        .exceptions = (uint32_t)vmcs02(sim, NVMX_F_EXCEPTION_BITMAP),
        .event = (uint32_t)vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO),
        .blocking = (uint32_t)vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE),
        .rflags = (uint32_t)vmcs02(sim, NVMX_F_GUEST_RFLAGS),
        .activity = (uint32_t)vmcs02(sim, NVMX_F_GUEST_ACTIVITY_STATE),
        .debug = (uint32_t)vmcs02(sim, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS),
        .timer = (uint32_t)vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE),
        .threshold = (uint32_t)vmcs02(sim, NVMX_F_TPR_THRESHOLD),
    };
}

static void into_vmcs02(struct sim *sim, const struct cpu *cpu) {
    const struct {
        enum nvmx_field slot;
        uint32_t value;
    } all[] = {
        {NVMX_F_VM_ENTRY_INTERRUPTION_INFO, cpu->event},
        {NVMX_F_GUEST_INTERRUPTIBILITY_STATE, cpu->blocking},
        {NVMX_F_GUEST_RFLAGS, cpu->rflags},
        {NVMX_F_GUEST_ACTIVITY_STATE, cpu->activity},
        {NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, cpu->debug},
    };
    for (size_t i = 0; i < COUNT(all); i++)
        sim_set(sim, sim->selected, all[i].slot, all[i].value);
}

/* What L1 finds in vmcs12. */
static void record_exit(struct sim *sim, struct history *h) {
    uint32_t reason = (uint32_t)l1_reads(sim, NVMX_VMCS_EXIT_REASON);
    struct outcome out = exits(reason, 0);
    struct cpu cpu = {
        .blocking = (uint32_t)l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE),
        .rflags = (uint32_t)l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS),
        .activity = (uint32_t)l1_reads(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE),
        .debug = (uint32_t)l1_reads(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS),
    };
    if (reason == NVMX_EXIT_EXCEPTION_OR_NMI || reason == NVMX_EXIT_EXTERNAL_INTERRUPT)
        out.info = (uint32_t)l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO);
    if (reason == NVMX_EXIT_STARTUP_IPI)
        out.info = (uint32_t)l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION);
    record(h, out, &cpu);
}

static void l1_goes_on(struct sim *sim) {
    switch (l1_reads(sim, NVMX_VMCS_EXIT_REASON)) {
    case NVMX_EXIT_INTERRUPT_WINDOW:
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_INTERRUPT_WINDOW);
        break;
    case NVMX_EXIT_NMI_WINDOW:
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_NMI_WINDOW);
        break;
    case NVMX_EXIT_PREEMPTION_TIMER:
        l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, FAR_AWAY);
        break;
    case NVMX_EXIT_STARTUP_IPI:
        l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, ACTIVE);
        break;
    case NVMX_EXIT_TPR_BELOW_THRESHOLD:
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 0);
        break;
    default:
        break;
    }
    resume(sim);
}

/* Hardware's side of one round: from an entry to the next exit, or for a while. */
static void run_vmcs02(struct sim *sim, struct history *h) {
    struct cpu cpu = of_vmcs02(sim);
    struct outcome out;

    for (out = step(&cpu); out.kind == TAKES; out = step(&cpu))
        record(h, out, &cpu);
    if (out.kind == NOTHING)
        run_on(&cpu);
    into_vmcs02(sim, &cpu);
    if (out.kind != EXIT)
        return;
    struct nvmx_l2_exit_info info = {.reason = out.what, .interruption_info = out.what == 0 ? out.info : 0};
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT) {
        record_exit(sim, h);
        l1_goes_on(sim);
    }
}

static void nested(struct sim *sim, const struct cpu *start, struct history *h) {
    struct nvmx_pending pending = {.init = start->init, .sipi = start->sipi, .sipi_vector = 0x9a, .nmi = start->nmi};

    sim->vectors[0] = VECTOR;
    sim->vectors_count = 1;
    for (unsigned int i = 0; i < 4 * STEPS; i++) {
        pending.interrupt = start->interrupt && sim->vectors_next == 0;
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT) {
            record_exit(sim, h);
            l1_goes_on(sim);
        } else {
            run_vmcs02(sim, h);
        }
    }
}

/* -- the table ------------------------------------------------------------------------------------------------------------------------------------ */

enum pending { NOT_ANY, INIT, SIPI, NMI, INTERRUPT, NMI_AND_INTERRUPT, INIT_AND_INTERRUPT, EVERYTHING };

static const struct {
    const char *what;
    bool init, sipi, nmi, interrupt;
} pending[] = {
    [NOT_ANY] = {"nothing", .init = false},
    [INIT] = {"INIT", .init = true},
    [SIPI] = {"SIPI", .sipi = true},
    [NMI] = {"NMI", .nmi = true},
    [INTERRUPT] = {"interrupt", .interrupt = true},
    [NMI_AND_INTERRUPT] = {"NMI and interrupt", .nmi = true, .interrupt = true},
    [INIT_AND_INTERRUPT] = {"INIT and interrupt", .init = true, .interrupt = true},
    [EVERYTHING] = {"INIT, SIPI, NMI and interrupt", true, true, true, true},
};

static const struct {
    const char *what;
    uint32_t blocking, rflags, activity;
} blocks[] = {
    {"nothing", 0, IF, ACTIVE},
    {"IF", 0, 0, ACTIVE},
    {"STI", STI, IF, ACTIVE},
    {"MOV SS", MOV_SS, IF, ACTIVE},
    {"NMI", BY_NMI, IF, ACTIVE},
    {"NMI and IF", BY_NMI, 0, ACTIVE},
    {"HLT", 0, IF, HLT},
    {"HLT and IF", 0, 0, HLT},
    {"shutdown", 0, IF, SHUTDOWN},
    {"wait for SIPI", 0, IF, WAIT_FOR_SIPI},
};

#define EXT    PIN_EXTERNAL_INTERRUPT
#define VIRTUAL (PIN_NMI | PIN_VIRTUAL_NMIS)
static const struct {
    const char *what;
    uint32_t pin, primary, exceptions;
    uint32_t timer;
} wishes[] = {
    {"none", 0, 0, 0, FAR_AWAY},
    {"interrupts", EXT, 0, 0, FAR_AWAY},
    {"NMIs", PIN_NMI, 0, 0, FAR_AWAY},
    {"virtual NMIs", VIRTUAL, 0, 0, FAR_AWAY},
    {"all", EXT | VIRTUAL, 0, 2, FAR_AWAY},
    {"interrupt window", EXT, PROC_INTERRUPT_WINDOW, 0, FAR_AWAY},
    {"interrupt window alone", 0, PROC_INTERRUPT_WINDOW, 0, FAR_AWAY},
    {"NMI window", VIRTUAL, PROC_NMI_WINDOW, 0, FAR_AWAY},
    {"both windows", EXT | VIRTUAL, PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW, 2, FAR_AWAY},
    {"timer that is over", EXT | PIN_PREEMPTION_TIMER, 0, 0, 0},
    {"timer and all", EXT | VIRTUAL | PIN_PREEMPTION_TIMER, PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW, 2, 0},
    {"timer that runs", EXT | VIRTUAL | PIN_PREEMPTION_TIMER, 0, 0, FAR_AWAY},
    {"TPR threshold", 0, PROC_TPR_SHADOW, 0, FAR_AWAY},
    {"TPR threshold and all", EXT | VIRTUAL | PIN_PREEMPTION_TIMER, PROC_TPR_SHADOW | PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW, 2, 0},
};

static const struct {
    const char *what;
    uint32_t event, debug;
} dues[] = {
    {"nothing", 0, 0},
    {"a debug trap", 0, BP_ENABLED},
    {"#UD injected", 0x80000306, 0},
    {"an interrupt injected", 0x80000050, 0},
    {"an NMI injected", 0x80000202, 0},
    {"a pending MTF injected", 0x80000700, 0},
    {"#UD injected beside a debug trap", 0x80000306, BP_ENABLED},
};

struct combination {
    size_t pending, blocks, wishes, dues;
};

static struct cpu start_of(const struct combination *c) {
    return (struct cpu){
        .pin = wishes[c->wishes].pin,
        .primary = wishes[c->wishes].primary,
        .exceptions = wishes[c->wishes].exceptions,
        .timer = wishes[c->wishes].timer,
        .threshold = wishes[c->wishes].primary & PROC_TPR_SHADOW ? 1 : 0,
        .event = dues[c->dues].event,
        .debug = dues[c->dues].debug,
        .blocking = blocks[c->blocks].blocking,
        .rflags = blocks[c->blocks].rflags | 2,
        .activity = blocks[c->blocks].activity,
        .init = pending[c->pending].init,
        .sipi = pending[c->pending].sipi,
        .nmi = pending[c->pending].nmi,
        .interrupt = pending[c->pending].interrupt,
    };
}

/* L1 enters L2 so. False: a VM entry with this is refused (SDM 29.3.1). */
static bool entered(struct sim *sim, const struct cpu *cpu) {
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, cpu->pin);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, cpu->primary);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE);
    if (cpu->threshold != 0) {
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_APIC_ACCESSES);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
    }
    l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, cpu->threshold);
    l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, cpu->exceptions);
    l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, cpu->timer);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, cpu->event);
    l1_writes(sim, NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, cpu->debug);
    l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, cpu->blocking);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, cpu->rflags);
    l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, cpu->activity);
    return sim_vmlaunch(sim) == SIM_L2;
}

static void print_history(const char *whose, const struct history *h) {
    fprintf(stderr, "  %s:", whose);
    for (unsigned int i = 0; i < h->count; i++)
        fprintf(stderr, " %s %u (%#x; blocking %u IF %u activity %u debug %#x)", h->entry[i].outcome.kind == EXIT ? "exit" : "takes",
                h->entry[i].outcome.what, h->entry[i].outcome.info, h->entry[i].blocking, h->entry[i].rflags != 0,
                h->entry[i].activity, h->entry[i].debug);
    fprintf(stderr, "\n");
}

static bool run(const struct combination *c) {
    struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = true});
    struct cpu start = start_of(c);
    struct history wanted, got;
    bool possible = entered(sim, &start);

    memset(&wanted, 0, sizeof(wanted));
    memset(&got, 0, sizeof(got));
    if (possible) {
        alone(start, &wanted);
        nested(sim, &start, &got);
        bool same = memcmp(&wanted, &got, sizeof(got)) == 0;
        cr_expect(same, "pending: %s; blocks: %s; L1 wants: %s; due: %s", pending[c->pending].what, blocks[c->blocks].what,
                  wishes[c->wishes].what, dues[c->dues].what);
        if (!same) {
            print_history("wanted", &wanted);
            print_history("got", &got);
        }
    }
    sim_free(sim);
    return possible;
}

/* One test per thing pending, so that they run side by side. */
static void all_with(enum pending what) {
    unsigned int possible = 0;
    struct combination c = {.pending = what};
    for (c.blocks = 0; c.blocks < COUNT(blocks); c.blocks++)
        for (c.wishes = 0; c.wishes < COUNT(wishes); c.wishes++)
            for (c.dues = 0; c.dues < COUNT(dues); c.dues++)
                possible += run(&c);
    cr_expect(possible > 400, "%u combinations can be entered", possible);
}

Test(events_table, nothing, .timeout = 120) {
    all_with(NOT_ANY);
}

Test(events_table, init, .timeout = 120) {
    all_with(INIT);
}

Test(events_table, sipi, .timeout = 120) {
    all_with(SIPI);
}

Test(events_table, nmi, .timeout = 120) {
    all_with(NMI);
}

Test(events_table, interrupt, .timeout = 120) {
    all_with(INTERRUPT);
}

Test(events_table, nmi_and_interrupt, .timeout = 120) {
    all_with(NMI_AND_INTERRUPT);
}

Test(events_table, init_and_interrupt, .timeout = 120) {
    all_with(INIT_AND_INTERRUPT);
}

Test(events_table, everything, .timeout = 120) {
    all_with(EVERYTHING);
}
