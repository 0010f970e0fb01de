/* SPDX-License-Identifier: MIT */
/* nvmx state: show, check and convert files of nested state. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "explain.h"
#include "input.h"
#include "print.h"
#include "statefile.h"

#define OWN_ROOM (1u << 17)
/* Notes of a conversion that mean a loss; the others name what goes another way. */
#define LOSSES                                                                                                         \
    (NVMX_KVM_LOST_REVISION | NVMX_KVM_LOST_FIELDS | NVMX_KVM_LOST_STOP | NVMX_KVM_LOST_SHADOW | NVMX_KVM_LOST_BUS_LOCK)

struct options {
    const char *action, *file[2], *elsewhere, *shadow;
    unsigned int files;
    uint64_t l1_tsc;
    bool json, force;
};

static int take_option(struct options *o, int argc, char **argv, int *i) {
    const char *value;

    if (strcmp(argv[*i], "--json") == 0)
        o->json = true;
    else if (strcmp(argv[*i], "--force") == 0)
        o->force = true;
    else if (option_named("state", argc, argv, i, "--elsewhere", &o->elsewhere))
        return o->elsewhere ? CLI_OK : CLI_USAGE;
    else if (option_named("state", argc, argv, i, "--shadow", &o->shadow))
        return o->shadow ? CLI_OK : CLI_USAGE;
    else if ((value = option_value(argc, argv, i, "--l1-tsc")) != NULL) {
        if (!whole_hex(value, &o->l1_tsc))
            return usage_error("state", "--l1-tsc wants a hexadecimal number of at most 64 bits, not '%s'",
                               tame(value));
    } else
        return usage_error("state", "unknown option '%s'", tame(argv[*i]));
    return CLI_OK;
}

static int parse(struct options *o, int argc, char **argv) {
    unsigned int wanted;
    int status = CLI_OK;

    for (int i = 1; i < argc && status == CLI_OK; i++) {
        if (argv[i][0] == '-' && argv[i][1])
            status = take_option(o, argc, argv, &i);
        else if (!o->action)
            o->action = argv[i];
        else if (o->files < 2)
            o->file[o->files++] = argv[i];
        else
            status = usage_error("state", "too many files: '%s'", tame(argv[i]));
    }
    if (status != CLI_OK)
        return status;
    if (!o->action ||
        (strcmp(o->action, "show") != 0 && strcmp(o->action, "check") != 0 && strcmp(o->action, "convert") != 0))
        return usage_error("state", "show, check or convert?");
    wanted = strcmp(o->action, "convert") == 0 ? 2 : 1;
    if (wanted == 2 && o->json)
        return usage_error("state", "convert writes files, no JSON");
    if (o->files != wanted)
        return usage_error("state",
                           wanted == 2 ? "convert needs a file to read and one to write" : "one file is needed");
    if ((o->elsewhere && strcmp(o->elsewhere, "-") == 0) + (o->shadow && strcmp(o->shadow, "-") == 0) +
            (strcmp(o->file[0], "-") == 0) >
        1)
        return usage_error("state", "only one file can be read from stdin");
    return CLI_OK;
}

/* -- what is wrong
 * ------------------------------------------------------------------------------------------------------------ */

static void wrong_text(const struct statefile *file, const struct nvmx_state_error *error) {
    const struct nvmx_check_row *row = nvmx_check_row(error->check_row);

    printf("%s: %srefused%s: %s\n", tame(file->path), ink(INK_BAD), ink(INK_PLAIN),
           nvmx_state_reason_text(error->reason));
    if (file->kind == STATE_OWN)
        printf("  at offset %" PRIu64 "\n", error->offset);
    if (error->detail != 0)
        printf("  %" PRIX32 "H%s%s\n", error->detail,
               nvmx_field_find(error->detail, NULL) != NVMX_FIELD_NONE ? " " : "",
               nvmx_field_find(error->detail, NULL) != NVMX_FIELD_NONE
                   ? nvmx_field_info((unsigned int)nvmx_field_find(error->detail, NULL))->name
                   : "");
    if (row)
        printf("  %s: %s\n", row->id, row->rule);
}

static void refusal_text(const struct statefile *file, const struct nvmx_state_error *error, const char *problem) {
    if (error->reason != NVMX_STATE_OK)
        wrong_text(file, error);
    else
        printf("%s: %srefused%s: %s\n", tame(file->path), ink(INK_BAD), ink(INK_PLAIN), problem);
}

static void verdict_json(const struct statefile *file, const struct nvmx_state_error *error, const char *problem) {
    const struct nvmx_check_row *row = nvmx_check_row(error->check_row);
    struct json json = {0};

    json_object(&json, NULL);
    json_string(&json, "file", file->path);
    json_string(&json, "kind", file->kind == STATE_OWN ? "nvmx" : "KVM");
    json_bool(&json, "good", !problem);
    json_string(&json, "problem", problem);
    json_number(&json, "offset", error->offset);
    json_hex(&json, "detail", error->detail);
    json_string(&json, "rule", row ? row->id : NULL);
    json_end(&json);
}

/* -- KVM's blob
 * ------------------------------------------------------------------------------------------------------------------ */

/* --elsewhere, or the file beside the blob. */
static int find_elsewhere(const struct options *o, const struct statefile *file, struct nvmx_kvm_elsewhere *out) {
    char beside[PATH_MAX];

    if (o->elsewhere)
        return elsewhere_read(out, o->elsewhere);
    snprintf(beside, sizeof beside, "%s.elsewhere", file->path);
    if (access(beside, F_OK) == 0)
        return elsewhere_read(out, beside);
    fprintf(stderr,
            "nvmx: %s: KVM keeps a part of this state elsewhere (L1's capability MSRs, L2's EFER ...): --elsewhere "
            "FILE gives it, or %s\n",
            tame(file->path), tame(beside));
    return CLI_USAGE;
}

static const char *problem_of(enum nvmx_status status, const struct nvmx_kvm_report *report) {
    if (status == NVMX_OK)
        return NULL;
    if (status == NVMX_E_UNSUPPORTED)
        return "another format than VMX, an enlightened VMCS, or SMM";
    return report->error.reason != NVMX_STATE_OK ? nvmx_state_reason_text(report->error.reason)
                                                 : "header or VMCS region is not as KVM makes them";
}

static int from_kvm(const struct options *o, const struct statefile *file, void *blob, size_t *used,
                    const char **problem, struct nvmx_kvm_report *report) {
    struct nvmx_kvm_elsewhere elsewhere;
    int status = find_elsewhere(o, file, &elsewhere);

    if (status != CLI_OK)
        return status;
    *problem =
        problem_of(nvmx_state_from_kvm(file->bytes, file->size, &elsewhere, blob, OWN_ROOM, used, report), report);
    return CLI_OK;
}

/* -- the actions
 * ------------------------------------------------------------------------------------------------------------------ */

static int check(const struct options *o, const struct statefile *file) {
    struct nvmx_kvm_report report = {.error.check_row = NVMX_CHECK_NONE};
    const char *problem = NULL;
    uint8_t *blob = malloc(OWN_ROOM);
    size_t used;
    int status = CLI_OK;

    if (!blob)
        return CLI_SYSTEM;
    if (file->kind == STATE_KVM)
        status = from_kvm(o, file, blob, &used, &problem, &report);
    else if (nvmx_state_check(file->bytes, file->size, NULL, &report.error) != NVMX_STATE_OK)
        problem = nvmx_state_reason_text(report.error.reason);
    free(blob);
    if (status != CLI_OK)
        return status;
    if (o->json)
        verdict_json(file, &report.error, problem);
    else if (!problem)
        printf("%s: %sgood%s\n", tame(file->path), ink(INK_GOOD), ink(INK_PLAIN));
    else
        refusal_text(file, &report.error, problem);
    return problem ? CLI_BROKEN : CLI_OK;
}

/* What the other form has no place for, and what goes another way. */
static void print_notes(const struct nvmx_kvm_report *report) {
    for (unsigned int i = 0; i < NVMX_KVM_NOTES; i++) {
        bool lost = LOSSES >> i & 1;

        if (report->notes >> i & 1)
            printf("  %s%s%s: %s\n", ink(lost ? INK_BAD : INK_DIM), lost ? "lost" : "besides", ink(INK_PLAIN),
                   nvmx_kvm_note_text(1u << i));
    }
    for (uint32_t i = 0; i < report->lost && i < NVMX_KVM_FIELDS; i++) {
        int slot = nvmx_field_find(report->fields[i], NULL);

        printf("    %04" PRIX32 "H %s\n", report->fields[i],
               slot == NVMX_FIELD_NONE ? "" : nvmx_field_info((unsigned int)slot)->name);
    }
}

/* Active VMCSs that KVM looks for in L1's memory: file `i` of them. */
static bool region_file(const struct options *o, const struct statefile *file, uint32_t i, char path[PATH_MAX],
                        uint64_t *gpa1, void *region) {
    if (!nvmx_state_kvm_region(file->bytes, file->size, i, gpa1, region))
        return false;
    snprintf(path, PATH_MAX, "%s.region-%" PRIx64, o->file[1], *gpa1);
    return true;
}

/* KVM's form comes in several files: none is written where one could not be. */
static int may_write_all(const struct options *o, const struct statefile *file, const char *elsewhere) {
    uint8_t region[NVMX_PAGE_SIZE];
    char path[PATH_MAX];
    uint64_t gpa1;
    int status = statefile_may_write(o->file[1], o->force);

    if (status == CLI_OK)
        status = statefile_may_write(elsewhere, o->force);
    if (status == CLI_OK && strcmp(elsewhere, o->file[1]) == 0)
        status = usage_error("state", "OUTPUT and --elsewhere are the same file, '%s'", tame(elsewhere));
    for (uint32_t i = 0; status == CLI_OK && region_file(o, file, i, path, &gpa1, region); i++)
        status = statefile_may_write(path, o->force);
    return status;
}

static int write_regions(const struct options *o, const struct statefile *file) {
    uint8_t region[NVMX_PAGE_SIZE];
    char path[PATH_MAX];
    uint64_t gpa1;
    int status = CLI_OK;

    for (uint32_t i = 0; status == CLI_OK && region_file(o, file, i, path, &gpa1, region); i++) {
        status = statefile_write(path, region, sizeof region, o->force);
        if (status == CLI_OK)
            printf("  written: %s, for L1's memory at %" PRIX64 "H\n", tame(path), gpa1);
    }
    return status;
}

static int to_kvm(const struct options *o, const struct statefile *file, struct nvmx_kvm_report *report) {
    struct nvmx_kvm_elsewhere elsewhere = {.l1_tsc = o->l1_tsc};
    static uint8_t kvm[NVMX_KVM_STATE_BYTES];
    struct statefile shadow = {0};
    char path[PATH_MAX];
    const char *text = o->elsewhere ? o->elsewhere : path;
    size_t used;
    int status = o->shadow ? statefile_read(&shadow, o->shadow) : CLI_OK;

    if (status == CLI_OK && o->shadow && shadow.size != NVMX_PAGE_SIZE)
        status = usage_error("state", "%s: a VMCS region has 4096 bytes", tame(o->shadow));
    if (status == CLI_OK && nvmx_state_to_kvm(file->bytes, file->size, o->shadow ? shadow.bytes : NULL, &elsewhere, kvm,
                                              sizeof kvm, &used, report) != NVMX_OK) {
        wrong_text(file, &report->error);
        status = CLI_BROKEN;
    }
    statefile_free(&shadow);
    snprintf(path, sizeof path, "%s.elsewhere", o->file[1]);
    if (status == CLI_OK)
        status = may_write_all(o, file, text);
    if (status == CLI_OK)
        status = statefile_write(o->file[1], kvm, used, o->force);
    if (status != CLI_OK)
        return status;
    printf("%s: KVM's form of %s, %zu bytes\n", tame(o->file[1]), tame(file->path), used);
    status = elsewhere_write(&elsewhere, text, o->force);
    if (status == CLI_OK)
        printf("  written: %s, what KVM keeps elsewhere\n", tame(text));
    return status == CLI_OK ? write_regions(o, file) : status;
}

static int to_own(const struct options *o, const struct statefile *file, struct nvmx_kvm_report *report) {
    uint8_t *blob = malloc(OWN_ROOM);
    const char *problem = NULL;
    size_t used = 0;
    int status = blob ? from_kvm(o, file, blob, &used, &problem, report) : CLI_SYSTEM;

    if (status == CLI_OK && problem) {
        refusal_text(file, &report->error, problem);
        status = CLI_BROKEN;
    }
    if (status == CLI_OK)
        status = statefile_may_write(o->file[1], o->force);
    if (status == CLI_OK)
        status = statefile_write(o->file[1], blob, used, o->force);
    if (status == CLI_OK)
        printf("%s: nvmx's form of %s, %zu bytes\n", tame(o->file[1]), tame(file->path), used);
    free(blob);
    return status;
}

static int convert(const struct options *o, const struct statefile *file) {
    struct nvmx_kvm_report report = {.error.check_row = NVMX_CHECK_NONE};
    int status = file->kind == STATE_OWN ? to_kvm(o, file, &report) : to_own(o, file, &report);

    if (status != CLI_OK)
        return status;
    print_notes(&report);
    return report.notes & LOSSES ? CLI_BROKEN : CLI_OK;
}

/* Of a damaged blob little or nothing can be shown: that is said. */
static int show(const struct options *o, const struct statefile *file) {
    struct nvmx_state_error error;

    if (o->json)
        state_show_json(file);
    else
        state_show_text(file);
    if (file->kind != STATE_OWN || nvmx_state_check(file->bytes, file->size, NULL, &error) == NVMX_STATE_OK)
        return CLI_OK;
    fprintf(stderr, "nvmx: %s: a restore refuses it: %s (nvmx state check says more)\n", tame(file->path),
            nvmx_state_reason_text(error.reason));
    return CLI_BROKEN;
}

int command_state(int argc, char **argv) {
    struct options o = {0};
    struct statefile file = {0};
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    status = statefile_read(&file, o.file[0]);
    if (status == CLI_OK && file.kind == STATE_OTHER) {
        fprintf(stderr, "nvmx: %s: neither nested state of nvmx nor of KVM, or KVM's cut short\n", tame(file.path));
        status = CLI_USAGE;
    }
    if (status == CLI_OK && strcmp(o.action, "check") == 0)
        status = check(&o, &file);
    else if (status == CLI_OK && strcmp(o.action, "convert") == 0)
        status = convert(&o, &file);
    else if (status == CLI_OK)
        status = show(&o, &file);
    statefile_free(&file);
    return status;
}
