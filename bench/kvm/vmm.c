/* SPDX-License-Identifier: MIT */
/*
 * The smallest VMM that can run a multiboot-1 image with nested VMX under KVM: plain ioctls, one vCPU, the in-kernel APIC,
 * a serial port that only sends. What the image writes to COM1 comes on stdout.
 *
 *   vmm IMAGE [WORD...]     exit status 0 when the guest switched itself off (ACPI, or "Shutdown" to port 8900H)
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm.h"

#define MIB               (1u << 20)
#define MEMORY_SIZE       (128u * MIB)
#define LARGE_PAGE        (2u * MIB)
#define MULTIBOOT_MAGIC   0x1badb002u
#define LOADER_MAGIC      0x2badb002u
#define MULTIBOOT_SEARCH  8192u
#define INFO_ADDRESS      0x9000u
#define COMMAND_ADDRESS   0x9100u
#define COMMAND_SIZE      0x700u
#define COM1              0x3f8u
#define LINE_STATUS_EMPTY 0x60u
#define MSR_FEATURE_CONTROL 0x3au

static struct {
    int kvm, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
} machine;

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    printf("vmm: FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

/* -- the machine ------------------------------------------------------------------------------------------------------------ */

/* Memory in large pages and all there, so that no fault of the VMM's own process is measured. */
static void create_memory(void) {
    uint8_t *reserved = mmap(NULL, MEMORY_SIZE + LARGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t at;
    if (reserved == MAP_FAILED) {
        fail("mmap: %s", strerror(errno));
    }
    at = ((uintptr_t)reserved + LARGE_PAGE - 1) & ~(uintptr_t)(LARGE_PAGE - 1);
    machine.memory = mmap((void *)at, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (machine.memory == MAP_FAILED) {
        fail("mmap: %s", strerror(errno));
    }
    madvise(machine.memory, MEMORY_SIZE, MADV_HUGEPAGE);
    memset(machine.memory, 0, MEMORY_SIZE);
    kvm_give_memory(machine.vm, machine.memory, MEMORY_SIZE);
}

static void create_vm(void) {
    machine.kvm = kvm_open();
    machine.vm = kvm_create_vm(machine.kvm);
    CALL_NUMBER(machine.vm, KVM_CREATE_IRQCHIP, 0);
    create_memory();
}

/* Everything that KVM can give, VMX with it. */
static void set_cpuid(void) {
    struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(machine.kvm);
    bool vmx = false;
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        vmx = vmx || (cpuid->entries[i].function == 1 && cpuid->entries[i].ecx & 1u << 5);
    }
    if (!vmx) {
        fail("KVM offers its guests no VMX: the module kvm_intel needs nested=1");
    }
    CALL(machine.vcpu, KVM_SET_CPUID2, cpuid);
    free(cpuid);
}

/* As the firmware of a machine leaves it: VMXON allowed outside SMX, locked. KVM's own VMX capability MSRs stay as they are. */
static void set_msrs(void) {
    if (!kvm_msr_write(machine.vcpu, MSR_FEATURE_CONTROL, 5)) {
        fail("KVM refuses IA32_FEATURE_CONTROL");
    }
}

static struct kvm_segment flat(uint16_t selector, uint8_t type) {
    return (struct kvm_segment){
        .limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .db = 1, .g = 1};
}

/* The state in which a multiboot loader starts an image (Multiboot 0.6.96, section 3.2). */
static void create_vcpu(uint32_t entry) {
    struct kvm_sregs special;
    struct kvm_regs registers = {.rip = entry, .rflags = 2, .rax = LOADER_MAGIC, .rbx = INFO_ADDRESS};
    machine.vcpu = kvm_create_vcpu(machine.kvm, machine.vm, 0, &machine.run);
    set_cpuid();
    set_msrs();
    CALL(machine.vcpu, KVM_GET_SREGS, &special);
    special.cs = flat(0x08, 11);
    special.ds = special.es = special.fs = special.gs = special.ss = flat(0x10, 3);
    special.cr0 = 0x11;
    CALL(machine.vcpu, KVM_SET_SREGS, &special);
    CALL(machine.vcpu, KVM_SET_REGS, &registers);
}

/* -- the image -------------------------------------------------------------------------------------------------------------- */

static uint8_t *read_file(const char *path, size_t *size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    uint8_t *bytes;
    if (file < 0 || fstat(file, &status) != 0) {
        fail("%s: %s", path, strerror(errno));
    }
    *size = (size_t)status.st_size;
    bytes = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        fail("%s: %s", path, strerror(errno));
    }
    close(file);
    return bytes;
}

static bool is_multiboot(const uint8_t *bytes, size_t size) {
    for (size_t at = 0; at + 12 <= size && at < MULTIBOOT_SEARCH; at += 4) {
        uint32_t header[3];
        memcpy(header, bytes + at, sizeof(header));
        if (header[0] == MULTIBOOT_MAGIC && header[0] + header[1] + header[2] == 0) {
            return true;
        }
    }
    return false;
}

/* Copies what is to be loaded; returns the entry address. */
static uint32_t load(const char *path) {
    size_t size;
    const uint8_t *bytes = read_file(path, &size);
    Elf32_Ehdr head;
    if (size < sizeof(head) || !is_multiboot(bytes, size)) {
        fail("%s is not a multiboot image", path);
    }
    memcpy(&head, bytes, sizeof(head));
    if (memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS32) {
        fail("%s is not a 32-bit ELF file", path);
    }
    for (uint32_t i = 0; i < head.e_phnum; i++) {
        size_t place = head.e_phoff + (size_t)i * head.e_phentsize;
        Elf32_Phdr part;
        if (place > size || size - place < sizeof(part)) {
            fail("%s is cut off", path);
        }
        memcpy(&part, bytes + place, sizeof(part));
        if (part.p_type != PT_LOAD) {
            continue;
        }
        if (part.p_offset > size || part.p_filesz > size - part.p_offset || part.p_filesz > part.p_memsz ||
            part.p_paddr > MEMORY_SIZE || part.p_memsz > MEMORY_SIZE - part.p_paddr) {
            fail("%s does not fit into %u MiB", path, MEMORY_SIZE / MIB);
        }
        memcpy(machine.memory + part.p_paddr, bytes + part.p_offset, part.p_filesz);
    }
    return head.e_entry;
}

static void put32(uint32_t address, uint32_t value) {
    memcpy(machine.memory + address, &value, sizeof(value));
}

/* Memory sizes and the command line: what a small image looks at. */
static void put_information(int argc, char **argv) {
    size_t used = 0;
    for (int i = 1; i < argc; i++) {
        size_t length = strlen(argv[i]);
        if (used + length + 2 > COMMAND_SIZE) {
            fail("the command line is too long");
        }
        if (used > 0) {
            machine.memory[COMMAND_ADDRESS + used++] = ' ';
        }
        memcpy(machine.memory + COMMAND_ADDRESS + used, argv[i], length);
        used += length;
    }
    put32(INFO_ADDRESS, 1u << 0 | 1u << 2);
    put32(INFO_ADDRESS + 4, 639);
    put32(INFO_ADDRESS + 8, (MEMORY_SIZE - MIB) / 1024);
    put32(INFO_ADDRESS + 16, COMMAND_ADDRESS);
}

/* -- exits ------------------------------------------------------------------------------------------------------------------ */

/* True if the last letters that went to port 8900H are the word. */
static bool power_word(uint8_t letter) {
    static const char word[] = "Shutdown";
    static uint32_t matched;
    matched = letter == (uint8_t)word[matched] ? matched + 1 : letter == (uint8_t)word[0];
    if (matched < sizeof(word) - 1) {
        return false;
    }
    matched = 0;
    return true;
}

/* False: the guest switched itself off. */
static bool on_out(uint16_t port, uint32_t size, const uint8_t *data, uint32_t count) {
    bool on = true;
    for (uint32_t i = 0; i < count; i++, data += size) {
        if (port == COM1 && data[0] != '\r') {
            putchar(data[0]);
        }
        if (port == 0x8900 && power_word(data[0])) {
            on = false;
        }
#ifdef VMM_ON_PORT /* tests/kvm-state */
        if (size == sizeof(uint32_t)) {
            uint32_t value;
            memcpy(&value, data, sizeof(value));
            VMM_ON_PORT(port, value);
        }
#endif
        if ((port == 0xb004 || port == 0x604) && size == 2 && data[1] & 0x20) {
            on = false;
        }
    }
    return on;
}

static bool on_io(void) {
    const struct kvm_run *run = machine.run;
    uint8_t *data = (uint8_t *)machine.run + run->io.data_offset;
    if (run->io.direction == KVM_EXIT_IO_OUT) {
        return on_out(run->io.port, run->io.size, data, run->io.count);
    }
    memset(data, run->io.port == COM1 + 5 ? LINE_STATUS_EMPTY : 0xff, (size_t)run->io.size * run->io.count);
    return true;
}

static bool handle_exit(void) {
    struct kvm_run *run = machine.run;
    if (run->exit_reason == KVM_EXIT_IO) {
        return on_io();
    }
    kvm_nothing_there(run);
    return true;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2) {
        fail("usage: vmm IMAGE [WORD...]");
    }
    create_vm();
    uint32_t entry = load(argv[1]);
    put_information(argc, argv);
    create_vcpu(entry);
    do {
        if (ioctl(machine.vcpu, KVM_RUN, 0) != 0 && errno != EINTR) {
            fail("KVM_RUN: %s", strerror(errno));
        }
    } while (handle_exit());
    return 0;
}
