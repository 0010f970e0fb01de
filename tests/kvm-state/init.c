/* SPDX-License-Identifier: MIT */
/* The only process of the Linux whose KVM is asked: loads KVM, runs the guest under vmm, powers off after "exit-status: N". */
#include <stdio.h>
#include <sys/klog.h>
#include <sys/utsname.h>

#include "init-common.h"

enum { CONSOLE_OFF = 6 }; /* syslog(2) */

int main(void) {
    static char program[] = "/vmm", image[] = "/guest.elf";
    static char *command[] = {program, image, NULL};
    struct utsname name;

    setvbuf(stdout, NULL, _IOLBF, 0);
    mount_all();
    klogctl(CONSOLE_OFF, NULL, 0); /* the kernel's messages would stand in the middle of lines */
    load_module_with("irqbypass", "");
    load_module_with("kvm", "");
    load_module_with("kvm_intel", "nested=1 ept=1");
    if (uname(&name) == 0) {
        printf("kvm-state: # KVM of %s %s\n", name.sysname, name.release);
    }
    power_off(run(command));
}
