/* SPDX-License-Identifier: MIT */
/* Where memory operands lie and what their segments allow, seen through VMPTRST (writes 8 bytes) and VMCLEAR (reads 8).
 */
#include <criterion/criterion.h>
#include <string.h>

#include "instruction_run.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct sim *in_root(unsigned int bits) {
    struct sim *sim = sim_new(NULL);
    sim_region(sim, SIM_L1_VMXON);
    cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
    if (bits == 32) {
        sim_l1_mode32(sim);
    }
    return sim;
}

/* The stored pointer (all ones: none is current) is at this gpa1 and nowhere around. */
static bool stored_at(struct sim *sim, uint64_t gpa1) {
    return sim_read64(sim, gpa1) == UINT64_MAX && sim_read64(sim, gpa1 - 8) == 0 && sim_read64(sim, gpa1 + 8) == 0;
}

/* Address forms: DS is flat but for its base, FS and GS have bases, RSP (in vmcs01) is 200000H. */
Test(operand, each_addressing_form) {
    static const struct {
        unsigned int bits; /* mode */
        uint32_t info;
        uint64_t displacement;
        uint64_t rax, rsi, r15;
        uint64_t at;
    } rows[] = {
        /* 64-bit mode */
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_NO_BASE | INFO_NO_INDEX, 0x123458, 0, 0, 0, 0x123458},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_NO_INDEX, 0x10, 0x200000, 0, 0, 0x200010},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_NO_INDEX, (uint64_t)-0x10, 0x200000, 0, 0,
         0x1ffff0},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 0), 0, 0x200000, 0x30, 0,
         0x200030},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 1), 0, 0x200000, 0x30, 0,
         0x200060},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 2), 0, 0x200000, 0x30, 0,
         0x2000c0},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 3), 0x8, 0x200000, 0x30, 0,
         0x200188},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_NO_BASE | INFO_INDEX(15, 3), 0x200000, 0, 0, 0x40,
         0x200200},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(15) | INFO_NO_INDEX, 0, 0, 0, 0x200000, 0x200000},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_SS) | INFO_BASE(4) | INFO_NO_INDEX, 0x18, 0, 0, 0, 0x200018},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_FS) | INFO_NO_BASE | INFO_NO_INDEX, 0x20, 0, 0, 0, 0x300020},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_GS) | INFO_BASE(0) | INFO_NO_INDEX, 0x20, 0x100, 0, 0, 0x310120},
        /* bases of the other segments do not count in 64-bit mode */
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_ES) | INFO_BASE(0) | INFO_NO_INDEX, 0, 0x200000, 0, 0, 0x200000},
        {64, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_CS) | INFO_BASE(0) | INFO_NO_INDEX, 0, 0x200000, 0, 0, 0x200000},
        /* the effective address is cut to 32 bits before the base of FS is added */
        {64, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_NO_INDEX, 0x10,
         UINT64_C(0xffffffff00200000), 0, 0, 0x200010},
        {64, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 0), 0, 0xfff00000, 0x300000, 0,
         0x200000},
        {64, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_FS) | INFO_BASE(0) | INFO_NO_INDEX, (uint64_t)-0x100, 0x200, 0, 0,
         0x300100},
        /* 32-bit mode: all bases count */
        {32, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_NO_INDEX, 0x10, UINT64_C(0xbad00200000), 0,
         0, 0x220010},
        {32, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 2), 0, 0xfff00000, 0x40000, 0,
         0x20000},
        {32, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_SS) | INFO_BASE(4) | INFO_NO_INDEX, 0x18, 0, 0, 0, 0x200018},
        {32, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_ES) | INFO_BASE(0) | INFO_NO_INDEX, 0, 0x200000, 0, 0, 0x240000},
        {32, INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_GS) | INFO_NO_BASE | INFO_NO_INDEX, UINT64_C(0xffffffff12340028), 0,
         0, 0, 0x12650028 & 0xffffff},
        /* 16-bit addresses */
        {32, INFO_ADDRESS(16) | INFO_SEGMENT(NVMX_DS) | INFO_BASE(0) | INFO_INDEX(6, 0), 0x10, 0x5550f000, 0x2000, 0,
         0x21010},
        {32, INFO_ADDRESS(16) | INFO_SEGMENT(NVMX_SS) | INFO_BASE(0) | INFO_NO_INDEX, (uint64_t)-0x80, 0x180, 0, 0,
         0x100},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[40];
        struct sim *sim = in_root(rows[i].bits);
        sim->regs.gpr[NVMX_RAX] = rows[i].rax;
        sim->regs.gpr[6] = rows[i].rsi;
        sim->regs.gpr[15] = rows[i].r15;
        sim->regs.gpr[NVMX_RSP] = 0x666000;
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP, 0x200000);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_DS_BASE, 0x20000);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_ES_BASE, 0x40000);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_FS_BASE, 0x300000);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_GS_BASE, 0x310000);
        if (rows[i].info == (INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_GS) | INFO_NO_BASE | INFO_NO_INDEX)) {
            /* linear 12650028H: memory is there once the base brings it back into the first 16 MiB */
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_GS_BASE, 0xee310000);
        }
        struct seen_outcome got = run(sim, VMPTRST, rows[i].info, rows[i].displacement);
        cr_expect(got.seen == SEEN_SUCCEED, "row %zu: %s", i, outcome_text(got, text));
        cr_expect(stored_at(sim, rows[i].at), "row %zu: not stored at %#llx", i, (unsigned long long)rows[i].at);
        sim_free(sim);
    }
}

/* 64-bit mode: first and last byte must be canonical. */
Test(operand, canonical_addresses_in_64_bit_mode) {
    static const struct {
        unsigned int segment;
        uint64_t base; /* of FS */
        uint64_t displacement;
        uint32_t vector;
    } rows[] = {
        {NVMX_DS, 0, UINT64_C(0x0000800000000000), 13},
        {NVMX_DS, 0, UINT64_C(0xffff7fffffffffff), 13},
        {NVMX_DS, 0, UINT64_C(0x00007ffffffffff9), 13},
        {NVMX_DS, 0, UINT64_C(0x00007ffffffffff8), 14},
        {NVMX_DS, 0, UINT64_C(0xffff800000000000), 14},
        {NVMX_DS, 0, UINT64_C(0xffff7ffffffffffc), 13},
        {NVMX_SS, 0, UINT64_C(0x0000800000000000), 12},
        {NVMX_SS, 0, UINT64_C(0x00007ffffffffff9), 12},
        {NVMX_ES, 0, UINT64_C(0x8000000000000000), 13},
        {NVMX_CS, 0, UINT64_C(0x8000000000000000), 13},
        {NVMX_FS, UINT64_C(0x00007fff00000000), 0x100000000, 13},
        {NVMX_FS, UINT64_C(0x8000000000000000), UINT64_C(0x8000000040000000), 14},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[40];
        struct sim *sim = in_root(64);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_FS_BASE, rows[i].base);
        struct seen_outcome got =
            run(sim, VMCLEAR, INFO_ADDRESS(64) | INFO_SEGMENT(rows[i].segment) | INFO_NO_BASE | INFO_NO_INDEX,
                rows[i].displacement);
        cr_expect(got.seen == SEEN_FAULT && got.number == rows[i].vector, "row %zu: %s", i, outcome_text(got, text));
        cr_expect_eq(sim_fault_error_code(sim), 0, "row %zu", i);
        sim_free(sim);
    }
}

/* CR4.LA57 widens what is canonical, if the processor has it. */
Test(operand, canonical_addresses_with_five_levels) {
    for (unsigned int la57 = 0; la57 < 4; la57++) {
        struct nvmx_caps machine;
        struct sim_options options = {.machine = &machine};
        sim_machine(&machine);
        if (la57 & 1) {
            machine.cpu |= NVMX_CPU_LA57;
        }
        struct sim *sim = sim_new(&options);
        sim_region(sim, SIM_L1_VMXON);
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        if (la57 & 2) {
            sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4) | 0x1000);
        }
        struct seen_outcome got = run(sim, VMCLEAR, INFO_DISPLACEMENT64, UINT64_C(0x00ff800000000000));
        cr_expect_eq(got.number, la57 == 3 ? 14 : 13, "case %u", la57);
        sim_free(sim);
    }
}

/*
 * Linear-address masking (SDM 4.4): metadata is not looked at, and CR2 does not have it. LAM_SUP is for pointers with bit 63, LAM_U57 and
 * LAM_U48 of CR3 for the others, whatever the CPL.
 */
Test(operand, linear_address_masking) {
    enum { LAM = 1, SUP = 2, U57 = 4, U48 = 8, LA57 = 16 };
    static const struct {
        unsigned int mode;
        uint64_t address;
        uint64_t cr2; /* 0: #GP */
    } rows[] = {
        {LAM, UINT64_C(0xabcd800040000000), 0},
        {LAM | U57 | U48, UINT64_C(0xabcd800040000000), 0},
        {SUP, UINT64_C(0xabcd800040000000), 0},
        {LAM | SUP, UINT64_C(0xabcd800040000000), UINT64_C(0xffff800040000000)},
        {LAM | SUP, UINT64_C(0x8000800040000000), UINT64_C(0xffff800040000000)},
        {LAM | SUP, UINT64_C(0xabcd7f0040000000), 0},
        {LAM | SUP | LA57, UINT64_C(0x81cd7f0040000000), UINT64_C(0xffcd7f0040000000)},
        {LAM | SUP | LA57, UINT64_C(0x80cd7f0040000000), 0},
        {LAM | SUP, UINT64_C(0x2bcd000040000000), 0},
        {LAM | U48, UINT64_C(0x2bcd000040000000), UINT64_C(0x0000000040000000)},
        {LAM | U57, UINT64_C(0x2bcd000040000000), 0},
        {LAM | U57, UINT64_C(0x7e00000040000000), UINT64_C(0x0000000040000000)},
        {LAM | U57 | LA57, UINT64_C(0x7ecd000040000000), UINT64_C(0x00cd000040000000)},
        {LAM | U57 | LA57, UINT64_C(0x7fcd000040000000), 0},
        {LAM | U48 | LA57, UINT64_C(0x2bcd000040000000), UINT64_C(0x0000000040000000)},
        {LAM | U48 | LA57, UINT64_C(0x2bcd800040000000), 0}, /* bit 47, with five levels too */
        {LAM | U48 | LA57, UINT64_C(0x0000800040000000), 0},
        {LAM | U57 | U48, UINT64_C(0x7ecd000040000000), 0},
        {U48, UINT64_C(0x2bcd000040000000), 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[40];
        const unsigned int mode = rows[i].mode;
        struct nvmx_caps machine;
        struct sim_options options = {.machine = &machine};
        sim_machine(&machine);
        machine.cpu |= NVMX_CPU_LA57 | (mode & LAM ? NVMX_CPU_LAM : 0);
        struct sim *sim = sim_new(&options);
        sim_region(sim, SIM_L1_VMXON);
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4,
                sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4) | (mode & SUP ? 1u << 28 : 0) | (mode & LA57 ? 1u << 12 : 0));
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3,
                sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3) | (uint64_t)(mode & U57 ? 1 : 0) << 61 |
                    (uint64_t)(mode & U48 ? 1 : 0) << 62);
        struct seen_outcome got = run(sim, VMCLEAR, INFO_DISPLACEMENT64, rows[i].address);
        cr_expect(got.seen == SEEN_FAULT && got.number == (rows[i].cr2 != 0 ? 14 : 13), "row %zu: %s", i,
                  outcome_text(got, text));
        cr_expect(rows[i].cr2 == 0 || sim->regs.cr2 == rows[i].cr2, "row %zu: CR2 %#lx", i, sim->regs.cr2);
        sim_free(sim);
    }
}

/* Access rights: accessed data 93H / 91H (read-only), expand-down 97H, code 9BH (readable) / 99H (execute-only); 4000H:
 * 32-bit. */
Test(operand, segment_limits_types_and_usability) {
    static const struct {
        unsigned int segment;
        uint32_t rights;
        uint32_t limit;
        uint64_t offset;
        int read; /* vector; -1: none */
        int write;
    } rows[] = {
        /* expand-up: the last byte must be within the limit */
        {NVMX_DS, 0x4093, 0x20007, 0x20000, -1, -1},
        {NVMX_DS, 0x4093, 0x20006, 0x20000, 13, 13},
        {NVMX_DS, 0x4093, 0xfffff, 0x100000, 13, 13},
        {NVMX_SS, 0x4093, 0x20006, 0x20000, 12, 12},
        {NVMX_SS, 0x4093, 0x20007, 0x20000, -1, -1},
        {NVMX_DS, 0x4093, 0, 0, 13, 13},
        {NVMX_DS, 0x4093, 0xfffffffe, 0xfffffff8, 13, 13},
        /* expand-down: above the limit, below 64 KiB or 4 GiB */
        {NVMX_DS, 0x4097, 0x1ffff, 0x20000, -1, -1},
        {NVMX_DS, 0x4097, 0x20000, 0x20000, 13, 13},
        {NVMX_DS, 0x4097, 0x20007, 0x20000, 13, 13},
        {NVMX_DS, 0x0097, 0x1fff, 0xfff8, -1, -1},
        {NVMX_DS, 0x0097, 0x1fff, 0xfff9, 13, 13},
        {NVMX_DS, 0x0097, 0x1fff, 0x20000, 13, 13},
        {NVMX_DS, 0x4097, 0x1fff, 0xfffffff9, 13, 13},
        {NVMX_SS, 0x4097, 0x20000, 0x20000, 12, 12},
        /* types */
        {NVMX_DS, 0x4091, 0xffffffff, 0x20000, -1, 13},
        {NVMX_CS, 0xc09b, 0xffffffff, 0x20000, -1, 13},
        {NVMX_CS, 0xc099, 0xffffffff, 0x20000, 13, 13},
        {NVMX_DS, 0xc09f, 0xffffffff, 0x20000, -1, 13},
        {NVMX_DS, 0xc09f, 0x1ffff, 0x20000, 13, 13},
        /* the expand-down bit is "conforming" in a code segment */
        {NVMX_CS, 0xc09f, 0x2ffff, 0x20000, -1, 13},
        /* null selectors */
        {NVMX_DS, 0x10000, 0xffffffff, 0x20000, 13, 13},
        {NVMX_SS, 0x10000, 0xffffffff, 0x20000, 12, 12},
        {NVMX_GS, 0x14093, 0xffffffff, 0x20000, 13, 13},
    };
    static const uint8_t rights[] = {NVMX_F_GUEST_ES_ACCESS_RIGHTS, NVMX_F_GUEST_CS_ACCESS_RIGHTS,
                                     NVMX_F_GUEST_SS_ACCESS_RIGHTS, NVMX_F_GUEST_DS_ACCESS_RIGHTS,
                                     NVMX_F_GUEST_FS_ACCESS_RIGHTS, NVMX_F_GUEST_GS_ACCESS_RIGHTS};
    for (size_t i = 0; i < COUNT(rows) * 2; i++) {
        char text[40];
        const bool write = i % 2 != 0;
        const size_t row = i / 2;
        const int vector = write ? rows[row].write : rows[row].read;
        const unsigned int segment = rows[row].segment;
        struct sim *sim = in_root(32);
        sim_set(sim, NVMX_VMCS01, (enum nvmx_field)rights[segment], rows[row].rights);
        sim_set(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_ES_LIMIT + segment), rows[row].limit);
        uint32_t info = INFO_ADDRESS(32) | INFO_SEGMENT(segment) | INFO_NO_BASE | INFO_NO_INDEX;
        struct seen_outcome got = run(sim, write ? VMPTRST : VMCLEAR, info, rows[row].offset);
        bool right = vector < 0 ? got.seen != SEEN_FAULT : got.seen == SEEN_FAULT && got.number == (uint32_t)vector;
        cr_expect(right, "row %zu, %s: %s", row, write ? "write" : "read", outcome_text(got, text));
        sim_free(sim);
    }
}

/* In 64-bit mode segments have no limit, type or null selector. */
Test(operand, segments_do_not_protect_in_64_bit_mode) {
    struct sim *sim = in_root(64);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_DS_ACCESS_RIGHTS, 0x10000);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_DS_LIMIT, 0);
    cr_expect_eq(run(sim, VMPTRST, INFO_DISPLACEMENT64, SIM_L1_OPERAND).seen, SEEN_SUCCEED);
    cr_expect_eq(
        run(sim, VMPTRST, INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_CS) | INFO_NO_INDEX | INFO_NO_BASE, SIM_L1_OPERAND).seen,
        SEEN_SUCCEED);
    sim_free(sim);
}

/* What no hardware reports is #UD, never a wild access. */
Test(operand, impossible_information_is_undefined) {
    static const uint32_t infos[] = {3u << 7 | INFO_NO_BASE | INFO_NO_INDEX, 7u << 7 | INFO_NO_BASE | INFO_NO_INDEX,
                                     INFO_ADDRESS(64) | INFO_SEGMENT(6) | INFO_NO_BASE | INFO_NO_INDEX,
                                     INFO_ADDRESS(64) | INFO_SEGMENT(7) | INFO_NO_BASE | INFO_NO_INDEX};
    for (size_t i = 0; i < COUNT(infos); i++) {
        struct sim *sim = in_root(64);
        struct seen_outcome got = run(sim, VMPTRST, infos[i], SIM_L1_OPERAND);
        cr_expect(got.seen == SEEN_FAULT && got.number == 6, "row %zu", i);
        sim_free(sim);
    }
}
