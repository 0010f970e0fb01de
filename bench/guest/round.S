/* SPDX-License-Identifier: MIT */
/*
 * uint64_t bench_round(const struct bench_registers *registers)
 * uint64_t bench_launch(const struct bench_registers *registers)
 * One round trip: VMRESUME (or VMLAUNCH) of the current VMCS, and an exit handler. 0, or RFLAGS after VMfail. L2 finds RBX, RCX and RDX
 * as given; the VMCS's host RIP is one of the labels below, host RSP is loaded anew there.
 */
    .text
    .code64
    .globl bench_round, bench_launch, bench_exit, bench_exit_busy, bench_exit_stay, bench_exit_blind
    .macro enter_by instruction
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
    \instruction
    pushfq
    popq %rax
    jmp bench_return
    .endm

bench_round:
    enter_by vmresume
bench_launch:
    enter_by vmlaunch

    .macro read_field encoding
    movl $\encoding, %eax
    vmread %rax, %rcx
    .endm
    .macro write_field encoding
    movl $\encoding, %eax
    vmwrite %rcx, %rax
    .endm

/* A hypervisor that looks at everything: why, where, in which mode; and that tells hardware what may have changed. */
bench_exit_busy:
    movq bench_rsp, %rsp
    read_field 0x4402 /* exit reason */
    read_field 0x6400 /* exit qualification */
    read_field 0x4404 /* exit interruption information */
    read_field 0x4408 /* IDT-vectoring information */
    read_field 0x440e /* instruction information */
    read_field 0x640a /* guest-linear address */
    read_field 0x6820 /* RFLAGS */
    read_field 0x681c /* RSP */
    read_field 0x6800 /* CR0 */
    read_field 0x6802 /* CR3 */
    read_field 0x6804 /* CR4 */
    read_field 0x4816 /* CS access rights */
    read_field 0x6808 /* CS base */
    read_field 0x4818 /* SS access rights */
    read_field 0x4824 /* interruptibility */
    write_field 0x4824
    movl $0, %ecx
    write_field 0x4016 /* entry interruption information */
    movq %rsp, %rcx
    write_field 0x6c14 /* host RSP */
    jmp 2f

/* What one that knows the reason beforehand does: nothing. */
bench_exit_blind:
    movq bench_rsp, %rsp
    xorl %eax, %eax
    jmp bench_return

bench_exit_stay:
    movq bench_rsp, %rsp
    read_field 0x4402
    xorl %eax, %eax
    jmp bench_return

bench_exit:
    movq bench_rsp, %rsp
    read_field 0x4402
2:  read_field 0x440c /* instruction length */
    movl $0x681e, %eax /* RIP */
    vmread %rax, %rdx
    addq %rcx, %rdx
    vmwrite %rdx, %rax
    xorl %eax, %eax
bench_return:
    popq %r15
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
