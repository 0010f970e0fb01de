/* SPDX-License-Identifier: MIT */
/* L1's memory: physical accesses, and linear ones through L1's page tables in each paging mode. */
#include <criterion/criterion.h>
#include <string.h>

#include "instruction_run.h"
#include "vmcs/memory.h"

#define COUNT(a)  (sizeof(a) / sizeof((a)[0]))

#define CR0_PG_PE UINT64_C(0x80000021)

#define P         UINT64_C(1)
#define RW        UINT64_C(2)
#define US        UINT64_C(4)
#define A         UINT64_C(0x20)
#define D         UINT64_C(0x40)
#define PS        UINT64_C(0x80)
#define NX        (UINT64_C(1) << 63)

/* Tables of the tests, outermost first; the page that all of them lead to. */
#define TABLE(i) (UINT64_C(0x600000) + (uint64_t)(i)*0x1000)
#define PAGE     UINT64_C(0x800000)
#define PAGE2    UINT64_C(0x900000)

/* -- physical
 * --------------------------------------------------------------------------------------------------------------------
 */

Test(memory, physical_access_across_pages_is_whole_or_none) {
    struct sim *sim = sim_new(NULL);
    const uint64_t pattern[2] = {UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210)};
    uint64_t got[2] = {0, 0};
    for (uint64_t offset = 0xff0; offset <= 0x1000; offset++) {
        cr_expect_eq(l1_physical_write(sim->vcpu, PAGE + offset, pattern, 16), NVMX_OK);
        cr_expect_eq(l1_physical_read(sim->vcpu, PAGE + offset, got, 16), NVMX_OK);
        cr_expect_arr_eq(got, pattern, 16);
        cr_expect_eq(sim_read64(sim, PAGE + offset), pattern[0]);
    }
    sim_write64(sim, SIM_RAM_BYTES - 8, 0);
    cr_expect_eq(l1_physical_write(sim->vcpu, SIM_RAM_BYTES - 8, pattern, 16), NVMX_E_UNMAPPED);
    cr_expect_eq(sim_read64(sim, SIM_RAM_BYTES - 8), 0);
    cr_expect_eq(l1_physical_read(sim->vcpu, SIM_RAM_BYTES - 8, got, 16), NVMX_E_UNMAPPED);
    cr_expect_eq(l1_physical_read(sim->vcpu, SIM_RAM_BYTES, got, 1), NVMX_E_UNMAPPED);
    sim_free(sim);
}

/* -- paging modes
 * -------------------------------------------------------------------------------------------------------------------
 */

enum paging { BITS32, PAE, LEVELS4, LEVELS5 };

struct mode {
    const char *name;
    unsigned int levels; /* tables in memory */
    unsigned int index_bits;
    unsigned int entry_bytes;
    uint64_t linear; /* that the tests use: no index is 0 */
};

static const struct mode modes[] = {
    [BITS32] = {"32-bit", 2, 10, 4, UINT64_C(0xc0c03000)},
    [PAE] = {"PAE", 2, 9, 8, UINT64_C(0xc0603000)},
    [LEVELS4] = {"4-level", 4, 9, 8, UINT64_C(0xffff818040603000)},
    [LEVELS5] = {"5-level", 5, 9, 8, UINT64_C(0xff81818040603000)},
};

static struct l1_paging paging_of(enum paging mode, uint64_t cr0, uint64_t cr4) {
    struct l1_paging paging = {
        .long_mode = mode >= LEVELS4,
        .mode64 = mode >= LEVELS4,
        .cr0 = CR0_PG_PE | cr0,
        .cr3 = TABLE(0) | (mode == BITS32 ? 0x18 : 0),
        .cr4 = cr4 | (mode >= PAE ? CR4_PAE : 0) | (mode == LEVELS5 ? CR4_LA57 : 0),
        .pdpte = {0, 0, 0, TABLE(0) | 1},
    };
    return paging;
}

static uint64_t entry_gpa1(enum paging mode, unsigned int depth, uint64_t linear) {
    const struct mode *m = &modes[mode];
    unsigned int shift = 12 + m->index_bits * (m->levels - 1 - depth);
    uint64_t index = (linear >> shift) & ((1u << m->index_bits) - 1);
    return TABLE(depth) + index * m->entry_bytes;
}

static void put_entry(struct sim *sim, enum paging mode, unsigned int depth, uint64_t linear, uint64_t value) {
    uint64_t at = entry_gpa1(mode, depth, linear);
    if (modes[mode].entry_bytes == 4) {
        sim_write32(sim, at, (uint32_t)value);
    } else {
        sim_write64(sim, at, value);
    }
}

static uint64_t get_entry(struct sim *sim, enum paging mode, unsigned int depth, uint64_t linear) {
    uint64_t at = entry_gpa1(mode, depth, linear);
    return modes[mode].entry_bytes == 4 ? sim_read32(sim, at) : sim_read64(sim, at);
}

/* Tables that map one page at `linear` with these bits in each entry. */
static void build(struct sim *sim, enum paging mode, uint64_t linear, uint64_t gpa1, uint64_t bits) {
    for (unsigned int depth = 0; depth < modes[mode].levels; depth++) {
        bool last = depth + 1 == modes[mode].levels;
        put_entry(sim, mode, depth, linear, (last ? gpa1 : TABLE(depth + 1)) | bits);
    }
}

/* The error code, or -1 if the access succeeded, -2 for anything else. */
static int access_error(struct sim *sim, const struct l1_paging *paging, uint64_t linear, bool write, uint64_t *value,
                        uint64_t *cr2) {
    struct l1_fault fault = {.vector = -1};
    enum l1_access result = write ? l1_linear_write(sim->vcpu, paging, linear, value, 8, &fault)
                                  : l1_linear_read(sim->vcpu, paging, linear, value, 8, &fault);
    *cr2 = fault.cr2;
    if (result == L1_ACCESS_DONE) {
        return -1;
    }
    return result == L1_ACCESS_FAULT && fault.vector == 14 && fault.has_error_code ? (int)fault.error_code : -2;
}

Test(memory, each_paging_mode_translates_and_sets_accessed_and_dirty) {
    for (int mode = BITS32; mode <= LEVELS5; mode++) {
        const uint64_t linear = modes[mode].linear + 0x128;
        struct l1_paging paging = paging_of((enum paging)mode, CR0_WP, 0);
        struct sim *sim = sim_new(NULL);
        uint64_t value = 0, cr2;
        build(sim, (enum paging)mode, linear, PAGE, P | RW);
        sim_write64(sim, PAGE + 0x128, 0x1234);
        cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1, "%s", modes[mode].name);
        cr_expect_eq(value, 0x1234, "%s", modes[mode].name);
        for (unsigned int depth = 0; depth < modes[mode].levels; depth++) {
            cr_expect_eq(get_entry(sim, (enum paging)mode, depth, linear) & 0xfff, P | RW | A, "%s", modes[mode].name);
        }
        value = 0x5678;
        cr_expect_eq(access_error(sim, &paging, linear, true, &value, &cr2), -1, "%s", modes[mode].name);
        cr_expect_eq(sim_read64(sim, PAGE + 0x128), 0x5678, "%s", modes[mode].name);
        for (unsigned int depth = 0; depth < modes[mode].levels; depth++) {
            uint64_t dirty = depth + 1 == modes[mode].levels ? D : 0;
            cr_expect_eq(get_entry(sim, (enum paging)mode, depth, linear) & 0xfff, P | RW | A | dirty, "%s",
                         modes[mode].name);
        }
        sim_free(sim);
    }
}

/* A bit set or cleared in the entry of one depth (from the end: 0 is the last level). */
struct bad_entry {
    enum paging mode;
    unsigned int level; /* 1: last */
    uint64_t set;
    uint64_t clear;
    uint64_t cr0;
    uint64_t cr4;
    bool ac;
    int read; /* error code, or -1 */
    int write;
};

Test(memory, page_faults_and_their_error_codes) {
    static const struct bad_entry rows[] = {
        /* not present, in each table */
        {BITS32, 1, 0, P, 0, 0, false, 0, 2},
        {BITS32, 2, 0, P, 0, 0, false, 0, 2},
        {PAE, 1, 0, P, 0, 0, false, 0, 2},
        {PAE, 2, 0, P, 0, 0, false, 0, 2},
        {LEVELS4, 1, 0, P, 0, 0, false, 0, 2},
        {LEVELS4, 2, 0, P, 0, 0, false, 0, 2},
        {LEVELS4, 3, 0, P, 0, 0, false, 0, 2},
        {LEVELS4, 4, 0, P, 0, 0, false, 0, 2},
        {LEVELS5, 5, 0, P, 0, 0, false, 0, 2},
        /* a bit that would be reserved does not matter there */
        {LEVELS4, 1, UINT64_C(1) << 50, P, 0, 0, false, 0, 2},
        /* write protection counts with CR0.WP, in any table */
        {LEVELS4, 1, 0, RW, 0, 0, false, -1, -1},
        {LEVELS4, 1, 0, RW, CR0_WP, 0, false, -1, 3},
        {LEVELS4, 4, 0, RW, CR0_WP, 0, false, -1, 3},
        {LEVELS5, 5, 0, RW, CR0_WP, 0, false, -1, 3},
        {BITS32, 2, 0, RW, CR0_WP, 0, false, -1, 3},
        {PAE, 2, 0, RW, CR0_WP, 0, false, -1, 3},
        {BITS32, 1, 0, RW, 0, 0, false, -1, -1},
        /* user pages: only with all tables user, SMAP and AC = 0 */
        {LEVELS4, 1, 0, 0, 0, CR4_SMAP, false, 1, 3},
        {LEVELS4, 1, 0, 0, 0, CR4_SMAP, true, -1, -1},
        {LEVELS4, 1, 0, 0, 0, 0, false, -1, -1},
        {LEVELS4, 1, 0, US, 0, CR4_SMAP, false, -1, -1},
        {LEVELS4, 3, 0, US, 0, CR4_SMAP, false, -1, -1},
        {BITS32, 1, 0, 0, 0, CR4_SMAP, false, 1, 3},
        {PAE, 2, 0, US, 0, CR4_SMAP, false, -1, -1},
        /* reserved bits: above the physical-address width (40), PS where there are no such pages */
        {LEVELS4, 1, UINT64_C(1) << 40, 0, 0, 0, false, 9, 11},
        {LEVELS4, 1, UINT64_C(1) << 39, 0, 0, 0, false, -1, -1},
        {LEVELS4, 1, UINT64_C(1) << 51, 0, 0, 0, false, 9, 11},
        {LEVELS4, 1, UINT64_C(1) << 52, 0, 0, 0, false, -1, -1},
        {LEVELS4, 4, UINT64_C(1) << 40, 0, 0, 0, false, 9, 11},
        {LEVELS4, 4, PS, 0, 0, 0, false, 9, 11},
        {LEVELS5, 5, PS, 0, 0, 0, false, 9, 11},
        {LEVELS5, 4, PS, 0, 0, 0, false, 9, 11},
        {LEVELS4, 1, PS, 0, 0, 0, false, -1, -1}, /* PAT */
        {PAE, 1, UINT64_C(1) << 52, 0, 0, 0, false, 9, 11},
        {PAE, 2, UINT64_C(1) << 62, 0, 0, 0, false, 9, 11},
        /* large pages with address bits below their size */
        {LEVELS4, 2, PS, 0, 0, 0, false, 9, 11},
        {LEVELS4, 3, PS, 0, 0, 0, false, 9, 11},
        {PAE, 2, PS | 0x2000, 0, 0, 0, false, 9, 11},
        {BITS32, 2, PS | UINT64_C(1) << 21, 0, 0, CR4_PSE, false, 9, 11},
        /* execute-disable does not concern data */
        {LEVELS4, 1, NX, 0, 0, 0, false, -1, -1},
        {PAE, 2, NX, 0, 0, 0, false, -1, -1},
    };
    for (size_t i = 0; i < COUNT(rows) * 2; i++) {
        const bool write = i % 2 != 0;
        const struct bad_entry *row = &rows[i / 2];
        const uint64_t linear = modes[row->mode].linear + 0x40;
        const unsigned int depth = modes[row->mode].levels - row->level;
        const int want = write ? row->write : row->read;
        struct l1_paging paging = paging_of(row->mode, row->cr0, row->cr4);
        paging.smap_off = row->ac;
        struct sim *sim = sim_new(NULL);
        uint64_t value = 0x77, cr2;
        build(sim, row->mode, linear, PAGE, P | RW | US);
        put_entry(sim, row->mode, depth, linear, (get_entry(sim, row->mode, depth, linear) & ~row->clear) | row->set);
        uint64_t before = get_entry(sim, row->mode, 0, linear);
        int got = access_error(sim, &paging, linear, write, &value, &cr2);
        cr_expect_eq(got, want, "row %zu, %s: %d", i / 2, write ? "write" : "read", got);
        if (want >= 0) {
            cr_expect_eq(cr2, linear, "row %zu", i / 2);
            cr_expect_eq(get_entry(sim, row->mode, 0, linear), before, "row %zu: an entry changed", i / 2);
            cr_expect_eq(sim_read64(sim, PAGE + 0x40), 0, "row %zu: memory changed", i / 2);
        }
        sim_free(sim);
    }
}

/* XD is reserved while EFER.NXE is 0. */
Test(memory, execute_disable_is_reserved_without_nxe) {
    struct l1_paging paging = paging_of(LEVELS4, 0, 0);
    struct sim *sim = sim_new(NULL);
    uint64_t value, cr2;
    build(sim, LEVELS4, modes[LEVELS4].linear, PAGE, P | RW | NX);
    cr_expect_eq(access_error(sim, &paging, modes[LEVELS4].linear, false, &value, &cr2), -1);
    sim_msr(sim, 0xc0000080)->value = 0x500;
    cr_expect_eq(access_error(sim, &paging, modes[LEVELS4].linear, false, &value, &cr2), 9);
    sim_free(sim);
}

/* IA32_PKRS: two bits for each key; key 3 in the entry. */
Test(memory, protection_keys_of_supervisor_pages) {
    static const struct {
        uint64_t cr4;
        uint64_t cr0;
        uint64_t user;
        uint64_t pkrs;
        int read;
        int write;
    } rows[] = {
        {CR4_PKS, CR0_WP, 0, 0, -1, -1},        {CR4_PKS, CR0_WP, 0, 1 << 6, 0x21, 0x23},
        {CR4_PKS, CR0_WP, 0, 2 << 6, -1, 0x23}, {CR4_PKS, 0, 0, 2 << 6, -1, -1},
        {CR4_PKS, 0, 0, 1 << 6, 0x21, 0x23},    {CR4_PKS, CR0_WP, 0, 0xffffff3f, -1, -1},
        {CR4_PKS, CR0_WP, US, 3 << 6, -1, -1},  {0, CR0_WP, 0, 3 << 6, -1, -1},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct l1_paging paging = paging_of(LEVELS4, rows[i].cr0, rows[i].cr4);
        struct sim *sim = sim_new(NULL);
        uint64_t value = 0, cr2;
        const uint64_t linear = modes[LEVELS4].linear;
        build(sim, LEVELS4, linear, PAGE, P | RW | US);
        put_entry(sim, LEVELS4, 3, linear, PAGE | P | RW | rows[i].user | UINT64_C(3) << 59);
        cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2),
                     (rows[i].cr4 && !rows[i].user) ? 0x21 : -1, "row %zu: unreadable", i);
        sim_msr(sim, 0x6e1)->value = rows[i].pkrs;
        cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), rows[i].read, "row %zu", i);
        cr_expect_eq(access_error(sim, &paging, linear, true, &value, &cr2), rows[i].write, "row %zu", i);
        sim_free(sim);
    }
}

Test(memory, large_pages) {
    static const struct {
        enum paging mode;
        unsigned int level;
        uint64_t cr4;
        uint64_t entry;
        uint64_t offset_mask;
        uint64_t base;
    } rows[] = {
        {BITS32, 2, CR4_PSE, 0x800000 | PS, 0x3fffff, 0x800000},
        {PAE, 2, 0, 0x800000 | PS, 0x1fffff, 0x800000},
        {LEVELS4, 2, 0, 0x800000 | PS | 0x1000, 0x1fffff, 0x800000}, /* bit 12 is PAT */
        {LEVELS4, 3, 0, PS, 0x3fffffff, 0},
        {LEVELS5, 3, 0, PS, 0x3fffffff, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        /* An address whose offset in the page stays within the simulated 16 MiB. */
        const uint64_t linear = (modes[rows[i].mode].linear & ~rows[i].offset_mask) | (0x123458 & rows[i].offset_mask);
        const unsigned int depth = modes[rows[i].mode].levels - rows[i].level;
        struct l1_paging paging = paging_of(rows[i].mode, CR0_WP, rows[i].cr4);
        struct sim *sim = sim_new(NULL);
        uint64_t value = 0, cr2;
        build(sim, rows[i].mode, linear, PAGE, P | RW);
        put_entry(sim, rows[i].mode, depth, linear, rows[i].entry | P | RW);
        sim_write64(sim, rows[i].base + 0x123458, 0x99);
        cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1, "row %zu", i);
        cr_expect_eq(value, 0x99, "row %zu", i);
        value = 0x9a;
        cr_expect_eq(access_error(sim, &paging, linear, true, &value, &cr2), -1, "row %zu", i);
        cr_expect_eq(sim_read64(sim, rows[i].base + 0x123458), 0x9a, "row %zu", i);
        cr_expect_eq(get_entry(sim, rows[i].mode, depth, linear), rows[i].entry | P | RW | A | D, "row %zu", i);
        sim_free(sim);
    }
}

/* Without CR4.PSE bit 7 of a page-directory entry means nothing; with it, bits 20:13 are address bits 39:32. */
Test(memory, page_size_extensions_of_32_bit_paging) {
    const uint64_t linear = modes[BITS32].linear + 0x40;
    struct l1_paging paging = paging_of(BITS32, 0, 0);
    struct sim *sim = sim_new(NULL);
    uint64_t value = 0, cr2;
    build(sim, BITS32, linear, PAGE, P | RW);
    put_entry(sim, BITS32, 0, linear, TABLE(1) | P | RW | PS);
    sim_write64(sim, PAGE + 0x40, 0x55);
    cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1);
    cr_expect_eq(value, 0x55);
    paging.cr4 |= CR4_PSE;
    put_entry(sim, BITS32, 0, linear, 0x400000 | 1u << 13 | P | RW | PS);
    cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1);
    cr_expect_eq(value, UINT64_MAX, "there is no memory above 4 GiB");
    sim_ept01(sim, UINT64_C(0x100400000), 0x400000, SIM_HPA_OFFSET + PAGE - (linear & 0x3ff000), 12, NVMX_ACCESS_READ,
              6);
    cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1);
    cr_expect_eq(value, 0x55);
    sim_free(sim);
}

/* -- two pages
 * ------------------------------------------------------------------------------------------------------------------------
 */

Test(memory, an_operand_across_pages) {
    for (int mode = BITS32; mode <= LEVELS5; mode++) {
        const uint64_t linear = modes[mode].linear + 0xffc;
        const unsigned int last = modes[mode].levels - 1;
        struct l1_paging paging = paging_of((enum paging)mode, CR0_WP, 0);
        struct sim *sim = sim_new(NULL);
        uint64_t value = UINT64_C(0x1122334455667788), cr2;
        build(sim, (enum paging)mode, linear, PAGE, P | RW);
        put_entry(sim, (enum paging)mode, last, linear + 0x1000, PAGE2 | P | RW);
        cr_expect_eq(access_error(sim, &paging, linear, true, &value, &cr2), -1, "%s", modes[mode].name);
        cr_expect_eq(sim_read32(sim, PAGE + 0xffc), 0x55667788, "%s", modes[mode].name);
        cr_expect_eq(sim_read32(sim, PAGE2), 0x11223344, "%s", modes[mode].name);
        cr_expect_eq(get_entry(sim, (enum paging)mode, last, linear) & 0xfff, P | RW | A | D, "%s", modes[mode].name);
        cr_expect_eq(get_entry(sim, (enum paging)mode, last, linear + 0x1000) & 0xfff, P | RW | A | D, "%s",
                     modes[mode].name);
        value = 0;
        cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1, "%s", modes[mode].name);
        cr_expect_eq(value, UINT64_C(0x1122334455667788), "%s", modes[mode].name);
        sim_free(sim);
    }
}

/* The second page's fault is found before the first page is touched, and CR2 says where the second begins. */
Test(memory, a_fault_on_the_second_page_changes_nothing) {
    for (int mode = BITS32; mode <= LEVELS5; mode++) {
        const uint64_t linear = modes[mode].linear + 0xffc;
        const unsigned int last = modes[mode].levels - 1;
        struct l1_paging paging = paging_of((enum paging)mode, CR0_WP, 0);
        struct sim *sim = sim_new(NULL);
        uint64_t value = UINT64_MAX, cr2;
        build(sim, (enum paging)mode, linear, PAGE, P | RW);
        put_entry(sim, (enum paging)mode, last, linear + 0x1000, PAGE2 | P);
        cr_expect_eq(access_error(sim, &paging, linear, true, &value, &cr2), 3, "%s", modes[mode].name);
        cr_expect_eq(cr2, modes[mode].linear + 0x1000, "%s", modes[mode].name);
        cr_expect_eq(sim_read32(sim, PAGE + 0xffc), 0, "%s", modes[mode].name);
        cr_expect_eq(get_entry(sim, (enum paging)mode, last, linear) & 0xfff, P | RW, "%s", modes[mode].name);
        sim_free(sim);
    }
}

/* Entries that both pages use are read once: as many pages are mapped as there are different entries, and two for the
 * data. */
Test(memory, each_entry_is_read_once) {
    struct l1_paging paging = paging_of(LEVELS4, CR0_WP, 0);
    struct sim *sim = sim_new(NULL);
    const uint64_t linear = modes[LEVELS4].linear + 0xffc;
    uint64_t value, cr2;
    build(sim, LEVELS4, linear, PAGE, P | RW | A | D);
    put_entry(sim, LEVELS4, 3, linear + 0x1000, PAGE2 | P | RW | A | D);
    sim->count[SIM_MAP_PAGE] = 0;
    cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), -1);
    cr_expect_eq(sim->count[SIM_MAP_PAGE], 5 + 2);
    sim_free(sim);
}

/* Outside 64-bit mode addresses wrap at 4 GiB. */
Test(memory, an_operand_across_4_gib_wraps) {
    struct l1_paging paging = {.cr0 = 0x21};
    struct sim *sim = sim_new(NULL);
    uint64_t value = 0, cr2;
    sim_write64(sim, 0, UINT64_C(0x99887766));
    cr_expect_eq(access_error(sim, &paging, 0xfffffffc, false, &value, &cr2), -1);
    cr_expect_eq(value, UINT64_C(0x99887766ffffffff));
    sim_free(sim);
}

/* -- memory that is not there
 * ------------------------------------------------------------------------------------------------------------ */

Test(memory, without_memory_reads_are_all_ones_and_writes_vanish) {
    struct l1_paging paging = paging_of(LEVELS4, CR0_WP, 0);
    struct sim *sim = sim_new(NULL);
    const uint64_t linear = modes[LEVELS4].linear;
    uint64_t value = 0, cr2;
    build(sim, LEVELS4, linear, SIM_RAM_BYTES, P | RW);
    cr_expect_eq(access_error(sim, &paging, linear + 8, false, &value, &cr2), -1);
    cr_expect_eq(value, UINT64_MAX);
    cr_expect_eq(access_error(sim, &paging, linear + 8, true, &value, &cr2), -1);
    /* A table that is not there holds all ones: present, and all reserved bits set. */
    put_entry(sim, LEVELS4, 1, linear, SIM_RAM_BYTES | P | RW);
    cr_expect_eq(access_error(sim, &paging, linear, false, &value, &cr2), 9);
    sim_free(sim);
}

/* Page tables in read-only memory: the flags are lost, the access is not. */
Test(memory, tables_in_read_only_memory) {
    struct l1_paging paging = paging_of(LEVELS4, CR0_WP, 0);
    struct sim *sim = sim_new(NULL);
    uint64_t value = 0x31, cr2;
    build(sim, LEVELS4, modes[LEVELS4].linear, PAGE, P | RW);
    sim_ept01(sim, TABLE(0), 0x1000 * 4, SIM_HPA_OFFSET + TABLE(0), 12, NVMX_ACCESS_READ, 6);
    cr_expect_eq(access_error(sim, &paging, modes[LEVELS4].linear, true, &value, &cr2), -1);
    cr_expect_eq(sim_read64(sim, PAGE), 0x31);
    cr_expect_eq(get_entry(sim, LEVELS4, 3, modes[LEVELS4].linear), PAGE | P | RW);
    sim_free(sim);
}

/* A table that contains itself: an entry is used on two levels, and its flags change between. L1 executes again, and
 * then it is done. */
Test(memory, recursive_tables_come_to_an_end) {
    struct l1_paging paging = paging_of(LEVELS4, CR0_WP, 0);
    struct sim *sim = sim_new(NULL);
    const uint64_t recursive = UINT64_C(0xfffffffffffff000); /* entry 511 four times */
    uint64_t value = 0, cr2;
    sim_write64(sim, TABLE(0) + 511 * 8, TABLE(0) | P | RW);
    unsigned int tries = 0;
    int got;
    do {
        got = access_error(sim, &paging, recursive, true, &value, &cr2);
    } while (got == -2 && ++tries < 8);
    cr_expect_eq(got, -1);
    cr_expect_eq(sim_read64(sim, TABLE(0) + 511 * 8), TABLE(0) | P | RW | A | D);
    sim_free(sim);
}

/* -- through an instruction
 * -------------------------------------------------------------------------------------------------------------- */

/* #PF of an instruction: vector 14 with its error code in vmcs01, CR2 in the registers. */
Test(memory, a_page_fault_reaches_l1) {
    static const struct {
        bool translate;
        bool queue;
    } rows[] = {{false, false}, {true, false}, {false, true}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim_options options = {.translate = rows[i].translate, .queue_exception = rows[i].queue};
        struct sim *sim = sim_new(&options);
        sim_region(sim, SIM_L1_VMXON);
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        struct seen_outcome got = run(sim, VMPTRST, INFO_DISPLACEMENT64, 0x40000123);
        cr_expect(got.seen == SEEN_FAULT && got.number == 14);
        cr_expect_eq(sim_fault_error_code(sim), 2);
        cr_expect_eq(sim->regs.cr2, 0x40000123);
        if (!rows[i].queue) {
            cr_expect_eq(sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000b0e);
        }
        sim_free(sim);
    }
}

/* PAE paging takes the PDPTEs from vmcs01 where that uses EPT, else from L1's memory. */
Test(memory, pdptes_come_from_vmcs01_or_memory) {
    for (int ept01 = 0; ept01 < 2; ept01++) {
        struct sim *sim = sim_new(NULL);
        const uint64_t linear = modes[PAE].linear;
        sim_region(sim, SIM_L1_VMXON);
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        sim_l1_mode32(sim);
        build(sim, PAE, linear, PAGE, P | RW);
        sim_write64(sim, TABLE(8) + 0x20 + 24, ept01 ? 0 : TABLE(0) | P);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR0, CR0_PG_PE);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, TABLE(8) | 0x20);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, CR4_PAE);
        sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_PDPTE3, ept01 ? TABLE(0) | P : 0);
        if (!ept01) {
            sim_set(sim, NVMX_VMCS01, NVMX_F_SECONDARY_CONTROLS, 0);
        }
        cr_expect_eq(run(sim, VMPTRST, INFO_DISPLACEMENT32, linear).seen, SEEN_SUCCEED, "case %d", ept01);
        cr_expect_eq(sim_read64(sim, PAGE), UINT64_MAX, "case %d", ept01);
        struct seen_outcome other = run(sim, VMPTRST, INFO_DISPLACEMENT32, linear & 0x3fffffff);
        cr_expect(other.seen == SEEN_FAULT && other.number == 14, "case %d", ept01);
        sim_free(sim);
    }
}

/* Whether vmcs01 uses EPT its own controls say, on a processor without any other secondary control too. */
Test(memory, pdptes_on_a_processor_with_ept_alone) {
    struct sim *sim = sim_new(NULL);
    struct l1_paging paging = {.cr0 = CR0_PG_PE, .cr3 = TABLE(8), .cr4 = CR4_PAE};
    sim->vcpu->vm->machine.msr[NVMX_CAP_PROCBASED2] = UINT64_C(1) << 33;
    for (unsigned int i = 0; i < 4; i++) {
        sim_set(sim, NVMX_VMCS01, (enum nvmx_field)(NVMX_F_GUEST_PDPTE0 + i), 0x1001 + i * 0x1000);
    }
    cr_assert_eq(l1_paging_pdptes(sim->vcpu, &paging), NVMX_OK);
    for (unsigned int i = 0; i < 4; i++) {
        cr_expect_eq(paging.pdpte[i], 0x1001 + i * 0x1000);
    }
    sim_free(sim);
}

/* A 16-byte descriptor across pages, as INVEPT reads it. */
Test(memory, a_descriptor_across_pages) {
    for (uint64_t offset = 0xff0; offset <= 0x1000; offset++) {
        struct sim *sim = sim_new(NULL);
        const uint64_t descriptor[2] = {0x10001e, 0};
        sim_region(sim, SIM_L1_VMXON);
        cr_assert_eq(sim_vmxon(sim, SIM_L1_VMXON), SIM_SUCCEED);
        sim_write(sim, PAGE + offset, descriptor, sizeof(descriptor));
        sim->regs.gpr[NVMX_RAX] = 1;
        cr_expect_eq(run(sim, INVEPT, INFO_DISPLACEMENT64 | INFO_REG2(NVMX_RAX), PAGE + offset).seen, SEEN_SUCCEED);
        sim_free(sim);
    }
}
