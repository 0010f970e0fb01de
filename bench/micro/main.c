/* SPDX-License-Identifier: MIT */
/*
 * In-process microbenchmarks of libnvmx.
 *
 *   nvmx-micro counts [NAME...]   callbacks and instructions of each operation, tab-separated, for the golden table
 *   nvmx-micro time [NAME...]     the same and nanoseconds, as JSON
 *   nvmx-micro scaling            how a round trip grows, as JSON
 *   nvmx-micro ept                the composition of page tables alone, at 1 GiB, as JSON
 *
 * NAME: operations whose names begin so. An operation with "@shadow" runs on a machine with VMCS shadowing.
 */
#include <stdio.h>
#include <string.h>

#include "ept.h"
#include "samples.h"
#include "scaling.h"

/* With VMCS shadowing the library learns which fields L1 writes, and forgets those that it wrote once (lib/vmcs/shadow.c). */
enum { WARM_UP = 100, SHADOW_WARM_UP = 700, SLOW_WARM_UP = 3, CHECKED = 8 };

static bool wanted(const char *name, int count, char **words) {
    for (int i = 0; i < count; i++)
        if (strncmp(name, words[i], strlen(words[i])) == 0)
            return true;
    return count == 0;
}

static struct machine *warm(const struct operation *operation, bool shadow) {
    struct machine *m = machine_new(&(struct machine_options){.shadow = shadow});
    operation->setup(m);
    for (uint32_t i = 0; i < (operation->slow ? SLOW_WARM_UP : shadow ? SHADOW_WARM_UP : WARM_UP); i++) {
        operation->before(m);
        operation->timed(m);
    }
    return m;
}

/* The largest of several times: what alternates counts with its worse half. */
static struct counts steady_counts(struct machine *m, const struct operation *operation) {
    struct counts most = {0};
    for (uint32_t i = 0; i < CHECKED; i++) {
        struct counts once = samples_counts(m, operation);
        for (uint32_t c = 0; c < COUNTERS; c++)
            most.value[c] = once.value[c] > most.value[c] ? once.value[c] : most.value[c];
    }
    return most;
}

static void print_counts(const struct operation *operation, const char *name, bool shadow) {
    struct machine *m = warm(operation, shadow);
    struct counts counts = steady_counts(m, operation);
    for (uint32_t c = 0; c < COUNTERS; c++)
        printf("%s\t%s\t%llu\n", name, counter_names[c], (unsigned long long)counts.value[c]);
    machine_free(m);
}

static void print_time(const struct operation *operation, const char *name, bool shadow, bool first) {
    struct machine *m = warm(operation, shadow);
    struct timing t = samples_time(m, operation);
    uint64_t instructions = operation->slow || shadow ? 0 : samples_instructions(m, operation);
    struct counts counts = steady_counts(m, operation);
    printf("%s  {\"name\": \"%s\", \"ns\": {\"median\": %.1f, \"least\": %.1f, \"q1\": %.1f, \"q3\": %.1f, \"samples\": %u, "
           "\"batch\": %u},\n   \"instructions\": %llu, \"callbacks\": {",
           first ? "" : ",\n", name, t.median, t.least, t.quartile_low, t.quartile_high, t.samples, t.batch,
           (unsigned long long)instructions);
    const char *comma = "";
    for (uint32_t c = 0; c < COUNTERS; c++) {
        if (counts.value[c]) {
            printf("%s\"%s\": %llu", comma, counter_names[c], (unsigned long long)counts.value[c]);
            comma = ", ";
        }
    }
    printf("}}");
    fflush(stdout);
    machine_free(m);
}

static int each(bool timed, int count, char **words) {
    bool first = true;
    if (timed)
        printf("{\"version\": 1, \"operations\": [\n");
    for (uint32_t shadow = 0; shadow < 2; shadow++) {
        for (size_t i = 0; i < operation_count; i++) {
            char name[80];
            snprintf(name, sizeof(name), "%s%s", operations[i].name, shadow ? "@shadow" : "");
            if (!wanted(name, count, words) || (shadow && operations[i].slow) || (!timed && operations[i].varies))
                continue;
            if (timed)
                print_time(&operations[i], name, shadow, first);
            else
                print_counts(&operations[i], name, shadow);
            first = false;
        }
    }
    if (timed)
        printf("\n]}\n");
    return first ? 2 : 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    samples_calibrate();
    if (strcmp(what, "counts") == 0)
        return each(false, argc - 2, argv + 2);
    if (strcmp(what, "time") == 0)
        return each(true, argc - 2, argv + 2);
    if (strcmp(what, "scaling") == 0)
        return scaling();
    if (strcmp(what, "ept") == 0)
        return ept_alone();
    fprintf(stderr, "usage: nvmx-micro counts|time [NAME...], or nvmx-micro scaling, or nvmx-micro ept\n");
    return 2;
}
