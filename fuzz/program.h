/* SPDX-License-Identifier: MIT */
/*
 * The harness "program" in four files: the model and the run (program.c), what L1 executes (program_l1.c), MSRs of L1 and L2 (program_msrs.c), L2's exits and the
 * host's calls (program_l2.c).
 */
#ifndef FUZZ_PROGRAM_H
#define FUZZ_PROGRAM_H

#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define REGIONS 4u
#define NONE (-1)

struct region {
    uint64_t gpa1;
    bool launched, launched_known;
    uint64_t value[NVMX_FIELD_COUNT];
    struct nvmx_field_set known; /* of the others the model takes what L1 reads next */
};

struct model {
    struct fuzz_machine *m;
    struct sim *sim;
    struct fuzz_input *in;
    enum nvmx_mode mode;
    uint64_t vmxon;
    int current;
    struct region region[REGIONS];
    struct nvmx_field_set exists;
    bool pending, launching; /* L2 is about to run; by VMLAUNCH */
    bool holes;
    /* of the next instruction only */
    bool cpl3, compatibility, no_vmxe, mov_ss, injects;
    bool a20m; /* until told otherwise */
    bool failed; /* a callback was made to fail in it */
    bool misconfigured; /* the exit says that ept02 is, which it never is: the host's fault if nothing was missing there */
    bool over;
};

/* What an instruction is to give. error: VMfail's number; vector: of a fault. */
struct answer {
    enum sim_outcome outcome;
    uint32_t number;
    bool any; /* not known to the model */
};

static inline struct region *current(struct model *o) {
    return o->current == NONE ? NULL : &o->region[o->current];
}

/* -- the model (program.c) ----------------------------------------------------------------------------------------------------------------- */

void model_set_field(struct region *r, unsigned int slot, uint64_t value);
/* L1 does not know any field, nor what was launched. */
void model_forget_all(struct model *o);
/* Around an instruction of L1 or an exit: the state that it finds, a callback that fails in it if one is to. */
void model_prepare(struct model *o);
void model_finish(struct model *o);
/* True: it is as the model says and did what it is for. */
bool model_compare(struct model *o, const char *what, struct answer a, enum sim_outcome got);

/* -- what L1 executes (program_l1.c) ------------------------------------------------------------------------------------------------------- */

void do_vmxon(struct model *o, uint64_t gpa1);
void do_vmxoff(struct model *o);
void do_vmcall(struct model *o);
void do_vmclear(struct model *o, uint64_t gpa1);
void do_vmptrld(struct model *o, uint64_t gpa1);
void do_vmptrst(struct model *o);
void do_vmread(struct model *o);
void do_vmwrite(struct model *o);
void do_entry(struct model *o, bool launch);
void do_invalidate(struct model *o, bool ept);
void do_good_vmcs12(struct model *o);

/* -- MSRs that the host may watch (program_msrs.c) ---------------------------------------------------------------------------------------- */

/* WRMSR of whoever runs. True: an exit of L2 that was L1's, or the vCPU has stopped; *next is what nvmx_exit said. */
bool do_wrmsr(struct model *o, enum nvmx_next *next);
/* Right after an entry to L2; right after an exit that L1 got, of a vmcs02 that was as in `before`: what the model knows of these MSRs is there. */
void model_check_l2_msrs(const struct model *o);
void model_check_l1_msrs(const struct model *o, const uint64_t *before);

/* -- L2, and the host (program_l2.c) --------------------------------------------------------------------------------------------------------- */

void do_l2_exit(struct model *o);
void do_pending(struct model *o);
void do_entry_refused(struct model *o);
void do_given_exit(struct model *o);
void do_memory(struct model *o);
void do_host(struct model *o, uint8_t what);
void do_shake(struct model *o);
void do_question(struct model *o);
void do_reset(struct model *o);
/* At the end, if the vCPU has stopped. */
void model_stopped(struct model *o);

#endif
