/* SPDX-License-Identifier: MIT */
/*
 * What the generator writes into the boot module and the image reads: layout of the module, and of the memory that both count on.
 *
 * All numbers are little-endian. The module is a header followed by these parts, in this order, each aligned to 8 bytes:
 *   uint32_t encodings[fields]                   the VMCS fields that every vector sets or reads, with DIFF_FIELD_ flags in bits 31:16
 *   uint64_t base[bases][fields]                 valid states
 *   struct diff_poke memory[pokes]               memory that the states point to, written once
 *   vectors: struct diff_vector, then its changes (struct diff_change)
 *   sequences: struct diff_sequence, then its operations (struct diff_operation)
 */
#ifndef DIFF_PROTOCOL_H
#define DIFF_PROTOCOL_H

#include <stdint.h>

#define DIFF_MAGIC 0x31666469u

struct diff_header {
    uint32_t magic;
    uint32_t fields, bases, pokes, vectors, sequences;
    uint32_t flags;
    uint32_t dump_from; /* with DIFF_DUMP: from the vector or sequence of this number on */
};
#define DIFF_DUMP 1u /* print every field after each vector, and every operation's result */

/* Flags of an encoding. */
#define DIFF_FIELD_WRITE 0x10000u /* VMWRITE it before the entry */
#define DIFF_FIELD_HASH  0x20000u /* its value after the vector is part of the hash */

struct diff_poke {
    uint64_t address, value;
    uint64_t count; /* this many times, 8 bytes apart... */
    uint64_t step;  /* ...each time with this added to the value */
};

struct diff_vector {
    uint32_t number;
    uint8_t base;
    uint8_t flags;
    uint16_t changes;
};
#define DIFF_VECTOR_RESUME 1u /* VMRESUME if the VMCS is launched by then, instead of VMCLEAR, VMPTRLD, VMLAUNCH */
#define DIFF_VECTOR_HOST32 2u /* L1 executes the entry in 32-bit protected mode */

/* A field's place in `encodings`, or an address of DIFF_ARENA for 8 bytes of memory that are put back afterwards. */
struct diff_change {
    uint32_t place, reserved;
    uint64_t value;
};

struct diff_sequence {
    uint32_t number;
    uint32_t operations;
};

struct diff_operation {
    uint8_t kind; /* enum diff_kind */
    uint8_t mode; /* enum diff_mode */
    uint8_t form; /* where the operand lies: enum diff_place; of VMLAUNCH and VMRESUME: 1: behind MOV SS */
    uint8_t reserved[5];
    uint64_t a, b, c; /* by kind */
};

enum diff_kind {
    /* In the order of the probes in tests/l1/probes.S. */
    DIFF_OP_VMXON,    /* a: the pointer */
    DIFF_OP_VMXOFF,
    DIFF_OP_VMCLEAR,  /* a: the pointer */
    DIFF_OP_VMPTRLD,  /* a: the pointer */
    DIFF_OP_VMPTRST,
    DIFF_OP_VMREAD,   /* a: the encoding */
    DIFF_OP_VMWRITE,  /* a: the encoding, b: the value */
    DIFF_OP_VMLAUNCH,
    DIFF_OP_VMRESUME,
    DIFF_OP_VMCALL,
    DIFF_OP_VMFUNC,
    DIFF_OP_INVEPT,   /* a: the type, b and c: the descriptor */
    DIFF_OP_INVVPID,  /* a: the type, b and c: the descriptor */
    DIFF_OP_CR0,      /* a: the value */
    DIFF_OP_CR4,      /* a: the value */
    DIFF_OP_REVISION, /* a: address of DIFF_ARENA, b: exclusive-ored with the revision identifier and stored there */
    DIFF_OP_FILL,     /* write base state number a into the current VMCS */
    DIFF_OP_ERROR,    /* read the VM-instruction error */
    DIFF_OP_RDMSR,    /* a: the index */
    DIFF_OP_WRMSR,    /* a: the index, b: the value */
    DIFF_OPS,
};

enum diff_mode { DIFF_MODE_64, DIFF_MODE_COMPATIBILITY, DIFF_MODE_USER64, DIFF_MODE_USER32, DIFF_MODES };
/* DIFF_REGISTER is for VMREAD and VMWRITE; the others take it as DIFF_MEMORY. */
enum diff_place { DIFF_REGISTER, DIFF_MEMORY, DIFF_NOT_PRESENT, DIFF_NON_CANONICAL, DIFF_READ_ONLY, DIFF_PLACES };

/* -- memory, in gpa1 ---------------------------------------------------------------------------------------------------------- */

/*
 * One region that holds everything states point to, far above what boot loaders and the image use. Its first 2 MBytes are L2's memory: gpa2 0
 * and gpa2 DIFF_ARENA both lead there with EPT, linear 0 and linear DIFF_ARENA by L2's page tables, so that the same code and tables are found
 * with EPT and without, with paging and without.
 */
#define DIFF_ARENA      0x08000000u
#define DIFF_ARENA_SIZE 0x00400000u

#define DIFF_L2_MEMORY 0x200000u
/* Offsets in L2's memory. */
#define DIFF_L2_IVT      0x00000u
#define DIFF_L2_PML4     0x01000u
#define DIFF_L2_PDPT     0x02000u
#define DIFF_L2_PD       0x03000u
#define DIFF_L2_PAE_PDPT 0x04000u
#define DIFF_L2_PD32     0x05000u
#define DIFF_L2_IDT64    0x06000u
#define DIFF_L2_IDT32    0x07000u
#define DIFF_L2_GDT      0x08000u
#define DIFF_L2_TSS      0x09000u
#define DIFF_L2_LDT      0x0a000u
/* Code: nothing but INT3 (CCH), which exits in every mode. */
#define DIFF_L2_CODE     0x10000u
#define DIFF_L2_CODE_END 0x20000u
#define DIFF_L2_STACK    0x28000u

/* Structures of L1 for L2: pages of their own, none of them L2's. */
#define DIFF_PAGES         (DIFF_ARENA + 0x200000u)
#define DIFF_VMCS          (DIFF_PAGES + 0x00000u) /* the VMCS of all vectors */
#define DIFF_VMXON         (DIFF_PAGES + 0x01000u)
#define DIFF_IO_BITMAP_A   (DIFF_PAGES + 0x02000u)
#define DIFF_IO_BITMAP_B   (DIFF_PAGES + 0x03000u)
#define DIFF_MSR_BITMAP    (DIFF_PAGES + 0x04000u)
#define DIFF_VIRTUAL_APIC  (DIFF_PAGES + 0x05000u)
#define DIFF_APIC_ACCESS   (DIFF_PAGES + 0x06000u)
#define DIFF_PML           (DIFF_PAGES + 0x07000u)
#define DIFF_EPTP_LIST     (DIFF_PAGES + 0x08000u)
#define DIFF_VMREAD_BITMAP (DIFF_PAGES + 0x09000u)
#define DIFF_VMWRITE_BITMAP (DIFF_PAGES + 0x0a000u)
#define DIFF_VE_INFO       (DIFF_PAGES + 0x0b000u)
#define DIFF_EPT_PML4      (DIFF_PAGES + 0x0c000u)
#define DIFF_EPT_PDPT      (DIFF_PAGES + 0x0d000u)
#define DIFF_EPT_PD        (DIFF_PAGES + 0x0e000u)
#define DIFF_MSR_STORE     (DIFF_PAGES + 0x10000u)
#define DIFF_MSR_LOAD      (DIFF_PAGES + 0x11000u) /* on exit */
#define DIFF_ENTRY_MSRS    (DIFF_PAGES + 0x12000u) /* on entry */
#define DIFF_SHADOW_VMCS   (DIFF_PAGES + 0x13000u) /* revision with bit 31 */
#define DIFF_PLAIN_VMCS    (DIFF_PAGES + 0x14000u) /* revision without it */
#define DIFF_OTHER_VMCS    (DIFF_PAGES + 0x15000u) /* a wrong revision */
/* For values of address fields that no structure above is meant for: zeroes. */
#define DIFF_SCRATCH       (DIFF_PAGES + 0x40000u)
#define DIFF_SCRATCH_SIZE  0x20000u
/* The VMCS regions of sequences; each begins with the revision identifier, the rest is 0. */
#define DIFF_REGIONS       (DIFF_PAGES + 0x80000u)
#define DIFF_REGION_COUNT  8u

/* L1's own state after an exit. */
#define DIFF_HOST_PML4  (DIFF_PAGES + 0xc0000u) /* identity map of 4 GBytes, supervisor only; its tables follow */
#define DIFF_HOST_GDT   (DIFF_PAGES + 0xd0000u)
#define DIFF_HOST_IDT   (DIFF_PAGES + 0xd1000u)
#define DIFF_HOST_TSS   (DIFF_PAGES + 0xd2000u)
#define DIFF_HOST_ENTRY (DIFF_PAGES + 0xd3000u) /* code: jumps into the image */
#define DIFF_HOST_ENTRY32 (DIFF_PAGES + 0xd4000u)
#define DIFF_HOST_PD32  (DIFF_PAGES + 0xd5000u) /* 32-bit paging, 4-MByte pages */
#define DIFF_HOST_RSP   (DIFF_PAGES + 0xe0000u)

/* What generator and image agree on for L1's state outside L2. */
#define DIFF_HOST_CR0  0x80010031u
#define DIFF_HOST_CR4  0x00002020u
#define DIFF_HOST_EFER 0x00000500u
#define DIFF_HOST_PAT  0x0007040600070406ull

/* Segment selectors in L2's GDT, and in L1's (tests/l1). */
enum { DIFF_SEL_CODE64 = 0x08, DIFF_SEL_DATA = 0x10, DIFF_SEL_CODE32 = 0x18, DIFF_SEL_TSS = 0x20, DIFF_SEL_LDT = 0x30,
       DIFF_HOST_CS = 0x08, DIFF_HOST_SS = 0x10, DIFF_HOST_CS32 = 0x18, DIFF_HOST_TR = 0x38 };

#endif
