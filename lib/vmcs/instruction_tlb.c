/* SPDX-License-Identifier: MIT */
/* INVEPT, INVVPID. */
#include "instruction.h"

#define INVEPT_SINGLE              1u
#define INVEPT_ALL                 2u

#define INVVPID_ADDRESS            0u
#define INVVPID_SINGLE             1u
#define INVVPID_ALL                2u
#define INVVPID_SINGLE_BUT_GLOBALS 3u

/* Bit of IA32_VMX_EPT_VPID_CAP that offers type 0. */
#define INVEPT_TYPES  24u
#define INVVPID_TYPES 40u

static struct verdict check_type(const struct instruction *in, unsigned int first, unsigned int last,
                                 unsigned int bit0) {
    const uint64_t offered = in->vcpu->vm->caps.msr[NVMX_CAP_EPT_VPID];
    if (in->reg2 < first || in->reg2 > last || ((offered >> (bit0 + in->reg2)) & 1) == 0) {
        return VERDICT(FAIL, 28);
    }
    return VERDICT(GO_ON, 0);
}

struct verdict invept_before(struct instruction *in) {
    return check_type(in, INVEPT_SINGLE, INVEPT_ALL, INVEPT_TYPES);
}

struct verdict invept_effect(struct instruction *in) {
    struct nvmx_vcpu *vcpu = in->vcpu;
    const struct nvmx_host *host = &vcpu->vm->host;
    const bool all = in->reg2 == INVEPT_ALL;
    const uint64_t eptp12 = in->memory[0];
    if (!all && !nvmx_eptp_valid(&vcpu->vm->caps, eptp12)) {
        return VERDICT(FAIL, 28);
    }
    if (host->ept02_invalidate != NULL) {
        vcpu->counts.callback[CB_EPT02_INVALIDATE]++;
        host->ept02_invalidate(vcpu->ctx, all ? NVMX_FLUSH_EPT_ALL : NVMX_FLUSH_EPT, all ? 0 : eptp12);
    } else if (vcpu->vm->ept != NULL) {
        nvmx_ept_invept(vcpu->vm->ept, vcpu->ctx, all, eptp12);
    }
    return VERDICT(SUCCEED, 0);
}

struct verdict invvpid_before(struct instruction *in) {
    return check_type(in, INVVPID_ADDRESS, INVVPID_SINGLE_BUT_GLOBALS, INVVPID_TYPES);
}

static const uint8_t invvpid_flush[] = {
    [INVVPID_ADDRESS] = NVMX_FLUSH_VPID_ADDRESS,
    [INVVPID_SINGLE] = NVMX_FLUSH_VPID,
    [INVVPID_ALL] = NVMX_FLUSH_VPID,
    [INVVPID_SINGLE_BUT_GLOBALS] = NVMX_FLUSH_VPID_BUT_GLOBALS,
};

/* Only a VPID12 that has a VPID02 can have left anything in this processor's TLB. */
static void flush_vpid12(struct nvmx_vcpu *vcpu, uint32_t type, uint16_t vpid12, uint64_t linear) {
    const unsigned int max = sizeof(vcpu->vpid12_of) / sizeof(vcpu->vpid12_of[0]);
    for (unsigned int i = 0; i < vcpu->vpid02_count && i < max; i++) {
        const uint16_t user = vcpu->vpid12_of[i];
        if (user == 0 || (type != INVVPID_ALL && user != vpid12)) {
            continue;
        }
        host_flush(vcpu, invvpid_flush[type], (uint64_t)vcpu->vpid02_first + i, type == INVVPID_ADDRESS ? linear : 0);
    }
}

struct verdict invvpid_effect(struct instruction *in) {
    struct nvmx_vcpu *vcpu = in->vcpu;
    const uint64_t vpid12 = in->memory[0];
    const uint64_t linear = in->memory[1];
    if (vpid12 > UINT16_MAX || (in->reg2 != INVVPID_ALL && vpid12 == 0) ||
        (in->reg2 == INVVPID_ADDRESS && !nvmx_is_canonical(&vcpu->vm->caps, linear))) {
        return VERDICT(FAIL, 28);
    }
    flush_vpid12(vcpu, (uint32_t)in->reg2, (uint16_t)vpid12, linear);
    return VERDICT(SUCCEED, 0);
}
