/* SPDX-License-Identifier: MIT */
/*
 * Operands of VMX instructions in every mode of L1: any instruction information, segments, control registers and page tables.
 *
 * Held: the instruction ends as one of VMX does: success, VMfail, #UD, #GP, #SS, #PF or the like; RIP moves on only without a fault; an operand in plain memory
 * (flat or identity-mapped) is where its segment, base, index, scale and displacement say, transcribed below; nothing stays mapped; the vCPU never stops.
 *
 * Input: profile, mode, reason, information, displacement, registers, then what is changed of segments, control registers and page tables.
 */
#include <string.h>

#include <nvmx/decode.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define VMPTRST 22u
#define RAM_MASK (SIM_RAM_BYTES - 1)

static const uint8_t reasons[] = {19, 21, 22, 22, 22, 23, 25, 27, 50, 53};

struct run {
    struct sim *sim;
    struct fuzz_input *in;
    bool long_mode, plain;
    uint32_t reason, information;
    uint64_t displacement;
};

static uint64_t base_of(const struct sim *sim, unsigned int segment) {
    static const uint8_t base[] = {NVMX_F_GUEST_ES_BASE, NVMX_F_GUEST_CS_BASE, NVMX_F_GUEST_SS_BASE, NVMX_F_GUEST_DS_BASE, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_GS_BASE};
    return sim_get(sim, NVMX_VMCS01, (enum nvmx_field)base[segment % 6]);
}

static uint64_t gpr(const struct sim *sim, unsigned int number) {
    return number == NVMX_RSP ? sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RSP) : sim->regs.gpr[number];
}

/* SDM table 30-13 and 25.3 (addresses): the linear address of the memory operand. */
static uint64_t linear_address(const struct run *r) {
    uint32_t info = r->information;
    unsigned int size = info >> 7 & 7, segment = info >> 15 & 7;
    uint64_t offset = r->displacement;
    if (!(info >> 27 & 1))
        offset += gpr(r->sim, info >> 23 & 15);
    if (!(info >> 22 & 1))
        offset += gpr(r->sim, info >> 18 & 15) << (info & 3);
    offset = size == 0 ? (uint16_t)offset : size == 1 ? (uint32_t)offset : offset;
    if (r->long_mode && segment != 4 && segment != 5) /* FS and GS alone have a base in 64-bit mode */
        return offset;
    uint64_t linear = offset + base_of(r->sim, segment);
    return r->long_mode ? linear : (uint32_t)linear;
}

static void change(struct run *r) {
    static const uint8_t fields[] = {
        NVMX_F_GUEST_ES_BASE, NVMX_F_GUEST_DS_BASE, NVMX_F_GUEST_FS_BASE, NVMX_F_GUEST_GS_BASE, NVMX_F_GUEST_SS_BASE, NVMX_F_GUEST_DS_LIMIT, NVMX_F_GUEST_SS_LIMIT,
        NVMX_F_GUEST_ES_LIMIT, NVMX_F_GUEST_DS_ACCESS_RIGHTS, NVMX_F_GUEST_SS_ACCESS_RIGHTS, NVMX_F_GUEST_ES_ACCESS_RIGHTS, NVMX_F_GUEST_CS_ACCESS_RIGHTS,
        NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR3, NVMX_F_GUEST_CR4, NVMX_F_GUEST_RFLAGS, NVMX_F_GUEST_PDPTE0, NVMX_F_GUEST_RSP, NVMX_F_GUEST_RIP,
        NVMX_F_GUEST_INTERRUPTIBILITY_STATE,
    };
    uint8_t what = fuzz_u8(r->in);
    if (what < 64) {
        unsigned int slot = fields[what % sizeof(fields)];
        uint64_t value = fuzz_value(r->in), before = sim_get(r->sim, NVMX_VMCS01, (enum nvmx_field)slot);
        sim_set(r->sim, NVMX_VMCS01, (enum nvmx_field)slot, (what & 32 ? value : before ^ value) & nvmx_field_mask(slot));
        r->plain = r->plain && slot >= NVMX_F_GUEST_ES_BASE && (slot == NVMX_F_GUEST_FS_BASE || slot == NVMX_F_GUEST_GS_BASE || slot == NVMX_F_GUEST_DS_BASE);
        fuzz_log("%s is %#llx", nvmx_field_info(slot)->name, U(sim_get(r->sim, NVMX_VMCS01, (enum nvmx_field)slot)));
    } else if (what < 128) { /* an entry of the tables at CR3 and behind */
        uint64_t at = SIM_L1_PML4 + (uint64_t)(what & 3) * 0x1000 + (uint64_t)(fuzz_u8(r->in) & 7) * 8;
        sim_write64(r->sim, at, sim_read64(r->sim, at) ^ fuzz_value(r->in));
        r->plain = false;
    } else if (what < 160) {
        sim_msr(r->sim, 0xc0000080)->value ^= fuzz_value(r->in);
        r->plain = false;
    } else {
        r->sim->regs.gpr[what & 15] = fuzz_value(r->in);
    }
}

static void check(const struct run *r, enum nvmx_next next, uint64_t rip, uint32_t length) {
    const struct sim *sim = r->sim;
    int vector = sim_fault_vector(sim);
    uint64_t now = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    bool moved = now != rip;
    fuzz_log("reason %u, information %#x: %d, vector %d, RIP %#llx", r->reason, r->information, (int)next, vector, U(now));
    FUZZ_HOLD(next == NVMX_ENTER, "reason %u: next %d: %s", r->reason, (int)next, nvmx_status_text(nvmx_stop_status(sim->vcpu)));
    FUZZ_HOLD(vector < 0 || vector == 6 || (vector >= 11 && vector <= 14) || vector == 17, "exception %d", vector);
    FUZZ_HOLD(!(moved && vector >= 0), "exception %d, and RIP moves on to %#llx", vector, U(now));
    FUZZ_HOLD(!moved || now - rip == length || (uint32_t)(now - rip) == length || (uint16_t)(now - rip) == length, "RIP moves from %#llx to %#llx", U(rip), U(now));
    if (r->reason == VMPTRST && r->plain && moved) {
        uint64_t linear = linear_address(r), bytes = 0;
        bool there = linear + 8 <= SIM_RAM_BYTES;
        if (there)
            bytes = sim_read64(sim, linear);
        FUZZ_HOLD(!there || bytes == SIM_L1_VMCS_A, "the operand of VMPTRST is at %#llx, where %#llx is", U(linear), U(bytes));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    struct fuzz_machine *m = fuzz_machine(fuzz_u8(&in));
    struct run r = {.in = &in};
    if (!m)
        return 0;
    struct sim *sim = r.sim = m->sim;
    memcpy(sim->ram, m->low_memory, sizeof(m->low_memory));
    fuzz_load_vmcs12(m, m->field);
    uint8_t mode = fuzz_u8(&in);
    r.long_mode = !(mode & 1);
    r.plain = !m->options.translate;
    if (!r.long_mode)
        sim_l1_mode32(sim);
    nvmx_vmcs01_changed(sim->vcpu);
    r.reason = reasons[fuzz_u8(&in) % sizeof(reasons)];
    r.information = mode & 2 ? fuzz_u32(&in) : (r.long_mode ? 2u : 1u) << 7 | 3u << 15 | 1u << 22 | 1u << 27;
    r.displacement = mode & 4 ? fuzz_value(&in) : SIM_L1_OPERAND + (uint64_t)(mode >> 4) * 0x1ff8;
    sim_write64(sim, SIM_L1_OPERAND, mode & 8 ? fuzz_value(&in) : SIM_L1_VMCS_A);
    for (unsigned int i = 0; i < 12 && fuzz_more(&in); i++) {
        fuzz_piece(&in, FUZZ_OTHER);
        change(&r);
    }
    /* Registers as operands of VMREAD and VMWRITE, and types of invalidations, come from the same bytes. */
    uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP), mapped = sim->mapped;
    enum nvmx_next next = sim_exit(sim, r.reason, r.displacement, r.information, 4);
    check(&r, next, rip, 4);
    FUZZ_HOLD(sim->mapped == mapped || r.reason == 19 || r.reason == 21, "%llu pages stay mapped", U(sim->mapped - mapped));
    return 0;
}
