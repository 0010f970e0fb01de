/* SPDX-License-Identifier: MIT */
/*
 * What libnvmx's blob and L1's memory don't hold: registers, vmcs01's guest state, MSRs, x87 to AVX-512, debug registers, the local APIC's
 * settings, COM1's, the interrupt masks of the PICs. Not carried: other devices, interrupts on their way, the PIT, performance counters.
 */
#include "console.h"
#include "move.h"

#define CR4_OSFXSR   (1ull << 9)
#define APIC_PAGE    0xfee00000ul
#define APIC_ENABLED (1u << 11)
#define APIC_X2      (1u << 10)
#define ENTRY_IA32E  (1u << 9)

enum { COM1_IER = COM1 + 1, COM1_IIR = COM1 + 2, COM1_LCR = COM1 + 3, COM1_MCR = COM1 + 4, COM1_LSR = COM1 + 5, COM1_SCR = COM1 + 7 };
#define LCR_DLAB  0x80
#define LSR_EMPTY 0x40
#define PIC1_MASK 0x21
#define PIC2_MASK 0xa1

/* -- tables ------------------------------------------------------------------------------------------------------- */

/* Others must be the same on both machines: ept01's memory types, and where the APIC is, follow them. */
static const struct {
    uint32_t first, last;
    bool must_be_same;
} carried_msrs[] = {
    {MSR_APIC_BASE, MSR_APIC_BASE, true}, {MSR_MTRR_PHYSBASE0, 0x20f, true},  {MSR_MTRR_FIX64K, MSR_MTRR_FIX64K, true},
    {MSR_MTRR_FIX16K, 0x259, true},       {MSR_MTRR_FIX4K, 0x26f, true},      {MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, true},
    {MSR_XSS, MSR_XSS, true},             {0xc0000081, 0xc0000084, false}, /* STAR, LSTAR, CSTAR, FMASK */
    {0xc0000102, 0xc0000103, false},      {0x48, 0x48, false},             /* KERNEL_GS_BASE, TSC_AUX; SPEC_CTRL */
};
#define CARRIED_MSRS (sizeof carried_msrs / sizeof carried_msrs[0])

/* TPR, LDR, DFR, SVR, LVTs of timer, thermal sensor, counters, LINT0, LINT1, error; divide configuration, initial count. SVR first: no LVT
 * of a disabled APIC can be unmasked. */
static const uint16_t carried_apic[] = {0xf0, 0x80, 0xd0, 0xe0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x3e0, 0x380};
#define CARRIED_APIC (sizeof carried_apic / sizeof carried_apic[0])
_Static_assert(CARRIED_APIC <= MOVE_APIC_MAX, "room");

/* Guest state, but the link pointer, which is libnvmx's; what L1 reads of masked bits; an event that the next entry injects. */
static bool is_carried(uint32_t encoding) {
    switch (encoding) {
    case NVMX_VMCS_CR0_READ_SHADOW:
    case NVMX_VMCS_CR4_READ_SHADOW:
    case NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO:
    case NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE:
    case NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH:
        return true;
    default:
        return (encoding >> 10 & 3) == 2 && encoding != NVMX_VMCS_VMCS_LINK_POINTER;
    }
}

/* -- XSAVE -------------------------------------------------------------------------------------------------------- */

static bool has_xsave(void) {
    return cpuid(1, 0).ecx >> 26 & 1;
}

static uint64_t xcr0_supported(void) {
    struct cpuid r = cpuid(0xd, 0);

    return r.eax | (uint64_t)r.edx << 32;
}

static uint32_t xsave_bytes(void) {
    return has_xsave() ? cpuid(0xd, 0).ecx : 512;
}

static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

/* L0's own CR4 has neither bit; everything there is may be saved, whatever L1 has enabled now. */
static void xsave(struct move_state *state) {
    uint64_t cr4 = read_cr4();

    write_cr4(cr4 | CR4_OSFXSR | (has_xsave() ? CR4_OSXSAVE : 0));
    if (has_xsave()) {
        state->xcr0 = xgetbv0();
        xsetbv_safe(0, xcr0_supported());
        __asm__ volatile("xsave64 %0" : "+m"(state->xsave) : "a"(~0u), "d"(~0u) : "memory");
        xsetbv_safe(0, state->xcr0);
    } else {
        __asm__ volatile("fxsave64 %0" : "+m"(state->xsave) : : "memory");
    }
    write_cr4(cr4);
}

static bool xrstor(const struct move_state *state) {
    uint64_t cr4 = read_cr4();
    uint32_t ok = 0;

    write_cr4(cr4 | CR4_OSFXSR | (has_xsave() ? CR4_OSXSAVE : 0));
    if (has_xsave()) {
        xsetbv_safe(0, xcr0_supported());
        __asm__ volatile("1: xrstor64 %1\n\tmovl $1, %0\n\t2:\n\t" EXCEPTION_ENTRY("1b", "2b")
                         : "+r"(ok) : "m"(state->xsave), "a"(~0u), "d"(~0u) : "memory");
        ok = ok && xsetbv_safe(0, state->xcr0);
    } else {
        __asm__ volatile("1: fxrstor64 %1\n\tmovl $1, %0\n\t2:\n\t" EXCEPTION_ENTRY("1b", "2b")
                         : "+r"(ok) : "m"(state->xsave) : "memory");
    }
    write_cr4(cr4);
    return ok != 0;
}

/* -- devices ------------------------------------------------------------------------------------------------------ */

static volatile uint32_t *apic_register(uint32_t offset) {
    return phys_to_virt(APIC_PAGE + offset);
}

static bool apic_is_there(void) {
    return rdmsr(MSR_APIC_BASE) & APIC_ENABLED;
}

static const char *apic_save(struct move_state *state) {
    if (!apic_is_there())
        return NULL;
    if (rdmsr(MSR_APIC_BASE) & APIC_X2 || rdmsr(MSR_APIC_BASE) >> 12 != APIC_PAGE >> 12)
        return "L1's local APIC is in x2APIC mode, or elsewhere";
    for (uint32_t word = 0; word < 8; word++)
        if (*apic_register(0x100 + 16 * word) || *apic_register(0x200 + 16 * word))
            return "L1's local APIC has an interrupt in service or on its way";
    for (uint32_t i = 0; i < CARRIED_APIC; i++)
        state->apic[i] = *apic_register(carried_apic[i]);
    return NULL;
}

static void apic_load(const struct move_state *state) {
    for (uint32_t i = 0; i < CARRIED_APIC && apic_is_there(); i++)
        *apic_register(carried_apic[i]) = state->apic[i];
}

/* What L1 has written is sent first. */
static void com1_save(struct move_state *state) {
    uint8_t lcr = inb(COM1_LCR);

    for (uint32_t tries = 0; tries < 1u << 22 && !(inb(COM1_LSR) & LSR_EMPTY); tries++) {
    }
    outb(COM1_LCR, lcr | LCR_DLAB);
    state->com1[0] = inb(COM1);
    state->com1[1] = inb(COM1_IER);
    outb(COM1_LCR, lcr & (uint8_t)~LCR_DLAB);
    state->com1[2] = inb(COM1_IER);
    outb(COM1_LCR, lcr);
    state->com1[3] = lcr;
    state->com1[4] = inb(COM1_MCR);
    state->com1[5] = inb(COM1_SCR);
    state->com1[6] = inb(COM1_IIR) >> 6 == 3;
    state->pic[0] = inb(PIC1_MASK);
    state->pic[1] = inb(PIC2_MASK);
}

static void com1_load(const struct move_state *state) {
    outb(COM1_LCR, LCR_DLAB);
    outb(COM1, state->com1[0]);
    outb(COM1_IER, state->com1[1]);
    outb(COM1_LCR, state->com1[3] & (uint8_t)~LCR_DLAB);
    outb(COM1_IIR, state->com1[6] ? 0xc7 : 0);
    outb(COM1_IER, state->com1[2]);
    outb(COM1_LCR, state->com1[3]);
    outb(COM1_MCR, state->com1[4]);
    outb(COM1_SCR, state->com1[5]);
    outb(PIC1_MASK, state->pic[0]);
    outb(PIC2_MASK, state->pic[1]);
}

/* -- registers ---------------------------------------------------------------------------------------------------- */

static void debug_save(struct move_state *state) {
    __asm__ volatile("movq %%dr0, %0" : "=r"(state->dr[0]));
    __asm__ volatile("movq %%dr1, %0" : "=r"(state->dr[1]));
    __asm__ volatile("movq %%dr2, %0" : "=r"(state->dr[2]));
    __asm__ volatile("movq %%dr3, %0" : "=r"(state->dr[3]));
    __asm__ volatile("movq %%dr6, %0" : "=r"(state->dr6));
}

static void debug_load(const struct move_state *state) {
    __asm__ volatile("movq %0, %%dr0" : : "r"(state->dr[0]));
    __asm__ volatile("movq %0, %%dr1" : : "r"(state->dr[1]));
    __asm__ volatile("movq %0, %%dr2" : : "r"(state->dr[2]));
    __asm__ volatile("movq %0, %%dr3" : : "r"(state->dr[3]));
    __asm__ volatile("movq %0, %%dr6" : : "r"(state->dr6 & 0xffffffff));
}

static void fields_save(struct move_state *state) {
    for (uint32_t slot = 0; slot < NVMX_FIELD_COUNT && state->fields < MOVE_FIELDS_MAX; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        uint64_t value;

        if (!is_carried(encoding) || !vmread_safe(encoding, &value))
            continue;
        state->field[state->fields].encoding = encoding;
        state->field[state->fields++].value = value;
    }
}

static void msrs_save(struct move_state *state) {
    for (uint32_t i = 0; i < CARRIED_MSRS; i++)
        for (uint32_t index = carried_msrs[i].first; index <= carried_msrs[i].last; index++) {
            uint64_t value;

            if (state->msrs == MOVE_MSRS_MAX || !rdmsr_safe(index, &value))
                continue;
            state->msr[state->msrs].index = index;
            state->msr[state->msrs++].value = value;
        }
}

const char *move_state_save(struct cpu *cpu, struct move_state *state) {
    const char *why;

    memset(state, 0, sizeof *state);
    if (xsave_bytes() > MOVE_XSAVE_MAX)
        return "the XSAVE area is too large";
    why = apic_save(state);
    if (why)
        return why;
    state->regs = cpu->regs;
    state->nmi_owed = cpu->entry.nmi_owed || cpu->nmi_pending;
    vmcs_use(cpu, NVMX_VMCS01);
    fields_save(state);
    vmcs_use(cpu, nvmx_selected(cpu->vcpu));
    msrs_save(state);
    debug_save(state);
    com1_save(state);
    state->xsave_bytes = xsave_bytes();
    xsave(state);
    state->tsc = rdmsr(MSR_TSC);
    return NULL;
}

/* -- the other side ----------------------------------------------------------------------------------------------- */

static const char *msr_check(uint64_t index, uint64_t value) {
    uint64_t here;

    for (uint32_t i = 0; i < CARRIED_MSRS; i++) {
        if (index < carried_msrs[i].first || index > carried_msrs[i].last)
            continue;
        if (!rdmsr_safe((uint32_t)index, &here))
            return "an MSR is not there on this machine";
        return carried_msrs[i].must_be_same && here != value ? "an MTRR, the APIC base or XSS differs on this machine" : NULL;
    }
    return "an MSR that is not carried";
}

const char *move_state_check(const struct move_state *state, uint32_t bytes) {
    if (bytes != sizeof *state || state->fields > MOVE_FIELDS_MAX || state->msrs > MOVE_MSRS_MAX)
        return "the processor's state has another size";
    if (state->xsave_bytes > MOVE_XSAVE_MAX || state->xsave_bytes > xsave_bytes())
        return "the XSAVE area has parts that this CPU lacks";
    for (uint32_t i = 0; i < state->fields; i++)
        if (state->field[i].encoding > UINT32_MAX || !is_carried((uint32_t)state->field[i].encoding))
            return "a VMCS field that is not carried";
    for (uint32_t i = 0; i < state->msrs; i++) {
        const char *why = msr_check(state->msr[i].index, state->msr[i].value);

        if (why)
            return why;
    }
    return NULL;
}

/* As the processor will check it at the next entry: what it refuses must be refused while L1 still runs elsewhere. */
static bool vmcs01_is_good(void) {
    static uint64_t field[NVMX_FIELD_COUNT];
    static struct nvmx_caps machine;
    struct nvmx_check_failure failure;
    struct nvmx_check_input input = {.field = field, .caps = &machine, .l1_long_mode = true, .pdpte_readable = true};

    host_read_machine(&machine);
    for (uint32_t slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (!vmread_safe(nvmx_field_info(slot)->encoding, &field[slot]))
            field[slot] = 0;
    if (nvmx_check_first(&input, 1u << NVMX_GROUP_EVENT | 1u << NVMX_GROUP_REGISTER | 1u << NVMX_GROUP_SEGMENT | 1u << NVMX_GROUP_NONREGISTER, &failure))
        return true;
    print("nvmx: move: L1's state breaks the rule %s: %s\n", nvmx_check_row(failure.row)->id, nvmx_check_row(failure.row)->rule);
    return false;
}

const char *move_state_load(struct cpu *cpu, const struct move_state *state) {
    for (uint32_t i = 0; i < state->fields; i++)
        if (!vmwrite_safe(state->field[i].encoding, state->field[i].value))
            return "a VMCS field is not there on this machine";
    if (vmcs_get(NVMX_VMCS_GUEST_EFER) & EFER_LMA) /* the one control that the processor itself changes */
        vmcs_put(NVMX_VMCS_VM_ENTRY_CONTROLS, vmcs_get(NVMX_VMCS_VM_ENTRY_CONTROLS) | ENTRY_IA32E);
    if (vmcs_get(NVMX_VMCS_GUEST_CR4) & CR4_SMXE || !vmcs01_is_good())
        return "L1's state is not one that a processor can have";
    for (uint32_t i = 0; i < state->msrs; i++) {
        uint64_t here = 0;

        rdmsr_safe((uint32_t)state->msr[i].index, &here);
        if (here != state->msr[i].value && !wrmsr_safe((uint32_t)state->msr[i].index, state->msr[i].value))
            return "an MSR does not take its value";
    }
    if (!xrstor(state))
        return "the XSAVE area or XCR0 is not one that this processor takes";
    debug_load(state);
    cpu->regs = state->regs;
    cpu->entry.nmi_owed = state->nmi_owed != 0;
    return NULL;
}

void move_state_go(const struct move_state *state) {
    com1_load(state);
    apic_load(state);
    wrmsr(MSR_TSC, state->tsc);
}
