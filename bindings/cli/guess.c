/* SPDX-License-Identifier: MIT */
/* Values in the place of what a dump does not say, and running the library's checks on them. */
#include <string.h>

#include "decide.h"

static uint64_t usual_control(const struct nvmx_caps *caps, enum nvmx_cap which, uint32_t more) {
    return nvmx_caps_must_be_1(caps, which) | (more & nvmx_caps_may_be_1(caps, which));
}

static const struct {
    uint8_t slot;
    uint64_t value;
} usual[] = {
    {NVMX_F_GUEST_CR0, 0x80010033},
    {NVMX_F_GUEST_CR4, 0x2020},
    {NVMX_F_GUEST_EFER, 0xd01},
    {NVMX_F_GUEST_PAT, 0x0007040600070406},
    {NVMX_F_GUEST_DR7, 0x400},
    {NVMX_F_GUEST_RFLAGS, 2},
    {NVMX_F_GUEST_CS_SELECTOR, 0x10},
    {NVMX_F_GUEST_SS_SELECTOR, 0x18},
    {NVMX_F_GUEST_TR_SELECTOR, 0x40},
    {NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xa09b},
    {NVMX_F_GUEST_SS_ACCESS_RIGHTS, 0xc093},
    {NVMX_F_GUEST_DS_ACCESS_RIGHTS, 0x1c000},
    {NVMX_F_GUEST_ES_ACCESS_RIGHTS, 0x1c000},
    {NVMX_F_GUEST_FS_ACCESS_RIGHTS, 0x1c000},
    {NVMX_F_GUEST_GS_ACCESS_RIGHTS, 0x1c000},
    {NVMX_F_GUEST_LDTR_ACCESS_RIGHTS, 0x1c000},
    {NVMX_F_GUEST_TR_ACCESS_RIGHTS, 0x8b},
    {NVMX_F_GUEST_CS_LIMIT, 0xffffffff},
    {NVMX_F_GUEST_SS_LIMIT, 0xffffffff},
    {NVMX_F_GUEST_TR_LIMIT, 0x67},
    {NVMX_F_GUEST_GDTR_LIMIT, 0x7f},
    {NVMX_F_GUEST_IDTR_LIMIT, 0xfff},
    {NVMX_F_VMCS_LINK_POINTER, NVMX_NO_ADDRESS},
    {NVMX_F_HOST_CR0, 0x80050033},
    {NVMX_F_HOST_CR4, 0x2020},
    {NVMX_F_HOST_EFER, 0xd01},
    {NVMX_F_HOST_PAT, 0x0007040600070406},
    {NVMX_F_HOST_CS_SELECTOR, 0x10},
    {NVMX_F_HOST_SS_SELECTOR, 0x18},
    {NVMX_F_HOST_TR_SELECTOR, 0x40},
    {NVMX_F_VPID, 1},
    {NVMX_F_EPT_POINTER, 0x1000 | 3 << 3 | 6},
    {NVMX_F_TSC_MULTIPLIER, 1},
};

uint64_t usual_value(unsigned int slot, const struct nvmx_caps *caps) {
    switch (slot) {
    case NVMX_F_PIN_BASED_CONTROLS:
        return usual_control(caps, NVMX_CAP_PINBASED, 1u << 0 | 1u << 3);
    case NVMX_F_PRIMARY_CONTROLS:
        return usual_control(caps, NVMX_CAP_PROCBASED, 1u << 7);
    case NVMX_F_VM_EXIT_CONTROLS:
        return usual_control(caps, NVMX_CAP_EXIT, 1u << 9);
    case NVMX_F_VM_ENTRY_CONTROLS:
        return usual_control(caps, NVMX_CAP_ENTRY, 1u << 9 | 1u << 15);
    default:
        break;
    }
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++)
        if (usual[i].slot == slot)
            return usual[i].value;
    return 0;
}

static uint64_t usual_fact(enum dump_fact fact, const struct nvmx_caps *caps) {
    if (fact == FACT_LONG_MODE)
        return (caps->cpu & NVMX_CPU_LONG_MODE) != 0;
    return fact == FACT_LINK_REVISION ? caps->msr[NVMX_CAP_BASIC] & 0x7fffffff : 0;
}

void guess_init(struct guess *guess, const struct subject *subject, enum guess_kind kind) {
    memcpy(guess->field, subject->field, sizeof guess->field);
    memcpy(guess->fact, subject->fact, sizeof guess->fact);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (nvmx_set_has(&subject->exists, slot) && !nvmx_set_has(&subject->known, slot))
            guess->field[slot] = kind == GUESS_ONES    ? nvmx_field_mask(slot)
                                 : kind == GUESS_USUAL ? usual_value(slot, &subject->caps)
                                                       : 0;
    for (unsigned int fact = 0; fact < DUMP_FACTS; fact++)
        if (!subject->fact_known[fact])
            guess->fact[fact] = kind == GUESS_ONES    ? UINT64_MAX
                                : kind == GUESS_USUAL ? usual_fact(fact, &subject->caps)
                                                      : 0;
}

size_t guess_failures(const struct guess *guess, const struct subject *subject,
                      struct nvmx_check_failure out[NVMX_CHECK_COUNT]) {
    struct nvmx_check_input in = {
        .field = guess->field,
        .caps = &subject->caps,
        .current_vmcs = guess->fact[FACT_CURRENT_VMCS],
        .vmxon_pointer = NVMX_NO_ADDRESS,
        .link_revision = (uint32_t)guess->fact[FACT_LINK_REVISION],
        .link_readable = true,
        .l1_long_mode = guess->fact[FACT_LONG_MODE] != 0,
        .vtpr = (uint8_t)guess->fact[FACT_VTPR],
        .pdpte_readable = true,
    };

    memcpy(in.pdpte, &guess->fact[FACT_PDPTE0], sizeof in.pdpte);
    return nvmx_check_report(&in, out, NVMX_CHECK_COUNT);
}
