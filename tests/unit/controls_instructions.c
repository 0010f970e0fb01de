/* SPDX-License-Identifier: MIT */
/*
 * Controls about single instructions that few processors have: PCONFIG, ENCLV, the MSR-list instructions, PBNDKB, IA32_SPEC_CTRL, and the time that an
 * instruction may take; bus locks.
 */
#include <nvmx/state.h>
#include <stdlib.h>

#include "machine.h"

#define PROC2_ALL (PROC2_PCONFIG | PROC2_ENCLV | PROC2_BUS_LOCK | PROC2_TIMEOUT)
#define PROC3_ALL (PROC3_MSR_LIST | PROC3_SPEC_CTRL | PROC3_PBNDKB)
#define GP_0      0x80000b0du

static struct nvmx_caps rich_machine(void) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    for (unsigned int i = 0; i < 2; i++) {
        machine.msr[i ? NVMX_CAP_TRUE_PROCBASED : NVMX_CAP_PROCBASED] |= UINT64_C(1) << 49;
        machine.msr[i ? NVMX_CAP_TRUE_EXIT : NVMX_CAP_EXIT] |= UINT64_C(1) << 63;
        machine.msr[i ? NVMX_CAP_TRUE_ENTRY : NVMX_CAP_ENTRY] |= UINT64_C(1) << 56;
    }
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)PROC2_ALL << 32;
    machine.msr[NVMX_CAP_PROCBASED3] = PROC3_ALL;
    machine.msr[NVMX_CAP_EXIT2] = EXIT2_SPEC_CTRL;
    machine.spec_ctrl_valid = 7;
    return machine;
}

static struct sim *rich(void) {
    struct nvmx_caps machine = rich_machine();
    struct sim *sim = l1_ready(&(struct sim_options){.machine = &machine});
    const struct nvmx_caps *l1 = nvmx_l1_caps(sim->vm);

    cr_assert_eq(nvmx_caps_may_be_1(l1, NVMX_CAP_PROCBASED2) & PROC2_ALL, PROC2_ALL);
    cr_assert_eq(nvmx_caps_may_be_1(l1, NVMX_CAP_PROCBASED3), PROC3_ALL);
    cr_assert_eq(nvmx_caps_may_be_1(l1, NVMX_CAP_EXIT2), EXIT2_SPEC_CTRL);
    sim_msr(sim, 0x48)->value = 0;
    host_gives_bitmaps(sim);
    return sim;
}

static void host_adds(struct sim *sim, enum nvmx_field slot, uint64_t bits) {
    host_sets(sim, slot, vmcs01(sim, slot) | bits);
}

static void uses_tertiary(struct sim *sim, uint64_t l1, uint64_t host) {
    host_adds(sim, NVMX_F_PRIMARY_CONTROLS, PROC_TERTIARY);
    host_sets(sim, NVMX_F_TERTIARY_CONTROLS, host);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, PROC_TERTIARY);
    l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, l1);
}

static bool reflected(struct sim *sim, const struct nvmx_l2_exit_info *info) {
    enum nvmx_next next = sim_exit_info(sim, info);
    bool l1 = next == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;
    if (l1)
        resume(sim);
    return l1;
}

/* -- what a host keeps from L1 is not L1's to give to L2 ------------------------------------------------------------------------------ */

Test(controls_instructions, enabled_in_l2_if_both_enable_it) {
    for (unsigned int who = 0; who < 4; who++) {
        struct sim *sim = rich();
        bool l1 = (who & 1) != 0, host = (who & 2) != 0;
        uses_tertiary(sim, l1 ? PROC3_MSR_LIST | PROC3_PBNDKB : 0, host ? PROC3_MSR_LIST | PROC3_PBNDKB : 0);
        if (l1)
            l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_PCONFIG);
        if (host)
            host_adds(sim, NVMX_F_SECONDARY_CONTROLS, PROC2_PCONFIG);
        launch(sim);
        bool both = l1 && host;
        cr_expect_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_PCONFIG) != 0, both, "%u", who);
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS), both ? PROC3_MSR_LIST | PROC3_PBNDKB : 0, "%u", who);
        cr_expect_eq((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & PROC_TERTIARY) != 0, both, "%u", who);
        sim_free(sim);
    }
}

/* -- bitmaps of leaf functions ----------------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t reason, control;
    enum nvmx_field bitmap;
} leaves[] = {
    {NVMX_EXIT_PCONFIG, PROC2_PCONFIG, NVMX_F_PCONFIG_EXITING_BITMAP},
    {NVMX_EXIT_ENCLV, PROC2_ENCLV, NVMX_F_ENCLV_EXITING_BITMAP},
};

Test(controls_instructions, leaf_bitmaps_are_united_and_split) {
    for (size_t i = 0; i < COUNT(leaves); i++) {
        struct sim *sim = rich();
        host_adds(sim, NVMX_F_SECONDARY_CONTROLS, leaves[i].control);
        host_sets(sim, leaves[i].bitmap, 2);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, leaves[i].control);
        l1_writes(sim, nvmx_field_info(leaves[i].bitmap)->encoding, (UINT64_C(1) << 63) | 4);
        launch(sim);
        cr_expect_eq(vmcs02(sim, leaves[i].bitmap), (UINT64_C(1) << 63) | 6);
        cr_expect((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & leaves[i].control) != 0);
        for (uint32_t leaf = 0; leaf < 70; leaf++) {
            sim->regs.gpr[NVMX_RAX] = leaf;
            cr_expect_eq(reflected(sim, &(struct nvmx_l2_exit_info){.reason = leaves[i].reason}), leaf == 2 || leaf >= 63,
                         "reason %u, leaf %u", leaves[i].reason, leaf);
        }
        l2_leaves(sim);
        l1_clears(sim, NVMX_VMCS_SECONDARY_CONTROLS, leaves[i].control);
        resume(sim);
        cr_expect_eq(vmcs02(sim, leaves[i].bitmap), 2, "L1's bitmap without its control");
        sim_free(sim);
    }
}

/* -- the time that an instruction may take -------------------------------------------------------------------------------------------------- */

Test(controls_instructions, the_shorter_window_counts) {
    static const struct {
        uint32_t l1, host; /* 0: not used */
        uint64_t window;
        bool l1_exit;
    } rows[] = {{100, 0, 100, true}, {0, 100, 100, false}, {100, 200, 100, true}, {200, 100, 100, false}, {100, 100, 100, true}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = rich();
        if (rows[i].host)
            host_adds(sim, NVMX_F_SECONDARY_CONTROLS, PROC2_TIMEOUT);
        host_sets(sim, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL, rows[i].host ? rows[i].host : 7);
        if (rows[i].l1)
            l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_TIMEOUT);
        l1_writes(sim, NVMX_VMCS_INSTRUCTION_TIMEOUT_CONTROL, rows[i].l1 ? rows[i].l1 : 7);
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_INSTRUCTION_TIMEOUT_CONTROL), rows[i].window, "row %zu", i);
        cr_expect((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_TIMEOUT) != 0, "row %zu", i);
        cr_expect_eq(reflected(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_INSTRUCTION_TIMEOUT}), rows[i].l1_exit,
                     "row %zu", i);
        sim_free(sim);
    }
}

/* -- an access to IA32_SPEC_CTRL ------------------------------------------------------------------------------------------------------------------- */

#define REGISTER_9 (9u << 3)

static struct nvmx_l2_exit_info access_to_0x48(struct sim *sim, bool write, bool immediate, uint64_t value) {
    sim->regs.gpr[NVMX_RCX] = immediate ? 0x10 : 0x48;
    sim->regs.gpr[NVMX_RAX] = (uint32_t)value;
    sim->regs.gpr[NVMX_RDX] = value >> 32;
    sim->regs.gpr[9] = value;
    return (struct nvmx_l2_exit_info){
        .reason = immediate ? (write ? NVMX_EXIT_WRMSRNS_IMMEDIATE : NVMX_EXIT_RDMSR_IMMEDIATE)
                            : (write ? NVMX_EXIT_WRMSR : NVMX_EXIT_RDMSR),
        .qualification = immediate ? 0x48 : 0,
        .instruction_info = immediate ? REGISTER_9 : 0,
        .instruction_length = immediate ? 9 : 2,
    };
}

/* -- bus locks ---------------------------------------------------------------------------------------------------------------------------------- */

#define BUS_LOCK (1u << 26)

static struct sim *locking(bool l1, bool host) {
    struct sim *sim = rich();
    if (host)
        host_adds(sim, NVMX_F_SECONDARY_CONTROLS, PROC2_BUS_LOCK);
    if (l1)
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_BUS_LOCK);
    launch(sim);
    cr_assert_eq((vmcs02(sim, NVMX_F_SECONDARY_CONTROLS) & PROC2_BUS_LOCK) != 0, l1 || host);
    return sim;
}

static void l1_sees(struct sim *sim, enum nvmx_next next, uint32_t reason) {
    cr_assert_eq(next, NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason, "%#lx", l1_reads(sim, NVMX_VMCS_EXIT_REASON));
}

/* Bit 26 comes with the exit that L1 sees, and is nobody's but L1's. */
Test(controls_instructions, bus_locks_come_with_exits_of_l1) {
    for (unsigned int who = 0; who < 4; who++) {
        bool l1 = who & 1;
        struct sim *sim = locking(l1, who & 2);
        l1_sees(sim, sim_exit(sim, NVMX_EXIT_CPUID | BUS_LOCK, 0, 0, 2), NVMX_EXIT_CPUID | (l1 ? BUS_LOCK : 0));
        resume(sim);
        l1_sees(sim, sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_EXIT_CPUID);
        resume(sim);
        enum nvmx_next next = sim_exit(sim, NVMX_EXIT_BUS_LOCK | BUS_LOCK, 0, 0, 0);
        if (l1)
            l1_sees(sim, next, NVMX_EXIT_BUS_LOCK | BUS_LOCK);
        else
            cr_expect_eq(next, NVMX_HOST);
        sim_free(sim);
    }
}

/* With an exit that is the host's, or that the library deals with, it comes by an exit of its own before L2 goes on. */
Test(controls_instructions, bus_locks_survive_exits_that_l1_does_not_see) {
    static const struct {
        const char *what;
        struct nvmx_l2_exit_info info;
    } rows[] = {
        {"the host's, unread", {.reason = NVMX_EXIT_INIT_SIGNAL | BUS_LOCK}},
        {"the host's by L1's controls", {.reason = NVMX_EXIT_WBINVD | BUS_LOCK, .instruction_length = 2}},
        {"dealt with", {.reason = NVMX_EXIT_EPT_VIOLATION | BUS_LOCK, .qualification = 0x181, .guest_physical_address = 0x5000}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int l1 = 0; l1 < 2; l1++) {
            struct sim *sim = locking(l1 != 0, true);
            (void)sim_exit_info(sim, &rows[i].info);
            cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "%s", rows[i].what);
            size_t bytes;
            uint8_t *blob = sim_save(sim, &bytes);
            cr_assert_eq(nvmx_state_restore(sim->vcpu, blob, bytes, NULL), NVMX_STATE_OK, "%s", rows[i].what);
            free(blob);
            enum nvmx_next next = sim_enter(sim, NULL);
            if (l1) {
                l1_sees(sim, next, NVMX_EXIT_BUS_LOCK | BUS_LOCK);
                resume(sim);
            }
            cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
            cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "%s: only once", rows[i].what);
            l1_sees(sim, sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_EXIT_CPUID);
            sim_free(sim);
        }
    }
}

/* The exit that L1 sees is another one than hardware gave. */
Test(controls_instructions, bus_locks_come_with_exits_that_become_others) {
    for (unsigned int way = 0; way < 2; way++) {
        struct sim *sim = rich();
        struct nvmx_l2_exit_info misconfigured = {.reason = NVMX_EXIT_EPT_VIOLATION | BUS_LOCK, .qualification = 0x181, .guest_physical_address = 0x5000};
        uses_tertiary(sim, PROC3_SPEC_CTRL, 0);
        l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, PROC2_BUS_LOCK);
        l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 13);
        sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, 2); /* writable only */
        launch(sim);
        struct nvmx_l2_exit_info fault = access_to_0x48(sim, true, false, 8);
        fault.reason |= BUS_LOCK;
        l1_sees(sim, sim_exit_info(sim, way ? &fault : &misconfigured), (way ? NVMX_EXIT_EXCEPTION_OR_NMI : NVMX_EXIT_EPT_MISCONFIGURATION) | BUS_LOCK);
        resume(sim);
        l1_sees(sim, sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_EXIT_CPUID);
        sim_free(sim);
    }
}

/* An event that goes back into vmcs02 is delivered first; an exit of L1's on the way takes the bit. INIT comes after. */
Test(controls_instructions, bus_locks_wait_for_an_injection) {
    for (unsigned int exits = 0; exits < 2; exits++) {
        struct sim *sim = locking(true, false);
        struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_EPT_VIOLATION | BUS_LOCK, .qualification = 0x181,
                                         .guest_physical_address = 0x5000, .idt_vectoring_info = 0x80000030};
        struct nvmx_pending pending = {.init = true};
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(sim_enter(sim, &pending), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000030);
        if (exits) {
            l1_sees(sim, sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_EXIT_CPUID | BUS_LOCK);
        } else {
            cr_assert_eq(sim_exit(sim, NVMX_EXIT_PREEMPTION_TIMER, 0, 0, 0), NVMX_ENTER);
            l1_sees(sim, sim_enter(sim, &pending), NVMX_EXIT_BUS_LOCK | BUS_LOCK);
        }
        cr_expect(pending.init);
        resume(sim);
        l1_sees(sim, sim_enter(sim, &pending), NVMX_EXIT_INIT_SIGNAL);
        sim_free(sim);
    }
}

/* An exit that the host found itself takes it, too. */
Test(controls_instructions, bus_locks_come_with_exits_of_the_host) {
    struct sim *sim = locking(true, false);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_WBINVD | BUS_LOCK, 0, 0, 2), NVMX_HOST);
    l1_sees(sim, nvmx_l2_exit(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_HLT}), NVMX_EXIT_HLT | BUS_LOCK);
    sim_free(sim);
}

/* -- MSR lists of instructions ---------------------------------------------------------------------------------------------------------------- */

/* The MSR in the qualification goes by the bitmaps as if RDMSR had named it; WRMSRLIST's value comes along. */
Test(controls_instructions, msr_list_exits_by_the_bitmaps) {
    struct sim *sim = rich();
    uint8_t bit = 1u << (0x174 % 8);
    uses_tertiary(sim, PROC3_MSR_LIST, PROC3_MSR_LIST);
    launch(sim);
    for (unsigned int write = 0; write < 2; write++) {
        struct nvmx_l2_exit_info info = {.reason = write ? NVMX_EXIT_WRMSRLIST : NVMX_EXIT_RDMSRLIST,
                                         .qualification = 0x174,
                                         .msr_data = UINT64_C(0x123456789abcdef0)};
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER, "a cold word: let through");
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        sim_write(sim, SIM_L1_MSR_BITMAP + 0x174 / 8 + write * 0x800, &bit, 1);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0x174);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_MSR_DATA), write ? info.msr_data : 0);
        resume(sim);
        info.qualification = 0x3a;
        cr_expect_eq(sim_exit_info(sim, &info), NVMX_HOST, "the host intercepts IA32_FEATURE_CONTROL");
    }
    sim_free(sim);
}

/* -- IA32_SPEC_CTRL --------------------------------------------------------------------------------------------------------------------------- */

static bool exits_on_0x48(struct sim *sim, bool write) {
    const uint64_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
    return bitmap_test(page, bitmap_msr_bit(0x48, write));
}

/* L2 reads the shadow; its writes reach the bits that the mask leaves, and the whole value is the new shadow. */
Test(controls_instructions, spec_ctrl_behind_mask_and_shadow) {
    for (unsigned int variant = 0; variant < 4; variant++) {
        bool immediate = (variant & 1) != 0, protects = (variant & 2) != 0;
        struct sim *sim = rich();
        uses_tertiary(sim, PROC3_SPEC_CTRL, protects ? PROC3_SPEC_CTRL : 0);
        l1_writes(sim, NVMX_VMCS_SPEC_CTRL_MASK, 3);
        l1_writes(sim, NVMX_VMCS_SPEC_CTRL_SHADOW, 2);
        sim_msr(sim, 0x48)->value = 1;
        launch(sim);
        cr_expect_eq(vmcs02(sim, NVMX_F_TERTIARY_CONTROLS) & PROC3_SPEC_CTRL, 0, "not by hardware");
        cr_expect(exits_on_0x48(sim, false) && exits_on_0x48(sim, true));
        uint64_t rip = vmcs02(sim, NVMX_F_GUEST_RIP);

        struct nvmx_l2_exit_info info = access_to_0x48(sim, false, immediate, UINT64_MAX);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_expect_eq(immediate ? sim->regs.gpr[9] : sim->regs.gpr[NVMX_RAX], 2);
        cr_expect_eq(sim->regs.gpr[NVMX_RDX], immediate ? UINT32_MAX : 0);
        cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip + info.instruction_length);

        info = access_to_0x48(sim, true, immediate, 6);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_expect_eq(sim_msr(sim, 0x48)->value, 5, "bits 1:0 are protected, whether they would be cleared or set");
        info = access_to_0x48(sim, false, immediate, 0);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_expect_eq(immediate ? sim->regs.gpr[9] : sim->regs.gpr[NVMX_RAX], 6);
        cr_expect(exits_on_0x48(sim, false) && exits_on_0x48(sim, true), "for ever");
        l2_leaves(sim);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_SPEC_CTRL_SHADOW), 6);
        sim_free(sim);
    }
}

/*
 * Bits that IA32_SPEC_CTRL doesn't have give #GP, protected or not, and nothing is written. An L2 that has gone to real mode gets it without an error code:
 * with one hardware would refuse vmcs02 (SDM 29.2.1.3), and the exit has none either (SDM 30.2.2).
 */
Test(controls_instructions, spec_ctrl_bits_that_do_not_exist) {
    for (unsigned int way = 0; way < 4; way++) {
        bool intercepted = (way & 1) != 0, real_mode = (way & 2) != 0;
        uint32_t fault = real_mode ? GP_0 & ~(1u << 11) : GP_0;
        struct sim *sim = rich();
        uses_tertiary(sim, PROC3_SPEC_CTRL, 0);
        l1_writes(sim, NVMX_VMCS_SPEC_CTRL_MASK, UINT64_MAX);
        if (intercepted)
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 13);
        launch(sim);
        if (real_mode)
            sim_set(sim, nvmx_selected(sim->vcpu), NVMX_F_GUEST_CR0, vmcs02(sim, NVMX_F_GUEST_CR0) & ~UINT64_C(0x80000001));
        struct nvmx_l2_exit_info info = access_to_0x48(sim, true, false, 8);
        uint64_t rip = vmcs02(sim, NVMX_F_GUEST_RIP);
        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
        cr_expect_eq(sim_msr(sim, 0x48)->writes, 0);
        cr_assert_eq(nvmx_mode(sim->vcpu), intercepted ? NVMX_MODE_ROOT : NVMX_MODE_L2);
        if (intercepted) {
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXCEPTION_OR_NMI);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), fault);
        } else {
            cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), fault);
            cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip);
        }
        sim_free(sim);
    }
}

/* A #GP that the host could not inject as a whole is not lost: the vCPU stops. Where L1's bitmap could not be read, the access exits. */
Test(controls_instructions, spec_ctrl_fault_that_the_host_refuses) {
    unsigned int callback = 0, stops = 0;
    for (bool failed = true; failed;) {
        struct sim *sim = rich();
        uses_tertiary(sim, PROC3_SPEC_CTRL, 0);
        launch(sim);
        struct nvmx_l2_exit_info info = access_to_0x48(sim, true, false, 8);
        sim->calls = 0;
        sim->fail.at = ++callback;
        enum nvmx_next next = sim_exit_info(sim, &info);
        sim->fail.at = 0;
        failed = sim->failed != 0;
        if (failed && sim->last_failed != SIM_MAP_PAGE)
            cr_expect_eq(next, NVMX_STOP, "callback %u", callback);
        else
            cr_expect(next == NVMX_ENTER && nvmx_mode(sim->vcpu) == (failed ? NVMX_MODE_ROOT : NVMX_MODE_L2), "callback %u", callback);
        stops += next == NVMX_STOP;
        sim_free(sim);
    }
    cr_expect(stops > 3, "RFLAGS, the event and its error code are written");
}

/* SDM 28.1.3 comes first: what L1's bitmap wants is an exit. */
Test(controls_instructions, spec_ctrl_that_l1_intercepts) {
    struct sim *sim = rich();
    uint8_t bit = 1;
    uses_tertiary(sim, PROC3_SPEC_CTRL, 0);
    sim_write(sim, SIM_L1_MSR_BITMAP + 9, &bit, 1);
    launch(sim);
    struct nvmx_l2_exit_info read = access_to_0x48(sim, false, false, 0);
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &read));
    cr_expect(reflected(sim, &read));
    struct nvmx_l2_exit_info write = access_to_0x48(sim, true, false, 1);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &write));
    cr_expect_eq(sim_msr(sim, 0x48)->writes, 0, "asking changes nothing");
    cr_expect_not(reflected(sim, &write));
    cr_expect_eq(sim_msr(sim, 0x48)->value, 1);
    sim_free(sim);
}

/* L1 stops virtualizing it: the MSR is L2's like others again. */
Test(controls_instructions, spec_ctrl_opens_with_the_control) {
    struct sim *sim = rich();
    uses_tertiary(sim, PROC3_SPEC_CTRL, 0);
    launch(sim);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_TERTIARY_CONTROLS, 0);
    resume(sim);
    struct nvmx_l2_exit_info write = access_to_0x48(sim, true, false, 1);
    cr_assert_eq(sim_exit_info(sim, &write), NVMX_ENTER);
    cr_expect_not(exits_on_0x48(sim, true), "hot: L2 repeats it without an exit");
    cr_expect_eq(sim_msr(sim, 0x48)->writes, 0);
    sim_free(sim);
}

/* What can't be composed is refused before L2 runs. */
Test(controls_instructions, spec_ctrl_that_can_not_be_composed) {
    static const struct {
        const char *what;
        uint64_t l1, host;
        bool entry, exit, refused;
    } rows[] = {
        {"loads", 0, 0, true, true, false},
        {"loads over the host's mask on entry", 0, PROC3_SPEC_CTRL, true, false, true},
        {"loads over the host's mask on exit", 0, PROC3_SPEC_CTRL, false, true, true},
        {"lists past L1's own mask", PROC3_SPEC_CTRL | PROC3_MSR_LIST, PROC3_MSR_LIST, false, false, true},
        {"lists that the host keeps from L1", PROC3_SPEC_CTRL | PROC3_MSR_LIST, 0, false, false, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = rich();
        uses_tertiary(sim, rows[i].l1, rows[i].host);
        if (rows[i].entry)
            l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, ENTRY_SPEC_CTRL);
        if (rows[i].exit) {
            l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SECONDARY);
            l1_writes(sim, NVMX_VMCS_SECONDARY_VM_EXIT_CONTROLS, EXIT2_SPEC_CTRL);
        }
        cr_expect_eq(sim_vmlaunch(sim), rows[i].refused ? SIM_FAIL_VALID : SIM_L2, "%s", rows[i].what);
        sim_free(sim);
    }
}

/* Secondary VM-exit controls count only if the primary ones activate them. */
Test(controls_instructions, inactive_secondary_exit_controls) {
    for (unsigned int active = 0; active < 2; active++) {
        struct sim *sim = rich();
        l1_writes(sim, NVMX_VMCS_SECONDARY_VM_EXIT_CONTROLS, EXIT2_SPEC_CTRL);
        l1_writes(sim, NVMX_VMCS_HOST_SPEC_CTRL, 4);
        if (active)
            l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, EXIT_SECONDARY);
        launch(sim);
        l2_leaves(sim);
        cr_expect_eq(sim_msr(sim, 0x48)->writes, active);
        cr_expect_eq(sim_msr(sim, 0x48)->value, active ? 4 : 0);
        sim_free(sim);
    }
}
