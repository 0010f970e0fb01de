/* SPDX-License-Identifier: MIT */
/* Included before all else into the command-line tool's sources, for explain.c: what it prints goes to fuzz_out, what it opens is the input. */
#ifndef FUZZ_SHIM_QUIET_H
#define FUZZ_SHIM_QUIET_H

#include <stdio.h>

extern FILE *fuzz_out;
FILE *fuzz_open(const char *name, const char *mode);

#undef stdout
#undef stderr
#undef putchar
#define stdout fuzz_out
#define stderr fuzz_out
#define printf(...) fprintf(fuzz_out, __VA_ARGS__)
#define puts(text) (fputs((text), fuzz_out), fputc('\n', fuzz_out))
#define putchar(c) fputc((c), fuzz_out)
#define fopen fuzz_open

#endif
