/* SPDX-License-Identifier: MIT */
/*
 * KVM's blob of nested state: what our blob becomes there, with bytes changed by the input; or bytes of the input alone.
 *
 * Held: a blob is refused, or becomes one of ours that nvmx_state_check takes and a vCPU restores; what was taken and sent to KVM, taken
 * again and sent again, is the same; too little room is told, and nothing is written beyond it; nothing past the blob's end is read.
 *
 * Input: what the vCPU does, changes of its vmcs12, what is elsewhere, then changes of the blob: place, value.
 */
#include <stdlib.h>
#include <string.h>

#include <nvmx/state_kvm.h>

#include "fuzz.h"
#include "vcpu.h"

#define MOST_BYTES 65536u
#define GUARD 0xe7

/* A VM whose L1 has VMCS regions as KVM has them. Made once. */
static struct sim *machine(void) {
    static struct nvmx_vmcs12_layout layout;
    static struct nvmx_caps caps;
    static struct sim *sim;
    if (sim == NULL) {
        nvmx_kvm_layout(&layout);
        sim_machine(&caps);
        caps.msr[NVMX_CAP_MISC] |= 5;
        sim = sim_new(&(struct sim_options){.layout = &layout, .machine = &caps});
        FUZZ_HOLD(sim->vcpu != NULL, "no vCPU");
    }
    nvmx_vcpu_reset(sim->vcpu);
    sim->selected = NVMX_VMCS01;
    nvmx_wrmsr(sim->vcpu, NVMX_MSR_FEATURE_CONTROL, 5, true);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR4, 0x2020);
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    return sim;
}

/* L1 changes what a good vmcs12 has, as the input says. */
static void change_vmcs12(struct sim *sim, struct fuzz_input *in, unsigned int most) {
    uint64_t field[NVMX_FIELD_COUNT] = {0}, before[NVMX_FIELD_COUNT];
    const struct nvmx_caps *caps = nvmx_l1_caps(sim->vm);
    struct nvmx_check_input check = {.field = field, .caps = caps, .current_vmcs = SIM_L1_VMCS_A, .vmxon_pointer = SIM_L1_VMXON, .l1_long_mode = true,
                                     .link_readable = true, .link_revision = 0x80000000u | NVMX_KVM_REVISION, .pdpte_readable = true};
    struct nvmx_field_set exists;
    nvmx_fields_existing(caps, &exists);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&exists, slot))
            FUZZ_HOLD(sim_vmread(sim, nvmx_field_info(slot)->encoding, &field[slot]) == SIM_SUCCEED, "VMREAD of %#x", nvmx_field_info(slot)->encoding);
    memcpy(before, field, sizeof(before));
    fuzz_change_vmcs12(NULL, in, &check, field, most);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (field[slot] != before[slot])
            (void)sim_vmwrite(sim, nvmx_field_info(slot)->encoding, field[slot]);
}

static void put_into_state(struct sim *sim, struct fuzz_input *in, uint8_t what) {
    if (what % 5 == 0 || sim_vmxon_ready(sim) != SIM_SUCCEED || what % 5 == 1)
        return;
    sim_region(sim, FUZZ_SHADOW_REGION);
    sim_write32(sim, FUZZ_SHADOW_REGION, sim_read32(sim, FUZZ_SHADOW_REGION) | 0x80000000u);
    sim_region(sim, SIM_L1_VMCS_B);
    if (what & 0x10) { /* another one is active */
        FUZZ_HOLD(sim_vmclear(sim, SIM_L1_VMCS_B) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_B) == SIM_SUCCEED, "another VMCS");
        FUZZ_HOLD(sim_vmwrite(sim, NVMX_VMCS_GUEST_RIP, 0x1234) == SIM_SUCCEED && sim_vmptrld(sim, SIM_L1_VMCS_A) == SIM_SUCCEED, "a VMCS again");
    }
    FUZZ_HOLD(sim_vmcs12(sim) == 0, "a vmcs12 is refused");
    if (what & 0x20)
        change_vmcs12(sim, in, 1 + (what & 0x10 ? 3u : 0u));
    if (what % 5 == 2)
        return;
    enum sim_outcome outcome = sim_vmlaunch(sim);
    FUZZ_HOLD(outcome == SIM_L2 || what & 0x20, "VMLAUNCH: %s", sim_outcome_text(outcome));
    if (outcome == SIM_L2 && what % 5 == 4)
        sim_exit(sim, 10, 0, 0, 2);
}

/* Regions that are active beside the current one, as a tool takes them out. */
static void read_regions(const uint8_t *blob, size_t bytes) {
    static uint8_t region[NVMX_PAGE_SIZE];
    uint64_t gpa1 = NVMX_NO_ADDRESS;
    for (uint32_t i = 0; i < NVMX_VMCS02_MAX && nvmx_state_kvm_region(blob, bytes, i, &gpa1, region); i++)
        FUZZ_HOLD(gpa1 % NVMX_PAGE_SIZE == 0, "region %u is at %#llx", i, (unsigned long long)gpa1);
}

struct kvm_blob {
    size_t bytes;
    uint8_t at[NVMX_KVM_STATE_BYTES];
    struct nvmx_kvm_elsewhere elsewhere;
};

static size_t from_kvm(const struct kvm_blob *kvm, uint8_t *blob, struct nvmx_kvm_report *report, enum nvmx_status *status) {
    uint8_t *exact = malloc(kvm->bytes != 0 ? kvm->bytes : 1); /* so that reading past the end shows */
    size_t used = 0;
    FUZZ_HOLD(exact != NULL, "no memory");
    memcpy(exact, kvm->at, kvm->bytes);
    *status = nvmx_state_from_kvm(exact, kvm->bytes, &kvm->elsewhere, blob, MOST_BYTES, &used, report);
    free(exact);
    return used;
}

static void check_room(const struct kvm_blob *kvm, size_t needed, size_t room) {
    static uint8_t small[MOST_BYTES];
    struct nvmx_kvm_report report;
    size_t used = 0;
    room = room % needed;
    memset(small, GUARD, needed + 8);
    enum nvmx_status status = nvmx_state_from_kvm(kvm->at, kvm->bytes, &kvm->elsewhere, small, room, &used, &report);
    FUZZ_HOLD(status == NVMX_E_SIZE, "%zu of %zu bytes of room: %s", room, needed, nvmx_status_text(status));
    for (size_t i = room; i < needed + 8; i++)
        FUZZ_HOLD(small[i] == GUARD, "byte %zu is written, there was room for %zu", i, room);
}

static void to_kvm(const uint8_t *blob, size_t bytes, uint64_t l1_tsc, struct kvm_blob *kvm) {
    struct nvmx_kvm_report report;
    memset(kvm, 0, sizeof(*kvm));
    kvm->elsewhere.l1_tsc = l1_tsc;
    enum nvmx_status status =
        nvmx_state_to_kvm(blob, bytes, NULL, &kvm->elsewhere, kvm->at, sizeof(kvm->at), &kvm->bytes, &report);
    FUZZ_HOLD(status == NVMX_OK, "what was taken can't go back: %s", nvmx_status_text(status));
}

/*
 * There and back again gives the same. The first time what a hostile blob says twice may become one: in guest mode KVM's vmcs12 and what is elsewhere
 * both have L2's registers.
 */
static void check_again(uint64_t l1_tsc, const uint8_t *blob, size_t bytes) {
    static uint8_t second[MOST_BYTES];
    static struct kvm_blob there, again;
    struct nvmx_kvm_report report;
    enum nvmx_status status;
    size_t at = 0;
    to_kvm(blob, bytes, l1_tsc, &there);
    size_t taken = from_kvm(&there, second, &report, &status);
    FUZZ_HOLD(status == NVMX_OK, "what went back is refused: %s, %s, detail %#x", nvmx_status_text(status),
              nvmx_state_reason_text(report.error.reason), report.error.detail);
    to_kvm(second, taken, l1_tsc, &again);
    while (at < there.bytes && there.at[at] == again.at[at])
        at++;
    FUZZ_HOLD(there.bytes == again.bytes && at == there.bytes, "KVM's blob is another after it was taken and given back: byte %zu of %zu, %zu", at,
              there.bytes, again.bytes);
    FUZZ_HOLD(memcmp(&there.elsewhere, &again.elsewhere, sizeof(there.elsewhere)) == 0, "what is elsewhere is another");
}

static void check(struct sim *sim, const struct kvm_blob *kvm, size_t room) {
    static uint8_t blob[MOST_BYTES];
    struct nvmx_kvm_report report;
    struct nvmx_state_error error = {0};
    enum nvmx_status status;
    size_t bytes = from_kvm(kvm, blob, &report, &status);
    fuzz_log("%s, notes %#x, %s (offset %llu, detail %#x)", nvmx_status_text(status), report.notes, nvmx_state_reason_text(report.error.reason),
             (unsigned long long)report.error.offset, report.error.detail);
    if (status != NVMX_OK) {
        FUZZ_HOLD(status == NVMX_E_INVALID || status == NVMX_E_UNSUPPORTED, "%s", nvmx_status_text(status));
        return;
    }
    read_regions(blob, bytes);
    check_room(kvm, bytes, room);
    check_again(kvm->elsewhere.l1_tsc, blob, bytes);
    enum nvmx_state_reason expected = nvmx_state_check(blob, bytes, sim->vcpu, &error);
    FUZZ_HOLD(nvmx_state_restore(sim->vcpu, blob, bytes, &error) == expected, "check says %s, restore %s", nvmx_state_reason_text(expected),
              nvmx_state_reason_text(error.reason));
    /* Other capabilities than this VM's are refused; what breaks a rule of the format never gets here. */
    FUZZ_HOLD(expected == NVMX_STATE_OK || memcmp(&kvm->elsewhere.caps, nvmx_l1_caps(sim->vm), sizeof(struct nvmx_caps)) != 0,
              "taken from KVM, and refused by the check: %s, detail %#x", nvmx_state_reason_text(expected), error.detail);
    if (expected == NVMX_STATE_OK)
        FUZZ_HOLD(sim_enter(sim, NULL) != NVMX_HOST, "nvmx_enter after a restore");
}

static void change_elsewhere(struct fuzz_input *in, struct nvmx_kvm_elsewhere *elsewhere) {
    uint64_t *const plain[] = {&elsewhere->feature_control, &elsewhere->l1_tsc, &elsewhere->efer, &elsewhere->pat, &elsewhere->debugctl,
                               &elsewhere->perf_global_ctrl, &elsewhere->dr7, &elsewhere->pdpte[0], &elsewhere->pdpte[3]};
    uint8_t which = fuzz_u8(in);
    if (which < 9)
        *plain[which] = fuzz_value(in);
    else if (which == 9)
        elsewhere->event_info = 0x80000000u | fuzz_u16(in);
    else if (which == 10) {
        uint64_t *msr = &elsewhere->caps.msr[fuzz_u8(in) % NVMX_CAP_MSRS];
        *msr ^= fuzz_value(in);
    } else if (which == 11)
        elsewhere->event_error_code = fuzz_u32(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t blob[MOST_BYTES];
    static struct kvm_blob kvm;
    struct nvmx_kvm_report report;
    struct fuzz_input in = fuzz_start(data, size);
    struct sim *sim = machine();
    uint8_t what = fuzz_u8(&in);
    size_t bytes = 0, room = fuzz_u16(&in);
    put_into_state(sim, &in, what);
    memset(&kvm, 0, sizeof(kvm));
    kvm.elsewhere.l1_tsc = 1000000;
    FUZZ_HOLD(nvmx_state_save(sim->vcpu, blob, sizeof(blob), &bytes) == NVMX_OK, "nvmx_state_save");
    read_regions(blob, bytes);
    FUZZ_HOLD(nvmx_state_to_kvm(blob, bytes, what & 0x10 ? sim->ram + FUZZ_SHADOW_REGION : NULL, &kvm.elsewhere, kvm.at, sizeof(kvm.at), &kvm.bytes, &report) == NVMX_OK, "to KVM");
    if (what & 0x80) {
        kvm.bytes = in.left < sizeof(kvm.at) ? in.left : sizeof(kvm.at);
        memcpy(kvm.at, in.at, kvm.bytes);
        in.left = 0;
    } else if (what & 0x40) {
        kvm.bytes = kvm.bytes * fuzz_u8(&in) / 256;
    }
    for (unsigned int i = 0; i < 24 && fuzz_more(&in); i++) {
        fuzz_piece(&in, FUZZ_OTHER);
        uint16_t place = fuzz_u16(&in);
        if (place >= 0xf000) {
            change_elsewhere(&in, &kvm.elsewhere);
        } else if (kvm.bytes != 0) {
            kvm.at[place % kvm.bytes] = fuzz_u8(&in);
            fuzz_log("byte %zu is %#x", place % kvm.bytes, kvm.at[place % kvm.bytes]);
        }
    }
    check(sim, &kvm, room);
    return 0;
}
