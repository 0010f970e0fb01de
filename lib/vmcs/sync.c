/* SPDX-License-Identifier: MIT */
/*
 * vmcs02 -> vmcs12: what an exit of L2 saves (SDM 30.3).
 *
 * The fields that an entry check or an exit handler of L1 nearly always wants are read at once, together with those
 * that L1 read after earlier exits; all other guest state is marked stale: its truth stays in vmcs02 until L1 asks for
 * it or the vmcs12 leaves the cache.
 */
#include "shadow.h"

/*
 * Known after every exit: with them every check of the EVENT and NONREGISTER groups has its input. The last two need no reading after most exits by an
 * instruction.
 */
#define CORE_FIELDS(X)                                                                                                 \
    X(GUEST_RIP)                                                                                                       \
    X(GUEST_RSP)                                                                                                       \
    X(GUEST_RFLAGS)                                                                                                    \
    X(GUEST_INTERRUPTIBILITY_STATE)                                                                                    \
    X(GUEST_CS_ACCESS_RIGHTS)                                                                                          \
    X(GUEST_SS_ACCESS_RIGHTS)                                                                                          \
    X(GUEST_CR0)                                                                                                       \
    X(GUEST_CR4)                                                                                                       \
    X(VM_ENTRY_CONTROLS)                                                                                               \
    X(GUEST_ACTIVITY_STATE)                                                                                            \
    X(GUEST_PENDING_DEBUG_EXCEPTIONS)

enum {
#define X(name) CORE_##name,
    CORE_FIELDS(X)
#undef X
        CORE_COUNT,
    CORE_ALWAYS = CORE_GUEST_ACTIVITY_STATE, /* read at every exit */
};

static const uint32_t core_encoding[CORE_COUNT] = {
#define X(name) NVMX_VMCS_##name,
    CORE_FIELDS(X)
#undef X
};

/* Secondary VM-exit controls. */
#define EXIT2(bit) (32 + (bit))
#define HOST_GATE(name, bit, msr)                                                                                      \
    { NVMX_F_GUEST_##name, NVMX_F_GUEST_##name, bit, 0xff, 0xff, msr }

const struct gate gates[GATE_COUNT] = {
    [GATE_DEBUGCTL] = {NVMX_F_GUEST_DEBUGCTL, NVMX_F_GUEST_DEBUGCTL, 2, 2, 0xff, 0x1d9},
    [GATE_DR7] = {NVMX_F_GUEST_DR7, NVMX_F_GUEST_DR7, 2, 2, 0xff, 0},
    [GATE_PAT] = {NVMX_F_GUEST_PAT, NVMX_F_HOST_PAT, 14, 18, 19, 0x277},
    [GATE_EFER] = {NVMX_F_GUEST_EFER, NVMX_F_HOST_EFER, 15, 20, 21, 0xc0000080},
    [GATE_PERF_GLOBAL_CTRL] = {NVMX_F_GUEST_PERF_GLOBAL_CTRL, NVMX_F_HOST_PERF_GLOBAL_CTRL, 13, 30, 12, 0x38f},
    [GATE_BNDCFGS] = {NVMX_F_GUEST_BNDCFGS, NVMX_F_GUEST_BNDCFGS, 16, 0xff, 23, 0xd90},
    [GATE_LBR_CTL] = {NVMX_F_GUEST_LBR_CTL, NVMX_F_GUEST_LBR_CTL, 21, 0xff, 26, 0x14ce},
    [GATE_PKRS] = {NVMX_F_GUEST_PKRS, NVMX_F_HOST_PKRS, 22, 0xff, 29, 0x6e1},
    /* These are no MSRs, or not alone: offered only where vmcs01 switches them (vcpu.c). */
    [GATE_UINV] = {NVMX_F_GUEST_UINV, NVMX_F_GUEST_UINV, 19, 0xff, 27, 0},
    [GATE_S_CET] = {NVMX_F_GUEST_S_CET, NVMX_F_HOST_S_CET, 20, 0xff, 28, 0},
    [GATE_SSP] = {NVMX_F_GUEST_SSP, NVMX_F_HOST_SSP, 20, 0xff, 28, 0},
    [GATE_INTERRUPT_SSP_TABLE] = {NVMX_F_GUEST_INTERRUPT_SSP_TABLE_ADDR, NVMX_F_HOST_INTERRUPT_SSP_TABLE_ADDR, 20, 0xff,
                                  28, 0},
    [GATE_SPEC_CTRL] = {NVMX_F_GUEST_SPEC_CTRL, NVMX_F_HOST_SPEC_CTRL, 24, 0xff, EXIT2(2), 0x48},
    /* The host's alone. */
    [GATE_RTIT_CTL] = HOST_GATE(RTIT_CTL, 18, 0x570),
    [GATE_FRED_CONFIG] = HOST_GATE(FRED_CONFIG, 23, 0x1d4),
    [GATE_FRED_RSP1] = HOST_GATE(FRED_RSP1, 23, 0x1cd),
    [GATE_FRED_RSP2] = HOST_GATE(FRED_RSP2, 23, 0x1ce),
    [GATE_FRED_RSP3] = HOST_GATE(FRED_RSP3, 23, 0x1cf),
    [GATE_FRED_STKLVLS] = HOST_GATE(FRED_STKLVLS, 23, 0x1d0),
    [GATE_FRED_SSP1] = HOST_GATE(FRED_SSP1, 23, 0x1d1),
    [GATE_FRED_SSP2] = HOST_GATE(FRED_SSP2, 23, 0x1d2),
    [GATE_FRED_SSP3] = HOST_GATE(FRED_SSP3, 23, 0x1d3),
};

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
    uint64_t controls = v->value[NVMX_F_VM_EXIT_CONTROLS];

    switch (nvmx_field_info(slot)->merge) {
    case NVMX_MERGE_COPY:
        break;
    case NVMX_MERGE_GATED: {
        const struct gate *gate = gate_of(slot);
        return gate != NULL && (gate->exit_save >= 32 || ((controls >> gate->exit_save) & 1) != 0);
    }
    default:
        return slot == NVMX_F_GUEST_CR0 || slot == NVMX_F_GUEST_CR4;
    }
    if (slot == NVMX_F_PREEMPTION_TIMER_VALUE) {
        return (controls & EXIT_SAVE_TIMER) != 0;
    }
    if (slot == NVMX_F_GUEST_INTERRUPT_STATUS) {
        return (secondary_controls(v) & PROC2_VIRTUAL_INTERRUPTS) != 0;
    }
    if (slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3) {
        return (secondary_controls(v) & PROC2_EPT) != 0;
    }
    return true;
}

/* SDM 30.3.2: EFER.LMA goes into "IA-32e mode guest" on CPUs with IA32_VMX_MISC[5]. */
static uint64_t entry_controls_after(const struct nvmx_vm *vm, uint64_t before, uint64_t hardware) {
    bool stores_lma = ((vm->caps.msr[NVMX_CAP_MISC] >> 5) & 1) != 0;
    uint64_t changes = stores_lma ? ENTRY_IA32E : 0;

    return (before & ~changes) | (hardware & changes);
}

static inline void take_one(struct vmcs12 *v, unsigned int slot, uint64_t value) {
    v->value[slot] = v->image[slot] = value;
}

/* Take values that were read from vmcs02. */
static void take(struct vmcs12 *v, uint32_t count, const uint8_t *slots, const uint64_t *hardware) {
    uint32_t i = 0;

    for (; i + 4 <= count; i += 4) {
        take_one(v, slots[i], hardware[i]);
        take_one(v, slots[i + 1], hardware[i + 1]);
        take_one(v, slots[i + 2], hardware[i + 2]);
        take_one(v, slots[i + 3], hardware[i + 3]);
    }
    for (; i < count; i++) {
        take_one(v, slots[i], hardware[i]);
    }
}

/* The last answer serves again: vmcs12s of one L1 are much alike. */
void sync_saved_fields(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct nvmx_vm *vm = vcpu->vm;
    const uint64_t controls[3] = {v->value[NVMX_F_PRIMARY_CONTROLS], secondary_controls(v),
                                  v->value[NVMX_F_VM_EXIT_CONTROLS]};
    bool same =
        controls[0] == vcpu->saved_for[0] && controls[1] == vcpu->saved_for[1] && controls[2] == vcpu->saved_for[2];

    v->sync_ready = false;
    if (same) {
        v->saved = vcpu->saved_last;
        return;
    }
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->saved.word[w] = 0;
        for (uint64_t left = vm->guest_state.word[w] & vm->exists.word[w]; left != 0; left &= left - 1) {
            unsigned int slot = w * 64 + (unsigned int)__builtin_ctzll(left);

            if (saved_on_exit(v, slot)) {
                nvmx_set_add(&v->saved, slot);
            }
        }
    }
    for (unsigned int i = 0; i < 3; i++) {
        vcpu->saved_for[i] = controls[i];
    }
    vcpu->saved_last = v->saved;
}

static void list_add(struct sync_list *list, uint32_t *count, unsigned int slot) {
    list->encoding[*count] = field_encoding[slot];
    list->slot[*count] = (uint8_t)slot;
    ++*count;
}

/* What every exit reads beside the core: what L1 read after earlier exits. Then the rest, which leaves with the vmcs12. */
static COLD void make_list(const struct nvmx_vm *vm, struct vmcs12 *v) {
    struct sync_list *list = &v->sync;
    struct nvmx_field_set core = {{0}};

#define X(name) nvmx_set_add(&core, NVMX_F_##name);
    CORE_FIELDS(X)
#undef X
    list->count = 0;
    list->shown = 0;
    list->covers_shadow = true;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        uint64_t extra = v->learned.word[w] & v->saved.word[w] & ~core.word[w];

        list->fields.word[w] = core.word[w] | extra;
        list->saved_later.word[w] = v->saved.word[w] & ~list->fields.word[w];
        list->covers_shadow = list->covers_shadow && (list->saved_later.word[w] & vm->shadowed.fields.word[w]) == 0;
        list->lost.word[w] = vm->guest_state.word[w] & ~list->fields.word[w];
        for (uint64_t left = extra; left != 0; left &= left - 1) {
            unsigned int slot = w * 64 + (unsigned int)__builtin_ctzll(left);

            list_add(list, &list->count, slot);
            list->shown |= nvmx_set_has(&vm->shadowed.fields, slot) ? UINT64_C(1) << shadow_place(slot) : 0;
        }
    }
    list->all = list->count;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        for (uint64_t left = list->saved_later.word[w]; left != 0; left &= left - 1) {
            list_add(list, &list->all, w * 64 + (unsigned int)__builtin_ctzll(left));
        }
    }
    v->sync_ready = true;
    v->settled = false;
}

static enum nvmx_status read_extra(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct sync_list *list = &v->sync;
    uint64_t value[NVMX_FIELD_COUNT];
    enum nvmx_status status = host_read_encoded(vcpu, list->count, list->encoding, value);

    if (status == NVMX_OK) {
        take(v, list->count, list->slot, value);
        v->shadow_behind |= list->shown;
    }
    return status;
}

/* Nothing could be read: all that the exit saves is in vmcs02. */
static COLD enum nvmx_status lost(const struct nvmx_vcpu *vcpu, struct vmcs12 *v, enum nvmx_status status) {
    v->settled = false;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] &= ~vcpu->vm->guest_state.word[w];
        v->stale.word[w] |= v->saved.word[w];
    }
    v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] &= ~(uint64_t)EVENT_VALID;
    return status;
}

/* After L2 ran nothing is known of vmcs02's guest area, and everything that an exit saves is stale; but for what is
 * read here. */
static inline void settle(struct vmcs12 *v) {
    const struct sync_list *list = &v->sync;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] = (v->known.word[w] & ~list->lost.word[w]) | list->fields.word[w];
        v->stale.word[w] = (v->stale.word[w] & ~list->fields.word[w]) | list->saved_later.word[w];
    }
    v->settled = true;
}

/* A core field. Where the exit before settled, image[] has been vmcs12's value since: the entries in between wrote what L1 wrote, and nothing else. */
#define FOUND(name)                                                                                                    \
    do {                                                                                                               \
        if (v->value[NVMX_F_##name] != value[CORE_##name]) {                                                           \
            take_one(v, NVMX_F_##name, value[CORE_##name]);                                                            \
            behind |= UINT64_C(1) << PLACE_##name;                                                                     \
        }                                                                                                              \
    } while (0)

static inline __attribute__((always_inline)) enum nvmx_status read_learned(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (RARE(!v->sync_ready)) {
        make_list(vcpu->vm, v);
    }
    return v->sync.count != 0 ? read_extra(vcpu, v) : NVMX_OK;
}

/*
 * L2's CR0 or CR4 is another one. What it reads of them depends on that, so that the next entry needs more than most; and where the host alone masks bits, it
 * may have carried out L2's MOV, and written the read shadow too.
 */
static COLD void control_registers_changed(struct vmcs12 *v) {
    v->plain = false;
    if ((v->image[NVMX_F_CR0_GUEST_HOST_MASK] & ~v->value[NVMX_F_CR0_GUEST_HOST_MASK]) != 0) {
        nvmx_set_remove(&v->known, NVMX_F_CR0_READ_SHADOW);
    }
    if ((v->image[NVMX_F_CR4_GUEST_HOST_MASK] & ~v->value[NVMX_F_CR4_GUEST_HOST_MASK]) != 0) {
        nvmx_set_remove(&v->known, NVMX_F_CR4_READ_SHADOW);
    }
}

/* No pointer to value[] goes anywhere: its elements stay in registers. */
static inline __attribute__((always_inline)) void keep_core(const struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint64_t *value) {
    uint64_t behind = 0;

    if (RARE(!v->settled)) {
        settle(v);
#define X(name) v->image[NVMX_F_##name] = value[CORE_##name];
        CORE_FIELDS(X)
#undef X
    }
    uint64_t entry_controls = v->value[NVMX_F_VM_ENTRY_CONTROLS];
    if (RARE(v->value[NVMX_F_GUEST_CR0] != value[CORE_GUEST_CR0] || v->value[NVMX_F_GUEST_CR4] != value[CORE_GUEST_CR4])) {
        control_registers_changed(v);
    }
    FOUND(GUEST_RIP);
    FOUND(GUEST_RSP);
    FOUND(GUEST_RFLAGS);
    FOUND(GUEST_INTERRUPTIBILITY_STATE);
    FOUND(GUEST_CS_ACCESS_RIGHTS);
    FOUND(GUEST_SS_ACCESS_RIGHTS);
    FOUND(GUEST_CR0);
    FOUND(GUEST_CR4);
    v->shadow_behind |= behind;
    take_one(v, NVMX_F_GUEST_ACTIVITY_STATE, value[CORE_GUEST_ACTIVITY_STATE]);
    take_one(v, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, value[CORE_GUEST_PENDING_DEBUG_EXCEPTIONS]);
    v->image[NVMX_F_VM_ENTRY_CONTROLS] = value[CORE_VM_ENTRY_CONTROLS];
    v->value[NVMX_F_VM_ENTRY_CONTROLS] = entry_controls_after(vcpu->vm, entry_controls, value[CORE_VM_ENTRY_CONTROLS]);
    v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] &= ~(uint64_t)EVENT_VALID;
}

/* With the host's CR4.MCE in vmcs02 its read shadow says what L2 has. */
static COLD enum nvmx_status without_kept(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t *cr4) {
    uint64_t shadow = 0;
    enum nvmx_status status = host_read(vcpu, NVMX_F_CR4_READ_SHADOW, &shadow);

    if (status == NVMX_OK) {
        *cr4 = cr4_of_l2(vcpu, v, *cr4, shadow);
    }
    return status;
}

__attribute__((noinline)) enum nvmx_status sync_from_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint64_t value[CORE_COUNT];
    enum nvmx_status status = read_learned(vcpu, v);

    if (status == NVMX_OK) {
        status = host_read_fixed(vcpu, CORE_COUNT, core_encoding, value);
    }
    if (RARE(vcpu->cr4_kept != 0) && status == NVMX_OK) {
        status = without_kept(vcpu, v, &value[CORE_GUEST_CR4]);
    }
    if (RARE(status != NVMX_OK)) {
        return lost(vcpu, v, status);
    }
    keep_core(vcpu, v, value);
    return NVMX_OK;
}

/*
 * An instruction that exits was executed in the active state, which is what the exit saves; and it saves no pending debug exception unless MOV SS blocks
 * them (SDM 30.3.4): then all is read. So it is with RFLAGS.TF, for Bochs has the single step there that the instruction would have ended with.
 */
__attribute__((noinline)) enum nvmx_status sync_by_instruction(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint64_t value[CORE_COUNT];
    enum nvmx_status status = read_learned(vcpu, v);

    if (status == NVMX_OK) {
        status = host_read_fixed(vcpu, CORE_ALWAYS, core_encoding, value);
    }
    if (RARE(status != NVMX_OK)) {
        return lost(vcpu, v, status);
    }
    if ((value[CORE_GUEST_INTERRUPTIBILITY_STATE] & BLOCKING_MOV_SS) != 0) {
        return sync_from_vmcs02(vcpu, v);
    }
    if ((value[CORE_GUEST_RFLAGS] & RFLAGS_TF) != 0) {
        return sync_from_vmcs02(vcpu, v);
    }
    if (RARE(vcpu->cr4_kept != 0)) {
        status = without_kept(vcpu, v, &value[CORE_GUEST_CR4]);
        if (status != NVMX_OK) {
            return lost(vcpu, v, status);
        }
    }
    value[CORE_GUEST_ACTIVITY_STATE] = 0;
    value[CORE_GUEST_PENDING_DEBUG_EXCEPTIONS] = 0;
    keep_core(vcpu, v, value);
    return NVMX_OK;
}

/* Fetch the listed fields. VM-entry controls are never stale. */
static enum nvmx_status fetch(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t count, const uint32_t *encoding,
                              const uint8_t *slots) {
    uint64_t *value = vcpu->scratch.value;
    uint32_t before = vcpu->selected;
    enum nvmx_status status = host_select(vcpu, vmcs02_of(vcpu, v));

    v->settled = false;
    if (status == NVMX_OK) {
        status = host_read_encoded(vcpu, count, encoding, value);
    }
    if (status == NVMX_OK) {
        take(v, count, slots, value);
    }
    enum nvmx_status back = host_select(vcpu, before);
    return status != NVMX_OK ? status : back;
}

/* Fetch those of `which` that are stale. What of it L1 sees in a shadow VMCS is to be written there. */
static enum nvmx_status sync_some(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct nvmx_field_set *which) {
    uint32_t *encoding = vcpu->scratch.encoding;
    uint8_t slots[NVMX_FIELD_COUNT];
    uint32_t count = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        for (uint64_t stale = v->stale.word[w] & which->word[w]; stale != 0; stale &= stale - 1) {
            unsigned int slot = w * 64 + (unsigned int)__builtin_ctzll(stale);

            encoding[count] = field_encoding[slot];
            slots[count++] = (uint8_t)slot;
        }
        v->shadow_behind |= (v->stale.word[w] & which->word[w] & vcpu->vm->shadowed.fields.word[w]) != 0 ? UINT64_MAX : 0;
    }
    enum nvmx_status status = count != 0 ? fetch(vcpu, v, count, encoding, slots) : NVMX_OK;
    for (unsigned int w = 0; status == NVMX_OK && w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] |= v->stale.word[w] & which->word[w];
        v->stale.word[w] &= ~which->word[w];
    }
    return status;
}

/* Nothing was fetched or written since the last exit: all that it left in vmcs02 is in one list. */
static bool just_exited(const struct vmcs12 *v) {
    uint64_t different = 0;

    for (unsigned int w = 0; v->sync_ready && w < NVMX_FIELD_SET_WORDS; w++) {
        different |= v->stale.word[w] ^ v->sync.saved_later.word[w];
    }
    return v->sync_ready && different == 0;
}

enum nvmx_status sync_all(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct sync_list *list = &v->sync;
    struct nvmx_field_set all = v->stale;

    if (!just_exited(v) || list->all == list->count || !list->covers_shadow) {
        return sync_some(vcpu, v, &all);
    }
    enum nvmx_status status =
        fetch(vcpu, v, list->all - list->count, &list->encoding[list->count], &list->slot[list->count]);
    for (unsigned int w = 0; status == NVMX_OK && w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] |= all.word[w];
        v->stale.word[w] = 0;
    }
    return status;
}

/* Of what leaves the cache it does not matter what vmcs02 holds: it stays unknown, and counts again if L1 writes it. */
enum nvmx_status sync_away(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct sync_list *list = &v->sync;
    const uint32_t count = list->all - list->count;

    if (!just_exited(v) || count == 0 || !list->covers_shadow) {
        return sync_all(vcpu, v);
    }
    enum nvmx_status status = host_select_vmcs02(vcpu, (uint32_t)(v - vcpu->vmcs12));
    if (status == NVMX_OK) {
        status = host_read_places(vcpu, count, &list->encoding[list->count], &list->slot[list->count], v->value);
    }
    if (status != NVMX_OK) {
        return status; /* all are still stale */
    }
    v->settled = false;
    v->stale = (struct nvmx_field_set){{0}};
    return NVMX_OK;
}

enum nvmx_status sync_msrs(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    return sync_some(vcpu, v, &vcpu->vm->msr_fields);
}

/* What is stale no load has touched. */
void sync_msrs_lost(const struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct nvmx_vm *vm = vcpu->vm;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->known.word[w] &= ~vm->msr_fields.word[w];
        v->dirty.word[w] |= vm->msr_fields.word[w] & (vm->copied.word[w] | v->refreshed.word[w]) & ~v->stale.word[w];
    }
}
