/* SPDX-License-Identifier: MIT */
/*
 * Several vCPUs and hosts that use one composition, and take turns in an order that follows from a seed. They are coroutines of one thread: between two of the
 * library's atomic accesses, and in each callback, another one may go on (turns_switch.h). So a run can be repeated exactly.
 */
#ifndef TESTS_THREADS_TURNS_H
#define TESTS_THREADS_TURNS_H

#include <nvmx/ept.h>

#define VCPUS_MAX   4u
#define HOSTS_MAX   2u
#define PLAYERS_MAX (VCPUS_MAX + HOSTS_MAX)

/* -- turns_switch.c: whose turn it is
 * --------------------------------------------------------------------------------------------------------------------------------- */

/* All that is random in a run follows from its seed. */
void turns_seed(uint64_t seed);
uint32_t draw(uint32_t limit);
static inline bool one_in(uint32_t n) {
    return draw(n) == 0;
}
/* Let players 0 to count - 1 play, each until play(number) returns. */
void turns_play(unsigned int count, void (*play)(unsigned int player));
/* How often the turn could have passed in this run. */
uint64_t turns_points(void);

extern bool turns_verbose;
/* A step, where steps are told. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A rule is broken: the seed and how to replay it, then exit status 1. */
_Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* -- turns_world.c: L1's memory, the host's, and processors
 * --------------------------------------------------------------------------------------------------------------------------------- */

#define ADDRESS     UINT64_C(0x000ffffffffff000)
#define READ        NVMX_EPT_READ
#define WRITE       NVMX_EPT_WRITE
#define RIGHTS      (NVMX_EPT_READ | NVMX_EPT_WRITE | NVMX_EPT_EXECUTE)
#define WRITE_BACK  0x30u

/* L1's memory, in pages: its tables, single pages of data, and a block of 2 MBytes. */
#define L1_TABLES   40u
#define DATA_FIRST  512u
#define DATA_PAGES  64u
#define BLOCK_FIRST 1024u
#define BLOCK_PAGES 512u

/* What the host moves and protects at a time: a page of data by its number, or the block. */
#define BLOCK  DATA_PAGES
#define OTHERS (DATA_PAGES + 1)

/* L1's tables. Regions are of 2 MBytes of gpa2: two that all vCPUs share entry by entry, and one of each vCPU alone. */
#define PML4(i)     ((i) == 0 ? 0u : (i) == 1 ? 5u : 14u + (i)) /* ROOTS of them, all with the same tables below */
#define ROOTS       26u
#define PDPT        1u
#define PD          2u
#define PT(shared)  (3u + (shared))
#define VECTORS(i)  (11u + (i))
/* Two tables of sub-page permissions, levels 4 to 2, with the same vectors in other places. */
#define SPPT(i, level) ((i) == 0 ? 12u - (level) : 17u - (level))
#define SPPTP12(i)  ((uint64_t)SPPT(i, 4) << 12)
#define REGIONS     (2u + VCPUS_MAX)
#define REGION(vcpu) (2u + (vcpu))
#define AGAIN       512u /* from this region on, the second GByte, all of them are there once more */

/* A row of the table in turns.c. */
struct kind {
    const char *name;
    unsigned int vcpus, hosts;
    bool large;        /* 2-MByte pages in ept12, which ept01 maps whole or in pieces; violations in sequence */
    bool sub_pages;    /* sub-page write permissions */
    bool roots;        /* vCPUs change their EPTP12s all the time */
    bool narrow;       /* all of it happens in a few entries, whose upper levels change all the time */
    bool quiet;        /* L1 writes seldom and executes INVEPT often, and the host always has page_version */
    bool fails;        /* the page allocator fails now and then */
    uint32_t rounds;   /* of each player; 0: ROUNDS */
    uint32_t budget;   /* where there is one: this at least */
};

/* What a processor remembers: pages, and what leads to a table of level 1. hpa are of the tables that it went through, by level. */
struct translation {
    bool valid, sub_page, has_vector;
    uint64_t eptp02, gpa2, hpa, rights;
    uint64_t spptp02, vector; /* if it has one */
    uint64_t table[5], sppt[5];
};

struct upper {
    bool valid;
    uint64_t eptp02, region, rights;
    uint64_t table[5];
};

#define TLB_SLOTS   32u
#define UPPER_SLOTS 4u

struct processor {
    struct translation tlb[TLB_SLOTS];
    struct upper upper[UPPER_SLOTS];
};

struct player {
    struct world *world;
    unsigned int number;  /* vCPUs first, then hosts */
    struct processor *on; /* of a host: NULL */
    uint64_t eptp12, eptp02, spptp02;
    unsigned int sppt; /* which of L1's tables of sub-page permissions */
    bool entered;      /* eptp02 is in use */
};

/* What the host does with a page or the block of L1's data. */
struct held {
    uint64_t generation, settled; /* counts its places; up to which nobody may know an earlier one */
    uint64_t access;
    bool read_only; /* nobody may write */
};

#define TABLE_HPA   (UINT64_C(1) << 38)
#define TABLE_PAGES 900u

struct world {
    const struct kind *kind;
    uint64_t l1[L1_TABLES][512];
    uint64_t version[L1_TABLES], version_of_all; /* of page_version */
    bool versions, in_pieces;                    /* the host has page_version; ept01 maps the block in pieces just now */
    struct held held[OTHERS];
    uint32_t reached; /* by the last access that got through */
    struct processor processor[VCPUS_MAX];
    struct player player[PLAYERS_MAX];
    uint32_t budget, allocated, maps;
    uint32_t free_page[TABLE_PAGES], free_pages;
    bool in_use[TABLE_PAGES];
    struct nvmx_caps caps;
    struct nvmx_host host;
    struct nvmx_ept *ept;
    uint64_t granted, refused, retries, no_memory; /* accesses that got through or not, violations that were resolved, or for which there was no page */
};

void world_start(struct world *w, const struct kind *kind);
void world_end(struct world *w);

/* L1 writes an entry of its tables. */
void l1_write(struct world *w, uint32_t page, uint32_t index, uint64_t value);

/* Which of what the host moves holds a page of L1's; OTHERS: none. */
uint32_t held_of(uint64_t gpa1_page);
/* What an address that ept02 leads to is. */
uint64_t page_of_hpa(uint64_t hpa);
uint64_t generation_of_hpa(uint64_t hpa);

enum outcome { DONE, VIOLATION, SPP_EVENT };

/* L2 accesses gpa2 on the player's processor, in one step. `used` is what it reached, or was refused by. */
enum outcome access_once(const struct player *p, uint64_t gpa2, uint64_t access, struct translation *used, uint64_t *qualification);

/* What ept02 says, without a processor. */
bool walk02(const struct world *w, uint64_t eptp02, uint64_t gpa2, struct translation *out);
/* Of a region: the entry of level 2, or 0; and what leads there, that entry with it. */
uint64_t upper02(const struct world *w, uint64_t eptp02, uint64_t gpa2, struct upper *out);
const uint64_t *table02(const struct world *w, uint64_t hpa);
/* The vector that SPPT02 has now; false: none. */
bool vector02(const struct world *w, uint64_t spptp02, uint64_t gpa2, uint64_t table[5], uint64_t *vector);

/* -- turns_rules.c: what must hold
 * --------------------------------------------------------------------------------------------------------------------------------- */

/* What L1 says of an address of its own entries, and what the host owes since: read before the access. */
struct wanted {
    uint64_t entry, page, vector;
    uint32_t held;
    uint64_t settled;
    bool read_only;
};
struct wanted wanted_of(const struct player *p, unsigned int region, unsigned int index);

void rule_reached(const struct player *p, const struct wanted *wanted, uint64_t gpa2, uint64_t access, const struct translation *used);
void rule_refused(const struct player *p, const struct wanted *wanted, uint64_t gpa2, uint64_t access, const struct nvmx_ept_fault *fault,
                  enum nvmx_ept_verdict verdict);
void rule_taken_back(const struct world *w, uint32_t held, bool only_writing);
void rule_remembered(const struct world *w, const struct translation *t);
void rule_remembered_above(const struct world *w, const struct upper *upper);
void rule_at_rest(const struct world *w);
void rule_freed(const struct world *w, uint64_t hpa);
void rule_over(const struct world *w);

#endif
