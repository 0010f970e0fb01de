/* SPDX-License-Identifier: MIT */
/*
 * Text dumps for `nvmx explain`: any text, or pairs made from the input.
 *
 * Held: the exit status is one of those documented, and is never "no memory"; a refusal says why and nothing else; no byte of the text reaches the
 * terminal that is not printable; the same text gives the same answer; what was read, written again as pairs, is read as the same fields; where
 * all fields are known, the verdicts are the library's.
 *
 * Input: options, capabilities; then text, or pairs: a field, a kind of value, its bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "decide.h"
#include "fuzz.h"

FILE *fuzz_out;
FILE *fuzz_open(const char *name, const char *mode);

#define NAME "dump"
#define MOST_TEXT 65536u

static struct {
    const char *bytes;
    size_t size;
} text;

/* The one file there is. */
FILE *fuzz_open(const char *name, const char *mode) {
    static char end[] = "\n"; /* a stream of nothing is refused by fmemopen */
    if (strcmp(name, NAME) != 0)
        return NULL;
    return text.size == 0 ? fmemopen(end, 1, mode) : fmemopen((void *)(uintptr_t)text.bytes, text.size, mode);
}

static void set_text(const char *bytes, size_t size) {
    text.bytes = bytes;
    text.size = size;
}

/* -- what the tool prints ------------------------------------------------------------------------------------------------------------------ */

struct output {
    char *bytes;
    size_t size;
};

static void begin(struct output *out) {
    fuzz_out = open_memstream(&out->bytes, &out->size);
    FUZZ_HOLD(fuzz_out != NULL, "no memory for the output");
}

static void end(struct output *out) {
    fclose(fuzz_out);
    fuzz_out = NULL;
    for (size_t i = 0; i < out->size; i++) {
        unsigned char c = (unsigned char)out->bytes[i];
        FUZZ_HOLD(c == '\n' || (c >= 0x20 && c != 0x7f), "byte %#x in the output at %zu: %.60s", c, i, out->bytes);
    }
}

static int explain(uint8_t options, struct output *out) {
    static char command[] = "explain", name[] = NAME, json[] = "--json", verbose[] = "-v", strict[] = "--strict", l1[] = "--l1", caps[] = "--caps";
    static char profile[80];
    char *argv[10] = {command, name};
    int argc = 2;
    const char *description, *known = capset_profile_name(options >> 5 & 3, &description);
    if (options & 1)
        argv[argc++] = json;
    if (options & 2)
        argv[argc++] = verbose;
    if (options & 4)
        argv[argc++] = strict;
    if (options & 8)
        argv[argc++] = l1;
    if (options & 16 && known != NULL) {
        snprintf(profile, sizeof(profile), "%s", known);
        argv[argc++] = caps;
        argv[argc++] = profile;
    }
    begin(out);
    int status = command_explain(argc, argv);
    end(out);
    return status;
}

/* `text` is refused, or is a dump with all fields: with unknown ones the tool tries many values, and takes seconds. */
static void check_answer(uint8_t options) {
    struct output out = {NULL, 0}, again = {NULL, 0};
    int status = explain(options, &out);
    fuzz_log("status %d\n%s", status, out.bytes);
    FUZZ_HOLD(status == CLI_OK || status == CLI_BROKEN || status == CLI_USAGE, "status %d", status);
    if (status == CLI_USAGE)
        FUZZ_HOLD(strstr(out.bytes, "nvmx: ") != NULL, "refused without a word: %s", out.bytes);
    else
        FUZZ_HOLD(out.size > 0, "not a word");
    FUZZ_HOLD(explain(options, &again) == status && again.size == out.size && memcmp(again.bytes, out.bytes, out.size) == 0,
              "the same text, another answer");
    free(out.bytes);
    free(again.bytes);
}

/* -- written again as pairs ----------------------------------------------------------------------------------------------------------------- */

static int read_text(struct input *input, struct dumps *dumps) {
    struct output out = {NULL, 0};
    begin(&out);
    int status = input_read(input, NAME);
    if (status == CLI_OK)
        status = dumps_read(dumps, input);
    end(&out);
    free(out.bytes);
    return status;
}

static bool given(const struct dump *dump, unsigned int slot) {
    return dump->line[slot] != 0 || nvmx_set_has(&dump->implied, slot);
}

static const struct nvmx_caps *permissive(void) {
    static struct capset set;
    static bool loaded;
    if (!loaded)
        loaded = capset_profile("permissive", &set);
    return &set.caps;
}

/* `whole`: what the dump does not have gets a usual value. */
static void write_pairs(const struct dump *dump, bool whole, struct output *out) {
    FILE *file = open_memstream(&out->bytes, &out->size);
    FUZZ_HOLD(file != NULL, "no memory for the pairs");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (given(dump, slot))
            fprintf(file, "%x %llx\n", nvmx_field_info(slot)->encoding, (unsigned long long)dump->value[slot]);
        else if (whole)
            fprintf(file, "%x %llx\n", nvmx_field_info(slot)->encoding, (unsigned long long)usual_value(slot, permissive()));
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++)
        if (whole || dump->fact_known[fact])
            fprintf(file, "%s %llx\n", dump_fact_name(fact), (unsigned long long)(dump->fact_known[fact] ? dump->fact[fact] : fact == FACT_LONG_MODE));
    fclose(file);
}

static void compare(const struct dump *dump, const struct dump *again) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        FUZZ_HOLD(given(dump, slot) == given(again, slot) && (!given(dump, slot) || dump->value[slot] == again->value[slot]),
                  "%s is read as %#llx, and written again as %#llx", nvmx_field_info(slot)->name, (unsigned long long)dump->value[slot],
                  (unsigned long long)again->value[slot]);
}

/* Of a whole dump the verdicts are the library's. */
static void check_verdicts(const struct dump *dump) {
    static struct nvmx_check_failure failure[NVMX_CHECK_COUNT];
    enum verdict verdict[NVMX_CHECK_COUNT];
    bool fails[NVMX_CHECK_COUNT] = {false};
    struct subject subject;
    struct guess guess;
    subject_init(&subject, dump, permissive());
    decide(&subject, verdict);
    guess_init(&guess, &subject, GUESS_ZEROS);
    size_t count = guess_failures(&guess, &subject, failure);
    for (size_t i = 0; i < count; i++)
        fails[failure[i].row] = true;
    for (unsigned int row = 0; row < NVMX_CHECK_COUNT; row++)
        FUZZ_HOLD(verdict[row] == VERDICT_ELSEWHERE || (verdict[row] == VERDICT_BROKEN) == fails[row], "%s: verdict %d, the check %s",
                  nvmx_check_row(row)->id, (int)verdict[row], fails[row] ? "fails" : "passes");
}

/* The dump as pairs, read again. */
static void check_pairs(const struct dump *dump, bool whole, uint8_t options) {
    struct input input = {0};
    struct dumps dumps = {0};
    struct output pairs = {NULL, 0};
    write_pairs(dump, whole, &pairs);
    set_text(pairs.bytes, pairs.size);
    FUZZ_HOLD(read_text(&input, &dumps) == CLI_OK && dumps.count == 1, "the pairs are refused:\n%s", pairs.bytes);
    if (whole) {
        check_verdicts(&dumps.dump[0]);
        check_answer(options);
    } else {
        compare(dump, &dumps.dump[0]);
    }
    dumps_free(&dumps);
    input_free(&input);
    free(pairs.bytes);
}

/* Only the first dump of a text: the others are read the same way. */
static void check_text(uint8_t options) {
    struct input input = {0};
    struct dumps dumps = {0};
    bool any = false;
    if (read_text(&input, &dumps) != CLI_OK) {
        check_answer(options);
    } else {
        for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
            any = any || given(&dumps.dump[0], slot);
        FUZZ_HOLD(any, "a dump of nothing");
        check_pairs(&dumps.dump[0], false, options);
        check_pairs(&dumps.dump[0], true, options);
    }
    dumps_free(&dumps);
    input_free(&input);
}

/* -- pairs from the input --------------------------------------------------------------------------------------------------------------------- */

static size_t make_pairs(struct fuzz_input *in, char *out, size_t room) {
    size_t used = 0;
    while (fuzz_more(in) && room - used > 80) {
        unsigned int slot = fuzz_u8(in) % NVMX_FIELD_COUNT;
        uint64_t value = fuzz_value(in) & nvmx_field_mask(slot);
        used += (size_t)snprintf(out + used, room - used, "%04x %llx\n", nvmx_field_info(slot)->encoding, (unsigned long long)value);
    }
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char made[MOST_TEXT];
    struct fuzz_input in = fuzz_start(data, size);
    uint8_t options = fuzz_u8(&in);
    size_t used = in.left < sizeof(made) ? in.left : sizeof(made);
    if (options & 128)
        used = make_pairs(&in, made, sizeof(made));
    else if (used != 0)
        memcpy(made, in.at, used);
    set_text(made, used);
    check_text(options);
    return 0;
}
