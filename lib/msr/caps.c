/* SPDX-License-Identifier: MIT */
/*
 * What L1 may see of VMX, computed from the machine's capability MSRs, the host's mask and the table vmx_msrs.def (SDM
 * appendix A).
 */
#include <nvmx/caps.h>
#include <nvmx/vmcs.h>

#include "../vcpu.h"
#include "caps_internal.h"

#define VMCS_MEMORY_TYPE_WB  6u
#define CR3_TARGETS_MAX      4u /* the SDM defines no more CR3-target fields */
#define FEATURE_CONTROL_LOCK (UINT64_C(1) << 0)
#define FEATURE_CONTROL_VMX  (UINT64_C(1) << 2)

/* -- the table ------------------------------------------------------------------ */

enum rule { RULE_OFFER, RULE_COUNT, RULE_FACT, RULE_OWN, RULE_DEFAULT1, RULE_RELAXED, RULE_NO };

/* A need as one number: place of the MSR * 64 + bit. Bit 0 of IA32_VMX_BASIC is nobody's need. */
#define NEED_AT(msr, bit) (((msr) - (int)NVMX_MSR_VMX_FIRST) * 64 + (bit))
enum need {
    NEED_NONE = 0,
#define CAP_NEED(name, msr, bit) NEED_##name = NEED_AT(msr, bit),
#include <nvmx/vmx_msrs.def>
};

struct row {
    struct nvmx_cap_bit bit;
    uint8_t rule;
    uint16_t need[2];
};

static const struct row rows[] = {
#define CAP(msr, bit, width, rule, need_a, need_b, name, why)                                                          \
    {{msr, bit, width, RULE_##rule != RULE_NO, name, why}, RULE_##rule, {NEED_##need_a, NEED_##need_b}},
#include <nvmx/vmx_msrs.def>
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* Existence of each MSR: either need is enough; NEED_NONE: always. */
static const uint16_t exists[NVMX_CAP_MSRS][2] = {
#define EXISTS_AT(msr, bit) (uint16_t)((msr) == 0 ? NEED_NONE : NEED_AT(msr, bit))
#define CAP_MSR(index, name, msr_a, bit_a, msr_b, bit_b)                                                               \
    [(index)-NVMX_MSR_VMX_FIRST] = {EXISTS_AT(msr_a, bit_a), EXISTS_AT(msr_b, bit_b)},
#include <nvmx/vmx_msrs.def>
};

static unsigned int place_of(const struct row *row) {
    return row->bit.msr - NVMX_MSR_VMX_FIRST;
}

static uint64_t mask_of(const struct row *row) {
    return ((UINT64_C(1) << row->bit.width) - 1) << row->bit.bit;
}

/* The row's bit or number, shifted down. */
static uint64_t value_of(const struct row *row, const struct nvmx_caps *caps) {
    return (caps->msr[place_of(row)] & mask_of(row)) >> row->bit.bit;
}

static void set_value(const struct row *row, struct nvmx_caps *caps, uint64_t value) {
    uint64_t *msr = &caps->msr[place_of(row)];

    *msr = (*msr & ~mask_of(row)) | (value << row->bit.bit);
}

static bool need_met(unsigned int need, const struct nvmx_caps *caps) {
    return need == NEED_NONE || ((caps->msr[need / 64] >> (need % 64)) & 1) != 0;
}

bool caps_msr_exists(const struct nvmx_caps *caps, unsigned int place) {
    return need_met(exists[place][0], caps) || need_met(exists[place][1], caps);
}

static bool needs_met(const struct row *row, const struct nvmx_caps *caps) {
    return need_met(row->need[0], caps) && need_met(row->need[1], caps) && caps_msr_exists(caps, place_of(row));
}

/* A control MSR with both halves and a default1 class. */
static bool has_true_msr(unsigned int place) {
    return place >= NVMX_CAP_PINBASED && place <= NVMX_CAP_ENTRY;
}

static unsigned int true_place(unsigned int place) {
    return place - NVMX_CAP_PINBASED + NVMX_CAP_TRUE_PINBASED;
}

static bool has_true_msrs(const struct nvmx_caps *caps) {
    return ((caps->msr[NVMX_CAP_BASIC] >> 55) & 1) != 0;
}

/* Controls of a plain MSR under one rule, as they stand in the control field. */
static uint32_t controls_with(unsigned int place, enum rule rule) {
    uint32_t controls = 0;

    for (size_t i = 0; i < ROWS; i++) {
        if (place_of(&rows[i]) == place && rows[i].rule == (uint8_t)rule) {
            controls |= (uint32_t)(mask_of(&rows[i]) >> 32);
        }
    }
    return controls;
}

const struct nvmx_cap_bit *nvmx_cap_bit(size_t row) {
    return row < ROWS ? &rows[row].bit : NULL;
}

/* -- L1's view ------------------------------------------------------------------ */

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* The machine doesn't let this control be 0, so L1 can't have it 0 either. */
static bool is_forced(const struct row *row, const struct nvmx_caps *machine) {
    unsigned int place = place_of(row);

    return has_true_msr(place) && (nvmx_caps_must_be_1(machine, (enum nvmx_cap)place) & (mask_of(row) >> 32)) != 0;
}

/* What a row gives before its needs are looked at. RULE_OWN is filled in elsewhere. */
static uint64_t granted(const struct row *row, const struct nvmx_caps *machine, const struct nvmx_caps *mask) {
    uint64_t have = value_of(row, machine);
    uint64_t grant = mask == NULL ? UINT64_MAX : value_of(row, mask);

    switch ((enum rule)row->rule) {
    case RULE_OFFER:
        return is_forced(row, machine) ? 1 : have & grant;
    case RULE_COUNT:
        return least(have, grant);
    case RULE_FACT:
        return have;
    case RULE_DEFAULT1:
    case RULE_RELAXED:
        return 1;
    case RULE_OWN:
    case RULE_NO:
        break;
    }
    return 0;
}

/* Take away bits whose needs are not met. Gives the place of the first MSR that changed, or -1. */
static int drop_unmet(struct nvmx_caps *caps) {
    int changed = -1;

    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];

        if (value_of(row, caps) == 0 || needs_met(row, caps)) {
            continue;
        }
        set_value(row, caps, 0);
        if (changed < 0) {
            changed = (int)place_of(row);
        }
    }
    return changed;
}

static void set_basic(struct nvmx_caps *l1) {
    l1->msr[NVMX_CAP_BASIC] |=
        (uint64_t)NVMX_REVISION | (uint64_t)NVMX_PAGE_SIZE << 32 | (uint64_t)VMCS_MEMORY_TYPE_WB << 50;
}

/* SDM A.2: the plain MSR reports the whole default1 class as fixed; the TRUE MSR has what is really so. */
static void set_must_be_1(struct nvmx_caps *l1, const struct nvmx_caps *machine) {
    for (unsigned int place = NVMX_CAP_PINBASED; place <= NVMX_CAP_ENTRY; place++) {
        uint32_t must = nvmx_caps_must_be_1(machine, (enum nvmx_cap)place) | controls_with(place, RULE_DEFAULT1);
        uint64_t may = l1->msr[place]; /* the low half is still 0 */

        l1->msr[place] = may | must | controls_with(place, RULE_RELAXED);
        l1->msr[true_place(place)] = has_true_msrs(l1) ? may | must : 0;
    }
}

/* SDM A.9: the highest index (encoding bits 9:1) of the fields that L1 has. */
static uint64_t highest_field_index(const struct nvmx_caps *l1) {
    struct nvmx_field_set set;
    uint32_t highest = 0;

    nvmx_fields_existing(l1, &set);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t index = nvmx_field_info(slot)->encoding & 0x3fe;

        if (nvmx_set_has(&set, slot) && index > highest) {
            highest = index;
        }
    }
    return highest;
}

/* Bits of CR0 and CR4 that the host lets L1 set; never fewer than must be set. */
static void mask_fixed1(struct nvmx_caps *l1, const struct nvmx_caps *mask) {
    for (unsigned int place = NVMX_CAP_CR0_FIXED1; mask != NULL && place <= NVMX_CAP_CR4_FIXED1; place += 2) {
        if (mask->msr[place] != 0) {
            l1->msr[place] &= mask->msr[place] | l1->msr[place - 1];
        }
    }
}

/* L1 can't have what the machine forces: the library does not know it, or it needs what L1 does not have. No VM entry
 * would pass the checks of such controls (SDM 29.2.1.1, 29.2.1.2). */
static bool forces_more(const struct nvmx_caps *machine, const struct nvmx_caps *l1) {
    for (unsigned int place = NVMX_CAP_PINBASED; place <= NVMX_CAP_ENTRY; place++) {
        if ((nvmx_caps_must_be_1(machine, (enum nvmx_cap)place) & ~(uint32_t)(l1->msr[place] >> 32)) != 0) {
            return true;
        }
    }
    return false;
}

enum nvmx_status nvmx_caps_for_l1(const struct nvmx_caps *machine, const struct nvmx_caps *mask,
                                  struct nvmx_caps *out) {
    struct nvmx_caps l1 = *machine;

    if (machine->msr[NVMX_CAP_BASIC] == 0) {
        return NVMX_E_UNSUPPORTED;
    }
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        if (place < NVMX_CAP_CR0_FIXED0 || place > NVMX_CAP_CR4_FIXED1) {
            l1.msr[place] = 0;
        }
    }
    for (size_t i = 0; i < ROWS; i++) {
        set_value(&rows[i], &l1, granted(&rows[i], machine, mask));
    }
    l1.msr[NVMX_CAP_MISC] = (l1.msr[NVMX_CAP_MISC] & ~(UINT64_C(0x1ff) << 16)) |
                            least((l1.msr[NVMX_CAP_MISC] >> 16) & 0x1ff, CR3_TARGETS_MAX) << 16;
    for (size_t pass = 0; pass < ROWS && drop_unmet(&l1) >= 0; pass++) {
    }
    if (forces_more(machine, &l1)) {
        return NVMX_E_UNSUPPORTED;
    }
    set_basic(&l1);
    set_must_be_1(&l1, machine);
    mask_fixed1(&l1, mask);
    l1.msr[NVMX_CAP_VMCS_ENUM] = highest_field_index(&l1);
    l1.feature_control = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
    *out = l1;
    return NVMX_OK;
}

enum nvmx_cap_reason nvmx_cap_bit_reason(size_t row, const struct nvmx_caps *machine, const struct nvmx_caps *mask,
                                         const struct nvmx_caps *l1) {
    const struct row *at = &rows[row < ROWS ? row : 0];

    if (row >= ROWS) {
        return NVMX_CAP_NOT_ON_CPU;
    }
    if (value_of(at, l1) != 0 || at->rule == RULE_OWN || (at->rule == RULE_FACT && at->bit.width > 1)) {
        return NVMX_CAP_OFFERED;
    }
    if (value_of(at, machine) == 0) {
        return NVMX_CAP_NOT_ON_CPU;
    }
    if (at->rule == RULE_NO) {
        return NVMX_CAP_NOT_EMULATED;
    }
    if (mask != NULL && value_of(at, mask) == 0) {
        return NVMX_CAP_HOST_MASKED;
    }
    return NVMX_CAP_DEPENDENCY;
}

/* -- comparing ------------------------------------------------------------------ */

static bool row_is_subset(const struct row *row, const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    uint64_t want = value_of(row, wanted);
    uint64_t can = value_of(row, possible);

    switch ((enum rule)row->rule) {
    case RULE_DEFAULT1:
    case RULE_RELAXED:
        return want == can;
    case RULE_COUNT:
        return want <= can;
    case RULE_OWN:
        /* Fewer fields are fine; another revision, size or memory type of the regions is not. */
        return place_of(row) == NVMX_CAP_VMCS_ENUM ? want <= can : want == can;
    case RULE_OFFER:
    case RULE_FACT:
    case RULE_NO:
        break;
    }
    return row->bit.width == 1 ? want <= can : want == can;
}

/* Rows of one MSR, and no bit that has no row. `unruled` are bits that the caller judges. */
static bool rows_are_subset(unsigned int place, const struct nvmx_caps *wanted, const struct nvmx_caps *possible,
                            uint64_t unruled) {
    uint64_t known = unruled;

    for (size_t i = 0; i < ROWS; i++) {
        if (place_of(&rows[i]) != place) {
            continue;
        }
        known |= mask_of(&rows[i]);
        if (!row_is_subset(&rows[i], wanted, possible)) {
            return false;
        }
    }
    return (wanted->msr[place] & ~known) == 0;
}

/* Halves of control MSRs: allowed to be 1 at most what can be, fixed to 1 at least what must be, never both ways. */
static bool halves_are_subset(uint64_t want, uint64_t can) {
    uint32_t want_must = (uint32_t)want, want_may = (uint32_t)(want >> 32);

    return (want_may & ~(uint32_t)(can >> 32)) == 0 && ((uint32_t)can & ~want_must) == 0 &&
           (want_must & ~want_may) == 0;
}

static bool true_is_subset(unsigned int place, const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    uint64_t plain = wanted->msr[place - NVMX_CAP_TRUE_PINBASED + NVMX_CAP_PINBASED];

    if (!has_true_msrs(wanted)) {
        return wanted->msr[place] == 0;
    }
    return halves_are_subset(wanted->msr[place], possible->msr[place]) && wanted->msr[place] >> 32 == plain >> 32 &&
           ((uint32_t)wanted->msr[place] & ~(uint32_t)plain) == 0;
}

static bool msr_is_subset(unsigned int place, const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    uint64_t want = wanted->msr[place], can = possible->msr[place];

    switch (place) {
    case NVMX_CAP_PINBASED:
    case NVMX_CAP_PROCBASED:
    case NVMX_CAP_EXIT:
    case NVMX_CAP_ENTRY:
        return halves_are_subset(want, can) && rows_are_subset(place, wanted, possible, UINT32_MAX);
    case NVMX_CAP_TRUE_PINBASED:
    case NVMX_CAP_TRUE_PROCBASED:
    case NVMX_CAP_TRUE_EXIT:
    case NVMX_CAP_TRUE_ENTRY:
        return true_is_subset(place, wanted, possible);
    case NVMX_CAP_CR0_FIXED0:
    case NVMX_CAP_CR4_FIXED0:
        return (can & ~want) == 0 && (want & ~wanted->msr[place + 1]) == 0;
    case NVMX_CAP_CR0_FIXED1:
    case NVMX_CAP_CR4_FIXED1:
        return (want & ~can) == 0;
    default:
        return rows_are_subset(place, wanted, possible, 0);
    }
}

/* The first MSR whose valid bits are more than possible, or -1; 0 for the other facts. */
static int64_t facts_beyond(const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    const struct {
        uint32_t msr;
        uint64_t want, can;
    } valid[] = {
        {0, wanted->cpu, possible->cpu},
        {0x48, wanted->spec_ctrl_valid, possible->spec_ctrl_valid},
        {0x1d9, wanted->debugctl_valid, possible->debugctl_valid},
        {0x38f, wanted->perf_global_ctrl_valid, possible->perf_global_ctrl_valid},
        {0x570, wanted->rtit_ctl_valid, possible->rtit_ctl_valid},
        {0x14ce, wanted->lbr_ctl_valid, possible->lbr_ctl_valid},
    };

    if (wanted->physical_address_bits > possible->physical_address_bits) {
        return 0;
    }
    for (size_t i = 0; i < sizeof(valid) / sizeof(valid[0]); i++) {
        if ((valid[i].want & ~valid[i].can) != 0) {
            return valid[i].msr;
        }
    }
    return -1;
}

/* The first offending MSR, or -1. */
static int64_t first_beyond(const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    struct nvmx_caps consistent = *wanted;
    int dropped;

    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        if (!msr_is_subset(place, wanted, possible)) {
            return NVMX_MSR_VMX_FIRST + place;
        }
    }
    dropped = drop_unmet(&consistent);
    return dropped >= 0 ? (int64_t)NVMX_MSR_VMX_FIRST + dropped : facts_beyond(wanted, possible);
}

enum nvmx_status nvmx_caps_check_subset(const struct nvmx_caps *wanted, const struct nvmx_caps *possible,
                                        uint32_t *msr) {
    int64_t beyond = first_beyond(wanted, possible);

    if (beyond < 0) {
        return NVMX_OK;
    }
    if (msr != NULL) {
        *msr = (uint32_t)beyond;
    }
    return NVMX_E_DENIED;
}

/* -- questions about capabilities ------------------------------------------------------------------ */

/* The MSR that tells the truth about a control field. */
static uint64_t control_msr(const struct nvmx_caps *caps, enum nvmx_cap which) {
    return caps->msr[has_true_msr(which) && has_true_msrs(caps) ? true_place(which) : (unsigned int)which];
}

uint32_t nvmx_caps_must_be_1(const struct nvmx_caps *caps, enum nvmx_cap which) {
    /* The 64-bit control MSRs have no allowed-0 half (SDM A.3.4, A.4.2, A.11). */
    if (which == NVMX_CAP_PROCBASED3 || which == NVMX_CAP_EXIT2 || which == NVMX_CAP_VMFUNC) {
        return 0;
    }
    return (uint32_t)control_msr(caps, which);
}

uint32_t nvmx_caps_may_be_1(const struct nvmx_caps *caps, enum nvmx_cap which) {
    if (which == NVMX_CAP_PROCBASED3 || which == NVMX_CAP_EXIT2 || which == NVMX_CAP_VMFUNC) {
        return (uint32_t)caps->msr[which];
    }
    return (uint32_t)(control_msr(caps, which) >> 32);
}

bool nvmx_is_canonical(const struct nvmx_caps *caps, uint64_t linear) {
    unsigned int width = (caps->cpu & NVMX_CPU_LA57) != 0 ? 57 : 48;
    uint64_t top = linear >> (width - 1);

    return top == 0 || top == UINT64_MAX >> (width - 1);
}

bool nvmx_cr_fixed_ok(const struct nvmx_caps *caps, unsigned int cr, uint64_t value, bool unrestricted) {
    unsigned int place = cr == 0 ? NVMX_CAP_CR0_FIXED0 : NVMX_CAP_CR4_FIXED0;
    uint64_t must = caps->msr[place];

    if (cr == 0 && unrestricted) {
        must &= ~(CR0_PE | CR0_PG);
    }
    return (must & ~value) == 0 && (value & ~caps->msr[place + 1]) == 0;
}
