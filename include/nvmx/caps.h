/* SPDX-License-Identifier: MIT */
/*
 * VMX capabilities: what a CPU's MSRs say, and what L1 may see (SDM appendix A). Pure: no vCPU is needed.
 */
#ifndef NVMX_CAPS_H
#define NVMX_CAPS_H

#include <nvmx/types.h>

#define NVMX_MSR_FEATURE_CONTROL 0x3au
#define NVMX_MSR_VMX_FIRST       0x480u
#define NVMX_MSR_VMX_LAST        0x493u
#define NVMX_CAP_MSRS            (NVMX_MSR_VMX_LAST - NVMX_MSR_VMX_FIRST + 1)

/* Places in nvmx_caps.msr: MSR index - 480H. */
enum nvmx_cap {
    NVMX_CAP_BASIC = 0x00,
    NVMX_CAP_PINBASED = 0x01,
    NVMX_CAP_PROCBASED = 0x02,
    NVMX_CAP_EXIT = 0x03,
    NVMX_CAP_ENTRY = 0x04,
    NVMX_CAP_MISC = 0x05,
    NVMX_CAP_CR0_FIXED0 = 0x06,
    NVMX_CAP_CR0_FIXED1 = 0x07,
    NVMX_CAP_CR4_FIXED0 = 0x08,
    NVMX_CAP_CR4_FIXED1 = 0x09,
    NVMX_CAP_VMCS_ENUM = 0x0a,
    NVMX_CAP_PROCBASED2 = 0x0b,
    NVMX_CAP_EPT_VPID = 0x0c,
    NVMX_CAP_TRUE_PINBASED = 0x0d,
    NVMX_CAP_TRUE_PROCBASED = 0x0e,
    NVMX_CAP_TRUE_EXIT = 0x0f,
    NVMX_CAP_TRUE_ENTRY = 0x10,
    NVMX_CAP_VMFUNC = 0x11,
    NVMX_CAP_PROCBASED3 = 0x12,
    NVMX_CAP_EXIT2 = 0x13,
};

/* Facts about the CPU that entry checks need and that no VMX MSR tells. */
#define NVMX_CPU_LONG_MODE      (1u << 0) /* Intel 64 */
#define NVMX_CPU_LA57           (1u << 1) /* 57-bit linear addresses */
#define NVMX_CPU_SGX            (1u << 2)
#define NVMX_CPU_RTM            (1u << 3)
#define NVMX_CPU_FRED           (1u << 4)
#define NVMX_CPU_BUS_LOCK_DEBUG (1u << 5)
#define NVMX_CPU_NX             (1u << 6) /* EFER.NXE exists */
#define NVMX_CPU_SYSCALL        (1u << 7) /* EFER.SCE exists */
#define NVMX_CPU_UINTR          (1u << 8)
#define NVMX_CPU_LAM            (1u << 9) /* linear-address masking: CR3 bits 62:61, CR4.LAM_SUP */

/* Capabilities as one processor (the machine's, or the one that L1 sees) reports them. */
struct nvmx_caps {
    uint64_t msr[NVMX_CAP_MSRS];     /* IA32_VMX_BASIC ...; 0 where an MSR does not exist */
    uint64_t feature_control;        /* IA32_FEATURE_CONTROL */
    uint64_t debugctl_valid;         /* bits of IA32_DEBUGCTL that may be 1 */
    uint64_t perf_global_ctrl_valid; /* bits of IA32_PERF_GLOBAL_CTRL that may be 1 */
    uint64_t spec_ctrl_valid;        /* bits of IA32_SPEC_CTRL that may be 1 */
    uint64_t rtit_ctl_valid;         /* bits of IA32_RTIT_CTL that may be 1 */
    uint64_t lbr_ctl_valid;          /* bits of IA32_LBR_CTL that may be 1 */
    uint8_t physical_address_bits;   /* CPUID.80000008H:EAX[7:0], as reduced by TME */
    uint8_t reserved[3];             /* 0 */
    uint32_t cpu;                    /* NVMX_CPU_ bits */
};

/* Why a bit of the machine's capabilities is not offered to L1. */
enum nvmx_cap_reason {
    NVMX_CAP_OFFERED = 0,
    NVMX_CAP_NOT_ON_CPU,   /* the machine does not have it */
    NVMX_CAP_NOT_EMULATED, /* the library can't emulate or compose it (yet) */
    NVMX_CAP_HOST_MASKED,  /* the host's mask took it away */
    NVMX_CAP_DEPENDENCY,   /* it needs something that is not offered */
};

NVMX_BEGIN_C

/*
 * Compute what L1 may see: for each bit, machine AND emulated AND mask, with dependent bits kept consistent.
 *
 * `machine` is the real CPU. `mask` is the most that the host grants, in the same form (allowed-1 halves of the plain
 * MSRs, EPT/VPID bits, MISC bits; CR0_FIXED1 and CR4_FIXED1 unless 0: bits of CR0 and CR4 that the host keeps from L1; other
 * parts are ignored), or NULL: all that is emulated. Controls that the machine forces to 1 are granted in any case.
 *
 * `out` may be `machine`. Its feature_control is what L1's firmware left: locked, with VMXON allowed outside SMX. Facts
 * that no VMX MSR tells are the machine's.
 *
 * NVMX_OK, or NVMX_E_UNSUPPORTED if the machine has no VMX (machine->msr[0] == 0) or forces a control to 1 that the
 * library can't emulate or that needs something that L1 is not offered, as the host's mask took it away.
 */
NVMX_API enum nvmx_status nvmx_caps_for_l1(const struct nvmx_caps *machine, const struct nvmx_caps *mask,
                                           struct nvmx_caps *out);

/*
 * Are `wanted` capabilities a valid subset of `possible`, as when a host restores what L1 saw before? They must also be
 * consistent in themselves (no bit without what it needs). NVMX_OK, or NVMX_E_DENIED with the index of the first
 * offending MSR in *msr (may be NULL): 480H-493H, or the MSR whose valid bits are too many, or 0 for the address width
 * or the NVMX_CPU_ bits. Both feature_control are ignored: they are state.
 */
NVMX_API enum nvmx_status nvmx_caps_check_subset(const struct nvmx_caps *wanted, const struct nvmx_caps *possible,
                                                 uint32_t *msr);

/* One row of the table of capability bits (vmx_msrs.def). */
struct nvmx_cap_bit {
    uint16_t msr;     /* 480H... */
    uint8_t bit;      /* 0-63, as it stands in the MSR (allowed-1 half for controls); the lowest bit of a field */
    uint8_t width;    /* bits: 1, or more for a field that holds a number */
    uint8_t emulated; /* 1: the library offers it when the machine has it */
    const char *name; /* SDM name; static storage */
    const char *why;  /* if not emulated: the reason in words, else NULL */
};

/* The rows, in order; NULL past the last. */
NVMX_API const struct nvmx_cap_bit *nvmx_cap_bit(size_t row);

/*
 * Why `l1` (made from machine and mask) lacks the bit of this row, or NVMX_CAP_OFFERED. NVMX_CAP_NOT_ON_CPU past the
 * last row.
 */
NVMX_API enum nvmx_cap_reason nvmx_cap_bit_reason(size_t row, const struct nvmx_caps *machine,
                                                  const struct nvmx_caps *mask, const struct nvmx_caps *l1);

/*
 * Must-be-1 bits of a control field as they really are (TRUE MSRs where BASIC[55]=1), and may-be-1 bits. `which` is the
 * plain MSR of a control field; of the 64-bit ones (tertiary, secondary exit, VM functions) the low 32 controls.
 */
NVMX_API uint32_t nvmx_caps_must_be_1(const struct nvmx_caps *caps, enum nvmx_cap which);
NVMX_API uint32_t nvmx_caps_may_be_1(const struct nvmx_caps *caps, enum nvmx_cap which);

/* Canonical for the CPU's linear-address width. */
NVMX_API bool nvmx_is_canonical(const struct nvmx_caps *caps, uint64_t linear);

/* Is `value` a legal CR0 (cr = 0) or CR4 (cr = 4) in VMX operation (SDM 25.8)? `unrestricted` exempts CR0.PE and PG. */
NVMX_API bool nvmx_cr_fixed_ok(const struct nvmx_caps *caps, unsigned int cr, uint64_t value, bool unrestricted);

NVMX_END_C

#endif
