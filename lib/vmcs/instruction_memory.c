/* SPDX-License-Identifier: MIT */
/*
 * The way of nearly every VMPTRLD, VMPTRST, VMCLEAR, INVEPT and INVVPID, and of VMREAD and VMWRITE with a memory operand: a 64-bit L1 in VMX
 * root operation at CPL 0, nothing unusual pending, an operand within a page that 4-level paging maps without further ado. As in
 * instruction_fast.c whatever is not of that kind is left untouched to instruction.c.
 *
 * No translation is remembered: L1 may change its page tables, and INVLPG or MOV to CR3, which would make a processor forget it, don't
 * exit. The walk is made cheap instead.
 */
#include "instruction_fast.h"
#include "instruction_tlb.h"

#include <string.h>

#define OFFSET_MASK    (uint64_t)(NVMX_PAGE_SIZE - 1)
#define OPERAND_BYTES  16u

/* Instruction information (SDM 30.2.5): memory, a 64-bit address, and ES, CS, SS or DS. */
#define INFORMATION_KIND      (INFORMATION_REGISTER | (7u << 7) | (1u << 17))
#define INFORMATION_USUAL     (2u << 7)
#define INFORMATION_INDEX(info) (((info) >> 18) & 15u)
#define INFORMATION_NO_INDEX  (1u << 22)
#define INFORMATION_BASE(info) (((info) >> 23) & 15u)
#define INFORMATION_NO_BASE   (1u << 27)

/* What the CPU says besides BASE_ENCODINGS. */
enum { OPERAND_QUALIFICATION = BASE_COUNT, OPERAND_CR3, OPERAND_CR4, OPERAND_RSP, OPERAND_COUNT };
static const uint32_t operand_base[OPERAND_COUNT] = {
    BASE_ENCODINGS,
    [OPERAND_QUALIFICATION] = NVMX_VMCS_EXIT_QUALIFICATION,
    [OPERAND_CR3] = NVMX_VMCS_GUEST_CR3,
    [OPERAND_CR4] = NVMX_VMCS_GUEST_CR4,
    [OPERAND_RSP] = NVMX_VMCS_GUEST_RSP,
};

/* -- the operand
 * ------------------------------------------------------------------------------------------------------------- */

/* The linear address of an operand that lies in one page, also if it had OPERAND_BYTES; false: not of the usual kind. */
static inline bool usual_address(const struct nvmx_vcpu *vcpu, const uint64_t *is, uint64_t *linear) {
    const uint32_t info = (uint32_t)is[BASE_INFO];
    uint64_t address = is[OPERAND_QUALIFICATION];

    if ((info & INFORMATION_KIND) != INFORMATION_USUAL) {
        return false;
    }
    if ((info & INFORMATION_NO_BASE) == 0) {
        const unsigned int base = INFORMATION_BASE(info);
        address += base == NVMX_RSP ? is[OPERAND_RSP] : vcpu->regs->gpr[base];
    }
    if ((info & INFORMATION_NO_INDEX) == 0) {
        if (INFORMATION_INDEX(info) == NVMX_RSP) {
            return false;
        }
        address += vcpu->regs->gpr[INFORMATION_INDEX(info)] << (info & 3);
    }
    *linear = address;
    return (uint64_t)((int64_t)(address << 16) >> 16) == address && (address & OFFSET_MASK) <= NVMX_PAGE_SIZE - OPERAND_BYTES;
}

/* A walk so far. `all` and `any` have the bits that all, or some, of the entries have. */
struct way {
    uint64_t entry;
    uint64_t all;
    uint64_t any;
    uint32_t pages; /* mapped and unmapped */
};

/* The next entry, at bits 9 of the linear address from `shift` on. False: there is no memory. */
static inline __attribute__((always_inline)) bool next_entry(struct nvmx_vcpu *vcpu, uint64_t linear, unsigned int shift, struct way *way) {
    const uint64_t table = way->entry & vcpu->l1_address_bits;
    uint64_t hpa;
    uint8_t *page = host_map_uncounted(vcpu, table, NVMX_ACCESS_READ, &hpa);

    if (RARE(page == NULL)) {
        vcpu->counts.callback[CB_MAP_PAGE]++;
        return false;
    }
    way->entry = __atomic_load_n((const uint64_t *)(const void *)(page + ((linear >> (shift - 3)) & 0xff8)), __ATOMIC_RELAXED);
    host_unmap_uncounted(vcpu, table, page, false);
    way->pages++;
    way->all &= way->entry;
    way->any |= way->entry;
    return true;
}

/* Data of most systems is not executable: where the host watches IA32_EFER it need not be asked. */
static COLD bool xd_usual(struct nvmx_vcpu *vcpu) {
    uint64_t efer;

    if (vcpu->watched.known && (gates_watched(vcpu) & (1u << GATE_EFER)) != 0) {
        return (vcpu->watched.value[watched_place(vcpu, GATE_EFER)] & EFER_NXE) != 0;
    }
    return host_msr_read(vcpu, MSR_EFER, &efer) == NVMX_OK && (efer & EFER_NXE) != 0;
}

/* Where an address is in the page of 1 << shift bytes that the entry maps; or NVMX_NO_ADDRESS. */
static inline __attribute__((always_inline)) uint64_t usual_leaf(struct nvmx_vcpu *vcpu, const uint64_t *is, const struct way *way, bool write,
                                                                 uint64_t linear, unsigned int shift) {
    const uint64_t within = (UINT64_C(1) << shift) - 1;
    const uint64_t reserved = shift == 12 ? 0 : within & ~(OFFSET_MASK | ENTRY_PAT);
    const bool smap = (way->all & ENTRY_US) != 0 && (is[OPERAND_CR4] & CR4_SMAP) != 0 && (is[BASE_RFLAGS] & RFLAGS_AC) == 0;

    if ((way->any & vcpu->l1_reserved_bits) != 0 || (way->entry & reserved) != 0 || smap ||
        (write && ((way->all & ENTRY_RW) == 0 || (way->entry & ENTRY_D) == 0)) ||
        (RARE((way->any & ENTRY_XD) != 0) && !xd_usual(vcpu))) {
        return NVMX_NO_ADDRESS;
    }
    return (way->entry & vcpu->l1_address_bits & ~within) | (linear & within);
}

/*
 * Access by 4-level paging (SDM 5.5) where every entry is present and accessed, and has no bit set that the width or the page size
 * reserves; for writing also writable, and dirty. Else NVMX_NO_ADDRESS.
 */
static inline __attribute__((always_inline)) uint64_t usual_walk(struct nvmx_vcpu *vcpu, const uint64_t *is, bool write, uint64_t linear,
                                                                 struct way *way) {
    const uint64_t kind = ENTRY_P | ENTRY_A | ENTRY_PS, table = ENTRY_P | ENTRY_A;

    if (!next_entry(vcpu, linear, 39, way) || (way->entry & kind) != table || !next_entry(vcpu, linear, 30, way)) {
        return NVMX_NO_ADDRESS;
    }
    if (RARE((way->entry & kind) != table)) {
        return (way->entry & kind) == kind ? usual_leaf(vcpu, is, way, write, linear, 30) : NVMX_NO_ADDRESS;
    }
    if (!next_entry(vcpu, linear, 21, way)) {
        return NVMX_NO_ADDRESS;
    }
    if ((way->entry & kind) != table) {
        return (way->entry & kind) == kind ? usual_leaf(vcpu, is, way, write, linear, 21) : NVMX_NO_ADDRESS;
    }
    if (!next_entry(vcpu, linear, 12, way) || (way->entry & table) != table) {
        return NVMX_NO_ADDRESS;
    }
    return usual_leaf(vcpu, is, way, write, linear, 12);
}

/* Where the operand is, or NVMX_NO_ADDRESS. Nothing was done yet: the phases of instruction.c would arrive there too. */
static inline __attribute__((always_inline)) uint64_t usual_operand(struct nvmx_vcpu *vcpu, const uint64_t *is, bool write) {
    struct way way = {.entry = is[OPERAND_CR3], .all = UINT64_MAX};
    uint64_t linear;

    if ((is[OPERAND_CR4] & (CR4_LA57 | CR4_PKS)) != 0 || !usual_address(vcpu, is, &linear)) {
        return NVMX_NO_ADDRESS;
    }
    const uint64_t gpa1 = usual_walk(vcpu, is, write, linear, &way);
    vcpu->counts.callback[CB_MAP_PAGE] += way.pages;
    vcpu->counts.callback[CB_UNMAP_PAGE] += way.pages;
    return gpa1;
}

static inline __attribute__((always_inline)) bool read_operand(struct nvmx_vcpu *vcpu, const uint64_t *is, uint64_t *to) {
    const uint64_t gpa1 = usual_operand(vcpu, is, false);

    if (gpa1 == NVMX_NO_ADDRESS) {
        return false;
    }
    uint8_t *page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ, NULL);
    if (page == NULL) {
        return false;
    }
    memcpy(to, page + (gpa1 & OFFSET_MASK), OPERAND_BYTES);
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, false);
    return true;
}

/* -- the instructions
 * -------------------------------------------------------------------------------------------------------- */

/* The type in the register operand, if it is one of `types`; else FLUSH_NONE. */
#define FLUSH_NONE UINT64_MAX
static inline uint64_t usual_type(const struct nvmx_vcpu *vcpu, const uint64_t *is, uint8_t types) {
    const unsigned int reg2 = INFORMATION_REG2(is[BASE_INFO]);
    const uint64_t type = vcpu->regs->gpr[reg2];

    if (RARE(reg2 == NVMX_RSP || type > 7)) {
        return FLUSH_NONE;
    }
    return ((types >> type) & 1) != 0 ? type : FLUSH_NONE;
}

/* VMPTRLD and VMCLEAR may leave another VMCS selected. */
static inline struct verdict back_to_vmcs01(struct nvmx_vcpu *vcpu, struct verdict verdict) {
    const enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);

    return RARE(status != NVMX_OK) ? VERDICT(STOP, status) : verdict;
}

/* GO_ON: not of the usual kind, and nothing was done. */
static inline struct verdict effect(struct nvmx_vcpu *vcpu, uint32_t basic_reason, const uint64_t *is, const uint64_t *operand) {
    uint64_t type;

    if (basic_reason == NVMX_REASON_INVEPT) {
        type = usual_type(vcpu, is, vcpu->vm->invept_types);
        return type == FLUSH_NONE ? VERDICT(GO_ON, 0) : invept_descriptor(vcpu, type, operand[0]);
    }
    if (basic_reason == NVMX_REASON_INVVPID) {
        type = usual_type(vcpu, is, vcpu->vm->invvpid_types);
        return type == FLUSH_NONE ? VERDICT(GO_ON, 0) : invvpid_descriptor(vcpu, type, operand[0], operand[1]);
    }
    return back_to_vmcs01(vcpu, basic_reason == NVMX_REASON_VMPTRLD ? vmptrld_region(vcpu, operand[0]) : vmclear_region(vcpu, operand[0]));
}

static COLD enum nvmx_next unusual(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    return instruction_in_phases(vcpu, basic_reason);
}

/* Store a result of 8 bytes in the operand, and end the instruction. */
static inline __attribute__((always_inline)) enum nvmx_next store(struct nvmx_vcpu *vcpu, uint32_t basic_reason, const uint64_t *is,
                                                                  uint64_t value) {
    const uint64_t gpa1 = usual_operand(vcpu, is, true);
    uint8_t *page = NULL;

    if (gpa1 != NVMX_NO_ADDRESS) {
        page = host_map(vcpu, gpa1 & ~OFFSET_MASK, NVMX_ACCESS_READ | NVMX_ACCESS_WRITE, NULL);
    }
    if (page == NULL) {
        return unusual(vcpu, basic_reason);
    }
    memcpy(page + (gpa1 & OFFSET_MASK), &value, sizeof(value));
    host_unmap(vcpu, gpa1 & ~OFFSET_MASK, page, true);
    return succeed(vcpu, is);
}

enum nvmx_next instruction_access_memory(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    uint64_t is[OPERAND_COUNT], operand[2];
    enum nvmx_status status = host_read_fixed(vcpu, OPERAND_COUNT, operand_base, is);

    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    const unsigned int reg2 = INFORMATION_REG2(is[BASE_INFO]);
    const int slot = usual_field(vcpu, vcpu->regs->gpr[reg2]);
    if (vcpu->vm->host.translate != NULL || !usual(is) || reg2 == NVMX_RSP || slot < 0) {
        return unusual(vcpu, basic_reason);
    }
    if (basic_reason == NVMX_REASON_VMREAD) {
        return nvmx_set_has(&v->stale, (unsigned int)slot) ? unusual(vcpu, basic_reason)
                                                           : store(vcpu, basic_reason, is, v->value[slot]);
    }
    if (vcpu->write_ways.by_rule[slot] || !read_operand(vcpu, is, operand)) {
        return unusual(vcpu, basic_reason);
    }
    write_field(vcpu, v, (unsigned int)slot, operand[0]);
    return succeed(vcpu, is);
}

enum nvmx_next instruction_memory(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    uint64_t is[OPERAND_COUNT], operand[2];

    if (RARE(vcpu->mode != NVMX_MODE_ROOT || vcpu->vm->host.translate != NULL)) {
        return unusual(vcpu, basic_reason);
    }
    enum nvmx_status status = host_read_fixed(vcpu, OPERAND_COUNT, operand_base, is);
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    if (!usual(is)) {
        return unusual(vcpu, basic_reason);
    }
    if (basic_reason == NVMX_REASON_VMPTRST) {
        return store(vcpu, basic_reason, is, vmcs12_pointer(vcpu));
    }
    if (!read_operand(vcpu, is, operand)) {
        return unusual(vcpu, basic_reason);
    }
    const struct verdict verdict = effect(vcpu, basic_reason, is, operand);
    if (RARE(verdict.kind != SUCCEED)) {
        return verdict.kind == GO_ON ? unusual(vcpu, basic_reason) : instruction_conclude(vcpu, basic_reason, verdict);
    }
    return succeed(vcpu, is);
}
