/* SPDX-License-Identifier: MIT */
/* Hardware VMCS shadowing for L1: what its VMREAD and VMWRITE do without an exit must be what they would do with one
 * (SDM 27.10). */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

static const struct sim_options with_shadow = {.shadow = true};
static const struct sim_options with_shadows = {.shadow = true, .shadows = true};

/* One shadow VMCS serves all vmcs12s, or each has its own; L1 may write all fields there, or those that it has written. */
static void both(void (*test)(const struct sim_options *options)) {
    test(&with_shadow);
    test(&with_shadows);
    test(&(struct sim_options){.shadow = true, .learns_writes = true});
    test(&(struct sim_options){.shadow = true, .shadows = true, .learns_writes = true});
}

static bool clear_in(const uint8_t *bitmap, uint32_t encoding) {
    return ((bitmap[encoding / 8] >> (encoding % 8)) & 1) == 0;
}

/* Is L1's access answered by hardware? Then the library has no exit of it. */
static bool without_exit(struct sim *sim, uint32_t encoding, bool write) {
    if (write && sim->options.learns_writes) /* the first may exit */
        l1_writes(sim, encoding, l1_reads(sim, encoding));
    uint64_t before = nvmx_counts(sim->vcpu)->exits_l1, value = 0;
    if (write)
        l1_writes(sim, encoding, l1_reads(sim, encoding));
    else
        cr_assert_eq(sim_vmread(sim, encoding, &value), SIM_SUCCEED);
    return nvmx_counts(sim->vcpu)->exits_l1 == before;
}

/* -- bitmaps
 * ------------------------------------------------------------------------------------------------------------------ */

Test(shadow, bitmaps_match_the_table) {
    static uint8_t reads[NVMX_PAGE_SIZE], writes[NVMX_PAGE_SIZE];
    for (unsigned int write_any = 0; write_any < 2; write_any++) {
        struct nvmx_caps machine;
        unsigned int readable = 0, writable = 0;
        sim_machine(&machine);
        if (!write_any)
            machine.msr[NVMX_CAP_MISC] &= ~(UINT64_C(1) << 29);
        struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .machine = &machine});
        cr_assert(sim->vm != NULL);
        nvmx_shadow_bitmaps(sim->vm, reads, writes);
        for (uint32_t encoding = 0; encoding < 0x8000; encoding++) {
            int slot = sim_slot(encoding);
            const struct nvmx_field_info *info = slot < 0 ? NULL : nvmx_field_info((unsigned int)slot);
            bool exists = slot >= 0 && nvmx_set_has(&sim->vm->exists, (unsigned int)slot);
            bool rw = exists && info->shadow == NVMX_SHADOW_RW;
            bool ro = exists && info->shadow == NVMX_SHADOW_RO && (write_any || !nvmx_encoding_read_only(encoding));
            cr_expect_eq(clear_in(reads, encoding), rw || ro, "VMREAD %#x", encoding);
            cr_expect_eq(clear_in(writes, encoding), rw, "VMWRITE %#x", encoding);
            readable += rw || ro;
            writable += rw;
        }
        cr_expect(writable > 5 && readable > writable, "%u %u", readable, writable);
        sim_free(sim);
    }
}

/* Only what the machine has too can be in a shadow VMCS; and nothing of the host-state area, which hardware would load.
 */
Test(shadow, no_host_state_and_no_controls_of_memory) {
    static uint8_t reads[NVMX_PAGE_SIZE], writes[NVMX_PAGE_SIZE];
    struct sim *sim = sim_new(&with_shadow);
    nvmx_shadow_bitmaps(sim->vm, reads, writes);
    for (uint32_t encoding = 0; encoding < 0x8000; encoding++) {
        bool host_state = ((encoding >> 10) & 3) == 3;
        if (clear_in(reads, encoding))
            cr_expect(!host_state && sim_has_field(sim, (unsigned int)sim_slot(encoding)), "%#x", encoding);
    }
    sim_free(sim);
}

/* -- reading and writing without exits
 * -------------------------------------------------------------------------------------------- */

static void what_l1_writes_arrives(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    launch(sim);
    l2_leaves(sim);
    cr_assert(without_exit(sim, NVMX_VMCS_GUEST_RIP, true), "the test needs a shadowed field");
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1777);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x202);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000030);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1777);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS), 0x202);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000030);
    sim_free(sim);
}

Test(shadow, what_l1_writes_arrives) {
    both(what_l1_writes_arrives);
}

/* Every readable field shows after an exit what vmcs12 has, by the shadow VMCS as by an exit. */
static void what_l1_reads_is_right(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    launch(sim);
    for (unsigned int round = 1; round < 4; round++) {
        struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_VMREAD,
                                         .qualification = 0x100 * round,
                                         .instruction_length = 3 + round,
                                         .instruction_info = 0x111 * round};
        sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, 0x1000 + round);
        sim_set(sim, sim->selected, NVMX_F_GUEST_CR3, 0x2000 * round);
        sim_set(sim, sim->selected, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        unsigned int shadowed = 0;
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            uint32_t encoding = nvmx_field_info(slot)->encoding;
            if (!clear_in(sim->vmread_bitmap, encoding))
                continue;
            uint64_t value = 0;
            cr_assert(vmcs12_read(sim->vcpu, slot, &value) == NVMX_OK);
            cr_expect_eq(l1_reads(sim, encoding), value, "%s", nvmx_field_info(slot)->name);
            shadowed++;
        }
        cr_expect(shadowed > 15);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0x100 * round);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000 + round);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CR3), 0x2000 * round);
        resume(sim);
    }
    sim_free(sim);
}

Test(shadow, what_l1_reads_is_right) {
    both(what_l1_reads_is_right);
}

/* A VMWRITE that exits (to exit information) is seen by a VMREAD that does not. */
static void writes_that_exit(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    cr_assert(without_exit(sim, NVMX_VMCS_EXIT_QUALIFICATION, false) &&
              !without_exit(sim, NVMX_VMCS_EXIT_QUALIFICATION, true));
    l1_writes(sim, NVMX_VMCS_EXIT_QUALIFICATION, 0x4711);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0x4711);
    launch(sim);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0);
    sim_free(sim);
}

Test(shadow, writes_that_exit) {
    both(writes_that_exit);
}

/* The same of guest state that L1 reads there, on a processor whose exit information can't be written. */
Test(shadow, writes_that_exit_where_information_is_read_only) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_MISC] &= ~(UINT64_C(1) << 29);
    struct sim *sim = l1_ready(&(struct sim_options){.shadow = true, .machine = &machine});
    cr_assert(without_exit(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, false) && !without_exit(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, true));
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xa099);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS), 0xa099);
    sim_free(sim);
}

/* VMfail and failed entries are seen as well. */
static void refused_entries(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), 0x80000021);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 2);
    l1_writes(sim, NVMX_VMCS_PRIMARY_CONTROLS, 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 7);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PRIMARY_CONTROLS), 0);
    sim_free(sim);
}

Test(shadow, refused_entries) {
    both(refused_entries);
}

/* -- the current VMCS changes
 * ----------------------------------------------------------------------------------------------------------- */

static uint64_t link_pointer(const struct sim *sim) {
    return vmcs01(sim, NVMX_F_VMCS_LINK_POINTER);
}

/* Without a current VMCS the link pointer names none, so that hardware answers VMfailInvalid. */
static void link_pointer_follows_the_current_vmcs(const struct sim_options *options) {
    struct sim *sim = sim_new(options);
    uint64_t value;
    sim_region(sim, SIM_L1_VMXON);
    sim_region(sim, SIM_L1_VMCS_A);
    sim_region(sim, SIM_L1_VMCS_B);
    cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED);
    cr_expect_eq(link_pointer(sim), NVMX_NO_ADDRESS);
    cr_expect_eq(sim_vmread(sim, NVMX_VMCS_GUEST_RIP, &value), SIM_FAIL_INVALID);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(link_pointer(sim), SIM_SHADOW_HPA);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_expect_eq(link_pointer(sim), SIM_SHADOW_HPA, "another one");
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(link_pointer(sim), NVMX_NO_ADDRESS);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_expect_neq(sim_linked(sim), NVMX_VMCS01);
    cr_assert(sim_vmxoff(sim) == SIM_SUCCEED);
    cr_expect_eq(link_pointer(sim), NVMX_NO_ADDRESS);
    cr_assert(sim_launch(sim) == SIM_L2);
    cr_expect_eq(vmcs02(sim, NVMX_F_VMCS_LINK_POINTER), NVMX_NO_ADDRESS, "L2 has no shadow VMCS");
    cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 14 & 1, 0);
    l2_leaves(sim);
    cr_expect_neq(sim_linked(sim), NVMX_VMCS01);
    sim_free(sim);
}

Test(shadow, link_pointer_follows_the_current_vmcs) {
    both(link_pointer_follows_the_current_vmcs);
}

/* Each VMCS keeps what was written to it through the one shadow VMCS, or its own. */
static void two_vmcss(const struct sim_options *options) {
    for (uint16_t slots = 1; slots < 4; slots++) {
        struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .shadows = options->shadows, .vmcs02_slots = slots});
        cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
        for (unsigned int round = 0; round < 3; round++)
            for (uint64_t i = 0; i < 2; i++) {
                cr_assert(sim_vmptrld(sim, i ? SIM_L1_VMCS_B : SIM_L1_VMCS_A) == SIM_SUCCEED);
                if (round > 0)
                    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x1000 * (i + 1) + round - 1, "%u slots", slots);
                l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x1000 * (i + 1) + round);
            }
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
        cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x2002);
        sim_free(sim);
    }
}

Test(shadow, two_vmcss) {
    both(two_vmcss);
}

/* -- a shadow VMCS for each
 * ----------------------------------------------------------------------------------------------------------- */

/* A is not current any more, and what L1 wrote to it stands in its shadow VMCS alone. */
static struct sim *a_is_ahead(uint16_t slots) {
    struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .shadows = true, .vmcs02_slots = slots});
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_assert(without_exit(sim, NVMX_VMCS_GUEST_RSP, true), "the test needs a shadowed field");
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0xa1a2);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0xa3);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0xb1b2);
    return sim;
}

static void expect_a(struct sim *sim) {
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0xa1a2);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE), 0xa3);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0xb1b2);
    sim_free(sim);
}

/* VMPTRLD of a vmcs12 in the cache carries nothing: the link pointer changes. */
Test(shadow, vmptrld_carries_no_fields) {
    struct sim *sim = a_is_ahead(2);
    uint64_t before = nvmx_counts(sim->vcpu)->vmwrites, selects = sim->count[SIM_VMCS_SELECT];
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect(nvmx_counts(sim->vcpu)->vmwrites - before <= 3, "RIP, RFLAGS, the link pointer");
    cr_expect_eq(sim->count[SIM_VMCS_SELECT], selects);
    expect_a(sim);
}

/* A VMWRITE that exits and fails makes it unknown what the shadow VMCS holds; what L1 wrote there without one stays. */
Test(shadow, what_is_ahead_and_unknown_is_not_overwritten) {
    struct sim *sim = a_is_ahead(2);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_assert_not(without_exit(sim, NVMX_VMCS_EXIT_QUALIFICATION, true));
    cr_assert_not(vmcs12_current(sim->vcpu)->shadow->unknown);
    vmcs12_current(sim->vcpu)->shadow->unknown = true;
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    expect_a(sim);
}

/* What looks at the whole of a vmcs12 that is not current finds what L1 wrote: VMCLEAR, eviction, VMXOFF, saving. */
Test(shadow, what_is_ahead_is_not_lost) {
    struct sim *sim = a_is_ahead(2);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    expect_a(sim);
    sim = a_is_ahead(2);
    sim_region(sim, 0x200000);
    cr_assert(sim_vmptrld(sim, 0x200000) == SIM_SUCCEED, "A leaves the cache");
    expect_a(sim);
    expect_a(a_is_ahead(1));
    sim = a_is_ahead(2);
    cr_assert(sim_vmxoff(sim) == SIM_SUCCEED && sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED);
    expect_a(sim);
    sim = a_is_ahead(2);
    sim_shake(sim, true);
    expect_a(sim);
}

/* -- callbacks fail
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* A refused VMPTRLD leaves the current VMCS, and L1 reads that one; a refused VMCLEAR clears nothing. */
static void refused_vmptrld_and_vmclear(const struct sim_options *options) {
    unsigned int refused[2] = {0};
    for (unsigned int clear = 0; clear < 2; clear++) {
        for (uint64_t k = 1; k < 20; k++) {
            struct sim *sim = sim_new(options);
            uint64_t pointer = 0;
            cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
            cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
            l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0xbbbb);
            cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
            l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0xaaaa);
            sim->calls = 0;
            sim->fail.at = k;
            enum sim_outcome outcome = clear ? sim_vmclear(sim, SIM_L1_VMCS_A) : sim_vmptrld(sim, SIM_L1_VMCS_B);
            sim->fail.at = 0;
            if (outcome == SIM_FAIL_VALID || outcome == SIM_AGAIN || outcome == SIM_FAULT) {
                sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
                cr_assert(sim_vmptrst(sim, &pointer) == SIM_SUCCEED);
                cr_expect_eq(pointer, SIM_L1_VMCS_A, "callback %lu", k);
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0xaaaa, "callback %lu: A's", k);
                cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED, "L1 tries again");
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0xbbbb, "callback %lu: B's", k);
                refused[clear]++;
            } else {
                cr_expect(outcome == SIM_SUCCEED || outcome == SIM_STOPPED, "callback %lu: %s", k,
                          sim_outcome_text(outcome));
            }
            sim_free(sim);
        }
        cr_expect(refused[clear] > 1, "%u", refused[clear]);
    }
}

Test(shadow, refused_vmptrld_and_vmclear) {
    both(refused_vmptrld_and_vmclear);
}

/* A alone is in the cache, and L1 has written to it. */
static struct sim *a_is_alone(void) {
    struct sim *sim = sim_new(&(struct sim_options){.shadow = true, .shadows = true, .vmcs02_slots = 2});
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0xa1a2);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0xa3);
    return sim;
}

/* What L1 wrote to a VMCS is lost if the host fails at VMXOFF, but no other VMCS ever shows it. */
Test(shadow, vmxoff_that_fails_shows_nothing_elsewhere) {
    unsigned int failed = 0;
    for (uint64_t k = 1; k < 40; k++) {
        bool alone = k >= 20;
        struct sim *sim = alone ? a_is_alone() : a_is_ahead(2);
        sim->calls = sim->failed = 0;
        sim->fail.at = k % 20;
        enum sim_outcome outcome = sim_vmxoff(sim);
        sim->fail.at = 0;
        failed += sim->failed != 0;
        if (outcome == SIM_SUCCEED) {
            cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
            uint64_t b = l1_reads(sim, NVMX_VMCS_GUEST_RSP);
            cr_expect(b == 0 || (b == 0xb1b2 && !alone), "callback %lu: %#lx", k, b);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE), 0, "callback %lu", k);
            cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
            uint64_t a = l1_reads(sim, NVMX_VMCS_GUEST_RSP);
            cr_expect(a == 0 || a == 0xa1a2, "callback %lu: %#lx", k, a);
        }
        sim_free(sim);
    }
    cr_expect(failed > 6, "%u", failed);
}

#define PML_LOG 0x200000u
#define EPTP12_AD ((uint64_t)SIM_L1_EPT12 | 0x5e)

static void l1_logs(struct sim *sim) {
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_PML);
    l1_writes(sim, NVMX_VMCS_EPT_POINTER, EPTP12_AD);
    l1_writes(sim, NVMX_VMCS_PML_ADDRESS, PML_LOG);
    l1_writes(sim, NVMX_VMCS_PML_INDEX, 511);
    launch(sim);
}

static void l2_writes_to(struct sim *sim, uint64_t gpa2) {
    cr_assert_eq(sim_exit_info(sim, &(struct nvmx_l2_exit_info){
                                        .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x182, .guest_physical_address = gpa2}),
                 NVMX_ENTER);
}

/* L2 wrote to so many pages from 5000H on: L1 finds all of them in its log. */
static void ends_with_logged(struct sim *sim, unsigned int pages) {
    for (unsigned int i = 0; i < pages; i++)
        cr_expect_eq(sim_read64(sim, PML_LOG + (511 - i) * 8), 0x5000 + i * 0x1000, "page %u", i);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PML_INDEX), 511 - pages);
    sim_free(sim);
}

/* L1 has written the index there, and what says that the index counts: the primary controls. */
static void the_first_entry_takes_the_index_of_the_log(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    l1_logs(sim);
    l2_writes_to(sim, 0x5000);
    ends_with_logged(sim, 1);
}

Test(shadow, the_first_entry_takes_the_index_of_the_log) {
    both(the_first_entry_takes_the_index_of_the_log);
}

/* L1 has no preemption timer, so that it has fewer fields there than others. What L2 logs while the state is saved stays logged: L1 did not write the index. */
static void saving_keeps_the_index_of_the_log(const struct sim_options *given) {
    struct sim_options options = *given;
    struct nvmx_caps mask;
    size_t bytes;
    mask_without_timer(&mask);
    options.mask = &mask;
    struct sim *sim = l1_ready(&options);
    l1_logs(sim);
    for (unsigned int i = 0; i < 2; i++) {
        l2_writes_to(sim, 0x5000 + i * 0x1000);
        free(sim_save(sim, &bytes));
    }
    ends_with_logged(sim, 2);
}

Test(shadow, saving_keeps_the_index_of_the_log) {
    both(saving_keeps_the_index_of_the_log);
}
