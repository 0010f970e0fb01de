/* SPDX-License-Identifier: MIT */
/*
 * Between blobs of nvmx/state.h and those of Linux's KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE (format 0, VMX; vmcs12 of revision
 * 11E57ED0H). Pure: no vCPU is needed.
 *
 * KVM keeps a part of the same state elsewhere (MSRs, events, L2's registers): struct nvmx_kvm_elsewhere is that part, and what has no
 * place on the other side at all is named. A VM whose L1 is to move to or from KVM must be made with nvmx_kvm_layout: L1's VMCS regions in
 * its memory are then KVM's too, and L1 is not offered what KVM has no place for.
 */
#ifndef NVMX_STATE_KVM_H
#define NVMX_STATE_KVM_H

#include <nvmx/state.h>

#define NVMX_KVM_REVISION 0x11e57ed0u
#define NVMX_KVM_STATE_HEADER 128u
#define NVMX_KVM_STATE_BYTES (NVMX_KVM_STATE_HEADER + 2 * 4096u) /* most that a blob of KVM has */

/* What nested state holds on our side and other ioctls carry on KVM's. Read by nvmx_state_from_kvm, filled by nvmx_state_to_kvm. */
struct nvmx_kvm_elsewhere {
    struct nvmx_caps caps;      /* what L1 sees: KVM_GET_MSRS of 480H-493H, CPUID */
    uint64_t feature_control;   /* KVM_GET_MSRS of 3AH: bits 0 and 2, the others are 0 here and the host's to carry */
    uint64_t l1_tsc;            /* read by both: L1's TSC at the moment of the blob, for KVM's timer deadline */
    /* Of L2, in guest mode only: */
    uint64_t efer;              /* KVM_GET_SREGS */
    uint64_t pat;               /* KVM_GET_MSRS of 277H */
    uint64_t debugctl;          /* 1D9H */
    uint64_t perf_global_ctrl;  /* 38FH */
    uint64_t dr7;               /* KVM_GET_DEBUGREGS */
    uint64_t pdpte[4];          /* PAE paging without EPT: KVM_GET_SREGS2 */
    uint32_t event_info;        /* what is to be injected, as VM-entry interruption information: of KVM_GET_VCPU_EVENTS what is "injected"; an
                                   exception that is "pending" L1 may intercept (nvmx_l1_intercepts) */
    uint32_t event_error_code;
    uint32_t event_length;
    uint32_t reserved;          /* 0 */
};

/* What the blob alone does not carry to the other side: bits. */
#define NVMX_KVM_ELSEWHERE_L1 1u      /* the capabilities and FEATURE_CONTROL are in *elsewhere */
#define NVMX_KVM_ELSEWHERE_L2 2u      /* so are some of L2's registers */
#define NVMX_KVM_ELSEWHERE_EVENT 4u   /* and an event for L2 */
#define NVMX_KVM_ELSEWHERE_REGIONS 8u /* other active VMCSs must be written into L1's memory: nvmx_state_kvm_region */
#define NVMX_KVM_LOST_REVISION 16u    /* L1 saw another revision identifier than KVM's: its regions will not be taken */
#define NVMX_KVM_LOST_FIELDS 32u      /* fields that the other side has no place for, not 0: see fields[] */
#define NVMX_KVM_LOST_STOP 64u        /* that L1's processor stopped: VMX abort or shutdown */
#define NVMX_KVM_LOST_SHADOW 128u     /* the shadow VMCS at L2's link pointer is not active, and no page of it was given */
#define NVMX_KVM_LOST_BUS_LOCK 256u   /* that L1 has yet to be told of a bus lock of L2 */
#define NVMX_KVM_NOTES 9u

#define NVMX_KVM_FIELDS 32u
struct nvmx_kvm_report {
    uint32_t notes;                    /* NVMX_KVM_ELSEWHERE_ and _LOST_ bits */
    uint32_t lost;                     /* fields lost in all */
    uint32_t fields[NVMX_KVM_FIELDS];  /* encodings of the first of them */
    struct nvmx_state_error error;     /* where our blob breaks a rule */
};

NVMX_BEGIN_C

/* KVM's layout of a VMCS region, for nvmx_vm_config.layout. */
NVMX_API void nvmx_kvm_layout(struct nvmx_vmcs12_layout *out);

/*
 * To KVM's form. `shadow`: the 4096 bytes of L1's memory at the current VMCS's link pointer, or NULL; only looked at if L2 runs with VMCS
 * shadowing and that region is not active. *used: bytes written to `kvm`. elsewhere->l1_tsc is read, all else in it written.
 * NVMX_E_INVALID: not a good blob (report->error); NVMX_E_SIZE.
 */
NVMX_API enum nvmx_status nvmx_state_to_kvm(const void *blob, size_t bytes, const void *shadow,
                                            struct nvmx_kvm_elsewhere *elsewhere, void *kvm, size_t room, size_t *used,
                                            struct nvmx_kvm_report *report);

/* The index-th active VMCS that is not in KVM's blob: its gpa1, and its region's 4096 bytes. False: there are no more. */
NVMX_API bool nvmx_state_kvm_region(const void *blob, size_t bytes, uint32_t index, uint64_t *gpa1, void *region);

/*
 * From KVM's form. NVMX_E_INVALID: KVM's blob is malformed, or what it holds breaks a rule of ours (report->error); NVMX_E_UNSUPPORTED:
 * another format, an enlightened VMCS, or SMM; NVMX_E_SIZE.
 */
NVMX_API enum nvmx_status nvmx_state_from_kvm(const void *kvm, size_t bytes, const struct nvmx_kvm_elsewhere *elsewhere, void *blob,
                                              size_t room, size_t *used, struct nvmx_kvm_report *report);

/* One bit of nvmx_kvm_report.notes in words; never NULL; static storage. */
NVMX_API const char *nvmx_kvm_note_text(uint32_t note);

NVMX_END_C

#endif
