/* SPDX-License-Identifier: MIT */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define TSS_ADDRESS 0xfffbd000u

int kvm_call(int file, unsigned long request, const char *name, void *argument) {
    int result = ioctl(file, request, argument);
    if (result < 0) {
        fail("%s: %s", name, strerror(errno));
    }
    return result;
}

int kvm_open(void) {
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        fail("/dev/kvm: %s", strerror(errno));
    }
    int version = CALL_NUMBER(kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        fail("KVM API version %d instead of %d", version, KVM_API_VERSION);
    }
    return kvm;
}

int kvm_create_vm(int kvm) {
    int vm = CALL_NUMBER(kvm, KVM_CREATE_VM, 0);
    CALL_NUMBER(vm, KVM_SET_TSS_ADDR, TSS_ADDRESS);
    return vm;
}

void kvm_give_memory(int vm, uint8_t *memory, size_t bytes) {
    struct kvm_userspace_memory_region region = {.memory_size = bytes, .userspace_addr = (uintptr_t)memory};
    CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

uint8_t *kvm_make_memory(int vm, size_t bytes) {
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fail("mmap: %s", strerror(errno));
    }
    kvm_give_memory(vm, memory, bytes);
    return memory;
}

int kvm_create_vcpu(int kvm, int vm, uint32_t id, struct kvm_run **run) {
    int vcpu = CALL_NUMBER(vm, KVM_CREATE_VCPU, id);
    size_t bytes = (size_t)CALL_NUMBER(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    *run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (*run == MAP_FAILED) {
        fail("mmap of the vCPU: %s", strerror(errno));
    }
    return vcpu;
}

struct kvm_cpuid2 *kvm_supported_cpuid(int kvm) {
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + KVM_MAX_CPUID * sizeof(cpuid->entries[0]));
    if (cpuid == NULL) {
        fail("no memory");
    }
    cpuid->nent = KVM_MAX_CPUID;
    CALL(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
    return cpuid;
}

void kvm_start_at(int vcpu, uint32_t address) {
    struct kvm_regs registers = {.rip = address, .rflags = 2};
    struct kvm_sregs special;
    CALL(vcpu, KVM_GET_SREGS, &special);
    special.cs.base = 0;
    special.cs.selector = 0;
    CALL(vcpu, KVM_SET_SREGS, &special);
    CALL(vcpu, KVM_SET_REGS, &registers);
}

static bool one_msr(int vcpu, unsigned long request, const char *name, uint32_t index, uint64_t *value) {
    union {
        struct kvm_msrs list;
        uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } msrs = {.list = {.nmsrs = 1}};
    msrs.list.entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    bool done = kvm_call(vcpu, request, name, &msrs) == 1;
    *value = msrs.list.entries[0].data;
    return done;
}

bool kvm_msr_read(int vcpu, uint32_t index, uint64_t *value) {
    *value = 0;
    return one_msr(vcpu, KVM_GET_MSRS, "KVM_GET_MSRS", index, value);
}

bool kvm_msr_write(int vcpu, uint32_t index, uint64_t value) {
    return one_msr(vcpu, KVM_SET_MSRS, "KVM_SET_MSRS", index, &value);
}

void kvm_unexpected(const struct kvm_run *run) {
    switch (run->exit_reason) {
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

void kvm_nothing_there(struct kvm_run *run) {
    switch (run->exit_reason) {
    case KVM_EXIT_MMIO:
        if (!run->mmio.is_write) {
            memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
        }
        return;
    case KVM_EXIT_INTR:
        return;
    default:
        kvm_unexpected(run);
    }
}
