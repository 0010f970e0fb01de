/* SPDX-License-Identifier: MIT */
/*
 * Composition of intercept bitmaps: a page that intercepts at least what L1's page and the host's page intercept.
 *
 * A 4 KiB bitmap has 512 64-bit words. Intercepting too much is safe (the exit is routed by L1's own bitmap and, if
 * neither wants it, the word becomes hot); so only hot words are merged at an entry and all others stay all ones. L1's
 * page is read anew at each entry, each word once.
 */
#ifndef NVMX_LIB_MSR_BITMAP_H
#define NVMX_LIB_MSR_BITMAP_H

#include <nvmx/types.h>

#define BITMAP_WORDS   512u
#define BITMAP_HOT_MAX 64u

struct bitmap_overlay {
    uint64_t *page; /* from page_alloc; NULL: none yet */
    uint64_t hpa;
    uint16_t hot[BITMAP_HOT_MAX]; /* word numbers that are merged */
    uint16_t hot_count;           /* BITMAP_HOT_MAX + 1: all words are */
    bool has_virtual;             /* some bits were merged without the host's */
};

/* All words intercept, none is hot. `page` is 4096 bytes that the overlay uses from now on. */
void bitmap_init(struct bitmap_overlay *overlay, void *page, uint64_t hpa);

/*
 * Merge the hot words: overlay = l1 | host. `host` may be NULL (the host intercepts nothing). Both are pages of 512
 * words.
 */
void bitmap_merge(struct bitmap_overlay *overlay, const uint64_t *l1, const uint64_t *host);

/*
 * Bits of an MSR bitmap that are L1's alone: the MSR is not the host's but one that hardware virtualizes for L2, with vmcs12's
 * virtual-APIC page.
 */
#define BITMAP_VIRTUAL_WORDS 5u
struct bitmap_virtual {
    uint16_t word[BITMAP_VIRTUAL_WORDS];
    uint64_t bits[BITMAP_VIRTUAL_WORDS];
};

/* bitmap_merge, with such bits. `host` NULL: the host intercepts all other MSRs. A word without bits becomes as any other. */
void bitmap_merge_virtual(struct bitmap_overlay *overlay, const uint64_t *l1, const uint64_t *host,
                          const struct bitmap_virtual *virtual_bits);

/* An exit happened that neither L1 nor the host asked for: the word that holds `bit` is merged from now on. */
void bitmap_heat(struct bitmap_overlay *overlay, uint32_t bit);

/*
 * Which bit of the MSR-bitmap page (SDM 27.6.9) stands for an access; BITMAP_NONE if the index is in neither range
 * (then the access always exits).
 */
#define BITMAP_NONE UINT32_MAX
uint32_t bitmap_msr_bit(uint32_t index, bool write);

/* Does a page of L1 (mapped; the byte is read once) have the bit set? */
bool bitmap_test(const void *page, uint32_t bit);

#endif
