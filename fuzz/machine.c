/* SPDX-License-Identifier: MIT */
/* Machines that many inputs share: profiles of capabilities and options, and a vmcs12 to start from. */
#include <string.h>

#include "fuzz.h"
#include "vcpu.h"

static uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

/* -- profiles --------------------------------------------------------------------------------------------------------------------- */

static uint64_t some_bits(uint64_t *random, unsigned int percent) {
    uint64_t bits = 0;
    for (unsigned int i = 0; i < 64; i++)
        bits |= (uint64_t)((next_random(random) >> 33) % 100 < percent) << i;
    return bits;
}

/* Take away from what the host grants: allowed-1 halves of the plain MSRs, MISC, EPT and VPID, VM functions. */
static void thin(struct nvmx_caps *mask, uint64_t *random, unsigned int percent) {
    static const uint8_t halves[] = {NVMX_CAP_PINBASED, NVMX_CAP_PROCBASED, NVMX_CAP_EXIT, NVMX_CAP_ENTRY, NVMX_CAP_PROCBASED2};
    static const uint8_t whole[] = {NVMX_CAP_EPT_VPID, NVMX_CAP_MISC, NVMX_CAP_VMFUNC, NVMX_CAP_PROCBASED3};
    for (unsigned int i = 0; i < sizeof(halves); i++)
        mask->msr[halves[i]] &= ~(some_bits(random, percent) & ~(uint64_t)UINT32_MAX);
    for (unsigned int i = 0; i < sizeof(whole); i++)
        mask->msr[whole[i]] &= ~some_bits(random, percent);
    if (percent < 50) /* without these two nearly nothing is left of the rest */
        mask->msr[NVMX_CAP_PROCBASED] |= UINT64_C(1) << 63;
}

#define NEWEST_FIRST    48u /* profile */
#define COMPOSING_FIRST 64u /* the host composes ept02: an older processor, a newest one */
#define DEMANDING_FIRST 66u /* a newest processor, and a host that uses controls which L1 may use, too; the second time without VPIDs for L2 */

/* A processor with everything that the library can offer; but for a preemption timer, where the host counts time. */
static void newest(struct fuzz_machine *m, unsigned int profile) {
    const struct nvmx_cap_bit *bit;
    for (size_t row = 0; (bit = nvmx_cap_bit(row)) != NULL; row++)
        if (bit->emulated && bit->width == 1 && (bit->msr < 0x485 || bit->msr > 0x490) && bit->bit >= (bit->msr < 0x485 ? 32 : 0))
            m->machine.msr[bit->msr - 0x480] |= UINT64_C(1) << bit->bit;
    for (size_t row = 0; (bit = nvmx_cap_bit(row)) != NULL; row++)
        if (bit->emulated && bit->width == 1 && (bit->msr == 0x48b || bit->msr == 0x48c))
            m->machine.msr[bit->msr - 0x480] |= UINT64_C(1) << bit->bit;
    m->options.deadline = profile % 4 == 1;
    if (m->options.deadline)
        m->machine.msr[NVMX_CAP_PINBASED] &= ~(UINT64_C(1) << 38);
    for (unsigned int i = 0; i < 4; i++) /* the TRUE MSRs allow the same */
        m->machine.msr[NVMX_CAP_TRUE_PINBASED + i] = (m->machine.msr[NVMX_CAP_PINBASED + i] & ~(uint64_t)UINT32_MAX) | (uint32_t)m->machine.msr[NVMX_CAP_TRUE_PINBASED + i];
    m->machine.cpu = UINT32_MAX;
    m->demanding = profile >= DEMANDING_FIRST;
    m->options.loads_on_entry = profile % 3 == 0 ? 1u << 20 | 1u << 19 : 0;
}

static void set_up(struct fuzz_machine *m, unsigned int profile) {
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15) * (profile + 1);
    static const uint8_t percent[] = {0, 3, 12, 40};
    sim_machine(&m->machine);
    memset(&m->mask, 0xff, sizeof(m->mask));
    thin(&m->mask, &random, percent[profile % 4]);
    m->options = (struct sim_options){
        .machine = &m->machine,
        .mask = &m->mask,
        .shadow = profile % 3 == 2,
        .shadows = profile % 6 == 5,
        .watches_msrs = profile % 4 == 1 || profile % 4 == 2,
        .learns_writes = profile % 12 == 5 || profile % 12 == 8, /* one half of each */
        .external_interrupts = profile / 4 % 2 == 1,
        .no_vpid = profile % 7 == 6,
        .queue_exception = profile % 5 == 4,
        .translate = profile % 11 == 10,
        .vmcs02_slots = (uint16_t)(1 + (profile + 1) % 3),
        .host_composes = profile >= COMPOSING_FIRST && profile < DEMANDING_FIRST,
    };
    if (profile % 2 == 0) { /* a newer processor: posted interrupts, ENCLS, mode-based execute control, user wait */
        m->machine.msr[NVMX_CAP_PINBASED] |= UINT64_C(1) << 39;
        m->machine.msr[NVMX_CAP_TRUE_PINBASED] |= UINT64_C(1) << 39;
        m->machine.msr[NVMX_CAP_PROCBASED2] |= (UINT64_C(1) << 47) | (UINT64_C(1) << 54) | (UINT64_C(1) << 58);
        m->machine.cpu |= NVMX_CPU_SGX | NVMX_CPU_RTM;
    }
    if (profile >= NEWEST_FIRST && profile != COMPOSING_FIRST) {
        m->newest = true;
        newest(m, profile);
        return;
    }
    if (profile % 9 == 8) { /* an older one: without TRUE MSRs */
        m->machine.msr[NVMX_CAP_BASIC] &= ~(UINT64_C(1) << 55);
        memset(&m->machine.msr[NVMX_CAP_TRUE_PINBASED], 0, 4 * sizeof(m->machine.msr[0]));
    }
}

/* -- a vmcs12 to start from -------------------------------------------------------------------------------------------------------- */

/* Every pointer leads to a page of L1, so that setting a control is enough to use it. */
static void set_pointers(struct fuzz_machine *m) {
    static const struct {
        enum nvmx_field slot;
        uint64_t value;
    } all[] = {
        {NVMX_F_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A},
        {NVMX_F_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B},
        {NVMX_F_MSR_BITMAP_ADDRESS, SIM_L1_MSR_BITMAP},
        {NVMX_F_VM_EXIT_MSR_STORE_ADDRESS, SIM_L1_MSR_LISTS},
        {NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x400},
        {NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x800},
        {NVMX_F_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC},
        {NVMX_F_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS},
        {NVMX_F_EPT_POINTER, SIM_L1_EPT12 | 0x1e},
        {NVMX_F_EPTP_LIST_ADDRESS, 0x20000},
        {NVMX_F_VMREAD_BITMAP_ADDRESS, 0x21000},
        {NVMX_F_VMWRITE_BITMAP_ADDRESS, 0x22000},
        {NVMX_F_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0x23000},
        {NVMX_F_PML_ADDRESS, 0x24000},
        {NVMX_F_SPP_TABLE_POINTER, 0x2a000},
        {NVMX_F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 0x25040},
        {NVMX_F_PML_INDEX, 511},
        {NVMX_F_VPID, 7},
        {NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR, 0xf2},
        {NVMX_F_TSC_MULTIPLIER, UINT64_C(1) << 48},
        {NVMX_F_GUEST_PAT, UINT64_C(0x0007040600070406)},
        {NVMX_F_HOST_PAT, UINT64_C(0x0007040600070406)},
    };
    nvmx_fields_existing(nvmx_l1_caps(m->sim->vm), &m->exists);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (nvmx_set_has(&m->exists, all[i].slot))
            m->field[all[i].slot] = all[i].value;
}

/* A shadow VMCS, for L2; and two entries of an EPTP list. */
static void fill_regions(struct sim *sim) {
    sim_region(sim, FUZZ_SHADOW_REGION);
    sim_write32(sim, FUZZ_SHADOW_REGION, sim_read32(sim, FUZZ_SHADOW_REGION) | 0x80000000u);
    for (uint64_t table = 0x2a000; table < 0x2d000; table += 0x1000) /* of sub-page permissions */
        sim_write64(sim, table, (table + 0x1000) | 1);
    for (uint64_t page = 0; page < 16; page++)
        sim_write64(sim, 0x2d000 + page * 8, UINT64_C(0x5555555555555555) << page);
    sim_write64(sim, 0x20000, SIM_L1_EPT12 | 0x1e);
    sim_write64(sim, 0x20008, SIM_L1_EPT12 | 0x5e);
}

/* Entries of the MSR lists: harmless ones, and one that may not be loaded. */
static void fill_lists(struct sim *sim) {
    static const uint32_t index[] = {0x174, 0x277, 0xc0000081, 0x1d9, 0xc0000100, 0x174};
    for (uint32_t list = 0; list < 3; list++)
        for (uint32_t i = 0; i < 6; i++) {
            sim_write64(sim, SIM_L1_MSR_LISTS + list * 0x400 + i * 16, index[i]);
            sim_write64(sim, SIM_L1_MSR_LISTS + list * 0x400 + i * 16 + 8, i == 1 ? UINT64_C(0x0007040600070406) : 0);
        }
}

static void toggle(struct sim *sim, enum nvmx_field slot, enum nvmx_cap cap, uint64_t bits) {
    uint64_t value = sim_get(sim, NVMX_VMCS01, slot) ^ bits;
    value = (value & nvmx_caps_may_be_1(&sim->machine, cap)) | nvmx_caps_must_be_1(&sim->machine, cap);
    sim_set(sim, NVMX_VMCS01, slot, value);
}

/* The simulated host looks at the TRUE MSRs only; without them its vmcs01 has controls 0 that must be 1. */
static void complete_vmcs01(struct sim *sim) {
    toggle(sim, NVMX_F_PIN_BASED_CONTROLS, NVMX_CAP_PINBASED, sim->options.external_interrupts ? 0x29 : 0);
    toggle(sim, NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED, 1u << 31 | 1u << 28 | 1u << 25);
    toggle(sim, NVMX_F_VM_EXIT_CONTROLS, NVMX_CAP_EXIT, 1u << 2 | 1u << 9 | 0xfu << 18);
    toggle(sim, NVMX_F_VM_ENTRY_CONTROLS, NVMX_CAP_ENTRY, 1u << 2 | 1u << 9 | 1u << 14 | 1u << 15);
}

/* Tertiary controls, TSC scaling and instruction timeouts of the host's own, as far as the machine has them. */
static void demand(struct sim *sim) {
    toggle(sim, NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED, 1u << 17);
    toggle(sim, NVMX_F_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2, 1u << 25 | 1u << 31);
    sim_set(sim, NVMX_VMCS01, NVMX_F_TERTIARY_CONTROLS, (1u << 6 | 1u << 7) & nvmx_caps_may_be_1(&sim->machine, NVMX_CAP_PROCBASED3));
    sim_set(sim, NVMX_VMCS01, NVMX_F_TSC_MULTIPLIER, UINT64_C(3) << 48);
    sim_set(sim, NVMX_VMCS01, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL, 500);
}

static bool make(struct fuzz_machine *m) {
    struct sim *sim = m->sim = sim_new(&m->options);
    if (sim->vcpu && m->demanding)
        demand(sim);
    sim->eptp02_given = SIM_EPTP01 + NVMX_PAGE_SIZE;
    if (!(m->machine.msr[NVMX_CAP_BASIC] >> 55 & 1))
        complete_vmcs01(sim);
    if (!sim->vcpu || sim_vmxon_ready(sim) != SIM_SUCCEED || sim_vmcs12(sim) != 0 || sim_vmclear(sim, SIM_L1_VMCS_A) != SIM_SUCCEED)
        return false;
    for (unsigned int i = 0; m->newest && i < GATE_COUNT; i++)
        if (gates[i].msr != 0)
            (void)sim_msr(sim, gates[i].msr);
    memcpy(m->field, sim->ram + SIM_L1_VMCS_A + VMCS_REGION_FIELDS, sizeof(m->field));
    set_pointers(m);
    fill_lists(sim);
    fill_regions(sim);
    nvmx_vcpu_reset(sim->vcpu);
    m->pages_used = sim->pages_used;
    memcpy(m->low_memory, sim->ram, sizeof(m->low_memory));
    memcpy(m->host_bitmap[0], sim->host_msr_bitmap, NVMX_PAGE_SIZE);
    memcpy(m->host_bitmap[1], sim->host_io_bitmap[0], NVMX_PAGE_SIZE);
    memcpy(m->host_bitmap[2], sim->host_io_bitmap[1], NVMX_PAGE_SIZE);
    memcpy(m->msr, sim->msr, sizeof(m->msr));
    m->msrs = sim->msrs;
    m->vmcs01 = sim->vmcs[NVMX_VMCS01];
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    m->vmcs01.value[NVMX_F_GUEST_RIP] = SIM_L1_CODE;
    return true;
}

/* -- from one input to the next ------------------------------------------------------------------------------------------------------ */

/* The simulated host gives no bitmaps to its vCPU; most of these hosts do. */
static void show_bitmaps(const struct fuzz_machine *m) {
    struct nvmx_vcpu *vcpu = m->sim->vcpu;
    if (m->options.no_vpid)
        return;
    vcpu->host_msr_bitmap = (const uint64_t *)(const void *)m->sim->host_msr_bitmap;
    vcpu->host_io_bitmap[0] = (const uint64_t *)(const void *)m->sim->host_io_bitmap[0];
    vcpu->host_io_bitmap[1] = (const uint64_t *)(const void *)m->sim->host_io_bitmap[1];
}

static void start_over(struct fuzz_machine *m) {
    struct sim *sim = m->sim;
    show_bitmaps(m);
    memset(&sim->fail, 0, sizeof(sim->fail));
    nvmx_vcpu_reset(sim->vcpu);
    FUZZ_HOLD(sim->mapped == 0, "%llu pages of L1 are mapped after a reset", (unsigned long long)sim->mapped);
    sim->vmcs[NVMX_VMCS01] = m->vmcs01;
    if (m->bitmaps_changed) {
        memcpy(sim->host_msr_bitmap, m->host_bitmap[0], NVMX_PAGE_SIZE);
        memcpy(sim->host_io_bitmap[0], m->host_bitmap[1], NVMX_PAGE_SIZE);
        memcpy(sim->host_io_bitmap[1], m->host_bitmap[2], NVMX_PAGE_SIZE);
        m->bitmaps_changed = false;
    }
    nvmx_vmcs01_changed(sim->vcpu);
    /* Pages below are L1's page tables, operands and VMCS regions: a log of L1's may have been anywhere. */
    for (uint64_t left = sim->low_written & ((UINT64_C(1) << SIM_L1_MSR_BITMAP / NVMX_PAGE_SIZE) - 1); left != 0; left &= left - 1) {
        unsigned int at = (unsigned int)__builtin_ctzll(left) * NVMX_PAGE_SIZE;
        memcpy(sim->ram + at, m->low_memory + at, NVMX_PAGE_SIZE);
    }
    sim->low_written = 0;
    memcpy(sim->ram + SIM_L1_MSR_BITMAP, m->low_memory + SIM_L1_MSR_BITMAP, sizeof(m->low_memory) - SIM_L1_MSR_BITMAP);
    memcpy(sim->msr, m->msr, sizeof(m->msr));
    sim->msrs = m->msrs;
    memset(&sim->regs, 0, sizeof(sim->regs));
    memset(sim->count, 0, sizeof(sim->count));
    sim->queued_vector = -1;
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

struct fuzz_machine *fuzz_machine(uint8_t profile) {
    static struct fuzz_machine machines[FUZZ_PROFILES];
    static bool tried[FUZZ_PROFILES], works[FUZZ_PROFILES];
    unsigned int number = profile >= 0xfc ? COMPOSING_FIRST + (profile & 3u) : profile % COMPOSING_FIRST;
    struct fuzz_machine *m = &machines[number];
    if (!tried[number]) {
        tried[number] = true;
        set_up(m, number);
        works[number] = make(m);
    }
    if (!works[number])
        return NULL;
    start_over(m);
    return m;
}

/* -- the host's own VMCS ---------------------------------------------------------------------------------------------------------------- */

#define HOST_PRIMARY                                                                                                             \
    (1u << 7 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 15 | 1u << 16 | 1u << 19 | 1u << 20 | 1u << 21 | 1u << 23 | 1u << 24 |      \
     1u << 25 | 1u << 28 | 1u << 29 | 1u << 30 | 1u << 3)
#define HOST_X2APIC    (1u << 4)
#define HOST_SECONDARY (1u << 2 | HOST_X2APIC | 1u << 6 | 1u << 11 | 1u << 16)

/* A host that virtualizes L1's x2APIC lets its MSRs through, for they are virtual ones. */
static void host_virtualizes_x2apic(struct fuzz_machine *m) {
    m->bitmaps_changed = true;
    for (unsigned int write = 0; write < 2; write++)
        memset(m->sim->host_msr_bitmap + write * 2048 + 0x800 / 8, 0, 0x100 / 8);
}

void fuzz_host_controls(struct fuzz_machine *m, struct fuzz_input *in) {
    struct sim *sim = m->sim;
    uint8_t what = fuzz_u8(in);
    if (what & 1)
        toggle(sim, NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED, fuzz_u32(in) & HOST_PRIMARY);
    if (what & 2)
        toggle(sim, NVMX_F_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2, fuzz_u32(in) & HOST_SECONDARY);
    if (sim_get(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS) & HOST_X2APIC)
        host_virtualizes_x2apic(m);
    if (what & 4)
        sim_set(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP, fuzz_u32(in));
    if (what & 8) {
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR0_GUEST_HOST_MASK, fuzz_u32(in));
        uint32_t masked = fuzz_u32(in);
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_GUEST_HOST_MASK, masked | 0x2000);
        /* L1 reads what it has. */
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR0_READ_SHADOW, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0));
        sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_READ_SHADOW, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4));
        if ((masked & (CR4_MCE | 1u << 31)) == (CR4_MCE | 1u << 31)) /* a host that keeps machine checks enabled */
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4) | CR4_MCE);
    }
    if (what & 16) {
        sim_set(sim, NVMX_VMCS01, NVMX_F_PAGE_FAULT_ERROR_CODE_MASK, fuzz_u8(in));
        sim_set(sim, NVMX_VMCS01, NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH, fuzz_u8(in));
    }
    if (what & 32)
        sim_set(sim, NVMX_VMCS01, NVMX_F_TSC_OFFSET, fuzz_u64(in));
    if (what & 64)
        toggle(sim, NVMX_F_PIN_BASED_CONTROLS, NVMX_CAP_PINBASED, (fuzz_u8(in) & 1) * 0x28u);
    if (what & 128) {
        uint16_t at = fuzz_u16(in);
        uint8_t *page[] = {sim->host_msr_bitmap, sim->host_io_bitmap[0], sim->host_io_bitmap[1], sim->ram + SIM_L1_IO_BITMAP_A,
                           sim->ram + SIM_L1_MSR_BITMAP};
        m->bitmaps_changed = true;
        page[at % 5][at / 5 % NVMX_PAGE_SIZE] ^= (uint8_t)(fuzz_u8(in) | 1);
    }
    fuzz_log("host: pin %#llx primary %#llx secondary %#llx exceptions %#llx",
             (unsigned long long)sim_get(sim, NVMX_VMCS01, NVMX_F_PIN_BASED_CONTROLS),
             (unsigned long long)sim_get(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS),
             (unsigned long long)sim_get(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS),
             (unsigned long long)sim_get(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP));
    nvmx_vmcs01_changed(sim->vcpu);
}

/* Not the TPR shadow, which goes with pages of L1, nor the x2APIC. */
#define TAKEN_PRIMARY   (HOST_PRIMARY & ~(1u << 21))
#define TAKEN_SECONDARY (HOST_SECONDARY & ~HOST_X2APIC)

void fuzz_host_takes_back(struct fuzz_machine *m, uint64_t bits) {
    struct sim *sim = m->sim;
    uint8_t *page[] = {sim->host_msr_bitmap, sim->host_io_bitmap[0], sim->host_io_bitmap[1]};
    toggle(sim, NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED, bits & TAKEN_PRIMARY);
    if (sim_get(sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS) >> 31 & 1)
        toggle(sim, NVMX_F_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2, bits >> 32 & TAKEN_SECONDARY);
    sim_set(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP, sim_get(sim, NVMX_VMCS01, NVMX_F_EXCEPTION_BITMAP) ^ (bits >> 29 & 0xffffffff));
    m->bitmaps_changed = true;
    memset(page[bits % 3] + (bits >> 8) % (NVMX_PAGE_SIZE - 64), bits >> 40 & 1 ? 0xff : 0, 64);
    nvmx_vmcs01_changed(sim->vcpu);
}

/* -- vmcs12 ------------------------------------------------------------------------------------------------------------------------------ */

static void must_succeed(const char *what, enum sim_outcome outcome) {
    FUZZ_HOLD(outcome == SIM_SUCCEED, "%s: %s", what, sim_outcome_text(outcome));
}

void fuzz_load_vmcs12(struct fuzz_machine *m, const uint64_t *field) {
    struct sim *sim = m->sim;
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_OFF)
        must_succeed("VMXON", sim_vmxon(sim, SIM_L1_VMXON));
    must_succeed("VMCLEAR", sim_vmclear(sim, SIM_L1_VMCS_A));
    sim_write(sim, SIM_L1_VMCS_A + VMCS_REGION_FIELDS, field, NVMX_FIELD_COUNT * sizeof(*field));
    must_succeed("VMPTRLD", sim_vmptrld(sim, SIM_L1_VMCS_A));
}

void fuzz_gather(const struct fuzz_machine *m, struct nvmx_check_input *check) {
    const uint64_t *f = check->field;
    const struct sim *sim = m->sim;
    uint64_t link = f[NVMX_F_VMCS_LINK_POINTER];
    uint64_t tpr = f[NVMX_F_VIRTUAL_APIC_ADDRESS] + 0x80;
    uint64_t tables = f[NVMX_F_GUEST_CR3] & UINT64_C(0xffffffe0);
    check->link_readable = link % 4096 == 0 && link < SIM_RAM_BYTES;
    check->link_revision = check->link_readable ? sim_read32(sim, link) : 0;
    check->vtpr = tpr % 4096 == 0x80 && tpr < SIM_RAM_BYTES ? (uint8_t)sim_read32(sim, tpr) : 0xff;
    check->pdpte_readable = tables <= SIM_RAM_BYTES - 32;
    for (unsigned int i = 0; i < 4; i++)
        check->pdpte[i] = check->pdpte_readable ? sim_read64(sim, tables + i * 8) : 0;
}

/* Fields that decide the most; the input reaches them by small numbers. */
static const uint8_t important[] = {
    NVMX_F_PIN_BASED_CONTROLS, NVMX_F_PRIMARY_CONTROLS, NVMX_F_SECONDARY_CONTROLS, NVMX_F_VM_EXIT_CONTROLS, NVMX_F_VM_ENTRY_CONTROLS,
    NVMX_F_PIN_BASED_CONTROLS, NVMX_F_PRIMARY_CONTROLS, NVMX_F_SECONDARY_CONTROLS, NVMX_F_VM_EXIT_CONTROLS, NVMX_F_VM_ENTRY_CONTROLS,
    NVMX_F_PRIMARY_CONTROLS, NVMX_F_SECONDARY_CONTROLS, NVMX_F_EXCEPTION_BITMAP, NVMX_F_VM_ENTRY_INTERRUPTION_INFO,
    NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR4, NVMX_F_GUEST_RFLAGS, NVMX_F_GUEST_EFER, NVMX_F_GUEST_ACTIVITY_STATE,
    NVMX_F_GUEST_INTERRUPTIBILITY_STATE, NVMX_F_GUEST_CS_ACCESS_RIGHTS, NVMX_F_GUEST_SS_ACCESS_RIGHTS, NVMX_F_HOST_CR4, NVMX_F_HOST_EFER,
    NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW, NVMX_F_CR4_READ_SHADOW, NVMX_F_CR3_TARGET_COUNT,
};

static bool passes(const struct fuzz_machine *m, struct nvmx_check_input *check) {
    struct nvmx_check_failure ignored;
    if (m != NULL)
        fuzz_gather(m, check);
    return nvmx_check_first(check, NVMX_CHECK_ALL, &ignored);
}

/*
 * Features that need several fields at once. Each row of a bundle: bits to clear, then bits to set; control bits only where L1 may set them. The whole is
 * kept or not, as one change is.
 */
struct bundle_row {
    uint8_t slot;
    uint64_t clear, set;
};
#define BUNDLE_ROWS 24
#define BUNDLES 20
#define ALL_BITS UINT64_MAX
#define SEGMENT16(name) {NVMX_F_GUEST_##name##_SELECTOR, ALL_BITS, 0x10}, {NVMX_F_GUEST_##name##_LIMIT, ALL_BITS, 0xffff}
#define SECONDARY_ON {NVMX_F_PRIMARY_CONTROLS, 0, 1u << 31}

static const struct bundle_row bundles[BUNDLES][BUNDLE_ROWS] = {
    /* x2APIC mode */
    {{NVMX_F_PRIMARY_CONTROLS, 0, 1u << 31 | 1u << 21 | 1u << 28}, {NVMX_F_SECONDARY_CONTROLS, 1, 1u << 4}, {NVMX_F_TPR_THRESHOLD, ALL_BITS, 0}},
    /* the same with virtual interrupts and virtual registers */
    {{NVMX_F_PRIMARY_CONTROLS, 0, 1u << 31 | 1u << 21 | 1u << 28}, {NVMX_F_SECONDARY_CONTROLS, 1, 1u << 4 | 1u << 8 | 1u << 9}, {NVMX_F_PIN_BASED_CONTROLS, 0, 1}},
    /* VM functions */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 13}, {NVMX_F_VM_FUNCTION_CONTROLS, 0, 1}, {NVMX_F_EPTP_LIST_ADDRESS, ALL_BITS, 0x20000}},
    /* EPT-violation #VE */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 18}, {NVMX_F_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, ALL_BITS, 0x23000}},
    /* page-modification logging */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 17}, {NVMX_F_EPT_POINTER, 0, 0x40}, {NVMX_F_PML_ADDRESS, ALL_BITS, 0x24000}},
    /* VMCS shadowing */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 14}, {NVMX_F_VMREAD_BITMAP_ADDRESS, ALL_BITS, 0x21000},
     {NVMX_F_VMWRITE_BITMAP_ADDRESS, ALL_BITS, 0x22000}, {NVMX_F_VMCS_LINK_POINTER, ALL_BITS, FUZZ_SHADOW_REGION}},
    /* mode-based execute control */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 22}},
    /* an unrestricted guest in real mode */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 7}, {NVMX_F_VM_ENTRY_CONTROLS, 1u << 9, 0}, {NVMX_F_GUEST_CR0, 1u << 31 | 1, 0},
     {NVMX_F_GUEST_EFER, ALL_BITS, 0}, {NVMX_F_GUEST_CS_ACCESS_RIGHTS, ALL_BITS, 0x9b}, {NVMX_F_GUEST_SS_ACCESS_RIGHTS, ALL_BITS, 0x93},
     {NVMX_F_GUEST_DS_ACCESS_RIGHTS, ALL_BITS, 0x93}, {NVMX_F_GUEST_ES_ACCESS_RIGHTS, ALL_BITS, 0x93}, {NVMX_F_GUEST_FS_ACCESS_RIGHTS, ALL_BITS, 0x93},
     {NVMX_F_GUEST_GS_ACCESS_RIGHTS, ALL_BITS, 0x93}, SEGMENT16(CS), SEGMENT16(SS), SEGMENT16(DS), SEGMENT16(ES),
     SEGMENT16(FS), SEGMENT16(GS), {NVMX_F_GUEST_RIP, ~UINT64_C(0xffff), 0}},
    /* PAE paging without EPT */
    {{NVMX_F_SECONDARY_CONTROLS, 1u << 1 | 1u << 7 | 1u << 13 | 1u << 17 | 1u << 18 | 1u << 22, 0}, {NVMX_F_VM_ENTRY_CONTROLS, 1u << 9, 0},
     {NVMX_F_GUEST_CR0, 0, 0x80000021}, {NVMX_F_GUEST_CR4, 0, 1u << 5}, {NVMX_F_GUEST_EFER, ALL_BITS, 0}, {NVMX_F_GUEST_CS_ACCESS_RIGHTS, ALL_BITS, 0xc09b},
     {NVMX_F_GUEST_CR3, ALL_BITS, 0x40000}, {NVMX_F_GUEST_RIP, ~UINT64_C(0xffffffff), 0}},
    /* 32 bits, without paging where unrestricted */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 7}, {NVMX_F_VM_ENTRY_CONTROLS, 1u << 9, 0}, {NVMX_F_GUEST_CR0, 1u << 31, 1},
     {NVMX_F_GUEST_EFER, ALL_BITS, 0}, {NVMX_F_GUEST_CS_ACCESS_RIGHTS, ALL_BITS, 0xc09b}, {NVMX_F_GUEST_RIP, ~UINT64_C(0xffffffff), 0}},
    /* bitmaps */
    {{NVMX_F_PRIMARY_CONTROLS, 0, 1u << 25 | 1u << 28}},
    /* MSR lists */
    {{NVMX_F_VM_EXIT_MSR_STORE_COUNT, ALL_BITS, 3}, {NVMX_F_VM_EXIT_MSR_LOAD_COUNT, ALL_BITS, 3}, {NVMX_F_VM_ENTRY_MSR_LOAD_COUNT, ALL_BITS, 3}},
    /* posted interrupts */
    {{NVMX_F_PRIMARY_CONTROLS, 0, 1u << 31 | 1u << 21}, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 9}, {NVMX_F_PIN_BASED_CONTROLS, 0, 1u << 7 | 1}, {NVMX_F_VM_EXIT_CONTROLS, 0, 1u << 15}},
    /* the preemption timer */
    {{NVMX_F_PIN_BASED_CONTROLS, 0, 1u << 6}, {NVMX_F_VM_EXIT_CONTROLS, 0, 1u << 22}, {NVMX_F_PREEMPTION_TIMER_VALUE, 0, 1000}},
    /* events are L1's, NMIs are virtual */
    {{NVMX_F_PIN_BASED_CONTROLS, 0, 1u << 5 | 1u << 3 | 1}, {NVMX_F_PRIMARY_CONTROLS, 0, 1u << 22 | 1u << 2}},
    /* all state is loaded and saved */
    {{NVMX_F_VM_EXIT_CONTROLS, 0, 1u << 2 | 1u << 12 | 0xfu << 18 | 1u << 23}, {NVMX_F_VM_ENTRY_CONTROLS, 0, 1u << 2 | 0xfu << 13}},
    /* IA32_SPEC_CTRL behind a mask, and lists of MSRs */
    {{NVMX_F_PRIMARY_CONTROLS, 0, 1u << 31 | 1u << 17}, {NVMX_F_TERTIARY_CONTROLS, 0, 1u << 7 | 1u << 6 | 1}, {NVMX_F_SPEC_CTRL_MASK, ALL_BITS, 3}},
    /* secondary VM-exit controls, and everything that can be loaded */
    {{NVMX_F_VM_EXIT_CONTROLS, 0, 1u << 31 | 0xfffcu << 13}, {NVMX_F_VM_ENTRY_CONTROLS, 0, 0x7ffu << 13}, {NVMX_F_SECONDARY_VM_EXIT_CONTROLS, 0, 1u << 3}},
    /* instructions of newer processors */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 15 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31 | 1u << 12 | 1u << 20 | 1u << 11 | 1u << 16},
     {NVMX_F_ENCLS_EXITING_BITMAP, ALL_BITS, 0x155}, {NVMX_F_ENCLV_EXITING_BITMAP, ALL_BITS, 0x155}, {NVMX_F_PCONFIG_EXITING_BITMAP, ALL_BITS, 0x155}},
    /* sub-page write permissions */
    {SECONDARY_ON, {NVMX_F_SECONDARY_CONTROLS, 0, 1u << 1 | 1u << 23}, {NVMX_F_SPP_TABLE_POINTER, ALL_BITS, 0x2a000}},
};

static uint64_t settable(const struct nvmx_caps *caps, unsigned int slot) {
    switch (slot) {
    case NVMX_F_PIN_BASED_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_PINBASED);
    case NVMX_F_PRIMARY_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED);
    case NVMX_F_SECONDARY_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED2);
    case NVMX_F_VM_EXIT_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_EXIT);
    case NVMX_F_VM_ENTRY_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_ENTRY);
    case NVMX_F_TERTIARY_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED3);
    case NVMX_F_SECONDARY_VM_EXIT_CONTROLS:
        return nvmx_caps_may_be_1(caps, NVMX_CAP_EXIT2);
    default:
        return ALL_BITS;
    }
}

static void apply_bundle(const struct fuzz_machine *m, struct nvmx_check_input *check, const struct nvmx_field_set *exists, uint64_t *field, unsigned int number) {
    uint64_t before[NVMX_FIELD_COUNT];
    memcpy(before, field, sizeof(before));
    for (unsigned int i = 0; i < BUNDLE_ROWS && (bundles[number][i].clear | bundles[number][i].set); i++) {
        const struct bundle_row *row = &bundles[number][i];
        if (nvmx_set_has(exists, row->slot))
            field[row->slot] = ((field[row->slot] & ~row->clear) | (row->set & settable(check->caps, row->slot))) & nvmx_field_mask(row->slot);
    }
    bool kept = passes(m, check);
    if (!kept)
        memcpy(field, before, sizeof(before));
    fuzz_log("vmcs12: bundle %u%s", number, kept ? "" : " would not pass");
}

unsigned int fuzz_change_vmcs12(const struct fuzz_machine *m, struct fuzz_input *in, struct nvmx_check_input *check,
                                uint64_t *field, unsigned int most) {
    struct nvmx_field_set exists;
    unsigned int insisted = 0;
    if (m != NULL)
        exists = m->exists;
    else
        nvmx_fields_existing(check->caps, &exists);
    for (unsigned int i = 0; i < most && fuzz_more(in); i++) {
        fuzz_piece(in, FUZZ_CHANGE);
        uint8_t which = fuzz_u8(in);
        if (which >= 0xf0 || (which >= 0xe8 && which < 0xe8 + BUNDLES - 16)) {
            apply_bundle(m, check, &exists, field, which >= 0xf0 ? which & 15u : 16u + which - 0xe8u);
            continue;
        }
        uint8_t how = fuzz_u8(in);
        unsigned int slot = which < sizeof(important) ? important[which] : which % NVMX_FIELD_COUNT;
        uint64_t before = field[slot];
        uint64_t value = (how & 1) ? fuzz_value(in) : before ^ UINT64_C(1) << ((how >> 1) & 63);
        bool insist = (how & 0x81) == 0x81;
        if (how & 1 && how & 2)
            value ^= before;
        /* By the host RIP the simulated host tells a failed entry from others. */
        if (!nvmx_set_has(&exists, slot) || slot == NVMX_F_HOST_RIP)
            continue;
        field[slot] = value & nvmx_field_mask(slot);
        if (insist)
            insisted++;
        else if (insisted == 0 && !passes(m, check))
            field[slot] = before;
        if (field[slot] != before)
            fuzz_log("vmcs12: %s = %#llx (was %#llx)", nvmx_field_info(slot)->name, (unsigned long long)field[slot],
                     (unsigned long long)before);
    }
    return insisted;
}

/* A control that the capabilities' table has, at the place where `important` has its field. */
static size_t new_control(uint32_t (*below)(uint32_t limit), uint8_t *out) {
    static const uint8_t place[] = {[1] = 0, [2] = 1, [3] = 3, [4] = 4, [11] = 2, [13] = 0, [14] = 1, [15] = 3, [16] = 4};
    size_t rows = 0;
    while (nvmx_cap_bit(rows) != NULL)
        rows++;
    const struct nvmx_cap_bit *bit = nvmx_cap_bit(below((uint32_t)rows));
    uint32_t msr = bit->msr - 0x480u;
    out[0] = msr != 0 && msr < sizeof(place) && (place[msr] != 0 || msr == 1 || msr == 13) ? place[msr] : (uint8_t)below(5);
    out[1] = (uint8_t)((bit->bit & 31) << 1);
    return 2;
}

size_t fuzz_new_change(uint32_t (*below)(uint32_t limit), uint8_t *out) {
    uint32_t kind = below(8), bundle = below(BUNDLES), slot = below(NVMX_FIELD_COUNT);
    if (kind < 2)
        return out[0] = (uint8_t)(bundle < 16 ? 0xf0 + bundle : 0xe8 + bundle - 16), 1;
    if (kind < 4)
        return new_control(below, out);
    out[0] = (uint8_t)(slot < sizeof(important) ? slot + NVMX_FIELD_COUNT : slot);
    if (out[0] >= 0xe8)
        out[0] = (uint8_t)below(sizeof(important));
    out[1] = (uint8_t)(kind < 6 ? below(64) << 1 : below(8) == 0 ? 0x81 : 1);
    out[2] = 6; /* one of the edges */
    out[3] = (uint8_t)below(64);
    return kind < 6 ? 2 : 4;
}

bool fuzz_host_in_the_way(const struct fuzz_machine *m, const uint64_t *field) {
    bool second_exit = field[NVMX_F_VM_EXIT_CONTROLS] >> 31 & 1;
    bool loads = (field[NVMX_F_VM_ENTRY_CONTROLS] >> 24 & 1) || (second_exit && (field[NVMX_F_SECONDARY_VM_EXIT_CONTROLS] >> 2 & 1));
    uint64_t tertiary = field[NVMX_F_PRIMARY_CONTROLS] >> 17 & 1 ? field[NVMX_F_TERTIARY_CONTROLS] : 0;
    /* User IPIs of L2 ask for a TPR shadow, and L1's APIC-access page for none. */
    bool uintr = m->sim->machine.msr[NVMX_CAP_CR4_FIXED1] >> 25 & 1, host_shadow = sim_get(m->sim, NVMX_VMCS01, NVMX_F_PRIMARY_CONTROLS) >> 21 & 1;
    bool accesses = field[NVMX_F_PRIMARY_CONTROLS] >> 31 & 1 && field[NVMX_F_SECONDARY_CONTROLS] & 1 && !(field[NVMX_F_PRIMARY_CONTROLS] >> 21 & 1);
    return (m->demanding && (loads || (tertiary & 0xc0) == 0xc0)) || (uintr && host_shadow && accesses);
}

/* -- L2 -------------------------------------------------------------------------------------------------------------------------------- */

uint32_t fuzz_event_in_flight(const struct sim_vmcs *vmcs02, uint32_t wanted) {
    uint32_t type = wanted >> 8 & 7, vector = wanted & 0xff;
    uint64_t blocking = vmcs02->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] & 3;
    bool protected_mode = vmcs02->value[NVMX_F_GUEST_CR0] & 1, error_code = false;
    if (type == 1 || type == 7 || vmcs02->value[NVMX_F_GUEST_ACTIVITY_STATE] != 0)
        return 0;
    if ((type == 0 || type == 2) && blocking)
        return 0;
    if (type == 0 && !(vmcs02->value[NVMX_F_GUEST_RFLAGS] >> 9 & 1))
        return 0;
    if (type == 2)
        vector = 2;
    if (type == 3) {
        vector &= 31;
        error_code = protected_mode && (UINT32_C(0x00027d00) >> vector & 1); /* #DF, #TS to #PF, #AC */
    }
    if (type == 5)
        vector = 1;
    if (type == 6)
        vector = 3 + (vector & 1);
    return 0x80000000u | (error_code ? 1u << 11 : 0) | type << 8 | vector;
}

void fuzz_keep_l1_memory(struct sim *sim, uint8_t before[FUZZ_KEPT_BYTES], bool restore) {
    static const struct {
        uint32_t gpa1, bytes;
    } kept[] = {{0, SIM_L1_MSR_BITMAP}, {0x26000, 0x3000}};
    for (size_t i = 0; i < 2; i++) {
        uint8_t *at = before + (i == 0 ? 0 : kept[0].bytes);
        if (restore)
            memcpy(sim->ram + kept[i].gpa1, at, kept[i].bytes);
        else
            memcpy(at, sim->ram + kept[i].gpa1, kept[i].bytes);
    }
}
