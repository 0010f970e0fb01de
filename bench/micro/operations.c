/* SPDX-License-Identifier: MIT */
#include "operations.h"

#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

/* What operations keep between `before` and `timed`; one machine at a time. */
static struct {
    uint64_t eptp12, next, other_eptp12;
    uint32_t reason, flip;
    uint64_t field[NVMX_FIELD_COUNT];
    uint8_t *blob;
    size_t blob_bytes, blob_used;
} now;

static void call(struct machine *m) {
    nvmx_exit(machine_vcpu(m, 0), now.reason);
}

static void arm(struct machine *m, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length) {
    now.reason = reason;
    machine_arm(m, 0, reason, qualification, info, length);
}

void operation_base(struct machine *m) {
    machine_vmcs12(m, 0, 0);
}

static void to_root(struct machine *m) {
    machine_to_root(m, 0);
}

static struct nvmx_regs *regs(struct machine *m) {
    return &m->sim[0]->regs;
}

/* -- exits of L2 that L1 gets: RIP alone is new at each entry ---------------------------------------------------------------------- */

#define REFLECTED(NAME, REASON, QUALIFICATION, INFO, LENGTH, MORE)                                                     \
    static void before_##NAME(struct machine *m) {                                                                     \
        machine_to_root(m, 0);                                                                                         \
        machine_to_l2(m, 0);                                                                                           \
        arm(m, REASON, QUALIFICATION, INFO, LENGTH);                                                                   \
        MORE;                                                                                                          \
    }
REFLECTED(cpuid, EXIT_CPUID, 0, 0, 2, )
REFLECTED(hlt, EXIT_HLT, 0, 0, 1, )
REFLECTED(vmcall, EXIT_VMCALL, 0, 0, 3, )
REFLECTED(io, EXIT_IO, 0x80 << 16, 0, 2, )
REFLECTED(rdmsr, EXIT_RDMSR, 0, 0, 2, regs(m)->gpr[NVMX_RCX] = 0x10)
REFLECTED(wrmsr, EXIT_WRMSR, 0, 0, 2, regs(m)->gpr[NVMX_RCX] = 0x10)
REFLECTED(cr3, EXIT_CR_ACCESS, 3, 0, 3, )
REFLECTED(exception, EXIT_EXCEPTION, 0, 0, 2, machine_arm_event(m, 0, 0x80000306))
REFLECTED(mmio, EXIT_EPT_VIOLATION, 0x181, 0, 3, machine_arm_address(m, 0, 0x800000))
REFLECTED(host_rdmsr, EXIT_RDMSR, 0, 0, 2, regs(m)->gpr[NVMX_RCX] = 0x277)

/* -- entries ---------------------------------------------------------------------------------------------------------------------------- */

static void ready_to_resume(struct machine *m) {
    machine_to_l2(m, 0);
    machine_to_root(m, 0);
    now.flip ^= 1;
}

static void before_resume(struct machine *m) {
    ready_to_resume(m);
    arm(m, EXIT_VMRESUME, 0, 0, 3);
}

#define RESUMED(NAME, ENCODING, VALUE)                                                                                 \
    static void before_resume_##NAME(struct machine *m) {                                                              \
        ready_to_resume(m);                                                                                            \
        machine_write(m, 0, ENCODING, VALUE);                                                                          \
        arm(m, EXIT_VMRESUME, 0, 0, 3);                                                                                \
    }
RESUMED(rip, NVMX_VMCS_GUEST_RIP, 0x1000 + now.flip)
RESUMED(injection, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000020)
RESUMED(cr3, NVMX_VMCS_GUEST_CR3, 0x2000 + 0x1000 * now.flip)
RESUMED(fs_base, NVMX_VMCS_GUEST_FS_BASE, 0x7000 * now.flip)
RESUMED(control, NVMX_VMCS_TSC_OFFSET, now.flip)
RESUMED(exiting, NVMX_VMCS_PRIMARY_CONTROLS, machine_read(m, 0, NVMX_VMCS_PRIMARY_CONTROLS) ^ 1u << 9)
RESUMED(host_state, NVMX_VMCS_HOST_RSP, SIM_L1_STACK + 8 * now.flip)
RESUMED(eptp, NVMX_VMCS_EPT_POINTER, now.flip ? now.eptp12 : now.other_eptp12)

static void setup_eptps(struct machine *m) {
    operation_base(m);
    now.eptp12 = machine_ept12(m, 2 * MIB, 12);
    now.other_eptp12 = machine_ept12(m, 2 * MIB, 12);
}

static void before_enter(struct machine *m) {
    machine_to_l2(m, 0);
}

static void timed_enter(struct machine *m) {
    nvmx_enter(machine_vcpu(m, 0), NULL);
}

/* -- L1's own -------------------------------------------------------------------------------------------------------------------------- */

static void before_l1_cpuid(struct machine *m) {
    machine_to_root(m, 0);
    arm(m, EXIT_CPUID, 0, 0, 2);
}

#define REGISTER_OPERAND(NAME, REASON, ENCODING, VALUE)                                                                \
    static void before_##NAME(struct machine *m) {                                                                     \
        machine_to_root(m, 0);                                                                                         \
        now.flip ^= 1;                                                                                                 \
        regs(m)->gpr[NVMX_RCX] = ENCODING;                                                                             \
        regs(m)->gpr[NVMX_RBX] = VALUE;                                                                                \
        arm(m, REASON, 0, INFO_REGISTERS, 3);                                                                          \
    }
REGISTER_OPERAND(vmread, EXIT_VMREAD, NVMX_VMCS_HOST_TR_BASE, 0)
REGISTER_OPERAND(vmwrite, EXIT_VMWRITE, NVMX_VMCS_GUEST_RIP, 0x1000 + now.flip)
REGISTER_OPERAND(vmwrite_control, EXIT_VMWRITE, NVMX_VMCS_TSC_OFFSET, now.flip)

/* A field that L1 does not usually read: hardware still has it. */
static void before_vmread_stale(struct machine *m) {
    machine_to_root(m, 0);
    machine_to_l2(m, 0);
    machine_to_root(m, 0);
    regs(m)->gpr[NVMX_RCX] = NVMX_VMCS_GUEST_IDTR_LIMIT;
    arm(m, EXIT_VMREAD, 0, INFO_REGISTERS, 3);
}

static void memory_operand(struct machine *m, uint32_t reason, uint32_t info, uint64_t low, uint64_t high) {
    machine_to_root(m, 0);
    sim_write64(m->sim[0], SIM_L1_OPERAND, low);
    sim_write64(m->sim[0], SIM_L1_OPERAND + 8, high);
    regs(m)->gpr[NVMX_RCX] = 1;
    arm(m, reason, SIM_L1_OPERAND, INFO_MEMORY | info, 4);
}

static void before_vmptrst(struct machine *m) {
    memory_operand(m, EXIT_VMPTRST, 0, 0, 0);
}

static void before_vmptrld(struct machine *m) {
    memory_operand(m, EXIT_VMPTRLD, 0, machine_vmcs_gpa1(0, 0), 0);
}

static void before_vmclear(struct machine *m) {
    sim_region(m->sim[0], machine_vmcs_gpa1(0, 1));
    memory_operand(m, EXIT_VMCLEAR, 0, machine_vmcs_gpa1(0, 1), 0);
}

static void before_invvpid(struct machine *m) {
    memory_operand(m, EXIT_INVVPID, INFO_TYPE_RCX, 1, 0);
}

/* -- several VMCSs --------------------------------------------------------------------------------------------------------------------- */

void operation_cycle(struct machine *m, uint32_t cpu) {
    machine_read(m, cpu, NVMX_VMCS_EXIT_REASON);
    uint64_t length = machine_read(m, cpu, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH);
    uint64_t rip = machine_read(m, cpu, NVMX_VMCS_GUEST_RIP);
    machine_write(m, cpu, NVMX_VMCS_GUEST_RIP, rip + length);
    machine_exit(m, cpu, EXIT_VMRESUME, 0, 0, 3);
    machine_exit(m, cpu, EXIT_CPUID, 0, 0, 2);
}

static void timed_cycle(struct machine *m) {
    operation_cycle(m, 0);
}

static void setup_two(struct machine *m) {
    machine_vmcs12(m, 0, 1);
    machine_vmcs12(m, 0, 0);
}

static void timed_two(struct machine *m) {
    machine_vmptrld(m, 0, 1);
    operation_cycle(m, 0);
    machine_vmptrld(m, 0, 0);
    operation_cycle(m, 0);
}

static void timed_relaunch(struct machine *m) {
    sim_vmclear(m->sim[0], machine_vmcs_gpa1(0, 0));
    machine_vmptrld(m, 0, 0);
    sim_vmlaunch(m->sim[0]);
    machine_to_root(m, 0);
}

/* -- L2's memory ------------------------------------------------------------------------------------------------------------------------- */

static void setup_fresh(struct machine *m, uint64_t bytes, unsigned int shift) {
    operation_base(m);
    now.eptp12 = machine_ept12(m, bytes, shift);
    now.next = 0;
    machine_write(m, 0, NVMX_VMCS_EPT_POINTER, now.eptp12);
    machine_to_l2(m, 0);
}

static void setup_fresh_4k(struct machine *m) {
    setup_fresh(m, GIB, 12);
}

static void setup_fresh_2m(struct machine *m) {
    setup_fresh(m, 16 * GIB, 21);
}

static void touch_next(struct machine *m, uint64_t step) {
    machine_to_l2(m, 0);
    arm(m, EXIT_EPT_VIOLATION, 0x181, 0, 3);
    machine_arm_address(m, 0, now.next);
    now.next += step;
}

static void before_touch_4k(struct machine *m) {
    touch_next(m, 4096);
}

static void before_touch_2m(struct machine *m) {
    touch_next(m, 2 * MIB);
}

static void setup_live(struct machine *m) {
    setup_fresh(m, GIB, 12);
    for (uint64_t gpa2 = 0; gpa2 < GIB; gpa2 += 4096)
        machine_touch(m, 0, gpa2);
    machine_to_root(m, 0);
}

/* L1 drops what hardware may have cached, L2 goes on, and exits. */
static void timed_invept(struct machine *m) {
    machine_invept(m, 0, now.eptp12);
    machine_to_l2(m, 0);
    machine_to_root(m, 0);
}

static void change(struct machine *m, uint64_t gpa2) {
    *machine_ept12_entry(m, now.eptp12, gpa2, 1) ^= UINT64_C(1) << 30;
}

static void before_one_changed(struct machine *m) {
    machine_to_root(m, 0);
    change(m, 0x123000);
}

static void timed_one_changed(struct machine *m) {
    machine_invept(m, 0, now.eptp12);
    machine_to_l2(m, 0);
    machine_touch(m, 0, 0x123000);
    machine_to_root(m, 0);
}

static void before_all_changed(struct machine *m) {
    machine_to_l2(m, 0);
    for (uint64_t gpa2 = 0; gpa2 < GIB; gpa2 += 4096)
        machine_touch(m, 0, gpa2);
    machine_to_root(m, 0);
    for (uint64_t gpa2 = 0; gpa2 < GIB; gpa2 += 4096)
        change(m, gpa2);
}

/* -- pieces that hosts call by themselves ------------------------------------------------------------------------------------------- */

static void setup_check(struct machine *m) {
    operation_base(m);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint64_t value = 0;
        if (sim_vmread(m->sim[0], nvmx_field_info(slot)->encoding, &value) == SIM_SUCCEED)
            now.field[slot] = value;
    }
}

static void check(struct machine *m, uint32_t groups) {
    const struct nvmx_check_input in = {
        .field = now.field,
        .caps = nvmx_l1_caps(m->vm),
        .current_vmcs = machine_vmcs_gpa1(0, 0),
        .vmxon_pointer = 0x800000,
        .l1_long_mode = true,
    };
    struct nvmx_check_failure failure;
    if (!nvmx_check_first(&in, groups, &failure))
        machine_fail("a good vmcs12 is refused by row %u", failure.row);
}

static void timed_check(struct machine *m) {
    check(m, NVMX_CHECK_ALL);
}

static void setup_state(struct machine *m) {
    operation_base(m);
    machine_to_l2(m, 0);
    now.blob_bytes = nvmx_state_size(machine_vcpu(m, 0));
    free(now.blob);
    now.blob = calloc(1, now.blob_bytes);
    if (!now.blob || nvmx_state_save(machine_vcpu(m, 0), now.blob, now.blob_bytes, &now.blob_used) != NVMX_OK)
        machine_fail("the state is not saved");
}

static void timed_save(struct machine *m) {
    nvmx_state_save(machine_vcpu(m, 0), now.blob, now.blob_bytes, &now.blob_used);
}

static void timed_restore(struct machine *m) {
    if (nvmx_state_restore(machine_vcpu(m, 0), now.blob, now.blob_used, NULL) != NVMX_STATE_OK ||
        nvmx_state_complete(machine_vcpu(m, 0)) != NVMX_OK)
        machine_fail("the state is not restored");
}

static void nothing(struct machine *m) {
    (void)m;
}

const struct operation operations[] = {
    {"reflect.cpuid", operation_base, before_cpuid, call, false, false},
    {"reflect.hlt", operation_base, before_hlt, call, false, false},
    {"reflect.vmcall", operation_base, before_vmcall, call, false, false},
    {"reflect.io", operation_base, before_io, call, false, false},
    {"reflect.rdmsr", operation_base, before_rdmsr, call, false, false},
    {"reflect.wrmsr", operation_base, before_wrmsr, call, false, false},
    {"reflect.cr3", operation_base, before_cr3, call, false, false},
    {"reflect.exception", operation_base, before_exception, call, false, false},
    {"reflect.mmio", operation_base, before_mmio, call, false, false},
    {"resume.unchanged", operation_base, before_resume, call, false, false},
    {"resume.rip", operation_base, before_resume_rip, call, false, false},
    {"resume.injection", operation_base, before_resume_injection, call, false, false},
    {"resume.cr3", operation_base, before_resume_cr3, call, false, false},
    {"resume.fs_base", operation_base, before_resume_fs_base, call, false, false},
    {"resume.tsc_offset", operation_base, before_resume_control, call, false, false},
    {"resume.primary_controls", operation_base, before_resume_exiting, call, false, false},
    {"resume.host_rsp", operation_base, before_resume_host_state, call, false, false},
    {"resume.eptp", setup_eptps, before_resume_eptp, call, false, false},
    {"cycle.cpuid", operation_base, to_root, timed_cycle, false, false},
    {"cycle.two_vmcs12s", setup_two, to_root, timed_two, false, false},
    {"cycle.relaunch", operation_base, to_root, timed_relaunch, false, false},
    {"enter.nothing_pending", operation_base, before_enter, timed_enter, false, false},
    {"host.rdmsr_of_l2", operation_base, before_host_rdmsr, call, false, false},
    {"host.cpuid_of_l1", operation_base, before_l1_cpuid, call, false, false},
    {"vmread", operation_base, before_vmread, call, false, false},
    {"vmread.still_in_hardware", operation_base, before_vmread_stale, call, false, false},
    {"vmwrite.guest", operation_base, before_vmwrite, call, false, false},
    {"vmwrite.control", operation_base, before_vmwrite_control, call, false, false},
    {"vmptrst", operation_base, before_vmptrst, call, false, false},
    {"vmptrld.same", operation_base, before_vmptrld, call, false, false},
    {"vmclear.other", operation_base, before_vmclear, call, false, false},
    {"invvpid", operation_base, before_invvpid, call, false, false},
    {"touch.4k", setup_fresh_4k, before_touch_4k, call, false, true},
    {"touch.2m", setup_fresh_2m, before_touch_2m, call, false, true},
    {"invept.unchanged_1g", setup_live, to_root, timed_invept, true, false},
    {"invept.one_changed_1g", setup_live, before_one_changed, timed_one_changed, true, false},
    {"invept.all_changed_1g", setup_live, before_all_changed, timed_invept, true, true},
    {"check.all", setup_check, nothing, timed_check, false, false},
    {"state.save", setup_state, nothing, timed_save, false, false},
    {"state.restore", setup_state, nothing, timed_restore, false, false},
};
const size_t operation_count = sizeof(operations) / sizeof(operations[0]);
