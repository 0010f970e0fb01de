/* SPDX-License-Identifier: MIT */
/*
 * Hardware VMCS shadowing for L1 (SDM 27.10): L1's VMREAD and VMWRITE of the fields that the table marks go to a shadow VMCS without an
 * exit. The library fills it when L1 is about to run and takes back what L1 can have written.
 */
#include "vcpu.h"

#include <string.h>

static bool in_use(const struct nvmx_vcpu *vcpu) {
    return vcpu->shadow_hpa != NVMX_NO_ADDRESS;
}

/* VMWRITE to exit information needs IA32_VMX_MISC[29]; without it the CPU refuses L0's write as it refuses L1's. */
static bool can_fill_read_only(const struct nvmx_vm *vm) {
    return ((vm->machine.msr[NVMX_CAP_MISC] >> 29) & 1) != 0;
}

static bool shadowed(const struct nvmx_vm *vm, unsigned int slot, enum nvmx_field_shadow kind) {
    return nvmx_field_info(slot)->shadow == kind && nvmx_set_has(&vm->exists, slot) &&
           nvmx_set_has(&vm->machine_fields, slot);
}

static void append(struct shadow_list *list, unsigned int slot) {
    list->encoding[list->count] = field_encoding[slot];
    list->slot[list->count] = (uint8_t)slot;
    list->count++;
    nvmx_set_add(&list->fields, slot);
}

_Static_assert(SHADOWED_MAX <= BATCH_MAX, "one batch fills the shadow VMCS");

/* Those that L1 writes come first. */
void shadow_fields(struct nvmx_vm *vm) {
    struct shadow_list *list = &vm->shadowed;

    list->count = 0;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT && list->count < SHADOWED_MAX; slot++) {
        if (shadowed(vm, slot, NVMX_SHADOW_RW)) {
            append(list, slot);
        }
    }
    list->writable = list->count;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT && list->count < SHADOWED_MAX; slot++) {
        bool information = nvmx_encoding_read_only(field_encoding[slot]);

        if (shadowed(vm, slot, NVMX_SHADOW_RO) && (!information || can_fill_read_only(vm))) {
            append(list, slot);
        }
    }
}

void nvmx_shadow_bitmaps(const struct nvmx_vm *vm, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap) {
    memset(vmread_bitmap, 0xff, NVMX_PAGE_SIZE);
    memset(vmwrite_bitmap, 0xff, NVMX_PAGE_SIZE);
    for (uint32_t i = 0; i < vm->shadowed.count; i++) {
        uint32_t encoding = vm->shadowed.encoding[i];
        uint8_t keep = (uint8_t)~(1u << (encoding % 8));

        vmread_bitmap[encoding / 8] &= keep;
        if (i < vm->shadowed.writable) {
            vmwrite_bitmap[encoding / 8] &= keep;
        }
    }
}

/* Stale fields would show old values: they are read with the exit from now on. */
static enum nvmx_status fetch_stale(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    uint64_t stale = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        v->learned.word[w] |= v->stale.word[w] & list->fields.word[w];
        stale |= v->stale.word[w] & list->fields.word[w];
    }
    if (stale == 0) {
        return NVMX_OK;
    }
    v->sync_ready = false;
    return sync_all(vcpu, v);
}

/* Only what differs from what the shadow VMCS holds is written: L1's own writes were taken note of by shadow_pull. */
enum nvmx_status shadow_push(struct nvmx_vcpu *vcpu) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    struct vmcs12 *v = vmcs12_current(vcpu);
    struct batch batch;

    if (!in_use(vcpu) || v == NULL) {
        return NVMX_OK;
    }
    enum nvmx_status status = fetch_stale(vcpu, v);
    batch_init(&batch);
    for (uint32_t i = 0; i < list->count; i++) {
        uint64_t value = v->value[list->slot[i]];

        if (vcpu->shadow_holds[i] != value || !vcpu->shadow_known) {
            vcpu->shadow_holds[i] = value;
            batch.encoding[batch.count] = list->encoding[i];
            batch.value[batch.count] = value;
            batch.count++;
        }
    }
    if (status == NVMX_OK && batch.count != 0) {
        status = host_select(vcpu, NVMX_VMCS_SHADOW);
    }
    if (status == NVMX_OK) {
        status = batch_flush(vcpu, &batch);
    }
    vcpu->shadow_known = status == NVMX_OK;
    return status;
}

enum nvmx_status shadow_pull(struct nvmx_vcpu *vcpu) {
    const struct shadow_list *list = &vcpu->vm->shadowed;
    struct vmcs12 *v = vmcs12_current(vcpu);
    uint64_t value[SHADOWED_MAX];

    if (!in_use(vcpu) || v == NULL) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS_SHADOW);
    if (status == NVMX_OK) {
        status = host_read_encoded(vcpu, list->writable, list->encoding, value);
    }
    for (uint32_t i = 0; status == NVMX_OK && i < list->writable; i++) {
        vcpu->shadow_holds[i] = value[i]; /* hardware cuts a value to the field's width */
        if (value[i] != v->value[list->slot[i]]) {
            vmcs12_write(vcpu, list->slot[i], value[i]);
        }
    }
    return status;
}

/* L1's VMWRITE to exit information exits, but its VMREAD does not: what was written must be found in the shadow VMCS. */
enum nvmx_status shadow_follow(struct nvmx_vcpu *vcpu, unsigned int slot) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    if (!in_use(vcpu) || nvmx_field_info(slot)->shadow != NVMX_SHADOW_RO || !can_fill_read_only(vcpu->vm) ||
        !nvmx_set_has(&vcpu->vm->machine_fields, slot)) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS_SHADOW);
    if (status == NVMX_OK) {
        status = host_write(vcpu, slot, v->value[slot]);
    }
    vcpu->shadow_known = false;
    enum nvmx_status back = host_select(vcpu, NVMX_VMCS01);
    return status != NVMX_OK ? status : back;
}

/* Without a current VMCS the link pointer is all ones, and the CPU itself answers VMfailInvalid (SDM 33.3 VMREAD). */
enum nvmx_status shadow_relink(struct nvmx_vcpu *vcpu) {
    uint64_t pointer = vcpu->current >= 0 ? vcpu->shadow_hpa : NVMX_NO_ADDRESS;

    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    return status == NVMX_OK ? host_write(vcpu, NVMX_F_VMCS_LINK_POINTER, pointer) : status;
}
