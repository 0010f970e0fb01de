/* SPDX-License-Identifier: MIT */
/* The processor's instructions and registers, as far as L0 uses them. */
#ifndef X86_H
#define X86_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "vmaccess.h"

#define KIB          1024ul
#define MIB          (1024 * KIB)
#define GIB          (1024 * MIB)
#define PAGE_BYTES   4096ul

#define CR0_PE       (1ull << 0)
#define CR0_MP       (1ull << 1)
#define CR0_EM       (1ull << 2)
#define CR0_TS       (1ull << 3)
#define CR0_ET       (1ull << 4)
#define CR0_NE       (1ull << 5)
#define CR0_WP       (1ull << 16)
#define CR0_NW       (1ull << 29)
#define CR0_CD       (1ull << 30)
#define CR0_PG       (1ull << 31)
#define CR4_PAE      (1ull << 5)
#define CR4_LA57     (1ull << 12)
#define CR4_VMXE     (1ull << 13)
#define CR4_SMXE     (1ull << 14)
#define CR4_PCIDE    (1ull << 17)
#define CR4_OSXSAVE  (1ull << 18)
#define CR4_PKE      (1ull << 22)
#define CR4_CET      (1ull << 23)

#define RFLAGS_FIXED (1ull << 1)
#define RFLAGS_TF    (1ull << 8)
#define RFLAGS_RF    (1ull << 16)

#define EFER_SCE     (1ull << 0)
#define EFER_LME     (1ull << 8)
#define EFER_LMA     (1ull << 10)
#define EFER_NXE     (1ull << 11)

enum msr_index {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_BIOS_UPDT_TRIG = 0x79,
    MSR_BIOS_SIGN_ID = 0x8b,
    MSR_SMM_MONITOR_CTL = 0x9b,
    MSR_MTRRCAP = 0xfe,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_PHYSBASE0 = 0x200,
    MSR_MTRR_FIX64K = 0x250,
    MSR_MTRR_FIX16K = 0x258,
    MSR_MTRR_FIX4K = 0x268,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_PERF_CAPABILITIES = 0x345,
    MSR_PEBS_ENABLE = 0x3f1,
    MSR_PEBS_BASE = 0x3f4,
    MSR_PEBS_INDEX = 0x3f5,
    MSR_VMX_BASIC = 0x480,
    MSR_VMX_MISC = 0x485,
    MSR_VMX_CR0_FIXED0 = 0x486,
    MSR_VMX_CR0_FIXED1 = 0x487,
    MSR_VMX_CR4_FIXED0 = 0x488,
    MSR_VMX_CR4_FIXED1 = 0x489,
    MSR_VMX_PROCBASED_CTLS2 = 0x48b,
    MSR_VMX_EPT_VPID_CAP = 0x48c,
    MSR_VMX_TRUE_PINBASED_CTLS = 0x48d,
    MSR_VMX_TRUE_PROCBASED_CTLS = 0x48e,
    MSR_VMX_TRUE_EXIT_CTLS = 0x48f,
    MSR_VMX_TRUE_ENTRY_CTLS = 0x490,
    MSR_VMX_LAST = 0x493,
    MSR_RTIT_FIRST = 0x560,
    MSR_RTIT_LAST = 0x58f,
    MSR_S_CET = 0x6a2,
    MSR_SSP_TABLE = 0x6a8,
    MSR_UINTR_MISC = 0x988,
    MSR_XSS = 0xda0,
    MSR_HW_FEEDBACK_PTR = 0x17d0,
    MSR_EFER = 0xc0000080,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
};

static inline void *phys_to_virt(uint64_t hpa) {
    return (void *)(uintptr_t)(DIRECT_MAP + hpa);
}

static inline void outb(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value) {
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value) {
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t inw(uint16_t port) {
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t inl(uint16_t port) {
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf) {
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline uint64_t rdtsc(void) {
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return low | (uint64_t)high << 32;
}

static inline uint64_t rdmsr(uint32_t index) {
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (uint64_t)high << 32;
}

static inline void wrmsr(uint32_t index, uint64_t value) {
    __asm__ volatile("wrmsr" : : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index) : "memory");
}

/*
 * An instruction that may fault: if it does, traps.c continues at the label with `ok` still false. Each entry of the
 * table is a pair of addresses (instruction, where to go on).
 */
#define EXCEPTION_ENTRY(from, to)                                                                                      \
    ".pushsection .exception_table, \"a\"\n\t.balign 8\n\t.quad " from ", " to "\n\t.popsection\n\t"

static inline bool rdmsr_safe(uint32_t index, uint64_t *value) {
    uint32_t low = 0, high = 0, ok = 0;
    __asm__ volatile("1: rdmsr\n\tmovl $1, %2\n\t2:\n\t" EXCEPTION_ENTRY("1b", "2b")
                     : "+a"(low), "+d"(high), "+r"(ok)
                     : "c"(index));
    *value = low | (uint64_t)high << 32;
    return ok != 0;
}

static inline bool wrmsr_safe(uint32_t index, uint64_t value) {
    uint32_t ok = 0;
    __asm__ volatile("1: wrmsr\n\tmovl $1, %0\n\t2:\n\t" EXCEPTION_ENTRY("1b", "2b")
                     : "+r"(ok)
                     : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index)
                     : "memory");
    return ok != 0;
}

static inline bool xsetbv_safe(uint32_t index, uint64_t value) {
    uint32_t ok = 0;
    __asm__ volatile("1: xsetbv\n\tmovl $1, %0\n\t2:\n\t" EXCEPTION_ENTRY("1b", "2b")
                     : "+r"(ok)
                     : "a"((uint32_t)value), "d"((uint32_t)(value >> 32)), "c"(index)
                     : "memory");
    return ok != 0;
}

#define DEFINE_CONTROL_REGISTER(name)                                                                                  \
    static inline uint64_t read_##name(void) {                                                                         \
        uint64_t value;                                                                                                \
        __asm__ volatile("movq %%" #name ", %0" : "=r"(value));                                                        \
        return value;                                                                                                  \
    }                                                                                                                  \
    static inline void write_##name(uint64_t value) {                                                                  \
        __asm__ volatile("movq %0, %%" #name : : "r"(value) : "memory");                                               \
    }
DEFINE_CONTROL_REGISTER(cr0)
DEFINE_CONTROL_REGISTER(cr2)
DEFINE_CONTROL_REGISTER(cr3)
DEFINE_CONTROL_REGISTER(cr4)

struct descriptor_table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static inline void lgdt(const struct descriptor_table *table) {
    __asm__ volatile("lgdt %0" : : "m"(*table));
}

static inline void lidt(const struct descriptor_table *table) {
    __asm__ volatile("lidt %0" : : "m"(*table));
}

static inline void ltr(uint16_t selector) {
    __asm__ volatile("ltr %0" : : "r"(selector));
}

/* An NMI that made a guest exit leaves NMIs blocked until the next IRET (SDM 7.7.1, 30.1). */
static inline void unblock_nmis(void) {
    __asm__ volatile("movq %%rsp, %%rax\n\tpushq %0\n\tpushq %%rax\n\tpushfq\n\tpushq %1\n\tleaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\tiretq\n\t1:"
                     :
                     : "i"(SELECTOR_DATA), "i"(SELECTOR_CODE)
                     : "rax", "memory", "cc");
}

static inline void wbinvd(void) {
    __asm__ volatile("wbinvd" : : : "memory");
}

static inline void relax(void) {
    __asm__ volatile("pause" : : : "memory");
}

/* DR7 is in the VMCS. */
static inline void read_debug_registers(uint64_t dr[4], uint64_t *dr6) {
    __asm__ volatile("movq %%dr0, %0\n\tmovq %%dr1, %1\n\tmovq %%dr2, %2\n\tmovq %%dr3, %3\n\tmovq %%dr6, %4"
                     : "=r"(dr[0]), "=r"(dr[1]), "=r"(dr[2]), "=r"(dr[3]), "=r"(*dr6));
}

static inline void write_debug_registers(const uint64_t dr[4], uint64_t dr6) {
    __asm__ volatile("movq %0, %%dr0\n\tmovq %1, %%dr1\n\tmovq %2, %%dr2\n\tmovq %3, %%dr3\n\tmovq %4, %%dr6"
                     :
                     : "r"(dr[0]), "r"(dr[1]), "r"(dr[2]), "r"(dr[3]), "r"(dr6));
}

static inline void halt(void) {
    __asm__ volatile("cli; hlt");
}

/* -- VMX (SDM chapter 33): false is VMfail, of either kind -------------------------------------------------------- */

static inline bool vmxon(uint64_t hpa) {
    bool ok;
    __asm__ volatile("vmxon %1" : "=@cca"(ok) : "m"(hpa) : "memory");
    return ok;
}

/* These take the address from where it is kept. */
static inline bool vmclear(const uint64_t *hpa) {
    bool ok;
    __asm__ volatile("vmclear %1" : "=@cca"(ok) : "m"(*hpa) : "memory");
    return ok;
}

static inline bool vmptrld(const uint64_t *hpa) {
    bool ok;
    __asm__ volatile("vmptrld %1" : "=@cca"(ok) : "m"(*hpa) : "memory");
    return ok;
}

struct invalidation {
    uint64_t first; /* INVEPT: the EPTP; INVVPID: the VPID */
    uint64_t linear;
};

static inline bool invept(uint64_t type, uint64_t eptp) {
    struct invalidation descriptor = {.first = eptp};
    bool ok;
    __asm__ volatile("invept %1, %2" : "=@cca"(ok) : "m"(descriptor), "r"(type) : "memory");
    return ok;
}

static inline bool invvpid(uint64_t type, uint64_t vpid, uint64_t linear) {
    struct invalidation descriptor = {.first = vpid, .linear = linear};
    bool ok;
    __asm__ volatile("invvpid %1, %2" : "=@cca"(ok) : "m"(descriptor), "r"(type) : "memory");
    return ok;
}

#endif
