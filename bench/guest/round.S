/* SPDX-License-Identifier: MIT */
/*
 * uint64_t bench_round(const struct bench_registers *registers)
 * One round trip: VMRESUME of the current VMCS, and the least that an exit handler does: read the reason, skip the instruction. 0, or
 * RFLAGS after VMfail. L2 finds RBX, RCX and RDX as given; the VMCS's host RIP is bench_exit, host RSP is loaded anew there.
 */
    .text
    .code64
    .globl bench_round, bench_exit
bench_round:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, bench_rsp
    movq 0(%rdi), %rbx
    movq 8(%rdi), %rcx
    movq 16(%rdi), %rdx
    vmresume
    pushfq
    popq %rax
    jmp 1f
bench_exit:
    movq bench_rsp, %rsp
    movl $0x4402, %eax /* exit reason */
    vmread %rax, %rcx
    movl $0x440c, %eax /* instruction length */
    vmread %rax, %rcx
    movl $0x681e, %eax /* guest RIP */
    vmread %rax, %rdx
    addq %rcx, %rdx
    vmwrite %rdx, %rax
    xorl %eax, %eax
1:  popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .bss
    .balign 8
bench_rsp:
    .skip 8
    .section .note.GNU-stack, "", @progbits
