/* SPDX-License-Identifier: MIT */
/* The simulated host: making and freeing it, failing callbacks, MSRs, events, the TLB's log. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim_internal.h"

_Noreturn void sim_broken(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("simulated host: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

static struct sim *sim_of(void *ctx, uint32_t magic, const char *whose) {
    struct sim_context *context = ctx;
    if (!context || context->magic != magic)
        sim_broken("a callback got the wrong context: the %s's was due", whose);
    return context->sim;
}

struct sim *sim_of_vm(void *ctx) {
    return sim_of(ctx, SIM_VM_MAGIC, "VM");
}

struct sim *sim_of_vcpu(void *ctx) {
    return sim_of(ctx, SIM_VCPU_MAGIC, "vCPU");
}

/* xorshift64* */
static uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static bool sweep_fails(const struct sim *sim, enum sim_call call) {
    if (!sim_sweep.on || sim->being_made || (sim_sweep.preparing && !sim_sweep.preparations))
        return false;
    sim_sweep.calls++;
    if (sim_sweep.most && sim_sweep.calls > sim_sweep.most)
        sim_sweep.too_many();
    if (sim_sweep.calls != sim_sweep.at[0] && sim_sweep.calls != sim_sweep.at[1])
        return false;
    sim_sweep.call[sim_sweep.failed++ & 1] = call;
    sim_sweep.at_entry = sim_sweep.at_entry || sim_sweep.entering;
    return true;
}

bool sim_fails(struct sim *sim, enum sim_call call) {
    struct sim_fail *fail = &sim->fail;
    sim->count[call]++;
    sim->calls++;
    bool now = sweep_fails(sim, call) || (fail->at && sim->calls == fail->at) || (fail->from && sim->calls >= fail->from);
    if (fail->one_in) {
        if (fail->seed == 0)
            fail->seed = 1;
        now = now || (next_random(&fail->seed) >> 32) % fail->one_in == 0;
    }
    sim->failed += now;
    if (now)
        sim->last_failed = call;
    return now;
}

/* -- MSRs, events, TLB -------------------------------------------------------------------------------------------------------- */

static struct sim_msr *find_msr(struct sim *sim, uint32_t index) {
    for (uint32_t i = 0; i < sim->msrs; i++)
        if (sim->msr[i].index == index)
            return &sim->msr[i];
    return NULL;
}

struct sim_msr *sim_msr(struct sim *sim, uint32_t index) {
    struct sim_msr *msr = find_msr(sim, index);
    if (msr)
        return msr;
    if (sim->msrs == SIM_MSRS)
        sim_broken("more than %u MSRs", SIM_MSRS);
    msr = &sim->msr[sim->msrs++];
    *msr = (struct sim_msr){.index = index};
    return msr;
}

/* What nvmx_vcpu_config.watches_msrs is about; for others NVMX_FIELD_COUNT. */
static enum nvmx_field field_of_msr(uint32_t index) {
    switch (index) {
    case 0x174:
        return NVMX_F_GUEST_SYSENTER_CS;
    case 0x175:
        return NVMX_F_GUEST_SYSENTER_ESP;
    case 0x176:
        return NVMX_F_GUEST_SYSENTER_EIP;
    case 0x277:
        return NVMX_F_GUEST_PAT;
    case 0xc0000080:
        return NVMX_F_GUEST_EFER;
    default:
        return NVMX_FIELD_COUNT;
    }
}

static enum nvmx_status msr_read(void *ctx, uint32_t index, uint64_t *value) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim_fails(sim, SIM_MSR_READ))
        return sim_sweep.status;
    struct sim_msr *msr = find_msr(sim, index);
    if (!msr || msr->refuse_read)
        return NVMX_E_DENIED;
    *value = msr->value;
    return NVMX_OK;
}

/* What WRMSR refuses of MSRs that VMCS fields switch, and nobody but the host knows. */
static bool msr_takes(uint32_t index, uint64_t value) {
    bool types = true;
    switch (index) {
    case 0x277:
        for (unsigned int i = 0; i < 8; i++)
            types = types && (value >> 8 * i & 0xff) < 8 && (0xf3u >> (value >> 8 * i & 7) & 1) != 0;
        return types;
    case 0xd90:
        return (value & 0xffc) == 0 && (value >> 47 == 0 || value >> 47 == 0x1ffff);
    default:
        return true;
    }
}

static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim_fails(sim, SIM_MSR_WRITE))
        return sim_sweep.status;
    struct sim_msr *msr = find_msr(sim, index);
    if (!msr || msr->refuse_write || !msr_takes(index, value))
        return NVMX_E_DENIED;
    msr->value = value;
    msr->writes++;
    if (sim->options.msrs_in_fields && field_of_msr(index) != NVMX_FIELD_COUNT)
        sim_set(sim, sim->selected, field_of_msr(index), value);
    return NVMX_OK;
}

static int ack_interrupt(void *ctx) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim_fails(sim, SIM_ACK_INTERRUPT) || sim->vectors_next == sim->vectors_count)
        return -1;
    return sim->vectors[sim->vectors_next++];
}

static void queue_exception(void *ctx, uint8_t vector, int32_t error_code) {
    struct sim *sim = sim_of_vcpu(ctx);
    sim->count[SIM_QUEUE_EXCEPTION]++;
    if (sim->selected != NVMX_VMCS01)
        sim_broken("an exception for L1 is queued while vmcs02 is selected");
    sim->queued_vector = vector;
    sim->queued_error_code = error_code;
}

static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim->count[SIM_TLB_FLUSH] < SIM_LOG)
        sim->flush[sim->count[SIM_TLB_FLUSH]] = (struct sim_flush){kind, value, linear};
    sim->count[SIM_TLB_FLUSH]++;
}

/* Linear addresses are gpa1 with this callback (as L1's identity map has it); beyond the first GiB they fault. */
static enum nvmx_status translate(void *ctx, uint64_t linear, uint32_t access, uint64_t *gpa1, uint32_t *error_code) {
    struct sim *sim = sim_of_vcpu(ctx);
    *error_code = 0;
    if (sim_fails(sim, SIM_TRANSLATE))
        return sim_sweep.status;
    if (linear >> 30) {
        *error_code = (access & NVMX_ACCESS_WRITE) ? 2 : 0;
        return NVMX_E_DENIED;
    }
    *gpa1 = linear;
    return NVMX_OK;
}

static enum nvmx_status ept02_root(void *ctx, uint64_t eptp12, uint64_t *eptp02) {
    struct sim *sim = sim_of_vcpu(ctx);
    if (sim_fails(sim, SIM_EPT02_ROOT))
        return sim_sweep.status;
    sim->eptp12_asked = eptp12;
    *eptp02 = sim->eptp02_given;
    return NVMX_OK;
}

static void ept02_invalidate(void *ctx, enum nvmx_flush kind, uint64_t eptp12) {
    struct sim *sim = sim_of_vcpu(ctx);
    (void)kind;
    sim->count[SIM_EPT02_INVALIDATE]++;
    sim->eptp12_asked = eptp12;
}

static void speculation_barrier(void *ctx, bool to_l2) {
    struct sim *sim = sim_of_vcpu(ctx);
    sim->count[SIM_SPECULATION_BARRIER]++;
    sim->barrier_to_l2 = to_l2;
}

static void trace(void *ctx, struct nvmx_trace_record *record) {
    struct sim *sim = sim_of_vcpu(ctx);
    record->time = sim->count[SIM_TRACE];
    if (sim->count[SIM_TRACE] < SIM_LOG)
        sim->trace[sim->count[SIM_TRACE]] = *record;
    sim->count[SIM_TRACE]++;
}

static uint64_t tsc(void *ctx) {
    struct sim *sim = sim_of_vcpu(ctx);
    sim->count[SIM_TSC]++;
    return sim->tsc;
}

static void deadline(void *ctx, uint64_t at) {
    struct sim *sim = sim_of_vcpu(ctx);
    sim->count[SIM_DEADLINE]++;
    sim->deadline = at;
}

void sim_host_callbacks(struct sim *sim) {
    struct nvmx_host *host = &sim->host;
    *host = (struct nvmx_host){.size = sizeof(*host)};
    sim_memory_callbacks(sim);
    sim_vmcs_callbacks(sim);
    host->tlb_flush = tlb_flush;
    host->msr_read = msr_read;
    host->msr_write = msr_write;
    host->ack_interrupt = ack_interrupt;
    host->speculation_barrier = speculation_barrier;
    host->trace = trace;
    if (sim->options.translate)
        host->translate = translate;
    if (sim->options.queue_exception)
        host->queue_exception = queue_exception;
    if (sim->options.deadline) {
        host->tsc = tsc;
        host->deadline = deadline;
    }
    if (sim->options.host_composes) {
        host->ept02_root = ept02_root;
        host->ept02_invalidate = ept02_invalidate;
    }
}

/* -- a whole test with failures ---------------------------------------------------------------------------------------------- */

_Thread_local struct sim_sweep sim_sweep = {.status = NVMX_E_HOST};

static void enlist(struct sim *sim) {
    sim->next = sim_sweep.alive;
    sim_sweep.alive = sim;
}

static void strike_off(const struct sim *sim) {
    for (struct sim **at = &sim_sweep.alive; *at; at = &(*at)->next)
        if (*at == sim) {
            *at = sim->next;
            return;
        }
}

/* -- making and freeing ----------------------------------------------------------------------------------------------------------- */

/* A processor in the style of Skylake: what Bochs's corei7_skylake_x has. */
void sim_machine(struct nvmx_caps *caps) {
    *caps = (struct nvmx_caps){
        .msr =
            {
                [NVMX_CAP_BASIC] = UINT64_C(0x00d810000000002b),
                [NVMX_CAP_PINBASED] = UINT64_C(0x0000007f00000016),
                [NVMX_CAP_PROCBASED] = UINT64_C(0xfff9fffe0401e172),
                [NVMX_CAP_EXIT] = UINT64_C(0x007fffff00036dff),
                [NVMX_CAP_ENTRY] = UINT64_C(0x0000ffff000011ff),
                [NVMX_CAP_MISC] = UINT64_C(0x00000000600401e0),
                [NVMX_CAP_CR0_FIXED0] = UINT64_C(0x80000021),
                [NVMX_CAP_CR0_FIXED1] = UINT64_C(0xffffffff),
                [NVMX_CAP_CR4_FIXED0] = UINT64_C(0x2000),
                [NVMX_CAP_CR4_FIXED1] = UINT64_C(0x3767ff),
                [NVMX_CAP_VMCS_ENUM] = UINT64_C(0x34),
                [NVMX_CAP_PROCBASED2] = UINT64_C(0x02177fff00000000),
                [NVMX_CAP_EPT_VPID] = UINT64_C(0x00000f0106734141),
                [NVMX_CAP_TRUE_PINBASED] = UINT64_C(0x0000007f00000016),
                [NVMX_CAP_TRUE_PROCBASED] = UINT64_C(0xfff9fffe04006172),
                [NVMX_CAP_TRUE_EXIT] = UINT64_C(0x007fffff00036dfb),
                [NVMX_CAP_TRUE_ENTRY] = UINT64_C(0x0000ffff000011fb),
                [NVMX_CAP_VMFUNC] = 1,
            },
        .feature_control = 5,
        .debugctl_valid = 3,
        .perf_global_ctrl_valid = UINT64_C(0x70000000f),
        .physical_address_bits = 40,
        .cpu = NVMX_CPU_LONG_MODE | NVMX_CPU_NX | NVMX_CPU_SYSCALL,
    };
}

enum nvmx_status sim_make_vm(struct sim *sim) {
    const struct sim_options *options = &sim->options;
    struct nvmx_vm_config config = {
        .size = sizeof(config),
        .ept_page_budget = options->ept_page_budget,
        .ctx = &sim->vm_context,
        .machine = sim->machine,
        .mask = options->mask,
        .layout = options->layout,
        .expose = !options->hidden,
        .passes_interrupts = !options->external_interrupts,
        .loads_on_entry = options->loads_on_entry,
    };
    size_t bytes = (nvmx_vm_size() + 15) / 16 * 16;
    sim->vm_memory = aligned_alloc(16, bytes);
    if (!sim->vm_memory)
        sim_broken("no memory for the VM");
    memset(sim->vm_memory, 0xa5, bytes);
    return nvmx_vm_init(sim->vm_memory, nvmx_vm_size(), &sim->host, &config, &sim->vm);
}

struct nvmx_vcpu_config sim_vcpu_config(struct sim *sim, uint32_t id) {
    const struct sim_options *options = &sim->options;
    return (struct nvmx_vcpu_config){
        .size = sizeof(struct nvmx_vcpu_config),
        .id = id,
        .ctx = &sim->vcpu_context,
        .regs = &sim->regs,
        .shadow_hpa = options->shadow ? SIM_SHADOW_HPA : NVMX_NO_ADDRESS,
        .vmcs02_slots = options->vmcs02_slots,
        .vpid02_first = options->no_vpid ? 0 : 2,
        .vpid02_count = options->no_vpid ? 0 : 4,
        .watches_msrs = options->watches_msrs,
        .vmwrite_bitmap = options->learns_writes ? sim->vmwrite_bitmap : NULL,
    };
}

enum nvmx_status sim_make_vcpu(struct sim *sim) {
    uint64_t shadow_hpas[NVMX_VMCS02_MAX];
    for (uint32_t i = 0; i < NVMX_VMCS02_MAX; i++)
        shadow_hpas[i] = SIM_SHADOW_HPA + i * NVMX_PAGE_SIZE;
    struct nvmx_vcpu_config config = sim_vcpu_config(sim, 0);
    config.shadow_hpas = sim->options.shadows ? shadow_hpas : NULL;
    size_t bytes = (nvmx_vcpu_size() + 15) / 16 * 16;
    sim->vcpu_memory = aligned_alloc(16, bytes);
    if (!sim->vcpu_memory)
        sim_broken("no memory for the vCPU");
    memset(sim->vcpu_memory, 0xa5, bytes);
    return nvmx_vcpu_init(sim->vcpu_memory, nvmx_vcpu_size(), sim->vm, &config, &sim->vcpu);
}

/* MSRs that any 64-bit guest uses, with the values they have after reset or while L1 runs. */
static void make_msrs(struct sim *sim) {
    static const struct {
        uint32_t index;
        uint64_t value;
    } all[] = {
        {0x174, 0}, {0x175, 0}, {0x176, 0}, {0x1d9, 0}, {0x277, UINT64_C(0x0007040600070406)}, {0x38f, 0},
        {0xc0000080, 0xd00}, {0xc0000081, 0}, {0xc0000082, 0}, {0xc0000083, 0}, {0xc0000084, 0}, {0xc0000102, 0},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        sim_msr(sim, all[i].index)->value = all[i].value;
}

bool sim_wrmsr(struct sim *sim, uint32_t index, uint64_t value) {
    enum nvmx_field field = field_of_msr(index);
    if (field == NVMX_FIELD_COUNT)
        sim_broken("sim_wrmsr of %#x", index);
    if (sim->options.watches_msrs) {
        sim->regs.gpr[NVMX_RCX] = index;
        sim->regs.gpr[NVMX_RAX] = (uint32_t)value;
        sim->regs.gpr[NVMX_RDX] = value >> 32;
        if (sim_exit(sim, 32, 0, 0, 2) != NVMX_HOST)
            return false;
    }
    sim_set(sim, sim->selected, field, value);
    if (sim->options.watches_msrs)
        nvmx_msrs_changed(sim->vcpu);
    return true;
}

/* The host's own pages behind page_pointer: bitmaps of vmcs01. They intercept nothing but IA32_FEATURE_CONTROL and the VMX MSRs, and what it watches. */
static void make_bitmaps(struct sim *sim) {
    uint8_t **where[] = {&sim->host_msr_bitmap, &sim->host_io_bitmap[0], &sim->host_io_bitmap[1]};
    static const enum nvmx_field field[] = {NVMX_F_MSR_BITMAP_ADDRESS, NVMX_F_IO_BITMAP_A_ADDRESS, NVMX_F_IO_BITMAP_B_ADDRESS};
    for (unsigned int i = 0; i < 3; i++) {
        uint64_t hpa;
        *where[i] = sim->host.page_alloc(&sim->vm_context, &hpa);
        sim_set(sim, NVMX_VMCS01, field[i], hpa);
    }
    for (uint32_t write = 0; write < 2; write++) {
        uint8_t *low = sim->host_msr_bitmap + write * 2048;
        low[NVMX_MSR_FEATURE_CONTROL / 8] = 1u << (NVMX_MSR_FEATURE_CONTROL % 8);
        for (uint32_t index = NVMX_MSR_VMX_FIRST; index <= NVMX_MSR_VMX_LAST; index++)
            low[index / 8] = (uint8_t)(low[index / 8] | 1u << (index % 8));
    }
    if (sim->options.watches_msrs) {
        uint8_t *low = sim->host_msr_bitmap + 2048, *high = sim->host_msr_bitmap + 3072;
        low[0x174 / 8] |= 7u << (0x174 % 8) & 0xff; /* to 176H */
        low[0x277 / 8] |= 1u << (0x277 % 8);
        high[0x80 / 8] |= 1u << (0x80 % 8);
    }
}

static void make(struct sim *sim) {
    sim->status = sim_make_vm(sim);
    if (sim->status != NVMX_OK) {
        sim->vm = NULL;
        return;
    }
    if (sim->options.shadow)
        nvmx_shadow_bitmaps(sim->vm, sim->vmread_bitmap, sim->vmwrite_bitmap);
    sim->status = sim_make_vcpu(sim);
    if (sim->status != NVMX_OK) {
        sim->vcpu = NULL;
        return;
    }
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

struct sim *sim_new(const struct sim_options *options) {
    struct sim *sim = calloc(1, sizeof(*sim));
    if (!sim)
        sim_broken("no memory for the simulation");
    sim->being_made = true;
    if (options)
        sim->options = *options;
    if (sim->options.vmcs02_slots == 0)
        sim->options.vmcs02_slots = 2;
    sim->vm_context = (struct sim_context){SIM_VM_MAGIC, sim};
    sim->vcpu_context = (struct sim_context){SIM_VCPU_MAGIC, sim};
    sim->queued_vector = -1;
    sim->operand = SIM_L1_OPERAND;
    sim->eptp02_given = UINT64_C(0x710000000) | 0x5e;
    if (sim->options.machine)
        sim->machine = *sim->options.machine;
    else
        sim_machine(&sim->machine);
    sim_memory_new(sim);
    sim_host_callbacks(sim);
    sim_vmcs01(sim);
    make_bitmaps(sim);
    make_msrs(sim);
    memset(sim->count, 0, sizeof(sim->count));
    sim->calls = 0;
    sim->fail = sim->options.fail;
    enlist(sim);
    make(sim);
    sim->being_made = false;
    return sim;
}

static void free_bitmaps(struct sim *sim) {
    static const enum nvmx_field field[] = {NVMX_F_MSR_BITMAP_ADDRESS, NVMX_F_IO_BITMAP_A_ADDRESS, NVMX_F_IO_BITMAP_B_ADDRESS};
    uint8_t *page[] = {sim->host_msr_bitmap, sim->host_io_bitmap[0], sim->host_io_bitmap[1]};
    for (unsigned int i = 0; i < 3; i++)
        sim->host.page_free(&sim->vm_context, page[i], sim_get(sim, NVMX_VMCS01, field[i]));
}

void sim_free(struct sim *sim) {
    if (sim_sweep.ends)
        sim_sweep.ends(sim);
    strike_off(sim);
    if (sim->vcpu)
        nvmx_vcpu_destroy(sim->vcpu);
    if (sim->mapped)
        sim_broken("%llu pages of L1 are still mapped", (unsigned long long)sim->mapped);
    if (sim->vm)
        nvmx_vm_destroy(sim->vm);
    free_bitmaps(sim);
    if (sim->pages_used)
        sim_broken("%u pages were not freed", sim->pages_used);
    sim_memory_free(sim);
    free(sim->vm_memory);
    free(sim->vcpu_memory);
    free(sim);
}
