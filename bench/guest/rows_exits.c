/* SPDX-License-Identifier: MIT */
/* Exits of L2 that L1 gets, and those that only L0 sees. */
#include "rounds.h"

#include "serial.h"

/* -- L2's programs: endless loops around one instruction ----------------------------------------------------------------------- */

DEFINE_L2_CODE(vmcall, "1: vmcall\n jmp 1b\n");
DEFINE_L2_CODE(cpuid, "1: cpuid\n jmp 1b\n");
DEFINE_L2_CODE(out, "1: out %al, $0x80\n jmp 1b\n");
DEFINE_L2_CODE(rdmsr, "1: rdmsr\n jmp 1b\n");
DEFINE_L2_CODE(wrmsr, "1: wrmsr\n jmp 1b\n");
DEFINE_L2_CODE(rdtsc, "1: rdtsc\n jmp 1b\n");
DEFINE_L2_CODE(hlt, "1: hlt\n jmp 1b\n");
DEFINE_L2_CODE(int3, "1: int3\n jmp 1b\n");
DEFINE_L2_CODE(cr3, "1: mov %rcx, %cr3\n jmp 1b\n");
DEFINE_L2_CODE(mmio, "1: mov (%rbx), %eax\n jmp 1b\n");
/* The handler of the vector that L1 injects, then the loop that the interrupt hits. */
DEFINE_L2_CODE(interrupted, "1: vmcall\n jmp 1b\n .balign 16\n l2_interrupt_handler: iretq\n");
extern const uint8_t l2_interrupt_handler[];
/* An MSR that both let through, before each exit. */
DEFINE_L2_CODE(kernel_gs, "1: mov $0xc0000102, %ecx\n rdmsr\n cpuid\n jmp 1b\n");
/* RCX = MSR, R8 = number of accesses; a VMCALL at the end. */
DEFINE_L2_CODE(own_rdmsr, "1: rdmsr\n dec %r8\n jnz 1b\n 2: vmcall\n jmp 2b\n");

enum { VECTOR = 0x20, OWN_ACCESSES = 1000, OWN_LOOP = 3, OWN_SAMPLES = 8, LINUX_TICKS = 1000000 };

struct l2 rounds_l2;

/* What L2's programs find: the MMIO address in RBX, an MSR (the TSC) in RCX. */
static const struct bench_registers registers = {.rbx = L2_HOLE, .rcx = 0x10};
static uint8_t exit_stack[256] __attribute__((aligned(16)));
static uint8_t exit_all[4096] __attribute__((aligned(4096)));
static uint8_t exit_none[4096] __attribute__((aligned(4096)));

/* -- round trips --------------------------------------------------------------------------------------------------------------- */

void rounds_failed(uint64_t rflags) {
    print("bench: entry failed, flags %lx error %lu\n", rflags, vmread(INSTRUCTION_ERROR));
    power_off();
}

static void enter(void) {
    uint64_t rflags = l2_enter(&rounds_l2.regs, !rounds_l2.launched);

    if (rflags != 0) {
        rounds_failed(rflags);
    }
    rounds_l2.launched = true;
}

static void use_handler(const uint8_t *handler) {
    vmwrite(HOST_RIP, (uint64_t)handler);
    vmwrite(HOST_RSP, (uint64_t)exit_stack + sizeof exit_stack);
}

static void skip_instruction(void) {
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH));
}

/* No preemption timer: most hypervisors use none. */
void rounds_prepare(const uint8_t *code, const struct controls *on) {
    static const struct controls none;
    const struct scenario s = {
        .name = "bench", .kind = WITH_L2, .on = on != 0 ? *on : none, .off = {.pin = PIN_PREEMPTION_TIMER}, .code = code};

    l2_prepare(&rounds_l2, &s);
    rounds_l2.regs.gpr[RBX] = registers.rbx;
    rounds_l2.regs.gpr[RCX] = registers.rcx;
    if (on != 0 && (on->proc & PROC_MSR_BITMAPS) != 0) {
        memset(exit_all, 0xff, sizeof exit_all);
        vmwrite(MSR_BITMAP, (uint64_t)exit_all);
    }
}

void rounds_first_entry(const uint8_t *handler) {
    enter();
    skip_instruction();
    use_handler(handler);
}

void rounds_start(const uint8_t *code, const struct controls *on, const uint8_t *handler) {
    rounds_prepare(code, on);
    rounds_first_entry(handler);
}

void rounds_start_vmcall(void) {
    rounds_start(l2_vmcall, 0, bench_exit);
}

void rounds_other(struct vmcs_region *region, uint64_t vpid) {
    static const struct controls none, off = {.pin = PIN_PREEMPTION_TIMER};

    vmcs_prepare(region, &none, &off, rounds_l2.base);
    if ((cap.may.proc2 & PROC2_VPID) != 0) {
        vmwrite(VPID, vpid);
    }
    rounds_l2.launched = false;
    rounds_first_entry(bench_exit);
}

void round_trip(void) {
    uint64_t rflags = bench_round(&registers);

    if (rflags != 0) {
        rounds_failed(rflags);
    }
}

void round_trip_launch(void) {
    uint64_t rflags = bench_launch(&registers);

    if (rflags != 0) {
        rounds_failed(rflags);
    }
}

static void round_trips(const char *name, const uint8_t *code, const struct controls *on, const uint8_t *handler) {
    if (!measure_wanted(name)) {
        return;
    }
    rounds_start(code, on, handler);
    MEASURE(name, round_trip());
}

/* -- rows that need more than a program ---------------------------------------------------------------------------------------- */

static void exception(void) {
    rounds_prepare(l2_int3, 0);
    vmwrite(EXCEPTION_BITMAP, 1u << 3);
    rounds_first_entry(bench_exit);
    MEASURE("l2_exception", round_trip());
}

/* L1 injects an interrupt at each entry. */
static void injection(void) {
    rounds_prepare(l2_interrupted, 0);
    l2_gate(VECTOR, l2_interrupt_handler, 0, 0);
    vmwrite(GUEST_RFLAGS, 0x202);
    rounds_first_entry(bench_exit);
    MEASURE("l2_injection", {
        bare_vmwrite(ENTRY_INTERRUPTION_INFO, 1u << 31 | VECTOR);
        round_trip();
    });
}

/*
 * What Linux's KVM has on in every VMCS: IA32_PAT and IA32_EFER loaded and not saved, an MSR bitmap that lets something through, a TPR shadow, and a
 * preemption timer, which it writes at each entry while its guest waits for a deadline.
 */
static void as_linux(void) {
    static const struct controls on = {.proc = PROC_MSR_BITMAPS | PROC_TPR_SHADOW, .exit = EXIT_LOAD_PAT, .entry = ENTRY_LOAD_PAT};
    static uint8_t virtual_apic[4096] __attribute__((aligned(4096)));

    if (!measure_wanted("l2_cpuid_linux")) {
        return;
    }
    rounds_prepare(l2_kernel_gs, &on);
    vmwrite(MSR_BITMAP, (uint64_t)exit_none);
    vmwrite(VIRTUAL_APIC, (uint64_t)virtual_apic);
    vmwrite(GUEST_PAT, rdmsr(MSR_PAT));
    vmwrite(HOST_PAT, rdmsr(MSR_PAT));
    vmcs_set(EXIT_CONTROLS, 0, EXIT_SAVE_EFER);
    vmcs_set(PIN_CONTROLS, PIN_PREEMPTION_TIMER, 0);
    rounds_first_entry(bench_exit);
    MEASURE("l2_cpuid_linux", {
        bare_vmwrite(PREEMPTION_TIMER, LINUX_TICKS);
        round_trip();
    });
}

/* MSRs that both lists of L1 carry, as for registers that the VMCS has no field for. */
static void msr_lists(void) {
    static uint64_t list[8] __attribute__((aligned(16)));
    static const uint32_t msrs[] = {MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, 0xc0000084};

    for (uint32_t i = 0; i < 4; i++) {
        list[2 * i] = msrs[i];
        list[2 * i + 1] = rdmsr(msrs[i]);
    }
    rounds_prepare(l2_cpuid, 0);
    vmwrite(EXIT_MSR_STORE, (uint64_t)list);
    vmwrite(EXIT_MSR_LOAD, (uint64_t)list);
    vmwrite(ENTRY_MSR_LOAD, (uint64_t)list);
    vmwrite(EXIT_MSR_STORE_COUNT, 4);
    vmwrite(EXIT_MSR_LOAD_COUNT, 4);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 4);
    rounds_first_entry(bench_exit);
    MEASURE("l2_cpuid_msr_lists", round_trip());
}

/* Entries that fail: exit reason 33, L1 gets it without L2 having run. */
static void refused_entry(void) {
    rounds_start(l2_cpuid, 0, bench_exit_stay);
    vmwrite(GUEST_RFLAGS, 0);
    MEASURE("entry_failure", round_trip());
}

/* An RDMSR that L1 lets through but L0 must emulate: the loop is measured as a whole. */
static void rdmsr_of_l0(void) {
    static const struct controls on = {.proc = PROC_MSR_BITMAPS};

    if (!measure_wanted("l2_rdmsr_of_l0")) {
        return;
    }
    rounds_prepare(l2_own_rdmsr, &on);
    vmwrite(MSR_BITMAP, (uint64_t)exit_none);
    for (uint32_t i = 0; i < OWN_SAMPLES; i++) {
        uint64_t least = 0;
        for (uint32_t accesses = 1; accesses <= OWN_ACCESSES + 1; accesses += OWN_ACCESSES) {
            rounds_l2.regs.gpr[RCX] = MSR_VMX_BASIC;
            rounds_l2.regs.gpr[R8] = accesses;
            vmwrite(GUEST_RIP, rounds_l2.base);
            if (measure_traced("l2_rdmsr_of_l0") && i == OWN_SAMPLES - 1) {
                magic_break();
                enter();
                magic_break();
                return;
            }
            uint64_t before = ticks();
            enter();
            samples[i] = ticks() - before - least;
            least = samples[i];
        }
        samples[i] -= OWN_ACCESSES * OWN_LOOP;
    }
    print_differences("l2_rdmsr_of_l0", OWN_SAMPLES, OWN_ACCESSES);
}

void rows_of_exits(void) {
    static const struct controls io = {.proc = PROC_IO}, msr = {.proc = PROC_MSR_BITMAPS}, tsc = {.proc = PROC_RDTSC},
                                 halt = {.proc = PROC_HLT}, cr3 = {.proc = PROC_CR3_LOAD};

    round_trips("l2_cpuid", l2_cpuid, 0, bench_exit);
    round_trips("l2_cpuid_busy", l2_cpuid, 0, bench_exit_busy);
    round_trips("l2_out", l2_out, &io, bench_exit);
    round_trips("l2_vmcall", l2_vmcall, 0, bench_exit);
    round_trips("l2_vmcall_0_fields", l2_vmcall, 0, bench_exit_blind);
    round_trips("l2_vmcall_1_field", l2_vmcall, 0, bench_exit_stay);
    round_trips("l2_rdmsr", l2_rdmsr, 0, bench_exit);
    round_trips("l2_rdmsr_bitmap", l2_rdmsr, &msr, bench_exit);
    round_trips("l2_wrmsr_bitmap", l2_wrmsr, &msr, bench_exit);
    round_trips("l2_rdtsc", l2_rdtsc, &tsc, bench_exit);
    round_trips("l2_hlt", l2_hlt, &halt, bench_exit);
    round_trips("l2_cr3", l2_cr3, &cr3, bench_exit);
    round_trips("l2_mmio", l2_mmio, 0, bench_exit);
    if (measure_wanted("l2_exception")) {
        exception();
    }
    if (measure_wanted("l2_injection")) {
        injection();
    }
    as_linux();
    if (measure_wanted("l2_cpuid_msr_lists")) {
        msr_lists();
    }
    if (measure_wanted("entry_failure")) {
        refused_entry();
    }
    rdmsr_of_l0();
}
