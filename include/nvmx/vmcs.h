/* SPDX-License-Identifier: MIT */
/*
 * VMCS fields: encodings, slots, and what the table knows of them (SDM appendix B). Pure: no vCPU is needed.
 *
 * A slot is a small number, one per field, in the order of vmcs_fields.def. State of a VMCS is an array of NVMX_FIELD_COUNT 64-bit
 * values indexed by slot; a set of fields is a struct nvmx_field_set.
 */
#ifndef NVMX_VMCS_H
#define NVMX_VMCS_H

#include <nvmx/types.h>

/* Encodings: NVMX_VMCS_GUEST_RIP == 0x681e. */
enum nvmx_vmcs_encoding {
#define FIELD(encoding, name, text, exists, group, merge, shadow) NVMX_VMCS_##name = encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

/* Slots: NVMX_F_GUEST_RIP. */
enum nvmx_field {
#define FIELD(encoding, name, text, exists, group, merge, shadow) NVMX_F_##name,
#include <nvmx/vmcs_fields.def>
#undef FIELD
    NVMX_FIELD_COUNT,
};

#define NVMX_FIELD_NONE (-1)

enum nvmx_field_group {
    NVMX_GROUP_CONTROL = 0,
    NVMX_GROUP_EVENT,
    NVMX_GROUP_HOST,
    NVMX_GROUP_REGISTER,
    NVMX_GROUP_SEGMENT,
    NVMX_GROUP_NONREGISTER,
    NVMX_GROUP_UNCHECKED, /* exit information, and fields that no entry check looks at */
    NVMX_GROUP_COUNT,
};

enum nvmx_field_merge { NVMX_MERGE_COPY = 0, NVMX_MERGE_MERGED, NVMX_MERGE_GATED, NVMX_MERGE_NEVER };
enum nvmx_field_shadow { NVMX_SHADOW_NO = 0, NVMX_SHADOW_RO, NVMX_SHADOW_RW };

/* Width of a field: encoding bits 14:13. */
enum nvmx_field_width { NVMX_WIDTH_16 = 0, NVMX_WIDTH_64, NVMX_WIDTH_32, NVMX_WIDTH_NATURAL };

struct nvmx_field_info {
    uint32_t encoding;
    uint8_t exists; /* row of field_exists.def */
    uint8_t group;  /* enum nvmx_field_group */
    uint8_t merge;  /* enum nvmx_field_merge */
    uint8_t shadow; /* enum nvmx_field_shadow */
    const char *name; /* the SDM's name; static storage */
};

/* A set of fields: bit (slot % 64) of word slot / 64. */
#define NVMX_FIELD_SET_WORDS ((NVMX_FIELD_COUNT + 63) / 64)
struct nvmx_field_set {
    uint64_t word[NVMX_FIELD_SET_WORDS];
};

static inline void nvmx_set_add(struct nvmx_field_set *set, unsigned int slot) {
    set->word[slot / 64] |= UINT64_C(1) << (slot % 64);
}
static inline void nvmx_set_remove(struct nvmx_field_set *set, unsigned int slot) {
    set->word[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
}
static inline bool nvmx_set_has(const struct nvmx_field_set *set, unsigned int slot) {
    return (set->word[slot / 64] >> (slot % 64)) & 1;
}

struct nvmx_caps;

NVMX_BEGIN_C

/*
 * The slot of a field encoding, or NVMX_FIELD_NONE if the SDM defines no such field. *high is set for the high half of a 64-bit
 * field (SDM 27.11.2); `high` may be NULL when only full access is meant (a high-half encoding then gives NVMX_FIELD_NONE).
 */
NVMX_API int nvmx_field_find(uint32_t encoding, bool *high);

/* The table row of a slot; NULL if slot >= NVMX_FIELD_COUNT. */
NVMX_API const struct nvmx_field_info *nvmx_field_info(unsigned int slot);

/* Bits that a field of this slot can hold: FFFFH, FFFFFFFFH or all. */
NVMX_API uint64_t nvmx_field_mask(unsigned int slot);

/* The fields that exist under these capabilities (SDM appendix B's existence conditions). */
NVMX_API void nvmx_fields_existing(const struct nvmx_caps *caps, struct nvmx_field_set *out);

/* VM-exit information field (SDM 27.9), read-only unless IA32_VMX_MISC[29]. */
static inline bool nvmx_encoding_read_only(uint32_t encoding) {
    return ((encoding >> 10) & 3) == 1;
}

NVMX_END_C

#endif
