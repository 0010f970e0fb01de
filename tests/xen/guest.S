/* SPDX-License-Identifier: MIT */
/*
 * The domain that Xen runs in VMX non-root operation: L2. A flat binary at GUEST_START, entered in flat 32-bit protected mode. It
 * speaks through Xen's console port for HVM domains, and ends by a hypercall.
 */
#include "guest.h"

#define CONSOLE_PORT 0xe9
#define SEGMENT_CODE64 0x08
#define SEGMENT_DATA 0x10
#define EFER 0xc0000080
#define HYPERCALL_XEN_VERSION 17
#define HYPERCALL_SCHED_OP 29
#define SCHEDOP_SHUTDOWN 2
#define SHUTDOWN_POWEROFF 0
#define SHUTDOWN_CRASH 3

    .text
    .code32
    .globl _start
_start:
    movl $stack_top, %esp
    movl $protected, %esi
    call say

    movl $0xa0, %eax /* PAE, PGE */
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $SEGMENT_CODE64, $long_mode

/* ESI: text that ends with NUL. */
say:
    movw $CONSOLE_PORT, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  ret

    .code64
say64:
    movw $CONSOLE_PORT, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  ret

/* AX: two digits at most. */
say_number:
    movb $10, %bl
    divb %bl
    movb %ah, %bh
    movw $CONSOLE_PORT, %dx
    testb %al, %al
    jz 1f
    addb $'0', %al
    outb %al, %dx
1:  movb %bh, %al
    addb $'0', %al
    outb %al, %dx
    ret

long_mode:
    movl $SEGMENT_DATA, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl $long_text, %esi
    call say64

    /* Who is above? */
    movl $0x40000000, %eax
    cpuid
    movl %ebx, signature
    movl %ecx, signature + 4
    movl %edx, signature + 8
    movl $cpuid_text, %esi
    call say64
    movl $signature, %esi
    call say64
    movl $newline, %esi
    call say64

    /* The hypercall page: CPUID says which MSR puts it where. */
    movl $0x40000002, %eax
    cpuid
    movl %ebx, %ecx
    movl $hypercalls, %eax
    xorl %edx, %edx
    wrmsr
    xorl %edi, %edi /* XENVER_version */
    xorl %esi, %esi
    call hypercalls + 32 * HYPERCALL_XEN_VERSION
    movl %eax, %ebp
    movl $version_text, %esi
    call say64
    movl %ebp, %eax
    shrl $16, %eax
    call say_number
    movb $'.', %al
    outb %al, %dx
    movzwl %bp, %eax
    call say_number
    movl $newline, %esi
    call say64

    /* Each page of the domain's memory behind this program gets its own address, then all are read. */
    movl $GUEST_MEMORY_START, %edi
1:  movq %rdi, (%rdi)
    movq %rdi, 4088(%rdi)
    addl $4096, %edi
    cmpl $GUEST_MEMORY_END, %edi
    jb 1b
    xorl %ecx, %ecx
    movl $GUEST_MEMORY_START, %edi
2:  cmpq %rdi, (%rdi)
    jne failed
    cmpq %rdi, 4088(%rdi)
    jne failed
    addl $4096, %edi
    cmpl $GUEST_MEMORY_END, %edi
    jb 2b
    movl $memory_text, %esi
    call say64
    movl $SHUTDOWN_POWEROFF, reason
    jmp end
failed:
    movl $failed_text, %esi
    call say64
    movl $SHUTDOWN_CRASH, reason
end:
    movl $SCHEDOP_SHUTDOWN, %edi
    movl $reason, %esi
    call hypercalls + 32 * HYPERCALL_SCHED_OP
    hlt

protected:
    .asciz "L2: protected mode\n"
long_text:
    .asciz "L2: long mode\n"
cpuid_text:
    .asciz "L2: CPUID says "
version_text:
    .asciz "L2: VMCALL says Xen "
memory_text:
    .asciz "L2: memory holds what was written\n"
failed_text:
    .asciz "L2: FAILED: memory lost what was written\n"
newline:
    .asciz "\n"

    .balign 8
signature:
    .skip 16
reason:
    .long 0
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .balign 4096
pml4:
    .quad pdpt + 7
    .skip 4088
pdpt:
    .quad pd + 7
    .skip 4088
pd: /* the first 16 MiB, one to one */
    .set page, 0
    .rept 8
    .quad page + 0x87
    .set page, page + 0x200000
    .endr
    .skip 4096 - 64
hypercalls:
    .skip 4096
    .skip 4096
stack_top:

    .section .note.GNU-stack, "", @progbits
