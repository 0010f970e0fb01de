/* SPDX-License-Identifier: MIT */
/* What vmcs02 uses in memory: pages of L1, the EPT root, and its VPID. Intercept bitmaps: merge_bitmaps.c. */
#include "merge.h"

/* -- pages of L1 used in place
 * ------------------------------------------------------------------------------------------------------ */

/* Of the pages used in place the processor writes only to these. A page that is no memory of L1's is not mapped. */
static bool is_written(unsigned int index) {
    return index == PIN_VIRTUAL_APIC || index == PIN_POSTED_DESCRIPTOR;
}

void merge_unpin(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int index) {
    struct pin *pin = &v->pin[index];

    if (pin->gpa1 != NVMX_NO_ADDRESS && pin->own) {
        host_page_free(vcpu, pin->page, pin->hpa);
    } else if (pin->gpa1 != NVMX_NO_ADDRESS && pin->page != NULL) {
        host_unmap(vcpu, pin->gpa1, pin->page, is_written(index));
    }
    pin->own = false;
    pin->gpa1 = NVMX_NO_ADDRESS;
}

/*
 * The APIC-access page is only a name: it need not be memory (a local APIC's registers are not). Where ept01 leads nowhere no access of L2 does, either: a
 * page that L2 can't reach stands for it, until there is something.
 */
static enum nvmx_status name_page(struct nvmx_vcpu *vcpu, const struct pin *before, struct pin *wanted) {
    struct nvmx_ept01_mapping mapping = {0};

    vcpu->counts.callback[CB_EPT01_LOOKUP]++;
    enum nvmx_status status = vcpu->vm->host.ept01_lookup(vcpu->vm->ctx, wanted->gpa1, &mapping);
    if (status == NVMX_OK) {
        wanted->hpa = mapping.hpa + (wanted->gpa1 - mapping.gpa1);
        return NVMX_OK;
    }
    if (status != NVMX_E_UNMAPPED || vcpu->vm->ept == NULL) { /* of a host that composes nobody hears when there is something */
        return NVMX_E_UNMAPPED;
    }
    if (before->own && before->gpa1 == wanted->gpa1) {
        *wanted = *before;
        return NVMX_OK;
    }
    wanted->page = host_page_alloc(vcpu, &wanted->hpa);
    wanted->own = wanted->page != NULL;
    return wanted->own ? NVMX_OK : NVMX_E_NO_MEMORY;
}

static enum nvmx_status repin(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int index, uint64_t gpa1, uint32_t access) {
    const struct pin *before = &v->pin[index];
    struct pin wanted = {.gpa1 = gpa1};
    enum nvmx_status status = NVMX_OK;

    if (before->gpa1 == gpa1 && !before->own) {
        return NVMX_OK;
    }
    wanted.page = host_map(vcpu, gpa1, access, &wanted.hpa);
    if (wanted.page == NULL) {
        status = index == PIN_APIC_ACCESS ? name_page(vcpu, before, &wanted) : NVMX_E_UNMAPPED;
    }
    if (status == NVMX_OK && !(before->own && wanted.page == before->page)) {
        merge_unpin(vcpu, v, index);
        v->pin[index] = wanted;
    }
    return status;
}

enum nvmx_status merge_pin_field(struct merge *m, enum pin_index index, unsigned int slot, bool used, uint32_t access) {
    if (!used) {
        merge_unpin(m->vcpu, m->v, index);
        return NVMX_OK;
    }
    uint64_t offset = m->v->value[slot] % NVMX_PAGE_SIZE; /* of a posted-interrupt descriptor; else 0 */
    enum nvmx_status status = repin(m->vcpu, m->v, index, m->v->value[slot] - offset, access);
    if (status == NVMX_OK) {
        merge_put(m, slot, m->v->pin[index].hpa + offset);
    }
    return status;
}

/* Of L1's memory it has no place. */
enum nvmx_status merge_pin_own(struct merge *m, enum pin_index index, unsigned int slot) {
    struct pin *pin = &m->v->pin[index];
    struct pin own = {.gpa1 = 0, .own = true};

    if (pin->gpa1 == NVMX_NO_ADDRESS || !pin->own) {
        own.page = host_page_alloc(m->vcpu, &own.hpa);
        if (own.page == NULL) {
            return NVMX_E_NO_MEMORY;
        }
        merge_unpin(m->vcpu, m->v, index);
        *pin = own;
    }
    merge_put(m, slot, pin->hpa);
    return NVMX_OK;
}

/* -- EPT and VPID
 * ----------------------------------------------------------------------------------------------------------------------
 */

static unsigned int ept_user(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return vcpu->id * NVMX_VMCS02_MAX + (unsigned int)(v - vcpu->vmcs12);
}

enum nvmx_status merge_root_of(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t eptp12, struct merge_roots *roots) {
    uint32_t secondary = secondary_controls(v);
    bool mbec = (secondary & PROC2_MBEC) != 0;

    roots->spp = (secondary & PROC2_SPP) != 0;
    if (RARE(roots->spp)) {
        return nvmx_ept_root_spp(vcpu->vm->ept, vcpu->ctx, ept_user(vcpu, v), eptp12, mbec,
                                 v->value[NVMX_F_SPP_TABLE_POINTER], &roots->eptp02, &roots->spptp02);
    }
    return nvmx_ept_root(vcpu->vm->ept, vcpu->ctx, ept_user(vcpu, v), eptp12, mbec, &roots->eptp02);
}

/* L2's physical addresses are L1's: what protects L1's pages protects L2's. */
static struct merge_roots roots_of_host(const struct merge *m) {
    bool active = (m->host[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0;

    return (struct merge_roots){
        .eptp02 = m->host[NVMX_F_EPT_POINTER],
        .spptp02 = m->host[NVMX_F_SPP_TABLE_POINTER],
        .spp = active && (m->host[NVMX_F_SECONDARY_CONTROLS] & PROC2_SPP) != 0,
    };
}

enum nvmx_status merge_ept_root(struct merge *m) {
    struct nvmx_vcpu *vcpu = m->vcpu;
    uint32_t secondary = secondary_controls(m->v);
    bool l1_ept = (secondary & PROC2_EPT) != 0;
    uint64_t eptp12 = l1_ept ? m->v->value[NVMX_F_EPT_POINTER] : NVMX_NO_ADDRESS;
    struct merge_roots roots = {.spp = false};
    enum nvmx_status status = NVMX_OK;

    if (vcpu->vm->host.ept02_root != NULL) {
        vcpu->counts.callback[CB_EPT02_ROOT]++;
        status = vcpu->vm->host.ept02_root(vcpu->ctx, eptp12, &roots.eptp02);
    } else if (l1_ept) {
        status = merge_root_of(vcpu, m->v, eptp12, &roots);
    } else {
        nvmx_ept_release(vcpu->vm->ept, vcpu->ctx, ept_user(vcpu, m->v));
        roots = roots_of_host(m);
    }
    if (status == NVMX_OK) {
        merge_put(m, NVMX_F_EPT_POINTER, roots.eptp02);
        if (roots.spp) {
            merge_put(m, NVMX_F_SPP_TABLE_POINTER, roots.spptp02);
        }
    }
    return status;
}

/* Who had it needs another at the next entry. */
static void vpid02_taken(struct nvmx_vcpu *vcpu, uint16_t vpid02) {
    for (unsigned int i = 0; i < vcpu->vmcs02_slots; i++) {
        if (vcpu->vmcs12[i].vpid02 == vpid02) {
            vcpu->vmcs12[i].plain = false;
        }
    }
}

/*
 * VPID02s are given to VPID12s as they come. The first serves a vmcs12 without VPIDs, whose transitions flush
 * (SDM 31.4.3.1); when all are taken the next in turn is taken over and flushed.
 */
static uint16_t vpid_for(struct nvmx_vcpu *vcpu, uint16_t vpid12) {
    uint16_t index = 0;

    if (vpid12 != 0 && vcpu->vpid02_count > 1) {
        for (uint16_t i = 1; i < vcpu->vpid02_count; i++) {
            if (vcpu->vpid12_of[i] == vpid12) {
                return (uint16_t)(vcpu->vpid02_first + i);
            }
        }
        index = (uint16_t)(1 + vcpu->vpid02_next % (vcpu->vpid02_count - 1));
        vcpu->vpid02_next++;
        vcpu->vpid12_of[index] = vpid12;
        vpid02_taken(vcpu, (uint16_t)(vcpu->vpid02_first + index));
    }
    uint16_t vpid02 = (uint16_t)(vcpu->vpid02_first + index);
    host_flush(vcpu, NVMX_FLUSH_VPID, vpid02, 0);
    return vpid02;
}

void merge_vpid(struct merge *m) {
    struct nvmx_vcpu *vcpu = m->vcpu;
    bool l1_vpid = (secondary_controls(m->v) & PROC2_VPID) != 0;

    if (vcpu->vpid02_count == 0) {
        m->v->vpid02 = 0;
        return;
    }
    m->v->vpid02 = vpid_for(vcpu, l1_vpid ? (uint16_t)m->v->value[NVMX_F_VPID] : 0);
    merge_put(m, NVMX_F_VPID, m->v->vpid02);
}

/* -- the whole
 * ----------------------------------------------------------------------------------------------------------------------------
 */

/* VPID12 still has the VPID02 that it got, and needs no flush. */
static inline bool vpid_stands(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    bool l1_vpid = (secondary_controls(v) & PROC2_VPID) != 0;

    if (vcpu->vpid02_count == 0) {
        return true;
    }
    return l1_vpid && v->vpid02 > vcpu->vpid02_first &&
           vcpu->vpid12_of[(v->vpid02 - vcpu->vpid02_first) & 15] == v->value[NVMX_F_VPID];
}

/* Nothing changed since the last entry of this vmcs12 but perhaps the contents of L1's MSR bitmap. */
static bool but_for_msrs(const struct merge *m) {
    const struct vmcs12 *v = m->v;

    return !m->controls && v->pages_merged && !v->pin[PIN_APIC_ACCESS].own && v->io_bitmap[0].hot_count == 0 &&
           v->io_bitmap[1].hot_count == 0 && m->vcpu->vm->host.ept02_root == NULL && vpid_stands(m->vcpu, v);
}

/* No INVEPT waits to be followed up. */
static inline bool ept_stands(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    const struct nvmx_ept *ept = vcpu->vm->ept;

    return ept == NULL || (secondary_controls(v) & PROC2_EPT) == 0 || nvmx_ept_ready(ept, ept_user(vcpu, v));
}

bool merge_pages_ready(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return vpid_stands(vcpu, v) && ept_stands(vcpu, v);
}

static bool holds(const struct vmcs12 *v, unsigned int slot, uint64_t value) {
    return nvmx_set_has(&v->known, slot) && v->image[slot] == value;
}

/* L1 has executed INVEPT: ept02 is compared with ept12 here, and its root stays what it is. */
static COLD bool root_made_ready(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    struct merge_roots roots;

    return (secondary_controls(v) & PROC2_EPT) != 0 &&
           merge_root_of(vcpu, v, v->value[NVMX_F_EPT_POINTER], &roots) == NVMX_OK &&
           holds(v, NVMX_F_EPT_POINTER, roots.eptp02) &&
           (!roots.spp || holds(v, NVMX_F_SPP_TABLE_POINTER, roots.spptp02));
}

bool merge_ept_ready(const struct nvmx_vcpu *vcpu) {
    const struct nvmx_ept *ept = vcpu->vm->ept;

    return ept == NULL || nvmx_ept_ready(ept, vcpu->id * NVMX_VMCS02_MAX + (unsigned int)vcpu->current) ||
           root_made_ready(vcpu, &vcpu->vmcs12[vcpu->current]);
}

bool merge_pages_stand(const struct merge *m) {
    return !m->controls && m->v->pages_alone && !m->v->msr_words && merge_pages_ready(m->vcpu, m->v);
}

/*
 * What vmcs01 protects of IA32_SPEC_CTRL a load from vmcs12 would overwrite. And of the MSR-list instructions L1's protection of it could only be kept by
 * carrying out a list's entry here.
 */
static enum nvmx_status spec_ctrl(const struct merge *m) {
    bool loads = (m->v->value[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_SPEC_CTRL) != 0 ||
                 ((exit_controls(m->v) >> 32) & EXIT2_SPEC_CTRL) != 0;
    uint64_t host = host_tertiary(m->host);
    uint64_t l1 = tertiary_controls(m->v);
    bool lists = (l1 & host & PROC3_MSR_LIST) != 0 && (l1 & PROC3_SPEC_CTRL) != 0;

    return (loads && host_protects_spec_ctrl(m->vcpu)) || lists ? NVMX_E_UNSUPPORTED : NVMX_OK;
}

static enum nvmx_status all_pages(struct merge *m, uint32_t *bits) {
    enum nvmx_status status = spec_ctrl(m);

    if (status == NVMX_OK) {
        status = merge_apic_pages(m, bits);
    }
    if (status == NVMX_OK) {
        status = merge_msr_bitmap(m, bits);
    }
    if (status == NVMX_OK) {
        status = merge_io_bitmaps(m, bits);
    }
    if (status == NVMX_OK) {
        status = merge_ept_root(m);
    }
    if (status == NVMX_OK) {
        merge_vpid(m);
    }
    return status;
}

enum nvmx_status merge_pages(struct merge *m) {
    struct vmcs12 *v = m->v;
    uint32_t bits = 0;
    enum nvmx_status status = NVMX_OK;

    if (!but_for_msrs(m)) {
        status = all_pages(m, &bits);
    } else {
        status = ept_stands(m->vcpu, v) ? NVMX_OK : merge_ept_root(m);
        if (status == NVMX_OK && !merge_has_msr_words(v)) {
            return NVMX_OK;
        }
        bits = v->bitmap_bits & ~PROC_MSR_BITMAPS;
        status = status == NVMX_OK ? merge_msr_bitmap(m, &bits) : status;
    }
    v->pages_merged = status == NVMX_OK;
    v->msr_words = merge_has_msr_words(v) && (bits & PROC_MSR_BITMAPS) != 0;
    v->pages_alone = v->pages_merged && v->io_bitmap[0].hot_count == 0 && v->io_bitmap[1].hot_count == 0 &&
                     merge_has_msr_words(v) == v->msr_words && m->vcpu->vm->host.ept02_root == NULL && !v->pin[PIN_APIC_ACCESS].own;
    v->plain = v->plain && v->pages_alone;
    if (status == NVMX_OK) {
        v->bitmap_bits = bits;
    }
    return status;
}

void merge_release_pins(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint64_t all = UINT64_MAX;

    for (unsigned int i = 0; i < PIN_COUNT; i++) {
        all &= v->pin[i].gpa1;
    }
    if (all == NVMX_NO_ADDRESS) { /* all ones: each of them is */
        return;
    }
    for (unsigned int i = 0; i < PIN_COUNT; i++) {
        if (v->pin[i].gpa1 != NVMX_NO_ADDRESS) {
            merge_unpin(vcpu, v, i);
            v->pages_merged = v->pages_alone = v->plain = false;
        }
    }
}

void merge_release(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    merge_release_pins(vcpu, v);
    merge_release_bitmaps(vcpu, v);
    if (vcpu->vm->ept != NULL) {
        nvmx_ept_release(vcpu->vm->ept, vcpu->ctx, ept_user(vcpu, v));
    }
}

/* -- memory of L1 changed
 * ---------------------------------------------------------------------------------------------------------------------
 */

void merge_release_range(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes, bool only_written) {
    for (unsigned int i = 0; i < vcpu->vmcs02_slots; i++) {
        struct vmcs12 *v = &vcpu->vmcs12[i];

        for (unsigned int p = 0; p < PIN_COUNT; p++) {
            uint64_t pinned = v->pin[p].gpa1;
            bool apart = pinned >= gpa1 ? pinned - gpa1 >= bytes : gpa1 - pinned >= NVMX_PAGE_SIZE;

            if (pinned != NVMX_NO_ADDRESS && !apart && (!only_written || is_written(p))) {
                merge_unpin(vcpu, v, p);
                v->pages_merged = v->pages_alone = v->plain = false;
                vcpu->pages_changed = true;
            }
        }
    }
}

/* Where L2 has its APIC-access page, and L1 had nothing, vmcs02 has to name what the host puts there now. */
void merge_fault_of_host(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1) {
    const struct pin *pin = &v->pin[PIN_APIC_ACCESS];

    vcpu->host_fault_gpa1 = gpa1;
    if (RARE(pin->own) && (gpa1 ^ pin->gpa1) < NVMX_PAGE_SIZE) {
        v->pages_merged = v->pages_alone = v->plain = false;
        vcpu->pages_changed = true;
    }
}

enum nvmx_status merge_pages_again(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct merge m;
    uint32_t bits_before = v->bitmap_bits;

    merge_begin(&m, vcpu, v);
    enum nvmx_status status = merge_pages(&m);
    if (status == NVMX_OK && bits_before != v->bitmap_bits) {
        merge_primary_controls(&m); /* alone: of the others, L2's mode may have changed some since */
    }
    return merge_write(&m, status);
}

/* SDM 28.5.7.3: without VPIDs EPTP switching drops the combined mappings of VPID 0, which is L2's here. */
enum nvmx_status merge_switch_ept(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct merge m;

    merge_begin(&m, vcpu, v);
    enum nvmx_status status = merge_write(&m, merge_ept_root(&m));
    if (status == NVMX_OK && v->vpid02 != 0 && (secondary_controls(v) & PROC2_VPID) == 0) {
        host_flush(vcpu, NVMX_FLUSH_VPID, v->vpid02, 0);
    }
    return status;
}
