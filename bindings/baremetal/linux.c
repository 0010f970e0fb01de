/* SPDX-License-Identifier: MIT */
/*
 * L1 is a Linux bzImage, started by the 32-bit boot protocol (Linux, Documentation/x86/boot.rst): the real-mode part of
 * the file is not run; its set-up header, the memory map, the command line and the initramfs (module 1) are handed over
 * in boot_params.
 */
#include "console.h"
#include "host.h"
#include "l1.h"

#define LOW_START          0x1000
#define LOW_END            0x90000

#define BOOT_SELECTOR_CODE 0x10
#define BOOT_SELECTOR_DATA 0x18

/* Offsets in boot_params (from 1F1H on: also in the file). */
enum {
    PARAMS_VIDEO_MODE = 0x06,
    PARAMS_VIDEO_COLUMNS = 0x07,
    PARAMS_VIDEO_LINES = 0x0e,
    PARAMS_VIDEO_IS_VGA = 0x0f,
    PARAMS_VIDEO_POINTS = 0x10,
    PARAMS_ACPI_RSDP = 0x70,
    PARAMS_E820_COUNT = 0x1e8,
    PARAMS_SETUP_SECTORS = 0x1f1,
    PARAMS_BOOT_FLAG = 0x1fe,
    PARAMS_JUMP = 0x201, /* second byte: where the header ends, from 202H */
    PARAMS_MAGIC = 0x202,
    PARAMS_VERSION = 0x206,
    PARAMS_LOADER = 0x210,
    PARAMS_LOAD_FLAGS = 0x211,
    PARAMS_CODE32_START = 0x214,
    PARAMS_INITRD = 0x218,
    PARAMS_INITRD_BYTES = 0x21c,
    PARAMS_COMMAND_LINE = 0x228,
    PARAMS_INITRD_MAX = 0x22c,
    PARAMS_RELOCATABLE = 0x234,
    PARAMS_COMMAND_LINE_MAX = 0x238,
    PARAMS_PREFERRED = 0x258,
    PARAMS_INIT_BYTES = 0x260,
    PARAMS_E820 = 0x2d0,
    PARAMS_BYTES = 4096,
};
#define E820_MAX       128
#define LOADER_UNKNOWN 0xff
#define LOADED_HIGH    1u
#define VERSION_2_10   0x20a /* has preferred address and init_size: 2009 */
#define VERSION_2_14   0x20e /* has acpi_rsdp_addr */

struct e820 {
    uint64_t start, bytes;
    uint32_t type;
} __attribute__((packed));

static uint64_t get(const uint8_t *bytes, uint32_t offset, uint32_t width) {
    uint64_t value = 0;

    memcpy(&value, bytes + offset, width);
    return value;
}

static void put(uint8_t *params, uint32_t offset, uint32_t width, uint64_t value) {
    memcpy(params + offset, &value, width);
}

bool linux_is_image(const struct boot_module *image) {
    const uint8_t *file = module_bytes(image, 0, PARAMS_MAGIC + 4);

    return file && get(file, PARAMS_BOOT_FLAG, 2) == 0xaa55 && !memcmp(file + PARAMS_MAGIC, "HdrS", 4);
}

/* Bytes of low memory, zeroed. */
static uint64_t take_low(uint64_t bytes, const char *what) {
    uint64_t at = memory_find(bytes, PAGE_BYTES, LOW_START, LOW_END);

    if (!at)
        panic("no free low memory for Linux's %s", what);
    memory_reserve(at, at + bytes);
    memset(phys_to_virt(at), 0, bytes);
    return at;
}

static void put_header(uint8_t *params, const struct boot_module *image) {
    const uint8_t *file = module_bytes(image, 0, PARAMS_BYTES);
    uint32_t end = PARAMS_MAGIC + file[PARAMS_JUMP];

    memcpy(params + PARAMS_SETUP_SECTORS, file + PARAMS_SETUP_SECTORS, end - PARAMS_SETUP_SECTORS);
    put(params, PARAMS_LOADER, 1, LOADER_UNKNOWN);
    put(params, PARAMS_VIDEO_MODE, 1, 3);
    put(params, PARAMS_VIDEO_COLUMNS, 1, 80);
    put(params, PARAMS_VIDEO_LINES, 1, 25);
    put(params, PARAMS_VIDEO_IS_VGA, 1, 1);
    put(params, PARAMS_VIDEO_POINTS, 2, 16);
    if (get(file, PARAMS_VERSION, 2) >= VERSION_2_14)
        put(params, PARAMS_ACPI_RSDP, 8, acpi_rsdp());
}

static void put_e820(uint8_t *params) {
    const struct memory_map *map = memory_map();
    uint32_t count = map->count < E820_MAX ? map->count : E820_MAX;

    for (uint32_t i = 0; i < count; i++) {
        const struct memory_region *r = &map->region[i];
        struct e820 entry = {r->start, r->end - r->start, r->type};

        memcpy(params + PARAMS_E820 + i * sizeof entry, &entry, sizeof entry);
    }
    put(params, PARAMS_E820_COUNT, 1, count);
}

/* The string is NAME ARGUMENTS; Linux wants the arguments. */
static void put_command_line(uint8_t *params, const char *string) {
    uint64_t limit = get(params, PARAMS_COMMAND_LINE_MAX, 4), bytes = 0, at;

    while (*string && *string != ' ')
        string++;
    while (*string == ' ')
        string++;
    while (string[bytes])
        bytes++;
    if (bytes > limit)
        panic("the kernel takes %lu bytes of command line, not %lu", limit, bytes);
    at = take_low(bytes + 1, "command line");
    memcpy(phys_to_virt(at), string, bytes);
    put(params, PARAMS_COMMAND_LINE, 4, at);
}

static void put_gdt(struct l1_start *start) {
    static const uint64_t gdt[] = {0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff};
    uint64_t at = take_low(sizeof gdt, "GDT");

    memcpy(phys_to_virt(at), gdt, sizeof gdt);
    start->gdt_base = (uint32_t)at;
    start->gdt_limit = sizeof gdt - 1;
    start->code_selector = BOOT_SELECTOR_CODE;
    start->data_selector = BOOT_SELECTOR_DATA;
}

void linux_load(struct boot_modules *modules, struct l1_start *start) {
    struct boot_module *image = &modules->module[0];
    const uint8_t *file = module_bytes(image, 0, PARAMS_BYTES);
    uint64_t params_at, offset, bytes, to, initrd_max;
    struct l1_extent extent;
    uint8_t *params;

    if (!file || get(file, PARAMS_VERSION, 2) < VERSION_2_10 || !(get(file, PARAMS_LOAD_FLAGS, 1) & LOADED_HIGH))
        panic("this Linux kernel is too old: boot protocol 2.10 with a high-loaded kernel is needed");
    if (modules->count > 2)
        print("nvmx: Linux takes one initramfs; module 2 and later are ignored\n");
    offset = (get(file, PARAMS_SETUP_SECTORS, 1) + 1) * 512;
    if (offset == 512)
        offset = 5 * 512;
    bytes = image->end - image->start;
    if (bytes <= offset)
        panic("this Linux kernel is cut off");
    bytes -= offset;
    to = get(file, PARAMS_PREFERRED, 8);
    extent = (struct l1_extent){to, to + get(file, PARAMS_INIT_BYTES, 4)};
    if (extent.end < to + bytes)
        extent.end = to + bytes;
    initrd_max = get(file, PARAMS_INITRD_MAX, 4) + 1;
    modules_settle(modules, &extent, 1, initrd_max);

    params_at = take_low(PARAMS_BYTES, "boot parameters");
    params = phys_to_virt(params_at);
    put_header(params, image);
    put_e820(params);
    put_command_line(params, image->string);
    put(params, PARAMS_CODE32_START, 4, to);
    if (modules->count > 1) {
        put(params, PARAMS_INITRD, 4, modules->module[1].start);
        put(params, PARAMS_INITRD_BYTES, 4, modules->module[1].end - modules->module[1].start);
    }
    put_gdt(start);
    memcpy(phys_to_virt(to), module_bytes(image, offset, bytes), bytes);
    start->eip = (uint32_t)to;
    start->esi = (uint32_t)params_at;
}
