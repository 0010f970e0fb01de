/* SPDX-License-Identifier: MIT */
/* Which fields there are (SDM appendix B) by what the capability MSRs allow (appendix A). */
#include <criterion/criterion.h>
#include <nvmx/caps.h>
#include <nvmx/vmcs.h>

/* Fields from `first` to `last`, every second encoding, that exist if bit[0] of msr[0] or bit[1] of msr[1] is 1. All others always exist. */
static const struct {
    uint16_t first, last;
    uint16_t msr0, bit0, msr1, bit1;
} conditional[] = {
    {0x0000, 0x0000, 0x48b, 37, 0x48b, 37},
    {0x0002, 0x0002, 0x481, 39, 0x481, 39},
    {0x0004, 0x0004, 0x48b, 50, 0x48b, 50},
    {0x0006, 0x0006, 0x492, 1, 0x492, 1},
    {0x0008, 0x0008, 0x492, 4, 0x492, 4},
    {0x000a, 0x000a, 0x492, 8, 0x492, 8},
    {0x0810, 0x0810, 0x48b, 41, 0x48b, 41},
    {0x0812, 0x0812, 0x48b, 49, 0x48b, 49},
    {0x0814, 0x0814, 0x483, 59, 0x484, 51},
    {0x2004, 0x2004, 0x482, 60, 0x482, 60},
    {0x200e, 0x200e, 0x48b, 49, 0x48b, 49},
    {0x2012, 0x2012, 0x482, 53, 0x482, 53},
    {0x2014, 0x2014, 0x48b, 32, 0x48b, 32},
    {0x2016, 0x2016, 0x481, 39, 0x481, 39},
    {0x2018, 0x2018, 0x48b, 45, 0x48b, 45},
    {0x201a, 0x201a, 0x48b, 33, 0x48b, 33},
    {0x201c, 0x2022, 0x48b, 41, 0x48b, 41},
    {0x2024, 0x2024, 0x491, 0, 0x491, 0},
    {0x2026, 0x2028, 0x48b, 46, 0x48b, 46},
    {0x202a, 0x202a, 0x48b, 50, 0x48b, 50},
    {0x202c, 0x202c, 0x48b, 52, 0x48b, 52},
    {0x202e, 0x202e, 0x48b, 47, 0x48b, 47},
    {0x2030, 0x2030, 0x48b, 55, 0x48b, 55},
    {0x2032, 0x2032, 0x48b, 57, 0x48b, 57},
    {0x2034, 0x2034, 0x482, 49, 0x482, 49},
    {0x2036, 0x2036, 0x48b, 60, 0x48b, 60},
    {0x2038, 0x203a, 0x48b, 53, 0x48b, 53},
    {0x203c, 0x203c, 0x492, 5, 0x492, 5},
    {0x203e, 0x203e, 0x48b, 59, 0x48b, 59},
    {0x2040, 0x2040, 0x492, 1, 0x492, 1},
    {0x2042, 0x2042, 0x492, 4, 0x492, 4},
    {0x2044, 0x2044, 0x483, 63, 0x483, 63},
    {0x204a, 0x204c, 0x492, 7, 0x492, 7},
    {0x204e, 0x204e, 0x492, 8, 0x492, 8},
    {0x2052, 0x2052, 0x484, 55, 0x484, 55},
    {0x2400, 0x2400, 0x48b, 33, 0x48b, 33},
    {0x2402, 0x2402, 0x492, 6, 0x492, 6},
    {0x2404, 0x2404, 0x484, 55, 0x484, 55},
    {0x2804, 0x2804, 0x484, 46, 0x483, 50},
    {0x2806, 0x2806, 0x484, 47, 0x483, 52},
    {0x2808, 0x2808, 0x484, 45, 0x484, 45},
    {0x280a, 0x2810, 0x48b, 33, 0x48b, 33},
    {0x2812, 0x2812, 0x484, 48, 0x483, 55},
    {0x2814, 0x2814, 0x484, 50, 0x483, 57},
    {0x2816, 0x2816, 0x484, 53, 0x483, 58},
    {0x2818, 0x2818, 0x484, 54, 0x484, 54},
    {0x281a, 0x2828, 0x484, 55, 0x493, 0},
    {0x282e, 0x282e, 0x484, 56, 0x484, 56},
    {0x2830, 0x2830, 0x492, 8, 0x492, 8},
    {0x2c00, 0x2c00, 0x483, 51, 0x483, 51},
    {0x2c02, 0x2c02, 0x483, 53, 0x483, 53},
    {0x2c04, 0x2c04, 0x483, 44, 0x483, 44},
    {0x2c06, 0x2c06, 0x483, 61, 0x483, 61},
    {0x2c08, 0x2c16, 0x493, 1, 0x493, 1},
    {0x2c1a, 0x2c1a, 0x493, 2, 0x493, 2},
    {0x401c, 0x401c, 0x482, 53, 0x482, 53},
    {0x401e, 0x401e, 0x482, 63, 0x482, 63},
    {0x4020, 0x4022, 0x48b, 42, 0x48b, 42},
    {0x4024, 0x4024, 0x48b, 63, 0x48b, 63},
    {0x4026, 0x4026, 0x492, 5, 0x492, 5},
    {0x482e, 0x482e, 0x481, 38, 0x481, 38},
    {0x6828, 0x682c, 0x484, 52, 0x484, 52},
    {0x6c18, 0x6c1c, 0x483, 60, 0x483, 60},
};
#define ROWS (sizeof(conditional) / sizeof(conditional[0]))

static bool exist(const struct nvmx_field_set *set, unsigned int row, bool wanted) {
    for (uint32_t encoding = conditional[row].first; encoding <= conditional[row].last; encoding += 2) {
        int slot = nvmx_field_find(encoding, NULL);
        if (slot < 0 || nvmx_set_has(set, (unsigned int)slot) != wanted)
            return false;
    }
    return true;
}

static void all_bits(struct nvmx_caps *caps, uint64_t value) {
    for (unsigned int i = 0; i < NVMX_CAP_MSRS; i++)
        caps->msr[i] = value;
}

static uint64_t *msr(struct nvmx_caps *caps, unsigned int index) {
    return &caps->msr[index - NVMX_MSR_VMX_FIRST];
}

Test(fields, exist_by_one_bit_alone) {
    struct nvmx_caps caps = {0};
    struct nvmx_field_set set;
    for (unsigned int row = 0; row < ROWS; row++)
        for (unsigned int k = 0; k < 2; k++) {
            all_bits(&caps, 0);
            *msr(&caps, k ? conditional[row].msr1 : conditional[row].msr0) = UINT64_C(1) << (k ? conditional[row].bit1 : conditional[row].bit0);
            nvmx_fields_existing(&caps, &set);
            cr_expect(exist(&set, row, true), "field %#x with bit %u", conditional[row].first, k);
        }
}

Test(fields, do_not_exist_without_their_bits) {
    struct nvmx_caps caps = {0};
    struct nvmx_field_set set;
    for (unsigned int row = 0; row < ROWS; row++) {
        all_bits(&caps, UINT64_MAX);
        *msr(&caps, conditional[row].msr0) &= ~(UINT64_C(1) << conditional[row].bit0);
        *msr(&caps, conditional[row].msr1) &= ~(UINT64_C(1) << conditional[row].bit1);
        nvmx_fields_existing(&caps, &set);
        cr_expect(exist(&set, row, false), "field %#x", conditional[row].first);
    }
}

/* SDM appendix B: 205 fields, and one of earlier processors; 115 need no capability. */
Test(fields, all_others_always_exist) {
    struct nvmx_caps caps = {0};
    struct nvmx_field_set none, all;
    unsigned int always = 0, every = 0;
    nvmx_fields_existing(&caps, &none);
    all_bits(&caps, UINT64_MAX);
    nvmx_fields_existing(&caps, &all);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        always += nvmx_set_has(&none, slot);
        every += nvmx_set_has(&all, slot);
    }
    cr_expect_eq(every, 206);
    cr_expect_eq(always, 115);
}
