/* SPDX-License-Identifier: MIT */
/* Between the files of tests/sweep. */
#ifndef SCENARIO_H
#define SCENARIO_H

#include <criterion/criterion.h>

#include "sim.h"

/* How one run of a scenario went. */
enum ending {
    ENDED,     /* to its last line */
    GAVE_UP,   /* an assertion failed, or a helper of the simulation could not go on */
    TIMED_OUT, /* the library, or the scenario, did not come to an end */
};

extern struct scenario *scenarios; /* in the order in which they were linked */
extern bool scenario_tells;        /* failed assertions are printed: no callback is made to fail */
extern bool scenario_failed;       /* one did, since this was last cleared */

/* Run the body; simulations that it leaves are freed. A library that breaks the simulated host's contract, or leaks,
 * aborts. */
enum ending scenario_run(const struct scenario *scenario, unsigned int seconds);
_Noreturn void scenario_gives_up(void);
/* _exit, after what tests/coverage wants of this process. */
_Noreturn void scenario_exit(int status);

/*
 * goes_on.c: can L1 go on, on this simulation, when nothing fails any more? NULL: yes; else what went wrong. In this
 * order: it leaves L2 and repairs what the test did to its registers; its current VMCS still gives the vmcs02 that it
 * would give if nothing had happened; it begins anew.
 */
const char *puts_in_order(struct sim *sim);
const char *same_vmcs02(struct sim *sim);
const char *goes_on(struct sim *sim);
#define GOES_ON_STEPS 3u
/* L1 leaves and enters L2, whatever comes of it: callbacks may still fail. */
void keeps_going(struct sim *sim);

/* sweep.c: what became of one scenario with each of its callbacks failing in turn. */
struct sweep_options {
    uint64_t work;  /* callbacks, at most, that the runs of one scenario and kind of failure make; beyond, only some of
                       its callbacks fail */
    uint64_t pairs; /* scenarios of at most so many callbacks are run with every pair failing that can come together */
    unsigned int kinds; /* of failures */
};

#define SWEEP_KINDS 4u
#define SWEEP_WRONG 400u

struct sweep_result {
    uint64_t callbacks, left_out, single, pairs, gave_up, stops, went_on[3];
    uint64_t failed[SIM_CALLS], stopped[SIM_CALLS];
    bool fails_itself; /* the test makes callbacks fail: nothing was run */
    bool too_long;     /* for options.work: nothing was run */
    uint64_t k[2];     /* that fail now, for whoever finds the process dead */
    unsigned int kind;
    char wrong[SWEEP_WRONG]; /* the first rule that was broken; "": none */
};
const char *sweep_call_name(enum sim_call call);
void sweep_scenario(const struct scenario *scenario, const struct sweep_options *options, struct sweep_result *result);

#endif
