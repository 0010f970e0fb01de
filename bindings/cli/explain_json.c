/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "explain.h"
#include "remedy.h"

static void write_fields(struct json *json, const struct explanation *e, const struct rule *rule) {
    json_array(json, "fields");
    for (unsigned int i = 0; i < rule->count; i++) {
        unsigned int slot = rule->shown[i];

        json_object(json, NULL);
        json_hex(json, "encoding", nvmx_field_info(slot)->encoding);
        json_string(json, "name", nvmx_field_info(slot)->name);
        if (nvmx_set_has(&e->subject.known, slot))
            json_hex(json, "value", e->subject.field[slot]);
        else
            json_string(json, "value", NULL);
        json_bool(json, "constrained", i < rule->constrained);
        if (e->dump->line[slot])
            json_number(json, "line", e->dump->line[slot]);
        json_end(json);
    }
    json_end(json);
}

static void write_remedy(struct json *json, const struct explanation *e, unsigned int row, const struct rule *rule) {
    struct remedy remedy;

    if (!remedy_find(&e->subject, row, rule, &remedy)) {
        json_string(json, "holds_with", NULL);
        return;
    }
    json_object(json, "holds_with");
    json_hex(json, "encoding", nvmx_field_info(remedy.slot)->encoding);
    json_string(json, "name", nvmx_field_info(remedy.slot)->name);
    json_hex(json, "value", remedy.value);
    json_number(json, "breaks", remedy.breaks);
    json_end(json);
}

static void write_rule(struct json *json, const struct explanation *e, unsigned int row) {
    const struct nvmx_check_row *check = nvmx_check_row(row);
    struct rule rule;

    rule_of(row, &rule);
    json_object(json, NULL);
    json_string(json, "id", check->id);
    json_string(json, "section", check->section);
    json_string(json, "rule", check->rule);
    json_string(json, "applies", check->applies);
    json_number(json, "vm_fail", check->vm_fail);
    json_number(json, "exit_reason", check->exit_reason);
    json_number(json, "qualification", check->qualification);
    write_fields(json, e, &rule);
    if (e->verdict[row] == VERDICT_BROKEN)
        write_remedy(json, e, row, &rule);
    json_end(json);
}

static void write_rules(struct json *json, const struct explanation *e, const char *key, enum verdict verdict) {
    json_array(json, key);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        if (e->verdict[row] == verdict)
            write_rule(json, e, row);
    json_end(json);
}

/* Fields and facts that some undecided rule reads and nobody knows. */
static void write_lacking(struct json *json, const struct explanation *e) {
    struct nvmx_field_set all = {{0}}, fields;
    uint32_t all_facts = 0, facts;

    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        struct rule rule;

        if (e->verdict[row] != VERDICT_UNDECIDED)
            continue;
        rule_of(row, &rule);
        unknown_to(&e->subject, &rule, &fields, &facts);
        all_facts |= facts;
        for (unsigned int i = 0; i < NVMX_FIELD_SET_WORDS; i++)
            all.word[i] |= fields.word[i];
    }
    json_array(json, "lacking");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (!nvmx_set_has(&all, slot))
            continue;
        json_object(json, NULL);
        json_hex(json, "encoding", nvmx_field_info(slot)->encoding);
        json_string(json, "name", nvmx_field_info(slot)->name);
        json_end(json);
    }
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++) {
        if (!(all_facts >> fact & 1))
            continue;
        json_object(json, NULL);
        json_string(json, "name", dump_fact_name(fact));
        json_end(json);
    }
    json_end(json);
}

void explain_json(struct json *json, const struct explanation *e) {
    json_object(json, NULL);
    json_string(json, "file", e->file);
    json_number(json, "line", e->dump->first_line);
    json_string(json, "format", dump_format_name(e->dump->format));
    json_string(json, "capabilities", e->caps->name);
    json_bool(json, "capabilities_assumed", e->assumed);
    json_bool(json, "offered_to_l1", e->for_l1);
    json_number(json, "holding", e->count[VERDICT_HOLDS]);
    write_rules(json, e, "broken", VERDICT_BROKEN);
    write_rules(json, e, "undecided", VERDICT_UNDECIDED);
    write_lacking(json, e);
    json_end(json);
}
