/* SPDX-License-Identifier: MIT */
/*
 * All processors of the machine. L0 starts those that the firmware left asleep, so that none of them ever runs outside
 * L0, and lets each wait for L1's start-up IPI as a guest: INIT and start-up IPIs that L1 sends through its own local
 * APICs reach L0 as VM exits.
 *
 * One lock (the VM's) is held from each exit to the next entry. libnvmx doesn't ask for it; ept01, the page pool and the
 * console are so kept simple. Whoever holds it can bring all others out of their guests by an NMI: they wait for the lock then, and what
 * the holder changes (page tables, above all) is in force when they go on.
 */
#include "console.h"
#include "host.h"

#define APIC_BASE_ENABLED  (1ull << 11)
#define APIC_BASE_X2APIC   (1ull << 10)
#define APIC_BASE_ADDRESS  0x000ffffffffff000ull
#define APIC_ID            0x20
#define APIC_EOI           0xb0
#define APIC_LDR           0xd0
#define APIC_DFR           0xe0
#define APIC_SVR           0xf0
#define APIC_TPR           0x80
#define APIC_ISR           0x100
#define APIC_ICR_LOW       0x300
#define APIC_ICR_HIGH      0x310
#define APIC_TIMER_INITIAL 0x380
#define ICR_NMI            (4u << 8)
#define ICR_INIT           (5u << 8)
#define ICR_STARTUP        (6u << 8)
#define ICR_PENDING        (1u << 12)
#define ICR_ASSERT         (1u << 14)
#define X2APIC_MSR(offset) (0x800u + (offset) / 16)

#define LOWEST_PAGE        (4 * KIB)
#define HIGHEST_PAGE       (640 * KIB)

/* In port-61H reads of about a microsecond each, as no clock is L0's. */
#define WAIT_AFTER_INIT    10000u
#define WAIT_AFTER_STARTUP 200u
#define WAIT_ONLINE        1000000u
#define WAIT_OUT           2000000u

/* ap.S */
extern const uint8_t ap_start[], ap_end[], ap_patch[];
struct ap_patch {
    uint32_t far_offset;
    uint16_t far_selector;
    uint16_t gdt_limit;
    uint32_t gdt_base;
    uint32_t cr3;
    uint64_t stack; /* RSP, and RDI for main */
    uint64_t main;
} __attribute__((packed));

/* The stack grows down from the struct (entry.S) to a page that isn't mapped. */
struct processor {
    uint8_t stack[CPU_STACK_BYTES];
    struct cpu cpu;
};

static struct cpu *cpus[CPUS_MAX];
uint32_t processors = 1;
static uint64_t start_page;    /* of conventional memory */
static volatile bool released; /* L1 is in place: all processors may become its */

static struct {
    volatile uint32_t taken;
    struct cpu *volatile owner;
    struct cpu *crashing;
} lock;

/* -- time --------------------------------------------------------------------------------------------------------- */

static void wait_a_microsecond(void) {
    (void)inb(0x61);
}

static void wait_microseconds(uint32_t count) {
    while (count--)
        wait_a_microsecond();
}

/* -- this processor's local APIC, which is L1's -------------------------------------------------------------------- */

static volatile uint32_t *apic_register(uint32_t offset) {
    return phys_to_virt((rdmsr(MSR_APIC_BASE) & APIC_BASE_ADDRESS) + offset);
}

static bool is_x2apic(void) {
    return rdmsr(MSR_APIC_BASE) & APIC_BASE_X2APIC;
}

uint32_t apic_read(uint32_t offset) {
    uint64_t value = 0;

    if (!is_x2apic())
        return *apic_register(offset);
    rdmsr_safe(X2APIC_MSR(offset), &value);
    return (uint32_t)value;
}

void apic_write(uint32_t offset, uint32_t value) {
    if (is_x2apic())
        wrmsr_safe(X2APIC_MSR(offset), value);
    else
        *apic_register(offset) = value;
}

static uint32_t apic_id(void) {
    return is_x2apic() ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
}

static void wait_for_icr(void) {
    for (uint32_t i = 0; i < WAIT_AFTER_INIT && apic_read(APIC_ICR_LOW) & ICR_PENDING; i++)
        wait_a_microsecond();
}

/* L1 may be between its two writes of the ICR: its first half is put back. */
static void send(uint32_t id, uint32_t command) {
    uint32_t high;

    if (is_x2apic()) {
        wrmsr(X2APIC_MSR(APIC_ICR_LOW), (uint64_t)id << 32 | command | ICR_ASSERT);
        return;
    }
    wait_for_icr();
    high = apic_read(APIC_ICR_HIGH);
    apic_write(APIC_ICR_HIGH, id << 24);
    apic_write(APIC_ICR_LOW, command | ICR_ASSERT);
    wait_for_icr();
    apic_write(APIC_ICR_HIGH, high);
}

/* What INIT does to a local APIC (SDM 12.4.7.3), for L1, whose INIT ended in an exit and did nothing. */
static void apic_reset(void) {
    if (!(rdmsr(MSR_APIC_BASE) & APIC_BASE_ENABLED))
        return;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t in_service = 0;

        for (uint32_t k = 0; k < 8; k++)
            in_service |= apic_read(APIC_ISR + 16 * k);
        if (!in_service)
            break;
        apic_write(APIC_EOI, 0);
    }
    apic_write(APIC_TIMER_INITIAL, 0);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_SVR, 0xff); /* disabled, which masks the local vector table */
    if (is_x2apic())
        return; /* no DFR there, and the LDR is the processor's own */
    apic_write(APIC_LDR, 0);
    apic_write(APIC_DFR, UINT32_MAX);
}

/* -- the lock ------------------------------------------------------------------------------------------------------ */

void vm_lock_taken(struct cpu *cpu) {
    cpu->in_guest = false;
    while (__atomic_exchange_n(&lock.taken, 1, __ATOMIC_ACQ_REL))
        while (lock.taken) {
            if (cpu == cpus[0])
                reinit_serve(start_page);
            relax();
        }
    lock.owner = cpu;
}

void vm_lock_given(void) {
    lock.owner = NULL;
    __atomic_store_n(&lock.taken, 0, __ATOMIC_RELEASE);
}

/* Every other processor is in L0 when this returns, and stays there until the lock is free. False: one does not come.
 */
static bool bring_out(struct cpu *self) {
    bool all = true;

    for (uint32_t i = 0; i < processors; i++)
        /* Where one is still on its way, a second would be taken for L1's. */
        if (cpus[i] != self && cpus[i]->in_guest && !cpus[i]->kicked) {
            cpus[i]->kicked = true;
            send(cpus[i]->apic_id, ICR_NMI);
        }
    for (uint32_t i = 0; i < processors; i++) {
        for (uint32_t k = 0; k < WAIT_OUT && cpus[i] != self && cpus[i]->in_guest; k++)
            relax();
        all = all && (cpus[i] == self || !cpus[i]->in_guest);
    }
    return all;
}

void processors_bring_out(struct cpu *self) {
    if (!bring_out(self))
        panic("a processor does not come out of its guest: did L1 disable its local APIC?");
}

bool processors_in_guests(const struct cpu *self) {
    for (uint32_t i = 0; i < processors; i++)
        if (cpus[i] != self && cpus[i]->in_guest)
            return true;
    return false;
}

void processors_flush_others(struct cpu *self) {
    if (processors < 2)
        return;
    for (uint32_t i = 0; i < processors; i++)
        if (cpus[i] != self)
            cpus[i]->flush_due = true;
    processors_bring_out(self);
}

void processors_stop(void) {
    struct cpu *self = this_cpu(), *none = NULL;

    if (processors < 2 || lock.crashing == self)
        return;
    if (!__atomic_compare_exchange_n(&lock.crashing, &none, self, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        for (;;)
            halt(); /* another's report is the first, and the last */
    for (uint32_t i = 0; i < WAIT_OUT && lock.owner != self && __atomic_exchange_n(&lock.taken, 1, __ATOMIC_ACQ_REL);
         i++)
        relax();
    lock.owner = self;
    bring_out(self);
}

/* -- INIT and start-up IPIs of L1 ---------------------------------------------------------------------------------- */

void processor_init(struct cpu *cpu) {
    if (cpu == cpus[0])
        panic("L1's boot processor got an INIT signal");
    nvmx_vcpu_reset(cpu->vcpu);
    cpu->l1_in_vmx_operation = false;
    cpu->entry.init_owed = cpu->entry.nmi_owed = false;
    vmcs01_wait_for_startup(cpu);
    nvmx_vmcs01_changed(cpu->vcpu);
    cpu->waits_for_startup = true;
    apic_reset();
}

/* -- boot ---------------------------------------------------------------------------------------------------------- */

struct cpu *processor(uint32_t index) {
    return cpus[index];
}

static _Noreturn void ap_main(struct cpu *cpu) {
    cpu_use(cpu);
    traps_init(cpu);
    vmx_on(cpu);
    cpu->online = true;
    while (!released)
        relax();
    write_cr3(read_cr3()); /* forget the page that it came from */
    vm_lock(cpu);
    cpu_make(cpu);
    vmcs01_init(cpu, NULL);
    cpu->waits_for_startup = true;
    vm_unlock();
    vmx_run(cpu);
}

void processor_put_trampoline(uint64_t page, uint64_t stack, uint64_t main) {
    uint8_t *to = phys_to_virt(page);
    struct ap_patch *patch = (struct ap_patch *)(to + (ap_patch - ap_start));

    memcpy(to, ap_start, (size_t)(ap_end - ap_start));
    patch->far_offset += (uint32_t)page;
    patch->gdt_base += (uint32_t)page;
    patch->cr3 = (uint32_t)read_cr3();
    patch->stack = stack;
    patch->main = main;
}

void processor_send_startup(uint32_t apic_id, uint64_t page) {
    send(apic_id, ICR_STARTUP | (uint32_t)(page / PAGE_BYTES));
    wait_microseconds(WAIT_AFTER_STARTUP);
}

void processor_send_init(uint32_t apic_id) {
    send(apic_id, ICR_INIT);
    wait_microseconds(WAIT_AFTER_INIT);
}

static void start(struct cpu *cpu) {
    processor_put_trampoline(start_page, (uintptr_t)cpu, (uintptr_t)ap_main);
    processor_send_init(cpu->apic_id);
    for (uint32_t tries = 0; tries < 2 && !cpu->online; tries++)
        processor_send_startup(cpu->apic_id, start_page);
    for (uint32_t i = 0; i < WAIT_ONLINE && !cpu->online; i++)
        wait_a_microsecond();
    if (!cpu->online)
        panic("the processor with local APIC identifier %u does not start", cpu->apic_id);
}

void processors_start(struct cpu *boot_cpu) {
    static uint32_t id[CPUS_MAX];
    uint32_t count = acpi_processors(id, CPUS_MAX);

    cpus[0] = boot_cpu;
    if (count > CPUS_MAX)
        panic("this machine has %u processors, and L0 manages %u", count, CPUS_MAX);
    if (count < 2)
        return;
    boot_cpu->apic_id = apic_id();
    start_page = memory_find(PAGE_BYTES, PAGE_BYTES, LOWEST_PAGE, HIGHEST_PAGE);
    if (!start_page)
        panic("no page of conventional memory is left to start the other processors from");
    memory_map_same(start_page, true);
    for (uint32_t i = 0; i < count; i++) {
        struct processor *processor;

        if (id[i] == boot_cpu->apic_id)
            continue;
        processor = memory_guarded(sizeof *processor);
        processor->cpu.apic_id = id[i];
        processor->cpu.index = processors;
        start(&processor->cpu);
        cpus[processors++] = &processor->cpu;
    }
    memory_map_same(start_page, false);
    print("nvmx: %u processors\n", processors);
}

void processors_release(void) {
    released = true;
}
