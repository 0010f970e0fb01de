/* SPDX-License-Identifier: MIT */
/*
 * Entry from a multiboot-1 loader: 32-bit protected mode, paging off (Multiboot 0.6.96, section 3.2).
 * Builds an identity map of the first 4 GB with 2-MB pages and continues in 64-bit mode at l1_main.
 */
    .set MULTIBOOT_MAGIC, 0x1badb002
    .set MULTIBOOT_FLAGS, 0x00000003

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .code32
    .globl _start
_start:
    cli
    cld
    movl %eax, multiboot_magic
    movl %ebx, multiboot_info
    movl $boot_stack_top, %esp

    /* Present, writable, user: scenarios run code at CPL 3 out of the same map. */
    movl $l1_pdpt, %eax
    orl $7, %eax
    movl %eax, l1_pml4
    movl $0, l1_pml4 + 4
    movl $l1_pd, %eax
    orl $7, %eax
    movl $l1_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b

    movl $l1_pd, %edi
    movl $0x87, %eax
    movl $2048, %ecx
2:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $0x20, %eax                    /* CR4.PAE */
    movl %eax, %cr4
    movl $l1_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    movl $0x100, %eax                   /* EFER.LME */
    xorl %edx, %edx
    wrmsr
    movl $0x80010031, %eax              /* PG WP NE ET PE */
    movl %eax, %cr0
    lgdt boot_gdtr32
    ljmp $0x08, $start64

    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $boot_stack_top, %esp
    xorl %ebp, %ebp
    movl multiboot_magic, %edi
    movl multiboot_info, %esi
    call l1_main
3:  cli
    hlt
    jmp 3b

    .data
    .balign 8
boot_gdtr32:
    .word 127
    .long l1_gdt
    .long 0

    .globl l1_gdt
    .balign 16
l1_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 08 code, 64-bit */
    .quad 0x00cf93000000ffff            /* 10 data */
    .quad 0x00cf9b000000ffff            /* 18 code, 32-bit (compatibility mode) */
    .quad 0x00affb000000ffff            /* 20 code, 64-bit, DPL 3 */
    .quad 0x00cff3000000ffff            /* 28 data, DPL 3 */
    .quad 0x00cffb000000ffff            /* 30 code, 32-bit, DPL 3 */
    .quad 0, 0                          /* 38 TSS, filled in at run time */
    .fill 7, 8, 0

    .globl multiboot_magic, multiboot_info
multiboot_magic:
    .long 0
multiboot_info:
    .long 0

    .bss
    .balign 4096
    .globl l1_pml4
l1_pml4:
    .skip 4096
l1_pdpt:
    .skip 4096
l1_pd:
    .skip 4 * 4096
    .skip 32768
    .globl boot_stack_top
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
