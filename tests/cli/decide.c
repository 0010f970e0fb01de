/* SPDX-License-Identifier: MIT */
/*
 * nvmx explain never guesses: for each rule, with a state that breaks it (tests/unit/check_vectors.def), and one of the
 * fields that it reads left out, the rule is broken or undecided but never said to hold; with a state in which it holds
 * it is never said to be broken. With all fields given the verdicts are the library's. And every word of the rules'
 * expressions is known.
 */
#include <stdio.h>
#include <string.h>

#include "check_states.h"
#include "decide.h"

struct vector {
    uint16_t row;
    uint8_t base;
    struct change before[CHECK_CHANGES];
    struct change broken[CHECK_CHANGES];
};

#define NOTHING                                                                                                        \
    {                                                                                                                  \
        { CHANGE_NONE, 0, 0 }                                                                                          \
    }
#define BEFORE(...)                                                                                                    \
    { __VA_ARGS__ }
#define BREAK(...)                                                                                                     \
    { __VA_ARGS__ }
#define SET(name, value)                                                                                               \
    { CHANGE_SET, NVMX_F_##name, value }
#define OR(name, value)                                                                                                \
    { CHANGE_OR, NVMX_F_##name, value }
#define CLEAR(name, value)                                                                                             \
    { CHANGE_CLEAR, NVMX_F_##name, value }
#define CAP_OR(name, value)                                                                                            \
    { CHANGE_CAP_OR, NVMX_CAP_##name, value }
#define CAP_CLEAR(name, value)                                                                                         \
    { CHANGE_CAP_CLEAR, NVMX_CAP_##name, value }
#define CPU_OR(name)                                                                                                   \
    { CHANGE_CPU_OR, 0, NVMX_CPU_##name }
#define CPU_CLEAR(name)                                                                                                \
    { CHANGE_CPU_CLEAR, 0, NVMX_CPU_##name }
#define VTPR(value)                                                                                                    \
    { CHANGE_VTPR, 0, value }
#define REVISION(value)                                                                                                \
    { CHANGE_REVISION, 0, value }
#define READABLE(value)                                                                                                \
    { CHANGE_READABLE, 0, value }
#define PDPTE(number, value)                                                                                           \
    { CHANGE_PDPTE, number, value }
#define PDPTE_READABLE(value)                                                                                          \
    { CHANGE_PDPTE_READABLE, 0, value }
#define VECTOR(section, number, base, before, broken) {NVMX_C_##section##_##number, base, before, broken},
#define SHADOWED(section, number, first_section, first_number, base, before, broken)                                   \
    {NVMX_C_##section##_##number, base, before, broken},
#define VALID(base, before)

static const struct vector vectors[] = {
#include "check_vectors.def"
};
#define VECTORS (sizeof vectors / sizeof vectors[0])

struct tally {
    unsigned int failed, done, undecided;
};

static void complain(struct tally *tally, unsigned int row, const char *what, const char *without) {
    printf("%s: %s (without %s)\n", nvmx_check_row(row)->id, what, without);
    tally->failed++;
}

/* All is known. */
static void subject_from(struct subject *subject, const struct check_state *state) {
    *subject = (struct subject){.caps = state->caps};
    memset(&subject->exists, 0xff, sizeof subject->exists);
    memset(&subject->known, 0xff, sizeof subject->known);
    memset(subject->fact_known, 1, sizeof subject->fact_known);
    memcpy(subject->field, state->field, sizeof subject->field);
    subject->fact[FACT_LONG_MODE] = state->in.l1_long_mode;
    subject->fact[FACT_CURRENT_VMCS] = state->in.current_vmcs;
    subject->fact[FACT_LINK_REVISION] = state->in.link_revision;
    subject->fact[FACT_VTPR] = state->in.vtpr;
    memcpy(&subject->fact[FACT_PDPTE0], state->in.pdpte, sizeof state->in.pdpte);
}

static enum verdict verdict_on(const struct subject *subject, unsigned int row) {
    enum verdict verdict[NVMX_CHECK_COUNT];

    decide(subject, verdict);
    return verdict[row];
}

/* With everything known, as the library says. */
static void compare(struct tally *tally, const struct subject *subject, const struct check_state *state) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    enum verdict verdict[NVMX_CHECK_COUNT];
    size_t count = nvmx_check_report(&state->in, failures, NVMX_CHECK_COUNT), next = 0;

    decide(subject, verdict);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        bool fails = next < count && failures[next].row == row;

        next += fails;
        if (nvmx_check_row(row)->live && verdict[row] != (fails ? VERDICT_BROKEN : VERDICT_HOLDS))
            complain(tally, row, "the verdict is not the library's", "anything unknown");
    }
}

static void forget_field(struct subject *subject, unsigned int slot) {
    nvmx_set_remove(&subject->known, slot);
    subject->field[slot] = 0;
}

/* `wrong`: the verdict that would be a guess. */
static void leave_out_each(struct tally *tally, const struct subject *whole, unsigned int row, enum verdict wrong,
                           const char *what) {
    struct rule rule;

    rule_of(row, &rule);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        struct subject subject = *whole;
        enum verdict verdict;

        if (!nvmx_set_has(&rule.reads, slot))
            continue;
        forget_field(&subject, slot);
        verdict = verdict_on(&subject, row);
        tally->done++;
        tally->undecided += verdict == VERDICT_UNDECIDED;
        if (verdict == wrong)
            complain(tally, row, what, nvmx_field_info(slot)->name);
    }
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++) {
        struct subject subject = *whole;

        if (!(rule.facts >> fact & 1))
            continue;
        subject.fact_known[fact] = false;
        subject.fact[fact] = 0;
        tally->done++;
        if (verdict_on(&subject, row) == wrong)
            complain(tally, row, what, dump_fact_text(fact));
    }
}

/* Without anything that it reads, a rule that can be broken and can hold is undecided. */
static void leave_out_all(struct tally *tally, const struct subject *whole, unsigned int row) {
    struct subject subject = *whole;
    struct rule rule;

    rule_of(row, &rule);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&rule.reads, slot))
            forget_field(&subject, slot);
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++)
        if (rule.facts >> fact & 1 || (fact > FACT_PDPTE0 && rule.facts >> FACT_PDPTE0 & 1))
            subject.fact_known[fact] = false;
    tally->done++;
    if (verdict_on(&subject, row) == VERDICT_HOLDS)
        complain(tally, row, "said to hold", "anything that it reads");
}

/* What a dump can't say: nothing is there in L1's memory. */
static bool can_be_dumped(const struct check_state *state) {
    return state->in.link_readable && state->in.pdpte_readable;
}

static void run(struct tally *tally, const struct vector *vector) {
    struct check_state state;
    struct subject subject;

    check_state_init(&state, vector->base);
    check_state_change(&state, vector->before, CHECK_CHANGES);
    if (!can_be_dumped(&state))
        return;
    subject_from(&subject, &state);
    leave_out_each(tally, &subject, vector->row, VERDICT_BROKEN, "said to be broken");
    check_state_change(&state, vector->broken, CHECK_CHANGES);
    if (!can_be_dumped(&state))
        return;
    subject_from(&subject, &state);
    compare(tally, &subject, &state);
    leave_out_each(tally, &subject, vector->row, VERDICT_HOLDS, "said to hold");
    leave_out_all(tally, &subject, vector->row);
}

int main(void) {
    struct tally tally = {0};
    struct rule rule;

    for (unsigned int row = 0; rule_of(row, &rule); row++) {
        if (rule.unknown)
            complain(&tally, row, "a word of the expression is not in words.def:", rule.unknown);
        if (nvmx_check_row(row)->live && rule.count == 0 && rule.facts == 0)
            complain(&tally, row, "reads nothing of a VMCS", "-");
    }
    for (size_t i = 0; i < VECTORS; i++)
        run(&tally, &vectors[i]);
    printf("%zu states, %u things left out, %u verdicts of them undecided, %u wrong\n", VECTORS, tally.done,
           tally.undecided, tally.failed);
    return tally.failed != 0;
}
