/* SPDX-License-Identifier: MIT */
/* MSR lists, what a VM exit loads, several VMCSs in turn (SDM vol. 3C, 29.3.2, 29.4, 30.3-30.6). */
#include "scenarios.h"

static uint8_t msr_passing[4096] __attribute__((aligned(4096)));

static void pass_msrs(void) {
    memset(msr_passing, 0, sizeof msr_passing);
    vmwrite(MSR_BITMAP, (uint64_t)msr_passing);
}

/* MSR lists. */

struct msr_entry {
    uint32_t index, reserved;
    uint64_t value;
};
static struct msr_entry entry_load[2] __attribute__((aligned(16)));
static struct msr_entry exit_store[3] __attribute__((aligned(16)));
static struct msr_entry exit_load[2] __attribute__((aligned(16)));
static uint64_t saved_star, saved_lstar, saved_kernel_gs;

DEFINE_L2_CODE(msr_lists,
    "mov $0xc0000102, %ecx\n rdmsr\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rbx\n"
    "mov $0xc0000081, %ecx\n rdmsr\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rsi\n"
    "mov $0x00230008, %edx\n mov $0x77, %eax\n wrmsr\n" EXIT "vmcall\n"
    "rdmsr\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rsi\n" EXIT "vmcall\n");


static void msr_lists_setup(struct l2 *l2) {
    (void)l2;
    pass_msrs();
    saved_star = rdmsr(MSR_STAR);
    saved_lstar = rdmsr(MSR_LSTAR);
    saved_kernel_gs = rdmsr(MSR_KERNEL_GS_BASE);
    wrmsr(MSR_LSTAR, 0x4321);
    entry_load[0] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0x12340000};
    entry_load[1] = (struct msr_entry){MSR_STAR, 0, 0x0010000800000000};
    exit_store[0] = (struct msr_entry){MSR_STAR, 0, 0};
    exit_store[1] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0};
    exit_store[2] = (struct msr_entry){MSR_LSTAR, 0, 0};
    exit_load[0] = (struct msr_entry){MSR_KERNEL_GS_BASE, 0, 0x56780000};
    exit_load[1] = (struct msr_entry){MSR_STAR, 0, 0x0020001000000000};
    vmwrite(ENTRY_MSR_LOAD, (uint64_t)entry_load);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 2);
    vmwrite(EXIT_MSR_STORE, (uint64_t)exit_store);
    vmwrite(EXIT_MSR_STORE_COUNT, 3);
    vmwrite(EXIT_MSR_LOAD, (uint64_t)exit_load);
    vmwrite(EXIT_MSR_LOAD_COUNT, 2);
}
static void msr_lists_first(struct l2 *l2) {
    step_equal("kernel_gs_in_l2", l2->regs.gpr[RBX], 0x12340000);
    step_equal("star_in_l2", l2->regs.gpr[RSI], 0x0010000800000000);
    step_equal("star_stored", exit_store[0].value, 0x0023000800000077);
    step_equal("kernel_gs_stored", exit_store[1].value, 0x12340000);
    step_equal("lstar_stored", exit_store[2].value, 0x4321);
    step_equal("kernel_gs_in_l1", rdmsr(MSR_KERNEL_GS_BASE), 0x56780000);
    step_equal("star_in_l1", rdmsr(MSR_STAR), 0x0020001000000000);
    entry_load[1].value = 0x0033003000000000;
    vmwrite(EXIT_MSR_STORE_COUNT, 0);
    vmwrite(EXIT_MSR_LOAD_COUNT, 1);
    then_skip(l2);
}
static void msr_lists_second(struct l2 *l2) {
    step_equal("star_in_l2_again", l2->regs.gpr[RSI], 0x0033003000000000);
    step_equal("not_stored", exit_store[0].value, 0x0023000800000077);
    step_equal("star_not_loaded", rdmsr(MSR_STAR), 0x0033003000000000);
    wrmsr(MSR_STAR, saved_star);
    wrmsr(MSR_LSTAR, saved_lstar);
    wrmsr(MSR_KERNEL_GS_BASE, saved_kernel_gs);
}
static const struct expected_exit msr_lists_exits[] = {
    VMCALL_EXIT("first", .then = msr_lists_first),
    VMCALL_EXIT("second", .then = msr_lists_second),
};

/* Host state: everything that a VM exit loads has another value in L2, and another one in L1 before the entry. */

DEFINE_L2_CODE(host_state,
    "mov $0x174, %ecx\n xor %edx, %edx\n mov $0x77, %eax\n wrmsr\n inc %ecx\n wrmsr\n inc %ecx\n wrmsr\n"
    "mov $0xc0000100, %ecx\n mov $0x5000, %eax\n wrmsr\n inc %ecx\n wrmsr\n"
    "mov %cr4, %rax\n or $0x80, %rax\n mov %rax, %cr4\n mov %cr0, %rax\n or $2, %rax\n mov %rax, %cr0\n"
    "mov $0x701, %eax\n mov %rax, %dr7\n"
    "pushq $0x40ad7\n popfq\n" EXIT "vmcall\n");


static uint64_t other_pml4[512] __attribute__((aligned(4096)));
static void host_state_body(struct l2 *l2) {
    uint64_t cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4();
    pass_msrs();
    memcpy(other_pml4, l1_pml4, sizeof other_pml4);
    vmwrite(GUEST_DR7, 0x555);
    vmwrite(HOST_CR3, (uint64_t)other_pml4);
    vmwrite(HOST_CR4, cr4 | 0x10);              /* PSE: no meaning in 64-bit mode */
    vmwrite(HOST_FS_BASE, 0x1111000);
    vmwrite(HOST_GS_BASE, 0x2222000);
    vmwrite(HOST_SYSENTER_CS, 0x33);
    vmwrite(HOST_SYSENTER_ESP, 0x4444000);
    vmwrite(HOST_SYSENTER_EIP, 0x5555000);
    vmwrite(HOST_ES_SELECTOR, 0);
    vmwrite(HOST_GS_SELECTOR, 0);
    __asm__ volatile("movl %0, %%es" ::"r"(SEL_DATA));
    struct expected_exit expected = VMCALL_EXIT("vmcall", .point = 1);
    if (l2_expect(l2, &expected)) {
        struct descriptor_table gdtr = read_gdtr(), idtr = read_idtr();
        step_equal("cr0_differs", read_cr0() ^ cr0, 0);
        step_equal("cr3_differs", read_cr3() ^ (uint64_t)other_pml4, 0);
        step_equal("cr4_differs", read_cr4() ^ (cr4 | 0x10), 0);
        step_equal("rflags", l2->regs.host_rflags, 2);
        step_equal("dr7", read_dr7(), 0x400);
        step_equal("cs", read_cs(), SEL_CODE64);
        step_equal("ss", read_ss(), SEL_DATA);
        step_equal("ds", read_ds(), SEL_DATA);
        step_equal("es", read_es(), 0);
        step_equal("fs", read_fs(), SEL_DATA);
        step_equal("gs", read_gs(), 0);
        step_equal("tr", read_tr(), SEL_TSS);
        step_equal("ldtr", read_ldtr(), 0);
        step_equal("fs_base", rdmsr(MSR_FS_BASE), 0x1111000);
        step_equal("gs_base", rdmsr(MSR_GS_BASE), 0x2222000);
        step_equal("sysenter_cs", rdmsr(MSR_SYSENTER_CS), 0x33);
        step_equal("sysenter_esp", rdmsr(MSR_SYSENTER_ESP), 0x4444000);
        step_equal("sysenter_eip", rdmsr(MSR_SYSENTER_EIP), 0x5555000);
        step_equal("gdtr_limit", gdtr.limit, 0xffff);
        step_equal("gdtr_base_differs", gdtr.base ^ (uint64_t)l1_gdt, 0);
        step_equal("idtr_limit", idtr.limit, 0xffff);
        step_equal("efer", rdmsr(MSR_EFER) & (EFER_LMA | EFER_LME), EFER_LMA | EFER_LME);
        step_equal("guest_dr7", vmread(GUEST_DR7), 0x701);
        step_equal("guest_cr0", vmread(GUEST_CR0), 0x80010033);
        step_equal("guest_cr4", vmread(GUEST_CR4), 0x20a0);
        step_equal("guest_rflags", vmread(GUEST_RFLAGS), 0x40ad7);
        step_equal("guest_sysenter_eip", vmread(GUEST_SYSENTER_EIP), 0x77);
        step_equal("guest_gs_base", vmread(GUEST_GS_BASE), 0x5000);
    }
    write_cr4(cr4);
    write_cr3(cr3);
    __asm__ volatile("movl %0, %%es\n\tmovl %0, %%gs" ::"r"(SEL_DATA));
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

/* PAT, loaded by entry and exit. */
static const uint64_t pat_default = 0x0007040600070406, pat_l2 = 0x0606060606060606, pat_host = 0x0007010500070406;
DEFINE_L2_CODE(pat, "mov $0x277, %ecx\n rdmsr\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rbx\n"
    "mov $0x00070406, %eax\n mov $0x00070401, %edx\n wrmsr\n" EXIT "vmcall\n");


static void pat_setup(struct l2 *l2) {
    (void)l2;
    pass_msrs();
    wrmsr(MSR_PAT, pat_default);
    vmwrite(GUEST_PAT, pat_l2);
    vmwrite(HOST_PAT, pat_host);
}
static void pat_check(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RBX], pat_l2);
    step_equal("saved", vmread(GUEST_PAT), 0x0007040100070406);
    step_equal("in_l1", rdmsr(MSR_PAT), pat_host);
    wrmsr(MSR_PAT, pat_default);
}
static const struct expected_exit pat_exits[] = {
    VMCALL_EXIT("vmcall", .then = pat_check),
};
/* Neither loaded nor saved: one PAT for both. */
static void pat_free_check(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RBX], pat_default);
    step_equal("field_kept", vmread(GUEST_PAT), pat_l2);
    step_equal("in_l1", rdmsr(MSR_PAT), 0x0007040100070406);
    wrmsr(MSR_PAT, pat_default);
}
static const struct expected_exit pat_free_exits[] = {
    VMCALL_EXIT("vmcall", .then = pat_free_check),
};

/* What a VM exit loads of MSRs, where one exit after the other finds it written in between: by L1, by L2, by a WRMSR that is refused. */
DEFINE_L2_CODE(between,
    EXIT "vmcall\n" EXIT "vmcall\n" EXIT "vmcall\n" "mov $0x277, %ecx\n rdmsr\n shl $32, %rdx\n or %rax, %rdx\n mov %rdx, %rbx\n" EXIT "vmcall\n"
    "mov $0x00070406, %eax\n mov $0x00070401, %edx\n wrmsr\n mov $0x175, %ecx\n mov $0x6000, %eax\n xor %edx, %edx\n wrmsr\n" EXIT "vmcall\n"
    EXIT "vmcall\n");

static void between_setup(struct l2 *l2) {
    (void)l2;
    pass_msrs();
    wrmsr(MSR_PAT, pat_default);
    vmwrite(HOST_SYSENTER_CS, 0x33);
    vmwrite(HOST_SYSENTER_ESP, 0x4444000);
    vmwrite(HOST_SYSENTER_EIP, 0x5555000);
}
static void between_equal(uint64_t pat) {
    step_equal("sysenter_cs", rdmsr(MSR_SYSENTER_CS), 0x33);
    step_equal("sysenter_esp", rdmsr(MSR_SYSENTER_ESP), 0x4444000);
    step_equal("sysenter_eip", rdmsr(MSR_SYSENTER_EIP), 0x5555000);
    step_equal("pat", rdmsr(MSR_PAT), pat);
    step_equal("efer", rdmsr(MSR_EFER) & ~(uint64_t)1, EFER_LMA | EFER_LME);
}
static void between_same(struct l2 *l2) {
    between_equal(pat_default);
    then_skip(l2);
}
static void between_l1_writes(struct l2 *l2) {
    between_same(l2);
    wrmsr(MSR_SYSENTER_CS, 0x44);
    wrmsr(MSR_SYSENTER_ESP, 0x1000);
    wrmsr(MSR_SYSENTER_EIP, 0x2000);
}
static void between_l1_writes_pat(struct l2 *l2) {
    between_same(l2);
    wrmsr(MSR_PAT, pat_host);
}
static void between_pat(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RBX], pat_host);
    between_equal(pat_host);
    then_skip(l2);
}
static void between_l2_wrote(struct l2 *l2) {
    between_equal(0x0007040100070406);
    step_equal("guest_sysenter_esp", vmread(GUEST_SYSENTER_ESP), 0x6000);
    vmwrite(HOST_SYSENTER_EIP, 0x7777000);
    then_skip(l2);
}
static void between_last(struct l2 *l2) {
    (void)l2;
    step_equal("host_area", rdmsr(MSR_SYSENTER_EIP), 0x7777000);
    step_equal("pat", rdmsr(MSR_PAT), 0x0007040100070406);
    wrmsr(MSR_PAT, pat_default);
}
static const struct expected_exit between_exits[] = {
    VMCALL_EXIT("first", .then = between_same),          VMCALL_EXIT("second", .then = between_l1_writes),
    VMCALL_EXIT("l1_wrote", .then = between_l1_writes_pat), VMCALL_EXIT("l1_wrote_pat", .then = between_pat),
    VMCALL_EXIT("l2_wrote", .then = between_l2_wrote),   VMCALL_EXIT("last", .then = between_last),
};

/* EFER: SCE (bit 0) set in L2 only. */
enum { EFER_SCE = 1 };
DEFINE_L2_CODE(efer,
    "mov $0xc0000080, %ecx\n rdmsr\n mov %eax, %ebx\n xor $1, %eax\n wrmsr\n" EXIT "vmcall\n");

static void efer_setup(struct l2 *l2) {
    (void)l2;
    pass_msrs();
    vmwrite(GUEST_EFER, EFER_LMA | EFER_LME | EFER_SCE);
}
static void efer_check(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RBX], EFER_LMA | EFER_LME | EFER_SCE);
    step_equal("saved", vmread(GUEST_EFER), EFER_LMA | EFER_LME);
    step_equal("in_l1", rdmsr(MSR_EFER), EFER_LMA | EFER_LME);
}
static const struct expected_exit efer_exits[] = {
    VMCALL_EXIT("vmcall", .then = efer_check),
};
/* Without the loads L2 starts with L1's EFER, and what it changes stays. */
static void efer_free_setup(struct l2 *l2) {
    (void)l2;
    pass_msrs();
    wrmsr(MSR_EFER, EFER_LME | EFER_SCE);
}
static void efer_free_check(struct l2 *l2) {
    step_equal("in_l2", l2->regs.gpr[RBX], EFER_LMA | EFER_LME | EFER_SCE);
    step_equal("in_l1", rdmsr(MSR_EFER), EFER_LMA | EFER_LME);
    wrmsr(MSR_EFER, EFER_LME);
}
static const struct expected_exit efer_free_exits[] = {
    VMCALL_EXIT("vmcall", .then = efer_free_check),
};

/* Two VMCSs in turn, each with its own registers and launch state; then moved by VMCLEAR. */
DEFINE_L2_CODE(two, "1: inc %rax\n" EXIT "vmcall\n jmp 1b\n");


static void load(struct l2 *l2) {
    uint64_t pointer = (uint64_t)l2->vmcs;
    if (vmx_vmptrld(&pointer).flags != 0) {
        report_fatal("VMPTRLD failed");
    }
}
static void two_body(struct l2 *a) {
    static const struct controls none;
    static struct l2 b;
    b = *a;
    b.vmcs = &vmcs_b;
    vmcs_prepare(&vmcs_b, &none, &none, b.base);
    if ((cap.may.proc2 & PROC2_VPID) != 0) {
        vmwrite(VPID, 2);
    }
    vmwrite(GUEST_RSP, 0x9000);
    b.regs.gpr[RAX] = 0x1000;
    for (uint32_t i = 0; i < 3; i++) {
        struct expected_exit expected = VMCALL_EXIT("a", .point = 1);
        load(a);
        l2_expect(a, &expected);
        then_skip(a);
        expected.name = "b";
        load(&b);
        l2_expect(&b, &expected);
        then_skip(&b);
    }
    step_equal("count_a", a->regs.gpr[RAX], 3);
    step_equal("count_b", b.regs.gpr[RAX], 0x1003);
    uint64_t pointer = (uint64_t)a->vmcs;
    step_succeed("vmclear_a", vmx_vmclear(&pointer));
    struct expected_exit expected = VMCALL_EXIT("b_after_vmclear_a", .point = 1);
    l2_expect(&b, &expected);
    load(a);
    a->launched = false;
    expected.name = "a_relaunched";
    l2_expect(a, &expected);
    step_equal("rsp_a", vmread(GUEST_RSP), L2_STACK_TOP);
    load(&b);
    step_equal("rsp_b", vmread(GUEST_RSP), 0x9000);
}

/* Changes between two runs that only L1's VMWRITE makes: every one has to reach L2. */
DEFINE_L2_CODE(changes,
    EXIT "vmcall\n mov %fs:0, %rbx\n mov %cr0, %rcx\n mov %cr4, %rdx\n mov %dr7, %rsi\n pushfq\n pop %rdi\n"
    "str %r8d\n mov %rsp, %r9\n mov %ss, %r10d\n" EXIT "vmcall\n");

static void change_fields(struct l2 *l2) {
    l2_u64(L2_DATA)[2] = 0xfeed;
    vmwrite(GUEST_FS_BASE, L2_DATA + 16);
    vmcs_set(GUEST_CR0, 2, 0);
    vmcs_set(GUEST_CR4, 8, 0);
    vmwrite(GUEST_DR7, 0x402);
    vmwrite(GUEST_RFLAGS, 0x202);
    vmwrite(GUEST_RSP, 0x8ff8);
    vmwrite(GUEST_TR_SELECTOR, 0x28);
    then_skip(l2);
}
static void check_fields(struct l2 *l2) {
    step_equal("fs_base", l2->regs.gpr[RBX], 0xfeed);
    step_equal("cr0", l2->regs.gpr[RCX], 0x80010033);
    step_equal("cr4", l2->regs.gpr[RDX], 0x2028);
    step_equal("dr7", l2->regs.gpr[RSI], 0x402);
    step_equal("rflags", l2->regs.gpr[RDI], 0x202);
    step_equal("tr", l2->regs.gpr[R8], 0x28);
    step_equal("rsp", l2->regs.gpr[R9], 0x8ff8);
    step_equal("ss", l2->regs.gpr[R10], L2_SEL_DATA);
}
static const struct expected_exit changes_exits[] = {
    VMCALL_EXIT("first", .then = change_fields),
    VMCALL_EXIT("second", .then = check_fields),
};

/* VMXOFF and VMXON with an L2 in between: the VMCS can be launched again after VMCLEAR. */
DEFINE_L2_CODE(vmxoff, EXIT "vmcall\n" EXIT "vmcall\n");


static void off_and_on(struct l2 *l2) {
    uint64_t pointer = (uint64_t)l2->vmcs;
    then_skip(l2);
    vmx_vmclear(&pointer);
    vmx_off();
    step_equal("vmxon", vmx_on() ? 1 : 0, 1);
    load(l2);
    l2->launched = false;
}
static const struct expected_exit vmxoff_exits[] = {
    VMCALL_EXIT("before", .then = off_and_on),
    VMCALL_EXIT("after"),
};

enum { EXIT_PAT = EXIT_SAVE_PAT | EXIT_LOAD_PAT, EXIT_EFER = EXIT_SAVE_EFER | EXIT_LOAD_EFER };

static const struct scenario table[] = {
    SCENARIO("state.msr_lists", msr_lists, .on = {.proc = PROC_MSR_BITMAPS}, .setup = msr_lists_setup),
    SCENARIO_BODY("state.host", host_state, host_state_body, .on = {.proc = PROC_MSR_BITMAPS}),
    SCENARIO("state.pat", pat, .on = {.proc = PROC_MSR_BITMAPS, .exit = EXIT_PAT, .entry = ENTRY_LOAD_PAT},
         .setup = pat_setup),
    {.name = "state.pat_free", .kind = WITH_L2, L2_CODE(pat), EXITS(pat_free_exits), .setup = pat_setup,
     .on = {.proc = PROC_MSR_BITMAPS}, .off = {.exit = EXIT_PAT, .entry = ENTRY_LOAD_PAT}},
    {.name = "state.msrs_between", .kind = WITH_L2, L2_CODE(between), EXITS(between_exits), .setup = between_setup,
     .on = {.proc = PROC_MSR_BITMAPS}, .off = {.exit = EXIT_PAT, .entry = ENTRY_LOAD_PAT}},
    SCENARIO("state.efer", efer, .on = {.proc = PROC_MSR_BITMAPS, .exit = EXIT_EFER, .entry = ENTRY_LOAD_EFER},
         .setup = efer_setup),
    {.name = "state.efer_free", .kind = WITH_L2, L2_CODE(efer), EXITS(efer_free_exits), .setup = efer_free_setup,
     .on = {.proc = PROC_MSR_BITMAPS}, .off = {.exit = EXIT_EFER, .entry = ENTRY_LOAD_EFER}},
    SCENARIO_BODY("state.two_vmcs", two, two_body),
    SCENARIO("state.changes", changes, .setup = 0),
    SCENARIO("state.vmxoff", vmxoff, .setup = 0),
};

DEFINE_SCENARIOS(state, table);
