/* SPDX-License-Identifier: MIT */
/* Saving the nested state of a vCPU, and restoring it (nvmx/state.h). */
#include "state.h"

#include <string.h>

#include "exits/exits.h"
#include "vmcs/merge.h"

#define RECORD_BYTES(items) (STATE_RECORD_HEAD + 16 + (size_t)(items)*STATE_ITEM_BYTES)
#define PROFILE_ITEMS       (NVMX_CAP_MSRS + 7)

size_t nvmx_state_size(const struct nvmx_vcpu *vcpu) {
    return STATE_HEADER_BYTES + RECORD_BYTES(PROFILE_ITEMS) + RECORD_BYTES(NVMX_STATE_VCPU_CURRENT) +
           (vcpu->vmcs02_slots + 1u) * RECORD_BYTES(NVMX_FIELD_COUNT) + STATE_TRAILER_BYTES;
}

/* -- saving
 * -----------------------------------------------------------------------------------------------------------------------------
 */

static void save_vcpu(struct state_writer *w, const struct nvmx_vcpu *vcpu) {
    uint64_t current = vmcs12_pointer(vcpu);

    state_open(w, NVMX_STATE_TAG_VCPU);
    state_item_unless_0(w, NVMX_STATE_VCPU_MODE, vcpu->mode);
    state_item_unless_0(w, NVMX_STATE_VCPU_STOP, vcpu->stop);
    state_item_unless_0(w, NVMX_STATE_VCPU_FEATURE_CONTROL, vcpu->feature_control);
    if (vcpu->vmxon_pointer != NVMX_NO_ADDRESS) {
        state_item(w, NVMX_STATE_VCPU_VMXON_POINTER, vcpu->vmxon_pointer);
    }
    if (current != NVMX_NO_ADDRESS) {
        state_item(w, NVMX_STATE_VCPU_CURRENT, current);
    }
    state_close(w);
}

static void save_vmcs(struct state_writer *w, const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    state_open(w, NVMX_STATE_TAG_VMCS);
    state_word(w, v->gpa1);
    state_word(w, (v->launched ? NVMX_STATE_VMCS_LAUNCHED : 0u) | (v->is_shadow ? NVMX_STATE_VMCS_SHADOW : 0u));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (nvmx_set_has(&vcpu->vm->exists, slot)) {
            state_item_unless_0(w, field_encoding[slot], v->value[slot]);
        }
    }
    state_close(w);
}

/* The cached vmcs12 that was used first after time `after`, or NULL. */
static struct vmcs12 *used_after(struct nvmx_vcpu *vcpu, uint64_t after) {
    struct vmcs12 *first = NULL;

    for (unsigned int i = 0; i < vcpu->vmcs02_slots; i++) {
        struct vmcs12 *v = &vcpu->vmcs12[i];

        if (v->gpa1 != NVMX_NO_ADDRESS && v->last_use > after && (first == NULL || v->last_use < first->last_use)) {
            first = v;
        }
    }
    return first;
}

/* The timer's value waits elsewhere while nvmx_enter makes L2 exit at once. */
static void fetch_timer(const struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (vcpu->timer_forced && v == &vcpu->vmcs12[vcpu->current] &&
        nvmx_set_has(&v->stale, NVMX_F_PREEMPTION_TIMER_VALUE)) {
        v->value[NVMX_F_PREEMPTION_TIMER_VALUE] = vcpu->saved_timer;
        nvmx_set_remove(&v->stale, NVMX_F_PREEMPTION_TIMER_VALUE);
        v->settled = false; /* the next exit makes it stale again */
    }
}

/* From the least to the most recently used, so that they will be evicted in the same order. */
static enum nvmx_status save_all_vmcs(struct state_writer *w, struct nvmx_vcpu *vcpu) {
    for (struct vmcs12 *v = used_after(vcpu, 0); v != NULL; v = used_after(vcpu, v->last_use)) {
        fetch_timer(vcpu, v);
        enum nvmx_status status = sync_all(vcpu, v);
        if (status != NVMX_OK) {
            return status;
        }
        save_vmcs(w, vcpu, v);
    }
    return NVMX_OK;
}

/* L2's state as it is saved, by slot. */
struct l2_state {
    struct nvmx_field_set has;
    uint64_t value[NVMX_FIELD_COUNT];
    bool ia32e;
};

static uint32_t list_slots(const struct nvmx_field_set *set, const struct nvmx_field_set *machine, uint8_t *slots,
                           uint32_t count) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (nvmx_set_has(set, slot) && nvmx_set_has(machine, slot)) {
            slots[count++] = (uint8_t)slot;
        }
    }
    return count;
}

static enum nvmx_status read_l2_values(struct nvmx_vcpu *vcpu, const struct state_l2_fields *fields, uint64_t *value) {
    const struct nvmx_field_set *machine = &vcpu->vm->machine_fields;
    uint8_t slots[NVMX_FIELD_COUNT + 3];
    uint64_t *read = vcpu->scratch.value;
    uint32_t count = list_slots(&fields->always, machine, slots, 0);

    count = list_slots(&fields->pdptes, machine, slots, count);
    count = list_slots(&fields->timer, machine, slots, count);
    count = list_slots(&fields->gates, machine, slots, count);
    slots[count++] = NVMX_F_VM_ENTRY_CONTROLS;
    slots[count++] = NVMX_F_CR0_GUEST_HOST_MASK;
    slots[count++] = NVMX_F_CR4_GUEST_HOST_MASK;
    enum nvmx_status status = host_read_many(vcpu, count, slots, read);
    for (uint32_t i = 0; i < count; i++) {
        value[slots[i]] = status == NVMX_OK ? read[i] & nvmx_field_mask(slots[i]) : 0;
    }
    return status;
}

/* What L2 itself reads of a control register (SDM 27.6.6): so the host's masks, which may differ on the other side,
 * don't matter. */
static uint64_t as_l2_reads(const uint64_t *value, unsigned int cr, unsigned int mask, unsigned int shadow) {
    return (value[cr] & ~value[mask]) | (value[shadow] & value[mask]);
}

static void choose_l2_fields(const struct vmcs12 *v, const struct state_l2_fields *fields, struct l2_state *l2) {
    uint64_t entry = l2->value[NVMX_F_VM_ENTRY_CONTROLS];

    l2->has = fields->always;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        if (state_uses_pae(l2->value[NVMX_F_GUEST_CR0], l2->value[NVMX_F_GUEST_CR4], l2->ia32e)) {
            l2->has.word[w] |= fields->pdptes.word[w];
        }
        if ((v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0) {
            l2->has.word[w] |= fields->timer.word[w];
        }
    }
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if ((entry >> gates[i].entry_load) & 1) {
            nvmx_set_add(&l2->has, gates[i].guest);
        }
    }
}

void state_event_without_rest(uint64_t *value) {
    uint64_t event = value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    uint32_t type = (uint32_t)(event >> 8) & 7;
    bool valid = (event & EVENT_VALID) != 0;

    if (!valid) {
        value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = 0;
    }
    if (!valid || (event & EVENT_ERROR_CODE) == 0) {
        value[NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE] = 0;
    }
    if (!valid || type < 4 || type > 6) {
        value[NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH] = 0;
    }
}

/* Requests for windows and the timer that makes L2 exit at once are not L2's: the host still has the event, and
 * nvmx_enter asks again. */
static void without_requests(struct nvmx_vcpu *vcpu, struct l2_state *l2) {
    if (vcpu->timer_runs) {
        l2->value[NVMX_F_PREEMPTION_TIMER_VALUE] = timer_remainder(vcpu) & nvmx_field_mask(NVMX_F_PREEMPTION_TIMER_VALUE);
    } else if (vcpu->timer_forced) {
        l2->value[NVMX_F_PREEMPTION_TIMER_VALUE] = vcpu->saved_timer & nvmx_field_mask(NVMX_F_PREEMPTION_TIMER_VALUE);
    }
    state_event_without_rest(l2->value);
    /* What nvmx_enter would make of it. */
    if (vcpu->step_with_host && step_is_over(vcpu, l2->value[NVMX_F_GUEST_RIP], l2->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO])) {
        l2->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = EVENT_MTF;
    }
}

static enum nvmx_status read_l2(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct l2_state *l2) {
    struct state_l2_fields fields;
    uint32_t before = vcpu->selected;

    memset(l2, 0, sizeof(*l2));
    state_l2_fields(&vcpu->vm->exists, &fields);
    enum nvmx_status status = host_select(vcpu, vmcs02_of(vcpu, v));
    if (status == NVMX_OK) {
        status = read_l2_values(vcpu, &fields, l2->value);
    }
    enum nvmx_status back = host_select(vcpu, before);
    if (status != NVMX_OK || back != NVMX_OK) {
        return status != NVMX_OK ? status : back;
    }
    l2->ia32e = (l2->value[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) != 0;
    l2->value[NVMX_F_GUEST_CR4] = cr4_of_l2(vcpu, v, l2->value[NVMX_F_GUEST_CR4], l2->value[NVMX_F_CR4_READ_SHADOW]);
    l2->value[NVMX_F_CR0_READ_SHADOW] =
        as_l2_reads(l2->value, NVMX_F_GUEST_CR0, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW);
    l2->value[NVMX_F_CR4_READ_SHADOW] =
        as_l2_reads(l2->value, NVMX_F_GUEST_CR4, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW);
    choose_l2_fields(v, &fields, l2);
    without_requests(vcpu, l2);
    return NVMX_OK;
}

/* vmcs02 is not written yet after a restore: what will be written is kept. */
static void kept_l2(const struct nvmx_vcpu *vcpu, struct l2_state *l2) {
    l2->has = vcpu->restored.has;
    l2->ia32e = vcpu->restored.ia32e;
    memcpy(l2->value, vcpu->restored.value, sizeof(l2->value));
}

static enum nvmx_status save_l2(struct state_writer *w, struct nvmx_vcpu *vcpu) {
    struct l2_state l2;
    enum nvmx_status status = NVMX_OK;

    if (vcpu->restore_pending) {
        kept_l2(vcpu, &l2);
    } else {
        status = read_l2(vcpu, vmcs12_current(vcpu), &l2);
    }
    if (status != NVMX_OK) {
        return status;
    }
    state_open(w, NVMX_STATE_TAG_L2);
    state_word(w, (vcpu->entry_pending ? NVMX_STATE_L2_ENTRY_PENDING : 0u) |
                      (vcpu->launching ? NVMX_STATE_L2_LAUNCHING : 0u) | (l2.ia32e ? NVMX_STATE_L2_IA32E : 0u) |
                      (vcpu->bus_lock ? NVMX_STATE_L2_BUS_LOCK : 0u));
    state_word(w, 0);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (nvmx_set_has(&l2.has, slot)) {
            state_item(w, field_encoding[slot], l2.value[slot]);
        }
    }
    state_close(w);
    return NVMX_OK;
}

/* What L1 wrote to the shadow VMCS: an entry takes only what it looks at. */
static enum nvmx_status pull(struct nvmx_vcpu *vcpu) {
    uint32_t before = vcpu->selected;

    const struct vmcs12 *current = vmcs12_current(vcpu);
    bool nothing = vcpu->mode == NVMX_MODE_OFF || (vcpu->mode == NVMX_MODE_L2 && current->shadow->unknown);
    if (vcpu->restore_pending) {
        return NVMX_OK;
    }
    enum nvmx_status status = nothing ? NVMX_OK : shadow_pull(vcpu);
    enum nvmx_status back = host_select(vcpu, before);
    for (unsigned int i = 0; i < vcpu->vmcs02_slots && status == NVMX_OK; i++) {
        status = (int)i != vcpu->current ? shadow_pull_ahead(vcpu, &vcpu->vmcs12[i]) : NVMX_OK;
    }
    return status != NVMX_OK ? status : back;
}

enum nvmx_status nvmx_state_save(struct nvmx_vcpu *vcpu, void *blob, size_t bytes, size_t *used) {
    struct state_writer w;

    if (vcpu->stop == NVMX_STOP_HOST) {
        return NVMX_E_HOST;
    }
    enum nvmx_status status = pull(vcpu);
    state_begin(&w, blob, bytes);
    if (vcpu->vm->expose) {
        state_open(&w, NVMX_STATE_TAG_PROFILE);
        state_put_profile(&w, &vcpu->vm->caps);
        state_close(&w);
    }
    save_vcpu(&w, vcpu);
    if (status == NVMX_OK) {
        status = save_all_vmcs(&w, vcpu);
    }
    if (status == NVMX_OK && vcpu->mode == NVMX_MODE_L2) {
        status = save_l2(&w, vcpu);
    }
    return status == NVMX_OK ? state_end(&w, used) : status;
}

/* -- restoring
 * --------------------------------------------------------------------------------------------------------------------------
 */

static void restore_vmcs(struct nvmx_vcpu *vcpu, const struct nvmx_state_record *record, struct vmcs12 *v) {
    vmcs12_init(v);
    v->gpa1 = record->head[0];
    v->launched = (record->head[1] & NVMX_STATE_VMCS_LAUNCHED) != 0;
    v->is_shadow = (record->head[1] & NVMX_STATE_VMCS_SHADOW) != 0;
    state_values(record, v->value);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        nvmx_set_add(&v->dirty, slot);
    }
    v->last_use = ++vcpu->use_clock;
}

static void restore_l2(struct nvmx_vcpu *vcpu, const struct nvmx_state_record *record) {
    vcpu->entry_pending = (record->head[0] & NVMX_STATE_L2_ENTRY_PENDING) != 0 ? ENTRY_RESTORED : 0;
    vcpu->launching = (record->head[0] & NVMX_STATE_L2_LAUNCHING) != 0;
    vcpu->bus_lock = (record->head[0] & NVMX_STATE_L2_BUS_LOCK) != 0;
    vcpu->restored.ia32e = (record->head[0] & NVMX_STATE_L2_IA32E) != 0;
    state_values(record, vcpu->restored.value);
    state_event_without_rest(vcpu->restored.value);
    state_fields_of(record, &vcpu->restored.has);
}

enum nvmx_state_reason nvmx_state_restore(struct nvmx_vcpu *vcpu, const void *blob, size_t bytes,
                                          struct nvmx_state_error *error) {
    struct state_view view;
    enum nvmx_state_reason reason = state_view(blob, bytes, vcpu, &view, error);

    if (reason != NVMX_STATE_OK) {
        return reason;
    }
    vcpu_forget(vcpu);
    vcpu->mode = (enum nvmx_mode)view.vcpu[NVMX_STATE_VCPU_MODE];
    vcpu->stop = (uint8_t)view.vcpu[NVMX_STATE_VCPU_STOP];
    vcpu->feature_control = view.vcpu[NVMX_STATE_VCPU_FEATURE_CONTROL];
    vcpu->vmxon_pointer = view.vcpu[NVMX_STATE_VCPU_VMXON_POINTER];
    for (uint32_t i = 0; i < view.vmcs_count; i++) {
        restore_vmcs(vcpu, &view.vmcs[i], &vcpu->vmcs12[i]);
    }
    vcpu->current = view.current < view.vmcs_count ? (int)view.current : -1;
    if (view.has_l2) {
        restore_l2(vcpu, &view.l2);
    }
    vcpu->restore_pending = true;
    return NVMX_STATE_OK;
}

/* -- the second step
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* SDM 29.3.1.1: LMA, and with paging LME, as L2 runs; the MSR may still be L1's. */
static uint64_t efer_of_l2(const struct restored *r, uint64_t efer) {
    bool paging = (r->value[NVMX_F_GUEST_CR0] & CR0_PG) != 0;
    uint64_t bits = EFER_LMA | (paging ? EFER_LME : 0);

    return r->ia32e ? efer | bits : efer & ~bits;
}

static bool switched_here(const struct vmcs12 *v, const struct gate *gate) {
    return ((v->image[NVMX_F_VM_ENTRY_CONTROLS] >> gate->entry_load) & 1) != 0;
}

/* What vmcs02 does not load here and no MSR holds (DR7, CET state, UINV) has no place, unless it is as after a reset: then nobody uses it. */
static bool has_no_place(const struct restored *r, const struct gate *gate) {
    const uint64_t reset = gate->guest == NVMX_F_GUEST_DR7 ? DR7_RESET : 0;

    return gate->msr == 0 && nvmx_set_has(&r->has, gate->guest) && r->value[gate->guest] != reset;
}

static enum nvmx_status all_have_places(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (!switched_here(v, &gates[i]) && has_no_place(&vcpu->restored, &gates[i])) {
            return NVMX_E_UNSUPPORTED;
        }
    }
    return NVMX_OK;
}

/* vmcs01 protects bits of it, and vmcs02's field has them as vmcs01's: L2's own WRMSR of it would go to the host, too. */
static bool is_protected(const struct nvmx_vcpu *vcpu, const struct gate *gate) {
    return gate->guest == NVMX_F_GUEST_SPEC_CTRL && host_protects_spec_ctrl(vcpu);
}

/* A value that hardware does not switch here goes into the MSR itself, and one that is not in the blob is there
 * already. */
static enum nvmx_status complete_gate(struct nvmx_vcpu *vcpu, const struct gate *gate, bool switched) {
    struct restored *r = &vcpu->restored;
    bool has = nvmx_set_has(&r->has, gate->guest);

    enum nvmx_status status = NVMX_OK;

    if (is_protected(vcpu, gate)) {
        switched = false;
    }
    if (has && !switched) {
        status = gate->msr != 0 ? host_msr_write(vcpu, gate->msr, r->value[gate->guest]) : NVMX_OK;
        if (status == NVMX_OK || (status == NVMX_E_DENIED && r->value[gate->guest] == 0)) { /* guests have no such MSR here, and L2 nothing in it */
            status = NVMX_OK;
            nvmx_set_remove(&r->has, gate->guest);
        }
    } else if (!has && switched && gate->msr != 0) {
        status = host_msr_read(vcpu, gate->msr, &r->value[gate->guest]);
        if (status == NVMX_OK) {
            uint64_t value = r->value[gate->guest];

            r->value[gate->guest] = gate->guest == NVMX_F_GUEST_EFER ? efer_of_l2(r, value) : value;
            nvmx_set_add(&r->has, gate->guest);
        } else if (status == NVMX_E_DENIED) { /* guests have no such MSR: what vmcs02 loads is the host's, and it is merged already */
            status = NVMX_OK;
        }
    }
    return status;
}

/* What vmcs02 gets of it; what is restored stays L2's own. */
static uint64_t value_for_vmcs02(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, unsigned int slot) {
    const uint64_t *value = vcpu->restored.value;

    switch (slot) {
    case NVMX_F_GUEST_CR4:
        return value[slot] | vcpu->cr4_kept;
    case NVMX_F_GUEST_INTERRUPTIBILITY_STATE:
        return interruptibility_with_event(v, value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO], value[slot]);
    default:
        return value[slot];
    }
}

/* L2's state over what the merge took from vmcs12. */
static enum nvmx_status write_l2(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct restored *r = &vcpu->restored;
    uint64_t cr0_mask = v->value[NVMX_F_CR0_GUEST_HOST_MASK], cr4_mask = v->value[NVMX_F_CR4_GUEST_HOST_MASK];
    struct batch batch;
    enum nvmx_status status = NVMX_OK;

    r->value[NVMX_F_VM_ENTRY_CONTROLS] =
        (v->image[NVMX_F_VM_ENTRY_CONTROLS] & ~(uint64_t)ENTRY_IA32E) | (r->ia32e ? ENTRY_IA32E : 0);
    nvmx_set_add(&r->has, NVMX_F_VM_ENTRY_CONTROLS);
    /* Bits that L1 masks read as L1 says, whatever the blob says. */
    r->value[NVMX_F_CR0_READ_SHADOW] =
        (v->value[NVMX_F_CR0_READ_SHADOW] & cr0_mask) | (r->value[NVMX_F_CR0_READ_SHADOW] & ~cr0_mask);
    r->value[NVMX_F_CR4_READ_SHADOW] =
        (v->value[NVMX_F_CR4_READ_SHADOW] & cr4_mask) | (r->value[NVMX_F_CR4_READ_SHADOW] & ~cr4_mask);
    batch_init(&batch);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT && status == NVMX_OK; slot++) {
        if (nvmx_set_has(&r->has, slot) && nvmx_set_has(&vcpu->vm->machine_fields, slot)) {
            v->image[slot] = value_for_vmcs02(vcpu, v, slot);
            status = batch_put(vcpu, &batch, slot, v->image[slot]);
        }
    }
    nvmx_set_remove(&r->has, NVMX_F_VM_ENTRY_CONTROLS);
    return status == NVMX_OK ? batch_flush(vcpu, &batch) : status;
}

/* A failure leaves it to be done again from the start: all of vmcs12 counts as written by L1, nothing of vmcs02 as
 * known. */
static void begin_again(struct vmcs12 *v) {
    memset(&v->known, 0, sizeof(v->known));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        nvmx_set_add(&v->dirty, slot);
    }
    v->controls_merged = v->plain = false;
}

static enum nvmx_status complete_l2(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    enum nvmx_status status;

    begin_again(v);
    status = merge_vmcs02(vcpu, v, NULL);
    if (status == NVMX_OK) {
        status = all_have_places(vcpu, v);
    }
    for (unsigned int i = 0; i < GATE_COUNT && status == NVMX_OK; i++) {
        status = complete_gate(vcpu, &gates[i], switched_here(v, &gates[i]));
    }
    uint64_t timer = vcpu->restored.value[NVMX_F_PREEMPTION_TIMER_VALUE];
    if (status == NVMX_OK) {
        status = write_l2(vcpu, v);
    }
    if (status != NVMX_OK) {
        begin_again(v);
        return status;
    }
    timer_start(vcpu, v, timer);
    if (has_apic_page_on_ept01(v)) {
        entry_forgets_ept01(vcpu, v);
    }
    return NVMX_OK;
}

static enum nvmx_status complete(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);

    nvmx_vmcs01_changed(vcpu);
    vcpu->link_known = false;
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->shadow_vmcs[i].unknown = true;
        vcpu->shadow_vmcs[i].ahead = false;
    }
    if (status == NVMX_OK && vcpu->vm->expose) {
        status = host_controls(vcpu);
    }
    if (status == NVMX_OK && vcpu->mode == NVMX_MODE_ROOT) {
        status = shadow_push(vcpu);
    }
    if (status == NVMX_OK) {
        status = shadow_relink(vcpu);
    }
    if (status == NVMX_OK && vcpu->current >= 0) {
        vmcs12_current(vcpu)->shadow->ahead = true;
    }
    if (status == NVMX_OK && vcpu->mode == NVMX_MODE_L2) {
        return complete_l2(vcpu, vmcs12_current(vcpu));
    }
    return status == NVMX_OK ? host_select(vcpu, NVMX_VMCS01) : status;
}

enum nvmx_status nvmx_state_complete(struct nvmx_vcpu *vcpu) {
    if (!vcpu->restore_pending) {
        return NVMX_OK;
    }
    enum nvmx_status status = complete(vcpu);
    vcpu->restore_pending = status != NVMX_OK;
    return status;
}
