/* SPDX-License-Identifier: MIT */
/* The VMX instructions, one wrapper each; VMCS field encodings; capabilities (SDM vol. 3C, app. A, B). */
#ifndef L1_VMX_H
#define L1_VMX_H

#include "cpu.h"

enum vmcs_field {
    VPID = 0x0000, POSTED_VECTOR = 0x0002, EPTP_INDEX = 0x0004, GUEST_INTERRUPT_STATUS = 0x0810, PML_INDEX = 0x0812,
    GUEST_ES_SELECTOR = 0x0800, GUEST_CS_SELECTOR = 0x0802, GUEST_SS_SELECTOR = 0x0804,
    GUEST_DS_SELECTOR = 0x0806, GUEST_FS_SELECTOR = 0x0808, GUEST_GS_SELECTOR = 0x080a,
    GUEST_LDTR_SELECTOR = 0x080c, GUEST_TR_SELECTOR = 0x080e,
    HOST_ES_SELECTOR = 0x0c00, HOST_CS_SELECTOR = 0x0c02, HOST_SS_SELECTOR = 0x0c04,
    HOST_DS_SELECTOR = 0x0c06, HOST_FS_SELECTOR = 0x0c08, HOST_GS_SELECTOR = 0x0c0a,
    HOST_TR_SELECTOR = 0x0c0c,
    IO_BITMAP_A = 0x2000, IO_BITMAP_B = 0x2002, MSR_BITMAP = 0x2004, EXIT_MSR_STORE = 0x2006,
    EXIT_MSR_LOAD = 0x2008, ENTRY_MSR_LOAD = 0x200a, TSC_OFFSET = 0x2010, VIRTUAL_APIC = 0x2012, POSTED_DESCRIPTOR = 0x2016,
    PML_ADDRESS = 0x200e, APIC_ACCESS = 0x2014, VM_FUNCTION_CONTROLS = 0x2018, EPT_POINTER = 0x201a,
    EPTP_LIST = 0x2024, VMREAD_BITMAP = 0x2026, VMWRITE_BITMAP = 0x2028, VE_AREA = 0x202a, SPP_TABLE_POINTER = 0x2030, TSC_MULTIPLIER = 0x2032,
    PROC3_CONTROLS = 0x2034, SPEC_CTRL_MASK = 0x204a, SPEC_CTRL_SHADOW = 0x204c,
    EOI_EXIT0 = 0x201c, EOI_EXIT1 = 0x201e, EOI_EXIT2 = 0x2020, EOI_EXIT3 = 0x2022, XSS_EXITING_BITMAP = 0x202c,
    GUEST_PHYSICAL_ADDRESS = 0x2400,
    VMCS_LINK_POINTER = 0x2800, GUEST_DEBUGCTL = 0x2802, GUEST_PAT = 0x2804, GUEST_EFER = 0x2806,
    HOST_PAT = 0x2c00, HOST_EFER = 0x2c02,
    PIN_CONTROLS = 0x4000, PROC_CONTROLS = 0x4002, EXCEPTION_BITMAP = 0x4004, PF_MASK = 0x4006,
    PF_MATCH = 0x4008, CR3_TARGET_COUNT = 0x400a, EXIT_CONTROLS = 0x400c, EXIT_MSR_STORE_COUNT = 0x400e,
    EXIT_MSR_LOAD_COUNT = 0x4010, ENTRY_CONTROLS = 0x4012, ENTRY_MSR_LOAD_COUNT = 0x4014,
    ENTRY_INTERRUPTION_INFO = 0x4016, ENTRY_ERROR_CODE = 0x4018, ENTRY_INSTRUCTION_LENGTH = 0x401a,
    TPR_THRESHOLD = 0x401c, PROC2_CONTROLS = 0x401e, PLE_GAP = 0x4020, PLE_WINDOW = 0x4022,
    INSTRUCTION_ERROR = 0x4400, EXIT_REASON = 0x4402, EXIT_INTERRUPTION_INFO = 0x4404,
    EXIT_ERROR_CODE = 0x4406, IDT_VECTORING_INFO = 0x4408, IDT_VECTORING_ERROR = 0x440a,
    EXIT_INSTRUCTION_LENGTH = 0x440c, EXIT_INSTRUCTION_INFO = 0x440e,
    GUEST_ES_LIMIT = 0x4800, GUEST_CS_LIMIT = 0x4802, GUEST_SS_LIMIT = 0x4804, GUEST_DS_LIMIT = 0x4806,
    GUEST_FS_LIMIT = 0x4808, GUEST_GS_LIMIT = 0x480a, GUEST_LDTR_LIMIT = 0x480c, GUEST_TR_LIMIT = 0x480e,
    GUEST_GDTR_LIMIT = 0x4810, GUEST_IDTR_LIMIT = 0x4812,
    GUEST_ES_ACCESS = 0x4814, GUEST_CS_ACCESS = 0x4816, GUEST_SS_ACCESS = 0x4818, GUEST_DS_ACCESS = 0x481a,
    GUEST_FS_ACCESS = 0x481c, GUEST_GS_ACCESS = 0x481e, GUEST_LDTR_ACCESS = 0x4820, GUEST_TR_ACCESS = 0x4822,
    GUEST_INTERRUPTIBILITY = 0x4824, GUEST_ACTIVITY = 0x4826, GUEST_SYSENTER_CS = 0x482a,
    PREEMPTION_TIMER = 0x482e, HOST_SYSENTER_CS = 0x4c00,
    CR0_MASK = 0x6000, CR4_MASK = 0x6002, CR0_SHADOW = 0x6004, CR4_SHADOW = 0x6006, CR3_TARGET0 = 0x6008,
    EXIT_QUALIFICATION = 0x6400, GUEST_LINEAR_ADDRESS = 0x640a,
    GUEST_CR0 = 0x6800, GUEST_CR3 = 0x6802, GUEST_CR4 = 0x6804, GUEST_ES_BASE = 0x6806,
    GUEST_CS_BASE = 0x6808, GUEST_SS_BASE = 0x680a, GUEST_DS_BASE = 0x680c, GUEST_FS_BASE = 0x680e,
    GUEST_GS_BASE = 0x6810, GUEST_LDTR_BASE = 0x6812, GUEST_TR_BASE = 0x6814, GUEST_GDTR_BASE = 0x6816,
    GUEST_IDTR_BASE = 0x6818, GUEST_DR7 = 0x681a, GUEST_RSP = 0x681c, GUEST_RIP = 0x681e,
    GUEST_RFLAGS = 0x6820, GUEST_PENDING_DEBUG = 0x6822, GUEST_SYSENTER_ESP = 0x6824,
    GUEST_SYSENTER_EIP = 0x6826,
    HOST_CR0 = 0x6c00, HOST_CR3 = 0x6c02, HOST_CR4 = 0x6c04, HOST_FS_BASE = 0x6c06, HOST_GS_BASE = 0x6c08,
    HOST_TR_BASE = 0x6c0a, HOST_GDTR_BASE = 0x6c0c, HOST_IDTR_BASE = 0x6c0e, HOST_SYSENTER_ESP = 0x6c10,
    HOST_SYSENTER_EIP = 0x6c12, HOST_RSP = 0x6c14, HOST_RIP = 0x6c16,
};

enum { /* pin-based */
    PIN_EXTERNAL_INTERRUPT = 1u << 0, PIN_NMI = 1u << 3, PIN_VIRTUAL_NMI = 1u << 5, PIN_PREEMPTION_TIMER = 1u << 6,
    PIN_POSTED_INTERRUPTS = 1u << 7,
};
enum { /* primary processor-based */
    PROC_INTERRUPT_WINDOW = 1u << 2, PROC_TSC_OFFSET = 1u << 3, PROC_HLT = 1u << 7, PROC_INVLPG = 1u << 9,
    PROC_MWAIT = 1u << 10, PROC_RDPMC = 1u << 11, PROC_RDTSC = 1u << 12, PROC_CR3_LOAD = 1u << 15,
    PROC_CR3_STORE = 1u << 16, PROC_CR8_LOAD = 1u << 19, PROC_CR8_STORE = 1u << 20, PROC_TPR_SHADOW = 1u << 21,
    PROC_NMI_WINDOW = 1u << 22, PROC_MOV_DR = 1u << 23, PROC_IO = 1u << 24, PROC_IO_BITMAPS = 1u << 25,
    PROC_MTF = 1u << 27, PROC_MSR_BITMAPS = 1u << 28, PROC_MONITOR = 1u << 29, PROC_PAUSE = 1u << 30,
};
#define PROC_SECONDARY (1u << 31)
enum { PROC_TERTIARY = 1u << 17, PROC3_SPEC_CTRL = 1u << 7 };
enum { /* secondary processor-based */
    PROC2_APIC_ACCESSES = 1u << 0, PROC2_EPT = 1u << 1, PROC2_DESCRIPTOR_TABLE = 1u << 2, PROC2_RDTSCP = 1u << 3,
    PROC2_X2APIC = 1u << 4, PROC2_VPID = 1u << 5, PROC2_WBINVD = 1u << 6, PROC2_UNRESTRICTED = 1u << 7,
    PROC2_APIC_REGISTERS = 1u << 8, PROC2_INTERRUPT_DELIVERY = 1u << 9, PROC2_PAUSE_LOOP = 1u << 10,
    PROC2_RDRAND = 1u << 11, PROC2_INVPCID = 1u << 12, PROC2_VMFUNC = 1u << 13,
    PROC2_VMCS_SHADOWING = 1u << 14, PROC2_RDSEED = 1u << 16, PROC2_PML = 1u << 17, PROC2_VE = 1u << 18,
    PROC2_XSAVES = 1u << 20, PROC2_MBEC = 1u << 22, PROC2_SPP = 1u << 23, PROC2_TSC_SCALING = 1u << 25,
    PROC2_USER_WAIT = 1u << 26,
};
enum { /* VM-exit */
    EXIT_SAVE_DEBUG = 1u << 2, EXIT_HOST64 = 1u << 9, EXIT_ACKNOWLEDGE = 1u << 15, EXIT_SAVE_PAT = 1u << 18,
    EXIT_LOAD_PAT = 1u << 19, EXIT_SAVE_EFER = 1u << 20, EXIT_LOAD_EFER = 1u << 21,
    EXIT_SAVE_PREEMPTION_TIMER = 1u << 22,
};
enum { /* VM-entry */
    ENTRY_LOAD_DEBUG = 1u << 2, ENTRY_IA32E = 1u << 9, ENTRY_LOAD_PAT = 1u << 14, ENTRY_LOAD_EFER = 1u << 15,
};

/* One bit set of every control field. */
struct controls {
    uint32_t pin, proc, proc2, exit, entry, proc3;
};

/* Outcome of a VMX instruction (SDM 33.2): a fault, or the arithmetic flags and the error number. */
#define VMX_FLAGS 0x8d5ul               /* OF SF ZF AF PF CF */
#define VMX_FAIL_INVALID 0x01ul
#define VMX_FAIL_VALID 0x40ul
struct vmx_result {
    struct fault fault;
    uint64_t flags;
    uint32_t error;                     /* 4400H, after VMfailValid */
};

struct vmcs_region {
    uint32_t revision;
    uint32_t abort;
    uint8_t data[4088];
} __attribute__((aligned(4096)));

struct capabilities {
    uint32_t revision;
    struct controls must, may;          /* allowed-0 and allowed-1 */
    uint64_t misc, ept_vpid;
    bool io_info;                       /* instruction information for INS and OUTS */
    uint64_t physical_limit;            /* first address beyond the physical-address width */
};

extern struct capabilities cap;
extern struct vmcs_region vmxon_region;

void vmx_discover(void);
bool vmx_on(void);
void vmx_off(void);

struct vmx_result vmx_vmxon(const uint64_t *pointer);
struct vmx_result vmx_vmxoff(void);
struct vmx_result vmx_vmclear(const uint64_t *pointer);
struct vmx_result vmx_vmptrld(const uint64_t *pointer);
struct vmx_result vmx_vmptrst(uint64_t *pointer);
struct vmx_result vmx_vmread(uint64_t field, uint64_t *value);
struct vmx_result vmx_vmread_memory(uint64_t field, uint64_t *value);
struct vmx_result vmx_vmwrite(uint64_t field, uint64_t value);
struct vmx_result vmx_vmwrite_memory(uint64_t field, const uint64_t *value);
struct vmx_result vmx_vmlaunch(void);
struct vmx_result vmx_vmresume(void);
struct vmx_result vmx_vmcall(void);
struct vmx_result vmx_vmfunc(void);
struct vmx_result vmx_invept(uint64_t type, const uint64_t descriptor[2]);
struct vmx_result vmx_invvpid(uint64_t type, const uint64_t descriptor[2]);

/* Completes a result from flags and the last fault; reads the error number of a VMfailValid. */
struct vmx_result vmx_result(uint64_t rflags);

/* For fields that are known to exist; a failure is fatal. */
uint64_t vmread(enum vmcs_field field);
void vmwrite(enum vmcs_field field, uint64_t value);

/* Step lines. */
void step_fault(const char *name, struct fault got, uint32_t vector, uint32_t error_code);
void step_page_fault(const char *name, struct fault got, uint32_t error_code, uint64_t cr2);
void step_vmx(const char *name, struct vmx_result got, uint64_t flags, uint32_t error);
void step_vmx_fault(const char *name, struct vmx_result got, uint32_t vector, uint32_t error_code);
void step_succeed(const char *name, struct vmx_result got);
void step_fail_invalid(const char *name, struct vmx_result got);
void step_fail(const char *name, struct vmx_result got, uint32_t error);

#endif
