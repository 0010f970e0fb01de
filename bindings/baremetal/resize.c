/* SPDX-License-Identifier: MIT */
/*
 * Option `resize`: L1's memory shrinks, moves and grows while L1 and L2 run. At random exits pages are taken out of ept01, as a balloon or a
 * hot removal does; at its first touch a page comes back at another hpa. libnvmx hears of it by nvmx_memory_changed alone. L1 and L2 must not
 * notice: the content of a page that went is kept where it was, and what a frame held before is destroyed when the page has left it.
 *
 * Pages are chosen at random, and from those that hurt most: what L1's page tables and libnvmx used last. Devices that write to L1's memory by
 * themselves would miss a page that moved: only for an L1 that lets none do so.
 */
#include "console.h"
#include "host.h"
#include "versions.h"

#define FRAMES    64u  /* free at the start: the pages that are out and those that are back share them */
#define AT_ONCE   4u   /* most pages taken at one exit */
#define OUT_MAX   256u /* most pages that are out */
#define RECENT    64u
#define POISON    0xa5

static struct {
    bool ready;
    uint64_t random;
    uint32_t left; /* exits until the next time */
    uint64_t frame[FRAMES];
    uint32_t frames;
    uint64_t recent[RECENT];
    uint32_t recent_at;
    uint64_t out, taken, given, while_l2;
} resizing;

/* xorshift64* */
static uint32_t random_below(uint32_t limit) {
    resizing.random ^= resizing.random >> 12;
    resizing.random ^= resizing.random << 25;
    resizing.random ^= resizing.random >> 27;
    return (uint32_t)(resizing.random * 0x2545f4914f6cdd1dull >> 32) % limit;
}

static void prepare(void) {
    resizing.random = options.resize_seed * 2 + 1;
    for (; resizing.frames < FRAMES; resizing.frames++)
        page_get_or_die(&resizing.frame[resizing.frames], "option resize");
    resizing.left = 1 + random_below(options.resize);
    resizing.ready = true;
}

void resize_note(uint64_t gpa1) {
    resizing.recent[resizing.recent_at++ % RECENT] = gpa1;
}

/* -- out ---------------------------------------------------------------------------------------------------------- */

static uint64_t choose(void) {
    const struct memory_map *map = memory_map();
    const struct memory_region *region;

    switch (random_below(4)) {
    case 0:
        return vmcs_get(NVMX_VMCS_GUEST_CR3) & ~(PAGE_BYTES - 1); /* of L1; L2's is a gpa2, which may happen to be some page of L1 too */
    case 1:
        do
            region = &map->region[random_below(map->count)];
        while (region->type != MEMORY_RAM || region->end - region->start < PAGE_BYTES);
        return (region->start + (uint64_t)random_below((uint32_t)((region->end - region->start) / PAGE_BYTES)) * PAGE_BYTES) &
               ~(PAGE_BYTES - 1);
    default:
        return resizing.recent[random_below(RECENT)];
    }
}

static void take_out(struct cpu *cpu, uint64_t gpa1) {
    struct nvmx_ept01_mapping mapping;

    if (!memory_is_ram(gpa1, gpa1 + PAGE_BYTES) || ept01_find(gpa1, &mapping) != NVMX_OK || resizing.out == OUT_MAX)
        return;
    versions_split_at(cpu, gpa1);
    if (!ept01_set(gpa1, ept01_hpa(gpa1), 0))
        return;
    ept01_flush();
    resizing.out++;
    resizing.taken++;
    resizing.while_l2 += nvmx_mode(cpu->vcpu) == NVMX_MODE_L2;
    for (uint32_t i = 0; i < processors_count(); i++)
        if (processor(i)->vcpu && nvmx_memory_changed(processor(i)->vcpu, gpa1, PAGE_BYTES) != NVMX_OK)
            panic("resize: libnvmx can't follow a change of memory at 0x%lx", gpa1);
}

void resize(struct cpu *cpu) {
    if (!resizing.ready)
        prepare();
    if (--resizing.left)
        return;
    resizing.left = 1 + random_below(options.resize);
    processors_flush_others(cpu);
    for (uint32_t count = 1 + random_below(AT_ONCE); count; count--)
        take_out(cpu, choose());
}

/* -- back --------------------------------------------------------------------------------------------------------- */

bool resize_give_back(uint64_t gpa1) {
    struct nvmx_ept01_mapping mapping;
    uint32_t chosen;
    uint64_t from, to;

    if (!options.resize || !resizing.out || ept01_find(gpa1, &mapping) == NVMX_OK || !memory_is_ram(gpa1 & ~(PAGE_BYTES - 1), gpa1 | (PAGE_BYTES - 1)))
        return false;
    gpa1 &= ~(PAGE_BYTES - 1);
    from = ept01_hpa(gpa1);
    chosen = random_below(resizing.frames);
    to = resizing.frame[chosen];
    memcpy(phys_to_virt(to), phys_to_virt(from), PAGE_BYTES);
    ept01_set(gpa1, to, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE | NVMX_ACCESS_EXECUTE);
    memset(phys_to_virt(from), POISON, PAGE_BYTES);
    resizing.frame[chosen] = from;
    resizing.out--;
    resizing.given++;
    return true;
}

void resize_print(void) {
    if (options.resize)
        print("nvmx-stats: resize taken %lu while-L2 %lu back-elsewhere %lu\n", resizing.taken, resizing.while_l2, resizing.given);
}
