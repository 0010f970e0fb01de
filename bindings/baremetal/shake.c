/* SPDX-License-Identifier: MIT */
/*
 * Option `shake`: every now and then the nested state of L1's processor is saved, libnvmx's vCPU (and often its VM) destroyed and made
 * anew in other memory with other pages, and the state restored. L1 and L2 must not notice. What is saved again must be the same bytes,
 * and what the processor will be given to enter must be the same fields.
 */
#include <nvmx/state.h>

#include "console.h"
#include "host.h"

#define WHOLE_ONE_IN  4  /* how often the VM goes too, with all of ept02 */
#define SHUFFLED     7 /* pages of the pool whose order is changed: few, since time goes on for L1 meanwhile */

static struct {
    bool ready;
    uint64_t random;
    uint32_t left; /* exits until the next time */
    uint64_t saves, whole, while_l2, most_bytes;
    size_t room;
    uint8_t *blob, *again;
    void *spare_vm, *spare_vcpu; /* the memory that is not in use */
    uint64_t vmcs01[NVMX_FIELD_COUNT], vmcs02[NVMX_FIELD_COUNT];
} shaking;

/* xorshift64* */
static uint32_t random_below(uint32_t limit) {
    shaking.random ^= shaking.random >> 12;
    shaking.random ^= shaking.random << 25;
    shaking.random ^= shaking.random >> 27;
    return (uint32_t)(shaking.random * 0x2545f4914f6cdd1dull >> 32) % limit;
}

static void prepare(struct cpu *cpu) {
    shaking.random = options.shake_seed * 2 + 1;
    shaking.left = 1 + random_below(options.shake);
    shaking.room = nvmx_state_size(cpu->vcpu);
    shaking.blob = pages_take(shaking.room);
    shaking.again = pages_take(shaking.room);
    shaking.spare_vm = pages_take(nvmx_vm_size());
    shaking.spare_vcpu = pages_take(nvmx_vcpu_size());
    shaking.ready = true;
}

static void shuffle_pages(void) {
    uint64_t hpa[SHUFFLED];
    uint32_t count = 0;

    while (count < SHUFFLED && page_get(&hpa[count]))
        count++;
    for (; count; count--) {
        uint32_t chosen = random_below(count);

        page_put(hpa[chosen]);
        hpa[chosen] = hpa[count - 1];
    }
}

/* -- what must stay the same ---------------------------------------------------------------------------------------- */

static void read_vmcs(uint64_t *value) {
    for (uint32_t slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (!vmread_safe(nvmx_field_info(slot)->encoding, &value[slot]))
            value[slot] = 0;
    /* The other bits of a read shadow are never looked at. */
    value[NVMX_F_CR0_READ_SHADOW] &= value[NVMX_F_CR0_GUEST_HOST_MASK];
    value[NVMX_F_CR4_READ_SHADOW] &= value[NVMX_F_CR4_GUEST_HOST_MASK];
}

static bool is_pdpte(uint32_t slot) {
    return slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3;
}

/* Fields of a vmcs02 that may differ: where L0 keeps things, and what means nothing in this state. */
static bool may_differ(const uint64_t *value, uint32_t slot) {
    uint64_t event = value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO], type = event >> 8 & 7;

    switch (slot) {
    case NVMX_F_MSR_BITMAP_ADDRESS:
    case NVMX_F_IO_BITMAP_A_ADDRESS:
    case NVMX_F_IO_BITMAP_B_ADDRESS:
    case NVMX_F_EPT_POINTER:
    case NVMX_F_VPID:
    case NVMX_F_EXECUTIVE_VMCS_POINTER:
        return true;
    case NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE: /* of an event that has one */
        return !(event >> 31) || !(event >> 11 & 1);
    case NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH: /* of a software interrupt or exception */
        return !(event >> 31) || type < 4 || type > 6;
    case NVMX_F_VM_ENTRY_INTERRUPTION_INFO:
        return !(event >> 31);
    case NVMX_F_VIRTUAL_APIC_ADDRESS:
    case NVMX_F_TPR_THRESHOLD:
        return !(value[NVMX_F_PRIMARY_CONTROLS] >> 21 & 1);
    case NVMX_F_APIC_ACCESS_ADDRESS:
        return !(value[NVMX_F_SECONDARY_CONTROLS] & 1);
    case NVMX_F_PREEMPTION_TIMER_VALUE:
        return !(value[NVMX_F_PIN_BASED_CONTROLS] >> 6 & 1);
    default:
        break;
    }
    if (is_pdpte(slot))
        return value[NVMX_F_GUEST_EFER] & EFER_LMA || !(value[NVMX_F_GUEST_CR4] & CR4_PAE);
    return nvmx_encoding_read_only(nvmx_field_info(slot)->encoding);
}

/* Each vmcs02 slot has its own shadow VMCS, and the current vmcs12 may come into another slot. */
static bool is_another_shadow(uint32_t slot, bool vmcs02) {
    return slot == NVMX_F_VMCS_LINK_POINTER && !vmcs02;
}

static void expect_same_fields(const uint64_t *before, bool vmcs02) {
    static uint64_t now[NVMX_FIELD_COUNT];

    read_vmcs(now);
    for (uint32_t slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (now[slot] != before[slot] && !(vmcs02 && may_differ(now, slot)) && !is_another_shadow(slot, vmcs02))
            panic("shake %lu: field 0x%x (%s) of VMCS %u was 0x%lx and is 0x%lx", shaking.saves,
                  nvmx_field_info(slot)->encoding, nvmx_field_info(slot)->name, this_cpu()->selected, before[slot], now[slot]);
}

static size_t save(struct cpu *cpu, uint8_t *blob) {
    size_t bytes = 0;
    enum nvmx_status status = nvmx_state_save(cpu->vcpu, blob, shaking.room, &bytes);

    if (status != NVMX_OK)
        panic("shake %lu: saving fails: %s", shaking.saves, nvmx_status_text(status));
    return bytes;
}

static void expect_same_bytes(struct cpu *cpu, size_t bytes, const char *when) {
    size_t again = save(cpu, shaking.again), at = 0;

    while (at < bytes && shaking.blob[at] == shaking.again[at])
        at++;
    if (again != bytes || at != bytes)
        panic("shake %lu, %s: %lu bytes are %lu when saved again, the first difference at %lu", shaking.saves, when, bytes,
              again, at);
}

/* -- destroy, create, restore ------------------------------------------------------------------------------------------- */

static void swap(void **a, void **b) {
    void *kept = *a;

    *a = *b;
    *b = kept;
}

/* vCPU and, if `whole`, VM; nothing of what they were stays where it was. The host selects vmcs01, as nvmx_vcpu_init expects. */
static void replace(struct cpu *cpu, bool whole) {
    void *vm = cpu->vm, *vcpu = cpu->vcpu;
    enum nvmx_status status = NVMX_OK;

    nvmx_vcpu_destroy(cpu->vcpu);
    if (whole)
        nvmx_vm_destroy(cpu->vm);
    memset(vcpu, 0xa5, nvmx_vcpu_size());
    if (whole)
        memset(vm, 0xa5, nvmx_vm_size());
    shuffle_pages();
    for (uint32_t slot = NVMX_VMCS02_FIRST; slot < SLOTS; slot++)
        vmcs_clean(cpu, slot);
    vmcs_use(cpu, NVMX_VMCS01);
    if (whole) {
        swap(&vm, &shaking.spare_vm);
        status = host_make_vm(cpu, vm);
    }
    swap(&vcpu, &shaking.spare_vcpu);
    if (status == NVMX_OK)
        status = host_make_vcpu(cpu, vcpu);
    if (status != NVMX_OK)
        panic("shake %lu: libnvmx does not start again: %s", shaking.saves, nvmx_status_text(status));
}

static void restore(struct cpu *cpu, size_t bytes) {
    struct nvmx_state_error error;

    if (nvmx_state_restore(cpu->vcpu, shaking.blob, bytes, &error) != NVMX_STATE_OK)
        panic("shake %lu: restoring fails: %s (offset %lu, detail 0x%x, entry check %u)", shaking.saves,
              nvmx_state_reason_text(error.reason), error.offset, error.detail, error.check_row);
    expect_same_bytes(cpu, bytes, "restored");
    if (nvmx_state_complete(cpu->vcpu) != NVMX_OK)
        panic("shake %lu: restoring can't be completed", shaking.saves);
    expect_same_bytes(cpu, bytes, "completed");
}

static void shake_now(struct cpu *cpu) {
    bool l2 = nvmx_mode(cpu->vcpu) == NVMX_MODE_L2, whole = random_below(WHOLE_ONE_IN) == 0;
    size_t bytes = save(cpu, shaking.blob);

    if (l2)
        read_vmcs(shaking.vmcs02);
    vmcs_use(cpu, NVMX_VMCS01);
    read_vmcs(shaking.vmcs01);
    replace(cpu, whole);
    restore(cpu, bytes);
    if (l2)
        expect_same_fields(shaking.vmcs02, true);
    vmcs_use(cpu, NVMX_VMCS01);
    expect_same_fields(shaking.vmcs01, false);
    vmcs_use(cpu, nvmx_selected(cpu->vcpu));
    shaking.saves++;
    shaking.whole += whole;
    shaking.while_l2 += l2;
    if (bytes > shaking.most_bytes)
        shaking.most_bytes = bytes;
}

void shake(struct cpu *cpu) {
    if (!shaking.ready)
        prepare(cpu);
    if (--shaking.left)
        return;
    shaking.left = 1 + random_below(options.shake);
    shake_now(cpu);
}

void shake_print(void) {
    if (options.shake)
        print("nvmx-stats: shake saves %lu while-L2 %lu whole %lu most-bytes %lu\n", shaking.saves, shaking.while_l2,
              shaking.whole, shaking.most_bytes);
}
