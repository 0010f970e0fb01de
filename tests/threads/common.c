/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MANY  1000000u
#define LEAST 1000u

void fail(const char *format, ...) {
    va_list list;

    va_start(list, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    exit(1);
}

uint32_t below(uint64_t *random, uint32_t limit) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return (uint32_t)((*random >> 20) % limit);
}

struct arguments arguments(int argc, char **argv, uint64_t few, const char *how) {
    struct arguments a = {
        .operations = argc > 1 ? strtoull(argv[1], NULL, 10) : getenv("NVMX_FULL") != NULL ? MANY : few,
        .seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1,
    };

    if (a.operations < LEAST || argc > 3) {
        fprintf(stderr, "usage: %s [OPERATIONS [SEED]]\n"
                        "OPERATIONS (%u or more; %llu, or %u with NVMX_FULL=1 in the environment) are made by %s.\n",
                program_invocation_short_name, LEAST, (unsigned long long)few, MANY, how);
        exit(2);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    return a;
}
