/* SPDX-License-Identifier: MIT */
#include "cpu.h"
#include "report.h"

enum { VECTOR_RUN_IN_DONE = 0x80 };

struct idt_gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

extern const uint8_t trap_stubs[256][16];
extern const uint8_t run_in_return[];
extern uint64_t run_in_rsp;
extern uint8_t trap_stack_top[];

volatile uint64_t catch_rip;
struct fault last_fault;
volatile uint32_t interrupts_taken[256];
uint8_t l1_tss[104] __attribute__((aligned(128)));
static struct idt_gate l1_idt[256] __attribute__((aligned(16)));
static uint64_t window_tables[3][512] __attribute__((aligned(4096)));
static uint8_t window_page[4096] __attribute__((aligned(4096)));

static void idt_init(void) {
    for (uint32_t vector = 0; vector < 256; vector++) {
        uint64_t entry = (uint64_t)trap_stubs[vector];
        l1_idt[vector] = (struct idt_gate){
            .offset_low = (uint16_t)entry,
            .selector = SEL_CODE64,
            .type = vector == VECTOR_RUN_IN_DONE ? 0xee : 0x8e,
            .offset_middle = (uint16_t)(entry >> 16),
            .offset_high = (uint32_t)(entry >> 32),
        };
    }
    struct descriptor_table idtr = {sizeof l1_idt - 1, (uint64_t)l1_idt};
    __asm__ volatile("lidt %0" ::"m"(idtr));
}

void cpu_init_second(void) {
    struct descriptor_table idtr = {sizeof l1_idt - 1, (uint64_t)l1_idt};
    l1_gdt[SEL_TSS / 8] &= ~(2ul << 40); /* not busy */
    __asm__ volatile("lidt %0\n\tltr %w1" ::"m"(idtr), "r"(SEL_TSS));
    lapic_enable();
}

static void tss_init(void) {
    uint64_t base = (uint64_t)l1_tss;
    uint64_t rsp0 = (uint64_t)trap_stack_top;
    memcpy(l1_tss + 4, &rsp0, sizeof rsp0);
    l1_gdt[SEL_TSS / 8] = 0x0000890000000067ul | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
    l1_gdt[SEL_TSS / 8 + 1] = base >> 32;
    struct descriptor_table gdtr = {sizeof l1_gdt - 1, (uint64_t)l1_gdt};
    __asm__ volatile("lgdt %0\n\tltr %w1" ::"m"(gdtr), "r"(SEL_TSS));
}

/* The window at L1_READ_ONLY: one read-only page, nothing behind it. */
static void window_init(void) {
    l1_pml4[L1_READ_ONLY >> 39] = (uint64_t)window_tables[0] | 7;
    window_tables[0][0] = (uint64_t)window_tables[1] | 7;
    window_tables[1][0] = (uint64_t)window_tables[2] | 7;
    window_tables[2][0] = (uint64_t)window_page | 5;
}

void cpu_init(void) {
    tss_init();
    idt_init();
    window_init();
    outb(0x21, 0xff);                   /* both 8259A: everything masked */
    outb(0xa1, 0xff);
    write_dr7(0x400);
}

static void leave_run_in(struct trap_frame *frame) {
    frame->rip = (uint64_t)run_in_return;
    frame->cs = SEL_CODE64;
    frame->ss = SEL_DATA;
    frame->rsp = run_in_rsp;
    frame->rflags = 2;
    run_in_rsp = 0;
    __asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" ::"r"(SEL_DATA));
}

void trap(struct trap_frame *frame) {
    if (frame->vector == VECTOR_RUN_IN_DONE && run_in_rsp != 0) {
        leave_run_in(frame);
        return;
    }
    if (frame->vector == 2 || frame->vector >= 32) {
        interrupts_taken[frame->vector]++;
        if (frame->vector != 2) {
            lapic_write(0xb0, 0);
        }
        return;
    }
    last_fault.vector = (uint32_t)frame->vector;
    last_fault.error_code = (uint32_t)frame->error_code;
    last_fault.cr2 = frame->vector == 14 ? read_cr2() : 0;
    last_fault.rf = (frame->rflags & 0x10000) != 0;
    if (run_in_rsp != 0) {
        leave_run_in(frame);
    } else if (catch_rip != 0) {
        frame->rip = catch_rip;
    } else {
        report_fatal("exception %lu, error code %lx, at %lx, CR2 %lx", frame->vector, frame->error_code,
                     frame->rip, read_cr2());
    }
}

struct fault fault_in(uint64_t cs, uint64_t ss, const void *code, const void *operand) {
    fault_reset();
    run_in(cs, ss, code, operand);
    return last_fault;
}

static volatile uint32_t *lapic_register(uint32_t offset) {
    return (volatile uint32_t *)(0xfee00000ul + offset);
}

void lapic_write(uint32_t offset, uint32_t value) {
    *lapic_register(offset) = value;
}

void lapic_enable(void) {
    lapic_write(0xf0, 0x1ff);           /* spurious vector FFH, software enable */
    lapic_write(0x80, 0);               /* TPR */
}

void lapic_self_ipi(uint8_t vector) {
    lapic_write(0x300, 0x44000u | vector);
}

/* One instruction boundary with interrupts open (STI blocks one instruction). */
void open_interrupts_once(void) {
    __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" ::: "memory");
}

void *memset(void *to, int value, size_t size) {
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    void *at = to;
    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size)::"memory");
    return to;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}
