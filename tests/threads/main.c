/* SPDX-License-Identifier: MIT */
/*
 * Processors that fill, change and invalidate one composition at the same time, while the host changes L1's memory.
 *
 * Each processor owns a table page of ept12 and the entry that leads to it. What it accesses through its own entries
 * must be exactly what it last wrote there; of
 * others' entries it may see an older state, as a processor does before it executes INVEPT itself; but nobody ever reaches memory that the host
 * has taken back. Dirty flags: after a write of L2 through a processor's own entry the flag is set.
 */
#include "world.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define OWN_ENTRIES 64u
#define ROOTS       3u /* without, and with accessed and dirty flags; these with sub-page write permissions */
#define PML4(root)  ((root) == 0 ? 0u : 1u)
#define PDPT        2u
#define PD          3u
#define PT(cpu)     (8u + (cpu))
#define SPPT(level) (24u - (level)) /* 4 to 2 */
#define VECTORS(cpu) (24u + (cpu))

struct thread {
    struct cpu *cpu;
    uint64_t operations;
    uint64_t eptp12;
    struct tables tables;
};

static uint64_t eptp12_of(unsigned int root) {
    return (uint64_t)PML4(root) << 12 | 0x1e | (root != 0 ? NVMX_EPTP_AD : 0);
}

static uint64_t some_vector(struct cpu *cpu) {
    static const uint64_t vectors[4] = {0, UINT64_C(0x5555555555555555), UINT64_C(0x1111111111111111), UINT64_C(0x5555555500000000)};

    return vectors[random_below(cpu, 4)];
}

static uint64_t some_leaf(struct cpu *cpu) {
    static const uint64_t rights[8] = {7, 7, 7, 7, 5, 3, 1, 0};
    uint64_t gpa1 = TABLE_PAGES + random_below(cpu, GPA1_PAGES - TABLE_PAGES);

    return gpa1 << 12 | 6 << 3 | rights[random_below(cpu, 8)] | (random_below(cpu, 2) != 0 ? NVMX_EPT_SUB_PAGE : 0);
}

static void make_tables(struct world *w) {
    for (unsigned int root = 0; root < ROOTS; root++) {
        w->l1[PML4(root)][0] = (uint64_t)PDPT << 12 | 7;
    }
    w->l1[PDPT][0] = (uint64_t)PD << 12 | 7;
    w->l1[SPPT(4)][0] = (uint64_t)SPPT(3) << 12 | 1;
    w->l1[SPPT(3)][0] = (uint64_t)SPPT(2) << 12 | 1;
    for (unsigned int i = 0; i < w->cpus; i++) {
        w->l1[PD][i] = (uint64_t)PT(i) << 12 | 7;
        for (unsigned int k = 0; k < OWN_ENTRIES; k++) {
            w->l1[PT(i)][k] = some_leaf(&w->cpu[i]);
            w->l1[VECTORS(i)][k] = some_vector(&w->cpu[i]);
        }
        w->l1[SPPT(2)][i] = (uint64_t)VECTORS(i) << 12 | 1;
    }
}

static bool enter_root(struct thread *t) {
    struct nvmx_ept *ept = t->cpu->world->ept;
    enum nvmx_status status = t->tables.spp ? nvmx_ept_root_spp(ept, t->cpu, t->cpu->id, t->eptp12, false, (uint64_t)SPPT(4) << 12,
                                                                &t->tables.eptp02, &t->tables.spptp02)
                                            : nvmx_ept_root(ept, t->cpu, t->cpu->id, t->eptp12, false, &t->tables.eptp02);

    if (status == NVMX_E_NO_MEMORY) {
        t->cpu->no_memory++;
        return false;
    }
    if (status != NVMX_OK) {
        fail("nvmx_ept_root: %d", (int)status);
    }
    return true;
}

/* The entry that decides about an address in a processor's own region, as it wrote it: the PD's if that is a large page or not there. */
static uint64_t own_entry(const struct world *w, unsigned int owner, unsigned int index, uint64_t *gpa1_page) {
    uint64_t above = load(&w->l1[PD][owner]);
    uint64_t entry = (above & 0x80) != 0 || (above & 7) == 0 ? above : load(&w->l1[PT(owner)][index]);

    *gpa1_page = (entry & UINT64_C(0x000ffffffffff000)) >> 12;
    *gpa1_page += (above & 0x80) != 0 ? index : 0;
    return (above & 7) == 0 ? 0 : (above & 0x80) != 0 ? above : entry & (above | ~UINT64_C(7));
}

enum sub_page { NONE, PERMITTED, REFUSED, EVENT };

/* What the sub-pages of a processor's own page say of a write that the page does not permit. NONE: it has none. */
static enum sub_page own_sub_page(const struct thread *t, unsigned int index, uint64_t kind, uint64_t gpa2, uint64_t entry) {
    const struct world *w = t->cpu->world;
    uint64_t above = load(&w->l1[PD][t->cpu->id]);

    if (!t->tables.spp || kind != 2 || (entry & 3) != 1 || (above & 0x80) != 0 || (entry & NVMX_EPT_SUB_PAGE) == 0) {
        return NONE;
    }
    if ((load(&w->l1[SPPT(2)][t->cpu->id]) & 1) == 0) {
        return EVENT;
    }
    return (load(&w->l1[VECTORS(t->cpu->id)][index]) >> (2 * (gpa2 >> 7 & 31)) & 1) != 0 ? PERMITTED : REFUSED;
}

static void check_own(struct thread *t, unsigned int index, uint64_t kind, uint64_t gpa2, uint64_t owner) {
    struct world *w = t->cpu->world;
    uint64_t gpa1;
    uint64_t entry = own_entry(w, t->cpu->id, index, &gpa1);

    if ((entry & kind) != kind && own_sub_page(t, index, kind, gpa2, entry) != PERMITTED) {
        fail("processor %u: access %llu through entry %#llx", t->cpu->id, (unsigned long long)kind, (unsigned long long)entry);
    }
    if (owner != gpa1) {
        fail("processor %u reaches page %#llx of L1, its entry is %#llx", t->cpu->id, (unsigned long long)owner, (unsigned long long)entry);
    }
    if ((t->eptp12 & NVMX_EPTP_AD) != 0 && ((entry & NVMX_EPT_ACCESSED) == 0 || ((kind & 2) != 0 && (entry & NVMX_EPT_DIRTY) == 0))) {
        fail("processor %u: no flags after access %llu: entry %#llx", t->cpu->id, (unsigned long long)kind, (unsigned long long)entry);
    }
}

/* What the processor is told about its own entries. ept01 may have changed since, so a fault of the host's can't be checked. */
static void check_refusal(struct thread *t, unsigned int index, uint64_t kind, uint64_t gpa2, const struct nvmx_ept_fault *fault) {
    uint64_t gpa1;
    uint64_t entry = own_entry(t->cpu->world, t->cpu->id, index, &gpa1);

    if ((entry & kind) == kind || own_sub_page(t, index, kind, gpa2, entry) > REFUSED ||
        own_sub_page(t, index, kind, gpa2, entry) == PERMITTED || (fault->qualification & 7) != kind || (fault->qualification >> 3 & 7) != (entry & 7)) {
        fail("processor %u: violation %#llx, entry %#llx", t->cpu->id, (unsigned long long)fault->qualification, (unsigned long long)entry);
    }
}

static void check_event(const struct thread *t, unsigned int index, uint64_t kind, uint64_t gpa2) {
    uint64_t gpa1;
    uint64_t entry = own_entry(t->cpu->world, t->cpu->id, index, &gpa1);

    if (own_sub_page(t, index, kind, gpa2, entry) != EVENT) {
        fail("processor %u: an SPP-related event, entry %#llx", t->cpu->id, (unsigned long long)entry);
    }
}

static void one_access(struct thread *t, unsigned int region, unsigned int index) {
    static const uint64_t kinds[4] = {1, 1, 2, 4};
    struct cpu *cpu = t->cpu;
    uint64_t kind = kinds[random_below(cpu, 4)];
    struct nvmx_ept_access access = {.eptp12 = t->eptp12,
                                     .gpa2 = (uint64_t)region << 21 | (uint64_t)index << 12 | random_below(cpu, 32) << 7,
                                     .spp = t->tables.spp,
                                     .spptp12 = (uint64_t)SPPT(4) << 12};
    struct nvmx_ept_fault fault;
    enum outcome outcome;
    uint64_t owner;

    for (unsigned int attempt = 0;
         (outcome = access_once(cpu, &t->tables, access.gpa2, kind, &owner, &access.qualification)) != DONE; attempt++) {
        access.spp_event = outcome == SPP_EVENT;
        enum nvmx_ept_verdict verdict = nvmx_ept_fault(cpu->world->ept, cpu, &access, &fault);

        if (verdict == NVMX_EPT_FAILED && fault.status == NVMX_E_NO_MEMORY) {
            cpu->no_memory++;
            return;
        }
        if (verdict == NVMX_EPT_L1_VIOLATION && region == cpu->id) {
            check_refusal(t, index, kind, access.gpa2, &fault);
        }
        if (verdict == NVMX_EPT_L1_SPP_EVENT && region == cpu->id) {
            check_event(t, index, kind, access.gpa2);
        }
        if (verdict == NVMX_EPT_L1_VIOLATION || verdict == NVMX_EPT_L1_SPP_EVENT || verdict == NVMX_EPT_HOST_FAULT) {
            cpu->refused++;
            return;
        }
        if (verdict != NVMX_EPT_RETRY) {
            fail("verdict %d, status %d", (int)verdict, (int)fault.status);
        }
        if (attempt > 100000) {
            fail("processor %u: an access is tried again for ever", cpu->id);
        }
        cpu->retries++;
        if (attempt % 64 == 63) {
            sched_yield(); /* the one that holds what this one wants may wait for its turn on the same CPU */
        }
    }
    cpu->granted++;
    if (region == cpu->id) {
        check_own(t, index, kind, access.gpa2, owner);
    }
}

/* L1 changes an entry of its own and executes INVEPT. */
static void change(struct thread *t) {
    struct cpu *cpu = t->cpu;
    struct world *w = cpu->world;
    unsigned int index = random_below(cpu, OWN_ENTRIES);
    uint64_t *entry = &w->l1[PT(cpu->id)][index];
    uint32_t what = random_below(cpu, 11);
    uint64_t page = what < 2 ? PD : what < 8 ? PT(cpu->id) : what < 10 ? VECTORS(cpu->id) : SPPT(2);

    table_written(w, page);
    switch (what) {
    case 0:
        store(&w->l1[PD][cpu->id], (uint64_t)PT(cpu->id) << 12 | (random_below(cpu, 4) == 0 ? 5 : 7));
        break;
    case 1:
        store(&w->l1[PD][cpu->id], random_below(cpu, 3) == 0 ? 0 : UINT64_C(1) << 21 | 0xb7);
        break;
    case 2:
        __atomic_fetch_and(entry, ~UINT64_C(0x300), __ATOMIC_SEQ_CST);
        break;
    case 8:
    case 9:
        store(&w->l1[VECTORS(cpu->id)][index], some_vector(cpu));
        break;
    case 10:
        store(&w->l1[SPPT(2)][cpu->id], (uint64_t)VECTORS(cpu->id) << 12 | (random_below(cpu, 3) != 0));
        break;
    default:
        store(entry, some_leaf(cpu));
        break;
    }
    table_written(w, page);
    nvmx_ept_invept(w->ept, cpu, random_below(cpu, 4) == 0, eptp12_of(0));
    nvmx_ept_invept(w->ept, cpu, false, eptp12_of(1));
}

/* Nothing was written in between, at least by this processor: a host that knows is asked about all pages together. */
static void invalidate_again(struct thread *t) {
    for (unsigned int i = 0; i < 4; i++) {
        nvmx_ept_invept(t->cpu->world->ept, t->cpu, false, t->eptp12);
        enter_root(t);
    }
}

static void *processor(void *argument) {
    struct thread *t = argument;
    struct cpu *cpu = t->cpu;
    struct world *w = cpu->world;

    for (uint64_t i = 0; i < t->operations; i++) {
        uint32_t what = random_below(cpu, 100);

        if (what < 12) {
            change(t);
        } else if (what < 16) {
            unsigned int root = random_below(cpu, ROOTS);

            t->eptp12 = eptp12_of(root);
            t->tables.spp = root == 2;
        } else if (what < 17) {
            nvmx_ept_release(w->ept, cpu, cpu->id);
        } else if (what < 22) {
            invalidate_again(t);
        } else if (enter_root(t)) {
            unsigned int region = what < 85 ? cpu->id : random_below(cpu, w->cpus);
            unsigned int index = random_below(cpu, OWN_ENTRIES);

            for (unsigned int k = 0; k < (what < 40 ? 8 : 1); k++) { /* also in sequence */
                one_access(t, region, (index + k) % OWN_ENTRIES);
            }
        }
    }
    return NULL;
}

static void *the_host(void *argument) {
    struct cpu *cpu = argument;

    while (load(&cpu->world->stop) == 0) {
        host_change(cpu);
        for (unsigned int i = 0; i < 2000 && load(&cpu->world->stop) == 0; i++) {
            __builtin_ia32_pause();
        }
    }
    return NULL;
}

static void run(unsigned int cpus, uint64_t operations, uint32_t budget, unsigned int fail_percent, uint64_t seed) {
    struct world *w = world_new(cpus, budget, fail_percent, seed);
    struct thread thread[CPUS_MAX];
    pthread_t id[CPUS_MAX + 1];
    uint64_t granted = 0, refused = 0, retries = 0, no_memory = 0;

    make_tables(w);
    pthread_create(&id[CPUS_MAX], NULL, the_host, &w->cpu[CPUS_MAX]);
    for (unsigned int i = 0; i < cpus; i++) {
        thread[i] = (struct thread){.cpu = &w->cpu[i], .operations = operations / cpus, .eptp12 = eptp12_of(i % 2)};
        pthread_create(&id[i], NULL, processor, &thread[i]);
    }
    for (unsigned int i = 0; i < cpus; i++) {
        pthread_join(id[i], NULL);
        granted += w->cpu[i].granted;
        refused += w->cpu[i].refused;
        retries += w->cpu[i].retries;
        no_memory += w->cpu[i].no_memory;
    }
    store(&w->stop, 1);
    pthread_join(id[CPUS_MAX], NULL);
    printf("%u threads, budget %u, allocator fails %u %%: %llu accesses done, %llu refused, %llu violations resolved, %llu times no memory, "
           "%llu changes by the host\n",
           cpus, budget, fail_percent, (unsigned long long)granted, (unsigned long long)refused, (unsigned long long)retries,
           (unsigned long long)no_memory, (unsigned long long)w->host_moves);
    if (granted < operations / 4 || refused < operations / 100 || retries < operations / 50 || (no_memory != 0) > (fail_percent != 0)) {
        fail("this shows nothing, or there was no memory without a failure");
    }
    world_delete(w);
}

#define OPERATIONS_FEW 6000u

int main(int argc, char **argv) {
    struct arguments a = arguments(argc, argv, OPERATIONS_FEW,
                                   "2 and by 4 threads, with plenty of memory, with little, and with an allocator that fails");

    for (unsigned int cpus = 2; cpus <= 4; cpus += 2) {
        run(cpus, a.operations, 0, 0, a.seed);
        run(cpus, a.operations, 36, 0, a.seed + 1); /* one path of tables with its vectors, and the tops of all roots */
        run(cpus, a.operations, 0, 20, a.seed + 2);
    }
    return 0;
}
