/* SPDX-License-Identifier: MIT */
#include "capdevice.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "print.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

static bool bit_of(uint32_t value, unsigned int bit) {
    return (value >> bit) & 1;
}

/* What CPUID tells of the facts that no VMX MSR has. The other valid-bit masks stay unknown. */
static void ask_cpuid(struct capset *set) {
    uint32_t a = 0, b = 0, c = 0, d = 0, cpu = 0;

    if (__get_cpuid(0x80000008, &a, &b, &c, &d)) {
        set->caps.physical_address_bits = (uint8_t)(a & 0xff);
        set->facts |= 1u << CAPSET_PHYSICAL_ADDRESS_BITS;
    }
    if (!__get_cpuid(0x80000001, &a, &b, &c, &d))
        return;
    cpu |= bit_of(d, 29) ? NVMX_CPU_LONG_MODE : 0;
    cpu |= bit_of(d, 20) ? NVMX_CPU_NX : 0;
    cpu |= bit_of(d, 11) ? NVMX_CPU_SYSCALL : 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        cpu |= bit_of(b, 2) ? NVMX_CPU_SGX : 0;
        cpu |= bit_of(b, 11) ? NVMX_CPU_RTM : 0;
        cpu |= bit_of(c, 16) ? NVMX_CPU_LA57 : 0;
        cpu |= bit_of(c, 24) ? NVMX_CPU_BUS_LOCK_DEBUG : 0;
        cpu |= bit_of(d, 5) ? NVMX_CPU_UINTR : 0;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d))
        cpu |= (bit_of(a, 17) ? NVMX_CPU_FRED : 0) | (bit_of(a, 26) ? NVMX_CPU_LAM : 0);
    set->caps.cpu = cpu;
    set->facts |= 1u << CAPSET_CPU;
}
#else
static void ask_cpuid(struct capset *set) {
    (void)set;
}
#endif

static bool read_msr(int device, uint32_t index, uint64_t *value) {
    return pread(device, value, sizeof *value, (off_t)index) == (ssize_t)sizeof *value;
}

int capdevice_read(struct capset *set, const char *path) {
    int device = open(path, O_RDONLY | O_CLOEXEC);
    char why[160];

    if (device < 0) {
        fprintf(stderr, "nvmx: %s: can't be opened: %s\n", tame(path), strerror(errno));
        return CLI_SYSTEM;
    }
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++)
        if (read_msr(device, NVMX_MSR_VMX_FIRST + place, &set->caps.msr[place]))
            set->msrs |= 1u << place;
    if (read_msr(device, NVMX_MSR_FEATURE_CONTROL, &set->caps.feature_control))
        set->facts |= 1u << CAPSET_FEATURE_CONTROL;
    close(device);
    ask_cpuid(set);
    if (!capset_finish(set, why, sizeof why)) {
        fprintf(stderr, "nvmx: %s: %s: does this CPU have VMX?\n", tame(path), why);
        return CLI_SYSTEM;
    }
    return CLI_OK;
}
