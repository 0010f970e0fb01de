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
    if (bytes < sizeof(*ept) || config->size != sizeof(*config) || host->size < offsetof(struct nvmx_host, map_page) ||
        host->size % sizeof(void *) != 0) {
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

/* Under the lock: the root goes, its top tables become the caller's. */
static struct ept_tops take_tops(struct ept_root *root) {
    struct ept_tops tops = {.ept = root->top, .sppt = root->sppt};

    __atomic_store_n(&root->key, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->top, NULL, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->sppt, NULL, __ATOMIC_SEQ_CST);
    return tops;
}

void nvmx_ept_destroy(struct nvmx_ept *ept, void *vcpu_ctx) {
    struct ept_op op;

    ept_begin(&op, ept, vcpu_ctx, NULL);
    for (unsigned int i = 0; i < ept->root_end; i++) {
        if (ept->root[i].top != NULL) {
            struct ept_tops tops = take_tops(&ept->root[i]);

            ept_discard_tops(&op, &tops);
        }
    }
    if (vcpu_ctx == NULL) {
        op.flush = EPT_FLUSH_NONE; /* the host flushes */
    }
    ept_end(&op);
    ept_free_slabs(ept);
}

uint32_t nvmx_ept_pages(const struct nvmx_ept *ept) {
    return __atomic_load_n(&ept->pages, __ATOMIC_RELAXED);
}

/*
 * What tells roots apart: the address, the length of the walk and the modes that change what an entry means. The memory
 * type of L1's tables (bits 2:0) does not; bit 0 stands for mode-based execute control, bit 1 for sub-page permissions,
 * which also ask for the same SPPTP12: on the processor what is cached of them goes by the EPTP alone. Never 0, for the
 * length is not.
 */
uint64_t ept_root_key(uint64_t eptp12, bool mbec, bool spp) {
    return (eptp12 & (EPT_ADDRESS | 0xf8)) | (mbec ? 1 : 0) | (spp ? 2 : 0);
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

struct ept_root *ept_root_find_spp(struct nvmx_ept *ept, uint64_t key, uint64_t spptp12) {
    for (uint32_t i = 0; i < ept->root_end; i++) {
        if (ept->root[i].key == key && ept->root[i].spptp12 == (spptp12 & EPT_ADDRESS)) {
            return &ept->root[i];
        }
    }
    return NULL;
}

void ept_discard_tops(struct ept_op *op, const struct ept_tops *tops) {
    if (tops->ept == NULL) {
        return;
    }
    ept_announce(op);
    op->flush = EPT_FLUSH_ALL;
    ept_discard(op, tops->ept);
    if (tops->sppt != NULL) {
        ept_discard(op, tops->sppt);
    }
}

struct ept_tops ept_root_retire(struct nvmx_ept *ept, uint64_t keep) {
    struct ept_root *oldest = NULL;

    for (unsigned int i = 0; i < ept->root_end; i++) {
        struct ept_root *root = &ept->root[i];

        if (root->top != NULL && root->users == 0 && ept_peek(&root->top->stamp) != keep &&
            (oldest == NULL || root->last_use < oldest->last_use)) {
            oldest = root;
        }
    }
    return oldest != NULL ? take_tops(oldest) : (struct ept_tops){NULL, NULL};
}

/*
 * Under the lock: a free place for a root, or NULL. Roots that nobody uses are kept up to a number; the one unused for
 * longest makes room, and its top tables go to *retired.
 */
static struct ept_root *root_place(struct nvmx_ept *ept, struct ept_tops *retired) {
    struct ept_root *place = NULL;
    unsigned int idle = 0;

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

/* What a root is for. */
struct purpose {
    uint64_t eptp12, spptp12;
    bool mbec, spp;
};

static uint64_t key_of(const struct purpose *purpose) {
    return ept_root_key(purpose->eptp12, purpose->mbec, purpose->spp);
}

static void make_top(struct ept_table *top, unsigned int levels, uint64_t gpa1) {
    top->level = (uint8_t)levels;
    top->gpa1 = gpa1 & EPT_ADDRESS;
    ept_poke(&top->entry12, EPT_RIGHTS); /* nothing above it takes rights away */
    __atomic_store_n(&top->state, EPT_TABLE_ROOT, __ATOMIC_RELAXED);
}

/* Under the lock: make the root of `tops`, which are used once. NULL: no place. */
static struct ept_root *root_install(struct nvmx_ept *ept, const struct purpose *purpose, const struct ept_tops *tops,
                                     struct ept_tops *retired) {
    struct ept_root *root = root_place(ept, retired);

    if (root == NULL) {
        return NULL;
    }
    make_top(tops->ept, ept_eptp_levels(purpose->eptp12), purpose->eptp12);
    __atomic_store_n(&root->eptp02, make_eptp02(ept, purpose->eptp12, tops->ept->hw_hpa), __ATOMIC_RELAXED);
    if (tops->sppt != NULL) {
        make_top(tops->sppt, SPPT_LEVELS, purpose->spptp12);
    }
    root->spptp12 = purpose->spptp12 & EPT_ADDRESS;
    root->spptp02 = tops->sppt != NULL ? tops->sppt->hw_hpa : 0;
    ept_short_init(&root->plain, &ept->l1, purpose->eptp12, purpose->mbec);
    root->users = 0;
    root->stands = 0;
    ept_poke(&root->validated, __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST)); /* it is empty */
    __atomic_store_n(&root->sppt, tops->sppt, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->top, tops->ept, __ATOMIC_SEQ_CST);
    __atomic_store_n(&root->key, key_of(purpose), __ATOMIC_SEQ_CST);
    if (root == &ept->root[ept->root_end]) {
        __atomic_store_n(&ept->root_end, ept->root_end + 1, __ATOMIC_SEQ_CST);
    }
    return root;
}

/* Other processors may take the room that was made. */
#define TOP_ATTEMPTS 64u

/* *waits: there is none, but for what others take or hold until they are done; as long as nobody else is at work each attempt makes room, or is the last. */
static struct ept_table *new_top(struct nvmx_ept *ept, void *vcpu_ctx, bool *waits) {
    unsigned int refusals = 0, attempt;
    bool refused = false;
    struct ept_table *top = ept_table_new(ept, &refused);

    for (attempt = 0; top == NULL && attempt < TOP_ATTEMPTS; attempt++) {
        bool others = ept_others_at_work(ept, 0);

        if ((refused && ++refusals == 3) || (!ept_make_room(ept, vcpu_ctx, UINT64_MAX) && !others)) {
            break;
        }
        refused = false;
        top = ept_table_new(ept, &refused);
    }
    *waits = top == NULL && attempt == TOP_ATTEMPTS;
    return top;
}

/* Tops that no root took. */
static void free_tops(struct nvmx_ept *ept, const struct ept_tops *tops) {
    if (tops->ept != NULL) {
        ept_table_free(ept, tops->ept);
    }
    if (tops->sppt != NULL) {
        ept_table_free(ept, tops->sppt);
    }
}

/* A root with one user more, that was not there when the caller looked. NULL: no memory. *waits: see new_top. */
static struct ept_root *root_new(struct nvmx_ept *ept, void *vcpu_ctx, const struct purpose *purpose, bool *waits) {
    struct ept_tops tops = {.ept = new_top(ept, vcpu_ctx, waits)}, retired = {NULL, NULL};
    struct ept_root *root;
    struct ept_op op;

    tops.sppt = tops.ept != NULL && purpose->spp ? new_top(ept, vcpu_ctx, waits) : NULL;
    if (tops.ept == NULL || (purpose->spp && tops.sppt == NULL)) {
        free_tops(ept, &tops);
        return NULL;
    }
    ept_begin(&op, ept, vcpu_ctx, NULL);
    ept_lock(ept);
    root = ept_root_find_spp(ept, key_of(purpose), purpose->spptp12);
    if (root == NULL) {
        root = root_install(ept, purpose, &tops, &retired);
        tops = root != NULL ? (struct ept_tops){NULL, NULL} : tops;
    }
    if (root != NULL) {
        root->users++;
    }
    ept_unlock(ept);
    ept_discard_tops(&op, &retired);
    ept_end(&op);
    free_tops(ept, &tops); /* another processor was first, or there is no place */
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

static __attribute__((noinline)) void release(struct nvmx_ept *ept, unsigned int user) {
    ept_lock(ept);
    put(ept, user);
    ept_unlock(ept);
}

/* Most users that are asked for at VMXON have none. */
void nvmx_ept_release(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user) {
    (void)vcpu_ctx;
    if (user < EPT_USERS && ept->user_root[user] != EPT_NO_ROOT) {
        release(ept, user);
    }
}

static bool is_valid(const struct ept_root *root) {
    return __atomic_load_n(&root->validated, __ATOMIC_ACQUIRE) == __atomic_load_n(&root->wanted, __ATOMIC_SEQ_CST);
}

bool nvmx_ept_ready(const struct nvmx_ept *ept, unsigned int user) {
    return user < EPT_USERS && ept->user_root[user] != EPT_NO_ROOT && is_valid(&ept->root[ept->user_root[user]]);
}

/* The user's root is now the one for this. NULL: no memory, and nothing changed. */
static struct ept_root *change_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user,
                                    const struct purpose *purpose) {
    struct ept_root *root;

    ept_lock(ept);
    root = ept_root_find_spp(ept, key_of(purpose), purpose->spptp12);
    if (root != NULL) {
        root->users++;
    } else {
        ept_unlock(ept);
        root = root_new(ept, vcpu_ctx, purpose, &ept->user_waits[user]);
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

static inline struct ept_root *root_for(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user,
                                        const struct purpose *purpose) {
    struct ept_root *root = ept->user_root[user] != EPT_NO_ROOT ? &ept->root[ept->user_root[user]] : NULL;

    if (root == NULL || root->key != key_of(purpose) ||
        (purpose->spp && root->spptp12 != (purpose->spptp12 & EPT_ADDRESS))) {
        root = change_root(ept, vcpu_ctx, user, purpose);
    }
    if (root != NULL && !is_valid(root)) {
        ept_root_validate(ept, vcpu_ctx, root);
    }
    return root;
}

bool ept_root_waits(struct nvmx_ept *ept, unsigned int user) {
    bool waits = ept->user_waits[user];

    ept->user_waits[user] = false;
    return waits;
}

static inline bool is_sound(unsigned int user, uint64_t eptp12) {
    return user < EPT_USERS && ept_eptp_levels(eptp12) >= 4 && ept_eptp_levels(eptp12) <= 5;
}

enum nvmx_status nvmx_ept_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12, bool mbec,
                               uint64_t *eptp02) {
    const struct purpose purpose = {.eptp12 = eptp12, .mbec = mbec};

    if (!is_sound(user, eptp12)) {
        return NVMX_E_INVALID;
    }
    const struct ept_root *root = root_for(ept, vcpu_ctx, user, &purpose);
    if (root == NULL) {
        return NVMX_E_NO_MEMORY;
    }
    *eptp02 = root->eptp02;
    return NVMX_OK;
}

enum nvmx_status nvmx_ept_root_spp(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12, bool mbec,
                                   uint64_t spptp12, uint64_t *eptp02, uint64_t *spptp02) {
    const struct purpose purpose = {.eptp12 = eptp12, .spptp12 = spptp12, .mbec = mbec, .spp = true};

    if (!is_sound(user, eptp12)) {
        return NVMX_E_INVALID;
    }
    const struct ept_root *root = root_for(ept, vcpu_ctx, user, &purpose);
    if (root == NULL) {
        return NVMX_E_NO_MEMORY;
    }
    *eptp02 = root->eptp02;
    *spptp02 = root->spptp02;
    return NVMX_OK;
}
