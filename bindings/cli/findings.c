/* SPDX-License-Identifier: MIT */
#include "findings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmfile.h"

#define WIDTH  110u
#define INDENT 6

void findings_make(struct findings *findings, const struct nvmx_readiness_facts *facts) {
    *findings = (struct findings){0};
    findings->count = nvmx_readiness(facts, findings->list, NVMX_FINDING_COUNT);
    for (size_t i = 0; i < findings->count; i++)
        findings->errors[findings->list[i].about] += findings->list[i].severity == NVMX_ERROR;
}

static enum ink ink_of(unsigned int severity) {
    return severity == NVMX_ERROR ? INK_BAD : severity == NVMX_WARNING ? INK_DOUBT : INK_DIM;
}

/* Words, in lines of at most WIDTH columns, each indented. */
static void wrapped(const char *text) {
    size_t column = WIDTH;

    while (*text) {
        size_t length = strcspn(text, " ");

        if (column + 1 + length > WIDTH) {
            printf("%s%*s", column == WIDTH ? "" : "\n", INDENT, "");
            column = INDENT;
        } else {
            putchar(' ');
            column++;
        }
        printf("%.*s", (int)length, text);
        column += length;
        text += length + (text[length] == ' ');
    }
    printf("\n");
}

void findings_text(const struct findings *findings, enum nvmx_finding_about about) {
    for (int severity = NVMX_ERROR; severity >= NVMX_INFO; severity--) {
        for (size_t i = 0; i < findings->count; i++) {
            const struct nvmx_finding *f = &findings->list[i];
            char remedy[400];

            if (f->about != about || f->severity != (unsigned int)severity)
                continue;
            printf("  %s%s%s %s%s%s: %s\n", ink(ink_of(f->severity)),
                   nvmx_severity_text((enum nvmx_severity)f->severity), ink(INK_PLAIN), ink(INK_BOLD), f->name,
                   ink(INK_PLAIN), f->message);
            snprintf(remedy, sizeof remedy, "%s%s", f->remedy,
                     f->setting != NVMX_SETTING_NONE ? " (nvmx enable does)" : "");
            wrapped(remedy);
        }
    }
}

bool finding_setting(const struct nvmx_finding *finding, const char **key, char *value, size_t size) {
    switch ((enum nvmx_setting)finding->setting) {
    case NVMX_SETTING_EXPOSE:
        *key = vm_key_name(VM_EXPOSE);
        snprintf(value, size, "%s", finding->value ? "yes" : "no");
        return true;
    case NVMX_SETTING_MEMORY:
        *key = vm_key_name(VM_MEMORY);
        if (finding->value % (UINT64_C(1) << 30) == 0)
            snprintf(value, size, "%" PRIu64 "G", finding->value >> 30);
        else
            snprintf(value, size, "%" PRIu64 "M", finding->value >> 20);
        return true;
    case NVMX_SETTING_MAC_SPOOFING:
        *key = vm_key_name(VM_MAC_SPOOFING);
        snprintf(value, size, "%s", finding->value ? "yes" : "no");
        return true;
    default:
        return false;
    }
}

void findings_json(const struct findings *findings, enum nvmx_finding_about about, struct json *json, const char *key) {
    json_array(json, key);
    for (size_t i = 0; i < findings->count; i++) {
        const struct nvmx_finding *f = &findings->list[i];
        const char *setting = NULL;
        char value[32] = "";

        if (f->about != about)
            continue;
        json_object(json, NULL);
        json_string(json, "id", f->name);
        json_string(json, "severity", nvmx_severity_text((enum nvmx_severity)f->severity));
        json_string(json, "message", f->message);
        json_string(json, "remedy", f->remedy);
        json_bool(json, "repairable", finding_setting(f, &setting, value, sizeof value));
        json_string(json, "setting", setting);
        json_string(json, "value", setting ? value : NULL);
        json_end(json);
    }
    json_end(json);
}
