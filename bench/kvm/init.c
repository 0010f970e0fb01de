/* SPDX-License-Identifier: MIT */
/*
 * The only process of the Linux whose KVM is measured: for each word of the command line that names a variant ("shadow",
 * "noshadow") loads kvm_intel accordingly, runs the benchmark's image under vmm, unloads the module. Then powers off.
 *
 * Words "row=NAME" there go to the image as NAME. A variant's lines stand between "bench-variant: NAME" and "bench-variant: end". The last line is "exit-status: N".
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "init-common.h"

#define MOST_ROWS 30

/* vmm, the image, the rows to measure. */
static char program[] = "/vmm", image[] = "/bench.elf";
static char *command[MOST_ROWS + 3] = {program, image};

static const struct {
    const char *word, *parameters;
} variants[] = {
    {"shadow", "nested=1 ept=1 enable_shadow_vmcs=1"},
    {"noshadow", "nested=1 ept=1 enable_shadow_vmcs=0"},
};

static void report_parameter(const char *name) {
    char path[96], text[16] = "";
    snprintf(path, sizeof(path), "/sys/module/kvm_intel/parameters/%s", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, text, sizeof(text) - 1) <= 0) {
        fail(path);
    }
    close(file);
    printf("bench-host: kvm_intel.%s=%c\n", name, text[0]);
}

static int run_variant(const char *word, const char *parameters) {
    load_module_with("kvm_intel", parameters);
    printf("bench-variant: %s\n", word);
    report_parameter("nested");
    report_parameter("enable_shadow_vmcs");
    report_parameter("enable_apicv");
    int status = run(command);
    printf("bench-variant: end\n");
    if (syscall(SYS_delete_module, "kvm_intel", 0) != 0) {
        fail("delete_module");
    }
    return status;
}

int main(int argc, char **argv) {
    struct utsname name;
    int status = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    mount_all();
    if (uname(&name) == 0) {
        printf("bench-host: %s %s\n", name.sysname, name.release);
    }
    load_module_with("irqbypass", "");
    load_module_with("kvm", "");
    for (int word = 1, used = 2; word < argc && used < MOST_ROWS + 2; word++) {
        if (strncmp(argv[word], "row=", 4) == 0) {
            command[used++] = argv[word] + 4;
        }
    }
    for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
        for (int word = 1; word < argc; word++) {
            if (strcmp(argv[word], variants[i].word) == 0) {
                status |= run_variant(variants[i].word, variants[i].parameters);
            }
        }
    }
    power_off(status);
}
