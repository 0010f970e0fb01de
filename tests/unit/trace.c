/* SPDX-License-Identifier: MIT */
/* Trace records: one for every exit, transition and refusal, and what stands in them. */
#include <nvmx/trace.h>
#include <string.h>

#include "machine.h"

static const struct nvmx_trace_record *last(const struct sim *sim) {
    cr_assert(sim->count[SIM_TRACE] > 0 && sim->count[SIM_TRACE] <= SIM_LOG);
    return &sim->trace[sim->count[SIM_TRACE] - 1];
}

static void expect(const struct sim *sim, enum nvmx_trace_event event, uint8_t level, enum nvmx_trace_handler handler,
                   uint32_t reason, uint64_t detail) {
    const struct nvmx_trace_record *r = last(sim);
    cr_expect(r->event == event, "event %u, not %u", r->event, (unsigned)event);
    cr_expect(r->level == level && r->handler == handler, "level %u, handler %u", r->level, r->handler);
    cr_expect(r->reason == reason && r->detail == detail, "reason %u, detail %#lx", r->reason, r->detail);
    cr_expect(r->version == NVMX_TRACE_VERSION && r->number + 1 == sim->count[SIM_TRACE]);
    for (size_t i = 0; i < sizeof(r->reserved); i++)
        cr_expect(r->reserved[i] == 0);
}

Test(trace, what_each_transition_leaves) {
    struct sim *sim = l1_ready(NULL);
    uint64_t value;
    l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 14);
    sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2);
    expect(sim, NVMX_TRACE_EXIT, 1, NVMX_TRACE_BY_HOST, NVMX_EXIT_CPUID, 0);
    sim_vmread(sim, NVMX_VMCS_GUEST_RIP, &value);
    expect(sim, NVMX_TRACE_EXIT, 1, NVMX_TRACE_BY_LIBRARY, NVMX_EXIT_VMREAD, 0);
    cr_expect_eq(last(sim)->vmcs12, SIM_L1_VMCS_A);
    launch(sim);
    expect(sim, NVMX_TRACE_ENTER_L2, 1, NVMX_TRACE_BY_L2, NVMX_EXIT_VMLAUNCH, 0x1000);
    cr_expect(last(sim)->vmwrites > 50 && last(sim)->callbacks > 5);
    sim_exit_info(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EXCEPTION_OR_NMI,
                                                   .interruption_info = 0x80000b0e,
                                                   .qualification = 0x1234});
    expect(sim, NVMX_TRACE_REFLECT, 2, NVMX_TRACE_BY_L1, NVMX_EXIT_EXCEPTION_OR_NMI, 0x1234);
    cr_expect_eq(last(sim)->interruption_info, 0x80000b0e);
    cr_expect(last(sim)->vmreads > 5 && last(sim)->vmwrites > 5, "what the exit loads into vmcs01 is counted with it");
    resume(sim);
    expect(sim, NVMX_TRACE_ENTER_L2, 1, NVMX_TRACE_BY_L2, NVMX_EXIT_VMRESUME, 0x1000);
    sim_exit_info(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION,
                                                   .qualification = 0x181,
                                                   .guest_physical_address = 0x2000});
    expect(sim, NVMX_TRACE_EXIT, 2, NVMX_TRACE_BY_LIBRARY, NVMX_EXIT_EPT_VIOLATION, 0);
    sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT + 5, 0, 0, 0); /* other SMI: the host's */
    expect(sim, NVMX_TRACE_EXIT, 2, NVMX_TRACE_BY_HOST, NVMX_EXIT_EXTERNAL_INTERRUPT + 5, 0);
    sim_free(sim);
}

Test(trace, refused_entries_name_the_rule) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect(sim, NVMX_TRACE_ENTRY_FAIL, 1, NVMX_TRACE_BY_L1, 33, 0);
    cr_expect_eq(last(sim)->check_row, NVMX_C_29_3_1_4_04);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 2);
    l1_writes(sim, NVMX_VMCS_HOST_CR3, UINT64_MAX);
    cr_assert_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim->trace[sim->count[SIM_TRACE] - 1].event, NVMX_TRACE_VMFAIL);
    cr_expect_eq(last(sim)->reason, 8);
    cr_expect_str_eq(nvmx_check_row(last(sim)->check_row)->id, "C-29.2.2-06");
    sim_free(sim);
}

Test(trace, a_fault_of_an_instruction) {
    struct sim *sim = l1_ready(NULL);
    uint64_t rights = vmcs01(sim, NVMX_F_GUEST_SS_ACCESS_RIGHTS);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, rights | 3u << 5); /* CPL 3 */
    cr_assert_eq(sim_vmlaunch(sim), SIM_FAULT);
    cr_expect_eq(sim->trace[sim->count[SIM_TRACE] - 1].event, NVMX_TRACE_FAULT);
    expect(sim, NVMX_TRACE_FAULT, 1, NVMX_TRACE_BY_L1, 13, 0);
    sim_free(sim);
}

Test(trace, a_vcpu_that_stops) {
    struct sim *sim = l2_running(NULL);
    sim->calls = 0;
    sim->fail.at = 1;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_STOP);
    expect(sim, NVMX_TRACE_STOP, 2, NVMX_TRACE_BY_LIBRARY, NVMX_EXIT_CPUID, NVMX_STOP_HOST);
    sim_free(sim);
}

/* Every nvmx_exit makes one record, and the records have all calls. */
Test(trace, one_record_for_each_exit) {
    struct sim *sim = l1_ready(NULL);
    const struct nvmx_counts *counts = nvmx_counts(sim->vcpu);
    uint64_t reads = 0, writes = 0, calls = 0, all = 0;
    launch(sim);
    for (unsigned int round = 0; round < 10; round++) {
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_GUEST_RSP, round);
        resume(sim);
    }
    cr_assert(sim->count[SIM_TRACE] <= SIM_LOG);
    cr_expect_eq(counts->exits_l1 + counts->exits_l2, sim->count[SIM_TRACE]);
    for (uint64_t i = 0; i < sim->count[SIM_TRACE]; i++) {
        reads += sim->trace[i].vmreads;
        writes += sim->trace[i].vmwrites;
        calls += sim->trace[i].callbacks;
        cr_expect_eq(sim->trace[i].number, i);
    }
    for (size_t i = 0; i < COUNT(counts->callback); i++)
        all += i != SIM_TRACE ? counts->callback[i] : 0;
    cr_expect(reads == counts->vmreads && writes == counts->vmwrites && calls == all, "%lu %lu %lu", reads, writes,
              calls);
    sim_free(sim);
}

Test(trace, header_and_texts) {
    struct nvmx_trace_header header;
    nvmx_trace_header_init(&header, 1000, 5);
    cr_expect(memcmp(header.magic, "NVMXTRCE", 8) == 0 && header.version == 1 && header.record_bytes == 64);
    cr_expect(header.ticks_per_second == 1000 && header.lost == 5 && header.check_rows == NVMX_CHECK_COUNT);
    for (uint32_t event = NVMX_TRACE_ENTER_L2; event <= NVMX_TRACE_STOP; event++)
        cr_expect_str_neq(nvmx_trace_event_text(event), nvmx_trace_event_text(0));
    cr_expect_str_eq(nvmx_trace_event_text(NVMX_TRACE_STOP + 1), nvmx_trace_event_text(0));
    static const char *const handlers[] = {
        [NVMX_TRACE_BY_HOST] = "host",
        [NVMX_TRACE_BY_LIBRARY] = "nvmx",
        [NVMX_TRACE_BY_L1] = "L1",
        [NVMX_TRACE_BY_L2] = "L2",
    };
    for (uint32_t handler = 0; handler < COUNT(handlers); handler++)
        cr_expect_str_eq(nvmx_trace_handler_text(handler), handlers[handler]);
    cr_expect_str_eq(nvmx_trace_handler_text(COUNT(handlers)), "unknown handler");
}
