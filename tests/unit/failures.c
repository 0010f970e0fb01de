/* SPDX-License-Identifier: MIT */
/*
 * Every callback may fail at any call: a clean refusal, nothing leaks, and L1 can go on.
 *
 * A scenario from VMXON to VMXOFF is run once to count the callbacks that can fail, then once for each of them. The simulated host aborts on a
 * broken contract and on leaks; the rest is checked here.
 */
#include <criterion/criterion.h>

#include "ept/ept.h"
#include "sim.h"
#include "vcpu.h"

#define CPUID 10u
#define EPT_VIOLATION 48u
#define EPT_MISCONFIGURATION 49u
#define HLT 12u

static const struct sim_options configurations[] = {
    {.vmcs02_slots = 1},
    {.shadow = true},
    {.shadow = true, .shadows = true, .learns_writes = true, .watches_msrs = true},
    {.translate = true, .queue_exception = true, .no_vpid = true},
    {.host_composes = true, .external_interrupts = true},
};
#define CONFIGURATIONS (sizeof(configurations) / sizeof(configurations[0]))

/* One step of L1 or L2. False: the vCPU stopped. */
static bool alive(struct sim *sim) {
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE;
}

static bool l2_exits(struct sim *sim, uint32_t reason) {
    if (nvmx_mode(sim->vcpu) != NVMX_MODE_L2)
        return alive(sim);
    struct nvmx_l2_exit_info info = {.reason = reason, .instruction_length = reason == EPT_VIOLATION ? 0 : 2};
    if (reason == EPT_VIOLATION) {
        info.qualification = 0x181; /* a read, of a linear address, nothing permitted */
        info.guest_physical_address = 0x5000;
        info.guest_linear_address = 0x5000;
    }
    return sim_exit_info(sim, &info) != NVMX_STOP && alive(sim);
}

static bool l1_reads_and_resumes(struct sim *sim) {
    uint64_t value;
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        return true;
    return sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &value) != SIM_STOPPED &&
           sim_vmread(sim, NVMX_VMCS_GUEST_CS_BASE, &value) != SIM_STOPPED &&
           sim_vmwrite(sim, NVMX_VMCS_GUEST_RIP, 0x1100) != SIM_STOPPED && sim_vmresume(sim) != SIM_STOPPED;
}

/* Leave L2 if it runs, so that L1 can execute instructions. */
static bool to_l1(struct sim *sim) {
    for (unsigned int tries = 0; tries < 3 && alive(sim) && nvmx_mode(sim->vcpu) == NVMX_MODE_L2; tries++)
        l2_exits(sim, CPUID);
    return alive(sim);
}

static bool second_vmcs(struct sim *sim) {
    return to_l1(sim) && sim_vmclear(sim, SIM_L1_VMCS_B) != SIM_STOPPED && sim_vmptrld(sim, SIM_L1_VMCS_B) != SIM_STOPPED &&
           sim_vmcs12(sim) != UINT32_MAX && alive(sim) && sim_vmlaunch(sim) != SIM_STOPPED && l2_exits(sim, CPUID) && to_l1(sim) &&
           sim_vmptrld(sim, SIM_L1_VMCS_A) != SIM_STOPPED && sim_vmresume(sim) != SIM_STOPPED && l2_exits(sim, CPUID) && to_l1(sim);
}

/* All of it, whatever the answers are. False: the vCPU stopped on the way. */
static bool scenario(struct sim *sim) {
    sim_launch(sim);
    return alive(sim) && l2_exits(sim, CPUID) && l1_reads_and_resumes(sim) && l2_exits(sim, EPT_VIOLATION) &&
           l2_exits(sim, HLT) && l1_reads_and_resumes(sim) && to_l1(sim) && second_vmcs(sim) &&
           sim_invept(sim, 1, SIM_L1_EPT12 | 0x1e, 0) != SIM_STOPPED && sim_invvpid(sim, 1, 7, 0) != SIM_STOPPED &&
           sim_vmclear(sim, SIM_L1_VMCS_A) != SIM_STOPPED && sim_vmxoff(sim) != SIM_STOPPED;
}

/* With nothing failing any more L1 must get through. */
static void goes_on(struct sim *sim, const char *after, uint64_t k) {
    sim->fail = (struct sim_fail){0};
    cr_assert(to_l1(sim), "%s %lu: L2 can't be left", after, k);
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT)
        cr_assert(sim_vmxoff(sim) == SIM_SUCCEED, "%s %lu: VMXOFF", after, k);
    enum sim_outcome outcome = sim_launch(sim);
    cr_assert(outcome == SIM_L2, "%s %lu: the second VMLAUNCH: %s", after, k, sim_outcome_text(outcome));
    cr_assert(l2_exits(sim, CPUID) && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT, "%s %lu: exit of L2", after, k);
    uint64_t reason = 0;
    cr_assert(sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &reason) == SIM_SUCCEED && reason == CPUID, "%s %lu: exit reason", after, k);
}

/* The vCPU may stop only because of the host, and can be started anew like a processor after RESET. */
static void stopped_cleanly(struct sim *sim, const char *after, uint64_t k) {
    cr_assert(nvmx_stop_reason(sim->vcpu) == NVMX_STOP_HOST || nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT,
              "%s %lu: stopped by %d", after, k, (int)nvmx_stop_reason(sim->vcpu));
    sim->fail = (struct sim_fail){0};
    nvmx_vcpu_reset(sim->vcpu);
    sim->selected = NVMX_VMCS01;
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
}

static uint64_t callbacks_of_the_scenario(const struct sim_options *options) {
    struct sim *sim = sim_new(options);
    sim->calls = 0;
    cr_assert(scenario(sim), "the scenario stops without a failure");
    cr_assert(nvmx_mode(sim->vcpu) == NVMX_MODE_OFF, "the scenario does not end outside VMX operation");
    uint64_t calls = sim->calls;
    sim_free(sim);
    return calls;
}

/*
 * A vCPU may stop only where nothing else is left: the real VMCSs can't be read, written or selected (then L1 can't even be given a fault).
 */
static bool may_stop(enum sim_call failed) {
    return failed >= SIM_VMCS_SELECT && failed <= SIM_VMCS_WRITE;
}

/* One run with failures. Returns whether the vCPU had to stop. */
static bool run(const struct sim_options *options, struct sim_fail fail, const char *what, uint64_t k) {
    struct sim *sim = sim_new(options);
    sim->calls = 0;
    sim->fail = fail;
    bool stopped = !scenario(sim);
    cr_assert(sim->failed > 0 || fail.one_in, "%s %lu: nothing failed", what, k);
    if (stopped && fail.at)
        cr_assert(may_stop(sim->last_failed), "%s %lu stops the vCPU, callback number %d", what, k, (int)sim->last_failed);
    if (stopped)
        stopped_cleanly(sim, what, k);
    goes_on(sim, what, k);
    sim_free(sim);
    return stopped;
}

static void each_callback(size_t configuration) {
    const struct sim_options *options = &configurations[configuration];
    uint64_t calls = callbacks_of_the_scenario(options), stops = 0;
    cr_assert(calls > 100, "only %lu callbacks", calls);
    for (uint64_t k = 1; k <= calls; k++)
        stops += run(options, (struct sim_fail){.at = k}, "failing callback", k);
    cr_log_info("configuration %zu: %lu callbacks, %lu of them stop the vCPU", configuration, calls, stops);
}

Test(failures, each_callback_alone_small_cache) {
    each_callback(0);
}

Test(failures, each_callback_alone_with_shadowing) {
    each_callback(1);
}

Test(failures, each_callback_alone_where_the_host_translates) {
    each_callback(2);
}

Test(failures, each_callback_alone_where_the_host_composes) {
    each_callback(3);
}

Test(failures, all_callbacks_from_one_on) {
    for (size_t i = 0; i < CONFIGURATIONS; i++) {
        uint64_t calls = callbacks_of_the_scenario(&configurations[i]);
        for (uint64_t k = 1; k <= calls; k += 7)
            run(&configurations[i], (struct sim_fail){.from = k}, "failing from callback", k);
    }
}

Test(failures, random_callbacks) {
    for (uint64_t seed = 1; seed <= 200; seed++)
        run(&configurations[seed % CONFIGURATIONS], (struct sim_fail){.one_in = 2 + (uint32_t)(seed % 40), .seed = seed},
            "random failures, seed", seed);
}

/* While VM and vCPU are made: a status, and nothing is left. */
/* With room for one vmcs12 the current one makes way before the other can be shown to L1: it comes back if that fails. */
static void refused_vmptrld(bool shadows) {
    unsigned int refused = 0;
    for (uint64_t at = 1, failed = 1; failed != 0; at++) {
        struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .shadows = shadows, .vmcs02_slots = 1});
        uint64_t pointer = 0, value = 0;
        cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
        cr_assert_eq(sim_vmwrite(sim, NVMX_VMCS_GUEST_RIP, 0x1234), SIM_SUCCEED);
        sim->calls = 0;
        sim->fail.at = at;
        enum sim_outcome outcome = sim_vmptrld(sim, SIM_L1_VMCS_B);
        failed = sim->failed;
        sim->fail.at = 0;
        if (outcome == SIM_FAIL_VALID || outcome == SIM_FAIL_INVALID || outcome == SIM_AGAIN) {
            cr_assert_eq(sim_vmptrst(sim, &pointer), SIM_SUCCEED);
            cr_expect_eq(pointer, SIM_L1_VMCS_A, "callback %u: the current-VMCS pointer is %#llx", (unsigned int)at, (unsigned long long)pointer);
            cr_expect(sim_vmread(sim, NVMX_VMCS_GUEST_RIP, &value) == SIM_SUCCEED && value == 0x1234, "callback %u: RIP is %#llx", (unsigned int)at,
                      (unsigned long long)value);
            refused++;
        }
        sim_free(sim);
    }
    cr_expect(refused > 2);
}

Test(failures, refused_vmptrld_keeps_the_current_vmcs) {
    refused_vmptrld(false);
    refused_vmptrld(true);
}

/* SDM 27.11.1: what did not become current is not active. L1 may use its region for something else, and nobody writes there. */
static void region_of_refused_vmptrld(bool shadows, uint16_t slots) {
    const uint64_t at_a_field = SIM_L1_VMCS_B + 64 + 8 * NVMX_F_GUEST_RIP;
    unsigned int refused = 0;
    for (uint64_t at = 1, failed = 1; failed != 0; at++) {
        struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .shadows = shadows, .vmcs02_slots = slots});
        cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
        sim->calls = 0;
        sim->fail.at = at;
        enum sim_outcome outcome = sim_vmptrld(sim, SIM_L1_VMCS_B);
        failed = sim->failed;
        sim->fail.at = 0;
        if (outcome == SIM_FAIL_VALID) {
            sim_write64(sim, at_a_field, 0x1234567890abcdef);
            cr_assert_eq(sim_vmxoff(sim), SIM_SUCCEED);
            cr_expect_eq(sim_read64(sim, at_a_field), 0x1234567890abcdef, "callback %u, %u slots", (unsigned int)at, slots);
            refused++;
        }
        sim_free(sim);
    }
    cr_expect(refused > 1);
}

Test(failures, refused_vmptrld_leaves_no_region_active) {
    for (uint16_t slots = 1; slots < 4; slots++) {
        region_of_refused_vmptrld(false, slots);
        region_of_refused_vmptrld(true, slots);
    }
}

Test(failures, making_a_vm_fails_cleanly) {
    for (uint64_t k = 1; k <= 20; k++) {
        struct sim *sim = sim_new(&(struct sim_options){.fail = {.at = k}});
        cr_expect((sim->status == NVMX_OK) == (sim->failed == 0), "callback %lu failed, status %d", k, (int)sim->status);
        sim_free(sim);
    }
}

/* An exhausted page allocator is an ordinary condition: L1 is refused, and goes on when there are pages again. */
Test(failures, exhausted_pages_are_a_refusal) {
    for (uint32_t pages = 3; pages < 20; pages++) {
        struct sim *sim = sim_new(NULL);
        if (sim->pages_used < pages)
            sim->pages_max = pages;
        else
            sim->pages_max = sim->pages_used;
        bool stopped = !scenario(sim);
        sim->pages_max = SIM_PAGES;
        if (stopped)
            stopped_cleanly(sim, "pages", pages);
        goes_on(sim, "pages", pages);
        sim_free(sim);
    }
}

/* Where ept02 can get no page, or ept01_lookup fails, the host hears of it, makes room and enters: L2 touches the page again (nvmx_host_fault_gpa1). */
static void expect_mended(uint32_t reason, bool in_lookup) {
    struct sim *sim = sim_new(NULL);
    struct nvmx_l2_exit_info touch = {.reason = EPT_VIOLATION,
                                      .qualification = 0x181,
                                      .guest_physical_address = 0x5000,
                                      .idt_vectoring_info = 0x80000030};
    cr_assert_eq(sim_launch(sim), SIM_L2);
    touch.reason = reason;
    sim->pages_max = in_lookup ? SIM_PAGES : sim->pages_used;
    sim->calls = 0;
    if (in_lookup)
        sim->range[sim->ranges - 1].hpa |= 0x800; /* an answer that can't be: ept01's page is not aligned */
    enum nvmx_next next = sim_exit_info(sim, &touch);
    cr_expect_eq(next, NVMX_HOST, "%u: %d, stop %d", reason, (int)next, (int)nvmx_stop_reason(sim->vcpu));
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), NVMX_NO_ADDRESS);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_assert_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_NONE);
    cr_expect_eq(sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000030, "the event in flight is lost");
    sim->pages_max = SIM_PAGES;
    if (in_lookup)
        sim->range[sim->ranges - 1].hpa &= ~UINT64_C(0x800);
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    touch.reason = EPT_VIOLATION;
    cr_expect_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    sim_free(sim);
}

Test(failures, no_page_for_ept02_is_the_hosts_to_mend) {
    expect_mended(EPT_VIOLATION, false);
    expect_mended(EPT_VIOLATION, true);
    expect_mended(EPT_MISCONFIGURATION, false);
}

/* Of a misconfiguration that comes again, whatever the host does, the vCPU stops: ept02 has none. */
Test(failures, misconfiguration_that_nothing_mends_stops) {
    struct sim *sim = sim_new(NULL);
    struct nvmx_l2_exit_info touch = {.reason = EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = 0x5000};

    cr_assert_eq(sim_launch(sim), SIM_L2);
    cr_assert_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    touch.reason = EPT_MISCONFIGURATION;
    touch.qualification = 0;
    cr_expect_eq(sim_exit_info(sim, &touch), NVMX_STOP);
    cr_expect_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_HOST);
    cr_expect_eq(nvmx_stop_status(sim->vcpu), NVMX_E_HOST);
    sim_free(sim);
}

/* -- room that others hold for a moment -------------------------------------------------------------------------------------------- */

#define OTHER_EPT12 0x38000u /* a second root for the same tables */

/* VMRESUME while another processor is in the middle of an operation on ept02: what is unlinked can't be freed. */
static enum sim_outcome resume_beside_another(struct sim *sim) {
    struct ept_op another;

    ept_begin(&another, sim->vm->ept, sim, NULL);
    enum sim_outcome outcome = sim_vmresume(sim);
    ept_end(&another);
    return outcome;
}

/* L1's VM entry finds no room for a root: L1 executes it again, as L2 does an access. It got VMfail, which no hypervisor expects. */
Test(failures, room_that_another_processor_holds_is_waited_for) {
    static const struct sim_options tight = {.ept_page_budget = 1 + 2 * 4};
    struct nvmx_l2_exit_info touch = {.reason = EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = 0x5000};
    struct sim *sim = sim_new(&tight);
    uint64_t eptp;

    sim_write64(sim, OTHER_EPT12, sim_read64(sim, SIM_L1_EPT12));
    cr_assert_eq(sim_launch(sim), SIM_L2);
    cr_assert_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    cr_assert_eq(sim_exit(sim, CPUID, 0, 0, 2), NVMX_ENTER);
    cr_assert_eq(sim_vmread(sim, NVMX_VMCS_EPT_POINTER, &eptp), SIM_SUCCEED);
    cr_assert_eq(sim_vmwrite(sim, NVMX_VMCS_EPT_POINTER, OTHER_EPT12 | (eptp & 0xfff)), SIM_SUCCEED);
    cr_assert_eq(resume_beside_another(sim), SIM_AGAIN);
    cr_expect_eq(sim_vmresume(sim), SIM_L2);
    sim_free(sim);
}

/* Where nobody else is at work there is no room, and L1 is told. */
Test(failures, room_that_nobody_holds_is_not_waited_for) {
    static const struct sim_options none = {.ept_page_budget = 2};
    struct sim *sim = sim_new(&none);

    cr_expect_eq(sim_launch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 7);
    sim_free(sim);
}
