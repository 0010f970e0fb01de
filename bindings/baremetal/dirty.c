/* SPDX-License-Identifier: MIT */
/*
 * Which pages of L1's memory changed. A page that was taken is write-protected in ept01; libnvmx gives L2 no more than that; the first write
 * of either comes to handle_ept_violation, and what libnvmx or L2's hardware writes by itself comes with unmap_page. So a page is marked
 * exactly if it may differ from what was taken.
 */
#include "console.h"
#include "move.h"

#define READ_EXECUTE (NVMX_ACCESS_READ | NVMX_ACCESS_EXECUTE)

static struct {
    uint64_t pages; /* the bitmap's size: 0 as long as nobody asked */
    uint64_t *marks;
    uint64_t left, next;
    uint32_t rounds;
} dirty;

static bool is_marked(uint64_t page) {
    return dirty.marks[page / 64] >> page % 64 & 1;
}

void dirty_mark(uint64_t gpa1) {
    uint64_t page = gpa1 / PAGE_BYTES;

    if (page >= dirty.pages || is_marked(page))
        return;
    dirty.marks[page / 64] |= 1ull << page % 64;
    dirty.left++;
}

bool dirty_fault(uint64_t gpa1) {
    struct nvmx_ept01_mapping mapping;

    gpa1 &= ~(PAGE_BYTES - 1);
    if (gpa1 / PAGE_BYTES >= dirty.pages || ept01_find(gpa1, &mapping) != NVMX_OK || mapping.access & NVMX_ACCESS_WRITE)
        return false;
    dirty_mark(gpa1);
    return ept01_set(gpa1, ept01_hpa(gpa1), READ_EXECUTE | NVMX_ACCESS_WRITE);
}

/* What L1 owns of the direct map; the same on both machines, as their memory maps are. */
static uint64_t pages_of_l1(bool mark) {
    uint64_t last = 0;

    for (uint64_t gpa1 = memory_usable_from(0); gpa1 < memory_direct_end();
         gpa1 = memory_usable_from(gpa1 + PAGE_BYTES)) {
        last = gpa1 / PAGE_BYTES + 1;
        if (mark)
            dirty_mark(gpa1);
    }
    return last;
}

static void protect(struct cpu *cpu, uint64_t gpa1, uint64_t bytes) {
    ept01_flush();
    if (nvmx_memory_protected(cpu->vcpu, gpa1, bytes) != NVMX_OK)
        panic("libnvmx can't follow a change of memory");
}

/* All pages are protected at once, so that the first round needs no flush for each. */
bool dirty_start(struct cpu *cpu) {
    uint64_t pages = pages_of_l1(false);

    /* Page tables for 4-KiB pages, and the bitmap. */
    if (!dirty.pages && pages_left() < pages / 512 + pages / 8 / PAGE_BYTES + 16)
        return false;
    if (!dirty.pages)
        dirty.marks = pages_take(pages / 8 + 8);
    dirty.pages = pages;
    dirty.next = 0;
    dirty.rounds = 0;
    pages_of_l1(true);
    for (uint64_t gpa1 = memory_usable_from(0); gpa1 < memory_direct_end(); gpa1 = memory_usable_from(gpa1 + PAGE_BYTES))
        if (!ept01_set(gpa1, ept01_hpa(gpa1), READ_EXECUTE))
            return false;
    protect(cpu, 0, pages * PAGE_BYTES);
    return true;
}

void dirty_settle(struct cpu *cpu) {
    protect(cpu, 0, dirty.pages * PAGE_BYTES);
}

uint64_t dirty_left(void) {
    return dirty.left;
}

uint32_t dirty_rounds(void) {
    return dirty.rounds;
}

uint64_t dirty_take(struct cpu *cpu) {
    struct nvmx_ept01_mapping mapping;
    uint64_t gpa1;

    if (!dirty.left)
        return NVMX_NO_ADDRESS;
    for (;; dirty.next = dirty.marks[dirty.next / 64] ? dirty.next + 1 : (dirty.next / 64 + 1) * 64) {
        if (dirty.next >= dirty.pages) {
            dirty.next = 0;
            dirty.rounds++;
        }
        if (is_marked(dirty.next))
            break;
    }
    gpa1 = dirty.next * PAGE_BYTES;
    dirty.marks[dirty.next / 64] &= ~(1ull << dirty.next % 64);
    dirty.next++; /* a page that changes all the time comes once a round */
    dirty.left--;
    if (ept01_find(gpa1, &mapping) == NVMX_OK && mapping.access & NVMX_ACCESS_WRITE) {
        ept01_set(gpa1, ept01_hpa(gpa1), READ_EXECUTE);
        protect(cpu, gpa1, PAGE_BYTES);
    }
    return gpa1;
}
