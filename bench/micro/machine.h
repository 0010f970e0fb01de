/* SPDX-License-Identifier: MIT */
/*
 * A host for measuring: the simulated host's L1 (tests/sim) on callbacks that do nothing but their job, so that what is measured is the
 * library. Up to eight processors of one VM, and as much memory of L2 as one likes: ept01 maps everything, only L1's tables are there.
 */
#ifndef MICRO_MACHINE_H
#define MICRO_MACHINE_H

#include "sim.h"

#define MACHINE_CPUS 8u
#define MACHINE_TABLES UINT64_C(0x10000000) /* gpa1 of L1's memory for EPT tables of operations */
#define MACHINE_TABLES_BYTES 0x3000000u
#define MACHINE_L2_GPA1 UINT64_C(0x1000000000) /* gpa1 of gpa2 0 under those tables */

struct machine_options {
    uint32_t cpus;  /* 0: 1 */
    uint16_t slots; /* vmcs02 slots of each; 0: 4, as the bare-metal host has */
    bool shadow;    /* VMCS shadowing */
};

/* The context of a processor's callbacks. */
struct machine_cpu {
    struct machine *machine;
    struct sim *sim;
};

struct machine {
    struct machine_options options;
    struct sim *sim[MACHINE_CPUS];
    struct machine_cpu cpu[MACHINE_CPUS];
    struct nvmx_vm *vm;
    void *vm_memory;
    void *vcpu_memory[MACHINE_CPUS];
    uint8_t *own_ram[MACHINE_CPUS];
    uint8_t *tables;
    uint32_t tables_used; /* in pages */
    uint8_t *pages;
    uint32_t *free_pages;
    uint32_t free_count, pages_made;
};

/* L1 of each processor is in VMX operation. Aborts with a line where something fails: then there is nothing to measure. */
struct machine *machine_new(const struct machine_options *options);
void machine_free(struct machine *m);
_Noreturn void machine_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The `number`-th VMCS of this processor, made current, complete, launched once; L1 runs. */
void machine_vmcs12(struct machine *m, uint32_t cpu, uint32_t number);
uint64_t machine_vmcs_gpa1(uint32_t cpu, uint32_t number);
/* ... and made current again. */
void machine_vmptrld(struct machine *m, uint32_t cpu, uint32_t number);

/* VMWRITE of the current VMCS. L1 runs. */
void machine_write(struct machine *m, uint32_t cpu, uint32_t encoding, uint64_t value);
uint64_t machine_read(struct machine *m, uint32_t cpu, uint32_t encoding);

/* The guest that runs exits: the fields that hardware sets. Then nvmx_exit(vcpu, reason) is what a host calls. */
void machine_arm(struct machine *m, uint32_t cpu, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length);
/* For an EPT violation: gpa2. For an exception: interruption information. */
void machine_arm_address(struct machine *m, uint32_t cpu, uint64_t gpa2);
void machine_arm_event(struct machine *m, uint32_t cpu, uint32_t interruption_info);

/* Both; the answer must be NVMX_ENTER. */
void machine_exit(struct machine *m, uint32_t cpu, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length);

/* By a reflected CPUID; by VMRESUME with a new RIP. Nothing if it is so already. */
void machine_to_root(struct machine *m, uint32_t cpu);
void machine_to_l2(struct machine *m, uint32_t cpu);

/* Tables for `bytes` of L2's memory from gpa2 0 in pages of 1 << shift (12 or 21). Gives the EPTP. */
uint64_t machine_ept12(struct machine *m, uint64_t bytes, unsigned int shift);
/* The entry of ept12 for gpa2 at level 1 (4K) or 2 (2M). */
uint64_t *machine_ept12_entry(struct machine *m, uint64_t eptp12, uint64_t gpa2, unsigned int level);
/* L2 touches gpa2: an EPT violation that the library resolves. L2 runs. */
void machine_touch(struct machine *m, uint32_t cpu, uint64_t gpa2);
/* INVEPT single-context. L1 runs. */
void machine_invept(struct machine *m, uint32_t cpu, uint64_t eptp12);

static inline struct nvmx_vcpu *machine_vcpu(const struct machine *m, uint32_t cpu) {
    return m->sim[cpu]->vcpu;
}

/* Basic exit reasons. */
enum {
    EXIT_EXCEPTION = 0,
    EXIT_CPUID = 10,
    EXIT_HLT = 12,
    EXIT_VMCALL = 18,
    EXIT_VMCLEAR = 19,
    EXIT_VMPTRLD = 21,
    EXIT_VMPTRST = 22,
    EXIT_VMREAD = 23,
    EXIT_VMRESUME = 24,
    EXIT_VMWRITE = 25,
    EXIT_CR_ACCESS = 28,
    EXIT_IO = 30,
    EXIT_RDMSR = 31,
    EXIT_WRMSR = 32,
    EXIT_EPT_VIOLATION = 48,
    EXIT_INVEPT = 50,
    EXIT_INVVPID = 53,
};

/* Instruction information: operand in memory at SIM_L1_OPERAND, INVEPT's type in RCX, VMREAD's encoding in RCX and value in RBX. */
#define INFO_MEMORY (2u << 7 | 3u << 15 | 1u << 22 | 1u << 27)
#define INFO_TYPE_RCX (1u << 28)
#define INFO_REGISTERS (1u << 28 | 1u << 10 | 3u << 3)

#endif
