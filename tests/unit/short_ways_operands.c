/* SPDX-License-Identifier: MIT */
/*
 * VMX instructions with a memory operand, the short way and in phases: two machines execute the same instruction with the same page tables of
 * L1, some of them out of the ordinary, and must be the same afterwards. The second is blocked by STI, which sends its instruction through the
 * phases of the SDM.
 */
#include <criterion/criterion.h>
#include <nvmx/exits.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "instruction_run.h"

#define COUNT(a)        (sizeof(a) / sizeof((a)[0]))
#define STEPS           12000u
#define BLOCKING_BY_STI 1u
#define TABLE_4K        0x40000u /* L1's page table of the first 2 MiB, where the PD names it */
#define OTHER_PAGE      0x41000u /* where it maps the operand's page to, now and then */
#define ENTRY_USUAL     0x63u    /* P RW A D */
#define CR4_USUAL       UINT64_C(0x2020)
#define EFER_USUAL      UINT64_C(0xd00)

struct pair {
    struct sim *sim[2];
    uint64_t seed;
    unsigned int step;
    unsigned int short_ones, faults;
};

static void put(struct pair *p, uint64_t gpa1, uint64_t value) {
    sim_write64(p->sim[0], gpa1, value);
    sim_write64(p->sim[1], gpa1, value);
}

static void set_field(struct pair *p, enum nvmx_field slot, uint64_t value) {
    sim_set(p->sim[0], NVMX_VMCS01, slot, value);
    sim_set(p->sim[1], NVMX_VMCS01, slot, value);
}

static void set_gpr(struct pair *p, unsigned int number, uint64_t value) {
    if (number == NVMX_RSP) {
        set_field(p, NVMX_F_GUEST_RSP, value);
    } else {
        p->sim[0]->regs.gpr[number] = p->sim[1]->regs.gpr[number] = value;
    }
}

/* -- page tables -------------------------------------------------------------------------------------------------------------------------------------- */

/* Where the tables have the entry of the operand's page, outermost first, and how many there are. */
static unsigned int ordinary_tables(struct pair *p, uint64_t at[4], uint64_t value[4]) {
    unsigned int size = draw_below(&p->seed, 5); /* 0: 1 GiB; 1: 2 MiB; else 4 KiB */
    uint64_t page = draw_one_in(&p->seed, 2) ? OTHER_PAGE : SIM_L1_OPERAND;

    at[0] = SIM_L1_PML4, value[0] = (SIM_L1_PML4 + 0x1000) | ENTRY_USUAL;
    at[1] = SIM_L1_PML4 + 0x1000, value[1] = (SIM_L1_PML4 + 0x2000) | ENTRY_USUAL;
    at[2] = SIM_L1_PML4 + 0x2000, value[2] = TABLE_4K | ENTRY_USUAL;
    at[3] = TABLE_4K + 8 * (SIM_L1_OPERAND / NVMX_PAGE_SIZE), value[3] = page | ENTRY_USUAL;
    if (size <= 1) {
        value[1 + size] = ENTRY_PS | ENTRY_USUAL;
    }
    return size <= 1 ? 2 + size : 4;
}

/* One or two bits of one of the entries are not as they mostly are. */
static void make_tables(struct pair *p) {
    static const uint8_t bits[] = {0, 1, 2, 5, 6, 7, 8, 11, 12, 13, 20, 21, 29, 39, 45, 51, 52, 58, 59, 62, 63};
    uint64_t at[4], value[4];
    unsigned int count = ordinary_tables(p, at, value);

    for (unsigned int changes = draw_one_in(&p->seed, 2) ? 0 : 1 + draw_below(&p->seed, 2); changes > 0; changes--) {
        unsigned int which = draw_below(&p->seed, count);
        value[which] ^= UINT64_C(1) << bits[draw_below(&p->seed, COUNT(bits))];
    }
    if (draw_one_in(&p->seed, 10)) { /* a user page */
        for (unsigned int i = 0; i < count; i++) {
            value[i] |= 4;
        }
    }
    for (unsigned int i = 0; i < 4; i++) {
        put(p, at[i], value[i]);
    }
}

static void make_mode(struct pair *p) {
    static const uint8_t cr4_bits[] = {12, 20, 21, 21, 22, 24};
    uint64_t cr4 = CR4_USUAL, rflags = 2 | (draw(&p->seed) & 0x8d5);
    uint64_t efer = draw_one_in(&p->seed, 4) ? EFER_USUAL & ~UINT64_C(0x800) : EFER_USUAL;

    if (draw_one_in(&p->seed, 3)) {
        cr4 |= UINT64_C(1) << cr4_bits[draw_below(&p->seed, COUNT(cr4_bits))];
    }
    if (draw_one_in(&p->seed, 3)) {
        rflags |= UINT64_C(1) << 18;
    }
    if (draw_one_in(&p->seed, 20)) { /* TF, RF */
        rflags |= draw_one_in(&p->seed, 2) ? 0x100 : 0x10000;
    }
    set_field(p, NVMX_F_GUEST_CR4, cr4);
    set_field(p, NVMX_F_GUEST_RFLAGS, rflags);
    set_field(p, NVMX_F_GUEST_SS_ACCESS_RIGHTS, draw_one_in(&p->seed, 20) ? 0xc0f3 : 0xc093);
    sim_msr(p->sim[0], MSR_EFER)->value = sim_msr(p->sim[1], MSR_EFER)->value = efer;
}

/* -- one instruction ---------------------------------------------------------------------------------------------------------------------------------- */

static uint32_t operand_at(struct pair *p, uint64_t *qualification) {
    static const uint16_t offsets[] = {0, 8, 0x7f8, 0xff0, 0xff1, 0xff4, 0xff8, 0xffc};
    uint64_t address = SIM_L1_OPERAND + (draw_one_in(&p->seed, 3) ? offsets[draw_below(&p->seed, COUNT(offsets))] : 0);
    unsigned int base = draw_below(&p->seed, 16);

    if (draw_one_in(&p->seed, 20)) {
        address |= UINT64_C(1) << (47 + draw_below(&p->seed, 17));
    }
    *qualification = address;
    if (draw_one_in(&p->seed, 2)) {
        return INFO_DISPLACEMENT64;
    }
    set_gpr(p, base, draw_below(&p->seed, 0x10000));
    *qualification -= base == NVMX_RSP ? sim_get(p->sim[0], NVMX_VMCS01, NVMX_F_GUEST_RSP) : p->sim[0]->regs.gpr[base];
    return INFO_ADDRESS(64) | INFO_SEGMENT(draw_one_in(&p->seed, 2) ? NVMX_DS : NVMX_SS) | INFO_NO_INDEX | INFO_BASE(base);
}

static void put_operand(struct pair *p, uint32_t reason) {
    static const uint32_t regions[] = {SIM_L1_VMCS_A, SIM_L1_VMCS_A, SIM_L1_VMCS_B, SIM_L1_VMXON, SIM_L1_VMCS_B + 8, 0x200000};
    uint64_t first = reason == INVVPID  ? draw_below(&p->seed, 3)
                     : reason == INVEPT ? (SIM_L1_EPT12 | 0x1e) ^ draw_one_in(&p->seed, 6)
                                        : regions[draw_below(&p->seed, COUNT(regions))];

    for (uint32_t offset = 0; offset < NVMX_PAGE_SIZE; offset += 8) {
        put(p, SIM_L1_OPERAND + offset, (offset & 8) == 0 ? first : 0);
        put(p, OTHER_PAGE + offset, (offset & 8) == 0 ? first : 0);
    }
}

/* What reg2 names: a type, or a field. */
static uint64_t second_operand(struct pair *p, uint32_t reason) {
    static const uint32_t encodings[] = {NVMX_VMCS_GUEST_RIP, NVMX_VMCS_HOST_RSP, NVMX_VMCS_GUEST_ES_BASE, NVMX_VMCS_TSC_OFFSET,
                                         NVMX_VMCS_TSC_OFFSET + 1, NVMX_VMCS_EXIT_REASON, NVMX_VMCS_PRIMARY_CONTROLS, 0x6c7e};

    if (reason == VMREAD || reason == VMWRITE) {
        return encodings[draw_below(&p->seed, COUNT(encodings))];
    }
    return draw_one_in(&p->seed, 8) ? draw(&p->seed) : draw_below(&p->seed, 4);
}

static void expect_same(const struct pair *p, uint32_t reason) {
    const struct sim *a = p->sim[0], *b = p->sim[1];

    cr_assert(memcmp(&a->regs, &b->regs, sizeof(a->regs)) == 0, "step %u, reason %u: registers", p->step, reason);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        cr_assert(a->vmcs[NVMX_VMCS01].value[slot] == b->vmcs[NVMX_VMCS01].value[slot], "step %u, reason %u: %s is %#lx, in phases %#lx", p->step, reason,
                  nvmx_field_info(slot)->name, a->vmcs[NVMX_VMCS01].value[slot], b->vmcs[NVMX_VMCS01].value[slot]);
    }
    cr_assert(memcmp(a->ram, b->ram, SIM_L1_EPT12) == 0, "step %u, reason %u: L1's memory", p->step, reason);
    cr_assert(memcmp(a->ram + TABLE_4K, b->ram + TABLE_4K, 2 * NVMX_PAGE_SIZE) == 0, "step %u, reason %u: L1's memory", p->step, reason);
    cr_assert_eq(vmcs12_pointer(a->vcpu), vmcs12_pointer(b->vcpu), "step %u, reason %u: the current VMCS", p->step, reason);
}

static void expect_same_saved(const struct pair *p) {
    size_t bytes[2];
    uint8_t *blob[2] = {sim_save(p->sim[0], &bytes[0]), sim_save(p->sim[1], &bytes[1])};

    cr_assert(bytes[0] == bytes[1] && memcmp(blob[0], blob[1], bytes[0]) == 0, "step %u: saved states", p->step);
    free(blob[0]);
    free(blob[1]);
}

/* Both execute it. `short_reads`: the short way reads so many fields, in one batch or, for a field, two. */
static void both(struct pair *p, uint32_t reason, uint64_t qualification, uint32_t info, uint64_t short_reads) {
    enum nvmx_next next[2];
    uint64_t before = nvmx_counts(p->sim[0]->vcpu)->vmreads;

    sim_set(p->sim[1], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_STI);
    for (unsigned int i = 0; i < 2; i++) {
        next[i] = sim_exit(p->sim[i], reason, qualification, info, LENGTH);
        sim_set(p->sim[i], NVMX_VMCS01, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, 0); /* a fault leaves it */
    }
    cr_assert_eq(next[0], next[1], "step %u, reason %u: %d, in phases %d", p->step, reason, next[0], next[1]);
    expect_same(p, reason);
    p->short_ones += nvmx_counts(p->sim[0]->vcpu)->vmreads - before == short_reads;
    p->faults += sim_fault_vector(p->sim[0]) >= 0;
    set_field(p, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    set_field(p, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    set_field(p, NVMX_F_GUEST_RIP, RIP_BEFORE);
}

static void one_with_operand(struct pair *p) {
    static const uint8_t reasons[] = {VMPTRLD, VMPTRLD, VMPTRST, VMCLEAR, INVEPT, INVVPID, VMREAD, VMWRITE};
    uint32_t reason = reasons[draw_below(&p->seed, COUNT(reasons))];
    bool field = reason == VMREAD || reason == VMWRITE;
    unsigned int reg2 = draw_below(&p->seed, 16);
    uint64_t qualification;

    make_tables(p);
    make_mode(p);
    put_operand(p, reason);
    uint32_t info = operand_at(p, &qualification);
    if ((info & INFO_NO_BASE) != 0 || ((info >> 23) & 15) != reg2) {
        set_gpr(p, reg2, second_operand(p, reason));
    }
    both(p, reason, qualification, info | INFO_REG2(reg2), field ? 8 + 12 : 12);
    if (draw_one_in(&p->seed, 16)) {
        expect_same_saved(p);
    }
}

/* VMXON and a current VMCS, by page tables without anything special. */
static void begin(struct pair *p) {
    uint64_t at[4] = {0}, value[4] = {0};

    ordinary_tables(p, at, value);
    for (unsigned int i = 0; i < 4; i++) {
        put(p, at[i], value[i]);
    }
    put(p, at[2], ENTRY_PS | ENTRY_USUAL);
    put(p, at[1], (SIM_L1_PML4 + 0x2000) | ENTRY_USUAL);
    set_field(p, NVMX_F_GUEST_CR4, CR4_USUAL);
    set_field(p, NVMX_F_GUEST_RFLAGS, 2);
    set_field(p, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc093);
    for (unsigned int i = 0; i < 2; i++) {
        cr_assert_eq(sim_vmxon_ready(p->sim[i]), SIM_SUCCEED);
        sim_region(p->sim[i], SIM_L1_VMCS_B);
    }
}

static void end(struct pair *p) {
    make_mode(p);
    both(p, VMXOFF, 0, 0, 7);
    if (nvmx_mode(p->sim[0]->vcpu) != NVMX_MODE_OFF) { /* it faulted */
        set_field(p, NVMX_F_GUEST_RFLAGS, 2);
        set_field(p, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc093);
        both(p, VMXOFF, 0, 0, 7);
    }
}

static void same_instructions(const struct sim_options *options, uint64_t seed) {
    struct pair p = {.sim = {sim_new(options), sim_new(options)}, .seed = seed};

    begin(&p);
    for (p.step = 0; p.step < STEPS; p.step++) {
        one_with_operand(&p);
        if (draw_one_in(&p.seed, 100)) {
            make_mode(&p);
            both(&p, draw_one_in(&p.seed, 2) ? VMRESUME : VMLAUNCH, 0, 0, 7);
        }
        if (draw_one_in(&p.seed, 200)) {
            end(&p);
            begin(&p);
        }
    }
    cr_expect(p.short_ones > STEPS / 6, "only %u went the short way", p.short_ones);
    cr_expect(p.faults > STEPS / 10, "only %u faulted", p.faults);
    sim_free(p.sim[0]);
    sim_free(p.sim[1]);
}

Test(short_ways_operands, do_what_the_phases_do) {
    same_instructions(&(struct sim_options){0}, 1);
}

Test(short_ways_operands, do_what_the_phases_do_with_a_shadow_vmcs) {
    same_instructions(&(struct sim_options){.shadow = true}, 2);
}

/* VMLAUNCH of what is launched, and VMRESUME of what is not, are refused by one batch of reads and one of writes. */
Test(short_ways_operands, a_launch_state_that_does_not_fit_is_refused_at_once) {
    static const uint8_t reasons[] = {VMLAUNCH, VMRESUME};

    for (unsigned int i = 0; i < 2; i++) {
        struct sim *sim = sim_new(NULL);
        cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
        vmcs12_current(sim->vcpu)->launched = reasons[i] == VMLAUNCH;
        struct nvmx_counts before = *nvmx_counts(sim->vcpu);
        cr_expect_eq(run(sim, reasons[i], 0, 0).seen, SEEN_VALID);
        cr_expect_eq(vmcs12_current(sim->vcpu)->value[NVMX_F_VM_INSTRUCTION_ERROR], reasons[i] == VMLAUNCH ? 4u : 5u);
        cr_expect_eq(nvmx_counts(sim->vcpu)->vmreads - before.vmreads, 7);
        cr_expect_eq(nvmx_counts(sim->vcpu)->refused - before.refused, 1);
        cr_expect_eq(nvmx_counts(sim->vcpu)->emulated - before.emulated, 1);
        sim_free(sim);
    }
}

/* A field that is still in vmcs02 is fetched, whatever operand VMREAD has. */
Test(short_ways_operands, a_stale_field_is_fetched) {
    struct sim *sim = sim_new(NULL);
    uint64_t pointer;

    cr_assert_eq(sim_launch(sim), SIM_L2);
    sim_set(sim, nvmx_selected(sim->vcpu), NVMX_F_GUEST_FS_BASE, 0x123456000);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, LENGTH), NVMX_ENTER);
    cr_assert(nvmx_set_has(&vmcs12_current(sim->vcpu)->stale, NVMX_F_GUEST_FS_BASE));
    cr_assert_eq(sim_vmptrst(sim, &pointer), SIM_SUCCEED); /* sets the dirty flag of the operand's page */
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_FS_BASE;
    cr_assert_eq(run(sim, VMREAD, INFO_DISPLACEMENT64 | INFO_REG2(NVMX_RCX), SIM_L1_OPERAND).seen, SEEN_SUCCEED);
    cr_expect_eq(sim_read64(sim, SIM_L1_OPERAND), 0x123456000);
    sim_free(sim);
}
