/* SPDX-License-Identifier: MIT */
/*
 * Blobs that Debian's KVM made itself (tests/kvm-state): every field that both have goes to our form and back, and a vCPU goes on from it to the
 * next exit. NVMX_KVM_STATES: another file than the one in the tree.
 */
#include <nvmx/state_kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "machine.h"

#define ROOM 65536u
#define MOST_STATES 32u
#define IN_L2 1u
#define HEADER 128u
#define LAUNCH_STATE (HEADER + 8u)

struct taken {
    char name[40];
    uint32_t bytes;
    uint8_t blob[NVMX_KVM_STATE_BYTES];
    struct nvmx_kvm_elsewhere elsewhere;
};

static struct taken states[MOST_STATES];
static size_t state_count;

/* -- reading the file -------------------------------------------------------------------------------------------------------- */

static void take_capability(struct nvmx_caps *caps, const char *name, const char *value) {
    uint64_t number = strtoull(value, NULL, 16);
    char *end;
    unsigned long index = strtoul(name, &end, 16);
    if (*end == 0 && index >= NVMX_MSR_VMX_FIRST && index <= NVMX_MSR_VMX_LAST)
        caps->msr[index - NVMX_MSR_VMX_FIRST] = number;
    else if (strcmp(name, "physical_address_bits") == 0)
        caps->physical_address_bits = (uint8_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "cpu") == 0)
        caps->cpu = NVMX_CPU_LONG_MODE | NVMX_CPU_NX | NVMX_CPU_SYSCALL;
    else /* valid bits, all 0 there */
        cr_assert(strstr(name, "_valid") != NULL && number == 0, "%s", name);
}

static void take_blob_line(struct taken *state, const char *name, const char *hex) {
    unsigned long at = strtoul(name + 1, NULL, 16);
    for (; hex[0] && hex[1] && hex[0] != '\n'; hex += 2, at++) {
        char digits[3] = {hex[0], hex[1], 0};
        if (at < sizeof(state->blob))
            state->blob[at] = (uint8_t)strtoul(digits, NULL, 16);
    }
}

static void take_line(struct taken *state, const char *name, const char *value) {
    struct nvmx_kvm_elsewhere *e = &state->elsewhere;
    uint64_t number = strtoull(value, NULL, 16);
    const struct {
        const char *name;
        uint64_t *wide;
        uint32_t *narrow;
    } members[] = {
        {"feature_control", &e->feature_control, NULL}, {"l1_tsc", &e->l1_tsc, NULL},
        {"efer", &e->efer, NULL},                       {"pat", &e->pat, NULL},
        {"debugctl", &e->debugctl, NULL},               {"perf_global_ctrl", &e->perf_global_ctrl, NULL},
        {"dr7", &e->dr7, NULL},                         {"pdpte0", &e->pdpte[0], NULL},
        {"pdpte1", &e->pdpte[1], NULL},                 {"pdpte2", &e->pdpte[2], NULL},
        {"pdpte3", &e->pdpte[3], NULL},                 {"event_info", NULL, &e->event_info},
        {"event_error_code", NULL, &e->event_error_code},
    };
    for (size_t i = 0; i < COUNT(members); i++) {
        if (strcmp(name, members[i].name) != 0)
            continue;
        if (members[i].wide)
            *members[i].wide = number;
        else
            *members[i].narrow = (uint32_t)number;
        return;
    }
    if (name[0] == '@')
        take_blob_line(state, name, value);
    else if (strcmp(name, "bytes") == 0)
        state->bytes = (uint32_t)strtoul(value, NULL, 10);
    else
        cr_assert_fail("what is '%s'?", name);
}

static void read_states(void) {
    const char *path = getenv("NVMX_KVM_STATES");
    FILE *file = fopen(path ? path : NVMX_SOURCE "/tests/kvm-state/states.txt", "r");
    char line[256];
    struct nvmx_caps caps;
    struct taken *state = NULL;
    memset(&caps, 0, sizeof(caps));
    cr_assert(file != NULL, "no file of states");
    state_count = 0;
    while (fgets(line, sizeof(line), file)) {
        char *value = strchr(line, ' ');
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || line[0] == 0)
            continue;
        cr_assert(value != NULL, "%s", line);
        *value++ = 0;
        if (strcmp(line, "state") == 0) {
            cr_assert(state_count < MOST_STATES);
            state = &states[state_count++];
            snprintf(state->name, sizeof(state->name), "%.39s", value);
            state->elsewhere.caps = caps;
        } else if (state) {
            take_line(state, line, value);
        } else {
            take_capability(&caps, line, value);
        }
    }
    fclose(file);
    cr_assert(state_count >= 14, "only %zu states", state_count);
}

/* -- what is looked at ---------------------------------------------------------------------------------------------------------- */

static uint64_t bytes_at(const uint8_t *at, unsigned int count) {
    uint64_t value = 0;
    for (unsigned int i = 0; i < count; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static bool in_l2(const struct taken *state) {
    return (state->blob[0] & IN_L2) != 0;
}

/* A field of KVM's vmcs12, by its published offset. */
static uint64_t field_of(const struct taken *state, enum nvmx_field slot) {
    static const unsigned int widths[] = {2, 8, 4, 8};
    struct nvmx_vmcs12_layout layout;
    nvmx_kvm_layout(&layout);
    return layout.offset[slot] ? bytes_at(state->blob + HEADER + layout.offset[slot], widths[(nvmx_field_info(slot)->encoding >> 13) & 3])
                               : 0;
}

static size_t from_kvm(const struct taken *state, uint8_t *blob) {
    struct nvmx_kvm_report report;
    size_t used = 0;
    enum nvmx_status status = nvmx_state_from_kvm(state->blob, state->bytes, &state->elsewhere, blob, ROOM, &used, &report);
    const struct nvmx_check_row *row = nvmx_check_row(report.error.check_row);
    cr_assert(status == NVMX_OK, "%s: %s: %s, detail %#x, %s", state->name, nvmx_status_text(status),
              nvmx_state_reason_text(report.error.reason), report.error.detail, row ? row->id : "no rule");
    cr_expect(report.notes == 0 && report.lost == 0, "%s: notes %#x", state->name, report.notes);
    return used;
}

static void to_kvm_and_compare(const struct taken *state, const uint8_t *blob, size_t bytes) {
    static uint8_t kvm[NVMX_KVM_STATE_BYTES];
    struct nvmx_kvm_elsewhere elsewhere = {.l1_tsc = state->elsewhere.l1_tsc};
    const struct nvmx_kvm_elsewhere *e = &state->elsewhere;
    struct nvmx_kvm_report report;
    size_t used = 0;
    cr_assert(nvmx_state_to_kvm(blob, bytes, NULL, &elsewhere, kvm, sizeof(kvm), &used, &report) == NVMX_OK);
    cr_expect((report.notes & ~(NVMX_KVM_ELSEWHERE_L1 | NVMX_KVM_ELSEWHERE_L2 | NVMX_KVM_ELSEWHERE_REGIONS)) == 0, "%s: notes %#x", state->name,
              report.notes);
    cr_assert(used == state->bytes, "%s: %zu bytes, not %u", state->name, used, state->bytes);
    for (size_t i = 0; i < used; i++) {
        /* KVM notes that a VMCS is launched when its L2 first exits; ours when L2 begins to run. No entry can tell. */
        if (i == LAUNCH_STATE && in_l2(state))
            continue;
        cr_expect(kvm[i] == state->blob[i], "%s: byte %zu is %#x, was %#x", state->name, i, kvm[i], state->blob[i]);
    }
    cr_expect(memcmp(&elsewhere.caps, &e->caps, sizeof(e->caps)) == 0 && elsewhere.feature_control == e->feature_control, "%s", state->name);
    if (in_l2(state)) {
        cr_expect(elsewhere.efer == e->efer && elsewhere.pat == e->pat && elsewhere.dr7 == e->dr7, "%s: EFER %#lx, PAT %#lx, DR7 %#lx",
                  state->name, elsewhere.efer, elsewhere.pat, elsewhere.dr7);
        cr_expect(elsewhere.debugctl == e->debugctl && elsewhere.event_info == e->event_info, "%s", state->name);
    }
}

Test(state_kvm_taken, there_and_back) {
    static uint8_t blob[ROOM];
    read_states();
    for (size_t i = 0; i < state_count; i++)
        to_kvm_and_compare(&states[i], blob, from_kvm(&states[i], blob));
}

/* -- going on ---------------------------------------------------------------------------------------------------------------------- */

/* L1's memory is not in the blob: the lists that the exit works on are put there. */
static void put_msr_lists(struct sim *sim, const struct taken *state) {
    static const struct {
        enum nvmx_field address, count;
    } lists[] = {{NVMX_F_VM_EXIT_MSR_STORE_ADDRESS, NVMX_F_VM_EXIT_MSR_STORE_COUNT},
                 {NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS, NVMX_F_VM_EXIT_MSR_LOAD_COUNT}};
    for (size_t i = 0; i < COUNT(lists); i++) {
        if (field_of(state, lists[i].count) == 0)
            continue;
        sim_msr(sim, 0xc0000102)->value = 0x1111;
        sim_write64(sim, field_of(state, lists[i].address), 0xc0000102);
        sim_write64(sim, field_of(state, lists[i].address) + 8, 0x2222);
    }
}

/* What an exit loads from the host-state area (SDM 30.5), as vmcs01 then has it. */
static void expect_host_state(const struct sim *sim, const struct taken *state) {
    static const struct {
        enum nvmx_field now, from;
    } loaded[] = {
        {NVMX_F_GUEST_RIP, NVMX_F_HOST_RIP},
        {NVMX_F_GUEST_RSP, NVMX_F_HOST_RSP},
        {NVMX_F_GUEST_CR3, NVMX_F_HOST_CR3},
        {NVMX_F_GUEST_CS_SELECTOR, NVMX_F_HOST_CS_SELECTOR},
        {NVMX_F_GUEST_SS_SELECTOR, NVMX_F_HOST_SS_SELECTOR},
        {NVMX_F_GUEST_DS_SELECTOR, NVMX_F_HOST_DS_SELECTOR},
        {NVMX_F_GUEST_TR_SELECTOR, NVMX_F_HOST_TR_SELECTOR},
        {NVMX_F_GUEST_FS_BASE, NVMX_F_HOST_FS_BASE},
        {NVMX_F_GUEST_GS_BASE, NVMX_F_HOST_GS_BASE},
        {NVMX_F_GUEST_TR_BASE, NVMX_F_HOST_TR_BASE},
        {NVMX_F_GUEST_GDTR_BASE, NVMX_F_HOST_GDTR_BASE},
        {NVMX_F_GUEST_IDTR_BASE, NVMX_F_HOST_IDTR_BASE},
    };
    for (size_t i = 0; i < COUNT(loaded); i++)
        cr_expect(vmcs01(sim, loaded[i].now) == field_of(state, loaded[i].from), "%s: %s is %#lx, not %#lx", state->name,
                  nvmx_field_info(loaded[i].now)->name, vmcs01(sim, loaded[i].now), field_of(state, loaded[i].from));
    cr_expect(vmcs01(sim, NVMX_F_GUEST_RIP) >= 0x200000, "%s: no exit handler of L1", state->name);
}

/* L1 reads what KVM's blob holds, but for what the exit writes. */
static void expect_fields(struct sim *sim, const struct taken *state) {
    struct nvmx_vmcs12_layout layout;
    unsigned int seen = 0;
    nvmx_kvm_layout(&layout);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        uint64_t value = 0, expected = field_of(state, (enum nvmx_field)slot);
        bool read_only = ((encoding >> 10) & 3) == 1;
        if (layout.offset[slot] == 0 || read_only || slot == NVMX_F_PREEMPTION_TIMER_VALUE || sim_vmread(sim, encoding, &value) != SIM_SUCCEED)
            continue;
        if (slot == NVMX_F_VM_ENTRY_INTERRUPTION_INFO) /* every exit clears bit 31 (SDM 30.2) */
            expected &= 0x7fffffff;
        cr_expect(value == expected, "%s: %s is %#lx, not %#lx", state->name, nvmx_field_info(slot)->name, value, expected);
        seen++;
    }
    cr_expect(seen > 100, "%s: only %u fields", state->name, seen);
}

/* A processor that has all that L1 saw under KVM. */
static void machine_like_kvms(struct nvmx_caps *machine) {
    sim_machine(machine);
    machine->msr[NVMX_CAP_MISC] |= 5; /* KVM's timer counts at TSC / 32 */
    machine->msr[NVMX_CAP_CR4_FIXED1] |= states[0].elsewhere.caps.msr[NVMX_CAP_CR4_FIXED1];
}

static void goes_on(const struct taken *state) {
    static uint8_t blob[ROOM];
    static struct nvmx_vmcs12_layout layout;
    struct nvmx_caps machine;
    struct nvmx_state_error error;
    size_t bytes = from_kvm(state, blob);
    nvmx_kvm_layout(&layout);
    machine_like_kvms(&machine);
    struct sim *sim = sim_new(&(struct sim_options){.layout = &layout, .machine = &machine});
    enum nvmx_state_reason reason = nvmx_state_restore(sim->vcpu, blob, bytes, &error);
    cr_assert(reason == NVMX_STATE_OK, "%s: %s, detail %#x", state->name, nvmx_state_reason_text(reason), error.detail);
    put_msr_lists(sim, state);
    cr_assert(sim_enter(sim, NULL) == NVMX_ENTER, "%s", state->name);
    if (!in_l2(state)) {
        cr_expect_eq(nvmx_mode(sim->vcpu), bytes_at(state->blob + 8, 8) == NVMX_NO_ADDRESS ? NVMX_MODE_OFF : NVMX_MODE_ROOT);
        sim_free(sim);
        return;
    }
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), field_of(state, NVMX_F_GUEST_RIP));
    cr_assert(sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT, "%s", state->name);
    expect_host_state(sim, state);
    cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_CPUID);
    expect_fields(sim, state);
    if (field_of(state, NVMX_F_VM_EXIT_MSR_STORE_COUNT) != 0) {
        cr_expect_eq(sim_read64(sim, field_of(state, NVMX_F_VM_EXIT_MSR_STORE_ADDRESS) + 8), 0x1111);
        cr_expect_eq(sim_msr(sim, 0xc0000102)->value, 0x2222);
    }
    sim_free(sim);
}

Test(state_kvm_taken, a_vcpu_goes_on_from_them) {
    unsigned int running = 0;
    read_states();
    for (size_t i = 0; i < state_count; i++) {
        goes_on(&states[i]);
        running += in_l2(&states[i]);
    }
    cr_expect(running >= 11, "L2 runs in %u of them", running);
}

/* Damaged: NVMX_MUTATIONS of them (10,000 if not set), none accepted that breaks a rule of ours. */
Test(state_kvm_taken, mutations) {
    static uint8_t blob[ROOM];
    const char *wanted = getenv("NVMX_MUTATIONS");
    uint32_t count = wanted ? (uint32_t)strtoul(wanted, NULL, 10) : 10000, accepted = 0;
    uint64_t random = 88172645463325252u;
    struct nvmx_vmcs12_layout layout;
    struct nvmx_caps machine;
    read_states();
    nvmx_kvm_layout(&layout);
    machine_like_kvms(&machine);
    struct sim *sim = sim_new(&(struct sim_options){.layout = &layout, .machine = &machine});
    for (uint32_t number = 0; number < count; number++) {
        static struct taken changed;
        struct nvmx_kvm_report report;
        size_t used;
        changed = states[number % state_count];
        for (uint32_t k = 0; k < 1 + number % 4; k++) {
            draw(&random);
            uint32_t limit = number % 3 == 0 ? 40 : HEADER + 1000;
            changed.blob[(uint32_t)(random >> 32) % limit] = (uint8_t)(random >> (8 * (number % 3)));
        }
        if (number % 5 == 0)
            memcpy((char *)&changed.elsewhere.efer + 8 * (random % 4), &random, sizeof(random));
        size_t bytes = number % 11 == 0 ? (size_t)(random % (changed.bytes + 1)) : changed.bytes;
        uint8_t *exact = malloc(bytes ? bytes : 1); /* so that AddressSanitizer sees every byte too many */
        memcpy(exact, changed.blob, bytes);
        if (nvmx_state_from_kvm(exact, bytes, &changed.elsewhere, blob, sizeof(blob), &used, &report) == NVMX_OK) {
            accepted++;
            cr_assert(nvmx_state_check(blob, used, NULL, NULL) == NVMX_STATE_OK, "mutation %u", number);
            enum nvmx_state_reason reason = nvmx_state_restore(sim->vcpu, blob, used, NULL);
            cr_assert(reason == NVMX_STATE_OK || reason == NVMX_STATE_CAPABILITIES, "mutation %u: %s", number, nvmx_state_reason_text(reason));
            if (reason == NVMX_STATE_OK && sim_enter(sim, NULL) == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
                (void)sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2);
            if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE)
                nvmx_vcpu_reset(sim->vcpu);
        }
        free(exact);
    }
    cr_expect(accepted > count / 20, "only %u of %u accepted", accepted, count);
    sim_free(sim);
}
