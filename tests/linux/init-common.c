/* SPDX-License-Identifier: MIT */
#include "init-common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

void power_off(int status) {
    printf("exit-status: %d\n", status);
    fflush(stdout);
    tcdrain(STDOUT_FILENO);
    sync();
    reboot(RB_POWER_OFF);
    for (;;) {
        pause();
    }
}

void fail(const char *what) {
    printf("init: FAILED: %s: %s\n", what, strerror(errno));
    power_off(1);
}

void mount_all(void) {
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("sysfs", "/sys", "sysfs", 0, NULL) != 0 ||
        mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) != 0) {
        fail("mount");
    }
}

void load_module_with(const char *name, const char *parameters) {
    char path[64];
    snprintf(path, sizeof(path), "/modules/%s.ko", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || syscall(SYS_finit_module, file, parameters, 0) != 0) {
        fail(path);
    }
    close(file);
}

int run(char *const arguments[]) {
    int status = 0;
    pid_t child = fork();
    if (child < 0) {
        fail("fork");
    }
    if (child == 0) {
        execv(arguments[0], arguments);
        fail(arguments[0]);
    }
    if (waitpid(child, &status, 0) != child) {
        fail("waitpid");
    }
    if (WIFSIGNALED(status)) {
        printf("init: FAILED: %s was killed by signal %d\n", arguments[0], WTERMSIG(status));
        return 1;
    }
    return WEXITSTATUS(status);
}
