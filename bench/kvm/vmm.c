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
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB               (1u << 20)
#define MEMORY_SIZE       (128u * MIB)
#define LARGE_PAGE        (2u * MIB)
#define TSS_ADDRESS       0xfffbd000u
#define MULTIBOOT_MAGIC   0x1badb002u
#define LOADER_MAGIC      0x2badb002u
#define MULTIBOOT_SEARCH  8192u
#define INFO_ADDRESS      0x9000u
#define COMMAND_ADDRESS   0x9100u
#define COMMAND_SIZE      0x700u
#define COM1              0x3f8u
#define LINE_STATUS_EMPTY 0x60u
#define MAX_CPUID         256
#define MSR_FEATURE_CONTROL 0x3au

static struct {
    int kvm, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
} machine;

static _Noreturn void __attribute__((format(printf, 1, 2))) fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    printf("vmm: FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

static int call(int file, unsigned long request, const char *name, void *argument) {
    int result = ioctl(file, request, argument);
    if (result < 0) {
        fail("%s: %s", name, strerror(errno));
    }
    return result;
}

#define CALL(file, request, argument)      call(file, request, #request, argument)
#define CALL_NUMBER(file, request, number) CALL(file, request, (void *)(uintptr_t)(number))

/* -- the machine ------------------------------------------------------------------------------------------------------------ */

/* Memory in large pages and all there, so that no fault of the VMM's own process is measured. */
static void create_memory(void) {
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE};
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
    region.userspace_addr = (uintptr_t)machine.memory;
    CALL(machine.vm, KVM_SET_USER_MEMORY_REGION, &region);
}

static void create_vm(void) {
    machine.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (machine.kvm < 0) {
        fail("/dev/kvm: %s", strerror(errno));
    }
    if (CALL_NUMBER(machine.kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        fail("another version of KVM's API than %d", KVM_API_VERSION);
    }
    machine.vm = CALL_NUMBER(machine.kvm, KVM_CREATE_VM, 0);
    CALL_NUMBER(machine.vm, KVM_SET_TSS_ADDR, TSS_ADDRESS);
    CALL_NUMBER(machine.vm, KVM_CREATE_IRQCHIP, 0);
    create_memory();
}

/* Everything that KVM can give, VMX with it. */
static void set_cpuid(void) {
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + MAX_CPUID * sizeof(cpuid->entries[0]));
    bool vmx = false;
    if (cpuid == NULL) {
        fail("out of memory");
    }
    cpuid->nent = MAX_CPUID;
    CALL(machine.kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
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
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msrs = {.head.nmsrs = 1, .entry = {.index = MSR_FEATURE_CONTROL, .data = 5}};
    if (CALL(machine.vcpu, KVM_SET_MSRS, &msrs) != 1) {
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
    machine.vcpu = CALL_NUMBER(machine.vm, KVM_CREATE_VCPU, 0);
    int size = CALL_NUMBER(machine.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    machine.run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, machine.vcpu, 0);
    if (machine.run == MAP_FAILED) {
        fail("mmap of the vCPU: %s", strerror(errno));
    }
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
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        return on_io();
    case KVM_EXIT_MMIO:
        if (!run->mmio.is_write) {
            memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
        }
        return true;
    case KVM_EXIT_INTR:
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        fail("KVM_EXIT_FAIL_ENTRY, hardware reason %#llx", run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
        fail("KVM_EXIT_INTERNAL_ERROR, suberror %u", run->internal.suberror);
    case KVM_EXIT_SHUTDOWN:
        fail("KVM_EXIT_SHUTDOWN: the guest had a triple fault");
    default:
        fail("KVM exit %u", run->exit_reason);
    }
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
