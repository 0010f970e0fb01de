/* SPDX-License-Identifier: MIT */
/*
 * The assembly that C can't express: interrupt stubs, running code in another mode or at CPL 3, and
 * entering L2.
 */
    .text
    .code64

/* One stub of 16 bytes for each vector; those whose exception has no error code push a zero. */
    .globl trap_stubs
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17)
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq %rsp, %rdi
    cld
    call trap
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

/*
 * void run_in(uint64_t cs, uint64_t ss, const void *code, const void *operand)
 * Runs code with the given selectors and RDI = operand until it faults or executes INT 80H; trap() then
 * makes the interrupt return to run_in_return.
 */
    .globl run_in, run_in_return
run_in:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, run_in_rsp
    pushq %rsi
    pushq $user_stack_top
    pushq $2
    pushq %rdi
    pushq %rdx
    movq %rcx, %rdi
    iretq
run_in_return:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/*
 * uint64_t l2_enter(struct l2_regs *regs, uint64_t launch)
 * 0 after a VM exit; RFLAGS (never 0) after VMfail. The host RIP of the VMCS is l2_exit. RFLAGS is pushed
 * first there, so that the value that the VM exit loaded can be checked.
 */
    .globl l2_enter, l2_exit, l2_enter_mov_ss
l2_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    movl $0x6c14, %eax
    vmwrite %rsp, %rax
    testq %rsi, %rsi
    movq 0x00(%rdi), %rax
    movq 0x08(%rdi), %rcx
    movq 0x10(%rdi), %rdx
    movq 0x18(%rdi), %rbx
    movq 0x28(%rdi), %rbp
    movq 0x30(%rdi), %rsi
    movq 0x40(%rdi), %r8
    movq 0x48(%rdi), %r9
    movq 0x50(%rdi), %r10
    movq 0x58(%rdi), %r11
    movq 0x60(%rdi), %r12
    movq 0x68(%rdi), %r13
    movq 0x70(%rdi), %r14
    movq 0x78(%rdi), %r15
    movq 0x38(%rdi), %rdi
    jz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  pushfq
    popq %rax
    addq $8, %rsp
    jmp l2_return

/* The same with blocking by MOV SS in force at the VMLAUNCH or VMRESUME. */
l2_enter_mov_ss:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rdi
    movl $0x6c14, %eax
    vmwrite %rsp, %rax
    movl %ss, %eax
    testq %rsi, %rsi
    jz 1f
    movl %eax, %ss
    vmlaunch
    jmp 2b
1:  movl %eax, %ss
    vmresume
    jmp 2b

l2_exit:
    pushfq
    pushq %rax
    movq 16(%rsp), %rax
    movq %rcx, 0x08(%rax)
    movq %rdx, 0x10(%rax)
    movq %rbx, 0x18(%rax)
    movq %rbp, 0x28(%rax)
    movq %rsi, 0x30(%rax)
    movq %rdi, 0x38(%rax)
    movq %r8,  0x40(%rax)
    movq %r9,  0x48(%rax)
    movq %r10, 0x50(%rax)
    movq %r11, 0x58(%rax)
    movq %r12, 0x60(%rax)
    movq %r13, 0x68(%rax)
    movq %r14, 0x70(%rax)
    movq %r15, 0x78(%rax)
    popq 0x00(%rax)
    popq 0x80(%rax)
    addq $8, %rsp
    xorl %eax, %eax
l2_return:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .bss
    .balign 16
    .globl run_in_rsp
run_in_rsp:
    .skip 8
    .balign 4096
    .skip 4096
user_stack_top:
    .skip 4096
    .globl trap_stack_top
trap_stack_top:

    .section .note.GNU-stack, "", @progbits
