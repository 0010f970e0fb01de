/* SPDX-License-Identifier: MIT */
/*
 * Programs: VMX instructions of L1, exits of L2, calls of the host, failing callbacks, on four VMCSs, against a slow model of the state machine.
 *
 * Held: each instruction's outcome and VMfail number (SDM 33.3); mode, current-VMCS pointer, launch states; every field as L1 last wrote it or an exit
 * left it; an operation that is refused because a callback failed changes nothing; saving and restoring changes nothing; nothing stays mapped.
 *
 * Input: profile, then operations.
 */
#include "program.h"

static const uint64_t addresses[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_B, 0x26000, 0x27000, SIM_L1_VMXON, 0x28000, 0x7004, UINT64_C(1) << 46,
                                     SIM_RAM_BYTES, NVMX_NO_ADDRESS, 0x26800};

void model_set_field(struct region *r, unsigned int slot, uint64_t value) {
    r->value[slot] = value & nvmx_field_mask(slot);
    nvmx_set_add(&r->known, slot);
}

void model_forget_all(struct model *o) {
    for (unsigned int i = 0; i < REGIONS; i++) {
        memset(&o->region[i].known, 0, sizeof(o->region[i].known));
        o->region[i].launched_known = false;
    }
}

/* -- before and after an instruction ------------------------------------------------------------------------------------------------------ */

void model_prepare(struct model *o) {
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

void model_finish(struct model *o) {
    o->failed = o->sim->failed != 0;
    memset(&o->sim->fail, 0, sizeof(o->sim->fail));
    o->cpl3 = o->compatibility = o->no_vmxe = o->mov_ss = o->injects = false;
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc093);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_CR4_READ_SHADOW, 0x2000);
    sim_set(o->sim, NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
}

bool model_compare(struct model *o, const char *what, struct answer a, enum sim_outcome got) {
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
            model_set_field(current(o), NVMX_F_VM_INSTRUCTION_ERROR, error);
    }
    return got == SIM_SUCCEED || got == SIM_L2;
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
    if (below(16) == 0) { /* WRMSR of who runs */
        const uint8_t wrmsr[] = {223, (uint8_t)below(5), 1, (uint8_t)below(256), (uint8_t)below(256)};
        memcpy(out, wrmsr, sizeof(wrmsr));
        return sizeof(wrmsr);
    }
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
    if (o->over)
        model_stopped(o);
    return 0;
}
