/* SPDX-License-Identifier: MIT */
/* How L1 finds its processor after an exit of L2: host-state area, inherited MSRs, MSR lists, VMX aborts
 * (SDM 30.4-30.7). */
#include "machine.h"

static void expect_field(const struct sim *sim, enum nvmx_field slot, uint64_t wanted) {
    cr_expect(vmcs01(sim, slot) == wanted, "%s: %#lx instead of %#lx", nvmx_field_info(slot)->name, vmcs01(sim, slot),
              wanted);
}

static void expect_segment(const struct sim *sim, unsigned int i, uint64_t selector, uint64_t base, uint64_t rights) {
    expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_SELECTOR + i), selector);
    expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_ACCESS_RIGHTS + i), rights);
    if ((rights & 0x10000) == 0) {
        expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_BASE + i), base);
        expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_LIMIT + i), i == 7 ? 0x67 : 0xffffffff);
    }
}

/* Every field of vmcs01 that an exit loads gets another value, so that what is found there was loaded. */
static void spoil_vmcs01(struct sim *sim) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        bool guest_state = ((encoding >> 10) & 3) == 2;
        if (guest_state && slot != NVMX_F_VMCS_LINK_POINTER && sim_has_field(sim, slot))
            sim_set(sim, NVMX_VMCS01, (enum nvmx_field)slot, UINT64_C(0x5555555555555555));
    }
    nvmx_vmcs01_changed(sim->vcpu); /* else it is known to be as L1 left it */
}

enum { ES, CS, SS, DS, FS, GS, LDTR, TR };

static void write_host_segments(struct sim *sim) {
    static const uint16_t selectors[] = {0x28, 0x30, 0x38, 0x40, 0x48, 0x50};
    for (uint32_t i = 0; i < COUNT(selectors); i++)
        l1_writes(sim, NVMX_VMCS_HOST_ES_SELECTOR + 2 * i, selectors[i]);
    l1_writes(sim, NVMX_VMCS_HOST_TR_SELECTOR, 0x58);
}

/* SDM 30.5.1 to 30.5.3, for an L1 in 64-bit mode. */
Test(reflect_host_state, all_fields_of_a_64_bit_l1) {
    struct sim *sim = l1_ready(NULL);
    write_host_segments(sim);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_CS, 0x77);
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_ESP, UINT64_C(0xffff800000001000));
    l1_writes(sim, NVMX_VMCS_HOST_SYSENTER_EIP, UINT64_C(0xffff800000002000));
    l1_writes(sim, NVMX_VMCS_HOST_CR4, 0x426a0); /* OSXSAVE, PCIDE not */
    l1_writes(sim, NVMX_VMCS_HOST_EFER, 0xd01);
    launch(sim);
    spoil_vmcs01(sim);
    l2_leaves(sim);
    expect_segment(sim, CS, 0x30, 0, 0xa09b);
    expect_segment(sim, ES, 0x28, 0, 0xc093);
    expect_segment(sim, SS, 0x38, 0, 0xc093);
    expect_segment(sim, DS, 0x40, 0, 0xc093);
    expect_segment(sim, FS, 0x48, 0x1111000, 0xc093);
    expect_segment(sim, GS, 0x50, 0x2222000, 0xc093);
    expect_segment(sim, LDTR, 0, 0, 0x10000);
    expect_segment(sim, TR, 0x58, 0x3333000, 0x8b);
    static const struct {
        enum nvmx_field slot;
        uint64_t value;
    } rest[] = {
        {NVMX_F_GUEST_GDTR_BASE, 0x4444000},
        {NVMX_F_GUEST_GDTR_LIMIT, 0xffff},
        {NVMX_F_GUEST_IDTR_BASE, 0x5555000},
        {NVMX_F_GUEST_IDTR_LIMIT, 0xffff},
        {NVMX_F_GUEST_CR0, 0x80050033},
        {NVMX_F_CR0_READ_SHADOW, 0x80050033},
        {NVMX_F_GUEST_CR3, SIM_L1_PML4},
        {NVMX_F_GUEST_CR4, 0x426a0},
        {NVMX_F_CR4_READ_SHADOW, 0x426a0},
        {NVMX_F_GUEST_SYSENTER_CS, 0x77},
        {NVMX_F_GUEST_SYSENTER_ESP, UINT64_C(0xffff800000001000)},
        {NVMX_F_GUEST_SYSENTER_EIP, UINT64_C(0xffff800000002000)},
        {NVMX_F_GUEST_RIP, SIM_L1_EXIT_HANDLER},
        {NVMX_F_GUEST_RSP, SIM_L1_STACK},
        {NVMX_F_GUEST_RFLAGS, 2},
        {NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0},
        {NVMX_F_GUEST_ACTIVITY_STATE, 0},
        {NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0},
        {NVMX_F_GUEST_DR7, 0x400},
        {NVMX_F_GUEST_DEBUGCTL, 0},
        {NVMX_F_GUEST_EFER, 0xd01},
    };
    for (size_t i = 0; i < COUNT(rest); i++)
        expect_field(sim, rest[i].slot, rest[i].value);
    cr_expect(vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & 0x200, "L1 runs in IA-32e mode");
    sim_free(sim);
}

/* SDM 30.5.2: a null selector gives an unusable segment; CS and TR are never null (29.2.3). */
Test(reflect_host_state, null_selectors) {
    struct sim *sim = l1_ready(NULL);
    static const uint32_t nulls[] = {ES, DS, FS, GS, SS};
    for (size_t i = 0; i < COUNT(nulls); i++)
        l1_writes(sim, NVMX_VMCS_HOST_ES_SELECTOR + 2 * nulls[i], 0);
    launch(sim);
    spoil_vmcs01(sim);
    l2_leaves(sim);
    for (size_t i = 0; i < COUNT(nulls); i++) {
        uint64_t rights = vmcs01(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_ACCESS_RIGHTS + nulls[i]));
        cr_expect(rights & 0x10000, "segment %u is unusable", nulls[i]);
        expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_ES_SELECTOR + nulls[i]), 0);
    }
    expect_field(sim, NVMX_F_GUEST_FS_BASE, 0x1111000);
    expect_field(sim, NVMX_F_GUEST_GS_BASE, 0x2222000);
    sim_free(sim);
}

/* SDM 30.5.1: some bits of CR0 keep the value that they have in L2. */
Test(reflect_host_state, kept_bits_of_cr0) {
    static const uint64_t kept = UINT64_C(0x7ff80000) | 0x2ffd0;
    struct sim *sim = l2_running(NULL);
    uint64_t l2 = vmcs02(sim, NVMX_F_GUEST_CR0) ^ (1u << 30 | 1u << 29 | 1u << 17 | 1u << 3 | 1u << 18);
    sim_set(sim, sim->selected, NVMX_F_GUEST_CR0, l2);
    l2_leaves(sim);
    expect_field(sim, NVMX_F_GUEST_CR0, (0x80050033 & ~kept) | (l2 & kept));
    sim_free(sim);
}

/* -- L1 in 32-bit mode
 * ------------------------------------------------------------------------------------------------------- */

#define PDPT UINT64_C(0x20020)

/* L1 goes to protected mode with PAE paging, and makes its vmcs12 one for a 32-bit L2. */
static struct sim *l1_with_pae(void) {
    struct sim *sim = l1_ready(&(struct sim_options){.translate = true});
    sim_l1_mode32(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, 0x80000033);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, 0x2020);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 9);
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 9);
    l1_writes(sim, NVMX_VMCS_HOST_CR3, PDPT);
    l1_writes(sim, NVMX_VMCS_HOST_EFER, 0x800);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    for (uint64_t i = 0; i < 4; i++)
        sim_write64(sim, PDPT + i * 8, 0x30001 + i * 0x1000);
    return sim;
}

Test(reflect_host_state, a_32_bit_l1_with_pae_paging) {
    struct sim *sim = l1_with_pae();
    write_host_segments(sim);
    launch(sim);
    spoil_vmcs01(sim);
    l2_leaves(sim);
    expect_segment(sim, CS, 0x30, 0, 0xc09b);
    expect_segment(sim, SS, 0x38, 0, 0xc093);
    expect_segment(sim, TR, 0x58, 0x3333000, 0x8b);
    expect_field(sim, NVMX_F_GUEST_CR3, PDPT);
    expect_field(sim, NVMX_F_GUEST_CR4, 0x2020);
    expect_field(sim, NVMX_F_GUEST_EFER, 0x800);
    for (unsigned int i = 0; i < 4; i++)
        expect_field(sim, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i), 0x30001 + i * 0x1000);
    cr_expect((vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & 0x200) == 0, "L1 does not run in IA-32e mode");
    sim_free(sim);
}

static void expect_abort(struct sim *sim, uint32_t indicator) {
    cr_expect_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_VMX_ABORT);
    cr_expect_eq(sim_read32(sim, SIM_L1_VMCS_A + 4), indicator, "VMX-abort indicator %u",
                 sim_read32(sim, SIM_L1_VMCS_A + 4));
    cr_expect_eq(nvmx_exit(sim->vcpu, NVMX_EXIT_CPUID), NVMX_STOP, "it stays stopped");
    cr_expect_eq(nvmx_enter(sim->vcpu, NULL), NVMX_STOP);
}

/* SDM 30.5.4, 30.7: a bad PDPTE is a VMX abort. */
Test(reflect_host_state, bad_pdptes_abort) {
    static const uint64_t bad[] = {0x30003, 0x30021, 0x30101, UINT64_C(1) << 40 | 1, UINT64_C(1) << 63 | 1};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct sim *sim = l1_with_pae();
        sim_write64(sim, PDPT + (i % 4) * 8, bad[i]);
        launch(sim);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_STOP, "row %zu", i);
        expect_abort(sim, 2);
        sim_free(sim);
    }
}

/* SDM 30.5, 30.7: an L2 that went to IA-32e mode can't exit to an L1 whose exits don't lead there. */
Test(reflect_host_state, exit_from_ia32e_mode_to_a_32_bit_l1_aborts) {
    struct sim *sim = l1_with_pae();
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_CONTROLS, vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) | 0x200);
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_STOP);
    expect_abort(sim, 6);
    sim_free(sim);
}

/* A PDPTE that is not present may hold anything. */
Test(reflect_host_state, absent_pdptes_are_loaded) {
    struct sim *sim = l1_with_pae();
    sim_write64(sim, PDPT + 16, UINT64_C(0xfffffffffffffffe));
    launch(sim);
    l2_leaves(sim);
    expect_field(sim, NVMX_F_GUEST_PDPTE2, UINT64_C(0xfffffffffffffffe));
    sim_free(sim);
}

/* -- blocking by NMI
 * -------------------------------------------------------------------------------------------------------------------
 */

/* SDM 30.5.5, 30.3.4: an exit by NMI blocks NMIs; others leave blocking as it was, which with virtual NMIs was not the
 * processor's. */
Test(reflect_host_state, blocking_by_nmi) {
    static const struct {
        uint32_t pin;
        bool l2_blocked, by_nmi, l1_blocked;
    } rows[] = {
        {0, false, false, false}, {0, true, false, true},     {8, false, false, false},  {8, true, false, true},
        {8, false, true, true},   {0x28, true, false, false}, {0x28, false, true, true}, {0x28, false, false, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, rows[i].pin);
        launch(sim);
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, rows[i].l2_blocked ? 8 : 0);
        struct nvmx_l2_exit_info info = {.reason = rows[i].by_nmi ? NVMX_EXIT_EXCEPTION_OR_NMI : NVMX_EXIT_CPUID,
                                         .interruption_info = rows[i].by_nmi ? 0x80000202 : 0};
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), rows[i].l1_blocked ? 8 : 0, "row %zu", i);
        sim_free(sim);
    }
}

/* A failed entry leaves blocking as L1 had it: L1 may be in its NMI handler. Blocking by STI ends. */
Test(reflect_host_state, failed_entries_keep_blocking_by_nmi) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 9);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect_field(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 8);
    sim_free(sim);
}

/*
 * SDM 29.8: blocking is what it was before the VM entry, also where the MSR-load list fails, which comes after guest state was loaded. And what neither an
 * entry nor an exit loads of CR0 (SDM 29.3.2.1, 30.5.1) is L1's, whatever vmcs12 says.
 */
Test(reflect_host_state, failed_msr_lists_keep_what_l1_had) {
    static const uint64_t bad_list[] = {0xc0000100, 0};
    const uint64_t cd_nw = UINT64_C(3) << 29;
    for (unsigned int row = 0; row < 16; row++) {
        bool virtual_nmis = (row & 1) != 0, l1_blocked = (row & 2) != 0, l2_blocked = (row & 4) != 0, launched = (row & 8) != 0;
        struct sim *sim = l1_ready(NULL);
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, virtual_nmis ? PIN_NMI | PIN_VIRTUAL_NMIS : 0);
        if (launched) {
            launch(sim);
            l2_leaves(sim);
        }
        sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
        l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, l2_blocked ? BLOCKING_NMI : 0);
        l1_writes(sim, NVMX_VMCS_GUEST_CR0, l1_reads(sim, NVMX_VMCS_GUEST_CR0) | (l2_blocked ? cd_nw : 0));
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, l1_blocked ? BLOCKING_NMI : 0);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, 0x80010033 | (l1_blocked ? cd_nw : 0));
        cr_assert_eq(launched ? sim_vmresume(sim) : sim_vmlaunch(sim), SIM_ENTRY_FAILED);
        cr_assert_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_ENTRY_FAILURE | NVMX_EXIT_MSR_LOADING);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), l1_blocked ? BLOCKING_NMI : 0, "row %u", row);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_CR0) & cd_nw, l1_blocked ? cd_nw : 0, "row %u", row);
        sim_free(sim);
    }
}

/* A failed entry loads the host state as any exit; what is kept of CR0 is L1's own. */
Test(reflect_host_state, failed_entries_load_it_too) {
    struct sim *sim = l1_ready(NULL);
    write_host_segments(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, 0x80010033 | 1u << 30);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect_segment(sim, CS, 0x30, 0, 0xa09b);
    expect_field(sim, NVMX_F_GUEST_CR0, 0x80050033 | 1u << 30);
    sim_free(sim);
}

/* -- MSRs that controls switch
 * --------------------------------------------------------------------------------------------------------------- */

struct gate_row {
    enum nvmx_field guest, host;
    uint32_t load_bit; /* VM-exit controls */
    uint32_t msr;
    uint32_t entry_bit; /* by which the host switches it */
    uint64_t l1, l2;
};

static const struct gate_row gate_rows[] = {
    {NVMX_F_GUEST_PAT, NVMX_F_HOST_PAT, 19, 0x277, 14, UINT64_C(0x0007040600070406), 0x0606060606060606},
    {NVMX_F_GUEST_EFER, NVMX_F_HOST_EFER, 21, 0xc0000080, 15, 0xd01, 0xd00},
};

/* SDM 30.5.1: "load" gives the host-state field, else L1 keeps L2's; by a field where the host switches it, else by
 * WRMSR. */
Test(reflect_host_state, switched_msrs) {
    for (unsigned int i = 0; i < 4 * COUNT(gate_rows); i++) {
        const struct gate_row *row = &gate_rows[i / 4];
        bool loads = i & 1, host_switches = i & 2;
        struct sim *sim = l1_ready(NULL);
        if (!host_switches)
            sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS,
                    vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(UINT64_C(1) << row->entry_bit));
        l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, UINT64_C(1) << row->load_bit);
        if (loads)
            l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, UINT64_C(1) << row->load_bit);
        l1_writes(sim, nvmx_field_info(row->host)->encoding, row->l1);
        launch(sim);
        sim_set(sim, sim->selected, row->guest, row->l2);
        sim_msr(sim, row->msr)->value = row->l2;
        sim_msr(sim, row->msr)->writes = 0;
        sim_set(sim, NVMX_VMCS01, row->guest, 0x5555);
        l2_leaves(sim);
        uint64_t wanted = loads ? row->l1 : row->l2;
        if (host_switches) {
            cr_expect_eq(vmcs01(sim, row->guest), wanted, "row %u: %#lx", i, vmcs01(sim, row->guest));
            cr_expect_eq(sim_msr(sim, row->msr)->writes, 0, "row %u", i);
        } else {
            cr_expect_eq(vmcs01(sim, row->guest), 0x5555, "row %u: the field is not L1's", i);
            cr_expect_eq(sim_msr(sim, row->msr)->value, wanted, "row %u", i);
            cr_expect_eq(sim_msr(sim, row->msr)->writes, loads, "row %u", i);
        }
        sim_free(sim);
    }
}

/* -- MSR lists
 * --------------------------------------------------------------------------------------------------------------------------------
 */

static void write_list(struct sim *sim, uint64_t gpa1, uint32_t address, uint32_t count, const uint64_t *entries,
                       size_t bytes) {
    sim_write(sim, gpa1, entries, bytes);
    l1_writes(sim, address, gpa1);
    l1_writes(sim, count, bytes / 16);
}

Test(reflect_host_state, msr_lists) {
    struct sim *sim = l1_ready(NULL);
    static const uint64_t store[] = {0xc0000081, 0, 0xc0000082, 0}, load[] = {0xc0000083, 0x3333, 0xc0000084, 0x4444};
    write_list(sim, SIM_L1_MSR_LISTS, NVMX_VMCS_VM_EXIT_MSR_STORE_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, store,
               sizeof(store));
    write_list(sim, SIM_L1_MSR_LISTS + 0x400, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT,
               load, sizeof(load));
    launch(sim);
    sim_msr(sim, 0xc0000081)->value = 0x1111;
    sim_msr(sim, 0xc0000082)->value = 0x2222;
    l2_leaves(sim);
    cr_expect_eq(sim_read64(sim, SIM_L1_MSR_LISTS + 8), 0x1111);
    cr_expect_eq(sim_read64(sim, SIM_L1_MSR_LISTS + 24), 0x2222);
    cr_expect_eq(sim_msr(sim, 0xc0000083)->value, 0x3333);
    cr_expect_eq(sim_msr(sim, 0xc0000084)->value, 0x4444);
    cr_expect_eq(sim_get(sim, NVMX_VMCS02_FIRST, NVMX_F_VM_EXIT_MSR_LOAD_COUNT), 0, "real lists are the host's");
    sim_free(sim);
}

/* SDM 30.4, 30.6, 30.7: aborts 1 and 4; the indicator is in the current VMCS region. */
Test(reflect_host_state, msr_lists_abort) {
    static const struct {
        bool store;
        uint64_t entry[2];
        uint32_t indicator;
    } rows[] = {
        {true, {0x9e, 0}, 1},    /* IA32_SMBASE */
        {true, {0x808, 0}, 1},   /* an x2APIC MSR */
        {true, {0x12345, 0}, 1}, /* none that the host knows */
        {true, {UINT64_C(1) << 32 | 0xc0000081, 0}, 1},
        {false, {0xc0000100, 0}, 4}, /* FS base */
        {false, {0x808, 0}, 4},
        {false, {0x12345, 0}, 4},
        {false, {0x480, 1}, 4}, /* a capability */
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        if (rows[i].store)
            write_list(sim, SIM_L1_MSR_LISTS, NVMX_VMCS_VM_EXIT_MSR_STORE_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT,
                       rows[i].entry, 16);
        else
            write_list(sim, SIM_L1_MSR_LISTS, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT,
                       rows[i].entry, 16);
        launch(sim);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_STOP, "row %zu", i);
        expect_abort(sim, rows[i].indicator);
        sim_free(sim);
    }
}

/* SDM 29.8: a failed entry loads L1's exit-load list, and stores nothing. */
Test(reflect_host_state, failed_entries_load_msrs_but_store_none) {
    struct sim *sim = l1_ready(NULL);
    static const uint64_t store[] = {0xc0000081, 0x7777}, load[] = {0xc0000083, 0x3333};
    write_list(sim, SIM_L1_MSR_LISTS, NVMX_VMCS_VM_EXIT_MSR_STORE_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, store,
               sizeof(store));
    write_list(sim, SIM_L1_MSR_LISTS + 0x400, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT,
               load, sizeof(load));
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(sim_read64(sim, SIM_L1_MSR_LISTS + 8), 0x7777);
    cr_expect_eq(sim_msr(sim, 0xc0000083)->value, 0x3333);
    sim_free(sim);
}

/* What L1 left with at its VM entry is still in vmcs01 when L2 exits, and is not written again. */
Test(reflect_host_state, what_l1_left_with_is_not_written) {
    struct sim *sim = l2_running(NULL);
    l2_leaves(sim);
    resume(sim);
    struct cost before = cost_now(sim);
    l2_leaves(sim);
    uint64_t known = cost_since(sim, before).fields_written;
    resume(sim);
    sim->vcpu->l1_left.valid = false;
    before = cost_now(sim);
    l2_leaves(sim);
    uint64_t unknown = cost_since(sim, before).fields_written;
    cr_expect(known < unknown, "CS and SS rights, VM-entry controls, interruptibility: %lu and %lu", known, unknown);
    sim_free(sim);
}

/* The read shadows that vmcs01 has for L1 follow CR0 and CR4 of the host-state area, each by itself (SDM 30.5.1). */
Test(reflect_host_state, read_shadows_follow_each_register) {
    static const struct {
        uint32_t encoding;
        uint64_t bit;
        enum nvmx_field shadow;
    } rows[] = {{NVMX_VMCS_HOST_CR0, 8, NVMX_F_CR0_READ_SHADOW}, {NVMX_VMCS_HOST_CR4, 0x40, NVMX_F_CR4_READ_SHADOW}};
    struct sim *sim = l2_running(NULL);
    l2_leaves(sim);
    for (unsigned int i = 0; i < 4; i++) {
        uint64_t value = l1_reads(sim, rows[i % 2].encoding) ^ rows[i % 2].bit;
        l1_writes(sim, rows[i % 2].encoding, value);
        resume(sim);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, rows[i % 2].shadow) & rows[i % 2].bit, value & rows[i % 2].bit, "round %u", i);
        resume(sim);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, rows[i % 2].shadow) & rows[i % 2].bit, value & rows[i % 2].bit, "round %u", i);
    }
    sim_free(sim);
}
