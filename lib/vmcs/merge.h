/* SPDX-License-Identifier: MIT */
/* Internal to lib/vmcs: one merge in progress. */
#ifndef NVMX_LIB_VMCS_MERGE_H
#define NVMX_LIB_VMCS_MERGE_H

#include "vcpu.h"

/* A merge in progress. Writes are collected while vmcs01 may still be selected, and go out with vmcs02 selected. */
struct merge {
    struct nvmx_vcpu *vcpu;
    struct vmcs12 *v;
    const uint64_t *host;       /* vmcs01's controls, by slot */
    struct nvmx_field_set put;  /* slots of v->image to be written */
    uint64_t l1_value[GATE_COUNT]; /* L1's own value of what the host switches */
};

/* vmcs02's field shall hold `value`. Nothing happens if it is known to. */
static inline void merge_put(struct merge *m, unsigned int slot, uint64_t value) {
    if (nvmx_set_has(&m->v->known, slot) && m->v->image[slot] == value) {
        return;
    }
    m->v->image[slot] = value;
    nvmx_set_add(&m->put, slot);
}

/* Bitmaps, APIC pages, EPT root, VPID (merge_pages.c): first, since controls depend on it. */
enum nvmx_status merge_pages(struct merge *m);
/* All control fields (merge_controls.c). */
void merge_controls(struct merge *m);

#endif
