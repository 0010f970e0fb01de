/* SPDX-License-Identifier: MIT */
/*
 * What hypervisors do at every turn: fields that they write between an exit and VMRESUME, and MSRs in their lists. None of it makes the library fetch L2's
 * whole state from vmcs02; what breaks a rule of VM entry is refused all the same.
 */
#include "machine.h"

#define MSR_FLUSH_CMD 0x10bu
#define ROUNDS        6u
#define PAT           UINT64_C(0x0007040600070406)

/* What L1 does with L2 stopped. */
typedef void turn(struct sim *sim, unsigned int round);

static void nothing(struct sim *sim, unsigned int round) {
    (void)sim, (void)round;
}

/* A round trip when all that can be learned is learned. */
static struct cost cost_of(struct sim *sim, turn *of_l1) {
    struct cost exits, entries;
    for (unsigned int round = 0; round < ROUNDS; round++) {
        l2_leaves(sim);
        of_l1(sim, round);
        resume(sim);
    }
    struct cost before = cost_now(sim);
    l2_leaves(sim);
    exits = cost_since(sim, before);
    of_l1(sim, ROUNDS);
    before = cost_now(sim);
    resume(sim);
    entries = cost_since(sim, before);
    return (struct cost){.selects = exits.selects + entries.selects,
                         .fields_read = exits.fields_read + entries.fields_read,
                         .fields_written = exits.fields_written + entries.fields_written};
}

static struct cost cost_of_plain(const struct sim_options *options) {
    struct sim *sim = l2_running(options);
    struct cost cost = cost_of(sim, nothing);
    sim_free(sim);
    return cost;
}

/* -- fields
 * ------------------------------------------------------------------------------------------------------------------ */

static void flip(struct sim *sim, unsigned int round, uint32_t bits) {
    (round & 1 ? l1_sets : l1_clears)(sim, NVMX_VMCS_PRIMARY_CONTROLS, bits);
}

/* KVM and Xen give their guest the debug registers until it is scheduled out. */
static void mov_dr(struct sim *sim, unsigned int round) {
    flip(sim, round, 1u << 23);
}

static void cr3_accesses(struct sim *sim, unsigned int round) {
    flip(sim, round, PROC_CR3_LOAD | PROC_CR3_STORE);
}

static void interrupt_window(struct sim *sim, unsigned int round) {
    flip(sim, round, PROC_INTERRUPT_WINDOW);
}

/* An L1 that has page tables of its own for L2, at each MOV to CR3 of L2. */
static void another_cr3(struct sim *sim, unsigned int round) {
    l1_writes(sim, NVMX_VMCS_GUEST_CR3, 0x2000 | (round & 1) << 3);
}

/* KVM while something is measured that leaves guests out. */
static void counters(struct sim *sim, unsigned int round) {
    (void)round;
    l1_writes(sim, NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL, 0);
    l1_writes(sim, NVMX_VMCS_HOST_PERF_GLOBAL_CTRL, 0);
}

/* Without virtual-interrupt delivery Xen writes it before each VM entry, KVM before most. */
static void tpr_threshold(struct sim *sim, unsigned int round) {
    l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, round & 1);
}

/* KVM that runs a hypervisor, for that one's guest; it has read them all at the exit. */
static void what_is_there(struct sim *sim, unsigned int round) {
    static const uint32_t fields[] = {
        NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, NVMX_VMCS_GUEST_SS_ACCESS_RIGHTS, NVMX_VMCS_GUEST_CR0,     NVMX_VMCS_GUEST_CR4,
        NVMX_VMCS_PIN_BASED_CONTROLS,     NVMX_VMCS_PRIMARY_CONTROLS,       NVMX_VMCS_SECONDARY_CONTROLS, NVMX_VMCS_VM_ENTRY_CONTROLS,
        NVMX_VMCS_VM_EXIT_CONTROLS,       NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, NVMX_VMCS_EPT_POINTER,  NVMX_VMCS_MSR_BITMAP_ADDRESS,
    };
    (void)round;
    for (size_t i = 0; i < COUNT(fields); i++)
        l1_writes(sim, fields[i], l1_reads(sim, fields[i]));
}

static void loads_counters(struct sim *sim) {
    sim_msr(sim, 0x38f);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 13);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 12);
}

static void has_tpr_shadow(struct sim *sim) {
    sim_write32(sim, SIM_L1_VIRTUAL_APIC + 0x80, 0xf0);
    l1_writes(sim, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, SIM_L1_VIRTUAL_APIC);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TPR_SHADOW);
}

static const struct {
    const char *name;
    turn *of_l1;
    void (*prepare)(struct sim *sim);
} turns[] = {
    {"MOV-DR exiting", mov_dr, NULL},
    {"CR3 exiting", cr3_accesses, NULL},
    {"interrupt window", interrupt_window, NULL},
    {"guest CR3", another_cr3, NULL},
    {"counters", counters, loads_counters},
    {"TPR threshold", tpr_threshold, has_tpr_shadow},
    {"what is there", what_is_there, NULL},
};

Test(enter_patterns, fields_that_break_no_rule_leave_l2s_state_in_vmcs02) {
    const struct cost plain = cost_of_plain(NULL);
    for (size_t i = 0; i < COUNT(turns); i++) {
        struct sim *sim = l1_ready(NULL);
        if (turns[i].prepare != NULL)
            turns[i].prepare(sim);
        launch(sim);
        struct cost cost = cost_of(sim, turns[i].of_l1);
        cr_expect(cost.selects == plain.selects && cost.fields_read == plain.fields_read, "%s: %lu selects, %lu fields read; plain: %lu, %lu",
                  turns[i].name, cost.selects, cost.fields_read, plain.selects, plain.fields_read);
        sim_free(sim);
    }
}

/* L1's processor without TRUE MSRs: CR3 accesses always exit. */
static struct nvmx_caps plain_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_BASIC] &= ~(UINT64_C(1) << 55);
    for (unsigned int place = NVMX_CAP_TRUE_PINBASED; place <= NVMX_CAP_TRUE_ENTRY; place++)
        machine.msr[place] = 0;
    return machine;
}

static void expect_refused(struct sim *sim, uint32_t encoding, uint64_t value, const char *what) {
    uint64_t before;
    l2_leaves(sim);
    before = l1_reads(sim, encoding);
    l1_writes(sim, encoding, value);
    enum sim_outcome outcome = sim_vmresume(sim);
    const bool control = encoding == NVMX_VMCS_PRIMARY_CONTROLS || encoding == NVMX_VMCS_TPR_THRESHOLD;
    cr_expect_eq(outcome, control ? SIM_FAIL_VALID : SIM_ENTRY_FAILED, "%s: %s", what, sim_outcome_text(outcome));
    cr_expect(!control || sim_instruction_error(sim) == 7, "%s: %u", what, sim_instruction_error(sim));
    l1_writes(sim, encoding, before);
    resume(sim);
}

/* Of all 32 bits of the primary controls none may be as the processor does not allow it, also where nothing else changes. */
Test(enter_patterns, controls_that_the_processor_does_not_allow_are_refused) {
    const struct nvmx_caps machine = plain_machine();
    const struct sim_options options = {.machine = &machine};
    for (unsigned int with = 0; with < 2; with++) {
        struct sim *sim = l2_running(with != 0 ? &options : NULL);
        const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
        const uint32_t may = nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED), must = nvmx_caps_must_be_1(caps, NVMX_CAP_PROCBASED);
        unsigned int refused = 0;
        for (unsigned int bit = 0; bit < 32; bit++) {
            const uint32_t primary = (uint32_t)sim->vcpu->vmcs12[0].value[NVMX_F_PRIMARY_CONTROLS] ^ 1u << bit;
            if ((must & ~primary) != 0 || (primary & ~may) != 0) {
                expect_refused(sim, NVMX_VMCS_PRIMARY_CONTROLS, primary, "primary control");
                refused++;
            }
        }
        cr_expect_eq(refused, with != 0 ? 13 : 11, "%u: reserved bits, tertiary controls, default1 controls", refused);
        sim_free(sim);
    }
}

Test(enter_patterns, values_that_are_not_allowed_are_refused) {
    struct sim *sim = l1_ready(NULL);
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
    loads_counters(sim);
    has_tpr_shadow(sim);
    sim_write32(sim, SIM_L1_VIRTUAL_APIC + 0x80, 0x70);
    launch(sim);
    for (uint64_t threshold = 8; threshold != 0; threshold = (uint32_t)(threshold << 1))
        expect_refused(sim, NVMX_VMCS_TPR_THRESHOLD, threshold, "TPR threshold");
    for (unsigned int bit = caps->physical_address_bits; bit < 64; bit++)
        if ((caps->cpu & NVMX_CPU_LAM) == 0 || (bit != 61 && bit != 62))
            expect_refused(sim, NVMX_VMCS_GUEST_CR3, 0x2000 | UINT64_C(1) << bit, "CR3");
    for (unsigned int bit = 0; bit < 64; bit++)
        if ((caps->perf_global_ctrl_valid >> bit & 1) == 0)
            expect_refused(sim, NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL, UINT64_C(1) << bit, "IA32_PERF_GLOBAL_CTRL");
    sim_free(sim);
}

/* -- the TPR shadow, which every L1 uses that has it
 * ------------------------------------------------------------------------------------------------------------------ */

Test(enter_patterns, a_tpr_shadow_alone_has_nothing_checked) {
    struct sim *sim = l1_ready(NULL);
    has_tpr_shadow(sim);
    l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_MSR_BITMAPS);
    launch(sim);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        l2_leaves(sim);
        resume(sim);
        cr_expect(sim->vcpu->vmcs12[0].plain || round < 2, "round %u is a full entry", round);
    }
    sim_free(sim);
}

/* SDM 29.2.1.1: with "virtualize APIC accesses" or virtual-interrupt delivery VTPR says nothing of the threshold. */
Test(enter_patterns, vtpr_is_read_only_where_it_decides) {
    static const struct {
        uint32_t threshold, secondary, maps;
    } rows[] = {{0, 0, 0}, {5, 0, 1}, {5, PROC2_APIC_ACCESSES, 0}, {5, PROC2_VIRTUAL_INTERRUPTS, 0}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        has_tpr_shadow(sim);
        l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_MSR_BITMAPS);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, SIM_L1_APIC_ACCESS);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, rows[i].secondary);
        l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_EXTERNAL_INTERRUPT);
        l1_writes(sim, NVMX_VMCS_TPR_THRESHOLD, rows[i].threshold);
        launch(sim);
        l2_leaves(sim);
        resume(sim);
        l2_leaves(sim);
        struct cost before = cost_now(sim);
        resume(sim);
        cr_expect_eq(cost_since(sim, before).maps, rows[i].maps, "row %zu: %lu", i, cost_since(sim, before).maps);
        l2_leaves(sim);
        sim_write32(sim, SIM_L1_VIRTUAL_APIC + 0x80, 0x40); /* L2 has lowered it */
        cr_expect_eq(sim_vmresume(sim), rows[i].maps != 0 ? SIM_FAIL_VALID : SIM_L2, "row %zu", i);
        sim_free(sim);
    }
}

/* -- MSR lists
 * ------------------------------------------------------------------------------------------------------------------ */

/* Both the entry and the exit load it. */
static struct sim *with_list(const struct sim_options *options, uint32_t index) {
    const uint64_t list[] = {index, 1};
    struct sim *sim = l1_ready(options);
    sim_msr(sim, index);
    sim_write(sim, SIM_L1_MSR_LISTS, list, sizeof(list));
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 1);
    l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS);
    l1_writes(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 1);
    launch(sim);
    return sim;
}

/* Xen has IA32_FLUSH_CMD in the list of every VM entry, KVM MSRs of PEBS. */
Test(enter_patterns, an_msr_that_no_field_holds_costs_its_own_load) {
    static const struct sim_options watching = {.watches_msrs = true, .msrs_in_fields = true};
    static const uint32_t msrs[] = {0, MSR_FLUSH_CMD, 0x3f1, 0x600, 0xc8f};
    for (unsigned int watches = 0; watches < 2; watches++) {
        const struct sim_options *options = watches != 0 ? &watching : NULL;
        const struct cost plain = cost_of_plain(options);
        for (size_t i = 0; i < COUNT(msrs); i++) {
            struct sim *sim = with_list(options, msrs[i]);
            struct cost cost = cost_of(sim, nothing);
            cr_expect(cost.fields_read == plain.fields_read && cost.fields_written == plain.fields_written,
                      "MSR %#x: %lu fields read and %lu written; without: %lu and %lu", msrs[i], cost.fields_read, cost.fields_written,
                      plain.fields_read, plain.fields_written);
            sim_free(sim);
        }
    }
}

/* What an exit saved of them is fetched before the host may write over it. */
Test(enter_patterns, an_msr_that_a_field_holds_is_loaded_over_nothing_unsaved) {
    static const uint32_t others[] = {0x174, 0x175, 0x176, 0x6a2, 0x6a8, 0x988};
    const struct cost plain = cost_of_plain(NULL);
    for (size_t i = 0; i < GATE_COUNT + COUNT(others); i++) {
        const uint32_t index = i < GATE_COUNT ? gates[i].msr : others[i - GATE_COUNT];
        if (index == 0)
            continue;
        struct sim *sim = with_list(NULL, index);
        struct cost cost = cost_of(sim, nothing);
        cr_expect(cost.fields_read > plain.fields_read, "MSR %#x: %lu fields", index, cost.fields_read);
        sim_free(sim);
    }
}

/* -- what each entry writes, or merges, anew
 * ------------------------------------------------------------------------------------------------------------------ */

/* As KVM has it: IA32_PAT and IA32_EFER loaded and not saved, the preemption timer not saved, an MSR bitmap that lets something through. */
static struct sim *as_linux(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    host_gives_bitmaps(sim);
    memset(sim->ram + SIM_L1_MSR_BITMAP, 0, NVMX_PAGE_SIZE);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 14 | 1u << 15);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 19 | 1u << 21);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 18 | 1u << 20);
    l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, PIN_PREEMPTION_TIMER);
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, PAT);
    launch(sim);
    return sim;
}

/* Neither wants to know of it: from now on it goes through. */
static void l2_reads_msr(struct sim *sim, uint32_t index) {
    sim->regs.gpr[NVMX_RCX] = index;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "MSR %#x", index);
}

static uint64_t merged_word(struct sim *sim, unsigned int word) {
    const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
    return page[word];
}

static void expect_short(struct sim *sim, unsigned int round) {
    cr_expect(sim->vcpu->vmcs12[0].plain || round < 2, "round %u is a full entry", round);
}

static void fields_that_no_exit_saves(const struct sim_options *options) {
    struct sim *sim = as_linux(options);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        const uint64_t timer = vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE);
        sim_set(sim, sim->selected, NVMX_F_GUEST_PAT, 0); /* L2 writes it, and vmcs02 saves it */
        sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 1);
        l2_leaves(sim);
        if (round % 2 != 0)
            l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 5000 + round);
        resume(sim);
        expect_short(sim, round);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_PAT), PAT, "round %u", round);
        cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), round % 2 != 0 ? 5000 + round : timer, "round %u", round);
    }
    sim_free(sim);
}

Test(enter_patterns, fields_that_no_exit_saves_are_written_at_each_entry) {
    static const struct sim_options worlds[] = {{0}, {.shadow = true}, {.shadow = true, .shadows = true, .learns_writes = true}};
    for (size_t i = 0; i < COUNT(worlds); i++)
        fields_that_no_exit_saves(&worlds[i]);
}

/* With "save VMX-preemption timer value" L1 finds what is left, whoever shows it. */
Test(enter_patterns, a_timer_that_is_saved_is_found) {
    static const struct sim_options worlds[] = {{0}, {.shadow = true}, {.shadow = true, .shadows = true, .learns_writes = true}};
    for (size_t i = 0; i < COUNT(worlds); i++) {
        struct sim *sim = as_linux(&worlds[i]);
        l2_leaves(sim);
        l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SAVE_TIMER);
        resume(sim);
        for (unsigned int round = 0; round < ROUNDS; round++) {
            sim_set(sim, sim->selected, NVMX_F_PREEMPTION_TIMER_VALUE, 100 + round);
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE), 100 + round, "world %zu, round %u", i, round);
            if (round % 2 != 0)
                l1_writes(sim, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 5000 + round);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_PREEMPTION_TIMER_VALUE), (round % 2 != 0 ? 5000 : 100) + round, "world %zu, round %u", i, round);
        }
        sim_free(sim);
    }
}

Test(enter_patterns, words_of_the_msr_bitmap_follow_l1s_at_each_entry) {
    struct sim *sim = as_linux(NULL);
    l2_reads_msr(sim, 0x174);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        const bool closed = round % 2 != 0;
        l2_leaves(sim);
        sim_write64(sim, SIM_L1_MSR_BITMAP + 8 * (0x174 / 64), closed ? UINT64_C(1) << 0x174 % 64 : 0);
        resume(sim);
        expect_short(sim, round);
        cr_expect_eq(merged_word(sim, 0x174 / 64), closed ? UINT64_C(1) << 0x174 % 64 : 0, "round %u", round);
    }
    l2_leaves(sim);
    sim_ept01(sim, SIM_L1_MSR_BITMAP, 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, SIM_L1_MSR_BITMAP, 0x1000), NVMX_OK);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_MSR_BITMAPS, 0, "it reads as all ones");
    sim_free(sim);
}

/* With all words in use, also those are merged that L2 is not to reach whatever the two bitmaps say. */
Test(enter_patterns, msrs_that_are_kept_stay_closed_at_each_entry) {
    struct sim *sim = as_linux(NULL);
    l2_leaves(sim);
    host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | PROC2_X2APIC);
    memset(sim->host_msr_bitmap, 0, NVMX_PAGE_SIZE);
    resume(sim);
    for (uint32_t index = 0; index < 0x2000; index += 64)
        if (index / 256 != 8)
            l2_reads_msr(sim, index);
    for (unsigned int round = 0; round < ROUNDS; round++) {
        l2_leaves(sim);
        resume(sim);
        expect_short(sim, round);
        for (unsigned int word = 32; word < 36; word++)
            cr_expect_eq(merged_word(sim, word), UINT64_MAX, "round %u, word %u", round, word);
        cr_expect_eq(merged_word(sim, 31), 0);
    }
    sim_free(sim);
}
