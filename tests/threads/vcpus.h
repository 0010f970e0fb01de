/* SPDX-License-Identifier: MIT */
/*
 * A VM with several vCPUs, each in a thread of its own, on simulated hosts (tests/sim) that share one VM, its memory and its ept01. All of the library runs
 * here; the host takes no lock around its calls.
 */
#ifndef TESTS_THREADS_VCPUS_H
#define TESTS_THREADS_VCPUS_H

#include <pthread.h>

#include "common.h"
#include "sim_internal.h"

#define VCPUS_MAX    4u
#define MOVING_PAGES 64u  /* of L2's memory from gpa2 0 on, which the host moves */
#define FRAMES       256u /* where they may lie */
#define FRAME_HPA    (UINT64_C(1) << 39)
#define NOBODY       UINT64_MAX

/* What each vCPU's L1 has in memory of its own. */
#define L1_BASE(id)      (0x20000u + 0x8000u * (id))
#define L1_OPERAND(id)   (L1_BASE(id) + 0x0000u)
#define L1_VMXON(id)     (L1_BASE(id) + 0x1000u)
#define L1_VMCS(id, n)   (L1_BASE(id) + 0x2000u + 0x1000u * (n)) /* two */
#define L1_APIC(id)      (L1_BASE(id) + 0x4000u)
#define L1_IO_BITMAP(id) (L1_BASE(id) + 0x5000u)                 /* two */

struct change {
    uint64_t gpa1, bytes;
    bool protects;
};

struct vcpu {
    struct vm *vm;
    struct sim *sim;
    uint8_t *own_ram; /* sim->ram is that of the VM */
    unsigned int id; /* of the L1 that it runs, which another vCPU may go on with */
    uint64_t random;
    pthread_mutex_t guest; /* held while the guest runs */
    uint64_t asked, done;  /* changes of memory */
    uint64_t through;      /* it has made its operations */
    uint64_t entries, accesses, faults, changes, deaths, fired, stops, moves;
    bool deadline_fires; /* a deadline was asked for some time ago, perhaps by a vCPU that is gone */
};

/* An L1 that no vCPU runs at the moment: its nested state, or NULL if it has never run. */
struct parked {
    unsigned int id;
    uint8_t *blob;
    size_t bytes;
};

struct vm {
    struct sim *sim; /* its memory and pages: under `lock` */
    pthread_mutex_t lock;
    pthread_mutex_t tables; /* L1's page tables and ept12, which all vCPUs share, are written */
    unsigned int vcpus;
    struct vcpu vcpu[VCPUS_MAX];
    struct change change; /* that every vCPU has to be told of */
    struct parked parked; /* under `lock` */
    uint64_t ept01[MOVING_PAGES]; /* frame << 12 | access; 0: a hole */
    uint64_t owner[FRAMES];       /* page of L2 that a frame holds, or NOBODY */
    uint64_t writable[FRAMES];
    uint64_t stop, moves;
    uint64_t random; /* of the host's thread */
};

/* `fails`: one in so many callbacks about memory does; 0: none. */
struct vm *vm_new(unsigned int vcpus, uint32_t fails, uint64_t seed);
void vm_delete(struct vm *vm);
/* A vCPU anew, in other memory, outside VMX operation. It may be destroyed at any time. */
void vcpu_make(struct vcpu *vcpu);
void vcpu_destroy(struct vcpu *vcpu);
/* The vCPU saves its state and ends; anew, in other memory, it goes on with the L1 that was parked, and its own is parked. False: that never ran. */
bool vcpu_move(struct vcpu *vcpu);
/* vmcs01 as after power-up. */
void vcpu_power_up(struct vcpu *vcpu);

/* L2 of a vCPU that would be entered now accesses gpa2. False: an EPT violation. */
bool l2_accesses(struct vcpu *vcpu, uint64_t gpa2, uint64_t kind, uint64_t *qualification);
/* The host's thread: a page moves, goes, comes back or is protected. It returns when every vCPU has been told. */
void host_changes(struct vm *vm);
/* The vCPU's thread, while it is out of its guest. */
void hear_of_changes(struct vcpu *vcpu);

#endif
