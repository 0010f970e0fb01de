/* SPDX-License-Identifier: MIT */
/*
 * The host's side: one struct of callbacks.
 *
 * Every callback gets the context of the vCPU (nvmx_vcpu_config.ctx) first, or that of the VM (nvmx_vm_config.ctx) where the call
 * concerns the whole VM; each says which. The library holds no lock while it calls, calls only from inside a call of the host
 * into it, and only on the thread that made that call; where a host makes calls for several vCPUs at the same time, callbacks come at the same time,
 * those with the VM's context too. A callback may fail at any time, any number of times: the library then
 * refuses the operation, undoes what it began, and passes the status on where a caller can see it. A callback must not call back
 * into the library for the same vCPU.
 */
#ifndef NVMX_HOST_H
#define NVMX_HOST_H

#include <nvmx/trace.h>
#include <nvmx/types.h>

/* Names of the VMCSs that a host keeps for one vCPU. The library never learns their addresses. */
#define NVMX_VMCS01 0u        /* runs L1; set up by the host */
#define NVMX_VMCS_SHADOW 1u   /* only if nvmx_vcpu_config.shadow_hpa is set: what VMCS shadowing reads and writes */
#define NVMX_VMCS02_FIRST 2u  /* vmcs02 slot k is NVMX_VMCS02_FIRST + k */
#define NVMX_VMCS_SHADOWS 128u /* only with nvmx_vcpu_config.shadow_hpas, instead of NVMX_VMCS_SHADOW: slot k's shadow VMCS is this + k */

/* Kinds of access to memory: bits. */
#define NVMX_ACCESS_READ 1u
#define NVMX_ACCESS_WRITE 2u
#define NVMX_ACCESS_EXECUTE 4u

/* The mapping of ept01 (or the host's equivalent) that holds a gpa1. */
struct nvmx_ept01_mapping {
    uint64_t hpa;          /* of the page that contains the gpa1: aligned to the mapping's size */
    uint64_t gpa1;         /* the first address the mapping covers: aligned alike */
    uint32_t size_shift;   /* 12, 21 or 30: the mapping covers 2^size_shift bytes */
    uint32_t access;       /* NVMX_ACCESS_ bits that the host grants now */
    uint32_t memory_type;  /* EPT memory type: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB */
    bool ignore_pat;       /* bit 6 of the EPT entry */
};

/* What tlb_flush drops. */
enum nvmx_flush {
    NVMX_FLUSH_EPT,          /* all translations of one EPT root: value = EPTP02 (as INVEPT single-context) */
    NVMX_FLUSH_EPT_ALL,      /* all translations of all roots of this VM (as INVEPT all-context) */
    NVMX_FLUSH_VPID,         /* all linear and combined mappings of one VPID: value = VPID02 */
    NVMX_FLUSH_VPID_ADDRESS, /* those of one linear address: value = VPID02, linear = the address */
    NVMX_FLUSH_EPT_HERE,     /* as NVMX_FLUSH_EPT, of the calling vCPU alone; of vmcs01's EPTP too, where L2 runs on that */
    NVMX_FLUSH_EPT_ALL_HERE, /* as NVMX_FLUSH_EPT_ALL, of the calling vCPU alone */
    NVMX_FLUSH_VPID_BUT_GLOBALS, /* as NVMX_FLUSH_VPID, but global translations may stay (as INVVPID single-context retaining globals) */
};

/*
 * Callbacks. `size` is sizeof(struct nvmx_host) as the host was compiled: members past it count as NULL, so an old host works with
 * a newer library. Members marked optional may be NULL.
 */
struct nvmx_host {
    uint32_t size;
    uint32_t reserved; /* 0 */

    /* -- L1's memory (ctx of the vCPU) ------------------------------------------------------------------------------------ */

    /*
     * Map the page of L1's memory at gpa1 (aligned to 4 KiB) for the given access and pin it until unmap_page. Stores its hpa in
     * *hpa. Returns a pointer to 4096 bytes, or NULL: there is no memory there (a device, a hole, L0's own memory), or not with
     * that access. The bytes may change at any time; the library reads each one once. A page may be mapped more than once at a time, for one vCPU
     * too: each mapping has its own unmap_page.
     */
    void *(*map_page)(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa);

    /* Release a page. `dirtied`: the library wrote to it, or a vmcs02 that could write to it ran. Can't fail. */
    void (*unmap_page)(void *ctx, uint64_t gpa1, void *page, bool dirtied);

    /*
     * Optional. Translate a linear address of L1 (in its current mode, as a supervisor access unless NVMX_ACCESS_USER is set) to gpa1.
     * Returns NVMX_OK, with accessed and dirty flags set as by the access; NVMX_E_DENIED and *error_code for a page fault; or another status, for
     * which L1 gets #GP(0). Without it the library walks L1's page tables through map_page.
     */
    enum nvmx_status (*translate)(void *ctx, uint64_t linear, uint32_t access, uint64_t *gpa1, uint32_t *error_code);

    /* -- ept01 (ctx of the VM) -------------------------------------------------------------------------------------------- */

    /*
     * Look up gpa1 in ept01. Returns NVMX_OK and the mapping; NVMX_E_UNMAPPED if nothing is mapped now (the access then becomes
     * NVMX_HOST: the host resolves it and enters again, or emulates it). Must never answer with memory that L1 may not touch.
     * So it doesn't with vmcs01's APIC-access page, which vmcs02 has not: L2 would find memory there instead of L1's local APIC. (An L2 whose L1 has no EPT
     * runs on EPTP01, and finds what that has there.)
     * A page whose sub-pages the host protects itself (SDM 31.3.4, in vmcs01) can't be written here; L1 has that feature apart from the host.
     */
    enum nvmx_status (*ept01_lookup)(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out);

    /* -- pages for ept02 tables and merged bitmaps (ctx of the VM) -------------------------------------------------------- */

    /* A 4 KiB page, zeroed, aligned; its hpa in *hpa. NULL: exhausted. */
    void *(*page_alloc)(void *ctx, uint64_t *hpa);
    void (*page_free)(void *ctx, void *page, uint64_t hpa);
    /* The pointer that page_alloc gave for this hpa. Must be cheap; can't fail. */
    void *(*page_pointer)(void *ctx, uint64_t hpa);

    /* -- real VMCSs (ctx of the vCPU) ------------------------------------------------------------------------------------- */

    /* Make VMCS `which` the one that vmcs_read and vmcs_write work on and that the next entry runs, until the next call; if this one fails the VMCS before
     * stays that. A host that loads another one in between (of another vCPU, or on another processor) loads it again before it enters or calls for the vCPU.
     * What was written to a shadow VMCS is in its region (VMCLEAR: SDM 27.11.1) before vmcs01 is entered. */
    enum nvmx_status (*vmcs_select)(void *ctx, uint32_t which);
    /* Make vmcs02 `which` fresh: all fields zero or undefined, not launched, host-state area and the host's MSR lists set up
     * by the host as for vmcs01. The VMCS that was selected still is when it returns. */
    enum nvmx_status (*vmcs_reset)(void *ctx, uint32_t which);
    /* Read or write `count` fields of the selected VMCS, by SDM encoding. All or nothing is not required: after a failure the
     * library treats what it was going to change as unknown.
     * Of vmcs01 the library writes the guest-state area, the VM-entry control "IA-32e mode guest", the read shadows of CR0 and CR4, the link pointer, and the
     * VM-entry interruption information and error code. A host with copies of them drops these where nvmx_exit or nvmx_vmcall answers NVMX_ENTER, and where
     * another call ends NVMX_MODE_L2. Of a vmcs02 it writes all but the host-state area and the MSR lists. While the host deals with an exit of L2 it may
     * change vmcs02's guest-state area, read shadows, "IA-32e mode guest", and the VM-entry fields of an event; what else it changes there it puts back.
     * Guest CR0 and CR4 are written as the guest has them, L1 after an exit of L2 as well as L2, but that CR4.MCE stays set where vmcs01 has it set behind its
     * mask. A host that keeps other bits otherwise in the processor (CR0.CD off) and masks them in vmcs01 puts them so as it writes, and gives back what was
     * written as it reads: no guest changes them without an exit to the host or to L1. What VMX itself fixes (CR0.NE, CR4.VMXE) an accepted vmcs12 has set. */
    enum nvmx_status (*vmcs_read)(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value);
    enum nvmx_status (*vmcs_write)(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value);

    /* -- TLB (ctx of the vCPU) -------------------------------------------------------------------------------------------- */

    /* Drop translations before any vCPU of this VM runs on. `linear` only with NVMX_FLUSH_VPID_ADDRESS. Can't fail: more may
     * be dropped, never less; of a kind that the host does not know, all. NVMX_FLUSH_EPT and _EPT_ALL concern every vCPU of the VM; the others only the
     * calling one. Must not wait for a vCPU that is inside the library: that one flushes before it enters. */
    void (*tlb_flush)(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear);

    /* -- MSRs as L1 sees them (ctx of the vCPU) --------------------------------------------------------------------------- */

    /* RDMSR/WRMSR at CPL 0 by the guest whose VMCS is selected, checked as for the instruction. NVMX_E_DENIED: it would give #GP. Used for MSR-load and
     * MSR-store lists, for MSRs that no VMCS field switches, and for L2's WRMSR of what vmcs02 loads for L1 and vmcs01 does not. An MSR that a field of the
     * selected VMCS holds for its guest (IA32_EFER, IA32_PAT, FS and GS base, ...) is read and written there: in vmcs02 while the list of a VM
     * entry is loaded, before the mode is NVMX_MODE_L2, and that of an exit stored; in vmcs01 while that of an exit is loaded. IA32_TIME_STAMP_COUNTER is
     * L1's, always. Where L1's VM-exit controls load an MSR that vmcs01's entries don't, a msr_write that fails stops the vCPU: of an MSR that L1 lacks the
     * host's mask takes the controls away. */
    enum nvmx_status (*msr_read)(void *ctx, uint32_t index, uint64_t *value);
    enum nvmx_status (*msr_write)(void *ctx, uint32_t index, uint64_t value);

    /* -- events (ctx of the vCPU) ----------------------------------------------------------------------------------------- */

    /*
     * Optional; needed by a host that owns external interrupts (vmcs01 has "external-interrupt exiting"). Acknowledge the interrupt
     * that nvmx_pending.interrupt announced to L1's (virtual) interrupt controller and return its vector; a negative number: none.
     */
    int (*ack_interrupt)(void *ctx);

    /* Optional. Queue an exception for L1 (vector, error code or -1): a fault, whose delivery pushes RFLAGS with RF set. Without it
     * the library writes vmcs01's VM-entry interruption-information fields and RFLAGS.RF itself. */
    void (*queue_exception)(void *ctx, uint8_t vector, int32_t error_code);

    /* -- optional: a host that composes ept02 itself (ctx of the vCPU) ----------------------------------------------------- */

    /*
     * Give both or neither. With them the library composes nothing: ept02_root is told L2's EPTP12 before L2 runs on it (NVMX_NO_ADDRESS:
     * vmcs12 has no EPT, L2 runs on L1's memory) and answers with the EPTP02 to use, until it is asked again: at L1's next VM entry, when L2 switches EPTPs
     * (VMFUNC), or after nvmx_vmcs01_changed. VMCS shadowing, PML, #VE, mode-based execute control and sub-page permissions are not offered to L1 then.
     * ept02_invalidate is told what L1 invalidated: an INVEPT (NVMX_FLUSH_EPT with EPTP12, or _EPT_ALL), a reset or a restored
     * state (_EPT_ALL). EPT violations of L2 then all go to the host, which reports those that are L1's through nvmx_l2_exit.
     */
    enum nvmx_status (*ept02_root)(void *ctx, uint64_t eptp12, uint64_t *eptp02);
    void (*ept02_invalidate)(void *ctx, enum nvmx_flush kind, uint64_t eptp12);

    /* -- optional services (ctx of the vCPU) ------------------------------------------------------------------------------ */

    /* Fence speculation between L2 and L1 (both directions; `to_l2` says which), as IBPB where branch predictors are shared. */
    void (*speculation_barrier)(void *ctx, bool to_l2);

    /*
     * One record per exit, transition and refusal: nvmx/trace.h. Called last, with the state complete. The host writes its clock into
     * record->time and copies the record: it is the library's and gone afterwards. Can't fail. Costs nothing where it is NULL.
     */
    void (*trace)(void *ctx, struct nvmx_trace_record *record);

    /* -- optional: a VMX-preemption timer where the processor has none (ctx of the vCPU) ----------------------------------- */

    /*
     * Give both or neither. With them L1 is offered the timer on a processor that lacks it: the library counts the TSC itself. tsc reads
     * the processor's TSC, without any offset or scaling. deadline asks for an exit of this vCPU, and then nvmx_enter, as soon as that TSC has reached
     * `tsc`; it replaces the deadline before it, and UINT64_MAX means none. Can't fail. A deadline that comes late makes the
     * timer late, one that is not wanted any more (the vCPU was reset) does no harm. The host's mask, if there is one, must grant the timer too.
     */
    uint64_t (*tsc)(void *ctx);
    void (*deadline)(void *ctx, uint64_t tsc);

    /* -- optional: what was written in L1's memory (ctx of the vCPU) ------------------------------------------------------- */

    /*
     * A number for the page at gpa1 (aligned to 4 KiB) that is another one each time when the page may have been written since the call
     * before: by L1 on any processor, L2, a device, the host, or the library (unmap_page with `dirtied`). What was written before the call is
     * seen by reads after it. 0: not known now. A page that nvmx_ept_memory_changed named has new numbers too. From ept01's dirty
     * flags, page-modification logging or write protection. After an INVEPT of L1 the pages of ept12's tables that map many pages are asked about once,
     * and only those that changed are read; without the callback, or with 0, all are read and compared. Called often: must be cheap. Can't fail.
     * gpa1 NVMX_NO_ADDRESS: of all pages together: a number that is another one each time when, since the call before, a page that had a number may have been
     * written or has lost its number, or a page has got one. 0: not known now, or never. With it an INVEPT where nothing was written asks no page. A
     * number that stays where it should change leaves L2 with translations that L1 has withdrawn, but never with more than ept01 grants. What a host does
     * not see, as DMA where it has only dirty flags, it makes up for: bindings/baremetal/versions.c has the cases.
     */
    uint64_t (*page_version)(void *ctx, uint64_t gpa1);
};

/* Added to `access` of nvmx_host.translate: the access is made with CPL 3. */
#define NVMX_ACCESS_USER 8u

#endif
