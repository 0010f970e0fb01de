/* SPDX-License-Identifier: MIT */
/* Keeping L1's image, its modules and L0 apart while they find their places. */
#include "console.h"
#include "l1.h"
#include "memory.h"
#include "x86.h"

const void *module_bytes(const struct boot_module *module, uint64_t offset, uint64_t bytes) {
    uint64_t size = module->end - module->start;

    if (offset > size || bytes > size - offset)
        return NULL;
    return phys_to_virt(module->start + offset);
}

static void check_extents(const struct l1_extent *extents, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (memory_is_own(extents[i].start, extents[i].end))
            panic("L1's image wants 0x%lx-0x%lx, where L0 is", extents[i].start, extents[i].end);
        if (!memory_is_ram(extents[i].start, extents[i].end))
            panic("L1's image wants 0x%lx-0x%lx, which is not RAM", extents[i].start, extents[i].end);
    }
}

static bool in_the_way(const struct boot_module *module, const struct l1_extent *extents, uint32_t count) {
    if (module->start % PAGE_BYTES)
        return true;
    for (uint32_t i = 0; i < count; i++)
        if (module->start < extents[i].end && module->end > extents[i].start)
            return true;
    return false;
}

void modules_settle(struct boot_modules *modules, const struct l1_extent *extents, uint32_t count, uint64_t max) {
    check_extents(extents, count);
    memory_release_all();
    for (uint32_t i = 0; i < count; i++)
        memory_reserve(extents[i].start, extents[i].end);
    for (uint32_t i = 0; i < modules->count; i++)
        memory_reserve(modules->module[i].start, modules->module[i].end);
    for (uint32_t i = 0; i < modules->count; i++) {
        struct boot_module *module = &modules->module[i];
        uint64_t bytes = module->end - module->start;
        uint64_t to;

        if (!in_the_way(module, extents, count) && module->end <= max)
            continue;
        to = memory_find(bytes, PAGE_BYTES, 1 * MIB, max);
        if (!to)
            panic("no free memory to move module %u (%lu bytes) out of the way", i, bytes);
        memcpy(phys_to_virt(to), phys_to_virt(module->start), bytes);
        module->start = to;
        module->end = to + bytes;
        memory_reserve(module->start, module->end);
    }
}
