/* SPDX-License-Identifier: MIT */
/* A host that knows which pages of L1 were written: of ept12's tables with many pages an INVEPT then reads no others (nvmx_host.page_version). */
#include "ept/ept.h"
#include "ept_simple.h"

/* All pages of the table are mapped, and its version is noted where the host gives one. */
static struct world *full(bool versions) {
    struct world *w = simple(WORLD_CAPS_PLAIN, 0);

    w->versions = versions;
    for (uint64_t i = 0; i < 512; i++) {
        touch(w, EPTP12, i << 12, &writing);
    }
    for (unsigned int i = 0; i < 3; i++) { /* three times: now and then the host gives none */
        nvmx_ept_invept(w->ept, &w, false, EPTP12);
        root_of(w, 0, EPTP12);
    }
    return w;
}

/* Pages that an INVEPT reads before the next entry. */
static uint32_t pages_read_by(struct world *w, uint64_t eptp12) {
    uint32_t before = w->maps;

    nvmx_ept_invept(w->ept, &w, false, eptp12);
    root_of(w, 0, eptp12);
    return w->maps - before;
}

static uint32_t pages_read(struct world *w) {
    return pages_read_by(w, EPTP12);
}

Test(ept_versions, what_was_not_written_is_not_read) {
    for (unsigned int versions = 0; versions < 2; versions++) {
        struct world *w = full(versions != 0);
        uint32_t read = 0;

        for (unsigned int i = 0; i < 20; i++) {
            read += pages_read(w);
        }
        cr_expect(versions != 0 ? read < 20 : read == 80, "%u pages of 80 were read", read);
        for (uint64_t i = 0; i < 512; i++) {
            cr_expect(look(w, EPTP12, i << 12).valid);
        }
        world_delete(w);
    }
}

Test(ept_versions, what_was_written_is_read) {
    struct world *w = full(true);

    for (unsigned int round = 0; round < 40; round++) {
        uint64_t page = round * 101 % 512;

        w->l1[3][page] ^= 0x1000;
        cr_expect(pages_read(w) >= 1);
        cr_expect(!look(w, EPTP12, page << 12).valid, "round %u", round);
        cr_expect(look(w, EPTP12, (page + 1) % 512 << 12).valid);
        touch(w, EPTP12, page << 12, &writing);
        if (round % 2 != 0) {
            pages_read(w);
        }
    }
    world_delete(w);
}

/* The page is as it was when its version was noted, but an entry was taken from it in between. */
Test(ept_versions, version_does_not_answer_for_later_fills) {
    struct world *w = full(true);
    struct nvmx_ept_fault fault;

    w->l1[3][5] = 0x206437;
    cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(look(w, EPTP12, GPA2).hpa & (WORLD_PFNS - 1), 0x206);
    w->l1[3][5] = 0x205437;
    pages_read(w);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    world_delete(w);
}

/* The library writes a flag, which is a write as well, and L1 takes it back: nothing was filled, and the page is as it was. */
Test(ept_versions, flags_that_the_library_sets_are_writes) {
    struct world *w = simple(AD_CAPS, 0);

    w->versions = true;
    w->l1[2][0] = 0x4000b7; /* 2 MiB in pages of 4 KiB: the table below stays, and gets another entry above it */
    world_set01(w, 1024, 512, 7, 6, false, 12);
    for (unsigned int round = 0; round < 20; round++) {
        touch(w, EPTP12_AD, GPA2, &reading);
        for (unsigned int i = 0; i < 3; i++) {
            pages_read_by(w, EPTP12_AD);
        }
        touch(w, EPTP12_AD, GPA2, &writing);
        cr_expect_eq(w->l1[2][0] & EPT_FLAGS, EPT_FLAGS);
        pages_read_by(w, EPTP12_AD);
        w->l1[2][0] &= ~NVMX_EPT_DIRTY;
        pages_read_by(w, EPTP12_AD);
        cr_expect_eq(look(w, EPTP12_AD, GPA2).rights & 2, 0, "round %u", round);
    }
    world_delete(w);
}

/* Where nothing was filled either, it asks for the version of all pages together, and for nothing else. */
Test(ept_versions, nothing_written_is_one_question) {
    struct world *w = full(true);
    uint32_t quiet = 0;

    for (unsigned int round = 0; round < 200; round++) {
        uint32_t calls = w->version_calls;
        uint64_t page = round * 101 % 512;
        uint32_t read = pages_read(w);

        quiet += read == 0 && w->version_calls == calls + 1;
        if (round % 10 == 9) {
            w->l1[3][page] ^= 0x1000;
            pages_read(w);
            cr_expect(!look(w, EPTP12, page << 12).valid, "round %u", round);
            touch(w, EPTP12, page << 12, &writing);
        }
    }
    cr_expect(quiet >= 60, "%u of 200", quiet);
    world_delete(w);
}

/* The tables above the lowest level count, too. */
Test(ept_versions, all_together_are_of_all_levels) {
    for (uint64_t table = 0; table < 3; table++) {
        for (unsigned int round = 0; round < 20; round++) {
            struct world *w = full(true);

            for (unsigned int i = 0; i < round; i++) {
                pages_read(w);
            }
            w->l1[table][0] = 0;
            cr_expect(pages_read(w) >= 1);
            cr_expect(!look(w, EPTP12, GPA2).valid, "table %u, round %u", (unsigned int)table, round);
            world_delete(w);
        }
    }
}

/* A fill leaves the version of all pages as it is. */
Test(ept_versions, together_does_not_answer_for_later_fills) {
    for (unsigned int round = 0; round < 20; round++) {
        struct world *w = full(true);
        struct nvmx_ept_fault fault;

        for (unsigned int i = 0; i < round; i++) {
            pages_read(w);
        }
        w->l1[3][5] = 0;
        pages_read(w);
        for (unsigned int i = 0; i < round; i++) {
            pages_read(w);
        }
        w->l1[3][5] = 0x206437;
        cr_expect_eq(fault_at(w, EPTP12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
        w->l1[3][5] = 0;
        pages_read(w);
        cr_expect(!look(w, EPTP12, GPA2).valid, "round %u", round);
        world_delete(w);
    }
}

Test(ept_versions, page_without_a_number_is_read) {
    for (unsigned int round = 0; round < 20; round++) {
        struct world *w = full(true);

        w->without_version = 3;
        w->version[3] = w->together = 0;
        for (unsigned int i = 0; i < round; i++) {
            pages_read(w);
        }
        w->l1[3][5] = 0;
        pages_read(w);
        cr_expect(!look(w, EPTP12, GPA2).valid, "round %u", round);
        world_delete(w);
    }
}

/*
 * An operation of another processor that began after an INVEPT has read an entry which L1 has taken back since, says that it will fill a slot, and does so
 * only after comparisons, which found the slot empty. Nothing is written until the next INVEPT, which finds it.
 */
static void fill_slowly(struct world *w, unsigned int comparisons) {
    struct ept_root *root = &w->ept->root[0];
    struct ept_table *table = root->top;
    struct ept_op op;

    while (table->level > 1) {
        table = (struct ept_table *)(uintptr_t)table->composed[0];
    }
    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    ept_begin(&op, w->ept, &w, root);
    root->filled = 1;
    for (unsigned int i = 0; i < comparisons; i++) {
        ept_root_validate(w->ept, &w, root);
    }
    cr_assert(ept_slot_fill(&op, table, 5, table->hw[6], w->l1[3][6]));
    root->filled = 0;
    ept_end(&op);
}

Test(ept_versions, fill_that_was_under_way_is_found) {
    for (unsigned int round = 0; round < 40; round++) {
        struct world *w = full(true);

        w->l1[3][5] = 0;
        for (unsigned int i = 0; i < 3 + round / 2; i++) {
            pages_read(w);
        }
        cr_assert(!look(w, EPTP12, GPA2).valid);
        fill_slowly(w, 1 + round % 2);
        cr_expect(look(w, EPTP12, GPA2).valid);
        pages_read(w);
        cr_expect(!look(w, EPTP12, GPA2).valid, "round %u", round);
        world_delete(w);
    }
}

/* A table that is given back and comes again has no version of the one before. */
Test(ept_versions, new_table_is_compared) {
    struct world *w = full(true);

    w->l1[2][0] = 0;
    pages_read(w);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    w->l1[2][0] = 0x3407;
    pages_read(w);
    touch(w, EPTP12, GPA2, &writing);
    w->l1[3][5] = 0x206437;
    pages_read(w);
    cr_expect(!look(w, EPTP12, GPA2).valid);
    world_delete(w);
}
