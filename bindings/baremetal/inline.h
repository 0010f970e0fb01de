/* SPDX-License-Identifier: MIT */
/*
 * The callbacks of the hot path (nvmx/host.h), bound at compile time: lib/host.h includes this (NVMX_HOST_HEADER), and
 * callbacks.c puts the same functions into the table.
 */
#ifndef INLINE_H
#define INLINE_H

#include <nvmx/host.h>

#include "layout.h"
#include "memory.h"
#include "vmaccess.h"

/*
 * No exit needs this many callbacks: the most is an INVEPT after which all of ept02 is compared, and L0's memory bounds
 * that. A loop of the library that does not end would make them, and L0 has no clock that could interrupt it: every one
 * of the machine's is L1's. Accesses to VMCSs don't count: loops around them alone are over the fields of a table.
 */
#define CALLBACKS_PER_EXIT (1u << 25)
extern uint32_t callbacks_left;
_Noreturn void callbacks_exhausted(void);

static inline void callback_made(void) {
    if (__builtin_expect(--callbacks_left == 0, 0))
        callbacks_exhausted();
}

/*
 * Memory of L1 that L0 may read and write through its write-back direct map: RAM in the loader's map that is not L0's.
 * Devices and holes give NULL, and L1's instruction gets what the architecture says of such an operand.
 */
void *map_page_elsewhere(uint64_t gpa1, uint64_t *hpa); /* callbacks.c: not in this region */
/* Around the page that was mapped last, in whole pages, each of which is where the direct map has its gpa1. With option `resize` a page may be anywhere,
 * and the region stays empty. */
extern struct memory_region one_to_one;
static inline void *nvmx_inline_map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    callback_made();
    (void)ctx;
    (void)access; /* L1 may write to all its memory */
    if (__builtin_expect(gpa1 < one_to_one.start || gpa1 >= one_to_one.end, 0))
        return map_page_elsewhere(gpa1, hpa);
    *hpa = gpa1;
    return (char *)DIRECT_MAP + gpa1; /* of a pointer: the compiler knows that it is none to nothing */
}

/* A pin needs no record: whoever takes a page away says so by nvmx_memory_changed, which releases it. Not counted as a callback made: the
 * map_page before it was. */
void page_written(uint64_t gpa1); /* callbacks.c */
static inline void nvmx_inline_unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)ctx;
    (void)page;
    if (dirtied)
        page_written(gpa1);
}

enum nvmx_status vmcs_select(void *ctx, uint32_t which); /* vmx.c */
static inline enum nvmx_status nvmx_inline_vmcs_select(void *ctx, uint32_t which) {
    return vmcs_select(ctx, which);
}

/*
 * The loops that every exit goes through several times: little is spent but the VMREADs and VMWRITEs themselves. Few
 * fields, named by a constant list, become straight code.
 */
#define STRAIGHT(count, most) (__builtin_constant_p(count) && (count) <= (most))

/* clang-format off */
#define READ(i) if (!vmread_safe(encoding[i], &value[i])) return NVMX_E_UNSUPPORTED
#define WRITE(i) if (!vmwrite_safe(encoding[i], value[i])) return NVMX_E_UNSUPPORTED
#define READ_IF(i) if (count > (i)) READ(i)
/* clang-format on */

enum nvmx_status vmcs_read_list(uint32_t count, const uint32_t *encoding, uint64_t *value); /* vmx.c */
static inline __attribute__((always_inline)) enum nvmx_status
nvmx_inline_vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    (void)ctx;
    if (STRAIGHT(count, 12)) {
        READ_IF(0);
        READ_IF(1);
        READ_IF(2);
        READ_IF(3);
        READ_IF(4);
        READ_IF(5);
        READ_IF(6);
        READ_IF(7);
        READ_IF(8);
        READ_IF(9);
        READ_IF(10);
        READ_IF(11);
        return NVMX_OK;
    }
    if (count == 1) { /* an MSR that L2 inherits */
        READ(0);
        return NVMX_OK;
    }
    if (count >= 16)
        return vmcs_read_list(count, encoding, value);
    for (; count >= 4; count -= 4, encoding += 4, value += 4) {
        READ(0);
        READ(1);
        READ(2);
        READ(3);
    }
    if ((count & 2) != 0) {
        READ(0);
        READ(1);
        encoding += 2, value += 2;
    }
    if ((count & 1) != 0)
        READ(0);
    return NVMX_OK;
}

enum nvmx_status vmcs_write_list(uint32_t count, const uint32_t *encoding, const uint64_t *value); /* vmx.c */
static inline __attribute__((always_inline)) enum nvmx_status
nvmx_inline_vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    (void)ctx;
    if (STRAIGHT(count, 2)) {
        WRITE(0);
        if (count == 2)
            WRITE(1);
        return NVMX_OK;
    }
    if (count > 4)
        return vmcs_write_list(count, encoding, value);
    if ((count & 4) != 0) {
        WRITE(0);
        WRITE(1);
        WRITE(2);
        WRITE(3);
        return NVMX_OK;
    }
    if ((count & 2) != 0) {
        WRITE(0);
        WRITE(1);
        encoding += 2, value += 2;
    }
    if ((count & 1) != 0)
        WRITE(0);
    return NVMX_OK;
}

/*
 * Fields that the processor has for certain, of a VMCS that is current: an access does not fail. Straight code for up to 16.
 */
void vmcs_read_list_fixed(uint32_t count, const uint32_t *encoding, uint64_t *value); /* vmx.c */
void vmcs_write_list_fixed(uint32_t count, const uint32_t *encoding, const uint64_t *value);
static inline __attribute__((always_inline)) enum nvmx_status
nvmx_inline_vmcs_read_fixed(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    (void)ctx;
    if (count == 1) { /* all that an entry takes back from a shadow VMCS */
        (void)vmread_safe(encoding[0], &value[0]);
        return NVMX_OK;
    }
    if (!STRAIGHT(count, 16)) {
        vmcs_read_list_fixed(count, encoding, value);
        return NVMX_OK;
    }
#pragma GCC unroll 16
    for (uint32_t i = 0; i < count; i++)
        (void)vmread_safe(encoding[i], &value[i]);
    return NVMX_OK;
}

/* Each value to its place: value[place[i]]. */
void vmcs_read_places(uint32_t count, const uint32_t *encoding, const uint8_t *place, uint64_t *value); /* vmx.c */
static inline enum nvmx_status
nvmx_inline_vmcs_read_places(void *ctx, uint32_t count, const uint32_t *encoding, const uint8_t *place, uint64_t *value) {
    (void)ctx;
    vmcs_read_places(count, encoding, place, value);
    return NVMX_OK;
}

static inline __attribute__((always_inline)) enum nvmx_status
nvmx_inline_vmcs_write_fixed(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    (void)ctx;
    if (count == 1) {
        (void)vmwrite_safe(encoding[0], value[0]);
        return NVMX_OK;
    }
    if (!STRAIGHT(count, 16)) {
        vmcs_write_list_fixed(count, encoding, value);
        return NVMX_OK;
    }
#pragma GCC unroll 16
    for (uint32_t i = 0; i < count; i++)
        (void)vmwrite_safe(encoding[i], value[i]);
    return NVMX_OK;
}

#undef READ
#undef WRITE
#undef READ_IF

#endif
