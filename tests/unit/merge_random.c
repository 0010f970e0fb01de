/* SPDX-License-Identifier: MIT */
/*
 * A vmcs12 that L1 may enter gives a vmcs02 that the machine may enter: the model's own checks, with the machine's
 * capabilities, pass on every vmcs02. Vmcs12s are good ones with a few fields changed.
 */
#include <string.h>

#include "draw.h"
#include "machine.h"

/* The rows that vmcs02 breaks, but for those about the host-state area, which the simulated host does not set up as
 * hardware wants it. */
static void expect_enterable(struct sim *sim, const char *what, uint64_t seed) {
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_failure failures[16];
    struct nvmx_check_input in = {
        .field = field,
        .caps = &sim->machine,
        .current_vmcs = UINT64_C(0xfffff000),
        .vmxon_pointer = UINT64_C(0xffffe000),
        .l1_long_mode = true,
        .pdpte_readable = true,
    };
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        field[slot] = sim_has_field(sim, slot) ? vmcs02(sim, (enum nvmx_field)slot) : 0;
    uint64_t apic = field[NVMX_F_VIRTUAL_APIC_ADDRESS] - SIM_HPA_OFFSET;
    if (apic < SIM_RAM_BYTES)
        in.vtpr = sim->ram[apic + 0x80];
    size_t count = nvmx_check_report(&in, failures, COUNT(failures));
    for (size_t i = 0; i < count && i < COUNT(failures); i++) {
        const struct nvmx_check_row *row = nvmx_check_row(failures[i].row);
        cr_expect((row->groups & (1u << NVMX_GROUP_HOST)) != 0, "%s, seed %#lx: %s: %s", what, seed, row->id,
                  row->rule);
    }
}

/* Pages of L1 that address fields may lead to. */
static const uint64_t pages[] = {SIM_L1_MSR_BITMAP,   SIM_L1_IO_BITMAP_A, SIM_L1_IO_BITMAP_B,
                                 SIM_L1_VIRTUAL_APIC, SIM_L1_APIC_ACCESS, SIM_L1_MSR_LISTS};

/* Controls as L1 may set them, each optional one with a probability of 1/4. */
static uint64_t random_controls(const struct sim *sim, enum nvmx_cap cap, uint64_t now, uint64_t *random) {
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
    uint32_t may = nvmx_caps_may_be_1(caps, cap), must = nvmx_caps_must_be_1(caps, cap);
    uint32_t flip = (uint32_t)(draw(random) & draw(random));
    return ((now ^ flip) & may) | must;
}

static void change_controls(struct sim *sim, uint64_t *random) {
    static const struct {
        uint32_t encoding;
        enum nvmx_cap cap;
    } fields[] = {
        {NVMX_VMCS_PIN_BASED_CONTROLS, NVMX_CAP_PINBASED},   {NVMX_VMCS_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED},
        {NVMX_VMCS_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2}, {NVMX_VMCS_VM_EXIT_CONTROLS, NVMX_CAP_EXIT},
        {NVMX_VMCS_VM_ENTRY_CONTROLS, NVMX_CAP_ENTRY},
    };
    size_t i = draw(random) % COUNT(fields);
    l1_writes(sim, fields[i].encoding, random_controls(sim, fields[i].cap, l1_reads(sim, fields[i].encoding), random));
}

static void change_field(struct sim *sim, uint64_t *random) {
    unsigned int slot = (unsigned int)(draw(random) % NVMX_FIELD_COUNT);
    const struct nvmx_field_info *info = nvmx_field_info(slot);
    if (!nvmx_set_has(&sim->vcpu->vm->exists, slot) || nvmx_encoding_read_only(info->encoding) ||
        slot == NVMX_F_HOST_RIP) /* the simulated L1 knows its handler by its address */
        return;
    bool address = ((info->encoding >> 13) & 3) == NVMX_WIDTH_64 && ((info->encoding >> 10) & 3) == 0;
    uint64_t value = address ? pages[draw(random) % COUNT(pages)]
                             : l1_reads(sim, info->encoding) ^ (UINT64_C(1) << draw(random) % 64);
    if (draw(random) % 8 == 0)
        value = draw(random);
    l1_writes(sim, info->encoding, value);
}

/* What the random changes rarely find: combinations that are only good together. */
static void change_together(struct sim *sim, uint64_t *random) {
    switch (draw(random) % 8) {
    case 0: /* virtual APIC */
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, draw(random) % 2 ? PROC2_X2APIC | PROC2_APIC_REGISTER : 0);
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, 0);
        break;
    case 1: /* virtual NMIs and their window */
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_NMI | PIN_VIRTUAL_NMIS);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_NMI_WINDOW);
        break;
    case 2: /* no EPT */
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS,
                  PROC2_EPT | PROC2_UNRESTRICTED | PROC2_MBEC | PROC2_PML | PROC2_VE | PROC2_VM_FUNCTIONS);
        break;
    case 3: /* real mode */
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT | PROC2_UNRESTRICTED);
        l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E);
        l1_writes(sim, NVMX_VMCS_GUEST_CR0, 0x20);
        l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
        l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0x9b);
        l1_writes(sim, NVMX_VMCS_GUEST_CS_LIMIT, 0xffff);
        break;
    case 4: /* an injection */
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, draw(random) % 2 ? 0x80000b0d : 0x80000202);
        l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x10);
        break;
    case 5: /* timer */
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, draw(random) % 2 ? EXIT_SAVE_TIMER : 0);
        break;
    case 6: /* HLT */
        l1_writes(sim, NVMX_VMCS_GUEST_ACTIVITY_STATE, draw(random) % 4);
        break;
    default: /* virtual interrupts */
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
        l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VIRTUAL_INTERRUPTS);
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_X2APIC);
        break;
    }
}

/* What the host has in vmcs01 beyond the usual. */
static void change_host(struct sim *sim, uint64_t *random) {
    static const uint32_t primary_bits =
        1u << 3 | 1u << 7 | 1u << 9 | 1u << 12 | 1u << 15 | 1u << 19 | 1u << 23 | 1u << 30;
    uint64_t primary =
        vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) ^ (draw(random) & draw(random) & primary_bits);
    sim_set(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS, primary);
    sim_set(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP, draw(random) % 4 == 0 ? 1u << 14 | 1u << 18 : 1u << 18);
    sim_set(sim, NVMX_VMCS01, NVMX_F_TSC_OFFSET, draw(random));
    nvmx_vmcs01_changed(sim->vcpu);
}

/* L2 leaves; what the entry injected is done with. */
static void leave(struct sim *sim) {
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        cr_assert_neq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_HOST);
}

struct tally {
    unsigned int entered, refused;
};

/* L1's processor as it was before an exit loaded a host-state area that was good for a VM entry but not for going on.
 */
static void l1_again(struct sim *sim) {
    sim_l1_mode64(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, SIM_L1_PML4);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, 2);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
}

static void one_vmcs12(struct sim *sim, uint64_t seed, struct tally *tally) {
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    l1_again(sim);
    cr_assert(sim_vmclear(sim, SIM_L1_VMCS_A) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    if (draw(&random) % 2)
        change_host(sim, &random);
    for (uint64_t changes = draw(&random) % 4; changes > 0; changes--) {
        if (draw(&random) % 3 == 0)
            change_controls(sim, &random);
        else if (draw(&random) % 2)
            change_field(sim, &random);
        else
            change_together(sim, &random);
    }
    enum sim_outcome outcome = sim_vmlaunch(sim);
    for (unsigned int round = 0; round < 3 && outcome == SIM_L2; round++) {
        expect_enterable(sim, round == 0 ? "VMLAUNCH" : "VMRESUME", seed);
        struct nvmx_pending pending = {.interrupt = draw(&random) % 2};
        pending.nmi = draw(&random) % 2;
        enum nvmx_next next = sim_enter(sim, &pending);
        cr_assert(next == NVMX_ENTER || nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT, "seed %#lx", seed);
        if (next == NVMX_STOP)
            return;
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
            expect_enterable(sim, "nvmx_enter", seed);
        leave(sim);
        tally->entered++;
        if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE)
            return;
        l1_again(sim);
        change_field(sim, &random);
        outcome = sim_vmresume(sim);
    }
    cr_assert_neq(outcome, SIM_TO_HOST);
    tally->refused += outcome != SIM_L2;
    leave(sim);
}

static struct sim *fresh(unsigned int configuration) {
    struct sim *sim = sim_new(&(struct sim_options){
        .external_interrupts = configuration & 1, .shadow = configuration >> 1 & 1, .no_vpid = configuration >> 2 & 1});
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
    if (configuration & 1)
        host_gives_bitmaps(sim);
    memset(sim->vectors, 0x40, sizeof(sim->vectors));
    sim->vectors_count = COUNT(sim->vectors);
    return sim;
}

Test(merge_random, accepted_vmcs12s_give_enterable_vmcs02s, .timeout = 120) {
    struct tally tally = {0};
    for (unsigned int configuration = 0; configuration < 8; configuration++) {
        struct sim *sim = fresh(configuration);
        for (uint64_t seed = 1; seed <= 400; seed++) {
            one_vmcs12(sim, seed << 8 | configuration, &tally);
            sim->vectors_next = 0;
            if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE || nvmx_mode(sim->vcpu) == NVMX_MODE_L2) {
                sim_free(sim); /* a VMX abort */
                sim = fresh(configuration);
            }
        }
        sim_free(sim);
    }
    cr_expect(tally.entered > 2000 && tally.refused > 500, "%u entered, %u refused", tally.entered, tally.refused);
}
