/* SPDX-License-Identifier: MIT */
/* nvmx_memory_changed: pages of L1 that a vmcs02 uses in place are released and taken again. */
#include <string.h>

#include "machine.h"

#define OTHER_HPA  (SIM_HPA_OFFSET + 0xe00000)
#define ALL_ACCESS (NVMX_ACCESS_READ | NVMX_ACCESS_WRITE | NVMX_ACCESS_EXECUTE)

/*
 * L2 runs with a virtual-APIC page and with L1's I/O bitmaps in place: the host intercepts no port. `pin`: controls that L1 does not have, `primary`: those
 * that it has besides.
 */
static struct sim *l2_with(uint32_t pin, uint32_t primary) {
    struct sim *sim = l1_ready(NULL);
    l1_clears(sim, NVMX_VMCS_PIN_BASED_CONTROLS, pin);
    sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(UINT64_C(3) << 24));
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
    l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_UNCONDITIONAL_IO);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW | PROC_IO_BITMAPS | primary);
    launch(sim);
    cr_assert_eq(sim->mapped, 3);
    cr_assert_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), SIM_HPA_OFFSET + SIM_L1_VIRTUAL_APIC);
    cr_assert_eq(vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS), SIM_HPA_OFFSET + SIM_L1_IO_BITMAP_A);
    cr_assert_eq(vmcs02(sim, NVMX_F_IO_BITMAP_B_ADDRESS), SIM_HPA_OFFSET + SIM_L1_IO_BITMAP_B);
    return sim;
}

static struct sim *l2_with_pages(void) {
    return l2_with(0, 0);
}

#define CR8_EXITS (PROC_CR8_LOAD | PROC_CR8_STORE)

/* L1's virtual-APIC page, of which CR8_EXITS leave nothing to use, has no memory any more; the host enters. vmcs02's primary controls change. */
static void shadow_goes(struct sim *sim, struct nvmx_pending *pending) {
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_VIRTUAL_APIC, 0x1000), NVMX_OK);
    cr_assert_eq(sim_enter(sim, pending), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW, 0);
}

/* The host moves pages while L2 is out: released at once, taken again before L2 goes on. */
Test(enter_memory, pages_move) {
    struct sim *sim = l2_with_pages();
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
    sim_ept01(sim, SIM_L1_IO_BITMAP_A, 0x3000, OTHER_HPA, 12, ALL_ACCESS, 6); /* both bitmaps and the virtual APIC */
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_IO_BITMAP_A, 0x3000), NVMX_OK);
    cr_expect_eq(sim->mapped, 0);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(sim->mapped, 3);
    cr_expect_eq(vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS), OTHER_HPA);
    cr_expect_eq(vmcs02(sim, NVMX_F_IO_BITMAP_B_ADDRESS), OTHER_HPA + 0x1000);
    cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), OTHER_HPA + 0x2000);
    struct cost before = cost_now(sim);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    costs(sim, "nvmx_enter", before, (struct cost){0});
    sim_free(sim);
}

/* What ept02 has of the range goes at once. */
Test(enter_memory, ept02_follows) {
    struct sim *sim = l2_running(NULL);
    const struct nvmx_l2_exit_info violation = {
        .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = 0x5000};
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_assert_neq(ept02_leaf(sim, 0x5000), 0);
    uint64_t flushes = sim->count[SIM_TLB_FLUSH];
    sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 0x1000), NVMX_OK);
    cr_expect_eq(ept02_leaf(sim, 0x5000), 0);
    cr_expect(sim->count[SIM_TLB_FLUSH] > flushes);
    cr_expect_eq(sim_exit_info(sim, &violation), NVMX_HOST);
    sim_free(sim);
}

/* Only pages in the range are touched, whatever its borders. */
Test(enter_memory, ranges) {
    static const struct {
        uint64_t gpa1, bytes;
        uint64_t left;
    } rows[] = {
        {SIM_L1_VIRTUAL_APIC, 0x1000, 2}, {SIM_L1_VIRTUAL_APIC + 0xfff, 1, 2}, {SIM_L1_VIRTUAL_APIC + 0x1000, 1, 3},
        {SIM_L1_IO_BITMAP_A - 1, 1, 3},   {SIM_L1_IO_BITMAP_A - 1, 2, 2},      {SIM_L1_IO_BITMAP_A, 0x1001, 1},
        {0, UINT64_C(1) << 63, 0},        {0, SIM_L1_IO_BITMAP_A, 3},          {UINT64_MAX - 0xfff, 0x1000, 3},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_with_pages();
        cr_assert_eq(nvmx_memory_changed(sim->vcpu, rows[i].gpa1, rows[i].bytes), NVMX_OK);
        cr_expect_eq(sim->mapped, rows[i].left, "row %zu: %lu", i, sim->mapped);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(sim->mapped, 3, "row %zu", i);
        sim_free(sim);
    }
    struct sim *sim = l2_with_pages();
    cr_expect_eq(nvmx_memory_changed(sim->vcpu, 0x1000, 0), NVMX_E_INVALID);
    cr_expect_eq(nvmx_memory_changed(sim->vcpu, UINT64_MAX - 0xfff, 0x1001), NVMX_E_INVALID);
    sim_free(sim);
}

/* L1's bitmaps let all ports through, and so does the host, with bitmaps or without. */
static struct sim *l2_with_ports(bool hosts) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    memset(sim->host_io_bitmap[0], hosts ? 0 : 0xff, NVMX_PAGE_SIZE);
    memset(sim->host_io_bitmap[1], hosts ? 0 : 0xff, NVMX_PAGE_SIZE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS,
            (vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(PROC_IO_BITMAPS | PROC_UNCONDITIONAL_IO)) | (hosts ? PROC_IO_BITMAPS : 0));
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
    l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_UNCONDITIONAL_IO);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_IO_BITMAPS);
    launch(sim);
    return sim;
}

/* Does a port of L2's exit from vmcs02 (SDM 28.1.3)? */
static bool port_exits(struct sim *sim, uint32_t port) {
    const uint64_t primary = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS);
    if ((primary & PROC_IO_BITMAPS) == 0)
        return (primary & PROC_UNCONDITIONAL_IO) != 0;
    const uint64_t hpa = vmcs02(sim, NVMX_F_IO_BITMAP_A_ADDRESS + (port >> 15));
    const uint8_t *page = hpa >= SIM_HPA_OFFSET && hpa < SIM_HPA_OFFSET + SIM_RAM_BYTES ? &sim->ram[hpa - SIM_HPA_OFFSET] : sim_page(sim, hpa);
    cr_assert_not_null(page);
    return (page[(port & 0x7fff) / 8] >> port % 8 & 1) != 0;
}

/* L2 accesses the port, until it goes through. False: that would be for ever. */
static bool goes_through(struct sim *sim, uint32_t port) {
    for (unsigned int i = 0; i < 3 && port_exits(sim, port); i++) {
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, (uint64_t)port << 16, 0, 2), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    }
    return !port_exits(sim, port);
}

/* A bitmap without memory behind it reads as all ones: each of its ports exits, and L1 gets it. Those of the other one are as they were. */
Test(enter_memory, bitmap_goes_away) {
    static const uint32_t port[] = {0x80, 0x8080};
    static const uint32_t bitmap[] = {SIM_L1_IO_BITMAP_A, SIM_L1_IO_BITMAP_B};
    for (unsigned int i = 0; i < 8; i++) {
        const unsigned int gone = i & 1, other = 1 - gone;
        const bool hosts = (i & 2) != 0, used = (i & 4) != 0;
        struct sim *sim = l2_with_ports(hosts);
        cr_expect(!used || (goes_through(sim, port[gone]) && goes_through(sim, port[other])));
        sim_ept01(sim, bitmap[gone], 0x1000, 0, 12, 0, 0);
        cr_assert_eq(nvmx_memory_changed(sim->vcpu, bitmap[gone], 0x1000), NVMX_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect(port_exits(sim, port[gone]) || (hosts && used), "case %u", i); /* what was merged stays until L1's next entry */
        cr_expect(goes_through(sim, port[other]), "case %u", i);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, (uint64_t)port[gone] << 16, 0, 2), NVMX_ENTER);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "case %u", i);
        resume(sim);
        cr_expect(port_exits(sim, port[gone]), "case %u", i);
        cr_expect(goes_through(sim, port[other]), "case %u: L1 has entered again", i);
        sim_ept01(sim, bitmap[gone], 0x1000, SIM_HPA_OFFSET + bitmap[gone], 12, ALL_ACCESS, 6);
        cr_assert_eq(nvmx_memory_changed(sim->vcpu, bitmap[gone], 0x1000), NVMX_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect(goes_through(sim, port[gone]), "case %u: it is back", i);
        sim_free(sim);
    }
}

/* What nvmx_enter has asked of vmcs02 for an event that waits stays asked. */
Test(enter_memory, a_window_that_was_requested_stays) {
    struct sim *sim = l2_with(PIN_EXTERNAL_INTERRUPT, CR8_EXITS);
    struct nvmx_pending pending = {.interrupt = true};
    cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
    cr_assert(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_INTERRUPT_WINDOW, "L2's interrupts are off");
    shadow_goes(sim, &pending);
    cr_expect(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_INTERRUPT_WINDOW, "the window is lost, and with it the interrupt");
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_INTERRUPT_WINDOW, 0, 0, 0), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_INTERRUPT_WINDOW, 0);
    sim_free(sim);
}

/* L2 has left IA-32e mode since L1 entered it; after a restore nobody but vmcs02 says so. */
Test(enter_memory, the_mode_of_l2_is_its_own) {
    struct sim *sim = l2_with(0, CR8_EXITS);
    uint32_t l2 = sim->selected;
    sim_set(sim, l2, NVMX_F_VM_ENTRY_CONTROLS, sim_get(sim, l2, NVMX_F_VM_ENTRY_CONTROLS) & ~UINT64_C(0x200));
    sim_set(sim, l2, NVMX_F_GUEST_EFER, sim_get(sim, l2, NVMX_F_GUEST_EFER) & ~UINT64_C(0x500));
    sim_set(sim, l2, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    sim_set(sim, l2, NVMX_F_GUEST_CR4, sim_get(sim, l2, NVMX_F_GUEST_CR4) & ~UINT64_C(0x20000));
    sim_shake(sim, false);
    cr_assert_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & 0x200, 0);
    shadow_goes(sim, NULL);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & 0x200, 0, "L2 is to be in IA-32e mode again");
    sim_free(sim);
}

#define NEW_EPTP01 (UINT64_C(0x710000000) | 0x5e)

/* An L2 without EPT runs on the host's tables: where the host makes them anew and says so, it does not go on with those that are gone. */
Test(enter_memory, the_hosts_tables_are_made_anew) {
    struct sim *sim = l1_ready(NULL);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
    launch(sim);
    uint32_t l2 = sim->selected;
    cr_assert_eq(vmcs02(sim, NVMX_F_EPT_POINTER), SIM_EPTP01);
    host_sets(sim, NVMX_F_EPT_POINTER, NEW_EPTP01);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(sim->selected, l2);
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), NEW_EPTP01);
    struct cost before = cost_now(sim);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    costs(sim, "nvmx_enter", before, (struct cost){0});
    host_sets(sim, NVMX_F_EPT_POINTER, SIM_EPTP01);
    for (uint64_t k = 1; k <= 3; k++) { /* a callback fails: the vCPU stops, or L2 runs on the new ones */
        struct sim *other = l1_ready(NULL);
        l1_clears(other, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        launch(other);
        host_sets(other, NVMX_F_EPT_POINTER, NEW_EPTP01);
        other->calls = 0;
        other->fail.at = k;
        enum nvmx_next next = sim_enter(other, NULL);
        other->fail.at = 0;
        cr_expect(next == NVMX_STOP || vmcs02(other, NVMX_F_EPT_POINTER) == NEW_EPTP01, "callback %lu", k);
        sim_free(other);
    }
    l2_leaves(sim);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_not(sim->vcpu->vmcs01_changed, "every exit would be taken with care");
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), SIM_EPTP01);
    sim_free(sim);
}

/* Without a virtual-APIC page L2 can't go on: the vCPU stops, and nothing is left behind. */
Test(enter_memory, virtual_apic_goes_away) {
    struct sim *sim = l2_with_pages();
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_VIRTUAL_APIC, 0x1000), NVMX_OK);
    cr_expect_eq(sim_enter(sim, NULL), NVMX_STOP);
    cr_expect_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_HOST);
    cr_expect_eq(nvmx_stop_status(sim->vcpu), NVMX_E_UNMAPPED);
    sim_free(sim);
}

/* While L1 runs its next VMRESUME takes the pages; one that can't be had refuses that, and the next attempt may
 * succeed. */
Test(enter_memory, while_l1_runs) {
    struct sim *sim = l2_with_pages();
    l2_leaves(sim);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_VIRTUAL_APIC, 0x1000), NVMX_OK);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, OTHER_HPA, 12, ALL_ACCESS, 6);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_VIRTUAL_APIC, 0x1000), NVMX_OK);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), OTHER_HPA);
    cr_expect_eq(sim->mapped, 3);
    struct cost before = cost_now(sim);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    costs(sim, "nvmx_enter", before, (struct cost){0});
    sim_free(sim);
}

/* A vmcs12 that is cached but not current loses its pages too. */
Test(enter_memory, of_another_vmcs12) {
    struct sim *sim = l2_with_pages();
    l2_leaves(sim);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    launch(sim);
    cr_assert_eq(sim->mapped, 3);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, OTHER_HPA, 12, ALL_ACCESS, 6);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, 0, SIM_RAM_BYTES), NVMX_OK);
    cr_expect_eq(sim->mapped, 0);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    l2_leaves(sim);
    cr_assert(sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), OTHER_HPA);
    sim_free(sim);
}

/* Taking the pages again may fail at any callback: nothing leaks. */
Test(enter_memory, callbacks_fail) {
    for (uint64_t k = 1; k < 12; k++) {
        struct sim *sim = l2_with_pages();
        cr_assert_eq(nvmx_memory_changed(sim->vcpu, 0, SIM_RAM_BYTES), NVMX_OK);
        sim->calls = 0;
        sim->fail.at = k;
        enum nvmx_next next = sim_enter(sim, NULL);
        cr_expect(next == NVMX_STOP ? sim->failed > 0 : next == NVMX_ENTER, "callback %lu", k);
        sim->fail.at = 0;
        sim_free(sim);
    }
}

/* For a log of what is written: bitmaps stay, the virtual APIC, which the processor writes to, comes back as dirtied and is taken anew. */
Test(enter_memory, protection_leaves_what_is_only_read) {
    struct sim *sim = l2_with_pages();
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
    cr_expect_eq(nvmx_memory_protected(sim->vcpu, SIM_L1_IO_BITMAP_A, 0), NVMX_E_INVALID);
    cr_expect_eq(nvmx_memory_protected(sim->vcpu, UINT64_MAX - 0xfff, 0x1001), NVMX_E_INVALID);
    cr_assert_eq(nvmx_memory_protected(sim->vcpu, SIM_L1_IO_BITMAP_A, 0x2000), NVMX_OK); /* both bitmaps */
    cr_expect_eq(sim->mapped, 3);
    cr_assert_eq(nvmx_memory_protected(sim->vcpu, SIM_L1_IO_BITMAP_A, 0x3000), NVMX_OK);
    cr_expect_eq(sim->mapped, 2);
    cr_expect_eq(sim->mapped_read[SIM_L1_VIRTUAL_APIC / 0x1000], 0);
    cr_expect_eq(sim->mapped_write[SIM_L1_VIRTUAL_APIC / 0x1000], 0);
    sim_ept01(sim, SIM_L1_VIRTUAL_APIC, 0x1000, OTHER_HPA, 12, ALL_ACCESS, 6);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(sim->mapped, 3);
    cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), OTHER_HPA);
    sim_free(sim);
}

/* L2 reads on without an exit; its first write is the host's, who gives the right back and says nothing. */
Test(enter_memory, protection_of_what_l2_writes) {
    struct sim *sim = l2_running(NULL);
    struct nvmx_l2_exit_info violation = {
        .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x182, .guest_physical_address = 0x5000};
    uint64_t gpa1 = sim_gpa1_of(0x5000);
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_assert_eq(ept02_leaf(sim, 0x5000) & 7, 7);
    uint64_t flushes = sim->count[SIM_TLB_FLUSH];
    sim_ept01(sim, gpa1, 0x1000, SIM_HPA_OFFSET + gpa1, 12, NVMX_ACCESS_READ | NVMX_ACCESS_EXECUTE, 6);
    cr_assert_eq(nvmx_memory_protected(sim->vcpu, gpa1, 0x1000), NVMX_OK);
    cr_expect_eq(ept02_leaf(sim, 0x5000) & 7, 5);
    cr_expect(sim->count[SIM_TLB_FLUSH] > flushes);
    violation.qualification = 0x1aa; /* a write; readable, executable */
    cr_expect_eq(sim_exit_info(sim, &violation), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), gpa1);
    sim_ept01(sim, gpa1, 0x1000, SIM_HPA_OFFSET + gpa1, 12, ALL_ACCESS, 6);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_expect_eq(ept02_leaf(sim, 0x5000) & 7, 7);
    sim_free(sim);
}

/* -- one page that is several things ------------------------------------------------------------------------------------------------------- */

static uint64_t alias_random;

static uint32_t any(uint32_t limit) {
    alias_random = alias_random * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(alias_random >> 33) % limit;
}

/* Regions, bitmaps, lists, APIC pages and tables of ept12 and of L1's own paging: vmcs12 names them as whatever it likes. */
static uint64_t any_page(void) {
    static const uint64_t pages[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_B, SIM_L1_VMXON, SIM_L1_MSR_BITMAP, SIM_L1_IO_BITMAP_A, SIM_L1_VIRTUAL_APIC, SIM_L1_MSR_LISTS,
                                     SIM_L1_EPT12, SIM_L1_EPT12 + 0x3000, SIM_L2_GPA1 + 0x5000};
    return pages[any(COUNT(pages))];
}

static void also(struct sim *sim, uint32_t encoding, uint64_t bits) {
    uint64_t value;
    if (sim_vmread(sim, encoding, &value) == SIM_SUCCEED)
        sim_vmwrite(sim, encoding, value | bits);
}

static void names_pages(struct sim *sim) {
    static const uint32_t addresses[] = {NVMX_VMCS_VIRTUAL_APIC_ADDRESS, NVMX_VMCS_APIC_ACCESS_ADDRESS,
                                         NVMX_VMCS_IO_BITMAP_A_ADDRESS, NVMX_VMCS_IO_BITMAP_B_ADDRESS,
                                         NVMX_VMCS_MSR_BITMAP_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_STORE_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS,
                                         NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, NVMX_VMCS_VMREAD_BITMAP_ADDRESS, NVMX_VMCS_VMWRITE_BITMAP_ADDRESS,
                                         NVMX_VMCS_PML_ADDRESS, NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS};
    static const uint32_t counts[] = {NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT};
    for (size_t i = 0; i < COUNT(addresses); i++)
        sim_vmwrite(sim, addresses[i], any_page());
    for (size_t i = 0; i < COUNT(counts); i++)
        sim_vmwrite(sim, counts[i], any(6) == 0 ? any(8) : 0);
    sim_vmwrite(sim, NVMX_VMCS_PML_INDEX, any(512));
    if (any(3) == 0)
        sim_vmwrite(sim, NVMX_VMCS_EPT_POINTER, any_page() | 0x1e | (any(2) ? 0x40 : 0));
    else
        sim_vmwrite(sim, NVMX_VMCS_EPT_POINTER, SIM_L1_EPT12 | 0x1e | (any(2) ? 0x40 : 0));
    also(sim, NVMX_VMCS_PRIMARY_CONTROLS, (any(2) ? PROC_TPR_SHADOW : 0) | (any(2) ? PROC_IO_BITMAPS : 0));
    also(sim, NVMX_VMCS_SECONDARY_CONTROLS, (any(3) ? 0 : 1u << 0) | (any(3) ? 0 : 1u << 14) | (any(3) ? 0 : 1u << 17) | (any(3) ? 0 : 1u << 18));
    if (any(3) == 0)
        sim_vmwrite(sim, NVMX_VMCS_VMCS_LINK_POINTER, any_page());
}

static void l2_does_something(struct sim *sim) {
    struct nvmx_l2_exit_info violation = {
        .reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x180 | UINT64_C(1) << any(3), .guest_physical_address = any(8) << 12};
    switch (any(7)) {
    case 0:
        nvmx_memory_changed(sim->vcpu, any_page(), 0x1000);
        break;
    case 1:
        nvmx_memory_protected(sim->vcpu, any_page(), 0x1000);
        break;
    case 2:
        sim->regs.gpr[NVMX_RCX] = any(2) ? 0x10 : 0xc0000102;
        sim_exit(sim, any(2) ? NVMX_EXIT_RDMSR : NVMX_EXIT_WRMSR, 0, 0, 2);
        break;
    case 3:
        sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, (uint64_t)any(0x10000) << 16, 0, 2);
        break;
    case 4:
        sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2);
        break;
    default:
        sim_exit_info(sim, &violation);
        break;
    }
}

static void l1_does_something(struct sim *sim) {
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_l1_mode64(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, SIM_L1_PML4);
    switch (any(6)) {
    case 0:
        sim_vmclear(sim, any_page());
        break;
    case 1:
        sim_vmptrld(sim, any_page());
        break;
    case 2:
        names_pages(sim);
        break;
    case 3:
        sim_invept(sim, 1, any_page() | 0x1e, 0);
        break;
    default:
        if (sim_vmlaunch(sim) != SIM_L2 && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT)
            sim_vmresume(sim);
        break;
    }
}

/* SDM 27.11.4: L1 has to bear what comes of it, the host has not. The simulated host aborts where a page is given back twice, or kept. */
Test(enter_memory, pages_that_are_several_things) {
    unsigned int ran = 0;
    for (unsigned int k = 0; k < 300; k++) {
        alias_random = k;
        struct sim *sim = l1_ready(&(struct sim_options){.vmcs02_slots = (uint16_t)(1 + any(3)), .shadow = any(3) == 0});
        sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(any(2) ? UINT64_C(3) << 24 : 0));
        nvmx_vmcs01_changed(sim->vcpu);
        for (unsigned int step = 0; step < 24 && sim_enter(sim, NULL) == NVMX_ENTER; step++) {
            bool l2 = nvmx_mode(sim->vcpu) == NVMX_MODE_L2;
            ran += l2;
            if (l2)
                l2_does_something(sim);
            else
                l1_does_something(sim);
        }
        sim_free(sim);
    }
    cr_expect(ran > 300, "L2 ran for %u steps", ran);
}
