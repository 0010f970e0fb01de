/* SPDX-License-Identifier: MIT */
/*
 * One VMX instruction each, to be run by run_in() at another CPL or in compatibility mode. The memory
 * operand is (RDI), the register operand RAX; INT 80H says that nothing faulted.
 */
    .macro PROBES name, insn, insn32
    .section .text
    .code64
7:  \insn
    int $0x80
    .code32
8:  \insn32
    int $0x80
    .section .rodata
6:  .asciz "\name"
    .section .rodata.probes, "a"
    .quad 6b, 7b, 8b
    .endm

    .section .rodata.probes, "a"
    .balign 8
    .globl probes, probes_end
probes:
    PROBES vmxon, "vmxon (%rdi)", "vmxon (%edi)"
    PROBES vmxoff, "vmxoff", "vmxoff"
    PROBES vmclear, "vmclear (%rdi)", "vmclear (%edi)"
    PROBES vmptrld, "vmptrld (%rdi)", "vmptrld (%edi)"
    PROBES vmptrst, "vmptrst (%rdi)", "vmptrst (%edi)"
    PROBES vmread, "vmread %rax, (%rdi)", "vmread %eax, (%edi)"
    PROBES vmwrite, "vmwrite (%rdi), %rax", "vmwrite (%edi), %eax"
    PROBES vmlaunch, "vmlaunch", "vmlaunch"
    PROBES vmresume, "vmresume", "vmresume"
    PROBES vmcall, "vmcall", "vmcall"
    PROBES vmfunc, "vmfunc", "vmfunc"
    PROBES invept, "invept (%rdi), %rax", "invept (%edi), %eax"
    PROBES invvpid, "invvpid (%rdi), %rax", "invvpid (%edi), %eax"
    .section .rodata.probes, "a"
probes_end:

    .section .note.GNU-stack, "", @progbits
