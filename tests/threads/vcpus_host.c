/* SPDX-License-Identifier: MIT */
#include "vcpus.h"

#include <nvmx/state.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define ADDRESS UINT64_C(0x000ffffffffff000)
#define FIRST   SIM_L2_GPA1 /* gpa1 of the pages that move */

/* -- callbacks: those about memory go to the VM's simulated host, one at a time -------------------------------------------------------- */

static struct nvmx_host callbacks; /* as the simulated host has them; the same for all */

static _Thread_local bool told; /* of a change of memory just now: see nvmx.h, which callbacks may come */

static void not_while_told(const char *callback) {
    if (told)
        fail("a change of memory calls %s", callback);
}

static struct vm *vm_of(const struct sim *sim) {
    return sim->user;
}

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    struct vm *vm = vm_of(sim_of_vcpu(ctx));

    not_while_told("map_page");
    pthread_mutex_lock(&vm->lock);
    void *page = callbacks.map_page(&vm->sim->vcpu_context, gpa1, access, hpa);
    pthread_mutex_unlock(&vm->lock);
    return page;
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    struct vm *vm = vm_of(sim_of_vcpu(ctx));

    pthread_mutex_lock(&vm->lock);
    callbacks.unmap_page(&vm->sim->vcpu_context, gpa1, page, dirtied);
    pthread_mutex_unlock(&vm->lock);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    struct vm *vm = vm_of(sim_of_vm(ctx));

    not_while_told("ept01_lookup");
    if (gpa1 >= FIRST && gpa1 - FIRST < MOVING_PAGES * NVMX_PAGE_SIZE) {
        uint64_t entry = load(&vm->ept01[(gpa1 - FIRST) / NVMX_PAGE_SIZE]);

        *out = (struct nvmx_ept01_mapping){
            .hpa = FRAME_HPA + (entry & ADDRESS), .gpa1 = gpa1 & ADDRESS, .size_shift = 12, .access = entry & 7, .memory_type = 6};
        return entry != 0 ? NVMX_OK : NVMX_E_UNMAPPED;
    }
    pthread_mutex_lock(&vm->lock);
    enum nvmx_status status = callbacks.ept01_lookup(ctx, gpa1, out);
    pthread_mutex_unlock(&vm->lock);
    return status;
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    struct vm *vm = vm_of(sim_of_vm(ctx));

    not_while_told("page_alloc");
    pthread_mutex_lock(&vm->lock);
    void *page = callbacks.page_alloc(ctx, hpa);
    pthread_mutex_unlock(&vm->lock);
    return page;
}

static void page_free(void *ctx, void *page, uint64_t hpa) {
    struct vm *vm = vm_of(sim_of_vm(ctx));

    pthread_mutex_lock(&vm->lock);
    callbacks.page_free(ctx, page, hpa);
    pthread_mutex_unlock(&vm->lock);
}

static void *page_pointer(void *ctx, uint64_t hpa) {
    struct vm *vm = vm_of(sim_of_vm(ctx));

    pthread_mutex_lock(&vm->lock);
    void *page = callbacks.page_pointer(ctx, hpa);
    pthread_mutex_unlock(&vm->lock);
    return page;
}

/* There is no TLB here: a flush of all processors brings them out of their guests, one by one. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    struct sim *sim = sim_of_vcpu(ctx);
    struct vm *vm = vm_of(sim);

    (void)linear;
    if ((kind == NVMX_FLUSH_VPID || kind == NVMX_FLUSH_VPID_ADDRESS || kind == NVMX_FLUSH_VPID_BUT_GLOBALS) && (value < 1 || value > 5))
        fail("flush of VPID %llu, which is not this vCPU's", (unsigned long long)value);
    for (unsigned int i = 0; (kind == NVMX_FLUSH_EPT || kind == NVMX_FLUSH_EPT_ALL) && i < vm->vcpus; i++) {
        pthread_mutex_lock(&vm->vcpu[i].guest);
        pthread_mutex_unlock(&vm->vcpu[i].guest);
    }
}

/* -- L2
 * -------------------------------------------------------------------------------------------------------------------------- */

static void reach(struct vm *vm, uint64_t hpa, uint64_t gpa2, uint64_t kind) {
    uint64_t number = (hpa - FRAME_HPA) >> 12;

    if (hpa < FRAME_HPA || number >= FRAMES)
        fail("L2 reaches hpa %#llx", (unsigned long long)hpa);
    if (load(&vm->owner[number]) != gpa2 >> 12)
        fail("L2 reaches frame %llu at gpa2 %#llx, which it must not", (unsigned long long)number, (unsigned long long)gpa2);
    if ((kind & 2) != 0 && load(&vm->writable[number]) == 0)
        fail("L2 writes to frame %llu, which is write-protected", (unsigned long long)number);
}

/* A page of ept02's tables: whoever reads one that is freed meanwhile races with the stores that overwrite it, or faults. */
static uint64_t entry02(const struct vm *vm, uint64_t table, unsigned int index) {
    return load((const uint64_t *)(const void *)(vm->sim->pages + (table - SIM_PAGES_HPA)) + index);
}

bool l2_accesses(struct vcpu *vcpu, uint64_t gpa2, uint64_t kind, uint64_t *qualification) {
    struct vm *vm = vcpu->vm;
    uint64_t rights = 7, entry;
    unsigned int shift = 39;

    pthread_mutex_lock(&vcpu->guest);
    uint64_t table = sim_get(vcpu->sim, nvmx_selected(vcpu->sim->vcpu), NVMX_F_EPT_POINTER) & ADDRESS;
    for (;; shift -= 9) {
        entry = entry02(vm, table, gpa2 >> shift & 511);
        rights &= entry;
        if ((entry & 7) == 0 || shift == 12 || (entry & NVMX_EPT_LARGE) != 0)
            break;
        table = entry & ADDRESS;
    }
    bool allowed = (rights & kind) == kind;
    if (allowed)
        reach(vm, (entry & ADDRESS) | (gpa2 & ((UINT64_C(1) << shift) - NVMX_PAGE_SIZE)), gpa2, kind);
    else
        *qualification = 0x180 | kind | ((entry & 7) != 0 ? rights << 3 : 0);
    pthread_mutex_unlock(&vcpu->guest);
    return allowed;
}

/* -- changes of L1's memory
 * --------------------------------------------------------------------------------------------------------------- */

static uint64_t free_frame(struct vm *vm) {
    for (;;) {
        uint64_t number = below(&vm->random, FRAMES);

        if (load(&vm->owner[number]) == NOBODY)
            return number;
    }
}

static void give(struct vm *vm, uint64_t page, uint64_t frame) {
    store(&vm->writable[frame], 1);
    store(&vm->owner[frame], page);
    store(&vm->ept01[page], frame << 12 | 7);
}

/* Every vCPU is told, by its own thread. */
static void tell_all(struct vm *vm, struct change change) {
    vm->change = change;
    for (unsigned int i = 0; i < vm->vcpus; i++)
        __atomic_fetch_add(&vm->vcpu[i].asked, 1, __ATOMIC_SEQ_CST);
    for (unsigned int i = 0; i < vm->vcpus; i++)
        while (load(&vm->vcpu[i].done) != load(&vm->vcpu[i].asked) && load(&vm->stop) == 0)
            sched_yield();
}

void hear_of_changes(struct vcpu *vcpu) {
    struct vm *vm = vcpu->vm;

    if (load(&vcpu->asked) == vcpu->done)
        return;
    struct change change = vm->change;
    told = true;
    enum nvmx_status status = change.protects ? nvmx_memory_protected(vcpu->sim->vcpu, change.gpa1, change.bytes)
                                              : nvmx_memory_changed(vcpu->sim->vcpu, change.gpa1, change.bytes);
    told = false;
    if (status != NVMX_OK)
        fail("a change of memory is refused: %s", nvmx_status_text(status));
    /* Nothing that this vCPU used in place is held any more. */
    pthread_mutex_lock(&vm->lock);
    for (uint64_t page = L1_APIC(vcpu->id) / NVMX_PAGE_SIZE; page < L1_APIC(vcpu->id) / NVMX_PAGE_SIZE + 3; page++)
        if (change.gpa1 == 0 && (page == L1_APIC(vcpu->id) / NVMX_PAGE_SIZE || !change.protects) && vm->sim->mapped_read[page] != 0)
            fail("vCPU %u still holds page %#llx", vcpu->id, (unsigned long long)page);
    pthread_mutex_unlock(&vm->lock);
    vcpu->changes++;
    store(&vcpu->done, vcpu->done + 1);
}

void host_changes(struct vm *vm) {
    uint64_t page = below(&vm->random, MOVING_PAGES);
    uint64_t entry = vm->ept01[page], frame = entry >> 12;
    struct change change = {.gpa1 = FIRST + page * NVMX_PAGE_SIZE, .bytes = NVMX_PAGE_SIZE};

    if (below(&vm->random, 4) == 0)
        change = (struct change){.gpa1 = 0, .bytes = SIM_RAM_BYTES};
    vm->moves++;
    switch (entry == 0 ? 3 : below(&vm->random, 4)) {
    case 0:
        store(&vm->ept01[page], (entry & ADDRESS) | 5);
        change.protects = true;
        tell_all(vm, change);
        store(&vm->writable[frame], 0);
        break;
    case 1:
        store(&vm->ept01[page], 0);
        tell_all(vm, change);
        store(&vm->owner[frame], NOBODY);
        break;
    case 2:
        give(vm, page, free_frame(vm));
        tell_all(vm, change);
        store(&vm->owner[frame], NOBODY);
        break;
    default: /* rights that are only gained need no call */
        if (entry == 0) {
            give(vm, page, free_frame(vm));
        } else {
            store(&vm->writable[frame], 1);
            store(&vm->ept01[page], entry | 7);
        }
        break;
    }
}

/* -- life
 * ------------------------------------------------------------------------------------------------------------------------ */

void vcpu_power_up(struct vcpu *vcpu) {
    pthread_mutex_lock(&vcpu->vm->tables);
    sim_vmcs01(vcpu->sim);
    pthread_mutex_unlock(&vcpu->vm->tables);
}

void vcpu_make(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;
    struct nvmx_vcpu_config config = sim_vcpu_config(sim, vcpu->id);

    free(sim->vcpu_memory);
    sim->vcpu_memory = aligned_alloc(16, (nvmx_vcpu_size() + 15) & ~(size_t)15);
    memset(sim->vcpu_memory, 0xa5, nvmx_vcpu_size());
    vcpu_power_up(vcpu);
    if (nvmx_vcpu_init(sim->vcpu_memory, nvmx_vcpu_size(), vcpu->vm->sim->vm, &config, &sim->vcpu) != NVMX_OK)
        fail("nvmx_vcpu_init");
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

void vcpu_destroy(struct vcpu *vcpu) {
    nvmx_vcpu_destroy(vcpu->sim->vcpu);
    vcpu->sim->vcpu = NULL;
    vcpu->deaths++;
}

static void restore(struct vcpu *vcpu, const struct parked *parked) {
    struct nvmx_state_error error;
    enum nvmx_state_reason reason = nvmx_state_restore(vcpu->sim->vcpu, parked->blob, parked->bytes, &error);

    if (reason != NVMX_STATE_OK)
        fail("vCPU %u: its state is refused elsewhere: %s", parked->id, nvmx_state_reason_text(reason));
}

bool vcpu_move(struct vcpu *vcpu) {
    struct vm *vm = vcpu->vm;
    size_t room = nvmx_state_size(vcpu->sim->vcpu);
    struct parked mine = {.id = vcpu->id, .blob = malloc(room)};

    if (nvmx_state_save(vcpu->sim->vcpu, mine.blob, room, &mine.bytes) != NVMX_OK) {
        if (vm->sim->options.fail.one_in == 0)
            fail("vCPU %u can't be saved", vcpu->id);
        free(mine.blob);
        return true;
    }
    nvmx_vcpu_destroy(vcpu->sim->vcpu);
    for (uint32_t which = NVMX_VMCS02_FIRST; which < SIM_VMCSS; which = sim_next_vmcs(which))
        sim_poison(vcpu->sim, which);
    pthread_mutex_lock(&vm->lock);
    struct parked next = vm->parked;
    vm->parked = mine;
    pthread_mutex_unlock(&vm->lock);
    vcpu->id = next.id;
    vcpu->sim->operand = L1_OPERAND(next.id);
    vcpu_make(vcpu);
    if (next.blob == NULL)
        return false;
    restore(vcpu, &next);
    free(next.blob);
    vcpu->moves++;
    return true;
}

/* A simulated host without a VM and a vCPU of its own. */
static struct sim *bare_sim(struct vm *vm) {
    struct sim_options options = {.deadline = true};
    struct nvmx_caps machine;

    sim_machine(&machine);
    machine.msr[NVMX_CAP_PINBASED] &= ~(UINT64_C(1) << 38); /* no preemption timer: the library counts by deadlines */
    machine.msr[NVMX_CAP_TRUE_PINBASED] &= ~(UINT64_C(1) << 38);
    options.machine = &machine;
    struct sim *sim = sim_new(&options);
    if (sim->vcpu == NULL)
        fail("no vCPU: %s", nvmx_status_text(sim->status));
    nvmx_vcpu_destroy(sim->vcpu);
    nvmx_vm_destroy(sim->vm);
    sim->vcpu = NULL;
    sim->vm = NULL;
    sim->user = vm;
    return sim;
}

static void add_vcpu(struct vm *vm, unsigned int id, uint64_t seed) {
    struct vcpu *vcpu = &vm->vcpu[id];

    vcpu->vm = vm;
    vcpu->id = id;
    vcpu->random = (seed + id + 1) * UINT64_C(0x9e3779b97f4a7c15);
    pthread_mutex_init(&vcpu->guest, NULL);
    vcpu->sim = bare_sim(vm);
    vcpu->own_ram = vcpu->sim->ram;
    vcpu->sim->ram = vm->sim->ram;
    vcpu->sim->vm = vm->sim->vm;
    vcpu->sim->operand = L1_OPERAND(id);
    vcpu_make(vcpu);
}

struct vm *vm_new(unsigned int vcpus, uint32_t fails, uint64_t seed) {
    struct vm *vm = calloc(1, sizeof(*vm));

    if (vm == NULL)
        fail("out of memory");
    vm->vcpus = vcpus;
    vm->random = seed * 2 + 1;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->tables, NULL);
    for (uint64_t i = 0; i < FRAMES; i++)
        vm->owner[i] = NOBODY;
    for (uint64_t i = 0; i < MOVING_PAGES; i++)
        give(vm, i, i);
    vm->parked.id = vcpus;
    vm->sim = bare_sim(vm);
    callbacks = vm->sim->host;
    vm->sim->host.map_page = map_page;
    vm->sim->host.unmap_page = unmap_page;
    vm->sim->host.ept01_lookup = ept01_lookup;
    vm->sim->host.page_alloc = page_alloc;
    vm->sim->host.page_free = page_free;
    vm->sim->host.page_pointer = page_pointer;
    vm->sim->host.tlb_flush = tlb_flush;
    vm->sim->host.trace = NULL;
    free(vm->sim->vm_memory);
    if (sim_make_vm(vm->sim) != NVMX_OK)
        fail("nvmx_vm_init");
    for (unsigned int i = 0; i < vcpus; i++)
        add_vcpu(vm, i, seed);
    vm->sim->fail.one_in = fails;
    vm->sim->fail.seed = seed + 1;
    return vm;
}

void vm_delete(struct vm *vm) {
    for (unsigned int i = 0; i < vm->vcpus; i++) {
        struct vcpu *vcpu = &vm->vcpu[i];

        vcpu_destroy(vcpu);
        vcpu->sim->ram = vcpu->own_ram;
        vcpu->sim->vm = NULL;
        sim_free(vcpu->sim);
    }
    sim_free(vm->sim); /* aborts if a page or a mapping is left */
    free(vm->parked.blob);
    free(vm);
}
