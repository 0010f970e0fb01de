/* SPDX-License-Identifier: MIT */
/* What the files of the bare-metal host share: the processor's state, and who offers what. */
#ifndef HOST_H
#define HOST_H

#include <nvmx/exits.h>
#include <nvmx/nvmx.h>

#include "layout.h"
#include "memory.h"
#include "x86.h"

#define RARELY(condition) __builtin_expect(!!(condition), 0)

#define VMCS02_SLOTS NVMX_VMCS02_MAX
#define SLOTS        (NVMX_VMCS02_FIRST + VMCS02_SLOTS)
#define REGIONS      (NVMX_VMCS_SHADOWS + VMCS02_SLOTS) /* by the library's names, with those that do not exist */
#define CPUS_MAX     32 /* libnvmx's vCPUs of a VM */

/* A page of L0's that a VMCS names. */
struct page {
    uint64_t hpa;
    const uint64_t *words;
};

struct vmcs_slot {
    uint64_t hpa;
    bool launched; /* VMRESUME, not VMLAUNCH, is due */
};

/* What makes an exit, or the entry after it, one that needs more than most do. Members that `any` tests together. */
union exit_care {
    struct {
        bool several;    /* there is more than one processor */
        bool watched;    /* options.watch */
        bool launching;  /* the last entry was by VMLAUNCH: whether it succeeded shows only now */
        bool nmi_window; /* vmcs01 has "NMI-window exiting" for an NMI that is owed */
        bool started_up; /* a start-up IPI came, and no exit since */
    };
    uint64_t any;
};
union entry_care {
    struct {
        bool several;   /* there is more than one processor */
        bool nmi_owed;  /* an NMI that L1 could not take yet */
        bool init_owed; /* an INIT signal that L1 could not take yet */
        bool split_due; /* mappings of ept01: versions.c */
    };
    uint32_t any;
};

/* One processor of the machine, and of L1. Lies at the top of its stack: see entry.S, which knows the first three
 * members. */
struct cpu {
    struct nvmx_regs regs;        /* of the guest, L1 or L2 */
    volatile uint8_t nmi_pending; /* an NMI hit L0; it is L1's */
    uint32_t selected;            /* slot whose VMCS is current in the processor */
    struct cpu *self;             /* IA32_GS_BASE points to the struct */
    struct vmcs_slot slot[REGIONS];
    struct page msr_bitmap, io_bitmap[2]; /* of vmcs01 */
    uint64_t vmwrite_bitmap;              /* likewise, the hpa: the library changes it */
    struct nvmx_vm *vm;
    struct nvmx_vcpu *vcpu;
    uint32_t exit_reason;     /* of the exit being handled, all 32 bits */
    bool l1_in_vmx_operation; /* as vmcs01 is set up for */
    bool has_run;             /* regs and the VMCS mean something */
    uint32_t shadow_active;   /* slot of a shadow VMCS that was selected, and not cleared since; 0: none */
    struct traps *traps;
    uint64_t vmxon_region;
    uint32_t index;         /* 0: the boot processor */
    uint32_t apic_id;
    uint32_t faults_in_a_row; /* EPT violations at what is mapped, by the instruction at fault_rip */
    uint64_t fault_rip;
    union exit_care exit;
    union entry_care entry;
    bool waits_for_startup; /* vmcs01 is in the wait-for-SIPI state */
    bool flush_due;         /* translations that EPT made are to be dropped before the next entry */
    volatile bool online;
    volatile bool in_guest; /* set and cleared under the lock; true somewhat too long */
    volatile bool kicked;   /* the next NMI is L0's own */
};

_Static_assert(offsetof(struct cpu, regs.gpr) == 0, "entry.S");
_Static_assert(offsetof(struct cpu, regs.cr2) == CPU_CR2, "entry.S");
_Static_assert(offsetof(struct cpu, nmi_pending) == CPU_NMI_PENDING, "entry.S");
_Static_assert(offsetof(struct cpu, self) == CPU_SELF, "this_cpu");

/* The processor that runs this. */
static inline struct cpu *this_cpu(void) {
    struct cpu *cpu;
    __asm__("movq %%gs:%c1, %0" : "=r"(cpu) : "i"(CPU_SELF));
    return cpu;
}

/* Make `cpu` what this_cpu returns here. */
static inline void cpu_use(struct cpu *cpu) {
    cpu->self = cpu;
    wrmsr(MSR_GS_BASE, (uintptr_t)cpu);
}

/* -- boot options (main.c) ---------------------------------------------------------------------------------------- */

struct options {
    bool stats;        /* print counts at the end */
    bool hide_vmx;     /* L1 sees a CPU without VMX */
    bool no_shadowing; /* use no VMCS shadowing, though the CPU has it */
    bool no_versions;  /* after an INVEPT all is compared, whatever ept01's dirty flags show as written */
    uint64_t own_mib;  /* memory for L0; 0: L0 chooses */
    uint32_t shake;    /* save and restore the nested state at every 1st to this-many-th exit; 0: never */
    uint64_t shake_seed;
    uint32_t trace; /* keep this many trace records; 0: none */
    uint32_t resize; /* take pages out of L1's memory at every 1st to this-many-th exit; 0: never */
    uint64_t resize_seed;
    bool watch;    /* stats, shake, resize or move_out: each exit costs more */
    bool move_out; /* whoever asks for L1 on COM2 gets it, or a copy */
    bool move_in;  /* L1 comes over COM2 */
};
extern struct options options;

/* What the processor is capable of, as libnvmx wants to know. */
void host_read_machine(struct nvmx_caps *caps);
/* VMXON and VMXOFF of L1 change what vmcs01, which is selected, intercepts. */
void follow_mode(struct cpu *cpu);
/* Make libnvmx's VM, and its vCPU for this processor, in this memory. */
enum nvmx_status host_make_vm(struct cpu *cpu, void *memory);
enum nvmx_status host_make_vcpu(struct cpu *cpu, void *memory);
/* All that a processor besides the boot processor shares with it, and a vCPU. */
void cpu_make(struct cpu *cpu);

/* -- entry.S, traps.c --------------------------------------------------------------------------------------------- */

void vmx_exit_point(void);
_Noreturn void vmx_run(struct cpu *cpu);
extern char vmx_window_start[], vmx_window_end[], vmx_again[];

/* Called from entry.S: what to do after an exit, before an entry (0: VMRESUME, 1: VMLAUNCH), after a failed entry. */
uint32_t host_exit(struct cpu *cpu);
uint32_t host_enter(struct cpu *cpu);
uint32_t host_entry_failed(struct cpu *cpu, bool invalid);

/* The processor's own GDT, TSS and trap stacks, and the IDT. */
void traps_init(struct cpu *cpu);
/* Load what traps_init made into the processor once more. */
void traps_load(struct cpu *cpu);
uint64_t traps_gdt_base(const struct cpu *cpu);
uint64_t traps_idt_base(void);
uint64_t traps_tss_base(const struct cpu *cpu);

/* -- all processors (processors.c) -------------------------------------------------------------------------------- */

/* Start the others into VMX operation, where they wait until L1 is in place. */
void processors_start(struct cpu *boot_cpu);
void processors_release(void);
extern uint32_t processors;
static inline uint32_t processors_count(void) {
    return processors;
}
/* Number `index`, below processors_count; 0 is the boot processor. vcpu is NULL until the processor has one. */
struct cpu *processor(uint32_t index);

/* Held by a processor from its exit to its entry. Nothing where there is only one. */
void vm_lock_taken(struct cpu *cpu);
void vm_lock_given(void);
static inline void vm_lock(struct cpu *cpu) {
    if (processors > 1)
        vm_lock_taken(cpu);
}
static inline void vm_unlock(void) {
    if (processors > 1)
        vm_lock_given();
}

/* Under the lock. Get all other processors out of their guests; they can't go back before the lock is free. */
void processors_bring_out(struct cpu *self);
/* The same, and before they go back they drop what they cached of EPT tables. */
void processors_flush_others(struct cpu *self);
/* Another one may be running its guest. */
bool processors_in_guests(const struct cpu *self);
/* L0 ends: no other processor does anything any more. */
void processors_stop(void);

/* INIT reaches L1's processor: it waits for a start-up IPI. */
void processor_init(struct cpu *cpu);

/* Registers of this processor's local APIC, by their offsets in its page. */
uint32_t apic_read(uint32_t offset);
void apic_write(uint32_t offset, uint32_t value);

/* For reinit.c: a page of conventional memory that a processor starts from, with this stack, at this address with RDI = stack. */
void processor_put_trampoline(uint64_t page, uint64_t stack, uint64_t main);
void processor_send_init(uint32_t apic_id);
void processor_send_startup(uint32_t apic_id, uint64_t page);

/* Under the lock, after an exit by INIT or a start-up IPI: what Bochs needs then (reinit.c). */
void processor_reset(struct cpu *cpu);
/* The boot processor waits for the lock: another may need it, and a page of conventional memory. */
void reinit_serve(uint64_t page);

/* -- VMX (vmx.c, vmcs01.c) ---------------------------------------------------------------------------------------- */

/* Check that the CPU has what L0 needs (panics with a clear message), and enter VMX operation. */
void vmx_on(struct cpu *cpu);
/* VMXON, by a processor that has been in VMX operation before. */
void vmx_enter(const struct cpu *cpu);
bool vmx_is_on(void);
/* Does the CPU allow this bit of IA32_VMX_PROCBASED_CTLS2 / of IA32_VMX_EPT_VPID_CAP? */
bool vmx_has_secondary(uint32_t bit);
bool vmx_has_ept(uint32_t bit);
extern bool l0_is_guest; /* L0 runs on an L0 itself, if that says so */
/* A control word with the wanted bits and those that the CPU demands; panics if the CPU can't have one of them. */
uint32_t vmx_controls(uint32_t true_msr, uint32_t wanted, const char *name);

/* A zeroed region with the revision identifier; `shadow` sets the shadow-VMCS indicator. */
uint64_t vmcs_region(bool shadow);
void vmcs_load(struct cpu *cpu, uint32_t slot);
static inline void vmcs_use(struct cpu *cpu, uint32_t slot) {
    if (slot != cpu->selected)
        vmcs_load(cpu, slot);
}

/* Fields of the VMCS that is current. Panic if it has no such field. */
_Noreturn void vmcs_get_failed(uint32_t field);
_Noreturn void vmcs_put_failed(uint32_t field);
static inline uint64_t vmcs_get(uint32_t field) {
    uint64_t value;

    if (!vmread_safe(field, &value))
        vmcs_get_failed(field);
    return value;
}
static inline void vmcs_put(uint32_t field, uint64_t value) {
    if (!vmwrite_safe(field, value))
        vmcs_put_failed(field);
}
/* The host-state area, the same in every VMCS. */
void vmcs_put_host_state(struct cpu *cpu);

/* Drop all that this processor caches of EPT tables and VPIDs. */
void flush_ept(void);

/* VMCLEAR and a region as new. */
void vmcs_clean(struct cpu *cpu, uint32_t slot);

struct l1_start;
/* start == NULL: the processor waits for a start-up IPI. */
void vmcs01_init(struct cpu *cpu, const struct l1_start *start);
/* The state after INIT (SDM 11.1.1), waiting for a start-up IPI; and what the IPI does then. */
void vmcs01_wait_for_startup(struct cpu *cpu);
void vmcs01_start_up(uint8_t vector);
/* Ask for an exit as soon as L1 can take an NMI, or no longer. */
void vmcs01_nmi_window(bool on);
/* L1 entered or left VMX operation (the selected VMCS is vmcs01). */
void vmcs01_follow_mode(bool in_vmx_operation);
#define ENTRY_LOAD_UINV (1u << 19)
#define ENTRY_LOAD_CET (1u << 20)
uint32_t vmcs01_loads_on_entry(void); /* of these VM-entry controls those that the processor has, as nvmx_vm_config wants to know */

enum { ACTIVITY_ACTIVE = 0, ACTIVITY_WAIT_FOR_SIPI = 3 };

#define PROC2_EPT                (1u << 1)
#define PROC2_RDTSCP             (1u << 3)
#define PROC2_VPID               (1u << 5)
#define PROC2_UNRESTRICTED_GUEST (1u << 7)
#define PROC2_INVPCID            (1u << 12)
#define PROC2_VMCS_SHADOWING     (1u << 14)
#define PROC2_XSAVES             (1u << 20)
#define PROC2_PT_CONCEALS        (1u << 19)
#define PROC2_USER_WAIT_PAUSE    (1u << 26)
#define PROC2_PCONFIG            (1u << 27)

#define EPT_CAP_WALK_4           6
#define EPT_CAP_WB               14
#define EPT_CAP_2M               16
#define EPT_CAP_1G               17
#define EPT_CAP_INVEPT           20
#define EPT_CAP_AD               21
#define EPT_CAP_INVEPT_SINGLE    25
#define EPT_CAP_INVEPT_ALL       26
#define EPT_CAP_INVVPID          32
#define EPT_CAP_INVVPID_ADDRESS  40
#define EPT_CAP_INVVPID_SINGLE   41
#define EPT_CAP_INVVPID_ALL      42
#define EPT_CAP_INVVPID_BUT_GLOBALS 43

#define VPID01                   1
#define VPID02_COUNT             16

/* Types of INVEPT and INVVPID. */
enum { INVEPT_SINGLE = 1, INVEPT_ALL = 2 };
enum { INVVPID_ADDRESS = 0, INVVPID_SINGLE = 1, INVVPID_ALL = 2, INVVPID_BUT_GLOBALS = 3 };

/* -- ept01 (ept01.c) ---------------------------------------------------------------------------------------------- */

/* Map all below 4 GiB and all RAM above it. */
void ept01_init(void);
uint64_t ept01_pointer(void);
/* Map what holds gpa1, if it isn't mapped yet. False: the processor has no such physical address. */
bool ept01_fill(uint64_t gpa1);
/*
 * Map the 4-KiB page at gpa1 to hpa, with these NVMX_ACCESS_ bits; 0: it is not mapped, and hpa is remembered. Where rights go, the caller
 * calls ept01_flush and nvmx_memory_changed. False: no page left for a table, or no such address.
 */
bool ept01_set(uint64_t gpa1, uint64_t hpa, uint32_t access);
/* What ept01_set or the identity map has for gpa1, with any rights or none; NVMX_NO_ADDRESS: nothing yet. */
uint64_t ept01_hpa(uint64_t gpa1);
/* The entry that maps the 4-KiB page at gpa1, with any rights or none; NULL: something larger maps it, or nothing does. */
uint64_t *ept01_small(uint64_t gpa1);
/* Map what holds gpa1 by 4-KiB pages. The caller has brought the other processors out and calls ept01_flush. False: as ept01_set. */
bool ept01_split(uint64_t gpa1);
void ept01_flush(void);
/* As the library's callback says it... */
enum nvmx_status ept01_find(uint64_t gpa1, struct nvmx_ept01_mapping *out);
/* ... and as it asks: a 4-KiB page counts as L2's from then on (versions.c). */
enum nvmx_status ept01_find_for_l2(uint64_t gpa1, struct nvmx_ept01_mapping *out);

/* -- exits (handlers.c) ------------------------------------------------------------------------------------------- */

#define REASON_EXCEPTION_OR_NMI 0u
#define REASON_INIT             3u
#define REASON_STARTUP          4u
#define REASON_VMXOFF           26u
#define REASON_VMXON            27u
/* The exit that happened, of this reason, is an NMI. */
bool exit_is_nmi(void);
/* An exit that the library leaves to the host. */
void handle_exit(struct cpu *cpu);
/* Leave the instruction that exited behind: RIP, interruptibility, a pending single step. */
void skip_instruction(void);
/* The current guest executes the instruction that exited once more, at once or after the fault that it gets. */
void set_resume_flag(void);
#define VECTOR_NMI 2
#define VECTOR_UD  6
#define VECTOR_GP  13
void inject_exception(uint8_t vector, bool has_error_code, uint32_t error_code);
/* Deliver an NMI of L1's, if it can take it now. */
void deliver_nmi(struct cpu *cpu);

/* MSRs as L1 sees them (msrs.c); false: #GP. */
bool l1_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value);
bool l1_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value);
/* The same of an MSR that libnvmx does not answer. */
bool guest_rdmsr(uint32_t index, uint64_t *value);
bool guest_wrmsr(uint32_t index, uint64_t value);
/* A new bitmap for vmcs01. */
struct page msr_bitmap01(void);

/* -- the machine (acpi.c, bios.c, ports.c)
 * -------------------------------------------------------------------------------- */

void acpi_init(void);
/* The RSDP's address (0: none), and the port of PM1a control (0: none). */
uint64_t acpi_rsdp(void);
uint16_t acpi_pm1a_control(void);
bool acpi_is_bochs(void);
/* The identifiers of all enabled local APICs, up to `max`; returns how many there are (0: ACPI does not say). */
uint32_t acpi_processors(uint32_t *id, uint32_t max);
/* Switch off by every means known; at the worst halt. */
_Noreturn void power_off(void);

/* Keep a place in conventional memory for the handler of INT 15H, before L1 gets its own; install it, when the map is
 * final. */
void bios_take_block(void);
void bios_hook(void);

/* I/O bitmaps A and B for vmcs01; words == NULL: L0 intercepts no port. */
void io_bitmaps01(struct page bitmaps[2]);
void handle_io(struct cpu *cpu);

/* -- moving (move_*.c, dirty.c; see move.h) -------------------------------------------------------------------------- */

/* COM2 becomes L0's. */
void move_link_init(void);
/* After each exit, with option `move-out`. */
void move_out(struct cpu *cpu);
/* Instead of placing an image, with option `move-in`: returns when L1 has come and may run; its registers and VMCSs are set up. */
void move_in(struct cpu *cpu);
/* What L1 saw where it came from; NULL: it started here. */
const struct nvmx_caps *move_caps(void);
/* CPUID as L1 sees it, but for VMX and what CR4 decides. */
extern uint32_t cpuid_kept; /* leaves and subleaves of where L1 came from; 0: it started here */
struct cpuid cpuid_of_kept(uint32_t leaf, uint32_t subleaf, struct cpuid here);
static inline struct cpuid cpuid_l1(uint32_t leaf, uint32_t subleaf) {
    struct cpuid here = cpuid(leaf, subleaf);

    return RARELY(cpuid_kept) ? cpuid_of_kept(leaf, subleaf, here) : here;
}
/* A page of L1 was written to by libnvmx or for it. */
void dirty_mark(uint64_t gpa1);
/* A write to a page that is watched: true if it may go on now. */
bool dirty_fault(uint64_t gpa1);

/* -- diagnosis (stats.c, crash.c) --------------------------------------------------------------------------------- */

enum stats_who { STATS_HOST, STATS_EMULATED, STATS_REFLECTED, STATS_WHO_COUNT };
#define STATS_REASONS 96

/* RAX of the VMCALL by which L1 asks for the counts (option `stats`): "nvmxstat" read as a little-endian number. */
#define STATS_VMCALL 0x74617473786d766eull

/* After each exit, with option `shake` (shake.c). */
void shake(struct cpu *cpu);
void shake_print(void);

/* With option `resize` (resize.c): after each exit; a page of L1 that libnvmx used; the page at gpa1 is touched: true if it was out and is back. */
void resize(struct cpu *cpu);
void resize_note(uint64_t gpa1);
bool resize_give_back(uint64_t gpa1);
void resize_print(void);

/* Option `trace` (trace.c): the ring; nvmx_host.trace; the end. */
void trace_init(void);
struct nvmx_trace_record;
void trace_keep(void *ctx, struct nvmx_trace_record *record);
void trace_print(void);

void stats_exit(bool from_l2, uint32_t reason, enum stats_who who);
void stats_print(void);
/* The machine ends: counts and trace, if they are wanted. */
void report_end(void);

struct trap_frame;
/* Registers of the guest and the VMCS that is current; `frame` (may be NULL): L0's own at an exception. */
void crash_report(const struct trap_frame *frame);

struct trap_frame {
    uint64_t gpr[16];
    uint64_t vector, error_code, rip, cs, rflags, rsp, ss;
};

#endif
