/* SPDX-License-Identifier: MIT */
/* L1 of the simulated host: VMX instructions as hardware reports them, and a vmcs12 that is right in every field. */
#include <string.h>

#include "sim_internal.h"

/* Basic exit reasons (SDM appendix C). */
enum {
    REASON_VMCALL = 18,
    REASON_VMCLEAR = 19,
    REASON_VMLAUNCH = 20,
    REASON_VMPTRLD = 21,
    REASON_VMPTRST = 22,
    REASON_VMREAD = 23,
    REASON_VMRESUME = 24,
    REASON_VMWRITE = 25,
    REASON_VMXOFF = 26,
    REASON_VMXON = 27,
    REASON_INVEPT = 50,
    REASON_INVVPID = 53,
};

#define RFLAGS_CF 1u
#define RFLAGS_ZF 0x40u

/* -- outcomes ---------------------------------------------------------------------------------------------------------------- */

const char *sim_outcome_text(enum sim_outcome outcome) {
    static const char *const text[] = {"VMsucceed", "VMfailInvalid", "VMfailValid", "fault", "L2 runs",
                                       "entry failed", "left to the host", "stopped", "executes again"};
    return (size_t)outcome < sizeof(text) / sizeof(text[0]) ? text[outcome] : "?";
}

int sim_fault_vector(const struct sim *sim) {
    if (sim->queued_vector >= 0)
        return sim->queued_vector;
    uint64_t info = sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    if (!(info >> 31) || ((info >> 8) & 7) != 3)
        return -1;
    return (int)(info & 0xff);
}

uint32_t sim_fault_error_code(const struct sim *sim) {
    if (sim->queued_vector >= 0)
        return (uint32_t)sim->queued_error_code;
    return (uint32_t)sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE);
}

static enum sim_outcome outcome_of(const struct sim *sim, enum nvmx_next next, uint64_t rip, uint32_t length) {
    if (next == NVMX_HOST)
        return SIM_TO_HOST;
    if (next == NVMX_STOP)
        return SIM_STOPPED;
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        return SIM_L2;
    if (sim_fault_vector(sim) >= 0)
        return SIM_FAULT;
    uint64_t now = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    uint64_t flags = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS);
    if (now == SIM_L1_EXIT_HANDLER)
        return SIM_ENTRY_FAILED;
    if (now == rip)
        return SIM_AGAIN;
    if (now != rip + length)
        sim_broken("L1's RIP moved from %#llx to %#llx by an instruction of %u bytes", (unsigned long long)rip,
                   (unsigned long long)now, length);
    if (flags & RFLAGS_CF)
        return SIM_FAIL_INVALID;
    return (flags & RFLAGS_ZF) ? SIM_FAIL_VALID : SIM_SUCCEED;
}

static enum sim_outcome execute(struct sim *sim, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length) {
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && sim_sweep.failed)
        sim_sweep.gives_up();
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        sim_broken("a test executes an instruction of L1 while L2 runs");
    uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    enum nvmx_next next = sim_exit(sim, reason, qualification, info, length);
    return outcome_of(sim, next, rip, length);
}

/* -- instructions --------------------------------------------------------------------------------------------------------------- */

/* Instruction information (SDM tables 30-13, 30-14): segment DS (3), neither base nor index; the address is the displacement. */
static uint32_t memory_operand(const struct sim *sim) {
    bool long_mode = (sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS) >> 9) & 1;
    return (long_mode ? 2u : 1u) << 7 | 3u << 15 | 1u << 22 | 1u << 27;
}

static enum sim_outcome with_m64(struct sim *sim, uint32_t reason, uint64_t operand) {
    sim_write64(sim, sim->operand, operand);
    return execute(sim, reason, sim->operand, memory_operand(sim), 4);
}

enum sim_outcome sim_vmxon(struct sim *sim, uint64_t gpa1) {
    return with_m64(sim, REASON_VMXON, gpa1);
}

enum sim_outcome sim_vmclear(struct sim *sim, uint64_t gpa1) {
    return with_m64(sim, REASON_VMCLEAR, gpa1);
}

enum sim_outcome sim_vmptrld(struct sim *sim, uint64_t gpa1) {
    return with_m64(sim, REASON_VMPTRLD, gpa1);
}

enum sim_outcome sim_vmptrst(struct sim *sim, uint64_t *gpa1) {
    enum sim_outcome outcome = with_m64(sim, REASON_VMPTRST, 0);
    *gpa1 = sim_read64(sim, sim->operand);
    return outcome;
}

enum sim_outcome sim_vmxoff(struct sim *sim) {
    return execute(sim, REASON_VMXOFF, 0, 0, 3);
}

/* The host knows no hypercall of this number: it asks the library for the architecture's answer. */
enum sim_outcome sim_vmcall(struct sim *sim) {
    uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    enum nvmx_next next = sim_exit(sim, REASON_VMCALL, 0, 0, 3);
    return outcome_of(sim, next == NVMX_HOST ? nvmx_vmcall(sim->vcpu) : next, rip, 3);
}

enum sim_outcome sim_vmlaunch(struct sim *sim) {
    return execute(sim, REASON_VMLAUNCH, 0, 0, 3);
}

enum sim_outcome sim_vmresume(struct sim *sim) {
    return execute(sim, REASON_VMRESUME, 0, 0, 3);
}

/* With VMCS shadowing the processor itself answers for an encoding whose bit is clear (SDM 27.10, 33.3). */
static bool answered_by_shadow(const struct sim *sim, const uint8_t *bitmap, uint32_t encoding) {
    if (!((sim_get(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS) >> 14) & 1) || encoding >> 15)
        return false;
    if (sim_linked(sim) == NVMX_VMCS01)
        return false;
    return !((bitmap[encoding / 8] >> (encoding % 8)) & 1) && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;
}

static void shadow_succeeds(struct sim *sim) {
    uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), rflags = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, rip + 3);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, rflags & ~UINT64_C(0x8d5)); /* VMsucceed */
}

/* Register operands: RCX holds the encoding (reg2), RBX the value. */
#define RCX_IS_REG2 (1u << 28)
#define RBX_IS_OPERAND (1u << 10 | 3u << 3)

enum sim_outcome sim_vmread(struct sim *sim, uint32_t encoding, uint64_t *value) {
    int slot = sim_slot(encoding);
    sim->regs.gpr[NVMX_RCX] = encoding;
    if (slot >= 0 && answered_by_shadow(sim, sim->vmread_bitmap, encoding)) {
        *value = sim->regs.gpr[NVMX_RBX] = sim_get(sim, sim_linked(sim), (enum nvmx_field)slot);
        shadow_succeeds(sim);
        return SIM_SUCCEED;
    }
    enum sim_outcome outcome = execute(sim, REASON_VMREAD, 0, RCX_IS_REG2 | RBX_IS_OPERAND, 3);
    if (outcome == SIM_SUCCEED)
        *value = sim->regs.gpr[NVMX_RBX];
    return outcome;
}

enum sim_outcome sim_vmwrite(struct sim *sim, uint32_t encoding, uint64_t value) {
    int slot = sim_slot(encoding);
    sim->regs.gpr[NVMX_RCX] = encoding;
    sim->regs.gpr[NVMX_RBX] = value;
    if (slot >= 0 && answered_by_shadow(sim, sim->vmwrite_bitmap, encoding)) {
        sim_set(sim, sim_linked(sim), (enum nvmx_field)slot, value);
        shadow_succeeds(sim);
        return SIM_SUCCEED;
    }
    return execute(sim, REASON_VMWRITE, 0, RCX_IS_REG2 | RBX_IS_OPERAND, 3);
}

static enum sim_outcome with_m128(struct sim *sim, uint32_t reason, uint64_t type, uint64_t low, uint64_t high) {
    sim_write64(sim, sim->operand, low);
    sim_write64(sim, sim->operand + 8, high);
    sim->regs.gpr[NVMX_RCX] = type;
    return execute(sim, reason, sim->operand, memory_operand(sim) | RCX_IS_REG2, 5);
}

enum sim_outcome sim_invept(struct sim *sim, uint64_t type, uint64_t eptp, uint64_t reserved) {
    return with_m128(sim, REASON_INVEPT, type, eptp, reserved);
}

enum sim_outcome sim_invvpid(struct sim *sim, uint64_t type, uint64_t vpid_and_reserved, uint64_t linear) {
    return with_m128(sim, REASON_INVVPID, type, vpid_and_reserved, linear);
}

uint32_t sim_instruction_error(struct sim *sim) {
    uint64_t error = 0;
    sim_vmread(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR, &error);
    return (uint32_t)error;
}

/* -- a VMCS that is right -------------------------------------------------------------------------------------------------------------- */

void sim_region(struct sim *sim, uint64_t gpa1) {
    sim_write32(sim, gpa1, (uint32_t)nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_BASIC] & 0x7fffffff);
}

static enum sim_outcome vmxon_ready(struct sim *sim) {
    sim_region(sim, SIM_L1_VMXON);
    sim_region(sim, SIM_L1_VMCS_A);
    sim_region(sim, SIM_L1_VMCS_B);
    enum sim_outcome outcome = sim_vmxon(sim, SIM_L1_VMXON);
    if (outcome == SIM_SUCCEED)
        outcome = sim_vmclear(sim, SIM_L1_VMCS_A);
    if (outcome == SIM_SUCCEED)
        outcome = sim_vmptrld(sim, SIM_L1_VMCS_A);
    return outcome;
}

enum sim_outcome sim_vmxon_ready(struct sim *sim) {
    sim_sweep.preparing++;
    enum sim_outcome outcome = vmxon_ready(sim);
    sim_sweep.preparing--;
    return outcome;
}

uint64_t sim_gpa1_of(uint64_t gpa2) {
    return gpa2 + SIM_L2_GPA1;
}

static void build_ept12(struct sim *sim) {
    const uint64_t table = 7, page = 6u << 3 | 7, large_page = page | NVMX_EPT_LARGE;
    sim_write64(sim, SIM_L1_EPT12, (SIM_L1_EPT12 + 0x1000) | table);
    sim_write64(sim, SIM_L1_EPT12 + 0x1000, (SIM_L1_EPT12 + 0x2000) | table);
    sim_write64(sim, SIM_L1_EPT12 + 0x2000, (SIM_L1_EPT12 + 0x3000) | table);
    sim_write64(sim, SIM_L1_EPT12 + 0x2008, sim_gpa1_of(0x200000) | large_page);
    for (uint64_t i = 0; i < 512; i++)
        sim_write64(sim, SIM_L1_EPT12 + 0x3000 + i * 8, sim_gpa1_of(i << 12) | page);
}

/* `wanted` controls as far as L1 may set them, and those it must set. */
static uint64_t controls(const struct sim *sim, enum nvmx_cap plain, enum nvmx_cap true_controls, uint64_t wanted) {
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
    bool has_true = (caps->msr[NVMX_CAP_BASIC] >> 55) & 1;
    uint64_t msr = caps->msr[has_true ? true_controls : plain];
    return (wanted & (msr >> 32)) | (msr & 0xffffffff);
}

struct setting {
    uint32_t encoding;
    uint64_t value;
};

static uint32_t write_settings(struct sim *sim, const struct setting *setting, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (sim_vmwrite(sim, setting[i].encoding, setting[i].value) != SIM_SUCCEED)
            return setting[i].encoding;
    return 0;
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static uint32_t write_controls(struct sim *sim) {
    uint64_t primary = controls(sim, NVMX_CAP_PROCBASED, NVMX_CAP_TRUE_PROCBASED, UINT64_C(1) << 31 | 1u << 28 | 1u << 24 | 1u << 7);
    uint64_t secondary = 0;
    if (primary >> 31)
        secondary = controls(sim, NVMX_CAP_PROCBASED2, NVMX_CAP_PROCBASED2, 1u << 1 | 1u << 5 | 1u << 3);
    const struct setting always[] = {
        {NVMX_VMCS_PIN_BASED_CONTROLS, controls(sim, NVMX_CAP_PINBASED, NVMX_CAP_TRUE_PINBASED, 0)},
        {NVMX_VMCS_PRIMARY_CONTROLS, primary},
        {NVMX_VMCS_VM_EXIT_CONTROLS, controls(sim, NVMX_CAP_EXIT, NVMX_CAP_TRUE_EXIT, 1u << 9 | 1u << 20 | 1u << 21)},
        {NVMX_VMCS_VM_ENTRY_CONTROLS, controls(sim, NVMX_CAP_ENTRY, NVMX_CAP_TRUE_ENTRY, 1u << 9 | 1u << 15)},
        {NVMX_VMCS_EXCEPTION_BITMAP, 0},
        {NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0},
        {NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 0},
        {NVMX_VMCS_CR3_TARGET_COUNT, 0},
        {NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, 0},
        {NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 0},
        {NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0},
        {NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0},
        {NVMX_VMCS_TSC_OFFSET, 0},
        {NVMX_VMCS_CR0_GUEST_HOST_MASK, 0},
        {NVMX_VMCS_CR4_GUEST_HOST_MASK, 0x2000},
        {NVMX_VMCS_CR0_READ_SHADOW, 0},
        {NVMX_VMCS_CR4_READ_SHADOW, 0},
        {NVMX_VMCS_VMCS_LINK_POINTER, NVMX_NO_ADDRESS},
    };
    const struct setting ept[] = {{NVMX_VMCS_EPT_POINTER, SIM_L1_EPT12 | 0x1e}};
    const struct setting vpid[] = {{NVMX_VMCS_VPID, 7}};
    const struct setting bitmap[] = {{NVMX_VMCS_MSR_BITMAP_ADDRESS, SIM_L1_MSR_BITMAP}};
    const struct setting second[] = {{NVMX_VMCS_SECONDARY_CONTROLS, secondary}};
    uint32_t bad = write_settings(sim, always, COUNT(always));
    if (!bad && primary >> 31)
        bad = write_settings(sim, second, COUNT(second));
    if (!bad && (secondary >> 1) & 1)
        bad = write_settings(sim, ept, COUNT(ept));
    if (!bad && (secondary >> 5) & 1)
        bad = write_settings(sim, vpid, COUNT(vpid));
    if (!bad && (primary >> 28) & 1)
        bad = write_settings(sim, bitmap, COUNT(bitmap));
    return bad;
}

static uint32_t write_host_state(struct sim *sim) {
    uint64_t exit = controls(sim, NVMX_CAP_EXIT, NVMX_CAP_TRUE_EXIT, 1u << 21);
    const struct setting always[] = {
        {NVMX_VMCS_HOST_ES_SELECTOR, 0x10},   {NVMX_VMCS_HOST_CS_SELECTOR, 0x08},
        {NVMX_VMCS_HOST_SS_SELECTOR, 0x10},   {NVMX_VMCS_HOST_DS_SELECTOR, 0x10},
        {NVMX_VMCS_HOST_FS_SELECTOR, 0x10},   {NVMX_VMCS_HOST_GS_SELECTOR, 0x10},
        {NVMX_VMCS_HOST_TR_SELECTOR, 0x18},   {NVMX_VMCS_HOST_CR0, 0x80050033},
        {NVMX_VMCS_HOST_CR3, SIM_L1_PML4},    {NVMX_VMCS_HOST_CR4, 0x2020},
        {NVMX_VMCS_HOST_FS_BASE, 0x1111000},  {NVMX_VMCS_HOST_GS_BASE, 0x2222000},
        {NVMX_VMCS_HOST_TR_BASE, 0x3333000},  {NVMX_VMCS_HOST_GDTR_BASE, 0x4444000},
        {NVMX_VMCS_HOST_IDTR_BASE, 0x5555000}, {NVMX_VMCS_HOST_SYSENTER_CS, 0x08},
        {NVMX_VMCS_HOST_SYSENTER_ESP, 0},     {NVMX_VMCS_HOST_SYSENTER_EIP, 0},
        {NVMX_VMCS_HOST_RSP, SIM_L1_STACK},   {NVMX_VMCS_HOST_RIP, SIM_L1_EXIT_HANDLER},
    };
    const struct setting efer[] = {{NVMX_VMCS_HOST_EFER, 0xd00}};
    uint32_t bad = write_settings(sim, always, COUNT(always));
    if (!bad && (exit >> 21) & 1)
        bad = write_settings(sim, efer, COUNT(efer));
    return bad;
}

/* Encodings of segment i are those of ES plus 2 * i. */
static uint32_t write_segment(struct sim *sim, uint32_t i, uint64_t selector, uint64_t limit, uint64_t rights) {
    const struct setting all[] = {
        {NVMX_VMCS_GUEST_ES_SELECTOR + 2 * i, selector},
        {NVMX_VMCS_GUEST_ES_BASE + 2 * i, 0},
        {NVMX_VMCS_GUEST_ES_LIMIT + 2 * i, limit},
        {NVMX_VMCS_GUEST_ES_ACCESS_RIGHTS + 2 * i, rights},
    };
    return write_settings(sim, all, COUNT(all));
}

static uint32_t write_guest_state(struct sim *sim) {
    uint64_t entry = controls(sim, NVMX_CAP_ENTRY, NVMX_CAP_TRUE_ENTRY, 1u << 15);
    const struct setting always[] = {
        {NVMX_VMCS_GUEST_CR0, 0x80050033},
        {NVMX_VMCS_GUEST_CR3, 0x2000},
        {NVMX_VMCS_GUEST_CR4, 0x2020},
        {NVMX_VMCS_GUEST_DR7, 0x400},
        {NVMX_VMCS_GUEST_RSP, 0x3000},
        {NVMX_VMCS_GUEST_RIP, 0x1000},
        {NVMX_VMCS_GUEST_RFLAGS, 2},
        {NVMX_VMCS_GUEST_GDTR_BASE, 0},
        {NVMX_VMCS_GUEST_GDTR_LIMIT, 0x7f},
        {NVMX_VMCS_GUEST_IDTR_BASE, 0},
        {NVMX_VMCS_GUEST_IDTR_LIMIT, 0xfff},
        {NVMX_VMCS_GUEST_DEBUGCTL, 0},
        {NVMX_VMCS_GUEST_SYSENTER_CS, 0},
        {NVMX_VMCS_GUEST_SYSENTER_ESP, 0},
        {NVMX_VMCS_GUEST_SYSENTER_EIP, 0},
        {NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, 0},
        {NVMX_VMCS_GUEST_ACTIVITY_STATE, 0},
        {NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0},
    };
    const struct setting efer[] = {{NVMX_VMCS_GUEST_EFER, 0x500}};
    uint32_t bad = write_settings(sim, always, COUNT(always));
    for (uint32_t i = 0; i < 8 && !bad; i++) {
        if (i == 1)
            bad = write_segment(sim, i, 0x08, 0xffffffff, 0xa09b);
        else if (i == 6)
            bad = write_segment(sim, i, 0, 0, 0x10000);
        else if (i == 7)
            bad = write_segment(sim, i, 0x18, 0x67, 0x8b);
        else
            bad = write_segment(sim, i, 0x10, 0xffffffff, 0xc093);
    }
    if (!bad && (entry >> 15) & 1)
        bad = write_settings(sim, efer, COUNT(efer));
    return bad;
}

uint32_t sim_vmcs12(struct sim *sim) {
    build_ept12(sim);
    sim_sweep.preparing++;
    uint32_t bad = write_controls(sim);
    if (!bad)
        bad = write_host_state(sim);
    if (!bad)
        bad = write_guest_state(sim);
    sim_sweep.preparing--;
    return bad;
}

enum sim_outcome sim_launch(struct sim *sim) {
    enum sim_outcome outcome = sim_vmxon_ready(sim);
    if (outcome != SIM_SUCCEED)
        return outcome;
    if (sim_vmcs12(sim) != 0)
        return SIM_FAIL_VALID;
    return sim_vmlaunch(sim);
}
