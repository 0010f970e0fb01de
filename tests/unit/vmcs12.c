/* SPDX-License-Identifier: MIT */
/* VMCS regions of L1 and the cache of them: what L1 writes it reads back, wherever the VMCS has been meanwhile
 * (SDM 27.2, 27.11). */
#include <nvmx/state_kvm.h>
#include <string.h>

#include "machine.h"

#define REGIONS   20u
#define REGION(i) (UINT64_C(0x200000) + (uint64_t)(i)*0x2000)

/* Fields that L1 can write and that the checks, or L2, do not need as they are. */
static bool free_field(const struct sim *sim, unsigned int slot) {
    const struct nvmx_field_info *info = nvmx_field_info(slot);
    return nvmx_set_has(&sim->vcpu->vm->exists, slot) && !nvmx_encoding_read_only(info->encoding);
}

static uint64_t pattern(unsigned int region, unsigned int slot) {
    return (UINT64_C(0x9e3779b97f4a7c15) * (region * 1000 + slot + 1)) & nvmx_field_mask(slot);
}

static void make_current(struct sim *sim, uint64_t gpa1) {
    enum sim_outcome outcome = sim_vmptrld(sim, gpa1);
    cr_assert(outcome == SIM_SUCCEED, "VMPTRLD %#lx: %s", gpa1, sim_outcome_text(outcome));
}

static struct sim *with_regions(uint16_t slots, bool shadow, const struct nvmx_vmcs12_layout *layout) {
    struct sim *sim = sim_new(&(struct sim_options){.vmcs02_slots = slots, .shadow = shadow, .layout = layout});
    cr_assert(sim->vcpu != NULL);
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
    for (unsigned int i = 0; i < REGIONS; i++) {
        sim_region(sim, REGION(i));
        cr_assert(sim_vmclear(sim, REGION(i)) == SIM_SUCCEED);
    }
    return sim;
}

static void fill_region(struct sim *sim, unsigned int region) {
    make_current(sim, REGION(region));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (free_field(sim, slot))
            l1_writes(sim, nvmx_field_info(slot)->encoding, pattern(region, slot));
}

static void expect_region(struct sim *sim, unsigned int region, unsigned int pattern_of) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (free_field(sim, slot)) {
            uint64_t got = l1_reads(sim, nvmx_field_info(slot)->encoding);
            cr_expect(got == pattern(pattern_of, slot), "region %u, %s: %#lx", region, nvmx_field_info(slot)->name,
                      got);
        }
}

Test(vmcs12, every_field_survives_eviction) {
    for (unsigned int run = 0; run < 6; run++) {
        static const uint16_t slots[] = {1, 2, 3, 8, 1, 4};
        struct sim *sim = with_regions(slots[run], run >= 4, NULL);
        for (unsigned int i = 0; i < REGIONS; i++)
            fill_region(sim, i);
        for (unsigned int i = REGIONS; i-- > 0;) {
            make_current(sim, REGION(i));
            expect_region(sim, i, i);
        }
        sim_free(sim);
    }
}

/* The least recently used one leaves; the current one stays as long as there is another. */
Test(vmcs12, least_recently_used_leaves) {
    struct sim *sim = with_regions(3, false, NULL);
    make_current(sim, REGION(0));
    make_current(sim, REGION(1));
    make_current(sim, REGION(2));
    make_current(sim, REGION(0));
    make_current(sim, REGION(3));
    bool cached[4] = {false};
    for (unsigned int k = 0; k < 3; k++)
        for (unsigned int i = 0; i < 4; i++)
            cached[i] = cached[i] || sim->vcpu->vmcs12[k].gpa1 == REGION(i);
    cr_expect(cached[0] && !cached[1] && cached[2] && cached[3]);
    sim_free(sim);
}

/* -- L2 runs between
 * ---------------------------------------------------------------------------------------------------------- */

/* Guest state that L2 changed is in a vmcs02 when the VMCS has to leave the cache. */
Test(vmcs12, l2s_state_survives_eviction) {
    for (uint16_t slots = 1; slots <= 8; slots++) {
        struct sim *sim = with_regions(slots, slots % 2, NULL);
        for (unsigned int round = 0; round < 2; round++) {
            for (unsigned int i = 0; i < 6; i++) {
                make_current(sim, REGION(i));
                if (round == 0) {
                    cr_assert_eq(sim_vmcs12(sim), 0);
                    launch(sim);
                } else {
                    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_GS_BASE), 0x1000 * (i + 1), "%u slots", slots);
                    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x2000 + i, "%u slots", slots);
                    resume(sim);
                    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_GS_BASE), 0x1000 * (i + 1), "%u slots", slots);
                    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_TR_LIMIT), 0x67);
                }
                sim_set(sim, sim->selected, NVMX_F_GUEST_GS_BASE, 0x1000 * (i + 1));
                sim_set(sim, sim->selected, NVMX_F_GUEST_RSP, 0x2000 + i);
                l2_leaves(sim);
            }
        }
        sim_free(sim);
    }
}

/* With enough slots a switch resumes each L2 on the vmcs02 that it has. */
Test(vmcs12, a_vmcs02_for_each_cached_vmcs12) {
    struct sim *sim = with_regions(2, false, NULL);
    uint32_t number[2];
    for (unsigned int i = 0; i < 2; i++) {
        make_current(sim, REGION(i));
        cr_assert_eq(sim_vmcs12(sim), 0);
        launch(sim);
        number[i] = sim->selected;
        l2_leaves(sim);
    }
    cr_expect_neq(number[0], number[1]);
    uint64_t resets = sim->vmcs[number[0]].resets + sim->vmcs[number[1]].resets;
    for (unsigned int i = 0; i < 6; i++) {
        make_current(sim, REGION(i % 2));
        resume(sim);
        cr_expect_eq(sim->selected, number[i % 2]);
        l2_leaves(sim);
    }
    cr_expect_eq(sim->vmcs[number[0]].resets + sim->vmcs[number[1]].resets, resets, "no reset");
    sim_free(sim);
}

/* -- VMCLEAR
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* SDM 27.11.3: after VMCLEAR the region has all data, which L1 may move; the launch state is clear. */
Test(vmcs12, a_cleared_region_can_be_copied) {
    for (unsigned int shadow = 0; shadow < 2; shadow++) {
        struct sim *sim = with_regions(2, shadow, NULL);
        fill_region(sim, 0);
        cr_assert(sim_vmclear(sim, REGION(0)) == SIM_SUCCEED);
        sim_write(sim, REGION(1), sim->ram + REGION(0), 4096);
        memset(sim->ram + REGION(0), 0, 4096);
        make_current(sim, REGION(1));
        expect_region(sim, 1, 0);
        sim_free(sim);
    }
}

Test(vmcs12, vmclear_makes_the_launch_state_clear) {
    for (unsigned int cached = 0; cached < 2; cached++) {
        struct sim *sim = l2_running(&(struct sim_options){.vmcs02_slots = 1});
        l2_leaves(sim);
        if (!cached)
            make_current(sim, SIM_L1_VMCS_B); /* A is in memory only, launched */
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        make_current(sim, SIM_L1_VMCS_A);
        cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID);
        cr_expect_eq(sim_instruction_error(sim), 5);
        launch(sim);
        sim_free(sim);
    }
}

Test(vmcs12, the_launch_state_survives_eviction) {
    struct sim *sim = l2_running(&(struct sim_options){.vmcs02_slots = 1});
    l2_leaves(sim);
    make_current(sim, SIM_L1_VMCS_B);
    make_current(sim, SIM_L1_VMCS_A);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 4);
    resume(sim);
    sim_free(sim);
}

/* VMCLEAR of the current VMCS leaves none; of another it stays. */
Test(vmcs12, vmclear_and_the_current_vmcs) {
    struct sim *sim = with_regions(2, false, NULL);
    uint64_t pointer = 0;
    make_current(sim, REGION(0));
    make_current(sim, REGION(1));
    cr_assert(sim_vmclear(sim, REGION(0)) == SIM_SUCCEED);
    cr_assert(sim_vmptrst(sim, &pointer) == SIM_SUCCEED && pointer == REGION(1));
    cr_assert(sim_vmclear(sim, REGION(1)) == SIM_SUCCEED);
    cr_assert(sim_vmptrst(sim, &pointer) == SIM_SUCCEED && pointer == NVMX_NO_ADDRESS);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_INVALID);
    sim_free(sim);
}

/* -- a free slot keeps its vmcs02
 * -------------------------------------------------------------------------------------------------------------- */

static void put_in_region(struct sim *sim, uint64_t gpa1, enum nvmx_field slot, uint64_t value) {
    memcpy(sim->ram + gpa1 + VMCS_REGION_FIELDS + 8 * (size_t)slot, &value, sizeof(value));
}

static void clear_and_load(struct sim *sim, uint64_t gpa1) {
    cr_assert(sim_vmclear(sim, gpa1) == SIM_SUCCEED);
    make_current(sim, gpa1);
}

/* An L1 whose L2 ran once, with one slot: VMCS A is current. */
static struct sim *ran_once(bool shadow) {
    struct sim *sim = l2_running(&(struct sim_options){.vmcs02_slots = 1, .shadow = shadow});
    l2_leaves(sim);
    return sim;
}

Test(vmcs12, launching_again_what_nobody_changed_costs_a_resume) {
    for (unsigned int shadow = 0; shadow < 2; shadow++) {
        struct sim *sim = ran_once(shadow != 0);
        uint64_t resets = sim->count[SIM_VMCS_RESET];
        clear_and_load(sim, SIM_L1_VMCS_A);
        struct cost before = cost_now(sim);
        launch(sim);
        costs(sim, "launched again", before, (struct cost){.selects = 2, .reads = 3, .fields_read = 14, .writes = 1, .fields_written = 4});
        cr_expect_eq(sim->count[SIM_VMCS_RESET], resets);
        sim_free(sim);
    }
}

/* Between VMCLEAR and VMPTRLD the region is L1's memory like any other. */
Test(vmcs12, what_l1_changes_in_a_cleared_region_counts) {
    struct sim *sim = ran_once(false);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    put_in_region(sim, SIM_L1_VMCS_A, NVMX_F_GUEST_RIP, 0x4321);
    put_in_region(sim, SIM_L1_VMCS_A, NVMX_F_EXCEPTION_BITMAP, 1u << 3);
    put_in_region(sim, SIM_L1_VMCS_A, NVMX_F_HOST_FS_BASE, 0x5000);
    make_current(sim, SIM_L1_VMCS_A);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x4321);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x4321);
    cr_expect(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP) & 1u << 3);
    l2_leaves(sim);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_FS_BASE), 0x5000);
    sim_free(sim);
}

/* One field at a time, and the one before as it was. */
Test(vmcs12, a_field_that_l1_changes_in_a_cleared_region_is_noticed_whichever_it_is) {
    struct sim *sim = ran_once(false);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const uint32_t encoding = nvmx_field_info(slot)->encoding;
        if (!sim_has_field(sim, (enum nvmx_field)slot))
            continue;
        const uint64_t before = l1_reads(sim, encoding), changed = before ^ (nvmx_field_mask(slot) & UINT64_C(0x8001));
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        put_in_region(sim, SIM_L1_VMCS_A, (enum nvmx_field)slot, changed);
        make_current(sim, SIM_L1_VMCS_A);
        cr_expect_eq(l1_reads(sim, encoding), changed, "%s", nvmx_field_info(slot)->name);
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        put_in_region(sim, SIM_L1_VMCS_A, (enum nvmx_field)slot, before);
        make_current(sim, SIM_L1_VMCS_A);
        cr_expect_eq(l1_reads(sim, encoding), before, "%s again", nvmx_field_info(slot)->name);
    }
    sim_free(sim);
}

Test(vmcs12, what_l1_changes_in_a_cleared_region_is_checked) {
    static const struct {
        enum nvmx_field slot;
        uint64_t value;
        enum sim_outcome outcome;
    } bad[] = {
        {NVMX_F_PIN_BASED_CONTROLS, 0, SIM_FAIL_VALID},
        {NVMX_F_PRIMARY_CONTROLS, 0, SIM_FAIL_VALID},
        {NVMX_F_CR3_TARGET_COUNT, 5, SIM_FAIL_VALID},
        {NVMX_F_HOST_CR4, 0, SIM_FAIL_VALID},
        {NVMX_F_HOST_RIP, UINT64_C(0x8000000000000000), SIM_FAIL_VALID},
        {NVMX_F_GUEST_RFLAGS, 0, SIM_ENTRY_FAILED},
        {NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0x10000, SIM_ENTRY_FAILED},
        {NVMX_F_GUEST_ACTIVITY_STATE, 9, SIM_ENTRY_FAILED},
        {NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0x80000100, SIM_FAIL_VALID},
    };

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        struct sim *sim = ran_once(false);
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        put_in_region(sim, SIM_L1_VMCS_A, bad[i].slot, bad[i].value);
        make_current(sim, SIM_L1_VMCS_A);
        enum sim_outcome outcome = sim_vmlaunch(sim);
        cr_expect(outcome == bad[i].outcome, "%s: %s", nvmx_field_info(bad[i].slot)->name, sim_outcome_text(outcome));
        sim_free(sim);
    }
}

/* One slot, two VMCSs: each finds its own state in vmcs02. */
Test(vmcs12, a_slot_that_goes_to_another_vmcs_holds_its_state) {
    for (unsigned int shadow = 0; shadow < 2; shadow++) {
        struct sim *sim = ran_once(shadow != 0);
        uint64_t rip = l1_reads(sim, NVMX_VMCS_GUEST_RIP);
        uint64_t base = l1_reads(sim, NVMX_VMCS_GUEST_FS_BASE);
        cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
        sim_write(sim, SIM_L1_VMCS_B, sim->ram + SIM_L1_VMCS_A, 4096);
        put_in_region(sim, SIM_L1_VMCS_B, NVMX_F_GUEST_RIP, rip + 0x100);
        put_in_region(sim, SIM_L1_VMCS_B, NVMX_F_GUEST_FS_BASE, base + 0x9000);
        put_in_region(sim, SIM_L1_VMCS_B, NVMX_F_EXCEPTION_BITMAP, 1u << 3);
        make_current(sim, SIM_L1_VMCS_A);
        launch(sim);
        l2_leaves(sim);
        make_current(sim, SIM_L1_VMCS_B);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip + 0x100);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_FS_BASE), base + 0x9000);
        cr_expect(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP) & 1u << 3);
        l2_leaves(sim);
        make_current(sim, SIM_L1_VMCS_A);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_FS_BASE), base);
        cr_expect(!(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP) & 1u << 3));
        sim_free(sim);
    }
}

/* SDM 29.3.1.5: A's link pointer names B, which is allowed. The same fields in B name B itself. */
Test(vmcs12, the_link_pointer_is_checked_against_the_address_that_the_slot_has_now) {
    struct sim *sim = ran_once(false);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, SIM_L1_VMCS_B);
    resume(sim);
    l2_leaves(sim);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    sim_write(sim, SIM_L1_VMCS_B, sim->ram + SIM_L1_VMCS_A, 4096);
    make_current(sim, SIM_L1_VMCS_B);
    cr_expect_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), 0x80000021);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 4);
    sim_free(sim);
}

/* VMCLEAR gives the pages of L1 back that vmcs02 used in place; the launch takes them again. */
Test(vmcs12, a_cleared_vmcs_keeps_no_page_of_l1) {
    struct sim *sim = l1_ready(&(struct sim_options){.vmcs02_slots = 2});
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
    uint64_t mapped = sim->mapped;
    launch(sim);
    l2_leaves(sim);
    cr_assert(sim->mapped > mapped);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(sim->mapped, mapped);
    make_current(sim, SIM_L1_VMCS_A);
    launch(sim);
    cr_expect(sim->mapped > mapped);
    sim_free(sim);
}

/* -- VMXOFF, destruction
 * -------------------------------------------------------------------------------------------------------------- */

Test(vmcs12, vmxoff_keeps_the_data) {
    for (unsigned int shadow = 0; shadow < 2; shadow++) {
        struct sim *sim = with_regions(4, shadow, NULL);
        for (unsigned int i = 0; i < 6; i++)
            fill_region(sim, i);
        cr_assert(sim_vmxoff(sim) == SIM_SUCCEED);
        cr_assert(sim_vmxon(sim, SIM_L1_VMXON) == SIM_SUCCEED);
        for (unsigned int i = 0; i < 6; i++) {
            make_current(sim, REGION(i));
            expect_region(sim, i, i);
        }
        sim_free(sim);
    }
}

/* sim_free destroys vCPU and VM, and aborts if a page or a mapping is left. */
Test(vmcs12, destroyed_in_every_state) {
    for (unsigned int state = 0; state < 8; state++) {
        struct sim *sim = l1_ready(&(struct sim_options){.vmcs02_slots = 3, .shadow = state & 1});
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_IO_BITMAPS | PROC_TPR_SHADOW);
        if (state & 4)
            host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(UINT64_C(1) << 25));
        else
            host_gives_bitmaps(sim);
        launch(sim);
        cr_expect(sim->mapped > 0, "the virtual-APIC page is in use");
        if (state & 2)
            l2_leaves(sim);
        nvmx_vcpu_destroy(sim->vcpu);
        cr_expect_eq(sim->mapped, 0, "state %u", state);
        sim_free(sim); /* a second time, which does nothing */

        sim = l2_running(&(struct sim_options){.shadow = state & 1});
        if (state & 2)
            l2_leaves(sim);
        nvmx_vcpu_reset(sim->vcpu);
        cr_expect_eq(sim->mapped, 0);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_OFF);
        cr_expect_eq(sim->selected, NVMX_VMCS01);
        cr_expect_eq(vmcs01(sim, NVMX_F_VMCS_LINK_POINTER), NVMX_NO_ADDRESS);
        sim_free(sim);
    }
}

/* -- a layout of the host's
 * -------------------------------------------------------------------------------------------------------------- */

/* Fields packed in their natural widths from the end of the page down; every 17th is not kept in memory. */
static void pack(struct nvmx_vmcs12_layout *layout) {
    static const uint16_t widths[] = {2, 8, 4, 8};
    uint16_t at = 0x400;

    *layout = (struct nvmx_vmcs12_layout){.revision = 0x11e57ed0, .launch_state = 12};
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint16_t bytes = widths[(nvmx_field_info(slot)->encoding >> 13) & 3];
        if (slot % 17 == 16)
            continue;
        at = (uint16_t)((at + bytes - 1) / bytes * bytes);
        layout->offset[slot] = at;
        at = (uint16_t)(at + bytes);
    }
}

Test(vmcs12, a_layout_of_the_hosts) {
    struct nvmx_vmcs12_layout layout;
    pack(&layout);
    struct sim *sim = with_regions(1, false, &layout);
    cr_expect_eq(nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_BASIC] & 0xffffffff, 0x11e57ed0);
    fill_region(sim, 0);
    cr_assert(sim_vmclear(sim, REGION(0)) == SIM_SUCCEED);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint64_t value = 0;
        static const size_t widths[] = {2, 8, 4, 8};
        if (!free_field(sim, slot) || layout.offset[slot] == 0)
            continue;
        memcpy(&value, sim->ram + REGION(0) + layout.offset[slot], widths[(nvmx_field_info(slot)->encoding >> 13) & 3]);
        cr_expect_eq(value, pattern(0, slot), "%s", nvmx_field_info(slot)->name);
    }
    cr_expect_eq(sim_read32(sim, REGION(0)), 0x11e57ed0, "the revision identifier stays");
    cr_expect_eq(sim_read32(sim, REGION(0) + 4), 0, "the abort indicator stays");
    make_current(sim, REGION(0));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (free_field(sim, slot))
            cr_expect_eq(l1_reads(sim, nvmx_field_info(slot)->encoding), layout.offset[slot] ? pattern(0, slot) : 0,
                         "%s", nvmx_field_info(slot)->name);
    sim_free(sim);
}

/* SDM 27.11.1: what VMCLEAR has written VMPTRLD finds. L1 has no field without a place but those that every processor has. */
Test(vmcs12, what_has_no_place_is_not_offered) {
    for (unsigned int kvm = 0; kvm < 2; kvm++) {
        struct nvmx_vmcs12_layout layout;
        if (kvm)
            nvmx_kvm_layout(&layout);
        else
            pack(&layout);
        struct sim *sim = with_regions(1, false, &layout);
        fill_region(sim, 0);
        cr_assert(sim_vmclear(sim, REGION(0)) == SIM_SUCCEED);
        make_current(sim, REGION(0));
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            const struct nvmx_field_info *info = nvmx_field_info(slot);
            if (free_field(sim, slot) && info->exists != 0)
                cr_expect_eq(l1_reads(sim, info->encoding), pattern(0, slot), "KVM's layout %u: %s", kvm, info->name);
        }
        sim_free(sim);
    }
}

Test(vmcs12, bad_layouts_are_refused) {
    struct nvmx_vmcs12_layout good, bad;
    pack(&good);
    for (unsigned int i = 0; i < 5; i++) {
        bad = good;
        if (i == 0)
            bad.revision |= 0x80000000;
        if (i == 1)
            bad.launch_state = 4; /* the abort indicator's place */
        if (i == 2)
            bad.launch_state = 4093;
        if (i == 3)
            bad.offset[7] = 4;
        if (i == 4)
            bad.offset[NVMX_FIELD_COUNT - 1] = 4090;
        struct sim *sim = sim_new(&(struct sim_options){.layout = &bad});
        cr_expect_eq(sim->status, NVMX_E_INVALID, "row %u", i);
        sim_free(sim);
    }
}

/* -- hostile regions
 * ------------------------------------------------------------------------------------------------------------------------
 */

/* Whatever the region holds: fields are cut to their widths, and those that L1 does not have hold nothing. */
Test(vmcs12, a_region_full_of_ones) {
    struct sim *sim = with_regions(1, false, NULL);
    memset(sim->ram + REGION(0) + 8, 0xff, 4088);
    make_current(sim, REGION(0));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool exists = nvmx_set_has(&sim->vcpu->vm->exists, slot);
        cr_expect_eq(sim->vcpu->vmcs12[sim->vcpu->current].value[slot], exists ? nvmx_field_mask(slot) : 0, "%s",
                     nvmx_field_info(slot)->name);
    }
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    sim_free(sim);
}

/* While a VMCS is active its region is the processor's: what L1 writes there does not count (SDM 27.11.1). */
Test(vmcs12, an_active_region_is_not_looked_at) {
    struct sim *sim = with_regions(2, false, NULL);
    fill_region(sim, 0);
    memset(sim->ram + REGION(0) + 8, 0xee, 4088);
    make_current(sim, REGION(1));
    make_current(sim, REGION(0));
    expect_region(sim, 0, 0);
    sim_free(sim);
}

/* Wrong identifier, no memory: VMfail 11, and the current VMCS stays. */
Test(vmcs12, regions_that_vmptrld_refuses) {
    struct sim *sim = with_regions(1, false, NULL);
    uint32_t revision = sim_read32(sim, REGION(0));
    uint64_t pointer = 0;
    make_current(sim, REGION(0));
    sim_write32(sim, REGION(1), revision ^ 0x40000000);
    sim_write32(sim, REGION(2), revision ^ 1);
    sim_ept01(sim, REGION(3), 0x1000, 0, 12, 0, 0);
    for (unsigned int i = 1; i < 4; i++) {
        cr_expect_eq(sim_vmptrld(sim, REGION(i)), SIM_FAIL_VALID, "region %u", i);
        cr_expect_eq(sim_instruction_error(sim), 11, "region %u", i);
        cr_assert(sim_vmptrst(sim, &pointer) == SIM_SUCCEED && pointer == REGION(0));
    }
    sim_free(sim);
}
