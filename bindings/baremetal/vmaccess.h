/* SPDX-License-Identifier: MIT */
/* VMREAD and VMWRITE (SDM chapter 33): false is VMfail, of either kind. */
#ifndef VMACCESS_H
#define VMACCESS_H

#include <stdbool.h>
#include <stdint.h>

static inline bool vmread_safe(uint64_t encoding, uint64_t *value) {
    bool ok;
    __asm__ volatile("vmread %2, %1" : "=@cca"(ok), "=r"(*value) : "r"(encoding));
    return ok;
}

/* To memory: see vmwrite_memory. */
static inline bool vmread_memory(uint64_t encoding, uint64_t *value) {
    bool ok;
    __asm__ volatile("vmread %2, %1" : "=@cca"(ok), "=m"(*value) : "r"(encoding));
    return ok;
}

static inline bool vmwrite_safe(uint64_t encoding, uint64_t value) {
    bool ok;
    __asm__ volatile("vmwrite %2, %1" : "=@cca"(ok) : "r"(encoding), "r"(value));
    return ok;
}

/* The same from memory. If L0 is itself a guest its VMWRITEs exit, and such an operand costs its host a walk of L0's
 * page tables. */
static inline bool vmwrite_memory(uint64_t encoding, const uint64_t *value) {
    bool ok;
    __asm__ volatile("vmwrite %2, %1" : "=@cca"(ok) : "r"(encoding), "m"(*value));
    return ok;
}

#endif
