/* SPDX-License-Identifier: MIT */
/*
 * libnvmx: nested VMX for any hypervisor. This is the header to start with.
 *
 * A host gives callbacks (host.h), makes one struct nvmx_vm per VM and one struct nvmx_vcpu per virtual processor in memory that it owns, and calls
 *   nvmx_exit   after every hardware exit of the vCPU
 *   nvmx_enter  before every entry
 * Whatever concerns VMX happens in between. The rest of this header answers questions that only the library can answer
 * (what RDMSR of a VMX MSR gives, whether a CR4 value is legal, whether L1 intercepts an instruction).
 *
 * Threading: calls for one vCPU come one at a time, from whatever thread. Calls for different vCPUs of a VM need no lock of the host: they share only the
 * VM, which does not change after nvmx_vm_init but for its composition (ept.h), and the host's callbacks, which must stand it. nvmx_vm_init, nvmx_vm_destroy
 * and nvmx_vcpu_init, _destroy of the VM's vCPUs: the first before and the second after all else; the others as calls for that vCPU.
 *
 * Locks: the library has one, in the composition, and calls nothing while it holds it. So the host may hold any lock of its own while it calls a function,
 * and take any in a callback, but not the same one in both, unless the function calls no callback that takes it: nvmx_memory_changed and _protected call
 * only unmap_page, page_free, page_pointer and tlb_flush, and may be called under the lock that guards ept01. tlb_flush may wait for processors that run
 * L1 or L2 to leave, not for one that is inside the library or waits for a lock that the caller holds.
 *
 * Nothing here allocates or keeps global state.
 */
#ifndef NVMX_NVMX_H
#define NVMX_NVMX_H

#include <nvmx/caps.h>
#include <nvmx/checks.h>
#include <nvmx/ept.h>
#include <nvmx/host.h>
#include <nvmx/types.h>
#include <nvmx/version.h>
#include <nvmx/vmcs.h>

struct nvmx_vm;
struct nvmx_vcpu;

#define NVMX_VMCS02_MAX 8u /* most vmcs02 slots of one vCPU */

/*
 * Most stack that a call into the library uses, in bytes, as gcc compiles it for x86-64 with -O2; what a callback of the host's uses comes on top.
 * A test adds it up from the compiler's own account (tests/stack.py).
 */
#define NVMX_STACK_BYTES 4096

/*
 * Where vmcs12 fields lie in L1's VMCS regions. A host with a layout of its own (a migration ABI) gives it; else NULL: ours. What has no place there is lost
 * when L1's VMCS leaves the cache: L1 is not offered what makes such a field exist.
 */
struct nvmx_vmcs12_layout {
    uint32_t revision;                  /* VMCS revision identifier, bit 31 = 0 */
    uint16_t launch_state;              /* byte offset of a dword: 0 clear, 1 launched */
    uint16_t reserved;                  /* 0 */
    uint16_t offset[NVMX_FIELD_COUNT];  /* byte offset of each field in its natural width (2, 4 or 8 bytes); 0: not kept in memory */
};

struct nvmx_vm_config {
    uint32_t size;               /* sizeof(struct nvmx_vm_config) */
    uint32_t ept_page_budget;    /* as nvmx_ept_config.page_budget */
    void *ctx;                   /* for the VM's callbacks */
    struct nvmx_caps machine;    /* the real CPU; it has EPT, which vmcs01 uses and every vmcs02 */
    /*
     * Most that the host grants L1, or NULL; read during the call only. What L1 has a VM entry load (IA32_EFER, IA32_PAT, IA32_PERF_GLOBAL_CTRL, ...) the
     * processor still has when L2 leaves to L0: vmcs02 has vmcs01's VM-exit controls. They load what L0 itself depends on, or the mask takes
     * the VM-entry control away (and with it goes the VM-exit control that loads or clears the same: L1 has both or none). XSAVES and XRSTORS, PCONFIG,
     * MSR-list instructions and PBNDKB L2 has only where vmcs01 enables them too: if it does not, the mask takes them away. So it does with RDTSCP and user
     * wait, which L2 has wherever L1 gives them: it would read the IA32_TSC_AUX that the processor has.
     */
    const struct nvmx_caps *mask;
    const struct nvmx_caps *exact; /* what L1 saw where it comes from, or NULL; it sees just that, if machine and mask allow it */
    const struct nvmx_vmcs12_layout *layout; /* or NULL; must outlive the VM */
    bool expose;                 /* false: L1 sees a CPU without VMX in every way */
    /*
     * vmcs01 never has "external-interrupt exiting": physical interrupts are L1's. Posted interrupts are offered only then, for
     * hardware compares the vector that arrives with L1's; and the activity states shutdown and wait-for-SIPI, in which a
     * processor that runs L2 would not leave it for an interrupt of the host's.
     */
    bool passes_interrupts;
    uint8_t reserved[2];         /* 0 */
    /*
     * "Load ..." VM-entry controls that vmcs01 always has: state that the host keeps apart from L1's. CET state (bit 20) and UINV (bit 19) are
     * offered only so, for L1's values of them have no other place; all else may be 0 here.
     */
    uint32_t loads_on_entry;
};

struct nvmx_vcpu_config {
    uint32_t size;            /* sizeof(struct nvmx_vcpu_config) as the host was compiled: members past it count as 0 */
    uint32_t id;              /* of the vCPU in its VM: 0..31 */
    void *ctx;                /* for the vCPU's callbacks */
    struct nvmx_regs *regs;   /* L1's or L2's registers, whichever runs; the host owns them */
    /* hpa of the shadow VMCS if vmcs01 uses VMCS shadowing, else NVMX_NO_ADDRESS. The host has the control on only in NVMX_MODE_ROOT: outside VMX
     * operation VMREAD and VMWRITE of L1 must exit, to give #UD. */
    uint64_t shadow_hpa;
    uint16_t vmcs02_slots;    /* 1..NVMX_VMCS02_MAX: how many vmcs02 the host keeps */
    /* First of the VPIDs that the host gives for L2 on this vCPU; 0: no VPIDs (hardware flushes). Their translations are kept from one exit to a
     * later entry, and L1's INVVPID flushes where it is executed: a host that lets the vCPU go on on another processor drops there what it has of them. So
     * it does with what that has of the VM's EPTP02s, with VPIDs or without: L1's INVEPT flushes where it is executed, too (NVMX_FLUSH_EPT_HERE). And of
     * EPTP01, where L2 runs on it with an APIC-access page: there also where another vCPU of the VM has run on the processor meanwhile (SDM 32.4.5). */
    uint16_t vpid02_first;
    uint16_t vpid02_count;    /* how many, from vpid02_first on: at most 16 */
    uint16_t reserved;        /* 0 */
    /* The bitmap pages (4096 bytes each) that vmcs01 uses, as the host reads them; they may change between calls, and vmcs02 follows with L1's next VM
     * entry, or with the next nvmx_enter after nvmx_vmcs01_changed, whichever comes first: what is taken back while L2 runs needs the latter.
     * NULL: vmcs01 uses none (if its controls say that it does, every access of L2 exits). MSRs that vmcs01 virtualizes for L1 (the x2APIC's,
     * IA32_TSC_DEADLINE, IA32_SPEC_CTRL) exit from L2 whatever the bitmap says. */
    const uint64_t *msr_bitmap;
    const uint64_t *io_bitmap[2];
    /*
     * Or a shadow VMCS for each vmcs02 slot: vmcs02_slots hpas, none of them NVMX_NO_ADDRESS; read during the call only. VMPTRLD of a vmcs12 that has a slot
     * then writes vmcs01's link pointer, and no field is carried from one shadow VMCS to another. shadow_hpa does not count. NULL, or a smaller `size`: no.
     */
    const uint64_t *shadow_hpas;
    /*
     * With a shadow VMCS: the page (4096 bytes) of vmcs01's VMWRITE-bitmap address, of this vCPU alone, writable until the vCPU is destroyed. nvmx_vcpu_init
     * fills it and calls for the vCPU change it, so that entries take back from the shadow VMCS only what L1 does write there: its first VMWRITE of
     * a field exits. NULL, or a smaller `size`: vmcs01 uses nvmx_shadow_bitmaps' page, and entries take back all that can be written.
     */
    uint8_t *vmwrite_bitmap;
    /*
     * The host sees every write to IA32_SYSENTER_CS, _ESP and _EIP, IA32_PAT and IA32_EFER by L1 and by L2, unless L2's exits to L1: vmcs01 intercepts WRMSR of
     * them (by its MSR bitmap, or all), and the host that carries one out calls nvmx_msrs_changed. Then what the last exit of L2 left of them in vmcs01
     * is neither written again nor read. false, or a smaller `size`: no.
     */
    bool watches_msrs;
    uint8_t reserved2[7];     /* 0 */
};

/*
 * What waits for L1 while L2 runs (and only then; while L1 runs the host delivers as to any guest). A host that passes physical
 * interrupts and NMIs through to L1 (vmcs01 without the exiting controls) leaves all of it 0. What can't be delivered now stays set, and L2 leaves as soon as
 * it can be, by a window or the preemption timer. Where vmcs02 has no virtual NMIs, or the processor no timer, what waits for the end of blocking by NMI, or
 * behind an event that L2 is about to get, is delivered after L2's next exit: a host in a hurry makes one.
 */
struct nvmx_pending {
    bool interrupt;    /* L1's interrupt controller has an interrupt that is not masked by its TPR */
    bool nmi;          /* an NMI for L1; the library clears it when it delivers it */
    bool init;         /* INIT for L1's processor; cleared when delivered */
    bool sipi;         /* start-up IPI; cleared when delivered, or dropped as L2 does not wait for one */
    uint8_t sipi_vector;
};

/* An exit of L2 that the host synthesises, or completes (nvmx_l2_exit). Fields that the exit does not define are 0. */
struct nvmx_l2_exit_info {
    uint32_t reason;                   /* basic exit reason */
    uint32_t interruption_info;        /* VM-exit interruption information */
    uint32_t interruption_error_code;
    uint32_t idt_vectoring_info;       /* event in flight */
    uint32_t idt_vectoring_error_code;
    uint32_t instruction_length;
    uint32_t instruction_info;
    uint64_t qualification;
    uint64_t guest_linear_address;
    uint64_t guest_physical_address;   /* gpa2 */
    uint64_t msr_data;                 /* WRMSRLIST: what was to be written */
};

/* Answers of nvmx_rdmsr and nvmx_wrmsr. */
enum nvmx_msr_result {
    NVMX_MSR_NOT_MINE = 0, /* not a VMX MSR: the host's */
    NVMX_MSR_DONE,         /* read or written */
    NVMX_MSR_FAULT,        /* the instruction must give #GP(0) */
};

NVMX_BEGIN_C

/* -- life cycle ------------------------------------------------------------------------------------------------------------- */

/* Bytes for one VM / one vCPU; memory must be aligned to 16 and stay until destroyed. */
NVMX_API size_t nvmx_vm_size(void);
NVMX_API size_t nvmx_vcpu_size(void);

/*
 * Make a VM. `host` must outlive it. NVMX_E_SIZE: memory too small or an unknown size member; NVMX_E_INVALID: a mandatory callback is
 * missing or a value is out of range; NVMX_E_UNSUPPORTED: expose is set, and nvmx_caps_for_l1 says so of the machine; NVMX_E_DENIED: config->exact is
 * no valid subset of what can be offered here (nvmx_caps_check_subset says where).
 */
NVMX_API enum nvmx_status nvmx_vm_init(void *memory, size_t bytes, const struct nvmx_host *host,
                                       const struct nvmx_vm_config *config, struct nvmx_vm **out);
/* All vCPUs must be destroyed first. Frees every page, and flushes nothing: before the pages have another use the host drops what processors have cached of the
 * VM's EPTP02s (as for NVMX_FLUSH_EPT_ALL). */
NVMX_API void nvmx_vm_destroy(struct nvmx_vm *vm);

/*
 * Make a vCPU outside VMX operation, as after power-up: what ept02 has is compared with ept12 before an L2 of it runs (tlb_flush, if there is any).
 * vmcs01 counts as selected.
 * NVMX_E_SIZE: memory too small or an unknown size member; NVMX_E_INVALID: memory not aligned, or a value is out of range or missing (regs, a shadow VMCS).
 */
NVMX_API enum nvmx_status nvmx_vcpu_init(void *memory, size_t bytes, struct nvmx_vm *vm,
                                         const struct nvmx_vcpu_config *config, struct nvmx_vcpu **out);
/* Unmap and free all that it holds, in whatever state it is. No VMCS is selected: a vmcs02 that still is must not run. */
NVMX_API void nvmx_vcpu_destroy(struct nvmx_vcpu *vcpu);
/* INIT or RESET of L1's processor (not INIT in VMX operation, which is blocked: SDM 25.3): VMX off, nothing current, no translation of L2 cached.
 * A vCPU that had stopped goes on. vmcs01 is selected, with its own shadow VMCS; where the host's callbacks can't do that the vCPU has stopped (NVMX_STOP_HOST,
 * NVMX_E_HOST). IA32_FEATURE_CONTROL, which a power-up alone clears (SDM 25.7), stays: what firmware finds there the host writes (nvmx_wrmsr). */
NVMX_API void nvmx_vcpu_reset(struct nvmx_vcpu *vcpu);

/* -- the hot path ----------------------------------------------------------------------------------------------------------- */

/*
 * After every hardware exit of this vCPU, whether it ran L1 or L2. `exit_reason` is the whole field 4402H (bit 31: VM-entry failure).
 * The VMCS that exited must be selected. See enum nvmx_next for what to do then; where that is NVMX_ENTER, the right VMCS is selected.
 * What L1 intercepts is L1's, whether the host intercepts it too or not; but for physical interrupts and NMIs that the host owns, machine checks that
 * it intercepts, instruction timeouts by its own window if that is shorter, and alignment checks that it intercepts and L2 did not ask for by CR0.AM,
 * RFLAGS.AC and CPL 3: split locks, of which it has the processor tell. If L1 has such detection from the host, the host gives it the exit (nvmx_l2_exit).
 * A debugger of the host's gets no #DB or #BP of L2 that L1 intercepts: L1 takes them for L2's.
 */
NVMX_API enum nvmx_next nvmx_exit(struct nvmx_vcpu *vcpu, uint32_t exit_reason);

/*
 * Before every entry, after nvmx_exit or after the host did its own work. Delivers what is pending for L1 while L2 runs. Never returns
 * NVMX_HOST. `pending` may be NULL if nothing is. Where the mode is no longer NVMX_MODE_L2 then, L1 is about to run, and what is left is delivered as to any
 * guest.
 */
NVMX_API enum nvmx_next nvmx_enter(struct nvmx_vcpu *vcpu, struct nvmx_pending *pending);

/*
 * VMLAUNCH/VMRESUME of a vmcs02 gave VMfail instead of an entry (a real CPU refused controls that the model accepted). L1 gets
 * VMfailValid with the same number, and runs on; what its MSR-load list has loaded stays. Where L2 has run on that vmcs02 since L1's VM entry, or L1 was
 * to be entered, nobody can be told: NVMX_STOP.
 */
NVMX_API enum nvmx_next nvmx_entry_refused(struct nvmx_vcpu *vcpu, uint32_t vm_instruction_error);

/*
 * Give L1 an exit of L2 that the host found or completed itself (an EPT violation found by its own MMU, a triple fault, an
 * intercept of an instruction that it emulates). Only in NVMX_MODE_L2, with vmcs02 selected; elsewhere, or for a reason that exits.def lacks, it
 * answers NVMX_HOST and does nothing. L2's state is saved as vmcs02 has it: RIP at the instruction, and
 * RFLAGS.RF set for a fault (SDM 30.3.3). The event whose delivery the exit interrupts, if any, belongs into `info`: where nvmx_exit answered NVMX_HOST it had
 * put it into vmcs02, to be injected again if L2 goes on.
 */
NVMX_API enum nvmx_next nvmx_l2_exit(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info);

/* -- questions --------------------------------------------------------------------------------------------------------------- */

/*
 * Where L1 is. L1 has no Intel PT in VMX operation (IA32_VMX_MISC[14] is 0 for it): a host that gives it PT elsewhere clears IA32_RTIT_CTL.TraceEn
 * when the mode is no longer NVMX_MODE_OFF, and until it is again a write that sets it gives #GP (SDM 33.3 VMXON).
 */
NVMX_API enum nvmx_mode nvmx_mode(const struct nvmx_vcpu *vcpu);
/* The VMCS (NVMX_VMCS01 or a vmcs02) that the next entry runs. */
NVMX_API uint32_t nvmx_selected(const struct nvmx_vcpu *vcpu);
NVMX_API enum nvmx_stop nvmx_stop_reason(const struct nvmx_vcpu *vcpu);
/* The status of the callback that failed, for NVMX_STOP_HOST. */
NVMX_API enum nvmx_status nvmx_stop_status(const struct nvmx_vcpu *vcpu);

/*
 * gpa1 where the last exit to NVMX_HOST with reason 48, 49 or 66 missed ept01. NVMX_NO_ADDRESS after an exit with one of them: page_alloc
 * had no page or another callback failed; the host makes room and enters again, and L2 repeats the access. Or the host composes ept02, and L1 has EPT.
 */
NVMX_API uint64_t nvmx_host_fault_gpa1(const struct nvmx_vcpu *vcpu);

/* What L1 sees. */
NVMX_API const struct nvmx_caps *nvmx_l1_caps(const struct nvmx_vm *vm);

/*
 * RDMSR/WRMSR by L1 of IA32_FEATURE_CONTROL and 480H-493H. vmcs01 intercepts them, and nvmx_exit answers them itself; this is for hosts that emulate
 * instructions or save MSRs. `by_host` in nvmx_wrmsr: the firmware or a restore writes, the lock bit does not refuse. IA32_FEATURE_CONTROL has bits 0
 * and 2 alone: a host that gives L1 SMX, SGX or LMCE answers L1's accesses to it itself, before it calls nvmx_exit.
 */
NVMX_API enum nvmx_msr_result nvmx_rdmsr(const struct nvmx_vcpu *vcpu, uint32_t index, uint64_t *value);
NVMX_API enum nvmx_msr_result nvmx_wrmsr(struct nvmx_vcpu *vcpu, uint32_t index, uint64_t value, bool by_host);

/* Set or clear what CPUID leaf 1 says of VMX (ECX bit 5). regs: EAX EBX ECX EDX. Other leaves stay as they are. */
NVMX_API void nvmx_cpuid(const struct nvmx_vm *vm, uint32_t leaf, uint32_t regs[4]);

/*
 * May L1 (not L2) load `value` into CR0 or CR4 (cr = 0 or 4)? False: #GP(0). Knows the fixed bits in VMX operation, that VMXE can't be
 * cleared there, and that VMXE is reserved where VMX is not exposed (SDM 25.8). All other rules are the host's.
 *
 * A MOV to CR0 or CR4 of L2 that nvmx_exit leaves to the host changes bits that vmcs01 masks and L1 does not: just those of vmcs02's guest/host mask in which
 * the value differs from vmcs02's read shadow. Who carries it out puts these, and the bits that vmcs02 does not mask, into vmcs02's register, and these into
 * its read shadow, too. All other masked bits stay as the register has them, which is not what L2 reads where they are L1's (SDM 27.6.6, 28.3). CLTS and LMSW
 * (which never clears PE) are such a MOV of what L2 reads, with the bits that they change.
 */
NVMX_API bool nvmx_cr_allowed(const struct nvmx_vcpu *vcpu, unsigned int cr, uint64_t value);

/* INIT signals are blocked (L1 is in VMX root operation): the host keeps it pending. */
NVMX_API bool nvmx_init_blocked(const struct nvmx_vcpu *vcpu);

/*
 * Is A20M of no effect (L1 is in VMX operation, or L2 runs)? The host then leaves address bit 20 alone, and masks it again after VMXOFF
 * if the pin is still asserted (SDM 25.8, 33.3 VMXON and VMXOFF).
 */
NVMX_API bool nvmx_a20m_blocked(const struct nvmx_vcpu *vcpu);

/*
 * Does L1 intercept this exit of L2, by vmcs12's controls and L1's bitmaps? For a host that emulates an instruction for L2: `info` as the
 * exit would have it (reason, qualification, for VMREAD and VMWRITE the instruction information; RCX, RDX and RAX are in the registers).
 * EPT violations and misconfigurations: false; what an access meets in ept12 nvmx_l2_translate tells.
 * So too of an exception that the host is about to inject into L2 (reason 0, its interruption information and error code): an event that is injected makes
 * no exit by itself. What is L1's goes to nvmx_l2_exit.
 */
NVMX_API bool nvmx_l1_intercepts(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info);

/*
 * Where an access of L2 that the host emulates leads: nvmx_ept_translate (ept.h) with what vmcs12 has of EPT, its page-modification log included.
 * `qualification` and `bytes`: as in struct nvmx_ept_access. NVMX_EPT_RETRY: allowed, at fault->gpa1 (which is gpa2 where L1 has no EPT). NVMX_EPT_L1_: an
 * exit for nvmx_l2_exit, with fault->qualification where it has one. NVMX_EPT_FAILED outside NVMX_MODE_L2 (NVMX_E_INVALID), and where the host composes ept02
 * (NVMX_E_UNSUPPORTED): it has been told EPTP12, and makes a composition of its own for nvmx_ept_translate, which takes no page.
 */
NVMX_API enum nvmx_ept_verdict nvmx_l2_translate(struct nvmx_vcpu *vcpu, uint64_t gpa2, uint64_t qualification, uint32_t bytes,
                                                 struct nvmx_ept_fault *fault);

/*
 * The architectural answer to a VMCALL by L1 that the host does not know as a hypercall: nvmx_exit leaves VMCALL of L1 to the host
 * (NVMX_HOST), and the host calls this (SDM 33.3 VMCALL: #UD, #GP or VMfail). Returns NVMX_ENTER.
 */
NVMX_API enum nvmx_next nvmx_vmcall(struct nvmx_vcpu *vcpu);

/* The entry-check row that refused L1's last VM entry, or NVMX_CHECK_NONE. */
NVMX_API uint16_t nvmx_last_check(const struct nvmx_vcpu *vcpu);

/* -- changes by the host ----------------------------------------------------------------------------------------------------- */

/*
 * L1's processor is in A20M mode (the pin is asserted: address bit 20 is masked), or is no longer: VMXON gives #GP(0) there (SDM 33.3). Only for hosts
 * that emulate the A20 gate of old PCs; off after nvmx_vcpu_init. The pin is the host's, so that reset and saved state leave it out.
 */
NVMX_API void nvmx_a20m(struct nvmx_vcpu *vcpu, bool asserted);

/*
 * The host changed control fields of vmcs01, its bitmaps, or guest fields behind the library's back (where a callback did: after the call that made it).
 * Where L2 runs, its vmcs02 follows with the next nvmx_enter in what says what L2 may do without an exit (processor-based controls and their bitmaps,
 * exceptions, the TSC), and in EPTP01, where L2 runs on it, as its L1 has no EPT; and where ept02 is the host's, ept02_root is asked again. In the rest,
 * pin-based, VM-exit and VM-entry controls and the masks of CR0 and CR4, it follows with L1's next VM entry. "Load ..." VM-entry controls that vmcs01 gets
 * while L2 runs are of MSRs that vmcs01's exits saved before.
 * vmcs02 has vmcs01's intercepts, but nothing that is about L1's own events and pages: interrupt and NMI windows, the monitor trap flag, the VMX-preemption
 * timer, posted interrupts, TPR shadow and virtual APIC, page-modification log, #VE. A host that uses them for itself does without while L2 runs; where it
 * changes them in vmcs01, but for TPR shadow and virtual APIC, no call is needed.
 */
NVMX_API void nvmx_vmcs01_changed(struct nvmx_vcpu *vcpu);

/*
 * The host wrote one of the MSRs of nvmx_vcpu_config.watches_msrs, or the field of vmcs01 or of a vmcs02 that holds it: it carried out a WRMSR of L1 or L2. Not
 * for what its callbacks write. nvmx_vmcs01_changed says it too. Without watches_msrs it has no effect.
 */
NVMX_API void nvmx_msrs_changed(struct nvmx_vcpu *vcpu);

/*
 * ept01 changed for [gpa1, gpa1 + bytes), and ept01_lookup and map_page answer accordingly: unmapped, moved, protected or made accessible. Before this
 * returns ept02 follows for all vCPUs, whether or not they run (tlb_flush reaches them), and the pages that `vcpu` holds there for its vmcs02s (bitmaps, APIC
 * pages, posted-interrupt descriptors) are released; its next nvmx_enter takes them anew (NVMX_STOP where L2 uses a virtual-APIC page or descriptor that is
 * gone). So it is called for every vCPU of the VM, for each as any other call for it: while it is out of L1 and L2, before it is entered again. When it has
 * returned for all, nothing of the range is used any more as it was. A host that can't have the vCPUs to itself at once (an MMU notifier) calls it for one that
 * was made for that and never runs, which does for ept02, and keeps what the others hold until it has called it for them, too. Pages that are mapped for a
 * moment only are no concern: the host keeps them until unmap_page, as always. NVMX_E_INVALID: an empty range, or one past the end.
 */
NVMX_API enum nvmx_status nvmx_memory_changed(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes);

/*
 * The same where only the right to write was withdrawn, as for a log of what L1 and L2 change: what ept02 maps can still be read there, and of the pages that
 * `vcpu` holds only those go (by unmap_page, as dirtied) that the processor writes to by itself: the virtual-APIC page and the posted-interrupt descriptor.
 * L2's next write to the range comes as an exit to NVMX_HOST with reason 48 and nvmx_host_fault_gpa1; the host notes the page, gives the right
 * back and enters again (no call is needed for rights that are only gained). What the library writes for L1 comes by unmap_page. A host that logs by vmcs01's
 * page-modification log protects for L2 as well: vmcs02 has no log of the host's, neither on ept02 nor, where L1 has no EPT, on ept01.
 */
NVMX_API enum nvmx_status nvmx_memory_protected(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes);

/*
 * The two bitmaps for VMCS shadowing (4096 bytes each): bit clear = L1's VMREAD/VMWRITE of that encoding does not exit. `vmwrite_bitmap` may be NULL where
 * each vCPU has its own (nvmx_vcpu_config.vmwrite_bitmap). vmcs01 uses them as they are: a VMWRITE that a bit set by the host makes exit does not reach the
 * shadow VMCS, where L1's VMREAD finds the old value.
 */
NVMX_API void nvmx_shadow_bitmaps(const struct nvmx_vm *vm, uint8_t *vmread_bitmap, uint8_t *vmwrite_bitmap);

/* -- counts ------------------------------------------------------------------------------------------------------------------- */

struct nvmx_counts {
    uint64_t exits_l1;       /* exits while L1 ran */
    uint64_t exits_l2;       /* exits while L2 ran */
    uint64_t emulated;       /* VMX instructions and MSR accesses of L1 dealt with */
    uint64_t reflected;      /* exits of L2 given to L1 */
    uint64_t handled;        /* exits of L2 dealt with by the library without L1 */
    uint64_t to_host;        /* NVMX_HOST */
    uint64_t refused;        /* VMfail, entry failures and faults given to L1 */
    uint64_t callback[24];   /* calls of each callback, in the order of struct nvmx_host from map_page on, but for what the composition of ept02
                                (nvmx/ept.h) calls, which is the VM's */
    uint64_t vmreads;        /* fields read by vmcs_read */
    uint64_t vmwrites;       /* fields written by vmcs_write */
};

NVMX_API const struct nvmx_counts *nvmx_counts(const struct nvmx_vcpu *vcpu);

NVMX_END_C

#endif
