/* SPDX-License-Identifier: MIT */
/* Internal: the fields that hardware VMCS shadowing shows L1, by places, and taking note of what an exit changes of them. */
#ifndef NVMX_LIB_VMCS_SHADOW_H
#define NVMX_LIB_VMCS_SHADOW_H

#include "vcpu.h"

/* Places of the fields that the table marks: those that L1 may write first. shadow_vmcs.holds is in this order. */
enum {
#define PLACE_NO(name)
#define PLACE_RO(name)
#define PLACE_RW(name)                                            PLACE_##name,
#define FIELD(encoding, name, text, exists, group, merge, shadow) PLACE_##shadow(name)
#include <nvmx/vmcs_fields.def>
#undef PLACE_RO
#undef PLACE_RW
    WRITABLE_COUNT,
    BEFORE_READABLE = WRITABLE_COUNT - 1,
#define PLACE_RO(name) PLACE_##name,
#define PLACE_RW(name)
#include <nvmx/vmcs_fields.def>
#undef PLACE_NO
#undef PLACE_RO
#undef PLACE_RW
#undef FIELD
    PLACES
};
_Static_assert(PLACES <= SHADOWED_MAX && PLACES <= BATCH_MAX && PLACES <= 64, "one batch, and bits of a word");

/* Of a field that has one. */
unsigned int shadow_place(unsigned int slot);

/* vmcs12's field is `new_value` now. What the next shadow_push_exit writes are the fields where this changed anything, once `behind` is part of
 * v->shadow_behind. */
#define SHOW(behind, v, name, new_value)                                                                               \
    do {                                                                                                               \
        uint64_t shown_ = (new_value);                                                                                 \
        if ((v)->value[NVMX_F_##name] != shown_) {                                                                     \
            (v)->value[NVMX_F_##name] = shown_;                                                                        \
            (behind) |= UINT64_C(1) << PLACE_##name;                                                                   \
        }                                                                                                              \
    } while (0)

#endif
