/* SPDX-License-Identifier: MIT */
/* A power-up or a reset invalidates what was cached of ept12 (SDM 31.4.3.1): so does all that begins anew here, a restored state too. */
#include "machine.h"

#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

#define PAGE         UINT64_C(0x5000)
#define ENTRY        (SIM_L1_EPT12 + 0x3000 + (PAGE >> 12) * 8) /* of ept12, for PAGE */
#define OTHER_GPA1   UINT64_C(0x900000)
#define RIGHTS_WB    UINT64_C(0x37)

static const struct nvmx_l2_exit_info touch = {
    .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = PAGE};

/* Where PAGE is by ept02; 0: nowhere. */
static uint64_t page_hpa(const struct sim *sim) {
    return ept02_leaf(sim, PAGE) & UINT64_C(0xffffffffff000);
}

/* L2 has touched PAGE. */
static struct sim *l2_with_page(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    cr_assert_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    cr_assert_eq(page_hpa(sim), sim_gpa1_of(PAGE) + SIM_HPA_OFFSET);
    return sim;
}

/* Another ept12 at the same place is what L2 runs on, though nobody has executed INVEPT. */
static void expect_the_other_page(struct sim *sim, const char *when) {
    cr_expect_eq(page_hpa(sim), 0, "%s: ept02 has what was there before", when);
    cr_assert_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    cr_expect_eq(page_hpa(sim), OTHER_GPA1 + SIM_HPA_OFFSET, "%s", when);
}

/* L1 as it boots: VMXON, an ept12 of its own, VMLAUNCH. */
static void boot(struct sim *sim) {
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    sim_write64(sim, ENTRY, OTHER_GPA1 | RIGHTS_WB);
    launch(sim);
}

Test(power_up, reset_forgets_what_was_composed) {
    struct sim *sim = l2_with_page(NULL);
    nvmx_vcpu_reset(sim->vcpu);
    cr_assert_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_NONE);
    boot(sim);
    expect_the_other_page(sim, "after a reset");
    sim_free(sim);
}

Test(power_up, a_new_vcpu_knows_nothing_of_the_one_before) {
    struct sim *sim = l2_with_page(NULL);
    struct nvmx_vcpu_config config = {.size = sizeof(config),
                                      .ctx = &sim->vcpu_context,
                                      .regs = &sim->regs,
                                      .shadow_hpa = NVMX_NO_ADDRESS,
                                      .vmcs02_slots = 2};
    nvmx_vcpu_destroy(sim->vcpu);
    sim->selected = NVMX_VMCS01;
    cr_assert_eq(nvmx_vcpu_init(sim->vcpu_memory, nvmx_vcpu_size(), sim->vm, &config, &sim->vcpu), NVMX_OK);
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true), NVMX_MSR_DONE);
    boot(sim);
    expect_the_other_page(sim, "of a new vCPU");
    sim_free(sim);
}

/* The host goes back to a state that it saved, in the same VM: L1's memory is as it was then. */
static void go_back(bool in_root) {
    struct sim *sim = l2_running(NULL);
    size_t bytes;
    if (in_root)
        l2_leaves(sim);
    sim_write64(sim, ENTRY, OTHER_GPA1 | RIGHTS_WB);
    uint8_t *blob = sim_save(sim, &bytes), *ram = malloc(SIM_RAM_BYTES);
    struct sim_vmcs l1 = sim->vmcs[NVMX_VMCS01];
    memcpy(ram, sim->ram, SIM_RAM_BYTES);

    sim_write64(sim, ENTRY, sim_gpa1_of(PAGE) | RIGHTS_WB);
    if (in_root)
        resume(sim);
    cr_assert_eq(sim_exit_info(sim, &touch), NVMX_ENTER);
    cr_assert_eq(page_hpa(sim), sim_gpa1_of(PAGE) + SIM_HPA_OFFSET);

    memcpy(sim->ram, ram, SIM_RAM_BYTES);
    cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
    memcpy(sim->vmcs[NVMX_VMCS01].value, l1.value, sizeof(l1.value));
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    if (in_root)
        resume(sim);
    expect_the_other_page(sim, in_root ? "restored in L1" : "restored in L2");
    free(ram);
    free(blob);
    sim_free(sim);
}

Test(power_up, a_restored_state_knows_nothing_of_the_one_before) {
    go_back(true);
    go_back(false);
}

/* A host that composes itself is told. */
Test(power_up, a_host_that_composes_is_told) {
    struct sim *sim = l2_running(&(struct sim_options){.host_composes = true});
    uint64_t told = sim->count[SIM_EPT02_INVALIDATE];
    nvmx_vcpu_reset(sim->vcpu);
    cr_expect_eq(sim->count[SIM_EPT02_INVALIDATE], told + 1);
    sim_free(sim);
}
