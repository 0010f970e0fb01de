/* SPDX-License-Identifier: MIT */
/*
 * vmcs12 + vmcs01 -> vmcs02, at an entry to L2.
 *
 * Only what differs from what vmcs02 is known to hold is written. What L1 has not written since the last exit is not
 * even looked at: vmcs02 still has what hardware left there.
 */
#include "merge.h"

/* Control fields of vmcs01 that the merge looks at. */
static const uint8_t host_control_fields[] = {
    NVMX_F_PIN_BASED_CONTROLS,
    NVMX_F_PRIMARY_CONTROLS,
    NVMX_F_SECONDARY_CONTROLS,
    NVMX_F_TERTIARY_CONTROLS,
    NVMX_F_VM_EXIT_CONTROLS,
    NVMX_F_VM_ENTRY_CONTROLS,
    NVMX_F_SECONDARY_VM_EXIT_CONTROLS,
    NVMX_F_EXCEPTION_BITMAP,
    NVMX_F_PAGE_FAULT_ERROR_CODE_MASK,
    NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH,
    NVMX_F_IO_BITMAP_A_ADDRESS,
    NVMX_F_IO_BITMAP_B_ADDRESS,
    NVMX_F_MSR_BITMAP_ADDRESS,
    NVMX_F_TSC_OFFSET,
    NVMX_F_TSC_MULTIPLIER,
    NVMX_F_CR0_GUEST_HOST_MASK,
    NVMX_F_CR4_GUEST_HOST_MASK,
    NVMX_F_EPT_POINTER,
    NVMX_F_VPID,
    NVMX_F_XSS_EXITING_BITMAP,
    NVMX_F_ENCLS_EXITING_BITMAP,
    NVMX_F_PLE_GAP,
    NVMX_F_PLE_WINDOW,
    NVMX_F_PCONFIG_EXITING_BITMAP,
    NVMX_F_ENCLV_EXITING_BITMAP,
    NVMX_F_INSTRUCTION_TIMEOUT_CONTROL,
    NVMX_F_LOW_PASID_DIRECTORY_ADDRESS,
    NVMX_F_HIGH_PASID_DIRECTORY_ADDRESS,
};

COLD enum nvmx_status merge_read_controls(struct nvmx_vcpu *vcpu) {
    uint8_t slots[sizeof(host_control_fields)];
    uint64_t value[sizeof(host_control_fields)];
    uint32_t count = 0;

    for (unsigned int i = 0; i < sizeof(host_control_fields); i++) {
        if (nvmx_set_has(&vcpu->vm->machine_fields, host_control_fields[i])) {
            slots[count++] = host_control_fields[i];
        }
    }
    enum nvmx_status status = host_read_many(vcpu, count, slots, value);
    if (status != NVMX_OK) {
        return status;
    }
    for (uint32_t i = 0; i < count; i++) {
        vcpu->host_control[slots[i]] = value[i];
    }
    /* Few hosts protect L1's sub-pages. */
    if (RARE((vcpu->host_control[NVMX_F_SECONDARY_CONTROLS] & PROC2_SPP) != 0) &&
        nvmx_set_has(&vcpu->vm->machine_fields, NVMX_F_SPP_TABLE_POINTER)) {
        status = host_read(vcpu, NVMX_F_SPP_TABLE_POINTER, &vcpu->host_control[NVMX_F_SPP_TABLE_POINTER]);
    }
    return status;
}

COLD enum nvmx_status host_controls_read(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = merge_read_controls(vcpu);

    if (status != NVMX_OK) {
        return status;
    }
    vcpu->cr4_kept = 0;
    if (RARE((vcpu->host_control[NVMX_F_CR4_GUEST_HOST_MASK] & CR4_MCE) != 0)) {
        uint64_t cr4 = 0;

        status = host_read(vcpu, NVMX_F_GUEST_CR4, &cr4);
        if (status != NVMX_OK) {
            return status;
        }
        vcpu->cr4_kept = cr4 & CR4_MCE;
    }
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->vmcs12[i].controls_merged = vcpu->vmcs12[i].plain = false;
        vcpu->vmcs12[i].l1_state_ready = false;
        nvmx_set_remove(&vcpu->vmcs12[i].known, NVMX_F_GUEST_CR4); /* cr4_kept may have changed */
    }
    watched_forget(vcpu);
    vcpu->gates_switched = 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool switched = ((vcpu->host_control[NVMX_F_VM_ENTRY_CONTROLS] >> gates[i].entry_load) & 1) != 0;
        vcpu->gates_switched |= switched ? 1u << i : 0;
    }
    vcpu->host_controls_known = true;
    return NVMX_OK;
}

/* -- MSRs and debug registers that controls switch
 * ------------------------------------------------------------------------------- */

static void inherit(struct vmcs12 *v, uint32_t gates_of_l1) {
    for (uint32_t left = gates_of_l1; left != 0; left &= left - 1) {
        unsigned int i = (unsigned int)__builtin_ctz(left);

        v->inherited_gate[v->inherited_count] = (uint8_t)i;
        v->inherited_encoding[v->inherited_count++] = field_encoding[gates[i].guest];
        v->inherited_efer = i == GATE_EFER ? v->inherited_count : v->inherited_efer;
        nvmx_set_remove(&v->known, gates[i].guest);
        nvmx_set_add(&v->inherited, gates[i].guest);
    }
}

/* Until now vmcs02 had something else there, or not what L1 has written since. */
static void forget_gates(struct vmcs12 *v, uint32_t not_loaded) {
    for (uint32_t left = not_loaded; left != 0; left &= left - 1) {
        nvmx_set_remove(&v->known, gates[__builtin_ctz(left)].guest);
    }
}

/*
 * What follows from the controls of both: which gates L2 gets loaded from vmcs12, which it inherits from L1 (switched
 * by the host, and not loaded), and which fields of vmcs02 must hold vmcs12's value at each entry, whatever L2 did to
 * them meanwhile.
 */
static COLD void follow_controls(struct merge *m) {
    struct vmcs12 *v = m->v;
    uint64_t entry_controls = v->value[NVMX_F_VM_ENTRY_CONTROLS];
    bool own_pdptes = (secondary_controls(v) & PROC2_EPT) != 0;
    uint32_t inherited = m->vcpu->gates_switched;
    const uint32_t loaded_before = v->gates_loaded;

    v->gates_loaded = 0;
    v->watched_stand = false;
    v->inherited_same = 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        inherited &= ~(((entry_controls >> gates[i].entry_load) & 1) != 0 ? 1u << i : 0);
    }
    if (inherited != v->gates_inherited) {
        m->vcpu->l1_value_known = false;
    }
    v->gates_inherited = inherited;
    v->inherited_count = 0;
    v->inherited_efer = 0;
    v->inherited = (struct nvmx_field_set){{0}};
    v->refreshed = (struct nvmx_field_set){{0}};
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (((entry_controls >> gates[i].entry_load) & 1) != 0) {
            v->gates_loaded |= 1u << i;
            nvmx_set_add(&v->refreshed, gates[i].guest);
        }
    }
    forget_gates(v, v->gates_loaded & ~loaded_before);
    inherit(v, inherited & gates_watched(m->vcpu));
    v->inherited_watched = v->inherited_count;
    inherit(v, inherited & ~gates_watched(m->vcpu));
    nvmx_set_add(&v->refreshed, NVMX_F_GUEST_CR0);
    nvmx_set_add(&v->refreshed, NVMX_F_GUEST_CR4);
    if ((v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0 && !m->vcpu->vm->timer_by_deadline) {
        nvmx_set_add(&v->refreshed, NVMX_F_PREEMPTION_TIMER_VALUE);
    }
    /* Without EPT they are memory's, or don't count: vmcs02's are then unknown when vmcs12's own count again. */
    for (unsigned int i = 0; own_pdptes && i < 4; i++) {
        nvmx_set_add(&v->refreshed, NVMX_F_GUEST_PDPTE0 + i);
        if (!v->own_pdptes) {
            nvmx_set_remove(&v->known, NVMX_F_GUEST_PDPTE0 + i);
        }
    }
    v->own_pdptes = own_pdptes;
}

/* vmcs02's field is the only place of what the last exit saved, and is about to get L1's value. */
static bool inherits_over_stale(const struct vmcs12 *v) {
    uint64_t over = 0;

    if (v->inherited_count == 0) {
        return false;
    }
#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        over |= v->inherited.word[w] & v->stale.word[w];
    }
    return over != 0;
}

/* The same for PDPTEs, which an entry with PAE paging and without EPT loads from memory (SDM 29.3.2.4). */
static bool loads_over_stale(const struct merge *m, const uint64_t *pdpte) {
    bool stale = false;

    for (unsigned int i = 0; pdpte != NULL && i < 4; i++) {
        stale = stale || nvmx_set_has(&m->v->stale, NVMX_F_GUEST_PDPTE0 + i);
    }
    return stale;
}

/* The next exits read them with what they read anyhow. */
static COLD enum nvmx_status fetch_stale(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->learned.word[w] |= v->inherited.word[w] & v->stale.word[w];
    }
    v->sync_ready = false;
    return sync_all(vcpu, v);
}

enum nvmx_status merge_read_l1(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    enum nvmx_status status = NVMX_OK;
    uint32_t first = 0;

    for (; vcpu->watched.known && first < v->inherited_watched; first++) {
        vcpu->l1_value[first] = vcpu->watched.value[watched_place(vcpu, v->inherited_gate[first])];
    }
    if (first != v->inherited_count) {
        status = host_select(vcpu, NVMX_VMCS01);
        if (status == NVMX_OK) {
            status = host_read_encoded(vcpu, v->inherited_count - first, &v->inherited_encoding[first], &vcpu->l1_value[first]);
        }
    }
    vcpu->l1_value_known = status == NVMX_OK;
    return status;
}

/* L2 ran on these fields, or vmcs02 is new: they are written at each entry. */
static inline void put_inherited(struct merge *m) {
    const struct vmcs12 *v = m->v;

    for (uint32_t i = 0; i < v->inherited_count; i++) {
        m->encoding[m->count] = v->inherited_encoding[i];
        m->value[m->count++] = inherited_value(m->vcpu, v, i);
    }
}

/* -- guest state and events
 * ------------------------------------------------------------------------------------------------------ */

static COLD void put_pdptes(struct merge *m, const uint64_t *pdpte) {
    for (unsigned int i = 0; i < 4; i++) {
        merge_put(m, NVMX_F_GUEST_PDPTE0 + i, pdpte[i]);
    }
}

/* The fields of `set` that aren't stale, as vmcs12 has them. */
static inline void put_fields(struct merge *m, unsigned int word, uint64_t set) {
    struct vmcs12 *v = m->v;

    for (uint64_t left = set & ~v->stale.word[word]; left != 0; left &= left - 1) {
        unsigned int slot = word * 64 + (unsigned int)__builtin_ctzll(left);
        merge_put(m, slot, v->value[slot] | (slot == NVMX_F_GUEST_CR4 ? m->vcpu->cr4_kept : 0));
    }
}

/*
 * What L1 has written, and what L2 may have changed though no exit saves it. Stale fields have their truth in vmcs02.
 * After a change of controls any field counts that vmcs02 is not known to hold.
 */
static inline void put_guest_state(struct merge *m) {
    struct vmcs12 *v = m->v;
    const struct nvmx_field_set *copied = &m->vcpu->vm->copied;

#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        if (v->dirty.word[w] != 0) {
            put_fields(m, w, v->dirty.word[w] & (copied->word[w] | v->refreshed.word[w]));
        }
    }
    if (RARE(m->controls)) {
        for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
            put_fields(m, w, v->refreshed.word[w] & ~v->known.word[w]);
        }
        return;
    }
    for (uint32_t i = 0; i < v->rewritten_count; i++) {
        if (!nvmx_set_has(&v->stale, v->rewritten[i])) {
            merge_put(m, v->rewritten[i], v->value[v->rewritten[i]]);
        }
    }
}

static COLD void put_nmi_unblocked(struct merge *m) {
    uint64_t own = m->v->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE];
    uint64_t entered = interruptibility_with_event(m->v, m->v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO], own);

    m->unblocked = entered != own;
    if (m->unblocked) { /* should the entry not come about, the next one puts it right */
        merge_put(m, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, entered);
        nvmx_set_add(&m->v->dirty, NVMX_F_GUEST_INTERRUPTIBILITY_STATE);
    }
}

/* The host may have used these fields since: they are written whenever they count. */
static void put_event(struct merge *m) {
    uint64_t info = m->v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    uint64_t before = m->v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];

    if (((info | before) & EVENT_VALID) == 0 && nvmx_set_has(&m->v->known, NVMX_F_VM_ENTRY_INTERRUPTION_INFO)) {
        return; /* no event, then as now */
    }
    merge_put_always(m, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, info);
    if ((info & EVENT_VALID) == 0 || event_is_vector_alone(info)) {
        return;
    }
    if (EVENT_TYPE(info) == EVENT_TYPE_NMI) {
        put_nmi_unblocked(m);
    }
    if ((info & EVENT_ERROR_CODE) != 0) {
        merge_put_always(m, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE, m->v->value[NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE]);
    }
    merge_put_always(m, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH, m->v->value[NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH]);
}

/* -- the whole
 * -------------------------------------------------------------------------------------------------------------------
 */

static bool controls_written(const struct merge *m) {
    uint64_t written = 0;

#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        written |= m->v->dirty.word[w] & m->vcpu->vm->controls.word[w];
    }
    return written != 0;
}

/* Controls were written: only such as stand alone, where all others are merged already? */
static COLD bool only_lone_written(const struct merge *m) {
    const struct nvmx_vm *vm = m->vcpu->vm;
    uint64_t others = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        others |= m->v->dirty.word[w] & vm->controls.word[w] & ~vm->lone_controls.word[w];
    }
    return m->v->controls_merged && others == 0;
}

enum nvmx_status merge_write(struct merge *m, enum nvmx_status status) {
    if (status == NVMX_OK && m->count != 0) {
        status = host_write_encoded(m->vcpu, m->count, m->encoding, m->value);
    }
    if (status != NVMX_OK) {
        m->v->known = (struct nvmx_field_set){{0}};
        m->v->inherited_same = 0;
        m->v->controls_merged = m->v->plain = false;
    }
    return status;
}

static COLD void list_rewritten(struct vmcs12 *v) {
    v->rewritten_count = 0;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        for (uint64_t left = v->refreshed.word[w] & ~v->saved.word[w]; left != 0; left &= left - 1) {
            v->rewritten[v->rewritten_count++] = (uint8_t)(w * 64 + (unsigned int)__builtin_ctzll(left));
        }
    }
}

static COLD enum nvmx_status collect_controls(struct merge *m) {
    uint32_t bitmap_bits = m->v->bitmap_bits;
    uint16_t vpid02 = m->v->vpid02;
    enum nvmx_status status = merge_pages(m);

    if (status == NVMX_OK && (m->controls || bitmap_bits != m->v->bitmap_bits || vpid02 != m->v->vpid02)) {
        merge_put(m, NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
        merge_controls(m);
        sync_saved_fields(m->vcpu, m->v);
        list_rewritten(m->v);
    }
    return status;
}

static enum nvmx_status collect(struct merge *m, const uint64_t *pdpte) {
    struct vmcs12 *v = m->v;
    enum nvmx_status status = NVMX_OK;

    m->controls = !v->controls_merged || controls_written(m);
    if (RARE(m->controls)) {
        m->lone = only_lone_written(m);
        m->controls = !m->lone;
        if (m->lone && nvmx_set_has(&v->dirty, NVMX_F_VPID)) {
            merge_vpid(m);
        }
    }
    if (RARE(m->controls)) {
        follow_controls(m);
    }
    if (RARE(inherits_over_stale(v) || loads_over_stale(m, pdpte))) {
        status = fetch_stale(m->vcpu, v);
    }
    if (status == NVMX_OK && !m->vcpu->l1_value_known) {
        status = merge_read_l1(m->vcpu, v);
    }
    if (status == NVMX_OK && !merge_pages_stand(m)) {
        status = collect_controls(m);
    }
    if (RARE(m->lone) && status == NVMX_OK) {
        status = merge_lone_controls(m);
    }
    if (RARE(status != NVMX_OK)) {
        return status;
    }
    put_inherited(m);
    merge_read_shadows(m);
    put_guest_state(m);
    if (RARE(pdpte != NULL)) {
        put_pdptes(m, pdpte);
    }
    put_event(m);
    return NVMX_OK;
}

static COLD enum nvmx_status first_merge(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    enum nvmx_status status = host_reset(vcpu, vmcs02_of(vcpu, v));

    v->vmcs02_ready = status == NVMX_OK;
    v->inherited_same = 0;
    return status;
}

enum nvmx_status merge_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint64_t *pdpte) {
    struct merge m;
    enum nvmx_status status = host_controls(vcpu);

    v->settled = false;
    v->gates_found = 0;
    merge_begin(&m, vcpu, v);
    if (status == NVMX_OK && RARE(!v->vmcs02_ready)) {
        status = first_merge(vcpu, v);
    }
    if (status == NVMX_OK) {
        status = collect(&m, pdpte);
    }
    vcpu->l1_value_known = false;
    if (status == NVMX_OK) {
        status = host_select(vcpu, vmcs02_of(vcpu, v));
    }
    status = merge_write(&m, status);
    if (status == NVMX_OK) {
        v->dirty = (struct nvmx_field_set){{0}};
        v->controls_merged = true;
        if (RARE(m.unblocked)) {
            nvmx_set_add(&v->dirty, NVMX_F_GUEST_INTERRUPTIBILITY_STATE);
        }
    }
    vcpu->pages_changed = vcpu->pages_changed && status != NVMX_OK; /* all of vmcs02's pages were taken just now */
    vcpu->vmcs01_changed = false;
    return status;
}
