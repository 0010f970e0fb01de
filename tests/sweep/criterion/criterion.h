/* SPDX-License-Identifier: MIT */
/* Criterion's words for the unit tests when they are scenarios of tests/sweep: no process for each test, and a failed assertion ends it alone. */
#ifndef SWEEP_CRITERION_H
#define SWEEP_CRITERION_H
#pragma GCC diagnostic ignored "-Wsign-compare" /* as in Criterion's own macros */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scenario {
    const char *suite, *name;
    void (*body)(void);
    struct scenario *next;
};

void scenario_add(struct scenario *scenario);
/* An assertion failed: the test goes on, or not. */
void scenario_wrong(const char *file, int line, const char *what, const char *format, ...);
_Noreturn void scenario_end(const char *file, int line, const char *what, const char *format, ...);

#define Test(suite_, name_, ...)                                                                                                 \
    static void suite_##_##name_##_scenario(void);                                                                               \
    __attribute__((constructor)) static void suite_##_##name_##_add(void) {                                                      \
        static struct scenario scenario = {#suite_, #name_, suite_##_##name_##_scenario, NULL};                                  \
        scenario_add(&scenario);                                                                                                 \
    }                                                                                                                            \
    static void suite_##_##name_##_scenario(void)

#define cr_expect(condition, ...) ((condition) ? (void)0 : scenario_wrong(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
#define cr_assert(condition, ...) ((condition) ? (void)0 : scenario_end(__FILE__, __LINE__, #condition, "" __VA_ARGS__))
#define cr_assert_fail(...) scenario_end(__FILE__, __LINE__, "fails", "" __VA_ARGS__)
#define cr_expect_eq(a, b, ...) cr_expect((a) == (b), __VA_ARGS__)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b), __VA_ARGS__)
#define cr_expect_neq(a, b, ...) cr_expect((a) != (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b), __VA_ARGS__)
#define cr_expect_gt(a, b, ...) cr_expect((a) > (b), __VA_ARGS__)
#define cr_expect_not(a, ...) cr_expect(!(a), __VA_ARGS__)
#define cr_assert_not(a, ...) cr_assert(!(a), __VA_ARGS__)
#define cr_expect_null(a, ...) cr_expect((a) == NULL, __VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) cr_expect(strcmp(a, b) == 0, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) cr_expect(strcmp(a, b) != 0, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) cr_assert(strcmp(a, b) != 0, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, bytes, ...) cr_expect(memcmp(a, b, bytes) == 0, __VA_ARGS__)
#define cr_log_info(...) ((void)(false && printf(__VA_ARGS__)))

#endif
