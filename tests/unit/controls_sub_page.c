/* SPDX-License-Identifier: MIT */
/* Sub-page write permissions of L2 (SDM 31.3.4) from L1's controls to vmcs02 and back: the composition itself has tests in ept_sub_page.c. */
#include "machine.h"

#define SPPT     0x40000u /* four pages: levels 4 to 2, vectors */
#define SPPT_B   0x44000u /* another table, without an entry */
#define EPT12_B  0x45000u /* a second PML4: the same PDPT */
#define LIST     0x46000u /* EPTP list */
#define EPTP_A   (SIM_L1_EPT12 | 0x1eu)
#define EPTP_B   (EPT12_B | 0x1eu)
#define GPA2     0x5123u /* in sub-page 2, that can be written to */
#define REFUSED  0x5180u
#define SUB_PAGE (UINT64_C(1) << 61)
#define MISS     0x800u

static struct nvmx_caps machine_with(void) {
    struct nvmx_caps machine;

    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_SPP << 32;
    return machine;
}

static struct sim *with_sub_pages(void) {
    const struct nvmx_caps machine = machine_with();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});

    for (unsigned int level = 0; level < 3; level++)
        sim_write64(sim, SPPT + level * 0x1000, (SPPT + (level + 1) * 0x1000) | 1);
    sim_write64(sim, SPPT + 0x3000 + 5 * 8, 1 << 4);
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, sim_gpa1_of(0x5000) | 0x35 | SUB_PAGE);
    sim_write64(sim, EPT12_B, (SIM_L1_EPT12 + 0x1000) | 7);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_SPP);
    l1_writes(sim, NVMX_VMCS_SPP_TABLE_POINTER, SPPT);
    return sim;
}

static enum nvmx_next exits(struct sim *sim, uint32_t reason, uint64_t gpa2, uint64_t qualification) {
    return sim_exit_info(sim, &(struct nvmx_l2_exit_info){.reason = reason,
                                                          .qualification = qualification,
                                                          .guest_linear_address = 0x7000000 + gpa2,
                                                          .guest_physical_address = gpa2});
}

static enum nvmx_next writes(struct sim *sim, uint64_t gpa2) {
    return exits(sim, NVMX_EXIT_EPT_VIOLATION, gpa2, 0x182);
}

static void stays_in_l2(const struct sim *sim, enum nvmx_next next) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
}

static void l1_gets(struct sim *sim, enum nvmx_next next, uint32_t reason, uint64_t qualification, uint64_t gpa2) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), qualification);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), gpa2);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), 0x7000000 + gpa2);
}

static bool is_on(const struct sim *sim) {
    return (vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_SPP) != 0;
}

Test(controls_sub_page, vmcs02_has_tables_of_the_library) {
    struct sim *sim = with_sub_pages();

    launch(sim);
    cr_expect(is_on(sim));
    cr_expect_neq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER), SPPT, "L1's address is none of the machine's");
    cr_expect_eq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER) & 0xfff, 0);
    stays_in_l2(sim, writes(sim, GPA2));
    l1_gets(sim, writes(sim, REFUSED), NVMX_EXIT_EPT_VIOLATION, 0x1aa, REFUSED);
    resume(sim);
    /* The CPU missed a vector that L1's table has. */
    stays_in_l2(sim, exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS));
    sim_free(sim);
}

Test(controls_sub_page, l1_gets_events_of_its_table) {
    struct sim *sim = with_sub_pages();

    launch(sim);
    sim_write64(sim, SPPT + 0x2000, 0);
    l1_gets(sim, exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS), NVMX_EXIT_SPP_EVENT, MISS, GPA2);
    resume(sim);
    l1_gets(sim, writes(sim, GPA2), NVMX_EXIT_SPP_EVENT, MISS, GPA2);
    resume(sim);
    sim_write64(sim, SPPT + 0x2000, (SPPT + 0x3000) | 3);
    l1_gets(sim, exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS | 0x11000), NVMX_EXIT_SPP_EVENT, 0x11000, GPA2);
    resume(sim);
    const struct nvmx_l2_exit_info delivering = {.reason = NVMX_EXIT_SPP_EVENT,
                                                 .qualification = MISS,
                                                 .guest_linear_address = 0x7000000 + GPA2,
                                                 .guest_physical_address = GPA2,
                                                 .idt_vectoring_info = 0x80000030};
    l1_gets(sim, sim_exit_info(sim, &delivering), NVMX_EXIT_SPP_EVENT, 0, GPA2);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0x80000030);
    sim_free(sim);
}

/* What the exit interrupted goes on, as with a violation. */
Test(controls_sub_page, an_event_that_l1_does_not_see_leaves_no_trace) {
    struct sim *sim = with_sub_pages();

    launch(sim);
    stays_in_l2(sim, exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS | 0x1000));
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE) & 8, 8, "IRET blocked NMIs again");
    const struct nvmx_l2_exit_info delivering = {
        .reason = NVMX_EXIT_SPP_EVENT, .qualification = MISS, .guest_physical_address = GPA2, .idt_vectoring_info = 0x80000030};
    stays_in_l2(sim, sim_exit_info(sim, &delivering));
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000030);
    sim_free(sim);
}

/* The host makes room, as after a violation (nvmx_host_fault_gpa1). */
Test(controls_sub_page, an_event_without_a_page_is_the_hosts) {
    struct sim *sim = with_sub_pages();
    const unsigned int pages = sim->pages_max;

    launch(sim);
    stays_in_l2(sim, writes(sim, GPA2));
    sim_write64(sim, SPPT_B, (SPPT + 0x1000) | 1);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_SPP_TABLE_POINTER, SPPT_B);
    resume(sim);
    sim->pages_max = sim->pages_used;
    cr_expect_eq(exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), NVMX_NO_ADDRESS);
    sim->pages_max = pages;
    cr_expect_eq(sim_enter(sim, NULL), NVMX_ENTER);
    stays_in_l2(sim, exits(sim, NVMX_EXIT_SPP_EVENT, GPA2, MISS));
    sim_free(sim);
}

Test(controls_sub_page, host_refuses_a_write_that_l1_allows) {
    struct sim *sim = with_sub_pages();

    launch(sim);
    sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, SIM_HPA_OFFSET + sim_gpa1_of(0x5000), 12, NVMX_ACCESS_READ | NVMX_ACCESS_EXECUTE, 6);
    nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 0x1000);
    cr_expect_eq(writes(sim, GPA2), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), sim_gpa1_of(0x5000) + 0x123);
    sim_free(sim);
}

/* Whenever the EPTP of vmcs02 changes, the SPPTP goes with it. */
Test(controls_sub_page, both_pointers_change_together) {
    struct sim *sim = with_sub_pages();

    sim_write64(sim, LIST, EPTP_A);
    sim_write64(sim, LIST + 8, EPTP_B);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VM_FUNCTIONS);
    l1_writes(sim, NVMX_VMCS_VM_FUNCTION_CONTROLS, 1);
    l1_writes(sim, NVMX_VMCS_EPTP_LIST_ADDRESS, LIST);
    launch(sim);
    uint64_t eptp = vmcs02(sim, NVMX_F_EPT_POINTER), spptp = vmcs02(sim, NVMX_F_SPP_TABLE_POINTER);

    sim->regs.gpr[NVMX_RAX] = 0;
    sim->regs.gpr[NVMX_RCX] = 1;
    stays_in_l2(sim, sim_exit(sim, NVMX_EXIT_VMFUNC, 0, 0, 3));
    cr_expect_neq(vmcs02(sim, NVMX_F_EPT_POINTER), eptp);
    cr_expect_neq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER), spptp);
    stays_in_l2(sim, writes(sim, GPA2));
    l2_leaves(sim);
    for (unsigned int i = 0; i < 3; i++) { /* an entry for which L1 wrote the EPTP and nothing else */
        l1_writes(sim, NVMX_VMCS_EPT_POINTER, i % 2 == 0 ? EPTP_A : EPTP_B);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER) == eptp, i % 2 == 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER) == spptp, i % 2 == 0);
        stays_in_l2(sim, writes(sim, GPA2));
        l2_leaves(sim);
    }
    l1_writes(sim, NVMX_VMCS_SPP_TABLE_POINTER, SPPT_B);
    l1_writes(sim, NVMX_VMCS_EPT_POINTER, EPTP_A);
    resume(sim);
    cr_expect_neq(vmcs02(sim, NVMX_F_EPT_POINTER), eptp);
    cr_expect_neq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER), spptp);
    l1_gets(sim, writes(sim, GPA2), NVMX_EXIT_SPP_EVENT, MISS, GPA2);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_SPP);
    resume(sim);
    cr_expect(!is_on(sim));
    l1_gets(sim, writes(sim, GPA2), NVMX_EXIT_EPT_VIOLATION, 0x1aa, GPA2);
    sim_free(sim);
}

/* What SPPT02 has for a page below 2 MiB. */
static uint64_t vector02(const struct sim *sim, unsigned int page) {
    uint64_t table = vmcs02(sim, NVMX_F_SPP_TABLE_POINTER);

    for (unsigned int level = 4;; level--) {
        const uint64_t *entry = sim_page(sim, table);
        cr_assert_not_null(entry);
        if (level == 1)
            return entry[page];
        table = entry[0] & ~UINT64_C(0xfff);
    }
}

/* The comparison that follows INVEPT, at an entry that needs nothing else. */
Test(controls_sub_page, invept_reaches_l1s_table) {
    struct sim *sim = with_sub_pages();

    launch(sim);
    stays_in_l2(sim, writes(sim, GPA2));
    l2_leaves(sim);
    resume(sim);
    cr_expect_eq(vector02(sim, 5), 1 << 4);
    l2_leaves(sim);
    sim_write64(sim, SPPT + 0x3000 + 5 * 8, 0);
    nvmx_ept_invept(sim->vcpu->vm->ept, sim->vcpu->ctx, true, 0);
    resume(sim);
    cr_expect_eq(vector02(sim, 5), 0);
    l1_gets(sim, writes(sim, GPA2), NVMX_EXIT_EPT_VIOLATION, 0x1aa, GPA2);
    sim_free(sim);
}

/* An L1 without EPT runs L2 on the host's own tables, with the host's own permissions. */
Test(controls_sub_page, host_keeps_its_own_where_l1_has_no_ept) {
    const struct nvmx_caps machine = machine_with();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});

    host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | PROC2_SPP);
    host_sets(sim, NVMX_F_SPP_TABLE_POINTER, 0x123456000);
    launch(sim);
    cr_expect(!is_on(sim), "ept02 is no table of the host's");
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_EPT);
    resume(sim);
    cr_expect(is_on(sim));
    cr_expect_eq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER), 0x123456000);
    cr_expect_eq(exits(sim, NVMX_EXIT_SPP_EVENT, 0x7123, MISS), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), 0x7123);
    l2_leaves(sim);
    host_sets(sim, NVMX_F_SPP_TABLE_POINTER, 0x123457000);
    host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << 6);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_SPP_TABLE_POINTER), 0x123457000);
    cr_expect(vmcs02(sim, NVMX_F_EXCEPTION_BITMAP) & 1u << 6, "and what else the host changes");
    sim_free(sim);
}

Test(controls_sub_page, offered_where_machine_and_library_compose) {
    const struct nvmx_caps machine = machine_with();
    static const struct {
        bool machine_has, host_composes, offered;
    } rows[] = {{true, false, true}, {true, true, false}, {false, false, false}};

    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = sim_new(&(struct sim_options){.machine = rows[i].machine_has ? &machine : NULL, .host_composes = rows[i].host_composes});

        cr_assert(sim->vcpu != NULL);
        cr_expect_eq((nvmx_caps_may_be_1(&sim->vcpu->vm->caps, NVMX_CAP_PROCBASED2) & PROC2_SPP) != 0, rows[i].offered, "row %zu", i);
        sim_free(sim);
    }
}
