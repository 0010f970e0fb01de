/* SPDX-License-Identifier: MIT */
/* vmcs12 + vmcs01 -> vmcs02: where each control bit and field comes from (SDM 27.6-27.8, 29.3.2). */
#include "machine.h"

#include <nvmx/state.h>
#include <stdlib.h>

/* -- merging without the checks of an entry
 * ------------------------------------------------------------------------------ */

static struct vmcs12 *current(struct sim *sim) {
    return &sim->vcpu->vmcs12[sim->vcpu->current];
}

static uint64_t *v12(struct sim *sim, enum nvmx_field slot) {
    return &current(sim)->value[slot];
}

/* vmcs02 as vmcs12 and vmcs01 would have it now. */
static void merge(struct sim *sim) {
    current(sim)->controls_merged = false;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        nvmx_set_add(&current(sim)->dirty, slot);
    nvmx_vmcs01_changed(sim->vcpu);
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    enum nvmx_status status = merge_vmcs02(sim->vcpu, current(sim), NULL);
    cr_assert(status == NVMX_OK, "%s, field %#x", nvmx_status_text(status), sim->last_bad_encoding);
    cr_assert_eq(sim->selected, NVMX_VMCS02_FIRST);
}

/* Where a bit of a control field of vmcs02 comes from; a bit that no group names is the host's alone. */
struct origins {
    enum nvmx_field slot;
    uint32_t l1;     /* vmcs12 alone: features of L2, events that L1 waits for */
    uint32_t either; /* intercepts */
    uint32_t both;   /* what the host may keep from L1 */
    uint32_t never;
    uint32_t always;
    uint32_t own; /* rules that have tests of their own */
};

#define B(n) (1u << (n))

static const struct origins origins[] = {
    {
        .slot = NVMX_F_PIN_BASED_CONTROLS,
        .l1 = B(6) /* timer */ | B(7) /* posted interrupts */,
        .either = B(0) | B(3) | B(5),
    },
    {
        .slot = NVMX_F_PRIMARY_CONTROLS,
        .l1 = B(2) /* interrupt window */ | B(21) /* TPR shadow */ | B(22) /* NMI window */ | B(27) /* MTF */,
        .either =
            B(3) /* TSC offsetting */ | B(7) | B(9) | B(10) | B(11) | B(12) | B(15) | B(16) | B(23) | B(29) | B(30),
        .always = B(31),
        .own = B(17) /* tertiary */ | B(19) | B(20) /* CR8 */ | B(24) | B(25) | B(28) /* bitmaps */,
    },
    {
        .slot = NVMX_F_SECONDARY_CONTROLS,
        .l1 = B(0) | B(3) /* RDTSCP */ | B(4) | B(7) /* unrestricted */ | B(8) | B(9) | B(12) /* INVPCID */ |
              B(13) /* VMFUNC */ | B(22) /* MBEC */ | B(23) /* SPP */ | B(26) /* user wait */,
        .either = B(2) | B(6) | B(10) | B(11) | B(15) | B(16) | B(25) /* TSC scaling */ | B(28) |
                  B(30) /* bus locks */ | B(31) /* timeout */,
        .both = B(20) /* XSAVES */ | B(27) /* PCONFIG */,
        .never = B(14) /* shadowing */ | B(17) /* PML */ | B(18) /* #VE */,
        .always = B(1) /* EPT */,
        .own = B(5) /* VPID */,
    },
    {
        .slot = NVMX_F_VM_ENTRY_CONTROLS,
        .l1 = B(9) /* IA-32e mode guest */,
        .either = B(2) | B(13) | B(14) | B(15) | B(24) /* IA32_SPEC_CTRL */,
        .own = 0x00ff0000 /* registers of the host */,
    },
    {
        .slot = NVMX_F_VM_EXIT_CONTROLS,
        .either = B(2) | B(18) | B(20) | B(30),
        .own = B(15) /* acknowledge */ | B(22) /* save timer */,
    },
};

static uint32_t expected_bit(const struct origins *o, uint32_t bit, uint32_t host, uint32_t l1) {
    if (o->never & bit)
        return 0;
    if (o->always & bit)
        return bit;
    if (o->l1 & bit)
        return l1 & bit;
    if (o->both & bit)
        return l1 & host & bit;
    return ((o->either & bit) ? (l1 | host) : host) & bit;
}

/* Each bit alone in vmcs01, in vmcs12, and in both, all others as they usually are. */
Test(merge, origin_of_each_control) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PINBASED] |= UINT64_C(1) << 39;
    machine.msr[NVMX_CAP_TRUE_PINBASED] |= UINT64_C(1) << 39;
    machine.msr[NVMX_CAP_ENTRY] |= UINT64_C(1) << 56;
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= UINT64_C(1) << 56;
    machine.msr[NVMX_CAP_PROCBASED2] |= UINT64_C(1) << 55;
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
    *v12(sim, NVMX_F_VM_ENTRY_CONTROLS) &= ~(uint64_t)(B(2) | B(13) | B(14) | B(15)); /* what they load is saved: controls_state */
    for (size_t i = 0; i < COUNT(origins); i++) {
        const struct origins *o = &origins[i];
        uint64_t host = vmcs01(sim, o->slot), l1 = *v12(sim, o->slot);
        for (unsigned int n = 0; n < 32; n++) {
            uint32_t bit = B(n);
            if ((o->own & bit) || (o->slot == NVMX_F_PRIMARY_CONTROLS && n == 31))
                continue;
            for (unsigned int both = 0; both < 4; both++) {
                uint32_t in_host = both & 1 ? bit : 0, in_l1 = both & 2 ? bit : 0;
                sim_set(sim, NVMX_VMCS01, o->slot, (host & ~(uint64_t)bit) | in_host);
                *v12(sim, o->slot) = (l1 & ~(uint64_t)bit) | in_l1;
                merge(sim);
                uint32_t got = (uint32_t)vmcs02(sim, o->slot) & bit;
                cr_expect_eq(got != 0, expected_bit(o, bit, in_host, in_l1) != 0, "%s, bit %u, host %u, L1 %u",
                             nvmx_field_info(o->slot)->name, n, both & 1, both >> 1);
            }
        }
        sim_set(sim, NVMX_VMCS01, o->slot, host);
        *v12(sim, o->slot) = l1;
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* A control that hardware forces to 1 is always in vmcs02: vmcs01 has it. */
Test(merge, mandatory_controls) {
    struct sim *sim = l2_running(NULL);
    static const struct {
        enum nvmx_field slot;
        enum nvmx_cap cap;
    } fields[] = {
        {NVMX_F_PIN_BASED_CONTROLS, NVMX_CAP_PINBASED},   {NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED},
        {NVMX_F_VM_EXIT_CONTROLS, NVMX_CAP_EXIT},         {NVMX_F_VM_ENTRY_CONTROLS, NVMX_CAP_ENTRY},
        {NVMX_F_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2},
    };
    for (size_t i = 0; i < COUNT(fields); i++) {
        uint32_t controls = (uint32_t)vmcs02(sim, fields[i].slot);
        cr_expect_eq(nvmx_caps_must_be_1(&sim->machine, fields[i].cap) & ~controls, 0, "%s",
                     nvmx_field_info(fields[i].slot)->name);
        cr_expect_eq(controls & ~nvmx_caps_may_be_1(&sim->machine, fields[i].cap), 0, "%s",
                     nvmx_field_info(fields[i].slot)->name);
    }
    sim_free(sim);
}

/* -- rules of their own
 * --------------------------------------------------------------------------------------------------------- */

static uint64_t both_merged(struct sim *sim, enum nvmx_field slot, uint32_t field_bits, uint32_t host, uint32_t l1) {
    sim_set(sim, NVMX_VMCS01, slot, (vmcs01(sim, slot) & ~(uint64_t)field_bits) | host);
    *v12(sim, slot) = (*v12(sim, slot) & ~(uint64_t)field_bits) | l1;
    merge(sim);
    return vmcs02(sim, slot) & field_bits;
}

/* CR8 is the virtual TPR's with L1's TPR shadow; else it must not reach a TPR that the host virtualizes. */
Test(merge, cr8_exiting) {
    struct sim *sim = l1_ready(NULL);
    const uint32_t cr8 = B(19) | B(20), shadow = B(21), all = cr8 | shadow;
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    static const struct {
        uint32_t host, l1, wanted;
    } rows[] = {
        {0, 0, 0},
        {0, B(19), B(19)},
        {B(20), B(19), B(19) | B(20)},
        {B(21), 0, B(19) | B(20)},
        {B(21), B(21), B(21)},
        {B(21), B(21) | B(20), B(21) | B(20)},
        {B(19) | B(20), B(21), B(21)},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        cr_expect_eq(both_merged(sim, NVMX_F_PRIMARY_CONTROLS, all, rows[i].host, rows[i].l1), rows[i].wanted,
                     "row %zu", i);
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* SDM 29.2.1.2: "save VMX-preemption timer value" only with the timer, and the timer is L1's. */
Test(merge, preemption_timer) {
    struct sim *sim = l1_ready(NULL);
    for (unsigned int i = 0; i < 4; i++) {
        uint64_t timer = both_merged(sim, NVMX_F_PIN_BASED_CONTROLS, B(6), i & 1 ? B(6) : 0, i & 2 ? B(6) : 0);
        uint64_t save = both_merged(sim, NVMX_F_VM_EXIT_CONTROLS, B(22), i & 1 ? B(22) : 0, 0);
        cr_expect_eq(timer != 0, i >> 1, "row %u", i);
        cr_expect_eq(save != 0, i >> 1, "row %u", i);
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* A host that passes interrupts through leaves it to L1 whether an exit acknowledges them. */
Test(merge, acknowledge_interrupt_on_exit) {
    for (unsigned int i = 0; i < 8; i++) {
        bool owns = i & 4;
        struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = owns});
        uint64_t got = both_merged(sim, NVMX_F_VM_EXIT_CONTROLS, B(15), i & 1 ? B(15) : 0, i & 2 ? B(15) : 0);
        cr_expect_eq(got != 0, owns ? i & 1 : i >> 1 & 1, "row %u", i);
        cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
        sim_free(sim);
    }
}

/* Page faults: L1's mask and match as long as the host lets page faults alone; else all exit. */
Test(merge, page_faults) {
    struct sim *sim = l1_ready(NULL);
    static const struct {
        uint32_t bitmap, mask, match;
        bool all;
    } hosts[] = {{0, 0, 0, false},    {B(6), 0, 0, false}, {B(14), 0, 0, true},
                 {B(14), 1, 1, true}, {0, 1, 0, true},     {0, 0, 1, true}};
    for (size_t i = 0; i < COUNT(hosts); i++) {
        for (unsigned int bit = 0; bit < 2; bit++) {
            sim_set(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP, hosts[i].bitmap);
            sim_set(sim, NVMX_VMCS01, NVMX_F_PAGE_FAULT_ERROR_CODE_MASK, hosts[i].mask);
            sim_set(sim, NVMX_VMCS01, NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH, hosts[i].match);
            *v12(sim, NVMX_F_EXCEPTION_BITMAP) = bit << 14 | B(3);
            *v12(sim, NVMX_F_PAGE_FAULT_ERROR_CODE_MASK) = 0x11;
            *v12(sim, NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH) = 0x10;
            merge(sim);
            uint64_t bitmap = vmcs02(sim, NVMX_F_EXCEPTION_BITMAP);
            cr_expect_eq(bitmap & ~UINT64_C(0x4000), B(3) | (hosts[i].bitmap & ~0x4000u), "row %zu", i);
            cr_expect_eq(bitmap >> 14 & 1, bit || hosts[i].all, "row %zu", i);
            cr_expect_eq(vmcs02(sim, NVMX_F_PAGE_FAULT_ERROR_CODE_MASK), hosts[i].all ? 0 : 0x11, "row %zu", i);
            cr_expect_eq(vmcs02(sim, NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH), hosts[i].all ? 0 : 0x10, "row %zu", i);
        }
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

Test(merge, cr3_targets) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_CR3_TARGET_COUNT, 3);
    for (uint32_t i = 0; i < 4; i++)
        l1_writes(sim, NVMX_VMCS_CR3_TARGET_VALUE_0 + 2 * i, 0x1000 * (i + 1));
    both_merged(sim, NVMX_F_PRIMARY_CONTROLS, B(15), 0, B(15));
    cr_expect_eq(vmcs02(sim, NVMX_F_CR3_TARGET_COUNT), 3);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect_eq(vmcs02(sim, (enum nvmx_field)(NVMX_F_CR3_TARGET_VALUE_0 + i)), 0x1000 * (i + 1));
    both_merged(sim, NVMX_F_PRIMARY_CONTROLS, B(15), B(15), B(15));
    cr_expect_eq(vmcs02(sim, NVMX_F_CR3_TARGET_COUNT), 0, "the host wants every MOV to CR3");
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* Without EPT in vmcs12 L2 runs on the host's tables, as the host means them. */
Test(merge, without_ept) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED2] |= UINT64_C(1) << 54;
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    for (unsigned int mbec = 0; mbec < 2; mbec++) {
        *v12(sim, NVMX_F_SECONDARY_CONTROLS) &= ~UINT64_C(0x82); /* EPT, unrestricted guest */
        cr_expect_eq(both_merged(sim, NVMX_F_SECONDARY_CONTROLS, B(22), mbec ? B(22) : 0, 0) != 0, mbec);
        cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), SIM_EPTP01);
        cr_expect(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & B(1));
        cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    }
    sim_free(sim);
}

/* EPT is a secondary control: they are active in vmcs02 where neither L1 nor the host has activated them. */
Test(merge, secondary_controls_are_active) {
    struct sim *sim = l1_ready(NULL);
    cr_expect_eq(both_merged(sim, NVMX_F_PRIMARY_CONTROLS, B(31), 0, 0), B(31));
    cr_expect(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & B(1));
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* -- masks and read shadows of CR0 and CR4
 * ------------------------------------------------------------------------------------------- */

/* What L2 reads of a control register: L1's shadow where L1 masks, else the register. */
Test(merge, read_shadows) {
    struct sim *sim = l1_ready(NULL);
    static const struct {
        enum nvmx_field mask, shadow, cr;
        uint64_t host_mask, fixed;
    } crs[] = {
        {NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW, NVMX_F_GUEST_CR0, 0x80000029, 0x80000021},
        {NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW, NVMX_F_GUEST_CR4, 0x102040, 0x2000},
    };
    for (size_t i = 0; i < COUNT(crs); i++) {
        sim_set(sim, NVMX_VMCS01, crs[i].mask, crs[i].host_mask);
        for (unsigned int k = 0; k < 4; k++) {
            uint64_t l1_mask = k & 1 ? crs[i].host_mask : 0x10, toggled = crs[i].host_mask & ~crs[i].fixed;
            *v12(sim, crs[i].mask) = l1_mask;
            *v12(sim, crs[i].shadow) = 0x10;
            *v12(sim, crs[i].cr) = k & 2 ? *v12(sim, crs[i].cr) | toggled : *v12(sim, crs[i].cr) & ~toggled;
            merge(sim);
            uint64_t mask = vmcs02(sim, crs[i].mask), cr = vmcs02(sim, crs[i].cr), shadow = vmcs02(sim, crs[i].shadow);
            cr_expect_eq(l1_mask & ~mask, 0, "L1's mask is in force");
            cr_expect_eq(mask & ~l1_mask, crs[i].host_mask & ~crs[i].fixed & ~l1_mask,
                         "and the host's where VMX fixes nothing");
            cr_expect_eq(cr, *v12(sim, crs[i].cr));
            uint64_t seen = (cr & ~mask) | (shadow & mask),
                     wanted = (*v12(sim, crs[i].cr) & ~l1_mask) | (0x10 & l1_mask);
            cr_expect_eq(seen, wanted, "row %zu %u: %#lx instead of %#lx", i, k, seen, wanted);
        }
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* L1 changes only CR0: L2 sees it also in a bit that the host masks. */
Test(merge, read_shadow_follows_guest_state) {
    struct sim *sim = l1_ready(NULL);
    sim_set(sim, NVMX_VMCS01, NVMX_F_CR0_GUEST_HOST_MASK, 8);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_CR0_READ_SHADOW) & 8, 0);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_CR0, 0x8005003b);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_CR0_READ_SHADOW) & 8, 8);
    sim_free(sim);
}

/* The same where L2 changed it, with the host's help, and L1 goes on as ever: also an entry that needs little notices. */
Test(merge, read_shadow_follows_what_l2_did) {
    static const struct {
        enum nvmx_field mask, shadow, cr;
        uint64_t bit;
    } rows[] = {{NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW, NVMX_F_GUEST_CR0, 8},
                {NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW, NVMX_F_GUEST_CR4, 0x40}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        sim_set(sim, NVMX_VMCS01, rows[i].mask, rows[i].bit);
        launch(sim);
        for (unsigned int round = 0; round < 3; round++) {
            l2_leaves(sim);
            resume(sim);
        }
        cr_assert(sim->vcpu->vmcs12[sim->vcpu->current].plain, "an entry needs little");
        uint64_t changed = vmcs02(sim, rows[i].cr) ^ rows[i].bit;
        sim_set(sim, sim->selected, rows[i].cr, changed);
        l2_leaves(sim);
        resume(sim);
        cr_expect_eq(vmcs02(sim, rows[i].shadow) & rows[i].bit, changed & rows[i].bit, "row %zu", i);
        sim_free(sim);
    }
}

/* SDM 7.15: a machine check while CR4.MCE is 0 shuts the machine down. A host that keeps the bit set behind its mask keeps it with L1's and L2's CR4 too. */
Test(merge, machine_checks_stay_enabled) {
    enum { MCE = 0x40 };
    for (unsigned int k = 0; k < 8; k++) {
        struct sim *sim = l1_ready(NULL);
        bool l1_masks = k & 1, has = k & 2, by_instruction = k & 4;
        uint64_t cr4 = 0x2020 | (has ? MCE : 0);
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, 0x2000 | MCE);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, vmcs01(sim, NVMX_F_GUEST_CR4) | MCE);
        nvmx_vmcs01_changed(sim->vcpu);
        l1_writes(sim, NVMX_VMCS_HOST_CR4, 0x2020);
        l1_writes(sim, NVMX_VMCS_GUEST_CR4, cr4);
        l1_writes(sim, NVMX_VMCS_CR4_GUEST_HOST_MASK, l1_masks ? MCE : 0);
        launch(sim);
        for (unsigned int round = 0; round < 3; round++) {
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR4), 0x2020 | MCE, "%u, round %u", k, round);
            cr_expect_eq(vmcs02(sim, NVMX_F_CR4_READ_SHADOW) & MCE, !l1_masks && has ? MCE : 0, "%u: what L2 reads", k);
            cr_assert_eq(by_instruction ? sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2) : sim_exit(sim, NVMX_EXIT_TRIPLE_FAULT, 0, 0, 0), NVMX_ENTER);
            cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_CR4), 0x2020 | MCE, "%u", k);
            cr_expect_eq(vmcs01(sim, NVMX_F_CR4_READ_SHADOW), 0x2020, "%u", k);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CR4), cr4, "%u, round %u", k, round);
            resume(sim);
        }
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        free(blob);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR4), 0x2020 | MCE, "%u: restored", k);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CR4), cr4, "%u: restored", k);
        resume(sim);
        if (!l1_masks) { /* L2 changes it with the host's help */
            sim_set(sim, sim->selected, NVMX_F_CR4_READ_SHADOW, has ? 0 : MCE);
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CR4), cr4 ^ MCE, "%u", k);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_CR4_READ_SHADOW) & MCE, has ? 0 : MCE, "%u", k);
        }
        sim_free(sim);
    }
}

/* The host begins to keep it, and ends. */
Test(merge, machine_checks_are_enabled_from_then_on) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_GUEST_CR4, 0x2020);
    launch(sim);
    for (unsigned int round = 0; round < 4; round++) {
        l2_leaves(sim);
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, round & 1 ? 0x2000 : 0x2040);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, vmcs01(sim, NVMX_F_GUEST_CR4) | 0x40);
        nvmx_vmcs01_changed(sim->vcpu);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR4), round & 1 ? 0x2020 : 0x2060, "round %u", round);
    }
    sim_free(sim);
}

/* The same of an L2 that comes from a host that did not keep it. */
Test(merge, machine_checks_are_enabled_in_a_restored_l2) {
    struct sim *sim = l1_ready(NULL);
    size_t bytes;
    l1_writes(sim, NVMX_VMCS_GUEST_CR4, 0x2020);
    launch(sim);
    uint8_t *blob = sim_save(sim, &bytes);
    sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, 0x2040);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, 0x2060);
    cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    free(blob);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR4), 0x2060);
    cr_expect_eq(vmcs02(sim, NVMX_F_CR4_READ_SHADOW) & 0x40, 0);
    blob = sim_save(sim, &bytes);
    sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, 0x2000);
    cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK);
    cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
    free(blob);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR4), 0x2020, "back where nobody keeps it");
    sim_free(sim);
}

/* -- registers that controls switch
 * --------------------------------------------------------------------------------------------------- */

struct gate_row {
    enum nvmx_field guest;
    uint32_t entry_bit;
    uint32_t host_value_field;
    uint64_t l1, l2;
};

static const struct gate_row gate_rows[] = {
    {NVMX_F_GUEST_PAT, 14, 0, UINT64_C(0x0007040600070406), 0x0606060606060606},
    {NVMX_F_GUEST_EFER, 15, 0, 0xd01, 0x500},
    {NVMX_F_GUEST_DEBUGCTL, 2, 0, 2, 1},
    {NVMX_F_GUEST_DR7, 2, 0, 0x455, 0x401},
    {NVMX_F_GUEST_PERF_GLOBAL_CTRL, 13, 0, 3, 1},
};

/* SDM 29.3.2.1: loaded from vmcs12, or what L1 has. Where neither switches it the processor's register stays, and
 * vmcs02 loads nothing. */
Test(merge, switched_registers) {
    for (size_t i = 0; i < COUNT(gate_rows); i++) {
        const struct gate_row *row = &gate_rows[i];
        for (unsigned int k = 0; k < 4; k++) {
            bool host_switches = k & 1, l1_loads = k & 2;
            struct sim *sim = l1_ready(NULL);
            uint32_t bit = B(row->entry_bit);
            *v12(sim, row->guest) = row->l2;
            sim_set(sim, NVMX_VMCS01, row->guest, row->l1);
            both_merged(sim, NVMX_F_VM_ENTRY_CONTROLS, bit, host_switches ? bit : 0, l1_loads ? bit : 0);
            cr_expect_eq((vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & bit) != 0, host_switches || l1_loads, "row %zu %u", i,
                         k);
            uint64_t wanted = l1_loads ? row->l2 : row->guest == NVMX_F_GUEST_EFER ? 0xd01 : row->l1;
            if (host_switches || l1_loads)
                cr_expect_eq(vmcs02(sim, row->guest), wanted, "row %zu %u: %#lx", i, k, vmcs02(sim, row->guest));
            cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
            sim_free(sim);
        }
    }
}

/* Without "load IA32_EFER" LMA and LME follow "IA-32e mode guest", the rest is L1's. */
Test(merge, inherited_efer) {
    struct sim *sim = l1_ready(NULL);
    for (unsigned int ia32e = 0; ia32e < 2; ia32e++) {
        both_merged(sim, NVMX_F_VM_ENTRY_CONTROLS, B(15), B(15), 0);
        both_merged(sim, NVMX_F_VM_ENTRY_CONTROLS, B(9), B(9), ia32e ? B(9) : 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_EFER), ia32e ? 0xd00 : 0x800);
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* What an exit saved of a register that the next entry inherits is not lost where that entry fails. */
Test(merge, saved_but_not_loaded) {
    struct sim *sim = l1_ready(NULL);
    static const uint64_t bad_list[] = {0xc0000100, 0};
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, B(14));
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, B(18));
    sim_write(sim, SIM_L1_MSR_LISTS, bad_list, sizeof(bad_list));
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
    launch(sim);
    sim_set(sim, sim->selected, NVMX_F_GUEST_PAT, 0x0606);
    l2_leaves(sim);
    sim->vcpu->vmcs12[0].value[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] = 1; /* without the checks that fetch all */
    cr_assert_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PAT), 0x0606);
    sim_free(sim);
}

/* Registers that only the host switches: L2 has L1's, and L1 gets back what L2 left. */
Test(merge, registers_of_the_host) {
    static const struct {
        enum nvmx_field slot;
        uint32_t bit;
    } rows[] = {
        {NVMX_F_GUEST_BNDCFGS, 16},   {NVMX_F_GUEST_RTIT_CTL, 18},  {NVMX_F_GUEST_UINV, 19},
        {NVMX_F_GUEST_S_CET, 20},     {NVMX_F_GUEST_SSP, 20},       {NVMX_F_GUEST_INTERRUPT_SSP_TABLE_ADDR, 20},
        {NVMX_F_GUEST_LBR_CTL, 21},   {NVMX_F_GUEST_PKRS, 22},      {NVMX_F_GUEST_FRED_CONFIG, 23},
        {NVMX_F_GUEST_FRED_SSP3, 23}, {NVMX_F_GUEST_SPEC_CTRL, 24},
    };
    struct nvmx_caps machine, mask;
    sim_machine(&machine);
    mask = machine;
    machine.msr[NVMX_CAP_ENTRY] |= UINT64_C(0x1fd0000) << 32;
    machine.msr[NVMX_CAP_TRUE_ENTRY] |= UINT64_C(0x1fd0000) << 32;
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine, .mask = &mask});
    for (size_t i = 0; i < COUNT(rows); i++) {
        sim_set(sim, NVMX_VMCS01, rows[i].slot, 0x10 + i);
        sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS, vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) | B(rows[i].bit));
    }
    launch(sim);
    for (size_t i = 0; i < COUNT(rows); i++) {
        cr_expect_eq(vmcs02(sim, rows[i].slot), 0x10 + i, "row %zu", i);
        cr_expect(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & B(rows[i].bit), "row %zu", i);
        sim_set(sim, sim->selected, rows[i].slot, 0x30 + i);
    }
    l2_leaves(sim);
    for (size_t i = 0; i < COUNT(rows); i++)
        cr_expect_eq(vmcs01(sim, rows[i].slot), 0x30 + i, "row %zu", i);
    sim_free(sim);
}

/* -- controls of the host with fields of their own
 * ------------------------------------------------------------------------------------- */

/* L1 is offered none of it: what vmcs01 asks for holds in L2 too. */
Test(merge, fields_of_the_hosts_controls) {
    struct nvmx_caps machine, mask;
    sim_machine(&machine);
    mask = machine;
    machine.msr[NVMX_CAP_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_PROCBASED2] |= UINT64_C(0x98000000) << 32;
    machine.msr[NVMX_CAP_EXIT] |= UINT64_C(1) << 63;
    machine.msr[NVMX_CAP_TRUE_EXIT] |= UINT64_C(1) << 63;
    machine.msr[NVMX_CAP_PROCBASED3] = 0x11;
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine, .mask = &mask});
    for (unsigned int loadiwkey = 0; loadiwkey < 2; loadiwkey++) {
        both_merged(sim, NVMX_F_PRIMARY_CONTROLS, B(17), B(17), 0);
        both_merged(sim, NVMX_F_SECONDARY_CONTROLS, B(27) | B(28) | B(31), B(27) | B(28) | B(31), 0);
        sim_set(sim, NVMX_VMCS01, NVMX_F_TERTIARY_CONTROLS, 0x10 | loadiwkey);
        sim_set(sim, NVMX_VMCS01, NVMX_F_PCONFIG_EXITING_BITMAP, 0x1111);
        sim_set(sim, NVMX_VMCS01, NVMX_F_ENCLV_EXITING_BITMAP, 0x2222);
        sim_set(sim, NVMX_VMCS01, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL, 0x3333);
        sim_set(sim, NVMX_VMCS01, NVMX_F_SECONDARY_VM_EXIT_CONTROLS, 0x4);
        merge(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) >> 17 & 1, loadiwkey, "only the intercept of LOADIWKEY");
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), loadiwkey);
        cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 27, B(1) | B(4), "PCONFIG is L1's to enable");
        cr_expect_eq(vmcs02(sim, NVMX_F_ENCLV_EXITING_BITMAP), 0x2222);
        cr_expect_eq(vmcs02(sim, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL), 0x3333);
        cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_VM_EXIT_CONTROLS), 0x4);
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* -- what is written
 * ------------------------------------------------------------------------------------------------------------------------
 */

#define POISON UINT64_C(0xc3c3c3c3c3c3c3c3)

/* Fields that vmcs02 does not use with these controls, by the control that would use them. */
static bool unused(const struct sim *sim, unsigned int slot) {
    uint64_t primary = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), secondary = vmcs02(sim, NVMX_F_SECONDARY_CONTROLS);
    uint64_t pin = vmcs02(sim, NVMX_F_PIN_BASED_CONTROLS), entry = vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS);

    switch (slot) {
    case NVMX_F_IO_BITMAP_A_ADDRESS:
    case NVMX_F_IO_BITMAP_B_ADDRESS:
        return !(primary & B(25));
    case NVMX_F_MSR_BITMAP_ADDRESS:
        return !(primary & B(28));
    case NVMX_F_VIRTUAL_APIC_ADDRESS:
        return !(primary & B(21));
    case NVMX_F_APIC_ACCESS_ADDRESS:
        return !(secondary & B(0));
    case NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR:
    case NVMX_F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS:
        return !(pin & B(7));
    case NVMX_F_EPTP_LIST_ADDRESS:
    case NVMX_F_EPTP_INDEX:
    case NVMX_F_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS:
        return !(secondary & B(18)) &&
               (slot != NVMX_F_EPTP_LIST_ADDRESS || vmcs02(sim, NVMX_F_VM_FUNCTION_CONTROLS) == 0);
    case NVMX_F_PML_ADDRESS:
    case NVMX_F_PML_INDEX:
        return !(secondary & B(17));
    case NVMX_F_VMREAD_BITMAP_ADDRESS:
    case NVMX_F_VMWRITE_BITMAP_ADDRESS:
        return !(secondary & B(14));
    case NVMX_F_GUEST_INTERRUPT_STATUS:
        return !(secondary & B(9));
    case NVMX_F_PREEMPTION_TIMER_VALUE:
        return !(pin & B(6));
    case NVMX_F_GUEST_PERF_GLOBAL_CTRL:
        return !(entry & B(13));
    case NVMX_F_GUEST_BNDCFGS:
        return !(entry & B(16));
    case NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE:
    case NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH:
        return !(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31);
    case NVMX_F_VM_EXIT_MSR_STORE_ADDRESS: /* lists of length 0, the host's */
    case NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS:
    case NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS:
    case NVMX_F_EXECUTIVE_VMCS_POINTER: /* SMM */
    case NVMX_F_GUEST_SMBASE:
    case NVMX_F_HOST_SYSENTER_CS: /* the host's */
    case NVMX_F_HOST_RSP:
        return true;
    default:
        return false;
    }
}

/* A fresh vmcs02 (poison) is written wherever the processor looks; the host-state area is what the host set up. */
Test(merge, a_fresh_vmcs02_gets_everything) {
    for (unsigned int configuration = 0; configuration < 4; configuration++) {
        struct sim *sim =
            l1_ready(&(struct sim_options){.external_interrupts = configuration & 1, .shadow = configuration & 2});
        launch(sim);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            const struct nvmx_field_info *info = nvmx_field_info(slot);
            bool host_state = ((info->encoding >> 10) & 3) == 3;
            if (!sim_has_field(sim, slot) || nvmx_encoding_read_only(info->encoding) || unused(sim, slot))
                continue;
            cr_expect_neq(vmcs02(sim, (enum nvmx_field)slot), POISON & nvmx_field_mask(slot), "%s was not written",
                          info->name);
            if (host_state)
                cr_expect_eq(vmcs02(sim, (enum nvmx_field)slot), vmcs01(sim, (enum nvmx_field)slot), "%s is the host's",
                             info->name);
            if (host_state || slot == NVMX_F_VM_EXIT_MSR_LOAD_COUNT || slot == NVMX_F_VM_EXIT_MSR_STORE_COUNT ||
                slot == NVMX_F_VM_ENTRY_MSR_LOAD_COUNT)
                cr_expect_not(nvmx_set_has(&sim->vmcs[sim->selected].written, slot), "%s", info->name);
        }
        sim_free(sim);
    }
}

/* Only what L1 changed: one field of each kind at a time. */
Test(merge, only_what_changed_is_written) {
    struct sim *sim = l1_ready(NULL);
    static const struct {
        uint32_t encoding;
        enum nvmx_field slot;
        uint64_t value;
    } rows[] = {
        {NVMX_VMCS_GUEST_RIP, NVMX_F_GUEST_RIP, 0x1234},
        {NVMX_VMCS_GUEST_GS_BASE, NVMX_F_GUEST_GS_BASE, 0x5000},
        {NVMX_VMCS_GUEST_CR3, NVMX_F_GUEST_CR3, 0x9000},
        {NVMX_VMCS_EXCEPTION_BITMAP, NVMX_F_EXCEPTION_BITMAP, 0x8},
        {NVMX_VMCS_CR0_READ_SHADOW, NVMX_F_CR0_READ_SHADOW, 0},
        {NVMX_VMCS_TSC_OFFSET, NVMX_F_TSC_OFFSET, 0},
    };
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, B(2) | B(14));
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, B(2) | B(18) | B(19));
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, 6);
    l1_writes(sim, NVMX_VMCS_HOST_PAT, 6);
    launch(sim);
    l2_leaves(sim);
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t before = sim_get(sim, NVMX_VMCS02_FIRST, rows[i].slot);
        l1_writes(sim, rows[i].encoding, rows[i].value);
        sim->vmcs[NVMX_VMCS02_FIRST].written = (struct nvmx_field_set){{0}};
        resume(sim);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            bool expected = slot == (unsigned int)rows[i].slot && vmcs02(sim, rows[i].slot) != before;
            cr_expect_eq(nvmx_set_has(&sim->vmcs[NVMX_VMCS02_FIRST].written, slot), expected, "row %zu: %s", i,
                         nvmx_field_info(slot)->name);
        }
        l2_leaves(sim);
    }
    sim_free(sim);
}

/* The host changed vmcs01's controls and says so: vmcs02 follows at the next entry, for each cached vmcs12. */
Test(merge, vmcs01_changed) {
    struct sim *sim = l2_running(NULL);
    l2_leaves(sim);
    host_sets(sim, NVMX_F_EXCEPTION_BITMAP, B(18));
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP), B(18));
    l2_leaves(sim);
    host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 0);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP), 0);
    sim_free(sim);
}

/* The same while L2 runs: an exit writes vmcs01's VM-entry controls, and what they load, as they are now. */
Test(merge, vmcs01_changed_while_l2_runs) {
    for (unsigned int loads = 0; loads < 2; loads++) {
        struct sim *sim = l1_ready(NULL);
        uint64_t pat = B(14), before = vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~pat;
        host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, before | (loads ? 0 : pat));
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, B(19));
        l1_writes(sim, NVMX_VMCS_HOST_PAT, 0x0606);
        launch(sim);
        l2_leaves(sim);
        resume(sim);
        host_sets(sim, NVMX_F_VM_ENTRY_CONTROLS, before | (loads ? pat : 0));
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_PAT, 0x0404);
        l2_leaves(sim);
        cr_expect_eq(vmcs01(sim, NVMX_F_VM_ENTRY_CONTROLS) & pat, loads ? pat : 0, "loads %u", loads);
        cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_PAT), loads ? 0x0606 : 0x0404, "loads %u", loads);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & pat, loads ? pat : 0, "loads %u", loads);
        sim_free(sim);
    }
}

/* VMX fixes PE and PG for any other L2, which then needs no mask; for an unrestricted guest the host's mask must hold.
 */
Test(merge, host_masks_of_pe_and_pg_hold_for_an_unrestricted_l2) {
    for (unsigned int unrestricted = 0; unrestricted < 2; unrestricted++) {
        struct sim *sim = l1_ready(NULL);

        sim_set(sim, NVMX_VMCS01, NVMX_F_CR0_GUEST_HOST_MASK, 0x80000021);
        nvmx_vmcs01_changed(sim->vcpu);
        l1_writes(sim, NVMX_VMCS_CR0_GUEST_HOST_MASK, 0);
        if (unrestricted) {
            l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        } else {
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_UNRESTRICTED);
        }
        launch(sim);
        cr_expect_eq(sim_get(sim, sim->selected, NVMX_F_CR0_GUEST_HOST_MASK), unrestricted ? 0x80000001 : 0);
        sim_free(sim);
    }
}

/* -- VPIDs ------------------------------------------------------------------------------------------------------------
 */

static uint64_t resume_with_vpid(struct sim *sim, uint64_t vpid12) {
    l1_writes(sim, NVMX_VMCS_VPID, vpid12);
    if (current(sim)->launched)
        resume(sim);
    else
        launch(sim);
    uint64_t vpid02 = vmcs02(sim, NVMX_F_VPID);
    l2_leaves(sim);
    return vpid02;
}

static bool flushed(const struct sim *sim, uint64_t from, uint64_t vpid02) {
    for (uint64_t i = from; i < sim->count[SIM_TLB_FLUSH] && i < SIM_LOG; i++)
        if (sim->flush[i].kind == NVMX_FLUSH_VPID && sim->flush[i].value == vpid02)
            return true;
    return false;
}

/* The simulated host gives VPIDs 2 to 5; the first serves those without. A VPID12 keeps its VPID02, unflushed, until
 * another takes it. */
Test(merge, vpids) {
    struct sim *sim = l1_ready(NULL);
    uint64_t vpid02[8] = {0};
    for (unsigned int i = 1; i < 4; i++) {
        uint64_t before = sim->count[SIM_TLB_FLUSH];
        vpid02[i] = resume_with_vpid(sim, 100 + i);
        cr_expect(vpid02[i] > 2 && vpid02[i] < 6 && vpid02[i] != vpid02[i - 1], "VPID %lu", vpid02[i]);
        cr_expect(flushed(sim, before, vpid02[i]), "what it was used for before is dropped");
    }
    cr_expect_neq(vpid02[1], vpid02[3]);
    for (unsigned int i = 1; i < 4; i++) {
        uint64_t before = sim->count[SIM_TLB_FLUSH];
        cr_expect_eq(resume_with_vpid(sim, 100 + i), vpid02[i]);
        cr_expect_eq(sim->count[SIM_TLB_FLUSH], before, "a switch needs no flush");
    }
    uint64_t before = sim->count[SIM_TLB_FLUSH];
    uint64_t taken = resume_with_vpid(sim, 200);
    cr_expect(flushed(sim, before, taken), "another took it over");
    for (unsigned int i = 1; i < 4; i++)
        if (vpid02[i] == taken) {
            before = sim->count[SIM_TLB_FLUSH];
            uint64_t again = resume_with_vpid(sim, 100 + i);
            cr_expect(again != taken && flushed(sim, before, again), "its first user gets a fresh one");
        }
    sim_free(sim);
}

/* A control that L1 writes alone, after the others were merged. */
Test(merge, each_control_that_stands_alone) {
#define ROW(name, value) {NVMX_VMCS_##name, NVMX_F_##name, value}
    static const struct {
        uint32_t encoding;
        enum nvmx_field slot;
        uint64_t value;
    } rows[] = {
        ROW(EXCEPTION_BITMAP, 0x42),        ROW(PAGE_FAULT_ERROR_CODE_MASK, 5), ROW(PAGE_FAULT_ERROR_CODE_MATCH, 4), ROW(TSC_OFFSET, 0x1234),
        ROW(CR0_GUEST_HOST_MASK, 0x10),     ROW(CR4_GUEST_HOST_MASK, 0x200),    ROW(CR3_TARGET_VALUE_0, 0x1000),     ROW(CR3_TARGET_VALUE_1, 0x2000),
        ROW(CR3_TARGET_VALUE_2, 0x3000),    ROW(CR3_TARGET_VALUE_3, 0x4000),    ROW(CR3_TARGET_COUNT, 3),            ROW(TPR_THRESHOLD, 2),
    };
#undef ROW
    struct sim *sim = l1_ready(NULL);
    sim_write64(sim, SIM_L1_VIRTUAL_APIC + 0x80, 0x20); /* the virtual TPR, which the threshold may not exceed */
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, B(3) | B(21));
    host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(B(3) | B(15)));
    launch(sim);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const char *name = nvmx_field_info(rows[i].slot)->name;

        cr_assert_neq(vmcs02(sim, rows[i].slot) & rows[i].value, rows[i].value, "%s has it before", name);
        l2_leaves(sim);
        l1_writes(sim, rows[i].encoding, rows[i].value);
        resume(sim);
        cr_expect_eq(vmcs02(sim, rows[i].slot) & rows[i].value, rows[i].value, "%s", name);
    }
    sim_free(sim);
}

/* Nothing of a VPID can have changed where there are none: such entries need as little as others. */
Test(merge, an_entry_without_vpids_needs_little) {
    struct sim *sim = l2_running(&(struct sim_options){.no_vpid = true});
    l2_leaves(sim);
    resume(sim);
    l2_leaves(sim);
    resume(sim);
    cr_expect(merge_is_plain(sim->vcpu, current(sim)));
    sim_free(sim);
}

/* A host with one VPID for L2: it serves all of L1's, and each entry flushes. */
Test(merge, a_single_vpid) {
    struct sim *sim = l1_ready(NULL);
    sim->vcpu->vpid02_count = 1;
    for (unsigned int i = 0; i < 4; i++) {
        uint64_t before = sim->count[SIM_TLB_FLUSH];
        uint64_t vpid02 = resume_with_vpid(sim, 100 + i / 2);
        cr_expect_eq(vpid02, sim->vcpu->vpid02_first);
        cr_expect(flushed(sim, before, vpid02), "round %u", i);
    }
    sim_free(sim);
}

/* SDM 31.4.3.1: without VPIDs every transition flushes: L2's on an entry, L1's on an exit. */
Test(merge, without_vpids) {
    struct sim *sim = l1_ready(NULL);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(5));
    launch(sim);
    for (unsigned int round = 0; round < 3; round++) {
        cr_expect_eq(vmcs02(sim, NVMX_F_VPID), 2);
        uint64_t before = sim->count[SIM_TLB_FLUSH];
        l2_leaves(sim);
        cr_expect(flushed(sim, before, 1), "L1's VPID");
        before = sim->count[SIM_TLB_FLUSH];
        resume(sim);
        cr_expect(flushed(sim, before, 2), "L2's VPID");
    }
    sim_free(sim);
    sim = l2_running(&(struct sim_options){.no_vpid = true});
    cr_expect_eq(vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & B(5), 0, "the host has no VPIDs for L2: hardware flushes");
    sim_free(sim);
}

/* -- a resume that changes little
 * ---------------------------------------------------------------------------------------- */

/* Merging a hot word of the MSR bitmap anew leaves the use of the I/O bitmaps alone. */
Test(merge, hot_msr_words_beside_io_bitmaps) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
    l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, B(24));
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, B(25));
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = 0x174;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER);
    uint64_t primary = vmcs02(sim, NVMX_F_PRIMARY_CONTROLS);
    cr_expect_eq(primary & (B(24) | B(25) | B(28)), B(25) | B(28));
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), primary);
    cr_expect_eq(sim->vcpu->vmcs12[0].bitmap_bits, B(25) | B(28));
    sim_free(sim);
}

/* SDM 30.3.3, 19.3.1.1: the exit saved RF as 0, and L2 executes the same again: its breakpoint there has been met already. */
Test(merge, what_is_let_through_meets_no_breakpoint_twice) {
    for (unsigned int ports = 0; ports < 2; ports++) {
        struct sim *sim = l1_ready(NULL);
        host_gives_bitmaps(sim);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | B(25));
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, B(24));
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, B(25));
        launch(sim);
        uint64_t rflags = vmcs02(sim, NVMX_F_GUEST_RFLAGS);
        sim->regs.gpr[NVMX_RCX] = 0x174;
        cr_assert_eq(ports ? sim_exit(sim, NVMX_EXIT_IO_INSTRUCTION, 0x1230000, 0, 1) : sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS), rflags | RFLAGS_RF, "ports %u", ports);
        sim_free(sim);
    }
}

/* -- ports ------------------------------------------------------------------------------------------------------------
 */

/*
 * What vmcs02 does about ports: everything exits if L1 or the host wants that, bitmaps serve if one of them has some,
 * else nothing exits. With bitmaps "unconditional I/O exiting" is ignored (SDM 27.6.2).
 */
Test(merge, ports) {
    enum { NONE, ALL = B(24), BITMAPS = B(25), BOTH = B(24) | B(25) };
    static const struct {
        uint32_t host, l1, wanted;
        bool host_pages; /* whose pages vmcs02 uses: the host's as they are */
        bool l1_pages;   /* L1's as they are */
    } rows[] = {
        {NONE, NONE, NONE, false, false},
        {NONE, ALL, ALL, false, false},
        {NONE, BITMAPS, BITMAPS, false, true},
        {NONE, BOTH, BITMAPS, false, true},
        {ALL, NONE, ALL, false, false},
        {ALL, ALL, ALL, false, false},
        {ALL, BITMAPS, ALL, false, false},
        {ALL, BOTH, ALL, false, false},
        {BITMAPS, NONE, BITMAPS, true, false},
        {BITMAPS, ALL, ALL, false, false},
        {BITMAPS, BITMAPS, BITMAPS, false, false},
        {BITMAPS, BOTH, BITMAPS, false, false},
        {BOTH, NONE, BITMAPS, true, false},
        {BOTH, BITMAPS, BITMAPS, false, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        host_gives_bitmaps(sim);
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
        l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
        cr_expect_eq(both_merged(sim, NVMX_F_PRIMARY_CONTROLS, BOTH, rows[i].host, rows[i].l1), rows[i].wanted,
                     "row %zu", i);
        for (unsigned int k = 0; k < 2 && rows[i].wanted == BITMAPS; k++) {
            uint64_t page = vmcs02(sim, (enum nvmx_field)(NVMX_F_IO_BITMAP_A_ADDRESS + k));
            bool hosts = page == vmcs01(sim, (enum nvmx_field)(NVMX_F_IO_BITMAP_A_ADDRESS + k));
            cr_expect_eq(hosts, rows[i].host_pages, "row %zu", i);
            cr_expect_eq(page == SIM_HPA_OFFSET + SIM_L1_IO_BITMAP_A + k * 0x1000, rows[i].l1_pages, "row %zu", i);
        }
        cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
        sim_free(sim);
    }
}

/* A host that composes ept02 itself is asked before every entry. */
/* L1's I/O bitmaps serve in place while the host has none: then their pages stay mapped, and no longer. */
Test(merge, pages_of_ports_are_given_back) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    const uint64_t host = vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(B(24) | B(25));
    const uint64_t l1 = *v12(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(B(24) | B(25));
    *v12(sim, NVMX_F_IO_BITMAP_A_ADDRESS) = SIM_L1_IO_BITMAP_A;
    *v12(sim, NVMX_F_IO_BITMAP_B_ADDRESS) = SIM_L1_IO_BITMAP_B;
    for (unsigned int i = 0; i < 16; i++) {
        const uint32_t hosts = (i & 1 ? B(24) : 0) | (i & 2 ? B(25) : 0), l1s = (i & 4 ? B(24) : 0) | (i & 8 ? B(25) : 0);
        /* From a vmcs02 with pinned pages. */
        sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, host);
        *v12(sim, NVMX_F_PRIMARY_CONTROLS) = l1 | B(25);
        merge(sim);
        cr_expect_eq(sim->mapped_read[SIM_L1_IO_BITMAP_A / 0x1000] + sim->mapped_read[SIM_L1_IO_BITMAP_B / 0x1000], 2);
        sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, host | hosts);
        *v12(sim, NVMX_F_PRIMARY_CONTROLS) = l1 | l1s;
        merge(sim);
        unsigned int wanted = hosts == 0 && (l1s & B(25)) != 0 ? 1 : 0;
        cr_expect_eq(sim->mapped_read[SIM_L1_IO_BITMAP_A / 0x1000], wanted, "host %#x, L1 %#x", hosts, l1s);
        cr_expect_eq(sim->mapped_read[SIM_L1_IO_BITMAP_B / 0x1000], wanted, "host %#x, L1 %#x", hosts, l1s);
        /* What exits (SDM 27.6.2: with bitmaps "unconditional I/O exiting" is ignored). */
        const bool all = (hosts == B(24) || (l1s == B(24))), some = ((hosts | l1s) & B(25)) != 0;
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & (B(24) | B(25)), all ? B(24) : some ? B(25) : 0, "host %#x, L1 %#x", hosts, l1s);
    }
    cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
    sim_free(sim);
}

/* Page 0 is a page as any other, for whatever vmcs02 uses in place. */
Test(merge, pages_at_address_0) {
    static const struct {
        enum nvmx_field address, control;
        uint32_t bits;
    } rows[] = {{NVMX_F_IO_BITMAP_A_ADDRESS, NVMX_F_PRIMARY_CONTROLS, B(25)},
                {NVMX_F_IO_BITMAP_B_ADDRESS, NVMX_F_PRIMARY_CONTROLS, B(25)},
                {NVMX_F_VIRTUAL_APIC_ADDRESS, NVMX_F_PRIMARY_CONTROLS, B(21)},
                {NVMX_F_APIC_ACCESS_ADDRESS, NVMX_F_SECONDARY_CONTROLS, B(0)}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(uint64_t)(B(24) | B(25)));
        *v12(sim, NVMX_F_IO_BITMAP_A_ADDRESS) = SIM_L1_IO_BITMAP_A;
        *v12(sim, NVMX_F_IO_BITMAP_B_ADDRESS) = SIM_L1_IO_BITMAP_B;
        *v12(sim, rows[i].control) |= rows[i].bits;
        *v12(sim, rows[i].address) = 0;
        merge(sim);
        cr_expect_eq(vmcs02(sim, rows[i].address), SIM_HPA_OFFSET, "%s", nvmx_field_info(rows[i].address)->name);
        cr_assert_eq(host_select(sim->vcpu, NVMX_VMCS01), NVMX_OK);
        sim_free(sim);
    }
}

Test(merge, ept02_of_the_host) {
    struct sim *sim = l2_running(&(struct sim_options){.host_composes = true});
    for (unsigned int round = 1; round < 4; round++) {
        cr_expect_eq(sim->count[SIM_EPT02_ROOT], round);
        cr_expect_eq(sim->eptp12_asked, SIM_L1_EPT12 | 0x1e);
        cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), sim->eptp02_given);
        l2_leaves(sim);
        sim->eptp02_given += 0x1000;
        resume(sim);
    }
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(1));
    resume(sim);
    cr_expect_eq(sim->eptp12_asked, NVMX_NO_ADDRESS, "L2 runs on L1's memory");
    sim_free(sim);
}

/* Its tables may get another root while L2 runs, with and without EPT of L1's. */
Test(merge, ept02_of_the_host_gets_another_root_while_l2_runs) {
    for (unsigned int l1_ept = 0; l1_ept < 2; l1_ept++) {
        struct sim *sim = l1_ready(&(struct sim_options){.host_composes = true});
        if (!l1_ept)
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(1));
        launch(sim);
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
        sim->eptp02_given += 0x1000;
        nvmx_vmcs01_changed(sim->vcpu);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), sim->eptp02_given, "EPT of L1: %u", l1_ept);
        cr_expect_eq(sim->eptp12_asked, l1_ept ? SIM_L1_EPT12 | 0x1e : NVMX_NO_ADDRESS);
        cr_expect_eq(sim->count[SIM_EPT02_ROOT], 2);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(sim->count[SIM_EPT02_ROOT], 2, "asked once");
        sim_free(sim);
    }
}

/* -- PDPTEs
 * ------------------------------------------------------------------------------------------------------------ */

static void expect_pdptes(const struct sim *sim, uint64_t first, const char *what) {
    for (unsigned int i = 0; i < 4; i++)
        cr_expect_eq(vmcs02(sim, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i)), first + i * 0x1000, "%s, PDPTE%u: %#lx",
                     what, i, vmcs02(sim, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i)));
}

/* SDM 29.3.1.6, 29.3.2.4: with EPT PAE paging takes the fields, which an exit saves; without it what CR3 leads to, anew
 * at each entry. */
Test(merge, pdptes_of_an_l2_with_pae_paging) {
    struct sim *sim = l1_ready(NULL);
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, B(9));
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    l1_writes(sim, NVMX_VMCS_GUEST_CR3, 0x30020);
    for (uint32_t i = 0; i < 4; i++) {
        l1_writes(sim, NVMX_VMCS_GUEST_PDPTE0 + 2 * i, 0x41001 + i * 0x1000);
        sim_write64(sim, 0x30020 + i * 8, 0x51001 + i * 0x1000);
    }
    launch(sim);
    expect_pdptes(sim, 0x41001, "with EPT");
    for (unsigned int i = 0; i < 4; i++)
        sim_set(sim, sim->selected, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i), 0x61001 + i * 0x1000);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(1));
    resume(sim);
    expect_pdptes(sim, 0x51001, "without EPT");
    l2_leaves(sim);
    sim_write64(sim, 0x30020, 0);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PDPTE0), 0, "read anew");
    l2_leaves(sim);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(1));
    resume(sim);
    expect_pdptes(sim, 0x61001, "with EPT again");
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, B(1));
    sim_write64(sim, 0x30028, 0x51003); /* a reserved bit */
    cr_expect_eq(sim_vmresume(sim), SIM_ENTRY_FAILED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 2);
    sim_free(sim);
}
