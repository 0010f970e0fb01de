/* SPDX-License-Identifier: MIT */
/* Composition of intercept bitmaps: see bitmap.h. */
#include "bitmap.h"

#include <string.h>

#define WORD_BITS 64u
#define ALL_WORDS (BITMAP_HOT_MAX + 1)

/* SDM 27.6.9: four parts of 1 KiB, for reads and writes of low and high MSRs. */
#define MSR_PART_BITS 0x2000u
#define MSR_HIGH      0xc0000000u

void bitmap_init(struct bitmap_overlay *overlay, void *page, uint64_t hpa) {
    overlay->page = page;
    overlay->hpa = hpa;
    overlay->hot_count = 0;
    overlay->has_virtual = false;
    memset(page, 0xff, BITMAP_WORDS * sizeof(uint64_t));
}

static bool is_hot(const struct bitmap_overlay *overlay, unsigned int word) {
    if (overlay->hot_count == ALL_WORDS) {
        return true;
    }
    for (unsigned int i = 0; i < overlay->hot_count; i++) {
        if (overlay->hot[i] == word) {
            return true;
        }
    }
    return false;
}

static void merge_word(struct bitmap_overlay *overlay, unsigned int word, const uint64_t *l1, const uint64_t *host) {
    overlay->page[word] = __atomic_load_n(&l1[word], __ATOMIC_RELAXED) | (host != NULL ? host[word] : 0);
}

void bitmap_merge(struct bitmap_overlay *overlay, const uint64_t *l1, const uint64_t *host) {
    if (overlay->hot_count == ALL_WORDS) {
        for (unsigned int word = 0; word < BITMAP_WORDS; word++) {
            merge_word(overlay, word, l1, host);
        }
        return;
    }
    for (unsigned int i = 0; i < overlay->hot_count; i++) {
        merge_word(overlay, overlay->hot[i], l1, host);
    }
}

/* L1's bits where it alone decides; else both, if the host's are known and the word is hot. */
static void merge_virtual_word(struct bitmap_overlay *overlay, unsigned int word, const uint64_t *l1,
                               const uint64_t *host, uint64_t bits) {
    bool host_counts = host != NULL && is_hot(overlay, word);
    uint64_t others = host_counts ? host[word] : UINT64_MAX;

    overlay->page[word] = __atomic_load_n(&l1[word], __ATOMIC_RELAXED) | (others & ~bits);
}

static bool is_virtual(const struct bitmap_virtual *virtual_bits, unsigned int word) {
    for (unsigned int i = 0; i < BITMAP_VIRTUAL_WORDS; i++) {
        if (virtual_bits->word[i] == word) {
            return true;
        }
    }
    return false;
}

void bitmap_merge_virtual(struct bitmap_overlay *overlay, const uint64_t *l1, const uint64_t *host,
                          const struct bitmap_virtual *virtual_bits) {
    bool all = overlay->hot_count == ALL_WORDS;
    unsigned int count = all ? BITMAP_WORDS : overlay->hot_count;

    for (unsigned int i = 0; i < count; i++) {
        unsigned int word = all ? i : overlay->hot[i];

        if (host == NULL) {
            overlay->page[word] = UINT64_MAX;
        } else if (!is_virtual(virtual_bits, word)) {
            merge_word(overlay, word, l1, host);
        }
    }
    overlay->has_virtual = false;
    for (unsigned int i = 0; i < BITMAP_VIRTUAL_WORDS; i++) {
        merge_virtual_word(overlay, virtual_bits->word[i], l1, host, virtual_bits->bits[i]);
        overlay->has_virtual = overlay->has_virtual || virtual_bits->bits[i] != 0;
    }
}

void bitmap_heat(struct bitmap_overlay *overlay, uint32_t bit) {
    uint16_t word = (uint16_t)(bit / WORD_BITS % BITMAP_WORDS);

    if (is_hot(overlay, word)) {
        return;
    }
    if (overlay->hot_count < BITMAP_HOT_MAX) {
        overlay->hot[overlay->hot_count] = word;
    }
    overlay->hot_count++; /* past the last place: ALL_WORDS */
}

uint32_t bitmap_msr_bit(uint32_t index, bool write) {
    uint32_t part = write ? 2 : 0;

    if ((index & ~(MSR_PART_BITS - 1)) == MSR_HIGH) {
        part++;
    } else if (index >= MSR_PART_BITS) {
        return BITMAP_NONE;
    }
    return part * MSR_PART_BITS + (index & (MSR_PART_BITS - 1));
}

bool bitmap_test(const void *page, uint32_t bit) {
    const uint8_t *byte = (const uint8_t *)page + bit / 8 % NVMX_PAGE_SIZE;

    return ((__atomic_load_n(byte, __ATOMIC_RELAXED) >> (bit % 8)) & 1) != 0;
}
