/* SPDX-License-Identifier: MIT */
/*
 * Who gets an exit of L2: L1 by vmcs12's controls, bitmaps and masks (SDM 28.1), or the host.
 *
 * What L1 asked for goes to L1, even if the host wants it too; what neither asked for (a word of a merged bitmap that
 * was not hot yet) is let through; everything else is the host's.
 */
#include "exits.h"

#define VECTOR_MACHINE_CHECK 18u
#define MSR_XSS              0xda0u
#define QUALIFICATION_PERMITTED UINT64_C(0x78) /* of an EPT violation: what the entries permit */

static bool bit_of(uint64_t value, unsigned int bit) {
    return ((value >> bit) & 1) != 0;
}

/* -- exceptions, interrupts
 * ------------------------------------------------------------------------------------------------------------- */

/* SDM 28.2: bit 14 of the exception bitmap counts as it is if the masked error code matches, inverted otherwise. */
static bool exception_wanted(uint64_t bitmap, uint64_t mask, uint64_t match, uint32_t vector, uint32_t error_code) {
    bool wanted = bit_of(bitmap, vector & 31);

    if (vector == VECTOR_PAGE_FAULT && (error_code & mask) != match) {
        wanted = !wanted;
    }
    return wanted;
}

bool exception_exits_to_l1(const struct vmcs12 *v, const struct nvmx_l2_exit_info *info) {
    return exception_wanted(v->value[NVMX_F_EXCEPTION_BITMAP], v->value[NVMX_F_PAGE_FAULT_ERROR_CODE_MASK],
                            v->value[NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH], info->interruption_info & 0xff,
                            info->interruption_error_code);
}

/* What the host owns it keeps, as long as hardware speaks: of the event that it then has for L1 it asks what vmcs12
 * says. */
static inline __attribute__((always_inline)) enum route route_exception(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct nvmx_l2_exit_info *info,
                                  bool hardware) {
    const uint64_t *host = vcpu->host_control;
    uint32_t vector = info->interruption_info & 0xff;

    if (EVENT_TYPE(info->interruption_info) == EVENT_TYPE_NMI) {
        bool host_owns = hardware && (host[NVMX_F_PIN_BASED_CONTROLS] & PIN_NMI) != 0;
        bool l1_wants = (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_NMI) != 0;
        return !host_owns && l1_wants ? ROUTE_L1 : ROUTE_HOST;
    }
    /* A machine check is the host's to survive. */
    if (hardware && vector == VECTOR_MACHINE_CHECK && bit_of(host[NVMX_F_EXCEPTION_BITMAP], vector)) {
        return ROUTE_HOST;
    }
    if (!exception_exits_to_l1(v, info)) {
        return ROUTE_HOST;
    }
    return hardware && vector == VECTOR_ALIGNMENT ? route_alignment_check(vcpu) : ROUTE_L1;
}

static enum route route_interrupt(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, bool hardware) {
    bool host_owns = hardware && (vcpu->host_control[NVMX_F_PIN_BASED_CONTROLS] & PIN_EXTERNAL_INTERRUPT) != 0;
    bool l1_wants = (v->value[NVMX_F_PIN_BASED_CONTROLS] & PIN_EXTERNAL_INTERRUPT) != 0;

    return !host_owns && l1_wants ? ROUTE_L1 : ROUTE_HOST;
}

/* -- control registers
 * --------------------------------------------------------------------------------------------------------------------
 */

/* Outside 64-bit mode a register has 32 bits, whatever is left in the others: L2's mode is looked at only if something
 * is. */
static enum nvmx_status clip_to_mode(struct nvmx_vcpu *vcpu, uint64_t *value) {
    static const uint8_t slots[] = {NVMX_F_VM_ENTRY_CONTROLS, NVMX_F_GUEST_CS_ACCESS_RIGHTS};
    uint64_t mode[2] = {0};

    if (*value <= UINT32_MAX) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_read_many(vcpu, 2, slots, mode);
    if ((mode[0] & ENTRY_IA32E) == 0 || (mode[1] & RIGHTS_L) == 0) {
        *value = (uint32_t)*value;
    }
    return status;
}

static inline __attribute__((always_inline)) enum nvmx_status source_register(struct nvmx_vcpu *vcpu, uint64_t qualification, uint64_t *value) {
    unsigned int number = (qualification >> 8) & 15;
    enum nvmx_status status = NVMX_OK;

    if (number == NVMX_RSP) {
        status = host_read(vcpu, NVMX_F_GUEST_RSP, value);
    } else {
        *value = vcpu->regs->gpr[number];
    }
    return status == NVMX_OK ? clip_to_mode(vcpu, value) : status;
}

static inline __attribute__((always_inline)) bool cr3_is_target(const struct vmcs12 *v, uint64_t value) {
    uint64_t count = v->value[NVMX_F_CR3_TARGET_COUNT];

    for (unsigned int i = 0; i < 4 && i < count; i++) {
        if (v->value[NVMX_F_CR3_TARGET_VALUE_0 + i] == value) {
            return true;
        }
    }
    return false;
}

static inline __attribute__((always_inline)) bool mov_to_wanted(const struct vmcs12 *v, unsigned int cr, uint64_t value) {
    uint64_t primary = v->value[NVMX_F_PRIMARY_CONTROLS];

    switch (cr) {
    case 0:
        return ((value ^ v->value[NVMX_F_CR0_READ_SHADOW]) & v->value[NVMX_F_CR0_GUEST_HOST_MASK]) != 0;
    case 3:
        return (primary & PROC_CR3_LOAD) != 0 && !cr3_is_target(v, value);
    case 4:
        return ((value ^ v->value[NVMX_F_CR4_READ_SHADOW]) & v->value[NVMX_F_CR4_GUEST_HOST_MASK]) != 0;
    case 8:
        return (primary & PROC_CR8_LOAD) != 0;
    default:
        return false;
    }
}

/* SDM 28.1.3: bits 3:1 of the source always count, bit 0 only where it would be set. */
static bool lmsw_wanted(const struct vmcs12 *v, uint64_t source) {
    uint64_t mask = v->value[NVMX_F_CR0_GUEST_HOST_MASK];
    uint64_t shadow = v->value[NVMX_F_CR0_READ_SHADOW];
    bool sets_pe = (mask & source & 1) != 0 && (shadow & 1) == 0;

    return sets_pe || ((source ^ shadow) & mask & 0xe) != 0;
}

static inline __attribute__((always_inline)) enum route route_control_register(struct nvmx_vcpu *vcpu, const struct vmcs12 *v,
                                         const struct nvmx_l2_exit_info *info) {
    uint64_t q = info->qualification;
    uint64_t primary = v->value[NVMX_F_PRIMARY_CONTROLS];
    unsigned int cr = q & 15;
    uint64_t value = 0;
    bool wanted;

    switch ((q >> 4) & 3) {
    case 0: /* MOV to CR */
        if (source_register(vcpu, q, &value) != NVMX_OK) {
            return ROUTE_FAILED;
        }
        wanted = mov_to_wanted(v, cr, value);
        break;
    case 1: /* MOV from CR */
        wanted = (cr == 3 && (primary & PROC_CR3_STORE) != 0) || (cr == 8 && (primary & PROC_CR8_STORE) != 0);
        break;
    case 2: /* CLTS */
        wanted = (v->value[NVMX_F_CR0_GUEST_HOST_MASK] & v->value[NVMX_F_CR0_READ_SHADOW] & 8) != 0;
        break;
    default: /* LMSW */
        wanted = lmsw_wanted(v, (q >> 16) & 0xffff);
        break;
    }
    return wanted ? ROUTE_L1 : ROUTE_HOST;
}

/* -- bitmaps ---------------------------------------------------------------------------------------------------- */

/* A bitmap page of L1 without memory behind it reads as all ones. */
static inline bool l1_bitmap_bit(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t bit) {
    void *page = host_map(vcpu, gpa1, NVMX_ACCESS_READ, NULL);

    if (page == NULL) {
        return true;
    }
    bool set = bitmap_test(page, bit);
    host_unmap(vcpu, gpa1, page, false);
    return set;
}

/* L2 executes it once more, and a breakpoint on it is not met again: an exit by an instruction has saved RF as 0 (SDM 30.3.3). */
static enum route let_through(struct nvmx_vcpu *vcpu, enum nvmx_status status) {
    return status == NVMX_OK && l2_set_rf(vcpu) == NVMX_OK ? ROUTE_AGAIN : ROUTE_FAILED;
}

/* vmcs02 does without a bitmap that had no memory behind it when it was merged, and has now: nvmx_enter looks again. */
static enum route take_pages_again(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    v->pages_merged = v->pages_alone = v->plain = false;
    vcpu->pages_changed = true;
    return let_through(vcpu, NVMX_OK);
}

/* Which MSR an exit is about: in ECX, or where the instruction or its list has it, in the qualification. */
static uint32_t msr_index(const struct nvmx_vcpu *vcpu, const struct exit_row *row, const struct nvmx_l2_exit_info *info) {
    bool in_ecx = row->who == WHO_MSR_READ || row->who == WHO_MSR_WRITE;

    return (uint32_t)(in_ecx ? vcpu->regs->gpr[NVMX_RCX] : info->qualification);
}

static bool is_msr_write(const struct exit_row *row) {
    return row->who == WHO_MSR_WRITE || row->who == WHO_MSR_WRITE_IMMEDIATE || row->who == WHO_MSR_LIST_WRITE;
}

static bool is_msr_list(const struct exit_row *row) {
    return row->who == WHO_MSR_LIST_READ || row->who == WHO_MSR_LIST_WRITE;
}

/* L2 is likely to do it again. */
static void note_hosts_msr(struct nvmx_vcpu *vcpu, const struct exit_row *row, uint32_t index, uint32_t bit) {
    bool write = row->who == WHO_MSR_WRITE;

    if ((write || row->who == WHO_MSR_READ) && index != MSR_SPEC_CTRL && !(write && merge_gate_msr(index))) {
        vcpu->hosts_msr[write] = (struct msr_access){.index = index, .bit = bit};
    }
}

static inline __attribute__((always_inline)) bool host_lets_through(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t bit) {
    return (vcpu->host_control[NVMX_F_PRIMARY_CONTROLS] & PROC_MSR_BITMAPS) != 0 && vcpu->host_msr_bitmap != NULL &&
           !bitmap_test(vcpu->host_msr_bitmap, bit) && !merge_keeps_msr(vcpu, v, bit);
}

static inline __attribute__((always_inline)) enum route route_msr(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct exit_row *row,
                            struct nvmx_l2_exit_info *info, bool hardware) {
    uint32_t index = msr_index(vcpu, row, info);
    uint32_t bit = bitmap_msr_bit(index, is_msr_write(row));

    if (is_msr_list(row) && (tertiary_controls(v) & PROC3_MSR_LIST) == 0) {
        return ROUTE_HOST;
    }
    if ((v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MSR_BITMAPS) == 0 || bit == BITMAP_NONE ||
        l1_bitmap_bit(vcpu, v->value[NVMX_F_MSR_BITMAP_ADDRESS], bit)) {
        return ROUTE_L1;
    }
    if (hardware && index == MSR_SPEC_CTRL && (tertiary_controls(v) & PROC3_SPEC_CTRL) != 0) {
        return route_spec_ctrl(vcpu, v, row, info);
    }
    if (!hardware || !host_lets_through(vcpu, v, bit)) {
        if (hardware && is_msr_write(row) && !is_msr_list(row) && RARE(gates_alone(vcpu, v) != 0) && merge_loads_msr(vcpu, v, index)) {
            return route_loaded_msr(vcpu, v, row, info);
        }
        note_hosts_msr(vcpu, row, index, bit);
        return ROUTE_HOST;
    }
    return (v->bitmap_bits & PROC_MSR_BITMAPS) != 0 ? let_through(vcpu, merge_heat_msr(vcpu, v, bit))
                                                    : take_pages_again(vcpu, v);
}

bool route_msr_is_hosts(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct msr_access *access) {
    return !host_lets_through(vcpu, v, access->bit) && (v->value[NVMX_F_PRIMARY_CONTROLS] & (PROC_MSR_BITMAPS | PROC_MONITOR_TRAP)) == PROC_MSR_BITMAPS &&
           !l1_bitmap_bit(vcpu, v->value[NVMX_F_MSR_BITMAP_ADDRESS], access->bit);
}

/* SDM 28.1.3: any port of the access counts, and wrapping around FFFFH always exits. */
static bool l1_wants_ports(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t port, uint32_t bytes) {
    if (port + bytes > 0x10000) {
        return true;
    }
    for (uint32_t i = port; i < port + bytes; i++) {
        if (l1_bitmap_bit(vcpu, v->value[NVMX_F_IO_BITMAP_A_ADDRESS + (i >> 15)], i & 0x7fff)) {
            return true;
        }
    }
    return false;
}

static bool host_wants_ports(const struct nvmx_vcpu *vcpu, uint32_t port, uint32_t bytes) {
    uint64_t primary = vcpu->host_control[NVMX_F_PRIMARY_CONTROLS];

    if ((primary & PROC_IO_BITMAPS) == 0) {
        return (primary & PROC_UNCONDITIONAL_IO) != 0;
    }
    for (uint32_t i = port; i < port + bytes; i++) {
        const uint64_t *page = vcpu->host_io_bitmap[(i >> 15) & 1];
        if (page == NULL || bitmap_test(page, i & 0x7fff)) {
            return true;
        }
    }
    return false;
}

static inline __attribute__((always_inline)) enum route route_io(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct nvmx_l2_exit_info *info,
                           bool hardware) {
    uint64_t primary = v->value[NVMX_F_PRIMARY_CONTROLS];
    uint32_t port = (uint32_t)(info->qualification >> 16) & 0xffff;
    uint32_t bytes = (uint32_t)(info->qualification & 7) + 1;
    bool overlaid = v->io_bitmap[0].page != NULL && v->io_bitmap[1].page != NULL;

    if ((primary & PROC_IO_BITMAPS) == 0) {
        return (primary & PROC_UNCONDITIONAL_IO) != 0 ? ROUTE_L1 : ROUTE_HOST;
    }
    if (l1_wants_ports(vcpu, v, port, bytes)) {
        return ROUTE_L1;
    }
    if (!hardware || host_wants_ports(vcpu, port, bytes)) {
        return ROUTE_HOST;
    }
    if (!overlaid || (v->bitmap_bits & PROC_IO_BITMAPS) == 0) {
        return take_pages_again(vcpu, v);
    }
    enum nvmx_status status = NVMX_OK;
    for (uint32_t i = port; status == NVMX_OK && i < port + bytes; i++) {
        status = merge_heat_io(vcpu, v, i >> 15, i & 0x7fff);
    }
    return let_through(vcpu, status);
}

/* -- others
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

/* L1's control, or the pending exit that L1 injected (SDM 28.5.2), which is due before L2's first instruction. */
static bool monitor_trap_wanted(const struct vmcs12 *v) {
    uint64_t event = v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];

    return (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MONITOR_TRAP) != 0 ||
           ((event & EVENT_VALID) != 0 && EVENT_TYPE(event) == EVENT_TYPE_OTHER);
}

/* SDM 28.1.3 XSAVES, XRSTORS: a component that is asked for, enabled in IA32_XSS, and in the bitmap. */
static bool xss_wanted(struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    uint64_t asked = vcpu->regs->gpr[NVMX_RDX] << 32 | (uint32_t)vcpu->regs->gpr[NVMX_RAX];
    uint64_t xss = UINT64_MAX;

    asked &= v->value[NVMX_F_XSS_EXITING_BITMAP];
    if ((secondary_controls(v) & PROC2_XSAVES) == 0 || asked == 0) {
        return false;
    }
    return host_msr_read(vcpu, MSR_XSS, &xss) != NVMX_OK || (asked & xss) != 0;
}

/* SDM 28.1.3 ENCLS, ENCLV, PCONFIG: leaf functions from 63 on share a bit. */
static bool leaf_wanted(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, unsigned int control) {
    uint32_t leaf = (uint32_t)vcpu->regs->gpr[NVMX_RAX];
    unsigned int bitmap = control == 15   ? NVMX_F_ENCLS_EXITING_BITMAP
                          : control == 27 ? NVMX_F_PCONFIG_EXITING_BITMAP
                                          : NVMX_F_ENCLV_EXITING_BITMAP;

    return bit_of(secondary_controls(v), control) && bit_of(v->value[bitmap], leaf < 63 ? leaf : 63);
}

/* Without their "enable" control these give #UD, whatever else L1 wants of them (SDM 28.1.2). */
static bool enabled(const struct vmcs12 *v, uint32_t reason) {
    uint32_t control = reason == NVMX_EXIT_RDTSCP    ? PROC2_RDTSCP
                       : reason == NVMX_EXIT_INVPCID ? PROC2_INVPCID
                                                     : PROC2_USER_WAIT;

    return (secondary_controls(v) & control) != 0;
}

/* SDM 32.1.4: the EOI-exit bitmap by the vector that was dismissed. */
static bool eoi_wanted(const struct vmcs12 *v, uint64_t qualification) {
    unsigned int vector = (unsigned int)qualification & 0xff;

    return (secondary_controls(v) & PROC2_VIRTUAL_INTERRUPTS) != 0 &&
           bit_of(v->value[NVMX_F_EOI_EXIT_BITMAP_0 + vector / 64], vector % 64);
}

/* vmcs02 has the shorter of two windows: it was L1's that was over if the host's is not shorter. */
static bool timeout_wanted(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, bool hardware) {
    const uint64_t *host = vcpu->host_control;
    bool host_uses = hardware && (host[NVMX_F_PRIMARY_CONTROLS] & PROC_SECONDARY) != 0 &&
                     (host[NVMX_F_SECONDARY_CONTROLS] & PROC2_TIMEOUT) != 0;

    return (secondary_controls(v) & PROC2_TIMEOUT) != 0 &&
           (!host_uses || v->value[NVMX_F_INSTRUCTION_TIMEOUT_CONTROL] <= host[NVMX_F_INSTRUCTION_TIMEOUT_CONTROL]);
}

/* -- EPT
 * -----------------------------------------------------------------------------------------------------------------------------------
 */

/* What few vmcs12s have is asked for with one test. */
static inline struct nvmx_ept_access ept12_by(const struct vmcs12 *v, uint32_t secondary, struct nvmx_ept_log *log) {
    struct nvmx_ept_access access = {.eptp12 = v->value[NVMX_F_EPT_POINTER]};

    if (RARE((secondary & (PROC2_MBEC | PROC2_PML | PROC2_SPP)) != 0)) {
        access.mbec = (secondary & PROC2_MBEC) != 0;
        access.spp = (secondary & PROC2_SPP) != 0;
        access.spptp12 = v->value[NVMX_F_SPP_TABLE_POINTER];
        if ((secondary & PROC2_PML) != 0) {
            *log = (struct nvmx_ept_log){.gpa1 = v->value[NVMX_F_PML_ADDRESS], .index = (uint16_t)v->value[NVMX_F_PML_INDEX]};
            access.log = log;
        }
    }
    return access;
}

struct nvmx_ept_access ept12_of(const struct vmcs12 *v, struct nvmx_ept_log *log) {
    return ept12_by(v, secondary_controls(v), log);
}

static inline enum route violation_of_l1(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct nvmx_ept_fault *fault,
                                         struct nvmx_l2_exit_info *info) {
    info->reason = NVMX_EXIT_EPT_VIOLATION;
    info->qualification = fault->qualification;
    return (secondary_controls(v) & PROC2_VE) != 0 && fault->convertible ? convert_violation(vcpu, v, info) : ROUTE_L1;
}

/* It makes room, and L2 touches the page again: nvmx_host_fault_gpa1. A misconfiguration that ept02 has not comes again whatever the host does. */
static COLD enum route failure_of_host(const struct nvmx_ept_fault *fault, const struct nvmx_l2_exit_info *info) {
    bool again = info->reason == NVMX_EXIT_EPT_MISCONFIGURATION && fault->status != NVMX_E_NO_MEMORY;

    return again ? ROUTE_FAILED : ROUTE_HOST;
}

enum route route_ept_verdict(struct nvmx_vcpu *vcpu, struct vmcs12 *v, enum nvmx_ept_verdict verdict,
                             const struct nvmx_ept_fault *fault, struct nvmx_l2_exit_info *info) {
    switch (verdict) {
    case NVMX_EPT_RETRY:
        return ROUTE_AGAIN;
    case NVMX_EPT_L1_VIOLATION:
        return violation_of_l1(vcpu, v, fault, info);
    case NVMX_EPT_L1_LOG_FULL:
        info->reason = NVMX_EXIT_PML_FULL;
        info->qualification &= QUALIFICATION_NMI_UNBLOCKING | QUALIFICATION_ASYNCHRONOUS;
        return ROUTE_L1;
    case NVMX_EPT_L1_MISCONFIG:
        info->reason = NVMX_EXIT_EPT_MISCONFIGURATION;
        info->qualification = 0;
        return ROUTE_L1;
    case NVMX_EPT_L1_SPP_EVENT:
        info->reason = NVMX_EXIT_SPP_EVENT;
        info->qualification = fault->qualification;
        return ROUTE_L1;
    case NVMX_EPT_HOST_FAULT:
        merge_fault_of_host(vcpu, v, fault->gpa1);
        return ROUTE_HOST;
    default:
        return failure_of_host(fault, info);
    }
}

/* Ask lib/ept about a violation, a misconfiguration or an SPP-related event. L1 has EPT, and the library composes. */
static inline enum nvmx_ept_verdict decide_violation(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t secondary,
                                                     uint64_t gpa2, uint64_t qualification, uint32_t reason,
                                                     struct nvmx_ept_fault *fault) {
    struct nvmx_ept_log log = {0};
    struct nvmx_ept_access access = ept12_by(v, secondary, &log);

    access.gpa2 = gpa2;
    access.qualification = qualification;
    access.misconfiguration = reason == NVMX_EXIT_EPT_MISCONFIGURATION;
    access.spp_event = reason == NVMX_EXIT_SPP_EVENT;
    enum nvmx_ept_verdict verdict = nvmx_ept_fault(vcpu->vm->ept, vcpu->ctx, &access, fault);
    if (access.log != NULL) {
        v->value[NVMX_F_PML_INDEX] = log.index;
    }
    return verdict;
}

/* L2 touches a device that L1 emulates again and again. */
static inline bool unmapped_again(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, uint32_t reason,
                                  const struct nvmx_l2_exit_info *info, struct nvmx_ept_fault *fault) {
    struct nvmx_ept_log log;
    struct nvmx_ept_access access = ept12_of(v, &log);

    access.gpa2 = info->guest_physical_address;
    access.qualification = info->qualification;
    return reason == NVMX_EXIT_EPT_VIOLATION && nvmx_ept_unmapped(vcpu->vm->ept, vcpu->ctx, &access, fault);
}

static enum route route_ept(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, struct nvmx_l2_exit_info *info) {
    const uint64_t page2 = info->guest_physical_address / NVMX_PAGE_SIZE;
    struct nvmx_ept_fault fault;
    enum nvmx_ept_verdict verdict;

    if ((secondary_controls(v) & PROC2_EPT) == 0) {
        merge_fault_of_host(vcpu, v, info->guest_physical_address);
        return ROUTE_HOST;
    }
    if (vcpu->vm->ept == NULL || (reason == NVMX_EXIT_SPP_EVENT && (secondary_controls(v) & PROC2_SPP) == 0)) {
        return ROUTE_HOST; /* the host composes, and knows */
    }
    if (vcpu->violation.decided) {
        verdict = vcpu->violation.verdict;
        fault = vcpu->violation.fault;
    } else if (page2 == vcpu->unmapped_page2 && unmapped_again(vcpu, v, reason, info, &fault)) {
        return violation_of_l1(vcpu, v, &fault, info);
    } else {
        verdict = decide_violation(vcpu, v, secondary_controls(v), info->guest_physical_address, info->qualification,
                                   reason, &fault);
    }
    bool unmapped = verdict == NVMX_EPT_L1_VIOLATION && (fault.qualification & QUALIFICATION_PERMITTED) == 0;
    vcpu->unmapped_page2 = unmapped ? page2 : NVMX_NO_ADDRESS;
    return route_ept_verdict(vcpu, v, verdict, &fault, info);
}

bool violation_of_l2(struct nvmx_vcpu *vcpu) {
    static const uint32_t encodings[VIOLATION_VALUES] = {
        [VIOLATION_QUALIFICATION] = NVMX_VMCS_EXIT_QUALIFICATION,
        [VIOLATION_LINEAR_ADDRESS] = NVMX_VMCS_GUEST_LINEAR_ADDRESS,
        [VIOLATION_GPA2] = NVMX_VMCS_GUEST_PHYSICAL_ADDRESS,
        [VIOLATION_VECTORING_INFO] = NVMX_VMCS_IDT_VECTORING_INFO,
        [VIOLATION_INSTRUCTION_LENGTH] = NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH,
    };
    struct vmcs12 *v = vmcs12_current(vcpu);
    struct violation *violation = &vcpu->violation;
    uint32_t secondary = secondary_controls(v);
    uint64_t *value = violation->value;

    if (RARE(vcpu->vm->ept == NULL || !l2_alone_exits(vcpu) || (secondary & PROC2_EPT) == 0) ||
        host_read_encoded(vcpu, VIOLATION_VALUES, encodings, value) != NVMX_OK) {
        return false;
    }
    violation->verdict = decide_violation(vcpu, v, secondary, value[VIOLATION_GPA2], value[VIOLATION_QUALIFICATION],
                                          NVMX_EXIT_EPT_VIOLATION, &violation->fault);
    if (violation->verdict != NVMX_EPT_RETRY || (value[VIOLATION_QUALIFICATION] & QUALIFICATION_NMI_UNBLOCKING) != 0 ||
        (value[VIOLATION_VECTORING_INFO] & EVENT_VALID) != 0) {
        violation->decided = true;
        return false;
    }
    vcpu->host_fault_gpa1 = NVMX_NO_ADDRESS;
    entry_is_over(vcpu);
    vcpu->counts.exits_l2++;
    vcpu->counts.handled++;
    return true;
}

/* -- the whole
 * --------------------------------------------------------------------------------------------------------------------------------
 */

static enum route l1_if(bool wanted) {
    return wanted ? ROUTE_L1 : ROUTE_HOST;
}

static enum route by_bit(uint64_t controls, unsigned int bit) {
    return l1_if(bit_of(controls, bit));
}

static inline __attribute__((always_inline)) enum route by_row(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason,
                                                               const struct exit_row *row, struct nvmx_l2_exit_info *info,
                                                               bool hardware) {
    uint64_t primary = v->value[NVMX_F_PRIMARY_CONTROLS];

    switch (row->who) {
    case WHO_ALWAYS:
    case WHO_ENTRY_FAILURE:
        return ROUTE_L1;
    case WHO_PIN:
        return by_bit(v->value[NVMX_F_PIN_BASED_CONTROLS], row->bit);
    case WHO_PRIMARY:
        return by_bit(primary, row->bit);
    case WHO_SECONDARY:
        return by_bit(secondary_controls(v), row->bit);
    case WHO_TERTIARY:
        return by_bit(tertiary_controls(v), row->bit);
    case WHO_ENABLED:
        return l1_if(bit_of(primary, row->bit) && enabled(v, reason));
    case WHO_LEAF:
        return l1_if(leaf_wanted(vcpu, v, row->bit));
    case WHO_EOI:
        return l1_if(eoi_wanted(v, info->qualification));
    case WHO_TIMEOUT:
        return l1_if(timeout_wanted(vcpu, v, hardware));
    case WHO_PAUSE:
        return l1_if(bit_of(primary, 30) || (secondary_controls(v) & PROC2_PLE) != 0);
    case WHO_APIC_WRITE:
        return l1_if((primary & PROC_TPR_SHADOW) != 0 || (secondary_controls(v) & (PROC2_APIC_REGISTER | PROC2_VIRTUAL_INTERRUPTS)) != 0);
    case WHO_MONITOR_TRAP:
        return l1_if(monitor_trap_wanted(v));
    case WHO_SHADOW_VMCS:
        return route_shadow_vmcs(vcpu, v, reason, info, hardware);
    case WHO_EPT_VPID:
        return route_if_offered(vcpu, v, row->bit, info, hardware);
    case WHO_VM_FUNCTION:
        return route_vm_function(vcpu, v, hardware);
    case WHO_XSS:
        return l1_if(xss_wanted(vcpu, v));
    case WHO_EXCEPTION:
        return route_exception(vcpu, v, info, hardware);
    case WHO_INTERRUPT:
        return route_interrupt(vcpu, v, hardware);
    case WHO_CONTROL_REGISTER:
        return route_control_register(vcpu, v, info);
    case WHO_IO:
        return route_io(vcpu, v, info, hardware);
    case WHO_MSR_READ:
    case WHO_MSR_WRITE:
    case WHO_MSR_READ_IMMEDIATE:
    case WHO_MSR_WRITE_IMMEDIATE:
    case WHO_MSR_LIST_READ:
    case WHO_MSR_LIST_WRITE:
        return route_msr(vcpu, v, row, info, hardware);
    case WHO_USER_MSR:
        /* Nothing says which MSR it was: with bitmaps only the host, which can look at the instruction, can tell. */
        return l1_if((primary & PROC_MSR_BITMAPS) == 0);
    case WHO_EPT:
        return hardware ? route_ept(vcpu, v, reason, info) : ROUTE_HOST;
    default:
        return ROUTE_HOST;
    }
}

/* Compiled apart, so that what a host asks costs an exit nothing. */
enum route exit_route(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, const struct exit_row *row, struct nvmx_l2_exit_info *info) {
    return by_row(vcpu, v, reason, row, info, true);
}

COLD enum route exit_route_asked(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, const struct exit_row *row,
                                 struct nvmx_l2_exit_info *info) {
    return by_row(vcpu, v, reason, row, info, false);
}
