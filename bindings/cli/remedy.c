/* SPDX-License-Identifier: MIT */
#include "remedy.h"

#include <string.h>

struct attempt {
    const struct subject *subject;
    struct guess guess;
    unsigned int row;
    bool fails_now[NVMX_CHECK_COUNT];
    struct remedy best;
    uint64_t cost; /* of the best; UINT64_MAX: none yet */
};

static unsigned int bits_in(uint64_t value) {
    unsigned int count = 0;

    for (; value; value &= value - 1)
        count++;
    return count;
}

static bool holds_controls(unsigned int slot) {
    return control_capability(slot, 0) >= 0 || control_capability(slot, 1) >= 0;
}

/* How far a value is from the one that stands there, as a person would see it: mostly the number of changed bits. */
static unsigned int distance(unsigned int slot, uint64_t before, uint64_t after) {
    const uint64_t set = after & ~before, cleared = before & ~after;

    if (slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO && (set | cleared) == 1u << 11)
        return 0; /* the same event, with or without its error code */
    if ((set | cleared) >> 16 != 0 && (set | cleared) << 16 == 0 && after == (uint64_t)((int64_t)(after << 16) >> 16))
        return 1; /* the same address, made canonical */
    if (slot >= NVMX_F_GUEST_ES_ACCESS_RIGHTS && slot <= NVMX_F_GUEST_TR_ACCESS_RIGHTS && (set >> 16 & 1))
        return 20; /* unusable: another state */
    if (slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3 && (cleared & 1))
        return 20; /* not present: likewise */
    return bits_in(set | cleared);
}

/*
 * Fewest broken rules in all first. Then a field that the rule is about before others, a short distance, clearing
 * before setting, low bits before high ones.
 */
static uint64_t cost_of(size_t broken, bool constrained, unsigned int slot, uint64_t before, uint64_t after) {
    return (uint64_t)broken << 32 | (uint64_t)!constrained << 24 | (uint64_t)distance(slot, before, after) << 16 |
           (uint64_t)bits_in(after & ~before) << 8 | (uint64_t)bits_in((before ^ after) & UINT64_C(0xffffffffffff0000));
}

static void attempt(struct attempt *at, unsigned int slot, uint64_t value, bool constrained) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    uint64_t before = at->guess.field[slot], cost;
    size_t count, breaks = 0;
    unsigned int example = 0;

    value &= nvmx_field_mask(slot);
    if (value == before || cost_of(0, constrained, slot, before, value) >= at->cost)
        return;
    at->guess.field[slot] = value;
    count = guess_failures(&at->guess, at->subject, failures);
    at->guess.field[slot] = before;
    for (size_t i = 0; i < count; i++) {
        if (failures[i].row == at->row)
            return;
        if (!at->fails_now[failures[i].row] && breaks++ == 0)
            example = failures[i].row;
    }
    cost = cost_of(count, constrained, slot, before, value);
    if (cost < at->cost) {
        at->cost = cost;
        at->best = (struct remedy){slot, value, breaks, example};
    }
}

/* What capabilities force on control fields, CR0 and CR4: the value with its wrong bits corrected. */
static uint64_t corrected(const struct nvmx_caps *caps, unsigned int slot, uint64_t value) {
    static const struct {
        uint8_t slot, which;
    } controls[] = {
        {NVMX_F_PIN_BASED_CONTROLS, NVMX_CAP_PINBASED},      {NVMX_F_PRIMARY_CONTROLS, NVMX_CAP_PROCBASED},
        {NVMX_F_SECONDARY_CONTROLS, NVMX_CAP_PROCBASED2},    {NVMX_F_VM_EXIT_CONTROLS, NVMX_CAP_EXIT},
        {NVMX_F_VM_ENTRY_CONTROLS, NVMX_CAP_ENTRY},          {NVMX_F_TERTIARY_CONTROLS, NVMX_CAP_PROCBASED3},
        {NVMX_F_SECONDARY_VM_EXIT_CONTROLS, NVMX_CAP_EXIT2}, {NVMX_F_VM_FUNCTION_CONTROLS, NVMX_CAP_VMFUNC},
    };

    for (size_t i = 0; i < sizeof controls / sizeof controls[0]; i++)
        if (controls[i].slot == slot)
            return (value | nvmx_caps_must_be_1(caps, controls[i].which)) & nvmx_caps_may_be_1(caps, controls[i].which);
    if (slot == NVMX_F_GUEST_CR0 || slot == NVMX_F_HOST_CR0)
        return (value | caps->msr[NVMX_CAP_CR0_FIXED0]) & caps->msr[NVMX_CAP_CR0_FIXED1];
    if (slot == NVMX_F_GUEST_CR4 || slot == NVMX_F_HOST_CR4)
        return (value | caps->msr[NVMX_CAP_CR4_FIXED0]) & caps->msr[NVMX_CAP_CR4_FIXED1];
    return value;
}

static uint64_t sign_extended(uint64_t value, unsigned int bits) {
    return (uint64_t)((int64_t)(value << (64 - bits)) >> (64 - bits));
}

/* Values of few bits, where a rule wants one of several or equality with another field. */
static void attempt_numbers(struct attempt *at, unsigned int slot, bool constrained) {
    const uint64_t now = at->guess.field[slot];

    for (uint64_t low = 0; low < 32; low++) {
        attempt(at, slot, low, constrained);
        attempt(at, slot, (now & ~UINT64_C(0xf)) | (low & 0xf), constrained);
        attempt(at, slot, (now & ~UINT64_C(0x38)) | (low & 7) << 3, constrained);  /* page-walk length */
        attempt(at, slot, (now & ~UINT64_C(0x60)) | (low & 3) << 5, constrained);  /* DPL */
        attempt(at, slot, (now & ~UINT64_C(0x700)) | (low & 7) << 8, constrained); /* event type */
    }
    attempt(at, slot, 0xf3, constrained);
    attempt(at, slot, 0xffff, constrained);
    attempt(at, slot, UINT64_MAX, constrained);
    attempt(at, slot, now & ~UINT64_C(0xffe), constrained);      /* all attributes but "present" */
    attempt(at, slot, now ^ 0x500, constrained);                 /* EFER.LME with LMA */
    attempt(at, slot, (now & ~UINT64_C(0xff)) | 2, constrained); /* NMI's vector */
    attempt(at, slot, usual_value(slot, &at->subject->caps), constrained);
}

static void attempt_field(struct attempt *at, unsigned int slot, bool constrained) {
    const uint64_t now = at->guess.field[slot];

    attempt(at, slot, corrected(&at->subject->caps, slot, now), constrained);
    attempt(at, slot, sign_extended(now, 48), constrained);
    attempt(at, slot, sign_extended(now, 48) & ~UINT64_C(0x3f), constrained);
    for (unsigned int bit = 0; bit < 64; bit++) {
        attempt(at, slot, now ^ UINT64_C(1) << bit, constrained);
        attempt(at, slot, now & UINT64_MAX << bit, constrained);
        attempt(at, slot, now & ~(UINT64_MAX << bit), constrained);
    }
    for (unsigned int low = 0; low < 64; low += 4) /* a whole run of reserved bits */
        for (unsigned int width = 1; width <= 16 && low + width <= 64; width++)
            attempt(at, slot, now & ~(((UINT64_C(1) << width) - 1) << low), constrained);
    attempt_numbers(at, slot, constrained);
}

/* A real-mode-style base and its selector. */
static void attempt_bases(struct attempt *at, const struct rule *rule) {
    for (unsigned int i = 0; i < rule->count; i++) {
        unsigned int slot = rule->shown[i], segment = slot - NVMX_F_GUEST_ES_BASE;

        if (slot >= NVMX_F_GUEST_ES_BASE && slot <= NVMX_F_GUEST_TR_BASE)
            attempt(at, slot, at->guess.field[NVMX_F_GUEST_ES_SELECTOR + segment] << 4, true);
    }
}

bool remedy_find(const struct subject *subject, unsigned int row, const struct rule *rule, struct remedy *remedy) {
    struct attempt at = {.subject = subject, .row = row, .cost = UINT64_MAX};
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    bool only_controls = true; /* a state that has to agree with a control is changed rather than the control */
    size_t count;

    guess_init(&at.guess, subject, GUESS_USUAL);
    count = guess_failures(&at.guess, subject, failures);
    for (size_t i = 0; i < count; i++)
        at.fails_now[failures[i].row] = true;
    for (unsigned int i = 0; i < rule->constrained; i++)
        only_controls = only_controls && holds_controls(rule->shown[i]);
    for (unsigned int i = 0; i < rule->count; i++) {
        unsigned int slot = rule->shown[i];

        if (nvmx_set_has(&subject->known, slot) && nvmx_set_has(&subject->exists, slot))
            attempt_field(&at, slot, i < rule->constrained && (only_controls || !holds_controls(slot)));
    }
    attempt_bases(&at, rule);
    *remedy = at.best;
    return at.cost != UINT64_MAX;
}
