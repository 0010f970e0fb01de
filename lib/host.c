/* SPDX-License-Identifier: MIT */
/*
 * The host's callbacks, counted. Everything above calls them through here.
 *
 * A host that can't afford an indirect call per access binds vmcs_read, vmcs_write and vmcs_select at compile time: it builds the
 * library with -DNVMX_HOST_HEADER='"its.h"', which defines static inline functions nvmx_inline_vmcs_read, _write and _select of the
 * callbacks' signatures.
 */
#include "vcpu.h"

#ifdef NVMX_HOST_HEADER
#include NVMX_HOST_HEADER
#define CALL_SELECT(vcpu) nvmx_inline_vmcs_select
#define CALL_READ(vcpu) nvmx_inline_vmcs_read
#define CALL_WRITE(vcpu) nvmx_inline_vmcs_write
#else
#define CALL_SELECT(vcpu) (vcpu)->vm->host.vmcs_select
#define CALL_READ(vcpu) (vcpu)->vm->host.vmcs_read
#define CALL_WRITE(vcpu) (vcpu)->vm->host.vmcs_write
#endif

/* Order of struct nvmx_host from map_page on. */
enum callback {
    CB_MAP_PAGE = 0,
    CB_UNMAP_PAGE,
    CB_TRANSLATE,
    CB_EPT01_LOOKUP,
    CB_PAGE_ALLOC,
    CB_PAGE_FREE,
    CB_PAGE_POINTER,
    CB_VMCS_SELECT,
    CB_VMCS_RESET,
    CB_VMCS_READ,
    CB_VMCS_WRITE,
    CB_TLB_FLUSH,
    CB_MSR_READ,
    CB_MSR_WRITE,
};

enum nvmx_status host_select_other(struct nvmx_vcpu *vcpu, uint32_t which) {
    vcpu->counts.callback[CB_VMCS_SELECT]++;
    enum nvmx_status status = CALL_SELECT(vcpu)(vcpu->ctx, which);
    if (status == NVMX_OK) {
        vcpu->selected = which;
    }
    return status;
}

enum nvmx_status host_reset(struct nvmx_vcpu *vcpu, uint32_t which) {
    vcpu->counts.callback[CB_VMCS_RESET]++;
    return vcpu->vm->host.vmcs_reset(vcpu->ctx, which);
}

enum nvmx_status host_read_encoded(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings, uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_READ]++;
    vcpu->counts.vmreads += count;
    return CALL_READ(vcpu)(vcpu->ctx, count, encodings, values);
}

enum nvmx_status host_write_encoded(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings,
                                    const uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_WRITE]++;
    vcpu->counts.vmwrites += count;
    return CALL_WRITE(vcpu)(vcpu->ctx, count, encodings, values);
}

enum nvmx_status host_read_many(struct nvmx_vcpu *vcpu, uint32_t count, const uint8_t *slots, uint64_t *values) {
    uint32_t encoding[NVMX_FIELD_COUNT];

    if (count == 0) {
        return NVMX_OK;
    }
    for (uint32_t i = 0; i < count; i++) {
        encoding[i] = field_encoding[slots[i]];
    }
    return host_read_encoded(vcpu, count, encoding, values);
}

enum nvmx_status host_read(struct nvmx_vcpu *vcpu, enum nvmx_field slot, uint64_t *value) {
    uint32_t encoding = field_encoding[slot];

    return host_read_encoded(vcpu, 1, &encoding, value);
}

enum nvmx_status host_write(struct nvmx_vcpu *vcpu, enum nvmx_field slot, uint64_t value) {
    uint32_t encoding = field_encoding[slot];

    return host_write_encoded(vcpu, 1, &encoding, &value);
}

enum nvmx_status batch_flush(struct nvmx_vcpu *vcpu, struct batch *batch) {
    uint32_t count = batch->count;

    batch->count = 0;
    return count == 0 ? NVMX_OK : host_write_encoded(vcpu, count, batch->encoding, batch->value);
}

void *host_map(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    uint64_t ignored;

    vcpu->counts.callback[CB_MAP_PAGE]++;
    return vcpu->vm->host.map_page(vcpu->ctx, gpa1, access, hpa != NULL ? hpa : &ignored);
}

void host_unmap(struct nvmx_vcpu *vcpu, uint64_t gpa1, void *page, bool dirtied) {
    vcpu->counts.callback[CB_UNMAP_PAGE]++;
    vcpu->vm->host.unmap_page(vcpu->ctx, gpa1, page, dirtied);
}

enum nvmx_status host_msr_read(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t *value) {
    vcpu->counts.callback[CB_MSR_READ]++;
    return vcpu->vm->host.msr_read(vcpu->ctx, index, value);
}

enum nvmx_status host_msr_write(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value) {
    vcpu->counts.callback[CB_MSR_WRITE]++;
    return vcpu->vm->host.msr_write(vcpu->ctx, index, value);
}

void host_flush(struct nvmx_vcpu *vcpu, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    vcpu->counts.callback[CB_TLB_FLUSH]++;
    vcpu->vm->host.tlb_flush(vcpu->ctx, kind, value, linear);
}

void *host_page_alloc(struct nvmx_vcpu *vcpu, uint64_t *hpa) {
    vcpu->counts.callback[CB_PAGE_ALLOC]++;
    return vcpu->vm->host.page_alloc(vcpu->vm->ctx, hpa);
}

void host_page_free(struct nvmx_vcpu *vcpu, void *page, uint64_t hpa) {
    vcpu->counts.callback[CB_PAGE_FREE]++;
    vcpu->vm->host.page_free(vcpu->vm->ctx, page, hpa);
}
