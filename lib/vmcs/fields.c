/* SPDX-License-Identifier: MIT */
/* Look-ups in the field table (SDM appendix B). */
#include <nvmx/caps.h>

#include "vcpu.h"

enum {
#define EXISTS(name, msr1, bit1, msr2, bit2) EXISTS_##name,
#include <nvmx/field_exists.def>
#undef EXISTS
};

struct existence {
    uint16_t msr[2];
    uint8_t bit[2];
};

static const struct existence existence[] = {
#define EXISTS(name, msr1, bit1, msr2, bit2) {{(msr1), (msr2)}, {(bit1), (bit2)}},
#include <nvmx/field_exists.def>
#undef EXISTS
};

static const struct nvmx_field_info fields[NVMX_FIELD_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow)                                                      \
    {(encoding), EXISTS_##exists, NVMX_GROUP_##group, NVMX_MERGE_##merge, NVMX_SHADOW_##shadow, text},
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

const uint16_t field_encoding[NVMX_FIELD_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow) (encoding),
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

/* SDM 27.11.2: an encoding is width (14:13), kind (11:10), index (9:1) and access (0). No defined index reaches 64. */
#define ENCODING_RESERVED 0xffff9000u
#define ENCODING_ROW(encoding) ((((encoding) >> 11) & 0xc) | (((encoding) >> 10) & 0x3))
#define ENCODING_INDEX(encoding) (((encoding) >> 1) & 0x1ff)
#define INDEX_LIMIT 64u

/* Slot + 1 by row and index; 0: no such field. */
static const uint8_t slot_of[16][INDEX_LIMIT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow)                                                      \
    [ENCODING_ROW(encoding)][ENCODING_INDEX(encoding)] = NVMX_F_##name + 1,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

int nvmx_field_find(uint32_t encoding, bool *high) {
    uint32_t index = ENCODING_INDEX(encoding);
    bool is_high = (encoding & 1) != 0;

    if ((encoding & ENCODING_RESERVED) != 0 || index >= INDEX_LIMIT) {
        return NVMX_FIELD_NONE;
    }
    /* Only 64-bit fields have a high half. */
    if (is_high && (high == NULL || ((encoding >> 13) & 3) != NVMX_WIDTH_64)) {
        return NVMX_FIELD_NONE;
    }
    if (high != NULL) {
        *high = is_high;
    }
    return (int)slot_of[ENCODING_ROW(encoding)][index & (INDEX_LIMIT - 1)] - 1;
}

const struct nvmx_field_info *nvmx_field_info(unsigned int slot) {
    return slot < NVMX_FIELD_COUNT ? &fields[slot] : NULL;
}

uint64_t nvmx_field_mask(unsigned int slot) {
    static const uint64_t mask_of_width[4] = {
        [NVMX_WIDTH_16] = 0xffff,
        [NVMX_WIDTH_64] = UINT64_MAX,
        [NVMX_WIDTH_32] = UINT32_MAX,
        [NVMX_WIDTH_NATURAL] = UINT64_MAX,
    };
    return slot < NVMX_FIELD_COUNT ? mask_of_width[(fields[slot].encoding >> 13) & 3] : 0;
}

static bool offered(const struct nvmx_caps *caps, unsigned int msr, unsigned int bit) {
    return ((caps->msr[msr - NVMX_MSR_VMX_FIRST] >> bit) & 1) != 0;
}

void nvmx_fields_existing(const struct nvmx_caps *caps, struct nvmx_field_set *out) {
    for (unsigned int i = 0; i < NVMX_FIELD_SET_WORDS; i++) {
        out->word[i] = 0;
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct existence *e = &existence[fields[slot].exists];

        if (fields[slot].exists == EXISTS_ALWAYS || offered(caps, e->msr[0], e->bit[0]) ||
            offered(caps, e->msr[1], e->bit[1])) {
            nvmx_set_add(out, slot);
        }
    }
}

void field_deny(unsigned int slot, struct nvmx_caps *mask) {
    const struct existence *e = &existence[fields[slot].exists];

    for (unsigned int i = 0; i < 2 && fields[slot].exists != EXISTS_ALWAYS; i++) {
        mask->msr[e->msr[i] - NVMX_MSR_VMX_FIRST] &= ~(UINT64_C(1) << e->bit[i]);
    }
}
