/* SPDX-License-Identifier: MIT */
/*
 * Internal: the vocabulary of the WHEN and OK columns of entry_checks.def, over a `const struct check_context *c`.
 *
 * The context holds what many rows ask for, computed once per check: controls that act as 0 when their activating control is 0
 * (SDM 27.6.2, 27.7.1), address-width masks, the bits that CR0, CR4 and EFER may have. Nothing here has side effects.
 */
#ifndef NVMX_LIB_CHECK_RULES_H
#define NVMX_LIB_CHECK_RULES_H

#include <nvmx/checks.h>

struct check_context {
    const uint64_t *field;
    const struct nvmx_caps *caps;
    const struct nvmx_check_input *in;
    /* controls as they act */
    uint64_t pin, proc, proc2, proc3, exit, exit2, entry;
    /* the event that would be injected */
    uint64_t event;
    uint32_t event_type, event_vector;
    bool has_mtf, has_fred;
    /* bits that addresses must not have: structures that a VMCS points to; page tables */
    uint64_t beyond_width, beyond_maxphyaddr;
    uint64_t cr3_valid;
    unsigned int linear_bits;
    uint64_t basic, misc, ept_cap;
    uint64_t cr0_fixed0, cr0_fixed1, guest_cr0_fixed0, guest_cr0_fixed1;
    uint64_t efer_valid;
};

/* Numbers of bits; architecture.h has masks of the same names, without _BIT. */
#define CR0_PE_BIT 0
#define CR0_WP_BIT 16
#define CR0_NW 29
#define CR0_CD 30
#define CR0_PG_BIT 31
#define CR4_PAE_BIT 5
#define CR4_PCIDE_BIT 17
#define CR4_CET 23
#define CR4_FRED 32
#define CR3_LAM (UINT64_C(3) << 61) /* LAM_U57, LAM_U48 (SDM 4.4) */
#define EFER_SCE 0
#define EFER_LME_BIT 8
#define EFER_LMA_BIT 10
#define EFER_NXE_BIT 11
#define RFLAGS_TF_BIT 8
#define RFLAGS_IF_BIT 9
#define RFLAGS_VM_BIT 17
#define RFLAGS_IOPL UINT64_C(0x3000)
#define RFLAGS_RESERVED_0 (~UINT64_C(0x3fffff) | UINT64_C(0x8028))
#define DEBUGCTL_BTF 1
/* Pending debug exceptions may have B0-B3, BLD (11), enabled breakpoint (12), BS (14), RTM (16): SDM 27.4.2. */
#define PENDING_DEBUG_RESERVED (~UINT64_C(0x1580f))
#define S_CET_RESERVED UINT64_C(0x3c0)
#define S_CET_SUPPRESS_TRACKER UINT64_C(0xc00)
#define FRED_CONFIG_RESERVED UINT64_C(0x834)
#define ACTIVITY_ACTIVE 0
#define ACTIVITY_HLT 1
#define ACTIVITY_SHUTDOWN 2
#define ACTIVITY_WAIT_FOR_SIPI 3
/* Bits of the interruptibility state (SDM 27.4.2). */
#define BLOCKED_BY_STI 0
#define BLOCKED_BY_MOV_SS 1
#define BLOCKED_BY_SMI 2
#define BLOCKED_BY_NMI 3
#define BLOCKED_BY_ENCLAVE 4

#define BIT(value, bit) (((uint64_t)(value) >> (bit)) & 1)
#define F(name) (c->field[NVMX_F_##name])

#define PIN(bit) BIT(c->pin, bit)
#define PROC(bit) BIT(c->proc, bit)
#define PROC2(bit) BIT(c->proc2, bit)
#define PROC3(bit) BIT(c->proc3, bit)
#define EXIT(bit) BIT(c->exit, bit)
#define EXIT2(bit) BIT(c->exit2, bit)
#define ENTRY(bit) BIT(c->entry, bit)
#define BASIC(bit) BIT(c->basic, bit)
#define MISC(bit) BIT(c->misc, bit)
#define EPT_CAP(bit) BIT(c->ept_cap, bit)
#define CPU(name) ((c->caps->cpu & NVMX_CPU_##name) != 0)

#define HAS_ALL(value, bits) (((uint64_t)(bits) & ~(uint64_t)(value)) == 0)
#define HAS_ONLY(value, bits) (((uint64_t)(value) & ~(uint64_t)(bits)) == 0)
#define LOW_CLEAR(value, bits) (((value) & ((UINT64_C(1) << (bits)) - 1)) == 0)
#define HIGH_CLEAR(value) (((value) >> 32) == 0)
#define IN_WIDTH(address) (((address) & c->beyond_width) == 0)
#define CANONICAL(address) sign_extends(address, c->linear_bits - 1)
/* Bits 63:N are equal, but bit N-1 may differ (SDM 29.3.1.4). */
#define TOP_EQUAL(address) sign_extends(address, c->linear_bits)
/* Is a small number one of two to five? */
#define ONE_OF(value, first, ...) ((SET_OF(first, __VA_ARGS__, first, first, first, first) >> (value)) & 1)
#define SET_OF(a, b, d, e, f, ...) (1u << (a) | 1u << (b) | 1u << (d) | 1u << (e) | 1u << (f))

#define LONG CPU(LONG_MODE)
#define V8086 BIT(F(GUEST_RFLAGS), RFLAGS_VM_BIT)
#define UNRESTRICTED PROC2(7)
#define REAL_UNRESTRICTED (UNRESTRICTED && !BIT(F(GUEST_CR0), CR0_PE_BIT))
#define GUEST_FRED BIT(F(GUEST_CR4), CR4_FRED)
#define MODE_64 (ENTRY(9) && BIT(RIGHTS(CS), 13))
#define PAE_PAGING (BIT(F(GUEST_CR0), CR0_PG_BIT) && BIT(F(GUEST_CR4), CR4_PAE_BIT) && !ENTRY(9))
#define EPTP_SWITCHING BIT(F(VM_FUNCTION_CONTROLS), 0)

#define EVENT_IS_VALID BIT(c->event, 31)
#define SOFTWARE_EVENT (c->event_type >= 4 && c->event_type <= 6)
#define ACTIVITY F(GUEST_ACTIVITY_STATE)
#define BLOCKED(by) BIT(F(GUEST_INTERRUPTIBILITY_STATE), BLOCKED_BY_##by)
#define DEBUG_HELD (BLOCKED(STI) || BLOCKED(MOV_SS) || ACTIVITY == ACTIVITY_HLT)
#define SINGLE_STEP (BIT(F(GUEST_RFLAGS), RFLAGS_TF_BIT) && !BIT(F(GUEST_DEBUGCTL), DEBUGCTL_BTF))
#define LINKED (F(VMCS_LINK_POINTER) != NVMX_NO_ADDRESS)
#define LINK_ADDRESS_OK (LINKED && LOW_CLEAR(F(VMCS_LINK_POINTER), 12) && IN_WIDTH(F(VMCS_LINK_POINTER)))

/* A guest segment register's fields; access rights as in SDM 27.4.1, table 27-2. */
#define SELECTOR(s) F(GUEST_##s##_SELECTOR)
#define BASE(s) F(GUEST_##s##_BASE)
#define LIMIT(s) F(GUEST_##s##_LIMIT)
#define RIGHTS(s) F(GUEST_##s##_ACCESS_RIGHTS)
#define RPL(s) (SELECTOR(s) & 3)
#define TYPE(s) (RIGHTS(s) & 0xf)
#define DPL(s) ((RIGHTS(s) >> 5) & 3)
#define USABLE(s) (!BIT(RIGHTS(s), 16))
#define GRANULARITY_LOW(s) ((LIMIT(s) & 0xfff) == 0xfff || !BIT(RIGHTS(s), 15))
#define GRANULARITY_HIGH(s) ((LIMIT(s) >> 20) == 0 || BIT(RIGHTS(s), 15))

/* Bits 63:bit are equal. Adding 2^bit carries a run of ones to zeros. */
static inline bool sign_extends(uint64_t value, unsigned int bit) {
    return ((value + (UINT64_C(1) << bit)) >> bit) <= 1;
}

/* The area [start, start + last], computed without wrap, is within the physical-address width. */
static inline bool area_in_width(const struct check_context *c, uint64_t start, uint64_t last) {
    return last <= UINT64_MAX - start && IN_WIDTH(start + last);
}

/* Memory types of a page-attribute table: 2 and 3 and all above 7 are reserved in each byte (SDM 14.12.2). */
static inline bool pat_ok(uint64_t pat) {
    const uint64_t bit1 = UINT64_C(0x0202020202020202);
    const uint64_t high = UINT64_C(0xf8f8f8f8f8f8f8f8);

    return (pat & high) == 0 && (pat & bit1 & ~(pat >> 1)) == 0;
}

/* Vectors of hardware exceptions that push an error code (SDM 29.2.1.3). */
static inline bool has_error_code(uint32_t vector) {
    return vector <= 31 && ((UINT32_C(0x00027d00) >> vector) & 1);
}

static inline bool eptp_type_ok(const struct check_context *c, uint64_t eptp) {
    const uint64_t type = eptp & 7;

    return (type == 0 && EPT_CAP(8)) || (type == 6 && EPT_CAP(14));
}

static inline bool eptp_length_ok(const struct check_context *c, uint64_t eptp) {
    const uint64_t length_minus_1 = (eptp >> 3) & 7;

    return (length_minus_1 == 3 && EPT_CAP(6)) || (length_minus_1 == 4 && EPT_CAP(7));
}

/* IA32_VMX_MISC[8:6] says which of HLT, shutdown and wait-for-SIPI there are. */
static inline bool activity_offered(const struct check_context *c, uint64_t activity) {
    return activity == ACTIVITY_ACTIVE || (activity <= ACTIVITY_WAIT_FOR_SIPI && MISC(5 + activity));
}

/* Events that may be injected into HLT: external interrupt, NMI, #DB, #MC, pending MTF. */
static inline bool event_wakes_hlt(const struct check_context *c) {
    return c->event_type == 0 || c->event_type == 2 ||
           (c->event_type == 3 && (c->event_vector == 1 || c->event_vector == 18)) ||
           (c->event_type == 7 && c->event_vector == 0);
}

static inline bool event_wakes_shutdown(const struct check_context *c) {
    return c->event_type == 2 || (c->event_type == 3 && c->event_vector == 18);
}

/* PAE paging: a present PDPTE has bits 2:1, 8:5 and those at or above MAXPHYADDR clear (SDM 5.4.1). */
static inline bool pdpte_ok(const struct check_context *c, uint64_t pdpte) {
    return !BIT(pdpte, 0) || (pdpte & (c->beyond_maxphyaddr | 0x1e6)) == 0;
}

/* Where there is no memory, reads give all ones: present, with reserved bits. */
static inline bool pdptes_in_memory_ok(const struct check_context *c) {
    const uint64_t *pdpte = c->in->pdpte;

    return c->in->pdpte_readable && pdpte_ok(c, pdpte[0]) && pdpte_ok(c, pdpte[1]) && pdpte_ok(c, pdpte[2]) &&
           pdpte_ok(c, pdpte[3]);
}

#endif
