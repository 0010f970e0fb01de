/* SPDX-License-Identifier: MIT */
/*
 * What the BIOS says about memory. An L1 that goes back to real mode and asks INT 15H (Xen does, whatever its loader
 * told it) would get the machine's map, in which L0's range is free RAM. As option ROMs do, L0 takes a piece off the
 * top of conventional memory and puts a handler there that answers from L0's map. It is L1's own code in L1's own
 * memory: what L1 calls it with, and whether L1 overwrites it, is no concern of L0's.
 */
#include "bios.h"

#include "console.h"
#include "host.h"

#define VECTOR_15H       (0x15 * 4u)
#define BASE_MEMORY_WORD 0x413u /* BIOS data area: conventional memory in KiB; INT 12H returns it */
#define LOWEST           (512 * KIB)
#define COUNT_MAX        ((BIOS_BLOCK_BYTES - BIOS_MAP) / BIOS_MAP_ENTRY)

extern const uint8_t bios_hook_start[BIOS_CODE_BYTES]; /* bios_hook.S */

static uint64_t block;

static uint16_t read16(uint64_t hpa) {
    uint16_t value;

    memcpy(&value, phys_to_virt(hpa), sizeof value);
    return value;
}

static void write16(uint64_t hpa, uint64_t value) {
    uint16_t narrow = value < 0xffff ? (uint16_t)value : 0xffff;

    memcpy(phys_to_virt(hpa), &narrow, sizeof narrow);
}

/* End of the RAM that contains `start`; `start` if none does. */
static uint64_t ram_end(uint64_t start) {
    const struct memory_map *map = memory_map();

    for (uint32_t i = 0; i < map->count; i++)
        if (map->region[i].type == MEMORY_RAM && start >= map->region[i].start && start < map->region[i].end)
            return map->region[i].end;
    return start;
}

void bios_take_block(void) {
    block = memory_find(BIOS_BLOCK_BYTES, PAGE_BYTES, LOWEST, read16(BASE_MEMORY_WORD) * KIB);
    if (!block) {
        print("nvmx: no conventional memory for a BIOS hook: INT 15H does not hide L0\n");
        return;
    }
    memory_set_aside(block, block + BIOS_BLOCK_BYTES);
}

static void put_map(void) {
    const struct memory_map *map = memory_map();
    uint32_t count = map->count < COUNT_MAX ? map->count : (uint32_t)COUNT_MAX;

    for (uint32_t i = 0; i < count; i++) {
        const struct memory_region *r = &map->region[i];
        uint64_t at = block + BIOS_MAP + i * BIOS_MAP_ENTRY, bytes = r->end - r->start;

        memcpy(phys_to_virt(at), &r->start, 8);
        memcpy(phys_to_virt(at + 8), &bytes, 8);
        memcpy(phys_to_virt(at + 16), &r->type, 4);
    }
    write16(block + BIOS_MAP_COUNT, count);
}

void bios_hook(void) {
    uint64_t above_1m = ram_end(1 * MIB) - 1 * MIB, above_16m = ram_end(16 * MIB) - 16 * MIB;

    if (!block)
        return;
    memset(phys_to_virt(block), 0, BIOS_BLOCK_BYTES);
    memcpy(phys_to_virt(block), bios_hook_start, BIOS_CODE_BYTES);
    memcpy(phys_to_virt(block + BIOS_OLD_VECTOR), phys_to_virt(VECTOR_15H), 4);
    write16(block + BIOS_BELOW_16M_KIB, (above_1m < 15 * MIB ? above_1m : 15 * MIB) / KIB);
    write16(block + BIOS_ABOVE_16M_64K, above_1m < 15 * MIB ? 0 : above_16m / (64 * KIB));
    write16(block + BIOS_ABOVE_1M_KIB, above_1m / KIB);
    put_map();
    write16(VECTOR_15H, 0);
    write16(VECTOR_15H + 2, block >> 4);
    write16(BASE_MEMORY_WORD, block / KIB);
}
