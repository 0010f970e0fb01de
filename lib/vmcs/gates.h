/* SPDX-License-Identifier: MIT */
/* Internal: MSRs and registers that VMCS controls switch between L1 and L2, and what is known of those that the host watches. Included by vcpu.h. */
#ifndef NVMX_LIB_VMCS_GATES_H
#define NVMX_LIB_VMCS_GATES_H

#include <nvmx/vmcs.h>

/* Room for all of enum GATE_. */
#define GATES_MAX 24

/*
 * MSRs and registers that VMCS controls switch between L1 and L2 (SDM 29.3.2.1, 30.3.1, 30.5.1). From GATE_RTIT_CTL on
 * they are the host's alone: L1 is not offered the controls, and L2 has what L1 has.
 */
struct gate {
    uint8_t guest;      /* slot */
    uint8_t host;       /* slot; equal to `guest`: none, a VM exit that loads it clears it */
    uint8_t entry_load; /* bit of the VM-entry controls */
    uint8_t exit_save;  /* bit of the VM-exit controls; 0xff: every exit saves it */
    uint8_t exit_load;  /* bit of exit_controls(); 0xff: none */
    uint32_t msr;       /* 0: not an MSR */
};
enum {
    GATE_DEBUGCTL = 0,
    GATE_DR7,
    GATE_PAT,
    GATE_EFER,
    GATE_PERF_GLOBAL_CTRL,
    GATE_BNDCFGS,
    GATE_LBR_CTL,
    GATE_PKRS,
    GATE_UINV,
    GATE_S_CET,
    GATE_SSP,
    GATE_INTERRUPT_SSP_TABLE,
    GATE_SPEC_CTRL,
    GATE_RTIT_CTL,
    GATE_FRED_CONFIG,
    GATE_FRED_RSP1,
    GATE_FRED_RSP2,
    GATE_FRED_RSP3,
    GATE_FRED_STKLVLS,
    GATE_FRED_SSP1,
    GATE_FRED_SSP2,
    GATE_FRED_SSP3,
    GATE_COUNT
};
extern const struct gate gates[GATE_COUNT];
_Static_assert(GATE_COUNT <= GATES_MAX, "arrays by gate");

struct nvmx_vcpu;
struct vmcs12;
/*
 * Does vmcs02 load this MSR from its field, for L1, while vmcs01 does not? Then the host knows the MSR alone: who writes it for L2 lets the field of vmcs02,
 * which is selected, follow. Of other MSRs merge_follow_msr does nothing. merge_gate_msr: can there be a vmcs12 of which that is so?
 */
bool merge_loads_msr(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index);
enum nvmx_status merge_follow_msr(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t index, uint64_t value);
bool merge_gate_msr(uint32_t index);
/* May vmcs02 have this value of it? What only the host knows of the MSR its msr_write refuses. */
bool merge_msr_enters(const struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value);

/* Those that a host may watch. */
#define GATES_WATCHED ((1u << GATE_PAT) | (1u << GATE_EFER))

/*
 * MSRs of the guest that only the library changes, or the host, which then says so (nvmx_vcpu_config.watches_msrs): IA32_SYSENTER_CS, _ESP and _EIP, and of
 * IA32_PAT and IA32_EFER those that vmcs01 loads. vmcs12.watched_stand and .inherited_same tell of each vmcs12 what follows.
 */
#define WATCHED_MSRS 5
struct watched {
    bool on;
    bool known;                   /* vmcs01's are value[], but for IA32_EFER.LMA; and the vmcs02 that runs has its own as its last entry left them */
    uint64_t value[WATCHED_MSRS]; /* in the order above */
};

#endif
