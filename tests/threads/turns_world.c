/* SPDX-License-Identifier: MIT */
/* L1's memory and the host's callbacks, in each of which the turn may pass; and processors, which do what one does at a time. */
#include "turns.h"

#include <stdlib.h>
#include <string.h>

#include "turns_switch.h"

#define FREED UINT64_C(0xdddddddddddddddd)

/* The host's pages for ept02. Not cleared between runs: who writes to one that is free is found when it is used again. */
static uint64_t pages[TABLE_PAGES][512] __attribute__((aligned(4096)));
static bool used_before[TABLE_PAGES];

/* -- L1's memory
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static void written(struct world *w, uint64_t page) {
    w->version[page]++;
    w->version_of_all++;
}

void l1_write(struct world *w, uint32_t page, uint32_t index, uint64_t value) {
    TURN;
    tell("writes entry %u of table %u: %#llx", index, page, (unsigned long long)value);
    w->l1[page][index] = value;
    written(w, page);
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct world *w = ((struct player *)ctx)->world;

    TURN;
    if (gpa1 >> 12 >= L1_TABLES) {
        return NULL;
    }
    if ((access & NVMX_ACCESS_WRITE) != 0) {
        written(w, gpa1 >> 12);
    }
    w->maps++;
    *hpa = gpa1;
    return w->l1[gpa1 >> 12];
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    struct world *w = ((struct player *)ctx)->world;

    if (page != w->l1[gpa1 >> 12]) {
        broken("unmap_page of something that was not mapped");
    }
    if (dirtied) {
        written(w, gpa1 >> 12);
    }
    w->maps--;
    TURN;
}

static uint64_t page_version(void *ctx, uint64_t gpa1) {
    const struct world *w = ((struct player *)ctx)->world;

    TURN;
    if (one_in(w->kind->quiet ? 300 : 30)) {
        return 0;
    }
    return 1 + (gpa1 == NVMX_NO_ADDRESS ? w->version_of_all : w->version[gpa1 >> 12]);
}

/* -- ept01: an address of the machine is one of L1's with the number of its place
 * ----------------------------------------------------------------------------------------------------------------------------------- */

#define GENERATION_SHIFT 24u

uint32_t held_of(uint64_t gpa1_page) {
    if (gpa1_page >= BLOCK_FIRST && gpa1_page < BLOCK_FIRST + BLOCK_PAGES) {
        return BLOCK;
    }
    return gpa1_page >= DATA_FIRST && gpa1_page < DATA_FIRST + DATA_PAGES ? (uint32_t)(gpa1_page - DATA_FIRST) : OTHERS;
}

uint64_t page_of_hpa(uint64_t hpa) {
    return (hpa & ((UINT64_C(1) << GENERATION_SHIFT) - 1)) >> 12;
}

uint64_t generation_of_hpa(uint64_t hpa) {
    return hpa >> GENERATION_SHIFT;
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    const struct world *w = ctx;
    uint32_t number = held_of(gpa1 >> 12);

    TURN;
    if (number == OTHERS) {
        return NVMX_E_UNMAPPED;
    }
    bool whole = number == BLOCK && !w->in_pieces;
    uint64_t first = gpa1 & ~(whole ? (UINT64_C(1) << 21) - 1 : UINT64_C(4095));

    *out = (struct nvmx_ept01_mapping){.gpa1 = first,
                                       .hpa = first | w->held[number].generation << GENERATION_SHIFT,
                                       .size_shift = whole ? 21 : 12,
                                       .access = (uint32_t)w->held[number].access,
                                       .memory_type = 6};
    TURN;
    return NVMX_OK;
}

/* -- pages for ept02
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static void *page_alloc(void *ctx, uint64_t *hpa) {
    struct world *w = ctx;

    TURN;
    if (w->free_pages == 0 || (w->kind->fails && one_in(12))) {
        return NULL;
    }
    uint32_t place = one_in(2) ? draw(w->free_pages) : w->free_pages - 1;
    uint32_t number = w->free_page[place];
    w->free_page[place] = w->free_page[--w->free_pages];
    for (unsigned int i = 0; used_before[number] && i < 512; i++) {
        if (pages[number][i] != FREED) {
            broken("page %u was written after it was freed, at %u", number, 8 * i);
        }
    }
    used_before[number] = true;
    memset(pages[number], 0, sizeof(pages[number]));
    w->in_use[number] = true;
    if (++w->allocated > w->budget && w->budget != 0) {
        broken("%u pages, the budget is %u", w->allocated, w->budget);
    }
    *hpa = TABLE_HPA + (uint64_t)number * 4096;
    return pages[number];
}

static void release(struct world *w, uint32_t number) {
    memset(pages[number], FREED & 0xff, sizeof(pages[number]));
    w->in_use[number] = false;
    w->free_page[w->free_pages++] = number;
    w->allocated--;
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    struct world *w = ctx;
    uint64_t number = (hpa - TABLE_HPA) >> 12;

    if (number >= TABLE_PAGES || page != pages[number] || !w->in_use[number]) {
        broken("page_free of something that is no page");
    }
    tell("frees %#llx", (unsigned long long)hpa);
    rule_freed(w, hpa);
    release(w, (uint32_t)number);
    TURN;
}

const uint64_t *table02(const struct world *w, uint64_t hpa) {
    uint64_t number = (hpa - TABLE_HPA) >> 12;

    if (number >= TABLE_PAGES || !w->in_use[number]) {
        broken("a processor is led to %#llx, which is no page of ept02's", (unsigned long long)hpa);
    }
    return pages[number];
}

/* -- flushes
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static void flush_processor(struct processor *on, bool all, uint64_t eptp02) {
    for (unsigned int i = 0; i < TLB_SLOTS; i++) {
        on->tlb[i].valid = on->tlb[i].valid && !all && ((on->tlb[i].eptp02 ^ eptp02) & ADDRESS) != 0;
    }
    for (unsigned int i = 0; i < UPPER_SLOTS; i++) {
        on->upper[i].valid = on->upper[i].valid && !all && ((on->upper[i].eptp02 ^ eptp02) & ADDRESS) != 0;
    }
}

/* One processor after the other. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    const struct player *p = ctx;
    struct world *w = p->world;
    bool all = kind == NVMX_FLUSH_EPT_ALL || kind == NVMX_FLUSH_EPT_ALL_HERE;

    (void)linear;
    tell("flushes, kind %d, %#llx", (int)kind, (unsigned long long)value);
    TURN;
    if (kind == NVMX_FLUSH_EPT_HERE || kind == NVMX_FLUSH_EPT_ALL_HERE) {
        flush_processor(p->on, all, value);
        return;
    }
    for (unsigned int i = 0; i < w->kind->vcpus; i++) {
        flush_processor(&w->processor[i], all, value);
        TURN;
    }
}

/* -- processors
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static void check_entry(const struct world *w, unsigned int level, uint64_t entry) {
    if (nvmx_ept_classify(&w->caps, level, entry, false) == NVMX_EPT_MISCONFIG) {
        broken("ept02 is misconfigured: level %u, entry %#llx", level, (unsigned long long)entry);
    }
}

uint64_t upper02(const struct world *w, uint64_t eptp02, uint64_t gpa2, struct upper *out) {
    uint64_t table = eptp02 & ADDRESS;

    *out = (struct upper){.eptp02 = eptp02, .region = gpa2 >> 21, .rights = RIGHTS};
    for (unsigned int level = 4;; level--) {
        uint64_t entry = table02(w, table)[gpa2 >> (12 + 9 * (level - 1)) & 511];

        out->table[level] = table;
        check_entry(w, level, entry);
        if ((entry & RIGHTS) == 0) {
            return 0;
        }
        out->rights &= entry;
        table = entry & ADDRESS;
        if (level == 2) {
            out->valid = (entry & NVMX_EPT_LARGE) == 0;
            out->table[1] = out->valid ? table : 0;
            return entry;
        }
    }
}

/* From what leads to a table of level 1. */
static bool last_level(const struct world *w, const struct upper *upper, uint64_t gpa2, struct translation *out) {
    uint64_t entry = table02(w, upper->table[1])[gpa2 >> 12 & 511];

    check_entry(w, 1, entry);
    *out = (struct translation){.valid = (entry & RIGHTS) != 0,
                                .sub_page = (entry & NVMX_EPT_SUB_PAGE) != 0,
                                .eptp02 = upper->eptp02,
                                .gpa2 = gpa2 >> 12,
                                .hpa = entry & ADDRESS,
                                .rights = upper->rights & entry};
    memcpy(out->table, upper->table, sizeof(out->table));
    return out->valid;
}

static bool from_upper(const struct world *w, const struct upper *upper, uint64_t entry, uint64_t gpa2, struct translation *out) {
    uint64_t offset = (UINT64_C(1) << 21) - 1;

    if (upper->valid) {
        return last_level(w, upper, gpa2, out);
    }
    *out = (struct translation){.valid = entry != 0,
                                .eptp02 = upper->eptp02,
                                .gpa2 = gpa2 >> 12,
                                .hpa = (entry & ADDRESS & ~offset) | (gpa2 & offset & ~UINT64_C(4095)),
                                .rights = upper->rights};
    memcpy(out->table, upper->table, sizeof(out->table));
    return out->valid;
}

bool walk02(const struct world *w, uint64_t eptp02, uint64_t gpa2, struct translation *out) {
    struct upper upper;
    uint64_t entry = upper02(w, eptp02, gpa2, &upper);

    return from_upper(w, &upper, entry, gpa2, out);
}

/* What is being filled has odd bits, and permits nothing (SDM 31.3.4.2). */
bool vector02(const struct world *w, uint64_t spptp02, uint64_t gpa2, uint64_t table[5], uint64_t *vector) {
    uint64_t at = spptp02 & ADDRESS;

    for (unsigned int level = 4; level > 1; level--) {
        uint64_t entry = table02(w, at)[gpa2 >> (12 + 9 * (level - 1)) & 511];

        table[level] = at;
        if ((entry & 1) == 0) {
            return false;
        }
        if ((entry & ~(ADDRESS | 1)) != 0) {
            broken("SPPT02 is misconfigured: level %u, entry %#llx", level, (unsigned long long)entry);
        }
        at = entry & ADDRESS;
    }
    table[1] = at;
    *vector = table02(w, at)[gpa2 >> 12 & 511];
    return (*vector & UINT64_C(0xaaaaaaaaaaaaaaaa)) == 0;
}

static void fill_slot(const struct player *p, uint64_t gpa2, struct translation *slot, struct upper *above) {
    const struct world *w = p->world;

    if (above->valid && above->eptp02 == p->eptp02 && above->region == gpa2 >> 21 && one_in(2)) {
        rule_remembered_above(w, above);
        last_level(w, above, gpa2, slot);
        return;
    }
    struct upper upper;
    uint64_t entry = upper02(w, p->eptp02, gpa2, &upper);

    if (from_upper(w, &upper, entry, gpa2, slot) && upper.valid) {
        *above = upper;
    }
}

/* A write to a page that lacks only that right. */
static enum outcome by_sub_page(const struct player *p, uint64_t gpa2, struct translation *slot) {
    if (!slot->has_vector) {
        slot->spptp02 = p->spptp02;
        slot->has_vector = vector02(p->world, p->spptp02, gpa2, slot->sppt, &slot->vector);
        if (!slot->has_vector) {
            return SPP_EVENT;
        }
    }
    return (slot->vector >> (2 * (gpa2 >> 7 & 31)) & 1) != 0 ? DONE : VIOLATION;
}

static const char *const outcome_names[] = {[DONE] = "done", [VIOLATION] = "violation", [SPP_EVENT] = "SPP-related event"};

enum outcome access_once(const struct player *p, uint64_t gpa2, uint64_t access, struct translation *used, uint64_t *qualification) {
    struct translation *slot = &p->on->tlb[(gpa2 >> 12 ^ gpa2 >> 21) % TLB_SLOTS];
    struct upper *above = &p->on->upper[gpa2 >> 21 & (UPPER_SLOTS - 1)];
    enum outcome outcome = DONE;

    if (slot->valid && slot->eptp02 == p->eptp02 && slot->gpa2 == gpa2 >> 12) {
        rule_remembered(p->world, slot);
    } else {
        fill_slot(p, gpa2, slot, above);
    }
    if (!slot->valid || (slot->rights & access) != access) {
        bool sub_page = slot->valid && slot->sub_page && access == WRITE && (slot->rights & (READ | WRITE)) == READ;

        outcome = sub_page ? by_sub_page(p, gpa2, slot) : VIOLATION;
    }
    *used = *slot;
    tell("accesses %#llx (%llu): %s, hpa %#llx, rights %llu", (unsigned long long)gpa2, (unsigned long long)access, outcome_names[outcome],
         (unsigned long long)slot->hpa, (unsigned long long)slot->rights);
    if (outcome != DONE) {
        *qualification = outcome == SPP_EVENT ? 0x800 : 0x180 | access | (slot->valid ? slot->rights << 3 : 0);
        slot->valid = above->valid = false; /* SDM 31.4.3.1 */
    }
    return outcome;
}

/* -- life
 * ----------------------------------------------------------------------------------------------------------------------------------- */

static void start_host(struct world *w) {
    w->caps.physical_address_bits = 46;
    /* execute-only, 4 levels, UC, WB, 2M, 1G, accessed and dirty flags */
    w->caps.msr[NVMX_CAP_EPT_VPID] = (1u << 0) | (1u << 6) | (1u << 8) | (1u << 14) | (1u << 16) | (1u << 17) | (1u << 21);
    w->host = (struct nvmx_host){.size = sizeof(w->host),
                                 .map_page = map_page,
                                 .unmap_page = unmap_page,
                                 .ept01_lookup = ept01_lookup,
                                 .page_alloc = page_alloc,
                                 .page_free = page_free,
                                 .tlb_flush = tlb_flush,
                                 .page_version = w->versions ? page_version : NULL};
    for (uint32_t i = 0; i < TABLE_PAGES; i++) {
        w->free_page[i] = TABLE_PAGES - 1 - i;
    }
    w->free_pages = TABLE_PAGES;
    for (uint32_t i = 0; i < OTHERS; i++) {
        w->held[i].access = RIGHTS;
    }
}

static void start_players(struct world *w) {
    bool two_share = one_in(2); /* vCPUs 0 and 2 take turns on one processor */

    for (unsigned int i = 0; i < w->kind->vcpus + w->kind->hosts; i++) {
        bool shares = two_share && i == 2;

        w->player[i] = (struct player){.world = w, .number = i, .on = i >= w->kind->vcpus ? NULL : &w->processor[shares ? 0 : i]};
    }
}

void world_start(struct world *w, const struct kind *kind) {
    static void *memory;

    if (memory == NULL) {
        memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    }
    memset(w, 0, sizeof(*w));
    w->kind = kind;
    w->versions = one_in(2) || kind->quiet;
    w->budget = kind->budget != 0 && one_in(3) ? kind->budget + draw(12) : 0;
    start_host(w);
    start_players(w);
    struct nvmx_ept_config config = {.size = sizeof(config), .page_budget = w->budget, .l1 = &w->caps, .machine = &w->caps};
    if (memory == NULL || nvmx_ept_init(memory, nvmx_ept_size(), &w->host, w, &config, &w->ept) != NVMX_OK) {
        broken("nvmx_ept_init");
    }
}

void world_end(struct world *w) {
    memset(w->processor, 0, sizeof(w->processor));
    nvmx_ept_destroy(w->ept, &w->player[0]);
    rule_over(w);
}
