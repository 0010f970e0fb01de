/* SPDX-License-Identifier: MIT */
/* A host in one file. L1's memory and the real VMCSs are arrays here; in a hypervisor they are guest memory, VMREAD and VMWRITE. */
#include <nvmx/nvmx.h>
#include <stdio.h>
#include <stdlib.h>

static uint8_t memory[16][4096];               /* L1's memory: 64 KiB at gpa1 0; hpa = gpa1 + 1 MiB */
static uint64_t vmcs[4][NVMX_FIELD_COUNT];     /* vmcs01, shadow, two vmcs02 */
static uint32_t selected;

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    (void)ctx, (void)access, *hpa = gpa1 + 0x100000;
    return gpa1 < sizeof(memory) ? memory[gpa1 / 4096] : NULL;
}
static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)ctx, (void)gpa1, (void)page, (void)dirtied;
}
static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    *out = (struct nvmx_ept01_mapping){.gpa1 = gpa1 & ~0xfffull, .size_shift = 12, .access = 7, .memory_type = 6};
    return map_page(ctx, out->gpa1, 7, &out->hpa) ? NVMX_OK : NVMX_E_UNMAPPED;
}
static void *page_alloc(void *ctx, uint64_t *hpa) {
    void *page = aligned_alloc(4096, 4096);
    for (int i = 0; page && i < 4096; i++)
        ((uint8_t *)page)[i] = 0;
    return (void)ctx, *hpa = (uintptr_t)page, page;   /* a program has no hpa: its own addresses stand in */
}
static void page_free(void *ctx, void *page, uint64_t hpa) { (void)ctx, (void)hpa, free(page); }
static void *page_pointer(void *ctx, uint64_t hpa) { return (void)ctx, (void *)(uintptr_t)hpa; }

static enum nvmx_status vmcs_select(void *ctx, uint32_t which) { return (void)ctx, selected = which, NVMX_OK; } /* VMPTRLD */
static enum nvmx_status vmcs_reset(void *ctx, uint32_t which) { return (void)ctx, (void)which, NVMX_OK; }       /* VMCLEAR */
static enum nvmx_status vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    for (uint32_t i = 0; i < count; i++)
        value[i] = vmcs[selected][nvmx_field_find(encoding[i], NULL)];
    return (void)ctx, NVMX_OK;
}
static enum nvmx_status vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    for (uint32_t i = 0; i < count; i++)
        vmcs[selected][nvmx_field_find(encoding[i], NULL)] = value[i];
    return (void)ctx, NVMX_OK;
}
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    (void)ctx, (void)kind, (void)value, (void)linear;  /* INVEPT, INVVPID */
}
static enum nvmx_status msr_read(void *ctx, uint32_t index, uint64_t *value) { return (void)ctx, (void)index, (void)value, NVMX_E_DENIED; }
static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) { return (void)ctx, (void)index, (void)value, NVMX_E_DENIED; }

static const struct nvmx_host host = {
    .size = sizeof(host), .map_page = map_page, .unmap_page = unmap_page, .ept01_lookup = ept01_lookup,
    .page_alloc = page_alloc, .page_free = page_free, .page_pointer = page_pointer, .vmcs_select = vmcs_select,
    .vmcs_reset = vmcs_reset, .vmcs_read = vmcs_read, .vmcs_write = vmcs_write, .tlb_flush = tlb_flush,
    .msr_read = msr_read, .msr_write = msr_write};

int main(void) {
    static struct nvmx_regs regs;
    struct nvmx_vm *vm;
    struct nvmx_vcpu *vcpu;
    struct nvmx_vm_config vm_config = {.size = sizeof(vm_config), .expose = true};
    struct nvmx_vcpu_config vcpu_config = {.size = sizeof(vcpu_config), .regs = &regs, .shadow_hpa = NVMX_NO_ADDRESS, .vmcs02_slots = 2};

    /* The real CPU's capabilities: RDMSR of 480H-493H in a hypervisor, a processor that has the minimum here. */
    vm_config.machine = (struct nvmx_caps){.msr = {[NVMX_CAP_BASIC] = 0x00d8100000000001, [NVMX_CAP_PINBASED] = 0x3f00000016,
        [NVMX_CAP_PROCBASED] = 0xfff9fffe0401e172, [NVMX_CAP_EXIT] = 0x7fffff00036dff, [NVMX_CAP_ENTRY] = 0xffff000011ff,
        [NVMX_CAP_CR0_FIXED0] = 0x80000021, [NVMX_CAP_CR0_FIXED1] = 0xffffffff, [NVMX_CAP_CR4_FIXED0] = 0x2000,
        [NVMX_CAP_CR4_FIXED1] = 0x3767ff, [NVMX_CAP_TRUE_PINBASED] = 0x3f00000016, [NVMX_CAP_TRUE_PROCBASED] = 0xfff9fffe04006172,
        [NVMX_CAP_TRUE_EXIT] = 0x7fffff00036dfb, [NVMX_CAP_TRUE_ENTRY] = 0xffff000011fb},
        .physical_address_bits = 40, .cpu = NVMX_CPU_LONG_MODE};
    if (nvmx_vm_init(malloc(nvmx_vm_size()), nvmx_vm_size(), &host, &vm_config, &vm) != NVMX_OK ||
        nvmx_vcpu_init(malloc(nvmx_vcpu_size()), nvmx_vcpu_size(), vm, &vcpu_config, &vcpu) != NVMX_OK)
        return 1;

    /* After every hardware exit: here L1 executes RDMSR (exit reason 31) of IA32_VMX_BASIC. */
    regs.gpr[NVMX_RCX] = 0x480;
    vmcs[NVMX_VMCS01][NVMX_F_GUEST_RIP] = 0x1000;
    vmcs[NVMX_VMCS01][NVMX_F_VM_EXIT_INSTRUCTION_LENGTH] = 2;
    switch (nvmx_exit(vcpu, 31)) {
    case NVMX_ENTER: /* nvmx dealt with it: enter the selected VMCS again, after nvmx_enter */
        printf("L1 read IA32_VMX_BASIC: revision %#x, RIP is %#x\n", (unsigned)regs.gpr[NVMX_RAX],
               (unsigned)vmcs[NVMX_VMCS01][NVMX_F_GUEST_RIP]);
        break;
    case NVMX_HOST: /* nothing to do with VMX: what the hypervisor did without nvmx */
        return 2;
    case NVMX_STOP: /* L1 is in VMX-abort shutdown, or a callback failed where nothing else is left */
        return 3;
    }
    nvmx_vcpu_destroy(vcpu), nvmx_vm_destroy(vm);
    return free(vcpu), free(vm), 0;
}
