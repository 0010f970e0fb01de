/* SPDX-License-Identifier: MIT */
/*
 * INT 15H for L1: real-mode code that answers the calls that tell of memory from the table behind it, and leaves all others to
 * the BIOS. It runs as part of L1, position-independent, CS:0 = its first byte; nothing in it exits to L0.
 */
#include "bios.h"

#define SMAP 0x534d4150
#define CARRY 1
#define UNSUPPORTED 0x86
#define FLAGS 6 /* of the caller, above BP, IP and CS */

    .section .rodata
    .globl bios_hook_start
    .code16
bios_hook_start:
    cmpw $0xe820, %ax
    je map
    cmpw $0xe801, %ax
    je sizes
    cmpw $0xe881, %ax
    je sizes32
    cmpb $0x88, %ah
    je size
    cmpb $0x8a, %ah /* Phoenix's, as DA88H and C7H: old BIOSes' ways to ask the same */
    je refuse
    cmpb $0xc7, %ah
    je refuse
    cmpw $0xda88, %ax
    je refuse
    ljmpw *%cs:BIOS_OLD_VECTOR

/* EBX: which entry (0: the first); ES:DI, ECX: the buffer. EBX = 0 afterwards: it was the last. */
map:
    cmpl $SMAP, %edx
    jne refuse
    cmpl $BIOS_MAP_ENTRY, %ecx
    jb refuse
    movzwl %cs:BIOS_MAP_COUNT, %eax
    cmpl %eax, %ebx
    jae refuse
    pushw %ds
    pushw %si
    pushw %di
    pushw %cs
    popw %ds
    imulw $BIOS_MAP_ENTRY, %bx, %si
    addw $BIOS_MAP, %si
    movw $BIOS_MAP_ENTRY, %cx
    cld
    rep movsb
    popw %di
    popw %si
    popw %ds
    incl %ebx
    cmpl %eax, %ebx
    jb 1f
    xorl %ebx, %ebx
1:  movl $SMAP, %eax
    movl $BIOS_MAP_ENTRY, %ecx
    jmp good

sizes32:
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
sizes:
    movw %cs:BIOS_BELOW_16M_KIB, %ax
    movw %ax, %cx
    movw %cs:BIOS_ABOVE_16M_64K, %bx
    movw %bx, %dx
    jmp good

size:
    movw %cs:BIOS_ABOVE_1M_KIB, %ax
good:
    pushw %bp
    movw %sp, %bp
    andw $~CARRY, FLAGS(%bp)
    popw %bp
    iretw

refuse:
    movb $UNSUPPORTED, %ah
    pushw %bp
    movw %sp, %bp
    orw $CARRY, FLAGS(%bp)
    popw %bp
    iretw
    .org bios_hook_start + BIOS_CODE_BYTES /* an error if the code is longer */

    .section .note.GNU-stack, "", @progbits
