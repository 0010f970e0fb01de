/* SPDX-License-Identifier: MIT */
/* What the files of the command-line tool share: exit statuses and the commands. */
#ifndef NVMX_CLI_H
#define NVMX_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cli_status {
    CLI_OK = 0,     /* nothing broken; nothing different; ready */
    CLI_BROKEN = 1, /* a rule is broken; two sets of capabilities differ; not ready, or not changed; a blob refused, or
                       not carried whole */
    CLI_USAGE = 2,  /* wrong usage, or input that is malformed */
    CLI_SYSTEM = 3, /* a file that can't be read or written, no memory */
};

/* argv[0] is the command's name. Each returns an exit status. */
int command_explain(int argc, char **argv);
int command_caps(int argc, char **argv);
int command_fields(int argc, char **argv);
int command_checks(int argc, char **argv);
int command_exits(int argc, char **argv);
int command_status(int argc, char **argv);
int command_enable(int argc, char **argv);
int command_state(int argc, char **argv);
int command_trace(int argc, char **argv);

/* The help text of a command, or of the tool for NULL; NULL if there is no such command. */
const char *help_text(const char *command);

/* "nvmx: ..." on stderr, and CLI_USAGE. */
int usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* If argv[*i] is `name` followed by a value, or `name=value`, gives the value and steps over it. An option without its
 * value gives "". */
const char *option_value(int argc, char **argv, int *i, const char *name);

/* True if argv[*i] is `name`: steps over its value and gives it, or NULL after a message if there is none. */
bool option_named(const char *command, int argc, char **argv, int *i, const char *name, const char **value);

#endif
