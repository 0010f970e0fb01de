/* SPDX-License-Identifier: MIT */
/*
 * VM-entry checks: entry_checks.def, made into code three times.
 *
 * first_failure runs the rows as straight-line code in SDM order, so that the compiler folds conditions which neighbouring rows share;
 * row_passes evaluates one row (for the report of all failing rows); rows[] holds the texts. All three come from the same columns.
 */
#include "check_rules.h"

/* Groups of fields, as the GROUPS column names them. ANYTHING stands for what a row reads besides fields. */
enum {
    CONTROL = 1u << NVMX_GROUP_CONTROL,
    EVENT = 1u << NVMX_GROUP_EVENT,
    HOST = 1u << NVMX_GROUP_HOST,
    REGISTER = 1u << NVMX_GROUP_REGISTER,
    SEGMENT = 1u << NVMX_GROUP_SEGMENT,
    NONREGISTER = 1u << NVMX_GROUP_NONREGISTER,
    ANYTHING = 1u << NVMX_GROUP_COUNT,
    ALWAYS = NVMX_CHECK_ALL | ANYTHING,
};

static const struct nvmx_check_row rows[] = {
#define CHECK(section, number, text, groups, vm_fail, exit_reason, qualification, applies, rule, when, ok)                       \
    {"C-" text "-" #number, text, applies, rule, vm_fail, exit_reason, qualification, 1, NULL, (groups) & NVMX_CHECK_ALL},
#define CHECK_ELSEWHERE(section, number, text, groups, vm_fail, exit_reason, qualification, applies, rule, where)                \
    {"C-" text "-" #number, text, applies, rule, vm_fail, exit_reason, qualification, 0, where, (groups) & NVMX_CHECK_ALL},
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
};

static uint64_t bits_from(unsigned int width) {
    return width >= 64 ? 0 : UINT64_MAX << width;
}

static uint64_t efer_bits(uint32_t cpu) {
    uint64_t valid = 0;

    if (cpu & NVMX_CPU_SYSCALL)
        valid |= UINT64_C(1) << EFER_SCE;
    if (cpu & NVMX_CPU_LONG_MODE)
        valid |= UINT64_C(1) << EFER_LME_BIT | UINT64_C(1) << EFER_LMA_BIT;
    if (cpu & NVMX_CPU_NX)
        valid |= UINT64_C(1) << EFER_NXE_BIT;
    return valid;
}

/* Bits of CR0 and EFER that may or must be set (SDM 25.8, 29.2.2, 29.3.1.1). */
static void registers_init(struct check_context *c) {
    const uint64_t never = UINT64_C(1) << CR0_NW | UINT64_C(1) << CR0_CD;
    const uint64_t exempt = UNRESTRICTED ? UINT64_C(1) << CR0_PE_BIT | UINT64_C(1) << CR0_PG_BIT : 0;

    c->cr0_fixed0 = c->caps->msr[NVMX_CAP_CR0_FIXED0] & ~never;
    c->cr0_fixed1 = c->caps->msr[NVMX_CAP_CR0_FIXED1] | never;
    c->guest_cr0_fixed0 = c->cr0_fixed0 & ~exempt;
    c->guest_cr0_fixed1 = c->cr0_fixed1 | exempt;
    c->efer_valid = efer_bits(c->caps->cpu);
}

static void context_init(struct check_context *c, const struct nvmx_check_input *in) {
    const struct nvmx_caps *caps = in->caps;

    c->in = in;
    c->caps = caps;
    c->field = in->field;
    c->basic = caps->msr[NVMX_CAP_BASIC];
    c->misc = caps->msr[NVMX_CAP_MISC];
    c->ept_cap = caps->msr[NVMX_CAP_EPT_VPID];
    c->pin = F(PIN_BASED_CONTROLS);
    c->proc = F(PRIMARY_CONTROLS);
    c->proc2 = PROC(31) ? F(SECONDARY_CONTROLS) : 0;
    c->proc3 = PROC(17) ? F(TERTIARY_CONTROLS) : 0;
    c->exit = F(VM_EXIT_CONTROLS);
    c->exit2 = EXIT(31) ? F(SECONDARY_VM_EXIT_CONTROLS) : 0;
    c->entry = F(VM_ENTRY_CONTROLS);
    c->event = F(VM_ENTRY_INTERRUPTION_INFO);
    c->event_type = (c->event >> 8) & 7;
    c->event_vector = c->event & 0xff;
    c->has_mtf = BIT(nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED), 27);
    c->has_fred = CPU(FRED);
    c->beyond_maxphyaddr = bits_from(caps->physical_address_bits);
    c->cr3_valid = ~c->beyond_maxphyaddr | (CPU(LAM) ? CR3_LAM : 0);
    c->beyond_width = BASIC(48) ? bits_from(32) : c->beyond_maxphyaddr;
    c->linear_bits = CPU(LA57) ? 57 : 48;
    registers_init(c);
}

/* A row's condition and rule. The mutation run (tests/mutation) puts its own in their place to see whether a test notices. */
#ifndef CHECK_APPLIES
#define CHECK_APPLIES(row, when) (when)
#define CHECK_HOLDS(row, ok) (ok)
#endif

/* The first failing row among those that concern `groups`, or NVMX_CHECK_COUNT. */
static unsigned int first_failure(const struct check_context *c, uint32_t groups) {
#define CHECK(section, number, text, needs, vm_fail, exit_reason, qualification, applies, rule, when, ok)                        \
    if ((groups & (needs)) && CHECK_APPLIES(NVMX_C_##section##_##number, when) &&                                                \
        !CHECK_HOLDS(NVMX_C_##section##_##number, ok))                                                                           \
        return NVMX_C_##section##_##number;
#define CHECK_ELSEWHERE(...)
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
    return NVMX_CHECK_COUNT;
}

static bool row_passes(const struct check_context *c, unsigned int row) {
    switch (row) {
#define CHECK(section, number, text, needs, vm_fail, exit_reason, qualification, applies, rule, when, ok)                        \
    case NVMX_C_##section##_##number:                                                                                            \
        return !CHECK_APPLIES(NVMX_C_##section##_##number, when) || CHECK_HOLDS(NVMX_C_##section##_##number, ok);
#define CHECK_ELSEWHERE(...)
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
    default:
        return true;
    }
}

static void fill(struct nvmx_check_failure *out, unsigned int row) {
    out->row = (uint16_t)row;
    out->vm_fail = rows[row].vm_fail;
    out->exit_reason = rows[row].exit_reason;
    out->qualification = rows[row].qualification;
}

bool nvmx_check_first(const struct nvmx_check_input *in, uint32_t groups, struct nvmx_check_failure *out) {
    struct check_context context;
    unsigned int row;

    context_init(&context, in);
    row = first_failure(&context, groups | ANYTHING);
    if (row == NVMX_CHECK_COUNT)
        return true;
    fill(out, row);
    return false;
}

size_t nvmx_check_report(const struct nvmx_check_input *in, struct nvmx_check_failure *out, size_t max) {
    struct check_context context;
    size_t failing = 0;

    context_init(&context, in);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        if (row_passes(&context, row))
            continue;
        if (failing < max)
            fill(&out[failing], row);
        failing++;
    }
    return failing;
}

const struct nvmx_check_row *nvmx_check_row(size_t row) {
    return row < NVMX_CHECK_COUNT ? &rows[row] : NULL;
}
