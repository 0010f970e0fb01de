/* SPDX-License-Identifier: MIT */
/* What a VM exit says, reduced to the fields that the SDM defines for it (SDM vol. 3C, 30.2). */
#ifndef L1_EXIT_H
#define L1_EXIT_H

#include <stdbool.h>
#include <stdint.h>

#define ENTRY_FAILURE 0x80000000u

enum {
    REASON_EXCEPTION_NMI = 0, REASON_EXTERNAL_INTERRUPT = 1, REASON_TRIPLE_FAULT = 2, REASON_INIT = 3,
    REASON_STARTUP = 4, REASON_INTERRUPT_WINDOW = 7,
    REASON_NMI_WINDOW = 8, REASON_TASK_SWITCH = 9, REASON_CPUID = 10, REASON_GETSEC = 11, REASON_HLT = 12, REASON_INVD = 13,
    REASON_INVLPG = 14, REASON_RDPMC = 15, REASON_RDTSC = 16, REASON_VMCALL = 18, REASON_VMCLEAR = 19,
    REASON_VMLAUNCH = 20, REASON_VMPTRLD = 21, REASON_VMPTRST = 22, REASON_VMREAD = 23, REASON_VMRESUME = 24,
    REASON_VMWRITE = 25, REASON_VMXOFF = 26, REASON_VMXON = 27, REASON_CR = 28, REASON_DR = 29, REASON_IO = 30,
    REASON_RDMSR = 31, REASON_WRMSR = 32, REASON_BAD_GUEST_STATE = 33, REASON_MSR_LOADING = 34,
    REASON_MWAIT = 36, REASON_MTF = 37, REASON_MONITOR = 39, REASON_PAUSE = 40, REASON_TPR_THRESHOLD = 43,
    REASON_APIC_ACCESS = 44,
    REASON_VIRTUALIZED_EOI = 45, REASON_GDTR_IDTR = 46, REASON_LDTR_TR = 47, REASON_EPT_VIOLATION = 48,
    REASON_EPT_MISCONFIG = 49, REASON_INVEPT = 50, REASON_RDTSCP = 51, REASON_PREEMPTION_TIMER = 52,
    REASON_INVVPID = 53, REASON_WBINVD = 54, REASON_XSETBV = 55, REASON_APIC_WRITE = 56,
    REASON_RDRAND = 57, REASON_INVPCID = 58,
    REASON_VMFUNC = 59, REASON_RDSEED = 61, REASON_PML_FULL = 62,
    REASON_XSAVES = 63, REASON_XRSTORS = 64, REASON_SPP = 66, REASON_UMWAIT = 67, REASON_TPAUSE = 68, REASON_COUNT = 70,
};

/* 440EH of an exit with a memory operand in 64-bit code (SDM vol. 3C, 30.2.5): parts to be ORed. */
#define INFO_MEMORY(SCALE, SEGMENT) ((uint64_t)(SCALE) | 2u << 7 | (uint64_t)(SEGMENT) << 15)
#define INFO_INDEX(REGISTER) ((uint64_t)(REGISTER) << 18)
#define INFO_NO_INDEX (1u << 22)
#define INFO_BASE(REGISTER) ((uint64_t)(REGISTER) << 23)
#define INFO_NO_BASE (1u << 27)
#define INFO_REGISTER(REGISTER) (1u << 10 | (uint64_t)(REGISTER) << 3)
#define INFO_REGISTER2(REGISTER) ((uint64_t)(REGISTER) << 28)
#define INFO_IDENTITY(NUMBER) ((uint64_t)(NUMBER) << 28)
#define INFO_OPERAND64 (1u << 11)
enum { SEGMENT_ES, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS };

/* 4404H, 4408H, 4016H (SDM vol. 3C, 27.9.2). */
#define EVENT_EXTERNAL(VECTOR) (0x80000000u | (VECTOR))
#define EVENT_NMI 0x80000202u
#define EVENT_HARDWARE(VECTOR) (0x80000300u | (VECTOR))
#define EVENT_HARDWARE_CODE(VECTOR) (0x80000b00u | (VECTOR))
#define EVENT_SOFTWARE_INTERRUPT(VECTOR) (0x80000400u | (VECTOR))
#define EVENT_PRIVILEGED_SOFTWARE(VECTOR) (0x80000500u | (VECTOR))
#define EVENT_SOFTWARE_EXCEPTION(VECTOR) (0x80000600u | (VECTOR))

struct exit_info {
    uint32_t reason;                    /* 4402H, all 32 bits */
    uint64_t qualification;
    uint64_t length;
    uint64_t interruption, error_code;  /* 4404H, 4406H */
    uint64_t vectoring, vectoring_error; /* 4408H, 440AH */
    uint64_t instruction;               /* 440EH */
    uint64_t linear, physical;          /* 640AH, 2400H */
    int64_t rip;                        /* relative to the start of the scenario's code */
    uint64_t advanced;                  /* bits 11:9 of an EPT violation's qualification, where they are offered: printed, not expected */
};

/* The fields of the current VMCS; code is the address that rip is relative to. */
struct exit_info exit_read(uint64_t code);

/* Clears what is undefined for this exit, in a record read as well as in an expected one. */
void exit_reduce(struct exit_info *e);

bool exit_same(const struct exit_info *a, const struct exit_info *b);
void exit_print(const struct exit_info *e);

#endif
