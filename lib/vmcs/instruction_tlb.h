/* SPDX-License-Identifier: MIT */
/* Internal: the effects of INVEPT and INVVPID by their operands, for the phases (instruction_tlb.c) and for the short way (instruction_memory.c). */
#ifndef NVMX_LIB_INSTRUCTION_TLB_H
#define NVMX_LIB_INSTRUCTION_TLB_H

#include "instruction.h"

#define INVEPT_ALL                 2u

#define INVVPID_ADDRESS            0u
#define INVVPID_SINGLE             1u
#define INVVPID_ALL                2u
#define INVVPID_SINGLE_BUT_GLOBALS 3u

/* Whether an EPTP is valid depends on L1's capabilities alone. */
static inline bool eptp_valid(struct nvmx_vcpu *vcpu, uint64_t eptp12) {
    if (eptp12 != vcpu->eptp12_valid || eptp12 == NVMX_NO_ADDRESS) {
        if (!nvmx_eptp_valid(&vcpu->vm->caps, eptp12)) {
            return false;
        }
        vcpu->eptp12_valid = eptp12;
    }
    return true;
}

static inline void invept_of(struct nvmx_vcpu *vcpu, bool all, uint64_t eptp12) {
    const struct nvmx_host *host = &vcpu->vm->host;
    if (vcpu->vm->ept != NULL) {
        nvmx_ept_invept(vcpu->vm->ept, vcpu->ctx, all, eptp12);
    } else if (host->ept02_invalidate != NULL) {
        vcpu->counts.callback[CB_EPT02_INVALIDATE]++;
        host->ept02_invalidate(vcpu->ctx, all ? NVMX_FLUSH_EPT_ALL : NVMX_FLUSH_EPT, eptp12);
    }
}

/* The type is one that L1 has (vm->invept_types). */
static inline struct verdict invept_descriptor(struct nvmx_vcpu *vcpu, uint64_t type, uint64_t eptp12) {
    if (RARE(type == INVEPT_ALL)) {
        invept_of(vcpu, true, 0);
        return VERDICT(SUCCEED, 0);
    }
    if (!eptp_valid(vcpu, eptp12)) {
        return VERDICT(FAIL, 28);
    }
    invept_of(vcpu, false, eptp12);
    return VERDICT(SUCCEED, 0);
}

static const uint8_t invvpid_flush[] = {
    [INVVPID_ADDRESS] = NVMX_FLUSH_VPID_ADDRESS,
    [INVVPID_SINGLE] = NVMX_FLUSH_VPID,
    [INVVPID_SINGLE_BUT_GLOBALS] = NVMX_FLUSH_VPID_BUT_GLOBALS,
};

/* Only a VPID12 that has a VPID02, and none has two, can have left anything in this processor's TLB. */
static inline void flush_vpid12(struct nvmx_vcpu *vcpu, uint64_t type, uint16_t vpid12, uint64_t linear) {
    const unsigned int max = sizeof(vcpu->vpid12_of) / sizeof(vcpu->vpid12_of[0]);
    for (unsigned int i = 0; i < vcpu->vpid02_count && i < max; i++) {
        if (vcpu->vpid12_of[i] == vpid12) {
            host_flush(vcpu, invvpid_flush[type], (uint64_t)vcpu->vpid02_first + i,
                       type == INVVPID_ADDRESS ? linear : 0);
            return;
        }
    }
}

static inline void flush_all_vpid12s(struct nvmx_vcpu *vcpu) {
    const unsigned int max = sizeof(vcpu->vpid12_of) / sizeof(vcpu->vpid12_of[0]);
    for (unsigned int i = 0; i < vcpu->vpid02_count && i < max; i++) {
        if (vcpu->vpid12_of[i] != 0) {
            host_flush(vcpu, NVMX_FLUSH_VPID, (uint64_t)vcpu->vpid02_first + i, 0);
        }
    }
}

/* The type is one that L1 has (vm->invvpid_types). */
static inline struct verdict invvpid_descriptor(struct nvmx_vcpu *vcpu, uint64_t type, uint64_t vpid12, uint64_t linear) {
    if (vpid12 > UINT16_MAX || (type != INVVPID_ALL && vpid12 == 0) ||
        (type == INVVPID_ADDRESS && !nvmx_is_canonical(&vcpu->vm->caps, linear))) {
        return VERDICT(FAIL, 28);
    }
    if (type == INVVPID_ALL) {
        flush_all_vpid12s(vcpu);
    } else {
        flush_vpid12(vcpu, type, (uint16_t)vpid12, linear);
    }
    return VERDICT(SUCCEED, 0);
}

#endif
