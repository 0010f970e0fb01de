/* SPDX-License-Identifier: MIT */
/* Conversion to and from the blob of KVM_GET_NESTED_STATE (nvmx/state_kvm.h). */
#include <nvmx/state_kvm.h>

#include <string.h>

#include "state.h"
#include "vcpu.h"

#define PAGE NVMX_PAGE_SIZE

/* struct kvm_nested_state (Linux, asm/kvm.h): offsets. */
#define KVM_FLAGS 0u  /* 2 bytes */
#define KVM_FORMAT 2u /* 2 bytes: 0 VMX */
#define KVM_SIZE 4u
#define KVM_VMXON 8u
#define KVM_VMCS12 16u
#define KVM_SMM_FLAGS 24u /* 2 bytes */
#define KVM_VMX_FLAGS 28u
#define KVM_DEADLINE 32u
#define KVM_DATA NVMX_KVM_STATE_HEADER

#define KVM_GUEST_MODE 1u
#define KVM_RUN_PENDING 2u
#define KVM_ENLIGHTENED 4u
#define KVM_MTF_PENDING 8u
#define KVM_HAS_DEADLINE 1u

/* KVM's emulated preemption timer counts at TSC >> 5. */
#define KVM_TIMER_SHIFT 5u
#define SHADOW_INDICATOR 0x80000000u
#define REGION_LAUNCH_STATE 8u

static uint64_t get(const uint8_t *at, unsigned int bytes) {
    uint64_t value = 0;

    for (unsigned int i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static void put(uint8_t *at, unsigned int bytes, uint64_t value) {
    for (unsigned int i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static unsigned int width_of(unsigned int slot) {
    static const uint8_t bytes[4] = {2, 8, 4, 8};

    return bytes[(field_encoding[slot] >> 13) & 3];
}

static void note_field(struct nvmx_kvm_report *report, unsigned int slot) {
    report->notes |= NVMX_KVM_LOST_FIELDS;
    if (report->lost < NVMX_KVM_FIELDS) {
        report->fields[report->lost] = field_encoding[slot];
    }
    report->lost++;
}

/* -- to KVM ------------------------------------------------------------------------------------------------------------------------------ */

static void put_head(uint64_t flags, uint8_t *region, struct nvmx_vmcs12_layout *layout) {
    nvmx_kvm_layout(layout);
    memset(region, 0, PAGE);
    put(region, 4, layout->revision | ((flags & NVMX_STATE_VMCS_SHADOW) != 0 ? SHADOW_INDICATOR : 0));
    put(region + REGION_LAUNCH_STATE, 4, (flags & NVMX_STATE_VMCS_LAUNCHED) != 0 ? 1 : 0);
}

static void put_field(const struct nvmx_vmcs12_layout *layout, unsigned int slot, uint64_t value, uint8_t *region,
                      struct nvmx_kvm_report *report) {
    if (layout->offset[slot] != 0) {
        put(region + layout->offset[slot], width_of(slot), value);
    } else if (value != 0 && report != NULL) {
        note_field(report, slot);
    }
}

static NOINLINE void put_region(const uint64_t *value, uint64_t flags, uint8_t *region, struct nvmx_kvm_report *report) {
    struct nvmx_vmcs12_layout layout;

    put_head(flags, region, &layout);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        put_field(&layout, slot, value[slot], region, report);
    }
}

/* An active VMCS as a region. */
static NOINLINE void put_record(const struct nvmx_state_record *record, uint64_t more_flags, uint8_t *region,
                                struct nvmx_kvm_report *report) {
    struct nvmx_vmcs12_layout layout;

    put_head(record->head[1] | more_flags, region, &layout);
    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item = state_item_at(record, i);
        int slot = nvmx_field_find(item.id, NULL);

        if (slot >= 0 && slot < NVMX_FIELD_COUNT) {
            put_field(&layout, (unsigned int)slot, item.value & nvmx_field_mask((unsigned int)slot), region, report);
        }
    }
}

/* Does an exit that L1 sees store this field of L2 (SDM 30.3)? */
static bool stored(const uint64_t *vmcs12, const struct nvmx_field_set *there, unsigned int slot) {
    uint64_t exit_controls = vmcs12[NVMX_F_VM_EXIT_CONTROLS];

    if (!nvmx_set_has(there, slot) || ((field_encoding[slot] >> 10) & 3) != 2) {
        return false;
    }
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (gates[i].guest == slot) {
            return gates[i].exit_save > 31 || ((exit_controls >> gates[i].exit_save) & 1) != 0;
        }
    }
    return slot != NVMX_F_PREEMPTION_TIMER_VALUE || (exit_controls & EXIT_SAVE_TIMER) != 0;
}

/* KVM's vmcs12 of a running L2 is as an exit at this moment would leave it. */
static void overlay_l2(const struct state_view *view, uint64_t *vmcs12, const struct nvmx_field_set *there) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (stored(vmcs12, there, slot)) {
            vmcs12[slot] = state_value(&view->l2, slot);
        }
    }
    vmcs12[NVMX_F_VM_ENTRY_CONTROLS] &= ~(uint64_t)ENTRY_IA32E;
    vmcs12[NVMX_F_VM_ENTRY_CONTROLS] |= (view->l2.head[0] & NVMX_STATE_L2_IA32E) != 0 ? ENTRY_IA32E : 0;
}

static void fill_elsewhere(const struct state_view *view, const struct nvmx_field_set *there, struct nvmx_kvm_elsewhere *out,
                           struct nvmx_kvm_report *report) {
    static const uint8_t carried[] = {NVMX_F_GUEST_EFER, NVMX_F_GUEST_PAT, NVMX_F_GUEST_DEBUGCTL,
                                      NVMX_F_GUEST_PERF_GLOBAL_CTRL, NVMX_F_GUEST_DR7};
    const struct nvmx_state_record *l2 = &view->l2;
    uint64_t event = state_value(l2, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);

    out->caps = view->caps;
    out->feature_control = view->vcpu[NVMX_STATE_VCPU_FEATURE_CONTROL];
    report->notes |= view->has_profile ? NVMX_KVM_ELSEWHERE_L1 : 0;
    out->efer = state_value(l2, NVMX_F_GUEST_EFER);
    out->pat = state_value(l2, NVMX_F_GUEST_PAT);
    out->debugctl = state_value(l2, NVMX_F_GUEST_DEBUGCTL);
    out->perf_global_ctrl = state_value(l2, NVMX_F_GUEST_PERF_GLOBAL_CTRL);
    out->dr7 = state_value(l2, NVMX_F_GUEST_DR7);
    for (unsigned int i = 0; i < 4; i++) {
        out->pdpte[i] = state_value(l2, NVMX_F_GUEST_PDPTE0 + i);
    }
    for (unsigned int i = 0; i < sizeof(carried); i++) {
        report->notes |= nvmx_set_has(there, carried[i]) ? NVMX_KVM_ELSEWHERE_L2 : 0;
    }
    if ((event & EVENT_VALID) != 0 && event != EVENT_MTF) {
        out->event_info = (uint32_t)event;
        out->event_error_code = (uint32_t)state_value(l2, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE);
        out->event_length = (uint32_t)state_value(l2, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH);
        report->notes |= NVMX_KVM_ELSEWHERE_EVENT;
    }
}

static void put_deadline(const struct state_view *view, uint64_t l1_tsc, uint8_t *kvm) {
    uint64_t rate = view->caps.msr[NVMX_CAP_MISC] & 31;
    /* Rounded up: the timer must not run out early. */
    uint64_t round = (UINT64_C(1) << KVM_TIMER_SHIFT) - 1;
    uint64_t left = ((state_value(&view->l2, NVMX_F_PREEMPTION_TIMER_VALUE) << rate) + round) >> KVM_TIMER_SHIFT;

    put(kvm + KVM_VMX_FLAGS, 4, KVM_HAS_DEADLINE);
    put(kvm + KVM_DEADLINE, 8, (l1_tsc >> KVM_TIMER_SHIFT) + left);
}

static bool uses_shadow(const uint64_t *vmcs12) {
    return (vmcs12[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 &&
           (vmcs12[NVMX_F_SECONDARY_CONTROLS] & PROC2_VMCS_SHADOWING) != 0 &&
           vmcs12[NVMX_F_VMCS_LINK_POINTER] != NVMX_NO_ADDRESS;
}

/* The active VMCS at this address, or vmcs_count. */
static uint32_t active(const struct state_view *view, uint64_t gpa1) {
    uint32_t i = 0;

    while (i < view->vmcs_count && view->vmcs[i].head[0] != gpa1) {
        i++;
    }
    return i;
}

/* The second page: the shadow VMCS that L2 reads and writes. */
static bool put_shadow(const struct state_view *view, uint64_t gpa1, const void *page, uint8_t *region,
                       struct nvmx_kvm_report *report) {
    uint32_t i = active(view, gpa1);

    if (i < view->vmcs_count) {
        put_record(&view->vmcs[i], NVMX_STATE_VMCS_SHADOW, region, report);
        return true;
    }
    if (page != NULL) {
        memcpy(region, page, PAGE);
        return true;
    }
    report->notes |= NVMX_KVM_LOST_SHADOW;
    return false;
}

static void note_stop_and_revision(const struct state_view *view, struct nvmx_kvm_report *report) {
    if (view->vcpu[NVMX_STATE_VCPU_STOP] != NVMX_STOP_NONE) {
        report->notes |= NVMX_KVM_LOST_STOP;
    }
    if (view->has_profile && (view->caps.msr[NVMX_CAP_BASIC] & 0x7fffffff) != NVMX_KVM_REVISION) {
        report->notes |= NVMX_KVM_LOST_REVISION;
    }
}

/* Flags of the header for a running L2, its timer, and what is elsewhere. */
static uint32_t put_l2(const struct state_view *view, uint64_t *vmcs12, struct nvmx_kvm_elsewhere *elsewhere, uint8_t *kvm,
                       struct nvmx_kvm_report *report) {
    struct nvmx_field_set there = {{0}};
    uint32_t flags = KVM_GUEST_MODE;

    state_fields_of(&view->l2, &there);
    overlay_l2(view, vmcs12, &there);
    fill_elsewhere(view, &there, elsewhere, report);
    flags |= (view->l2.head[0] & NVMX_STATE_L2_ENTRY_PENDING) != 0 ? KVM_RUN_PENDING : 0;
    report->notes |= (view->l2.head[0] & NVMX_STATE_L2_BUS_LOCK) != 0 ? NVMX_KVM_LOST_BUS_LOCK : 0;
    flags |= state_value(&view->l2, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) == EVENT_MTF ? KVM_MTF_PENDING : 0;
    if (nvmx_set_has(&there, NVMX_F_PREEMPTION_TIMER_VALUE)) {
        put_deadline(view, elsewhere->l1_tsc, kvm);
    }
    return flags;
}

static NOINLINE void put_current(const struct state_view *view, const void *shadow, struct nvmx_kvm_elsewhere *elsewhere, uint8_t *kvm,
                        size_t *used, struct nvmx_kvm_report *report) {
    const struct nvmx_state_record *current = &view->vmcs[view->current];
    uint64_t vmcs12[NVMX_FIELD_COUNT];
    uint32_t flags = 0;

    state_values(current, vmcs12);
    if (view->has_l2) {
        flags = put_l2(view, vmcs12, elsewhere, kvm, report);
    }
    put(kvm + KVM_FLAGS, 2, flags);
    /* KVM sets the launch state when L2 exits: until then a launched VMCS may be clear. */
    bool launching = view->has_l2 && (view->l2.head[0] & NVMX_STATE_L2_LAUNCHING) != 0;
    put_region(vmcs12, launching ? 0 : current->head[1], kvm + KVM_DATA, report);
    *used += PAGE;
    if (view->has_l2 && uses_shadow(vmcs12) &&
        put_shadow(view, vmcs12[NVMX_F_VMCS_LINK_POINTER], shadow, kvm + KVM_DATA + PAGE, report)) {
        *used += PAGE;
    }
}

enum nvmx_status nvmx_state_to_kvm(const void *blob, size_t bytes, const void *shadow, struct nvmx_kvm_elsewhere *elsewhere,
                                   void *kvm, size_t room, size_t *used, struct nvmx_kvm_report *report) {
    struct state_view view;
    uint64_t l1_tsc = elsewhere->l1_tsc;
    uint8_t *out = kvm;

    memset(report, 0, sizeof(*report));
    memset(elsewhere, 0, sizeof(*elsewhere));
    elsewhere->l1_tsc = l1_tsc;
    if (state_view(blob, bytes, NULL, &view, &report->error) != NVMX_STATE_OK) {
        return NVMX_E_INVALID;
    }
    if (room < NVMX_KVM_STATE_BYTES) {
        return NVMX_E_SIZE;
    }
    *used = NVMX_KVM_STATE_HEADER;
    memset(out, 0, NVMX_KVM_STATE_HEADER);
    put(out + KVM_VMXON, 8, view.vcpu[NVMX_STATE_VCPU_VMXON_POINTER]);
    put(out + KVM_VMCS12, 8, view.vcpu[NVMX_STATE_VCPU_CURRENT]);
    note_stop_and_revision(&view, report);
    elsewhere->caps = view.caps;
    elsewhere->feature_control = view.vcpu[NVMX_STATE_VCPU_FEATURE_CONTROL];
    report->notes |= view.has_profile ? NVMX_KVM_ELSEWHERE_L1 : 0;
    if (view.current < view.vmcs_count) {
        put_current(&view, shadow, elsewhere, out, used, report);
    }
    if (view.vmcs_count > (view.current < view.vmcs_count ? 1u : 0u)) {
        report->notes |= NVMX_KVM_ELSEWHERE_REGIONS;
    }
    put(out + KVM_SIZE, 4, *used);
    return NVMX_OK;
}

bool nvmx_state_kvm_region(const void *blob, size_t bytes, uint32_t index, uint64_t *gpa1, void *region) {
    struct state_view view;

    if (state_view(blob, bytes, NULL, &view, NULL) != NVMX_STATE_OK) {
        return false;
    }
    index += index < view.vmcs_count && index >= view.current ? 1 : 0;
    if (index >= view.vmcs_count) {
        return false;
    }
    *gpa1 = view.vmcs[index].head[0];
    put_record(&view.vmcs[index], 0, region, NULL);
    return true;
}

/* -- from KVM ---------------------------------------------------------------------------------------------------------------------------- */

/* KVM's blob, its header read. */
struct kvm_view {
    uint64_t flags, vmxon, vmcs12, deadline;
    bool has_deadline;
    const uint8_t *current; /* NULL: there is none */
    const uint8_t *shadow;  /* NULL: there is none */
};

static enum nvmx_status read_header(const uint8_t *kvm, size_t bytes, struct kvm_view *view) {
    uint64_t known = KVM_GUEST_MODE | KVM_RUN_PENDING | KVM_MTF_PENDING;

    if (bytes < NVMX_KVM_STATE_HEADER || get(kvm + KVM_SIZE, 4) > bytes || get(kvm + KVM_SIZE, 4) < NVMX_KVM_STATE_HEADER) {
        return NVMX_E_INVALID;
    }
    view->flags = get(kvm + KVM_FLAGS, 2);
    if (get(kvm + KVM_FORMAT, 2) != 0 || (view->flags & KVM_ENLIGHTENED) != 0 || get(kvm + KVM_SMM_FLAGS, 2) != 0) {
        return NVMX_E_UNSUPPORTED;
    }
    view->vmxon = get(kvm + KVM_VMXON, 8);
    view->vmcs12 = get(kvm + KVM_VMCS12, 8);
    view->has_deadline = (get(kvm + KVM_VMX_FLAGS, 4) & KVM_HAS_DEADLINE) != 0;
    view->deadline = get(kvm + KVM_DEADLINE, 8);
    if ((view->flags & ~known) != 0 || (get(kvm + KVM_VMX_FLAGS, 4) & ~(uint64_t)KVM_HAS_DEADLINE) != 0) {
        return NVMX_E_INVALID;
    }
    uint64_t pages = (get(kvm + KVM_SIZE, 4) - NVMX_KVM_STATE_HEADER) / PAGE;
    view->current = pages >= 1 && view->vmcs12 != NVMX_NO_ADDRESS ? kvm + KVM_DATA : NULL;
    view->shadow = pages >= 2 && view->current != NULL ? kvm + KVM_DATA + PAGE : NULL;
    bool needs_current = view->vmcs12 != NVMX_NO_ADDRESS || (view->flags & KVM_GUEST_MODE) != 0;
    return needs_current && view->current == NULL ? NVMX_E_INVALID : NVMX_OK;
}

/* What a region says of itself; false: it is not KVM's, or not of that kind. */
static bool read_head(const uint8_t *region, bool shadow, uint64_t *flags) {
    uint64_t revision = get(region, 4);
    bool is_shadow = (revision & SHADOW_INDICATOR) != 0;

    *flags = (get(region + REGION_LAUNCH_STATE, 4) != 0 ? NVMX_STATE_VMCS_LAUNCHED : 0u) |
             (is_shadow ? NVMX_STATE_VMCS_SHADOW : 0u);
    return (revision & ~(uint64_t)SHADOW_INDICATOR) == NVMX_KVM_REVISION && shadow == is_shadow;
}

/* A field of a region; what L1 can't have is lost. */
static uint64_t read_field(const struct nvmx_vmcs12_layout *layout, const uint8_t *region, unsigned int slot,
                           const struct nvmx_field_set *exists, struct nvmx_kvm_report *report) {
    uint64_t found = layout->offset[slot] != 0 ? get(region + layout->offset[slot], width_of(slot)) : 0;

    if (found != 0 && !nvmx_set_has(exists, slot)) {
        note_field(report, slot);
        return 0;
    }
    return found;
}

static NOINLINE void read_region(const uint8_t *region, const struct nvmx_field_set *exists, uint64_t *value,
                                 struct nvmx_kvm_report *report) {
    struct nvmx_vmcs12_layout layout;

    nvmx_kvm_layout(&layout);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        value[slot] = read_field(&layout, region, slot, exists, report);
    }
}

static void open_vmcs(struct state_writer *w, uint64_t gpa1, uint64_t flags) {
    state_open(w, NVMX_STATE_TAG_VMCS);
    state_word(w, gpa1);
    state_word(w, flags);
}

static void write_vmcs(struct state_writer *w, uint64_t gpa1, uint64_t flags, const uint64_t *value) {
    open_vmcs(w, gpa1, flags);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        state_item_unless_0(w, field_encoding[slot], value[slot]);
    }
    state_close(w);
}

/* The shadow VMCS, straight from its region. False: it is not KVM's. */
static NOINLINE bool write_shadow(struct state_writer *w, const uint8_t *region, uint64_t gpa1,
                                  const struct nvmx_field_set *exists, struct nvmx_kvm_report *report) {
    struct nvmx_vmcs12_layout layout;
    uint64_t flags;

    if (!read_head(region, true, &flags)) {
        return false;
    }
    nvmx_kvm_layout(&layout);
    open_vmcs(w, gpa1, flags);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        state_item_unless_0(w, field_encoding[slot], read_field(&layout, region, slot, exists, report));
    }
    state_close(w);
    return true;
}

static uint64_t timer_left(const struct kvm_view *view, const struct nvmx_kvm_elsewhere *elsewhere, uint64_t value) {
    uint64_t rate = elsewhere->caps.msr[NVMX_CAP_MISC] & 31;
    uint64_t now = elsewhere->l1_tsc >> KVM_TIMER_SHIFT;
    uint64_t left;

    if (!view->has_deadline) {
        return value;
    }
    left = view->deadline > now ? (view->deadline - now) << KVM_TIMER_SHIFT >> rate : 0;
    return left < UINT32_MAX ? left : UINT32_MAX;
}

/* L2's state: vmcs12's guest area, and what KVM keeps elsewhere. */
static void compose_l2(const struct kvm_view *view, const struct nvmx_kvm_elsewhere *e, const uint64_t *vmcs12, uint64_t *l2) {
    uint64_t cr0_mask = vmcs12[NVMX_F_CR0_GUEST_HOST_MASK], cr4_mask = vmcs12[NVMX_F_CR4_GUEST_HOST_MASK];
    bool pending = (view->flags & KVM_RUN_PENDING) != 0 && e->event_info == 0;
    bool ept = (vmcs12[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 && (vmcs12[NVMX_F_SECONDARY_CONTROLS] & PROC2_EPT) != 0;

    memcpy(l2, vmcs12, NVMX_FIELD_COUNT * sizeof(l2[0]));
    l2[NVMX_F_CR0_READ_SHADOW] = (vmcs12[NVMX_F_GUEST_CR0] & ~cr0_mask) | (vmcs12[NVMX_F_CR0_READ_SHADOW] & cr0_mask);
    l2[NVMX_F_CR4_READ_SHADOW] = (vmcs12[NVMX_F_GUEST_CR4] & ~cr4_mask) | (vmcs12[NVMX_F_CR4_READ_SHADOW] & cr4_mask);
    l2[NVMX_F_GUEST_EFER] = e->efer;
    l2[NVMX_F_GUEST_PAT] = e->pat;
    l2[NVMX_F_GUEST_DEBUGCTL] = e->debugctl;
    l2[NVMX_F_GUEST_DR7] = e->dr7;
    l2[NVMX_F_GUEST_PERF_GLOBAL_CTRL] = e->perf_global_ctrl;
    if (!ept) {
        memcpy(&l2[NVMX_F_GUEST_PDPTE0], e->pdpte, sizeof(e->pdpte));
    }
    l2[NVMX_F_PREEMPTION_TIMER_VALUE] = timer_left(view, e, vmcs12[NVMX_F_PREEMPTION_TIMER_VALUE]);
    if (!pending) {
        l2[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = e->event_info;
        l2[NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE] = e->event_error_code;
        l2[NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH] = e->event_length;
    }
    if ((view->flags & KVM_MTF_PENDING) != 0 && (l2[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] & EVENT_VALID) == 0) {
        l2[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = EVENT_MTF;
    }
    state_event_without_rest(l2);
}

/* Which fields the record has: all that L2's state must have, and of what controls switch what KVM keeps for every guest or vmcs12 loads. */
static void fields_from_kvm(const struct nvmx_field_set *exists, const uint64_t *vmcs12, bool ia32e, struct nvmx_field_set *out) {
    struct state_l2_fields fields;
    bool timer = (vmcs12[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0;
    bool pae = state_uses_pae(vmcs12[NVMX_F_GUEST_CR0], vmcs12[NVMX_F_GUEST_CR4], ia32e);

    state_l2_fields(exists, &fields);
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        out->word[w] = fields.always.word[w] | (timer ? fields.timer.word[w] : 0) | (pae ? fields.pdptes.word[w] : 0);
    }
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool loaded = ((vmcs12[NVMX_F_VM_ENTRY_CONTROLS] >> gates[i].entry_load) & 1) != 0;

        if (loaded || i == GATE_EFER || i == GATE_PAT || i == GATE_DEBUGCTL || i == GATE_DR7) {
            nvmx_set_add(out, gates[i].guest);
        }
    }
}

static NOINLINE void write_l2(struct state_writer *w, const struct kvm_view *view, const struct nvmx_kvm_elsewhere *elsewhere,
                     const struct nvmx_field_set *exists, const uint64_t *vmcs12, bool launched) {
    uint64_t l2[NVMX_FIELD_COUNT];
    struct nvmx_field_set has;
    bool ia32e = (vmcs12[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) != 0;
    bool pending = (view->flags & KVM_RUN_PENDING) != 0;

    compose_l2(view, elsewhere, vmcs12, l2);
    fields_from_kvm(exists, vmcs12, ia32e, &has);
    state_open(w, NVMX_STATE_TAG_L2);
    state_word(w, (pending ? NVMX_STATE_L2_ENTRY_PENDING : 0u) | (pending && !launched ? NVMX_STATE_L2_LAUNCHING : 0u) |
                      (ia32e ? NVMX_STATE_L2_IA32E : 0u));
    state_word(w, 0);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (nvmx_set_has(&has, slot)) {
            state_item(w, field_encoding[slot], l2[slot]);
        }
    }
    state_close(w);
}

static void write_vcpu(struct state_writer *w, const struct kvm_view *view, const struct nvmx_kvm_elsewhere *elsewhere) {
    uint64_t mode = view->vmxon == NVMX_NO_ADDRESS               ? NVMX_MODE_OFF
                    : (view->flags & KVM_GUEST_MODE) != 0 ? NVMX_MODE_L2
                                                          : NVMX_MODE_ROOT;

    state_open(w, NVMX_STATE_TAG_PROFILE);
    state_put_profile(w, &elsewhere->caps);
    state_close(w);
    state_open(w, NVMX_STATE_TAG_VCPU);
    state_item_unless_0(w, NVMX_STATE_VCPU_MODE, mode);
    state_item_unless_0(w, NVMX_STATE_VCPU_FEATURE_CONTROL, elsewhere->feature_control);
    if (view->vmxon != NVMX_NO_ADDRESS) {
        state_item(w, NVMX_STATE_VCPU_VMXON_POINTER, view->vmxon);
    }
    if (view->vmcs12 != NVMX_NO_ADDRESS) {
        state_item(w, NVMX_STATE_VCPU_CURRENT, view->vmcs12);
    }
    state_close(w);
}

/* False: a region is not KVM's. */
static bool write_regions(struct state_writer *w, const struct kvm_view *view, const struct nvmx_kvm_elsewhere *elsewhere,
                          struct nvmx_kvm_report *report) {
    uint64_t vmcs12[NVMX_FIELD_COUNT], flags;
    struct nvmx_field_set exists;

    nvmx_fields_existing(&elsewhere->caps, &exists);
    if (!read_head(view->current, (get(view->current, 4) & SHADOW_INDICATOR) != 0, &flags)) {
        return false;
    }
    read_region(view->current, &exists, vmcs12, report);
    if (view->shadow != NULL && uses_shadow(vmcs12) &&
        !write_shadow(w, view->shadow, vmcs12[NVMX_F_VMCS_LINK_POINTER], &exists, report)) {
        return false;
    }
    bool l2 = (view->flags & KVM_GUEST_MODE) != 0;
    write_vmcs(w, view->vmcs12, flags | (l2 ? NVMX_STATE_VMCS_LAUNCHED : 0u), vmcs12);
    if (l2) {
        write_l2(w, view, elsewhere, &exists, vmcs12, (flags & NVMX_STATE_VMCS_LAUNCHED) != 0);
    }
    return true;
}

enum nvmx_status nvmx_state_from_kvm(const void *kvm, size_t bytes, const struct nvmx_kvm_elsewhere *elsewhere, void *blob,
                                     size_t room, size_t *used, struct nvmx_kvm_report *report) {
    struct kvm_view view = {0};
    struct state_writer w;
    enum nvmx_status status = read_header(kvm, bytes, &view);

    memset(report, 0, sizeof(*report));
    if (status != NVMX_OK) {
        return status;
    }
    state_begin(&w, blob, room);
    write_vcpu(&w, &view, elsewhere);
    if (view.current != NULL && !write_regions(&w, &view, elsewhere, report)) {
        return NVMX_E_INVALID;
    }
    status = state_end(&w, used);
    if (status == NVMX_OK && nvmx_state_check(blob, *used, NULL, &report->error) != NVMX_STATE_OK) {
        return NVMX_E_INVALID;
    }
    return status;
}

/* -- text --------------------------------------------------------------------------------------------------------------------------------- */

const char *nvmx_kvm_note_text(uint32_t note) {
    static const char *const text[NVMX_KVM_NOTES] = {
        "what L1 sees of VMX and its IA32_FEATURE_CONTROL go by KVM_SET_MSRS and KVM_SET_CPUID2",
        "L2's EFER, PAT, DEBUGCTL, DR7 go by KVM_SET_SREGS, KVM_SET_MSRS and KVM_SET_DEBUGREGS",
        "the event that waits for L2 goes by KVM_SET_VCPU_EVENTS",
        "other active VMCSs go into L1's memory",
        "L1 saw another VMCS revision identifier: the VM was not made with KVM's layout",
        "VMCS fields that the other side has no place for",
        "that L1's processor has stopped",
        "the shadow VMCS of L2: give the page at the VMCS link pointer",
        "that L2 locked the bus and L1 has yet to be told",
    };

    for (unsigned int i = 0; i < NVMX_KVM_NOTES; i++) {
        if (note == 1u << i) {
            return text[i];
        }
    }
    return "no single note";
}
