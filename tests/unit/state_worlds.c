/* SPDX-License-Identifier: MIT */
#include "state_worlds.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define CPUID 10u
#define EXTERNAL_INTERRUPT 1u
#define EPT_VIOLATION 48u
#define PAE 0x20u
#define TIMER (1u << 6)
#define SAVE_TIMER (1u << 22)

void state_seal(uint8_t *blob, size_t bytes) {
    state_put_at(blob, 16, bytes);
    state_put_at(blob, bytes - 8, XXH3_64bits(blob, bytes - 8));
}

static void ready(struct sim *sim) {
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
    uint32_t bad = sim_vmcs12(sim);
    cr_assert(bad == 0, "VMWRITE %#x", bad);
}

static void off(struct sim *sim) {
    (void)sim;
}

static void unlocked(struct sim *sim) {
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 0, true);
}

static void root(struct sim *sim) {
    sim_region(sim, SIM_L1_VMXON);
    cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED);
}

static void vmxoff_after_l2(struct sim *sim) {
    cr_assert(sim_launch(sim) == SIM_L2);
    sim_exit(sim, CPUID, 0, 0, 2);
    cr_assert(sim_vmxoff(sim) == SIM_SUCCEED);
}

static void cleared(struct sim *sim) {
    ready(sim);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
}

static void two_cached(struct sim *sim) {
    ready(sim);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1234);
}

static void written(struct sim *sim) {
    ready(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x5678);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x99);
}

static void failed(struct sim *sim) {
    ready(sim);
    l1_writes(sim, NVMX_VMCS_PIN_BASED_CONTROLS, 0xffffffff);
    cr_assert(sim_vmlaunch(sim) == SIM_FAIL_VALID);
}

static void entry_pending(struct sim *sim) {
    cr_assert(sim_launch(sim) == SIM_L2);
}

static void entry_pending_with_event(struct sim *sim) {
    ready(sim);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x18);
    launch(sim);
}

/* What hardware would have changed while L2 ran. */
static void l2_moved(struct sim *sim) {
    uint32_t vmcs02 = sim->selected;
    sim_set(sim, vmcs02, NVMX_F_GUEST_RIP, 0x2345);
    sim_set(sim, vmcs02, NVMX_F_GUEST_RSP, 0x2ff0);
    sim_set(sim, vmcs02, NVMX_F_GUEST_CR3, 0x5000);
    sim_set(sim, vmcs02, NVMX_F_GUEST_FS_BASE, 0x77000);
    sim_set(sim, vmcs02, NVMX_F_GUEST_SYSENTER_CS, 0x1b);
    sim_set(sim, vmcs02, NVMX_F_GUEST_PAT, 0x0606060606060606);
}

static void running(struct sim *sim) {
    entry_pending(sim);
    l2_moved(sim);
    cr_assert(sim_exit(sim, EPT_VIOLATION, 0x181, 0, 0) == NVMX_ENTER);
    cr_assert(nvmx_mode(sim->vcpu) == NVMX_MODE_L2);
}

static void l2_left_to_host(struct sim *sim) {
    entry_pending(sim);
    l2_moved(sim);
    cr_assert(sim_exit(sim, EXTERNAL_INTERRUPT, 0, 0, 0) == NVMX_HOST);
}

/* An exit that L1 does not see interrupted the delivery of a page fault. */
static void l2_event_requeued(struct sim *sim) {
    entry_pending(sim);
    struct nvmx_l2_exit_info info = {
        .reason = EPT_VIOLATION, .qualification = 0x181, .idt_vectoring_info = 0x80000b0e, .idt_vectoring_error_code = 2};
    cr_assert(sim_exit_info(sim, &info) == NVMX_ENTER);
    cr_assert(sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) == 0x80000b0e);
}

static void reflected(struct sim *sim) {
    entry_pending(sim);
    l2_moved(sim);
    cr_assert(sim_exit(sim, CPUID, 0, 0, 2) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT);
}

static void resumed(struct sim *sim) {
    reflected(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x2347);
    resume(sim);
}

static void reflected_then_another(struct sim *sim) {
    reflected(sim);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
}

static void window_requested(struct sim *sim) {
    running(sim);
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert(sim_enter(sim, &pending) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_L2);
    cr_assert((sim_get(sim, sim->selected, NVMX_F_PRIMARY_CONTROLS) & 4) != 0, "no window was requested");
}

static void interrupt_injected(struct sim *sim) {
    running(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 0x202);
    sim->vectors[0] = 0x41;
    sim->vectors_count = 1;
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert(sim_enter(sim, &pending) == NVMX_ENTER);
    cr_assert(sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) == 0x80000041);
}

static void timer_world(struct sim *sim) {
    ready(sim);
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, TIMER);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, SAVE_TIMER);
    l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 5000);
}

static void remainder_of_the_timer(struct sim *sim) {
    timer_world(sim);
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 1234);
    cr_assert(sim_exit(sim, EPT_VIOLATION, 0x181, 0, 0) == NVMX_ENTER);
}

/* An event is injected with the entry and an interrupt waits: vmcs02's timer is 0, L1's own waits. */
static void timer_forced(struct sim *sim) {
    timer_world(sim);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
    launch(sim);
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert(sim_enter(sim, &pending) == NVMX_ENTER);
    cr_assert(sim_get(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE) == 0, "the timer is not forced");
}

static void to_pae(struct sim *sim) {
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 9);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CR4, 0x2020);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
}

static void pae(struct sim *sim) {
    ready(sim);
    to_pae(sim);
    for (uint32_t i = 0; i < 4; i++)
        l1_writes(sim, NVMX_VMCS_GUEST_PDPTE0 + 2 * i, 0x10001 + i * 0x1000);
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_PDPTE2, 0x77001);
}

/* L2's PDPTEs were read from L1's memory, which has changed since. */
static void pae_without_ept(struct sim *sim) {
    ready(sim);
    to_pae(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, 1u << 1);
    for (uint32_t i = 0; i < 4; i++)
        sim_write64(sim, 0x2000 + 8 * i, 0x20001 + i * 0x1000);
    launch(sim);
    for (uint32_t i = 0; i < 4; i++)
        sim_write64(sim, 0x2000 + 8 * i, UINT64_MAX);
}

/* L1 does not save EFER on exits, nor see it: L2's own is only in vmcs02. */
static void own_efer(struct sim *sim) {
    ready(sim);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 20);
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_EFER, 0xd01);
    sim_set(sim, sim->selected, NVMX_F_GUEST_DR7, 0x401);
    cr_assert(sim_exit(sim, EPT_VIOLATION, 0x181, 0, 0) == NVMX_ENTER);
}

/* L2 switched paging off: EFER.LMA with it. */
static void left_long_mode(struct sim *sim) {
    ready(sim);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, 1u << 7);
    launch(sim);
    uint32_t vmcs02 = sim->selected;
    sim_set(sim, vmcs02, NVMX_F_GUEST_CR0, 0x33);
    sim_set(sim, vmcs02, NVMX_F_GUEST_EFER, 0);
    sim_set(sim, vmcs02, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    sim_set(sim, vmcs02, NVMX_F_VM_ENTRY_CONTROLS, sim_get(sim, vmcs02, NVMX_F_VM_ENTRY_CONTROLS) & ~0x200ull);
    cr_assert(sim_exit(sim, EPT_VIOLATION, 0x181, 0, 0) == NVMX_ENTER);
}

static void apic_pages(struct sim *sim) {
    ready(sim);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 21);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, 1u << 0);
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
    launch(sim);
}

/* Machine checks stay enabled behind the host's mask, and L2 has CR4.MCE clear. */
static void machine_checks_kept(struct sim *sim) {
    const uint64_t mce = 0x40;
    ready(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, sim_get(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK) | mce);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4) | mce);
    nvmx_vmcs01_changed(sim->vcpu);
    launch(sim);
    cr_assert(sim_get(sim, sim->selected, NVMX_F_GUEST_CR4) & mce);
}

static void aborted(struct sim *sim) {
    ready(sim);
    l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
    l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x400);
    sim_write64(sim, SIM_L1_MSR_LISTS + 0x400, 0xdead);
    launch(sim);
    cr_assert(sim_exit(sim, CPUID, 0, 0, 2) == NVMX_STOP && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT);
}

const struct state_world state_worlds[] = {
    {"VMX off", {0}, off},
    {"FEATURE_CONTROL not locked", {0}, unlocked},
    {"VMX not exposed", {.hidden = true}, off},
    {"VMX operation, no VMCS", {0}, root},
    {"after VMXOFF", {0}, vmxoff_after_l2},
    {"current VMCS cleared", {0}, cleared},
    {"a current VMCS", {0}, written},
    {"a current VMCS, shadowed", {.shadow = true}, written},
    {"two VMCSs", {0}, two_cached},
    {"two VMCSs, one slot", {.vmcs02_slots = 1}, two_cached},
    {"two VMCSs, each with a shadow VMCS", {.shadow = true, .shadows = true}, two_cached},
    {"a refused entry", {0}, failed},
    {"an entry pending", {0}, entry_pending},
    {"an entry pending, shadowed", {.shadow = true}, entry_pending},
    {"an entry pending with an event", {0}, entry_pending_with_event},
    {"L2 runs", {0}, running},
    {"L2 runs, the host composes", {.host_composes = true}, entry_pending},
    {"L2 runs without VPIDs", {.no_vpid = true}, running},
    {"an exit of L2 left to the host", {.external_interrupts = true}, l2_left_to_host},
    {"an event of L2 to be delivered again", {0}, l2_event_requeued},
    {"an exit reflected", {0}, reflected},
    {"an exit reflected, shadowed", {.shadow = true}, reflected},
    {"an exit reflected, then another VMCS, each with a shadow VMCS", {.shadow = true, .shadows = true}, reflected_then_another},
    {"L2 resumed", {0}, resumed},
    {"an exit reflected, then another VMCS", {0}, reflected_then_another},
    {"a window requested", {.external_interrupts = true}, window_requested},
    {"an interrupt injected", {.external_interrupts = true}, interrupt_injected},
    {"the remainder of the preemption timer", {0}, remainder_of_the_timer},
    {"the timer forced", {.external_interrupts = true}, timer_forced},
    {"L2 in PAE paging", {0}, pae},
    {"L2 in PAE paging without EPT", {0}, pae_without_ept},
    {"an EFER that only vmcs02 has", {0}, own_efer},
    {"L2 left long mode", {0}, left_long_mode},
    {"APIC pages in use", {0}, apic_pages},
    {"the host keeps machine checks enabled", {0}, machine_checks_kept},
    {"VMX abort", {0}, aborted},
};
const size_t state_world_count = COUNT(state_worlds);

struct sim *state_world_new(const struct state_world *world) {
    struct sim *sim = sim_new(&world->options);
    cr_assert(sim->vcpu != NULL, "%s: no vCPU", world->name);
    world->reach(sim);
    return sim;
}
