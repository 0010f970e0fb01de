/* SPDX-License-Identifier: MIT */
/*
 * Exits of L2: any reason with any information, under any controls of L1 and of the host.
 *
 * Held: who gets it is what the SDM says, transcribed below rule by rule from chapter 28 (not from include/nvmx/exits.def); what L1 asked for goes to
 * L1, what neither asked for does not reach L1; nvmx_l1_intercepts says the same; L1 finds the exit's information in its vmcs12. Or a callback fails: nobody is lost.
 *
 * Input: profile, host's controls, exit, changes of vmcs12.
 */
#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define BIT(value, n) (((value) >> (n)) & 1)
#define RDX 2
#define BUS_LOCK (1u << 26) /* in an exit reason: L2 locked the bus (SDM 28.2) */

/* L2 as it is when it exits. */
struct l2 {
    const struct fuzz_machine *m;
    const uint64_t *f;
    struct nvmx_l2_exit_info exit; /* its reason without BUS_LOCK */
    bool bus_lock;
    uint64_t pin, primary, secondary;
    bool host_owns_interrupts, host_owns_nmis;
};

/* YES: L1's. NO: not L1's. ANY: depends on what is not modelled here (ept12, emulation by the library). */
enum wants { NO = 0, YES, ANY };

static enum wants yes_if(bool condition) {
    return condition ? YES : NO;
}

/* -- SDM 28.1.3 and 28.2, an exit reason each -------------------------------------------------------------------------------------------- */

static enum wants exception(const struct l2 *s) {
    uint32_t info = s->exit.interruption_info, vector = info & 0xff;
    if ((info >> 8 & 7) == 2) /* NMI */
        return s->host_owns_nmis ? NO : yes_if(BIT(s->pin, 3));
    if (vector == 18 && BIT(s->m->sim->vmcs[NVMX_VMCS01].value[NVMX_F_EXCEPTION_BITMAP], 18))
        return NO; /* the host's to survive */
    if (vector == 17 && BIT(s->m->sim->vmcs[NVMX_VMCS01].value[NVMX_F_EXCEPTION_BITMAP], 17))
        return ANY; /* a split lock, or L2 asked for it */
    bool wanted = BIT(s->f[NVMX_F_EXCEPTION_BITMAP], vector & 31);
    if (vector == 14 && !BIT(info, 11))
        return ANY; /* a page fault always has an error code: no processor reports this */
    if (vector == 14) {
        uint64_t code = s->exit.interruption_error_code & s->f[NVMX_F_PAGE_FAULT_ERROR_CODE_MASK];
        if (code != s->f[NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH])
            wanted = !wanted;
    }
    return yes_if(wanted);
}

static uint64_t moved_value(const struct l2 *s) {
    unsigned int number = s->exit.qualification >> 8 & 15;
    uint64_t value = number == NVMX_RSP ? s->f[NVMX_F_GUEST_RSP] : s->m->sim->regs.gpr[number];
    bool mode64 = BIT(s->f[NVMX_F_VM_ENTRY_CONTROLS], 9) && BIT(s->f[NVMX_F_GUEST_CS_ACCESS_RIGHTS], 13);
    return mode64 ? value : (uint32_t)value;
}

static bool differs(const struct l2 *s, enum nvmx_field mask, enum nvmx_field shadow, uint64_t value) {
    return ((value ^ s->f[shadow]) & s->f[mask]) != 0;
}

static bool is_cr3_target(const struct l2 *s, uint64_t value) {
    bool found = false;
    for (unsigned int i = 0; i < s->f[NVMX_F_CR3_TARGET_COUNT] && i < 4; i++)
        found = found || s->f[NVMX_F_CR3_TARGET_VALUE_0 + i] == value;
    return found;
}

static enum wants control_register(const struct l2 *s) {
    uint64_t q = s->exit.qualification, mask = s->f[NVMX_F_CR0_GUEST_HOST_MASK], shadow = s->f[NVMX_F_CR0_READ_SHADOW];
    unsigned int cr = q & 15, kind = q >> 4 & 3;
    if (kind == 0 && cr == 0)
        return yes_if(differs(s, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW, moved_value(s)));
    if (kind == 0 && cr == 4)
        return yes_if(differs(s, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW, moved_value(s)));
    if (kind == 0 && cr == 3)
        return yes_if(BIT(s->primary, 15) && !is_cr3_target(s, moved_value(s)));
    if (kind == 0 && cr == 8)
        return yes_if(BIT(s->primary, 19));
    if (kind == 1 && cr == 3)
        return yes_if(BIT(s->primary, 16));
    if (kind == 1 && cr == 8)
        return yes_if(BIT(s->primary, 20));
    if (kind == 2) /* CLTS */
        return yes_if(BIT(mask, 3) && BIT(shadow, 3));
    if (kind == 3) { /* LMSW: bit 0 only if it would be set; bits 3:1 if they differ */
        uint64_t source = q >> 16 & 0xffff;
        bool pe = BIT(mask, 0) && BIT(source, 0) && !BIT(shadow, 0);
        return yes_if(pe || ((source ^ shadow) & mask & 0xe) != 0);
    }
    return NO; /* no such access */
}

static bool page_bit(const struct l2 *s, uint64_t gpa1, uint32_t bit) {
    return gpa1 >= SIM_RAM_BYTES || BIT(s->m->sim->ram[gpa1 + bit / 8], bit % 8);
}

static enum wants io(const struct l2 *s) {
    uint32_t port = (uint32_t)(s->exit.qualification >> 16 & 0xffff), bytes = (uint32_t)(s->exit.qualification & 7) + 1;
    if (!BIT(s->primary, 25))
        return yes_if(BIT(s->primary, 24));
    if (port + bytes > 0x10000)
        return YES;
    bool wanted = false;
    for (uint32_t p = port; p < port + bytes; p++)
        wanted = wanted || page_bit(s, s->f[p < 0x8000 ? NVMX_F_IO_BITMAP_A_ADDRESS : NVMX_F_IO_BITMAP_B_ADDRESS], p & 0x7fff);
    return yes_if(wanted);
}

static enum wants msr(const struct l2 *s, uint32_t index, bool write) {
    bool low = index <= 0x1fff, high = index >= 0xc0000000 && index <= 0xc0001fff;
    if (!BIT(s->primary, 28) || (!low && !high))
        return YES;
    return yes_if(page_bit(s, s->f[NVMX_F_MSR_BITMAP_ADDRESS], (write ? 2048u * 8 : 0u) + (high ? 1024u * 8 : 0u) + (index & 0x1fff)));
}

static uint64_t tertiary(const struct l2 *s) {
    return BIT(s->primary, 17) ? s->f[NVMX_F_TERTIARY_CONTROLS] : 0;
}

/* PCONFIG and ENCLV: by leaf, as ENCLS. */
static enum wants leaf(const struct l2 *s, unsigned int control, enum nvmx_field bitmap) {
    uint32_t number = (uint32_t)s->m->sim->regs.gpr[NVMX_RAX];
    return yes_if(BIT(s->secondary, control) && BIT(s->f[bitmap], number < 63 ? number : 63));
}

static enum wants xsaves(const struct l2 *s) {
    uint64_t asked = s->m->sim->regs.gpr[RDX] << 32 | (uint32_t)s->m->sim->regs.gpr[NVMX_RAX];
    if (!BIT(s->secondary, 20) || (asked & s->f[NVMX_F_XSS_EXITING_BITMAP]) == 0)
        return NO;
    return ANY; /* depends on IA32_XSS */
}

static enum wants encls(const struct l2 *s) {
    uint32_t leaf = (uint32_t)s->m->sim->regs.gpr[NVMX_RAX];
    return yes_if(BIT(s->secondary, 15) && BIT(s->f[NVMX_F_ENCLS_EXITING_BITMAP], leaf < 63 ? leaf : 63));
}

/* Without VMCS shadowing all VMREADs exit; with it, those the bitmap names, or with an encoding too large for it. */
static enum wants vmread(const struct l2 *s) {
    return BIT(s->secondary, 14) ? ANY : YES;
}

static enum wants monitor_trap(const struct l2 *s) {
    uint64_t event = s->f[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    return yes_if(BIT(s->primary, 27) || (BIT(event, 31) && (event >> 8 & 7) == 7));
}

static enum wants l1_wants(const struct l2 *s) {
    switch (s->exit.reason) {
    case 0:
        return exception(s);
    case 1:
        return s->host_owns_interrupts ? NO : yes_if(BIT(s->pin, 0));
    case 2: case 4: case 9: case 10: case 11: case 13: case 18: case 19: case 20: case 21: case 22: case 24: case 26: case 27:
    case 55: case 76: case 77:
        return YES;
    case 50: case 53: /* INVEPT, INVVPID: #UD where L1's processor does not have them */
        return yes_if(BIT(nvmx_l1_caps(s->m->sim->vm)->msr[NVMX_CAP_EPT_VPID], s->exit.reason == 50 ? 20 : 32));
    case 7:
        return yes_if(BIT(s->primary, 2));
    case 8:
        return yes_if(BIT(s->primary, 22));
    case 12:
        return yes_if(BIT(s->primary, 7));
    case 14:
        return yes_if(BIT(s->primary, 9));
    case 58: /* INVPCID: #UD where it is not enabled, as the next ones */
        return yes_if(BIT(s->primary, 9) && BIT(s->secondary, 12));
    case 15:
        return yes_if(BIT(s->primary, 11));
    case 16:
        return yes_if(BIT(s->primary, 12));
    case 51: /* RDTSCP */
        return yes_if(BIT(s->primary, 12) && BIT(s->secondary, 3));
    case 67: case 68: /* UMWAIT, TPAUSE */
        return yes_if(BIT(s->primary, 12) && BIT(s->secondary, 26));
    case 23: case 25:
        return vmread(s);
    case 28:
        return control_register(s);
    case 29:
        return yes_if(BIT(s->primary, 23));
    case 30:
        return io(s);
    case 31: case 32:
        return msr(s, (uint32_t)s->m->sim->regs.gpr[NVMX_RCX], s->exit.reason == 32);
    case 84: case 85: /* the immediate forms: the index is the qualification */
        return msr(s, (uint32_t)s->exit.qualification, s->exit.reason == 85);
    case 78: case 79: /* RDMSRLIST, WRMSRLIST: #UD where L1 does not enable them */
        return BIT(tertiary(s), 6) ? msr(s, (uint32_t)s->exit.qualification, s->exit.reason == 79) : NO;
    case 80: case 81: /* URDMSR, UWRMSR: the exit names no MSR, so that only without bitmaps it is certain */
        return yes_if(!BIT(s->primary, 28));
    case 36:
        return yes_if(BIT(s->primary, 10));
    case 37:
        return monitor_trap(s);
    case 39:
        return yes_if(BIT(s->primary, 29));
    case 40:
        return yes_if(BIT(s->primary, 30) || BIT(s->secondary, 10));
    case 43:
        return yes_if(BIT(s->primary, 21));
    case 44:
        return yes_if(BIT(s->secondary, 0));
    case 45: { /* SDM 32.1.4: of a vector whose bit is set */
        uint8_t vector = (uint8_t)s->exit.qualification;
        return yes_if(BIT(s->secondary, 9) && BIT(s->f[NVMX_F_EOI_EXIT_BITMAP_0 + vector / 64], vector % 64));
    }
    case 46: case 47:
        return yes_if(BIT(s->secondary, 2));
    case 33: case 34: /* with bit 31 only */
        return ANY;
    case 48: case 49: /* by a walk of ept12: its own harness */
        return BIT(s->secondary, 1) ? ANY : NO;
    case 66: /* the same of sub-page permissions */
        return BIT(s->secondary, 1) && BIT(s->secondary, 23) ? ANY : NO;
    case 52:
        return yes_if(BIT(s->pin, 6));
    case 54:
        return yes_if(BIT(s->secondary, 6));
    case 56:
        return yes_if(BIT(s->primary, 21) || BIT(s->secondary, 8) || BIT(s->secondary, 9)); /* the first for SENDUIPI */
    case 57:
        return yes_if(BIT(s->secondary, 11));
    case 59: /* the library carries out EPTP switching */
        return ANY;
    case 60:
        return encls(s);
    case 61:
        return yes_if(BIT(s->secondary, 16));
    case 62:
        return yes_if(BIT(s->secondary, 17));
    case 63: case 64:
        return xsaves(s);
    case 65:
        return leaf(s, 27, NVMX_F_PCONFIG_EXITING_BITMAP);
    case 70:
        return leaf(s, 28, NVMX_F_ENCLV_EXITING_BITMAP);
    case 75: /* instruction timeout: the shorter window's */
        return BIT(s->secondary, 31) ? ANY : NO;
    case 74: /* bus lock */
        return yes_if(BIT(s->secondary, 30));
    case 69: /* LOADIWKEY */
        return yes_if(BIT(tertiary(s), 0));
    default: /* unknown, or of controls that L1 is not offered */
        return NO;
    }
}

static uint64_t read_field(struct sim *sim, uint32_t encoding) {
    uint64_t value = 0;
    FUZZ_HOLD(sim_vmread(sim, encoding, &value) == SIM_SUCCEED, "VMREAD of %#x", encoding);
    return value;
}

/* The exit as hardware gives it. */
static enum nvmx_next exit_of_l2(const struct l2 *s) {
    struct nvmx_l2_exit_info exit = s->exit;
    if (s->bus_lock)
        exit.reason |= BUS_LOCK;
    return sim_exit_info(s->m->sim, &exit);
}

/* A callback fails: L1 has the exit, or the host; or L2 goes on; or the vCPU stops. The next exit finds nothing out of order (fuzz_machine counts pages). */
static void check_failing(struct l2 *s, uint32_t at) {
    struct sim *sim = s->m->sim;
    sim->calls = sim->failed = 0;
    sim->fail.at = at;
    enum nvmx_next next = exit_of_l2(s);
    memset(&sim->fail, 0, sizeof(sim->fail));
    fuzz_log("exit %u with callback %u failing%s: %d, mode %d", s->exit.reason, at, sim->failed ? "" : ", which is not called", (int)next, (int)nvmx_mode(sim->vcpu));
    if (next == NVMX_STOP) {
        enum nvmx_stop why = nvmx_stop_reason(sim->vcpu);
        FUZZ_HOLD(why == NVMX_STOP_VMX_ABORT || s->exit.reason == 49 || (sim->failed && why == NVMX_STOP_HOST), "exit %u stops the vCPU, reason %d", s->exit.reason, (int)why);
        return;
    }
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && next == NVMX_ENTER)
        FUZZ_HOLD(sim_enter(sim, NULL) != NVMX_HOST, "L2 can't go on after exit %u", s->exit.reason);
    else if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT && BIT(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), 9))
        (void)read_field(sim, NVMX_VMCS_EXIT_REASON);
}

/* -- running it ------------------------------------------------------------------------------------------------------------------------------------ */

/* Returns which callback is to fail in it, 0: none. */
static uint32_t read_exit(struct fuzz_input *in, struct sim *sim, struct nvmx_l2_exit_info *exit) {
    uint8_t kinds, length;
    exit->reason = fuzz_u8(in);
    if (exit->reason >= 100)
        exit->reason = exit->reason < 200 ? exit->reason % 66 : 33u + fuzz_u16(in) % 0x7fdfu;
    kinds = fuzz_u8(in);
    exit->qualification = kinds & 1 ? fuzz_value(in) : fuzz_u16(in);
    if (kinds & 2)
        exit->qualification |= (uint64_t)fuzz_u16(in) << 16;
    if (kinds & 4)
        exit->interruption_info = 0x80000000u | fuzz_u16(in);
    if (kinds & 8)
        exit->interruption_error_code = fuzz_u8(in);
    if (kinds & 16) {
        exit->idt_vectoring_info = fuzz_u16(in); /* made one that can be when L2 runs */
        exit->idt_vectoring_error_code = fuzz_u8(in);
    }
    length = fuzz_u8(in);
    exit->instruction_length = length & 15;
    if ((length & 15) == 15) {
        exit->instruction_length = 2;
        exit->reason |= BUS_LOCK;
    }
    if (kinds & 32) {
        exit->guest_physical_address = fuzz_value(in);
        exit->guest_linear_address = fuzz_value(in);
        exit->instruction_info = fuzz_u32(in);
    }
    for (unsigned int i = 0; i < (kinds & 64 ? 16u : 3u); i++)
        sim->regs.gpr[i] = kinds & 128 ? fuzz_value(in) : fuzz_u8(in);
    return length >> 4;
}

/* L1 has the exit: its information is what the exit said. */
static void check_information(const struct l2 *s) {
    struct sim *sim = s->m->sim;
    uint32_t reason = (uint32_t)read_field(sim, NVMX_VMCS_EXIT_REASON);
    FUZZ_HOLD((reason & BUS_LOCK) == (s->bus_lock && BIT(s->secondary, 30) ? BUS_LOCK : 0), "a bus lock of L2 %s: exit reason %#x", s->bus_lock ? "is lost" : "comes of nothing", reason);
    reason &= ~BUS_LOCK;
    if (s->exit.reason == 48 || s->exit.reason == 49 || s->exit.reason == 66 || s->exit.reason == 59 || s->exit.reason == 23 || s->exit.reason == 25)
        return; /* corrected by the walk, or found to be another */
    FUZZ_HOLD(reason == s->exit.reason, "exit %u became %#x", s->exit.reason, reason);
    uint64_t qualification = read_field(sim, NVMX_VMCS_EXIT_QUALIFICATION);
    FUZZ_HOLD(qualification == s->exit.qualification || qualification == 0, "qualification %#llx became %#llx", U(s->exit.qualification),
              U(qualification));
    if (reason == 28 || reason == 30 || reason == 29)
        FUZZ_HOLD(qualification == s->exit.qualification, "qualification %#llx is lost", U(s->exit.qualification));
    if (reason == 0)
        FUZZ_HOLD(read_field(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO) == s->exit.interruption_info, "interruption information");
    if (reason == 10)
        FUZZ_HOLD(read_field(sim, NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH) == s->exit.instruction_length, "instruction length");
    FUZZ_HOLD(BIT(read_field(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO), 31) == 0, "the event to inject stays valid after an exit");
}

static uint64_t msr_of(const struct l2 *s) {
    uint32_t reason = s->exit.reason;
    return reason == 31 || reason == 32 ? (uint32_t)s->m->sim->regs.gpr[NVMX_RCX] : reason == 84 || reason == 85 ? (uint32_t)s->exit.qualification : 0;
}

/* An access to IA32_SPEC_CTRL, which L1 virtualizes (SDM 27.6.2). */
static bool virtualized(const struct l2 *s) {
    return msr_of(s) == 0x48 && BIT(tertiary(s), 7);
}

/* The field of the MSR that is accessed, if it is written, and vmcs02 loads it for L1 alone; else -1. */
static int loaded_field(const struct l2 *s) {
    static const struct {
        uint32_t msr;
        uint8_t load;
        enum nvmx_field field;
    } rows[] = {
        {0x1d9, 2, NVMX_F_GUEST_DEBUGCTL}, {0x38f, 13, NVMX_F_GUEST_PERF_GLOBAL_CTRL}, {0x277, 14, NVMX_F_GUEST_PAT},  {0xc0000080, 15, NVMX_F_GUEST_EFER},
        {0xd90, 16, NVMX_F_GUEST_BNDCFGS}, {0x14ce, 21, NVMX_F_GUEST_LBR_CTL},         {0x6e1, 22, NVMX_F_GUEST_PKRS}, {0x48, 24, NVMX_F_GUEST_SPEC_CTRL},
    };
    uint64_t entry = s->f[NVMX_F_VM_ENTRY_CONTROLS] & ~sim_get(s->m->sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS);
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].msr == msr_of(s) && (s->exit.reason == 32 || s->exit.reason == 85) && BIT(entry, rows[i].load))
            return (int)rows[i].field;
    return -1;
}

/* Those the library carries out: the latter where the host intercepts them or no exit saves them, else L2 executes the instruction again. */
static bool carried_out(const struct l2 *s) {
    bool again = BIT(sim_get(s->m->sim, s->m->sim->selected, NVMX_F_GUEST_RFLAGS), 16);
    return virtualized(s) || (loaded_field(s) >= 0 && !again);
}

/*
 * The library let L2 go on: vmcs02 intercepts what it must. A fault that L2 gets is pushed with RF (SDM 19.3.1.1), which is all that changes; an instruction that
 * was carried out is over.
 */
static void check_going_on(const struct l2 *s) {
    const uint64_t *vmcs02 = s->m->sim->vmcs[s->m->sim->selected].value;
    uint64_t field[NVMX_FIELD_COUNT], event = vmcs02[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    memcpy(field, s->f, sizeof(field));
    if (sim_exit_by_instruction(s->exit.reason) && !BIT(field[NVMX_F_GUEST_INTERRUPTIBILITY_STATE], 1))
        field[NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS] = 0; /* they were delivered before it (SDM 30.3.4) */
    if (BIT(event, 31) && (event >> 8 & 7) == 3) {
        field[NVMX_F_GUEST_RFLAGS] |= UINT64_C(1) << 16;
    } else if (carried_out(s)) {
        bool mode64 = BIT(field[NVMX_F_VM_ENTRY_CONTROLS], 9) && BIT(field[NVMX_F_GUEST_CS_ACCESS_RIGHTS], 13);
        field[NVMX_F_GUEST_RIP] += s->exit.instruction_length;
        field[NVMX_F_GUEST_RIP] &= mode64 ? UINT64_MAX : UINT32_MAX;
        field[NVMX_F_GUEST_RFLAGS] &= ~(UINT64_C(1) << 16);
        field[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] &= ~UINT64_C(3);
        if (BIT(field[NVMX_F_GUEST_RFLAGS], 8)) /* a single step may be due */
            field[NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS] = vmcs02[NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS];
        if (s->exit.reason == 84 && (s->exit.instruction_info >> 3 & 15) == NVMX_RSP)
            field[NVMX_F_GUEST_RSP] = vmcs02[NVMX_F_GUEST_RSP];
        if (loaded_field(s) >= 0)
            field[loaded_field(s)] = vmcs02[loaded_field(s)];
    } else { /* L2 executes it again */
        field[NVMX_F_GUEST_RFLAGS] |= UINT64_C(1) << 16;
    }
    fuzz_check_vmcs02(s->m, field);
}

/* L1 did not see the exit, and is to hear of the bus lock: before L2 runs on, or after an event that L2 gets first. */
static void check_bus_lock(const struct l2 *s) {
    struct sim *sim = s->m->sim;
    bool injects = BIT(sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 31);
    enum nvmx_next next = sim_enter(sim, NULL);
    if (injects || next == NVMX_STOP)
        return;
    FUZZ_HOLD(nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT, "L1 does not hear of a bus lock");
    if (BIT(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), 9))
        FUZZ_HOLD((read_field(sim, NVMX_VMCS_EXIT_REASON) & 0xffff) == 74, "a bus lock became exit %#llx", U(read_field(sim, NVMX_VMCS_EXIT_REASON)));
}

/* The host carries out the instruction: with L1's monitor trap flag L2 leaves after it (SDM 28.5.2), a bus lock apart, which comes first. */
static void check_step(const struct l2 *s) {
    struct sim *sim = s->m->sim;
    bool traps = BIT(s->primary, 27), bus_lock = s->bus_lock && BIT(s->secondary, 30);
    sim_set(sim, sim->selected, NVMX_F_GUEST_RIP, sim_get(sim, sim->selected, NVMX_F_GUEST_RIP) ^ 2);
    if (bus_lock || sim_enter(sim, NULL) == NVMX_STOP)
        return;
    uint64_t event = sim_get(sim, sim->selected, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    FUZZ_HOLD(nvmx_mode(sim->vcpu) != NVMX_MODE_L2 || (event == 0x80000700) == traps, "after the host's instruction L2 is entered with event %#llx", U(event));
}

/* Before it the host has emulated an access of L2, which ept12 leads where it leads a processor. */
static void check_emulated(const struct l2 *s, uint64_t bits) {
    struct sim *sim = s->m->sim;
    struct nvmx_ept_fault fault;
    const bool ept = BIT(s->secondary, 1), usual = (s->f[NVMX_F_EPT_POINTER] & ~UINT64_C(0xfff)) == SIM_L1_EPT12;
    const uint64_t gpa2 = bits >> 8 & 0x3ffff8;
    enum nvmx_ept_verdict verdict = nvmx_l2_translate(sim->vcpu, gpa2, UINT64_C(1) << bits % 3, 8, &fault);
    fuzz_log("an access to %#llx is emulated: %d, %#llx", U(gpa2), (int)verdict, U(fault.gpa1));
    FUZZ_HOLD(verdict != NVMX_EPT_FAILED || (ept && s->m->options.host_composes), "%s", nvmx_status_text(fault.status));
    FUZZ_HOLD(verdict != NVMX_EPT_RETRY || (ept && !usual) || fault.gpa1 == (ept ? sim_gpa1_of(gpa2) : gpa2), "%#llx leads to %#llx", U(gpa2), U(fault.gpa1));
    FUZZ_HOLD(nvmx_mode(sim->vcpu) == NVMX_MODE_L2, "L2 does not run on");
}

static void check_exit(struct l2 *s) {
    static const char *const said[] = {"is not L1's", "is L1's", "is anybody's"};
    struct sim *sim = s->m->sim;
    enum wants wants = l1_wants(s);
    /* L1 has the #GP of bits that the MSR doesn't have, or the #UD of what its processor doesn't have. */
    bool may_fault = wants == NO && (((virtualized(s) || loaded_field(s) >= 0) && BIT(s->f[NVMX_F_EXCEPTION_BITMAP], 13)) ||
                                     ((s->exit.reason == 50 || s->exit.reason == 53) && BIT(s->f[NVMX_F_EXCEPTION_BITMAP], 6)));
    bool handled_events = s->exit.reason == 0 || s->exit.reason == 1;
    fuzz_log("exit %u qualification %#llx interruption %#x: %s", s->exit.reason, U(s->exit.qualification), s->exit.interruption_info,
             said[wants]);
    bool asked = nvmx_l1_intercepts(sim->vcpu, &s->exit);
    FUZZ_HOLD(wants == ANY || handled_events || asked == (wants == YES), "exit %u %s, nvmx_l1_intercepts says %d", s->exit.reason,
              said[wants], asked);
    uint32_t which = sim->selected;
    enum nvmx_next next = exit_of_l2(s);
    bool l1_has_it = nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;
    /* A misconfiguration where ept02 holds what it should: no processor says that, and nothing can be done. */
    if (next == NVMX_STOP && s->exit.reason == 49)
        return;
    if (next == NVMX_STOP) {
        FUZZ_HOLD((wants != NO || may_fault) && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_VMX_ABORT, "exit %u stops the vCPU, reason %d: %s; %u pages used",
                  s->exit.reason, (int)nvmx_stop_reason(sim->vcpu), nvmx_status_text(nvmx_stop_status(sim->vcpu)), sim->pages_used);
        return;
    }
    if (l1_has_it && may_fault) {
        bool reads = !BIT(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), 9) || (read_field(sim, NVMX_VMCS_EXIT_REASON) & 0xffff) == 0;
        FUZZ_HOLD(reads, "exit %u became another one than the exit for a fault", s->exit.reason);
        return;
    }
    FUZZ_HOLD(wants == ANY || l1_has_it == (wants == YES), "exit %u %s, but went to %s", s->exit.reason, said[wants],
              l1_has_it ? "L1" : next == NVMX_HOST ? "the host" : "L2");
    FUZZ_HOLD(!l1_has_it || next == NVMX_ENTER, "L1 has exit %u, and the host is to handle it", s->exit.reason);
    if (!l1_has_it) {
        FUZZ_HOLD(sim->selected == which, "exit %u is not L1's and another VMCS is selected", s->exit.reason);
        /* Let through by the library: only where the host does not want it, which the merged bitmaps now say. */
        if (next == NVMX_ENTER && ((s->exit.reason >= 30 && s->exit.reason <= 32) || carried_out(s)))
            check_going_on(s);
        if (next == NVMX_HOST && sim_exit_by_instruction(s->exit.reason) && s->exit.idt_vectoring_info == 0)
            check_step(s);
        if (s->bus_lock && BIT(s->secondary, 30))
            check_bus_lock(s);
    } else if (BIT(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), 9)) {
        check_information(s);
    }
}

/* NMI, interrupt, INIT, SIPI, windows, MTF (it may be injected), virtual interrupts, the preemption timer. */
static bool comes_from_outside(uint32_t reason) {
    return reason <= 4 || reason == 7 || reason == 8 || reason == 37 || reason == 45 || reason == 52;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    struct fuzz_machine *m = fuzz_machine(fuzz_u8(&in));
    uint64_t field[NVMX_FIELD_COUNT];
    if (!m)
        return 0;
    struct l2 s = {.m = m, .f = field};
    fuzz_host_controls(m, &in);
    fuzz_piece(&in, FUZZ_OTHER);
    uint32_t fails = read_exit(&in, m->sim, &s.exit);
    memcpy(field, m->field, sizeof(field));
    struct nvmx_check_input check = {.field = field, .caps = nvmx_l1_caps(m->sim->vm), .current_vmcs = SIM_L1_VMCS_A,
                                     .vmxon_pointer = SIM_L1_VMXON, .l1_long_mode = true};
    fuzz_change_vmcs12(m, &in, &check, field, 40);
    /* What is not active executes nothing: its exits are events from outside (SDM 29.3.1.5). */
    if (!comes_from_outside(s.exit.reason & ~BUS_LOCK))
        field[NVMX_F_GUEST_ACTIVITY_STATE] = 0;
    struct nvmx_regs regs = m->sim->regs;
    fuzz_load_vmcs12(m, field);
    if (sim_vmlaunch(m->sim) != SIM_L2)
        return 0;
    m->sim->regs = regs;
    if (s.exit.idt_vectoring_info != 0)
        s.exit.idt_vectoring_info = fuzz_event_in_flight(&m->sim->vmcs[m->sim->selected], s.exit.idt_vectoring_info);
    const uint64_t *host = m->sim->vmcs[NVMX_VMCS01].value;
    s.pin = field[NVMX_F_PIN_BASED_CONTROLS];
    s.primary = field[NVMX_F_PRIMARY_CONTROLS];
    s.secondary = BIT(s.primary, 31) ? field[NVMX_F_SECONDARY_CONTROLS] : 0;
    s.bus_lock = (s.exit.reason & BUS_LOCK) != 0;
    s.exit.reason &= ~BUS_LOCK;
    s.host_owns_interrupts = BIT(host[NVMX_F_PIN_BASED_CONTROLS], 0);
    s.host_owns_nmis = BIT(host[NVMX_F_PIN_BASED_CONTROLS], 3);
    static uint8_t kept[FUZZ_KEPT_BYTES];
    bool reads = s.exit.reason == 23 || s.exit.reason == 25;
    if (reads)
        fuzz_keep_l1_memory(m->sim, kept, false);
    uint64_t digest = fuzz_digest(data, size);
    if (digest >> 61 == 0)
        check_emulated(&s, digest);
    if (fails != 0)
        check_failing(&s, fails);
    else
        check_exit(&s);
    if (reads)
        fuzz_keep_l1_memory(m->sim, kept, true);
    return 0;
}
