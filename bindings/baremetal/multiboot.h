/* SPDX-License-Identifier: MIT */
/* Structures of the Multiboot Specification 0.6.96: L0 reads them from its loader and writes them for L1. */
#ifndef MULTIBOOT_H
#define MULTIBOOT_H

#include <stdint.h>

#define MULTIBOOT_HEADER_MAGIC      0x1badb002u
#define MULTIBOOT_LOADER_MAGIC      0x2badb002u
#define MULTIBOOT_SEARCH_BYTES      8192u

#define MULTIBOOT_HEADER_PAGE_ALIGN (1u << 0)
#define MULTIBOOT_HEADER_MEMORY     (1u << 1)
#define MULTIBOOT_HEADER_VIDEO      (1u << 2)
#define MULTIBOOT_HEADER_ADDRESSES  (1u << 16)
/* Bits 15:0 are demands: a loader must refuse one that it does not know. */
#define MULTIBOOT_HEADER_DEMANDS    0xffffu

#define MULTIBOOT_INFO_MEMORY       (1u << 0)
#define MULTIBOOT_INFO_COMMAND_LINE (1u << 2)
#define MULTIBOOT_INFO_MODULES      (1u << 3)
#define MULTIBOOT_INFO_MEMORY_MAP   (1u << 6)
#define MULTIBOOT_INFO_LOADER_NAME  (1u << 9)
#define MULTIBOOT_INFO_FRAMEBUFFER  (1u << 12)

struct multiboot_header {
    uint32_t magic, flags, checksum;
    uint32_t header_address, load_address, load_end_address, bss_end_address, entry_address;
};

struct multiboot_info {
    uint32_t flags;
    uint32_t memory_lower_kib, memory_upper_kib;
    uint32_t boot_device;
    uint32_t command_line;
    uint32_t module_count, module_address;
    uint32_t symbols[4];
    uint32_t memory_map_bytes, memory_map_address;
    uint32_t drives_bytes, drives_address;
    uint32_t configuration_table;
    uint32_t loader_name;
    uint32_t apm_table;
    uint32_t vbe_control, vbe_mode_information;
    uint16_t vbe_mode, vbe_segment, vbe_offset, vbe_length;
    uint32_t framebuffer_low, framebuffer_high, framebuffer_pitch, framebuffer_width, framebuffer_height;
    uint8_t framebuffer_bits, framebuffer_type, color_information[6];
} __attribute__((packed));

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

struct multiboot_memory {
    uint32_t entry_bytes; /* without this member */
    uint64_t start, bytes;
    uint32_t type;
} __attribute__((packed));

#endif
