/* SPDX-License-Identifier: MIT */
/*
 * Each byte of L1's memory is read at most once for one operation, so that what was checked is what is used, whatever another vCPU of L1 writes
 * meanwhile.
 *
 * Seen by the processor: pages that the library has mapped are inaccessible, each access faults, is noted, and is carried out alone with the trap flag
 * set. Two reads of one operation that begin at the same byte are a double fetch, but for those of one copy of a block: what that leaves at the
 * destination is what is used.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <criterion/criterion.h>

#include "machine.h"
#include "vcpu.h"

#define MOST_READS 65536u
#define TRAP_FLAG 0x100
#define PAGES (SIM_RAM_BYTES / NVMX_PAGE_SIZE)

struct one_read {
    uint32_t gpa1;
    uint32_t number; /* in order of time */
    uintptr_t rip;
};

static struct {
    struct sim *sim;
    struct nvmx_host host;
    struct one_read read[MOST_READS];
    size_t reads;
    size_t open[4]; /* pages that the instruction under way may touch */
    size_t opened;
} watch;

static void close_page(size_t page) {
    mprotect(watch.sim->library_ram + page * NVMX_PAGE_SIZE, NVMX_PAGE_SIZE, PROT_NONE);
}

static void on_access(int number, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    size_t gpa1 = (size_t)((uint8_t *)info->si_addr - watch.sim->library_ram);
    if (gpa1 >= SIM_RAM_BYTES || watch.sim->mapped_read[gpa1 / NVMX_PAGE_SIZE] == 0 || watch.opened == 4) {
        signal(number, SIG_DFL); /* a fault of another kind: let it happen */
        return;
    }
    bool write = (at->uc_mcontext.gregs[REG_ERR] & 2) != 0;
    if (!write && watch.reads < MOST_READS) {
        watch.read[watch.reads] = (struct one_read){(uint32_t)gpa1, (uint32_t)watch.reads, (uintptr_t)at->uc_mcontext.gregs[REG_RIP]};
        watch.reads++;
    }
    watch.open[watch.opened++] = gpa1 / NVMX_PAGE_SIZE;
    mprotect(watch.sim->library_ram + gpa1 / NVMX_PAGE_SIZE * NVMX_PAGE_SIZE, NVMX_PAGE_SIZE, PROT_READ | PROT_WRITE);
    at->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context) {
    ucontext_t *at = context;
    (void)number;
    (void)info;
    while (watch.opened != 0)
        close_page(watch.open[--watch.opened]);
    at->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    uint8_t *page = watch.host.map_page(ctx, gpa1, access, hpa);
    if (page != NULL)
        close_page((size_t)(page - watch.sim->library_ram) / NVMX_PAGE_SIZE);
    return page;
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    watch.host.unmap_page(ctx, gpa1, page, dirtied);
    close_page((size_t)((uint8_t *)page - watch.sim->library_ram) / NVMX_PAGE_SIZE);
}

static struct sim *watched(void) {
    struct sigaction access = {.sa_sigaction = on_access, .sa_flags = SA_SIGINFO}, step = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    struct sim *sim = sim_new(NULL);
    watch.sim = sim;
    watch.host = sim->vm->host;
    sim->vm->host.map_page = map_page;
    sim->vm->host.unmap_page = unmap_page;
    cr_assert(sigaction(SIGSEGV, &access, NULL) == 0 && sigaction(SIGTRAP, &step, NULL) == 0);
    return sim;
}

static int compare(const void *a, const void *b) {
    const struct one_read *first = a, *second = b;
    uint64_t x = (uint64_t)first->gpa1 << 32 | first->number, y = (uint64_t)second->gpa1 << 32 | second->number;
    return x < y ? -1 : x > y;
}

/*
 * A copy of a block, by the C library or unrolled by the compiler: instructions side by side, which load the last bytes anew although they overlap those
 * before. A check lies further from its use.
 */
static bool one_copy(const struct one_read *first, const struct one_read *second) {
    uintptr_t apart = first->rip > second->rip ? first->rip - second->rip : second->rip - first->rip;
    Dl_info info;
    bool library = dladdr((void *)first->rip, &info) != 0 && info.dli_fname != NULL && strstr(info.dli_fname, "libc.so") != NULL;
    return apart < (library ? 512u : 48u);
}

/* The end of an operation: what it read, it read once. */
static size_t read_once(const char *what) {
    size_t reads = watch.reads;
    qsort(watch.read, reads, sizeof(watch.read[0]), compare);
    for (size_t i = 1; i < reads; i++)
        cr_expect(watch.read[i].gpa1 != watch.read[i - 1].gpa1 || one_copy(&watch.read[i - 1], &watch.read[i]), "%s reads %#x twice: at %#lx and at %#lx", what,
                  watch.read[i].gpa1, watch.read[i - 1].rip, watch.read[i].rip);
    cr_assert(reads < MOST_READS, "%s: more reads than can be noted", what);
    watch.reads = 0;
    return reads;
}

static void exits(struct sim *sim, uint32_t reason, uint64_t qualification, uint64_t gpa2, const char *what) {
    struct nvmx_l2_exit_info info = {.reason = reason, .qualification = qualification, .guest_physical_address = gpa2, .guest_linear_address = gpa2,
                                     .instruction_length = 2};
    sim_exit_info(sim, &info);
    cr_assert(nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE, "%s stops the vCPU", what);
    read_once(what);
}

/* VMRESUME, wherever L1 is. */
static void resumes(struct sim *sim) {
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        return;
    cr_assert_eq(sim_vmresume(sim), SIM_L2);
    read_once("VMRESUME");
}

static void some_lists(struct sim *sim) {
    static const uint32_t index[] = {0x174, 0x277, 0xc0000081};
    for (uint32_t list = 0; list < 3; list++)
        for (uint32_t i = 0; i < 3; i++) {
            sim_write64(sim, SIM_L1_MSR_LISTS + list * 0x400 + i * 16, index[i]);
            sim_write64(sim, SIM_L1_MSR_LISTS + list * 0x400 + i * 16 + 8, i == 1 ? UINT64_C(0x0007040600070406) : 0);
        }
    sim_vmwrite(sim, NVMX_VMCS_VM_EXIT_MSR_STORE_ADDRESS, SIM_L1_MSR_LISTS);
    sim_vmwrite(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x400);
    sim_vmwrite(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_ADDRESS, SIM_L1_MSR_LISTS + 0x800);
    sim_vmwrite(sim, NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, 3);
    sim_vmwrite(sim, NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 3);
    sim_vmwrite(sim, NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 3);
}

/* L1 exits on a port and an MSR by its bitmaps; both are looked at word by word when L2 uses them. */
static void some_bitmaps(struct sim *sim) {
    uint64_t primary = 0;
    cr_assert_eq(sim_vmread(sim, NVMX_VMCS_PRIMARY_CONTROLS, &primary), SIM_SUCCEED);
    cr_assert_eq(sim_vmwrite(sim, NVMX_VMCS_PRIMARY_CONTROLS, primary | 1u << 25 | 1u << 28), SIM_SUCCEED);
    sim->ram[SIM_L1_IO_BITMAP_A + 0x70 / 8] |= 1u << (0x70 % 8);
    sim->ram[SIM_L1_MSR_BITMAP + 0x174 / 8] |= 1u << (0x174 % 8);
}

Test(read_once, entries_and_exits) {
    struct sim *sim = watched();
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    some_lists(sim);
    some_bitmaps(sim);
    watch.reads = 0;
    cr_assert_eq(sim_vmclear(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    read_once("VMCLEAR");
    cr_assert_eq(sim_vmptrld(sim, SIM_L1_VMCS_A), SIM_SUCCEED);
    cr_expect_gt(read_once("VMPTRLD"), 10u, "the reads of VMPTRLD are not seen");
    cr_assert_eq(sim_vmlaunch(sim), SIM_L2);
    cr_expect_gt(read_once("VMLAUNCH"), 5u, "the reads of VMLAUNCH are not seen");
    exits(sim, 10, 0, 0, "CPUID");
    resumes(sim);
    exits(sim, 30, 0x70u << 16, 0, "OUT to a port that L1 intercepts");
    resumes(sim);
    exits(sim, 30, 0x80u << 16, 0, "OUT to another port");
    resumes(sim);
    sim->regs.gpr[NVMX_RCX] = 0x174;
    exits(sim, 31, 0, 0, "RDMSR of an MSR that L1 intercepts");
    resumes(sim);
    sim->regs.gpr[NVMX_RCX] = 0x175;
    exits(sim, 31, 0, 0, "RDMSR of another MSR");
    resumes(sim);
    exits(sim, 48, 0x181, 0x5000, "EPT violation, a read");
    exits(sim, 48, 0x182, 0x5000, "EPT violation, a write");
    exits(sim, 48, 0x182, 0x200000, "EPT violation, a large page");
    exits(sim, 48, 0x181, 0x80000000, "EPT violation that is L1's");
    sim_free(sim);
}

Test(read_once, operands_and_invalidations) {
    struct sim *sim = watched();
    uint64_t value = 0;
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    watch.reads = 0;
    cr_assert_eq(sim_vmlaunch(sim), SIM_L2);
    exits(sim, 48, 0x182, 0x5000, "VMLAUNCH and an EPT violation");
    exits(sim, 10, 0, 0, "CPUID");
    /* One that must set the dirty flag is begun anew, as the processor restarts an instruction: nothing read before that is used. */
    cr_expect_eq(sim_vmptrst(sim, &value), SIM_SUCCEED);
    watch.reads = 0;
    cr_expect_eq(sim_vmptrst(sim, &value), SIM_SUCCEED);
    read_once("VMPTRST");
    cr_expect_eq(sim_invept(sim, 1, SIM_L1_EPT12 | 0x1e, 0), SIM_SUCCEED);
    read_once("INVEPT");
    cr_expect_eq(sim_invvpid(sim, 1, 7, 0), SIM_SUCCEED);
    read_once("INVVPID");
    sim_region(sim, SIM_L1_VMCS_B);
    cr_expect_eq(sim_vmptrld(sim, SIM_L1_VMCS_B), SIM_SUCCEED);
    read_once("VMPTRLD of another");
    cr_expect_eq(sim_vmxoff(sim), SIM_SUCCEED);
    read_once("VMXOFF");
    sim_free(sim);
}
