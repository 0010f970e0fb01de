/* SPDX-License-Identifier: MIT */
/* The description of a VM in a text file: lines `key = value`. README.md here and nvmx(1) have the keys. */
#ifndef NVMX_CLI_VMFILE_H
#define NVMX_CLI_VMFILE_H

#include <sys/stat.h>

#include <nvmx/readiness.h>

enum vm_key {
    VM_NAME = 0,
    VM_EXPOSE,
    VM_MEMORY,
    VM_DYNAMIC_MEMORY,
    VM_STATE,
    VM_MAC_SPOOFING,
    VM_CHECKPOINT_PARENT,
    VM_LIVE_MIGRATION,
    VM_KEYS,
};

struct vmfile {
    const char *path; /* as the user named it; the caller's */
    char *bytes;      /* the whole file, as it is; a 0 behind it */
    size_t size;
    struct stat about; /* of the file when it was read */
    struct {
        size_t line;       /* 0: not there */
        size_t start, end; /* the value, in bytes[] */
    } key[VM_KEYS];
    size_t unknown_keys;
    uint32_t vm;           /* NVMX_VM_ bits */
    uint64_t memory_bytes; /* 0: not given */
    char name[64];         /* the VM's, or the file's */
};

const char *vm_key_name(enum vm_key key);

/* CLI_OK, or a status after a message. vmfile_free in both cases. */
int vmfile_read(struct vmfile *file, const char *path);
void vmfile_free(struct vmfile *file);

/* The value of a key as it stands in the file, into `out`; "not there" if it is not. */
void vmfile_value(const struct vmfile *file, enum vm_key key, char *out, size_t size);

/* Another value, or a new line at the end; all other bytes stay. In memory only. CLI_OK, or a status after a message.
 */
int vmfile_set(struct vmfile *file, enum vm_key key, const char *value);

/*
 * Write it back: beside the file, to the disk, then in its place, with its mode and owner. A symbolic link stays one.
 * Refused if the file changed since it was read. With `backup`, the file as it was is kept under its name with ".orig".
 * CLI_OK, or a status after a message: the file is then as it was.
 */
int vmfile_write(const struct vmfile *file, bool backup);

#endif
