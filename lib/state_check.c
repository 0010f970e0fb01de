/* SPDX-License-Identifier: MIT */
/*
 * The rules of a blob of nested state. It is hostile: what passes here can be restored without looking at it again.
 *
 * The order is that of the blob; each rule names what it found and where. L2's state is put to the same entry checks as a VMCS of L1
 * (SDM 29.2, 29.3): what could not be entered could not be running.
 */
#include "state.h"

#include <string.h>

#include "vcpu.h"

#define FEATURE_CONTROL_VALID UINT64_C(5) /* lock, VMXON outside SMX: the others L1 can't have set */
#define VTPR_HIGHEST 0xff
#define SHADOW_INDICATOR 0x80000000u
#define RTIT_TRACE_EN UINT64_C(1)

/* A check in progress. */
struct check {
    const uint8_t *blob;
    size_t end;
    struct state_view *view;
    struct state_error_place {
        uint64_t offset;
        uint32_t detail;
        uint16_t row;
    } place;
    struct nvmx_field_set exists; /* under the profile */
};

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        enum nvmx_state_reason reason_ = (call);                                                                       \
        if (reason_ != NVMX_STATE_OK)                                                                                  \
            return reason_;                                                                                            \
    } while (0)

static enum nvmx_state_reason refuse(struct check *c, enum nvmx_state_reason reason, uint64_t offset, uint32_t detail) {
    c->place.offset = offset;
    c->place.detail = detail;
    return reason;
}

static uint64_t item_offset(const struct check *c, const struct nvmx_state_record *record, uint32_t index) {
    return (uint64_t)((const uint8_t *)record->first - c->blob) + (uint64_t)index * STATE_ITEM_BYTES;
}

/* Item `index`, whose id must be greater than the one before. */
static enum nvmx_state_reason next_item(struct check *c, const struct nvmx_state_record *record, uint32_t index,
                                        struct state_item *item) {
    *item = state_item_at(record, index);
    if (item->reserved != 0) {
        return refuse(c, NVMX_STATE_RESERVED, item_offset(c, record, index), item->id);
    }
    if (index != 0 && state_item_at(record, index - 1).id >= item->id) {
        return refuse(c, NVMX_STATE_ITEM_ORDER, item_offset(c, record, index), item->id);
    }
    return NVMX_STATE_OK;
}

/* -- records ---------------------------------------------------------------------------------------------------------------------------- */

static enum nvmx_state_reason take_profile(struct check *c, const struct nvmx_state_record *record) {
    uint32_t msr = 0;

    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item;

        TRY(next_item(c, record, i, &item));
        if (!state_take_profile(&c->view->caps, item.id, item.value)) {
            return refuse(c, NVMX_STATE_UNKNOWN_ITEM, item_offset(c, record, i), item.id);
        }
    }
    c->view->has_profile = true;
    if (c->view->caps.msr[NVMX_CAP_BASIC] == 0 || c->view->caps.physical_address_bits == 0 ||
        nvmx_caps_check_subset(&c->view->caps, &c->view->caps, &msr) != NVMX_OK) {
        return refuse(c, NVMX_STATE_PROFILE, record->offset, msr);
    }
    nvmx_fields_existing(&c->view->caps, &c->exists);
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason take_vcpu(struct check *c, const struct nvmx_state_record *record) {
    static const uint64_t most[NVMX_STATE_VCPU_CURRENT + 1] = {
        [NVMX_STATE_VCPU_MODE] = NVMX_MODE_L2,
        [NVMX_STATE_VCPU_STOP] = NVMX_STOP_SHUTDOWN,
        [NVMX_STATE_VCPU_FEATURE_CONTROL] = FEATURE_CONTROL_VALID,
        [NVMX_STATE_VCPU_VMXON_POINTER] = UINT64_MAX,
        [NVMX_STATE_VCPU_CURRENT] = UINT64_MAX,
    };

    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item;

        TRY(next_item(c, record, i, &item));
        if (item.id == 0 || item.id > NVMX_STATE_VCPU_CURRENT) {
            return refuse(c, NVMX_STATE_UNKNOWN_ITEM, item_offset(c, record, i), item.id);
        }
        bool bits = item.id != NVMX_STATE_VCPU_FEATURE_CONTROL || (item.value & ~FEATURE_CONTROL_VALID) == 0;
        if (item.value > most[item.id] || !bits) {
            return refuse(c, NVMX_STATE_ITEM_VALUE, item_offset(c, record, i), item.id);
        }
        c->view->vcpu[item.id] = item.value;
    }
    return NVMX_STATE_OK;
}

/* Encodings that exist for L1, or are in `also`; values that fit. */
static enum nvmx_state_reason check_fields(struct check *c, const struct nvmx_state_record *record,
                                           const struct nvmx_field_set *also) {
    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item;

        TRY(next_item(c, record, i, &item));
        int slot = nvmx_field_find(item.id, NULL);
        if (slot < 0 || !(nvmx_set_has(&c->exists, (unsigned int)slot) ||
                          (also != NULL && nvmx_set_has(also, (unsigned int)slot)))) {
            return refuse(c, NVMX_STATE_NO_SUCH_FIELD, item_offset(c, record, i), item.id);
        }
        if ((item.value & ~nvmx_field_mask((unsigned int)slot)) != 0) {
            return refuse(c, NVMX_STATE_FIELD_WIDTH, item_offset(c, record, i), item.id);
        }
    }
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason take_vmcs(struct check *c, const struct nvmx_state_record *record) {
    struct state_view *view = c->view;

    if (view->vmcs_count == NVMX_VMCS02_MAX) {
        return refuse(c, NVMX_STATE_RECORD, record->offset, record->tag);
    }
    bool shadowing = (nvmx_caps_may_be_1(&view->caps, NVMX_CAP_PROCBASED2) & PROC2_VMCS_SHADOWING) != 0;
    uint64_t known = NVMX_STATE_VMCS_LAUNCHED | (shadowing ? NVMX_STATE_VMCS_SHADOW : 0u);
    if ((record->head[1] & ~known) != 0) {
        return refuse(c, NVMX_STATE_RESERVED, record->offset, record->tag);
    }
    TRY(check_fields(c, record, NULL));
    view->vmcs[view->vmcs_count++] = *record;
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason take_l2(struct check *c, const struct nvmx_state_record *record) {
    const uint64_t known = NVMX_STATE_L2_ENTRY_PENDING | NVMX_STATE_L2_LAUNCHING | NVMX_STATE_L2_IA32E |
                           NVMX_STATE_L2_BUS_LOCK;

    if ((record->head[0] & ~known) != 0 || record->head[1] != 0) {
        return refuse(c, NVMX_STATE_RESERVED, record->offset, record->tag);
    }
    c->view->l2 = *record;
    c->view->has_l2 = true;
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason take_record(struct check *c, const struct nvmx_state_record *record, uint32_t before) {
    if (record->tag < before || (record->tag == before && record->tag != NVMX_STATE_TAG_VMCS)) {
        return refuse(c, NVMX_STATE_RECORD, record->offset, record->tag);
    }
    switch (record->tag) {
    case NVMX_STATE_TAG_PROFILE:
        return take_profile(c, record);
    case NVMX_STATE_TAG_VCPU:
        return take_vcpu(c, record);
    case NVMX_STATE_TAG_VMCS:
        return take_vmcs(c, record);
    case NVMX_STATE_TAG_L2:
        return take_l2(c, record);
    default:
        return (record->tag & 1) == 0 ? NVMX_STATE_OK
                                      : refuse(c, NVMX_STATE_UNKNOWN_RECORD, record->offset, record->tag);
    }
}

static enum nvmx_state_reason take_records(struct check *c) {
    struct nvmx_state_record record;
    uint64_t offset = STATE_HEADER_BYTES;
    uint32_t before = 0;
    bool has_vcpu = false;

    /* Each record takes at least its 8 bytes. */
    while (offset < c->end) {
        uint64_t at = offset;

        if (!state_record(c->blob, c->end, &offset, &record)) {
            return refuse(c, NVMX_STATE_RECORD, at, 0);
        }
        TRY(take_record(c, &record, before));
        before = record.tag;
        has_vcpu = has_vcpu || record.tag == NVMX_STATE_TAG_VCPU;
    }
    return has_vcpu ? NVMX_STATE_OK : refuse(c, NVMX_STATE_MISSING_RECORD, c->end, NVMX_STATE_TAG_VCPU);
}

/* -- what fits together -------------------------------------------------------------------------------------------------------------------- */

/* As for VMXON and VMPTRLD (SDM 33.3): aligned, within the width. */
static bool region_ok(const struct nvmx_caps *caps, uint64_t gpa1) {
    unsigned int width = (caps->msr[NVMX_CAP_BASIC] >> 48) & 1 ? 32 : caps->physical_address_bits;

    return gpa1 % NVMX_PAGE_SIZE == 0 && gpa1 >> width == 0;
}

static enum nvmx_state_reason check_regions(struct check *c) {
    struct state_view *view = c->view;

    view->current = view->vmcs_count;
    for (uint32_t i = 0; i < view->vmcs_count; i++) {
        uint64_t gpa1 = view->vmcs[i].head[0];

        if (!region_ok(&view->caps, gpa1)) {
            return refuse(c, NVMX_STATE_POINTER, view->vmcs[i].offset, 0);
        }
        if (gpa1 == view->vcpu[NVMX_STATE_VCPU_VMXON_POINTER]) {
            return refuse(c, NVMX_STATE_DUPLICATE, view->vmcs[i].offset, 0);
        }
        for (uint32_t j = 0; j < i; j++) {
            if (view->vmcs[j].head[0] == gpa1) {
                return refuse(c, NVMX_STATE_DUPLICATE, view->vmcs[i].offset, 0);
            }
        }
        if (gpa1 == view->vcpu[NVMX_STATE_VCPU_CURRENT]) {
            view->current = i;
        }
    }
    if (view->vcpu[NVMX_STATE_VCPU_CURRENT] != NVMX_NO_ADDRESS && view->current == view->vmcs_count) {
        return refuse(c, NVMX_STATE_NO_CURRENT, 0, 0);
    }
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason check_mode(struct check *c) {
    const struct state_view *view = c->view;
    uint64_t mode = view->vcpu[NVMX_STATE_VCPU_MODE];
    bool on = mode != NVMX_MODE_OFF;
    bool has_vmxon = view->vcpu[NVMX_STATE_VCPU_VMXON_POINTER] != NVMX_NO_ADDRESS;

    if (on != has_vmxon || (!on && (view->vmcs_count != 0 || view->vcpu[NVMX_STATE_VCPU_CURRENT] != NVMX_NO_ADDRESS)) ||
        (on && !view->has_profile) || (mode == NVMX_MODE_L2) != view->has_l2 ||
        (view->vcpu[NVMX_STATE_VCPU_STOP] == NVMX_STOP_VMX_ABORT && !on)) {
        return refuse(c, NVMX_STATE_MODE, 0, (uint32_t)mode);
    }
    if (on && !region_ok(&view->caps, view->vcpu[NVMX_STATE_VCPU_VMXON_POINTER])) {
        return refuse(c, NVMX_STATE_POINTER, 0, NVMX_STATE_VCPU_VMXON_POINTER);
    }
    TRY(check_regions(c));
    if (mode == NVMX_MODE_L2 && view->current == view->vmcs_count) {
        return refuse(c, NVMX_STATE_NO_CURRENT, 0, 0);
    }
    return NVMX_STATE_OK;
}

/* -- L2 ---------------------------------------------------------------------------------------------------------------------------------------- */

void state_l2_fields(const struct nvmx_field_set *exists, struct state_l2_fields *out) {
    static const uint8_t others[] = {
        NVMX_F_GUEST_CR0,
        NVMX_F_GUEST_CR4,
        NVMX_F_CR0_READ_SHADOW,
        NVMX_F_CR4_READ_SHADOW,
        NVMX_F_VM_ENTRY_INTERRUPTION_INFO,
        NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE,
        NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH,
    };

    memset(out, 0, sizeof(*out));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        bool pdpte = slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3;

        if (pdpte) {
            nvmx_set_add(&out->pdptes, slot);
        } else if (slot == NVMX_F_PREEMPTION_TIMER_VALUE) {
            nvmx_set_add(&out->timer, slot);
        } else if (((info->encoding >> 10) & 3) == 2 && info->merge == NVMX_MERGE_COPY && nvmx_set_has(exists, slot)) {
            nvmx_set_add(&out->always, slot);
        }
    }
    for (unsigned int i = 0; i < sizeof(others); i++) {
        nvmx_set_add(&out->always, others[i]);
    }
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        nvmx_set_add(&out->gates, gates[i].guest);
    }
}

void state_values(const struct nvmx_state_record *record, uint64_t *value) {
    memset(value, 0, NVMX_FIELD_COUNT * sizeof(value[0]));
    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item = state_item_at(record, i);
        int slot = nvmx_field_find(item.id, NULL);

        if (slot >= 0 && slot < NVMX_FIELD_COUNT) {
            value[slot] = item.value & nvmx_field_mask((unsigned int)slot);
        }
    }
}

static void add_all(struct nvmx_field_set *to, const struct nvmx_field_set *from) {
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        to->word[w] |= from->word[w];
    }
}

void state_fields_of(const struct nvmx_state_record *record, struct nvmx_field_set *out) {
    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < record->items; i++) {
        int slot = nvmx_field_find(state_item_at(record, i).id, NULL);

        if (slot >= 0 && slot < NVMX_FIELD_COUNT) {
            nvmx_set_add(out, (unsigned int)slot);
        }
    }
}

uint64_t state_value(const struct nvmx_state_record *record, unsigned int slot) {
    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item = state_item_at(record, i);

        if (item.id == field_encoding[slot]) {
            return item.value & nvmx_field_mask(slot);
        }
    }
    return 0;
}

/* All that must be there, and nothing else. */
static NOINLINE enum nvmx_state_reason check_l2_fields(struct check *c, const uint64_t *vmcs12) {
    const struct nvmx_state_record *record = &c->view->l2;
    bool ia32e = (record->head[0] & NVMX_STATE_L2_IA32E) != 0;
    struct state_l2_fields fields;
    struct nvmx_field_set there;

    state_l2_fields(&c->exists, &fields);
    struct nvmx_field_set due = fields.always;
    if (state_uses_pae(state_value(record, NVMX_F_GUEST_CR0), state_value(record, NVMX_F_GUEST_CR4), ia32e)) {
        add_all(&due, &fields.pdptes);
    }
    if ((vmcs12[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0) {
        add_all(&due, &fields.timer);
    }
    state_fields_of(record, &there);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;

        if (nvmx_set_has(&due, slot) && !nvmx_set_has(&there, slot)) {
            return refuse(c, NVMX_STATE_FIELD_MISSING, record->offset, encoding);
        }
        if (nvmx_set_has(&there, slot) && !nvmx_set_has(&due, slot) && !nvmx_set_has(&fields.gates, slot)) {
            return refuse(c, NVMX_STATE_FIELD_EXTRA, record->offset, encoding);
        }
    }
    return NVMX_STATE_OK;
}

/*
 * Capabilities under which vmcs02's loading of MSRs is allowed whether L1 may ask for it or not, so that the values are looked at; but where it is
 * vmcs12's own VM-entry controls (`entry12`) that ask, L1 must have it. The plain and the TRUE MSR are changed alike.
 */
static void allow_gates(struct nvmx_caps *caps, uint64_t entry12) {
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        bool asked = ((entry12 >> gates[i].entry_load) & 1) != 0;
        uint64_t bit = asked ? 0 : UINT64_C(1) << (32 + gates[i].entry_load);

        caps->msr[NVMX_CAP_ENTRY] |= bit;
        caps->msr[NVMX_CAP_TRUE_ENTRY] |= caps->msr[NVMX_CAP_TRUE_ENTRY] != 0 ? bit : 0;
    }
}

/* What the processor would be given to enter: vmcs12's controls, L2's state, the event that waits for it. */
static void compose(const struct nvmx_state_record *record, uint64_t *field) {
    struct nvmx_field_set there;

    state_fields_of(record, &there);
    for (uint32_t i = 0; i < record->items; i++) {
        struct state_item item = state_item_at(record, i);
        int slot = nvmx_field_find(item.id, NULL);

        if (slot >= 0 && slot < NVMX_FIELD_COUNT) {
            field[slot] = item.value & nvmx_field_mask((unsigned int)slot);
        }
    }
    field[NVMX_F_VM_ENTRY_CONTROLS] &= ~(uint64_t)ENTRY_IA32E;
    field[NVMX_F_VM_ENTRY_CONTROLS] |= (record->head[0] & NVMX_STATE_L2_IA32E) != 0 ? ENTRY_IA32E : 0;
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (nvmx_set_has(&there, gates[i].guest)) {
            field[NVMX_F_VM_ENTRY_CONTROLS] |= UINT64_C(1) << gates[i].entry_load;
        }
    }
}

/* The entry checks. What they read of L1's memory was right at the entry, and need not be so any more. */
static enum nvmx_state_reason check_entry(struct check *c, const struct nvmx_caps *l1, const uint64_t *field, uint64_t entry12) {
    struct state_view *view = c->view;
    struct nvmx_caps caps = *l1;
    struct nvmx_check_failure failure;
    struct nvmx_check_input in = {
        .field = field,
        .caps = &caps,
        .current_vmcs = view->vcpu[NVMX_STATE_VCPU_CURRENT],
        .vmxon_pointer = view->vcpu[NVMX_STATE_VCPU_VMXON_POINTER],
        .link_revision = (uint32_t)l1->msr[NVMX_CAP_BASIC] & 0x7fffffff,
        .link_readable = true,
        .l1_long_mode = (field[NVMX_F_VM_EXIT_CONTROLS] & EXIT_HOST_64) != 0,
        .vtpr = VTPR_HIGHEST,
        .pdpte_readable = true,
    };

    allow_gates(&caps, entry12);
    caps.rtit_ctl_valid &= ~RTIT_TRACE_EN; /* no Intel PT in VMX operation: where vmcs02 loads it, the output would go where the host has its own */
    if ((field[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 &&
        (field[NVMX_F_SECONDARY_CONTROLS] & PROC2_VMCS_SHADOWING) != 0) {
        in.link_revision |= SHADOW_INDICATOR;
    }
    for (unsigned int i = 0; i < 4; i++) {
        in.pdpte[i] = field[NVMX_F_GUEST_PDPTE0 + i];
    }
    if (nvmx_check_first(&in, NVMX_CHECK_ALL, &failure)) {
        return NVMX_STATE_OK;
    }
    c->place.row = failure.row;
    return refuse(c, NVMX_STATE_ENTRY_CHECK, view->l2.offset, 0);
}

static bool wants_bus_locks(const uint64_t *field) {
    return (field[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 &&
           (field[NVMX_F_SECONDARY_CONTROLS] & PROC2_BUS_LOCK) != 0;
}

static enum nvmx_state_reason check_l2(struct check *c, const struct nvmx_vcpu *vcpu) {
    struct state_view *view = c->view;
    uint64_t field[NVMX_FIELD_COUNT];
    struct state_l2_fields fields;
    uint64_t flags = view->l2.head[0];

    state_l2_fields(&c->exists, &fields);
    struct nvmx_field_set also = fields.gates;
    add_all(&also, &fields.pdptes);
    TRY(check_fields(c, &view->l2, &also));
    if ((flags & NVMX_STATE_L2_LAUNCHING) != 0 && (flags & NVMX_STATE_L2_ENTRY_PENDING) == 0) {
        return refuse(c, NVMX_STATE_MODE, view->l2.offset, 0);
    }
    if ((view->vmcs[view->current].head[1] & (NVMX_STATE_VMCS_LAUNCHED | NVMX_STATE_VMCS_SHADOW)) !=
        NVMX_STATE_VMCS_LAUNCHED) {
        return refuse(c, NVMX_STATE_MODE, view->vmcs[view->current].offset, 0);
    }
    state_values(&view->vmcs[view->current], field);
    if ((flags & NVMX_STATE_L2_BUS_LOCK) != 0 && !wants_bus_locks(field)) {
        return refuse(c, NVMX_STATE_MODE, view->l2.offset, 0);
    }
    TRY(check_l2_fields(c, field));
    const uint64_t entry12 = field[NVMX_F_VM_ENTRY_CONTROLS];
    compose(&view->l2, field);
    TRY(check_entry(c, &view->caps, field, entry12));
    return vcpu != NULL ? check_entry(c, &vcpu->vm->caps, field, entry12) : NVMX_STATE_OK;
}

/* -- the whole --------------------------------------------------------------------------------------------------------------------------------- */

static enum nvmx_state_reason check_target(struct check *c, const struct nvmx_vcpu *vcpu) {
    const struct state_view *view = c->view;
    uint32_t msr = 0;

    if (view->has_profile != vcpu->vm->expose) {
        return refuse(c, NVMX_STATE_EXPOSE, 0, 0);
    }
    if (view->has_profile && nvmx_caps_check_subset(&view->caps, &vcpu->vm->caps, &msr) != NVMX_OK) {
        return refuse(c, NVMX_STATE_CAPABILITIES, 0, msr);
    }
    if (view->vmcs_count > vcpu->vmcs02_slots) {
        return refuse(c, NVMX_STATE_TOO_MANY, 0, view->vmcs_count);
    }
    return NVMX_STATE_OK;
}

static enum nvmx_state_reason check_all(struct check *c, size_t bytes, const struct nvmx_vcpu *vcpu) {
    TRY(state_frame(c->blob, bytes, &c->end));
    TRY(take_records(c));
    TRY(check_mode(c));
    if (vcpu != NULL) {
        TRY(check_target(c, vcpu));
    }
    return c->view->has_l2 ? check_l2(c, vcpu) : NVMX_STATE_OK;
}

enum nvmx_state_reason state_view(const void *blob, size_t bytes, const struct nvmx_vcpu *vcpu, struct state_view *view,
                                  struct nvmx_state_error *error) {
    struct check c = {.blob = blob, .view = view, .place = {.row = NVMX_CHECK_NONE}};

    memset(view, 0, sizeof(*view));
    view->vcpu[NVMX_STATE_VCPU_VMXON_POINTER] = NVMX_NO_ADDRESS;
    view->vcpu[NVMX_STATE_VCPU_CURRENT] = NVMX_NO_ADDRESS;
    enum nvmx_state_reason reason = blob != NULL ? check_all(&c, bytes, vcpu) : NVMX_STATE_TRUNCATED;
    if (error != NULL) {
        *error = (struct nvmx_state_error){
            .reason = reason,
            .check_row = c.place.row,
            .detail = c.place.detail,
            .offset = c.place.offset,
        };
    }
    return reason;
}

enum nvmx_state_reason nvmx_state_check(const void *blob, size_t bytes, const struct nvmx_vcpu *vcpu,
                                        struct nvmx_state_error *error) {
    struct state_view view;

    return state_view(blob, bytes, vcpu, &view, error);
}

bool nvmx_state_profile(const void *blob, size_t bytes, struct nvmx_caps *out) {
    struct state_view view;

    if (state_view(blob, bytes, NULL, &view, NULL) != NVMX_STATE_OK || !view.has_profile) {
        return false;
    }
    *out = view.caps;
    return true;
}
