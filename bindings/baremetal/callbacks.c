/* SPDX-License-Identifier: MIT */
/*
 * The library's callbacks (nvmx/host.h). With an identity ept01 and a direct map of memory most are a line: this is the
 * file to read before writing them for another host.
 */
#include "callbacks.h"

#include "console.h"
#include "host.h"

uint64_t callback_calls[CALLBACK_COUNT];
static uint32_t callbacks_left = UINT32_MAX; /* while L0 starts */

/*
 * No exit needs this many callbacks: the most is an INVEPT after which all of ept02 is compared, and L0's memory bounds
 * that. A loop of the library that does not end would make them, and L0 has no clock that could interrupt it: every one
 * of the machine's is L1's.
 */
#define CALLBACKS_PER_EXIT (1u << 25)

void callbacks_begin(void) {
    callbacks_left = CALLBACKS_PER_EXIT;
}

static void called(enum callback which) {
    callback_calls[which]++;
    if (--callbacks_left == 0)
        panic("an exit made %u callbacks and does not end", CALLBACKS_PER_EXIT);
}

/*
 * Memory of L1 that L0 may read and write through its write-back direct map: RAM in the loader's map that is not L0's.
 * Devices and holes give NULL, and L1's instruction gets what the architecture says of such an operand.
 */
static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    called(CALLBACK_MAP_PAGE);
    (void)ctx;
    (void)access; /* L1 may write to all its memory */
    if (gpa1 >= memory_direct_end() || !memory_is_usable(gpa1, gpa1 + PAGE_BYTES))
        return NULL;
    *hpa = gpa1;
    if (options.resize) {
        resize_note(gpa1);
        resize_give_back(gpa1);
        *hpa = ept01_hpa(gpa1);
    }
    return phys_to_virt(*hpa);
}

/* A pin needs no record: whoever takes a page away says so by nvmx_memory_changed, which releases it. */
static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    called(CALLBACK_UNMAP_PAGE);
    (void)ctx;
    (void)page;
    if (dirtied)
        dirty_mark(gpa1);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    called(CALLBACK_EPT01_LOOKUP);
    (void)ctx;
    return ept01_find(gpa1, out);
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    called(CALLBACK_PAGE_ALLOC);
    (void)ctx;
    return page_get(hpa);
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    called(CALLBACK_PAGE_FREE);
    (void)ctx;
    (void)page;
    page_put(hpa);
}

static void *page_pointer(void *ctx, uint64_t hpa) {
    called(CALLBACK_PAGE_POINTER);
    (void)ctx;
    return phys_to_virt(hpa);
}

static enum nvmx_status vmcs_select(void *ctx, uint32_t which) {
    called(CALLBACK_VMCS_SELECT);
    struct cpu *cpu = ctx;

    if (which >= SLOTS)
        return NVMX_E_INVALID;
    vmcs_use(cpu, which);
    return NVMX_OK;
}

/* VMCLEAR, a fresh region, and the host-state area: whatever the library writes afterwards, exits come back to L0. */
static enum nvmx_status vmcs_reset(void *ctx, uint32_t which) {
    called(CALLBACK_VMCS_RESET);
    struct cpu *cpu = ctx;
    uint32_t selected = cpu->selected;

    if (which < NVMX_VMCS02_FIRST || which >= SLOTS)
        return NVMX_E_INVALID;
    vmcs_clean(cpu, which);
    vmcs_use(cpu, which);
    vmcs_put_host_state(cpu);
    vmcs_put(NVMX_VMCS_VM_EXIT_MSR_STORE_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_EXIT_MSR_LOAD_COUNT, 0);
    vmcs_put(NVMX_VMCS_VM_ENTRY_MSR_LOAD_COUNT, 0);
    vmcs_use(cpu, selected);
    return NVMX_OK;
}

/*
 * The loops that every exit goes through several times: four fields at a time, and from the end, so that little is
 * spent but the VMREADs and VMWRITEs themselves. Their operands are registers: if L0 is itself a guest, they exit, and
 * an operand in memory costs its host a walk of L0's page tables.
 */
static enum nvmx_status vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    called(CALLBACK_VMCS_READ);
    (void)ctx;
    for (; count >= 4; count -= 4, encoding += 4, value += 4)
        if (!vmread_safe(encoding[0], &value[0]) || !vmread_safe(encoding[1], &value[1]) ||
            !vmread_safe(encoding[2], &value[2]) || !vmread_safe(encoding[3], &value[3]))
            return NVMX_E_UNSUPPORTED;
    while (count-- != 0)
        if (!vmread_safe(encoding[count], &value[count]))
            return NVMX_E_UNSUPPORTED;
    return NVMX_OK;
}

static enum nvmx_status vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    called(CALLBACK_VMCS_WRITE);
    (void)ctx;
    for (; count >= 4; count -= 4, encoding += 4, value += 4)
        if (!vmwrite_safe(encoding[0], value[0]) || !vmwrite_safe(encoding[1], value[1]) ||
            !vmwrite_safe(encoding[2], value[2]) || !vmwrite_safe(encoding[3], value[3]))
            return NVMX_E_UNSUPPORTED;
    while (count-- != 0)
        if (!vmwrite_safe(encoding[count], value[count]))
            return NVMX_E_UNSUPPORTED;
    return NVMX_OK;
}

/* Where the CPU lacks the narrow kind of flush, a wider one does: more may be dropped, never less. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    called(CALLBACK_TLB_FLUSH);
    (void)ctx;
    switch (kind) {
    case NVMX_FLUSH_EPT:
        processors_flush_others(this_cpu());
        /* fall through */
    case NVMX_FLUSH_EPT_HERE:
        if (vmx_has_ept(EPT_CAP_INVEPT_SINGLE) && invept(INVEPT_SINGLE, value))
            return;
        break;
    case NVMX_FLUSH_VPID_ADDRESS:
        if (vmx_has_ept(EPT_CAP_INVVPID_ADDRESS) && invvpid(INVVPID_ADDRESS, value, linear))
            return;
        /* fall through */
    case NVMX_FLUSH_VPID:
        if (vmx_has_ept(EPT_CAP_INVVPID_SINGLE) && invvpid(INVVPID_SINGLE, value, 0))
            return;
        if (vmx_has_ept(EPT_CAP_INVVPID_ALL) && invvpid(INVVPID_ALL, 0, 0))
            return;
        break;
    case NVMX_FLUSH_EPT_ALL:
        processors_flush_others(this_cpu());
        break;
    case NVMX_FLUSH_EPT_ALL_HERE:
        break;
    }
    flush_ept();
}

static enum nvmx_status msr_read(void *ctx, uint32_t index, uint64_t *value) {
    called(CALLBACK_MSR_READ);
    return l1_rdmsr(ctx, index, value) ? NVMX_OK : NVMX_E_DENIED;
}

static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) {
    called(CALLBACK_MSR_WRITE);
    return l1_wrmsr(ctx, index, value) ? NVMX_OK : NVMX_E_DENIED;
}

/*
 * Not given: translate (the library walks L1's page tables), ack_interrupt and queue_exception (vmcs01 doesn't
 * intercept interrupts), speculation_barrier (L1 and L2 trust each other as they would without L0). main.c adds trace where it is wanted.
 */
const struct nvmx_host callbacks = {
    .size = sizeof callbacks,
    .map_page = map_page,
    .unmap_page = unmap_page,
    .ept01_lookup = ept01_lookup,
    .page_alloc = page_alloc,
    .page_free = page_free,
    .page_pointer = page_pointer,
    .vmcs_select = vmcs_select,
    .vmcs_reset = vmcs_reset,
    .vmcs_read = vmcs_read,
    .vmcs_write = vmcs_write,
    .tlb_flush = tlb_flush,
    .msr_read = msr_read,
    .msr_write = msr_write,
};
