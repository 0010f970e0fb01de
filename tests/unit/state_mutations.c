/* SPDX-License-Identifier: MIT */
/*
 * Mutated blobs: good blobs of all states, changed at random in bytes and in records, mostly with a right checksum. One that is accepted
 * must break no rule (looked at here without the library), must be what is saved again, must give a vmcs02 that a processor enters, and the
 * vCPU must go on. NVMX_MUTATIONS=N: how many (10,000 if not set).
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "state_doc.h"

#define ROOM 65536u
#define DEFAULT_MUTATIONS 10000u
#define SOURCES 48u

static uint64_t random_state;

static uint32_t below(uint32_t limit) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * UINT64_C(0x2545f4914f6cdd1d)) >> 32) % limit;
}

static uint64_t any_value(uint64_t near) {
    static const uint64_t odd[] = {0, 1, 2, 0xfff, 0x1000, 0xffff, 0x10000, 0x80000000, 0xffffffff, 0x100000000,
                                   0x7fffffffffff, 0x800000000000, UINT64_C(1) << 40, UINT64_C(1) << 52, INT64_MAX, UINT64_MAX};
    switch (below(4)) {
    case 0:
        return odd[below(COUNT(odd))];
    case 1:
        return near + below(3) - 1;
    case 2: {
        uint64_t high = below(UINT32_MAX);
        return high << 32 | below(UINT32_MAX);
    }
    default:
        return near ^ UINT64_C(1) << below(64);
    }
}

/* -- mutating ---------------------------------------------------------------------------------------------------------------------- */

struct source {
    const struct state_world *world;
    struct doc doc;
};

static struct source sources[SOURCES];
static uint32_t source_count;

static void make_sources(void) {
    for (size_t i = 0; i < state_world_count && source_count < SOURCES; i++) {
        struct sim *sim = state_world_new(&state_worlds[i]);
        size_t bytes;
        uint8_t *blob = sim_save(sim, &bytes);
        doc_read(&sources[source_count].doc, blob, bytes);
        sources[source_count++].world = &state_worlds[i];
        free(blob);
        sim_free(sim);
    }
}

static void mutate_item(struct doc_record *record) {
    if (record->items == 0)
        return;
    struct doc_item *item = &record->item[below(record->items)];
    switch (below(10)) {
    case 0:
        *item = record->item[--record->items];
        if (below(4) == 0) /* mostly this breaks the order */
            return;
        break;
    case 1:
        if (record->items < DOC_ITEMS)
            doc_set(record, nvmx_field_info(below(NVMX_FIELD_COUNT))->encoding, any_value(0));
        return;
    case 2:
        item->id = (uint32_t)any_value(item->id);
        return;
    case 3:
        item->reserved = below(8) == 0 ? (uint32_t)any_value(0) : 0;
        return;
    default:
        item->value = any_value(item->value);
        return;
    }
    for (uint32_t i = 1; i < record->items; i++) {
        struct doc_item moving = record->item[i];
        uint32_t j = i;
        for (; j && record->item[j - 1].id > moving.id; j--)
            record->item[j] = record->item[j - 1];
        record->item[j] = moving;
    }
}

static void mutate_record(struct doc *doc) {
    uint32_t index = below(doc->records);
    struct doc_record *record = &doc->record[index];
    if (below(2) == 0 && doc_find(doc, NVMX_STATE_TAG_L2, 0)) {
        mutate_item(doc_find(doc, NVMX_STATE_TAG_L2, 0));
        return;
    }
    switch (below(16)) {
    case 0:
        doc_drop(doc, index);
        return;
    case 1:
        if (doc->records < DOC_RECORDS)
            doc_insert(doc, below(doc->records + 1), record);
        return;
    case 2:
        record->tag = (uint32_t)any_value(record->tag);
        return;
    case 3: { /* a record of another state */
        struct doc *other = &sources[below(source_count)].doc;
        if (doc->records < DOC_RECORDS) {
            uint32_t place = below(doc->records + 1);
            doc_insert(doc, place, &other->record[below(other->records)]);
        }
        return;
    }
    case 4: { /* instead of this one */
        struct doc *other = &sources[below(source_count)].doc;
        struct doc_record *same = doc_find(other, record->tag, 0);
        if (same)
            *record = *same;
        return;
    }
    case 5:
    case 6:
        record->head[below(2)] = any_value(record->head[0]);
        return;
    default:
        mutate_item(record);
        return;
    }
}

static size_t mutate(uint8_t *blob) {
    static struct doc doc;
    doc = sources[below(source_count)].doc;
    for (uint32_t n = 1 + below(below(8) == 0 ? 12 : 2); n && doc.records; n--)
        mutate_record(&doc);
    size_t bytes = doc_write(&doc, blob, ROOM);
    if (below(5) == 0) { /* bytes, which reach what records can't */
        for (uint32_t n = 1 + below(4); n; n--)
            blob[below((uint32_t)bytes)] = (uint8_t)any_value(0);
        if (below(8) == 0)
            bytes = 32 + 8 * below((uint32_t)bytes / 8);
        if (below(4) != 0)
            state_seal(blob, bytes);
    }
    return bytes;
}

/* -- the rules, looked at here --------------------------------------------------------------------------------------------------------- */

static bool aligned(uint64_t gpa1) {
    return gpa1 % 4096 == 0 && gpa1 < UINT64_C(1) << 40;
}

static void check_fields(const struct doc_record *record) {
    for (uint32_t i = 0; i < record->items; i++) {
        const struct doc_item *item = &record->item[i];
        static const unsigned int bits[] = {16, 64, 32, 64};
        unsigned int width = bits[(item->id >> 13) & 3];
        cr_assert(sim_slot(item->id) >= 0 && item->reserved == 0, "field %#x", item->id);
        cr_assert(i == 0 || record->item[i - 1].id < item->id, "order");
        cr_assert(width == 64 || item->value >> width == 0, "field %#x is %#lx", item->id, item->value);
    }
}

static void check_vmcss(struct doc *doc, uint64_t vmxon, uint64_t current) {
    bool found = current == NVMX_NO_ADDRESS;
    struct doc_record *record;
    for (uint32_t i = 0; (record = doc_find(doc, 5, i)) != NULL; i++) {
        cr_assert(aligned(record->head[0]) && record->head[0] != vmxon && record->head[1] <= 3, "VMCS at %#lx", record->head[0]);
        for (uint32_t j = 0; j < i; j++)
            cr_assert(doc_find(doc, 5, j)->head[0] != record->head[0], "two VMCSs at %#lx", record->head[0]);
        found = found || record->head[0] == current;
        check_fields(record);
    }
    cr_assert(found, "no VMCS at %#lx", current);
}

static void check_rules(struct doc *doc) {
    struct doc_record *vcpu = doc_find(doc, 3, 0), *l2 = doc_find(doc, 7, 0);
    cr_assert(vcpu != NULL && doc_find(doc, 3, 1) == NULL && doc_find(doc, 1, 1) == NULL && doc_find(doc, 7, 1) == NULL);
    cr_assert(doc->version == 1 && doc->flags == 1);
    uint64_t mode = doc_value(vcpu, 1), vmxon = doc_value(vcpu, 4);
    uint64_t current = doc_has(vcpu, 5) ? doc_value(vcpu, 5) : NVMX_NO_ADDRESS;
    cr_assert(mode <= 2 && doc_value(vcpu, 2) <= 2 && (doc_value(vcpu, 3) & ~UINT64_C(5)) == 0);
    cr_assert((mode == 2) == (l2 != NULL), "mode %lu", mode);
    cr_assert((mode != 0) == (doc_has(vcpu, 4) && vmxon != NVMX_NO_ADDRESS), "mode %lu", mode);
    cr_assert(mode == 0 || aligned(vmxon), "VMXON pointer %#lx", vmxon);
    cr_assert(mode != 0 || (doc_find(doc, 5, 0) == NULL && current == NVMX_NO_ADDRESS));
    check_vmcss(doc, vmxon, current);
    if (l2) {
        cr_assert(l2->head[0] <= 7 && l2->head[1] == 0 && current != NVMX_NO_ADDRESS);
        check_fields(l2);
    }
}

/* -- what is saved again ------------------------------------------------------------------------------------------------------------------- */

static void drop_zeros(struct doc_record *record) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < record->items; i++)
        if (record->item[i].value != 0 || record->tag == 7 || (record->tag == 3 && record->item[i].id >= 4))
            record->item[kept++] = record->item[i];
    record->items = kept;
}

/* L2's event: without the valid bit nothing of it counts, an error code and a length only where it has them (SDM 27.8.3). */
static void drop_what_no_event_has(struct doc_record *record) {
    uint64_t info = doc_value(record, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO), type = info >> 8 & 7;
    bool valid = info >> 31 & 1;
    bool counts[] = {valid, valid && (info >> 11 & 1), valid && type >= 4 && type <= 6};
    static const uint32_t id[] = {NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, NVMX_VMCS_VM_ENTRY_EXCEPTION_ERROR_CODE, NVMX_VMCS_VM_ENTRY_INSTRUCTION_LENGTH};
    for (unsigned int i = 0; i < 3; i++)
        if (!counts[i] && doc_has(record, id[i]))
            doc_set(record, id[i], 0);
}

/* Records that may be skipped are; "no address" is said by absence. */
static void normalise(struct doc *doc) {
    for (uint32_t i = 0; i < doc->records; i++) {
        struct doc_record *record = &doc->record[i];
        if (record->tag % 2 == 0) {
            doc_drop(doc, i--);
            continue;
        }
        drop_zeros(record);
        if (record->tag == 7)
            drop_what_no_event_has(record);
        if (record->tag == 3)
            for (uint32_t id = 4; id <= 5; id++)
                if (doc_value(record, id) == NVMX_NO_ADDRESS)
                    doc_remove(record, id);
    }
}

/* Before it is completed: what came is kept as it came, but for what means nothing. */
static void expect_same_doc(struct sim *sim, struct doc *doc, uint32_t number) {
    static struct doc again;
    size_t bytes;
    uint8_t *blob = sim_save(sim, &bytes);
    doc_read(&again, blob, bytes);
    normalise(doc);
    /* The profile is this VM's: what the blob names is a part of it. */
    struct doc_record *theirs = doc_find(doc, 1, 0), *ours = doc_find(&again, 1, 0);
    if (theirs && ours)
        *theirs = *ours;
    cr_assert(again.records == doc->records, "mutation %u: %u records became %u", number, doc->records, again.records);
    for (uint32_t i = 0; i < doc->records; i++) {
        struct doc_record *a = &doc->record[i], *b = &again.record[i];
        cr_assert(a->tag == b->tag && a->items == b->items && memcmp(a->head, b->head, sizeof(a->head)) == 0,
                  "mutation %u: record %u has %u items, had %u", number, a->tag, b->items, a->items);
        for (uint32_t k = 0; k < a->items; k++)
            cr_assert(a->item[k].id == b->item[k].id && a->item[k].value == b->item[k].value,
                      "mutation %u: record %u: %#x is %#lx, was %#lx", number, a->tag, a->item[k].id, b->item[k].value,
                      a->item[k].value);
    }
    free(blob);
}

/* -- going on ---------------------------------------------------------------------------------------------------------------------------------- */

/* Would a processor enter this vmcs02? Its host state and the addresses in its controls are the host's. */
static void expect_enterable(struct sim *sim, uint32_t number) {
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_failure failure = {0};
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        field[slot] = sim_has_field(sim, slot) ? sim_get(sim, sim->selected, (enum nvmx_field)slot) : 0;
    struct nvmx_check_input in = {
        .field = field, .caps = &sim->machine, .current_vmcs = 0x1000, .vmxon_pointer = 0x2000, .l1_long_mode = true,
        .vtpr = 0xff, .pdpte_readable = true};
    const uint32_t guest = 1u << NVMX_GROUP_EVENT | 1u << NVMX_GROUP_REGISTER | 1u << NVMX_GROUP_SEGMENT | 1u << NVMX_GROUP_NONREGISTER;
    struct nvmx_check_failure all[64];
    size_t failing = nvmx_check_report(&in, all, COUNT(all));
    for (size_t i = 0; i < failing && i < COUNT(all); i++) {
        failure = all[i];
        const struct nvmx_check_row *row = nvmx_check_row(failure.row);
        bool guests = (row->groups & guest) != 0 && (row->groups & ~guest & ~(1u << NVMX_GROUP_CONTROL)) == 0;
        cr_assert(!guests, "mutation %u: the processor refuses vmcs02: %s (%s)", number, row->id, row->rule);
    }
}

/* L1 reads and enters, L2 leaves: whatever comes of it, nothing may break (the simulated host aborts). */
static void go_on(struct sim *sim) {
    uint64_t value;
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2) {
        struct nvmx_pending pending = {.interrupt = true, .nmi = true};
        if (sim_enter(sim, &pending) != NVMX_ENTER)
            return;
    }
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && sim_exit(sim, NVMX_EXIT_EPT_VIOLATION, 0x181, 0, 0) == NVMX_STOP)
        return;
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 && sim_exit(sim, NVMX_EXIT_CPUID, 0, 0, 2) != NVMX_ENTER)
        return;
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_l1_mode64(sim);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_CR3, SIM_L1_PML4);
    if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2 || sim_vmread(sim, NVMX_VMCS_EXIT_REASON, &value) == SIM_STOPPED)
        return;
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    nvmx_exit(sim->vcpu, NVMX_EXIT_VMRESUME);
}

static void accepted(const struct state_world *world, const uint8_t *blob, size_t bytes, uint32_t number) {
    static struct doc doc;
    struct sim *sim = sim_new(&world->options);
    doc_read(&doc, blob, (size_t)state_word_at(blob, 16));
    check_rules(&doc);
    cr_assert(nvmx_state_restore(sim->vcpu, blob, bytes, NULL) == NVMX_STATE_OK, "mutation %u", number);
    expect_same_doc(sim, &doc, number);
    enum nvmx_status status = nvmx_state_complete(sim->vcpu);
    if (status == NVMX_OK && nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        expect_enterable(sim, number);
    if (status == NVMX_OK)
        go_on(sim);
    sim_free(sim);
}

Test(state_mutations, none_accepted_breaks_a_rule) {
    const char *wanted = getenv("NVMX_MUTATIONS");
    uint32_t count = wanted ? (uint32_t)strtoul(wanted, NULL, 10) : DEFAULT_MUTATIONS;
    uint32_t good = 0, reasons[NVMX_STATE_REASON_COUNT] = {0};
    uint8_t *blob = malloc(ROOM);
    random_state = 0x9e3779b97f4a7c15;
    make_sources();
    for (uint32_t number = 0; number < count; number++) {
        const struct state_world *world = &state_worlds[below((uint32_t)state_world_count)];
        static struct sim *target;
        static const struct state_world *target_world;
        if (target_world != world) {
            if (target)
                sim_free(target);
            target = sim_new(&world->options);
            target_world = world;
        }
        size_t bytes = mutate(blob);
        uint8_t *exact = malloc(bytes); /* so that AddressSanitizer sees every byte too many */
        memcpy(exact, blob, bytes);
        enum nvmx_state_reason reason = nvmx_state_check(exact, bytes, target->vcpu, NULL);
        cr_assert(reason < NVMX_STATE_REASON_COUNT);
        reasons[reason]++;
        if (reason == NVMX_STATE_OK) {
            good++;
            accepted(world, exact, bytes, number);
        }
        free(exact);
    }
    for (unsigned int i = 0; i < NVMX_STATE_REASON_COUNT; i++)
        cr_log_info("%6u: %s", reasons[i], nvmx_state_reason_text((enum nvmx_state_reason)i));
    cr_expect(good > count / 50 && good < count / 2, "%u of %u accepted", good, count);
    free(blob);
}
