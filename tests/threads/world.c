/* SPDX-License-Identifier: MIT */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define ADDRESS UINT64_C(0x000ffffffffff000)

uint32_t random_below(struct cpu *cpu, uint32_t limit) {
    return below(&cpu->random, limit);
}

/* -- callbacks
 * -------------------------------------------------------------------------------------------------------------------- */

void table_written(struct world *w, uint64_t page) {
    __atomic_fetch_add(&w->version[page], 1, __ATOMIC_SEQ_CST);
}

static uint64_t page_version(void *ctx, uint64_t gpa1) {
    struct cpu *cpu = ctx;
    uint64_t all = 1;

    for (uint64_t page = 0; gpa1 == NVMX_NO_ADDRESS && page < TABLE_PAGES; page++) {
        all += __atomic_load_n(&cpu->world->version[page], __ATOMIC_SEQ_CST); /* none ever falls */
    }
    if (gpa1 == NVMX_NO_ADDRESS) {
        return all;
    }
    return gpa1 >> 12 < TABLE_PAGES ? 1 + __atomic_load_n(&cpu->world->version[gpa1 >> 12], __ATOMIC_SEQ_CST) : 0;
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct cpu *cpu = ctx;

    if (gpa1 >> 12 >= TABLE_PAGES) {
        return NULL;
    }
    if ((access & NVMX_ACCESS_WRITE) != 0) {
        table_written(cpu->world, gpa1 >> 12);
    }
    count(&cpu->world->maps);
    *hpa = gpa1;
    return cpu->world->l1[gpa1 >> 12];
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    struct cpu *cpu = ctx;

    if (dirtied) {
        table_written(cpu->world, gpa1 >> 12);
    }
    if (page != cpu->world->l1[gpa1 >> 12]) {
        fail("unmap_page of something that was not mapped");
    }
    count(&cpu->world->unmaps);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    struct world *w = ctx;
    bool single = gpa1 >> 12 < SINGLE_PAGES;
    uint64_t entry = gpa1 >> 12 >= GPA1_PAGES ? 0 : load(single ? &w->ept01[gpa1 >> 12] : &w->block);

    if (entry == 0) {
        return NVMX_E_UNMAPPED;
    }
    *out = (struct nvmx_ept01_mapping){.gpa1 = single ? gpa1 & ADDRESS : (uint64_t)SINGLE_PAGES << 12,
                                       .hpa = FRAME_HPA + (entry & ADDRESS),
                                       .size_shift = single ? 12 : 21,
                                       .access = entry & 7,
                                       .memory_type = 6};
    return NVMX_OK;
}

/* Each caller has its own generator, but page_alloc is not told who calls. */
static void *page_alloc(void *ctx, uint64_t *hpa) {
    static uint64_t calls;
    struct world *w = ctx;
    uint64_t call = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    void *page;

    if ((call * UINT64_C(0x9e3779b97f4a7c15) >> 40) % 100 < w->fail_percent) {
        return NULL;
    }
    page = aligned_alloc(4096, 4096);
    if (page == NULL) {
        return NULL;
    }
    memset(page, 0, 4096);
    count(&w->allocated);
    *hpa = (uintptr_t)page;
    return page;
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    struct world *w = ctx;

    if (hpa != (uintptr_t)page) {
        fail("page_free of another page");
    }
    count(&w->freed);
    memset(page, 0xff, 4096); /* plain stores: whoever still reads the page races with them */
    free(page);
}

static void flush_cpu(struct cpu *cpu, bool all, uint64_t eptp02) {
    pthread_mutex_lock(&cpu->guest);
    for (unsigned int i = 0; i < TLB_SLOTS; i++) {
        if (all || ((cpu->tlb[i].eptp02 ^ eptp02) & ADDRESS) == 0) {
            cpu->tlb[i].rights = 0;
        }
    }
    pthread_mutex_unlock(&cpu->guest);
}

/* As a host does it that sends interrupts: wait until each processor has left L2. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    struct cpu *cpu = ctx;
    bool all = kind == NVMX_FLUSH_EPT_ALL || kind == NVMX_FLUSH_EPT_ALL_HERE;

    (void)linear;
    if (kind == NVMX_FLUSH_EPT_HERE || kind == NVMX_FLUSH_EPT_ALL_HERE) {
        flush_cpu(cpu, all, value);
        return;
    }
    for (unsigned int i = 0; i < cpu->world->cpus; i++) {
        flush_cpu(&cpu->world->cpu[i], all, value);
    }
}

/* -- the CPU
 * ---------------------------------------------------------------------------------------------------------------------- */

static void walk02(const struct world *w, uint64_t eptp02, uint64_t gpa2, struct translation *out) {
    uint64_t table = eptp02 & ADDRESS;
    uint64_t rights = 7;

    for (unsigned int level = 4;; level--) {
        unsigned int shift = 12 + 9 * (level - 1);
        uint64_t entry = load((const uint64_t *)(uintptr_t)table + (gpa2 >> shift & 511));
        enum nvmx_ept_entry what = nvmx_ept_classify(&w->caps, level, entry, false);

        rights &= entry;
        out->rights = 0;
        if (what == NVMX_EPT_NOT_PRESENT) {
            return;
        }
        if (what == NVMX_EPT_MISCONFIG) {
            fail("ept02 is misconfigured: level %u, entry %#llx", level, (unsigned long long)entry);
        }
        if (what == NVMX_EPT_LEAF) {
            uint64_t offset = (UINT64_C(1) << shift) - 1;

            *out = (struct translation){.eptp02 = eptp02,
                                        .gpa2 = gpa2 >> 12,
                                        .rights = rights,
                                        .sub_page = level == 1 && (entry & NVMX_EPT_SUB_PAGE) != 0,
                                        .hpa = ((entry & ADDRESS & ~offset) | (gpa2 & offset)) >> 12};
            return;
        }
        table = entry & ADDRESS;
    }
}

/* No access may reach a frame that is not L1's any more, nor write to one that is write-protected. */
static uint64_t reach(struct world *w, uint64_t hpa_page, uint64_t kind) {
    uint64_t number = hpa_page - (FRAME_HPA >> 12);
    uint64_t owner;

    if (number >= FRAMES) {
        fail("L2 reaches hpa %#llx", (unsigned long long)hpa_page << 12);
    }
    owner = load(&w->frame[number].owner);
    if (owner == FRAME_UNOWNED) {
        fail("L2 reaches frame %llu, which the host has taken back", (unsigned long long)number);
    }
    if ((kind & 2) != 0 && load(&w->frame[number].writable) == 0) {
        fail("L2 writes to frame %llu, which is write-protected", (unsigned long long)number);
    }
    return owner;
}

/* A write to a page that only lacks that right. What is being filled has odd bits, and permits nothing (SDM 31.3.4.2). */
static enum outcome by_sub_page(const struct tables *tables, uint64_t gpa2, struct translation *slot) {
    uint64_t table = tables->spptp02;

    for (unsigned int level = 4; level > 1 && !slot->has_vector; level--) {
        uint64_t entry = load((const uint64_t *)(uintptr_t)table + (gpa2 >> (12 + 9 * (level - 1)) & 511));

        if ((entry & 1) == 0) {
            return SPP_EVENT;
        }
        if ((entry & ~(ADDRESS | 1)) != 0) {
            fail("SPPT02 is misconfigured: level %u, entry %#llx", level, (unsigned long long)entry);
        }
        table = entry & ADDRESS;
    }
    if (!slot->has_vector) {
        slot->vector = load((const uint64_t *)(uintptr_t)table + (gpa2 >> 12 & 511));
        if ((slot->vector & UINT64_C(0xaaaaaaaaaaaaaaaa)) != 0) {
            return SPP_EVENT;
        }
        slot->has_vector = true;
    }
    return (slot->vector >> (2 * (gpa2 >> 7 & 31)) & 1) != 0 ? DONE : VIOLATION;
}

enum outcome access_once(struct cpu *cpu, const struct tables *tables, uint64_t gpa2, uint64_t kind, uint64_t *owner, uint64_t *qualification) {
    uint64_t eptp02 = tables->eptp02;
    struct translation *slot = &cpu->tlb[(gpa2 >> 12 ^ gpa2 >> 21) % TLB_SLOTS];
    enum outcome outcome = DONE;

    pthread_mutex_lock(&cpu->guest);
    if (slot->rights == 0 || ((slot->eptp02 ^ eptp02) & ADDRESS) != 0 || slot->gpa2 != gpa2 >> 12) {
        walk02(cpu->world, eptp02, gpa2, slot);
    }
    if (slot->rights != 0 && slot->sub_page && !tables->spp) {
        fail("bit 61 in an ept02 without sub-page permissions");
    }
    if ((slot->rights & kind) != kind) {
        outcome = kind == 2 && slot->sub_page && (slot->rights & 1) != 0 ? by_sub_page(tables, gpa2, slot) : VIOLATION;
    }
    if (outcome == DONE) {
        *owner = reach(cpu->world, slot->hpa, kind);
    } else {
        *qualification = outcome == SPP_EVENT ? 0x800 : 0x180 | kind | slot->rights << 3;
        slot->rights = 0; /* SDM 31.4.3.1 */
    }
    pthread_mutex_unlock(&cpu->guest);
    return outcome;
}

/* -- the host
 * ----------------------------------------------------------------------------------------------------------------------- */

static uint64_t free_frame(struct cpu *cpu) {
    for (;;) {
        uint64_t number = random_below(cpu, SINGLE_FRAMES);

        if (load(&cpu->world->frame[number].owner) == FRAME_UNOWNED) {
            return number;
        }
    }
}

static void give(struct world *w, uint64_t gpa1, uint64_t frame) {
    store(&w->frame[frame].writable, 1);
    store(&w->frame[frame].owner, gpa1);
    store(&w->ept01[gpa1], frame << 12 | 7);
}

static void block_owned(struct world *w, uint64_t first, bool owned) {
    for (uint64_t i = 0; i < BLOCK_PAGES; i++) {
        store(&w->frame[first + i].writable, 1);
        store(&w->frame[first + i].owner, owned ? SINGLE_PAGES + i : FRAME_UNOWNED);
    }
}

static void move_block(struct cpu *cpu) {
    struct world *w = cpu->world;
    uint64_t old = w->block >> 12;
    uint64_t place = old == SINGLE_FRAMES ? SINGLE_FRAMES + BLOCK_PAGES : SINGLE_FRAMES;

    block_owned(w, place, true);
    store(&w->block, place << 12 | 7);
    nvmx_ept_memory_changed(w->ept, cpu, (uint64_t)SINGLE_PAGES << 12, (uint64_t)BLOCK_PAGES << 12);
    block_owned(w, old, false);
}

void host_change(struct cpu *cpu) {
    struct world *w = cpu->world;
    uint64_t gpa1 = TABLE_PAGES + random_below(cpu, SINGLE_PAGES - TABLE_PAGES);
    uint64_t entry = w->ept01[gpa1];
    uint64_t frame = entry >> 12;

    count(&w->host_moves);
    if (random_below(cpu, 8) == 0) {
        move_block(cpu);
        return;
    }
    switch (entry == 0 ? 2 : random_below(cpu, 4)) {
    case 0: /* write-protected, and after a while writable again */
        store(&w->ept01[gpa1], (entry & ADDRESS) | 5);
        nvmx_ept_memory_protected(w->ept, cpu, gpa1 << 12, 4096);
        store(&w->frame[frame].writable, 0);
        break;
    case 1: /* taken away */
        store(&w->ept01[gpa1], 0);
        nvmx_ept_memory_changed(w->ept, cpu, gpa1 << 12, 4096);
        store(&w->frame[frame].owner, FRAME_UNOWNED);
        break;
    case 2: /* given */
        if (entry == 0) {
            give(w, gpa1, free_frame(cpu));
        } else {
            store(&w->frame[frame].writable, 1);
            store(&w->ept01[gpa1], (entry & ADDRESS) | 7);
        }
        break;
    default: /* moved */
        give(w, gpa1, free_frame(cpu));
        nvmx_ept_memory_changed(w->ept, cpu, gpa1 << 12, 4096);
        store(&w->frame[frame].owner, FRAME_UNOWNED);
        break;
    }
}

/* -- life
 * --------------------------------------------------------------------------------------------------------------------------- */

struct world *world_new(unsigned int cpus, uint32_t page_budget, unsigned int fail_percent, uint64_t seed) {
    struct world *w = calloc(1, sizeof(*w));
    struct nvmx_ept_config config = {.size = sizeof(config), .page_budget = page_budget};

    if (w == NULL) {
        fail("out of memory");
    }
    w->cpus = cpus;
    w->fail_percent = fail_percent;
    w->caps.physical_address_bits = 52;
    /* execute-only, 4 levels, UC, WB, 2M, 1G, accessed and dirty flags */
    w->caps.msr[NVMX_CAP_EPT_VPID] = (1u << 0) | (1u << 6) | (1u << 8) | (1u << 14) | (1u << 16) | (1u << 17) | (1u << 21);
    config.l1 = config.machine = &w->caps;
    w->host = (struct nvmx_host){.size = sizeof(w->host),
                                 .map_page = map_page,
                                 .unmap_page = unmap_page,
                                 .ept01_lookup = ept01_lookup,
                                 .page_alloc = page_alloc,
                                 .page_free = page_free,
                                 .tlb_flush = tlb_flush,
                                 .page_version = page_budget != 0 || fail_percent != 0 ? page_version : NULL};
    for (unsigned int i = 0; i <= CPUS_MAX; i++) {
        w->cpu[i].world = w;
        w->cpu[i].id = i;
        w->cpu[i].random = (seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        pthread_mutex_init(&w->cpu[i].guest, NULL);
    }
    for (uint64_t i = 0; i < FRAMES; i++) {
        w->frame[i].owner = FRAME_UNOWNED;
    }
    for (uint64_t i = 0; i < SINGLE_PAGES; i++) {
        give(w, i, i);
    }
    w->block = (uint64_t)SINGLE_FRAMES << 12 | 7;
    block_owned(w, SINGLE_FRAMES, true);
    w->memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    if (nvmx_ept_init(w->memory, nvmx_ept_size(), &w->host, w, &config, &w->ept) != NVMX_OK) {
        fail("nvmx_ept_init");
    }
    return w;
}

void world_delete(struct world *w) {
    nvmx_ept_destroy(w->ept, &w->cpu[CPUS_MAX]);
    if (w->allocated != w->freed || w->maps != w->unmaps || nvmx_ept_pages(w->ept) != 0) {
        fail("%llu pages allocated, %llu freed; %llu maps, %llu unmaps", (unsigned long long)w->allocated, (unsigned long long)w->freed,
             (unsigned long long)w->maps, (unsigned long long)w->unmaps);
    }
    free(w->memory);
    free(w);
}
