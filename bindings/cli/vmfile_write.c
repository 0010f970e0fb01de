/* SPDX-License-Identifier: MIT */
/* Replacing a file so that at every moment, also after a crash, either the old or the new one is there. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "print.h"
#include "vmfile.h"

#define SUFFIX ".nvmx-XXXXXX"

static int cannot(const char *path, const char *what, int error) {
    fprintf(stderr, "nvmx: %s: %s: %s; the file is as it was\n", tame(path), what, strerror(error));
    return CLI_SYSTEM;
}

static bool write_all(int out, const char *bytes, size_t size) {
    while (size > 0) {
        ssize_t done = write(out, bytes, size);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

/* Not the file that was read: somebody changed or replaced it. */
static bool is_other(const struct stat *now, const struct stat *then) {
    return now->st_dev != then->st_dev || now->st_ino != then->st_ino || now->st_size != then->st_size ||
           now->st_mtim.tv_sec != then->st_mtim.tv_sec || now->st_mtim.tv_nsec != then->st_mtim.tv_nsec;
}

/* The new file has the old one's owner and mode before anybody can open it under its name. */
static bool fill(int out, const struct vmfile *file) {
    const struct stat *about = &file->about;
    struct stat mine;

    if (fstat(out, &mine) != 0)
        return false;
    if ((mine.st_uid != about->st_uid || mine.st_gid != about->st_gid) &&
        fchown(out, about->st_uid, about->st_gid) != 0)
        return false;
    return fchmod(out, about->st_mode & 07777) == 0 && write_all(out, file->bytes, file->size) && fsync(out) == 0;
}

static void sync_folder(const char *path) {
    char folder[PATH_MAX];
    char *slash;
    int opened;

    snprintf(folder, sizeof folder, "%s", path);
    slash = strrchr(folder, '/');
    if (!slash)
        return;
    slash[slash == folder ? 1 : 0] = 0;
    opened = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened >= 0) {
        (void)fsync(opened); /* some file systems can't: the file itself is on the disk */
        close(opened);
    }
}

/* The old file under a second name; an older backup is never overwritten. */
static int keep_backup(const struct vmfile *file, const char *path) {
    char backup[PATH_MAX];

    if (snprintf(backup, sizeof backup, "%s.orig", path) >= (int)sizeof backup)
        return cannot(file->path, "the backup's name is too long", ENAMETOOLONG);
    if (link(path, backup) != 0)
        return cannot(file->path, errno == EEXIST ? "there is a backup (.orig) already" : "no backup can be made",
                      errno);
    return CLI_OK;
}

static int put_in_place(const struct vmfile *file, const char *temporary, const char *path, bool backup) {
    struct stat now;
    int status;

    if (stat(path, &now) != 0)
        return cannot(file->path, "it is gone", errno);
    if (is_other(&now, &file->about)) {
        fprintf(stderr, "nvmx: %s: somebody else changed it meanwhile; nothing was written\n", tame(file->path));
        return CLI_SYSTEM;
    }
    status = backup ? keep_backup(file, path) : CLI_OK;
    if (status == CLI_OK && rename(temporary, path) != 0)
        status = cannot(file->path, "can't be replaced", errno);
    return status;
}

int vmfile_write(const struct vmfile *file, bool backup) {
    char path[PATH_MAX], temporary[PATH_MAX];
    int out, status;
    bool filled;

    if (!realpath(file->path, path))
        return cannot(file->path, "it is gone", errno);
    if (file->about.st_nlink > 1) {
        fprintf(stderr,
                "nvmx: %s: it has other names (hard links), which would keep the old contents; nothing was written\n",
                tame(file->path));
        return CLI_SYSTEM;
    }
    if (snprintf(temporary, sizeof temporary, "%s" SUFFIX, path) >= (int)sizeof temporary)
        return cannot(file->path, "its name is too long", ENAMETOOLONG);
    out = mkstemp(temporary);
    if (out < 0)
        return cannot(file->path, "no file can be made beside it", errno);
    filled = fill(out, file);
    status = filled ? CLI_OK : cannot(file->path, "can't be written", errno);
    if (close(out) != 0 && status == CLI_OK)
        status = cannot(file->path, "can't be written", errno);
    if (status == CLI_OK)
        status = put_in_place(file, temporary, path, backup);
    if (status != CLI_OK)
        unlink(temporary);
    else
        sync_folder(path);
    return status;
}
