/* SPDX-License-Identifier: MIT */
/*
 * VM entries and exits of one processor.
 *
 * struct cpu lies at the top of its processor's stack and begins with the guest's registers. VMCS host RSP points just behind
 * regs.gpr, so pushing the registers in falling order stores them where they belong and leaves RSP at the struct:
 * no register has to be found free first, and every exit starts on a fresh stack.
 */
#include "layout.h"

    .text

/* An NMI came while L0 was about to enter: decide again. RSP = struct cpu. */
    .globl vmx_again
vmx_again:
    movq %rsp, %rdi
    call host_enter
    jmp 1f

/* Host RIP of every VMCS. */
    .globl vmx_exit_point
vmx_exit_point:
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rdi
    pushq %rsi
    pushq %rbp
    subq $8, %rsp /* RSP is in the VMCS */
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
    movq %cr2, %rax
    movq %rax, CPU_CR2(%rsp)
    movq %rsp, %rdi
    call host_exit

/* EAX: 0 VMRESUME, 1 VMLAUNCH. */
1:  movq CPU_CR2(%rsp), %rcx
    movq %cr2, %rdx
    cmpq %rcx, %rdx
    je 2f
    movq %rcx, %cr2 /* expensive, and rarely different */
2:
/*
 * From here on an NMI would be noticed only at the next exit. The handler (traps.c) sends RIPs of this range back to vmx_again;
 * popping doesn't destroy the registers in struct cpu.
 */
    .globl vmx_window_start
vmx_window_start:
    cmpb $0, CPU_NMI_PENDING(%rsp)
    jne vmx_again
    testl %eax, %eax
    popq %rax
    popq %rcx
    popq %rdx
    popq %rbx
    leaq 8(%rsp), %rsp /* not ADD: the flags are still needed */
    popq %rbp
    popq %rsi
    popq %rdi
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    jnz 3f
    vmresume
    jmp 4f
3:  vmlaunch
4:
    .globl vmx_window_end
vmx_window_end:
    /* VMfail: CF says VMfailInvalid. RSP is behind regs.gpr. */
    leaq -CPU_REGS_BYTES(%rsp), %rsp
    movq %rsp, %rdi
    setc %sil
    movzbl %sil, %esi
    call host_entry_failed
    jmp 1b

/* void vmx_run(struct cpu *cpu): start running L1 on cpu's stack; never returns. */
    .globl vmx_run
vmx_run:
    movq %rdi, %rsp
    xorl %ebp, %ebp
    jmp vmx_again

/*
 * bool reinit_out(volatile uint64_t *stack, uint64_t patience)
 *
 * Leaves VMX operation and says through `stack` where this processor goes on after a reset, at reinit_in. False: none came in that many
 * rounds.
 */
    .globl reinit_out, reinit_in
reinit_out:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    vmxoff
1:  pause
    decq %rsi
    jnz 1b
    xorl %eax, %eax
    jmp 2f

/* RDI: what reinit_out stored. */
reinit_in:
    movq %rdi, %rsp
    movl $1, %eax
2:  popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .section .note.GNU-stack, "", @progbits
