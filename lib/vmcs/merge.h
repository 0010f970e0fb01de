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

/* Bits of IA32_SPEC_CTRL are the host's by vmcs01's mask (SDM 27.6.2). */
static inline bool host_protects_spec_ctrl(const struct nvmx_vcpu *vcpu) {
    return (host_tertiary(vcpu->host_control) & PROC3_SPEC_CTRL) != 0;
}

/* vmcs02's field shall hold `value`. Nothing happens if it is known to. */
static inline void merge_put(struct merge *m, unsigned int slot, uint64_t value) {
    if (!nvmx_set_has(&m->v->known, slot) || m->v->image[slot] != value) {
        merge_put_always(m, slot, value);
    }
}

/* SDM 29.3.2.1: without "load IA32_EFER" the entry sets LMA, and with paging LME, by "IA-32e mode guest". */
static inline uint64_t inherited_efer(const struct vmcs12 *v, uint64_t efer_of_l1) {
    uint64_t efer = efer_of_l1 & ~EFER_LMA;
    bool ia32e = (v->value[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) != 0;

    if ((v->value[NVMX_F_GUEST_CR0] & CR0_PG) != 0) {
        efer &= ~EFER_LME;
        efer |= ia32e ? EFER_LME : 0;
    }
    return efer | (ia32e ? EFER_LMA : 0);
}

/* L1's value of the field that L2 inherits as its i-th, as an entry loads it. */
static inline uint64_t inherited_value(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t i) {
    return i + 1 == v->inherited_efer ? inherited_efer(v, vcpu->l1_value[i]) : vcpu->l1_value[i];
}

/* vmcs01's control fields into vcpu->host_control; vmcs01 is selected. host_controls_read does more. */
enum nvmx_status merge_read_controls(struct nvmx_vcpu *vcpu);

/* Write to the selected vmcs02 what was put. After a failure, here or before, nothing is known of it. */
enum nvmx_status merge_write(struct merge *m, enum nvmx_status status);

/* Bitmaps, APIC pages, EPT root, VPID (merge_pages.c): first, since controls depend on it. */
enum nvmx_status merge_pages(struct merge *m);
/* Of that the MSR bitmap and the I/O bitmaps, of a vmcs12 whose pages are merged. */
enum nvmx_status merge_bitmaps(struct merge *m);
/* Of that the APIC's (merge_apic.c). *bits: PROC_TPR_SHADOW where vmcs02 has one. */
enum nvmx_status merge_apic_pages(struct merge *m, uint32_t *bits);
/* A page of L1 pinned where `used`, its hpa in vmcs02's field; or one of the library's, zeroed when it is new; and given back. */
enum nvmx_status merge_pin_field(struct merge *m, enum pin_index index, unsigned int slot, bool used, uint32_t access);
enum nvmx_status merge_pin_own(struct merge *m, enum pin_index index, unsigned int slot);
void merge_unpin(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int index);
/* Of merge_pages the intercept bitmaps (merge_bitmaps.c). *bits: primary controls of vmcs02 that use them. */
enum nvmx_status merge_msr_bitmap(struct merge *m, uint32_t *bits);
enum nvmx_status merge_io_bitmaps(struct merge *m, uint32_t *bits);
/* Words of the MSR bitmap follow L1's at each entry; those of a vmcs12 with v->msr_words. False: L1's page can't be had, and the merge has to be a full one. */
static inline bool merge_has_msr_words(const struct vmcs12 *v) {
    return (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MSR_BITMAPS) != 0 && (v->msr_bitmap.hot_count != 0 || v->msr_bitmap.has_virtual);
}
bool merge_msr_words(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
void merge_release_bitmaps(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
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
/* Those of them that say what L2 may do without an exit; but for the pin-based ones, which go with the VM-exit controls, and the masks. */
void merge_intercepts(struct merge *m);
/* Those of them that say which bitmaps are used. */
void merge_primary_controls(struct merge *m);
/* Those that depend on written fields of vm->lone_controls. */
enum nvmx_status merge_lone_controls(struct merge *m);
/* CR0 and CR4 as L2 reads them, which depends on guest state too. */
void merge_read_shadows(struct merge *m);

#endif
