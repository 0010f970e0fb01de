/* SPDX-License-Identifier: MIT */
/*
 * nvmx_host.page_version: which tables of its ept12 L1 has written, from the dirty flags of ept01.
 *
 * A page that is asked about is watched: it has a 4-KiB mapping of its own, and a number that is handed out as long as the mapping's dirty flag
 * is clear. A flag that is found set is cleared, and before any processor runs L1 again it drops what it caches of ept01: else it would not set the flag
 * once more. Numbers come from one counter, so one that is forgotten is replaced by another, and whoever is unsure forgets. All pages together have a number
 * as long as no flag is set, nothing is forgotten, and no page gets a new number, which is also when it loses its place to another.
 *
 * What the flag does not show, and what makes up for it:
 * - writes by L0, for libnvmx: each is an unmap_page with `dirtied`, which forgets the page;
 * - writes by L2, whose ept02 has other flags: a page that libnvmx looked up for L2 is never watched, and when a mapping is split here for the first
 *   time, what ept02 may have of it loses the right to write, so that libnvmx looks up again. Where another splits one, all its parts count as L2's;
 * - a page that is moved or taken away: ept01_set forgets it;
 * - DMA by L1's devices. An operating system clears a page by the processor before it makes a table of it; but one that comes back from
 *   hibernation has its memory filled by a device. It has left VMX operation before, so VMXON forgets everything. An L1 that has a device write
 *   into tables which are in use must do without.
 */
#include "console.h"
#include "host.h"
#include "versions.h"

#define EPT_DIRTY      (1ull << 9)
#define EPT01_LISTED   (1ull << 53) /* ignored by processors: in versions.entry */

#define BLOCK_BYTES    (2 * MIB)
#define BLOCKS_MAX     8u  /* split before one entry */
#define PAGES_RESERVED 64u /* of L0's pool: no block is split for the last ones */
/* To have the other processors leave their guests costs as much as to compare some tables: it is not done for fewer answers. */
#define ANSWERS_PER_FLUSH 64u

struct watched watched[WATCHED];
uint64_t watched_tag;
uint64_t watched_together;

static struct {
    bool on;
    uint64_t counter;
    uint64_t *entry[WATCHED]; /* of all that are watched, and perhaps of some that were */
    uint32_t entries;
    uint64_t block[BLOCKS_MAX]; /* to be split */
    uint32_t blocks;
    uint32_t answers; /* since the others were brought out */
} versions;

void versions_init(void) {
    bool moves = options.move_out || options.move_in; /* these log writes, and with dirty flags each walk of L1's page tables is one */

    /* L0's own L0 would make an exit of each flag that is set. */
    versions.on = !options.no_versions && !moves && !l0_is_guest && vmx_has_ept(EPT_CAP_AD);
    versions_forget_all();
}

bool versions_on(void) {
    return versions.on;
}

void versions_forget_all(void) {
    for (; versions.entries; versions.entries--)
        __atomic_fetch_and(versions.entry[versions.entries - 1], ~EPT01_LISTED, __ATOMIC_RELAXED);
    watched_together = 0;
    watched_tag = (watched_tag + 1) % PAGE_BYTES;
    if (watched_tag == 0) { /* old tags come back */
        memset(watched, 0, sizeof watched);
        watched_tag = 1;
    }
}

void versions_of_l2(uint64_t *entry, uint64_t gpa1) {
    if (versions.on && !(*entry & EPT01_OF_L2)) {
        __atomic_fetch_or(entry, EPT01_OF_L2, __ATOMIC_RELAXED);
        versions_forget(gpa1 & ~(PAGE_BYTES - 1));
    }
}

/* The mapping that holds gpa1 gets split before the next entry, where libnvmx can be told. */
static void want_split(struct cpu *cpu, uint64_t gpa1) {
    uint64_t block = gpa1 & ~(BLOCK_BYTES - 1);

    for (uint32_t i = 0; i < versions.blocks; i++)
        if (versions.block[i] == block)
            return;
    if (versions.blocks == BLOCKS_MAX || pages_left() <= PAGES_RESERVED)
        return;
    versions.block[versions.blocks++] = block;
    cpu->entry.split_due = true;
}

/* The entry that is to be watched, or NULL. */
static uint64_t *entry_of(struct cpu *cpu, uint64_t gpa1) {
    uint64_t *entry;

    if (!memory_is_l1_page(gpa1))
        return NULL;
    entry = ept01_small(gpa1);
    if (!entry)
        want_split(cpu, gpa1);
    return entry && !(*entry & EPT01_OF_L2) ? entry : NULL;
}

/* A new number, and a clear flag: nobody caches it as set. 0: the others would have to leave their guests for too little. */
static uint64_t watch(struct cpu *cpu, struct watched *w, uint64_t gpa1, uint64_t *entry) {
    if (processors_in_guests(cpu)) {
        if (versions.answers < ANSWERS_PER_FLUSH)
            return 0;
        versions.answers = 0;
    }
    __atomic_fetch_and(entry, ~EPT_DIRTY, __ATOMIC_SEQ_CST);
    processors_flush_others(cpu);
    ept01_flush();
    if (versions.entries == WATCHED)
        versions_forget_all();
    if (!(__atomic_fetch_or(entry, EPT01_LISTED, __ATOMIC_RELAXED) & EPT01_LISTED))
        versions.entry[versions.entries++] = entry;
    watched_together = 0;
    *w = (struct watched){.page = gpa1 | watched_tag, .entry = entry, .number = ++versions.counter};
    return w->number;
}

/* Those that are found written are not watched any more: their own number has to be asked for again. */
static __attribute__((noinline, cold)) uint64_t number_together(void) {
    uint32_t kept = 0;

    for (uint32_t i = 0; i < versions.entries; i++) {
        uint64_t *entry = versions.entry[i];

        if (__atomic_load_n(entry, __ATOMIC_SEQ_CST) & EPT_DIRTY)
            __atomic_fetch_and(entry, ~EPT01_LISTED, __ATOMIC_RELAXED);
        else
            versions.entry[kept++] = entry;
    }
    versions.entries = kept;
    watched_together = ++versions.counter;
    return watched_together;
}

static uint64_t version_together(void) {
    uint64_t all = 0;

    for (uint32_t i = 0; i < versions.entries; i++)
        all |= __atomic_load_n(versions.entry[i], __ATOMIC_RELAXED);
    return watched_together && !(all & EPT_DIRTY) ? watched_together : number_together();
}

uint64_t page_version(void *ctx, uint64_t gpa1) {
    struct watched *w = watched_at(gpa1);
    uint64_t *entry = w->entry;

    if (gpa1 == NVMX_NO_ADDRESS)
        return version_together();
    versions.answers++;
    if (w->page != (gpa1 | watched_tag))
        entry = entry_of(ctx, gpa1);
    else if (!(__atomic_load_n(entry, __ATOMIC_SEQ_CST) & EPT_DIRTY))
        return w->number;
    return entry ? watch(ctx, w, gpa1, entry) : 0;
}

void versions_split(struct cpu *cpu) {
    processors_flush_others(cpu);
    for (; versions.blocks; versions.blocks--) {
        uint64_t block = versions.block[versions.blocks - 1];

        if (!ept01_split(block))
            continue;
        for (uint32_t i = 0; i < processors_count(); i++)
            if (processor(i)->vcpu && nvmx_memory_protected(processor(i)->vcpu, block, BLOCK_BYTES) != NVMX_OK)
                panic("libnvmx can't follow a change of memory at 0x%lx", block);
    }
    ept01_flush();
    cpu->entry.split_due = false;
}

void versions_split_at(struct cpu *cpu, uint64_t gpa1) {
    if (!versions.on || ept01_small(gpa1))
        return;
    want_split(cpu, gpa1);
    versions_split(cpu);
}
