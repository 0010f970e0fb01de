/* SPDX-License-Identifier: MIT */
/* Between our blobs and those of KVM_GET_NESTED_STATE: what both have survives both ways, what has no place is named. */
#include <criterion/criterion.h>
#include <nvmx/state_kvm.h>
#include <stdlib.h>
#include <string.h>

#include "draw.h"
#include "machine.h"
#include "state_doc.h"

#define ROOM 65536u
#define REVISION 0x11e57ed0u

static struct nvmx_vmcs12_layout layout;
static struct nvmx_caps machine;

/* A world whose L1 has VMCS regions as KVM has them. */
static struct sim *kvm_world(const struct state_world *world) {
    static struct state_world kvm;
    nvmx_kvm_layout(&layout);
    sim_machine(&machine);
    machine.msr[NVMX_CAP_MISC] |= 5; /* KVM's timer counts at TSC / 32 */
    kvm = *world;
    kvm.options.layout = &layout;
    kvm.options.machine = &machine;
    return state_world_new(&kvm);
}

static struct sim *kvm_world_named(const char *name) {
    for (size_t i = 0; i < state_world_count; i++)
        if (strcmp(state_worlds[i].name, name) == 0)
            return kvm_world(&state_worlds[i]);
    cr_assert(false, "there is no world '%s'", name);
    return NULL;
}

struct trip {
    size_t bytes, kvm_bytes;
    uint8_t *blob;
    uint8_t kvm[NVMX_KVM_STATE_BYTES];
    struct nvmx_kvm_elsewhere elsewhere;
    struct nvmx_kvm_report report;
};

static void to_kvm(struct sim *sim, struct trip *trip) {
    memset(trip, 0, sizeof(*trip));
    trip->elsewhere.l1_tsc = 1000000;
    trip->blob = sim_save(sim, &trip->bytes);
    enum nvmx_status status = nvmx_state_to_kvm(trip->blob, trip->bytes, NULL, &trip->elsewhere, trip->kvm, sizeof(trip->kvm),
                                                &trip->kvm_bytes, &trip->report);
    cr_assert(status == NVMX_OK, "to KVM: %s, %s", nvmx_status_text(status), nvmx_state_reason_text(trip->report.error.reason));
}

static size_t from_kvm(const struct trip *trip, uint8_t *blob, struct nvmx_kvm_report *report) {
    size_t used = 0;
    enum nvmx_status status =
        nvmx_state_from_kvm(trip->kvm, trip->kvm_bytes, &trip->elsewhere, blob, ROOM, &used, report);
    cr_assert(status == NVMX_OK, "from KVM: %s, %s, detail %#x, check %s", nvmx_status_text(status),
              nvmx_state_reason_text(report->error.reason), report->error.detail,
              nvmx_check_row(report->error.check_row) ? nvmx_check_row(report->error.check_row)->id : "none");
    return used;
}

static uint64_t bytes_at(const uint8_t *at, unsigned int count) {
    uint64_t value = 0;
    for (unsigned int i = 0; i < count; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* Fields by hand, at the offsets of Linux's asm/kvm.h and of its vmcs12. */
Test(state_kvm, the_published_offsets) {
    struct sim *sim = kvm_world_named("L2 runs");
    struct trip trip;
    to_kvm(sim, &trip);
    cr_expect_eq(trip.kvm_bytes, 128 + 4096);
    cr_expect_eq(bytes_at(trip.kvm, 2), 1); /* KVM_STATE_NESTED_GUEST_MODE */
    cr_expect_eq(bytes_at(trip.kvm + 2, 2), 0);
    cr_expect_eq(bytes_at(trip.kvm + 4, 4), 128 + 4096);
    cr_expect_eq(bytes_at(trip.kvm + 8, 8), SIM_L1_VMXON);
    cr_expect_eq(bytes_at(trip.kvm + 16, 8), SIM_L1_VMCS_A);
    const uint8_t *vmcs12 = trip.kvm + 128;
    cr_expect_eq(bytes_at(vmcs12, 4), REVISION);
    cr_expect_eq(bytes_at(vmcs12 + 8, 4), 1);
    cr_expect_eq(bytes_at(vmcs12 + 56, 8), SIM_L1_MSR_BITMAP);
    cr_expect_eq(bytes_at(vmcs12 + 120, 8), SIM_L1_EPT12 | 0x1e);
    cr_expect_eq(bytes_at(vmcs12 + 432, 8), 0x5000);  /* guest CR3, as L2 has it now */
    cr_expect_eq(bytes_at(vmcs12 + 480, 8), 0x77000) /* FS base */;
    cr_expect_eq(bytes_at(vmcs12 + 544, 8), 0x2345);  /* guest RIP */
    cr_expect_eq(bytes_at(vmcs12 + 672, 8), SIM_L1_EXIT_HANDLER);
    cr_expect_eq(bytes_at(vmcs12 + 884, 4), 0xa09b);
    cr_expect_eq(bytes_at(vmcs12 + 960, 2), 7);
    cr_expect_eq(bytes_at(vmcs12 + 978, 2), 0x18);
    cr_expect_eq(trip.elsewhere.pat, UINT64_C(0x0606060606060606));
    cr_expect_eq(trip.elsewhere.efer, 0x500);
    cr_expect_eq(trip.report.notes & NVMX_KVM_LOST_FIELDS, 0, "field %#x", trip.report.fields[0]);
    free(trip.blob);
    sim_free(sim);
}

Test(state_kvm, no_two_fields_share_bytes) {
    uint8_t used[4096] = {0};
    nvmx_kvm_layout(&layout);
    unsigned int placed = 0;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        static const unsigned int widths[] = {2, 8, 4, 8};
        unsigned int width = widths[(nvmx_field_info(slot)->encoding >> 13) & 3], at = layout.offset[slot];
        if (at == 0)
            continue;
        placed++;
        cr_expect(at >= 40 && at + width <= 998 && at % width == 0, "%s at %u", nvmx_field_info(slot)->name, at);
        for (unsigned int i = 0; i < width; i++)
            cr_expect(used[at + i]++ == 0, "%s at %u", nvmx_field_info(slot)->name, at);
    }
    cr_expect_eq(placed, 145, "%u fields", placed);
}

/* KVM's bytes from ours, ours from those, KVM's again: nothing is lost on KVM's side. L2's record is the same at once. */
static void round_trip(const struct state_world *world) {
    static struct doc first, second;
    static uint8_t blob[ROOM];
    struct sim *sim = kvm_world(world);
    struct trip there, again;
    struct nvmx_kvm_report report;
    if (world->options.hidden) {
        sim_free(sim);
        return;
    }
    to_kvm(sim, &there);
    size_t bytes = from_kvm(&there, blob, &report);
    cr_expect(report.notes == 0 || report.notes == NVMX_KVM_LOST_FIELDS, "%s: notes %#x", world->name, report.notes);
    doc_read(&first, there.blob, there.bytes);
    doc_read(&second, blob, bytes);
    struct doc_record *l2 = doc_find(&first, 7, 0), *l2_again = doc_find(&second, 7, 0);
    cr_assert((l2 != NULL) == (l2_again != NULL), "%s", world->name);
    if (l2) {
        cr_expect(l2->head[0] == l2_again->head[0], "%s: L2's flags %#lx and %#lx", world->name, l2->head[0], l2_again->head[0]);
        for (uint32_t i = 0; i < l2->items; i++)
            cr_expect(doc_value(l2_again, l2->item[i].id) == l2->item[i].value, "%s: L2: %#x is %#lx, was %#lx", world->name,
                      l2->item[i].id, doc_value(l2_again, l2->item[i].id), l2->item[i].value);
    }
    memset(&again, 0, sizeof(again));
    again.elsewhere.l1_tsc = there.elsewhere.l1_tsc;
    cr_assert(nvmx_state_to_kvm(blob, bytes, NULL, &again.elsewhere, again.kvm, sizeof(again.kvm), &again.kvm_bytes,
                                &again.report) == NVMX_OK);
    cr_expect(again.kvm_bytes == there.kvm_bytes && memcmp(again.kvm, there.kvm, there.kvm_bytes) == 0, "%s: KVM's bytes differ",
              world->name);
    cr_expect(memcmp(&again.elsewhere, &there.elsewhere, sizeof(again.elsewhere)) == 0, "%s: what is elsewhere differs", world->name);
    free(there.blob);
    sim_free(sim);
}

Test(state_kvm, round_trip_of_every_state) {
    for (size_t i = 0; i < state_world_count; i++)
        round_trip(&state_worlds[i]);
}

/* Continued from KVM's blob, L1 sees what it would have seen. */
static void goes_on(const char *name) {
    static uint8_t blob[ROOM];
    struct sim *sim = kvm_world_named(name);
    struct sim *other = sim_new(&(struct sim_options){.layout = &layout, .machine = &machine});
    struct trip trip;
    struct nvmx_kvm_report report;
    to_kvm(sim, &trip);
    size_t bytes = from_kvm(&trip, blob, &report);
    memcpy(other->ram, sim->ram, SIM_RAM_BYTES);
    other->vmcs[NVMX_VMCS01] = sim->vmcs[NVMX_VMCS01];
    cr_assert(nvmx_state_restore(other->vcpu, blob, bytes, NULL) == NVMX_STATE_OK);
    cr_assert(sim_enter(other, NULL) == NVMX_ENTER && nvmx_mode(other->vcpu) == NVMX_MODE_L2);
    l2_leaves(sim);
    l2_leaves(other);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        uint64_t here = 0, there = 0;
        enum sim_outcome outcome = sim_vmread(sim, encoding, &here);
        cr_assert(sim_vmread(other, encoding, &there) == outcome);
        cr_expect(here == there, "%s: %s is %#lx instead of %#lx", name, nvmx_field_info(slot)->name, there, here);
    }
    resume(sim);
    resume(other);
    free(trip.blob);
    sim_free(sim);
    sim_free(other);
}

Test(state_kvm, it_goes_on_from_there) {
    static const char *const names[] = {"an entry pending", "L2 runs", "L2 resumed", "L2 in PAE paging", "APIC pages in use",
                                        "the remainder of the preemption timer", "L2 left long mode",
                                        "an EFER that only vmcs02 has"};
    for (size_t i = 0; i < COUNT(names); i++)
        goes_on(names[i]);
}

/* What KVM keeps elsewhere, or has no place for, is named. */
Test(state_kvm, what_is_not_carried_is_named) {
    static const struct {
        const char *name;
        uint32_t notes;
    } expected[] = {
        {"VMX off", NVMX_KVM_ELSEWHERE_L1},
        {"two VMCSs", NVMX_KVM_ELSEWHERE_L1 | NVMX_KVM_ELSEWHERE_REGIONS},
        {"L2 runs", NVMX_KVM_ELSEWHERE_L1 | NVMX_KVM_ELSEWHERE_L2},
        {"an event of L2 to be delivered again", NVMX_KVM_ELSEWHERE_L1 | NVMX_KVM_ELSEWHERE_L2 | NVMX_KVM_ELSEWHERE_EVENT},
        {"VMX abort", NVMX_KVM_ELSEWHERE_L1 | NVMX_KVM_LOST_STOP},
    };
    for (size_t i = 0; i < COUNT(expected); i++) {
        struct sim *sim = kvm_world_named(expected[i].name);
        struct trip trip;
        to_kvm(sim, &trip);
        cr_expect(trip.report.notes == expected[i].notes, "%s: %#x", expected[i].name, trip.report.notes);
        free(trip.blob);
        sim_free(sim);
    }
    for (unsigned int i = 0; i < NVMX_KVM_NOTES; i++)
        cr_expect(strlen(nvmx_kvm_note_text(1u << i)) > 10 && strcmp(nvmx_kvm_note_text(1u << i), nvmx_kvm_note_text(0)) != 0);
    cr_expect(strcmp(nvmx_kvm_note_text(1u << NVMX_KVM_NOTES), nvmx_kvm_note_text(0)) == 0);
}

Test(state_kvm, another_revision_is_named) {
    struct sim *sim = sim_new(NULL);
    struct trip trip;
    to_kvm(sim, &trip);
    cr_expect(trip.report.notes & NVMX_KVM_LOST_REVISION);
    free(trip.blob);
    sim_free(sim);
}

/* In a VM with KVM's layout L1 has no feature that such fields belong to: vmcs12.what_has_no_place_is_not_offered. */
Test(state_kvm, fields_without_a_place_are_listed) {
    struct sim *sim = l1_ready(NULL);
    struct trip trip;
    l1_writes(sim, NVMX_VMCS_PLE_GAP, 128);
    l1_writes(sim, NVMX_VMCS_EXECUTIVE_VMCS_POINTER, 0x1000);
    to_kvm(sim, &trip);
    cr_expect(trip.report.lost == 2 && trip.report.fields[0] == NVMX_VMCS_EXECUTIVE_VMCS_POINTER &&
              trip.report.fields[1] == NVMX_VMCS_PLE_GAP, "%u fields, %#x", trip.report.lost, trip.report.fields[0]);
    free(trip.blob);
    sim_free(sim);
}

/* Active VMCSs that KVM would have written to L1's memory: VMPTRLD there finds them. */
Test(state_kvm, other_regions_go_into_l1s_memory) {
    static uint8_t blob[ROOM], region[4096];
    struct sim *sim = kvm_world_named("two VMCSs");
    struct trip trip;
    struct nvmx_kvm_report report;
    uint64_t gpa1 = 0;
    to_kvm(sim, &trip);
    cr_assert(nvmx_state_kvm_region(trip.blob, trip.bytes, 0, &gpa1, region));
    cr_expect_eq(gpa1, SIM_L1_VMCS_A);
    cr_expect_not(nvmx_state_kvm_region(trip.blob, trip.bytes, 1, &gpa1, region));
    cr_expect_not(nvmx_state_kvm_region(trip.blob, trip.bytes, UINT32_MAX, &gpa1, region));
    struct sim *other = sim_new(&(struct sim_options){.layout = &layout, .machine = &machine});
    memcpy(other->ram, sim->ram, SIM_RAM_BYTES);
    sim_write(other, gpa1, region, sizeof(region));
    size_t bytes = from_kvm(&trip, blob, &report);
    cr_assert(nvmx_state_restore(other->vcpu, blob, bytes, NULL) == NVMX_STATE_OK && sim_enter(other, NULL) == NVMX_ENTER);
    cr_expect_eq(l1_reads(other, NVMX_VMCS_GUEST_RIP), 0x1234);
    cr_assert(sim_vmptrld(other, SIM_L1_VMCS_A) == SIM_SUCCEED);
    cr_expect_eq(l1_reads(other, NVMX_VMCS_HOST_RIP), SIM_L1_EXIT_HANDLER);
    enters(other, sim_vmlaunch(other));
    free(trip.blob);
    sim_free(sim);
    sim_free(other);
}

/* KVM's pending MTF VM exit is ours as an event of type 7. */
Test(state_kvm, a_pending_mtf_exit) {
    static uint8_t blob[ROOM];
    static struct doc doc;
    struct sim *sim = kvm_world_named("L2 runs");
    struct trip trip, again;
    struct nvmx_kvm_report report;
    to_kvm(sim, &trip);
    trip.kvm[0] |= 8;
    size_t bytes = from_kvm(&trip, blob, &report);
    doc_read(&doc, blob, bytes);
    cr_expect_eq(doc_value(doc_find(&doc, 7, 0), NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO), 0x80000700);
    again.elsewhere.l1_tsc = 1000000;
    cr_assert(nvmx_state_to_kvm(blob, bytes, NULL, &again.elsewhere, again.kvm, sizeof(again.kvm), &again.kvm_bytes, &again.report) ==
              NVMX_OK);
    cr_expect_eq(again.kvm[0], 9);
    cr_expect_eq(again.report.notes & NVMX_KVM_ELSEWHERE_EVENT, 0);
    free(trip.blob);
    sim_free(sim);
}

/* The preemption timer: KVM's deadline is absolute. */
Test(state_kvm, the_timer_is_a_deadline_there) {
    static uint8_t blob[ROOM];
    static struct doc doc;
    struct sim *sim = kvm_world_named("the remainder of the preemption timer");
    struct trip trip;
    struct nvmx_kvm_report report;
    uint64_t rate = nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_MISC] & 31;
    to_kvm(sim, &trip);
    cr_expect_eq(bytes_at(trip.kvm + 28, 4), 1);
    cr_expect_eq(bytes_at(trip.kvm + 32, 8), (1000000 >> 5) + (UINT64_C(1234) << rate >> 5));
    trip.elsewhere.l1_tsc += 320; /* L1's time goes on meanwhile */
    doc_read(&doc, blob, from_kvm(&trip, blob, &report));
    cr_expect_eq(doc_value(doc_find(&doc, 7, 0), NVMX_VMCS_PREEMPTION_TIMER_VALUE), 1234 - (320 >> rate));
    trip.elsewhere.l1_tsc += 1u << 30;
    doc_read(&doc, blob, from_kvm(&trip, blob, &report));
    cr_expect_eq(doc_value(doc_find(&doc, 7, 0), NVMX_VMCS_PREEMPTION_TIMER_VALUE), 0);
    free(trip.blob);
    sim_free(sim);
}

Test(state_kvm, what_is_refused) {
    static uint8_t blob[ROOM];
    static const struct {
        const char *what;
        size_t at;
        uint8_t value;
        enum nvmx_status status;
    } rows[] = {
        {"format SVM", 2, 1, NVMX_E_UNSUPPORTED},        {"enlightened VMCS", 0, 5, NVMX_E_UNSUPPORTED},
        {"SMM", 24, 1, NVMX_E_UNSUPPORTED},              {"a flag", 0, 0x11, NVMX_E_INVALID},
        {"a flag of VMX", 28, 2, NVMX_E_INVALID},        {"too long", 5, 0x20, NVMX_E_INVALID},
        {"too short for a VMCS", 5, 0, NVMX_E_INVALID},  {"shorter than the header", 4, 0, NVMX_E_INVALID},
        {"a misaligned VMXON pointer", 8, 1, NVMX_E_INVALID}, {"a misaligned VMCS pointer", 16, 1, NVMX_E_INVALID},
        {"another revision", 128, 0, NVMX_E_INVALID},    {"RFLAGS", 128 + 552, 0, NVMX_E_INVALID},
    };
    struct sim *sim = kvm_world_named("L2 runs");
    struct trip trip;
    struct nvmx_kvm_report report;
    size_t used;
    to_kvm(sim, &trip);
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct trip changed = trip;
        changed.kvm[rows[i].at] = rows[i].value;
        if (rows[i].at == 4)
            changed.kvm[5] = 0;
        enum nvmx_status status =
            nvmx_state_from_kvm(changed.kvm, changed.kvm_bytes, &changed.elsewhere, blob, sizeof(blob), &used, &report);
        cr_expect(status == rows[i].status, "%s: %s", rows[i].what, nvmx_status_text(status));
    }
    for (size_t room = 0; room < 2000; room += 8)
        cr_expect(nvmx_state_from_kvm(trip.kvm, trip.kvm_bytes, &trip.elsewhere, blob, room, &used, &report) == NVMX_E_SIZE);
    cr_expect(nvmx_state_to_kvm(trip.blob, trip.bytes, NULL, &trip.elsewhere, blob, 4096, &used, &report) == NVMX_E_SIZE);
    trip.blob[100] ^= 1;
    cr_expect(nvmx_state_to_kvm(trip.blob, trip.bytes, NULL, &trip.elsewhere, blob, ROOM, &used, &report) == NVMX_E_INVALID &&
              report.error.reason == NVMX_STATE_CHECKSUM);
    free(trip.blob);
    sim_free(sim);
}

/* Damaged and hostile blobs of KVM: what is taken is a good blob of ours. */
Test(state_kvm, hostile_blobs) {
    static uint8_t blob[ROOM];
    struct sim *sim = kvm_world_named("L2 runs");
    struct trip trip;
    struct nvmx_kvm_report report;
    uint64_t random = 88172645463325252u;
    unsigned int taken = 0;
    size_t used;
    to_kvm(sim, &trip);
    for (unsigned int n = 0; n < 20000; n++) {
        struct trip changed = trip;
        for (unsigned int k = 0; k < 1 + n % 3; k++) {
            draw(&random);
            size_t at = (random >> 32) % (n % 2 ? 40 : 1128);
            changed.kvm[at] = (uint8_t)(random >> 8);
        }
        size_t length = n % 7 == 0 ? random % trip.kvm_bytes : trip.kvm_bytes;
        uint8_t *exact = malloc(length ? length : 1);
        memcpy(exact, changed.kvm, length);
        if (nvmx_state_from_kvm(exact, length, &changed.elsewhere, blob, sizeof(blob), &used, &report) == NVMX_OK) {
            taken++;
            cr_assert(nvmx_state_check(blob, used, sim->vcpu, NULL) == NVMX_STATE_OK, "number %u", n);
        }
        free(exact);
    }
    cr_expect(taken > 500, "only %u of 20000 taken", taken);
    free(trip.blob);
    sim_free(sim);
}

/* L2 with VMCS shadowing: the shadow VMCS is KVM's second page, given by the caller or named as lost; from KVM's blob it becomes an active VMCS of ours. */
Test(state_kvm, a_shadow_vmcs_is_the_second_page) {
    static uint8_t blob[ROOM], page[4096];
    struct sim *sim = kvm_world_named("a current VMCS");
    struct trip trip, without;
    struct nvmx_kvm_report report;
    static struct doc doc;
    uint64_t revision = nvmx_l1_caps(sim->vm)->msr[NVMX_CAP_BASIC] & 0x7fffffff;
    sim_write32(sim, 0x34000, (uint32_t)revision | 0x80000000u);
    l1_writes(sim, NVMX_VMCS_SECONDARY_CONTROLS, l1_reads(sim, NVMX_VMCS_SECONDARY_CONTROLS) | 1u << 14);
    l1_writes(sim, NVMX_VMCS_VMREAD_BITMAP_ADDRESS, 0x35000);
    l1_writes(sim, NVMX_VMCS_VMWRITE_BITMAP_ADDRESS, 0x36000);
    l1_writes(sim, NVMX_VMCS_VMCS_LINK_POINTER, 0x34000);
    l1_writes(sim, NVMX_VMCS_GUEST_RIP, 0x2345);
    enters(sim, sim_vmlaunch(sim));
    to_kvm(sim, &without);
    cr_expect(without.report.notes & NVMX_KVM_LOST_SHADOW);
    cr_expect_eq(without.kvm_bytes, 128 + 4096);
    memcpy(page, sim->ram + 0x34000, sizeof(page));
    trip = without;
    cr_assert(nvmx_state_to_kvm(trip.blob, trip.bytes, page, &trip.elsewhere, trip.kvm, sizeof(trip.kvm), &trip.kvm_bytes, &trip.report) == NVMX_OK);
    cr_expect_eq(trip.kvm_bytes, 128 + 2 * 4096);
    cr_expect_eq(trip.report.notes & NVMX_KVM_LOST_SHADOW, 0);
    cr_expect(memcmp(trip.kvm + 128 + 4096, page, sizeof(page)) == 0);
    doc_read(&doc, blob, from_kvm(&trip, blob, &report));
    cr_expect_eq(doc_value(doc_find(&doc, 7, 0), NVMX_VMCS_GUEST_RIP), 0x2345);
    free(trip.blob);
    sim_free(sim);
}
