/* SPDX-License-Identifier: MIT */
/*
 * Entering L2, and coming back with whatever state the VMCS gave L1.
 */
    .text
    .code64

/*
 * uint64_t diff_enter(uint64_t launch)
 * 0 after a VM exit or entry failure; RFLAGS (never 0) after VMfail; a fault of the instruction ends at diff_faulted and
 * returns ~0. Registers of L2 hold a pattern, so that an exit that loses one is seen.
 */
    .globl diff_enter, diff_enter_mov_ss, diff_exit, diff_faulted
diff_enter_mov_ss:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, diff_rsp
    movl %ss, %eax
    testq %rdi, %rdi
    jz 1f
    movl %eax, %ss
    vmlaunch
    jmp 2f
1:  movl %eax, %ss
    vmresume
2:  pushfq
    popq %rax
    jmp diff_return

diff_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, diff_rsp
    testq %rdi, %rdi
    movl $0x11111111, %eax
    movl $0x22222222, %ecx
    movl $0x33333333, %edx
    movl $0x44444444, %ebx
    movl $0x55555555, %ebp
    movl $0x66666666, %esi
    movl $0x77777777, %edi
    movl $0x88888888, %r8d
    movl $0x99999999, %r9d
    movl $0xaaaaaaaa, %r10d
    movl $0xbbbbbbbb, %r11d
    movl $0xcccccccc, %r12d
    movl $0xdddddddd, %r13d
    movl $0xeeeeeeee, %r14d
    movl $0xffffffff, %r15d
    jz 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  pushfq
    popq %rax
    jmp diff_return

diff_faulted:
    movq diff_rsp, %rsp
    movq $-1, %rax
    jmp diff_return

/* The state that the exit loaded goes to diff_host (struct host_state) first; then L1's own is put back. */
diff_exit:
    movq %rax, diff_host + 0x00
    movq %rcx, diff_host + 0x08
    movq %rdx, diff_host + 0x10
    movq %rbx, diff_host + 0x18
    movq %rsp, diff_host + 0x20
    movq %rbp, diff_host + 0x28
    movq %rsi, diff_host + 0x30
    movq %rdi, diff_host + 0x38
    movq %r8,  diff_host + 0x40
    movq %r9,  diff_host + 0x48
    movq %r10, diff_host + 0x50
    movq %r11, diff_host + 0x58
    movq %r12, diff_host + 0x60
    movq %r13, diff_host + 0x68
    movq %r14, diff_host + 0x70
    movq %r15, diff_host + 0x78
    movq diff_rsp, %rsp
    pushfq
    popq diff_host + 0x80
    movw %es, diff_host + 0x88
    movw %cs, diff_host + 0x8a
    movw %ss, diff_host + 0x8c
    movw %ds, diff_host + 0x8e
    movw %fs, diff_host + 0x90
    movw %gs, diff_host + 0x92
    sldt diff_host + 0x94
    str diff_host + 0x96
    sgdt diff_host + 0x98
    sidt diff_host + 0xa8
    lgdt diff_own_gdtr
    lidt diff_own_idtr
    movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    /* IRET, because it also ends blocking by NMI, which would last to the next vector. */
    movq %rsp, %rax
    pushq $0x10
    pushq %rax
    pushq $2
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    iretq
1:  xorl %eax, %eax

diff_return:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/*
 * uint64_t diff_enter32(void): VMLAUNCH by an L1 in 32-bit protected mode. VMX operation forbids to leave 64-bit mode, so it is left and
 * entered again for it; the VMCS survives in its region, cleared. Returns as diff_enter; the caller finds VMX on and the VMCS current.
 */
    .globl diff_enter32, diff_exit32
diff_enter32:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, diff_rsp
    vmclear diff_vmcs_pointer
    vmxoff
    pushq $0x18
    pushq $1f
    lretq
    .code32
1:  movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl $0x00010031, %eax              /* paging off: out of 64-bit mode */
    movl %eax, %cr0
    movl $0xc0000080, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x2010, %eax                  /* VMXE, PSE */
    movl %eax, %cr4
    movl diff_pd32, %eax
    movl %eax, %cr3
    movl $0x80010031, %eax
    movl %eax, %cr0
    vmxon diff_vmxon_pointer
    vmptrld diff_vmcs_pointer
    movl $0x11111111, %eax
    movl $0x22222222, %ecx
    movl $0x33333333, %edx
    movl $0x44444444, %ebx
    movl $0x55555555, %ebp
    movl $0x66666666, %esi
    movl $0x77777777, %edi
    vmlaunch
    pushfl
    popl diff_flags
    jmp diff_return32

diff_exit32:
    movl %eax, diff_host + 0x00
    movl %ecx, diff_host + 0x08
    movl %edx, diff_host + 0x10
    movl %ebx, diff_host + 0x18
    movl %esp, diff_host + 0x20
    movl %ebp, diff_host + 0x28
    movl %esi, diff_host + 0x30
    movl %edi, diff_host + 0x38
    movl diff_rsp, %esp
    pushfl
    popl diff_host + 0x80
    movw %es, diff_host + 0x88
    movw %cs, diff_host + 0x8a
    movw %ss, diff_host + 0x8c
    movw %ds, diff_host + 0x8e
    movw %fs, diff_host + 0x90
    movw %gs, diff_host + 0x92
    sldt diff_host + 0x94
    str diff_host + 0x96
    sgdt diff_host + 0x98
    sidt diff_host + 0xa8
    movl %cr0, %eax
    movl %eax, diff_host + 0xb8
    movl %cr3, %eax
    movl %eax, diff_host + 0xc0
    movl %cr4, %eax
    movl %eax, diff_host + 0xc8
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, diff_host + 0xd0
    lgdt diff_own_gdtr
    movl $0, diff_flags

diff_return32:
    vmclear diff_vmcs_pointer
    vmxoff
    movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl diff_rsp, %esp
    movl $0x00010031, %eax
    movl %eax, %cr0
    movl $0x2020, %eax                  /* VMXE, PAE */
    movl %eax, %cr4
    movl diff_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010031, %eax
    movl %eax, %cr0
    ljmp $0x08, $1f
    .code64
1:  lidt diff_own_idtr
    movq diff_rsp, %rsp
    vmxon diff_vmxon_pointer
    vmptrld diff_vmcs_pointer
    movl diff_flags, %eax
    jmp diff_return

    .data
    .balign 8
    .globl diff_vmcs_pointer, diff_vmxon_pointer, diff_pd32, diff_pml4
diff_vmcs_pointer:
    .quad 0
diff_vmxon_pointer:
    .quad 0
diff_pd32:
    .long 0
diff_pml4:
    .long 0
diff_flags:
    .long 0

    .bss
    .balign 16
diff_rsp:
    .skip 8
    .balign 16
    .globl diff_host, diff_own_gdtr, diff_own_idtr
diff_host:
    .skip 0xd8
    .balign 8
diff_own_gdtr:
    .skip 16
diff_own_idtr:
    .skip 16

    .section .note.GNU-stack, "", @progbits
