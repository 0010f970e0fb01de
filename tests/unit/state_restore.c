/* SPDX-License-Identifier: MIT */
/* Restoring: into any vCPU, with failing callbacks, with L1's pages there or not; and that it goes on from there. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "state_doc.h"

static const struct state_world *world_named(const char *name) {
    for (size_t i = 0; i < state_world_count; i++)
        if (strcmp(state_worlds[i].name, name) == 0)
            return &state_worlds[i];
    cr_assert(false, "there is no world '%s'", name);
    return NULL;
}

static void expect_saved(struct sim *sim, const uint8_t *blob, size_t bytes, const char *what) {
    size_t again_bytes;
    uint8_t *again = sim_save(sim, &again_bytes);
    cr_expect(again_bytes == bytes && memcmp(again, blob, bytes) == 0, "%s: saved again, it is not the same", what);
    free(again);
}

static void copy_machine(struct sim *to, const struct sim *from) {
    memcpy(to->ram, from->ram, SIM_RAM_BYTES);
    to->vmcs[NVMX_VMCS01] = from->vmcs[NVMX_VMCS01];
    to->selected = NVMX_VMCS01;
    to->regs = from->regs;
}

/* What the vCPU was before does not matter, and nothing of it stays. */
Test(state_restore, over_any_other_state) {
    size_t pairs = 0;
    for (size_t i = 0; i < state_world_count; i++) {
        struct sim *source = state_world_new(&state_worlds[i]);
        size_t bytes;
        uint8_t *blob = sim_save(source, &bytes);
        for (size_t j = 0; j < state_world_count; j++) {
            if (state_worlds[j].options.vmcs02_slots == 1)
                continue;
            struct sim *target = state_world_new(&state_worlds[j]);
            /* Some options change what L1 sees. */
            if (memcmp(nvmx_l1_caps(target->vm), nvmx_l1_caps(source->vm), sizeof(struct nvmx_caps)) != 0) {
                sim_free(target);
                continue;
            }
            pairs++;
            cr_assert(nvmx_state_restore(target->vcpu, blob, bytes, NULL) == NVMX_STATE_OK, "%s over %s",
                      state_worlds[i].name, state_worlds[j].name);
            cr_expect(target->mapped == 0, "%s over %s: pages are still mapped", state_worlds[i].name, state_worlds[j].name);
            expect_saved(target, blob, bytes, state_worlds[j].name);
            sim_free(target);
        }
        sim_free(source);
        free(blob);
    }
    cr_expect(pairs > state_world_count * state_world_count / 2, "only %zu pairs", pairs);
}

/* SDM 34.14: an SMI takes L1's processor out of VMX operation until RSM. The host saves, resets the vCPU, runs the handler in vmcs01, and restores. */
Test(state_restore, a_handler_of_smis_runs_in_between) {
    for (size_t i = 0; i < state_world_count; i++) {
        struct sim *sim = state_world_new(&state_worlds[i]);
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        const enum nvmx_mode mode = nvmx_mode(sim->vcpu);
        const struct sim_vmcs before = sim->vmcs[NVMX_VMCS01];
        const struct nvmx_regs regs = sim->regs;
        bool stopped = nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE;
        uint64_t value;
        nvmx_vcpu_reset(sim->vcpu);
        cr_expect(sim->mapped == 0, "%s", state_worlds[i].name);
        sim_repair(sim);
        cr_expect(sim_enter(sim, NULL) == NVMX_ENTER);
        if (!sim->options.hidden)
            cr_expect(sim_vmread(sim, NVMX_VMCS_GUEST_RIP, &value) == SIM_FAULT && sim_fault_vector(sim) == 6, "%s", state_worlds[i].name);
        cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK, "%s", state_worlds[i].name);
        sim->vmcs[NVMX_VMCS01] = before;
        sim->regs = regs;
        cr_expect(stopped || nvmx_state_complete(sim->vcpu) == NVMX_OK, "%s", state_worlds[i].name);
        cr_expect(nvmx_mode(sim->vcpu) == mode);
        expect_saved(sim, blob, bytes, state_worlds[i].name);
        cr_expect(stopped || sim_enter(sim, NULL) == NVMX_ENTER);
        sim_free(sim);
        free(blob);
    }
}

static void complete_with_failures(const struct state_world *world) {
    struct sim *source = state_world_new(world);
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    bool failed = true;
    for (uint64_t k = 1; failed; k++) {
        struct sim *sim = sim_new(&world->options);
        copy_machine(sim, source);
        cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK, "%s", world->name);
        sim->calls = 0;
        sim->failed = 0;
        sim->fail = (struct sim_fail){.at = k};
        enum nvmx_status status = nvmx_state_complete(sim->vcpu);
        failed = sim->failed != 0;
        sim->fail = (struct sim_fail){0};
        expect_saved(sim, blob, bytes, world->name);
        if (status != NVMX_OK) {
            cr_assert(failed, "%s: %s", world->name, nvmx_status_text(status));
            cr_assert(nvmx_state_complete(sim->vcpu) == NVMX_OK, "%s: callback %lu: not again", world->name, k);
            expect_saved(sim, blob, bytes, world->name);
        }
        cr_expect(nvmx_stop_reason(sim->vcpu) == nvmx_stop_reason(source->vcpu), "%s: callback %lu", world->name, k);
        if (nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE)
            cr_expect(sim_enter(sim, NULL) == NVMX_ENTER, "%s: callback %lu", world->name, k);
        sim_free(sim);
    }
    sim_free(source);
    free(blob);
}

Test(state_restore, completing_can_fail_and_be_repeated) {
    for (size_t i = 0; i < state_world_count; i++)
        complete_with_failures(&state_worlds[i]);
}

/* A value that no MSR holds, where the host's vmcs02 does not load it: completing says so, loses nothing, and does it where the host does. */
Test(state_restore, what_has_no_place_here_is_refused) {
    static const uint64_t dr7[] = {0x400, 0x455};
    for (size_t i = 0; i < COUNT(dr7); i++) {
        struct sim *source = state_world_new(world_named("L2 runs"));
        size_t bytes;
        sim_set(source, NVMX_VMCS02_FIRST, NVMX_F_GUEST_DR7, dr7[i]);
        uint8_t *blob = sim_save(source, &bytes);
        struct sim *sim = sim_new(NULL);
        copy_machine(sim, source);
        uint64_t controls = sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS, controls & ~UINT64_C(4)); /* load debug controls */
        cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
        cr_expect_eq(nvmx_state_complete(sim->vcpu), i == 0 ? NVMX_OK : NVMX_E_UNSUPPORTED);
        if (i != 0) {
            expect_saved(sim, blob, bytes, "DR7 has no place");
            sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS, controls);
            cr_expect_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_DR7), dr7[i]);
        }
        cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
        sim_free(sim);
        sim_free(source);
        free(blob);
    }
}

#define LOAD_PAT (UINT64_C(1) << 14) /* a VM-entry control */

/* Where the old host had L2's IA32_PAT in the MSR itself, and this one loads it with vmcs02, it is taken from the MSR. */
Test(state_restore, what_came_as_an_msr_goes_into_vmcs02) {
    struct sim *source = state_world_new(world_named("L2 runs"));
    size_t bytes;
    l2_leaves(source);
    host_sets(source, NVMX_F_VM_ENTRY_CONTROLS, sim_get(source, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) & ~LOAD_PAT);
    l1_clears(source, NVMX_VMCS_VM_ENTRY_CONTROLS, LOAD_PAT);
    resume(source);
    cr_assert_eq(vmcs02(source, NVMX_F_VM_ENTRY_CONTROLS) & LOAD_PAT, 0);
    uint8_t *blob = sim_save(source, &bytes);
    struct sim *sim = sim_new(NULL);
    copy_machine(sim, source);
    sim_msr(sim, 0x277)->value = 0x0007040600070406;
    host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) | LOAD_PAT);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_assert_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
    cr_expect(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & LOAD_PAT);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), UINT64_C(0x0007040600070406));
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

#define LOAD_BNDCFGS (UINT64_C(1) << 16)
#define MSR_BNDCFGS 0xd90

/*
 * IA32_BNDCFGS, which L1 does not have, vmcs01 loads on one of two machines only: where it does to keep the host's own from guests, or the processor lacks
 * it, a guest's access to the MSR gives #GP. L2 has nothing in it, and goes on.
 */
Test(state_restore, an_msr_that_one_of_two_machines_lacks) {
    for (unsigned int there = 0; there < 2; there++) {
        struct nvmx_caps machine, mask;
        sim_machine(&machine);
        mask = machine;
        machine.msr[NVMX_CAP_ENTRY] |= LOAD_BNDCFGS << 32;
        machine.msr[NVMX_CAP_TRUE_ENTRY] |= LOAD_BNDCFGS << 32;
        machine.msr[NVMX_CAP_EXIT] |= UINT64_C(1) << 55;
        machine.msr[NVMX_CAP_TRUE_EXIT] |= UINT64_C(1) << 55;
        mask.msr[NVMX_CAP_ENTRY] &= ~(LOAD_BNDCFGS << 32);
        mask.msr[NVMX_CAP_TRUE_ENTRY] &= ~(LOAD_BNDCFGS << 32);
        mask.msr[NVMX_CAP_EXIT] &= ~(UINT64_C(1) << 55);
        mask.msr[NVMX_CAP_TRUE_EXIT] &= ~(UINT64_C(1) << 55);
        struct sim_options with = {.machine = &machine, .mask = &mask, .loads_on_entry = LOAD_BNDCFGS}, without = {.mask = &mask};
        struct sim *source = l2_running(there ? &with : &without), *sim = sim_new(there ? &without : &with);
        size_t bytes;
        uint8_t *blob = sim_save(source, &bytes);
        copy_machine(sim, source);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS, sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) ^ LOAD_BNDCFGS);
        sim_msr(sim, MSR_BNDCFGS)->refuse_read = sim_msr(sim, MSR_BNDCFGS)->refuse_write = true;
        cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
        cr_expect_eq(nvmx_state_complete(sim->vcpu), NVMX_OK, "%u: %s", there, nvmx_status_text(nvmx_state_complete(sim->vcpu)));
        cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER, "%u", there);
        if (!there)
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_BNDCFGS), vmcs01(sim, NVMX_F_GUEST_BNDCFGS));
        sim_free(sim);
        sim_free(source);
        free(blob);
    }
}

/* Where hardware refuses an entry that was pending when it was saved, no exit of this vCPU says how long L1's VMLAUNCH is. */
Test(state_restore, a_pending_entry_that_hardware_refuses) {
    struct sim *source = state_world_new(world_named("an entry pending"));
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    struct sim *sim = sim_new(NULL);
    copy_machine(sim, source);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_EXIT_INSTRUCTION_LENGTH, 9);
    const uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_assert_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_assert_eq(nvmx_entry_refused(sim->vcpu, 7), NVMX_ENTER);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RIP), rip + 3, "past VMLAUNCH");
    cr_expect_eq(sim_instruction_error(sim), 7);
    /* Of L1's next VM entry, which has a prefix, the exit says it. */
    const uint64_t next = vmcs01(sim, NVMX_F_GUEST_RIP);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_VMLAUNCH, 0, 0, 4), NVMX_ENTER);
    cr_assert_eq(nvmx_entry_refused(sim->vcpu, 8), NVMX_ENTER);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RIP), next + 4);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* The same with VMCS shadowing: L1 finds its vmcs12 in this vCPU's shadow VMCS, and its next VM entry takes nothing else from there. */
Test(state_restore, after_a_refused_entry_the_shadow_vmcs_is_filled) {
    static const struct sim_options options[] = {{.shadow = true}, {.shadow = true, .shadows = true}, {.shadow = true, .learns_writes = true}};
    for (size_t i = 0; i < COUNT(options); i++) {
        struct sim *source = l2_running(&options[i]), *sim = sim_new(&options[i]);
        size_t bytes;
        uint8_t *blob = sim_save(source, &bytes);
        copy_machine(sim, source);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
        cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
        cr_assert_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_assert_eq(nvmx_entry_refused(sim->vcpu, 7), NVMX_ENTER);
        const uint64_t exits = nvmx_counts(sim->vcpu)->exits_l1;
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000);
        cr_expect_eq(nvmx_counts(sim->vcpu)->exits_l1, exits, "the test needs a shadowed field");
        cr_expect_eq(sim_instruction_error(sim), 7);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000);
        l2_leaves(sim);
        sim_free(sim);
        sim_free(source);
        free(blob);
    }
}

/* Saved after an instruction that the host carried out, before the entry after it: L1's monitor trap flag is due all the same. */
Test(state_restore, a_step_that_the_host_carried_out) {
    for (unsigned int moved = 0; moved < 2; moved++) {
        struct sim *source = state_world_new(world_named("L2 runs"));
        size_t bytes;
        l2_leaves(source);
        l1_sets(source, NVMX_VMCS_PRIMARY_CONTROLS, PROC_MONITOR_TRAP);
        resume(source);
        cr_assert_eq(sim_exit(source, NVMX_EXIT_WBINVD, 0, 0, 2), NVMX_HOST);
        sim_set(source, source->selected, NVMX_F_GUEST_RIP, vmcs02(source, NVMX_F_GUEST_RIP) + 2 * moved);
        uint8_t *blob = sim_save(source, &bytes);
        struct sim *sim = sim_new(NULL);
        copy_machine(sim, source);
        cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
        cr_assert_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), moved ? 0x80000700 : 0);
        cr_expect_eq(sim_enter(source, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(source, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), moved ? 0x80000700 : 0, "and here, where it goes on");
        sim_free(sim);
        sim_free(source);
        free(blob);
    }
}

/* L1's pages come later than its state: completing says so, and then does it. */
Test(state_restore, pages_that_come_later) {
    struct sim *source = state_world_new(world_named("APIC pages in use"));
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    struct sim *sim = sim_new(NULL);
    copy_machine(sim, source);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, NVMX_PAGE_SIZE, 0, 12, 0, 6);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_expect(nvmx_state_complete(sim->vcpu) == NVMX_E_UNMAPPED);
    cr_expect(nvmx_state_complete(sim->vcpu) == NVMX_E_UNMAPPED);
    expect_saved(sim, blob, bytes, "without pages");
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, NVMX_PAGE_SIZE, SIM_HPA_OFFSET + SIM_L1_VIRTUAL_APIC, 12, 7, 6);
    cr_expect(nvmx_state_complete(sim->vcpu) == NVMX_OK);
    cr_expect(sim_enter(sim, NULL) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_L2);
    cr_expect(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* Without the second step in time the vCPU stops, and says why. */
Test(state_restore, entering_without_the_pages_stops) {
    struct sim *source = state_world_new(world_named("APIC pages in use"));
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    struct sim *sim = sim_new(NULL);
    copy_machine(sim, source);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, NVMX_PAGE_SIZE, 0, 12, 0, 6);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_expect(nvmx_enter(sim->vcpu, NULL) == NVMX_STOP && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_HOST);
    cr_expect(nvmx_stop_status(sim->vcpu) == NVMX_E_UNMAPPED);
    size_t ignored;
    cr_expect(nvmx_state_save(sim->vcpu, blob, bytes, &ignored) == NVMX_E_HOST);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* Restored elsewhere, the same things happen as here. */
Test(state_restore, it_goes_on_from_there) {
    struct sim *source = state_world_new(world_named("L2 runs"));
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    struct sim *sim = sim_new(NULL);
    copy_machine(sim, source);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_assert(sim_enter(sim, NULL) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_L2);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x2345);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), UINT64_C(0x0606060606060606));
    l2_leaves(sim);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RIP), SIM_L1_EXIT_HANDLER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x2345);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_FS_BASE), 0x77000);
    resume(sim);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* The VM made with the profile as its mask shows L1 what it saw before. */
Test(state_restore, a_profile_makes_the_same_vm) {
    struct nvmx_caps less, seen;
    sim_machine(&less);
    less.msr[NVMX_CAP_PROCBASED2] &= ~(UINT64_C(1) << 37); /* no VPID */
    struct sim *source = sim_new(&(struct sim_options){.mask = &less});
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    cr_assert(nvmx_state_profile(blob, bytes, &seen));
    struct sim *sim = sim_new(&(struct sim_options){.mask = &seen});
    struct nvmx_caps here = *nvmx_l1_caps(sim->vm), there = *nvmx_l1_caps(source->vm);
    cr_expect(memcmp(here.msr, there.msr, sizeof(here.msr)) == 0);
    cr_expect(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    expect_saved(sim, blob, bytes, "the same VM");
    cr_expect(!nvmx_state_profile(blob, bytes - 1, &seen), "no whole blob");
    blob[bytes / 2] ^= 1;
    cr_expect(!nvmx_state_profile(blob, bytes, &seen), "a damaged one");
    cr_expect(!nvmx_state_profile(NULL, 0, &seen));
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* What L1 saw is more than another CPU offers: refused, and the MSR named. */
Test(state_restore, to_a_lesser_cpu) {
    struct nvmx_caps less;
    struct nvmx_state_error error;
    sim_machine(&less);
    less.msr[NVMX_CAP_PROCBASED2] &= ~(UINT64_C(1) << 37);
    struct sim *source = sim_new(NULL), *sim = sim_new(&(struct sim_options){.machine = &less});
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    cr_expect(nvmx_state_restore(sim->vcpu, blob, bytes, &error) == NVMX_STATE_CAPABILITIES && error.detail == 0x48b,
              "%s, MSR %#x", nvmx_state_reason_text(error.reason), error.detail);
    sim_free(sim);
    sim_free(source);
    free(blob);
}

/* Saving needs exactly as much memory as it says. */
Test(state_restore, too_little_memory_for_saving) {
    struct sim *sim = state_world_new(world_named("L2 runs"));
    size_t bytes, used;
    uint8_t *blob = sim_save(sim, &bytes);
    cr_expect(bytes <= nvmx_state_size(sim->vcpu));
    for (size_t room = 0; room < bytes; room++) {
        uint8_t *small = malloc(room ? room : 1);
        cr_assert(nvmx_state_save(sim->vcpu, small, room, &used) == NVMX_E_SIZE, "%zu bytes", room);
        free(small);
    }
    uint8_t *exact = malloc(bytes);
    cr_expect(nvmx_state_save(sim->vcpu, exact, bytes, &used) == NVMX_OK && used == bytes && memcmp(exact, blob, bytes) == 0);
    free(exact);
    sim_free(sim);
    free(blob);
}

/* What L2 leaves of its timer after the vCPU was saved L1 finds, also where it is all that an exit does not read at once. */
Test(state_restore, saving_keeps_the_timer_with_l2) {
    struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = true});
    struct nvmx_pending pending = {.interrupt = true};
    size_t bytes;
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
    l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 5000);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x202);
    launch(sim);
    for (unsigned int i = 0; i < NVMX_FIELD_COUNT; i++) { /* a field is learned with each exit */
        l2_leaves(sim);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
            if (nvmx_set_has(&sim->vm->guest_state, slot) && nvmx_set_has(&sim->vm->exists, slot) && slot != NVMX_F_PREEMPTION_TIMER_VALUE)
                l1_reads(sim, nvmx_field_info(slot)->encoding);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, i == NVMX_FIELD_COUNT - 1 ? 0x80000030 : 0);
        resume(sim);
    }
    sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 1234);
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 0, "the timer is not forced");
    free(sim_save(sim, &bytes));
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_assert_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), 1234);
    sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 1000);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 1000);
    sim_free(sim);
}

/* Saving fails where a callback does, and L2 goes on. */
Test(state_restore, saving_with_failures) {
    struct sim *sim = state_world_new(world_named("L2 resumed"));
    size_t bytes, used;
    uint8_t *blob = sim_save(sim, &bytes), *other = malloc(bytes);
    bool failed = true;
    for (uint64_t k = 1; failed; k++) {
        sim->calls = sim->failed = 0;
        sim->fail = (struct sim_fail){.at = k};
        enum nvmx_status status = nvmx_state_save(sim->vcpu, other, bytes, &used);
        failed = sim->failed != 0;
        sim->fail = (struct sim_fail){0};
        cr_expect((status != NVMX_OK) == failed, "callback %lu", k);
        cr_assert(sim_enter(sim, NULL) == NVMX_ENTER || failed, "callback %lu", k);
    }
    expect_saved(sim, blob, bytes, "after failures");
    l2_leaves(sim);
    free(other);
    sim_free(sim);
    free(blob);
}

/* Tools see the records in order. */
Test(state_restore, records_can_be_listed) {
    struct sim *sim = state_world_new(world_named("L2 runs"));
    struct nvmx_state_record record;
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    uint64_t offset = 0;
    uint32_t tags[8], count = 0;
    while (count < 8 && nvmx_state_next(blob, bytes, &offset, &record))
        tags[count++] = record.tag;
    cr_assert_eq(count, 4);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_eq(tags[i], 2 * i + 1);
    cr_expect(record.items > 50 && record.head[0] == NVMX_STATE_L2_IA32E);
    sim_free(sim);
    free(blob);
}

/* What the host's mask takes away because L0 depends on it (nvmx.h) no blob brings back: vmcs12's own VM-entry controls are those that L1 may have. */
Test(state_restore, no_load_that_the_mask_takes_away) {
    static struct doc doc;
    static uint8_t changed[65536];
    const uint64_t load = UINT64_C(1) << 13; /* IA32_PERF_GLOBAL_CTRL */
    struct nvmx_caps machine, mask;
    sim_machine(&machine);
    mask = machine;
    mask.msr[NVMX_CAP_ENTRY] &= ~(load << 32);
    mask.msr[NVMX_CAP_TRUE_ENTRY] &= ~(load << 32);
    struct sim *sim = l2_running(&(struct sim_options){.mask = &mask});
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    doc_read(&doc, blob, bytes);
    struct doc_record *vmcs = doc_find(&doc, NVMX_STATE_TAG_VMCS, 0);
    doc_set(vmcs, NVMX_VMCS_VM_ENTRY_CONTROLS, doc_value(vmcs, NVMX_VMCS_VM_ENTRY_CONTROLS) | load);
    bytes = doc_write(&doc, changed, sizeof(changed));
    if (nvmx_state_restore(sim->vcpu, changed, bytes, NULL) == NVMX_STATE_OK)
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & load, 0, "vmcs02 loads it, and L0 runs on with the value");
    sim_free(sim);
    free(blob);
}

#define RTIT_TRACE_EN UINT64_C(1)

/* L1 has no Intel PT in VMX operation, nor has its L2: where vmcs01 loads IA32_RTIT_CTL, the processor would trace to where the host's buffers are. */
Test(state_restore, no_blob_makes_l2_trace) {
    static struct doc doc;
    static uint8_t changed[65536];
    const uint32_t load = 1u << 18;
    struct nvmx_state_error error;
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_ENTRY] |= (uint64_t)load << 32;
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= (uint64_t)load << 32;
    machine.rtit_ctl_valid = 0x2fff;
    for (unsigned int traces = 0; traces < 2; traces++) {
        struct sim *sim = l2_running(&(struct sim_options){.machine = &machine, .loads_on_entry = load});
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        doc_read(&doc, blob, bytes);
        cr_assert(doc_has(doc_find(&doc, NVMX_STATE_TAG_L2, 0), NVMX_VMCS_GUEST_RTIT_CTL), "vmcs02 loads it, as vmcs01 does");
        doc_set(doc_find(&doc, NVMX_STATE_TAG_L2, 0), NVMX_VMCS_GUEST_RTIT_CTL, 0x2000 | (traces ? RTIT_TRACE_EN : 0));
        bytes = doc_write(&doc, changed, sizeof(changed));
        cr_expect_eq(nvmx_state_restore(sim->vcpu, changed, bytes, &error), traces ? NVMX_STATE_ENTRY_CHECK : NVMX_STATE_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RTIT_CTL) & RTIT_TRACE_EN, 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RTIT_CTL), traces ? 0 : 0x2000);
        sim_free(sim);
        free(blob);
    }
}

/* Bits of IA32_SPEC_CTRL that vmcs01 protects are the host's here, whatever they were where L2 comes from: the host's WRMSR puts what L2 had behind them. */
Test(state_restore, protected_spec_ctrl_stays_the_hosts) {
    static struct doc doc;
    static uint8_t changed[65536];
    const uint32_t load = 1u << 24;
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_ENTRY] |= (uint64_t)load << 32;
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= (uint64_t)load << 32;
    machine.msr[NVMX_CAP_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= (uint64_t)PROC_TERTIARY << 32;
    machine.msr[NVMX_CAP_PROCBASED3] = PROC3_SPEC_CTRL;
    machine.spec_ctrl_valid = 7;
    for (unsigned int how = 0; how < 4; how++) {
        const bool protects = (how & 1) != 0, there = (how & 2) != 0;
        struct sim *sim = sim_new(&(struct sim_options){.machine = &machine, .loads_on_entry = load});
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SPEC_CTRL, 5);
        sim_msr(sim, 0x48)->value = 0; /* what L2 reads */
        if (protects) {
            host_sets(sim, NVMX_F_PRIMARY_CONTROLS, sim_get(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS) | PROC_TERTIARY);
            host_sets(sim, NVMX_F_TERTIARY_CONTROLS, PROC3_SPEC_CTRL);
        }
        cr_assert_eq(sim_launch(sim), SIM_L2);
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        doc_read(&doc, blob, bytes);
        cr_assert_eq(doc_value(doc_find(&doc, NVMX_STATE_TAG_L2, 0), NVMX_VMCS_GUEST_SPEC_CTRL), 5);
        if (there)
            doc_set(doc_find(&doc, NVMX_STATE_TAG_L2, 0), NVMX_VMCS_GUEST_SPEC_CTRL, 2);
        else
            doc_remove(doc_find(&doc, NVMX_STATE_TAG_L2, 0), NVMX_VMCS_GUEST_SPEC_CTRL);
        bytes = doc_write(&doc, changed, sizeof(changed));
        cr_assert_eq(nvmx_state_restore(sim->vcpu, changed, bytes, NULL), NVMX_STATE_OK);
        cr_assert_eq(nvmx_state_complete(sim->vcpu), NVMX_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_SPEC_CTRL), protects ? 5 : there ? 2 : 0, "%u: %#lx", how, vmcs02(sim, NVMX_F_GUEST_SPEC_CTRL));
        cr_expect_eq(sim_msr(sim, 0x48)->writes, protects && there);
        cr_expect_eq(sim_msr(sim, 0x48)->value, protects && there ? 2 : 0);
        sim_free(sim);
        free(blob);
    }
}
