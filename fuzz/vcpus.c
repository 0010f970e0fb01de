/* SPDX-License-Identifier: MIT */
/*
 * Three processors of one L1, each a vCPU of one VM, whose L2s share two trees of ept12 and whose L1 hands VMCSs from
 * one to the other, on a host that moves, takes and protects memory, moves vCPUs from processor to processor, resets
 * and destroys them. One at a time, as the input says, so that a finding can be repeated; tests/threads does the same
 * at once.
 *
 * Held, beside what the simulated host holds: no L2 reaches what the host has taken or what ept12 has never granted
 * since its processor's last INVEPT, neither through ept02 nor through what a TLB keeps that nothing has flushed
 * (SDM 31.4); what is granted is there after one violation; a VMCS is on each processor what the last one left of it
 * (SDM 27.11.1); nothing leaks.
 *
 * Input: options, then steps.
 */
#include "vcpus.h"

#include <nvmx/state.h>
#include <stdlib.h>
#include <string.h>

#include "sim_internal.h"

/* -- memory --------------------------------------------------------------------------------------------------- */

/* Each vCPU is told, out of its guest; then no TLB has the frame with these rights any more. */
static void tell_all(uint64_t target, bool protects, uint64_t frame) {
    uint64_t gpa1 = TARGET_GPA1 + target * NVMX_PAGE_SIZE;
    for (unsigned int i = 0; i < CPUS; i++) {
        struct nvmx_vcpu *vcpu = world.cpu[i].sim->vcpu;
        world.cpu[i].in_guest = false;
        FUZZ_HOLD((protects ? nvmx_memory_protected(vcpu, gpa1, NVMX_PAGE_SIZE)
                            : nvmx_memory_changed(vcpu, gpa1, NVMX_PAGE_SIZE)) == NVMX_OK,
                  "a change of memory is refused");
    }
    FUZZ_HOLD(world.sim->mapped_read[gpa1 / NVMX_PAGE_SIZE] == 0, "page %llu is still held", U(target));
    for (unsigned int i = 0; i < CPUS; i++)
        for (unsigned int k = 0; k < TLB; k++) {
            const struct translation *t = &world.cpu[i].tlb[k];
            FUZZ_HOLD(!t->valid || t->hpa != FRAME_HPA + frame * NVMX_PAGE_SIZE || (protects && !(t->rights & 2)),
                      "processor %u keeps a translation to frame %llu, which the host has taken", i, U(frame));
        }
}

static uint64_t free_frame(void) {
    uint64_t frame = fuzz_u8(world.in) % FRAMES;
    while (world.owner[frame] != NOBODY)
        frame = (frame + 1) % FRAMES;
    return frame;
}

static void do_memory(void) {
    uint8_t what = fuzz_u8(world.in);
    uint64_t target = fuzz_u8(world.in) % TARGETS, old = world.ept01[target] >> 12;
    bool hole = world.ept01[target] == 0;
    if (what % 4 == 0 && !hole) {
        world.ept01[target] &= ~UINT64_C(2);
        tell_all(target, true, old);
    } else if (what % 4 == 1 && !hole) {
        world.ept01[target] = 0;
        tell_all(target, false, old);
        world.owner[old] = NOBODY;
    } else if (what % 4 == 2 && !hole) {
        uint64_t frame = free_frame();
        world.owner[frame] = target;
        world.ept01[target] = frame << 12 | 7;
        tell_all(target, false, old);
        world.owner[old] = NOBODY;
    } else if (!hole) {
        world.ept01[target] |= 7;
    }
    fuzz_log("page %llu of L1: %#llx", U(target), U(world.ept01[target]));
}

static void do_leaf(void) {
    static const uint8_t rights[] = {7, 7, 7, 5, 3, 1, 4, 0, 2, 6};
    uint8_t where = fuzz_u8(world.in);
    uint64_t target = fuzz_u8(world.in) % TARGETS, leaf = rights[fuzz_u8(world.in) % sizeof(rights)];
    unsigned int tree = where >> 7;
    if (leaf != 0)
        leaf |= (TARGET_GPA1 + target * NVMX_PAGE_SIZE) | 6 << 3;
    else
        leaf = TARGET_GPA1;
    set_leaf(tree, where % PAGES, leaf);
    fuzz_log("page %u of tree %u: %#llx", where % PAGES, tree, U(leaf));
}

/* -- vCPUs ---------------------------------------------------------------------------------------------------- */

static uint8_t *saved(const struct cpu *c, size_t *bytes) {
    size_t room = nvmx_state_size(c->sim->vcpu);
    uint8_t *blob = malloc(room);
    FUZZ_HOLD(blob != NULL && nvmx_state_save(c->sim->vcpu, blob, room, bytes) == NVMX_OK, "L1 %u can't be saved",
              c->l1);
    return blob;
}

static void arrives(struct cpu *c, unsigned int l1, uint8_t *blob, size_t bytes) {
    struct nvmx_state_error error;
    for (uint32_t which = NVMX_VMCS02_FIRST; which < SIM_VMCSS; which = sim_next_vmcs(which))
        sim_poison(c->sim, which);
    memset(c->tlb, 0, sizeof(c->tlb)); /* nvmx.h, vpid02_first: the host's part */
    c->l1 = l1;
    vcpu_make(c);
    enum nvmx_state_reason reason = nvmx_state_restore(c->sim->vcpu, blob, bytes, &error);
    FUZZ_HOLD(reason == NVMX_STATE_OK, "L1 %u is refused elsewhere: %s", l1, nvmx_state_reason_text(reason));
    free(blob);
}

/* Two vCPUs are saved, and go on in each other's place; or one where it was. */
static void do_move(struct cpu *c) {
    struct cpu *other = &world.cpu[fuzz_u8(world.in) % CPUS];
    size_t bytes, others_bytes = 0;
    uint8_t *blob = saved(c, &bytes), *others = other != c ? saved(other, &others_bytes) : NULL;
    unsigned int mine = c->l1, theirs = other->l1;
    fuzz_log("L1 %u and %u change places", mine, theirs);
    vcpu_destroy(c);
    if (other != c) {
        vcpu_destroy(other);
        arrives(c, theirs, others, others_bytes);
    }
    arrives(other, mine, blob, bytes);
}

static void do_reset(struct cpu *c, bool destroys) {
    fuzz_log("L1 %u is %s", c->l1, destroys ? "destroyed and made anew" : "reset");
    if (destroys) {
        vcpu_destroy(c);
        vcpu_make(c);
    } else {
        nvmx_vcpu_reset(c->sim->vcpu);
        power_up(c);
        nvmx_vmcs01_changed(c->sim->vcpu);
        nvmx_wrmsr(c->sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    }
    l1_is_off(c);
}

/* -- steps ---------------------------------------------------------------------------------------------------- */

/* The next step of a guest has a callback that fails: of the VM's memory, or of the processor's VMCSs. */
static void arm(const struct cpu *c, uint8_t at) {
    struct sim *sim = at & 0x80 ? c->sim : world.sim;
    sim->fail.at = 1u + at % 64u;
}

static void guest_step(struct cpu *c, uint8_t what) {
    world.sim->calls = world.sim->failed = 0;
    c->sim->calls = c->sim->failed = 0;
    world.failed = false;
    if (world.fails != 0)
        arm(c, world.fails);
    world.fails = 0;
    if (l1_of(c)->mode == NVMX_MODE_L2)
        l2_step(c, what);
    else
        l1_step(c, what);
    memset(&world.sim->fail, 0, sizeof(world.sim->fail));
    memset(&c->sim->fail, 0, sizeof(c->sim->fail));
    FUZZ_HOLD(nvmx_mode(c->sim->vcpu) == l1_of(c)->mode, "L1 %u is in mode %d, not %d", c->l1,
              (int)nvmx_mode(c->sim->vcpu), (int)l1_of(c)->mode);
}

/* Steps have one size, so that one taken out or put in leaves the others as they are: who, what, and three bytes that
 * mean something to it. */
#define STEP_BYTES 4u

enum {
    GUEST = 0,
    GUEST_GOES = 16 /* enters L2, or accesses memory there */,
    LEAF = 22,
    MEMORY = 24,
    FAILS,
    MOVES,
    RESETS,
    STEPS
};
#define GOES 12u

static uint8_t step(unsigned int cpu, unsigned int what) {
    return (uint8_t)(what * CPUS + cpu);
}

static void one_step(struct fuzz_input *in) {
    fuzz_piece(in, FUZZ_L1);
    uint8_t bytes[STEP_BYTES];
    for (unsigned int i = 0; i < STEP_BYTES; i++)
        bytes[i] = fuzz_u8(in);
    struct fuzz_input rest = {bytes + 1, STEP_BYTES - 1};
    struct cpu *c = &world.cpu[bytes[0] % CPUS];
    unsigned int what = bytes[0] / CPUS % STEPS;
    world.in = &rest;
    world.now++;
    if (what < LEAF)
        guest_step(c, what < GUEST_GOES ? (uint8_t)what : GOES);
    else if (what < MEMORY)
        do_leaf();
    else if (what == FAILS)
        world.fails = bytes[1];
    else if (what == MOVES)
        do_move(c);
    else if (what == RESETS && bytes[1] < 64)
        do_reset(c, bytes[1] & 1);
    else
        do_memory();
}

/* -- steps that belong together ------------------------------------------------------------------------------- */

static size_t put(uint8_t *at, uint8_t who_and_what, uint32_t a, uint32_t b, uint32_t c) {
    const uint8_t bytes[STEP_BYTES] = {who_and_what, (uint8_t)a, (uint8_t)b, (uint8_t)c};
    memcpy(at, bytes, sizeof(bytes));
    return sizeof(bytes);
}

/* One VPID after the other, and the same page with each. */
static size_t many_vpids(uint32_t (*below)(uint32_t limit), uint8_t *at) {
    uint32_t cpu = below(CPUS), page = below(PAGES), first = below(VPIDS + 1);
    size_t size = 0;
    for (uint32_t i = 0; i < 4; i++) {
        size += put(at + size, step(cpu, 0), 0, 0, 0);
        size += put(at + size, step(cpu, 8), first + i, 0, 0);
        size += put(at + size, step(cpu, GUEST_GOES), 0, 0, 0);
        size += put(at + size, step(cpu, GUEST_GOES), page, 0, 0);
    }
    return size;
}

/* All use a page; one of them, or the host, changes what it is, and they use it again. */
static size_t a_change(uint32_t (*below)(uint32_t limit), uint8_t *at) {
    uint32_t page = below(PAGES), cpu = below(CPUS), kind = below(3), target = below(2) ? page : below(TARGETS);
    size_t size = 0;
    for (uint32_t i = 0; i < CPUS; i++)
        size += put(at + size, step(i, GUEST_GOES), page, kind, 0);
    if (below(2))
        size += put(at + size, step(0, MEMORY), below(4), page, below(FRAMES));
    else
        size += put(at + size, step(0, LEAF), page | below(2) << 7, target, below(10));
    size += put(at + size, step(cpu, GUEST_GOES), page, kind, 0);
    size += put(at + size, step(cpu, 0), 0, 0, 0);
    size += put(at + size, step(cpu, 2 + below(2)), below(8), page, below(VPIDS));
    for (uint32_t i = 0; i < CPUS; i++)
        size += put(at + size, step(i, GUEST_GOES), page, kind, 0);
    return size + put(at + size, step(cpu, GUEST_GOES), page, kind, 0);
}

/* A VMCS goes from one processor to another. */
static size_t a_vmcs_goes(uint32_t (*below)(uint32_t limit), uint8_t *at) {
    uint32_t from = below(CPUS), to = below(CPUS), which = below(REGIONS);
    size_t size = put(at, step(from, 0), which, 0, 0);
    size += put(at + size, step(from, 5), which, 0, 0);
    size += put(at + size, step(from, 6), below(256), 0, 0);
    size += put(at + size, step(from, 0), which, 0, 0);
    size += put(at + size, step(to, 0), which, 0, 0);
    size += put(at + size, step(to, 5), which, 0, 0);
    return size + put(at + size, step(to, below(2) ? 7 : GUEST_GOES), 0, 0, 0);
}

size_t fuzz_new_operation(enum fuzz_piece kind, uint32_t (*below)(uint32_t limit), uint8_t *out) {
    size_t size = 0;
    (void)kind;
    switch (below(6)) {
    case 0:
        return many_vpids(below, out);
    case 1:
        return a_change(below, out);
    case 2:
        return a_vmcs_goes(below, out);
    case 3:
        size = put(out, step(0, FAILS), below(256), 0, 0);
        /* fall through */
    default:
        return size + put(out + size, step(below(CPUS), below(STEPS)), below(256), below(256), below(256));
    }
}

/* -- the whole ------------------------------------------------------------------------------------------------ */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    world.fails = 0;
    world_start(fuzz_u8(&in));
    for (unsigned int i = 0; i < 150 && fuzz_more(&in); i++)
        one_step(&in);
    world_end();
    return 0;
}
