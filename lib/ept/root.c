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
    ept->large_2m = (ept->l1.msr[NVMX_CAP_EPT_VPID] & ept->machine.msr[NVMX_CAP_EPT_VPID] & UINT64_C(1) << EPT_CAP_2M) != 0;
    ept->page_budget = config->page_budget;
    for (unsigned int i = 0; i < EPT_USERS; i++) {
        ept->user_root[i] = EPT_NO_ROOT;
    }
    *out = ept;
    return NVMX_OK;
}

void nvmx_ept_destroy(struct nvmx_ept *ept, void *vcpu_ctx) {
    struct ept_op op;

    ept_begin(&op, ept, vcpu_ctx, NULL);
    for (unsigned int i = 0; i < ept->root_end; i++) {
        if (ept->root[i].top != NULL) {
            op.flush = EPT_FLUSH_ALL;
            ept_discard(&op, ept->root[i].top);
            ept->root[i].top = NULL;
            ept->root[i].key = 0;
        }
    }
    ept_end(&op);
    ept_free_slabs(ept);
}

uint32_t nvmx_ept_pages(const struct nvmx_ept *ept) {
    return __atomic_load_n(&ept->pages, __ATOMIC_RELAXED);
}

/*
 * What tells roots apart: the address, the length of the walk and the modes that change what an entry means. The memory
 * type of L1's tables (bits 2:0) does not; bit 0 stands for mode-based execute control. Never 0, for the length is not.
 */
uint64_t ept_root_key(uint64_t eptp12, bool mbec) {
    return (eptp12 & (EPT_ADDRESS | 0xf8)) | (mbec ? 1 : 0);
}

struct ept_root *ept_root_find(struct nvmx_ept *ept, uint64_t key) {
    uint32_t end = __atomic_load_n(&ept->root_end, __ATOMIC_SEQ_CST);

    for (uint32_t i = 0; i < end; i++) {
        if (__atomic_load_n(&ept->root[i].key, __ATOMIC_SEQ_CST) == key) {
            return &ept->root[i];
        }
    }
    return NULL;
}

/* Under the lock: the root goes, its top table becomes the caller's. */
static struct ept_table *take_top(struct ept_root *root) {
    struct ept_table *top = root->top;

    __atomic_store_n(&root->key, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->top, NULL, __ATOMIC_SEQ_CST);
    return top;
}

struct ept_table *ept_root_retire(struct nvmx_ept *ept, uint64_t keep) {
    struct ept_root *oldest = NULL;

    for (unsigned int i = 0; i < ept->root_end; i++) {
        struct ept_root *root = &ept->root[i];

        if (root->top != NULL && root->users == 0 && ept_peek(&root->top->stamp) != keep &&
            (oldest == NULL || root->last_use < oldest->last_use)) {
            oldest = root;
        }
    }
    return oldest != NULL ? take_top(oldest) : NULL;
}

/*
 * Under the lock: a free place for a root, or NULL. Roots that nobody uses are kept up to a number; the one unused for longest makes
 * room, and its top table goes to *retired.
 */
static struct ept_root *root_place(struct nvmx_ept *ept, struct ept_table **retired) {
    struct ept_root *place = NULL;
    unsigned int idle = 0;

    *retired = NULL;
    for (unsigned int i = 0; i < ept->root_end; i++) {
        idle += ept->root[i].top != NULL && ept->root[i].users == 0;
    }
    if (idle >= EPT_ROOTS_IDLE_MAX) {
        *retired = ept_root_retire(ept, UINT64_MAX);
    }
    /* The first that was never used comes last. */
    for (unsigned int i = 0; i < EPT_ROOTS && i <= ept->root_end && place == NULL; i++) {
        place = ept->root[i].top == NULL ? &ept->root[i] : NULL;
    }
    return place;
}

/* EPTP02 (SDM 27.6.11): ept02's tables are write-back memory where the machine allows; walk length, A/D flags and
 * shadow-stack control are ept12's. */
static uint64_t make_eptp02(const struct nvmx_ept *ept, uint64_t eptp12, uint64_t top_hpa) {
    bool write_back = (ept->machine.msr[NVMX_CAP_EPT_VPID] >> EPT_CAP_WB & 1) != 0;

    return (top_hpa & EPT_ADDRESS) | (eptp12 & (0x38 | NVMX_EPTP_AD | EPTP_SHADOW_STACK)) | (write_back ? 6 : 0);
}

/* Under the lock: make the root of `top`, which is used once. NULL: no place. */
static struct ept_root *root_install(struct nvmx_ept *ept, uint64_t eptp12, bool mbec, struct ept_table *top,
                                     struct ept_table **retired) {
    struct ept_root *root = root_place(ept, retired);

    if (root == NULL) {
        return NULL;
    }
    top->level = (uint8_t)ept_eptp_levels(eptp12);
    top->gpa1 = eptp12 & EPT_ADDRESS;
    ept_poke(&top->entry12, EPT_RIGHTS); /* nothing above it takes rights away */
    __atomic_store_n(&top->state, EPT_TABLE_ROOT, __ATOMIC_RELAXED);
    __atomic_store_n(&root->eptp02, make_eptp02(ept, eptp12, top->hw_hpa), __ATOMIC_RELAXED);
    ept_short_init(&root->plain, &ept->l1, eptp12, mbec);
    root->users = 0;
    root->stands = 0;
    ept_poke(&root->validated, __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST)); /* it is empty */
    __atomic_store_n(&root->top, top, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->key, ept_root_key(eptp12, mbec), __ATOMIC_SEQ_CST);
    if (root == &ept->root[ept->root_end]) {
        __atomic_store_n(&ept->root_end, ept->root_end + 1, __ATOMIC_SEQ_CST);
    }
    return root;
}

/* Other processors may take the room that was made. */
#define TOP_ATTEMPTS 64u

static struct ept_table *new_top(struct nvmx_ept *ept, void *vcpu_ctx) {
    unsigned int refusals = 0;
    struct ept_table *top = ept_table_new(ept);

    for (unsigned int attempt = 0; top == NULL && attempt < TOP_ATTEMPTS; attempt++) {
        bool others = ept_others_at_work(ept, 0);

        if ((ept_host_refused(ept) && ++refusals == 3) || (!ept_make_room(ept, vcpu_ctx, UINT64_MAX) && !others)) {
            break;
        }
        top = ept_table_new(ept);
    }
    return top;
}

/* A root with one user more, that was not there when the caller looked. NULL: no memory. */
static struct ept_root *root_new(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t eptp12, bool mbec) {
    struct ept_table *top = new_top(ept, vcpu_ctx);
    struct ept_table *retired = NULL;
    struct ept_root *root;
    struct ept_op op;

    if (top == NULL) {
        return NULL;
    }
    ept_begin(&op, ept, vcpu_ctx, NULL);
    ept_lock(ept);
    root = ept_root_find(ept, ept_root_key(eptp12, mbec));
    if (root == NULL) {
        root = root_install(ept, eptp12, mbec, top, &retired);
        top = root != NULL ? NULL : top;
    }
    if (root != NULL) {
        root->users++;
    }
    ept_unlock(ept);
    if (retired != NULL) {
        ept_announce(&op);
        op.flush = EPT_FLUSH_ALL;
        ept_discard(&op, retired);
    }
    ept_end(&op);
    if (top != NULL) {
        ept_table_free(ept, top); /* another processor was first, or there is no place */
    }
    return root;
}

/* Under the lock: user has one root less. */
static void put(struct nvmx_ept *ept, unsigned int user) {
    if (ept->user_root[user] != EPT_NO_ROOT) {
        struct ept_root *root = &ept->root[ept->user_root[user]];

        root->users--;
        root->last_use = __atomic_add_fetch(&ept->clock, 1, __ATOMIC_RELAXED);
        ept->user_root[user] = EPT_NO_ROOT;
    }
}

void nvmx_ept_release(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user) {
    (void)vcpu_ctx;
    if (user < EPT_USERS && ept->user_root[user] != EPT_NO_ROOT) {
        ept_lock(ept);
        put(ept, user);
        ept_unlock(ept);
    }
}

static bool is_valid(const struct ept_root *root) {
    return __atomic_load_n(&root->validated, __ATOMIC_ACQUIRE) == __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST);
}

bool nvmx_ept_ready(const struct nvmx_ept *ept, unsigned int user) {
    return user < EPT_USERS && ept->user_root[user] != EPT_NO_ROOT && is_valid(&ept->root[ept->user_root[user]]);
}

/* The user's root is now the one with this key. NULL: no memory, and nothing changed. */
static struct ept_root *change_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12, bool mbec) {
    struct ept_root *root;

    ept_lock(ept);
    root = ept_root_find(ept, ept_root_key(eptp12, mbec));
    if (root != NULL) {
        root->users++;
    } else {
        ept_unlock(ept);
        root = root_new(ept, vcpu_ctx, eptp12, mbec);
        if (root == NULL) {
            return NULL;
        }
        ept_lock(ept);
    }
    put(ept, user);
    ept->user_root[user] = (uint16_t)(root - ept->root);
    ept_unlock(ept);
    return root;
}

enum nvmx_status nvmx_ept_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12, bool mbec,
                               uint64_t *eptp02) {
    struct ept_root *root;

    if (user >= EPT_USERS || ept_eptp_levels(eptp12) < 4 || ept_eptp_levels(eptp12) > 5) {
        return NVMX_E_INVALID;
    }
    root = ept->user_root[user] != EPT_NO_ROOT ? &ept->root[ept->user_root[user]] : NULL;
    if (root == NULL || root->key != ept_root_key(eptp12, mbec)) {
        root = change_root(ept, vcpu_ctx, user, eptp12, mbec);
        if (root == NULL) {
            return NVMX_E_NO_MEMORY;
        }
    }
    if (!is_valid(root)) {
        ept_root_validate(ept, vcpu_ctx, root);
    }
    *eptp02 = root->eptp02;
    return NVMX_OK;
}
