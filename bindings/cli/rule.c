/* SPDX-License-Identifier: MIT */
#include "rule.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "dump.h"

static const struct {
    const char *when, *ok; /* NULL: decided elsewhere */
} expressions[] = {
#define CHECK(section, number, text, groups, vm_fail, exit_reason, qualification, applies, rule, when, ok) {#when, #ok},
#define CHECK_ELSEWHERE(...)                                                                               {NULL, NULL},
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
};

enum kind { WORD_CONTROL, WORD_FIELDS, WORD_SEGMENT, WORD_FACT, WORD_NOTHING };

struct word {
    const char *text;
    uint8_t kind;
    uint8_t slot[3]; /* the last is not shown */
    uint16_t msr;
    uint8_t bit;
    bool part[4]; /* of a segment register */
    bool named;   /* a name follows in parentheses */
    uint8_t fact;
};

static const struct word words[] = {
#define CONTROL(word, msr_, bit_, field, activating)                                                                   \
    {.text = #word,                                                                                                    \
     .kind = WORD_CONTROL,                                                                                             \
     .slot = {NVMX_F_##field, NVMX_F_##field, NVMX_F_##activating},                                                    \
     .msr = msr_,                                                                                                      \
     .bit = bit_},
#define FIELDS(word, a, b, c) {.text = #word, .kind = WORD_FIELDS, .slot = {NVMX_F_##a, NVMX_F_##b, NVMX_F_##c}},
#define FIELDS_OF(word, a)                                                                                             \
    {.text = #word, .kind = WORD_FIELDS, .slot = {NVMX_F_##a, NVMX_F_##a, NVMX_F_##a}, .named = true},
#define SEGMENT(word, ...) {.text = #word, .kind = WORD_SEGMENT, .part = {__VA_ARGS__}, .named = true},
#define FACT(word, fact_)  {.text = #word, .kind = WORD_FACT, .fact = FACT_##fact_},
#define NOTHING(word)      {.text = #word, .kind = WORD_NOTHING},
#define NOTHING_OF(word)   {.text = #word, .kind = WORD_NOTHING, .named = true},
#include "words.def"
#undef CONTROL
#undef FIELDS
#undef FIELDS_OF
#undef SEGMENT
#undef FACT
#undef NOTHING
#undef NOTHING_OF
};
#define WORDS (sizeof words / sizeof words[0])

int capability_row(uint32_t msr, unsigned int bit) {
    const struct nvmx_cap_bit *at;

    for (int row = 0; (at = nvmx_cap_bit((size_t)row)) != NULL; row++)
        if (at->msr == msr && at->bit <= bit && bit < at->bit + (unsigned int)at->width)
            return row;
    return -1;
}

int control_capability(unsigned int slot, unsigned int bit) {
    for (size_t i = 0; i < WORDS; i++)
        if (words[i].kind == WORD_CONTROL && words[i].slot[0] == slot)
            return words[i].bit + bit < 64 ? capability_row(words[i].msr, words[i].bit + bit) : -1;
    return slot == NVMX_F_VM_FUNCTION_CONTROLS && bit < 64 ? capability_row(0x491, bit) : -1;
}

static void add(struct rule *rule, unsigned int slot, bool shown) {
    nvmx_set_add(&rule->reads, slot);
    for (unsigned int i = 0; i < rule->count; i++)
        shown = shown && rule->shown[i] != slot;
    if (shown && rule->count < RULE_SHOWN)
        rule->shown[rule->count++] = (uint8_t)slot;
}

/* The word in parentheses behind `text`. */
static size_t argument(const char *text, const char **begin) {
    *begin = *text == '(' ? text + 1 : text;
    return *text == '(' ? strcspn(*begin, ")") : 0;
}

static bool add_segment(struct rule *rule, const struct word *word, const char *name, size_t length) {
    static const char *const segment[] = {"ES", "CS", "SS",   "DS",
                                          "FS", "GS", "LDTR", "TR"}; /* in the order of encodings */
    static const unsigned int first[] = {NVMX_F_GUEST_ES_SELECTOR, NVMX_F_GUEST_ES_BASE, NVMX_F_GUEST_ES_LIMIT,
                                         NVMX_F_GUEST_ES_ACCESS_RIGHTS};

    for (unsigned int i = 0; i < sizeof segment / sizeof segment[0]; i++) {
        if (strlen(segment[i]) != length || strncmp(segment[i], name, length) != 0)
            continue;
        for (unsigned int part = 0; part < 4; part++)
            if (word->part[part])
                add(rule, first[part] + i, true);
        return true;
    }
    return false;
}

static void add_control(struct rule *rule, const struct word *word, const char *number, size_t length, bool wanted) {
    add(rule, word->slot[0], true);
    add(rule, word->slot[2], false);
    if (length > 0 && wanted && rule->feature == RULE_NO_FEATURE)
        rule->feature = capability_row(word->msr, word->bit + (unsigned int)strtoul(number, NULL, 10));
}

static bool add_word(struct rule *rule, const struct word *word, const char *inner, size_t length, bool wanted) {
    if (word->kind == WORD_CONTROL)
        add_control(rule, word, inner, length, wanted);
    else if (word->kind == WORD_SEGMENT)
        return add_segment(rule, word, inner, length);
    else if (word->kind == WORD_FACT)
        rule->facts |= 1u << word->fact;
    for (unsigned int i = 0; i < 3 && word->kind == WORD_FIELDS; i++)
        add(rule, word->slot[i], i < 2);
    return true;
}

/* One word of an expression. Gives what stands behind it, and behind a name in parentheses that belongs to it; NULL:
 * not known. */
static const char *take_word(struct rule *rule, const char *text, size_t length, bool wanted) {
    const char *inner, *rest = text + length;
    size_t inner_length = argument(rest, &inner);
    bool known = false, named = false;

    if (length == 1 && *text == 'F') {
        int slot = field_named(inner, inner_length);

        if (slot >= 0)
            add(rule, (unsigned int)slot, true);
        return slot >= 0 ? inner + inner_length : NULL;
    }
    for (size_t i = 0; i < WORDS; i++) {
        if (strlen(words[i].text) != length || strncmp(words[i].text, text, length) != 0)
            continue;
        known = add_word(rule, &words[i], inner, inner_length, wanted);
        named = words[i].named;
    }
    if (!known)
        return NULL;
    return named ? inner + inner_length : rest;
}

/* Names of bits, of capability MSRs, of activity states. */
static bool is_constant(const char *text) {
    static const char *const prefix[] = {"CR0_",  "CR4_",  "EFER_",    "RFLAGS_",   "S_CET_",
                                         "FRED_", "NVMX_", "PENDING_", "DEBUGCTL_", "ACTIVITY_"};

    for (size_t i = 0; i < sizeof prefix / sizeof prefix[0]; i++)
        if (strncmp(text, prefix[i], strlen(prefix[i])) == 0)
            return true;
    return false;
}

/* `any`: a feature counts even where it must be off. */
static void scan(struct rule *rule, const char *expression, bool any) {
    char before = 0;

    for (const char *at = expression; *at;) {
        size_t length = strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
        const char *next = at + (length ? length : 1);

        if (length > 0 && !isdigit((unsigned char)*at) && !is_constant(at)) {
            const char *after = take_word(rule, at, length, any || before != '!');

            if (!after)
                rule->unknown = at;
            next = after ? after : next;
        }
        before = *at;
        at = next;
    }
}

static void understand(size_t row, struct rule *rule) {
    *rule = (struct rule){.feature = RULE_NO_FEATURE};
    if (!expressions[row].ok)
        return;
    scan(rule, expressions[row].ok, false);
    rule->constrained = rule->count;
    rule->feature = RULE_NO_FEATURE; /* that of the condition is nearer to what the rule is about */
    scan(rule, expressions[row].when, false);
    if (rule->feature == RULE_NO_FEATURE)
        scan(rule, expressions[row].ok, true);
    if (rule->feature == RULE_NO_FEATURE)
        scan(rule, expressions[row].when, true);
}

bool rule_of(size_t row, struct rule *rule) {
    static struct rule rules[NVMX_CHECK_COUNT]; /* each is understood once: the tool has one thread */
    static bool understood[NVMX_CHECK_COUNT];

    if (row >= NVMX_CHECK_COUNT)
        return false;
    if (!understood[row])
        understand(row, &rules[row]);
    understood[row] = true;
    *rule = rules[row];
    return true;
}
