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

/* Exit qualification of EPT violations (SDM 30.2.1, table 30-7). */
#define EPT_Q_READ            (UINT64_C(1) << 0)
#define EPT_Q_WRITE           (UINT64_C(1) << 1)
#define EPT_Q_FETCH           (UINT64_C(1) << 2)
#define EPT_Q_ACCESS          (EPT_Q_READ | EPT_Q_WRITE | EPT_Q_FETCH)
#define EPT_Q_EXECUTABLE      (UINT64_C(1) << 5)
#define EPT_Q_USER_EXECUTABLE (UINT64_C(1) << 6)
#define EPT_Q_LINEAR          (UINT64_C(1) << 7)
#define EPT_Q_FINAL           (UINT64_C(1) << 8)
#define EPT_Q_USER_MODE       (UINT64_C(1) << 9)
#define EPT_Q_ADVANCED        (UINT64_C(7) << 9)
#define EPT_Q_NMI_UNBLOCKING  (UINT64_C(1) << 12)
#define EPT_Q_ASYNCHRONOUS    (UINT64_C(1) << 16)

#define EPT_USERS             256u
#define EPT_ROOTS             (EPT_USERS + 16u) /* one for each user, and some that nobody uses now */
#define EPT_NO_ROOT           UINT16_MAX
#define EPT_ROOTS_IDLE_MAX    16u

/*
 * One table page of ept02. `hw` is what the CPU walks. For each slot in use `composed` says from what it was made: for
 * a leaf the entry of ept12, for a reference the address of the struct ept_table below. A slot is in use while hw[slot]
 * is not 0.
 *
 * Tables mirror those of ept12 level by level; where a page of ept12 is larger than what can be mapped, a table without
 * counterpart in ept12 (gpa1 is NVMX_NO_ADDRESS) splits it.
 */
struct ept_table {
    uint64_t *hw;
    uint64_t hw_hpa;
    uint64_t *composed;
    uint64_t composed_hpa;
    struct ept_table *parent;        /* NULL: a root */
    struct ept_table *newer, *older; /* by use; of a table that is not linked only `older`, to the next of its list */
    uint64_t gpa1;                   /* of the table page of ept12 */
    uint64_t entry12;                /* the entry of ept12 that led here, or the large page that is split */
    uint64_t leaf_first, leaf_last;  /* bounds in gpa1 of all that was mapped here; first > last: nothing */
    uint64_t stamp;                  /* operation that used it last */
    uint16_t index;                  /* slot in the parent */
    uint16_t root;
    uint16_t children; /* slots that refer to tables */
    uint8_t level;
    uint64_t used[8]; /* a bit for each slot that is not empty */
};

struct ept_root {
    uint64_t key; /* see ept_root_key */
    uint64_t eptp02;
    struct ept_table *top; /* NULL: free */
    uint64_t last_use;
    uint32_t users;
    bool stale; /* invalidated while nobody used it: compare with ept12 before the next use */
};

/* A page of struct ept_table. */
#define EPT_SLAB_TABLES 24u
struct ept_slab {
    struct ept_slab *next;
    uint64_t hpa;
    struct ept_table table[EPT_SLAB_TABLES];
};
_Static_assert(sizeof(struct ept_slab) <= NVMX_PAGE_SIZE, "a slab is a page");

struct nvmx_ept {
    struct nvmx_host host; /* completed with NULL past the caller's size */
    void *vm_ctx;
    struct nvmx_caps l1;
    struct nvmx_caps machine;
    uint32_t page_budget;
    uint32_t pages;
    uint64_t stamp;                    /* number of the operation that runs */
    struct ept_table *newest, *oldest; /* all linked tables but the roots */
    struct ept_table *garbage;         /* unlinked; freed after the flush */
    struct ept_table *unused;
    struct ept_slab *slabs;
    uint16_t flush_root; /* root to flush; EPT_NO_ROOT: none */
    bool flush_all;
    uint16_t user_root[EPT_USERS];
    uint32_t root_end; /* roots from here on have never been used */
    struct ept_root root[EPT_ROOTS];
};

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

/* A slot of ept02, and the note that it is (not) empty. */
static inline void ept_slot_store(struct ept_table *table, unsigned int index, uint64_t hw) {
    uint64_t bit = UINT64_C(1) << (index % 64);

    table->used[index / 64 & 7] = hw != 0 ? table->used[index / 64 & 7] | bit : table->used[index / 64 & 7] & ~bit;
    ept_store(&table->hw[index], hw);
}

/* Does a slot of ept02 in use refer to a table? */
static inline bool ept_is_reference(unsigned int level, uint64_t hw) {
    return hw != 0 && level > 1 && (hw & NVMX_EPT_LARGE) == 0;
}

static inline struct ept_table *ept_child(const struct ept_table *table, unsigned int index) {
    return (struct ept_table *)(uintptr_t)table->composed[index];
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
    uint64_t rights;            /* AND of bits 2:0 (and 10 with mbec) of all; 0 if an entry was not present */
    uint64_t gpa1;
    bool mbec;
    bool ad;      /* EPTP12 enables accessed and dirty flags */
    bool dirtied; /* the leaf's dirty flag went from 0 to 1 by this walk */
    bool five_levels;
};

void ept_walk_start(struct ept_walk *walk, uint64_t eptp12, bool mbec);
void ept_walk_run(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2);
/* SDM 31.3.5: set the accessed flags of the entries read, and the leaf's dirty flag for a write. False: L1 changed one
 * meanwhile. ept_walk_lacks_flags: is there one to set? */
bool ept_walk_lacks_flags(const struct ept_walk *walk, bool write);
bool ept_walk_set_flags(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_walk *walk, uint64_t gpa2, bool write);

/* -- table.c: pages, tables, their order by use
 * ------------------------------------------------------------------------------------ */

/* A new table, in use by the operation that runs, not yet linked; NULL: no memory. May take tables away from elsewhere
 * in ept02, but none that carries the present stamp. */
struct ept_table *ept_table_new(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int level);
/* Link a new table into a free slot of `parent`. */
void ept_table_link(struct nvmx_ept *ept, struct ept_table *parent, unsigned int index, struct ept_table *table,
                    uint64_t hw);
/* The operation that runs uses this table and those above it. */
void ept_table_use(struct nvmx_ept *ept, struct ept_table *table);
/* Empty a slot, whatever it holds; asks for the flush. */
void ept_slot_clear(struct nvmx_ept *ept, struct ept_table *table, unsigned int index);
void ept_table_clear(struct nvmx_ept *ept, struct ept_table *table);
/* Take a root away that nobody uses; its pages become garbage. */
void ept_root_drop(struct nvmx_ept *ept, unsigned int root);
void ept_want_flush(struct nvmx_ept *ept, unsigned int root);
/* Make the flush that was asked for, then free what nothing refers to any more. Ends every operation. */
void ept_settle(struct nvmx_ept *ept, void *vcpu_ctx);
void ept_free_slabs(struct nvmx_ept *ept);

/* -- root.c
 * ---------------------------------------------------------------------------------------------------------------------------
 */

uint64_t ept_root_key(uint64_t eptp12, bool mbec);
/* The root with this key, or NULL. */
struct ept_root *ept_root_find(struct nvmx_ept *ept, uint64_t key);

static inline bool ept_key_mbec(uint64_t key) {
    return (key & 1) != 0;
}

static inline unsigned int ept_root_index(const struct nvmx_ept *ept, const struct ept_root *root) {
    return (unsigned int)(root - ept->root);
}

/* -- map.c
 * --------------------------------------------------------------------------------------------------------------------------------
 */

/* Map in ept02 the page that a walk found, `rights` and `mapping` being what may be permitted. NVMX_OK, or
 * NVMX_E_NO_MEMORY. */
enum nvmx_status ept_map(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root, uint64_t gpa2,
                         const struct ept_walk *walk, uint64_t rights, const struct nvmx_ept01_mapping *mapping,
                         bool *was_there);

/* -- invalidate.c
 * -------------------------------------------------------------------------------------------------------------------------
 */

/* Drop what ept02 composed from entries of ept12 that have changed since. */
void ept_root_compare(struct nvmx_ept *ept, void *vcpu_ctx, struct ept_root *root);

#endif
