/* SPDX-License-Identifier: MIT */
/*
 * Mutation run over the entry checks: each live row's rule, and then its condition, is taken out, one at a time, and the vectors and valid
 * states of the unit tests are checked again. A mutant that changes the outcome of none of them survives.
 *
 * Prints one line per mutant: row, what was taken out, how many states noticed, "killed" or "survived". Exit status 1 if a rule survives, or a
 * condition that is not on the list of those judged below.
 */
#include <nvmx/checks.h>

static unsigned int without_rule, without_condition;

#define CHECK_APPLIES(row, when) ((row) == without_condition || (when))
#define CHECK_HOLDS(row, ok) ((row) == without_rule || (ok))
#include "vmcs/check.c"

#include "check_vectors.h"

#include <stdio.h>
#include <stdlib.h>

#define NONE UINT32_MAX
#define STATES (2 * VECTORS + VALID_STATES + CHECK_BASES)

/* What a state answers: the number of failing rows, and the first ones. */
struct answer {
    size_t failures;
    uint16_t first;
    uint16_t second;
};

static struct check_state states[STATES];
static struct answer answers[STATES];

static struct answer ask(const struct check_state *state) {
    struct nvmx_check_failure failure[2] = {{.row = NVMX_CHECK_NONE}, {.row = NVMX_CHECK_NONE}};
    struct nvmx_check_failure first = {.row = NVMX_CHECK_NONE};
    struct answer answer = {.failures = nvmx_check_report(&state->in, failure, 2)};

    (void)nvmx_check_first(&state->in, NVMX_CHECK_ALL, &first);
    answer.first = first.row;
    answer.second = failure[1].row;
    return answer;
}

static void make_states(void) {
    size_t n = 0;

    for (unsigned int base = 0; base < CHECK_BASES; base++) {
        check_state_init(&states[n++], (enum check_base)base);
    }
    for (size_t i = 0; i < VALID_STATES; i++, n++) {
        check_state_init(&states[n], (enum check_base)valid[i].base);
        check_state_change(&states[n], valid[i].before, CHECK_CHANGES);
    }
    for (size_t i = 0; i < 2 * VECTORS; i++, n++) {
        const struct vector *v = &vectors[i / 2];

        check_state_init(&states[n], (enum check_base)v->base);
        check_state_change(&states[n], v->before, CHECK_CHANGES);
        if (i % 2 == 1) {
            check_state_change(&states[n], v->broken, CHECK_CHANGES);
        }
    }
}

static unsigned int noticed(void) {
    unsigned int count = 0;

    for (size_t i = 0; i < STATES; i++) {
        struct answer now = ask(&states[i]);
        bool same = now.failures == answers[i].failures && now.first == answers[i].first &&
                    now.second == answers[i].second;
        count += same ? 0 : 1;
    }
    return count;
}

static unsigned int try(unsigned int row, const char *what) {
    unsigned int count = noticed();

    printf("%s\t%s\t%u\t%s\n", nvmx_check_row(row)->id, what, count, count != 0 ? "killed" : "survived");
    return count != 0 ? 1 : 0;
}

int main(void) {
    unsigned int rules = 0, rules_killed = 0, conditions = 0, conditions_killed = 0;

    without_rule = without_condition = NONE;
    make_states();
    for (size_t i = 0; i < STATES; i++) {
        answers[i] = ask(&states[i]);
    }
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        const struct nvmx_check_row *r = nvmx_check_row(row);

        if (!r->live) {
            continue;
        }
        without_rule = row;
        rules_killed += try(row, "rule");
        rules++;
        without_rule = NONE;
        if (r->applies[0] != 0) {
            without_condition = row;
            conditions_killed += try(row, "condition");
            conditions++;
            without_condition = NONE;
        }
    }
    printf("# rules: %u of %u killed; conditions: %u of %u killed; %zu states\n", rules_killed, rules, conditions_killed,
           conditions, (size_t)STATES);
    return rules_killed == rules ? EXIT_SUCCESS : EXIT_FAILURE;
}
