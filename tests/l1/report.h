/* SPDX-License-Identifier: MIT */
/* The report: one line for each step, and the count at the end. */
#ifndef L1_REPORT_H
#define L1_REPORT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Later lines carry this name before their own. */
void report_scenario(const char *name);
void report_skipped(const char *why);

/* Counts a step and prints its line up to the verdict; the caller prints the result and the line's end. */
void step_begin(const char *name, bool ok);

/* A step whose result is one text. */
void step(const char *name, bool ok, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Prints the value, and the expected one if they differ. */
bool step_equal(const char *name, uint64_t value, uint64_t expected);

void report_end(void);
void report_fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
