/* SPDX-License-Identifier: MIT */
/* For the tests of the machine (lib/exits, vmcs12, merge): an L1 with an L2 that runs, and short names for what they
 * look at. */
#ifndef MACHINE_H
#define MACHINE_H

#include <criterion/criterion.h>
#include <nvmx/exits.h>

#include "sim.h"
#include "vcpu.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* L1's VMWRITE and VMREAD, which must succeed. */
static inline void l1_writes(struct sim *sim, uint32_t encoding, uint64_t value) {
    enum sim_outcome outcome = sim_vmwrite(sim, encoding, value);
    cr_assert(outcome == SIM_SUCCEED, "VMWRITE %#x: %s", encoding, sim_outcome_text(outcome));
}

static inline uint64_t l1_reads(struct sim *sim, uint32_t encoding) {
    uint64_t value = 0;
    enum sim_outcome outcome = sim_vmread(sim, encoding, &value);
    cr_assert(outcome == SIM_SUCCEED, "VMREAD %#x: %s", encoding, sim_outcome_text(outcome));
    return value;
}

/* Bits of a control field of vmcs12, for L1 in VMX root operation. */
static inline void l1_sets(struct sim *sim, uint32_t encoding, uint64_t bits) {
    l1_writes(sim, encoding, l1_reads(sim, encoding) | bits);
}

static inline void l1_clears(struct sim *sim, uint32_t encoding, uint64_t bits) {
    l1_writes(sim, encoding, l1_reads(sim, encoding) & ~bits);
}

/* All that a machine has but the VMX-preemption timer: a host's mask. */
static inline void mask_without_timer(struct nvmx_caps *mask) {
    sim_machine(mask);
    for (unsigned int i = 0; i < 2; i++) {
        mask->msr[i ? NVMX_CAP_TRUE_PINBASED : NVMX_CAP_PINBASED] &= ~((uint64_t)PIN_PREEMPTION_TIMER << 32);
        mask->msr[i ? NVMX_CAP_TRUE_EXIT : NVMX_CAP_EXIT] &= ~((uint64_t)EXIT_SAVE_TIMER << 32);
    }
}

/* L1 in VMX root operation with a good vmcs12 that is current and not launched. */
static inline struct sim *l1_ready(const struct sim_options *options) {
    struct sim *sim = sim_new(options);
    cr_assert(sim->vcpu != NULL, "no vCPU: %s", nvmx_status_text(sim->status));
    cr_assert(sim_vmxon_ready(sim) == SIM_SUCCEED);
    uint32_t bad = sim_vmcs12(sim);
    cr_assert(bad == 0, "VMWRITE %#x", bad);
    return sim;
}

static inline void enters(struct sim *sim, enum sim_outcome outcome) {
    cr_assert(outcome == SIM_L2, "VM entry: %s, error %u, check %s", sim_outcome_text(outcome),
              nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT ? sim_instruction_error(sim) : 0,
              nvmx_check_row(nvmx_last_check(sim->vcpu)) ? nvmx_check_row(nvmx_last_check(sim->vcpu))->id : "none");
}

static inline void launch(struct sim *sim) {
    enters(sim, sim_vmlaunch(sim));
}

static inline void resume(struct sim *sim) {
    enters(sim, sim_vmresume(sim));
}

/* L2 runs, with `options`. */
static inline struct sim *l2_running(const struct sim_options *options) {
    struct sim *sim = l1_ready(options);
    launch(sim);
    return sim;
}

/* A field of the vmcs02 that is selected. */
static inline uint64_t vmcs02(const struct sim *sim, enum nvmx_field slot) {
    cr_assert(sim->selected >= NVMX_VMCS02_FIRST, "vmcs02 is not selected");
    return sim_get(sim, sim->selected, slot);
}

/* The entry of ept02 for gpa2, found as hardware would; 0 if a level has none. */
static inline uint64_t ept02_leaf(const struct sim *sim, uint64_t gpa2) {
    uint64_t entry = vmcs02(sim, NVMX_F_EPT_POINTER);
    for (unsigned int shift = 39; shift >= 12; shift -= 9) {
        const uint64_t *table = sim_page(sim, entry & UINT64_C(0xffffffffff000));
        entry = table[(gpa2 >> shift) & 511];
        if ((entry & 7) == 0 || (entry & NVMX_EPT_LARGE) != 0)
            break;
    }
    return (entry & 7) != 0 ? entry : 0;
}

static inline uint64_t vmcs01(const struct sim *sim, enum nvmx_field slot) {
    return sim_get(sim, NVMX_VMCS01, slot);
}

/* L2 leaves by CPUID, which L1 always gets. */
static inline void l2_leaves(struct sim *sim) {
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2), NVMX_ENTER);
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
}

/* vmcs01's bitmaps become known to the library, as a host gives them that lets it read them. */
static inline void host_gives_bitmaps(struct sim *sim) {
    sim->vcpu->host_msr_bitmap = (const uint64_t *)(const void *)sim->host_msr_bitmap;
    sim->vcpu->host_io_bitmap[0] = (const uint64_t *)(const void *)sim->host_io_bitmap[0];
    sim->vcpu->host_io_bitmap[1] = (const uint64_t *)(const void *)sim->host_io_bitmap[1];
}

/* vmcs01's control field changes, and the host says so. */
static inline void host_sets(struct sim *sim, enum nvmx_field slot, uint64_t value) {
    sim_set(sim, NVMX_VMCS01, slot, value);
    nvmx_vmcs01_changed(sim->vcpu);
}

/* What the library called since. */
struct cost {
    uint64_t selects, reads, fields_read, writes, fields_written, maps;
};

static inline struct cost cost_now(const struct sim *sim) {
    const struct nvmx_counts *c = nvmx_counts(sim->vcpu);
    return (struct cost){
        sim->count[SIM_VMCS_SELECT], sim->count[SIM_VMCS_READ], c->vmreads, sim->count[SIM_VMCS_WRITE], c->vmwrites,
        sim->count[SIM_MAP_PAGE]};
}

static inline struct cost cost_since(const struct sim *sim, struct cost before) {
    struct cost now = cost_now(sim);
    return (struct cost){now.selects - before.selects,
                         now.reads - before.reads,
                         now.fields_read - before.fields_read,
                         now.writes - before.writes,
                         now.fields_written - before.fields_written,
                         now.maps - before.maps};
}

/* An operation has a golden cost that it must not exceed. Whoever makes it cheaper lowers the golden numbers. */
static inline void costs(struct sim *sim, const char *what, struct cost before, struct cost golden) {
    struct cost c = cost_since(sim, before);
    cr_expect(c.selects <= golden.selects && c.reads <= golden.reads && c.fields_read <= golden.fields_read &&
                  c.writes <= golden.writes && c.fields_written <= golden.fields_written && c.maps <= golden.maps,
              "%s: selects %lu, reads %lu of %lu fields, writes %lu of %lu fields, maps %lu", what, c.selects, c.reads,
              c.fields_read, c.writes, c.fields_written, c.maps);
}

#endif
