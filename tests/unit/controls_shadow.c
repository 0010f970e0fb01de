/* SPDX-License-Identifier: MIT */
/*
 * VMCS shadowing for L1's guests (SDM 27.10): L2's VMREAD and VMWRITE go to a shadow VMCS in L1's memory, without L1. L2 executes with register
 * operands, and with memory operands behind its own page tables and ept12.
 */
#include "machine.h"

#include <string.h>

#define REGION   0x34000u /* the shadow VMCS */
#define READS    0x35000u /* VMREAD bitmap */
#define WRITES   0x36000u /* VMWRITE bitmap */
#define SHADOW   0x80000000u
#define LOG      0x37000u

/* L2's paging: linear = gpa2 for the first 2 MiB, in pages of 4 KiB. */
#define L2_PML4  0x20000u
#define L2_PT    (L2_PML4 + 0x3000u)
#define OPERAND  0x40000u /* linear and gpa2 */

#define REGISTER_OPERANDS (1u << 28 | 1u << 10 | 3u << 3) /* encoding in RCX, operand RBX */
#define MEMORY_OPERAND    (1u << 28 | 2u << 7 | 3u << 15 | 1u << 22 | 1u << 27)

static void bitmap_bit(struct sim *sim, uint64_t page, uint32_t bit, bool set) {
    uint8_t byte = sim->ram[page + bit / 8];
    byte = (uint8_t)(set ? byte | 1u << bit % 8 : byte & ~(1u << bit % 8));
    sim_write(sim, page + bit / 8, &byte, 1);
}

static void l2_tables(struct sim *sim) {
    uint64_t base = sim_gpa1_of(0);
    sim_write64(sim, base + L2_PML4, (L2_PML4 + 0x1000) | 3);
    sim_write64(sim, base + L2_PML4 + 0x1000, (L2_PML4 + 0x2000) | 3);
    sim_write64(sim, base + L2_PML4 + 0x2000, (L2_PML4 + 0x3000) | 3);
    for (uint64_t i = 0; i < 512; i++)
        sim_write64(sim, base + L2_PT + i * 8, i << 12 | 3);
}

/* Nothing exits; the shadow VMCS is empty. */
static struct sim *prepared(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    sim_region(sim, REGION);
    sim_write32(sim, REGION, sim_read32(sim, REGION) | SHADOW);
    l2_tables(sim);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VMCS_SHADOWING);
    l1_writes(sim, NVMX_VMCS_VMREAD_BITMAP_ADDRESS, READS);
    l1_writes(sim, NVMX_VMCS_VMWRITE_BITMAP_ADDRESS, WRITES);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, REGION);
    l1_writes(sim, NVMX_VMCS_GUEST_CR3, L2_PML4);
    return sim;
}

static struct sim *running(void) {
    struct sim *sim = prepared(NULL);
    launch(sim);
    return sim;
}

/* -- L2's instructions ---------------------------------------------------------------------------------------------------------------- */

#define FLAGS UINT64_C(0x8d5)
#define CF    UINT64_C(1)
#define ZF    UINT64_C(0x40)

static enum nvmx_next l2_access(struct sim *sim, uint32_t reason, uint64_t encoding, uint64_t value) {
    sim->regs.gpr[NVMX_RCX] = encoding;
    sim->regs.gpr[NVMX_RBX] = value;
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, FLAGS | 2);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, 0x1000);
    return sim_exit(sim, reason, 0, REGISTER_OPERANDS, 4);
}

static void carried_out(struct sim *sim, enum nvmx_next next, uint64_t flags) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "exit %lu", vmcs12_current(sim->vcpu)->value[NVMX_F_EXIT_REASON]);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1004);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS), flags | 2, "flags %#lx", vmcs02(sim, NVMX_F_GUEST_RFLAGS));
}

static uint64_t l2_reads(struct sim *sim, uint64_t encoding) {
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMREAD, encoding, 0xbadbad), 0);
    return sim->regs.gpr[NVMX_RBX];
}

static void l2_writes(struct sim *sim, uint64_t encoding, uint64_t value) {
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMWRITE, encoding, value), 0);
}

static void l1_gets(struct sim *sim, enum nvmx_next next, uint32_t reason) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_assert_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason);
}

/* -- the region -------------------------------------------------------------------------------------------------------------------------- */

Test(controls_shadow, values_lie_in_l1s_region) {
    struct sim *sim = running();
    cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 14) & 1, 0, "hardware's shadow VMCS is not L1's");
    cr_expect_eq(vmcs02(sim, NVMX_F_VMCS_LINK_POINTER), NVMX_NO_ADDRESS);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RIP), 0);
    l2_writes(sim, NVMX_VMCS_GUEST_RIP, UINT64_C(0x123456789abcdef0));
    l2_writes(sim, NVMX_VMCS_GUEST_CS_SELECTOR, 0xfff12345);
    l2_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, UINT64_C(0xffffffff00000001));
    l2_writes(sim, NVMX_VMCS_TSC_OFFSET, UINT64_C(0x1111111122222222));
    l2_writes(sim, NVMX_VMCS_TSC_OFFSET + 1, 0x33333333);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RIP), UINT64_C(0x123456789abcdef0));
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_CS_SELECTOR), 0x2345);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_EXCEPTION_BITMAP), 1);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_TSC_OFFSET), UINT64_C(0x3333333322222222));
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_TSC_OFFSET + 1), 0x33333333);

    /* L1 finds them there. */
    l2_leaves(sim);
    cr_assert_eq(sim_vmptrld(sim, REGION), SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), UINT64_C(0x123456789abcdef0));
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CS_SELECTOR), 0x2345);
    l1_writes(sim, NVMX_VMCS_GUEST_RSP, 0x5555);

    /* And L2 what L1 wrote, although it is in the cache still, and the other way round. */
    cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    resume(sim);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RSP), 0x5555);
    l2_writes(sim, NVMX_VMCS_GUEST_RSP, 0x6666);
    l2_leaves(sim);
    cr_assert_eq(sim_vmptrld(sim, REGION), SIM_SUCCEED);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x6666);
    cr_assert_eq(sim_vmclear(sim, REGION), SIM_SUCCEED);
    cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    resume(sim);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RSP), 0x6666);
    sim_free(sim);
}

Test(controls_shadow, shadow_vmcs_can_not_be_entered) {
    for (unsigned int shadow = 0; shadow < 2; shadow++) {
        struct sim *sim = prepared(&(struct sim_options){.shadow = shadow});
        cr_assert_eq(sim_vmptrld(sim, REGION), SIM_SUCCEED);
        cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_INVALID);
        cr_expect_eq(sim_vmresume(sim), SIM_FAIL_INVALID);
        vmcs12_current(sim->vcpu)->launched = true; /* as a hostile L1 makes it in its memory */
        cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_INVALID);
        cr_expect_eq(sim_vmresume(sim), SIM_FAIL_INVALID);
        /* The same region as an ordinary VMCS. */
        cr_assert_eq(sim_vmclear(sim, REGION), SIM_SUCCEED);
        sim_write32(sim, REGION, sim_read32(sim, REGION) & ~SHADOW);
        cr_assert_eq(sim_vmptrld(sim, REGION), SIM_SUCCEED);
        cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID);
        sim_free(sim);
    }
}

Test(controls_shadow, indicator_is_refused_without_the_capability) {
    struct nvmx_caps mask;
    sim_machine(&mask);
    mask.msr[NVMX_CAP_PROCBASED2] &= ~((uint64_t)PROC2_VMCS_SHADOWING << 32);
    struct sim *sim = l1_ready(&(struct sim_options){.mask = &mask});
    sim_region(sim, REGION);
    sim_write32(sim, REGION, sim_read32(sim, REGION) | SHADOW);
    cr_expect_eq(sim_vmptrld(sim, REGION), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 11);
    sim_free(sim);
}

/* SDM 29.3.1.5: the indicator of the region at the link pointer agrees with the control. */
Test(controls_shadow, link_pointer_is_checked) {
    for (unsigned int control = 0; control < 2; control++) {
        for (unsigned int indicator = 0; indicator < 2; indicator++) {
            struct sim *sim = prepared(NULL);
            if (!control)
                l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VMCS_SHADOWING);
            sim_write32(sim, REGION, (sim_read32(sim, REGION) & ~SHADOW) | (indicator ? SHADOW : 0));
            cr_expect_eq(sim_vmlaunch(sim), control == indicator ? SIM_L2 : SIM_ENTRY_FAILED);
            sim_free(sim);
        }
    }
}

/* -- what exits ----------------------------------------------------------------------------------------------------------------------------- */

Test(controls_shadow, bitmaps_and_large_encodings_decide) {
    static const struct {
        const char *what;
        uint32_t reason;
        uint64_t encoding;
        int read_bit, write_bit;
        bool exits;
    } rows[] = {
        {"clear", NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, -1, -1, false},
        {"VMREAD bit", NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RIP, -1, true},
        {"VMWRITE bit, VMREAD", NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, -1, NVMX_VMCS_GUEST_RIP, false},
        {"VMWRITE bit", NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, -1, NVMX_VMCS_GUEST_RIP, true},
        {"VMREAD bit, VMWRITE", NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RIP, -1, false},
        {"neighbour", NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RIP + 2, -1, false},
        {"bit 15", NVMX_EXIT_VMREAD, 0x8000, -1, -1, true},
        {"bit 32", NVMX_EXIT_VMREAD, UINT64_C(0x100000000) | NVMX_VMCS_GUEST_RIP, -1, -1, true},
        {"bit 63", NVMX_EXIT_VMWRITE, UINT64_C(1) << 63, -1, -1, true},
        {"last bit", NVMX_EXIT_VMREAD, 0x7fff, 0x7fff, -1, true},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(NULL);
        if (rows[i].read_bit >= 0)
            bitmap_bit(sim, READS, (uint32_t)rows[i].read_bit, true);
        if (rows[i].write_bit >= 0)
            bitmap_bit(sim, WRITES, (uint32_t)rows[i].write_bit, true);
        launch(sim);
        enum nvmx_next next = l2_access(sim, rows[i].reason, rows[i].encoding, 1);
        cr_expect_eq(nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT, rows[i].exits, "%s", rows[i].what);
        if (rows[i].exits) {
            l1_gets(sim, next, rows[i].reason);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_INFORMATION), REGISTER_OPERANDS, "%s", rows[i].what);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000, "%s", rows[i].what);
        }
        sim_free(sim);
    }
}

/* An access that ends here, in success or VMfail, ends a step of L1's monitor trap flag; one that faults has hardware end it (SDM 28.5.2). */
Test(controls_shadow, accesses_end_a_step_of_the_monitor_trap_flag) {
    static const struct {
        uint32_t reason;
        uint64_t encoding;
        bool cpl3;
        uint64_t event;
    } rows[] = {
        {NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, false, 0x80000700},  {NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, false, 0x80000700},
        {NVMX_EXIT_VMREAD, 0x7ffe, false, 0x80000700},               {NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, true, 0x80000b0d},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(NULL);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_MONITOR_TRAP);
        launch(sim);
        sim_set(sim, sim->selected, NVMX_F_GUEST_SS_ACCESS_RIGHTS, rows[i].cpl3 ? 0xc0f3 : 0xc093);
        cr_assert_eq(l2_access(sim, rows[i].reason, rows[i].encoding, 1), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "row %zu", i);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), rows[i].event, "row %zu: %#lx", i,
                     vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO));
        sim_free(sim);
    }
}

/* Outside 64-bit mode a register has 32 bits. */
Test(controls_shadow, operands_of_compatibility_do_not_reach_beyond_32_bits) {
    struct sim *sim = running();
    sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_CONTROLS,
            vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E);
    sim_set(sim, sim->selected, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    uint64_t encoding = UINT64_C(0x500000000) | NVMX_VMCS_GUEST_RIP;
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMWRITE, encoding, UINT64_C(0x1111111122222222)), 0);
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMREAD, encoding, UINT64_MAX), 0);
    cr_expect_eq(sim->regs.gpr[NVMX_RBX], 0x22222222);
    sim_free(sim);
}

Test(controls_shadow, bitmap_without_memory_exits) {
    struct sim *sim = prepared(NULL);
    l1_writes(sim, NVMX_VMCS_VMREAD_BITMAP_ADDRESS, 0x20000000);
    launch(sim);
    l1_gets(sim, l2_access(sim, NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, 0), NVMX_EXIT_VMREAD);
    sim_free(sim);
}

Test(controls_shadow, without_the_control_all_exits) {
    struct sim *sim = l2_running(NULL);
    l1_gets(sim, l2_access(sim, NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, 0), NVMX_EXIT_VMREAD);
    resume(sim);
    l1_gets(sim, l2_access(sim, NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, 0), NVMX_EXIT_VMWRITE);
    sim_free(sim);
}

/* -- what fails and faults --------------------------------------------------------------------------------------------------------------------- */

Test(controls_shadow, failures_are_told_to_vmcs12) {
    struct sim *sim = running();
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMREAD, 0x7ffe, 0x77), ZF);
    cr_expect_eq(sim->regs.gpr[NVMX_RBX], 0x77);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR), 0);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR), 12);
    l1_writes(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR, 0); /* the machine lets all fields be written */
    resume(sim);
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP + 1, 1), ZF);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR), 12);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
    resume(sim);
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, 0), CF);
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, 0), CF);
    sim_free(sim);
}

Test(controls_shadow, exit_information_is_read_only_without_the_capability) {
    struct nvmx_caps mask;
    sim_machine(&mask);
    mask.msr[NVMX_CAP_MISC] &= ~(UINT64_C(1) << 29);
    struct sim *sim = prepared(&(struct sim_options){.mask = &mask});
    launch(sim);
    carried_out(sim, l2_access(sim, NVMX_EXIT_VMWRITE, NVMX_VMCS_EXIT_REASON, 1), ZF);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_EXIT_REASON), 0);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_INSTRUCTION_ERROR), 13);
    sim_free(sim);
}

#define GP_EVENT 0x80000b0du
#define PF_EVENT 0x80000b0eu
#define RF       UINT64_C(0x10000)

/* CPL 3: an exit that L1 wants comes first, else #GP in L2, or L1's exit for it. */
Test(controls_shadow, privilege_comes_after_the_bitmap) {
    for (unsigned int intercepted = 0; intercepted < 2; intercepted++) {
        struct sim *sim = prepared(NULL);
        bitmap_bit(sim, READS, NVMX_VMCS_GUEST_RSP, true);
        if (intercepted)
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 13);
        launch(sim);
        sim_set(sim, sim->selected, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
        enum nvmx_next next = l2_access(sim, NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RIP, 5);
        cr_expect_eq(sim->regs.gpr[NVMX_RBX], 5);
        if (intercepted) {
            l1_gets(sim, next, NVMX_EXIT_EXCEPTION_OR_NMI);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), GP_EVENT);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 0);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS) & RF, RF);
            resume(sim);
            sim_set(sim, sim->selected, NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc0f3);
        } else {
            cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), GP_EVENT);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), 0);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS) & RF, RF);
        }
        l1_gets(sim, l2_access(sim, NVMX_EXIT_VMREAD, NVMX_VMCS_GUEST_RSP, 5), NVMX_EXIT_VMREAD);
        sim_free(sim);
    }
}

/* -- memory operands --------------------------------------------------------------------------------------------------------------------------- */

static enum nvmx_next with_memory(struct sim *sim, uint32_t reason, uint64_t linear) {
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
    sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, FLAGS | 2);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, 0x1000);
    return sim_exit(sim, reason, linear, MEMORY_OPERAND, 4);
}

static uint64_t l2_entry(uint64_t linear) {
    return sim_gpa1_of(L2_PT) + (linear >> 12) * 8;
}

static uint64_t ept_entry(uint64_t gpa2) {
    return SIM_L1_EPT12 + 0x3000 + (gpa2 >> 12) * 8;
}

Test(controls_shadow, memory_operands_lie_in_l2s_memory) {
    struct sim *sim = running();
    sim_write64(sim, sim_gpa1_of(OPERAND + 8), UINT64_C(0x1122334455667788));
    carried_out(sim, with_memory(sim, NVMX_EXIT_VMWRITE, OPERAND + 8), 0);
    carried_out(sim, with_memory(sim, NVMX_EXIT_VMREAD, OPERAND + 0x1ffc), 0); /* across two pages */
    cr_expect_eq(sim_read32(sim, sim_gpa1_of(OPERAND + 0x1ffc)), 0x55667788);
    cr_expect_eq(sim_read32(sim, sim_gpa1_of(OPERAND + 0x2000)), 0x11223344);
    cr_expect_eq(sim_read64(sim, l2_entry(OPERAND)) & 0x60, 0x20, "accessed");
    cr_expect_eq(sim_read64(sim, l2_entry(OPERAND + 0x1000)) & 0x60, 0x60, "and dirty");
    cr_expect_eq(sim_read64(sim, l2_entry(OPERAND + 0x2000)) & 0x60, 0x60);
    sim_free(sim);
}

/* Segments 6 and 7 are none: no processor reports them, and what a host makes up is L1's exit, not a read beyond a table. */
Test(controls_shadow, operands_of_no_segment_are_l1s) {
    for (uint32_t segment = 6; segment < 8; segment++) {
        struct sim *sim = running();
        sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
        l1_gets(sim, sim_exit(sim, NVMX_EXIT_VMREAD, OPERAND, (MEMORY_OPERAND & ~(7u << 15)) | segment << 15, 4), NVMX_EXIT_VMREAD);
        sim_free(sim);
    }
}

/* A host that translates L1's addresses knows nothing of L2's. */
Test(controls_shadow, memory_operands_do_not_ask_the_host) {
    struct sim *sim = prepared(&(struct sim_options){.translate = true});
    launch(sim);
    sim_write64(sim, sim_gpa1_of(OPERAND), 77);
    uint64_t before = sim->count[SIM_TRANSLATE];
    carried_out(sim, with_memory(sim, NVMX_EXIT_VMWRITE, OPERAND), 0);
    cr_expect_eq(sim->count[SIM_TRANSLATE], before);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RIP), 77);
    sim_free(sim);
}

Test(controls_shadow, memory_operands_without_ept12) {
    struct sim *sim = prepared(NULL);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT);
    l1_writes(sim, NVMX_VMCS_GUEST_CR3, SIM_L1_PML4); /* gpa2 is gpa1 */
    launch(sim);
    sim_write64(sim, OPERAND, 78);
    carried_out(sim, with_memory(sim, NVMX_EXIT_VMWRITE, OPERAND), 0);
    cr_expect_eq(l2_reads(sim, NVMX_VMCS_GUEST_RIP), 78);
    sim_free(sim);
}

Test(controls_shadow, page_faults_are_l2s_or_exit) {
    for (unsigned int intercepted = 0; intercepted < 2; intercepted++) {
        struct sim *sim = prepared(NULL);
        if (intercepted)
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 14);
        sim_write64(sim, l2_entry(OPERAND), OPERAND | 1);
        launch(sim);
        sim->regs.cr2 = 0x99;
        enum nvmx_next next = with_memory(sim, NVMX_EXIT_VMREAD, OPERAND + 0x10);
        if (intercepted) {
            l1_gets(sim, next, NVMX_EXIT_EXCEPTION_OR_NMI);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), PF_EVENT);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), 3);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), OPERAND + 0x10);
            cr_expect_eq(sim->regs.cr2, 0x99);
        } else {
            cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), PF_EVENT);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), 3);
            cr_expect_eq(sim->regs.cr2, OPERAND + 0x10);
        }
        sim_free(sim);
    }
}

/* SDM 31.3.4: the operand is written where sub-pages permit all of it. */
Test(controls_shadow, sub_page_permissions_of_operands) {
    static const struct {
        uint64_t offset, vector;
        uint32_t exit; /* 0: carried out */
        uint64_t qualification;
    } rows[] = {{0x18, 1, 0, 0},
                {0x98, 1, NVMX_EXIT_EPT_VIOLATION, 0x5aa},
                {0x7c, 1, NVMX_EXIT_EPT_VIOLATION, 0x5aa},
                {0x7c, 5, 0, 0},
                {0x18, 2, NVMX_EXIT_SPP_EVENT, 0}};
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_SPP << 32;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(&(struct sim_options){.machine = &machine});
        for (unsigned int level = 0; level < 3; level++)
            sim_write64(sim, 0x38000 + level * 0x1000, (0x38000 + (level + 1) * 0x1000) | 1);
        sim_write64(sim, 0x3b000 + (OPERAND >> 12) * 8, rows[i].vector);
        sim_write64(sim, SIM_L1_EPT12 + 0x3000 + (OPERAND >> 12) * 8, sim_gpa1_of(OPERAND) | 0x35 | UINT64_C(1) << 61);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_SPP);
        l1_writes(sim, NVMX_VMCS_SPP_TABLE_POINTER, 0x38000);
        launch(sim);
        sim_write64(sim, sim_gpa1_of(OPERAND) + rows[i].offset, 0x99);
        enum nvmx_next next = with_memory(sim, NVMX_EXIT_VMREAD, OPERAND + rows[i].offset);
        if (rows[i].exit == 0) {
            carried_out(sim, next, 0);
        } else {
            l1_gets(sim, next, rows[i].exit);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), rows[i].qualification, "row %zu", i);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), OPERAND + rows[i].offset);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), OPERAND + rows[i].offset);
        }
        cr_expect_eq(sim_read64(sim, sim_gpa1_of(OPERAND) + rows[i].offset) == 0x99, rows[i].exit != 0, "row %zu", i);
        sim_free(sim);
    }
}

/* ept12 denies the operand, or a page of L2's tables: the EPT violation that the access would have been. */
Test(controls_shadow, ept_violations_of_operands_exit) {
    static const struct {
        const char *what;
        uint32_t reason;
        uint64_t gpa2, rights; /* of its entry of ept12 */
        uint32_t exit;
        uint64_t qualification, address;
    } rows[] = {
        {"operand not there, VMREAD", NVMX_EXIT_VMREAD, OPERAND, 0, 48, 0x582, OPERAND + 0x18},
        {"operand read-only, VMREAD", NVMX_EXIT_VMREAD, OPERAND, 0x35, 48, 0x5aa, OPERAND + 0x18},
        {"operand not there, VMWRITE", NVMX_EXIT_VMWRITE, OPERAND, 0, 48, 0x581, OPERAND + 0x18},
        {"page table not there", NVMX_EXIT_VMWRITE, L2_PT, 0, 48, 0x81, L2_PT + (OPERAND >> 12) * 8},
        {"page table read-only", NVMX_EXIT_VMWRITE, L2_PT, 0x31, 48, 0x8b, L2_PT + (OPERAND >> 12) * 8},
        {"misconfigured", NVMX_EXIT_VMREAD, OPERAND, 0x32, 49, 0, OPERAND + 0x18},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(NULL);
        sim_write64(sim, ept_entry(rows[i].gpa2), rows[i].rights ? sim_gpa1_of(rows[i].gpa2) | rows[i].rights : 0);
        launch(sim);
        l1_gets(sim, with_memory(sim, rows[i].reason, OPERAND + 0x18), rows[i].exit);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), rows[i].qualification, "%s: %#lx", rows[i].what,
                     l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION));
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), rows[i].address, "%s", rows[i].what);
        if (rows[i].exit == 48)
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), OPERAND + 0x18, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 4, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS) & RF, RF, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* SDM 32.4: an operand on the APIC-access page is an exit of L1's; so are L2's page tables there (32.4.6.1). */
Test(controls_shadow, operands_on_the_apic_access_page_exit) {
    static const struct {
        const char *what;
        uint32_t reason;
        uint64_t page, linear; /* gpa2 of the APIC-access page, operand */
        bool without_ept;
        uint32_t exit; /* 0: carried out */
        uint64_t qualification;
    } rows[] = {
        {"VMREAD writes", NVMX_EXIT_VMREAD, OPERAND, OPERAND + 0x318, false, 44, 0x1318},
        {"VMWRITE reads", NVMX_EXIT_VMWRITE, OPERAND, OPERAND + 0x80, false, 44, 0x80},
        {"VMREAD writes, no EPT", NVMX_EXIT_VMREAD, OPERAND, OPERAND + 0x318, true, 44, 0x1318},
        {"second page of the operand", NVMX_EXIT_VMREAD, OPERAND + 0x1000, OPERAND + 0xffc, false, 44, 0x1000},
        {"L2's page table", NVMX_EXIT_VMREAD, L2_PT, OPERAND, false, 44, 0xf000},
        {"another page", NVMX_EXIT_VMREAD, OPERAND + 0x1000, OPERAND + 0x18, false, 0, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = prepared(NULL);
        uint64_t page = rows[i].without_ept ? rows[i].page : sim_gpa1_of(rows[i].page);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_APIC_ACCESSES);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, page);
        if (rows[i].without_ept) {
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT);
            l1_writes(sim, NVMX_VMCS_GUEST_CR3, SIM_L1_PML4); /* gpa2 is gpa1 */
        }
        launch(sim);
        sim_write64(sim, page + 0x318, 0x99);
        enum nvmx_next next = with_memory(sim, rows[i].reason, rows[i].linear);
        if (rows[i].exit == 0) {
            carried_out(sim, next, 0);
        } else {
            l1_gets(sim, next, rows[i].exit);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), rows[i].qualification, "%s: %#lx", rows[i].what,
                         l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION));
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000, "%s", rows[i].what);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 4, "%s", rows[i].what);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS) & RF, RF, "%s", rows[i].what);
        }
        cr_expect_eq(sim_read64(sim, page + 0x318), 0x99, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* Such an exit has a lower priority than the faults of the same access. */
Test(controls_shadow, faults_come_before_apic_accesses) {
    for (unsigned int ept = 0; ept < 2; ept++) {
        struct sim *sim = prepared(NULL);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_APIC_ACCESSES);
        l1_writes(sim, NVMX_VMCS_APIC_ACCESS_ADDRESS, sim_gpa1_of(OPERAND));
        l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 14);
        sim_write64(sim, ept ? ept_entry(OPERAND) : l2_entry(OPERAND), ept ? sim_gpa1_of(OPERAND) | 0x35 : OPERAND | 1);
        launch(sim);
        l1_gets(sim, with_memory(sim, NVMX_EXIT_VMREAD, OPERAND), ept ? NVMX_EXIT_EPT_VIOLATION : NVMX_EXIT_EXCEPTION_OR_NMI);
        sim_free(sim);
    }
}

/* What L2's own page tables say of the operand's address (SDM table 30-7, bits 11:9), where the processor says so of its violations. */
Test(controls_shadow, advanced_information_of_operands) {
    static const struct {
        const char *what;
        uint64_t table, page, said; /* bits of two entries; 11:9 */
    } rows[] = {
        {"supervisor, read/write", 3, 3, 0x400},
        {"user, read/write", 7, 7, 0x600},
        {"user in the page's entry only", 3, 7, 0x400},
        {"read-only", 3, 1, 0},
        {"read-only by the table", 1, 3, 0},
        {"execute-disable", 3, UINT64_C(0x8000000000000003), 0xc00},
        {"execute-disable by the table", UINT64_C(0x8000000000000003), 3, 0xc00},
    };
    for (unsigned int offered = 0; offered < 2; offered++) {
        struct nvmx_caps mask;
        sim_machine(&mask);
        mask.msr[NVMX_CAP_EPT_VPID] &= ~(uint64_t)(offered ? 0 : 1u << 22);
        for (size_t i = 0; i < COUNT(rows); i++) {
            struct sim *sim = prepared(&(struct sim_options){.mask = &mask});
            uint64_t base = sim_gpa1_of(0);
            for (unsigned int level = 0; level < 2; level++)
                sim_write64(sim, base + L2_PML4 + level * 0x1000, (L2_PML4 + (level + 1) * 0x1000) | 7);
            sim_write64(sim, base + L2_PML4 + 0x2000, (L2_PML4 + 0x3000) | rows[i].table);
            sim_write64(sim, l2_entry(OPERAND), OPERAND | rows[i].page);
            sim_msr(sim, 0xc0000080)->value |= 0x800; /* NXE */
            sim_write64(sim, ept_entry(OPERAND), 0);
            launch(sim);
            l1_gets(sim, with_memory(sim, NVMX_EXIT_VMWRITE, OPERAND + 0x18), NVMX_EXIT_EPT_VIOLATION);
            uint64_t said = l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION);
            cr_expect_eq(said, 0x181 | (offered ? rows[i].said : 0), "%s, offered %u: %#lx", rows[i].what, offered, said);
            sim_free(sim);
        }
    }
}

/* With #VE the violation may be L2's own; with a page-modification log L1 hears of what was written. */
Test(controls_shadow, operands_know_ve_and_the_log) {
    struct sim *sim = prepared(NULL);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VE | PROC2_PML);
    l1_writes(sim, NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, LOG + 0x1000);
    l1_writes(sim, NVMX_VMCS_EPT_POINTER, SIM_L1_EPT12 | 0x5e);
    l1_writes(sim, NVMX_VMCS_PML_ADDRESS, LOG);
    l1_writes(sim, NVMX_VMCS_PML_INDEX, 511);
    sim_write64(sim, ept_entry(OPERAND), 0);
    launch(sim);
    cr_assert_eq(with_memory(sim, NVMX_EXIT_VMREAD, OPERAND), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000314);
    cr_expect_eq(sim_read64(sim, LOG + 0x1000 + 24), OPERAND);
    carried_out(sim, with_memory(sim, NVMX_EXIT_VMREAD, OPERAND + 0x1000), 0);
    l2_leaves(sim);
    unsigned int index = (unsigned int)l1_reads(sim, NVMX_VMCS_PML_INDEX);
    cr_expect_eq(index, 511 - 5, "four pages of L2's tables, and the operand");
    cr_expect_eq(sim_read64(sim, LOG + (index + 1) * 8), OPERAND + 0x1000);
    sim_free(sim);
}

/* The host asks, and nothing is done. */
Test(controls_shadow, question_changes_nothing) {
    struct sim *sim = prepared(NULL);
    bitmap_bit(sim, WRITES, NVMX_VMCS_GUEST_RIP, true);
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = NVMX_VMCS_GUEST_RIP;
    /* Of an earlier exit: it is the caller who knows the instruction. */
    sim_set(sim, sim->selected, NVMX_F_VM_EXIT_INSTRUCTION_INFORMATION, 0);
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_VMREAD, .instruction_info = REGISTER_OPERANDS};
    cr_expect(!nvmx_l1_intercepts(sim->vcpu, &info));
    info.reason = NVMX_EXIT_VMWRITE;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &info));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000);
    sim_free(sim);
}
