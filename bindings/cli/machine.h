/* SPDX-License-Identifier: MIT */
/* What `nvmx status` can know of a machine: this one, or one whose files somebody put into a folder. */
#ifndef NVMX_CLI_MACHINE_H
#define NVMX_CLI_MACHINE_H

#include <nvmx/readiness.h>

#include "capset.h"

/* What became of reading the MSRs. */
enum msr_access {
    MSR_READ = 0,
    MSR_NO_DRIVER, /* there is no /dev/cpu/0/msr */
    MSR_NO_PERMISSION,
    MSR_FAILED,    /* the driver refuses the MSRs that a processor with VMX has */
    MSR_NOT_ASKED, /* the processor has no VMX */
};

struct machine {
    const char *root; /* "" for this machine */
    bool cpuid_known;
    char vendor[13], model[49], hypervisor[13]; /* "" where there is none */
    char system[80];                            /* what the firmware calls the machine; "" if not known */
    int nested;                                 /* KVM's parameter: 1 on, 0 off, -1 kvm_intel is not loaded */
    char user[32];                              /* the module that uses VMX now; "" if none is known to */
    enum msr_access msrs;
    struct capset caps;                /* with MSR_READ */
    struct nvmx_readiness_facts facts; /* .machine, .vendor and .caps are filled */
};

/* CLI_OK, or a status after a message: a file below `root` is malformed. What can't be read is noted as such. */
int machine_read(struct machine *machine, const char *root);

#endif
