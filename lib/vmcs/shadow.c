/* SPDX-License-Identifier: MIT */
/*
 * Hardware VMCS shadowing for L1 (SDM 27.10): L1's VMREAD and VMWRITE of the fields that the table marks go to a shadow
 * VMCS without an exit. The library fills it when L1 is about to run and takes back what L1 can have written.
 *
 * One shadow VMCS serves all vmcs12s, and is read and filled anew when another one becomes current; or each place in the cache has its own. Then what L1
 * wrote stays there (`ahead`) until an entry, or whatever else looks at the whole vmcs12.
 *
 * What L1 can write without an exit each entry reads back. Where the host gives a VMWRITE bitmap that may change, that is only what L1 does write: its first
 * VMWRITE of a field exits, those after it don't, and what stays the same for many entries begins anew.
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

/* Whether an access exits: a bit of a bitmap. */
static void set_exits(uint8_t *bitmap, uint32_t encoding, bool exits) {
    uint8_t bit = (uint8_t)(1u << (encoding % 8));

    bitmap[encoding / 8] = (uint8_t)(exits ? bitmap[encoding / 8] | bit : bitmap[encoding / 8] & ~bit);
}

static void fill_bitmap(const struct nvmx_vm *vm, uint8_t *bitmap, uint32_t count) {
    memset(bitmap, 0xff, NVMX_PAGE_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        set_exits(bitmap, vm->shadowed.encoding[i], false);
    }
}

void nvmx_shadow_bitmaps(const struct nvmx_vm *vm, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap) {
    fill_bitmap(vm, vmread_bitmap, vm->shadowed.count);
    if (vmwrite_bitmap != NULL) {
        fill_bitmap(vm, vmwrite_bitmap, vm->shadowed.writable);
    }
}

/* -- what L1 may write
 * ------------------------------------------------------------------------------------------------------------------ */

/*
 * What every entry looks at. The rest of what L1 may write stays where L1 wrote it as long as it injects no event that has an error code or a length,
 * and has no log; so L1 may write that at all times. The preemption timer stays there while it is off.
 */
#define ENTRY_FIELDS(X)                                                                                                \
    X(PRIMARY_CONTROLS)                                                                                                \
    X(VM_ENTRY_INTERRUPTION_INFO)                                                                                      \
    X(GUEST_INTERRUPTIBILITY_STATE)                                                                                    \
    X(GUEST_RSP)                                                                                                       \
    X(GUEST_RIP)                                                                                                       \
    X(GUEST_RFLAGS)

#define PLACE_BIT(name)        (UINT64_C(1) << PLACE_##name)
#define WITH_PLACE(name)       | PLACE_BIT(name)
#define ENTRY_PLACES           (UINT64_C(0) ENTRY_FIELDS(WITH_PLACE))
#define TIMER_PLACE            PLACE_BIT(PREEMPTION_TIMER_VALUE)
_Static_assert(SHADOW_ENTRY_FIELDS == WRITABLE_COUNT - 4, "all but the PML index, the timer, the error code and the instruction length");

/* Of these the first VMWRITE exits. */
#define LEARNED_PLACES (ENTRY_PLACES | TIMER_PLACE)

/* So many entries long L1 must leave a field as it is before its next VMWRITE of it exits again. */
#define ENTRIES_WITHOUT_CHANGE 256u

static COLD void set_writes(struct shadow_writes *writes, uint64_t places) {
    const uint64_t changed = writes->bitmap != NULL ? places ^ writes->places : 0;

    for (uint64_t left = changed; left != 0; left &= left - 1) {
        unsigned int place = (unsigned int)__builtin_ctzll(left);

        set_exits(writes->bitmap, field_encoding[slot_of_place[place]], ((places >> place) & 1) == 0);
    }
    writes->places = places;
}

void shadow_writes_init(struct nvmx_vcpu *vcpu, uint8_t *bitmap) {
    struct shadow_writes *writes = &vcpu->shadow_writes;

    writes->bitmap = in_use(vcpu) ? bitmap : NULL;
    writes->entries_left = ENTRIES_WITHOUT_CHANGE;
    writes->changed = 0;
    writes->places = LEARNED_PLACES & vcpu->vm->shadowed.places;
    if (writes->bitmap != NULL) {
        fill_bitmap(vcpu->vm, writes->bitmap, vcpu->vm->shadowed.writable);
    }
    set_writes(writes, writes->bitmap != NULL ? 0 : writes->places);
}

/* Does L1's VMWRITE of a field that it may write exit now? */
static bool writes_exit(const struct nvmx_vcpu *vcpu, unsigned int place) {
    return (((LEARNED_PLACES & ~vcpu->shadow_writes.places) >> place) & 1) != 0;
}

/* L1 writes it now: the next time without an exit. */
static void writes_learn(struct nvmx_vcpu *vcpu, unsigned int place) {
    struct shadow_writes *writes = &vcpu->shadow_writes;
    uint64_t bit = (UINT64_C(1) << place) & LEARNED_PLACES;

    writes->changed |= bit;
    if ((bit & ~writes->places) != 0) {
        set_writes(writes, writes->places | bit);
    }
}

/* What L1 has not changed for long it may write no more. What it wrote last can be in any shadow VMCS. */
static COLD void writes_forget(struct nvmx_vcpu *vcpu) {
    struct shadow_writes *writes = &vcpu->shadow_writes;
    uint64_t keep = writes->places & writes->changed;

    writes->entries_left = ENTRIES_WITHOUT_CHANGE;
    writes->changed = 0;
    if (writes->bitmap == NULL || keep == writes->places) {
        return;
    }
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->shadow_vmcs[i].whole = true;
    }
    set_writes(writes, keep);
}

/* -- filling
 * ------------------------------------------------------------------------------------------------------------------ */

static inline enum nvmx_status fill(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct batch *batch) {
    enum nvmx_status status = NVMX_OK;

    if (batch->count != 0) {
        status = host_select_shadow(vcpu, v->shadow);
        if (status == NVMX_OK) {
            status = host_write_fixed(vcpu, batch->count, batch->encoding, batch->value);
        }
    }
    v->shadow_behind = 0;
    v->shadow->unknown = status != NVMX_OK;
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
    if (vcpu->shadows_apart && !v->shadow->unknown && v->shadow_behind == 0) {
        return NVMX_OK;
    }
    return v->shadow->unknown ? push_all(vcpu, v) : push_changes(vcpu, v);
}

enum nvmx_status shadow_push_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    if (RARE(v->shadow->unknown || !v->sync_ready || !v->sync.covers_shadow)) {
        v->shadow_behind = UINT64_MAX;
        return shadow_push(vcpu);
    }
    return push_exit(vcpu, v);
}

/* By the list: the processor or L1 lacks some of the fields, or what the shadow VMCS held is not known. */
static COLD enum nvmx_status pull_listed(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    uint64_t value[SHADOWED_MAX];
    enum nvmx_status status = host_read_encoded(vcpu, list->writable, list->encoding, value);

    for (uint32_t i = 0; status == NVMX_OK && i < list->writable; i++) {
        const bool written = v->shadow->unknown || value[i] != v->shadow->holds[list->place[i]];

        v->shadow->holds[list->place[i]] = value[i]; /* hardware cuts a value to the field's width */
        if (written && value[i] != v->value[list->slot[i]]) {
            vcpu->shadow_writes.changed |= UINT64_C(1) << list->place[i];
            vmcs12_write_to(vcpu, v, list->slot[i], value[i]);
        }
    }
    v->shadow->whole = v->shadow->whole && status != NVMX_OK;
    return status;
}

/* What is as it was put there L1 has not written. */
static inline __attribute__((always_inline)) void pulled(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int place, uint64_t value) {
    unsigned int slot = slot_of_place[place];
    bool checked = slot != NVMX_F_GUEST_RSP && (slot != NVMX_F_GUEST_RIP || vmcs12_rip_is_checked(v, value));

    if (value == v->shadow->holds[place]) {
        return;
    }
    v->shadow->holds[place] = value;
    vcpu->shadow_writes.changed |= UINT64_C(1) << place;
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
    if (RARE(v->shadow->unknown || vcpu->vm->shadowed.writable != WRITABLE_COUNT)) {
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
    v->shadow->whole = false;
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

/* What goes with an event that L1 injects, as far as it counts (SDM 29.2.1.3). */
static COLD enum nvmx_status pull_event(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    static const uint32_t encoding[] = {NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH};
    static const uint8_t places[] = {PLACE_VM_ENTRY_EXCEPTION_ERROR_CODE, PLACE_VM_ENTRY_INSTRUCTION_LENGTH};
    uint64_t value[2];
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);

    if (status == NVMX_OK) {
        status = host_read_encoded(vcpu, 2, encoding, value);
    }
    for (unsigned int i = 0; status == NVMX_OK && i < 2; i++) {
        if (value[i] != v->shadow->holds[places[i]]) {
            v->shadow->holds[places[i]] = value[i];
            vmcs12_write_to(vcpu, v, slot_of_place[places[i]], value[i]);
        }
    }
    return status;
}

/* All that an entry looks at, in one batch. */
static inline enum nvmx_status pull_entry_fields(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
#define X(name) NVMX_VMCS_##name,
    static const uint32_t encoding[SHADOW_ENTRY_FIELDS] = {ENTRY_FIELDS(X)};
#undef X
    uint64_t value[SHADOW_ENTRY_FIELDS];
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);
    unsigned int i = 0;

    if (status == NVMX_OK) {
        status = host_read_fixed(vcpu, SHADOW_ENTRY_FIELDS, encoding, value);
    }
    if (RARE(status != NVMX_OK)) {
        return status;
    }
#define X(name) pulled(vcpu, v, PLACE_##name, value[i++]);
    ENTRY_FIELDS(X)
#undef X
    return NVMX_OK;
}

#define PULL(name)                                                                                                     \
    if ((places & PLACE_BIT(name)) != 0) {                                                                             \
        static const uint32_t encoding = NVMX_VMCS_##name;                                                             \
        uint64_t value;                                                                                                \
                                                                                                                       \
        status = host_read_fixed(vcpu, 1, &encoding, &value);                                                          \
        if (RARE(status != NVMX_OK)) {                                                                                 \
            return status;                                                                                             \
        }                                                                                                              \
        pulled(vcpu, v, PLACE_##name, value);                                                                          \
    }

static __attribute__((noinline)) enum nvmx_status pull_written(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t places) {
    enum nvmx_status status = NVMX_OK;

    ENTRY_FIELDS(PULL)
    PULL(PREEMPTION_TIMER_VALUE)
    return status;
}

/* One by one those that L1 writes: they are few, and RIP alone more often than not. */
static inline enum nvmx_status pull_few(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const uint64_t places = vcpu->shadow_writes.places;
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);

    if (RARE(status != NVMX_OK)) {
        return status;
    }
    PULL(GUEST_RIP)
    return RARE((places & ~PLACE_BIT(GUEST_RIP)) != 0) ? pull_written(vcpu, v, places & ~PLACE_BIT(GUEST_RIP)) : status;
}

enum nvmx_status shadow_pull_for_entry(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    if (RARE(--vcpu->shadow_writes.entries_left == 0)) {
        writes_forget(vcpu);
    }
    if (RARE(v->shadow->take_all != 0 || (v->value[NVMX_F_SECONDARY_CONTROLS] & PROC2_PML) != 0)) {
        return shadow_pull(vcpu);
    }
    enum nvmx_status status = NVMX_OK;
    const uint64_t places = vcpu->shadow_writes.places;
    if ((places & ENTRY_PLACES) == ENTRY_PLACES) {
        status = pull_entry_fields(vcpu, v);
        if (status == NVMX_OK && (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0) {
            status = pull_written(vcpu, v, places & TIMER_PLACE);
        }
    } else if (places != 0) {
        status = pull_few(vcpu, v);
    }
    if (RARE(status != NVMX_OK)) {
        return status;
    }
    uint64_t event = v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    return RARE((event & EVENT_VALID) != 0 && !event_is_vector_alone(event)) ? pull_event(vcpu, v) : NVMX_OK;
}

unsigned int shadow_place(unsigned int slot) {
    for (unsigned int place = 0; place < PLACES; place++) {
        if (slot_of_place[place] == slot) {
            return place;
        }
    }
    return 0;
}

/* L1's VMWRITE exited, but its VMREAD does not: what was written must be found in the shadow VMCS. */
enum nvmx_status shadow_follow(struct nvmx_vcpu *vcpu, unsigned int slot) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    if (!in_use(vcpu) || !nvmx_set_has(&vcpu->vm->shadowed.fields, slot)) {
        return NVMX_OK;
    }
    const unsigned int place = shadow_place(slot);
    if (place < WRITABLE_COUNT && !writes_exit(vcpu, place)) {
        return NVMX_OK; /* of a host that shadows no writes */
    }
    enum nvmx_status status = host_select_shadow(vcpu, v->shadow);
    if (status == NVMX_OK) {
        status = host_write(vcpu, slot, v->value[slot]);
    }
    if (status == NVMX_OK) {
        v->shadow->holds[place] = v->value[slot];
        writes_learn(vcpu, place);
    } else {
        v->shadow->unknown = true;
    }
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
