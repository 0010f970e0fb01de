/* SPDX-License-Identifier: MIT */
/* Files of nested state: nvmx's own blobs, KVM's, and the text of what KVM keeps elsewhere. */
#ifndef NVMX_CLI_STATEFILE_H
#define NVMX_CLI_STATEFILE_H

#include <stdbool.h>

#include <nvmx/state_kvm.h>

enum state_kind { STATE_OWN = 0, STATE_KVM, STATE_OTHER };

struct statefile {
    const char *path;
    uint8_t *bytes;
    size_t size;
    enum state_kind kind;
};

/* CLI_OK, or a status after a message. statefile_free in both cases. */
int statefile_read(struct statefile *file, const char *path);
void statefile_free(struct statefile *file);

/* A new file, or with `force` in the place of an old one, which stays as it was if that fails. CLI_OK, or a status
 * after a message. */
int statefile_write(const char *path, void *bytes, size_t size, bool force);

/* May there be a new file of this name? Asked for all that belong together before the first is written. CLI_OK, or a
 * status after a message. */
int statefile_may_write(const char *path, bool force);

/* The header of KVM's blob (Linux, asm/kvm.h). False: the file is shorter. */
struct kvm_header {
    uint32_t flags, format, size, smm_flags, vmx_flags;
    uint64_t vmxon, vmcs12, deadline;
};
bool kvm_header(const struct statefile *file, struct kvm_header *out);

/* Lines NAME VALUE: capabilities as in `nvmx caps`, and the members of struct nvmx_kvm_elsewhere by name. CLI_OK, or a
 * status after a message. */
int elsewhere_read(struct nvmx_kvm_elsewhere *out, const char *path);
int elsewhere_write(const struct nvmx_kvm_elsewhere *elsewhere, const char *path, bool force);

/* state_show.c */
void state_show_text(const struct statefile *file);
void state_show_json(const struct statefile *file);

#endif
