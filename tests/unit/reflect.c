/* SPDX-License-Identifier: MIT */
/* Giving L1 an exit of L2: exit information, saved state, launch state, and what a round trip costs (SDM 30.2-30.3). */
#include "exits/exits.h"
#include "machine.h"

/* -- the round trip ---------------------------------------------------------------------------------------------------
 */

static void expect_l1_at_its_handler(const struct sim *sim) {
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(sim->selected, NVMX_VMCS01);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RIP), SIM_L1_EXIT_HANDLER);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RSP), SIM_L1_STACK);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_CR3), SIM_L1_PML4);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RFLAGS), 2);
}

Test(reflect, cpuid_goes_to_l1_and_back) {
    struct sim *sim = l2_running(NULL);
    uint32_t number = sim->selected;
    sim_set(sim, number, NVMX_F_GUEST_RIP, 0x1234);
    sim_set(sim, number, NVMX_F_GUEST_RSP, 0x2ff8);
    sim_set(sim, number, NVMX_F_GUEST_RFLAGS, 0x246);
    sim_set(sim, number, NVMX_F_GUEST_CR3, 0x7000);
    l2_leaves(sim);
    expect_l1_at_its_handler(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_CPUID);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 2);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO) >> 31, 0);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO) >> 31, 0);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1234);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x2ff8);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS), 0x246);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_CR3), 0x7000);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1236);
    resume(sim);
    cr_expect_eq(sim->selected, number, "the same vmcs02 serves");
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1236);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RSP), 0x2ff8);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_CR3), 0x7000);
    sim_free(sim);
}

/* Golden numbers of the round trip, for an L1 that saves and loads what common hypervisors do. */
Test(reflect, round_trip_costs) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2 | 1u << 14);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 2 | 1u << 18 | 1u << 19);
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, UINT64_C(0x0007040600070406));
    l1_writes(sim, NVMX_VMCS_HOST_PAT, UINT64_C(0x0007040600070406));
    launch(sim);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1002);
    resume(sim);

    struct cost before = cost_now(sim);
    l2_leaves(sim);
    costs(sim, "reflecting CPUID", before, (struct cost){1, 2, 12, 2, 55, 0});

    before = cost_now(sim);
    l1_reads(sim, NVMX_VMCS_EXIT_REASON);
    costs(sim, "VMREAD", before, (struct cost){0, 1, 8, 1, 1, 0});

    before = cost_now(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1004);
    costs(sim, "VMWRITE", before, (struct cost){0, 1, 8, 1, 1, 0});

    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0x246);
    before = cost_now(sim);
    nvmx_set_remove(&sim->vmcs[NVMX_VMCS02_FIRST].written, NVMX_F_GUEST_RIP);
    resume(sim);
    costs(sim, "VMRESUME with new RIP and RFLAGS", before, (struct cost){1, 1, 5, 1, 2, 0});
    cr_expect(nvmx_set_has(&sim->vmcs[NVMX_VMCS02_FIRST].written, NVMX_F_GUEST_RIP), "RIP is what is written");
    sim_free(sim);
}

/* -- exit information
 * ------------------------------------------------------------------------------------------------------- */

/* Exit-information fields and the letter of exits.def; those that say of others whether they count are never left as
 * they were. */
static const struct {
    uint32_t encoding;
    uint8_t information;
    bool cleared;
} information_fields[] = {
    {NVMX_VMCS_EXIT_QUALIFICATION, INFO_Q, true},
    {NVMX_VMCS_GUEST_LINEAR_ADDRESS, INFO_L, false},
    {NVMX_VMCS_GUEST_PHYSICAL_ADDRESS, INFO_P, false},
    {NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO, INFO_V, true},
    {NVMX_VMCS_IDT_VECTORING_INFO, INFO_O, true},
    {NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH, INFO_N, false},
    {NVMX_VMCS_VM_EXIT_INSTRUCTION_INFORMATION, INFO_I, false},
};

static const struct nvmx_l2_exit_info all_information = {
    .interruption_info = 0x80000b0e,
    .interruption_error_code = 0x11,
    .idt_vectoring_info = 0x80000b0d,
    .idt_vectoring_error_code = 0x2200,
    .instruction_length = 7,
    .instruction_info = 0x12345678,
    .qualification = UINT64_C(0x123456789abc0),
    .guest_linear_address = UINT64_C(0x7fff12345000),
    .guest_physical_address = 0x5123,
};

static uint64_t given(uint32_t encoding) {
    switch (encoding) {
    case NVMX_VMCS_EXIT_QUALIFICATION:
        return all_information.qualification;
    case NVMX_VMCS_GUEST_LINEAR_ADDRESS:
        return all_information.guest_linear_address;
    case NVMX_VMCS_GUEST_PHYSICAL_ADDRESS:
        return all_information.guest_physical_address;
    case NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO:
        return all_information.interruption_info;
    case NVMX_VMCS_IDT_VECTORING_INFO:
        return all_information.idt_vectoring_info;
    case NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH:
        return all_information.instruction_length;
    default:
        return all_information.instruction_info;
    }
}

static void expect_information(struct sim *sim, uint32_t reason) {
    uint16_t valid = exit_row(reason)->information;

    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), reason);
    for (size_t i = 0; i < COUNT(information_fields); i++) {
        uint32_t encoding = information_fields[i].encoding;
        uint64_t wanted = (valid & information_fields[i].information) ? given(encoding) : 0;
        uint64_t got = l1_reads(sim, encoding);
        if (!(valid & information_fields[i].information) && !information_fields[i].cleared)
            wanted = 0x777; /* what the test put there before */
        cr_expect(got == wanted, "reason %u, field %#x: %#lx instead of %#lx", reason, encoding, got, wanted);
    }
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE), valid & INFO_V ? 0x11 : 0x777, "reason %u",
                 reason);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_ERROR_CODE), valid & INFO_O ? 0x2200 : 0x777, "reason %u",
                 reason);
}

static void fill_information(struct sim *sim) {
    for (size_t i = 0; i < COUNT(information_fields); i++)
        l1_writes(sim, information_fields[i].encoding, 0x777);
    l1_writes(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_ERROR_CODE, 0x777);
    l1_writes(sim, NVMX_VMCS_IDT_VECTORING_ERROR_CODE, 0x777);
}

/* Each field that a row defines arrives, and no other changes; found by hardware or by the host. */
Test(reflect, information_of_every_row) {
    struct sim *sim = l1_ready(NULL);
    unsigned int by_hardware = 0;

    fill_information(sim); /* L1's IA32_VMX_MISC[29] is 1 on this machine */
    launch(sim);
    for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
        struct nvmx_l2_exit_info info = all_information;
        info.reason = reason;
        if (exit_row(reason)->who == WHO_ALWAYS) {
            cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER, "reason %u", reason);
            by_hardware++;
        } else {
            cr_assert_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER, "reason %u", reason);
        }
        expect_l1_at_its_handler(sim);
        expect_information(sim, reason);
        fill_information(sim);
        resume(sim);
    }
    cr_expect(by_hardware > 10);
    sim_free(sim);
}

/* SDM 30.2.1: an instruction whose operand is a register has no displacement, and zero is its qualification, whatever
 * the CPU says. */
Test(reflect, register_operand_has_qualification_zero) {
    static const struct {
        uint32_t reason, information;
        uint64_t qualification;
    } row[] = {
        {NVMX_EXIT_VMREAD, 1u << 10, 0},     {NVMX_EXIT_VMREAD, 0, 0x18},           {NVMX_EXIT_VMWRITE, 1u << 10, 0},
        {NVMX_EXIT_VMWRITE, 0, 0x18},        {NVMX_EXIT_LDTR_TR, 1u << 10, 0},      {NVMX_EXIT_LDTR_TR, 0, 0x18},
        {NVMX_EXIT_VMPTRLD, 1u << 10, 0x18}, {NVMX_EXIT_GDTR_IDTR, 1u << 10, 0x18}, /* always in memory */
    };
    struct sim *sim = l1_ready(NULL);

    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 31);
    l1_sets(sim, NVMX_VMCS_SECONDARY_CONTROLS, 1u << 2);
    launch(sim);
    for (size_t n = 0; n < 2 * COUNT(row); n++) {
        const size_t i = n / 2;
        const uint32_t enclave = n % 2 != 0 ? 1u << 27 : 0; /* a bit beside the basic reason */
        struct nvmx_l2_exit_info info = {.reason = row[i].reason | enclave,
                                         .qualification = 0x18,
                                         .instruction_length = 4,
                                         .instruction_info = row[i].information};

        cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER, "row %zu", i);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), row[i].reason | enclave, "row %zu", i);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), row[i].qualification, "row %zu", i);
        resume(sim);
    }
    sim_free(sim);
}

/* Unknown bits of the exit reason are the host's: of those that a CPU adds L1 sees only enclave mode (bit 27). */
Test(reflect, exit_reason_bits) {
    struct sim *sim = l2_running(NULL);
    cr_assert_eq(sim_exit(sim, 0x7fff0000u | NVMX_EXIT_CPUID, 0, 0, 2), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), 0x08000000u | NVMX_EXIT_CPUID);
    sim_free(sim);
}

/* SDM 30.1, 27.8.3: the valid bit of the VM-entry interruption information is cleared, the rest of the field stays. */
Test(reflect, injection_is_done_with) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, 0x18);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE), 0x18);
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO), 0xb0d);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) >> 31, 0, "not injected again");
    sim_free(sim);
}

/* -- launch state
 * -------------------------------------------------------------------------------------------------------------- */

Test(reflect, launch_state_follows_the_first_entry) {
    struct sim *sim = l1_ready(NULL);
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 5);
    launch(sim);
    l2_leaves(sim);
    cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID);
    cr_expect_eq(sim_instruction_error(sim), 4);
    resume(sim);
    sim_free(sim);
}

/* -- entries that hardware refuses
 * --------------------------------------------------------------------------------------------------- */

Test(reflect, hardware_refuses_guest_state) {
    struct sim *sim = l1_ready(NULL);
    uint32_t number;

    fill_information(sim);
    launch(sim);
    number = sim->selected;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_ENTRY_FAILURE | NVMX_EXIT_INVALID_GUEST_STATE, 3, 0, 0), NVMX_ENTER);
    expect_l1_at_its_handler(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), 0x80000021);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 3);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 0x777, "other information stays");
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), 0x1000, "guest state stays");
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID, "the launch state is still clear");
    sim_set(sim, number, NVMX_F_GUEST_RSP, 0xbad);
    sim_set(sim, number, NVMX_F_PRIMARY_CONTROLS, 0xbad);
    launch(sim);
    cr_expect_neq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS), 0xbad, "controls are written anew");
    sim_free(sim);
}

/* A VM entry that fails for a reason that is not L1's to see (a machine check), or that nobody knows, is the host's (SDM 29.9). */
Test(reflect, entry_failures_of_the_host) {
    static const uint32_t reasons[] = {41, 0, 35, 86, 0xffff};
    for (size_t i = 0; i < COUNT(reasons); i++) {
        struct sim *sim = l2_running(NULL);
        cr_expect_eq(sim_exit(sim, NVMX_EXIT_ENTRY_FAILURE | reasons[i], 0, 0, 0), NVMX_HOST, "reason %u", reasons[i]);
        cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "reason %u", reasons[i]);
        sim_free(sim);
    }
}

Test(reflect, hardware_refuses_controls) {
    struct sim *sim = l1_ready(NULL);
    uint64_t rip = vmcs01(sim, NVMX_F_GUEST_RIP);

    launch(sim);
    cr_assert_eq(nvmx_entry_refused(sim->vcpu, 7), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RIP), rip + 3, "past VMLAUNCH");
    cr_expect_eq(vmcs01(sim, NVMX_F_GUEST_RFLAGS) & 0x8d5, 0x40, "VMfailValid");
    cr_expect_eq(sim_instruction_error(sim), 7);
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID, "the launch state is still clear");
    launch(sim);
    l2_leaves(sim);
    resume(sim);
    cr_assert_eq(nvmx_entry_refused(sim->vcpu, 8), NVMX_ENTER);
    cr_expect_eq(sim_instruction_error(sim), 8);
    resume(sim);
    sim_free(sim);
}

/* After L2 ran there is no VMLAUNCH left that could fail: the host can't go on with this vCPU. */
Test(reflect, late_refusal_stops) {
    struct sim *sim = l2_running(NULL);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_HLT, 0, 0, 1), NVMX_ENTER);
    resume(sim);
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_EXTERNAL_INTERRUPT, 0, 0, 0), NVMX_HOST);
    cr_expect_eq(nvmx_entry_refused(sim->vcpu, 7), NVMX_STOP);
    cr_expect_eq(nvmx_stop_reason(sim->vcpu), NVMX_STOP_HOST);
    sim_free(sim);
}

/* -- entries that the model refuses
 * ---------------------------------------------------------------------------------------------------- */

Test(reflect, vmfail_changes_nothing) {
    struct sim *sim = l1_ready(NULL);
    static const struct {
        uint32_t encoding;
        uint64_t value;
        uint32_t error;
    } bad[] = {
        {NVMX_VMCS_PIN_BASED_CONTROLS, 0, 7},
        {NVMX_VMCS_CR3_TARGET_COUNT, 5, 7},
        {NVMX_VMCS_HOST_CR0, 0, 8},
        {NVMX_VMCS_HOST_TR_SELECTOR, 0, 8},
    };
    fill_information(sim);
    for (size_t i = 0; i < COUNT(bad); i++) {
        uint64_t good = l1_reads(sim, bad[i].encoding);
        l1_writes(sim, bad[i].encoding, bad[i].value);
        struct sim_vmcs before = sim->vmcs[NVMX_VMCS01];
        cr_expect_eq(sim_vmlaunch(sim), SIM_FAIL_VALID, "row %zu", i);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            bool expected = slot == NVMX_F_GUEST_RIP || slot == NVMX_F_GUEST_RFLAGS ||
                            nvmx_encoding_read_only(nvmx_field_info(slot)->encoding);
            cr_expect(expected || before.value[slot] == vmcs01(sim, (enum nvmx_field)slot), "row %zu changes %s of L1",
                      i, nvmx_field_info(slot)->name);
        }
        cr_expect_eq(sim_instruction_error(sim), bad[i].error, "row %zu", i);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), 0);
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0x777);
        l1_writes(sim, bad[i].encoding, good);
    }
    launch(sim);
    sim_free(sim);
}

static void expect_entry_failure(struct sim *sim, uint32_t reason, uint64_t qualification) {
    expect_l1_at_its_handler(sim);
    uint64_t info = l1_reads(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO);

    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_ENTRY_FAILURE | reason);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), qualification);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 0x777);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x777);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0x777);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), 0x777);
    cr_expect_eq(info, 0x80000b0d, "the injection stays valid");
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RSP), 0x3000, "guest state stays");
    cr_expect_eq(sim_vmresume(sim), SIM_FAIL_VALID, "the launch state is still clear");
}

/* SDM 29.8: exit reason and qualification; nothing else of the VMCS changes. */
Test(reflect, entry_failures) {
    struct sim *sim = l1_ready(NULL);

    fill_information(sim);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000b0d);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect_entry_failure(sim, NVMX_EXIT_INVALID_GUEST_STATE, 0);
    l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 2);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, SIM_L1_VMCS_A);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect_entry_failure(sim, NVMX_EXIT_INVALID_GUEST_STATE, 4);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);

    static const uint64_t list[] = {0xc0000081, 0x1111, 0xc0000100, 0, 0xc0000082, 0x2222}; /* FS base is not allowed */
    sim_write(sim, SIM_L1_MSR_LISTS + 0x800, list, sizeof(list));
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x800);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
    cr_assert_eq(sim_vmlaunch(sim), SIM_ENTRY_FAILED);
    expect_entry_failure(sim, NVMX_EXIT_MSR_LOADING, 2);
    cr_expect_eq(sim_msr(sim, 0xc0000081)->value, 0x1111, "entries before it are loaded");
    cr_expect_eq(sim_msr(sim, 0xc0000082)->value, 0);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    launch(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0d);
    sim_free(sim);
}

/* -- fields that stay in vmcs02 until L1 asks
 * ------------------------------------------------------------------------------------------------ */

Test(reflect, stale_fields_are_fetched_and_learned) {
    struct sim *sim = l2_running(NULL);
    uint32_t number = sim->selected;

    sim_set(sim, number, NVMX_F_GUEST_GS_BASE, 0x12345000);
    sim_set(sim, number, NVMX_F_GUEST_DS_LIMIT, 0x5555);
    l2_leaves(sim);
    struct cost before = cost_now(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_GS_BASE), 0x12345000);
    cr_expect_eq(cost_since(sim, before).selects, 2, "fetched from vmcs02");
    before = cost_now(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_DS_LIMIT), 0x5555);
    cr_expect_eq(cost_since(sim, before).selects, 0, "the others came with it");
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x1002);
    resume(sim);
    sim_set(sim, number, NVMX_F_GUEST_GS_BASE, 0x54321000);
    l2_leaves(sim);
    before = cost_now(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_GS_BASE), 0x54321000);
    cr_expect_eq(cost_since(sim, before).selects, 0, "read ahead of time");
    sim_free(sim);
}

/* What L1 writes over a stale field counts, and only that. */
Test(reflect, written_stale_fields) {
    struct sim *sim = l2_running(NULL);
    uint32_t number = sim->selected;

    sim_set(sim, number, NVMX_F_GUEST_GS_BASE, 0x1000);
    sim_set(sim, number, NVMX_F_GUEST_FS_BASE, 0x2000);
    l2_leaves(sim);
    l1_writes(sim, NVMX_VMCS_GUEST_GS_BASE, 0x3000);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_FS_BASE), 0x2000);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_GS_BASE), 0x3000);
    resume(sim);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_GS_BASE), 0x3000);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_FS_BASE), 0x2000);
    sim_free(sim);
}

/* Every field of the guest-state area that an exit saves: L2's value comes to L1, and L1's to L2. */
Test(reflect, guest_state_both_ways) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2 | 1u << 14);
    l1_sets(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 2 | 1u << 18);
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, UINT64_C(0x0007040600070406));
    launch(sim);
    const struct vmcs12 *v = &sim->vcpu->vmcs12[sim->vcpu->current];
    unsigned int count = 0;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        if (!nvmx_set_has(&v->saved, slot))
            continue;
        uint64_t good = sim_get(sim, sim->selected, (enum nvmx_field)slot), saved = good ^ 0x40;
        sim_set(sim, sim->selected, (enum nvmx_field)slot, saved);
        /* not by an instruction, which leaves L2 active and nothing pending */
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_TRIPLE_FAULT, 0, 0, 0), NVMX_ENTER);
        cr_expect_eq(l1_reads(sim, info->encoding), saved & nvmx_field_mask(slot), "%s is saved", info->name);
        l1_writes(sim, info->encoding, good);
        resume(sim);
        cr_expect_eq(vmcs02(sim, (enum nvmx_field)slot), good, "%s is loaded", info->name);
        count++;
    }
    cr_expect(count > 55, "%u fields", count);
    sim_free(sim);
}

/* SDM 30.3.1: without the save controls vmcs12 keeps what L1 wrote, and it is loaded again. */
Test(reflect, unsaved_fields_stay) {
    struct sim *sim = l1_ready(NULL);
    l1_sets(sim, NVMX_VMCS_VM_ENTRY_CONTROLS, 1u << 2 | 1u << 14 | 1u << 15);
    l1_clears(sim, NVMX_VMCS_VM_EXIT_CONTROLS, 1u << 2 | 1u << 18 | 1u << 20);
    l1_writes(sim, NVMX_VMCS_GUEST_PAT, 6);
    launch(sim);
    static const struct {
        enum nvmx_field slot;
        uint64_t written, changed;
    } fields[] = {
        {NVMX_F_GUEST_PAT, 6, 1},
        {NVMX_F_GUEST_EFER, 0x500, 0xd01},
        {NVMX_F_GUEST_DR7, 0x400, 0x401},
        {NVMX_F_GUEST_DEBUGCTL, 0, 1},
    };
    for (size_t i = 0; i < COUNT(fields); i++)
        sim_set(sim, sim->selected, fields[i].slot, fields[i].changed);
    l2_leaves(sim);
    for (size_t i = 0; i < COUNT(fields); i++)
        cr_expect_eq(l1_reads(sim, nvmx_field_info(fields[i].slot)->encoding), fields[i].written, "row %zu", i);
    resume(sim);
    for (size_t i = 0; i < COUNT(fields); i++)
        cr_expect_eq(vmcs02(sim, fields[i].slot), fields[i].written, "row %zu", i);
    sim_free(sim);
}

/* SDM 30.3.2: EFER.LMA goes into "IA-32e mode guest". */
Test(reflect, lma_is_saved_in_the_entry_controls) {
    struct sim *sim = l2_running(NULL);
    uint64_t entry = vmcs02(sim, NVMX_F_VM_ENTRY_CONTROLS);
    sim_set(sim, sim->selected, NVMX_F_VM_ENTRY_CONTROLS, entry & ~UINT64_C(0x200));
    uint64_t l1s = sim->vcpu->vmcs12[0].value[NVMX_F_VM_ENTRY_CONTROLS];
    l2_leaves(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_ENTRY_CONTROLS), l1s & ~UINT64_C(0x200));
    sim_free(sim);
}

/* -- EPT violations
 * ---------------------------------------------------------------------------------------------------------------------------
 */

static const struct nvmx_l2_exit_info violation = {
    .reason = NVMX_EXIT_EPT_VIOLATION,
    .qualification = 0x182, /* a write; nothing permitted; linear address valid, final translation */
    .guest_linear_address = 0x5008,
    .guest_physical_address = 0x5008,
};

Test(reflect, ept_violation_is_resolved) {
    struct sim *sim = l2_running(NULL);
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "nothing for L1 in it");
    cr_expect_eq(nvmx_counts(sim->vcpu)->handled, 1);
    sim_free(sim);
}

Test(reflect, ept_violation_of_ept12_is_reflected) {
    struct sim *sim = l2_running(NULL);
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, sim_gpa1_of(0x5000) | 0x31); /* read only */
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    expect_l1_at_its_handler(sim);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EPT_VIOLATION);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0x18a, "what ept12 permits is L1's to read");
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), 0x5008);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), 0x5008);
    sim_free(sim);
}

Test(reflect, ept_misconfiguration_is_reflected_as_one) {
    struct sim *sim = l2_running(NULL);
    fill_information((l2_leaves(sim), sim));
    resume(sim);
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, sim_gpa1_of(0x5000) | 0x32); /* writable, not readable */
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EPT_MISCONFIGURATION);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_QUALIFICATION), 0);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_PHYSICAL_ADDRESS), 0x5008);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_LINEAR_ADDRESS), 0x777, "not defined by this exit");
    sim_free(sim);
}

/* SDM 30.2.5 leaves it undefined; KVM in L1 skips an access to a device by it (Linux 6.1: handle_ept_misconfig, where CPUID tells of no hypervisor). */
Test(reflect, ept_misconfiguration_comes_with_the_length_that_hardware_gives) {
    struct sim *sim = l2_running(NULL);
    l2_leaves(sim);
    resume(sim);
    struct nvmx_l2_exit_info with_length = violation;
    with_length.instruction_length = 7;
    sim_write64(sim, SIM_L1_EPT12 + 0x3000 + 5 * 8, sim_gpa1_of(0x5000) | 0x32);
    cr_assert_eq(sim_exit_info(sim, &with_length), NVMX_ENTER);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EPT_MISCONFIGURATION);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH), 7);
    sim_free(sim);
}

Test(reflect, ept_violation_of_ept01_is_the_hosts) {
    struct sim *sim = l2_running(NULL);
    sim_ept01(sim, sim_gpa1_of(0x5000), 0x1000, 0, 12, 0, 0);
    cr_assert_eq(nvmx_memory_changed(sim->vcpu, sim_gpa1_of(0x5000), 0x1000), NVMX_OK);
    cr_assert_eq(sim_exit_info(sim, &violation), NVMX_HOST);
    cr_expect_eq(nvmx_host_fault_gpa1(sim->vcpu), sim_gpa1_of(0x5008));
    cr_expect_eq(sim->selected, NVMX_VMCS02_FIRST, "the VMCS that exited stays selected");
    sim_free(sim);
}
