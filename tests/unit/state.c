/* SPDX-License-Identifier: MIT */
/* Saving and restoring the nested state: nothing is lost, nothing changes, and a blob can be told from any other bytes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "state_worlds.h"

#define CPUID 10u

static void each_world(void (*test)(const struct state_world *world)) {
    for (size_t i = 0; i < state_world_count; i++) {
        cr_log_info("%s", state_worlds[i].name);
        test(&state_worlds[i]);
    }
}

/* sim_shake aborts if the bytes differ. */
static void round_trip(const struct state_world *world) {
    for (int whole = 0; whole < 2; whole++) {
        struct sim *sim = state_world_new(world);
        enum nvmx_mode mode = nvmx_mode(sim->vcpu);
        enum nvmx_stop stop = nvmx_stop_reason(sim->vcpu);
        sim_shake(sim, whole);
        sim_shake(sim, !whole);
        cr_expect(nvmx_mode(sim->vcpu) == mode && nvmx_stop_reason(sim->vcpu) == stop, "%s", world->name);
        sim_free(sim);
    }
}

Test(state, save_restore_save_gives_the_same_bytes) {
    each_world(round_trip);
}
