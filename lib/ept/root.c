/* SPDX-License-Identifier: MIT */
/* A composition from its making to its end, and its roots: one for each EPTP12 that was used, kept after its last user
 * went. */
#include "ept.h"

size_t nvmx_ept_size(void) {
    return sizeof(struct nvmx_ept);
}

static bool host_complete(const struct nvmx_host *host) {
    return host->map_page != NULL && host->unmap_page != NULL && host->ept01_lookup != NULL &&
           host->page_alloc != NULL && host->page_free != NULL && host->tlb_flush != NULL;
}

enum nvmx_status nvmx_ept_init(void *memory, size_t bytes, const struct nvmx_host *host, void *vm_ctx,
                               const struct nvmx_ept_config *config, struct nvmx_ept **out) {
    struct nvmx_ept *ept = memory;

    if (memory == NULL || host == NULL || config == NULL || out == NULL || ((uintptr_t)memory & 15) != 0) {
        return NVMX_E_INVALID;
    }
    if (bytes < sizeof(*ept) || config->size != sizeof(*config) || host->size < offsetof(struct nvmx_host, map_page)) {
        return NVMX_E_SIZE;
    }
    memset(ept, 0, sizeof(*ept));
    memcpy(&ept->host, host, host->size < sizeof(*host) ? host->size : sizeof(*host));
    if (!host_complete(&ept->host) || config->l1 == NULL || config->machine == NULL) {
        return NVMX_E_INVALID;
    }
    ept->vm_ctx = vm_ctx;
    ept->l1 = *config->l1;
    ept->machine = *config->machine;
    ept->page_budget = config->page_budget;
    ept->flush_root = EPT_NO_ROOT;
    for (unsigned int i = 0; i < EPT_USERS; i++) {
        ept->user_root[i] = EPT_NO_ROOT;
    }
    *out = ept;
    return NVMX_OK;
}

void nvmx_ept_destroy(struct nvmx_ept *ept, void *vcpu_ctx) {
    for (unsigned int i = 0; i < ept->root_end; i++) {
        if (ept->root[i].top != NULL) {
            ept_root_drop(ept, i);
        }
    }
    ept_settle(ept, vcpu_ctx);
    ept_free_slabs(ept);
}

uint32_t nvmx_ept_pages(const struct nvmx_ept *ept) {
    return ept->pages;
}

/*
 * What tells roots apart: the address, the length of the walk and the modes that change what an entry means. The memory
 * type of L1's tables (bits 2:0) does not; bit 0 stands for mode-based execute control.
 */
uint64_t ept_root_key(uint64_t eptp12, bool mbec) {
    return (eptp12 & (EPT_ADDRESS | 0xf8)) | (mbec ? 1 : 0);
}

struct ept_root *ept_root_find(struct nvmx_ept *ept, uint64_t key) {
    for (unsigned int i = 0; i < ept->root_end; i++) {
        if (ept->root[i].top != NULL && ept->root[i].key == key) {
            return &ept->root[i];
        }
    }
    return NULL;
}

/* A free place for a root. Roots that nobody uses are kept up to a number; the one unused for longest makes room. */
static struct ept_root *root_place(struct nvmx_ept *ept, void *vcpu_ctx) {
    struct ept_root *place = NULL;
    struct ept_root *oldest = NULL;
    unsigned int idle = 0;

    /* The first that was never used comes last. */
    for (unsigned int i = 0; i < EPT_ROOTS && i <= ept->root_end; i++) {
        struct ept_root *root = &ept->root[i];

        if (root->top == NULL) {
            place = place == NULL ? root : place;
        } else if (root->users == 0) {
            idle++;
            oldest = oldest == NULL || root->last_use < oldest->last_use ? root : oldest;
        }
    }
    if (oldest != NULL && (place == NULL || idle >= EPT_ROOTS_IDLE_MAX)) {
        ept_root_drop(ept, ept_root_index(ept, oldest));
        ept_settle(ept, vcpu_ctx);
        place = oldest;
    }
    return place;
}

/* EPTP02 (SDM 27.6.11): ept02's tables are write-back memory where the machine allows; walk length and A/D flags are
 * ept12's. */
static uint64_t make_eptp02(const struct nvmx_ept *ept, uint64_t eptp12, uint64_t top_hpa) {
    bool write_back = (ept->machine.msr[NVMX_CAP_EPT_VPID] >> EPT_CAP_WB & 1) != 0;

    return (top_hpa & EPT_ADDRESS) | (eptp12 & (0x38 | NVMX_EPTP_AD)) | (write_back ? 6 : 0);
}

static struct ept_root *root_new(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t eptp12, bool mbec) {
    struct ept_root *root = root_place(ept, vcpu_ctx);
    struct ept_table *top;

    if (root == NULL) {
        return NULL;
    }
    top = ept_table_new(ept, vcpu_ctx, ept_eptp_levels(eptp12));
    if (top == NULL) {
        return NULL;
    }
    top->gpa1 = eptp12 & EPT_ADDRESS;
    top->root = (uint16_t)ept_root_index(ept, root);
    top->entry12 = EPT_RIGHTS; /* nothing above it takes rights away */
    memset(root, 0, sizeof(*root));
    root->key = ept_root_key(eptp12, mbec);
    root->eptp02 = make_eptp02(ept, eptp12, top->hw_hpa);
    root->top = top;
    ept->root_end = top->root >= ept->root_end ? top->root + 1u : ept->root_end;
    return root;
}

void nvmx_ept_release(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user) {
    (void)vcpu_ctx;
    if (user < EPT_USERS && ept->user_root[user] != EPT_NO_ROOT) {
        struct ept_root *root = &ept->root[ept->user_root[user]];

        root->users--;
        root->last_use = ++ept->stamp;
        ept->user_root[user] = EPT_NO_ROOT;
    }
}

enum nvmx_status nvmx_ept_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12, bool mbec,
                               uint64_t *eptp02) {
    uint64_t key = ept_root_key(eptp12, mbec);
    struct ept_root *root;

    if (user >= EPT_USERS || ept_eptp_levels(eptp12) < 4 || ept_eptp_levels(eptp12) > 5) {
        return NVMX_E_INVALID;
    }
    if (ept->user_root[user] != EPT_NO_ROOT && ept->root[ept->user_root[user]].key == key) {
        *eptp02 = ept->root[ept->user_root[user]].eptp02;
        return NVMX_OK;
    }
    ept->stamp++;
    root = ept_root_find(ept, key);
    if (root == NULL) {
        root = root_new(ept, vcpu_ctx, eptp12, mbec);
        if (root == NULL) {
            return NVMX_E_NO_MEMORY;
        }
    }
    if (root->stale) {
        ept_root_compare(ept, vcpu_ctx, root);
        ept_want_flush(ept, ept_root_index(ept, root));
        ept_settle(ept, vcpu_ctx);
    }
    root->users++;
    nvmx_ept_release(ept, vcpu_ctx, user);
    ept->user_root[user] = (uint16_t)ept_root_index(ept, root);
    *eptp02 = root->eptp02;
    return NVMX_OK;
}
