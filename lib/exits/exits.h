/* SPDX-License-Identifier: MIT */
/* Internal to lib/exits. */
#ifndef NVMX_LIB_EXITS_H
#define NVMX_LIB_EXITS_H

#include <nvmx/exits.h>

#include "vcpu.h"

#define VECTOR_PAGE_FAULT 14u
#define VECTOR_ALIGNMENT  17u

/* What is valid on an exit. */
#define INFO_Q (1u << 0)
#define INFO_L (1u << 1)
#define INFO_P (1u << 2)
#define INFO_V (1u << 3)
#define INFO_O (1u << 4)
#define INFO_N (1u << 5)
#define INFO_I (1u << 6)
#define INFO_D (1u << 7)
/*
 * Follows from the others: nothing but an instruction causes the exit, in place of what it would do (SDM 28.1, 28.2). Those that an instruction or the
 * delivery of an event may cause say which by IDT-vectoring information; the length of an instruction alone comes with no others. None that L1 gets in
 * another's place is so.
 */
#define INFO_INSTRUCTION (1u << 8)
#define INFORMATION(given) ((given) | (((given) & (INFO_N | INFO_O)) == INFO_N ? INFO_INSTRUCTION : 0))

/* Exit-reason bit 26 (SDM 27.9.1): L2 locked the bus before. */
#define REASON_BUS_LOCK (1u << 26)

/* Exit qualification, of EPT violations and of a full page-modification log alike (SDM 30.2.1). */
#define QUALIFICATION_NMI_UNBLOCKING (1u << 12)
#define QUALIFICATION_ASYNCHRONOUS (1u << 16)

/* What violation_of_l2 reads, in struct violation. */
enum {
    VIOLATION_QUALIFICATION,
    VIOLATION_LINEAR_ADDRESS,
    VIOLATION_GPA2,
    VIOLATION_VECTORING_INFO,
    VIOLATION_INSTRUCTION_LENGTH,
    VIOLATION_VALUES
};
_Static_assert(sizeof(((struct violation *)0)->value) == VIOLATION_VALUES * sizeof(uint64_t), "a place for each");

enum exit_who {
    WHO_HOST = 0,
    WHO_ALWAYS,
    WHO_PIN,
    WHO_PRIMARY,
    WHO_SECONDARY,
    WHO_TERTIARY,
    WHO_ENABLED,
    WHO_LEAF,
    WHO_EXCEPTION,
    WHO_INTERRUPT,
    WHO_CONTROL_REGISTER,
    WHO_IO,
    WHO_MSR_READ,
    WHO_MSR_WRITE,
    WHO_MSR_LIST_READ,
    WHO_MSR_LIST_WRITE,
    WHO_MSR_READ_IMMEDIATE,
    WHO_MSR_WRITE_IMMEDIATE,
    WHO_USER_MSR,
    WHO_ENTRY_FAILURE,
    WHO_PAUSE,
    WHO_EPT,
    WHO_APIC_WRITE,
    WHO_MONITOR_TRAP,
    WHO_XSS,
    WHO_VM_FUNCTION,
    WHO_EOI,
    WHO_TIMEOUT,
    WHO_SHADOW_VMCS,
    WHO_EPT_VPID,
};

struct exit_row {
    uint8_t who; /* enum exit_who */
    uint8_t bit;
    uint16_t information; /* INFO_ bits */
};

/* The row of a basic reason; NULL if the table does not know it. */
const struct exit_row *exit_row(uint32_t basic_reason);

/* Who gets an exit of L2. */
enum route {
    ROUTE_HOST = 0,
    ROUTE_L1,
    ROUTE_AGAIN,  /* dealt with: enter L2 again, which does the same once more */
    ROUTE_DONE,   /* carried out for L2, or turned into an exception of L2: enter it */
    ROUTE_FAILED, /* a callback failed */
};

/* Decide about an exit. *info may be corrected for L1 (an EPT violation's qualification). */
enum route exit_route(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, const struct exit_row *row,
                      struct nvmx_l2_exit_info *info);
/* The same of one that did not happen: the host asks about an instruction that it emulates. Nothing is changed. */
enum route exit_route_asked(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, const struct exit_row *row,
                            struct nvmx_l2_exit_info *info);

/* Nothing comes with an exit of L2 that has to be told or taken back: no bus lock, and no timer or window that vmcs02 has and vmcs12 has not. */
static inline bool l2_alone_exits(const struct nvmx_vcpu *vcpu) {
    return !vcpu->bus_lock && !vcpu->timer_forced && vcpu->window_requested == 0;
}

/* L2 has run since the entry. */
static inline void entry_is_over(struct nvmx_vcpu *vcpu) {
    vcpu->entry_pending = false;
    vcpu->launching = false;
}

/* An access to an MSR which went to the host before: does it again? False: exit_route knows. */
bool route_msr_is_hosts(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct msr_access *access);

/* Does L1 intercept this exception of L2 (SDM 28.2)? */
bool exception_exits_to_l1(const struct vmcs12 *v, const struct nvmx_l2_exit_info *info);

/* What lib/ept says of an access of L2: *info becomes what L1 gets. */
enum route route_ept_verdict(struct nvmx_vcpu *vcpu, struct vmcs12 *v, enum nvmx_ept_verdict verdict,
                             const struct nvmx_ept_fault *fault, struct nvmx_l2_exit_info *info);
/* ept12 as it acts for L2. If L1 logs, `log` is filled in and used, and vmcs12's index follows it; else it is not touched. */
struct nvmx_ept_access ept12_of(const struct vmcs12 *v, struct nvmx_ept_log *log);

/*
 * A fault of L2 that the library found (exception.c): L2 gets it, or L1 the exit that its exception bitmap asks for, and *info says which.
 * CR2 does not know of a page fault that exits. RFLAGS.RF is set.
 */
struct l1_fault;
enum route route_fault(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct l1_fault *fault,
                       struct nvmx_l2_exit_info *info);
/* An alignment check that L1 intercepts: the host's after all? */
enum route route_alignment_check(struct nvmx_vcpu *vcpu);
/* INVEPT and INVVPID of L2: an exit of L1's if L1's processor has the instruction by this bit of IA32_VMX_EPT_VPID_CAP, else #UD. */
enum route route_if_offered(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, unsigned int ept_vpid_bit,
                            struct nvmx_l2_exit_info *info, bool hardware);
/* The instruction of L2 that exited is to be executed once more, or has faulted (SDM 19.3.1.1). */
enum nvmx_status l2_set_rf(struct nvmx_vcpu *vcpu);

/* VMREAD and VMWRITE of L2 (shadow_vmcs.c). */
enum route route_shadow_vmcs(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, struct nvmx_l2_exit_info *info,
                             bool hardware);

/* RDMSR or WRMSR of IA32_SPEC_CTRL, which L1 virtualizes and does not intercept (spec_ctrl.c). */
enum route route_spec_ctrl(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct exit_row *row,
                           struct nvmx_l2_exit_info *info);
/* WRMSR, which L1 does not intercept, where merge_loads_msr. */
enum route route_loaded_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct exit_row *row, struct nvmx_l2_exit_info *info);

/* A merge or a switch of the EPTP of the current vmcs12 failed only since other vCPUs hold for a moment what its root is to be made of. Asked once. */
bool room_will_come(struct nvmx_vcpu *vcpu);

/* VMFUNC of L2 (vmfunc.c). */
enum route route_vm_function(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool hardware);

/*
 * An EPT violation that ept12 causes, in the form that L1 gets, and that its entries allow to convert: deliver it to L2
 * as an exception if everything else allows that too (virtualization_exception.c). ROUTE_L1: it is a VM exit after all,
 * and *info says which.
 */
enum route convert_violation(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct nvmx_l2_exit_info *info);

/* Nothing is valid yet. Member by member: a compiler would fill so small a struct by a string instruction. */
static inline void exit_information_init(struct nvmx_l2_exit_info *info, uint32_t reason) {
    info->reason = reason;
    info->interruption_info = 0;
    info->interruption_error_code = 0;
    info->idt_vectoring_info = 0;
    info->idt_vectoring_error_code = 0;
    info->instruction_length = 0;
    info->instruction_info = 0;
    info->qualification = 0;
    info->guest_linear_address = 0;
    info->guest_physical_address = 0;
}
/* Read what is valid on the exit from the selected vmcs02. */
enum nvmx_status exit_information(struct nvmx_vcpu *vcpu, const struct exit_row *row, struct nvmx_l2_exit_info *info);
enum nvmx_status violation_information(struct nvmx_vcpu *vcpu, struct nvmx_l2_exit_info *info);

/* A bus lock that came with this exit, or before with one that L1 did not see: the exit reason as L1 would get it. */
uint32_t bus_lock_noted(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t reason);

/* L1 has no EPT, and an APIC-access page: before L2 runs on an EPTP01 with it that this processor may have used without it (enter.c). */
static inline bool has_apic_page_on_ept01(const struct vmcs12 *v) {
    return (secondary_controls(v) & (PROC2_EPT | PROC2_APIC_ACCESSES)) == PROC2_APIC_ACCESSES;
}
void entry_forgets_ept01(struct nvmx_vcpu *vcpu, const struct vmcs12 *v);

/* Give L1 an exit (reflect.c). vmcs02 is selected. */
enum nvmx_next reflect(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t information,
                       const struct nvmx_l2_exit_info *info);
/* L1's VM entry fails: exit reason 33 or 34 (SDM 29.8). `loaded`: vmcs02 was selected already. */
enum nvmx_next reflect_entry_failure(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, uint64_t qualification,
                                     bool loaded);

/*
 * The same where no exit of vmcs02 came before: the host found the exit, or has an event for L1. What was asked of
 * vmcs02 ends, and an event that it would inject is not known to be gone.
 */
enum nvmx_next reflect_without_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t information,
                                    const struct nvmx_l2_exit_info *info);

/* The event whose delivery an exit interrupted goes back into vmcs02, since L1 does not see the exit (event.c). */
enum nvmx_status event_requeue(struct nvmx_vcpu *vcpu, const struct exit_row *row,
                               const struct nvmx_l2_exit_info *info);
/* L1 gets the exit after all: L2's blocking of NMIs is as the exit found it. */
enum nvmx_status event_not_requeued(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info);
/* End what nvmx_enter asked of the selected vmcs02 for events of the host: its controls are what the merge made them
 * again. */
enum nvmx_status event_end(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same after an exit. *handled: the exit was only that. */
enum nvmx_status event_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, bool *handled);

#endif
