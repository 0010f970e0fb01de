/* SPDX-License-Identifier: MIT */
/*
 * What must hold in any order of turns:
 *
 *   rule_reached     an access reaches what the vCPU itself last wrote in ept12, since its INVEPT and entry, with the rights and flags of that, and never a
 *                    place that the host has taken back or write-protected
 *   rule_refused     nobody is refused what L1 and the host allow; there is always a page, unless the host's allocator fails
 *   rule_taken_back  when nvmx_ept_memory_changed or _protected has returned, neither ept02 nor a TLB has what it took
 *   rule_remembered  what a processor remembers and ept02 has not, somebody is about to flush
 *   rule_at_rest     when nobody is inside the library, nothing is to be flushed, and so nobody remembers anything else than ept02 has
 *   rule_freed       a page is freed when no processor remembers it; that ept02 leads to none that is free is seen by each walk (table02)
 *   rule_over        everything is given back at the end
 *
 * Others are seen where they would be broken: no page is written after it was freed, there are never more of them than the budget, no entry is misconfigured,
 * everybody gets on.
 */
#include "turns.h"

#include "ept/ept.h"

static uint64_t vector_of(const struct player *p, unsigned int region, unsigned int index) {
    return p->world->l1[(p->world->l1[SPPT(p->sppt, 2)][region % AGAIN] & ADDRESS) >> 12][index];
}

struct wanted wanted_of(const struct player *p, unsigned int region, unsigned int index) {
    const struct world *w = p->world;
    uint64_t above = w->l1[PD][region % AGAIN];
    struct wanted wanted;

    if ((above & NVMX_EPT_LARGE) != 0) {
        wanted.entry = above & ~NVMX_EPT_SUB_PAGE;
        wanted.page = ((above & ADDRESS & ~UINT64_C(0x1fffff)) >> 12) + index;
    } else {
        wanted.entry = w->l1[(above & ADDRESS) >> 12][index];
        wanted.page = (wanted.entry & ADDRESS) >> 12;
    }
    wanted.vector = w->kind->sub_pages && (wanted.entry & NVMX_EPT_SUB_PAGE) != 0 ? vector_of(p, region, index) : 0;
    wanted.held = held_of(wanted.page);
    wanted.settled = wanted.held == OTHERS ? UINT64_MAX : w->held[wanted.held].settled; /* nothing is there: no place of it may be reached */
    wanted.read_only = wanted.held != OTHERS && w->held[wanted.held].read_only;
    return wanted;
}

static bool l1_permits(const struct wanted *wanted, uint64_t gpa2, uint64_t access) {
    return (wanted->entry & access) == access || (access == WRITE && (wanted->vector >> (2 * (gpa2 >> 7 & 31)) & 1) != 0);
}

void rule_reached(const struct player *p, const struct wanted *wanted, uint64_t gpa2, uint64_t access, const struct translation *used) {
    unsigned long long address = gpa2;

    if (page_of_hpa(used->hpa) != wanted->page) {
        broken("%#llx reaches page %#llx of L1's and not %#llx", address, (unsigned long long)page_of_hpa(used->hpa), (unsigned long long)wanted->page);
    }
    if (generation_of_hpa(used->hpa) < wanted->settled) {
        broken("%#llx reaches place %llu of page %u, which is at %llu by now", address, (unsigned long long)generation_of_hpa(used->hpa), wanted->held,
               (unsigned long long)wanted->settled);
    }
    if (access == WRITE && wanted->read_only) {
        broken("%#llx: a write to page %u, which is write-protected", address, wanted->held);
    }
    if (!l1_permits(wanted, gpa2, access)) {
        broken("%#llx: access %llu by entry %#llx", address, (unsigned long long)access, (unsigned long long)wanted->entry);
    }
    if ((p->eptp12 & NVMX_EPTP_AD) != 0 && ((wanted->entry & NVMX_EPT_ACCESSED) == 0 || (access == WRITE && (wanted->entry & NVMX_EPT_DIRTY) == 0))) {
        broken("%#llx: no flags after access %llu: entry %#llx", address, (unsigned long long)access, (unsigned long long)wanted->entry);
    }
}

void rule_refused(const struct player *p, const struct wanted *wanted, uint64_t gpa2, uint64_t access, const struct nvmx_ept_fault *fault,
                  enum nvmx_ept_verdict verdict) {
    const struct world *w = p->world;

    switch (verdict) {
    case NVMX_EPT_L1_VIOLATION:
        if (l1_permits(wanted, gpa2, access)) {
            broken("%#llx: access %llu is denied, entry %#llx", (unsigned long long)gpa2, (unsigned long long)access, (unsigned long long)wanted->entry);
        }
        return;
    case NVMX_EPT_HOST_FAULT:
        if ((access & WRITE) == 0 && wanted->held != OTHERS) { /* a write may have come while the page was protected */
            broken("%#llx: a fault of the host's", (unsigned long long)gpa2);
        }
        return;
    case NVMX_EPT_FAILED:
        if (fault->status != NVMX_E_NO_MEMORY || !w->kind->fails) {
            broken("%#llx: status %d", (unsigned long long)gpa2, (int)fault->status);
        }
        return;
    default:
        broken("%#llx: verdict %d", (unsigned long long)gpa2, (int)verdict);
    }
}

/* A page that is reached: is it what the host took? */
static void check_taken(const struct world *w, uint32_t held, bool only_writing, const struct translation *t, const char *where) {
    if (!t->valid || held_of(page_of_hpa(t->hpa)) != held) {
        return;
    }
    if (generation_of_hpa(t->hpa) < w->held[held].generation) {
        broken("%s has place %llu of page %u, which is at %llu", where, (unsigned long long)generation_of_hpa(t->hpa), held,
               (unsigned long long)w->held[held].generation);
    }
    if (only_writing && ((t->rights & WRITE) != 0 || t->sub_page)) {
        broken("%s has page %u with the right to write, which was withdrawn", where, held);
    }
}

static void check_region(const struct world *w, uint32_t held, bool only_writing, uint64_t eptp02, uint64_t region) {
    struct translation t;
    struct upper upper;
    uint64_t entry = upper02(w, eptp02, region << 21, &upper);

    if (entry == 0) {
        return;
    }
    for (uint64_t i = 0; upper.valid && i < 512; i++) {
        uint64_t leaf = table02(w, upper.table[1])[i];

        t = (struct translation){.valid = (leaf & RIGHTS) != 0,
                                 .sub_page = (leaf & NVMX_EPT_SUB_PAGE) != 0,
                                 .hpa = leaf & ADDRESS,
                                 .rights = leaf & upper.rights};
        check_taken(w, held, only_writing, &t, "ept02");
    }
    if (!upper.valid) {
        t = (struct translation){.valid = true, .hpa = entry & ADDRESS & ~UINT64_C(0x1fffff), .rights = upper.rights};
        check_taken(w, held, only_writing, &t, "ept02");
    }
}

void rule_taken_back(const struct world *w, uint32_t held, bool only_writing) {
    for (unsigned int i = 0; i < w->kind->vcpus; i++) {
        for (unsigned int slot = 0; slot < TLB_SLOTS; slot++) {
            check_taken(w, held, only_writing, &w->processor[i].tlb[slot], "a TLB");
        }
        for (uint64_t region = 0; region < REGIONS && w->player[i].entered; region++) {
            check_region(w, held, only_writing, w->player[i].eptp02, region);
            check_region(w, held, only_writing, w->player[i].eptp02, AGAIN + region);
        }
    }
}

/* Who takes something out counts in `pending` until it has flushed. */
void rule_remembered(const struct world *w, const struct translation *t) {
    struct translation now;
    uint64_t table[5], vector = 0;

    if (w->ept->pending != 0) {
        return;
    }
    if (!walk02(w, t->eptp02, t->gpa2 << 12, &now) || now.hpa != t->hpa || (t->rights & ~now.rights) != 0 || (t->sub_page && !now.sub_page)) {
        broken("a TLB has hpa %#llx, rights %llu for %#llx, ept02 has %#llx, %llu, and nobody is about to flush", (unsigned long long)t->hpa,
               (unsigned long long)t->rights, (unsigned long long)t->gpa2 << 12, (unsigned long long)now.hpa, (unsigned long long)now.rights);
    }
    if (t->has_vector && (!vector02(w, t->spptp02, t->gpa2 << 12, table, &vector) || (t->vector & ~vector) != 0)) {
        broken("a TLB has vector %#llx for %#llx, SPPT02 has %#llx, and nobody is about to flush", (unsigned long long)t->vector,
               (unsigned long long)t->gpa2 << 12, (unsigned long long)vector);
    }
}

void rule_remembered_above(const struct world *w, const struct upper *upper) {
    struct upper now;

    if (w->ept->pending != 0) {
        return;
    }
    upper02(w, upper->eptp02, upper->region << 21, &now);
    if (!now.valid || now.table[1] != upper->table[1] || (upper->rights & ~now.rights) != 0) {
        broken("a processor remembers a table for region %llu that ept02 has not, and nobody is about to flush", (unsigned long long)upper->region);
    }
}

void rule_at_rest(const struct world *w) {
    if (w->ept->pending != 0 || w->maps != 0) {
        broken("nobody is at work, but %llu are to flush, and %u pages of L1's are mapped", (unsigned long long)w->ept->pending, w->maps);
    }
    for (unsigned int i = 0; i < w->kind->vcpus; i++) {
        const struct processor *on = &w->processor[i];

        for (unsigned int slot = 0; slot < TLB_SLOTS; slot++) {
            if (on->tlb[slot].valid) {
                rule_remembered(w, &on->tlb[slot]);
            }
        }
        for (unsigned int slot = 0; slot < UPPER_SLOTS; slot++) {
            if (on->upper[slot].valid) {
                rule_remembered_above(w, &on->upper[slot]);
            }
        }
    }
}

void rule_freed(const struct world *w, uint64_t hpa) {
    for (unsigned int i = 0; i < w->kind->vcpus; i++) {
        const struct processor *on = &w->processor[i];

        for (unsigned int level = 1; level < 5; level++) {
            for (unsigned int slot = 0; slot < TLB_SLOTS; slot++) {
                const struct translation *t = &on->tlb[slot];

                if (t->valid && (t->table[level] == hpa || (t->has_vector && t->sppt[level] == hpa))) {
                    broken("page %#llx is freed, and processor %u remembers it for %#llx", (unsigned long long)hpa, i, (unsigned long long)t->gpa2 << 12);
                }
            }
            for (unsigned int slot = 0; slot < UPPER_SLOTS; slot++) {
                if (on->upper[slot].valid && on->upper[slot].table[level] == hpa) {
                    broken("page %#llx is freed, and processor %u remembers that it leads to region %llu", (unsigned long long)hpa, i,
                           (unsigned long long)on->upper[slot].region);
                }
            }
        }
    }
}

void rule_over(const struct world *w) {
    if (w->allocated != 0 || w->maps != 0 || nvmx_ept_pages(w->ept) != 0) {
        broken("%u pages and %u mappings of L1's memory are left, the library says %u pages", w->allocated, w->maps, nvmx_ept_pages(w->ept));
    }
}
