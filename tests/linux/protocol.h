/* SPDX-License-Identifier: MIT */
/* What kvm-guest.c and the code it runs (guest.S) have agreed upon. Plain numbers: both C and assembler read it. */
#ifndef PROTOCOL_H
#define PROTOCOL_H

/* Guest-physical addresses. The guest has MEMORY_SIZE bytes from 0. */
#define MEMORY_SIZE   0x1000000
#define GUEST_BASE    0x8000
#define GUEST_STACK   0x7000
#define PAGE_TABLES   0x10000
#define PATTERN_START 0x200000
#define PATTERN_END   0x800000
#define REMAPPED_PAGE 0xa00000

/* Nothing lies behind this guest-physical address: an access is an EPT violation in the end. */
#define MMIO_BASE 0xd0000000
/* A linear address that has no page until the guest's own #PF handler maps REMAPPED_PAGE there. */
#define UNMAPPED_LINEAR 0x40000000

/* Ports. */
#define PORT_TEXT        0xe9  /* out, 8 bits: a character */
#define PORT_STEP        0x500 /* out, 32 bits: number of the step whose values follow */
#define PORT_VALUE       0x504 /* out, 32 bits: one value of the step */
#define PORT_INPUT       0x508 /* in, 32 bits: INPUT_VALUE */
#define INPUT_VALUE      0x1d2c3b4a

#define STEP_REAL        1
#define STEP_PROTECTED   2
#define STEP_LONG        3
#define STEP_MEMORY      4
#define STEP_CPUID       5
#define STEP_MMIO        6
#define STEP_PORT_INPUT  7
#define STEP_MSR         8
#define STEP_PAGE_FAULT  9
#define STEP_INTERRUPT   10
#define STEP_END         11

#define PATTERN_FACTOR   0x9e3779b1
#define CPUID_LEAF       0x40000000
#define CPUID_EBX        0x74736554 /* "Test" */
#define CPUID_ECX        0x204c4c20 /* " LL " */
#define CPUID_EDX        0x2173696e /* "nis!" */
#define MMIO_WRITTEN     0x600df00d
#define MMIO_READ        0x5ca1ab1e
#define MSR_VALUE        0x00001234
#define REMAPPED_VALUE   0x0badcafe
#define INTERRUPT_VECTOR 0x40

#endif
