/* SPDX-License-Identifier: MIT */
/*
 * The way of nearly every VMREAD, VMWRITE, VMLAUNCH, VMRESUME, VMPTRLD, VMCLEAR, INVEPT and INVVPID: a 64-bit L1 in VMX root
 * operation at CPL 0, nothing unusual pending, a field that exists, a memory operand that 4-level paging maps without
 * further ado. It does what instruction.c does in the phases of the SDM, in a fifth of the instructions. Whatever is
 * not of that kind it leaves untouched to instruction.c, which begins anew, as the processor does with an instruction
 * that it restarts.
 */
#include "instruction.h"

#include <string.h>

#define RFLAGS_UNUSUAL       UINT64_C(0x30100) /* TF, RF, VM */
#define RIGHTS_DPL           (3u << 5)
#define INFORMATION_REGISTER (1u << 10)

static inline bool usual(const uint64_t *is) {
    return (is[BASE_ENTRY_CONTROLS] & ENTRY_IA32E_GUEST) != 0 && (is[BASE_CS_RIGHTS] & RIGHTS_L) != 0 &&
           ((is[BASE_SS_RIGHTS] & RIGHTS_DPL) | (is[BASE_RFLAGS] & RFLAGS_UNUSUAL) | is[BASE_INTERRUPTIBILITY]) == 0;
}

static inline enum nvmx_status succeed(struct nvmx_vcpu *vcpu, const uint64_t *is) {
    static const uint32_t encoding[] = {NVMX_VMCS_GUEST_RIP, NVMX_VMCS_GUEST_RFLAGS};
    const uint64_t value[] = {is[BASE_RIP] + is[BASE_LENGTH], is[BASE_RFLAGS] & ~RFLAGS_ARITHMETIC};

    vcpu->counts.emulated++;
    return value[1] == is[BASE_RFLAGS] ? host_write_encoded(vcpu, 1, encoding, value)
                                       : host_write_encoded(vcpu, 2, encoding, value);
}

/* The slot of a whole field that L1 has, or NVMX_FIELD_NONE. The table has no more places than the index can name:
 * nothing to clamp. */
static inline int usual_field(const struct nvmx_vcpu *vcpu, uint64_t encoding) {
    return (encoding & FIELD_NO_PLACE) != 0 ? NVMX_FIELD_NONE : (int)vcpu->vm->whole_field[FIELD_PLACE(encoding)] - 1;
}

static inline enum fast_outcome access_field(struct nvmx_vcpu *vcpu, const uint64_t *is, bool write) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    unsigned int reg1 = (is[BASE_INFO] >> 3) & 15;
    unsigned int reg2 = (is[BASE_INFO] >> 28) & 15;

    if ((is[BASE_INFO] & INFORMATION_REGISTER) == 0 || reg1 == NVMX_RSP || reg2 == NVMX_RSP) {
        return FAST_NOT_USUAL;
    }
    int slot = usual_field(vcpu, vcpu->regs->gpr[reg2]);
    if (slot < 0) {
        return FAST_NOT_USUAL;
    }
    if (!write) {
        if (nvmx_set_has(&v->stale, (unsigned int)slot)) {
            return FAST_NOT_USUAL;
        }
        vcpu->regs->gpr[reg1] = v->value[slot];
        return FAST_DONE;
    }
    /* Exit information may be read-only; what L1 reads from the shadow VMCS must be written there too. */
    bool shadowed = vcpu->shadow_hpa != NVMX_NO_ADDRESS && nvmx_set_has(&vcpu->vm->shadowed.fields, (unsigned int)slot);
    if (shadowed || nvmx_encoding_read_only(field_encoding[slot])) {
        return FAST_NOT_USUAL;
    }
    vmcs12_write(vcpu, (unsigned int)slot, vcpu->regs->gpr[reg1]);
    return FAST_DONE;
}

/* Not of the usual kind; what was read already is not read again. */
static COLD enum nvmx_next unusual_access(struct nvmx_vcpu *vcpu, uint32_t basic_reason, const uint64_t *value) {
    struct base_values is = {.count = BASE_COUNT};

    memcpy(is.value, value, sizeof(is.value));
    return instruction_in_phases(vcpu, basic_reason, &is);
}

enum nvmx_next instruction_access(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    uint64_t is[BASE_COUNT];

    if (RARE(vcpu->mode != NVMX_MODE_ROOT || vcpu->current < 0)) {
        return instruction_in_phases(vcpu, basic_reason, NULL);
    }
    enum nvmx_status status = host_read_encoded(vcpu, BASE_COUNT, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is) || access_field(vcpu, is, basic_reason == NVMX_REASON_VMWRITE) != FAST_DONE) {
        /* A copy, so that `is` needs no address in the usual case. */
        const uint64_t kept[BASE_COUNT] = {is[0], is[1], is[2], is[3], is[4], is[5], is[6], is[7]};
        return unusual_access(vcpu, basic_reason, kept);
    }
    status = succeed(vcpu, is);
    return RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : NVMX_ENTER;
}

enum nvmx_next instruction_entry(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    const bool launch = basic_reason == NVMX_REASON_VMLAUNCH;
    const struct vmcs12 *v = vmcs12_current(vcpu);
    uint64_t is[BASE_RIP];

    if (RARE(vcpu->mode != NVMX_MODE_ROOT || v == NULL || v->launched == launch || v->is_shadow)) {
        return instruction_in_phases(vcpu, basic_reason, NULL);
    }
    enum nvmx_status status = host_read_encoded(vcpu, BASE_RIP, instruction_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is)) {
        return instruction_in_phases(vcpu, basic_reason, NULL);
    }
    vcpu->counts.emulated++;
    vcpu->l1_left = (struct l1_left){true, is[BASE_CS_RIGHTS], is[BASE_SS_RIGHTS], is[BASE_ENTRY_CONTROLS], 0};
    return enter_l2(vcpu, true);
}

/* -- memory operands
 * ---------------------------------------------------------------------------------------------------------------- */

#define CR4_LA57    (UINT64_C(1) << 12)
#define CR4_SMAP    (UINT64_C(1) << 21)
#define CR4_PKS     (UINT64_C(1) << 24)
#define RFLAGS_AC   (UINT64_C(1) << 18)
#define ENTRY_P     UINT64_C(1)
#define ENTRY_US    (UINT64_C(1) << 2)
#define ENTRY_A     (UINT64_C(1) << 5)
#define ENTRY_PS    (UINT64_C(1) << 7)
#define ENTRY_XD    (UINT64_C(1) << 63)
#define ENTRY_HIGH  UINT64_C(0x000ffffffffff000)
#define MSR_EFER    0xc0000080u
#define EFER_NXE    (UINT64_C(1) << 11)
#define OFFSET_MASK (uint64_t)(NVMX_PAGE_SIZE - 1)

/* Instruction information (SDM 30.2.5): a 64-bit address; ES, CS, SS or DS. */
#define INFORMATION_ADDRESS(info) (((info) >> 7) & 7u)
#define INFORMATION_SEGMENT(info) (((info) >> 15) & 7u)
#define INFORMATION_INDEX(info)   (((info) >> 18) & 15u)
#define INFORMATION_NO_INDEX      (1u << 22)
#define INFORMATION_BASE(info)    (((info) >> 23) & 15u)
#define INFORMATION_NO_BASE       (1u << 27)
#define ADDRESS_64                2u

/* What the CPU says besides struct base_values. */
enum { OPERAND_QUALIFICATION = BASE_COUNT, OPERAND_CR3, OPERAND_CR4, OPERAND_RSP, OPERAND_COUNT };
static const uint32_t operand_base[OPERAND_COUNT] = {
    BASE_ENCODINGS,
    [OPERAND_QUALIFICATION] = NVMX_VMCS_EXIT_QUALIFICATION,
    [OPERAND_CR3] = NVMX_VMCS_GUEST_CR3,
    [OPERAND_CR4] = NVMX_VMCS_GUEST_CR4,
    [OPERAND_RSP] = NVMX_VMCS_GUEST_RSP,
};

/* The linear address of an operand that lies in one page; false: not of the usual kind. */
static inline bool usual_address(const struct nvmx_vcpu *vcpu, const uint64_t *is, uint32_t bytes, uint64_t *linear) {
    uint32_t info = (uint32_t)is[BASE_INFO];
    uint64_t address = is[OPERAND_QUALIFICATION];

    if ((info & INFORMATION_REGISTER) != 0 || INFORMATION_ADDRESS(info) != ADDRESS_64 ||
        INFORMATION_SEGMENT(info) > NVMX_DS) {
        return false;
    }
    if ((info & INFORMATION_NO_BASE) == 0) {
        unsigned int base = INFORMATION_BASE(info);
        address += base == NVMX_RSP ? is[OPERAND_RSP] : vcpu->regs->gpr[base];
    }
    if ((info & INFORMATION_NO_INDEX) == 0) {
        if (INFORMATION_INDEX(info) == NVMX_RSP) {
            return false;
        }
        address += vcpu->regs->gpr[INFORMATION_INDEX(info)] << (info & 3);
    }
    *linear = address;
    return (uint64_t)((int64_t)(address << 16) >> 16) == address && (address & OFFSET_MASK) <= NVMX_PAGE_SIZE - bytes;
}

static inline bool read_entry(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t *entry) {
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, NULL);

    if (page == NULL) {
        return false;
    }
    *entry = __atomic_load_n((uint64_t *)(void *)(page + (gpa1 & OFFSET_MASK)), __ATOMIC_RELAXED);
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
    return true;
}

static bool xd_usual(struct nvmx_vcpu *vcpu) {
    uint64_t efer;

    return host_msr_read(vcpu, MSR_EFER, &efer) == NVMX_OK && (efer & EFER_NXE) != 0;
}

/*
 * Reading by 4-level paging (SDM 5.5) where every entry is present and accessed, and has no bit set that the width or
 * the page size reserves. `all` and `any` have the bits that all, or some, of the entries have.
 */
static inline bool usual_walk(struct nvmx_vcpu *vcpu, const uint64_t *is, uint64_t linear, uint64_t *gpa1) {
    const uint64_t address = vcpu->l1_address_bits;
    uint64_t all = UINT64_MAX, any = 0, entry = is[OPERAND_CR3];
    unsigned int shift = 39;

    for (;; shift -= 9) {
        if (!read_entry(vcpu, (entry & address) + ((linear >> shift) & 0x1ff) * 8, &entry)) {
            return false;
        }
        all &= entry;
        any |= entry;
        if ((all & (ENTRY_P | ENTRY_A)) != (ENTRY_P | ENTRY_A)) {
            return false;
        }
        if (shift == 12) {
            break;
        }
        if ((entry & ENTRY_PS) != 0) {
            uint64_t below = (UINT64_C(1) << shift) - 1;
            if (shift == 39 || (entry & below & ~UINT64_C(0x1fff)) != 0) {
                return false;
            }
            break;
        }
    }
    bool smap = (all & ENTRY_US) != 0 && (is[OPERAND_CR4] & CR4_SMAP) != 0 && (is[BASE_RFLAGS] & RFLAGS_AC) == 0;
    if ((any & ENTRY_HIGH & ~address) != 0 || smap || ((any & ENTRY_XD) != 0 && !xd_usual(vcpu))) {
        return false;
    }
    uint64_t within = (UINT64_C(1) << shift) - 1;
    *gpa1 = (entry & address & ~within) | (linear & within);
    return true;
}

/* Nothing was done yet: the operand, at which the phases of instruction.c would arrive too. */
static inline bool usual_operand(struct nvmx_vcpu *vcpu, const uint64_t *is, uint32_t bytes, uint64_t *to) {
    uint64_t linear, gpa1;

    if ((is[OPERAND_CR4] & (CR4_LA57 | CR4_PKS)) != 0 || !usual_address(vcpu, is, bytes, &linear) ||
        !usual_walk(vcpu, is, linear, &gpa1)) {
        return false;
    }
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, NULL);
    if (page == NULL) {
        return false;
    }
    memcpy(to, page + (gpa1 & OFFSET_MASK), 8);
    if (bytes == 16) {
        memcpy(to + 1, page + (gpa1 & OFFSET_MASK) + 8, 8);
    }
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
    return true;
}

enum fast_outcome instruction_fast_memory(struct nvmx_vcpu *vcpu, const struct instruction_row *row,
                                          enum nvmx_next *next) {
    uint64_t is[OPERAND_COUNT];
    struct instruction in;

    if (vcpu->mode != NVMX_MODE_ROOT || vcpu->vm->host.translate != NULL || !instruction_offered(vcpu, row)) {
        return FAST_NOT_USUAL;
    }
    enum nvmx_status status = host_read_encoded(vcpu, OPERAND_COUNT, operand_base, is);
    if (RARE(status != NVMX_OK)) {
        *next = stop(vcpu, NVMX_STOP_HOST, status);
        return FAST_DONE;
    }
    in.vcpu = vcpu;
    in.row = row;
    in.reg2 = vcpu->regs->gpr[(is[BASE_INFO] >> 28) & 15];
    if (!usual(is) || (row->has_reg2 && ((is[BASE_INFO] >> 28) & 15) == NVMX_RSP) ||
        (row->before != NULL && row->before(&in).kind != GO_ON) ||
        !usual_operand(vcpu, is, row->operand_bytes, in.memory)) {
        return FAST_NOT_USUAL;
    }
    vcpu->l1_left.valid = false;
    struct verdict verdict = row->effect(&in);
    if (RARE(verdict.kind != SUCCEED)) {
        vcpu->counts.emulated++;
        *next = instruction_conclude(vcpu, row, is, verdict);
        return FAST_DONE;
    }
    status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK) {
        status = succeed(vcpu, is);
    }
    *next = RARE(status != NVMX_OK) ? stop(vcpu, NVMX_STOP_HOST, status) : NVMX_ENTER;
    return FAST_DONE;
}
