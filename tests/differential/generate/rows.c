/* SPDX-License-Identifier: MIT */
/* One row of entry_checks.def at a time, condition and rule apart. The library's own file is compiled here once more for its context. */
#define nvmx_check_first  rows_check_first
#define nvmx_check_report rows_check_report
#define nvmx_check_row    rows_check_row
#include "../../../lib/vmcs/check.c"
#undef nvmx_check_first
#undef nvmx_check_report
#undef nvmx_check_row

#include "rows.h"

enum row_answer row_answer(unsigned int row, const struct nvmx_check_input *in) {
    struct check_context context;
    const struct check_context *c = &context;

    context_init(&context, in);
    switch (row) {
#define CHECK(section, number, text, needs, vm_fail, exit_reason, qualification, applies, rule, when, ok) \
    case NVMX_C_##section##_##number:                                                                     \
        return !(when) ? ROW_SILENT : (ok) ? ROW_PASSES : ROW_FAILS;
#define CHECK_ELSEWHERE(...)
#include <nvmx/entry_checks.def>
#undef CHECK
#undef CHECK_ELSEWHERE
    default:
        return ROW_SILENT;
    }
}
