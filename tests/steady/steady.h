/* SPDX-License-Identifier: MIT */
/* The programs of this image, and what they share. */
#ifndef STEADY_H
#define STEADY_H

#include <stdint.h>

/* count.c: `steps` lines of an L2 that counts and checks its memory. */
void count_run(uint64_t steps);

/* trust.c: an L2 with two trust levels; `rounds` of four switches each. */
void trust_run(uint64_t rounds);

/* A line of its own in the report if `ok` is false; counted for the exit status. */
void must(int ok, const char *what);

/* levels.c: two EPTs over the same memory of L2, which is below 2 MiB. */
enum level { LEVEL_NORMAL, LEVEL_SECURE, LEVELS };
void level_map(enum level level, uint64_t gpa2, uint64_t gpa1, uint64_t rights);
uint64_t level_eptp(enum level level);
/* INVEPT of one of them. */
void level_invalidate(enum level level);

#endif
