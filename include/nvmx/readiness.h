/* SPDX-License-Identifier: MIT */
/*
 * Can this machine, and this VM, have nested VMX? A host says what it knows, and gets findings: what stands in the way, what it should know, and
 * what is no obstacle here though it is one elsewhere. Pure: no vCPU, no callback; any thread. The rows are in readiness.def.
 */
#ifndef NVMX_READINESS_H
#define NVMX_READINESS_H

#include <nvmx/caps.h>

/* Whose processor it is: CPUID.0. */
enum nvmx_vendor {
    NVMX_VENDOR_OTHER = 0,
    NVMX_VENDOR_INTEL,
    NVMX_VENDOR_AMD,     /* and Hygon */
    NVMX_VENDOR_ZHAOXIN, /* CentaurHauls, Shanghai: they have VMX too */
};

/* What the host knows of itself and of the machine: bits of nvmx_readiness_facts.machine. */
#define NVMX_MACHINE_KNOWN           (1u << 0) /* the host knows its machine: without this bit only the VM is looked at */
#define NVMX_MACHINE_VMX             (1u << 1) /* CPUID.1:ECX[5] */
#define NVMX_MACHINE_MSRS_KNOWN      (1u << 2) /* `caps` is filled, its feature_control too */
#define NVMX_MACHINE_VIRTUAL         (1u << 3) /* CPUID.1:ECX[31]: it is itself a guest of a hypervisor */
#define NVMX_MACHINE_VMX_BUSY        (1u << 4) /* another hypervisor uses VMX there now */
#define NVMX_MACHINE_NESTED_OFF      (1u << 5) /* the hypervisor that there is (KVM) does not give VMX to its guests */
#define NVMX_MACHINE_VBS             (1u << 6) /* virtualization-based security (Device Guard, Credential Guard) runs */

/* The VM's settings: bits of nvmx_readiness_facts.vm. */
#define NVMX_VM_KNOWN             (1u << 0) /* there is a VM to look at */
#define NVMX_VM_EXPOSE            (1u << 1) /* VMX is exposed: nvmx_vm_config.expose */
#define NVMX_VM_RUNNING           (1u << 2)
#define NVMX_VM_SAVED             (1u << 3) /* it is off, with a saved state to go on from */
#define NVMX_VM_DYNAMIC_MEMORY    (1u << 4) /* its memory grows and shrinks while it runs */
#define NVMX_VM_MAC_SPOOFING      (1u << 5) /* it may send frames from other addresses than its own */
#define NVMX_VM_CHECKPOINT_PARENT (1u << 6) /* its disks are on top of a checkpoint */
#define NVMX_VM_LIVE_MIGRATION    (1u << 7) /* it may be moved while it runs */

struct nvmx_readiness_facts {
    uint32_t size;         /* sizeof(struct nvmx_readiness_facts) */
    uint32_t machine;      /* NVMX_MACHINE_ bits */
    uint32_t vm;           /* NVMX_VM_ bits */
    uint32_t vendor;       /* enum nvmx_vendor */
    uint64_t memory_bytes; /* of the VM; 0: not known */
    struct nvmx_caps caps; /* of the machine; with NVMX_MACHINE_MSRS_KNOWN */
};

enum nvmx_severity {
    NVMX_INFO = 0, /* no obstacle */
    NVMX_WARNING,  /* it will work, but not as well or not for everything */
    NVMX_ERROR,    /* it will not work */
};

/* A setting of the VM that repairs a finding. */
enum nvmx_setting {
    NVMX_SETTING_NONE = 0,
    NVMX_SETTING_EXPOSE,       /* value: 1 */
    NVMX_SETTING_MEMORY,       /* value: bytes */
    NVMX_SETTING_MAC_SPOOFING, /* value: 1 */
};

/* Ids, in the order in which findings come. Numbers may change between versions, the names (nvmx_finding.name) do not. */
enum nvmx_finding_id {
#define FINDING(ID, about, name, severity, setting, value, when, message, remedy) NVMX_FINDING_##ID,
#include <nvmx/readiness.def>
    NVMX_FINDING_COUNT,
};

enum nvmx_finding_about { NVMX_ABOUT_MACHINE = 0, NVMX_ABOUT_VM };

struct nvmx_finding {
    uint16_t id;         /* enum nvmx_finding_id */
    uint8_t about;       /* enum nvmx_finding_about */
    uint8_t severity;    /* enum nvmx_severity */
    uint8_t setting;     /* enum nvmx_setting; NVMX_SETTING_NONE: no setting of the VM repairs it */
    uint8_t reserved[3]; /* 0 */
    uint64_t value;      /* for the setting */
    const char *name;    /* "firmware-locked"; static storage, as the two that follow */
    const char *message; /* what is so, in one sentence */
    const char *remedy;  /* what to do; for NVMX_INFO why nothing has to be done */
};

NVMX_BEGIN_C

/*
 * All findings, machine first, into `out` (the caller's; may be NULL if `room` is 0): at most `room` of them. Returns how many there are, at most
 * NVMX_FINDING_COUNT. None if facts->size is not sizeof(struct nvmx_readiness_facts).
 */
NVMX_API size_t nvmx_readiness(const struct nvmx_readiness_facts *facts, struct nvmx_finding *out, size_t room);

/* Is there no finding of severity NVMX_ERROR about the machine, or the VM? False if facts->size is another one. */
NVMX_API bool nvmx_is_ready(const struct nvmx_readiness_facts *facts, enum nvmx_finding_about about);

/* A severity in a word; never NULL; static storage. */
NVMX_API const char *nvmx_severity_text(enum nvmx_severity severity);

NVMX_END_C

#endif
