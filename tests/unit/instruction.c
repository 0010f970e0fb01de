/* SPDX-License-Identifier: MIT */
/*
 * Refusals of VMX instructions in the order of the SDM (33.3): each alone, and every two at once, where the earlier one
 * must win.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "instruction_run.h"

/* What is wrong. Bits, so that several can be. */
enum {
    OUTSIDE_VMX = 1u << 0,
    VM86 = 1u << 1,
    COMPATIBILITY = 1u << 2,
    REAL_MODE = 1u << 3,
    REGISTER_FORM = 1u << 4,
    NO_VMXE = 1u << 5,
    NO_FEATURE = 1u << 6, /* EPT for INVEPT, VPID for INVVPID */
    CPL3 = 1u << 7,
    CR0_FIXED = 1u << 8,
    CR4_FIXED = 1u << 9,
    NOT_LOCKED = 1u << 10,
    VMXON_FORBIDDEN = 1u << 11,
    NO_CURRENT = 1u << 12,
    BAD_FIELD = 1u << 13,
    BAD_TYPE = 1u << 14,
    NONCANONICAL = 1u << 15,
    NOT_PRESENT = 1u << 16,
    MISALIGNED = 1u << 17,
    TOO_WIDE = 1u << 18,
    VMXON_POINTER = 1u << 19,
    BAD_REVISION = 1u << 20,
    READ_ONLY = 1u << 21,
    MOV_SS = 1u << 22,
    LAUNCH_STATE = 1u << 23,
    BAD_EPTP = 1u << 24,
    VPID_RESERVED = 1u << 25,
    VPID_ZERO = 1u << 26,
    BAD_LINEAR = 1u << 27,
    IN_ROOT = 1u << 28,
    A20M = 1u << 29,
};

#define UD                                                                                                             \
    { SEEN_FAULT, 6 }
#define GP                                                                                                             \
    { SEEN_FAULT, 13 }
#define PF                                                                                                             \
    { SEEN_FAULT, 14 }
#define ERROR(n)                                                                                                       \
    { SEEN_VALID, n } /* VMfail(n): invalid without a current VMCS */
#define INVALID                                                                                                        \
    { SEEN_INVALID, 0 }

struct refusal {
    uint32_t what;
    struct seen_outcome outcome;
};

/* A refusal per line, in the order of priority. */
struct order {
    uint32_t reason;
    const char *name;
    struct refusal refusal[18];
};

#define MODE_UD                                                                                                        \
    {OUTSIDE_VMX, UD}, {VM86, UD}, {COMPATIBILITY, UD}, {                                                              \
        REAL_MODE, UD                                                                                                  \
    }
#define OPERAND_FAULTS                                                                                                 \
    {NONCANONICAL, GP}, {                                                                                              \
        NOT_PRESENT, PF                                                                                                \
    }

static const struct order orders[] = {
    {VMXON,
     "VMXON",
     {{VM86, UD},
      {COMPATIBILITY, UD},
      {REAL_MODE, UD},
      {REGISTER_FORM, UD},
      {NO_VMXE, UD},
      {CPL3, GP},
      {A20M, GP},
      {CR0_FIXED, GP},
      {CR4_FIXED, GP},
      {NOT_LOCKED, GP},
      {VMXON_FORBIDDEN, GP},
      OPERAND_FAULTS,
      {MISALIGNED, INVALID},
      {TOO_WIDE, INVALID},
      {BAD_REVISION, INVALID}}},
    {VMXON,
     "VMXON in root operation",
     {{IN_ROOT | VM86, UD},
      {IN_ROOT | COMPATIBILITY, UD},
      {IN_ROOT | CPL3, GP},
      {IN_ROOT, ERROR(15)},
      OPERAND_FAULTS,
      {MISALIGNED, INVALID}}},
    {VMXOFF, "VMXOFF", {MODE_UD, {CPL3, GP}}},
    {VMCALL, "VMCALL", {MODE_UD, {CPL3, GP}, {0, ERROR(1)}}},
    {VMCLEAR,
     "VMCLEAR",
     {MODE_UD,
      {REGISTER_FORM, UD},
      {CPL3, GP},
      OPERAND_FAULTS,
      {MISALIGNED, ERROR(2)},
      {TOO_WIDE, ERROR(2)},
      {VMXON_POINTER, ERROR(3)}}},
    {VMPTRLD,
     "VMPTRLD",
     {MODE_UD,
      {REGISTER_FORM, UD},
      {CPL3, GP},
      OPERAND_FAULTS,
      {MISALIGNED, ERROR(9)},
      {TOO_WIDE, ERROR(9)},
      {VMXON_POINTER, ERROR(10)},
      {BAD_REVISION, ERROR(11)}}},
    {VMPTRST, "VMPTRST", {MODE_UD, {REGISTER_FORM, UD}, {CPL3, GP}, OPERAND_FAULTS}},
    {VMREAD, "VMREAD", {MODE_UD, {CPL3, GP}, {NO_CURRENT, INVALID}, {BAD_FIELD, ERROR(12)}, OPERAND_FAULTS}},
    {VMWRITE,
     "VMWRITE",
     {MODE_UD, {CPL3, GP}, {NO_CURRENT, INVALID}, OPERAND_FAULTS, {BAD_FIELD, ERROR(12)}, {READ_ONLY, ERROR(13)}}},
    {VMLAUNCH, "VMLAUNCH", {MODE_UD, {CPL3, GP}, {NO_CURRENT, INVALID}, {MOV_SS, ERROR(26)}, {LAUNCH_STATE, ERROR(4)}}},
    {VMRESUME, "VMRESUME", {MODE_UD, {CPL3, GP}, {NO_CURRENT, INVALID}, {MOV_SS, ERROR(26)}, {LAUNCH_STATE, ERROR(5)}}},
    {INVEPT,
     "INVEPT",
     {MODE_UD,
      {REGISTER_FORM, UD},
      {NO_FEATURE, UD},
      {CPL3, GP},
      {BAD_TYPE, ERROR(28)},
      OPERAND_FAULTS,
      {BAD_EPTP, ERROR(28)}}},
    {INVVPID,
     "INVVPID",
     {MODE_UD,
      {REGISTER_FORM, UD},
      {NO_FEATURE, UD},
      {CPL3, GP},
      {BAD_TYPE, ERROR(28)},
      OPERAND_FAULTS,
      {VPID_RESERVED, ERROR(28)},
      {VPID_ZERO, ERROR(28)},
      {BAD_LINEAR, ERROR(28)}}},
    {VMFUNC, "VMFUNC", {{0, UD}, {CPL3, UD}}},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static size_t refusals(const struct order *order) {
    size_t n = 0;
    while (n < COUNT(order->refusal) && (n == 0 || order->refusal[n].outcome.seen != SEEN_SUCCEED)) {
        n++;
    }
    return n;
}

/* -- a machine in which everything that is wrong is wrong
 * ------------------------------------------------------------------------ */

static bool needs_root(const struct order *order, uint32_t wrong) {
    return order->reason == VMXON ? (wrong & IN_ROOT) != 0 : (wrong & OUTSIDE_VMX) == 0;
}

static struct sim *make(const struct order *order, uint32_t wrong) {
    struct nvmx_caps mask;
    struct sim_options options = {.mask = &mask};
    sim_machine(&mask);
    if (wrong & NO_FEATURE) {
        mask.msr[NVMX_CAP_PROCBASED2] &= ~(UINT64_C(1) << (order->reason == INVEPT ? 33 : 37));
    }
    if (order->reason == VMWRITE) {
        mask.msr[NVMX_CAP_MISC] &= ~(UINT64_C(1) << 29);
    }
    struct sim *sim = sim_new(&options);
    cr_assert_not_null(sim->vcpu);
    sim_region(sim, SIM_L1_VMXON);
    if (needs_root(order, wrong)) {
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        if ((wrong & NO_CURRENT) == 0) {
            sim_region(sim, SIM_L1_VMCS_A);
            cr_assert_eq(sim_vmclear(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
            cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
            vmcs12_current(sim->vcpu)->launched = (order->reason == VMRESUME) != ((wrong & LAUNCH_STATE) != 0);
        }
    }
    return sim;
}

static void spoil(struct sim *sim, enum nvmx_field slot, uint64_t set, uint64_t clear) {
    sim_set(sim, NVMX_VMCS01, slot, (sim_get(sim, NVMX_VMCS01, slot) & ~clear) | set);
}

static void spoil_state(struct sim *sim, uint32_t wrong) {
    if (wrong & VM86) { /* which is not in IA-32e mode (SDM 29.3.1.4) */
        spoil(sim, NVMX_F_GUEST_RFLAGS, 0x20000, 0);
        spoil(sim, NVMX_F_VM_ENTRY_CONTROLS, 0, 0x200);
        spoil(sim, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0, 0x2000);
    }
    if (wrong & COMPATIBILITY) {
        spoil(sim, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0x4000, 0x2000);
    }
    if (wrong & REAL_MODE) {
        spoil(sim, NVMX_F_VM_ENTRY_CONTROLS, 0, 0x200);
        spoil(sim, NVMX_F_GUEST_CR0, 0, 1);
    }
    if (wrong & CPL3) {
        spoil(sim, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0x60, 0);
    }
    if (wrong & CR0_FIXED) {
        spoil(sim, NVMX_F_CR0_READ_SHADOW, 0, 0x20); /* NE, which the host keeps set for real */
    }
    if (wrong & CR4_FIXED) {
        spoil(sim, NVMX_F_GUEST_CR4, 0x80000000, 0);
    }
    if (wrong & NO_VMXE) {
        spoil(sim, NVMX_F_CR4_READ_SHADOW, 0, 0x2000); /* it is set for real */
    }
    if (wrong & A20M) {
        nvmx_a20m(sim->vcpu, true);
    }
    if (wrong & MOV_SS) {
        spoil(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 2, 0);
    }
    if (wrong & (NOT_LOCKED | VMXON_FORBIDDEN)) {
        sim->vcpu->feature_control = ((wrong & NOT_LOCKED) ? 0 : 1) | ((wrong & VMXON_FORBIDDEN) ? 0 : 4);
    }
}

static uint64_t region_operand(struct sim *sim, const struct order *order, uint32_t wrong) {
    uint64_t gpa1 = order->reason == VMXON || (wrong & VMXON_POINTER) ? SIM_L1_VMXON : SIM_L1_VMCS_B;
    sim_region(sim, gpa1);
    if (wrong & BAD_REVISION) {
        sim_write32(sim, gpa1, sim_read32(sim, gpa1) ^ (order->reason == VMXON ? 0x80000000 : 1));
    }
    return gpa1 | ((wrong & MISALIGNED) ? 0x10 : 0) | ((wrong & TOO_WIDE) ? UINT64_C(1) << 40 : 0);
}

static void operands(struct sim *sim, const struct order *order, uint32_t wrong) {
    uint64_t memory[2] = {0, 0};
    switch (order->reason) {
    case INVEPT:
        sim->regs.gpr[NVMX_RCX] = (wrong & BAD_TYPE) ? 3 : 1;
        memory[0] = (wrong & BAD_EPTP) ? 0x10001e | 0x80 : 0x10001e;
        break;
    case INVVPID:
        sim->regs.gpr[NVMX_RCX] = (wrong & BAD_TYPE) ? UINT64_C(0x100000000) : 0;
        memory[0] = ((wrong & VPID_ZERO) ? 0 : 5) | ((wrong & VPID_RESERVED) ? 0x10000 : 0);
        memory[1] = (wrong & BAD_LINEAR) ? UINT64_C(1) << 47 : UINT64_C(0xffff800000000000);
        break;
    case VMREAD:
    case VMWRITE:
        sim->regs.gpr[NVMX_RCX] = (wrong & BAD_FIELD)   ? UINT64_C(0x10000681e)
                                  : (wrong & READ_ONLY) ? NVMX_VMCS_EXIT_REASON
                                                        : NVMX_VMCS_GUEST_RIP;
        memory[0] = 0x1234;
        break;
    default:
        memory[0] = region_operand(sim, order, wrong);
        break;
    }
    sim_write(sim, SIM_L1_OPERAND, memory, sizeof(memory));
}

static struct seen_outcome attempt(struct sim *sim, const struct order *order, uint32_t wrong) {
    bool plain = order->reason == VMXOFF || order->reason == VMCALL || order->reason == VMLAUNCH ||
                 order->reason == VMRESUME || order->reason == VMFUNC;
    uint32_t info = INFO_DISPLACEMENT64 | INFO_REG2(NVMX_RCX);
    uint64_t at = SIM_L1_OPERAND;
    operands(sim, order, wrong);
    spoil_state(sim, wrong);
    if (wrong & REGISTER_FORM) {
        info = INFO_RM_REGISTER(NVMX_RAX) | INFO_REG2(NVMX_RCX);
    }
    if (wrong & NOT_PRESENT) {
        at = 0x40000000;
    }
    if (wrong & NONCANONICAL) {
        at |= UINT64_C(1) << 63;
    }
    return run(sim, order->reason, plain ? 0 : info, plain ? 0 : at);
}

/* What the outcome is where VMfail has no current VMCS to put its number into. */
static struct seen_outcome expected(const struct order *order, const struct refusal *refusal, uint32_t wrong) {
    bool current = needs_root(order, wrong) && (wrong & NO_CURRENT) == 0;
    if (refusal->outcome.seen == SEEN_VALID && !current) {
        return (struct seen_outcome){SEEN_INVALID, 0};
    }
    return refusal->outcome;
}

static void expect(const struct order *order, const struct refusal *first, uint32_t wrong) {
    char got_text[40], want_text[40];
    struct sim *sim = make(order, wrong);
    const uint64_t vmxon = sim->vcpu->vmxon_pointer;
    const uint64_t current = vmcs12_pointer(sim->vcpu);
    const uint64_t refused = nvmx_counts(sim->vcpu)->refused;
    struct seen_outcome want = expected(order, first, wrong);
    struct seen_outcome got = attempt(sim, order, wrong);
    cr_expect(same_outcome(got, want), "%s, wrong %#x: %s, not %s", order->name, wrong, outcome_text(got, got_text),
              outcome_text(want, want_text));
    cr_expect_eq(vmcs12_pointer(sim->vcpu), current, "%s, wrong %#x changed the current VMCS", order->name, wrong);
    cr_expect_eq(sim->vcpu->vmxon_pointer, vmxon, "%s, wrong %#x changed the VMXON pointer", order->name, wrong);
    cr_expect_eq(nvmx_counts(sim->vcpu)->refused, refused + 1, "%s, wrong %#x is not counted", order->name, wrong);
    sim_free(sim);
}

Test(instruction, each_refusal_alone) {
    for (size_t i = 0; i < COUNT(orders); i++) {
        for (size_t r = 0; r < refusals(&orders[i]); r++) {
            /* In root operation VMXON never gets as far as its operand. */
            bool reached = orders[i].reason != VMXON || i == 0 || (orders[i].refusal[r].what & IN_ROOT);
            if (reached) {
                expect(&orders[i], &orders[i].refusal[r], orders[i].refusal[r].what);
            }
        }
    }
}

Test(instruction, the_earlier_of_two_refusals_wins) {
    for (size_t i = 0; i < COUNT(orders); i++) {
        for (size_t first = 0; first < refusals(&orders[i]); first++) {
            bool reached = orders[i].reason != VMXON || i == 0 || (orders[i].refusal[first].what & IN_ROOT);
            for (size_t second = first + 1; reached && second < refusals(&orders[i]); second++) {
                expect(&orders[i], &orders[i].refusal[first],
                       orders[i].refusal[first].what | orders[i].refusal[second].what);
            }
        }
    }
}

/* The rows above refuse for their own reason only if the same instruction succeeds without it. */
Test(instruction, without_a_violation_each_succeeds) {
    for (size_t i = 0; i < COUNT(orders); i++) {
        const struct order *order = &orders[i];
        if (order->reason == VMLAUNCH || order->reason == VMRESUME || order->reason == VMCALL ||
            order->reason == VMFUNC || i == 1) {
            continue;
        }
        char text[40];
        struct sim *sim = make(order, 0);
        struct seen_outcome got = attempt(sim, order, 0);
        cr_expect(same_outcome(got, (struct seen_outcome){SEEN_SUCCEED, 0}), "%s: %s", order->name,
                  outcome_text(got, text));
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS), 2, "%s", order->name);
        sim_free(sim);
    }
}

Test(instruction, without_vmx_each_is_undefined) {
    struct sim_options hidden = {.hidden = true};
    for (size_t i = 0; i < COUNT(orders); i++) {
        char text[40];
        if (orders[i].reason == VMCALL) {
            continue;
        }
        struct sim *sim = sim_new(&hidden);
        struct seen_outcome got = run(sim, orders[i].reason, INFO_DISPLACEMENT64, SIM_L1_OPERAND);
        cr_expect(same_outcome(got, (struct seen_outcome)UD), "%s: %s", orders[i].name, outcome_text(got, text));
        cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
        sim_free(sim);
    }
}

/* A host may show L1 another CR0 than the one it runs on: L1's own counts. */
Test(instruction, real_mode_is_what_l1_sees) {
    const struct order vmxoff = {.reason = VMXOFF, .name = "VMXOFF"};
    struct sim *sim = make(&vmxoff, 0);
    sim_l1_mode32(sim);
    spoil(sim, NVMX_F_CR0_GUEST_HOST_MASK, 1, 0);
    spoil(sim, NVMX_F_CR0_READ_SHADOW, 0, 1);
    cr_expect(same_outcome(attempt(sim, &vmxoff, 0), (struct seen_outcome)UD));
    spoil(sim, NVMX_F_CR0_READ_SHADOW, 1, 0);
    cr_expect(same_outcome(attempt(sim, &vmxoff, 0), (struct seen_outcome){SEEN_SUCCEED, 0}));
    sim_free(sim);
}

Test(instruction, vmcall_is_the_hosts_first) {
    struct sim *sim = sim_new(NULL);
    cr_expect_eq(sim_exit(sim, VMCALL, 0, 0, 3), NVMX_HOST);
    cr_expect_eq(nvmx_counts(sim->vcpu)->to_host, 1);
    sim_free(sim);
}

/* A callback that fails, whichever it is: the instruction is refused or the vCPU stops, nothing leaks (sim_free looks),
 * and a vCPU that did not stop goes on. */
Test(instruction, any_callback_may_fail) {
    for (size_t i = 0; i < COUNT(orders); i++) {
        const struct order *order = &orders[i];
        if (order->reason == VMLAUNCH || order->reason == VMRESUME || i == 1) {
            continue; /* VM entry: its callbacks are mostly those of the entry to L2 */
        }
        for (uint64_t k = 1; k < 60; k++) {
            struct sim *sim = make(order, 0);
            sim->calls = 0;
            sim->fail.at = k;
            struct seen_outcome got = attempt(sim, order, 0);
            bool failed = sim->failed != 0;
            sim->fail.at = 0;
            cr_expect_neq(got.seen, SEEN_OTHER, "%s, callback %llu", order->name, (unsigned long long)k);
            if (got.seen == SEEN_STOP) {
                cr_expect_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_HOST);
                cr_expect_neq(nvmx_stop_status(sim->vcpu), NVMX_OK);
            } else if (order->reason != VMFUNC && order->reason != VMCALL && order->reason != VMXOFF) {
                struct seen_outcome again = attempt(sim, order, 0);
                bool in_root_now = order->reason == VMXON && got.seen == SEEN_SUCCEED;
                cr_expect_eq(again.seen, in_root_now ? SEEN_INVALID : SEEN_SUCCEED, "%s, callback %llu", order->name,
                             (unsigned long long)k);
            }
            sim_free(sim);
            if (!failed) {
                break;
            }
        }
    }
}
