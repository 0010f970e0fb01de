/* SPDX-License-Identifier: MIT */
/*
 * A world for testing the composition of ept12 and ept01: L1's memory, an ept01, a page allocator that can fail, a CPU
 * that walks ept02 and has a TLB for each vCPU, and a reference model that walks ept12 and then ept01 for every access.
 */
#ifndef TESTS_UNIT_EPT_WORLD_H
#define TESTS_UNIT_EPT_WORLD_H

#include <nvmx/ept.h>

#define WORLD_L1_PAGES   80u        /* L1's tables are in gpa1 [0, WORLD_L1_PAGES * 4 KiB) */
#define WORLD_PFNS       (1u << 19) /* ept01 covers 2 GiB of gpa1 */
#define WORLD_HOST_PAGES 4096u
#define WORLD_VCPUS      2u
#define WORLD_TLB        64u
#define WORLD_TABLE_HPA  (UINT64_C(1) << 38) /* the host's own pages */

/* ept01, one of these for each 4 KiB. The page frame's low 19 bits are the gpa1's, those above count how often it
 * moved. */
struct world_page01 {
    uint32_t pfn;
    uint8_t access; /* 0: not mapped */
    uint8_t type;
    uint8_t ignore_pat;
    uint8_t shift;
};

struct world_translation {
    bool valid;
    uint64_t eptp02, gpa2, hpa; /* pages */
    uint64_t rights;            /* bits 2:0 and 10 */
    uint64_t type;              /* bits 6:3 of the leaf */
    bool sub_page;              /* bit 61 of a 4-KByte leaf */
    bool has_vector;            /* of SPPT02 */
    uint64_t vector;
    uint64_t table[6];          /* hpa of the tables that were used */
    uint64_t sppt[5];           /* the same of SPPT02 */
};

struct world {
    uint64_t l1[WORLD_L1_PAGES][512];
    uint64_t expected[WORLD_L1_PAGES][512]; /* l1 as the model leaves it */
    uint16_t entries[WORLD_L1_PAGES];       /* for who notes it: of this page all from here on but the last are 0 */
    struct world_page01 *ept01;
    void *host_page[WORLD_HOST_PAGES];
    struct world_translation tlb[WORLD_VCPUS][WORLD_TLB];
    struct nvmx_host host;
    struct nvmx_caps l1_caps, machine;
    struct nvmx_ept *ept;
    void *memory;
    uint64_t random;
    uint32_t allocated, freed, maps, unmaps, flushes, lookups;
    unsigned int fail_percent;     /* of page allocations */
    unsigned int map_fail_percent; /* of page maps */
    bool unwritable;               /* no page of L1 can be mapped for writing */
    uint32_t most_pages;           /* that the host has, if it is not 0 */
    enum nvmx_status lookup_status;
    unsigned int vcpu; /* that calls the composition */
    /* What another processor does while this one is in a callback; called once, then NULL again. */
    void (*in_map)(struct world *w);
    void (*in_lookup)(struct world *w);
    void (*in_flush)(struct world *w);
    bool mbec;
    bool spp;         /* sub-page write permissions are on: bit 61 means something in ept12 and may be in ept02 */
    uint64_t spptp12; /* of what the model is asked about, */
    uint64_t spptp02; /* and what the CPU has: set with it */
    bool spp_event;   /* the CPU's last refusal was an SPP-related event */
    bool versions; /* the host knows which pages of L1 were written: page_version */
    uint32_t version_calls;
    uint64_t without_version; /* this page never has a number, if it is not 0 */
    uint64_t versions_given, together; /* the number of all pages together, or 0 */
    uint64_t version[WORLD_L1_PAGES];  /* 0: it has no number */
    uint64_t seen[WORLD_L1_PAGES][512]; /* as they had that version */
    bool written[WORLD_L1_PAGES];       /* since, also if they are again as they were: by the library, or by who says so */
};

/* An access of L2. */
struct world_access {
    uint64_t kind; /* bits 2:0 as in the exit qualification */
    bool linear;   /* there is a linear address */
    bool walk;     /* to a paging structure of L2 */
    bool user;     /* user-mode linear address */
};

enum world_outcome { WORLD_OK = 0, WORLD_VIOLATION, WORLD_MISCONFIG, WORLD_HOST, WORLD_SPP_EVENT };

/* What the model says. */
struct world_answer {
    enum world_outcome outcome;
    uint64_t qualification; /* bits 6:0; of an SPP-related event bit 11 */
    uint64_t gpa1, hpa;
    uint64_t type; /* bits 6:3 of the leaf that ept02 should have */
};

/* Capabilities: EPT_VPID bits of the machine; L1 gets the same. */
#define WORLD_CAPS_PLAIN    ((1u << 0) | (1u << 6) | (1u << 8) | (1u << 14) | (1u << 16) | (1u << 17) | (1u << 20))
#define WORLD_CAPS_AD       (1u << 21)
#define WORLD_CAPS_ADVANCED (1u << 22)

struct world *world_new(uint64_t ept_vpid_cap, uint32_t page_budget);
/* Destroys the composition and checks that nothing leaked. */
void world_delete(struct world *w);
/* The same in memory of the caller's, all 0 but for `ept01`, which leads to WORLD_PFNS pages; world_end frees what world_start made. */
void world_start(struct world *w, uint64_t ept_vpid_cap, uint32_t page_budget);
void world_end(struct world *w);
uint32_t world_random(struct world *w, uint32_t below);

/* ept01: [pfn, pfn + count) becomes this; tells the composition. `shift` is what ept01_lookup reports. */
void world_set01(struct world *w, uint32_t pfn, uint32_t count, uint8_t access, uint8_t type, bool ignore_pat,
                 uint8_t shift);

/* ... loses the right to write, as for a log of what is written. */
void world_protect01(struct world *w, uint32_t pfn, uint32_t count);

/* The CPU: one try. False: an EPT violation, or w->spp_event, with its qualification as the CPU gives it. */
bool world_cpu(struct world *w, unsigned int vcpu, uint64_t eptp02, uint64_t gpa2, const struct world_access *access,
               uint64_t *hpa, uint64_t *type, uint64_t *qualification);
/* What ept02 permits for an address at this moment, by a walk without TLB. False: nothing. */
bool world_walk02(struct world *w, uint64_t eptp02, uint64_t gpa2, struct world_translation *out);

/* What SPPT02 says now. False: a miss. */
bool world_vector02(struct world *w, uint64_t gpa2, struct world_translation *out);

/* The model. `flags`: set accessed and dirty flags in `expected`. Reads `expected`. */
struct world_answer world_model(struct world *w, uint64_t eptp12, uint64_t gpa2, const struct world_access *access,
                                bool flags);

#endif
