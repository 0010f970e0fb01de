/* SPDX-License-Identifier: MIT */
/* Rows of the table of entry checks: whether one applies to a state, and the ways that the unit tests have to break it. */
#ifndef DIFF_ROWS_H
#define DIFF_ROWS_H

#include "../../unit/check_states.h"
#include "generate.h"

struct recipe {
    uint16_t row;
    uint8_t base; /* enum check_base */
    struct change before[CHECK_CHANGES], broken[CHECK_CHANGES];
};

unsigned int recipes(void);
const struct recipe *recipe(unsigned int number);

/* Does the row's condition hold, and then its rule? */
enum row_answer { ROW_SILENT, ROW_PASSES, ROW_FAILS };
enum row_answer row_answer(unsigned int row, const struct nvmx_check_input *in);

#endif
