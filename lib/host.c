/* SPDX-License-Identifier: MIT */
/* The host's callbacks that are not on the hot path: see host.h. */
#include "vcpu.h"

enum nvmx_status host_reset(struct nvmx_vcpu *vcpu, uint32_t which) {
    vcpu->counts.callback[CB_VMCS_RESET]++;
    return vcpu->vm->host.vmcs_reset(vcpu->ctx, which);
}

enum nvmx_status host_read_many(struct nvmx_vcpu *vcpu, uint32_t count, const uint8_t *slots, uint64_t *values) {
    uint32_t *encoding = vcpu->scratch.encoding;

    if (count == 0) {
        return NVMX_OK;
    }
    for (uint32_t i = 0; i < count; i++) {
        encoding[i] = field_encoding[slots[i]];
    }
    return host_read_encoded(vcpu, count, encoding, values);
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

__attribute__((noinline)) void host_fence(struct nvmx_vcpu *vcpu, bool to_l2) {
    vcpu->counts.callback[CB_SPECULATION_BARRIER]++;
    vcpu->vm->host.speculation_barrier(vcpu->ctx, to_l2);
}

void *host_page_alloc(struct nvmx_vcpu *vcpu, uint64_t *hpa) {
    vcpu->counts.callback[CB_PAGE_ALLOC]++;
    return vcpu->vm->host.page_alloc(vcpu->vm->ctx, hpa);
}

void host_page_free(struct nvmx_vcpu *vcpu, void *page, uint64_t hpa) {
    vcpu->counts.callback[CB_PAGE_FREE]++;
    vcpu->vm->host.page_free(vcpu->vm->ctx, page, hpa);
}
