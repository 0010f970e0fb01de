/* SPDX-License-Identifier: MIT */
/* nvmx_enter: interrupts, NMIs, INIT and SIPI that a host has for L1 while L2 runs (SDM 28.2, 29.7). */
#include "machine.h"

#define PIN_BITS        (PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMIS)
#define BLOCKING_STI    1u
#define BLOCKING_BY_NMI 8u
#define IF              0x200u

static const struct sim_options owns = {.external_interrupts = true};

/* L2 runs, with these pin-based controls of L1, IF set and nothing blocked; the host's interrupt controller gives
 * vector 40H, then 41H. */
static struct sim *l2_with(const struct sim_options *options, uint32_t pin, uint32_t exit_controls) {
    struct sim *sim = l1_ready(options);
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, pin);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, exit_controls);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, IF | 2);
    launch(sim);
    sim->vectors[0] = 0x40;
    sim->vectors[1] = 0x41;
    sim->vectors_count = 2;
    return sim;
}

static uint64_t primary_asks(const struct sim *sim) {
    return vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & (PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW);
}

static bool l2_still(const struct sim *sim) {
    return nvmx_mode(sim->vcpu) == NVMX_MODE_L2;
}

Test(enter, nothing_pending_costs_nothing) {
    struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, 0);
    struct cost before = cost_now(sim);
    struct nvmx_pending none = {0};
    cr_expect_eq(sim_enter(sim, &none), NVMX_ENTER);
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    costs(sim, "nvmx_enter", before, (struct cost){0});
    l2_leaves(sim);
    before = cost_now(sim);
    struct nvmx_pending all = {.interrupt = true, .nmi = true, .init = true, .sipi = true};
    cr_expect_eq(sim_enter(sim, &all), NVMX_ENTER);
    costs(sim, "nvmx_enter for L1", before, (struct cost){0});
    cr_expect(all.interrupt && all.nmi && all.init && all.sipi, "while L1 runs the host delivers");
    sim_free(sim);
}

/* -- interrupts
 * ------------------------------------------------------------------------------------------------------------ */

/* SDM 28.2: "external-interrupt exiting" works whatever IF is; with "acknowledge interrupt on exit" the vector is in
 * the exit information. */
Test(enter, interrupts_exit) {
    for (unsigned int acknowledge = 0; acknowledge < 2; acknowledge++) {
        struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, acknowledge ? EXIT_ACKNOWLEDGE : 0);
        struct nvmx_pending pending = {.interrupt = true};
        sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 2);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, 0x1777);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_assert_not(l2_still(sim));
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXTERNAL_INTERRUPT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), acknowledge ? 0x80000040 : 0);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1777, "L2's state is saved");
        cr_expect_eq(sim->vectors_next, acknowledge, "acknowledged only if L1 asks for it");
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0);
        sim_free(sim);
    }
}

Test(enter, interrupts_are_injected_where_l1_does_not_exit_on_them) {
    struct sim *sim = l2_with(&owns, 0, 0);
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert(l2_still(sim));
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000040);
    cr_expect_eq(primary_asks(sim), 0);
    sim_free(sim);
}

/* A host that traces nothing, so that an entry needs no other care. */
Test(enter, events_alone_are_reason_for_care) {
    for (unsigned int traces = 0; traces < 2; traces++) {
        struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, EXIT_ACKNOWLEDGE);
        struct nvmx_pending pending = {.interrupt = true};
        sim->vcpu->traces = traces;
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_assert(l2_still(sim));
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_not(l2_still(sim));
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000040);
        sim_free(sim);
    }
}

static int more_than_a_vector(void *ctx) {
    (void)ctx;
    return 0x730;
}

/* A host's vector becomes no other bit of an event. */
Test(enter, vectors_have_8_bits) {
    for (unsigned int exits = 0; exits < 2; exits++) {
        struct sim *sim = l2_with(&owns, exits ? PIN_EXTERNAL_INTERRUPT : 0, exits ? EXIT_ACKNOWLEDGE : 0);
        struct nvmx_pending pending = {.interrupt = true};
        sim->vm->host.ack_interrupt = more_than_a_vector;
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_assert_eq(l2_still(sim), !exits);
        cr_expect_eq(exits ? l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO) : vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000030);
        sim_free(sim);
    }
}

static const struct {
    uint32_t interruptibility, rflags;
} not_ready[] = {{0, 2}, {BLOCKING_STI, IF | 2}, {BLOCKING_MOV_SS, IF | 2}, {BLOCKING_MOV_SS, 2}};

/* L2 can't take it: a window exit, which L1 does not see, and then the interrupt. */
Test(enter, interrupts_wait_for_their_window) {
    for (size_t i = 0; i < COUNT(not_ready); i++) {
        struct sim *sim = l2_with(&owns, 0, 0);
        struct nvmx_pending pending = {.interrupt = true};
        uint64_t controls = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS);
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, not_ready[i].interruptibility);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, not_ready[i].rflags);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_eq(primary_asks(sim), PROC_INTERRUPT_WINDOW, "row %zu", i);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0);
        cr_expect_eq(sim->vectors_next, 0, "not acknowledged yet");

        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, IF | 2);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_INTERRUPT_WINDOW, 0, 0, 0), NVMX_ENTER);
        cr_assert(l2_still(sim));
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), controls, "the controls are as before");
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000040);
        sim_free(sim);
    }
}

/* L1 waits for the same window: the exit is L1's. */
Test(enter, interrupt_window_of_both) {
    struct sim *sim = l1_ready(&owns);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_INTERRUPT_WINDOW);
    launch(sim);
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_INTERRUPT_WINDOW, 0, 0, 0), NVMX_ENTER);
    cr_assert_not(l2_still(sim));
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_INTERRUPT_WINDOW);
    sim_free(sim);
}

/* Another exit ends the request; L1's next entry does not inherit it. */
Test(enter, a_request_ends_with_any_exit) {
    struct sim *sim = l2_with(&owns, 0, 0);
    struct nvmx_pending pending = {.interrupt = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 2);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_neq(primary_asks(sim), 0);
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(primary_asks(sim), 0);
    /* The same of an NMI. */
    pending = (struct nvmx_pending){.nmi = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 8);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_eq(primary_asks(sim), PROC_NMI_WINDOW);
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(primary_asks(sim), 0);
    sim_free(sim);
}

/* -- NMIs
 * -----------------------------------------------------------------------------------------------------------------------
 */

/*
 * With "NMI exiting" an exit, unless the processor's own blocking holds it off, which virtual NMIs replace; else an
 * injection, or an NMI window if that exists.
 */
Test(enter, nmis_by_controls_and_blocking) {
    static const struct {
        uint32_t pin, blocking;
        enum { EXITS, INJECTED, WINDOW, WAITS } wanted;
    } rows[] = {
        {PIN_NMI, 0, EXITS},
        {PIN_NMI, BLOCKING_BY_NMI, WAITS},
        {PIN_NMI | PIN_VIRTUAL_NMIS, 0, EXITS},
        {PIN_NMI | PIN_VIRTUAL_NMIS, BLOCKING_BY_NMI, EXITS},
        {0, 0, INJECTED},
        {0, BLOCKING_BY_NMI, WINDOW},
        {0, BLOCKING_MOV_SS, WINDOW},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_with(&owns, rows[i].pin, 0);
        struct nvmx_pending pending = {.nmi = true};
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, rows[i].blocking);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_eq(l2_still(sim), rows[i].wanted != EXITS, "row %zu", i);
        if (rows[i].wanted == EXITS) {
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXCEPTION_OR_NMI);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000202);
            cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI, "L1 is in its NMI handler");
        } else {
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) == 0x80000202, rows[i].wanted == INJECTED,
                         "row %zu", i);
            cr_expect_eq(primary_asks(sim), rows[i].wanted == WINDOW ? PROC_NMI_WINDOW : 0, "row %zu", i);
        }
        cr_expect_eq(pending.nmi, rows[i].wanted == WINDOW || rows[i].wanted == WAITS, "row %zu", i);
        sim_free(sim);
    }
}

/* Without virtual NMIs (the host passes NMIs through, but has one of its own) there is no NMI window. */
Test(enter, nmis_without_a_window_wait) {
    struct sim *sim = l2_with(NULL, 0, 0);
    struct nvmx_pending pending = {.nmi = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect(pending.nmi);
    cr_expect_eq(primary_asks(sim), 0);
    sim_free(sim);
}

Test(enter, nmi_window_is_not_l1s) {
    struct sim *sim = l2_with(&owns, 0, 0);
    struct nvmx_pending pending = {.nmi = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_NMI_WINDOW, 0, 0, 0), NVMX_ENTER);
    cr_assert(l2_still(sim));
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000202);
    cr_expect_not(pending.nmi);
    sim_free(sim);
}

/* L2 that never executes IRET must not keep interrupts from L1. */
Test(enter, a_blocked_nmi_holds_no_interrupt_off) {
    struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, EXIT_ACKNOWLEDGE);
    struct nvmx_pending pending = {.nmi = true, .interrupt = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_not(l2_still(sim));
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000040);
    cr_expect(pending.nmi, "it waits on");
    resume(sim);
    cr_expect_eq(primary_asks(sim), 0, "what was asked for ended with the exit");
    sim_free(sim);
}

Test(enter, both_windows) {
    struct sim *sim = l2_with(&owns, 0, 0);
    struct nvmx_pending pending = {.nmi = true, .interrupt = true};
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 2);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(primary_asks(sim), PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(primary_asks(sim), PROC_NMI_WINDOW | PROC_INTERRUPT_WINDOW, "asked twice");
    sim_free(sim);
}

/* An NMI is injected; the interrupt follows as soon as L2 has taken it. */
Test(enter, an_nmi_goes_before_an_interrupt) {
    struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, EXIT_ACKNOWLEDGE);
    struct nvmx_pending pending = {.nmi = true, .interrupt = true};
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert(l2_still(sim));
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000202);
    cr_expect(vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & PIN_PREEMPTION_TIMER);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXTERNAL_INTERRUPT);
    sim_free(sim);
}

/* -- INIT and SIPI
 * ------------------------------------------------------------------------------------------------------------------ */

Test(enter, init_and_sipi_by_activity_state) {
    enum { ACTIVE, HLT, SHUTDOWN, WAIT_FOR_SIPI };
    for (uint32_t activity = ACTIVE; activity <= WAIT_FOR_SIPI; activity++) {
        for (unsigned int events = 1; events < 4; events++) {
            struct sim *sim = l2_with(&owns, PIN_BITS, 0);
            struct nvmx_pending pending = {.init = events & 1, .sipi = events >> 1, .sipi_vector = 0x9a};
            bool waits = activity == WAIT_FOR_SIPI;
            sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, activity);
            cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
            cr_expect_not(pending.sipi, "delivered or dropped");
            cr_expect_eq(pending.init, waits && (events & 1), "activity %u events %u", activity, events);
            bool exits = waits ? events >> 1 : events & 1;
            cr_assert_eq(l2_still(sim), !exits, "activity %u events %u", activity, events);
            if (exits) {
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON),
                             waits ? NVMX_EXIT_STARTUP_IPI : NVMX_EXIT_INIT_SIGNAL);
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), waits ? 0x9a : 0);
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE), activity);
            }
            sim_free(sim);
        }
    }
}

/* SDM 29.7.2: external interrupts cause no exits from shutdown, nor where L2 waits for a SIPI: the processor would be L1's alone. */
Test(enter, no_activity_state_that_blocks_the_hosts_interrupts) {
    for (uint32_t activity = 0; activity < 4; activity++) {
        for (unsigned int hosts = 0; hosts < 2; hosts++) {
            struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = hosts});
            bool offered = activity < 2 || hosts == 0;
            l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, activity);
            cr_expect_eq(sim_vmlaunch(sim), offered ? SIM_L2 : SIM_ENTRY_FAILED, "activity state %u", activity);
            if (activity != 0)
                cr_expect_eq((nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_MISC] >> (5 + activity)) & 1, offered);
            sim_free(sim);
        }
    }
}

/* SDM 29.7.2: waiting for a SIPI blocks interrupts and NMIs too, shutdown blocks interrupts; HLT blocks nothing. */
Test(enter, activity_states_block) {
    static const struct {
        uint32_t activity;
        bool nmi, interrupt;
    } rows[] = {{1, true, true}, {2, true, false}, {3, false, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (uint32_t pin = 0; pin <= PIN_BITS; pin += PIN_BITS) {
            struct sim *sim = l2_with(&owns, pin, 0);
            struct nvmx_pending pending = {.nmi = true};
            sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, rows[i].activity);
            cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
            cr_expect_eq(pending.nmi, !rows[i].nmi, "NMI, row %zu, controls %#x", i, pin);
            sim_free(sim);

            sim = l2_with(&owns, pin, EXIT_ACKNOWLEDGE);
            pending = (struct nvmx_pending){.interrupt = true};
            sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, rows[i].activity);
            cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
            cr_expect_eq(sim->vectors_next, rows[i].interrupt, "interrupt, row %zu, controls %#x", i, pin);
            sim_free(sim);
        }
    }
}

/* INIT, NMI, interrupt: in this order, one at a time. */
Test(enter, priorities) {
    struct sim *sim = l2_with(&owns, PIN_BITS, EXIT_ACKNOWLEDGE);
    struct nvmx_pending pending = {.init = true, .nmi = true, .interrupt = true};
    static const uint32_t reasons[] = {NVMX_EXIT_INIT_SIGNAL, NVMX_EXIT_EXCEPTION_OR_NMI, NVMX_EXIT_EXTERNAL_INTERRUPT};
    for (size_t i = 0; i < COUNT(reasons); i++) {
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reasons[i]);
        resume(sim);
    }
    cr_expect_not(pending.init || pending.nmi);
    sim_free(sim);
}

/* -- an event to be injected goes first
 * ------------------------------------------------------------------------------------------------ */

/* L1 injects with this entry: L2 takes that, exits at once, and then the host's event comes. vmcs12's own timer is
 * kept. */
Test(enter, l1s_injection_goes_first) {
    for (unsigned int timer = 0; timer < 2; timer++) {
        struct sim *sim = l1_ready(&owns);
        struct nvmx_pending pending = {.interrupt = true};
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT | (timer ? PIN_PREEMPTION_TIMER : 0));
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
        l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 0x12345);
        launch(sim);
        uint64_t pin = vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_assert(l2_still(sim));
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
        cr_expect_eq(vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS), pin | PIN_PREEMPTION_TIMER);
        cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 0);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER, "a second time before the entry");
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
        cr_assert(l2_still(sim), "not L1's");
        cr_expect_eq(vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS), pin);
        if (timer)
            cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 0x12345);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXTERNAL_INTERRUPT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 0x12345);
        resume(sim);
        if (timer)
            cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 0x12345);
        sim_free(sim);
    }
}

/* Another exit comes before the forced one. */
Test(enter, a_forced_exit_that_another_exit_comes_before) {
    struct sim *sim = l1_ready(&owns);
    struct nvmx_pending pending = {.interrupt = true};
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT | PIN_PREEMPTION_TIMER);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
    l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 0x12345);
    launch(sim);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_CPUID);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 0x12345, "saved as if nothing had been forced");
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 0x12345);
    /* The timer that now runs out is L1's own: nothing is forced any more. */
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
    sim_free(sim);
}

/* L2 was interrupted in the delivery of an event, which goes on before anything else. */
Test(enter, an_event_in_flight_goes_first) {
    struct sim *sim = l2_with(&owns, PIN_EXTERNAL_INTERRUPT, EXIT_ACKNOWLEDGE);
    struct nvmx_pending pending = {.interrupt = true};
    struct nvmx_l2_exit_info violation = {.reason = NVMX_EXIT_EPT_VIOLATION,
                                          .qualification = 0x181,
                                          .guest_physical_address = 0x5000,
                                          .idt_vectoring_info = 0x80000306};
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert(l2_still(sim));
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXTERNAL_INTERRUPT);
    sim_free(sim);
}

/*
 * A CPU without the timer: the monitor trap flag makes L2 leave after what is injected (SDM 28.5.2). Without that either the event waits until L2 can take
 * interrupts, or for any other exit. Where L1 asks for the same exit it is L1's, which takes nothing from the event.
 */
Test(enter, without_a_timer) {
    for (unsigned int i = 0; i < 6; i++) {
        const bool traps = i < 3, another = i % 3 == 1, l1s = i % 3 == 2;
        const uint64_t control = traps ? PROC_MONITOR_TRAP : PROC_INTERRUPT_WINDOW;
        const uint32_t reason = traps ? NVMX_EXIT_MONITOR_TRAP_FLAG : NVMX_EXIT_INTERRUPT_WINDOW;
        struct nvmx_caps machine;
        sim_machine(&machine);
        machine.msr[NVMX_CAP_PINBASED] &= ~(UINT64_C(1) << 38);
        machine.msr[NVMX_CAP_TRUE_PINBASED] &= ~(UINT64_C(1) << 38);
        if (!traps) {
            machine.msr[NVMX_CAP_PROCBASED] &= ~((uint64_t)PROC_MONITOR_TRAP << 32);
            machine.msr[NVMX_CAP_TRUE_PROCBASED] &= ~((uint64_t)PROC_MONITOR_TRAP << 32);
        }
        struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = true, .machine = &machine});
        struct nvmx_pending pending = {.interrupt = true};
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000306);
        if (l1s)
            l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, control);
        launch(sim);
        uint64_t primary = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_assert(l2_still(sim));
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), primary | control, "%u", i);
        cr_assert_eq(sim_exit(sim, another ? NVMX_EXIT_EXTERNAL_INTERRUPT : reason, 0, 0, 0), another ? NVMX_HOST : NVMX_ENTER, "%u", i);
        cr_assert_eq(l2_still(sim), !l1s, "%u", i);
        if (l1s) {
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason);
        } else {
            cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), primary, "%u", i);
            cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
            cr_assert_not(l2_still(sim));
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXTERNAL_INTERRUPT);
        }
        sim_free(sim);
    }
}

/* L1 injects an MTF exit (type 7): it is L1's, whatever else waits. */
Test(enter, without_a_timer_a_pending_trap_is_l1s) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PINBASED] &= ~(UINT64_C(1) << 38);
    machine.msr[NVMX_CAP_TRUE_PINBASED] &= ~(UINT64_C(1) << 38);
    struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = true, .machine = &machine});
    struct nvmx_pending pending = {.interrupt = true};
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000700);
    launch(sim);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_MONITOR_TRAP_FLAG, 0, 0, 0), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_MONITOR_TRAP_FLAG);
    sim_free(sim);
}

/* -- the preemption timer
 * -------------------------------------------------------------------------------------------------------------------
 */

/* It runs on over exits that L1 does not see; L1 reads it only with "save VMX-preemption timer value". */
Test(enter, preemption_timer_of_l1) {
    for (unsigned int save = 0; save < 2; save++) {
        struct sim *sim = l1_ready(NULL);
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
        if (save)
            l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
        l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 1000);
        launch(sim);
        cr_expect(vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) & EXIT_SAVE_TIMER);
        sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 700);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 700, "it runs on");
        sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 500);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), save ? 500 : 1000);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), save ? 500 : 1000);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER, "expired: L1's");
        sim_free(sim);
    }
}

/* -- all combinations
 * ------------------------------------------------------------------------------------------------------------------------
 */

/*
 * Whatever is pending and however L2 stands: an event is delivered at most once, nothing that a VM entry would refuse
 * is injected, and without further failures everything arrives in the end.
 */
static void expect_enterable(const struct sim *sim, unsigned int combination) {
    uint64_t info = vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    uint64_t blocking = vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE),
             activity = vmcs02(sim, NVMX_F_GUEST_ACTIVITY_STATE);
    uint64_t pin = vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS), primary = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS);

    cr_expect(!(pin & PIN_VIRTUAL_NMIS) || (pin & PIN_NMI), "combination %#x: virtual NMIs need NMI exiting",
              combination);
    cr_expect(!(primary & PROC_NMI_WINDOW) || (pin & PIN_VIRTUAL_NMIS), "combination %#x: NMI window", combination);
    if (!(info >> 31))
        return;
    cr_expect(activity != 3, "combination %#x: nothing enters wait-for-SIPI", combination);
    if (((info >> 8) & 7) == 0) {
        cr_expect_eq(blocking & 3, 0, "combination %#x: interrupt into a shadow", combination);
        cr_expect(vmcs02(sim, NVMX_F_GUEST_RFLAGS) & IF, "combination %#x: interrupt without IF", combination);
        cr_expect(activity < 2, "combination %#x: interrupt into shutdown", combination);
    } else {
        cr_expect_eq(blocking & 2, 0, "combination %#x: NMI into a shadow", combination);
        cr_expect(!(blocking & 8) || !(pin & PIN_VIRTUAL_NMIS), "combination %#x: NMI while NMIs are blocked",
                  combination);
    }
}

static void one_combination(unsigned int combination) {
    static const uint32_t pins[] = {0, PIN_EXTERNAL_INTERRUPT, PIN_NMI,
                                    PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMIS};
    static const uint32_t blockings[] = {0, 1, 2, 8};
    struct sim *sim = l2_with(&owns, pins[combination & 3], EXIT_ACKNOWLEDGE);
    struct nvmx_pending pending = {
        .interrupt = combination >> 8 & 1, .nmi = combination >> 9 & 1, .init = combination >> 10 & 1};
    uint32_t number = sim->selected;

    sim_set(sim, number, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, blockings[combination >> 2 & 3]);
    sim_set(sim, number, NVMX_F_GUEST_RFLAGS, combination >> 4 & 1 ? IF | 2 : 2);
    sim_set(sim, number, NVMX_F_GUEST_ACTIVITY_STATE, combination >> 5 & 3);
    for (unsigned int rounds = 0; rounds < 6; rounds++) {
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER, "combination %#x", combination);
        pending.interrupt = pending.interrupt && sim->vectors_next == 0;
        if (!l2_still(sim)) {
            resume(sim);
            continue;
        }
        expect_enterable(sim, combination);
        /* L2 goes on until nothing is blocked any more. */
        sim_set(sim, number, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
        sim_set(sim, number, NVMX_F_GUEST_RFLAGS, IF | 2);
        sim_set(sim, number, NVMX_F_GUEST_ACTIVITY_STATE, 0);
        uint32_t reason = primary_asks(sim) & PROC_NMI_WINDOW         ? NVMX_EXIT_NMI_WINDOW
                          : primary_asks(sim) & PROC_INTERRUPT_WINDOW ? NVMX_EXIT_INTERRUPT_WINDOW
                                                                      : NVMX_EXIT_PREEMPTION_TIMER;
        if (reason != NVMX_EXIT_PREEMPTION_TIMER || (vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & PIN_PREEMPTION_TIMER))
            cr_assert_eq(sim_exit(sim, reason, 0, 0, 0), NVMX_ENTER, "combination %#x", combination);
        else
            sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0);
    }
    cr_expect_not(pending.nmi || pending.init || pending.interrupt, "combination %#x: NMI %d INIT %d interrupt %d left",
                  combination, pending.nmi, pending.init, pending.interrupt);
    cr_expect_eq(primary_asks(sim), 0, "combination %#x", combination);
    sim_free(sim);
}

Test(enter, all_combinations) {
    for (unsigned int combination = 0; combination < 0x800; combination++)
        if ((combination >> 5 & 3) == 0 || (combination & 0x1c) == 0)
            one_combination(combination);
}
