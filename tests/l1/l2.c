/* SPDX-License-Identifier: MIT */
#include "l2.h"

extern const uint8_t l2text_start[], l2text_end[];

uint8_t l2_memory[L2_MEMORY] __attribute__((aligned(4096)));
uint8_t large_page[0x200000] __attribute__((aligned(0x200000)));
struct vmcs_region vmcs_a, vmcs_b;

/* Exceptions that nobody expects end in a VMCALL with RAX = DEAD00vvH, to be seen in the report. */
__asm__(".pushsection .l2text, \"ax\"\n.balign 16\nl2_stray:\n"
        ".set vector, 0\n.rept 32\n.balign 16\nmov $0xdead0000 + vector, %eax\nvmcall\n"
        ".set vector, vector + 1\n.endr\n.popsection\n");
extern const uint8_t l2_stray[32][16];

uint64_t l2_address(const void *label) {
    return L2_CODE + (uint64_t)((const uint8_t *)label - l2text_start);
}

uint64_t l2_point(const struct l2 *l2, uint32_t number) {
    return l2_address((const void *)l2->points[number - 1]);
}

uint64_t *l2_u64(uint64_t gpa2) {
    return (uint64_t *)(l2_memory + gpa2);
}

void l2_gate(uint32_t vector, const void *label, uint8_t ist, uint8_t dpl) {
    uint64_t at = l2_address(label);
    uint64_t *gate = l2_u64(L2_IDT + vector * 16);
    gate[0] = (at & 0xffff) | (uint64_t)L2_SEL_CODE64 << 16 | (uint64_t)ist << 32 | 0x8e0000000000ul |
              (uint64_t)dpl << 45 | (at >> 16 & 0xffff) << 48;
    gate[1] = at >> 32;
}

static void build_page_tables(void) {
    *l2_u64(L2_PML4) = L2_PDPT | 7;
    l2_u64(L2_PDPT)[0] = L2_PD | 7;
    l2_u64(L2_PDPT)[1] = L2_PD_HIGH | 7;
    l2_u64(L2_PD)[0] = L2_PT | 7;
    for (uint64_t i = 1; i < 8; i++) {
        l2_u64(L2_PD)[i] = i << 21 | 0xe7;      /* accessed and dirty already: no writes by the CPU */
    }
    for (uint64_t i = 0; i < 8; i++) {
        l2_u64(L2_PD_HIGH)[i] = (L2_HOLE + (i << 21)) | 0xe7;
    }
    for (uint64_t i = 0; i < 512; i++) {
        l2_u64(L2_PT)[i] = i << 12 | 0x67;
    }
}

static void build_descriptors(void) {
    static const uint64_t gdt[] = {
        0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0x00008b0000000067 | (uint64_t)L2_TSS << 16,
        0, 0x00affb000000ffff, 0x00cff3000000ffff,
    };
    uint64_t rsp0 = L2_STACK_TOP, ist1 = L2_IST_TOP;
    memcpy(l2_memory + L2_GDT, gdt, sizeof gdt);
    memcpy(l2_memory + L2_TSS + 4, &rsp0, sizeof rsp0);
    memcpy(l2_memory + L2_TSS + 36, &ist1, sizeof ist1);
    for (uint32_t vector = 0; vector < 32; vector++) {
        l2_gate(vector, l2_stray[vector], 0, 0);
    }
}

void invalidate_all(void) {
    static const uint64_t descriptor[2];
    if ((cap.ept_vpid & 1u << 20) != 0 && (cap.ept_vpid & 1u << 26) != 0) {
        vmx_invept(2, descriptor);
    }
    if ((cap.ept_vpid & 1ul << 32) != 0 && (cap.ept_vpid & 1ul << 42) != 0) {
        vmx_invvpid(2, descriptor);
    }
}

void l2_prepare(struct l2 *l2, const struct scenario *s) {
    memset(l2_memory, 0, sizeof l2_memory);
    memcpy(l2_memory + L2_CODE, l2text_start, (size_t)(l2text_end - l2text_start));
    build_page_tables();
    build_descriptors();
    ept_reset();
    for (uint64_t gpa2 = 0; gpa2 < L2_MEMORY; gpa2 += 4096) {
        ept_map(gpa2, (uint64_t)l2_memory + gpa2, EPT_LEVEL_4K, EPT_ALL | EPT_WB);
    }
    invalidate_all();
    *l2 = (struct l2){.vmcs = &vmcs_a, .code = s->code, .points = s->points, .next_point = 1};
    l2->base = s->code != 0 ? l2_address(s->code) : L2_CODE;
    vmcs_prepare(l2->vmcs, &s->on, &s->off, l2->base);
}

void l2_move_code(struct l2 *l2) {
    memcpy(l2_memory + L2_CODE, l2_memory + l2->base, 0x200);
    l2->base = L2_CODE;
    vmwrite(GUEST_RIP, L2_CODE);
}

void map_large_page(uint64_t flags) {
    ept_map(L2_LARGE, (uint64_t)large_page, EPT_LEVEL_2M, flags);
}

struct vmx_result l2_enter_result(struct l2 *l2) {
    fault_reset();
    uint64_t rflags = l2_enter(&l2->regs, !l2->launched);
    return rflags == 0 ? (struct vmx_result){{NO_FAULT, 0, 0, false}, 0, 0} : vmx_result(rflags);
}

static void note_exit(struct l2 *l2) {
    l2->exit = exit_read(l2->base);
    if ((l2->exit.reason & ENTRY_FAILURE) == 0) {
        l2->launched = true;
    }
    exit_reduce(&l2->exit);
}

bool l2_run(struct l2 *l2) {
    struct vmx_result result = l2_enter_result(l2);
    if (result.flags != 0) {
        step(l2->launched ? "vmresume" : "vmlaunch", false, "VMfail: flags %lx, error %u", result.flags, result.error);
        return false;
    }
    note_exit(l2);
    return true;
}

static struct exit_info expected_info(struct l2 *l2, const struct expected_exit *expected) {
    struct exit_info want = expected->exit;
    if (expected->point != NO_POINT) {
        uint32_t number = expected->point != 0 ? expected->point : l2->next_point;
        want.rip = (int64_t)(l2_point(l2, number) - l2_address(l2->code));
        l2->next_point = number + 1;
    }
    exit_reduce(&want);
    return want;
}

static void print_stray(const struct l2 *l2) {
    if ((l2->exit.reason & 0xffff) == REASON_VMCALL && l2->regs.gpr[RAX] >> 16 == 0xdead) {
        const uint64_t *stack = l2_u64(vmread(GUEST_RSP) & (L2_MEMORY - 1));
        print(" (unexpected exception %lu in L2, on its stack %lx %lx)", l2->regs.gpr[RAX] & 0xff, stack[0], stack[1]);
    }
}

bool l2_expect(struct l2 *l2, const struct expected_exit *expected) {
    struct exit_info want = expected_info(l2, expected);
    if (!l2_run(l2)) {
        return false;
    }
    bool ok = exit_same(&l2->exit, &want);
    step_begin(expected->name, ok);
    exit_print(&l2->exit);
    if (!ok) {
        print_stray(l2);
        print(", expected ");
        exit_print(&want);
    }
    print("\n");
    return l2->exit.reason == want.reason;
}

void l2_expect_fail(struct l2 *l2, const char *name, uint32_t error) {
    struct vmx_result result = l2_enter_result(l2);
    if (result.flags == 0) {
        note_exit(l2);
        step_begin(name, false);
        exit_print(&l2->exit);
        print(", expected VMfailValid(%u)\n", error);
        return;
    }
    step_fail(name, result, error);
}

void l2_expect_entry_failure(struct l2 *l2, const char *name, uint32_t reason, uint64_t qualification) {
    struct expected_exit expected = {
        .name = name, .exit = {.reason = reason | ENTRY_FAILURE, .qualification = qualification}, .point = NO_POINT,
    };
    expected.exit.rip = (int64_t)(vmread(GUEST_RIP) - l2->base);
    l2_expect(l2, &expected);
}

void then_skip(struct l2 *l2) {
    (void)l2;
    vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH));
    vmcs_set(GUEST_INTERRUPTIBILITY, 0, 3); /* STI and MOV SS blocking end with the instruction */
}

void then_stay(struct l2 *l2) {
    (void)l2;
}
