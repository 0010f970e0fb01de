/* SPDX-License-Identifier: MIT */
/*
 * IA32_FEATURE_CONTROL and the capability MSRs as L1 reads and writes them, and what else L1 can ask the processor
 * about VMX.
 */
#include "../vcpu.h"
#include "caps_internal.h"

#define EXIT_REASON_WRMSR 32u

/* SDM table 2-2, IA32_FEATURE_CONTROL. L1 has no SMX, SGX or LMCE as far as this MSR goes: their bits can't be set. */
#define FEATURE_CONTROL_LOCK  (UINT64_C(1) << 0)
#define FEATURE_CONTROL_VMX   (UINT64_C(1) << 2)
#define FEATURE_CONTROL_VALID (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX)

#define CPUID_1_ECX_VMX       (1u << 5)

static bool is_capability(uint32_t index) {
    return index >= NVMX_MSR_VMX_FIRST && index <= NVMX_MSR_VMX_LAST;
}

/*
 * The place of a capability MSR, kept inside the array also where the processor speculates past the check of the index.
 */
static unsigned int place_of(uint32_t index) {
    uint32_t place = index - NVMX_MSR_VMX_FIRST;
    uint32_t inside;

    __asm__("" : "+r"(place)); /* the compiler must not know that the clamp does nothing */
    inside = (uint32_t)((int32_t)(place - NVMX_CAP_MSRS) >> 31);
    return place & inside;
}

/* -- MSRs ------------------------------------------------------------------ */

enum nvmx_msr_result nvmx_rdmsr(const struct nvmx_vcpu *vcpu, uint32_t index, uint64_t *value) {
    const struct nvmx_vm *vm = vcpu->vm;

    if (index != NVMX_MSR_FEATURE_CONTROL && !is_capability(index)) {
        return NVMX_MSR_NOT_MINE;
    }
    if (!vm->expose) {
        return NVMX_MSR_FAULT;
    }
    if (index == NVMX_MSR_FEATURE_CONTROL) {
        *value = vcpu->feature_control;
        return NVMX_MSR_DONE;
    }
    unsigned int place = place_of(index);
    if (!caps_msr_exists(&vm->caps, place)) {
        return NVMX_MSR_FAULT;
    }
    *value = vm->caps.msr[place];
    return NVMX_MSR_DONE;
}

static enum nvmx_msr_result write_feature_control(struct nvmx_vcpu *vcpu, uint64_t value, bool by_host) {
    if ((value & ~FEATURE_CONTROL_VALID) != 0 || (!by_host && (vcpu->feature_control & FEATURE_CONTROL_LOCK) != 0)) {
        return NVMX_MSR_FAULT;
    }
    vcpu->feature_control = value;
    return NVMX_MSR_DONE;
}

enum nvmx_msr_result nvmx_wrmsr(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value, bool by_host) {
    uint64_t now;
    enum nvmx_msr_result result = nvmx_rdmsr(vcpu, index, &now);

    if (result != NVMX_MSR_DONE) {
        return result;
    }
    if (index == NVMX_MSR_FEATURE_CONTROL) {
        return write_feature_control(vcpu, value, by_host);
    }
    /* The capability MSRs are read-only; a restore may write what is there. */
    return by_host && value == now ? NVMX_MSR_DONE : NVMX_MSR_FAULT;
}

enum nvmx_next msr_exit(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    uint64_t *gpr = vcpu->regs->gpr;
    uint32_t index = (uint32_t)gpr[NVMX_RCX];
    bool write = basic_reason == EXIT_REASON_WRMSR;
    uint64_t value = (uint64_t)(uint32_t)gpr[NVMX_RDX] << 32 | (uint32_t)gpr[NVMX_RAX];
    enum nvmx_msr_result result = write ? nvmx_wrmsr(vcpu, index, value, false) : nvmx_rdmsr(vcpu, index, &value);
    enum nvmx_status status;

    if (result == NVMX_MSR_NOT_MINE) {
        return NVMX_HOST;
    }
    vcpu->counts.emulated++;
    if (result == NVMX_MSR_FAULT) {
        return l1_raise_gp(vcpu);
    }
    status = l1_skip(vcpu);
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!write) {
        gpr[NVMX_RAX] = (uint32_t)value;
        gpr[NVMX_RDX] = value >> 32;
    }
    return NVMX_ENTER;
}

/* -- other questions ------------------------------------------------------------------ */

void nvmx_cpuid(const struct nvmx_vm *vm, uint32_t leaf, uint32_t regs[4]) {
    if (leaf == 1) {
        regs[2] = (regs[2] & ~CPUID_1_ECX_VMX) | (vm->expose ? CPUID_1_ECX_VMX : 0);
    }
}

bool nvmx_cr_allowed(const struct nvmx_vcpu *vcpu, unsigned int cr, uint64_t value) {
    if (cr != 0 && cr != 4) {
        return true;
    }
    if (!vcpu->vm->expose) {
        return cr == 0 || (value & CR4_VMXE) == 0;
    }
    /* IA32_VMX_CR4_FIXED0 has VMXE: it can't be cleared in VMX operation. */
    return vcpu->mode == NVMX_MODE_OFF || nvmx_cr_fixed_ok(&vcpu->vm->caps, cr, value, false);
}

bool nvmx_init_blocked(const struct nvmx_vcpu *vcpu) {
    return vcpu->mode == NVMX_MODE_ROOT;
}

bool nvmx_a20m_blocked(const struct nvmx_vcpu *vcpu) {
    return vcpu->mode != NVMX_MODE_OFF;
}

void nvmx_a20m(struct nvmx_vcpu *vcpu, bool asserted) {
    vcpu->a20m = asserted;
}
