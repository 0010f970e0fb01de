/* SPDX-License-Identifier: MIT */
/*
 * Traces: one record of fixed size per exit, transition and refusal, for nvmx_host.trace. A host stamps records with its clock and keeps
 * them; in a file they stand behind a struct nvmx_trace_header, and `nvmx trace` prints them. All numbers are little-endian.
 *
 * Each nvmx_exit makes exactly one record, but of a vCPU that has stopped none. nvmx_enter, nvmx_l2_exit, nvmx_entry_refused and nvmx_vmcall make one
 * where L1 gets an exit or a refusal.
 */
#ifndef NVMX_TRACE_H
#define NVMX_TRACE_H

#include <nvmx/types.h>

#define NVMX_TRACE_VERSION 1u
#define NVMX_TRACE_MAGIC "NVMXTRCE"

/* What a record is about; what `reason` and `detail` are there. */
enum nvmx_trace_event {
    NVMX_TRACE_ENTER_L2 = 1, /* L2 is on. reason: exit reason of VMLAUNCH or VMRESUME; detail: L2's RIP if known, else 0 */
    NVMX_TRACE_REFLECT,      /* L1 gets an exit of L2. reason: exit reason; detail: exit qualification */
    NVMX_TRACE_EXIT,         /* an exit that changes no mode. reason: exit reason as hardware gave it; detail: 0 */
    NVMX_TRACE_VMFAIL,       /* reason: VM-instruction error (0: VMfailInvalid); detail: 0 */
    NVMX_TRACE_ENTRY_FAIL,   /* reason: exit reason without bit 31; detail: exit qualification */
    NVMX_TRACE_FAULT,        /* a VMX instruction of L1 gives a fault. reason: vector; detail: error code */
    NVMX_TRACE_STOP,         /* the vCPU stopped. reason: exit reason of the exit before; detail: enum nvmx_stop */
};

/* Who deals with it. */
enum nvmx_trace_handler {
    NVMX_TRACE_BY_HOST = 0,
    NVMX_TRACE_BY_LIBRARY,
    NVMX_TRACE_BY_L1,
    NVMX_TRACE_BY_L2, /* NVMX_TRACE_ENTER_L2 */
};

struct nvmx_trace_record {
    uint64_t time;       /* 0: the host's callback writes its clock here */
    uint64_t vmcs12;     /* gpa1 of the current VMCS; NVMX_NO_ADDRESS: none */
    uint64_t detail;
    uint32_t reason;
    uint32_t number;     /* records of this vCPU before this one; wraps */
    uint32_t interruption_info; /* NVMX_TRACE_REFLECT: VM-exit interruption information; else 0 */
    uint16_t vcpu;       /* nvmx_vcpu_config.id */
    uint16_t check_row;  /* the rule of VM entry that was broken (nvmx_check_row), or NVMX_CHECK_NONE */
    uint16_t callbacks;  /* calls, but for `trace`, since the vCPU's record before; 65535: as many or more. So the two that follow */
    uint16_t vmreads;    /* fields read by vmcs_read */
    uint16_t vmwrites;
    uint8_t version;     /* NVMX_TRACE_VERSION */
    uint8_t event;       /* enum nvmx_trace_event */
    uint8_t level;       /* who ran before: 1 L1, 2 L2 */
    uint8_t handler;     /* enum nvmx_trace_handler */
    uint8_t reserved[14]; /* 0 */
};

struct nvmx_trace_header {
    uint8_t magic[8];          /* NVMX_TRACE_MAGIC */
    uint32_t version;          /* NVMX_TRACE_VERSION */
    uint32_t record_bytes;     /* sizeof(struct nvmx_trace_record) */
    uint64_t ticks_per_second; /* of `time`; 0: not known */
    uint64_t lost;             /* records that the host dropped, all of them older than the first in the file */
    uint32_t check_rows;       /* rows that the library which wrote it has: check_row counts in another order if they differ */
    uint32_t reserved[7];      /* 0 */
};

#ifndef __cplusplus
_Static_assert(sizeof(struct nvmx_trace_record) == 64, "the records of a file");
_Static_assert(sizeof(struct nvmx_trace_header) == 64, "the header of a file");
#endif

NVMX_BEGIN_C

/* The header of a file of this library's records. Pure; any thread. */
NVMX_API void nvmx_trace_header_init(struct nvmx_trace_header *out, uint64_t ticks_per_second, uint64_t lost);

/* An event or a handler in words; never NULL; static storage. */
NVMX_API const char *nvmx_trace_event_text(uint32_t event);
NVMX_API const char *nvmx_trace_handler_text(uint32_t handler);

NVMX_END_C

#endif
