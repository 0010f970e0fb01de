/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <nvmx/exits.h>

#include "explain.h"
#include "remedy.h"

void outcome_text(const struct nvmx_check_row *row, char *out, size_t size) {
    if (row->vm_fail)
        snprintf(out, size, "VMfailValid, error %u", row->vm_fail);
    else if (row->exit_reason)
        snprintf(out, size, "VM-entry failure, exit reason %u, qualification %u", row->exit_reason, row->qualification);
    else
        snprintf(out, size, "decided elsewhere");
}

void value_text(unsigned int slot, uint64_t value, char *out, size_t size) {
    static const int digits[] = {
        [NVMX_WIDTH_16] = 4, [NVMX_WIDTH_64] = 16, [NVMX_WIDTH_32] = 8, [NVMX_WIDTH_NATURAL] = 16};

    snprintf(out, size, "%0*" PRIX64 "H", digits[nvmx_field_info(slot)->encoding >> 13 & 3], value);
}

void bits_text(unsigned int slot, uint64_t diff, char *out, size_t size) {
    size_t used = 0;

    out[0] = 0;
    for (int high = 63; high >= 0 && used < size; high--) {
        int low = high, row = -1;

        if (!(diff >> high & 1))
            continue;
        row = control_capability(slot, (unsigned int)high);
        while (low > 0 && row < 0 && (diff >> (low - 1) & 1) && control_capability(slot, (unsigned int)low - 1) < 0)
            low--;
        used += (size_t)snprintf(out + used, size - used, "%s%d", used ? ", " : "", high);
        if (low != high && used < size)
            used += (size_t)snprintf(out + used, size - used, ":%d", low);
        if (row >= 0 && used < size)
            used += (size_t)snprintf(out + used, size - used, " (%s)", nvmx_cap_bit((size_t)row)->name);
        high = low;
    }
}

bool is_foreign(const struct explanation *e, unsigned int slot) {
    return e->dump->line[slot] && e->dump->value[slot] && !nvmx_set_has(&e->subject.exists, slot);
}

static void print_field(const struct explanation *e, unsigned int slot) {
    const struct nvmx_field_info *field = nvmx_field_info(slot);
    char value[32];

    value_text(slot, e->subject.field[slot], value, sizeof value);
    printf("    %04" PRIX32 "H %-46s ", field->encoding, field->name);
    if (!nvmx_set_has(&e->subject.known, slot))
        printf("%sunknown%s\n", ink(INK_DOUBT), ink(INK_PLAIN));
    else if (e->dump->line[slot])
        printf("%s   line %" PRIu32 "\n", value, e->dump->line[slot]);
    else
        printf("%s   %s\n", value,
               nvmx_set_has(&e->subject.exists, slot) ? "the dump shows no such list" : "the CPU has no such field");
}

static void print_remedy(const struct explanation *e, unsigned int row, const struct rule *rule) {
    struct remedy remedy;
    char value[32], bits[400];

    if (!remedy_find(&e->subject, row, rule, &remedy))
        return;
    value_text(remedy.slot, remedy.value, value, sizeof value);
    bits_text(remedy.slot, remedy.value ^ e->subject.field[remedy.slot], bits, sizeof bits);
    printf("    holds with  %s = %s%s%s   changes bit%s %s\n", nvmx_field_info(remedy.slot)->name, ink(INK_GOOD), value,
           ink(INK_PLAIN), strpbrk(bits, ":,") ? "s" : "", bits);
    if (remedy.breaks == 1)
        printf("                (%s is then broken)\n", nvmx_check_row(remedy.example)->id);
    else if (remedy.breaks > 1)
        printf("                (%s and %zu more are then broken)\n", nvmx_check_row(remedy.example)->id,
               remedy.breaks - 1);
}

static void print_broken(const struct explanation *e, unsigned int row, bool first) {
    const struct nvmx_check_row *check = nvmx_check_row(row);
    struct rule rule;
    char outcome[80];

    rule_of(row, &rule);
    outcome_text(check, outcome, sizeof outcome);
    printf("\n%s%s%s  SDM %s  %s%s\n", ink(INK_BAD), check->id, ink(INK_PLAIN), check->section, outcome,
           first ? "  <- what the CPU answers" : "");
    printf("    rule  %s%s%s\n", ink(INK_BOLD), check->rule, ink(INK_PLAIN));
    if (*check->applies)
        printf("    when  %s\n", check->applies);
    for (unsigned int i = 0; i < rule.count; i++)
        print_field(e, rule.shown[i]);
    print_remedy(e, row, &rule);
}

static void print_head(const struct explanation *e) {
    unsigned int fields = 0;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        fields += e->dump->line[slot] != 0;
    printf("%s%s, line %zu%s: %s dump with %u fields\n", ink(INK_BOLD), tame(e->file), e->dump->first_line,
           ink(INK_PLAIN), dump_format_name(e->dump->format), fields);
    printf("capabilities: %s%s%s\n", e->caps->name, e->for_l1 ? "; what nvmx offers L1 there" : "",
           e->assumed ? " (the dump has none; choose a CPU with --caps)" : "");
    for (unsigned int fact = 0; fact < CAPSET_FACTS; fact++)
        if (!(e->caps->facts >> fact & 1) && fact != CAPSET_FEATURE_CONTROL)
            printf("  %s is not among them: taken from `permissive`\n", capset_fact_name(fact));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (is_foreign(e, slot))
            printf("%s  the dump has %s (%04" PRIX32 "H), which does not exist with these capabilities: taken as 0%s\n",
                   ink(INK_DOUBT), nvmx_field_info(slot)->name, nvmx_field_info(slot)->encoding, ink(INK_PLAIN));
}

/* What the dump itself says of the last entry. */
static void print_recorded(const struct explanation *e) {
    uint64_t reason = e->dump->value[NVMX_F_EXIT_REASON], error = e->dump->value[NVMX_F_VM_INSTRUCTION_ERROR];

    if (e->dump->line[NVMX_F_EXIT_REASON])
        printf("recorded: exit reason %" PRIX64 "H (%s), qualification %" PRIX64 "H\n", reason,
               nvmx_exit_name((uint32_t)reason & 0xffff), e->dump->value[NVMX_F_EXIT_QUALIFICATION]);
    if (e->dump->line[NVMX_F_VM_INSTRUCTION_ERROR] && error)
        printf("recorded: VM-instruction error %" PRIu64 "\n", error);
}

/* The rules that wait for one unknown thing: a field, or a fact. */
static void print_waiting(const struct explanation *e, const char *name, int slot, unsigned int fact) {
    unsigned int printed = 0;

    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        struct nvmx_field_set fields;
        uint32_t facts;
        struct rule rule;

        if (e->verdict[row] != VERDICT_UNDECIDED)
            continue;
        rule_of(row, &rule);
        unknown_to(&e->subject, &rule, &fields, &facts);
        if (!(slot >= 0 ? nvmx_set_has(&fields, (unsigned int)slot) : (facts >> fact & 1) != 0))
            continue;
        if (printed++ == 0)
            printf("  %s%s%s:", ink(INK_DOUBT), name, ink(INK_PLAIN));
        if (printed <= 6 || e->verbose)
            printf(" %s", nvmx_check_row(row)->id);
    }
    if (printed > 6 && !e->verbose)
        printf(" and %u more", printed - 6);
    if (printed)
        printf("\n");
}

static void print_undecided(const struct explanation *e) {
    if (e->count[VERDICT_UNDECIDED] == 0)
        return;
    printf("\n%s%zu rule%s can't be decided%s, for the dump lacks\n", ink(INK_DOUBT), e->count[VERDICT_UNDECIDED],
           e->count[VERDICT_UNDECIDED] == 1 ? "" : "s", ink(INK_PLAIN));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        char name[120];

        snprintf(name, sizeof name, "%s (%04" PRIX32 "H)", nvmx_field_info(slot)->name,
                 nvmx_field_info(slot)->encoding);
        if (!nvmx_set_has(&e->subject.known, slot))
            print_waiting(e, name, (int)slot, 0);
    }
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++)
        if (!e->subject.fact_known[fact])
            print_waiting(e, dump_fact_text(fact), -1, fact);
}

static void print_lacking(const struct explanation *e) {
    printf("\nfields that the dump lacks:\n");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (!nvmx_set_has(&e->subject.known, slot))
            printf("  %04" PRIX32 "H %s\n", nvmx_field_info(slot)->encoding, nvmx_field_info(slot)->name);
}

void explain_text(const struct explanation *e) {
    size_t broken = e->count[VERDICT_BROKEN];
    bool first = true;

    print_head(e);
    print_recorded(e);
    printf("\n%s%zu rule%s broken%s, %zu hold, %zu can't be decided\n", ink(broken ? INK_BAD : INK_GOOD), broken,
           broken == 1 ? "" : "s", ink(INK_PLAIN), e->count[VERDICT_HOLDS], e->count[VERDICT_UNDECIDED]);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        if (e->verdict[row] == VERDICT_UNDECIDED)
            first = false; /* one that comes before might be the CPU's answer */
        if (e->verdict[row] != VERDICT_BROKEN)
            continue;
        print_broken(e, row, first);
        first = false;
    }
    print_undecided(e);
    if (e->verbose)
        print_lacking(e);
}
