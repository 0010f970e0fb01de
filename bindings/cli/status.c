/* SPDX-License-Identifier: MIT */
/* nvmx status: can this machine, and the VM of a file, have nested VMX, and if not, why. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "findings.h"
#include "machine.h"
#include "print.h"
#include "rule.h"
#include "vmfile.h"

struct options {
    bool json;
    const char *root, *file;
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (option_named("status", argc, argv, &i, "--root", &o->root)) {
            if (!o->root)
                return CLI_USAGE;
        } else if (argv[i][0] == '-')
            return usage_error("status", "unknown option '%s'", tame(argv[i]));
        else if (o->file)
            return usage_error("status", "one file at most, not '%s' too", tame(argv[i]));
        else
            o->file = argv[i];
    }
    return CLI_OK;
}

/* What people ask for first, of all that nvmx caps lists. */
static const struct {
    uint16_t msr;
    uint8_t bit;
    const char *name;
} headlines[] = {
    {0x48b, 33, "EPT"},
    {0x48b, 37, "VPID"},
    {0x48b, 39, "unrestricted guest"},
    {0x48b, 46, "VMCS shadowing"},
    {0x48b, 41, "virtual-interrupt delivery"},
    {0x481, 38, "preemption timer"},
    {0x48b, 45, "VM functions"},
    {0x48b, 49, "PML"},
    {0x48b, 54, "mode-based execute control"},
    {0x48b, 57, "TSC scaling"},
};

static bool has(const struct nvmx_caps *caps, size_t i) {
    return caps->msr[headlines[i].msr - NVMX_MSR_VMX_FIRST] >> headlines[i].bit & 1;
}

static size_t offered_bits(const struct nvmx_caps *machine, const struct nvmx_caps *l1) {
    size_t offered = 0;

    for (size_t row = 0; nvmx_cap_bit(row); row++)
        offered += nvmx_cap_bit_reason(row, machine, NULL, l1) == NVMX_CAP_OFFERED;
    return offered;
}

static const char *hypervisor_name(const char *signature) {
    static const struct {
        const char *signature, *name;
    } known[] = {
        {"KVMKVMKVM", "KVM"},     {"Microsoft Hv", "Hyper-V"},    {"VMwareVMware", "VMware"},
        {"XenVMMXenVMM", "Xen"},  {"VBoxVBoxVBox", "VirtualBox"}, {"bhyve bhyve", "bhyve"},
        {"ACRNACRNACRN", "ACRN"}, {"TCGTCGTCGTCG", "QEMU"},       {"QNXQVMBSQG", "QNX"},
        {"Linux KVM Hv", "KVM"},
    };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(signature, known[i].signature) == 0)
            return known[i].name;
    return *signature ? signature : "a hypervisor that does not say its name";
}

static const char *msr_text(enum msr_access access) {
    switch (access) {
    case MSR_READ:
        return "read";
    case MSR_NO_DRIVER:
        return "not known: there is no /dev/cpu/0/msr (modprobe msr, as root)";
    case MSR_NO_PERMISSION:
        return "not known: no permission for /dev/cpu/0/msr (try as root)";
    case MSR_FAILED:
        return "not known: /dev/cpu/0/msr refuses to read them";
    case MSR_NOT_ASKED:
        return "none: only a processor with VMX has them";
    }
    return "not known";
}

static void line(const char *name, const char *text) {
    printf("  %-21s %s\n", name, text);
}

static void firmware_text(const struct machine *m, char *out, size_t size) {
    uint64_t value = m->caps.caps.feature_control;

    snprintf(out, size, "%" PRIX64 "H: %s, VMX %s", value, value & 1 ? "locked" : "not locked",
             value & 4   ? "allowed"
             : value & 1 ? (value & 2 ? "in SMX operation only" : "disabled")
                         : "not allowed yet");
}

static void offer_text(const struct machine *m) {
    struct nvmx_caps l1;
    const char *comma = "";

    if (nvmx_caps_for_l1(&m->caps.caps, NULL, &l1) != NVMX_OK) {
        line("L1 would see", "nothing of VMX");
        return;
    }
    printf("  %-21s ", "L1 would see");
    for (size_t i = 0; i < sizeof headlines / sizeof headlines[0]; i++) {
        if (has(&l1, i))
            printf("%s%s", comma, headlines[i].name);
        comma = has(&l1, i) ? ", " : comma;
    }
    printf("%s%zu capabilities in all (nvmx caps)\n", *comma ? "; " : "", offered_bits(&m->caps.caps, &l1));
}

static void machine_text(const struct machine *m) {
    bool virtual = m->facts.machine & NVMX_MACHINE_VIRTUAL;
    char text[200];

    printf("%s%s%s\n", ink(INK_BOLD), *m->root ? tame(m->root) : "This machine", ink(INK_PLAIN));
    if (*m->system)
        line("system", m->system);
    snprintf(text, sizeof text, "%s%s%s%s", *m->vendor ? m->vendor : "not known", *m->model ? " (" : "", m->model,
             *m->model ? ")" : "");
    line("processor", text);
    if (!m->cpuid_known)
        return;
    line("VMX", m->facts.machine & NVMX_MACHINE_VMX ? "yes" : "no");
    line("inside a hypervisor", virtual ? hypervisor_name(m->hypervisor) : "no");
    line("KVM's nested", m->nested < 0 ? "kvm_intel is not loaded" : m->nested ? "on" : "off");
    if (*m->user)
        line("VMX is used by", m->user);
    if (m->msrs != MSR_READ) {
        line("VMX MSRs", msr_text(m->msrs));
        return;
    }
    firmware_text(m, text, sizeof text);
    line("IA32_FEATURE_CONTROL", text);
    offer_text(m);
}

static void verdict(const char *what, size_t errors) {
    printf("  %s%s%s %s%s\n", ink(errors ? INK_BAD : INK_GOOD), errors ? "NO" : "YES", ink(INK_PLAIN), what,
           errors ? ", because of:" : "");
}

static void vm_text(const struct vmfile *vm) {
    char value[200];

    printf("%sVM %s%s (%s)\n", ink(INK_BOLD), vm->name, ink(INK_PLAIN), tame(vm->path));
    for (unsigned int key = VM_EXPOSE; key < VM_KEYS; key++) {
        if (vm->key[key].line == 0)
            continue;
        vmfile_value(vm, (enum vm_key)key, value, sizeof value);
        line(vm_key_name((enum vm_key)key), value);
    }
}

static void status_json(const struct machine *m, const struct vmfile *vm, const struct findings *found) {
    struct json json = {0};
    struct nvmx_caps l1;

    json_object(&json, NULL);
    json_object(&json, "machine");
    json_bool(&json, "ready", found->errors[NVMX_ABOUT_MACHINE] == 0 && m->cpuid_known);
    json_string(&json, "system", *m->system ? m->system : NULL);
    json_string(&json, "vendor", *m->vendor ? m->vendor : NULL);
    json_string(&json, "model", *m->model ? m->model : NULL);
    json_bool(&json, "vmx", m->facts.machine & NVMX_MACHINE_VMX);
    json_string(&json, "hypervisor", m->facts.machine & NVMX_MACHINE_VIRTUAL ? hypervisor_name(m->hypervisor) : NULL);
    json_string(&json, "kvm_nested", m->nested < 0 ? NULL : m->nested ? "on" : "off");
    json_string(&json, "vmx_used_by", *m->user ? m->user : NULL);
    json_string(&json, "msrs", msr_text(m->msrs));
    if (m->msrs == MSR_READ) {
        json_hex(&json, "feature_control", m->caps.caps.feature_control);
        json_array(&json, "l1_sees");
        if (nvmx_caps_for_l1(&m->caps.caps, NULL, &l1) == NVMX_OK)
            for (size_t i = 0; i < sizeof headlines / sizeof headlines[0]; i++)
                if (has(&l1, i))
                    json_string(&json, NULL, headlines[i].name);
        json_end(&json);
    }
    findings_json(found, NVMX_ABOUT_MACHINE, &json, "findings");
    json_end(&json);
    if (vm) {
        json_object(&json, "vm");
        json_bool(&json, "ready", found->errors[NVMX_ABOUT_VM] == 0);
        json_string(&json, "name", vm->name);
        json_string(&json, "file", vm->path);
        findings_json(found, NVMX_ABOUT_VM, &json, "findings");
        json_end(&json);
    }
    json_end(&json);
}

static void status_text(const struct machine *m, const struct vmfile *vm, const struct findings *found) {
    machine_text(m);
    if (m->cpuid_known)
        verdict("nested VMX on this machine", found->errors[NVMX_ABOUT_MACHINE]);
    else
        line("NO", "nothing is known of the processor");
    findings_text(found, NVMX_ABOUT_MACHINE);
    if (!vm)
        return;
    vm_text(vm);
    verdict("nested VMX in this VM", found->errors[NVMX_ABOUT_VM]);
    findings_text(found, NVMX_ABOUT_VM);
}

int command_status(int argc, char **argv) {
    struct options o = {.root = ""};
    struct machine machine;
    struct vmfile vm = {0};
    struct findings found;
    int status = parse(&o, argc, argv);

    if (status != CLI_OK)
        return status;
    status = machine_read(&machine, o.root);
    if (status == CLI_OK && o.file)
        status = vmfile_read(&vm, o.file);
    if (status == CLI_OK) {
        machine.facts.vm = vm.vm;
        machine.facts.memory_bytes = vm.memory_bytes;
        findings_make(&found, &machine.facts);
        if (o.json)
            status_json(&machine, o.file ? &vm : NULL, &found);
        else
            status_text(&machine, o.file ? &vm : NULL, &found);
        if (found.errors[NVMX_ABOUT_MACHINE] || found.errors[NVMX_ABOUT_VM] || !machine.cpuid_known)
            status = CLI_BROKEN;
    }
    vmfile_free(&vm);
    return status;
}
