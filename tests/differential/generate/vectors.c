/* SPDX-License-Identifier: MIT */
/*
 * Vectors. The first are the unit tests' recipes, unbroken and broken, one after the other; where a recipe needs what the CPU lacks, and from
 * there on, vectors are random: a row of the table in turn, a state for it, one to three changes of fields that the row depends on.
 */
#include <string.h>

#include "rows.h"

#define ATTEMPTS 400
#define WIDTH(slot) ((nvmx_field_info(slot)->encoding >> 13) & 3)

/* -- which fields and pages ------------------------------------------------------------------------------------------------------- */

/* The page that an address field has in the states; a small value in a recipe is an offset from there. */
static uint64_t home(unsigned int slot) {
    switch (slot) {
    case NVMX_F_IO_BITMAP_A_ADDRESS:
        return DIFF_IO_BITMAP_A;
    case NVMX_F_IO_BITMAP_B_ADDRESS:
        return DIFF_IO_BITMAP_B;
    case NVMX_F_MSR_BITMAP_ADDRESS:
        return DIFF_MSR_BITMAP;
    case NVMX_F_VIRTUAL_APIC_ADDRESS:
        return DIFF_VIRTUAL_APIC;
    case NVMX_F_APIC_ACCESS_ADDRESS:
        return DIFF_APIC_ACCESS;
    case NVMX_F_VM_EXIT_MSR_STORE_ADDRESS:
        return DIFF_MSR_STORE;
    case NVMX_F_VM_EXIT_MSR_LOAD_ADDRESS:
        return DIFF_MSR_LOAD;
    case NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS:
        return DIFF_ENTRY_MSRS;
    case NVMX_F_EPT_POINTER:
        return DIFF_EPT_PML4;
    case NVMX_F_VMCS_LINK_POINTER:
        return DIFF_PLAIN_VMCS;
    case NVMX_F_PML_ADDRESS:
        return DIFF_PML;
    case NVMX_F_EPTP_LIST_ADDRESS:
        return DIFF_EPTP_LIST;
    case NVMX_F_VMREAD_BITMAP_ADDRESS:
        return DIFF_VMREAD_BITMAP;
    case NVMX_F_VMWRITE_BITMAP_ADDRESS:
        return DIFF_VMWRITE_BITMAP;
    case NVMX_F_VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS:
        return DIFF_VE_INFO;
    default:
        return 0;
    }
}

/* Fields whose change would only make L2 run on. */
static bool fixed(unsigned int slot) {
    return slot == NVMX_F_EXCEPTION_BITMAP || slot == NVMX_F_PAGE_FAULT_ERROR_CODE_MASK ||
           slot == NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH || slot == NVMX_F_PREEMPTION_TIMER_VALUE || slot == NVMX_F_HOST_RSP;
}

/* -- a vector under construction ------------------------------------------------------------------------------------------------ */

static uint64_t value(const struct vector *v, const struct world *w, unsigned int slot) {
    for (unsigned int i = 0; i < v->changes; i++)
        if (v->change[i].place == slot)
            return v->change[i].value;
    return w->states.field[v->base][slot];
}

static bool set(struct vector *v, const struct world *w, uint32_t place, uint64_t wanted) {
    unsigned int i = 0;

    if (place < NVMX_FIELD_COUNT) {
        wanted &= nvmx_field_mask(place);
        if (!nvmx_set_has(&w->exists, place))
            return wanted == 0;
    }
    while (i < v->changes && v->change[i].place != place)
        i++;
    if (i == CHANGES_MAX)
        return false;
    if (place < NVMX_FIELD_COUNT && wanted == w->states.field[v->base][place]) {
        if (i < v->changes)
            v->change[i] = v->change[--v->changes];
        return true;
    }
    v->changes += i == v->changes;
    v->change[i] = (struct diff_change){place, 0, wanted};
    return true;
}

/* The recipes are for a processor with addresses of so many bits; values around the edge move to where it is here. */
#define RECIPE_BITS 39

static uint64_t moved(const struct world *w, uint64_t wanted) {
    const uint64_t edge = UINT64_C(1) << RECIPE_BITS, near = UINT64_C(1) << 32;

    return wanted >= edge - near && wanted < edge + near ? wanted - edge + (UINT64_C(1) << w->caps.l1.physical_address_bits) : wanted;
}

/* A recipe's value, where an address is small, on our own page for it. */
static uint64_t translated(const struct world *w, unsigned int slot, uint64_t wanted) {
    const uint64_t page = home(slot);

    return page != 0 && wanted < 0x10000 ? page + (wanted & 0xfff) : moved(w, wanted);
}

static bool change(struct vector *v, const struct world *w, const struct change *c) {
    switch ((enum change_kind)c->kind) {
    case CHANGE_SET:
        return set(v, w, c->place, translated(w, c->place, c->value));
    case CHANGE_OR:
        return set(v, w, c->place, value(v, w, c->place) | moved(w, c->value));
    case CHANGE_CLEAR:
        return set(v, w, c->place, value(v, w, c->place) & ~c->value);
    case CHANGE_VTPR:
        return set(v, w, DIFF_VIRTUAL_APIC + 0x80, c->value);
    case CHANGE_REVISION:
        return set(v, w, NVMX_F_VMCS_LINK_POINTER, c->value >> 31 ? DIFF_SHADOW_VMCS : DIFF_OTHER_VMCS);
    case CHANGE_PDPTE:
        return set(v, w, (uint32_t)value(v, w, NVMX_F_GUEST_CR3) + 8u * c->place, moved(w, c->value));
    case CHANGE_NONE:
        return true;
    default: /* another CPU, or memory that isn't there */
        return false;
    }
}

static bool apply(struct vector *v, const struct world *w, const struct change *changes) {
    for (unsigned int i = 0; i < CHECK_CHANGES && changes[i].kind != CHANGE_NONE; i++)
        if (!change(v, w, &changes[i]))
            return false;
    return true;
}

/* States for enum check_base: LONG64, REAL, PAE, V86, HOST32; the first of states.c are in this order. */
static bool begin(struct vector *v, const struct recipe *r) {
    v->base = r->base;
    v->changes = 0;
    return r->base <= HOST32;
}

/* -- random changes ------------------------------------------------------------------------------------------------------------------ */

static uint64_t flip(struct random *r, uint64_t old, unsigned int bits) {
    return old ^ UINT64_C(1) << random_below(r, bits);
}

/* Around the edges of the physical-address width, the linear-address width, 32 bits and pages. */
static uint64_t near_edge(struct random *r, const struct world *w, uint64_t old) {
    static const uint64_t edge[] = {0, UINT64_C(0xffffffff), UINT64_C(1) << 32, UINT64_C(0x7fffffffffff),
        UINT64_C(0x800000000000), UINT64_C(0xffff7fffffffffff), UINT64_C(0xffff800000000000), UINT64_MAX,
        UINT64_C(0x00ffffffffffffff), UINT64_C(0x0100000000000000), UINT64_C(0xff00000000000000)};
    const unsigned int width = w->caps.l1.physical_address_bits;

    switch (random_below(r, 6)) {
    case 0:
        return edge[random_below(r, sizeof edge / sizeof edge[0])];
    case 1:
        return old ^ UINT64_C(1) << (width - 2 + random_below(r, 4));
    case 2:
        return flip(r, old, 12);
    case 3:
        return flip(r, old, 64);
    case 4:
        return ((UINT64_C(1) << width) - (UINT64_C(1) << random_below(r, 14)));
    default:
        return old | ~UINT64_C(0) << (32 + random_below(r, 32));
    }
}

static uint64_t some_rights(struct random *r, uint64_t old) {
    static const uint64_t usual[] = {0x10000, 0x93, 0x9b, 0xf3, 0xfb, 0xa09b, 0xc09b, 0xe09b, 0xc093, 0xc0f3, 0x8b, 0x83, 0x82,
        0x89, 0x81, 0x808b, 0x91, 0x99, 0x9f, 0x97, 0x13, 0xb3, 0xd3, 0xbb, 0xdb, 0xc09f, 0xa0fb, 0x1c093, 0x8082, 0x1008b};

    switch (random_below(r, 4)) {
    case 0:
        return usual[random_below(r, sizeof usual / sizeof usual[0])];
    case 1:
        return flip(r, old, 32);
    case 2:
        return (old & ~UINT64_C(0x6f)) | (random_next(r) & 0x6f);
    default:
        return flip(r, old, 17);
    }
}

static uint64_t some_event(struct random *r, uint64_t old) {
    static const uint8_t vector[] = {0, 1, 2, 3, 4, 6, 8, 10, 11, 12, 13, 14, 17, 18, 21, 30, 31, 32, 0x80, 0xff};
    uint64_t event;

    if (random_below(r, 3) == 0)
        return flip(r, old, 32);
    event = UINT64_C(0x80000000) | random_below(r, 8) << 8 | vector[random_below(r, sizeof vector)];
    event |= random_below(r, 3) == 0 ? 0x800 : 0;
    return random_below(r, 8) == 0 ? flip(r, event, 32) : event;
}

static uint64_t some_pat(struct random *r, uint64_t old) {
    const unsigned int byte = 8 * random_below(r, 8);

    return (old & ~(UINT64_C(0xff) << byte)) | (uint64_t)(random_below(r, 4) ? random_below(r, 10) : random_below(r, 256)) << byte;
}

static uint64_t small_number(struct random *r, uint64_t old) {
    static const uint64_t number[] = {0, 1, 2, 3, 4, 5, 7, 15, 16, 255, 256, 512, 513, 0x7fff, 0xffff, 0x10000, 0x80000000, 0xffffffff};

    return random_below(r, 4) ? number[random_below(r, sizeof number / sizeof number[0])] : flip(r, old, 32);
}

static uint64_t some_limit(struct random *r, uint64_t old) {
    static const uint64_t limit[] = {0, 0xfff, 0xfffe, 0xffff, 0x10000, 0xfffff, 0x100000, 0xffffffff, 0xfffff000, 0xfff00fff, 0x67, 0x66};

    return random_below(r, 4) ? limit[random_below(r, sizeof limit / sizeof limit[0])] : flip(r, old, 32);
}

static uint64_t some_32(struct random *r, unsigned int slot, uint64_t old) {
    if (slot >= NVMX_F_GUEST_ES_ACCESS_RIGHTS && slot <= NVMX_F_GUEST_TR_ACCESS_RIGHTS)
        return some_rights(r, old);
    if (slot >= NVMX_F_GUEST_ES_LIMIT && slot <= NVMX_F_GUEST_IDTR_LIMIT)
        return some_limit(r, old);
    switch (slot) {
    case NVMX_F_VM_ENTRY_INTERRUPTION_INFO:
        return some_event(r, old);
    case NVMX_F_CR3_TARGET_COUNT:
    case NVMX_F_VM_EXIT_MSR_STORE_COUNT:
    case NVMX_F_VM_EXIT_MSR_LOAD_COUNT:
    case NVMX_F_VM_ENTRY_MSR_LOAD_COUNT:
    case NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE:
    case NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH:
    case NVMX_F_TPR_THRESHOLD:
        return small_number(r, old);
    case NVMX_F_GUEST_ACTIVITY_STATE:
        return random_below(r, 8) ? random_below(r, 5) : flip(r, old, 32);
    case NVMX_F_GUEST_INTERRUPTIBILITY_STATE:
        return random_below(r, 4) ? random_below(r, 64) : flip(r, old, 32);
    default:
        return flip(r, old, 32);
    }
}

static uint64_t some_value(struct random *r, const struct world *w, unsigned int slot, uint64_t old) {
    if (WIDTH(slot) == NVMX_WIDTH_16)
        return random_below(r, 3) ? old ^ (random_next(r) & 7) : random_next(r) & 0xffff;
    if (WIDTH(slot) == NVMX_WIDTH_32)
        return some_32(r, slot, old);
    switch (slot) {
    case NVMX_F_GUEST_PAT:
    case NVMX_F_HOST_PAT:
        return some_pat(r, old);
    case NVMX_F_GUEST_CR0:
    case NVMX_F_GUEST_CR4:
    case NVMX_F_HOST_CR0:
    case NVMX_F_HOST_CR4:
    case NVMX_F_GUEST_EFER:
    case NVMX_F_HOST_EFER:
    case NVMX_F_GUEST_RFLAGS:
        return random_below(r, 6) ? flip(r, old, 32) : flip(r, old, 64);
    case NVMX_F_GUEST_DEBUGCTL:
    case NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS:
        return random_below(r, 4) ? flip(r, old, 18) : flip(r, old, 64);
    case NVMX_F_VMCS_LINK_POINTER:
        return random_below(r, 2) ? DIFF_VMCS + (uint64_t)random_below(r, 24) * 0x1000 : near_edge(r, w, old);
    case NVMX_F_EPT_POINTER:
        return random_below(r, 2) ? flip(r, old, 12) : near_edge(r, w, old);
    default:
        return near_edge(r, w, old);
    }
}

/* A field that one of the row's recipes changes. */
static unsigned int field_of(struct random *r, unsigned int row) {
    unsigned int seen = 0, chosen = NVMX_FIELD_COUNT;

    for (unsigned int n = 0; n < recipes(); n++) {
        const struct recipe *p = recipe(n);
        const struct change *lists[2] = {p->before, p->broken};

        for (unsigned int i = 0; i < 2 * CHECK_CHANGES && p->row == row; i++) {
            const struct change *c = &lists[i / CHECK_CHANGES][i % CHECK_CHANGES];

            if (c->kind >= CHANGE_SET && c->kind <= CHANGE_CLEAR && random_below(r, ++seen) == 0)
                chosen = c->place;
        }
    }
    return chosen;
}

static void mutate(struct vector *v, const struct world *w, struct random *r, unsigned int row) {
    const unsigned int times = 1 + random_below(r, 3);

    for (unsigned int i = 0; i < times; i++) {
        unsigned int slot = NVMX_FIELD_COUNT;

        if (random_below(r, 10) < 7)
            slot = field_of(r, row);
        while (slot >= NVMX_FIELD_COUNT || !nvmx_set_has(&w->exists, slot) || fixed(slot) ||
               nvmx_encoding_read_only(nvmx_field_info(slot)->encoding))
            slot = random_below(r, NVMX_FIELD_COUNT);
        set(v, w, slot, some_value(r, w, slot, value(v, w, slot)));
    }
}

/* -- themes: changes that belong together and no single rule asks for ----------------------------------------------------------------- */

static void theme_fields(struct vector *v, const struct world *w, struct random *r, const uint16_t *slots, unsigned int count) {
    const unsigned int times = 2 + random_below(r, 3);

    for (unsigned int i = 0; i < times; i++) {
        const unsigned int slot = slots[random_below(r, count)];

        if (nvmx_set_has(&w->exists, slot))
            set(v, w, slot, some_value(r, w, slot, value(v, w, slot)));
    }
}

static void theme_event(struct vector *v, const struct world *w, struct random *r) {
    static const uint16_t slots[] = {NVMX_F_VM_ENTRY_INTERRUPTION_INFO, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE,
        NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, NVMX_F_GUEST_ACTIVITY_STATE, NVMX_F_GUEST_RFLAGS,
        NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, NVMX_F_PIN_BASED_CONTROLS, NVMX_F_PRIMARY_CONTROLS, NVMX_F_GUEST_IDTR_LIMIT,
        NVMX_F_GUEST_TR_LIMIT};

    set(v, w, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, some_event(r, 0));
    set(v, w, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH, random_below(r, 16));
    if (random_below(r, 2))
        set(v, w, NVMX_F_GUEST_RFLAGS, value(v, w, NVMX_F_GUEST_RFLAGS) | 0x200);
    theme_fields(v, w, r, slots, sizeof slots / sizeof slots[0]);
}

static void theme_controls(struct vector *v, const struct world *w, struct random *r) {
    static const uint16_t slots[] = {NVMX_F_PIN_BASED_CONTROLS, NVMX_F_PRIMARY_CONTROLS, NVMX_F_SECONDARY_CONTROLS,
        NVMX_F_VM_EXIT_CONTROLS, NVMX_F_VM_ENTRY_CONTROLS, NVMX_F_GUEST_EFER, NVMX_F_GUEST_CR0, NVMX_F_GUEST_CR4,
        NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_GUEST_INTERRUPT_STATUS, NVMX_F_TPR_THRESHOLD};

    theme_fields(v, w, r, slots, sizeof slots / sizeof slots[0]);
}

/* MSRs that L1 can lose, that an entry must not load, and that don't exist. */
static void theme_msr_list(struct vector *v, const struct world *w, struct random *r) {
    static const uint64_t index[] = {0xc0000102, 0xc0000082, 0xc0000081, 0x174, 0x175, 0x176, 0x277, 0xc0000080, 0xc0000100,
        0xc0000101, 0x802, 0x8ff, 0x79, 0x3a, 0x480, UINT64_C(0x1c0000102), 0x9b, 0x9e};
    static const uint64_t content[] = {0, 1, 8, UINT64_C(0xffff800000000000), UINT64_C(0x800000000000), 0x0007040600070406, 0x500,
        0xd00, 0xd01, UINT64_MAX};
    const unsigned int first = random_below(r, 3), times = 1 + random_below(r, 3);

    set(v, w, NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS, DIFF_ENTRY_MSRS + 16u * first);
    set(v, w, NVMX_F_VM_ENTRY_MSR_LOAD_COUNT, times);
    for (unsigned int i = 0; i < times; i++) {
        const uint32_t place = DIFF_ENTRY_MSRS + 16u * (first + i);

        set(v, w, place, index[random_below(r, sizeof index / sizeof index[0])]);
        set(v, w, place + 8, content[random_below(r, sizeof content / sizeof content[0])]);
    }
    if (random_below(r, 4) == 0)
        theme_controls(v, w, r);
}

static void theme_pdpte(struct vector *v, const struct world *w, struct random *r) {
    const unsigned int number = random_below(r, 4);
    const uint64_t bits = (random_next(r) & 1) | (random_below(r, 2) ? UINT64_C(1) << random_below(r, 64) : 0);

    v->base = (uint8_t)(random_below(r, 2) ? PAE : HOST32 + 1);
    set(v, w, DIFF_ARENA + DIFF_L2_PAE_PDPT + 8 * number, (number ? 0 : DIFF_ARENA + DIFF_L2_PD) ^ bits);
    if (random_below(r, 2))
        set(v, w, NVMX_F_GUEST_PDPTE0 + number, (number ? 0 : DIFF_ARENA + DIFF_L2_PD) ^ bits);
}

static const struct recipe *recipe_of(struct random *r, unsigned int row) {
    const struct recipe *chosen = NULL;
    unsigned int seen = 0;

    for (unsigned int n = 0; n < recipes(); n++)
        if (recipe(n)->row == row && random_below(r, ++seen) == 0)
            chosen = recipe(n);
    return chosen;
}

static void make_random(struct vector *v, const struct world *w, struct random *r) {
    const unsigned int row = random_below(r, NVMX_CHECK_COUNT);
    const struct recipe *p = recipe_of(r, row);

    static void (*const themes[])(struct vector *v, const struct world *w, struct random *r) = {theme_event, theme_event,
        theme_controls, theme_msr_list, theme_pdpte};
    const unsigned int theme = random_below(r, 16);

    v->changes = 0;
    v->origin = "random";
    v->base = (uint8_t)random_below(r, w->states.bases);
    if (theme < sizeof themes / sizeof themes[0]) {
        themes[theme](v, w, r);
        return;
    }
    if (p != NULL && random_below(r, 2) && begin(v, p) && !apply(v, w, p->before))
        v->changes = 0;
    if (v->base >= w->states.bases)
        v->base = 0;
    mutate(v, w, r, row);
}

/* -- all together -------------------------------------------------------------------------------------------------------------------- */

/* Bochs 2.7 stops at an event of type 7 that gets as far as its delivery, whatever its vector: something else must refuse the entry. */
static bool stops_bochs(const struct situation *s, const struct world *w) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    const uint64_t event = s->field[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
    const size_t failing = nvmx_check_report(&s->in, failures, NVMX_CHECK_COUNT);
    bool other = false;

    for (size_t i = 0; i < failing; i++)
        other |= (failures[i].row < NVMX_C_29_2_1_3_03 || failures[i].row > NVMX_C_29_2_1_3_19) && !w->unchecked[failures[i].row];
    return (event & 0x80000700) == 0x80000700 && !other;
}

/* The first failing row that the oracle checks too, or NULL. */
static const struct nvmx_check_row *refusal(const struct situation *s, const struct world *w) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    const size_t failing = nvmx_check_report(&s->in, failures, NVMX_CHECK_COUNT);

    for (size_t i = 0; i < failing; i++)
        if (!w->unchecked[failures[i].row])
            return nvmx_check_row(failures[i].row);
    return NULL;
}

/* Nor does it survive a 64-bit guest in real mode, which it takes for a valid state. */
static bool long_mode_without_protection(const struct situation *s, const struct world *w) {
    return (s->field[NVMX_F_VM_ENTRY_CONTROLS] >> 9 & 1) != 0 && (s->field[NVMX_F_GUEST_CR0] & 1) == 0 && refusal(s, w) == NULL;
}

/* The oracle finds "entry to SMM" out late, where L1's state is loaded already: L1 must survive that. */
static bool enters_smm(const struct situation *s) {
    return (s->field[NVMX_F_VM_ENTRY_CONTROLS] >> 10 & 1) != 0;
}

/* The TPR threshold is compared with VTPR, and where there is no memory the machine decides what that is. */
static bool reads_vtpr_in_the_void(const struct situation *s) {
    const uint64_t proc = s->field[NVMX_F_PRIMARY_CONTROLS];

    return (proc >> 21 & 1) != 0 && s->field[NVMX_F_VIRTUAL_APIC_ADDRESS] != DIFF_VIRTUAL_APIC &&
           s->field[NVMX_F_TPR_THRESHOLD] != 0;
}

static bool uses_pae_without_ept(const struct situation *s) {
    const bool secondary = (s->field[NVMX_F_PRIMARY_CONTROLS] >> 31 & 1) != 0;
    const bool ept = secondary && (s->field[NVMX_F_SECONDARY_CONTROLS] >> 1 & 1) != 0;

    return !ept && (s->field[NVMX_F_GUEST_CR0] >> 31 & 1) != 0 && (s->field[NVMX_F_GUEST_CR4] >> 5 & 1) != 0 &&
           (s->field[NVMX_F_VM_ENTRY_CONTROLS] >> 9 & 1) == 0;
}

/* So are PDPTEs: there may be a ROM, which a machine under the CPU need not show. Only a rule that comes before theirs is sure then. */
static bool reads_pdptes_in_the_void(const struct situation *s, const struct nvmx_check_row *row) {
    const uint64_t table = s->field[NVMX_F_GUEST_CR3] & UINT64_C(0xffffffe0);
    const bool pdptes = row == NULL || row == nvmx_check_row(NVMX_C_29_3_1_6_01);

    return pdptes && uses_pae_without_ept(s) && (table < DIFF_ARENA || table >= DIFF_ARENA + DIFF_ARENA_SIZE);
}

static bool acceptable(struct vector *v, const struct world *w) {
    const struct nvmx_check_row *row;
    struct situation s;

    v->flags = w->states.flags[v->base];
    situation_init(&s, w, v);
    if (situation_beyond_l1(&s, w) || stops_bochs(&s, w) || long_mode_without_protection(&s, w) || reads_vtpr_in_the_void(&s))
        return false;
    row = refusal(&s, w);
    if (reads_pdptes_in_the_void(&s, row))
        return false;
    if (row == NULL)
        return situation_danger(&s, w) == NULL;
    return (row->vm_fail != 0 && !enters_smm(&s)) || situation_host_danger(&s, w) == NULL;
}

unsigned int vectors_fixed(void) {
    return 2 * recipes();
}

bool vector_make(struct vector *v, const struct world *w, uint32_t number) {
    const struct recipe *p = recipe(number / 2 % recipes());
    struct random r;

    random_init(&r, w->seed, number);
    memset(v, 0, sizeof *v);
    v->number = number;
    if (number < vectors_fixed() && begin(v, p) && apply(v, w, p->before) && (number % 2 == 0 || apply(v, w, p->broken)) &&
        acceptable(v, w)) {
        v->origin = number % 2 ? "recipe, broken" : "recipe";
        v->flags |= (uint8_t)random_below(&r, 2);
        return true;
    }
    for (unsigned int i = 0; i < ATTEMPTS; i++) {
        make_random(v, w, &r);
        if (acceptable(v, w)) {
            v->flags |= (uint8_t)random_below(&r, 2);
            return true;
        }
    }
    return false;
}
