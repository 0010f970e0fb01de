/* SPDX-License-Identifier: MIT */
/*
 * The harness "vcpus" in three files: what the vCPUs share and their processors' TLBs (vcpus_world.c), L1's and L2's
 * steps with the model of what each may see (vcpus_guests.c), the host's steps and the run (vcpus.c).
 */
#ifndef FUZZ_VCPUS_H
#define FUZZ_VCPUS_H

#include "fuzz.h"

#define U(value)    ((unsigned long long)(value))
#define NONE        (-1)

#define CPUS        3u  /* as many processors as L1 has */
#define REGIONS     4u  /* VMCSs, which the processors of L1 hand to each other */
#define PAGES       16u /* of L2, from gpa2 0 on; linear addresses are the same */
#define TARGETS     24u /* pages of L1 that they may be */
#define FRAMES      32u /* where those may lie */
#define TREES       2u
#define EPTPS       4u  /* each with and without accessed and dirty flags */
#define VPIDS       6u /* of L1, from 1 on */
#define TLB         32u
#define CHANGES     12u /* of a page's entry in ept12 that are remembered */

#define TARGET_GPA1 SIM_L2_GPA1
#define FRAME_HPA   (UINT64_C(1) << 39)
#define NOBODY      UINT64_MAX

/* L1's memory beside what tests/sim.h names; ept12's first tree is at SIM_L1_EPT12. */
#define TREE(n)        (SIM_L1_EPT12 + 0x4000u * (n))
#define REGION(n)      (0x20000u + 0x1000u * (n))
#define L1_VMXON(id)   (0x28000u + 0x2000u * (id))
#define L1_OPERAND(id) (0x29000u + 0x2000u * (id))
/* The virtual-APIC page of a VMCS: one of L1's that move, and two VMCSs have the same. */
#define APIC_TARGET(region) ((region) < 2 ? 3u : 20u)
#define TARGET(n)      (TARGET_GPA1 + (n) * NVMX_PAGE_SIZE)

/* What a processor keeps of an access that got through (SDM 31.4): for whom it was, and when. */
struct translation {
    bool valid;
    uint64_t vpid02, eptp02, page, hpa, rights, born;
    int l1;          /* whose L2 it was of */
    uint64_t vpid12; /* 0: without */
};

/* A processor of the host, and the vCPU that it runs. */
struct cpu {
    struct sim *sim;
    uint8_t *own_ram;
    unsigned int l1; /* which of L1's processors the vCPU is */
    bool in_guest;   /* entered, and nobody has brought it out */
    struct translation tlb[TLB];
    unsigned int next;
};

/* A processor of L1: what it knows, and when it invalidated what. */
struct l1 {
    enum nvmx_mode mode;
    int current;      /* REGIONS: one knows after VMPTRST only */
    uint64_t entered; /* L2, last */
    uint64_t invept[TREES], invept_all, invvpid[VPIDS + 1], invvpid_page[VPIDS + 1][PAGES], invvpid_all;
    uint64_t violated[EPTPS][PAGES]; /* got an EPT violation for the page */
};

struct region {
    int active; /* on which of L1's processors, or NONE */
    bool known; /* the rest is so */
    bool launched;
    uint64_t tag;    /* a field of L2's that nobody else writes */
    uint64_t vpid12; /* 0: without */
    unsigned int eptp;
};

/* The leaf of a page in a tree: what it is, and was. */
struct leaf {
    struct {
        uint64_t value, time;
    } was[CHANGES];  /* the newest is the last */
    bool flags_lost; /* a callback failed where its accessed and dirty flags were due: SECURITY.md, memory that is not there */
};

struct world {
    struct fuzz_input *in;
    struct sim *sim; /* memory and pages of the VM; it runs nothing */
    struct cpu cpu[CPUS];
    struct l1 l1[CPUS];
    struct region region[REGIONS];
    struct leaf leaf[TREES][PAGES];
    uint64_t ept01[TARGETS]; /* frame << 12 | access; 0: a hole */
    uint64_t owner[FRAMES];  /* target, or NOBODY */
    uint64_t now;
    uint8_t fails;                 /* a callback is to fail in the next step of a guest: see vcpus.c; 0: none */
    bool failed;                   /* it did */
    uint8_t image[NVMX_PAGE_SIZE]; /* of a region whose vmcs12 is good */
    bool made;
};

extern struct world world;

static inline struct l1 *l1_of(const struct cpu *c) {
    return &world.l1[c->l1];
}

/* -- vcpus_world.c -------------------------------------------------------------------------------------------- */

/* All as after power-up, with options by a byte. */
void world_start(uint8_t options);
/* Destroys all: nothing is left mapped or allocated. */
void world_end(void);
/* The vCPU of a processor, from nothing, outside VMX operation. */
void vcpu_make(struct cpu *c);
void vcpu_destroy(struct cpu *c);
void power_up(struct cpu *c);
/* What ept02 has for a page of L2, walked as the processor does: the leaf's hpa, and the rights of all levels. False:
 * the walk ended before. */
bool walk_ept02(const struct cpu *c, uint64_t page, uint64_t *hpa, uint64_t *rights);
/* A region of L1's that nobody uses gets a vmcs12 that is right, as VMCLEAR leaves it. */
void fill_region(unsigned int which);
void set_leaf(unsigned int tree, uint64_t page, uint64_t value);
uint64_t leaf_now(unsigned int tree, uint64_t page);
/* The host finds a frame for a page of L1, if it has none, and gives all rights: what is only gained needs no call. */
void give(uint64_t target);

/* -- vcpus_guests.c ------------------------------------------------------------------------------------------- */

extern const uint64_t eptp12_of[EPTPS];
static inline unsigned int tree_of(unsigned int eptp) {
    return eptp / 2;
}
void l1_step(struct cpu *c, uint8_t what);
void l2_step(struct cpu *c, uint8_t what);
/* A callback failed in the step: what the library left of VMX operation and VMCSs is taken as it is. */
void forget(struct cpu *c);
/* The vCPU is gone, or reset: nothing is active on it any more. */
void l1_is_off(struct cpu *c);

#endif
