/* SPDX-License-Identifier: MIT */
/*
 * From the boot loader to C.
 *
 * The header carries the address fields ("a.out kludge"), so that a loader that can't read ELF64 can load the file too. The image
 * is linked and loaded at 1 MiB; host_main later copies it to the top of memory and switches to page tables that map the
 * same virtual addresses there, which is why nothing here or later needs relocating.
 */
#include "layout.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00010003 /* page-aligned modules, memory information, address fields */
#define LOADER_MAGIC 0x2badb002

    .section .multiboot, "a"
    .balign 4
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
    .long multiboot_header
    .long image_start
    .long image_data_end
    .long image_end
    .long boot_start

    .section .text.boot, "ax"
    .code32
    .globl boot_start
boot_start:
    cli
    cld
    movl $boot_stack_top, %esp
    cmpl $LOADER_MAGIC, %eax
    jne 8f
    movl %ebx, %ebp /* the multiboot information; CPUID takes EBX */

    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb 9f
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx /* long mode */
    jnc 9f
    btl $20, %edx /* NX */
    jnc 9f

    /* The first 4 GiB in 2 MiB pages, at 0 and at DIRECT_MAP: enough to reach everything multiboot can tell of. */
    movl $boot_pdpt + 3, %eax
    movl %eax, boot_pml4
    movl %eax, boot_pml4 + 8 * DIRECT_MAP_PML4_INDEX
    movl $boot_pd + 3, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax
    movl $boot_pd, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $0x20, %eax /* CR4.PAE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* IA32_EFER: LME and NXE, nothing else of the loader's */
    movl $0x900, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010031, %eax /* CR0: PG WP NE ET PE; the caches on */
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $SELECTOR_CODE, $boot_long

8:  movl $not_multiboot, %esi
    jmp fail
9:  movl $no_long_mode, %esi

/* ESI: the message. Without 64-bit mode there is no way to the C code. */
fail:
    movw $COM1 + 3, %dx /* 8 bits, no parity, one stop bit */
    movb $3, %al
    outb %al, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    movb $0x20, %bl /* takes a character */
    call wait_for_line
    movw $COM1, %dx
    outb %al, %dx
    jmp 1b
2:  movb $0x40, %bl /* sent the last one */
    call wait_for_line

    /* Bochs ends when it is asked to at its own port; ACPI's RSDP says whether it is Bochs. */
    movl $0xe0000, %edi
3:  cmpl $0x20445352, (%edi) /* "RSD PTR ", checksum, "BOCHS " */
    jne 4f
    cmpl $0x48434f42, 9(%edi)
    je 5f
4:  addl $16, %edi
    cmpl $0x100000, %edi
    jb 3b
    jmp 6f
5:  movl $shutdown, %esi
    movl $8, %ecx
    movw $0x8900, %dx
    rep outsb
6:  hlt
    jmp 6b

/* Until the UART's line status has the bits in BL; not for ever. Keeps AL. */
wait_for_line:
    movb %al, %ah
    movw $COM1 + 5, %dx
    movl $1000000, %ecx
1:  inb %dx, %al
    testb %bl, %al
    loopz 1b
    movb %ah, %al
    ret

    .code64
boot_long:
    movl $SELECTOR_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    xorl %edi, %edi
    movl %ebp, %edi
    xorl %ebp, %ebp
    call host_main
    ud2

/*
 * void boot_relocate(uint64_t new_cr3, void *destination, const void *source, uint64_t bytes)
 *
 * Copies the running image, this stack with it, and goes on in the copy: the new tables map the image's virtual addresses there.
 */
    .globl boot_relocate
boot_relocate:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    shrq $3, %rcx
    cld
    rep movsq
    movq %rax, %cr3
    ret

    .section .rodata
no_long_mode:
    .asciz "nvmx: fatal: this CPU has no 64-bit mode\r\n"
not_multiboot:
    .asciz "nvmx: fatal: not started by a multiboot-1 loader\r\n"
shutdown:
    .ascii "Shutdown"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff /* SELECTOR_CODE: 64-bit */
    .quad 0x00cf93000000ffff /* SELECTOR_DATA */
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt

    .section .bss
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
    .balign 16
    .skip BOOT_STACK_BYTES
boot_stack_top:

    .section .note.GNU-stack, "", @progbits
