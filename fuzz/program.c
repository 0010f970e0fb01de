/* SPDX-License-Identifier: MIT */
/*
 * Programs: VMX instructions of L1, exits of L2, calls of the host, failing callbacks, on four VMCSs, against a slow model of the state machine.
 *
 * Held: each instruction's outcome and VMfail number (SDM 33.3); mode, current-VMCS pointer, launch states; every field as L1 last wrote it or an exit
 * left it; an operation that is refused because a callback failed changes nothing; saving and restoring changes nothing; nothing stays mapped.
 *
 * Input: profile, then operations.
 */
#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define REGIONS 4u
#define NONE (-1)

struct region {
    uint64_t gpa1;
    bool launched, launched_known;
    uint64_t value[NVMX_FIELD_COUNT];
    struct nvmx_field_set known; /* of the others the model takes what L1 reads next */
};

struct model {
    struct fuzz_machine *m;
    struct sim *sim;
    struct fuzz_input *in;
    enum nvmx_mode mode;
    uint64_t vmxon;
    int current;
    struct region region[REGIONS];
    struct nvmx_field_set exists;
    bool pending, launching; /* L2 is about to run; by VMLAUNCH */
    bool holes;
    /* of the next instruction only */
    bool cpl3, compatibility, no_vmxe, mov_ss, injects;
    bool a20m; /* until told otherwise */
    bool failed; /* a callback was made to fail in it */
    bool misconfigured; /* the exit says that ept02 is, which it never is: the host's fault if nothing was missing there */
    bool over;
};

/* What an instruction is to give. error: VMfail's number; vector: of a fault. */
struct answer {
    enum sim_outcome outcome;
    uint32_t number;
    bool any; /* not known to the model */
};

static const uint64_t addresses[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_B, 0x26000, 0x27000, SIM_L1_VMXON, 0x28000, 0x7004, UINT64_C(1) << 46,
                                     SIM_RAM_BYTES, NVMX_NO_ADDRESS, 0x26800};

static struct region *current(struct model *o) {
    return o->current == NONE ? NULL : &o->region[o->current];
}

static struct region *region_at(struct model *o, uint64_t gpa1) {
    for (unsigned int i = 0; i < REGIONS; i++)
        if (o->region[i].gpa1 == gpa1)
            return &o->region[i];
    return NULL;
}

static void set_field(struct region *r, unsigned int slot, uint64_t value) {
    r->value[slot] = value & nvmx_field_mask(slot);
    nvmx_set_add(&r->known, slot);
}

static void forget_all(struct model *o) {
    for (unsigned int i = 0; i < REGIONS; i++) {
        memset(&o->region[i].known, 0, sizeof(o->region[i].known));
        o->region[i].launched_known = false;
    }
}

/* -- before and after an instruction ------------------------------------------------------------------------------------------------------ */

static void prepare(struct model *o) {
    struct sim *sim = o->sim;
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, o->cpl3 ? 0xc0f3 : 0xc093);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CS_ACCESS_RIGHTS, o->compatibility ? 0xc09b : 0xa09b);
    sim_set(sim, NVMX_VMCS01, NVMX_F_CR4_READ_SHADOW, o->no_vmxe ? 0 : 0x2000);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, o->mov_ss ? 2 : 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, SIM_L1_PML4); /* L1's handler loads its own tables, whatever the host CR3 that it gave its VMCS */
    sim->queued_vector = -1;
    sim->calls = 0;
    sim->failed = 0;
    if (o->injects)
        sim->fail.at = 1u + fuzz_u8(o->in) % 48u;
}

static void finish(struct model *o) {
    o->failed = o->sim->failed != 0;
    memset(&o->sim->fail, 0, sizeof(o->sim->fail));
    o->cpl3 = o->compatibility = o->no_vmxe = o->mov_ss = o->injects = false;
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc093);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_CR4_READ_SHADOW, 0x2000);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
}

static struct answer answer(enum sim_outcome outcome, uint32_t number) {
    return (struct answer){outcome, number, false};
}

static struct answer vm_fail(const struct model *o, uint32_t error) {
    return o->current == NONE ? answer(SIM_FAIL_INVALID, 0) : answer(SIM_FAIL_VALID, error);
}

/* Compare; true: it is as the model says and did what it is for. */
static bool compare(struct model *o, const char *what, struct answer a, enum sim_outcome got) {
    fuzz_log("%s: %s%s", what, sim_outcome_text(got), o->failed ? " (a callback failed)" : "");
    if (got == SIM_STOPPED) {
        FUZZ_HOLD(o->failed || o->holes || nvmx_stop_reason(o->sim->vcpu) == NVMX_STOP_VMX_ABORT, "%s stops the vCPU: %s", what,
                  nvmx_status_text(nvmx_stop_status(o->sim->vcpu)));
        o->over = true;
        return false;
    }
    bool same = got == a.outcome;
    if (o->failed && !same && !(a.any && got == SIM_L2)) {
        /* Refused; the model stays as it is. */
        FUZZ_HOLD(got == SIM_FAIL_VALID || got == SIM_FAIL_INVALID || got == SIM_AGAIN || got == SIM_FAULT || got == SIM_ENTRY_FAILED,
                  "%s: %s after a failed callback (%d) instead of %s", what, sim_outcome_text(got), (int)o->sim->last_failed, sim_outcome_text(a.outcome));
        if (got == SIM_FAIL_VALID && current(o))
            nvmx_set_remove(&current(o)->known, NVMX_F_VM_INSTRUCTION_ERROR);
        return false;
    }
    FUZZ_HOLD(a.any || same, "%s: %s instead of %s", what, sim_outcome_text(got), sim_outcome_text(a.outcome));
    if (got == SIM_FAULT && !a.any && !o->failed)
        FUZZ_HOLD(sim_fault_vector(o->sim) == (int)a.number, "%s: exception %d instead of %u", what, sim_fault_vector(o->sim), a.number);
    if (got == SIM_FAIL_VALID) {
        uint32_t error = sim_instruction_error(o->sim);
        FUZZ_HOLD(a.any || o->failed || error == a.number, "%s: VMfail %u instead of %u", what, error, a.number);
        if (current(o))
            set_field(current(o), NVMX_F_VM_INSTRUCTION_ERROR, error);
    }
    return got == SIM_SUCCEED || got == SIM_L2;
}

/* What comes before an instruction's own work (SDM 33.3): true, and *a is the answer, if it does not get that far. */
static bool not_that_far(const struct model *o, bool vmxon, struct answer *a) {
    if (o->compatibility || (vmxon ? o->no_vmxe : o->mode == NVMX_MODE_OFF))
        *a = answer(SIM_FAULT, 6);
    else if (o->cpl3 || (vmxon && o->a20m && o->mode == NVMX_MODE_OFF))
        *a = answer(SIM_FAULT, 13);
    else
        return false;
    return true;
}

/* -- instructions -------------------------------------------------------------------------------------------------------------------------- */

static bool address_ok(uint64_t gpa1) {
    return gpa1 % NVMX_PAGE_SIZE == 0 && gpa1 < UINT64_C(1) << 40;
}

static uint32_t identifier(const struct model *o) {
    return (uint32_t)nvmx_l1_caps(o->sim->vm)->msr[NVMX_CAP_BASIC] & 0x7fffffff;
}

static bool identifier_there(const struct model *o, uint64_t gpa1) {
    return gpa1 < SIM_RAM_BYTES && sim_read32(o->sim, gpa1) == identifier(o);
}

static void do_vmxon(struct model *o, uint64_t gpa1) {
    struct answer a;
    if (!not_that_far(o, true, &a)) {
        if (o->mode != NVMX_MODE_OFF)
            a = vm_fail(o, 15);
        else
            a = answer(address_ok(gpa1) && identifier_there(o, gpa1) ? SIM_SUCCEED : SIM_FAIL_INVALID, 0);
    }
    prepare(o);
    enum sim_outcome got = sim_vmxon(o->sim, gpa1);
    finish(o);
    if (compare(o, "VMXON", a, got)) {
        o->mode = NVMX_MODE_ROOT;
        o->vmxon = gpa1;
    }
}

static void do_vmxoff(struct model *o) {
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = answer(SIM_SUCCEED, 0);
    prepare(o);
    enum sim_outcome got = sim_vmxoff(o->sim);
    finish(o);
    if (compare(o, "VMXOFF", a, got)) {
        o->mode = NVMX_MODE_OFF;
        o->current = NONE;
        o->vmxon = NVMX_NO_ADDRESS;
    }
    if (o->failed)
        forget_all(o); /* L1 did not VMCLEAR before, and the host failed */
}

static void do_vmcall(struct model *o) {
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = vm_fail(o, 1);
    prepare(o);
    enum sim_outcome got = sim_vmcall(o->sim);
    finish(o);
    compare(o, "VMCALL", a, got);
}

static void do_vmclear(struct model *o, uint64_t gpa1) {
    struct region *r = region_at(o, gpa1);
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = !address_ok(gpa1) ? vm_fail(o, 2) : gpa1 == o->vmxon ? vm_fail(o, 3) : answer(SIM_SUCCEED, 0);
    prepare(o);
    enum sim_outcome got = sim_vmclear(o->sim, gpa1);
    finish(o);
    if (compare(o, "VMCLEAR", a, got) && r != NULL) {
        if (current(o) == r)
            o->current = NONE;
        r->launched = false;
        r->launched_known = true;
        if (o->failed) /* its data had no memory to go to */
            forget_all(o);
    }
}

static void do_vmptrld(struct model *o, uint64_t gpa1) {
    struct region *r = region_at(o, gpa1);
    struct answer a;
    if (!not_that_far(o, false, &a)) {
        if (!address_ok(gpa1))
            a = vm_fail(o, 9);
        else if (gpa1 == o->vmxon)
            a = vm_fail(o, 10);
        else
            a = identifier_there(o, gpa1) ? answer(SIM_SUCCEED, 0) : vm_fail(o, 11);
    }
    if (a.outcome == SIM_SUCCEED && r == NULL)
        return; /* a VMXON region of the past: not one of the model's */
    prepare(o);
    enum sim_outcome got = sim_vmptrld(o->sim, gpa1);
    finish(o);
    bool done = compare(o, "VMPTRLD", a, got);
    if (o->failed)
        forget_all(o); /* another one may have been evicted */
    if (done)
        o->current = (int)(r - o->region);
}

static void do_vmptrst(struct model *o) {
    struct answer a;
    uint64_t pointer = 0;
    if (!not_that_far(o, false, &a))
        a = answer(SIM_SUCCEED, 0);
    prepare(o);
    enum sim_outcome got = sim_vmptrst(o->sim, &pointer);
    finish(o);
    /* map_page can only say that there is no memory: what is stored there is lost. */
    if (compare(o, "VMPTRST", a, got) && !o->failed)
        FUZZ_HOLD(pointer == (current(o) ? current(o)->gpa1 : NVMX_NO_ADDRESS), "the current-VMCS pointer is %#llx", U(pointer));
}

static uint32_t some_encoding(struct model *o, unsigned int *slot) {
    if (o->m->options.shadow) /* the simulated processor looks at neither where it answers from the shadow VMCS */
        o->cpl3 = o->compatibility = false;
    uint8_t which = fuzz_u8(o->in);
    *slot = which % NVMX_FIELD_COUNT;
    return which >= NVMX_FIELD_COUNT ? fuzz_u16(o->in) : nvmx_field_info(*slot)->encoding;
}

static void do_vmread(struct model *o) {
    unsigned int slot;
    uint32_t encoding = some_encoding(o, &slot);
    bool high = false;
    int found = nvmx_field_find(encoding, &high);
    uint64_t value = 0;
    struct answer a;
    bool exists = found >= 0 && nvmx_set_has(&o->exists, (unsigned int)found);
    if (!not_that_far(o, false, &a))
        a = o->current == NONE ? answer(SIM_FAIL_INVALID, 0) : exists ? answer(SIM_SUCCEED, 0) : answer(SIM_FAIL_VALID, 12);
    prepare(o);
    enum sim_outcome got = sim_vmread(o->sim, encoding, &value);
    finish(o);
    if (!compare(o, "VMREAD", a, got) || high || !current(o))
        return;
    slot = (unsigned int)found;
    struct region *r = current(o);
    if (nvmx_set_has(&r->known, slot))
        FUZZ_HOLD(r->value[slot] == value, "%s is %#llx, not %#llx", nvmx_field_info(slot)->name, U(value), U(r->value[slot]));
    set_field(r, slot, value);
}

static void do_vmwrite(struct model *o) {
    unsigned int slot;
    uint32_t encoding = some_encoding(o, &slot);
    uint64_t value = fuzz_value(o->in);
    bool high = false;
    int found = nvmx_field_find(encoding, &high);
    struct answer a;
    bool exists = found >= 0 && nvmx_set_has(&o->exists, (unsigned int)found);
    bool read_only = (encoding >> 10 & 3) == 1 && !(nvmx_l1_caps(o->sim->vm)->msr[NVMX_CAP_MISC] >> 29 & 1);
    if (slot == NVMX_F_HOST_RIP || found == NVMX_F_HOST_RIP)
        return; /* by it the simulated host tells a failed entry from others */
    if (!not_that_far(o, false, &a))
        a = o->current == NONE ? answer(SIM_FAIL_INVALID, 0)
            : !exists          ? answer(SIM_FAIL_VALID, 12)
            : read_only        ? answer(SIM_FAIL_VALID, 13)
                               : answer(SIM_SUCCEED, 0);
    prepare(o);
    enum sim_outcome got = sim_vmwrite(o->sim, encoding, value);
    finish(o);
    bool done = compare(o, "VMWRITE", a, got);
    struct region *r = current(o);
    if (o->failed && r && found >= 0)
        nvmx_set_remove(&r->known, (unsigned int)found);
    else if (done && high)
        nvmx_set_remove(&r->known, (unsigned int)found);
    else if (done && r)
        set_field(r, (unsigned int)found, value);
}

/* -- VM entries ------------------------------------------------------------------------------------------------------------------------------ */

/* What the checks say of the current vmcs12, if the model knows it whole. */
static struct answer entry_answer(struct model *o, bool launch) {
    struct region *r = current(o);
    struct nvmx_check_input check = {.field = r->value, .caps = nvmx_l1_caps(o->sim->vm), .current_vmcs = r->gpa1, .vmxon_pointer = o->vmxon,
                                     .l1_long_mode = true};
    struct nvmx_check_failure failure;
    if (o->mov_ss)
        return answer(SIM_FAIL_VALID, 26);
    if (!r->launched_known)
        return (struct answer){.any = true};
    if (r->launched == launch)
        return answer(SIM_FAIL_VALID, launch ? 4 : 5);
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
        if (o->exists.word[w] & ~r->known.word[w])
            return (struct answer){.any = true};
    fuzz_gather(o->m, &check);
    if (!nvmx_check_first(&check, NVMX_CHECK_ALL, &failure))
        return failure.vm_fail ? answer(SIM_FAIL_VALID, failure.vm_fail) : answer(SIM_ENTRY_FAILED, 0);
    /* Pages that are not there, MSRs that can't be loaded. */
    bool lists = (r->value[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] | r->value[NVMX_F_VM_EXIT_MSR_LOAD_COUNT]) != 0;
    bool pages = o->holes || r->value[NVMX_F_VIRTUAL_APIC_ADDRESS] >= SIM_RAM_BYTES || r->value[NVMX_F_APIC_ACCESS_ADDRESS] >= SIM_RAM_BYTES ||
                 r->value[NVMX_F_PIN_BASED_CONTROLS] >> 7 & 1;
    return (struct answer){.outcome = SIM_L2, .any = lists || pages};
}

static void do_entry(struct model *o, bool launch) {
    struct region *r = current(o);
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = r == NULL ? answer(SIM_FAIL_INVALID, 0) : entry_answer(o, launch);
    prepare(o);
    enum sim_outcome got = launch ? sim_vmlaunch(o->sim) : sim_vmresume(o->sim);
    finish(o);
    if (!compare(o, launch ? "VMLAUNCH" : "VMRESUME", a, got)) {
        if (got == SIM_ENTRY_FAILED && r != NULL) {
            nvmx_set_remove(&r->known, NVMX_F_EXIT_REASON);
            nvmx_set_remove(&r->known, NVMX_F_EXIT_QUALIFICATION);
        }
        return;
    }
    if (got == SIM_L2) {
        o->mode = NVMX_MODE_L2;
        o->pending = true;
        o->launching = launch;
        r->launched = true;
        r->launched_known = true;
        bool whole = true;
        for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
            whole = whole && (o->exists.word[w] & ~r->known.word[w]) == 0;
        if (whole)
            fuzz_check_vmcs02(o->m, r->value);
    }
}

static void do_invalidate(struct model *o, bool ept) {
    uint8_t type = fuzz_u8(o->in) % 5;
    uint64_t descriptor = fuzz_value(o->in), second = fuzz_value(o->in);
    const struct nvmx_caps *caps = nvmx_l1_caps(o->sim->vm);
    uint64_t offered = caps->msr[NVMX_CAP_EPT_VPID];
    struct answer a;
    bool good;
    if (!(offered >> (ept ? 20 : 32) & 1)) {
        a = answer(SIM_FAULT, 6);
    } else if (!not_that_far(o, false, &a)) {
        if (ept)
            good = (type == 1 || type == 2) && offered >> (24 + type) & 1 && (type == 2 || nvmx_eptp_valid(caps, descriptor));
        else
            good = type <= 3 && offered >> (40 + type) & 1 && descriptor <= 0xffff && (type == 2 || descriptor != 0) &&
                   (type != 0 || nvmx_is_canonical(caps, second));
        a = good ? answer(SIM_SUCCEED, 0) : vm_fail(o, 28);
    }
    prepare(o);
    enum sim_outcome got = ept ? sim_invept(o->sim, type, descriptor, second) : sim_invvpid(o->sim, type, descriptor, second);
    finish(o);
    compare(o, ept ? "INVEPT" : "INVVPID", a, got);
}

/* L1 writes a whole vmcs12 that is right, with some changes. */
static void do_good_vmcs12(struct model *o) {
    struct region *r = current(o);
    uint64_t field[NVMX_FIELD_COUNT];
    if (o->mode != NVMX_MODE_ROOT || r == NULL)
        return;
    memcpy(field, o->m->field, sizeof(field));
    struct nvmx_check_input check = {.field = field, .caps = nvmx_l1_caps(o->sim->vm), .current_vmcs = r->gpa1, .vmxon_pointer = o->vmxon,
                                     .l1_long_mode = true};
    fuzz_change_vmcs12(o->m, o->in, &check, field, fuzz_u8(o->in) % 8);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        if (!nvmx_set_has(&o->exists, slot) || ((encoding >> 10 & 3) == 1 && !(nvmx_l1_caps(o->sim->vm)->msr[NVMX_CAP_MISC] >> 29 & 1)))
            continue;
        sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
        FUZZ_HOLD(sim_vmwrite(o->sim, encoding, field[slot]) == SIM_SUCCEED, "VMWRITE of %#x", encoding);
        set_field(r, slot, field[slot]);
    }
    fuzz_log("a vmcs12 is written");
}

/* -- L2 ---------------------------------------------------------------------------------------------------------------------------------------- */

/* Guest state that every exit saves (SDM 30.3). */
static const uint8_t always_saved[] = {
    NVMX_F_GUEST_RIP, NVMX_F_GUEST_RSP, NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR3, NVMX_F_GUEST_CR4, NVMX_F_GUEST_ES_SELECTOR, NVMX_F_GUEST_CS_SELECTOR,
    NVMX_F_GUEST_SS_SELECTOR, NVMX_F_GUEST_LDTR_SELECTOR, NVMX_F_GUEST_TR_SELECTOR, NVMX_F_GUEST_CS_BASE, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_TR_BASE,
    NVMX_F_GUEST_GDTR_BASE, NVMX_F_GUEST_IDTR_LIMIT, NVMX_F_GUEST_SYSENTER_ESP,
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
        if ((kind == 0 && slot != NVMX_F_VM_ENTRY_CONTROLS && slot != NVMX_F_VM_ENTRY_INTERRUPTION_INFO) || kind == 3)
            nvmx_set_add(&keeps, slot);
    }
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
        r->known.word[w] &= keeps.word[w];
    nvmx_set_remove(&r->known, NVMX_F_EPT_POINTER); /* VM functions */
    nvmx_set_remove(&r->known, NVMX_F_EPTP_INDEX);
    for (unsigned int i = 0; i < sizeof(always_saved); i++)
        if (nvmx_set_has(&o->exists, always_saved[i]))
            set_field(r, always_saved[i], before->value[always_saved[i]]);
    o->mode = NVMX_MODE_ROOT;
    o->pending = false;
}

static void after_l2(struct model *o, const char *what, enum nvmx_next next, const struct before_exit *before) {
    finish(o);
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
        forget_all(o);
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

static void do_l2_exit(struct model *o) {
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
    enum nvmx_next next = sim_exit_info(o->sim, &exit);
    if (reads)
        fuzz_keep_l1_memory(o->sim, kept, true);
    after_l2(o, "exit", next, &before);
}

static void do_pending(struct model *o) {
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
    after_l2(o, "enter", sim_enter(o->sim, &pending), &before);
}

/* Hardware gives VMfail instead of entering vmcs02. */
static void do_entry_refused(struct model *o) {
    if (!o->pending)
        return;
    enum nvmx_next next = nvmx_entry_refused(o->sim->vcpu, 7);
    FUZZ_HOLD(next == NVMX_ENTER && nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT, "a refused entry does not lead to L1");
    o->mode = NVMX_MODE_ROOT;
    o->pending = false;
    if (o->launching)
        current(o)->launched = false;
    set_field(current(o), NVMX_F_VM_INSTRUCTION_ERROR, 7);
    fuzz_log("vmcs02 is refused");
}

/* The host saw something in L2 that is L1's, or hardware refuses L2's state. What L1's vmcs12 holds then is not modelled. */
static void do_given_exit(struct model *o) {
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
    forget_all(o);
}

/* -- the host ---------------------------------------------------------------------------------------------------------------------------------- */

static void do_memory(struct model *o) {
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
}

/* What a host does now and then. */
static void do_host(struct model *o, uint8_t what) {
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
    default:
        nvmx_vmcs01_changed(sim->vcpu);
    }
}

static void do_shake(struct model *o) {
    if (o->holes || o->m->options.shadow)
        return; /* completing needs the pages */
    struct before_exit before = snapshot(o);
    sim_shake(o->sim, fuzz_u8(o->in) & 1);
    nvmx_a20m(o->sim->vcpu, o->a20m);
    nvmx_fields_existing(nvmx_l1_caps(o->sim->vm), &o->exists);
    bool ended = o->mode == NVMX_MODE_L2 && nvmx_mode(o->sim->vcpu) == NVMX_MODE_ROOT;
    fuzz_log("saved and restored%s", ended ? "; L2's timer is over" : "");
    if (ended)
        l1_has_exit(o, &before);
}

/* L1's RDMSR and WRMSR of VMX MSRs, and what the host asks beside exits. They answer by capabilities and mode, and change nothing but the feature control. */
static void do_question(struct model *o) {
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
    if (o->mode == NVMX_MODE_L2)
        return;
    prepare(o);
    o->sim->regs.gpr[NVMX_RCX] = index;
    uint64_t rax = o->sim->regs.gpr[NVMX_RAX];
    enum nvmx_next next = sim_exit(o->sim, what & 8 ? 32 : 31, 0, 0, 2);
    finish(o);
    FUZZ_HOLD(o->failed || result != NVMX_MSR_NOT_MINE || next == NVMX_HOST, "MSR %#x is not the host's", index);
    if (!o->failed && result == NVMX_MSR_DONE && !(what & 8) && sim_fault_vector(o->sim) < 0)
        FUZZ_HOLD((uint32_t)o->sim->regs.gpr[NVMX_RAX] == (uint32_t)value, "RDMSR of %#x gives %#llx", index, U(o->sim->regs.gpr[NVMX_RAX]));
    else if (what & 8)
        FUZZ_HOLD(o->sim->regs.gpr[NVMX_RAX] == rax, "WRMSR changes RAX");
    if (next == NVMX_STOP)
        o->over = true;
    fuzz_log("MSR %#x: %d, next %d", index, (int)result, (int)next);
}

static void do_reset(struct model *o) {
    nvmx_vcpu_reset(o->sim->vcpu);
    nvmx_wrmsr(o->sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    forget_all(o);
    o->mode = NVMX_MODE_OFF;
    o->current = NONE;
    o->pending = false;
    o->vmxon = NVMX_NO_ADDRESS;
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, 0x2020);
    fuzz_log("reset");
}

static void modify_next(struct model *o) {
    uint8_t what = fuzz_u8(o->in);
    o->cpl3 = what & 1;
    o->compatibility = (what & 6) == 6;
    o->no_vmxe = (what & 8) && o->mode == NVMX_MODE_OFF;
    o->mov_ss = (what >> 4 & 1) && o->mode == NVMX_MODE_ROOT;
    o->injects = what >> 5 & 1;
}

/* -- the whole ------------------------------------------------------------------------------------------------------------------------------------ */

static void in_l2(struct model *o, uint8_t what) {
    switch (what % 8) {
    case 0: case 1: case 2: case 3:
        do_l2_exit(o);
        break;
    case 4:
        do_pending(o);
        break;
    case 5:
        do_entry_refused(o);
        break;
    case 6:
        modify_next(o);
        break;
    default:
        do_given_exit(o);
        break;
    }
}

static uint64_t some_address(struct model *o) {
    return addresses[fuzz_u8(o->in) % (sizeof(addresses) / sizeof(addresses[0]))];
}

static void in_l1(struct model *o, uint8_t what) {
    switch (what % 16) {
    case 0:
        do_vmxon(o, some_address(o));
        break;
    case 1:
        do_vmclear(o, some_address(o));
        break;
    case 2: case 3:
        do_vmptrld(o, some_address(o));
        break;
    case 4:
        do_vmptrst(o);
        break;
    case 5: case 6:
        do_vmread(o);
        break;
    case 7: case 8:
        do_vmwrite(o);
        break;
    case 9: case 10:
        do_entry(o, what % 16 == 9);
        break;
    case 11:
        do_invalidate(o, what & 16);
        break;
    case 12: case 13:
        do_good_vmcs12(o);
        break;
    case 14:
        modify_next(o);
        break;
    default:
        do_vmxoff(o);
        break;
    }
}

static void one_operation(struct model *o) {
    fuzz_piece(o->in, o->mode == NVMX_MODE_L2 ? FUZZ_L2 : FUZZ_L1);
    uint8_t what = fuzz_u8(o->in);
    if (what >= 248)
        do_reset(o);
    else if (what >= 240)
        do_shake(o);
    else if (what >= 224)
        do_memory(o);
    else if (what >= 216)
        do_host(o, what);
    else if (what >= 208)
        do_question(o);
    else if (o->mode == NVMX_MODE_L2)
        in_l2(o, what);
    else
        in_l1(o, what);
    if (!o->over)
        FUZZ_HOLD(nvmx_mode(o->sim->vcpu) == o->mode, "mode %d instead of %d", (int)nvmx_mode(o->sim->vcpu), (int)o->mode);
}

/* Operations that the tables suggest: fields, exits, whole vmcs12s; each of them with a callback that fails. */
static size_t new_exit(uint32_t (*below)(uint32_t limit), uint8_t *out) {
    uint8_t *at = out;
    bool fails = below(3) == 0, gpa = below(2);
    if (fails) {
        *at++ = 6;
        *at++ = 0x20;
    }
    *at++ = 0;
    *at++ = (uint8_t)(128 + (below(80) + 32) % 80);
    *at++ = gpa ? 0x43 : 0x41;
    for (unsigned int i = 0; i < (gpa ? 2u : 1u); i++) { /* qualification, gpa2 */
        *at++ = 1;
        *at++ = (uint8_t)below(256);
        *at++ = (uint8_t)below(i == 0 ? 2 : 0x40);
    }
    if (fails)
        *at++ = (uint8_t)below(48);
    return (size_t)(at - out);
}

size_t fuzz_new_operation(enum fuzz_piece kind, uint32_t (*below)(uint32_t limit), uint8_t *out) {
    uint8_t *at = out;
    uint32_t what = below(8);
    if (kind == FUZZ_L2)
        return new_exit(below, out);
    if (below(4) == 0) {
        *at++ = 14;
        *at++ = 0x20;
    }
    if (what < 2) {
        *at++ = (uint8_t)(5 + 2 * what);
        *at++ = (uint8_t)below(NVMX_FIELD_COUNT);
        *at++ = 6;
        *at++ = (uint8_t)below(64);
    } else if (what < 5) {
        uint8_t *count = at + 1;
        *at++ = 12;
        *at++ = (uint8_t)(1 + below(3));
        for (unsigned int i = 0; i < *count; i++)
            at += fuzz_new_change(below, at);
        *at++ = (uint8_t)(9 + below(2));
    } else {
        *at++ = (uint8_t)(what == 5 ? below(4) : 9 + below(2));
        *at++ = (uint8_t)below(what == 5 ? 6 : 48);
    }
    *at++ = (uint8_t)below(48);
    return (size_t)(at - out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    struct fuzz_machine *m = fuzz_machine(fuzz_u8(&in));
    static struct model model; /* large; all of it is set here */
    struct model *o = &model;
    if (!m)
        return 0;
    memset(o, 0, sizeof(*o));
    o->m = m;
    o->sim = m->sim;
    o->in = &in;
    o->current = NONE;
    o->vmxon = NVMX_NO_ADDRESS;
    m->sim->ranges = 1;
    nvmx_a20m(m->sim->vcpu, false);
    nvmx_memory_changed(m->sim->vcpu, 0, SIM_RAM_BYTES);
    nvmx_fields_existing(nvmx_l1_caps(m->sim->vm), &o->exists);
    for (unsigned int i = 0; i < REGIONS; i++) {
        memset(m->sim->ram + addresses[i], 0, NVMX_PAGE_SIZE);
        sim_region(m->sim, addresses[i]);
        o->region[i].gpa1 = addresses[i];
        o->region[i].launched_known = true;
    }
    sim_region(m->sim, SIM_L1_VMXON);
    sim_region(m->sim, 0x28000);
    for (unsigned int i = 0; i < 200 && fuzz_more(&in) && !o->over; i++)
        one_operation(o);
    return 0;
}
