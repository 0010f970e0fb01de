/* SPDX-License-Identifier: MIT */
/* What the first process of each Linux that is booted as L1, or as L0 beside nvmx, has to do. */
#ifndef INIT_COMMON_H
#define INIT_COMMON_H

/* The last line, "exit-status: N", which bindings/baremetal/boot reads; then the machine is switched off. */
_Noreturn void power_off(int status);
/* "init: FAILED: " with what and errno's text, and off with 1. */
_Noreturn void fail(const char *what);

/* /proc, /sys and /dev. */
void mount_all(void);
/* /modules/NAME.ko. */
void load_module_with(const char *name, const char *parameters);
/* A program and its arguments, until it has ended: its exit status, 1 after a signal. */
int run(char *const arguments[]);

#endif
