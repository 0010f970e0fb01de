/* SPDX-License-Identifier: MIT */
/* nvmx_readiness: each finding by the least that brings it about, and by nothing else. */
#include <criterion/criterion.h>
#include <nvmx/readiness.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

#define GOOD_MACHINE (NVMX_MACHINE_KNOWN | NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)
#define GOOD_VM (NVMX_VM_KNOWN | NVMX_VM_EXPOSE | NVMX_VM_MAC_SPOOFING)
#define GIB (UINT64_C(1) << 30)

/* An Intel machine and a VM of which nothing at all is to be said. */
static struct nvmx_readiness_facts good(void) {
    struct nvmx_readiness_facts facts = {
        .size = sizeof(facts), .machine = GOOD_MACHINE, .vm = GOOD_VM, .vendor = NVMX_VENDOR_INTEL, .memory_bytes = 8 * GIB};
    sim_machine(&facts.caps);
    facts.caps.feature_control = 5;
    return facts;
}

static uint64_t found(const struct nvmx_readiness_facts *facts) {
    struct nvmx_finding list[NVMX_FINDING_COUNT];
    uint64_t bits = 0;
    size_t count = nvmx_readiness(facts, list, NVMX_FINDING_COUNT);
    cr_assert(count <= NVMX_FINDING_COUNT);
    for (size_t i = 0; i < count; i++) {
        cr_assert(i == 0 || list[i - 1].id < list[i].id);
        bits |= UINT64_C(1) << list[i].id;
    }
    return bits;
}

#define M(set, clear) .machine_set = (set), .machine_clear = (clear)
#define V(set, clear) .vm_set = (set), .vm_clear = (clear)
#define FC(value) .has_feature_control = true, .feature_control = (value)
#define NO(place, bits) .has_msr = true, .msr = NVMX_CAP_##place, .msr_clear = (bits)
#define VENDOR(v) .has_vendor = true, .vendor = NVMX_VENDOR_##v

static const struct {
    enum nvmx_finding_id id;
    uint32_t machine_set, machine_clear, vm_set, vm_clear;
    bool has_feature_control, has_msr, has_vendor;
    uint32_t vendor;
    uint64_t feature_control;
    enum nvmx_cap msr;
    uint64_t msr_clear;
    uint64_t memory; /* 0: as it is */
} changes[] = {
    {NVMX_FINDING_CPU_AMD, VENDOR(AMD), M(0, NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_CPU_OTHER, VENDOR(OTHER), M(0, NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_VMX_HIDDEN, M(NVMX_MACHINE_VIRTUAL, NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_NO_VMX, M(0, NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_NO_VMX, VENDOR(ZHAOXIN), M(0, NVMX_MACHINE_VMX | NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_FIRMWARE_LOCKED, FC(1)},
    {NVMX_FINDING_FIRMWARE_SMX_ONLY, FC(3)},
    {NVMX_FINDING_NOT_OFFERABLE, NO(BASIC, UINT64_MAX)},
    {NVMX_FINDING_MSRS_UNKNOWN, M(0, NVMX_MACHINE_MSRS_KNOWN)},
    {NVMX_FINDING_VMX_BUSY, M(NVMX_MACHINE_VMX_BUSY, 0)},
    {NVMX_FINDING_NESTED_OFF, M(NVMX_MACHINE_NESTED_OFF, 0)},
    {NVMX_FINDING_NO_UNRESTRICTED, NO(PROCBASED2, UINT64_C(1) << 39)},
    {NVMX_FINDING_NO_SHADOWING, NO(PROCBASED2, UINT64_C(1) << 46)},
    {NVMX_FINDING_FIRMWARE_UNLOCKED, FC(0)},
    {NVMX_FINDING_FIRMWARE_UNLOCKED, FC(4)},
    {NVMX_FINDING_MACHINE_VIRTUAL, M(NVMX_MACHINE_VIRTUAL, 0)},
    {NVMX_FINDING_VBS, M(NVMX_MACHINE_VBS, 0)},
    {NVMX_FINDING_NOT_EXPOSED, V(0, NVMX_VM_EXPOSE)},
    {NVMX_FINDING_NOT_EXPOSED_RUNNING, V(NVMX_VM_RUNNING, NVMX_VM_EXPOSE)},
    {NVMX_FINDING_NOT_EXPOSED_SAVED, V(NVMX_VM_SAVED, NVMX_VM_EXPOSE)},
    {NVMX_FINDING_MEMORY_SMALL, .memory = GIB - 1},
    {NVMX_FINDING_NO_MAC_SPOOFING, V(0, NVMX_VM_MAC_SPOOFING)},
    {NVMX_FINDING_MEMORY_BELOW_4G, .memory = GIB},
    {NVMX_FINDING_MEMORY_BELOW_4G, .memory = 4 * GIB - 1},
    {NVMX_FINDING_DYNAMIC_MEMORY, V(NVMX_VM_DYNAMIC_MEMORY, 0)},
    {NVMX_FINDING_RUNNING, V(NVMX_VM_RUNNING, 0)},
    {NVMX_FINDING_SAVED, V(NVMX_VM_SAVED, 0)},
    {NVMX_FINDING_CHECKPOINT_PARENT, V(NVMX_VM_CHECKPOINT_PARENT, 0)},
    {NVMX_FINDING_LIVE_MIGRATION, V(NVMX_VM_LIVE_MIGRATION, 0)},
};

static struct nvmx_readiness_facts changed(size_t i) {
    struct nvmx_readiness_facts facts = good();
    facts.machine = (facts.machine | changes[i].machine_set) & ~changes[i].machine_clear;
    facts.vm = (facts.vm | changes[i].vm_set) & ~changes[i].vm_clear;
    if (changes[i].has_vendor)
        facts.vendor = changes[i].vendor;
    if (changes[i].has_feature_control)
        facts.caps.feature_control = changes[i].feature_control;
    if (changes[i].has_msr)
        facts.caps.msr[changes[i].msr] &= ~changes[i].msr_clear;
    if (changes[i].memory)
        facts.memory_bytes = changes[i].memory;
    return facts;
}

Test(readiness, nothing_is_found_where_all_is_well) {
    struct nvmx_readiness_facts facts = good();
    cr_expect_eq(found(&facts), 0);
    cr_expect(nvmx_is_ready(&facts, NVMX_ABOUT_MACHINE) && nvmx_is_ready(&facts, NVMX_ABOUT_VM));
    facts = (struct nvmx_readiness_facts){.size = sizeof(facts), .machine = ~(uint32_t)NVMX_MACHINE_KNOWN, .vm = ~(uint32_t)NVMX_VM_KNOWN};
    cr_expect_eq(found(&facts), 0, "of what is not known nothing is said");
}

Test(readiness, each_finding_has_its_cause) {
    uint64_t seen = 0;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct nvmx_readiness_facts facts = changed(i);
        struct nvmx_finding finding;
        cr_expect(found(&facts) == UINT64_C(1) << changes[i].id, "%zu: %#lx", i, found(&facts));
        cr_assert(nvmx_readiness(&facts, &finding, 1) == 1);
        bool error = finding.severity == NVMX_ERROR;
        cr_expect(nvmx_is_ready(&facts, (enum nvmx_finding_about)finding.about) == !error, "%s", finding.name);
        cr_expect(nvmx_is_ready(&facts, finding.about == NVMX_ABOUT_VM ? NVMX_ABOUT_MACHINE : NVMX_ABOUT_VM));
        seen |= UINT64_C(1) << finding.id;
    }
    /* Without EPT there is no unrestricted guest either. */
    struct nvmx_readiness_facts facts = good();
    facts.caps.msr[NVMX_CAP_PROCBASED2] &= ~(UINT64_C(1) << 33 | UINT64_C(1) << 39);
    uint64_t both = UINT64_C(1) << NVMX_FINDING_NO_EPT | UINT64_C(1) << NVMX_FINDING_NO_UNRESTRICTED;
    cr_expect_eq(found(&facts), both);
    cr_expect_eq(seen | both, (UINT64_C(1) << NVMX_FINDING_COUNT) - 1);
}

/* What a setting repairs is gone with that setting. */
Test(readiness, settings_repair) {
    unsigned int repaired = 0;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        struct nvmx_readiness_facts facts = changed(i);
        struct nvmx_finding finding;
        nvmx_readiness(&facts, &finding, 1);
        switch ((enum nvmx_setting)finding.setting) {
        case NVMX_SETTING_NONE:
            cr_expect_eq(finding.value, 0);
            continue;
        case NVMX_SETTING_EXPOSE:
            facts.vm |= NVMX_VM_EXPOSE;
            break;
        case NVMX_SETTING_MEMORY:
            facts.memory_bytes = finding.value;
            break;
        case NVMX_SETTING_MAC_SPOOFING:
            facts.vm |= NVMX_VM_MAC_SPOOFING;
            break;
        }
        repaired++;
        cr_expect(found(&facts) == 0, "%s: %#lx", finding.name, found(&facts));
    }
    cr_expect_eq(repaired, 3);
}

Test(readiness, names_and_texts) {
    struct nvmx_finding list[NVMX_FINDING_COUNT];
    struct nvmx_readiness_facts facts = good();
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        facts = changed(i);
        nvmx_readiness(&facts, &list[changes[i].id], 1);
        const struct nvmx_finding *f = &list[changes[i].id];
        cr_expect(strlen(f->name) > 3 && strspn(f->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(f->name), "%s", f->name);
        cr_expect(strlen(f->message) > 20 && strlen(f->remedy) > 5 && f->message[strlen(f->message) - 1] != '.', "%s", f->name);
    }
    cr_expect_str_eq(nvmx_severity_text(NVMX_ERROR), "error");
    cr_expect_str_eq(nvmx_severity_text((enum nvmx_severity)7), "unknown severity");
}

/* Too little room is no overrun; a struct of another size is no struct. */
Test(readiness, room_and_size) {
    struct nvmx_finding list[3] = {{0}};
    struct nvmx_readiness_facts facts = good();
    facts.vm = NVMX_VM_KNOWN | NVMX_VM_DYNAMIC_MEMORY | NVMX_VM_CHECKPOINT_PARENT;
    cr_expect_eq(nvmx_readiness(&facts, NULL, 0), 4);
    cr_expect_eq(nvmx_readiness(&facts, list, 2), 4);
    cr_expect(list[1].name != NULL && list[2].name == NULL);
    facts.size--;
    cr_expect_eq(nvmx_readiness(&facts, list, 3), 0);
    cr_expect_not(nvmx_is_ready(&facts, NVMX_ABOUT_MACHINE));
}

/* A caller's struct that is smaller than this library's is not read past its end. */
Test(readiness, a_smaller_struct_ends_where_it_ends) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(pages != MAP_FAILED && mprotect(pages + page, page, PROT_NONE) == 0);
    struct nvmx_readiness_facts *facts = (void *)(pages + page - offsetof(struct nvmx_readiness_facts, memory_bytes));
    struct nvmx_finding list[NVMX_FINDING_COUNT];

    facts->size = offsetof(struct nvmx_readiness_facts, memory_bytes);
    facts->machine = GOOD_MACHINE;
    facts->vm = GOOD_VM;
    facts->vendor = NVMX_VENDOR_INTEL;
    cr_expect_eq(nvmx_readiness(facts, list, NVMX_FINDING_COUNT), 0);
    cr_expect_not(nvmx_is_ready(facts, NVMX_ABOUT_MACHINE));
    munmap(pages, 2 * page);
}

/* Any bits at all: the answers are consistent. */
Test(readiness, any_facts) {
    uint64_t random = 1;
    for (unsigned int n = 0; n < 20000; n++) {
        struct nvmx_readiness_facts facts = good();
        struct nvmx_finding list[NVMX_FINDING_COUNT];
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        facts.machine = (uint32_t)(random >> 56);
        facts.vm = (uint32_t)(random >> 48) & 0xff;
        facts.vendor = (uint32_t)(random >> 40) & 3;
        facts.caps.feature_control = (random >> 32) & 7;
        facts.memory_bytes = (random & 15) << 29;
        size_t count = nvmx_readiness(&facts, list, NVMX_FINDING_COUNT), errors[2] = {0};
        for (size_t i = 0; i < count; i++)
            errors[list[i].about] += list[i].severity == NVMX_ERROR;
        cr_assert(errors[0] <= 1 && errors[1] <= 1, "%#x %#x", facts.machine, facts.vm);
        cr_assert(nvmx_is_ready(&facts, NVMX_ABOUT_MACHINE) == (errors[0] == 0));
        cr_assert(nvmx_is_ready(&facts, NVMX_ABOUT_VM) == (errors[1] == 0));
        bool usable = (facts.machine & NVMX_MACHINE_VMX) != 0 || (facts.machine & NVMX_MACHINE_KNOWN) == 0;
        cr_assert(usable || errors[0] > 0, "a machine without VMX is ready: %#x", facts.machine);
    }
}
