/* SPDX-License-Identifier: MIT */
/*
 * Two vCPUs in real mode: the first starts the second by INIT and a start-up IPI, then both do the same things at the same time
 * (smp-protocol.h). It is linked into kvm-smp as data and copied to SMP_CODE, where both begin.
 *
 * Who waits does so with interrupts enabled. Bochs 2.7 doesn't look at external-interrupt exiting when it enters a guest whose RFLAGS.IF is clear, so a
 * guest that spins there keeps L1's interrupts off its processor until it sets IF, and an L1 that waits for that processor waits for ever.
 */
#include "smp-protocol.h"

#define ABSOLUTE(label) ((label) - smp_guest_start + SMP_CODE)
#define WORD(offset) SMP_WORDS + offset

#define MSR_APIC_BASE 0x1b
#define X2APIC_EOI 0x80b
#define X2APIC_SVR 0x80f
#define X2APIC_ICR 0x830
#define ICR_INIT 0x4500
#define ICR_STARTUP 0x4600

    .section .rodata
    .balign 16
    .globl smp_guest_start, smp_guest_end
    .code16

    .macro write_msr msr, low, high=0
    movl $\msr, %ecx
    movl $\low, %eax
    movl $\high, %edx
    wrmsr
    .endm

smp_guest_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    ljmp $0, $ABSOLUTE(1f)              /* vCPU 1 comes with CS = SMP_CODE / 16 */
1:  movl $MSR_APIC_BASE, %ecx
    rdmsr
    orl $0xc00, %eax                    /* x2APIC mode: registers are MSRs, which real mode reaches */
    wrmsr
    movl %eax, %ebx
    write_msr X2APIC_SVR, 0x1ff
    btl $8, %ebx                        /* the boot processor */
    jnc second

first:
    movw $SMP_STACK0, %sp
    movw $ABSOLUTE(on_ipi), IPI_VECTOR * 4
    movw $0, IPI_VECTOR * 4 + 2
    sti
    write_msr X2APIC_ICR, ICR_INIT, 1
    write_msr X2APIC_ICR, (ICR_STARTUP | (SMP_CODE >> 12)), 1
    xorl %edi, %edi                     /* its number */
    call both
    movw $0x504, %dx
    movw $SMP_WORDS, %si
1:  cmpl $0, WORD(WORD_FINISHED)
    jne 2f
    pause
    jmp 1b
2:  lodsl
    outl %eax, %dx
    cmpw $(SMP_WORDS + WORD_STALE + 4), %si
    jne 2b
    movw $PORT_END, %dx
    outl %eax, %dx
    hlt

second:
    movw $SMP_STACK1, %sp
    sti
    movl $1, WORD(WORD_ONLINE)
    movl $1, %edi
    call both
    /* Numbers that only grow, in a page that is another one each time. */
3:  movl SMP_MOVING, %eax
    cmpl WORD(WORD_SEEN), %eax
    jae 4f
    incl WORD(WORD_STALE)
4:  movl %eax, WORD(WORD_SEEN)
    pause
    cmpl $MOVES, %eax
    jb 3b
    movl $1, WORD(WORD_FINISHED)
5:  hlt
    jmp 5b

/* EDI: 0 or 1. */
both:
    movl $TURNS, %ebp
1:  movl WORD(WORD_TURN), %eax
    andl $1, %eax
    cmpl %edi, %eax
    je 2f
    pause
    jmp 1b
2:  incl WORD(WORD_TURN)
    decl %ebp
    jnz 1b

    movl $ADDITIONS, %ebp
3:  lock incl WORD(WORD_SUM)
    decl %ebp
    jnz 3b

    /* One from the first page upwards, the other from the last downwards. */
    movl $SMP_PAGES, %ebp
    movw $(SMP_TOUCHED >> 4), %bx
    movw $0x100, %dx
    testl %edi, %edi
    jz 4f
    movw $((SMP_TOUCHED >> 4) + (SMP_PAGES - 1) * 0x100), %bx
    negw %dx
4:  movw %bx, %es
    lock incl %es:0
    addw %dx, %bx
    decl %ebp
    jnz 4b

    /* Interrupts to and fro, waiting for each in HLT: never two for the same, which would be one. */
    movl $1, %ebp
5:  testl %edi, %edi
    jnz 6f
    call call_other
6:  cmpl %ebp, WORD(WORD_IPIS)(,%edi,4)
    jae 7f
    sti
    hlt                                 /* STI holds interrupts off for one instruction */
    cli
    jmp 6b
7:  testl %edi, %edi
    jz 8f
    call call_other
8:  incl %ebp
    cmpl $IPIS, %ebp
    jbe 5b
    sti
    ret

call_other:
    movl $X2APIC_ICR, %ecx
    movl $(0x4000 | IPI_VECTOR), %eax
    movl %edi, %edx
    xorl $1, %edx
    wrmsr
    ret

on_ipi:
    pushl %eax
    pushl %ecx
    pushl %edx
    incl WORD(WORD_IPIS)(,%edi,4)
    write_msr X2APIC_EOI, 0
    popl %edx
    popl %ecx
    popl %eax
    iretw
smp_guest_end:

    .section .note.GNU-stack, "", @progbits
