/* SPDX-License-Identifier: MIT */
/* What a VM exit loads into L1 (SDM 30.5): recorded, then replaced by what L1 needs to go on. */
#include "image.h"

#define PAGE_2M_SUPERVISOR 0x83ull
#define TABLE_SUPERVISOR   3ull
#define CR4_PAE            0x20ull

/* In the order in which enter.S stores. */
struct host_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint16_t es, cs, ss, ds, fs, gs, ldtr, tr;
    struct descriptor_table gdtr;
    uint8_t pad1[6];
    struct descriptor_table idtr;
    uint8_t pad2[6];
    uint64_t cr0, cr3, cr4, efer; /* of a 32-bit L1 */
};
_Static_assert(sizeof(struct host_state) == 0xd8, "enter.S knows the offsets");

extern struct host_state diff_host;
extern struct descriptor_table diff_own_gdtr, diff_own_idtr;

#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u

/* MSRs that entries and exits may load, with the values that L1 keeps in them. */
static const struct {
    uint32_t index;
    uint64_t own;
} kept[] = {
    {MSR_EFER, DIFF_HOST_EFER}, {MSR_PAT, DIFF_HOST_PAT}, {MSR_SYSENTER_CS, 0}, {MSR_SYSENTER_ESP, 0}, {MSR_SYSENTER_EIP, 0},
    {MSR_FS_BASE, 0}, {MSR_GS_BASE, 0}, {MSR_KERNEL_GS_BASE, 0}, {MSR_STAR, 0}, {MSR_LSTAR, 0},
    {MSR_CSTAR, 0}, {MSR_FMASK, 0},
};
#define KEPT (sizeof kept / sizeof kept[0])

static void map_host(void) {
    uint64_t *pml4 = (uint64_t *)(uint64_t)DIFF_HOST_PML4, *pdpt = pml4 + 512, *pd = pdpt + 512;
    pml4[0] = (uint64_t)pdpt | TABLE_SUPERVISOR;
    for (uint64_t i = 0; i < 4; i++) {
        pdpt[i] = (uint64_t)(pd + 512 * i) | TABLE_SUPERVISOR;
    }
    for (uint64_t i = 0; i < 4 * 512; i++) {
        pd[i] = i << 21 | PAGE_2M_SUPERVISOR;
    }
    uint32_t *pd32 = (uint32_t *)(uint64_t)DIFF_HOST_PD32;
    for (uint32_t i = 0; i < 1024; i++) {
        pd32[i] = i << 22 | (uint32_t)PAGE_2M_SUPERVISOR;
    }
}

/* JMP through the pointer behind it: relative to RIP in 64-bit mode, absolute in 32-bit mode. */
static void jump_at(uint64_t at, uint32_t operand, uint64_t target) {
    uint8_t *code = (uint8_t *)at;
    code[0] = 0xff;
    code[1] = 0x25;
    memcpy(code + 2, &operand, sizeof operand);
    memcpy(code + 6, &target, sizeof target);
}

/* The descriptor tables and the entry point lie where the generator expects them. */
static void copy_tables(void) {
    memcpy((void *)(uint64_t)DIFF_HOST_GDT, l1_gdt, sizeof l1_gdt);
    memcpy((void *)(uint64_t)DIFF_HOST_IDT, (const void *)read_idtr().base, read_idtr().limit + 1ul);
    memcpy((void *)(uint64_t)DIFF_HOST_TSS, l1_tss, sizeof l1_tss);
    jump_at(DIFF_HOST_ENTRY, 0, (uint64_t)diff_exit);
    jump_at(DIFF_HOST_ENTRY32, DIFF_HOST_ENTRY32 + 6, (uint64_t)diff_exit32);
    diff_own_gdtr = (struct descriptor_table){sizeof l1_gdt - 1, DIFF_HOST_GDT};
    diff_own_idtr = (struct descriptor_table){0xfff, DIFF_HOST_IDT};
    __asm__ volatile("lgdt %0\n\tlidt %1" ::"m"(diff_own_gdtr), "m"(diff_own_idtr));
}

static void own_msrs(void) {
    for (uint32_t i = 0; i < KEPT; i++) {
        if (rdmsr(kept[i].index) != kept[i].own) {
            wrmsr(kept[i].index, kept[i].own);
        }
    }
}

void host_init(void) {
    diff_vmcs_pointer = DIFF_VMCS;
    diff_vmxon_pointer = DIFF_VMXON;
    diff_pd32 = DIFF_HOST_PD32;
    diff_pml4 = DIFF_HOST_PML4;
    map_host();
    copy_tables();
    write_cr3(DIFF_HOST_PML4);
    write_cr4(DIFF_HOST_CR4);
    write_cr0(DIFF_HOST_CR0);
    own_msrs();
}

static uint64_t one(uint64_t sum, bool dump, const char *name, uint64_t value) {
    if (dump) {
        print("h %s %lx\n", name, value);
    }
    return hash(sum, value);
}

static uint64_t registers(uint64_t sum, bool dump) {
    const struct host_state *h = &diff_host;
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    for (uint32_t i = 0; i < 16; i++) {
        sum = one(sum, dump, names[i], h->gpr[i]);
    }
    sum = one(sum, dump, "rflags", h->rflags);
    const uint16_t *selector = &h->es;
    static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    for (uint32_t i = 0; i < 8; i++) {
        sum = one(sum, dump, segments[i], selector[i]);
    }
    sum = one(sum, dump, "gdtr_base", h->gdtr.base);
    sum = one(sum, dump, "gdtr_limit", h->gdtr.limit);
    sum = one(sum, dump, "idtr_base", h->idtr.base);
    return one(sum, dump, "idtr_limit", h->idtr.limit);
}

uint64_t host_check(bool dump, bool host32) {
    const struct host_state *h = &diff_host;
    uint64_t sum = registers(HASH_START, dump);
    sum = one(sum, dump, "cr0", host32 ? h->cr0 : read_cr0());
    sum = one(sum, dump, "cr3", host32 ? h->cr3 : read_cr3());
    sum = one(sum, dump, "cr4", host32 ? h->cr4 : read_cr4());
    sum = one(sum, dump, "dr7", read_dr7());
    for (uint32_t i = 0; i < KEPT; i++) {
        const bool stored = host32 && kept[i].index == MSR_EFER;
        uint64_t value = stored ? h->efer : rdmsr(kept[i].index);
        if (dump) {
            print("h msr_%x %lx\n", kept[i].index, value);
        }
        sum = hash(sum, value);
    }
    uint64_t *stored = (uint64_t *)(uint64_t)DIFF_MSR_STORE;
    for (uint32_t i = 1; i < 4; i += 2) {
        sum = one(sum, dump, i == 1 ? "stored0" : "stored1", stored[i]);
        stored[i] = 0;
    }
    write_cr4(DIFF_HOST_CR4);
    write_cr0(DIFF_HOST_CR0);
    write_cr3(DIFF_HOST_PML4);
    own_msrs();
    memset(&diff_host, 0, sizeof diff_host);
    return sum;
}
