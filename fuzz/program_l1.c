/* SPDX-License-Identifier: MIT */
/* What L1 executes: each VMX instruction, and what the model says of it (SDM 33.3). */
#include "program.h"

static struct region *region_at(struct model *o, uint64_t gpa1) {
    for (unsigned int i = 0; i < REGIONS; i++)
        if (o->region[i].gpa1 == gpa1)
            return &o->region[i];
    return NULL;
}

static struct answer answer(enum sim_outcome outcome, uint32_t number) {
    return (struct answer){outcome, number, false};
}

static struct answer vm_fail(const struct model *o, uint32_t error) {
    return o->current == NONE ? answer(SIM_FAIL_INVALID, 0) : answer(SIM_FAIL_VALID, error);
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

void do_vmxon(struct model *o, uint64_t gpa1) {
    struct answer a;
    if (!not_that_far(o, true, &a)) {
        if (o->mode != NVMX_MODE_OFF)
            a = vm_fail(o, 15);
        else
            a = answer(address_ok(gpa1) && identifier_there(o, gpa1) ? SIM_SUCCEED : SIM_FAIL_INVALID, 0);
    }
    model_prepare(o);
    enum sim_outcome got = sim_vmxon(o->sim, gpa1);
    model_finish(o);
    if (model_compare(o, "VMXON", a, got)) {
        o->mode = NVMX_MODE_ROOT;
        o->vmxon = gpa1;
    }
}

void do_vmxoff(struct model *o) {
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = answer(SIM_SUCCEED, 0);
    model_prepare(o);
    enum sim_outcome got = sim_vmxoff(o->sim);
    model_finish(o);
    if (model_compare(o, "VMXOFF", a, got)) {
        o->mode = NVMX_MODE_OFF;
        o->current = NONE;
        o->vmxon = NVMX_NO_ADDRESS;
    }
    if (o->failed)
        model_forget_all(o); /* L1 did not VMCLEAR before, and the host failed */
}

void do_vmcall(struct model *o) {
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = vm_fail(o, 1);
    model_prepare(o);
    enum sim_outcome got = sim_vmcall(o->sim);
    model_finish(o);
    model_compare(o, "VMCALL", a, got);
}

void do_vmclear(struct model *o, uint64_t gpa1) {
    struct region *r = region_at(o, gpa1);
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = !address_ok(gpa1) ? vm_fail(o, 2) : gpa1 == o->vmxon ? vm_fail(o, 3) : answer(SIM_SUCCEED, 0);
    model_prepare(o);
    enum sim_outcome got = sim_vmclear(o->sim, gpa1);
    model_finish(o);
    if (model_compare(o, "VMCLEAR", a, got) && r != NULL) {
        if (current(o) == r)
            o->current = NONE;
        r->launched = false;
        r->launched_known = true;
        if (o->failed) /* its data had no memory to go to */
            model_forget_all(o);
    }
}

void do_vmptrld(struct model *o, uint64_t gpa1) {
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
    model_prepare(o);
    enum sim_outcome got = sim_vmptrld(o->sim, gpa1);
    model_finish(o);
    bool done = model_compare(o, "VMPTRLD", a, got);
    if (o->failed)
        model_forget_all(o); /* another one may have been evicted */
    if (done)
        o->current = (int)(r - o->region);
}

void do_vmptrst(struct model *o) {
    struct answer a;
    uint64_t pointer = 0;
    if (!not_that_far(o, false, &a))
        a = answer(SIM_SUCCEED, 0);
    model_prepare(o);
    enum sim_outcome got = sim_vmptrst(o->sim, &pointer);
    model_finish(o);
    /* map_page can only say that there is no memory: what is stored there is lost. */
    if (model_compare(o, "VMPTRST", a, got) && !o->failed)
        FUZZ_HOLD(pointer == (current(o) ? current(o)->gpa1 : NVMX_NO_ADDRESS), "the current-VMCS pointer is %#llx", U(pointer));
}

static uint32_t some_encoding(struct model *o, unsigned int *slot) {
    if (o->m->options.shadow) /* the simulated processor looks at neither where it answers from the shadow VMCS */
        o->cpl3 = o->compatibility = false;
    uint8_t which = fuzz_u8(o->in);
    *slot = which % NVMX_FIELD_COUNT;
    return which >= NVMX_FIELD_COUNT ? fuzz_u16(o->in) : nvmx_field_info(*slot)->encoding;
}

void do_vmread(struct model *o) {
    unsigned int slot;
    uint32_t encoding = some_encoding(o, &slot);
    bool high = false;
    int found = nvmx_field_find(encoding, &high);
    uint64_t value = 0;
    struct answer a;
    bool exists = found >= 0 && nvmx_set_has(&o->exists, (unsigned int)found);
    if (!not_that_far(o, false, &a))
        a = o->current == NONE ? answer(SIM_FAIL_INVALID, 0) : exists ? answer(SIM_SUCCEED, 0) : answer(SIM_FAIL_VALID, 12);
    model_prepare(o);
    enum sim_outcome got = sim_vmread(o->sim, encoding, &value);
    model_finish(o);
    if (!model_compare(o, "VMREAD", a, got) || high || !current(o))
        return;
    slot = (unsigned int)found;
    struct region *r = current(o);
    if (nvmx_set_has(&r->known, slot))
        FUZZ_HOLD(r->value[slot] == value, "%s is %#llx, not %#llx", nvmx_field_info(slot)->name, U(value), U(r->value[slot]));
    model_set_field(r, slot, value);
}

void do_vmwrite(struct model *o) {
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
    model_prepare(o);
    enum sim_outcome got = sim_vmwrite(o->sim, encoding, value);
    model_finish(o);
    bool done = model_compare(o, "VMWRITE", a, got);
    struct region *r = current(o);
    if (o->failed && r && found >= 0)
        nvmx_set_remove(&r->known, (unsigned int)found);
    else if (done && high)
        nvmx_set_remove(&r->known, (unsigned int)found);
    else if (done && r)
        model_set_field(r, (unsigned int)found, value);
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
    return (struct answer){.outcome = SIM_L2, .any = lists || pages || fuzz_host_in_the_way(o->m, r->value)};
}

void do_entry(struct model *o, bool launch) {
    struct region *r = current(o);
    struct answer a;
    if (!not_that_far(o, false, &a))
        a = r == NULL ? answer(SIM_FAIL_INVALID, 0) : entry_answer(o, launch);
    model_prepare(o);
    enum sim_outcome got = launch ? sim_vmlaunch(o->sim) : sim_vmresume(o->sim);
    model_finish(o);
    if (!model_compare(o, launch ? "VMLAUNCH" : "VMRESUME", a, got)) {
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
        model_check_l2_msrs(o);
        bool whole = true;
        for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
            whole = whole && (o->exists.word[w] & ~r->known.word[w]) == 0;
        if (whole)
            fuzz_check_vmcs02(o->m, r->value);
    }
}

void do_invalidate(struct model *o, bool ept) {
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
    model_prepare(o);
    enum sim_outcome got = ept ? sim_invept(o->sim, type, descriptor, second) : sim_invvpid(o->sim, type, descriptor, second);
    model_finish(o);
    model_compare(o, ept ? "INVEPT" : "INVVPID", a, got);
}

/* L1 writes a whole vmcs12 that is right, with some changes. */
void do_good_vmcs12(struct model *o) {
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
        model_set_field(r, slot, field[slot]);
    }
    fuzz_log("a vmcs12 is written");
}
