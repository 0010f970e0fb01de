/* SPDX-License-Identifier: MIT */
/*
 * Controls that the library carries out in hardware's place, or that it composes with the host's: VM functions, page-modification logging, #VE,
 * TSC scaling, ENCLS.
 */
#include "ept/ept.h"
#include "machine.h"

#define LIST    0x30000u /* EPTP list */
#define LOG     0x31000u /* page-modification log */
#define AREA    0x32000u /* virtualization-exception information */
#define EPT12_B 0x40000u /* a second PML4: the same PDPT */
#define EPTP_A  (SIM_L1_EPT12 | 0x1eu)
#define EPTP_B  (EPT12_B | 0x1eu)
#define AD      0x40u

#define Q_READ       1u
#define Q_WRITE      2u
#define Q_LINEAR     0x180u
#define UNBLOCKING   0x1000u
#define ASYNCHRONOUS 0x10000u

static uint64_t pte_at(uint64_t gpa2) {
    return SIM_L1_EPT12 + 0x3000 + (gpa2 >> 12) * 8;
}

static enum nvmx_next violation(struct sim *sim, uint64_t gpa2, uint64_t qualification) {
    return sim_exit_info(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION,
                                                          .qualification = qualification | Q_LINEAR,
                                                          .guest_linear_address = 0x7000000 + gpa2,
                                                          .guest_physical_address = gpa2});
}

/* L2 goes on: the library dealt with the exit. */
static void stays_in_l2(const struct sim *sim, enum nvmx_next next) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
}

static void l1_gets(struct sim *sim, enum nvmx_next next, uint32_t reason) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_assert_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason);
}

/* -- VM functions ------------------------------------------------------------------------------------------------------------------ */

static struct sim *with_vm_functions(uint32_t more_secondary) {
    struct sim *sim = l1_ready(NULL);
    sim_write64(sim, EPT12_B, (SIM_L1_EPT12 + 0x1000) | 7);
    sim_write64(sim, LIST + 5 * 8, EPTP_B);
    sim_write64(sim, LIST + 511 * 8, EPTP_A);
    sim_write64(sim, LIST + 1 * 8, (EPTP_B & ~0x38u) | 4u << 3); /* five levels */
    sim_write64(sim, LIST + 2 * 8, (EPTP_B & ~7u) | 4);                /* memory type */
    sim_write64(sim, LIST + 3 * 8, EPTP_B | (UINT64_C(1) << 40));      /* beyond MAXPHYADDR */
    sim_write64(sim, LIST + 4 * 8, EPTP_B | 0x100);                    /* reserved */
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VM_FUNCTIONS | more_secondary);
    l1_writes(sim, NVMX_VMCS_VM_FUNCTION_CONTROLS, 1);
    l1_writes(sim, NVMX_VMCS_EPTP_LIST_ADDRESS, LIST);
    return sim;
}

static enum nvmx_next vmfunc(struct sim *sim, uint32_t function, uint64_t index) {
    sim->regs.gpr[NVMX_RAX] = UINT64_C(0xffffffff00000000) | function; /* EAX and ECX count */
    sim->regs.gpr[NVMX_RCX] = index;
    return sim_exit(sim, NVMX_EXIT_VMFUNC, 0, 0, 3);
}

Test(controls, eptp_switching_is_carried_out_without_l1) {
    struct sim *sim = with_vm_functions(PROC2_VE);
    l1_writes(sim, NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, AREA);
    l1_writes(sim, NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, 1);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x202);
    launch(sim);
    uint64_t root = vmcs02(sim, NVMX_F_EPT_POINTER);
    cr_expect((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 13) & 1);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_FUNCTION_CONTROLS), 0, "hardware must not read L1's list");

    stays_in_l2(sim, vmfunc(sim, 0, UINT64_C(0x700000000) | 5));
    cr_expect_neq(vmcs02(sim, NVMX_F_EPT_POINTER), root);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1003);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_INTERRUPTIBILITY_STATE), 0, "blocking by STI ends");
    stays_in_l2(sim, violation(sim, 0x5000, Q_READ)); /* mapped in the new root */
    stays_in_l2(sim, vmfunc(sim, 0, 511));
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), root, "the first EPTP's root was kept");
    stays_in_l2(sim, vmfunc(sim, 0, 5));
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EPT_POINTER), EPTP_B, "VMFUNC loads the EPTP field");
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EPTP_INDEX), 5);
    resume(sim);
    cr_expect_neq(vmcs02(sim, NVMX_F_EPT_POINTER), root, "and the next entry keeps it");
    sim_free(sim);
}

/* SDM 28.5.2: the exit by the monitor trap flag comes before L2's next instruction, also where hardware saw none end. */
Test(controls, eptp_switching_ends_a_step_of_the_monitor_trap_flag) {
    for (unsigned int traps = 0; traps < 2; traps++) {
        struct sim *sim = with_vm_functions(0);
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, traps ? PROC_MONITOR_TRAP : 0);
        launch(sim);
        stays_in_l2(sim, vmfunc(sim, 0, 5));
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), traps ? 0x80000700 : 0);
        cr_expect_eq(nvmx_enter(sim->vcpu, NULL), NVMX_ENTER);
        if (traps) {
            l1_gets(sim, sim_exit(sim, NVMX_EXIT_MONITOR_TRAP_FLAG, 0, 0, 0), NVMX_EXIT_MONITOR_TRAP_FLAG);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1003);
            resume(sim);
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0, "it came once");
        }
        sim_free(sim);
    }
}

Test(controls, eptp_switching_that_can_not_be_exits) {
    static const struct {
        const char *what;
        uint32_t function;
        uint64_t index;
    } rows[] = {{"walk length", 0, 1}, {"memory type", 0, 2}, {"width", 0, 3},        {"reserved", 0, 4},
                {"index", 0, 512},     {"index, far", 0, 0x80000005}, {"function", 1, 5}, {"function 63", 63, 5}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = with_vm_functions(0);
        launch(sim);
        uint64_t root = vmcs02(sim, NVMX_F_EPT_POINTER);
        enum nvmx_next next = vmfunc(sim, rows[i].function, rows[i].index);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "%s", rows[i].what);
        l1_gets(sim, next, NVMX_EXIT_VMFUNC);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 3, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000, "%s", rows[i].what);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EPT_POINTER), EPTP_A, "%s", rows[i].what);
        resume(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), root, "%s", rows[i].what);
        sim_free(sim);
    }
}

Test(controls, vm_functions_follow_vmcs12) {
    struct sim *sim = with_vm_functions(0);
    l1_writes(sim, NVMX_VMCS_VM_FUNCTION_CONTROLS, 0);
    launch(sim);
    l1_gets(sim, vmfunc(sim, 0, 5), NVMX_EXIT_VMFUNC);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VM_FUNCTIONS);
    resume(sim);
    cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 13) & 1, 0, "VMFUNC is #UD by hardware");
    sim_free(sim);
}

/* L1 made a list where no memory is: its entries can't be read. */
Test(controls, eptp_list_without_memory_exits) {
    struct sim *sim = with_vm_functions(0);
    l1_writes(sim, NVMX_VMCS_EPTP_LIST_ADDRESS, 0x20000000);
    launch(sim);
    l1_gets(sim, vmfunc(sim, 0, 5), NVMX_EXIT_VMFUNC);
    sim_free(sim);
}

/* While another processor is in the middle of an operation on ept02: what is unlinked can't be freed. */
static enum nvmx_next vmfunc_beside_another(struct sim *sim, uint64_t index) {
    struct ept_op another;

    ept_begin(&another, sim->vm->ept, sim, NULL);
    enum nvmx_next next = vmfunc(sim, 0, index);
    ept_end(&another);
    return next;
}

/* No room for the new root: where another processor only holds it for a moment L2 tries again, else L1 hears of it. */
Test(controls, eptp_switching_waits_for_room) {
    struct sim *sim = with_vm_functions(0);
    launch(sim);
    uint64_t root = vmcs02(sim, NVMX_F_EPT_POINTER);
    sim->vm->ept->page_budget = nvmx_ept_pages(sim->vm->ept);
    l1_gets(sim, vmfunc(sim, 0, 5), NVMX_EXIT_VMFUNC);
    sim->vm->ept->page_budget = 0;
    resume(sim);
    stays_in_l2(sim, violation(sim, 0x5000, Q_READ)); /* tables that can be given up, but not freed at once */
    sim->vm->ept->page_budget = nvmx_ept_pages(sim->vm->ept);
    stays_in_l2(sim, vmfunc_beside_another(sim, 5));
    cr_expect_eq(vmcs02(sim, NVMX_F_EPT_POINTER), root);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RFLAGS) & RFLAGS_RF, RFLAGS_RF, "a breakpoint on it is not met twice");
    stays_in_l2(sim, vmfunc(sim, 0, 5));
    cr_expect_neq(vmcs02(sim, NVMX_F_EPT_POINTER), root);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1003);
    sim_free(sim);
}

/* Without VPIDs the switch drops what L2 has in the TLB under VPID 0. */
Test(controls, eptp_switching_without_vpid_flushes) {
    for (unsigned int vpid = 0; vpid < 2; vpid++) {
        struct sim *sim = with_vm_functions(0);
        if (vpid == 0)
            l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VPID);
        launch(sim);
        uint64_t before = sim->count[SIM_TLB_FLUSH];
        stays_in_l2(sim, vmfunc(sim, 0, 5));
        cr_expect_eq(sim->count[SIM_TLB_FLUSH] - before, vpid == 0 ? 1 : 0);
        sim_free(sim);
    }
}

/* -- page-modification logging ------------------------------------------------------------------------------------------------------ */

static struct sim *with_log(uint16_t index) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_PML);
    l1_writes(sim, NVMX_VMCS_EPT_POINTER, EPTP_A | AD);
    l1_writes(sim, NVMX_VMCS_PML_ADDRESS, LOG);
    l1_writes(sim, NVMX_VMCS_PML_INDEX, index);
    launch(sim);
    return sim;
}

Test(controls, pml_logs_what_becomes_dirty) {
    struct sim *sim = with_log(511);
    cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 17) & 1, 0, "hardware would log ept02's flags");
    stays_in_l2(sim, violation(sim, 0x5123, Q_READ));
    cr_expect_eq(sim_read64(sim, pte_at(0x5000)) & 0x300, 0x100);
    cr_expect_eq(sim_read64(sim, LOG + 511 * 8), 0, "a read is not logged");
    stays_in_l2(sim, violation(sim, 0x5123, Q_WRITE));
    cr_expect_eq(sim_read64(sim, pte_at(0x5000)) & 0x300, 0x300);
    cr_expect_eq(sim_read64(sim, LOG + 511 * 8), 0x5000);
    stays_in_l2(sim, violation(sim, 0x5fff, Q_WRITE));
    cr_expect_eq(sim_read64(sim, LOG + 510 * 8), 0, "it was dirty already");
    stays_in_l2(sim, violation(sim, 0x6000, Q_READ | Q_WRITE));
    cr_expect_eq(sim_read64(sim, LOG + 510 * 8), 0x6000);
    stays_in_l2(sim, violation(sim, 0x2abcd8, Q_WRITE)); /* a page of 2 MiB */
    cr_expect_eq(sim_read64(sim, LOG + 509 * 8), 0x2ab000);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_PML_INDEX), 508);
    sim_free(sim);
}

Test(controls, pml_that_is_full_exits_before_a_flag_is_set) {
    static const struct {
        uint16_t index;
        uint64_t access;
        uint64_t flags; /* of the entry before */
        bool full;
    } rows[] = {{0xffff, Q_WRITE, 0, true},      {0xffff, Q_READ, 0, true},       {512, Q_WRITE, 0x100, true},
                {0xffff, Q_WRITE, 0x300, false}, {0xffff, Q_READ, 0x100, false},  {0, Q_WRITE, 0, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = with_log(rows[i].index);
        for (uint64_t table = 0; table < 3; table++) { /* accessed, so that only the leaf is in question */
            uint64_t at = SIM_L1_EPT12 + table * 0x1000;
            sim_write64(sim, at, sim_read64(sim, at) | 0x100);
        }
        sim_write64(sim, pte_at(0x5000), sim_read64(sim, pte_at(0x5000)) | rows[i].flags);
        enum nvmx_next next = violation(sim, 0x5678, rows[i].access | UNBLOCKING);
        if (rows[i].full) {
            l1_gets(sim, next, NVMX_EXIT_PML_FULL);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), UNBLOCKING, "row %zu", i);
            cr_expect_eq(sim_read64(sim, pte_at(0x5000)) & 0x300, rows[i].flags, "row %zu", i);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_PML_INDEX), rows[i].index, "row %zu", i);
        } else {
            stays_in_l2(sim, next);
            l2_leaves(sim);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_PML_INDEX), rows[i].index == 0 ? 0xffff : rows[i].index, "row %zu", i);
        }
        sim_free(sim);
    }
}

Test(controls, pml_goes_on_after_l1_emptied_the_log) {
    struct sim *sim = with_log(0);
    stays_in_l2(sim, violation(sim, 0x5000, Q_WRITE));
    cr_expect_eq(sim_read64(sim, LOG), 0x5000);
    l1_gets(sim, violation(sim, 0x6000, Q_WRITE), NVMX_EXIT_PML_FULL);
    l1_writes(sim, NVMX_VMCS_PML_INDEX, 511);
    resume(sim);
    stays_in_l2(sim, violation(sim, 0x6000, Q_WRITE));
    cr_expect_eq(sim_read64(sim, LOG + 511 * 8), 0x6000);
    sim_free(sim);
}

/* Without the control nothing is written, whatever the fields hold. */
Test(controls, pml_is_off_without_its_control) {
    struct sim *sim = with_log(511);
    l2_leaves(sim);
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_PML);
    resume(sim);
    stays_in_l2(sim, violation(sim, 0x5000, Q_WRITE));
    cr_expect_eq(sim_read64(sim, LOG + 511 * 8), 0);
    sim_free(sim);
}

/* -- EPT-violation #VE --------------------------------------------------------------------------------------------------------------- */

#define VE_EVENT 0x80000314u

/* gpa2 9000H is not present, A000H not writable; both convertible unless bit 63 is set. */
static struct sim *with_ve(void) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VE);
    l1_writes(sim, NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, AREA);
    l1_writes(sim, NVMX_VMCS_EPTP_INDEX, 0x1234);
    sim_write64(sim, pte_at(0x9000), 0xffff00ffffff000);
    sim_write64(sim, pte_at(0xa000), sim_gpa1_of(0xa000) | 0x35);
    return sim;
}

Test(controls, convertible_violation_becomes_exception_20) {
    static const struct {
        uint64_t gpa2, access, qualification;
    } rows[] = {{0x9010, Q_READ, 0x181}, {0xa020, Q_WRITE, 0x1aa}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = with_ve();
        launch(sim);
        cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) >> 18) & 1, 0, "hardware would convert ept02's violations");
        stays_in_l2(sim, violation(sim, rows[i].gpa2, rows[i].access));
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), VE_EVENT);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000);
        cr_expect_eq(sim_read32(sim, AREA), 48);
        cr_expect_eq(sim_read32(sim, AREA + 4), 0xffffffff);
        cr_expect_eq(sim_read64(sim, AREA + 8), rows[i].qualification);
        cr_expect_eq(sim_read64(sim, AREA + 16), 0x7000000 + rows[i].gpa2);
        cr_expect_eq(sim_read64(sim, AREA + 24), rows[i].gpa2);
        cr_expect_eq(sim_read64(sim, AREA + 32), 0x1234);
        /* The area is busy until L2 clears it. */
        l1_gets(sim, violation(sim, rows[i].gpa2, rows[i].access), NVMX_EXIT_EPT_VIOLATION);
        sim_write32(sim, AREA + 4, 0);
        resume(sim);
        stays_in_l2(sim, violation(sim, rows[i].gpa2, rows[i].access));
        sim_free(sim);
    }
}

static void suppress_both(struct sim *sim) {
    sim_write64(sim, pte_at(0x9000), UINT64_C(1) << 63);
    sim_write64(sim, pte_at(0xa000), sim_read64(sim, pte_at(0xa000)) | UINT64_C(1) << 63);
}

/* Not present at a higher level: that entry decides. */
static void suppress_pdpt(struct sim *sim) {
    sim_write64(sim, SIM_L1_EPT12 + 0x1000, UINT64_C(1) << 63);
}

static void area_busy(struct sim *sim) {
    sim_write32(sim, AREA + 4, 1);
}

static void real_mode(struct sim *sim) {
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
    cr_assert((caps->msr[NVMX_CAP_PROCBASED2] >> 39 & 1) != 0, "L1 has unrestricted guests");
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_UNRESTRICTED);
    l1_clears(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, ENTRY_IA32E);
    l1_writes(sim, NVMX_VMCS_GUEST_CR0, 0x30);
    l1_writes(sim, NVMX_VMCS_GUEST_EFER, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS, 0x9b);
    l1_writes(sim, NVMX_VMCS_GUEST_CS_LIMIT, 0xffff);
}

static void no_area(struct sim *sim) {
    l1_writes(sim, NVMX_VMCS_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0x20000000);
}

static void control_off(struct sim *sim) {
    l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_VE);
}

Test(controls, violation_that_is_not_converted_exits) {
    static const struct {
        const char *what;
        void (*prepare)(struct sim *sim);
        uint64_t gpa2;
        uint64_t more;
        uint32_t vectoring;
    } rows[] = {
        {"suppressed, not present", suppress_both, 0x9000, 0, 0},
        {"suppressed, not writable", suppress_both, 0xa000, 0, 0},
        {"suppressed in the PDPT", suppress_pdpt, 0x9000, 0, 0},
        {"area busy", area_busy, 0x9000, 0, 0},
        {"no area", no_area, 0x9000, 0, 0},
        {"control off", control_off, 0x9000, 0, 0},
        {"event in flight", NULL, 0x9000, 0, 0x80000021},
        {"asynchronous", NULL, 0x9000, ASYNCHRONOUS, 0},
        {"beyond the walk", NULL, UINT64_C(1) << 48, 0, 0},
        {"real mode", real_mode, 0x9000, 0, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = with_ve();
        if (rows[i].prepare != NULL)
            rows[i].prepare(sim);
        launch(sim);
        enum nvmx_next next = sim_exit_info(
            sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION,
                                             .qualification = Q_WRITE | Q_LINEAR | rows[i].more,
                                             .idt_vectoring_info = rows[i].vectoring,
                                             .guest_physical_address = rows[i].gpa2});
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT, "%s", rows[i].what);
        l1_gets(sim, next, NVMX_EXIT_EPT_VIOLATION);
        cr_expect_eq(sim_read32(sim, AREA), 0, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* Bit 63 of a present entry that refers to a table means nothing. */
Test(controls, suppress_bit_of_a_reference_is_ignored) {
    struct sim *sim = with_ve();
    for (uint64_t table = 0; table < 3; table++) {
        uint64_t at = SIM_L1_EPT12 + table * 0x1000;
        sim_write64(sim, at, sim_read64(sim, at) | UINT64_C(1) << 63);
    }
    launch(sim);
    stays_in_l2(sim, violation(sim, 0x9000, Q_READ));
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), VE_EVENT);
    sim_free(sim);
}

Test(controls, misconfiguration_is_never_converted) {
    struct sim *sim = with_ve();
    sim_write64(sim, pte_at(0x9000), sim_gpa1_of(0x9000) | 0x32);
    launch(sim);
    l1_gets(sim, violation(sim, 0x9000, Q_READ), NVMX_EXIT_EPT_MISCONFIGURATION);
    sim_free(sim);
}

Test(controls, intercepted_ve_exits_after_the_area_is_filled) {
    struct sim *sim = with_ve();
    l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 20);
    launch(sim);
    l1_gets(sim, violation(sim, 0x9000, Q_READ | UNBLOCKING), NVMX_EXIT_EXCEPTION_OR_NMI);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), VE_EVENT | UNBLOCKING);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0);
    cr_expect_eq(sim_read32(sim, AREA), 48);
    sim_free(sim);
}

/* What ept01 lacks is the host's business, not L2's. */
Test(controls, violation_of_ept01_is_not_converted) {
    struct sim *sim = with_ve();
    sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
    launch(sim);
    cr_expect_eq(violation(sim, 0x5000, Q_READ), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), sim_gpa1_of(0x5000));
    cr_expect_eq(sim_read32(sim, AREA), 0);
    sim_free(sim);
}

/* -- TSC ------------------------------------------------------------------------------------------------------------------------------ */

#define ONE (UINT64_C(1) << 48)

Test(controls, tsc_scaling_and_offsets_are_composed) {
    static const struct {
        const char *what;
        bool host_offsets, host_scales, l1_offsets, l1_scales;
        uint64_t host_multiplier, host_offset, l1_multiplier, l1_offset;
        uint64_t multiplier, offset;
    } rows[] = {
        {"nobody", false, false, false, false, 5, 6, 7, 8, ONE, 0},
        {"offsets", true, false, true, false, 5, 1000, 7, (uint64_t)-300, ONE, 700},
        {"L1 scales", false, false, true, true, 5, 6, ONE * 3, 11, ONE * 3, 11},
        {"host scales", true, true, false, false, ONE / 2, 40, 7, 8, ONE / 2, 40},
        {"both", true, true, true, true, ONE / 2, 1000, ONE * 3, 11, ONE * 3 / 2, 3011},
        {"host's offset negative", true, false, true, true, 5, (uint64_t)-1000, ONE * 3 / 2, 11, ONE * 3 / 2, (uint64_t)-1489},
        {"L1's scaling without offsetting", true, true, false, true, ONE * 2, 40, ONE * 3, 8, ONE * 2, 40},
        {"host's scaling without offsetting", false, true, true, true, ONE * 2, 40, ONE * 3, 8, ONE * 3, 8},
        {"too fast", true, true, true, true, UINT64_C(1) << 63, 0, ONE * 2, 0, UINT64_MAX, 0},
        {"fastest that fits", true, true, true, true, UINT64_C(1) << 62, 0, ONE * 2, 0, UINT64_C(1) << 63, 0},
        {"too slow", true, true, true, true, 1, 0, 1, 0, 1, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        uint64_t primary = vmcs01(sim, NVMX_F_PRIMARY_CONTROLS), secondary = vmcs01(sim, NVMX_F_SECONDARY_CONTROLS);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, primary | (rows[i].host_offsets ? PROC_TSC_OFFSETTING : 0));
        host_sets(sim, NVMX_F_SECONDARY_CONTROLS, secondary | (rows[i].host_scales ? PROC2_TSC_SCALING : 0));
        host_sets(sim, NVMX_F_TSC_OFFSET, rows[i].host_offset);
        host_sets(sim, NVMX_F_TSC_MULTIPLIER, rows[i].host_multiplier);
        if (rows[i].l1_offsets)
            l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TSC_OFFSETTING);
        if (rows[i].l1_scales)
            l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_TSC_SCALING);
        l1_writes(sim, NVMX_VMCS_TSC_OFFSET, rows[i].l1_offset);
        l1_writes(sim, NVMX_VMCS_TSC_MULTIPLIER, rows[i].l1_multiplier);
        launch(sim);
        bool offsets = rows[i].host_offsets || rows[i].l1_offsets, scales = rows[i].host_scales || rows[i].l1_scales;
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TSC_OFFSETTING) != 0, offsets, "%s", rows[i].what);
        cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_TSC_SCALING) != 0, scales, "%s", rows[i].what);
        cr_expect_eq(vmcs02(sim, NVMX_F_TSC_MULTIPLIER), rows[i].multiplier, "%s: %#lx", rows[i].what,
                     vmcs02(sim, NVMX_F_TSC_MULTIPLIER));
        cr_expect_eq(vmcs02(sim, NVMX_F_TSC_OFFSET), rows[i].offset, "%s: %ld", rows[i].what,
                     (long)vmcs02(sim, NVMX_F_TSC_OFFSET));
        sim_free(sim);
    }
}

/* -- ENCLS ----------------------------------------------------------------------------------------------------------------------------- */

Test(controls, encls_bitmaps_are_united_and_split) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_ENCLS << 32;
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    host_sets(sim, NVMX_F_SECONDARY_CONTROLS, vmcs01(sim, NVMX_F_SECONDARY_CONTROLS) | PROC2_ENCLS);
    host_sets(sim, NVMX_F_ENCLS_EXITING_BITMAP, 2);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_ENCLS_EXITING_BITMAP), 2);
    sim->regs.gpr[NVMX_RAX] = 1;
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_ENCLS, 0, 0, 3), NVMX_HOST);
    l2_leaves(sim);

    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_ENCLS);
    l1_writes(sim, NVMX_VMCS_ENCLS_EXITING_BITMAP, (UINT64_C(1) << 63) | 4);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_ENCLS_EXITING_BITMAP), (UINT64_C(1) << 63) | 6);
    cr_expect((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_ENCLS) != 0);
    static const struct {
        uint32_t leaf;
        bool l1;
    } rows[] = {{1, false}, {2, true}, {63, true}, {64, true}, {0xffffffff, true}, {62, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        sim->regs.gpr[NVMX_RAX] = rows[i].leaf;
        enum nvmx_next next = sim_exit(sim, NVMX_EXIT_ENCLS, 0, 0, 3);
        if (rows[i].l1) {
            l1_gets(sim, next, NVMX_EXIT_ENCLS);
            resume(sim);
        } else {
            cr_expect_eq(next, NVMX_HOST, "leaf %u", rows[i].leaf);
        }
    }
    sim_free(sim);
}

/* -- LOADIWKEY ------------------------------------------------------------------------------------------------ */

static struct nvmx_caps tertiary_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_PROCBASED3] = 0x93;
    return machine;
}

Test(controls, loadiwkey_exits_to_whoever_asked) {
    struct nvmx_caps machine = tertiary_machine();
    for (unsigned int who = 0; who < 4; who++) {
        bool l1 = (who & 1) != 0, host = (who & 2) != 0;
        struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
        cr_expect_eq(nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_PROCBASED3], 1 | PROC3_SPEC_CTRL, "of 0x93");
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | PROC_TERTIARY);
        host_sets(sim, NVMX_F_TERTIARY_CONTROLS, 0x92 | (host ? 1 : 0));
        l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TERTIARY);
        l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, l1 ? 1 : 0);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) >> 17 & 1, l1 || host);
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), l1 || host);
        enum nvmx_next next = sim_exit(sim, NVMX_EXIT_LOADIWKEY, 0, 0, 4);
        if (l1)
            l1_gets(sim, next, NVMX_EXIT_LOADIWKEY);
        else
            cr_expect_eq(next, NVMX_HOST);
        sim_free(sim);
    }
}

/* A host that has no tertiary controls on itself: vmcs02 has them on for L1's sake. */
Test(controls, loadiwkey_exits_to_l1_where_the_host_has_no_tertiary_controls) {
    struct nvmx_caps machine = tertiary_machine();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    cr_assert_eq(vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TERTIARY, 0);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TERTIARY);
    l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, 1);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) >> 17 & 1, 1);
    cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), 1);
    l1_gets(sim, sim_exit(sim, NVMX_EXIT_LOADIWKEY, 0, 0, 4), NVMX_EXIT_LOADIWKEY);
    sim_free(sim);
}

/* vmcs12 asks for it, but does not activate tertiary controls. */
Test(controls, tertiary_controls_count_only_if_active) {
    struct nvmx_caps machine = tertiary_machine();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, 1);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) >> 17 & 1, 0);
    cr_expect_eq(sim_exit(sim, NVMX_EXIT_LOADIWKEY, 0, 0, 4), NVMX_HOST);
    sim_free(sim);
}

/* -- IA32_SPEC_CTRL that the host protects ------------------------------------------------------------------------------------------------- */

#define SPEC_CTRL_READ_WORD  1u
#define SPEC_CTRL_WRITE_WORD 257u
#define SPEC_CTRL_BIT        (UINT64_C(1) << 8)

Test(controls, protected_spec_ctrl_is_the_hosts_in_l2) {
    struct nvmx_caps machine = tertiary_machine();
    for (unsigned int protects = 0; protects < 2; protects++) {
        struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
        host_gives_bitmaps(sim);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | PROC_TERTIARY);
        host_sets(sim, NVMX_F_TERTIARY_CONTROLS, protects ? PROC3_SPEC_CTRL : 0);
        for (unsigned int i = 0; i < NVMX_PAGE_SIZE; i++)
            sim->host_msr_bitmap[i] = 0;
        launch(sim);
        const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
        for (unsigned int write = 0; write < 2; write++) {
            uint32_t reason = write ? NVMX_EXIT_WRMSR : NVMX_EXIT_RDMSR;
            unsigned int word = write ? SPEC_CTRL_WRITE_WORD : SPEC_CTRL_READ_WORD;
            sim->regs.gpr[NVMX_RCX] = 0x49; /* a neighbour makes the word hot */
            cr_expect_eq(sim_exit(sim, reason, 0, 0, 2), NVMX_ENTER);
            cr_expect_eq((page[word] & SPEC_CTRL_BIT) != 0, protects);
            sim->regs.gpr[NVMX_RCX] = 0x48;
            cr_expect_eq(sim_exit(sim, reason, 0, 0, 2), protects ? NVMX_HOST : NVMX_ENTER);
            cr_expect_eq((page[word] & SPEC_CTRL_BIT) != 0, protects);
            cr_expect_eq(page[word] & ~SPEC_CTRL_BIT, 0);
        }
        l2_leaves(sim);
        resume(sim);
        cr_expect_eq((page[SPEC_CTRL_READ_WORD] & SPEC_CTRL_BIT) != 0, protects);
        sim_free(sim);
    }
}

/* "APIC-timer virtualization" of vmcs01: its bitmap lets L1's virtual timer through, which of L2 would be the processor's. */
Test(controls, tsc_deadline_that_vmcs01_virtualizes_is_the_hosts_in_l2) {
    const struct nvmx_caps machine = tertiary_machine();
    for (unsigned int virtualizes = 0; virtualizes < 2; virtualizes++) {
        struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
        host_gives_bitmaps(sim);
        host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) | PROC_TERTIARY);
        host_sets(sim, NVMX_F_TERTIARY_CONTROLS, virtualizes ? PROC3_APIC_TIMER : 0);
        for (unsigned int i = 0; i < NVMX_PAGE_SIZE; i++)
            sim->host_msr_bitmap[i] = 0;
        launch(sim);
        const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
        for (unsigned int i = 0; i < 4; i++) {
            sim->regs.gpr[NVMX_RCX] = i < 2 ? 0x6e0 : 0x6e1;
            enum nvmx_next next = sim_exit(sim, i % 2 ? NVMX_EXIT_WRMSR : NVMX_EXIT_RDMSR, 0, 0, 2);
            cr_expect_eq(next, virtualizes && i < 2 ? NVMX_HOST : NVMX_ENTER);
        }
        l2_leaves(sim);
        resume(sim);
        cr_expect_eq(page[0x6e0 / 64], virtualizes ? UINT64_C(1) << 32 : 0);
        cr_expect_eq(page[256 + 0x6e0 / 64], virtualizes ? UINT64_C(1) << 32 : 0);
        sim_free(sim);
    }
}

/*
 * nvmx.h, nvmx_cr_allowed: what the host has to carry out of a MOV to CR0 or CR4 of L2 it finds in vmcs02, whatever L1 masks besides: never one of L1's
 * bits, and something at all.
 */
Test(controls, a_mov_to_cr_that_is_the_hosts_changes_none_of_l1s_bits) {
    static const uint64_t bits[2] = {0x4003e, 0xc}; /* MP EM TS ET NE AM; TSD DE */
    uint64_t random = 1;
    unsigned int hosts = 0;
    struct sim *sim = l1_ready(NULL);
    host_sets(sim, NVMX_F_CR0_GUEST_HOST_MASK, vmcs01(sim, NVMX_F_CR0_GUEST_HOST_MASK) | 0x4000e);
    host_sets(sim, NVMX_F_CR4_GUEST_HOST_MASK, vmcs01(sim, NVMX_F_CR4_GUEST_HOST_MASK) | 0xc);
    for (unsigned int i = 0; i < 2000; i++) {
        const bool cr4 = i % 2 != 0;
        const enum nvmx_field mask = cr4 ? NVMX_F_CR4_GUEST_HOST_MASK : NVMX_F_CR0_GUEST_HOST_MASK;
        const enum nvmx_field shadow = cr4 ? NVMX_F_CR4_READ_SHADOW : NVMX_F_CR0_READ_SHADOW;
        uint64_t r[4];
        for (unsigned int k = 0; k < 4; k++)
            r[k] = (random = random * UINT64_C(6364136223846793005) + 1442695040888963407) >> 33 & bits[cr4];
        l1_writes(sim, cr4 ? NVMX_VMCS_CR4_GUEST_HOST_MASK : NVMX_VMCS_CR0_GUEST_HOST_MASK, r[0]);
        l1_writes(sim, cr4 ? NVMX_VMCS_CR4_READ_SHADOW : NVMX_VMCS_CR0_READ_SHADOW, r[1]);
        l1_writes(sim, cr4 ? NVMX_VMCS_GUEST_CR4 : NVMX_VMCS_GUEST_CR0,
                  l1_reads(sim, cr4 ? NVMX_VMCS_GUEST_CR4 : NVMX_VMCS_GUEST_CR0) & ~(bits[cr4] & ~UINT64_C(0x30)));
        enters(sim, i == 0 ? sim_vmlaunch(sim) : sim_vmresume(sim));
        const uint64_t masked = vmcs02(sim, mask), reads = vmcs02(sim, shadow);
        sim->regs.gpr[NVMX_RAX] = (reads & masked & ~bits[cr4]) | r[2];
        const uint64_t changed = (sim->regs.gpr[NVMX_RAX] ^ reads) & masked;
        if (changed != 0 && sim_exit(sim, NVMX_EXIT_CONTROL_REGISTER, cr4 ? 4 : 0, 0, 3) == NVMX_HOST) {
            cr_expect_eq(changed & r[0], 0, "round %u: bits %#lx are L1's", i, changed & r[0]);
            hosts++;
        }
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
            l2_leaves(sim);
    }
    cr_expect(hosts > 100, "%u", hosts);
    sim_free(sim);
}

/* -- CR0 and CR4 as L2 reads them, where the host carries out its MOV ---------------------------------------------------------------------- */

#define CR4_PGE (UINT64_C(1) << 7)

/*
 * Bits that the host alone masks: L2's MOV exits to it, and it writes register and read shadow, as any hypervisor does. When L1 then gives L2 what it had at
 * the entry before, L2 reads that (SDM 27.6.6).
 */
Test(controls, l2_reads_what_l1_gave_it_after_the_host_wrote_a_read_shadow) {
    static const struct {
        enum nvmx_field mask, cr, shadow;
        uint32_t encoding;
        uint64_t bit, qualification;
    } rows[] = {
        {NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_GUEST_CR0, NVMX_F_CR0_READ_SHADOW, NVMX_VMCS_GUEST_CR0, CR0_AM, 0x000},
        {NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_GUEST_CR4, NVMX_F_CR4_READ_SHADOW, NVMX_VMCS_GUEST_CR4, CR4_PGE, 0x004},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l1_ready(NULL);
        host_sets(sim, rows[i].mask, vmcs01(sim, rows[i].mask) | rows[i].bit);
        l1_clears(sim, rows[i].encoding, rows[i].bit);
        launch(sim);
        cr_expect_eq(vmcs02(sim, rows[i].mask) & rows[i].bit, rows[i].bit);
        const uint64_t mask = vmcs02(sim, rows[i].mask);
        sim->regs.gpr[NVMX_RAX] = (vmcs02(sim, rows[i].cr) & ~mask) | (vmcs02(sim, rows[i].shadow) & mask) | rows[i].bit;
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_CONTROL_REGISTER, rows[i].qualification, 0, 3), NVMX_HOST);
        sim_set(sim, sim->selected, rows[i].cr, vmcs02(sim, rows[i].cr) | rows[i].bit);
        sim_set(sim, sim->selected, rows[i].shadow, vmcs02(sim, rows[i].shadow) | rows[i].bit);
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, rows[i].encoding) & rows[i].bit, rows[i].bit);
        l1_clears(sim, rows[i].encoding, rows[i].bit);
        resume(sim);
        cr_expect_eq(vmcs02(sim, rows[i].cr) & rows[i].bit, 0);
        cr_expect_eq(vmcs02(sim, rows[i].shadow) & rows[i].bit, 0, "row %zu: L2 reads the bit that L1 cleared", i);
        sim_free(sim);
    }
}
