/* SPDX-License-Identifier: MIT */
/* Every reason in both directions: the rows of route_rows.def, found by hardware and asked about by the host. */
#include <string.h>

#include "exits/exits.h"
#include "machine.h"

#define BIT(n) (UINT64_C(1) << (n))
#define PAGE   0x30000u /* of L1's memory, for a bitmap or a list */

struct row {
    uint32_t reason;
    enum { HOST, L1 } who;
    const char *what;
    struct {
        enum nvmx_field slot;
        uint64_t bits;
    } set[5]; /* in vmcs12: bits of a control, other fields as a whole; bits of 0 end the list */
    struct nvmx_l2_exit_info info;
    uint64_t rax, rcx, xss;
    uint64_t at, memory; /* L1's memory */
    bool only_hardware;  /* nvmx_l1_intercepts does not know: it does not walk ept12 */
    bool refused;        /* an entry failure, not an exit */
};

static const struct row rows[] = {
#define ROW(number, whose, case, ...) {.reason = (number), .who = (whose), .what = (case), __VA_ARGS__},
#include "route_rows.def"
#undef ROW
};

/* Controls of vmcs12 that intercept or enable something: each row begins without them. */
static const struct {
    enum nvmx_field slot;
    uint64_t optional;
} controls[] = {
    {NVMX_F_PIN_BASED_CONTROLS, 0x69},
    {NVMX_F_PRIMARY_CONTROLS, 0x7bfb9e8c},
    {NVMX_F_SECONDARY_CONTROLS, 0xffffff5d},
};

static struct vmcs12 *current(struct sim *sim) {
    return &sim->vcpu->vmcs12[sim->vcpu->current];
}

static void prepare(struct sim *sim, const struct row *r) {
    uint64_t *value = current(sim)->value;

    for (size_t i = 0; i < COUNT(controls); i++)
        value[controls[i].slot] &= ~controls[i].optional;
    value[NVMX_F_SECONDARY_CONTROLS] |= BIT(1);
    value[NVMX_F_CR0_GUEST_HOST_MASK] = value[NVMX_F_CR4_GUEST_HOST_MASK] = 0;
    value[NVMX_F_IO_BITMAP_A_ADDRESS] = SIM_L1_IO_BITMAP_A;
    value[NVMX_F_IO_BITMAP_B_ADDRESS] = SIM_L1_IO_BITMAP_B;
    value[NVMX_F_CR0_READ_SHADOW] = value[NVMX_F_CR4_READ_SHADOW] = 0;
    for (size_t i = 0; i < COUNT(r->set) && r->set[i].bits != 0; i++) {
        enum nvmx_field slot = r->set[i].slot;
        bool control = slot == NVMX_F_PIN_BASED_CONTROLS || slot == NVMX_F_PRIMARY_CONTROLS ||
                       slot == NVMX_F_SECONDARY_CONTROLS;
        value[slot] = (control ? value[slot] : 0) | r->set[i].bits;
    }
    uint64_t ignored[2]; /* roots: no entry made them */
    if ((value[NVMX_F_SECONDARY_CONTROLS] & PROC2_SPP) != 0)
        cr_assert_eq(nvmx_ept_root_spp(sim->vcpu->vm->ept, sim->vcpu->ctx, 200, value[NVMX_F_EPT_POINTER], false, value[NVMX_F_SPP_TABLE_POINTER],
                                       &ignored[0], &ignored[1]),
                     NVMX_OK);
    sim->regs.gpr[NVMX_RAX] = r->rax;
    sim->regs.gpr[NVMX_RDX] = 0;
    sim->regs.gpr[NVMX_RCX] = r->rcx;
    sim_msr(sim, 0xda0)->value = r->xss;
}

static void one_row(struct sim *sim, const struct row *r) {
    struct nvmx_l2_exit_info info = r->info;
    uint64_t good[NVMX_FIELD_COUNT], before = r->at ? sim_read64(sim, r->at) : 0;

    memcpy(good, current(sim)->value, sizeof(good));
    prepare(sim, r);
    if (r->at)
        sim_write64(sim, r->at, r->memory);
    info.reason = r->reason;
    if (!r->only_hardware)
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), r->who == L1, "asked: %u, %s", r->reason, r->what);
    /* The bits beside the basic reason (SDM 27.9.1) change nothing. */
    info.reason |= UINT32_C(1) << 27;
    if (!r->only_hardware)
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), r->who == L1, "asked: %u in enclave mode, %s", r->reason, r->what);
    info.reason = r->reason;
    info.reason |= r->refused ? NVMX_EXIT_ENTRY_FAILURE : 0;
    enum nvmx_next next = sim_exit_info(sim, &info);
    bool reflected = next == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;
    cr_expect_eq(reflected, r->who == L1, "exit: %u, %s (next %d)", r->reason, r->what, (int)next);
    if (reflected)
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), info.reason, "%u, %s", r->reason, r->what);
    memcpy(current(sim)->value, good, sizeof(good));
    if (r->at)
        sim_write64(sim, r->at, before);
    if (reflected)
        enters(sim, current(sim)->launched ? sim_vmresume(sim) : sim_vmlaunch(sim));
}

Test(route_rows, who_gets_each_exit) {
    struct nvmx_caps machine;
    sim_machine(&machine);
    machine.msr[NVMX_CAP_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_TRUE_PROCBASED] |= UINT64_C(1) << 49;
    machine.msr[NVMX_CAP_PROCBASED2] |= (uint64_t)(PROC2_SPP | PROC2_PCONFIG | PROC2_ENCLV | PROC2_BUS_LOCK | PROC2_TIMEOUT) << 32;
    machine.msr[NVMX_CAP_PROCBASED3] = PROC3_LOADIWKEY | PROC3_MSR_LIST;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct sim *sim = l2_running(&(struct sim_options){.machine = &machine});
        one_row(sim, &rows[i]);
        sim_free(sim);
    }
}

/* The table has every outcome of every reason. */
Test(route_rows, both_directions_of_every_reason) {
    bool has[NVMX_EXIT_REASONS][2] = {{false}};

    for (size_t i = 0; i < COUNT(rows); i++) {
        cr_assert(rows[i].reason < NVMX_EXIT_REASONS && (i == 0 || rows[i - 1].reason <= rows[i].reason));
        has[rows[i].reason][rows[i].who == L1] = true;
    }
    for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
        uint8_t who = exit_row(reason)->who;
        bool always = who == WHO_ALWAYS || who == WHO_ENTRY_FAILURE || who == WHO_EPT_VPID;
        cr_expect_eq(has[reason][1], who != WHO_HOST, "reason %u: a case that is L1's", reason);
        cr_expect_eq(has[reason][0], !always, "reason %u: a case that is not", reason);
    }
}
