/* SPDX-License-Identifier: MIT */
/* VM-entry checks (SDM 29.2-29.3): every live row has a way to break it and a state in which it holds. */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <nvmx/ept.h>
#include <string.h>

#include "check_vectors.h"

static const uint8_t field_group[] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow) NVMX_GROUP_##group,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};
static const uint32_t field_encoding[] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow) encoding,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

#define RFLAGS_VM (1u << 17)

static const char *id(unsigned int row) {
    const struct nvmx_check_row *r = nvmx_check_row(row);

    return r == NULL ? "none" : r->id;
}

/* xorshift64*: the same numbers on every run */
static uint64_t next_random(uint64_t *seed) {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return *seed * UINT64_C(0x2545f4914f6cdd1d);
}

Test(check, table_is_complete_and_consistent) {
    unsigned int live = 0;

    cr_assert_eq(NVMX_CHECK_COUNT, 394);
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        const struct nvmx_check_row *r = nvmx_check_row(row);
        size_t section = strlen(r->section);

        live += r->live;
        cr_expect(strncmp(r->id, "C-", 2) == 0 && strncmp(r->id + 2, r->section, section) == 0 && r->id[2 + section] == '-',
                  "%s is not of section %s", r->id, r->section);
        cr_expect(r->rule[0] != '\0', "%s", r->id);
        cr_expect_eq(r->live, r->where == NULL, "%s", r->id);
        if (!r->live)
            continue;
        cr_expect(r->groups != 0 && (r->groups & ~NVMX_CHECK_ALL) == 0, "%s", r->id);
        cr_expect(r->exit_reason == 33 ? r->vm_fail == 0 : (r->vm_fail == 7 || r->vm_fail == 8) && r->exit_reason == 0, "%s", r->id);
        cr_expect_eq(r->vm_fail == 0, strncmp(r->section, "29.3", 4) == 0, "%s", r->id);
    }
    cr_log_info("%u of %u rows are live, %u vectors", live, (unsigned int)NVMX_CHECK_COUNT, (unsigned int)VECTORS);
    cr_expect_null(nvmx_check_row(NVMX_CHECK_COUNT));
    cr_expect_null(nvmx_check_row(NVMX_CHECK_NONE));
}

Test(check, rows_have_the_ids_of_their_names) {
    for (unsigned int row = 1; row < NVMX_CHECK_COUNT; row++)
        for (unsigned int other = 0; other < row; other++)
            cr_assert_str_neq(id(row), id(other));
    cr_expect_str_eq(id(0), "C-29.1-01");
    cr_expect_str_eq(id(NVMX_C_29_2_1_1_08), "C-29.2.1.1-08");
    cr_expect_str_eq(id(NVMX_C_29_3_1_6_02), "C-29.3.1.6-02");
}

Test(check, valid_states_pass) {
    for (unsigned int base = 0; base < CHECK_BASES; base++) {
        struct check_state state;
        struct nvmx_check_failure failure = {0};

        check_state_init(&state, (enum check_base)base);
        cr_expect(nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure), "base %u fails %s", base, id(failure.row));
        cr_expect_eq(nvmx_check_report(&state.in, &failure, 1), 0u);
    }
}

/* Where a condition does not hold, its rule may be broken. */
Test(check, rules_that_do_not_apply_are_not_looked_at) {
    for (unsigned int i = 0; i < VALID_STATES; i++) {
        struct check_state state;
        struct nvmx_check_failure failure = {0};

        check_state_init(&state, (enum check_base)valid[i].base);
        check_state_change(&state, valid[i].before, CHECK_CHANGES);
        cr_expect(nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure), "valid state %u fails %s", i, id(failure.row));
        cr_expect_eq(nvmx_check_report(&state.in, &failure, 1), 0u);
    }
}

static void expect_broken(const struct vector *v, const struct check_state *state) {
    struct nvmx_check_failure first = {0}, all[NVMX_CHECK_COUNT];
    const struct nvmx_check_row *row = nvmx_check_row(v->first);
    size_t failing;
    bool found = false;

    cr_expect(!nvmx_check_first(&state->in, NVMX_CHECK_ALL, &first), "vector %u for %s passes", (unsigned int)(v - vectors),
              id(v->row));
    cr_expect_eq(first.row, v->first, "vector %u for %s first fails %s", (unsigned int)(v - vectors), id(v->row), id(first.row));
    cr_expect_eq(first.vm_fail, row->vm_fail);
    cr_expect_eq(first.exit_reason, row->exit_reason);
    cr_expect_eq(first.qualification, row->qualification);
    failing = nvmx_check_report(&state->in, all, NVMX_CHECK_COUNT);
    for (size_t i = 0; i < failing; i++)
        found |= all[i].row == v->row;
    cr_expect(found, "%s is not in the report", id(v->row));
}

Test(check, each_vector_breaks_its_row_and_nothing_before) {
    for (unsigned int i = 0; i < VECTORS; i++) {
        const struct vector *v = &vectors[i];
        struct check_state state;
        struct nvmx_check_failure failure = {0};

        check_state_init(&state, (enum check_base)v->base);
        check_state_change(&state, v->before, CHECK_CHANGES);
        cr_expect(nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure), "vector %u for %s fails %s unbroken", i, id(v->row),
                  id(failure.row));
        check_state_change(&state, v->broken, CHECK_CHANGES);
        expect_broken(v, &state);
    }
}

Test(check, every_live_row_has_a_vector) {
    bool has[NVMX_CHECK_COUNT] = {false};

    for (unsigned int i = 0; i < VECTORS; i++)
        has[vectors[i].row] = true;
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        cr_expect_eq(has[row], nvmx_check_row(row)->live != 0, "%s", id(row));
}

/* Qualifications that are not 0 (SDM 29.8): 2 PDPTEs, 3 NMI with blocking by STI, 4 VMCS link pointer. */
Test(check, qualifications_are_those_of_29_8) {
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        unsigned int expected = 0;

        if (row >= NVMX_C_29_3_1_6_01 && row <= NVMX_C_29_3_1_6_02)
            expected = 2;
        else if (row == NVMX_C_29_3_1_5_14)
            expected = 3;
        else if (row >= NVMX_C_29_3_1_5_28 && row <= NVMX_C_29_3_1_5_33)
            expected = 4;
        cr_expect_eq(nvmx_check_row(row)->qualification, expected, "%s", id(row));
    }
}

static uint64_t field_bits(unsigned int slot) {
    switch ((field_encoding[slot] >> 13) & 3) {
    case NVMX_WIDTH_16:
        return 0xffff;
    case NVMX_WIDTH_32:
        return 0xffffffff;
    default:
        return UINT64_MAX;
    }
}

/* Change one field a little, as likely as not to something that breaks a rule. */
static unsigned int disturb(struct check_state *state, uint64_t *seed) {
    const unsigned int slot = (unsigned int)(next_random(seed) % NVMX_FIELD_COUNT);
    const uint64_t old = state->field[slot];
    uint64_t value = next_random(seed);

    switch (next_random(seed) % 8) {
    case 0:
        value = UINT64_MAX;
        break;
    case 1:
        value &= 0xff;
        break;
    case 2:
        value = 0;
        break;
    case 3:
        break;
    default: /* a low bit more often than a high one */
        value = old ^ UINT64_C(1) << (value % (value & 0x100 ? 64 : 18));
        break;
    }
    state->field[slot] = value & field_bits(slot);
    return slot;
}

/* A state near a valid one: where a vector begins or ends, disturbed `times` times. */
static void near_valid(struct check_state *state, unsigned int times, uint64_t *seed) {
    const struct vector *v = &vectors[next_random(seed) % VECTORS];

    check_state_init(state, (enum check_base)v->base);
    check_state_change(state, v->before, CHECK_CHANGES);
    if (next_random(seed) % 4 == 0)
        check_state_change(state, v->broken, CHECK_CHANGES);
    while (times-- > 0)
        disturb(state, seed);
    state->in.l1_long_mode ^= next_random(seed) % 64 == 0;
    state->in.pdpte_readable ^= next_random(seed) % 64 == 0;
    state->in.vtpr = (uint8_t)next_random(seed);
}

Test(check, first_failure_is_the_first_of_the_report) {
    static bool failed[NVMX_CHECK_COUNT];
    uint64_t seed = 20260601;
    unsigned int passed = 0, seen = 0;

    for (unsigned int i = 0; i < 60000; i++) {
        struct check_state state;
        struct nvmx_check_failure first = {0}, all[4] = {{0}};
        size_t failing;
        bool ok;

        near_valid(&state, (unsigned int)(next_random(&seed) % 5), &seed);
        ok = nvmx_check_first(&state.in, NVMX_CHECK_ALL, &first);
        failing = nvmx_check_report(&state.in, all, 4);
        cr_assert_eq(ok, failing == 0, "state %u: %s, %zu in the report", i, id(first.row), failing);
        passed += ok;
        if (ok)
            continue;
        failed[first.row] = true;
        cr_assert(memcmp(&first, &all[0], sizeof first) == 0, "state %u: %s, in the report %s", i, id(first.row), id(all[0].row));
    }
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        seen += failed[row];
    cr_log_info("%u states passed, %u different rows failed first", passed, seen);
    cr_expect(passed > 5000 && seen > 250, "%u states passed, %u rows failed: the states say too little", passed, seen);
}

/* With some groups only: the first failing row that concerns one of them, or that is looked at always. */
Test(check, groups_select_rows) {
    uint64_t seed = 11;

    for (unsigned int i = 0; i < 20000; i++) {
        struct check_state state;
        struct nvmx_check_failure first = {0}, all[NVMX_CHECK_COUNT];
        const uint32_t groups = (uint32_t)next_random(&seed) & NVMX_CHECK_ALL;
        uint16_t expected = NVMX_CHECK_NONE;
        size_t failing;

        near_valid(&state, 3, &seed);
        failing = nvmx_check_report(&state.in, all, NVMX_CHECK_COUNT);
        for (size_t k = failing; k-- > 0;) {
            const uint32_t needs = nvmx_check_row(all[k].row)->groups;

            if ((needs & groups) || needs == NVMX_CHECK_ALL)
                expected = all[k].row;
        }
        first.row = NVMX_CHECK_NONE;
        cr_assert_eq(nvmx_check_first(&state.in, groups, &first), expected == NVMX_CHECK_NONE);
        cr_assert_eq(first.row, expected, "groups %x: %s, not %s", groups, id(first.row), id(expected));
    }
}

/* A row whose answer depends on a field names the field's group: else a change by L1 could go unchecked. */
Test(check, groups_of_a_row_cover_what_it_reads) {
    uint64_t seed = 7;

    for (unsigned int i = 0; i < 60000; i++) {
        struct check_state state;
        struct nvmx_check_failure all[NVMX_CHECK_COUNT];
        bool changed[NVMX_CHECK_COUNT] = {false};
        unsigned int slot;
        uint32_t written;
        size_t failing;

        near_valid(&state, (unsigned int)(next_random(&seed) % 3), &seed);
        written = (uint32_t)state.field[NVMX_F_GUEST_RFLAGS] & RFLAGS_VM;
        failing = nvmx_check_report(&state.in, all, NVMX_CHECK_COUNT);
        for (size_t k = 0; k < failing; k++)
            changed[all[k].row] = true;
        slot = disturb(&state, &seed);
        failing = nvmx_check_report(&state.in, all, NVMX_CHECK_COUNT);
        for (size_t k = 0; k < failing; k++)
            changed[all[k].row] = !changed[all[k].row];
        written = written != (state.field[NVMX_F_GUEST_RFLAGS] & RFLAGS_VM) ? 1u << NVMX_GROUP_SEGMENT : 0;
        written |= 1u << field_group[slot];
        for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
            cr_assert(!changed[row] || (nvmx_check_row(row)->groups & written),
                      "%s changes with field %x but does not name its group", id(row), field_encoding[slot]);
    }
}

/* A VMWRITE that breaks a row has the row looked at again: one of the fields that the vector writes is of the row's groups. */
Test(check, fields_that_break_a_row_are_of_its_groups) {
    unsigned int looked_at = 0;

    for (unsigned int i = 0; i < VECTORS; i++) {
        uint32_t written = 0;
        bool fields_alone = true;

        for (unsigned int k = 0; k < CHECK_CHANGES && vectors[i].broken[k].kind != CHANGE_NONE; k++) {
            bool field = vectors[i].broken[k].kind <= CHANGE_CLEAR;

            written |= field ? 1u << field_group[vectors[i].broken[k].place] : 0;
            fields_alone = fields_alone && field;
        }
        if (fields_alone) {
            cr_expect(nvmx_check_row(vectors[i].row)->groups & written, "%s", id(vectors[i].row));
            looked_at++;
        }
    }
    cr_expect_gt(looked_at, 300);
}

/* Change each bit of the field that rules look at; the answer for `groups` must stay. */
static void expect_blind(struct check_state *state, uint32_t groups, unsigned int slot) {
    struct nvmx_check_failure before = {0}, after = {0};
    const uint64_t old = state->field[slot];

    nvmx_check_first(&state->in, groups, &before);
    for (unsigned int bit = 0; bit < 19; bit++) {
        state->field[slot] = (bit < 18 ? old ^ UINT64_C(1) << bit : UINT64_MAX) & field_bits(slot);
        after = (struct nvmx_check_failure){0};
        nvmx_check_first(&state->in, groups, &after);
        cr_assert(memcmp(&before, &after, sizeof before) == 0, "field %x: %s, then %s", field_encoding[slot], id(before.row),
                  id(after.row));
    }
    state->field[slot] = old;
}

/* checks.h promises that these groups alone read little guest state besides their own: a host may leave the rest where it is. */
Test(check, event_and_nonregister_rows_read_few_other_fields) {
    static const uint16_t read[] = {NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR4, NVMX_F_GUEST_DEBUGCTL, NVMX_F_GUEST_CS_ACCESS_RIGHTS,
                                    NVMX_F_GUEST_SS_ACCESS_RIGHTS};
    const uint32_t groups = 1u << NVMX_GROUP_EVENT | 1u << NVMX_GROUP_NONREGISTER;
    const uint32_t blind = 1u << NVMX_GROUP_REGISTER | 1u << NVMX_GROUP_SEGMENT | 1u << NVMX_GROUP_HOST;

    for (unsigned int i = 0; i < VECTORS; i++) {
        struct check_state state;

        check_state_init(&state, (enum check_base)vectors[i].base);
        check_state_change(&state, vectors[i].before, CHECK_CHANGES);
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
            bool may = !(blind & (1u << field_group[slot]));

            for (unsigned int k = 0; k < sizeof read / sizeof read[0]; k++)
                may |= read[k] == slot;
            if (!may)
                expect_blind(&state, groups, slot);
        }
    }
}

Test(check, report_counts_more_than_it_stores) {
    struct check_state state;
    struct nvmx_check_failure one = {0};

    check_state_init(&state, LONG64);
    state.field[NVMX_F_HOST_CR0] = 0;
    state.field[NVMX_F_HOST_CS_SELECTOR] = 1;
    state.field[NVMX_F_GUEST_RFLAGS] = 0;
    cr_expect_eq(nvmx_check_report(&state.in, &one, 1), 3u);
    cr_expect_eq(one.row, NVMX_C_29_2_2_01);
    cr_expect_eq(nvmx_check_report(&state.in, NULL, 0), 3u);
}

/* The rows must say what caps.h says. */
Test(check, rows_agree_with_caps) {
    static const struct {
        uint16_t slot, row;
    } linear[] = {
        {NVMX_F_HOST_SYSENTER_ESP, NVMX_C_29_2_2_07}, {NVMX_F_HOST_FS_BASE, NVMX_C_29_2_3_11},
        {NVMX_F_HOST_RIP, NVMX_C_29_2_4_11},          {NVMX_F_GUEST_SYSENTER_EIP, NVMX_C_29_3_1_1_15},
        {NVMX_F_GUEST_GS_BASE, NVMX_C_29_3_1_2_12},   {NVMX_F_GUEST_IDTR_BASE, NVMX_C_29_3_1_3_03},
    };
    uint64_t seed = 3;

    for (unsigned int i = 0; i < 5000; i++) {
        const unsigned int k = i % (sizeof linear / sizeof linear[0]);
        struct check_state state;
        struct nvmx_check_failure failure = {0};
        uint64_t address = next_random(&seed);

        check_state_init(&state, LONG64);
        if (i & 64)
            state.caps.cpu |= NVMX_CPU_LA57;
        address = (uint64_t)((int64_t)address >> (next_random(&seed) % 24)) ^ (address & 1) << 47;
        state.field[linear[k].slot] = address;
        cr_assert_eq(nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure), nvmx_is_canonical(&state.caps, address));
        if (!nvmx_is_canonical(&state.caps, address))
            cr_assert_eq(failure.row, linear[k].row);
    }
    for (uint64_t eptp = 0; eptp < 0x8000; eptp++) {
        struct check_state state;
        struct nvmx_check_failure failure = {0};
        bool ok;

        check_state_init(&state, LONG64);
        state.caps.msr[NVMX_CAP_EPT_VPID] ^= (eptp >> 12 & 1) << 21 | (eptp >> 13 & 1) << 7 | (eptp >> 14 & 1) << 8;
        state.field[NVMX_F_EPT_POINTER] = (eptp & 0xfff) | (eptp * 0x9e3779b97f4a7c15 & UINT64_C(0xfffffff000));
        ok = nvmx_eptp_valid(&state.caps, state.field[NVMX_F_EPT_POINTER]);
        cr_assert_eq(nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure), ok, "EPTP %lx", state.field[NVMX_F_EPT_POINTER]);
        cr_assert(ok || (failure.row >= NVMX_C_29_2_1_1_53 && failure.row <= NVMX_C_29_2_1_1_58));
    }
    for (unsigned int bit = 0; bit < 64; bit++) {
        struct check_state state;
        struct nvmx_check_failure failure = {0};

        check_state_init(&state, LONG64);
        state.field[NVMX_F_GUEST_CR4] ^= UINT64_C(1) << bit;
        failure.row = NVMX_CHECK_NONE;
        nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure);
        cr_expect_eq(nvmx_cr_fixed_ok(&state.caps, 4, state.field[NVMX_F_GUEST_CR4], false),
                     failure.row != NVMX_C_29_3_1_1_04 && failure.row != NVMX_C_29_3_1_1_05, "CR4 bit %u", bit);
        check_state_init(&state, REAL);
        state.field[NVMX_F_GUEST_CR0] ^= UINT64_C(1) << bit;
        failure.row = NVMX_CHECK_NONE;
        nvmx_check_first(&state.in, NVMX_CHECK_ALL, &failure);
        cr_expect_eq(nvmx_cr_fixed_ok(&state.caps, 0, state.field[NVMX_F_GUEST_CR0], true),
                     failure.row != NVMX_C_29_3_1_1_01 && failure.row != NVMX_C_29_3_1_1_02, "CR0 bit %u", bit);
    }
}
