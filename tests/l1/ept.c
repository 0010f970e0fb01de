/* SPDX-License-Identifier: MIT */
#include "ept.h"

#include "cpu.h"
#include "report.h"

enum { TABLES = 24 };

static uint64_t tables[TABLES][512] __attribute__((aligned(4096)));
static uint32_t tables_used;

static uint64_t *new_table(void) {
    if (tables_used == TABLES) {
        report_fatal("no page left for EPT");
    }
    uint64_t *table = tables[tables_used++];
    memset(table, 0, sizeof tables[0]);
    return table;
}

void ept_reset(void) {
    tables_used = 0;
    new_table();
}

uint64_t ept_pointer(void) {
    return (uint64_t)tables[0] | 3ul << 3 | 6;
}

uint64_t *ept_entry(uint64_t gpa2, uint32_t level) {
    uint64_t *table = tables[0];
    for (uint32_t at = EPT_LEVEL_512G; at > level; at--) {
        uint64_t *entry = &table[gpa2 >> (12 + 9 * (at - 1)) & 511];
        if ((*entry & ~0xffful) == 0) {
            *entry = (uint64_t)new_table() | EPT_ALL;
        }
        table = (uint64_t *)(*entry & ~0xffful);
    }
    return &table[gpa2 >> (12 + 9 * (level - 1)) & 511];
}

void ept_map(uint64_t gpa2, uint64_t gpa1, uint32_t level, uint64_t flags) {
    *ept_entry(gpa2, level) = gpa1 | flags | (level > EPT_LEVEL_4K ? EPT_LARGE : 0);
}
