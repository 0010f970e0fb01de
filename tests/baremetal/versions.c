/* SPDX-License-Identifier: MIT */
/*
 * bindings/baremetal's versions.c and ept01.c, with processors that cache what they walked: as long as page_version gives the same number for a page,
 * nobody has written to it. Bochs drops all translations at each exit and entry, so no machine there notices when a flush is left out.
 *
 * usage: nvmx-baremetal-versions [--without FLUSH|OTHERS|PROTECT|FORGET]   something is left out, and the exit status is 1 if that shows
 */
#include "console.h"
#include "host.h"
#include "versions.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../unit/draw.h"

#define SEEDS      24
#define OPERATIONS 50000u
#define CPUS       3u
#define CACHED     6u
#define BLOCKS     3u /* of 2 MiB: the first and the last have pages with one place in `watched` */
#define HOT        4u /* pages of each that are used */
#define PAGES      (BLOCKS * 512u)
#define EPT_DIRTY  (1ull << 9)

enum without { NOTHING, FLUSH, OTHERS, PROTECT, FORGET };
static const char *const without_name[] = {"", "FLUSH", "OTHERS", "PROTECT", "FORGET"};

/* What a processor caches of ept01. */
struct cached {
    uint64_t first, bytes; /* 0: nothing */
};

static struct {
    enum without without;
    uint64_t random;
    struct cpu cpu[CPUS];
    struct cached cached[CPUS][CACHED];
    uint32_t self;        /* the processor that is in L0 and has the lock */
    bool l2_writes[PAGES]; /* ept02 lets it */
    uint64_t content[PAGES];
    uint64_t number[PAGES], seen[PAGES]; /* of page_version, and what was read then */
    uint64_t kept;
    uint64_t together;           /* the number of all pages, as it was before those of the last set were asked for and stood */
    uint64_t set, contents[HOT]; /* the set: HOT pages from this one on */
    uint64_t kept_together;
} m;

/* -- the rest of the host ------------------------------------------------------------------------------------------------------------ */

struct options options;
uint32_t processors = CPUS;
bool l0_is_guest;

_Noreturn void panic(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    exit(2);
}

bool vmx_has_ept(uint32_t bit) {
    return bit != EPT_CAP_1G || m.random % 2 == 0; /* asked once, at the start */
}

const struct memory_map *memory_map(void) {
    static const struct memory_map map = {.count = 1, .region = {{0, PAGES * PAGE_BYTES, MEMORY_RAM}}};
    return &map;
}

bool memory_is_own(uint64_t start, uint64_t end) {
    (void)start, (void)end;
    return false;
}

bool memory_is_l1_page(uint64_t gpa1) {
    return gpa1 < PAGES * PAGE_BYTES;
}

uint32_t mtrr_type(uint64_t hpa, uint32_t shift) {
    (void)hpa, (void)shift;
    return 6;
}

/* Now and then there are few. */
uint64_t pages_left(void) {
    return draw_one_in(&m.random, 4) ? 10 : 1000;
}

void *page_get(uint64_t *hpa) {
    void *page = aligned_alloc(PAGE_BYTES, PAGE_BYTES);

    if (!page)
        panic("no memory");
    *hpa = (uintptr_t)page;
    return memset(page, 0, PAGE_BYTES);
}

void *page_get_or_die(uint64_t *hpa, const char *what) {
    (void)what;
    return page_get(hpa);
}

struct cpu *processor(uint32_t index) {
    return &m.cpu[index];
}

bool processors_in_guests(const struct cpu *self) {
    for (uint32_t c = 0; c < CPUS; c++)
        if (&m.cpu[c] != self && m.cpu[c].in_guest)
            return true;
    return false;
}

bool model_invept(uint64_t type, uint64_t eptp) {
    (void)type, (void)eptp;
    if (m.without != FLUSH)
        memset(m.cached[m.self], 0, sizeof m.cached[m.self]);
    return true;
}

static void others_write(void);
void processors_flush_others(struct cpu *self) {
    others_write();
    for (uint32_t c = 0; c < CPUS; c++)
        if (&m.cpu[c] != self) {
            m.cpu[c].flush_due = m.without != OTHERS;
            m.cpu[c].in_guest = false;
        }
}

/* libnvmx takes the right to write from ept02, and flushes. */
enum nvmx_status nvmx_memory_protected(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint64_t bytes) {
    (void)vcpu;
    for (uint64_t page = gpa1 / PAGE_BYTES; page < (gpa1 + bytes) / PAGE_BYTES && m.without != PROTECT; page++)
        m.l2_writes[page] = false;
    return NVMX_OK;
}

/* -- L1 and L2 ----------------------------------------------------------------------------------------------------------------------- */

static uint64_t some_page(void) {
    return draw_below(&m.random, BLOCKS) * 512 + draw_below(&m.random, HOT);
}

/* The leaf that maps the page: its first address and size; NULL: there is none. */
static uint64_t *walk(uint64_t gpa1, struct cached *leaf) {
    uint64_t table = ept01_pointer() & ~(PAGE_BYTES - 1);

    for (uint32_t shift = 39;; shift -= 9) {
        uint64_t *entry = (uint64_t *)table + (gpa1 >> shift & 511);

        if (!(*entry & 7))
            return NULL;
        if (shift == 12 || *entry & 0x80) {
            *leaf = (struct cached){gpa1 >> shift << shift, 1ull << shift};
            return entry;
        }
        table = *entry & 0x000ffffffffff000;
    }
}

/* A processor that has the page as dirty sets no flag. False: the page is not there. */
static bool l1_write(uint32_t c, uint64_t page) {
    uint64_t gpa1 = page * PAGE_BYTES;
    struct cached leaf;
    uint64_t *entry;

    for (uint32_t i = 0; i < CACHED; i++)
        if (gpa1 - m.cached[c][i].first < m.cached[c][i].bytes) {
            m.content[page]++;
            return true;
        }
    entry = walk(gpa1, &leaf);
    if (!entry)
        return false;
    *entry |= EPT_DIRTY;
    m.cached[c][draw_below(&m.random, CACHED)] = leaf;
    m.content[page]++;
    return true;
}

/* Libnvmx may map all that it was told of. */
static bool l2_write(uint64_t page, bool look_up) {
    struct nvmx_ept01_mapping mapping;

    if (!m.l2_writes[page]) {
        if (!look_up || ept01_find_for_l2(page * PAGE_BYTES, &mapping) != NVMX_OK)
            return false;
        for (uint64_t k = 0; k < 1ull << (mapping.size_shift - 12) && mapping.gpa1 / PAGE_BYTES + k < PAGES; k++)
            m.l2_writes[mapping.gpa1 / PAGE_BYTES + k] = true;
    }
    m.content[page]++;
    return true;
}

static void others_write(void) {
    for (uint32_t c = 0; c < CPUS; c++)
        if (c != m.self && m.cpu[c].in_guest && draw_one_in(&m.random, 3)) {
            if (draw_one_in(&m.random, 2))
                l1_write(c, some_page());
            else
                l2_write(some_page(), false);
        }
}

/* -- what L0 does in an exit ----------------------------------------------------------------------------------------------------------- */

static void give_back(uint64_t page) {
    struct nvmx_ept01_mapping mapping;

    if (ept01_find(page * PAGE_BYTES, &mapping) == NVMX_E_UNMAPPED)
        ept01_set(page * PAGE_BYTES, page * PAGE_BYTES, 7);
}

static void take_out(struct cpu *cpu, uint64_t page) {
    processors_flush_others(cpu);
    if (draw_one_in(&m.random, 2))
        versions_split_at(cpu, page * PAGE_BYTES);
    ept01_set(page * PAGE_BYTES, ept01_hpa(page * PAGE_BYTES), 0);
    ept01_flush();
    m.l2_writes[page] = false; /* nvmx_memory_changed */
}

static void ask(struct cpu *cpu, uint64_t page) {
    uint64_t before = m.content[page];
    uint64_t number = page_version(cpu, page * PAGE_BYTES);

    if (number && number == m.number[page]) {
        if (before != m.seen[page]) {
            fprintf(stderr, "page %lu was written, and has version %lu as before\n", page, number);
            exit(1);
        }
        m.kept++;
    }
    others_write();
    m.number[page] = number;
    m.seen[page] = m.content[page];
}

/* As libnvmx does with the tables of an ept12: as long as the number of all pages is what it was when the number of each stood, none was written. */
static void ask_set(struct cpu *cpu) {
    uint64_t before[HOT], set = draw_below(&m.random, BLOCKS) * 512, together;
    bool stand = true;

    if (!draw_one_in(&m.random, 4))
        set = m.set;
    memcpy(before, &m.content[set], sizeof before);
    together = page_version(cpu, NVMX_NO_ADDRESS);
    if (together && together == m.together && set == m.set) {
        if (memcmp(before, m.contents, sizeof before)) {
            fprintf(stderr, "a page from %lu on was written, and all together have version %lu as before\n", set, together);
            exit(1);
        }
        m.kept_together++;
        return;
    }
    others_write();
    for (uint64_t i = 0; i < HOT; i++) {
        uint64_t before_it = m.number[set + i];

        memcpy(&m.contents[i], &m.seen[set + i], sizeof m.contents[i]);
        ask(cpu, set + i);
        stand = stand && before_it && m.number[set + i] == before_it;
    }
    m.set = set;
    m.together = stand ? together : 0;
}

static void operate(struct cpu *cpu) {
    uint64_t page = some_page();

    switch (draw_below(&m.random, 40)) {
    case 0:
        take_out(cpu, page);
        break;
    case 1:
        m.content[page]++;
        if (m.without != FORGET)
            versions_forget(page * PAGE_BYTES); /* unmap_page, dirtied */
        break;
    case 2:
        if (draw_one_in(&m.random, 20))
            versions_forget_all();
        break;
    case 3:
        give_back(page);
        if (draw_one_in(&m.random, 30))
            l2_write(page, true);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        for (uint32_t count = draw_below(&m.random, 5); count; count--)
            ask_set(cpu);
        break;
    default:
        ask(cpu, page);
    }
}

/* A processor exits, something is done, and all that were brought out go on. */
static void exit_and_entry(void) {
    struct cpu *cpu;

    m.self = draw_below(&m.random, CPUS);
    cpu = &m.cpu[m.self];
    cpu->in_guest = false;
    for (uint32_t count = draw_below(&m.random, 4); count; count--)
        operate(cpu);
    if (cpu->entry.split_due)
        versions_split(cpu);
    for (uint32_t c = 0; c < CPUS; c++) {
        if (m.cpu[c].flush_due)
            memset(m.cached[c], 0, sizeof m.cached[c]);
        m.cpu[c].flush_due = false;
        m.cpu[c].in_guest = c == 0 || m.random % 3 != 0; /* others may wait for a start-up IPI */
    }
}

static void run(uint32_t seed) {
    m.random = seed * 0x9e3779b97f4a7c15u;
    for (uint32_t c = 0; c < CPUS; c++)
        m.cpu[c].vcpu = (struct nvmx_vcpu *)&m.cpu[c];
    versions_init();
    ept01_init();
    for (uint32_t i = draw_below(&m.random, BLOCKS + 1); i; i--)
        l2_write(some_page(), true); /* by large pages, still */
    for (uint32_t i = draw_below(&m.random, BLOCKS); i; i--)
        take_out(&m.cpu[m.self], some_page());
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        if (draw_one_in(&m.random, 3))
            exit_and_entry();
        uint32_t c = draw_below(&m.random, CPUS);
        if (m.cpu[c].in_guest && draw_one_in(&m.random, 4))
            l1_write(c, some_page());
        if (m.cpu[c].in_guest && draw_one_in(&m.random, 4))
            l2_write(some_page(), false);
    }
    if (m.kept < OPERATIONS / 100 || m.kept_together < OPERATIONS / 1000)
        panic("seed %u: hardly a version stood (%lu, %lu of all pages)", seed, m.kept, m.kept_together);
}

static enum without read_arguments(int count, char **word) {
    if (count == 1)
        return NOTHING;
    for (enum without w = FLUSH; count == 3 && !strcmp(word[1], "--without") && w <= FORGET; w++)
        if (!strcmp(word[2], without_name[w]))
            return w;
    fprintf(stderr, "usage: %s [--without FLUSH|OTHERS|PROTECT|FORGET]\n", word[0]);
    exit(2);
}

/* ept01 is made once in a process. */
int main(int count, char **word) {
    m.without = read_arguments(count, word);
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        pid_t child = fork();
        int status = 0;

        if (child == 0) {
            run(seed);
            printf("seed %u: %lu times a version stood, %lu times that of all pages\n", seed, m.kept, m.kept_together);
            fflush(stdout);
            _exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
            panic("seed %u: the program did not end by itself", seed);
        if (WEXITSTATUS(status))
            return WEXITSTATUS(status);
    }
    return 0;
}
