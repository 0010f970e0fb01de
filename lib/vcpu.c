/* SPDX-License-Identifier: MIT */
/* Life cycle of VMs and vCPUs, the two entry points, and the questions that need no more than the state. */
#include "vcpu.h"

#include <nvmx/exits.h>
#include <string.h>

#include "vmcs/instruction_tlb.h"

#define ALIGNMENT 16u

/* -- life cycle
 * ------------------------------------------------------------------------------------------------------------- */

static size_t align_up(size_t bytes) {
    return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

size_t nvmx_vm_size(void) {
    return align_up(sizeof(struct nvmx_vm)) + nvmx_ept_size();
}

size_t nvmx_vcpu_size(void) {
    return align_up(sizeof(struct nvmx_vcpu));
}

/* Members past the caller's struct stay NULL. The smallest known struct reaches up to msr_write. */
static enum nvmx_status copy_host(struct nvmx_host *to, const struct nvmx_host *from) {
    if (from->size < offsetof(struct nvmx_host, ack_interrupt) || from->size > sizeof(*to) || from->size % sizeof(void *) != 0) {
        return NVMX_E_SIZE;
    }
    memset(to, 0, sizeof(*to));
    memcpy(to, from, from->size);
    to->size = sizeof(*to);
    bool complete = to->map_page && to->unmap_page && to->ept01_lookup && to->page_alloc && to->page_free &&
                    to->page_pointer && to->vmcs_select && to->vmcs_reset && to->vmcs_read && to->vmcs_write &&
                    to->tlb_flush && to->msr_read && to->msr_write;
    bool ept02_whole = (to->ept02_root == NULL) == (to->ept02_invalidate == NULL);
    bool timer_whole = (to->tsc == NULL) == (to->deadline == NULL);
    return complete && ept02_whole && timer_whole ? NVMX_OK : NVMX_E_INVALID;
}

static void default_layout(struct nvmx_vmcs12_layout *layout) {
    layout->revision = NVMX_REVISION;
    layout->launch_state = 8;
    layout->reserved = 0;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        layout->offset[slot] = (uint16_t)(VMCS_REGION_FIELDS + 8 * slot);
    }
}

static bool layout_valid(const struct nvmx_vmcs12_layout *layout) {
    bool ok = (layout->revision >> 31) == 0 && layout->launch_state >= 8 && layout->launch_state <= NVMX_PAGE_SIZE - 4;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint16_t offset = layout->offset[slot];
        ok = ok && (offset == 0 || (offset >= 8 && offset <= NVMX_PAGE_SIZE - 8));
    }
    return ok;
}

/* Sets of fields by the table, so that the hot paths are operations on words. */
static void field_sets(struct nvmx_vm *vm) {
    nvmx_fields_existing(&vm->caps, &vm->exists);
    nvmx_fields_existing(&vm->machine, &vm->machine_fields);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        bool is_guest_state = ((info->encoding >> 10) & 3) == 2;
        bool is_control = ((info->encoding >> 10) & 3) == 0 && info->group != NVMX_GROUP_EVENT;

        /* The preemption timer may be the library's alone. */
        is_guest_state = is_guest_state && nvmx_set_has(&vm->machine_fields, slot);
        if (is_guest_state && info->merge != NVMX_MERGE_NEVER) {
            nvmx_set_add(&vm->guest_state, slot);
        }
        if (is_guest_state && info->merge == NVMX_MERGE_COPY && nvmx_set_has(&vm->exists, slot)) {
            nvmx_set_add(&vm->copied, slot);
        }
        if (is_control) {
            nvmx_set_add(&vm->controls, slot);
        }
        if (nvmx_set_has(&vm->exists, slot)) {
            vm->whole_field[FIELD_PLACE(info->encoding)] = (uint8_t)(slot + 1);
        }
        vm->field_mask[slot] = nvmx_set_has(&vm->exists, slot) ? nvmx_field_mask(slot) : 0;
    }
}

/* The types of an instruction that a bit of the secondary controls and one of IA32_VMX_EPT_VPID_CAP offer. */
static uint8_t types_offered(const struct nvmx_caps *caps, unsigned int secondary, unsigned int bit, unsigned int type0, uint8_t types) {
    const uint64_t ept_vpid = caps->msr[NVMX_CAP_EPT_VPID];
    const bool has = (nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED2) & secondary) != 0 && ((ept_vpid >> bit) & 1) != 0;

    if (!has) {
        return 0;
    }
    return (uint8_t)(ept_vpid >> type0 & types);
}

/* What operands of VMX instructions may be. */
static void operand_sets(struct nvmx_vm *vm) {
    const struct nvmx_caps *caps = &vm->caps;
    const unsigned int width = (caps->msr[NVMX_CAP_BASIC] >> 48) & 1 ? 32 : caps->physical_address_bits;

    vm->region_reserved = (NVMX_PAGE_SIZE - 1) | (width < 64 ? UINT64_MAX << width : 0);
    vm->invept_types = types_offered(caps, PROC2_EPT, 20, 24, 0x06);
    vm->invvpid_types = types_offered(caps, PROC2_VPID, 32, 40, 0x0f);
}

static void deny(struct nvmx_caps *mask, enum nvmx_cap which, unsigned int bit) {
    mask->msr[which] &= ~(UINT64_C(1) << bit);
}

/* What can't be offered for the way in which this host works, whatever it grants. */
static void host_limits(const struct nvmx_vm *vm, const struct nvmx_vm_config *config, struct nvmx_caps *mask) {
    if (!config->passes_interrupts) {
        deny(mask, NVMX_CAP_PINBASED, 39); /* process posted interrupts */
        /* SDM 29.7.2: in these states no external interrupt makes L2 exit, and the processor would be lost to the host. */
        deny(mask, NVMX_CAP_MISC, 7); /* activity state shutdown */
        deny(mask, NVMX_CAP_MISC, 8); /* activity state wait-for-SIPI */
    }
    if (((config->loads_on_entry >> 19) & 1) == 0) {
        deny(mask, NVMX_CAP_ENTRY, 51); /* load UINV */
        deny(mask, NVMX_CAP_EXIT, 59);  /* clear UINV */
    }
    if (((config->loads_on_entry >> 20) & 1) == 0) {
        deny(mask, NVMX_CAP_ENTRY, 52); /* load CET state */
        deny(mask, NVMX_CAP_EXIT, 60);
    }
    /* What has no place in L1's region would be lost with each VMCS that leaves the cache. */
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        if (vm->layout.offset[slot] == 0) {
            field_deny(slot, mask);
        }
    }
    /* A host that composes ept02 is told EPTP12 and nothing else, and what L2 does to ept12's pages is not seen here.
     */
    if (vm->host.ept02_root != NULL) {
        deny(mask, NVMX_CAP_PROCBASED2, 46); /* VMCS shadowing: L2's memory operands are translated by ept12 */
        deny(mask, NVMX_CAP_PROCBASED2, 49); /* enable PML */
        deny(mask, NVMX_CAP_PROCBASED2, 50); /* EPT-violation #VE */
        deny(mask, NVMX_CAP_PROCBASED2, 54); /* mode-based execute control for EPT */
        deny(mask, NVMX_CAP_PROCBASED2, 55); /* sub-page write permissions for EPT */
    }
}

/* A timer that the host's deadline makes up for, and saving its value. */
static void add_timer(struct nvmx_caps *caps) {
    bool has_true = ((caps->msr[NVMX_CAP_BASIC] >> 55) & 1) != 0;

    caps->msr[NVMX_CAP_PINBASED] |= (uint64_t)PIN_PREEMPTION_TIMER << 32;
    caps->msr[NVMX_CAP_EXIT] |= (uint64_t)EXIT_SAVE_TIMER << 32;
    if (has_true) {
        caps->msr[NVMX_CAP_TRUE_PINBASED] |= (uint64_t)PIN_PREEMPTION_TIMER << 32;
        caps->msr[NVMX_CAP_TRUE_EXIT] |= (uint64_t)EXIT_SAVE_TIMER << 32;
    }
}

/* SDM 5.1.4. Shifts by it rely on this. */
static bool width_valid(const struct nvmx_caps *caps) {
    return caps->physical_address_bits >= 32 && caps->physical_address_bits <= 52;
}

static enum nvmx_status vm_caps(struct nvmx_vm *vm, const struct nvmx_vm_config *config) {
    struct nvmx_caps machine = config->machine;

    vm->timer_by_deadline = vm->host.deadline != NULL &&
                            (nvmx_caps_may_be_1(&machine, NVMX_CAP_PINBASED) & PIN_PREEMPTION_TIMER) == 0;
    if (vm->timer_by_deadline) {
        add_timer(&machine);
    }
    struct nvmx_caps mask = config->mask != NULL ? *config->mask : machine;

    vm->machine = config->machine;
    vm->expose = config->expose;
    if (!config->expose) {
        return NVMX_OK;
    }
    host_limits(vm, config, &mask);
    enum nvmx_status status = nvmx_caps_for_l1(&machine, &mask, &vm->caps);
    vm->caps.msr[NVMX_CAP_BASIC] = (vm->caps.msr[NVMX_CAP_BASIC] & ~UINT64_C(0x7fffffff)) | vm->layout.revision;
    if (status == NVMX_OK && config->exact != NULL) {
        const uint64_t after_power_up = vm->caps.feature_control; /* a state, of which `exact` says nothing */

        status = nvmx_caps_check_subset(config->exact, &vm->caps, NULL);
        vm->caps = *config->exact;
        vm->caps.feature_control = after_power_up;
    }
    if (status == NVMX_OK && !width_valid(&vm->caps)) {
        status = NVMX_E_INVALID;
    }
    if (status != NVMX_OK) {
        return status;
    }
    field_sets(vm);
    operand_sets(vm);
    shadow_fields(vm);
    merge_sets(vm);
    return NVMX_OK;
}

static enum nvmx_status vm_ept(struct nvmx_vm *vm, void *memory, size_t bytes, const struct nvmx_vm_config *config) {
    struct nvmx_ept_config ept = {
        .size = sizeof(ept),
        .page_budget = config->ept_page_budget,
        .l1 = &vm->caps,
        .machine = &vm->machine,
    };
    if (!vm->expose || vm->host.ept02_root != NULL) {
        return NVMX_OK;
    }
    return nvmx_ept_init(memory, bytes, &vm->host, vm->ctx, &ept, &vm->ept);
}

enum nvmx_status nvmx_vm_init(void *memory, size_t bytes, const struct nvmx_host *host,
                              const struct nvmx_vm_config *config, struct nvmx_vm **out) {
    struct nvmx_vm *vm = memory;

    if (memory == NULL || host == NULL || config == NULL || out == NULL || (uintptr_t)memory % ALIGNMENT != 0) {
        return NVMX_E_INVALID;
    }
    if (bytes < nvmx_vm_size() || config->size != sizeof(*config)) {
        return NVMX_E_SIZE;
    }
    memset(vm, 0, sizeof(*vm));
    enum nvmx_status status = copy_host(&vm->host, host);
    if (status != NVMX_OK) {
        return status;
    }
    vm->ctx = config->ctx;
    if (config->layout != NULL) {
        vm->layout = *config->layout;
    } else {
        default_layout(&vm->layout);
        vm->plain_layout = true;
    }
    if (!layout_valid(&vm->layout)) {
        return NVMX_E_INVALID;
    }
    status = vm_caps(vm, config);
    if (status == NVMX_OK) {
        size_t used = align_up(sizeof(*vm));
        status = vm_ept(vm, (char *)memory + used, bytes - used, config);
    }
    if (status == NVMX_OK) {
        *out = vm;
    }
    return status;
}

void nvmx_vm_destroy(struct nvmx_vm *vm) {
    if (vm != NULL && vm->ept != NULL) {
        nvmx_ept_destroy(vm->ept, NULL);
        vm->ept = NULL;
    }
}

/* Outside VMX operation, nothing current or cached. */
static void power_up(struct nvmx_vcpu *vcpu) {
    vcpu->mode = NVMX_MODE_OFF;
    vcpu->stop = NVMX_STOP_NONE;
    vcpu->stop_status = NVMX_OK;
    vcpu->vmxon_pointer = NVMX_NO_ADDRESS;
    vcpu->current = -1;
    vcpu->last_check = NVMX_CHECK_NONE;
    vcpu->host_fault_gpa1 = NVMX_NO_ADDRESS;
    vcpu->entry_pending = false;
    vcpu->launching = false;
    vcpu->window_requested = 0;
    vcpu->timer_forced = false;
    vcpu->timer_runs = false;
    vcpu->bus_lock = false;
    vcpu->step_with_host = false;
    vcpu->pages_changed = false;
    vcpu->vmcs01_changed = false;
    vcpu->restore_pending = false;
}

/* Bits from 12 up to the width, which SDM 5.1.4 has between 32 and 52. */
static uint64_t l1_address_bits(unsigned int width) {
    width = width > 52 ? 52 : width < 32 ? 32 : width;
    return ((UINT64_C(1) << width) - 1) & ~(uint64_t)(NVMX_PAGE_SIZE - 1);
}

/* Of each place in the cache, or of all. False: one is missing. */
static bool shadow_vmcss(struct nvmx_vcpu *vcpu, const struct nvmx_vcpu_config *config) {
    bool apart = config->shadow_hpas != NULL;
    bool all = true;

    vcpu->shadows_apart = apart;
    vcpu->shadow_used = apart || config->shadow_hpa != NVMX_NO_ADDRESS;
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        struct shadow_vmcs *shadow = &vcpu->shadow_vmcs[apart ? i : 0];

        shadow->hpa = !apart ? config->shadow_hpa : i < config->vmcs02_slots ? config->shadow_hpas[i] : NVMX_NO_ADDRESS;
        shadow->name = apart ? NVMX_VMCS_SHADOWS + i : NVMX_VMCS_SHADOW;
        shadow->unknown = true;
        vcpu->vmcs12[i].shadow = shadow;
        all = all && (!apart || i >= config->vmcs02_slots || shadow->hpa != NVMX_NO_ADDRESS);
    }
    return all;
}

/* The struct has grown: what callers were compiled with. */
static bool config_size_known(uint32_t size) {
    return size == sizeof(struct nvmx_vcpu_config) || size == offsetof(struct nvmx_vcpu_config, watches_msrs) ||
           size == offsetof(struct nvmx_vcpu_config, vmwrite_bitmap) || size == offsetof(struct nvmx_vcpu_config, shadow_hpas);
}

enum nvmx_status nvmx_vcpu_init(void *memory, size_t bytes, struct nvmx_vm *vm, const struct nvmx_vcpu_config *given,
                                struct nvmx_vcpu **out) {
    struct nvmx_vcpu *vcpu = memory;
    struct nvmx_vcpu_config all = {0};
    const struct nvmx_vcpu_config *const config = &all;

    if (memory == NULL || vm == NULL || given == NULL || out == NULL || (uintptr_t)memory % ALIGNMENT != 0) {
        return NVMX_E_INVALID;
    }
    if (bytes < nvmx_vcpu_size() || !config_size_known(given->size)) {
        return NVMX_E_SIZE;
    }
    memcpy(&all, given, given->size);
    if (config->regs == NULL || config->id >= 32 || config->vmcs02_slots == 0 ||
        config->vmcs02_slots > NVMX_VMCS02_MAX || config->vpid02_count > 16 ||
        (config->vpid02_first == 0 && config->vpid02_count != 0) ||
        config->vpid02_first + config->vpid02_count > UINT16_MAX + 1) {
        return NVMX_E_INVALID;
    }
    memset(vcpu, 0, sizeof(*vcpu));
    vcpu->vm = vm;
    vcpu->ctx = config->ctx;
    vcpu->regs = config->regs;
    vcpu->id = config->id;
    vcpu->selected = NVMX_VMCS01;
    vcpu->vmcs02_slots = config->vmcs02_slots;
    vcpu->vpid02_first = config->vpid02_first;
    vcpu->vpid02_count = config->vpid02_count;
    vcpu->host_msr_bitmap = config->msr_bitmap;
    vcpu->watched.on = config->watches_msrs;
    vcpu->host_io_bitmap[0] = config->io_bitmap[0];
    vcpu->host_io_bitmap[1] = config->io_bitmap[1];
    vcpu->feature_control = vm->caps.feature_control;
    vcpu->unmapped_page2 = NVMX_NO_ADDRESS;
    vcpu->hosts_msr[0].index = vcpu->hosts_msr[1].index = UINT64_MAX;
    vcpu->traces = vm->host.trace != NULL;
    vcpu->eptp12_valid = NVMX_NO_ADDRESS;
    if (!shadow_vmcss(vcpu, config)) {
        return NVMX_E_INVALID;
    }
    vmcs12_write_ways(vcpu);
    shadow_writes_init(vcpu, config->vmwrite_bitmap);
    vcpu->l1_address_bits = l1_address_bits(vm->caps.physical_address_bits);
    vcpu->l1_reserved_bits = l1_address_bits(52) & ~vcpu->l1_address_bits;
    for (unsigned int i = 0; i < NVMX_VMCS02_MAX; i++) {
        vmcs12_init(&vcpu->vmcs12[i]);
    }
    power_up(vcpu);
    if (vm->ept != NULL) {
        nvmx_ept_invept(vm->ept, vcpu->ctx, true, 0); /* of an earlier vCPU, that L1 has not invalidated: see vcpu_forget */
    }
    *out = vcpu;
    return NVMX_OK;
}

void nvmx_vcpu_destroy(struct nvmx_vcpu *vcpu) {
    if (vcpu != NULL) {
        vmcs12_drop_all(vcpu, false);
        power_up(vcpu);
    }
}

/* SDM 31.4.3.1: a power-up or a reset invalidates all mappings. What L1 had in its memory for L2 need not be there any more. */
void vcpu_forget(struct nvmx_vcpu *vcpu) {
    vmcs12_drop_all(vcpu, false);
    power_up(vcpu);
    vcpu->link_known = false;
    memset(vcpu->vpid12_of, 0, sizeof(vcpu->vpid12_of));
    invept_of(vcpu, true, 0);
    shadow_writes_init(vcpu, vcpu->shadow_writes.bitmap);
    nvmx_vmcs01_changed(vcpu);
}

void nvmx_vcpu_reset(struct nvmx_vcpu *vcpu) {
    vcpu_forget(vcpu);
    if (host_select(vcpu, NVMX_VMCS01) != NVMX_OK || shadow_relink(vcpu) != NVMX_OK) {
        stop(vcpu, NVMX_STOP_HOST, NVMX_E_HOST);
    }
}

/* -- the entry point after an exit
 * ------------------------------------------------------------------------------------------ */

enum nvmx_next stop(struct nvmx_vcpu *vcpu, enum nvmx_stop reason, enum nvmx_status status) {
    vcpu->stop = (uint8_t)reason;
    vcpu->stop_status = status;
    return NVMX_STOP;
}

/* What an exit of L1 is to the library. */
enum l1_exit { L1_EXIT_HOST = 0, L1_EXIT_ACCESS, L1_EXIT_ENTRY, L1_EXIT_MEMORY, L1_EXIT_INSTRUCTION, L1_EXIT_MSR };

static const uint8_t l1_exit_kind[64] = {
    [19] = L1_EXIT_MEMORY,      /* VMCLEAR */
    [20] = L1_EXIT_ENTRY,       /* VMLAUNCH */
    [21] = L1_EXIT_MEMORY,      /* VMPTRLD */
    [22] = L1_EXIT_MEMORY,      /* VMPTRST */
    [23] = L1_EXIT_ACCESS,      /* VMREAD */
    [24] = L1_EXIT_ENTRY,       /* VMRESUME */
    [25] = L1_EXIT_ACCESS,      /* VMWRITE */
    [26] = L1_EXIT_INSTRUCTION, /* VMXOFF */
    [27] = L1_EXIT_INSTRUCTION, /* VMXON */
    [31] = L1_EXIT_MSR,         /* RDMSR */
    [32] = L1_EXIT_MSR,         /* WRMSR */
    [50] = L1_EXIT_MEMORY,      /* INVEPT */
    [53] = L1_EXIT_MEMORY,      /* INVVPID */
    [59] = L1_EXIT_INSTRUCTION, /* VMFUNC */
};

/* The host may change what vmcs01 holds. */
static inline enum nvmx_next to_host(struct nvmx_vcpu *vcpu) {
    vcpu->counts.to_host++;
    vcpu->l1_shadows_known = false;
    return NVMX_HOST;
}

static inline enum nvmx_next counted(struct nvmx_vcpu *vcpu, enum nvmx_next next) {
    return RARE(next == NVMX_HOST) ? to_host(vcpu) : next;
}

static __attribute__((noinline)) enum nvmx_next exit_of_l2(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    vcpu->counts.exits_l2++;
    return counted(vcpu, l2_exit(vcpu, exit_reason));
}

/* Most violations come to nothing but a page more in ept02, unless the last one was L1's. */
static __attribute__((noinline)) enum nvmx_next violation(struct nvmx_vcpu *vcpu) {
    if (vcpu->unmapped_page2 != NVMX_NO_ADDRESS) {
        return exit_of_l2(vcpu, NVMX_EXIT_EPT_VIOLATION);
    }
    if (violation_of_l2(vcpu)) {
        return NVMX_ENTER;
    }
    enum nvmx_next next = exit_of_l2(vcpu, NVMX_EXIT_EPT_VIOLATION);
    vcpu->violation.decided = false;
    return next;
}

static __attribute__((noinline)) enum nvmx_next exit_of_l2_msr(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    const struct msr_access *access = &vcpu->hosts_msr[exit_reason == NVMX_EXIT_WRMSR];

    if (access->index != (uint32_t)vcpu->regs->gpr[NVMX_RCX] || !l2_msr_is_hosts(vcpu, access)) {
        return exit_of_l2(vcpu, exit_reason);
    }
    vcpu->counts.exits_l2++;
    return to_host(vcpu);
}

static __attribute__((noinline)) enum nvmx_next exit_of_msr(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    return counted(vcpu, msr_exit(vcpu, exit_reason));
}

static __attribute__((noinline)) enum nvmx_next exit_of_instruction(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    return counted(vcpu, instruction_exit(vcpu, exit_reason));
}

/* Most exits of L1 have nothing to do with VMX: they pass through here, and nothing else. */
static inline __attribute__((always_inline)) enum nvmx_next exit_of_l1(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    uint8_t kind = l1_exit_kind[exit_reason];
    if (kind == L1_EXIT_HOST) {
        return to_host(vcpu);
    }
    if (kind == L1_EXIT_ENTRY) {
        return instruction_entry(vcpu, exit_reason);
    }
    if (kind == L1_EXIT_ACCESS) {
        return instruction_access(vcpu, exit_reason);
    }
    if (kind == L1_EXIT_MEMORY) {
        return instruction_memory(vcpu, exit_reason);
    }
    return kind == L1_EXIT_MSR ? exit_of_msr(vcpu, exit_reason) : exit_of_instruction(vcpu, exit_reason);
}

/* SDM 27.9.1: bits beside the basic reason (26: a bus lock came before) make no other exit of it. An entry of vmcs01 that failed is the host's. */
static COLD enum nvmx_next exit_of_l1_beside(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    const uint32_t basic = exit_reason & 0xffff;
    const bool failed = (exit_reason & NVMX_EXIT_ENTRY_FAILURE) != 0;

    return failed || basic >= sizeof(l1_exit_kind) ? to_host(vcpu) : exit_of_l1(vcpu, basic);
}

static inline enum nvmx_next exit_untraced(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    if (vcpu->mode == NVMX_MODE_L2) {
        if (exit_reason == NVMX_EXIT_RDMSR || exit_reason == NVMX_EXIT_WRMSR) {
            return exit_of_l2_msr(vcpu, exit_reason);
        }
        return exit_reason == NVMX_EXIT_EPT_VIOLATION ? violation(vcpu) : exit_of_l2(vcpu, exit_reason);
    }
    vcpu->counts.exits_l1++;
    return RARE(exit_reason >= sizeof(l1_exit_kind)) ? exit_of_l1_beside(vcpu, exit_reason) : exit_of_l1(vcpu, exit_reason);
}

static COLD enum nvmx_next exit_traced(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    uint32_t records = vcpu->traced.number;
    bool from_l2 = vcpu->mode == NVMX_MODE_L2;
    enum nvmx_next next = exit_untraced(vcpu, exit_reason);

    if (records == vcpu->traced.number) {
        trace_exit(vcpu, from_l2, exit_reason, next);
    }
    return next;
}

static COLD enum nvmx_next exit_with_care(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    if (vcpu->stop != NVMX_STOP_NONE) {
        return NVMX_STOP;
    }
    return vcpu->traces ? exit_traced(vcpu, exit_reason) : exit_untraced(vcpu, exit_reason);
}

enum nvmx_next nvmx_exit(struct nvmx_vcpu *vcpu, uint32_t exit_reason) {
    return RARE(vcpu->care != 0) ? exit_with_care(vcpu, exit_reason) : exit_untraced(vcpu, exit_reason);
}

/* -- questions
 * --------------------------------------------------------------------------------------------------------------- */

enum nvmx_mode nvmx_mode(const struct nvmx_vcpu *vcpu) {
    return vcpu->mode;
}

uint32_t nvmx_selected(const struct nvmx_vcpu *vcpu) {
    return vcpu->selected;
}

enum nvmx_stop nvmx_stop_reason(const struct nvmx_vcpu *vcpu) {
    return (enum nvmx_stop)vcpu->stop;
}

enum nvmx_status nvmx_stop_status(const struct nvmx_vcpu *vcpu) {
    return vcpu->stop_status;
}

uint64_t nvmx_host_fault_gpa1(const struct nvmx_vcpu *vcpu) {
    return vcpu->host_fault_gpa1;
}

const struct nvmx_caps *nvmx_l1_caps(const struct nvmx_vm *vm) {
    return &vm->caps;
}

uint16_t nvmx_last_check(const struct nvmx_vcpu *vcpu) {
    return vcpu->last_check;
}

const struct nvmx_counts *nvmx_counts(const struct nvmx_vcpu *vcpu) {
    return &vcpu->counts;
}

/* -- changes by the host
 * ----------------------------------------------------------------------------------------------------- */

void nvmx_vmcs01_changed(struct nvmx_vcpu *vcpu) {
    struct vmcs12 *v = vcpu->mode == NVMX_MODE_L2 ? vmcs12_current(vcpu) : NULL; /* else a VM entry comes first, which reads them */

    vcpu->host_controls_known = false;
    if (v != NULL) {
        v->l1_state_ready = false;
    }
    vcpu->l1_shadows_known = false;
    vcpu->l1_left.valid = false;
    vcpu->link_known = false;
    vcpu->vmcs01_changed = vcpu->mode == NVMX_MODE_L2 && !vcpu->restore_pending;
    watched_forget(vcpu);
}

void nvmx_msrs_changed(struct nvmx_vcpu *vcpu) {
    watched_forget(vcpu);
}
