/* SPDX-License-Identifier: MIT */
/*
 * The columns of the tables a second time, written from the SDM by what they say, where the tables are written row by row. What is not listed has the default
 * that a comment names.
 */
#include "exits/exits.h"
#include "machine.h"
#include "msr/caps_internal.h"

/* Fields from `first` to `last`, every second encoding. */
struct range {
    uint16_t first, last;
    uint8_t value;
};

static uint8_t listed(const struct range *ranges, size_t count, uint32_t encoding, uint8_t otherwise) {
    for (size_t i = 0; i < count; i++)
        if (encoding >= ranges[i].first && encoding <= ranges[i].last)
            return ranges[i].value;
    return otherwise;
}

/* -- VMCS fields ----------------------------------------------------------------------------------------------------------------------------- */

/* The sections of SDM 29.2 and 29.3 whose rules name a field; UNCHECKED: none does. */
static const struct range groups[] = {
    /* 29.2.1.1: VPID, notification vector, HLAT, IPIs, the virtual timer; what lies in memory; the controls and their counts */
    {0x0000, 0x0002, NVMX_GROUP_CONTROL},
    {0x0006, 0x000a, NVMX_GROUP_CONTROL},
    {0x2000, 0x200a, NVMX_GROUP_CONTROL},
    {0x200e, 0x200e, NVMX_GROUP_CONTROL},
    {0x2012, 0x201a, NVMX_GROUP_CONTROL},
    {0x2024, 0x202a, NVMX_GROUP_CONTROL},
    {0x2030, 0x2034, NVMX_GROUP_CONTROL},
    {0x2038, 0x203c, NVMX_GROUP_CONTROL},
    {0x2040, 0x2044, NVMX_GROUP_CONTROL},
    {0x4000, 0x4002, NVMX_GROUP_CONTROL},
    {0x400a, 0x4014, NVMX_GROUP_CONTROL},
    {0x401c, 0x401e, NVMX_GROUP_CONTROL},
    {0x4026, 0x4026, NVMX_GROUP_CONTROL},
    /* 29.2.1.3 */
    {0x2052, 0x2052, NVMX_GROUP_EVENT},
    {0x4016, 0x401a, NVMX_GROUP_EVENT},
    /* 29.2.2 to 29.2.4: all but IA32_SYSENTER_CS and RSP */
    {0x0c00, 0x0c0c, NVMX_GROUP_HOST},
    {0x2c00, 0x2c1a, NVMX_GROUP_HOST},
    {0x6c00, 0x6c12, NVMX_GROUP_HOST},
    {0x6c16, 0x6c1c, NVMX_GROUP_HOST},
    /* 29.3.1.1, and the PDPTEs of 29.3.1.6 */
    {0x0814, 0x0814, NVMX_GROUP_REGISTER},
    {0x2802, 0x282e, NVMX_GROUP_REGISTER},
    {0x6800, 0x6804, NVMX_GROUP_REGISTER},
    {0x681a, 0x681a, NVMX_GROUP_REGISTER},
    {0x6824, 0x682c, NVMX_GROUP_REGISTER},
    /* 29.3.1.2, 29.3.1.3 */
    {0x0800, 0x080e, NVMX_GROUP_SEGMENT},
    {0x4800, 0x4822, NVMX_GROUP_SEGMENT},
    {0x6806, 0x6818, NVMX_GROUP_SEGMENT},
    /* 29.3.1.4, 29.3.1.5: link pointer, interruptibility and activity, RIP, RFLAGS, pending debug exceptions */
    {0x2800, 0x2800, NVMX_GROUP_NONREGISTER},
    {0x4824, 0x4826, NVMX_GROUP_NONREGISTER},
    {0x681e, 0x6822, NVMX_GROUP_NONREGISTER},
};

/* What of L2's state, beside what every entry loads as it is, and of the controls is not made from vmcs12 and vmcs01. */
static const struct range merges[] = {
    {0x200c, 0x200c, NVMX_MERGE_NEVER}, /* the executive-VMCS pointer: SMM is the host's */
    /* loaded by VM-entry controls (SDM 27.8.1) */
    {0x0814, 0x0814, NVMX_MERGE_GATED},
    {0x2802, 0x2808, NVMX_MERGE_GATED},
    {0x2812, 0x282e, NVMX_MERGE_GATED},
    {0x681a, 0x681a, NVMX_MERGE_GATED},
    {0x6828, 0x682c, NVMX_MERGE_GATED},
    /* CR0 and CR4 */
    {0x6800, 0x6800, NVMX_MERGE_MERGED},
    {0x6804, 0x6804, NVMX_MERGE_MERGED},
    /* PML index, link pointer, virtual deadline, SMBASE */
    {0x0812, 0x0812, NVMX_MERGE_NEVER},
    {0x2800, 0x2800, NVMX_MERGE_NEVER},
    {0x2830, 0x2830, NVMX_MERGE_NEVER},
    {0x4828, 0x4828, NVMX_MERGE_NEVER},
};

/* What hypervisors read and write from one exit to the next; NO: what they don't. */
static const struct range shadows[] = {
    {0x0812, 0x0812, NVMX_SHADOW_RW}, /* PML index */
    {0x4002, 0x4002, NVMX_SHADOW_RW}, /* windows */
    {0x4016, 0x401a, NVMX_SHADOW_RW}, /* injection */
    {0x4824, 0x4824, NVMX_SHADOW_RW}, /* interruptibility */
    {0x482e, 0x482e, NVMX_SHADOW_RW}, /* preemption timer */
    {0x681c, 0x6820, NVMX_SHADOW_RW}, /* RSP, RIP, RFLAGS */
    {0x2400, 0x2400, NVMX_SHADOW_RO}, /* exit information */
    {0x4402, 0x440e, NVMX_SHADOW_RO},
    {0x6400, 0x6400, NVMX_SHADOW_RO},
    {0x640a, 0x640a, NVMX_SHADOW_RO},
    {0x4816, 0x4818, NVMX_SHADOW_RO}, /* the mode: CS and SS access rights, CR0, CR4 */
    {0x6800, 0x6800, NVMX_SHADOW_RO},
    {0x6804, 0x6804, NVMX_SHADOW_RO},
};

/* Bits 11:10 of an encoding (SDM 27.11.2): controls are merged, guest state is copied, exit information and L1's own state never get there. */
static uint8_t merge_of_kind(uint32_t encoding) {
    static const uint8_t kinds[] = {NVMX_MERGE_MERGED, NVMX_MERGE_NEVER, NVMX_MERGE_COPY, NVMX_MERGE_NEVER};
    return kinds[encoding >> 10 & 3];
}

Test(tables, columns_of_the_fields) {
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);

        cr_expect_eq(info->group, listed(groups, COUNT(groups), info->encoding, NVMX_GROUP_UNCHECKED), "%s", info->name);
        cr_expect_eq(info->merge, listed(merges, COUNT(merges), info->encoding, merge_of_kind(info->encoding)), "%s", info->name);
        cr_expect_eq(info->shadow, listed(shadows, COUNT(shadows), info->encoding, NVMX_SHADOW_NO), "%s", info->name);
    }
}

/* -- exits ----------------------------------------------------------------------------------------------------------------------------------- */

/* The control bit that an exit depends on (SDM 28.1, 28.2): pin-based, primary, secondary or tertiary controls, or IA32_VMX_EPT_VPID_CAP. 0: bit 0, or no such
 * bit alone. */
static const uint8_t bits[NVMX_EXIT_REASONS] = {
    [7] = 2,   /* interrupt-window exiting */
    [8] = 22,  /* NMI-window exiting */
    [12] = 7,  /* HLT exiting */
    [14] = 9,  /* INVLPG exiting */
    [15] = 11, /* RDPMC exiting */
    [16] = 12, /* RDTSC exiting */
    [29] = 23, /* MOV-DR exiting */
    [36] = 10, /* MWAIT exiting */
    [39] = 29, /* MONITOR exiting */
    [43] = 21, /* use TPR shadow */
    [46] = 2,  /* descriptor-table exiting */
    [47] = 2,
    [50] = 20, /* INVEPT */
    [51] = 12, /* RDTSC exiting */
    [52] = 6,  /* activate VMX-preemption timer */
    [53] = 32, /* INVVPID */
    [54] = 6,  /* WBINVD exiting */
    [57] = 11, /* RDRAND exiting */
    [58] = 9,  /* INVLPG exiting */
    [60] = 15, /* enable ENCLS exiting */
    [61] = 16, /* RDSEED exiting */
    [62] = 17, /* enable PML */
    [65] = 27, /* enable PCONFIG */
    [67] = 12, /* RDTSC exiting */
    [68] = 12,
    [70] = 28, /* enable ENCLV exiting */
    [74] = 30, /* VMM bus-lock detection */
};

Test(tables, bits_of_the_exits) {
    for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++)
        cr_expect_eq(exit_row(reason)->bit, bits[reason], "%s", nvmx_exit_name(reason));
}

Test(tables, every_reason_has_a_name) {
    for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++)
        cr_expect(nvmx_exit_name(reason) != NULL && strlen(nvmx_exit_name(reason)) > 2, "reason %u", reason);
}

/* -- capability MSRs ------------------------------------------------------------------------------------------------------------------------- */

/* By which bits an MSR exists (SDM A.1 to A.11); each alone is enough. Those that aren't here exist wherever VMX does. */
static const struct {
    uint16_t msr, by, bit;
} existence[] = {
    {0x48b, 0x482, 63}, {0x48c, 0x48b, 33}, {0x48c, 0x48b, 37}, {0x48d, 0x480, 55}, {0x48e, 0x480, 55}, {0x48f, 0x480, 55},
    {0x490, 0x480, 55}, {0x491, 0x48b, 45}, {0x492, 0x482, 49}, {0x493, 0x483, 63},
};

static bool exists_by(uint32_t msr, uint32_t by, unsigned int bit) {
    bool conditional = false, met = false;

    for (size_t i = 0; i < COUNT(existence); i++) {
        conditional = conditional || existence[i].msr == msr;
        met = met || (existence[i].msr == msr && existence[i].by == by && existence[i].bit == bit);
    }
    return !conditional || met;
}

Test(tables, capability_msrs_exist_by_one_bit_alone) {
    for (unsigned int by = 0; by < NVMX_CAP_MSRS; by++)
        for (unsigned int bit = 0; bit < 64; bit++) {
            struct nvmx_caps caps = {0};

            caps.msr[by] = UINT64_C(1) << bit;
            for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++)
                cr_expect_eq(caps_msr_exists(&caps, place), exists_by(NVMX_MSR_VMX_FIRST + place, NVMX_MSR_VMX_FIRST + by, bit),
                             "%x by bit %u of %x", NVMX_MSR_VMX_FIRST + place, bit, NVMX_MSR_VMX_FIRST + by);
        }
}

/* -- what controls switch ---------------------------------------------------------------------------------------------------------------------- */

/* SDM 27.7.1, 27.7.2, 27.8.1, and the chapters of each: guest field, host field (0: the exit clears it, or L1 has no part in it), "load" on entry, "save" and
 * "load" or "clear" on exit (32 + n: of the secondary controls; 255: none, and saved by every exit), MSR. */
static const struct {
    uint16_t guest, host;
    uint8_t entry_load, exit_save, exit_load;
    uint32_t msr;
} switched[] = {
    {0x2802, 0, 2, 2, 255, 0x1d9},           {0x681a, 0, 2, 2, 255, 0},
    {0x2804, 0x2c00, 14, 18, 19, 0x277},     {0x2806, 0x2c02, 15, 20, 21, 0xc0000080},
    {0x2808, 0x2c04, 13, 30, 12, 0x38f},     {0x2812, 0, 16, 255, 23, 0xd90},
    {0x2816, 0, 21, 255, 26, 0x14ce},        {0x2818, 0x2c06, 22, 255, 29, 0x6e1},
    {0x0814, 0, 19, 255, 27, 0},             {0x6828, 0x6c18, 20, 255, 28, 0},
    {0x682a, 0x6c1a, 20, 255, 28, 0},        {0x682c, 0x6c1c, 20, 255, 28, 0},
    {0x282e, 0x2c1a, 24, 255, 32 + 2, 0x48}, {0x2814, 0, 18, 255, 255, 0x570},
    {0x281a, 0, 23, 255, 255, 0x1d4},        {0x281c, 0, 23, 255, 255, 0x1cd},
    {0x281e, 0, 23, 255, 255, 0x1ce},        {0x2820, 0, 23, 255, 255, 0x1cf},
    {0x2822, 0, 23, 255, 255, 0x1d0},        {0x2824, 0, 23, 255, 255, 0x1d1},
    {0x2826, 0, 23, 255, 255, 0x1d2},        {0x2828, 0, 23, 255, 255, 0x1d3},
};

Test(tables, what_controls_switch) {
    cr_assert_eq(COUNT(switched), GATE_COUNT);
    for (size_t i = 0; i < GATE_COUNT; i++) {
        uint32_t host = switched[i].host != 0 ? switched[i].host : switched[i].guest;

        cr_expect_eq(nvmx_field_info(gates[i].guest)->encoding, switched[i].guest, "%zu", i);
        cr_expect_eq(nvmx_field_info(gates[i].host)->encoding, host, "%zu", i);
        cr_expect_eq(gates[i].entry_load, switched[i].entry_load, "%zu", i);
        cr_expect_eq(gates[i].exit_save, switched[i].exit_save, "%zu", i);
        cr_expect_eq(gates[i].exit_load, switched[i].exit_load, "%zu", i);
        cr_expect_eq(gates[i].msr, switched[i].msr, "%zu", i);
    }
}
