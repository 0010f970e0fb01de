/* SPDX-License-Identifier: MIT */
/*
 * A scenario is run once as it is, to count its callbacks and to see whether L1 can go on after it; then with each
 * callback failing alone, in each of the ways in which it can, and if it is short with every pair of them.
 */
#include "scenario.h"

#define RUN_SECONDS 20u
#define TOO_LONG    10u

static struct {
    struct sweep_result *result;
    bool asked;                /* L1 must be able to go on */
    bool could[GOES_ON_STEPS]; /* in the run without failures it could, on each simulation */
    bool stops;                /* a vCPU stops in that run already */
    bool further;              /* when a scenario ends L1 goes on, and what it does then may fail too */
    bool went;                 /* it did, in this run */
} now;

const char *sweep_call_name(enum sim_call call) {
    static const char *const name[SIM_CALLS] = {
        [SIM_MAP_PAGE] = "map_page",     [SIM_TRANSLATE] = "translate",         [SIM_EPT01_LOOKUP] = "ept01_lookup",
        [SIM_PAGE_ALLOC] = "page_alloc", [SIM_VMCS_SELECT] = "vmcs_select",     [SIM_VMCS_RESET] = "vmcs_reset",
        [SIM_VMCS_READ] = "vmcs_read",   [SIM_VMCS_WRITE] = "vmcs_write",       [SIM_MSR_READ] = "msr_read",
        [SIM_MSR_WRITE] = "msr_write",   [SIM_ACK_INTERRUPT] = "ack_interrupt", [SIM_EPT02_ROOT] = "ept02_root",
    };
    return name[call] ? name[call] : "?";
}

static void wrong(const char *what) {
    if (now.result->wrong[0] == 0)
        snprintf(now.result->wrong, SWEEP_WRONG, "L1 %s after failure %u of callback %llu (%s)%s", what,
                 now.result->kind, (unsigned long long)now.result->k[0],
                 sim_sweep.failed ? sweep_call_name(sim_sweep.call[0]) : "not reached",
                 now.result->k[1] ? " and another" : "");
}

/*
 * A vCPU may stop only where neither L1 nor L2 can be told: the real VMCSs can't be used; memory that L2 needs can't be
 * had, or not again at an entry after the host moved it; an MSR of L1 can't be loaded at an exit, or one of L2 not be read where an entry completes a
 * restored state (nvmx/state.h); or the SDM has a VMX abort for it (30.7: MSR lists, PDPTEs).
 */
static bool may_stop(enum sim_call call, enum nvmx_stop reason) {
    static const bool may[SIM_CALLS] = {
        [SIM_EPT01_LOOKUP] = true, [SIM_PAGE_ALLOC] = true, [SIM_EPT02_ROOT] = true, [SIM_VMCS_SELECT] = true,
        [SIM_VMCS_RESET] = true,   [SIM_VMCS_READ] = true,  [SIM_VMCS_WRITE] = true, [SIM_MSR_WRITE] = true,
    };
    if (reason == NVMX_STOP_VMX_ABORT)
        return true;
    return reason == NVMX_STOP_HOST && (may[call] || ((call == SIM_MAP_PAGE || call == SIM_MSR_READ) && sim_sweep.at_entry));
}

static void look_at_stop(const struct sim *sim) {
    enum nvmx_stop reason = nvmx_stop_reason(sim->vcpu);
    if (reason == NVMX_STOP_NONE)
        return;
    if (!now.asked) {
        now.stops = true;
        return;
    }
    now.result->stops++;
    for (uint32_t i = 0; i < sim_sweep.failed && i < 2; i++)
        now.result->stopped[sim_sweep.call[i]]++;
    bool allowed = now.stops || sim_sweep.failed == 0;
    for (uint32_t i = 0; i < sim_sweep.failed && i < 2; i++)
        allowed = allowed || may_stop(sim_sweep.call[i], reason);
    if (!allowed)
        wrong("is stopped for no reason");
}

static void try_step(struct sim *sim, unsigned int i) {
    static const char *(*const step[GOES_ON_STEPS])(struct sim * sim) = {puts_in_order, same_vmcs02, goes_on};
    if (now.asked && !now.could[i] && i != 0)
        return;
    const char *what = step[i](sim);
    if (!now.asked)
        now.could[i] = now.could[i] && !what;
    else if (now.could[i] && what)
        wrong(what);
    else
        now.result->went_on[i] += now.could[i];
}

/* A simulation is about to be destroyed, at the end of the scenario or in it. */
static void ends(struct sim *sim) {
    if (!sim->vcpu || sim->options.hidden)
        return;
    if (now.further && !now.went && now.could[0] && sim_sweep.failed < 2) {
        now.went = true; /* before: it may give up, and then this simulation ends once more */
        keeps_going(sim);
    }
    uint32_t failed = sim_sweep.failed;
    now.result->fails_itself = now.result->fails_itself || (!now.asked && sim->failed != 0);
    look_at_stop(sim);
    sim_sweep.on = false;
    for (unsigned int i = 0; i < GOES_ON_STEPS; i++)
        try_step(sim, i);
    sim_sweep.on = true;
    sim_sweep.failed = failed;
}

static void too_many(void) {
    now.result->too_long = true;
    scenario_exit(0);
}

/* The ways to fail: what is returned, and whether a part is done before. */
static void choose_kind(unsigned int kind) {
    static const enum nvmx_status status[SWEEP_KINDS] = {NVMX_E_HOST, NVMX_E_HOST, NVMX_E_DENIED, NVMX_E_UNMAPPED};
    now.result->kind = kind;
    sim_sweep.status = status[kind];
    sim_sweep.half = kind == 1;
}

static void run(const struct scenario *scenario, uint64_t first, uint64_t second) {
    now.result->k[0] = first;
    now.result->k[1] = second;
    now.went = false;
    sim_sweep.calls = 0;
    sim_sweep.preparing = 0;
    sim_sweep.entering = sim_sweep.at_entry = false;
    sim_sweep.failed = 0;
    sim_sweep.at[0] = first;
    sim_sweep.at[1] = second;
    enum ending ending = scenario_run(scenario, RUN_SECONDS);
    now.result->gave_up += ending == GAVE_UP;
    if (ending == TIMED_OUT)
        wrong("or the library goes round for ever");
    for (uint32_t i = 0; i < sim_sweep.failed && i < 2; i++)
        now.result->failed[sim_sweep.call[i]]++;
}

/*
 * Every two that can come together: after the first failure a scenario mostly ends early, so the second is one of those
 * that it still comes to, or one of what L1 does next.
 */
static void pairs(const struct scenario *scenario, uint64_t callbacks) {
    now.asked = false;
    now.further = true;
    run(scenario, 0, 0);
    now.asked = true;
    for (uint64_t first = 1; first <= callbacks; first++) {
        run(scenario, first, 0);
        uint64_t last = sim_sweep.calls;
        for (uint64_t second = first + 1; second <= last; second++) {
            run(scenario, first, second);
            now.result->pairs += sim_sweep.failed == 2;
        }
    }
}

static uint64_t root(uint64_t square) {
    uint64_t n = 0;
    while ((n + 1) * (n + 1) <= square)
        n++;
    return n;
}

void sweep_scenario(const struct scenario *scenario, const struct sweep_options *options, struct sweep_result *result) {
    now.result = result;
    now.asked = now.stops = now.further = false;
    memset(now.could, true, sizeof(now.could));
    sim_sweep.on = true;
    sim_sweep.ends = ends;
    sim_sweep.gives_up = scenario_gives_up;
    sim_sweep.preparations = strcmp(scenario->suite, "failures") == 0 || strcmp(scenario->suite, "life_cycle") == 0;
    scenario_tells = false;
    choose_kind(0);
    sim_sweep.too_many = too_many;
    sim_sweep.most = TOO_LONG * root(options->work);
    run(scenario, 0, 0);
    sim_sweep.most = 0;
    now.asked = true;
    uint64_t callbacks = result->callbacks = sim_sweep.calls;
    result->gave_up = 0;
    if (callbacks == 0 || result->fails_itself)
        return;
    uint64_t step = (callbacks * callbacks + options->work - 1) / options->work;
    for (unsigned int kind = 0; kind < options->kinds; kind++) {
        choose_kind(kind);
        for (uint64_t k = 1 + kind % step; k <= callbacks; k += step) {
            run(scenario, k, 0);
            result->single++;
        }
    }
    result->left_out = step > 1 ? callbacks - callbacks / step : 0;
    choose_kind(0);
    if (callbacks <= options->pairs)
        pairs(scenario, callbacks);
}
