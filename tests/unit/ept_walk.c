/* SPDX-License-Identifier: MIT */
/* The pure rules: which EPTP is valid, what an entry is (SDM 27.6.11, 31.3). */
#include <nvmx/ept.h>

#include <criterion/criterion.h>

#define CAP(bit) (UINT64_C(1) << (bit))
#define ALL_CAPS (CAP(0) | CAP(6) | CAP(7) | CAP(8) | CAP(14) | CAP(16) | CAP(17) | CAP(21) | CAP(22) | CAP(23))

static struct nvmx_caps caps_with(uint64_t ept_vpid_cap, uint8_t width) {
    struct nvmx_caps caps = {.physical_address_bits = width};

    caps.msr[NVMX_CAP_EPT_VPID] = ept_vpid_cap;
    return caps;
}

struct eptp_row {
    const char *id;
    uint64_t caps, eptp;
    bool valid;
};

static const struct eptp_row eptp_rows[] = {
    {"write-back", CAP(6) | CAP(14), 0x1000 | 3 << 3 | 6, true},
    {"write-back missing", ALL_CAPS & ~CAP(14), 0x1000 | 3 << 3 | 6, false},
    {"uncacheable", CAP(6) | CAP(8), 0x1000 | 3 << 3 | 0, true},
    {"uncacheable missing", ALL_CAPS & ~CAP(8), 0x1000 | 3 << 3 | 0, false},
    {"type 1", ALL_CAPS, 0x1000 | 3 << 3 | 1, false},
    {"type 2", ALL_CAPS, 0x1000 | 3 << 3 | 2, false},
    {"type 3", ALL_CAPS, 0x1000 | 3 << 3 | 3, false},
    {"type 4", ALL_CAPS, 0x1000 | 3 << 3 | 4, false},
    {"type 5", ALL_CAPS, 0x1000 | 3 << 3 | 5, false},
    {"type 7", ALL_CAPS, 0x1000 | 3 << 3 | 7, false},
    {"1 level", ALL_CAPS, 0x1000 | 0 << 3 | 6, false},
    {"2 levels", ALL_CAPS, 0x1000 | 1 << 3 | 6, false},
    {"3 levels", ALL_CAPS, 0x1000 | 2 << 3 | 6, false},
    {"4 levels missing", ALL_CAPS & ~CAP(6), 0x1000 | 3 << 3 | 6, false},
    {"5 levels", ALL_CAPS, 0x1000 | 4 << 3 | 6, true},
    {"5 levels missing", ALL_CAPS & ~CAP(7), 0x1000 | 4 << 3 | 6, false},
    {"6 levels", ALL_CAPS, 0x1000 | 5 << 3 | 6, false},
    {"accessed and dirty", ALL_CAPS, 0x1000 | 1 << 6 | 3 << 3 | 6, true},
    {"accessed and dirty missing", ALL_CAPS & ~CAP(21), 0x1000 | 1 << 6 | 3 << 3 | 6, false},
    {"shadow stack", ALL_CAPS, 0x1000 | 1 << 7 | 3 << 3 | 6, true},
    {"shadow stack missing", ALL_CAPS & ~CAP(23), 0x1000 | 1 << 7 | 3 << 3 | 6, false},
    {"address 0", ALL_CAPS, 3 << 3 | 6, true},
};

Test(ept, eptp_valid_follows_capabilities) {
    for (size_t i = 0; i < sizeof(eptp_rows) / sizeof(eptp_rows[0]); i++) {
        const struct eptp_row *row = &eptp_rows[i];
        struct nvmx_caps caps = caps_with(row->caps, 39);

        cr_expect_eq(nvmx_eptp_valid(&caps, row->eptp), row->valid, "%s", row->id);
    }
}

Test(ept, eptp_reserved_bits_and_width) {
    for (uint8_t width = 36; width <= 52; width++) {
        struct nvmx_caps caps = caps_with(ALL_CAPS, width);

        for (unsigned int bit = 8; bit < 64; bit++) {
            bool valid = bit >= 12 && bit < width;

            cr_expect_eq(nvmx_eptp_valid(&caps, 3 << 3 | 6 | UINT64_C(1) << bit), valid, "bit %u width %u", bit, width);
        }
    }
}

struct entry_row {
    const char *id;
    uint64_t without;    /* capabilities that are missing */
    unsigned int levels; /* bit per level */
    uint64_t entry;
    bool mbec;
    enum nvmx_ept_entry what;
};

#define L1_   (1u << 1)
#define L2_   (1u << 2)
#define L3_   (1u << 3)
#define L4_   (1u << 4)
#define L5_   (1u << 5)
#define EVERY (L1_ | L2_ | L3_ | L4_ | L5_)
#define UPPER (L4_ | L5_)

static const struct entry_row entry_rows[] = {
    {"zero", 0, EVERY, 0, false, NVMX_EPT_NOT_PRESENT},
    {"not present ignores all other bits", 0, EVERY, ~UINT64_C(7), false, NVMX_EPT_NOT_PRESENT},
    {"not present with mbec", 0, EVERY, ~UINT64_C(0x407), true, NVMX_EPT_NOT_PRESENT},
    {"bit 10 alone without mbec", 0, EVERY, 0x400, false, NVMX_EPT_NOT_PRESENT},
    {"bit 10 alone with mbec", 0, EVERY & ~L1_, 0x400, true, NVMX_EPT_TABLE},
    {"bit 10 alone with mbec, leaf", 0, L1_, 0x430, true, NVMX_EPT_LEAF},
    {"table", 0, EVERY & ~L1_, 0x1007, false, NVMX_EPT_TABLE},
    {"4K page", 0, L1_, 0x1037, false, NVMX_EPT_LEAF},
    {"4K page, bit 7 is ignored", 0, L1_, 0x10b7, false, NVMX_EPT_LEAF},
    {"large page", 0, L2_ | L3_, 0x400000b7, false, NVMX_EPT_LEAF},
    {"read only", 0, L1_, 0x31, false, NVMX_EPT_LEAF},
    {"read and execute", 0, L1_, 0x35, false, NVMX_EPT_LEAF},
    {"ignored bits", 0, L1_, 0x37 | UINT64_C(0xfff) << 52 | 0xf00, false, NVMX_EPT_LEAF},
    {"ignored bits of a table", 0, EVERY & ~L1_, 0x7 | UINT64_C(0xfff) << 52 | 0xf00, false, NVMX_EPT_TABLE},
    {"row 1: write", 0, EVERY, 2, false, NVMX_EPT_MISCONFIG},
    {"row 1: write and execute", 0, EVERY, 6, false, NVMX_EPT_MISCONFIG},
    {"row 1: write and user-execute", 0, EVERY, 0x402, true, NVMX_EPT_MISCONFIG},
    {"row 2: execute-only, not supported", CAP(0), EVERY, 4, false, NVMX_EPT_MISCONFIG},
    {"row 2: execute-only, supported", 0, EVERY & ~L1_, 4, false, NVMX_EPT_TABLE},
    {"row 2: execute-only page, supported", 0, L1_, 0x34, false, NVMX_EPT_LEAF},
    {"row 3: user-execute-only, not supported", CAP(0), EVERY, 0x400, true, NVMX_EPT_MISCONFIG},
    {"row 3: without mbec bit 10 means nothing", CAP(0), EVERY & ~L1_, 0x401, false, NVMX_EPT_TABLE},
    {"row 7: memory type 2", 0, L1_, 0x17, false, NVMX_EPT_MISCONFIG},
    {"row 7: memory type 3", 0, L1_, 0x1f, false, NVMX_EPT_MISCONFIG},
    {"row 7: memory type 7", 0, L1_, 0x3f, false, NVMX_EPT_MISCONFIG},
    {"row 7: memory type 2, large", 0, L2_ | L3_, 0x97, false, NVMX_EPT_MISCONFIG},
    {"row 7: memory type 3, large", 0, L2_ | L3_, 0x9f, false, NVMX_EPT_MISCONFIG},
    {"row 7: memory type 7, large", 0, L2_ | L3_, 0xbf, false, NVMX_EPT_MISCONFIG},
    {"memory type 0", 0, L1_, 0x07, false, NVMX_EPT_LEAF},
    {"memory type 1", 0, L1_, 0x0f, false, NVMX_EPT_LEAF},
    {"memory type 4", 0, L1_, 0x27, false, NVMX_EPT_LEAF},
    {"memory type 5", 0, L1_, 0x2f, false, NVMX_EPT_LEAF},
    {"ignore PAT", 0, L1_, 0x77, false, NVMX_EPT_LEAF},
    {"row 8: 1G not supported", CAP(17), L3_, 0xb7, false, NVMX_EPT_MISCONFIG},
    {"row 8: 2M missing does not matter to a 1G page", CAP(16), L3_, 0xb7, false, NVMX_EPT_LEAF},
    {"row 9: 2M not supported", CAP(16), L2_, 0xb7, false, NVMX_EPT_MISCONFIG},
    {"row 9: 1G missing does not matter to a 2M page", CAP(17), L2_, 0xb7, false, NVMX_EPT_LEAF},
    {"row 10: bit 7 of a PML4E or PML5E", 0, UPPER, 0x87, false, NVMX_EPT_MISCONFIG},
    {"row 11: bit 3 of a table", 0, EVERY & ~L1_, 0x0f, false, NVMX_EPT_MISCONFIG},
    {"row 11: bit 4 of a table", 0, EVERY & ~L1_, 0x17, false, NVMX_EPT_MISCONFIG},
    {"row 11: bit 5 of a table", 0, EVERY & ~L1_, 0x27, false, NVMX_EPT_MISCONFIG},
    {"row 11: bit 6 of a table", 0, EVERY & ~L1_, 0x47, false, NVMX_EPT_MISCONFIG},
};

Test(ept, entry_is_classified) {
    for (size_t i = 0; i < sizeof(entry_rows) / sizeof(entry_rows[0]); i++) {
        const struct entry_row *row = &entry_rows[i];
        struct nvmx_caps caps = caps_with(ALL_CAPS & ~row->without, 39);

        for (unsigned int level = 1; level <= 5; level++) {
            if ((row->levels >> level & 1) != 0) {
                enum nvmx_ept_entry what = nvmx_ept_classify(&caps, level, row->entry, row->mbec);

                cr_expect_eq(what, row->what, "%s: level %u: %d instead of %d", row->id, level, what, row->what);
            }
        }
    }
}

/* Rows 5 and 6: each address bit that is not an address bit of its format. */
Test(ept, entry_address_bits_are_reserved) {
    for (uint8_t width = 36; width <= 52; width++) {
        struct nvmx_caps caps = caps_with(ALL_CAPS, width);

        for (unsigned int bit = 12; bit < 52; bit++) {
            uint64_t b = UINT64_C(1) << bit;
            enum nvmx_ept_entry misconfig = NVMX_EPT_MISCONFIG;

            cr_expect_eq(nvmx_ept_classify(&caps, 1, 0x37 | b, false), bit < width ? NVMX_EPT_LEAF : misconfig);
            cr_expect_eq(nvmx_ept_classify(&caps, 2, 0xb7 | b, false),
                         bit >= 21 && bit < width ? NVMX_EPT_LEAF : misconfig);
            cr_expect_eq(nvmx_ept_classify(&caps, 3, 0xb7 | b, false),
                         bit >= 30 && bit < width ? NVMX_EPT_LEAF : misconfig);
            for (unsigned int level = 2; level <= 5; level++) {
                cr_expect_eq(nvmx_ept_classify(&caps, level, 7 | b, false), bit < width ? NVMX_EPT_TABLE : misconfig);
            }
            cr_expect_eq(nvmx_ept_classify(&caps, 1, b, false), NVMX_EPT_NOT_PRESENT);
        }
    }
}
