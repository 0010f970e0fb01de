/* SPDX-License-Identifier: MIT */
/* L0's GDT, TSS and IDT, and what happens when an exception hits L0 itself. */
#include "console.h"
#include "host.h"

#define TRAP_STUB_BYTES 16
extern char trap_stubs[];

/* baremetal.ld: pairs (address of an instruction that may fault, where to go on). */
extern const uint64_t exception_table_start[], exception_table_end[];

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_map;
} __attribute__((packed));

struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

/* NMI, double fault and machine check can hit while RSP points into struct cpu: they need stacks of their own. */
enum { IST_NMI = 1, IST_DOUBLE_FAULT, IST_MACHINE_CHECK, IST_OTHER, IST_END };

struct traps {
    uint8_t stack[IST_END][TRAP_STACK_BYTES];
    struct tss tss;
    uint64_t gdt[5];
};

static struct gate idt[256];

static uint8_t ist_of(uint32_t vector) {
    switch (vector) {
    case 2:
        return IST_NMI;
    case 8:
        return IST_DOUBLE_FAULT;
    case 18:
        return IST_MACHINE_CHECK;
    default:
        return IST_OTHER;
    }
}

static void put_descriptors(struct traps *traps) {
    struct tss *tss = &traps->tss;
    uint64_t base = (uintptr_t)tss;

    traps->gdt[SELECTOR_CODE / 8] = 0x00af9b000000ffff;
    traps->gdt[SELECTOR_DATA / 8] = 0x00cf93000000ffff;
    traps->gdt[SELECTOR_TSS / 8] =
        (sizeof *tss - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    traps->gdt[SELECTOR_TSS / 8 + 1] = base >> 32;
    tss->io_map = sizeof *tss;
    for (uint32_t i = 1; i < IST_END; i++)
        tss->ist[i - 1] = (uintptr_t)traps->stack[i] + TRAP_STACK_BYTES;
}

/* The same for all processors: written once. */
static void put_gates(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint64_t stub = (uintptr_t)trap_stubs + i * TRAP_STUB_BYTES;

        idt[i] = (struct gate){.offset_low = (uint16_t)stub,
                               .selector = SELECTOR_CODE,
                               .ist = ist_of(i),
                               .type = 0x8e,
                               .offset_middle = (uint16_t)(stub >> 16),
                               .offset_high = (uint32_t)(stub >> 32)};
    }
}

void traps_init(struct cpu *cpu) {
    cpu->traps = pages_take(sizeof *cpu->traps);
    if (!idt[0].type)
        put_gates();
    traps_load(cpu);
}

void traps_load(struct cpu *cpu) {
    struct descriptor_table idtr = {sizeof idt - 1, (uintptr_t)idt};
    struct descriptor_table gdtr = {sizeof cpu->traps->gdt - 1, (uintptr_t)cpu->traps->gdt};

    put_descriptors(cpu->traps); /* the TSS is not busy */
    lgdt(&gdtr);
    lidt(&idtr);
    ltr(SELECTOR_TSS);
}

uint64_t traps_gdt_base(const struct cpu *cpu) {
    return (uintptr_t)cpu->traps->gdt;
}

uint64_t traps_idt_base(void) {
    return (uintptr_t)idt;
}

uint64_t traps_tss_base(const struct cpu *cpu) {
    return (uintptr_t)&cpu->traps->tss;
}

/* The NMI is L1's, or asks this processor to leave its guest. In the window before an entry it would be noticed too late: go back and
 * decide again. */
static void trap_nmi(struct trap_frame *frame) {
    struct cpu *cpu = this_cpu();

    if (cpu->kicked)
        cpu->kicked = false;
    else
        cpu->nmi_pending = 1;
    if (frame->rip >= (uintptr_t)vmx_window_start && frame->rip < (uintptr_t)vmx_window_end) {
        frame->rip = (uintptr_t)vmx_again;
        frame->rsp = (uintptr_t)cpu;
    }
}

void trap(struct trap_frame *frame); /* traps.S */

void trap(struct trap_frame *frame) {
    static struct cpu *crashing;

    if (frame->vector == VECTOR_NMI) {
        trap_nmi(frame);
        return;
    }
    if (frame->vector == VECTOR_GP || frame->vector == VECTOR_UD)
        for (const uint64_t *e = exception_table_start; e < exception_table_end; e += 2)
            if (e[0] == frame->rip) {
                frame->rip = e[1];
                return;
            }
    processors_stop();
    if (crashing != this_cpu()) {
        crashing = this_cpu();
        print("nvmx: fatal: exception %lu in L0, error code 0x%lx\n", frame->vector, frame->error_code);
        crash_report(frame);
    }
    power_off();
}
