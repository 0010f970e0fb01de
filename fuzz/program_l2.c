/* SPDX-License-Identifier: MIT */
/* L2's exits, events for L1 while it runs, and what a host calls at any time. */
#include "program.h"

#include <nvmx/state.h>

#include "architecture.h"

/* Guest state that every exit saves (SDM 30.3). */
static const uint8_t always_saved[] = {
    NVMX_F_GUEST_RIP, NVMX_F_GUEST_RSP, NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR3, NVMX_F_GUEST_CR4, NVMX_F_GUEST_ES_SELECTOR, NVMX_F_GUEST_CS_SELECTOR,
    NVMX_F_GUEST_SS_SELECTOR, NVMX_F_GUEST_LDTR_SELECTOR, NVMX_F_GUEST_TR_SELECTOR, NVMX_F_GUEST_CS_BASE, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_TR_BASE,
    NVMX_F_GUEST_GDTR_BASE, NVMX_F_GUEST_IDTR_LIMIT, NVMX_F_GUEST_SYSENTER_CS, NVMX_F_GUEST_SYSENTER_ESP, NVMX_F_GUEST_SYSENTER_EIP,
};

/* vmcs02 just before the exit. */
struct before_exit {
    uint64_t value[NVMX_FIELD_COUNT];
};

static void l1_has_exit(struct model *o, const struct before_exit *before) {
    struct region *r = current(o);
    struct nvmx_field_set keeps = {{0}};
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t kind = nvmx_field_info(slot)->encoding >> 10 & 3; /* 0 control, 1 information, 2 guest, 3 host */
        if ((kind == 0 && slot != NVMX_F_VM_ENTRY_INTERRUPTION_INFO) || kind == 3)
            nvmx_set_add(&keeps, slot);
    }
    if (nvmx_l1_caps(o->sim->vm)->msr[NVMX_CAP_MISC] >> 5 & 1) /* the exit stores IA32_EFER.LMA (SDM 30.2) */
        r->value[NVMX_F_VM_ENTRY_CONTROLS] ^= (r->value[NVMX_F_VM_ENTRY_CONTROLS] ^ before->value[NVMX_F_VM_ENTRY_CONTROLS]) & ENTRY_IA32E;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
        r->known.word[w] &= keeps.word[w];
    nvmx_set_remove(&r->known, NVMX_F_EPT_POINTER); /* VM functions */
    nvmx_set_remove(&r->known, NVMX_F_EPTP_INDEX);
    for (unsigned int i = 0; i < sizeof(always_saved); i++)
        if (nvmx_set_has(&o->exists, always_saved[i]))
            model_set_field(r, always_saved[i], before->value[always_saved[i]]);
    o->mode = NVMX_MODE_ROOT;
    o->pending = false;
}

static void after_l2(struct model *o, const char *what, enum nvmx_next next, const struct before_exit *before) {
    model_finish(o);
    fuzz_log("%s: %s, mode %d%s", what, next == NVMX_ENTER ? "enter" : next == NVMX_HOST ? "the host's" : "stop",
             (int)nvmx_mode(o->sim->vcpu), o->failed ? " (a callback failed)" : "");
    if (next == NVMX_STOP) {
        FUZZ_HOLD(o->failed || o->holes || o->misconfigured || nvmx_stop_reason(o->sim->vcpu) == NVMX_STOP_VMX_ABORT, "%s stops the vCPU: %s", what,
                  nvmx_status_text(nvmx_stop_status(o->sim->vcpu)));
        o->over = true;
    } else if (nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT) {
        l1_has_exit(o, before);
    }
    if (o->failed)
        model_forget_all(o);
}

/* The same of an exit that is one of hardware's, or nvmx_enter's, of an L2 that ran. */
static void after_exit(struct model *o, const char *what, enum nvmx_next next, const struct before_exit *before) {
    after_l2(o, what, next, before);
    if (!o->over && o->mode == NVMX_MODE_ROOT)
        model_check_l1_msrs(o, before->value);
}

static struct before_exit snapshot(const struct model *o) {
    struct before_exit before;
    memcpy(before.value, o->sim->vmcs[nvmx_selected(o->sim->vcpu)].value, sizeof(before.value));
    return before;
}

/*
 * What the processor would have let L2 load: canonical addresses, a CR3 within the address width, an RPL that no DPL is below, RIP within 32 bits outside
 * of 64-bit mode; in virtual-8086 mode a selector and its base go together (SDM 29.3.1.2, 29.3.1.4).
 */
static uint64_t as_l2_can_have(const struct sim_vmcs *vmcs02, enum nvmx_field slot, uint64_t value) {
    bool v8086 = vmcs02->value[NVMX_F_GUEST_RFLAGS] >> 17 & 1;
    bool mode64 = (vmcs02->value[NVMX_F_VM_ENTRY_CONTROLS] >> 9 & 1) && (vmcs02->value[NVMX_F_GUEST_CS_ACCESS_RIGHTS] >> 13 & 1);
    if (v8086 && (slot == NVMX_F_GUEST_FS_BASE || slot == NVMX_F_GUEST_ES_SELECTOR))
        return vmcs02->value[slot];
    if (slot == NVMX_F_GUEST_ES_SELECTOR)
        return value & 0xfff8;
    if (slot == NVMX_F_GUEST_CR3)
        return value & UINT64_C(0xfffffff000);
    if (slot == NVMX_F_GUEST_RIP && !mode64)
        return value & UINT32_MAX;
    return slot == NVMX_F_GUEST_RIP || slot == NVMX_F_GUEST_FS_BASE ? (uint64_t)((int64_t)(value << 16) >> 16) : value;
}

void do_l2_exit(struct model *o) {
    static const uint8_t reasons[] = {10, 10, 2, 0, 1, 7, 12, 28, 30, 31, 32, 48, 52, 18, 23, 25, 37, 43, 44, 55};
    static const enum nvmx_field changes[] = {NVMX_F_GUEST_RIP, NVMX_F_GUEST_RSP, NVMX_F_GUEST_CR3, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_ES_SELECTOR};
    uint8_t which_reason = fuzz_u8(o->in);
    struct nvmx_l2_exit_info exit = {.reason = which_reason < 128 ? reasons[which_reason % sizeof(reasons)] : which_reason % 80u,
                                     .instruction_length = 2};
    uint8_t kinds = fuzz_u8(o->in);
    uint32_t which = nvmx_selected(o->sim->vcpu);
    if (kinds & 1)
        exit.qualification = fuzz_value(o->in);
    if (kinds & 2)
        exit.guest_physical_address = fuzz_value(o->in);
    if (kinds & 4)
        exit.interruption_info = 0x80000000u | fuzz_u16(o->in);
    if (kinds & 8)
        exit.idt_vectoring_info = fuzz_event_in_flight(&o->sim->vmcs[which], fuzz_u16(o->in));
    if (kinds & 16) {
        enum nvmx_field changed = changes[fuzz_u8(o->in) % 5];
        sim_set(o->sim, which, changed, as_l2_can_have(&o->sim->vmcs[which], changed, fuzz_value(o->in)));
    }
    if (kinds & 32)
        o->sim->regs.gpr[NVMX_RCX] = fuzz_value(o->in);
    if (kinds & 64)
        exit.instruction_info = kinds & 128 ? fuzz_u32(o->in) : 1u << 28 | 1u << 10 | 3u << 3; /* RCX, RBX */
    o->misconfigured = exit.reason == 49;
    struct before_exit before = snapshot(o);
    o->sim->calls = o->sim->failed = 0;
    if (o->injects)
        o->sim->fail.at = 1u + fuzz_u8(o->in) % 48u;
    fuzz_log("L2 exits with reason %u, qualification %#llx, gpa2 %#llx", exit.reason, U(exit.qualification), U(exit.guest_physical_address));
    o->pending = false;
    static uint8_t kept[FUZZ_KEPT_BYTES];
    bool reads = exit.reason == 23 || exit.reason == 25;
    if (reads)
        fuzz_keep_l1_memory(o->sim, kept, false);
    if ((kinds & 0xc0) == 0x80)
        exit.reason |= 1u << 26; /* and L2 locked the bus (SDM 28.2) */
    enum nvmx_next next = sim_exit_info(o->sim, &exit);
    if (reads)
        fuzz_keep_l1_memory(o->sim, kept, true);
    after_exit(o, "exit", next, &before);
}

void do_pending(struct model *o) {
    uint8_t what = fuzz_u8(o->in);
    struct nvmx_pending pending = {.interrupt = what & 1, .nmi = what >> 1 & 1, .init = what >> 2 & 1, .sipi = what >> 3 & 1,
                                   .sipi_vector = 0x9a};
    o->misconfigured = false;
    struct before_exit before = snapshot(o);
    o->sim->calls = o->sim->failed = 0;
    if (o->injects)
        o->sim->fail.at = 1u + fuzz_u8(o->in) % 24u;
    o->sim->vectors[0] = 0x31;
    o->sim->vectors_next = 0;
    o->sim->vectors_count = what & 16 ? 0 : 1; /* or it went away */
    after_exit(o, "enter", sim_enter(o->sim, &pending), &before);
}

/* Hardware gives VMfail instead of entering vmcs02. */
void do_entry_refused(struct model *o) {
    if (!o->pending)
        return;
    enum nvmx_next next = nvmx_entry_refused(o->sim->vcpu, 7);
    FUZZ_HOLD(next == NVMX_ENTER && nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT, "a refused entry does not lead to L1");
    o->mode = NVMX_MODE_ROOT;
    o->pending = false;
    if (o->launching)
        current(o)->launched = false;
    model_set_field(current(o), NVMX_F_VM_INSTRUCTION_ERROR, 7);
    fuzz_log("vmcs02 is refused");
}

/* The host saw something in L2 that is L1's, or hardware refuses L2's state. What L1's vmcs12 holds then is not modelled. */
void do_given_exit(struct model *o) {
    uint8_t what = fuzz_u8(o->in);
    struct nvmx_l2_exit_info exit = {.reason = what % 64u, .instruction_length = 2};
    struct before_exit before = snapshot(o);
    bool refused = o->pending && what >= 192;
    if (what & 64)
        exit.qualification = fuzz_value(o->in);
    o->sim->calls = o->sim->failed = 0;
    if (o->injects)
        o->sim->fail.at = 1u + fuzz_u8(o->in) % 24u;
    o->misconfigured = exit.reason == 49 && !refused;
    if (refused)
        exit.reason = 0x80000021u + (what & 1);
    fuzz_log("%s with reason %#x", refused ? "hardware refuses to enter" : "the host gives an exit", exit.reason);
    static uint8_t kept[FUZZ_KEPT_BYTES];
    fuzz_keep_l1_memory(o->sim, kept, false);
    enum nvmx_next next = refused ? sim_exit_info(o->sim, &exit) : nvmx_l2_exit(o->sim->vcpu, &exit);
    if (exit.reason == 23 || exit.reason == 25)
        fuzz_keep_l1_memory(o->sim, kept, true);
    FUZZ_HOLD(o->failed || o->sim->failed || next == NVMX_STOP || nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT || next == NVMX_HOST, "L2 goes on after %#x", exit.reason);
    if (nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT && refused && o->launching)
        current(o)->launched = false;
    o->pending = o->pending && nvmx_mode(o->sim->vcpu) == NVMX_MODE_L2;
    after_l2(o, "given", next, &before);
    model_forget_all(o);
}

/* -- the host ---------------------------------------------------------------------------------------------------------------------------------- */

void do_memory(struct model *o) {
    static const uint64_t pages[] = {SIM_L1_VIRTUAL_APIC, SIM_L1_MSR_BITMAP, SIM_L1_IO_BITMAP_A, SIM_L1_EPT12 + 0x3000, SIM_L2_GPA1, SIM_L1_APIC_ACCESS,
                                     0x25000};
    uint8_t what = fuzz_u8(o->in);
    uint64_t gpa1 = pages[what % 7];
    struct sim *sim = o->sim;
    if (sim->ranges >= SIM_RANGES)
        return;
    bool hole = what & 0x80;
    sim_ept01(sim, gpa1, 0x1000, SIM_HPA_OFFSET + gpa1, 12, hole ? 0 : 7, 6);
    o->holes = o->holes || hole;
    fuzz_log("memory at %#llx is %s", U(gpa1), hole ? "gone" : "there");
    FUZZ_HOLD(nvmx_memory_changed(sim->vcpu, gpa1, 0x1000) == NVMX_OK, "nvmx_memory_changed");
}

/* The host logs what is written: one page may be read only, until the next exit for it. */
static void do_protect(struct model *o) {
    uint64_t gpa1 = SIM_L2_GPA1 + (uint64_t)(fuzz_u8(o->in) & 7) * NVMX_PAGE_SIZE;
    if (o->sim->ranges >= SIM_RANGES)
        return;
    sim_ept01(o->sim, gpa1, 0x1000, SIM_HPA_OFFSET + gpa1, 12, 5, 6);
    fuzz_log("memory at %#llx is protected", U(gpa1));
    FUZZ_HOLD(nvmx_memory_protected(o->sim->vcpu, gpa1, 0x1000) == NVMX_OK, "nvmx_memory_protected");
    FUZZ_HOLD(nvmx_memory_protected(o->sim->vcpu, gpa1, 0) == NVMX_E_INVALID, "an empty range");
    FUZZ_HOLD(nvmx_memory_changed(o->sim->vcpu, gpa1, 0) == NVMX_E_INVALID, "an empty range");
    FUZZ_HOLD(nvmx_memory_changed(o->sim->vcpu, UINT64_MAX - 0xfff, 0x2000) == NVMX_E_INVALID, "a range that wraps");
}

/* Calls that are for an L2 that runs, and a completion of nothing. */
static void do_misplaced(struct model *o) {
    struct nvmx_l2_exit_info exit = {.reason = o->mode == NVMX_MODE_L2 ? 1000u : fuzz_u8(o->in) % 80u, .instruction_length = 2};
    FUZZ_HOLD(nvmx_l2_exit(o->sim->vcpu, &exit) == NVMX_HOST, "an exit %u in mode %d", exit.reason, (int)o->mode);
    FUZZ_HOLD(nvmx_state_complete(o->sim->vcpu) == NVMX_OK, "completing what was not restored");
    fuzz_log("misplaced calls");
    if (fuzz_u8(o->in) == 0xff && !o->pending) { /* the host has lost count: nothing is known any more */
        FUZZ_HOLD(nvmx_entry_refused(o->sim->vcpu, 7) == NVMX_STOP && nvmx_stop_reason(o->sim->vcpu) == NVMX_STOP_HOST, "an entry is refused in mode %d, and there was none",
                  (int)o->mode);
        o->over = true;
    }
}

static void do_watched(struct model *o) {
    struct before_exit before = snapshot(o);
    enum nvmx_next next;
    o->misconfigured = false;
    o->sim->calls = o->sim->failed = 0;
    if (do_wrmsr(o, &next))
        after_exit(o, "WRMSR", next, &before);
}

/* What a host does now and then. */
void do_host(struct model *o, uint8_t what) {
    struct sim *sim = o->sim;
    switch (what & 7) {
    case 0:
        do_protect(o);
        break;
    case 1:
        sim->tsc += (uint64_t)fuzz_u16(o->in) << 5;
        break;
    case 2:
        o->a20m = !o->a20m;
        nvmx_a20m(sim->vcpu, o->a20m);
        break;
    case 3:
        FUZZ_HOLD(nvmx_a20m_blocked(sim->vcpu) == (o->mode != NVMX_MODE_OFF), "A20M in mode %d", (int)o->mode);
        FUZZ_HOLD(nvmx_stop_status(sim->vcpu) == NVMX_OK && nvmx_counts(sim->vcpu) != NULL, "a vCPU that has stopped");
        (void)nvmx_host_fault_gpa1(sim->vcpu);
        break;
    case 4:
        if (o->mode != NVMX_MODE_L2)
            do_vmcall(o);
        break;
    case 5:
        do_misplaced(o);
        break;
    case 7:
        do_watched(o);
        break;
    default:
        nvmx_vmcs01_changed(sim->vcpu);
    }
}

void do_shake(struct model *o) {
    if (o->holes || o->m->options.shadow)
        return; /* completing needs the pages */
    struct before_exit before = snapshot(o);
    sim_shake(o->sim, fuzz_u8(o->in) & 1);
    nvmx_a20m(o->sim->vcpu, o->a20m);
    nvmx_fields_existing(nvmx_l1_caps(o->sim->vm), &o->exists);
    o->m->exists = o->exists;
    bool ended = o->mode == NVMX_MODE_L2 && nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT;
    fuzz_log("saved and restored%s", ended ? "; L2's timer is over, or it locked the bus" : "");
    if (ended)
        l1_has_exit(o, &before);
}

/* L1's RDMSR and WRMSR of VMX MSRs, and what the host asks beside exits. They answer by capabilities and mode, and change nothing but the feature control. */
void do_question(struct model *o) {
    const struct nvmx_caps *caps = nvmx_l1_caps(o->sim->vm);
    uint8_t what = fuzz_u8(o->in);
    uint32_t index = what & 1 ? 0x480u + fuzz_u8(o->in) % 24u : fuzz_u32(o->in), regs[4] = {1, 2, 0, 4};
    uint64_t value = 0;
    enum nvmx_msr_result result = nvmx_rdmsr(o->sim->vcpu, index, &value);
    if (index >= 0x480 && index < 0x480 + NVMX_CAP_MSRS)
        FUZZ_HOLD(result == NVMX_MSR_FAULT || value == caps->msr[index - 0x480], "MSR %#x reads as %#llx", index, U(value));
    else
        FUZZ_HOLD(index == 0x3a || (index >= 0x480 && index <= 0x4ff) || result == NVMX_MSR_NOT_MINE, "MSR %#x is taken", index);
    nvmx_cpuid(o->sim->vm, what >> 1 & 3, regs);
    FUZZ_HOLD(regs[2] == ((what >> 1 & 3) == 1 ? 1u << 5 : 0u) && regs[0] == 1 && regs[1] == 2 && regs[3] == 4, "CPUID %u", what >> 1 & 3);
    FUZZ_HOLD(nvmx_init_blocked(o->sim->vcpu) == (o->mode == NVMX_MODE_ROOT), "INIT in mode %d", (int)o->mode);
    if (o->mode != NVMX_MODE_OFF && o->mode != NVMX_MODE_L2)
        FUZZ_HOLD(!nvmx_cr_allowed(o->sim->vcpu, 4, 0) && nvmx_cr_allowed(o->sim->vcpu, 4, 0x2020), "CR4.VMXE in VMX operation");
    (void)nvmx_cr_allowed(o->sim->vcpu, what & 4, fuzz_value(o->in));
    FUZZ_HOLD(nvmx_cr_allowed(o->sim->vcpu, 3, 0) && nvmx_cr_allowed(o->sim->vcpu, 8, UINT64_MAX), "VMX says nothing of CR3 and CR8");
    if (o->mode == NVMX_MODE_L2)
        return;
    model_prepare(o);
    o->sim->regs.gpr[NVMX_RCX] = index;
    uint64_t rax = o->sim->regs.gpr[NVMX_RAX];
    enum nvmx_next next = sim_exit(o->sim, what & 8 ? 32 : 31, 0, 0, 2);
    model_finish(o);
    FUZZ_HOLD(o->failed || result != NVMX_MSR_NOT_MINE || next == NVMX_HOST, "MSR %#x is not the host's", index);
    if (!o->failed && result == NVMX_MSR_DONE && !(what & 8) && sim_fault_vector(o->sim) < 0)
        FUZZ_HOLD((uint32_t)o->sim->regs.gpr[NVMX_RAX] == (uint32_t)value, "RDMSR of %#x gives %#llx", index, U(o->sim->regs.gpr[NVMX_RAX]));
    else if (what & 8)
        FUZZ_HOLD(o->sim->regs.gpr[NVMX_RAX] == rax, "WRMSR changes RAX");
    if (next == NVMX_STOP)
        o->over = true;
    fuzz_log("MSR %#x: %d, next %d", index, (int)result, (int)next);
}

/* A vCPU that has stopped runs no more (nvmx.h). */
void model_stopped(struct model *o) {
    struct nvmx_l2_exit_info exit = {.reason = 10, .instruction_length = 2};
    struct nvmx_pending pending = {.nmi = true};
    struct nvmx_vcpu *vcpu = o->sim->vcpu;
    enum nvmx_stop why = nvmx_stop_reason(vcpu);
    FUZZ_HOLD(why != NVMX_STOP_NONE, "a vCPU that goes on has stopped");
    FUZZ_HOLD(nvmx_exit(vcpu, 10) == NVMX_STOP && nvmx_enter(vcpu, &pending) == NVMX_STOP && nvmx_enter(vcpu, NULL) == NVMX_STOP &&
                  nvmx_l2_exit(vcpu, &exit) == NVMX_STOP && nvmx_entry_refused(vcpu, 7) == NVMX_STOP,
              "a stopped vCPU runs");
    FUZZ_HOLD(nvmx_stop_reason(vcpu) == why, "it stopped for another reason");
}

void do_reset(struct model *o) {
    nvmx_vcpu_reset(o->sim->vcpu);
    nvmx_wrmsr(o->sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    model_forget_all(o);
    o->mode = NVMX_MODE_OFF;
    o->current = NONE;
    o->pending = false;
    o->vmxon = NVMX_NO_ADDRESS;
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, 0x2020);
    fuzz_log("reset");
}
