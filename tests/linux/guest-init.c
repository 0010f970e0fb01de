/* SPDX-License-Identifier: MIT */
/*
 * The only process of the Linux that runs as L2: uses what its kernel gives it (processes, memory, time, interrupts), says how that went, and powers off.
 * The last line is "guest-init: all passed" or "guest-init: FAILED: ...".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS  (UINT64_C(8) << 17) /* 8 MBytes */
#define FACTOR UINT64_C(0x9e3779b97f4a7c15)

static _Noreturn void power_off(void) {
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    for (;;) {
        pause();
    }
}

static void expect(int good, const char *what) {
    if (!good) {
        printf("guest-init: FAILED: %s\n", what);
        power_off();
    }
    printf("guest-init: %s\n", what);
}

static const char *text_of(const char *path) {
    static char text[65536];
    size_t length = 0;
    ssize_t got = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    while (file >= 0 && (got = read(file, text + length, sizeof(text) - 1 - length)) > 0) {
        length += (size_t)got;
    }
    text[length] = 0;
    if (file >= 0) {
        close(file);
    }
    return text;
}

static int memory_holds(void) {
    uint64_t *words = mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t wrong = 0;
    if (words == MAP_FAILED) {
        return 0;
    }
    for (uint64_t i = 0; i < WORDS; i++) {
        words[i] = i * FACTOR;
    }
    for (uint64_t i = 0; i < WORDS; i++) {
        wrong += words[i] != i * FACTOR;
    }
    return wrong == 0;
}

/* Copy on write, a signal's default action, and a status that comes back. */
static int processes_work(void) {
    static volatile int shared = 1;
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        shared = 2;
        _exit(shared == 2 ? 42 : 1);
    }
    int first = waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42 && shared == 1;
    child = fork();
    if (child == 0) {
        __builtin_trap();
    }
    return first && waitpid(child, &status, 0) == child && WIFSIGNALED(status);
}

static int sleeping_takes_time(void) {
    struct timespec before, after, nap = {.tv_nsec = 20000000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    if (nanosleep(&nap, NULL) != 0) {
        return 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &after);
    int64_t passed = (after.tv_sec - before.tv_sec) * INT64_C(1000000000) + after.tv_nsec - before.tv_nsec;
    return passed >= nap.tv_nsec;
}

int main(void) {
    struct utsname name;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0 || uname(&name) != 0) {
        expect(0, "mount of /proc");
    }
    printf("guest-init: %s %s is up\n", name.sysname, name.release);
    expect(strstr(text_of("/proc/cpuinfo"), " hypervisor") != NULL, "CPUID says that there is a hypervisor");
    expect(memory_holds(), "8 MBytes of memory hold what was written");
    expect(processes_work(), "processes are made, exit, and die of signals");
    expect(sleeping_takes_time(), "a sleep of 20 ms lasts as long");
    expect(strstr(text_of("/proc/interrupts"), "timer") != NULL, "timer interrupts are counted");
    printf("guest-init: all passed\n");
    power_off();
}
