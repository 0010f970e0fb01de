/* SPDX-License-Identifier: MIT */
/*
 * What the reference walker of ept_world.h does not have: supervisor shadow stacks (bit 7 of an EPTP, bit 60 of leaves), more EPTP12s than ept02 keeps roots for, and a
 * composition that is asked for with wrong arguments.
 *
 * Held, of seven pages whose table may be written to or not: the verdict on an access is what SDM 31.3.3.2 says; ept02 then permits it, and never more than the
 * entries of ept12 and of ept01 do; accessed and dirty flags are set where they must be.
 *
 * Input: operations of two or three bytes.
 */
#include <string.h>

#include "ept_stacks.h"
#include "fuzz.h"

#define PAGES     7u
#define FIRST_PFN 0x200u
#define SSS       (UINT64_C(1) << 60)
#define TABLES    5u /* of level 4, with one path below */

#define Q_LINEAR 0x180u /* a linear address, and its final translation */
#define Q_USER   0x200u
#define Q_STACK  0x2000u

struct stacks {
    struct world *w;
    uint64_t eptp12;
    uint8_t access01[PAGES];
};

static uint64_t *leaf12(struct stacks *s, unsigned int page) {
    return &s->w->l1[3][page];
}

static bool tables_writable(const struct stacks *s) {
    return (s->w->l1[2][0] & 2) != 0;
}

static void invept(struct stacks *s) {
    nvmx_ept_invept(s->w->ept, &s->w, false, s->eptp12);
}

/* -- ept02 ------------------------------------------------------------------------------------------------------------------------------------- */

/* Of one leaf: bits 2:0 and 60 that the CPU would use. Bit 60 counts where all entries above are writable (SDM 31.3.3.2). */
static uint64_t rights02(struct stacks *s, unsigned int page) {
    uint64_t eptp02, table, entry = 0, above = 7;
    if (nvmx_ept_root(s->w->ept, &s->w, 0, s->eptp12, false, &eptp02) != NVMX_OK)
        return 0;
    FUZZ_HOLD((eptp02 & 0x80) == (s->eptp12 & 0x80), "EPTP02 is %#llx", (unsigned long long)eptp02);
    table = eptp02;
    for (unsigned int level = 4; level > 0; level--) {
        const uint64_t *at = s->w->host.page_pointer(s->w, table & UINT64_C(0x000ffffffffff000));
        entry = at[level == 1 ? page : 0];
        if ((entry & 7) == 0)
            return 0;
        if (level > 1)
            above &= entry;
        table = entry;
    }
    return (entry & above & 7) | ((s->eptp12 & 0x80) != 0 && (above & 2) != 0 ? entry & SSS : 0);
}

static void start(struct stacks *s, bool flags) {
    struct world *w = s->w;
    for (unsigned int table = 0; table < TABLES; table++)
        w->l1[table == 0 ? 0 : 8 + table][0] = 1u << 12 | 7;
    w->l1[1][0] = 2u << 12 | 7;
    w->l1[2][0] = 3u << 12 | 7;
    for (unsigned int page = 0; page < PAGES; page++) {
        *leaf12(s, page) = (uint64_t)(FIRST_PFN + page) << 12 | 6 << 3 | (page % 2 ? 7 : 1 | SSS);
        s->access01[page] = 7;
    }
    world_set01(w, FIRST_PFN, PAGES, 7, 6, false, 12);
    s->eptp12 = 0x80 | (flags ? 0x40 : 0) | 3 << 3 | 6;
    (void)rights02(s, 0); /* it has a root */
}

/* ept02 permits no more than both do now. */
static void check_page(struct stacks *s, unsigned int page) {
    uint64_t hw = rights02(s, page), entry = *leaf12(s, page), above = s->w->l1[2][0];
    FUZZ_HOLD((hw & 7 & ~(entry & above)) == 0 && (hw & 7 & ~(uint64_t)s->access01[page]) == 0, "page %u: ept02 permits %#llx", page, (unsigned long long)hw);
    if (hw & SSS)
        FUZZ_HOLD((entry & SSS) != 0 && (entry & 1) != 0 && tables_writable(s) && (s->access01[page] & 3) == 3 && (s->eptp12 & 0x80) != 0,
                  "page %u: a shadow stack in ept02 only", page);
}

/* -- an access --------------------------------------------------------------------------------------------------------------------------------- */

/* SDM 31.3.3.2. A shadow-stack access of a user is a plain one. */
static bool permitted(uint64_t rights, bool stack, uint64_t kind) {
    return stack ? (rights & 1) != 0 && (rights & SSS) != 0 : (kind & ~rights & 7) == 0;
}

static void access_page(struct stacks *s, unsigned int page, uint8_t how) {
    struct world *w = s->w;
    uint64_t entry = *leaf12(s, page), kind = 1u << how % 3;
    bool user = how & 0x10, stack_access = (how & 0x20) && kind != 4, sss = (s->eptp12 & 0x80) != 0;
    struct nvmx_ept_access access = {.eptp12 = s->eptp12, .gpa2 = (uint64_t)page << 12, .qualification = kind | Q_LINEAR | (user ? Q_USER : 0) | (stack_access ? Q_STACK : 0)};
    struct nvmx_ept_fault fault;
    bool translated = how & 0x40; /* for a host that emulates: always a plain access */
    bool stack = stack_access && !user && sss && !translated;
    uint64_t rights = (entry & w->l1[2][0] & 7) | (sss && tables_writable(s) ? entry & SSS : 0);
    uint64_t needed01 = stack ? 3 : kind;
    enum nvmx_ept_verdict expected = !permitted(rights, stack, kind) || (rights & 7) == 0 ? NVMX_EPT_L1_VIOLATION
                                     : (needed01 & ~(uint64_t)s->access01[page]) != 0 && !translated ? NVMX_EPT_HOST_FAULT
                                                                                                     : NVMX_EPT_RETRY;
    enum nvmx_ept_verdict verdict = translated ? nvmx_ept_translate(w->ept, &w, &access, &fault) : nvmx_ept_fault(w->ept, &w, &access, &fault);
    fuzz_log("page %u, qualification %#llx, rights %#llx: verdict %d", page, (unsigned long long)access.qualification, (unsigned long long)rights, (int)verdict);
    FUZZ_HOLD(verdict == expected, "page %u, qualification %#llx, rights %#llx: verdict %d instead of %d", page, (unsigned long long)access.qualification,
              (unsigned long long)rights, (int)verdict, (int)expected);
    if (verdict == NVMX_EPT_L1_VIOLATION)
        FUZZ_HOLD((fault.qualification & 7) == kind && (fault.qualification >> 3 & 7) == (rights & 7), "qualification %#llx", (unsigned long long)fault.qualification);
    if (verdict != NVMX_EPT_RETRY)
        return;
    if (s->eptp12 & 0x40)
        FUZZ_HOLD((*leaf12(s, page) & 0x100) != 0 && (kind != 2 || (*leaf12(s, page) & 0x200) != 0), "page %u: flags of %#llx", page, (unsigned long long)*leaf12(s, page));
    if (!translated && !((s->eptp12 & 0x40) && stack && kind == 1))
        FUZZ_HOLD(permitted(rights02(s, page), stack, kind), "page %u: ept02 permits %#llx only", page, (unsigned long long)rights02(s, page));
}

/* -- the rest ---------------------------------------------------------------------------------------------------------------------------------- */

/* More EPTP12s than are kept: the oldest goes, and what is used has a root. */
static void many_roots(struct stacks *s, uint8_t how) {
    struct world *w = s->w;
    for (unsigned int i = 0; i < 1u + how % 80u; i++) {
        uint64_t eptp02, eptp12 = (uint64_t)(i < TABLES && i > 0 ? 8 + i : i % 64u) << 12 | (i & 1 ? 0x80 : 0) | (i & 2 ? 0x40 : 0) | 3 << 3 | 6;
        enum nvmx_status status = nvmx_ept_root(w->ept, &w, i % 3, eptp12, false, &eptp02);
        FUZZ_HOLD(status == NVMX_OK, "root %u: %s", i, nvmx_status_text(status));
        FUZZ_HOLD(w->host.page_pointer(w, eptp02 & UINT64_C(0xfffffff000)) != NULL, "root %u is no page", i);
        if (how & 0x80)
            nvmx_ept_release(w->ept, &w, i % 3);
    }
    for (unsigned int user = 0; user < 3; user++)
        nvmx_ept_release(w->ept, &w, user);
}

/* A composition that can't be, and questions about EPTPs that are none. */
static void refused(struct stacks *s, uint8_t how) {
    struct world *w = s->w;
    struct nvmx_host host = w->host;
    struct nvmx_ept_config config = {.size = sizeof(config), .l1 = &w->l1_caps, .machine = &w->machine};
    static uint64_t memory[8192];
    struct nvmx_ept *ept = NULL;
    struct nvmx_ept_fault fault;
    uint64_t eptp02;
    size_t bytes = how == 0 ? nvmx_ept_size() - 1 : nvmx_ept_size();
    if (bytes > sizeof(memory))
        return;
    switch (how) {
    case 1: config.size--; break;
    case 2: host.size = 8; break;
    case 3: host.map_page = NULL; break;
    case 4: host.unmap_page = NULL; break;
    case 5: host.ept01_lookup = NULL; break;
    case 6: host.page_alloc = NULL; break;
    case 7: host.page_free = NULL; break;
    case 8: host.tlb_flush = NULL; break;
    case 9: config.l1 = NULL; break;
    case 10: config.machine = NULL; break;
    default: break;
    }
    enum nvmx_status status = nvmx_ept_init(how == 11 ? NULL : how == 15 ? (uint8_t *)memory + 8 : (uint8_t *)memory, bytes, how == 12 ? NULL : &host, w, how == 13 ? NULL : &config,
                                            how == 14 ? NULL : &ept);
    FUZZ_HOLD(status == (how < 3 ? NVMX_E_SIZE : NVMX_E_INVALID), "init with argument %u wrong: %s", how, nvmx_status_text(status));
    for (unsigned int levels = 0; levels < 8; levels++) {
        struct nvmx_ept_access access = {.eptp12 = (uint64_t)levels << 3 | 6, .gpa2 = 0x1000, .qualification = 0x181};
        if (levels == 3 || levels == 4)
            continue;
        FUZZ_HOLD(nvmx_ept_root(w->ept, &w, 0, access.eptp12, false, &eptp02) != NVMX_OK, "a root with %u levels", levels + 1);
        FUZZ_HOLD(nvmx_ept_translate(w->ept, &w, &access, &fault) == NVMX_EPT_FAILED, "a translation with %u levels", levels + 1);
    }
    FUZZ_HOLD(nvmx_ept_root(w->ept, &w, UINT32_MAX, s->eptp12, false, &eptp02) != NVMX_OK, "a root for a user that is none");
}

static void operation(struct stacks *s, struct fuzz_input *in) {
    uint8_t what = fuzz_u8(in), how = fuzz_u8(in);
    unsigned int page = what % PAGES;
    switch (what / PAGES % 8) {
    case 0: /* a leaf */
        *leaf12(s, page) = (*leaf12(s, page) & ~(UINT64_C(0x307) | SSS)) | ((how & 3) == 2 ? 4u : how & 7) | (how & 8 ? SSS : 0);
        invept(s);
        break;
    case 1: /* may the table be written to? */
        s->w->l1[2][0] = (s->w->l1[2][0] & ~UINT64_C(2)) | (how & 1 ? 2 : 0);
        invept(s);
        break;
    case 2:
        s->access01[page] = (how & 3) == 2 ? 7 : how & 7;
        world_set01(s->w, FIRST_PFN + page, 1, s->access01[page], 6, false, 12);
        break;
    case 3:
        if (s->access01[page] & 2) {
            s->access01[page] &= 5;
            world_protect01(s->w, FIRST_PFN + page, 1);
        }
        break;
    case 4: /* with or without shadow stacks, accessed and dirty flags */
        if (page == 0)
            many_roots(s, how);
        else if (page == 1)
            refused(s, how % 16);
        else
            s->eptp12 = (s->eptp12 & ~UINT64_C(0xc0)) | (how & 0xc0);
        break;
    default:
        access_page(s, page, how);
    }
    for (unsigned int i = 0; i < PAGES; i++)
        check_page(s, i);
}

void ept_stacks(struct world *w, struct fuzz_input *in) {
    struct stacks s = {.w = w};
    start(&s, fuzz_u8(in) & 1);
    for (unsigned int i = 0; i < 100 && fuzz_more(in); i++) {
        fuzz_piece(in, FUZZ_OTHER);
        operation(&s, in);
    }
    nvmx_ept_release(w->ept, &w, 0);
    for (unsigned int table = 0; table < 8 + TABLES; table++) /* no other input finds them */
        memset(w->l1[table], 0, sizeof(w->l1[table]));
}
