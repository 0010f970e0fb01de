/* SPDX-License-Identifier: MIT */
/*
 * The VMX-preemption timer where the processor has none (SDM 28.5.1): it counts down in L2 whenever bit X of the TSC changes (X: IA32_VMX_MISC[4:0]), and
 * the host's deadline says when it is over.
 */
#include "exits.h"

static unsigned int rate(const struct nvmx_vcpu *vcpu) {
    return vcpu->vm->caps.msr[NVMX_CAP_MISC] & 31;
}

static __attribute__((noinline)) uint64_t tsc_now(struct nvmx_vcpu *vcpu) {
    vcpu->counts.callback[CB_TSC]++;
    return vcpu->vm->host.tsc(vcpu->ctx);
}

static __attribute__((noinline)) void set_deadline(struct nvmx_vcpu *vcpu, uint64_t tsc) {
    vcpu->timer_runs = tsc != NVMX_NO_DEADLINE;
    vcpu->timer_deadline = tsc;
    vcpu->counts.callback[CB_DEADLINE]++;
    vcpu->vm->host.deadline(vcpu->ctx, tsc);
}

void timer_start(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t value) {
    if (!vcpu->vm->timer_by_deadline || (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) == 0) {
        return;
    }
    uint64_t ticks = value << rate(vcpu); /* at most 63 bits */
    uint64_t now = tsc_now(vcpu);

    set_deadline(vcpu, ticks < NVMX_NO_DEADLINE - 1 - now ? now + ticks : NVMX_NO_DEADLINE - 1);
}

uint64_t timer_remainder(struct nvmx_vcpu *vcpu) {
    uint64_t now = tsc_now(vcpu);
    uint64_t ticks = vcpu->timer_deadline > now ? vcpu->timer_deadline - now : 0;
    uint64_t unit = UINT64_C(1) << rate(vcpu);

    /* It is over when nothing is left, not before. */
    return ticks / unit + (ticks % unit != 0);
}

void timer_cancel(struct nvmx_vcpu *vcpu) {
    if (vcpu->timer_runs) {
        set_deadline(vcpu, NVMX_NO_DEADLINE);
    }
}

void timer_end(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    if (vcpu->timer_runs && (v->value[NVMX_F_VM_EXIT_CONTROLS] & EXIT_SAVE_TIMER) != 0) {
        v->value[NVMX_F_PREEMPTION_TIMER_VALUE] = timer_remainder(vcpu) & nvmx_field_mask(NVMX_F_PREEMPTION_TIMER_VALUE);
    }
    timer_cancel(vcpu);
}
