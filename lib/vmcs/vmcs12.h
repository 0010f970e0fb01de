/* SPDX-License-Identifier: MIT */
/* Internal: a vmcs12 in the cache of a vCPU, and what is known of the vmcs02 that runs it (README.md). Included by vcpu.h. */
#ifndef NVMX_LIB_VMCS_VMCS12_H
#define NVMX_LIB_VMCS_VMCS12_H

#include "msr/bitmap.h"
#include "vmcs/gates.h"
#include "vmcs/shadow_state.h"

/* A page of L1's memory that stays mapped while a vmcs02 may use it. gpa1 == NVMX_NO_ADDRESS: none. */
struct pin {
    uint64_t gpa1;
    uint64_t hpa;
    void *page;
    bool own; /* L1 has nothing at gpa1: a page of the library's has its place */
};

/* Pages that a vmcs02 uses in place. */
enum pin_index { PIN_IO_A = 0, PIN_IO_B, PIN_VIRTUAL_APIC, PIN_APIC_ACCESS, PIN_POSTED_DESCRIPTOR, PIN_COUNT };

/* At most so many fields of vmcs01 does an exit load from vmcs12's host-state area (vmcs/host_state.c). */
#define L1_STATE_FIELDS 72

/* What each exit of L2 reads into vmcs12's slots: some fields always (vmcs/sync.c), and those listed. */
struct sync_list {
    uint32_t count;
    uint32_t all; /* with those of `saved_later`, which follow */
    uint32_t encoding[NVMX_FIELD_COUNT];
    uint8_t slot[NVMX_FIELD_COUNT];
    struct nvmx_field_set fields;      /* all that is read */
    uint64_t shown;                    /* places (vmcs/shadow.h) of those among the first `count` that hardware VMCS shadowing shows L1 */
    bool covers_shadow;                /* no exit leaves a field stale that hardware VMCS shadowing shows L1 */
    struct nvmx_field_set saved_later; /* what else the exit saves: it stays in vmcs02 */
    struct nvmx_field_set lost;        /* guest state of vmcs02 of which nothing is known afterwards */
};

/* A recently used vmcs12 and the vmcs02 that runs it. */
struct vmcs12 {
    uint64_t gpa1;             /* of the region in L1's memory; NVMX_NO_ADDRESS: the slot is free */
    uint64_t was_gpa1;         /* of the one that had the slot before, where vmcs02 and all else here are still its; else NVMX_NO_ADDRESS */
    uint64_t last_use;         /* for LRU */
    bool launched;             /* launch state */
    bool is_shadow;            /* a shadow VMCS: L1 can't enter it */
    bool vmcs02_ready;         /* vmcs02 was reset and written once for this vmcs12 */
    bool pages_merged;         /* so are its bitmaps, pages, EPT root and VPID, but for the contents of L1's bitmaps */
    bool pages_alone;          /* pages_merged, and no entry needs to look at I/O bitmaps, or to ask the host for a root */
    bool msr_words;            /* vmcs02's MSR bitmap has words that each entry merges anew */
    bool keeps_msrs;           /* some of its bits are set whatever both bitmaps have (merge_keep_msrs) */
    bool controls_merged;      /* vmcs02's controls are right but for the dirty fields */
    bool l1_state_ready;       /* l1_state[] is made of the present host-state area and VM-exit controls */
    bool sync_ready;           /* `sync` is made of the present `learned` and `saved` */
    bool settled;              /* nothing but an exit's core fields became known, or ceased to be stale, since the last exit */
    bool watched_stand;        /* the part of l1_state from l1_watched on is what vmcs01 is known to hold of it, and the next exit changes nothing of it */
    bool plain;                /* the controls are such that most entries need little: exits/enter.c. Not without pages_alone, nor without controls_merged */
    bool writes_more;          /* such entries write `rewritten`, or follow msr_words; with plain */
    uint16_t vpid02;           /* VPID given to vmcs02; 0: none */
    uint32_t bitmap_bits;      /* primary controls of vmcs02 about I/O and MSR bitmaps and the TPR shadow */
    uint64_t shadow_behind;    /* places (vmcs/shadow.h) where it changed since its shadow VMCS was filled: bits */
    uint32_t gates_loaded;     /* gates (bits 1 << GATE_) that the entry loads from vmcs12 */
    uint32_t gates_by_msr;     /* gates that the exit loads from vmcs12 by MSR writes; with l1_state_ready */
    uint32_t checked; /* groups (1 << enum nvmx_field_group) whose checks passed and that L1 has not written since */
    struct nvmx_field_set dirty;   /* written by L1 since the last entry */
    struct nvmx_field_set stale;   /* the truth is in vmcs02 */
    struct nvmx_field_set saved;   /* guest state that an exit stores into vmcs12, by its controls */
    struct nvmx_field_set learned; /* stale fields that L1 read after earlier exits: read ahead of time */
    struct nvmx_field_set known;   /* image[] equals what vmcs02 holds */
    /* These follow from the merged controls (merge.c). */
    struct nvmx_field_set refreshed; /* guest state that vmcs02 must hold as vmcs12 has it, unless stale */
    struct nvmx_field_set inherited; /* guest state where L2 gets what L1 has */
    uint32_t gates_inherited;        /* as bits */
    uint32_t gates_found;            /* gates that the last exit found in vmcs02 as found[] has them, until the next entry */
    bool own_pdptes;                 /* L2's PDPTEs are vmcs12's fields */
    uint32_t inherited_count;
    uint32_t inherited_watched; /* the first of them are watched */
    uint32_t inherited_same;    /* all of those or none: vmcs02 holds what L1 has, and vmcs01 need not be read for it */
    uint32_t inherited_efer; /* place of IA32_EFER among them, from 1 on; 0: not */
    uint64_t rewritten_count; /* of `refreshed` what no exit saves: L2 may change it, so each entry writes it */
    uint8_t rewritten[GATES_MAX + 7]; /* slots: gates, CR0, CR4, the timer, PDPTEs */
    uint32_t inherited_encoding[GATES_MAX];
    uint8_t inherited_gate[GATES_MAX];
    struct pin pin[PIN_COUNT];
    struct bitmap_overlay msr_bitmap;
    struct bitmap_overlay io_bitmap[2];
    /* From here on nothing counts until a member above says so: vmcs12_init leaves it. */
    struct sync_list sync;
    uint64_t value[NVMX_FIELD_COUNT];
    uint64_t image[NVMX_FIELD_COUNT];
    uint32_t l1_count;               /* fields in l1_state */
    uint32_t l1_inherited;           /* from here on: those where L1 keeps what L2 left, and that may have changed */
    uint32_t l1_inherited_count;
    uint16_t l1_inherited_efer;      /* IA32_EFER among them; 0: not */
    uint16_t l1_inherited_protected; /* IA32_SPEC_CTRL among them, of which vmcs01 protects bits; 0: not */
    uint32_t l1_watched;             /* from here on: what is in nvmx_vcpu.watched, in its order; l1_count: nothing is watched */
    uint32_t l1_watched_kept;        /* gates (bits) among them where L1 keeps what L2 left */
    uint32_t l1_encoding[L1_STATE_FIELDS];
    uint8_t l1_gate[GATES_MAX]; /* of those from l1_inherited on */
    uint64_t l1_state[L1_STATE_FIELDS];
    uint64_t found[GATES_MAX]; /* by gates, those of gates_found */
    struct shadow_vmcs *shadow; /* of the place in the cache; all have one, or each its own */
};
_Static_assert(sizeof(struct vmcs12) % 512 != 0, "an index is one multiplication, not four shifts and sums: move rewritten_count to 32 bits or back");

#endif
