/* SPDX-License-Identifier: MIT */
/*
 * L1 is a multiboot-1 image (Multiboot Specification 0.6.96): ELF32, ELF64, or any file whose header has the address
 * fields.
 *
 * As lenient as GRUB: a wish for a video mode is answered with text mode's framebuffer, ELF64 is taken, and an entry
 * point that is a virtual address is looked up in the segments.
 */
#include "multiboot.h"

#include "console.h"
#include "host.h"
#include "l1.h"

#define ELF_CLASS_32       1
#define ELF_CLASS_64       2
#define ELF_MACHINE_386    3
#define ELF_MACHINE_X86_64 62
#define ELF_LOAD           1
#define LOW_MEMORY_END     0x90000 /* boot data goes below, away from the EBDA */
#define LOW_MEMORY_START   0x1000

#define KNOWN_DEMANDS      (MULTIBOOT_HEADER_PAGE_ALIGN | MULTIBOOT_HEADER_MEMORY | MULTIBOOT_HEADER_VIDEO)

/* One piece of the file that goes to memory. */
struct piece {
    uint64_t offset, file_bytes, virtual_address, physical, memory_bytes;
};

struct image {
    uint32_t count;
    struct piece piece[EXTENTS_MAX];
    uint64_t entry;
};

static bool find_header(const struct boot_module *file, struct multiboot_header *header, uint64_t *offset) {
    for (*offset = 0; *offset + 12 <= MULTIBOOT_SEARCH_BYTES; *offset += 4) {
        const void *at = module_bytes(file, *offset, 12);

        if (!at)
            return false;
        memset(header, 0, sizeof *header);
        memcpy(header, at, 12);
        if (header->magic != MULTIBOOT_HEADER_MAGIC || header->magic + header->flags + header->checksum)
            continue;
        if (header->flags & MULTIBOOT_HEADER_ADDRESSES) {
            at = module_bytes(file, *offset, sizeof *header);
            if (!at)
                panic("L1's multiboot header is cut off at the end of the file");
            memcpy(header, at, sizeof *header);
        }
        return true;
    }
    return false;
}

static void add_piece(struct image *image, const struct boot_module *file, const struct piece *piece) {
    if (image->count == EXTENTS_MAX)
        panic("L1's image has more than %d segments", EXTENTS_MAX);
    if (!module_bytes(file, piece->offset, piece->file_bytes))
        panic("L1's image is cut off: a segment reaches beyond the end of the file");
    if (piece->physical + piece->memory_bytes > 4 * GIB || piece->physical > 4 * GIB)
        panic("L1's image wants memory above 4 GiB (0x%lx)", piece->physical);
    image->piece[image->count++] = *piece;
}

static void read_flat(const struct boot_module *file, const struct multiboot_header *h, uint64_t header_offset,
                      struct image *image) {
    uint64_t size = file->end - file->start;
    struct piece piece = {.physical = h->load_address, .virtual_address = h->load_address};

    if (h->header_address < h->load_address || h->header_address - h->load_address > header_offset)
        panic("L1's multiboot header has bad address fields (load 0x%x, header 0x%x)", h->load_address,
              h->header_address);
    piece.offset = header_offset - (h->header_address - h->load_address);
    piece.file_bytes = h->load_end_address ? (uint64_t)h->load_end_address - h->load_address : size - piece.offset;
    piece.memory_bytes = h->bss_end_address ? (uint64_t)h->bss_end_address - h->load_address : piece.file_bytes;
    if (h->load_end_address && h->load_end_address < h->load_address)
        panic("L1's multiboot header ends loading before it begins");
    if (piece.memory_bytes < piece.file_bytes)
        piece.memory_bytes = piece.file_bytes;
    add_piece(image, file, &piece);
    image->entry = h->entry_address;
}

static uint64_t field(const uint8_t *bytes, uint32_t offset, uint32_t width) {
    uint64_t value = 0;

    memcpy(&value, bytes + offset, width);
    return value;
}

static void read_segment(const struct boot_module *file, const uint8_t *header, bool is_64, struct image *image) {
    struct piece piece;

    if (field(header, 0, 4) != ELF_LOAD)
        return;
    if (is_64)
        piece = (struct piece){field(header, 8, 8), field(header, 32, 8), field(header, 16, 8), field(header, 24, 8),
                               field(header, 40, 8)};
    else
        piece = (struct piece){field(header, 4, 4), field(header, 16, 4), field(header, 8, 4), field(header, 12, 4),
                               field(header, 20, 4)};
    if (!piece.memory_bytes)
        return;
    if (piece.file_bytes > piece.memory_bytes)
        piece.file_bytes = piece.memory_bytes;
    add_piece(image, file, &piece);
}

static void read_elf(const struct boot_module *file, struct image *image) {
    const uint8_t *elf = module_bytes(file, 0, 64);
    uint64_t table, bytes, count;
    bool is_64;

    if (!elf || memcmp(elf, "\177ELF", 4))
        panic("L1's image is not ELF and its multiboot header has no address fields");
    is_64 = elf[4] == ELF_CLASS_64;
    if ((!is_64 && elf[4] != ELF_CLASS_32) || elf[5] != 1 ||
        field(elf, 18, 2) != (is_64 ? ELF_MACHINE_X86_64 : ELF_MACHINE_386))
        panic("L1's image is ELF, but not for x86");
    image->entry = is_64 ? field(elf, 24, 8) : field(elf, 24, 4);
    table = is_64 ? field(elf, 32, 8) : field(elf, 28, 4);
    bytes = field(elf, is_64 ? 54 : 42, 2);
    count = field(elf, is_64 ? 56 : 44, 2);
    if (bytes < (is_64 ? 56u : 32u))
        panic("L1's ELF program headers are too small");
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *header = module_bytes(file, table + i * bytes, bytes);

        if (!header)
            panic("L1's ELF program headers reach beyond the end of the file");
        read_segment(file, header, is_64, image);
    }
}

/* The entry point may be a virtual address. */
static uint32_t entry_address(const struct image *image) {
    for (uint32_t i = 0; i < image->count; i++) {
        const struct piece *p = &image->piece[i];

        if (image->entry >= p->virtual_address && image->entry - p->virtual_address < p->memory_bytes)
            return (uint32_t)(image->entry - p->virtual_address + p->physical);
    }
    panic("L1's entry point 0x%lx is in none of its segments", image->entry);
}

/* -- what L1 finds ------------------------------------------------------------------------------------------------ */

/* Grows upwards through one block of low memory. */
struct arena {
    uint64_t at, end;
};

static uint32_t put_bytes(struct arena *arena, const void *data, uint64_t bytes) {
    uint64_t at = (arena->at + 7) & ~7ull;

    arena->at = at + bytes;
    if (arena->at > arena->end)
        panic("L1's boot information does not fit"); /* arena_bytes counted wrongly */
    memcpy(phys_to_virt(at), data, bytes);
    return (uint32_t)at;
}

static uint64_t string_bytes(const char *string) {
    uint64_t bytes = 1;

    while (*string++)
        bytes++;
    return bytes;
}

static uint64_t arena_bytes(const struct boot_modules *modules) {
    uint64_t bytes = PAGE_BYTES + memory_map()->count * sizeof(struct multiboot_memory);

    for (uint32_t i = 0; i < modules->count; i++)
        bytes += string_bytes(modules->module[i].string) + 8 + sizeof(struct multiboot_module) + 8;
    return bytes;
}

static void put_memory_map(struct arena *arena, struct multiboot_info *info) {
    const struct memory_map *map = memory_map();
    static struct multiboot_memory entry[MEMORY_MAP_MAX];

    for (uint32_t i = 0; i < map->count; i++) {
        const struct memory_region *r = &map->region[i];

        entry[i] = (struct multiboot_memory){sizeof entry[i] - 4, r->start, r->end - r->start, r->type};
        if (r->type != MEMORY_RAM)
            continue;
        if (r->start == 0)
            info->memory_lower_kib = (uint32_t)((r->end < MIB ? r->end : MIB) / KIB);
        if (r->start <= MIB && r->end > MIB)
            info->memory_upper_kib = (uint32_t)(((r->end < 4 * GIB ? r->end : 4 * GIB) - MIB) / KIB);
    }
    info->memory_map_bytes = map->count * (uint32_t)sizeof entry[0];
    info->memory_map_address = put_bytes(arena, entry, info->memory_map_bytes);
    info->flags |= MULTIBOOT_INFO_MEMORY | MULTIBOOT_INFO_MEMORY_MAP;
}

static void put_modules(struct arena *arena, const struct boot_modules *modules, struct multiboot_info *info) {
    struct multiboot_module list[MODULES_MAX];

    memset(list, 0, sizeof list);
    for (uint32_t i = 1; i < modules->count; i++) {
        const struct boot_module *m = &modules->module[i];

        list[i - 1].start = (uint32_t)m->start;
        list[i - 1].end = (uint32_t)m->end;
        list[i - 1].string = put_bytes(arena, m->string, string_bytes(m->string));
    }
    info->module_count = modules->count - 1;
    info->module_address = put_bytes(arena, list, info->module_count * sizeof list[0]);
    info->flags |= MULTIBOOT_INFO_MODULES;
}

static uint32_t put_information(const struct boot_modules *modules, uint32_t wishes) {
    static const char loader[] = "nvmx";
    uint64_t bytes = arena_bytes(modules);
    struct arena arena;
    struct multiboot_info info = {.flags = MULTIBOOT_INFO_COMMAND_LINE | MULTIBOOT_INFO_LOADER_NAME};
    const char *command_line = modules->module[0].string;

    arena.at = memory_find(bytes, PAGE_BYTES, LOW_MEMORY_START, LOW_MEMORY_END);
    if (!arena.at)
        arena.at = memory_find(bytes, PAGE_BYTES, 1 * MIB, 4 * GIB);
    if (!arena.at)
        panic("no free memory for L1's boot information");
    arena.end = arena.at + bytes;
    info.command_line = put_bytes(&arena, command_line, string_bytes(command_line));
    info.loader_name = put_bytes(&arena, loader, sizeof loader);
    put_memory_map(&arena, &info);
    put_modules(&arena, modules, &info);
    if (wishes & MULTIBOOT_HEADER_VIDEO) {
        info.flags |= MULTIBOOT_INFO_FRAMEBUFFER;
        info.framebuffer_low = 0xb8000;
        info.framebuffer_pitch = 160;
        info.framebuffer_width = 80;
        info.framebuffer_height = 25;
        info.framebuffer_bits = 16;
        info.framebuffer_type = 2; /* EGA text */
    }
    return put_bytes(&arena, &info, sizeof info);
}

void multiboot_load(struct boot_modules *modules, struct l1_start *start) {
    struct boot_module *file = &modules->module[0];
    static struct image image;
    struct l1_extent extents[EXTENTS_MAX];
    struct multiboot_header header;
    uint64_t offset;

    if (!find_header(file, &header, &offset))
        panic("L1's image is neither a Linux bzImage nor has it a multiboot-1 header in its first 8 KiB");
    if (header.flags & MULTIBOOT_HEADER_DEMANDS & ~KNOWN_DEMANDS)
        panic("L1's multiboot header demands what L0 does not know: flags 0x%x", header.flags);
    if (header.flags & MULTIBOOT_HEADER_ADDRESSES)
        read_flat(file, &header, offset, &image);
    else
        read_elf(file, &image);
    for (uint32_t i = 0; i < image.count; i++)
        extents[i] = (struct l1_extent){image.piece[i].physical, image.piece[i].physical + image.piece[i].memory_bytes};
    start->eip = entry_address(&image);
    modules_settle(modules, extents, image.count, 4 * GIB);
    for (uint32_t i = 0; i < image.count; i++) {
        const struct piece *p = &image.piece[i];

        memcpy(phys_to_virt(p->physical), module_bytes(file, p->offset, p->file_bytes), p->file_bytes);
        memset((uint8_t *)phys_to_virt(p->physical) + p->file_bytes, 0, p->memory_bytes - p->file_bytes);
    }
    start->eax = MULTIBOOT_LOADER_MAGIC;
    start->ebx = put_information(modules, header.flags);
}
