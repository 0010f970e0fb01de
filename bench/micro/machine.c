/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGES_MOST 65536u
#define REGIONS UINT64_C(0x200000)  /* VMCS regions, 64 for each processor */
#define VMXON_AREA UINT64_C(0x800000)
#define REGIONS_PER_CPU 64u
#define PAGE ((uint64_t)NVMX_PAGE_SIZE)

_Noreturn void machine_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("micro: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* -- callbacks -------------------------------------------------------------------------------------------------------------------- */

/* Encodings by width, type and index: a small table, as cheap as hardware's own look-up is to a host. */
#define PLACE(encoding) (((encoding) >> 13 & 3) << 8 | ((encoding) >> 10 & 3) << 6 | ((encoding) >> 1 & 0x3f))
static uint8_t slot_at[1024];

static void fill_slots(void) {
#define FIELD(encoding, name, ...) slot_at[PLACE(encoding)] = NVMX_F_##name;
#include <nvmx/vmcs_fields.def>
#undef FIELD
}

static uint8_t *l1_memory(const struct machine *m, uint64_t gpa1) {
    if (gpa1 < SIM_RAM_BYTES)
        return m->sim[0]->ram + gpa1;
    if (gpa1 - MACHINE_TABLES < MACHINE_TABLES_BYTES)
        return m->tables + (gpa1 - MACHINE_TABLES);
    return NULL;
}

static struct sim *sim_of(void *ctx) {
    return ((struct machine_cpu *)ctx)->sim;
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    (void)access;
    *hpa = gpa1 + SIM_HPA_OFFSET;
    return l1_memory(((struct machine_cpu *)ctx)->machine, gpa1);
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)ctx, (void)gpa1, (void)page, (void)dirtied;
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    uint64_t base = gpa1 & ~((UINT64_C(1) << 30) - 1);
    (void)ctx;
    *out = (struct nvmx_ept01_mapping){.hpa = base + SIM_HPA_OFFSET, .gpa1 = base, .size_shift = 30, .access = 7, .memory_type = 6};
    return NVMX_OK;
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    struct machine *m = ctx;
    uint32_t number = m->free_count ? m->free_pages[--m->free_count] : m->pages_made++;
    if (number >= PAGES_MOST)
        machine_fail("out of pages");
    uint8_t *page = m->pages + number * PAGE;
    memset(page, 0, NVMX_PAGE_SIZE);
    *hpa = SIM_PAGES_HPA * 4 + number * PAGE;
    return page;
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    struct machine *m = ctx;
    (void)page;
    m->free_pages[m->free_count++] = (uint32_t)((hpa - SIM_PAGES_HPA * 4) / PAGE);
}

static void *page_pointer(void *ctx, uint64_t hpa) {
    struct machine *m = ctx;
    return m->pages + (hpa - SIM_PAGES_HPA * 4);
}

static enum nvmx_status vmcs_select(void *ctx, uint32_t which) {
    struct sim *sim = sim_of(ctx);
    sim->selected = which;
    return NVMX_OK;
}

static enum nvmx_status vmcs_reset(void *ctx, uint32_t which) {
    struct sim *sim = sim_of(ctx);
    memset(sim->vmcs[which].value, 0, sizeof(sim->vmcs[which].value));
    sim->vmcs[which].resets++;
    return NVMX_OK;
}

static enum nvmx_status vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    struct sim *sim = sim_of(ctx);
    const uint64_t *from = sim->vmcs[sim->selected].value;
    for (uint32_t i = 0; i < count; i++)
        value[i] = from[slot_at[PLACE(encoding[i])]];
    return NVMX_OK;
}

static enum nvmx_status vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    struct sim *sim = sim_of(ctx);
    uint64_t *to = sim->vmcs[sim->selected].value;
    for (uint32_t i = 0; i < count; i++)
        to[slot_at[PLACE(encoding[i])]] = value[i];
    return NVMX_OK;
}

static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    (void)ctx, (void)kind, (void)value, (void)linear;
}

static enum nvmx_status msr_read(void *ctx, uint32_t index, uint64_t *value) {
    *value = sim_msr(sim_of(ctx), index)->value;
    return NVMX_OK;
}

static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) {
    sim_msr(sim_of(ctx), index)->value = value;
    return NVMX_OK;
}

static const struct nvmx_host host = {
    .size = sizeof(host),
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

/* -- making one ------------------------------------------------------------------------------------------------------------------- */

static void *memory(size_t bytes) {
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        machine_fail("no memory");
    return area;
}

static void *aligned(size_t bytes) {
    void *area = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!area)
        machine_fail("no memory");
    memset(area, 0, bytes);
    return area;
}

static void make_vm(struct machine *m) {
    struct nvmx_vm_config config = {
        .size = sizeof(config), .ctx = m, .machine = m->sim[0]->machine, .expose = true, .passes_interrupts = true};
    m->vm_memory = aligned(nvmx_vm_size());
    if (nvmx_vm_init(m->vm_memory, nvmx_vm_size(), &host, &config, &m->vm) != NVMX_OK)
        machine_fail("nvmx_vm_init refuses");
}

static void make_vcpu(struct machine *m, uint32_t cpu) {
    struct sim *sim = m->sim[cpu];
    uint64_t shadow_hpas[NVMX_VMCS02_MAX];
    for (uint32_t i = 0; i < NVMX_VMCS02_MAX; i++)
        shadow_hpas[i] = SIM_SHADOW_HPA + i * PAGE;
    struct nvmx_vcpu_config config = {
        .size = sizeof(config),
        .id = cpu,
        .ctx = &m->cpu[cpu],
        .regs = &sim->regs,
        .shadow_hpa = NVMX_NO_ADDRESS,
        .shadow_hpas = m->options.shadow ? shadow_hpas : NULL,
        .watches_msrs = true,
        .vmwrite_bitmap = m->options.shadow ? sim->vmwrite_bitmap : NULL,
        .vmcs02_slots = m->options.slots,
        .vpid02_first = 2,
        .vpid02_count = 16,
        .msr_bitmap = (const uint64_t *)(const void *)sim->host_msr_bitmap,
        .io_bitmap = {(const uint64_t *)(const void *)sim->host_io_bitmap[0], (const uint64_t *)(const void *)sim->host_io_bitmap[1]},
    };
    m->vcpu_memory[cpu] = aligned(nvmx_vcpu_size());
    if (nvmx_vcpu_init(m->vcpu_memory[cpu], nvmx_vcpu_size(), m->vm, &config, &sim->vcpu) != NVMX_OK)
        machine_fail("nvmx_vcpu_init refuses");
    sim->vm = m->vm;
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

/* The simulated host's own VM goes; its L1, its VMCSs and its helpers stay. All processors share the first one's memory. */
static void take_sim(struct machine *m, uint32_t cpu) {
    struct sim_options options = {.watches_msrs = true, .shadow = m->options.shadow, .shadows = m->options.shadow, .vmcs02_slots = m->options.slots};
    struct sim *sim = sim_new(&options);
    if (!sim->vcpu)
        machine_fail("the simulated host does not start: %s", nvmx_status_text(sim->status));
    nvmx_vcpu_destroy(sim->vcpu);
    nvmx_vm_destroy(sim->vm);
    sim->vcpu = NULL;
    sim->vm = NULL;
    m->sim[cpu] = sim;
    m->cpu[cpu] = (struct machine_cpu){m, sim};
    m->own_ram[cpu] = sim->ram;
    sim->ram = m->sim[0]->ram;
}

static void start_vmx(struct machine *m, uint32_t cpu) {
    struct sim *sim = m->sim[cpu];
    uint64_t gpa1 = VMXON_AREA + cpu * PAGE;
    sim_region(sim, gpa1);
    if (sim_vmxon(sim, gpa1) != SIM_SUCCEED)
        machine_fail("VMXON fails");
}

struct machine *machine_new(const struct machine_options *options) {
    struct machine *m = aligned(sizeof(*m));
    m->options = *options;
    m->options.cpus = options->cpus ? options->cpus : 1;
    m->options.slots = options->slots ? options->slots : 4;
    fill_slots();
    m->tables = memory(MACHINE_TABLES_BYTES);
    m->pages = memory((size_t)PAGES_MOST * NVMX_PAGE_SIZE);
    m->free_pages = memory(PAGES_MOST * sizeof(m->free_pages[0]));
    for (uint32_t cpu = 0; cpu < m->options.cpus; cpu++)
        take_sim(m, cpu);
    make_vm(m);
    for (uint32_t cpu = 0; cpu < m->options.cpus; cpu++) {
        make_vcpu(m, cpu);
        start_vmx(m, cpu);
    }
    return m;
}

void machine_free(struct machine *m) {
    for (uint32_t cpu = 0; cpu < m->options.cpus; cpu++)
        nvmx_vcpu_destroy(m->sim[cpu]->vcpu);
    nvmx_vm_destroy(m->vm);
    if (m->free_count != m->pages_made)
        machine_fail("%u pages were not freed", m->pages_made - m->free_count);
    for (uint32_t cpu = m->options.cpus; cpu-- > 0;) {
        m->sim[cpu]->vcpu = NULL;
        m->sim[cpu]->vm = NULL;
        m->sim[cpu]->ram = m->own_ram[cpu];
        sim_free(m->sim[cpu]);
        free(m->vcpu_memory[cpu]);
    }
    munmap(m->tables, MACHINE_TABLES_BYTES);
    munmap(m->pages, (size_t)PAGES_MOST * NVMX_PAGE_SIZE);
    munmap(m->free_pages, PAGES_MOST * sizeof(m->free_pages[0]));
    free(m->vm_memory);
    free(m);
}

/* -- exits ------------------------------------------------------------------------------------------------------------------------- */

void machine_arm(struct machine *m, uint32_t cpu, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length) {
    struct sim *sim = m->sim[cpu];
    uint64_t *value = sim->vmcs[sim->selected].value;
    sim->vmcs[sim->selected].entries++;
    value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] &= 0x7fffffff;
    value[NVMX_F_EXIT_REASON] = reason;
    value[NVMX_F_EXIT_QUALIFICATION] = qualification;
    value[NVMX_F_VM_EXIT_INTERRUPTION_INFO] = 0;
    value[NVMX_F_IDT_VECTORING_INFO] = 0;
    value[NVMX_F_VM_EXIT_INSTRUCTION_LENGTH] = length;
    value[NVMX_F_VM_EXIT_INSTRUCTION_INFORMATION] = info;
}

void machine_arm_address(struct machine *m, uint32_t cpu, uint64_t gpa2) {
    struct sim *sim = m->sim[cpu];
    sim->vmcs[sim->selected].value[NVMX_F_GUEST_PHYSICAL_ADDRESS] = gpa2;
    sim->vmcs[sim->selected].value[NVMX_F_GUEST_LINEAR_ADDRESS] = gpa2;
}

void machine_arm_event(struct machine *m, uint32_t cpu, uint32_t interruption_info) {
    struct sim *sim = m->sim[cpu];
    sim->vmcs[sim->selected].value[NVMX_F_VM_EXIT_INTERRUPTION_INFO] = interruption_info;
}

void machine_exit(struct machine *m, uint32_t cpu, uint32_t reason, uint64_t qualification, uint32_t info, uint32_t length) {
    machine_arm(m, cpu, reason, qualification, info, length);
    if (nvmx_exit(machine_vcpu(m, cpu), reason) != NVMX_ENTER)
        machine_fail("exit %u is not handled", reason);
}

void machine_to_root(struct machine *m, uint32_t cpu) {
    if (nvmx_mode(machine_vcpu(m, cpu)) == NVMX_MODE_L2)
        machine_exit(m, cpu, EXIT_CPUID, 0, 0, 2);
}

void machine_to_l2(struct machine *m, uint32_t cpu) {
    if (nvmx_mode(machine_vcpu(m, cpu)) == NVMX_MODE_L2)
        return;
    machine_write(m, cpu, NVMX_VMCS_GUEST_RIP, machine_read(m, cpu, NVMX_VMCS_GUEST_RIP) ^ 2);
    machine_exit(m, cpu, EXIT_VMRESUME, 0, 0, 3);
    if (nvmx_mode(machine_vcpu(m, cpu)) != NVMX_MODE_L2)
        machine_fail("L2 is not entered: check row %u", nvmx_last_check(machine_vcpu(m, cpu)));
}

/* -- L1's VMCSs -------------------------------------------------------------------------------------------------------------------- */

void machine_write(struct machine *m, uint32_t cpu, uint32_t encoding, uint64_t value) {
    if (sim_vmwrite(m->sim[cpu], encoding, value) != SIM_SUCCEED)
        machine_fail("VMWRITE of %#x fails", encoding);
}

uint64_t machine_read(struct machine *m, uint32_t cpu, uint32_t encoding) {
    uint64_t value = 0;
    if (sim_vmread(m->sim[cpu], encoding, &value) != SIM_SUCCEED)
        machine_fail("VMREAD of %#x fails", encoding);
    return value;
}

uint64_t machine_vmcs_gpa1(uint32_t cpu, uint32_t number) {
    return REGIONS + (cpu * REGIONS_PER_CPU + number) * PAGE;
}

void machine_vmptrld(struct machine *m, uint32_t cpu, uint32_t number) {
    if (sim_vmptrld(m->sim[cpu], machine_vmcs_gpa1(cpu, number)) != SIM_SUCCEED)
        machine_fail("VMPTRLD fails");
}

void machine_vmcs12(struct machine *m, uint32_t cpu, uint32_t number) {
    struct sim *sim = m->sim[cpu];
    uint64_t gpa1 = machine_vmcs_gpa1(cpu, number);
    sim_region(sim, gpa1);
    memset(sim->ram + SIM_L1_MSR_BITMAP, 0xff, NVMX_PAGE_SIZE);
    sim->ram[SIM_L1_MSR_BITMAP + 0x277 / 8] = 0x7f; /* RDMSR of IA32_PAT goes through */
    if (sim_vmclear(sim, gpa1) != SIM_SUCCEED)
        machine_fail("VMCLEAR fails");
    machine_vmptrld(m, cpu, number);
    uint32_t bad = sim_vmcs12(sim);
    if (bad)
        machine_fail("VMWRITE of %#x fails", bad);
    /* CR3-load and unconditional I/O exiting too; interrupts open, so that they can be injected. */
    machine_write(m, cpu, NVMX_VMCS_PRIMARY_CONTROLS, machine_read(m, cpu, NVMX_VMCS_PRIMARY_CONTROLS) | 1u << 15 | 1u << 24);
    machine_write(m, cpu, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 6);
    machine_write(m, cpu, NVMX_VMCS_GUEST_RFLAGS, 0x202);
    machine_write(m, cpu, NVMX_VMCS_VPID, number + 1);
    enum sim_outcome outcome = sim_vmlaunch(sim);
    if (outcome != SIM_L2)
        machine_fail("VMLAUNCH: %s, check row %u", sim_outcome_text(outcome), nvmx_last_check(sim->vcpu));
    machine_to_root(m, cpu);
}

/* -- L2's memory --------------------------------------------------------------------------------------------------------------------- */

static uint64_t new_table(struct machine *m) {
    uint64_t gpa1 = MACHINE_TABLES + m->tables_used++ * PAGE;
    if (gpa1 >= MACHINE_TABLES + MACHINE_TABLES_BYTES)
        machine_fail("out of memory for ept12");
    return gpa1;
}

static uint64_t *table_at(struct machine *m, uint64_t gpa1) {
    return (uint64_t *)(void *)l1_memory(m, gpa1);
}

uint64_t *machine_ept12_entry(struct machine *m, uint64_t eptp12, uint64_t gpa2, unsigned int level) {
    uint64_t *table = table_at(m, eptp12 & ~UINT64_C(0xfff));
    for (unsigned int at = 4; at > level; at--) {
        uint64_t *entry = &table[gpa2 >> (12 + 9 * (at - 1)) & 511];
        if (!*entry)
            *entry = new_table(m) | 7;
        table = table_at(m, *entry & ~UINT64_C(0xfff));
    }
    return &table[gpa2 >> (12 + 9 * (level - 1)) & 511];
}

uint64_t machine_ept12(struct machine *m, uint64_t bytes, unsigned int shift) {
    uint64_t eptp12 = new_table(m) | 0x1e;
    unsigned int level = shift == 21 ? 2 : 1;
    for (uint64_t gpa2 = 0; gpa2 < bytes; gpa2 += UINT64_C(1) << shift)
        *machine_ept12_entry(m, eptp12, gpa2, level) =
            (MACHINE_L2_GPA1 + gpa2) | 6u << 3 | 7 | (level == 2 ? NVMX_EPT_LARGE : 0);
    return eptp12;
}

void machine_touch(struct machine *m, uint32_t cpu, uint64_t gpa2) {
    machine_arm(m, cpu, EXIT_EPT_VIOLATION, 0x181, 0, 3);
    machine_arm_address(m, cpu, gpa2);
    if (nvmx_exit(machine_vcpu(m, cpu), EXIT_EPT_VIOLATION) != NVMX_ENTER || nvmx_mode(machine_vcpu(m, cpu)) != NVMX_MODE_L2)
        machine_fail("a first touch of %#llx is not resolved", (unsigned long long)gpa2);
}

void machine_invept(struct machine *m, uint32_t cpu, uint64_t eptp12) {
    if (sim_invept(m->sim[cpu], 1, eptp12, 0) != SIM_SUCCEED)
        machine_fail("INVEPT fails");
}
