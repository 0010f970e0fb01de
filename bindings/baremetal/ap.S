/* SPDX-License-Identifier: MIT */
/*
 * What a processor runs first when L0 starts it: from real mode at the page of a start-up IPI to 64-bit mode on L0's page tables and the
 * stack that processors.c chose. It is copied to a page below 1 MiB, which those tables map one to one as long as it takes, so all
 * addresses here are offsets in that page.
 */
#include "layout.h"

#define OFFSET(label) ((label) - ap_start)

    .section .rodata
    .balign 16
    .globl ap_start, ap_end, ap_patch
    .code16
ap_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movl $0x20, %eax /* CR4.PAE */
    movl %eax, %cr4
    movl OFFSET(ap_cr3), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* IA32_EFER: LME and NXE, as boot.S */
    movl $0x900, %eax
    xorl %edx, %edx
    wrmsr
    lgdtl OFFSET(ap_gdt_pointer)
    movl $0x80010031, %eax /* CR0: PG WP NE ET PE; the caches on */
    movl %eax, %cr0
    ljmpl *OFFSET(ap_far)

    .code64
ap_long:
    movl $SELECTOR_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq ap_stack(%rip), %rdi
    movq %rdi, %rsp
    xorl %ebp, %ebp
    call *ap_main(%rip)
    ud2

    .balign 8
ap_gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* SELECTOR_CODE: 64-bit */
    .quad 0x00cf93000000ffff /* SELECTOR_DATA */
ap_gdt_end:

/* struct ap_patch in processors.c, which adds the page's address to the first two. */
    .balign 8
ap_patch:
ap_far:
    .long OFFSET(ap_long)
    .word SELECTOR_CODE
ap_gdt_pointer:
    .word ap_gdt_end - ap_gdt - 1
    .long OFFSET(ap_gdt)
ap_cr3:
    .long 0
ap_stack:
    .quad 0
ap_main:
    .quad 0
ap_end:

    .section .note.GNU-stack, "", @progbits
