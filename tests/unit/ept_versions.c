/* SPDX-License-Identifier: MIT */
/* A host that knows which pages of L1 were written: of ept12's tables with many pages an INVEPT then reads no others (nvmx_host.page_version). */
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
static uint32_t pages_read(struct world *w) {
    uint32_t before = w->maps;

    nvmx_ept_invept(w->ept, &w, false, EPTP12);
    root_of(w, 0, EPTP12);
    return w->maps - before;
}

Test(ept_versions, what_was_not_written_is_not_read) {
    for (unsigned int versions = 0; versions < 2; versions++) {
        struct world *w = full(versions != 0);
        uint32_t read = 0;

        for (unsigned int i = 0; i < 20; i++) {
            read += pages_read(w);
        }
        cr_expect(versions != 0 ? read >= 60 && read < 80 : read == 80, "%u pages of 80, 60 of them with few entries, were read", read);
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
