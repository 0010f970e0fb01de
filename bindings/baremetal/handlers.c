/* SPDX-License-Identifier: MIT */
/* Exits that are the host's own business: a table of handlers by exit reason. They work on the VMCS that exited, L1's
 * or L2's. */
#include "console.h"
#include "host.h"

#define INTERRUPTION_VALID      (1u << 31)
#define INTERRUPTION_ERROR_CODE (1u << 11)
#define INTERRUPTION_TYPE_SHIFT 8
#define TYPE_NMI                2u
#define TYPE_HARDWARE_EXCEPTION 3u
#define TYPE_HAS_LENGTH(type)   ((type) >= 4 && (type) <= 6) /* software interrupts and exceptions */
#define BLOCKING_STI_MOVSS      3u
#define BLOCKING_NMI            8u
#define DEBUG_BTF               (1u << 1)
#define PENDING_BS              (1u << 14)
#define QUALIFICATION_NMI_UNBLOCKED (1u << 12)
#define MAPPED_FAULTS_MAX       1000u
#define CS_LONG                 (1u << 13)

static bool in_64bit_mode(void) {
    return vmcs_get(NVMX_VMCS_GUEST_EFER) & EFER_LMA && vmcs_get(NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS) & CS_LONG;
}

static __attribute__((noinline, cold)) void skip_with_care(uint64_t rip, uint64_t blocking, uint64_t rflags) {
    vmcs_put(NVMX_VMCS_GUEST_RIP, in_64bit_mode() ? rip : rip & 0xffffffff);
    vmcs_put(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, blocking & ~(uint64_t)BLOCKING_STI_MOVSS);
    if (rflags & RFLAGS_TF && !(vmcs_get(NVMX_VMCS_GUEST_DEBUGCTL) & DEBUG_BTF))
        vmcs_put(NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS,
                 vmcs_get(NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS) | PENDING_BS);
}

void skip_instruction(void) {
    uint64_t before = vmcs_get(NVMX_VMCS_GUEST_RIP), rip = before + vmcs_get(NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH);
    uint64_t blocking = vmcs_get(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE), rflags = vmcs_get(NVMX_VMCS_GUEST_RFLAGS);

    /* Where RIP keeps its upper half the mode does not matter: outside 64-bit mode it has 32 bits. */
    if (RARELY((before ^ rip) >> 32 | (blocking & BLOCKING_STI_MOVSS) | (rflags & RFLAGS_TF)))
        skip_with_care(rip, blocking, rflags);
    else
        vmcs_put(NVMX_VMCS_GUEST_RIP, rip);
}

/* The instruction runs again, after its fault or at once, and a breakpoint on it is not met again: the exit has saved RF as 0 (SDM 30.3.3). */
void set_resume_flag(void) {
    vmcs_put(NVMX_VMCS_GUEST_RFLAGS, vmcs_get(NVMX_VMCS_GUEST_RFLAGS) | RFLAGS_RF);
}

/*
 * Faults, all of them: the image of RFLAGS that they push, or that the exit saves, has RF set (SDM 19.3.1.1). L2's is an exit to L1 where L1's exception bitmap
 * says so (SDM 28.2), for an event that is injected asks nobody.
 */
void inject_exception(uint8_t vector, bool has_error_code, uint32_t error_code) {
    struct cpu *cpu = this_cpu();
    struct nvmx_l2_exit_info fault = {
        .reason = REASON_EXCEPTION_OR_NMI,
        .interruption_info = vector | TYPE_HARDWARE_EXCEPTION << INTERRUPTION_TYPE_SHIFT | INTERRUPTION_VALID,
    };

    /* Real mode has no error codes (SDM 29.2.1.3). */
    if (has_error_code && vmcs_get(NVMX_VMCS_GUEST_CR0) & CR0_PE) {
        fault.interruption_info |= INTERRUPTION_ERROR_CODE;
        fault.interruption_error_code = error_code;
    }
    set_resume_flag();
    if (cpu->selected != NVMX_VMCS01 && nvmx_l1_intercepts(cpu->vcpu, &fault)) {
        nvmx_l2_exit(cpu->vcpu, &fault); /* where it stops the vCPU nvmx_enter says so, too */
        return;
    }
    if (fault.interruption_info & INTERRUPTION_ERROR_CODE)
        vmcs_put(NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, fault.interruption_error_code);
    vmcs_put(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, fault.interruption_info);
}

static void inject_gp(void) {
    inject_exception(VECTOR_GP, true, 0);
}

void deliver_nmi(struct cpu *cpu) {
    uint64_t blocking = vmcs_get(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE);

    if (cpu->waits_for_startup) /* it stays pending (SDM 29.7.2), and an entry that injects it is refused (SDM 29.3.1.5) */
        return;
    /* With blocking by STI some processors refuse the injection (SDM 29.3.1.5). */
    if (blocking & (BLOCKING_NMI | BLOCKING_STI_MOVSS) ||
        vmcs_get(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO) & INTERRUPTION_VALID) {
        /* Tried again before the next entry, which virtual NMIs bring about in time. */
        cpu->exit.nmi_window = processors_count() > 1;
        if (cpu->exit.nmi_window)
            vmcs01_nmi_window(true);
        return;
    }
    vmcs_put(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO,
             VECTOR_NMI | TYPE_NMI << INTERRUPTION_TYPE_SHIFT | INTERRUPTION_VALID);
    cpu->entry.nmi_owed = false;
}

/* An event whose delivery the exit interrupted has to be delivered again (SDM 30.2.4). */
static void restore_event_in_flight(void) {
    uint32_t info = (uint32_t)vmcs_get(NVMX_VMCS_IDT_VECTORING_INFO);
    uint32_t type = info >> INTERRUPTION_TYPE_SHIFT & 7;

    if (!(info & INTERRUPTION_VALID))
        return;
    if (info & INTERRUPTION_ERROR_CODE)
        vmcs_put(NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, vmcs_get(NVMX_VMCS_IDT_VECTORING_ERROR_CODE));
    if (TYPE_HAS_LENGTH(type))
        vmcs_put(NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH, vmcs_get(NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH));
    /* It could not be injected while the blocking by itself is on (SDM 29.3.1.5). */
    if (type == TYPE_NMI)
        vmcs_put(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
                 vmcs_get(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE) & ~(uint64_t)BLOCKING_NMI);
    vmcs_put(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, info & ~(1u << 12)); /* bit 12 is undefined here, reserved there */
}

/* -- one handler per reason --------------------------------------------------------------------------------------- */

static void handle_triple_fault(struct cpu *cpu) {
    (void)cpu;
    panic("L1 shut down (triple fault)");
}

bool exit_is_nmi(void) {
    uint32_t info = (uint32_t)vmcs_get(NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO);

    return info & INTERRUPTION_VALID && (info >> INTERRUPTION_TYPE_SHIFT & 7) == TYPE_NMI;
}

/* With several processors NMIs exit. This one is the guest's; it gets it before the next entry. */
static void handle_nmi(struct cpu *cpu) {
    if (!exit_is_nmi())
        panic("L0 intercepts no exceptions");
    cpu->entry.nmi_owed = true;
}

/* The NMI that is owed is delivered before the next entry. */
static void handle_nmi_window(struct cpu *cpu) {
    (void)cpu;
}

/* While L1 is in VMX root operation INIT stays pending (SDM 25.3); of L2 it is an exit. */
static void handle_init(struct cpu *cpu) {
    if (acpi_is_bochs())
        processor_reset(cpu);
    /* One that came while the processor waited for a start-up IPI would have changed nothing, but stayed pending (SDM 29.7.2). */
    if (cpu->exit.started_up && vmcs_get(NVMX_VMCS_GUEST_RIP) == 0)
        return;
    cpu->entry.init_owed = true;
}

static void handle_startup(struct cpu *cpu) {
    if (acpi_is_bochs())
        processor_reset(cpu);
    vmcs01_start_up((uint8_t)vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION));
    cpu->waits_for_startup = false;
    cpu->exit.started_up = true;
}

static void handle_task_switch(struct cpu *cpu) {
    (void)cpu;
    panic("L1 switched tasks through a TSS, which L0 does not emulate");
}

static inline void put_cpuid(struct cpu *cpu, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx) {
    cpu->regs.gpr[NVMX_RAX] = eax;
    cpu->regs.gpr[NVMX_RBX] = ebx;
    cpu->regs.gpr[NVMX_RCX] = ecx;
    cpu->regs.gpr[NVMX_RDX] = edx;
}

/* What L1 may see otherwise than the processor has it: features that L0 keeps, and what CR4 decides. */
static __attribute__((noinline)) void put_own_cpuid(struct cpu *cpu, uint32_t leaf, uint32_t subleaf) {
    struct cpuid r = cpuid_l1(leaf, subleaf);
    uint64_t cr4 = vmcs_get(NVMX_VMCS_GUEST_CR4);
    uint32_t regs[4];

    if (leaf == 1) {
        r.ecx &= ~(1u << 2 | 1u << 4 | 1u << 6 | 1u << 27); /* DTES64, DS_CPL: see msrs.c; SMX; OSXSAVE is L0's */
        r.edx &= ~(1u << 21);                               /* DS */
        r.ecx |= cr4 & CR4_OSXSAVE ? 1u << 27 : 0;
    } else if (leaf == 7 && !subleaf) {
        r.ebx &= ~(1u << 25); /* processor trace: see msrs.c */
        r.ecx &= ~(1u << 4);
        r.ecx |= cr4 & CR4_PKE ? 1u << 4 : 0; /* OSPKE */
    } else if (leaf == 7 && subleaf == 1) {
        /* What vmcs01 would have to enable, or has exits that L0 does not know: FRED with its event data, MSR lists; PBNDKB; MSRs by immediate; of users. */
        r.eax &= ~(1u << 17 | 1u << 27);
        r.ebx &= ~(1u << 1);
        r.ecx &= ~(1u << 5);
        r.edx &= ~(1u << 15);
    } else if (leaf == 0xd && subleaf == 1) {
        r.ecx &= ~(1u << 8); /* the state of processor trace, in IA32_XSS */
    }
    regs[0] = r.eax;
    regs[1] = r.ebx;
    regs[2] = r.ecx;
    regs[3] = r.edx;
    nvmx_cpuid(cpu->vm, leaf, regs);
    put_cpuid(cpu, regs[0], regs[1], regs[2], regs[3]);
}

static void handle_cpuid(struct cpu *cpu) {
    uint32_t leaf = (uint32_t)cpu->regs.gpr[NVMX_RAX], subleaf = (uint32_t)cpu->regs.gpr[NVMX_RCX];

    if (leaf == 1 || leaf == 7 || leaf == 0xd || cpuid_kept) {
        put_own_cpuid(cpu, leaf, subleaf);
    } else {
        struct cpuid r = cpuid(leaf, subleaf);
        put_cpuid(cpu, r.eax, r.ebx, r.ecx, r.edx);
    }
    skip_instruction();
}

/*
 * What L1's processor has not, though this one has: SEAMCALL and TDCALL, which exit whether or not anybody set TDX up; MSRs by immediate, and of users. And
 * GETSEC, for completeness: CR4.SMXE can't be set, so the processor gives #UD by itself.
 */
static void handle_undefined(struct cpu *cpu) {
    (void)cpu;
    inject_exception(VECTOR_UD, false, 0);
}

/* To drop the caches without writing them back would lose L0's data too. */
static void handle_invd(struct cpu *cpu) {
    (void)cpu;
    wbinvd();
    skip_instruction();
}

static void handle_vmcall(struct cpu *cpu) {
    if (cpu->regs.gpr[NVMX_RAX] == STATS_VMCALL && options.stats) {
        stats_print();
        skip_instruction();
    } else {
        nvmx_vmcall(cpu->vcpu);
    }
}

/* MOV to CR0 refuses the value by its own rules (SDM 2.5, 5.10.1). */
static bool cr0_faults(uint64_t value) {
    uint64_t old = vmcs_get(NVMX_VMCS_GUEST_CR0), cr4 = vmcs_get(NVMX_VMCS_GUEST_CR4);
    bool lme = vmcs_get(NVMX_VMCS_GUEST_EFER) & EFER_LME;
    bool code64 = vmcs_get(NVMX_VMCS_GUEST_CS_ACCESS_RIGHTS) & CS_LONG;

    if (value >> 32 || (value & (CR0_PG | CR0_PE)) == CR0_PG || (value & (CR0_NW | CR0_CD)) == CR0_NW ||
        (!(value & CR0_WP) && cr4 & CR4_CET))
        return true;
    if (value & ~old & CR0_PG)
        return lme && (!(cr4 & CR4_PAE) || code64);
    return old & ~value & CR0_PG && ((lme && code64) || cr4 & CR4_PCIDE);
}

/* The same for CR4. */
static bool cr4_faults(uint64_t value) {
    uint64_t old = vmcs_get(NVMX_VMCS_GUEST_CR4);
    bool lma = vmcs_get(NVMX_VMCS_GUEST_EFER) & EFER_LMA;

    if (value & ~rdmsr(MSR_VMX_CR4_FIXED1) || (lma && (!(value & CR4_PAE) || (value ^ old) & CR4_LA57)) ||
        (value & CR4_CET && !(vmcs_get(NVMX_VMCS_GUEST_CR0) & CR0_WP)))
        return true;
    return value & ~old & CR4_PCIDE && (!lma || vmcs_get(NVMX_VMCS_GUEST_CR3) & 0xfff);
}

/*
 * L1 wrote a masked bit of CR0 or CR4 differently from its read shadow. If it may, the shadow follows and the
 * instruction runs again: it then agrees with the shadow, so the processor carries it out, with all its own checks and
 * mode changes, and keeps the real bit. A value that those checks refuse must not get so far: the shadow would keep it.
 */
static void handle_cr_access(struct cpu *cpu) {
    uint64_t qualification = vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION);
    uint32_t number = qualification & 15, gpr = qualification >> 8 & 15;
    uint32_t shadow_field = number ? NVMX_VMCS_CR4_READ_SHADOW : NVMX_VMCS_CR0_READ_SHADOW;
    uint64_t mask = vmcs_get(number ? NVMX_VMCS_CR4_GUEST_HOST_MASK : NVMX_VMCS_CR0_GUEST_HOST_MASK);
    uint64_t shadow = vmcs_get(shadow_field);
    uint64_t value;

    if ((number && number != 4) || qualification >> 4 & 3)
        panic("unexpected control-register exit, qualification 0x%lx", qualification);
    value = gpr == NVMX_RSP ? vmcs_get(NVMX_VMCS_GUEST_RSP) : cpu->regs.gpr[gpr];
    if (value >> 32 && !in_64bit_mode())
        value &= 0xffffffff; /* what is left in a register from 64-bit mode is no part of it here */
    /* Of L2's bits only SMXE is masked for L0's sake. */
    if ((number && value & CR4_SMXE) || (cpu->selected == NVMX_VMCS01 && !nvmx_cr_allowed(cpu->vcpu, number, value))) {
        inject_gp();
        return;
    }
    if (number ? cr4_faults(value) : cr0_faults(value)) {
        inject_gp();
        return;
    }
    vmcs_put(shadow_field, (shadow & ~mask) | (value & mask));
    set_resume_flag();
}

static void handle_rdmsr(struct cpu *cpu) {
    uint64_t value;

    if (!l1_rdmsr(cpu, (uint32_t)cpu->regs.gpr[NVMX_RCX], &value)) {
        inject_gp();
        return;
    }
    cpu->regs.gpr[NVMX_RAX] = (uint32_t)value;
    cpu->regs.gpr[NVMX_RDX] = value >> 32;
    skip_instruction();
}

static void handle_wrmsr(struct cpu *cpu) {
    uint64_t value = (uint32_t)cpu->regs.gpr[NVMX_RAX] | cpu->regs.gpr[NVMX_RDX] << 32;

    if (l1_wrmsr(cpu, (uint32_t)cpu->regs.gpr[NVMX_RCX], value))
        skip_instruction();
    else
        inject_gp();
}

static void handle_entry_failure(struct cpu *cpu) {
    panic("the processor refused the state in VMCS %u (exit reason 0x%x, qualification 0x%lx)", cpu->selected,
          cpu->exit_reason, vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION));
}

/* A violation at what is mapped comes once at most, from a translation that the processor still holds, or because another processor was
 * faster; else L1 would stand still. */
static void check_progress(struct cpu *cpu, uint64_t gpa1) {
    struct nvmx_ept01_mapping mapping;
    uint64_t rip = vmcs_get(NVMX_VMCS_GUEST_RIP);

    if (ept01_find(gpa1, &mapping) != NVMX_OK || rip != cpu->fault_rip)
        cpu->faults_in_a_row = 0;
    else if (++cpu->faults_in_a_row == MAPPED_FAULTS_MAX)
        panic("access to 0x%lx faults again and again, though it is mapped", gpa1);
    cpu->fault_rip = rip;
}

/* IRET had ended the blocking by NMI when it faulted, and is going to be executed again (SDM 30.2.3). */
static void note_nmi_unblocked(struct cpu *cpu) {
    if (cpu->selected == NVMX_VMCS01 && vmcs_get(NVMX_VMCS_EXIT_QUALIFICATION) & QUALIFICATION_NMI_UNBLOCKED &&
        !(vmcs_get(NVMX_VMCS_IDT_VECTORING_INFO) & INTERRUPTION_VALID))
        vmcs_put(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
                 vmcs_get(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE) | BLOCKING_NMI);
}

/* Of L2 also what hardware reports as a misconfiguration or an SPP-related event, and is none: nvmx_host_fault_gpa1. */
static void handle_ept_violation(struct cpu *cpu) {
    uint64_t gpa1 =
        cpu->selected == NVMX_VMCS01 ? vmcs_get(NVMX_VMCS_GUEST_PHYSICAL_ADDRESS) : nvmx_host_fault_gpa1(cpu->vcpu);

    if (gpa1 == NVMX_NO_ADDRESS)
        panic("L0's page pool is exhausted: give it more memory (boot option memory=)");
    if (dirty_fault(gpa1)) {
        note_nmi_unblocked(cpu);
        restore_event_in_flight();
        return;
    }
    check_progress(cpu, gpa1);
    if (!resize_give_back(gpa1) && !ept01_fill(gpa1))
        panic("access to 0x%lx, an address that this processor does not have", gpa1);
    note_nmi_unblocked(cpu);
    restore_event_in_flight();
}

/* XCR0 is L1's: L0 never uses the registers that it controls. */
static void handle_xsetbv(struct cpu *cpu) {
    uint64_t value = (uint32_t)cpu->regs.gpr[NVMX_RAX] | cpu->regs.gpr[NVMX_RDX] << 32;
    bool ok;

    write_cr4(read_cr4() | CR4_OSXSAVE);
    ok = xsetbv_safe((uint32_t)cpu->regs.gpr[NVMX_RCX], value);
    write_cr4(read_cr4() & ~CR4_OSXSAVE);
    if (ok)
        skip_instruction();
    else
        inject_gp();
}

static void (*const handler[])(struct cpu *) = {
    [0] = handle_nmi,            [2] = handle_triple_fault,   [3] = handle_init,
    [4] = handle_startup,        [8] = handle_nmi_window,     [9] = handle_task_switch,
    [10] = handle_cpuid,         [11] = handle_undefined,     [13] = handle_invd,
    [18] = handle_vmcall,        [28] = handle_cr_access,     [30] = handle_io,
    [31] = handle_rdmsr,         [32] = handle_wrmsr,         [33] = handle_entry_failure,
    [34] = handle_entry_failure, [41] = handle_entry_failure, [48] = handle_ept_violation,
    [49] = handle_ept_violation, [55] = handle_xsetbv,        [66] = handle_ept_violation,
    [76] = handle_undefined,     [77] = handle_undefined,     [80] = handle_undefined,
    [81] = handle_undefined,     [84] = handle_undefined,     [85] = handle_undefined,
};

void handle_exit(struct cpu *cpu) {
    uint32_t reason = cpu->exit_reason & 0xffff;

    if (reason >= sizeof handler / sizeof handler[0] || !handler[reason])
        panic("exit with reason %u, which L0 does not expect", reason);
    handler[reason](cpu);
}
