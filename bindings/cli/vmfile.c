/* SPDX-License-Identifier: MIT */
#include "vmfile.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "input.h"
#include "print.h"

#define MOST_BYTES (1u << 20)

static const char *const key_name[VM_KEYS] = {
    [VM_NAME] = "name",
    [VM_EXPOSE] = "expose",
    [VM_MEMORY] = "memory",
    [VM_DYNAMIC_MEMORY] = "dynamic_memory",
    [VM_STATE] = "state",
    [VM_MAC_SPOOFING] = "mac_spoofing",
    [VM_CHECKPOINT_PARENT] = "checkpoint_parent",
    [VM_LIVE_MIGRATION] = "live_migration",
};

/* Keys that are yes or no, and the bit of nvmx_readiness_facts.vm that `yes` sets. */
static const struct {
    enum vm_key key;
    uint32_t bit;
} switches[] = {
    {VM_EXPOSE, NVMX_VM_EXPOSE},
    {VM_DYNAMIC_MEMORY, NVMX_VM_DYNAMIC_MEMORY},
    {VM_MAC_SPOOFING, NVMX_VM_MAC_SPOOFING},
    {VM_LIVE_MIGRATION, NVMX_VM_LIVE_MIGRATION},
};

static int __attribute__((format(printf, 3, 4)))
wrong(const struct vmfile *file, size_t line, const char *format, ...) {
    va_list list;

    va_start(list, format);
    fprintf(stderr, "nvmx: %s:%zu: ", tame(file->path), line);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    return CLI_USAGE;
}

const char *vm_key_name(enum vm_key key) {
    return key_name[key];
}

/* -- values
 * --------------------------------------------------------------------------------------------------------------- */

static bool is_one_of(const char *value, const char *const *words) {
    for (; *words; words++)
        if (strcmp(value, *words) == 0)
            return true;
    return false;
}

static bool yes_or_no(const char *value, bool *yes) {
    static const char *const yes_words[] = {"yes", "on", "true", "1", NULL};
    static const char *const no_words[] = {"no", "off", "false", "0", NULL};

    *yes = is_one_of(value, yes_words);
    return *yes || is_one_of(value, no_words);
}

/* 512M, 4G, 4GiB, 4096: a number of MiB where no letter follows. */
static bool read_size(const char *value, uint64_t *bytes) {
    static const char letters[] = "KMGT";
    unsigned int shift = 20;
    char *end;
    unsigned long long number;

    if (!isdigit((unsigned char)*value))
        return false;
    errno = 0;
    number = strtoull(value, &end, 10);
    if (*end) {
        const char *letter = strchr(letters, toupper((unsigned char)*end));

        if (!letter)
            return false;
        shift = 10 * (unsigned int)(letter - letters + 1);
        end++;
        if (*end && strcmp(end, "B") != 0 && strcmp(end, "iB") != 0)
            return false;
    }
    if (errno || number == 0 || number > UINT64_MAX >> shift)
        return false;
    *bytes = (uint64_t)number << shift;
    return true;
}

static int take_state(struct vmfile *file, size_t line, const char *value) {
    if (strcmp(value, "running") == 0)
        file->vm |= NVMX_VM_RUNNING;
    else if (strcmp(value, "saved") == 0)
        file->vm |= NVMX_VM_SAVED;
    else if (strcmp(value, "off") != 0)
        return wrong(file, line, "state is off, running or saved, not '%s'", tame(value));
    return CLI_OK;
}

static int take_value(struct vmfile *file, enum vm_key key, size_t line, const char *value) {
    bool yes;

    switch (key) {
    case VM_NAME:
        snprintf(file->name, sizeof file->name, "%s", *value ? tame(value) : file->name);
        return CLI_OK;
    case VM_MEMORY:
        return read_size(value, &file->memory_bytes)
                   ? CLI_OK
                   : wrong(file, line, "memory is a size such as 512M, 4G or 4096 (MiB), not '%s'", tame(value));
    case VM_STATE:
        return take_state(file, line, value);
    case VM_CHECKPOINT_PARENT:
        file->vm |= *value && strcmp(value, "none") != 0 ? NVMX_VM_CHECKPOINT_PARENT : 0;
        return CLI_OK;
    default:
        break;
    }
    if (!yes_or_no(value, &yes))
        return wrong(file, line, "%s is yes or no, not '%s'", key_name[key], tame(value));
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++)
        file->vm |= yes && switches[i].key == key ? switches[i].bit : 0;
    return CLI_OK;
}

/* -- lines
 * ------------------------------------------------------------------------------------------------------------------ */

static bool is_blank_byte(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

/* bytes[start, end) is a line without its end. */
static int take_line(struct vmfile *file, size_t line, size_t start, size_t end) {
    const char *equals = memchr(file->bytes + start, '=', end - start);
    char key[80], value[200];
    size_t from, to;
    enum vm_key which = VM_NAME;

    while (start < end && is_blank_byte(file->bytes[start]))
        start++;
    if (start == end || file->bytes[start] == '#')
        return CLI_OK;
    if (!equals || equals == file->bytes + start ||
        memchr(file->bytes + start, '#', (size_t)(equals - file->bytes) - start))
        return wrong(file, line, "a line is `key = value`, or a comment after #");
    plain_name(file->bytes + start, (size_t)(equals - file->bytes) - start, key, sizeof key);
    from = (size_t)(equals - file->bytes) + 1;
    while (from < end && is_blank_byte(file->bytes[from]))
        from++;
    /* A comment begins at the line's first # behind a blank, or at once. */
    for (to = from; to < end && !(file->bytes[to] == '#' && (to == from || is_blank_byte(file->bytes[to - 1]))); to++) {
    }
    while (to > from && is_blank_byte(file->bytes[to - 1]))
        to--;
    while (which < VM_KEYS && strcmp(key, key_name[which]) != 0)
        which++;
    if (which == VM_KEYS) {
        file->unknown_keys++;
        return CLI_OK;
    }
    if (file->key[which].line)
        return wrong(file, line, "%s was given before, in line %zu", key_name[which], file->key[which].line);
    file->key[which].line = line;
    file->key[which].start = from;
    file->key[which].end = to;
    if (to - from >= sizeof value)
        return wrong(file, line, "the value of %s is too long", key_name[which]);
    memcpy(value, file->bytes + from, to - from);
    value[to - from] = 0;
    return take_value(file, which, line, value);
}

static int take_lines(struct vmfile *file) {
    const char *slash = strrchr(file->path, '/');
    size_t first = strncmp(file->bytes, BYTE_ORDER_MARK, strlen(BYTE_ORDER_MARK)) == 0 ? strlen(BYTE_ORDER_MARK) : 0;
    int status = CLI_OK;

    memset(file->key, 0, sizeof file->key);
    file->vm = NVMX_VM_KNOWN;
    file->memory_bytes = 0;
    file->unknown_keys = 0;
    snprintf(file->name, sizeof file->name, "%s", tame(slash ? slash + 1 : file->path));
    if (memchr(file->bytes, 0, file->size))
        return wrong(file, 1, "a byte that is 0: this is not text");
    for (size_t start = first, line = 1; start < file->size && status == CLI_OK; line++) {
        const char *stop = memchr(file->bytes + start, '\n', file->size - start);
        size_t end = stop ? (size_t)(stop - file->bytes) : file->size;

        status = take_line(file, line, start, end);
        start = end + 1;
    }
    return status;
}

/* -- the file
 * ----------------------------------------------------------------------------------------------------------------- */

static int cannot(const struct vmfile *file, const char *what) {
    fprintf(stderr, "nvmx: %s: %s\n", tame(file->path), what);
    return CLI_SYSTEM;
}

int vmfile_read(struct vmfile *file, const char *path) {
    FILE *stream = fopen(path, "rb");
    int status = CLI_OK;

    *file = (struct vmfile){.path = path};
    if (!stream)
        return cannot(file, strerror(errno));
    file->bytes = malloc(MOST_BYTES + 1);
    if (!file->bytes)
        status = cannot(file, "no memory");
    else if (fstat(fileno(stream), &file->about) != 0)
        status = cannot(file, strerror(errno));
    else if (!S_ISREG(file->about.st_mode))
        status = cannot(file, "not a file");
    if (status == CLI_OK) {
        file->size = fread(file->bytes, 1, MOST_BYTES, stream);
        if (ferror(stream))
            status = cannot(file, strerror(errno));
        else if (file->size == MOST_BYTES)
            status = cannot(file, "too large for the description of a VM");
    }
    fclose(stream);
    if (status != CLI_OK)
        return status;
    file->bytes[file->size] = 0;
    return take_lines(file);
}

void vmfile_free(struct vmfile *file) {
    free(file->bytes);
    file->bytes = NULL;
}

void vmfile_value(const struct vmfile *file, enum vm_key key, char *out, size_t size) {
    char value[200];
    size_t length = file->key[key].end - file->key[key].start;

    if (file->key[key].line == 0) {
        snprintf(out, size, "not there");
        return;
    }
    memcpy(value, file->bytes + file->key[key].start, length); /* take_line: shorter than `value` */
    value[length] = 0;
    snprintf(out, size, "%s", tame(value));
}

int vmfile_set(struct vmfile *file, enum vm_key key, const char *value) {
    bool there = file->key[key].line != 0, crlf = strstr(file->bytes, "\r\n") != NULL;
    size_t start = there ? file->key[key].start : file->size, end = there ? file->key[key].end : file->size;
    bool cut_off = !there && file->size > 0 && file->bytes[file->size - 1] != '\n';
    bool touches = there && (start == 0 || file->bytes[start - 1] == '=');
    const char *line_end = crlf ? "\r\n" : "\n";
    char text[160];
    size_t length;
    char *bytes;

    if (there)
        snprintf(text, sizeof text, "%s%s%s", touches ? " " : "", value, file->bytes[end] == '#' ? " " : "");
    else
        snprintf(text, sizeof text, "%s%s = %s%s", cut_off ? line_end : "", key_name[key], value, line_end);
    length = strlen(text);
    bytes = malloc(file->size + length + 1);
    if (!bytes)
        return cannot(file, "no memory");
    memcpy(bytes, file->bytes, start);
    memcpy(bytes + start, text, length);
    memcpy(bytes + start + length, file->bytes + end, file->size - end + 1);
    free(file->bytes);
    file->bytes = bytes;
    file->size += length - (end - start);
    return take_lines(file);
}
