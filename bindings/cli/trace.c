/* SPDX-License-Identifier: MIT */
/* nvmx trace: a recorded trace as text, and its round trips L2 -> L1 -> L2 by exit reason. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <nvmx/checks.h>
#include <nvmx/exits.h>

#include "cli.h"
#include "print.h"
#include "tracefile.h"

#define BAR_WIDTH 40u

struct options {
    bool json, summary;
    const char *file;
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--summary") == 0)
            o->summary = true;
        else if (argv[i][0] == '-' && argv[i][1])
            return usage_error("trace", "unknown option '%s'", tame(argv[i]));
        else if (o->file)
            return usage_error("trace", "one file at most, not '%s' too", tame(argv[i]));
        else
            o->file = argv[i];
    }
    return o->file ? CLI_OK : usage_error("trace", "which file?");
}

static const char *reason_name(uint32_t reason) {
    return nvmx_exit_name(reason & 0xffff);
}

/* What `reason` and `detail` of the record say. */
static void what_text(const struct nvmx_trace_record *r, char *out, size_t size) {
    switch (r->event) {
    case NVMX_TRACE_VMFAIL:
        if (r->reason == 0)
            snprintf(out, size, "VMfailInvalid");
        else
            snprintf(out, size, "VMfailValid, error %" PRIu32, r->reason);
        break;
    case NVMX_TRACE_FAULT:
        snprintf(out, size, "vector %" PRIu32 ", error code %" PRIX64 "H", r->reason, r->detail);
        break;
    case NVMX_TRACE_ENTER_L2:
        snprintf(out, size, "%s, RIP %" PRIX64 "H", reason_name(r->reason), r->detail);
        break;
    case NVMX_TRACE_REFLECT:
    case NVMX_TRACE_ENTRY_FAIL:
        snprintf(out, size, "%" PRIu32 " %s, qualification %" PRIX64 "H", r->reason & 0xffff, reason_name(r->reason),
                 r->detail);
        if (r->interruption_info >> 31) {
            size_t used = strlen(out);

            snprintf(out + used, size - used, ", interruption %" PRIX32 "H", r->interruption_info);
        }
        break;
    default:
        snprintf(out, size, "%" PRIu32 " %s", r->reason & 0xffff, reason_name(r->reason));
        break;
    }
}

/* The rule's id, if this library counts its rules as the one that wrote the file. */
static void rule_text(const struct tracefile *file, const struct nvmx_trace_record *r, char *out, size_t size) {
    const struct nvmx_check_row *row =
        file->header.check_rows == NVMX_CHECK_COUNT ? nvmx_check_row(r->check_row) : NULL;

    out[0] = 0;
    if (row)
        snprintf(out, size, "%s", row->id);
    else if (r->check_row != NVMX_CHECK_NONE)
        snprintf(out, size, "rule %u of another version", r->check_row);
}

static void record_text(const struct tracefile *file, size_t i) {
    const struct nvmx_trace_record *r = &file->record[i];
    uint64_t before = i > 0 ? file->record[i - 1].time : r->time;
    char what[120], rule[60];

    what_text(r, what, sizeof what);
    rule_text(file, r, rule, sizeof rule);
    printf("%10" PRIu32 " %+9" PRId64 "  vCPU %u  L%u -> %-4s %-12s %s", r->number, (int64_t)(r->time - before),
           r->vcpu, r->level, nvmx_trace_handler_text(r->handler), nvmx_trace_event_text(r->event), what);
    if (*rule)
        printf(", %s%s%s", ink(INK_BAD), rule, ink(INK_PLAIN));
    printf("  %s(%u calls, %u read, %u written)%s\n", ink(INK_DIM), r->callbacks, r->vmreads, r->vmwrites,
           ink(INK_PLAIN));
}

/* -- the histogram
 * ------------------------------------------------------------------------------------------------------------ */

static void bars(const struct trip_group *group) {
    size_t most = 0;

    for (unsigned int n = 0; n < TRIP_BUCKETS; n++)
        most = group->bucket[n] > most ? group->bucket[n] : most;
    for (unsigned int n = 0; n < TRIP_BUCKETS; n++) {
        unsigned int width = (unsigned int)((group->bucket[n] * BAR_WIDTH + most - 1) / most);

        if (group->bucket[n] == 0)
            continue;
        printf("  %20" PRIu64 "- %8zu ", n ? UINT64_C(1) << n : 0, group->bucket[n]);
        while (width-- > 0)
            putchar('#');
        putchar('\n');
    }
}

static void trips_text(const struct tracefile *file, const struct round_trips *trips) {
    struct trip_group group;
    size_t at = 0;

    printf("%sround trips L2 -> L1 -> L2%s: %zu, in ticks", ink(INK_BOLD), ink(INK_PLAIN), trips->count);
    if (file->header.ticks_per_second != 0)
        printf(" of 1/%" PRIu64 " s", file->header.ticks_per_second);
    printf("\n");
    while (round_trips_group(trips, &at, &group)) {
        printf("%s%u %s%s: %zu, min %" PRIu64 ", median %" PRIu64 ", max %" PRIu64 ", %.1f exits of L1 each\n",
               ink(INK_BOLD), group.reason, reason_name(group.reason), ink(INK_PLAIN), group.count, group.least,
               group.median, group.most, (double)group.l1_exits / (double)group.count);
        bars(&group);
    }
}

static void trips_json(struct json *json, const struct round_trips *trips) {
    struct trip_group group;
    size_t at = 0;

    json_array(json, "round_trips");
    while (round_trips_group(trips, &at, &group)) {
        json_object(json, NULL);
        json_number(json, "reason", group.reason);
        json_string(json, "name", reason_name(group.reason));
        json_number(json, "count", group.count);
        json_number(json, "min", group.least);
        json_number(json, "median", group.median);
        json_number(json, "max", group.most);
        json_number(json, "l1_exits", group.l1_exits);
        json_array(json, "log2_histogram");
        for (unsigned int n = 0; n < TRIP_BUCKETS; n++) {
            if (group.bucket[n] == 0)
                continue;
            json_object(json, NULL);
            json_number(json, "from", n ? UINT64_C(1) << n : 0);
            json_number(json, "count", group.bucket[n]);
            json_end(json);
        }
        json_end(json);
        json_end(json);
    }
    json_end(json);
}

static void record_json(struct json *json, const struct tracefile *file, const struct nvmx_trace_record *r) {
    char rule[60];

    rule_text(file, r, rule, sizeof rule);
    json_object(json, NULL);
    json_number(json, "number", r->number);
    json_number(json, "time", r->time);
    json_number(json, "vcpu", r->vcpu);
    json_number(json, "level", r->level);
    json_string(json, "event", nvmx_trace_event_text(r->event));
    json_string(json, "handler", nvmx_trace_handler_text(r->handler));
    json_number(json, "reason", r->reason);
    json_hex(json, "detail", r->detail);
    json_hex(json, "interruption_info", r->interruption_info);
    json_hex(json, "vmcs12", r->vmcs12);
    json_string(json, "rule", *rule ? rule : NULL);
    json_number(json, "callbacks", r->callbacks);
    json_number(json, "vmreads", r->vmreads);
    json_number(json, "vmwrites", r->vmwrites);
    json_end(json);
}

static void trace_json(const struct options *o, const struct tracefile *file, const struct round_trips *trips) {
    struct json json = {0};

    json_object(&json, NULL);
    json_string(&json, "file", file->path);
    json_number(&json, "ticks_per_second", file->header.ticks_per_second);
    json_number(&json, "lost", file->header.lost);
    json_number(&json, "count", file->count);
    if (!o->summary) {
        json_array(&json, "records");
        for (size_t i = 0; i < file->count; i++)
            record_json(&json, file, &file->record[i]);
        json_end(&json);
    }
    trips_json(&json, trips);
    json_end(&json);
}

static void trace_text(const struct options *o, const struct tracefile *file, const struct round_trips *trips) {
    printf("%s: %zu records", tame(file->path), file->count);
    if (file->header.lost != 0)
        printf(", %" PRIu64 " older ones were lost", file->header.lost);
    printf("\n");
    for (size_t i = 0; i < file->count && !o->summary; i++)
        record_text(file, i);
    trips_text(file, trips);
}

int command_trace(int argc, char **argv) {
    struct options o = {0};
    struct tracefile file = {0};
    struct round_trips trips = {0};
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    status = tracefile_read(&file, o.file);
    if (status == CLI_OK && !round_trips_find(&trips, &file)) {
        fprintf(stderr, "nvmx: no memory\n");
        status = CLI_SYSTEM;
    }
    if (status == CLI_OK) {
        if (o.json)
            trace_json(&o, &file, &trips);
        else
            trace_text(&o, &file, &trips);
        if (file.cut_off) {
            fprintf(stderr, "nvmx: %s: the last record is cut off\n", tame(file.path));
            status = CLI_USAGE;
        }
    }
    round_trips_free(&trips);
    tracefile_free(&file);
    return status;
}
