/* SPDX-License-Identifier: MIT */
/*
 * An L2 that counts, and checks all its memory at each step: every word must be what the step before wrote. Its count is in a general
 * register, in XMM0 and in what the words hold. One line a step; nothing in it depends on the machine or on time.
 */
#include "l2.h"
#include "steady.h"

#define FIRST 0x40000ul
#define END 0x50000ul
#define FACTOR 0x9e3779b97f4a7c15ul
#define CPUID_ANSWER 0x5eed

static uint8_t counted[END - FIRST] __attribute__((aligned(4096)));

/* R14: the step before; R8: FACTOR. An exit to L1 after each page: CPUID gives back what it was given, plus CPUID_ANSWER. */
DEFINE_L2_CODE(count,
    "   xorl %r14d, %r14d\n"
    "   movabs $0x9e3779b97f4a7c15, %r8\n"
    "   pxor %xmm0, %xmm0\n"
    "   movl $1, %eax\n"
    "   movq %rax, %xmm1\n"
    "1: xorl %r13d, %r13d\n"
    "   xorl %r15d, %r15d\n"
    "   leaq 1(%r14), %r9\n"
    "   movl $0x40000, %esi\n"
    "2: movl $512, %edi\n"
    "3: movq %rsi, %rax\n"
    "   imulq %r8, %rax\n"
    "   movq %rax, %rdx\n"
    "   xorq %r14, %rdx\n"
    "   cmpq (%rsi), %rdx\n"
    "   je 4f\n"
    "   incq %r15\n"
    "4: xorq %r9, %rax\n"
    "   movq %rax, (%rsi)\n"
    "   addq %rax, %r13\n"
    "   addq $8, %rsi\n"
    "   decl %edi\n"
    "   jnz 3b\n"
    "   movl %esi, %eax\n"
    "   cpuid\n"
    "   subl $0x5eed, %eax\n"
    "   cmpl %esi, %eax\n"
    "   je 5f\n"
    "   incq %r15\n"
    "5: cmpl $0x50000, %esi\n"
    "   jb 2b\n"
    "   movq %r9, %r14\n"
    "   paddq %xmm1, %xmm0\n"
    "   movq %xmm0, %rdx\n"
    "   movq %r14, %rax\n"
    "   movq %r13, %rcx\n"
    "   movq %r15, %rbx\n"
    "   vmcall\n"
    "   jmp 1b\n");

/* Registers of L1's processor that VMX does not switch. */
static const struct {
    uint32_t index;
    uint64_t value;
} kept[] = {
    {MSR_STAR, 0x0023001000000000}, {MSR_LSTAR, 0xffff800012345678}, {MSR_KERNEL_GS_BASE, 0x00007ffff0f0f0f0},
};

static void check_processor(void) {
    static uint64_t last;
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    uint64_t now = (uint64_t)high << 32 | low;
    must(now > last, "the TSC went back");
    last = now;
    for (uint32_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        must(rdmsr(kept[i].index) == kept[i].value, "an MSR is not what L1 wrote");
    }
}

static void prepare(struct l2 *l2) {
    static const struct scenario scenario = {.name = "count", .kind = WITH_L2, L2_CODE(count)};
    l2_prepare(l2, &scenario);
    for (uint64_t gpa2 = FIRST; gpa2 < END; gpa2 += 8) {
        *(uint64_t *)(counted + (gpa2 - FIRST)) = gpa2 * FACTOR;
    }
    for (uint64_t gpa2 = FIRST; gpa2 < END; gpa2 += 4096) {
        ept_map(gpa2, (uint64_t)counted + (gpa2 - FIRST), EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    }
    vmwrite(GUEST_CR4, vmread(GUEST_CR4) | 0x600);
    for (uint32_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        wrmsr(kept[i].index, kept[i].value);
    }
}

void count_run(uint64_t steps) {
    static struct l2 l2;
    prepare(&l2);
    for (uint64_t step = 0; step < steps && l2_run(&l2); then_skip(&l2)) {
        uint64_t *gpr = l2.regs.gpr;
        if (l2.exit.reason == REASON_CPUID) {
            gpr[RAX] = (uint32_t)(gpr[RAX] + CPUID_ANSWER);
            continue;
        }
        must(l2.exit.reason == REASON_VMCALL, "an exit that nobody expects");
        if (l2.exit.reason != REASON_VMCALL) {
            exit_print(&l2.exit);
            return;
        }
        step++;
        must(gpr[RAX] == step && gpr[RDX] == step, "L2 lost count");
        must(gpr[RBX] == 0, "L2's memory is not what L2 wrote");
        check_processor();
        print("l1: count %lu sum %lx wrong %lu xmm %lu\n", gpr[RAX], gpr[RCX], gpr[RBX], gpr[RDX]);
    }
}
