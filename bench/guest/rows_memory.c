/* SPDX-License-Identifier: MIT */
/* EPT: invalidations, roots in turn, pages that L2 touches for the first time. */
#include "rounds.h"

enum { PAGES_4K = 512, PAGES_APART = 56, PAGES_2M = 8, TOUCH_SAMPLES = 8, LIVE_PAGES = 256, MANY_PAGES = 8192 };

/* RAX = address, RDX = step, RCX = number of touches; a VMCALL at the end. */
DEFINE_L2_CODE(touch, "1: mov (%rax), %rbx\n add %rdx, %rax\n dec %rcx\n jnz 1b\n 2: vmcall\n jmp 2b\n");
/* L2's 2M pages: memory that nobody uses. Where L1 has its own, L0 may map it by 4K pages. */
#define FREE_MEMORY (64ul << 20)

/* The page at RBX, then a VMCALL. */
DEFINE_L2_CODE(touch_one, "1: mov (%rbx), %rax\n vmcall\n jmp 1b\n");

static uint64_t other_root[512] __attribute__((aligned(4096)));

static void invalidations(void) {
    rounds_start_vmcall();
    const uint64_t eptp = vmread(EPT_POINTER);
    MEASURE("invept_single", bare_invept(1, eptp));
    MEASURE("invept_resume_exit", {
        bare_invept(1, eptp);
        round_trip();
    });
    MEASURE("invvpid_resume_exit", {
        bare_invvpid(1, 1, 0);
        round_trip();
    });
}

static void map_hole(uint64_t page, uint32_t count, uint32_t level) {
    for (uint64_t at = 0; at < count * page; at += page) {
        ept_map(L2_HOLE + at, level == EPT_LEVEL_2M ? FREE_MEMORY + at : (uint64_t)large_page + at % sizeof large_page, level, EPT_ALL | EPT_WB);
    }
    invalidate_all();
}

static void touch(uint64_t base, uint64_t page, uint64_t count) {
    rounds_l2.regs.gpr[RAX] = base;
    rounds_l2.regs.gpr[RDX] = page;
    rounds_l2.regs.gpr[RCX] = count;
    vmwrite(GUEST_RIP, rounds_l2.base);
    uint64_t rflags = l2_enter(&rounds_l2.regs, !rounds_l2.launched);
    rounds_l2.launched = true;
    if (rflags != 0) {
        rounds_failed(rflags);
    }
}

/* So many pages are live, and each exit comes after L2 has used the first. Returns the entry of ept12 that maps it. */
static volatile uint64_t *live(uint32_t pages) {
    rounds_prepare(l2_touch, 0);
    map_hole(0x1000, pages, EPT_LEVEL_4K);
    touch(L2_HOLE, 0x1000, pages);
    vmwrite(GUEST_RIP, l2_address(l2_touch_one));
    rounds_l2.regs.gpr[RBX] = L2_HOLE;
    rounds_first_entry(bench_exit);
    return ept_entry(L2_HOLE, EPT_LEVEL_4K);
}

/* With so many live entries: INVEPT alone; and L1 changes one of them, as for a page that it gives or takes, and L2 uses that page. */
static void with_live(uint32_t pages, const char *invept, const char *one_changed) {
    const uint64_t flip = (uint64_t)large_page ^ (uint64_t)(large_page + LIVE_PAGES * 0x1000);
    volatile uint64_t *entry = live(pages);
    const uint64_t eptp = vmread(EPT_POINTER);

    if (invept) {
        MEASURE(invept, {
            bare_invept(1, eptp);
            round_trip();
        });
    }
    MEASURE(one_changed, {
        *entry ^= flip;
        bare_invept(1, eptp);
        round_trip();
    });
}

/* Two sets of tables with one VMCS, as when L1 has several views of L2's memory. */
static void two_roots(void) {
    rounds_start_vmcall();
    const uint64_t eptp = vmread(EPT_POINTER), other = (uint64_t)other_root | (eptp & 0xfff);
    memcpy(other_root, (const void *)(eptp & ~0xffful), sizeof other_root);
    MEASURE("ept_two_in_turn", {
        bare_vmwrite(EPT_POINTER, other);
        round_trip();
        bare_vmwrite(EPT_POINTER, eptp);
        round_trip();
    });
}

static uint64_t touch_time(uint64_t base, uint64_t page, uint32_t count) {
    uint64_t before = ticks();
    touch(base, page, count);
    return ticks() - before;
}

/* L2 touches pages for the first time, then again: no exit to L1, the difference is what L0 does. */
static void first_touch(const char *name, uint64_t page, uint32_t count, uint32_t level) {
    if (!measure_wanted(name)) {
        return;
    }
    for (uint32_t i = 0; i < TOUCH_SAMPLES; i++) {
        rounds_start(l2_touch, 0, l2_exit);
        map_hole(page, count, level);
        touch(L2_HOLE, page, 1); /* L2's own tables and code are mapped now */
        if (measure_traced(name)) {
            touch(L2_HOLE + page, page, 2);
            magic_break();
            touch(L2_HOLE + 3 * page, page, 1);
            magic_break();
            return;
        }
        uint64_t first = touch_time(L2_HOLE + page, page, count - 1);
        uint64_t again = touch_time(L2_HOLE + page, page, count - 1);
        samples[i] = first > again ? first - again : 0;
    }
    print_differences(name, TOUCH_SAMPLES, count - 1);
}

void rows_of_memory(void) {
    invalidations();
    if (measure_wanted("ept_one_changed")) {
        with_live(LIVE_PAGES, 0, "ept_one_changed");
    }
    if (measure_wanted("invept_many") || measure_wanted("ept_one_of_many_changed")) {
        with_live(MANY_PAGES, "invept_many", "ept_one_of_many_changed"); /* 16 full tables: an L2 of 32 MBytes */
    }
    if (measure_wanted("ept_two_in_turn")) {
        two_roots();
    }
    first_touch("first_touch_4k", 0x1000, PAGES_4K, EPT_LEVEL_4K);
    first_touch("first_touch_4k_apart", 0x9000, PAGES_APART, EPT_LEVEL_4K); /* nothing is mapped ahead */
    first_touch("first_touch_2m", 0x200000, PAGES_2M, EPT_LEVEL_2M);
}
