/* SPDX-License-Identifier: MIT */
/* nvmx checks: the rules of VM entry, and how many there are for each feature. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "explain.h"
#include "print.h"
#include "rule.h"

struct options {
    bool json, summary;
    const char *wanted; /* part of an id, a section or a feature; NULL: all */
};

/* Of the features, the last is "none": rules that no control turns on. */
#define MOST_FEATURES 300
struct tally {
    unsigned int rows[MOST_FEATURES + 1], live[MOST_FEATURES + 1];
    unsigned int all_rows, all_live, offered_live;
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--summary") == 0)
            o->summary = true;
        else if (argv[i][0] != '-' && !o->wanted)
            o->wanted = argv[i];
        else
            return usage_error("checks", "unknown argument '%s'", tame(argv[i]));
    }
    return CLI_OK;
}

static const char *feature_name(const struct rule *rule) {
    return rule->feature == RULE_NO_FEATURE ? NULL : nvmx_cap_bit((size_t)rule->feature)->name;
}

static bool is_offered(const struct rule *rule) {
    return rule->feature == RULE_NO_FEATURE || nvmx_cap_bit((size_t)rule->feature)->emulated;
}

static bool is_wanted(const struct options *o, const struct nvmx_check_row *row, const struct rule *rule) {
    const char *feature = feature_name(rule);
    char wanted[80], name[80];

    if (!o->wanted || strstr(row->id, o->wanted))
        return true;
    plain_name(o->wanted, strlen(o->wanted), wanted, sizeof wanted);
    plain_name(feature ? feature : "", feature ? strlen(feature) : 0, name, sizeof name);
    return *wanted && strstr(name, wanted);
}

static void count(struct tally *tally, const struct nvmx_check_row *row, const struct rule *rule) {
    unsigned int place =
        rule->feature >= 0 && rule->feature < MOST_FEATURES ? (unsigned int)rule->feature : MOST_FEATURES;

    tally->rows[place]++;
    tally->live[place] += row->live;
    tally->all_rows++;
    tally->all_live += row->live;
    tally->offered_live += row->live && is_offered(rule);
}

static void row_text(const struct nvmx_check_row *row, const struct rule *rule) {
    char outcome[80];

    outcome_text(row, outcome, sizeof outcome);
    printf("%s%-16s%s %s%s%s  %s\n", ink(INK_BOLD), row->id, ink(INK_PLAIN), row->live ? ink(INK_GOOD) : ink(INK_DIM),
           row->live ? "live" : "elsewhere", ink(INK_PLAIN), outcome);
    printf("    %s\n", row->rule);
    if (*row->applies)
        printf("    when %s\n", row->applies);
    if (row->where)
        printf("    %s\n", row->where);
    if (feature_name(rule))
        printf("    feature: %s%s\n", feature_name(rule),
               is_offered(rule) ? "" : " (nvmx does not offer it to L1 yet)");
}

static void row_json(struct json *json, const struct nvmx_check_row *row, const struct rule *rule) {
    json_object(json, NULL);
    json_string(json, "id", row->id);
    json_string(json, "section", row->section);
    json_string(json, "applies", row->applies);
    json_string(json, "rule", row->rule);
    json_number(json, "vm_fail", row->vm_fail);
    json_number(json, "exit_reason", row->exit_reason);
    json_number(json, "qualification", row->qualification);
    json_bool(json, "live", row->live);
    json_string(json, "elsewhere", row->where);
    json_string(json, "feature", feature_name(rule));
    json_bool(json, "feature_offered", is_offered(rule));
    json_array(json, "fields");
    for (unsigned int i = 0; i < rule->count; i++)
        json_string(json, NULL, nvmx_field_info(rule->shown[i])->name);
    json_end(json);
    json_end(json);
}

static const char *feature_at(unsigned int place, bool *offered) {
    const struct nvmx_cap_bit *bit = place < MOST_FEATURES ? nvmx_cap_bit(place) : NULL;

    *offered = !bit || bit->emulated;
    return bit ? bit->name : NULL;
}

static void tally_text(const struct tally *tally) {
    printf("%s%-46s %5s %5s  offered to L1%s\n", ink(INK_BOLD), "FEATURE", "rules", "live", ink(INK_PLAIN));
    for (unsigned int place = 0; place <= MOST_FEATURES; place++) {
        bool offered;
        const char *name = feature_at(place, &offered);

        if (tally->rows[place])
            printf("%-46s %5u %5u  %s\n", name ? name : "(no single one)", tally->rows[place], tally->live[place],
                   name ? (offered ? "yes" : "not yet") : "-");
    }
    printf("%u rules, %u live, %u of them about what nvmx offers\n", tally->all_rows, tally->all_live,
           tally->offered_live);
}

static void tally_json(struct json *json, const struct tally *tally) {
    json_array(json, "features");
    for (unsigned int place = 0; place <= MOST_FEATURES; place++) {
        bool offered;
        const char *name = feature_at(place, &offered);

        if (!tally->rows[place])
            continue;
        json_object(json, NULL);
        json_string(json, "name", name);
        json_number(json, "rules", tally->rows[place]);
        json_number(json, "live", tally->live[place]);
        json_bool(json, "offered", offered);
        json_end(json);
    }
    json_end(json);
    json_number(json, "rules", tally->all_rows);
    json_number(json, "live", tally->all_live);
    json_number(json, "live_and_offered", tally->offered_live);
}

int command_checks(int argc, char **argv) {
    struct options o = {0};
    struct tally tally = {0};
    struct json json = {0};
    const struct nvmx_check_row *row;
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    if (o.json) {
        json_object(&json, NULL);
        json_array(&json, "checks");
    }
    for (size_t i = 0; (row = nvmx_check_row(i)) != NULL; i++) {
        struct rule rule;

        rule_of(i, &rule);
        if (!is_wanted(&o, row, &rule))
            continue;
        count(&tally, row, &rule);
        if (o.json)
            row_json(&json, row, &rule);
        else if (!o.summary)
            row_text(row, &rule);
    }
    if (o.json) {
        json_end(&json);
        tally_json(&json, &tally);
        json_end(&json);
    } else {
        if (!o.summary)
            printf("\n");
        tally_text(&tally);
    }
    return CLI_OK;
}
