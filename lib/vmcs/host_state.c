/* SPDX-License-Identifier: MIT */
/*
 * vmcs12's host-state area -> vmcs01's guest-state area: how L1 finds its processor after an exit of L2 (SDM 30.5).
 */
#include "vcpu.h"

#define CR0_PG (UINT64_C(1) << 31)
#define CR3_LAM (UINT64_C(3) << 61)
#define CR4_PAE (UINT64_C(1) << 5)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define EFER_LME_LMA ((UINT64_C(1) << 8) | (UINT64_C(1) << 10))
#define PAE_CR3_TABLE UINT64_C(0xffffffe0)
#define PDPTE_PRESENT UINT64_C(1)
#define PDPTE_RESERVED (UINT64_C(0x1e6)) /* bits 2:1 and 8:5 */

/* SDM 30.5.1: ET, bits 15:6, 17, 28:19, NW, CD and 63:32 of CR0 keep what they are. */
#define CR0_KEPT (UINT64_C(0xffffffff00000000) | UINT64_C(0x7ff80000) | UINT64_C(0x0002ffd0))

/* Access rights after an exit (SDM 30.5.2). */
#define RIGHTS_CODE_64 0xa09bu
#define RIGHTS_CODE_32 0xc09bu
#define RIGHTS_DATA 0xc093u
#define RIGHTS_TSS 0x8bu
#define RIGHTS_UNUSABLE 0x10000u

#define BLOCKING_BY_NMI 8u
#define RFLAGS_FIXED 2u
#define DR7_RESET 0x400u
#define VMX_ABORT_PDPTES 2u

/* Places of the segments in the field table, from ES on. */
enum { SEGMENT_ES = 0, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS, SEGMENT_LDTR, SEGMENT_TR };

/*
 * vmcs01's fields that every exit loads, in the order of vmcs12.l1_state. Their values change only when L1 writes its host-state area or its
 * VM-exit controls, but for the first ones, up to PLACE_ENTRY_CONTROLS, which each exit sets.
 */
#define SEGMENT_FIELDS(name)                                                                                           \
    NVMX_VMCS_GUEST_##name##_SELECTOR, NVMX_VMCS_GUEST_##name##_BASE, NVMX_VMCS_GUEST_##name##_LIMIT,                  \
        NVMX_VMCS_GUEST_##name##_ACCESS_RIGHTS

enum place {
    PLACE_CR0 = 0,
    PLACE_CR0_SHADOW,
    PLACE_RIP,
    PLACE_RSP,
    PLACE_INTERRUPTIBILITY,
    PLACE_ENTRY_CONTROLS,
    PLACE_CR3,
    PLACE_CR4,
    PLACE_CR4_SHADOW,
    PLACE_RFLAGS,
    PLACE_ACTIVITY,
    PLACE_PENDING_DEBUG,
    PLACE_SYSENTER_CS,
    PLACE_SYSENTER_ESP,
    PLACE_SYSENTER_EIP,
    PLACE_GDTR_BASE,
    PLACE_GDTR_LIMIT,
    PLACE_IDTR_BASE,
    PLACE_IDTR_LIMIT,
    PLACE_SEGMENTS,
    PLACE_COUNT = PLACE_SEGMENTS + 4 * 8,
};
_Static_assert(PLACE_COUNT == L1_STATE_FIELDS, "vcpu.h gives vmcs12.l1_state its size");

static const uint32_t place_encoding[PLACE_COUNT] = {
    [PLACE_CR0] = NVMX_VMCS_GUEST_CR0,
    [PLACE_CR0_SHADOW] = NVMX_VMCS_CR0_READ_SHADOW,
    [PLACE_RIP] = NVMX_VMCS_GUEST_RIP,
    [PLACE_RSP] = NVMX_VMCS_GUEST_RSP,
    [PLACE_INTERRUPTIBILITY] = NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
    [PLACE_ENTRY_CONTROLS] = NVMX_VMCS_VM_ENTRY_CONTROLS,
    [PLACE_CR3] = NVMX_VMCS_GUEST_CR3,
    [PLACE_CR4] = NVMX_VMCS_GUEST_CR4,
    [PLACE_CR4_SHADOW] = NVMX_VMCS_CR4_READ_SHADOW,
    [PLACE_RFLAGS] = NVMX_VMCS_GUEST_RFLAGS,
    [PLACE_ACTIVITY] = NVMX_VMCS_GUEST_ACTIVITY_STATE,
    [PLACE_PENDING_DEBUG] = NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS,
    [PLACE_SYSENTER_CS] = NVMX_VMCS_GUEST_SYSENTER_CS,
    [PLACE_SYSENTER_ESP] = NVMX_VMCS_GUEST_SYSENTER_ESP,
    [PLACE_SYSENTER_EIP] = NVMX_VMCS_GUEST_SYSENTER_EIP,
    [PLACE_GDTR_BASE] = NVMX_VMCS_GUEST_GDTR_BASE,
    [PLACE_GDTR_LIMIT] = NVMX_VMCS_GUEST_GDTR_LIMIT,
    [PLACE_IDTR_BASE] = NVMX_VMCS_GUEST_IDTR_BASE,
    [PLACE_IDTR_LIMIT] = NVMX_VMCS_GUEST_IDTR_LIMIT,
    [PLACE_SEGMENTS] = SEGMENT_FIELDS(ES),
    SEGMENT_FIELDS(CS),
    SEGMENT_FIELDS(SS),
    SEGMENT_FIELDS(DS),
    SEGMENT_FIELDS(FS),
    SEGMENT_FIELDS(GS),
    SEGMENT_FIELDS(LDTR),
    SEGMENT_FIELDS(TR),
};

/* L1's state being put together. */
struct load {
    struct nvmx_vcpu *vcpu;
    struct vmcs12 *v;
    struct batch batch; /* what is not in place_encoding */
    enum nvmx_status status;
    uint64_t inherited[GATE_COUNT]; /* L2's values of what L1 keeps when the exit does not load it */
};

static uint64_t host_field(const struct load *l, unsigned int slot) {
    return l->v->value[slot];
}

static void put(struct load *l, unsigned int slot, uint64_t value) {
    if (l->status == NVMX_OK) {
        l->status = batch_put(l->vcpu, &l->batch, slot, value);
    }
}

static bool exit_64(const struct load *l) {
    return (host_field(l, NVMX_F_VM_EXIT_CONTROLS) & EXIT_HOST_64) != 0;
}

/* -- what L2 leaves behind -------------------------------------------------------------------------------------------------------------- */

/* Gates that an exit sets to a fixed value. */
#define GATES_FIXED ((1u << GATE_DR7) | (1u << GATE_DEBUGCTL))

#define FOR_EACH_GATE(i, set)                                                                                          \
    for (uint32_t left = (set), i; left != 0 && (i = (uint32_t)__builtin_ctz(left), true); left &= left - 1)

/* L1 keeps L2's value of an MSR that the exit does not load; where the host switches it, that value is in the VMCS that ran. */
static enum nvmx_status read_inherited(struct load *l) {
    FOR_EACH_GATE (i, l->vcpu->gates_switched & ~l->v->gates_exit_loads & ~GATES_FIXED) {
        enum nvmx_status status = host_read(l->vcpu, gates[i].guest, &l->inherited[i]);
        if (status != NVMX_OK) {
            return status;
        }
    }
    return NVMX_OK;
}

static uint64_t gate_value(const struct load *l, unsigned int i) {
    if (i == GATE_DR7) {
        return DR7_RESET;
    }
    if (i == GATE_DEBUGCTL) {
        return 0;
    }
    bool loaded = ((l->v->gates_exit_loads >> i) & 1) != 0;
    bool cleared = gates[i].host == gates[i].guest;
    uint64_t value = !loaded ? l->inherited[i] : cleared ? 0 : host_field(l, gates[i].host);
    if (i == GATE_EFER) {
        value = (value & ~EFER_LME_LMA) | (exit_64(l) ? EFER_LME_LMA : 0);
    }
    return value;
}

static void put_gates(struct load *l) {
    FOR_EACH_GATE (i, l->vcpu->gates_switched) {
        put(l, gates[i].guest, gate_value(l, i));
    }
}

/* What the host does not switch by VMCS fields it switches by MSR writes. */
static enum nvmx_status write_msrs(struct load *l) {
    FOR_EACH_GATE (i, l->v->gates_exit_loads & ~l->vcpu->gates_switched) {
        enum nvmx_status status = gates[i].msr != 0 ? host_msr_write(l->vcpu, gates[i].msr, gate_value(l, i))
                                                    : NVMX_E_UNSUPPORTED;
        if (status != NVMX_OK) {
            return status;
        }
    }
    return NVMX_OK;
}

/* -- control registers -------------------------------------------------------------------------------------------------------------------- */

static uint64_t l1_cr0(const struct load *l, uint64_t current) {
    return (host_field(l, NVMX_F_HOST_CR0) & ~CR0_KEPT) | (current & CR0_KEPT);
}

static uint64_t l1_cr4(const struct load *l) {
    uint64_t cr4 = host_field(l, NVMX_F_HOST_CR4);

    return exit_64(l) ? cr4 | CR4_PAE : cr4 & ~CR4_PCIDE;
}

static uint64_t l1_cr3(const struct load *l) {
    const struct nvmx_caps *caps = &l->vcpu->vm->caps;
    uint64_t lam = (caps->cpu & NVMX_CPU_LAM) != 0 ? CR3_LAM : 0;

    return host_field(l, NVMX_F_HOST_CR3) & (((UINT64_C(1) << caps->physical_address_bits) - 1) | lam);
}

/* SDM 30.5.4: PAE paging loads the PDPTEs, and aborts if one of them is bad. */
static void put_pdptes(struct load *l, uint64_t cr0, uint32_t *abort_indicator) {
    uint64_t pdpte[4];
    uint64_t table = l1_cr3(l) & PAE_CR3_TABLE;
    uint64_t reserved = PDPTE_RESERVED | ~((UINT64_C(1) << l->vcpu->vm->caps.physical_address_bits) - 1);

    if (exit_64(l) || (cr0 & CR0_PG) == 0 || (l1_cr4(l) & CR4_PAE) == 0) {
        return;
    }
    if (l1_physical_read(l->vcpu, table, &pdpte[0], 16) != NVMX_OK ||
        l1_physical_read(l->vcpu, table + 16, &pdpte[2], 16) != NVMX_OK) {
        *abort_indicator = VMX_ABORT_PDPTES;
        return;
    }
    for (unsigned int i = 0; i < 4; i++) {
        if ((pdpte[i] & PDPTE_PRESENT) != 0 && (pdpte[i] & reserved) != 0) {
            *abort_indicator = VMX_ABORT_PDPTES;
            return;
        }
        put(l, NVMX_F_GUEST_PDPTE0 + i, pdpte[i]);
    }
}

/* -- what stays the same from exit to exit ------------------------------------------------------------------------------------------------ */

static void set_segment(struct load *l, unsigned int segment, uint64_t selector, uint64_t base, uint64_t limit,
                        uint64_t rights) {
    uint64_t *to = &l->v->l1_state[PLACE_SEGMENTS + 4 * segment];

    to[0] = selector;
    to[1] = base;
    to[2] = limit;
    to[3] = rights;
}

static void set_segments(struct load *l) {
    static const uint8_t data[] = {SEGMENT_ES, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS};
    const uint64_t flat = 0xffffffff;

    set_segment(l, SEGMENT_CS, host_field(l, NVMX_F_HOST_CS_SELECTOR), 0, flat,
                exit_64(l) ? RIGHTS_CODE_64 : RIGHTS_CODE_32);
    for (unsigned int i = 0; i < sizeof(data); i++) {
        uint64_t selector = host_field(l, NVMX_F_HOST_ES_SELECTOR + data[i]);
        uint64_t base = 0;

        if (data[i] == SEGMENT_FS) {
            base = host_field(l, NVMX_F_HOST_FS_BASE);
        } else if (data[i] == SEGMENT_GS) {
            base = host_field(l, NVMX_F_HOST_GS_BASE);
        }
        set_segment(l, data[i], selector, base, flat, selector != 0 ? RIGHTS_DATA : RIGHTS_UNUSABLE | RIGHTS_DATA);
    }
    set_segment(l, SEGMENT_LDTR, 0, 0, 0, RIGHTS_UNUSABLE);
    set_segment(l, SEGMENT_TR, host_field(l, NVMX_F_HOST_TR_SELECTOR), host_field(l, NVMX_F_HOST_TR_BASE), 0x67,
                RIGHTS_TSS);
}

static void set_constant_state(struct load *l) {
    uint64_t *to = l->v->l1_state;
    uint64_t exit_controls = host_field(l, NVMX_F_VM_EXIT_CONTROLS);

    if (l->v->l1_state_ready) {
        return;
    }
    l->v->gates_exit_loads = 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool loads = gates[i].exit_load < 32 && ((exit_controls >> gates[i].exit_load) & 1) != 0;
        l->v->gates_exit_loads |= loads ? 1u << i : 0;
    }
    to[PLACE_CR3] = l1_cr3(l);
    to[PLACE_CR4] = to[PLACE_CR4_SHADOW] = l1_cr4(l);
    to[PLACE_RFLAGS] = RFLAGS_FIXED;
    to[PLACE_ACTIVITY] = 0;
    to[PLACE_PENDING_DEBUG] = 0;
    to[PLACE_SYSENTER_CS] = host_field(l, NVMX_F_HOST_SYSENTER_CS);
    to[PLACE_SYSENTER_ESP] = host_field(l, NVMX_F_HOST_SYSENTER_ESP);
    to[PLACE_SYSENTER_EIP] = host_field(l, NVMX_F_HOST_SYSENTER_EIP);
    to[PLACE_GDTR_BASE] = host_field(l, NVMX_F_HOST_GDTR_BASE);
    to[PLACE_GDTR_LIMIT] = 0xffff;
    to[PLACE_IDTR_BASE] = host_field(l, NVMX_F_HOST_IDTR_BASE);
    to[PLACE_IDTR_LIMIT] = 0xffff;
    set_segments(l);
    l->v->l1_state_ready = true;
}

static void set_state(struct load *l, uint64_t cr0, bool nmi_blocked) {
    uint64_t *to = l->v->l1_state;
    uint64_t entry_controls = l->vcpu->host_control[NVMX_F_VM_ENTRY_CONTROLS] & ~(uint64_t)ENTRY_IA32E;

    to[PLACE_CR0] = to[PLACE_CR0_SHADOW] = cr0;
    to[PLACE_RIP] = host_field(l, NVMX_F_HOST_RIP);
    to[PLACE_RSP] = host_field(l, NVMX_F_HOST_RSP);
    to[PLACE_INTERRUPTIBILITY] = nmi_blocked ? BLOCKING_BY_NMI : 0;
    to[PLACE_ENTRY_CONTROLS] = entry_controls | (exit_64(l) ? ENTRY_IA32E : 0);
}

/* -- the whole --------------------------------------------------------------------------------------------------------------------------------- */

/*
 * SDM 30.5.5: an exit by NMI leaves NMIs blocked; any other leaves them as they were. With virtual NMIs L2's blocking was not the processor's,
 * whose NMIs the VM entry unblocked. `interruptibility` is L2's, or L1's own if L2 did not run.
 */
static bool nmis_blocked(const struct vmcs12 *v, bool from_l2, bool nmi_exit, uint64_t interruptibility) {
    bool was_virtual = from_l2 && (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS) != 0;

    return nmi_exit || (!was_virtual && (interruptibility & BLOCKING_BY_NMI) != 0);
}

/* What of the processor's state an exit keeps, where L1 is left before L2 ran; vmcs01 is selected. */
static enum nvmx_status read_l1_state(struct nvmx_vcpu *vcpu, uint64_t *cr0, uint64_t *interruptibility) {
    static const uint8_t slots[] = {NVMX_F_GUEST_CR0, NVMX_F_GUEST_INTERRUPTIBILITY_STATE};
    uint64_t value[2] = {0};
    enum nvmx_status status = host_read_many(vcpu, 2, slots, value);

    *cr0 = value[0];
    *interruptibility = value[1];
    return status;
}

enum nvmx_status load_host_state(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool from_l2, bool nmi_exit,
                                 uint32_t *abort_indicator) {
    struct load l;
    uint64_t cr0 = v->value[NVMX_F_GUEST_CR0];
    uint64_t interruptibility = v->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE];

    l.vcpu = vcpu;
    l.v = v;
    l.status = NVMX_OK;
    *abort_indicator = 0;
    batch_init(&l.batch);
    set_constant_state(&l);
    if (!from_l2) {
        l.status = read_l1_state(vcpu, &cr0, &interruptibility);
    }
    if (l.status == NVMX_OK) {
        l.status = read_inherited(&l);
    }
    if (l.status == NVMX_OK) {
        l.status = shadow_push(vcpu); /* between the two selects, so that it costs no third */
    }
    if (l.status == NVMX_OK) {
        l.status = host_select(vcpu, NVMX_VMCS01);
    }
    cr0 = l1_cr0(&l, cr0);
    set_state(&l, cr0, nmis_blocked(v, from_l2, nmi_exit, interruptibility));
    put_pdptes(&l, cr0, abort_indicator);
    put_gates(&l);
    if (l.status == NVMX_OK) {
        l.status = host_write_encoded(vcpu, PLACE_COUNT, place_encoding, v->l1_state);
    }
    if (l.status == NVMX_OK) {
        l.status = batch_flush(vcpu, &l.batch);
    }
    return l.status == NVMX_OK ? write_msrs(&l) : l.status;
}
