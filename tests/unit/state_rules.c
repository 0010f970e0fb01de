/* SPDX-License-Identifier: MIT */
/* Each rule of a blob has its violation here, which must be refused for that reason and leave the vCPU as it was. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "state_doc.h"

#define ROOM 65536u
#define VCPU NVMX_STATE_TAG_VCPU
#define VMCS NVMX_STATE_TAG_VMCS
#define L2 NVMX_STATE_TAG_L2
#define PROFILE NVMX_STATE_TAG_PROFILE
#define MODE NVMX_STATE_VCPU_MODE
#define VMXON NVMX_STATE_VCPU_VMXON_POINTER
#define CURRENT NVMX_STATE_VCPU_CURRENT

enum edit {
    SET,          /* item `id` of the record := value */
    UNSET,        /* item `id` is not there */
    HEAD0,        /* the record's first word := value */
    HEAD1,
    DROP,         /* the record */
    TWICE,        /* the record again behind itself */
    UNKNOWN,      /* an empty record before it, with tag `id` */
    LAST,         /* the record to the end */
    SWAP,         /* the first two items */
    ITEM_HIGH,    /* the reserved half of the first item */
    FORMAT,       /* version := id, flags := value */
};

struct rule {
    const char *name;
    const char *world;
    uint32_t tag;
    enum edit edit;
    uint32_t id;
    uint64_t value;
    enum nvmx_state_reason reason;
    uint32_t detail; /* checked if not 0 */
};

static const struct rule rules[] = {
    {"nothing changed", "L2 runs", L2, HEAD1, 0, 0, NVMX_STATE_OK, 0},
    {"a version", "L2 runs", 0, FORMAT, 2, 1, NVMX_STATE_VERSION_NEWER, 0},
    {"version 0", "L2 runs", 0, FORMAT, 0, 1, NVMX_STATE_VERSION_NEWER, 0},
    {"a flag", "L2 runs", 0, FORMAT, 1, 3, NVMX_STATE_RESERVED, 0},
    {"a checksum without its flag", "L2 runs", 0, FORMAT, 1, 0, NVMX_STATE_RESERVED, 0},

    {"an even record", "L2 runs", VMCS, UNKNOWN, 4, 0, NVMX_STATE_OK, 0},
    {"an even record with a high tag, too early", "L2 runs", VMCS, UNKNOWN, 0x1000, 0, NVMX_STATE_RECORD, 0},
    {"another even record", "L2 runs", L2, UNKNOWN, 6, 0, NVMX_STATE_OK, 0},
    {"an unknown odd record", "VMX off", VCPU, UNKNOWN, 0xfffffff1, 0, NVMX_STATE_UNKNOWN_RECORD, 0xfffffff1},
    {"no vCPU record", "VMX off", VCPU, DROP, 0, 0, NVMX_STATE_MISSING_RECORD, VCPU},
    {"two vCPU records", "VMX off", VCPU, TWICE, 0, 0, NVMX_STATE_RECORD, 0},
    {"two profiles", "VMX off", PROFILE, TWICE, 0, 0, NVMX_STATE_RECORD, 0},
    {"two L2 records", "L2 runs", L2, TWICE, 0, 0, NVMX_STATE_RECORD, 0},
    {"the vCPU last", "L2 runs", VCPU, LAST, 0, 0, NVMX_STATE_RECORD, 0},
    {"the profile last", "VMX off", PROFILE, LAST, 0, 0, NVMX_STATE_RECORD, 0},
    {"items out of order", "L2 runs", VMCS, SWAP, 0, 0, NVMX_STATE_ITEM_ORDER, 0},
    {"items out of order in the profile", "L2 runs", PROFILE, SWAP, 0, 0, NVMX_STATE_ITEM_ORDER, 0},
    {"items out of order in L2", "L2 runs", L2, SWAP, 0, 0, NVMX_STATE_ITEM_ORDER, 0},
    {"items out of order in the vCPU", "L2 runs", VCPU, SWAP, 0, 0, NVMX_STATE_ITEM_ORDER, 0},
    {"a reserved half", "L2 runs", VMCS, ITEM_HIGH, 0, 0, NVMX_STATE_RESERVED, 0},
    {"a reserved half in L2", "L2 runs", L2, ITEM_HIGH, 0, 0, NVMX_STATE_RESERVED, 0},

    {"an unknown item of the profile", "VMX off", PROFILE, SET, 0x47f, 1, NVMX_STATE_UNKNOWN_ITEM, 0x47f},
    {"48 bits more than there are", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_ADDRESS_BITS, 53, NVMX_STATE_UNKNOWN_ITEM, 0},
    {"too few address bits", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_ADDRESS_BITS, 31, NVMX_STATE_UNKNOWN_ITEM, 0},
    {"no address bits", "VMX off", PROFILE, UNSET, NVMX_STATE_PROFILE_ADDRESS_BITS, 0, NVMX_STATE_PROFILE, 0},
    {"more address bits than the VM", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_ADDRESS_BITS, 46, NVMX_STATE_CAPABILITIES, 0},
    {"fewer address bits than the VM", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_ADDRESS_BITS, 36, NVMX_STATE_OK, 0},
    {"no VMX in the profile", "VMX off", PROFILE, UNSET, 0x480, 0, NVMX_STATE_PROFILE, 0},
    {"another revision", "VMX off", PROFILE, SET, 0x480, 0x00d8100012345678, NVMX_STATE_CAPABILITIES, 0x480},
    {"a contradiction", "VMX off", PROFILE, SET, 0x481, 0x1600000017, NVMX_STATE_PROFILE, 0x481},
    {"a CPU fact", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_CPU, 0x100000000, NVMX_STATE_UNKNOWN_ITEM, 0},
    {"a CPU fact that the VM lacks", "VMX off", PROFILE, SET, NVMX_STATE_PROFILE_CPU, 0xff, NVMX_STATE_CAPABILITIES, 0},
    {"DEBUGCTL bits that the VM lacks", "VMX off", PROFILE, SET, 0x1d9, 0xffff, NVMX_STATE_CAPABILITIES, 0x1d9},
    {"no profile", "VMX off", PROFILE, DROP, 0, 0, NVMX_STATE_EXPOSE, 0},
    {"no profile but VMX", "VMX operation, no VMCS", PROFILE, DROP, 0, 0, NVMX_STATE_MODE, 0},

    {"mode 3", "VMX off", VCPU, SET, MODE, 3, NVMX_STATE_ITEM_VALUE, MODE},
    {"mode 2^32", "VMX off", VCPU, SET, MODE, UINT64_C(1) << 32, NVMX_STATE_ITEM_VALUE, MODE},
    {"stopped by the host", "VMX off", VCPU, SET, NVMX_STATE_VCPU_STOP, NVMX_STOP_HOST, NVMX_STATE_ITEM_VALUE, 0},
    {"aborted without VMX", "VMX off", VCPU, SET, NVMX_STATE_VCPU_STOP, NVMX_STOP_VMX_ABORT, NVMX_STATE_MODE, 0},
    {"shut down", "VMX off", VCPU, SET, NVMX_STATE_VCPU_STOP, NVMX_STOP_SHUTDOWN, NVMX_STATE_OK, 0},
    {"a bit of FEATURE_CONTROL", "VMX off", VCPU, SET, NVMX_STATE_VCPU_FEATURE_CONTROL, 3, NVMX_STATE_ITEM_VALUE, 0},
    {"FEATURE_CONTROL 2^40", "VMX off", VCPU, SET, NVMX_STATE_VCPU_FEATURE_CONTROL, UINT64_C(1) << 40, NVMX_STATE_ITEM_VALUE, 0},
    {"an unknown item of the vCPU", "VMX off", VCPU, SET, 6, 1, NVMX_STATE_UNKNOWN_ITEM, 6},
    {"item 0 of the vCPU", "VMX off", VCPU, SET, 0, 1, NVMX_STATE_UNKNOWN_ITEM, 0},
    {"root mode without a VMXON pointer", "VMX operation, no VMCS", VCPU, UNSET, VMXON, 0, NVMX_STATE_MODE, 0},
    {"a VMXON pointer outside VMX operation", "VMX off", VCPU, SET, VMXON, 0x6000, NVMX_STATE_MODE, 0},
    {"a current VMCS outside VMX operation", "VMX off", VCPU, SET, CURRENT, 0x7000, NVMX_STATE_MODE, 0},
    {"VMCSs outside VMX operation", "two VMCSs", VCPU, UNSET, MODE, 0, NVMX_STATE_MODE, 0},
    {"a misaligned VMXON pointer", "VMX operation, no VMCS", VCPU, SET, VMXON, 0x6008, NVMX_STATE_POINTER, 0},
    {"a wide VMXON pointer", "VMX operation, no VMCS", VCPU, SET, VMXON, UINT64_C(1) << 40, NVMX_STATE_POINTER, 0},
    {"the widest VMXON pointer", "VMX operation, no VMCS", VCPU, SET, VMXON, 0xfffffff000, NVMX_STATE_OK, 0},
    {"a current VMCS that is not there", "two VMCSs", VCPU, SET, CURRENT, 0x9000, NVMX_STATE_NO_CURRENT, 0},
    {"a current VMCS at -1", "a current VMCS", VCPU, SET, CURRENT, UINT64_MAX, NVMX_STATE_OK, 0},
    {"no current VMCS", "a current VMCS", VCPU, UNSET, CURRENT, 0, NVMX_STATE_OK, 0},
    {"the other VMCS current", "two VMCSs", VCPU, SET, CURRENT, 0x7000, NVMX_STATE_OK, 0},

    {"a misaligned VMCS", "a current VMCS", VMCS, HEAD0, 0, 0x7010, NVMX_STATE_POINTER, 0},
    {"a wide VMCS pointer", "two VMCSs", VMCS, HEAD0, 0, UINT64_C(1) << 45, NVMX_STATE_POINTER, 0},
    {"a VMCS at the VMXON region", "two VMCSs", VMCS, HEAD0, 0, 0x6000, NVMX_STATE_DUPLICATE, 0},
    {"the same VMCS twice", "a current VMCS", VMCS, TWICE, 0, 0, NVMX_STATE_DUPLICATE, 0},
    {"an unknown flag of a VMCS", "a current VMCS", VMCS, HEAD1, 0, 4, NVMX_STATE_RESERVED, 0},
    {"launched", "a current VMCS", VMCS, HEAD1, 0, 1, NVMX_STATE_OK, 0},
    {"no such field", "a current VMCS", VMCS, SET, 0x6830, 1, NVMX_STATE_NO_SUCH_FIELD, 0x6830},
    {"an odd encoding", "a current VMCS", VMCS, SET, 0x2011, 1, NVMX_STATE_NO_SUCH_FIELD, 0x2011},
    {"a 32-bit encoding", "a current VMCS", VMCS, SET, 0x1681e, 1, NVMX_STATE_NO_SUCH_FIELD, 0x1681e},
    {"a field of CPUs with FRED", "a current VMCS", VMCS, SET, NVMX_VMCS_INJECTED_EVENT_DATA, 1, NVMX_STATE_NO_SUCH_FIELD, 0},
    {"a selector of 17 bits", "a current VMCS", VMCS, SET, NVMX_VMCS_GUEST_ES_SELECTOR, 0x10000, NVMX_STATE_FIELD_WIDTH, 0},
    {"a limit of 33 bits", "a current VMCS", VMCS, SET, NVMX_VMCS_GUEST_ES_LIMIT, 0x100000000, NVMX_STATE_FIELD_WIDTH, 0},
    {"any value that L1 can write", "a current VMCS", VMCS, SET, NVMX_VMCS_PIN_BASED_CONTROLS, 0xffffffff, NVMX_STATE_OK, 0},

    {"L2 without mode L2", "L2 runs", VCPU, SET, MODE, 1, NVMX_STATE_MODE, 0},
    {"mode L2 without L2", "a current VMCS", VCPU, SET, MODE, 2, NVMX_STATE_MODE, 0},
    {"L2 without a current VMCS", "L2 runs", VCPU, UNSET, CURRENT, 0, NVMX_STATE_NO_CURRENT, 0},
    {"L2 of a VMCS that is not launched", "L2 runs", VMCS, HEAD1, 0, 0, NVMX_STATE_MODE, 0},
    {"an unknown flag of L2", "L2 runs", L2, HEAD0, 0, 16 | 4, NVMX_STATE_RESERVED, 0},
    {"L2's second word", "L2 runs", L2, HEAD1, 0, 1, NVMX_STATE_RESERVED, 0},
    {"launching without an entry", "L2 runs", L2, HEAD0, 0, 6, NVMX_STATE_MODE, 0},
    {"a bus lock for an L1 that did not ask", "L2 runs", L2, HEAD0, 0, 12, NVMX_STATE_MODE, 0},
    {"an entry pending", "L2 runs", L2, HEAD0, 0, 5, NVMX_STATE_OK, 0},
    {"not in long mode, with EFER.LMA", "L2 runs", L2, HEAD0, 0, 0, NVMX_STATE_FIELD_MISSING, NVMX_VMCS_GUEST_PDPTE0},
    {"no RIP", "L2 runs", L2, UNSET, NVMX_VMCS_GUEST_RIP, 0, NVMX_STATE_FIELD_MISSING, NVMX_VMCS_GUEST_RIP},
    {"no CR0", "L2 runs", L2, UNSET, NVMX_VMCS_GUEST_CR0, 0, NVMX_STATE_FIELD_MISSING, 0},
    {"no event fields", "L2 runs", L2, UNSET, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0, NVMX_STATE_FIELD_MISSING, 0},
    {"no EFER: not switched there", "L2 runs", L2, UNSET, NVMX_VMCS_GUEST_EFER, 0, NVMX_STATE_OK, 0},
    {"a host field in L2", "L2 runs", L2, SET, NVMX_VMCS_HOST_RIP, 1, NVMX_STATE_FIELD_EXTRA, NVMX_VMCS_HOST_RIP},
    {"a control in L2", "L2 runs", L2, SET, NVMX_VMCS_PIN_BASED_CONTROLS, 0x16, NVMX_STATE_FIELD_EXTRA, 0},
    {"a timer that is off", "L2 runs", L2, SET, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 1, NVMX_STATE_FIELD_EXTRA, 0},
    {"no timer that is on", "the remainder of the preemption timer", L2, UNSET, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 0,
     NVMX_STATE_FIELD_MISSING, 0},
    {"PDPTEs outside PAE paging", "L2 runs", L2, SET, NVMX_VMCS_GUEST_PDPTE0, 1, NVMX_STATE_FIELD_EXTRA, 0},
    {"a PDPTE missing", "L2 in PAE paging", L2, UNSET, NVMX_VMCS_GUEST_PDPTE3, 0, NVMX_STATE_FIELD_MISSING, 0},
    {"a reserved bit of a PDPTE", "L2 in PAE paging", L2, SET, NVMX_VMCS_GUEST_PDPTE1, 0x10007, NVMX_STATE_ENTRY_CHECK, 0},
    {"a reserved bit of a PDPTE, without EPT", "L2 in PAE paging without EPT", L2, SET, NVMX_VMCS_GUEST_PDPTE1, 0x20007,
     NVMX_STATE_ENTRY_CHECK, 0},
    {"a wide selector of L2", "L2 runs", L2, SET, NVMX_VMCS_GUEST_CS_SELECTOR, 0x10008, NVMX_STATE_FIELD_WIDTH, 0},
    {"a reserved bit of RFLAGS", "L2 runs", L2, SET, NVMX_VMCS_GUEST_RFLAGS, 0, NVMX_STATE_ENTRY_CHECK, 0},
    {"VMXE clear", "L2 runs", L2, SET, NVMX_VMCS_GUEST_CR4, 0x20, NVMX_STATE_ENTRY_CHECK, 0},
    {"a RIP that is not canonical", "L2 runs", L2, SET, NVMX_VMCS_GUEST_RIP, UINT64_C(1) << 60, NVMX_STATE_ENTRY_CHECK, 0},
    {"a bad PAT, loaded by the host only", "L2 runs", L2, SET, NVMX_VMCS_GUEST_PAT, 2, NVMX_STATE_ENTRY_CHECK, 0},
    {"DR7 beyond 32 bits", "L2 runs", L2, SET, NVMX_VMCS_GUEST_DR7, UINT64_C(1) << 32, NVMX_STATE_ENTRY_CHECK, 0},
    {"DEBUGCTL that can't be", "L2 runs", L2, SET, NVMX_VMCS_GUEST_DEBUGCTL, UINT64_C(1) << 20, NVMX_STATE_ENTRY_CHECK, 0},
    {"EFER.LMA clear in long mode", "an EFER that only vmcs02 has", L2, SET, NVMX_VMCS_GUEST_EFER, 1, NVMX_STATE_ENTRY_CHECK, 0},
    {"a reserved event type", "L2 runs", L2, SET, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000130, NVMX_STATE_ENTRY_CHECK, 0},
    {"an interrupt while IF is 0", "L2 runs", L2, SET, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000030, NVMX_STATE_ENTRY_CHECK, 0},
    {"controls that L1 can't set", "L2 runs", VMCS, SET, NVMX_VMCS_PIN_BASED_CONTROLS, 0x80000016, NVMX_STATE_ENTRY_CHECK, 0},
    {"a load of IA32_RTIT_CTL, which L1 can't ask for", "L2 runs", VMCS, SET, NVMX_VMCS_VM_ENTRY_CONTROLS, 0x493ff, NVMX_STATE_ENTRY_CHECK, 0},
    {"the loads that L1 can ask for", "L2 runs", VMCS, SET, NVMX_VMCS_VM_ENTRY_CONTROLS, 0x93ff, NVMX_STATE_OK, 0},
    {"a host state that can't be", "L2 runs", VMCS, SET, NVMX_VMCS_HOST_CR4, 0, NVMX_STATE_ENTRY_CHECK, 0},
};

static const struct state_world *world_named(const char *name) {
    for (size_t i = 0; i < state_world_count; i++)
        if (strcmp(state_worlds[i].name, name) == 0)
            return &state_worlds[i];
    cr_assert(false, "there is no world '%s'", name);
    return NULL;
}

static void apply(struct doc *doc, const struct rule *rule) {
    struct doc_record *record = rule->edit == FORMAT ? NULL : doc_find(doc, rule->tag, 0);
    cr_assert(record != NULL || rule->edit == FORMAT, "%s: no record %u", rule->name, rule->tag);
    uint32_t index = record ? (uint32_t)(record - doc->record) : 0;
    struct doc_record other = {.tag = rule->id};
    switch (rule->edit) {
    case SET:
        doc_set(record, rule->id, rule->value);
        break;
    case UNSET:
        doc_remove(record, rule->id);
        break;
    case HEAD0:
        record->head[0] = rule->value;
        break;
    case HEAD1:
        record->head[1] = rule->value;
        break;
    case DROP:
        doc_drop(doc, index);
        break;
    case TWICE:
        doc_insert(doc, index, record);
        break;
    case UNKNOWN:
        doc_insert(doc, index, &other);
        break;
    case LAST:
        doc_insert(doc, doc->records, record);
        doc_drop(doc, index);
        break;
    case SWAP:
        record->item[DOC_ITEMS - 1] = record->item[0];
        record->item[0] = record->item[1];
        record->item[1] = record->item[DOC_ITEMS - 1];
        break;
    case ITEM_HIGH:
        record->item[0].reserved = 1;
        break;
    case FORMAT:
        doc->version = rule->id;
        doc->flags = (uint32_t)rule->value;
        break;
    }
}

/* A vCPU that took nothing is as it was, whatever that was. */
static void refused_whole(struct sim *target, const uint8_t *blob, size_t bytes, const struct rule *rule) {
    size_t before_bytes, after_bytes;
    struct nvmx_state_error error;
    uint8_t *before = sim_save(target, &before_bytes);
    enum nvmx_state_reason reason = nvmx_state_restore(target->vcpu, blob, bytes, &error);
    cr_expect(reason == rule->reason && error.reason == reason, "%s: %s instead of %s", rule->name,
              nvmx_state_reason_text(reason), nvmx_state_reason_text(rule->reason));
    if (rule->detail)
        cr_expect(error.detail == rule->detail, "%s: detail %#x", rule->name, error.detail);
    cr_expect(error.offset <= bytes && (reason == NVMX_STATE_ENTRY_CHECK) == (nvmx_check_row(error.check_row) != NULL),
              "%s: offset %lu, row %u", rule->name, error.offset, error.check_row);
    if (reason != NVMX_STATE_OK) {
        uint8_t *after = sim_save(target, &after_bytes);
        cr_expect(before_bytes == after_bytes && memcmp(before, after, after_bytes) == 0, "%s: the vCPU changed", rule->name);
        cr_expect(sim_enter(target, NULL) == NVMX_ENTER, "%s", rule->name);
        free(after);
    }
    free(before);
}

static void try_rule(const struct rule *rule) {
    static struct doc doc;
    static uint8_t changed[ROOM];
    const struct state_world *world = world_named(rule->world);
    struct sim *source = state_world_new(world);
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    doc_read(&doc, blob, bytes);
    apply(&doc, rule);
    bytes = doc_write(&doc, changed, sizeof(changed));
    enum nvmx_state_reason reason = nvmx_state_check(changed, bytes, source->vcpu, NULL);
    cr_expect(reason == rule->reason, "%s: checked: %s", rule->name, nvmx_state_reason_text(reason));
    refused_whole(source, changed, bytes, rule);
    struct sim *fresh = sim_new(&world->options);
    refused_whole(fresh, changed, bytes, rule);
    sim_free(fresh);
    sim_free(source);
    free(blob);
}

Test(state_rules, each_violation_is_refused_for_its_reason) {
    for (size_t i = 0; i < COUNT(rules); i++)
        try_rule(&rules[i]);
}

/* The entry check that fails is named. */
Test(state_rules, the_entry_check_is_named) {
    static struct doc doc;
    static uint8_t changed[ROOM];
    struct nvmx_state_error error;
    struct sim *sim = state_world_new(world_named("L2 runs"));
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    doc_read(&doc, blob, bytes);
    doc_set(doc_find(&doc, L2, 0), NVMX_VMCS_GUEST_RFLAGS, 0);
    bytes = doc_write(&doc, changed, sizeof(changed));
    cr_assert(nvmx_state_check(changed, bytes, NULL, &error) == NVMX_STATE_ENTRY_CHECK);
    cr_expect(strstr(nvmx_check_row(error.check_row)->rule, "RFLAGS") != NULL, "%s", nvmx_check_row(error.check_row)->id);
    sim_free(sim);
    free(blob);
}

Test(state_rules, truncated_anywhere) {
    struct sim *sim = state_world_new(world_named("L2 runs"));
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    for (size_t length = 0; length < bytes; length++) {
        uint8_t *cut = malloc(length ? length : 1); /* so that AddressSanitizer sees every byte too many */
        memcpy(cut, blob, length);
        cr_assert(nvmx_state_check(cut, length, sim->vcpu, NULL) == NVMX_STATE_TRUNCATED, "%zu bytes", length);
        if (length >= 32 && length % 8 == 0) {
            state_seal(cut, length);
            cr_assert(nvmx_state_check(cut, length, sim->vcpu, NULL) != NVMX_STATE_OK, "%zu bytes, sealed", length);
        }
        free(cut);
    }
    cr_expect(nvmx_state_check(blob, bytes + 100, sim->vcpu, NULL) == NVMX_STATE_OK, "what follows is not looked at");
    cr_expect(nvmx_state_check(NULL, 0, sim->vcpu, NULL) == NVMX_STATE_TRUNCATED);
    sim_free(sim);
    free(blob);
}

/* A length that leads past the end of the blob, sealed: nothing behind the end is an item. */
Test(state_rules, a_record_ends_in_the_blob) {
    struct sim *sim = state_world_new(world_named("L2 runs"));
    struct nvmx_state_record record, none;
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    uint64_t offset = 0;
    unsigned int records = 0;
    while (nvmx_state_next(blob, bytes, &offset, &record)) {
        uint8_t *changed = malloc(bytes);
        uint64_t at = record.offset;
        uint32_t length;
        memcpy(changed, blob, bytes);
        memcpy(&length, &blob[at + 4], 4);
        length += (uint32_t)(bytes - at + 15) & ~15u;
        memcpy(&changed[at + 4], &length, 4);
        state_seal(changed, bytes);
        cr_expect(!nvmx_state_next(changed, bytes, &at, &none), "record %u", records);
        cr_expect(nvmx_state_check(changed, bytes, sim->vcpu, NULL) != NVMX_STATE_OK, "record %u", records);
        free(changed);
        records++;
    }
    cr_expect(records > 3);
    sim_free(sim);
    free(blob);
}

Test(state_rules, damage_is_told) {
    struct sim *sim = state_world_new(world_named("L2 runs"));
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        blob[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert(nvmx_state_check(blob, bytes, sim->vcpu, NULL) != NVMX_STATE_OK, "bit %zu", bit);
        blob[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    sim_free(sim);
    free(blob);
}

Test(state_rules, a_smaller_vcpu_refuses) {
    struct sim *source = state_world_new(world_named("two VMCSs"));
    struct sim *target = sim_new(&(struct sim_options){.vmcs02_slots = 1});
    struct nvmx_state_error error;
    size_t bytes;
    uint8_t *blob = sim_save(source, &bytes);
    cr_expect(nvmx_state_restore(target->vcpu, blob, bytes, &error) == NVMX_STATE_TOO_MANY && error.detail == 2);
    sim_free(source);
    sim_free(target);
    free(blob);
}

Test(state_rules, every_reason_has_a_text) {
    for (unsigned int i = 0; i <= NVMX_STATE_REASON_COUNT; i++) {
        const char *text = nvmx_state_reason_text((enum nvmx_state_reason)i);
        cr_expect(text != NULL && text[0] != 0, "reason %u", i);
        for (unsigned int j = 0; j < i; j++)
            cr_expect(strcmp(text, nvmx_state_reason_text((enum nvmx_state_reason)j)) != 0, "reasons %u and %u", i, j);
    }
}

/* Zeros behind a blob look like an empty record: the list ends where the blob does. */
Test(state_rules, no_record_begins_where_the_blob_ends) {
    static uint8_t room[65536];
    struct sim *sim = sim_new(NULL);
    struct nvmx_state_record record;
    uint64_t offset = 0;
    size_t bytes;
    unsigned int count = 0;
    cr_assert_eq(sim_launch(sim), SIM_L2);
    uint8_t *blob = sim_save(sim, &bytes);
    memcpy(room, blob, bytes);
    while (count < 1000 && nvmx_state_next(room, bytes, &offset, &record)) {
        cr_expect(record.offset + 8 <= bytes, "record %u at %lu of %zu bytes", count, record.offset, bytes);
        count++;
    }
    cr_expect(count > 0 && count < 1000, "%u records", count);
    free(blob);
    sim_free(sim);
}
