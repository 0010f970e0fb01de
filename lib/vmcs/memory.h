/* SPDX-License-Identifier: MIT */
/*
 * Internal: access to L1's memory, or L2's, by linear address, as an explicit supervisor-mode data access (VMX instructions need
 * CPL 0).
 */
#ifndef NVMX_LIB_MEMORY_H
#define NVMX_LIB_MEMORY_H

#include "vcpu.h"

/* L2's physical memory: what ept12 makes of L1's. Afterwards: what ept12 did not allow, or what is virtualized (SDM 32.4). */
struct l2_memory {
    bool ept;         /* else gpa2 is gpa1 */
    bool apic_access; /* the access that failed is one to the APIC-access page, */
    uint64_t apic_access_gpa1; /* which is here; or NVMX_NO_ADDRESS */
    struct nvmx_ept_access access; /* what ept12_of gives; the rest is the access that failed */
    enum nvmx_ept_verdict verdict;
    struct nvmx_ept_fault fault;
    uint64_t linear;
};

/*
 * L1's paging mode. The CR fields are vmcs01's guest fields: a host that owns WP, PG, PSE, PAE, SMAP or LA57 by its
 * guest/host masks, or that lets L1 use protection keys on user pages, gives the callback `translate`, and nothing here
 * is used but `mode64`.
 */
struct l1_paging {
    bool long_mode; /* EFER.LMA */
    bool mode64;    /* linear addresses have 64 bits, else 32 */
    bool smap_off;  /* RFLAGS.AC: SMAP does not apply */
    uint64_t cr0;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t pdpte[4]; /* PAE paging only */
    struct l2_memory *l2; /* NULL: the addresses are L1's */
};

/* l1_fault.vector where ept12 does not allow the access, or it leads to the APIC-access page: paging->l2 has it. */
#define FAULT_OF_EPT12 256

/* Of l2_memory.access.qualification. */
#define QUALIFICATION_LINEAR (UINT64_C(1) << 7)
#define QUALIFICATION_FINAL  (UINT64_C(1) << 8)

enum l1_access {
    L1_ACCESS_DONE = 0,
    L1_ACCESS_FAULT, /* *fault says which; nothing was read or written */
    L1_ACCESS_RETRY, /* L1's page tables changed meanwhile: execute the instruction anew */
};

/* With PAE paging: complete paging->pdpte from vmcs01, or from memory where vmcs01 has no EPT (SDM 5.4.1). vmcs01 is
 * selected. */
enum nvmx_status l1_paging_pdptes(struct nvmx_vcpu *vcpu, struct l1_paging *paging);

/*
 * Read or write 1 to 16 bytes, which may cross a page. Both pages are translated before anything is touched. Where a
 * page has no memory, reading gives all ones and writing does nothing, as on a bus without a device.
 */
enum l1_access l1_linear_read(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear, void *to,
                              uint32_t bytes, struct l1_fault *fault);
enum l1_access l1_linear_write(struct nvmx_vcpu *vcpu, const struct l1_paging *paging, uint64_t linear,
                               const void *from, uint32_t bytes, struct l1_fault *fault);

#endif
