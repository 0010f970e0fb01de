/* SPDX-License-Identifier: MIT */
/*
 * A hypervisor that does nothing but measure what VMX operations cost it, as seen by its own TSC. On an emulated CPU whose
 * TSC counts instructions the figures do not depend on the machine that emulates.
 *
 * For each operation one line: "bench: NAME min median max", in TSC ticks per operation.
 */
#include "l2.h"
#include "serial.h"

enum { ROUNDS = 1000, WARM_UP = 50 };

static uint64_t samples[ROUNDS];

void l1_main(uint32_t magic, const void *info);

static inline uint64_t ticks(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

/* -- statistics ------------------------------------------------------------------------------------------------------------- */

static void sift(uint64_t *heap, uint32_t root, uint32_t count) {
    for (uint32_t child = 2 * root + 1; child < count; root = child, child = 2 * root + 1) {
        if (child + 1 < count && heap[child + 1] > heap[child]) {
            child++;
        }
        if (heap[root] >= heap[child]) {
            return;
        }
        uint64_t swap = heap[root];
        heap[root] = heap[child];
        heap[child] = swap;
    }
}

static void sort(uint64_t *values, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;) {
        sift(values, i, count);
    }
    for (uint32_t end = count; end-- > 1;) {
        uint64_t swap = values[0];
        values[0] = values[end];
        values[end] = swap;
        sift(values, 0, end);
    }
}

static void print_row(const char *name, uint32_t count) {
    sort(samples, count);
    print("bench: %s %lu %lu %lu\n", name, samples[0], samples[count / 2], samples[count - 1]);
}

/* -- L2's programs: endless loops around one instruction ----------------------------------------------------------------------- */

DEFINE_L2_CODE(cpuid, "1: cpuid\n jmp 1b\n");
DEFINE_L2_CODE(out, "1: out %al, $0x80\n jmp 1b\n");
DEFINE_L2_CODE(vmcall, "1: vmcall\n jmp 1b\n");
DEFINE_L2_CODE(rdmsr, "1: rdmsr\n jmp 1b\n");
DEFINE_L2_CODE(mmio, "1: mov (%rbx), %eax\n jmp 1b\n");
/* RAX = address, RDX = step, RCX = number of touches; a VMCALL at the end. */
DEFINE_L2_CODE(touch, "1: mov (%rax), %rbx\n add %rdx, %rax\n dec %rcx\n jnz 1b\n 2: vmcall\n jmp 2b\n");
/* RCX = MSR, R8 = number of accesses; a VMCALL at the end. */
DEFINE_L2_CODE(own_rdmsr, "1: rdmsr\n dec %r8\n jnz 1b\n 2: vmcall\n jmp 2b\n");

struct bench_registers {
    uint64_t rbx, rcx, rdx;
};
uint64_t bench_round(const struct bench_registers *registers);
extern const uint8_t bench_exit[];

/* What L2's programs find: the MMIO address in RBX, an MSR (the TSC) in RCX. */
static const struct bench_registers registers = {.rbx = L2_HOLE, .rcx = 0x10};

static struct l2 l2;
static uint8_t exit_stack[256] __attribute__((aligned(16)));

static void start(const uint8_t *code, const struct controls *on) {
    static const struct controls none;
    const struct scenario s = {.name = "bench", .kind = WITH_L2, .on = on != 0 ? *on : none, .code = code};

    l2_prepare(&l2, &s);
}

static void failed(uint64_t rflags) {
    print("bench: entry failed, flags %lx error %lu\n", rflags, vmread(INSTRUCTION_ERROR));
    power_off();
}

static void enter(void) {
    uint64_t rflags = l2_enter(&l2.regs, !l2.launched);

    if (rflags != 0) {
        failed(rflags);
    }
    l2.launched = true;
}

/* What the least exit handler does: reason, length, next RIP. */
static inline void handle(void) {
    (void)vmread(EXIT_REASON);
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH));
}

/* From here on exits of the current VMCS come to bench_round. */
static void use_rounds(void) {
    vmwrite(HOST_RIP, (uint64_t)bench_exit);
    vmwrite(HOST_RSP, (uint64_t)exit_stack + sizeof exit_stack);
}

static inline void round_trip(void) {
    uint64_t rflags = bench_round(&registers);

    if (rflags != 0) {
        failed(rflags);
    }
}

static void round_trips(const char *name, const uint8_t *code, const struct controls *on) {
    start(code, on);
    l2.regs.gpr[RBX] = registers.rbx;
    l2.regs.gpr[RCX] = registers.rcx;
    enter();
    handle();
    use_rounds();
    for (uint32_t i = 0; i < WARM_UP; i++) {
        round_trip();
    }
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t before = ticks();
        round_trip();
        samples[i] = ticks() - before;
    }
    print_row(name, ROUNDS);
}

/* -- operations of L1 alone ------------------------------------------------------------------------------------------------------- */

#define MEASURE(NAME, STATEMENT)                                                                                       \
    do {                                                                                                               \
        for (uint32_t i = 0; i < WARM_UP + ROUNDS; i++) {                                                              \
            uint64_t before = ticks();                                                                                 \
            STATEMENT;                                                                                                 \
            samples[i < WARM_UP ? i : i - WARM_UP] = ticks() - before;                                                 \
        }                                                                                                              \
        print_row(NAME, ROUNDS);                                                                                     \
    } while (0)

static void own_cpuid(void) {
    uint32_t out[4];

    cpuid(0, 0, out);
}

static void run_one(void) {
    enter();
    handle();
}

static uint64_t address_of(const struct vmcs_region *region) {
    return (uint64_t)region;
}

static void switch_to(const struct vmcs_region *region) {
    uint64_t pointer = address_of(region);

    vmx_vmptrld(&pointer);
}

/* Two L2s in turn, each resumed once. */
static void in_turn(void) {
    static struct l2 other;
    static const struct controls none;

    start(l2_vmcall, 0);
    run_one();
    other = l2;
    other.vmcs = &vmcs_b;
    other.launched = false;
    vmcs_prepare(&vmcs_b, &none, &none, other.base);
    l2_enter(&other.regs, 1);
    handle();
    use_rounds();
    switch_to(&vmcs_a);
    use_rounds();
    MEASURE("vmptrld_two_in_turn", {
        switch_to(&vmcs_a);
        round_trip();
        switch_to(&vmcs_b);
        round_trip();
    });
}

static void relaunch(void) {
    uint64_t pointer = address_of(&vmcs_a);

    start(l2_vmcall, 0);
    run_one();
    MEASURE("vmclear_vmptrld_launch", {
        vmx_vmclear(&pointer);
        vmx_vmptrld(&pointer);
        l2_enter(&l2.regs, 1);
        handle();
    });
}

static void invept(void) {
    uint64_t descriptor[2] = {0, 0};

    start(l2_vmcall, 0);
    run_one();
    use_rounds();
    descriptor[0] = vmread(EPT_POINTER);
    MEASURE("invept_single", vmx_invept(1, descriptor));
    MEASURE("invept_resume_exit", {
        vmx_invept(1, descriptor);
        round_trip();
    });
}

/* L2 touches pages for the first time; no exit to L1, all of the cost is below. */
static void first_touch(const char *name, uint64_t base, uint64_t page, uint32_t count, uint32_t level) {
    for (uint32_t i = 0; i < 4; i++) {
        start(l2_touch, 0);
        for (uint64_t at = 0; at < count * page; at += page) {
            ept_map(base + at, level == EPT_LEVEL_2M ? at : (uint64_t)large_page + at, level, EPT_ALL | EPT_WB);
        }
        invalidate_all();
        l2.regs.gpr[RAX] = base;
        l2.regs.gpr[RDX] = page;
        l2.regs.gpr[RCX] = 1;
        enter(); /* L2's own tables and code are mapped now */
        vmwrite(GUEST_RIP, l2.base);
        l2.regs.gpr[RAX] = base + page;
        l2.regs.gpr[RCX] = count - 1;
        uint64_t before = ticks();
        enter();
        samples[i] = (ticks() - before) / (count - 1);
    }
    print_row(name, 4);
}

static void rdmsr_of_l0(void) {
    static const struct controls on = {.proc = PROC_MSR_BITMAPS};
    static uint8_t bitmap[4096] __attribute__((aligned(4096)));
    enum { ACCESSES = 1000 };

    start(l2_own_rdmsr, &on);
    vmwrite(MSR_BITMAP, (uint64_t)bitmap);
    for (uint32_t i = 0; i < 4; i++) {
        l2.regs.gpr[RCX] = MSR_VMX_BASIC;
        l2.regs.gpr[R8] = ACCESSES;
        vmwrite(GUEST_RIP, l2.base);
        uint64_t before = ticks();
        enter();
        samples[i] = (ticks() - before) / ACCESSES;
    }
    print_row("l2_rdmsr_of_l0", 4);
}

void l1_main(uint32_t magic, const void *info) {
    static const struct controls io = {.proc = PROC_IO};

    (void)magic;
    (void)info;
    serial_init();
    cpu_init();
    vmx_discover();
    MEASURE("l1_cpuid", own_cpuid());
    if (!vmx_on()) {
        print("bench: VMXON failed\n");
        power_off();
    }
    round_trips("l2_cpuid", l2_cpuid, 0);
    round_trips("l2_out", l2_out, &io);
    round_trips("l2_vmcall", l2_vmcall, 0);
    round_trips("l2_rdmsr", l2_rdmsr, 0);
    round_trips("l2_mmio", l2_mmio, 0);
    MEASURE("vmread_shadowed", (void)vmread(EXIT_REASON));
    MEASURE("vmread", (void)vmread(HOST_TR_BASE));
    MEASURE("vmwrite", vmwrite(HOST_SYSENTER_CS, 0));
    switch_to(&vmcs_a);
    MEASURE("vmptrld_same", switch_to(&vmcs_a));
    invept();
    in_turn();
    relaunch();
    rdmsr_of_l0();
    first_touch("first_touch_4k", L2_HOLE, 0x1000, 512, EPT_LEVEL_4K);
    first_touch("first_touch_2m", L2_HOLE, 0x200000, 8, EPT_LEVEL_2M);
    print("bench: done\n");
    power_off();
}
