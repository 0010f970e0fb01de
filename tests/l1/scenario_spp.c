/* SPDX-License-Identifier: MIT */
/* Sub-page write permissions of EPT (SDM 31.3.4): one write to, or access of, a page each, with ept12 and the sub-page-permission table as the row has them. */
#include "scenarios.h"

#include "cpu.h"

#define INVEPT_SINGLE (1u << 20 | 1u << 25)
#define EPT_SPP       (1ul << 61)
#define PAGE_B        (large_page + 0x3000) /* a frame of L1 */
#define READ_ONLY     (EPT_READ | EPT_EXECUTE)

/* Qualifications. */
#define MISS     0x800
#define WRITE_OF(RIGHTS) (2 | (RIGHTS) << 3 | 0x180)

DEFINE_L2_CODE(spp_write, "mov %al, (%rbx)\n vmcall\n");
DEFINE_L2_CODE(spp_read, "mov (%rbx), %al\n vmcall\n");

static uint64_t level4[512] __attribute__((aligned(4096)));
static uint64_t level3[512] __attribute__((aligned(4096)));
static uint64_t level2[512] __attribute__((aligned(4096)));
static uint64_t vectors[512] __attribute__((aligned(4096)));

enum { AT = L2_DATA2 >> 12 };

/* What a row changes of a state in which sub-page 0 of the page can be written, and no other. */
static void nothing(void) {
}
static void no_level4(void) {
    level4[0] &= ~1ul;
}
static void no_level3(void) {
    level3[0] = 0;
}
static void no_level2(void) {
    level2[0] &= ~1ul;
}
static void reserved4(void) {
    level4[0] |= 2;
}
static void reserved3(void) {
    level3[0] |= 0x800;
}
static void reserved2(void) {
    level2[0] |= 1ul << 51;
}
static void high2(void) {
    level2[0] |= 1ul << 63;
}
static void invalid_and_reserved(void) {
    level2[0] = (level2[0] & ~1ul) | 0x10;
}
static void odd_bit(void) {
    vectors[AT] |= 1ul << 63;
}
static void second_sub_page(void) {
    vectors[AT] = 4;
}
static void last_sub_page(void) {
    vectors[AT] = 1ul << 62;
}
static void no_bit_61(void) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_SPP;
}
static void writable(void) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) |= EPT_WRITE;
    vectors[AT] = 0;
}
static void protected_above(void) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) |= EPT_WRITE;
    *ept_entry(L2_DATA2, EPT_LEVEL_1G) &= ~EPT_WRITE;
    *ept_entry(0, EPT_LEVEL_512G) &= ~EPT_WRITE;
}
static void not_readable(void) {
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_READ;
}
static void flags_on(void) {
    vmwrite(EPT_POINTER, ept_pointer() | 0x40);
}
static void control_off(void) {
    vmwrite(PROC2_CONTROLS, vmread(PROC2_CONTROLS) & ~(uint64_t)PROC2_SPP);
}

struct row {
    const char *name;
    void (*change)(void);
    const uint8_t *code;
    uint32_t offset;
    uint32_t reason;
    uint64_t qualification;
};

static const struct row rows[] = {
    {"permitted", nothing, l2_spp_write, 0x7f, REASON_VMCALL, 0},
    {"protected", nothing, l2_spp_write, 0x80, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
    {"second", second_sub_page, l2_spp_write, 0x80, REASON_VMCALL, 0},
    {"second_not_first", second_sub_page, l2_spp_write, 0x7f, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
    {"last", last_sub_page, l2_spp_write, 0xfff, REASON_VMCALL, 0},
    {"last_not_before", last_sub_page, l2_spp_write, 0xf7f, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
    {"read", nothing, l2_spp_read, 0x80, REASON_VMCALL, 0},
    {"miss_4", no_level4, l2_spp_write, 0, REASON_SPP, MISS},
    {"miss_3", no_level3, l2_spp_write, 0x123, REASON_SPP, MISS},
    {"miss_2", no_level2, l2_spp_write, 0xfff, REASON_SPP, MISS},
    {"miss_comes_first", invalid_and_reserved, l2_spp_write, 0, REASON_SPP, MISS},
    {"read_needs_no_table", no_level4, l2_spp_read, 0, REASON_VMCALL, 0},
    {"misconfiguration_4", reserved4, l2_spp_write, 0, REASON_SPP, 0},
    {"misconfiguration_3", reserved3, l2_spp_write, 0, REASON_SPP, 0},
    {"misconfiguration_2", reserved2, l2_spp_write, 0, REASON_SPP, 0},
    {"misconfiguration_63", high2, l2_spp_write, 0, REASON_SPP, 0},
    {"without_bit_61", no_bit_61, l2_spp_write, 0, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
    {"writable", writable, l2_spp_write, 0, REASON_VMCALL, 0},
    {"protected_above", protected_above, l2_spp_write, 0, REASON_VMCALL, 0},
    {"flags", flags_on, l2_spp_write, 0, REASON_VMCALL, 0},
    {"flags_protected", flags_on, l2_spp_write, 0x80, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
    {"without_control", control_off, l2_spp_write, 0, REASON_EPT_VIOLATION, WRITE_OF(READ_ONLY)},
};

/* What Bochs 2.7 does not look at. */
static const struct row strict_rows[] = {
    {"odd_bit", odd_bit, l2_spp_write, 0, REASON_SPP, 0},
    {"not_readable", not_readable, l2_spp_write, 0, REASON_EPT_VIOLATION, WRITE_OF(EPT_EXECUTE)},
};

static void invalidate(void) {
    const uint64_t descriptor[2] = {vmread(EPT_POINTER), 0};
    vmx_invept(1, descriptor);
}

static void prepare(void) {
    memset(level4, 0, sizeof level4);
    memset(level3, 0, sizeof level3);
    memset(level2, 0, sizeof level2);
    memset(vectors, 0, sizeof vectors);
    level4[0] = (uint64_t)level3 | 1;
    level3[0] = (uint64_t)level2 | 1;
    level2[0] = (uint64_t)vectors | 1;
    vectors[AT] = 1;
    *ept_entry(0, EPT_LEVEL_512G) |= EPT_ALL;
    *ept_entry(0, EPT_LEVEL_1G) |= EPT_ALL;
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) = (uint64_t)PAGE_B | READ_ONLY | EPT_WB | EPT_SPP;
    vmwrite(EPT_POINTER, ept_pointer());
    vmwrite(SPP_TABLE_POINTER, (uint64_t)level4);
    vmwrite(PROC2_CONTROLS, vmread(PROC2_CONTROLS) | PROC2_SPP);
    invalidate();
}

/* L2's code and page tables lie below the same upper entries: `protected_above` leaves it nothing else to write. */
static void one_row(struct l2 *l2, const struct row *row) {
    uint64_t linear = L2_DATA2 + row->offset;
    uint8_t *byte = PAGE_B + row->offset;

    prepare();
    row->change();
    invalidate();
    *byte = 0;
    vmwrite(GUEST_RIP, l2_address(row->code));
    l2->base = l2_address(row->code);
    l2->regs.gpr[RBX] = linear;
    l2->regs.gpr[RAX] = 0x5a;
    if (!l2_run(l2)) {
        return;
    }
    bool exits = row->reason != REASON_VMCALL;
    uint64_t flags = *ept_entry(L2_DATA2, EPT_LEVEL_4K) & (EPT_ACCESSED | EPT_DIRTY);
    bool good = l2->exit.reason == row->reason && l2->exit.qualification == row->qualification &&
                *byte == (!exits && row->code == l2_spp_write ? 0x5a : 0) &&
                (!exits || (l2->exit.physical == linear && l2->exit.linear == linear)) &&
                flags == (row->change == flags_on && !exits ? EPT_ACCESSED | EPT_DIRTY : 0);
    step_begin(row->name, good);
    exit_print(&l2->exit);
    print(", byte %x, flags %lx\n", (uint32_t)*byte, flags);
}

static void all_rows(struct l2 *l2) {
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        one_row(l2, &rows[i]);
    }
}

static void strictly(struct l2 *l2) {
    for (uint32_t i = 0; i < sizeof strict_rows / sizeof strict_rows[0]; i++) {
        one_row(l2, &strict_rows[i]);
    }
}

/* What L1 changes of the table counts after INVEPT; another table, or another EPTP with the same one, at the next entry. */
static uint64_t other_level4[512] __attribute__((aligned(4096)));

static void try(struct l2 *l2, const char *name, uint32_t reason) {
    vmwrite(GUEST_RIP, l2_address(l2_spp_write));
    l2->base = l2_address(l2_spp_write);
    l2->regs.gpr[RBX] = L2_DATA2;
    if (l2_run(l2)) {
        step_equal(name, l2->exit.reason, reason);
    }
}

static void changes(struct l2 *l2) {
    prepare();
    try(l2, "at_first", REASON_VMCALL);
    vectors[AT] = 0;
    invalidate();
    try(l2, "vector", REASON_EPT_VIOLATION);
    vectors[AT] = 1;
    invalidate();
    try(l2, "vector_back", REASON_VMCALL);
    level2[0] = 0;
    invalidate();
    try(l2, "level_2", REASON_SPP);
    level2[0] = (uint64_t)vectors | 1;
    invalidate();
    try(l2, "level_2_back", REASON_VMCALL);
    memset(other_level4, 0, sizeof other_level4);
    vmwrite(SPP_TABLE_POINTER, (uint64_t)other_level4);
    invalidate();
    try(l2, "other_table", REASON_SPP);
    vmwrite(SPP_TABLE_POINTER, (uint64_t)level4);
    invalidate();
    try(l2, "first_table", REASON_VMCALL);
    vmwrite(EPT_POINTER, ept_pointer() | 0x40);
    try(l2, "other_eptp", REASON_VMCALL);
    *ept_entry(L2_DATA2, EPT_LEVEL_4K) &= ~EPT_SPP;
    invalidate();
    try(l2, "bit_61", REASON_EPT_VIOLATION);
}

/* SDM 29.2.1.1. */
static void pointer_checks(struct l2 *l2) {
    prepare();
    vmwrite(SPP_TABLE_POINTER, (uint64_t)level4 | 0x800);
    l2_expect_fail(l2, "low_bits", 7);
    vmwrite(SPP_TABLE_POINTER, (uint64_t)level4 | 1ul << 51);
    l2_expect_fail(l2, "beyond", 7);
    vmwrite(SPP_TABLE_POINTER, (uint64_t)level4);
    vmwrite(PROC2_CONTROLS, vmread(PROC2_CONTROLS) & ~(uint64_t)(PROC2_EPT | PROC2_UNRESTRICTED));
    l2_expect_fail(l2, "without_ept", 7);
}

static const struct scenario table[] = {
    SCENARIO_BODY("spp.rows", spp_write, all_rows, .on = {.proc2 = PROC2_EPT | PROC2_SPP}, .ept_vpid = INVEPT_SINGLE | 1u << 21 | 1u),
    SCENARIO_BODY("strict.spp", spp_write, strictly, .on = {.proc2 = PROC2_EPT | PROC2_SPP}, .ept_vpid = INVEPT_SINGLE | 1u,
                  .only_by_name = true),
    SCENARIO_BODY("spp.changes", spp_write, changes, .on = {.proc2 = PROC2_EPT | PROC2_SPP}, .ept_vpid = INVEPT_SINGLE | 1u << 21),
    SCENARIO_BODY("spp.pointer", spp_write, pointer_checks, .on = {.proc2 = PROC2_EPT | PROC2_SPP}),
};

DEFINE_SCENARIOS(spp, table);
