/* SPDX-License-Identifier: MIT */
/*
 * Sequences of VMX instructions, random but not blind: most begin with VMXON, work on few VMCSs, and enter L2 now and then, so that every
 * state (off, on, a current VMCS or none, clear, launched) meets every instruction.
 */
#include <inttypes.h>
#include <string.h>

#include "generate.h"

#define REGION(n) ((uint64_t)DIFF_REGIONS + UINT64_C(0x1000) * (n))

struct maker {
    const struct world *w;
    struct random random;
    struct sequence *s;
    unsigned int loaded; /* regions that were given to VMPTRLD, as bits */
    bool spoiled;        /* fields were written at random */
};

static unsigned int below(struct maker *m, unsigned int n) {
    return random_below(&m->random, n);
}

static struct diff_operation *add(struct maker *m, enum diff_kind kind, uint64_t a, uint64_t b, uint64_t c) {
    static struct diff_operation overflow;
    struct diff_operation *op = m->s->operations < OPERATIONS_MAX ? &m->s->operation[m->s->operations++] : &overflow;

    *op = (struct diff_operation){.kind = (uint8_t)kind, .form = DIFF_MEMORY, .a = a, .b = b, .c = c};
    if (kind == DIFF_OP_VMPTRLD && a >= REGION(0) && a < REGION(DIFF_REGION_COUNT))
        m->loaded |= 1u << ((a - REGION(0)) / 0x1000);
    return op;
}

/* A region that is good, or one of the wrong pointers: unaligned, beyond the physical-address width, all ones. */
static uint64_t pointer(struct maker *m) {
    const unsigned int width = m->w->caps.l1.physical_address_bits;

    switch (below(m, 16)) {
    case 0:
        return REGION(below(m, DIFF_REGION_COUNT)) + (UINT64_C(1) << below(m, 12));
    case 1:
        return REGION(below(m, DIFF_REGION_COUNT)) | UINT64_C(1) << (width + below(m, 64 - width));
    case 2:
        return below(m, 2) ? UINT64_MAX : UINT64_C(1) << width;
    default:
        return REGION(1 + below(m, 4));
    }
}

/* Existing under L1's capabilities, high halves of those, and encodings that exist nowhere. Never one that the CPU has and nvmx hasn't. */
static uint64_t encoding(struct maker *m) {
    struct nvmx_field_set on_cpu;
    uint64_t value;

    nvmx_fields_existing(&m->w->caps.cpu, &on_cpu);
    for (;;) {
        const unsigned int slot = below(m, NVMX_FIELD_COUNT);
        int found;
        bool high;

        value = nvmx_field_info(slot)->encoding;
        switch (below(m, 8)) {
        case 0:
            value |= 1;
            break;
        case 1:
            value ^= UINT64_C(1) << below(m, 16);
            break;
        case 2:
            value |= UINT64_C(1) << (15 + below(m, 49));
            break;
        default:
            break;
        }
        found = value >> 32 ? NVMX_FIELD_NONE : nvmx_field_find((uint32_t)value, &high);
        if (found == NVMX_FIELD_NONE || nvmx_set_has(&m->w->exists, (unsigned int)found) ||
            !nvmx_set_has(&on_cpu, (unsigned int)found))
            return value;
    }
}

static uint8_t place(struct maker *m, bool registers) {
    if (below(m, 8) == 0)
        return (uint8_t)(DIFF_NOT_PRESENT + below(m, 3));
    return registers && below(m, 2) ? DIFF_REGISTER : DIFF_MEMORY;
}

/* VMXOFF with a VMCS that is not cleared leaves its region undefined (SDM 27.11.1), so all are cleared before. */
static void vmxoff(struct maker *m) {
    for (unsigned int i = 0; i < DIFF_REGION_COUNT; i++)
        if (m->loaded >> i & 1)
            add(m, DIFF_OP_VMCLEAR, REGION(i), 0, 0);
    m->loaded = 0;
    add(m, DIFF_OP_VMXOFF, 0, 0, 0);
}

static void invalidate(struct maker *m) {
    static const uint64_t linear[] = {0, 0x1000, UINT64_C(0x7fffffffffff), UINT64_C(0x800000000000), UINT64_MAX};
    const bool ept = below(m, 2);
    const uint64_t type = below(m, 8) ? below(m, 6) : random_next(&m->random);
    uint64_t first = ept ? DIFF_EPT_PML4 | 0x1e : below(m, 4), second = ept ? 0 : linear[below(m, 5)];
    struct diff_operation *op;

    if (below(m, 3) == 0)
        first ^= UINT64_C(1) << below(m, 64);
    if (ept && below(m, 4) == 0)
        second = UINT64_C(1) << below(m, 64);
    op = add(m, ept ? DIFF_OP_INVEPT : DIFF_OP_INVVPID, type, first, second);
    op->form = place(m, false);
}

static void control_register(struct maker *m) {
    static const uint64_t cr4[] = {DIFF_HOST_CR4, DIFF_HOST_CR4 & ~UINT64_C(0x2000), DIFF_HOST_CR4 | 0x80, DIFF_HOST_CR4 | UINT64_C(0x8000000000000000),
                                   DIFF_HOST_CR4 & ~UINT64_C(0x20), DIFF_HOST_CR4 | 0x8000000};
    static const uint64_t cr0[] = {DIFF_HOST_CR0, DIFF_HOST_CR0 & ~UINT64_C(0x20), DIFF_HOST_CR0 & ~UINT64_C(0x10000),
                                   DIFF_HOST_CR0 & ~UINT64_C(0x80000000), DIFF_HOST_CR0 & ~UINT64_C(0x80000001), DIFF_HOST_CR0 | 8,
                                   DIFF_HOST_CR0 | UINT64_C(0x100000000)};

    if (below(m, 2))
        add(m, DIFF_OP_CR4, cr4[below(m, sizeof cr4 / sizeof cr4[0])], 0, 0);
    else if (below(m, 8)) /* paging stays on: without it there is no 64-bit mode */
        add(m, DIFF_OP_CR0, cr0[below(m, 3)], 0, 0);
    else
        add(m, DIFF_OP_CR0, cr0[5 + below(m, 2)], 0, 0);
}

static void other_msr(struct maker *m) {
    const uint64_t index = below(m, 2) ? 0x3a : 0x480 + below(m, 0x12);

    if (below(m, 2) && index == 0x3a)
        add(m, DIFF_OP_RDMSR, index, 0, 0);
    else
        add(m, DIFF_OP_WRMSR, index, random_next(&m->random), 0);
}

static void access_field(struct maker *m) {
    const bool write = below(m, 2);
    const uint64_t field = encoding(m);
    struct diff_operation *op = add(m, write ? DIFF_OP_VMWRITE : DIFF_OP_VMREAD, field, random_next(&m->random), 0);

    op->form = place(m, true);
    m->spoiled |= write;
    if (write && op->form <= DIFF_MEMORY && below(m, 2)) /* see what it became */
        add(m, DIFF_OP_VMREAD, field, 0, 0);
}

/* A VMCS that can be entered: cleared, current, filled with a 64-bit state. */
static void prepare(struct maker *m) {
    const uint64_t region = REGION(1 + below(m, 3));

    add(m, DIFF_OP_VMCLEAR, region, 0, 0);
    add(m, DIFF_OP_VMPTRLD, region, 0, 0);
    if (below(m, 8))
        add(m, DIFF_OP_FILL, 0, 0, 0);
}

/* An entry with random fields may end L1 (a VMX abort, a lost host state), so they are written over before. */
static void enter(struct maker *m) {
    struct diff_operation *op;

    if (m->spoiled)
        add(m, DIFF_OP_FILL, 0, 0, 0);
    op = add(m, below(m, 2) ? DIFF_OP_VMLAUNCH : DIFF_OP_VMRESUME, 0, 0, 0);

    op->form = below(m, 8) == 0;
}

static void wrong_mode(struct maker *m) {
    struct diff_operation *op = add(m, below(m, DIFF_OP_INVVPID + 1), REGION(1), 0, 0);

    op->mode = (uint8_t)(DIFF_MODE_COMPATIBILITY + below(m, 3));
}

/* Do both CPUs have it? */
static bool shadowing(const struct maker *m) {
    return m->w->caps.l1.msr[NVMX_CAP_PROCBASED2] >> 46 & 1;
}

static void one(struct maker *m) {
    switch (below(m, 24)) {
    case 0:
        add(m, DIFF_OP_VMXON, below(m, 3) ? REGION(0) : pointer(m), 0, 0)->form = place(m, false);
        break;
    case 1:
        vmxoff(m);
        break;
    case 2:
    case 3:
        add(m, DIFF_OP_VMCLEAR, below(m, 10) ? pointer(m) : REGION(0), 0, 0)->form = place(m, false);
        break;
    case 4:
    case 5:
    case 6:
        add(m, DIFF_OP_VMPTRLD, below(m, 10) ? pointer(m) : REGION(0), 0, 0)->form = place(m, false);
        break;
    case 7:
        add(m, DIFF_OP_VMPTRST, 0, 0, 0)->form = place(m, false);
        break;
    case 8:
        add(m, DIFF_OP_VMFUNC, 0, 0, 0); /* Bochs stops at a VMCALL in VMX root operation: it is among the wrong modes only */
        break;
    case 9:
    case 10:
        invalidate(m);
        break;
    case 11:
        control_register(m);
        break;
    case 12:
        /* Bit 31 makes a shadow VMCS: what VMPTRLD says to that depends on VMCS shadowing, which nvmx may not offer. */
        add(m, DIFF_OP_REVISION, REGION(5 + below(m, 3)), below(m, 3) ? UINT64_C(1) << below(m, shadowing(m) ? 32 : 31) : 0, 0);
        add(m, below(m, 4) ? DIFF_OP_VMPTRLD : DIFF_OP_VMXON, REGION(5 + below(m, 3)), 0, 0);
        break;
    case 13:
    case 14:
        prepare(m);
        break;
    case 15:
    case 16:
    case 17:
        enter(m);
        break;
    case 18:
        add(m, DIFF_OP_ERROR, 0, 0, 0);
        break;
    case 19:
        other_msr(m);
        break;
    case 20:
        wrong_mode(m);
        break;
    default:
        access_field(m);
        break;
    }
}

void sequence_make(struct sequence *s, const struct world *w, uint32_t number) {
    struct maker m = {.w = w, .s = s};
    unsigned int length;

    random_init(&m.random, ~w->seed, number);
    memset(s, 0, sizeof *s);
    s->number = number;
    length = 4 + below(&m, 24);
    if (below(&m, 16))
        add(&m, DIFF_OP_VMXON, REGION(0), 0, 0);
    if (below(&m, 2))
        prepare(&m);
    while (s->operations < length)
        one(&m);
}

void sequence_print(const struct sequence *s) {
    static const char *const kind[DIFF_OPS] = {"VMXON", "VMXOFF", "VMCLEAR", "VMPTRLD", "VMPTRST", "VMREAD", "VMWRITE", "VMLAUNCH",
        "VMRESUME", "VMCALL", "VMFUNC", "INVEPT", "INVVPID", "MOV-CR0", "MOV-CR4", "revision", "fill", "error", "RDMSR", "WRMSR"};
    static const char *const form[DIFF_PLACES] = {"register", "memory", "not-present", "non-canonical", "read-only"};
    static const char *const mode[DIFF_MODES] = {"64", "compatibility", "user64", "user32"};

    printf("sequence %" PRIx32 " base -\n", s->number);
    for (uint32_t i = 0; i < s->operations; i++) {
        const struct diff_operation *op = &s->operation[i];

        printf("  %" PRIx32 " %s %" PRIx64 " %" PRIx64 " %" PRIx64 " %s %s\n", i, kind[op->kind], op->a, op->b, op->c, form[op->form],
               mode[op->mode]);
    }
}
