/* SPDX-License-Identifier: MIT */
/* Events: injected by L1 into L2, in flight when L2 exits, and those that the host has for L1 while L2 runs
 * (nvmx_enter). */
#include <nvmx/state.h>
#include <stdlib.h>

#include "machine.h"

#define EXTERNAL_INTERRUPT 1u << 0
#define ERROR_CODE_BIT     0x800u

/* -- injection by L1
 * --------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t info, error_code, length;
} injections[] = {
    {0x80000030, 0, 0},      /* external interrupt */
    {0x80000202, 0, 0},      /* NMI */
    {0x80000306, 0, 0},      /* #UD */
    {0x80000b0d, 0x1234, 0}, /* #GP with its error code */
    {0x80000b0e, 0x6, 0},    /* #PF */
    {0x80000480, 0, 2},      /* INT 80H */
    {0x80000501, 0, 1},      /* INT1 */
    {0x80000603, 0, 1},      /* INT3 */
    {0x80000700, 0, 0},      /* pending MTF */
};

Test(events, each_type_is_injected_once) {
    for (size_t i = 0; i < COUNT(injections); i++) {
        struct sim *sim = l1_ready(NULL);
        l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x202);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, injections[i].info);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, injections[i].error_code);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH, injections[i].length);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), injections[i].info, "row %zu", i);
        if (injections[i].info & ERROR_CODE_BIT)
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), injections[i].error_code, "row %zu", i);
        if (injections[i].length)
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH), injections[i].length, "row %zu", i);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO), injections[i].info & 0x7fffffff, "row %zu",
                     i);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0, "row %zu: not again", i);
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, injections[i].info);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), injections[i].info, "row %zu: the same again", i);
        sim_free(sim);
    }
}

/* -- the monitor trap flag
 * -------------------------------------------------------------------------------------------------------------------
 */

#define PENDING_TRAP 0x80000700u

/* SDM 28.5.2: L2 leaves after an instruction that the host carries out; after none that it lets L2 do again, and hardware sees to what it injects. */
Test(events, the_hosts_instructions_are_steps_of_the_monitor_trap_flag) {
    static const struct {
        const char *what;
        bool traps;
        uint32_t reason;
        uint64_t rip, injects, event;
    } rows[] = {
        {"carried out", true, NVMX_EXIT_WBINVD, 0x1002, 0, PENDING_TRAP},
        {"MSR access", true, NVMX_EXIT_RDMSR, 0x1002, 0, PENDING_TRAP},
        {"that L1 has no control for", true, NVMX_EXIT_ENQCMD_PASID, 0x1005, 0, PENDING_TRAP},
        {"unknown", true, 99, 0x1003, 0, PENDING_TRAP},
        {"again", true, NVMX_EXIT_WBINVD, 0x1000, 0, 0},
        {"fault", true, NVMX_EXIT_RDMSR, 0x1000, 0x80000b0d, 0x80000b0d},
        {"and an interrupt", true, NVMX_EXIT_WBINVD, 0x1002, 0x80000030, 0x80000030},
        {"no flag", false, NVMX_EXIT_WBINVD, 0x1002, 0, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        sim->regs.gpr[NVMX_RCX] = 0x3a;
        host_gives_bitmaps(sim);
        launch(sim);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_HOST, "as before, without the flag");
        cr_assert_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
        l2_leaves(sim);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, rows[i].traps ? PROC_MONITOR_TRAP : 0);
        l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1000);
        resume(sim);
        sim->regs.gpr[NVMX_RCX] = 0x3a;
        cr_assert_eq(sim_exit(sim, rows[i].reason, 0, 0, 2), NVMX_HOST, "%s", rows[i].what);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, rows[i].rip);
        sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, rows[i].injects);
        cr_assert_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), rows[i].event, "%s: %#lx", rows[i].what,
                     vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO));
        sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, 0x1010);
        cr_assert_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0, "%s: once", rows[i].what);
        sim_free(sim);
    }
}

/* What the host gives L1 as an exit of its own is no step. */
Test(events, no_step_outlives_an_exit) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_MONITOR_TRAP);
    launch(sim);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_WBINVD, 0, 0, 2), NVMX_HOST);
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_TRIPLE_FAULT};
    cr_assert_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
    cr_assert_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x2000);
    resume(sim);
    cr_assert_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0);
    sim_free(sim);
}

/* -- an NMI while NMIs are blocked
 * --------------------------------------------------------------------------------------------------- */

#define NMI             0x80000202u
#define BLOCKING_BY_NMI 8u

/* L1 is about to inject an NMI while L2's NMIs are blocked; the host uses virtual NMIs. */
static struct sim *blocked_nmi(uint32_t pin_of_l1) {
    static const struct sim_options owns = {.external_interrupts = true};
    struct sim *sim = l1_ready(&owns);
    cr_assert(sim_get(sim, NVMX_VMCS01, NVMX_F_PIN_BASED_CONTROLS) & PIN_VIRTUAL_NMIS);
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, pin_of_l1);
    l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NMI);
    return sim;
}

/* SDM 29.3.1.5 forbids it with virtual NMIs alone; where they are the host's L1 must not notice. The injection blocks NMIs anyhow (29.6.1). */
Test(events, nmi_while_nmis_are_blocked) {
    struct sim *sim = blocked_nmi(0);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), NMI);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), 0, "hardware would refuse vmcs02");
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    /* Once more, in a vmcs12 that ran, and nothing written but the event. */
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NMI);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), 0);
    sim_free(sim);

    sim = blocked_nmi(PIN_NMI | PIN_VIRTUAL_NMIS);
    cr_expect_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(nvmx_last_check(sim->vcpu), NVMX_C_29_3_1_5_17);
    sim_free(sim);
}

/* An entry that does not come about leaves vmcs12 as it is, and the next one finds NMIs blocked. */
Test(events, nmi_that_is_not_injected_unblocks_nothing) {
    static const uint64_t fs_base[] = {0xc0000100, 0};
    struct sim *sim = blocked_nmi(0);
    sim_write(sim, SIM_L1_MSR_LISTS, fs_base, sizeof(fs_base));
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    sim_free(sim);
}

/* The same where the host fails while vmcs02 is written, which may be half done (nvmx/host.h), and L1 takes the event back. */
Test(events, nmi_that_was_half_written_unblocks_nothing) {
    unsigned int half_written = 0;
    for (uint64_t k = 1, failed = 1; failed != 0; k++) {
        struct sim *sim = blocked_nmi(0);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
        launch(sim);
        const uint32_t l2 = sim->selected;
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NMI);
        sim->calls = sim->failed = 0;
        sim->fail.at = k;
        const enum sim_outcome outcome = sim_vmresume(sim);
        failed = sim->failed;
        sim->fail.at = 0;
        if (failed != 0 && sim->last_failed == SIM_VMCS_WRITE && outcome == SIM_FAIL_VALID) {
            half_written++;
            sim_set(sim, l2, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
            l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
        }
        sim_free(sim);
    }
    cr_expect_eq(half_written, 1);
}

/* Without virtual NMIs the processor takes vmcs02 as it is. */
Test(events, blocking_stays_where_nobody_has_virtual_nmis) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NMI);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    sim_free(sim);
}

/* Saved where the host has no virtual NMIs, restored where it has: as if L1 injected it there. A save says the same again. */
Test(events, nmi_while_nmis_are_blocked_goes_to_a_host_with_virtual_nmis) {
    struct sim *sim = blocked_nmi(0);
    uint64_t pin = sim_get(sim, NVMX_VMCS01, NVMX_F_PIN_BASED_CONTROLS);
    sim_set(sim, NVMX_VMCS01, NVMX_F_PIN_BASED_CONTROLS, pin & ~(uint64_t)(PIN_NMI | PIN_VIRTUAL_NMIS));
    nvmx_vmcs01_changed(sim->vcpu);
    launch(sim);
    cr_assert_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    for (unsigned int round = 0; round < 2; round++) {
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        sim_set(sim, NVMX_VMCS01, NVMX_F_PIN_BASED_CONTROLS, pin);
        cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        free(blob);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), NMI);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), 0, "round %u: hardware would refuse vmcs02", round);
    }
    sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE), BLOCKING_BY_NMI);
    sim_free(sim);
}

/* -- events in flight
 * ---------------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t info, error_code, length;
} in_flight[] = {
    {0x80000030, 0, 0}, {0x80000202, 0, 0}, {0x80000b0d, 0x1234, 0}, {0x80000306, 0, 0},
    {0x80000480, 0, 2}, {0x80000501, 0, 1}, {0x80000603, 0, 1},
};

static struct nvmx_l2_exit_info violation_during(size_t i) {
    return (struct nvmx_l2_exit_info){
        .reason = NVMX_EXIT_EPT_VIOLATION,
        .qualification = 0x181,
        .guest_physical_address = 0x5000,
        .guest_linear_address = 0x5000,
        .idt_vectoring_info = in_flight[i].info,
        .idt_vectoring_error_code = in_flight[i].error_code,
        .instruction_length = in_flight[i].length,
    };
}

static void expect_requeued(const struct sim *sim, size_t i) {
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), in_flight[i].info, "event %zu", i);
    if (in_flight[i].info & ERROR_CODE_BIT)
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), in_flight[i].error_code, "event %zu", i);
    if (in_flight[i].length)
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH), in_flight[i].length, "event %zu", i);
}

/* The exit is dealt with by the library or left to the host: the event is injected again. */
Test(events, in_flight_is_queued_again) {
    for (size_t i = 0; i < COUNT(in_flight); i++) {
        for (unsigned int to_host = 0; to_host < 2; to_host++) {
            struct sim *sim = l2_running(NULL);
            if (to_host) {
                sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
                nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 0x1000);
            }
            struct nvmx_l2_exit_info info = violation_during(i);
            sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 8);
            cr_assert_eq(sim_exit_info(sim, &info), to_host ? NVMX_HOST : NVMX_ENTER);
            expect_requeued(sim, i);
            bool is_nmi = in_flight[i].info == 0x80000202;
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), is_nmi ? 0 : 8,
                         "an NMI blocks NMIs when it is delivered");
            sim_free(sim);
        }
    }
}

/* The exit is L1's: so is the event. */
Test(events, in_flight_goes_to_l1) {
    for (size_t i = 0; i < COUNT(in_flight); i++) {
        struct sim *sim = l2_running(NULL);
        struct nvmx_l2_exit_info info = violation_during(i);
        sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, 0);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), in_flight[i].info);
        if (in_flight[i].info & ERROR_CODE_BIT)
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_ERROR_CODE), in_flight[i].error_code);
        if (in_flight[i].length)
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), in_flight[i].length);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0, "L1 decides");
        sim_free(sim);
    }
}

/*
 * SDM 30.2.4, 7.15: an exception while an event is delivered. L1 gets both and composes a double fault itself; a host that intercepts the
 * exception finds the event back in vmcs02, and puts in its place what it composes. A double fault or a triple fault that hardware composed is an
 * exit like others.
 */
Test(events, exception_during_delivery) {
    for (unsigned int l1 = 0; l1 < 2; l1++) {
        struct sim *sim = l1_ready(NULL);
        struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_EXCEPTION_OR_NMI,
                                         .interruption_info = 0x80000b0d,
                                         .interruption_error_code = 0x52,
                                         .idt_vectoring_info = 0x80000b0b,
                                         .idt_vectoring_error_code = 0x1234};
        if (l1)
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 13);
        else
            host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << 13);
        launch(sim);
        cr_assert_eq(sim_exit_info(sim, &info), l1 ? NVMX_ENTER : NVMX_HOST);
        if (l1) {
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0x52);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0x80000b0b);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_ERROR_CODE), 0x1234);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0);
        } else {
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0b);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), 0x1234);
            /* Two contributory exceptions: the host makes a double fault of them, and L1 wants those. */
            sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0x80000b08);
            cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b08);
        }
        sim_free(sim);
    }
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 8);
    launch(sim);
    struct nvmx_l2_exit_info fault = {.reason = NVMX_EXIT_EXCEPTION_OR_NMI, .interruption_info = 0x80000b08};
    cr_assert_eq(sim_exit_info(sim, &fault), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b08);
    resume(sim);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_TRIPLE_FAULT, 0, 0, 0), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_TRIPLE_FAULT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0, "SDM 30.2.4: not during delivery");
    sim_free(sim);
}

/* A host that finds the exit to be L1's after all gives it to L1: what was queued again must not be injected behind
 * L1's back. */
Test(events, queued_again_and_then_reflected_by_the_host) {
    struct sim *sim = l2_running(NULL);
    struct nvmx_l2_exit_info info = violation_during(0);
    sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
    nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 0x1000);
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_HOST);
    cr_assert_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0x80000030);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0);
    sim_free(sim);
}

/* SDM 30.2.3, 30.3.4: what was done to L2's blocking of NMIs for the case that it goes on is undone: L1 finds it as hardware's exit would leave it. */
Test(events, blocking_by_nmi_of_what_is_reflected_by_the_host) {
    static const struct {
        uint64_t qualification, blocking;
        uint32_t idt_vectoring;
    } rows[] = {{0x181, 8, 0x80000202}, {0x1181, 0, 0}, {0x181, 8, 0}, {0x181, 0, 0}, {0x1181, 8, 0x80000030}, {0x1181, 0, 0x80000030}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int virtual_nmis = 0; virtual_nmis < 2; virtual_nmis++) {
            struct sim *sim = l1_ready(&(struct sim_options){.host_composes = true, .external_interrupts = true});
            if (virtual_nmis)
                l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMIS);
            launch(sim);
            struct nvmx_l2_exit_info info = violation_during(0);
            info.qualification = rows[i].qualification;
            info.idt_vectoring_info = rows[i].idt_vectoring;
            sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, rows[i].blocking);
            cr_assert_eq(sim_exit_info(sim, &info), NVMX_HOST);
            cr_assert_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE), rows[i].blocking, "row %zu", i);
            cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), virtual_nmis ? 0 : rows[i].blocking, "row %zu", i);
            sim_free(sim);
        }
    }
}

/* SDM 30.2.3: IRET unblocked NMIs and then faulted: blocking is back if L2 executes it again. Not after #DF, not with
 * an event in flight. */
Test(events, unblocking_by_iret) {
    static const struct {
        uint64_t qualification;
        uint32_t idt_vectoring;
        bool blocked;
    } rows[] = {{0x1181, 0, true}, {0x181, 0, false}, {0x1181, 0x80000030, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_running(NULL);
        struct nvmx_l2_exit_info info = violation_during(0);
        info.qualification = rows[i].qualification;
        info.idt_vectoring_info = rows[i].idt_vectoring;
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), rows[i].blocked ? 8 : 0, "row %zu", i);
        sim_free(sim);
    }
    static const struct {
        uint32_t vector;
        bool blocked;
    } exceptions[] = {{13, true}, {8, false}};
    for (size_t i = 0; i < COUNT(exceptions); i++) {
        struct sim *sim = l1_ready(NULL);
        host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << exceptions[i].vector);
        launch(sim);
        struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_EXCEPTION_OR_NMI,
                                         .interruption_info = 0x80001b00 | exceptions[i].vector};
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_HOST);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), exceptions[i].blocked ? 8 : 0, "vector %u",
                     exceptions[i].vector);
        sim_free(sim);
    }
}

/* SDM 30.2.1, 30.2.2: bit 12 is undefined under "NMI exiting" without virtual NMIs, where IRET has no effect on blocking. */
Test(events, nothing_is_said_of_unblocking_without_virtual_nmis) {
    static const struct {
        uint32_t pin;
        bool blocked;
    } rows[] = {{0, true}, {PIN_NMI, false}, {PIN_NMI | PIN_VIRTUAL_NMIS, true}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, rows[i].pin);
        host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << 13);
        launch(sim);
        struct nvmx_l2_exit_info info = violation_during(0);
        info.qualification = 0x1181;
        info.idt_vectoring_info = 0;
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), rows[i].blocked ? 8 : 0, "violation, controls %#x", rows[i].pin);
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
        info = (struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EXCEPTION_OR_NMI, .interruption_info = 0x80001b0d};
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_HOST);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), rows[i].blocked ? 8 : 0, "#GP, controls %#x", rows[i].pin);
        sim_free(sim);
    }
}
