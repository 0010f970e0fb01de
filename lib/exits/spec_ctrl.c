/* SPDX-License-Identifier: MIT */
/*
 * "Virtualize IA32_SPEC_CTRL" (SDM 27.6.2, 28.3): L2 reads the shadow, and its writes don't reach the bits that L1's mask protects.
 *
 * Carried out here and not by vmcs02: hardware has one mask, and the host's is another one, with another shadow behind it. The host does what L1 itself would
 * do: it reads and writes the MSR as L1 sees it.
 *
 * And MSRs that vmcs02 loads at each entry, which vmcs01 does not do: what L2 writes, and the host intercepts or no exit saves, is written into vmcs02, too.
 */
#include "exits.h"

#define VECTOR_GENERAL_PROTECTION 13

/* The register of the immediate forms (SDM 30.2.5); RSP is in the VMCS. */
static unsigned int immediate_register(const struct nvmx_l2_exit_info *info) {
    return (info->instruction_info >> 3) & 15;
}

static enum nvmx_status written_value(struct nvmx_vcpu *vcpu, bool immediate, const struct nvmx_l2_exit_info *info,
                                      uint64_t *value) {
    const uint64_t *gpr = vcpu->regs->gpr;

    if (!immediate) {
        *value = gpr[NVMX_RDX] << 32 | (uint32_t)gpr[NVMX_RAX];
        return NVMX_OK;
    }
    if (immediate_register(info) == NVMX_RSP) {
        return host_read(vcpu, NVMX_F_GUEST_RSP, value);
    }
    *value = gpr[immediate_register(info)];
    return NVMX_OK;
}

static enum nvmx_status give_value(struct nvmx_vcpu *vcpu, bool immediate, const struct nvmx_l2_exit_info *info,
                                   uint64_t value) {
    uint64_t *gpr = vcpu->regs->gpr;

    if (!immediate) {
        gpr[NVMX_RAX] = (uint32_t)value;
        gpr[NVMX_RDX] = value >> 32;
        return NVMX_OK;
    }
    if (immediate_register(info) == NVMX_RSP) {
        return host_write(vcpu, NVMX_F_GUEST_RSP, value);
    }
    gpr[immediate_register(info)] = value;
    return NVMX_OK;
}

static enum route follow_and_skip(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index, uint64_t value) {
    return merge_follow_msr(vcpu, v, index, value) == NVMX_OK && l2_skip(vcpu) == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

static enum route write_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool immediate, struct nvmx_l2_exit_info *info) {
    const struct l1_fault fault = {.vector = VECTOR_GENERAL_PROTECTION, .has_error_code = true};
    uint64_t mask = v->value[NVMX_F_SPEC_CTRL_MASK];
    uint64_t old;
    uint64_t value = 0;

    if (written_value(vcpu, immediate, info, &value) != NVMX_OK) {
        return ROUTE_FAILED;
    }
    /* Reserved bits give #GP whatever the mask says: those of the whole value, not only of what would be written. */
    if ((value & ~vcpu->vm->caps.spec_ctrl_valid) != 0) {
        return route_fault(vcpu, v, &fault, info);
    }
    if (host_msr_read(vcpu, MSR_SPEC_CTRL, &old) != NVMX_OK ||
        host_msr_write(vcpu, MSR_SPEC_CTRL, (old & mask) | (value & ~mask)) != NVMX_OK) {
        return route_fault(vcpu, v, &fault, info);
    }
    v->value[NVMX_F_SPEC_CTRL_SHADOW] = value;
    return follow_and_skip(vcpu, v, MSR_SPEC_CTRL, (old & mask) | (value & ~mask));
}

static bool is_immediate(const struct exit_row *row) {
    return row->who == WHO_MSR_READ_IMMEDIATE || row->who == WHO_MSR_WRITE_IMMEDIATE;
}

enum route route_spec_ctrl(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct exit_row *row,
                           struct nvmx_l2_exit_info *info) {
    bool immediate = is_immediate(row);

    if (row->who == WHO_MSR_WRITE || row->who == WHO_MSR_WRITE_IMMEDIATE) {
        return write_msr(vcpu, v, immediate, info);
    }
    enum nvmx_status status = give_value(vcpu, immediate, info, v->value[NVMX_F_SPEC_CTRL_SHADOW]);
    if (status == NVMX_OK) {
        status = l2_skip(vcpu);
    }
    return status == NVMX_OK ? ROUTE_DONE : ROUTE_FAILED;
}

/* It is L2's at once, also for L1 where L2 leaves before it was entered again. */
COLD enum route route_loaded_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct exit_row *row, struct nvmx_l2_exit_info *info) {
    const struct l1_fault fault = {.vector = VECTOR_GENERAL_PROTECTION, .has_error_code = true};
    const uint32_t index = (uint32_t)(is_immediate(row) ? info->qualification : vcpu->regs->gpr[NVMX_RCX]);
    uint64_t value = 0;

    if (written_value(vcpu, is_immediate(row), info, &value) != NVMX_OK) {
        return ROUTE_FAILED;
    }
    if (!merge_msr_enters(vcpu, index, value) || host_msr_write(vcpu, index, value) != NVMX_OK) {
        return route_fault(vcpu, v, &fault, info);
    }
    return follow_and_skip(vcpu, v, index, value);
}
