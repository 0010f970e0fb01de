/* SPDX-License-Identifier: MIT */
/*
 * State blobs: what a vCPU saves, changed by the input; or bytes of the input alone. The library is
 * built without xxHash here, and so looks past the checksum, which an attacker can compute.
 *
 * Held: nvmx_state_check and nvmx_state_restore agree; a refused blob changes nothing; an accepted one is saved again as the same state, and if L2 runs in it,
 * its vmcs02 passes the CPU's checks; reading records stays inside the blob.
 *
 * Input: profile, what the vCPU does, changes of the host's controls, of its vmcs12, then of the blob: place, value; which callback fails.
 */
#include <stdlib.h>
#include <string.h>

#include <nvmx/state.h>

#include "fuzz.h"

#define MOST_BYTES 65536u

static void put_into_state(struct fuzz_machine *m, struct fuzz_input *in, uint8_t what) {
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_input check = {.field = field, .caps = nvmx_l1_caps(m->sim->vm), .current_vmcs = SIM_L1_VMCS_A, .vmxon_pointer = SIM_L1_VMXON, .l1_long_mode = true};
    if (what % 4 == 0)
        return;
    memcpy(field, m->field, sizeof(field));
    if (what & 8)
        fuzz_change_vmcs12(m, in, &check, field, 3);
    fuzz_load_vmcs12(m, field);
    if (what % 4 == 1)
        return;
    enum sim_outcome outcome = sim_vmlaunch(m->sim);
    if (outcome != SIM_L2) {
        fuzz_log("VMLAUNCH: %s, error %u, check %u", sim_outcome_text(outcome), outcome == SIM_FAIL_VALID ? sim_instruction_error(m->sim) : 0,
                 nvmx_last_check(m->sim->vcpu));
        return;
    }
    if (what % 4 == 3)
        sim_exit(m->sim, 10, 0, 0, 2);
}

static size_t save(struct sim *sim, uint8_t *blob) {
    size_t used = 0;
    memset(blob, 0xee, MOST_BYTES);
    enum nvmx_status status = nvmx_state_save(sim->vcpu, blob, MOST_BYTES, &used);
    FUZZ_HOLD(status == NVMX_OK, "nvmx_state_save: %s", nvmx_status_text(status));
    return used;
}

/* A callback fails while the state is saved: refused, and it can be saved after all, to the same bytes. */
static void save_failing(struct sim *sim, const uint8_t *blob, size_t bytes, uint8_t at) {
    static uint8_t other[MOST_BYTES];
    size_t used = 0;
    sim->calls = sim->failed = 0;
    sim->fail.at = at;
    enum nvmx_status status = nvmx_state_save(sim->vcpu, other, MOST_BYTES, &used);
    memset(&sim->fail, 0, sizeof(sim->fail));
    fuzz_log("saved with callback %u failing: %s", at, nvmx_status_text(status));
    FUZZ_HOLD(status == NVMX_OK || sim->failed, "nvmx_state_save: %s", nvmx_status_text(status));
    used = nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE ? save(sim, other) : bytes;
    FUZZ_HOLD(nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE || (used == bytes && memcmp(other, blob, bytes) == 0), "after a save that failed the state is another");
}

/* Walk the records as a tool does. */
static void read_records(const uint8_t *blob, size_t bytes) {
    struct nvmx_state_record record;
    struct nvmx_caps caps;
    uint64_t offset = 0, sum = 0;
    for (unsigned int i = 0; i < 4096 && nvmx_state_next(blob, bytes, &offset, &record); i++) {
        const uint8_t *first = record.first;
        FUZZ_HOLD(record.offset < bytes && offset <= bytes, "record %u ends at %llu of %zu", i, (unsigned long long)offset, bytes);
        FUZZ_HOLD(record.items == 0 || (first >= blob && first + (size_t)record.items * 16 <= blob + bytes), "items of record %u", i);
        for (size_t byte = 0; byte < (size_t)record.items * 16; byte++)
            sum += first[byte];
    }
    fuzz_log("records read, sum %llu", (unsigned long long)sum);
    nvmx_state_profile(blob, bytes, &caps);
}

/*
 * Fields that a VM-entry control loads, and the MSRs that hold the values where that control is 0 (SDM 27.4.1, 29.3.2.1). The others exist only where vmcs01 loads
 * them, too, and so does vmcs02. */
static const struct {
    uint32_t encoding, msr;
} loaded[] = {
    {NVMX_VMCS_GUEST_DEBUGCTL, 0x1d9}, {NVMX_VMCS_GUEST_PAT, 0x277}, {NVMX_VMCS_GUEST_EFER, 0xc0000080}, {NVMX_VMCS_GUEST_PERF_GLOBAL_CTRL, 0x38f},
    {NVMX_VMCS_GUEST_BNDCFGS, 0xd90}, {NVMX_VMCS_GUEST_RTIT_CTL, 0x570}, {NVMX_VMCS_GUEST_LBR_CTL, 0x14ce}, {NVMX_VMCS_GUEST_PKRS, 0x6e1},
    {NVMX_VMCS_GUEST_SPEC_CTRL, 0x48}, {NVMX_VMCS_GUEST_FRED_CONFIG, 0x1d4}, {NVMX_VMCS_GUEST_FRED_RSP1, 0x1cd}, {NVMX_VMCS_GUEST_FRED_RSP2, 0x1ce},
    {NVMX_VMCS_GUEST_FRED_RSP3, 0x1cf}, {NVMX_VMCS_GUEST_FRED_STKLVLS, 0x1d0}, {NVMX_VMCS_GUEST_FRED_SSP1, 0x1d1}, {NVMX_VMCS_GUEST_FRED_SSP2, 0x1d2},
    {NVMX_VMCS_GUEST_FRED_SSP3, 0x1d3},
};

/* An item is in one of the blobs alone: a field that is in L2's VMCS or in the MSR (lib/STATE.md). Where it leaves the VMCS, the MSR has got its value. */
static bool may_move(struct sim *sim, const uint8_t *item, bool left) {
    uint32_t encoding;
    uint64_t value;
    memcpy(&encoding, item, sizeof(encoding));
    memcpy(&value, item + 8, sizeof(value));
    for (size_t i = 0; i < sizeof(loaded) / sizeof(loaded[0]); i++)
        if (loaded[i].encoding == encoding)
            return !left || sim_msr(sim, loaded[i].msr)->value == value;
    return !left && (encoding == NVMX_VMCS_GUEST_DR7 || encoding == NVMX_VMCS_GUEST_UINV || encoding == NVMX_VMCS_GUEST_S_CET || encoding == NVMX_VMCS_GUEST_SSP ||
                     encoding == NVMX_VMCS_GUEST_INTERRUPT_SSP_TABLE_ADDR);
}

static uint64_t value_in(const struct nvmx_state_record *record, uint32_t wanted) {
    uint64_t value = 0;
    for (size_t i = 0; i < record->items; i++)
        if (memcmp((const uint8_t *)record->first + i * 16, &wanted, sizeof(wanted)) == 0)
            memcpy(&value, (const uint8_t *)record->first + i * 16 + 8, sizeof(value));
    return value;
}

#define CR4_MCE UINT64_C(0x40)

/*
 * L2's CR0 and CR4 read shadows are computed anew from vmcs12: others in a blob are accepted and not kept. Blocking by NMI an injected NMI brings back. Under a host
 * that keeps CR4.MCE set for itself L2 has the one that it reads, which in a changed blob need not be the register's.
 */
static bool may_differ(const struct nvmx_state_record *record, const uint8_t *item, const uint8_t *other) {
    uint32_t encoding;
    uint64_t value, others;
    memcpy(&encoding, item, sizeof(encoding));
    memcpy(&value, item + 8, sizeof(value));
    memcpy(&others, other + 8, sizeof(others));
    bool nmi_unblocked = encoding == NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE && others == (value & ~UINT64_C(8));
    bool mce_as_read = encoding == NVMX_VMCS_GUEST_CR4 && (value ^ others) == CR4_MCE && (others & CR4_MCE) == (value_in(record, NVMX_VMCS_CR4_READ_SHADOW) & CR4_MCE);
    return memcmp(item, other, 8) == 0 && (encoding == NVMX_VMCS_CR0_READ_SHADOW || encoding == NVMX_VMCS_CR4_READ_SHADOW || nmi_unblocked || mce_as_read);
}

/* What was saved after the restore and, again, after it was completed. */
static void check_same_state(struct sim *sim, const uint8_t *after, size_t after_bytes, const uint8_t *again, size_t again_bytes) {
    struct nvmx_state_record one, other;
    uint64_t at = 0, other_at = 0;
    for (;;) {
        bool more = nvmx_state_next(after, after_bytes, &at, &one);
        FUZZ_HOLD(more == nvmx_state_next(again, again_bytes, &other_at, &other), "completing changed how many records there are");
        if (!more)
            return;
        const uint8_t *a = one.first, *b = other.first, *a_end = a + (size_t)one.items * 16, *b_end = b + (size_t)other.items * 16;
        FUZZ_HOLD(one.tag == other.tag && memcmp(one.head, other.head, sizeof(one.head)) == 0, "record of tag %u became one of tag %u, or its head another", one.tag, other.tag);
        while (a < a_end || b < b_end) { /* ids ascend */
            uint32_t id = UINT32_MAX, other_id = UINT32_MAX;
            if (a < a_end)
                memcpy(&id, a, sizeof(id));
            if (b < b_end)
                memcpy(&other_id, b, sizeof(other_id));
            if (id == other_id)
                FUZZ_HOLD(memcmp(a, b, 16) == 0 || (one.tag == 7 && may_differ(&one, a, b)), "completing changed item %#x of tag %u", id, one.tag);
            else
                FUZZ_HOLD(one.tag == 7 && may_move(sim, id < other_id ? a : b, id < other_id), "completing %s item %#x of tag %u", id < other_id ? "lost" : "made",
                          id < other_id ? id : other_id, one.tag);
            a += id <= other_id ? 16 : 0;
            b += other_id <= id ? 16 : 0;
        }
    }
}

/* What an entry loads from vmcs02 L1 may ask for, or the host's own entries load: the processor keeps it when L2 leaves to the host (nvmx.h, `mask`). */
static void check_loads(const struct fuzz_machine *m) {
    const struct sim *sim = m->sim;
    uint64_t allowed = nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_ENTRY] >> 32 | sim_get(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS);
    uint64_t loads = sim_get(sim, nvmx_selected(sim->vcpu), NVMX_F_VM_ENTRY_CONTROLS);
    FUZZ_HOLD((loads & ~allowed) == 0, "the restored vmcs02 has the VM-entry controls %#llx, beyond %#llx", (unsigned long long)loads, (unsigned long long)allowed);
}

/* The host failed while L2 was put together: the state is what it was, and so it is after the next attempt. */
static void complete_again(struct sim *sim, const uint8_t *after, size_t after_bytes) {
    static uint8_t again[MOST_BYTES];
    size_t again_bytes = save(sim, again);
    check_same_state(sim, after, after_bytes, again, again_bytes);
    fuzz_log("once more: %s", nvmx_status_text(nvmx_state_complete(sim->vcpu)));
    again_bytes = save(sim, again);
    check_same_state(sim, after, after_bytes, again, again_bytes);
}

/* `fails`: which callback does while L2 is put together again; 0: none. */
static void restore(struct fuzz_machine *m, const uint8_t *blob, size_t bytes, uint8_t fails) {
    static uint8_t before[MOST_BYTES], after[MOST_BYTES], again[MOST_BYTES];
    struct sim *sim = m->sim;
    struct nvmx_state_error error = {0}, error2 = {0};
    size_t before_bytes = save(sim, before);
    enum nvmx_state_reason expected = nvmx_state_check(blob, bytes, sim->vcpu, &error);
    enum nvmx_state_reason reason = nvmx_state_restore(sim->vcpu, blob, bytes, &error2);
    fuzz_log("%s (offset %llu, detail %#x)", nvmx_state_reason_text(reason), (unsigned long long)error2.offset, error2.detail);
    FUZZ_HOLD(reason == expected, "check says %s, restore %s", nvmx_state_reason_text(expected), nvmx_state_reason_text(reason));
    size_t after_bytes = save(sim, after);
    if (reason != NVMX_STATE_OK) {
        FUZZ_HOLD(after_bytes == before_bytes && memcmp(before, after, after_bytes) == 0, "a refused blob changed the vCPU");
        return;
    }
    FUZZ_HOLD(nvmx_state_check(after, after_bytes, sim->vcpu, &error) == NVMX_STATE_OK, "what was saved after a restore is refused: %s",
              nvmx_state_reason_text(error.reason));
    sim->calls = sim->failed = 0;
    sim->fail.at = fails;
    enum nvmx_status completed = nvmx_state_complete(sim->vcpu);
    memset(&sim->fail, 0, sizeof(sim->fail));
    if (sim->failed) {
        fuzz_log("callback %u failed: %s", fails, nvmx_status_text(completed));
        complete_again(sim, after, after_bytes);
        return;
    }
    if (completed == NVMX_OK && nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE) {
        bool ran_l2 = nvmx_mode(sim->vcpu) == NVMX_MODE_L2;
        if (ran_l2)
            check_loads(m);
        FUZZ_HOLD(sim_enter(sim, NULL) != NVMX_HOST, "nvmx_enter after a restore");
        if (ran_l2 && m->options.deadline && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT)
            return; /* the timer that the host counts was over */
        size_t again_bytes = save(sim, again);
        check_same_state(sim, after, after_bytes, again, again_bytes);
    }
}

/* A bit of a control field of the blob's first vmcs12 that has it: what bytes anywhere seldom hit. */
static void change_control(uint8_t *blob, size_t bytes, size_t which, uint8_t bit) {
    static const uint32_t controls[] = {NVMX_VMCS_PIN_BASED_CONTROLS, NVMX_VMCS_PRIMARY_CONTROLS, NVMX_VMCS_SECONDARY_CONTROLS, NVMX_VMCS_VM_ENTRY_CONTROLS,
                                        NVMX_VMCS_VM_EXIT_CONTROLS,   NVMX_VMCS_EPT_POINTER};
    const uint64_t id = controls[which % (sizeof(controls) / sizeof(controls[0]))];
    for (size_t at = 0; at + 16 <= bytes; at += 8)
        if (memcmp(blob + at, &id, sizeof(id)) == 0) {
            blob[at + 8 + bit % 64 / 8] ^= (uint8_t)(1u << bit % 8);
            fuzz_log("bit %u of field %#x is another", bit % 64u, (unsigned int)id);
            return;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t blob[MOST_BYTES];
    struct fuzz_input in = fuzz_start(data, size);
    struct fuzz_machine *m = fuzz_machine(fuzz_u8(&in));
    uint8_t what = fuzz_u8(&in);
    size_t bytes;
    if (!m)
        return 0;
    FUZZ_HOLD(nvmx_state_size(m->sim->vcpu) <= MOST_BYTES, "blobs are larger than this harness thinks");
    if (what & 0x80) {
        bytes = in.left < MOST_BYTES ? in.left : MOST_BYTES;
        if (bytes != 0)
            memcpy(blob, in.at, bytes);
    } else {
        if (what & 4)
            fuzz_host_controls(m, &in);
        put_into_state(m, &in, what);
        bytes = save(m->sim, blob);
        if (what & 0x10)
            save_failing(m->sim, blob, bytes, fuzz_u8(&in));
        for (unsigned int i = 0; i < 16 && fuzz_more(&in); i++) {
            fuzz_piece(&in, FUZZ_OTHER);
            size_t place = fuzz_u16(&in);
            uint8_t how = fuzz_u8(&in);
            if (place >= 0xf000) {
                change_control(blob, bytes, place, how);
                continue;
            }
            place %= bytes;
            blob[place] = how & 1 ? (uint8_t)(blob[place] ^ fuzz_u8(&in)) : how;
            fuzz_log("byte %zu is %#x", place, blob[place]);
        }
        if (what & 0x20)
            bytes = bytes * fuzz_u8(&in) / 256;
    }
    uint8_t *exact = malloc(bytes != 0 ? bytes : 1); /* so that reading past the end shows */
    if (!exact)
        return 0;
    if (bytes != 0)
        memcpy(exact, blob, bytes);
    read_records(exact, bytes);
    restore(m, exact, bytes, what & 0x40 ? fuzz_u8(&in) : 0);
    free(exact);
    return 0;
}
