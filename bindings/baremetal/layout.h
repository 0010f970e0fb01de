/* SPDX-License-Identifier: MIT */
/* Numbers that C, assembly and the linker script share. */
#ifndef LAYOUT_H
#define LAYOUT_H

/* All physical memory appears at DIRECT_MAP + address, from the first instruction in C on. */
#define DIRECT_MAP            0xffff800000000000
#define DIRECT_MAP_PML4_INDEX 256

#define BOOT_STACK_BYTES      16384
#define CPU_STACK_BYTES       32768 /* libnvmx keeps arrays of all VMCS fields on it */
#define TRAP_STACK_BYTES      8192

#define SELECTOR_CODE         0x08
#define SELECTOR_DATA         0x10
#define SELECTOR_TSS          0x18

#define COM1                  0x3f8

/* Offsets in struct cpu (host.h asserts them). */
#define CPU_REGS_BYTES  128 /* sizeof regs.gpr */
#define CPU_CR2         128
#define CPU_NMI_PENDING 136
#define CPU_SELF        144

#endif
