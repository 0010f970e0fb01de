/* SPDX-License-Identifier: MIT */
/* One VM on three simulated hosts: its memory, ept01, and a TLB for each processor. */
#include "vcpus.h"

#include <stdlib.h>
#include <string.h>

#include "sim_internal.h"
#include "vcpu.h"

#define ADDRESS UINT64_C(0x000ffffffffff000)
#define WB      (UINT64_C(6) << 3)
#define TPR_SHADOW (1u << 21)

struct world world;

/* -- callbacks: those about memory are the VM's, those about a processor its own simulated host's ------------- */

static struct nvmx_host callbacks; /* as the simulated host has them */

static bool moves(uint64_t gpa1) {
    return gpa1 >= TARGET_GPA1 && gpa1 - TARGET_GPA1 < TARGETS * NVMX_PAGE_SIZE;
}

void give(uint64_t target) {
    uint64_t frame = 0;
    if (world.ept01[target] == 0) {
        while (world.owner[frame] != NOBODY)
            frame++;
        world.owner[frame] = target;
        world.ept01[target] = frame << 12;
    }
    world.ept01[target] |= 7;
}

/* A page that moves is brought back for the library, which gets what its bytes are by the simulated host. */
static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    (void)sim_of_vcpu(ctx);
    void *page = callbacks.map_page(&world.sim->vcpu_context, gpa1, access, hpa);
    if (page != NULL && moves(gpa1)) {
        uint64_t target = (gpa1 - TARGET_GPA1) / NVMX_PAGE_SIZE;
        give(target);
        *hpa = FRAME_HPA + (world.ept01[target] & ADDRESS);
    }
    return page;
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)sim_of_vcpu(ctx);
    callbacks.unmap_page(&world.sim->vcpu_context, gpa1, page, dirtied);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    if (!moves(gpa1))
        return callbacks.ept01_lookup(ctx, gpa1, out);
    if (sim_fails(world.sim, SIM_EPT01_LOOKUP))
        return NVMX_E_HOST;
    uint64_t entry = world.ept01[(gpa1 - TARGET_GPA1) / NVMX_PAGE_SIZE];
    *out = (struct nvmx_ept01_mapping){.hpa = FRAME_HPA + (entry & ADDRESS),
                                       .gpa1 = gpa1 & ADDRESS,
                                       .size_shift = 12,
                                       .access = entry & 7,
                                       .memory_type = 6};
    return entry != 0 ? NVMX_OK : NVMX_E_UNMAPPED;
}

static bool dropped(const struct translation *t, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    switch (kind) {
    case NVMX_FLUSH_EPT:
    case NVMX_FLUSH_EPT_HERE:
        return (t->eptp02 & ADDRESS) == (value & ADDRESS);
    case NVMX_FLUSH_VPID:
    case NVMX_FLUSH_VPID_BUT_GLOBALS:
        return t->vpid02 == value;
    case NVMX_FLUSH_VPID_ADDRESS:
        return t->vpid02 == value && t->page == linear / NVMX_PAGE_SIZE;
    default:
        return true;
    }
}

/* At once, where a host may wait until the processor's next entry. The flushes of the VM bring every processor out of
 * its guest. */
static void tlb_flush(void *ctx, enum nvmx_flush kind, uint64_t value, uint64_t linear) {
    const struct sim *sim = sim_of_vcpu(ctx);
    bool everywhere = kind == NVMX_FLUSH_EPT || kind == NVMX_FLUSH_EPT_ALL;
    bool of_vpid = kind == NVMX_FLUSH_VPID || kind == NVMX_FLUSH_VPID_ADDRESS || kind == NVMX_FLUSH_VPID_BUT_GLOBALS;
    FUZZ_HOLD(!of_vpid || (value >= 1 && value < 6), "a flush of VPID %llu, which is neither L1's nor L2's", U(value));
    for (unsigned int i = 0; i < CPUS; i++) {
        struct cpu *c = &world.cpu[i];
        if (!everywhere && c->sim != sim)
            continue;
        for (unsigned int k = 0; k < TLB; k++)
            if (dropped(&c->tlb[k], kind, value, linear))
                c->tlb[k].valid = false;
        c->in_guest = c->in_guest && !everywhere;
    }
    fuzz_log("  flush of kind %d, %#llx", (int)kind, U(value));
}

/* -- ept12 and ept02 ------------------------------------------------------------------------------------------ */

/* Accessed and dirty flags are the processor's. */
void set_leaf(unsigned int tree, uint64_t page, uint64_t value) {
    struct leaf *leaf = &world.leaf[tree][page];
    memmove(&leaf->was[0], &leaf->was[1], sizeof(leaf->was) - sizeof(leaf->was[0]));
    leaf->was[CHANGES - 1].value = value;
    leaf->was[CHANGES - 1].time = world.now;
    leaf->flags_lost = false;
    sim_write64(world.sim, TREE(tree) + 0x3000 + page * 8, value);
}

uint64_t leaf_now(unsigned int tree, uint64_t page) {
    return world.leaf[tree][page].was[CHANGES - 1].value;
}

bool walk_ept02(const struct cpu *c, uint64_t page, uint64_t *hpa, uint64_t *rights) {
    uint64_t table = sim_get(c->sim, nvmx_selected(c->sim->vcpu), NVMX_F_EPT_POINTER) & ADDRESS;
    *rights = 7;
    for (unsigned int shift = 27;; shift -= 9) {
        const uint64_t *entries = sim_page(world.sim, table);
        FUZZ_HOLD(entries != NULL, "ept02 leads to %#llx, which is no page of the library's", U(table));
        uint64_t entry = entries[page >> shift & 511];
        *rights &= entry;
        *hpa = entry & ADDRESS;
        if ((entry & 7) == 0)
            return false;
        FUZZ_HOLD((entry & 3) != 2, "ept02 has the misconfigured entry %#llx", U(entry));
        if (shift == 0)
            return true;
        FUZZ_HOLD((entry & NVMX_EPT_LARGE) == 0, "a mapping of ept02 is larger than ept01's");
        table = entry & ADDRESS;
    }
}

static void make_tree(unsigned int tree) {
    for (unsigned int level = 0; level < 3; level++)
        sim_write64(world.sim, TREE(tree) + level * 0x1000, (TREE(tree) + (level + 1) * 0x1000) | 7);
    for (uint64_t page = 0; page < PAGES; page++)
        for (unsigned int i = 0; i < CHANGES; i++)
            set_leaf(tree, page, (TARGET_GPA1 + page * NVMX_PAGE_SIZE) | WB | 7);
}

/* -- vCPUs ---------------------------------------------------------------------------------------------------- */

void power_up(struct cpu *c) {
    sim_vmcs01(c->sim);
    c->sim->operand = L1_OPERAND(c->l1);
    c->in_guest = false;
    l1_of(c)->invept_all = world.now; /* SDM 31.4.3.1 */
}

void vcpu_make(struct cpu *c) {
    struct sim *sim = c->sim;
    struct nvmx_vcpu_config config = sim_vcpu_config(sim, c->l1);
    memset(sim->vcpu_memory, 0xa5, nvmx_vcpu_size());
    power_up(c);
    sim->vm = world.sim->vm;
    FUZZ_HOLD(nvmx_vcpu_init(sim->vcpu_memory, nvmx_vcpu_size(), sim->vm, &config, &sim->vcpu) == NVMX_OK,
              "nvmx_vcpu_init");
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

void vcpu_destroy(struct cpu *c) {
    nvmx_vcpu_destroy(c->sim->vcpu);
    c->sim->vcpu = NULL;
}

/* -- from nothing to a VM, and back --------------------------------------------------------------------------- */

/* A simulated host that has given up its VM and its vCPU. */
static struct sim *bare_sim(void) {
    struct sim *sim = sim_new(NULL);
    FUZZ_HOLD(sim->vcpu != NULL, "no vCPU: %s", nvmx_status_text(sim->status));
    nvmx_vcpu_destroy(sim->vcpu);
    nvmx_vm_destroy(sim->vm);
    sim->vcpu = NULL;
    sim->vm = NULL;
    return sim;
}

static void make_hosts(void) {
    world.sim = bare_sim();
    callbacks = world.sim->host;
    world.sim->host.map_page = map_page;
    world.sim->host.unmap_page = unmap_page;
    world.sim->host.ept01_lookup = ept01_lookup;
    world.sim->host.tlb_flush = tlb_flush;
    world.sim->host.trace = NULL;
    for (unsigned int i = 0; i < CPUS; i++) {
        world.cpu[i].sim = bare_sim();
        world.cpu[i].own_ram = world.cpu[i].sim->ram;
        world.cpu[i].sim->ram = world.sim->ram;
    }
}

static void make_vm(uint8_t options) {
    struct sim *sim = world.sim;
    sim->options.ept_page_budget = options & 1 ? 20 : 0;
    memset(&sim->fail, 0, sizeof(sim->fail));
    free(sim->vm_memory);
    FUZZ_HOLD(sim_make_vm(sim) == NVMX_OK, "nvmx_vm_init");
    for (unsigned int i = 0; i < CPUS; i++) {
        struct cpu *c = &world.cpu[i];
        memset(&c->sim->fail, 0, sizeof(c->sim->fail));
        c->sim->options.no_vpid = options >> 1 & 1;
        c->sim->options.vmcs02_slots = (uint16_t)(1 + (options >> 2 & 3));
        c->l1 = i;
        memset(c->tlb, 0, sizeof(c->tlb));
        vcpu_make(c);
    }
}

/* A region with a vmcs12 that is right, as VMCLEAR leaves it. */
static void make_image(void) {
    struct sim *sim = world.cpu[0].sim;
    uint64_t primary = 0;
    sim_region(sim, L1_VMXON(0));
    sim_region(sim, REGION(0));
    bool good = sim_vmxon(sim, L1_VMXON(0)) == SIM_SUCCEED && sim_vmclear(sim, REGION(0)) == SIM_SUCCEED &&
                sim_vmptrld(sim, REGION(0)) == SIM_SUCCEED && sim_vmcs12(sim) == 0 &&
                sim_vmwrite(sim, NVMX_VMCS_VPID, 1) == SIM_SUCCEED && sim_vmread(sim, NVMX_VMCS_PRIMARY_CONTROLS, &primary) == SIM_SUCCEED &&
                sim_vmwrite(sim, NVMX_VMCS_PRIMARY_CONTROLS, primary | TPR_SHADOW) == SIM_SUCCEED && sim_vmclear(sim, REGION(0)) == SIM_SUCCEED;
    FUZZ_HOLD(good, "no good vmcs12");
    memcpy(world.image, sim->ram + REGION(0), sizeof(world.image));
    nvmx_vcpu_reset(sim->vcpu);
    power_up(&world.cpu[0]);
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
}

void fill_region(unsigned int which) {
    uint64_t apic = TARGET(APIC_TARGET(which));
    memcpy(world.sim->ram + REGION(which), world.image, sizeof(world.image));
    memcpy(world.sim->ram + REGION(which) + VMCS_REGION_FIELDS + 8 * NVMX_F_VIRTUAL_APIC_ADDRESS, &apic, sizeof(apic));
    world.region[which] = (struct region){.active = NONE, .known = true, .vpid12 = 1};
}

void world_start(uint8_t options) {
    bool first = !world.made;
    if (first)
        make_hosts();
    world.made = true;
    world.now = 1;
    for (uint64_t i = 0; i < FRAMES; i++)
        world.owner[i] = i < TARGETS ? i : NOBODY;
    for (uint64_t i = 0; i < TARGETS; i++)
        world.ept01[i] = i << 12 | 7;
    make_vm(options);
    if (first)
        make_image();
    for (unsigned int tree = 0; tree < TREES; tree++)
        make_tree(tree);
    for (unsigned int i = 0; i < REGIONS; i++) {
        fill_region(i);
    }
    for (unsigned int i = 0; i < CPUS; i++) {
        world.l1[i] = (struct l1){.mode = NVMX_MODE_OFF, .current = NONE};
        sim_region(world.sim, L1_VMXON(i));
    }
}

void world_end(void) {
    for (unsigned int i = 0; i < CPUS; i++)
        vcpu_destroy(&world.cpu[i]);
    nvmx_vm_destroy(world.sim->vm);
    world.sim->vm = NULL;
    FUZZ_HOLD(world.sim->mapped == 0, "%llu pages of L1 stay mapped", U(world.sim->mapped));
    FUZZ_HOLD(world.sim->pages_used == 3, "%u pages are not given back",
              world.sim->pages_used - 3); /* the host's own bitmaps */
}
