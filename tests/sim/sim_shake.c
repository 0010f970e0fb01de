/* SPDX-License-Identifier: MIT */
/* Shaking: the nested state is taken out of the vCPU and put into another one, in other memory, with other pages. */
#include <nvmx/exits.h>
#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

#include "sim_internal.h"

uint8_t *sim_save(struct sim *sim, size_t *bytes) {
    size_t room = nvmx_state_size(sim->vcpu);
    uint8_t *blob = malloc(room);
    if (!blob)
        sim_broken("no memory for a blob");
    memset(blob, 0xee, room);
    enum nvmx_status status = nvmx_state_save(sim->vcpu, blob, room, bytes);
    if (status != NVMX_OK && sim_sweep.failed) {
        free(blob);
        sim_sweep.gives_up();
    }
    if (status != NVMX_OK)
        sim_broken("nvmx_state_save: %s", nvmx_status_text(status));
    return blob;
}

static void destroy(struct sim *sim, bool whole) {
    nvmx_vcpu_destroy(sim->vcpu);
    if (sim->mapped)
        sim_broken("%llu pages of L1 are still mapped", (unsigned long long)sim->mapped);
    if (whole)
        nvmx_vm_destroy(sim->vm);
    for (uint32_t which = NVMX_VMCS_SHADOW; which < SIM_VMCSS; which = sim_next_vmcs(which))
        sim_poison(sim, which);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
    sim->selected = NVMX_VMCS01;
}

/* The old memory is freed after the new one was taken, so that they are not the same. */
static void create(struct sim *sim, bool whole) {
    void *vcpu_memory = sim->vcpu_memory, *vm_memory = sim->vm_memory;
    enum nvmx_status status = whole ? sim_make_vm(sim) : NVMX_OK;
    if (status == NVMX_OK)
        status = sim_make_vcpu(sim);
    if (status != NVMX_OK)
        sim_broken("VM and vCPU can't be made again: %s", nvmx_status_text(status));
    free(vcpu_memory);
    if (whole)
        free(vm_memory);
}

static void restore(struct sim *sim, const uint8_t *blob, size_t bytes) {
    struct nvmx_state_error error;
    if (nvmx_state_restore(sim->vcpu, blob, bytes, &error) == NVMX_STATE_OK)
        return;
    const struct nvmx_check_row *row = nvmx_check_row(error.check_row);
    sim_broken("nvmx_state_restore: %s (offset %llu, detail %#x, entry check %s)", nvmx_state_reason_text(error.reason),
               (unsigned long long)error.offset, error.detail, row ? row->id : "none");
}

static void expect_same(struct sim *sim, const uint8_t *blob, size_t bytes, const char *when) {
    size_t again_bytes, at = 0;
    uint8_t *again = sim_save(sim, &again_bytes);
    while (at < bytes && at < again_bytes && blob[at] == again[at])
        at++;
    if (again_bytes != bytes || at != bytes)
        sim_broken("%s, saved again: %zu bytes instead of %zu, the first difference at %zu", when, again_bytes, bytes, at);
    free(again);
}

/*
 * A preemption timer that the host counts and that is over, or a bus lock that L1 is to hear of, ends L2 before anything else (SDM 28.2): the state then is
 * L1's.
 */
static bool ended_l2(struct sim *sim) {
    uint64_t reason = 0;
    if (nvmx_mode(sim->vcpu) != NVMX_MODE_ROOT || sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &reason) != SIM_SUCCEED)
        return false;
    return (sim->options.deadline && reason == NVMX_EXIT_PREEMPTION_TIMER) || reason == (NVMX_EXIT_BUS_LOCK | 1u << 26);
}

void sim_shake(struct sim *sim, bool whole) {
    enum nvmx_mode mode = nvmx_mode(sim->vcpu);
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    expect_same(sim, blob, bytes, "saved");
    destroy(sim, whole);
    create(sim, whole);
    restore(sim, blob, bytes);
    expect_same(sim, blob, bytes, "restored");
    if (nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE) {
        bool entered = sim_enter(sim, NULL) == NVMX_ENTER;
        if (!entered && sim_sweep.failed) {
            free(blob);
            sim_sweep.gives_up();
        }
        if (!entered)
            sim_broken("nvmx_enter after nvmx_state_restore: %s", nvmx_status_text(nvmx_stop_status(sim->vcpu)));
        if (nvmx_mode(sim->vcpu) == mode || !ended_l2(sim))
            expect_same(sim, blob, bytes, "restored and completed");
    }
    free(blob);
}
