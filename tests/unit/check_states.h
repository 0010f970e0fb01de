/* SPDX-License-Identifier: MIT */
/* Valid states to start from in tests of the VM-entry checks, and changes to them. */
#ifndef NVMX_TESTS_CHECK_STATES_H
#define NVMX_TESTS_CHECK_STATES_H

#include <nvmx/checks.h>

enum check_base {
    LONG64, /* L1 in 64-bit mode, L2 in 64-bit mode with EPT */
    REAL,   /* L1 in 64-bit mode, L2 in real mode: unrestricted guest */
    PAE,    /* L1 in 64-bit mode, L2 in 32-bit protected mode with PAE paging, no EPT */
    V86,    /* L1 in 64-bit mode, L2 in virtual-8086 mode */
    HOST32, /* L1 and L2 in 32-bit protected mode */
    CHECK_BASES,
};

/* All that one check looks at. in.field and in.caps point into the same struct: don't copy it, make a new one. */
struct check_state {
    struct nvmx_caps caps;
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_input in;
};

enum change_kind {
    CHANGE_NONE = 0, /* ends a list */
    CHANGE_SET,      /* field[place] = value */
    CHANGE_OR,
    CHANGE_CLEAR,  /* field[place] &= ~value */
    CHANGE_CAP_OR, /* the same for the capability MSR `place` */
    CHANGE_CAP_CLEAR,
    CHANGE_CPU_OR, /* and for caps.cpu */
    CHANGE_CPU_CLEAR,
    CHANGE_VTPR,
    CHANGE_REVISION, /* dword at the VMCS link pointer */
    CHANGE_READABLE, /* is anything there? */
    CHANGE_PDPTE,    /* in memory, number `place` */
    CHANGE_PDPTE_READABLE,
};

struct change {
    uint8_t kind;
    uint16_t place;
    uint64_t value;
};

#define CHECK_CHANGES 12

/* A CPU that has every VMX feature but 57-bit addresses, FRED, 5-level EPT and bus-lock detection. */
void check_caps_init(struct nvmx_caps *caps);
void check_state_init(struct check_state *state, enum check_base base);
/* Make the changes up to CHANGE_NONE, at most `max`. */
void check_state_change(struct check_state *state, const struct change *changes, unsigned int max);

#endif
