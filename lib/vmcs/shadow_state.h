/* SPDX-License-Identifier: MIT */
/* Internal: what a VM and a vCPU keep for hardware VMCS shadowing (shadow.c). Included by vcpu.h. */
#ifndef NVMX_LIB_VMCS_SHADOW_STATE_H
#define NVMX_LIB_VMCS_SHADOW_STATE_H

#include <nvmx/vmcs.h>

#define SHADOWED_MAX 40
/* What hardware VMCS shadowing shows L1 of a vmcs12. */
struct shadow_vmcs {
    uint64_t hpa;
    uint32_t name;  /* for vmcs_select */
    bool ahead;     /* where each vmcs12 has its own: L1 may have written to it since the vmcs12 came into the cache */
    union {
        struct {
            bool unknown; /* holds[] need not equal what it holds but for L1's writes */
            bool whole;   /* L1 may have written fields that it writes no more */
        };
        uint16_t take_all; /* 0: the next entry need not take back all fields */
    };
    uint64_t holds[SHADOWED_MAX]; /* by place (vmcs/shadow.h) */
};

/* Most fields that an entry takes back from a shadow VMCS, whatever L1 does with them (vmcs/shadow.c). */
#define SHADOW_ENTRY_FIELDS 6

/* Those of them that L1 may write there without an exit: all, or the ones that it has written. */
struct shadow_writes {
    uint8_t *bitmap;       /* the host's page, of this vCPU alone; NULL: all, always */
    uint64_t places;       /* as bits of places */
    uint64_t changed;      /* where L1 wrote something new since they were last gone through */
    uint32_t entries_left; /* until they are again */
};

/* The fields that hardware VMCS shadowing gives L1: those that it may write come first. */
struct shadow_list {
    uint32_t count;
    uint32_t writable;
    uint32_t encoding[SHADOWED_MAX];
    uint8_t slot[SHADOWED_MAX];
    uint8_t place[SHADOWED_MAX]; /* in shadow_vmcs.holds */
    uint64_t places;             /* as bits */
    struct nvmx_field_set fields;
};

#endif
