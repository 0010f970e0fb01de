/* SPDX-License-Identifier: MIT */
/* Internal to lib/vmcs: one merge in progress. */
#ifndef NVMX_LIB_VMCS_MERGE_H
#define NVMX_LIB_VMCS_MERGE_H

#include "vcpu.h"

/* A merge in progress. Writes are collected while vmcs01 may still be selected, and go out with vmcs02 selected. */
struct merge {
    struct nvmx_vcpu *vcpu;
    struct vmcs12 *v;
    const uint64_t *host; /* vmcs01's controls, by slot */
    bool controls;        /* vmcs02's controls are merged anew */
    bool lone;            /* only those that depend on a few written fields are */
    bool unblocked;       /* vmcs02 does not block NMIs where vmcs12 does */
    uint32_t count;       /* of what is to be written: every field once, PDPTEs and the interruptibility state perhaps twice */
    uint32_t *encoding;
    uint64_t *value;
};

static inline void merge_begin(struct merge *m, struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    m->vcpu = vcpu;
    m->v = v;
    m->host = vcpu->host_control;
    m->controls = false;
    m->lone = false;
    m->unblocked = false;
    m->count = 0;
    m->encoding = vcpu->merge_encoding;
    m->value = vcpu->merge_value;
}

/* vmcs02's field shall be written, whatever it is known to hold. */
static inline void merge_put_always(struct merge *m, unsigned int slot, uint64_t value) {
    m->v->image[slot] = value;
    nvmx_set_add(&m->v->known, slot);
    m->encoding[m->count] = field_encoding[slot];
    m->value[m->count] = value;
    m->count++;
}

/* vmcs01's tertiary controls, 0 if they aren't active. */
static inline uint64_t host_tertiary(const uint64_t *host) {
    return (host[NVMX_F_PRIMARY_CONTROLS] & PROC_TERTIARY) != 0 ? host[NVMX_F_TERTIARY_CONTROLS] : 0;
}

/* vmcs02's field shall hold `value`. Nothing happens if it is known to. */
static inline void merge_put(struct merge *m, unsigned int slot, uint64_t value) {
    if (!nvmx_set_has(&m->v->known, slot) || m->v->image[slot] != value) {
        merge_put_always(m, slot, value);
    }
}

/* Write to the selected vmcs02 what was put. After a failure, here or before, nothing is known of it. */
enum nvmx_status merge_write(struct merge *m, enum nvmx_status status);

/* Bitmaps, APIC pages, EPT root, VPID (merge_pages.c): first, since controls depend on it. */
enum nvmx_status merge_pages(struct merge *m);
/* MSRs that hardware virtualizes for L2: L1 alone decides of them (merge_msrs.c). */
struct bitmap_virtual merge_x2apic_bits(const struct vmcs12 *v);
/* In the merged MSR bitmap those are closed for which merge_keeps_msr. */
void merge_keep_msrs(const struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Nothing of that can have changed since the last entry. */
bool merge_pages_stand(const struct merge *m);
/* What vmcs02 gets for an EPTP12. */
struct merge_roots {
    uint64_t eptp02;
    uint64_t spptp02; /* if spp */
    bool spp;         /* sub-page write permissions are on */
};
/* ... where the library composes. */
enum nvmx_status merge_root_of(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t eptp12,
                               struct merge_roots *roots);
/* VPID02 alone: of a vmcs12 whose VPID was written, and nothing else that it depends on. */
void merge_vpid(struct merge *m);
/* The EPTP alone, and the SPPTP where there is one. */
enum nvmx_status merge_ept_root(struct merge *m);
/* The same of a vmcs12 whose controls did not change, and where v->pages_alone. */
bool merge_pages_ready(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v);
/* Of that what an INVEPT, also of another processor, can change; it is followed up here. L2 has EPT, and the current vmcs12 is asked about. */
bool merge_ept_ready(const struct nvmx_vcpu *vcpu);
/* All control fields (merge_controls.c). */
void merge_controls(struct merge *m);
/* Those of them that say which bitmaps are used. */
void merge_primary_controls(struct merge *m);
/* Those that depend on written fields of vm->lone_controls. */
enum nvmx_status merge_lone_controls(struct merge *m);
/* CR0 and CR4 as L2 reads them, which depends on guest state too. */
void merge_read_shadows(struct merge *m);

#endif
