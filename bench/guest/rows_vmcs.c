/* SPDX-License-Identifier: MIT */
/* VMX instructions of L1, and switching between VMCSs. */
#include "rounds.h"

enum { MOST_VMCSS = 64, CYCLES = 50 };

static struct vmcs_region regions[MOST_VMCSS];

static void single_instructions(void) {
    rounds_start_vmcall();
    MEASURE("vmread_shadowed", bare_vmread(EXIT_REASON));
    MEASURE("vmwrite_shadowed", bare_vmwrite(GUEST_RIP, rounds_l2.base));
    MEASURE("vmread", bare_vmread(HOST_TR_BASE));
    MEASURE("vmwrite", bare_vmwrite(HOST_SYSENTER_CS, 0));
    MEASURE("vmptrst", bare_vmptrst());
    MEASURE("vmptrld_same", bare_vmptrld(&vmcs_a));
    MEASURE("vmclear_other", bare_vmclear(&vmcs_b));
    MEASURE("vmlaunch_refused", __asm__ volatile("vmlaunch" ::: "cc", "memory"));
    MEASURE("invvpid_single", bare_invvpid(1, 1, 0));
    MEASURE("vmxoff_vmxon", {
        uint64_t pointer = (uint64_t)&vmxon_region;
        __asm__ volatile("vmxoff\n\tvmxon %0" ::"m"(pointer) : "cc", "memory");
    });
}

/* Sibling VMCSs, each resumed once in a cycle: what `count` virtual processors on one real one cost. A row is one of `count` turns. */
static void in_turn(const char *name, uint32_t count) {
    if (!measure_wanted(name)) {
        return;
    }
    rounds_start_vmcall();
    for (uint32_t i = 0; i < count; i++) {
        rounds_other(&regions[i], 1 + i);
    }
    MEASURE_TIMES(name, CYCLES, count, {
        for (uint32_t k = 0; k < count; k++) {
            bare_vmptrld(&regions[k]);
            round_trip();
        }
    });
}

static void two_in_turn(void) {
    rounds_start_vmcall();
    rounds_other(&regions[0], 1);
    rounds_other(&regions[1], 2);
    MEASURE("vmptrld_two_in_turn", {
        bare_vmptrld(&regions[0]);
        round_trip();
        bare_vmptrld(&regions[1]);
        round_trip();
    });
}

/* What moving a virtual processor away and back costs: its VMCS is put down and launched again. */
static void relaunch(void) {
    rounds_start_vmcall();
    MEASURE("vmclear_vmptrld_launch", {
        bare_vmclear(&vmcs_a);
        bare_vmptrld(&vmcs_a);
        round_trip_launch();
    });
}

void rows_of_vmcs(void) {
    static const struct {
        const char *name;
        uint32_t count;
    } turns[] = {{"in_turn_01", 1}, {"in_turn_02", 2},   {"in_turn_03", 3},   {"in_turn_04", 4},  {"in_turn_06", 6},
                 {"in_turn_08", 8}, {"in_turn_12", 12}, {"in_turn_16", 16}, {"in_turn_32", 32}, {"in_turn_64", 64}};

    single_instructions();
    if (measure_wanted("vmptrld_two_in_turn")) {
        two_in_turn();
    }
    if (measure_wanted("vmclear_vmptrld_launch")) {
        relaunch();
    }
    for (uint32_t i = 0; i < sizeof turns / sizeof turns[0]; i++) {
        in_turn(turns[i].name, turns[i].count);
    }
}
