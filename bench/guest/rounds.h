/* SPDX-License-Identifier: MIT */
/* Round trips: VMRESUME, L2, VM exit, and the least that an exit handler does. */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

#include "measure.h"

struct bench_registers {
    uint64_t rbx, rcx, rdx;
};

/* round.S. Where exits arrive: the reason, then next instruction; the same after reading all that a hypervisor may want to know;
 * the reason only; nothing. */
uint64_t bench_round(const struct bench_registers *registers);
uint64_t bench_launch(const struct bench_registers *registers);
extern const uint8_t bench_exit[], bench_exit_busy[], bench_exit_stay[], bench_exit_blind[];

/* L2 of the rows that follow, in VMCS A, which becomes the current one. NULL `on`: no control beyond the usual. */
void rounds_prepare(const uint8_t *code, const struct controls *on);
/* The first entry, past the instruction that ends it; later exits come to `handler`. */
void rounds_first_entry(const uint8_t *handler);
void rounds_start(const uint8_t *code, const struct controls *on, const uint8_t *handler); /* both */
void rounds_start_vmcall(void); /* an endless loop of VMCALLs, exits at bench_exit */
/* Another VMCS for the same L2, made current. */
void rounds_other(struct vmcs_region *region, uint64_t vpid);

/* One round trip; ends the machine after VMfail. */
void round_trip(void);
void round_trip_launch(void);
void rounds_failed(uint64_t rflags);

/* L2 as tests/l1 keeps it. */
extern struct l2 rounds_l2;

void rows_of_exits(void);
void rows_of_vmcs(void);
void rows_of_memory(void);

#endif
