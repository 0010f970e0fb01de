/* SPDX-License-Identifier: MIT */
/* Sets of capability MSRs: built in, from text, from an MSR device. */
#ifndef NVMX_CLI_CAPSET_H
#define NVMX_CLI_CAPSET_H

#include <nvmx/caps.h>

/* What no VMX MSR tells, in the order of capset_facts. */
enum capset_fact {
    CAPSET_FEATURE_CONTROL = 0,
    CAPSET_DEBUGCTL,
    CAPSET_PERF_GLOBAL_CTRL,
    CAPSET_SPEC_CTRL,
    CAPSET_RTIT_CTL,
    CAPSET_LBR_CTL,
    CAPSET_PHYSICAL_ADDRESS_BITS,
    CAPSET_CPU,
    CAPSET_FACTS,
};

struct capset {
    struct nvmx_caps caps;
    uint32_t msrs;  /* bit n: MSR 480H + n was given */
    uint32_t facts; /* bit n: enum capset_fact n was given; others are those of `permissive` */
    char name[160]; /* where it is from, for people */
};

/* The profile's names and what each is; NULL past the last. */
const char *capset_profile_name(unsigned int which, const char **description);
bool capset_profile(const char *name, struct capset *set);

/* The name of MSR 480H + place ("IA32_VMX_BASIC"), and of a fact ("debugctl_valid"). */
const char *capset_msr_name(unsigned int place);
const char *capset_fact_name(enum capset_fact fact);
/* NVMX_CPU_ bits by name ("LONG_MODE"); NULL past the last. */
const char *capset_cpu_name(unsigned int bit);

enum capset_take { CAPSET_OTHER = 0, CAPSET_TAKEN, CAPSET_BAD };

/* One line of text. CAPSET_OTHER: it says nothing about capabilities. CAPSET_BAD: it tries to; the reason is in `why`.
 */
enum capset_take capset_take_line(struct capset *set, const char *line, char *why, size_t size);

/* Give a set that was read its unread facts, and see that it has all MSRs that it says exist. False: the reason is in
 * `why`. */
bool capset_finish(struct capset *set, char *why, size_t size);

/* A profile's name, a file, "-", or an MSR device such as /dev/cpu/0/msr. CLI_OK, or a status after a message. */
int capset_load(struct capset *set, const char *spec);

#endif
