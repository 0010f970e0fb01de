/* SPDX-License-Identifier: MIT */
/*
 * The VMM of bench/kvm that, where its guest writes to STOP_PORT, prints KVM's nested state and what of the same moment KVM keeps elsewhere:
 * lines "kvm-state: ...", as README.md here says.
 */
#include <stdint.h>

static void on_port(uint16_t port, uint32_t value);
#define VMM_ON_PORT on_port
#include "../../bench/kvm/vmm.c"

#include "stop.h"

#define STATE_BYTES (128 + 2 * 4096)
#define LINE_BYTES  32u

static const char *const names[] = {
    "off", "root", "current",
#define STATE(NAME, ...) NAME,
#include "states.def"
};

/* Finishes the instruction that stopped, without going on: KVM's state is whole only then. */
static void complete_exit(void) {
    machine.run->immediate_exit = 1;
    if (ioctl(machine.vcpu, KVM_RUN, 0) == 0 || errno != EINTR) {
        fail("KVM_RUN did not stop at once");
    }
    machine.run->immediate_exit = 0;
}

static void print_msr(const char *name, uint32_t index) {
    uint64_t value;

    if (kvm_msr_read(machine.vcpu, index, &value)) {
        printf("kvm-state: %s %llx\n", name, (unsigned long long)value);
    }
}

static uint32_t cpuid_eax(uint32_t function) {
    struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(machine.kvm);
    uint32_t eax = 0;

    cpuid->nent = KVM_MAX_CPUID;
    CALL(machine.vcpu, KVM_GET_CPUID2, cpuid);
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        eax = cpuid->entries[i].function == function ? cpuid->entries[i].eax : eax;
    }
    free(cpuid);
    return eax;
}

/* What L1 sees of VMX: the same in all states. */
static void print_capabilities(void) {
    for (uint32_t index = 0x480; index <= 0x493; index++) {
        uint64_t value;

        if (kvm_msr_read(machine.vcpu, index, &value)) {
            printf("kvm-state: %x %llx\n", index, (unsigned long long)value);
        }
    }
    printf("kvm-state: physical_address_bits %u\n", cpuid_eax(0x80000008) & 0xff);
    /* What Bochs's Skylake has of these; KVM keeps no bit of IA32_DEBUGCTL for its guest there. */
    printf("kvm-state: cpu LONG_MODE NX SYSCALL\nkvm-state: debugctl_valid 0\nkvm-state: perf_global_ctrl_valid 0\nkvm-state: spec_ctrl_valid 0\n");
    printf("kvm-state: rtit_ctl_valid 0\nkvm-state: lbr_ctl_valid 0\n");
}

static void print_event(void) {
    struct kvm_vcpu_events events;
    uint32_t info = 0;

    CALL(machine.vcpu, KVM_GET_VCPU_EVENTS, &events);
    if (events.exception.injected) {
        info = 0x80000300u | events.exception.nr | (events.exception.has_error_code ? 0x800u : 0);
    } else if (events.nmi.injected) {
        info = 0x80000202;
    } else if (events.interrupt.injected) {
        info = (events.interrupt.soft ? 0x80000400u : 0x80000000u) | events.interrupt.nr;
    }
    printf("kvm-state: event_info %x\nkvm-state: event_error_code %x\n", info, events.exception.error_code);
}

static void print_registers(void) {
    struct kvm_sregs2 special;
    struct kvm_regs registers;
    struct kvm_debugregs debug;

    CALL(machine.vcpu, KVM_GET_SREGS2, &special);
    CALL(machine.vcpu, KVM_GET_REGS, &registers);
    CALL(machine.vcpu, KVM_GET_DEBUGREGS, &debug);
    printf("kvm-state: efer %llx\nkvm-state: dr7 %llx\n", special.efer, debug.dr7);
    for (unsigned int i = 0; i < 4 && special.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID; i++) {
        printf("kvm-state: pdpte%u %llx\n", i, special.pdptrs[i]);
    }
    printf("kvm-state: # RIP %llx CR0 %llx CR3 %llx CR4 %llx CS %x\n", registers.rip, special.cr0, special.cr3, special.cr4,
           special.cs.selector);
}

static void print_blob(void) {
    static union {
        struct kvm_nested_state state;
        uint8_t bytes[STATE_BYTES];
    } blob;

    memset(&blob, 0, sizeof(blob));
    blob.state.size = sizeof(blob);
    CALL(machine.vcpu, KVM_GET_NESTED_STATE, &blob);
    printf("kvm-state: bytes %u\n", blob.state.size);
    for (uint32_t at = 0; at < blob.state.size; at += LINE_BYTES) {
        bool empty = true;

        for (uint32_t i = 0; i < LINE_BYTES; i++) {
            empty = empty && blob.bytes[at + i] == 0;
        }
        if (empty) {
            continue;
        }
        printf("kvm-state: @%04x ", at);
        for (uint32_t i = 0; i < LINE_BYTES; i++) {
            printf("%02x", blob.bytes[at + i]);
        }
        printf("\n");
    }
}

static void on_port(uint16_t port, uint32_t value) {
    if (port != STOP_PORT) {
        return;
    }
    if (value >= sizeof(names) / sizeof(names[0])) {
        fail("the guest stopped in state %u, which has no name", value);
    }
    if (value == STOP_OFF) {
        print_capabilities();
    }
    complete_exit();
    printf("kvm-state: state %s\n", names[value]);
    print_msr("feature_control", 0x3a);
    print_msr("l1_tsc", 0x10);
    print_msr("pat", 0x277);
    print_msr("debugctl", 0x1d9);
    print_msr("perf_global_ctrl", 0x38f);
    print_registers();
    print_event();
    print_blob();
}
