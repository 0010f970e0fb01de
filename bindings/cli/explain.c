/* SPDX-License-Identifier: MIT */
/* nvmx explain: which rules a dumped VMCS breaks. */
#include "explain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct options {
    const char *file;
    const char *caps;
    struct capset chosen; /* if caps */
    bool json, verbose, strict, for_l1;
    uint64_t fact[DUMP_FACTS];
    bool fact_given[DUMP_FACTS];
};

static int parse_fact(struct options *o, enum dump_fact fact, const char *name, const char *value) {
    uint64_t number;

    if (!whole_hex(value, &number) || (fact == FACT_VTPR && number > 0xff) ||
        (fact == FACT_LINK_REVISION && number > UINT32_MAX))
        return usage_error("explain", "%s wants a hexadecimal number in range, not '%s'", name, tame(value));
    o->fact[fact] = number;
    o->fact_given[fact] = true;
    return CLI_OK;
}

static int parse_mode(struct options *o, const char *value) {
    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        return usage_error("explain", "--long-mode is yes or no, not '%s'", tame(value));
    o->fact[FACT_LONG_MODE] = strcmp(value, "yes") == 0;
    o->fact_given[FACT_LONG_MODE] = true;
    return CLI_OK;
}

static int parse_valued(struct options *o, int argc, char **argv, int *i) {
    static const struct {
        const char *name;
        uint8_t fact;
    } facts[] = {{"--vmcs-pointer", FACT_CURRENT_VMCS}, {"--vtpr", FACT_VTPR}, {"--link-revision", FACT_LINK_REVISION}};
    const char *value;

    if ((value = option_value(argc, argv, i, "--caps")) != NULL) {
        o->caps = value;
        return *value ? CLI_OK : usage_error("explain", "--caps wants a file or one of the built-in sets");
    }
    if ((value = option_value(argc, argv, i, "--long-mode")) != NULL)
        return parse_mode(o, value);
    for (size_t f = 0; f < sizeof facts / sizeof facts[0]; f++)
        if ((value = option_value(argc, argv, i, facts[f].name)) != NULL)
            return parse_fact(o, facts[f].fact, facts[f].name, value);
    return usage_error("explain", "unknown option '%s'", tame(argv[*i]));
}

static int parse(struct options *o, int argc, char **argv) {
    int status = CLI_OK;

    for (int i = 1; i < argc && status == CLI_OK; i++) {
        const char *word = argv[i];

        if (strcmp(word, "--json") == 0)
            o->json = true;
        else if (strcmp(word, "-v") == 0 || strcmp(word, "--verbose") == 0)
            o->verbose = true;
        else if (strcmp(word, "--strict") == 0)
            o->strict = true;
        else if (strcmp(word, "--l1") == 0)
            o->for_l1 = true;
        else if (word[0] == '-' && word[1])
            status = parse_valued(o, argc, argv, &i);
        else if (o->file)
            status = usage_error("explain", "one file only, not '%s' too", tame(word));
        else
            o->file = word;
    }
    return status;
}

/* The capabilities to judge by: chosen, or the dump's, or permissive. */
static int choose(const struct options *o, const struct dump *dump, const char *name, struct capset *caps,
                  bool *assumed) {
    enum nvmx_status status = NVMX_OK;

    *assumed = false;
    if (o->caps) {
        *caps = o->chosen;
    } else if (dump->caps.msrs) {
        *caps = dump->caps;
    } else {
        *assumed = capset_profile("permissive", caps);
    }
    if (o->for_l1)
        status = nvmx_caps_for_l1(&caps->caps, NULL, &caps->caps);
    if (status == NVMX_OK)
        return CLI_OK;
    fprintf(stderr, "nvmx: %s:%zu: nvmx can offer L1 nothing with these capabilities (%s): %s\n", tame(name),
            dump->first_line, caps->name, "they force a control to 1 that it can't emulate");
    return CLI_USAGE;
}

static int explain_one(const struct options *o, struct dump *dump, const char *name, struct json *json) {
    struct capset caps;
    struct explanation e = {.file = name, .dump = dump, .caps = &caps, .for_l1 = o->for_l1, .verbose = o->verbose};
    int status = choose(o, dump, name, &caps, &e.assumed);

    if (status != CLI_OK)
        return status;
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++) {
        if (!o->fact_given[fact])
            continue;
        dump->fact[fact] = o->fact[fact];
        dump->fact_known[fact] = true;
    }
    subject_init(&e.subject, dump, &caps.caps);
    decide(&e.subject, e.verdict);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        e.count[e.verdict[row]]++;
    if (o->json)
        explain_json(json, &e);
    else
        explain_text(&e);
    return e.count[VERDICT_BROKEN] || (o->strict && e.count[VERDICT_UNDECIDED]) ? CLI_BROKEN : CLI_OK;
}

int command_explain(int argc, char **argv) {
    struct options o = {0};
    struct input input;
    struct dumps dumps = {0};
    struct json json = {0};
    int worst = CLI_OK, status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    if (o.file == NULL)
        o.file = "-";
    if (o.caps && strcmp(o.caps, "-") == 0 && strcmp(o.file, "-") == 0)
        return usage_error("explain", "the dump and the capabilities can't both be read from stdin");
    if (o.caps)
        status = capset_load(&o.chosen, o.caps);
    if (status != CLI_OK)
        return status;
    status = input_read(&input, o.file);
    if (status == CLI_OK)
        status = dumps_read(&dumps, &input);
    if (o.json && status == CLI_OK)
        json_array(&json, NULL);
    for (size_t i = 0; i < dumps.count && status == CLI_OK; i++) {
        if (i > 0 && !o.json)
            printf("\n");
        status = explain_one(&o, &dumps.dump[i], input.name, &json);
        if (status == CLI_BROKEN) {
            worst = CLI_BROKEN;
            status = CLI_OK;
        }
    }
    if (json.depth)
        json_end(&json);
    dumps_free(&dumps);
    input_free(&input);
    return status == CLI_OK ? worst : status;
}
