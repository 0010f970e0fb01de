/* SPDX-License-Identifier: MIT */
/*
 * The nested state of a vCPU as a portable blob: for saving, checkpoints, and moving between machines. lib/STATE.md describes the format
 * bit by bit.
 *
 * A blob holds what L1 can't find in its own memory: whether it is in VMX operation, the VMCSs that are active on its processor, and, if
 * L2 runs, L2's state as the processor has it. All else is the host's to carry: L1's memory, general registers, CR2, MSRs, FPU, the TSC,
 * pending events (that of vmcs01's VM-entry fields, too; what vmcs02 is to inject is in the blob), and vmcs01's guest state (of which VMCS link pointer and
 * vmcs02s are the library's).
 *
 * An SMI takes L1's processor out of VMX operation, or out of L2, until RSM (SDM 34.14): a host that gives L1 SMM saves, calls nvmx_vcpu_reset, which is
 * neither INIT nor RESET then, runs the handler in vmcs01, and restores with RSM.
 *
 * Save where the next thing would be nvmx_enter: the exit before was dealt with. A blob is hostile input to whoever gets it: everything
 * in it is checked, and one that breaks a rule is refused whole.
 */
#ifndef NVMX_STATE_H
#define NVMX_STATE_H

#include <nvmx/nvmx.h>

#define NVMX_STATE_VERSION 1u

/* Why a blob is refused. */
enum nvmx_state_reason {
    NVMX_STATE_OK = 0,
    NVMX_STATE_TRUNCATED,      /* shorter than it says, or than anything can be; or not a multiple of 8 bytes */
    NVMX_STATE_MAGIC,          /* not a blob of this kind */
    NVMX_STATE_VERSION_NEWER,  /* of a version that this library does not know */
    NVMX_STATE_CHECKSUM,       /* damaged */
    NVMX_STATE_RESERVED,       /* bits that must be 0 are not */
    NVMX_STATE_RECORD,         /* a record's length or place is wrong, or there are too many of its kind */
    NVMX_STATE_UNKNOWN_RECORD, /* of a kind that must be understood; detail: its tag */
    NVMX_STATE_MISSING_RECORD, /* detail: the tag */
    NVMX_STATE_UNKNOWN_ITEM,   /* detail: its id */
    NVMX_STATE_ITEM_ORDER,     /* ids do not ascend */
    NVMX_STATE_ITEM_VALUE,     /* out of range; detail: the id */
    NVMX_STATE_NO_SUCH_FIELD,  /* not a VMCS field, or not one of the CPU that L1 saw; detail: the encoding */
    NVMX_STATE_FIELD_WIDTH,    /* a value wider than the field; detail: the encoding */
    NVMX_STATE_FIELD_MISSING,  /* of those that L2's state consists of; detail: the encoding */
    NVMX_STATE_FIELD_EXTRA,    /* a field that L2's state does not have; detail: the encoding */
    NVMX_STATE_PROFILE,        /* the capabilities that L1 saw contradict themselves; detail: the MSR */
    NVMX_STATE_CAPABILITIES,   /* this VM does not offer what L1 saw; detail: the first MSR that says so, or 0 */
    NVMX_STATE_EXPOSE,         /* L1 saw VMX and this VM does not expose it, or the other way round */
    NVMX_STATE_MODE,           /* what there is does not fit the mode */
    NVMX_STATE_POINTER,        /* VMXON or VMCS pointer: misaligned, too wide */
    NVMX_STATE_DUPLICATE,      /* the same region twice */
    NVMX_STATE_NO_CURRENT,     /* the current VMCS is not among those that are there, or L2 runs without one */
    NVMX_STATE_TOO_MANY,       /* more active VMCSs than this vCPU has vmcs02 slots; detail: how many */
    NVMX_STATE_ENTRY_CHECK,    /* L2 could not have been entered like this; check_row says which rule of SDM 29 */
    NVMX_STATE_REASON_COUNT,
};

struct nvmx_state_error {
    enum nvmx_state_reason reason;
    uint16_t check_row;  /* for NVMX_STATE_ENTRY_CHECK: nvmx_check_row; else NVMX_CHECK_NONE */
    uint16_t reserved;
    uint32_t detail;     /* as the reason says, else 0 */
    uint64_t offset;     /* in the blob: of the record or item that breaks the rule */
};

/* A record of a blob. */
#define NVMX_STATE_TAG_PROFILE 1u /* items: MSR index, value */
#define NVMX_STATE_TAG_VCPU 3u    /* items: NVMX_STATE_VCPU_, value */
#define NVMX_STATE_TAG_VMCS 5u    /* gpa1, flags; items: encoding, value */
#define NVMX_STATE_TAG_L2 7u      /* flags, 0; items: encoding, value */

/* Ids of a profile's items that are no MSR indexes. */
#define NVMX_STATE_PROFILE_CPU 0x40000000u          /* NVMX_CPU_ bits */
#define NVMX_STATE_PROFILE_ADDRESS_BITS 0x80000008u /* physical-address width */

#define NVMX_STATE_VCPU_MODE 1u            /* enum nvmx_mode */
#define NVMX_STATE_VCPU_STOP 2u            /* enum nvmx_stop */
#define NVMX_STATE_VCPU_FEATURE_CONTROL 3u
#define NVMX_STATE_VCPU_VMXON_POINTER 4u   /* gpa1; not there outside VMX operation */
#define NVMX_STATE_VCPU_CURRENT 5u         /* gpa1 of the current VMCS; not there if none is */

#define NVMX_STATE_VMCS_LAUNCHED 1u
#define NVMX_STATE_VMCS_SHADOW 2u /* L1 marked it as a shadow VMCS (SDM 27.10) */

#define NVMX_STATE_L2_ENTRY_PENDING 1u /* L1 executed VMLAUNCH or VMRESUME, and L2 has not run since */
#define NVMX_STATE_L2_LAUNCHING 2u     /* it was VMLAUNCH */
#define NVMX_STATE_L2_IA32E 4u         /* EFER.LMA of L2 */
#define NVMX_STATE_L2_BUS_LOCK 8u      /* L2 locked the bus, and L1 has not heard of it yet */

struct nvmx_state_record {
    uint32_t tag;
    uint32_t items;        /* how many */
    uint64_t head[2];      /* the two words before the items; 0 for those records that have none */
    const void *first;     /* the first item: id (4 bytes), 0 (4 bytes), value (8 bytes) */
    uint64_t offset;       /* of the record in the blob */
};

NVMX_BEGIN_C

/* A reason in words; never NULL; static storage. */
NVMX_API const char *nvmx_state_reason_text(enum nvmx_state_reason reason);

/* Bytes that are enough for any state of this vCPU, at any time. */
NVMX_API size_t nvmx_state_size(const struct nvmx_vcpu *vcpu);

/*
 * Save into `blob` (any alignment); *used: how many bytes. The vCPU goes on as if nothing had happened; L1's memory is neither read nor
 * written; real VMCSs are read. NVMX_E_SIZE: too little memory; NVMX_E_HOST: the vCPU stopped because a callback failed, and its state is
 * not known; else the status of a callback that failed.
 */
NVMX_API enum nvmx_status nvmx_state_save(struct nvmx_vcpu *vcpu, void *blob, size_t bytes, size_t *used);

/*
 * Would this vCPU take the blob? `vcpu` may be NULL: is it a good blob for any VM that offers what its L1 saw? Reads nothing but its
 * arguments. *error (may be NULL) says more. `bytes` may be more than the blob has: what follows it is not looked at.
 */
NVMX_API enum nvmx_state_reason nvmx_state_check(const void *blob, size_t bytes, const struct nvmx_vcpu *vcpu,
                                                 struct nvmx_state_error *error);

/*
 * Restore, or refuse and change nothing. What the vCPU was before is forgotten without writing it to L1's memory, whose contents may be others now: L2
 * runs on no translation from before. Between the call and the
 * next nvmx_enter or nvmx_state_complete the vCPU must not run, nor be given an exit; in that time the host restores vmcs01's guest state,
 * registers and MSRs of the same moment, and `regs` are L2's if L2 runs. L1 sees the capabilities of this VM: to give it exactly those that
 * it saw before, make the VM with nvmx_state_profile's answer as nvmx_vm_config.exact.
 */
NVMX_API enum nvmx_state_reason nvmx_state_restore(struct nvmx_vcpu *vcpu, const void *blob, size_t bytes,
                                                   struct nvmx_state_error *error);

/*
 * The second step: real VMCSs are written, pages that L2's vmcs02 uses are taken. nvmx_enter does it if it was not done, and stops the
 * vCPU where it fails; a host that may not have L1's pages yet calls this, and again after a failure. No effect at any other time.
 * NVMX_E_UNSUPPORTED: L2 has a DR7, CET state or UINV other than after a reset, which vmcs01's VM-entry controls loaded where it comes from and don't here.
 */
NVMX_API enum nvmx_status nvmx_state_complete(struct nvmx_vcpu *vcpu);

/* What L1 saw when the blob was saved. False: it is no good blob, or L1 saw no VMX. */
NVMX_API bool nvmx_state_profile(const void *blob, size_t bytes, struct nvmx_caps *out);

/* The record at *offset (0: the first), for tools. *offset moves to the next. False at the end or if what is there is no record. */
NVMX_API bool nvmx_state_next(const void *blob, size_t bytes, uint64_t *offset, struct nvmx_state_record *out);

NVMX_END_C

#endif
