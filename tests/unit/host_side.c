/* SPDX-License-Identifier: MIT */
/* What nvmx.h and host.h promise a host, seen from its side. */
#include <stdlib.h>

#include "machine.h"

#define BUS_LOCK (1u << 26)
#define ENCLAVE  (1u << 27)

/* SDM 27.9.1: bits beside the basic reason say what else happened, and don't make another exit of it. */
Test(host_side, an_exit_of_l1_is_known_by_its_basic_reason) {
    static const uint32_t besides[] = {0, BUS_LOCK, ENCLAVE, BUS_LOCK | ENCLAVE};

    for (size_t i = 0; i < COUNT(besides); i++) {
        struct sim *sim = sim_new(NULL);

        sim->regs.gpr[NVMX_RCX] = NVMX_MSR_VMX_FIRST;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR | besides[i], 0, 0, 2), NVMX_ENTER, "%#x", besides[i]);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_VMFUNC | besides[i], 0, 0, 3), NVMX_ENTER, "%#x", besides[i]);
        cr_expect_eq(sim_fault_vector(sim), 6);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_CPUID | besides[i], 0, 0, 2), NVMX_HOST, "%#x", besides[i]);
        /* vmcs01's own entry failed: nobody's but the host's */
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_ENTRY_FAILURE | NVMX_EXIT_INVALID_GUEST_STATE | besides[i], 0, 0, 0), NVMX_HOST);
        sim_free(sim);
    }
}

/* SDM 28.3: L2's TSC is L1's and vmcs12's offset. The host moves L1's, as for a WRMSR of L2 that L1 lets through. */
Test(host_side, l2_has_the_tsc_that_l1_has_now) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TSC_OFFSETTING);
    l1_writes(sim, NVMX_VMCS_TSC_OFFSET, 1000);
    host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | PROC_TSC_OFFSETTING);
    host_sets(sim, NVMX_F_TSC_OFFSET, 50000);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 51000);
    host_sets(sim, NVMX_F_TSC_OFFSET, 70000);
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 71000);
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), 71000);
    sim_free(sim);
}

/* -- accesses of L2 that the host emulates ---------------------------------------------------------------------------------------- */

#define LOG 0x30000u
#define Q_LINEAR 0x180u

static enum nvmx_ept_verdict translate(struct sim *sim, uint64_t gpa2, uint64_t access, struct nvmx_ept_fault *fault) {
    return nvmx_l2_translate(sim->vcpu, gpa2, access | Q_LINEAR, 4, fault);
}

/* SDM 31.3.3.2: ept12 decides, and what it does not allow is L1's. */
Test(host_side, an_emulated_access_of_l2_goes_through_ept12) {
    struct sim *sim = l2_running(NULL);
    struct nvmx_ept_fault fault;

    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_READ, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(fault.gpa1, sim_gpa1_of(0x5123));
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, sim_read64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8) & ~NVMX_EPT_WRITE);
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_READ, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, NVMX_ACCESS_WRITE | Q_LINEAR | 5u << 3);
    const struct nvmx_l2_exit_info info = {
        .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = fault.qualification, .guest_physical_address = 0x5123, .guest_linear_address = 0x7123};
    cr_expect_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), fault.qualification);
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_READ, &fault), NVMX_EPT_FAILED, "L2 does not run");
    cr_expect_eq(fault.status, NVMX_E_INVALID);
    sim_free(sim);
}

/* SDM 31.3.6. */
Test(host_side, an_emulated_access_of_l2_is_logged) {
    struct sim *sim = l1_ready(NULL);
    struct nvmx_ept_fault fault;
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_PML);
    l1_writes(sim, NVMX_VMCS_EPT_POINTER, l1_reads(sim, NVMX_VMCS_EPT_POINTER) | NVMX_EPTP_AD);
    l1_writes(sim, NVMX_VMCS_PML_ADDRESS, LOG);
    l1_writes(sim, NVMX_VMCS_PML_INDEX, 0);
    launch(sim);
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(sim_read64(sim, LOG), 0x5000);
    cr_expect_eq(translate(sim, 0x6123, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_L1_LOG_FULL);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PML_INDEX), 0xffff);
    sim_free(sim);
}

/* Without EPT L2's physical addresses are L1's; a host that composes ept02 asks by itself, with what it was told. */
Test(host_side, an_emulated_access_without_ept_or_where_the_host_composes) {
    struct nvmx_ept_fault fault;
    struct sim *sim = l1_ready(NULL);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
    launch(sim);
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(fault.gpa1, 0x5123);
    sim_free(sim);

    sim = l2_running(&(struct sim_options){.host_composes = true});
    cr_expect_eq(translate(sim, 0x5123, NVMX_ACCESS_READ, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_UNSUPPORTED);
    const struct nvmx_ept_config config = {.size = sizeof(config), .l1 = nvmx_l1_caps(sim->vm), .machine = &sim->machine};
    void *memory = aligned_alloc(16, (nvmx_ept_size() + 15) / 16 * 16);
    struct nvmx_ept *ept = NULL;
    cr_assert_eq(nvmx_ept_init(memory, nvmx_ept_size(), &sim->host, &sim->vm_context, &config, &ept), NVMX_OK);
    const struct nvmx_ept_access access = {.eptp12 = sim->eptp12_asked, .gpa2 = 0x5123, .qualification = NVMX_ACCESS_READ | Q_LINEAR};
    cr_expect_eq(nvmx_ept_translate(ept, &sim->vcpu_context, &access, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(fault.gpa1, sim_gpa1_of(0x5123));
    cr_expect_eq(nvmx_ept_pages(ept), 0);
    nvmx_ept_destroy(ept, NULL);
    free(memory);
    sim_free(sim);
}

/* -- memory of L1 changes where no vCPU can be had ------------------------------------------------------------------------------- */

/* A vCPU that never runs tells of it for all: ept02 follows at once. What the others hold stays until it is told for them. */
Test(host_side, a_vcpu_that_never_runs_tells_of_memory) {
    struct sim *sim = l1_ready(NULL);
    const struct nvmx_vcpu_config config = {
        .size = sizeof(config), .id = 31, .ctx = &sim->vcpu_context, .regs = &sim->regs, .shadow_hpa = NVMX_NO_ADDRESS, .vmcs02_slots = 1};
    void *memory = aligned_alloc(16, (nvmx_vcpu_size() + 15) / 16 * 16);
    struct nvmx_vcpu *idle = NULL;
    cr_assert_eq(nvmx_vcpu_init(memory, nvmx_vcpu_size(), sim->vm, &config, &idle), NVMX_OK);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, sim_gpa1_of(0x5000));
    launch(sim);
    cr_assert_eq(sim_exit_info(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = 0x5000}),
                 NVMX_ENTER);
    cr_expect_neq(ept02_leaf(sim, 0x5000), 0);
    const uint64_t mapped = sim->mapped;
    cr_expect_eq(nvmx_memory_changed(idle, sim_gpa1_of(0x5000), 4096), NVMX_OK);
    cr_expect_eq(ept02_leaf(sim, 0x5000), 0);
    cr_expect_eq(sim->mapped, mapped);
    cr_expect_eq(nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 4096), NVMX_OK);
    cr_expect_eq(sim->mapped, mapped - 1);
    nvmx_vcpu_destroy(idle);
    free(memory);
    sim_free(sim);
}

/* -- what the host changes while it deals with an exit of L2 ------------------------------------------------------------------------ */

/* It is L2's from there on, and L1 reads it after the next exit, whether it had read it after earlier ones or not. */
Test(host_side, what_the_host_changes_in_l2_l1_reads) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        for (unsigned int learned = 0; ((info->encoding >> 10) & 3) == 2 && info->merge == NVMX_MERGE_COPY && learned < 2; learned++) {
            struct sim *sim = l2_running(NULL);
            if (!nvmx_set_has(&sim->vcpu->vm->exists, slot) || slot == NVMX_F_GUEST_INTERRUPT_STATUS || slot == NVMX_F_PREEMPTION_TIMER_VALUE ||
                slot == NVMX_F_GUEST_ACTIVITY_STATE || slot == NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS) { /* an exit by an instruction decides of them */
                sim_free(sim);
                continue;
            }
            for (unsigned int i = 0; i < 3; i++) {
                l2_leaves(sim);
                if (learned)
                    (void)l1_reads(sim, info->encoding);
                resume(sim);
            }
            cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDTSC, 0, 0, 2), NVMX_HOST);
            const uint64_t value = vmcs02(sim, (enum nvmx_field)slot) ^ (slot == NVMX_F_GUEST_RFLAGS ? 1 : 0x10);
            sim_set(sim, sim->selected, (enum nvmx_field)slot, value);
            cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, info->encoding), value, "%s, learned %u", info->name, learned);
            resume(sim);
            cr_expect_eq(vmcs02(sim, (enum nvmx_field)slot), value, "%s, learned %u", info->name, learned);
            sim_free(sim);
        }
    }
}

/* -- a vCPU that stopped ------------------------------------------------------------------------------------------------------------ */

/* A reset brings it back, wherever a callback failed. */
Test(host_side, what_stopped_goes_on_after_a_reset) {
    unsigned int stopped = 0;
    for (uint64_t at = 1; at < 12; at++) {
        struct sim *sim = l2_running(&(struct sim_options){.shadow = (at & 1) != 0});
        sim->calls = 0;
        sim->fail.at = at;
        enum nvmx_next next = sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2);
        sim->fail.at = 0;
        stopped += next == NVMX_STOP;
        nvmx_vcpu_reset(sim->vcpu);
        cr_expect(nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && nvmx_stop_status(sim->vcpu) == NVMX_OK, "callback %lu", at);
        cr_expect_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER, "callback %lu", at);
        sim_repair(sim);
        cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED, "callback %lu", at);
        cr_assert_eq(sim_vmcs12(sim), 0);
        launch(sim);
        l2_leaves(sim);
        resume(sim);
        sim_free(sim);
    }
    cr_expect_gt(stopped, 2);
}
