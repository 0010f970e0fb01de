/* SPDX-License-Identifier: MIT */
/* Criterion's words for a world of the unit tests (tests/unit/ept_world.c) that is used here without Criterion. */
#ifndef FUZZ_SHIM_CRITERION_H
#define FUZZ_SHIM_CRITERION_H

#include "fuzz.h"

#define cr_assert(condition, ...) FUZZ_HOLD(condition, "%s", #condition)
#define cr_assert_eq(a, b, ...) FUZZ_HOLD((a) == (b), "%s == %s", #a, #b)
#define cr_assert_neq(a, b, ...) FUZZ_HOLD((a) != (b), "%s != %s", #a, #b)
#define Test(suite, name, ...) __attribute__((unused)) static void suite##_##name(void)

#endif
