/* SPDX-License-Identifier: MIT */
/*
 * The only process of the Linux that runs as L1: loads KVM's modules, runs linux-guest if that is there, else kvm-guest (and
 * kvm-smp, where there are several processors), powers off.
 *
 * Module parameters come from the kernel's command line ("kvm_intel.ept=0", "kvm.ignore_msrs=1"), words
 * after "--" there go to the program. "kvm_sets=ept=0:vpid=0,pml=0" there: the guests run once more for each set, with kvm_intel
 * loaded anew with these parameters. "only_smp" there: without kvm-guest. The last line is "exit-status: N", which bindings/baremetal/boot reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "init-common.h"

static char command_line[4096];

static size_t read_text(const char *path, char *text, size_t size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        fail(path);
    }
    size_t length = 0;
    ssize_t got = 0;
    while (length < size - 1 && (got = read(file, text + length, size - 1 - length)) > 0) {
        length += (size_t)got;
    }
    close(file);
    text[length] = 0;
    return length;
}

/* Collects "NAME.parameter=value" words of the command line as "parameter=value ...". */
static void module_parameters(const char *name, char *parameters, size_t size) {
    char words[sizeof(command_line)];
    char *rest = words;
    size_t prefix = strlen(name);
    size_t used = 0;
    memcpy(words, command_line, sizeof(words));
    parameters[0] = 0;
    for (char *word = strtok_r(words, " \n", &rest); word != NULL; word = strtok_r(NULL, " \n", &rest)) {
        size_t length = strlen(word);
        if (length <= prefix || strncmp(word, name, prefix) != 0 || word[prefix] != '.') {
            continue;
        }
        length -= prefix + 1;
        if (used + length + 2 > size) {
            errno = E2BIG;
            fail(name);
        }
        used += (size_t)snprintf(parameters + used, size - used, "%s%s", used ? " " : "", word + prefix + 1);
    }
}

static void load_and_say(const char *name, const char *parameters) {
    load_module_with(name, parameters);
    printf("init: module %s loaded%s%s\n", name, parameters[0] ? " with " : "", parameters);
}

static void load_module(const char *name) {
    char parameters[1024];
    module_parameters(name, parameters, sizeof(parameters));
    load_and_say(name, parameters);
}

static void report_cpu(void) {
    static char text[16384];
    read_text("/proc/cpuinfo", text, sizeof(text));
    char *model = strstr(text, "model name");
    char *end = model ? strchr(model, '\n') : NULL;
    char *flags = strstr(text, "vmx flags");
    if (end != NULL) {
        *end = 0;
        printf("init: %s\n", model);
    }
    if (flags == NULL) {
        printf("init: the CPU has no VT-x\n");
        return;
    }
    end = strchr(flags, '\n');
    if (end != NULL) {
        *end = 0;
    }
    printf("init: %s\n", flags);
}

/* kvm-guest, and kvm-smp if there are processors for it. */
static int run_guests(char **arguments) {
    static char one[] = "/kvm-guest", two[] = "/kvm-smp";
    char *second[] = {two, NULL};
    arguments[0] = one;
    int status = strstr(command_line, "only_smp") != NULL ? 0 : run(arguments);
    if (status == 0 && sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        printf("init: %ld processors\n", sysconf(_SC_NPROCESSORS_ONLN));
        status = run(second);
    }
    return status;
}

/* A VM that was closed just now may hold the module a little longer. */
static void unload_kvm_intel(void) {
    for (int tries = 100; syscall(SYS_delete_module, "kvm_intel", 0) != 0; tries--) {
        if (errno != EAGAIN || tries == 0) {
            fail("kvm_intel can't be unloaded");
        }
        usleep(100000);
    }
}

/* Each set of "kvm_sets=", until one fails. */
static int run_sets(char **arguments) {
    static const char key[] = "kvm_sets=";
    char *at = strstr(command_line, key);
    char *rest = NULL;
    int status = 0;
    if (at == NULL) {
        return 0;
    }
    at += sizeof(key) - 1;
    at[strcspn(at, " \n")] = 0;
    for (char *set = strtok_r(at, ":", &rest); set != NULL && status == 0; set = strtok_r(NULL, ":", &rest)) {
        for (char *comma = set; (comma = strchr(comma, ',')) != NULL;) {
            *comma = ' ';
        }
        unload_kvm_intel();
        load_and_say("kvm_intel", set);
        status = run_guests(arguments);
        printf("init: set %s: %s\n", set, status == 0 ? "passed" : "FAILED");
    }
    return status;
}

int main(int argc, char **argv) {
    static char linux_guest[] = "/linux-guest";
    struct utsname name;
    (void)argc;
    setvbuf(stdout, NULL, _IOLBF, 0);
    mount_all();
    if (uname(&name) == 0) {
        printf("init: %s %s is up\n", name.sysname, name.release);
    }
    read_text("/proc/cmdline", command_line, sizeof(command_line));
    report_cpu();
    load_module("irqbypass");
    load_module("kvm");
    load_module("kvm_intel");
    if (access(linux_guest, X_OK) == 0) {
        argv[0] = linux_guest;
        power_off(run(argv));
    }
    int status = run_guests(argv);
    power_off(status != 0 ? status : run_sets(argv));
}
