/* SPDX-License-Identifier: MIT */
/*
 * Internal: the state of a VM and of a vCPU, and the seams between the folders of lib/.
 *
 * Arrows point down only: exits/ (machine) -> vmcs/ merge, msr/ bitmaps, ept/ composition (composer) -> fields, caps,
 * checks, decoding (model).
 */
#ifndef NVMX_LIB_VCPU_H
#define NVMX_LIB_VCPU_H

#include <nvmx/decode.h>
#include <nvmx/nvmx.h>

#include "architecture.h"
#include "vmcs/vmcs12.h"

/* Default revision identifier and region layout of a VMCS region in L1's memory: see vmcs/README.md. */
#define NVMX_REVISION 0x4e560001u
/* SDM 27.2: a VMCS region is 4 KiB: dword 0 revision (bit 31: shadow), dword 1 VMX-abort indicator. */
#define VMCS_REGION_ABORT 4u
/* Our layout: fields one after the other in the order of the table, 8 bytes each, from here on. */
#define VMCS_REGION_FIELDS 64u

/* For the compiler: the way on from here is not the hot one. */
#define RARE(condition) __builtin_expect(!!(condition), 0)
#define COLD            __attribute__((noinline, cold))

#define NVMX_NO_DEADLINE UINT64_MAX

/*
 * Where a table has the field of an encoding: width (14:13), kind (11:10) and the low bits of the index (SDM 27.11.2) decide. No field
 * has a bit of FIELD_NO_PLACE; bit 0 is the high half of one. The product of 32 bits has the encoding shifted by 20 and by 14 in it; no two
 * encodings have the same 11 upper bits (tests/unit/short_ways.c).
 */
#define FIELD_PLACES          2048u
#define FIELD_PLACE(encoding) ((uint32_t)((encoding) * 0x104000u) >> 21)
#define FIELD_NO_PLACE        (~UINT64_C(0x6c7e))

struct nvmx_vm {
    struct nvmx_host host; /* completed with NULL past the caller's size */
    void *ctx;
    struct nvmx_caps caps; /* what L1 sees */
    struct nvmx_caps machine;
    struct nvmx_vmcs12_layout layout;
    bool plain_layout;                     /* `layout` is ours */
    bool timer_by_deadline;       /* L1's preemption timer is not the processor's: exits/timer.c */
    uint64_t field_mask[NVMX_FIELD_COUNT]; /* bits that a field can hold; 0 if L1 does not have it */
    struct nvmx_field_set exists;          /* fields that L1 has */
    uint8_t whole_field[FIELD_PLACES];     /* slot + 1 by FIELD_PLACE of an encoding: what L1 has; 0: nothing */
    struct nvmx_field_set machine_fields;  /* fields that the real CPU has */
    struct nvmx_field_set guest_state;     /* fields of the guest-state area that reach vmcs02, where L2 changes them */
    struct nvmx_field_set copied;          /* those with NVMX_MERGE_COPY that L1 has */
    struct nvmx_field_set controls;        /* fields from which vmcs02's controls are merged */
    struct nvmx_field_set lone_controls;   /* of them, those that the others don't depend on */
    struct nvmx_field_set msr_fields;      /* guest-state fields that are MSRs */
    uint64_t region_reserved;              /* bits that are 0 in the address of a VMCS or VMXON region */
    uint8_t invept_types, invvpid_types;   /* 1 << type: L1 has the instruction and this type of it */
    uint32_t gates_exit_save, gates_entry_load; /* bits of the VM-exit and VM-entry controls that gates[] names */
    struct shadow_list shadowed;
    struct nvmx_ept *ept; /* NULL if the host composes */
    bool expose;
};

/* L2's state between nvmx_state_restore and nvmx_state_complete, which writes it into a vmcs02 (state.c). */
struct restored {
    bool ia32e;
    struct nvmx_field_set has;
    uint64_t value[NVMX_FIELD_COUNT];
};

/* Arrays of all fields that would be too much for a kernel's stack. Each use ends before a function that has another one is called. */
struct scratch {
    uint32_t encoding[NVMX_FIELD_COUNT + 3]; /* of host_read_many, sync_some */
    uint64_t value[NVMX_FIELD_COUNT + 3];    /* of their callers, fetch and refill */
};

/* What a VMWRITE does beside the value, by field (vmcs12.c). */
struct write_ways {
    bool by_rule[NVMX_FIELD_COUNT];         /* it is decided field by field, or by the value */
    bool keeps_l1_state[NVMX_FIELD_COUNT];  /* vmcs12.l1_state_ready stays */
    uint8_t keeps_checks[NVMX_FIELD_COUNT]; /* groups that stay in vmcs12.checked */
    bool counts_for_entry[NVMX_FIELD_COUNT]; /* it becomes dirty; what does not is never stale */
    uint32_t free_primary;                  /* bits of the primary controls that change without another check */
};

/* Trace records (trace.c). */
struct traced {
    uint32_t number; /* records in all; the counts are those at the last one */
    uint64_t callbacks, vmreads, vmwrites;
};

/* What vmcs01 said when L1 left it by VMLAUNCH or VMRESUME: while L2 runs it stays so. Nothing was pending, and L1 was active. */
struct l1_left {
    bool valid;
    uint64_t cs_rights;
    uint64_t ss_rights;
    uint64_t entry_controls;
    uint64_t interruptibility;
};

/* An MSR, and the bit of an MSR bitmap that intercepts reading or writing it. */
struct msr_access {
    uint64_t index; /* of more than 32 bits: none */
    uint32_t bit;
};

/* What lib/ept said of an EPT violation that is an exit like others after all: exits/route.c. */
struct violation {
    bool decided;
    uint64_t value[5]; /* VIOLATION_ of exits/exits.h */
    enum nvmx_ept_verdict verdict;
    struct nvmx_ept_fault fault;
};

#define ENTRY_RESTORED 2u /* nvmx_vcpu.entry_pending */

struct nvmx_vcpu {
    struct nvmx_vm *vm;
    void *ctx;
    struct nvmx_regs *regs;
    uint32_t id;
    uint32_t selected; /* NVMX_VMCS01, ... */
    enum nvmx_mode mode;
    enum nvmx_status stop_status;
    union {
        struct {
            uint8_t stop;          /* enum nvmx_stop */
            bool traces;           /* the host has the callback */
            bool restore_pending;  /* real VMCSs are not written yet: see struct restored */
            bool pages_changed;    /* pages that a vmcs02 used in place were released while L2 runs on it */
            bool timer_runs;       /* a timer by deadline: timer_deadline counts */
            bool bus_lock;         /* L2 locked the bus, and L1, which wants to know, saw no exit since */
            bool step_with_host;   /* L1 has the monitor trap flag, and the host may carry out the instruction of L2 at step_rip */
            bool vmcs01_changed;   /* while L2 runs, and vmcs02 has not followed */
        };
        uint64_t care; /* 0: exits and entries need no care */
    };

    uint64_t l1_address_bits; /* bits that L1's paging-structure entries can hold of an address */
    uint64_t l1_reserved_bits; /* and those up to 51 that they can't */
    uint64_t eptp12_valid;    /* the last that nvmx_eptp_valid found valid, by an INVEPT; NVMX_NO_ADDRESS, which never is: none */
    uint64_t vmxon_pointer;   /* gpa1; NVMX_NO_ADDRESS outside VMX operation */
    uint64_t feature_control;
    int current; /* index in vmcs12[] of the current VMCS, or -1 */
    int put_down; /* index of what left its place last */
    uint16_t last_check;
    uint64_t host_fault_gpa1;
    struct violation violation;
    uint64_t use_clock;

    uint64_t saved_for[3]; /* primary, secondary and VM-exit controls of which saved_last was made */
    struct nvmx_field_set saved_last;
    uint16_t vmcs02_slots;
    uint16_t vpid02_first, vpid02_count, vpid02_next;
    uint16_t vpid12_of[16]; /* VPID12 that uses vpid02_first + i; 0: free */
    bool shadow_used;
    bool shadows_apart;                  /* each place in the cache has its own */
    bool link_known;                     /* vmcs01's link pointer names `linked` */
    const struct shadow_vmcs *linked;    /* NULL: none */
    struct shadow_vmcs shadow_vmcs[NVMX_VMCS02_MAX];
    struct shadow_writes shadow_writes;
    struct write_ways write_ways;
    const uint64_t *host_msr_bitmap;
    uint64_t unmapped_page2;        /* page of L2 that the last EPT violation found unmapped in ept12, or NVMX_NO_ADDRESS */
    struct msr_access hosts_msr[2]; /* what L2 read, and wrote, when it last went to the host by both bitmaps */
    const uint64_t *host_io_bitmap[2];

    bool a20m;                    /* the host's pin: see nvmx_a20m */
    uint8_t entry_pending;        /* L1 executed VMLAUNCH/VMRESUME and L2 has not run since; ENTRY_RESTORED: so it came from elsewhere */
    bool timer_forced;            /* vmcs02's preemption timer is at 0 to make L2 exit at once (exits/event.c) */
    uint64_t saved_timer;         /* vmcs12's timer meanwhile */
    uint64_t step_rip;            /* see step_with_host */
    uint64_t timer_deadline;      /* of a timer by deadline */
    bool launching;               /* with entry_pending: by VMLAUNCH, so that the launch state is clear again if hardware refuses */
    uint32_t window_requested;    /* window-exiting bits, or the trap flag, that vmcs02 has beside its own primary controls */
    uint32_t gates_switched;      /* gates that vmcs01 loads on entry: the host switches them */
    uint64_t cr4_kept;            /* CR4.MCE if the host has it set behind its mask: see cr4_of_l2 */
    bool l1_value_known;
    uint64_t
        l1_value[GATES_MAX]; /* what L2 inherits from L1, as vmcs01 has it; in the order of vmcs12.inherited_encoding */
    struct l1_left l1_left;
    struct watched watched;
    bool l1_shadows_known; /* vmcs01's read shadows of CR0 and CR4 are l1_shadow[] */
    uint64_t l1_shadow[2];
    bool host_controls_known;     /* host_control[] holds vmcs01's control fields */
    uint64_t host_control[NVMX_FIELD_COUNT]; /* by slot; only control fields */

    struct vmcs12 vmcs12[NVMX_VMCS02_MAX];
    struct restored restored;
    struct scratch scratch;
    uint32_t merge_encoding[NVMX_FIELD_COUNT + 5]; /* a merge in progress (vmcs/merge.h) */
    uint64_t merge_value[NVMX_FIELD_COUNT + 5];
    struct nvmx_counts counts;
    struct traced traced;
};

/* -- vcpu.c ---------------------------------------------------------------------------------------------------- */

/* Outside VMX operation, with nothing held or remembered; L1's memory is not written. */
void vcpu_forget(struct nvmx_vcpu *vcpu);

#include "host.h"

/* vmcs/fields.c: take away the capabilities that make a field exist, if any do. */
void field_deny(unsigned int slot, struct nvmx_caps *mask);

/* -- vmcs/memory.c: L1's memory ------------------------------------------------------------------------------------ */

/* A fault that an instruction of L1 gets instead of its effect. vector < 0: none. */
struct l1_fault {
    int16_t vector;
    bool has_error_code;
    uint32_t error_code;
    uint64_t cr2; /* for vector 14 */
};

/* Read or write `bytes` (at most 16) of L1's physical memory, possibly across a page. NVMX_E_UNMAPPED if there is none.
 */
enum nvmx_status l1_physical_read(struct nvmx_vcpu *vcpu, uint64_t gpa1, void *to, uint32_t bytes);
enum nvmx_status l1_physical_write(struct nvmx_vcpu *vcpu, uint64_t gpa1, const void *from, uint32_t bytes);

/* -- vmcs/instruction.c: VMX instructions of L1 -------------------------------------------------------------------- */

/* An exit of L1 with reason 18-27, 50, 53 or 59, but for those below. vmcs01 is selected. */
enum nvmx_next instruction_exit(struct nvmx_vcpu *vcpu, uint32_t basic_reason);
/* VMCLEAR, VMPTRLD, VMPTRST, INVEPT or INVVPID (instruction_memory.c). */
enum nvmx_next instruction_memory(struct nvmx_vcpu *vcpu, uint32_t basic_reason);
/* VMREAD or VMWRITE; VMLAUNCH or VMRESUME (instruction_fast.c). */
enum nvmx_next instruction_access(struct nvmx_vcpu *vcpu, uint32_t basic_reason);
enum nvmx_next instruction_entry(struct nvmx_vcpu *vcpu, uint32_t basic_reason);

/* What became of a VMREAD or VMWRITE of L2 that vmcs12 lets go to its shadow VMCS (instruction_l2.c). */
enum l2_instruction {
    L2_INSTRUCTION_EXITS = 0, /* L1's bitmap wants the exit, or the encoding is too large for one */
    L2_INSTRUCTION_STAYS,     /* it would not exit, but nothing was to be done */
    L2_INSTRUCTION_DONE,
    L2_INSTRUCTION_FAULT,  /* fault->vector */
    L2_INSTRUCTION_EPT,    /* ept12 does not allow the memory operand */
    L2_INSTRUCTION_RETRY,  /* nothing happened: L2 executes it anew */
    L2_INSTRUCTION_FAILED, /* a callback failed, and L2 can't go on */
};
struct l2_memory;
/* vmcs02 is selected. `information`: the instruction information of the exit, or of the instruction that the host asks about. `carry_out`:
 * false: only decide. */
enum l2_instruction instruction_of_l2(struct nvmx_vcpu *vcpu, uint32_t basic_reason, uint32_t information,
                                      bool carry_out, struct l1_fault *fault, struct l2_memory *memory);

/* VMfailValid (SDM 33.2) of the VMX instruction that exited, written to vmcs01 with RIP advanced. NVMX_ENTER or
 * NVMX_STOP. */
enum nvmx_next vm_fail_valid(struct nvmx_vcpu *vcpu, uint32_t error);
/* Give L1 an exception as a fault of the instruction that exited. */
enum nvmx_next l1_raise(struct nvmx_vcpu *vcpu, const struct l1_fault *fault);
enum nvmx_next l1_raise_gp(struct nvmx_vcpu *vcpu);
enum nvmx_next l1_raise_ud(struct nvmx_vcpu *vcpu);
/* Advance L1's RIP past the instruction that exited, ending STI and MOV SS blocking and noting a single step. */
enum nvmx_status l1_skip(struct nvmx_vcpu *vcpu);
/* The same for L2 and an instruction that the library carried out in hardware's place. vmcs02 is selected. */
enum nvmx_status l2_skip(struct nvmx_vcpu *vcpu);

/* -- vmcs/vmcs12.c: VMCS regions of L1 and the cache of them ------------------------------------------------------- */

enum vmcs12_result {
    VMCS12_OK = 0,
    VMCS12_BAD_REVISION, /* wrong identifier, shadow indicator, or no memory there */
    VMCS12_FAILED,       /* a callback failed; nothing changed */
    VMCS12_LOST,         /* callbacks failed so that L1's VMREADs would not be of its current VMCS */
};

/* nvmx_vcpu.write_ways, once shadow_used is known. */
void vmcs12_write_ways(struct nvmx_vcpu *vcpu);
/* Aligned, and within the physical-address width that L1 sees (32 bits if IA32_VMX_BASIC[48]). */
static inline bool region_address_ok(const struct nvmx_vm *vm, uint64_t gpa1) {
    return (gpa1 & vm->region_reserved) == 0;
}
/* An empty place of the cache. */
void vmcs12_init(struct vmcs12 *v);
/* The name (NVMX_VMCS02_FIRST + k) of a cached vmcs12's vmcs02. */
uint32_t vmcs02_of(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v);
/* VMPTRLD's effect. gpa1 is aligned, within the width, not the VMXON pointer. */
enum vmcs12_result vmcs12_make_current(struct nvmx_vcpu *vcpu, uint64_t gpa1);
/* VMCLEAR's effect: data into L1's memory, launch state clear; no longer current if it was. */
enum nvmx_status vmcs12_clear(struct nvmx_vcpu *vcpu, uint64_t gpa1);
/* Write back and forget all (VMXOFF, destroy). Best effort. */
void vmcs12_drop_all(struct nvmx_vcpu *vcpu, bool write_back);
/* The current one, or NULL; its gpa1, or NVMX_NO_ADDRESS. */
static inline struct vmcs12 *vmcs12_current(struct nvmx_vcpu *vcpu) {
    return vcpu->current < 0 ? NULL : &vcpu->vmcs12[vcpu->current];
}
static inline uint64_t vmcs12_pointer(const struct nvmx_vcpu *vcpu) {
    return vcpu->current < 0 ? NVMX_NO_ADDRESS : vcpu->vmcs12[vcpu->current].gpa1;
}
/* VMREAD/VMWRITE of the current VMCS by slot (which exists). Reading may fetch a stale field from vmcs02. */
enum nvmx_status vmcs12_read(struct nvmx_vcpu *vcpu, unsigned int slot, uint64_t *value);
void vmcs12_write(struct nvmx_vcpu *vcpu, unsigned int slot, uint64_t value);
void vmcs12_write_to(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t value);
/* The same for a field that no entry check looks at, and a value that fits it. */
static inline void vmcs12_write_unchecked(struct vmcs12 *v, unsigned int slot, uint64_t value) {
    v->value[slot] = value;
    nvmx_set_add(&v->dirty, slot);
    nvmx_set_remove(&v->stale, slot);
}
/* Where bits 63:32 of RIP stay as they are, or are 0, no rule (SDM 29.3.1.4) that held before is broken. */
static inline bool vmcs12_rip_is_checked(const struct vmcs12 *v, uint64_t value) {
    return (v->value[NVMX_F_GUEST_RIP] ^ value) >> 32 != 0 && value >> 32 != 0;
}
/* VM-entry interruption information of an external interrupt: no other field goes with it (SDM 27.8.3). */
static inline bool event_is_vector_alone(uint64_t information) {
    return (information & ~UINT64_C(0xff)) == EVENT_VALID;
}
/*
 * The interruptibility state that vmcs02 is entered with. SDM 29.3.1.5: with virtual NMIs no NMI may be injected while NMIs are blocked. Where they are the
 * host's alone L1 may do it, and vmcs02 is entered without the blocking, which the injection brings back (29.6.1).
 */
static inline uint64_t interruptibility_with_event(const struct vmcs12 *v, uint64_t event, uint64_t state) {
    const bool nmi = (event & EVENT_VALID) != 0 && EVENT_TYPE(event) == EVENT_TYPE_NMI;
    const bool virtual_nmis = (v->image[NVMX_F_PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS) != 0;

    return nmi && virtual_nmis ? state & ~(uint64_t)BLOCKING_NMI : state;
}
/*
 * With step_with_host: SDM 28.5.2, where RIP has moved the host carried out an instruction of which hardware saw no end,
 * and EVENT_MTF is due. After an event that the host injects hardware has the exit by itself.
 */
static inline bool step_is_over(const struct nvmx_vcpu *vcpu, uint64_t rip, uint64_t event) {
    return rip != vcpu->step_rip && (event & EVENT_VALID) == 0;
}
/* A field (which exists) of the shadow VMCS of L1 at gpa1, where L2's VMREAD and VMWRITE go (SDM 27.10). */
enum nvmx_status vmcs12_shadow_read(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int slot, uint64_t *value);
enum nvmx_status vmcs12_shadow_write(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int slot, uint64_t value);
/* VMX-abort indicator into the current region (SDM 30.7). */
void vmcs12_abort(struct nvmx_vcpu *vcpu, uint32_t indicator);

/* -- vmcs/shadow.c: hardware VMCS shadowing ------------------------------------------------------------------------ */

/* The list of fields, once per VM. */
void shadow_fields(struct nvmx_vm *vm);
/*
 * Fill the shadow VMCS from the current vmcs12 / take what L1 wrote there. No effect without a shadow VMCS; else it may
 * stay selected.
 */
enum nvmx_status shadow_push(struct nvmx_vcpu *vcpu);
/* The same after an exit of L2, or an entry that failed, of the vmcs12 that was current at the last push. */
enum nvmx_status shadow_push_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
enum nvmx_status shadow_pull(struct nvmx_vcpu *vcpu);
/* The same before a vmcs12 that need not be the current one is looked at whole. The VMCS selected before is selected again. */
enum nvmx_status shadow_pull_ahead(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same of one that leaves the cache. */
enum nvmx_status shadow_pull_away(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same for a VM entry: what it does not look at may stay in the shadow VMCS. */
enum nvmx_status shadow_pull_for_entry(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* A field that L1 reads there was changed by an emulated VMWRITE. If L1 can write it there it does from now on. */
enum nvmx_status shadow_follow(struct nvmx_vcpu *vcpu, unsigned int slot);
/* What L1 may write without an exit, at first; `bitmap`: the host's page, or NULL. Once shadow_used is known. */
void shadow_writes_init(struct nvmx_vcpu *vcpu, uint8_t *bitmap);
/* The current VMCS changed or went away: vmcs01's link pointer follows. Selects vmcs01 if that is to be written. */
enum nvmx_status shadow_relink(struct nvmx_vcpu *vcpu);

/* -- vmcs/merge.c, sync.c: vmcs12 + vmcs01 -> vmcs02 and back ------------------------------------------------------ */

/* What vmcs02 loads for L1 alone. */
static inline uint32_t gates_alone(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return v->gates_loaded & ~vcpu->gates_switched;
}

/* GATES_WATCHED as far as they are; the place of one of them in watched.value. */
static inline uint32_t gates_watched(const struct nvmx_vcpu *vcpu) {
    return vcpu->watched.on ? vcpu->gates_switched & GATES_WATCHED : 0;
}
static inline unsigned int watched_place(const struct nvmx_vcpu *vcpu, unsigned int gate) {
    return gate == GATE_EFER && ((vcpu->gates_switched >> GATE_PAT) & 1) != 0 ? 4 : 3;
}

/* Nothing is known of them any more. */
void watched_forget(struct nvmx_vcpu *vcpu);

/* What follows from the tables, once per VM. */
void merge_sets(struct nvmx_vm *vm);
/* vmcs01's control fields, read if they aren't known. vmcs01 must be selected unless they are. */
enum nvmx_status host_controls_read(struct nvmx_vcpu *vcpu);
static inline enum nvmx_status host_controls(struct nvmx_vcpu *vcpu) {
    return vcpu->host_controls_known ? NVMX_OK : host_controls_read(vcpu);
}
/* Read from vmcs01 what L2 inherits by the last merged controls. A merge does it too: earlier, while vmcs01 is
 * selected, it costs no select. */
enum nvmx_status merge_read_l1(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Write vmcs02 of the current vmcs12 for an entry to L2 (checks passed) and select it. `pdpte`: what PAE paging without
 * EPT loads, or NULL. */
enum nvmx_status merge_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint64_t *pdpte);
/* Since the last entry of the current vmcs12, which is plain, nothing changed that such a merge would write, but perhaps RIP, RSP, an event, the EPTP, the
 * preemption timer, what L2 inherits and the MSR bitmap, whose words follow here. Then merge_little writes them, and selects vmcs02. */
bool merge_needs_little(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
enum nvmx_status merge_little(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* After a merge: its part of v->plain. */
bool merge_is_plain(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v);
/* Take the pages that vmcs02 uses in place again (after nvmx_memory_changed or _protected). vmcs02 is selected. */
enum nvmx_status merge_pages_again(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same of vmcs01's intercepts, after nvmx_vmcs01_changed, of ept01, if an L2 whose L1 has no EPT runs on it, and of what the host composes
 * (merge_again.c). */
enum nvmx_status merge_vmcs01_again(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* vmcs12's EPTP changed while L2 runs (EPTP switching): vmcs02 follows. vmcs02 is selected. */
enum nvmx_status merge_switch_ept(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Release pages of L1 in [gpa1, gpa1 + bytes): all, or those that the processor writes to. */
void merge_release_range(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes, bool only_written);
/* L2's access leads to gpa1, where the host has nothing, or not with these rights: nvmx_host_fault_gpa1. */
void merge_fault_of_host(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1);
/* An MSR (by its bit of the bitmap) that exits from L2 whatever the bitmaps say: IA32_SPEC_CTRL where bits of it are protected, those that vmcs01
 * virtualizes for L1 and vmcs02 does not for L2, and writes of IA32_PERF_GLOBAL_CTRL that vmcs02 loads and no exit saves. */
bool merge_keeps_msr(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t bit);
/* Neither L1 nor the host intercepts this MSR or port access of L2: let it through from now on. */
enum nvmx_status merge_heat_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t bit);
enum nvmx_status merge_heat_io(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int which, uint32_t bit);
/* Release what a vmcs02 slot holds (pins, ept02 user, bitmaps). */
void merge_release(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Release L1's pages alone: the next entry takes them anew. */
void merge_release_pins(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Read the listed fields from the selected vmcs02 into vmcs12's slots, plus the learned ones; all other guest state
 * becomes stale. */
enum nvmx_status sync_from_vmcs02(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same where vmcs02 has just exited, and by an instruction. */
enum nvmx_status sync_by_instruction(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The controls changed: what does an exit save now? */
void sync_saved_fields(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* Fetch every stale field of a vmcs12 (before it leaves the cache). Selects vmcs02 and back. */
enum nvmx_status sync_all(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The same of one that leaves the cache: it is not known what vmcs02 holds, and that may stay selected. */
enum nvmx_status sync_away(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/*
 * Before a VM-entry MSR-load list loads an MSR that may be a field: fetch what is stale of the guest-state fields that are MSRs,
 * because the host may carry out the load by a write to vmcs02. Selects vmcs02 and back.
 */
enum nvmx_status sync_msrs(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/* The list failed: nothing is known of these fields of vmcs02, and vmcs12's are as they were (SDM 29.8). */
void sync_msrs_lost(const struct nvmx_vcpu *vcpu, struct vmcs12 *v);
/*
 * Load L1's state from vmcs12's host-state area into vmcs01 (SDM 30.5) and select it. vmcs02, which L2 ran on, is
 * selected. *abort_indicator: VMX abort, 0 if none.
 */
enum nvmx_status load_host_state(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool nmi_exit, uint32_t *abort_indicator);
/* The same after a failed entry. `loaded`: vmcs02 was selected already; else state that the host-state area does not name
 * is still L1's, in vmcs01. */
enum nvmx_status load_host_state_unentered(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool loaded,
                                           uint32_t *abort_indicator);
/*
 * A machine check while CR4.MCE is 0 shuts the machine down (SDM 7.15). A host that keeps it set while L1 runs, whatever L1 sees, has it set in vmcs01 and
 * vmcs02 always. This is L2's CR4, of what vmcs02 holds: the bit is as L1 gave it if L1 masks it, else as L2 reads it.
 */
static inline uint64_t cr4_of_l2(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t cr4, uint64_t read_shadow) {
    const uint64_t l1_mask = v->value[NVMX_F_CR4_GUEST_HOST_MASK];
    const uint64_t own = (v->value[NVMX_F_GUEST_CR4] & l1_mask) | (read_shadow & ~l1_mask);

    return (cr4 & ~vcpu->cr4_kept) | (own & vcpu->cr4_kept);
}

/* Controls of vmcs12 that count only if another activates them. */
static inline uint64_t tertiary_controls(const struct vmcs12 *v) {
    bool active = (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_TERTIARY) != 0;

    return active ? v->value[NVMX_F_TERTIARY_CONTROLS] : 0;
}

/* VM-exit controls: the secondary ones, if they are active, in the upper half. */
static inline uint64_t exit_controls(const struct vmcs12 *v) {
    uint64_t primary = v->value[NVMX_F_VM_EXIT_CONTROLS];

    return primary | ((primary & EXIT_SECONDARY) != 0 ? v->value[NVMX_F_SECONDARY_VM_EXIT_CONTROLS] << 32 : 0);
}

static inline uint32_t secondary_controls(const struct vmcs12 *v) {
    bool active = (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0;

    return active ? (uint32_t)v->value[NVMX_F_SECONDARY_CONTROLS] : 0;
}

/* -- msr/: capability MSRs, lists ---------------------------------------------------------------------------------- */

/* RDMSR/WRMSR exit of L1 (basic reason 31 or 32): NVMX_HOST if the MSR is not a VMX one. */
enum nvmx_next msr_exit(struct nvmx_vcpu *vcpu, uint32_t basic_reason);

/*
 * SDM 29.4: the VM-entry MSR-load list at gpa1. Returns 0, or the 1-based index of the entry that fails (entries before
 * it are loaded); where *status is not NVMX_OK vmcs02 could not be read there, and the entry is not to blame. SDM 30.4,
 * 30.6: the VM-exit MSR-store and -load lists. 0, or the index of the failing entry (then: VMX abort).
 */
uint32_t msr_list_load_for_entry(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1, uint32_t count,
                                 enum nvmx_status *status);
uint32_t msr_list_load(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t count);
uint32_t msr_list_store(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t count);

/* -- exits/ -------------------------------------------------------------------------------------------------------- */

/* VMLAUNCH/VMRESUME past the instruction's own checks: entry checks, merge, MSR lists; or the refusal. `l1_long_mode`:
 * EFER.LMA of L1. */
enum nvmx_next enter_l2(struct nvmx_vcpu *vcpu, bool l1_long_mode);
/* An exit of L2. */
enum nvmx_next l2_exit(struct nvmx_vcpu *vcpu, uint32_t exit_reason);
/* RDMSR or WRMSR of L2 (exit reason 31 or 32, and no other bits) like one that went to the host before. True: l2_exit would say NVMX_HOST,
 * and all is done. */
bool l2_msr_is_hosts(struct nvmx_vcpu *vcpu, const struct msr_access *access);
/* An EPT violation of L2 and nothing else. True: ept02 has the page now, or L2 tries again: enter it (route.c). False: an exit as others, for
 * l2_exit; vcpu->violation has what was found out already. */
bool violation_of_l2(struct nvmx_vcpu *vcpu);
/*
 * A preemption timer by the host's deadline (exits/timer.c), where vm->timer_by_deadline. Begin to count for L2, if vmcs12 uses the timer; what is left,
 * in units of the timer; end it, with vmcs12's field as an exit leaves it; end it without.
 */
void timer_start(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint64_t value);
uint64_t timer_remainder(struct nvmx_vcpu *vcpu);
void timer_end(struct nvmx_vcpu *vcpu, struct vmcs12 *v);
void timer_cancel(struct nvmx_vcpu *vcpu);
/* A callback failed where neither L1 nor L2 can go on. */
enum nvmx_next stop(struct nvmx_vcpu *vcpu, enum nvmx_stop reason, enum nvmx_status status);

#endif
