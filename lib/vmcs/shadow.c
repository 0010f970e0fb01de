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

/* The fields of one shadow class that both L1 and the machine have. */
static uint32_t shadowed(const struct nvmx_vm *vm, bool read_only_too, uint8_t *slots) {
    uint32_t count = 0;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint8_t kind = nvmx_field_info(slot)->shadow;
        bool wanted = kind == NVMX_SHADOW_RW || (kind == NVMX_SHADOW_RO && read_only_too);

        if (wanted && nvmx_set_has(&vm->exists, slot) && nvmx_set_has(&vm->machine_fields, slot)) {
            slots[count++] = (uint8_t)slot;
        }
    }
    return count;
}

/* VMWRITE to exit information needs IA32_VMX_MISC[29]; without it the CPU refuses L0's write as it refuses L1's. */
static bool can_fill_read_only(const struct nvmx_vm *vm) {
    return ((vm->machine.msr[NVMX_CAP_MISC] >> 29) & 1) != 0;
}

void nvmx_shadow_bitmaps(const struct nvmx_vm *vm, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap) {
    uint8_t slots[NVMX_FIELD_COUNT];
    uint32_t count = shadowed(vm, can_fill_read_only(vm), slots);

    memset(vmread_bitmap, 0xff, NVMX_PAGE_SIZE);
    memset(vmwrite_bitmap, 0xff, NVMX_PAGE_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        const struct nvmx_field_info *info = nvmx_field_info(slots[i]);
        uint8_t keep = (uint8_t)~(1u << (info->encoding % 8));

        vmread_bitmap[info->encoding / 8] &= keep;
        if (info->shadow == NVMX_SHADOW_RW) {
            vmwrite_bitmap[info->encoding / 8] &= keep;
        }
    }
}

/* Stale fields would show old values: the classes of the table are chosen so that an exit reads them anyway, or they are fetched. */
static enum nvmx_status fetch_stale(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint8_t *slots, uint32_t count) {
    bool stale = false;

    for (uint32_t i = 0; i < count; i++) {
        if (nvmx_set_has(&v->stale, slots[i])) {
            nvmx_set_add(&v->learned, slots[i]);
            stale = true;
        }
    }
    return stale ? sync_all(vcpu, v) : NVMX_OK;
}

enum nvmx_status shadow_push(struct nvmx_vcpu *vcpu) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    uint8_t slots[NVMX_FIELD_COUNT];
    struct batch batch;

    if (!in_use(vcpu) || v == NULL) {
        return NVMX_OK;
    }
    uint32_t count = shadowed(vcpu->vm, can_fill_read_only(vcpu->vm), slots);
    enum nvmx_status status = fetch_stale(vcpu, v, slots, count);
    if (status == NVMX_OK) {
        status = host_select(vcpu, NVMX_VMCS_SHADOW);
    }
    batch_init(&batch);
    for (uint32_t i = 0; status == NVMX_OK && i < count; i++) {
        status = batch_put(vcpu, &batch, slots[i], v->value[slots[i]]);
    }
    if (status == NVMX_OK) {
        status = batch_flush(vcpu, &batch);
    }
    enum nvmx_status back = host_select(vcpu, NVMX_VMCS01);
    return status != NVMX_OK ? status : back;
}

enum nvmx_status shadow_pull(struct nvmx_vcpu *vcpu) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    uint8_t slots[NVMX_FIELD_COUNT];
    uint64_t value[NVMX_FIELD_COUNT];

    if (!in_use(vcpu) || v == NULL) {
        return NVMX_OK;
    }
    uint32_t count = shadowed(vcpu->vm, false, slots);
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS_SHADOW);
    if (status == NVMX_OK) {
        status = host_read_many(vcpu, count, slots, value);
    }
    for (uint32_t i = 0; status == NVMX_OK && i < count; i++) {
        uint64_t read = value[i] & nvmx_field_mask(slots[i]);
        if (read != v->value[slots[i]]) {
            vmcs12_write(vcpu, slots[i], read);
        }
    }
    enum nvmx_status back = host_select(vcpu, NVMX_VMCS01);
    return status != NVMX_OK ? status : back;
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
    enum nvmx_status back = host_select(vcpu, NVMX_VMCS01);
    return status != NVMX_OK ? status : back;
}

/* Without a current VMCS the link pointer is all ones, and the CPU itself answers VMfailInvalid (SDM 33.3 VMREAD). */
enum nvmx_status shadow_relink(struct nvmx_vcpu *vcpu) {
    uint64_t pointer = vcpu->current >= 0 ? vcpu->shadow_hpa : NVMX_NO_ADDRESS;

    if (!in_use(vcpu)) {
        return NVMX_OK;
    }
    return host_write(vcpu, NVMX_F_VMCS_LINK_POINTER, pointer);
}
