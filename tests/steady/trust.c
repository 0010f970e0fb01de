/* SPDX-License-Identifier: MIT */
/*
 * Two trust levels, as a hypervisor that enforces code integrity has them: each with an EPT of its own over the same memory. The normal
 * level can't see the secret page, executes only what L1 has verified, and can't write to what is verified. L2 changes the level by a
 * VMCALL that L1 answers with a new EPT pointer, and by VMFUNC. With mode-based execute control, where the CPU has it, what was not verified may
 * be executed at user-mode addresses; the page with the code has a supervisor-mode address, where it may not.
 */
#include "l2.h"
#include "steady.h"

#define SECRET 0x60000ul
#define PATCH 0x61000ul
#define CODE_BYTES 6u
#define EXECUTE_USER 0x400ul
#define SEVERAL 16u /* rounds between two tries of what the normal level must not do */
enum { CALL_SECURE = 1, CALL_NORMAL = 2, CALL_REPORT = 3 };

static uint8_t secret[4096] __attribute__((aligned(4096)));
static uint8_t patch[4096] __attribute__((aligned(4096)));
static uint64_t eptp_list[512] __attribute__((aligned(4096)));

/*
 * R12: rounds to go, R13: rounds done, R10: is VMFUNC there? R14: what was wrong. Each SEVERAL-th round writes code ("mov $R13, %eax; ret") to the patch
 * page and calls it, and reads the secret page, which L1 answers by skipping the instruction of 8 bytes.
 */
DEFINE_L2_CODE(trust,
    "1: testl $15, %r13d\n"
    "   jnz 4f\n"
    "   movb $0xb8, 0x61000\n"
    "   movl %r13d, 0x61001\n"
    "   movb $0xc3, 0x61005\n"
    "   movl $0x61000, %eax\n"
    "   call *%rax\n"
    "   cmpl %r13d, %eax\n"
    "   je 2f\n"
    "   incq %r14\n"
    "2: movl $0x5afe, %eax\n"
    "   movq 0x60000, %rax\n"
    "   cmpl $0x5afe, %eax\n"
    "   je 4f\n"
    "   incq %r14\n"
    "4: movl $1, %eax\n"
    "   vmcall\n"
    "   incq 0x60000\n"
    "   movl $2, %eax\n"
    "   vmcall\n"
    "   testq %r10, %r10\n"
    "   jz 5f\n"
    "   xorl %eax, %eax\n"
    "   movl $1, %ecx\n"
    "   vmfunc\n"
    "   incq 0x60000\n"
    "   xorl %eax, %eax\n"
    "   xorl %ecx, %ecx\n"
    "   vmfunc\n"
    "5: incq %r13\n"
    "   decq %r12\n"
    "   jnz 1b\n"
    "   movl $3, %eax\n"
    "   vmcall\n"
    "   jmp 1b\n");

static struct {
    bool vmfunc, mbec;
    uint64_t written, verified, denied, switches;
} seen;

/* For a user-mode address: with the control both rights are of their own. */
static uint64_t user_too(void) {
    return seen.mbec ? EXECUTE_USER : 0;
}

static void map_levels(void) {
    uint64_t all = EPT_ALL | user_too();
    for (uint64_t gpa2 = 0; gpa2 < L2_MEMORY; gpa2 += 4096) {
        uint64_t rights = gpa2 >= L2_CODE ? EPT_READ | EPT_EXECUTE | user_too() : EPT_READ | EPT_WRITE;
        level_map(LEVEL_NORMAL, gpa2, (uint64_t)l2_memory + gpa2, rights);
        level_map(LEVEL_SECURE, gpa2, (uint64_t)l2_memory + gpa2, all);
    }
    level_map(LEVEL_NORMAL, PATCH, (uint64_t)patch, EPT_READ | EPT_WRITE | user_too());
    level_map(LEVEL_SECURE, PATCH, (uint64_t)patch, all);
    level_map(LEVEL_NORMAL, SECRET, 0, 0);
    level_map(LEVEL_SECURE, SECRET, (uint64_t)secret, all);
    l2_u64(L2_PT)[PATCH >> 12] = PATCH | 0x63; /* a supervisor-mode address; all others are user-mode addresses */
    eptp_list[0] = level_eptp(LEVEL_NORMAL);
    eptp_list[1] = level_eptp(LEVEL_SECURE);
}

static void prepare(struct l2 *l2) {
    static const struct controls none;
    struct controls vmfunc = {.proc2 = PROC2_VMFUNC}, mbec = {.proc2 = PROC2_MBEC};
    static const struct scenario scenario = {.name = "trust", .kind = WITH_L2, L2_CODE(trust)};
    seen.vmfunc = controls_offered(&vmfunc, &none);
    seen.mbec = controls_offered(&mbec, &none);
    l2_prepare(l2, &scenario);
    map_levels();
    vmwrite(EPT_POINTER, level_eptp(LEVEL_NORMAL));
    if (seen.mbec) {
        vmcs_set(PROC2_CONTROLS, PROC2_MBEC, 0);
    }
    if (seen.vmfunc) {
        vmcs_set(PROC2_CONTROLS, PROC2_VMFUNC, 0);
        vmwrite(VM_FUNCTION_CONTROLS, 1);
        vmwrite(EPTP_LIST, (uint64_t)eptp_list);
    }
    print("l1: VMFUNC: %s\n", seen.vmfunc ? "offered" : "skipped: not offered");
    print("l1: mode-based execute control: %s\n", seen.mbec ? "offered" : "skipped: not offered");
}

/* What was written becomes executable once it is the code that it should be, and is then no longer writable. */
static void verify(const struct l2 *l2) {
    uint32_t number = 0;
    memcpy(&number, patch + 1, sizeof number);
    must(patch[0] == 0xb8 && patch[CODE_BYTES - 1] == 0xc3 && number == (uint32_t)l2->regs.gpr[R13],
         "the normal level executes what nobody wrote");
    level_map(LEVEL_NORMAL, PATCH, (uint64_t)patch, EPT_READ | EPT_EXECUTE);
    level_invalidate(LEVEL_NORMAL);
    seen.verified++;
}

static void violation(struct l2 *l2) {
    uint64_t page = l2->exit.physical & ~0xffful, access = l2->exit.qualification & 7;
    must(vmread(EPT_POINTER) == level_eptp(LEVEL_NORMAL), "the secure level met an EPT violation");
    if (page == PATCH && access == EPT_WRITE) {
        level_map(LEVEL_NORMAL, PATCH, (uint64_t)patch, EPT_READ | EPT_WRITE | user_too());
        level_invalidate(LEVEL_NORMAL);
        seen.written++;
    } else if (page == PATCH && access == EPT_EXECUTE) {
        verify(l2);
    } else if (page == SECRET && access == EPT_READ) {
        vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 8);
        seen.denied++;
    } else {
        must(0, "an EPT violation that nobody expects");
        exit_print(&l2->exit);
        vmwrite(GUEST_RIP, vmread(GUEST_RIP) + 8);
    }
}

/* False: L2 is done. */
static bool call(struct l2 *l2) {
    enum level level = l2->regs.gpr[RAX] == CALL_SECURE ? LEVEL_SECURE : LEVEL_NORMAL;
    if (l2->regs.gpr[RAX] == CALL_REPORT) {
        return false;
    }
    vmwrite(EPT_POINTER, level_eptp(level));
    seen.switches++;
    then_skip(l2);
    return true;
}

static void run_to_report(struct l2 *l2) {
    while (l2_run(l2)) {
        if (l2->exit.reason == REASON_EPT_VIOLATION) {
            violation(l2);
        } else if (l2->exit.reason != REASON_VMCALL) {
            must(0, "an exit that nobody expects");
            exit_print(&l2->exit);
            return;
        } else if (!call(l2)) {
            return;
        }
    }
    must(0, "VM entry failed");
}

void trust_run(uint64_t rounds) {
    static struct l2 l2;
    uint64_t done = 0, again;
    prepare(&l2);
    l2.regs.gpr[R10] = seen.vmfunc;
    for (uint32_t part = 1; part <= 10; part++) {
        uint64_t upto = rounds * part / 10;
        if (upto == done) {
            continue;
        }
        l2.regs.gpr[R12] = upto - done;
        run_to_report(&l2);
        done = upto;
        again = (done + SEVERAL - 1) / SEVERAL;
        uint64_t switches = seen.switches + (seen.vmfunc ? 2 * done : 0);
        must(l2.regs.gpr[R13] == done && l2.regs.gpr[R14] == 0, "L2 found something wrong");
        must(*(uint64_t *)secret == switches / 2, "the secret page does not hold what the secure level wrote");
        must(seen.verified == again && seen.denied == again, "the normal level was let through, or held up twice");
        must(seen.written + 1 == again, "verified code was writable");
        print("l1: trust rounds %lu switches %lu verified %lu denied %lu\n", done, switches, seen.verified, seen.denied);
        then_skip(&l2);
    }
}
