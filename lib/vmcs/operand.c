/* SPDX-License-Identifier: MIT */
/* Effective address, segmentation and canonicality of memory operands (SDM 3.3.7, 5.3, 5.4 of volume 3; 33.3 for the
 * faults). */
#include "operand.h"

#define VECTOR_SS 12
#define VECTOR_GP 13

/* Access rights as a VMCS has them (SDM 27.4.1). */

/* By enum nvmx_segment. */
static const struct {
    uint8_t base;
    uint8_t limit;
    uint8_t rights;
} segment_fields[] = {
    {NVMX_F_GUEST_ES_BASE, NVMX_F_GUEST_ES_LIMIT, NVMX_F_GUEST_ES_ACCESS_RIGHTS},
    {NVMX_F_GUEST_CS_BASE, NVMX_F_GUEST_CS_LIMIT, NVMX_F_GUEST_CS_ACCESS_RIGHTS},
    {NVMX_F_GUEST_SS_BASE, NVMX_F_GUEST_SS_LIMIT, NVMX_F_GUEST_SS_ACCESS_RIGHTS},
    {NVMX_F_GUEST_DS_BASE, NVMX_F_GUEST_DS_LIMIT, NVMX_F_GUEST_DS_ACCESS_RIGHTS},
    {NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_FS_LIMIT, NVMX_F_GUEST_FS_ACCESS_RIGHTS},
    {NVMX_F_GUEST_GS_BASE, NVMX_F_GUEST_GS_LIMIT, NVMX_F_GUEST_GS_ACCESS_RIGHTS},
};

/* What one batch brings; fields that were not wanted are 0. */
struct operand_fields {
    uint64_t qualification;
    uint64_t rsp;
    uint64_t base;
    uint64_t limit;
    uint64_t rights;
    uint64_t cr0;
    uint64_t cr3;
    uint64_t cr4;
};

#define FIELDS_MAX 8u

struct want {
    uint32_t count;
    uint8_t slot[FIELDS_MAX];
    uint64_t *to[FIELDS_MAX];
};

static void want_field(struct want *want, bool wanted, unsigned int slot, uint64_t *to) {
    *to = 0;
    if (wanted) {
        want->slot[want->count] = (uint8_t)slot;
        want->to[want->count++] = to;
    }
}

/* A 64-bit L1, an operand without RSP, FS or GS. */
static bool plain_operand(const struct nvmx_operand *operand, bool mode64, bool walks) {
    return mode64 && walks && operand->base != NVMX_RSP && operand->index != NVMX_RSP && operand->segment != NVMX_FS &&
           operand->segment != NVMX_GS;
}

static enum nvmx_status read_fields(struct nvmx_vcpu *vcpu, const struct nvmx_operand *operand, bool mode64, bool walks,
                                    struct operand_fields *f) {
    static const uint32_t plain[] = {NVMX_VMCS_EXIT_QUALIFICATION, NVMX_VMCS_GUEST_CR0, NVMX_VMCS_GUEST_CR3,
                                     NVMX_VMCS_GUEST_CR4};
    if (plain_operand(operand, mode64, walks)) {
        uint64_t is[4];
        enum nvmx_status plain_status = host_read_encoded(vcpu, 4, plain, is);
        *f = (struct operand_fields){.qualification = is[0], .cr0 = is[1], .cr3 = is[2], .cr4 = is[3]};
        return plain_status;
    }
    const bool la57 = mode64 && (vcpu->vm->caps.cpu & NVMX_CPU_LA57) != 0;
    const bool lam = mode64 && (vcpu->vm->caps.cpu & NVMX_CPU_LAM) != 0;
    const unsigned int segment = operand->segment;
    struct want want = {0};
    uint64_t value[FIELDS_MAX];
    want_field(&want, true, NVMX_F_EXIT_QUALIFICATION, &f->qualification);
    want_field(&want, operand->base == NVMX_RSP || operand->index == NVMX_RSP, NVMX_F_GUEST_RSP, &f->rsp);
    want_field(&want, !mode64 || segment == NVMX_FS || segment == NVMX_GS, segment_fields[segment].base, &f->base);
    want_field(&want, !mode64, segment_fields[segment].limit, &f->limit);
    want_field(&want, !mode64, segment_fields[segment].rights, &f->rights);
    want_field(&want, walks, NVMX_F_GUEST_CR0, &f->cr0);
    want_field(&want, walks || lam, NVMX_F_GUEST_CR3, &f->cr3);
    want_field(&want, walks || la57 || lam, NVMX_F_GUEST_CR4, &f->cr4);
    enum nvmx_status status = host_read_many(vcpu, want.count, want.slot, value);
    for (uint32_t i = 0; status == NVMX_OK && i < want.count; i++) {
        *want.to[i] = value[i];
    }
    return status;
}

static uint64_t register_value(const struct nvmx_vcpu *vcpu, const struct operand_fields *f, uint8_t number) {
    if (number == NVMX_NO_REGISTER) {
        return 0;
    }
    return number == NVMX_RSP ? f->rsp : vcpu->regs->gpr[number & 15];
}

/* Base + index * scale + displacement, cut to the address size. RIP-relative: the qualification contains the next RIP
 * (SDM 30.2.1). */
static uint64_t effective_address(const struct nvmx_vcpu *vcpu, const struct nvmx_operand *operand, bool mode64,
                                  const struct operand_fields *f) {
    uint64_t sum = f->qualification + register_value(vcpu, f, operand->base) +
                   (register_value(vcpu, f, operand->index) << operand->scale);
    if (operand->address_bits == 16) {
        return (uint16_t)sum;
    }
    return operand->address_bits == 64 && mode64 ? sum : (uint32_t)sum;
}

/*
 * Offsets outside the segment (SDM 6.3). A segment that spans 4 GiB has no outside: whether an access that wraps faults
 * there is up to the processor.
 */
static bool beyond_limit(const struct operand_fields *f, uint64_t offset, uint32_t bytes) {
    const uint64_t last = offset + bytes - 1;
    if ((f->rights & (RIGHTS_CODE | RIGHTS_EXPAND_DOWN)) == RIGHTS_EXPAND_DOWN) {
        return offset <= f->limit || last > ((f->rights & RIGHTS_BIG) ? UINT32_MAX : UINT16_MAX);
    }
    return f->limit != UINT32_MAX && last > f->limit;
}

static bool type_forbids(const struct operand_fields *f, bool write) {
    if (f->rights & RIGHTS_CODE) {
        return write || (f->rights & RIGHTS_READ_WRITE) == 0;
    }
    return write && (f->rights & RIGHTS_READ_WRITE) == 0;
}

static bool canonical(uint64_t linear, unsigned int bits) {
    uint64_t upper = linear >> (bits - 1);
    return upper == 0 || upper == UINT64_MAX >> (bits - 1);
}

/*
 * Bits 62:width of a pointer that are software's own take the value of the bit below them (SDM 4.4, linear-address masking). If bit 63 is another one
 * the address is not canonical: so it is with LAM_U48 where addresses have 57 bits, too.
 */
static uint64_t masked(uint64_t linear, unsigned int width) {
    uint64_t metadata = (UINT64_C(1) << 63) - (UINT64_C(1) << width);
    return ((linear >> (width - 1)) & 1) != 0 ? linear | metadata : linear & ~metadata;
}

static uint64_t without_metadata(const struct nvmx_vcpu *vcpu, const struct operand_fields *f, uint64_t linear) {
    bool supervisor = (linear >> 63) != 0;
    if ((vcpu->vm->caps.cpu & NVMX_CPU_LAM) == 0) {
        return linear;
    }
    if (supervisor) {
        return (f->cr4 & CR4_LAM_SUP) != 0 ? masked(linear, (f->cr4 & CR4_LA57) != 0 ? 57 : 48) : linear;
    }
    if ((f->cr3 & CR3_LAM_U57) != 0) {
        return masked(linear, 57);
    }
    return (f->cr3 & CR3_LAM_U48) != 0 ? masked(linear, 48) : linear;
}

static void raise_segment(struct l1_fault *fault, int vector) {
    *fault = (struct l1_fault){.vector = (int16_t)vector, .has_error_code = true};
}

enum nvmx_status operand_linear(struct nvmx_vcpu *vcpu, const struct operand_access *access, struct l1_paging *paging,
                                uint64_t *linear, struct l1_fault *fault) {
    const struct nvmx_operand *operand = access->operand;
    const int segment_vector = operand->segment == NVMX_SS ? VECTOR_SS : VECTOR_GP;
    struct operand_fields f;
    uint64_t offset;
    const bool walks = vcpu->vm->host.translate == NULL || paging->l2 != NULL;
    *fault = (struct l1_fault){.vector = -1};
    enum nvmx_status status = read_fields(vcpu, operand, paging->mode64, walks, &f);
    if (status != NVMX_OK) {
        return status;
    }
    offset = effective_address(vcpu, operand, paging->mode64, &f);
    *linear = f.base + offset;
    if (paging->mode64) {
        *linear = without_metadata(vcpu, &f, *linear);
        unsigned int bits = (f.cr4 & CR4_LA57) && (vcpu->vm->caps.cpu & NVMX_CPU_LA57) ? 57 : 48;
        if (!canonical(*linear, bits) || !canonical(*linear + access->bytes - 1, bits)) {
            raise_segment(fault, segment_vector);
            return NVMX_OK;
        }
    } else {
        *linear = (uint32_t)*linear;
        if (f.rights & RIGHTS_UNUSABLE) {
            raise_segment(fault, segment_vector);
            return NVMX_OK;
        }
        if (type_forbids(&f, access->write)) {
            raise_segment(fault, VECTOR_GP);
            return NVMX_OK;
        }
        if (beyond_limit(&f, offset, access->bytes)) {
            raise_segment(fault, segment_vector);
            return NVMX_OK;
        }
    }
    paging->cr0 = f.cr0;
    paging->cr3 = f.cr3;
    paging->cr4 = f.cr4;
    return walks ? l1_paging_pdptes(vcpu, paging) : NVMX_OK;
}

enum nvmx_status operand_register(struct nvmx_vcpu *vcpu, unsigned int number, uint64_t *value) {
    if (number == NVMX_RSP) {
        return host_read(vcpu, NVMX_F_GUEST_RSP, value);
    }
    *value = vcpu->regs->gpr[number & 15];
    return NVMX_OK;
}
