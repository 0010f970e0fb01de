/* SPDX-License-Identifier: MIT */
/*
 * Replay without libFuzzer: runs inputs from files. A file whose name ends in .hex holds one input a line, as hexadecimal digits (corpus/);
 * any other file is one input.
 *   fuzz-HARNESS-replay [-v] [-t SECONDS] FILE...
 *     -v  tell what the inputs do, readably        -t  run all of them over and over for that much of a processor's time; executions a second of it
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz.h"

struct inputs {
    uint8_t **bytes;
    size_t *size;
    size_t count;
};

static _Noreturn void fail(const char *what, const char *name) {
    fprintf(stderr, "fuzz replay: %s %s\n", what, name);
    exit(2);
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
        if (strcmp(argv[i], "-v") == 0)
            fuzz_verbose = true;
        else if (strcmp(argv[i], "-t") == 0 && i + 1 < argc)
            seconds = atof(argv[++i]);
        else
            add_file(&all, argv[i]);
    }
    if (all.count == 0)
        fail("no inputs:", argv[0]);
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
