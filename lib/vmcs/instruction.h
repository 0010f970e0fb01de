/* SPDX-License-Identifier: MIT */
/*
 * Internal: one VMX instruction of L1 on its way through the phases of the SDM's operation text (33.3).
 *
 * instruction.c drives the phases and completes the instruction; instruction_mode.c (VMXON, VMXOFF, VM entry, VMCALL),
 * instruction_vmcs.c (VMCLEAR to VMWRITE) and instruction_tlb.c (INVEPT, INVVPID) say what each one does.
 */
#ifndef NVMX_LIB_INSTRUCTION_H
#define NVMX_LIB_INSTRUCTION_H

#include "operand.h"

#define VECTOR_UD  6
#define VECTOR_GP0 13

/* How a phase ends. */
enum verdict_kind {
    GO_ON = 0,    /* the next phase */
    SUCCEED,      /* VMsucceed */
    FAIL_INVALID, /* VMfailInvalid */
    FAIL,         /* VMfail(number) */
    FAULT,        /* instruction.fault */
    RETRY,        /* nothing happened: L1 executes the instruction anew */
    STOP,         /* a callback failed and L1 can't go on: number is the enum nvmx_status */
    ENTERED,      /* L2 was entered, or refused, by enter_l2: number is the enum nvmx_next */
};

struct verdict {
    enum verdict_kind kind;
    uint32_t number;
};

#define VERDICT(...) ((struct verdict){__VA_ARGS__})

struct instruction;
typedef struct verdict (*instruction_phase)(struct instruction *);

enum operand_kind {
    OPERAND_NONE = 0,
    OPERAND_READ,     /* memory of operand_bytes is read into memory[] */
    OPERAND_WRITE,    /* memory of operand_bytes: instruction_store */
    OPERAND_RM_READ,  /* register or memory of the operand size is read into memory[0] */
    OPERAND_RM_WRITE, /* register or memory of the operand size: instruction_store */
};

/* A row of the table of instructions. */
struct instruction_row {
    uint8_t reason;
    uint8_t operand; /* enum operand_kind */
    uint8_t operand_bytes;
    bool has_reg2;
    bool outside_vmx;         /* legal outside VMX operation: VMXON */
    bool enters;              /* VM entry: RIP and length are not needed if it succeeds */
    uint8_t secondary_bit;    /* #UD unless IA32_VMX_PROCBASED_CTLS2 has this bit (0: any) ... */
    uint8_t ept_vpid_bit;     /* ... and IA32_VMX_EPT_VPID_CAP this one (0: any) */
    instruction_phase before; /* checks that come before the memory operand; or NULL */
    instruction_phase effect; /* checks after it, and the effect */
};

struct instruction {
    struct nvmx_vcpu *vcpu;
    const struct instruction_row *row;
    uint32_t vmcs; /* that executes it: vmcs01, or the vmcs02 of an instruction of L2 */
    /* from it */
    uint64_t rip;
    uint64_t rflags;
    uint64_t cr0; /* as L1 sees it; outside long mode and for VMXON only */
    uint64_t cr4; /* as L1 sees it; for VMXON only */
    uint32_t length;
    uint32_t cs_access_rights;
    uint32_t ss_access_rights;
    uint32_t interruptibility;
    bool rip_known; /* rip and length are valid */
    /* operands */
    struct nvmx_operand operand;
    struct l1_paging paging;
    uint64_t linear; /* of the memory operand */
    uint64_t reg2;   /* cut to the operand size */
    uint64_t memory[2];
    int slot; /* VMREAD, VMWRITE */
    bool high;
    struct l1_fault fault;
    struct batch *out; /* fields of vmcs01 that change when the instruction completes */
};

/* Size of register and r/m operands in bytes: 8 in 64-bit mode, else 4. */
uint32_t instruction_operand_bytes(const struct instruction *in);
/* Write a destination operand: GO_ON, FAULT, RETRY or STOP. */
struct verdict instruction_store(struct instruction *in, uint64_t value, uint32_t bytes);
struct verdict instruction_fault(struct instruction *in, int vector);

/* An instruction step by step; in->out, in->vmcs (selected) and in->paging.l2 are set. What exited is read. */
enum nvmx_status instruction_begin(struct nvmx_vcpu *vcpu, const struct instruction_row *row, struct instruction *in);
/* From the check of CPL on, until one of the phases ends it. */
struct verdict instruction_phases(struct instruction *in);
/* RIP moves on, and of the arithmetic flags those in set_flags are set (SDM 33.2). */
enum nvmx_status instruction_end(struct instruction *in, uint64_t set_flags);
/* After an instruction of L2, faults apart. vmcs02 is selected. */
enum nvmx_status l2_instruction_over(struct nvmx_vcpu *vcpu);
/* VMREAD, VMWRITE: the field that reg2 names, into slot and high. False: L1 has no such field. */
bool instruction_field(struct instruction *in);

/* The phases by instruction. */
struct verdict vmxon_before(struct instruction *in);
struct verdict vmxon_effect(struct instruction *in);
struct verdict vmxoff_effect(struct instruction *in);
struct verdict vmcall_effect(struct instruction *in);
struct verdict vmlaunch_effect(struct instruction *in);
struct verdict vmresume_effect(struct instruction *in);
struct verdict vmclear_effect(struct instruction *in);
struct verdict vmptrld_effect(struct instruction *in);
struct verdict vmptrst_effect(struct instruction *in);
struct verdict vmread_before(struct instruction *in);
struct verdict vmread_effect(struct instruction *in);
struct verdict vmwrite_before(struct instruction *in);
struct verdict vmwrite_effect(struct instruction *in);
struct verdict invept_before(struct instruction *in);
struct verdict invept_effect(struct instruction *in);
struct verdict invvpid_before(struct instruction *in);
struct verdict invvpid_effect(struct instruction *in);

/* Checks after the memory operand, and the effect, by the operand. */
struct verdict vmclear_region(struct nvmx_vcpu *vcpu, uint64_t gpa1);
struct verdict vmptrld_region(struct nvmx_vcpu *vcpu, uint64_t gpa1);

/* `index` if it is below `limit`, else 0, also while the processor speculates past the check that it is. */
static inline unsigned int instruction_clamp(unsigned int index, unsigned int limit) {
    uint64_t mask = (uint64_t)0 - (((uint64_t)index - limit) >> 63);
    __asm__("" : "+r"(mask));
    return index & (unsigned int)mask;
}

#define NVMX_REASON_VMCLEAR  19u
#define NVMX_REASON_VMLAUNCH 20u
#define NVMX_REASON_VMPTRLD  21u
#define NVMX_REASON_VMPTRST  22u
#define NVMX_REASON_VMREAD   23u
#define NVMX_REASON_VMRESUME 24u
#define NVMX_REASON_VMWRITE  25u
#define NVMX_REASON_VMXOFF   26u
#define NVMX_REASON_INVEPT   50u
#define NVMX_REASON_INVVPID  53u

/* Bits that the phases (instruction.c) and the short ways (instruction_fast.c) both look at. */

/* What vmcs01 says of an instruction that exited; each user needs a stretch of these, from the first on. */
enum base_field {
    BASE_SS_RIGHTS,
    BASE_CS_RIGHTS,
    BASE_ENTRY_CONTROLS,
    BASE_INTERRUPTIBILITY,
    BASE_RFLAGS,
    BASE_RIP,
    BASE_LENGTH,
    BASE_INFO,
    BASE_COUNT
};
/* For arrays that begin with them. */
#define BASE_ENCODINGS                                                                                                 \
    [BASE_SS_RIGHTS] = NVMX_VMCS_GUEST_SS_ACCESS_RIGHTS,                                                               \
    [BASE_CS_RIGHTS] = NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS,                                                               \
    [BASE_ENTRY_CONTROLS] = NVMX_VMCS_VM_ENTRY_CONTROLS,                                                               \
    [BASE_INTERRUPTIBILITY] = NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,                                                  \
    [BASE_RFLAGS] = NVMX_VMCS_GUEST_RFLAGS,                                                                            \
    [BASE_RIP] = NVMX_VMCS_GUEST_RIP,                                                                                  \
    [BASE_LENGTH] = NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH,                                                              \
    [BASE_INFO] = NVMX_VMCS_VM_EXIT_INSTRUCTION_INFORMATION
static const uint32_t instruction_base[BASE_COUNT] = {BASE_ENCODINGS};

/* After its effect: complete it as the verdict, which is no fault, says. vmcs01 is selected, or the verdict is STOP. */
enum nvmx_next instruction_conclude(struct nvmx_vcpu *vcpu, uint32_t basic_reason, struct verdict verdict);

/* VMXOFF the short way (instruction_fast.c), and its effect, after which vmcs01 is selected. */
enum nvmx_next instruction_vmxoff(struct nvmx_vcpu *vcpu);
enum nvmx_status vmx_off(struct nvmx_vcpu *vcpu);

/* In the phases of the SDM. */
enum nvmx_next instruction_in_phases(struct nvmx_vcpu *vcpu, uint32_t basic_reason);

#endif
