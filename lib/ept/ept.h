/* SPDX-License-Identifier: MIT */
/* Internal: the state of a composition, and the seams between the files of lib/ept/. */
#ifndef NVMX_LIB_EPT_EPT_H
#define NVMX_LIB_EPT_EPT_H

#include <string.h>

#include <nvmx/ept.h>

/* Bits of IA32_VMX_EPT_VPID_CAP (SDM A.10). */
#define EPT_CAP_EXECUTE_ONLY  0u
#define EPT_CAP_4_LEVEL       6u
#define EPT_CAP_5_LEVEL       7u
#define EPT_CAP_UC            8u
#define EPT_CAP_WB            14u
#define EPT_CAP_2M            16u
#define EPT_CAP_1G            17u
#define EPT_CAP_AD            21u
#define EPT_CAP_ADVANCED_INFO 22u
#define EPT_CAP_SHADOW_STACK  23u

#define EPTP_SHADOW_STACK     (UINT64_C(1) << 7)
#define EPT_IGNORE_PAT        (UINT64_C(1) << 6)
#define EPT_ADDRESS           UINT64_C(0x000ffffffffff000)
#define EPT_RWX               (NVMX_EPT_READ | NVMX_EPT_WRITE | NVMX_EPT_EXECUTE)
#define EPT_RIGHTS            (EPT_RWX | NVMX_EPT_USER_EXECUTE)
#define EPT_AD                (NVMX_EPT_ACCESSED | NVMX_EPT_DIRTY)
/* What lets a write through without an exit, though not each one and not on each processor. */
#define EPT_WRITES (NVMX_EPT_WRITE | NVMX_EPT_SHADOW_STACK | NVMX_EPT_SUB_PAGE)

/* Exit qualification of EPT violations (SDM 30.2.1, table 30-7). */
#define EPT_Q_READ            (UINT64_C(1) << 0)
#define EPT_Q_WRITE           (UINT64_C(1) << 1)
#define EPT_Q_FETCH           (UINT64_C(1) << 2)
#define EPT_Q_ACCESS          (EPT_Q_READ | EPT_Q_WRITE | EPT_Q_FETCH)
#define EPT_Q_GRANTED         (UINT64_C(0xf) << 3)
#define EPT_Q_EXECUTABLE      (UINT64_C(1) << 5)
#define EPT_Q_USER_EXECUTABLE (UINT64_C(1) << 6)
#define EPT_Q_LINEAR          (UINT64_C(1) << 7)
#define EPT_Q_FINAL           (UINT64_C(1) << 8)
#define EPT_Q_USER_MODE       (UINT64_C(1) << 9)
#define EPT_Q_ADVANCED        (UINT64_C(7) << 9)
#define EPT_Q_NMI_UNBLOCKING  (UINT64_C(1) << 12)
#define EPT_Q_SHADOW_STACK    (UINT64_C(1) << 13)
#define EPT_Q_SHADOW_LEAF     (UINT64_C(1) << 14)
#define EPT_Q_ASYNCHRONOUS    (UINT64_C(1) << 16)

/* Exit qualification of SPP-related events (SDM 30.2.1); bits 12 and 16 are as above. */
#define SPP_Q_MISS (UINT64_C(1) << 11)

/* An entry of the three upper levels of a sub-page-permission table (SDM 31.3.4). */
#define SPPT_VALID         (UINT64_C(1) << 0)
#define SPPT_LEVELS        4u

#define ENTRY_LOAD_CET     20u /* VM-entry control that comes with shadow stacks */

#define EPT_USERS          256u
#define EPT_ROOTS          (EPT_USERS + 16u) /* one for each user, and some that nobody uses now */
#define EPT_NO_ROOT        UINT16_MAX
#define EPT_ROOTS_IDLE_MAX 16u

/* Pages that are mapped ahead of a sequence of violations, at most. */
#define EPT_AHEAD_MAX 16u
/* Sequences that are followed at a time; each GiB of gpa2 belongs to one. */
#define EPT_STREAMS 4u

enum ept_table_state {
    EPT_TABLE_UNUSED = 0, /* a struct without pages */
    EPT_TABLE_SPARE,      /* with pages, of one operation only */
    EPT_TABLE_ROOT,
    EPT_TABLE_LINKED, /* a slot of `parent` leads to it, or is just about to, or did until a moment ago */
    EPT_TABLE_GONE,   /* unlinked, or hanging under one that is */
};

/*
 * One table page of ept02. `hw` is what the CPU walks. For each slot in use `composed` says from what it was made: for
 * a leaf the entry of ept12, for a reference the address of the struct ept_table below. slot.c has the protocol by which both
 * change.
 *
 * Tables mirror those of ept12 level by level; where a page of ept12 is larger than what can be mapped, a table without
 * counterpart in ept12 (gpa1 is NVMX_NO_ADDRESS) splits it.
 *
 * A table of SPPT02 is the same, "ept12" being L1's sub-page-permission table then, and a leaf a vector: subpage.c.
 */
struct ept_table {
    uint64_t *hw;
    uint64_t hw_hpa;
    uint64_t *composed;
    uint64_t composed_hpa;
    struct ept_table *parent; /* NULL: a root */
    struct ept_table *next;   /* of its list, if it is in one: spare, garbage, limbo, unused */
    uint64_t gpa1;            /* of the table page of ept12 */
    uint64_t entry12;         /* the entry of ept12 that led here, or the large page that is split */
    uint64_t first, last;     /* bounds in gpa1 of all leaves and tables of ept12 in and below it, or more; first > last: nothing */
    uint64_t stamp;           /* operation that used it last */
    uint64_t gone;            /* GONE: the epoch in which it was unlinked */
    uint64_t digest;          /* of the table page of ept12 as it was last compared, or 0; see invalidate.c */
    uint32_t digest_at;       /* `filling` when that was */
    uint32_t filling, filled; /* slots that were begun to be filled, and were done with */
    uint16_t index;           /* slot in the parent */
    uint8_t level;
    uint8_t state;
    uint64_t used[8]; /* a bit for each slot that was ever in use */
    uint8_t words;    /* a bit for each of those that is not 0 */
    uint32_t version_at; /* `filling` when `version` was noted */
    uint64_t version;    /* of the table page of ept12 by the host's page_version, or 0; see invalidate.c */
};

/* A sequence of violations: where the next one would be, and how many pages are mapped ahead of it. */
struct ept_stream {
    uint64_t expected; /* gpa2 >> shift */
    uint64_t shift;    /* 0: nothing is expected */
    uint64_t window;
    uint64_t pause; /* violations for which nothing is mapped ahead, since it was in vain */
};

/*
 * Where the short way came to last, for the next violation. `table` is of use only while `discards` is what nvmx_ept.discards is: see short.c. Who
 * changes it has `busy`, and sets `table` to NULL first and to its value last.
 */
struct ept_last {
    uint32_t busy;
    struct ept_table *table;
    uint64_t gpa2; /* the first that the table is for */
    uint64_t discards;
};

/*
 * The write that was allowed, and for which nothing was left to be done, though it exited. If it goes on so it is of a
 * kind to which sub-page permissions don't apply, of which no exit tells. What several processors do here can only make
 * it take longer.
 */
struct ept_refused {
    const void *vcpu_ctx;
    uint64_t gpa2;
    uint32_t times;
};

/* What the short way takes for plain (short.c). */
struct ept_plain {
    uint64_t all;       /* bits that every entry of ept12 on the way has; 0: nothing is plain in this root */
    uint64_t leaf_mask; /* the bits of a leaf that matter, but for those of its size, */
    uint64_t leaf;      /* as they have to be, */
    uint64_t hw;        /* and what becomes of them in ept02 */
};

struct ept_root {
    uint64_t key; /* see ept_root_key; 0: free */
    uint64_t eptp02;
    uint64_t spptp12, spptp02; /* if ept_key_spp(key) */
    struct ept_table *top;
    struct ept_table *sppt; /* the same of SPPT02; NULL: L2 has no sub-page permissions */
    uint64_t last_use;
    uint64_t wanted;    /* counts L1's INVEPTs */
    uint64_t validated; /* value of `wanted` up to which ept02 has been compared with ept12 */
    struct ept_plain plain;
    uint32_t users;
    uint32_t digesting; /* somebody compares, and may write digests, versions and `stands` */
    uint32_t filled;    /* a slot was filled since this was cleared, or may be just now */
    uint64_t stands;    /* version of all pages together with which the whole tree is as ept12 is, or 0: see invalidate.c */
    struct ept_stream stream[EPT_STREAMS];
    struct ept_last last;
    struct ept_refused refused;
};

static inline struct ept_stream *ept_stream_of(struct ept_root *root, uint64_t gpa2) {
    return &root->stream[gpa2 >> 30 & (EPT_STREAMS - 1)];
}

/* A page of struct ept_table. */
#define EPT_SLAB_TABLES 20u
struct ept_slab {
    struct ept_slab *next;
    uint64_t hpa;
    struct ept_table table[EPT_SLAB_TABLES];
};
_Static_assert(sizeof(struct ept_slab) <= NVMX_PAGE_SIZE, "a slab is a page");

/*
 * What several processors share. Everything that changes after nvmx_ept_init is accessed by whole atomic loads and stores, or
 * under `lock`, which is held for a bounded number of steps and never while a callback runs.
 */
struct nvmx_ept {
    struct nvmx_host host; /* completed with NULL past the caller's size */
    void *vm_ctx;
    struct nvmx_caps l1;
    struct nvmx_caps machine;
    bool large_2m; /* L1 and the machine have 2-MByte pages */
    uint32_t page_budget;
    uint32_t pages;
    uint32_t lock;
    uint32_t root_end; /* roots from here on have never been used */
    uint64_t clock;    /* numbers operations */
    uint64_t changes;  /* counts nvmx_ept_memory_changed and _protected */
    uint64_t discards; /* counts tables that were unlinked */
    uint64_t pending;  /* operations that took entries out of ept02 and have not flushed yet */
    uint64_t epoch;
    uint64_t active[2]; /* operations that run, by the epoch in which they began, modulo 2 */
    /* Under `lock`: */
    struct ept_table *limbo; /* unlinked and flushed; freed when no operation can know them */
    struct ept_table *unused;
    struct ept_slab *slabs;
    struct ept_slab *hand; /* where the search for the least recently used goes on */
    /* Each element belongs to its user. */
    uint16_t user_root[EPT_USERS];
    bool user_waits[EPT_USERS]; /* others held what its last root was to be made of */
    struct ept_root root[EPT_ROOTS];
};

/* An operation of one processor: from ept_begin to ept_end it may look at tables of ept02. */
struct ept_op {
    struct nvmx_ept *ept;
    void *vcpu_ctx;   /* the host's, which may be NULL as well */
    uint64_t stamp;   /* its number */
    uint64_t epoch;   /* in which it began */
    uint64_t changes; /* as they were before anything was read: see slot.c */
    uint64_t wanted;
    struct ept_root *root; /* that `wanted` is of, or NULL: then no slot is filled */
    struct ept_table *garbage;
    uint64_t flush;      /* EPTP02 that is to be flushed on all processors; EPT_FLUSH_NONE, EPT_FLUSH_ALL */
    uint64_t flush_here; /* ... on this processor */
    bool announced;      /* it counts in `pending` */
    bool no_room;        /* a table was needed, and there was none */
    bool refused;        /* by the host, and not by the budget */
};

#define EPT_FLUSH_NONE UINT64_C(0)
#define EPT_FLUSH_ALL  UINT64_MAX

/* -- small things
 * ------------------------------------------------------------------------------------------------------------- */

/* L1's memory and ept02 change under us (other processors, the CPU's own page walk): each access is one whole load or
 * store. */
static inline uint64_t ept_load(const uint64_t *place) {
    return __atomic_load_n(place, __ATOMIC_ACQUIRE);
}

static inline void ept_store(uint64_t *place, uint64_t value) {
    __atomic_store_n(place, value, __ATOMIC_RELEASE);
}

static inline unsigned int ept_level_shift(unsigned int level) {
    return 12 + 9 * (level - 1);
}

static inline uint64_t ept_level_bytes(unsigned int level) {
    return UINT64_C(1) << ept_level_shift(level);
}

static inline unsigned int ept_index(uint64_t gpa2, unsigned int level) {
    return (unsigned int)(gpa2 >> ept_level_shift(level) & 511);
}

static inline unsigned int ept_eptp_levels(uint64_t eptp) {
    return (unsigned int)(eptp >> 3 & 7) + 1;
}

static inline uint64_t ept_peek(const uint64_t *place) {
    return __atomic_load_n(place, __ATOMIC_RELAXED);
}

static inline void ept_poke(uint64_t *place, uint64_t value) {
    __atomic_store_n(place, value, __ATOMIC_RELAXED);
}

/*
 * The slots of a table that may be in use, in order. One that is filled for the first time later than the start may be left out: who fills it began before what
 * the caller follows, and finds that it is late, or read what is new (slot.c).
 */
struct ept_slots {
    const struct ept_table *table;
    unsigned int words, base;
    uint64_t bits;
};

static inline struct ept_slots ept_slots_of(const struct ept_table *table) {
    return (struct ept_slots){.table = table, .words = __atomic_load_n(&table->words, __ATOMIC_SEQ_CST)};
}

/* The next one; 512: none. */
static inline unsigned int ept_slots_next(struct ept_slots *slots) {
    while (slots->bits == 0) {
        if (slots->words == 0) {
            return 512;
        }
        unsigned int word = (unsigned int)__builtin_ctz(slots->words);
        slots->words &= slots->words - 1;
        slots->base = word * 64;
        slots->bits = __atomic_load_n(&slots->table->used[word & 7], __ATOMIC_SEQ_CST);
    }
    unsigned int index = slots->base + (unsigned int)__builtin_ctzll(slots->bits);
    slots->bits &= slots->bits - 1;
    return index;
}

/* Does a slot of ept02 permit anything? */
static inline bool ept_is_present(uint64_t hw) {
    return (hw & EPT_RIGHTS) != 0;
}

/* Is it claimed by an operation (slot.c)? No entry that permits anything has this bit, no vector either: it is a
 * reserved one there. */
#define EPT_CLAIM (UINT64_C(1) << 11)
static inline bool ept_is_claimed(uint64_t hw) {
    return (hw & EPT_CLAIM) != 0;
}

/* Does a slot of ept02 refer to a table? */
static inline bool ept_is_reference(unsigned int level, uint64_t hw) {
    return ept_is_present(hw) && level > 1 && (hw & NVMX_EPT_LARGE) == 0;
}

/* -- walk.c
 * -----------------------------------------------------------------------------------------------------------------------
 */

/* A walk of ept12: what was read (each entry once) and what follows from it. Arrays are indexed by level, 1 to 5. */
struct ept_walk {
    enum nvmx_ept_entry result; /* LEAF: gpa1 is the translation */
    struct ept_table *start;    /* of ept02, composed from the table of ept12 that was read first; NULL: the root's */
    unsigned int from;          /* level of the first entry that was read */
    unsigned int level;         /* of the last one */
    uint64_t table[6];          /* gpa1 of the tables */
    uint64_t entry[6];          /* above `from`: as remembered by ept02 */
    uint64_t rights;            /* AND of bits 2:0 (and 10 with mbec) of all; 0 if an entry was not present. Bits 60, 61: see below */
    uint64_t above;             /* the same without the last entry */
    uint64_t gpa1;
    bool mbec;
    bool ad;      /* EPTP12 enables accessed and dirty flags */
    bool shadow_stack; /* EPTP12 enables supervisor shadow-stack control: bit 60 of a leaf under writable entries is a right */
    bool spp;     /* sub-page permissions are on: bit 61 of a 4-KByte page that only lacks the right to write is one */
    bool dirtied; /* the leaf's dirty flag went from 0 to 1 by this walk */
    bool five_levels;
    unsigned int ahead_want; /* entries that are to be read behind the leaf */
    unsigned int ahead_count;
    uint64_t ahead[EPT_AHEAD_MAX];
};

/* Address bits from 12 on that SDM 31.3.2 reserves beyond L1's physical-address width. */
uint64_t ept_reserved_address(const struct nvmx_caps *l1);
void ept_walk_start(struct ept_walk *walk, uint64_t eptp12, bool mbec);
void ept_walk_run(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2);
/* SDM 31.3.5: set the accessed flags of the entries read, and the leaf's dirty flag for a write. False: L1 changed one
 * meanwhile. ept_walk_lacks_flags: is there one to set? */
bool ept_walk_lacks_flags(const struct ept_walk *walk, bool write);
bool ept_walk_set_flags(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2, bool write);

/* -- op.c: operations, epochs, flushes
 * --------------------------------------------------------------------------------------------------------- */

static inline void ept_lock(struct nvmx_ept *ept) {
    while (__atomic_exchange_n(&ept->lock, 1, __ATOMIC_ACQUIRE) != 0) {
        while (__atomic_load_n(&ept->lock, __ATOMIC_RELAXED) != 0) {
            __builtin_ia32_pause();
        }
    }
}

static inline void ept_unlock(struct nvmx_ept *ept) {
    __atomic_store_n(&ept->lock, 0, __ATOMIC_RELEASE);
}

/*
 * Epochs. The epoch moves on from e only when no operation runs that began in e - 1 (ept_drain), so that all that run began in
 * e or e - 1. What was unlinked while the epoch was t is known to nobody once it is t + 2.
 */
static inline uint64_t ept_epoch_enter(struct nvmx_ept *ept) {
    for (;;) {
        uint64_t epoch = __atomic_load_n(&ept->epoch, __ATOMIC_SEQ_CST);

        __atomic_fetch_add(&ept->active[epoch & 1], 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&ept->epoch, __ATOMIC_SEQ_CST) == epoch) {
            return epoch;
        }
        __atomic_fetch_sub(&ept->active[epoch & 1], 1, __ATOMIC_SEQ_CST);
    }
}

/* Does anybody else work on the composition? `own`: operations that the caller is in. */
static inline bool ept_others_at_work(const struct nvmx_ept *ept, uint32_t own) {
    return __atomic_load_n(&ept->active[0], __ATOMIC_SEQ_CST) + __atomic_load_n(&ept->active[1], __ATOMIC_SEQ_CST) > own;
}

/* `root`: of the slots that will be filled, or NULL. */
void ept_begin(struct ept_op *op, struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root);
/* The same for an operation that takes nothing out of ept02: it neither flushes nor leaves garbage. */
void ept_begin_filling(struct ept_op *op, struct nvmx_ept *ept, struct ept_root *root);
void ept_end_filling(const struct ept_op *op);
/* Make the flush that was asked for, then give up what was unlinked and free what nobody can know any more. */
void ept_end(struct ept_op *op);
/* To be called before an entry that the CPU may have read is taken out. */
void ept_announce(struct ept_op *op);
void ept_want_flush(struct ept_op *op, uint64_t eptp02);
/* The operation has unlinked this table. */
void ept_discard(struct ept_op *op, struct ept_table *table);

/* -- table.c: pages, tables, room
 * -------------------------------------------------------------------------------------------------------------- */

/* A new table, not yet linked. NULL: there is no page within the budget, or the host has none: then *refused becomes true. */
struct ept_table *ept_table_new(struct nvmx_ept *ept, bool *refused);
/* It was never linked, or nobody can know it any more. */
void ept_table_free(struct nvmx_ept *ept, struct ept_table *table);
/* Give pages back that were not used for long, but none that operation `keep` used. Not between ept_begin and ept_end. False:
 * there is nothing that can be given. */
bool ept_make_room(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t keep);
/* Free what was unlinked and flushed, as far as no operation that runs can know it. */
void ept_drain(struct nvmx_ept *ept);
void ept_free_slabs(struct nvmx_ept *ept);

/* -- slot.c: how entries of ept02 change; and the tree of tables
 * ------------------------------------------------------------------------------- */

/* Take a slot that holds `old`, to fill it; it permits nothing until ept_slot_publish. False: it changed, or what was read may be
 * out of date: the access is to be tried again. A reference in `old` is discarded by the caller, or published again. */
bool ept_slot_claim(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t old);
/* False: as for ept_slot_claim; the slot is empty then. */
bool ept_slot_publish(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t hw, uint64_t composed);
/* Both, for a slot that is empty: true if it holds `hw` now. */
bool ept_slot_fill(struct ept_op *op, struct ept_table *table, unsigned int index, uint64_t hw, uint64_t composed);
/* Empty a slot, whatever it holds; asks for the flush. */
void ept_slot_clear(struct ept_op *op, struct ept_table *table, unsigned int index);
void ept_table_clear(struct ept_op *op, struct ept_table *table);
/* Withdraw the right to write from a leaf. */
void ept_slot_protect(struct ept_op *op, struct ept_table *table, unsigned int index);
/* The table to which a slot refers that was read as `hw`. NULL: the slot has changed. */
static inline struct ept_table *ept_child(const struct ept_table *table, unsigned int index, uint64_t hw) {
    uint64_t composed = ept_load(&table->composed[index]);

    return ept_load(&table->hw[index]) == hw ? (struct ept_table *)(uintptr_t)composed : NULL;
}
/* Note that `table` and those above it were used by the operation... */
void ept_table_stamp(const struct ept_op *op, struct ept_table *table);
/* ... and now lead to [first, last] in gpa1. Before that is so. */
void ept_table_use(const struct ept_op *op, struct ept_table *table, uint64_t first, uint64_t last);

/* All tables of a root, each before those below it; slots may change meanwhile, and claims of references are spoilt. */
struct ept_tree {
    struct ept_op *op;
    uint64_t first, last; /* tables that lead nowhere in this range of gpa1 are left out */
    unsigned int depth;
    struct ept_table *table[5];
    struct ept_slots slots[5];
};
void ept_tree_start(struct ept_tree *tree, struct ept_op *op, struct ept_table *top, uint64_t first, uint64_t last);
/* The next table, or NULL. */
struct ept_table *ept_tree_next(struct ept_tree *tree);

/* -- root.c
 * ---------------------------------------------------------------------------------------------------------------------------
 */

uint64_t ept_root_key(uint64_t eptp12, bool mbec, bool spp);
/* The user's last nvmx_ept_root gave NVMX_E_NO_MEMORY for what others take, or hold until they are done. Asked once. */
bool ept_root_waits(struct nvmx_ept *ept, unsigned int user);
/* The root with this key, which does not ask for sub-page permissions. NULL: there is none. */
struct ept_root *ept_root_find(struct nvmx_ept *ept, uint64_t key);
/* The root with this key and SPPTP12 (0 if the key does not ask for sub-page permissions); under the lock. */
struct ept_root *ept_root_find_spp(struct nvmx_ept *ept, uint64_t key, uint64_t spptp12);

/* The tops of a root. The second one may be NULL. */
struct ept_tops {
    struct ept_table *ept, *sppt;
};
/* Under the lock: take the root away that was not used for longest, of those that nobody uses and that operation `keep`
 * did not use. Returns what hung on it; nothing: there is none. */
struct ept_tops ept_root_retire(struct nvmx_ept *ept, uint64_t keep);
/* They are out of use. */
void ept_discard_tops(struct ept_op *op, const struct ept_tops *tops);

static inline bool ept_key_mbec(uint64_t key) {
    return (key & 1) != 0;
}

static inline bool ept_key_spp(uint64_t key) {
    return (key & 2) != 0;
}

/* -- map.c
 * --------------------------------------------------------------------------------------------------------------------------------
 */

enum ept_mapped {
    EPT_MAPPED,
    EPT_MAPPED_ALREADY, /* just so */
    EPT_MAPPED_NOT,     /* something changed: to be tried again */
    EPT_MAPPED_NO_ROOM, /* op->no_room is set */
};

/* Map in ept02 the page that a walk found, `rights` and `mapping` being what may be permitted. */
enum ept_mapped ept_map(struct ept_op *op, uint64_t gpa2, const struct ept_walk *walk, uint64_t rights,
                        const struct nvmx_ept01_mapping *mapping);
/* A table that is to hang below a slot. */
struct ept_wanted {
    uint64_t entry12; /* of ept12, that refers to the table or is split */
    uint64_t gpa1;    /* NVMX_NO_ADDRESS: a split page */
    uint64_t hw_flags;
};
/* Make it, in the place of what the slot holds: `hw`, which leads to `old` if that is not NULL. NULL: op->no_room, or
 * something changed. */
struct ept_table *ept_link(struct ept_op *op, struct ept_table *parent, unsigned int index, uint64_t hw,
                           struct ept_table *old, const struct ept_wanted *wanted);
/* Take out what ept02 has for this address. `walk`: unless that is what this walk of ept12 has come to, or less; or NULL. */
void ept_unmap(struct ept_op *op, uint64_t gpa2, const struct ept_walk *walk);
/* L1 gets a violation that this walk has found. It invalidates what a CPU has for the address (SDM 31.4.3.1), as old as that may be, by whatever mode of the
 * tables it got there: mappings are told apart by bits 51:12 of the EPTP alone. So L1 may rely on it. */
void ept_violation_told(struct ept_op *op, uint64_t eptp12, uint64_t gpa2, const struct ept_walk *walk);
/* How many pages to map ahead of this violation. Violations one after the other double it, others halve it. */
unsigned int ept_stream_window(struct ept_root *root, uint64_t gpa2);
/* Rights that a page may get in ept02 whose entries in ept12 grant `rights12`, the last one being `leaf12`: those of ept12 and of ept01, in a form that the
 * machine does not call misconfigured. `write`: the access that is resolved has set the dirty flag. */
uint64_t ept_common_rights(const struct nvmx_ept *ept, const struct ept_walk *walk, uint64_t rights12, uint64_t leaf12,
                           uint32_t access01, bool write);

/* -- subpage.c: sub-page permissions
 * -------------------------------------------------------------------------------------------------------------------------
 */

enum ept_sub_page {
    EPT_SUB_PAGE_WRITABLE,
    EPT_SUB_PAGE_PROTECTED,
    EPT_SUB_PAGE_MISS,
    EPT_SUB_PAGE_MISCONFIG,
};

/* A walk of L1's sub-page-permission table, each entry read once. Arrays are indexed by level; entry[1] is the vector.
 */
struct ept_sppt_walk {
    uint64_t table[SPPT_LEVELS + 1];
    uint64_t entry[SPPT_LEVELS + 1];
};

/* Walk, for a write of `bytes` from gpa2 on, within a page. */
enum ept_sub_page ept_sppt_walk(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_sppt_walk *walk, uint64_t spptp12,
                                uint64_t gpa2, uint32_t bytes);
/* SPPT02 gets the vector that was found. */
enum ept_mapped ept_sppt_fill(struct ept_op *op, uint64_t gpa2, const struct ept_sppt_walk *walk);
/* A write has exited for which nothing had to be done: is it to be refused? _cleared: another one has. */
bool ept_refused_again(struct ept_root *root, const void *vcpu_ctx, uint64_t gpa2);
void ept_refused_cleared(struct ept_root *root, const void *vcpu_ctx);

/* -- short.c: the violation that is nothing but a first touch
 * ------------------------------------------------------------------------------------------------ */

enum ept_short {
    EPT_SHORT_NOT = 0, /* not to be decided here: nothing happened */
    EPT_SHORT_ABSENT,  /* the same, and the entry of ept12 at the end of what ept02 remembers is not present */
    EPT_SHORT_DONE,    /* mapped, or to be tried again */
};

/* What the short way takes for plain in a root of this EPTP12. */
void ept_short_init(struct ept_plain *plain, const struct nvmx_caps *l1, uint64_t eptp12, bool mbec);
enum ept_short ept_fault_short(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root, uint64_t gpa2, uint64_t *gpa1);

/* -- invalidate.c
 * -------------------------------------------------------------------------------------------------------------------------
 */

/* Drop what ept02 composed from entries of ept12 that have changed since. */
void ept_root_validate(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root);

#endif
