/* SPDX-License-Identifier: MIT */
#include "statefile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capset.h"
#include "cli.h"
#include "input.h"
#include "print.h"
#include "vmfile.h"

#define MOST_BYTES (1u << 20)
#define MAGIC      "NVMXSTAT"

static int cannot(const char *path, const char *what) {
    fprintf(stderr, "nvmx: %s: %s\n", tame(path), what);
    return CLI_SYSTEM;
}

static uint64_t number_at(const uint8_t *at, unsigned int bytes) {
    uint64_t value = 0;

    for (unsigned int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

bool kvm_header(const struct statefile *file, struct kvm_header *out) {
    const uint8_t *at = file->bytes;

    if (file->size < NVMX_KVM_STATE_HEADER)
        return false;
    *out = (struct kvm_header){
        .flags = (uint32_t)number_at(at, 2),
        .format = (uint32_t)number_at(at + 2, 2),
        .size = (uint32_t)number_at(at + 4, 4),
        .vmxon = number_at(at + 8, 8),
        .vmcs12 = number_at(at + 16, 8),
        .smm_flags = (uint32_t)number_at(at + 24, 2),
        .vmx_flags = (uint32_t)number_at(at + 28, 4),
        .deadline = number_at(at + 32, 8),
    };
    return true;
}

/* KVM's blob has no magic: its length must be what it says, or what it would be. */
static enum state_kind kind_of(const struct statefile *file) {
    struct kvm_header header;

    if (file->size >= 8 && memcmp(file->bytes, MAGIC, 8) == 0)
        return STATE_OWN;
    if (!kvm_header(file, &header) || header.format > 1 || header.size < NVMX_KVM_STATE_HEADER)
        return STATE_OTHER;
    return header.size == file->size || (header.size < file->size && file->size <= NVMX_KVM_STATE_BYTES) ? STATE_KVM
                                                                                                         : STATE_OTHER;
}

int statefile_read(struct statefile *file, const char *path) {
    bool from_stdin = strcmp(path, "-") == 0;
    FILE *stream = from_stdin ? stdin : fopen(path, "rb");
    int status = CLI_OK;

    *file = (struct statefile){.path = from_stdin ? "stdin" : path};
    if (!stream)
        return cannot(path, strerror(errno));
    file->bytes = malloc(MOST_BYTES + 1);
    if (!file->bytes) {
        status = cannot(path, "no memory");
    } else {
        uint8_t *exact;

        file->size = fread(file->bytes, 1, MOST_BYTES + 1, stream);
        if (ferror(stream))
            status = cannot(path, strerror(errno));
        else if (file->size > MOST_BYTES)
            status = cannot(path, "too large for nested state");
        exact = realloc(file->bytes, file->size ? file->size : 1); /* so that a checker sees each byte too many */
        file->bytes = exact ? exact : file->bytes;
    }
    if (!from_stdin)
        fclose(stream);
    if (status == CLI_OK)
        file->kind = kind_of(file);
    return status;
}

void statefile_free(struct statefile *file) {
    free(file->bytes);
    file->bytes = NULL;
}

static int is_there(const char *path) {
    return cannot(path, "there is a file of this name already (--force writes over it)");
}

int statefile_may_write(const char *path, bool force) {
    if (strcmp(path, "-") == 0)
        return usage_error("state", "convert writes files, and '-' is no name of one");
    return !force && access(path, F_OK) == 0 ? is_there(path) : CLI_OK;
}

static bool write_whole(int out, const uint8_t *at, size_t size) {
    while (size > 0) {
        ssize_t done = write(out, at, size);

        if (done <= 0 && !(done < 0 && errno == EINTR))
            return false;
        at += done > 0 ? done : 0;
        size -= done > 0 ? (size_t)done : 0;
    }
    return true;
}

int statefile_write(const char *path, void *bytes, size_t size, bool force) {
    struct vmfile old = {.path = path, .bytes = bytes, .size = size};
    bool there = force && stat(path, &old.about) == 0, good;
    int out, error;

    if (there && S_ISREG(old.about.st_mode))
        return vmfile_write(&old, false);
    out = open(path, O_WRONLY | O_CLOEXEC | (there ? 0 : O_CREAT | O_EXCL), 0666);
    if (out < 0)
        return errno == EEXIST ? is_there(path) : cannot(path, strerror(errno));
    good = write_whole(out, bytes, size);
    error = errno;
    if (close(out) != 0 && good) {
        good = false;
        error = errno;
    }
    if (good)
        return CLI_OK;
    if (!there)
        unlink(path);
    return cannot(path, strerror(error));
}

/* -- what KVM keeps elsewhere
 * --------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t offset;
    uint8_t bytes;
} members[] = {
#define MEMBER(member, bytes)                                                                                          \
    { #member, offsetof(struct nvmx_kvm_elsewhere, member), bytes }
    MEMBER(feature_control, 8),
    MEMBER(l1_tsc, 8),
    MEMBER(efer, 8),
    MEMBER(pat, 8),
    MEMBER(debugctl, 8),
    MEMBER(perf_global_ctrl, 8),
    MEMBER(dr7, 8),
    {"pdpte0", offsetof(struct nvmx_kvm_elsewhere, pdpte), 8},
    {"pdpte1", offsetof(struct nvmx_kvm_elsewhere, pdpte) + 8, 8},
    {"pdpte2", offsetof(struct nvmx_kvm_elsewhere, pdpte) + 16, 8},
    {"pdpte3", offsetof(struct nvmx_kvm_elsewhere, pdpte) + 24, 8},
    MEMBER(event_info, 4),
    MEMBER(event_error_code, 4),
    MEMBER(event_length, 4),
#undef MEMBER
};
#define MEMBERS (sizeof members / sizeof members[0])

static uint64_t member_value(const struct nvmx_kvm_elsewhere *elsewhere, size_t i) {
    uint64_t wide = 0;
    uint32_t narrow = 0;
    const char *at = (const char *)elsewhere + members[i].offset;

    if (members[i].bytes == 8)
        memcpy(&wide, at, sizeof wide);
    else
        memcpy(&narrow, at, sizeof narrow);
    return members[i].bytes == 8 ? wide : narrow;
}

/* NAME VALUE or NAME = VALUE. False: no such name. */
static bool take_member(struct nvmx_kvm_elsewhere *out, const char *line, bool *good) {
    size_t length = strcspn(line, " \t:=");

    for (size_t i = 0; i < MEMBERS; i++) {
        uint64_t value = 0;
        uint32_t narrow;
        const char *at = line + length;
        char *member = (char *)out + members[i].offset;

        if (strlen(members[i].name) != length || strncmp(line, members[i].name, length) != 0)
            continue;
        at = read_hex(at + strspn(at, " \t:="), &value);
        *good = at && (is_blank(at) || *skip_blanks(at) == '#') && (members[i].bytes == 8 || value <= UINT32_MAX);
        narrow = (uint32_t)value;
        if (*good && members[i].bytes == 8)
            memcpy(member, &value, sizeof value);
        else if (*good)
            memcpy(member, &narrow, sizeof narrow);
        return true;
    }
    return false;
}

int elsewhere_read(struct nvmx_kvm_elsewhere *out, const char *path) {
    struct capset caps = {0};
    struct input input;
    char why[200];
    int status = input_read(&input, path);

    *out = (struct nvmx_kvm_elsewhere){0};
    for (size_t i = 0; i < input.lines && status == CLI_OK; i++) {
        const char *line = skip_blanks(input.line[i]);
        bool good = true;

        if (*line == 0 || *line == '#')
            continue;
        if (take_member(out, line, &good)) {
            if (!good)
                status =
                    input_error(&input, i + 1, "a name and one hexadecimal number are expected, not '%s'", tame(line));
            continue;
        }
        switch (capset_take_line(&caps, line, why, sizeof why)) {
        case CAPSET_TAKEN:
            break;
        case CAPSET_BAD:
            status = input_error(&input, i + 1, "%s", why);
            break;
        case CAPSET_OTHER:
            status = input_error(&input, i + 1, "nothing that KVM keeps elsewhere: '%s'", tame(line));
            break;
        }
    }
    if (status == CLI_OK && !capset_finish(&caps, why, sizeof why)) {
        fprintf(stderr, "nvmx: %s: %s\n", tame(path), why);
        status = CLI_USAGE;
    }
    out->caps = caps.caps;
    input_free(&input);
    return status;
}

static void put_caps(FILE *out, const struct nvmx_caps *caps) {
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++)
        if (caps->msr[place] != 0)
            fprintf(out, "%x %" PRIx64 "\n", NVMX_MSR_VMX_FIRST + place, caps->msr[place]);
    fprintf(out, "debugctl_valid %" PRIx64 "\nperf_global_ctrl_valid %" PRIx64 "\nspec_ctrl_valid %" PRIx64 "\n",
            caps->debugctl_valid, caps->perf_global_ctrl_valid, caps->spec_ctrl_valid);
    fprintf(out, "rtit_ctl_valid %" PRIx64 "\nlbr_ctl_valid %" PRIx64 "\nphysical_address_bits %u\ncpu",
            caps->rtit_ctl_valid, caps->lbr_ctl_valid, caps->physical_address_bits);
    for (unsigned int bit = 0; capset_cpu_name(bit); bit++)
        if (caps->cpu >> bit & 1)
            fprintf(out, " %s", capset_cpu_name(bit));
    fputc('\n', out);
}

int elsewhere_write(const struct nvmx_kvm_elsewhere *elsewhere, const char *path, bool force) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    int status;

    if (!out)
        return cannot(path, "no memory");
    fprintf(out, "# What KVM keeps elsewhere than in its nested state: nvmx help state\n");
    put_caps(out, &elsewhere->caps);
    for (size_t i = 0; i < MEMBERS; i++)
        fprintf(out, "%s %" PRIx64 "\n", members[i].name, member_value(elsewhere, i));
    status = fclose(out) == 0 ? statefile_write(path, text, size, force) : cannot(path, "no memory");
    free(text);
    return status;
}
