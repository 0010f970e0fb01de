/* SPDX-License-Identifier: MIT */
/*
 * Two vCPUs of one VM, whose L2s run on the same ept12 with the same VPID: what INVEPT and INVVPID, executed on one, mean for the other (SDM 31.4.3).
 * Both are instructions of one processor, so the other keeps what it holds; but what ept12 has no more goes everywhere, and is owed to whoever enters.
 */
#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "sim_internal.h"

#define VPID12      7u
#define SECOND(n)   (0x20000u + 0x1000u * (n)) /* pages of the second vCPU's L1: operand, VMXON region, VMCS */
#define EPTP12      (SIM_L1_EPT12 | 0x1eu)
#define GPA2        UINT64_C(0x5000)
#define ENTRY(gpa2) (SIM_L1_EPT12 + 0x3000 + ((gpa2) >> 12) * 8)

struct two {
    struct sim *sim[2];
    uint8_t *own_ram;
};

/* L1's memory is the first one's, whoever asks. */
static struct sim *memory;
static struct nvmx_host callbacks;

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    (void)ctx;
    return callbacks.map_page(&memory->vcpu_context, gpa1, access, hpa);
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    (void)ctx;
    callbacks.unmap_page(&memory->vcpu_context, gpa1, page, dirtied);
}

/* A VM anew, with those two callbacks and the first vCPU, whose L1 has a good vmcs12. */
static struct sim *first_of(void) {
    struct sim *sim = memory = sim_new(NULL);

    nvmx_vcpu_destroy(sim->vcpu);
    nvmx_vm_destroy(sim->vm);
    free(sim->vcpu_memory);
    free(sim->vm_memory);
    callbacks = sim->host;
    sim->host.map_page = map_page;
    sim->host.unmap_page = unmap_page;
    cr_assert_eq(sim_make_vm(sim), NVMX_OK);
    cr_assert_eq(sim_make_vcpu(sim), NVMX_OK);
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    cr_assert_eq(sim_vmxon_ready(sim), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    return sim;
}

/* A vCPU of the first one's VM. */
static struct sim *second_of(struct two *two) {
    struct sim *first = two->sim[0], *sim = sim_new(NULL);
    struct nvmx_vcpu_config config = sim_vcpu_config(sim, 1);

    nvmx_vcpu_destroy(sim->vcpu);
    nvmx_vm_destroy(sim->vm);
    two->own_ram = sim->ram;
    sim->ram = first->ram;
    sim->vm = first->vm;
    sim->operand = SECOND(0);
    cr_assert_eq(nvmx_vcpu_init(sim->vcpu_memory, nvmx_vcpu_size(), sim->vm, &config, &sim->vcpu), NVMX_OK);
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    sim_region(sim, SECOND(1));
    sim_region(sim, SECOND(2));
    enum sim_outcome outcome = sim_vmxon(sim, SECOND(1));
    cr_assert_eq(outcome, SIM_SUCCEED, "%s, vector %d", sim_outcome_text(outcome), sim_fault_vector(sim));
    cr_assert_eq(sim_vmclear(sim, SECOND(2)), SIM_SUCCEED);
    cr_assert_eq(sim_vmptrld(sim, SECOND(2)), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(sim), 0);
    return sim;
}

/* L2 has run on both, which are back in L1. */
static struct two two_ran(void) {
    struct two two = {.sim[0] = first_of()};

    two.sim[1] = second_of(&two);
    for (unsigned int i = 0; i < 2; i++) {
        l1_sets(two.sim[i], NVMX_VMCS_SECONDARY_CONTROLS, 1u << 5);
        l1_writes(two.sim[i], NVMX_VMCS_VPID, VPID12);
        launch(two.sim[i]);
        cr_assert_eq(sim_exit_info(two.sim[i], &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_EPT_VIOLATION,
                                                                          .qualification = 0x181,
                                                                          .guest_physical_address = GPA2}),
                     NVMX_ENTER);
        cr_assert_eq(nvmx_mode(two.sim[i]->vcpu), NVMX_MODE_L2);
        l2_leaves(two.sim[i]);
    }
    two.sim[0]->count[SIM_TLB_FLUSH] = two.sim[1]->count[SIM_TLB_FLUSH] = 0;
    return two;
}

static void end(struct two *two) {
    nvmx_vcpu_destroy(two->sim[1]->vcpu);
    two->sim[1]->vcpu = NULL;
    two->sim[1]->vm = NULL;
    two->sim[1]->ram = two->own_ram;
    sim_free(two->sim[1]);
    sim_free(two->sim[0]);
}

/* How many flushes of this kind and value a vCPU asked for. */
static unsigned int flushes(const struct sim *sim, enum nvmx_flush kind, uint64_t value) {
    unsigned int found = 0;

    cr_assert(sim->count[SIM_TLB_FLUSH] <= SIM_LOG);
    for (uint64_t i = 0; i < sim->count[SIM_TLB_FLUSH]; i++) {
        found += sim->flush[i].kind == kind && sim->flush[i].value == value;
    }
    return found;
}

/* What ept02 has for the page. */
static uint64_t entry02(const struct sim *sim) {
    uint64_t table = vmcs02(sim, NVMX_F_EPT_POINTER);

    for (unsigned int shift = 39;; shift -= 9) {
        const uint64_t *page = sim_page(memory, table & UINT64_C(0x000ffffffffff000));
        cr_assert_not_null(page);
        table = page[GPA2 >> shift & 511];
        if (shift == 12 || (table & 7) == 0) {
            return table;
        }
    }
}

Test(two_vcpus, invvpid_is_of_one_processor) {
    struct two two = two_ran();

    cr_assert_eq(sim_invvpid(two.sim[1], 1, VPID12, 0), SIM_SUCCEED);
    cr_expect_eq(two.sim[0]->count[SIM_TLB_FLUSH], 0);
    resume(two.sim[1]);
    cr_expect_eq(flushes(two.sim[1], NVMX_FLUSH_VPID, vmcs02(two.sim[1], NVMX_F_VPID)), 1, "before the entry at the latest");
    resume(two.sim[0]);
    cr_expect_eq(two.sim[0]->count[SIM_TLB_FLUSH], 0, "nobody asked for it there");
    l2_leaves(two.sim[0]);
    l2_leaves(two.sim[1]);
    cr_assert_eq(sim_invvpid(two.sim[0], 2, 0, 0), SIM_SUCCEED);
    resume(two.sim[0]);
    cr_expect_neq(two.sim[0]->count[SIM_TLB_FLUSH], 0);
    end(&two);
}

Test(two_vcpus, invept_is_of_one_processor) {
    struct two two = two_ran();

    cr_assert_eq(sim_invept(two.sim[1], 1, EPTP12, 0), SIM_SUCCEED);
    resume(two.sim[1]);
    cr_expect_eq(flushes(two.sim[1], NVMX_FLUSH_EPT_HERE, vmcs02(two.sim[1], NVMX_F_EPT_POINTER)), 1);
    resume(two.sim[0]);
    cr_expect_eq(two.sim[0]->count[SIM_TLB_FLUSH], 0, "nothing changed");
    cr_expect_neq(entry02(two.sim[0]) & 7, 0);
    end(&two);
}

/* Executed on the second while L2 is out on both: whichever enters first compares, and flushes everywhere. */
Test(two_vcpus, what_invept_withdrew_is_owed_to_the_other) {
    for (unsigned int first = 0; first < 2; first++) {
        struct two two = two_ran();
        struct sim *enters_first = two.sim[first];

        sim_write64(two.sim[0], ENTRY(GPA2), 0);
        cr_assert_eq(sim_invept(two.sim[1], 1, EPTP12, 0), SIM_SUCCEED);
        two.sim[0]->count[SIM_TLB_FLUSH] = two.sim[1]->count[SIM_TLB_FLUSH] = 0;
        resume(enters_first);
        cr_expect_eq(flushes(enters_first, NVMX_FLUSH_EPT, vmcs02(enters_first, NVMX_F_EPT_POINTER)), 1, "vCPU %u", first);
        cr_expect_eq(entry02(enters_first) & 7, 0, "vCPU %u", first);
        end(&two);
    }
}

/* The same while the first one runs L2, which it leaves for the host alone: it does not go on with what was withdrawn. */
Test(two_vcpus, invept_reaches_a_running_l2_at_its_next_entry) {
    struct two two = two_ran();

    resume(two.sim[0]);
    sim_write64(two.sim[0], ENTRY(GPA2), 0);
    cr_assert_eq(sim_invept(two.sim[1], 1, EPTP12, 0), SIM_SUCCEED);
    two.sim[0]->count[SIM_TLB_FLUSH] = two.sim[1]->count[SIM_TLB_FLUSH] = 0;
    resume(two.sim[1]);
    cr_expect_eq(flushes(two.sim[1], NVMX_FLUSH_EPT, vmcs02(two.sim[1], NVMX_F_EPT_POINTER)), 1, "the first one's processor, too");
    cr_expect_eq(entry02(two.sim[0]) & 7, 0, "the tree is one");
    end(&two);
}
