/* SPDX-License-Identifier: MIT */
#include "vmx.h"

#include "report.h"

struct capabilities cap;
struct vmcs_region vmxon_region;

static uint64_t true_controls(uint32_t index, uint32_t true_index) {
    return rdmsr((rdmsr(MSR_VMX_BASIC) >> 55 & 1) != 0 ? true_index : index);
}

void vmx_discover(void) {
    uint32_t leaf[4];
    cpuid(1, 0, leaf);
    if ((leaf[2] & 1u << 5) == 0) {
        report_fatal("this CPU has no VMX");
    }
    if ((rdmsr(MSR_FEATURE_CONTROL) & 1) == 0) {
        wrmsr(MSR_FEATURE_CONTROL, 5);
    }
    cpuid(0x80000008, 0, leaf);
    cap.physical_limit = 1ul << (leaf[0] & 0xff);
    cap.revision = (uint32_t)rdmsr(MSR_VMX_BASIC) & 0x7fffffff;
    uint64_t pin = true_controls(0x481, 0x48d), proc = true_controls(0x482, 0x48e);
    uint64_t exit = true_controls(0x483, 0x48f), entry = true_controls(0x484, 0x490);
    cap.must = (struct controls){(uint32_t)pin, (uint32_t)proc, 0, (uint32_t)exit, (uint32_t)entry, 0};
    cap.may = (struct controls){(uint32_t)(pin >> 32), (uint32_t)(proc >> 32), 0, (uint32_t)(exit >> 32),
                                (uint32_t)(entry >> 32), 0};
    cap.misc = rdmsr(MSR_VMX_MISC);
    cap.io_info = (rdmsr(MSR_VMX_BASIC) >> 54 & 1) != 0;
    if ((cap.may.proc & PROC_SECONDARY) != 0) {
        cap.may.proc2 = (uint32_t)(rdmsr(MSR_VMX_PROC2) >> 32);
    }
    if ((cap.may.proc & PROC_TERTIARY) != 0) {
        cap.may.proc3 = (uint32_t)rdmsr(MSR_VMX_PROC3);
    }
    if ((cap.may.proc2 & (PROC2_EPT | PROC2_VPID)) != 0) {
        cap.ept_vpid = rdmsr(MSR_VMX_EPT_VPID_CAP);
    }
}

bool vmx_on(void) {
    write_cr4(read_cr4() | CR4_VMXE);
    vmxon_region.revision = cap.revision;
    uint64_t pointer = (uint64_t)&vmxon_region;
    struct vmx_result result = vmx_vmxon(&pointer);
    return result.fault.vector == NO_FAULT && result.flags == 0;
}

void vmx_off(void) {
    vmx_vmxoff();
    write_cr4(read_cr4() & ~CR4_VMXE);
}

struct vmx_result vmx_result(uint64_t rflags) {
    struct vmx_result result = {last_fault, rflags & VMX_FLAGS, 0};
    if (result.fault.vector == NO_FAULT && result.flags == VMX_FAIL_VALID) {
        uint64_t error = 0;
        __asm__ volatile("vmread %1, %0" : "=r"(error) : "r"((uint64_t)INSTRUCTION_ERROR) : "cc");
        result.error = (uint32_t)error;
    }
    return result;
}

#define OPERAND_INSTRUCTION(NAME, TYPE)                                                          \
    struct vmx_result vmx_##NAME(TYPE *pointer) {                                                \
        uint64_t flags;                                                                          \
        fault_reset();                                                                           \
        __asm__ volatile(CATCHING(#NAME " (%1)") : "=&r"(flags) : "r"(pointer) : "rax", "memory", "cc"); \
        return vmx_result(flags);                                                                \
    }
OPERAND_INSTRUCTION(vmxon, const uint64_t)
OPERAND_INSTRUCTION(vmclear, const uint64_t)
OPERAND_INSTRUCTION(vmptrld, const uint64_t)
OPERAND_INSTRUCTION(vmptrst, uint64_t)

#define PLAIN_INSTRUCTION(NAME)                                                           \
    struct vmx_result vmx_##NAME(void) {                                                  \
        uint64_t flags;                                                                   \
        fault_reset();                                                                    \
        __asm__ volatile(CATCHING(#NAME) : "=&r"(flags)::"rax", "memory", "cc");          \
        return vmx_result(flags);                                                         \
    }
PLAIN_INSTRUCTION(vmxoff)
PLAIN_INSTRUCTION(vmlaunch)
PLAIN_INSTRUCTION(vmresume)
PLAIN_INSTRUCTION(vmcall)
PLAIN_INSTRUCTION(vmfunc)

struct vmx_result vmx_vmread(uint64_t field, uint64_t *value) {
    uint64_t flags, got = *value;
    fault_reset();
    __asm__ volatile(CATCHING("vmread %2, %1") : "=&r"(flags), "+&r"(got) : "r"(field) : "rax", "memory", "cc");
    *value = got;
    return vmx_result(flags);
}

struct vmx_result vmx_vmread_memory(uint64_t field, uint64_t *value) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("vmread %2, (%1)") : "=&r"(flags) : "r"(value), "r"(field) : "rax", "memory", "cc");
    return vmx_result(flags);
}

struct vmx_result vmx_vmwrite(uint64_t field, uint64_t value) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("vmwrite %1, %2") : "=&r"(flags) : "r"(value), "r"(field) : "rax", "memory", "cc");
    return vmx_result(flags);
}

struct vmx_result vmx_vmwrite_memory(uint64_t field, const uint64_t *value) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("vmwrite (%1), %2") : "=&r"(flags) : "r"(value), "r"(field) : "rax", "memory", "cc");
    return vmx_result(flags);
}

struct vmx_result vmx_invept(uint64_t type, const uint64_t descriptor[2]) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("invept (%1), %2")
                     : "=&r"(flags) : "r"(descriptor), "r"(type) : "rax", "memory", "cc");
    return vmx_result(flags);
}

struct vmx_result vmx_invvpid(uint64_t type, const uint64_t descriptor[2]) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("invvpid (%1), %2")
                     : "=&r"(flags) : "r"(descriptor), "r"(type) : "rax", "memory", "cc");
    return vmx_result(flags);
}

uint64_t vmread(enum vmcs_field field) {
    uint64_t value = 0;
    uint8_t failed;
    __asm__ volatile("vmread %2, %0\n\tsetbe %1" : "=r"(value), "=q"(failed) : "r"((uint64_t)field) : "cc");
    if (failed) {
        report_fatal("VMREAD of %x failed", (uint32_t)field);
    }
    return value;
}

void vmwrite(enum vmcs_field field, uint64_t value) {
    uint8_t failed;
    __asm__ volatile("vmwrite %1, %2\n\tsetbe %0" : "=q"(failed) : "r"(value), "r"((uint64_t)field) : "cc");
    if (failed) {
        report_fatal("VMWRITE of %x failed", (uint32_t)field);
    }
}

static const char *fault_name(uint32_t vector) {
    static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM",
                                        "#DF", "#9",  "#TS", "#NP", "#SS", "#GP", "#PF"};
    return vector < sizeof names / sizeof names[0] ? names[vector] : "exception";
}

static void print_fault(struct fault f) {
    if (f.vector == NO_FAULT) {
        print("no fault");
    } else if (f.vector == 14) {
        print("#PF(%x) CR2 %lx", f.error_code, f.cr2);
    } else if (f.vector == 8 || (f.vector >= 10 && f.vector <= 13)) {
        print("%s(%x)", fault_name(f.vector), f.error_code);
    } else {
        print("%s", fault_name(f.vector));
    }
    if (f.vector != NO_FAULT && !f.rf) {
        print(" with RF = 0");
    }
}

static void print_result(struct vmx_result r) {
    if (r.fault.vector != NO_FAULT) {
        print_fault(r.fault);
    } else if (r.flags == 0) {
        print("VMsucceed");
    } else if (r.flags == VMX_FAIL_INVALID) {
        print("VMfailInvalid");
    } else if (r.flags == VMX_FAIL_VALID) {
        print("VMfailValid(%u)", r.error);
    } else {
        print("flags %lx", r.flags);
    }
}

static bool same_fault(struct fault a, struct fault b) {
    return a.vector == b.vector && a.error_code == b.error_code && a.cr2 == b.cr2 && a.rf == b.rf;
}

static void step_result(const char *name, struct vmx_result got, struct vmx_result expected) {
    bool ok = same_fault(got.fault, expected.fault) &&
              (got.fault.vector != NO_FAULT || (got.flags == expected.flags && got.error == expected.error));
    step_begin(name, ok);
    print_result(got);
    if (!ok) {
        print(", expected ");
        print_result(expected);
    }
    print("\n");
}

void step_fault(const char *name, struct fault got, uint32_t vector, uint32_t error_code) {
    step_result(name, (struct vmx_result){got, 0, 0},
                (struct vmx_result){{vector, error_code, vector == 14 ? got.cr2 : 0, vector != NO_FAULT}, 0, 0});
}

void step_page_fault(const char *name, struct fault got, uint32_t error_code, uint64_t cr2) {
    step_result(name, (struct vmx_result){got, 0, 0}, (struct vmx_result){{14, error_code, cr2, true}, 0, 0});
}

void step_vmx(const char *name, struct vmx_result got, uint64_t flags, uint32_t error) {
    step_result(name, got, (struct vmx_result){{NO_FAULT, 0, 0, false}, flags, error});
}

void step_vmx_fault(const char *name, struct vmx_result got, uint32_t vector, uint32_t error_code) {
    step_fault(name, got.fault, vector, error_code);
}

void step_succeed(const char *name, struct vmx_result got) {
    step_vmx(name, got, 0, 0);
}

void step_fail_invalid(const char *name, struct vmx_result got) {
    step_vmx(name, got, VMX_FAIL_INVALID, 0);
}

void step_fail(const char *name, struct vmx_result got, uint32_t error) {
    step_vmx(name, got, VMX_FAIL_VALID, error);
}
