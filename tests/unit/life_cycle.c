/* SPDX-License-Identifier: MIT */
/* Making, using and destroying VMs and vCPUs; one L2 from VMXON to VMXOFF. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define CPUID 10u
#define VMCALL 18u

static void expect(enum sim_outcome got, enum sim_outcome wanted, const char *what) {
    cr_assert(got == wanted, "%s: %s instead of %s", what, sim_outcome_text(got), sim_outcome_text(wanted));
}

/* -- making --------------------------------------------------------------------------------------------------------------------- */

/* A host whose callbacks are never called. */
static void never(void) {
    abort();
}

static struct nvmx_host complete_host(void) {
    struct nvmx_host host = {.size = sizeof(host)};
    void (*const stub)(void) = never;
    unsigned char *at = (unsigned char *)&host;
    for (size_t offset = offsetof(struct nvmx_host, map_page); offset < sizeof(host); offset += sizeof(stub))
        memcpy(at + offset, &stub, sizeof(stub));
    return host;
}

static enum nvmx_status try_vm(const struct nvmx_host *host, uint32_t config_size, size_t memory_size, bool has_vmx) {
    struct nvmx_vm_config config = {.size = config_size, .expose = true};
    struct nvmx_vm *vm = NULL;
    void *memory = aligned_alloc(16, (nvmx_vm_size() + 15) / 16 * 16);
    if (has_vmx)
        sim_machine(&config.machine);
    enum nvmx_status status = nvmx_vm_init(memory, memory_size, host, &config, &vm);
    if (status == NVMX_OK)
        nvmx_vm_destroy(vm);
    free(memory);
    return status;
}

Test(life_cycle, vm_wants_every_mandatory_callback) {
    static const size_t mandatory[] = {
        offsetof(struct nvmx_host, map_page),     offsetof(struct nvmx_host, unmap_page),
        offsetof(struct nvmx_host, ept01_lookup), offsetof(struct nvmx_host, page_alloc),
        offsetof(struct nvmx_host, page_free),    offsetof(struct nvmx_host, page_pointer),
        offsetof(struct nvmx_host, vmcs_select),  offsetof(struct nvmx_host, vmcs_reset),
        offsetof(struct nvmx_host, vmcs_read),    offsetof(struct nvmx_host, vmcs_write),
        offsetof(struct nvmx_host, tlb_flush),    offsetof(struct nvmx_host, msr_read),
        offsetof(struct nvmx_host, msr_write),
    };
    struct nvmx_host host = complete_host();
    cr_assert_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_OK);
    for (size_t i = 0; i < sizeof(mandatory) / sizeof(mandatory[0]); i++) {
        host = complete_host();
        memset((unsigned char *)&host + mandatory[i], 0, sizeof(void *));
        cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_E_INVALID, "callback %zu", i);
    }
    host = complete_host();
    host.ept02_root = NULL; /* both or neither */
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_E_INVALID);
}

Test(life_cycle, vm_refuses_sizes_it_does_not_know) {
    struct nvmx_host host = complete_host();
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config) - 1, nvmx_vm_size(), true), NVMX_E_SIZE);
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size() - 1, true), NVMX_E_SIZE);
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), 0, true), NVMX_E_SIZE);
    host.size = 8;
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_E_SIZE);
    host.size = sizeof(host) + 8;
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_E_SIZE);
    for (uint32_t size = offsetof(struct nvmx_host, ack_interrupt); size <= sizeof(host); size++) { /* half a callback is none */
        host.size = size;
        cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true) == NVMX_E_SIZE, size % sizeof(void *) != 0, "%u", size);
    }
}

/* SDM 5.1.4: a physical-address width is from 32 to 52; one that was left 0 would make 0 of L1's CR3. */
Test(life_cycle, vm_wants_an_address_width) {
    static _Alignas(16) uint8_t memory[1 << 20];
    static const uint8_t widths[] = {0, 31, 32, 52, 53, 64, 255};
    struct nvmx_host host = complete_host();
    for (size_t i = 0; i < sizeof(widths); i++) {
        struct nvmx_vm_config config = {.size = sizeof(config), .expose = true};
        struct nvmx_vm *vm = NULL;
        sim_machine(&config.machine);
        config.machine.physical_address_bits = widths[i];
        bool good = widths[i] >= 32 && widths[i] <= 52;
        cr_expect_eq(nvmx_vm_init(memory, sizeof(memory), &host, &config, &vm), good ? NVMX_OK : NVMX_E_INVALID, "%u", widths[i]);
        if (vm)
            nvmx_vm_destroy(vm);
    }
}

Test(life_cycle, vm_on_a_machine_without_vmx_is_unsupported) {
    struct nvmx_host host = complete_host();
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), false), NVMX_E_UNSUPPORTED);
}

/* What L1 saw elsewhere it sees here, or the VM is refused. */
Test(life_cycle, exact_capabilities_are_a_subset_or_refused) {
    static _Alignas(16) uint8_t memory[1 << 20];
    struct nvmx_host host = complete_host();
    struct nvmx_vm_config config = {.size = sizeof(config), .expose = true};
    struct nvmx_caps exact;
    struct nvmx_vm *vm = NULL;
    const uint64_t wbinvd_exiting = UINT64_C(1) << 38;

    sim_machine(&config.machine);
    cr_assert_eq(nvmx_vm_init(memory, sizeof(memory), &host, &config, &vm), NVMX_OK);
    exact = *nvmx_l1_caps(vm);
    nvmx_vm_destroy(vm);
    cr_assert_neq(exact.msr[NVMX_CAP_PROCBASED2] & wbinvd_exiting, 0);
    exact.msr[NVMX_CAP_PROCBASED2] &= ~wbinvd_exiting;
    config.exact = &exact;
    cr_assert_eq(nvmx_vm_init(memory, sizeof(memory), &host, &config, &vm), NVMX_OK);
    cr_expect_eq(memcmp(nvmx_l1_caps(vm), &exact, sizeof(exact)), 0);
    nvmx_vm_destroy(vm);
    /* IA32_FEATURE_CONTROL is state, and in no profile (nvmx_state_profile): a vCPU starts with it as ever. */
    exact.feature_control = 0;
    cr_assert_eq(nvmx_vm_init(memory, sizeof(memory), &host, &config, &vm), NVMX_OK);
    cr_expect_eq(nvmx_l1_caps(vm)->feature_control, 5);
    nvmx_vm_destroy(vm);
    exact.msr[NVMX_CAP_PROCBASED2] |= UINT64_C(1) << 51; /* conceal VMX from PT: never offered */
    cr_expect_eq(nvmx_vm_init(memory, sizeof(memory), &host, &config, &vm), NVMX_E_DENIED);
}

Test(life_cycle, an_older_host_works_with_its_smaller_struct) {
    struct nvmx_host host = complete_host();
    host.size = offsetof(struct nvmx_host, ack_interrupt);
    cr_expect_eq(try_vm(&host, sizeof(struct nvmx_vm_config), nvmx_vm_size(), true), NVMX_OK);
}

static enum nvmx_status try_vcpu(struct sim *sim, const struct nvmx_vcpu_config *config, size_t bytes) {
    struct nvmx_vcpu *vcpu = NULL;
    void *memory = aligned_alloc(16, (nvmx_vcpu_size() + 15) / 16 * 16);
    enum nvmx_status status = nvmx_vcpu_init(memory, bytes, sim->vm, config, &vcpu);
    if (status == NVMX_OK)
        nvmx_vcpu_destroy(vcpu);
    free(memory);
    return status;
}

Test(life_cycle, vcpu_checks_its_configuration) {
    struct sim *sim = sim_new(NULL);
    const struct nvmx_vcpu_config good = {.size = sizeof(good), .id = 1, .ctx = &sim->vcpu_context, .regs = &sim->regs,
                                          .shadow_hpa = NVMX_NO_ADDRESS, .vmcs02_slots = 1};
    struct nvmx_vcpu_config config = good;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_OK);
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size() - 1), NVMX_E_SIZE);
    for (uint32_t size = 0; size <= sizeof(good) + 8; size += 4) {
        bool known = size == sizeof(good) || size == offsetof(struct nvmx_vcpu_config, shadow_hpas) ||
                     size == offsetof(struct nvmx_vcpu_config, vmwrite_bitmap) || size == offsetof(struct nvmx_vcpu_config, watches_msrs);
        config.size = size;
        cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), known ? NVMX_OK : NVMX_E_SIZE, "%u", size);
    }
    config = good;
    config.vmcs02_slots = 3;
    config.shadow_hpas = (const uint64_t[]){0x1000, 0x2000, 0x3000};
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_OK);
    config.shadow_hpas = (const uint64_t[]){0x1000, 0x2000, NVMX_NO_ADDRESS};
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "a shadow VMCS is missing");
    config = good;
    config.regs = NULL;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "no registers");
    config = good;
    config.vmcs02_slots = 0;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "no vmcs02");
    config.vmcs02_slots = NVMX_VMCS02_MAX + 1;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "too many vmcs02");
    config = good;
    config.id = 32;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "id out of range");
    config = good;
    config.vpid02_first = 0xfff1;
    config.vpid02_count = 15;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_OK, "VPIDs up to FFFFH");
    config.vpid02_count = 16;
    cr_expect_eq(try_vcpu(sim, &config, nvmx_vcpu_size()), NVMX_E_INVALID, "VPIDs that wrap: one would be 0, the next ones another guest's");
    sim_free(sim);
}

/* -- using -------------------------------------------------------------------------------------------------------------------------- */

static uint64_t vmcs12(struct sim *sim, uint32_t encoding) {
    uint64_t value = UINT64_MAX;
    expect(sim_vmread(sim, encoding, &value), SIM_SUCCEED, "VMREAD");
    return value;
}

/* L2 executes CPUID at `rip`; L1 must see exactly that, in its exit handler. */
static void cpuid_is_reflected(struct sim *sim, uint64_t rip) {
    sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, rip);
    cr_assert_eq(sim_exit(sim, CPUID, 0, 0, 2), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), SIM_L1_EXIT_HANDLER);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP), SIM_L1_STACK);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3), SIM_L1_PML4);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS), 2);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_FS_BASE), 0x1111000);
    cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_GS_BASE), 0x2222000);
    cr_expect_eq(vmcs12(sim, NVMX_VMCS_EXIT_REASON), CPUID);
    cr_expect_eq(vmcs12(sim, NVMX_VMCS_GUEST_RIP), rip);
    cr_expect_eq(vmcs12(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    cr_expect_eq(vmcs12(sim, NVMX_VMCS_GUEST_CR3), 0x2000);
}

static void one_l2(const struct sim_options *options) {
    struct sim *sim = sim_new(options);
    cr_assert_eq(sim->status, NVMX_OK);
    expect(sim_launch(sim), SIM_L2, "VMLAUNCH");
    cr_expect_eq(sim_get(sim, sim->selected, NVMX_F_GUEST_RIP), 0x1000);
    cpuid_is_reflected(sim, 0x1234);
    expect(sim_vmwrite(sim, NVMX_VMCS_GUEST_RIP, 0x1236), SIM_SUCCEED, "VMWRITE");
    expect(sim_vmlaunch(sim), SIM_FAIL_VALID, "VMLAUNCH of what was launched");
    cr_expect_eq(sim_instruction_error(sim), 4);
    expect(sim_vmresume(sim), SIM_L2, "VMRESUME");
    cr_expect_eq(sim_get(sim, sim->selected, NVMX_F_GUEST_RIP), 0x1236);
    cpuid_is_reflected(sim, 0x2000);
    expect(sim_vmclear(sim, SIM_L1_VMCS_A), SIM_SUCCEED, "VMCLEAR");
    expect(sim_vmxoff(sim), SIM_SUCCEED, "VMXOFF");
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_OFF);
    sim_free(sim);
}

Test(life_cycle, l2_runs_exits_and_resumes) {
    one_l2(NULL);
}

Test(life_cycle, l2_runs_with_vmcs_shadowing) {
    one_l2(&(struct sim_options){.shadow = true});
}

Test(life_cycle, l2_runs_without_vpids) {
    one_l2(&(struct sim_options){.no_vpid = true});
}

Test(life_cycle, l2_runs_where_the_host_translates_and_queues) {
    one_l2(&(struct sim_options){.translate = true, .queue_exception = true});
}

Test(life_cycle, l2_runs_where_the_host_composes_ept02) {
    one_l2(&(struct sim_options){.host_composes = true});
}

Test(life_cycle, l2_runs_where_the_host_owns_interrupts) {
    one_l2(&(struct sim_options){.external_interrupts = true});
}

Test(life_cycle, l2_runs_with_one_vmcs02) {
    one_l2(&(struct sim_options){.vmcs02_slots = 1});
}

/* More vmcs12 than vmcs02: each keeps its own state. */
Test(life_cycle, vmcs12_that_left_the_cache_come_back_whole) {
    struct sim *sim = sim_new(&(struct sim_options){.vmcs02_slots = 2});
    expect(sim_vmxon_ready(sim), SIM_SUCCEED, "VMXON");
    for (uint32_t i = 0; i < 5; i++) {
        uint64_t region = 0x20000 + i * 0x1000;
        sim_region(sim, region);
        expect(sim_vmclear(sim, region), SIM_SUCCEED, "VMCLEAR");
        expect(sim_vmptrld(sim, region), SIM_SUCCEED, "VMPTRLD");
        cr_assert_eq(sim_vmcs12(sim), 0);
        expect(sim_vmwrite(sim, NVMX_VMCS_GUEST_RIP, 0x1000 + i), SIM_SUCCEED, "VMWRITE");
        expect(sim_vmlaunch(sim), SIM_L2, "VMLAUNCH");
        cr_assert_eq(sim_exit(sim, VMCALL, 0, 0, 3), NVMX_ENTER);
    }
    for (uint32_t i = 0; i < 5; i++) {
        expect(sim_vmptrld(sim, 0x20000 + i * 0x1000), SIM_SUCCEED, "VMPTRLD");
        cr_expect_eq(vmcs12(sim, NVMX_VMCS_GUEST_RIP), 0x1000 + i, "vmcs12 %u", i);
        cr_expect_eq(vmcs12(sim, NVMX_VMCS_EXIT_REASON), VMCALL, "vmcs12 %u", i);
        expect(sim_vmresume(sim), SIM_L2, "VMRESUME");
        cr_expect_eq(sim_get(sim, sim->selected, NVMX_F_GUEST_RIP), 0x1000 + i, "vmcs12 %u", i);
        cr_assert_eq(sim_exit(sim, VMCALL, 0, 0, 3), NVMX_ENTER);
    }
    sim_free(sim);
}

/* Wherever L1 stands, destroying and resetting give back all pages (sim_free checks). */
Test(life_cycle, destroy_and_reset_release_everything_in_any_state) {
    for (unsigned int state = 0; state < 5; state++) {
        for (unsigned int reset = 0; reset < 2; reset++) {
            struct sim *sim = sim_new(NULL);
            if (state >= 1)
                expect(sim_vmxon_ready(sim), SIM_SUCCEED, "VMXON");
            if (state >= 2)
                cr_assert_eq(sim_vmcs12(sim), 0);
            if (state >= 3)
                expect(sim_vmlaunch(sim), SIM_L2, "VMLAUNCH");
            if (state >= 4)
                cr_assert_eq(sim_exit(sim, CPUID, 0, 0, 2), NVMX_ENTER);
            if (reset) {
                nvmx_vcpu_reset(sim->vcpu);
                cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_OFF, "state %u", state);
                cr_expect_eq(nvmx_selected(sim->vcpu), NVMX_VMCS01, "state %u", state);
                cr_expect_eq(sim->selected, NVMX_VMCS01, "state %u", state);
            }
            sim_free(sim);
        }
    }
}

Test(life_cycle, l1_without_vmx_gets_ud_and_no_cpuid_bit) {
    struct sim *sim = sim_new(&(struct sim_options){.hidden = true});
    uint32_t regs[4] = {0, 0, UINT32_MAX, 0};
    nvmx_cpuid(sim->vm, 1, regs);
    cr_expect_eq(regs[2], ~UINT32_C(0x20));
    cr_expect(!nvmx_cr_allowed(sim->vcpu, 4, 0x2020));
    expect(sim_vmxon(sim, SIM_L1_VMXON), SIM_FAULT, "VMXON");
    cr_expect_eq(sim_fault_vector(sim), 6);
    sim_free(sim);
}

/* The host-state area and MSR lists of the real VMCSs are the host's: not written, whatever vmcs12 says. */
Test(life_cycle, vmcs02_keeps_the_hosts_state) {
    struct sim *sim = sim_new(NULL);
    expect(sim_launch(sim), SIM_L2, "VMLAUNCH");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_field_info(slot)->group == NVMX_GROUP_HOST)
            cr_expect_eq(sim_get(sim, sim->selected, (enum nvmx_field)slot), sim_get(sim, NVMX_VMCS01, (enum nvmx_field)slot),
                         "%s", nvmx_field_info(slot)->name);
    uint32_t vmcs02 = sim->selected;
    cr_expect_eq(sim_get(sim, vmcs02, NVMX_F_VM_EXIT_MSR_STORE_COUNT), 0);
    cr_expect_eq(sim_get(sim, vmcs02, NVMX_F_VM_EXIT_MSR_LOAD_COUNT), 0);
    cr_expect_eq(sim_get(sim, vmcs02, NVMX_F_VM_ENTRY_MSR_LOAD_COUNT), 0);
    cr_expect_neq(sim_get(sim, vmcs02, NVMX_F_EPT_POINTER), SIM_L1_EPT12 | 0x1e, "L1's EPTP reached hardware");
    cr_expect_neq(sim_get(sim, vmcs02, NVMX_F_EPT_POINTER), SIM_EPTP01, "L2 runs on L1's memory");
    sim_free(sim);
}

/* Every guest-state field that the processor reads at an entry was written: no poison of the fresh vmcs02 is left. (SMBASE is for SMM.) */
Test(life_cycle, vmcs02_is_complete) {
    struct sim *sim = sim_new(NULL);
    expect(sim_launch(sim), SIM_L2, "VMLAUNCH");
    const struct sim_vmcs *vmcs02 = &sim->vmcs[sim->selected];
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        unsigned int kind = (info->encoding >> 10) & 3;
        if (info->exists == 0 && kind == 2 && slot != NVMX_F_GUEST_SMBASE)
            cr_expect(nvmx_set_has(&vmcs02->written, slot), "%s was not written", info->name);
    }
    sim_free(sim);
}

/* The version is that of the header that the caller was compiled with. */
Test(life_cycle, version_in_numbers_and_words) {
    char text[32];
    snprintf(text, sizeof(text), "%d.%d.%d", NVMX_VERSION_MAJOR, NVMX_VERSION_MINOR, NVMX_VERSION_PATCH);
    cr_expect_str_eq(nvmx_version_text(), text);
    cr_expect_eq(nvmx_version(), NVMX_VERSION_MAJOR * 10000u + NVMX_VERSION_MINOR * 100u + NVMX_VERSION_PATCH);
}
