/* SPDX-License-Identifier: MIT */
/* Does this CPU suffice? VMX operation, VMCS regions, the host-state area. */
#include "console.h"
#include "host.h"
#include "inline.h"

#define FEATURE_LOCK        (1ull << 0)
#define FEATURE_VMX         (1ull << 2)
#define BASIC_TRUE_CONTROLS (1ull << 55)
#define BASIC_TYPE_SHIFT    50
#define TYPE_WB             6u
#define PROC_SECONDARY      (1ull << 31)
#define PROC_MSR_BITMAPS    (1ull << 28)
#define SHADOW_INDICATOR    (1u << 31)

#define HOST_PAT            0x0007040600070406ull /* the power-up value */

static struct {
    bool on;
    uint32_t revision;
    uint64_t secondary, ept;
} vmx;

bool vmx_is_on(void) {
    return vmx.on;
}

bool vmx_has_secondary(uint32_t bit) {
    return vmx.secondary >> 32 & bit;
}

bool vmx_has_ept(uint32_t bit) {
    return vmx.ept >> bit & 1;
}

static void check_secondary(uint32_t bit, const char *lacks) {
    if (!vmx_has_secondary(bit))
        panic("this CPU has no %s", lacks);
}

static void check_ept(uint32_t bit, const char *lacks) {
    if (!vmx_has_ept(bit))
        panic("this CPU's EPT lacks %s, which L0 needs", lacks);
}

/* Ask in the order in which CPUs gained the features, so that the message names the oldest that is missing. */
static void check_cpu(void) {
    uint64_t basic;
    uint64_t primary;

    if (!(cpuid(1, 0).ecx & 1u << 5))
        panic("this CPU has no VMX (or it is switched off): L0 needs Intel VT-x");
    basic = rdmsr(MSR_VMX_BASIC);
    if (!(basic & BASIC_TRUE_CONTROLS))
        panic("this CPU has no IA32_VMX_TRUE_*_CTLS: too old a VT-x");
    if ((basic >> BASIC_TYPE_SHIFT & 15) != TYPE_WB)
        panic("this CPU's VMCSs need a memory type other than write-back");
    vmx.revision = (uint32_t)basic & 0x7fffffff;
    primary = rdmsr(MSR_VMX_TRUE_PROCBASED_CTLS);
    if (!(primary >> 32 & PROC_SECONDARY))
        panic("this CPU has no EPT: its VMX has no secondary controls at all");
    if (!(primary >> 32 & PROC_MSR_BITMAPS))
        panic("this CPU has no MSR bitmaps");
    vmx.secondary = rdmsr(MSR_VMX_PROCBASED_CTLS2);
    if (options.no_shadowing)
        vmx.secondary &= ~((uint64_t)PROC2_VMCS_SHADOWING << 32);
    check_secondary(PROC2_EPT, "EPT: L0 can't keep its memory from L1");
    vmx.ept = rdmsr(MSR_VMX_EPT_VPID_CAP);
    check_ept(EPT_CAP_WALK_4, "4-level tables");
    check_ept(EPT_CAP_WB, "write-back tables");
    check_ept(EPT_CAP_INVEPT, "INVEPT");
    check_secondary(PROC2_UNRESTRICTED_GUEST, "unrestricted guest: L1 could not start without paging");
}

static void enable_in_feature_control(void) {
    uint64_t value = rdmsr(MSR_FEATURE_CONTROL);

    if (!(value & FEATURE_LOCK))
        wrmsr(MSR_FEATURE_CONTROL, value | FEATURE_LOCK | FEATURE_VMX);
    else if (!(value & FEATURE_VMX))
        panic("VMX is locked off by the firmware (IA32_FEATURE_CONTROL = 0x%lx)", value);
}

void vmx_enter(const struct cpu *cpu) {
    write_cr0((read_cr0() | rdmsr(MSR_VMX_CR0_FIXED0)) & rdmsr(MSR_VMX_CR0_FIXED1));
    write_cr4((read_cr4() | rdmsr(MSR_VMX_CR4_FIXED0) | CR4_VMXE) & rdmsr(MSR_VMX_CR4_FIXED1));
    l0_is_guest = cpuid(1, 0).ecx >> 31;
    if (!vmxon(cpu->vmxon_region))
        panic("VMXON failed");
}

static bool is_vmcs02(uint32_t slot) {
    return slot >= NVMX_VMCS02_FIRST && slot < SLOTS;
}

void vmx_on(struct cpu *cpu) {
    if (!vmx.on) /* the boot processor; the others are like it */
        check_cpu();
    enable_in_feature_control();
    cpu->vmxon_region = vmcs_region(false);
    vmx_enter(cpu);
    vmx.on = true;
    cpu->selected = REGIONS; /* none */
    for (uint32_t i = 0; i < REGIONS; i++) {
        bool shadow = i >= NVMX_VMCS_SHADOWS;

        if (i != NVMX_VMCS01 && !is_vmcs02(i) && !(shadow && vmx_has_secondary(PROC2_VMCS_SHADOWING)))
            continue;
        cpu->slot[i].hpa = vmcs_region(shadow);
        if (!vmclear(&cpu->slot[i].hpa))
            panic("VMCLEAR of VMCS %u failed", i);
    }
}

uint32_t vmx_controls(uint32_t true_msr, uint32_t wanted, const char *name) {
    uint64_t allowed = rdmsr(true_msr);
    uint32_t missing = wanted & ~(uint32_t)(allowed >> 32);

    if (missing)
        panic("this CPU lacks %s controls 0x%x", name, missing);
    return wanted | (uint32_t)allowed;
}

uint64_t vmcs_region(bool shadow) {
    uint64_t hpa;
    uint32_t *region = page_get_or_die(&hpa, "a VMCS");

    *region = vmx.revision | (shadow ? SHADOW_INDICATOR : 0);
    return hpa;
}

void vmcs_clean(struct cpu *cpu, uint32_t slot) {
    uint32_t *region = phys_to_virt(cpu->slot[slot].hpa);

    if (!vmclear(&cpu->slot[slot].hpa))
        panic("VMCLEAR of VMCS %u failed", slot);
    memset(region, 0, PAGE_BYTES);
    *region = vmx.revision;
    cpu->slot[slot].launched = false;
    if (cpu->selected == slot)
        cpu->selected = REGIONS;
    if (!vmclear(&cpu->slot[slot].hpa)) /* from zeroes to whatever the processor calls clear */
        panic("VMCLEAR of VMCS %u failed", slot);
}

void vmcs_load(struct cpu *cpu, uint32_t slot) {
    /* What was written to a shadow VMCS must be in memory before L1 reads it through vmcs01's link pointer. */
    if (slot - NVMX_VMCS02_FIRST >= VMCS02_SLOTS && cpu->shadow_active && slot != cpu->shadow_active) {
        if (!vmclear(&cpu->slot[cpu->shadow_active].hpa))
            panic("VMCLEAR of a shadow VMCS failed");
        cpu->shadow_active = 0;
    }
    if (!vmptrld(&cpu->slot[slot].hpa))
        panic("VMPTRLD of VMCS %u failed", slot);
    cpu->selected = slot;
    if (slot >= NVMX_VMCS_SHADOWS)
        cpu->shadow_active = slot;
}

void flush_ept(void) {
    invept(INVEPT_ALL, 0);
    if (vmx_has_ept(EPT_CAP_INVVPID_ALL))
        invvpid(INVVPID_ALL, 0, 0);
}

bool l0_is_guest;

enum nvmx_status vmcs_select(void *ctx, uint32_t which) {
    if (which >= REGIONS)
        return NVMX_E_INVALID;
    vmcs_use(ctx, which);
    return NVMX_OK;
}

/* A call costs nothing where it is not made; a value to return would be loaded behind each access. */
static __attribute__((noinline, cold)) enum nvmx_status vmcs_lacks_field(void) {
    __asm__ volatile("");
    return NVMX_E_UNSUPPORTED;
}

/*
 * L1's state after an exit of L2 is some 45 fields, and so is what an exit leaves in vmcs02: three instructions for each, in blocks of 16, and a jump into
 * the middle of the last one. In their order: a field may come twice. Values are in this order too, or each in its place.
 */
/* clang-format off */
#define WHERE(at) (place != NULL ? &all[place[at]] : value + (at))
#define ACCESS(at) if (!access_by(how, encoding[at], WHERE(at)) && !certain) return vmcs_lacks_field()
#define FOUR(from) ACCESS(from); ACCESS((from) + 1); ACCESS((from) + 2); ACCESS((from) + 3)
#define LAST(left) case left: ACCESS(-(left)); __attribute__((fallthrough))
/* clang-format on */
enum access_how { READ_MEMORY, READ_REGISTER, WRITE_MEMORY, WRITE_REGISTER };

static inline __attribute__((always_inline)) bool access_by(enum access_how how, uint32_t encoding, uint64_t *value) {
    switch (how) {
    case READ_MEMORY:
        return vmread_memory(encoding, value);
    case READ_REGISTER:
        return vmread_safe(encoding, value);
    case WRITE_MEMORY:
        return vmwrite_memory(encoding, value);
    default:
        return vmwrite_safe(encoding, *value);
    }
}

static inline __attribute__((always_inline)) enum nvmx_status
access_list(enum access_how how, bool certain, uint32_t count, const uint32_t *encoding, const uint8_t *place, uint64_t *value) {
    uint64_t *const all = value;

    for (; count >= 16; count -= 16, encoding += 16, value += 16) {
        FOUR(0);
        FOUR(4);
        FOUR(8);
        FOUR(12);
        if (place != NULL)
            place += 16;
    }
    encoding += count, value += count;
    if (place != NULL)
        place += count;
    switch (count) {
        LAST(15);
        LAST(14);
        LAST(13);
        LAST(12);
        LAST(11);
        LAST(10);
        LAST(9);
        LAST(8);
        LAST(7);
        LAST(6);
        LAST(5);
        LAST(4);
        LAST(3);
        LAST(2);
        LAST(1);
    default:
        return NVMX_OK;
    }
}
#undef WHERE
#undef ACCESS
#undef FOUR
#undef LAST

__attribute__((noinline)) enum nvmx_status vmcs_write_list(uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    uint64_t *from = (uint64_t *)(uintptr_t)value; /* only read */

    return RARELY(l0_is_guest) ? access_list(WRITE_REGISTER, false, count, encoding, NULL, from)
                               : access_list(WRITE_MEMORY, false, count, encoding, NULL, from);
}

__attribute__((noinline)) void vmcs_write_list_fixed(uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    uint64_t *from = (uint64_t *)(uintptr_t)value; /* only read */

    if (RARELY(l0_is_guest))
        (void)access_list(WRITE_REGISTER, true, count, encoding, NULL, from);
    else
        (void)access_list(WRITE_MEMORY, true, count, encoding, NULL, from);
}

__attribute__((noinline)) enum nvmx_status vmcs_read_list(uint32_t count, const uint32_t *encoding, uint64_t *value) {
    return RARELY(l0_is_guest) ? access_list(READ_REGISTER, false, count, encoding, NULL, value)
                               : access_list(READ_MEMORY, false, count, encoding, NULL, value);
}

__attribute__((noinline)) void vmcs_read_list_fixed(uint32_t count, const uint32_t *encoding, uint64_t *value) {
    if (RARELY(l0_is_guest))
        (void)access_list(READ_REGISTER, true, count, encoding, NULL, value);
    else
        (void)access_list(READ_MEMORY, true, count, encoding, NULL, value);
}

__attribute__((noinline)) void vmcs_read_places(uint32_t count, const uint32_t *encoding, const uint8_t *place, uint64_t *value) {
    if (RARELY(l0_is_guest))
        (void)access_list(READ_REGISTER, true, count, encoding, place, value);
    else
        (void)access_list(READ_MEMORY, true, count, encoding, place, value);
}

_Noreturn void vmcs_get_failed(uint32_t field) {
    panic("VMREAD of field 0x%x failed", field);
}

_Noreturn void vmcs_put_failed(uint32_t field) {
    panic("VMWRITE of field 0x%x failed", field);
}

void vmcs_put_host_state(struct cpu *cpu) {
    static const struct {
        uint32_t field;
        uint16_t selector;
    } selector[] = {
        {NVMX_VMCS_HOST_CS_SELECTOR, SELECTOR_CODE},
        {NVMX_VMCS_HOST_SS_SELECTOR, SELECTOR_DATA},
        {NVMX_VMCS_HOST_DS_SELECTOR, SELECTOR_DATA},
        {NVMX_VMCS_HOST_ES_SELECTOR, SELECTOR_DATA},
        {NVMX_VMCS_HOST_FS_SELECTOR, 0},
        {NVMX_VMCS_HOST_GS_SELECTOR, 0},
        {NVMX_VMCS_HOST_TR_SELECTOR, SELECTOR_TSS},
    };

    for (uint32_t i = 0; i < sizeof selector / sizeof selector[0]; i++)
        vmcs_put(selector[i].field, selector[i].selector);
    vmcs_put(NVMX_VMCS_HOST_CR0, read_cr0());
    vmcs_put(NVMX_VMCS_HOST_CR3, read_cr3());
    vmcs_put(NVMX_VMCS_HOST_CR4, read_cr4());
    vmcs_put(NVMX_VMCS_HOST_FS_BASE, 0);
    vmcs_put(NVMX_VMCS_HOST_GS_BASE, (uintptr_t)cpu);
    vmcs_put(NVMX_VMCS_HOST_TR_BASE, traps_tss_base(cpu));
    vmcs_put(NVMX_VMCS_HOST_GDTR_BASE, traps_gdt_base(cpu));
    vmcs_put(NVMX_VMCS_HOST_IDTR_BASE, traps_idt_base());
    vmcs_put(NVMX_VMCS_HOST_SYSENTER_CS, 0);
    vmcs_put(NVMX_VMCS_HOST_SYSENTER_ESP, 0);
    vmcs_put(NVMX_VMCS_HOST_SYSENTER_EIP, 0);
    vmcs_put(NVMX_VMCS_HOST_PAT, HOST_PAT);
    vmcs_put(NVMX_VMCS_HOST_EFER, rdmsr(MSR_EFER));
    vmcs_put(NVMX_VMCS_HOST_RSP, (uintptr_t)cpu + CPU_REGS_BYTES);
    vmcs_put(NVMX_VMCS_HOST_RIP, (uintptr_t)vmx_exit_point);
}
