/* SPDX-License-Identifier: MIT */
/*
 * The code that runs as a guest of KVM: real mode, then protected, then long mode, then one step after
 * the other (protocol.h). It is linked into kvm-guest as data and copied to GUEST_BASE, so that every
 * absolute address is written as ABSOLUTE(label).
 */
#include "protocol.h"

#define ABSOLUTE(label) ((label) - guest_start + GUEST_BASE)

#define CODE32 0x08
#define DATA32 0x10
#define CODE64 0x18

#define CR0_PE 0x00000001
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define MSR_KERNEL_GS_BASE 0xc0000102

/* Page-table entries: present, writable; and a 2-MByte page. */
#define TABLE 0x3
#define LARGE 0x83
#define PML4 PAGE_TABLES
#define PDPT (PAGE_TABLES + 0x1000)
#define PD_LOW (PAGE_TABLES + 0x2000)
#define PD_MMIO (PAGE_TABLES + 0x3000)
#define PD_REMAPPED (PAGE_TABLES + 0x4000)
#define IDT (PAGE_TABLES + 0x5000)

    .section .rodata
    .balign 16
    .globl guest_start, guest_end
guest_start:

    .macro step number
    movl $\number, %eax
    movw $PORT_STEP, %dx
    outl %eax, %dx
    .endm

    .macro value
    movw $PORT_VALUE, %dx
    outl %eax, %dx
    .endm

    .code16
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $GUEST_STACK, %sp
    step STEP_REAL
    movw $ABSOLUTE(text_real), %si
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, $PORT_TEXT
    jmp 1b
2:  movl %cr0, %eax
    value
    lgdtl ABSOLUTE(gdt_pointer)
    movl %cr0, %eax
    orl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $ABSOLUTE(protected)

    .code32
protected:
    movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $GUEST_STACK, %esp
    step STEP_PROTECTED
    movl $ABSOLUTE(text_protected), %esi
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, $PORT_TEXT
    jmp 1b
2:  movl %cr0, %eax
    value

    /* 0-32 MBytes one to one, and one page for MMIO. */
    cld
    xorl %eax, %eax
    movl $PML4, %edi
    movl $(0x6000 / 4), %ecx
    rep stosl
    movl $(PDPT | TABLE), PML4
    movl $(PD_LOW | TABLE), PDPT
    movl $(PD_MMIO | TABLE), PDPT + 8 * (MMIO_BASE >> 30)
    movl $(MMIO_BASE | LARGE), PD_MMIO + 8 * ((MMIO_BASE >> 21) & 511)
    movl $LARGE, %eax
    movl $PD_LOW, %edi
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    cmpl $(0x2000000 | LARGE), %eax
    jne 1b

    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PG, %eax
    movl %eax, %cr0
    ljmpl $CODE64, $ABSOLUTE(long_mode)

    .code64
long_mode:
    movq $GUEST_STACK, %rsp
    step STEP_LONG
    movq $ABSOLUTE(text_long), %rsi
    movl $(text_long_end - text_long), %ecx
    movw $PORT_TEXT, %dx
    rep outsb
    movl $MSR_EFER, %ecx
    rdmsr
    value

    /* Every 8 bytes of a few MBytes get a value made of their address; then all are read back. */
    step STEP_MEMORY
    movl $PATTERN_FACTOR, %ebx
    movl $PATTERN_START, %edi
1:  movq %rdi, %rax
    imulq %rbx, %rax
    movq %rax, (%rdi)
    addl $8, %edi
    cmpl $PATTERN_END, %edi
    jne 1b
    movl $PATTERN_START, %edi
    xorl %ecx, %ecx
2:  movq %rdi, %rax
    imulq %rbx, %rax
    cmpq %rax, (%rdi)
    jne 3f
    incl %ecx
3:  addl $8, %edi
    cmpl $PATTERN_END, %edi
    jne 2b
    movl %ecx, %eax
    value

    step STEP_CPUID
    movl $CPUID_LEAF, %eax
    xorl %ecx, %ecx
    cpuid
    movl %edx, %esi
    movl %ebx, %eax
    value
    movl %ecx, %eax
    value
    movl %esi, %eax
    value

    step STEP_MMIO
    movl $MMIO_BASE, %edi
    movl $MMIO_WRITTEN, (%rdi)
    movb $0x7e, 0x11(%rdi)
    movl 8(%rdi), %eax
    value
    movq 0x20(%rdi), %rbx
    movl %ebx, %eax
    value
    shrq $32, %rbx
    movl %ebx, %eax
    value

    step STEP_PORT_INPUT
    movw $PORT_INPUT, %dx
    inl %dx, %eax
    value

    step STEP_MSR
    movl $MSR_KERNEL_GS_BASE, %ecx
    movl $MSR_VALUE, %eax
    xorl %edx, %edx
    wrmsr
    swapgs
    rdmsr
    value
    swapgs
    rdmsr
    value

    step STEP_PAGE_FAULT
    movl $14, %edi
    movq $ABSOLUTE(on_page_fault), %rsi
    call set_gate
    movl $INTERRUPT_VECTOR, %edi
    movq $ABSOLUTE(on_interrupt), %rsi
    call set_gate
    lidtq ABSOLUTE(idt_pointer)
    xorl %ebp, %ebp
    movl $UNMAPPED_LINEAR, %edi
    movl $REMAPPED_VALUE, (%rdi)
    movl %ebp, %eax
    value
    movl %r8d, %eax
    value
    movl %r9d, %eax
    value
    movl REMAPPED_PAGE, %eax
    value

    /* Two interrupts: one ends the HLT, one comes while interrupts are still off. */
    step STEP_INTERRUPT
    xorl %ebp, %ebp
    sti
    hlt
    movl %ebp, %eax
    value
    cli
    movw $PORT_INPUT, %dx
    inl %dx, %eax
    movl %ebp, %ebx
    sti
    nop
    nop
    movl %ebp, %eax
    subl %ebx, %eax
    value
    cli

    step STEP_END
    hlt
    jmp .

/* In: EDI vector, RSI handler (below 4 GBytes). */
set_gate:
    shll $4, %edi
    movl %esi, %eax
    andl $0xffff, %eax
    orl $(CODE64 << 16), %eax
    movl %eax, IDT(%rdi)
    movl %esi, %eax
    andl $0xffff0000, %eax
    orl $0x8e00, %eax
    movl %eax, IDT + 4(%rdi)
    ret

/* Counts in EBP, keeps the error code in R8 and CR2 in R9, and maps the page that was missing. */
on_page_fault:
    popq %r8
    movq %cr2, %r9
    incl %ebp
    movl $(REMAPPED_PAGE | LARGE), PD_REMAPPED
    movl $(PD_REMAPPED | TABLE), PDPT + 8 * (UNMAPPED_LINEAR >> 30)
    iretq

on_interrupt:
    incl %ebp
    iretq

text_real:
    .asciz "hello from real mode\n"
text_protected:
    .asciz "hello from protected mode\n"
text_long:
    .ascii "hello from long mode\n"
text_long_end:

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long ABSOLUTE(gdt)
    .balign 8
idt_pointer:
    .word 0xfff
    .quad IDT
guest_end:

    .section .note.GNU-stack, "", @progbits
