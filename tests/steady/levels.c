/* SPDX-License-Identifier: MIT */
#include "steady.h"

#include "ept.h"
#include "vmx.h"

#define EXECUTE_USER 0x400ul /* looked at with mode-based execute control alone */

/* PML4, PDPT, page directory, page table of each. */
static uint64_t tables[LEVELS][4][512] __attribute__((aligned(4096)));

void level_map(enum level level, uint64_t gpa2, uint64_t gpa1, uint64_t rights) {
    for (uint32_t i = 0; i < 3; i++) {
        tables[level][i][0] = (uint64_t)tables[level][i + 1] | EPT_ALL | EXECUTE_USER;
    }
    tables[level][3][gpa2 >> 12 & 511] = rights != 0 ? gpa1 | rights | EPT_WB : 0;
}

uint64_t level_eptp(enum level level) {
    return (uint64_t)tables[level][0] | 3ul << 3 | 6;
}

void level_invalidate(enum level level) {
    uint64_t descriptor[2] = {level_eptp(level), 0};
    must(vmx_invept(1, descriptor).flags == 0, "INVEPT failed");
}
