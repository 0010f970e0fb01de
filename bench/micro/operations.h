/* SPDX-License-Identifier: MIT */
/* What is measured: one row for each operation. */
#ifndef MICRO_OPERATIONS_H
#define MICRO_OPERATIONS_H

#include "machine.h"

struct operation {
    const char *name;
    void (*setup)(struct machine *m);  /* once */
    void (*before)(struct machine *m); /* before each time, not measured */
    void (*timed)(struct machine *m);  /* what is measured */
    bool slow;                         /* many microseconds: fewer samples */
    bool varies;                       /* the amount of work depends on what came before: no golden counts */
};

extern const struct operation operations[];
extern const size_t operation_count;

/* One vmcs12 on processor 0, L1 runs. Every setup begins with it. */
void operation_base(struct machine *m);

/* VMREAD of the reason, the length and RIP, VMWRITE of RIP, VMRESUME, and the next exit: what a cycle of the least L1 costs the library. */
void operation_cycle(struct machine *m, uint32_t cpu);

#endif
