/* SPDX-License-Identifier: MIT */
/*
 * Two simulated hosts do the same at random; one of them is shaken before every step: its nested state is saved, and mostly vCPU and VM are
 * replaced. L1, L2 and the processor must not be able to tell them apart.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "state_worlds.h"

#define STEPS 400
#define SEEDS 30
#define L1_VMCS_C 0x300000u
#define PML_LOG 0x200000u
#define EPT12_BYTES 0x4000u

struct pair {
    struct sim *plain, *shaken;
    uint64_t random;
    uint32_t step;
    bool interrupt; /* waits for L1 */
};

static uint32_t below(struct pair *p, uint32_t limit) {
    p->random ^= p->random >> 12;
    p->random ^= p->random << 25;
    p->random ^= p->random >> 27;
    return (uint32_t)((p->random * UINT64_C(0x2545f4914f6cdd1d)) >> 32) % limit;
}

static uint64_t wide(struct pair *p) {
    uint64_t high = below(p, UINT32_MAX);
    return high << 32 | below(p, UINT32_MAX);
}

/* -- the same in both ------------------------------------------------------------------------------------------------------------ */

/* Fields of a vmcs02 that may differ: where the host keeps things, and what means nothing now. */
static bool may_differ(const struct sim *sim, unsigned int slot) {
    uint64_t event = sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    uint64_t pin = sim_get(sim, sim->selected, NVMX_F_PIN_BASED_CONTROLS);
    switch (slot) {
    case NVMX_F_MSR_BITMAP_ADDRESS:
    case NVMX_F_IO_BITMAP_A_ADDRESS:
    case NVMX_F_IO_BITMAP_B_ADDRESS:
    case NVMX_F_EPT_POINTER:
    case NVMX_F_VPID:
    case NVMX_F_GUEST_PDPTE0:
    case NVMX_F_GUEST_PDPTE1:
    case NVMX_F_GUEST_PDPTE2:
    case NVMX_F_GUEST_PDPTE3:
    case NVMX_F_APIC_ACCESS_ADDRESS:
    case NVMX_F_VIRTUAL_APIC_ADDRESS:
        return true;
    case NVMX_F_VM_ENTRY_INTERRUPTION_INFO:
        return !(event >> 31);
    case NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH:
        return !(event >> 31) || ((event >> 8) & 7) < 4;
    case NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE:
        return !(event >> 31) || !((event >> 11) & 1);
    case NVMX_F_PREEMPTION_TIMER_VALUE:
        return !((pin >> 6) & 1);
    default:
        return nvmx_encoding_read_only(nvmx_field_info(slot)->encoding);
    }
}

static uint64_t seen(const struct sim *sim, unsigned int slot) {
    uint64_t value = sim_get(sim, sim->selected, (enum nvmx_field)slot);
    /* The other bits of a read shadow are never looked at. */
    if (slot == NVMX_F_CR0_READ_SHADOW)
        value &= sim_get(sim, sim->selected, NVMX_F_CR0_GUEST_HOST_MASK);
    if (slot == NVMX_F_CR4_READ_SHADOW)
        value &= sim_get(sim, sim->selected, NVMX_F_CR4_GUEST_HOST_MASK);
    return value;
}

static void same_vmcs(const struct pair *p) {
    bool l2 = nvmx_mode(p->plain->vcpu) == NVMX_MODE_L2;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        /* A restored VMCS need not have the place, and the shadow VMCS, that it had. */
        if (!nvmx_set_has(&p->plain->vmcs[p->plain->selected].written, slot) || slot == NVMX_F_VMCS_LINK_POINTER ||
            (l2 && may_differ(p->plain, slot)))
            continue;
        cr_assert(seen(p->plain, slot) == seen(p->shaken, slot), "step %u: %s: %s is %#lx and %#lx", p->step,
                  l2 ? "vmcs02" : "vmcs01", nvmx_field_info(slot)->name, seen(p->plain, slot), seen(p->shaken, slot));
    }
}

static bool same_memory(const struct pair *p, uint32_t from, uint32_t to) {
    return memcmp(p->plain->ram + from, p->shaken->ram + from, to - from) == 0;
}

static void same(const struct pair *p) {
    cr_assert(nvmx_mode(p->plain->vcpu) == nvmx_mode(p->shaken->vcpu), "step %u: modes", p->step);
    cr_assert(nvmx_stop_reason(p->plain->vcpu) == nvmx_stop_reason(p->shaken->vcpu), "step %u: stop reasons", p->step);
    cr_assert(memcmp(&p->plain->regs, &p->shaken->regs, sizeof(p->plain->regs)) == 0, "step %u: registers", p->step);
    /* Accessed flags of ept12, which L1 writes anew without an INVEPT, are set where ept02 does not remember them. */
    if (p->step % 8 == 7)
        cr_assert(same_memory(p, 0, SIM_L1_EPT12) && same_memory(p, SIM_L1_EPT12 + EPT12_BYTES, SIM_L2_GPA1), "step %u: L1's memory", p->step);
    same_vmcs(p);
}

static enum sim_outcome both(struct pair *p, enum sim_outcome plain, enum sim_outcome shaken, const char *what) {
    cr_assert(plain == shaken, "step %u: %s: %s and %s", p->step, what, sim_outcome_text(plain), sim_outcome_text(shaken));
    /* A fault was given to L1: it goes on at the same place. */
    if (plain == SIM_FAULT) {
        sim_set(p->plain, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
        sim_set(p->shaken, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    }
    return plain;
}

#define BOTH(what, call_plain, call_shaken) both(p, (call_plain), (call_shaken), what)

/* -- what L1 does --------------------------------------------------------------------------------------------------------------------- */

static void l1_vmread(struct pair *p) {
    uint32_t encoding = nvmx_field_info(below(p, NVMX_FIELD_COUNT))->encoding;
    encoding |= below(p, 8) == 0;
    uint64_t plain = 0, shaken = 0;
    BOTH("VMREAD", sim_vmread(p->plain, encoding, &plain), sim_vmread(p->shaken, encoding, &shaken));
    cr_assert(plain == shaken, "step %u: VMREAD %#x gives %#lx and %#lx", p->step, encoding, plain, shaken);
}

/* Values that an entry mostly accepts, and now and then any. */
static void l1_vmwrite(struct pair *p) {
    static const struct {
        uint32_t encoding;
        uint64_t values[3];
    } likely[] = {
        {NVMX_VMCS_GUEST_RIP, {0x1000, 0x1003, 0x7ffffffff000}},
        {NVMX_VMCS_GUEST_RSP, {0, 0x3000, UINT64_MAX}},
        {NVMX_VMCS_GUEST_RFLAGS, {2, 0x202, 0x102}},
        {NVMX_VMCS_GUEST_CR3, {0x2000, 0x3000, 0x4000}},
        {NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, {0, 1, 8}},
        {NVMX_VMCS_GUEST_ACTIVITY_STATE, {0, 1, 0}},
        {NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, {0, 0x80000b0d, 0x80000030}},
        {NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, {0, 8, 0xffff}},
        {NVMX_VMCS_PIN_BASED_CONTROLS, {0x16, 0x17, 0x56}},
        {NVMX_VMCS_VM_EXIT_CONTROLS, {0x336fff, 0x736fff, 0x236fff}},
        {NVMX_VMCS_VM_ENTRY_CONTROLS, {0x93ff, 0x93fb, 0xd3ff}},
        {NVMX_VMCS_GUEST_PAT, {0x0606060606060606, 0x0007040600070406, 0}},
        {NVMX_VMCS_PREEMPTION_TIMER_VALUE, {0, 1000, UINT32_MAX}},
        {NVMX_VMCS_CR0_GUEST_HOST_MASK, {0, 0x20, 0x80000031}},
        {NVMX_VMCS_CR0_READ_SHADOW, {0, 0x31, UINT64_MAX}},
        {NVMX_VMCS_CR4_READ_SHADOW, {0, 0x2000, UINT64_MAX}},
        {NVMX_VMCS_EXCEPTION_BITMAP, {0, 1u << 14, UINT32_MAX}},
        {NVMX_VMCS_TSC_OFFSET, {0, 1000, UINT64_MAX}},
        {NVMX_VMCS_VPID, {7, 8, 9}},
        {NVMX_VMCS_GUEST_EFER, {0x500, 0xd00, 0xd01}},
        {NVMX_VMCS_SECONDARY_CONTROLS, {0x22, 0x20022, 0x20022}}, /* a page-modification log */
        {NVMX_VMCS_EPT_POINTER, {SIM_L1_EPT12 | 0x1e, SIM_L1_EPT12 | 0x5e, SIM_L1_EPT12 | 0x5e}},
        {NVMX_VMCS_PML_ADDRESS, {PML_LOG, PML_LOG, PML_LOG + 0x1000}},
        {NVMX_VMCS_PML_INDEX, {511, 300, 2}},
        {NVMX_VMCS_HOST_RIP, {SIM_L1_EXIT_HANDLER, SIM_L1_EXIT_HANDLER, SIM_L1_EXIT_HANDLER}},
    };
    size_t i = below(p, COUNT(likely));
    uint32_t encoding = likely[i].encoding;
    uint64_t value = likely[i].values[below(p, 3)];
    if (below(p, 40) == 0) {
        encoding = nvmx_field_info(below(p, NVMX_FIELD_COUNT))->encoding;
        value = wide(p);
    }
    if (encoding == NVMX_VMCS_HOST_RIP)
        value = SIM_L1_EXIT_HANDLER; /* by which the simulation tells exits */
    BOTH("VMWRITE", sim_vmwrite(p->plain, encoding, value), sim_vmwrite(p->shaken, encoding, value));
}

static void l1_vmptrld(struct pair *p) {
    static const uint64_t region[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_B, L1_VMCS_C};
    uint64_t gpa1 = region[below(p, 3)];
    if (BOTH("VMPTRLD", sim_vmptrld(p->plain, gpa1), sim_vmptrld(p->shaken, gpa1)) != SIM_SUCCEED)
        return;
    uint64_t rip = 0;
    BOTH("VMREAD", sim_vmread(p->plain, NVMX_VMCS_HOST_RIP, &rip), sim_vmread(p->shaken, NVMX_VMCS_HOST_RIP, &rip));
    if (rip != SIM_L1_EXIT_HANDLER)
        cr_assert(sim_vmcs12(p->plain) == sim_vmcs12(p->shaken), "step %u: a new vmcs12", p->step);
}

static void l1_vmclear(struct pair *p) {
    static const uint64_t region[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_B, L1_VMCS_C};
    uint64_t gpa1 = region[below(p, 3)];
    BOTH("VMCLEAR", sim_vmclear(p->plain, gpa1), sim_vmclear(p->shaken, gpa1));
}

static void l1_enters(struct pair *p) {
    if (BOTH("VMRESUME", sim_vmresume(p->plain), sim_vmresume(p->shaken)) == SIM_FAIL_VALID)
        BOTH("VMLAUNCH", sim_vmlaunch(p->plain), sim_vmlaunch(p->shaken));
    cr_assert(nvmx_last_check(p->plain->vcpu) == nvmx_last_check(p->shaken->vcpu), "step %u: entry checks", p->step);
}

static void l1_vmxoff(struct pair *p) {
    BOTH("VMXOFF", sim_vmxoff(p->plain), sim_vmxoff(p->shaken));
    BOTH("VMXON", sim_vmxon(p->plain, SIM_L1_VMXON), sim_vmxon(p->shaken, SIM_L1_VMXON));
}

static void l1_reads_all(struct pair *p) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        uint64_t plain = 0, shaken = 0;
        BOTH("VMREAD", sim_vmread(p->plain, encoding, &plain), sim_vmread(p->shaken, encoding, &shaken));
        cr_assert(plain == shaken, "step %u: VMREAD %#x gives %#lx and %#lx", p->step, encoding, plain, shaken);
    }
}

static void l1_step(struct pair *p) {
    static void (*const steps[])(struct pair *p) = {l1_vmread,  l1_vmwrite, l1_vmwrite, l1_vmwrite,  l1_enters,
                                                    l1_enters,  l1_enters,  l1_enters,  l1_vmptrld, l1_vmclear,
                                                    l1_vmxoff, l1_reads_all};
    uint32_t chosen = below(p, 60);
    if (chosen < 50)
        chosen %= 9;
    else
        chosen = 8 + chosen % 4;
    steps[chosen](p);
}

/* -- what L2 does --------------------------------------------------------------------------------------------------------------------- */

/* Hardware changes L2's state while it runs. */
static void l2_runs(struct pair *p) {
    static const enum nvmx_field moving[] = {NVMX_F_GUEST_RSP, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_CR3, NVMX_F_GUEST_SYSENTER_CS};
    enum nvmx_field slot = moving[below(p, 4)];
    uint64_t value = (uint64_t)below(p, 0x40000) << 12;
    uint64_t rip = 0x1000 + below(p, 0x1000);
    struct sim *sims[] = {p->plain, p->shaken};
    for (int i = 0; i < 2; i++) {
        struct sim *sim = sims[i];
        sim_set(sim, sim->selected, slot, value);
        sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, rip);
        sim_set(sim, sim->selected, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0);
        sim_set(sim, sim->selected, NVMX_F_GUEST_ACTIVITY_STATE, 0);
        sim_set(sim, sim->selected, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
        uint64_t timer = sim_get(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE);
        sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, timer > 50 ? timer - 50 : timer);
    }
}

/* Hardware refuses L1's VM entry: by VMfail, or its guest state. */
static void entry_fails(struct pair *p) {
    const struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_INVALID_GUEST_STATE | NVMX_EXIT_ENTRY_FAILURE};
    bool vm_fail = below(p, 2) == 0;
    enum nvmx_next plain = vm_fail ? nvmx_entry_refused(p->plain->vcpu, 8) : sim_exit_info(p->plain, &info);
    enum nvmx_next shaken = vm_fail ? nvmx_entry_refused(p->shaken->vcpu, 8) : sim_exit_info(p->shaken, &info);
    cr_assert(plain == shaken, "step %u: a failed entry: %d and %d", p->step, (int)plain, (int)shaken);
}

static void l2_step(struct pair *p) {
    static const uint32_t reasons[] = {NVMX_EXIT_CPUID, NVMX_EXIT_HLT, NVMX_EXIT_EPT_VIOLATION, NVMX_EXIT_EPT_VIOLATION,
                                       NVMX_EXIT_EXTERNAL_INTERRUPT, NVMX_EXIT_EXCEPTION_OR_NMI};
    struct nvmx_l2_exit_info info = {.reason = reasons[below(p, COUNT(reasons))], .instruction_length = 2};
    if (p->plain->vcpu->entry_pending && below(p, 12) == 0) {
        entry_fails(p);
        return;
    }
    l2_runs(p);
    if (info.reason == NVMX_EXIT_EPT_VIOLATION) {
        info.qualification = 0x181 + below(p, 2);
        info.guest_physical_address = (uint64_t)below(p, 0x300) << 12;
        if (below(p, 3) == 0) {
            info.idt_vectoring_info = 0x80000b0e;
            info.idt_vectoring_error_code = 2;
        }
    } else if (info.reason == NVMX_EXIT_EXCEPTION_OR_NMI) {
        info.interruption_info = 0x80000b0e;
        info.interruption_error_code = 4;
        info.qualification = 0x1234;
    }
    enum nvmx_next plain = sim_exit_info(p->plain, &info), shaken = sim_exit_info(p->shaken, &info);
    cr_assert(plain == shaken, "step %u: exit %u: %d and %d", p->step, info.reason, (int)plain, (int)shaken);
}

static void pending_events(struct pair *p) {
    p->interrupt = p->interrupt || below(p, 6) == 0;
    struct nvmx_pending plain = {.interrupt = p->interrupt}, shaken = plain;
    uint32_t next = p->plain->vectors_next;
    enum nvmx_next to_plain = sim_enter(p->plain, &plain), to_shaken = sim_enter(p->shaken, &shaken);
    cr_assert(to_plain == to_shaken && p->plain->vectors_next == p->shaken->vectors_next, "step %u: pending events", p->step);
    p->interrupt = p->interrupt && next == p->plain->vectors_next;
    if (nvmx_mode(p->plain->vcpu) != NVMX_MODE_L2)
        p->interrupt = false;
}

/* -- the run ------------------------------------------------------------------------------------------------------------------------------ */

static void start(struct pair *p, const struct sim_options *options, uint64_t seed) {
    struct sim *sims[2];
    for (int i = 0; i < 2; i++) {
        sims[i] = sim_new(options);
        sim_region(sims[i], SIM_L1_VMXON);
        sim_region(sims[i], SIM_L1_VMCS_A);
        sim_region(sims[i], SIM_L1_VMCS_B);
        sim_region(sims[i], L1_VMCS_C);
        cr_assert(sim_vmxon(sims[i], SIM_L1_VMXON) == SIM_SUCCEED);
        for (uint32_t v = 0; v < 32; v++)
            sims[i]->vectors[v] = (uint8_t)(0x30 + v);
        sims[i]->vectors_count = 32;
    }
    *p = (struct pair){.plain = sims[0], .shaken = sims[1], .random = seed * 2 + 1};
}

static void only_saved(struct sim *sim) {
    size_t bytes;
    free(sim_save(sim, &bytes));
}

static uint32_t run(const struct sim_options *options, uint64_t seed) {
    struct pair pair, *p = &pair;
    uint32_t in_l2 = 0;
    start(p, options, seed);
    for (p->step = 0; p->step < STEPS && nvmx_stop_reason(p->plain->vcpu) == NVMX_STOP_NONE; p->step++) {
        if (below(p, 4) == 0)
            only_saved(p->shaken);
        else
            sim_shake(p->shaken, below(p, 4) == 0);
        pending_events(p);
        if (nvmx_mode(p->plain->vcpu) == NVMX_MODE_L2) {
            in_l2++;
            l2_step(p);
        } else {
            l1_step(p);
        }
        same(p);
    }
    sim_free(p->plain);
    sim_free(p->shaken);
    return in_l2;
}

static void runs(const struct sim_options *options) {
    uint32_t in_l2 = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        in_l2 += run(options, seed);
    cr_log_info("%u of %u steps were L2's", in_l2, STEPS * SEEDS);
    cr_expect(in_l2 > STEPS * SEEDS / 10, "L2 hardly ran: %u of %u steps", in_l2, STEPS * SEEDS);
}

Test(state_lockstep, l1_and_l2_do_not_notice) {
    runs(&(struct sim_options){.vmcs02_slots = 2, .watches_msrs = true});
}

Test(state_lockstep, with_shadowing_and_one_slot) {
    runs(&(struct sim_options){.shadow = true, .vmcs02_slots = 1});
    runs(&(struct sim_options){.shadow = true, .learns_writes = true, .vmcs02_slots = 1});
}

Test(state_lockstep, with_a_shadow_vmcs_for_each) {
    runs(&(struct sim_options){.shadow = true, .shadows = true, .vmcs02_slots = 2});
    runs(&(struct sim_options){.shadow = true, .shadows = true, .learns_writes = true, .vmcs02_slots = 3});
}

/* L1 has no preemption timer, and so fewer fields that are shadowed. */
Test(state_lockstep, with_shadowing_and_no_timer) {
    struct nvmx_caps mask;
    mask_without_timer(&mask);
    runs(&(struct sim_options){.shadow = true, .mask = &mask});
}

Test(state_lockstep, where_the_host_owns_interrupts) {
    runs(&(struct sim_options){.external_interrupts = true, .vmcs02_slots = 3});
}

Test(state_lockstep, where_the_host_composes_and_has_no_vpids) {
    runs(&(struct sim_options){.host_composes = true, .no_vpid = true});
}
