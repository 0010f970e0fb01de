/* SPDX-License-Identifier: MIT */
/* Single rules of the composition, each with the smallest tables that show it. */
#include "ept_simple.h"

#include <stdlib.h>
#include <string.h>

/* Hardware's qualification and capabilities -> L1's. */
struct qualification_row {
    const char *id;
    uint64_t caps, eptp12, leaf12, hardware, expected;
};

static const struct qualification_row qualification_rows[] = {
    {"bit 0", 0, EPTP12, 0, 0x181, 0x181},
    {"bit 1", 0, EPTP12, 0x31, 0x182, 0x18a},
    {"bits 1 and 0", 0, EPTP12, 0x31, 0x183, 0x18b},
    {"bit 2", 0, EPTP12, 0x33, 0x184, 0x19c},
    {"bits 3 and 5", 0, EPTP12, 0x35, 0x182, 0x1aa},
    {"bit 5", 0, EPTP12, 0x34, 0x181, 0x1a1},
    {"bits 5:3 of ept02 are not L1's", 0, EPTP12, 0x31, 0x1ba, 0x18a},
    {"not present clears bits 5:3", 0, EPTP12, 0, 0x1b9, 0x181},
    {"bit 6 of ept02 is not L1's", 0, EPTP12, 0, 0x1c1, 0x181},
    {"bit 7 clear: bit 8 is clear too", 0, EPTP12, 0, 0x101, 0x001},
    {"bit 8 clear: paging structure", 0, EPTP12, 0, 0x081, 0x081},
    {"paging structure, write", 0, EPTP12, 0x31, 0x082, 0x08a},
    {"paging structure counts as a write", WORLD_CAPS_AD, EPTP12_AD, 0x31, 0x081, 0x08b},
    {"advanced information", WORLD_CAPS_ADVANCED, EPTP12, 0, 0xf81, 0xf81},
    {"advanced information, bit 9", WORLD_CAPS_ADVANCED, EPTP12, 0, 0x381, 0x381},
    {"advanced information, bit 10", WORLD_CAPS_ADVANCED, EPTP12, 0, 0x581, 0x581},
    {"advanced information, bit 11", WORLD_CAPS_ADVANCED, EPTP12, 0, 0x981, 0x981},
    {"advanced information not offered", 0, EPTP12, 0, 0xf81, 0x181},
    {"no advanced information about paging structures", WORLD_CAPS_ADVANCED, EPTP12, 0, 0xe81, 0x081},
    {"NMI unblocking", 0, EPTP12, 0, 0x1181, 0x1181},
    {"asynchronous", 0, EPTP12, 0, 0x10001, 0x10001},
    {"undefined bits", 0, EPTP12, 0, ~UINT64_C(0x1ffff) | 0xe181, 0x181},
};

Test(ept, qualification_bit_by_bit) {
    for (size_t i = 0; i < sizeof(qualification_rows) / sizeof(qualification_rows[0]); i++) {
        const struct qualification_row *row = &qualification_rows[i];
        struct world *w = simple(WORLD_CAPS_PLAIN | row->caps, 0);
        struct nvmx_ept_fault fault;

        w->l1[3][5] = row->leaf12;
        cr_expect_eq(fault_at(w, row->eptp12, GPA2, row->hardware, &fault), NVMX_EPT_L1_VIOLATION, "%s", row->id);
        cr_expect_eq(fault.qualification, row->expected, "%s: %#llx", row->id, (unsigned long long)fault.qualification);
        world_delete(w);
    }
}

/* Bits 5:3 are the AND over all entries that were used. */
Test(ept, qualification_has_rights_of_all_levels) {
    for (unsigned int level = 1; level <= 4; level++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_fault fault;

        w->l1[4 - level][level == 1 ? 5 : 0] &= ~NVMX_EPT_WRITE;
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x1aa, "level %u", level);
        w->l1[4 - level][level == 1 ? 5 : 0] = 0;
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x182, "level %u", level);
        world_delete(w);
    }
}

/* With mode-based execute control bits 5 and 6, and which of them a fetch needs. */
Test(ept, mbec_tells_modes_apart) {
    for (unsigned int advanced = 0; advanced < 2; advanced++) {
        struct world *w = simple(WORLD_CAPS_PLAIN | (advanced != 0 ? WORLD_CAPS_ADVANCED : 0), 0);
        struct world_access user = {.kind = 4, .linear = true, .user = true};
        struct nvmx_ept_fault fault;

        w->mbec = true;
        w->l1[3][5] = 0x5037 | 0x400;
        w->l1[3][6] = 0x6037; /* supervisor only */
        w->l1[3][7] = 0x7433; /* user only */
        w->l1[3][8] = 0x8033; /* neither */
        w->l1[3][9] = 0x9430; /* user-execute-only */
        cr_expect(touch(w, EPTP12, 0x5000, &user) <= 1);
        cr_expect(touch(w, EPTP12, 0x5000, &fetching) == 0);
        cr_expect(touch(w, EPTP12, 0x6000, &fetching) <= 1);
        cr_expect(touch(w, EPTP12, 0x7000, &user) <= 1);
        cr_expect(touch(w, EPTP12, 0x9000, &user) <= 1);
        cr_expect_eq(fault_at(w, EPTP12, 0x6000, 0x1bc | (advanced != 0 ? 0x200 : 0), &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x1bc | (advanced != 0 ? 0x200 : 0));
        cr_expect_eq(fault_at(w, EPTP12, 0x7000, 0x1dc, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x1dc);
        cr_expect_eq(fault_at(w, EPTP12, 0x8000, 0x184, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x19c);
        cr_expect_eq(fault_at(w, EPTP12, 0x9000, 0x181, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, 0x1c1);
        world_delete(w);
    }
}

Test(ept, gpa2_beyond_48_bits_is_a_violation) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    cr_expect_eq(fault_at(w, EPTP12, GPA2 | UINT64_C(1) << 48, 0x181, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, 0x181);
    world_delete(w);
}

Test(ept, misconfiguration_at_each_level_ranks_before_rights) {
    for (unsigned int level = 1; level <= 4; level++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_fault fault;

        w->l1[0][0] &= ~NVMX_EPT_WRITE;
        w->l1[4 - level][level == 1 ? 5 : 0] |= UINT64_C(1) << 45;
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_L1_MISCONFIG, "level %u", level);
        cr_expect_eq(fault.qualification, 0);
        world_delete(w);
    }
}

Test(ept, table_outside_memory_is_a_misconfiguration) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    w->l1[2][0] = 0x40000407;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_L1_MISCONFIG);
    world_delete(w);
}

Test(ept, host_faults_name_gpa1) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    world_set01(w, 512 + 5, 1, 0, 6, false, 12);
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_HOST_FAULT);
    cr_expect_eq(fault.gpa1, 0x205123);
    world_set01(w, 512 + 5, 1, 5, 6, false, 12);
    cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x18a, &fault), NVMX_EPT_HOST_FAULT);
    cr_expect_eq(look(w, EPTP12, GPA2).rights & 7, 5);
    world_delete(w);
}

Test(ept, failures_of_the_host_change_nothing) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    root_of(w, 0, EPTP12);
    w->fail_percent = 100;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_NO_MEMORY);
    w->fail_percent = 0;
    w->lookup_status = NVMX_E_HOST;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_HOST);
    w->lookup_status = NVMX_OK;
    cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
    world_delete(w);
}

Test(ept, misconfiguration_of_ept02_itself_is_the_hosts) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .misconfiguration = true};
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &reading);
    cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_FAILED);
    cr_expect_eq(fault.status, NVMX_E_HOST);
    world_delete(w);
}

/* Sizes: of ept12, of ept01, of the machine, and what ept02 should use; seen in how many faults two pages of the same
 * 2M take. */
struct size_row {
    const char *id;
    uint64_t without;
    unsigned int level12;
    uint8_t shift01;
    unsigned int level02;
};

static const struct size_row size_rows[] = {
    {"4K in 4K", 0, 1, 12, 1},
    {"4K in 2M", 0, 1, 21, 1},
    {"4K in 1G", 0, 1, 30, 1},
    {"2M in 4K", 0, 2, 12, 1},
    {"2M in 2M", 0, 2, 21, 2},
    {"2M in 1G", 0, 2, 30, 2},
    {"1G in 4K", 0, 3, 12, 1},
    {"1G in 2M", 0, 3, 21, 2},
    {"1G in 1G", 0, 3, 30, 3},
    {"1G in 1G, machine without 1G", 1u << 17, 3, 30, 2},
    {"1G in 1G, machine without large pages", 3u << 16, 3, 30, 1},
    {"2M in 2M, machine without 2M", 1u << 16, 2, 21, 1},
};

Test(ept, large_pages_are_kept_where_all_allow) {
    for (size_t i = 0; i < sizeof(size_rows) / sizeof(size_rows[0]); i++) {
        const struct size_row *row = &size_rows[i];
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_config config = {.size = sizeof(config), .l1 = &w->l1_caps, .machine = &w->machine};
        struct world_translation t;
        unsigned int level;

        w->machine.msr[NVMX_CAP_EPT_VPID] &= ~row->without;
        cr_assert_eq(nvmx_ept_init(w->memory, nvmx_ept_size(), &w->host, w, &config, &w->ept), NVMX_OK);
        world_set01(w, 1u << 18, 1u << 18, 7, 6, false, row->shift01);
        if (row->level12 == 3) {
            w->l1[1][0] = 1u << 30 | 0xb7;
        } else if (row->level12 == 2) {
            w->l1[2][0] = 1u << 30 | 0xb7;
        } else {
            w->l1[3][5] = 1u << 30 | 0x5037;
        }
        cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
        t = look(w, EPTP12, GPA2);
        cr_expect_eq(t.hpa & (WORLD_PFNS - 1), (1u << 18) + 5);
        for (level = 1; t.table[level] == 0; level++) {
        }
        cr_expect_eq(level, row->level02, "%s: level %u", row->id, level);
        world_delete(w);
    }
}

Test(ept, large_page_is_split_and_merged_as_ept01_changes) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint32_t pages;

    w->l1[2][1] = 0x4000b7 | 0x400; /* 2M at gpa1 4M */
    touch(w, EPTP12, 0x200000, &writing);
    cr_expect(look(w, EPTP12, 0x3ff000).valid);
    pages = nvmx_ept_pages(w->ept);
    world_set01(w, 1024, 512, 7, 6, false, 12);
    cr_expect(!look(w, EPTP12, 0x200000).valid);
    touch(w, EPTP12, 0x200000, &writing);
    cr_expect(!look(w, EPTP12, 0x3ff000).valid);
    cr_expect_eq(nvmx_ept_pages(w->ept), pages + 2);
    world_set01(w, 1024 + 7, 1, 1, 6, false, 12);
    cr_expect(look(w, EPTP12, 0x200000).valid, "a changed page takes no other with it");
    world_set01(w, 1024, 512, 7, 6, false, 21);
    touch(w, EPTP12, 0x207000, &writing);
    cr_expect(look(w, EPTP12, 0x3ff000).valid);
    cr_expect_eq(nvmx_ept_pages(w->ept), pages);
    world_delete(w);
}

/* The type of ept02: ept01's type and ignore-PAT, ept12's. */
static const struct {
    uint8_t type01;
    bool ignore01;
    uint64_t bits12, bits02; /* bits 6:3 of the entries */
} type_rows[] = {
    {6, false, 6, 6}, {6, false, 0, 0}, {6, false, 1, 1}, {6, false, 4, 4}, {6, false, 5, 5},  {6, false, 14, 14},
    {0, false, 6, 0}, {0, false, 0, 0}, {0, false, 1, 1}, {0, false, 4, 0}, {0, false, 14, 8}, {1, false, 6, 1},
    {4, false, 6, 4}, {5, false, 6, 5}, {4, false, 5, 5}, {5, false, 4, 4}, {6, true, 0, 14},  {0, true, 6, 8},
};

Test(ept, memory_types_combine) {
    for (size_t i = 0; i < sizeof(type_rows) / sizeof(type_rows[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);

        world_set01(w, 512 + 5, 1, 7, type_rows[i].type01, type_rows[i].ignore01, 12);
        w->l1[3][5] = 0x205007 | type_rows[i].bits12 << 3;
        touch(w, EPTP12, GPA2, &reading);
        cr_expect_eq(look(w, EPTP12, GPA2).type, type_rows[i].bits02, "row %zu: %llu", i,
                     (unsigned long long)look(w, EPTP12, GPA2).type);
        world_delete(w);
    }
}

Test(ept, eptp02_says_how_to_walk) {
    struct world *w = simple(AD_CAPS | 1u << 7, 0);

    cr_expect_eq(root_of(w, 0, EPTP12) & 0xfff, 0x1e);
    cr_expect_eq(root_of(w, 0, EPTP12_AD) & 0xfff, 0x5e);
    cr_expect_eq(root_of(w, 0, EPTP12 + 8) & 0xfff, 0x26);
    cr_expect_eq(root_of(w, 0, EPTP12 & ~UINT64_C(7)) & 0xfff, 0x1e,
                 "L1's UC tables are still write-back tables of ept02");
    world_delete(w);
}

Test(ept, roots_are_kept_and_shared) {
    struct world *w = simple(AD_CAPS, 0);
    uint64_t first = root_of(w, 0, EPTP12);
    uint64_t other;

    touch(w, EPTP12, GPA2, &reading);
    other = root_of(w, 0, 0x4000 | EPTP12);
    cr_expect_neq(first, other);
    cr_expect_neq(root_of(w, 2, EPTP12_AD) & ~UINT64_C(0xfff), first & ~UINT64_C(0xfff), "A/D flags are another tree");
    cr_expect_eq(root_of(w, 1, EPTP12), first);
    nvmx_ept_release(w->ept, &w, 1);
    cr_expect_eq(root_of(w, 255, EPTP12), first);
    cr_expect(look(w, EPTP12, GPA2).valid);
    cr_expect_eq(w->flushes, 0);
    world_delete(w);
}

Test(ept, many_roots_stay_bounded) {
    struct world *w = simple(AD_CAPS, 0);
    uint32_t most = 0;

    for (uint64_t i = 0; i < 1000; i++) {
        root_of(w, 0, i << 12 | EPTP12);
        most = nvmx_ept_pages(w->ept) > most ? nvmx_ept_pages(w->ept) : most;
    }
    cr_expect(most < 50, "%u pages", most);
    for (unsigned int user = 0; user < 256; user++) {
        root_of(w, user, (uint64_t)user << 12 | EPTP12); /* all in use: none may go */
    }
    for (unsigned int user = 0; user < 256; user++) {
        struct world_translation t;

        world_walk02(w, root_of(w, user, (uint64_t)user << 12 | EPTP12), GPA2, &t);
    }
    world_delete(w);
}

/* Of the roots that nobody uses some are kept, and no more: pages grow with the first ones, and then not at all. Also where many users were. */
Test(ept, idle_roots_are_few) {
    enum { IDLE_MAX = 16, USERS = 100 };
    struct world *w = simple(AD_CAPS, 0);
    uint32_t before = 0, grew = 0;

    for (uint64_t i = 0; i < 400; i++) {
        root_of(w, 0, i << 12 | EPTP12);
        grew = nvmx_ept_pages(w->ept) > before ? (uint32_t)i + 1 : grew;
        before = nvmx_ept_pages(w->ept);
    }
    cr_expect_eq(grew, IDLE_MAX + 1, "the %uth root still took pages", grew);
    for (unsigned int user = 0; user < USERS; user++) {
        root_of(w, user, (uint64_t)(400 + user) << 12 | EPTP12);
    }
    before = nvmx_ept_pages(w->ept);
    for (unsigned int user = 1; user < USERS; user++) {
        nvmx_ept_release(w->ept, &w, user);
    }
    for (uint64_t i = 0; i < 400; i++) {
        root_of(w, 0, (600 + i) << 12 | EPTP12);
    }
    cr_expect(nvmx_ept_pages(w->ept) <= before, "%u pages, %u before", nvmx_ept_pages(w->ept), before);
    world_delete(w);
}

Test(ept, invept_keeps_what_did_not_change) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    for (uint64_t i = 0; i < 512; i++) {
        touch(w, EPTP12, i << 12, &reading);
    }
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    w->l1[3][7] = 0x300437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12 & ~UINT64_C(0xfff));
    for (uint64_t i = 0; i < 512; i++) {
        cr_expect_eq(look(w, EPTP12, i << 12).valid, i != 7, "page %u", (unsigned int)i);
    }
    cr_expect_eq(touch(w, EPTP12, 7 << 12, &reading), 1);
    cr_expect_eq(look(w, EPTP12, 7 << 12).hpa & (WORLD_PFNS - 1), 0x300);
    w->l1[1][0] = 0x10407; /* elsewhere */
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect(!look(w, EPTP12, 0).valid);
    world_delete(w);
}

Test(ept, invept_of_another_eptp_leaves_this_alone) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    touch(w, EPTP12, GPA2, &reading);
    w->l1[3][5] = 0;
    nvmx_ept_invept(w->ept, &w, false, 0x9000 | EPTP12);
    cr_expect(look(w, EPTP12, GPA2).valid);
    cr_expect_eq(w->flushes, 0);
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    cr_expect_eq(w->flushes, 2, "here by INVEPT, everywhere by what changed");
    world_delete(w);
}

Test(ept, invept_always_flushes_what_is_in_use) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    touch(w, EPTP12, GPA2, &reading);
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect_eq(w->flushes, 1, "combined mappings hold L2's own page tables");
    cr_expect(look(w, EPTP12, GPA2).valid);
    world_delete(w);
}

Test(ept, idle_root_is_compared_when_used_again) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t eptp02;
    struct world_translation t;
    uint32_t maps;

    touch(w, EPTP12, GPA2, &reading);
    touch(w, EPTP12, 0x6000, &reading);
    nvmx_ept_release(w->ept, &w, 0);
    maps = w->maps;
    w->l1[3][5] = 0;
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect_eq(w->maps, maps, "nothing is read while nobody uses it");
    eptp02 = root_of(w, 0, EPTP12);
    cr_expect(!world_walk02(w, eptp02, GPA2, &t));
    cr_expect(world_walk02(w, eptp02, 0x6000, &t));
    cr_expect_eq(w->flushes, 2, "here by INVEPT, everywhere by what changed");
    world_delete(w);
}

Test(ept, invepts_in_a_row_are_compared_once_before_the_next_entry) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint32_t maps;

    touch(w, EPTP12, GPA2, &reading);
    maps = w->maps;
    cr_expect(nvmx_ept_ready(w->ept, 0));
    for (unsigned int i = 0; i < 5; i++) {
        nvmx_ept_invept(w->ept, &w, i % 2 == 0, EPTP12);
        cr_expect(!nvmx_ept_ready(w->ept, 0));
    }
    cr_expect_eq(w->maps, maps, "nothing is read before L2 runs again");
    root_of(w, 0, EPTP12);
    cr_expect(nvmx_ept_ready(w->ept, 0));
    cr_expect_eq(w->maps, maps + 4, "each table of ept12 is read once");
    cr_expect(!nvmx_ept_ready(w->ept, 1));
    cr_expect(!nvmx_ept_ready(w->ept, 256));
    nvmx_ept_release(w->ept, &w, 256); /* no user */
    cr_expect_eq(root_of(w, 1, EPTP12), root_of(w, 0, EPTP12));
    world_delete(w);
}

/* INVEPT is of one processor: the others' translations stay until they execute it, or something was taken out. */
Test(ept, invept_flushes_its_own_processor) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t eptp02 = root_of(w, 0, EPTP12);
    uint64_t hpa, type, qualification;

    touch(w, EPTP12, GPA2, &reading);
    cr_assert(world_cpu(w, 1, eptp02, GPA2, &reading, &hpa, &type, &qualification));
    w->vcpu = 1;
    nvmx_ept_invept(w->ept, &w, true, 0);
    w->vcpu = 0;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_assert(world_cpu(w, 1, eptp02, GPA2, &reading, &hpa, &type, &qualification));
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_expect(w->tlb[1][5].valid);
    w->l1[3][5] = 0;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    root_of(w, 0, EPTP12);
    cr_expect(!w->tlb[1][5].valid);
    world_delete(w);
}

/* Of a root that nobody uses a processor may still have translations. */
Test(ept, idle_root_is_flushed_even_if_nothing_changed) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    touch(w, EPTP12, GPA2, &reading);
    nvmx_ept_release(w->ept, &w, 0);
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect_eq(w->flushes, 1);
    cr_expect(look(w, EPTP12, GPA2).valid);
    cr_expect_eq(w->flushes, 1);
    look(w, EPTP12, GPA2);
    cr_expect_eq(w->flushes, 1);
    world_delete(w);
}

Test(ept, fault_on_an_idle_root_trusts_nothing_invalidated) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = 0x6000, .qualification = 0x181};
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &reading);
    nvmx_ept_release(w->ept, &w, 0);
    w->l1[2][0] = 0;
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect_eq(nvmx_ept_fault(w->ept, &w, &access, &fault), NVMX_EPT_L1_VIOLATION);
    world_delete(w);
}

/* L1 changes ept12 and does not invalidate: allowed, and the next fault sees it, with what the old state left flushed.
 */
Test(ept, replaced_pages_are_flushed) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &reading);
    w->l1[3][5] = 0x206037;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 1, "another page");
    w->l1[3][5] = 0x206031;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 2, "rights lost");
    w->l1[3][5] = 0x206037;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 2, "rights gained");
    w->l1[3][5] = 0x206007;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 3, "memory type");
    world_delete(w);
}

static enum nvmx_ept_verdict translates(struct world *w, uint64_t eptp12, uint64_t gpa2, uint32_t access,
                                        struct nvmx_ept_fault *fault) {
    struct nvmx_ept_access what = {.eptp12 = eptp12, .gpa2 = gpa2, .qualification = access};

    return nvmx_ept_translate(w->ept, &w, &what, fault);
}

/* What L1 makes of a page of ept12 by one entry, without INVEPT, and whether that leaves a write to it forbidden only by what was so before. */
static const struct {
    const char *id;
    unsigned int page, index;
    uint64_t entry;
    bool stays;
} entries[] = {
    {"not present", 3, 5, 0, false},
    {"another page", 3, 5, UINT64_C(0x206) << 12 | 0x435, false},
    {"fewer rights", 3, 5, UINT64_C(0x205) << 12 | 0x431, false},
    {"another memory type", 3, 5, UINT64_C(0x205) << 12 | 0x405, false},
    {"fewer rights above", 2, 0, 0x3401, false},
    {"no table", 2, 0, 0, false},
    {"another table", 2, 0, 0x4405, false},
    {"a large page", 2, 0, 0x2004b5, false},
    {"as it was", 3, 5, UINT64_C(0x205) << 12 | 0x435, true},
    {"but for flags", 3, 5, UINT64_C(0x205) << 12 | 0x735, true},
};
#define ENTRIES (sizeof(entries) / sizeof(entries[0]))

/* SDM 31.4.3.1: a violation invalidates what the CPU has cached for its address. What L1 maps there afterwards needs no INVEPT. */
Test(ept, a_violation_of_l1_leaves_nothing_old) {
    for (size_t i = 0; i < ENTRIES; i++) {
        struct world *w = simple(AD_CAPS, 0);
        struct nvmx_ept_fault fault;
        struct world_translation t;
        uint64_t hpa, type, qualification;

        w->l1[3][5] = UINT64_C(0x205) << 12 | 0x535;
        touch(w, EPTP12, GPA2, &reading);
        w->l1[entries[i].page][entries[i].index] = entries[i].entry;
        cr_assert(world_cpu(w, 0, root_of(w, 0, EPTP12), GPA2, &reading, &hpa, &type, &qualification), "%s: not old", entries[i].id);
        cr_assert(!world_cpu(w, 0, root_of(w, 0, EPTP12), GPA2, &writing, &hpa, &type, &qualification), "%s", entries[i].id);

        struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = qualification};
        cr_expect(!nvmx_ept_unmapped(w->ept, &w, &access, &fault), "%s: the short way leaves it", entries[i].id);
        cr_expect_eq(fault_at(w, EPTP12, GPA2, qualification, &fault), NVMX_EPT_L1_VIOLATION, "%s", entries[i].id);
        cr_expect_eq(world_walk02(w, root_of(w, 0, EPTP12), GPA2, &t), entries[i].stays, "%s", entries[i].id);
        cr_expect_eq(world_cpu(w, 0, root_of(w, 0, EPTP12), GPA2, &reading, &hpa, &type, &qualification), entries[i].stays, "%s: in the TLB", entries[i].id);
        world_delete(w);
    }
}

/* The same of a violation that an emulating host finds, and of what is cached by the same tables without or with accessed and dirty flags: only bits 51:12 of
 * the EPTP tell mappings apart. */
Test(ept, a_violation_of_l1_leaves_nothing_old_in_any_mode_however_it_is_found) {
    for (size_t n = 0; n < 4 * ENTRIES; n++) {
        size_t i = n / 4;
        bool emulated = (n & 1) != 0;
        uint64_t eptp12 = (n & 2) != 0 ? EPTP12_AD : EPTP12;
        struct world *w = simple(AD_CAPS, 0);
        const uint64_t eptp02[] = {root_of(w, 0, EPTP12), root_of(w, 1, EPTP12_AD)};
        struct nvmx_ept_access write = {.eptp12 = eptp12, .gpa2 = GPA2, .qualification = 0x182};
        struct nvmx_ept_fault fault;
        struct world_translation t;
        uint64_t hpa, type;

        w->l1[3][5] = UINT64_C(0x205) << 12 | 0x535;
        touch(w, EPTP12, GPA2, &reading);
        touch(w, EPTP12_AD, GPA2, &reading);
        w->l1[entries[i].page][entries[i].index] = entries[i].entry;
        cr_assert(!world_cpu(w, 0, eptp02[(n & 2) / 2], GPA2, &writing, &hpa, &type, &write.qualification), "%s", entries[i].id);
        if (emulated) {
            cr_expect_eq(translates(w, eptp12, GPA2, NVMX_ACCESS_WRITE | 0x180, &fault), NVMX_EPT_L1_VIOLATION, "%s", entries[i].id);
        } else {
            cr_expect_eq(nvmx_ept_fault(w->ept, &w, &write, &fault), NVMX_EPT_L1_VIOLATION, "%s", entries[i].id);
        }
        for (unsigned int ad = 0; ad < 2; ad++) {
            cr_expect_eq(world_walk02(w, eptp02[ad], GPA2, &t), entries[i].stays, "%s: flags %u, emulated %d", entries[i].id, ad, emulated);
            cr_expect_eq(world_cpu(w, 0, eptp02[ad], GPA2, &reading, &hpa, &type, &write.qualification), entries[i].stays,
                         "%s: flags %u in the TLB, emulated %d", entries[i].id, ad, emulated);
        }
        world_delete(w);
    }
}

/* A reference of ept12 that gets other rights keeps the pages below. */
Test(ept, rights_of_a_reference_change_in_place) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    w->l1[2][0] = 0x3005;
    touch(w, EPTP12, GPA2, &reading);
    touch(w, EPTP12, 0x6000, &reading);
    w->l1[2][0] = 0x3007;
    cr_expect_eq(touch(w, EPTP12, GPA2, &writing), 1);
    cr_expect_eq(w->flushes, 0);
    cr_expect(look(w, EPTP12, 0x6000).valid);
    w->l1[2][0] = 0x3003;
    nvmx_ept_invept(w->ept, &w, true, 0);
    touch(w, EPTP12, GPA2, &writing);
    cr_expect_eq(w->flushes, 2);
    w->l1[2][0] = 0x3005; /* gains and loses: not invalidated, but the lost right is not left to chance */
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x184, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 3);
    w->l1[2][0] = 0x3001;
    nvmx_ept_invept(w->ept, &w, true, 0);
    cr_expect_eq(fault_at(w, EPTP12, 0x7000, 0x184, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, 0x18c);
    cr_expect_eq(touch(w, EPTP12, 0x7000, &reading), 1);
    cr_expect_eq(look(w, EPTP12, 0x7000).rights & 7, 1);
    world_delete(w);
}

/* 2M of ept12 over 4K of ept01. */
Test(ept, split_page_follows_its_entry) {
    struct world *w = simple(AD_CAPS, 0);
    struct nvmx_ept_fault fault;

    w->l1[2][1] = 0x2000b7; /* 2M at gpa1 2M */
    touch(w, EPTP12, 0x200000, &reading);
    w->l1[2][1] = 0xb7; /* at gpa1 0: not invalidated yet */
    cr_expect_eq(fault_at(w, EPTP12, 0x201000, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect(!look(w, EPTP12, 0x200000).valid, "nothing of the old page is left beside the new");
    cr_expect_eq(look(w, EPTP12, 0x201000).hpa & (WORLD_PFNS - 1), 1);
    world_delete(w);
}

/* Also where L2 read first, and the table was made before the flag was set. */
Test(ept, dirty_flag_of_a_split_page_is_remembered) {
    for (unsigned int reads_first = 0; reads_first < 2; reads_first++) {
        struct world *w = simple(AD_CAPS, 0);

        w->l1[2][1] = 0x2000b7;
        touch(w, EPTP12_AD, 0x200000, reads_first ? &reading : &writing);
        touch(w, EPTP12_AD, 0x200000, &writing);
        cr_expect_eq(w->l1[2][1] & 0x300, 0x300);
        w->l1[2][1] &= ~UINT64_C(0x200);
        cr_expect_eq(touch(w, EPTP12_AD, 0x201000, &reading), 1);
        nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
        cr_expect_eq(touch(w, EPTP12_AD, 0x200000, &writing), 1,
                     "the dirty flag was cleared and invalidated: it is set anew");
        cr_expect_eq(w->l1[2][1] & 0x300, 0x300);
        world_delete(w);
    }
}

/* Rights of ept01 that can't stand alone in an entry. */
Test(ept, rights_of_ept01_make_no_misconfiguration) {
    static const struct {
        uint64_t without;
        uint8_t access01;
        uint64_t kind, rights; /* 0: the host's fault */
    } rows[] = {
        {0, 4, 4, 4}, {0, 4, 1, 0}, {1, 4, 4, 0}, {0, 2, 2, 0}, {0, 6, 4, 4},
        {0, 6, 2, 0}, {1, 6, 4, 0}, {0, 3, 2, 3}, {0, 5, 4, 5},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN & ~rows[i].without, 0);
        enum nvmx_ept_verdict expected = rows[i].rights != 0 ? NVMX_EPT_RETRY : NVMX_EPT_HOST_FAULT;
        struct nvmx_ept_fault fault;

        world_set01(w, 512 + 5, 1, rows[i].access01, 6, false, 12);
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x180 | rows[i].kind, &fault), expected, "row %zu", i);
        cr_expect_eq(look(w, EPTP12, GPA2).rights & 7, rows[i].rights, "row %zu", i);
        world_delete(w);
    }
}

Test(ept, memory_changed_covers_its_range_and_no_more) {
    static const struct {
        uint64_t gpa1, bytes;
        bool before, inside, after;
    } rows[] = {
        {0x205000, 4096, true, false, true},        {0x205fff, 1, true, false, true},
        {0x204fff, 2, false, false, true},          {0x205000, 0, true, true, true},
        {0x205000, UINT64_MAX, true, false, false}, {0x206000, UINT64_MAX, true, true, false},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);

        for (uint64_t page = 4; page < 7; page++) {
            touch(w, EPTP12, page << 12, &reading);
        }
        nvmx_ept_memory_changed(w->ept, &w, rows[i].gpa1, rows[i].bytes);
        cr_expect_eq(look(w, EPTP12, 0x4000).valid, rows[i].before, "row %zu", i);
        cr_expect_eq(look(w, EPTP12, 0x5000).valid, rows[i].inside, "row %zu", i);
        cr_expect_eq(look(w, EPTP12, 0x6000).valid, rows[i].after, "row %zu", i);
        cr_expect_eq(w->flushes, rows[i].bytes != 0, "row %zu", i);
        world_delete(w);
    }
}

/* The first and the last byte of all that a table of ept02 maps lead there; also where it splits a page of ept12, and L1's tables lie elsewhere. */
Test(ept, memory_changed_knows_the_ends_of_tables) {
    static const uint64_t pages[] = {0, 511};

    for (size_t i = 0; i < 2 * sizeof(pages) / sizeof(pages[0]); i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        const uint64_t page = pages[i / 2], gpa2 = (i % 2 != 0 ? 0x200000 : 0) | page << 12;

        w->l1[2][1] = UINT64_C(0x200000) | 0xb7;
        touch(w, EPTP12, gpa2, &reading);
        nvmx_ept_memory_changed(w->ept, &w, page == 0 ? 0x200000 : 0x3fffff, 1);
        cr_expect(!look(w, EPTP12, gpa2).valid, "row %zu", i);
        world_delete(w);
    }
}

/* For a log of what is written: the right to write goes at once and everywhere, reading goes on without a violation. */
Test(ept, memory_protected_takes_only_the_right_to_write) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t eptp02 = root_of(w, 0, EPTP12);
    uint64_t hpa, type, qualification;
    struct nvmx_ept_fault fault;

    for (uint64_t page = 4; page < 7; page++) {
        touch(w, EPTP12, page << 12, &writing);
    }
    cr_assert(world_cpu(w, 1, eptp02, 0x5000, &writing, &hpa, &type, &qualification));
    world_protect01(w, 0x205, 1);
    cr_expect_eq(look(w, EPTP12, 0x4000).rights & 7, 7);
    cr_expect_eq(look(w, EPTP12, 0x5000).rights & 7, 5);
    cr_expect_eq(look(w, EPTP12, 0x6000).rights & 7, 7);
    cr_expect_eq(touch(w, EPTP12, 0x5000, &reading), 0);
    cr_expect(!world_cpu(w, 1, eptp02, 0x5000, &writing, &hpa, &type, &qualification));
    cr_expect_eq(fault_at(w, EPTP12, 0x5000, qualification, &fault), NVMX_EPT_HOST_FAULT);
    cr_expect_eq(fault.gpa1, 0x205000);
    w->ept01[0x205].access = 7; /* the host has noted the write; nothing is lost by it, so it need not say so */
    cr_expect_eq(touch(w, EPTP12, 0x5000, &writing), 1);
    world_delete(w);
}

/* Violations one after the other map what comes next as well; others don't. */
Test(ept, pages_are_mapped_ahead_of_a_sequence) {
    struct world *w = simple(AD_CAPS, 0);
    unsigned int faults = 0;

    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (1024 + i) << 12 | 0x437; /* one 2M page of ept01 */
    }
    for (uint64_t page = 0; page < 512; page++) {
        faults += touch(w, EPTP12, page << 12, &writing);
    }
    cr_expect(faults >= 512 / 17 && faults < 512 / 8, "%u violations", faults);
    world_delete(w);

    w = simple(AD_CAPS, 0);
    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (1024 + i) << 12 | 0x437;
    }
    for (uint64_t page = 0; page < 512; page += 8) {
        cr_expect_eq(touch(w, EPTP12, (page * 5 & 511) << 12, &writing), 1);
        cr_expect(!look(w, EPTP12, ((page * 5 & 511) + 1) << 12).valid);
    }
    world_delete(w);

    /* With flags to be set nothing is: they would say more than what L2 did. */
    w = simple(AD_CAPS, 0);
    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] = (1024 + i) << 12 | 0x437 | (i >= 256 ? NVMX_EPT_ACCESSED : 0);
    }
    faults = 0;
    for (uint64_t page = 0; page < 512; page++) {
        faults += touch(w, EPTP12_AD, page << 12, &reading);
        cr_expect_eq(w->l1[3][page] & NVMX_EPT_DIRTY, 0);
        cr_expect(page >= 255 || (w->l1[3][page + 1] & NVMX_EPT_ACCESSED) == 0);
    }
    cr_expect(faults >= 256 + 256 / 17 && faults < 256 + 64, "%u violations", faults);
    cr_expect_eq(look(w, EPTP12_AD, 0x1ff000).rights & 7, 5);
    world_delete(w);
}

/* A digest answers for tables of many pages only until something changes, and finds each kind of change. */
Test(ept, invept_of_a_full_table_finds_what_changed) {
    struct world *w = simple(AD_CAPS, 0);

    for (uint64_t i = 0; i < 512; i++) {
        w->l1[3][i] |= EPT_FLAGS;
        touch(w, EPTP12_AD, i << 12, &writing);
    }
    for (unsigned int round = 0; round < 40; round++) {
        static const uint64_t changes[5] = {0x1000, 2, 0x100, 0x200, 0x8};
        uint64_t page = round * 101 % 512;
        uint64_t other = round * 57 % 512;

        for (unsigned int quiet = 0; quiet < round % 4; quiet++) { /* none, noted, digest made, digest used */
            nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
            for (uint64_t i = 0; i < 512; i++) {
                cr_expect(look(w, EPTP12_AD, i << 12).valid);
            }
        }
        w->l1[3][page] ^= changes[round % 5];
        nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
        cr_expect(!look(w, EPTP12_AD, page << 12).valid, "round %u", round);
        cr_expect(other == page || look(w, EPTP12_AD, other << 12).valid);
        w->l1[3][page] = (512 + page) << 12 | 0x437 | EPT_FLAGS;
        touch(w, EPTP12_AD, page << 12, &writing);
        cr_expect_eq(look(w, EPTP12_AD, page << 12).hpa & (WORLD_PFNS - 1), 512 + page);
    }
    world_delete(w);
}

/* What was filled after the digest was made is not what the digest is of. */
Test(ept, digest_does_not_answer_for_later_fills) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    for (uint64_t i = 0; i < 512; i++) {
        touch(w, EPTP12, i << 12, &writing);
    }
    for (unsigned int i = 0; i < 3; i++) {
        nvmx_ept_invept(w->ept, &w, false, EPTP12);
        root_of(w, 0, EPTP12);
    }
    w->l1[3][5] = 0x206437;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(look(w, EPTP12, GPA2).hpa & (WORLD_PFNS - 1), 0x206);
    w->l1[3][5] = 0x205437;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    world_delete(w);
}

/* -- another processor in between: at each callback, where an operation is longest
 * ------------------------------------------------------------------------- */

static void host_moves_page_5(struct world *w) {
    world_set01(w, 0x205, 1, 7, 6, false, 12);
}

static void l1_changes_entry_5(struct world *w) {
    w->l1[3][5] = 0x206037;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
}

static void l1_changes_entry_5_and_enters(struct world *w) {
    l1_changes_entry_5(w);
    root_of(w, 1, EPTP12);
}

static uint32_t freed_inside;

static void host_takes_the_table(struct world *w) {
    uint32_t before = w->freed;

    world_set01(w, 2, 1, 7, 6, false, 12);
    freed_inside = w->freed - before;
}

/* ept01_lookup has answered, then the page moves: what was answered must not be mapped. */
Test(ept, a_fill_that_is_late_for_memory_changed_maps_nothing) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, 0x6000, &reading);
    w->in_lookup = host_moves_page_5;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
    cr_expect_eq(look(w, EPTP12, GPA2).hpa, w->ept01[0x205].pfn);
    world_delete(w);
}

/* The entry has been read, then L1 changes it on another processor and executes INVEPT there. */
Test(ept, a_fill_that_is_late_for_invept_maps_nothing) {
    static void (*const others[2])(struct world *) = {l1_changes_entry_5, l1_changes_entry_5_and_enters};

    for (unsigned int i = 0; i < 2; i++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        struct nvmx_ept_fault fault;

        touch(w, EPTP12, 0x6000, &reading);
        w->in_lookup = others[i];
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
        cr_expect(!look(w, EPTP12, GPA2).valid);
        cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
        cr_expect_eq(look(w, EPTP12, GPA2).hpa & (WORLD_PFNS - 1), 0x206);
        world_delete(w);
    }
}

/* Tables that another processor may be looking at are not freed under it. */
Test(ept, tables_are_freed_when_no_operation_can_know_them) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;
    uint32_t freed;

    touch(w, EPTP12, GPA2, &reading);
    freed = w->freed;
    freed_inside = 1;
    w->in_map = host_takes_the_table;
    cr_expect_eq(fault_at(w, EPTP12, 0x6000, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(freed_inside, 0);
    cr_expect_eq(w->freed, freed + 2, "%u pages", w->freed - freed);
    world_delete(w);
}

/* The comparison has taken an entry out and not flushed yet; the page that it mapped is taken back meanwhile. */
static void page_5_goes_meanwhile(struct world *w) {
    cr_assert(w->tlb[1][5].valid);
    host_moves_page_5(w);
    cr_expect(!w->tlb[1][5].valid, "the host was told that nothing of the page is left in any TLB");
}

Test(ept, memory_changed_flushes_what_others_have_not_flushed_yet) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint64_t eptp02 = root_of(w, 0, EPTP12);
    uint64_t hpa, type, qualification;

    touch(w, EPTP12, 0x5000, &reading);
    cr_assert(world_cpu(w, 1, eptp02, 0x5000, &reading, &hpa, &type, &qualification));
    w->l1[3][5] = 0;
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    w->in_flush = page_5_goes_meanwhile;
    root_of(w, 0, EPTP12);
    cr_expect_eq(w->in_flush, NULL);
    world_delete(w);
}

Test(ept, first_touch_reads_one_entry_where_the_way_is_known) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    uint32_t maps;

    touch(w, EPTP12, 0, &reading);
    maps = w->maps;
    touch(w, EPTP12, 0x1000, &reading);
    cr_expect_eq(w->maps, maps + 1);
    world_delete(w);
}

Test(ept, stale_translation_is_flushed_and_tried_again) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_fault fault;

    touch(w, EPTP12, GPA2, &writing);
    cr_expect_eq(w->flushes, 0);
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x182, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->flushes, 1);
    world_delete(w);
}

Test(ept, accessed_and_dirty_flags) {
    struct world *w = simple(AD_CAPS, 0);
    static const struct world_access walking = {.kind = 1, .linear = true, .walk = true};

    cr_expect_eq(touch(w, EPTP12_AD, GPA2, &reading), 1);
    for (unsigned int page = 0; page < 3; page++) {
        cr_expect_eq(w->l1[page][0] & 0x300, 0x100, "page %u", page);
    }
    cr_expect_eq(w->l1[3][5] & 0x300, 0x100);
    cr_expect_eq(look(w, EPTP12_AD, GPA2).rights & 7, 5, "no writes before the dirty flag is set");
    cr_expect_eq(touch(w, EPTP12_AD, GPA2, &writing), 1);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x300);
    cr_expect_eq(look(w, EPTP12_AD, GPA2).rights & 7, 7);

    cr_expect_eq(touch(w, EPTP12_AD, 0x6000, &walking), 1);
    cr_expect_eq(w->l1[3][6] & 0x300, 0x300, "the CPU's own accesses to paging structures are writes");

    w->l1[3][5] &= ~UINT64_C(0x300);
    nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
    cr_expect_eq(touch(w, EPTP12_AD, GPA2, &fetching), 1);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x100);

    cr_expect_eq(touch(w, EPTP12, 0x7000, &writing), 1);
    cr_expect_eq(w->l1[3][7] & 0x300, 0, "without bit 6 of the EPTP nothing is set");
    world_delete(w);
}

Test(ept, flags_are_not_set_by_refused_accesses) {
    struct world *w = simple(AD_CAPS, 0);
    struct nvmx_ept_fault fault;

    w->l1[3][5] &= ~NVMX_EPT_WRITE;
    cr_expect_eq(fault_at(w, EPTP12_AD, GPA2, 0x182, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(w->l1[3][5] & 0x300, 0);
    world_delete(w);
}

/* Where L1's table can't be written they are lost, until L1 invalidates: then they are due again. */
Test(ept, flags_that_were_lost_are_due_after_an_invept) {
    for (unsigned int level = 0; level < 4; level++) {
        struct world *w = simple(AD_CAPS, 0);
        uint64_t *entry = &w->l1[level][level == 3 ? 5 : 0];

        touch(w, EPTP12_AD, 0x6000, &writing);
        *entry &= ~(uint64_t)EPT_FLAGS;
        nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
        w->unwritable = true;
        cr_expect_eq(touch(w, EPTP12_AD, GPA2, &writing), 1);
        cr_expect_eq(*entry & EPT_FLAGS, 0, "level %u", 4 - level);
        w->unwritable = false;
        cr_expect_eq(touch(w, EPTP12_AD, GPA2, &writing), 0);
        nvmx_ept_invept(w->ept, &w, false, EPTP12_AD);
        cr_expect_eq(touch(w, EPTP12_AD, GPA2, &writing), 1, "level %u", 4 - level);
        cr_expect_eq(*entry & EPT_FLAGS, level == 3 ? EPT_FLAGS : NVMX_EPT_ACCESSED, "level %u", 4 - level);
        world_delete(w);
    }
}

Test(ept, table_of_ept12_that_goes_away_takes_its_pages_along) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    touch(w, EPTP12, GPA2, &reading);
    world_set01(w, 3, 1, 7, 6, false, 12);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    cr_expect_eq(touch(w, EPTP12, GPA2, &reading), 1);
    world_delete(w);
}

Test(ept, budget_takes_the_oldest) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 24);

    for (uint64_t i = 0; i < 16; i++) {
        w->l1[2][i] = 0x3407;
    }
    for (uint64_t i = 0; i < 16; i++) {
        touch(w, EPTP12, i << 21, &reading);
        touch(w, EPTP12, 0, &writing); /* never taken while it is used; but to be used is seen only by faults */
        cr_expect(nvmx_ept_pages(w->ept) <= 24);
    }
    cr_expect(look(w, EPTP12, 15 << 21).valid);
    cr_expect(!look(w, EPTP12, 2 << 21).valid);
    world_delete(w);
}

/* Tables are described in slabs of 20: what is taken is the oldest of them all. */
Test(ept, budget_takes_the_oldest_of_many) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 120);
    unsigned int first = 0;

    for (uint64_t i = 0; i < 100; i++) {
        w->l1[2][i] = 0x3407;
    }
    for (uint64_t i = 0; i < 100; i++) {
        touch(w, EPTP12, i << 21, &reading);
    }
    while (!look(w, EPTP12, (uint64_t)first << 21).valid) {
        first++;
    }
    cr_expect(first > 40 && first < 80, "%u", first);
    for (uint64_t i = first; i < 100; i++) {
        cr_expect(look(w, EPTP12, i << 21).valid, "%u is there, %lu is not", first, (unsigned long)i);
    }
    world_delete(w);
}

/* A page that is write-protected for a log, or gone, is so for the TLB too when the call returns. */
Test(ept, protection_reaches_the_tlb) {
    for (unsigned int gone = 0; gone < 2; gone++) {
        struct world *w = simple(WORLD_CAPS_PLAIN, 0);
        uint64_t eptp02 = root_of(w, 0, EPTP12), hpa, type, qualification;

        touch(w, EPTP12, GPA2, &writing);
        touch(w, EPTP12, GPA2, &reading);
        uint32_t flushes = w->flushes;
        if (gone) {
            world_set01(w, 0x205, 1, 0, 6, false, 12);
        } else {
            world_protect01(w, 0x205, 1);
        }
        cr_expect(w->flushes > flushes);
        cr_expect(!world_cpu(w, 0, eptp02, GPA2, &writing, &hpa, &type, &qualification));
        cr_expect_eq(world_cpu(w, 0, eptp02, GPA2, &reading, &hpa, &type, &qualification), !gone);
        world_delete(w);
    }
}

/* L1's table leads to itself, so that the flags of one entry are set at each level of the walk. */
Test(ept, flags_of_a_table_that_leads_to_itself) {
    struct world *w = simple(AD_CAPS, 0);
    const uint64_t gpa2 = UINT64_C(1) << 39 | UINT64_C(1) << 30 | UINT64_C(1) << 21 | UINT64_C(1) << 12;

    w->l1[0][1] = 0x407;
    touch(w, EPTP12_AD, gpa2, &reading);
    cr_expect_eq(w->l1[0][1] & EPT_FLAGS, NVMX_EPT_ACCESSED);
    touch(w, EPTP12_AD, gpa2, &writing);
    cr_expect_eq(w->l1[0][1] & EPT_FLAGS, EPT_FLAGS);
    world_delete(w);
}

/* Where nothing but roots that nobody uses can be given up, they are. */
Test(ept, budget_takes_idle_roots) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 1 + 2 * 4);

    for (uint64_t page = 10; page < 13; page++) {
        root_of(w, 0, page << 12 | EPTP12);
    }
    root_of(w, 0, EPTP12);
    cr_assert_eq(nvmx_ept_pages(w->ept), 9);
    touch(w, EPTP12, GPA2, &reading);
    cr_expect(look(w, EPTP12, GPA2).valid);
    cr_expect_eq(nvmx_ept_pages(w->ept), 9);
    world_delete(w);
}

/* The oldest, not the lowest: a table of large pages that was used before all tables of small ones. */
Test(ept, budget_takes_the_oldest_of_any_level) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 24);
    const uint64_t large = UINT64_C(1) << 39;
    uint64_t i = 0;

    w->l1[0][1] = 0x4407;
    w->l1[4][0] = 0x5407;
    w->l1[5][0] = UINT64_C(1024) << 12 | 0xb7;
    /* The search may come upon it before or after the others. */
    touch(w, EPTP12, i++ << 21, &reading);
    touch(w, EPTP12, large, &reading);
    touch(w, EPTP12, 7 << 12, &reading);
    for (; i < 16 && look(w, EPTP12, large).valid; i++) {
        w->l1[2][i] = 0x3407;
        touch(w, EPTP12, i << 21, &reading);
    }
    cr_expect(i > 1 && i < 16, "%lu", (unsigned long)i);
    while (i-- > 0) {
        cr_expect(look(w, EPTP12, i << 21).valid, "%lu", (unsigned long)i);
    }
    world_delete(w);
}

/* SDM 31.3.3.2: with mode-based execute control the mode of the linear address decides. */
Test(ept, translated_fetches_need_the_right_of_their_mode) {
    struct world *w = simple(AD_CAPS, 0);
    struct nvmx_ept_fault fault;

    for (unsigned int i = 0; i < 4; i++) {
        uint64_t user = i & 1, for_user = i >> 1;
        struct nvmx_ept_access fetch = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = NVMX_ACCESS_EXECUTE | 0x180 | user << 9, .mbec = true};
        w->l1[3][5] = (w->l1[3][5] & ~UINT64_C(0x404)) | (for_user ? 0x400 : 4);
        cr_expect_eq(nvmx_ept_translate(w->ept, &w, &fetch, &fault), user == for_user ? NVMX_EPT_RETRY : NVMX_EPT_L1_VIOLATION, "user %d, for users %d",
                     (int)user, (int)for_user);
    }
    world_delete(w);
}

Test(ept, translate_by_ept12_alone) {
    struct world *w = simple(AD_CAPS, 0);
    struct nvmx_ept_fault fault;

    cr_expect_eq(translates(w, EPTP12, GPA2, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(fault.gpa1, 0x205123);
    w->l1[3][5] &= ~NVMX_EPT_WRITE;
    cr_expect_eq(translates(w, EPTP12, GPA2, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, 0x2a);
    w->l1[3][5] |= 0x10;
    w->l1[3][5] &= ~UINT64_C(0x20);
    cr_expect_eq(translates(w, EPTP12, GPA2, NVMX_ACCESS_READ, &fault), NVMX_EPT_L1_MISCONFIG);
    cr_expect_eq(translates(w, EPTP12_AD, 0x6000, NVMX_ACCESS_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][6] & 0x300, 0x300);
    cr_expect_eq(w->lookups, 0);
    world_delete(w);
}

Test(ept, init_refuses_what_it_cannot_work_with) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);
    struct nvmx_ept_config config = {.size = sizeof(config), .l1 = &w->l1_caps, .machine = &w->machine};
    struct nvmx_host host = w->host;
    uint64_t eptp02;
    struct nvmx_ept *ept;
    void *memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);

    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size() - 1, &host, w, &config, &ept), NVMX_E_SIZE);
    cr_expect_eq(nvmx_ept_init((char *)memory + 8, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID);
    host.size = offsetof(struct nvmx_host, page_version) + 4;
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_SIZE, "half a callback");
    /* A host older than any callback, and one that has the first but not the rest. */
    host.size = offsetof(struct nvmx_host, map_page) - 1;
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_SIZE);
    for (host.size = offsetof(struct nvmx_host, map_page); host.size <= offsetof(struct nvmx_host, tlb_flush); host.size += sizeof(void *)) {
        cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID, "%u", host.size);
    }
    /* Each callback that is needed. */
    for (unsigned int i = 0; i < 6; i++) {
        host = w->host;
        void *needed[] = {&host.map_page, &host.unmap_page, &host.ept01_lookup, &host.page_alloc, &host.page_free, &host.tlb_flush};
        memset(needed[i], 0, sizeof(host.map_page));
        cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID, "callback %u", i);
    }
    host = w->host;
    cr_expect_eq(nvmx_ept_init(NULL, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID);
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), NULL, w, &config, &ept), NVMX_E_INVALID);
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, NULL, &ept), NVMX_E_INVALID);
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, NULL), NVMX_E_INVALID);
    config.l1 = NULL;
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID);
    config.l1 = &w->l1_caps;
    config.machine = NULL;
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &host, w, &config, &ept), NVMX_E_INVALID);
    config.machine = &w->machine;
    config.size--;
    cr_expect_eq(nvmx_ept_init(memory, nvmx_ept_size(), &w->host, w, &config, &ept), NVMX_E_SIZE);
    cr_expect_eq(nvmx_ept_root(w->ept, &w, 256, EPTP12, false, &eptp02), NVMX_E_INVALID);
    cr_expect_eq(nvmx_ept_root(w->ept, &w, 0, 0x16, false, &eptp02), NVMX_E_INVALID);
    free(memory);
    world_delete(w);
}
