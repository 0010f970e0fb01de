/* SPDX-License-Identifier: MIT */
/* The generator's command line: see usage(). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

static struct world world;

static struct {
    const char *caps, *out, *only, *sequences_only;
    uint32_t first, vectors, first_sequence, sequences, dump_from;
    bool explain, hits, dump, l1;
} options;

static int usage(void) {
    fputs("generate --caps FILE [--unchecked ID,ID...] [--seed N] [--first N] [--vectors N] [--first-sequence N] [--sequences N]\n"
          "         [--only N,N...] [--only-sequences N,N...] [--dump] [--dump-from N] --out FILE | --explain | --hits | --l1\n"
          "  --unchecked  rows of the entry checks that the CPU does not make\n"
          "  --out FILE   write the boot module\n"
          "  --explain    print the vectors or sequences\n"
          "  --hits       print how often each row of the entry checks fails and passes, and why not\n"
          "  --l1         print the capability MSRs that nvmx offers to L1 on this CPU\n", stderr);
    return 2;
}

/* -- the module ------------------------------------------------------------------------------------------------------------------- */

static uint16_t place_of[NVMX_FIELD_COUNT];

/* Exit information is compared as it is defined for each exit; the timer depends on the time that passes. */
static uint32_t flags_of(unsigned int slot) {
    const uint32_t encoding = nvmx_field_info(slot)->encoding;

    if (nvmx_encoding_read_only(encoding))
        return 0;
    return DIFF_FIELD_WRITE | (slot == NVMX_F_PREEMPTION_TIMER_VALUE ? 0 : DIFF_FIELD_HASH);
}

static void put(FILE *file, const void *data, size_t size) {
    if (fwrite(data, 1, size, file) != size) {
        perror("write");
        exit(1);
    }
}

static void put_states(FILE *file, const struct diff_header *header) {
    const uint32_t zero = 0;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const uint32_t word = nvmx_field_info(slot)->encoding | flags_of(slot);

        if (nvmx_set_has(&world.exists, slot))
            put(file, &word, sizeof word);
    }
    if (header->fields % 2)
        put(file, &zero, sizeof zero);
    for (unsigned int base = 0; base < world.states.bases; base++)
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
            if (nvmx_set_has(&world.exists, slot))
                put(file, &world.states.field[base][slot], sizeof(uint64_t));
    put(file, world.states.poke, world.states.pokes * sizeof(struct diff_poke));
}

static void put_vector(FILE *file, const struct vector *v) {
    const struct diff_vector head = {v->number, v->base, v->flags, (uint16_t)v->changes};

    put(file, &head, sizeof head);
    for (unsigned int i = 0; i < v->changes; i++) {
        struct diff_change c = v->change[i];

        if (c.place < NVMX_FIELD_COUNT)
            c.place = place_of[c.place];
        put(file, &c, sizeof c);
    }
}

static void put_sequence(FILE *file, const struct sequence *s) {
    const struct diff_sequence head = {s->number, s->operations};

    put(file, &head, sizeof head);
    put(file, s->operation, s->operations * sizeof s->operation[0]);
}

/* -- explaining ------------------------------------------------------------------------------------------------------------------- */

static void print_vector(const struct vector *v) {
    struct nvmx_check_failure failures[NVMX_CHECK_COUNT];
    struct situation s;
    size_t failing;

    situation_init(&s, &world, v);
    failing = nvmx_check_report(&s.in, failures, NVMX_CHECK_COUNT);
    printf("vector %" PRIx32 " base %s %s\n", v->number, world.states.name[v->base], v->origin);
    for (unsigned int i = 0; i < v->changes; i++) {
        const struct diff_change *c = &v->change[i];

        if (c->place < NVMX_FIELD_COUNT)
            printf("  set %" PRIx32 " %" PRIx64 " was %" PRIx64 " %s\n", nvmx_field_info(c->place)->encoding, c->value,
                   world.states.field[v->base][c->place], nvmx_field_info(c->place)->name);
        else
            printf("  memory %" PRIx32 " %" PRIx64 "\n", c->place, c->value);
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&world.exists, slot))
            printf("  field %" PRIx32 " %" PRIx64 "\n", nvmx_field_info(slot)->encoding, s.field[slot]);
    for (uint64_t i = 0; i < s.field[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] && i < 16; i++)
        printf("  msr %u %" PRIx64 "\n", (unsigned int)i + 1,
               situation_memory(&world, v, s.field[NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS] + 16 * i) & 0xffffffff);
    for (size_t i = 0; i < failing; i++) {
        const struct nvmx_check_row *row = nvmx_check_row(failures[i].row);

        printf("  fails %s %u %u %u %s\n", row->id, failures[i].vm_fail, failures[i].exit_reason,
               (unsigned int)failures[i].qualification, row->rule);
    }
}

/* -- hits ------------------------------------------------------------------------------------------------------------------------- */

static struct {
    uint32_t first, fails, passes;
} hits[NVMX_CHECK_COUNT];

static void count(const struct vector *v) {
    struct nvmx_check_failure failure = {.row = NVMX_CHECK_NONE};
    struct situation s;

    situation_init(&s, &world, v);
    if (!nvmx_check_first(&s.in, NVMX_CHECK_ALL, &failure))
        hits[failure.row].first++;
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        const enum row_answer answer = row_answer(row, &s.in);

        hits[row].fails += answer == ROW_FAILS;
        hits[row].passes += answer == ROW_PASSES;
    }
}

/* The driver looks for this text: with enough vectors no row has it. */
#define NOT_REACHED "not reached by any vector"

/* The name of a control that the recipe sets and L1 does not have, or what else it needs. */
static const char *needs(const struct change *changes) {
    static const struct {
        uint16_t slot, msr;
    } controls[] = {{NVMX_F_PIN_BASED_CONTROLS, 0x481}, {NVMX_F_PRIMARY_CONTROLS, 0x482}, {NVMX_F_SECONDARY_CONTROLS, 0x48b},
                    {NVMX_F_VM_EXIT_CONTROLS, 0x483}, {NVMX_F_VM_ENTRY_CONTROLS, 0x484}};

    for (unsigned int i = 0; i < CHECK_CHANGES && changes[i].kind != CHANGE_NONE; i++) {
        if (changes[i].kind > CHANGE_CLEAR)
            return changes[i].kind == CHANGE_READABLE || changes[i].kind == CHANGE_PDPTE_READABLE ? "memory that isn't there"
                                                                                                  : "another CPU";
        for (unsigned int k = 0; k < sizeof controls / sizeof controls[0]; k++)
            for (size_t n = 0; controls[k].slot == changes[i].place && nvmx_cap_bit(n) != NULL; n++) {
                const struct nvmx_cap_bit *bit = nvmx_cap_bit(n);

                if (bit->msr == controls[k].msr && bit->bit >= 32 && changes[i].value >> (bit->bit - 32) & 1 &&
                    changes[i].kind == CHANGE_OR && !(world.caps.l1.msr[bit->msr - 0x480] >> bit->bit & 1))
                    return bit->name;
            }
        if (!nvmx_set_has(&world.exists, changes[i].place))
            return nvmx_field_info(changes[i].place)->name;
    }
    return NULL;
}

/* Rows that depend on a capability which no field names. */
static const char *capability_against(unsigned int row) {
    const uint64_t misc = world.caps.l1.msr[NVMX_CAP_MISC];

    if (row == NVMX_C_29_2_1_3_19 && (misc >> 30 & 1) != 0)
        return "a CPU that needs an instruction length (IA32_VMX_MISC[30] = 0)";
    if (row == NVMX_C_29_2_1_3_07 && (nvmx_caps_may_be_1(&world.caps.l1, NVMX_CAP_PROCBASED) >> 27 & 1) == 0)
        return "Monitor trap flag";
    return NULL;
}

/* Why no vector breaks a row, or no vector satisfies it. */
static const char *reason(unsigned int row) {
    const char *why = NOT_REACHED;

    if (!nvmx_check_row(row)->live)
        return nvmx_check_row(row)->where;
    if (capability_against(row) != NULL)
        return capability_against(row);
    for (unsigned int n = 0; n < recipes(); n++) {
        const char *need;

        if (recipe(n)->row != row)
            continue;
        if (recipe(n)->base == HOST32 && world.states.bases <= HOST32)
            why = "an L1 in 32-bit mode";
        need = needs(recipe(n)->before);
        if (need == NULL)
            need = needs(recipe(n)->broken);
        if (need == NULL)
            return why;
        why = need;
    }
    return why;
}

static void print_hits(void) {
    unsigned int live = 0, both = 0;

    printf("# row\tfails first\tfails\tpasses\tnot hit because the CPU that L1 sees lacks, or\n");
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        const bool hit = hits[row].fails != 0 && hits[row].passes != 0;

        live += nvmx_check_row(row)->live;
        both += hit;
        printf("%s\t%" PRIu32 "\t%" PRIu32 "\t%" PRIu32 "\t%s\n", nvmx_check_row(row)->id, hits[row].first, hits[row].fails,
               hits[row].passes, hit ? "" : reason(row));
    }
    printf("# %u rows, %u live, %u hit by a failing and a passing vector\n", (unsigned int)NVMX_CHECK_COUNT, live, both);
}

/* -- which ------------------------------------------------------------------------------------------------------------------------ */

/* Calls `each` for the numbers of a list, or for `count` numbers from `first` on. Returns how many were made. */
static uint32_t for_each(const char *list, uint32_t first, uint32_t number, bool (*each)(uint32_t number, FILE *file), FILE *file) {
    uint32_t made = 0;

    if (list == NULL) {
        for (uint32_t i = 0; i < number; i++)
            made += each(first + i, file);
        return made;
    }
    while (*list != '\0') {
        char *end;

        made += each((uint32_t)strtoul(list, &end, 16), file);
        if (end == list)
            return made;
        list = end + (*end == ',');
    }
    return made;
}

static bool one_vector(uint32_t number, FILE *file) {
    struct vector v;

    if (!vector_make(&v, &world, number))
        return false;
    if (file != NULL)
        put_vector(file, &v);
    else if (options.explain)
        print_vector(&v);
    else
        count(&v);
    return true;
}

static bool one_sequence(uint32_t number, FILE *file) {
    struct sequence s;

    sequence_make(&s, &world, number);
    if (file != NULL)
        put_sequence(file, &s);
    else if (options.explain)
        sequence_print(&s);
    return true;
}

static int write_module(void) {
    struct diff_header header = {.magic = DIFF_MAGIC, .bases = world.states.bases, .pokes = world.states.pokes,
                                 .flags = options.dump ? DIFF_DUMP : 0, .dump_from = options.dump_from};
    FILE *file = fopen(options.out, "wb");

    if (file == NULL) {
        perror(options.out);
        return 1;
    }
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&world.exists, slot))
            place_of[slot] = (uint16_t)header.fields++;
    put(file, &header, sizeof header);
    put_states(file, &header);
    header.vectors = for_each(options.only, options.first, options.vectors, one_vector, file);
    header.sequences = for_each(options.sequences_only, options.first_sequence, options.sequences, one_sequence, file);
    rewind(file);
    put(file, &header, sizeof header);
    if (fclose(file) != 0) {
        perror(options.out);
        return 1;
    }
    printf("%" PRIu32 " vectors, %" PRIu32 " sequences\n", header.vectors, header.sequences);
    return 0;
}

/* Ids with commas between. */
static void set_unchecked(const char *ids) {
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++) {
        const char *id = nvmx_check_row(row)->id, *found = strstr(ids, id);

        world.unchecked[row] = found != NULL && (found[strlen(id)] == ',' || found[strlen(id)] == '\0');
    }
}

static bool read_options(int count_of, char **words) {
    for (int i = 1; i < count_of; i++) {
        const char *word = words[i], *next = i + 1 < count_of ? words[i + 1] : NULL;

        if (strcmp(word, "--explain") == 0)
            options.explain = true;
        else if (strcmp(word, "--hits") == 0)
            options.hits = true;
        else if (strcmp(word, "--dump") == 0)
            options.dump = true;
        else if (strcmp(word, "--l1") == 0)
            options.l1 = true;
        else if (next == NULL)
            return false;
        else if (++i, strcmp(word, "--caps") == 0)
            options.caps = next;
        else if (strcmp(word, "--out") == 0)
            options.out = next;
        else if (strcmp(word, "--only") == 0)
            options.only = next;
        else if (strcmp(word, "--only-sequences") == 0)
            options.sequences_only = next;
        else if (strcmp(word, "--unchecked") == 0)
            set_unchecked(next);
        else if (strcmp(word, "--seed") == 0)
            world.seed = strtoull(next, NULL, 0);
        else if (strcmp(word, "--dump-from") == 0)
            options.dump_from = (uint32_t)strtoul(next, NULL, 16);
        else if (strcmp(word, "--first") == 0)
            options.first = (uint32_t)strtoul(next, NULL, 0);
        else if (strcmp(word, "--vectors") == 0)
            options.vectors = (uint32_t)strtoul(next, NULL, 0);
        else if (strcmp(word, "--first-sequence") == 0)
            options.first_sequence = (uint32_t)strtoul(next, NULL, 0);
        else if (strcmp(word, "--sequences") == 0)
            options.sequences = (uint32_t)strtoul(next, NULL, 0);
        else
            return false;
    }
    return options.caps != NULL && (options.out != NULL) + options.explain + options.hits + options.l1 == 1;
}

int main(int count_of, char **words) {
    world.seed = 1;
    if (!read_options(count_of, words))
        return usage();
    if (caps_read(options.caps, &world.caps) != 0)
        return 2;
    for (unsigned int i = 0; i < NVMX_CAP_MSRS && options.l1; i++)
        printf("msr %x %" PRIx64 "\n", NVMX_MSR_VMX_FIRST + i, world.caps.l1.msr[i]);
    nvmx_fields_existing(&world.caps.l1, &world.exists);
    states_init(&world.states, &world.caps);
    if (options.out != NULL)
        return write_module();
    for_each(options.only, options.first, options.vectors, one_vector, NULL);
    for_each(options.sequences_only, options.first_sequence, options.sequences, one_sequence, NULL);
    if (options.hits)
        print_hits();
    return 0;
}
