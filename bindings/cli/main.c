/* SPDX-License-Identifier: MIT */
/* nvmx: what libnvmx knows of VMX, on the command line. */
#include <stdio.h>
#include <string.h>

#include <nvmx/nvmx.h>

#include "cli.h"
#include "print.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"explain", command_explain}, {"caps", command_caps},   {"fields", command_fields},
    {"checks", command_checks},   {"exits", command_exits}, {"status", command_status},
    {"enable", command_enable},   {"state", command_state}, {"trace", command_trace},
};

static int help(const char *command) {
    const char *text = help_text(command);

    if (!text)
        return usage_error(NULL, "no command '%s'", tame(command));
    fputs(text, stdout);
    return CLI_OK;
}

static bool is_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        fputs(help_text(NULL), stderr);
        return CLI_USAGE;
    }
    if (is_help(argv[1]) || strcmp(argv[1], "help") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    if (strcmp(argv[1], "version") == 0 || strcmp(argv[1], "--version") == 0) {
        printf("nvmx %s\n", nvmx_version_text());
        return CLI_OK;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        for (int word = 2; word < argc; word++)
            if (is_help(argv[word]))
                return help(argv[1]);
        return commands[i].run(argc - 1, argv + 1);
    }
    return usage_error(NULL, "no command '%s'", tame(argv[1]));
}

int main(int argc, char **argv) {
    int status = run(argc, argv);

    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "nvmx: can't write to stdout\n");
        return CLI_SYSTEM;
    }
    return status;
}
