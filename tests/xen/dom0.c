/* SPDX-License-Identifier: MIT */
/*
 * Xen's first domain: a PV kernel of a few pages, instead of an operating system with Xen's tools. By plain hypercalls it makes one HVM
 * domain of guest.S, runs it to its end, reports on Xen's console, and switches the machine off.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define __XEN_TOOLS__ 1
#define __XEN_INTERFACE_VERSION__ 0x00041100
#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/hvm/save.h>
#include <xen/memory.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/version.h>

#include "guest.h"

#define PAGE_BYTES        4096
#define PAGES             (GUEST_MEMORY_END / PAGE_BYTES)
#define TABLES_MIB        2 /* for Xen's own tables of the domain */
#define TURNS_MAX         1000000
#define PTE_PRESENT_WRITE 0x63 /* present, writable, accessed, dirty */
#define CR0_PE_ET         0x11
#define ACCESS_CODE       0xc9b /* flat, 32-bit */
#define ACCESS_DATA       0xc93
#define ACCESS_BUSY_TSS   0x08b

extern const uint8_t guest_start[], guest_end[];
void dom0_main(void);
void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

void *memcpy(void *to, const void *from, size_t bytes) {
    void *at = to;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(bytes) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    void *at = to;

    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory");
    return to;
}

/* -- hypercalls (xen/xen.h) ---------------------------------------------------------------------------------------- */

static long hypercall(unsigned int number, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    extern uint8_t hypercall_page[];
    register uint64_t fourth __asm__("r10") = d;
    long result;

    __asm__ volatile("call *%[entry]"
                     : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(fourth)
                     : [entry] "0"(hypercall_page + 32 * number)
                     : "rcx", "r11", "r8", "memory");
    return result;
}

static void print(const char *text) {
    size_t bytes = 0;

    while (text[bytes] != '\0') {
        bytes++;
    }
    hypercall(__HYPERVISOR_console_io, CONSOLEIO_write, bytes, (uintptr_t)text, 0);
}

static void print_number(long value) {
    char digits[24];
    size_t at = sizeof digits - 1;
    unsigned long left = value < 0 ? 0 - (unsigned long)value : (unsigned long)value;

    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    if (value < 0) {
        digits[--at] = '-';
    }
    print(digits + at);
}

static bool works(long result, const char *what) {
    if (result >= 0) {
        return true;
    }
    print("dom0: FAILED: ");
    print(what);
    print(": error ");
    print_number(-result);
    print("\n");
    return false;
}

static long domctl(uint32_t command, struct xen_domctl *control, domid_t domain) {
    control->cmd = command;
    control->interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    control->domain = domain;
    return hypercall(__HYPERVISOR_domctl, (uintptr_t)control, 0, 0, 0);
}

/* -- the domain ---------------------------------------------------------------------------------------------------- */

static bool create(domid_t *domain) {
    struct xen_domctl control = {
        .u.createdomain =
            {
                .flags = XEN_DOMCTL_CDF_hvm | XEN_DOMCTL_CDF_hap,
                .max_vcpus = 1,
                .max_evtchn_port = 1023,
                .max_grant_frames = 4,
                .grant_opts = XEN_DOMCTL_GRANT_version(1),
                .arch = {.emulation_flags = XEN_X86_EMU_LAPIC}, /* as for PVH: no device model is needed */
            },
    };

    if (!works(domctl(XEN_DOMCTL_createdomain, &control, 0), "creating a domain")) {
        return false;
    }
    *domain = control.domain;
    control.u.max_vcpus.max = 1;
    if (!works(domctl(XEN_DOMCTL_max_vcpus, &control, *domain), "giving it a vCPU")) {
        return false;
    }
    control.u.shadow_op =
        (struct xen_domctl_shadow_op){.op = XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, .mb = TABLES_MIB};
    if (!works(domctl(XEN_DOMCTL_shadow_op, &control, *domain), "giving Xen memory for its tables")) {
        return false;
    }
    control.u.max_mem.max_memkb = (PAGES + 256) * 4;
    return works(domctl(XEN_DOMCTL_max_mem, &control, *domain), "allowing it memory");
}

static bool populate(domid_t domain) {
    static xen_pfn_t frame[PAGES];
    struct xen_memory_reservation memory = {.nr_extents = PAGES, .domid = domain};
    long got;

    for (size_t i = 0; i < PAGES; i++) {
        frame[i] = i;
    }
    set_xen_guest_handle(memory.extent_start, frame);
    got = hypercall(__HYPERVISOR_memory_op, XENMEM_populate_physmap, (uintptr_t)&memory, 0, 0);
    return works(got == PAGES ? 0 : -1, "giving it memory");
}

/* Xen takes the domain's frame number in an entry of dom0's page tables; one page of dom0's own serves as the window. */
static bool load(domid_t domain) {
    static uint8_t window[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

    for (const uint8_t *from = guest_start; from < guest_end; from += PAGE_BYTES) {
        size_t left = (size_t)(guest_end - from);
        uint64_t to = GUEST_START + (uint64_t)(from - guest_start);

        if (!works(hypercall(__HYPERVISOR_update_va_mapping_otherdomain, (uintptr_t)window, to | PTE_PRESENT_WRITE,
                             UVMF_INVLPG | UVMF_LOCAL, domain),
                   "mapping its memory")) {
            return false;
        }
        memcpy(window, from, left < PAGE_BYTES ? left : PAGE_BYTES);
    }
    return works(hypercall(__HYPERVISOR_update_va_mapping, (uintptr_t)window, 0, UVMF_INVLPG | UVMF_LOCAL, 0),
                 "unmapping its memory");
}

/* Xen takes a saved context: its own header, the CPU, an end mark. */
static bool set_state(domid_t domain) {
    static uint8_t saved[32768];
    static struct {
        struct hvm_save_descriptor header_descriptor;
        struct hvm_save_header header;
        struct hvm_save_descriptor cpu_descriptor;
        struct hvm_hw_cpu cpu;
        struct hvm_save_descriptor end_descriptor;
    } __attribute__((packed)) state = {
        .header_descriptor = {HVM_SAVE_CODE(HEADER), 0, sizeof(struct hvm_save_header)},
        .cpu_descriptor = {HVM_SAVE_CODE(CPU), 0, sizeof(struct hvm_hw_cpu)},
        .cpu =
            {
                .rip = GUEST_START,
                .rflags = 2,
                .cr0 = CR0_PE_ET,
                .dr6 = 0xffff0ff0,
                .dr7 = 0x400,
                .cs_limit = 0xffffffff,
                .ds_limit = 0xffffffff,
                .es_limit = 0xffffffff,
                .ss_limit = 0xffffffff,
                .tr_limit = 0x67,
                .cs_arbytes = ACCESS_CODE,
                .ds_arbytes = ACCESS_DATA,
                .es_arbytes = ACCESS_DATA,
                .ss_arbytes = ACCESS_DATA,
                .tr_arbytes = ACCESS_BUSY_TSS,
            },
        .end_descriptor = {HVM_SAVE_CODE(END), 0, 0},
    };
    struct xen_domctl control = {.u.hvmcontext.size = sizeof saved};

    set_xen_guest_handle(control.u.hvmcontext.buffer, saved);
    if (!works(domctl(XEN_DOMCTL_gethvmcontext, &control, domain), "reading its state")) {
        return false;
    }
    memcpy(&state.header, saved + sizeof state.header_descriptor, sizeof state.header);
    control.u.hvmcontext.size = sizeof state;
    set_xen_guest_handle(control.u.hvmcontext.buffer, (uint8_t *)&state);
    return works(domctl(XEN_DOMCTL_sethvmcontext, &control, domain), "setting its state");
}

static bool run(domid_t domain) {
    struct xen_domctl control = {0};
    unsigned int reason;

    if (!works(domctl(XEN_DOMCTL_unpausedomain, &control, domain), "starting it")) {
        return false;
    }
    for (unsigned int turn = 0; turn < TURNS_MAX; turn++) {
        if (!works(domctl(XEN_DOMCTL_getdomaininfo, &control, domain), "looking after it")) {
            return false;
        }
        if (control.u.getdomaininfo.flags & XEN_DOMINF_shutdown) {
            reason = control.u.getdomaininfo.flags >> XEN_DOMINF_shutdownshift & XEN_DOMINF_shutdownmask;
            print("dom0: L2 shut down, reason ");
            print_number(reason);
            print("\n");
            return reason == SHUTDOWN_poweroff;
        }
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0, 0);
    }
    print("dom0: FAILED: L2 does not end\n");
    return false;
}

/* Bochs ends when its shutdown port is told to; dom0 may use the port. */
static void power_off(void) {
    struct physdev_set_iopl iopl = {.iopl = 1};

    works(hypercall(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, (uintptr_t)&iopl, 0, 0), "getting access to ports");
    for (const char *p = "Shutdown"; *p != '\0'; p++) {
        __asm__ volatile("outb %0, %1" : : "a"(*p), "d"((uint16_t)0x8900));
    }
}

void dom0_main(void) {
    domid_t domain;
    bool good;

    print("dom0: runs\n");
    good = create(&domain) && populate(domain) && load(domain) && set_state(domain) && run(domain);
    print(good ? "dom0: all passed\nexit-status: 0\n" : "dom0: FAILED\nexit-status: 1\n");
    for (unsigned int turn = 0; turn < 1000; turn++) { /* Xen's console empties its buffer */
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0, 0);
    }
    power_off();
}
