/* SPDX-License-Identifier: MIT */
/* ept12: L1's page tables for L2. Built anew for each scenario; 4-KB pages below 2 MB, larger on request. */
#ifndef L1_EPT_H
#define L1_EPT_H

#include <stdint.h>

#define EPT_READ 1ul
#define EPT_WRITE 2ul
#define EPT_EXECUTE 4ul
#define EPT_ALL (EPT_READ | EPT_WRITE | EPT_EXECUTE)
#define EPT_WB (6ul << 3)
#define EPT_UC (0ul << 3)
#define EPT_LARGE 0x80ul
#define EPT_ACCESSED 0x100ul
#define EPT_DIRTY 0x200ul

enum { EPT_LEVEL_4K = 1, EPT_LEVEL_2M = 2, EPT_LEVEL_1G = 3, EPT_LEVEL_512G = 4 };

/* Empties the tables. */
void ept_reset(void);

/* EPTP for these tables: write-back, four levels. */
uint64_t ept_pointer(void);

/* The entry that maps gpa2 at the level; makes the tables above it. Tables are not made anew if present. */
uint64_t *ept_entry(uint64_t gpa2, uint32_t level);

/* Maps one page; gpa1 is what L1 calls physical memory, which is its linear address too. */
void ept_map(uint64_t gpa2, uint64_t gpa1, uint32_t level, uint64_t flags);

#endif
