/* SPDX-License-Identifier: MIT */
/* ept_rules.tsv: what holds each rule of the SDM. And rules that no other file has. */
#include "ept_simple.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RULES 239u /* of the SDM's sections, as they were counted */

static char *read_all(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t room = 1u << 20, length = 0;
    char *text = malloc(room);

    cr_assert(file != NULL && text != NULL, "%s", path);
    length = fread(text, 1, room - 1, file);
    text[length] = 0;
    fclose(file);
    return text;
}

/* Everything that matches a pattern, one after the other. */
static char *read_sources(const char *pattern) {
    char command[512];
    size_t room = 8u << 20, length = 0;
    char *text = malloc(room);

    snprintf(command, sizeof(command), "cat %s/%s", NVMX_SOURCE, pattern);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe != NULL && text != NULL);
    length = fread(text, 1, room - 1, pipe);
    text[length] = 0;
    cr_assert_eq(pclose(pipe), 0);
    return text;
}

/* "suite.name" or "l1:scenario"; false: neither, but some other word. */
static bool check_name(const char *word, const char *tests, const char *scenarios, const char *line) {
    char wanted[128];
    const char *dot = strchr(word, '.');

    if (strncmp(word, "l1:", 3) == 0) {
        snprintf(wanted, sizeof(wanted), "\"%s\"", word + 3);
        cr_expect(strstr(scenarios, wanted) != NULL, "there is no scenario %s: %s", word + 3, line);
        return true;
    }
    if (dot == NULL || dot[1] == 0 || strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.") != strlen(word)) {
        return false;
    }
    snprintf(wanted, sizeof(wanted), "Test(%.*s, %s)", (int)(dot - word), word, dot + 1);
    cr_expect(strstr(tests, wanted) != NULL, "there is no test %s: %s", word, line);
    return true;
}

/* Of each row the last column names a test, or says why none can be. */
Test(ept, rules_name_tests_that_are_there) {
    char *table = read_all(NVMX_SOURCE "/tests/unit/ept_rules.tsv");
    char *tests = read_sources("tests/unit/*.c");
    char *scenarios = read_sources("tests/l1/*.c");
    unsigned int rows = 0;
    char *rest = table;

    for (char *line = strtok_r(table, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char copy[512], *words = copy;
        char *held = strrchr(line, '\t');
        unsigned int names = 0;

        if (line[0] == '#' || strncmp(line, "kind\t", 5) == 0) {
            continue;
        }
        rows++;
        cr_assert(held != NULL && held[1] != 0 && strlen(held) < sizeof(copy), "%s", line);
        strcpy(copy, held + 1);
        for (char *word = strtok_r(copy, " ();", &words); word != NULL; word = strtok_r(NULL, " ();", &words)) {
            names += check_name(word, tests, scenarios, line);
        }
        cr_expect(names > 0 || strcmp(held + 1, "no SEAM") == 0, "%s", line);
    }
    cr_expect_eq(rows, RULES, "%u rows", rows);
    free(table);
    free(tests);
    free(scenarios);
}

/* MOV to CR loads PDPTEs by plain reads: neither do they need the right to write, nor set the dirty flag (SDM 31.3.3.2, 31.3.5). */
Test(ept, pdpte_loads_are_reads) {
    struct world *w = simple(AD_CAPS, 0);
    struct nvmx_ept_fault fault;

    w->l1[3][5] &= ~NVMX_EPT_WRITE;
    cr_expect_eq(fault_at(w, EPTP12_AD, GPA2, 0x001, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x100);
    cr_expect_eq(fault_at(w, EPTP12_AD, GPA2, 0x081, &fault), NVMX_EPT_L1_VIOLATION, "the same by a walk is a write");
    w->l1[3][6] = 0;
    cr_expect_eq(fault_at(w, EPTP12_AD, 0x6018, 0x001, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, 0x001);
    world_delete(w);
}

/* Two EPTPs of the same table, one with flags: what the other mapped is not taken for what has its flags set. */
Test(ept, flags_are_set_on_the_way_of_a_root_with_them) {
    struct world *w = simple(AD_CAPS, 0);

    touch(w, EPTP12, GPA2, &writing);
    cr_expect_eq(w->l1[3][5] & 0x300, 0);
    cr_expect_neq(root_of(w, 1, EPTP12_AD), root_of(w, 0, EPTP12));
    cr_expect_eq(touch(w, EPTP12_AD, GPA2, &reading), 1);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x100);
    cr_expect_eq(w->l1[0][0] & 0x300, 0x100);
    world_delete(w);
}

/* Bit 13 means something where L1 has shadow stacks, and comes from the processor. */
Test(ept, shadow_stack_accesses_are_told) {
    struct world *w = world_new(WORLD_CAPS_PLAIN, 0);
    struct nvmx_caps l1 = w->l1_caps;
    struct nvmx_ept_config config = {.size = sizeof(config), .l1 = &l1, .machine = &w->machine};
    void *memory = aligned_alloc(16, (nvmx_ept_size() + 15) & ~(size_t)15);
    struct nvmx_ept_access access = {.eptp12 = EPTP12, .gpa2 = GPA2, .qualification = 0x2181};
    struct nvmx_ept_fault fault;
    struct nvmx_ept *ept;
    uint64_t eptp02;

    for (unsigned int cet = 0; cet < 2; cet++) {
        l1.msr[NVMX_CAP_ENTRY] = (uint64_t)cet << 52;
        cr_assert_eq(nvmx_ept_init(memory, nvmx_ept_size(), &w->host, w, &config, &ept), NVMX_OK);
        cr_assert_eq(nvmx_ept_root(ept, &w, 0, EPTP12, false, &eptp02), NVMX_OK);
        cr_expect_eq(nvmx_ept_fault(ept, &w, &access, &fault), NVMX_EPT_L1_VIOLATION);
        cr_expect_eq(fault.qualification, cet != 0 ? 0x2181 : 0x181);
        nvmx_ept_destroy(ept, &w);
    }
    free(memory);
    world_delete(w);
}

/* -- supervisor shadow stacks: SDM 31.3.3.2, bit 60 of leaves under an EPTP with bit 7 --------------------------------------------------------- */

#define SSS_CAPS  (AD_CAPS | WORLD_CAPS_ADVANCED | (1u << 23))
#define EPTP12_SSS (EPTP12 | 0x80)
#define SSS       NVMX_EPT_SHADOW_STACK
#define SS_READ   UINT64_C(0x2181) /* a shadow-stack access in supervisor mode */
#define SS_WRITE  UINT64_C(0x2182)
#define USER_MODE UINT64_C(0x200)

/* A page whose entry has these rights, in ept12 and in ept01. */
static struct world *with_stack(uint64_t rights12, uint8_t rights01) {
    struct world *w = simple(SSS_CAPS, 0);

    w->l1[3][5] = (w->l1[3][5] & ~UINT64_C(7)) | rights12;
    world_set01(w, 0x205, 1, rights01, 6, false, 12);
    return w;
}

static uint64_t leaf02(struct world *w, uint64_t eptp12) {
    uint64_t table = root_of(w, 0, eptp12), entry = 0;

    for (unsigned int shift = 39; shift >= 12; shift -= 9) {
        entry = ((const uint64_t *)w->host.page_pointer(w, table & UINT64_C(0x000ffffffffff000)))[GPA2 >> shift & 511];
        if ((entry & 7) == 0) {
            return 0;
        }
        table = entry;
    }
    return entry;
}

/* Bit 60 of a leaf gives back no right that a table above it takes away. */
Test(ept, supervisor_shadow_stacks_give_no_other_right) {
    struct world *w = with_stack(7 | SSS, 7);
    struct nvmx_ept_fault fault;

    w->l1[1][0] &= ~UINT64_C(4); /* not executable */
    cr_expect_eq(fault_at(w, EPTP12_SSS, GPA2, 0x184, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault_at(w, EPTP12_SSS, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(leaf02(w, EPTP12_SSS) & (7 | SSS), 3 | SSS);
    world_delete(w);
}

Test(ept, supervisor_shadow_stacks) {
    static const struct {
        const char *what;
        uint64_t eptp12, rights12;
        uint8_t rights01;
        uint64_t access;
        enum nvmx_ept_verdict verdict;
        uint64_t qualification; /* of L1_VIOLATION, without bit 13, which this L1 does not have */
        uint64_t leaf;          /* rights of ept02 after a RETRY */
    } rows[] = {
        {"read", EPTP12_SSS, 1 | SSS, 7, SS_READ, NVMX_EPT_RETRY, 0, 1 | SSS},
        {"write to a page that is not writable", EPTP12_SSS, 1 | SSS, 7, SS_WRITE, NVMX_EPT_RETRY, 0, 1 | SSS},
        {"a plain write to it", EPTP12_SSS, 1 | SSS, 7, 0x182, NVMX_EPT_L1_VIOLATION, 0x418a, 0},
        {"a plain read maps it, too", EPTP12_SSS, 1 | SSS, 7, 0x181, NVMX_EPT_RETRY, 0, 1 | SSS},
        {"without bit 60", EPTP12_SSS, 7, 7, SS_READ, NVMX_EPT_L1_VIOLATION, 0x1b9, 0},
        {"execute-only", EPTP12_SSS, 4 | SSS, 7, SS_READ, NVMX_EPT_L1_VIOLATION, 0x41a1, 0},
        {"of a user, as a plain write", EPTP12_SSS, 1 | SSS, 7, SS_WRITE | USER_MODE, NVMX_EPT_L1_VIOLATION, 0x438a, 0},
        {"of a user, as a plain read", EPTP12_SSS, 1, 7, SS_READ | USER_MODE, NVMX_EPT_RETRY, 0, 1},
        {"bit 7 of the EPTP clear: bit 60 is ignored", EPTP12, 1 | SSS, 7, SS_WRITE, NVMX_EPT_L1_VIOLATION, 0x18a, 0},
        {"bit 7 of the EPTP clear: a write", EPTP12, 3 | SSS, 7, SS_WRITE, NVMX_EPT_RETRY, 0, 3},
        {"not writable in ept01", EPTP12_SSS, 1 | SSS, 5, SS_READ, NVMX_EPT_HOST_FAULT, 0, 0},
        {"not writable in ept01, a plain read", EPTP12_SSS, 1 | SSS, 5, 0x181, NVMX_EPT_RETRY, 0, 1},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = with_stack(rows[i].rights12, rows[i].rights01);
        struct nvmx_ept_fault fault;

        cr_assert(nvmx_eptp_valid(&w->l1_caps, rows[i].eptp12));
        cr_expect_eq(root_of(w, 0, rows[i].eptp12) & 0x80, rows[i].eptp12 & 0x80, "%s", rows[i].what);
        enum nvmx_ept_verdict verdict = fault_at(w, rows[i].eptp12, GPA2, rows[i].access, &fault);
        cr_expect_eq(verdict, rows[i].verdict, "%s: %d", rows[i].what, (int)verdict);
        if (verdict == NVMX_EPT_L1_VIOLATION) {
            cr_expect_eq(fault.qualification, rows[i].qualification, "%s: %#llx", rows[i].what, (unsigned long long)fault.qualification);
        } else if (verdict == NVMX_EPT_RETRY) {
            cr_expect_eq(leaf02(w, rows[i].eptp12) & (7 | SSS), rows[i].leaf, "%s: %#llx", rows[i].what,
                         (unsigned long long)leaf02(w, rows[i].eptp12));
        }
        world_delete(w);
    }
}

/* A table above that is not writable makes it none; and what changes is followed. */
Test(ept, supervisor_shadow_stacks_follow_changes) {
    struct world *w = with_stack(1 | SSS, 7);
    struct nvmx_ept_fault fault;

    w->l1[2][0] &= ~NVMX_EPT_WRITE;
    cr_expect_eq(fault_at(w, EPTP12_SSS, GPA2, SS_READ, &fault), NVMX_EPT_L1_VIOLATION);
    cr_expect_eq(fault.qualification, 0x4189);
    w->l1[2][0] |= NVMX_EPT_WRITE;
    nvmx_ept_invept(w->ept, &w, false, EPTP12_SSS);
    cr_expect_eq(fault_at(w, EPTP12_SSS, GPA2, SS_READ, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(leaf02(w, EPTP12_SSS) & (7 | SSS), 1 | SSS);
    world_protect01(w, 0x205, 1);
    cr_expect_eq(leaf02(w, EPTP12_SSS) & (7 | SSS), 1, "a shadow stack would be written to");
    world_set01(w, 0x205, 1, 7, 6, false, 12);
    cr_expect_eq(fault_at(w, EPTP12_SSS, GPA2, SS_READ, &fault), NVMX_EPT_RETRY);
    w->l1[3][5] &= ~SSS;
    nvmx_ept_invept(w->ept, &w, false, EPTP12_SSS);
    cr_expect_eq(leaf02(w, EPTP12_SSS) & SSS, 0, "the comparison sees bit 60");
    world_delete(w);
}

/* With accessed and dirty flags the first access sets both: ept02 can't let reads through and hold writes. */
Test(ept, supervisor_shadow_stacks_and_dirty_flags) {
    struct world *w = with_stack(1 | SSS, 7);
    struct nvmx_ept_fault fault;
    const uint64_t eptp12 = EPTP12_SSS | NVMX_EPTP_AD;

    cr_expect_eq(fault_at(w, eptp12, GPA2, 0x181, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x100);
    cr_expect_eq(leaf02(w, eptp12) & (7 | SSS), 1, "no shadow stack before the dirty flag is set");
    cr_expect_eq(fault_at(w, eptp12, GPA2, SS_WRITE, &fault), NVMX_EPT_RETRY);
    cr_expect_eq(w->l1[3][5] & 0x300, 0x300);
    cr_expect_eq(leaf02(w, eptp12) & (7 | SSS), 1 | SSS);
    world_delete(w);
}
