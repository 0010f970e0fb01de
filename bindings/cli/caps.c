/* SPDX-License-Identifier: MIT */
/* nvmx caps: capability MSRs decoded, what nvmx offers L1 from them and why not the rest, and the difference of two
 * sets. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "capset.h"
#include "cli.h"
#include "print.h"
#include "rule.h"

struct options {
    bool json, all;
    const char *mask;
    const char *set[2];
    unsigned int sets;
};

static int parse(struct options *o, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--all") == 0)
            o->all = true;
        else if (option_named("caps", argc, argv, &i, "--mask", &o->mask)) {
            if (!o->mask)
                return CLI_USAGE;
        } else if (argv[i][0] == '-' && argv[i][1])
            return usage_error("caps", "unknown option '%s'", tame(argv[i]));
        else if (o->sets == 2)
            return usage_error("caps", "at most two sets of capabilities, not '%s' too", tame(argv[i]));
        else
            o->set[o->sets++] = argv[i];
    }
    if (o->sets == 2 && o->mask)
        return usage_error("caps", "--mask is for one set: the difference of two has none");
    if ((o->sets == 2 && strcmp(o->set[0], "-") == 0 && strcmp(o->set[1], "-") == 0) ||
        (o->sets == 1 && o->mask && strcmp(o->set[0], "-") == 0 && strcmp(o->mask, "-") == 0))
        return usage_error("caps", "only one set can be read from stdin");
    return CLI_OK;
}

static uint64_t value_of(const struct nvmx_cap_bit *bit, const struct nvmx_caps *caps) {
    uint64_t value = caps->msr[bit->msr - NVMX_MSR_VMX_FIRST] >> bit->bit;

    return bit->width == 64 ? value : value & ((UINT64_C(1) << bit->width) - 1);
}

/* Controls are allowed to be 1; of those in a 32-bit field some must be. */
static bool is_control(const struct nvmx_cap_bit *bit) {
    return (bit->msr >= 0x481 && bit->msr <= 0x484) || bit->msr == 0x48b;
}

static bool must_be_1(const struct nvmx_cap_bit *bit, const struct nvmx_caps *caps) {
    return is_control(bit) &&
           nvmx_caps_must_be_1(caps, (enum nvmx_cap)(bit->msr - NVMX_MSR_VMX_FIRST)) >> (bit->bit - 32) & 1;
}

static const struct {
    uint16_t msr;
    uint8_t bit;
    const char *need[2]; /* "NONE", or the name of a CAP_NEED */
} needs[] = {
#define CAP(msr, bit, width, rule, need_a, need_b, name, why) {msr, bit, {#need_a, #need_b}},
#include <nvmx/vmx_msrs.def>
};

static const struct {
    const char *name;
    uint16_t msr;
    uint8_t bit;
} need_bits[] = {
#define CAP_NEED(name, msr, bit) {#name, msr, bit},
#include <nvmx/vmx_msrs.def>
};

static const struct {
    uint16_t index, msr[2];
    uint8_t bit[2];
} msr_exists[] = {
#define CAP_MSR(index, name, msr_a, bit_a, msr_b, bit_b) {index, {msr_a, msr_b}, {bit_a, bit_b}},
#include <nvmx/vmx_msrs.def>
};

static bool has(const struct nvmx_caps *caps, uint32_t msr, unsigned int bit) {
    return caps->msr[msr - NVMX_MSR_VMX_FIRST] >> bit & 1;
}

/* What a bit needs and L1 does not have; NULL if nothing of that kind was found. */
static const char *missing_need(size_t row, const struct nvmx_caps *l1) {
    for (unsigned int n = 0; n < 2; n++)
        for (size_t i = 0; i < sizeof need_bits / sizeof need_bits[0]; i++)
            if (strcmp(need_bits[i].name, needs[row].need[n]) == 0 && !has(l1, need_bits[i].msr, need_bits[i].bit))
                return nvmx_cap_bit((size_t)capability_row(need_bits[i].msr, need_bits[i].bit))->name;
    for (size_t i = 0; i < sizeof msr_exists / sizeof msr_exists[0]; i++) {
        if (msr_exists[i].index != needs[row].msr || msr_exists[i].msr[0] == 0)
            continue;
        if (!has(l1, msr_exists[i].msr[0], msr_exists[i].bit[0]) &&
            !has(l1, msr_exists[i].msr[1], msr_exists[i].bit[1]))
            return nvmx_cap_bit((size_t)capability_row(msr_exists[i].msr[0], msr_exists[i].bit[0]))->name;
    }
    return NULL;
}

static void reason_text(size_t row, const struct nvmx_caps *machine, const struct nvmx_caps *mask,
                        const struct nvmx_caps *l1, char *out, size_t size) {
    const char *need;

    switch (nvmx_cap_bit_reason(row, machine, mask, l1)) {
    case NVMX_CAP_OFFERED:
        snprintf(out, size, "%s", "offered");
        return;
    case NVMX_CAP_NOT_ON_CPU:
        snprintf(out, size, "not on this CPU");
        return;
    case NVMX_CAP_NOT_EMULATED:
        snprintf(out, size, "not emulated: %s", nvmx_cap_bit(row)->why);
        return;
    case NVMX_CAP_HOST_MASKED:
        snprintf(out, size, "taken away by the mask");
        return;
    case NVMX_CAP_DEPENDENCY:
        need = missing_need(row, l1);
        snprintf(out, size, "needs what is not offered%s%s", need ? ": " : "", need ? need : "");
        return;
    }
    snprintf(out, size, "?");
}

struct view {
    const struct capset *set;
    const struct nvmx_caps *machine, *mask, *l1;
};

static void bit_text(const struct view *view, size_t row) {
    const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
    uint64_t cpu = value_of(bit, view->machine), l1 = value_of(bit, view->l1);
    enum nvmx_cap_reason reason = nvmx_cap_bit_reason(row, view->machine, view->mask, view->l1);
    char place[16], why[200];

    reason_text(row, view->machine, view->mask, view->l1, why, sizeof why);
    snprintf(place, sizeof place, bit->width > 1 ? "%d:%d" : "%d", bit->bit + bit->width - 1, bit->bit);
    printf("  %5s  %-58s %8" PRIX64 " %8" PRIX64 "  ", place, bit->name, cpu, l1);
    if (reason == NVMX_CAP_OFFERED)
        printf("%soffered%s%s", ink(INK_GOOD), ink(INK_PLAIN), must_be_1(bit, view->l1) ? ", must be 1" : "");
    else
        printf("%s%s%s", reason == NVMX_CAP_NOT_ON_CPU ? ink(INK_DIM) : ink(INK_DOUBT), why, ink(INK_PLAIN));
    printf("\n");
}

static void facts_text(const struct capset *set) {
    const struct nvmx_caps *caps = &set->caps;

    printf("%sbesides%s (? not known, taken from `permissive`)\n", ink(INK_BOLD), ink(INK_PLAIN));
#define KNOWN(fact) (set->facts >> (fact)&1 ? " " : "?")
    printf("%s physical addresses of %u bits\n", KNOWN(CAPSET_PHYSICAL_ADDRESS_BITS), caps->physical_address_bits);
    printf("%s CPU:", KNOWN(CAPSET_CPU));
    for (unsigned int bit = 0; capset_cpu_name(bit); bit++)
        if (caps->cpu >> bit & 1)
            printf(" %s", capset_cpu_name(bit));
    printf("\n%s IA32_FEATURE_CONTROL %" PRIX64 "\n", KNOWN(CAPSET_FEATURE_CONTROL), caps->feature_control);
    printf("%s valid bits: IA32_DEBUGCTL %" PRIX64 ",%s IA32_PERF_GLOBAL_CTRL %" PRIX64 ",%s IA32_SPEC_CTRL %" PRIX64
           "\n",
           KNOWN(CAPSET_DEBUGCTL), caps->debugctl_valid, KNOWN(CAPSET_PERF_GLOBAL_CTRL), caps->perf_global_ctrl_valid,
           KNOWN(CAPSET_SPEC_CTRL), caps->spec_ctrl_valid);
#undef KNOWN
}

static void decode_text(const struct view *view, bool all) {
    unsigned int offered = 0, dropped = 0, msr = 0;

    printf("%s\n", view->set->name);
    for (size_t row = 0; nvmx_cap_bit(row); row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        unsigned int place = bit->msr - NVMX_MSR_VMX_FIRST;
        enum nvmx_cap_reason reason = nvmx_cap_bit_reason(row, view->machine, view->mask, view->l1);

        if (bit->msr != msr) {
            msr = bit->msr;
            printf("%s%03XH %s%s  CPU %016" PRIX64 "  L1 %016" PRIX64 "\n", ink(INK_BOLD), msr, capset_msr_name(place),
                   ink(INK_PLAIN), view->machine->msr[place], view->l1->msr[place]);
        }
        offered += reason == NVMX_CAP_OFFERED;
        dropped += reason != NVMX_CAP_OFFERED && reason != NVMX_CAP_NOT_ON_CPU;
        if (all || reason != NVMX_CAP_NOT_ON_CPU)
            bit_text(view, row);
    }
    for (unsigned int place = NVMX_CAP_CR0_FIXED0; place <= NVMX_CAP_CR4_FIXED1; place++)
        printf("%s%03XH %s%s  CPU %016" PRIX64 "  L1 %016" PRIX64 "\n", ink(INK_BOLD), NVMX_MSR_VMX_FIRST + place,
               capset_msr_name(place), ink(INK_PLAIN), view->machine->msr[place], view->l1->msr[place]);
    facts_text(view->set);
    printf("%u offered to L1, %u that the CPU has are not\n", offered, dropped);
}

static void decode_json(const struct view *view) {
    static const char *const reasons[] = {[NVMX_CAP_OFFERED] = "offered",
                                          [NVMX_CAP_NOT_ON_CPU] = "not_on_cpu",
                                          [NVMX_CAP_NOT_EMULATED] = "not_emulated",
                                          [NVMX_CAP_HOST_MASKED] = "masked",
                                          [NVMX_CAP_DEPENDENCY] = "dependency"};
    struct json json = {0};

    json_object(&json, NULL);
    json_string(&json, "capabilities", view->set->name);
    json_array(&json, "msrs");
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        json_object(&json, NULL);
        json_hex(&json, "index", NVMX_MSR_VMX_FIRST + place);
        json_string(&json, "name", capset_msr_name(place));
        json_hex(&json, "cpu", view->machine->msr[place]);
        json_hex(&json, "l1", view->l1->msr[place]);
        json_end(&json);
    }
    json_end(&json);
    json_array(&json, "bits");
    for (size_t row = 0; nvmx_cap_bit(row); row++) {
        const struct nvmx_cap_bit *bit = nvmx_cap_bit(row);
        char why[200];

        reason_text(row, view->machine, view->mask, view->l1, why, sizeof why);
        json_object(&json, NULL);
        json_hex(&json, "msr", bit->msr);
        json_number(&json, "bit", bit->bit);
        json_number(&json, "width", bit->width);
        json_string(&json, "name", bit->name);
        json_hex(&json, "cpu", value_of(bit, view->machine));
        json_hex(&json, "l1", value_of(bit, view->l1));
        json_bool(&json, "l1_must_be_1", must_be_1(bit, view->l1));
        json_string(&json, "reason", reasons[nvmx_cap_bit_reason(row, view->machine, view->mask, view->l1)]);
        json_string(&json, "why", why);
        json_end(&json);
    }
    json_end(&json);
    json_number(&json, "physical_address_bits", view->machine->physical_address_bits);
    json_end(&json);
}

static int decode(const struct options *o, const struct capset *set) {
    struct capset mask;
    struct nvmx_caps l1;
    struct view view = {set, &set->caps, NULL, &l1};
    enum nvmx_status offered;
    int status = o->mask ? capset_load(&mask, o->mask) : CLI_OK;

    if (status != CLI_OK)
        return status;
    view.mask = o->mask ? &mask.caps : NULL;
    offered = nvmx_caps_for_l1(view.machine, view.mask, &l1);
    if (offered != NVMX_OK) {
        fprintf(stderr, "nvmx: %s: nvmx can offer L1 nothing from these: %s\n", set->name, nvmx_status_text(offered));
        return CLI_USAGE;
    }
    if (o->json)
        decode_json(&view);
    else
        decode_text(&view, o->all);
    return CLI_OK;
}

/* -- the difference
 * --------------------------------------------------------------------------------------------------------------------------------
 */

struct difference {
    const struct nvmx_caps *a, *b;
    uint32_t facts;    /* that both sets tell */
    struct json *json; /* NULL: text */
    unsigned int count;
};

static void differ(struct difference *d, uint32_t msr, const char *bits, const char *name, uint64_t a, uint64_t b) {
    char place[24];

    if (a == b)
        return;
    d->count++;
    place[0] = 0;
    if (msr)
        snprintf(place, sizeof place, "%03XH[%s]", msr, bits);
    if (!d->json) {
        printf("%-13s %-58s %16" PRIX64 " %16" PRIX64 "\n", place, name, a, b);
        return;
    }
    json_object(d->json, NULL);
    json_hex(d->json, "msr", msr);
    json_string(d->json, "bits", bits);
    json_string(d->json, "name", name);
    json_hex(d->json, "a", a);
    json_hex(d->json, "b", b);
    json_end(d->json);
}

/* Bits of an MSR that the table has a row for, or that were told apart as must-be-1. */
static uint64_t differ_rows(struct difference *d, unsigned int msr) {
    const struct nvmx_cap_bit *bit;
    uint64_t known = 0;

    for (size_t row = 0; (bit = nvmx_cap_bit(row)) != NULL; row++) {
        char place[16], name[120];

        if (bit->msr != msr)
            continue;
        known |= (bit->width == 64 ? UINT64_MAX : (UINT64_C(1) << bit->width) - 1) << bit->bit;
        snprintf(place, sizeof place, bit->width > 1 ? "%d:%d" : "%d", bit->bit + bit->width - 1, bit->bit);
        differ(d, msr, place, bit->name, value_of(bit, d->a), value_of(bit, d->b));
        if (!is_control(bit))
            continue;
        snprintf(place, sizeof place, "%d", bit->bit - 32);
        snprintf(name, sizeof name, "%s: must be 1", bit->name);
        differ(d, msr, place, name, must_be_1(bit, d->a), must_be_1(bit, d->b));
        known |= UINT64_C(1) << (bit->bit - 32);
    }
    return known;
}

static void differ_fact(struct difference *d, enum capset_fact fact, uint64_t a, uint64_t b) {
    if (d->facts >> fact & 1)
        differ(d, 0, "", capset_fact_name(fact), a, b);
}

static void differ_facts(struct difference *d) {
    const struct nvmx_caps *a = d->a, *b = d->b;

    differ_fact(d, CAPSET_PHYSICAL_ADDRESS_BITS, a->physical_address_bits, b->physical_address_bits);
    for (unsigned int bit = 0; capset_cpu_name(bit) && (d->facts >> CAPSET_CPU & 1); bit++)
        differ(d, 0, "", capset_cpu_name(bit), a->cpu >> bit & 1, b->cpu >> bit & 1);
    differ_fact(d, CAPSET_FEATURE_CONTROL, a->feature_control, b->feature_control);
    differ_fact(d, CAPSET_DEBUGCTL, a->debugctl_valid, b->debugctl_valid);
    differ_fact(d, CAPSET_PERF_GLOBAL_CTRL, a->perf_global_ctrl_valid, b->perf_global_ctrl_valid);
    differ_fact(d, CAPSET_SPEC_CTRL, a->spec_ctrl_valid, b->spec_ctrl_valid);
    differ_fact(d, CAPSET_RTIT_CTL, a->rtit_ctl_valid, b->rtit_ctl_valid);
    differ_fact(d, CAPSET_LBR_CTL, a->lbr_ctl_valid, b->lbr_ctl_valid);
}

static void differ_all(struct difference *d) {
    const struct nvmx_caps *a = d->a, *b = d->b;

    for (unsigned int msr = NVMX_MSR_VMX_FIRST; msr <= NVMX_MSR_VMX_LAST; msr++) {
        unsigned int place = msr - NVMX_MSR_VMX_FIRST;
        uint64_t known = differ_rows(d, msr);

        for (unsigned int bit = 0; bit < 64; bit++) {
            char text[8], name[64];

            if ((known >> bit & 1) || (place >= NVMX_CAP_TRUE_PINBASED && place <= NVMX_CAP_TRUE_ENTRY))
                continue; /* the TRUE MSRs were looked at with the plain ones */
            snprintf(text, sizeof text, "%u", bit);
            snprintf(name, sizeof name, "%s bit %u", capset_msr_name(place), bit);
            differ(d, msr, text, name, a->msr[place] >> bit & 1, b->msr[place] >> bit & 1);
        }
    }
    differ_facts(d);
}

static int compare(const struct options *o, const struct capset *a, const struct capset *b) {
    struct json json = {0};
    struct difference d = {&a->caps, &b->caps, a->facts & b->facts, o->json ? &json : NULL, 0};

    if (o->json)
        json_array(&json, NULL);
    else
        printf("A: %s\nB: %s\n%s%-13s %-58s %16s %16s%s\n", a->name, b->name, ink(INK_BOLD), "MSR", "NAME", "A", "B",
               ink(INK_PLAIN));
    differ_all(&d);
    if (o->json)
        json_end(&json);
    else
        printf("%u difference%s%s\n", d.count, d.count == 1 ? "" : "s",
               d.facts + 1 == 1u << CAPSET_FACTS ? "" : "; what one of them does not tell was not compared");
    return d.count ? CLI_BROKEN : CLI_OK;
}

int command_caps(int argc, char **argv) {
    struct options o = {0};
    struct capset set[2];
    int status = parse(&o, argc, argv);

    if (status == CLI_OK && o.sets == 0)
        o.set[o.sets++] = "/dev/cpu/0/msr";
    for (unsigned int i = 0; i < o.sets && status == CLI_OK; i++)
        status = capset_load(&set[i], o.set[i]);
    if (status != CLI_OK)
        return status;
    return o.sets == 1 ? decode(&o, &set[0]) : compare(&o, &set[0], &set[1]);
}
