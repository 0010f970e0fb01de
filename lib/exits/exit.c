/* SPDX-License-Identifier: MIT */
/* An exit of L2: decide, then reflect it, deal with it, or leave it to the host. */
#include "exits.h"

/* Exits that are the host's before anything is read: all that L1 has no control for, and interrupts that the host owns.
 */
static bool host_only(const struct nvmx_vcpu *vcpu, const struct exit_row *row) {
    bool owns_interrupts = (vcpu->host_control[NVMX_F_PIN_BASED_CONTROLS] & PIN_EXTERNAL_INTERRUPT) != 0;

    return row == NULL || (row->who == WHO_HOST && (row->information & INFO_O) == 0) ||
           (row->who == WHO_INTERRUPT && owns_interrupts);
}

/* With the monitor trap flag of L1 L2 leaves after an instruction that the host carries out, too: nvmx_enter sees to it. */
static enum nvmx_status note_step(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = NVMX_OK;

    if (RARE((vmcs12_current(vcpu)->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MONITOR_TRAP) != 0)) {
        status = host_read(vcpu, NVMX_F_GUEST_RIP, &vcpu->step_rip);
        vcpu->step_with_host = status == NVMX_OK;
    }
    return status;
}

/* L1 has no control for it: an instruction that the host may know (ENQCMD), or nothing of L2's. */
static COLD enum nvmx_next leave_to_host(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = note_step(vcpu);

    return status == NVMX_OK ? NVMX_HOST : stop(vcpu, NVMX_STOP_HOST, status);
}

/* What L1 does not see. */
static enum nvmx_next finish(struct nvmx_vcpu *vcpu, enum route route, const struct exit_row *row,
                             const struct nvmx_l2_exit_info *info) {
    enum nvmx_status status;

    switch (route) {
    case ROUTE_FAILED:
        return stop(vcpu, NVMX_STOP_HOST, NVMX_E_HOST);
    case ROUTE_DONE:
        vcpu->counts.handled++;
        return NVMX_ENTER;
    default:
        status = event_requeue(vcpu, row, info);
        if (status == NVMX_OK && route == ROUTE_HOST) {
            status = note_step(vcpu);
        }
        if (status != NVMX_OK) {
            return stop(vcpu, NVMX_STOP_HOST, status);
        }
        if (route == ROUTE_HOST) {
            return NVMX_HOST;
        }
        vcpu->counts.handled++;
        return NVMX_ENTER;
    }
}

/* Hardware did not enter: of vmcs02 nothing is known, and the launch state is what it was (SDM 29.8). */
static void entry_undone(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    timer_cancel(vcpu);
    vcpu->bus_lock = false;
    v->known = (struct nvmx_field_set){{0}};
    v->inherited_same = 0;
    v->checked = 0;
    v->controls_merged = v->plain = false;
    if (vcpu->launching) {
        v->launched = false;
    }
}

/* Hardware refused guest state that the model accepted: L1 sees what hardware says. `ran`: L2 did run since L1's VM
 * entry. */
static enum nvmx_next hardware_refused(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, bool ran) {
    uint64_t qualification = 0;
    enum nvmx_status status = host_read(vcpu, NVMX_F_EXIT_QUALIFICATION, &qualification);

    if (status == NVMX_OK && ran) {
        status = sync_from_vmcs02(vcpu, v);
    }
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    entry_undone(vcpu, v);
    return reflect_entry_failure(vcpu, v, reason, qualification, true);
}

/*
 * Bus locks are L1's to hear of if it asked. An exit that L1 does not see must not swallow one: it comes with the next that L1 sees, or by an exit of its
 * own at the next entry (event.c).
 */
uint32_t bus_lock_noted(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t reason) {
    bool wanted = (secondary_controls(v) & PROC2_BUS_LOCK) != 0;

    vcpu->bus_lock = wanted && (vcpu->bus_lock || (reason & REASON_BUS_LOCK) != 0);
    return (reason & ~REASON_BUS_LOCK) | (vcpu->bus_lock ? REASON_BUS_LOCK : 0);
}

/* What nvmx_enter asked of vmcs02 ends, and hardware may have refused the entry. True: *next is what the exit comes to. */
static COLD bool ends_with_care(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t exit_reason, enum nvmx_next *next) {
    uint32_t reason = exit_reason & 0xffff;
    const struct exit_row *row = exit_row(reason);
    bool handled = false;
    bool ran = !vcpu->entry_pending;
    enum nvmx_status status = event_exit(vcpu, v, reason, &handled);

    if (status != NVMX_OK) {
        *next = stop(vcpu, NVMX_STOP_HOST, status);
        return true;
    }
    if ((exit_reason & NVMX_EXIT_ENTRY_FAILURE) != 0) {
        bool known = row != NULL && row->who == WHO_ENTRY_FAILURE;
        *next = known ? hardware_refused(vcpu, v, reason, ran) : NVMX_HOST;
        return true;
    }
    if (handled) {
        entry_is_over(vcpu);
        vcpu->counts.handled++;
        *next = NVMX_ENTER;
    }
    return handled;
}

enum nvmx_next l2_exit(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    const struct exit_row *row = exit_row(exit_reason & 0xffff);
    struct nvmx_l2_exit_info info;
    enum nvmx_next next;

    vcpu->host_fault_gpa1 = NVMX_NO_ADDRESS;
    if (RARE((exit_reason & REASON_BUS_LOCK) != 0 || vcpu->bus_lock)) {
        exit_reason = bus_lock_noted(vcpu, v, exit_reason);
    }
    if (RARE(vcpu->timer_forced || vcpu->window_requested != 0 || (exit_reason & NVMX_EXIT_ENTRY_FAILURE) != 0) &&
        ends_with_care(vcpu, v, exit_reason, &next)) {
        return next;
    }
    entry_is_over(vcpu);
    if (host_only(vcpu, row)) {
        return RARE(row == NULL || row->who != WHO_INTERRUPT) ? leave_to_host(vcpu) : NVMX_HOST;
    }
    exit_information_init(&info, exit_reason);
    enum nvmx_status status = vcpu->violation.decided ? violation_information(vcpu, &info) : exit_information(vcpu, row, &info);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (row->who != WHO_ALWAYS) {
        enum route route = exit_route(vcpu, v, exit_reason & 0xffff, row, &info);
        if (route != ROUTE_L1) {
            return finish(vcpu, route, row, &info);
        }
        if (RARE(info.reason != exit_reason)) { /* another exit, which comes with the same bus lock */
            info.reason |= exit_reason & REASON_BUS_LOCK;
            row = exit_row(info.reason & 0xffff);
        }
    }
    return reflect(vcpu, v, row->information, &info);
}

/*
 * RDMSR and WRMSR that L1 lets through and the host does not are the commonest exits of which L1 does not hear. Nothing is read for them: no event can have
 * been in delivery.
 */
bool l2_msr_is_hosts(struct nvmx_vcpu *vcpu, const struct msr_access *access) {
    if (!l2_alone_exits(vcpu) || !route_msr_is_hosts(vcpu, vmcs12_current(vcpu), access)) {
        return false;
    }
    vcpu->host_fault_gpa1 = NVMX_NO_ADDRESS;
    entry_is_over(vcpu);
    return true;
}

enum nvmx_next nvmx_l2_exit(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info) {
    const struct exit_row *row = exit_row(info->reason & 0xffff);

    if (vcpu->stop != NVMX_STOP_NONE) {
        return NVMX_STOP;
    }
    if (vcpu->mode != NVMX_MODE_L2 || row == NULL) {
        return NVMX_HOST;
    }
    enum nvmx_status status = (row->information & INFO_O) != 0 ? event_not_requeued(vcpu, info) : NVMX_OK;
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    return reflect_without_exit(vcpu, vmcs12_current(vcpu), row->information, info);
}

bool nvmx_l1_intercepts(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info) {
    const struct exit_row *row = exit_row(info->reason & 0xffff);
    struct nvmx_l2_exit_info copy = *info;

    if (vcpu->mode != NVMX_MODE_L2 || row == NULL) {
        return false;
    }
    return exit_route_asked(vcpu, vmcs12_current(vcpu), info->reason & 0xffff, row, &copy) == ROUTE_L1;
}

enum nvmx_ept_verdict nvmx_l2_translate(struct nvmx_vcpu *vcpu, uint64_t gpa2, uint64_t qualification, uint32_t bytes,
                                        struct nvmx_ept_fault *fault) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    struct nvmx_ept_log log;

    *fault = (struct nvmx_ept_fault){.gpa1 = gpa2};
    if (vcpu->mode != NVMX_MODE_L2) {
        fault->status = NVMX_E_INVALID;
        return NVMX_EPT_FAILED;
    }
    if ((secondary_controls(v) & PROC2_EPT) == 0) {
        return NVMX_EPT_RETRY;
    }
    if (vcpu->vm->ept == NULL) {
        fault->status = NVMX_E_UNSUPPORTED;
        return NVMX_EPT_FAILED;
    }
    struct nvmx_ept_access access = ept12_of(v, &log);
    access.gpa2 = gpa2;
    access.qualification = qualification;
    access.bytes = bytes;
    enum nvmx_ept_verdict verdict = nvmx_ept_translate(vcpu->vm->ept, vcpu->ctx, &access, fault);
    if (access.log != NULL) {
        v->value[NVMX_F_PML_INDEX] = log.index;
    }
    return verdict;
}

enum nvmx_next nvmx_entry_refused(struct nvmx_vcpu *vcpu, uint32_t vm_instruction_error) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    if (vcpu->stop != NVMX_STOP_NONE) {
        return NVMX_STOP;
    }
    /* Only while vmcs02 has not run does vmcs01 still stand at L1's VMLAUNCH or VMRESUME. */
    if (vcpu->mode != NVMX_MODE_L2 || !vcpu->entry_pending) {
        return stop(vcpu, NVMX_STOP_HOST, NVMX_E_INVALID);
    }
    enum nvmx_status status = event_end(vcpu, v);
    entry_undone(vcpu, v);
    vcpu->mode = NVMX_MODE_ROOT;
    if (status == NVMX_OK && v->shadow->unknown) { /* the entry came by nvmx_state_restore: L1 has not run with it yet */
        status = shadow_push(vcpu);
    }
    if (status == NVMX_OK) {
        status = host_select(vcpu, NVMX_VMCS01);
    }
    enum nvmx_next next = status == NVMX_OK ? vm_fail_valid(vcpu, vm_instruction_error) : stop(vcpu, NVMX_STOP_HOST, status);
    vcpu->entry_pending = false;
    return next;
}

static bool is_range(uint64_t gpa1, uint64_t bytes) {
    return bytes != 0 && gpa1 + bytes - 1 >= gpa1;
}

enum nvmx_status nvmx_memory_changed(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes) {
    if (!is_range(gpa1, bytes)) {
        return NVMX_E_INVALID;
    }
    if (vcpu->vm->ept != NULL) {
        nvmx_ept_memory_changed(vcpu->vm->ept, vcpu->ctx, gpa1, bytes);
    }
    merge_release_range(vcpu, gpa1, bytes, false);
    return NVMX_OK;
}

enum nvmx_status nvmx_memory_protected(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes) {
    if (!is_range(gpa1, bytes)) {
        return NVMX_E_INVALID;
    }
    if (vcpu->vm->ept != NULL) {
        nvmx_ept_memory_protected(vcpu->vm->ept, vcpu->ctx, gpa1, bytes);
    }
    merge_release_range(vcpu, gpa1, bytes, true);
    return NVMX_OK;
}
