/* SPDX-License-Identifier: MIT */
/*
 * Callbacks that fail while the library does something for L2 in hardware's place: VM functions, the page-modification log, #VE, shadow VMCSs. No
 * leak (the simulated host aborts on one), no access that was not granted, and L1 can go on or the vCPU stops for the host's sake.
 */
#include "machine.h"

#include <string.h>

#define LIST    0x30000u
#define LOG     0x31000u
#define AREA    0x32000u
#define REGION  0x34000u
#define READS   0x35000u
#define WRITES  0x36000u
#define EPT12_B 0x40000u
#define L2_PML4 0x20000u /* gpa2 */

#define EPTP_A (SIM_L1_EPT12 | 0x5eu)
#define EPTP_B (EPT12_B | 0x5eu)

static void l1_memory(struct sim *sim) {
    uint64_t base = sim_gpa1_of(L2_PML4);
    sim_write64(sim, EPT12_B, (SIM_L1_EPT12 + 0x1000) | 7);
    sim_write64(sim, LIST, EPTP_A);
    sim_write64(sim, LIST + 8, EPTP_B);
    sim_write32(sim, REGION, 0x4e560001u | 0x80000000u);
    for (unsigned int level = 0; level < 3; level++)
        sim_write64(sim, base + level * 0x1000, (L2_PML4 + (level + 1) * 0x1000) | 3);
    for (uint64_t i = 0; i < 512; i++)
        sim_write64(sim, base + 0x3000 + i * 8, i << 12 | 3);
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 9 * 8, 0); /* gpa2 9000H: convertible */
}

/* Answers don't matter: any may be a refusal. False: the vCPU stopped. */
static bool prepare(struct sim *sim) {
    static const struct {
        uint32_t encoding;
        uint64_t value;
    } fields[] = {
        {NVMX_VMCS_EPT_POINTER, EPTP_A},
        {NVMX_VMCS_VM_FUNCTION_CONTROLS, 1},
        {NVMX_VMCS_EPTP_LIST_ADDRESS, LIST},
        {NVMX_VMCS_PML_ADDRESS, LOG},
        {NVMX_VMCS_PML_INDEX, 511},
        {NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, AREA},
        {NVMX_VMCS_VMREAD_BITMAP_ADDRESS, READS},
        {NVMX_VMCS_VMWRITE_BITMAP_ADDRESS, WRITES},
        {NVMX_VMCS_VMCS_LINK_POINTER, REGION},
        {NVMX_VMCS_GUEST_CR3, L2_PML4},
        {NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC},
        {NVMX_VMCS_TPR_THRESHOLD, 0},
    };
    uint64_t primary = 0, secondary = 0;
    sim_vmxon_ready(sim);
    sim_vmcs12(sim);
    l1_memory(sim);
    sim_vmread(sim, NVMX_VMCS_PRIMARY_CONTROLS, &primary);
    sim_vmread(sim, NVMX_VMCS_SECONDARY_CONTROLS, &secondary);
    sim_vmwrite(sim, NVMX_VMCS_PRIMARY_CONTROLS, primary | PROC_TPR_SHADOW);
    sim_vmwrite(sim, NVMX_VMCS_SECONDARY_CONTROLS,
                secondary | PROC2_VM_FUNCTIONS | PROC2_PML | PROC2_VE | PROC2_VMCS_SHADOWING | PROC2_X2APIC);
    for (size_t i = 0; i < COUNT(fields); i++)
        sim_vmwrite(sim, fields[i].encoding, fields[i].value);
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE;
}

enum what { FUNCTION, VIOLATION, CONVERTED, READ_REGISTER, READ_MEMORY, WRITE_MEMORY, LEAVE };

static void l2_does(struct sim *sim, enum what what, uint64_t number) {
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_CPUID, .instruction_length = 3};
    sim->regs.gpr[NVMX_RAX] = 0;
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
    switch (what) {
    case FUNCTION:
        info.reason = NVMX_EXIT_VMFUNC;
        sim->regs.gpr[NVMX_RCX] = number;
        break;
    case VIOLATION:
    case CONVERTED:
        info = (struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION,
                                          .qualification = 0x182,
                                          .guest_physical_address = what == CONVERTED ? 0x9000 : number};
        break;
    case READ_REGISTER:
        info.reason = NVMX_EXIT_VMREAD;
        info.instruction_info = 1u << 28 | 1u << 10 | 3u << 3;
        break;
    case READ_MEMORY:
    case WRITE_MEMORY:
        info.reason = what == READ_MEMORY ? NVMX_EXIT_VMREAD : NVMX_EXIT_VMWRITE;
        info.instruction_info = 1u << 28 | 2u << 7 | 3u << 15 | 1u << 22 | 1u << 27;
        info.qualification = number;
        break;
    case LEAVE:
        break;
    }
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE)
        sim_exit_info(sim, &info);
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && what != LEAVE)
        sim_vmresume(sim);
}

static void scenario(struct sim *sim) {
    static const struct {
        enum what what;
        uint64_t number;
    } steps[] = {{FUNCTION, 1},          {VIOLATION, 0x5000},     {CONVERTED, 0},          {READ_REGISTER, 0},
                 {READ_MEMORY, 0x40ffc}, {FUNCTION, 0},           {WRITE_MEMORY, 0x42000}, {VIOLATION, 0x280000},
                 {CONVERTED, 0},         {READ_MEMORY, 0x9000},   {FUNCTION, 7},           {LEAVE, 0}};
    if (!prepare(sim))
        return;
    sim_vmlaunch(sim);
    for (size_t i = 0; i < COUNT(steps); i++)
        l2_does(sim, steps[i].what, steps[i].number);
}

static void goes_on(struct sim *sim, uint64_t k) {
    sim->fail = (struct sim_fail){0};
    if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE) {
        nvmx_vcpu_reset(sim->vcpu);
        sim->selected = NVMX_VMCS01;
        nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    }
    for (unsigned int i = 0; i < 3 && nvmx_mode(sim->vcpu) == NVMX_MODE_L2; i++)
        l2_does(sim, LEAVE, 0);
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT)
        cr_assert(sim_vmxoff(sim) == SIM_SUCCEED, "after %lu: VMXOFF", k);
    cr_assert(prepare(sim));
    cr_assert(sim_vmlaunch(sim) == SIM_L2, "after %lu: VMLAUNCH", k);
    l2_does(sim, FUNCTION, 1);
    cr_assert(nvmx_mode(sim->vcpu) == NVMX_MODE_L2, "after %lu: VMFUNC", k);
}

static const struct sim_options configurations[] = {
    {.vmcs02_slots = 1},
    {.shadow = true},
    {.translate = true, .queue_exception = true, .no_vpid = true},
};

Test(controls_failures, each_callback_alone) {
    for (size_t c = 0; c < COUNT(configurations); c++) {
        struct sim *sim = sim_new(&configurations[c]);
        sim->calls = 0;
        scenario(sim);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "the scenario ends in L1");
        uint64_t calls = sim->calls;
        cr_assert(calls > 100, "only %lu callbacks", calls);
        sim_free(sim);
        for (uint64_t k = 1; k <= calls; k++) {
            sim = sim_new(&configurations[c]);
            sim->calls = 0;
            sim->fail = (struct sim_fail){.at = k};
            scenario(sim);
            cr_assert(sim->failed > 0, "callback %lu", k);
            goes_on(sim, k);
            sim_free(sim);
        }
    }
}

Test(controls_failures, random_callbacks) {
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct sim *sim = sim_new(&configurations[seed % COUNT(configurations)]);
        sim->fail = (struct sim_fail){.one_in = 2 + (uint32_t)(seed % 50), .seed = seed};
        scenario(sim);
        goes_on(sim, seed);
        sim_free(sim);
    }
}

/* No page for the second root: L1 gets the exit of a VM function that can't be, and L2 stays where it was. */
Test(controls_failures, no_page_for_a_new_root_is_an_exit) {
    struct sim *sim = sim_new(NULL);
    cr_assert(prepare(sim));
    cr_assert_eq(sim_vmlaunch(sim), SIM_L2);
    uint64_t root = vmcs02(sim, NVMX_F_EPT_POINTER);
    sim->pages_max = sim->pages_used;
    sim->regs.gpr[NVMX_RAX] = 0;
    sim->regs.gpr[NVMX_RCX] = 1;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_VMFUNC, 0, 0, 3), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_VMFUNC);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EPT_POINTER), EPTP_A);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), root);
    sim_free(sim);
}
