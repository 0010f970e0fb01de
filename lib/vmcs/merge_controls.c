/* SPDX-License-Identifier: MIT */
/*
 * vmcs02's control fields: vmcs12's wishes plus what the host insists on (SDM 27.6-27.8).
 *
 * Each bit of a control field has one of four origins. What no mask names is the host's: an unknown control never passes through.
 */
#include "merge.h"

/* A control field's bits by origin. */
struct origin {
    uint32_t either; /* set if vmcs12 or the host sets it: intercepts */
    uint32_t l1;     /* as vmcs12 has it: features that L2 gets, events that L1 waits for */
    uint32_t both;   /* set if vmcs12 and the host set it: what the host keeps from L1 is not L1's to give */
};

static const struct origin pin_origin = {
    .either = PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMIS,
    .l1 = PIN_PREEMPTION_TIMER | PIN_POSTED_INTERRUPTS,
};

static const struct origin primary_origin = {
    .either = (1u << 7) | (1u << 9) | (1u << 10) | (1u << 11) | (1u << 12) | PROC_CR3_LOAD | PROC_CR3_STORE |
              PROC_CR8_LOAD | PROC_CR8_STORE | (1u << 23) | (1u << 29) | (1u << 30) | PROC_TSC_OFFSETTING,
    .l1 = PROC_INTERRUPT_WINDOW | PROC_TPR_SHADOW | PROC_NMI_WINDOW | PROC_MONITOR_TRAP,
};

static const struct origin secondary_origin = {
    .either = (1u << 2) | (1u << 6) | PROC2_PLE | (1u << 11) | PROC2_ENCLS | (1u << 16) | PROC2_TSC_SCALING |
              PROC2_ENCLV | PROC2_BUS_LOCK | PROC2_TIMEOUT,
    .both = PROC2_XSAVES | PROC2_PCONFIG,
    .l1 = PROC2_APIC_ACCESSES | PROC2_RDTSCP | PROC2_X2APIC | PROC2_UNRESTRICTED | PROC2_APIC_REGISTER |
          PROC2_VIRTUAL_INTERRUPTS | PROC2_INVPCID | PROC2_VM_FUNCTIONS | PROC2_MBEC | PROC2_SPP | PROC2_USER_WAIT,
};

/* What the host has in vmcs01 that must never reach a vmcs02 as it is: it concerns L1's own pages and events. */
#define SECONDARY_NEVER ((1u << 14) | (1u << 17) | (1u << 18))

/*
 * IA32_SPEC_CTRL is virtualized by exits (exits/spec_ctrl.c). All else that the host has there concerns L1's own pages and MSRs; but for what keeps PEBS, which
 * L1 may have on while L2 runs, behind EPT.
 */
static const struct origin tertiary_origin = {
    .either = PROC3_LOADIWKEY,
    .both = PROC3_MSR_LIST | PROC3_PBNDKB,
};
#define TERTIARY_OF_HOST ((uint64_t)(PROC3_LOADIWKEY | PROC3_MSR_LIST | PROC3_PBNDKB | PROC3_PEBS_GPA))
/* What says how the host's own tables are read. */
#define TERTIARY_OF_EPT01 ((uint64_t)(PROC3_PAGING_WRITE | PROC3_PAGING_VERIFIED))

static uint32_t combine(const struct origin *origin, uint64_t l1, uint64_t host) {
    uint32_t host_bits = (uint32_t)host & ~(origin->l1 | origin->both);

    return host_bits | ((uint32_t)l1 & (origin->either | origin->l1)) | ((uint32_t)l1 & (uint32_t)host & origin->both);
}

/* The first of vmcs12's and the host's values that is in use. */
static uint64_t pick(bool l1_uses, uint64_t l1, uint64_t host) {
    return l1_uses ? l1 : host;
}

static uint32_t host_secondary(const struct merge *m) {
    bool active = (m->host[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0;

    return active ? (uint32_t)m->host[NVMX_F_SECONDARY_CONTROLS] : 0;
}

static void put_if_exists(struct merge *m, unsigned int slot, uint64_t value) {
    if (nvmx_set_has(&m->vcpu->vm->machine_fields, slot)) {
        merge_put(m, slot, value);
    }
}

static uint64_t put_tertiary(struct merge *m) {
    bool on_ept01 = (secondary_controls(m->v) & PROC2_EPT) == 0;
    uint64_t host = host_tertiary(m->host) & (TERTIARY_OF_HOST | (on_ept01 ? TERTIARY_OF_EPT01 : 0));
    uint64_t tertiary = combine(&tertiary_origin, tertiary_controls(m->v), host);

    put_if_exists(m, NVMX_F_TERTIARY_CONTROLS, tertiary);
    return tertiary;
}

/* Which bitmaps are used, and whether a TPR shadow is, merge_pages has decided, which knows the pages. */
void merge_primary_controls(struct merge *m) {
    uint64_t l1 = m->v->value[NVMX_F_PRIMARY_CONTROLS];
    uint64_t host = m->host[NVMX_F_PRIMARY_CONTROLS];
    uint32_t primary = combine(&primary_origin, l1, host);
    uint32_t by_pages = PROC_IO_BITMAPS | PROC_UNCONDITIONAL_IO | PROC_MSR_BITMAPS | PROC_TPR_SHADOW;

    primary = (primary & ~by_pages) | m->v->bitmap_bits;
    /* Without a TPR shadow of L1's, CR8 would reach the TPR that the host virtualizes. */
    if ((host & PROC_TPR_SHADOW) != 0 && (l1 & PROC_TPR_SHADOW) == 0) {
        primary |= PROC_CR8_LOAD | PROC_CR8_STORE;
    }
    /* With it CR8 is L1's virtual TPR, in which no host has a part. */
    if ((l1 & PROC_TPR_SHADOW) != 0) {
        primary = (primary & ~(PROC_CR8_LOAD | PROC_CR8_STORE)) | ((uint32_t)l1 & (PROC_CR8_LOAD | PROC_CR8_STORE));
    }
    primary |= PROC_SECONDARY;
    primary = put_tertiary(m) != 0 ? primary | PROC_TERTIARY : primary & ~PROC_TERTIARY;
    merge_put(m, NVMX_F_PRIMARY_CONTROLS, primary);
}

/* Bitmaps of instructions: what either wants, each if its control makes its bitmap count. */
static void put_instruction_bitmaps(struct merge *m, uint32_t l1, uint32_t host) {
    static const struct {
        uint32_t control;
        uint8_t slot;
    } bitmaps[] = {
        {PROC2_XSAVES, NVMX_F_XSS_EXITING_BITMAP},
        {PROC2_ENCLS, NVMX_F_ENCLS_EXITING_BITMAP},
        {PROC2_PCONFIG, NVMX_F_PCONFIG_EXITING_BITMAP},
        {PROC2_ENCLV, NVMX_F_ENCLV_EXITING_BITMAP},
    };

    for (unsigned int i = 0; i < sizeof(bitmaps) / sizeof(bitmaps[0]); i++) {
        uint8_t slot = bitmaps[i].slot;

        put_if_exists(m, slot, ((l1 & bitmaps[i].control) != 0 ? m->v->value[slot] : 0) |
                                   ((host & bitmaps[i].control) != 0 ? m->host[slot] : 0));
    }
}

/* Of two windows the shorter one. */
static uint64_t instruction_window(const struct merge *m, uint32_t l1, uint32_t host) {
    uint64_t of_l1 = m->v->value[NVMX_F_INSTRUCTION_TIMEOUT_CONTROL];
    uint64_t of_host = m->host[NVMX_F_INSTRUCTION_TIMEOUT_CONTROL];

    if ((l1 & host & PROC2_TIMEOUT) != 0) {
        return of_l1 < of_host ? of_l1 : of_host;
    }
    return pick((l1 & PROC2_TIMEOUT) != 0, of_l1, of_host);
}

static void put_secondary(struct merge *m) {
    uint32_t l1 = secondary_controls(m->v);
    uint32_t secondary = combine(&secondary_origin, l1, host_secondary(m) & ~SECONDARY_NEVER);

    secondary |= PROC2_EPT;
    /* On the host's own tables rights mean what they mean to the host. */
    if ((l1 & PROC2_EPT) == 0) {
        secondary = (secondary & ~(PROC2_MBEC | PROC2_SPP)) | (host_secondary(m) & (PROC2_MBEC | PROC2_SPP));
    }
    if (m->v->vpid02 != 0) {
        secondary |= PROC2_VPID;
    } else {
        secondary &= ~PROC2_VPID;
    }
    merge_put(m, NVMX_F_SECONDARY_CONTROLS, secondary);
    /* Of devices that L1 has L2 may have some, too: the PASIDs are L1's, and what the host makes of them. */
    if ((secondary & PROC2_PASID) != 0) {
        put_if_exists(m, NVMX_F_LOW_PASID_DIRECTORY_ADDRESS, m->host[NVMX_F_LOW_PASID_DIRECTORY_ADDRESS]);
        put_if_exists(m, NVMX_F_HIGH_PASID_DIRECTORY_ADDRESS, m->host[NVMX_F_HIGH_PASID_DIRECTORY_ADDRESS]);
    }
    put_if_exists(m, NVMX_F_PLE_GAP,
                  pick((l1 & PROC2_PLE) != 0, m->v->value[NVMX_F_PLE_GAP], m->host[NVMX_F_PLE_GAP]));
    put_if_exists(m, NVMX_F_PLE_WINDOW,
                  pick((l1 & PROC2_PLE) != 0, m->v->value[NVMX_F_PLE_WINDOW], m->host[NVMX_F_PLE_WINDOW]));
    /* Every VM function that L2 invokes exits: which ones there are, and what they do, exits/vmfunc.c knows. */
    put_if_exists(m, NVMX_F_VM_FUNCTION_CONTROLS, 0);
    put_instruction_bitmaps(m, l1, host_secondary(m));
    put_if_exists(m, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL, instruction_window(m, l1, host_secondary(m)));
}

/* A timer by the host's deadline is none of the processor's. */
static uint64_t pin_wishes(const struct merge *m) {
    uint64_t pin = m->v->value[NVMX_F_PIN_BASED_CONTROLS];

    return m->vcpu->vm->timer_by_deadline ? pin & ~(uint64_t)PIN_PREEMPTION_TIMER : pin;
}

/*
 * What every entry of vmcs02 loads from vmcs12's fields must be in them as L2 left it, also where L1 does not have it saved: L2 goes on after exits that
 * L1 does not see.
 */
static uint32_t saves_of_loaded(const struct merge *m) {
    uint32_t saves = 0;

    for (uint32_t left = m->v->gates_loaded; left != 0; left &= left - 1) {
        unsigned int bit = gates[__builtin_ctz(left)].exit_save;
        saves |= bit < 32 ? 1u << bit : 0;
    }
    return saves & nvmx_caps_may_be_1(&m->vcpu->vm->machine, NVMX_CAP_EXIT);
}

/*
 * A host that does not take external interrupts passes them through to L1: whether one is acknowledged on an exit is then L1's choice.
 */
static void put_exit_controls(struct merge *m) {
    uint32_t l1 = (uint32_t)m->v->value[NVMX_F_VM_EXIT_CONTROLS];
    uint32_t controls = (uint32_t)m->host[NVMX_F_VM_EXIT_CONTROLS];

    if ((m->host[NVMX_F_PIN_BASED_CONTROLS] & PIN_EXTERNAL_INTERRUPT) == 0) {
        controls = (controls & ~EXIT_ACKNOWLEDGE) | (l1 & EXIT_ACKNOWLEDGE);
    }
    controls |= (l1 & m->vcpu->vm->gates_exit_save) | saves_of_loaded(m);
    /* The timer runs on over exits that L1 does not see; the host's own, if it has one, does not run in L2 (SDM 29.2.1.2). */
    controls &= ~EXIT_SAVE_TIMER;
    if ((pin_wishes(m) & PIN_PREEMPTION_TIMER) != 0) {
        controls |= EXIT_SAVE_TIMER;
    }
    merge_put(m, NVMX_F_VM_EXIT_CONTROLS, controls);
    put_if_exists(m, NVMX_F_SECONDARY_VM_EXIT_CONTROLS, m->host[NVMX_F_SECONDARY_VM_EXIT_CONTROLS]);
}

static void put_entry_controls(struct merge *m) {
    uint32_t l1 = (uint32_t)m->v->value[NVMX_F_VM_ENTRY_CONTROLS];
    uint32_t controls = (uint32_t)m->host[NVMX_F_VM_ENTRY_CONTROLS] & ~ENTRY_IA32E;

    controls |= l1 & (ENTRY_IA32E | m->vcpu->vm->gates_entry_load);
    merge_put(m, NVMX_F_VM_ENTRY_CONTROLS, controls);
}

/*
 * L1's mask and match for page faults hold only while the host lets page faults alone; else all exit, and the router applies L1's.
 */
static void put_exceptions(struct merge *m) {
    uint32_t page_fault = 1u << 14;
    uint32_t l1 = (uint32_t)m->v->value[NVMX_F_EXCEPTION_BITMAP];
    uint32_t host = (uint32_t)m->host[NVMX_F_EXCEPTION_BITMAP];
    bool host_faults = (host & page_fault) != 0 || m->host[NVMX_F_PAGE_FAULT_ERROR_CODE_MASK] != 0 ||
                       m->host[NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH] != 0;

    merge_put(m, NVMX_F_EXCEPTION_BITMAP, l1 | host | (host_faults ? page_fault : 0));
    merge_put(m, NVMX_F_PAGE_FAULT_ERROR_CODE_MASK,
              host_faults ? 0 : m->v->value[NVMX_F_PAGE_FAULT_ERROR_CODE_MASK]);
    merge_put(m, NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH,
              host_faults ? 0 : m->v->value[NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH]);
}

static void put_cr3_targets(struct merge *m) {
    /* A host that wants every MOV to CR3 gets it; L1's targets then only matter to the router. */
    bool host_wants = (m->host[NVMX_F_PRIMARY_CONTROLS] & PROC_CR3_LOAD) != 0;

    merge_put(m, NVMX_F_CR3_TARGET_COUNT, host_wants ? 0 : m->v->value[NVMX_F_CR3_TARGET_COUNT]);
    for (unsigned int i = 0; i < 4; i++) {
        merge_put(m, NVMX_F_CR3_TARGET_VALUE_0 + i, m->v->value[NVMX_F_CR3_TARGET_VALUE_0 + i]);
    }
}

/* -- the time-stamp counter ------------------------------------------------------------------------------------------------------- */

#define TSC_FRACTION_BITS 48u
#define TSC_MULTIPLIER_1 (UINT64_C(1) << TSC_FRACTION_BITS)

/* What a guest's TSC is made of (SDM 28.3): TSC * multiplier / 2^48 + offset. */
struct tsc {
    uint64_t multiplier, offset;
};

/* Scaling acts only with offsetting. */
static struct tsc tsc_of(uint64_t primary, uint32_t secondary, uint64_t multiplier, uint64_t offset) {
    struct tsc tsc = {TSC_MULTIPLIER_1, 0};

    if ((primary & PROC_TSC_OFFSETTING) != 0) {
        tsc.offset = offset;
        tsc.multiplier = (secondary & PROC2_TSC_SCALING) != 0 ? multiplier : TSC_MULTIPLIER_1;
    }
    return tsc;
}

static struct tsc l1_tsc(const struct merge *m) {
    return tsc_of(m->v->value[NVMX_F_PRIMARY_CONTROLS], secondary_controls(m->v), m->v->value[NVMX_F_TSC_MULTIPLIER],
                  m->v->value[NVMX_F_TSC_OFFSET]);
}

static struct tsc host_tsc(const struct merge *m) {
    return tsc_of(m->host[NVMX_F_PRIMARY_CONTROLS], host_secondary(m), m->host[NVMX_F_TSC_MULTIPLIER],
                  m->host[NVMX_F_TSC_OFFSET]);
}

/* A factor of 65536 or more between the TSC and L2's does not fit the field: L2's then runs as fast as it can. 0 would be refused. */
static uint64_t scaled_multiplier(uint64_t a, uint64_t b) {
    unsigned __int128 product = ((unsigned __int128)a * b) >> TSC_FRACTION_BITS;

    if (product > UINT64_MAX) {
        return UINT64_MAX;
    }
    return product != 0 ? (uint64_t)product : 1;
}

/* The host's offset, which is signed, in ticks of L2. */
static uint64_t scaled_offset(uint64_t offset, uint64_t multiplier) {
    bool negative = offset >> 63 != 0;
    uint64_t magnitude = negative ? 0 - offset : offset;
    uint64_t scaled = (uint64_t)(((unsigned __int128)magnitude * multiplier) >> TSC_FRACTION_BITS);

    return negative ? 0 - scaled : scaled;
}

/* ((TSC * a / 2^48 + o) * b / 2^48 + p) = TSC * (a * b / 2^48) / 2^48 + (o * b / 2^48 + p), but for a tick of rounding. */
static void put_tsc(struct merge *m) {
    struct tsc l1 = l1_tsc(m);
    struct tsc host = host_tsc(m);

    merge_put(m, NVMX_F_TSC_OFFSET, scaled_offset(host.offset, l1.multiplier) + l1.offset);
    put_if_exists(m, NVMX_F_TSC_MULTIPLIER, scaled_multiplier(host.multiplier, l1.multiplier));
}

/* -- exceptions, CR3, APIC, masks ---------------------------------------------------------------------------------------------------- */

static void put_apic(struct merge *m) {
    uint64_t threshold = m->v->value[NVMX_F_TPR_THRESHOLD];
    bool delivery = (secondary_controls(m->v) & PROC2_VIRTUAL_INTERRUPTS) != 0;
    bool shadow = (m->v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_TPR_SHADOW) != 0;

    if ((m->v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_POSTED_INTERRUPTS) != 0) {
        merge_put(m, NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR,
                  m->v->value[NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR]);
    }
    put_if_exists(m, NVMX_F_TPR_THRESHOLD, shadow && !delivery ? threshold : 0);
    for (unsigned int i = 0; i < 4; i++) {
        put_if_exists(m, NVMX_F_EOI_EXIT_BITMAP_0 + i, delivery ? m->v->value[NVMX_F_EOI_EXIT_BITMAP_0 + i] : 0);
    }
}

#define CR0_PE_PG UINT64_C(0x80000001)

/*
 * Bits of CR0/CR4 that the host masks only because VMX fixes them need no mask in L2: the CPU itself gives #GP there, as L1 expects. PE and PG
 * are not fixed for an unrestricted guest (SDM 25.8).
 */
static uint64_t host_mask(const struct merge *m, unsigned int slot, enum nvmx_cap fixed0, enum nvmx_cap fixed1) {
    const struct nvmx_caps *machine = &m->vcpu->vm->machine;
    bool unrestricted = (secondary_controls(m->v) & PROC2_UNRESTRICTED) != 0;
    uint64_t free = slot == NVMX_F_CR0_GUEST_HOST_MASK && unrestricted ? CR0_PE_PG : 0;

    return m->host[slot] & ~(machine->msr[fixed0] & ~free) & machine->msr[fixed1];
}

static void put_masks(struct merge *m) {
    merge_put(m, NVMX_F_CR0_GUEST_HOST_MASK,
              m->v->value[NVMX_F_CR0_GUEST_HOST_MASK] |
                  host_mask(m, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_CAP_CR0_FIXED0, NVMX_CAP_CR0_FIXED1));
    merge_put(m, NVMX_F_CR4_GUEST_HOST_MASK,
              m->v->value[NVMX_F_CR4_GUEST_HOST_MASK] |
                  host_mask(m, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_CAP_CR4_FIXED0, NVMX_CAP_CR4_FIXED1));
}

/* In bits that only the host masks L2 reads what L1 gave it. Bits that nobody masks don't matter: 0, so that no change of them is written. */
static void put_read_shadow(struct merge *m, unsigned int shadow, unsigned int mask, unsigned int cr) {
    uint64_t l1 = m->v->value[mask];
    uint64_t only_host = m->v->image[mask] & ~l1;

    merge_put(m, shadow, (m->v->value[shadow] & l1) | (m->v->value[cr] & only_host));
}

void merge_read_shadows(struct merge *m) {
    put_read_shadow(m, NVMX_F_CR0_READ_SHADOW, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_GUEST_CR0);
    put_read_shadow(m, NVMX_F_CR4_READ_SHADOW, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_GUEST_CR4);
}

void merge_intercepts(struct merge *m) {
    merge_primary_controls(m);
    put_secondary(m);
    put_exceptions(m);
    put_cr3_targets(m);
    put_tsc(m);
}

void merge_controls(struct merge *m) {
    merge_put(m, NVMX_F_PIN_BASED_CONTROLS,
              combine(&pin_origin, pin_wishes(m), m->host[NVMX_F_PIN_BASED_CONTROLS]));
    merge_intercepts(m);
    put_exit_controls(m);
    put_entry_controls(m);
    put_apic(m);
    put_masks(m);
}

/* -- controls that stand alone ----------------------------------------------------------------------------------------------------- */

/* Groups of fields of vmcs12 from each of which one function, and nothing else, makes fields of vmcs02. Of LONE_ELSEWHERE none does here (merge_read_shadows
 * looks at the read shadows at every entry, and a VPID goes before the pages). What counts for more than its own group is LONE_NOT. */
enum lone { LONE_NOT = 0, LONE_EXCEPTIONS, LONE_TSC, LONE_MASKS, LONE_CR3_TARGETS, LONE_APIC, LONE_ELSEWHERE, LONE_COUNT };

static void (*const lone_put[LONE_COUNT])(struct merge *m) = {
    [LONE_EXCEPTIONS] = put_exceptions,
    [LONE_TSC] = put_tsc,
    [LONE_MASKS] = put_masks,
    [LONE_CR3_TARGETS] = put_cr3_targets,
    [LONE_APIC] = put_apic,
};

static const uint8_t lone_of[NVMX_FIELD_COUNT] = {
    [NVMX_F_EXCEPTION_BITMAP] = LONE_EXCEPTIONS,
    [NVMX_F_PAGE_FAULT_ERROR_CODE_MASK] = LONE_EXCEPTIONS,
    [NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH] = LONE_EXCEPTIONS,
    [NVMX_F_TSC_OFFSET] = LONE_TSC,
    [NVMX_F_TSC_MULTIPLIER] = LONE_TSC,
    [NVMX_F_CR0_GUEST_HOST_MASK] = LONE_MASKS,
    [NVMX_F_CR4_GUEST_HOST_MASK] = LONE_MASKS,
    [NVMX_F_CR3_TARGET_COUNT] = LONE_CR3_TARGETS,
    [NVMX_F_CR3_TARGET_VALUE_0] = LONE_CR3_TARGETS,
    [NVMX_F_CR3_TARGET_VALUE_1] = LONE_CR3_TARGETS,
    [NVMX_F_CR3_TARGET_VALUE_2] = LONE_CR3_TARGETS,
    [NVMX_F_CR3_TARGET_VALUE_3] = LONE_CR3_TARGETS,
    [NVMX_F_TPR_THRESHOLD] = LONE_APIC,
    [NVMX_F_EOI_EXIT_BITMAP_0] = LONE_APIC,
    [NVMX_F_EOI_EXIT_BITMAP_1] = LONE_APIC,
    [NVMX_F_EOI_EXIT_BITMAP_2] = LONE_APIC,
    [NVMX_F_EOI_EXIT_BITMAP_3] = LONE_APIC,
    [NVMX_F_CR0_READ_SHADOW] = LONE_ELSEWHERE,
    [NVMX_F_CR4_READ_SHADOW] = LONE_ELSEWHERE,
    [NVMX_F_EPT_POINTER] = LONE_ELSEWHERE,
    [NVMX_F_VPID] = LONE_ELSEWHERE,
};

COLD enum nvmx_status merge_lone_controls(struct merge *m) {
    uint32_t written = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        for (uint64_t left = m->v->dirty.word[w] & m->vcpu->vm->lone_controls.word[w]; left != 0; left &= left - 1) {
            written |= 1u << lone_of[w * 64 + (unsigned int)__builtin_ctzll(left)];
        }
    }
    for (written &= ~(1u << LONE_ELSEWHERE); written != 0; written &= written - 1) {
        lone_put[__builtin_ctz(written)](m);
    }
    return nvmx_set_has(&m->v->dirty, NVMX_F_EPT_POINTER) ? merge_ept_root(m) : NVMX_OK;
}

void merge_sets(struct nvmx_vm *vm) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (lone_of[slot] != LONE_NOT) {
            nvmx_set_add(&vm->lone_controls, slot);
        }
    }
    nvmx_set_add(&vm->msr_fields, NVMX_F_GUEST_SYSENTER_CS);
    nvmx_set_add(&vm->msr_fields, NVMX_F_GUEST_SYSENTER_ESP);
    nvmx_set_add(&vm->msr_fields, NVMX_F_GUEST_SYSENTER_EIP);
    for (unsigned int i = 0; i < GATE_COUNT; i++) {
        if (gates[i].msr != 0 && nvmx_set_has(&vm->exists, gates[i].guest)) {
            nvmx_set_add(&vm->msr_fields, gates[i].guest);
        }
        vm->gates_exit_save |= gates[i].exit_save < 32 ? 1u << gates[i].exit_save : 0;
        vm->gates_entry_load |= 1u << gates[i].entry_load;
    }
}
