/* SPDX-License-Identifier: MIT */
/*
 * vmcs02 -> vmcs12: what an exit of L2 saves (SDM 30.3).
 *
 * The fields that an entry check or an exit handler of L1 nearly always wants are read at once, together with those that L1 read after earlier exits; all
 * other guest state is marked stale: its truth stays in vmcs02 until L1 asks for it or the vmcs12 leaves the cache.
 */
#include "vcpu.h"

/* Read at every exit: with them every check of the EVENT and NONREGISTER groups has its input. */
static const uint8_t core_fields[] = {
    NVMX_F_GUEST_RIP,
    NVMX_F_GUEST_RSP,
    NVMX_F_GUEST_RFLAGS,
    NVMX_F_GUEST_INTERRUPTIBILITY_STATE,
    NVMX_F_GUEST_ACTIVITY_STATE,
    NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS,
    NVMX_F_GUEST_CS_ACCESS_RIGHTS,
    NVMX_F_GUEST_SS_ACCESS_RIGHTS,
    NVMX_F_GUEST_CR0,
    NVMX_F_GUEST_CR4,
    NVMX_F_VM_ENTRY_CONTROLS,
};

const struct gate gates[GATE_COUNT] = {
    [GATE_DEBUGCTL] = {NVMX_F_GUEST_DEBUGCTL, NVMX_F_GUEST_DEBUGCTL, 2, 2, 0xff, 0x1d9},
    [GATE_DR7] = {NVMX_F_GUEST_DR7, NVMX_F_GUEST_DR7, 2, 2, 0xff, 0},
    [GATE_PAT] = {NVMX_F_GUEST_PAT, NVMX_F_HOST_PAT, 14, 18, 19, 0x277},
    [GATE_EFER] = {NVMX_F_GUEST_EFER, NVMX_F_HOST_EFER, 15, 20, 21, 0xc0000080},
    [GATE_PERF_GLOBAL_CTRL] = {NVMX_F_GUEST_PERF_GLOBAL_CTRL, NVMX_F_HOST_PERF_GLOBAL_CTRL, 13, 30, 12, 0x38f},
};

uint32_t secondary_controls(const struct vmcs12 *v) {
    bool active = (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0;

    return active ? (uint32_t)v->value[NVMX_F_SECONDARY_CONTROLS] : 0;
}

static const struct gate *gate_of(unsigned int slot) {
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (gates[i].guest == slot) {
            return &gates[i];
        }
    }
    return NULL;
}

/* Does an exit of L2 store this guest-state field into vmcs12? */
static bool saved_on_exit(const struct vmcs12 *v, unsigned int slot) {
    uint64_t exit_controls = v->value[NVMX_F_VM_EXIT_CONTROLS];

    switch (nvmx_field_info(slot)->merge) {
    case NVMX_MERGE_COPY:
        break;
    case NVMX_MERGE_GATED: {
        const struct gate *gate = gate_of(slot);
        return gate != NULL && ((exit_controls >> gate->exit_save) & 1) != 0;
    }
    default:
        return slot == NVMX_F_GUEST_CR0 || slot == NVMX_F_GUEST_CR4;
    }
    if (slot == NVMX_F_PREEMPTION_TIMER_VALUE) {
        return (exit_controls & EXIT_SAVE_TIMER) != 0;
    }
    if (slot == NVMX_F_GUEST_INTERRUPT_STATUS) {
        return (secondary_controls(v) & PROC2_VIRTUAL_INTERRUPTS) != 0;
    }
    if (slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3) {
        return (secondary_controls(v) & PROC2_EPT) != 0;
    }
    return true;
}

/* Take one value that was read from vmcs02. */
static void take(const struct nvmx_vm *vm, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    v->image[slot] = value;
    nvmx_set_add(&v->known, slot);
    if (slot == NVMX_F_VM_ENTRY_CONTROLS) {
        /* SDM 30.3.2: EFER.LMA goes into "IA-32e mode guest" on CPUs with IA32_VMX_MISC[5]. */
        if ((vm->caps.msr[NVMX_CAP_MISC] >> 5) & 1) {
            v->value[slot] = (v->value[slot] & ~(uint64_t)ENTRY_IA32E) | (value & ENTRY_IA32E);
        }
    } else {
        v->value[slot] = value;
    }
    nvmx_set_remove(&v->stale, slot);
}

static enum nvmx_status read_slots(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint8_t *slots, uint32_t count) {
    uint64_t value[NVMX_FIELD_COUNT];
    enum nvmx_status status = host_read_many(vcpu, count, slots, value);

    for (uint32_t i = 0; status == NVMX_OK && i < count; i++) {
        take(vcpu->vm, v, slots[i], value[i]);
    }
    return status;
}

void sync_saved_fields(const struct nvmx_vm *vm, struct vmcs12 *v) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        nvmx_set_remove(&v->saved, slot);
        if (nvmx_set_has(&vm->guest_state, slot) && nvmx_set_has(&vm->exists, slot) && saved_on_exit(v, slot)) {
            nvmx_set_add(&v->saved, slot);
        }
    }
}

/* After L2 ran nothing is known of vmcs02's guest area, and everything that an exit saves is stale. */
static void mark_stale(const struct nvmx_vm *vm, struct vmcs12 *v) {
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] &= ~vm->guest_state.word[w];
        v->stale.word[w] |= v->saved.word[w];
    }
    v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] &= ~(uint64_t)EVENT_VALID;
}

enum nvmx_status sync_from_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint8_t slots[NVMX_FIELD_COUNT];
    uint32_t count = sizeof(core_fields);

    mark_stale(vcpu->vm, v);
    for (uint32_t i = 0; i < sizeof(core_fields); i++) {
        slots[i] = core_fields[i];
        nvmx_set_remove(&v->stale, core_fields[i]);
    }
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        uint64_t ahead = v->learned.word[w] & v->stale.word[w];

        for (; ahead != 0; ahead &= ahead - 1) {
            unsigned int slot = w * 64 + (unsigned int)__builtin_ctzll(ahead);
            slots[count++] = (uint8_t)slot;
        }
    }
    enum nvmx_status status = read_slots(vcpu, v, slots, count);
    if (status != NVMX_OK) {
        mark_stale(vcpu->vm, v);
    }
    return status;
}

enum nvmx_status sync_all(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint8_t slots[NVMX_FIELD_COUNT];
    uint32_t count = 0;
    uint32_t before = vcpu->selected;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (nvmx_set_has(&v->stale, slot)) {
            slots[count++] = (uint8_t)slot;
        }
    }
    if (count == 0) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select(vcpu, vmcs02_of(vcpu, v));
    if (status == NVMX_OK) {
        status = read_slots(vcpu, v, slots, count);
    }
    enum nvmx_status back = host_select(vcpu, before);
    return status != NVMX_OK ? status : back;
}
