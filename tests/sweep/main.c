/* SPDX-License-Identifier: MIT */
/* The unit tests in few processes, and the fault sweep over them: see README.md. */
#define _GNU_SOURCE
#include <fnmatch.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scenario.h"

#define PLAIN_SECONDS 20u /* of processor time: five times what the longest takes */

static const char usage[] =
    "usage: nvmx-scenarios [--jobs N] [--filter SUITE/TEST] plain\n"
    "       nvmx-scenarios [--jobs N] [--filter SUITE/TEST] [--work N] [--pairs N] [--kinds N] sweep\n"
    "\n"
    "plain: runs the unit tests, many in one process; ends at the first that fails.\n"
    "sweep: runs each unit test with each callback of the simulated host failing in turn. A wrong answer of the test "
    "counts as little as a right\n"
    "one; what counts: the host's contract is kept, nothing leaks, a vCPU stops only where it may, and L1 can go on.\n"
    "\n"
    "  --jobs N     processes (2)\n"
    "  --filter P   a pattern as of the shell\n"
    "  --work N     tests are run in full if their callbacks squared are at most N (10000); of longer ones only some "
    "callbacks fail, of\n"
    "               those with ten times as many none\n"
    "  --pairs N    tests of at most N callbacks are run with every pair failing that can come together, the second in "
    "the test\n"
    "               or in what L1 does next (0)\n"
    "  --kinds N    1: NVMX_E_HOST; 2: also with half of the work done; 3: also NVMX_E_DENIED; 4: also NVMX_E_UNMAPPED "
    "(1)\n"
    "\n"
    "exit status: 0 as it must be; 1 not; 2 wrong usage\n";

static struct {
    unsigned int jobs;
    const char *filter;
    bool sweep;
    struct sweep_options options;
} want = {.jobs = 2, .filter = "*", .options = {.work = 10000, .kinds = 1}};

/* What the processes share. */
static struct shared {
    uint32_t next;   /* scenario that nobody took yet */
    uint32_t failed; /* scenarios */
    struct sweep_result result[];
} * shared;

static bool chosen(const struct scenario *scenario) {
    char name[256];
    snprintf(name, sizeof(name), "%s/%s", scenario->suite, scenario->name);
    return fnmatch(want.filter, name, FNM_EXTMATCH) == 0;
}

static uint32_t count_scenarios(void) {
    uint32_t count = 0;
    for (const struct scenario *s = scenarios; s; s = s->next)
        count++;
    return count;
}

/* -- one scenario after the other
 * ----------------------------------------------------------------------------------------------------- */

static const struct scenario *doing;

static void died(int number) {
    fprintf(stderr, "%s.%s: signal %d\n", doing->suite, doing->name, number);
    signal(number, SIG_DFL);
    raise(number);
}

static void plain(const struct scenario *scenario) {
    scenario_failed = false;
    if (scenario_run(scenario, PLAIN_SECONDS) == TIMED_OUT) {
        fprintf(stderr, "%s.%s: more than %u seconds of processor time\n", scenario->suite, scenario->name, PLAIN_SECONDS);
        scenario_failed = true;
    }
    if (scenario_failed)
        __atomic_add_fetch(&shared->failed, 1, __ATOMIC_RELAXED);
}

/* In a process of its own, which may die. */
static void sweep(const struct scenario *scenario, struct sweep_result *result) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        sweep_scenario(scenario, &want.options, result);
        scenario_exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        fprintf(stderr, "%s.%s: died with failure %u of callback %llu, %llu\n", scenario->suite, scenario->name,
                result->kind, (unsigned long long)result->k[0], (unsigned long long)result->k[1]);
        if (result->wrong[0] == 0)
            snprintf(result->wrong, SWEEP_WRONG, "the process died");
    }
    if (result->wrong[0]) {
        __atomic_add_fetch(&shared->failed, 1, __ATOMIC_RELAXED);
        fprintf(stderr, "%s.%s: %s\n", scenario->suite, scenario->name, result->wrong);
    }
}

static void work(void) {
    uint32_t mine = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED), i = 0;
    signal(SIGABRT, died);
    signal(SIGSEGV, died);
    for (const struct scenario *s = scenarios; s; s = s->next, i++) {
        if (i != mine)
            continue;
        mine = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);
        doing = s;
        if (!chosen(s))
            continue;
        if (want.sweep)
            sweep(s, &shared->result[i]);
        else if (shared->failed == 0)
            plain(s);
    }
}

static bool run_all(void) {
    bool died_one = false;
    for (unsigned int i = 0; i < want.jobs; i++) {
        pid_t child = fork();
        if (child == 0) {
            work();
            fflush(NULL);
            scenario_exit(0);
        }
    }
    for (int status; wait(&status) > 0;)
        died_one = died_one || status != 0;
    return !died_one && shared->failed == 0;
}

/* -- the account
 * --------------------------------------------------------------------------------------------------------------------------
 */

static void add(struct sweep_result *sum, const struct sweep_result *one) {
    sum->callbacks += one->callbacks;
    sum->left_out += one->left_out;
    sum->single += one->single;
    sum->pairs += one->pairs;
    sum->gave_up += one->gave_up;
    sum->stops += one->stops;
    for (unsigned int i = 0; i < GOES_ON_STEPS; i++)
        sum->went_on[i] += one->went_on[i];
    for (unsigned int i = 0; i < SIM_CALLS; i++) {
        sum->failed[i] += one->failed[i];
        sum->stopped[i] += one->stopped[i];
    }
}

static void account(void) {
    struct sweep_result sum = {0};
    uint32_t i = 0, with = 0, tests = 0, in_part = 0, own = 0, too_long = 0;
    for (const struct scenario *s = scenarios; s; s = s->next, i++) {
        const struct sweep_result *one = &shared->result[i];
        add(&sum, one);
        tests += chosen(s);
        with += one->callbacks != 0;
        in_part += one->left_out != 0;
        own += one->fails_itself;
        too_long += one->too_long;
    }
    printf("%u scenarios, %u of them with callbacks that can fail: %llu callbacks; in %u scenarios %llu of these were "
           "not made to fail\n",
           tests, with, (unsigned long long)sum.callbacks, in_part, (unsigned long long)sum.left_out);
    printf("left out: %u scenarios that make callbacks fail themselves, %u that are too long for --work\n", own,
           too_long);
    printf("%llu runs with one failure, %llu with two; in %llu the scenario ended early; %llu stops\n"
           "L1 left L2 and put itself in order %llu times, had the vmcs02 it should have %llu times, began anew %llu "
           "times\n",
           (unsigned long long)sum.single, (unsigned long long)sum.pairs, (unsigned long long)sum.gave_up,
           (unsigned long long)sum.stops, (unsigned long long)sum.went_on[0], (unsigned long long)sum.went_on[1],
           (unsigned long long)sum.went_on[2]);
    for (unsigned int call = 0; call < SIM_CALLS; call++)
        if (sum.failed[call])
            printf("%16s  failed %8llu times, then stopped %8llu\n", sweep_call_name((enum sim_call)call),
                   (unsigned long long)sum.failed[call], (unsigned long long)sum.stopped[call]);
    printf("%u scenarios break a rule\n", shared->failed);
}

static _Noreturn void bad_usage(const char *what) {
    fprintf(stderr, "nvmx-scenarios: %s\n%s", what, usage);
    exit(2);
}

static uint64_t number(const char *option, const char *text) {
    char *end = NULL;
    unsigned long long value = text ? strtoull(text, &end, 10) : 0;
    if (!text || end == text || *end || text[0] == '-')
        bad_usage(option);
    return value;
}

static bool read_options(int argc, char **argv) {
    bool chosen_mode = false;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(word, "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (strcmp(word, "plain") == 0 || strcmp(word, "sweep") == 0) {
            want.sweep = word[0] == 's';
            chosen_mode = true;
            continue;
        }
        if (strcmp(word, "--filter") == 0 && next)
            want.filter = next;
        else if (strcmp(word, "--jobs") == 0)
            want.jobs = (unsigned int)number("--jobs wants a number", next);
        else if (strcmp(word, "--work") == 0)
            want.options.work = number("--work wants a number", next);
        else if (strcmp(word, "--pairs") == 0)
            want.options.pairs = number("--pairs wants a number", next);
        else if (strcmp(word, "--kinds") == 0)
            want.options.kinds = (unsigned int)number("--kinds wants a number", next);
        else
            bad_usage(word);
        i++;
    }
    return chosen_mode && want.jobs && want.options.work && want.options.kinds >= 1 &&
           want.options.kinds <= SWEEP_KINDS;
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv))
        bad_usage("plain or sweep, and numbers that make sense");
    size_t bytes = sizeof(*shared) + count_scenarios() * sizeof(shared->result[0]);
    shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        bad_usage("no memory");
    bool good = run_all();
    if (want.sweep)
        account();
    return good ? 0 : 1;
}
