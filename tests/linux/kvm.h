/* SPDX-License-Identifier: MIT */
/*
 * KVM by plain ioctls: what its users here, in bench/kvm and in tests/kvm-state have in common. What fails ends the program by its own fail().
 */
#ifndef KVM_H
#define KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVM_MAX_CPUID 256u

/* Each program's: a line with "FAILED: " and the text, then exit status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* An ioctl that must not fail. */
int kvm_call(int file, unsigned long request, const char *name, void *argument);
#define CALL(file, request, argument)      kvm_call(file, request, #request, argument)
#define CALL_NUMBER(file, request, number) CALL(file, request, (void *)(uintptr_t)(number))

/* /dev/kvm, of the API's version. */
int kvm_open(void);
/* A VM whose TSS for real mode lies below 4 GBytes. */
int kvm_create_vm(int kvm);
/* The VM's memory from guest-physical 0 on: the caller's, or pages of zeros made here. */
void kvm_give_memory(int vm, uint8_t *memory, size_t bytes);
uint8_t *kvm_make_memory(int vm, size_t bytes);

int kvm_create_vcpu(int kvm, int vm, uint32_t id, struct kvm_run **run);
/* What KVM can give a guest: for KVM_SET_CPUID2, then to be freed. */
struct kvm_cpuid2 *kvm_supported_cpuid(int kvm);
/* Real mode at this address, with segments from 0 on. */
void kvm_start_at(int vcpu, uint32_t address);

/* False: KVM has no such MSR, or refuses the value. */
bool kvm_msr_read(int vcpu, uint32_t index, uint64_t *value);
bool kvm_msr_write(int vcpu, uint32_t index, uint64_t value);

/* Of an exit that the program has no answer to. */
_Noreturn void kvm_unexpected(const struct kvm_run *run);
/* The same, but the guest goes on after an access to addresses where nothing is, which reads as ones, and after a signal. */
void kvm_nothing_there(struct kvm_run *run);

#endif
