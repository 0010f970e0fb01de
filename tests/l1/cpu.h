/* SPDX-License-Identifier: MIT */
/* The CPU as L1 sees it: registers, faults that are caught, code run in other modes. */
#ifndef L1_CPU_H
#define L1_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SEL_CODE64 = 0x08, SEL_DATA = 0x10, SEL_CODE32 = 0x18,
    SEL_USER_CODE64 = 0x23, SEL_USER_DATA = 0x2b, SEL_USER_CODE32 = 0x33, SEL_TSS = 0x38,
};

enum {
    MSR_APIC_BASE = 0x1b, MSR_FEATURE_CONTROL = 0x3a, MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176, MSR_PAT = 0x277,
    MSR_XSS = 0xda0, MSR_VMX_BASIC = 0x480, MSR_VMX_MISC = 0x485, MSR_VMX_CR4_FIXED1 = 0x489,
    MSR_VMX_PROC2 = 0x48b, MSR_VMX_PROC3 = 0x492, MSR_VMX_EPT_VPID_CAP = 0x48c,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

#define CR0_NE 0x20ul
#define CR0_PG 0x80000000ul
#define CR4_VMXE 0x2000ul
#define CR4_SMXE 0x4000ul
#define EFER_LME 0x100ul
#define EFER_LMA 0x400ul

/* Linear addresses of L1 with a fixed meaning, so that CR2 is the same on every machine. */
#define L1_NOT_PRESENT 0x8000000000ul   /* nothing is mapped in this 512-GB slot */
#define L1_READ_ONLY 0x10000000000ul    /* one page, read-only; the page after it is not present */
#define L1_NON_CANONICAL 0x8000000000000000ul

/* What happened to an instruction that was tried: a fault, or the flags it left. */
#define NO_FAULT 0xffffu
struct fault {
    uint32_t vector;
    uint32_t error_code;
    uint64_t cr2;
    bool rf; /* in the image of RFLAGS that it pushed */
};

struct trap_frame {
    uint64_t r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax;
    uint64_t vector, error_code, rip, cs, rflags, rsp, ss;
};

struct __attribute__((packed)) descriptor_table {
    uint16_t limit;
    uint64_t base;
};

/* A trap at any instruction continues at this address if it is not 0. */
extern volatile uint64_t catch_rip;
extern struct fault last_fault;
extern volatile uint32_t interrupts_taken[256];
extern uint64_t l1_gdt[16];
extern uint64_t l1_pml4[512];
extern uint8_t l1_tss[104];

void cpu_init(void);
/* The second processor: what the first has made, its TSS too, which neither of them switches. */
void cpu_init_second(void);
void trap(struct trap_frame *frame);
void run_in(uint64_t cs, uint64_t ss, const void *code, const void *operand);
struct fault fault_in(uint64_t cs, uint64_t ss, const void *code, const void *operand);

void lapic_enable(void);
void lapic_write(uint32_t offset, uint32_t value);
void lapic_self_ipi(uint8_t vector);
void open_interrupts_once(void);

void *memset(void *to, int value, size_t size);
void *memcpy(void *restrict to, const void *restrict from, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/*
 * Text of an inline-assembly block around one instruction: a fault in it continues behind it. Sets all
 * arithmetic flags first, so that flags an instruction has to clear are seen to be cleared.
 * %0 is an output register that receives RFLAGS; RAX is clobbered before INSN.
 */
#define CATCHING(INSN)                                                              \
    "leaq 9f(%%rip), %%rax\n\tmovq %%rax, catch_rip\n\tpushq $0x8d7\n\tpopfq\n\t" INSN \
    "\n9:\n\tpushfq\n\tpopq %0\n\tmovq $0, catch_rip\n\t"

static inline void fault_reset(void) {
    last_fault = (struct fault){NO_FAULT, 0, 0, false};
}

static inline uint64_t rdmsr(uint32_t index) {
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t index, uint64_t value) {
    __asm__ volatile("wrmsr" ::"c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline struct fault wrmsr_catching(uint32_t index, uint64_t value) {
    uint64_t flags;
    fault_reset();
    __asm__ volatile(CATCHING("movl %2, %%eax\n\twrmsr")
                     : "=&r"(flags)
                     : "c"(index), "r"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "rax", "memory", "cc");
    return last_fault;
}

static inline void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4]) {
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

static inline void outb(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value) {
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

#define DEFINE_REGISTER(NAME)                                          \
    static inline uint64_t read_##NAME(void) {                         \
        uint64_t value;                                                \
        __asm__ volatile("movq %%" #NAME ", %0" : "=r"(value));        \
        return value;                                                  \
    }                                                                  \
    static inline void write_##NAME(uint64_t value) {                  \
        __asm__ volatile("movq %0, %%" #NAME ::"r"(value) : "memory"); \
    }                                                                  \
    static inline struct fault write_##NAME##_catching(uint64_t value) { \
        uint64_t flags;                                                \
        fault_reset();                                                 \
        __asm__ volatile(CATCHING("movq %1, %%" #NAME)                 \
                         : "=&r"(flags) : "r"(value) : "rax", "memory", "cc"); \
        return last_fault;                                             \
    }
DEFINE_REGISTER(cr0)
DEFINE_REGISTER(cr2)
DEFINE_REGISTER(cr3)
DEFINE_REGISTER(cr4)
DEFINE_REGISTER(dr6)
DEFINE_REGISTER(dr7)
#undef DEFINE_REGISTER

#define DEFINE_SELECTOR(NAME)                                   \
    static inline uint16_t read_##NAME(void) {                  \
        uint16_t value;                                         \
        __asm__ volatile("movw %%" #NAME ", %0" : "=r"(value)); \
        return value;                                           \
    }
DEFINE_SELECTOR(cs)
DEFINE_SELECTOR(ss)
DEFINE_SELECTOR(ds)
DEFINE_SELECTOR(es)
DEFINE_SELECTOR(fs)
DEFINE_SELECTOR(gs)
#undef DEFINE_SELECTOR

static inline uint16_t read_tr(void) {
    uint16_t value;
    __asm__ volatile("str %0" : "=r"(value));
    return value;
}

static inline uint16_t read_ldtr(void) {
    uint16_t value;
    __asm__ volatile("sldt %0" : "=r"(value));
    return value;
}

static inline struct descriptor_table read_gdtr(void) {
    struct descriptor_table value;
    __asm__ volatile("sgdt %0" : "=m"(value));
    return value;
}

static inline struct descriptor_table read_idtr(void) {
    struct descriptor_table value;
    __asm__ volatile("sidt %0" : "=m"(value));
    return value;
}

#endif
