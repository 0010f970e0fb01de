/* SPDX-License-Identifier: MIT */
/* nvmx fields, nvmx exits: the library's tables. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <nvmx/exits.h>
#include <nvmx/vmcs.h>

#include "capset.h"
#include "cli.h"
#include "dump.h"
#include "print.h"
#include "rule.h"

struct options {
    bool json;
    const char *caps; /* NULL: all */
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[0], "fields") == 0 && option_named("fields", argc, argv, &i, "--caps", &o->caps)) {
            if (!o->caps)
                return CLI_USAGE;
        } else
            return usage_error(argv[0], "unknown argument '%s'", tame(argv[i]));
    }
    return CLI_OK;
}

/* -- fields
 * ------------------------------------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *name;
    uint16_t msr[2];
    uint8_t bit[2];
} existence[] = {
#define EXISTS(name, msr1, bit1, msr2, bit2) {#name, {msr1, msr2}, {bit1, bit2}},
#include <nvmx/field_exists.def>
#undef EXISTS
};

static const char *width_name(uint32_t encoding) {
    static const char *const name[] = {
        [NVMX_WIDTH_16] = "16", [NVMX_WIDTH_64] = "64", [NVMX_WIDTH_32] = "32", [NVMX_WIDTH_NATURAL] = "natural"};

    return name[encoding >> 13 & 3];
}

static const char *kind_name(uint32_t encoding) {
    static const char *const name[] = {"control", "exit information", "guest state", "host state"};

    return name[encoding >> 10 & 3];
}

/* What must be allowed for the field to exist. */
static void exists_text(unsigned int row, char *out, size_t size) {
    const char *name[2] = {NULL, NULL};

    for (unsigned int i = 0; i < 2; i++) {
        int cap = existence[row].msr[i] ? capability_row(existence[row].msr[i], existence[row].bit[i]) : -1;

        name[i] = cap >= 0 ? nvmx_cap_bit((size_t)cap)->name : NULL;
    }
    if (!name[0])
        snprintf(out, size, "always");
    else if (!name[1] || strcmp(name[0], name[1]) == 0)
        snprintf(out, size, "%s", name[0]);
    else
        snprintf(out, size, "%s, or %s", name[0], name[1]);
}

static void field_json(struct json *json, unsigned int slot) {
    const struct nvmx_field_info *field = nvmx_field_info(slot);
    char condition[200];

    exists_text(field->exists, condition, sizeof condition);
    json_object(json, NULL);
    json_hex(json, "encoding", field->encoding);
    json_string(json, "name", field->name);
    json_string(json, "identifier", field_identifier(slot));
    json_string(json, "width", width_name(field->encoding));
    json_string(json, "kind", kind_name(field->encoding));
    json_bool(json, "read_only", nvmx_encoding_read_only(field->encoding));
    json_string(json, "exists", condition);
    json_end(json);
}

static void field_text(unsigned int slot) {
    const struct nvmx_field_info *field = nvmx_field_info(slot);
    char condition[200];

    exists_text(field->exists, condition, sizeof condition);
    printf("%04" PRIX32 "H  %-7s  %-16s  %-60s  %s\n", field->encoding, width_name(field->encoding),
           kind_name(field->encoding), field->name, condition);
}

int command_fields(int argc, char **argv) {
    struct options o = {0};
    struct capset caps;
    struct nvmx_field_set existing;
    struct json json = {0};
    unsigned int count = 0;
    int status = parse(&o, argc, argv);

    memset(&existing, 0xff, sizeof existing);
    if (status == CLI_OK && o.caps) {
        status = capset_load(&caps, o.caps);
        if (status == CLI_OK)
            nvmx_fields_existing(&caps.caps, &existing);
    }
    if (status != CLI_OK)
        return status;
    if (o.json)
        json_array(&json, NULL);
    else
        printf("%sCODE   WIDTH    KIND              %-60s  EXISTS WITH%s\n", ink(INK_BOLD), "NAME", ink(INK_PLAIN));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (!nvmx_set_has(&existing, slot))
            continue;
        count++;
        if (o.json)
            field_json(&json, slot);
        else
            field_text(slot);
    }
    if (o.json)
        json_end(&json);
    else
        printf("%u fields\n", count);
    return CLI_OK;
}

/* -- exits
 * --------------------------------------------------------------------------------------------------------------------------------------
 */

enum {
    INFO_Q = 1,
    INFO_L = 2,
    INFO_P = 4,
    INFO_V = 8,
    INFO_O = 16,
    INFO_N = 32,
    INFO_I = 64,
    INFO_D = 128,
};

static const struct {
    const char *name, *who;
    uint8_t bit, information;
} exits[] = {
#define EXIT(number, name, text, who, bit, information) [number] = {text, #who, bit, information},
#include <nvmx/exits.def>
#undef EXIT
};
#define EXITS (sizeof exits / sizeof exits[0])

static const struct {
    uint8_t flag;
    const char *name;
} information[] = {
    {INFO_Q, "qualification"},           {INFO_L, "guest-linear address"},
    {INFO_P, "guest-physical address"},  {INFO_V, "interruption information"},
    {INFO_O, "IDT-vectoring"},           {INFO_N, "instruction length"},
    {INFO_I, "instruction information"}, {INFO_D, "MSR data"},
};
#define INFORMATION (sizeof information / sizeof information[0])

/* Who gets the exit of an L2, in words. */
static void who_text(unsigned int number, char *out, size_t size) {
    static const struct {
        const char *who;
        uint8_t slot;
    } fields[] = {{"PIN", NVMX_F_PIN_BASED_CONTROLS},
                  {"PRIMARY", NVMX_F_PRIMARY_CONTROLS},
                  {"SECONDARY", NVMX_F_SECONDARY_CONTROLS},
                  {"TERTIARY", NVMX_F_TERTIARY_CONTROLS},
                  {"ENABLED", NVMX_F_PRIMARY_CONTROLS}};
    static const struct {
        const char *who, *text;
    } words[] = {
        {"HOST", "the host"},
        {"ALWAYS", "L1"},
        {"EXCEPTION", "L1 by its exception bitmap, page-fault masks or NMI exiting"},
        {"INTERRUPT", "L1 if external-interrupt exiting"},
        {"CONTROL_REGISTER", "L1 by its CR masks, CR3 targets and CR8 controls"},
        {"IO", "L1 by its I/O bitmaps or unconditional I/O exiting"},
        {"MSR_READ", "L1 by its MSR bitmaps"},
        {"MSR_WRITE", "L1 by its MSR bitmaps"},
        {"MSR_READ_IMMEDIATE", "L1 by its MSR bitmaps"},
        {"MSR_WRITE_IMMEDIATE", "L1 by its MSR bitmaps"},
        {"MSR_LIST_READ", "L1 by its MSR bitmaps if MSR-list instructions are enabled"},
        {"MSR_LIST_WRITE", "L1 by its MSR bitmaps if MSR-list instructions are enabled"},
        {"USER_MSR", "L1 if it uses no MSR bitmaps"},
        {"LEAF", "L1 by its exiting bitmap of leaf functions"},
        {"EOI", "L1 by its EOI-exit bitmaps"},
        {"TIMEOUT", "L1 if instruction timeout and its window is not longer than the host's"},
        {"ENTRY_FAILURE", "the host: L1's own entry failures are found before the entry"},
        {"PAUSE", "L1 if PAUSE exiting or PAUSE-loop exiting"},
        {"EPT", "L1 if its EPT does not permit the access"},
        {"APIC_WRITE", "L1 if APIC-register virtualization"},
        {"MONITOR_TRAP", "L1 if monitor trap flag, or if it injected a pending one"},
        {"XSS", "L1 by its XSS-exiting bitmap"},
        {"ENCLS", "L1 by its ENCLS-exiting bitmap"},
        {"VM_FUNCTION", "L1 if it has not enabled the function"},
        {"SHADOW_VMCS", "L1 by its VMREAD and VMWRITE bitmaps"},
        {"EPT_VPID", "L1 if its processor has the instruction, else #UD"},
    };

    snprintf(out, size, "L1 by a rule of its own (%s)", exits[number].who);
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i].who, exits[number].who) == 0)
            snprintf(out, size, "%s", words[i].text);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        int row = control_capability(fields[i].slot, exits[number].bit);

        if (strcmp(fields[i].who, exits[number].who) == 0 && row >= 0)
            snprintf(out, size, "L1 if %s", nvmx_cap_bit((size_t)row)->name);
    }
}

static void exit_text(unsigned int number) {
    const char *separator = "  ";
    char who[120];

    who_text(number, who, sizeof who);
    printf("%3u  %-46s  %-62s", number, exits[number].name, who);
    for (size_t i = 0; i < INFORMATION; i++) {
        if (!(exits[number].information & information[i].flag))
            continue;
        printf("%s%s", separator, information[i].name);
        separator = ", ";
    }
    printf("\n");
}

static void exit_json(struct json *json, unsigned int number) {
    char who[120];

    who_text(number, who, sizeof who);
    json_object(json, NULL);
    json_number(json, "reason", number);
    json_string(json, "name", exits[number].name);
    json_string(json, "goes_to", who);
    json_array(json, "information");
    for (size_t i = 0; i < INFORMATION; i++)
        if (exits[number].information & information[i].flag)
            json_string(json, NULL, information[i].name);
    json_end(json);
    json_end(json);
}

int command_exits(int argc, char **argv) {
    struct options o = {0};
    struct json json = {0};
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    if (o.json)
        json_array(&json, NULL);
    else
        printf("%s     %-46s  %-62s  INFORMATION%s\n", ink(INK_BOLD), "REASON", "AN EXIT OF L2 GOES TO",
               ink(INK_PLAIN));
    for (unsigned int number = 0; number < EXITS; number++) {
        if (o.json)
            exit_json(&json, number);
        else
            exit_text(number);
    }
    if (o.json)
        json_end(&json);
    return CLI_OK;
}
