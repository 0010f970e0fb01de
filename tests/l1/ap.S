/* SPDX-License-Identifier: MIT */
/*
 * What the second processor runs after a start-up IPI: copied to AP_PAGE, which L1 maps one to one. It notes the state that it finds, goes to
 * 64-bit mode on L1's page tables and calls second_main.
 */
    .set AP_PAGE, 0x8000

    .text
    .globl ap_start, ap_end, ap_found
    .code16
ap_start:
    cli
    movl %eax, %cs:found_eax - ap_start
    pushfl                              /* SS:SP = 0:0 wraps to 0:FFFCH */
    popl %eax
    movl %eax, %cs:found_eflags - ap_start
    movl %cr0, %eax
    movl %eax, %cs:found_cr0 - ap_start
    movl %cr4, %eax
    movl %eax, %cs:found_cr4 - ap_start
    movl %dr6, %eax
    movl %eax, %cs:found_dr6 - ap_start
    movl %dr7, %eax
    movl %eax, %cs:found_dr7 - ap_start
    movw %cs, %cs:found_cs - ap_start
    movl $0xc0000080, %ecx
    rdmsr
    movl %eax, %cs:found_efer - ap_start

    movl $0x20, %eax                    /* CR4.PAE */
    movl %eax, %cr4
    movl $l1_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    movl $0x100, %eax                   /* EFER.LME */
    xorl %edx, %edx
    wrmsr
    lgdtl %cs:gdt_pointer - ap_start
    movl $0x80010031, %eax              /* PG WP NE ET PE */
    movl %eax, %cr0
    ljmpl $0x08, $second_start

    .balign 8
gdt_pointer:
    .word 127
    .long l1_gdt
ap_found:
found_eax: .long 0
found_eflags: .long 0
found_cr0: .long 0
found_cr4: .long 0
found_dr6: .long 0
found_dr7: .long 0
found_cs: .long 0
found_efer: .long 0
ap_end:

    .code64
second_start:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $second_stack_top, %esp
    xorl %ebp, %ebp
    call second_main
    ud2

    .bss
    .balign 16
    .skip 16384
second_stack_top:

    .section .note.GNU-stack, "", @progbits
