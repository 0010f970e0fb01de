/* SPDX-License-Identifier: MIT */
/* A unit test as a scenario: run in this process, as often as one likes. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/time.h>
#include <unistd.h>

#include "scenario.h"

struct scenario *scenarios;
bool scenario_tells = true, scenario_failed;

static struct scenario **last = &scenarios;
static const struct scenario *running;
static sigjmp_buf out;

void scenario_add(struct scenario *scenario) {
    *last = scenario;
    last = &scenario->next;
}

static void tell(const char *file, int line, const char *what, const char *format, va_list arguments) {
    scenario_failed = true;
    if (!scenario_tells)
        return;
    fprintf(stderr, "%s.%s: %s:%d: %s: ", running->suite, running->name, file, line, what);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

void scenario_wrong(const char *file, int line, const char *what, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    tell(file, line, what, format, arguments);
    va_end(arguments);
}

void scenario_end(const char *file, int line, const char *what, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    tell(file, line, what, format, arguments);
    va_end(arguments);
    scenario_gives_up();
}

void scenario_gives_up(void) {
    siglongjmp(out, GAVE_UP);
}

static void too_long(int signal) {
    (void)signal;
    siglongjmp(out, TIMED_OUT);
}

/* Of the processor's time, which a busy machine does not use up. 0: no limit. */
static void limit(unsigned int seconds) {
    const struct itimerval limit = {.it_value = {.tv_sec = seconds}};
    setitimer(ITIMER_PROF, &limit, NULL);
}

/* Of clang's coverage, where it is compiled in. */
extern int __llvm_profile_write_file(void) __attribute__((weak));

void scenario_exit(int status) {
    if (__llvm_profile_write_file)
        __llvm_profile_write_file();
    _exit(status);
}

enum ending scenario_run(const struct scenario *scenario, unsigned int seconds) {
    running = scenario;
    signal(SIGPROF, too_long);
    int ending = sigsetjmp(out, 1);
    if (ending == 0) {
        limit(seconds);
        scenario->body();
    }
    limit(0);
    while (sim_sweep.alive)
        sim_free(sim_sweep.alive);
    return (enum ending)ending;
}
