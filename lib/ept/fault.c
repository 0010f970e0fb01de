/* SPDX-License-Identifier: MIT */
/* Deciding about an access of L2: L1's fault, the host's fault, or a page to map. */
#include "ept.h"

/* -- what an access needs
 * ------------------------------------------------------------------------------------------------------ */

/*
 * The access as ept12 sees it (SDM 31.3.3.2). With accessed and dirty flags, what the CPU does to L2's own page tables
 * counts as a write. Loads of PDPTEs by MOV to CR are plain reads: they have no linear address.
 */
static uint64_t needed_access(uint64_t qualification, bool ad) {
    uint64_t access = qualification & EPT_Q_ACCESS;

    if (ad && (qualification & (EPT_Q_LINEAR | EPT_Q_FINAL)) == EPT_Q_LINEAR) {
        access |= EPT_Q_READ | EPT_Q_WRITE;
    }
    return access;
}

/*
 * Which of the two execute bits a fetch needs. The mode of the linear address is told by advanced information; else by
 * the bits that ept02 granted: the one that it lacked. If it lacked both it can't be known before one is granted:
 * either will do.
 */
static uint64_t needed_execute(const struct nvmx_ept *ept, uint64_t qualification, bool mbec) {
    uint64_t linear = EPT_Q_LINEAR | EPT_Q_FINAL;
    uint64_t granted = qualification & (EPT_Q_EXECUTABLE | EPT_Q_USER_EXECUTABLE);

    if (!mbec) {
        return NVMX_EPT_EXECUTE;
    }
    if ((ept->machine.msr[NVMX_CAP_EPT_VPID] >> EPT_CAP_ADVANCED_INFO & 1) != 0 && (qualification & linear) == linear) {
        return (qualification & EPT_Q_USER_MODE) != 0 ? NVMX_EPT_USER_EXECUTE : NVMX_EPT_EXECUTE;
    }
    if (granted == EPT_Q_EXECUTABLE) {
        return NVMX_EPT_USER_EXECUTE;
    }
    return granted == EPT_Q_USER_EXECUTABLE ? NVMX_EPT_EXECUTE : NVMX_EPT_EXECUTE | NVMX_EPT_USER_EXECUTE;
}

/* The same of an access that the host emulates: it says whose the linear address is. What has none, or is not to its translation, is no fetch by L2's code. */
static uint64_t emulated_execute(uint64_t qualification, bool mbec) {
    return mbec && (qualification & EPT_Q_USER_MODE) != 0 ? NVMX_EPT_USER_EXECUTE : NVMX_EPT_EXECUTE;
}

/* An access to be decided. */
struct request {
    struct ept_op *op; /* NULL: nothing is mapped */
    unsigned int ahead; /* pages to be mapped with it, at most */
    uint64_t gpa2;
    uint64_t qualification; /* as hardware gave it */
    uint64_t access;        /* EPT_Q_ACCESS bits */
    uint64_t execute;       /* a fetch needs one of these */
    bool misconfiguration;
    bool shadow_stack; /* an access of a supervisor shadow stack where EPTP12 controls these */
    bool spp;          /* sub-page write permissions are on */
    bool spp_event;    /* the exit was an SPP-related event, not a violation */
    uint64_t spptp12;
    uint32_t bytes; /* of a write that the host emulates, or 0 */
    struct nvmx_ept_log *log;
};

#define LOG_ENTRIES 512u

/* A processor with this control has advanced information, too, which tells supervisor from user mode. */
static bool shadow_stack_access(const struct nvmx_ept_access *access) {
    uint64_t what = EPT_Q_SHADOW_STACK | EPT_Q_LINEAR | EPT_Q_FINAL;

    return (access->eptp12 & EPTP_SHADOW_STACK) != 0 && (access->qualification & (what | EPT_Q_USER_MODE)) == what;
}

/* SDM 31.3.3.2. A page of a supervisor shadow stack need not be writable. */
static bool permits(uint64_t rights, const struct request *request) {
    if (request->shadow_stack) {
        return (rights & NVMX_EPT_READ) != 0 && (rights & NVMX_EPT_SHADOW_STACK) != 0;
    }
    return ((request->access & EPT_Q_READ) == 0 || (rights & NVMX_EPT_READ) != 0) &&
           ((request->access & EPT_Q_WRITE) == 0 || (rights & NVMX_EPT_WRITE) != 0) &&
           ((request->access & EPT_Q_FETCH) == 0 || (rights & request->execute) != 0);
}

/*
 * SDM 31.3.4.1: what only lacks the right to write may have it by sub-page. (Bit 61 among the rights says that the page
 * has sub-pages.) Not so what the CPU does to L2's page tables, and what has no linear address.
 */
static bool eligible(const struct ept_walk *walk, const struct request *request) {
    return walk->result == NVMX_EPT_LEAF && (walk->rights & NVMX_EPT_SUB_PAGE) != 0 &&
           (request->access & EPT_Q_WRITE) != 0 && (~request->qualification & (EPT_Q_LINEAR | EPT_Q_FINAL)) == 0 &&
           !request->shadow_stack && permits(walk->rights | NVMX_EPT_WRITE, request);
}

/* The exit qualification that L1 gets where ept12 permits nothing (SDM 30.2.1): the access, and what hardware knows
 * about the linear address. */
static inline uint64_t qualification_unmapped(const struct nvmx_ept *ept, uint64_t hardware, uint64_t access) {
    uint64_t linear = hardware & (EPT_Q_LINEAR | EPT_Q_FINAL);
    uint64_t kept = EPT_Q_NMI_UNBLOCKING | EPT_Q_ASYNCHRONOUS;

    if ((linear & EPT_Q_LINEAR) != 0) {
        kept |= EPT_Q_LINEAR | EPT_Q_FINAL;
    }
    if (linear == (EPT_Q_LINEAR | EPT_Q_FINAL) && (ept->l1.msr[NVMX_CAP_EPT_VPID] >> EPT_CAP_ADVANCED_INFO & 1) != 0) {
        kept |= EPT_Q_ADVANCED;
    }
    if ((ept->l1.msr[NVMX_CAP_ENTRY] >> (32 + ENTRY_LOAD_CET) & 1) != 0) {
        kept |= EPT_Q_SHADOW_STACK; /* else the bit is undefined */
    }
    return access | (hardware & kept);
}

/* The same with what ept12 permits. */
static uint64_t qualification12(const struct nvmx_ept *ept, const struct ept_walk *walk,
                                const struct request *request) {
    uint64_t result =
        qualification_unmapped(ept, request->qualification, request->access) | (walk->rights & EPT_RWX) << 3;

    if (walk->mbec && (walk->rights & NVMX_EPT_USER_EXECUTE) != 0) {
        result |= EPT_Q_USER_EXECUTABLE;
    }
    if (walk->shadow_stack && walk->result == NVMX_EPT_LEAF && (walk->entry[walk->level] & NVMX_EPT_SHADOW_STACK) != 0) {
        result |= EPT_Q_SHADOW_LEAF;
    }
    return result;
}

/* -- the decision
 * -------------------------------------------------------------------------------------------------------------- */

static bool mapping_sound(const struct nvmx_ept01_mapping *mapping, uint64_t gpa1) {
    uint64_t offset = (UINT64_C(1) << (mapping->size_shift & 63)) - 1;
    bool size = mapping->size_shift == 12 || mapping->size_shift == 21 || mapping->size_shift == 30;

    return size && (mapping->hpa & (offset | ~EPT_ADDRESS)) == 0 && mapping->gpa1 == (gpa1 & ~offset);
}

static void clear(struct nvmx_ept_fault *fault) {
    fault->qualification = 0;
    fault->gpa1 = 0;
    fault->status = NVMX_OK;
    fault->convertible = false;
}

static enum nvmx_ept_verdict failed(struct nvmx_ept_fault *fault, enum nvmx_status status) {
    fault->status = status;
    return NVMX_EPT_FAILED;
}

/* A shadow stack is mapped for reads and writes alike, so that both count. */
static bool is_write(const struct request *request) {
    return (request->access & EPT_Q_WRITE) != 0 || request->shadow_stack;
}

/* SDM 28.5.8.1: the entry that is not present, or the leaf. No entry decides about bits that the walk does not index
 * with. */
static bool convertible(const struct ept_walk *walk, uint64_t gpa2) {
    return (walk->five_levels || gpa2 >> 48 == 0) && (walk->entry[walk->level] & NVMX_EPT_SUPPRESS_VE) == 0;
}

static enum nvmx_ept_verdict violation(const struct nvmx_ept *ept, const struct request *request,
                                       const struct ept_walk *walk, struct nvmx_ept_fault *fault) {
    fault->qualification = qualification12(ept, walk, request);
    fault->convertible = convertible(walk, request->gpa2);
    return NVMX_EPT_L1_VIOLATION;
}

/* May L2 write to the sub-page? NVMX_EPT_RETRY: ept12 and L1's table of sub-page permissions allow it. */
static enum nvmx_ept_verdict ask_sub_page(struct nvmx_ept *ept, void *vcpu_ctx, const struct request *request,
                                          const struct ept_walk *walk, struct ept_sppt_walk *sppt,
                                          struct nvmx_ept_fault *fault) {
    switch (ept_sppt_walk(ept, vcpu_ctx, sppt, request->spptp12, request->gpa2, request->bytes)) {
    case EPT_SUB_PAGE_WRITABLE:
        return NVMX_EPT_RETRY;
    case EPT_SUB_PAGE_PROTECTED:
        return violation(ept, request, walk, fault);
    case EPT_SUB_PAGE_MISS:
        fault->qualification = SPP_Q_MISS;
        break;
    default:
        break;
    }
    fault->qualification |= request->qualification & (EPT_Q_NMI_UNBLOCKING | EPT_Q_ASYNCHRONOUS);
    return NVMX_EPT_L1_SPP_EVENT;
}

/* Map the page that ept12 grants, as far as ept01 does. `sppt`: what allowed a write that the page does not allow, or
 * NULL. */
static enum nvmx_ept_verdict grant(struct nvmx_ept *ept, const struct request *request, const struct ept_walk *walk,
                                   const struct ept_sppt_walk *sppt, struct nvmx_ept_fault *fault) {
    bool write = is_write(request);
    struct nvmx_ept01_mapping mapping = {0};
    enum nvmx_status status;
    uint64_t rights;

    fault->gpa1 = walk->gpa1;
    status = ept->host.ept01_lookup(ept->vm_ctx, walk->gpa1, &mapping);
    if (status == NVMX_E_UNMAPPED) {
        return NVMX_EPT_HOST_FAULT;
    }
    if (status != NVMX_OK || !mapping_sound(&mapping, walk->gpa1)) {
        return failed(fault, status != NVMX_OK ? status : NVMX_E_HOST);
    }
    rights = ept_common_rights(ept, walk, walk->rights, walk->entry[walk->level], mapping.access, write);
    bool by_sub_page = sppt != NULL && (rights & NVMX_EPT_SUB_PAGE) != 0;
    if (rights == 0 || !permits(rights | (by_sub_page ? NVMX_EPT_WRITE : 0), request)) {
        return NVMX_EPT_HOST_FAULT;
    }
    enum ept_mapped mapped = ept_map(request->op, request->gpa2, walk, rights, &mapping);
    if (sppt != NULL && (mapped == EPT_MAPPED || mapped == EPT_MAPPED_ALREADY)) {
        enum ept_mapped vector = ept_sppt_fill(request->op, request->gpa2, sppt);

        mapped = vector == EPT_MAPPED_ALREADY ? mapped : vector;
    }
    if (mapped == EPT_MAPPED_NO_ROOM) {
        return failed(fault, NVMX_E_NO_MEMORY);
    }
    if (mapped == EPT_MAPPED_ALREADY && request->misconfiguration) {
        return failed(fault, NVMX_E_HOST); /* the machine refuses what its capabilities promise */
    }
    if (sppt != NULL) {
        if (mapped != EPT_MAPPED_ALREADY) {
            ept_refused_cleared(request->op->root, request->op->vcpu_ctx);
        } else if (!request->spp_event && ept_refused_again(request->op->root, request->op->vcpu_ctx, request->gpa2)) {
            return violation(ept, request, walk, fault);
        }
    }
    if (mapped == EPT_MAPPED_ALREADY) {
        request->op->flush_here = request->op->root->eptp02; /* another processor was first, or the TLB holds something old */
    }
    return NVMX_EPT_RETRY;
}

/* SDM 31.3.6. Where L1's log has no memory the entry is lost, as the CPU's write would be. */
static void log_append(struct nvmx_ept *ept, void *vcpu_ctx, struct nvmx_ept_log *log, uint64_t gpa2) {
    uint64_t hpa;
    uint64_t *page = ept->host.map_page(vcpu_ctx, log->gpa1, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, &hpa);

    if (page != NULL) {
        ept_store(&page[log->index % LOG_ENTRIES], gpa2 & ~(uint64_t)(NVMX_PAGE_SIZE - 1));
        ept->host.unmap_page(vcpu_ctx, log->gpa1, page, true);
    }
    log->index--;
}

enum flags {
    FLAGS_SET,
    FLAGS_CHANGED, /* by L1 meanwhile */
    FLAGS_LOG_FULL,
};

/* Accessed and dirty flags of ept12, where it has them, and the log. */
static enum flags set_flags(struct nvmx_ept *ept, void *vcpu_ctx, const struct request *request,
                            struct ept_walk *walk) {
    bool write = is_write(request);

    if (!walk->ad) {
        return FLAGS_SET;
    }
    if (request->log != NULL && request->log->index >= LOG_ENTRIES && ept_walk_lacks_flags(walk, write)) {
        return FLAGS_LOG_FULL;
    }
    bool set = ept_walk_set_flags(ept, vcpu_ctx, walk, request->gpa2, write);
    if (request->log != NULL && walk->dirtied) {
        log_append(ept, vcpu_ctx, request->log, request->gpa2);
    }
    return set ? FLAGS_SET : FLAGS_CHANGED;
}

/* What the CPU did not ask SPPT02 for it shall ask it once more, and so find the violation itself, with all that it
 * says of one. */
static enum nvmx_ept_verdict event_is_violation(const struct request *request, const struct ept_sppt_walk *sppt,
                                                struct nvmx_ept_fault *fault) {
    if (sppt == NULL) {
        ept_unmap(request->op, request->gpa2, NULL);
    } else if (ept_sppt_fill(request->op, request->gpa2, sppt) == EPT_MAPPED_NO_ROOM) {
        return failed(fault, NVMX_E_NO_MEMORY);
    }
    return NVMX_EPT_RETRY;
}

static enum nvmx_ept_verdict decide(struct nvmx_ept *ept, void *vcpu_ctx, const struct request *request,
                                    struct ept_walk *walk, struct nvmx_ept_fault *fault) {
    struct ept_sppt_walk sppt;
    bool by_sub_page = false;

    ept_walk_run(ept, vcpu_ctx, walk, request->gpa2);
    if (walk->result == NVMX_EPT_MISCONFIG) {
        return NVMX_EPT_L1_MISCONFIG;
    }
    if (walk->result != NVMX_EPT_LEAF || !permits(walk->rights, request)) {
        by_sub_page = eligible(walk, request);
        enum nvmx_ept_verdict verdict = by_sub_page ? ask_sub_page(ept, vcpu_ctx, request, walk, &sppt, fault)
                                                    : violation(ept, request, walk, fault);
        if (verdict == NVMX_EPT_L1_VIOLATION && request->spp_event) {
            return event_is_violation(request, by_sub_page ? &sppt : NULL, fault);
        }
        if (verdict != NVMX_EPT_RETRY) {
            return verdict;
        }
    }
    enum flags flags = set_flags(ept, vcpu_ctx, request, walk);
    if (flags != FLAGS_SET) {
        return flags == FLAGS_LOG_FULL ? NVMX_EPT_L1_LOG_FULL : NVMX_EPT_RETRY;
    }
    enum nvmx_ept_verdict verdict = grant(ept, request, walk, by_sub_page ? &sppt : NULL, fault);
    return verdict == NVMX_EPT_HOST_FAULT && request->spp_event ? event_is_violation(request, NULL, fault) : verdict;
}

/*
 * Begin a walk where ept02 already knows the way, as a CPU does with its paging-structure caches (SDM 31.4.1): what is
 * remembered is from entries that L1 has not invalidated since. False: ept02 knows nothing that would save a read.
 */
static bool start_below(struct ept_walk *walk, struct ept_table *table, uint64_t gpa2) {
    struct ept_table *top = table;

    if (!walk->five_levels && gpa2 >> 48 != 0) {
        return false;
    }
    for (;;) {
        unsigned int index = ept_index(gpa2, table->level);
        uint64_t hw = ept_load(&table->hw[index]);
        struct ept_table *child = ept_is_reference(table->level, hw) ? ept_child(table, index, hw) : NULL;

        if (child == NULL || child->gpa1 == NVMX_NO_ADDRESS) {
            break;
        }
        walk->entry[table->level] = ept_peek(&child->entry12);
        walk->rights &= walk->entry[table->level];
        walk->table[child->level] = child->gpa1;
        table = child;
    }
    walk->start = table;
    walk->from = table->level;
    return table != top;
}

static enum nvmx_ept_verdict try_once(struct ept_op *op, const struct nvmx_ept_access *access, struct request *request,
                                      bool absent, struct nvmx_ept_fault *fault) {
    struct nvmx_ept *ept = op->ept;
    struct ept_table *top = __atomic_load_n(&op->root->top, __ATOMIC_ACQUIRE);
    struct ept_walk walk;

    clear(fault);
    if (top == NULL) {
        return failed(fault, NVMX_E_INVALID);
    }
    request->op = op;
    ept_poke(&top->stamp, op->stamp);
    ept_walk_start(&walk, access->eptp12, access->mbec);
    walk.ahead_want = request->ahead;
    walk.spp = request->spp;
    if (!absent && __atomic_load_n(&op->root->validated, __ATOMIC_ACQUIRE) == op->wanted &&
        start_below(&walk, top, access->gpa2)) {
        enum nvmx_ept_verdict verdict = decide(ept, op->vcpu_ctx, request, &walk, fault);

        if (verdict == NVMX_EPT_RETRY || op->no_room) {
            return verdict;
        }
        clear(fault);
    }
    /* Whatever L1 or the host is told comes from a walk from the root. */
    ept_walk_start(&walk, access->eptp12, access->mbec);
    walk.start = top;
    walk.ahead_want = request->ahead;
    walk.spp = request->spp;
    enum nvmx_ept_verdict verdict = decide(ept, op->vcpu_ctx, request, &walk, fault);
    if (verdict == NVMX_EPT_L1_VIOLATION) {
        ept_violation_told(op, access->eptp12, access->gpa2, &walk);
    }
    return verdict;
}

/* A path of five tables, and one of vectors, can need more pages than one step of making room gives. */
#define ROOM_ATTEMPTS 20u
/* Refusals by the host itself: more would empty ept02 in vain. */
#define REFUSALS 3u

/* There was no page: is there one now? */
static bool room_made(const struct ept_op *op, unsigned int *refusals) {
    if (op->refused && ++*refusals == REFUSALS) {
        return false;
    }
    return ept_make_room(op->ept, op->vcpu_ctx, op->stamp);
}

/* `absent`: see ept_fault_short. */
static __attribute__((noinline)) enum nvmx_ept_verdict fault_long(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root,
                                                                  const struct nvmx_ept_access *access, bool absent,
                                                                  struct nvmx_ept_fault *fault) {
    struct request request = {.gpa2 = access->gpa2,
                              .misconfiguration = access->misconfiguration,
                              .spp = access->spp,
                              .spp_event = access->spp && access->spp_event,
                              .spptp12 = access->spptp12,
                              .log = access->log};
    unsigned int refusals = 0;
    uint64_t first = 0, own = 0; /* operation, and how many are this processor's */
    bool others = false;

    if (request.spp_event) {
        /* A write that was eligible: see `eligible`. */
        request.qualification = (access->qualification & (EPT_Q_NMI_UNBLOCKING | EPT_Q_ASYNCHRONOUS)) | EPT_Q_WRITE |
                                EPT_Q_LINEAR | EPT_Q_FINAL;
        request.access = EPT_Q_WRITE;
    } else if (!access->misconfiguration) {
        request.qualification = access->qualification;
        request.access = needed_access(access->qualification, (access->eptp12 & NVMX_EPTP_AD) != 0);
        request.execute = needed_execute(ept, access->qualification, access->mbec);
        request.shadow_stack = shadow_stack_access(access);
        request.ahead = ept_stream_window(root, access->gpa2);
    }
    for (unsigned int attempt = 0; attempt < ROOM_ATTEMPTS; attempt++) {
        struct ept_op op;
        enum nvmx_ept_verdict verdict;

        ept_begin(&op, ept, vcpu_ctx, root);
        others = others || ept_others_at_work(ept, 1);
        verdict = try_once(&op, access, &request, absent, fault);
        ept_end(&op);
        if (!op.no_room) {
            return verdict;
        }
        first = attempt == 0 ? op.stamp : first;
        own += 2; /* this one, and the making of room */
        if (!room_made(&op, &refusals)) {
            break;
        }
    }
    /* What other processors took, or hold until they are done, comes back: L2 tries again. Alone there is no more than there was. */
    others = others || __atomic_load_n(&ept->clock, __ATOMIC_RELAXED) - first >= own;
    return refusals < REFUSALS && others ? NVMX_EPT_RETRY : failed(fault, NVMX_E_NO_MEMORY);
}

/* Misconfigurations, and whatever has sub-page permissions: there the root is looked for by two numbers, and so under the lock. */
static __attribute__((noinline)) enum nvmx_ept_verdict fault_seldom(struct nvmx_ept *ept, void *vcpu_ctx,
                                                                    const struct nvmx_ept_access *access,
                                                                    struct nvmx_ept_fault *fault) {
    ept_lock(ept);
    struct ept_root *root = ept_root_find_spp(ept, ept_root_key(access->eptp12, access->mbec, access->spp),
                                              access->spp ? access->spptp12 : 0);
    ept_unlock(ept);

    if (root == NULL) {
        clear(fault);
        return failed(fault, NVMX_E_INVALID);
    }
    return fault_long(ept, vcpu_ctx, root, access, false, fault);
}

enum nvmx_ept_verdict nvmx_ept_fault(struct nvmx_ept *ept, void *vcpu_ctx, const struct nvmx_ept_access *access,
                                     struct nvmx_ept_fault *fault) {
    if (__builtin_expect(access->misconfiguration | access->spp, 0)) {
        return fault_seldom(ept, vcpu_ctx, access, fault);
    }
    struct ept_root *root = ept_root_find(ept, ept_root_key(access->eptp12, access->mbec, false));

    if (root == NULL) {
        clear(fault);
        return failed(fault, NVMX_E_INVALID);
    }
    enum ept_short way = ept_fault_short(ept, vcpu_ctx, root, access->gpa2, &fault->gpa1);
    return way == EPT_SHORT_DONE ? NVMX_EPT_RETRY : fault_long(ept, vcpu_ctx, root, access, way == EPT_SHORT_ABSENT, fault);
}

#define TABLE_RESERVED UINT64_C(0xf8) /* bits 7:3 of an entry that refers to a table; bit 7 of a leaf is set */

/* One step of a walk by plain entries only. */
enum plain_step { PLAIN_TABLE, PLAIN_NOT_PRESENT, PLAIN_NOT };

struct plain_walk {
    struct nvmx_ept *ept;
    void *vcpu_ctx;
    uint64_t gpa2;
    uint64_t present;  /* an entry without one of these is not present */
    uint64_t reserved; /* in an entry that refers to a table */
    uint64_t table;
    uint64_t entry;
};

static inline __attribute__((always_inline)) enum plain_step plain_step(struct plain_walk *walk, unsigned int level) {
    uint64_t hpa;
    uint64_t *page = walk->ept->host.map_page(walk->vcpu_ctx, walk->table, NVMX_ACCESS_READ, &hpa);

    if (page == NULL) {
        return PLAIN_NOT;
    }
    walk->entry = ept_load(&page[ept_index(walk->gpa2, level)]);
    walk->ept->host.unmap_page(walk->vcpu_ctx, walk->table, page, false);
    walk->table = walk->entry & EPT_ADDRESS;
    if ((walk->entry & walk->present) == 0) {
        return PLAIN_NOT_PRESENT;
    }
    return (walk->entry & NVMX_EPT_READ) == 0 || (walk->entry & walk->reserved) != 0 ? PLAIN_NOT : PLAIN_TABLE;
}

/* The walk of ept_walk_run, where every entry is a readable reference to a table, until one is not present. */
bool nvmx_ept_unmapped(struct nvmx_ept *ept, void *vcpu_ctx, const struct nvmx_ept_access *access,
                       struct nvmx_ept_fault *fault) {
    struct plain_walk walk = {.ept = ept,
                              .vcpu_ctx = vcpu_ctx,
                              .gpa2 = access->gpa2,
                              .present = EPT_RWX | (access->mbec ? NVMX_EPT_USER_EXECUTE : 0),
                              .reserved = ept_reserved_address(&ept->l1) | TABLE_RESERVED,
                              .table = access->eptp12 & EPT_ADDRESS};
    unsigned int levels = ept_eptp_levels(access->eptp12);
    enum plain_step step = PLAIN_TABLE;

    if (access->misconfiguration || (access->qualification & EPT_Q_GRANTED) != 0 || levels < 4 || levels > 5 ||
        (levels == 4 && access->gpa2 >> 48 != 0)) {
        return false; /* what ept02 granted may be out of date, and has to go */
    }
    if (levels == 5) {
        step = plain_step(&walk, 5);
    }
#pragma GCC unroll 4
    for (unsigned int level = 4; level >= 1; level--) {
        if (step != PLAIN_TABLE) {
            break;
        }
        step = plain_step(&walk, level);
    }
    if (step != PLAIN_NOT_PRESENT) {
        return false;
    }
    clear(fault);
    fault->qualification = qualification_unmapped(
        ept, access->qualification, needed_access(access->qualification, (access->eptp12 & NVMX_EPTP_AD) != 0));
    fault->convertible = (walk.entry & NVMX_EPT_SUPPRESS_VE) == 0;
    return true;
}

static void emulated_violation_told(struct nvmx_ept *ept, void *vcpu_ctx, const struct nvmx_ept_access *access, const struct ept_walk *walk) {
    struct ept_op op;

    ept_begin(&op, ept, vcpu_ctx, NULL);
    ept_violation_told(&op, access->eptp12, access->gpa2, walk);
    ept_end(&op);
}

enum nvmx_ept_verdict nvmx_ept_translate(struct nvmx_ept *ept, void *vcpu_ctx, const struct nvmx_ept_access *access,
                                         struct nvmx_ept_fault *fault) {
    uint64_t eptp12 = access->eptp12;
    uint64_t gpa2 = access->gpa2;
    struct request request = {
        .gpa2 = gpa2,
        .log = access->log,
        .qualification = access->qualification,
        .access = needed_access(access->qualification, (eptp12 & NVMX_EPTP_AD) != 0),
        .execute = emulated_execute(access->qualification, access->mbec),
        .spptp12 = access->spptp12,
        .bytes = access->bytes,
    };
    struct ept_sppt_walk sppt;
    struct ept_walk walk;

    clear(fault);
    if (ept_eptp_levels(eptp12) < 4 || ept_eptp_levels(eptp12) > 5) {
        return failed(fault, NVMX_E_INVALID);
    }
    /* L1 may change an entry while its flags are set: then walk anew, but not for ever. */
    for (unsigned int attempt = 0; attempt < 8; attempt++) {
        ept_walk_start(&walk, eptp12, access->mbec);
        walk.spp = access->spp;
        ept_walk_run(ept, vcpu_ctx, &walk, gpa2);
        if (walk.result == NVMX_EPT_MISCONFIG) {
            return NVMX_EPT_L1_MISCONFIG;
        }
        if (walk.result != NVMX_EPT_LEAF || !permits(walk.rights, &request)) {
            enum nvmx_ept_verdict verdict = eligible(&walk, &request)
                                                ? ask_sub_page(ept, vcpu_ctx, &request, &walk, &sppt, fault)
                                                : violation(ept, &request, &walk, fault);
            if (verdict == NVMX_EPT_L1_VIOLATION) {
                emulated_violation_told(ept, vcpu_ctx, access, &walk);
            }
            if (verdict != NVMX_EPT_RETRY) {
                return verdict;
            }
        }
        enum flags flags = set_flags(ept, vcpu_ctx, &request, &walk);
        if (flags == FLAGS_LOG_FULL) {
            return NVMX_EPT_L1_LOG_FULL;
        }
        if (flags == FLAGS_SET) {
            fault->gpa1 = walk.gpa1;
            return NVMX_EPT_RETRY;
        }
    }
    return failed(fault, NVMX_E_HOST);
}
