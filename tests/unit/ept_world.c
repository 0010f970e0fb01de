/* SPDX-License-Identifier: MIT */
#include "ept_world.h"

#include "draw.h"
#include "ept/ept.h"

#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#define ADDRESS UINT64_C(0x000ffffffffff000)

uint32_t world_random(struct world *w, uint32_t below) {
    return (uint32_t)((draw(&w->random) >> 32) * below >> 32);
}

static void meanwhile(struct world *w, void (**what)(struct world *w)) {
    void (*now)(struct world *w) = *what;

    *what = NULL;
    if (now != NULL) {
        now(w);
    }
}

/* -- the host
 * ------------------------------------------------------------------------------------------------------------------ */

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct world *w = *(struct world **)ctx;

    cr_assert_eq(gpa1 & 4095, 0);
    if (w->unwritable && (access & NVMX_ACCESS_WRITE) != 0) {
        return NULL;
    }
    if (gpa1 >= WORLD_L1_PAGES * 4096u || world_random(w, 100) < w->map_fail_percent) {
        return NULL;
    }
    w->maps++;
    meanwhile(w, &w->in_map);
    *hpa = gpa1;
    return w->l1[gpa1 >> 12];
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    struct world *w = *(struct world **)ctx;

    cr_assert_eq(page, (void *)w->l1[gpa1 >> 12]);
    w->written[gpa1 >> 12] |= dirtied;
    w->unmaps++;
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    struct world *w = ctx;
    const struct world_page01 *page = &w->ept01[gpa1 >> 12 & (WORLD_PFNS - 1)];
    uint64_t offset;

    w->lookups++;
    if (w->lookup_status != NVMX_OK) {
        return w->lookup_status;
    }
    if (gpa1 >> 12 >= WORLD_PFNS || page->access == 0) {
        return NVMX_E_UNMAPPED;
    }
    offset = (UINT64_C(1) << page->shift) - 1;
    out->gpa1 = gpa1 & ~offset;
    out->hpa = (uint64_t)page->pfn << 12 & ~offset;
    out->size_shift = page->shift;
    out->access = page->access;
    out->memory_type = page->type;
    out->ignore_pat = page->ignore_pat != 0;
    meanwhile(w, &w->in_lookup);
    return NVMX_OK;
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    struct world *w = ctx;

    if (world_random(w, 100) < w->fail_percent || (w->most_pages != 0 && w->allocated - w->freed >= w->most_pages)) {
        return NULL;
    }
    for (uint32_t i = 0; i < WORLD_HOST_PAGES; i++) {
        if (w->host_page[i] == NULL) {
            w->host_page[i] = aligned_alloc(4096, 4096);
            memset(w->host_page[i], 0, 4096);
            *hpa = WORLD_TABLE_HPA + i * UINT64_C(4096);
            w->allocated++;
            return w->host_page[i];
        }
    }
    return NULL;
}

static void *page_pointer(void *ctx, uint64_t hpa) {
    struct world *w = ctx;
    uint64_t i = (hpa - WORLD_TABLE_HPA) >> 12;

    cr_assert(i < WORLD_HOST_PAGES && w->host_page[i] != NULL, "ept02 leads to a page that is not the host's: %#llx",
              (unsigned long long)hpa);
    return w->host_page[i];
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    struct world *w = ctx;

    cr_assert_eq(page_pointer(w, hpa), page);
    for (unsigned int v = 0; v < WORLD_VCPUS; v++) {
        for (unsigned int i = 0; i < WORLD_TLB; i++) {
            for (unsigned int level = 1; level < 6 && w->tlb[v][i].valid; level++) {
                cr_assert_neq(w->tlb[v][i].table[level], hpa, "a table was freed before the flush");
                cr_assert(level == 5 || w->tlb[v][i].sppt[level] != hpa, "a table of SPPT02 was freed before the flush");
            }
        }
    }
    memset(page, 0xff, 4096);
    free(page);
    w->host_page[(hpa - WORLD_TABLE_HPA) >> 12] = NULL;
    w->freed++;
}

static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    struct world *w = *(struct world **)ctx;

    (void)linear;
    bool all = kind == NVMX_FLUSH_EPT_ALL || kind == NVMX_FLUSH_EPT_ALL_HERE;
    bool here = kind == NVMX_FLUSH_EPT_HERE || kind == NVMX_FLUSH_EPT_ALL_HERE;

    cr_assert(all || here || kind == NVMX_FLUSH_EPT);
    w->flushes++;
    meanwhile(w, &w->in_flush);
    for (unsigned int v = 0; v < WORLD_VCPUS; v++) {
        for (unsigned int i = 0; i < WORLD_TLB && (!here || v == w->vcpu); i++) {
            if (all || ((w->tlb[v][i].eptp02 ^ value) & ADDRESS) == 0) {
                w->tlb[v][i].valid = false;
            }
        }
    }
}

static bool was_written(const struct world *w, uint64_t page) {
    return w->version[page] != 0 && (w->written[page] || memcmp(w->seen[page], w->l1[page], sizeof(w->l1[page])) != 0);
}

/* A page that was written has no number any more, and then they have another one together. */
static uint64_t version_together(struct world *w) {
    bool written = w->together == 0;

    for (uint64_t page = 0; page < WORLD_L1_PAGES; page++) {
        if (was_written(w, page)) {
            w->version[page] = 0;
            written = true;
        }
    }
    w->together = written ? ++w->versions_given : w->together;
    return w->together;
}

/* Now and then the host does not know. */
static uint64_t page_version(void *ctx, uint64_t gpa1) {
    struct world *w = *(struct world **)ctx;
    uint64_t page = gpa1 >> 12;

    w->version_calls++;
    if (!w->versions || world_random(w, 50) == 0) {
        return 0;
    }
    if (gpa1 == NVMX_NO_ADDRESS) {
        return version_together(w);
    }
    if (page >= WORLD_L1_PAGES || (page != 0 && page == w->without_version)) {
        return 0;
    }
    if (w->version[page] == 0 || was_written(w, page)) {
        memcpy(w->seen[page], w->l1[page], sizeof(w->l1[page]));
        w->version[page] = ++w->versions_given;
        w->written[page] = false;
        w->together = 0;
    }
    return w->version[page];
}

void world_start(struct world *w, uint64_t ept_vpid_cap, uint32_t page_budget) {
    struct nvmx_ept_config config = {
        .size = sizeof(config), .page_budget = page_budget, .l1 = &w->l1_caps, .machine = &w->machine};

    w->random = 0x9e3779b97f4a7c15u;
    w->machine.physical_address_bits = 39;
    w->machine.msr[NVMX_CAP_EPT_VPID] = ept_vpid_cap;
    w->l1_caps = w->machine;
    w->host = (struct nvmx_host){
        .size = sizeof(w->host),
        .map_page = map_page,
        .unmap_page = unmap_page,
        .ept01_lookup = ept01_lookup,
        .page_alloc = page_alloc,
        .page_free = page_free,
        .page_pointer = page_pointer,
        .tlb_flush = tlb_flush,
        .page_version = page_version,
    };
    w->memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    cr_assert_eq(nvmx_ept_init(w->memory, nvmx_ept_size(), &w->host, w, &config, &w->ept), NVMX_OK);
}

struct world *world_new(uint64_t ept_vpid_cap, uint32_t page_budget) {
    struct world *w = calloc(1, sizeof(*w));

    w->ept01 = calloc(WORLD_PFNS, sizeof(*w->ept01));
    world_start(w, ept_vpid_cap, page_budget);
    return w;
}

void world_end(struct world *w) {
    cr_assert(w->ept->pending == 0 && w->ept->active[0] == 0 && w->ept->active[1] == 0, "an operation has not ended");
    nvmx_ept_destroy(w->ept, &w);
    cr_assert_eq(w->allocated, w->freed, "%u pages allocated, %u freed", w->allocated, w->freed);
    cr_assert_eq(w->maps, w->unmaps);
    cr_assert_eq(nvmx_ept_pages(w->ept), 0);
    free(w->memory);
}

void world_delete(struct world *w) {
    world_end(w);
    free(w->ept01);
    free(w);
}

void world_set01(struct world *w, uint32_t pfn, uint32_t count, uint8_t access, uint8_t type, bool ignore_pat,
                 uint8_t shift) {
    for (uint32_t i = pfn; i < pfn + count; i++) {
        struct world_page01 *page = &w->ept01[i];

        /* Moved each time, so that a stale translation shows; large pages move as a whole. */
        page->pfn = i | (((w->ept01[pfn].pfn >> 19) + (i == pfn ? 1 : 0)) & 127) << 19;
        page->access = access;
        page->type = type;
        page->ignore_pat = ignore_pat;
        page->shift = shift;
    }
    nvmx_ept_memory_changed(w->ept, &w, (uint64_t)pfn << 12, (uint64_t)count << 12);
}

void world_protect01(struct world *w, uint32_t pfn, uint32_t count) {
    for (uint32_t i = pfn; i < pfn + count; i++) {
        /* What was large can't be described as large any more. */
        for (uint32_t k = i & ~511u; w->ept01[i].shift != 12 && k <= (i | 511u); k++) {
            w->ept01[k].shift = k == i ? w->ept01[i].shift : 12;
        }
        w->ept01[i].shift = 12;
        w->ept01[i].access &= (uint8_t)~2u;
    }
    nvmx_ept_memory_protected(w->ept, &w, (uint64_t)pfn << 12, (uint64_t)count << 12);
}

/* -- the CPU
 * -------------------------------------------------------------------------------------------------------------------
 */

bool world_walk02(struct world *w, uint64_t eptp02, uint64_t gpa2, struct world_translation *out) {
    unsigned int level = (unsigned int)(eptp02 >> 3 & 7) + 1;
    uint64_t table = eptp02 & ADDRESS;

    memset(out, 0, sizeof(*out));
    out->rights = 0x407;
    if (level == 4 && gpa2 >> 48 != 0) {
        return false;
    }
    for (;; level--) {
        unsigned int shift = 12 + 9 * (level - 1);
        uint64_t entry = ((const uint64_t *)page_pointer(w, table))[gpa2 >> shift & 511];
        enum nvmx_ept_entry what = nvmx_ept_classify(&w->machine, level, entry, w->mbec);

        out->table[level] = table;
        cr_assert_neq(what, NVMX_EPT_MISCONFIG, "ept02 is misconfigured: level %u entry %#llx", level,
                      (unsigned long long)entry);
        out->rights &= entry;
        if (what == NVMX_EPT_NOT_PRESENT) {
            cr_assert_eq(entry, 0);
            out->rights = 0;
            return false;
        }
        if (what == NVMX_EPT_LEAF) {
            uint64_t offset = (UINT64_C(1) << shift) - 1;

            out->valid = true;
            out->eptp02 = eptp02;
            out->gpa2 = gpa2 >> 12;
            out->hpa = ((entry & ADDRESS & ~offset) | (gpa2 & offset)) >> 12;
            out->type = entry >> 3 & 15;
            out->sub_page = level == 1 && (entry & NVMX_EPT_SUB_PAGE) != 0;
            cr_assert(w->spp || (entry & NVMX_EPT_SUB_PAGE) == 0);
            return true;
        }
        table = entry & ADDRESS;
    }
}

/* Rights that an access needs in ept02 or ept12. */
static uint64_t access_kind(const struct world_access *access, bool ad) {
    return access->kind | (ad && access->linear && access->walk ? 3 : 0);
}

static bool allowed(uint64_t rights, uint64_t kind, const struct world_access *access, bool mbec) {
    uint64_t fetch = mbec && access->user ? rights >> 10 & 1 : rights >> 2 & 1;

    return !((kind & 1) != 0 && (rights & 1) == 0) && !((kind & 2) != 0 && (rights & 2) == 0) &&
           !((kind & 4) != 0 && fetch == 0);
}

bool world_vector02(struct world *w, uint64_t gpa2, struct world_translation *out) {
    uint64_t table = w->spptp02;

    for (unsigned int level = 4; level > 1; level--) {
        uint64_t entry = ((const uint64_t *)page_pointer(w, table))[gpa2 >> (12 + 9 * (level - 1)) & 511];

        out->sppt[level] = table;
        cr_assert_eq(entry & ~(ADDRESS | 1), 0, "SPPT02 is misconfigured: level %u entry %#llx", level, (unsigned long long)entry);
        if ((entry & 1) == 0) {
            return false;
        }
        table = entry & ADDRESS;
    }
    out->sppt[1] = table;
    out->vector = ((const uint64_t *)page_pointer(w, table))[gpa2 >> 12 & 511];
    cr_assert_eq(out->vector & UINT64_C(0xaaaaaaaaaaaaaaaa), 0, "SPPT02 has a vector %#llx", (unsigned long long)out->vector);
    out->has_vector = true;
    return true;
}

static bool sub_page_writable(uint64_t vector, uint64_t gpa2) {
    return (vector >> (2 * (gpa2 >> 7 & 31)) & 1) != 0;
}

/* Is the write refused for want of the right to write alone, and of a kind that SPP knows? */
static bool spp_eligible(const struct world *w, uint64_t rights, bool sub_page, uint64_t kind, const struct world_access *access) {
    return w->spp && sub_page && (rights & 3) == 1 && (kind & 2) != 0 && access->linear && !access->walk &&
           allowed(rights | 2, kind, access, w->mbec);
}

/* The TLB keeps a vector that was found, as it keeps a translation. */
static bool cpu_sub_page(struct world *w, struct world_translation *slot, uint64_t gpa2, uint64_t kind, const struct world_access *access) {
    if (!spp_eligible(w, slot->rights, slot->sub_page, kind, access)) {
        return false;
    }
    w->spp_event = !slot->has_vector && !world_vector02(w, gpa2, slot);
    return !w->spp_event && sub_page_writable(slot->vector, gpa2);
}

bool world_cpu(struct world *w, unsigned int vcpu, uint64_t eptp02, uint64_t gpa2, const struct world_access *access,
               uint64_t *hpa, uint64_t *type, uint64_t *qualification) {
    struct world_translation *slot = &w->tlb[vcpu][(gpa2 >> 12 ^ gpa2 >> 21 ^ gpa2 >> 30 ^ gpa2 >> 39) % WORLD_TLB];
    uint64_t kind = access_kind(access, (eptp02 & NVMX_EPTP_AD) != 0);

    if (!slot->valid || ((slot->eptp02 ^ eptp02) & ADDRESS) != 0 || slot->gpa2 != gpa2 >> 12) {
        world_walk02(w, eptp02, gpa2, slot);
    }
    w->spp_event = false;
    if (!slot->valid || (!allowed(slot->rights, kind, access, w->mbec) && !cpu_sub_page(w, slot, gpa2, kind, access))) {
        slot->valid = false; /* SDM 31.4.3.1 */
        if (w->spp_event) {
            *qualification = 0x800 | (uint64_t)world_random(w, 2) << 12;
            return false;
        }
        *qualification = kind | (slot->rights & 7) << 3 | (w->mbec ? slot->rights >> 10 << 6 : 0);
        if (access->linear) {
            *qualification |= 0x80 | (access->walk ? 0 : 0x100);
            *qualification |= access->walk ? 0 : (access->user ? 0x200 : 0) | (world_random(w, 4) << 10);
        }
        *qualification |= (uint64_t)world_random(w, 2) << 12;
        return false;
    }
    *hpa = slot->hpa << 12 | (gpa2 & 4095);
    *type = slot->type;
    return true;
}

/* -- the model
 * ----------------------------------------------------------------------------------------------------------------- */

/* SDM 31.3.3.1, row by row. */
static bool model_misconfigured(const struct world *w, unsigned int level, uint64_t e) {
    uint64_t cap = w->l1_caps.msr[NVMX_CAP_EPT_VPID];
    bool leaf = level == 1 || (level <= 3 && (e >> 7 & 1) != 0);
    unsigned int low = leaf ? 12 + 9 * (level - 1) : 12;

    if ((e & 3) == 2) {
        return true;
    }
    if ((e & 5) == 4 && (cap & 1) == 0) {
        return true;
    }
    if (w->mbec && (e & 1) == 0 && (e >> 10 & 1) != 0 && (cap & 1) == 0) {
        return true;
    }
    /* bits 51:12 below the page's size, or from the width of a physical address on */
    if ((e & ADDRESS & ((UINT64_C(1) << low) - 1)) != 0 || (e & ADDRESS) >> w->l1_caps.physical_address_bits != 0) {
        return true;
    }
    if (leaf) {
        unsigned int type = (unsigned int)(e >> 3 & 7);

        return type == 2 || type == 3 || type == 7 || (level == 3 && (cap >> 17 & 1) == 0) ||
               (level == 2 && (cap >> 16 & 1) == 0);
    }
    return (e >> 3 & 31) != 0;
}

/* SDM 13.5.2.2 as rules: ept01 in the role of the MTRR, ept12 in that of the PAT. */
static uint64_t model_type(const struct world_page01 *page, uint64_t leaf) {
    unsigned int mtrr = page->type;
    unsigned int pat = (unsigned int)(leaf >> 3 & 7);
    uint64_t ignore_pat = leaf >> 6 & 1;

    if (page->ignore_pat) {
        return mtrr | 8;
    }
    if (mtrr == 6 || pat == 0 || pat == 1) {
        return pat | ignore_pat << 3;
    }
    if (pat == 6) {
        return mtrr | ignore_pat << 3;
    }
    /* WT or WP over UC, WC, WT or WP */
    return (mtrr <= 1 ? 0 : pat) | ignore_pat << 3;
}

/* L1's memory as the model sees it; where there is none, all ones. */
static uint64_t *model_entry(struct world *w, uint64_t table, unsigned int index) {
    static uint64_t nothing;

    nothing = UINT64_MAX;
    return table < WORLD_L1_PAGES * 4096u ? &w->expected[table >> 12][index] : &nothing;
}

/* SDM 31.3.4.2: false if the write is refused, and what by is in *answer. */
static bool model_sub_page(struct world *w, uint64_t gpa2, struct world_answer *answer) {
    uint64_t table = w->spptp12, entry;

    for (unsigned int level = 4; level > 1; level--) {
        entry = *model_entry(w, table, (unsigned int)(gpa2 >> (12 + 9 * (level - 1)) & 511));
        if ((entry & 1) == 0 || (entry & 0xffe) != 0 || entry >> w->l1_caps.physical_address_bits != 0) {
            answer->outcome = WORLD_SPP_EVENT;
            answer->qualification = (entry & 1) == 0 ? 0x800 : 0;
            return false;
        }
        table = entry & ADDRESS;
    }
    entry = *model_entry(w, table, (unsigned int)(gpa2 >> 12 & 511));
    for (unsigned int bit = 1; bit < 64; bit += 2) {
        if ((entry >> bit & 1) != 0) {
            answer->outcome = WORLD_SPP_EVENT;
            answer->qualification = 0;
            return false;
        }
    }
    return sub_page_writable(entry, gpa2);
}

static struct world_answer model_ept01(const struct world *w, struct world_answer answer, uint64_t kind, uint64_t leaf,
                                       const struct world_access *access) {
    const struct world_page01 *page = &w->ept01[answer.gpa1 >> 12 & (WORLD_PFNS - 1)];
    uint64_t rights = page->access | ((page->access & 4) != 0 ? 0x400 : 0);

    if (answer.gpa1 >> 12 >= WORLD_PFNS || page->access == 0 || !allowed(rights, kind, access, w->mbec)) {
        answer.outcome = WORLD_HOST;
        return answer;
    }
    answer.outcome = WORLD_OK;
    answer.hpa = (uint64_t)page->pfn << 12 | (answer.gpa1 & 4095);
    answer.type = model_type(page, leaf);
    return answer;
}

struct world_answer world_model(struct world *w, uint64_t eptp12, uint64_t gpa2, const struct world_access *access,
                                bool flags) {
    struct world_answer answer = {.outcome = WORLD_VIOLATION};
    bool ad = (eptp12 & NVMX_EPTP_AD) != 0;
    uint64_t kind = access_kind(access, ad);
    uint64_t table = eptp12 & ADDRESS;
    uint64_t rights = 0x407;
    uint64_t *used[6] = {NULL};
    unsigned int level = (unsigned int)(eptp12 >> 3 & 7) + 1;

    answer.qualification = kind;
    if (level == 4 && gpa2 >> 48 != 0) {
        return answer;
    }
    for (;; level--) {
        uint64_t e = *(used[level] = model_entry(w, table, (unsigned int)(gpa2 >> (12 + 9 * (level - 1)) & 511)));

        if ((e & (w->mbec ? 0x407 : 7)) == 0) {
            return answer;
        }
        if (model_misconfigured(w, level, e)) {
            answer.outcome = WORLD_MISCONFIG;
            return answer;
        }
        rights &= e;
        table = e & ADDRESS;
        if (level == 1 || (level <= 3 && (e >> 7 & 1) != 0)) {
            break;
        }
    }
    answer.qualification |= (rights & 7) << 3 | (w->mbec ? rights >> 10 << 6 : 0);
    if (!allowed(rights, kind, access, w->mbec)) {
        bool sub_page = level == 1 && (*used[1] & NVMX_EPT_SUB_PAGE) != 0;

        if (!spp_eligible(w, rights, sub_page, kind, access) || !model_sub_page(w, gpa2, &answer)) {
            return answer;
        }
    }
    answer.gpa1 = table + (gpa2 & ((UINT64_C(1) << (12 + 9 * (level - 1))) - 1));
    for (unsigned int i = level; i < 6 && ad && flags; i++) {
        if (used[i] != NULL) {
            *used[i] |= 0x100 | (i == level && (kind & 2) != 0 ? 0x200 : 0);
        }
    }
    return model_ept01(w, answer, kind, *used[level], access);
}
