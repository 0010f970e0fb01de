/* SPDX-License-Identifier: MIT */
/* L2's virtual APIC: pages that vmcs02 uses in place, x2APIC MSRs, posted interrupts (SDM 32). */
#include "machine.h"

#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

#define DESCRIPTOR 0x33040u

static struct sim *with_apic(const struct sim_options *options, uint32_t secondary) {
    struct sim *sim = l1_ready(options);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, secondary);
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
    l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 0);
    if ((secondary & PROC2_VIRTUAL_INTERRUPTS) != 0)
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT);
    return sim;
}

/* -- fields ------------------------------------------------------------------------------------------------------------------------ */

Test(controls_apic, pages_are_l1s_own) {
    struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
    l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 0);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), SIM_HPA_OFFSET + SIM_L1_VIRTUAL_APIC);
    cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), SIM_HPA_OFFSET + SIM_L1_APIC_ACCESS);
    cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_APIC_ACCESSES, PROC2_APIC_ACCESSES);
    sim_free(sim);
}

Test(controls_apic, threshold_and_eoi_bitmaps_follow_virtual_interrupt_delivery) {
    for (unsigned int delivery = 0; delivery < 2; delivery++) {
        struct sim *sim = with_apic(NULL, PROC2_X2APIC | (delivery ? PROC2_VIRTUAL_INTERRUPTS : 0));
        sim_write32(sim, SIM_L1_VIRTUAL_APIC + 0x80, 0xf0);
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 5);
        for (uint32_t i = 0; i < 4; i++)
            l1_writes(sim, NVMX_VMCS_EOI_EXIT_BITMAP_0 + 2 * i, 0x1111u << i);
        l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPT_STATUS, 0x3120);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_TPR_THRESHOLD), delivery ? 0 : 5);
        for (unsigned int i = 0; i < 4; i++)
            cr_expect_eq(vmcs02(sim, NVMX_F_EOI_EXIT_BITMAP_0 + i), delivery ? 0x1111u << i : 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPT_STATUS), 0x3120);
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPT_STATUS, 0x4240);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_INTERRUPT_STATUS), delivery ? 0x4240 : 0x3120, "saved with the control only");
        sim_free(sim);
    }
}

/* The APIC-access page is a name, not memory: a device will do. */
Test(controls_apic, access_page_need_not_be_memory) {
    struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
    sim_ept01(sim, 0xfee00000, 0x1000, UINT64_C(0xfee00000), 12, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, 0);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, 0xfee00000);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), 0xfee00000);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), SIM_HPA_OFFSET + SIM_L1_APIC_ACCESS);
    sim_free(sim);
}

#define HOLE 0x30000000u

/* So will a hole: any address within the width is one that VM entry accepts (SDM 29.2.1.1). vmcs02 names a page that L2 can't reach. */
Test(controls_apic, access_page_may_be_nowhere) {
    for (unsigned int ept = 0; ept < 2; ept++) {
        struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
        if (!ept)
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, HOLE);
        launch(sim);
        uint64_t page = vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS);
        cr_assert_not_null(sim_page(sim, page), "a page of the library's");
        l2_leaves(sim);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), page, "the same one");
        cr_expect_eq(nvmx_memory_changed(sim->vcpu, 0, SIM_RAM_BYTES), NVMX_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), page);
        l2_leaves(sim);
        sim_ept01(sim, HOLE, 0x1000, UINT64_C(0xfec00000), 12, NVMX_ACCESS_READ, 0); /* L1 has touched it, and the host put a device there */
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), 0xfec00000);
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, HOLE + 0x1000);
        resume(sim);
        cr_assert_not_null(sim_page(sim, vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS)));
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, HOLE + 0x2000);
        resume(sim);
        l2_leaves(sim);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), SIM_HPA_OFFSET + SIM_L1_APIC_ACCESS);
        sim_free(sim);
    }
}

/* L2 touches it, and the host puts something there: from then on that is what vmcs02 names. */
Test(controls_apic, access_page_comes_into_being) {
    for (unsigned int ept = 0; ept < 2; ept++) {
        struct nvmx_l2_exit_info violation = {.reason = NVMX_EXIT_EPT_VIOLATION, .qualification = 0x181, .guest_physical_address = HOLE};
        struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
        if (!ept)
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, ept ? sim_gpa1_of(0x5000) : HOLE);
        if (ept) {
            sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
            violation.guest_physical_address = 0x5000;
        }
        launch(sim);
        cr_assert_not_null(sim_page(sim, vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS)));
        cr_assert_eq(sim_exit_info(sim, &violation), NVMX_HOST);
        sim_ept01(sim, ept ? sim_gpa1_of(0x5000) : HOLE, 0x1000, UINT64_C(0xfec00000), 12, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, 0);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), 0xfec00000, "EPT: %u", ept);
        sim_free(sim);
    }
}

/* Where the host composes ept02 nobody hears when there is something. */
Test(controls_apic, access_page_that_nobody_knows_is_refused) {
    struct sim *sim = with_apic(&(struct sim_options){.host_composes = true}, PROC2_APIC_ACCESSES);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, HOLE);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    sim_free(sim);
}

/*
 * A virtual-APIC page without memory: where nothing of L2 can come to it, no processor looks at it after VM entry, and what VM entry itself reads there are
 * ones. Else the host can't give L2 what it asks for.
 */
Test(controls_apic, virtual_apic_page_may_be_nowhere_if_nobody_uses_it) {
    static const struct {
        uint32_t primary, secondary;
        bool accepted;
    } rows[] = {
        {PROC_CR8_LOAD | PROC_CR8_STORE, 0, true},
        {PROC_CR8_LOAD, 0, false},
        {PROC_CR8_STORE, 0, false},
        {0, 0, false},
        {PROC_CR8_LOAD | PROC_CR8_STORE, PROC2_APIC_ACCESSES, false},
        {PROC_CR8_LOAD | PROC_CR8_STORE, PROC2_X2APIC, false},
        {PROC_CR8_LOAD | PROC_CR8_STORE, PROC2_APIC_REGISTER, false},
        {PROC_CR8_LOAD | PROC_CR8_STORE, PROC2_VIRTUAL_INTERRUPTS, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = with_apic(NULL, rows[i].secondary);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, rows[i].primary);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, HOLE);
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, rows[i].secondary ? 0 : 15);
        cr_assert_eq(sim_vmlaunch(sim), rows[i].accepted ? SIM_L2 : SIM_FAIL_VALID, "row %zu", i);
        if (rows[i].accepted) {
            cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & (PROC_TPR_SHADOW | PROC_CR8_LOAD | PROC_CR8_STORE),
                         PROC_CR8_LOAD | PROC_CR8_STORE);
            cr_assert_eq(sim_exit(sim, NVMX_EXIT_CONTROL_REGISTER, 0x8, 0, 3), NVMX_ENTER); /* MOV to CR8 */
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_CONTROL_REGISTER);
            l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
            l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 0);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW, PROC_TPR_SHADOW);
            cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), SIM_HPA_OFFSET + SIM_L1_VIRTUAL_APIC);
        }
        sim_free(sim);
    }
}

/*
 * SDM 28.3 SENDUIPI: without a TPR shadow L2 would send any vector to any processor of the host, where vmcs01's TPR shadow keeps L1 from it. L1's own, or a
 * page that nobody else uses: CR8 exits as it did, and no TPR threshold is met.
 */
Test(controls_apic, user_ipis_of_l2_are_not_the_processors) {
    for (unsigned int how = 0; how < 4; how++) {
        const bool uintr = (how & 1) != 0, host = (how & 2) != 0;
        struct nvmx_caps machine;
        sim_machine(&machine);
        machine.msr[NVMX_CAP_CR4_FIXED1] |= uintr ? CR4_UINTR : 0;
        struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
        const uint64_t primary = vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)PROC_TPR_SHADOW;
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, primary | (host ? PROC_TPR_SHADOW : 0));
        launch(sim);
        const uint32_t used = sim->pages_used;
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW) != 0, uintr && host, "%u", how);
        if (uintr && host) {
            const uint8_t *page = sim_page(sim, vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS));
            cr_assert(page != NULL, "no page of the library's");
            cr_expect(page[VTPR_OFFSET] == 0xff && vmcs02(sim, NVMX_F_TPR_THRESHOLD) == 0);
            cr_expect_eq(~vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & (PROC_CR8_LOAD | PROC_CR8_STORE), 0);
            cr_expect_eq(sim_exit(sim, NVMX_EXIT_APIC_WRITE, 0x300, 0, 0), NVMX_HOST);
            cr_expect_eq(nvmx_memory_changed(sim->vcpu, 0, NVMX_PAGE_SIZE), NVMX_OK);
            cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
            cr_assert(sim_page(sim, vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS)) != NULL, "it was given back");
            cr_expect_neq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW, 0);
        }
        l2_leaves(sim);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VIRTUAL_APIC_ADDRESS), SIM_HPA_OFFSET + SIM_L1_VIRTUAL_APIC);
        cr_expect_eq(sim->pages_used, used - (uintr && host));
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_APIC_WRITE, 0x300, 0, 0), NVMX_ENTER);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_APIC_WRITE);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_CR8_LOAD | PROC_CR8_STORE);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, HOLE);
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 15);
        resume(sim);
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW) != 0, uintr && host, "no memory: %u", how);
        cr_expect_eq(sim->pages_used, used);
        l2_leaves(sim);
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW | PROC_CR8_LOAD | PROC_CR8_STORE);
        resume(sim);
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW) != 0, uintr && host, "again: %u", how);
        sim_free(sim);
    }
}

/*
 * SDM 32.4.2, 32.4.3: with a TPR shadow L2's accesses to the TPR on its APIC-access page go to the virtual-APIC page. With L1's virtualization of APIC accesses
 * alone they are L1's exits, so that a TPR shadow of the library's is none that L1 could have there.
 */
Test(controls_apic, no_tpr_shadow_of_the_librarys_behind_an_access_page) {
    for (unsigned int how = 0; how < 4; how++) {
        const bool uintr = (how & 1) != 0, host = (how & 2) != 0;
        struct nvmx_caps machine;
        sim_machine(&machine);
        machine.msr[NVMX_CAP_CR4_FIXED1] |= uintr ? CR4_UINTR : 0;
        struct sim *sim = with_apic(&(struct sim_options){.machine = &machine}, PROC2_APIC_ACCESSES);
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, (vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)PROC_TPR_SHADOW) | (host ? PROC_TPR_SHADOW : 0));
        cr_expect_eq(sim_vmlaunch(sim), uintr && host ? SIM_FAIL_VALID : SIM_L2, "%u", how);
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
            cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TPR_SHADOW, 0, "%u: what L2 does to its TPR L1 does not see", how);
        sim_free(sim);
    }
}

static unsigned int flushes_of(const struct sim *sim, enum nvmx_flush kind, uint64_t value) {
    unsigned int count = 0;
    for (uint64_t i = 0; i < sim->count[SIM_TLB_FLUSH] && i < SIM_LOG; i++)
        count += sim->flush[i].kind == kind && sim->flush[i].value == value;
    return count;
}

/*
 * SDM 32.4.5: an EPTP that was used without an APIC-access page needs an INVEPT before it is used with one. L1 without EPT does not know that its L2 runs on
 * EPTP01 as it does itself; at most it executes INVVPID.
 */
Test(controls_apic, access_page_on_the_hosts_tables) {
    for (unsigned int i = 0; i < 4; i++) {
        const bool ept = (i & 1) != 0, accesses = (i & 2) != 0;
        const unsigned int wanted = !ept && accesses ? 1 : 0;
        struct sim *sim = with_apic(NULL, accesses ? PROC2_APIC_ACCESSES : 0);
        if (!ept)
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        for (unsigned int entry = 0; entry < 2; entry++) {
            sim->count[SIM_TLB_FLUSH] = 0;
            cr_assert_eq(entry == 0 ? sim_vmlaunch(sim) : sim_vmresume(sim), SIM_L2);
            cr_expect_eq(flushes_of(sim, NVMX_FLUSH_EPT_HERE, SIM_EPTP01), wanted, "case %u, entry %u", i, entry);
            sim->count[SIM_TLB_FLUSH] = 0;
            cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
            cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
            cr_expect_eq(flushes_of(sim, NVMX_FLUSH_EPT_HERE, SIM_EPTP01), 0, "case %u: L1 has not run", i);
            l2_leaves(sim);
        }
        sim_free(sim);
    }
}

/* So it is with an EPTP01 that L2 did not run on before: the host has made it anew, or the state comes from elsewhere. */
Test(controls_apic, access_page_on_other_tables_of_the_host) {
    const uint64_t other = SIM_EPTP01 + 0x10000000;
    size_t bytes;
    struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
    launch(sim);
    host_sets(sim, NVMX_F_EPT_POINTER, other);
    sim->count[SIM_TLB_FLUSH] = 0;
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), other);
    cr_expect_eq(flushes_of(sim, NVMX_FLUSH_EPT_HERE, other), 1);
    uint8_t *blob = sim_save(sim, &bytes);
    const struct sim_vmcs l1 = sim->vmcs[NVMX_VMCS01];
    cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
    memcpy(sim->vmcs[NVMX_VMCS01].value, l1.value, sizeof(l1.value));
    sim->count[SIM_TLB_FLUSH] = 0;
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(flushes_of(sim, NVMX_FLUSH_EPT_HERE, other), 1);
    free(blob);
    sim_free(sim);
}

/* ept01 moves the device while L2 runs: vmcs02 names its new place. */
Test(controls_apic, access_page_follows_ept01) {
    struct sim *sim = with_apic(NULL, PROC2_APIC_ACCESSES);
    sim_ept01(sim, 0xfee00000, 0x1000, UINT64_C(0xfee00000), 12, NVMX_ACCESS_READ, 0);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, 0xfee00000);
    launch(sim);
    sim_ept01(sim, 0xfee00000, 0x1000, UINT64_C(0xfed00000), 12, NVMX_ACCESS_READ, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, 0xfee00000, 0x1000), NVMX_OK);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    cr_expect_eq(vmcs02(sim, NVMX_F_APIC_ACCESS_ADDRESS), 0xfed00000);
    sim_free(sim);
}

/* -- x2APIC MSRs -------------------------------------------------------------------------------------------------------------------- */

#define ALL_BITS UINT64_MAX

static uint64_t merged(struct sim *sim, unsigned int word) {
    const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
    cr_assert_not_null(page);
    return page[word];
}

/* L1 passes 800H-8FFH; the host intercepts all MSRs. Words 32-35 are the reads, 288-291 the writes. */
Test(controls_apic, x2apic_msrs_that_hardware_virtualizes_are_l1s) {
    static const struct {
        uint32_t secondary;
        uint64_t reads0, reads1, writes0;
    } rows[] = {
        {PROC2_X2APIC, ~(UINT64_C(1) << 8), ALL_BITS, ~(UINT64_C(1) << 8)},
        {PROC2_X2APIC | PROC2_APIC_REGISTER, 0, 0, ~(UINT64_C(1) << 8)},
        {PROC2_X2APIC | PROC2_VIRTUAL_INTERRUPTS, ~(UINT64_C(1) << 8), ALL_BITS,
         ~(UINT64_C(1) << 8 | UINT64_C(1) << 11 | UINT64_C(1) << 63)},
        {0, ALL_BITS, ALL_BITS, ALL_BITS},
    };
    for (unsigned int with_host = 0; with_host < 2; with_host++) {
        for (size_t i = 0; i < COUNT(rows); i++) {
            struct sim *sim = with_apic(NULL, rows[i].secondary);
            if (with_host)
                host_gives_bitmaps(sim);
            else
                host_sets(sim, NVMX_F_PRIMARY_CONTROLS,
                          vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)PROC_MSR_BITMAPS);
            memset(sim->host_msr_bitmap, 0xff, NVMX_PAGE_SIZE);
            launch(sim);
            bool used = (vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_MSR_BITMAPS) != 0;
            cr_expect_eq(used, with_host || rows[i].secondary != 0, "row %zu", i);
            if (used) {
                cr_expect_eq(merged(sim, 32), rows[i].reads0, "row %zu", i);
                cr_expect_eq(merged(sim, 35), rows[i].reads1, "row %zu", i);
                cr_expect_eq(merged(sim, 288), rows[i].writes0, "row %zu", i);
                cr_expect_eq(merged(sim, 289), ALL_BITS, "row %zu", i);
                cr_expect_eq(merged(sim, 31), ALL_BITS, "row %zu", i);
            }
            sim_free(sim);
        }
    }
}

Test(controls_apic, x2apic_msrs_that_l1_intercepts_exit) {
    struct sim *sim = with_apic(NULL, PROC2_X2APIC | PROC2_APIC_REGISTER);
    host_gives_bitmaps(sim);
    memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
    sim_write64(sim, SIM_L1_MSR_BITMAP + 32 * 8, 0x10);
    sim_write64(sim, SIM_L1_MSR_BITMAP + 288 * 8, 0x100);
    launch(sim);
    cr_expect_eq(merged(sim, 32), 0x10);
    cr_expect_eq(merged(sim, 288), ALL_BITS, "nobody has used these yet");
    sim_free(sim);
}

/* What was let through for the mode's sake is closed again when L1 leaves the mode. */
Test(controls_apic, x2apic_msrs_close_with_the_mode) {
    struct sim *sim = with_apic(NULL, PROC2_X2APIC | PROC2_APIC_REGISTER);
    host_gives_bitmaps(sim);
    memset(sim->host_msr_bitmap, 0xff, NVMX_PAGE_SIZE);
    launch(sim);
    cr_expect_eq(merged(sim, 33), 0);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_X2APIC | PROC2_APIC_REGISTER);
    resume(sim);
    for (unsigned int word = 32; word < 36; word++)
        cr_expect_eq(merged(sim, word), ALL_BITS);
    cr_expect_eq(merged(sim, 288), ALL_BITS);
    sim_free(sim);
}

/* An MSR that neither intercepts becomes open; the virtualized ones beside it stay L1's. */
Test(controls_apic, x2apic_words_may_be_hot) {
    struct sim *sim = with_apic(NULL, PROC2_X2APIC);
    host_gives_bitmaps(sim);
    memset(sim->host_msr_bitmap, 0xff, NVMX_PAGE_SIZE);
    sim->host_msr_bitmap[0x802 / 8] &= (uint8_t)~(1u << 2);
    launch(sim);
    cr_expect_eq(merged(sim, 32), ~(UINT64_C(1) << 8));
    sim->regs.gpr[NVMX_RCX] = 0x802;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_expect_eq(merged(sim, 32), ~(UINT64_C(1) << 8 | UINT64_C(1) << 2));
    sim_free(sim);
}

/* A host without MSR bitmaps intercepts all that is not virtualized, whatever the page holds that it once gave. */
Test(controls_apic, x2apic_mode_opens_nothing_else_to_l2) {
    for (unsigned int gives = 0; gives < 2; gives++) {
        struct sim *sim = with_apic(NULL, PROC2_X2APIC);
        if (gives)
            host_gives_bitmaps(sim);
        memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)PROC_MSR_BITMAPS);
        launch(sim);
        sim->regs.gpr[NVMX_RCX] = 0x802;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_HOST);
        cr_expect_eq(merged(sim, 32), ~(UINT64_C(1) << 8));
        cr_expect_eq(merged(sim, 0), ALL_BITS);
        sim_free(sim);
    }
}

/*
 * Where vmcs01 virtualizes the x2APIC, its bitmap lets MSRs through that are then L1's virtual APIC. vmcs02 does not virtualize them, but for what vmcs12 wants
 * (SDM 32.5): of L2 they would be the processor's own APIC.
 */
Test(controls_apic, x2apic_that_vmcs01_virtualizes_is_not_reached_by_l2) {
    static const struct {
        uint32_t reason, msr;
    } accesses[] = {
        {NVMX_EXIT_RDMSR, 0x802}, {NVMX_EXIT_RDMSR, 0x8ff}, {NVMX_EXIT_WRMSR, 0x808},
        {NVMX_EXIT_WRMSR, 0x80b}, {NVMX_EXIT_WRMSR, 0x830}, {NVMX_EXIT_WRMSR, 0x8c0},
    };
    for (unsigned int virtualizes = 0; virtualizes < 2; virtualizes++) {
        struct sim *sim = with_apic(NULL, 0);
        host_gives_bitmaps(sim);
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | (virtualizes ? PROC2_X2APIC : 0));
        memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
        launch(sim);
        for (size_t i = 0; i < 2 * COUNT(accesses); i++) {
            sim->regs.gpr[NVMX_RCX] = accesses[i / 2].msr;
            cr_expect_eq(sim_exit(sim, accesses[i / 2].reason, 0, 0, 2), virtualizes ? NVMX_HOST : NVMX_ENTER, "MSR %#x", accesses[i / 2].msr);
        }
        sim->regs.gpr[NVMX_RCX] = 0x7ff;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER, "a neighbour");
        for (unsigned int again = 0; again < 2; again++) {
            for (unsigned int word = 32; virtualizes && word < 36; word++) {
                cr_expect_eq(merged(sim, word), ALL_BITS);
                cr_expect_eq(merged(sim, 256 + word), ALL_BITS);
            }
            cr_expect_eq(merged(sim, 31), 0);
            l2_leaves(sim);
            resume(sim);
        }
        sim_free(sim);
    }
}

/* Also where the host changes vmcs01 so while L2 runs, before its vmcs02 has followed. */
Test(controls_apic, x2apic_that_vmcs01_begins_to_virtualize) {
    for (unsigned int neighbour = 0; neighbour < 2; neighbour++) {
        struct sim *sim = with_apic(NULL, 0);
        host_gives_bitmaps(sim);
        memset(sim->host_msr_bitmap, 0xff, NVMX_PAGE_SIZE);
        launch(sim);
        memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | PROC2_X2APIC);
        if (neighbour) {
            sim->regs.gpr[NVMX_RCX] = 0x1a0;
            cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_ENTER);
        }
        sim->regs.gpr[NVMX_RCX] = 0x830;
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_HOST);
        cr_expect_eq(merged(sim, 288), ALL_BITS);
        l2_leaves(sim);
        resume(sim);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_HOST);
        sim_free(sim);
    }
}

/* What vmcs12 virtualizes of it stays L1's alone, and nothing beside it opens. */
Test(controls_apic, x2apic_that_both_virtualize) {
    struct sim *sim = with_apic(NULL, PROC2_X2APIC);
    host_gives_bitmaps(sim);
    host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | PROC2_X2APIC);
    memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = 0x802;
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_HOST);
    sim->regs.gpr[NVMX_RCX] = 0x80b;
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_WRMSR, 0, 0, 2), NVMX_HOST);
    cr_expect_eq(merged(sim, 32), ~(UINT64_C(1) << 8));
    cr_expect_eq(merged(sim, 288), ~(UINT64_C(1) << 8));
    sim_free(sim);
}

/* -- posted interrupts ---------------------------------------------------------------------------------------------------------------- */

static struct nvmx_caps posting_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PINBASED] |= UINT64_C(1) << 39;
    machine.msr[NVMX_CAP_TRUE_PINBASED] |= UINT64_C(1) << 39;
    return machine;
}

static struct sim *with_posting(const struct nvmx_caps *machine) {
    struct sim *sim = with_apic(&(struct sim_options){.machine = machine}, PROC2_X2APIC | PROC2_VIRTUAL_INTERRUPTS);
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_POSTED_INTERRUPTS);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_ACKNOWLEDGE);
    l1_writes(sim, NVMX_VMCS_POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xf2);
    l1_writes(sim, NVMX_VMCS_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, DESCRIPTOR);
    return sim;
}

Test(controls_apic, posted_interrupts_are_hardwares_where_interrupts_are_l1s) {
    struct nvmx_caps machine = posting_machine();
    struct sim *sim = with_posting(&machine);
    launch(sim);
    cr_expect((vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & PIN_POSTED_INTERRUPTS) != 0);
    cr_expect_eq(vmcs02(sim, NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR), 0xf2);
    cr_expect_eq(vmcs02(sim, NVMX_F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS), SIM_HPA_OFFSET + DESCRIPTOR);
    cr_expect((vmcs02(sim, NVMX_F_VM_EXIT_CONTROLS) & EXIT_ACKNOWLEDGE) != 0);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_POSTED_INTERRUPTS);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS) & PIN_POSTED_INTERRUPTS, 0);
    sim_free(sim);
}

Test(controls_apic, posted_interrupts_are_not_offered_by_a_host_that_owns_interrupts) {
    struct nvmx_caps machine = posting_machine();
    struct sim *sim = sim_new(&(struct sim_options){.machine = &machine, .external_interrupts = true});
    cr_expect_eq((nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_PINBASED] >> 39) & 1, 0);
    sim_free(sim);
}

/* The host said that it passes interrupts, and then takes them. */
Test(controls_apic, posted_interrupts_are_refused_while_the_host_takes_interrupts) {
    struct nvmx_caps machine = posting_machine();
    struct sim *sim = with_posting(&machine);
    host_sets(sim, NVMX_F_PIN_BASED_CONTROLS, vmcs01(sim, NVMX_F_PIN_BASED_CONTROLS) | PIN_EXTERNAL_INTERRUPT);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    sim_free(sim);
}
