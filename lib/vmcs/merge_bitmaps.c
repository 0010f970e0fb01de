/* SPDX-License-Identifier: MIT */
/* vmcs02's intercept bitmaps: of L1's and the host's (msr/bitmap.h), or one of the two in place. */
#include "merge.h"

static enum nvmx_status overlay_page(struct nvmx_vcpu *vcpu, struct bitmap_overlay *overlay) {
    uint64_t hpa;
    void *page;

    if (overlay->page != NULL) {
        return NVMX_OK;
    }
    page = host_page_alloc(vcpu, &hpa);
    if (page == NULL) {
        return NVMX_E_NO_MEMORY;
    }
    bitmap_init(overlay, page, hpa);
    return NVMX_OK;
}

static void overlay_free(struct nvmx_vcpu *vcpu, struct bitmap_overlay *overlay) {
    if (overlay->page != NULL) {
        host_page_free(vcpu, overlay->page, overlay->hpa);
        overlay->page = NULL;
    }
}

void merge_release_bitmaps(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    overlay_free(vcpu, &v->msr_bitmap);
    overlay_free(vcpu, &v->io_bitmap[0]);
    overlay_free(vcpu, &v->io_bitmap[1]);
}

/*
 * Merge L1's bitmap at gpa1 with the host's. `virtual_bits`: as for bitmap_merge_virtual, or NULL. *exits_all: L1's
 * page has no memory behind it, whose bits then read as 1.
 */
static enum nvmx_status overlay_merge(struct nvmx_vcpu *vcpu, struct bitmap_overlay *overlay, uint64_t gpa1, const uint64_t *host,
                                      const struct bitmap_virtual *virtual_bits, bool *exits_all) {
    enum nvmx_status status = overlay_page(vcpu, overlay);

    *exits_all = false;
    if (status != NVMX_OK || (overlay->hot_count == 0 && virtual_bits == NULL)) {
        return status;
    }
    void *l1 = host_map(vcpu, gpa1, NVMX_ACCESS_READ, NULL);
    if (l1 == NULL) {
        *exits_all = true;
        return NVMX_OK;
    }
    if (virtual_bits != NULL) {
        bitmap_merge_virtual(overlay, l1, host, virtual_bits);
    } else {
        bitmap_merge(overlay, l1, host);
    }
    host_unmap(vcpu, gpa1, l1, false);
    return NVMX_OK;
}

static const uint64_t *msrs_of_host(const struct nvmx_vcpu *vcpu) {
    return (vcpu->host_control[NVMX_F_PRIMARY_CONTROLS] & PROC_MSR_BITMAPS) != 0 ? vcpu->host_msr_bitmap : NULL;
}

static COLD enum nvmx_status overlay_merge_virtual(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool *exits_all) {
    const struct bitmap_virtual virtual_bits = merge_x2apic_bits(v);

    return overlay_merge(vcpu, &v->msr_bitmap, v->value[NVMX_F_MSR_BITMAP_ADDRESS], msrs_of_host(vcpu), &virtual_bits, exits_all);
}

static inline enum nvmx_status merge_msr_overlay(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool *exits_all) {
    if (RARE((secondary_controls(v) & PROC2_X2APIC) != 0 || v->msr_bitmap.has_virtual)) {
        return overlay_merge_virtual(vcpu, v, exits_all);
    }
    return overlay_merge(vcpu, &v->msr_bitmap, v->value[NVMX_F_MSR_BITMAP_ADDRESS], msrs_of_host(vcpu), NULL, exits_all);
}

/* MSR bitmaps are used only if both L1 and the host use them: whoever has none intercepts every access that is its to intercept. */
enum nvmx_status merge_msr_bitmap(struct merge *m, uint32_t *bits) {
    bool l1_uses = (m->v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MSR_BITMAPS) != 0;
    bool x2apic = (secondary_controls(m->v) & PROC2_X2APIC) != 0;
    bool exits_all;

    if (!l1_uses || (msrs_of_host(m->vcpu) == NULL && !x2apic)) {
        return NVMX_OK;
    }
    enum nvmx_status status = merge_msr_overlay(m->vcpu, m->v, &exits_all);
    if (status == NVMX_OK && !exits_all) {
        merge_keep_msrs(m->vcpu, m->v);
        *bits |= PROC_MSR_BITMAPS;
        merge_put(m, NVMX_F_MSR_BITMAP_ADDRESS, m->v->msr_bitmap.hpa);
    }
    return status;
}

bool merge_msr_words(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    bool exits_all;

    if (merge_msr_overlay(vcpu, v, &exits_all) != NVMX_OK || exits_all) {
        return false;
    }
    if (v->keeps_msrs) {
        merge_keep_msrs(vcpu, v);
    }
    return true;
}

/* The host's bitmap, if it uses it. */
static const uint64_t *ports_of_host(const struct nvmx_vcpu *vcpu, unsigned int which) {
    return (vcpu->host_control[NVMX_F_PRIMARY_CONTROLS] & PROC_IO_BITMAPS) != 0 ? vcpu->host_io_bitmap[which] : NULL;
}

static enum nvmx_status io_merged(struct merge *m, uint32_t *bits) {
    for (unsigned int i = 0; i < 2; i++) {
        struct bitmap_overlay *overlay = &m->v->io_bitmap[i];
        bool exits_all;
        enum nvmx_status status = overlay_merge(m->vcpu, overlay, m->v->value[NVMX_F_IO_BITMAP_A_ADDRESS + i],
                                                ports_of_host(m->vcpu, i), NULL, &exits_all);

        if (status != NVMX_OK) {
            return status;
        }
        if (exits_all) {
            bitmap_init(overlay, overlay->page, overlay->hpa);
        }
        merge_put(m, NVMX_F_IO_BITMAP_A_ADDRESS + i, overlay->hpa);
    }
    *bits |= PROC_IO_BITMAPS;
    return NVMX_OK;
}

/* The host intercepts no port: L1's pages serve as they are. Where one has no memory, so that its ports exit, the other's still don't have to. */
static enum nvmx_status io_in_place(struct merge *m, uint32_t *bits) {
    for (unsigned int i = 0; i < 2; i++) {
        enum nvmx_status status = merge_pin_field(m, PIN_IO_A + i, NVMX_F_IO_BITMAP_A_ADDRESS + i, true, NVMX_ACCESS_READ);

        if (status == NVMX_E_UNMAPPED) {
            merge_unpin(m->vcpu, m->v, PIN_IO_A);
            merge_unpin(m->vcpu, m->v, PIN_IO_B);
            status = io_merged(m, bits);
            *bits |= status == NVMX_OK ? 0 : PROC_UNCONDITIONAL_IO;
            return NVMX_OK;
        }
        if (status != NVMX_OK) {
            return status;
        }
    }
    *bits |= PROC_IO_BITMAPS;
    return NVMX_OK;
}

static void io_of_host(struct merge *m, uint32_t *bits) {
    *bits |= PROC_IO_BITMAPS;
    merge_put(m, NVMX_F_IO_BITMAP_A_ADDRESS, m->host[NVMX_F_IO_BITMAP_A_ADDRESS]);
    merge_put(m, NVMX_F_IO_BITMAP_B_ADDRESS, m->host[NVMX_F_IO_BITMAP_B_ADDRESS]);
}

enum nvmx_status merge_io_bitmaps(struct merge *m, uint32_t *bits) {
    uint64_t l1 = m->v->value[NVMX_F_PRIMARY_CONTROLS];
    uint64_t host = m->host[NVMX_F_PRIMARY_CONTROLS];
    bool l1_bitmaps = (l1 & PROC_IO_BITMAPS) != 0;
    bool l1_all = !l1_bitmaps && (l1 & PROC_UNCONDITIONAL_IO) != 0;
    bool host_bitmaps = (host & PROC_IO_BITMAPS) != 0;
    bool host_readable = m->vcpu->host_io_bitmap[0] != NULL && m->vcpu->host_io_bitmap[1] != NULL;
    bool host_all = (!host_bitmaps && (host & PROC_UNCONDITIONAL_IO) != 0);

    if (!l1_bitmaps || host_bitmaps || host_all) {
        merge_unpin(m->vcpu, m->v, PIN_IO_A);
        merge_unpin(m->vcpu, m->v, PIN_IO_B);
    }
    if (l1_all || host_all || (l1_bitmaps && host_bitmaps && !host_readable)) {
        *bits |= PROC_UNCONDITIONAL_IO;
        return NVMX_OK;
    }
    if (l1_bitmaps) {
        return host_bitmaps ? io_merged(m, bits) : io_in_place(m, bits);
    }
    if (host_bitmaps) {
        io_of_host(m, bits);
    }
    return NVMX_OK;
}

enum nvmx_status merge_bitmaps(struct merge *m) {
    uint32_t bits = m->v->bitmap_bits & PROC_TPR_SHADOW;
    enum nvmx_status status = merge_msr_bitmap(m, &bits);

    if (status == NVMX_OK) {
        status = merge_io_bitmaps(m, &bits);
    }
    m->v->bitmap_bits = status == NVMX_OK ? bits : m->v->bitmap_bits;
    return status;
}

/* An overlay's word is merged at once, so that the access goes through when L2 repeats it. */
static enum nvmx_status heat(struct nvmx_vcpu *vcpu, struct bitmap_overlay *overlay, uint64_t gpa1,
                             const uint64_t *host, const struct bitmap_virtual *virtual_bits, uint32_t bit) {
    bool exits_all;

    bitmap_heat(overlay, bit);
    return overlay_merge(vcpu, overlay, gpa1, host, virtual_bits, &exits_all);
}

enum nvmx_status merge_heat_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t bit) {
    struct bitmap_virtual virtual_bits = merge_x2apic_bits(v);

    v->msr_words = true;
    v->plain = false;
    enum nvmx_status status = heat(vcpu, &v->msr_bitmap, v->value[NVMX_F_MSR_BITMAP_ADDRESS], vcpu->host_msr_bitmap,
                                   v->msr_bitmap.has_virtual ? &virtual_bits : NULL, bit);

    if (status == NVMX_OK) {
        merge_keep_msrs(vcpu, v);
    }
    return status;
}

enum nvmx_status merge_heat_io(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int which, uint32_t bit) {
    v->pages_alone = v->plain = false;
    return heat(vcpu, &v->io_bitmap[which], v->value[NVMX_F_IO_BITMAP_A_ADDRESS + which], ports_of_host(vcpu, which), NULL, bit);
}
