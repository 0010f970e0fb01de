/* SPDX-License-Identifier: MIT */
/*
 * The simulated processor: VMCSs and exits.
 *
 * Fields exist by the machine's capabilities; reading or writing another one fails, as VMREAD and VMWRITE do. A fresh vmcs02 holds poison, not
 * zeros. The host-state area is the host's: the library must never write it.
 */
#include <string.h>

#include "sim_internal.h"

#define POISON UINT64_C(0xc3c3c3c3c3c3c3c3)

struct sim_field {
    uint32_t encoding;
    bool host_state;
    uint16_t msr[2]; /* the field exists if either bit is set; msr 0: always */
    uint8_t bit[2];
};

/* Existence conditions and fields, from the same lists that the library reads, but evaluated here. */
enum {
#define EXISTS(name, msr_a, bit_a, msr_b, bit_b)                                                                                 \
    EXISTS_MSR_A_##name = (msr_a), EXISTS_BIT_A_##name = (bit_a), EXISTS_MSR_B_##name = (msr_b), EXISTS_BIT_B_##name = (bit_b),
#include <nvmx/field_exists.def>
#undef EXISTS
};

_Static_assert(NVMX_FIELD_COUNT < 256, "slot_of");

static const struct sim_field fields[NVMX_FIELD_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow)                                                                \
    {encoding,                                                                                                                   \
     NVMX_GROUP_##group == NVMX_GROUP_HOST,                                                                                      \
     {EXISTS_MSR_A_##exists, EXISTS_MSR_B_##exists},                                                                             \
     {EXISTS_BIT_A_##exists, EXISTS_BIT_B_##exists}},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

/* By width, type and index (SDM 27.11.2, table 27-21): slot + 1, or 0. */
static uint8_t slot_of[4][4][64];

static uint8_t *slot_place(uint32_t encoding) {
    return &slot_of[encoding >> 13 & 3][encoding >> 10 & 3][encoding >> 1 & 63];
}

__attribute__((constructor)) static void fill_slots(void) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        *slot_place(fields[slot].encoding) = (uint8_t)(slot + 1);
}

int sim_slot(uint32_t encoding) {
    int slot = *slot_place(encoding) - 1;
    return slot >= 0 && fields[slot].encoding == encoding ? slot : -1;
}

bool sim_has_field(const struct sim *sim, unsigned int slot) {
    const struct sim_field *field = &fields[slot];
    for (unsigned int i = 0; i < 2; i++) {
        if (field->msr[i] == 0)
            return true;
        if ((sim->machine.msr[field->msr[i] - NVMX_MSR_VMX_FIRST] >> field->bit[i]) & 1)
            return true;
    }
    return false;
}

static uint64_t width_mask(unsigned int slot) {
    switch ((fields[slot].encoding >> 13) & 3) {
    case NVMX_WIDTH_16:
        return 0xffff;
    case NVMX_WIDTH_32:
        return 0xffffffff;
    default:
        return UINT64_MAX;
    }
}

uint64_t sim_get(const struct sim *sim, uint32_t which, enum nvmx_field slot) {
    return sim->vmcs[which].value[slot];
}

void sim_set(struct sim *sim, uint32_t which, enum nvmx_field slot, uint64_t value) {
    sim->vmcs[which].value[slot] = value & width_mask(slot);
}

/* -- callbacks ---------------------------------------------------------------------------------------------------------------- */

static bool is_shadow(uint32_t which) {
    return which == NVMX_VMCS_SHADOW || which >= NVMX_VMCS_SHADOWS;
}

uint32_t sim_linked(const struct sim *sim) {
    uint64_t page = (sim_get(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER) - SIM_SHADOW_HPA) / NVMX_PAGE_SIZE;
    if (sim->options.shadows)
        return page < sim->options.vmcs02_slots ? NVMX_VMCS_SHADOWS + (uint32_t)page : NVMX_VMCS01;
    return page == 0 ? NVMX_VMCS_SHADOW : NVMX_VMCS01;
}

static void must_be_a_vmcs(const struct sim *sim, uint32_t which, const char *who) {
    bool vmcs02 = which >= NVMX_VMCS02_FIRST && which < NVMX_VMCS02_FIRST + sim->options.vmcs02_slots;
    bool shadow = which == NVMX_VMCS_SHADOW && sim->options.shadow && !sim->options.shadows;
    shadow = shadow || (sim->options.shadows && which >= NVMX_VMCS_SHADOWS && which < NVMX_VMCS_SHADOWS + sim->options.vmcs02_slots);
    if (which != NVMX_VMCS01 && !vmcs02 && !shadow)
        sim_broken("%s: there is no VMCS %u", who, which);
}

static enum nvmx_status vmcs_select(void *ctx, uint32_t which) {
    struct sim *sim = sim_of_vcpu(ctx);
    must_be_a_vmcs(sim, which, "vmcs_select");
    if (sim_fails(sim, SIM_VMCS_SELECT))
        return sim_sweep.status;
    sim->selected = which;
    return NVMX_OK;
}

void sim_poison(struct sim *sim, uint32_t which) {
    struct sim_vmcs *vmcs = &sim->vmcs[which];
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        vmcs->value[slot] = POISON & width_mask(slot);
    memset(&vmcs->written, 0, sizeof(vmcs->written));
}

static enum nvmx_status vmcs_reset(void *ctx, uint32_t which) {
    struct sim *sim = sim_of_vcpu(ctx);
    must_be_a_vmcs(sim, which, "vmcs_reset");
    if (which < NVMX_VMCS02_FIRST || which >= NVMX_VMCS_SHADOWS)
        sim_broken("vmcs_reset of VMCS %u, which is the host's", which);
    if (sim_fails(sim, SIM_VMCS_RESET))
        return sim_sweep.status;
    sim_poison(sim, which);
    sim->vmcs[which].resets++;
    sim->vmcs[which].entries = 0;
    sim_host_state(sim, which);
    return NVMX_OK;
}

static int accessible(struct sim *sim, uint32_t encoding) {
    int slot = sim_slot(encoding);
    if (slot >= 0 && sim_has_field(sim, (unsigned int)slot))
        return slot;
    sim->last_bad_encoding = encoding;
    return -1;
}

static enum nvmx_status vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim_fails(sim, SIM_VMCS_READ)) {
        for (uint32_t i = 0; sim_sweep.half && i < count; i++)
            value[i] = POISON;
        return sim_sweep.status;
    }
    for (uint32_t i = 0; i < count; i++) {
        int slot = accessible(sim, encoding[i]);
        if (slot < 0)
            return NVMX_E_HOST;
        value[i] = sim->vmcs[sim->selected].value[slot];
    }
    return NVMX_OK;
}

/* What nvmx/host.h names: hosts keep copies of all other fields of vmcs01. */
static bool may_be_written_in_vmcs01(uint32_t encoding) {
    bool guest_state = ((encoding >> 10) & 3) == 2;
    return guest_state || encoding == NVMX_VMCS_VM_ENTRY_CONTROLS || encoding == NVMX_VMCS_CR0_READ_SHADOW || encoding == NVMX_VMCS_CR4_READ_SHADOW ||
           encoding == NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO || encoding == NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE;
}

static enum nvmx_status vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    struct sim *sim = sim_of_vcpu(ctx);
    bool write_all = (sim->machine.msr[NVMX_CAP_MISC] >> 29) & 1;
    enum nvmx_status status = NVMX_OK;
    if (sim_fails(sim, SIM_VMCS_WRITE)) {
        status = sim_sweep.status;
        count = sim_sweep.half ? count / 2 : 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        int slot = accessible(sim, encoding[i]);
        if (slot >= 0 && !write_all && nvmx_encoding_read_only(encoding[i])) {
            sim->last_bad_encoding = encoding[i];
            slot = -1;
        }
        if (slot < 0)
            return NVMX_E_HOST;
        if (!is_shadow(sim->selected) && fields[slot].host_state)
            sim_broken("the library writes %#x, a field of the real host-state area", encoding[i]);
        struct sim_vmcs *vmcs = &sim->vmcs[sim->selected];
        if (sim->selected == NVMX_VMCS01 && !may_be_written_in_vmcs01(encoding[i]))
            sim_broken("the library writes %#x to vmcs01", encoding[i]);
        if (sim->selected == NVMX_VMCS01 && encoding[i] == NVMX_VMCS_VM_ENTRY_CONTROLS && ((vmcs->value[slot] ^ value[i]) & ~UINT64_C(0x200)) != 0)
            sim_broken("the library changes vmcs01's VM-entry controls from %#lx to %#lx", vmcs->value[slot], value[i]);
        vmcs->value[slot] = value[i] & width_mask((unsigned int)slot);
        nvmx_set_add(&vmcs->written, (unsigned int)slot);
    }
    return status;
}

void sim_vmcs_callbacks(struct sim *sim) {
    sim->host.vmcs_select = vmcs_select;
    sim->host.vmcs_reset = vmcs_reset;
    sim->host.vmcs_read = vmcs_read;
    sim->host.vmcs_write = vmcs_write;
}

/* -- exits and entries ---------------------------------------------------------------------------------------------------------- */

/* What the library wants entered must be what is selected. */
static void check_entry(struct sim *sim) {
    uint32_t which = nvmx_selected(sim->vcpu);
    bool l2 = nvmx_mode(sim->vcpu) == NVMX_MODE_L2;
    if (which != sim->selected)
        sim_broken("VMCS %u is to be entered, but %u is selected", which, sim->selected);
    if (l2 != (which >= NVMX_VMCS02_FIRST && which < NVMX_VMCS_SHADOWS))
        sim_broken("VMCS %u is to be entered in mode %d", which, (int)nvmx_mode(sim->vcpu));
    if (l2 && sim->vmcs[which].resets == 0)
        sim_broken("vmcs02 %u is to be entered without a reset ever", which);
}

/* A host does not enter a vCPU that has stopped; a test that does not expect it to stop would. */
static void stop_a_test_that_enters_a_stopped_vcpu(const struct sim *sim) {
    if (sim_sweep.failed && nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE)
        sim_sweep.gives_up();
}

static void set_information(struct sim *sim, const struct nvmx_l2_exit_info *info) {
    const struct {
        enum nvmx_field slot;
        uint64_t value;
    } all[] = {
        {NVMX_F_EXIT_REASON, info->reason},
        {NVMX_F_EXIT_QUALIFICATION, info->qualification},
        {NVMX_F_VM_EXIT_INTERRUPTION_INFO, info->interruption_info},
        {NVMX_F_VM_EXIT_INTERRUPTION_ERROR_CODE, info->interruption_error_code},
        {NVMX_F_IDT_VECTORING_INFO, info->idt_vectoring_info},
        {NVMX_F_IDT_VECTORING_ERROR_CODE, info->idt_vectoring_error_code},
        {NVMX_F_VM_EXIT_INSTRUCTION_LENGTH, info->instruction_length},
        {NVMX_F_VM_EXIT_INSTRUCTION_INFORMATION, info->instruction_info},
        {NVMX_F_GUEST_LINEAR_ADDRESS, info->guest_linear_address},
        {NVMX_F_GUEST_PHYSICAL_ADDRESS, info->guest_physical_address},
        {NVMX_F_MSR_DATA, info->msr_data},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        sim_set(sim, sim->selected, all[i].slot, all[i].value);
}

/* Basic reasons that an instruction of the guest causes, in place of what it would do (SDM 28.1, appendix C). */
bool sim_exit_by_instruction(uint32_t reason) {
    static const struct {
        uint8_t first, last;
    } all[] = {{10, 32}, {36, 36}, {39, 40}, {46, 47}, {50, 51}, {53, 55}, {57, 61}, {63, 65}, {67, 70}, {72, 73}, {76, 81}, {84, 85}};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (reason >= all[i].first && reason <= all[i].last)
            return true;
    return false;
}

/* SDM 30.3.4: what executes an instruction is active, and pending debug exceptions are saved only while MOV SS blocks them. */
static void save_nonregister_state(struct sim_vmcs *vmcs, uint32_t reason) {
    if (reason >> 31 || !sim_exit_by_instruction(reason & 0xffff))
        return;
    vmcs->value[NVMX_F_GUEST_ACTIVITY_STATE] = 0;
    if (!(vmcs->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] & 2))
        vmcs->value[NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS] = 0;
}

/* What exited is the host's to deal with as the exit left it, but for an event that is to be injected again, and the end of what nvmx_enter asked for. */
static void check_host_exit(const struct sim *sim, uint32_t which, const struct sim_vmcs *before) {
    const struct sim_vmcs *vmcs = &sim->vmcs[which];
    if (sim->selected != which)
        sim_broken("NVMX_HOST, and not VMCS %u, which exited, is selected but %u", which, sim->selected);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool asked = slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO || slot == NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE ||
                     slot == NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH || slot == NVMX_F_GUEST_INTERRUPTIBILITY_STATE ||
                     slot == NVMX_F_PIN_BASED_CONTROLS || slot == NVMX_F_PRIMARY_CONTROLS || slot == NVMX_F_PREEMPTION_TIMER_VALUE;
        if (vmcs->value[slot] != before->value[slot] && (which == NVMX_VMCS01 || !asked))
            sim_broken("NVMX_HOST, and %s of VMCS %u has changed", nvmx_field_info(slot)->name, which);
    }
}

enum nvmx_next sim_exit_info(struct sim *sim, const struct nvmx_l2_exit_info *info) {
    stop_a_test_that_enters_a_stopped_vcpu(sim);
    check_entry(sim);
    struct sim_vmcs *vmcs = &sim->vmcs[sim->selected];
    vmcs->entries++;
    save_nonregister_state(vmcs, info->reason);
    /* SDM 30.2.1, 30.1: an exit after a successful entry clears the valid bit of the VM-entry interruption information. */
    if (!(info->reason >> 31))
        vmcs->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] &= 0x7fffffff;
    sim->queued_vector = -1;
    set_information(sim, info);
    const uint32_t which = sim->selected;
    const struct sim_vmcs before = *vmcs;
    enum nvmx_next next = nvmx_exit(sim->vcpu, info->reason);
    if (next == NVMX_ENTER)
        check_entry(sim);
    if (next == NVMX_HOST)
        check_host_exit(sim, which, &before);
    return next;
}

enum nvmx_next sim_exit(struct sim *sim, uint32_t reason, uint64_t qualification, uint32_t instruction_info, uint32_t length) {
    struct nvmx_l2_exit_info info = {
        .reason = reason,
        .qualification = qualification,
        .instruction_info = instruction_info,
        .instruction_length = length,
    };
    return sim_exit_info(sim, &info);
}

enum nvmx_next sim_enter(struct sim *sim, struct nvmx_pending *pending) {
    stop_a_test_that_enters_a_stopped_vcpu(sim);
    sim_sweep.entering = true;
    enum nvmx_next next = nvmx_enter(sim->vcpu, pending);
    sim_sweep.entering = false;
    if (next == NVMX_HOST)
        sim_broken("nvmx_enter answered NVMX_HOST");
    if (next == NVMX_ENTER)
        check_entry(sim);
    return next;
}

/* -- what the host sets up -------------------------------------------------------------------------------------------------------- */

void sim_host_state(struct sim *sim, uint32_t which) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (fields[slot].host_state)
            sim->vmcs[which].value[slot] = (UINT64_C(0x4000) + slot * 16) & width_mask(slot);
    sim_set(sim, which, NVMX_F_HOST_CR0, 0x80050033);
    sim_set(sim, which, NVMX_F_HOST_CR4, 0x2020);
    sim_set(sim, which, NVMX_F_VM_EXIT_MSR_STORE_COUNT, 0);
    sim_set(sim, which, NVMX_F_VM_EXIT_MSR_LOAD_COUNT, 0);
    sim_set(sim, which, NVMX_F_VM_ENTRY_MSR_LOAD_COUNT, 0);
}

static void set_segment(struct sim *sim, unsigned int index, uint16_t selector, uint32_t limit, uint32_t rights) {
    static const enum nvmx_field base[] = {NVMX_F_GUEST_ES_BASE, NVMX_F_GUEST_CS_BASE, NVMX_F_GUEST_SS_BASE,
                                           NVMX_F_GUEST_DS_BASE, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_GS_BASE,
                                           NVMX_F_GUEST_LDTR_BASE, NVMX_F_GUEST_TR_BASE};
    sim_set(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_ES_SELECTOR + index), selector);
    sim_set(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_ES_LIMIT + index), limit);
    sim_set(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_ES_ACCESS_RIGHTS + index), rights);
    sim_set(sim, NVMX_VMCS01, base[index], 0);
}

static void set_mode(struct sim *sim, bool long_mode) {
    enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
    for (unsigned int i = ES; i <= GS; i++)
        set_segment(sim, i, 0x10, 0xffffffff, 0xc093);
    set_segment(sim, CS, 0x08, 0xffffffff, long_mode ? 0xa09b : 0xc09b);
    set_segment(sim, LDTR, 0, 0, 0x10000);
    set_segment(sim, TR, 0x18, 0x67, 0x8b);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, long_mode ? 0x80050033 : 0x33);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, long_mode ? 0x2020 : 0x2000);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_EFER, long_mode ? 0xd00 : 0);
    uint64_t entry = sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) & ~UINT64_C(0x200);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS, entry | (long_mode ? 0x200 : 0));
}

void sim_l1_mode32(struct sim *sim) {
    set_mode(sim, false);
}

void sim_l1_mode64(struct sim *sim) {
    set_mode(sim, true);
}

/* PML4 -> PDPT -> PD: the first GiB in pages of 2 MiB, linear = gpa1. */
static void build_l1_tables(struct sim *sim) {
    sim_write64(sim, SIM_L1_PML4, (SIM_L1_PML4 + 0x1000) | 3);
    sim_write64(sim, SIM_L1_PML4 + 0x1000, (SIM_L1_PML4 + 0x2000) | 3);
    for (uint64_t i = 0; i < 512; i++)
        sim_write64(sim, SIM_L1_PML4 + 0x2000 + i * 8, (i << 21) | 0x83);
}

static uint64_t machine_only(const struct sim *sim, enum nvmx_cap cap, uint64_t wanted) {
    return (wanted & (sim->machine.msr[cap] >> 32)) | (sim->machine.msr[cap] & 0xffffffff);
}

static void set_controls(struct sim *sim) {
    bool owns = sim->options.external_interrupts;
    uint64_t primary = machine_only(sim, NVMX_CAP_TRUE_PROCBASED, UINT64_C(1) << 31 | 1u << 28 | 1u << 25);
    uint64_t secondary = 1u << 1 | 1u << 3 | 1u << 5 | 1u << 7 | 1u << 12 | 1u << 20;
    if (sim->options.shadow)
        secondary |= 1u << 14;
    uint64_t exit = machine_only(sim, NVMX_CAP_TRUE_EXIT, 1u << 2 | 1u << 9 | 1u << 18 | 1u << 19 | 1u << 20 | 1u << 21 | (owns ? 1u << 15 : 0));
    const struct {
        enum nvmx_field slot;
        uint64_t value;
    } all[] = {
        {NVMX_F_PIN_BASED_CONTROLS, machine_only(sim, NVMX_CAP_TRUE_PINBASED, owns ? 0x29 : 0)},
        {NVMX_F_PRIMARY_CONTROLS, primary},
        {NVMX_F_SECONDARY_CONTROLS, machine_only(sim, NVMX_CAP_PROCBASED2, secondary)},
        {NVMX_F_VM_EXIT_CONTROLS, exit},
        {NVMX_F_VM_ENTRY_CONTROLS, machine_only(sim, NVMX_CAP_TRUE_ENTRY, 1u << 2 | 1u << 9 | 1u << 14 | 1u << 15 | sim->options.loads_on_entry)},
        {NVMX_F_EPT_POINTER, SIM_EPTP01},
        {NVMX_F_VPID, 1},
        {NVMX_F_CR0_GUEST_HOST_MASK, 0x20},
        {NVMX_F_CR0_READ_SHADOW, 0x20},
        {NVMX_F_CR4_GUEST_HOST_MASK, 0x2000},
        {NVMX_F_CR4_READ_SHADOW, 0x2000},
        {NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        sim_set(sim, NVMX_VMCS01, all[i].slot, all[i].value);
}

void sim_vmcs01(struct sim *sim) {
    sim->selected = NVMX_VMCS01;
    sim_host_state(sim, NVMX_VMCS01);
    set_controls(sim);
    set_mode(sim, true);
    build_l1_tables(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, SIM_L1_PML4);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP, SIM_L1_STACK);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, 2);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_DR7, 0x400);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_PAT, UINT64_C(0x0007040600070406));
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_GDTR_LIMIT, 0x7f);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_IDTR_LIMIT, 0xfff);
}

void sim_repair(struct sim *sim) {
    uint32_t selected = sim->selected;
    uint64_t pointer = sim_get(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER);
    sim_vmcs01(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER, pointer);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
    sim->selected = selected;
    sim->ranges = 1;
    sim->pages_max = SIM_PAGES;
    sim->fail = (struct sim_fail){0};
    for (uint32_t i = 0; i < sim->msrs; i++)
        sim->msr[i].refuse_read = sim->msr[i].refuse_write = false;
    sim_msr(sim, 0xc0000080)->value = 0xd00;
    nvmx_vmcs01_changed(sim->vcpu);
    nvmx_memory_changed(sim->vcpu, 0, SIM_RAM_BYTES);
}
