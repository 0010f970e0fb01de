/* SPDX-License-Identifier: MIT */
/* What all commands need to read their arguments. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

int usage_error(const char *command, const char *format, ...) {
    va_list list;

    va_start(list, format);
    fprintf(stderr, "nvmx: ");
    vfprintf(stderr, format, list);
    fprintf(stderr, " (see nvmx %s%s--help)\n", command ? command : "", command ? " " : "");
    va_end(list);
    return CLI_USAGE;
}

const char *option_value(int argc, char **argv, int *i, const char *name) {
    size_t length = strlen(name);

    if (strncmp(argv[*i], name, length) != 0)
        return NULL;
    if (argv[*i][length] == '=')
        return argv[*i] + length + 1;
    if (argv[*i][length] != 0)
        return NULL;
    return *i + 1 < argc ? argv[++*i] : "";
}

bool option_named(const char *command, int argc, char **argv, int *i, const char *name, const char **value) {
    const char *given = option_value(argc, argv, i, name);

    if (!given)
        return false;
    *value = *given ? given : NULL;
    if (!*given)
        usage_error(command, "%s wants a value", name);
    return true;
}
