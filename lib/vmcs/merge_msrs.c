/* SPDX-License-Identifier: MIT */
/* MSRs of L2 for which a bitmap alone does not decide: those that a processor virtualizes, for L2 or, by vmcs01, for L1. */
#include "merge.h"

#define MSR_TSC_DEADLINE 0x6e0u

/* Words of the MSR bitmap for 800H-8FFH: reads, and writes. Of these only some in the first can be virtualized. */
#define X2APIC_WORDS      4u
#define WORD_X2APIC_READ  32u
#define WORD_X2APIC_WRITE 288u
#define X2APIC_TPR        (UINT64_C(1) << 0x08)
#define X2APIC_EOI        (UINT64_C(1) << 0x0b)
#define X2APIC_SELF_IPI   (UINT64_C(1) << 0x3f)

/* SDM 32.5: what "virtualize x2APIC mode" makes of RDMSR and WRMSR never reaches the APIC that is L1's, or the host's.
 */
struct bitmap_virtual merge_x2apic_bits(const struct vmcs12 *v) {
    uint32_t secondary = secondary_controls(v);
    bool reads_all = (secondary & PROC2_APIC_REGISTER) != 0;
    uint64_t writes = (secondary & PROC2_VIRTUAL_INTERRUPTS) != 0 ? X2APIC_EOI | X2APIC_SELF_IPI : 0;
    struct bitmap_virtual bits = {.word = {WORD_X2APIC_READ, WORD_X2APIC_READ + 1, WORD_X2APIC_READ + 2,
                                           WORD_X2APIC_READ + 3, WORD_X2APIC_WRITE}};

    if ((secondary & PROC2_X2APIC) != 0) {
        for (unsigned int i = 0; i < X2APIC_WORDS; i++) {
            bits.bits[i] = reads_all ? UINT64_MAX : i == 0 ? X2APIC_TPR : 0;
        }
        bits.bits[X2APIC_WORDS] = X2APIC_TPR | writes;
    }
    return bits;
}

/* -- what vmcs02's entries load for L1, and vmcs01's don't: of that the host knows the MSR alone ----------------------------------------- */

static unsigned int gate_of_msr(uint32_t set, uint32_t index) {
    for (uint32_t left = set; left != 0; left &= left - 1) {
        unsigned int i = (unsigned int)__builtin_ctz(left);

        if (gates[i].msr != 0 && gates[i].msr == index) {
            return i;
        }
    }
    return GATE_COUNT;
}

bool merge_gate_msr(uint32_t index) {
    return gate_of_msr((1u << GATE_COUNT) - 1, index) != GATE_COUNT;
}

COLD bool merge_loads_msr(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index) {
    return gate_of_msr(gates_alone(vcpu, v), index) != GATE_COUNT;
}

/* An entry with a reserved bit fails (SDM 29.3.1.1), as the WRMSR would have. */
COLD bool merge_msr_enters(const struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value) {
    const struct nvmx_caps *caps = &vcpu->vm->caps;

    switch (gate_of_msr((1u << GATE_COUNT) - 1, index)) {
    case GATE_DEBUGCTL:
        return (value & ~caps->debugctl_valid) == 0;
    case GATE_PERF_GLOBAL_CTRL:
        return (value & ~caps->perf_global_ctrl_valid) == 0;
    case GATE_LBR_CTL:
        return (value & ~caps->lbr_ctl_valid) == 0;
    case GATE_SPEC_CTRL:
        return (value & ~caps->spec_ctrl_valid) == 0;
    case GATE_PKRS:
        return value >> 32 == 0;
    default:
        return true;
    }
}

COLD enum nvmx_status merge_follow_msr(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index, uint64_t value) {
    unsigned int i = gate_of_msr(gates_alone(vcpu, v), index);

    if (i == GATE_COUNT) {
        return NVMX_OK;
    }
    enum nvmx_status status = NVMX_OK;
    if (i == GATE_EFER) { /* WRMSR does not change LMA */
        uint64_t now = 0;
        status = host_read(vcpu, NVMX_F_GUEST_EFER, &now);
        value = (value & ~EFER_LMA) | (now & EFER_LMA);
    }
    return status == NVMX_OK ? host_write(vcpu, (enum nvmx_field)gates[i].guest, value) : status;
}

/* Where this processor's exits can't save what the entry loads (SDM 30.3.1), an exit to the host would undo what L2 writes. */
static bool keeps_perf_global_ctrl(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return ((gates_alone(vcpu, v) >> GATE_PERF_GLOBAL_CTRL) & 1) != 0 &&
           ((nvmx_caps_may_be_1(&vcpu->vm->machine, NVMX_CAP_EXIT) >> gates[GATE_PERF_GLOBAL_CTRL].exit_save) & 1) == 0;
}

/* -- what vmcs01 virtualizes for L1 and vmcs02 does not for L2 --------------------------------------------------------------------------- */

/* Where vmcs01 or vmcs12 protects bits of IA32_SPEC_CTRL by a mask, in which vmcs02 has no part, L2 does not reach the MSR itself. */
static bool keeps_spec_ctrl(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return host_protects_spec_ctrl(vcpu) || (tertiary_controls(v) & PROC3_SPEC_CTRL) != 0;
}

/* What vmcs01's bitmap then lets through is L1's virtual timer; of L2 it would be the processor's. While L2 runs the host may have changed vmcs01. */
static bool keeps_timer(const struct nvmx_vcpu *vcpu) {
    return !vcpu->host_controls_known || (host_tertiary(vcpu->host_control) & PROC3_APIC_TIMER) != 0;
}

/* And this L1's virtual APIC. */
static bool keeps_x2apic(const struct nvmx_vcpu *vcpu) {
    const uint64_t *host = vcpu->host_control;
    bool on = (host[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 && (host[NVMX_F_SECONDARY_CONTROLS] & PROC2_X2APIC) != 0;

    return !vcpu->host_controls_known || on;
}

/* Of a word of the bitmap: the x2APIC's MSRs but for those that vmcs02 virtualizes. */
static uint64_t kept_of_x2apic(const struct vmcs12 *v, unsigned int word) {
    const struct bitmap_virtual virtual_bits = merge_x2apic_bits(v);
    uint64_t bits = 0;

    if (word - WORD_X2APIC_READ >= X2APIC_WORDS && word - WORD_X2APIC_WRITE >= X2APIC_WORDS) {
        return 0;
    }
    for (unsigned int i = 0; i < BITMAP_VIRTUAL_WORDS; i++) {
        bits |= virtual_bits.word[i] == word ? virtual_bits.bits[i] : 0;
    }
    return ~bits;
}

static bool is_msr(uint32_t bit, uint32_t index) {
    return bit == bitmap_msr_bit(index, false) || bit == bitmap_msr_bit(index, true);
}

bool merge_keeps_msr(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t bit) {
    return (keeps_spec_ctrl(vcpu, v) && is_msr(bit, MSR_SPEC_CTRL)) || (keeps_timer(vcpu) && is_msr(bit, MSR_TSC_DEADLINE)) ||
           (bit == bitmap_msr_bit(MSR_PERF_GLOBAL_CTRL, true) && keeps_perf_global_ctrl(vcpu, v)) ||
           (keeps_x2apic(vcpu) && ((kept_of_x2apic(v, bit / 64) >> (bit % 64)) & 1) != 0);
}

static void keep(struct bitmap_overlay *overlay, uint32_t index, bool write) {
    uint32_t bit = bitmap_msr_bit(index, write);

    overlay->page[bit / 64] |= UINT64_C(1) << bit % 64;
}

static void keep_both(struct bitmap_overlay *overlay, uint32_t index) {
    keep(overlay, index, false);
    keep(overlay, index, true);
}

void merge_keep_msrs(const struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct bitmap_overlay *overlay = &v->msr_bitmap;
    const bool spec_ctrl = keeps_spec_ctrl(vcpu, v), timer = keeps_timer(vcpu), x2apic = keeps_x2apic(vcpu);
    const bool perf_global_ctrl = keeps_perf_global_ctrl(vcpu, v);

    v->keeps_msrs = spec_ctrl || timer || x2apic || perf_global_ctrl;
    if (spec_ctrl) {
        keep_both(overlay, MSR_SPEC_CTRL);
    }
    if (timer) {
        keep_both(overlay, MSR_TSC_DEADLINE);
    }
    if (perf_global_ctrl) {
        keep(overlay, MSR_PERF_GLOBAL_CTRL, true);
    }
    for (unsigned int i = 0; x2apic && i < X2APIC_WORDS; i++) {
        overlay->page[WORD_X2APIC_READ + i] |= kept_of_x2apic(v, WORD_X2APIC_READ + i);
        overlay->page[WORD_X2APIC_WRITE + i] |= kept_of_x2apic(v, WORD_X2APIC_WRITE + i);
    }
}
