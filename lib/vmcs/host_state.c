/* SPDX-License-Identifier: MIT */
/*
 * vmcs12's host-state area -> vmcs01's guest-state area: how L1 finds its processor after an exit of L2 (SDM 30.5).
 */
#include "merge.h"

#include <string.h>

#define PAE_CR3_TABLE  UINT64_C(0xffffffe0)
#define PDPTE_PRESENT  UINT64_C(1)
#define PDPTE_RESERVED (UINT64_C(0x1e6)) /* bits 2:1 and 8:5 */

/* SDM 30.5.1: ET, bits 15:6, 17, 28:19, NW, CD and 63:32 of CR0 keep what they are. */
#define CR0_KEPT (UINT64_C(0xffffffff00000000) | UINT64_C(0x7ff80000) | UINT64_C(0x0002ffd0))

/* Access rights after an exit (SDM 30.5.2). */
#define RIGHTS_CODE_64   0xa09bu
#define RIGHTS_CODE_32   0xc09bu
#define RIGHTS_DATA      0xc093u
#define RIGHTS_TSS       0x8bu

#define RFLAGS_FIXED     2u
#define VMX_ABORT_PDPTES 2u
#define VMX_ABORT_IA32E  6u

/* The segments, in the order of their places. */
enum { SEGMENT_ES = 0, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS, SEGMENT_TR };

/*
 * vmcs01's fields that every exit loads, in the order of vmcs12.l1_state; gates and MSRs follow. Values change only when L1
 * writes its host-state area or its VM-exit controls, but for those of PLACE_ENTRY_CONTROLS, the interruptibility, CR0,
 * RIP and RSP, which each exit sets.
 *
 * The first ones L1's last exit told, and those up to PLACE_FIRST_UNKNOWN only the host changes: they are often known
 * to hold what they should. So are the MSRs at the end, where the host watches them. LDTR's base and limit are undefined after an exit, since it is unusable.
 */
#define SEGMENT_FIELDS(name)                                                                                           \
    NVMX_VMCS_GUEST_##name##_SELECTOR, NVMX_VMCS_GUEST_##name##_BASE, NVMX_VMCS_GUEST_##name##_LIMIT

enum place {
    PLACE_CS_RIGHTS = 0,
    PLACE_SS_RIGHTS,
    PLACE_ENTRY_CONTROLS,
    PLACE_INTERRUPTIBILITY,
    PLACE_ACTIVITY,
    PLACE_PENDING_DEBUG,
    PLACE_CR0_SHADOW,
    PLACE_CR4_SHADOW,
    PLACE_CR0,
    PLACE_RIP,
    PLACE_RSP,
    PLACE_CR3,
    PLACE_CR4,
    PLACE_RFLAGS,
    PLACE_GDTR_BASE,
    PLACE_GDTR_LIMIT,
    PLACE_IDTR_BASE,
    PLACE_IDTR_LIMIT,
    PLACE_LDTR_SELECTOR,
    PLACE_LDTR_RIGHTS,
    PLACE_TR_RIGHTS,
    PLACE_ES_RIGHTS,
    PLACE_DS_RIGHTS,
    PLACE_FS_RIGHTS,
    PLACE_GS_RIGHTS,
    PLACE_SEGMENTS, /* ES, CS, SS, DS, FS, GS, TR */
    PLACE_COUNT = PLACE_SEGMENTS + 3 * 7,
    PLACE_AFTER_EXIT_STATE = PLACE_CR0_SHADOW,
    PLACE_FIRST_UNKNOWN = PLACE_CR0,
};
_Static_assert(PLACE_COUNT + GATE_COUNT + 3 <= L1_STATE_FIELDS, "vcpu.h gives vmcs12.l1_state its size");

static const uint32_t place_encoding[PLACE_COUNT] = {
    [PLACE_CS_RIGHTS] = NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS,
    [PLACE_SS_RIGHTS] = NVMX_VMCS_GUEST_SS_ACCESS_RIGHTS,
    [PLACE_ENTRY_CONTROLS] = NVMX_VMCS_VM_ENTRY_CONTROLS,
    [PLACE_INTERRUPTIBILITY] = NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
    [PLACE_ACTIVITY] = NVMX_VMCS_GUEST_ACTIVITY_STATE,
    [PLACE_PENDING_DEBUG] = NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS,
    [PLACE_CR0_SHADOW] = NVMX_VMCS_CR0_READ_SHADOW,
    [PLACE_CR4_SHADOW] = NVMX_VMCS_CR4_READ_SHADOW,
    [PLACE_CR0] = NVMX_VMCS_GUEST_CR0,
    [PLACE_RIP] = NVMX_VMCS_GUEST_RIP,
    [PLACE_RSP] = NVMX_VMCS_GUEST_RSP,
    [PLACE_CR3] = NVMX_VMCS_GUEST_CR3,
    [PLACE_CR4] = NVMX_VMCS_GUEST_CR4,
    [PLACE_RFLAGS] = NVMX_VMCS_GUEST_RFLAGS,
    [PLACE_GDTR_BASE] = NVMX_VMCS_GUEST_GDTR_BASE,
    [PLACE_GDTR_LIMIT] = NVMX_VMCS_GUEST_GDTR_LIMIT,
    [PLACE_IDTR_BASE] = NVMX_VMCS_GUEST_IDTR_BASE,
    [PLACE_IDTR_LIMIT] = NVMX_VMCS_GUEST_IDTR_LIMIT,
    [PLACE_LDTR_SELECTOR] = NVMX_VMCS_GUEST_LDTR_SELECTOR,
    [PLACE_LDTR_RIGHTS] = NVMX_VMCS_GUEST_LDTR_ACCESS_RIGHTS,
    [PLACE_TR_RIGHTS] = NVMX_VMCS_GUEST_TR_ACCESS_RIGHTS,
    [PLACE_ES_RIGHTS] = NVMX_VMCS_GUEST_ES_ACCESS_RIGHTS,
    [PLACE_DS_RIGHTS] = NVMX_VMCS_GUEST_DS_ACCESS_RIGHTS,
    [PLACE_FS_RIGHTS] = NVMX_VMCS_GUEST_FS_ACCESS_RIGHTS,
    [PLACE_GS_RIGHTS] = NVMX_VMCS_GUEST_GS_ACCESS_RIGHTS,
    [PLACE_SEGMENTS] = SEGMENT_FIELDS(ES),
    SEGMENT_FIELDS(CS),
    SEGMENT_FIELDS(SS),
    SEGMENT_FIELDS(DS),
    SEGMENT_FIELDS(FS),
    SEGMENT_FIELDS(GS),
    SEGMENT_FIELDS(TR),
};

/* L1's state being put together. */
struct load {
    struct nvmx_vcpu *vcpu;
    struct vmcs12 *v;
};

static uint64_t host_field(const struct load *l, unsigned int slot) {
    return l->v->value[slot];
}

static bool exit_64(const struct load *l) {
    return (host_field(l, NVMX_F_VM_EXIT_CONTROLS) & EXIT_HOST_64) != 0;
}

/* -- what L2 leaves behind
 * -------------------------------------------------------------------------------------------------------------- */

/* Gates that an exit sets to a fixed value. */
#define GATES_FIXED ((1u << GATE_DR7) | (1u << GATE_DEBUGCTL))

#define FOR_EACH_GATE(i, set)                                                                                          \
    for (uint32_t left = (set), i; left != 0 && (i = (uint32_t)__builtin_ctz(left), true); left &= left - 1)

/* SDM 30.5.1: LME and LMA follow "host address-space size", whoever loads the rest. */
static uint64_t efer_for_l1(const struct load *l, uint64_t efer) {
    return (efer & ~(EFER_LME | EFER_LMA)) | (exit_64(l) ? EFER_LME | EFER_LMA : 0);
}

/* The value of a gate that the exit loads, or sets. */
static uint64_t gate_value(const struct load *l, unsigned int i) {
    if (i == GATE_DR7) {
        return DR7_RESET;
    }
    if (i == GATE_DEBUGCTL || gates[i].host == gates[i].guest) {
        return 0;
    }
    uint64_t value = host_field(l, gates[i].host);
    return i == GATE_EFER ? efer_for_l1(l, value) : value;
}

static void append(struct vmcs12 *v, unsigned int slot, uint64_t value) {
    v->l1_encoding[v->l1_count] = field_encoding[slot];
    v->l1_state[v->l1_count++] = value;
}

/* Gates that the exit loads from vmcs12. */
static uint32_t loaded_by_exit(const struct vmcs12 *v) {
    uint64_t controls = exit_controls(v);
    uint32_t set = 0;

    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool loads = gates[i].exit_load < 64 && ((controls >> gates[i].exit_load) & 1) != 0;
        set |= loads ? 1u << i : 0;
    }
    return set;
}

/* The MSRs that may be watched: last, and if they are, in the order of vcpu->watched. */
static void set_msrs(const struct load *l, uint32_t watched, uint32_t exit_loads) {
    struct vmcs12 *v = l->v;
    const uint32_t before = v->l1_count;

    append(v, NVMX_F_GUEST_SYSENTER_CS, host_field(l, NVMX_F_HOST_SYSENTER_CS));
    append(v, NVMX_F_GUEST_SYSENTER_ESP, host_field(l, NVMX_F_HOST_SYSENTER_ESP));
    append(v, NVMX_F_GUEST_SYSENTER_EIP, host_field(l, NVMX_F_HOST_SYSENTER_EIP));
    FOR_EACH_GATE(i, watched) {
        append(v, gates[i].guest, ((exit_loads >> i) & 1) != 0 ? gate_value(l, i) : 0);
    }
    v->l1_watched = l->vcpu->watched.on ? before : v->l1_count;
    v->l1_watched_kept = watched & ~exit_loads;
    v->watched_stand = false;
    v->inherited_same = 0;
}

/*
 * The gates that vmcs01 loads: those with a value of their own, those where L1 keeps what L2 left, and those that are watched. A register of which vmcs01
 * protects bits the host writes: no entry leads here from there, but the protection may have begun while L2 ran.
 */
static void set_gates(const struct load *l) {
    struct vmcs12 *v = l->v;
    uint32_t exit_loads = loaded_by_exit(v);
    uint32_t watched = gates_watched(l->vcpu);
    uint32_t shielded = host_protects_spec_ctrl(l->vcpu) ? 1u << GATE_SPEC_CTRL : 0;
    uint32_t inherited = l->vcpu->gates_switched & ~watched & ~exit_loads & ~GATES_FIXED;

    v->gates_by_msr = exit_loads & (~l->vcpu->gates_switched | shielded);
    FOR_EACH_GATE(i, l->vcpu->gates_switched & ~watched & ~inherited & ~v->gates_by_msr) {
        append(v, gates[i].guest, gate_value(l, i));
    }
    v->l1_inherited = v->l1_count;
    v->l1_inherited_efer = v->l1_inherited_protected = 0;
    FOR_EACH_GATE(i, inherited) {
        v->l1_gate[v->l1_count - v->l1_inherited] = (uint8_t)i;
        v->l1_inherited_efer = i == GATE_EFER ? (uint16_t)v->l1_count : v->l1_inherited_efer;
        v->l1_inherited_protected = ((shielded >> i) & 1) != 0 ? (uint16_t)v->l1_count : v->l1_inherited_protected;
        append(v, gates[i].guest, 0);
    }
    v->l1_inherited_count = v->l1_count - v->l1_inherited;
    set_msrs(l, watched, exit_loads);
}

static inline void found(struct vmcs12 *v, unsigned int gate, uint64_t value) {
    v->found[gate] = value;
    v->gates_found |= 1u << gate;
}

/* SDM 27.6.2: bits that vmcs01 protects stay as it has them, and L2 may have written them before it did. */
static COLD enum nvmx_status keep_protected(const struct load *l) {
    static const uint8_t slots[] = {NVMX_F_GUEST_SPEC_CTRL, NVMX_F_SPEC_CTRL_MASK};
    uint64_t *to = &l->v->l1_state[l->v->l1_inherited_protected];
    const uint32_t before = l->vcpu->selected;
    uint64_t of_vmcs01[2] = {0};
    enum nvmx_status status = host_select(l->vcpu, NVMX_VMCS01);

    if (status == NVMX_OK) {
        status = host_read_many(l->vcpu, 2, slots, of_vmcs01);
    }
    *to = (of_vmcs01[0] & of_vmcs01[1]) | (*to & ~of_vmcs01[1]);
    enum nvmx_status back = host_select(l->vcpu, before);
    return status != NVMX_OK ? status : back;
}

/* L1 keeps L2's value of an MSR that the exit does not load; where the host switches it, that value is in the VMCS that
 * ran. */
static inline enum nvmx_status read_inherited(const struct load *l, bool loaded) {
    struct vmcs12 *v = l->v;
    const uint32_t first = v->l1_inherited, end = first + v->l1_inherited_count;

    if (first == end) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_read_encoded(l->vcpu, end - first, &v->l1_encoding[first], &v->l1_state[first]);
    for (uint32_t i = first; loaded && status == NVMX_OK && i < end; i++) {
        found(v, v->l1_gate[i - first], v->l1_state[i]);
    }
    if (v->l1_inherited_efer != 0) {
        v->l1_state[v->l1_inherited_efer] = efer_for_l1(l, v->l1_state[v->l1_inherited_efer]);
    }
    if (RARE(v->l1_inherited_protected != 0) && status == NVMX_OK) {
        status = keep_protected(l);
    }
    return status;
}

/* -- what the host watches
 * ------------------------------------------------------------------------------------------------------------------ */

void watched_forget(struct nvmx_vcpu *vcpu) {
    if (!vcpu->watched.known) {
        return; /* then neither is anything that follows from it */
    }
    vcpu->watched.known = false;
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->vmcs12[i].watched_stand = false;
        vcpu->vmcs12[i].inherited_same = 0;
    }
}

/*
 * What L1 keeps of it. If L2 had L1's own and nobody wrote it since, it is that; only LMA and, without paging, LME of IA32_EFER L2 changes
 * otherwise, and they are L1's affair here.
 */
static COLD enum nvmx_status keep_watched(const struct load *l, bool loaded) {
    const struct watched *watched = &l->vcpu->watched;
    struct vmcs12 *v = l->v;
    enum nvmx_status status = NVMX_OK;

    FOR_EACH_GATE(i, v->l1_watched_kept) {
        const unsigned int place = watched_place(l->vcpu, i);
        const bool own = watched->known && (!loaded || ((v->gates_inherited >> i) & 1) != 0);
        uint64_t value = watched->value[place];

        if (!own && status == NVMX_OK) {
            status = host_read(l->vcpu, (enum nvmx_field)gates[i].guest, &value);
        }
        if (loaded && (!own || i != GATE_EFER)) {
            found(v, i, value);
        }
        v->l1_state[v->l1_watched + place] = i == GATE_EFER ? efer_for_l1(l, value) : value;
    }
    return status;
}

/* vmcs01 has what it should have. */
static bool watched_equal(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    bool equal = vcpu->watched.known;

    for (uint32_t i = v->l1_watched; equal && i < v->l1_count; i++) {
        equal = vcpu->watched.value[i - v->l1_watched] == v->l1_state[i];
    }
    return equal;
}

/* They are in vmcs01 now as they should be. What `loaded` L2 inherited of them it has still, unless the exit gave L1 another value. */
static COLD void watched_written(const struct load *l, bool loaded, bool all) {
    struct nvmx_vcpu *vcpu = l->vcpu;
    struct vmcs12 *v = l->v;
    const bool same = watched_equal(vcpu, v);
    const uint32_t inherited = v->gates_inherited & gates_watched(vcpu);

    if (!same || !all) {
        watched_forget(vcpu);
    }
    if (!all) {
        return;
    }
    for (uint32_t i = v->l1_watched; i < v->l1_count; i++) {
        vcpu->watched.value[i - v->l1_watched] = v->l1_state[i];
    }
    vcpu->watched.known = true;
    const bool has = same || (inherited & ~v->l1_watched_kept) == 0;
    v->watched_stand = loaded && has && (v->l1_watched_kept & ~inherited) == 0;
    v->inherited_same = loaded && has && (inherited & (1u << GATE_EFER)) == 0 ? v->inherited_watched : 0;
}

/* What the host does not switch by VMCS fields it switches by MSR writes, and what it protects. */
static enum nvmx_status write_msrs(const struct load *l) {
    FOR_EACH_GATE(i, l->v->gates_by_msr) {
        enum nvmx_status status =
            gates[i].msr != 0 ? host_msr_write(l->vcpu, gates[i].msr, gate_value(l, i)) : NVMX_E_UNSUPPORTED;
        if (status != NVMX_OK) {
            return status;
        }
    }
    return NVMX_OK;
}

/* -- control registers
 * --------------------------------------------------------------------------------------------------------------------
 */

static uint64_t l1_cr0(const struct load *l, uint64_t current) {
    return (host_field(l, NVMX_F_HOST_CR0) & ~CR0_KEPT) | (current & CR0_KEPT);
}

static uint64_t l1_cr4(const struct load *l) {
    uint64_t cr4 = host_field(l, NVMX_F_HOST_CR4);

    return exit_64(l) ? cr4 | CR4_PAE : cr4 & ~CR4_PCIDE;
}

static uint64_t l1_cr3(const struct load *l) {
    const struct nvmx_caps *caps = &l->vcpu->vm->caps;
    uint64_t lam = (caps->cpu & NVMX_CPU_LAM) != 0 ? CR3_LAM_U48 | CR3_LAM_U57 : 0;

    return host_field(l, NVMX_F_HOST_CR3) & (((UINT64_C(1) << caps->physical_address_bits) - 1) | lam);
}

/* SDM 30.5.4: PAE paging loads the PDPTEs, and aborts if one of them is bad. */
static COLD enum nvmx_status write_pdptes(const struct load *l, uint64_t cr0, uint32_t *abort_indicator) {
    static const uint32_t encoding[] = {NVMX_VMCS_GUEST_PDPTE0, NVMX_VMCS_GUEST_PDPTE1, NVMX_VMCS_GUEST_PDPTE2,
                                        NVMX_VMCS_GUEST_PDPTE3};
    uint64_t pdpte[4];
    uint64_t table = l1_cr3(l) & PAE_CR3_TABLE;
    uint64_t reserved = PDPTE_RESERVED | ~((UINT64_C(1) << l->vcpu->vm->caps.physical_address_bits) - 1);

    if ((cr0 & CR0_PG) == 0 || (l1_cr4(l) & CR4_PAE) == 0) {
        return NVMX_OK;
    }
    bool ok = l1_physical_read(l->vcpu, table, &pdpte[0], 16) == NVMX_OK &&
              l1_physical_read(l->vcpu, table + 16, &pdpte[2], 16) == NVMX_OK;
    for (unsigned int i = 0; ok && i < 4; i++) {
        ok = (pdpte[i] & PDPTE_PRESENT) == 0 || (pdpte[i] & reserved) == 0;
    }
    if (!ok) {
        *abort_indicator = VMX_ABORT_PDPTES;
        return NVMX_OK;
    }
    return host_write_encoded(l->vcpu, 4, encoding, pdpte);
}

/* -- what stays the same from exit to exit
 * ------------------------------------------------------------------------------------------------ */

static void set_segment(const struct load *l, unsigned int segment, uint64_t selector, uint64_t base, uint64_t limit) {
    uint64_t *to = &l->v->l1_state[PLACE_SEGMENTS + 3 * segment];

    to[0] = selector;
    to[1] = base;
    to[2] = limit;
}

static void set_segments(const struct load *l) {
    static const struct {
        uint8_t segment, selector, rights;
    } data[] = {
        {SEGMENT_ES, NVMX_F_HOST_ES_SELECTOR, PLACE_ES_RIGHTS}, {SEGMENT_SS, NVMX_F_HOST_SS_SELECTOR, PLACE_SS_RIGHTS},
        {SEGMENT_DS, NVMX_F_HOST_DS_SELECTOR, PLACE_DS_RIGHTS}, {SEGMENT_FS, NVMX_F_HOST_FS_SELECTOR, PLACE_FS_RIGHTS},
        {SEGMENT_GS, NVMX_F_HOST_GS_SELECTOR, PLACE_GS_RIGHTS},
    };
    uint64_t *to = l->v->l1_state;
    const uint64_t flat = 0xffffffff;

    set_segment(l, SEGMENT_CS, host_field(l, NVMX_F_HOST_CS_SELECTOR), 0, flat);
    to[PLACE_CS_RIGHTS] = exit_64(l) ? RIGHTS_CODE_64 : RIGHTS_CODE_32;
    for (unsigned int i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
        uint64_t selector = host_field(l, data[i].selector);
        uint64_t base = 0;

        if (data[i].segment == SEGMENT_FS) {
            base = host_field(l, NVMX_F_HOST_FS_BASE);
        } else if (data[i].segment == SEGMENT_GS) {
            base = host_field(l, NVMX_F_HOST_GS_BASE);
        }
        set_segment(l, data[i].segment, selector, base, flat);
        to[data[i].rights] = selector != 0 ? RIGHTS_DATA : RIGHTS_UNUSABLE | RIGHTS_DATA;
    }
    to[PLACE_LDTR_SELECTOR] = 0;
    to[PLACE_LDTR_RIGHTS] = RIGHTS_UNUSABLE;
    set_segment(l, SEGMENT_TR, host_field(l, NVMX_F_HOST_TR_SELECTOR), host_field(l, NVMX_F_HOST_TR_BASE), 0x67);
    to[PLACE_TR_RIGHTS] = RIGHTS_TSS;
}

static void set_constant_state(const struct load *l) {
    uint64_t *to = l->v->l1_state;

    memcpy(l->v->l1_encoding, place_encoding, sizeof(place_encoding));
    l->v->l1_count = PLACE_COUNT;
    to[PLACE_CR3] = l1_cr3(l);
    to[PLACE_CR4_SHADOW] = l1_cr4(l);
    to[PLACE_CR4] = to[PLACE_CR4_SHADOW] | l->vcpu->cr4_kept;
    to[PLACE_RFLAGS] = RFLAGS_FIXED;
    to[PLACE_ACTIVITY] = 0;
    to[PLACE_PENDING_DEBUG] = 0;
    to[PLACE_GDTR_BASE] = host_field(l, NVMX_F_HOST_GDTR_BASE);
    to[PLACE_GDTR_LIMIT] = 0xffff;
    to[PLACE_IDTR_BASE] = host_field(l, NVMX_F_HOST_IDTR_BASE);
    to[PLACE_IDTR_LIMIT] = 0xffff;
    set_segments(l);
    set_gates(l);
    l->v->l1_state_ready = true;
}

static void set_state(const struct load *l, uint64_t cr0, bool nmi_blocked) {
    uint64_t *to = l->v->l1_state;
    uint64_t entry_controls = l->vcpu->host_control[NVMX_F_VM_ENTRY_CONTROLS] & ~(uint64_t)ENTRY_IA32E;

    to[PLACE_CR0] = to[PLACE_CR0_SHADOW] = cr0;
    to[PLACE_RIP] = host_field(l, NVMX_F_HOST_RIP);
    to[PLACE_RSP] = host_field(l, NVMX_F_HOST_RSP);
    to[PLACE_INTERRUPTIBILITY] = nmi_blocked ? BLOCKING_NMI : 0;
    to[PLACE_ENTRY_CONTROLS] = entry_controls | (exit_64(l) ? ENTRY_IA32E : 0);
}

/* -- the whole
 * ---------------------------------------------------------------------------------------------------------------------------------
 */

/*
 * SDM 30.5.5: an exit by NMI leaves NMIs blocked; any other leaves them as they were. With virtual NMIs L2's blocking
 * was not the processor's, whose NMIs the VM entry unblocked.
 */
static bool nmis_blocked(const struct vmcs12 *v, bool nmi_exit) {
    bool was_virtual = (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS) != 0;

    return nmi_exit || (!was_virtual && (v->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] & BLOCKING_NMI) != 0);
}

/* What of the processor's state a failed entry keeps: vmcs01, which is selected, has it still. */
static enum nvmx_status read_l1_state(struct nvmx_vcpu *vcpu, uint64_t *cr0, bool *nmi_blocked) {
    static const uint8_t slots[] = {NVMX_F_GUEST_CR0, NVMX_F_GUEST_INTERRUPTIBILITY_STATE};
    uint64_t value[2] = {0};
    enum nvmx_status status = host_read_many(vcpu, 2, slots, value);

    *cr0 = value[0];
    *nmi_blocked = (value[1] & BLOCKING_NMI) != 0;
    return status;
}

/* How many of the first places need no writing. `l1_left`: L1's last exit was its VM entry, and nothing touched vmcs01
 * since. */
static inline unsigned int known_places(struct nvmx_vcpu *vcpu, const uint64_t *to) {
    struct l1_left *left = &vcpu->l1_left;
    bool same = left->valid && left->cs_rights == to[PLACE_CS_RIGHTS] && left->ss_rights == to[PLACE_SS_RIGHTS] &&
                left->entry_controls == to[PLACE_ENTRY_CONTROLS] &&
                left->interruptibility == to[PLACE_INTERRUPTIBILITY];
    bool shadows = vcpu->l1_shadows_known && vcpu->l1_shadow[0] == to[PLACE_CR0_SHADOW] &&
                   vcpu->l1_shadow[1] == to[PLACE_CR4_SHADOW];

    left->valid = false;
    if (same && shadows) {
        return PLACE_FIRST_UNKNOWN;
    }
    vcpu->l1_shadow[0] = to[PLACE_CR0_SHADOW];
    vcpu->l1_shadow[1] = to[PLACE_CR4_SHADOW];
    return same ? PLACE_AFTER_EXIT_STATE : 0;
}

static inline enum nvmx_status load(const struct load *l, bool loaded, bool nmi_blocked, uint64_t current_cr0,
                                    uint32_t *abort_indicator) {
    struct nvmx_vcpu *vcpu = l->vcpu;
    struct vmcs12 *v = l->v;
    uint64_t cr0 = l1_cr0(l, current_cr0);

    set_state(l, cr0, nmi_blocked);
    unsigned int known = known_places(vcpu, v->l1_state);
    /* L1 left by its VM entry in the mode in which the exit finds it: IA32_EFER.LMA is as the last exit set it. */
    bool stand = (v->watched_stand || watched_equal(vcpu, v)) && known != 0;
    uint32_t end = stand ? v->l1_watched : v->l1_count;
    enum nvmx_status status = host_write_fixed(vcpu, end - known, &v->l1_encoding[known], &v->l1_state[known]);
    vcpu->l1_shadows_known = status == NVMX_OK;
    if (RARE(!v->watched_stand) && vcpu->watched.on) {
        watched_written(l, loaded, status == NVMX_OK);
    }
    if (RARE(!exit_64(l)) && status == NVMX_OK) {
        status = write_pdptes(l, cr0, abort_indicator);
    }
    return status == NVMX_OK ? write_msrs(l) : status;
}

/* L1's host-state area, its VM-exit controls or vmcs01's controls changed: the latter perhaps while L2 ran, and they say what vmcs01 loads. */
static COLD enum nvmx_status set_constant_state_anew(const struct load *l) {
    struct nvmx_vcpu *vcpu = l->vcpu;
    const uint32_t before = vcpu->selected;
    enum nvmx_status status = NVMX_OK;

    if (!vcpu->host_controls_known) {
        status = host_select(vcpu, NVMX_VMCS01);
        status = status == NVMX_OK ? host_controls_read(vcpu) : status;
        status = status == NVMX_OK ? host_select(vcpu, before) : status;
    }
    if (status == NVMX_OK) {
        set_constant_state(l);
    }
    return status;
}

/* What is to be taken from vmcs02, if it is loaded, and then vmcs01. */
static inline enum nvmx_status begin(const struct load *l, bool loaded, uint32_t *abort_indicator) {
    *abort_indicator = 0;
    enum nvmx_status status = RARE(!l->v->l1_state_ready) ? set_constant_state_anew(l) : NVMX_OK;
    if (status == NVMX_OK) {
        status = read_inherited(l, loaded);
    }
    if (RARE(!l->v->watched_stand) && l->v->l1_watched_kept != 0 && status == NVMX_OK) {
        status = keep_watched(l, loaded);
    }
    if (status == NVMX_OK) {
        status = shadow_push_exit(l->vcpu, l->v); /* between the two selects, so that it costs no third */
    }
    return status == NVMX_OK ? host_select(l->vcpu, NVMX_VMCS01) : status;
}

/* SDM 30.5: no exit leads from IA-32e mode, into which L2 may have gone by itself, to a host that is not in it. */
enum nvmx_status load_host_state(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool nmi_exit, uint32_t *abort_indicator) {
    const struct load l = {vcpu, v};
    enum nvmx_status status = begin(&l, true, abort_indicator);

    if (RARE(status != NVMX_OK)) {
        return status;
    }
    if (RARE(!exit_64(&l)) && (v->image[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) != 0) { /* as the exit left it in vmcs02 */
        *abort_indicator = VMX_ABORT_IA32E;
        return NVMX_OK;
    }
    return load(&l, true, nmis_blocked(v, nmi_exit), v->value[NVMX_F_GUEST_CR0], abort_indicator);
}

/* SDM 29.8: blocking by NMI, and what no entry loads of CR0, are L1's also where guest state was loaded before the entry failed. */
COLD enum nvmx_status load_host_state_unentered(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool loaded,
                                                uint32_t *abort_indicator) {
    const struct load l = {vcpu, v};
    uint64_t cr0;
    bool nmi_blocked;
    enum nvmx_status status = begin(&l, loaded, abort_indicator);

    if (status == NVMX_OK) {
        status = read_l1_state(vcpu, &cr0, &nmi_blocked);
    }
    return status == NVMX_OK ? load(&l, loaded, nmi_blocked, cr0, abort_indicator) : status;
}
