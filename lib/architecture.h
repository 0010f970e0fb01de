/* SPDX-License-Identifier: MIT */
/*
 * Internal: bits of the architecture that the code names: VMX controls, control registers, RFLAGS, IA32_EFER, paging-structure entries, access rights.
 * Values alone: every layer may include it. Names are the SDM's.
 */
#ifndef NVMX_LIB_ARCHITECTURE_H
#define NVMX_LIB_ARCHITECTURE_H

#include <stdint.h>

/* Bits of the control fields that the code names (SDM 27.6, 27.7, 27.8). */
#define PIN_EXTERNAL_INTERRUPT (1u << 0)
#define PIN_NMI (1u << 3)
#define PIN_VIRTUAL_NMIS (1u << 5)
#define PIN_PREEMPTION_TIMER (1u << 6)
#define PIN_POSTED_INTERRUPTS (1u << 7)
#define PROC_INTERRUPT_WINDOW (1u << 2)
#define PROC_TSC_OFFSETTING (1u << 3)
#define PROC_CR3_LOAD (1u << 15)
#define PROC_CR3_STORE (1u << 16)
#define PROC_TERTIARY (1u << 17)
#define PROC_CR8_LOAD (1u << 19)
#define PROC_CR8_STORE (1u << 20)
#define PROC_TPR_SHADOW (1u << 21)
#define PROC_NMI_WINDOW (1u << 22)
#define PROC_UNCONDITIONAL_IO (1u << 24)
#define PROC_IO_BITMAPS (1u << 25)
#define PROC_MONITOR_TRAP (1u << 27)
#define PROC_MSR_BITMAPS (1u << 28)
#define PROC_SECONDARY (1u << 31)
#define PROC2_APIC_ACCESSES (1u << 0)
#define PROC2_EPT (1u << 1)
#define PROC2_RDTSCP (1u << 3)
#define PROC2_X2APIC (1u << 4)
#define PROC2_VPID (1u << 5)
#define PROC2_UNRESTRICTED (1u << 7)
#define PROC2_APIC_REGISTER (1u << 8)
#define PROC2_VIRTUAL_INTERRUPTS (1u << 9)
#define PROC2_PLE (1u << 10)
#define PROC2_INVPCID (1u << 12)
#define PROC2_VM_FUNCTIONS (1u << 13)
#define PROC2_VMCS_SHADOWING (1u << 14)
#define PROC2_ENCLS (1u << 15)
#define PROC2_PML (1u << 17)
#define PROC2_VE (1u << 18)
#define PROC2_XSAVES (1u << 20)
#define PROC2_PASID (1u << 21)
#define PROC2_MBEC (1u << 22)
#define PROC2_SPP (1u << 23)
#define PROC2_TSC_SCALING (1u << 25)
#define PROC2_USER_WAIT (1u << 26)
#define PROC2_PCONFIG (1u << 27)
#define PROC2_ENCLV (1u << 28)
#define PROC2_BUS_LOCK (1u << 30)
#define PROC2_TIMEOUT (1u << 31)
#define PROC3_LOADIWKEY (1u << 0)
#define PROC3_PAGING_WRITE (1u << 2)
#define PROC3_PAGING_VERIFIED (1u << 3)
#define PROC3_MSR_LIST (1u << 6)
#define PROC3_SPEC_CTRL (1u << 7)
#define PROC3_APIC_TIMER (1u << 8)
#define PROC3_PBNDKB (1u << 9)
#define PROC3_PEBS_GPA (1u << 12)
#define EXIT_SAVE_DEBUG (1u << 2)
#define EXIT_HOST_64 (1u << 9)
#define EXIT_ACKNOWLEDGE (1u << 15)
#define EXIT_SAVE_TIMER (1u << 22)
#define EXIT_SECONDARY (1u << 31)
#define EXIT2_SPEC_CTRL (1u << 2)
#define ENTRY_IA32E (1u << 9)
#define ENTRY_SPEC_CTRL (1u << 24)
#define EVENT_VALID (1u << 31)
#define EVENT_ERROR_CODE (1u << 11)
#define EVENT_TYPE(information) (((information) >> 8) & 7)
#define EVENT_TYPE_NMI 2u
#define EVENT_TYPE_OTHER 7u
#define EVENT_MTF (EVENT_VALID | (EVENT_TYPE_OTHER << 8)) /* SDM 28.5.2: a pending MTF VM exit, as an event to inject */
#define EVENT_HARDWARE_EXCEPTION (3u << 8) /* the type, in its place */

/* Control registers (SDM 2.5), IA32_EFER (SDM 2.2.1). */
#define CR0_PE UINT64_C(1)
#define CR0_WP (UINT64_C(1) << 16)
#define CR0_AM (UINT64_C(1) << 18)
#define CR0_PG (UINT64_C(1) << 31)
#define CR4_PSE (UINT64_C(1) << 4)
#define CR4_PAE (UINT64_C(1) << 5)
#define CR4_MCE (UINT64_C(1) << 6)
#define CR4_LA57 (UINT64_C(1) << 12)
#define CR4_VMXE (UINT64_C(1) << 13)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define CR4_SMAP (UINT64_C(1) << 21)
#define CR4_PKS (UINT64_C(1) << 24)
#define CR4_UINTR (UINT64_C(1) << 25)
#define CR4_LAM_SUP (UINT64_C(1) << 28)
#define CR3_LAM_U57 (UINT64_C(1) << 61)
#define CR3_LAM_U48 (UINT64_C(1) << 62)
#define MSR_SPEC_CTRL 0x48u
#define MSR_PERF_GLOBAL_CTRL 0x38fu
#define MSR_EFER 0xc0000080u
#define EFER_LME (UINT64_C(1) << 8)
#define EFER_LMA (UINT64_C(1) << 10)
#define EFER_NXE (UINT64_C(1) << 11)

/* RFLAGS (SDM 3.4.3 of volume 1). */
#define RFLAGS_CF UINT64_C(1)
#define RFLAGS_ZF (UINT64_C(1) << 6)
#define RFLAGS_TF (UINT64_C(1) << 8)
#define RFLAGS_IF (UINT64_C(1) << 9)
#define RFLAGS_RF (UINT64_C(1) << 16)
#define RFLAGS_VM (UINT64_C(1) << 17)
#define RFLAGS_AC (UINT64_C(1) << 18)
#define RFLAGS_ARITHMETIC UINT64_C(0x8d5) /* CF PF AF ZF SF OF */

/* DR7 after a reset and after a VM exit (SDM 30.5.1). */
#define DR7_RESET 0x400u

/* Of VTPR on the virtual-APIC page (SDM 32.1.1): bits 7:4 of the byte are compared with the TPR threshold. */
#define VTPR_OFFSET 0x80u

/* Interruptibility state (SDM 27.4.2). */
#define BLOCKING_MOV_SS 2u
#define BLOCKING_STI_MOV_SS 3u
#define BLOCKING_NMI 8u

/* Paging-structure entries (SDM 5.4, 5.5). */
#define ENTRY_P UINT64_C(1)
#define ENTRY_RW (UINT64_C(1) << 1)
#define ENTRY_US (UINT64_C(1) << 2)
#define ENTRY_A (UINT64_C(1) << 5)
#define ENTRY_D (UINT64_C(1) << 6)
#define ENTRY_PS (UINT64_C(1) << 7)
#define ENTRY_PAT (UINT64_C(1) << 12) /* of a large page; bits between it and the address are reserved */
#define ENTRY_XD (UINT64_C(1) << 63)

/* Access rights of a segment (SDM 27.4.1). */
#define RIGHTS_READ_WRITE (1u << 1) /* data: writable; code: readable */
#define RIGHTS_EXPAND_DOWN (1u << 2)
#define RIGHTS_CODE (1u << 3)
#define RIGHTS_DPL (3u << 5)
#define RIGHTS_L (1u << 13)
#define RIGHTS_BIG (1u << 14)
#define RIGHTS_UNUSABLE (1u << 16)

#endif
