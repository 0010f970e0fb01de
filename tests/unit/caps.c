/* SPDX-License-Identifier: MIT */
/* L1's view of the VMX capabilities: every row of the table, the dependencies, and the questions that capabilities
 * answer. */
#include <criterion/criterion.h>
#include <string.h>

#include <nvmx/caps.h>
#include <nvmx/vmcs.h>

#define MSR(caps, index) ((caps)->msr[(index)-NVMX_MSR_VMX_FIRST])
#define REVISION         UINT64_C(0x4e560001)

/* A Skylake server as Linux sees it. */
static struct nvmx_caps skylake(void) {
    return (struct nvmx_caps){
        .msr =
            {
                [NVMX_CAP_BASIC] = UINT64_C(0x00d8100000000004),
                [NVMX_CAP_PINBASED] = UINT64_C(0x0000007f00000016),
                [NVMX_CAP_PROCBASED] = UINT64_C(0xfff9fffe0401e172),
                [NVMX_CAP_EXIT] = UINT64_C(0x007fffff00036dff),
                [NVMX_CAP_ENTRY] = UINT64_C(0x0000ffff000011ff),
                [NVMX_CAP_MISC] = UINT64_C(0x00000000600401e5),
                [NVMX_CAP_CR0_FIXED0] = UINT64_C(0x80000021),
                [NVMX_CAP_CR0_FIXED1] = UINT64_C(0xffffffff),
                [NVMX_CAP_CR4_FIXED0] = UINT64_C(0x2000),
                [NVMX_CAP_CR4_FIXED1] = UINT64_C(0x3767ff),
                [NVMX_CAP_VMCS_ENUM] = UINT64_C(0x34),
                [NVMX_CAP_PROCBASED2] = UINT64_C(0x02177fff00000000),
                [NVMX_CAP_EPT_VPID] = UINT64_C(0x00000f0106734141),
                [NVMX_CAP_TRUE_PINBASED] = UINT64_C(0x0000007f00000016),
                [NVMX_CAP_TRUE_PROCBASED] = UINT64_C(0xfff9fffe04006172),
                [NVMX_CAP_TRUE_EXIT] = UINT64_C(0x007fffff00036dfb),
                [NVMX_CAP_TRUE_ENTRY] = UINT64_C(0x0000ffff000011fb),
                [NVMX_CAP_VMFUNC] = 1,
            },
        .feature_control = 0x100005,
        .debugctl_valid = 3,
        .physical_address_bits = 46,
        .cpu = NVMX_CPU_LONG_MODE | NVMX_CPU_NX | NVMX_CPU_SYSCALL,
    };
}

static uint64_t row_mask(const struct nvmx_cap_bit *bit) {
    return (bit->width == 64 ? UINT64_MAX : (UINT64_C(1) << bit->width) - 1) << bit->bit;
}

/* All defined bits of all MSRs are 1. */
static struct nvmx_caps everything(void) {
    struct nvmx_caps caps = skylake();

    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        MSR(&caps, nvmx_cap_bit(row)->msr) |= row_mask(nvmx_cap_bit(row));
    }
    return caps;
}

static struct nvmx_caps l1_of(const struct nvmx_caps *machine, const struct nvmx_caps *mask) {
    struct nvmx_caps l1;

    memset(&l1, 0xa5, sizeof(l1));
    cr_assert_eq(nvmx_caps_for_l1(machine, mask, &l1), NVMX_OK);
    return l1;
}

static bool is_default1(uint32_t msr, unsigned int bit) {
    static const uint32_t class[] = {[1] = 0x16, [2] = 0x0401e172, [3] = 0x00036dff, [4] = 0x000011ff};

    return msr >= 0x481 && msr <= 0x484 && bit >= 32 && ((class[msr - 0x480] >> (bit - 32)) & 1) != 0;
}

/* Values that the library sets, or copies, whatever the host masks. */
static bool is_fixed(const struct nvmx_cap_bit *bit) {
    return (bit->msr == 0x480 && bit->bit != 56) || bit->msr == 0x48a || (bit->msr == 0x485 && bit->bit == 0) ||
           is_default1(bit->msr, bit->bit);
}

static size_t row_of(uint32_t msr, unsigned int bit) {
    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        if (nvmx_cap_bit(row)->msr == msr && nvmx_cap_bit(row)->bit == bit) {
            return row;
        }
    }
    cr_assert_fail("no row for MSR %x bit %u", msr, bit);
    return 0;
}

Test(caps, table_is_sorted_and_complete_in_itself) {
    uint32_t last = 0;
    size_t rows = 0;

    for (; nvmx_cap_bit(rows) != NULL; rows++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(rows);
        uint32_t place = (uint32_t)bit->msr * 64 + bit->bit;

        cr_assert(rows == 0 || place >= last, "row %zu is out of order or overlaps", rows);
        last = place + bit->width;
        cr_assert(bit->width >= 1 && bit->bit + bit->width <= 64);
        cr_assert(bit->name != NULL && bit->name[0] != 0);
        cr_assert_eq(bit->why == NULL, bit->emulated, "row %zu (%s): reason if and only if not emulated", rows,
                     bit->name);
    }
    cr_assert_eq(rows, 186);
    cr_assert_null(nvmx_cap_bit(SIZE_MAX));
}

/* SDM appendix A: the bits that it defines, MSR by MSR, and what the TDX module's headers and older revisions add. */
Test(caps, table_has_every_bit_that_is_defined) {
    static const struct {
        uint32_t msr;
        uint64_t bits;
    } defined[] = {
        {0x480, UINT64_C(0x05ff1fff7fffffff)}, {0x481, UINT64_C(0xff) << 32},         {0x482, UINT64_C(0xfffbfffe) << 32},
        {0x483, UINT64_C(0xffffffff) << 32},   {0x484, UINT64_C(0x03ffffff) << 32},
        {0x485, UINT64_C(0xffffffff7fffc1ff)}, {0x48a, 0x3fe},                        {0x48b, UINT64_C(0xffffffff) << 32},
        {0x48c, UINT64_C(0x003f0f0106f341c1)},                         {0x491, 1},
        {0x492, 0x13ff},                       {0x493, 0xf},
    };
    struct nvmx_caps bits = {0};

    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++)
        MSR(&bits, nvmx_cap_bit(row)->msr) |= row_mask(nvmx_cap_bit(row));
    for (size_t i = 0; i < sizeof(defined) / sizeof(defined[0]); i++) {
        cr_expect_eq(MSR(&bits, defined[i].msr), defined[i].bits, "%x: %lx", defined[i].msr, MSR(&bits, defined[i].msr));
        MSR(&bits, defined[i].msr) = 0;
    }
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++)
        cr_expect_eq(bits.msr[place], 0, "%x", 0x480 + place);
}

Test(caps, default1_classes_are_the_sdms) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    for (uint32_t msr = 0x481; msr <= 0x484; msr++) {
        for (unsigned int bit = 32; bit < 64; bit++) {
            cr_assert_eq((MSR(&l1, msr) >> (bit - 32)) & 1, is_default1(msr, bit), "MSR %x bit %u", msr, bit - 32);
        }
    }
}

Test(caps, skylake_gives_known_values) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps l1 = l1_of(&machine, NULL);
    static const struct {
        uint32_t msr;
        uint64_t value;
    } want[] = {
        {0x480, UINT64_C(0x00d8100000000000) | REVISION},
        {0x481, UINT64_C(0x0000007f00000016)},
        {0x482, UINT64_C(0xfff9fffe0401e172)},
        {0x483, UINT64_C(0x007fffff00036dff)},
        {0x484, UINT64_C(0x0000f3ff000011ff)},
        {0x485, UINT64_C(0x00000000600401e5)},
        {0x486, UINT64_C(0x80000021)},
        {0x487, UINT64_C(0xffffffff)},
        {0x488, UINT64_C(0x2000)},
        {0x489, UINT64_C(0x3767ff)},
        {0x48a, UINT64_C(0x32)},
        {0x48b, UINT64_C(0x02177fff00000000)},
        {0x48d, UINT64_C(0x0000007f00000016)},
        {0x48e, UINT64_C(0xfff9fffe04006172)},
        {0x48f, UINT64_C(0x007fffff00036dfb)},
        {0x490, UINT64_C(0x0000f3ff000011fb)},
        {0x491, 1},
        {0x492, 0},
        {0x493, 0},
    };

    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        cr_assert_eq(MSR(&l1, want[i].msr), want[i].value, "MSR %x is %lx", want[i].msr, MSR(&l1, want[i].msr));
    }
    /* Bit 21 follows the row for accessed and dirty flags. */
    uint64_t flags = nvmx_cap_bit(row_of(0x48c, 21))->emulated ? UINT64_C(1) << 21 : 0;
    cr_assert_eq(MSR(&l1, 0x48c), UINT64_C(0x00000f0106534141) | flags);
    cr_assert_eq(l1.feature_control, 5);
    cr_assert_eq(l1.physical_address_bits, 46);
    cr_assert_eq(l1.debugctl_valid, 3);
    cr_assert_eq(l1.cpu, machine.cpu);
}

Test(caps, row_is_offered_if_and_only_if_emulated) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        bool has = (MSR(&l1, bit->msr) & row_mask(bit)) != 0;

        cr_assert_eq(has, bit->emulated, "%s", bit->name);
        cr_assert_eq(nvmx_cap_bit_reason(row, &machine, NULL, &l1),
                     bit->emulated ? NVMX_CAP_OFFERED : NVMX_CAP_NOT_EMULATED, "%s", bit->name);
    }
    cr_assert_eq(nvmx_cap_bit_reason(9999, &machine, NULL, &l1), NVMX_CAP_NOT_ON_CPU);
}

Test(caps, row_is_absent_without_the_machines) {
    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        struct nvmx_caps machine = everything();
        struct nvmx_caps l1;
        enum nvmx_cap_reason reason;

        if (is_fixed(bit) && !(bit->msr == 0x480 && bit->width == 1)) {
            continue;
        }
        MSR(&machine, bit->msr) &= ~row_mask(bit);
        l1 = l1_of(&machine, NULL);
        reason = nvmx_cap_bit_reason(row, &machine, NULL, &l1);
        cr_assert_eq(MSR(&l1, bit->msr) & row_mask(bit), 0, "%s", bit->name);
        cr_assert_eq(reason, NVMX_CAP_NOT_ON_CPU, "%s", bit->name);
    }
}

Test(caps, row_is_absent_if_the_host_masks_it) {
    struct nvmx_caps machine = everything();

    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        struct nvmx_caps mask = everything();
        struct nvmx_caps all = l1_of(&machine, NULL);
        struct nvmx_caps l1;

        MSR(&mask, bit->msr) &= ~row_mask(bit);
        l1 = l1_of(&machine, &mask);
        if (is_fixed(bit)) {
            cr_assert_eq(memcmp(&l1, &all, sizeof(l1)), 0, "%s can't be masked", bit->name);
        } else {
            cr_assert_eq(MSR(&l1, bit->msr) & row_mask(bit), 0, "%s", bit->name);
            cr_assert_eq(nvmx_cap_bit_reason(row, &machine, &mask, &l1),
                         bit->emulated ? NVMX_CAP_HOST_MASKED : NVMX_CAP_NOT_EMULATED, "%s", bit->name);
        }
    }
}

Test(caps, bits_without_a_row_are_never_shown) {
    struct nvmx_caps machine, all, l1;
    struct nvmx_caps known = everything();

    machine = known;
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        bool plain = place >= NVMX_CAP_PINBASED && place <= NVMX_CAP_ENTRY;
        bool fixed = place >= NVMX_CAP_CR0_FIXED0 && place <= NVMX_CAP_CR4_FIXED1;
        bool truth = place >= NVMX_CAP_TRUE_PINBASED && place <= NVMX_CAP_TRUE_ENTRY;
        machine.msr[place] |= plain ? UINT64_C(0xffffffff00000000) : fixed || truth ? 0 : UINT64_MAX;
    }
    l1 = l1_of(&machine, NULL);
    all = l1_of(&known, NULL);
    cr_assert_eq(memcmp(&l1, &all, sizeof(l1)), 0);
}

struct dependency {
    uint32_t msr;
    unsigned int bit;
    uint32_t needs_msr;
    unsigned int needs_bit;
};

/* All direct ones, written from SDM 29.2.1.1-29.2.1.3 and appendix A (but for the last), not from the table. */
static const struct dependency dependencies[] = {
    {0x481, 37, 0x481, 35}, /* virtual NMIs: NMI exiting */
    {0x481, 39, 0x48b, 41}, /* posted interrupts: virtual-interrupt delivery */
    {0x481, 39, 0x483, 47}, /* and acknowledging on exit */
    {0x482, 54, 0x481, 37}, /* NMI-window exiting: virtual NMIs */
    {0x483, 54, 0x481, 38}, /* save preemption timer: the timer */
    {0x48b, 36, 0x482, 53}, {0x48b, 40, 0x482, 53}, {0x48b, 41, 0x482, 53}, /* TPR shadow */
    {0x48b, 41, 0x481, 32},                         /* virtual-interrupt delivery: external-interrupt exiting */
    {0x48b, 39, 0x48b, 33},                         /* unrestricted guest: EPT */
    {0x48b, 39, 0x485, 5},                          /* and LMA stored at exits */
    {0x48b, 49, 0x48b, 33}, {0x48b, 49, 0x48c, 21}, /* PML: EPT with accessed and dirty flags */
    {0x48b, 50, 0x48b, 33}, {0x48b, 54, 0x48b, 33}, {0x48b, 55, 0x48b, 33}, /* #VE, mode-based execution, sub-pages: EPT */
    {0x48b, 33, 0x48c, 6},  {0x48b, 33, 0x48c, 14}, /* EPT: a structure that can be described */
    {0x48c, 0, 0x48b, 33},  {0x48c, 6, 0x48b, 33},  {0x48c, 7, 0x48b, 33},  {0x48c, 8, 0x48b, 33},  {0x48c, 14, 0x48b, 33},
    {0x48c, 16, 0x48b, 33}, {0x48c, 17, 0x48b, 33}, {0x48c, 20, 0x48b, 33}, {0x48c, 21, 0x48b, 33}, {0x48c, 22, 0x48b, 33},
    {0x48c, 23, 0x48b, 33}, {0x48c, 23, 0x48c, 22}, /* supervisor shadow stacks: told by advanced information */
    {0x48c, 25, 0x48c, 20}, {0x48c, 26, 0x48c, 20}, /* INVEPT types: INVEPT */
    {0x48c, 32, 0x48b, 37}, {0x48c, 40, 0x48c, 32}, {0x48c, 41, 0x48c, 32}, {0x48c, 42, 0x48c, 32}, {0x48c, 43, 0x48c, 32}, /* INVVPID: VPID */
    {0x491, 0, 0x48b, 33}, /* EPTP switching: EPT */
    /* Not the SDM's: what loads an MSR at entries, and what loads or clears it at exits. Linux's KVM does not start with one of the two. */
    {0x483, 44, 0x484, 45}, {0x484, 45, 0x483, 44}, /* IA32_PERF_GLOBAL_CTRL */
    {0x483, 51, 0x484, 46}, {0x484, 46, 0x483, 51}, /* IA32_PAT */
    {0x483, 53, 0x484, 47}, {0x484, 47, 0x483, 53}, /* IA32_EFER */
    {0x483, 55, 0x484, 48}, {0x484, 48, 0x483, 55}, /* IA32_BNDCFGS */
    {0x483, 58, 0x484, 53}, {0x484, 53, 0x483, 58}, /* IA32_LBR_CTL */
    {0x483, 59, 0x484, 51}, {0x484, 51, 0x483, 59}, /* UINV */
    {0x483, 60, 0x484, 52}, {0x484, 52, 0x483, 60}, /* CET state */
    {0x483, 61, 0x484, 54}, {0x484, 54, 0x483, 61}, /* PKRS */
    {0x493, 2, 0x484, 56},  {0x484, 56, 0x493, 2},  /* IA32_SPEC_CTRL */
};

/* And all bits of an MSR go with what activates it. */
static bool msr_stands(const struct nvmx_caps *l1, uint32_t msr) {
    const uint64_t secondary = MSR(l1, 0x48b);

    switch (msr) {
    case 0x48b:
        return (MSR(l1, 0x482) >> 63 & 1) != 0;
    case 0x48c:
        return (secondary >> 33 & 1) != 0 || (secondary >> 37 & 1) != 0;
    case 0x491:
        return (secondary >> 45 & 1) != 0;
    case 0x492:
        return (MSR(l1, 0x482) >> 49 & 1) != 0;
    case 0x493:
        return (MSR(l1, 0x483) >> 63 & 1) != 0;
    default:
        return true;
    }
}

/* What is left of `l1` when all that needs what is not there is gone. Numbers of several bits need nothing. */
static void take_away_dependent(struct nvmx_caps *l1) {
    for (bool again = true; again;) {
        struct nvmx_caps before = *l1;

        for (size_t i = 0; i < sizeof(dependencies) / sizeof(dependencies[0]); i++)
            if ((MSR(l1, dependencies[i].needs_msr) >> dependencies[i].needs_bit & 1) == 0)
                MSR(l1, dependencies[i].msr) &= ~(UINT64_C(1) << dependencies[i].bit);
        for (uint32_t msr = 0x48b; msr <= 0x493; msr = msr == 0x48c ? 0x491 : msr + 1)
            if (!msr_stands(l1, msr))
                MSR(l1, msr) = 0;
        again = memcmp(&before, l1, sizeof(before)) != 0;
    }
}

/* Each bit that a host can take away takes along what depends on it, and nothing else. */
Test(caps, a_bit_takes_along_what_needs_it_and_nothing_else) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps full = l1_of(&machine, NULL);

    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        struct nvmx_caps mask = everything(), wanted = full;

        if (is_fixed(bit) || !bit->emulated || bit->width != 1)
            continue;
        MSR(&mask, bit->msr) &= ~row_mask(bit);
        MSR(&wanted, bit->msr) &= ~row_mask(bit);
        take_away_dependent(&wanted);
        struct nvmx_caps l1 = l1_of(&machine, &mask);
        for (size_t other = 0; nvmx_cap_bit(other) != NULL; other++) {
            const struct nvmx_cap_bit *at = nvmx_cap_bit(other);

            if (at->msr != 0x48a)
                cr_expect_eq(MSR(&l1, at->msr) & row_mask(at), MSR(&wanted, at->msr) & row_mask(at), "%s without %s", at->name, bit->name);
        }
    }
}

Test(caps, dependent_bits_go_with_what_they_need) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps full = l1_of(&machine, NULL);

    for (size_t i = 0; i < sizeof(dependencies) / sizeof(dependencies[0]); i++) {
        const struct dependency *d = &dependencies[i];
        struct nvmx_caps mask = everything();
        struct nvmx_caps l1;

        cr_assert((MSR(&full, d->msr) >> d->bit) & 1);
        MSR(&mask, d->needs_msr) &= ~(UINT64_C(1) << d->needs_bit);
        l1 = l1_of(&machine, &mask);
        cr_assert_eq((MSR(&l1, d->msr) >> d->bit) & 1, 0, "dependency %zu", i);
        cr_assert_eq(nvmx_cap_bit_reason(row_of(d->msr, d->bit), &machine, &mask, &l1), NVMX_CAP_DEPENDENCY);
    }
}

Test(caps, whole_msrs_go_with_what_makes_them_exist) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps l1;

    MSR(&machine, 0x482) &= ~(UINT64_C(1) << 63);
    l1 = l1_of(&machine, NULL);
    cr_assert_eq(MSR(&l1, 0x48b), 0);
    cr_assert_eq(MSR(&l1, 0x48c), 0);

    machine = everything();
    MSR(&machine, 0x48b) &= ~((UINT64_C(1) << 33) | (UINT64_C(1) << 37));
    l1 = l1_of(&machine, NULL);
    cr_assert_eq(MSR(&l1, 0x48c), 0);

    machine = everything();
    MSR(&machine, 0x480) &= ~(UINT64_C(1) << 55);
    l1 = l1_of(&machine, NULL);
    for (uint32_t msr = 0x48d; msr <= 0x490; msr++) {
        cr_assert_eq(MSR(&l1, msr), 0);
    }
}

Test(caps, no_vmx_is_unsupported) {
    struct nvmx_caps machine = {0}, l1;

    cr_assert_eq(nvmx_caps_for_l1(&machine, NULL, &l1), NVMX_E_UNSUPPORTED);
}

Test(caps, output_may_be_the_machine) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    cr_assert_eq(nvmx_caps_for_l1(&machine, NULL, &machine), NVMX_OK);
    cr_assert_eq(memcmp(&machine, &l1, sizeof(l1)), 0);
}

Test(caps, result_is_a_fixed_point) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps l1 = l1_of(&machine, NULL);
    struct nvmx_caps again = l1_of(&l1, NULL);
    struct nvmx_caps masked = l1_of(&machine, &l1);

    cr_assert_eq(memcmp(&again, &l1, sizeof(l1)), 0, "a nested nvmx offers the same");
    cr_assert_eq(memcmp(&masked, &l1, sizeof(l1)), 0);
}

Test(caps, controls_forced_by_the_machine_stay_forced) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps mask = skylake();
    struct nvmx_caps l1;

    /* "Host address-space size" must be 1, say; the mask can't take it away. */
    MSR(&machine, 0x483) |= 1u << 9;
    MSR(&machine, 0x48f) |= 1u << 9;
    MSR(&mask, 0x483) &= ~(UINT64_C(1) << 41);
    l1 = l1_of(&machine, &mask);
    cr_assert((nvmx_caps_must_be_1(&l1, NVMX_CAP_EXIT) >> 9) & 1);
    cr_assert((nvmx_caps_may_be_1(&l1, NVMX_CAP_EXIT) >> 9) & 1);

    /* A forced control that the library does not know can't be composed. */
    MSR(&machine, 0x484) |= (UINT64_C(1) << 42) | (1u << 10);
    MSR(&machine, 0x490) |= (UINT64_C(1) << 42) | (1u << 10);
    cr_assert_eq(nvmx_caps_for_l1(&machine, NULL, &l1), NVMX_E_UNSUPPORTED);
}

/* Virtual NMIs need NMI exiting: an L1 that must have the one without the other could never enter L2. */
Test(caps, a_forced_control_without_what_it_needs_is_refused) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps mask = skylake();
    struct nvmx_caps l1;

    MSR(&machine, 0x481) |= 1u << 5;
    MSR(&machine, 0x48d) |= 1u << 5;
    l1 = l1_of(&machine, &mask);
    cr_assert((nvmx_caps_must_be_1(&l1, NVMX_CAP_PINBASED) >> 5) & 1);
    cr_assert_eq(nvmx_caps_check_subset(&l1, &l1, NULL), NVMX_OK);

    MSR(&mask, 0x481) &= ~(UINT64_C(1) << 35);
    cr_assert_eq(nvmx_caps_for_l1(&machine, &mask, &l1), NVMX_E_UNSUPPORTED);
}

Test(caps, true_msrs_say_what_must_be_1) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_PROCBASED), 0x04006172);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_EXIT), 0x00036dfb);
    cr_assert_eq(nvmx_caps_may_be_1(&l1, NVMX_CAP_ENTRY), 0xf3ff);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_PROCBASED2), 0);
    cr_assert_eq(nvmx_caps_may_be_1(&l1, NVMX_CAP_PROCBASED2), 0x02177fff);

    /* Without TRUE MSRs the plain ones are the truth. */
    MSR(&machine, 0x480) &= ~(UINT64_C(1) << 55);
    l1 = l1_of(&machine, NULL);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_PROCBASED), 0x0401e172);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_EXIT), 0x00036dff);

    /* Reserved default1 controls stay 1 even if the machine lets them be 0; those with a meaning follow the machine. */
    machine = skylake();
    MSR(&machine, 0x48e) &= ~UINT64_C(0xffffffff);
    l1 = l1_of(&machine, NULL);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_PROCBASED), 0x04006172);
    MSR(&machine, 0x48e) |= 1u << 15;
    l1 = l1_of(&machine, NULL);
    cr_assert_eq(nvmx_caps_must_be_1(&l1, NVMX_CAP_PROCBASED), 0x0400e172);

    /* The 64-bit control MSRs have no must-be-1 half. */
    machine = everything();
    cr_assert_eq(nvmx_caps_must_be_1(&machine, NVMX_CAP_PROCBASED3), 0);
    cr_assert_eq(nvmx_caps_may_be_1(&machine, NVMX_CAP_PROCBASED3), (uint32_t)MSR(&machine, 0x492));
}

Test(caps, numbers_are_the_smaller_ones) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps mask = everything();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    cr_assert_eq((MSR(&l1, 0x485) >> 16) & 0x1ff, 4, "no more CR3 targets than there are fields");
    cr_assert_eq((MSR(&l1, 0x485) >> 25) & 7, 7);
    MSR(&mask, 0x485) =
        (MSR(&mask, 0x485) & ~((UINT64_C(0x1ff) << 16) | (UINT64_C(7) << 25))) | (2u << 16) | (1u << 25);
    l1 = l1_of(&machine, &mask);
    cr_assert_eq((MSR(&l1, 0x485) >> 16) & 0x1ff, 2);
    cr_assert_eq((MSR(&l1, 0x485) >> 25) & 7, 1);
    cr_assert_eq(MSR(&l1, 0x485) & 0x1f, MSR(&machine, 0x485) & 0x1f, "the timer's rate is a fact");
}

Test(caps, vmcs_enum_is_the_highest_field_that_exists) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps mask = skylake();
    struct nvmx_caps l1 = l1_of(&machine, NULL);

    cr_assert_eq(MSR(&l1, 0x48a), 0x32, "TSC multiplier, 2032H");
    MSR(&mask, 0x48b) &= ~(UINT64_C(1) << 57);
    l1 = l1_of(&machine, &mask);
    cr_assert_eq(MSR(&l1, 0x48a), 0x2e, "VMX-preemption timer value, 482EH");
    MSR(&mask, 0x481) &= ~(UINT64_C(1) << 38);
    l1 = l1_of(&machine, &mask);
    cr_assert_eq(MSR(&l1, 0x48a), 0x2c, "XSS-exiting bitmap, 202CH");
    MSR(&mask, 0x482) &= ~(UINT64_C(1) << 63);
    l1 = l1_of(&machine, &mask);
    cr_assert_eq(MSR(&l1, 0x48a), 0x2a, "guest IA32_SYSENTER_CS, 482AH");
}

Test(caps, subset_accepts_what_a_host_restores) {
    struct nvmx_caps machine = everything();
    struct nvmx_caps possible = l1_of(&machine, NULL);
    struct nvmx_caps mask = everything();
    struct nvmx_caps old = skylake();
    uint32_t msr = 0;

    cr_assert_eq(nvmx_caps_check_subset(&possible, &possible, &msr), NVMX_OK);
    for (size_t row = 0; nvmx_cap_bit(row) != NULL; row++) {
        struct nvmx_caps wanted;

        mask = everything();
        MSR(&mask, nvmx_cap_bit(row)->msr) &= ~row_mask(nvmx_cap_bit(row));
        wanted = l1_of(&machine, &mask);
        cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_OK, "%s: %x", nvmx_cap_bit(row)->name, msr);
    }
    old = l1_of(&old, NULL);
    MSR(&old, 0x485) |= 0x1f; /* the rate is a fact; make it the same */
    old.physical_address_bits = 40;
    cr_assert_eq(nvmx_caps_check_subset(&old, &possible, NULL), NVMX_OK);
}

Test(caps, subset_refuses_each_bit_that_is_too_many) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps possible = l1_of(&machine, NULL);

    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        bool fixed0 = place == NVMX_CAP_CR0_FIXED0 || place == NVMX_CAP_CR4_FIXED0;
        bool halves = (place >= NVMX_CAP_PINBASED && place <= NVMX_CAP_ENTRY) ||
                      (place >= NVMX_CAP_TRUE_PINBASED && place <= NVMX_CAP_TRUE_ENTRY);
        for (unsigned int bit = 0; bit < 64; bit++) {
            struct nvmx_caps wanted = possible;
            uint32_t msr = 0;
            bool now = (possible.msr[place] >> bit) & 1;
            bool must = fixed0 || (halves && bit < 32);

            if (must != now) {
                continue; /* this direction takes away, not adds */
            }
            wanted.msr[place] ^= UINT64_C(1) << bit;
            cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED, "MSR %x bit %u",
                         0x480 + place, bit);
            cr_assert(msr >= 0x480 && msr <= 0x480 + place);
        }
    }
}

Test(caps, subset_refuses_what_is_not_consistent) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps possible = l1_of(&machine, NULL);
    struct nvmx_caps wanted = possible;
    uint32_t msr = 0;

    MSR(&wanted, 0x48b) &= ~(UINT64_C(1) << 33); /* unrestricted guest without EPT */
    cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED);
    cr_assert_eq(msr, 0x48b);

    wanted = possible;
    MSR(&wanted, 0x481) &= ~(UINT64_C(1) << 33); /* must be 1 and can't be */
    cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED);
    cr_assert_eq(msr, 0x481);

    wanted = possible;
    MSR(&wanted, 0x480) ^= 1; /* another revision */
    cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED);
    cr_assert_eq(msr, 0x480);

    wanted = possible;
    wanted.physical_address_bits++;
    cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED);
    cr_assert_eq(msr, 0);

    wanted = possible;
    wanted.debugctl_valid |= 1u << 14;
    cr_assert_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED);
    cr_assert_eq(msr, 0x1d9);
}

/* Beside the capability MSRs: valid bits of other MSRs, each by its own, and features of the processor. */
Test(caps, subset_refuses_more_than_the_facts) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps possible = l1_of(&machine, NULL);

    possible.debugctl_valid = possible.spec_ctrl_valid = possible.perf_global_ctrl_valid = possible.rtit_ctl_valid = possible.lbr_ctl_valid = 6;
    cr_assert_eq(nvmx_caps_check_subset(&possible, &possible, NULL), NVMX_OK);
    for (unsigned int i = 0; i < 6; i++) {
        static const uint32_t msrs[] = {0x1d9, 0x48, 0x38f, 0x570, 0x14ce, 0};
        struct nvmx_caps wanted = possible;
        uint64_t *valid[] = {&wanted.debugctl_valid, &wanted.spec_ctrl_valid, &wanted.perf_global_ctrl_valid, &wanted.rtit_ctl_valid, &wanted.lbr_ctl_valid};
        uint32_t msr = 1;

        if (i < 5) {
            *valid[i] = 4;
            cr_expect_eq(nvmx_caps_check_subset(&wanted, &possible, NULL), NVMX_OK, "less of %x", msrs[i]);
            *valid[i] = 8;
        } else {
            wanted.cpu = possible.cpu ^ NVMX_CPU_LA57;
        }
        cr_expect_eq(nvmx_caps_check_subset(&wanted, &possible, &msr), NVMX_E_DENIED, "%x", msrs[i]);
        cr_expect_eq(msr, msrs[i]);
    }
}

/* A host that keeps CR4 bits from L1 keeps them from vmcs12's host-state and guest-state areas too (SDM 29.2.2, 29.3.1.1). */
Test(caps, the_mask_takes_bits_of_cr0_and_cr4) {
    struct nvmx_caps machine = skylake();
    struct nvmx_caps mask = machine;
    const uint64_t smep = UINT64_C(1) << 20, vmxe = UINT64_C(1) << 13, cd = UINT64_C(1) << 30;

    MSR(&mask, 0x489) &= ~(smep | vmxe);
    MSR(&mask, 0x487) &= ~cd;
    MSR(&mask, 0x486) = MSR(&mask, 0x488) = 0;
    struct nvmx_caps l1 = l1_of(&machine, &mask);
    cr_assert_eq(MSR(&l1, 0x489), MSR(&machine, 0x489) & ~smep, "VMXE must be set");
    cr_assert_eq(MSR(&l1, 0x487), MSR(&machine, 0x487) & ~cd);
    cr_assert_eq(MSR(&l1, 0x486), MSR(&machine, 0x486));
    cr_assert_eq(MSR(&l1, 0x488), MSR(&machine, 0x488));
    cr_assert_not(nvmx_cr_fixed_ok(&l1, 4, 0x2000 | smep, false));

    MSR(&mask, 0x489) = MSR(&mask, 0x487) = 0; /* a host that says nothing of them */
    l1 = l1_of(&machine, &mask);
    cr_assert_eq(MSR(&l1, 0x489), MSR(&machine, 0x489));
    cr_assert_eq(MSR(&l1, 0x487), MSR(&machine, 0x487));
}

Test(caps, canonical_follows_the_width) {
    struct nvmx_caps caps = skylake();

    cr_assert(nvmx_is_canonical(&caps, 0));
    cr_assert(nvmx_is_canonical(&caps, UINT64_C(0x00007fffffffffff)));
    cr_assert_not(nvmx_is_canonical(&caps, UINT64_C(0x0000800000000000)));
    cr_assert_not(nvmx_is_canonical(&caps, UINT64_C(0xffff7fffffffffff)));
    cr_assert(nvmx_is_canonical(&caps, UINT64_C(0xffff800000000000)));
    cr_assert(nvmx_is_canonical(&caps, UINT64_MAX));
    caps.cpu |= NVMX_CPU_LA57;
    cr_assert(nvmx_is_canonical(&caps, UINT64_C(0x0000800000000000)));
    cr_assert(nvmx_is_canonical(&caps, UINT64_C(0x00ffffffffffffff)));
    cr_assert_not(nvmx_is_canonical(&caps, UINT64_C(0x0100000000000000)));
    cr_assert(nvmx_is_canonical(&caps, UINT64_C(0xff00000000000000)));
    cr_assert_not(nvmx_is_canonical(&caps, UINT64_C(0xfeffffffffffffff)));
}

Test(caps, cr_fixed_bits_are_held) {
    struct nvmx_caps caps = skylake();
    const uint64_t cr0 = 0x80000031, cr4 = 0x26f0;

    cr_assert(nvmx_cr_fixed_ok(&caps, 0, cr0, false));
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 0, cr0 & ~UINT64_C(0x20), false), "NE");
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 0, cr0 & ~UINT64_C(0x20), true), "NE");
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 0, cr0 & ~UINT64_C(1), false), "PE");
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 0, cr0 & ~UINT64_C(0x80000000), false), "PG");
    cr_assert(nvmx_cr_fixed_ok(&caps, 0, 0x30, true));
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 0, cr0 | UINT64_C(1) << 32, true));
    cr_assert(nvmx_cr_fixed_ok(&caps, 4, cr4, false));
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 4, cr4 & ~UINT64_C(0x2000), false), "VMXE");
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 4, cr4 & ~UINT64_C(0x2000), true), "VMXE");
    cr_assert_not(nvmx_cr_fixed_ok(&caps, 4, cr4 | 1u << 24, false));
}
