/* SPDX-License-Identifier: MIT */
/* The lists of scenarios, one for each scenario_*.c, in the order they run. */
#ifndef L1_SCENARIOS_H
#define L1_SCENARIOS_H

#include "l2.h"

struct scenario_list {
    const struct scenario *scenarios;
    uint32_t count;
};
#define DEFINE_SCENARIOS(NAME, TABLE) \
    const struct scenario_list scenarios_##NAME = {(TABLE), sizeof(TABLE) / sizeof((TABLE)[0])}

extern const struct scenario_list scenarios_info, scenarios_off, scenarios_vmcs, scenarios_instruction;
extern const struct scenario_list scenarios_register, scenarios_exception, scenarios_ept, scenarios_entry;
extern const struct scenario_list scenarios_controls, scenarios_event, scenarios_apic, scenarios_state, scenarios_mode, scenarios_smp;
extern const struct scenario_list scenarios_ept_random, scenarios_spp;

#endif
