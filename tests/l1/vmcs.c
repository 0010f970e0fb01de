/* SPDX-License-Identifier: MIT */
#include "l2.h"

/* Access rights in VMCS format: type, S, DPL, P, AVL, L, D/B, G; bit 16 unusable (SDM vol. 3C, 27.4.1). */
enum { CODE64_RIGHTS = 0xa09b, DATA_RIGHTS = 0xc093, LDTR_UNUSABLE = 0x10000, TSS_RIGHTS = 0x8b };
#define PREEMPTION_TICKS 50000000u

struct field_value {
    enum vmcs_field field;
    uint64_t value;
};

/* What doesn't depend on addresses or capabilities. */
static const struct field_value constants[] = {
    {GUEST_ES_SELECTOR, L2_SEL_DATA}, {GUEST_CS_SELECTOR, L2_SEL_CODE64}, {GUEST_SS_SELECTOR, L2_SEL_DATA},
    {GUEST_DS_SELECTOR, L2_SEL_DATA}, {GUEST_FS_SELECTOR, L2_SEL_DATA}, {GUEST_GS_SELECTOR, L2_SEL_DATA},
    {GUEST_LDTR_SELECTOR, 0}, {GUEST_TR_SELECTOR, L2_SEL_TSS},
    {GUEST_ES_LIMIT, 0xffffffff}, {GUEST_CS_LIMIT, 0xffffffff}, {GUEST_SS_LIMIT, 0xffffffff},
    {GUEST_DS_LIMIT, 0xffffffff}, {GUEST_FS_LIMIT, 0xffffffff}, {GUEST_GS_LIMIT, 0xffffffff},
    {GUEST_LDTR_LIMIT, 0}, {GUEST_TR_LIMIT, 0x67},
    {GUEST_ES_ACCESS, DATA_RIGHTS}, {GUEST_CS_ACCESS, CODE64_RIGHTS}, {GUEST_SS_ACCESS, DATA_RIGHTS},
    {GUEST_DS_ACCESS, DATA_RIGHTS}, {GUEST_FS_ACCESS, DATA_RIGHTS}, {GUEST_GS_ACCESS, DATA_RIGHTS},
    {GUEST_LDTR_ACCESS, LDTR_UNUSABLE}, {GUEST_TR_ACCESS, TSS_RIGHTS},
    {GUEST_ES_BASE, 0}, {GUEST_CS_BASE, 0}, {GUEST_SS_BASE, 0}, {GUEST_DS_BASE, 0}, {GUEST_FS_BASE, 0},
    {GUEST_GS_BASE, 0}, {GUEST_LDTR_BASE, 0}, {GUEST_TR_BASE, L2_TSS},
    {GUEST_GDTR_BASE, L2_GDT}, {GUEST_GDTR_LIMIT, 0x7f}, {GUEST_IDTR_BASE, L2_IDT}, {GUEST_IDTR_LIMIT, 0xfff},
    {GUEST_CR3, L2_PML4}, {GUEST_DR7, 0x400}, {GUEST_RSP, L2_STACK_TOP}, {GUEST_RFLAGS, 2},
    {GUEST_PENDING_DEBUG, 0}, {GUEST_INTERRUPTIBILITY, 0}, {GUEST_ACTIVITY, 0}, {GUEST_DEBUGCTL, 0},
    {GUEST_SYSENTER_CS, 0}, {GUEST_SYSENTER_ESP, 0}, {GUEST_SYSENTER_EIP, 0},
    {VMCS_LINK_POINTER, ~0ul},
    {CR0_MASK, 0}, {CR4_MASK, 0}, {CR0_SHADOW, 0}, {CR4_SHADOW, 0}, {CR3_TARGET_COUNT, 0},
    {EXCEPTION_BITMAP, 0}, {PF_MASK, 0}, {PF_MATCH, 0},
    {EXIT_MSR_STORE_COUNT, 0}, {EXIT_MSR_LOAD_COUNT, 0}, {ENTRY_MSR_LOAD_COUNT, 0},
    {ENTRY_INTERRUPTION_INFO, 0}, {ENTRY_ERROR_CODE, 0}, {ENTRY_INSTRUCTION_LENGTH, 0},
    {HOST_ES_SELECTOR, SEL_DATA}, {HOST_CS_SELECTOR, SEL_CODE64}, {HOST_SS_SELECTOR, SEL_DATA},
    {HOST_DS_SELECTOR, SEL_DATA}, {HOST_FS_SELECTOR, SEL_DATA}, {HOST_GS_SELECTOR, SEL_DATA},
    {HOST_TR_SELECTOR, SEL_TSS},
    {HOST_SYSENTER_CS, 0}, {HOST_SYSENTER_ESP, 0}, {HOST_SYSENTER_EIP, 0},
};

static void host_state(void) {
    vmwrite(HOST_CR0, read_cr0());
    vmwrite(HOST_CR3, read_cr3());
    vmwrite(HOST_CR4, read_cr4());
    vmwrite(HOST_FS_BASE, rdmsr(MSR_FS_BASE));
    vmwrite(HOST_GS_BASE, rdmsr(MSR_GS_BASE));
    vmwrite(HOST_TR_BASE, (uint64_t)l1_tss);
    vmwrite(HOST_GDTR_BASE, (uint64_t)l1_gdt);
    vmwrite(HOST_IDTR_BASE, read_idtr().base);
    vmwrite(HOST_RIP, (uint64_t)l2_exit);
    if ((cap.may.exit & EXIT_LOAD_EFER) != 0) {
        vmwrite(HOST_EFER, rdmsr(MSR_EFER));
    }
}

/* The controls every scenario starts from; the preemption timer, where there is one, ends a stuck L2. */
static struct controls base_controls(void) {
    struct controls c = cap.must;
    c.pin |= cap.may.pin & PIN_PREEMPTION_TIMER;
    c.proc |= PROC_SECONDARY;
    c.proc2 |= cap.may.proc2 & (PROC2_EPT | PROC2_VPID | PROC2_UNRESTRICTED);
    c.exit |= EXIT_HOST64 | EXIT_SAVE_DEBUG | (cap.may.exit & (EXIT_SAVE_EFER | EXIT_LOAD_EFER));
    c.entry |= ENTRY_IA32E | ENTRY_LOAD_DEBUG | (cap.may.entry & ENTRY_LOAD_EFER);
    return c;
}

bool controls_offered(const struct controls *on, const struct controls *off) {
    const struct controls *may = &cap.may, *must = &cap.must;
    return (on->pin & ~may->pin) == 0 && (on->proc & ~may->proc) == 0 && (on->proc2 & ~may->proc2) == 0 &&
           (on->proc3 & ~may->proc3) == 0 &&
           (on->exit & ~may->exit) == 0 && (on->entry & ~may->entry) == 0 && (off->pin & must->pin) == 0 &&
           (off->proc & must->proc) == 0 && (off->proc2 & must->proc2) == 0 && (off->exit & must->exit) == 0 &&
           (off->entry & must->entry) == 0;
}

void vmcs_set(enum vmcs_field field, uint64_t set, uint64_t clear) {
    vmwrite(field, (vmread(field) & ~clear) | set);
}

static void make_current(struct vmcs_region *region) {
    uint64_t pointer = (uint64_t)region;
    memset(region, 0, sizeof *region);
    region->revision = cap.revision;
    if (vmx_vmclear(&pointer).flags != 0 || vmx_vmptrld(&pointer).flags != 0) {
        report_fatal("VMCLEAR or VMPTRLD of a good VMCS failed");
    }
}

void vmcs_prepare(struct vmcs_region *region, const struct controls *on, const struct controls *off, uint64_t rip) {
    struct controls c = base_controls();
    make_current(region);
    for (uint32_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        vmwrite(constants[i].field, constants[i].value);
    }
    vmwrite(PIN_CONTROLS, (c.pin | on->pin) & ~off->pin);
    vmwrite(PROC_CONTROLS, (c.proc | on->proc) & ~off->proc);
    vmwrite(PROC2_CONTROLS, (c.proc2 | on->proc2) & ~off->proc2);
    if (on->proc3 != 0) {
        vmwrite(PROC3_CONTROLS, on->proc3);
    }
    vmwrite(EXIT_CONTROLS, (c.exit | on->exit) & ~off->exit);
    vmwrite(ENTRY_CONTROLS, (c.entry | on->entry) & ~off->entry);
    if ((cap.may.proc2 & PROC2_EPT) != 0) {
        vmwrite(EPT_POINTER, ept_pointer());
    }
    if ((cap.may.proc2 & PROC2_VPID) != 0) {
        vmwrite(VPID, 1);
    }
    if ((cap.may.pin & PIN_PREEMPTION_TIMER) != 0) {
        vmwrite(PREEMPTION_TIMER, PREEMPTION_TICKS >> (cap.misc & 31));
    }
    if ((cap.may.entry & ENTRY_LOAD_EFER) != 0) {
        vmwrite(GUEST_EFER, EFER_LME | EFER_LMA);
    }
    vmwrite(GUEST_CR0, 0x80010031);
    vmwrite(GUEST_CR4, 0x2020);         /* PAE; VMXE because it is fixed to 1 in VMX operation */
    vmwrite(GUEST_RIP, rip);
    host_state();
}
