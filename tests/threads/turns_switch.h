/* SPDX-License-Identifier: MIT */
/*
 * Included before all else in each source of nvmx-ept-turns, those of lib/ept with them: before each atomic access another one may get its turn. A builtin
 * that is new in lib/ept needs its line here.
 */
#ifndef TESTS_THREADS_TURNS_SWITCH_H
#define TESTS_THREADS_TURNS_SWITCH_H

void turn_may_pass(const char *function, int line);

#define TURN                                          turn_may_pass(__func__, __LINE__)

#define __atomic_load_n(place, order)                 (TURN, __atomic_load_n(place, order))
#define __atomic_store_n(place, value, order)         (TURN, __atomic_store_n(place, value, order))
#define __atomic_exchange_n(place, value, order)      (TURN, __atomic_exchange_n(place, value, order))
#define __atomic_fetch_add(place, value, order)       (TURN, __atomic_fetch_add(place, value, order))
#define __atomic_fetch_sub(place, value, order)       (TURN, __atomic_fetch_sub(place, value, order))
#define __atomic_fetch_or(place, value, order)        (TURN, __atomic_fetch_or(place, value, order))
#define __atomic_add_fetch(place, value, order)       (TURN, __atomic_add_fetch(place, value, order))
#define __atomic_compare_exchange_n(place, old, value, weak, success, failure) \
    (TURN, __atomic_compare_exchange_n(place, old, value, weak, success, failure))

#endif
