/* SPDX-License-Identifier: MIT */
/* The virtual APIC: TPR shadow, APIC accesses, x2APIC mode, registers, interrupt delivery (SDM vol. 3C, chapter 32). */
#include "scenarios.h"

enum { L2_APIC = 0x100000, RFLAGS_IF = 0x200, GP = 13, VECTOR = 0x61 };

/* TPR shadow: CR8 of L2 is bits 7:4 of byte 80H of the virtual-APIC page. */

static uint8_t virtual_apic[4096] __attribute__((aligned(4096)));
DEFINE_L2_CODE(tpr, "mov %cr8, %rbx\n mov $9, %eax\n mov %rax, %cr8\n mov %cr8, %rcx\n" EXIT "vmcall\n"
    "mov $4, %eax\n mov %rax, %cr8\n mov $3, %eax\n mov %rax, %cr8\n" EXIT "nop\n" EXIT "vmcall\n");


static void tpr_setup(struct l2 *l2) {
    (void)l2;
    memset(virtual_apic, 0, sizeof virtual_apic);
    virtual_apic[0x80] = 0x60;
    vmwrite(VIRTUAL_APIC, (uint64_t)virtual_apic);
    vmwrite(TPR_THRESHOLD, 4);
}
static void tpr_check(struct l2 *l2) {
    step_equal("first", l2->regs.gpr[RBX], 6);
    step_equal("second", l2->regs.gpr[RCX], 9);
    step_equal("vtpr", virtual_apic[0x80], 0x90);
    then_skip(l2);
}
static void tpr_low(struct l2 *l2) {
    step_equal("vtpr_low", virtual_apic[0x80], 0x30);
    then_stay(l2);
}
static const struct expected_exit tpr_exits[] = {
    VMCALL_EXIT("vmcall", .then = tpr_check),
    {.name = "below", .exit = {.reason = REASON_TPR_THRESHOLD}, .then = tpr_low},
};
static void tpr_threshold_check(struct l2 *l2) {
    tpr_setup(l2);
    virtual_apic[0x80] = 0x30;
    l2_expect_fail(l2, "above_vtpr", 7);
    virtual_apic[0x80] = 0x40;
    struct expected_exit expected = VMCALL_EXIT("equal", .point = 1);
    l2_expect(l2, &expected);
}

/* Virtualized APIC accesses: the page is an exit, but for the TPR. */
static uint8_t apic_access_page[4096] __attribute__((aligned(4096)));
DEFINE_L2_CODE(apic_access,
    "mov $0x100000, %ebx\n" EXIT "mov 0x20(%rbx), %eax\n" EXIT "mov %eax, 0xb0(%rbx)\n"
    "mov 0x80(%rbx), %edx\n movl $0x50, 0x80(%rbx)\n" EXIT "vmcall\n");

static void apic_access_setup(struct l2 *l2) {
    tpr_setup(l2);
    vmwrite(APIC_ACCESS, (uint64_t)apic_access_page);
    vmwrite(TPR_THRESHOLD, 0);
    ept_map(L2_APIC, (uint64_t)apic_access_page, EPT_LEVEL_4K, EPT_READ | EPT_WRITE | EPT_WB);
}
static void apic_skip3(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 3);
}
static void apic_skip6(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 6);
}
static void apic_access_check(struct l2 *l2) {
    step_equal("tpr_read", l2->regs.gpr[RDX], 0x60);
    step_equal("tpr_written", virtual_apic[0x80], 0x50);
}
static const struct expected_exit apic_access_exits[] = {
    {.name = "read", .exit = {.reason = REASON_APIC_ACCESS, .qualification = 0x0020}, .then = apic_skip3},
    {.name = "write", .exit = {.reason = REASON_APIC_ACCESS, .qualification = 0x10b0}, .then = apic_skip6},
    VMCALL_EXIT("end", .then = apic_access_check),
};

/* APIC-register virtualization: reads come from the page, writes that the CPU can't do itself exit after the fact. */
DEFINE_L2_CODE(registers,
    "mov $0x100000, %ebx\n mov 0x20(%rbx), %eax\n mov 0x30(%rbx), %ecx\n mov 0x320(%rbx), %edx\n"
    "movl $0x12345678, 0x310(%rbx)\n mov 0x310(%rbx), %esi\n" EXIT "mov 0x24(%rbx), %r8d\n"
    "movl $7, 0x380(%rbx)\n" EXIT "vmcall\n");

static void registers_setup(struct l2 *l2) {
    static const struct {
        uint32_t offset, value;
    } values[] = {{0x20, 0x05000000}, {0x30, 0x50014}, {0x320, 0x10000}};
    apic_access_setup(l2);
    for (uint32_t i = 0; i < 3; i++) {
        memcpy(virtual_apic + values[i].offset, &values[i].value, 4);
    }
}
/* ICR high keeps its destination byte only, and needs nobody (SDM 32.4.3.2). */
static void registers_check(struct l2 *l2) {
    step_equal("id", l2->regs.gpr[RAX], 0x05000000);
    step_equal("version", l2->regs.gpr[RCX], 0x50014);
    step_equal("timer", l2->regs.gpr[RDX], 0x10000);
    step_equal("icr_high", l2->regs.gpr[RSI], 0x12000000);
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 4);
}
static void registers_timer(struct l2 *l2) {
    (void)l2;
    step_equal("initial_count", virtual_apic[0x380], 7);
}
static const struct expected_exit registers_exits[] = {
    {.name = "unaligned", .exit = {.reason = REASON_APIC_ACCESS, .qualification = 0x0024}, .then = registers_check},
    {.name = "timer", .exit = {.reason = REASON_APIC_WRITE, .qualification = 0x380}, .point = 2, .then = then_stay},
    VMCALL_EXIT("end", .point = 2, .then = registers_timer),
};

/* x2APIC mode: MSRs 800H-8FFH. Without register virtualization only the TPR is virtual. */
static uint8_t passing[4096] __attribute__((aligned(4096)));
DEFINE_L2_CODE(x2apic,
    "mov $0x808, %ecx\n rdmsr\n mov %eax, %ebx\n mov %edx, %esi\n mov $0x20, %eax\n wrmsr\n mov %cr8, %rdi\n"
    EXIT "vmcall\n mov $1, %edx\n" EXIT "wrmsr\n");

static void x2apic_setup(struct l2 *l2) {
    tpr_setup(l2);
    memset(passing, 0, sizeof passing);
    vmwrite(MSR_BITMAP, (uint64_t)passing);
    vmwrite(TPR_THRESHOLD, 0);
    vmwrite(EXCEPTION_BITMAP, 1u << GP);
}
static void x2apic_check(struct l2 *l2) {
    step_equal("read", l2->regs.gpr[RBX], 0x60);
    step_equal("read_high", l2->regs.gpr[RSI], 0);
    step_equal("cr8", l2->regs.gpr[RDI], 2);
    step_equal("vtpr", virtual_apic[0x80], 0x20);
    then_skip(l2);
}
static const struct expected_exit x2apic_exits[] = {
    VMCALL_EXIT("vmcall", .then = x2apic_check),
    {.name = "high_bits", .exit = {.reason = REASON_EXCEPTION_NMI, .interruption = EVENT_HARDWARE_CODE(GP)}},
};

/* The MSR bitmap comes first. */
static void x2apic_bitmap_setup(struct l2 *l2) {
    x2apic_setup(l2);
    passing[0x808 / 8] |= 1u << (0x808 % 8);
}
DEFINE_L2_CODE(x2apic_bitmap,
    "mov $0x808, %ecx\n" EXIT "rdmsr\n mov $0x30, %eax\n xor %edx, %edx\n wrmsr\n" EXIT "vmcall\n");
static void x2apic_bitmap_check(struct l2 *l2) {
    (void)l2;
    step_equal("vtpr", virtual_apic[0x80], 0x30);
}
static const struct expected_exit x2apic_bitmap_exits[] = {
    {.name = "rdmsr", .exit = {.reason = REASON_RDMSR, .length = 2}},
    VMCALL_EXIT("end", .then = x2apic_bitmap_check),
};

DEFINE_L2_CODE(x2apic_registers,
    "mov $0x802, %ecx\n rdmsr\n mov %eax, %ebx\n inc %ecx\n rdmsr\n mov %eax, %esi\n mov $0x832, %ecx\n"
    "rdmsr\n mov %eax, %edi\n" EXIT "vmcall\n");
static void x2apic_registers_setup(struct l2 *l2) {
    static const uint32_t id = 0x1234, version = 0x50014, timer = 0x10055;
    x2apic_setup(l2);
    memcpy(virtual_apic + 0x20, &id, 4);
    memcpy(virtual_apic + 0x30, &version, 4);
    memcpy(virtual_apic + 0x320, &timer, 4);
}
static void x2apic_registers_check(struct l2 *l2) {
    step_equal("id", l2->regs.gpr[RBX], 0x1234);
    step_equal("version", l2->regs.gpr[RSI], 0x50014);
    step_equal("timer", l2->regs.gpr[RDI], 0x10055);
}
static const struct expected_exit x2apic_registers_exits[] = {
    VMCALL_EXIT("vmcall", .then = x2apic_registers_check),
};

/* Virtual-interrupt delivery. VECTOR is requested; its handler runs in L2 without an exit, and ends it by an EOI. */
#define VIRR 0x200
#define VISR 0x100
static uint32_t vector_bits(uint32_t base, uint32_t vector) {
    uint32_t value;
    memcpy(&value, virtual_apic + base + (vector / 32) * 16, sizeof value);
    return value;
}
static void request_vector(uint32_t vector) {
    uint32_t value = vector_bits(VIRR, vector) | 1u << (vector % 32);
    memcpy(virtual_apic + VIRR + (vector / 32) * 16, &value, sizeof value);
    vmwrite(GUEST_INTERRUPT_STATUS, vector);
}

DEFINE_L2_CODE(delivered,
    "nop\n nop\n mov %cr8, %rdi\n" EXIT "vmcall\n nop\n" EXIT "vmcall\n .global l2_virtual_handler\n"
    "l2_virtual_handler:  " EXIT "vmcall\n mov $0x80b, %ecx\n xor %eax, %eax\n xor %edx, %edx\n wrmsr\n"
    EXIT "iretq\n");
extern const uint8_t l2_virtual_handler[];
static void delivered_setup(struct l2 *l2) {
    x2apic_setup(l2);
    virtual_apic[0x80] = 0;
    l2_gate(VECTOR, l2_virtual_handler, 0, 0);
    vmcs_set(GUEST_RFLAGS, RFLAGS_IF, 0);
    for (uint32_t i = 0; i < 4; i++) {
        vmwrite((enum vmcs_field)(EOI_EXIT0 + i * 2), 0);
    }
    request_vector(VECTOR);
}
static void in_service(struct l2 *l2) {
    step_equal("status", vmread(GUEST_INTERRUPT_STATUS), VECTOR << 8);
    step_equal("visr", vector_bits(VISR, VECTOR), 1u << (VECTOR % 32));
    step_equal("virr", vector_bits(VIRR, VECTOR), 0);
    step_equal("vppr", virtual_apic[0xa0], VECTOR & 0xf0);
    then_skip(l2);
}
static void dismissed(struct l2 *l2) {
    step_equal("status_after", vmread(GUEST_INTERRUPT_STATUS), 0);
    step_equal("visr_after", vector_bits(VISR, VECTOR), 0);
    step_equal("vppr_after", virtual_apic[0xa0], 0);
    then_skip(l2);
}
static const struct expected_exit delivered_exits[] = {
    VMCALL_EXIT("handler", .point = 3, .then = in_service),
    VMCALL_EXIT("end", .point = 1, .then = dismissed),
};

/* With the vector's EOI-exit bit: an exit behind the WRMSR. */
static void eoi_exit_setup(struct l2 *l2) {
    delivered_setup(l2);
    vmwrite(EOI_EXIT1, 1ul << (VECTOR - 64));
}
static const struct expected_exit eoi_exit_exits[] = {
    VMCALL_EXIT("handler", .point = 3, .then = in_service),
    {.name = "eoi", .exit = {.reason = REASON_VIRTUALIZED_EOI, .qualification = VECTOR}, .point = 4,
         .then = then_stay},
    VMCALL_EXIT("end", .point = 1, .then = dismissed),
};

/* VTPR holds the vector back until L2 lowers it. */
DEFINE_L2_CODE(held_back, "nop\n" EXIT "vmcall\n mov $5, %eax\n mov %rax, %cr8\n" EXIT "nop\n");

static void held_back_setup(struct l2 *l2) {
    delivered_setup(l2);
    virtual_apic[0x80] = 0x60;
}
static void still_requested(struct l2 *l2) {
    step_equal("status", vmread(GUEST_INTERRUPT_STATUS), VECTOR);
    step_equal("virr", vector_bits(VIRR, VECTOR), 1u << (VECTOR % 32));
    then_skip(l2);
}
static void held_back_body(struct l2 *l2) {
    struct expected_exit first = VMCALL_EXIT("held_back", .point = 1);
    struct expected_exit second = VMCALL_EXIT("handler", .point = NO_POINT);
    second.exit.rip = (int64_t)(l2_address(l2_virtual_handler) - l2->base);
    if (l2_expect(l2, &first)) {
        still_requested(l2);
        if (l2_expect(l2, &second)) {
            step_equal("pushed_rip", *l2_u64(vmread(GUEST_RSP)) - l2_point(l2, 2), 0);
            in_service(l2);
        }
    }
}

/* RFLAGS.IF holds it back too. */
DEFINE_L2_CODE(cleared_if, EXIT "vmcall\n sti\n nop\n" EXIT "nop\n");

static void cleared_if_body(struct l2 *l2) {
    vmwrite(GUEST_RFLAGS, 2);
    held_back_body(l2);
}

/* Self-IPI in x2APIC mode: delivered by the CPU. */
DEFINE_L2_CODE(self_ipi,
    EXIT "mov $0x83f, %ecx\n xor %edx, %edx\n mov $0x61, %eax\n wrmsr\n" EXIT "nop\n nop\n");
static void self_ipi_body(struct l2 *l2) {
    virtual_apic[VIRR + (VECTOR / 32) * 16] = 0;
    vmwrite(GUEST_INTERRUPT_STATUS, 0);
    struct expected_exit handler = VMCALL_EXIT("handler", .point = NO_POINT);
    handler.exit.rip = (int64_t)(l2_address(l2_virtual_handler) - l2->base);
    if (l2_expect(l2, &handler)) {
        step_equal("pushed_rip", *l2_u64(vmread(GUEST_RSP)) - l2_point(l2, 2), 0);
        in_service(l2);
    }
}

/* EOI through the APIC-access page. */
DEFINE_L2_CODE(page_eoi, "nop\n" EXIT "vmcall\n"
    ".global l2_page_handler\n l2_page_handler: movl $0, 0x1000b0\n" EXIT "iretq\n");

extern const uint8_t l2_page_handler[];
static void page_eoi_setup(struct l2 *l2) {
    delivered_setup(l2);
    vmwrite(APIC_ACCESS, (uint64_t)apic_access_page);
    ept_map(L2_APIC, (uint64_t)apic_access_page, EPT_LEVEL_4K, EPT_READ | EPT_WRITE | EPT_WB);
    l2_gate(VECTOR, l2_page_handler, 0, 0);
    vmwrite(EOI_EXIT1, 1ul << (VECTOR - 64));
}
static const struct expected_exit page_eoi_exits[] = {
    {.name = "eoi", .exit = {.reason = REASON_VIRTUALIZED_EOI, .qualification = VECTOR}, .point = 2,
         .then = then_stay},
    VMCALL_EXIT("end", .point = 1, .then = dismissed),
};

/* Posted interrupts (SDM 32.6): the notification's vector is taken by the CPU, any other exits. */
enum { NOTIFICATION = 0xe1, OTHER = 0xe2, PIR_ON = 32 };
static uint8_t posted_descriptor[64] __attribute__((aligned(64)));

static void post(uint32_t vector) {
    posted_descriptor[vector / 8] |= (uint8_t)(1u << vector % 8);
    posted_descriptor[PIR_ON] |= 1;
}
/* What delivery needs is touched first: Bochs 3.0 forgets the vector of a virtual interrupt that an EPT violation holds up. */
DEFINE_L2_CODE(posted, "mov 0x6000, %rax\n mov 0x5000, %rax\n push %rax\n pop %rax\n" EXIT "vmcall\n" EXIT "nop\n nop\n" EXIT "vmcall\n");

static void posted_setup(struct l2 *l2) {
    delivered_setup(l2);
    vmwrite(GUEST_RFLAGS, 2);
    memset(virtual_apic + VIRR, 0, 0x80);
    vmwrite(GUEST_INTERRUPT_STATUS, 0);
    memset(posted_descriptor, 0, sizeof posted_descriptor);
    vmwrite(POSTED_VECTOR, NOTIFICATION);
    vmwrite(POSTED_DESCRIPTOR, (uint64_t)posted_descriptor);
}
static void posted_body(struct l2 *l2) {
    static const struct expected_exit touched = VMCALL_EXIT("touched", .point = 1), end = VMCALL_EXIT("end", .point = 3);
    static const struct expected_exit other = {
        .name = "other", .exit = {.reason = REASON_EXTERNAL_INTERRUPT, .interruption = EVENT_EXTERNAL(OTHER)}, .point = 2};
    struct expected_exit handler = VMCALL_EXIT("handler", .point = NO_POINT);
    handler.exit.rip = (int64_t)(l2_address(l2_virtual_handler) - l2->base);
    l2_expect(l2, &touched);
    then_skip(l2);
    vmcs_set(GUEST_RFLAGS, RFLAGS_IF, 0);
    lapic_self_ipi(OTHER);
    l2_expect(l2, &other);
    lapic_write(0xb0, 0);
    post(VECTOR);
    lapic_self_ipi(NOTIFICATION);
    if (l2_expect(l2, &handler)) {
        step_equal("request", posted_descriptor[VECTOR / 8], 0);
        step_equal("outstanding", posted_descriptor[PIR_ON], 0);
        in_service(l2);
        l2_expect(l2, &end);
        dismissed(l2);
    }
}

enum { DELIVERY_PROC = PROC_TPR_SHADOW | PROC_MSR_BITMAPS };
#define DELIVERY .on = {.pin = PIN_EXTERNAL_INTERRUPT, .proc = DELIVERY_PROC, .proc2 = PROC2_X2APIC | PROC2_INTERRUPT_DELIVERY}

static const struct scenario table[] = {
    SCENARIO("apic.tpr", tpr, .on = {.proc = PROC_TPR_SHADOW}, .setup = tpr_setup),
    SCENARIO_BODY("apic.tpr_threshold", tpr, tpr_threshold_check, .on = {.proc = PROC_TPR_SHADOW}),
    SCENARIO("apic.access", apic_access, .on = {.proc = PROC_TPR_SHADOW, .proc2 = PROC2_APIC_ACCESSES},
             .setup = apic_access_setup),
    SCENARIO("apic.registers", registers, .setup = registers_setup,
             .on = {.proc = PROC_TPR_SHADOW, .proc2 = PROC2_APIC_ACCESSES | PROC2_APIC_REGISTERS}),
    SCENARIO("apic.x2apic", x2apic, .on = {.proc = DELIVERY_PROC, .proc2 = PROC2_X2APIC}, .setup = x2apic_setup),
    SCENARIO("apic.x2apic_bitmap", x2apic_bitmap, .on = {.proc = DELIVERY_PROC, .proc2 = PROC2_X2APIC},
             .setup = x2apic_bitmap_setup),
    SCENARIO("apic.x2apic_registers", x2apic_registers, .setup = x2apic_registers_setup,
             .on = {.proc = DELIVERY_PROC, .proc2 = PROC2_X2APIC | PROC2_APIC_REGISTERS}),
    SCENARIO("apic.delivery", delivered, DELIVERY, .setup = delivered_setup),
    {.name = "apic.eoi_exit", .kind = WITH_L2, L2_CODE(delivered), EXITS(eoi_exit_exits), DELIVERY,
         .setup = eoi_exit_setup},
    SCENARIO_BODY("apic.held_back", held_back, held_back_body, DELIVERY, .setup = held_back_setup),
    SCENARIO_BODY("apic.cleared_if", cleared_if, cleared_if_body, DELIVERY, .setup = delivered_setup),
    SCENARIO_BODY("apic.posted", posted, posted_body, .setup = posted_setup,
                  .on = {.pin = PIN_EXTERNAL_INTERRUPT | PIN_POSTED_INTERRUPTS, .proc = DELIVERY_PROC,
                         .proc2 = PROC2_X2APIC | PROC2_INTERRUPT_DELIVERY, .exit = EXIT_ACKNOWLEDGE}),
    SCENARIO_BODY("apic.self_ipi", self_ipi, self_ipi_body, DELIVERY, .setup = delivered_setup),
    SCENARIO("apic.page_eoi", page_eoi, .setup = page_eoi_setup,
             .on = {.pin = PIN_EXTERNAL_INTERRUPT, .proc = DELIVERY_PROC,
             .proc2 = PROC2_APIC_ACCESSES | PROC2_INTERRUPT_DELIVERY}),
};

DEFINE_SCENARIOS(apic, table);
