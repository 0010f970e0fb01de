/* SPDX-License-Identifier: MIT */
/*
 * The library's callbacks (nvmx/host.h). With an identity ept01 and a direct map of memory most are a line: this is the
 * file to read before writing them for another host. Those of the hot path are in inline.h.
 */
#include "callbacks.h"

#include "console.h"
#include "host.h"
#include "inline.h"
#include "versions.h"

uint64_t callback_calls[CALLBACK_COUNT];
uint32_t callbacks_left = UINT32_MAX; /* while L0 starts */

_Noreturn void callbacks_exhausted(void) {
    panic("an exit made %u callbacks and does not end", CALLBACKS_PER_EXIT);
}

static void called(enum callback which) {
    callback_calls[which]++;
    callback_made();
}

struct memory_region one_to_one;

__attribute__((noinline, cold)) void *map_page_elsewhere(uint64_t gpa1, uint64_t *hpa) {
    if (!memory_is_l1_page(gpa1))
        return NULL;
    *hpa = gpa1;
    if (options.resize) {
        resize_note(gpa1);
        resize_give_back(gpa1);
        *hpa = ept01_hpa(gpa1);
    } else {
        one_to_one = memory_l1_pages(gpa1);
    }
    return phys_to_virt(*hpa);
}

void page_written(uint64_t gpa1) {
    dirty_mark(gpa1);
    versions_forget(gpa1);
}

/* What the library does not call through here itself (lib/ept does). The library counts its own calls. */
static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    callback_calls[CALLBACK_MAP_PAGE]++;
    return nvmx_inline_map_page(ctx, gpa1, access, hpa);
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    callback_calls[CALLBACK_UNMAP_PAGE]++;
    nvmx_inline_unmap_page(ctx, gpa1, page, dirtied);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    called(CALLBACK_EPT01_LOOKUP);
    (void)ctx;
    return ept01_find_for_l2(gpa1, out);
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

/* Where the CPU lacks the narrow kind of flush, a wider one does: more may be dropped, never less. L1's INVEPT and INVVPID end in the first two. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    called(CALLBACK_TLB_FLUSH);
    (void)ctx;
    if (kind == NVMX_FLUSH_EPT_HERE && vmx_has_ept(EPT_CAP_INVEPT_SINGLE) && invept(INVEPT_SINGLE, value))
        return;
    if (kind == NVMX_FLUSH_VPID && vmx_has_ept(EPT_CAP_INVVPID_SINGLE) && invvpid(INVVPID_SINGLE, value, 0))
        return;
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
    case NVMX_FLUSH_VPID_BUT_GLOBALS:
        if (kind == NVMX_FLUSH_VPID_BUT_GLOBALS && vmx_has_ept(EPT_CAP_INVVPID_BUT_GLOBALS) && invvpid(INVVPID_BUT_GLOBALS, value, 0))
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

/* The library asks only for those that it does not answer itself. */
static enum nvmx_status msr_read(void *ctx, uint32_t index, uint64_t *value) {
    called(CALLBACK_MSR_READ);
    (void)ctx;
    return guest_rdmsr(index, value) ? NVMX_OK : NVMX_E_DENIED;
}

static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) {
    called(CALLBACK_MSR_WRITE);
    (void)ctx;
    return guest_wrmsr(index, value) ? NVMX_OK : NVMX_E_DENIED;
}

/*
 * Not given: translate (the library walks L1's page tables), ack_interrupt and queue_exception (vmcs01 doesn't
 * intercept interrupts), speculation_barrier (L1 and L2 trust each other as they would without L0). main.c adds trace where it is wanted, and
 * page_version (versions.c) where ept01 has dirty flags.
 */
const struct nvmx_host callbacks = {
    .size = sizeof callbacks,
    .map_page = map_page,
    .unmap_page = unmap_page,
    .ept01_lookup = ept01_lookup,
    .page_alloc = page_alloc,
    .page_free = page_free,
    .page_pointer = page_pointer,
    .vmcs_select = nvmx_inline_vmcs_select,
    .vmcs_reset = vmcs_reset,
    .vmcs_read = nvmx_inline_vmcs_read,
    .vmcs_write = nvmx_inline_vmcs_write,
    .tlb_flush = tlb_flush,
    .msr_read = msr_read,
    .msr_write = msr_write,
};
