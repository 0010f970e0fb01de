/* SPDX-License-Identifier: MIT */
/* Replay without libFuzzer: runs inputs from files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz.h"

static const char usage[] = "usage: fuzz-HARNESS-replay [-v] [-t SECONDS] FILE...\n"
                            "\n"
                            "Runs inputs. A file whose name ends in .hex holds one a line, as hexadecimal digits (fuzz/corpus); any other file is one.\n"
                            "\n"
                            "  -v          tell what the inputs do, readably\n"
                            "  -t SECONDS  run all of them over and over for so much of a processor's time\n"
                            "\n"
                            "Prints executions a second. An input that breaks a rule ends it with SIGABRT.\n"
                            "exit status: 0 all ran; 2 bad usage or input\n";

struct inputs {
    uint8_t **bytes;
    size_t *size;
    size_t count;
};

static _Noreturn void fail(const char *what, const char *name) {
    fprintf(stderr, "fuzz replay: %s %s\n", what, name);
    exit(2);
}

static _Noreturn void bad_usage(const char *what, const char *word) {
    fprintf(stderr, "fuzz replay: %s '%s'\n%s", what, word, usage);
    exit(2);
}

static double seconds_of(const char *word) {
    char *end;
    double seconds = strtod(word, &end);
    if (end == word || *end != '\0' || !(seconds > 0 && seconds < 1e6))
        bad_usage("-t wants seconds, not", word);
    return seconds;
}

static void add(struct inputs *all, uint8_t *bytes, size_t size) {
    all->bytes = realloc(all->bytes, (all->count + 1) * sizeof(*all->bytes));
    all->size = realloc(all->size, (all->count + 1) * sizeof(*all->size));
    if (!all->bytes || !all->size)
        fail("no memory for", "inputs");
    all->bytes[all->count] = bytes;
    all->size[all->count++] = size;
}

static char *read_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    size_t room = 1 << 16, used = 0;
    char *bytes = malloc(room);
    if (!file || !bytes)
        fail("can't read", name);
    for (size_t got; (got = fread(bytes + used, 1, room - used, file)) != 0;) {
        used += got;
        if (used == room && !(bytes = realloc(bytes, room *= 2)))
            fail("no memory for", name);
    }
    fclose(file);
    *size = used;
    return bytes;
}

static unsigned int digit(const char *name, char c) {
    const char *digits = "0123456789abcdef";
    const char *at = c ? strchr(digits, c) : NULL;
    if (!at)
        fail("not hexadecimal:", name);
    return (unsigned int)(at - digits);
}

static void add_line(struct inputs *all, const char *name, const char *line, size_t length) {
    uint8_t *bytes = malloc(length / 2 + 1);
    if (!bytes || length % 2)
        fail("not an even number of digits:", name);
    for (size_t i = 0; i < length / 2; i++)
        bytes[i] = (uint8_t)(digit(name, line[2 * i]) << 4 | digit(name, line[2 * i + 1]));
    add(all, bytes, length / 2);
}

static void add_file(struct inputs *all, const char *name) {
    size_t size, length = strlen(name);
    char *bytes = read_file(name, &size);
    if (length < 4 || strcmp(name + length - 4, ".hex") != 0) {
        add(all, (uint8_t *)bytes, size);
        return;
    }
    for (size_t at = 0; at < size;) {
        const char *end = memchr(bytes + at, '\n', size - at);
        size_t line = end ? (size_t)(end - (bytes + at)) : size - at;
        if (line != 0)
            add_line(all, name, bytes + at, line);
        at += line + 1;
    }
    free(bytes);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run(const struct inputs *all) {
    for (size_t i = 0; i < all->count; i++) {
        fuzz_log("-- input %zu, %zu bytes", i, all->size[i]);
        LLVMFuzzerTestOneInput(all->bytes[i], all->size[i]);
    }
}

int main(int argc, char **argv) {
    struct inputs all = {0};
    double seconds = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(argv[i], "-v") == 0)
            fuzz_verbose = true;
        else if (strcmp(argv[i], "-t") == 0 && i + 1 < argc)
            seconds = seconds_of(argv[++i]);
        else if (argv[i][0] == '-')
            bad_usage("no such option:", argv[i]);
        else
            add_file(&all, argv[i]);
    }
    if (all.count == 0)
        bad_usage("no inputs for", argv[0]);
    double start = now(), runs = 0;
    do {
        run(&all);
        runs += (double)all.count;
    } while (now() - start < seconds);
    printf("%zu inputs, %.0f executions a second\n", all.count, runs / (now() - start));
    for (size_t i = 0; i < all.count; i++)
        free(all.bytes[i]);
    free(all.bytes);
    free(all.size);
    return 0;
}
