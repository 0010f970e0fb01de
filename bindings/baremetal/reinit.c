/* SPDX-License-Identifier: MIT */
/*
 * Bochs 2.7 doesn't get over INIT and start-up IPIs of a guest by itself. An INIT signal that makes a guest exit stays
 * pending, and makes it exit again at every entry; what is masked in the wait-for-SIPI state stays masked after the
 * start-up IPI: NMIs, and SMIs, which it then takes for blocking by SMI and refuses to enter. Nothing but a reset of
 * the processor ends either. So after such an exit the processor leaves VMX operation, and the boot processor, which
 * waits in vm_lock, resets and starts it, while all others are held out of their guests. What a reset changes of L1's
 * that no VMCS holds is put back.
 */
#include "console.h"
#include "host.h"

/* entry.S. False: no reset came. Else nothing is left but the stack and the registers that a call preserves. */
bool reinit_out(volatile uint64_t *stack, uint64_t patience);
extern const char reinit_in[];

#define PATIENCE 100000000u

#define APIC_SVR 0xf0
static const uint16_t apic_offset[] = {
    APIC_SVR,
    0x80 /* TPR */,
    0xd0 /* LDR */,
    0xe0 /* DFR */,
    0x3e0 /* timer: divide */,
    0x320 /* its vector */,
    0x330,
    0x340,
    0x350,
    0x360,
    0x370 /* error vector */,
    0x380 /* timer: initial count */,
};
static const uint32_t msr[] = {0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103, 0xda0};

#define APICS (sizeof apic_offset / sizeof apic_offset[0])
#define MSRS  (sizeof msr / sizeof msr[0])

static struct {
    uint32_t apic_id;        /* of the processor that is to be reset */
    volatile uint64_t stack; /* not 0: it waits for it */
    volatile bool done;
    uint32_t apic[APICS];
    uint64_t msr[MSRS];
    bool has_msr[MSRS];
    uint64_t dr[4], dr6;
} reinit;

static void save(void) {
    for (uint32_t i = 0; i < APICS; i++)
        reinit.apic[i] = apic_read(apic_offset[i]);
    for (uint32_t i = 0; i < MSRS; i++)
        reinit.has_msr[i] = rdmsr_safe(msr[i], &reinit.msr[i]);
    read_debug_registers(reinit.dr, &reinit.dr6);
}

static void restore(void) {
    for (uint32_t i = 0; i < APICS; i++)
        apic_write(apic_offset[i], reinit.apic[i]);
    for (uint32_t i = 0; i < MSRS; i++)
        if (reinit.has_msr[i])
            wrmsr_safe(msr[i], reinit.msr[i]);
    write_debug_registers(reinit.dr, reinit.dr6);
}

void processor_reset(struct cpu *cpu) {
    uint32_t selected = cpu->selected;

    if (cpu->index == 0) /* it would go to the firmware, and without a reset it would exit for ever */
        panic("L1's boot processor got an INIT signal");
    processors_bring_out(cpu);
    save();
    for (uint32_t i = 0; i < REGIONS; i++) {
        if (cpu->slot[i].hpa && !vmclear(&cpu->slot[i].hpa))
            panic("VMCLEAR of VMCS %u failed", i);
        cpu->slot[i].launched = false;
    }
    reinit.done = false;
    reinit.apic_id = cpu->apic_id;
    if (!reinit_out(&reinit.stack, PATIENCE))
        panic("the processor is not reset by the boot processor");
    cpu_use(cpu);
    traps_load(cpu);
    restore();
    cpu->kicked = false; /* the reset took an NMI that was on its way */
    reinit.done = true;
    while (reinit.stack)
        relax(); /* the page that it came from is L1's: it has to be as it was */
    vmx_enter(cpu);
    cpu->selected = REGIONS;
    vmcs_use(cpu, selected);
}

void reinit_serve(uint64_t page) {
    static uint8_t kept[PAGE_BYTES];

    if (!reinit.stack)
        return;
    memcpy(kept, phys_to_virt(page), PAGE_BYTES);
    memory_map_same(page, true);
    processor_put_trampoline(page, reinit.stack, (uintptr_t)reinit_in);
    processor_send_init(reinit.apic_id);
    while (!reinit.done)
        processor_send_startup(reinit.apic_id, page);
    memory_map_same(page, false);
    memcpy(phys_to_virt(page), kept, PAGE_BYTES);
    reinit.stack = 0;
}
