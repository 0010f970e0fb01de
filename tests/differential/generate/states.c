/* SPDX-License-Identifier: MIT */
/* Valid states to start from, and the memory that they point to. */
#include <string.h>

#include "generate.h"

#define LARGE_USER 0xe7u /* present, writable, user, accessed, dirty, large */
#define TABLE_USER 0x27u
#define EPT_TABLE  7u
#define EPT_LARGE  0xb7u /* all rights, write-back, large */

enum segment { ES, CS, SS, DS, FS, GS, LDTR, TR };

static void poke(struct states *s, uint64_t address, uint64_t value) {
    s->poke[s->pokes++] = (struct diff_poke){address, value, 1, 0};
}

static void fill(struct states *s, uint64_t address, uint64_t value, uint64_t count, uint64_t step) {
    s->poke[s->pokes++] = (struct diff_poke){address, value, count, step};
}

/* L2's page tables for all modes: linear 0 and linear DIFF_ARENA lead to its memory. */
static void page_tables(struct states *s) {
    const uint64_t at = DIFF_ARENA;

    poke(s, at + DIFF_L2_PML4, (at + DIFF_L2_PDPT) | TABLE_USER);
    poke(s, at + DIFF_L2_PDPT, (at + DIFF_L2_PD) | TABLE_USER);
    poke(s, at + DIFF_L2_PAE_PDPT, (at + DIFF_L2_PD) | 1);
    poke(s, at + DIFF_L2_PD, at | LARGE_USER);
    poke(s, at + DIFF_L2_PD + 64 * 8, at | LARGE_USER);
    poke(s, at + DIFF_L2_PD32, at | LARGE_USER);
    poke(s, at + DIFF_L2_PD32 + 32 * 4, at | LARGE_USER);
    poke(s, DIFF_EPT_PML4, DIFF_EPT_PDPT | EPT_TABLE);
    poke(s, DIFF_EPT_PDPT, DIFF_EPT_PD | EPT_TABLE);
    poke(s, DIFF_EPT_PD, at | EPT_LARGE);
    poke(s, DIFF_EPT_PD + 64 * 8, at | EPT_LARGE);
}

/* Every vector leads to an INT3. */
static void descriptor_tables(struct states *s) {
    const uint64_t at = DIFF_ARENA;
    const uint64_t handler = DIFF_L2_CODE + 0x2000, gate = UINT64_C(0xee0000000000) | (handler & 0xffff) |
                                                           (handler >> 16) << 48;

    fill(s, at + DIFF_L2_CODE, UINT64_C(0xcccccccccccccccc), (DIFF_L2_CODE_END - DIFF_L2_CODE) / 8, 0);
    fill(s, at + DIFF_L2_IVT, UINT64_C(0x1000200010002000), 128, 0);
    fill(s, at + DIFF_L2_IDT32, gate | DIFF_SEL_CODE32 << 16, 256, 0);
    poke(s, at + DIFF_L2_GDT + DIFF_SEL_CODE64, UINT64_C(0x00af9b000000ffff));
    poke(s, at + DIFF_L2_GDT + DIFF_SEL_DATA, UINT64_C(0x00cf93000000ffff));
    poke(s, at + DIFF_L2_GDT + DIFF_SEL_CODE32, UINT64_C(0x00cf9b000000ffff));
    poke(s, at + DIFF_L2_GDT + DIFF_SEL_TSS, UINT64_C(0x00008b0000000067) | (uint64_t)DIFF_L2_TSS << 16);
    poke(s, at + DIFF_L2_GDT + DIFF_SEL_LDT, UINT64_C(0x0000820000000fff) | (uint64_t)DIFF_L2_LDT << 16);
    poke(s, at + DIFF_L2_TSS + 4, DIFF_L2_STACK);                                 /* RSP0 */
    poke(s, at + DIFF_L2_TSS + 0x804, DIFF_L2_STACK | (uint64_t)DIFF_SEL_DATA << 32); /* ESP0, SS0 */
}

/* Gates of 64-bit mode are 16 bytes, so no run of pokes makes them: exceptions, and two vectors for interrupts. */
static void idt64(struct states *s) {
    const uint64_t handler = DIFF_L2_CODE + 0x2000;
    const uint64_t gate = UINT64_C(0xee0000000000) | (handler & 0xffff) | (handler >> 16) << 48 | DIFF_SEL_CODE64 << 16;

    for (unsigned int vector = 0; vector < 32; vector++)
        poke(s, DIFF_ARENA + DIFF_L2_IDT64 + vector * 16, gate);
    poke(s, DIFF_ARENA + DIFF_L2_IDT64 + 0x80 * 16, gate);
    poke(s, DIFF_ARENA + DIFF_L2_IDT64 + 0xff * 16, gate);
}

static void msr_lists(struct states *s) {
    static const struct {
        uint64_t index, value;
    } entry[] = {
        {0xc0000102, 0x123456}, {0xc0000082, 0x654321}, {0x174, 0x8}, {0xc0000102, UINT64_C(0x8000000000000000)},
        {0xc0000100, 0}, {0x277, 2}, {0x100000277, 0}, {0x802, 0}, {0xc0000080, 0}, {0x9e, 0}, {0x79, 0}, {0x10, 0},
    };

    for (unsigned int i = 0; i < sizeof entry / sizeof entry[0]; i++) {
        poke(s, DIFF_ENTRY_MSRS + i * 16, entry[i].index);
        poke(s, DIFF_ENTRY_MSRS + i * 16 + 8, entry[i].value);
    }
    poke(s, DIFF_MSR_LOAD, 0xc0000102);
    poke(s, DIFF_MSR_LOAD + 8, 0x7777);
    poke(s, DIFF_MSR_LOAD + 16, 0xc0000082);
    poke(s, DIFF_MSR_LOAD + 24, UINT64_C(0xffff800000000000));
    poke(s, DIFF_MSR_STORE, 0xc0000102);
    poke(s, DIFF_MSR_STORE + 16, 0xc0000082);
}

/* -- states ------------------------------------------------------------------------------------------------------------------- */

static void host(uint64_t *field) {
    field[NVMX_F_HOST_CR0] = DIFF_HOST_CR0;
    field[NVMX_F_HOST_CR3] = DIFF_HOST_PML4;
    field[NVMX_F_HOST_CR4] = DIFF_HOST_CR4;
    field[NVMX_F_HOST_CS_SELECTOR] = DIFF_HOST_CS;
    for (unsigned int s = 0; s < 6; s++)
        if (s != CS)
            field[NVMX_F_HOST_ES_SELECTOR + s] = DIFF_HOST_SS;
    field[NVMX_F_HOST_TR_SELECTOR] = DIFF_HOST_TR;
    field[NVMX_F_HOST_TR_BASE] = DIFF_HOST_TSS;
    field[NVMX_F_HOST_GDTR_BASE] = DIFF_HOST_GDT;
    field[NVMX_F_HOST_IDTR_BASE] = DIFF_HOST_IDT;
    field[NVMX_F_HOST_RIP] = DIFF_HOST_ENTRY;
    field[NVMX_F_HOST_RSP] = DIFF_HOST_RSP;
    field[NVMX_F_HOST_EFER] = DIFF_HOST_EFER;
    field[NVMX_F_HOST_PAT] = DIFF_HOST_PAT;
}

static void controls(uint64_t *field, const struct nvmx_caps *l1) {
    const uint32_t pin = nvmx_caps_may_be_1(l1, NVMX_CAP_PINBASED);

    field[NVMX_F_PIN_BASED_CONTROLS] = nvmx_caps_must_be_1(l1, NVMX_CAP_PINBASED) | (pin & 1u << 6);
    field[NVMX_F_PRIMARY_CONTROLS] = nvmx_caps_must_be_1(l1, NVMX_CAP_PROCBASED) | 1u << 31;
    field[NVMX_F_SECONDARY_CONTROLS] = 1u << 1 | 1u << 5;
    field[NVMX_F_VM_EXIT_CONTROLS] = nvmx_caps_must_be_1(l1, NVMX_CAP_EXIT) | 0x3c0204;
    field[NVMX_F_VM_ENTRY_CONTROLS] = nvmx_caps_must_be_1(l1, NVMX_CAP_ENTRY) | 0xc204;
    field[NVMX_F_EXCEPTION_BITMAP] = 0xffffffff;
    field[NVMX_F_EPT_POINTER] = DIFF_EPT_PML4 | 0x1e;
    field[NVMX_F_VPID] = 1;
    field[NVMX_F_PREEMPTION_TIMER_VALUE] = 20000;
    field[NVMX_F_VMCS_LINK_POINTER] = NVMX_NO_ADDRESS;
}

static void segment(uint64_t *field, unsigned int number, uint64_t selector, uint64_t base, uint64_t limit, uint64_t rights) {
    field[NVMX_F_GUEST_ES_SELECTOR + number] = selector;
    field[NVMX_F_GUEST_ES_BASE + number] = base;
    field[NVMX_F_GUEST_ES_LIMIT + number] = limit;
    field[NVMX_F_GUEST_ES_ACCESS_RIGHTS + number] = rights;
}

static void long64(uint64_t *field) {
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, DIFF_SEL_DATA, 0, 0xffffffff, 0xc093);
    segment(field, CS, DIFF_SEL_CODE64, 0, 0xffffffff, 0xa09b);
    segment(field, LDTR, 0, 0, 0, 0x10000);
    segment(field, TR, DIFF_SEL_TSS, DIFF_L2_TSS, 0x67, 0x8b);
    field[NVMX_F_GUEST_CR0] = 0x80010031;
    field[NVMX_F_GUEST_CR3] = DIFF_ARENA + DIFF_L2_PML4;
    field[NVMX_F_GUEST_CR4] = 0x2020;
    field[NVMX_F_GUEST_EFER] = 0x500;
    field[NVMX_F_GUEST_PAT] = DIFF_HOST_PAT;
    field[NVMX_F_GUEST_DR7] = 0x400;
    field[NVMX_F_GUEST_GDTR_BASE] = DIFF_L2_GDT;
    field[NVMX_F_GUEST_GDTR_LIMIT] = 0x7f;
    field[NVMX_F_GUEST_IDTR_BASE] = DIFF_L2_IDT64;
    field[NVMX_F_GUEST_IDTR_LIMIT] = 0xfff;
    field[NVMX_F_GUEST_RIP] = DIFF_L2_CODE;
    field[NVMX_F_GUEST_RSP] = DIFF_L2_STACK;
    field[NVMX_F_GUEST_RFLAGS] = 2;
}

static void protected32(uint64_t *field) {
    field[NVMX_F_VM_ENTRY_CONTROLS] &= ~UINT64_C(0x200);
    field[NVMX_F_GUEST_EFER] = 0;
    field[NVMX_F_GUEST_CS_SELECTOR] = DIFF_SEL_CODE32;
    field[NVMX_F_GUEST_CS_ACCESS_RIGHTS] = 0xc09b;
    field[NVMX_F_GUEST_IDTR_BASE] = DIFF_L2_IDT32;
    field[NVMX_F_GUEST_IDTR_LIMIT] = 0x7ff;
    field[NVMX_F_GUEST_TR_BASE] = DIFF_L2_TSS + 0x800;
}

static void pae(uint64_t *field) {
    protected32(field);
    field[NVMX_F_GUEST_CR3] = DIFF_ARENA + DIFF_L2_PAE_PDPT;
    field[NVMX_F_GUEST_PDPTE0] = (DIFF_ARENA + DIFF_L2_PD) | 1;
}

static void pae_without_ept(uint64_t *field) {
    pae(field);
    field[NVMX_F_SECONDARY_CONTROLS] &= ~UINT64_C(2);
}

static void paging32(uint64_t *field) {
    protected32(field);
    field[NVMX_F_GUEST_CR3] = DIFF_ARENA + DIFF_L2_PD32;
    field[NVMX_F_GUEST_CR4] = 0x2010;
}

/* L1 in 32-bit protected mode. */
static void host32(uint64_t *field) {
    pae(field);
    field[NVMX_F_VM_EXIT_CONTROLS] &= ~UINT64_C(0x200);
    field[NVMX_F_HOST_CR3] = DIFF_HOST_PD32;
    field[NVMX_F_HOST_CR4] = 0x2010;
    field[NVMX_F_HOST_CS_SELECTOR] = DIFF_HOST_CS32;
    field[NVMX_F_HOST_EFER] = 0;
    field[NVMX_F_HOST_RIP] = DIFF_HOST_ENTRY32;
}

static void real(uint64_t *field) {
    protected32(field);
    field[NVMX_F_SECONDARY_CONTROLS] |= 1u << 7;
    field[NVMX_F_GUEST_CR0] = 0x30;
    field[NVMX_F_GUEST_CR4] = 0x2000;
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, 0, 0, 0xffff, 0x93);
    segment(field, CS, DIFF_L2_CODE >> 4, DIFF_L2_CODE, 0xffff, 0x93);
    segment(field, SS, DIFF_L2_STACK >> 4, DIFF_L2_STACK, 0xffff, 0x93);
    field[NVMX_F_GUEST_RIP] = 0x100;
    field[NVMX_F_GUEST_RSP] = 0x100;
    field[NVMX_F_GUEST_IDTR_BASE] = DIFF_L2_IVT;
    field[NVMX_F_GUEST_IDTR_LIMIT] = 0x3ff;
}

static void virtual8086(uint64_t *field) {
    pae(field);
    field[NVMX_F_GUEST_RFLAGS] = 0x23002;
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, 0x1000 + number, (0x1000 + number) << 4, 0xffff, 0xf3);
    segment(field, SS, 0x2000, 0x20000, 0xffff, 0xf3);
    field[NVMX_F_GUEST_RIP] = 0x100;
    field[NVMX_F_GUEST_RSP] = 0x8000;
}

static void compatibility(uint64_t *field) {
    field[NVMX_F_GUEST_CS_SELECTOR] = DIFF_SEL_CODE32;
    field[NVMX_F_GUEST_CS_ACCESS_RIGHTS] = 0xc09b;
}

static void user(uint64_t *field) {
    for (unsigned int number = 0; number < 6; number++) {
        field[NVMX_F_GUEST_ES_SELECTOR + number] |= 3;
        field[NVMX_F_GUEST_ES_ACCESS_RIGHTS + number] |= 0x60;
    }
}

/* As many features as can be on at once, each with its structure. */
static void features(uint64_t *field) {
    field[NVMX_F_PIN_BASED_CONTROLS] |= 0x29;
    field[NVMX_F_PRIMARY_CONTROLS] |= 1u << 21 | 1u << 25 | 1u << 28 | 1u << 3;
    field[NVMX_F_SECONDARY_CONTROLS] |= 1u << 0 | 1u << 7;
    field[NVMX_F_VM_EXIT_CONTROLS] |= 1u << 15 | 1u << 22;
    field[NVMX_F_IO_BITMAP_A_ADDRESS] = DIFF_IO_BITMAP_A;
    field[NVMX_F_IO_BITMAP_B_ADDRESS] = DIFF_IO_BITMAP_B;
    field[NVMX_F_MSR_BITMAP_ADDRESS] = DIFF_MSR_BITMAP;
    field[NVMX_F_VIRTUAL_APIC_ADDRESS] = DIFF_VIRTUAL_APIC;
    field[NVMX_F_APIC_ACCESS_ADDRESS] = DIFF_APIC_ACCESS;
    field[NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS] = DIFF_ENTRY_MSRS;
    field[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] = 2;
    field[NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS] = DIFF_MSR_LOAD;
    field[NVMX_F_VM_EXIT_MSR_LOAD_COUNT] = 2;
    field[NVMX_F_VM_EXIT_MSR_STORE_ADDRESS] = DIFF_MSR_STORE;
    field[NVMX_F_VM_EXIT_MSR_STORE_COUNT] = 2;
    field[NVMX_F_CR3_TARGET_COUNT] = 4;
    field[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] = 8;
}

/* Virtual x2APIC with interrupt delivery. */
static void x2apic(uint64_t *field) {
    field[NVMX_F_PIN_BASED_CONTROLS] |= 1;
    field[NVMX_F_PRIMARY_CONTROLS] |= 1u << 21;
    field[NVMX_F_SECONDARY_CONTROLS] |= 1u << 4 | 1u << 8 | 1u << 9;
    field[NVMX_F_VM_EXIT_CONTROLS] |= 1u << 15;
    field[NVMX_F_VIRTUAL_APIC_ADDRESS] = DIFF_VIRTUAL_APIC;
}

static void event64(uint64_t *field) {
    field[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = 0x80000b0d;
    field[NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE] = 0x1234;
    field[NVMX_F_GUEST_LDTR_SELECTOR] = DIFF_SEL_LDT;
    field[NVMX_F_GUEST_LDTR_ACCESS_RIGHTS] = 0x82;
    field[NVMX_F_GUEST_LDTR_BASE] = DIFF_L2_LDT;
    field[NVMX_F_GUEST_LDTR_LIMIT] = 0xfff;
}

/* An interrupt for a guest that takes it. */
static void event32(uint64_t *field) {
    pae(field);
    field[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = 0x80000020;
    field[NVMX_F_GUEST_RFLAGS] = 0x202;
}

static void linked(uint64_t *field) {
    field[NVMX_F_VMCS_LINK_POINTER] = DIFF_PLAIN_VMCS;
    field[NVMX_F_PRIMARY_CONTROLS] &= ~UINT64_C(0x80000000);
}

static const struct {
    const char *name;
    void (*make)(uint64_t *field);
} bases[] = {
    /* The first five serve tests/unit/check_vectors.def's LONG64, REAL, PAE, V86 and HOST32. */
    {"long64", NULL}, {"real", real}, {"pae", pae_without_ept}, {"v86", virtual8086}, {"host32", host32},
    {"pae-ept", pae}, {"paging32", paging32}, {"compatibility", compatibility}, {"user", user},
    {"features", features}, {"x2apic", x2apic}, {"event64", event64}, {"event32", event32}, {"linked", linked},
};

void states_init(struct states *s, const struct capabilities *caps) {
    struct nvmx_field_set exists;

    memset(s, 0, sizeof *s);
    nvmx_fields_existing(&caps->l1, &exists);
    page_tables(s);
    descriptor_tables(s);
    idt64(s);
    msr_lists(s);
    for (unsigned int i = 0; i < sizeof bases / sizeof bases[0]; i++) {
        uint64_t *field = s->field[s->bases];

        controls(field, &caps->l1);
        host(field);
        long64(field);
        if (bases[i].make != NULL)
            bases[i].make(field);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
            if (!nvmx_set_has(&exists, slot))
                field[slot] = 0;
        s->flags[s->bases] = bases[i].make == host32 ? DIFF_VECTOR_HOST32 : 0;
        s->name[s->bases++] = bases[i].name;
    }
}
