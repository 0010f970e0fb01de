/* SPDX-License-Identifier: MIT */
/*
 * VMCS regions of L1 and the cache of recently used ones.
 *
 * A cached vmcs12 is an array of values, one per field; the region in L1's memory is read when VMPTRLD brings it into
 * the cache and written when it leaves (VMCLEAR, eviction, VMXOFF). In between L1's memory is not looked at:
 * SDM 27.11.1 leaves the contents of an active VMCS's region undefined. Each cached vmcs12 has its own vmcs02.
 *
 * A slot that is free keeps its vmcs02 and what is known of it. The next vmcs12 that gets it, mostly the same one, is
 * what was there before with some fields written by L1: those in which its region differs.
 */
#include "vcpu.h"

#include <string.h>

#define SHADOW_INDICATOR 0x80000000u

void vmcs12_init(struct vmcs12 *v) {
    memset(v, 0, offsetof(struct vmcs12, sync));
    v->gpa1 = NVMX_NO_ADDRESS;
    v->was_gpa1 = NVMX_NO_ADDRESS;
    for (unsigned int i = 0; i < PIN_COUNT; i++) {
        v->pin[i].gpa1 = NVMX_NO_ADDRESS;
    }
    v->shadow_behind = UINT64_MAX;
}

uint32_t vmcs02_of(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return NVMX_VMCS02_FIRST + (uint32_t)(v - vcpu->vmcs12);
}

/* -- the region in L1's memory
 * ----------------------------------------------------------------------------------------------- */

static uint32_t field_bytes(unsigned int slot) {
    static const uint8_t bytes[4] = {
        [NVMX_WIDTH_16] = 2,
        [NVMX_WIDTH_64] = 8,
        [NVMX_WIDTH_32] = 4,
        [NVMX_WIDTH_NATURAL] = 8,
    };
    return bytes[(nvmx_field_info(slot)->encoding >> 13) & 3];
}

/* Fields that L1 does not have hold 0, whatever its memory says. */
static void values_from_region(const struct nvmx_vm *vm, const uint8_t *region, uint64_t *value) {
    if (vm->plain_layout) {
        memcpy(value, region + VMCS_REGION_FIELDS, sizeof(uint64_t) * NVMX_FIELD_COUNT);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            value[slot] &= vm->field_mask[slot];
        }
        return;
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint16_t offset = vm->layout.offset[slot];

        value[slot] = 0;
        if (offset != 0 && nvmx_set_has(&vm->exists, slot)) {
            memcpy(&value[slot], region + offset, field_bytes(slot));
        }
    }
}

static void region_from_values(const struct nvmx_vm *vm, uint8_t *region, const struct vmcs12 *v) {
    uint32_t launched = v->launched ? 1 : 0;

    memcpy(region + vm->layout.launch_state, &launched, sizeof(launched));
    if (vm->plain_layout) {
        memcpy(region + VMCS_REGION_FIELDS, v->value, sizeof(v->value));
        return;
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint16_t offset = vm->layout.offset[slot];

        if (offset != 0 && nvmx_set_has(&vm->exists, slot)) {
            memcpy(region + offset, &v->value[slot], field_bytes(slot));
        }
    }
}

/* Data of a region without memory behind it is lost, as on a bus without a device. */
static void store_region(struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    uint8_t *region = host_map(vcpu, v->gpa1, NVMX_ACCESS_WRITE, NULL);

    if (region != NULL) {
        region_from_values(vcpu->vm, region, v);
        host_unmap(vcpu, v->gpa1, region, true);
    }
}

static void store_dword(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t offset, uint32_t value) {
    uint8_t *region = host_map(vcpu, gpa1, NVMX_ACCESS_WRITE, NULL);

    if (region != NULL) {
        memcpy(region + offset, &value, sizeof(value));
        host_unmap(vcpu, gpa1, region, true);
    }
}

void vmcs12_abort(struct nvmx_vcpu *vcpu, uint32_t indicator) {
    if (vcpu->current >= 0) {
        store_dword(vcpu, vmcs12_pointer(vcpu), VMCS_REGION_ABORT, indicator);
    }
}

/* -- a field is written
 * ---------------------------------------------------------------------------------------------------------- */

/* A change of these bits of the primary controls alone breaks no rule of SDM 29.2 that held before, if L1 may set and clear them at all: the
 * exiting of HLT, INVLPG, MWAIT, RDPMC, MOV DR, MONITOR and PAUSE, and what has a name. KVM and Xen change that of MOV DR whenever they give their guest
 * the debug registers. */
#define FREE_PRIMARY_BITS                                                                                              \
    ((1u << 7) | (1u << 9) | (1u << 10) | (1u << 11) | (1u << 23) | (1u << 29) | (1u << 30) | PROC_INTERRUPT_WINDOW |  \
     PROC_TSC_OFFSETTING | PROC_CR3_LOAD | PROC_CR3_STORE | PROC_CR8_LOAD | PROC_CR8_STORE | PROC_UNCONDITIONAL_IO |   \
     PROC_MONITOR_TRAP)

/* What a VMWRITE of a field touches beside its value and its group of checks. */
enum {
    TOUCHES_L1_STATE =
        1u << 6, /* the host-state area but for RIP and RSP, which each exit takes anew, and the VM-exit controls */
    TOUCHES_MORE = 1u << 7,                /* decided by its value: touch_more */
    TOUCHES_NO_ENTRY = 1u << 8,            /* nothing that an entry looks at but the checks */
    TOUCHES_CHECKS = TOUCHES_L1_STATE - 1, /* the groups */
};
#define IS_HOST_STATE(encoding) ((((encoding) >> 10) & 3) == 3)
#define IS_EXIT_INFORMATION(encoding) ((((encoding) >> 10) & 3) == 1)
#define IN_L1_STATE(encoding)                                                                                          \
    ((IS_HOST_STATE(encoding) && (encoding) != NVMX_VMCS_HOST_RIP && (encoding) != NVMX_VMCS_HOST_RSP) ||              \
     (encoding) == NVMX_VMCS_VM_EXIT_CONTROLS || (encoding) == NVMX_VMCS_SECONDARY_VM_EXIT_CONTROLS)
/* In these groups are checks that look at all of guest state: exits/enter.c. */
#define IN_FAR_GROUP(group)                                                                                            \
    ((group) == NVMX_GROUP_CONTROL || (group) == NVMX_GROUP_REGISTER || (group) == NVMX_GROUP_SEGMENT)
#define BY_VALUE(encoding, group)                                                                                      \
    (IN_FAR_GROUP(group) || (encoding) == NVMX_VMCS_GUEST_RFLAGS || (encoding) == NVMX_VMCS_GUEST_RIP)

static const uint16_t touches[NVMX_FIELD_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow)                                                      \
    ((1u << NVMX_GROUP_##group) & TOUCHES_CHECKS) | (IN_L1_STATE(encoding) ? TOUCHES_L1_STATE : 0) |                   \
        (IS_HOST_STATE(encoding) || IS_EXIT_INFORMATION(encoding) ? TOUCHES_NO_ENTRY : 0) |                             \
        (BY_VALUE(encoding, NVMX_GROUP_##group) ? TOUCHES_MORE : 0),
#include <nvmx/vmcs_fields.def>
#undef FIELD
};
_Static_assert(NVMX_GROUP_UNCHECKED == 6, "groups with checks come first and fit, all of them into a byte");

/* Primary controls that may be 0 as well as 1. */
static uint32_t primary_choices(const struct nvmx_caps *caps) {
    return nvmx_caps_may_be_1(caps, NVMX_CAP_PROCBASED) & ~nvmx_caps_must_be_1(caps, NVMX_CAP_PROCBASED);
}

/* Exit information may be read-only; what L1 reads from the shadow VMCS must be written there too. */
void vmcs12_write_ways(struct nvmx_vcpu *vcpu) {
    struct write_ways *ways = &vcpu->write_ways;
    const struct nvmx_caps *caps = &vcpu->vm->caps;

    ways->free_primary = FREE_PRIMARY_BITS & primary_choices(caps);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        bool shown = vcpu->shadow_used && nvmx_set_has(&vcpu->vm->shadowed.fields, slot);

        ways->by_rule[slot] =
            shown || nvmx_encoding_read_only(field_encoding[slot]) || (touches[slot] & TOUCHES_MORE) != 0;
        ways->keeps_l1_state[slot] = (touches[slot] & TOUCHES_L1_STATE) == 0;
        ways->keeps_checks[slot] = (uint8_t)~(touches[slot] & TOUCHES_CHECKS);
        ways->counts_for_entry[slot] = (touches[slot] & TOUCHES_NO_ENTRY) == 0;
    }
}

/* Fields where it depends on what changes. */
static uint32_t touch_more(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, unsigned int slot, uint64_t value) {
    uint64_t changed = v->value[slot] ^ value;
    uint32_t own = touches[slot] & TOUCHES_CHECKS;

    if (slot == NVMX_F_GUEST_RIP) { /* by far the commonest */
        return vmcs12_rip_is_checked(v, value) ? own : 0;
    }
    switch (slot) {
    case NVMX_F_PRIMARY_CONTROLS:
        return (changed & ~(uint64_t)vcpu->write_ways.free_primary) != 0 ? own : 0;
    case NVMX_F_GUEST_RFLAGS: /* virtual-8086 mode changes the rules for every segment */
        return own | ((changed & RFLAGS_VM) != 0 ? 1u << NVMX_GROUP_SEGMENT : 0);
    case NVMX_F_EPT_POINTER: /* no rule compares it with another field (SDM 29.2.1.1) */
        return nvmx_eptp_valid(&vcpu->vm->caps, value) ? 0 : own;
    case NVMX_F_VPID: /* one that is not 0 breaks no rule */
        return value != 0 ? 0 : own;
    case NVMX_F_TPR_THRESHOLD: /* what compares it with VTPR is checked at each entry */
        return value > 15 ? own : 0;
    case NVMX_F_GUEST_CR3: /* all that no rule looks at (SDM 29.3.1.1); PDPTEs are read at each entry that has them */
        return (value & ~(vcpu->l1_address_bits | (NVMX_PAGE_SIZE - 1))) != 0 ? own : 0;
    case NVMX_F_GUEST_PERF_GLOBAL_CTRL:
        return (value & ~vcpu->vm->caps.perf_global_ctrl_valid) != 0 ? own : 0;
    default:
        return own;
    }
}

static inline void write_value(const struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    uint32_t touched = touches[slot];

    value &= vcpu->vm->field_mask[slot];
    if (RARE((touched & (TOUCHES_L1_STATE | TOUCHES_MORE | TOUCHES_NO_ENTRY)) != 0)) {
        if (slot != NVMX_F_GUEST_RIP && v->value[slot] == value && !nvmx_set_has(&v->stale, slot)) {
            return; /* an L1 that is a hypervisor's host in its turn writes many fields at each entry that hold it already */
        }
        if ((touched & TOUCHES_L1_STATE) != 0) {
            v->l1_state_ready = false;
        }
        if ((touched & TOUCHES_MORE) != 0) {
            touched = touch_more(vcpu, v, slot, value);
        }
    }
    v->checked &= ~(touched & TOUCHES_CHECKS);
    v->value[slot] = value;
    nvmx_set_remove(&v->stale, slot);
    if ((touched & TOUCHES_NO_ENTRY) == 0) {
        nvmx_set_add(&v->dirty, slot);
    }
}

static void write_if_new(const struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    if ((value & vcpu->vm->field_mask[slot]) != v->value[slot]) {
        write_value(vcpu, v, slot, value);
    }
}

/* -- the cache
 * ------------------------------------------------------------------------------------------------------------------ */

static int find(const struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    if (vmcs12_pointer(vcpu) == gpa1) {
        return vcpu->current;
    }
    for (int i = 0; i < vcpu->vmcs02_slots; i++) {
        if (vcpu->vmcs12[i].gpa1 == gpa1) {
            return i;
        }
    }
    return -1;
}

/* How well a place serves for gpa1. */
enum { PLACE_CURRENT, PLACE_IN_USE, PLACE_OF_OTHER, PLACE_EMPTY, PLACE_OF_SAME };

static int fitness(const struct nvmx_vcpu *vcpu, int index, uint64_t gpa1) {
    const struct vmcs12 *v = &vcpu->vmcs12[index];

    if (v->gpa1 != NVMX_NO_ADDRESS) {
        return index == vcpu->current ? PLACE_CURRENT : PLACE_IN_USE;
    }
    return v->was_gpa1 == gpa1 ? PLACE_OF_SAME : v->was_gpa1 == NVMX_NO_ADDRESS ? PLACE_EMPTY : PLACE_OF_OTHER;
}

/* What was put down last comes back more often than anything else, to its own place. It is in no other one. */
static inline bool comes_back(const struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    return vcpu->vmcs12[vcpu->put_down].was_gpa1 == gpa1;
}

/* The place that fits best; of those alike the least recently used. */
static int place_for(const struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    int best = 0;

    if (comes_back(vcpu, gpa1)) {
        return vcpu->put_down;
    }
    int most = fitness(vcpu, 0, gpa1);
    for (int i = 1; i < vcpu->vmcs02_slots; i++) {
        int fits = fitness(vcpu, i, gpa1);

        if (fits > most || (fits == most && vcpu->vmcs12[i].last_use < vcpu->vmcs12[best].last_use)) {
            best = i;
            most = fits;
        }
    }
    return best;
}

static void forget(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    merge_release(vcpu, v);
    vmcs12_init(v);
    v->shadow->ahead = false;
}

/* A complete vmcs12 goes into L1's memory, and its place is free. No page of L1 stays mapped for it. */
static void put_down(struct nvmx_vcpu *vcpu, int index) {
    struct vmcs12 *v = &vcpu->vmcs12[index];

    store_region(vcpu, v);
    merge_release_pins(vcpu, v);
    v->shadow->ahead = false;
    v->was_gpa1 = v->gpa1;
    v->gpa1 = NVMX_NO_ADDRESS;
    vcpu->put_down = index;
    if (vcpu->current == index) {
        vcpu->current = -1;
    }
}

static __attribute__((noinline)) enum nvmx_status evict_other(struct nvmx_vcpu *vcpu, int index) {
    struct vmcs12 *v = &vcpu->vmcs12[index];
    enum nvmx_status status = sync_away(vcpu, v);
    if (status == NVMX_OK && vcpu->shadows_apart) {
        status = shadow_pull_away(vcpu, v);
    }
    if (status == NVMX_OK) {
        put_down(vcpu, index);
    }
    return status;
}

static inline enum nvmx_status evict(struct nvmx_vcpu *vcpu, int index) {
    return vcpu->vmcs12[index].gpa1 == NVMX_NO_ADDRESS ? NVMX_OK : evict_other(vcpu, index);
}

/* Few fields differ, and mostly near each other: a quarter is compared as a whole before its fields are. */
#define FIELDS_AT_ONCE ((NVMX_FIELD_COUNT + 3u) / 4u)

static void refill_some(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const uint64_t *now, unsigned int first, unsigned int end) {
    unsigned int slot = first;

    while (slot < end) {
        if (slot + 4 <= end && now[slot] == v->value[slot] && now[slot + 1] == v->value[slot + 1] &&
            now[slot + 2] == v->value[slot + 2] && now[slot + 3] == v->value[slot + 3]) {
            slot += 4;
        } else {
            write_if_new(vcpu, v, slot, now[slot]);
            slot++;
        }
    }
}

/* As if L1 had written the fields in which the region differs from what had the slot before. Each byte of it is read once: what differs is what
 * is taken. */
static void refill(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1, const uint8_t *region) {
    uint64_t *now = vcpu->scratch.value;

    if (gpa1 != v->was_gpa1 && v->value[NVMX_F_VMCS_LINK_POINTER] != NVMX_NO_ADDRESS) {
        v->checked &= ~(1u << NVMX_GROUP_NONREGISTER); /* the link pointer is compared with gpa1 (SDM 29.3.1.5) */
    }
    if (vcpu->vm->plain_layout) {
        memcpy(now, region + VMCS_REGION_FIELDS, sizeof(v->value));
    } else {
        values_from_region(vcpu->vm, region, now);
    }
    if (memcmp(now, v->value, sizeof(v->value)) == 0) {
        return;
    }
    v->shadow_behind = UINT64_MAX;
    for (unsigned int first = 0; first < NVMX_FIELD_COUNT; first += FIELDS_AT_ONCE) {
        unsigned int count = NVMX_FIELD_COUNT - first < FIELDS_AT_ONCE ? NVMX_FIELD_COUNT - first : FIELDS_AT_ONCE;

        if (memcmp(&now[first], &v->value[first], count * sizeof(now[0])) != 0) {
            refill_some(vcpu, v, now, first, first + count);
        }
    }
}

static void fill(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1, const uint8_t *region) {
    const struct nvmx_vm *vm = vcpu->vm;
    uint32_t launch_state;

    if (v->was_gpa1 != NVMX_NO_ADDRESS) {
        refill(vcpu, v, gpa1, region);
    } else {
        vmcs12_init(v);
        values_from_region(vm, region, v->value);
        v->dirty = vm->exists;
    }
    v->gpa1 = gpa1;
    v->was_gpa1 = NVMX_NO_ADDRESS;
    memcpy(&launch_state, region + vm->layout.launch_state, sizeof(launch_state));
    v->launched = launch_state != 0;
}

/* L1's VMREAD and VMWRITE are of this one from now on, also where hardware carries them out. */
static enum nvmx_status make_visible(struct nvmx_vcpu *vcpu, int index) {
    vcpu->current = index;
    const struct shadow_vmcs *shadow = index >= 0 ? vcpu->vmcs12[index].shadow : NULL;
    /* It will be written as a whole. */
    bool overwrites = vcpu->shadows_apart && shadow != NULL && shadow->ahead && shadow->unknown;
    enum nvmx_status status = overwrites ? shadow_pull(vcpu) : NVMX_OK;
    if (status == NVMX_OK) {
        status = shadow_push(vcpu);
    }
    if (status == NVMX_OK) {
        status = shadow_relink(vcpu);
    }
    if (status == NVMX_OK && index >= 0) {
        vcpu->vmcs12[index].shadow->ahead = true;
    }
    return status;
}

static bool shadowing_offered(const struct nvmx_vm *vm) {
    return (nvmx_caps_may_be_1(&vm->caps, NVMX_CAP_PROCBASED2) & PROC2_VMCS_SHADOWING) != 0;
}

/* What made way for a vmcs12 that can't be shown to L1 comes back from L1's memory, and is current as it was. */
static enum vmcs12_result bring_back(struct nvmx_vcpu *vcpu, int index, uint64_t gpa1, bool is_shadow) {
    uint8_t *region = host_map(vcpu, gpa1, NVMX_ACCESS_READ, NULL);

    if (region == NULL) {
        return VMCS12_LOST;
    }
    fill(vcpu, &vcpu->vmcs12[index], gpa1, region);
    vcpu->vmcs12[index].is_shadow = is_shadow;
    host_unmap(vcpu, gpa1, region, false);
    return make_visible(vcpu, index) == NVMX_OK ? VMCS12_FAILED : VMCS12_LOST;
}

/* What was read of L1's memory for a VMPTRLD that is refused was never active: it is not written back, and read again where it counts. */
static COLD void take_back(struct nvmx_vcpu *vcpu, int index) {
    struct vmcs12 *v = &vcpu->vmcs12[index];

    v->was_gpa1 = v->gpa1;
    v->gpa1 = NVMX_NO_ADDRESS;
}

static __attribute__((noinline)) enum vmcs12_result make_other_current(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint8_t *region, bool is_shadow);

/* The revision identifier and what follows are read through one mapping, each byte once. */
enum vmcs12_result vmcs12_make_current(struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    uint8_t *region = host_map(vcpu, gpa1, NVMX_ACCESS_READ, NULL);
    uint32_t revision;

    if (region == NULL) {
        return VMCS12_BAD_REVISION;
    }
    memcpy(&revision, region, sizeof(revision));
    bool is_shadow = (revision & SHADOW_INDICATOR) != 0;
    if ((revision & ~SHADOW_INDICATOR) != vcpu->vm->layout.revision || (is_shadow && !shadowing_offered(vcpu->vm))) {
        host_unmap(vcpu, gpa1, region, false);
        return VMCS12_BAD_REVISION;
    }
    if (vmcs12_pointer(vcpu) == gpa1 && vmcs12_current(vcpu)->is_shadow == is_shadow) {
        host_unmap(vcpu, gpa1, region, false);
        vmcs12_current(vcpu)->last_use = ++vcpu->use_clock;
        return VMCS12_OK;
    }
    return make_other_current(vcpu, gpa1, region, is_shadow);
}

/* The region is mapped, and has been looked at as far as its fields. */
static __attribute__((noinline)) enum vmcs12_result make_other_current(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint8_t *region, bool is_shadow) {
    const uint64_t before_gpa1 = vmcs12_pointer(vcpu);
    const bool before_is_shadow = vcpu->current >= 0 && vmcs12_current(vcpu)->is_shadow;
    int before = vcpu->current;
    enum nvmx_status status = vcpu->shadows_apart ? NVMX_OK : shadow_pull(vcpu);
    int index = comes_back(vcpu, gpa1) ? -1 : find(vcpu, gpa1);
    const bool was_active = index >= 0;
    if (status == NVMX_OK && !was_active) {
        index = place_for(vcpu, gpa1);
        status = evict(vcpu, index);
        if (status == NVMX_OK) {
            fill(vcpu, &vcpu->vmcs12[index], gpa1, region);
        }
    }
    host_unmap(vcpu, gpa1, region, false);
    if (status != NVMX_OK) {
        return VMCS12_FAILED; /* completing the instruction selects vmcs01 again */
    }
    vcpu->vmcs12[index].is_shadow = is_shadow;
    if (make_visible(vcpu, index) == NVMX_OK) {
        vcpu->vmcs12[index].last_use = ++vcpu->use_clock;
        return VMCS12_OK;
    }
    if (!was_active) {
        take_back(vcpu, index);
    }
    if (before == index && before_gpa1 != gpa1) {
        return bring_back(vcpu, index, before_gpa1, before_is_shadow);
    }
    return make_visible(vcpu, before) == NVMX_OK ? VMCS12_FAILED : VMCS12_LOST;
}

enum nvmx_status vmcs12_clear(struct nvmx_vcpu *vcpu, uint64_t gpa1) {
    int index = find(vcpu, gpa1);
    enum nvmx_status status;

    if (index < 0) {
        store_dword(vcpu, gpa1, vcpu->vm->layout.launch_state, 0);
        return NVMX_OK;
    }
    bool was_current = index == vcpu->current;
    status = sync_away(vcpu, &vcpu->vmcs12[index]);
    if (status == NVMX_OK) {
        status = shadow_pull_away(vcpu, &vcpu->vmcs12[index]);
    }
    if (status == NVMX_OK && was_current) {
        vcpu->current = -1;
        status = shadow_relink(vcpu);
        vcpu->current = status == NVMX_OK ? -1 : index;
    }
    if (status != NVMX_OK) {
        return status;
    }
    vcpu->vmcs12[index].launched = false;
    put_down(vcpu, index);
    return NVMX_OK;
}

void vmcs12_drop_all(struct nvmx_vcpu *vcpu, bool write_back) {
    bool pulled = write_back;

    if (write_back && vcpu->current >= 0 && !vcpu->shadows_apart) {
        /* What L1 wrote to the shadow VMCS is lost if the host fails here; L1 did not VMCLEAR before VMXOFF. */
        pulled = shadow_pull(vcpu) == NVMX_OK;
    }
    for (int i = 0; i < vcpu->vmcs02_slots; i++) {
        struct vmcs12 *v = &vcpu->vmcs12[i];

        if ((v->gpa1 & v->was_gpa1) == NVMX_NO_ADDRESS) { /* both: all ones */
            continue;
        }
        if (write_back && v->gpa1 != NVMX_NO_ADDRESS) {
            pulled = shadow_pull_ahead(vcpu, v) == NVMX_OK && pulled;
            if (sync_all(vcpu, v) == NVMX_OK) {
                store_region(vcpu, v);
            }
        }
        forget(vcpu, v);
    }
    for (int i = 0; !pulled && i < vcpu->vmcs02_slots; i++) {
        vcpu->vmcs12[i].shadow->unknown = true; /* they hold what L1 wrote and nobody took */
    }
    vcpu->current = -1;
}

/* -- VMREAD, VMWRITE
 * ------------------------------------------------------------------------------------------------------------ */

static enum nvmx_status read_value(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t *value) {
    if (nvmx_set_has(&v->stale, slot)) {
        nvmx_set_add(&v->learned, slot);
        v->sync_ready = false;
        enum nvmx_status status = sync_all(vcpu, v);
        if (status != NVMX_OK) {
            return status;
        }
    }
    *value = v->value[slot];
    return NVMX_OK;
}

enum nvmx_status vmcs12_read(struct nvmx_vcpu *vcpu, unsigned int slot, uint64_t *value) {
    return read_value(vcpu, vmcs12_current(vcpu), slot, value);
}

void vmcs12_write(struct nvmx_vcpu *vcpu, unsigned int slot, uint64_t value) {
    write_value(vcpu, vmcs12_current(vcpu), slot, value);
}

void vmcs12_write_to(struct nvmx_vcpu *vcpu, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    write_value(vcpu, v, slot, value);
}

/* -- a shadow VMCS of L1, accessed by L2
 * ----------------------------------------------------------------------------------------- */

/* L1 may have left it in the cache (VMPTRLD without VMCLEAR); else the region is the truth. Without memory there: all
 * ones. */
enum nvmx_status vmcs12_shadow_read(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int slot, uint64_t *value) {
    uint16_t offset = vcpu->vm->layout.offset[slot];
    int index = find(vcpu, gpa1);

    if (index >= 0) {
        enum nvmx_status status = shadow_pull_ahead(vcpu, &vcpu->vmcs12[index]);
        return status == NVMX_OK ? read_value(vcpu, &vcpu->vmcs12[index], slot, value) : status;
    }
    *value = 0;
    if (offset != 0 && l1_physical_read(vcpu, gpa1 + offset, value, field_bytes(slot)) != NVMX_OK) {
        *value = nvmx_field_mask(slot);
    }
    return NVMX_OK;
}

enum nvmx_status vmcs12_shadow_write(struct nvmx_vcpu *vcpu, uint64_t gpa1, unsigned int slot, uint64_t value) {
    uint16_t offset = vcpu->vm->layout.offset[slot];
    int index = find(vcpu, gpa1);

    if (index >= 0) {
        struct vmcs12 *v = &vcpu->vmcs12[index];
        enum nvmx_status status = shadow_pull_ahead(vcpu, v);

        if (status == NVMX_OK) {
            write_value(vcpu, v, slot, value);
            v->shadow_behind = UINT64_MAX;
        }
        return status;
    }
    if (offset != 0) {
        value &= nvmx_field_mask(slot);
        (void)l1_physical_write(vcpu, gpa1 + offset, &value, field_bytes(slot));
    }
    return NVMX_OK;
}
