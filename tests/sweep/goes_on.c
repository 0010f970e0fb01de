/* SPDX-License-Identifier: MIT */
/* After whatever happened: nothing fails any more, L1's operating system has put its house in order, and L1 must get
 * through. */
#include "scenario.h"
#include "vcpu.h"

#define CPUID       10u
#define LEAVE_TRIES 3u

/* Like a processor after RESET, at its first instruction. */
static const char *start_anew(struct sim *sim) {
    nvmx_vcpu_reset(sim->vcpu);
    sim->selected = NVMX_VMCS01;
    sim_set(sim, NVMX_VMCS01, NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE ? NULL : "is stopped after a reset";
}

static const char *leave_l2(struct sim *sim) {
    for (unsigned int i = 0; i < LEAVE_TRIES; i++) {
        if (sim_enter(sim, NULL) == NVMX_STOP)
            return "stops at an entry";
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && sim_exit(sim, CPUID, 0, 0, 2) == NVMX_STOP)
            return "stops where L2 is left";
    }
    return nvmx_mode(sim->vcpu) == NVMX_MODE_L2 ? "can't leave L2" : NULL;
}

static const char *launches(struct sim *sim) {
    uint64_t reason = 0;
    if (sim_launch(sim) != SIM_L2)
        return "can't launch an L2";
    if (sim_exit(sim, CPUID, 0, 0, 2) != NVMX_ENTER || nvmx_mode(sim->vcpu) != NVMX_MODE_ROOT)
        return "gets no exit of the new L2";
    if (sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &reason) != SIM_SUCCEED || reason != CPUID)
        return "reads another exit reason";
    return sim_vmxoff(sim) == SIM_SUCCEED ? NULL : "can't leave VMX operation";
}

/* -- the VMCS that was current is not spoilt
 * ----------------------------------------------------------------------------------------------- */

/* A failed entry the simulated L1 knows by where its exit leads; a state of another hypervisor has its own handler. */
static bool is_its_own(const struct sim *sim) {
    const struct vmcs12 *v = vmcs12_current(sim->vcpu);
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && v && v->value[NVMX_F_HOST_RIP] == SIM_L1_EXIT_HANDLER;
}

static bool enters_l2(struct sim *sim) {
    return is_its_own(sim) &&
           (sim_vmresume(sim) == SIM_L2 || (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT && is_its_own(sim) && sim_vmlaunch(sim) == SIM_L2));
}

static bool l1_has_it(struct sim *sim) {
    return sim_exit(sim, CPUID, 0, 0, 2) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;
}

/* What the library knows of the current vmcs12's vmcs02 is forgotten: the next entry writes all of it. */
static bool forget_vmcs02(struct sim *sim) {
    struct nvmx_vcpu *vcpu = sim->vcpu;
    struct vmcs12 *v = vmcs12_current(vcpu);
    if (sync_all(vcpu, v) != NVMX_OK)
        return false;
    memset(&v->known, 0, sizeof(v->known));
    v->controls_merged = v->pages_merged = v->pages_alone = false;
    vcpu->host_controls_known = vcpu->l1_value_known = false;
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++)
        v->dirty.word[w] |= vcpu->vm->exists.word[w];
    return true;
}

static bool same_field(const struct sim_vmcs *now, const struct sim_vmcs *before, unsigned int slot) {
    uint64_t a = now->value[slot], b = before->value[slot];
    if (slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO) /* without the valid bit it says nothing */
        return a == b || ((a | b) & EVENT_VALID) == 0;
    return a == b || !nvmx_set_has(&now->written, slot) || nvmx_encoding_read_only(nvmx_field_info(slot)->encoding);
}

/* The first field in which the vmcs02 that runs differs from `before`; but for what hardware writes. NVMX_FIELD_COUNT:
 * none. */
static unsigned int difference(const struct sim *sim, const struct sim_vmcs *before) {
    const struct sim_vmcs *now = &sim->vmcs[sim->selected];
    unsigned int slot = 0;
    while (slot < NVMX_FIELD_COUNT && same_field(now, before, slot))
        slot++;
    return slot;
}

const char *same_vmcs02(struct sim *sim) {
    static char text[120];
    if (nvmx_mode(sim->vcpu) != NVMX_MODE_ROOT || !vmcs12_current(sim->vcpu) || !enters_l2(sim))
        return NULL;
    /* Once more: the first exit loaded L1's state, of which L2 inherits some. */
    bool left = l1_has_it(sim);
    if (nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT) /* MSR lists that can't be */
        return start_anew(sim);
    if (!left || !enters_l2(sim))
        return "can't resume an L2 that ran";
    struct sim_vmcs before = sim->vmcs[sim->selected];
    if (!l1_has_it(sim) || !forget_vmcs02(sim) || !enters_l2(sim))
        return "can't resume an L2 of which all is written anew";
    unsigned int slot = difference(sim, &before);
    if (slot == NVMX_FIELD_COUNT)
        return l1_has_it(sim) ? NULL : "gets no exit of L2";
    snprintf(text, sizeof(text), "runs L2 with another %s than a new vmcs02 would have", nvmx_field_info(slot)->name);
    return text;
}

static bool runs_in(const struct sim *sim, enum nvmx_mode mode) {
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && nvmx_mode(sim->vcpu) == mode;
}

void keeps_going(struct sim *sim) {
    uint64_t reason = 0;
    sim_repair(sim);
    /* A test of a part of an entry leaves vmcs02 selected. */
    if (nvmx_mode(sim->vcpu) != NVMX_MODE_L2 && host_select(sim->vcpu, NVMX_VMCS01) != NVMX_OK)
        return;
    for (unsigned int round = 0; round < 2; round++) {
        if (nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE)
            sim_enter(sim, NULL);
        if (runs_in(sim, NVMX_MODE_L2))
            sim_exit(sim, CPUID, 0, 0, 2);
        if (!runs_in(sim, NVMX_MODE_ROOT) || !vmcs12_current(sim->vcpu))
            return;
        sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &reason);
        enters_l2(sim);
    }
}

const char *puts_in_order(struct sim *sim) {
    const char *wrong = NULL;
    /* A test of a part of an entry leaves vmcs02 selected; one that restores a state has not entered yet. */
    if (nvmx_mode(sim->vcpu) != NVMX_MODE_L2)
        host_select(sim->vcpu, NVMX_VMCS01);
    sim_repair(sim);
    if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE)
        wrong = start_anew(sim);
    if (!wrong)
        wrong = leave_l2(sim);
    sim_repair(sim);
    return wrong;
}

const char *goes_on(struct sim *sim) {
    if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE)
        return "is stopped";
    const char *wrong = nvmx_mode(sim->vcpu) == NVMX_MODE_L2 ? "can't leave L2" : NULL;
    if (!wrong && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT && sim_vmxoff(sim) != SIM_SUCCEED)
        wrong = "can't leave VMX operation";
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    return wrong ? wrong : launches(sim);
}
