/* SPDX-License-Identifier: MIT */
/* Time, instructions and callbacks of one operation. */
#ifndef MICRO_SAMPLES_H
#define MICRO_SAMPLES_H

#include "operations.h"

/* Callbacks by name, in the order of nvmx_counts.callback; then the fields read and written. */
enum { COUNTERS = 16, COUNTER_VMREAD = 14, COUNTER_VMWRITE = 15 };
extern const char *const counter_names[COUNTERS];

struct counts {
    uint64_t value[COUNTERS];
};

struct timing {
    double median, least, quartile_low, quartile_high; /* nanoseconds for one time */
    uint32_t samples, batch;
};

/* Find out how fast the time-stamp counter runs and what reading it costs. */
void samples_calibrate(void);

/* `operation` once, counted: callbacks and fields on all processors. */
struct counts samples_counts(struct machine *m, const struct operation *operation);
/* Instructions of one time: by the processor's counter, else by single steps. 0: too many for single steps. */
uint64_t samples_instructions(struct machine *m, const struct operation *operation);
struct timing samples_time(struct machine *m, const struct operation *operation);

#endif
