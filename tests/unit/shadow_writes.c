/* SPDX-License-Identifier: MIT */
/*
 * A VMWRITE bitmap that the library changes: a field's first VMWRITE exits, those after it don't, and what L1 does not change for long exits again. L1
 * notices nothing.
 */
#include <string.h>

#include "machine.h"

#define FORGOTTEN_AFTER 256u

static const struct sim_options with_shadow = {.shadow = true, .learns_writes = true, .vmcs02_slots = 3};
static const struct sim_options with_shadows = {.shadow = true, .shadows = true, .learns_writes = true, .vmcs02_slots = 3};

/* What entries look at, with values that L1 may write in turn. */
static const struct {
    uint32_t encoding;
    enum nvmx_field slot;
    uint64_t value[2];
} fields[] = {
    {NVMX_VMCS_GUEST_RIP, NVMX_F_GUEST_RIP, {0x1100, 0x1200}},
    {NVMX_VMCS_GUEST_RSP, NVMX_F_GUEST_RSP, {0x3100, 0x3200}},
    {NVMX_VMCS_GUEST_RFLAGS, NVMX_F_GUEST_RFLAGS, {0x202, 0x246}},
    {NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, {8, 0}},
    {NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, {0x80000030, 0x80000031}},
    {NVMX_VMCS_PREEMPTION_TIMER_VALUE, NVMX_F_PREEMPTION_TIMER_VALUE, {1000, 2000}},
};

static void both(void (*test)(const struct sim_options *options)) {
    test(&with_shadow);
    test(&with_shadows);
}

static bool exits(const struct sim *sim, uint32_t encoding) {
    return ((sim->vmwrite_bitmap[encoding / 8] >> (encoding % 8)) & 1) != 0;
}

static void l2_leaves_and_is_resumed(struct sim *sim, unsigned int times) {
    for (unsigned int i = 0; i < times; i++) {
        l2_leaves(sim);
        resume(sim);
    }
}

/* Fields of the shadow VMCS that an entry reads: beside four that say how L1 executes the instruction, and what L2 inherits of L1. */
static uint64_t reads_of_resume(struct sim *sim) {
    struct cost before = cost_now(sim);
    resume(sim);
    return cost_since(sim, before).fields_read - 4 - sim->vcpu->vmcs12[sim->vcpu->current].inherited_count;
}

/* -- learning
 * ------------------------------------------------------------------------------------------------------------------ */

Test(shadow_writes, at_first_what_entries_look_at_exits) {
    static uint8_t reads[NVMX_PAGE_SIZE], writes[NVMX_PAGE_SIZE];
    struct sim *sim = sim_new(&with_shadow);
    unsigned int differ = 0;
    nvmx_shadow_bitmaps(sim->vm, reads, writes);
    for (uint32_t encoding = 0; encoding < 0x8000; encoding++) {
        bool always = ((writes[encoding / 8] >> (encoding % 8)) & 1) != 0;
        cr_expect(exits(sim, encoding) || !always, "%#x", encoding);
        differ += exits(sim, encoding) != always;
    }
    cr_expect_eq(differ, SHADOW_ENTRY_FIELDS + 1, "and the timer");
    cr_expect(exits(sim, NVMX_VMCS_PRIMARY_CONTROLS));
    for (size_t i = 0; i < COUNT(fields); i++)
        cr_expect(exits(sim, fields[i].encoding), "%#x", fields[i].encoding);
    cr_expect_not(exits(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE));
    sim_free(sim);
}

/* Without the page nothing is learned, and the host's stays as it is. */
Test(shadow_writes, not_without_the_page) {
    static uint8_t before[NVMX_PAGE_SIZE];
    struct sim *sim = l2_running(&(struct sim_options){.shadow = true});
    memcpy(before, sim->vmwrite_bitmap, sizeof(before));
    l2_leaves_and_is_resumed(sim, 2 * FORGOTTEN_AFTER);
    cr_expect_eq(memcmp(before, sim->vmwrite_bitmap, sizeof(before)), 0);
    l2_leaves(sim);
    cr_expect_eq(reads_of_resume(sim), SHADOW_ENTRY_FIELDS);
    sim_free(sim);
}

static void one_field_after_the_other(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    l2_leaves_and_is_resumed(sim, FORGOTTEN_AFTER + 1); /* what sim_vmcs12 wrote */
    l2_leaves_and_is_resumed(sim, FORGOTTEN_AFTER);
    l2_leaves(sim);
    cr_expect_eq(reads_of_resume(sim), 0);
    for (size_t i = 0; i < COUNT(fields); i++) {
        l2_leaves(sim);
        cr_assert(exits(sim, fields[i].encoding), "%#x", fields[i].encoding);
        l1_writes(sim, fields[i].encoding, fields[i].value[0]);
        cr_expect_not(exits(sim, fields[i].encoding), "%#x", fields[i].encoding);
        cr_expect_eq(l1_reads(sim, fields[i].encoding), fields[i].value[0], "VMREAD does not exit: %#x", fields[i].encoding);
        uint64_t reads = reads_of_resume(sim);
        cr_expect_eq(reads, i + 1, "%#x: %lu", fields[i].encoding, reads);
        cr_expect_eq(vmcs02(sim, fields[i].slot), fields[i].value[0], "%#x", fields[i].encoding);
        l2_leaves(sim);
        uint64_t exits_before = nvmx_counts(sim->vcpu)->exits_l1;
        l1_writes(sim, fields[i].encoding, fields[i].value[1]);
        cr_expect_eq(nvmx_counts(sim->vcpu)->exits_l1, exits_before, "%#x", fields[i].encoding);
        resume(sim);
        cr_expect_eq(vmcs02(sim, fields[i].slot), fields[i].value[1], "%#x", fields[i].encoding);
    }
    sim_free(sim);
}

Test(shadow_writes, one_field_after_the_other) {
    both(one_field_after_the_other);
}

/* What L1 changes at each entry stays; what it does not exits again after a while, and still arrives. */
static void what_l1_does_not_change_is_forgotten(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    for (unsigned int i = 0; i < 3 * FORGOTTEN_AFTER; i++) {
        l2_leaves(sim);
        if (i == FORGOTTEN_AFTER)
            l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3444);
        bool rip_exits = exits(sim, NVMX_VMCS_GUEST_RIP);
        cr_expect(!rip_exits || i == 0, "entry %u", i);
        l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1000 + 2 * (i % 8));
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000 + 2 * (i % 8), "entry %u", i);
        if (i == FORGOTTEN_AFTER)
            cr_expect_not(exits(sim, NVMX_VMCS_GUEST_RSP));
    }
    cr_expect(exits(sim, NVMX_VMCS_GUEST_RSP));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), 0x3444);
    sim_free(sim);
}

Test(shadow_writes, what_l1_does_not_change_is_forgotten) {
    both(what_l1_does_not_change_is_forgotten);
}

/* The last write before a field exits again is not lost: it came without an exit, in this very round. */
static void the_last_write_before_it_exits_again(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3111);
    resume(sim);
    l2_leaves(sim);
    cr_assert_not(exits(sim, NVMX_VMCS_GUEST_RSP));
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3222);
    sim->vcpu->shadow_writes.changed = 0;
    sim->vcpu->shadow_writes.entries_left = 1;
    resume(sim);
    cr_expect(exits(sim, NVMX_VMCS_GUEST_RSP));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), 0x3222);
    sim_free(sim);
}

Test(shadow_writes, the_last_write_before_it_exits_again) {
    both(the_last_write_before_it_exits_again);
}

/* -- several vmcs12s
 * ------------------------------------------------------------------------------------------------------------------ */

/* A's RSP was written without an exit before the field exits again: B's entries must not make A's forget it. */
static struct sim *a_wrote_rsp(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3111);
    cr_assert_not(exits(sim, NVMX_VMCS_GUEST_RSP));
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3222);
    sim_region(sim, SIM_L1_VMCS_B);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    launch(sim);
    l2_leaves_and_is_resumed(sim, 2 * FORGOTTEN_AFTER);
    cr_assert(exits(sim, NVMX_VMCS_GUEST_RSP));
    l2_leaves(sim);
    return sim;
}

static void another_ones_last_write(const struct sim_options *options) {
    for (unsigned int how = 0; how < 5; how++) {
        struct sim *sim = a_wrote_rsp(options);
        if (how == 1)
            cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
        if (how == 2)
            sim_shake(sim, true);
        cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        if (how == 3)
            l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1444); /* exits */
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x3222, "%u", how);
        if (how == 4)
            l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3333);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), how == 4 ? 0x3333 : 0x3222, "%u", how);
        if (how == 3)
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1444);
        sim_free(sim);
    }
}

Test(shadow_writes, another_ones_last_write) {
    both(another_ones_last_write);
}

/* An event with an error code, whether or not its fields are among those that entries take back. */
static void events_with_error_codes(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    for (unsigned int i = 0; i < 4; i++) {
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x10 + 8 * i);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), 0x10 + 8 * i);
    }
    sim_free(sim);
}

Test(shadow_writes, events_with_error_codes) {
    both(events_with_error_codes);
}

/* -- what ends it
 * ------------------------------------------------------------------------------------------------------------------ */

/* What L1 wrote without an exit and nobody took is gone with its VMCS after a reset: L1 reads what its memory has. */
static void reset_forgets(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3111);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_assert_not(exits(sim, NVMX_VMCS_GUEST_RSP));
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x3222);
    nvmx_vcpu_reset(sim->vcpu);
    cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x3111);
    cr_assert(sim_vmxoff(sim) == SIM_SUCCEED && sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x3111);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), 0x3111);
    sim_free(sim);
}

Test(shadow_writes, reset_forgets) {
    both(reset_forgets);
    reset_forgets(&(struct sim_options){.shadow = true});
    reset_forgets(&(struct sim_options){.shadow = true, .shadows = true});
}

/* The first VMWRITE fails half way: L1 reads, and L2 gets, the old value or the new one, but both the same. */
static void callbacks_fail(const struct sim_options *options) {
    unsigned int refused = 0;
    for (uint64_t k = 1; k < 12; k++) {
        struct sim *sim = l2_running(options);
        l2_leaves_and_is_resumed(sim, 2 * FORGOTTEN_AFTER);
        l2_leaves(sim);
        uint64_t old = l1_reads(sim, NVMX_VMCS_GUEST_RSP);
        sim->calls = 0;
        sim->fail.at = k;
        enum sim_outcome outcome = sim_vmwrite(sim, NVMX_VMCS_GUEST_RSP, 0x3abc);
        sim->fail.at = 0;
        refused += outcome == SIM_FAIL_VALID;
        if (outcome == SIM_FAIL_VALID || outcome == SIM_SUCCEED) {
            uint64_t now = l1_reads(sim, NVMX_VMCS_GUEST_RSP);
            cr_expect_eq(now, outcome == SIM_SUCCEED ? 0x3abc : old, "callback %lu", k);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), now, "callback %lu", k);
        } else {
            cr_expect_eq(outcome, SIM_STOPPED, "callback %lu: %s", k, sim_outcome_text(outcome));
        }
        sim_free(sim);
    }
    cr_log_info("%u refused", refused);
}

Test(shadow_writes, callbacks_fail) {
    both(callbacks_fail);
}
