/* SPDX-License-Identifier: MIT */
/* VMX MSRs of L1 through RDMSR, WRMSR and their exits, CPUID, CR0 and CR4, INIT. */
#include <criterion/criterion.h>

#include "sim.h"

#define REASON_RDMSR 31u
#define REASON_WRMSR 32u
#define POISON       UINT64_C(0xa5a5a5a5a5a5a5a5)

/* RDMSR or WRMSR of L1 as hardware reports it. Moved on, or a fault that waits. */
static enum sim_outcome msr_instruction(struct sim *sim, uint32_t reason, uint32_t index) {
    uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    enum nvmx_next next;

    sim->regs.gpr[NVMX_RCX] = POISON << 32 | index;
    next = sim_exit(sim, reason, 0, 0, 2);
    if (next == NVMX_HOST) {
        return SIM_TO_HOST;
    }
    cr_assert_eq(next, NVMX_ENTER);
    if (sim_fault_vector(sim) >= 0) {
        cr_assert_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), rip, "a fault leaves RIP");
        return SIM_FAULT;
    }
    cr_assert_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), rip + 2);
    return SIM_SUCCEED;
}

/* The event waits no longer. */
static void delivered(struct sim *sim) {
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
}

static bool exists(const struct nvmx_caps *caps, uint32_t index) {
    bool secondary = (caps->msr[NVMX_CAP_PROCBASED] >> 63) & 1;
    uint64_t proc2 = caps->msr[NVMX_CAP_PROCBASED2];

    if (index == 0x48b) {
        return secondary;
    }
    if (index == 0x48c) {
        return secondary && ((proc2 >> 33 & 1) || (proc2 >> 37 & 1));
    }
    if (index >= 0x48d && index <= 0x490) {
        return (caps->msr[NVMX_CAP_BASIC] >> 55) & 1;
    }
    if (index == 0x491) {
        return secondary && (proc2 >> 45 & 1);
    }
    if (index == 0x492) {
        return (caps->msr[NVMX_CAP_PROCBASED] >> 49) & 1;
    }
    return index != 0x493 || ((caps->msr[NVMX_CAP_EXIT] >> 63) & 1);
}

static void read_all(struct sim *sim) {
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);

    for (uint32_t index = 0x480; index <= 0x493; index++) {
        uint64_t value = POISON;

        sim->regs.gpr[NVMX_RAX] = sim->regs.gpr[NVMX_RDX] = POISON;
        if (exists(caps, index)) {
            cr_assert_eq(nvmx_rdmsr(sim->vcpu, index, &value), NVMX_MSR_DONE);
            cr_assert_eq(value, caps->msr[index - 0x480]);
            cr_assert_eq(msr_instruction(sim, REASON_RDMSR, index), SIM_SUCCEED, "%x", index);
            cr_assert_eq(sim->regs.gpr[NVMX_RAX], (uint32_t)value);
            cr_assert_eq(sim->regs.gpr[NVMX_RDX], value >> 32);
        } else {
            cr_assert_eq(nvmx_rdmsr(sim->vcpu, index, &value), NVMX_MSR_FAULT);
            cr_assert_eq(value, POISON);
            cr_assert_eq(msr_instruction(sim, REASON_RDMSR, index), SIM_FAULT, "%x", index);
            cr_assert_eq(sim_fault_vector(sim), 13);
            cr_assert_eq(sim_fault_error_code(sim), 0);
            cr_assert_eq(sim->regs.gpr[NVMX_RAX], POISON);
            delivered(sim);
        }
    }
}

Test(msr, capability_msrs_read_as_l1_sees_them) {
    struct sim *sim = sim_new(NULL);

    read_all(sim);
    cr_assert(exists(nvmx_l1_caps(sim->vm), 0x48c));
    cr_assert(exists(nvmx_l1_caps(sim->vm), 0x491));
    cr_assert_not(exists(nvmx_l1_caps(sim->vm), 0x492));
    sim_free(sim);
}

Test(msr, capability_msrs_vanish_with_their_condition) {
    static const struct { unsigned int place, bit; } gone[] = {{NVMX_CAP_PROCBASED, 63}, {NVMX_CAP_BASIC, 55}};

    for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++) {
        struct nvmx_caps machine;
        struct sim *sim;

        sim_machine(&machine);
        machine.msr[gone[i].place] &= ~(UINT64_C(1) << gone[i].bit);
        sim = sim_new(&(struct sim_options){.machine = &machine});
        read_all(sim);
        sim_free(sim);
    }
}

Test(msr, capability_msrs_are_read_only) {
    struct sim *sim = sim_new(NULL);
    const struct nvmx_caps before = *nvmx_l1_caps(sim->vm);

    for (uint32_t index = 0x480; index <= 0x493; index++) {
        uint64_t now = before.msr[index - 0x480];

        sim->regs.gpr[NVMX_RAX] = (uint32_t)now;
        sim->regs.gpr[NVMX_RDX] = now >> 32;
        cr_assert_eq(msr_instruction(sim, REASON_WRMSR, index), SIM_FAULT, "%x", index);
        cr_assert_eq(sim_fault_vector(sim), 13);
        delivered(sim);
        cr_assert_eq(nvmx_wrmsr(sim->vcpu, index, now ^ 1, true), NVMX_MSR_FAULT);
        cr_assert_eq(nvmx_wrmsr(sim->vcpu, index, now, true), exists(&before, index) ? NVMX_MSR_DONE : NVMX_MSR_FAULT);
        cr_assert_eq(nvmx_l1_caps(sim->vm)->msr[index - 0x480], now);
    }
    sim_free(sim);
}

Test(msr, others_are_the_hosts) {
    struct sim *sim = sim_new(NULL);
    static const uint32_t others[] = {0, 0x10, 0x39, 0x3b, 0x47f, 0x494, 0x1d9, 0xc0000080, 0xffffffff, 0x80000480};

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        uint64_t value = POISON;

        cr_assert_eq(nvmx_rdmsr(sim->vcpu, others[i], &value), NVMX_MSR_NOT_MINE);
        cr_assert_eq(nvmx_wrmsr(sim->vcpu, others[i], 0, true), NVMX_MSR_NOT_MINE);
        cr_assert_eq(msr_instruction(sim, REASON_RDMSR, others[i]), SIM_TO_HOST);
        cr_assert_eq(msr_instruction(sim, REASON_WRMSR, others[i]), SIM_TO_HOST);
        cr_assert_eq(value, POISON);
    }
    sim_free(sim);
}

Test(msr, feature_control_is_locked_with_vmx_on) {
    struct sim *sim = sim_new(NULL);
    uint64_t value = 0;

    cr_assert_eq(msr_instruction(sim, REASON_RDMSR, 0x3a), SIM_SUCCEED);
    cr_assert_eq(sim->regs.gpr[NVMX_RAX], 5);
    cr_assert_eq(sim->regs.gpr[NVMX_RDX], 0);
    cr_assert_eq(msr_instruction(sim, REASON_WRMSR, 0x3a), SIM_FAULT, "even the same value");
    delivered(sim);

    /* Firmware begins with 0 and locks. */
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, 0, true), NVMX_MSR_DONE);
    for (unsigned int bit = 0; bit < 64; bit++) {
        if (bit != 0 && bit != 2) {
            cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, UINT64_C(1) << bit, false), NVMX_MSR_FAULT, "bit %u", bit);
            cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, UINT64_C(1) << bit, true), NVMX_MSR_FAULT, "bit %u", bit);
        }
    }
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, 4, false), NVMX_MSR_DONE);
    sim->regs.gpr[NVMX_RAX] = POISON << 32 | 1; /* only the low halves count */
    sim->regs.gpr[NVMX_RDX] = POISON << 32;
    cr_assert_eq(msr_instruction(sim, REASON_WRMSR, 0x3a), SIM_SUCCEED);
    cr_assert_eq(nvmx_rdmsr(sim->vcpu, 0x3a, &value), NVMX_MSR_DONE);
    cr_assert_eq(value, 1);
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, 5, false), NVMX_MSR_FAULT);
    cr_assert_eq(nvmx_wrmsr(sim->vcpu, 0x3a, 5, true), NVMX_MSR_DONE);
    sim_free(sim);
}

Test(msr, hidden_vmx_is_no_vmx) {
    struct sim *sim = sim_new(&(struct sim_options){.hidden = true});
    uint32_t regs[4] = {1, 2, 0xffffffff, 4};
    uint64_t value;

    cr_assert_not_null(sim->vcpu);
    for (uint32_t index = 0x480; index <= 0x493; index++) {
        cr_assert_eq(nvmx_rdmsr(sim->vcpu, index, &value), NVMX_MSR_FAULT);
        cr_assert_eq(nvmx_wrmsr(sim->vcpu, index, 0, true), NVMX_MSR_FAULT);
    }
    cr_assert_eq(msr_instruction(sim, REASON_RDMSR, 0x3a), SIM_FAULT);
    cr_assert_eq(sim_fault_vector(sim), 13);
    nvmx_cpuid(sim->vm, 1, regs);
    cr_assert_eq(regs[2], 0xffffffdf);
    cr_assert_not(nvmx_cr_allowed(sim->vcpu, 4, 0x2020));
    cr_assert(nvmx_cr_allowed(sim->vcpu, 4, 0x20));
    cr_assert(nvmx_cr_allowed(sim->vcpu, 0, 0x10));
    sim_free(sim);
}

Test(msr, cpuid_shows_vmx_in_leaf_1_only) {
    struct sim *sim = sim_new(NULL);

    for (uint32_t leaf = 0; leaf < 0x20; leaf++) {
        uint32_t regs[4] = {0x11, 0x22, 0, 0x44};

        nvmx_cpuid(sim->vm, leaf, regs);
        cr_assert(regs[0] == 0x11 && regs[1] == 0x22 && regs[3] == 0x44);
        cr_assert_eq(regs[2], leaf == 1 ? 0x20 : 0);
    }
    sim_free(sim);
}

Test(msr, cr_rules_hold_in_vmx_operation_only) {
    struct sim *sim = sim_new(NULL);
    const uint64_t cr0 = 0x80000031, cr4 = 0x2020;

    cr_assert(nvmx_cr_allowed(sim->vcpu, 0, 0x10));
    cr_assert(nvmx_cr_allowed(sim->vcpu, 4, cr4));
    cr_assert(nvmx_cr_allowed(sim->vcpu, 4, 0x20));
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert(nvmx_cr_allowed(sim->vcpu, 0, cr0));
    cr_assert_not(nvmx_cr_allowed(sim->vcpu, 0, cr0 & ~UINT64_C(0x80000000)), "PG");
    cr_assert_not(nvmx_cr_allowed(sim->vcpu, 0, cr0 & ~UINT64_C(0x20)), "NE");
    cr_assert(nvmx_cr_allowed(sim->vcpu, 4, cr4));
    cr_assert_not(nvmx_cr_allowed(sim->vcpu, 4, 0x20), "VMXE can't be cleared");
    cr_assert(nvmx_cr_allowed(sim->vcpu, 3, 0));
    cr_assert(nvmx_cr_allowed(sim->vcpu, 8, 0));
    cr_assert_eq(sim_vmxoff(sim), SIM_SUCCEED);
    cr_assert(nvmx_cr_allowed(sim->vcpu, 4, 0x20));
    sim_free(sim);
}

Test(msr, init_is_blocked_in_root_operation) {
    struct sim *sim = sim_new(NULL);

    cr_assert_not(nvmx_init_blocked(sim->vcpu));
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert(nvmx_init_blocked(sim->vcpu));
    cr_assert_eq(sim_vmxoff(sim), SIM_SUCCEED);
    cr_assert_not(nvmx_init_blocked(sim->vcpu));
    sim_free(sim);
}

/* SDM 25.8: VMXON fails in A20M mode, and in VMX operation the pin has no effect. */
Test(msr, a20m) {
    struct sim *sim = sim_new(NULL);

    nvmx_a20m(sim->vcpu, true);
    cr_assert_not(nvmx_a20m_blocked(sim->vcpu));
    sim_region(sim, SIM_L1_VMXON);
    cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_FAULT);
    cr_assert_eq(sim_fault_vector(sim), 13);
    nvmx_vcpu_reset(sim->vcpu);
    cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_FAULT, "the pin is not the processor's");
    nvmx_a20m(sim->vcpu, false);
    cr_assert_eq(sim_launch(sim), SIM_L2);
    cr_assert(nvmx_a20m_blocked(sim->vcpu), "also while L2 runs");
    nvmx_a20m(sim->vcpu, true);
    sim_free(sim);
}

Test(msr, init_is_not_blocked_in_l2) {
    struct sim *sim = sim_new(NULL);

    cr_assert_eq(sim_launch(sim), SIM_L2);
    cr_assert_not(nvmx_init_blocked(sim->vcpu));
    sim_free(sim);
}

Test(msr, a_failing_callback_stops_and_changes_nothing_else) {
    for (uint64_t k = 1; k < 10; k++) {
        struct sim *sim = sim_new(NULL);
        enum nvmx_next next;

        sim->regs.gpr[NVMX_RCX] = 0x480;
        sim->regs.gpr[NVMX_RAX] = POISON;
        sim->calls = 0;
        sim->fail.at = k;
        next = sim_exit(sim, REASON_RDMSR, 0, 0, 2);
        if (sim->failed == 0) {
            cr_assert_eq(next, NVMX_ENTER);
            cr_assert(k > 1, "RDMSR calls back at least once");
            sim_free(sim);
            return;
        }
        cr_assert_eq(next, NVMX_STOP);
        cr_assert_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_HOST);
        cr_assert_eq(sim->regs.gpr[NVMX_RAX], POISON);
        sim_free(sim);
    }
    cr_assert_fail("RDMSR calls back too often");
}
