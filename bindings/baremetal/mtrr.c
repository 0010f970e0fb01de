/* SPDX-License-Identifier: MIT */
/* Memory types from the MTRRs (SDM 13.11), which ept01 must repeat: under EPT the processor does not look at the MTRRs.
 */
#include "console.h"
#include "memory.h"
#include "x86.h"

#define VARIABLE_MAX 32
#define FIXED_END    (1 * MIB)
#define TYPE_UC      0u
#define TYPE_WT      4u
#define TYPE_WB      6u

static struct {
    bool enabled, fixed_enabled;
    uint32_t default_type;
    uint32_t count;
    struct {
        uint64_t base, mask;
        uint32_t type;
    } variable[VARIABLE_MAX];
    uint64_t fixed[11]; /* 64K, 2 of 16K, 8 of 4K; 8 types each */
} mtrr;

void mtrr_init(void) {
    uint64_t capabilities, default_type;
    uint32_t width = cpuid(0x80000000, 0).eax >= 0x80000008 ? cpuid(0x80000008, 0).eax & 0xff : 36;
    uint64_t address_mask = ((1ull << width) - 1) & ~(PAGE_BYTES - 1);

    if (!(cpuid(1, 0).edx & 1u << 12))
        panic("this CPU has no MTRRs");
    capabilities = rdmsr(MSR_MTRRCAP);
    default_type = rdmsr(MSR_MTRR_DEF_TYPE);
    mtrr.enabled = default_type & 1u << 11;
    mtrr.fixed_enabled = (default_type & 1u << 10) && (capabilities & 1u << 8);
    mtrr.default_type = default_type & 0xff;
    for (uint32_t i = 0; i < (capabilities & 0xff) && mtrr.count < VARIABLE_MAX; i++) {
        uint64_t base = rdmsr(MSR_MTRR_PHYSBASE0 + 2 * i);
        uint64_t mask = rdmsr(MSR_MTRR_PHYSBASE0 + 2 * i + 1);

        if (!(mask & 1u << 11))
            continue;
        mtrr.variable[mtrr.count].base = base & address_mask;
        mtrr.variable[mtrr.count].mask = mask & address_mask;
        mtrr.variable[mtrr.count++].type = base & 0xff;
    }
    if (!mtrr.fixed_enabled)
        return;
    mtrr.fixed[0] = rdmsr(MSR_MTRR_FIX64K);
    for (uint32_t i = 0; i < 2; i++)
        mtrr.fixed[1 + i] = rdmsr(MSR_MTRR_FIX16K + i);
    for (uint32_t i = 0; i < 8; i++)
        mtrr.fixed[3 + i] = rdmsr(MSR_MTRR_FIX4K + i);
}

static uint32_t fixed_type(uint64_t hpa) {
    uint64_t index;

    if (hpa < 0x80000)
        index = hpa >> 16;
    else if (hpa < 0xc0000)
        index = 8 + ((hpa - 0x80000) >> 14);
    else
        index = 24 + ((hpa - 0xc0000) >> 12);
    return mtrr.fixed[index / 8] >> (index % 8 * 8) & 0xff;
}

static uint32_t combine(uint32_t a, uint32_t b) {
    if (a == MTRR_MIXED || a == b)
        return b;
    if ((a == TYPE_WT && b == TYPE_WB) || (a == TYPE_WB && b == TYPE_WT))
        return TYPE_WT;
    return TYPE_UC;
}

uint32_t mtrr_type(uint64_t hpa, uint32_t shift) {
    uint64_t inside = (1ull << shift) - 1;
    uint32_t type = MTRR_MIXED;

    if (!mtrr.enabled)
        return TYPE_UC;
    if (mtrr.fixed_enabled && hpa < FIXED_END)
        return shift == 12 ? fixed_type(hpa) : MTRR_MIXED;
    for (uint32_t i = 0; i < mtrr.count; i++) {
        uint64_t mask = mtrr.variable[i].mask, base = mtrr.variable[i].base;

        if ((hpa ^ base) & mask & ~inside)
            continue; /* no byte of the page matches */
        if (mask & inside)
            return MTRR_MIXED; /* some do, some don't */
        type = combine(type, mtrr.variable[i].type);
    }
    return type == MTRR_MIXED ? mtrr.default_type : type;
}
