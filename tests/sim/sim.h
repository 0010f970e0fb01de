/* SPDX-License-Identifier: MIT */
/*
 * A simulated host: what a hypervisor with VT-x would be, kept in arrays.
 *
 * It plays three parts. The host: it answers the library's callbacks and can make any of them fail. The hardware: VMCSs that refuse what
 * a processor refuses, exits that set and clear the fields an exit sets and clears. And L1: helpers perform VMX instructions the way
 * hardware would report them. A broken contract (a page freed twice, a write to the host-state area, the wrong VMCS selected for an entry) is
 * a bug of the library: the simulated host prints one line and aborts.
 */
#ifndef SIM_H
#define SIM_H

#include <nvmx/nvmx.h>

/* -- where things are ------------------------------------------------------------------------------------------------------- */

#define SIM_RAM_BYTES 0x1000000u                      /* L1's memory: gpa1 0 .. 16 MiB */
#define SIM_HPA_OFFSET UINT64_C(0x100000000)          /* ept01: hpa = gpa1 + this */
#define SIM_PAGES_HPA UINT64_C(0x800000000)           /* pages of page_alloc: hpa from here on */
#define SIM_PAGES 2048u                               /* that exist */
#define SIM_SHADOW_HPA UINT64_C(0x900000000)          /* the shadow VMCS, with options.shadow; with .shadows of slot 0, others follow */
#define SIM_EPTP01 (UINT64_C(0x700000000) | 0x5e)     /* vmcs01's */

/* L1's own use of its memory. Everything else up to SIM_L2_GPA1 is free for tests. */
#define SIM_L1_PML4 0x1000u          /* identity map of the first GiB, supervisor, writable: 0x1000, 0x2000, 0x3000 */
#define SIM_L1_OPERAND 0x5000u       /* memory operands of the helpers */
#define SIM_L1_VMXON 0x6000u         /* VMXON region */
#define SIM_L1_VMCS_A 0x7000u        /* VMCS regions; sim_vmxon_ready puts the revision identifier into them */
#define SIM_L1_VMCS_B 0x8000u
#define SIM_L1_MSR_BITMAP 0x9000u
#define SIM_L1_IO_BITMAP_A 0xa000u
#define SIM_L1_IO_BITMAP_B 0xb000u
#define SIM_L1_VIRTUAL_APIC 0xc000u
#define SIM_L1_APIC_ACCESS 0xd000u
#define SIM_L1_MSR_LISTS 0xe000u     /* store list +0, exit-load list +0x400, entry-load list +0x800 */
#define SIM_L1_EPT12 0x10000u        /* four tables: PML4, PDPT, PD, PT of gpa2 0 .. 2 MiB */
#define SIM_L1_CODE 0x100000u        /* RIP of L1 */
#define SIM_L1_EXIT_HANDLER 0x110000u
#define SIM_L1_STACK 0x120000u
#define SIM_L2_GPA1 0x400000u        /* ept12: gpa1 = gpa2 + this, for gpa2 0 .. 4 MiB (4K pages, then one of 2M) */
#define SIM_L2_BYTES 0x400000u

/* -- callbacks that can fail or are counted, in the order of struct nvmx_host ------------------------------------------------ */

enum sim_call {
    SIM_MAP_PAGE = 0,
    SIM_UNMAP_PAGE,
    SIM_TRANSLATE,
    SIM_EPT01_LOOKUP,
    SIM_PAGE_ALLOC,
    SIM_PAGE_FREE,
    SIM_PAGE_POINTER,
    SIM_VMCS_SELECT,
    SIM_VMCS_RESET,
    SIM_VMCS_READ,
    SIM_VMCS_WRITE,
    SIM_TLB_FLUSH,
    SIM_MSR_READ,
    SIM_MSR_WRITE,
    SIM_ACK_INTERRUPT,
    SIM_QUEUE_EXCEPTION,
    SIM_EPT02_ROOT,
    SIM_EPT02_INVALIDATE,
    SIM_SPECULATION_BARRIER,
    SIM_TRACE,
    SIM_TSC,
    SIM_DEADLINE,
    SIM_CALLS,
};

/* Which callbacks fail. Only those that can fail are counted in sim.calls. All 0: none fails. */
struct sim_fail {
    uint64_t at;         /* the at-th (1 is the first after sim.calls was last set to 0) */
    uint64_t from;       /* that one and all later ones */
    uint32_t one_in;     /* each with a probability of 1/one_in, by `seed` */
    uint64_t seed;
};

/* -- the pieces ---------------------------------------------------------------------------------------------------------------- */

/* By name. In between there are none: sim_next_vmcs goes from one to the next, the last is followed by SIM_VMCSS. */
#define SIM_VMCSS (NVMX_VMCS_SHADOWS + NVMX_VMCS02_MAX)
static inline uint32_t sim_next_vmcs(uint32_t which) {
    return which + 1 == NVMX_VMCS02_FIRST + NVMX_VMCS02_MAX ? NVMX_VMCS_SHADOWS : which + 1;
}

/* A real VMCS. */
struct sim_vmcs {
    uint64_t value[NVMX_FIELD_COUNT];
    struct nvmx_field_set written; /* by the library; cleared by vmcs_reset, and by tests as they like */
    uint64_t resets;
    uint64_t entries;              /* since the reset */
};

/* A part of ept01. Later ones win over earlier ones. */
struct sim_range {
    uint64_t gpa1;
    uint64_t bytes;
    uint64_t hpa;
    uint32_t size_shift;   /* the largest mapping to answer with: 12, 21, 30 */
    uint32_t access;       /* NVMX_ACCESS_ bits; 0: a hole */
    uint32_t memory_type;
};

struct sim_msr {
    uint32_t index;
    bool refuse_read;
    bool refuse_write;
    uint64_t value;
    uint64_t writes;
};

struct sim_flush {
    enum nvmx_flush kind;
    uint64_t value;
    uint64_t linear;
};

#define SIM_RANGES 16u
#define SIM_MSRS 64u
#define SIM_LOG 256u
#define SIM_PINS 64u

struct sim;

/* Contexts of the VM's and of the vCPU's callbacks: two things, so that mixing them up is noticed. */
struct sim_context {
    uint32_t magic;
    struct sim *sim;
};

struct sim_options {
    bool shadow;              /* vmcs01 uses VMCS shadowing */
    bool external_interrupts; /* the host owns external interrupts: vmcs01 exits on them */
    bool translate;           /* give the translate callback */
    bool queue_exception;     /* give the queue_exception callback */
    bool host_composes;       /* give ept02_root and ept02_invalidate */
    bool deadline;            /* give tsc and deadline */
    bool hidden;              /* VMX is not exposed to L1 */
    bool no_vpid;             /* no VPIDs for L2 */
    uint32_t loads_on_entry;  /* more VM-entry controls of vmcs01, promised to the library */
    bool shadows;             /* with `shadow`: a shadow VMCS for each vmcs02 slot */
    bool watches_msrs;        /* writes to the MSRs of nvmx_vcpu_config.watches_msrs exit: sim_wrmsr */
    bool msrs_in_fields;      /* msr_write of those writes the field of the selected VMCS too, as hosts do that keep them there */
    bool learns_writes;       /* with `shadow`: the VMWRITE bitmap is the library's to change */
    uint16_t vmcs02_slots;    /* 0: 2 */
    uint32_t ept_page_budget;
    const struct nvmx_caps *machine; /* NULL: sim_machine's */
    const struct nvmx_caps *mask;
    const struct nvmx_vmcs12_layout *layout;
    struct sim_fail fail;     /* in force while the VM and the vCPU are made, and after */
};

struct sim {
    struct sim *next;         /* of those that are alive */
    bool being_made;
    struct sim_options options;
    struct nvmx_host host;
    struct nvmx_caps machine;
    struct nvmx_vm *vm;       /* NULL: could not be made, see status */
    struct nvmx_vcpu *vcpu;
    enum nvmx_status status;  /* of making vm and vcpu */
    struct nvmx_regs regs;
    struct sim_context vm_context;
    struct sim_context vcpu_context;
    void *vm_memory;
    void *vcpu_memory;
    uint64_t operand;         /* gpa1 where the helpers put memory operands: SIM_L1_OPERAND */
    void *user;               /* of the test */

    /* failing */
    struct sim_fail fail;
    uint64_t calls;           /* of callbacks that can fail */
    uint64_t failed;          /* how many were made to fail */
    enum sim_call last_failed; /* which one, last */
    uint64_t count[SIM_CALLS];

    /* L1's memory: what tests use, and what the library gets pages of (accessible only while mapped) */
    uint8_t *ram;
    uint8_t *library_ram;
    uint16_t mapped_read[SIM_RAM_BYTES / NVMX_PAGE_SIZE];
    uint16_t mapped_write[SIM_RAM_BYTES / NVMX_PAGE_SIZE];
    uint64_t mapped;          /* pages mapped now, counted as often as they are */
    uint64_t low_written;     /* which of L1's first 64 pages the library has written: bits, for who clears them */
    struct sim_range range[SIM_RANGES];
    uint32_t ranges;

    /* page_alloc */
    uint8_t *pages;
    bool page_used[SIM_PAGES];
    uint32_t pages_used;
    uint32_t pages_max;       /* page_alloc fails beyond; SIM_PAGES at first */

    /* VMCSs */
    struct sim_vmcs vmcs[SIM_VMCSS];
    uint32_t selected;
    uint32_t last_bad_encoding; /* of the last vmcs_read or vmcs_write that hardware refused; 0: none */
    uint8_t vmread_bitmap[NVMX_PAGE_SIZE];
    uint8_t vmwrite_bitmap[NVMX_PAGE_SIZE];

    /* hosts' bitmaps for vmcs01; the library reaches them by page_pointer */
    uint8_t *host_msr_bitmap;
    uint8_t *host_io_bitmap[2];

    struct sim_msr msr[SIM_MSRS];
    uint32_t msrs;
    struct sim_flush flush[SIM_LOG]; /* the first SIM_LOG of count[SIM_TLB_FLUSH] */
    struct nvmx_trace_record trace[SIM_LOG]; /* the first SIM_LOG of count[SIM_TRACE] */
    uint8_t vectors[32];      /* that ack_interrupt gives, in order */
    uint32_t vectors_next, vectors_count;
    uint64_t eptp02_given;    /* with host_composes: what ept02_root answers */
    uint64_t eptp12_asked;    /* and was asked last */
    bool barrier_to_l2;       /* of the last speculation barrier */
    uint64_t tsc, deadline;   /* with options.deadline: time now, and what was asked for last */
    int queued_vector;        /* with queue_exception: -1, or the vector queued and not yet delivered */
    int32_t queued_error_code;
};

/* -- making one ------------------------------------------------------------------------------------------------------------------- */

/*
 * A machine (Skylake-like), a VM and one vCPU whose L1 runs in 64-bit mode at CPL 0 with CR4.VMXE set and IA32_FEATURE_CONTROL locked with VMXON
 * allowed, outside VMX operation. `options` may be NULL. Never NULL; if the library refused, sim->vcpu is NULL and sim->status says why.
 */
struct sim *sim_new(const struct sim_options *options);

/* Destroy vCPU and VM, and abort if the library kept a page or a mapping. */
void sim_free(struct sim *sim);

/* The machine's capabilities that sim_new uses when it is given none. */
void sim_machine(struct nvmx_caps *caps);

/* L1 in 32-bit protected mode without paging (segments flat), or back to 64-bit mode. */
void sim_l1_mode32(struct sim *sim);
void sim_l1_mode64(struct sim *sim);

/* -- the host's side --------------------------------------------------------------------------------------------------------------- */

/* Change ept01 for a range; access 0 makes a hole. Does not tell the library (nvmx_memory_changed does). */
void sim_ept01(struct sim *sim, uint64_t gpa1, uint64_t bytes, uint64_t hpa, uint32_t size_shift, uint32_t access,
               uint32_t memory_type);
/* What ept01 says of gpa1; false: a hole. */
bool sim_ept01_find(const struct sim *sim, uint64_t gpa1, struct nvmx_ept01_mapping *out);

/* The stored MSR (made with value 0 if there is none). MSRs that were never made refuse both accesses. */
struct sim_msr *sim_msr(struct sim *sim, uint32_t index);

/* Fields of a real VMCS, by slot, without the library. */
uint64_t sim_get(const struct sim *sim, uint32_t which, enum nvmx_field slot);
void sim_set(struct sim *sim, uint32_t which, enum nvmx_field slot, uint64_t value);
/* The shadow VMCS that vmcs01's link pointer names; 0 (vmcs01): none. */
uint32_t sim_linked(const struct sim *sim);
/* Slot of an encoding, found without the library's tables; -1. */
int sim_slot(uint32_t encoding);
/* Does the simulated processor have this field? */
bool sim_has_field(const struct sim *sim, unsigned int slot);

/* The page of page_alloc at this hpa, or NULL. */
void *sim_page(const struct sim *sim, uint64_t hpa);

/* -- the hardware's side ------------------------------------------------------------------------------------------------------------- */

/*
 * The guest that the selected VMCS runs exits: the fields an exit sets are set, the event to inject is taken as delivered, and nvmx_exit
 * is called. After NVMX_ENTER the VMCS that the library wants entered is the selected one (else abort).
 */
enum nvmx_next sim_exit(struct sim *sim, uint32_t reason, uint64_t qualification, uint32_t instruction_info, uint32_t length);
/* The same with every information field. */
enum nvmx_next sim_exit_info(struct sim *sim, const struct nvmx_l2_exit_info *info);
/* Is it an exit that only an instruction causes? The processor then saves the active state, and seldom a pending debug exception. */
bool sim_exit_by_instruction(uint32_t basic_reason);
/*
 * L1 or L2, whichever runs, writes one of the MSRs of nvmx_vcpu_config.watches_msrs, which the selected VMCS holds. With sim_options.watches_msrs the host
 * sees it, carries it out and says so, unless L1 gets the exit: false.
 */
bool sim_wrmsr(struct sim *sim, uint32_t index, uint64_t value);
/* nvmx_enter, with the same checks. */
enum nvmx_next sim_enter(struct sim *sim, struct nvmx_pending *pending);

/* -- saving and restoring (sim_shake.c) ----------------------------------------------------------------------------------------------- */

/*
 * Save the nested state, destroy vCPU and (if `whole`) VM, forget what the real vmcs02s held, make both anew in other memory, restore, and save
 * again: aborts if the bytes are not the same. Then nvmx_enter, as a host does that goes on: the bytes stay the same, unless a preemption timer that the
 * host counts is over, which ends L2.
 */
void sim_shake(struct sim *sim, bool whole);
/* Only the first half, into memory to be freed; the length in *bytes. Aborts if the library refuses. */
uint8_t *sim_save(struct sim *sim, size_t *bytes);

/* -- failing in a whole test, whatever simulations it makes (tests/sweep) ----------------------------------------------------------------- */

struct sim_sweep {
    bool on;
    bool preparations;        /* callbacks of sim_vmxon_ready and sim_vmcs12, with which most tests begin, count too */
    uint32_t preparing;
    bool half;                /* vmcs_read and vmcs_write do a part of their work before they fail */
    enum nvmx_status status;  /* of callbacks that fail, of those that give one */
    uint64_t calls;           /* of callbacks that can fail, of all simulations; not while VM and vCPU are made */
    uint64_t most;            /* beyond so many `too_many` is called; 0: no matter how many */
    void (*too_many)(void);
    uint64_t at[2];           /* these fail; 0: none */
    uint32_t failed;          /* how many did */
    enum sim_call call[2];    /* and which */
    bool entering;            /* nvmx_enter runs */
    bool at_entry;            /* one of them failed there */
    struct sim *alive;
    void (*ends)(struct sim *sim);       /* sim_free is about to destroy what still runs */
    void (*gives_up)(void);              /* does not return: a helper of the simulation can't go on, because a callback failed */
};
/* Of the thread that runs the test; off in unit tests, in fuzzers, and in tests with several threads. */
extern _Thread_local struct sim_sweep sim_sweep;

/* L1's operating system after a mishap: vmcs01, page tables, MSRs and ept01 are as sim_new makes them. The nested state stays. */
void sim_repair(struct sim *sim);

/* -- L1's side ------------------------------------------------------------------------------------------------------------------------ */

/* L1's memory, as L1 sees it. */
void sim_write(struct sim *sim, uint64_t gpa1, const void *from, size_t bytes);
void sim_write64(struct sim *sim, uint64_t gpa1, uint64_t value);
void sim_write32(struct sim *sim, uint64_t gpa1, uint32_t value);
uint64_t sim_read64(const struct sim *sim, uint64_t gpa1);
uint32_t sim_read32(const struct sim *sim, uint64_t gpa1);

/* What L1 sees of an instruction. */
enum sim_outcome {
    SIM_SUCCEED = 0,   /* CF = ZF = 0 and RIP moved on */
    SIM_FAIL_INVALID,  /* CF = 1 */
    SIM_FAIL_VALID,    /* ZF = 1: sim_instruction_error */
    SIM_FAULT,         /* an exception waits in vmcs01: sim_fault_vector */
    SIM_L2,            /* L2 runs now */
    SIM_ENTRY_FAILED,  /* L1 is in its exit handler: exit reason with bit 31 in vmcs12 */
    SIM_TO_HOST,       /* NVMX_HOST */
    SIM_STOPPED,       /* NVMX_STOP */
    SIM_AGAIN,         /* nothing changed: L1 executes the instruction again */
};
const char *sim_outcome_text(enum sim_outcome outcome);

/* The exception that waits for L1, or -1; its error code. */
int sim_fault_vector(const struct sim *sim);
uint32_t sim_fault_error_code(const struct sim *sim);

/* VMX instructions of L1. Those with an m64 operand put it at SIM_L1_OPERAND (the current RIP must be L1's: mode is not L2). */
enum sim_outcome sim_vmxon(struct sim *sim, uint64_t gpa1);
enum sim_outcome sim_vmxoff(struct sim *sim);
enum sim_outcome sim_vmclear(struct sim *sim, uint64_t gpa1);
enum sim_outcome sim_vmptrld(struct sim *sim, uint64_t gpa1);
enum sim_outcome sim_vmptrst(struct sim *sim, uint64_t *gpa1);
enum sim_outcome sim_vmread(struct sim *sim, uint32_t encoding, uint64_t *value);
enum sim_outcome sim_vmwrite(struct sim *sim, uint32_t encoding, uint64_t value);
enum sim_outcome sim_vmcall(struct sim *sim);
enum sim_outcome sim_vmlaunch(struct sim *sim);
enum sim_outcome sim_vmresume(struct sim *sim);
enum sim_outcome sim_invept(struct sim *sim, uint64_t type, uint64_t eptp, uint64_t reserved);
enum sim_outcome sim_invvpid(struct sim *sim, uint64_t type, uint64_t vpid_and_reserved, uint64_t linear);
/* VM-instruction error of the current VMCS, by VMREAD. */
uint32_t sim_instruction_error(struct sim *sim);

/* Put the revision identifier that L1 sees into a region. */
void sim_region(struct sim *sim, uint64_t gpa1);
/* VMXON, and VMCLEAR + VMPTRLD of SIM_L1_VMCS_A. */
enum sim_outcome sim_vmxon_ready(struct sim *sim);

/* Write a complete vmcs12 for a 64-bit L2 at RIP 1000H into the current VMCS, with EPT if L1 has it (else on L1's memory). Sets up ept12. The
 * first field that VMWRITE refuses is returned, or 0. */
uint32_t sim_vmcs12(struct sim *sim);
/* sim_vmxon_ready, sim_vmcs12 and VMLAUNCH: L2 runs. */
enum sim_outcome sim_launch(struct sim *sim);
/* L2's memory: gpa2 < SIM_L2_BYTES. */
uint64_t sim_gpa1_of(uint64_t gpa2);

#endif
