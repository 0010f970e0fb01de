/* SPDX-License-Identifier: MIT */
/*
 * EPT: the walk of ept12 as the SDM defines it (pure), and ept02, the composition of ept12 and ept01 (SDM 31.3).
 *
 * The composition stands alone: a hypervisor that only wants nested page tables uses this header, caps.h and host.h
 * (callbacks map_page, unmap_page, ept01_lookup, page_alloc, page_free, page_pointer, tlb_flush) and nothing else.
 *
 * Invariants: ept02 permits at most what ept12 and ept01 both permit, on pages mapped in both now; it never maps a page
 * that ept01_lookup did not return; tables are freed only when no EPTP02 leads to them, after a flush, and when no processor can know them.
 *
 * Threading: one composition serves all vCPUs of a VM. Every function but nvmx_ept_init and nvmx_ept_destroy may be called for different
 * vCPUs (and users) at the same time, without a lock of the host; calls for one vCPU come one at a time. Nothing waits for another processor, but
 * for a bounded number of steps while a list is changed, in which no callback is called: so callbacks may take the host's locks, and the host may hold
 * its own while it calls, in any order that suits it. tlb_flush must not wait for a processor that is inside the library (that one has left L2, and can
 * flush before it enters again).
 */
#ifndef NVMX_EPT_H
#define NVMX_EPT_H

#include <nvmx/caps.h>
#include <nvmx/host.h>

/* -- the walk (pure)
 * -------------------------------------------------------------------------------------------------------- */

/* Bits of EPT entries and EPTPs (SDM 27.6.11, 31.3.2). */
#define NVMX_EPT_READ         (UINT64_C(1) << 0)
#define NVMX_EPT_WRITE        (UINT64_C(1) << 1)
#define NVMX_EPT_EXECUTE      (UINT64_C(1) << 2)
#define NVMX_EPT_LARGE        (UINT64_C(1) << 7)
#define NVMX_EPT_ACCESSED     (UINT64_C(1) << 8)
#define NVMX_EPT_DIRTY        (UINT64_C(1) << 9)
#define NVMX_EPT_USER_EXECUTE (UINT64_C(1) << 10)
#define NVMX_EPT_SHADOW_STACK (UINT64_C(1) << 60) /* supervisor shadow stack */
#define NVMX_EPT_SUB_PAGE     (UINT64_C(1) << 61) /* sub-page write permissions, of a 4-KByte page */
#define NVMX_EPT_SUPPRESS_VE  (UINT64_C(1) << 63)
#define NVMX_EPTP_AD          (UINT64_C(1) << 6)

/* Is an EPTP valid for VM entry, INVEPT and EPTP switching (SDM 29.2.1.1) under L1's capabilities? */
NVMX_BEGIN_C
NVMX_API bool nvmx_eptp_valid(const struct nvmx_caps *caps, uint64_t eptp);

/* What one entry of an EPT table is. */
enum nvmx_ept_entry {
    NVMX_EPT_NOT_PRESENT = 0,
    NVMX_EPT_TABLE,     /* refers to the next table */
    NVMX_EPT_LEAF,      /* maps a page */
    NVMX_EPT_MISCONFIG, /* SDM 31.3.3.1 */
};

/*
 * Classify an entry of level 5 (PML5E) to 1 (PTE). `mbec`: mode-based execute control for EPT is on.
 */
NVMX_API enum nvmx_ept_entry nvmx_ept_classify(const struct nvmx_caps *caps, unsigned int level, uint64_t entry,
                                               bool mbec);

/* -- composition
 * ------------------------------------------------------------------------------------------------------------ */

struct nvmx_ept;

struct nvmx_ept_config {
    uint32_t size;                   /* sizeof(struct nvmx_ept_config) */
    /*
     * Most pages that ept02 may use at a time; 0: no limit but the host's allocator. The least is two for each root in use, two for each level below the
     * root of the longest walk, and one for every 20 of these tables; with less a violation can give NVMX_E_NO_MEMORY. With sub-page write permissions a
     * root has two more, and the walk six more.
     */
    uint32_t page_budget;
    const struct nvmx_caps *l1;      /* what L1 sees; copied */
    const struct nvmx_caps *machine; /* what the real CPU has; copied */
};

/* L1's page-modification log (SDM 31.3.6), for vmcs12 with "enable PML". */
struct nvmx_ept_log {
    uint64_t gpa1;  /* PML address: of the page of 512 entries */
    uint16_t index; /* PML index: of the next entry; above 511: the log is full. Counts down as entries are written */
};

/* One EPT violation, misconfiguration or SPP-related event of L2, as hardware reported it. */
struct nvmx_ept_access {
    uint64_t eptp12;
    uint64_t gpa2;
    uint64_t qualification;   /* of the exit (48 or 66), or for exit 49: 0 */
    bool misconfiguration;    /* exit 49 */
    bool mbec;                /* vmcs12 uses mode-based execute control */
    bool spp;                 /* vmcs12 uses sub-page write permissions (SDM 31.3.4), */
    bool spp_event;           /* and this is exit 66 */
    uint32_t bytes;           /* nvmx_ept_translate: how many are accessed from gpa2 on, within a page; 0 counts as 1 */
    struct nvmx_ept_log *log; /* or NULL: vmcs12 does not use PML */
    uint64_t spptp12;         /* with `spp`: its sub-page-permission-table pointer */
};

enum nvmx_ept_verdict {
    NVMX_EPT_RETRY = 0,    /* ept02 now allows it (or an intermediate state changed): enter L2 again */
    NVMX_EPT_L1_VIOLATION, /* ept12 denies it: reflect exit 48 with fault->qualification */
    NVMX_EPT_L1_MISCONFIG, /* ept12 is misconfigured: reflect exit 49 */
    NVMX_EPT_L1_LOG_FULL,  /* a flag of ept12 would be set, but the log is full: reflect exit 62 */
    NVMX_EPT_HOST_FAULT,   /* ept12 allows it, ept01 does not: the host's, at fault->gpa1 */
    NVMX_EPT_FAILED,       /* a callback failed (fault->status); nothing changed */
    NVMX_EPT_L1_SPP_EVENT, /* miss or misconfiguration in L1's sub-page permissions: reflect exit 66 with
                              fault->qualification */
};

struct nvmx_ept_fault {
    uint64_t qualification;
    uint64_t gpa1;
    enum nvmx_status status;
    bool convertible; /* of an L1_VIOLATION: the entry of ept12 that decided does not suppress #VE (SDM 28.5.8.1) */
};

/* Bytes that nvmx_ept_init needs, aligned to 16. */
NVMX_API size_t nvmx_ept_size(void);

/*
 * Make a composition in `memory` (`bytes` >= nvmx_ept_size()), which the caller owns and keeps until nvmx_ept_destroy.
 * `host` must outlive it. `vm_ctx` is the context for the VM's callbacks. NVMX_E_INVALID, NVMX_E_SIZE: see types.h.
 */
NVMX_API enum nvmx_status nvmx_ept_init(void *memory, size_t bytes, const struct nvmx_host *host, void *vm_ctx,
                                        const struct nvmx_ept_config *config, struct nvmx_ept **out);

/*
 * Free all pages. No vCPU may use any of its roots any more. With vcpu_ctx NULL nothing is flushed: then the host must
 * have flushed all EPT translations of the VM before, or do so before it gives the pages another use.
 */
NVMX_API void nvmx_ept_destroy(struct nvmx_ept *ept, void *vcpu_ctx);

/*
 * The EPTP02 that composes eptp12 (which must have passed nvmx_eptp_valid), creating an empty root if there is none.
 * The root stays in use by this vCPU until its next call for the same `user` (a small number below 256 that names the
 * vCPU and vmcs02 slot), or nvmx_ept_release. To be called before L1's every entry to L2, and after L2 has switched EPTPs: here
 * ept02 is compared with ept12 if L1 has executed INVEPT. nvmx_ept_ready: it would do nothing. NVMX_E_NO_MEMORY (also where other processors hold for a
 * moment what there is), NVMX_E_INVALID.
 */
NVMX_API enum nvmx_status nvmx_ept_root(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12,
                                        bool mbec, uint64_t *eptp02);
/*
 * The same for a vmcs12 with sub-page write permissions (SDM 31.3.4), which the machine must have: a root for the two
 * pointers together. *spptp02 is for the field SPPTP, and always belongs to this EPTP02. L1's table is followed as
 * ept12 is: by INVEPT.
 */
NVMX_API enum nvmx_status nvmx_ept_root_spp(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user, uint64_t eptp12,
                                            bool mbec, uint64_t spptp12, uint64_t *eptp02, uint64_t *spptp02);
NVMX_API bool nvmx_ept_ready(const struct nvmx_ept *ept, unsigned int user);
NVMX_API void nvmx_ept_release(struct nvmx_ept *ept, void *vcpu_ctx, unsigned int user);

/*
 * Decide about an EPT violation or misconfiguration of L2, and map what both levels allow. The root must be in use.
 * Where map_page has no page for a table of ept12, its entries read as all ones, as from an empty bus: L1 gets a
 * misconfiguration.
 */
NVMX_API enum nvmx_ept_verdict nvmx_ept_fault(struct nvmx_ept *ept, void *vcpu_ctx,
                                              const struct nvmx_ept_access *access, struct nvmx_ept_fault *fault);

/*
 * The short way of nvmx_ept_fault for an access that ept12 is expected not to map, as of a device that L1 emulates. True: nothing is mapped
 * there; *fault is as nvmx_ept_fault leaves it with NVMX_EPT_L1_VIOLATION. False: nothing happened, and nvmx_ept_fault is to decide.
 */
NVMX_API bool nvmx_ept_unmapped(struct nvmx_ept *ept, void *vcpu_ctx, const struct nvmx_ept_access *access,
                                struct nvmx_ept_fault *fault);

/*
 * INVEPT by L1 on the calling processor: of one EPTP12 (compared by bits 51:12), or of all. Flushes this processor's translations at once
 * (combined mappings hold L2's own page tables too); what ept02 composed from entries of ept12 that have changed goes with the next
 * nvmx_ept_root, the rest stays.
 */
NVMX_API void nvmx_ept_invept(struct nvmx_ept *ept, void *vcpu_ctx, bool all, uint64_t eptp12);

/*
 * ept01 has changed for [gpa1, gpa1 + bytes), and ept01_lookup answers accordingly: nothing of what was there stays mapped in ept02, nor in the TLB of any
 * processor, when this returns. _protected: only the right to write was withdrawn, as for a log of what L1 and L2 write; what was mapped can still be read.
 */
NVMX_API void nvmx_ept_memory_changed(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes);
NVMX_API void nvmx_ept_memory_protected(struct nvmx_ept *ept, void *vcpu_ctx, uint64_t gpa1, uint64_t bytes);

/*
 * Translate access->gpa2 by ept12 alone, as is done where an access of L2 is emulated; sets accessed and dirty flags in ept12 where
 * EPTP12 asks for them. Of access->qualification bits 2:0 (NVMX_ACCESS_ bits are the same), 7 and 8 count; 11:9 are what L2's page
 * tables say of the linear address, for a violation's qualification; bit 9 (a user-mode address) also decides which right a fetch needs under
 * mode-based execute control. NVMX_EPT_RETRY: allowed, at fault->gpa1. No root need be in use. A violation of L1's invalidates as one that a processor
 * finds (SDM 31.4.3.1): tlb_flush may be called.
 */
NVMX_API enum nvmx_ept_verdict nvmx_ept_translate(struct nvmx_ept *ept, void *vcpu_ctx,
                                                  const struct nvmx_ept_access *access, struct nvmx_ept_fault *fault);

/* Pages in use now. */
NVMX_API uint32_t nvmx_ept_pages(const struct nvmx_ept *ept);
NVMX_END_C

#endif
