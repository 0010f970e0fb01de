/* SPDX-License-Identifier: MIT */
/* MSRs: which of L1's accesses exit, and what they do then. Everything else is L1's own, on the processor. */
#include "console.h"
#include "host.h"

#define BITMAP_READ_LOW  0u /* byte offsets in the MSR bitmap, SDM 27.6.9; 1024 bytes further those from C0000000H on */
#define BITMAP_WRITE_LOW 2048u
#define BITMAP_HIGH      1024u
#define HIGH_FIRST       0xc0000000u
#define HALF_LAST        0x1fffu

#define APIC_BASE_ADDRESS 0x000ffffffffff000ull
#define DEBUG_TRACES      (3ull << 6) /* TR, BTS: branch records, to L1's buffer as L0 has it at that address */
#define XSS_TRACE         (1ull << 8)
#define FEEDBACK_VALID    (1ull << 0)
#define FEEDBACK_ADDRESS  0x000ffffffffff000ull

static const struct {
    uint32_t first, last;
    bool read, write;
} intercepted[] = {
    {MSR_FEATURE_CONTROL, MSR_FEATURE_CONTROL, true, true},  /* L1's own, from the library */
    {MSR_VMX_BASIC, MSR_VMX_LAST, true, true},               /* likewise */
    {MSR_APIC_BASE, MSR_APIC_BASE, false, true},             /* L0 uses the APIC; over L0's memory it would hide it */
    {MSR_BIOS_UPDT_TRIG, MSR_BIOS_UPDT_TRIG, false, true},   /* microcode would change the processor under L0 */
    {MSR_SMM_MONITOR_CTL, MSR_SMM_MONITOR_CTL, false, true}, /* an SMM monitor would be above L0 */
    {MSR_RTIT_FIRST, MSR_RTIT_LAST, true, true}, /* processor trace writes to physical addresses, around EPT */
    {MSR_HW_FEEDBACK_PTR, MSR_HW_FEEDBACK_PTR, false, true}, /* so does the table of the hardware feedback interface */
    {MSR_PEBS_ENABLE, MSR_PEBS_ENABLE, false, true}, /* its records go to linear addresses, and may come when those are L0's */
    {MSR_PEBS_BASE, MSR_PEBS_INDEX, false, true},
    {MSR_XSS, MSR_XSS, false, true},             /* XRSTORS writes the MSRs of processor trace where bit 8 is set, and asks no bitmap */
    /* What an exit of L2 would write into vmcs01 each time anew, did L0 not see to it that nobody changes it unseen (nvmx_vcpu_config.watches_msrs). */
    {MSR_SYSENTER_CS, MSR_SYSENTER_EIP, false, true},
    {MSR_PAT, MSR_PAT, false, true},
    {MSR_EFER, MSR_EFER, false, true},
};

static void set_bits(uint8_t *bitmap, uint32_t first, uint32_t last) {
    uint8_t *half = first >= HIGH_FIRST ? bitmap + BITMAP_HIGH : bitmap;

    for (uint32_t i = first & HALF_LAST; i <= (last & HALF_LAST); i++)
        half[i / 8] = (uint8_t)(half[i / 8] | 1u << i % 8);
}

struct page msr_bitmap01(void) {
    struct page bitmap;
    uint8_t *bytes = page_get_or_die(&bitmap.hpa, "the MSR bitmap");

    for (uint32_t i = 0; i < sizeof intercepted / sizeof intercepted[0]; i++) {
        if (intercepted[i].read)
            set_bits(bytes + BITMAP_READ_LOW, intercepted[i].first, intercepted[i].last);
        if (intercepted[i].write)
            set_bits(bytes + BITMAP_WRITE_LOW, intercepted[i].first, intercepted[i].last);
    }
    bitmap.words = (const void *)bytes;
    return bitmap;
}

/* The VMCS field that holds an MSR of the current guest; 0: the MSR is in the processor. */
static uint32_t field_of(uint32_t index) {
    switch (index) {
    case MSR_SYSENTER_CS:
        return NVMX_VMCS_GUEST_SYSENTER_CS;
    case MSR_SYSENTER_ESP:
        return NVMX_VMCS_GUEST_SYSENTER_ESP;
    case MSR_SYSENTER_EIP:
        return NVMX_VMCS_GUEST_SYSENTER_EIP;
    case MSR_FS_BASE:
        return NVMX_VMCS_GUEST_FS_BASE;
    case MSR_GS_BASE:
        return NVMX_VMCS_GUEST_GS_BASE;
    case MSR_EFER:
        return NVMX_VMCS_GUEST_EFER;
    case MSR_PAT:
        return NVMX_VMCS_GUEST_PAT;
    case MSR_DEBUGCTL:
        return NVMX_VMCS_GUEST_DEBUGCTL;
    default:
        return 0;
    }
}

static bool is_trace(uint32_t index) {
    return index >= MSR_RTIT_FIRST && index <= MSR_RTIT_LAST;
}

bool guest_rdmsr(uint32_t index, uint64_t *value) {
    uint32_t field = field_of(index);

    if (field) {
        *value = vmcs_get(field);
        return true;
    }
    return !is_trace(index) && rdmsr_safe(index, value);
}

bool l1_rdmsr(struct cpu *cpu, uint32_t index, uint64_t *value) {
    switch (nvmx_rdmsr(cpu->vcpu, index, value)) {
    case NVMX_MSR_DONE:
        return true;
    case NVMX_MSR_FAULT:
        return false;
    case NVMX_MSR_NOT_MINE:
        break;
    }
    return guest_rdmsr(index, value);
}

/* As wide as the processor's linear addresses can be, whatever the mode. */
static bool is_canonical(uint64_t value) {
    uint32_t unused = 64 - (cpuid(0x80000008, 0).eax >> 8 & 0xff);

    return (uint64_t)((int64_t)(value << unused) >> unused) == value;
}

/* What of IA32_EFER the processor has: SCE, LME, NXE; LMA can't be written (SDM 2.2.1). */
static uint64_t efer_bits(void) {
    uint32_t features = cpuid(0x80000001, 0).edx;
    uint64_t bits = EFER_LMA;

    bits |= features >> 11 & 1 ? EFER_SCE : 0;
    bits |= features >> 29 & 1 ? EFER_LME : 0;
    return bits | (features >> 20 & 1 ? EFER_NXE : 0);
}

static bool efer_allowed(uint64_t value) {
    uint64_t old = vmcs_get(NVMX_VMCS_GUEST_EFER);

    return !(value & ~efer_bits()) && (!((value ^ old) & EFER_LME) || !(vmcs_get(NVMX_VMCS_GUEST_CR0) & CR0_PG));
}

/* Eight memory types: UC, WC, WT, WP, WB, UC- (SDM 13.12.2). */
static bool pat_allowed(uint64_t value) {
    for (uint32_t i = 0; i < 8; i++, value >>= 8)
        if ((value & 0xff) > 7 || (value & 0xff) == 2 || (value & 0xff) == 3)
            return false;
    return true;
}

/* Ask the processor itself whether it takes a value, for MSRs that hold nothing of L0's in between. */
static bool processor_takes(uint32_t index, uint64_t value) {
    uint64_t own = rdmsr(index);
    bool ok = wrmsr_safe(index, value);

    wrmsr(index, own);
    return ok;
}

static bool write_field(uint32_t index, uint64_t value) {
    bool ok = true;

    if (index == MSR_EFER)
        ok = efer_allowed(value);
    else if (index == MSR_PAT)
        ok = pat_allowed(value);
    else if (index == MSR_DEBUGCTL)
        ok = processor_takes(index, value & ~DEBUG_TRACES);
    else if (index != MSR_SYSENTER_CS)
        ok = is_canonical(value);
    if (index == MSR_EFER)
        value = (value & ~EFER_LMA) | (vmcs_get(NVMX_VMCS_GUEST_EFER) & EFER_LMA);
    if (ok)
        vmcs_put(field_of(index), index == MSR_SYSENTER_CS ? value & 0xffffffff : value);
    return ok;
}

/* The pages that the processor writes its feedback to (SDM 16.6) must not be L0's. */
static bool feedback_allowed(uint64_t value) {
    uint64_t start = value & FEEDBACK_ADDRESS, pages = (cpuid(6, 0).edx >> 8 & 15) + 1;

    return !(value & FEEDBACK_VALID) || !memory_is_own(start, start + pages * PAGE_BYTES);
}

/* What L1 may not write, of those that are in the processor. */
static bool write_denied(uint32_t index, uint64_t value) {
    switch (index) {
    case MSR_APIC_BASE:
        return (value ^ rdmsr(index)) & APIC_BASE_ADDRESS;
    case MSR_XSS:
        return value & XSS_TRACE;
    case MSR_HW_FEEDBACK_PTR:
        return !feedback_allowed(value);
    /*
     * Counters go on counting in L0, which uses none of them, and an event that is sampled by hardware (PEBS) is written where L1 has its buffer, through the
     * page tables of the moment: L1 has no such sampling, and CPUID has no DS.
     */
    case MSR_PEBS_ENABLE:
    case MSR_PEBS_BASE:
    case MSR_PEBS_INDEX:
        return value != 0;
    case MSR_SMM_MONITOR_CTL:
        return true;
    default:
        return is_trace(index);
    }
}

/* What the processor holds, and every entry loads (vmcs01_loads_on_entry): the next one shall load what was written. */
static __attribute__((noinline, cold)) bool write_both(uint32_t index, uint64_t value) {
    if (!wrmsr_safe(index, value))
        return false;
    if (index == MSR_UINTR_MISC && vmcs01_loads_on_entry() & ENTRY_LOAD_UINV)
        vmcs_put(NVMX_VMCS_GUEST_UINV, value >> 32 & 0xff);
    else if (index != MSR_UINTR_MISC && vmcs01_loads_on_entry() & ENTRY_LOAD_CET)
        vmcs_put(index == MSR_S_CET ? NVMX_VMCS_GUEST_S_CET : NVMX_VMCS_GUEST_INTERRUPT_SSP_TABLE_ADDR, value);
    return true;
}

bool guest_wrmsr(uint32_t index, uint64_t value) {
    if (field_of(index))
        return write_field(index, value);
    switch (index) {
    case MSR_BIOS_UPDT_TRIG:
        return true; /* as a processor that finds nothing newer in the update */
    case MSR_S_CET:
    case MSR_SSP_TABLE:
    case MSR_UINTR_MISC:
        return write_both(index, value);
    default:
        return !write_denied(index, value) && wrmsr_safe(index, value);
    }
}

bool l1_wrmsr(struct cpu *cpu, uint32_t index, uint64_t value) {
    switch (nvmx_wrmsr(cpu->vcpu, index, value, false)) {
    case NVMX_MSR_DONE:
        return true;
    case NVMX_MSR_FAULT:
        return false;
    case NVMX_MSR_NOT_MINE:
        break;
    }
    if (field_of(index))
        nvmx_msrs_changed(cpu->vcpu);
    return guest_wrmsr(index, value);
}
