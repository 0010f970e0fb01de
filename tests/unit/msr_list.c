/* SPDX-License-Identifier: MIT */
/* MSR-load and MSR-store lists: which entry fails, what happened before it, and that memory and callbacks are used as
 * promised. */
#include <criterion/criterion.h>

#include "sim.h"
#include "vcpu.h"

#define LIST     UINT64_C(0x200000)
#define ENTRY(n) (LIST + (uint64_t)(n)*16)
#define POISON   UINT64_C(0xa5a5a5a5a5a5a5a5)
#define GOOD     0xc0000102u /* KERNEL_GS_BASE */

static void put(struct sim *sim, uint64_t n, uint64_t index, uint64_t value) {
    sim_write64(sim, ENTRY(n), index);
    sim_write64(sim, ENTRY(n) + 8, value);
}

static struct sim *with_msrs(void) {
    struct sim *sim = sim_new(NULL);

    for (uint32_t i = 0; i < 8; i++) {
        sim_msr(sim, GOOD + i)->value = 0x1000 + i;
    }
    return sim;
}

Test(msr_list, empty_lists_touch_nothing) {
    struct sim *sim = with_msrs();

    sim->calls = 0;
    cr_assert_eq(msr_list_load(sim->vcpu, UINT64_MAX, 0), 0);
    cr_assert_eq(msr_list_store(sim->vcpu, UINT64_MAX, 0), 0);
    cr_assert_eq(sim->calls, 0);
    sim_free(sim);
}

Test(msr_list, load_writes_each_in_order) {
    struct sim *sim = with_msrs();

    for (uint32_t i = 0; i < 8; i++) {
        put(sim, i, GOOD + i, 0x7700 + i);
    }
    put(sim, 8, GOOD, 0x99);
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 9), 0);
    cr_assert_eq(sim_msr(sim, GOOD)->value, 0x99, "the last one of the same MSR stays");
    cr_assert_eq(sim_msr(sim, GOOD)->writes, 2);
    for (uint32_t i = 1; i < 8; i++) {
        cr_assert_eq(sim_msr(sim, GOOD + i)->value, 0x7700 + i);
    }
    sim_free(sim);
}

/* Indexes that fail although the host would take them: rows C-29.4-01 to C-29.4-05. */
static const uint64_t never_loaded[] = {
    0xc0000100,
    0xc0000101,
    0x800,
    0x80b,
    0x8ff,
    0x9b,
    0x9e,
    0x79,
    0x8b,
    0x3a,
    0x480,
    0x485,
    0x493,
    UINT64_C(0x100000000) | GOOD,
    UINT64_C(0x8000000000000000) | GOOD,
};

Test(msr_list, load_refuses_what_the_sdm_forbids) {
    for (size_t i = 0; i < sizeof(never_loaded) / sizeof(never_loaded[0]); i++) {
        struct sim *sim = with_msrs();

        sim_msr(sim, (uint32_t)never_loaded[i]);
        put(sim, 0, GOOD + 1, 0x11);
        put(sim, 1, never_loaded[i], 0x22);
        put(sim, 2, GOOD + 2, 0x33);
        cr_assert_eq(msr_list_load(sim->vcpu, LIST, 3), 2, "%lx", never_loaded[i]);
        cr_assert_eq(sim_msr(sim, (uint32_t)never_loaded[i])->writes, 0);
        cr_assert_eq(sim_msr(sim, GOOD + 1)->value, 0x11, "entries before it are loaded");
        cr_assert_eq(sim_msr(sim, GOOD + 2)->writes, 0, "entries after it are not");
        sim_free(sim);
    }
}

Test(msr_list, neighbours_of_forbidden_indexes_are_loaded) {
    static const uint32_t fine[] = {0x7ff, 0x900, 0xc0000102, 0xc00000ff, 0x9a, 0x9c,
                                    0x78,  0x8c,  0x47f,      0x494,      0x39, 0x3b};
    struct sim *sim = with_msrs();

    for (uint32_t i = 0; i < sizeof(fine) / sizeof(fine[0]); i++) {
        sim_msr(sim, fine[i]);
        put(sim, i, fine[i], i);
    }
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, sizeof(fine) / sizeof(fine[0])), 0);
    sim_free(sim);
}

Test(msr_list, a_wrmsr_fault_fails_the_entry) {
    struct sim *sim = with_msrs();

    sim_msr(sim, GOOD + 3)->refuse_write = true;
    for (uint32_t i = 0; i < 8; i++) {
        put(sim, i, GOOD + i, 1);
    }
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 8), 4);
    cr_assert_eq(sim_msr(sim, GOOD + 4)->writes, 0);
    put(sim, 0, 0x12345, 1); /* no such MSR */
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 1), 1);
    sim_free(sim);
}

Test(msr_list, feature_control_loads_by_its_own_rules) {
    struct sim *sim = with_msrs();
    uint64_t value;

    put(sim, 0, 0x3a, 5);
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 1), 1, "locked");
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, 0, true), NVMX_MSR_DONE);
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 1), 0);
    cr_assert_eq(nvmx_rdmsr(sim->vcpu, 0x3a, &value), NVMX_MSR_DONE);
    cr_assert_eq(value, 5);
    sim_free(sim);
}

/* The library's own MSRs are stored as L1 reads them, up to the last; those that L1 does not have fail. */
Test(msr_list, store_knows_every_capability_msr) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_EXIT] |= UINT64_C(1) << 63;
    machine.msr[NVMX_CAP_TRUE_EXIT] |= UINT64_C(1) << 63;
    machine.msr[NVMX_CAP_ENTRY] |= UINT64_C(1) << 56;
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= UINT64_C(1) << 56;
    machine.msr[NVMX_CAP_EXIT2] = 4;
    struct sim *sim = sim_new(&(struct sim_options){.machine = &machine});
    cr_assert(sim->vcpu != NULL);
    for (uint32_t msr = 0x480; msr <= 0x493; msr++) {
        uint64_t value = 0;
        bool there = nvmx_rdmsr(sim->vcpu, msr, &value) == NVMX_MSR_DONE;
        put(sim, 0, msr, POISON);
        cr_expect_eq(msr_list_store(sim->vcpu, LIST, 1), there ? 0 : 1, "%x", msr);
        cr_expect_eq(sim_read64(sim, ENTRY(0) + 8), there ? value : POISON, "%x", msr);
        cr_expect(msr != 0x493 || there);
    }
    sim_free(sim);
}

Test(msr_list, store_writes_values_and_nothing_else) {
    struct sim *sim = with_msrs();

    for (uint32_t i = 0; i < 8; i++) {
        put(sim, i, GOOD + i, POISON);
    }
    put(sim, 8, 0x480, POISON);
    put(sim, 9, POISON, POISON);
    cr_assert_eq(msr_list_store(sim->vcpu, LIST, 9), 0);
    for (uint32_t i = 0; i < 8; i++) {
        cr_assert_eq(sim_read64(sim, ENTRY(i)), GOOD + i, "the index stays");
        cr_assert_eq(sim_read64(sim, ENTRY(i) + 8), 0x1000 + i);
    }
    cr_assert_eq(sim_read64(sim, ENTRY(8) + 8), nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_BASIC]);
    cr_assert_eq(sim_read64(sim, ENTRY(9) + 8), POISON);
    sim_free(sim);
}

Test(msr_list, store_refuses_what_the_sdm_forbids) {
    static const uint64_t never[] = {0x800, 0x8ff, 0x9e, 0x492, 0x12345, UINT64_C(0x100000000) | GOOD};

    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++) {
        struct sim *sim = with_msrs();

        if (never[i] != 0x12345) {
            sim_msr(sim, (uint32_t)never[i]);
        }
        put(sim, 0, GOOD + 1, POISON);
        put(sim, 1, never[i], POISON);
        put(sim, 2, GOOD + 2, POISON);
        cr_assert_eq(msr_list_store(sim->vcpu, LIST, 3), 2, "%lx", never[i]);
        cr_assert_eq(sim_read64(sim, ENTRY(0) + 8), 0x1001);
        cr_assert_eq(sim_read64(sim, ENTRY(1) + 8), POISON);
        cr_assert_eq(sim_read64(sim, ENTRY(2) + 8), POISON);
        sim_free(sim);
    }
}

Test(msr_list, store_reads_fs_base_and_gs_base) {
    struct sim *sim = with_msrs();

    sim_msr(sim, 0xc0000100)->value = 0xf5;
    put(sim, 0, 0xc0000100, POISON);
    cr_assert_eq(msr_list_store(sim->vcpu, LIST, 1), 0);
    cr_assert_eq(sim_read64(sim, ENTRY(0) + 8), 0xf5);
    sim_free(sim);
}

Test(msr_list, lists_cross_pages_and_map_each_once) {
    struct sim *sim = with_msrs();
    const uint64_t start = 250; /* six entries before the end of a page */

    for (uint64_t i = 0; i < 400; i++) {
        put(sim, start + i, GOOD, i);
    }
    uint64_t before = sim->count[SIM_MAP_PAGE];
    cr_assert_eq(msr_list_load(sim->vcpu, ENTRY(start), 400), 0);
    cr_assert_eq(sim->count[SIM_MAP_PAGE] - before, 3);
    cr_assert_eq(sim_msr(sim, GOOD)->writes, 400);
    cr_assert_eq(sim_msr(sim, GOOD)->value, 399);
    cr_assert_eq(sim->mapped, 0);
    sim_free(sim);
}

Test(msr_list, a_hole_fails_the_first_entry_in_it) {
    struct sim *sim = with_msrs();

    sim_ept01(sim, LIST + 0x1000, 0x1000, 0, 12, 0, 6);
    for (uint64_t i = 250; i < 256; i++) {
        put(sim, i, GOOD, i);
    }
    cr_assert_eq(msr_list_load(sim->vcpu, ENTRY(250), 10), 7);
    cr_assert_eq(sim_msr(sim, GOOD)->value, 255);
    cr_assert_eq(msr_list_store(sim->vcpu, ENTRY(250), 10), 7);
    sim_free(sim);
}

Test(msr_list, read_only_memory_can_be_loaded_from_not_stored_to) {
    struct sim *sim = with_msrs();

    put(sim, 0, GOOD, 0x55);
    sim_ept01(sim, LIST, 0x1000, LIST + SIM_HPA_OFFSET, 12, NVMX_ACCESS_READ | NVMX_ACCESS_EXECUTE, 6);
    cr_assert_eq(msr_list_load(sim->vcpu, LIST, 1), 0);
    cr_assert_eq(msr_list_store(sim->vcpu, LIST, 1), 1);
    sim_free(sim);
}

Test(msr_list, more_than_the_recommended_maximum_is_refused) {
    struct nvmx_caps machine;
    static const uint64_t numbers[] = {0, 1, 7};

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        uint32_t max = 512 * (uint32_t)(numbers[i] + 1);
        struct sim *sim;

        sim_machine(&machine);
        machine.msr[NVMX_CAP_MISC] = (machine.msr[NVMX_CAP_MISC] & ~(UINT64_C(7) << 25)) | numbers[i] << 25;
        sim = sim_new(&(struct sim_options){.machine = &machine});
        sim_msr(sim, GOOD);
        for (uint32_t n = 0; n <= max; n++) {
            put(sim, n, GOOD, n);
        }
        cr_assert_eq(msr_list_load(sim->vcpu, LIST, max), 0);
        cr_assert_eq(msr_list_store(sim->vcpu, LIST, max), 0);
        cr_assert_eq(msr_list_load(sim->vcpu, LIST, max + 1), max + 1);
        cr_assert_eq(msr_list_store(sim->vcpu, LIST, UINT32_MAX), max + 1);
        cr_assert_eq(sim_msr(sim, GOOD)->writes, 2 * max);
        sim_free(sim);
    }
}

Test(msr_list, an_address_that_is_not_aligned_is_refused) {
    struct sim *sim = with_msrs();

    for (uint64_t low = 1; low < 16; low++) {
        cr_assert_eq(msr_list_load(sim->vcpu, LIST + low, 1), 1);
        cr_assert_eq(msr_list_store(sim->vcpu, LIST + low, 1), 1);
    }
    sim_free(sim);
}

Test(msr_list, the_kth_failing_callback_fails_one_entry_and_leaks_nothing) {
    for (int store = 0; store <= 1; store++) {
        for (uint64_t k = 1;; k++) {
            struct sim *sim = with_msrs();
            uint32_t failed;

            for (uint32_t i = 0; i < 8; i++) {
                put(sim, 252 + i, GOOD + i, POISON);
            }
            sim->calls = 0;
            sim->failed = 0;
            sim->fail.at = k;
            failed = store ? msr_list_store(sim->vcpu, ENTRY(252), 8) : msr_list_load(sim->vcpu, ENTRY(252), 8);
            cr_assert_eq(failed != 0, sim->failed != 0);
            cr_assert_eq(sim->mapped, 0);
            for (uint32_t i = 0; i < 8; i++) {
                bool done = failed == 0 || i + 1 < failed;
                cr_assert_eq(store ? sim_read64(sim, ENTRY(252 + i) + 8) == 0x1000 + i
                                   : sim_msr(sim, GOOD + i)->writes == 1,
                             done);
            }
            uint64_t hit = sim->failed;
            sim_free(sim);
            if (hit == 0) {
                cr_assert_eq(k, 11, "two pages, eight MSRs");
                break;
            }
        }
    }
}
