/* SPDX-License-Identifier: MIT */
/*
 * VPID02s against a model of what L1 may rely on (SDM 31.4.3): a TLB that is tagged with vmcs02's VPID and hears of flushes by the host's callback alone.
 *
 * Never may L2 use a translation of another VPID12, or one that L1's INVVPID, or a transition without VPIDs, has invalidated. And what nobody invalidated has
 * to be there still, as long as there are no more VPID12s than VPID02s.
 */
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "machine.h"

#define TAGS      6u /* VPIDs 2 to 5 are L2's in the simulated host */
#define ADDRESSES 4u /* of which the last is global */
#define VPIDS     6u /* that L1 uses; 0: none */

struct entry {
    bool valid;
    unsigned int owner;   /* index of the VPID12 whose translation it is */
    unsigned int version; /* of L2's page tables when it was made */
};

static const uint64_t vpid12[VPIDS] = {0, 1, 7, 0xffff, 0x100, 2};
static const uint64_t linear[ADDRESSES] = {0, 0x7ffffffff000, UINT64_C(0xffff800000000000), UINT64_C(0xfffffffffffff000)};

struct run {
    struct sim *sim;
    uint64_t random;
    struct entry tlb[TAGS][ADDRESSES];
    unsigned int version;                  /* of L2's page tables now: L1 changes them all the time */
    unsigned int floor[VPIDS][ADDRESSES];  /* older ones L1 has invalidated */
    bool cached[VPIDS][ADDRESSES];         /* used since it was last invalidated */
    unsigned int in_use;                   /* VPID12s that L1 chooses from */
    uint64_t hits, misses, entries, refused;
};

static uint32_t below(struct run *r, uint32_t limit) {
    return (uint32_t)(draw(&r->random) >> 33) % limit;
}

/* What the host was asked to drop since the last time. */
static void apply_flushes(struct run *r) {
    struct sim *sim = r->sim;

    cr_assert(sim->count[SIM_TLB_FLUSH] <= SIM_LOG);
    for (uint64_t i = 0; i < sim->count[SIM_TLB_FLUSH]; i++) {
        const struct sim_flush *flush = &sim->flush[i];
        bool vpid = flush->kind == NVMX_FLUSH_VPID || flush->kind == NVMX_FLUSH_VPID_ADDRESS || flush->kind == NVMX_FLUSH_VPID_BUT_GLOBALS;

        cr_assert(!vpid || flush->value < TAGS);
        for (unsigned int a = 0; a < ADDRESSES && vpid; a++) {
            bool spared = (flush->kind == NVMX_FLUSH_VPID_ADDRESS && flush->linear != linear[a]) ||
                          (flush->kind == NVMX_FLUSH_VPID_BUT_GLOBALS && a == ADDRESSES - 1);
            if (!spared) {
                r->tlb[flush->value][a].valid = false;
            }
        }
    }
    sim->count[SIM_TLB_FLUSH] = 0;
}

/* L2 with this VPID12 uses an address. */
static void use(struct run *r, unsigned int v, unsigned int a, bool exact) {
    uint64_t tag = vmcs02(r->sim, NVMX_F_VPID);

    cr_assert(tag >= 2 && tag < TAGS, "VPID02 %lu", tag);
    struct entry *entry = &r->tlb[tag][a];
    if (entry->valid) {
        cr_assert_eq(entry->owner, v, "VPID12 %#lx uses a translation of %#lx", vpid12[v], vpid12[entry->owner]);
        cr_assert(entry->version >= r->floor[v][a], "VPID12 %#lx, address %u: used after it was invalidated", vpid12[v], a);
        r->hits++;
        return;
    }
    cr_assert(!exact || !r->cached[v][a] || v == 0, "VPID12 %#lx, address %u: dropped although nobody asked for it", vpid12[v], a);
    *entry = (struct entry){true, v, r->version};
    r->cached[v][a] = true;
    r->misses++;
}

static void invalidate(struct run *r, unsigned int v, unsigned int a) {
    r->floor[v][a] = r->version;
    r->cached[v][a] = false;
}

static void l1_invvpid(struct run *r) {
    uint64_t type = below(r, 4);
    unsigned int v = 1 + below(r, VPIDS - 1);
    unsigned int address = below(r, ADDRESSES);

    r->version++;
    cr_assert_eq(sim_invvpid(r->sim, type, type == 2 ? 0 : vpid12[v], linear[address]), SIM_SUCCEED);
    for (unsigned int i = 1; i < VPIDS; i++) {
        for (unsigned int a = 0; a < ADDRESSES; a++) {
            if ((type == 2 || i == v) && (type != 0 || a == address) && (type != 3 || a != ADDRESSES - 1)) {
                invalidate(r, i, a);
            }
        }
    }
    apply_flushes(r);
}

/* L1 runs L2 with some VPID12 on one of two vmcs12s; callbacks may fail meanwhile. False: the vCPU stopped. */
static bool one_entry(struct run *r, bool failing, bool exact) {
    struct sim *sim = r->sim;
    unsigned int v = below(r, r->in_use);
    uint64_t secondary;

    cr_assert_eq(sim_vmptrld(sim, below(r, 2) == 0 ? SIM_L1_VMCS_A : SIM_L1_VMCS_B), SIM_SUCCEED);
    secondary = l1_reads(sim, NVMX_VMCS_SECONDARY_CONTROLS) & ~UINT64_C(0x20);
    l1_writes(sim, NVMX_VMCS_SECONDARY_CONTROLS, secondary | (v != 0 ? 0x20 : 0));
    l1_writes(sim, NVMX_VMCS_VPID, vpid12[v]);
    if (below(r, 8) == 0) {
        l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 0); /* the entry fails after its checks of controls */
    }
    sim->fail.one_in = failing && below(r, 2) == 0 ? 1 + below(r, 12) : 0;
    enum sim_outcome outcome = vmcs12_current(sim->vcpu)->launched ? sim_vmresume(sim) : sim_vmlaunch(sim);
    sim->fail.one_in = 0;
    apply_flushes(r);
    if (outcome == SIM_L2) {
        r->entries++;
        for (unsigned int a = 0; v == 0 && a < ADDRESSES; a++) {
            invalidate(r, 0, a); /* without VPIDs the transition does it */
        }
        for (unsigned int n = below(r, 6); n > 0; n--) {
            use(r, v, below(r, ADDRESSES), exact);
        }
        l2_leaves(sim);
        apply_flushes(r);
    } else if (outcome == SIM_STOPPED) {
        return false;
    } else {
        r->refused++;
    }
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT) {
        l1_writes(sim, NVMX_VMCS_GUEST_RFLAGS, 2);
    }
    return true;
}

static void make_l1(struct run *r) {
    r->sim = l1_ready(NULL);
    cr_assert_eq(sim_vmclear(r->sim, SIM_L1_VMCS_B), SIM_SUCCEED);
    cr_assert_eq(sim_vmptrld(r->sim, SIM_L1_VMCS_B), SIM_SUCCEED);
    cr_assert_eq(sim_vmcs12(r->sim), 0);
    apply_flushes(r);
}

static struct run *new_run(unsigned int in_use, uint64_t seed) {
    struct run *r = calloc(1, sizeof(*r));

    r->in_use = in_use;
    r->random = seed;
    make_l1(r);
    return r;
}

static void end(struct run *r) {
    cr_expect(r->hits > r->entries / 4 && r->misses > r->entries / 8, "%lu hits, %lu misses", r->hits, r->misses);
    cr_expect(r->refused > r->entries / 50);
    sim_free(r->sim);
    free(r);
}

/* Three VPID12s for the three VPID02s that are for them: nothing is dropped but what L1 asked for. */
Test(vpid, invalidations_are_exact) {
    struct run *r = new_run(4, 0x5eed1);

    for (unsigned int i = 0; i < 20000; i++) {
        if (below(r, 4) == 0) {
            l1_invvpid(r);
        } else {
            cr_assert(one_entry(r, false, true));
        }
    }
    end(r);
}

/* More VPID12s than VPID02s, callbacks that fail, vCPUs that are reset or made anew on the same VPID02s: more goes, nothing is lost. */
Test(vpid, no_flush_is_lost) {
    struct run *r = new_run(VPIDS, 0x5eed2);

    for (unsigned int i = 0; i < 20000; i++) {
        unsigned int what = below(r, 400);
        bool stopped = false;

        if (what < 80) {
            l1_invvpid(r);
        } else if (what == 80) {
            nvmx_vcpu_reset(r->sim->vcpu);
            apply_flushes(r);
            stopped = true;
        } else {
            stopped = !one_entry(r, true, false);
        }
        if (stopped) {
            sim_free(r->sim);
            make_l1(r);
        }
    }
    end(r);
}
