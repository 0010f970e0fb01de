/* SPDX-License-Identifier: MIT */
/*
 * The short ways of the hot path do what the long ones do: two machines execute the same random program, one of them always by the long
 * way, and must be the same after each step.
 *
 * Blocking by STI sends a VMX instruction of L1 through the phases of the SDM, which end it and leave nothing else of it. That an entry
 * needs little, and that an exit found nothing but the usual changes, is forgotten. Entries take
 * back all of a shadow VMCS.
 */
#include <criterion/criterion.h>
#include <nvmx/exits.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "instruction_run.h"

#define COUNT(a)        (sizeof(a) / sizeof((a)[0]))
#define STEPS           3000u
#define BLOCKING_BY_STI 1u
#define PAGE_END        (SIM_L1_OPERAND + NVMX_PAGE_SIZE)
#define LISTS           (SIM_L1_OPERAND + 0x800)
#define UNMAPPED        UINT64_C(0x40000000) /* L1 maps the first GiB */

struct pair {
    const struct sim_options *options;
    unsigned int entry_msrs; /* in a VM-entry MSR-load list; others in the lists of an exit */
    bool rewrites;           /* L1 has MSRs loaded and not saved, and the preemption timer */
    struct sim *sim[2]; /* the second takes the long ways */
    uint64_t seed;
    unsigned int step, steps_left;
    unsigned int hosts_msrs; /* accesses of L2 that went to the host */
    const char *what;
};

static bool in_l2(const struct pair *p) {
    return nvmx_mode(p->sim[0]->vcpu) == NVMX_MODE_L2;
}

/* -- the same in both ----------------------------------------------------------------------------------------------------------------------- */

static void set_gpr(struct pair *p, unsigned int number, uint64_t value) {
    for (unsigned int i = 0; i < 2; i++) {
        if (number == NVMX_RSP) {
            sim_set(p->sim[i], NVMX_VMCS01, NVMX_F_GUEST_RSP, value);
        } else {
            p->sim[i]->regs.gpr[number] = value;
        }
    }
}

static void set_field(struct pair *p, uint32_t vmcs, enum nvmx_field slot, uint64_t value) {
    for (unsigned int i = 0; i < 2; i++) {
        sim_set(p->sim[i], vmcs, slot, value & nvmx_field_mask(slot));
    }
}

static void forget(struct nvmx_vcpu *vcpu) {
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vcpu->vmcs12[i].plain = vcpu->vmcs12[i].settled = false;
        vcpu->vmcs12[i].shadow_behind = UINT64_MAX;
        vcpu->shadow_vmcs[i].whole = true;
    }
    vcpu->hosts_msr[0].index = vcpu->hosts_msr[1].index = UINT64_MAX;
    vcpu->l1_left.valid = false;
    vcpu->l1_shadows_known = false;
    watched_forget(vcpu);
}

/* In a vmcs02 a timer that is off may be any: what L1 writes into a shadow VMCS then stays there. */
static bool is_timer_off(const struct pair *p, unsigned int which, unsigned int slot) {
    const struct sim_vmcs *vmcs = &p->sim[0]->vmcs[which];

    return which >= NVMX_VMCS02_FIRST && which < NVMX_VMCS_SHADOWS && slot == NVMX_F_PREEMPTION_TIMER_VALUE &&
           (vmcs->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) == 0;
}

static void expect_same_vmcss(const struct pair *p) {
    for (unsigned int which = 0; which < SIM_VMCSS; which = sim_next_vmcs(which)) {
        const uint64_t *a = p->sim[0]->vmcs[which].value, *b = p->sim[1]->vmcs[which].value;
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT && memcmp(a, b, sizeof(p->sim[0]->vmcs[which].value)) != 0; slot++) {
            cr_assert(a[slot] == b[slot] || is_timer_off(p, which, slot), "step %u, %s: VMCS %u, %s: %#lx, the long way %#lx", p->step, p->what, which,
                      nvmx_field_info(slot)->name, a[slot], b[slot]);
        }
    }
}

/* Of the merged MSR bitmaps those are looked at that a vmcs02 just went on with. */
static void expect_same_bitmaps(const struct pair *p) {
    if (!in_l2(p)) {
        return;
    }
    const void *a = vmcs12_current(p->sim[0]->vcpu)->msr_bitmap.page, *b = vmcs12_current(p->sim[1]->vcpu)->msr_bitmap.page;
    cr_assert((a == NULL) == (b == NULL) && (a == NULL || memcmp(a, b, NVMX_PAGE_SIZE) == 0), "step %u, %s: MSR bitmaps", p->step, p->what);
}

static void expect_same_state(const struct pair *p) {
    size_t bytes[2];
    uint8_t *blob[2];

    for (unsigned int i = 0; i < 2; i++) {
        blob[i] = sim_save(p->sim[i], &bytes[i]);
    }
    cr_assert(bytes[0] == bytes[1] && memcmp(blob[0], blob[1], bytes[0]) == 0, "step %u, %s: saved states differ", p->step, p->what);
    free(blob[0]);
    free(blob[1]);
}

static void expect_same(struct pair *p, const enum nvmx_next next[2]) {
    cr_assert_eq(next[0], next[1], "step %u, %s: %d, the long way %d", p->step, p->what, next[0], next[1]);
    for (unsigned int i = 0; i < 2; i++) { /* a fault leaves it */
        uint64_t blocking = sim_get(p->sim[i], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE);
        sim_set(p->sim[i], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, blocking & ~(uint64_t)BLOCKING_BY_STI);
    }
    cr_assert(memcmp(&p->sim[0]->regs, &p->sim[1]->regs, sizeof(struct nvmx_regs)) == 0, "step %u, %s: registers", p->step, p->what);
    expect_same_vmcss(p);
    expect_same_bitmaps(p);
    cr_assert(memcmp(p->sim[0]->ram, p->sim[1]->ram, SIM_L1_EPT12) == 0, "step %u, %s: L1's memory", p->step, p->what);
    if (draw_one_in(&p->seed, 8)) {
        expect_same_state(p);
    }
    /* Exceptions are taken. */
    set_field(p, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
}

/* MSRs that no field holds, and from the fourth on such as one may hold. */
static void put_msr_lists(struct pair *p) {
    static const uint32_t msrs[] = {0xc0000102, 0xc0000081, 0xc0000082, 0x174, 0x277, 0x10};
    static const uint8_t slots[] = {NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS, NVMX_F_VM_EXIT_MSR_STORE_ADDRESS,
                                    NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS,  NVMX_F_VM_ENTRY_MSR_LOAD_COUNT,
                                    NVMX_F_VM_EXIT_MSR_STORE_COUNT,   NVMX_F_VM_EXIT_MSR_LOAD_COUNT};

    for (unsigned int i = 0; i < 2; i++) {
        for (unsigned int k = 0; k < COUNT(msrs); k++) {
            sim_write64(p->sim[i], LISTS + 16 * k, msrs[k]);
            sim_write64(p->sim[i], LISTS + 16 * k + 8, UINT64_C(0x7040600070406) + k * 0x100);
        }
        for (unsigned int k = 0; k < COUNT(slots); k++) {
            vmcs12_write(p->sim[i]->vcpu, slots[k], k < 3 ? LISTS : k == 3 ? p->entry_msrs : COUNT(msrs));
        }
    }
}

/* IA32_PAT and IA32_EFER as KVM has them, and now and then the timer saved; and a host whose MSR bitmap lets something through. */
static void rewrite(struct pair *p) {
    const bool saved = draw_one_in(&p->seed, 4);

    for (unsigned int i = 0; i < 2; i++) {
        struct nvmx_vcpu *vcpu = p->sim[i]->vcpu;
        const uint64_t *value = vmcs12_current(vcpu)->value;
        vcpu->host_msr_bitmap = (const uint64_t *)(const void *)p->sim[i]->host_msr_bitmap;
        const uint64_t exits = (value[NVMX_F_VM_EXIT_CONTROLS] | 1u << 19) & ~(uint64_t)(1u << 20);

        vmcs12_write(vcpu, NVMX_F_VM_ENTRY_CONTROLS, value[NVMX_F_VM_ENTRY_CONTROLS] | 1u << 14);
        vmcs12_write(vcpu, NVMX_F_VM_EXIT_CONTROLS, exits | (saved ? EXIT_SAVE_TIMER : 0));
        vmcs12_write(vcpu, NVMX_F_PIN_BASED_CONTROLS, value[NVMX_F_PIN_BASED_CONTROLS] | PIN_PREEMPTION_TIMER);
    }
}

/* Two machines whose L2 runs. */
static void start(struct pair *p) {
    for (unsigned int i = 0; i < 2; i++) {
        p->sim[i] = sim_new(p->options);
        cr_assert_not_null(p->sim[i]->vcpu);
        cr_assert_eq(sim_launch(p->sim[i]), SIM_L2);
        sim_region(p->sim[i], SIM_L1_VMCS_B);
    }
    if (p->entry_msrs != 0) {
        put_msr_lists(p);
    }
    if (p->rewrites) {
        rewrite(p);
    }
    p->steps_left = 1 + draw_below(&p->seed, 60);
}

static void end(struct pair *p) {
    sim_free(p->sim[0]);
    sim_free(p->sim[1]);
}

/* An exit of L1 or L2, and of L1 by the long way too. */
static void exits(struct pair *p, const char *what, uint32_t reason, uint64_t qualification, uint32_t info) {
    enum nvmx_next next[2];

    p->what = what;
    forget(p->sim[1]->vcpu);
    if (!in_l2(p)) {
        sim_set(p->sim[1], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE,
                sim_get(p->sim[1], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE) | BLOCKING_BY_STI);
    }
    for (unsigned int i = 0; i < 2; i++) {
        next[i] = sim_exit(p->sim[i], reason, qualification, info, LENGTH);
    }
    expect_same(p, next);
    p->steps_left = next[0] == NVMX_STOP ? 0 : p->steps_left; /* a VMX abort */
}

/* -- steps of L1 ------------------------------------------------------------------------------------------------------------------------------- */

static uint32_t random_encoding(struct pair *p) {
    static const uint16_t often[] = {NVMX_VMCS_GUEST_RIP,  NVMX_VMCS_GUEST_RSP, NVMX_VMCS_GUEST_RFLAGS, NVMX_VMCS_EXIT_REASON,
                                     NVMX_VMCS_GUEST_CR3, NVMX_VMCS_GUEST_CR4, NVMX_VMCS_HOST_RSP,     NVMX_VMCS_GUEST_PAT, NVMX_VMCS_PREEMPTION_TIMER_VALUE,
                                     NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO,
                                     NVMX_VMCS_EPT_POINTER, NVMX_VMCS_EPT_POINTER, NVMX_VMCS_EPT_POINTER};
    uint32_t encoding = draw_one_in(&p->seed, 3) ? often[draw_below(&p->seed, COUNT(often))]
                                                 : nvmx_field_info(draw_below(&p->seed, NVMX_FIELD_COUNT))->encoding;

    return draw_one_in(&p->seed, 10) ? encoding + 1 : draw_one_in(&p->seed, 30) ? (uint32_t)draw(&p->seed) : encoding;
}

/* A memory operand; its base and index registers are set. */
static uint32_t memory_operand(struct pair *p, uint64_t *qualification) {
    uint64_t addresses[] = {SIM_L1_OPERAND + draw_below(&p->seed, 64) * 8u, PAGE_END - 8, PAGE_END - 4, UNMAPPED, UINT64_C(1) << 63, SIM_L1_OPERAND};
    uint64_t address = addresses[draw_one_in(&p->seed, 3) ? draw_below(&p->seed, COUNT(addresses)) : 0];
    unsigned int base = draw_below(&p->seed, 16);
    unsigned int index = draw_below(&p->seed, 15) == NVMX_RSP ? NVMX_RBX : draw_below(&p->seed, 3), shift = draw_below(&p->seed, 4);
    static const uint8_t segments[] = {NVMX_DS, NVMX_ES, NVMX_SS, NVMX_FS};
    uint32_t info = INFO_ADDRESS(draw_one_in(&p->seed, 8) ? 32 : 64);

    info |= INFO_SEGMENT(segments[draw_below(&p->seed, COUNT(segments))]);

    if (draw_one_in(&p->seed, 2)) {
        info |= INFO_NO_BASE;
    } else {
        uint64_t part = draw(&p->seed) & 0xffff;
        set_gpr(p, base, part);
        address -= part;
        info |= INFO_BASE(base);
    }
    if (draw_one_in(&p->seed, 2) || index == base) {
        info |= INFO_NO_INDEX;
    } else {
        uint64_t part = draw(&p->seed) & 0xfff;
        set_gpr(p, index, part);
        address -= part << shift;
        info |= INFO_INDEX(index, shift);
    }
    *qualification = address;
    return info;
}

/* Hardware carries it out on the shadow VMCS. */
static bool does_not_exit(const struct pair *p, uint32_t encoding) {
    int slot = sim_slot(encoding & ~1u);

    return p->options->shadow && slot >= 0 && nvmx_field_info((unsigned int)slot)->shadow == NVMX_SHADOW_RW;
}

/* Mostly an external interrupt, or none; now and then bits that make another event of it. */
static uint64_t random_event(struct pair *p) {
    static const uint32_t events[] = {0, 0x20, 0x80000020, 0x80000030, 0x800000ff, 0x80000306, 0x80000202, 0x80000820, 0x80001020};

    return events[draw_below(&p->seed, COUNT(events))];
}

/* Mostly one of three that are valid, if the processor has them. */
static uint64_t random_eptp(struct pair *p) {
    static const uint32_t flags[] = {0x1e, 0x1e, 0x1e, 0x5e, 0x5e, 0x18, 0x18, 0x1f};

    return SIM_L1_EPT12 | flags[draw_below(&p->seed, COUNT(flags))];
}

static void access_field(struct pair *p) {
    unsigned int reg2 = draw_below(&p->seed, 16);
    uint64_t qualification = 0;
    uint32_t info, encoding = random_encoding(p);

    if (does_not_exit(p, encoding)) {
        return;
    }
    set_gpr(p, reg2, encoding);
    if (draw_one_in(&p->seed, 4)) {
        info = memory_operand(p, &qualification);
    } else {
        unsigned int reg1 = draw_below(&p->seed, 16);
        info = INFO_RM_REGISTER(reg1);
        if (reg1 != reg2) {
            bool event = encoding == NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO;
            uint64_t any = draw_one_in(&p->seed, 2) ? draw(&p->seed) : draw_below(&p->seed, 0x10000);
            set_gpr(p, reg1, event ? random_event(p) : encoding == NVMX_VMCS_EPT_POINTER ? random_eptp(p) : any);
        }
    }
    if (draw_one_in(&p->seed, 2)) {
        set_field(p, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, 0x2 | (draw(&p->seed) & 0x8d5));
    }
    bool write = draw_one_in(&p->seed, 3);
    exits(p, write ? "VMWRITE" : "VMREAD", write ? VMWRITE : VMREAD, qualification, info | INFO_REG2(reg2));
}

static void put_operand(struct pair *p, uint64_t first, uint64_t second) {
    for (unsigned int i = 0; i < 2; i++) {
        sim_write64(p->sim[i], SIM_L1_OPERAND, first);
        sim_write64(p->sim[i], SIM_L1_OPERAND + 8, second);
    }
}

static void with_operand(struct pair *p) {
    static const uint64_t regions[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_A, SIM_L1_VMCS_B, SIM_L1_VMXON, SIM_L1_VMCS_A + 8};
    static const uint8_t reasons[] = {VMPTRLD, VMPTRLD, VMPTRST, INVEPT, INVVPID, VMCLEAR};
    uint8_t reason = reasons[draw_below(&p->seed, COUNT(reasons))];
    uint64_t region = regions[draw_below(&p->seed, COUNT(regions))], qualification;
    unsigned int reg2 = draw_below(&p->seed, 16);

    /* Nothing is cleared but what is not current: it would have to be written anew. */
    put_operand(p, reason == VMCLEAR ? SIM_L1_VMCS_B : reason == INVVPID ? draw_below(&p->seed, 3) : region, 0);
    uint32_t info = memory_operand(p, &qualification);
    bool uses = (info & INFO_NO_BASE) == 0 && ((info >> 23) & 15) == reg2;
    uses = uses || ((info & INFO_NO_INDEX) == 0 && ((info >> 18) & 15) == reg2);
    if (!uses) {
        set_gpr(p, reg2, draw_below(&p->seed, 4));
    }
    exits(p, "instruction with a memory operand", reason, qualification, info | INFO_REG2(reg2));
}

static bool write_exits(const struct sim *sim, uint32_t encoding) {
    return ((sim->vmwrite_bitmap[encoding / 8] >> (encoding % 8)) & 1) != 0;
}

/* A VMWRITE that hardware shadows, unless the library wants to see it. Where L1's VMWRITEs are learned, they are soon forgotten. */
static void l1_writes_field(struct pair *p, enum nvmx_field slot, uint64_t value) {
    uint32_t encoding = nvmx_field_info(slot)->encoding;
    bool exits_now = write_exits(p->sim[0], encoding);

    if (p->sim[0]->vcpu->current < 0 || !p->options->shadow || exits_now != write_exits(p->sim[1], encoding)) {
        return; /* only the long way sees a VMWRITE of a timer that is off before it is forgotten */
    }
    if (!exits_now) {
        set_field(p, sim_linked(p->sim[0]), slot, value);
    } else {
        set_gpr(p, NVMX_RAX, encoding);
        set_gpr(p, NVMX_RCX, value);
        exits(p, "VMWRITE of a field that L1 seldom writes", VMWRITE, 0, INFO_RM_REGISTER(NVMX_RCX) | INFO_REG2(NVMX_RAX));
    }
    for (unsigned int i = 0; i < 2; i++) {
        uint32_t *left = &p->sim[i]->vcpu->shadow_writes.entries_left;
        *left = *left > 5 ? 5 : *left;
    }
}

/* What L1 writes without an exit, where hardware shadows its VMCS. */
static void write_shadow(struct pair *p) {
    static const uint8_t slots[] = {NVMX_F_GUEST_RIP, NVMX_F_GUEST_RSP, NVMX_F_GUEST_RFLAGS, NVMX_F_GUEST_INTERRUPTIBILITY_STATE,
                                    NVMX_F_VM_ENTRY_INTERRUPTION_INFO, NVMX_F_PREEMPTION_TIMER_VALUE};
    unsigned int slot = slots[draw_below(&p->seed, draw_one_in(&p->seed, 4) ? COUNT(slots) : 2)];
    slot = p->rewrites && draw_one_in(&p->seed, 3) ? NVMX_F_PREEMPTION_TIMER_VALUE : slot;
    unsigned int shift = draw_one_in(&p->seed, 2) ? 33 : 17;
    uint64_t value = slot == NVMX_F_GUEST_RFLAGS                 ? 0x2 | (draw(&p->seed) & 0xad5)
                     : slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO ? random_event(p)
                     : slot == NVMX_F_GUEST_INTERRUPTIBILITY_STATE ? 0
                                                                   : draw(&p->seed) >> shift;

    l1_writes_field(p, (enum nvmx_field)slot, value);
}

/* An event goes with the next entry. */
static void inject(struct pair *p) {
    uint64_t event = random_event(p);

    if (p->options->shadow) {
        l1_writes_field(p, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, event);
    } else {
        set_gpr(p, NVMX_RAX, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO);
        set_gpr(p, NVMX_RCX, event);
        exits(p, "VMWRITE of an event", VMWRITE, 0, INFO_RM_REGISTER(NVMX_RCX) | INFO_REG2(NVMX_RAX));
    }
}

/* Whichever guest runs, by a WRMSR that does not exit, or that the host carries out, or that L1 gets. */
static void writes_msr(struct pair *p) {
    static const uint32_t msrs[] = {0x174, 0x175, 0x176, 0x277, 0x277, 0x277, 0xc0000080};
    uint32_t index = msrs[draw_below(&p->seed, COUNT(msrs))];
    uint64_t value = index == 0x277 ? UINT64_C(0x0007040600070400) + draw_below(&p->seed, 2) * 6 : draw_below(&p->seed, 4) << 12;
    enum nvmx_next next[2] = {NVMX_ENTER, NVMX_ENTER};

    p->what = "WRMSR of a watched MSR";
    forget(p->sim[1]->vcpu);
    for (unsigned int i = 0; i < 2; i++) {
        if (index == 0xc0000080) { /* NXE */
            value = sim_get(p->sim[i], p->sim[i]->selected, NVMX_F_GUEST_EFER) ^ 0x800;
        }
        (void)sim_wrmsr(p->sim[i], index, value);
    }
    expect_same(p, next);
}

static void l1_steps(struct pair *p) {
    switch (draw_below(&p->seed, 16)) {
    case 0:
        with_operand(p);
        break;
    case 1:
    case 2:
    case 3:
    case 4:
        access_field(p);
        break;
    case 5:
    case 6:
    case 7:
        write_shadow(p);
        break;
    default:
        if (draw_one_in(&p->seed, 4)) {
            writes_msr(p);
        }
        if (draw_one_in(&p->seed, 3)) {
            inject(p);
        }
        exits(p, "VMRESUME", VMRESUME, 0, 0);
        break;
    }
}

/* -- steps of L2 ------------------------------------------------------------------------------------------------------------------------------- */

/* An access to one of a few MSRs, of which the host wants the first two; L1 changes its mind now and then. */
static void l2_msr(struct pair *p) {
    static const uint32_t msrs[] = {0x480, 0x3a, 0x480, 0x10, 0x480, 0x48, 0xc0000082, 0x2000};
    uint32_t index = msrs[draw_below(&p->seed, COUNT(msrs))];
    bool write = draw_one_in(&p->seed, 4);

    if (draw_one_in(&p->seed, 3)) {
        for (unsigned int i = 0; i < 2; i++) {
            sim_write64(p->sim[i], SIM_L1_MSR_BITMAP + (write ? 2048 : 0) + 0x480 / 8, p->step % 2);
            sim_write64(p->sim[i], SIM_L1_MSR_BITMAP + (write ? 2048 : 0), p->step / 2 % 4 == 0 ? 1u << 0x10 : 0);
        }
    }
    set_gpr(p, NVMX_RCX, index | draw(&p->seed) << 32);
    exits(p, "RDMSR or WRMSR of L2", write ? NVMX_EXIT_WRMSR : NVMX_EXIT_RDMSR, 0, 0);
    p->hosts_msrs += in_l2(p) && index == 0x480;
}

static void l2_steps(struct pair *p) {
    static const uint8_t reasons[] = {NVMX_EXIT_CPUID, NVMX_EXIT_CPUID, NVMX_EXIT_VMCALL, NVMX_EXIT_HLT, NVMX_EXIT_RDTSC};
    uint32_t vmcs02 = nvmx_selected(p->sim[0]->vcpu);

    set_field(p, vmcs02, NVMX_F_GUEST_RIP, draw(&p->seed) >> 33);
    if (p->rewrites) { /* the processor saves what vmcs02's controls say, which L1 does not see */
        set_field(p, vmcs02, NVMX_F_PREEMPTION_TIMER_VALUE, draw_below(&p->seed, 3) * 100);
        set_field(p, vmcs02, NVMX_F_GUEST_PAT, draw_below(&p->seed, 2) * 6);
    }
    if (draw_one_in(&p->seed, 4)) {
        set_field(p, vmcs02, NVMX_F_GUEST_RSP, draw(&p->seed));
        uint64_t rflags = draw_one_in(&p->seed, 2) ? 0x202 : 2;
        rflags |= draw(&p->seed) & 0x8d5;
        set_field(p, vmcs02, NVMX_F_GUEST_RFLAGS, rflags);
    }
    if (draw_one_in(&p->seed, 4)) {
        bool blocked = draw_one_in(&p->seed, 2);
        set_field(p, vmcs02, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, blocked ? draw_below(&p->seed, 3) : 0);
        set_field(p, vmcs02, NVMX_F_GUEST_ACTIVITY_STATE, blocked ? 0 : draw_below(&p->seed, 3));
    }
    if (draw_one_in(&p->seed, 6)) {
        set_field(p, vmcs02, NVMX_F_GUEST_CR3, draw(&p->seed) & 0xfffff000);
        writes_msr(p);
        if (!in_l2(p)) {
            return;
        }
        set_field(p, vmcs02, NVMX_F_GUEST_CR0, sim_get(p->sim[0], vmcs02, NVMX_F_GUEST_CR0) ^ 8);
    }
    if (draw_one_in(&p->seed, 4)) {
        for (unsigned int left = 1 + draw_below(&p->seed, 8); left > 0 && in_l2(p); left--) {
            l2_msr(p);
        }
    } else {
        exits(p, "exit of L2", reasons[draw_below(&p->seed, COUNT(reasons))], 0, 0);
    }
}

/* What L1 wrote may keep its entries or its own instructions from succeeding: now and then all begins anew. */
static void go_on(struct pair *p) {
    unsigned int reflected = 0;

    start(p);
    for (p->step = 0; p->step < STEPS; p->step++) {
        bool before = in_l2(p);
        if (before) {
            l2_steps(p);
        } else {
            l1_steps(p);
        }
        reflected += before && !in_l2(p);
        if (p->steps_left-- == 0) {
            end(p);
            start(p);
        }
    }
    cr_expect(reflected > STEPS / 10, "only %u exits of L2 came to L1", reflected);
    cr_expect(p->hosts_msrs > STEPS / 100, "only %u accesses to MSRs went to the host", p->hosts_msrs);
    end(p);
}

static void same_program(const struct sim_options *options, uint64_t seed, unsigned int entry_msrs) {
    go_on(&(struct pair){.options = options, .entry_msrs = entry_msrs, .seed = seed});
}

static void same_program_with_rewriting(const struct sim_options *options, uint64_t seed) {
    go_on(&(struct pair){.options = options, .rewrites = true, .seed = seed});
}

Test(short_ways, do_what_the_long_ones_do) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        same_program(&(struct sim_options){0}, seed, 0);
    }
}

Test(short_ways, do_what_the_long_ones_do_with_a_shadow_vmcs) {
    for (uint64_t seed = 11; seed <= 13; seed++) {
        same_program(&(struct sim_options){.shadow = true}, seed, 0);
        same_program(&(struct sim_options){.shadow = true, .learns_writes = true}, seed + 100, 0);
    }
}

Test(short_ways, do_what_the_long_ones_do_with_shadow_vmcss) {
    for (uint64_t seed = 41; seed <= 43; seed++) {
        same_program(&(struct sim_options){.shadow = true, .shadows = true}, seed, 0);
        same_program(&(struct sim_options){.shadow = true, .shadows = true, .learns_writes = true}, seed + 100, 0);
    }
}

Test(short_ways, do_what_the_long_ones_do_where_the_host_watches_msrs) {
    for (uint64_t seed = 51; seed <= 54; seed++) {
        same_program(&(struct sim_options){.watches_msrs = true, .msrs_in_fields = true}, seed, 0);
    }
    same_program(&(struct sim_options){.watches_msrs = true, .shadow = true, .shadows = true, .learns_writes = true}, 55, 0);
    same_program(&(struct sim_options){.watches_msrs = true, .msrs_in_fields = true}, 56, 6);
}

Test(short_ways, do_what_the_long_ones_do_without_vpids) {
    same_program(&(struct sim_options){.no_vpid = true, .shadow = true}, 21, 0);
}

Test(short_ways, do_what_the_long_ones_do_with_msr_lists) {
    same_program(&(struct sim_options){.shadow = true}, 31, 3);
    same_program(&(struct sim_options){.shadow = true}, 32, 6);
}

Test(short_ways, do_what_the_long_ones_do_with_fields_written_at_each_entry) {
    for (uint64_t seed = 61; seed <= 64; seed++) {
        same_program_with_rewriting(&(struct sim_options){0}, seed);
        same_program_with_rewriting(&(struct sim_options){.shadow = true}, seed + 100);
        same_program_with_rewriting(&(struct sim_options){.shadow = true, .shadows = true, .learns_writes = true}, seed + 200);
    }
}

/* The short way to a field looks at nothing but its place. */
Test(short_ways, each_encoding_has_a_place_of_its_own) {
    uint32_t taken[FIELD_PLACES] = {0};

    for (uint32_t encoding = 0; encoding <= UINT16_MAX; encoding++) {
        if ((encoding & FIELD_NO_PLACE) == 0) {
            uint32_t place = FIELD_PLACE(encoding);
            cr_assert(place < FIELD_PLACES && taken[place] == 0, "%#x has the place of %#x", encoding, taken[place] - 1);
            taken[place] = encoding + 1;
        }
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        cr_assert_eq(nvmx_field_info(slot)->encoding & FIELD_NO_PLACE, 0, "%s", nvmx_field_info(slot)->name);
    }
}
