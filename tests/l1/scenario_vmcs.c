/* SPDX-License-Identifier: MIT */
/* VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, INVEPT, INVVPID, VMCALL, VMFUNC in root operation (SDM 33.3, 31.4). */
#include "scenarios.h"

enum { UD = 6, SS = 12, GP = 13, PF_WRITE = 2, PF_READ_ONLY = 3 };
enum { NO_SUCH_FIELD = 0x6bfe, NO_SUCH_FIELD_HIGH = 0x4001 };   /* index 511; high access to a 32-bit field */

static uint64_t operand;

static uint64_t *bad(uint64_t address) {
    return (uint64_t *)address;
}

static struct vmx_result vmclear(uint64_t pointer) {
    operand = pointer;
    return vmx_vmclear(&operand);
}

static struct vmx_result vmptrld(uint64_t pointer) {
    operand = pointer;
    return vmx_vmptrld(&operand);
}

static uint64_t current(void) {
    uint64_t pointer = 0;
    vmx_vmptrst(&pointer);
    return pointer;
}

/* Names the regions, for their addresses are no business of the report. */
static void step_current(const char *name, const struct vmcs_region *expected) {
    uint64_t pointer = current();
    uint64_t want = expected != 0 ? (uint64_t)expected : ~0ul;
    const char *text = pointer == ~0ul ? "none" : pointer == (uint64_t)&vmcs_a ? "A"
                     : pointer == (uint64_t)&vmcs_b ? "B" : "another";
    step(name, pointer == want, "current VMCS: %s", text);
}

static void load_a(void) {
    vmcs_a.revision = cap.revision;
    vmclear((uint64_t)&vmcs_a);
    vmptrld((uint64_t)&vmcs_a);
}

static void no_current(struct l2 *l2) {
    (void)l2;
    uint64_t value = 0;
    step_current("vmptrst", 0);
    step_fail_invalid("vmread", vmx_vmread(GUEST_RIP, &value));
    step_fail_invalid("vmread_no_field", vmx_vmread(NO_SUCH_FIELD, &value));
    step_fail_invalid("vmread_bad_operand", vmx_vmread_memory(GUEST_RIP, bad(L1_NOT_PRESENT)));
    step_fail_invalid("vmwrite", vmx_vmwrite(GUEST_RIP, 0));
    step_fail_invalid("vmlaunch", vmx_vmlaunch());
    step_fail_invalid("vmresume", vmx_vmresume());
    step_fail_invalid("vmclear_misaligned", vmclear(1));
    step_fail_invalid("vmclear_vmxon", vmclear((uint64_t)&vmxon_region));
    step_fail_invalid("vmptrld_misaligned", vmptrld(1));
    step_fail_invalid("vmcall", vmx_vmcall());
}

static void vmclear_errors(struct l2 *l2) {
    (void)l2;
    load_a();
    uint64_t a = (uint64_t)&vmcs_a;
    step_fail("misaligned", vmclear(a + 8), 2);
    step_fail("beyond_width", vmclear(a | cap.physical_limit), 2);
    step_fail("vmxon_pointer", vmclear((uint64_t)&vmxon_region), 3);
    step_current("still_current", &vmcs_a);
    step_succeed("other_region", vmclear((uint64_t)&vmcs_b));
    step_current("other_keeps_current", &vmcs_a);
    step_succeed("own_region", vmclear(a));
    step_current("own_drops_current", 0);
    vmcs_b.revision = cap.revision ^ 0x10;
    step_succeed("wrong_revision_is_fine", vmclear((uint64_t)&vmcs_b));
}

static void vmptrld_errors(struct l2 *l2) {
    (void)l2;
    load_a();
    uint64_t a = (uint64_t)&vmcs_a, b = (uint64_t)&vmcs_b;
    step_fail("misaligned", vmptrld(a + 0x10), 9);
    step_fail("beyond_width", vmptrld(b | cap.physical_limit), 9);
    step_fail("vmxon_pointer", vmptrld((uint64_t)&vmxon_region), 10);
    vmcs_b.revision = cap.revision ^ 1;
    step_fail("wrong_revision", vmptrld(b), 11);
    step_current("still_a", &vmcs_a);
    vmcs_b.revision = cap.revision;
    step_succeed("clear_b", vmclear(b));
    step_succeed("load_b", vmptrld(b));
    step_current("now_b", &vmcs_b);
    step_succeed("load_b_again", vmptrld(b));
    step_succeed("load_a", vmptrld(a));
    step_current("now_a", &vmcs_a);
}

static bool no_shadowing(void) {
    return (cap.may.proc2 & 1u << 14) == 0;
}

static void shadow_bit(struct l2 *l2) {
    (void)l2;
    load_a();
    vmcs_b.revision = cap.revision | 0x80000000;
    vmclear((uint64_t)&vmcs_b);
    step_fail("vmptrld", vmptrld((uint64_t)&vmcs_b), 11);
}

static void operand_faults(struct l2 *l2) {
    (void)l2;
    load_a();
    uint64_t crossing = L1_READ_ONLY + 0xffc;
    step_page_fault("vmclear", vmx_vmclear(bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_page_fault("vmptrld", vmx_vmptrld(bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_page_fault("vmptrst", vmx_vmptrst(bad(L1_NOT_PRESENT)).fault, PF_WRITE, L1_NOT_PRESENT);
    step_page_fault("vmread", vmx_vmread_memory(GUEST_RIP, bad(L1_NOT_PRESENT)).fault, PF_WRITE, L1_NOT_PRESENT);
    step_page_fault("vmwrite", vmx_vmwrite_memory(GUEST_RIP, bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_page_fault("vmptrst_read_only", vmx_vmptrst(bad(L1_READ_ONLY)).fault, PF_READ_ONLY, L1_READ_ONLY);
    step_page_fault("vmread_read_only", vmx_vmread_memory(GUEST_RIP, bad(L1_READ_ONLY)).fault, PF_READ_ONLY,
                    L1_READ_ONLY);
    step_succeed("vmwrite_read_only", vmx_vmwrite_memory(GUEST_RIP, bad(L1_READ_ONLY)));
    step_page_fault("vmclear_crosses", vmx_vmclear(bad(crossing)).fault, 0, L1_READ_ONLY + 0x1000);
    step_page_fault("vmwrite_crosses", vmx_vmwrite_memory(GUEST_RIP, bad(crossing)).fault, 0, L1_READ_ONLY + 0x1000);
    step_vmx_fault("vmclear_non_canonical", vmx_vmclear(bad(L1_NON_CANONICAL)), GP, 0);
    step_vmx_fault("vmptrld_non_canonical", vmx_vmptrld(bad(L1_NON_CANONICAL)), GP, 0);
    step_vmx_fault("vmptrst_non_canonical", vmx_vmptrst(bad(L1_NON_CANONICAL)), GP, 0);
    step_vmx_fault("vmread_non_canonical", vmx_vmread_memory(GUEST_RIP, bad(L1_NON_CANONICAL)), GP, 0);
    step_vmx_fault("vmwrite_non_canonical", vmx_vmwrite_memory(GUEST_RIP, bad(L1_NON_CANONICAL)), GP, 0);
    step_fail("vmread_no_field_first", vmx_vmread_memory(NO_SUCH_FIELD, bad(L1_NOT_PRESENT)), 12);
    step_page_fault("vmwrite_operand_first", vmx_vmwrite_memory(NO_SUCH_FIELD, bad(L1_NOT_PRESENT)).fault, 0,
                    L1_NOT_PRESENT);
    step_current("current_kept", &vmcs_a);
}

#define THROUGH_RBP(NAME, INSTRUCTION)                                                                   \
    static struct vmx_result NAME##_ss(uint64_t address) {                                               \
        uint64_t flags;                                                                                  \
        fault_reset();                                                                                   \
        __asm__ volatile("movq %%rbp, %%r8\n\tmovq %1, %%rbp\n\t" CATCHING(INSTRUCTION) "movq %%r8, %%rbp\n\t" \
                         : "=&r"(flags) : "r"(address), "c"((uint64_t)GUEST_RIP) : "rax", "r8", "memory", "cc"); \
        return vmx_result(flags);                                                                        \
    }
THROUGH_RBP(vmclear, "vmclear (%%rbp)")
THROUGH_RBP(vmptrld, "vmptrld (%%rbp)")
THROUGH_RBP(vmptrst, "vmptrst (%%rbp)")
THROUGH_RBP(vmread, "vmread %%rcx, (%%rbp)")
THROUGH_RBP(vmwrite, "vmwrite (%%rbp), %%rcx")
THROUGH_RBP(vmclear_fs, "vmclear %%fs:(%%rbp)")

static void operand_stack_faults(struct l2 *l2) {
    (void)l2;
    load_a();
    step_vmx_fault("vmclear", vmclear_ss(L1_NON_CANONICAL), SS, 0);
    step_vmx_fault("vmptrld", vmptrld_ss(L1_NON_CANONICAL), SS, 0);
    step_vmx_fault("vmptrst", vmptrst_ss(L1_NON_CANONICAL), SS, 0);
    step_vmx_fault("vmread", vmread_ss(L1_NON_CANONICAL), SS, 0);
    step_vmx_fault("vmwrite", vmwrite_ss(L1_NON_CANONICAL), SS, 0);
    step_vmx_fault("fs_override", vmclear_fs_ss(L1_NON_CANONICAL), GP, 0);
}

static void read_back(const char *name, uint64_t field, uint64_t expected) {
    uint64_t value = 0x5555555555555555;
    struct vmx_result result = vmx_vmread(field, &value);
    if (result.fault.vector != NO_FAULT || result.flags != 0) {
        step_succeed(name, result);
    } else {
        step_equal(name, value, expected);
    }
}

/* Widths, high halves, unsupported and read-only fields. */
static void fields(struct l2 *l2) {
    (void)l2;
    uint64_t value = 0;
    load_a();
    step_succeed("write_natural", vmx_vmwrite(GUEST_RIP, 0x123456789abcdef0));
    read_back("read_natural", GUEST_RIP, 0x123456789abcdef0);
    step_succeed("write_16", vmx_vmwrite(GUEST_ES_SELECTOR, 0xfedcba9876543210));
    read_back("read_16", GUEST_ES_SELECTOR, 0x3210);
    step_succeed("write_32", vmx_vmwrite(EXCEPTION_BITMAP, 0xfedcba9876543210));
    read_back("read_32", EXCEPTION_BITMAP, 0x76543210);
    step_succeed("write_64", vmx_vmwrite(TSC_OFFSET, 0x1122334455667788));
    read_back("read_64", TSC_OFFSET, 0x1122334455667788);
    read_back("read_64_high", TSC_OFFSET + 1, 0x11223344);
    step_succeed("write_64_high", vmx_vmwrite(TSC_OFFSET + 1, 0xffffffffaabbccdd));
    read_back("after_high", TSC_OFFSET, 0xaabbccdd55667788);
    step_succeed("write_64_again", vmx_vmwrite(TSC_OFFSET, 7));
    read_back("high_is_clear", TSC_OFFSET + 1, 0);
    step_fail("read_no_field", vmx_vmread(NO_SUCH_FIELD, &value), 12);
    step_fail("write_no_field", vmx_vmwrite(NO_SUCH_FIELD, 0), 12);
    step_fail("high_of_32", vmx_vmread(NO_SUCH_FIELD_HIGH, &value), 12);
    step_fail("high_of_natural", vmx_vmread(GUEST_RIP + 1, &value), 12);
    step_fail("high_of_16", vmx_vmwrite(GUEST_ES_SELECTOR + 1, 0), 12);
    step_fail("bit12", vmx_vmread(GUEST_RIP | 0x1000, &value), 12);
    step_fail("bit15", vmx_vmread(GUEST_RIP | 0x8000, &value), 12);
    step_fail("bit32", vmx_vmread(GUEST_RIP | 1ul << 32, &value), 12);
    step_fail("write_bit63", vmx_vmwrite(GUEST_RIP | 1ul << 63, 0), 12);
    read_back("error_number", INSTRUCTION_ERROR, 12);
    read_back("rip_kept", GUEST_RIP, 0x123456789abcdef0);
}

static bool exit_fields_read_only(void) {
    return (cap.misc & 1u << 29) == 0;
}

static void read_only(struct l2 *l2) {
    (void)l2;
    load_a();
    step_fail("exit_reason", vmx_vmwrite(EXIT_REASON, 0), 13);
    step_fail("qualification", vmx_vmwrite(EXIT_QUALIFICATION, 0), 13);
    step_fail("physical_high", vmx_vmwrite(GUEST_PHYSICAL_ADDRESS + 1, 0), 13);
    step_fail("error", vmx_vmwrite(INSTRUCTION_ERROR, 0), 13);
    read_back("error_number", INSTRUCTION_ERROR, 13);
}

static void writable_exit_fields(struct l2 *l2) {
    (void)l2;
    load_a();
    step_succeed("exit_reason", vmx_vmwrite(EXIT_REASON, 0x12));
    read_back("exit_reason_back", EXIT_REASON, 0x12);
    step_succeed("qualification", vmx_vmwrite(EXIT_QUALIFICATION, 0x1234567890));
    read_back("qualification_back", EXIT_QUALIFICATION, 0x1234567890);
    step_succeed("physical_high", vmx_vmwrite(GUEST_PHYSICAL_ADDRESS + 1, 0x99));
    read_back("physical_high_back", GUEST_PHYSICAL_ADDRESS + 1, 0x99);
}

/* Fields survive VMCLEAR and another VMPTRLD. */
static void persistence(struct l2 *l2) {
    (void)l2;
    uint64_t a = (uint64_t)&vmcs_a, b = (uint64_t)&vmcs_b;
    vmcs_b.revision = cap.revision;
    load_a();
    vmwrite(GUEST_RIP, 0xaaaa);
    vmwrite(GUEST_RSP, 0xa5a5);
    vmclear(b);
    vmptrld(b);
    vmwrite(GUEST_RIP, 0xbbbb);
    vmptrld(a);
    read_back("a", GUEST_RIP, 0xaaaa);
    vmptrld(b);
    read_back("b", GUEST_RIP, 0xbbbb);
    vmclear(a);
    vmclear(b);
    vmptrld(a);
    read_back("a_after_vmclear", GUEST_RIP, 0xaaaa);
    read_back("a_after_vmclear_rsp", GUEST_RSP, 0xa5a5);
    vmclear(a);
    vmx_vmxoff();
    uint64_t vmxon = (uint64_t)&vmxon_region;
    vmx_vmxon(&vmxon);
    vmptrld(a);
    read_back("a_after_vmxoff", GUEST_RIP, 0xaaaa);
}

/* The same access with every kind of memory operand; ADDRESSED puts its parts into fixed registers. */
static uint64_t addressed[16] __attribute__((used));

#define ADDRESSED(INSTRUCTION)                                                             \
    ({                                                                                     \
        uint64_t flags_;                                                                   \
        fault_reset();                                                                     \
        __asm__ volatile(CATCHING(INSTRUCTION)                                             \
                         : "=&r"(flags_)                                                   \
                         : "b"(addressed), "S"(3ul), "c"((uint64_t)GUEST_RIP), "d"(0x1234567ul) \
                         : "rax", "memory", "cc");                                         \
        vmx_result(flags_);                                                                \
    })

static void step_addressed(const char *name, struct vmx_result result, uint32_t slot, uint64_t expected) {
    if (result.fault.vector != NO_FAULT || result.flags != 0) {
        step_succeed(name, result);
        return;
    }
    step_equal(name, addressed[slot], expected);
    addressed[slot] = 0;
}

static void addressing(struct l2 *l2) {
    (void)l2;
    load_a();
    const uint64_t value = 0xfeed0000cafe0001;
    vmwrite(GUEST_RIP, value);
    memset(addressed, 0, sizeof addressed);
    step_addressed("base", ADDRESSED("vmread %%rcx, (%%rbx)"), 0, value);
    step_addressed("base_disp8", ADDRESSED("vmread %%rcx, 0x10(%%rbx)"), 2, value);
    step_addressed("base_disp32", ADDRESSED("leaq -0x1000(%%rbx), %%rax\n\tvmread %%rcx, 0x1008(%%rax)"), 1, value);
    step_addressed("scale1", ADDRESSED("vmread %%rcx, 5(%%rbx, %%rsi)"), 1, value);
    step_addressed("scale2", ADDRESSED("vmread %%rcx, 2(%%rbx, %%rsi, 2)"), 1, value);
    step_addressed("scale4", ADDRESSED("vmread %%rcx, 4(%%rbx, %%rsi, 4)"), 2, value);
    step_addressed("scale8", ADDRESSED("vmread %%rcx, (%%rbx, %%rsi, 8)"), 3, value);
    step_addressed("no_base", ADDRESSED("vmread %%rcx, addressed + 8(, %%rsi, 8)"), 4, value);
    step_addressed("absolute", ADDRESSED("vmread %%rcx, addressed + 0x28"), 5, value);
    step_addressed("rip_relative", ADDRESSED("vmread %%rcx, addressed + 0x30(%%rip)"), 6, value);
    step_addressed("address32", ADDRESSED("addr32 vmread %%rcx, 0x38(%%ebx)"), 7, value);
    addressed[8] = 0x8888;
    step_succeed("vmwrite_scale8", ADDRESSED("vmwrite 0x28(%%rbx, %%rsi, 8), %%rcx"));
    read_back("vmwrite_scale8_back", GUEST_RIP, 0x8888);
    addressed[9] = 0x9999;
    step_succeed("vmwrite_rip_relative", ADDRESSED("vmwrite addressed + 0x48(%%rip), %%rcx"));
    read_back("vmwrite_rip_relative_back", GUEST_RIP, 0x9999);
    step_succeed("vmwrite_register", ADDRESSED("vmwrite %%rdx, %%rcx"));
    read_back("vmwrite_register_back", GUEST_RIP, 0x1234567);
    step_succeed("vmwrite_rax", ADDRESSED("movq %%rdx, %%rax\n\tincq %%rax\n\tvmwrite %%rax, %%rcx"));
    read_back("vmwrite_rax_back", GUEST_RIP, 0x1234568);
    addressed[10] = (uint64_t)&vmcs_a;
    step_succeed("vmptrld_index", ADDRESSED("vmptrld 0x38(%%rbx, %%rsi, 8)"));
    step_succeed("vmptrst_disp8", ADDRESSED("vmptrst 0x58(%%rbx)"));
    step_equal("vmptrst_disp8_is_a", addressed[11] - (uint64_t)&vmcs_a, 0);
}

/* RSP as base and as data register: the CPU's own RSP, not a saved one. */
static void stack_operand(struct l2 *l2) {
    (void)l2;
    load_a();
    uint64_t value = 0;
    vmwrite(GUEST_RIP, 0x777);
    __asm__ volatile("pushq $0\n\tvmread %1, (%%rsp)\n\tpopq %0" : "=r"(value) : "r"((uint64_t)GUEST_RIP) : "cc", "memory");
    step_equal("vmread_rsp_base", value, 0x777);
    uint64_t rsp;
    __asm__ volatile("movq %%rsp, %0\n\tvmwrite %%rsp, %1" : "=&r"(rsp) : "r"((uint64_t)GUEST_RIP) : "cc", "memory");
    step_equal("vmwrite_rsp", vmread(GUEST_RIP) - rsp, 0);
    uint64_t r15 = 0;
    __asm__ volatile("movq %1, %%r14\n\tvmread %%r14, %%r15\n\tmovq %%r15, %0"
                     : "=r"(r15) : "r"((uint64_t)GUEST_RIP) : "cc", "memory", "r14", "r15");
    step_equal("vmread_r14_r15", r15 - rsp, 0);
}

static void vmfunc(struct l2 *l2) {
    (void)l2;
    load_a();
    step_vmx_fault("vmfunc", vmx_vmfunc(), UD, 0);
}

/* Bochs 2.7 stops with a panic at a VMCALL in root operation with a current VMCS. */
static void vmcall(struct l2 *l2) {
    (void)l2;
    load_a();
    step_fail("vmcall", vmx_vmcall(), 1);
}

static void launch_state(struct l2 *l2) {
    (void)l2;
    load_a();
    step_fail("vmresume_clear", vmx_vmresume(), 5);
    step_fail("vmresume_error_kept", vmx_vmresume(), 5);
}

static bool has_invept(void) {
    return (cap.may.proc2 & PROC2_EPT) != 0 && (cap.ept_vpid & 1u << 20) != 0;
}

static bool has_invvpid(void) {
    return (cap.may.proc2 & PROC2_VPID) != 0 && (cap.ept_vpid & 1ul << 32) != 0;
}

static void invept(struct l2 *l2) {
    (void)l2;
    load_a();
    ept_reset();
    uint64_t descriptor[2] = {ept_pointer(), 0};
    step_succeed("single", vmx_invept(1, descriptor));
    step_succeed("global", vmx_invept(2, descriptor));
    step_fail("type0", vmx_invept(0, descriptor), 28);
    step_fail("type3", vmx_invept(3, descriptor), 28);
    step_page_fault("not_present", vmx_invept(1, bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_page_fault("global_reads_too", vmx_invept(2, bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_vmx_fault("non_canonical", vmx_invept(1, bad(L1_NON_CANONICAL)), GP, 0);
    descriptor[0] = ept_pointer() | 0x800;
    step_fail("bad_eptp", vmx_invept(1, descriptor), 28);
    descriptor[0] = ept_pointer() & ~0x38ul;
    step_fail("bad_walk_length", vmx_invept(1, descriptor), 28);
    step_succeed("global_ignores_eptp", vmx_invept(2, descriptor));
}

/* Bochs 2.7 looks at 32 bits of the type, and reads the descriptor before it. */
static void strict_invept(struct l2 *l2) {
    (void)l2;
    load_a();
    ept_reset();
    uint64_t descriptor[2] = {ept_pointer(), 0};
    step_fail("type_bit32", vmx_invept(1ul << 32 | 1, descriptor), 28);
    step_fail("type_before_memory", vmx_invept(0, bad(L1_NOT_PRESENT)), 28);
}

static void invvpid(struct l2 *l2) {
    (void)l2;
    load_a();
    uint64_t descriptor[2] = {1, 0x1000};
    step_succeed("address", vmx_invvpid(0, descriptor));
    step_succeed("single", vmx_invvpid(1, descriptor));
    step_succeed("all", vmx_invvpid(2, descriptor));
    step_succeed("retain_globals", vmx_invvpid(3, descriptor));
    step_fail("type4", vmx_invvpid(4, descriptor), 28);
    step_page_fault("not_present", vmx_invvpid(1, bad(L1_NOT_PRESENT)).fault, 0, L1_NOT_PRESENT);
    step_vmx_fault("non_canonical", vmx_invvpid(1, bad(L1_NON_CANONICAL)), GP, 0);
    descriptor[0] = 0;
    step_fail("address_vpid0", vmx_invvpid(0, descriptor), 28);
    step_fail("single_vpid0", vmx_invvpid(1, descriptor), 28);
    step_succeed("all_vpid0", vmx_invvpid(2, descriptor));
    step_fail("retain_vpid0", vmx_invvpid(3, descriptor), 28);
    descriptor[0] = 0x10001;
    step_fail("reserved", vmx_invvpid(1, descriptor), 28);
    step_fail("all_reserved", vmx_invvpid(2, descriptor), 28);
    descriptor[0] = 1;
    descriptor[1] = L1_NON_CANONICAL;
    step_fail("address_non_canonical", vmx_invvpid(0, descriptor), 28);
    step_succeed("single_ignores_address", vmx_invvpid(1, descriptor));
}

enum { ALL_INVEPT = 3u << 25 };
#define ALL_INVVPID (0xful << 40)

static const struct scenario table[] = {
    {.name = "vmcs.no_current", .kind = IN_ROOT, .body = no_current},
    {.name = "vmcs.vmclear", .kind = IN_ROOT, .body = vmclear_errors},
    {.name = "vmcs.vmptrld", .kind = IN_ROOT, .body = vmptrld_errors},
    {.name = "vmcs.shadow_bit", .kind = IN_ROOT, .body = shadow_bit, .offered = no_shadowing},
    {.name = "vmcs.operand_faults", .kind = IN_ROOT, .body = operand_faults},
    {.name = "vmcs.operand_stack_faults", .kind = IN_ROOT, .body = operand_stack_faults},
    {.name = "vmcs.fields", .kind = IN_ROOT, .body = fields},
    {.name = "vmcs.read_only", .kind = IN_ROOT, .body = read_only, .offered = exit_fields_read_only},
    {.name = "vmcs.writable_exit_fields", .kind = IN_ROOT, .body = writable_exit_fields, .misc = 1u << 29},
    {.name = "vmcs.persistence", .kind = IN_ROOT, .body = persistence},
    {.name = "vmcs.addressing", .kind = IN_ROOT, .body = addressing},
    {.name = "vmcs.stack_operand", .kind = IN_ROOT, .body = stack_operand},
    {.name = "vmcs.vmfunc", .kind = IN_ROOT, .body = vmfunc},
    {.name = "strict.vmcall", .kind = IN_ROOT, .body = vmcall, .only_by_name = true},
    {.name = "vmcs.launch_state", .kind = IN_ROOT, .body = launch_state},
    {.name = "vmcs.invept", .kind = IN_ROOT, .body = invept, .offered = has_invept, .ept_vpid = ALL_INVEPT},
    {.name = "strict.invept", .kind = IN_ROOT, .body = strict_invept, .offered = has_invept, .ept_vpid = ALL_INVEPT,
     .only_by_name = true},
    {.name = "vmcs.invvpid", .kind = IN_ROOT, .body = invvpid, .offered = has_invvpid, .ept_vpid = ALL_INVVPID},
};

DEFINE_SCENARIOS(vmcs, table);
