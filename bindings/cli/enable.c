/* SPDX-License-Identifier: MIT */
/* nvmx enable: change the settings of a VM's file that stand in the way of nested VMX, after saying which and asking.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "findings.h"
#include "print.h"
#include "vmfile.h"

struct options {
    bool yes, json, backup, dry_run;
    const char *file;
};

struct change {
    enum vm_key key;
    char from[200], to[32];
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--yes") == 0 || strcmp(argv[i], "-y") == 0)
            o->yes = true;
        else if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--backup") == 0)
            o->backup = true;
        else if (strcmp(argv[i], "--dry-run") == 0)
            o->dry_run = true;
        else if (argv[i][0] == '-')
            return usage_error("enable", "unknown option '%s'", tame(argv[i]));
        else if (o->file)
            return usage_error("enable", "one file at most, not '%s' too", tame(argv[i]));
        else
            o->file = argv[i];
    }
    return o->file ? CLI_OK : usage_error("enable", "which file?");
}

static enum vm_key key_named(const char *name) {
    unsigned int key = 0;

    while (key < VM_KEYS - 1 && strcmp(vm_key_name((enum vm_key)key), name) != 0)
        key++;
    return (enum vm_key)key;
}

static void find_in(struct findings *found, const struct vmfile *vm) {
    struct nvmx_readiness_facts facts = {.size = sizeof facts, .vm = vm->vm, .memory_bytes = vm->memory_bytes};

    findings_make(found, &facts);
}

static size_t list_changes(const struct findings *found, const struct vmfile *vm, struct change change[VM_KEYS]) {
    size_t count = 0;

    for (size_t i = 0; i < found->count; i++) {
        struct change *c = &change[count];
        const char *key;

        if (!finding_setting(&found->list[i], &key, c->to, sizeof c->to))
            continue;
        c->key = key_named(key);
        vmfile_value(vm, c->key, c->from, sizeof c->from);
        count++;
    }
    return count;
}

/* What no setting repairs. */
static size_t print_obstacles(const struct findings *found) {
    size_t count = 0;

    for (size_t i = 0; i < found->count; i++) {
        const struct nvmx_finding *f = &found->list[i];

        if (f->severity != NVMX_ERROR || f->setting != NVMX_SETTING_NONE)
            continue;
        fprintf(stderr, "nvmx: %s: %s: %s\n", f->name, f->message, f->remedy);
        count++;
    }
    return count;
}

static void changes_text(const struct vmfile *vm, const struct change *change, size_t count) {
    printf("%s%s%s (%s)\n", ink(INK_BOLD), vm->name, ink(INK_PLAIN), tame(vm->path));
    for (size_t i = 0; i < count; i++)
        printf("  %s = %s%s%s (was: %s)\n", vm_key_name(change[i].key), ink(INK_GOOD), change[i].to, ink(INK_PLAIN),
               change[i].from);
}

static void changes_json(const struct vmfile *vm, const struct change *change, size_t count, bool written) {
    struct json json = {0};

    json_object(&json, NULL);
    json_string(&json, "name", vm->name);
    json_string(&json, "file", vm->path);
    json_array(&json, "changes");
    for (size_t i = 0; i < count; i++) {
        json_object(&json, NULL);
        json_string(&json, "setting", vm_key_name(change[i].key));
        json_string(&json, "from", change[i].from);
        json_string(&json, "to", change[i].to);
        json_end(&json);
    }
    json_end(&json);
    json_bool(&json, "written", written);
    json_end(&json);
}

/* CLI_OK: yes. */
static int ask(const struct options *o, size_t count) {
    char answer[16];

    if (o->yes)
        return CLI_OK;
    if (!isatty(STDIN_FILENO) || o->json) {
        fprintf(stderr, "nvmx: %s: nobody can be asked: --yes changes it without asking, --dry-run only lists\n",
                tame(o->file));
        return CLI_USAGE;
    }
    printf("Change %s of the VM? [y/N] ", count == 1 ? "this setting" : "these settings");
    fflush(stdout);
    if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y'))
        return CLI_OK;
    printf("Nothing was changed.\n");
    return CLI_BROKEN;
}

static int change_all(struct vmfile *vm, const struct change *change, size_t count, bool backup) {
    struct findings after;
    int status = CLI_OK;

    for (size_t i = 0; i < count && status == CLI_OK; i++)
        status = vmfile_set(vm, change[i].key, change[i].to);
    if (status != CLI_OK)
        return status;
    find_in(&after, vm);
    if (after.errors[NVMX_ABOUT_VM] != 0) { /* the tables would contradict each other */
        fprintf(stderr, "nvmx: %s: the changes would not be enough; nothing was written\n", tame(vm->path));
        return CLI_BROKEN;
    }
    return vmfile_write(vm, backup);
}

static int enable(const struct options *o, struct vmfile *vm) {
    struct change change[VM_KEYS];
    struct findings found;
    size_t count;
    int status;

    find_in(&found, vm);
    if (print_obstacles(&found) != 0)
        return CLI_BROKEN;
    count = list_changes(&found, vm, change);
    if (count == 0) {
        if (o->json)
            changes_json(vm, change, 0, false);
        else
            printf("%s (%s): nothing to change\n", vm->name, tame(vm->path));
        return CLI_OK;
    }
    if (!o->json)
        changes_text(vm, change, count);
    if (fflush(stdout) != 0) /* nothing is changed that could not be told; main says why */
        return CLI_SYSTEM;
    status = o->dry_run ? CLI_OK : ask(o, count);
    if (status == CLI_OK && !o->dry_run)
        status = change_all(vm, change, count, o->backup);
    if (status != CLI_OK)
        return status;
    if (o->json)
        changes_json(vm, change, count, !o->dry_run);
    else
        printf("%s\n", o->dry_run ? "Nothing was changed." : "Written.");
    return CLI_OK;
}

int command_enable(int argc, char **argv) {
    struct options o = {0};
    struct vmfile vm = {0};
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    status = vmfile_read(&vm, o.file);
    if (status == CLI_OK)
        status = enable(&o, &vm);
    vmfile_free(&vm);
    return status;
}
