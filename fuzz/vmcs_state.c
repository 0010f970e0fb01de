/* SPDX-License-Identifier: MIT */
/*
 * VMCS states: a near-valid vmcs12 on a machine of one profile.
 *
 * Held: the first failing check is the report's first, for all groups and for some; VMLAUNCH answers what the checks say; an accepted vmcs12
 * gives a vmcs02 that passes oracle.c, also after the host has changed vmcs01 meanwhile; leaving L2 gives L1 the host-state area, and L2's state comes back as it went in.
 *
 * Input: profile (L1's mode), groups (and whether the host changes vmcs01, by the whole input's digest), perhaps a callback that fails, host's controls, changes.
 */
#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define TRIPLE_FAULT 2u
#define CR4_PAE UINT64_C(0x20)
#define CR4_PCIDE UINT64_C(0x20000)
#define LONG_MODE UINT64_C(0x500) /* EFER.LMA, EFER.LME */
#define WINDOWS (UINT64_C(1) << 2 | UINT64_C(1) << 22 | UINT64_C(1) << 27) /* for interrupts, NMIs; monitor trap flag */
#define PAE_TABLE 0x29020u /* in a page of L1 that nothing else uses */

static uint64_t read_field(struct sim *sim, enum nvmx_field slot) {
    uint64_t value = 0;
    uint32_t encoding = nvmx_field_info(slot)->encoding;
    FUZZ_HOLD(sim_vmread(sim, encoding, &value) == SIM_SUCCEED, "VMREAD of %#x", encoding);
    return value;
}

/* What VMLAUNCH may answer beyond the checks: memory that is not there, and MSRs that may not be loaded. */
static void check_refusal_beyond(struct fuzz_machine *m, const uint64_t *field, enum sim_outcome outcome) {
    if (outcome == SIM_FAIL_VALID) {
        bool apic = field[NVMX_F_PRIMARY_CONTROLS] >> 21 & 1 && field[NVMX_F_VIRTUAL_APIC_ADDRESS] >= SIM_RAM_BYTES;
        bool accesses = m->options.host_composes && field[NVMX_F_SECONDARY_CONTROLS] & 1 && field[NVMX_F_APIC_ACCESS_ADDRESS] >= SIM_RAM_BYTES;
        bool posted = field[NVMX_F_PIN_BASED_CONTROLS] >> 7 & 1;
        FUZZ_HOLD(sim_instruction_error(m->sim) == 7 && (apic || accesses || posted || fuzz_host_in_the_way(m, field)), "a good vmcs12 gets VMfail %u",
                  sim_instruction_error(m->sim));
    } else if (outcome == SIM_ENTRY_FAILED) {
        FUZZ_HOLD(read_field(m->sim, NVMX_F_EXIT_REASON) == (0x80000000u | 34) && field[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] != 0,
                  "a good vmcs12 gets exit %#llx", U(read_field(m->sim, NVMX_F_EXIT_REASON)));
    } else {
        FUZZ_HOLD(outcome == SIM_STOPPED && nvmx_stop_reason(m->sim->vcpu) == NVMX_STOP_VMX_ABORT, "a good vmcs12: %s",
                  sim_outcome_text(outcome));
    }
}

static void check_refused(struct fuzz_machine *m, const struct nvmx_check_failure *first, enum sim_outcome outcome) {
    const char *id = nvmx_check_row(first->row)->id;
    fuzz_log("refused: %s, %s", id, sim_outcome_text(outcome));
    if (outcome == SIM_STOPPED) { /* the host-state area that the failed entry loads may be bad itself */
        FUZZ_HOLD(first->vm_fail == 0 && nvmx_stop_reason(m->sim->vcpu) == NVMX_STOP_VMX_ABORT, "%s stops the vCPU", id);
        return;
    }
    FUZZ_HOLD(nvmx_last_check(m->sim->vcpu) == first->row, "%s is to fail, %u does", id, nvmx_last_check(m->sim->vcpu));
    if (first->vm_fail != 0) {
        FUZZ_HOLD(outcome == SIM_FAIL_VALID && sim_instruction_error(m->sim) == first->vm_fail, "%s: %s", id, sim_outcome_text(outcome));
        return;
    }
    FUZZ_HOLD(outcome == SIM_ENTRY_FAILED, "%s: %s", id, sim_outcome_text(outcome));
    if (m->sim->queued_vector < 0) {
        FUZZ_HOLD(read_field(m->sim, NVMX_F_EXIT_REASON) == (0x80000000u | first->exit_reason), "%s: exit reason", id);
        FUZZ_HOLD(read_field(m->sim, NVMX_F_EXIT_QUALIFICATION) == first->qualification, "%s: qualification", id);
    }
}

/* -- a 32-bit L1 ----------------------------------------------------------------------------------------------------------------------------------- */

/* An L1 outside of IA-32e mode, its host-state area and an L2 to go with it (SDM 29.2.4: neither control of that mode may be 1). */
static void make_32_bits(uint64_t *field) {
    field[NVMX_F_VM_EXIT_CONTROLS] &= ~(UINT64_C(1) << 9);
    field[NVMX_F_VM_ENTRY_CONTROLS] &= ~(UINT64_C(1) << 9);
    field[NVMX_F_HOST_EFER] &= ~LONG_MODE;
    field[NVMX_F_HOST_CR4] &= ~CR4_PCIDE;
    field[NVMX_F_HOST_CR3] = PAE_TABLE;
    field[NVMX_F_GUEST_EFER] &= ~LONG_MODE;
    field[NVMX_F_GUEST_CR4] &= ~CR4_PCIDE;
    field[NVMX_F_GUEST_CR3] = PAE_TABLE;
    field[NVMX_F_GUEST_CS_ACCESS_RIGHTS] = 0xc09b;
}

static void fill_pae_table(struct sim *sim, struct fuzz_input *in) {
    for (unsigned int i = 0; i < 4; i++)
        sim_write64(sim, PAE_TABLE + i * 8, fuzz_u8(in) & 1 ? (uint64_t)fuzz_u8(in) << 12 | 1 : 0);
    uint8_t bad = fuzz_u8(in);
    if (bad & 1)
        sim_write64(sim, PAE_TABLE + (bad >> 1 & 3) * 8u, UINT64_C(1) << (bad >> 3) | 1);
}

/* L1 is back outside of IA-32e mode: its PDPTEs are those of its CR3 (SDM 30.5.4). */
static void check_32_bits(struct sim *sim, const uint64_t *field) {
    uint64_t cr4 = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4), cs = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CS_ACCESS_RIGHTS);
    FUZZ_HOLD((sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) >> 9 & 1) == 0, "L1 is in IA-32e mode");
    FUZZ_HOLD((cs & 0xf0ff) == 0xc09b, "CS has rights %#llx", U(cs));
    FUZZ_HOLD(((cr4 ^ field[NVMX_F_HOST_CR4]) & CR4_PAE) == 0 && (cr4 & CR4_PCIDE) == 0, "L1's CR4 is %#llx", U(cr4));
    for (unsigned int i = 0; i < 4 && cr4 & CR4_PAE; i++) {
        uint64_t in_memory = sim_read64(sim, (field[NVMX_F_HOST_CR3] & 0xffffffe0) + i * 8u), pdpte = sim_get(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i));
        FUZZ_HOLD(pdpte == in_memory, "L1's PDPTE%u is %#llx, not %#llx", i, U(pdpte), U(in_memory));
        FUZZ_HOLD(!(pdpte & 1) || (pdpte & (0x1e6 | ~((UINT64_C(1) << 40) - 1))) == 0, "PDPTE%u is loaded with reserved bits: %#llx", i, U(pdpte));
    }
}

/* -- the whole ------------------------------------------------------------------------------------------------------------------------------------- */

/* L2 shuts down at once: L1 finds itself where its host-state area says, and L2's state as it put it there. */
static void leave(struct fuzz_machine *m, const uint64_t *field) {
    static const uint8_t back[] = {NVMX_F_GUEST_RIP, NVMX_F_GUEST_RSP, NVMX_F_GUEST_CR3, NVMX_F_GUEST_CS_SELECTOR,
                                   NVMX_F_GUEST_SS_BASE, NVMX_F_GUEST_TR_LIMIT, NVMX_F_GUEST_GDTR_BASE, NVMX_F_GUEST_CR0};
    struct sim *sim = m->sim;
    enum nvmx_next next = sim_exit(sim, TRIPLE_FAULT, 0, 0, 0);
    if (next == NVMX_STOP) {
        FUZZ_HOLD(nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT, "leaving L2 stops the vCPU");
        return;
    }
    FUZZ_HOLD(next == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT, "a triple fault of L2 is not L1's");
    FUZZ_HOLD(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP) == field[NVMX_F_HOST_RIP], "L1's RIP");
    FUZZ_HOLD(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP) == field[NVMX_F_HOST_RSP], "L1's RSP");
    FUZZ_HOLD(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3) == field[NVMX_F_HOST_CR3], "L1's CR3");
    FUZZ_HOLD(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_GS_BASE) == field[NVMX_F_HOST_GS_BASE], "L1's GS base");
    if (!(field[NVMX_F_VM_EXIT_CONTROLS] >> 9 & 1)) { /* a 32-bit L1 reads half of each field */
        check_32_bits(sim, field);
        return;
    }
    FUZZ_HOLD(read_field(sim, NVMX_F_EXIT_REASON) == TRIPLE_FAULT, "exit reason");
    for (size_t i = 0; i < sizeof(back); i++)
        FUZZ_HOLD(read_field(sim, back[i]) == field[back[i]], "%s: %#llx came back as %#llx", nvmx_field_info(back[i])->name,
                  U(field[back[i]]), U(read_field(sim, back[i])));
}

/* While L2 runs vmcs01 changes: vmcs02 follows in what L2 may do, before it goes on. False: L2 does not. */
static bool goes_on(struct fuzz_machine *m, const uint64_t *field, uint64_t bits) {
    fuzz_host_takes_back(m, bits);
    enum nvmx_next next = sim_enter(m->sim, NULL);
    fuzz_log("the host changes vmcs01 by %#llx: %d", U(bits), (int)next);
    if (next == NVMX_STOP) /* it has left: its timer was over, and L1 is as leave() says */
        FUZZ_HOLD(nvmx_stop_reason(m->sim->vcpu) == NVMX_STOP_VMX_ABORT, "vmcs01 changes, and the vCPU stops, reason %d", (int)nvmx_stop_reason(m->sim->vcpu));
    FUZZ_HOLD(next == NVMX_ENTER || next == NVMX_STOP, "L2 does not go on");
    if (next == NVMX_STOP || nvmx_mode(m->sim->vcpu) != NVMX_MODE_L2)
        return false;
    const struct sim_vmcs *vmcs02 = &m->sim->vmcs[m->sim->selected];
    bool window = vmcs02->value[NVMX_F_PRIMARY_CONTROLS] & ~field[NVMX_F_PRIMARY_CONTROLS] & WINDOWS;
    bool timer = vmcs02->value[NVMX_F_PIN_BASED_CONTROLS] & 0x40 && vmcs02->value[NVMX_F_PREEMPTION_TIMER_VALUE] == 0;
    if (!window && !timer) /* with which L2 is to leave again as soon as it has taken its event */
        fuzz_check_vmcs02(m, field);
    return true;
}

/* The same with a callback that fails, in the entry or after: refused, or L2 runs; or the vCPU stops. What is not given back fuzz_machine notices. */
static void check_failing(struct fuzz_machine *m, uint8_t at) {
    struct sim *sim = m->sim;
    sim->calls = sim->failed = 0;
    sim->fail.at = at;
    enum sim_outcome outcome = sim_vmlaunch(sim);
    enum nvmx_next next = outcome == SIM_STOPPED ? NVMX_STOP : NVMX_ENTER;
    if (outcome == SIM_L2)
        next = sim_exit(sim, TRIPLE_FAULT, 0, 0, 0);
    memset(&sim->fail, 0, sizeof(sim->fail));
    fuzz_log("callback %u fails%s: VMLAUNCH: %s, then %d", at, sim->failed ? "" : ", but is not called", sim_outcome_text(outcome), (int)next);
    FUZZ_HOLD(outcome != SIM_SUCCEED && outcome != SIM_FAIL_INVALID && outcome != SIM_TO_HOST, "VMLAUNCH: %s", sim_outcome_text(outcome));
    FUZZ_HOLD(next == NVMX_ENTER || nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT || (sim->failed && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_HOST),
              "the vCPU stops, reason %d", (int)nvmx_stop_reason(sim->vcpu));
    if (next == NVMX_ENTER && sim->failed && (outcome == SIM_FAIL_VALID || outcome == SIM_AGAIN)) {
        outcome = sim_vmlaunch(sim); /* the host has recovered */
        FUZZ_HOLD(outcome == SIM_L2 || outcome == SIM_FAIL_VALID || outcome == SIM_ENTRY_FAILED || outcome == SIM_STOPPED, "VMLAUNCH again: %s", sim_outcome_text(outcome));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    uint8_t profile = fuzz_u8(&in);
    struct fuzz_machine *m = fuzz_machine(profile);
    bool small = (profile & 0xc0) == 0x80; /* L1 outside of IA-32e mode */
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_failure first;
    if (!m)
        return 0;
    memcpy(field, m->field, sizeof(field));
    struct nvmx_check_input check = {.field = field, .caps = nvmx_l1_caps(m->sim->vm), .current_vmcs = SIM_L1_VMCS_A,
                                     .vmxon_pointer = SIM_L1_VMXON, .l1_long_mode = !small};
    if (small) {
        make_32_bits(field);
        fill_pae_table(m->sim, &in);
    }
    uint8_t groups = fuzz_u8(&in), fails = groups & 0x80 ? fuzz_u8(&in) : 0;
    fuzz_host_controls(m, &in);
    fuzz_change_vmcs12(m, &in, &check, field, 40);
    fuzz_load_vmcs12(m, field); /* before memory is looked at: the region itself may be the virtual-APIC page */
    fuzz_gather(m, &check);
    size_t failing = fuzz_checks_agree(&check, groups & NVMX_CHECK_ALL, &first);
    if (small) {
        sim_l1_mode32(m->sim);
        nvmx_vmcs01_changed(m->sim->vcpu);
    }
    if (fails != 0) {
        check_failing(m, fails);
        return 0;
    }
    enum sim_outcome outcome = sim_vmlaunch(m->sim);
    if (failing != 0) {
        check_refused(m, &first, outcome);
    } else if (outcome != SIM_L2) {
        fuzz_log("not refused by a check, but %s", sim_outcome_text(outcome));
        check_refusal_beyond(m, field, outcome);
    } else {
        fuzz_log("L2 runs");
        fuzz_check_vmcs02(m, field);
        if (!(groups & 0x40) || goes_on(m, field, fuzz_digest(data, size)))
            leave(m, field);
    }
    return 0;
}
