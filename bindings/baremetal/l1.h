/* SPDX-License-Identifier: MIT */
/* Starting L1: the boot modules, and how its first instruction finds the processor. */
#ifndef L1_H
#define L1_H

#include <stdbool.h>
#include <stdint.h>

#define MODULES_MAX 32

/* A boot module. `start` and `end` are physical; `string` lies in L0's memory. */
struct boot_module {
    uint64_t start, end;
    const char *string;
};

struct boot_modules {
    uint32_t count;
    struct boot_module module[MODULES_MAX]; /* [0] is L1's image */
};

/* L1's registers at its start: 32-bit protected mode, paging off, flat segments. */
struct l1_start {
    uint32_t eip, eax, ebx, esi, esp;
    uint16_t code_selector, data_selector;
    uint32_t gdt_base; /* a GDT that holds the selectors; limit 0: none */
    uint16_t gdt_limit;
};

/* A place that L1's image wants for itself. */
struct l1_extent {
    uint64_t start, end;
};
#define EXTENTS_MAX 32

/* The next hpa-addressed bytes of an image, or NULL past its end. */
const void *module_bytes(const struct boot_module *module, uint64_t offset, uint64_t bytes);

/*
 * Get the modules out of the way of `extents`: each that overlaps one (or isn't page-aligned) moves to free RAM below
 * `max`. On return modules and extents are reserved. Panics if an extent isn't free RAM or memory is short.
 */
void modules_settle(struct boot_modules *modules, const struct l1_extent *extents, uint32_t count, uint64_t max);

/* Load L1's image (module 0) and prepare what it finds in memory. */
void multiboot_load(struct boot_modules *modules, struct l1_start *start);
bool linux_is_image(const struct boot_module *image);
void linux_load(struct boot_modules *modules, struct l1_start *start);

#endif
