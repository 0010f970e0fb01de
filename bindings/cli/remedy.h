/* SPDX-License-Identifier: MIT */
/* What would satisfy a broken rule: the smallest change of one field that makes it hold and breaks as little else as
 * possible. */
#ifndef NVMX_CLI_REMEDY_H
#define NVMX_CLI_REMEDY_H

#include "decide.h"

struct remedy {
    unsigned int slot;
    uint64_t value;
    size_t breaks;        /* how many other rules are then broken that hold now */
    unsigned int example; /* row of one of them */
};

/* False: no change of a single field was found. */
bool remedy_find(const struct subject *subject, unsigned int row, const struct rule *rule, struct remedy *remedy);

#endif
