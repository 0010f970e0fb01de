/* SPDX-License-Identifier: MIT */
/*
 * Hardware VMCS shadowing for L1 (SDM 27.10): L1's VMREAD and VMWRITE of the fields that the table marks go to a shadow
 * VMCS without an exit. The library fills it when L1 is about to run and takes back what L1 can have written.
 *
 * One shadow VMCS serves all vmcs12s, and is read and filled anew when another one becomes current; or each place in the cache has its own. Then what L1
 * wrote stays there (`ahead`) until an entry, or whatever else looks at the whole vmcs12.
 */
#include "shadow.h"

#include <string.h>

static bool in_use(const struct nvmx_vcpu *vcpu) {
    return vcpu->shadow_used;
}

/* VMWRITE to exit information needs IA32_VMX_MISC[29]; without it the CPU refuses L0's write as it refuses L1's. */
static bool can_fill_read_only(const struct nvmx_vm *vm) {
    return ((vm->machine.msr[NVMX_CAP_MISC] >> 29) & 1) != 0;
}

static bool shadowed(const struct nvmx_vm *vm, unsigned int slot, enum nvmx_field_shadow kind) {
    return nvmx_field_info(slot)->shadow == kind && nvmx_set_has(&vm->exists, slot) &&
           nvmx_set_has(&vm->machine_fields, slot);
}

#define ENCODING_NO(name)
#define ENCODING_RO(name)
#define ENCODING_RW(name) NVMX_VMCS_##name,
static const uint32_t writable_encoding[WRITABLE_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow) ENCODING_##shadow(name)
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

static const uint8_t slot_of_place[PLACES] = {
#define SLOT_NO(name)
#define SLOT_RO(name)                                             [PLACE_##name] = NVMX_F_##name,
#define SLOT_RW(name)                                             [PLACE_##name] = NVMX_F_##name,
#define FIELD(encoding, name, text, exists, group, merge, shadow) SLOT_##shadow(name)
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

static void append(struct shadow_list *list, unsigned int place) {
    unsigned int slot = slot_of_place[place];

    list->encoding[list->count] = field_encoding[slot];
    list->slot[list->count] = (uint8_t)slot;
    list->place[list->count] = (uint8_t)place;
    list->places |= UINT64_C(1) << place;
    list->count++;
    nvmx_set_add(&list->fields, slot);
}

void shadow_fields(struct nvmx_vm *vm) {
    struct shadow_list *list = &vm->shadowed;

    list->count = 0;
    list->places = 0;
    for (unsigned int place = 0; place < WRITABLE_COUNT; place++) {
        if (shadowed(vm, slot_of_place[place], NVMX_SHADOW_RW)) {
            append(list, place);
        }
    }
    list->writable = list->count;
    for (unsigned int place = WRITABLE_COUNT; place < PLACES; place++) {
        bool information = nvmx_encoding_read_only(field_encoding[slot_of_place[place]]);

        if (shadowed(vm, slot_of_place[place], NVMX_SHADOW_RO) && (!information || can_fill_read_only(vm))) {
            append(list, place);
        }
    }
}

void nvmx_shadow_bitmaps(const struct nvmx_vm *vm, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap) {
    memset(vmread_bitmap, 0xff, NVMX_PAGE_SIZE);
    memset(vmwrite_bitmap, 0xff, NVMX_PAGE_SIZE);
    for (uint32_t i = 0; i < vm->shadowed.count; i++) {
        uint32_t encoding = vm->shadowed.encoding[i];
        uint8_t keep = (uint8_t) ~(1u << (encoding % 8));

        vmread_bitmap[encoding / 8] &= keep;
        if (i < vm->shadowed.writable) {
            vmwrite_bitmap[encoding / 8] &= keep;
        }
    }
}

static inline enum nvmx_status fill(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct batch *batch) {
    enum nvmx_status status = NVMX_OK;

    if (batch->count != 0) {
        status = host_select_shadow(vcpu, v->shadow);
        if (status == NVMX_OK) {
            status = host_write_fixed(vcpu, batch->count, batch->encoding, batch->value);
        }
    }
    v->shadow_behind = 0;
    v->shadow->known = status == NVMX_OK;
    return status;
}

/* Nothing is known of what the shadow VMCS holds. */
static COLD enum nvmx_status push_all(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    struct batch batch;

    batch_init(&batch);
    for (uint32_t i = 0; i < list->count; i++) {
        v->shadow->holds[list->place[i]] = v->value[list->slot[i]];
        batch.encoding[batch.count] = list->encoding[i];
        batch.value[batch.count++] = v->value[list->slot[i]];
    }
    return fill(vcpu, v, &batch);
}

static inline void push_field(struct shadow_vmcs *shadow, struct batch *batch, unsigned int place, uint64_t value) {
    shadow->holds[place] = value;
    batch->encoding[batch->count] = field_encoding[slot_of_place[place]];
    batch->value[batch->count++] = value;
}

static inline void push_if_shadowed(const struct nvmx_vm *vm, struct shadow_vmcs *shadow, struct batch *batch, unsigned int place,
                                    uint64_t value) {
    if (((vm->shadowed.places >> place) & 1) != 0) {
        push_field(shadow, batch, place, value);
    }
}

/* L1's own writes were taken note of by shadow_pull. */
static enum nvmx_status push_changes(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct shadow_vmcs *shadow = v->shadow;
    struct batch batch;

    batch_init(&batch);
#define PUSH_NO(name)
#define PUSH_RO(name)                                                                                                  \
    if (RARE(v->value[NVMX_F_##name] != shadow->holds[PLACE_##name])) {                                                \
        push_if_shadowed(vcpu->vm, shadow, &batch, PLACE_##name, v->value[NVMX_F_##name]);                             \
    }
#define PUSH_RW(name)                                             PUSH_RO(name)
#define FIELD(encoding, name, text, exists, group, merge, shadow) PUSH_##shadow(name)
#include <nvmx/vmcs_fields.def>
#undef FIELD
    return fill(vcpu, v, &batch);
}

/* The same after an exit of L2, which changes little. */
static inline enum nvmx_status push_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint64_t behind = v->shadow_behind;
    struct batch batch;

    /* The log's index changes with any violation, long before L1 gets an exit. */
    if (RARE(v->value[NVMX_F_PML_INDEX] != v->shadow->holds[PLACE_PML_INDEX])) {
        behind |= UINT64_C(1) << PLACE_PML_INDEX;
    }
    batch_init(&batch);
    for (behind &= vcpu->vm->shadowed.places; behind != 0; behind &= behind - 1) {
        unsigned int place = (unsigned int)__builtin_ctzll(behind);

        push_field(v->shadow, &batch, place, v->value[slot_of_place[place]]);
    }
    return fill(vcpu, v, &batch);
}

/* Stale fields would show old values: they are read with the exit from now on. */
static COLD enum nvmx_status fetch_stale(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->learned.word[w] |= v->stale.word[w] & vcpu->vm->shadowed.fields.word[w];
    }
    v->sync_ready = false;
    v->shadow_behind = UINT64_MAX;
    return sync_all(vcpu, v);
}

static bool some_stale(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    uint64_t stale = 0;

#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        stale |= v->stale.word[w] & vcpu->vm->shadowed.fields.word[w];
    }
    return stale != 0;
}

enum nvmx_status shadow_push(struct nvmx_vcpu *vcpu) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    enum nvmx_status status = NVMX_OK;

    if (!in_use(vcpu) || v == NULL) {
        return NVMX_OK;
    }
    if (some_stale(vcpu, v)) {
        status = fetch_stale(vcpu, v);
    }
    if (status != NVMX_OK) {
        return status;
    }
    if (vcpu->shadows_apart && v->shadow->known && v->shadow_behind == 0) {
        return NVMX_OK;
    }
    return v->shadow->known ? push_changes(vcpu, v) : push_all(vcpu, v);
}

enum nvmx_status shadow_push_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    if (RARE(!v->shadow->known || !v->sync_ready || !v->sync.covers_shadow)) {
        v->shadow_behind = UINT64_MAX;
        return shadow_push(vcpu);
    }
    return push_exit(vcpu, v);
}

/* By the list: the processor lacks some of the fields, or what the shadow VMCS held is not known. */
static COLD enum nvmx_status pull_listed(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    uint64_t value[SHADOWED_MAX];
    enum nvmx_status status = host_read_encoded(vcpu, list->writable, list->encoding, value);

    for (uint32_t i = 0; status == NVMX_OK && i < list->writable; i++) {
        v->shadow->holds[list->place[i]] = value[i]; /* hardware cuts a value to the field's width */
        if (value[i] != v->value[list->slot[i]]) {
            vmcs12_write_to(vcpu, v, list->slot[i], value[i]);
        }
    }
    return status;
}

/* What is as it was put there L1 has not written. */
static inline void pulled(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int place, uint64_t value) {
    unsigned int slot = slot_of_place[place];
    bool checked = slot != NVMX_F_GUEST_RSP && (slot != NVMX_F_GUEST_RIP || vmcs12_rip_is_checked(v, value));

    if (value == v->shadow->holds[place]) {
        return;
    }
    v->shadow->holds[place] = value;
    if (checked) {
        vmcs12_write_to(vcpu, v, slot, value);
    } else {
        vmcs12_write_unchecked(v, slot, value);
    }
}

static enum nvmx_status pull_whole(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint64_t value[WRITABLE_COUNT];
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);

    if (status != NVMX_OK) {
        return status;
    }
    if (RARE(!v->shadow->known || vcpu->vm->shadowed.writable != WRITABLE_COUNT)) {
        return pull_listed(vcpu, v);
    }
    status = host_read_fixed(vcpu, WRITABLE_COUNT, writable_encoding, value);
    if (RARE(status != NVMX_OK)) {
        return status;
    }
#pragma GCC unroll 16
    for (unsigned int place = 0; place < WRITABLE_COUNT; place++) {
        pulled(vcpu, v, place, value[place]);
    }
    return NVMX_OK;
}

enum nvmx_status shadow_pull(struct nvmx_vcpu *vcpu) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    return !in_use(vcpu) || v == NULL ? NVMX_OK : pull_whole(vcpu, v);
}

/* Of one that is not current L1 writes no more. */
enum nvmx_status shadow_pull_ahead(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint32_t before = vcpu->selected;

    if (!vcpu->shadows_apart || !v->shadow->ahead) {
        return NVMX_OK;
    }
    enum nvmx_status status = pull_whole(vcpu, v);
    v->shadow->ahead = status != NVMX_OK || v == vmcs12_current(vcpu);
    enum nvmx_status back = host_select(vcpu, before);
    return status != NVMX_OK ? status : back;
}

enum nvmx_status shadow_pull_away(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (vcpu->shadows_apart ? !v->shadow->ahead : !in_use(vcpu) || v != vmcs12_current(vcpu)) {
        return NVMX_OK;
    }
    return pull_whole(vcpu, v);
}

/* What goes with an event that L1 injects, as far as it counts (SDM 29.2.1.3). The shadow VMCS is selected. */
static COLD enum nvmx_status pull_event(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    static const uint32_t encoding[] = {NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH};
    static const uint8_t places[] = {PLACE_VM_ENTRY_EXCEPTION_ERROR_CODE, PLACE_VM_ENTRY_INSTRUCTION_LENGTH};
    uint64_t value[2];
    enum nvmx_status status = host_read_encoded(vcpu, 2, encoding, value);

    for (unsigned int i = 0; status == NVMX_OK && i < 2; i++) {
        if (value[i] != v->shadow->holds[places[i]]) {
            v->shadow->holds[places[i]] = value[i];
            vmcs12_write_to(vcpu, v, slot_of_place[places[i]], value[i]);
        }
    }
    return status;
}

/* Without an event that L1 injects and without a log these stay where L1 wrote them, until the whole is pulled. */
enum nvmx_status shadow_pull_for_entry(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    static const uint32_t encoding[] = {NVMX_VMCS_PRIMARY_CONTROLS,
                                        NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO,
                                        NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
                                        NVMX_VMCS_GUEST_RSP,
                                        NVMX_VMCS_GUEST_RIP,
                                        NVMX_VMCS_GUEST_RFLAGS};
    static const uint8_t places[] = {PLACE_PRIMARY_CONTROLS,
                                     PLACE_VM_ENTRY_INTERRUPTION_INFO,
                                     PLACE_GUEST_INTERRUPTIBILITY_STATE,
                                     PLACE_GUEST_RSP,
                                     PLACE_GUEST_RIP,
                                     PLACE_GUEST_RFLAGS};
    _Static_assert(sizeof(places) == WRITABLE_COUNT - 3,
                   "all but the PML index, the error code and the instruction length");
    uint64_t value[sizeof(places)];

    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    if (RARE(!v->shadow->known || (secondary_controls(v) & PROC2_PML) != 0)) {
        return shadow_pull(vcpu);
    }
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);
    if (status == NVMX_OK) {
        status = host_read_fixed(vcpu, sizeof(places), encoding, value);
    }
    if (RARE(status != NVMX_OK)) {
        return status;
    }
#pragma GCC unroll 8
    for (unsigned int i = 0; i < sizeof(places); i++) {
        pulled(vcpu, v, places[i], value[i]);
    }
    return RARE((value[1] & EVENT_VALID) != 0 && !event_is_vector_alone(value[1])) ? pull_event(vcpu, v) : NVMX_OK;
}

/* L1's VMWRITE to exit information exits, but its VMREAD does not: what was written must be found in the shadow VMCS.
 */
enum nvmx_status shadow_follow(struct nvmx_vcpu *vcpu, unsigned int slot) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    if (!in_use(vcpu) || nvmx_field_info(slot)->shadow != NVMX_SHADOW_RO || !can_fill_read_only(vcpu->vm) ||
        !nvmx_set_has(&vcpu->vm->machine_fields, slot)) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);
    if (status == NVMX_OK) {
        status = host_write(vcpu, slot, v->value[slot]);
    }
    v->shadow->known = false;
    enum nvmx_status back = host_select(vcpu, NVMX_VMCS01);
    return status != NVMX_OK ? status : back;
}

/* Without a current VMCS the link pointer is all ones, and the CPU itself answers VMfailInvalid (SDM 33.3 VMREAD). */
enum nvmx_status shadow_relink(struct nvmx_vcpu *vcpu) {
    const struct vmcs12 *v = vmcs12_current(vcpu);
    const struct shadow_vmcs *wanted = v != NULL ? v->shadow : NULL;
    const uint64_t pointer = wanted != NULL ? wanted->hpa : NVMX_NO_ADDRESS;
    static const uint32_t link = NVMX_VMCS_VMCS_LINK_POINTER;

    if (!in_use(vcpu) || (vcpu->link_known && vcpu->linked == wanted)) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK) {
        status = host_write_fixed(vcpu, 1, &link, &pointer);
    }
    vcpu->linked = wanted;
    vcpu->link_known = status == NVMX_OK;
    return status;
}
