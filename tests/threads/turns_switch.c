/* SPDX-License-Identifier: MIT */
/* Whose turn it is: coroutines with stacks of their own, which pass the turn where the seed says so. */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "turns.h"

#include "common.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define STACK_BYTES (256u << 10)
#define POINTS_MAX  30000000u /* a run has some 100,000 */

struct coroutine {
    ucontext_t context;
    bool done;
    uint64_t asleep; /* gets no turn before this point */
};

bool turns_verbose;

static struct {
    uint64_t seed, random;
    uint64_t points;
    uint32_t burst; /* the turn may pass at one in so many points */
    uint32_t nap;   /* who loses the turn may be without it for so many points; 0: not on purpose */
    bool playing;
    unsigned int count, current;
    void (*play)(unsigned int player);
    struct coroutine player[PLAYERS_MAX];
    ucontext_t outside;
} turns;

static unsigned char stacks[PLAYERS_MAX][STACK_BYTES] __attribute__((aligned(16)));

void turns_seed(uint64_t seed) {
    turns.seed = seed;
    turns.random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
    if (turns.random == 0) {
        turns.random = 1;
    }
    turns.points = 0;
    for (unsigned int i = 0; i < 5; i++) {
        draw(2);
    }
    turns.burst = 1 + draw(30);
    turns.nap = one_in(3) ? 0 : 64u << draw(7);
}

uint32_t draw(uint32_t limit) {
    return below(&turns.random, limit);
}

uint64_t turns_points(void) {
    return turns.points;
}

static void pass_turn(unsigned int to, const char *function, int line) {
    unsigned int from = turns.current;

    if (turns.nap != 0 && one_in(4)) {
        turns.player[from].asleep = turns.points + draw(turns.nap);
    }
    tell("stops in %s, line %d", function, line);
    turns.current = to;
    swapcontext(&turns.player[from].context, &turns.player[to].context);
}

void turn_may_pass(const char *function, int line) {
    if (!turns.playing) {
        return;
    }
    if (++turns.points > POINTS_MAX) {
        broken("nobody gets on");
    }
    if (!one_in(turns.burst)) {
        return;
    }
    unsigned int to = draw(turns.count);
    if (to != turns.current && !turns.player[to].done && turns.player[to].asleep <= turns.points) {
        pass_turn(to, function, line);
    }
}

/* Where a coroutine begins; it never returns. */
static void begin(void) {
    turns.play(turns.current);
    turns.player[turns.current].done = true;
    tell("is done");
    for (unsigned int i = 0; i < turns.count; i++) {
        if (!turns.player[i].done) {
            turns.current = i;
            setcontext(&turns.player[i].context);
        }
    }
    setcontext(&turns.outside);
}

void turns_play(unsigned int count, void (*play)(unsigned int player)) {
    turns.count = count;
    turns.play = play;
    turns.current = 0;
    for (unsigned int i = 0; i < count; i++) {
        struct coroutine *c = &turns.player[i];

        c->done = false;
        c->asleep = 0;
        getcontext(&c->context);
        c->context.uc_stack.ss_sp = stacks[i];
        c->context.uc_stack.ss_size = STACK_BYTES;
        c->context.uc_link = NULL;
        makecontext(&c->context, begin, 0);
    }
    turns.playing = true;
    swapcontext(&turns.outside, &turns.player[0].context);
    turns.playing = false;
}

void tell(const char *format, ...) {
    va_list list;

    if (!turns_verbose) {
        return;
    }
    va_start(list, format);
    printf("%8llu  %u: ", (unsigned long long)turns.points, turns.current);
    vprintf(format, list);
    putchar('\n');
    va_end(list);
}

void broken(const char *format, ...) {
    va_list list;

    fflush(stdout);
    va_start(list, format);
    fprintf(stderr, "%s: seed %llu, player %u: ", program_invocation_short_name, (unsigned long long)turns.seed, turns.current);
    vfprintf(stderr, format, list);
    fprintf(stderr, "\nStep by step: %s --from %llu --seeds 1 -v\n", program_invocation_name, (unsigned long long)turns.seed);
    va_end(list);
    exit(1);
}
