/* SPDX-License-Identifier: MIT */
/*
 * Words that every other header uses: status codes, address spaces, registers, what a host does next.
 *
 * Three kinds of addresses are never mixed; each variable says in its name which it holds:
 *   gpa1  physical address in L1's memory     gpa2  physical address in L2's memory
 *   hpa   physical address of the machine
 */
#ifndef NVMX_TYPES_H
#define NVMX_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define NVMX_BEGIN_C extern "C" {
#define NVMX_END_C }
#else
#define NVMX_BEGIN_C
#define NVMX_END_C
#endif

#if defined(__GNUC__) && defined(NVMX_SHARED)
#define NVMX_API __attribute__((visibility("default")))
#else
#define NVMX_API
#endif

#define NVMX_PAGE_SIZE 4096u

/* "No address": what the current-VMCS pointer and the VMCS link pointer hold when they name nothing. */
#define NVMX_NO_ADDRESS UINT64_MAX

/*
 * Outcome of a call into the library or out of it to the host. What the architecture answers to L1 (VMfail, a
 * fault, a VM exit) is never a status: it is a value of the operation.
 */
enum nvmx_status {
    NVMX_OK = 0,
    NVMX_E_INVALID,     /* an argument breaks the documented contract */
    NVMX_E_SIZE,        /* the caller's memory is too small, or a struct's size member is unknown */
    NVMX_E_UNMAPPED,    /* there is no memory at that address now */
    NVMX_E_NO_MEMORY,   /* the host's page allocator is exhausted */
    NVMX_E_DENIED,      /* the host refuses (an MSR access that must fault, a capability it does not grant) */
    NVMX_E_UNSUPPORTED, /* the host has no such service */
    NVMX_E_HOST,        /* the host failed for a reason of its own */
};

/* What the host does after nvmx_exit or nvmx_enter. */
enum nvmx_next {
    NVMX_ENTER = 0, /* enter the selected VMCS (again); the library dealt with the exit */
    NVMX_HOST,      /* the exit is the host's own business; the VMCS that exited is selected */
    NVMX_STOP,      /* the vCPU must not run any more, until it is reset or restored; nvmx_stop_reason says why */
};

/* Why a vCPU stopped (nvmx_stop_reason). */
enum nvmx_stop {
    NVMX_STOP_NONE = 0,
    NVMX_STOP_VMX_ABORT, /* SDM 30.7: L1 is in the VMX-abort shutdown state; the indicator is in its VMCS region */
    NVMX_STOP_SHUTDOWN,  /* L1 triple-faulted: what a restored state says; the exit itself is the host's */
    NVMX_STOP_HOST,      /* a callback failed where neither L1 nor L2 can go on (see nvmx_stop_status) */
};

/* Where the vCPU stands with VMX. */
enum nvmx_mode {
    NVMX_MODE_OFF = 0, /* L1 runs outside VMX operation */
    NVMX_MODE_ROOT,    /* L1 runs in (its) VMX root operation */
    NVMX_MODE_L2,      /* L2 runs */
};

/*
 * General-purpose registers in the order of the processor's register numbers: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15.
 * They belong to the host, which fills them after each exit and loads them before each entry, whether L1 or L2 runs
 * (VMX does not switch them). gpr[4] is not used: RSP lives in the VMCS.
 */
struct nvmx_regs {
    uint64_t gpr[16];
    uint64_t cr2; /* the guest's CR2; the library writes it when it gives L1 a page fault */
};

#define NVMX_RAX 0
#define NVMX_RCX 1
#define NVMX_RDX 2
#define NVMX_RBX 3
#define NVMX_RSP 4

NVMX_BEGIN_C

/* A status as text ("the host's page allocator is exhausted"); never NULL; static storage. */
NVMX_API const char *nvmx_status_text(enum nvmx_status status);

NVMX_END_C

#endif
