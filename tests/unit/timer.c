/* SPDX-License-Identifier: MIT */
/* The VMX-preemption timer by the host's deadline, on a processor that has none (SDM 28.5.1). */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#define RATE  5u /* the timer counts at TSC bit 5 */
#define START UINT64_C(1000000)
#define NONE  UINT64_MAX

static struct nvmx_caps without_timer(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PINBASED] &= ~(UINT64_C(1) << 38);
    machine.msr[NVMX_CAP_TRUE_PINBASED] &= ~(UINT64_C(1) << 38);
    machine.msr[NVMX_CAP_EXIT] &= ~(UINT64_C(1) << 54);
    machine.msr[NVMX_CAP_TRUE_EXIT] &= ~(UINT64_C(1) << 54);
    machine.msr[NVMX_CAP_MISC] |= RATE;
    return machine;
}

static struct sim *with_deadline(uint32_t value, bool save) {
    struct nvmx_caps machine = without_timer();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine, .deadline = true, .external_interrupts = true});
    sim->tsc = START;
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER | PIN_EXTERNAL_INTERRUPT);
    if (save)
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
    l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, value);
    return sim;
}

static bool timer_offered(struct sim *sim) {
    const struct nvmx_caps *l1 = nvmx_l1_caps(sim->vm);
    bool timer = (nvmx_caps_may_be_1(l1, NVMX_CAP_PINBASED) & PIN_PREEMPTION_TIMER) != 0;
    cr_expect_eq((nvmx_caps_may_be_1(l1, NVMX_CAP_EXIT) & EXIT_SAVE_TIMER) != 0, timer);
    return timer;
}

/* Where the processor has none, it is offered if the host keeps deadlines; a real one needs no help. */
Test(timer, offered_by_processor_or_deadline) {
    struct nvmx_caps machine = without_timer();
    for (unsigned int real = 0; real < 2; real++)
        for (unsigned int deadline = 0; deadline < 2; deadline++) {
            struct sim *sim = sim_new(&(struct sim_options){.machine = real ? NULL : &machine, .deadline = deadline});
            cr_expect_eq(timer_offered(sim), real || deadline, "real %u, deadline %u", real, deadline);
            sim_free(sim);
        }
    struct sim *sim = with_deadline(100, true);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & PIN_PREEMPTION_TIMER, 0, "not the processor's");
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) & EXIT_SAVE_TIMER, 0);
    sim_free(sim);
    sim = l1_ready(&(struct sim_options){.deadline = true});
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    launch(sim);
    cr_expect_eq(sim->count[SIM_DEADLINE], 0, "a real timer");
    sim_free(sim);
}

/* What nvmx_counts says of each callback that lib/ept has no part in is what the host counted. */
Test(timer, calls_are_counted_by_callback) {
    static const uint8_t shared_with_ept[] = {SIM_MAP_PAGE, SIM_UNMAP_PAGE, SIM_EPT01_LOOKUP, SIM_PAGE_ALLOC, SIM_PAGE_FREE, SIM_PAGE_POINTER, SIM_TLB_FLUSH};
    static const uint8_t must_occur[] = {SIM_ACK_INTERRUPT, SIM_SPECULATION_BARRIER, SIM_TRACE, SIM_TSC, SIM_DEADLINE, SIM_VMCS_READ};
    struct sim *sim = with_deadline(100, true);
    const uint64_t *counted = nvmx_counts(sim->vcpu)->callback;
    struct nvmx_pending pending = {.interrupt = true};
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE);
    launch(sim);
    sim->vectors[sim->vectors_count++] = 0x40;
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    resume(sim);
    l2_leaves(sim);
    for (unsigned int i = 0; i < SIM_CALLS; i++)
        if (memchr(shared_with_ept, (int)i, sizeof(shared_with_ept)) == NULL)
            cr_expect_eq(counted[i], sim->count[i], "callback %u: %lu, the host counted %lu", i, counted[i], sim->count[i]);
    for (unsigned int i = 0; i < COUNT(must_occur); i++)
        cr_expect_neq(counted[must_occur[i]], 0, "callback %u", must_occur[i]);
    sim_free(sim);
    sim = l1_ready(&(struct sim_options){.host_composes = true});
    launch(sim);
    cr_expect_neq(sim->count[SIM_EPT02_ROOT], 0);
    cr_expect_eq(nvmx_counts(sim->vcpu)->callback[SIM_EPT02_ROOT], sim->count[SIM_EPT02_ROOT]);
    sim_free(sim);
}

Test(timer, both_callbacks_or_neither) {
    for (unsigned int which = 0; which < 2; which++) {
        struct sim *sim = sim_new(&(struct sim_options){.deadline = true});
        struct nvmx_host host = sim->host;
        struct nvmx_vm_config config = {.size = sizeof(config), .ctx = &sim->vm_context, .machine = sim->machine, .expose = true};
        struct nvmx_vm *vm;
        void *memory = malloc(nvmx_vm_size());
        if (which)
            host.tsc = NULL;
        else
            host.deadline = NULL;
        cr_expect_eq(nvmx_vm_init(memory, nvmx_vm_size(), &host, &config, &vm), NVMX_E_INVALID);
        free(memory);
        sim_free(sim);
    }
}

/* It counts TSC >> 5, over exits that L1 does not see, and is over at 0. */
Test(timer, exits_when_it_is_over) {
    for (unsigned int save = 0; save < 2; save++) {
        struct sim *sim = with_deadline(100, save);
        launch(sim);
        cr_expect_eq(sim->deadline, START + (100u << RATE));
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        sim->tsc = START + (100u << RATE) - 1;
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "one tick is missing");
        cr_expect_eq(sim->deadline, START + (100u << RATE), "it still stands");
        sim->tsc++;
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), save ? 0 : 100);
        cr_expect_eq(sim->deadline, NONE);
        sim_free(sim);
    }
}

Test(timer, zero_exits_before_the_first_instruction) {
    struct sim *sim = with_deadline(0, false);
    launch(sim);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
    sim_free(sim);
}

/* The largest value, late in the life of the TSC, does not wrap around. */
Test(timer, far_deadlines) {
    struct sim *sim = with_deadline(UINT32_MAX, true);
    sim->tsc = UINT64_MAX - 1000;
    launch(sim);
    cr_expect_eq(sim->deadline, UINT64_MAX - 1);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    sim_free(sim);
}

/* The remainder survives an exit, by "save VMX-preemption timer value", and the next entry goes on with it. */
Test(timer, remainder_survives_an_exit) {
    for (unsigned int save = 0; save < 2; save++) {
        struct sim *sim = with_deadline(100, save);
        launch(sim);
        sim->tsc += 40u << RATE;
        l2_leaves(sim);
        cr_expect_eq(sim->deadline, NONE, "L1 runs");
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), save ? 60 : 100);
        sim->tsc += 1000;
        resume(sim);
        cr_expect_eq(sim->deadline, sim->tsc + ((save ? 60u : 100u) << RATE));
        sim_free(sim);
    }
}

/* And it survives saving and restoring the nested state. */
Test(timer, remainder_survives_saving) {
    for (unsigned int whole = 0; whole < 2; whole++) {
        struct sim *sim = with_deadline(100, true);
        launch(sim);
        sim->tsc += 40u << RATE;
        sim->deadline = NONE;
        sim_shake(sim, whole);
        cr_expect_eq(sim->deadline, sim->tsc + (60u << RATE));
        sim->tsc += 60u << RATE;
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
        sim_free(sim);
    }
}

/* One that was over when the state was saved ends L2 where L2 was to go on. */
Test(timer, over_before_saving) {
    for (unsigned int whole = 0; whole < 2; whole++) {
        struct sim *sim = with_deadline(100, true);
        launch(sim);
        sim->tsc += 100u << RATE;
        sim_shake(sim, whole);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 0);
        sim_free(sim);
    }
}

/* SDM 28.2: above interrupts, and not while L2 waits for a SIPI. */
Test(timer, its_place_among_events) {
    struct sim *sim = with_deadline(0, false);
    struct nvmx_pending pending = {.interrupt = true, .nmi = true};
    launch(sim);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_PREEMPTION_TIMER);
    cr_expect(pending.nmi && sim->vectors_next == 0);
    resume(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, 3);
    pending = (struct nvmx_pending){0};
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    sim_free(sim);
}

/* An entry that hardware refuses has not begun to count. */
Test(timer, refused_entry) {
    struct sim *sim = with_deadline(100, true);
    launch(sim);
    sim->tsc += 40u << RATE;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_INVALID_GUEST_STATE | NVMX_EXIT_ENTRY_FAILURE, 0, 0, 0), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 100);
    cr_expect_eq(sim->deadline, NONE);
    sim_free(sim);
}
