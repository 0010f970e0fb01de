/* SPDX-License-Identifier: MIT */
/*
 * An L1 that stops in one state of VMX after the other, on the base of tests/l1. It runs under KVM, whose user (vmm.c) takes KVM's nested
 * state there: STOP_PORT gets the number of a row of states.def. L2's own write there does not exit to L1, so KVM stops while L2 runs.
 */
#include "l2.h"
#include "serial.h"
#include "stop.h"

enum {
    GUEST_PDPTE0 = 0x280a,
    SHADOW_INDICATOR = 1u << 31,
    CODE32_RIGHTS = 0xc09b,
    PAT = 0x277,
};

void l1_main(void);

static uint8_t page_a[4096] __attribute__((aligned(4096))), page_b[4096] __attribute__((aligned(4096)));
static uint8_t page_c[4096] __attribute__((aligned(4096)));

/* One stop in L2, then back to L1. The same bytes in 32-bit code. */
DEFINE_L2_CODE(stop, "mov $" STOP_PORT_TEXT ", %edx\nout %eax, %dx\n" EXIT "vmcall\n");
/* The NMI that the entry injects blocks further ones: the stop is in its handler. */
DEFINE_L2_CODE(nmi, "1: pause\njmp 1b\n");
/* Changes bits of CR0 and CR4 that are L2's own. */
DEFINE_L2_CODE(registers, "mov %cr0, %rcx\nor $8, %rcx\nmov %rcx, %cr0\nmov %cr4, %rcx\nor $0x80, %rcx\nmov %rcx, %cr4\n"
                          "mov $" STOP_PORT_TEXT ", %edx\nout %eax, %dx\n" EXIT "vmcall\n");

static void stop_here(uint32_t number) {
    __asm__ volatile("out %0, %1" ::"a"(number), "d"((uint16_t)STOP_PORT) : "memory");
}

/* -- what the states are -------------------------------------------------------------------------------------------------------- */

static void plain(struct l2 *l2) {
    (void)l2;
}

/* MSRs that the entry loads and the exit saves. */
static void with_msrs(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_PAT, 0x0606060606060606);
    vmwrite(HOST_PAT, rdmsr(PAT));
}

/* Half of CR0 and CR4 is L1's. */
static void with_masks(struct l2 *l2) {
    (void)l2;
    vmwrite(CR0_MASK, 0x60000020);
    vmwrite(CR0_SHADOW, 0x60000000);
    vmwrite(CR4_MASK, 0x2000);
    vmwrite(CR4_SHADOW, 0);
    vmwrite(GUEST_FS_BASE, 0x77000);
}

/* Bits clear: nothing exits. */
static void with_bitmaps(struct l2 *l2) {
    (void)l2;
    vmwrite(IO_BITMAP_A, (uint64_t)page_a);
    vmwrite(IO_BITMAP_B, (uint64_t)page_b);
    vmwrite(MSR_BITMAP, (uint64_t)page_c);
}

static void with_virtual_apic(struct l2 *l2) {
    (void)l2;
    page_a[0x80] = 0x50;
    vmwrite(VIRTUAL_APIC, (uint64_t)page_a);
    vmwrite(TPR_THRESHOLD, 3);
}

static void with_nmi(struct l2 *l2) {
    (void)l2;
    l2_gate(2, l2_stop, 0, 0);
    vmwrite(ENTRY_INTERRUPTION_INFO, EVENT_NMI);
}

/* L2 has a shadow VMCS of its own to read and write. */
static void with_shadow(struct l2 *l2) {
    uint64_t pointer = (uint64_t)&vmcs_b, own = (uint64_t)l2->vmcs;

    memset(&vmcs_b, 0, sizeof vmcs_b);
    vmcs_b.revision = cap.revision;
    vmx_vmclear(&pointer);
    vmx_vmptrld(&pointer);
    vmwrite(GUEST_RIP, 0x123456);
    vmwrite(HOST_RSP, 0x654321);
    vmx_vmclear(&pointer);
    vmcs_b.revision = cap.revision | SHADOW_INDICATOR;
    vmx_vmptrld(&own);
    vmwrite(VMCS_LINK_POINTER, pointer);
    vmwrite(VMREAD_BITMAP, (uint64_t)page_a);
    vmwrite(VMWRITE_BITMAP, (uint64_t)page_b);
}

/* L2 in L1's own memory and page tables. */
static void without_ept(struct l2 *l2) {
    vmwrite(GUEST_CR3, read_cr3());
    vmwrite(GUEST_RIP, (uint64_t)l2->code);
}

/* 32-bit code under PAE paging: the page directory of the 64-bit L2 serves, entry 0 of four. */
static void with_pae(struct l2 *l2) {
    uint64_t *pdpt = l2_u64(L2_DATA);

    (void)l2;
    pdpt[0] = L2_PD | 1;
    vmwrite(GUEST_CR3, L2_DATA);
    for (uint32_t i = 0; i < 4; i++) {
        vmwrite((enum vmcs_field)(GUEST_PDPTE0 + 2 * i), pdpt[i]);
    }
    vmwrite(GUEST_EFER, 0);
    vmwrite(GUEST_CS_SELECTOR, L2_SEL_CODE32);
    vmwrite(GUEST_CS_ACCESS, CODE32_RIGHTS);
}

/* An entry of a list that the entry loads and the exit stores. */
static void with_msr_lists(struct l2 *l2) {
    static uint64_t list[6] __attribute__((aligned(16)));

    (void)l2;
    list[0] = list[2] = list[4] = 0xc0000102; /* IA32_KERNEL_GS_BASE */
    list[1] = 0x1111, list[3] = 0x2222;
    vmwrite(ENTRY_MSR_LOAD, (uint64_t)&list[0]);
    vmwrite(EXIT_MSR_LOAD, (uint64_t)&list[2]);
    vmwrite(EXIT_MSR_STORE, (uint64_t)&list[4]);
    vmwrite(ENTRY_MSR_LOAD_COUNT, 1);
    vmwrite(EXIT_MSR_LOAD_COUNT, 1);
    vmwrite(EXIT_MSR_STORE_COUNT, 1);
}

/* -- one after the other ----------------------------------------------------------------------------------------------------------- */

static const struct state {
    const char *name;
    struct scenario scenario;
    void (*setup)(struct l2 *l2);
} states[] = {
#define STATE(NAME, CODE, SETUP, ON, OFF) {NAME, {.name = NAME, .kind = WITH_L2, .on = ON, .off = OFF, L2_CODE(CODE)}, SETUP},
#define ON(...) {__VA_ARGS__}
#define OFF(...) {__VA_ARGS__}
#include "states.def"
};

static void run_state(uint32_t number, const struct state *state) {
    struct l2 l2;

    if (!controls_offered(&state->scenario.on, &state->scenario.off)) {
        print("kvm-state: %s is not offered here\n", state->name);
        return;
    }
    l2_prepare(&l2, &state->scenario);
    state->setup(&l2);
    l2.regs.gpr[RAX] = number;
    if (!l2_run(&l2) || l2.exit.reason != REASON_VMCALL) {
        report_fatal("%s: L2 left with exit reason %u", state->name, l2.exit.reason);
    }
}

void l1_main(void) {
    uint64_t pointer = (uint64_t)&vmcs_a;

    serial_init();
    cpu_init();
    vmx_discover();
    stop_here(STOP_OFF);
    if (!vmx_on()) {
        report_fatal("VMXON failed");
    }
    stop_here(STOP_ROOT);
    vmcs_prepare(&vmcs_a, &(struct controls){0}, &(struct controls){0}, 0);
    stop_here(STOP_CURRENT);
    vmx_vmclear(&pointer);
    for (uint32_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        run_state(STOP_FIRST_L2 + i, &states[i]);
    }
    print("kvm-state: done\n");
    power_off();
}
