/* SPDX-License-Identifier: MIT */
/* The only process of the Linux whose KVM is asked: loads KVM, runs the guest under vmm, powers off after "exit-status: N". */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONSOLE_OFF = 6 }; /* syslog(2) */

static _Noreturn void power_off(int status) {
    printf("exit-status: %d\n", status);
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    for (;;) {
        pause();
    }
}

static _Noreturn void fail(const char *what) {
    printf("init: FAILED: %s: %s\n", what, strerror(errno));
    power_off(1);
}

static void load_module(const char *path, const char *parameters) {
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0 || syscall(SYS_finit_module, file, parameters, 0) != 0) {
        fail(path);
    }
    close(file);
}

int main(void) {
    static char program[] = "/vmm", image[] = "/guest.elf";
    static char *command[] = {program, image, NULL};
    struct utsname name;
    int status = 0;
    pid_t child;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 || mount("sysfs", "/sys", "sysfs", 0, NULL) != 0 ||
        mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) != 0) {
        fail("mount");
    }
    klogctl(CONSOLE_OFF, NULL, 0); /* the kernel's messages would stand in the middle of lines */
    load_module("/modules/irqbypass.ko", "");
    load_module("/modules/kvm.ko", "");
    load_module("/modules/kvm_intel.ko", "nested=1 ept=1");
    if (uname(&name) == 0) {
        printf("kvm-state: # KVM of %s %s\n", name.sysname, name.release);
    }
    child = fork();
    if (child == 0) {
        execv(command[0], command);
        fail(command[0]);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        fail("vmm");
    }
    power_off(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
