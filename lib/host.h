/* SPDX-License-Identifier: MIT */
/*
 * Internal: the host's callbacks, counted. Everything in the library but lib/ept calls them through here. Included by
 * vcpu.h.
 *
 * A host that can't afford an indirect call per access binds those of the hot path at compile time: it builds the
 * library with -DNVMX_HOST_HEADER='"its.h"', which defines static inline functions nvmx_inline_vmcs_read, _vmcs_write,
 * _vmcs_select, _map_page and _unmap_page of the callbacks' signatures. bindings/baremetal/inline.h is one. And
 * nvmx_inline_vmcs_read_fixed and _vmcs_write_fixed, of the same signatures, for fields that the processor has for certain: all have them, or
 * vmcs01's controls use them. They need not look whether an access failed. nvmx_inline_vmcs_read_places has one argument more, `place`, before the last: of
 * such fields the i-th is stored in value[place[i]].
 */
#ifndef NVMX_LIB_HOST_H
#define NVMX_LIB_HOST_H

#ifdef NVMX_HOST_HEADER
#include NVMX_HOST_HEADER
#define CALLBACK(vcpu, name) nvmx_inline_##name
#define CALLBACK_FIXED(vcpu, name) nvmx_inline_##name##_fixed
#else
#define CALLBACK(vcpu, name) (vcpu)->vm->host.name
#define CALLBACK_FIXED(vcpu, name) CALLBACK(vcpu, name)
#endif

/* Order of struct nvmx_host from map_page on. */
enum callback_number {
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
    CB_ACK_INTERRUPT,
    CB_QUEUE_EXCEPTION,
    CB_EPT02_ROOT,
    CB_EPT02_INVALIDATE,
    CB_SPECULATION_BARRIER,
    CB_TRACE,
    CB_TSC,
    CB_DEADLINE,
};

/* Encodings by slot (vmcs/fields.c), for hot paths. */
extern const uint16_t field_encoding[NVMX_FIELD_COUNT];

/* -- real VMCSs
 * --------------------------------------------------------------------------------------------------------------------
 */

static inline __attribute__((always_inline)) enum nvmx_status host_select(struct nvmx_vcpu *vcpu, uint32_t which) {
    if (vcpu->selected == which) {
        return NVMX_OK;
    }
    vcpu->counts.callback[CB_VMCS_SELECT]++;
    enum nvmx_status status = CALLBACK(vcpu, vmcs_select)(vcpu->ctx, which);
    if (status == NVMX_OK) {
        vcpu->selected = which;
    }
    return status;
}

/* Which kind it is the compiler knows then, and with a host bound at compile time need not find out. */
static inline __attribute__((always_inline)) enum nvmx_status host_select_vmcs02(struct nvmx_vcpu *vcpu, uint32_t slot) {
    if (slot >= NVMX_VMCS02_MAX) {
        __builtin_unreachable();
    }
    return host_select(vcpu, NVMX_VMCS02_FIRST + slot);
}
static inline __attribute__((always_inline)) enum nvmx_status host_select_shadow(struct nvmx_vcpu *vcpu, const struct shadow_vmcs *shadow) {
    const uint32_t which = shadow->name;

    if (which != NVMX_VMCS_SHADOW && which - NVMX_VMCS_SHADOWS >= NVMX_VMCS02_MAX) {
        __builtin_unreachable();
    }
    return host_select(vcpu, which);
}

/* Read `count` fields of the selected VMCS by encodings that the caller has ready. */
static inline enum nvmx_status host_read_encoded(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings,
                                                 uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_READ]++;
    vcpu->counts.vmreads += count;
    return CALLBACK(vcpu, vmcs_read)(vcpu->ctx, count, encodings, values);
}

static inline enum nvmx_status host_write_encoded(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings,
                                                  const uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_WRITE]++;
    vcpu->counts.vmwrites += count;
    return CALLBACK(vcpu, vmcs_write)(vcpu->ctx, count, encodings, values);
}

/* The same for fields that the processor has for certain. */
static inline __attribute__((always_inline)) enum nvmx_status
host_read_fixed(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings, uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_READ]++;
    vcpu->counts.vmreads += count;
    return CALLBACK_FIXED(vcpu, vmcs_read)(vcpu->ctx, count, encodings, values);
}

static inline __attribute__((always_inline)) enum nvmx_status
host_write_fixed(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings, const uint64_t *values) {
    vcpu->counts.callback[CB_VMCS_WRITE]++;
    vcpu->counts.vmwrites += count;
    return CALLBACK_FIXED(vcpu, vmcs_write)(vcpu->ctx, count, encodings, values);
}

/* The same, and field i is stored in values[places[i]]. Uses vcpu->scratch.value. Where it fails some may be stored. */
static inline enum nvmx_status host_read_places(struct nvmx_vcpu *vcpu, uint32_t count, const uint32_t *encodings, const uint8_t *places,
                                                uint64_t *values) {
#ifdef NVMX_HOST_HEADER
    vcpu->counts.callback[CB_VMCS_READ]++;
    vcpu->counts.vmreads += count;
    return nvmx_inline_vmcs_read_places(vcpu->ctx, count, encodings, places, values);
#else
    const uint64_t *found = vcpu->scratch.value;
    enum nvmx_status status = host_read_fixed(vcpu, count, encodings, vcpu->scratch.value);

    for (uint32_t i = 0; status == NVMX_OK && i < count; i++) {
        values[places[i]] = found[i];
    }
    return status;
#endif
}

/* Read or write one field. */
static inline enum nvmx_status host_read(struct nvmx_vcpu *vcpu, enum nvmx_field slot, uint64_t *value) {
    uint32_t encoding = field_encoding[slot];

    return host_read_encoded(vcpu, 1, &encoding, value);
}
static inline enum nvmx_status host_write(struct nvmx_vcpu *vcpu, enum nvmx_field slot, uint64_t value) {
    uint32_t encoding = field_encoding[slot];

    return host_write_encoded(vcpu, 1, &encoding, &value);
}

/* Read `count` fields named by slots[] into values[]. */
enum nvmx_status host_read_many(struct nvmx_vcpu *vcpu, uint32_t count, const uint8_t *slots, uint64_t *values);
/* vmcs_reset */
enum nvmx_status host_reset(struct nvmx_vcpu *vcpu, uint32_t which);

/* A batch of fields to write, by slot. */
#define BATCH_MAX 48
struct batch {
    uint32_t count;
    uint32_t encoding[BATCH_MAX];
    uint64_t value[BATCH_MAX];
};

static inline void batch_init(struct batch *batch) {
    batch->count = 0;
}
static inline enum nvmx_status batch_flush(struct nvmx_vcpu *vcpu, struct batch *batch) {
    uint32_t count = batch->count;

    batch->count = 0;
    return count == 0 ? NVMX_OK : host_write_encoded(vcpu, count, batch->encoding, batch->value);
}
/* Add to a batch of writes; when full it is written out. */
static inline enum nvmx_status batch_put(struct nvmx_vcpu *vcpu, struct batch *batch, unsigned int slot,
                                         uint64_t value) {
    enum nvmx_status status = batch->count == BATCH_MAX ? batch_flush(vcpu, batch) : NVMX_OK;

    if (status == NVMX_OK) {
        batch->encoding[batch->count] = field_encoding[slot];
        batch->value[batch->count] = value;
        batch->count++;
    }
    return status;
}

/* -- L1's memory
 * ---------------------------------------------------------------------------------------------------------------------
 */

/* For callers that count several at once. */
static inline void *host_map_uncounted(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    return CALLBACK(vcpu, map_page)(vcpu->ctx, gpa1, access, hpa);
}
static inline void host_unmap_uncounted(struct nvmx_vcpu *vcpu, uint64_t gpa1, void *page, bool dirtied) {
    CALLBACK(vcpu, unmap_page)(vcpu->ctx, gpa1, page, dirtied);
}

static inline void *host_map(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    uint64_t ignored;

    vcpu->counts.callback[CB_MAP_PAGE]++;
    return host_map_uncounted(vcpu, gpa1, access, hpa != NULL ? hpa : &ignored);
}
static inline void host_unmap(struct nvmx_vcpu *vcpu, uint64_t gpa1, void *page, bool dirtied) {
    vcpu->counts.callback[CB_UNMAP_PAGE]++;
    CALLBACK(vcpu, unmap_page)(vcpu->ctx, gpa1, page, dirtied);
}

/* -- all others
 * ----------------------------------------------------------------------------------------------------------------------
 */

void *host_page_alloc(struct nvmx_vcpu *vcpu, uint64_t *hpa);
void host_page_free(struct nvmx_vcpu *vcpu, void *page, uint64_t hpa);
enum nvmx_status host_msr_read(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t *value);
enum nvmx_status host_msr_write(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value);
void host_flush(struct nvmx_vcpu *vcpu, enum nvmx_flush kind, uint64_t value, uint64_t linear);
void host_fence(struct nvmx_vcpu *vcpu, bool to_l2);
/* A host without it pays for no more than looking. */
static inline void host_speculation_barrier(struct nvmx_vcpu *vcpu, bool to_l2) {
    if (RARE(vcpu->vm->host.speculation_barrier != NULL)) {
        host_fence(vcpu, to_l2);
    }
}
/* trace.c: a, b: `reason` and `detail` of the record, but for refused entries b is the entry-check row. */
void trace_record(struct nvmx_vcpu *vcpu, enum nvmx_trace_event event, uint64_t a, uint64_t b);
/* An exit that made no record until now. */
void trace_exit(struct nvmx_vcpu *vcpu, bool from_l2, uint32_t exit_reason, enum nvmx_next next);
static inline void host_trace(struct nvmx_vcpu *vcpu, enum nvmx_trace_event event, uint64_t a, uint64_t b) {
    if (vcpu->traces) {
        trace_record(vcpu, event, a, b);
    }
}

#endif
