/* SPDX-License-Identifier: MIT */
#include "decide.h"

#include <string.h>

static void know(struct subject *subject, unsigned int slot, uint64_t value) {
    nvmx_set_add(&subject->known, slot);
    subject->field[slot] = value;
}

void subject_init(struct subject *subject, const struct dump *dump, const struct nvmx_caps *caps) {
    *subject = (struct subject){.caps = *caps};
    nvmx_fields_existing(caps, &subject->exists);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool given = dump->line[slot] || nvmx_set_has(&dump->implied, slot);

        if (!nvmx_set_has(&subject->exists, slot))
            know(subject, slot, 0);
        else if (given)
            know(subject, slot, dump->value[slot]);
    }
    memcpy(subject->fact, dump->fact, sizeof subject->fact);
    memcpy(subject->fact_known, dump->fact_known, sizeof subject->fact_known);
    if (!(caps->cpu & NVMX_CPU_LONG_MODE))
        subject->fact_known[FACT_LONG_MODE] = true; /* and 0 */
}

bool unknown_to(const struct subject *subject, const struct rule *rule, struct nvmx_field_set *fields,
                uint32_t *facts) {
    bool any = false;

    *facts = 0;
    for (unsigned int i = 0; i < NVMX_FIELD_SET_WORDS; i++) {
        fields->word[i] = rule->reads.word[i] & ~subject->known.word[i];
        any = any || fields->word[i];
    }
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++) {
        bool reads = rule->facts >> fact & 1;

        if (fact > FACT_PDPTE0)
            reads = rule->facts >> FACT_PDPTE0 & 1;
        if (reads && !subject->fact_known[fact])
            *facts |= 1u << fact;
    }
    return any || *facts;
}

/* -- values to try
 * ----------------------------------------------------------------------------------------------------------------------
 */

/* Numbers that single rules single out: types, vectors, states, limits, memory types, canonical borders. */
static const uint64_t special[] = {
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    0xa,
    0xb,
    0xf,
    0x10,
    0x1e,
    0x28,
    0x93,
    0x9b,
    0xc093,
    0xa09b,
    0xf3,
    0x8b,
    0x82,
    0xffff,
    0x1c000,
    0x67,
    0xfff,
    0x10000,
    0xfffff,
    0x100000,
    0x2020,
    0x2000,
    0x20,
    0x500,
    0xd01,
    0xfe0,
    0xffffffff,
    0x80000021,
    0x80000000,
    0x7fffffffffff,
    0x0007040600070406,
    0x11000,
    0x10001,
    0x4000,
    0xffff800000000000,
    0xfffffffffffff000,
    0x800000000000,
    0x202,
    0x20002,
};
#define SPECIAL ((unsigned int)(sizeof special / sizeof special[0]))

/* Events: each type with the vectors that rules name, valid, with and without error code, nested, and reserved bits. */
#define EVENT_VECTORS 9
#define EVENTS        (8 * EVENT_VECTORS * 4)
static uint64_t event_value(unsigned int i) {
    static const uint8_t vector[EVENT_VECTORS] = {0, 1, 2, 3, 8, 14, 18, 32, 6};
    static const uint32_t more[4] = {0, 1u << 11, 1u << 13, 1u << 12};

    return 0x80000000u | (i % 8) << 8 | vector[i / 8 % EVENT_VECTORS] | more[i / 8 / EVENT_VECTORS];
}

/* What makes a field equal to another where a rule asks for that: a segment's base and selector, the VMCS link pointer
 * and the current-VMCS pointer. */
#define RELATED      2
#define FIELD_TRIALS (RELATED + SPECIAL + 64 + EVENTS)
static uint64_t related_value(unsigned int slot, const struct guess *guess, unsigned int i) {
    if (slot >= NVMX_F_GUEST_ES_BASE && slot <= NVMX_F_GUEST_TR_BASE)
        return guess->field[slot - NVMX_F_GUEST_ES_BASE + NVMX_F_GUEST_ES_SELECTOR] << 4;
    if (slot >= NVMX_F_GUEST_ES_SELECTOR && slot <= NVMX_F_GUEST_TR_SELECTOR)
        return guess->field[slot - NVMX_F_GUEST_ES_SELECTOR + NVMX_F_GUEST_ES_BASE] >> 4;
    return i == 0 ? guess->fact[FACT_CURRENT_VMCS] : guess->fact[FACT_CURRENT_VMCS] ^ 0x1000;
}

/* The value number i for a field of the guess `base`; false past the last. */
static bool trial(unsigned int slot, unsigned int i, const struct guess *base, uint64_t *value) {
    const uint64_t mask = nvmx_field_mask(slot), now = base->field[slot];

    if (i >= FIELD_TRIALS)
        return false;
    if (i < RELATED)
        *value = related_value(slot, base, i) & mask;
    else if ((i -= RELATED) < SPECIAL)
        *value = special[i] & mask;
    else if (i < SPECIAL + 64)
        *value = (now ^ UINT64_C(1) << (i - SPECIAL)) & mask;
    else if (slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO)
        *value = event_value(i - SPECIAL - 64);
    else
        return false;
    return true;
}

/* -- trying
 * ---------------------------------------------------------------------------------------------------------------------------------
 */

struct search {
    const struct subject *subject;
    struct rule rule[NVMX_CHECK_COUNT];
    bool depends[NVMX_CHECK_COUNT]; /* reads something unknown */
    bool failed[NVMX_CHECK_COUNT], passed[NVMX_CHECK_COUNT];
};

static void try_guess(struct search *search, const struct guess *guess) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    size_t count = guess_failures(guess, search->subject, failures), next = 0;

    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        bool fails = next < count && failures[next].row == row;

        next += fails;
        search->failed[row] = search->failed[row] || fails;
        search->passed[row] = search->passed[row] || !fails;
    }
}

static bool is_open(const struct search *search, unsigned int row) {
    return search->depends[row] && search->failed[row] != search->passed[row];
}

static bool asked_for(const struct search *search, unsigned int slot) {
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        if (is_open(search, row) && nvmx_set_has(&search->rule[row].reads, slot))
            return true;
    return false;
}

static bool is_unknown(const struct subject *subject, unsigned int slot) {
    return nvmx_set_has(&subject->exists, slot) && !nvmx_set_has(&subject->known, slot);
}

/* Each unknown field through all its trial values, the others as in `base`. */
static void vary_one(struct search *search, const struct guess *base) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        struct guess guess = *base;

        if (!is_unknown(search->subject, slot) || !asked_for(search, slot))
            continue;
        for (unsigned int i = 0; trial(slot, i, base, &guess.field[slot]); i++)
            try_guess(search, &guess);
    }
}

static void vary_facts(struct search *search, const struct guess *base) {
    const struct subject *subject = search->subject;
    const uint64_t values[] = {0,
                               1,
                               0xf0,
                               UINT64_MAX,
                               0x1000,
                               subject->caps.msr[NVMX_CAP_BASIC] & 0x7fffffff,
                               (subject->caps.msr[NVMX_CAP_BASIC] & 0x7fffffff) | 0x80000000,
                               base->field[NVMX_F_VMCS_LINK_POINTER]};

    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++)
        for (unsigned int i = 0; i < sizeof values / sizeof values[0] && !subject->fact_known[fact]; i++) {
            struct guess guess = *base;

            guess.fact[fact] = values[i];
            try_guess(search, &guess);
        }
}

/* Mixtures, always the same ones: what a rule asks of several unknown fields at a time. */
#define MIXTURES 1500
static void vary_all(struct search *search, const struct guess base[GUESS_KINDS]) {
    uint64_t state = 0x9e3779b97f4a7c15;

    for (unsigned int round = 0; round < MIXTURES; round++) {
        struct guess guess = base[round % GUESS_KINDS];

        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            unsigned int from;

            state = state * 6364136223846793005 + 1442695040888963407;
            from = (unsigned int)(state >> 33);
            if (!is_unknown(search->subject, slot))
                continue;
            if (from % 4 < GUESS_KINDS)
                guess.field[slot] = base[from % 4].field[slot];
            else if (!trial(slot, from / 4 % FIELD_TRIALS, &guess, &guess.field[slot]))
                guess.field[slot] = from & nvmx_field_mask(slot);
        }
        try_guess(search, &guess);
    }
}

static bool any_open(const struct search *search) {
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        if (is_open(search, row))
            return true;
    return false;
}

static void run(struct search *search) {
    struct guess base[GUESS_KINDS];

    for (unsigned int kind = 0; kind < GUESS_KINDS; kind++) {
        guess_init(&base[kind], search->subject, kind);
        try_guess(search, &base[kind]);
    }
    for (unsigned int kind = 0; kind < GUESS_KINDS && any_open(search); kind++) {
        vary_facts(search, &base[kind]);
        vary_one(search, &base[kind]);
    }
    if (any_open(search))
        vary_all(search, base);
}

void decide(const struct subject *subject, enum verdict verdict[NVMX_CHECK_COUNT]) {
    struct search search = {.subject = subject};
    struct nvmx_field_set fields;
    uint32_t facts;

    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        rule_of(row, &search.rule[row]);
        search.depends[row] = unknown_to(subject, &search.rule[row], &fields, &facts);
    }
    run(&search);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        if (!nvmx_check_row(row)->live)
            verdict[row] = VERDICT_ELSEWHERE;
        else if (search.failed[row] && search.passed[row])
            verdict[row] = VERDICT_UNDECIDED;
        else
            verdict[row] = search.failed[row] ? VERDICT_BROKEN : VERDICT_HOLDS;
    }
}
