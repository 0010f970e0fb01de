/* SPDX-License-Identifier: MIT */
/* Merged intercept bitmaps: never less than what L1 and the host ask for. */
#include <criterion/criterion.h>
#include <string.h>

#include "draw.h"
#include "msr/bitmap.h"

static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t next_random(void) {
    return draw(&random_state);
}

static void random_page(uint64_t page[BITMAP_WORDS]) {
    for (unsigned int i = 0; i < BITMAP_WORDS; i++) {
        page[i] = next_random() & next_random();
    }
}

struct pages {
    _Alignas(4096) uint64_t merged[BITMAP_WORDS];
    uint64_t l1[BITMAP_WORDS];
    uint64_t host[BITMAP_WORDS];
    struct bitmap_overlay overlay;
};

static struct pages p;

static void setup(void) {
    memset(&p, 0, sizeof(p));
    memset(&p.overlay, 0xa5, sizeof(p.overlay)); /* the memory had another use before */
    p.overlay.has_virtual = true;
    bitmap_init(&p.overlay, p.merged, 0x1234000);
}

Test(bitmap, fresh_overlay_intercepts_all) {
    setup();
    bitmap_merge(&p.overlay, p.l1, NULL);
    for (unsigned int i = 0; i < BITMAP_WORDS; i++) {
        cr_assert_eq(p.merged[i], UINT64_MAX);
    }
    cr_assert_eq(p.overlay.hpa, 0x1234000);
    cr_assert_eq(p.overlay.page, p.merged);
    cr_assert(p.overlay.hot_count == 0 && !p.overlay.has_virtual);
}

Test(bitmap, hot_word_is_exactly_both) {
    setup();
    random_page(p.l1);
    random_page(p.host);
    bitmap_heat(&p.overlay, 100 * 64 + 63);
    bitmap_heat(&p.overlay, 0);
    bitmap_heat(&p.overlay, 511 * 64);
    bitmap_merge(&p.overlay, p.l1, p.host);
    for (unsigned int i = 0; i < BITMAP_WORDS; i++) {
        bool hot = i == 0 || i == 100 || i == 511;
        cr_assert_eq(p.merged[i], hot ? (p.l1[i] | p.host[i]) : UINT64_MAX, "word %u", i);
    }
    bitmap_merge(&p.overlay, p.l1, NULL);
    cr_assert_eq(p.merged[100], p.l1[100]);
}

Test(bitmap, heating_twice_counts_once) {
    setup();
    for (unsigned int i = 0; i < 1000; i++) {
        bitmap_heat(&p.overlay, 64 + i % 64);
    }
    cr_assert_eq(p.overlay.hot_count, 1);
}

Test(bitmap, too_many_hot_words_merge_all) {
    setup();
    random_page(p.l1);
    for (unsigned int i = 0; i < BITMAP_HOT_MAX; i++) {
        bitmap_heat(&p.overlay, i * 128);
    }
    bitmap_merge(&p.overlay, p.l1, NULL);
    cr_assert_eq(p.merged[1], UINT64_MAX);
    for (unsigned int i = BITMAP_HOT_MAX; i < BITMAP_WORDS; i++) {
        bitmap_heat(&p.overlay, i * 64);
    }
    cr_assert_eq(p.overlay.hot_count, BITMAP_HOT_MAX + 1);
    bitmap_merge(&p.overlay, p.l1, NULL);
    cr_assert_eq(memcmp(p.merged, p.l1, sizeof(p.l1)), 0);
}

Test(bitmap, merged_is_a_superset_whatever_is_hot) {
    setup();
    for (unsigned int round = 0; round < 3000; round++) {
        if (round % 500 == 0) {
            setup();
        }
        random_page(p.l1);
        random_page(p.host);
        if (round % 3 == 0) {
            bitmap_heat(&p.overlay, (uint32_t)next_random());
        }
        bitmap_merge(&p.overlay, p.l1, round % 2 ? p.host : NULL);
        for (unsigned int i = 0; i < BITMAP_WORDS; i++) {
            uint64_t wanted = p.l1[i] | (round % 2 ? p.host[i] : 0);
            cr_assert_eq(wanted & ~p.merged[i], 0, "round %u word %u", round, i);
        }
    }
}

/* Words that hold no such bits become as without them: hot ones exactly both, or all ones where the host's are not known. */
Test(bitmap, words_beside_virtual_bits) {
    static const struct bitmap_virtual bits = {.word = {32, 33, 34, 35, 288}, .bits = {0x100, 0, 0, 0, 0x900}};
    for (unsigned int all = 0; all < 2; all++) {
        setup();
        random_page(p.l1);
        random_page(p.host);
        for (unsigned int i = 0; i < (all ? BITMAP_WORDS : 1); i++) {
            bitmap_heat(&p.overlay, (100 + i) % BITMAP_WORDS * 64);
        }
        bitmap_merge_virtual(&p.overlay, p.l1, p.host, &bits);
        cr_expect_eq(p.merged[100], p.l1[100] | p.host[100]);
        cr_expect_eq(p.merged[99], all ? p.l1[99] | p.host[99] : UINT64_MAX);
        cr_expect_eq(p.merged[32], p.l1[32] | (all ? p.host[32] & ~UINT64_C(0x100) : ~UINT64_C(0x100)));
        cr_expect_eq(p.merged[288], p.l1[288] | (all ? p.host[288] & ~UINT64_C(0x900) : ~UINT64_C(0x900)));
        cr_expect_eq(p.merged[33], p.l1[33] | (all ? p.host[33] : UINT64_MAX));
        cr_expect(p.overlay.has_virtual);
        bitmap_merge_virtual(&p.overlay, p.l1, NULL, &bits);
        cr_expect_eq(p.merged[100], UINT64_MAX);
        cr_expect_eq(p.merged[288], p.l1[288] | ~UINT64_C(0x900));
    }
}

Test(bitmap, msr_bits_are_where_the_sdm_puts_them) {
    cr_assert_eq(bitmap_msr_bit(0, false), 0);
    cr_assert_eq(bitmap_msr_bit(0x1fff, false), 0x1fff);
    cr_assert_eq(bitmap_msr_bit(0xc0000000, false), 1024 * 8);
    cr_assert_eq(bitmap_msr_bit(0xc0000080, false), 1024 * 8 + 0x80);
    cr_assert_eq(bitmap_msr_bit(0xc0001fff, false), 1024 * 8 + 0x1fff);
    cr_assert_eq(bitmap_msr_bit(0, true), 2048 * 8);
    cr_assert_eq(bitmap_msr_bit(0x10, true), 2048 * 8 + 0x10);
    cr_assert_eq(bitmap_msr_bit(0xc0000000, true), 3072 * 8);
    cr_assert_eq(bitmap_msr_bit(0xc0001fff, true), 4096 * 8 - 1);
    static const uint32_t outside[] = {0x2000, 0x40000000, 0xbfffffff, 0xc0002000, 0xffffffff, 0x80000000};
    for (size_t i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        cr_assert_eq(bitmap_msr_bit(outside[i], false), BITMAP_NONE, "%x", outside[i]);
        cr_assert_eq(bitmap_msr_bit(outside[i], true), BITMAP_NONE, "%x", outside[i]);
    }
}

Test(bitmap, test_finds_the_bit_and_only_it) {
    setup();
    for (uint32_t bit = 0; bit < NVMX_PAGE_SIZE * 8; bit += 7) {
        memset(p.l1, 0, sizeof(p.l1));
        p.l1[bit / 64] = UINT64_C(1) << (bit % 64);
        cr_assert(bitmap_test(p.l1, bit));
        cr_assert_not(bitmap_test(p.l1, bit ^ 1));
        cr_assert_not(bitmap_test(p.l1, bit ^ 0x40));
        p.l1[bit / 64] = ~p.l1[bit / 64];
        cr_assert_not(bitmap_test(p.l1, bit));
        cr_assert(bitmap_test(p.l1, bit ^ 1));
    }
}
