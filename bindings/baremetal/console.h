/* SPDX-License-Identifier: MIT */
/* The serial line (COM1), and what is printed on it. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

/* 115200 8N1, no interrupts. The line is L1's later; L0 borrows it for its own messages and puts it back. */
void console_init(void);

/*
 * As printf, with %s %c %d %u %x, the l modifier, width, 0 and - flags, %%. Each call is one borrowing of the line, so
 * L1's settings are those it left. A newline becomes CR LF.
 */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Print "nvmx: fatal: MESSAGE" and the state (crash.c), then switch the machine off. */
_Noreturn void panic(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
