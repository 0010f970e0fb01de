/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "input.h"
#include "print.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

#define LEAF_FEATURES   1u
#define LEAF_HYPERVISOR 0x40000000u
#define LEAF_MODEL      0x80000002u /* to 80000004H */
#define MODEL_LEAVES    3u
#define LEAVES          6u

/* The leaves of CPUID that are looked at. EAX, EBX, ECX, EDX. */
struct cpuid {
    bool known[LEAVES];
    uint32_t value[LEAVES][4];
};

static const uint32_t leaf_number[LEAVES] = {0,          LEAF_FEATURES,  LEAF_HYPERVISOR,
                                             LEAF_MODEL, LEAF_MODEL + 1, LEAF_MODEL + 2};

static void path_of(char *out, size_t size, const char *root, const char *path) {
    snprintf(out, size, "%s%s", root, path);
}

/* The first line of a small file, without what a terminal might obey. False: it can't be read. */
static bool first_line(const char *root, const char *path, char *out, size_t size) {
    char name[PATH_MAX];
    FILE *file;

    path_of(name, sizeof name, root, path);
    file = fopen(name, "r");
    if (!file)
        return false;
    if (!fgets(out, (int)size, file))
        out[0] = 0;
    fclose(file);
    out[strcspn(out, "\r\n")] = 0;
    snprintf(out, size, "%s", tame(out));
    return true;
}

/* -- CPUID
 * -------------------------------------------------------------------------------------------------------------- */

static void ask_processor(struct cpuid *cpuid) {
#if defined(__x86_64__) || defined(__i386__)
    for (unsigned int i = 0; i < LEAVES; i++) {
        uint32_t *v = cpuid->value[i];

        __cpuid_count(leaf_number[i], 0, v[0], v[1], v[2], v[3]);
        cpuid->known[i] = true;
    }
#else
    (void)cpuid;
#endif
}

/* Lines LEAF EAX EBX ECX EDX, hexadecimal. */
static int read_cpuid(struct cpuid *cpuid, const char *path) {
    struct input input;
    int status = input_read(&input, path);

    for (size_t line = 0; line < input.lines && status == CLI_OK; line++) {
        const char *at = skip_blanks(input.line[line]);
        uint64_t number[5];

        if (*at == 0 || *at == '#')
            continue;
        for (unsigned int i = 0; i < 5 && at; i++) {
            at = read_hex(skip_blanks(at), &number[i]);
            at = at && number[i] <= UINT32_MAX ? at : NULL;
        }
        if (!at || !is_blank(at)) {
            status = input_error(&input, line + 1, "not a leaf of CPUID with EAX, EBX, ECX and EDX in hexadecimal");
            break;
        }
        for (unsigned int i = 0; i < LEAVES; i++) {
            if (number[0] != leaf_number[i])
                continue;
            for (unsigned int word = 0; word < 4; word++)
                cpuid->value[i][word] = (uint32_t)number[word + 1];
            cpuid->known[i] = true;
        }
    }
    input_free(&input);
    return status;
}

/* Letters from registers; what is no letter ends them. */
static void letters(char *out, const uint32_t *words, unsigned int count) {
    size_t used = 0;

    for (unsigned int i = 0; i < 4 * count; i++) {
        char c = (char)(words[i / 4] >> (8 * (i % 4)));

        if (c < ' ' || c > '~')
            break;
        if (c != ' ' || used > 0)
            out[used++] = c;
    }
    while (used > 0 && out[used - 1] == ' ')
        used--;
    out[used] = 0;
}

static enum nvmx_vendor vendor_of(const char *name) {
    static const struct {
        const char *name;
        enum nvmx_vendor vendor;
    } vendors[] = {
        {"GenuineIntel", NVMX_VENDOR_INTEL},   {"AuthenticAMD", NVMX_VENDOR_AMD},     {"HygonGenuine", NVMX_VENDOR_AMD},
        {"CentaurHauls", NVMX_VENDOR_ZHAOXIN}, {"  Shanghai  ", NVMX_VENDOR_ZHAOXIN}, {"Shanghai", NVMX_VENDOR_ZHAOXIN},
    };

    for (size_t i = 0; i < sizeof vendors / sizeof vendors[0]; i++)
        if (strcmp(name, vendors[i].name) == 0)
            return vendors[i].vendor;
    return NVMX_VENDOR_OTHER;
}

static void take_cpuid(struct machine *machine, const struct cpuid *cpuid) {
    const uint32_t *zero = cpuid->value[0], *hypervisor = cpuid->value[2];
    uint32_t vendor[3] = {zero[1], zero[3], zero[2]}, model[12], features = cpuid->value[1][2];

    machine->cpuid_known = cpuid->known[0] && cpuid->known[1];
    if (!machine->cpuid_known)
        return;
    machine->facts.machine |= NVMX_MACHINE_KNOWN;
    machine->facts.machine |= (features >> 5) & 1 ? NVMX_MACHINE_VMX : 0;
    machine->facts.machine |= (features >> 31) & 1 ? NVMX_MACHINE_VIRTUAL : 0;
    letters(machine->vendor, vendor, 3);
    machine->facts.vendor = vendor_of(machine->vendor);
    if (cpuid->known[2] && (features >> 31) & 1)
        letters(machine->hypervisor, hypervisor + 1, 3);
    for (unsigned int i = 0; i < MODEL_LEAVES; i++)
        memcpy(model + 4 * i, cpuid->value[3 + i], sizeof cpuid->value[0]);
    if (cpuid->known[3] && cpuid->known[4] && cpuid->known[5])
        letters(machine->model, model, 12);
}

/* -- MSRs
 * ----------------------------------------------------------------------------------------------------------------- */

static int read_msrs(struct machine *machine) {
    char path[PATH_MAX];
    uint64_t basic;
    int device, status;

    path_of(path, sizeof path, machine->root, "/dev/cpu/0/msr");
    device = open(path, O_RDONLY | O_CLOEXEC);
    if (device < 0) {
        machine->msrs = errno == EACCES || errno == EPERM                      ? MSR_NO_PERMISSION
                        : errno == ENOENT || errno == ENXIO || errno == ENODEV ? MSR_NO_DRIVER
                                                                               : MSR_FAILED;
        return CLI_OK;
    }
    /* In a folder it is a text file, and what is wrong there is an error; a driver that refuses is a fact. */
    machine->msrs = MSR_FAILED;
    if (!*machine->root && pread(device, &basic, sizeof basic, NVMX_MSR_VMX_FIRST) != (ssize_t)sizeof basic) {
        close(device);
        return CLI_OK;
    }
    close(device);
    status = capset_load(&machine->caps, path);
    if (status != CLI_OK)
        return status;
    if (((machine->caps.facts >> CAPSET_FEATURE_CONTROL) & 1) == 0)
        return CLI_OK;
    machine->msrs = MSR_READ;
    machine->facts.machine |= NVMX_MACHINE_MSRS_KNOWN;
    machine->facts.caps = machine->caps.caps;
    return CLI_OK;
}

/* -- Linux
 * ----------------------------------------------------------------------------------------------------------------- */

/* A module with guests that run has users. */
static void find_user(struct machine *machine) {
    static const char *const modules[] = {"kvm_intel", "vboxdrv", "vmmon"};

    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++) {
        char path[64], count[32];

        snprintf(path, sizeof path, "/sys/module/%s/refcnt", modules[i]);
        if (!first_line(machine->root, path, count, sizeof count) || strtol(count, NULL, 10) <= 0)
            continue;
        snprintf(machine->user, sizeof machine->user, "%s", modules[i]);
        machine->facts.machine |= NVMX_MACHINE_VMX_BUSY;
        return;
    }
}

static void ask_linux(struct machine *machine) {
    char line[80];

    machine->nested = -1;
    if (first_line(machine->root, "/sys/module/kvm_intel/parameters/nested", line, sizeof line))
        machine->nested = line[0] == 'Y' || line[0] == 'y' || line[0] == '1';
    if (machine->nested == 0)
        machine->facts.machine |= NVMX_MACHINE_NESTED_OFF;
    find_user(machine);
    if (first_line(machine->root, "/sys/class/dmi/id/sys_vendor", line, sizeof line)) {
        char product[64] = "";

        first_line(machine->root, "/sys/class/dmi/id/product_name", product, sizeof product);
        snprintf(machine->system, sizeof machine->system, "%.39s %.39s", line, product);
    }
}

int machine_read(struct machine *machine, const char *root) {
    struct cpuid cpuid = {0};
    char path[PATH_MAX];
    int status = CLI_OK;

    *machine = (struct machine){.root = root, .msrs = MSR_NOT_ASKED, .facts.size = sizeof machine->facts};
    if (*root) {
        path_of(path, sizeof path, root, "/dev/cpu/0/cpuid");
        status = read_cpuid(&cpuid, path);
    } else {
        ask_processor(&cpuid);
    }
    if (status != CLI_OK)
        return status;
    take_cpuid(machine, &cpuid);
    ask_linux(machine);
    return machine->facts.machine & NVMX_MACHINE_VMX ? read_msrs(machine) : CLI_OK;
}
