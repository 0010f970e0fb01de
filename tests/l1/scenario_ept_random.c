/* SPDX-License-Identifier: MIT */
/*
 * EPT at random: L1 changes entries of three levels (rights, sizes, memory types, misconfigurations, flags cleared), executes INVEPT, and L2 reads, writes or
 * fetches. What the processor says about each access, what it reached, and the accessed and dirty flags that it left go into a digest. Nothing is
 * expected here: the report on nvmx must be that of the processor.
 */
#include "scenarios.h"

#include "cpu.h"

enum { BATCH = 100, SHORT = 2000, FULL = 20000 };
enum { REGIONS = 4, PAGES = 8, FRAMES = 16 };
#define INVEPT_BOTH     (1u << 20 | 1u << 25 | 1u << 26)
#define ACCESSED_DIRTY  (1u << 21)

/* RBX: the address. A page that L2 jumps to begins with VMCALL as well. */
DEFINE_L2_CODE(random_read, "mov 8(%rbx), %rax\n vmcall\n");
DEFINE_L2_CODE(random_write, "mov %rax, 16(%rbx)\n vmcall\n");
DEFINE_L2_CODE(random_fetch, "jmp *%rbx\n");

static const uint16_t page_index[PAGES] = {0, 1, 2, 3, 5, 8, 15, 511};

static uint64_t random_state;
static uint64_t digest;
static bool flags_on;

static uint32_t below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 20) % limit;
}

static void note(uint64_t value) {
    digest = (digest ^ value ^ value >> 31) * 0x9e3779b185ebca87ul;
}

static uint64_t region_gpa2(uint32_t region) {
    return L2_HOLE + ((uint64_t)region << 21);
}

static uint64_t tables[REGIONS][512] __attribute__((aligned(4096)));

/* Sub-page write permissions, in the runs that have them: L2 then accesses any of a page's 32 sub-pages. */
enum { SUB_PAGES = 32 };
static bool spp_on;
static uint64_t sppt4[512] __attribute__((aligned(4096)));
static uint64_t sppt3[512] __attribute__((aligned(4096)));
static uint64_t sppt2[512] __attribute__((aligned(4096)));
static uint64_t sppt1[REGIONS][512] __attribute__((aligned(4096)));

static uint64_t some_rights(void) {
    static const uint8_t rights[16] = {7, 7, 7, 7, 7, 7, 7, 5, 3, 1, 4, 0, 2, 6, 7, 5};
    uint64_t some = rights[below(16)];
    /* Where reading is not permitted, Bochs 2.7 lets a writable sub-page be written all the same (strict.spp). */
    return spp_on && some == EPT_EXECUTE ? EPT_EXECUTE | EPT_READ : some;
}

/* Bits that no walk looks at. */
static uint64_t ignored_bits(void) {
    return (uint64_t)below(2) << 11 | (uint64_t)below(64) << 52;
}

static uint64_t some_leaf(uint32_t level) {
    static const uint8_t types[16] = {6, 6, 6, 6, 6, 6, 6, 6, 0, 1, 4, 5, 2, 3, 7, 6};
    uint64_t address = (uint64_t)large_page + (level == EPT_LEVEL_4K ? (uint64_t)below(FRAMES) << 12 : 0);
    uint64_t entry = address | some_rights() | (uint64_t)types[below(16)] << 3 | (uint64_t)below(2) << 6 | ignored_bits();
    if (spp_on && below(3) != 0) {
        entry &= ~(uint64_t)(below(4) != 0 ? EPT_WRITE : 0);
        entry |= 1ul << 61 | ((entry & EPT_ALL) == EPT_EXECUTE ? EPT_READ : 0); /* in a large page bit 61 means nothing */
    }
    return level > EPT_LEVEL_4K ? entry | EPT_LARGE : entry;
}

/* Misconfigurations of any entry: reserved bits of a reference, address bits beyond the processor's width. */
static uint64_t spoil(uint64_t entry, bool reference) {
    if (below(24) == 0) {
        entry |= 1ul << 51;
    }
    if (reference && below(24) == 0) {
        entry |= 8ul << below(4);
    }
    return entry;
}

/* Odd bits: strict.spp. */
static uint64_t some_vector(void) {
    uint64_t vector = ((uint64_t)below(1u << 20) << 44 | (uint64_t)below(1u << 24) << 20 | below(1u << 20)) & 0x5555555555555555;

    switch (below(8)) {
    case 0:
        return 0;
    case 1:
    case 2:
        return 0x5555555555555555;
    default:
        return vector;
    }
}

/* An entry of the upper levels: a miss, a misconfiguration, or good. */
static uint64_t some_sppt_entry(const uint64_t *table) {
    uint64_t entry = (uint64_t)table | (below(6) != 0);

    return below(12) == 0 ? entry | (below(2) != 0 ? 2ul << below(11) : 1ul << (51 + below(13))) : entry;
}

static void change_sppt(void) {
    uint32_t region = below(REGIONS);

    switch (below(16)) {
    case 0:
        sppt4[0] = some_sppt_entry(sppt3);
        break;
    case 1:
        sppt3[1] = some_sppt_entry(sppt2);
        break;
    case 2:
    case 3:
        sppt4[0] = (uint64_t)sppt3 | 1;
        sppt3[1] = (uint64_t)sppt2 | 1;
        break;
    case 4:
    case 5:
    case 6:
        sppt2[region] = some_sppt_entry(sppt1[region]);
        break;
    default:
        sppt1[region][page_index[below(PAGES)]] = some_vector();
        break;
    }
}

static void change(void) {
    if (spp_on && below(3) == 0) {
        change_sppt();
        return;
    }
    uint32_t region = below(REGIONS);
    uint64_t *pde = ept_entry(L2_HOLE, EPT_LEVEL_2M) + region;
    uint64_t *pte = &tables[region][page_index[below(PAGES)]];

    switch (below(12)) {
    case 0:
        *pde = spoil(some_leaf(EPT_LEVEL_2M), false);
        break;
    case 1:
    case 2:
    case 3:
        *pde = spoil((uint64_t)tables[region] | (below(3) == 0 ? some_rights() : EPT_ALL) | ignored_bits(), true);
        break;
    case 4: /* the PDPTE: rights only, so that the tables below stay where they are */
    {
        uint64_t *pdpte = ept_entry(L2_HOLE, EPT_LEVEL_1G);
        *pdpte = (*pdpte & ~7ul) | (below(3) == 0 ? 1 + 2 * below(4) : EPT_ALL);
        break;
    }
    case 5:
        *pte &= ~(EPT_ACCESSED | EPT_DIRTY);
        *pde &= ~(EPT_ACCESSED | EPT_DIRTY);
        break;
    default:
        *pte = spoil(some_leaf(EPT_LEVEL_4K), false);
        break;
    }
}

static void invalidate(void) {
    const uint64_t descriptor[2] = {vmread(EPT_POINTER), 0};
    vmx_invept(below(2) != 0 ? 1 : 2, descriptor);
}

static void note_tables(void) {
    note(*ept_entry(L2_HOLE, EPT_LEVEL_512G) & 0xfff);
    note(*ept_entry(L2_HOLE, EPT_LEVEL_1G) & 0xfff);
    for (uint32_t region = 0; region < REGIONS; region++) {
        note(ept_entry(L2_HOLE, EPT_LEVEL_2M)[region] & 0xfff);
        for (uint32_t page = 0; page < PAGES; page++) {
            note(tables[region][page_index[page]] & 0xfff);
        }
    }
}

/* False: the run can't go on. */
static bool one_access(struct l2 *l2, uint32_t counts[4]) {
    static const uint8_t *const codes[4] = {l2_random_read, l2_random_read, l2_random_write, l2_random_fetch};
    const uint8_t *code = codes[below(4)];
    uint64_t gpa2 = region_gpa2(below(REGIONS)) + ((uint64_t)page_index[below(PAGES)] << 12);
    gpa2 += spp_on ? below(SUB_PAGES) * 128 : 0;

    vmwrite(GUEST_RIP, l2_address(code));
    l2->base = l2_address(code);
    l2->regs.gpr[RBX] = gpa2;
    l2->regs.gpr[RAX] = random_state;
    if (!l2_run(l2)) {
        return false;
    }
    note(l2->exit.reason);
    note(l2->exit.qualification);
    note(l2->exit.linear);
    note(l2->exit.physical);
    note((uint64_t)l2->exit.rip);
    note(l2->regs.gpr[RAX]);
    note_tables();
    switch (l2->exit.reason) {
    case REASON_VMCALL:
        counts[0]++;
        return true;
    case REASON_EPT_VIOLATION:
        counts[1]++;
        return true;
    case REASON_EPT_MISCONFIG:
        counts[2]++;
        return true;
    case REASON_SPP:
        counts[3]++;
        return true;
    default:
        step("exit", false, "reason %u, qualification %lx", l2->exit.reason, l2->exit.qualification);
        return false;
    }
}

/* What L2 has written, and where. */
static void note_memory(void) {
    for (uint32_t page = 0; page < 512; page++) {
        for (uint32_t sub_page = 0; sub_page < (spp_on ? SUB_PAGES : 1); sub_page++) {
            note(*(const uint64_t *)(large_page + ((uint64_t)page << 12) + 128 * sub_page + 16));
        }
    }
}

static void prepare(void) {
    random_state = 0x9e3779b97f4a7c15ul;
    digest = 1;
    flags_on = false;
    memset(tables, 0, sizeof tables);
    memset(large_page, 0, sizeof large_page);
    for (uint32_t page = 0; page < 512 * SUB_PAGES; page++) {
        uint8_t *at = large_page + ((uint64_t)page << 7);
        at[0] = 0x0f; /* VMCALL */
        at[1] = 0x01;
        at[2] = 0xc1;
        *(uint64_t *)(at + 8) = 0x1000 + page;
    }
    for (uint32_t region = 0; region < REGIONS; region++) {
        ept_entry(L2_HOLE, EPT_LEVEL_2M)[region] = (uint64_t)tables[region] | EPT_ALL;
        for (uint32_t page = 0; page < PAGES; page++) {
            tables[region][page_index[page]] = some_leaf(EPT_LEVEL_4K);
        }
    }
    sppt4[0] = (uint64_t)sppt3 | 1;
    sppt3[1] = (uint64_t)sppt2 | 1;
    for (uint32_t region = 0; region < REGIONS; region++) {
        sppt2[region] = (uint64_t)sppt1[region] | 1;
        for (uint32_t page = 0; page < PAGES; page++) {
            sppt1[region][page_index[page]] = some_vector();
        }
    }
    invalidate();
}

static void accesses(struct l2 *l2, uint32_t count) {
    prepare();
    for (uint32_t done = 0; done < count; done += BATCH) {
        uint32_t counts[4] = {0, 0, 0, 0};

        if ((cap.ept_vpid & ACCESSED_DIRTY) != 0 && below(3) == 0) {
            flags_on = !flags_on;
            vmwrite(EPT_POINTER, ept_pointer() | (flags_on ? 1ul << 6 : 0));
            invalidate();
        }
        for (uint32_t i = 0; i < BATCH; i++) {
            if (below(3) == 0) {
                for (uint32_t changes = 1 + below(3); changes != 0; changes--) {
                    change();
                }
                invalidate();
            }
            if (!one_access(l2, counts)) {
                return;
            }
        }
        note_memory();
        step("batch", true, "flags %u: done %u, violations %u, misconfigurations %u, SPP-related events %u, digest %lx", (uint32_t)flags_on,
             counts[0], counts[1], counts[2], counts[3], digest);
    }
}

static void short_spp(struct l2 *l2) {
    spp_on = true;
    vmwrite(SPP_TABLE_POINTER, (uint64_t)sppt4);
    accesses(l2, SHORT);
    spp_on = false;
}

static void full_spp(struct l2 *l2) {
    spp_on = true;
    vmwrite(SPP_TABLE_POINTER, (uint64_t)sppt4);
    accesses(l2, FULL);
    spp_on = false;
}

static void short_run(struct l2 *l2) {
    accesses(l2, SHORT);
}

static void full_run(struct l2 *l2) {
    accesses(l2, FULL);
}

static const struct scenario table[] = {
    SCENARIO_BODY("ept.random", random_read, short_run, .ept_vpid = INVEPT_BOTH | 1u << 16 | 1u),
    SCENARIO_BODY("ept.random_spp", random_read, short_spp, .on = {.proc2 = PROC2_EPT | PROC2_SPP},
                  .ept_vpid = INVEPT_BOTH | 1u << 16 | 1u),
    SCENARIO_BODY("eptrandom.full_spp", random_read, full_spp, .on = {.proc2 = PROC2_EPT | PROC2_SPP},
                  .ept_vpid = INVEPT_BOTH | 1u << 16 | 1u, .only_by_name = true),
    SCENARIO_BODY("eptrandom.full", random_read, full_run, .ept_vpid = INVEPT_BOTH | 1u << 16 | 1u, .only_by_name = true),
};

DEFINE_SCENARIOS(ept_random, table);
