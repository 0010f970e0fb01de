/* SPDX-License-Identifier: MIT */
/*
 * vmcs01, the VMCS that runs L1. As little as possible is intercepted: what always exits, what protects L0, and what
 * concerns VMX.
 *
 * External interrupts and NMIs go straight to L1: it owns the devices.
 */
#include "console.h"
#include "host.h"
#include "l1.h"

#define PIN_NMI_EXITING  (1u << 3)
#define PIN_VIRTUAL_NMIS (1u << 5)
#define PROC_NMI_WINDOW  (1u << 22)
#define PROC_IO_BITMAPS  (1u << 25)
#define PROC_MSR_BITMAPS (1u << 28)
#define PROC_SECONDARY   (1u << 31)
#define EXIT_SAVE_DEBUG  (1u << 2)
#define EXIT_HOST_64     (1u << 9)
#define EXIT_SAVE_PAT    (1u << 18)
#define EXIT_LOAD_PAT    (1u << 19)
#define EXIT_SAVE_EFER   (1u << 20)
#define EXIT_LOAD_EFER   (1u << 21)
#define ENTRY_LOAD_DEBUG (1u << 2)
#define ENTRY_IA32E      (1u << 9)
#define ENTRY_LOAD_PAT   (1u << 14)
#define ENTRY_LOAD_EFER  (1u << 15)

/* Instructions that would give #UD in a guest without these bits, though CPUID offers them. */
#define PROC2_GIVE      (PROC2_RDTSCP | PROC2_INVPCID | PROC2_XSAVES | PROC2_USER_WAIT_PAUSE | PROC2_PCONFIG)

#define ACCESS_CODE     0xc09bu /* flat, 32-bit, present, accessed */
#define ACCESS_DATA     0xc093u
#define ACCESS_BUSY_TSS 0x8bu
#define ACCESS_LDT      0x82u
#define ACCESS_CODE16   0x9bu
#define ACCESS_DATA16   0x93u
#define ACCESS_UNUSABLE 0x10000u

static uint32_t secondary_controls(void) {
    uint32_t give = PROC2_GIVE | PROC2_VPID;
    uint32_t wanted = PROC2_EPT | PROC2_UNRESTRICTED_GUEST;

    for (uint32_t bit = 1; bit; bit <<= 1)
        if (give & bit && vmx_has_secondary(bit))
            wanted |= bit;
    return wanted;
}

/*
 * CET state and UINV are L1's. L0 has CR4.CET and CR4.UINTR off and does not care what they are, but the library puts
 * L1's values back after an exit of L2 by way of vmcs01.
 */
uint32_t vmcs01_loads_on_entry(void) {
    return (uint32_t)(rdmsr(MSR_VMX_TRUE_ENTRY_CTLS) >> 32) & (ENTRY_LOAD_UINV | ENTRY_LOAD_CET);
}

static void put_controls(const struct cpu *cpu) {
    uint32_t primary = PROC_MSR_BITMAPS | PROC_SECONDARY;
    /* NMIs are how L0 calls the other processors. */
    uint32_t pin = processors_count() > 1 ? PIN_NMI_EXITING | PIN_VIRTUAL_NMIS : 0;

    if (cpu->io_bitmap[0].words) {
        primary |= PROC_IO_BITMAPS;
        vmcs_put(NVMX_VMCS_IO_BITMAP_A_ADDRESS, cpu->io_bitmap[0].hpa);
        vmcs_put(NVMX_VMCS_IO_BITMAP_B_ADDRESS, cpu->io_bitmap[1].hpa);
    }
    vmcs_put(NVMX_VMCS_PIN_BASED_CONTROLS, vmx_controls(MSR_VMX_TRUE_PINBASED_CTLS, pin, "pin-based"));
    vmcs_put(NVMX_VMCS_PRIMARY_CONTROLS, vmx_controls(MSR_VMX_TRUE_PROCBASED_CTLS, primary, "processor-based"));
    vmcs_put(NVMX_VMCS_SECONDARY_CONTROLS, vmx_controls(MSR_VMX_PROCBASED_CTLS2, secondary_controls(), "secondary"));
    vmcs_put(NVMX_VMCS_VM_EXIT_CONTROLS, vmx_controls(MSR_VMX_TRUE_EXIT_CTLS,
                                                      EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_SAVE_PAT | EXIT_LOAD_PAT |
                                                          EXIT_SAVE_EFER | EXIT_LOAD_EFER,
                                                      "VM-exit"));
    vmcs_put(NVMX_VMCS_VM_ENTRY_CONTROLS,
             vmx_controls(MSR_VMX_TRUE_ENTRY_CTLS,
                          ENTRY_LOAD_DEBUG | ENTRY_LOAD_PAT | ENTRY_LOAD_EFER | vmcs01_loads_on_entry(), "VM-entry"));
    vmcs_put(NVMX_VMCS_EXCEPTION_BITMAP, 0);
    vmcs_put(NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MASK, 0);
    vmcs_put(NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MATCH, 0);
    vmcs_put(NVMX_VMCS_CR3_TARGET_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
    vmcs_put(NVMX_VMCS_TSC_OFFSET, 0);
    vmcs_put(NVMX_VMCS_MSR_BITMAP_ADDRESS, cpu->msr_bitmap.hpa);
    vmcs_put(NVMX_VMCS_EPT_POINTER, ept01_pointer());
    if (vmx_has_secondary(PROC2_VPID))
        vmcs_put(NVMX_VMCS_VPID, VPID01);
    if (vmx_has_secondary(PROC2_XSAVES))
        vmcs_put(NVMX_VMCS_XSS_EXITING_BITMAP, 0);
    if (vmx_has_secondary(PROC2_PCONFIG))
        vmcs_put(NVMX_VMCS_PCONFIG_EXITING_BITMAP, 0);
}

static void put_segment(uint32_t selector_field, uint16_t selector, uint64_t base, uint32_t limit, uint32_t access) {
    /* The fields of one segment lie at the same distance from those of ES in each of the four groups. */
    uint32_t at = selector_field - NVMX_VMCS_GUEST_ES_SELECTOR;

    vmcs_put(selector_field, selector);
    vmcs_put(NVMX_VMCS_GUEST_ES_BASE + at, base);
    vmcs_put(NVMX_VMCS_GUEST_ES_LIMIT + at, limit);
    vmcs_put(NVMX_VMCS_GUEST_ES_ACCESS_RIGHTS + at, access);
}

static void put_segments(const struct l1_start *start) {
    static const uint32_t data[] = {NVMX_VMCS_GUEST_ES_SELECTOR, NVMX_VMCS_GUEST_SS_SELECTOR,
                                    NVMX_VMCS_GUEST_DS_SELECTOR, NVMX_VMCS_GUEST_FS_SELECTOR,
                                    NVMX_VMCS_GUEST_GS_SELECTOR};

    put_segment(NVMX_VMCS_GUEST_CS_SELECTOR, start->code_selector, 0, 0xffffffff, ACCESS_CODE);
    for (uint32_t i = 0; i < sizeof data / sizeof data[0]; i++)
        put_segment(data[i], start->data_selector, 0, 0xffffffff, ACCESS_DATA);
    put_segment(NVMX_VMCS_GUEST_LDTR_SELECTOR, 0, 0, 0, ACCESS_UNUSABLE);
    put_segment(NVMX_VMCS_GUEST_TR_SELECTOR, 0, 0, 0xffff, ACCESS_BUSY_TSS);
    vmcs_put(NVMX_VMCS_GUEST_GDTR_BASE, start->gdt_base);
    vmcs_put(NVMX_VMCS_GUEST_GDTR_LIMIT, start->gdt_limit);
    vmcs_put(NVMX_VMCS_GUEST_IDTR_BASE, 0);
    vmcs_put(NVMX_VMCS_GUEST_IDTR_LIMIT, 0x3ff);
}

/* Real mode with all segments at 0, but for CS, which a start-up IPI moves. */
static void put_reset_segments(void) {
    for (uint32_t field = NVMX_VMCS_GUEST_ES_SELECTOR; field <= NVMX_VMCS_GUEST_GS_SELECTOR; field += 2)
        put_segment(field, 0, 0, 0xffff, ACCESS_DATA16);
    put_segment(NVMX_VMCS_GUEST_CS_SELECTOR, 0xf000, 0xffff0000, 0xffff, ACCESS_CODE16);
    put_segment(NVMX_VMCS_GUEST_LDTR_SELECTOR, 0, 0, 0xffff, ACCESS_LDT);
    put_segment(NVMX_VMCS_GUEST_TR_SELECTOR, 0, 0, 0xffff, ACCESS_BUSY_TSS);
    vmcs_put(NVMX_VMCS_GUEST_GDTR_BASE, 0);
    vmcs_put(NVMX_VMCS_GUEST_GDTR_LIMIT, 0xffff);
    vmcs_put(NVMX_VMCS_GUEST_IDTR_BASE, 0);
    vmcs_put(NVMX_VMCS_GUEST_IDTR_LIMIT, 0xffff);
}

/* All but segments and general registers. `cr0` is what L1 sees. */
static void put_plain_state(uint64_t cr0) {
    /* NE is 1 in the processor (SDM 25.8) while L1 sees what it wrote. */
    vmcs_put(NVMX_VMCS_GUEST_CR0, cr0 | CR0_NE);
    vmcs_put(NVMX_VMCS_CR0_READ_SHADOW, cr0);
    vmcs_put(NVMX_VMCS_CR0_GUEST_HOST_MASK, CR0_NE);
    vmcs_put(NVMX_VMCS_GUEST_CR3, 0);
    vmcs_put(NVMX_VMCS_GUEST_CR4, CR4_VMXE);
    vmcs_put(NVMX_VMCS_CR4_READ_SHADOW, 0);
    vmcs_put(NVMX_VMCS_CR4_GUEST_HOST_MASK, CR4_VMXE | CR4_SMXE);
    vmcs01_follow_mode(false);
    vmcs_put(NVMX_VMCS_GUEST_DR7, 0x400);
    vmcs_put(NVMX_VMCS_GUEST_RFLAGS, RFLAGS_FIXED);
    vmcs_put(NVMX_VMCS_GUEST_DEBUGCTL, 0);
    vmcs_put(NVMX_VMCS_GUEST_EFER, 0);
    if (vmcs01_loads_on_entry() & ENTRY_LOAD_UINV)
        vmcs_put(NVMX_VMCS_GUEST_UINV, 0);
    if (vmcs01_loads_on_entry() & ENTRY_LOAD_CET) {
        vmcs_put(NVMX_VMCS_GUEST_S_CET, 0);
        vmcs_put(NVMX_VMCS_GUEST_SSP, 0);
        vmcs_put(NVMX_VMCS_GUEST_INTERRUPT_SSP_TABLE_ADDR, 0);
    }
    vmcs_put(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    vmcs_put(NVMX_VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
    vmcs_put(NVMX_VMCS_GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    vmcs_put(NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0);
}

/* MSRs that INIT leaves as they are. */
static void put_msrs(void) {
    vmcs_put(NVMX_VMCS_GUEST_PAT, rdmsr(MSR_PAT));
    vmcs_put(NVMX_VMCS_GUEST_SYSENTER_CS, 0);
    vmcs_put(NVMX_VMCS_GUEST_SYSENTER_ESP, 0);
    vmcs_put(NVMX_VMCS_GUEST_SYSENTER_EIP, 0);
}

static void put_guest_state(struct cpu *cpu, const struct l1_start *start) {
    put_plain_state(CR0_PE | CR0_ET);
    put_segments(start);
    vmcs_put(NVMX_VMCS_GUEST_RSP, start->esp);
    vmcs_put(NVMX_VMCS_GUEST_RIP, start->eip);
    cpu->regs.gpr[NVMX_RAX] = start->eax;
    cpu->regs.gpr[NVMX_RBX] = start->ebx;
    cpu->regs.gpr[6] = start->esi;
}

void vmcs01_wait_for_startup(struct cpu *cpu) {
    put_plain_state(CR0_ET);
    put_reset_segments();
    vmcs_put(NVMX_VMCS_GUEST_RSP, 0);
    vmcs_put(NVMX_VMCS_GUEST_RIP, 0xfff0);
    vmcs_put(NVMX_VMCS_VM_ENTRY_CONTROLS, vmcs_get(NVMX_VMCS_VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E);
    vmcs_put(NVMX_VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_WAIT_FOR_SIPI);
    memset(&cpu->regs, 0, sizeof cpu->regs);
    cpu->regs.gpr[NVMX_RDX] = cpuid(1, 0).eax;
    write_debug_registers((const uint64_t[4]){0}, 0xffff0ff0);
}

void vmcs01_start_up(uint8_t vector) {
    vmcs_put(NVMX_VMCS_GUEST_CS_SELECTOR, (uint64_t)vector << 8);
    vmcs_put(NVMX_VMCS_GUEST_CS_BASE, (uint64_t)vector << 12);
    vmcs_put(NVMX_VMCS_GUEST_RIP, 0);
    /* Bochs saves blocking by SMI, which no guest may have outside SMM (reinit.c). */
    vmcs_put(NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE, 0);
    vmcs_put(NVMX_VMCS_GUEST_ACTIVITY_STATE, ACTIVITY_ACTIVE);
}

void vmcs01_nmi_window(bool on) {
    uint64_t primary = vmcs_get(NVMX_VMCS_PRIMARY_CONTROLS);

    vmcs_put(NVMX_VMCS_PRIMARY_CONTROLS, on ? primary | PROC_NMI_WINDOW : primary & ~(uint64_t)PROC_NMI_WINDOW);
}

/*
 * In VMX operation CR0.PE and CR0.PG can't be cleared (SDM 25.8). Of a guest that isn't unrestricted the processor
 * itself sees to that; until VMXON, L1 needs real mode.
 */
void vmcs01_follow_mode(bool in_vmx_operation) {
    uint32_t secondary = (uint32_t)vmcs_get(NVMX_VMCS_SECONDARY_CONTROLS);

    secondary &= ~(PROC2_UNRESTRICTED_GUEST | PROC2_VMCS_SHADOWING);
    secondary |= in_vmx_operation ? 0 : PROC2_UNRESTRICTED_GUEST;
    /* Outside VMX operation VMREAD must give #UD, which a shadowed one would not. */
    if (in_vmx_operation && vmx_has_secondary(PROC2_VMCS_SHADOWING))
        secondary |= PROC2_VMCS_SHADOWING;
    vmcs_put(NVMX_VMCS_SECONDARY_CONTROLS, secondary);
}

static void put_shadow_bitmaps(const struct cpu *cpu) {
    static uint64_t vmread_bitmap; /* the same for all processors */

    if (!vmread_bitmap)
        nvmx_shadow_bitmaps(cpu->vm, page_get_or_die(&vmread_bitmap, "a bitmap"), NULL);
    vmcs_put(NVMX_VMCS_VMREAD_BITMAP_ADDRESS, vmread_bitmap);
    vmcs_put(NVMX_VMCS_VMWRITE_BITMAP_ADDRESS, cpu->vmwrite_bitmap);
}

void vmcs01_init(struct cpu *cpu, const struct l1_start *start) {
    vmcs_use(cpu, NVMX_VMCS01);
    put_controls(cpu);
    vmcs_put_host_state(cpu);
    put_msrs();
    vmcs_put(NVMX_VMCS_VMCS_LINK_POINTER, NVMX_NO_ADDRESS);
    if (start)
        put_guest_state(cpu, start);
    else
        vmcs01_wait_for_startup(cpu);
    if (vmx_has_secondary(PROC2_VMCS_SHADOWING))
        put_shadow_bitmaps(cpu);
}
