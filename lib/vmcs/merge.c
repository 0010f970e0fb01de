/* SPDX-License-Identifier: MIT */
/*
 * vmcs12 + vmcs01 -> vmcs02, at an entry to L2.
 *
 * Only what differs from what vmcs02 is known to hold is written. What L1 has not written since the last exit is not even looked at: vmcs02
 * still has what hardware left there.
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
    NVMX_F_SECONDARY_VM_EXIT_CONTROLS,
};

enum nvmx_status host_controls(struct nvmx_vcpu *vcpu) {
    uint8_t slots[sizeof(host_control_fields)];
    uint64_t value[sizeof(host_control_fields)];
    uint32_t count = 0;

    if (vcpu->host_controls_known) {
        return NVMX_OK;
    }
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
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->vmcs12[i].controls_merged = false;
    }
    vcpu->gates_switched = 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool switched = ((vcpu->host_control[NVMX_F_VM_ENTRY_CONTROLS] >> gates[i].entry_load) & 1) != 0;
        vcpu->gates_switched |= switched ? 1u << i : 0;
    }
    vcpu->host_controls_known = true;
    return NVMX_OK;
}

/* -- MSRs and debug registers that controls switch ------------------------------------------------------------------------------- */

static void gate_masks(struct merge *m) {
    uint64_t entry_controls = m->v->value[NVMX_F_VM_ENTRY_CONTROLS];

    m->v->gates_loaded = 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        m->v->gates_loaded |= ((entry_controls >> gates[i].entry_load) & 1) != 0 ? 1u << i : 0;
    }
}

/* What L2 inherits from L1: switched by the host, and not loaded from vmcs12. */
static uint32_t gates_inherited(const struct merge *m) {
    return m->vcpu->gates_switched & ~m->v->gates_loaded;
}

/* vmcs02's field is the only place of what the last exit saved, and is about to get L1's value. */
static bool inherits_over_stale(const struct merge *m) {
    bool stale = false;

    for (uint32_t left = gates_inherited(m); left != 0; left &= left - 1) {
        stale = stale || nvmx_set_has(&m->v->stale, gates[__builtin_ctz(left)].guest);
    }
    return stale;
}

/* The same for PDPTEs, which an entry with PAE paging and without EPT loads from memory (SDM 29.3.2.4). */
static bool loads_over_stale(const struct merge *m, const uint64_t *pdpte) {
    bool stale = false;

    for (unsigned int i = 0; pdpte != NULL && i < 4; i++) {
        stale = stale || nvmx_set_has(&m->v->stale, NVMX_F_GUEST_PDPTE0 + i);
    }
    return stale;
}

/* L1's own values of what L2 inherits: they are in vmcs01. */
static enum nvmx_status read_l1_values(struct merge *m) {
    uint8_t slots[GATE_COUNT];
    uint64_t value[GATE_COUNT];
    unsigned int which[GATE_COUNT];
    uint32_t count = 0;

    for (uint32_t left = gates_inherited(m); left != 0; left &= left - 1) {
        which[count] = (unsigned int)__builtin_ctz(left);
        slots[count] = gates[which[count]].guest;
        count++;
    }
    enum nvmx_status status = count != 0 ? host_select(m->vcpu, NVMX_VMCS01) : NVMX_OK;
    if (status == NVMX_OK) {
        status = host_read_many(m->vcpu, count, slots, value);
    }
    for (uint32_t i = 0; status == NVMX_OK && i < count; i++) {
        m->l1_value[which[i]] = value[i];
    }
    return status;
}

#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)
#define CR0_PG (UINT64_C(1) << 31)

/* SDM 29.3.2.1: without "load IA32_EFER" the entry sets LMA, and with paging LME, by "IA-32e mode guest". */
static uint64_t inherited_efer(const struct merge *m) {
    uint64_t efer = m->l1_value[GATE_EFER] & ~EFER_LMA;
    bool ia32e = (m->v->value[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) != 0;

    if ((m->v->value[NVMX_F_GUEST_CR0] & CR0_PG) != 0) {
        efer &= ~EFER_LME;
        efer |= ia32e ? EFER_LME : 0;
    }
    return efer | (ia32e ? EFER_LMA : 0);
}

static void put_gates(struct merge *m) {
    for (uint32_t left = m->v->gates_loaded; left != 0; left &= left - 1) {
        const struct gate *gate = &gates[__builtin_ctz(left)];

        if (!nvmx_set_has(&m->v->stale, gate->guest)) {
            merge_put(m, gate->guest, m->v->value[gate->guest]);
        }
    }
    for (uint32_t left = gates_inherited(m); left != 0; left &= left - 1) {
        unsigned int i = (unsigned int)__builtin_ctz(left);
        merge_put(m, gates[i].guest, i == GATE_EFER ? inherited_efer(m) : m->l1_value[i]);
    }
}

/* -- guest state and events ------------------------------------------------------------------------------------------------------ */

/* With EPT vmcs12's own fields count again, whatever an entry without it left in vmcs02: they need not be dirty. */
static void put_pdptes(struct merge *m, const uint64_t *pdpte) {
    bool own = pdpte == NULL && (secondary_controls(m->v) & PROC2_EPT) != 0;

    for (unsigned int i = 0; (own || pdpte != NULL) && i < 4; i++) {
        unsigned int slot = NVMX_F_GUEST_PDPTE0 + i;

        if (pdpte != NULL || !nvmx_set_has(&m->v->stale, slot)) {
            merge_put(m, slot, pdpte != NULL ? pdpte[i] : m->v->value[slot]);
        }
    }
}

static void put_guest_state(struct merge *m, const uint64_t *pdpte) {
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        uint64_t written = m->v->dirty.word[w] & m->vcpu->vm->copied.word[w];

        for (; written != 0; written &= written - 1) {
            unsigned int slot = w * 64 + (unsigned int)__builtin_ctzll(written);
            merge_put(m, slot, m->v->value[slot]);
        }
    }
    merge_put(m, NVMX_F_GUEST_CR0, m->v->value[NVMX_F_GUEST_CR0]);
    merge_put(m, NVMX_F_GUEST_CR4, m->v->value[NVMX_F_GUEST_CR4]);
    if ((m->v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0 &&
        !nvmx_set_has(&m->v->stale, NVMX_F_PREEMPTION_TIMER_VALUE)) {
        merge_put(m, NVMX_F_PREEMPTION_TIMER_VALUE, m->v->value[NVMX_F_PREEMPTION_TIMER_VALUE]);
    }
    put_pdptes(m, pdpte);
}

/* The host may have used these fields since: they are written whenever they count. */
static void put_event(struct merge *m) {
    uint64_t info = m->v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    uint64_t before = m->v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];

    if (((info | before) & EVENT_VALID) == 0 && nvmx_set_has(&m->v->known, NVMX_F_VM_ENTRY_INTERRUPTION_INFO)) {
        return; /* no event, then as now */
    }
    merge_put_always(m, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, info);
    if ((info & EVENT_VALID) == 0) {
        return;
    }
    if ((info & EVENT_ERROR_CODE) != 0) {
        merge_put_always(m, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE, m->v->value[NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE]);
    }
    merge_put_always(m, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH, m->v->value[NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH]);
}

/* -- the whole ------------------------------------------------------------------------------------------------------------------- */

static bool controls_written(const struct merge *m) {
    uint64_t written = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        written |= m->v->dirty.word[w] & m->vcpu->vm->controls.word[w];
    }
    return written != 0;
}

enum nvmx_status merge_write(struct merge *m, enum nvmx_status status) {
    if (status == NVMX_OK && m->count != 0) {
        status = host_write_encoded(m->vcpu, m->count, m->encoding, m->value);
    }
    if (status != NVMX_OK) {
        m->v->known = (struct nvmx_field_set){{0}};
        m->v->controls_merged = false;
    }
    return status;
}

static enum nvmx_status collect(struct merge *m, const uint64_t *pdpte) {
    uint32_t bitmap_bits = m->v->bitmap_bits;
    uint16_t vpid02 = m->v->vpid02;

    m->controls = !m->v->controls_merged || controls_written(m);
    if (m->controls) {
        gate_masks(m);
    }
    enum nvmx_status status =
        inherits_over_stale(m) || loads_over_stale(m, pdpte) ? sync_all(m->vcpu, m->v) : NVMX_OK;
    if (status == NVMX_OK) {
        status = read_l1_values(m);
    }
    if (status == NVMX_OK) {
        status = merge_pages(m);
    }
    if (status != NVMX_OK) {
        return status;
    }
    if (m->controls || bitmap_bits != m->v->bitmap_bits || vpid02 != m->v->vpid02) {
        merge_put(m, NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
        merge_controls(m);
        sync_saved_fields(m->vcpu, m->v);
    }
    put_gates(m);
    merge_read_shadows(m);
    put_guest_state(m, pdpte);
    put_event(m);
    return NVMX_OK;
}

enum nvmx_status merge_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint64_t *pdpte) {
    struct merge m;
    enum nvmx_status status = host_controls(vcpu);

    merge_begin(&m, vcpu, v);
    if (status == NVMX_OK && !v->vmcs02_ready) {
        status = host_reset(vcpu, vmcs02_of(vcpu, v));
        v->vmcs02_ready = status == NVMX_OK;
    }
    if (status == NVMX_OK) {
        status = collect(&m, pdpte);
    }
    if (status == NVMX_OK) {
        status = host_select(vcpu, vmcs02_of(vcpu, v));
    }
    status = merge_write(&m, status);
    if (status == NVMX_OK) {
        v->dirty = (struct nvmx_field_set){{0}};
        v->controls_merged = true;
    }
    vcpu->pages_changed = vcpu->pages_changed && status != NVMX_OK; /* all of vmcs02's pages were taken just now */
    return status;
}
