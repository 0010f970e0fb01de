/* SPDX-License-Identifier: MIT */
/* What Xen must know to start dom0 as a 64-bit PV guest (xen/elfnote.h), its entry point, the hypercall page and the guest's image. */
#include <xen/elfnote.h>

#define NOTE(type, size, value)                                                                                        \
    .balign 4;                                                                                                         \
    .long 4, size, type;                                                                                               \
    .asciz "Xen";                                                                                                      \
    value;                                                                                                             \
    .balign 4

    .section .note.Xen, "a", @note
    NOTE(XEN_ELFNOTE_GUEST_OS, 5, .asciz "nvmx")
    NOTE(XEN_ELFNOTE_XEN_VERSION, 8, .asciz "xen-3.0")
    NOTE(XEN_ELFNOTE_LOADER, 8, .asciz "generic")
    NOTE(XEN_ELFNOTE_VIRT_BASE, 8, .quad 0)
    NOTE(XEN_ELFNOTE_PADDR_OFFSET, 8, .quad 0)
    NOTE(XEN_ELFNOTE_ENTRY, 8, .quad _start)
    NOTE(XEN_ELFNOTE_HYPERCALL_PAGE, 8, .quad hypercall_page)

    .text
    .globl _start, hypercall_page, guest_start, guest_end
_start: /* RSI: start information; the stack is Xen's */
    cld
    xorl %ebp, %ebp
    andq $-16, %rsp
    call dom0_main
1:  jmp 1b

    .balign 4096
hypercall_page: /* filled by Xen: 32 bytes for each hypercall */
    .skip 4096

    .section .rodata
guest_start:
    .incbin "guest.bin"
guest_end:

    .section .note.GNU-stack, "", @progbits
