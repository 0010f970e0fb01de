/* SPDX-License-Identifier: MIT */
/* A Linux bzImage by its 64-bit boot protocol (Documentation/x86/boot.rst of the kernel). */
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linux-guest.h"

/* Offsets in the zero page, which are those of the setup header in the file too. */
#define ACPI_RSDP      0x070u
#define E820_ENTRIES   0x1e8u
#define SETUP_SECTS    0x1f1u
#define HEADER_JUMP    0x201u
#define HEADER_MAGIC   0x202u
#define LOADER_TYPE    0x210u
#define RAMDISK_IMAGE  0x218u
#define RAMDISK_SIZE   0x21cu
#define COMMAND_PLACE  0x228u
#define XLOADFLAGS     0x236u
#define INIT_SIZE      0x260u
#define E820_TABLE     0x2d0u
#define XLF_KERNEL_64  1u
#define ENTRY_64       0x200u
#define COMMAND_MAX    2000u

struct file {
    const uint8_t *bytes;
    size_t size;
};

static struct file open_file(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) {
        fail("can't read %s", path);
    }
    void *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        fail("can't map %s", path);
    }
    close(file);
    return (struct file){bytes, (size_t)status.st_size};
}

static uint32_t get32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static void put32(uint8_t *to, uint32_t value) {
    memcpy(to, &value, sizeof(value));
}

static void put64(uint8_t *to, uint64_t value) {
    memcpy(to, &value, sizeof(value));
}

static void add_range(uint8_t *params, uint64_t start, uint64_t end, uint32_t type) {
    uint8_t *entry = params + E820_TABLE + 20u * params[E820_ENTRIES]++;
    put64(entry, start);
    put64(entry + 8, end - start);
    put32(entry + 16, type);
}

/* Copies the protected-mode kernel; returns how much memory it wants from KERNEL_ADDRESS on. */
static uint32_t put_kernel(uint8_t *memory, struct file kernel) {
    if (kernel.size < 0x1000 || memcmp(kernel.bytes + HEADER_MAGIC, "HdrS", 4) != 0 ||
        (kernel.bytes[XLOADFLAGS] & XLF_KERNEL_64) == 0) {
        fail("the kernel is not a bzImage with a 64-bit entry");
    }
    size_t setup = ((size_t)(kernel.bytes[SETUP_SECTS] ? kernel.bytes[SETUP_SECTS] : 4) + 1) * 512;
    uint32_t wanted = get32(kernel.bytes + INIT_SIZE);
    if (setup >= kernel.size || kernel.size - setup > MEMORY_SIZE - KERNEL_ADDRESS ||
        wanted > MEMORY_SIZE - KERNEL_ADDRESS) {
        fail("the kernel does not fit into %u MBytes", MEMORY_SIZE / MIB);
    }
    memcpy(memory + KERNEL_ADDRESS, kernel.bytes + setup, kernel.size - setup);
    size_t header_end = HEADER_MAGIC + (size_t)kernel.bytes[HEADER_JUMP];
    memcpy(memory + BOOT_PARAMS + SETUP_SECTS, kernel.bytes + SETUP_SECTS, header_end - SETUP_SECTS);
    return wanted;
}

static void put_initramfs(uint8_t *memory, struct file initramfs, uint32_t kernel_end) {
    uint32_t place = (MEMORY_SIZE - (uint32_t)initramfs.size) & ~0xfffu;
    if (initramfs.size > MEMORY_SIZE || place < kernel_end) {
        fail("the initramfs does not fit into %u MBytes", MEMORY_SIZE / MIB);
    }
    memcpy(memory + place, initramfs.bytes, initramfs.size);
    put32(memory + BOOT_PARAMS + RAMDISK_IMAGE, place);
    put32(memory + BOOT_PARAMS + RAMDISK_SIZE, (uint32_t)initramfs.size);
}

/* The first 4 GBytes one to one; __BOOT_CS and __BOOT_DS where the protocol wants them. */
static void put_paging_and_segments(uint8_t *memory) {
    put64(memory + PAGE_TABLES, (PAGE_TABLES + 0x1000) | 3);
    for (uint32_t i = 0; i < 4; i++) {
        put64(memory + PAGE_TABLES + 0x1000 + 8 * i, (PAGE_TABLES + 0x2000 + 0x1000 * i) | 3);
    }
    for (uint32_t i = 0; i < 2048; i++) {
        put64(memory + PAGE_TABLES + 0x2000 + 8 * i, (uint64_t)i << 21 | 0x83);
    }
    put64(memory + GDT_ADDRESS + 0x10, UINT64_C(0x00af9b000000ffff));
    put64(memory + GDT_ADDRESS + 0x18, UINT64_C(0x00cf93000000ffff));
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code) {
    return (struct kvm_segment){.limit = 0xffffffff,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .s = 1,
                                .db = !code,
                                .l = code,
                                .g = 1};
}

static void set_registers(int vcpu) {
    struct kvm_sregs special;
    struct kvm_regs registers = {.rip = KERNEL_ADDRESS + ENTRY_64, .rsi = BOOT_PARAMS, .rsp = LOW_END - 0x1000, .rflags = 2};
    if (ioctl(vcpu, KVM_GET_SREGS, &special) != 0) {
        fail("KVM_GET_SREGS");
    }
    special.cs = segment(0x10, 11, true);
    special.ds = special.es = special.ss = special.fs = special.gs = segment(0x18, 3, false);
    special.gdt.base = GDT_ADDRESS;
    special.gdt.limit = 0x1f;
    special.cr0 = 0x80000011;
    special.cr3 = PAGE_TABLES;
    special.cr4 = 0x20;
    special.efer = 0x500;
    if (ioctl(vcpu, KVM_SET_SREGS, &special) != 0 || ioctl(vcpu, KVM_SET_REGS, &registers) != 0) {
        fail("KVM refuses the registers that the boot protocol wants");
    }
}

void load_linux(struct machine *machine, const char *kernel, const char *initramfs, const char *command_line) {
    uint8_t *params = machine->memory + BOOT_PARAMS;
    uint32_t wanted = put_kernel(machine->memory, open_file(kernel));
    put_initramfs(machine->memory, open_file(initramfs), KERNEL_ADDRESS + wanted);
    size_t length = strlen(command_line);
    if (length > COMMAND_MAX) {
        fail("the command line is too long");
    }
    memcpy(machine->memory + COMMAND_LINE, command_line, length + 1);
    params[LOADER_TYPE] = 0xff;
    put32(params + COMMAND_PLACE, COMMAND_LINE);
    put64(params + ACPI_RSDP, put_acpi_tables(machine->memory));
    add_range(params, 0, LOW_END, 1);
    add_range(params, LOW_END, MIB, 2);
    add_range(params, MIB, MEMORY_SIZE, 1);
    put_paging_and_segments(machine->memory);
    set_registers(machine->vcpu);
}
