/* SPDX-License-Identifier: MIT */
/*
 * CPUID: an L1 that moved sees the one of the machine where it started, and may go only where everything is that it says. What changes while
 * the processor runs (CR4's copies, sizes for the current XCR0) stays the processor's own.
 */
#include "console.h"
#include "move.h"

static struct move_cpuid kept[MOVE_CPUID_MAX];
uint32_t cpuid_kept;

/* -- text --------------------------------------------------------------------------------------------------------- */

void move_append(char *text, uint32_t room, const char *more) {
    uint32_t at = 0;

    while (text[at])
        at++;
    while (*more && at + 1 < room)
        text[at++] = *more++;
    text[at] = 0;
}

void move_append_number(char *text, uint32_t room, uint64_t value, uint32_t base) {
    char digits[24];
    uint32_t at = sizeof digits - 1;

    digits[at] = 0;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    move_append(text, room, digits + at);
}

/* -- what L1 sees ------------------------------------------------------------------------------------------------- */

static bool add(struct move_begin *begin, uint32_t leaf, uint32_t subleaf) {
    struct cpuid r = cpuid_l1(leaf, subleaf);

    if (begin->cpuids == MOVE_CPUID_MAX)
        return false;
    begin->cpuid[begin->cpuids++] = (struct move_cpuid){leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx};
    return true;
}

/* How many subleafs to keep: those that say something (SDM, CPUID). */
static uint32_t subleafs(uint32_t leaf) {
    uint32_t count = 1;

    switch (leaf) {
    case 4:
        while (count < 16 && cpuid_l1(4, count - 1).eax & 31)
            count++;
        return count;
    case 7:
        return cpuid_l1(7, 0).eax < 8 ? cpuid_l1(7, 0).eax + 1 : 8;
    case 0xb:
    case 0x1f:
        while (count < 8 && cpuid_l1(leaf, count - 1).ecx >> 8 & 0xff)
            count++;
        return count;
    case 0xd:
        return 20;
    default:
        return 1;
    }
}

bool move_cpuid_save(struct move_begin *begin) {
    uint32_t last = cpuid_l1(0, 0).eax, last_extended = cpuid_l1(0x80000000, 0).eax;

    begin->cpuids = 0;
    for (uint32_t leaf = 0; leaf <= last; leaf++)
        for (uint32_t subleaf = 0, count = subleafs(leaf); subleaf < count; subleaf++)
            if (!add(begin, leaf, subleaf))
                return false;
    for (uint32_t leaf = 0x80000000; leaf <= last_extended; leaf++)
        if (!add(begin, leaf, 0))
            return false;
    return true;
}

void move_cpuid_use(const struct move_begin *begin) {
    memcpy(kept, begin->cpuid, sizeof kept);
    cpuid_kept = begin->cpuids;
}

static const struct move_cpuid *find(const struct move_cpuid *table, uint32_t count, uint32_t leaf, uint32_t subleaf) {
    for (uint32_t i = 0; i < count; i++)
        if (table[i].leaf == leaf && table[i].subleaf == subleaf)
            return &table[i];
    return NULL;
}

static bool has_subleafs(uint32_t leaf) {
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x1f;
}

struct cpuid cpuid_of_kept(uint32_t leaf, uint32_t subleaf, struct cpuid here) {
    const struct move_cpuid *there = find(kept, cpuid_kept, leaf, has_subleafs(leaf) ? subleaf : 0);

    if (!there)
        return (struct cpuid){0};
    if (leaf == 0xd && subleaf < 2) /* the size of what is enabled now */
        return (struct cpuid){there->eax, here.ebx, there->ecx, there->edx};
    return (struct cpuid){there->eax, there->ebx, there->ecx, there->edx};
}

/* -- what is missing ---------------------------------------------------------------------------------------------- */

struct missing {
    char *text;
    uint32_t room, count;
};

static void miss(struct missing *missing, const char *name) {
    print("nvmx: move: missing here: %s\n", name);
    if (missing->count++)
        move_append(missing->text, missing->room, ", ");
    move_append(missing->text, missing->room, name);
}

/* Feature words: each bit says that something is there. */
static const struct {
    uint32_t leaf, subleaf;
    const char *name;
    uint32_t eax, ebx, ecx, edx; /* bits that count */
} feature_words[] = {
    {1, 0, "CPUID.1", 0, 0, ~(1u << 5 | 1u << 6 | 1u << 27 | 1u << 31), ~0u}, /* VMX is the capabilities', SMX hidden, OSXSAVE CR4's */
    {7, 0, "CPUID.7.0", 0, ~(1u << 25), ~(1u << 4), ~0u},
    {7, 1, "CPUID.7.1", ~0u, 0, 0, 0},
    {0xd, 0, "CPUID.D.0", ~0u, 0, 0, ~0u},
    {0xd, 1, "CPUID.D.1", ~0u, 0, ~0u, ~0u},
    {0x80000001, 0, "CPUID.80000001H", 0, 0, ~0u, ~0u},
};

static void miss_bits(struct missing *missing, const char *word, const char *reg, uint32_t bits) {
    for (uint32_t bit = 0; bit < 32; bit++) {
        char name[64] = "";

        if (!(bits >> bit & 1))
            continue;
        move_append(name, sizeof name, word);
        move_append(name, sizeof name, reg);
        move_append_number(name, sizeof name, bit, 10);
        move_append(name, sizeof name, "]");
        miss(missing, name);
    }
}

static void miss_features(struct missing *missing, const struct move_begin *begin) {
    for (uint32_t i = 0; i < sizeof feature_words / sizeof feature_words[0]; i++) {
        const struct move_cpuid *there =
            find(begin->cpuid, begin->cpuids, feature_words[i].leaf, feature_words[i].subleaf);
        struct cpuid here = {0};

        if (!there)
            continue;
        if (feature_words[i].leaf <= cpuid(feature_words[i].leaf & 0x80000000, 0).eax)
            here = cpuid(feature_words[i].leaf, feature_words[i].subleaf);
        miss_bits(missing, feature_words[i].name, ":EAX[", there->eax & ~here.eax & feature_words[i].eax);
        miss_bits(missing, feature_words[i].name, ":EBX[", there->ebx & ~here.ebx & feature_words[i].ebx);
        miss_bits(missing, feature_words[i].name, ":ECX[", there->ecx & ~here.ecx & feature_words[i].ecx);
        miss_bits(missing, feature_words[i].name, ":EDX[", there->edx & ~here.edx & feature_words[i].edx);
    }
}

/* The places of the parts of an XSAVE area are the processor's. */
static void miss_xsave(struct missing *missing, const struct move_begin *begin) {
    for (uint32_t part = 2; part < 20; part++) {
        const struct move_cpuid *there = find(begin->cpuid, begin->cpuids, 0xd, part);
        struct cpuid here = cpuid(0, 0).eax >= 0xd ? cpuid(0xd, part) : (struct cpuid){0};
        char name[64] = "the XSAVE area's part ";

        if (!there || !there->eax || (there->eax == here.eax && there->ebx == here.ebx))
            continue;
        move_append_number(name, sizeof name, part, 10);
        miss(missing, name);
    }
}

/* Rows of VMX capabilities: those that the SDM names; then what no row tells. */
static void miss_vmx(struct missing *missing, const struct nvmx_caps *wanted, const struct nvmx_caps *possible) {
    uint32_t before = missing->count, msr = 0;
    const struct nvmx_cap_bit *bit;

    for (size_t row = 0; (bit = nvmx_cap_bit(row)); row++) {
        uint32_t at = bit->msr - NVMX_MSR_VMX_FIRST;

        if (bit->width == 1 && at < NVMX_CAP_MSRS && wanted->msr[at] >> bit->bit & ~possible->msr[at] >> bit->bit & 1)
            miss(missing, bit->name);
    }
    if (missing->count == before && nvmx_caps_check_subset(wanted, possible, &msr) != NVMX_OK) {
        char name[64] = "VMX capabilities, MSR ";

        move_append_number(name, sizeof name, msr, 16);
        miss(missing, msr ? name : "VMX capabilities: address width or facts of the CPU");
    }
}

uint32_t move_missing(const struct move_begin *begin, const struct nvmx_caps *possible, char *text, uint32_t room) {
    struct missing missing = {.text = text, .room = room};

    miss_features(&missing, begin);
    miss_xsave(&missing, begin);
    if (begin->exposed)
        miss_vmx(&missing, &begin->caps, possible);
    return missing.count;
}
