/* SPDX-License-Identifier: MIT */
#include "capset.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "capdevice.h"
#include "cli.h"
#include "input.h"
#include "print.h"

static const struct {
    const char *name, *description;
    struct nvmx_caps caps;
} profiles[] = {
#define PROFILE(name, description, ...) {#name, description, {__VA_ARGS__}},
#include "profiles.def"
#undef PROFILE
};
#define PROFILES   (sizeof profiles / sizeof profiles[0])
#define PERMISSIVE (PROFILES - 1)

static const char *const msr_name[NVMX_CAP_MSRS] = {
#define CAP_MSR(index, name, msr_a, bit_a, msr_b, bit_b) [(index)-NVMX_MSR_VMX_FIRST] = name,
#include <nvmx/vmx_msrs.def>
};

static const char *const fact_name[CAPSET_FACTS] = {
    [CAPSET_FEATURE_CONTROL] = "IA32_FEATURE_CONTROL",
    [CAPSET_DEBUGCTL] = "debugctl_valid",
    [CAPSET_PERF_GLOBAL_CTRL] = "perf_global_ctrl_valid",
    [CAPSET_SPEC_CTRL] = "spec_ctrl_valid",
    [CAPSET_RTIT_CTL] = "rtit_ctl_valid",
    [CAPSET_LBR_CTL] = "lbr_ctl_valid",
    [CAPSET_PHYSICAL_ADDRESS_BITS] = "physical_address_bits",
    [CAPSET_CPU] = "cpu",
};

static const char *const cpu_name[] = {"LONG_MODE",      "LA57", "SGX",     "RTM",  "FRED",
                                       "BUS_LOCK_DEBUG", "NX",   "SYSCALL", "UINTR",
                                       "LAM"};
#define CPU_NAMES (sizeof cpu_name / sizeof cpu_name[0])

const char *capset_profile_name(unsigned int which, const char **description) {
    if (which >= PROFILES)
        return NULL;
    *description = profiles[which].description;
    return profiles[which].name;
}

const char *capset_msr_name(unsigned int place) {
    return place < NVMX_CAP_MSRS ? msr_name[place] : NULL;
}

const char *capset_fact_name(enum capset_fact fact) {
    return fact < CAPSET_FACTS ? fact_name[fact] : NULL;
}

const char *capset_cpu_name(unsigned int bit) {
    return bit < CPU_NAMES ? cpu_name[bit] : NULL;
}

bool capset_profile(const char *name, struct capset *set) {
    char plain[64], wanted[64];

    plain_name(name, strlen(name), wanted, sizeof wanted);
    for (unsigned int i = 0; i < PROFILES; i++) {
        plain_name(profiles[i].name, strlen(profiles[i].name), plain, sizeof plain);
        if (strcmp(plain, wanted) != 0)
            continue;
        *set = (struct capset){
            .caps = profiles[i].caps, .msrs = (1u << NVMX_CAP_MSRS) - 1, .facts = (1u << CAPSET_FACTS) - 1};
        snprintf(set->name, sizeof set->name, "%s, built in: %s", profiles[i].name, profiles[i].description);
        return true;
    }
    return false;
}

/* -- text
 * ------------------------------------------------------------------------------------------------------------------------
 */

#define WORDS 24
struct words {
    char text[WORDS][64];
    unsigned int count;
};

/* False: too many, or too long, for a line about capabilities. */
static bool split(const char *line, struct words *words) {
    words->count = 0;
    for (;;) {
        size_t length;

        line += strspn(line, " \t:=,");
        if (*line == 0 || *line == '#')
            return true;
        length = strcspn(line, " \t:=,#");
        if (words->count == WORDS || length >= sizeof words->text[0])
            return false;
        memcpy(words->text[words->count], line, length);
        words->text[words->count++][length] = 0;
        line += length;
    }
}

/* Number of the MSR that a word names by index or by name; 0 if none. */
static uint32_t msr_of(const char *word) {
    uint64_t index;
    char wanted[64], plain[64];

    if (whole_hex(word, &index))
        return (index >= NVMX_MSR_VMX_FIRST && index <= NVMX_MSR_VMX_LAST) || index == NVMX_MSR_FEATURE_CONTROL
                   ? (uint32_t)index
                   : 0;
    plain_name(word, strlen(word), wanted, sizeof wanted);
    if (strncmp(wanted, "msr_", 4) == 0)
        memmove(wanted, wanted + 4, strlen(wanted + 4) + 1);
    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        plain_name(msr_name[place], strlen(msr_name[place]), plain, sizeof plain);
        if (strcmp(plain, wanted) == 0)
            return NVMX_MSR_VMX_FIRST + place;
    }
    return strcmp(wanted, "ia32_feature_control") == 0 || strcmp(wanted, "ia32_feat_ctl") == 0
               ? NVMX_MSR_FEATURE_CONTROL
               : 0;
}

static enum capset_take bad(char *why, size_t size, const char *what, const char *word) {
    snprintf(why, size, "%s '%s'", what, tame(word));
    return CAPSET_BAD;
}

static enum capset_take put_msr(struct capset *set, uint32_t index, uint64_t value, char *why, size_t size) {
    bool is_vmx = index != NVMX_MSR_FEATURE_CONTROL;
    uint64_t *at = is_vmx ? &set->caps.msr[index - NVMX_MSR_VMX_FIRST] : &set->caps.feature_control;
    uint32_t bit = is_vmx ? 1u << (index - NVMX_MSR_VMX_FIRST) : 1u << CAPSET_FEATURE_CONTROL;
    uint32_t *given = is_vmx ? &set->msrs : &set->facts;

    if ((*given & bit) && *at != value) {
        snprintf(why, size, "MSR %XH has another value on an earlier line", index);
        return CAPSET_BAD;
    }
    *given |= bit;
    *at = value;
    return CAPSET_TAKEN;
}

/* INDEX VALUE, NAME VALUE, INDEX NAME VALUE; "l1", "msr" or "rdmsr" may come before. */
static enum capset_take take_msr(struct capset *set, const struct words *words, char *why, size_t size) {
    static const char *const lead[] = {"l1", "msr", "MSR", "rdmsr"};
    unsigned int at = 0;
    uint32_t index, again;
    uint64_t value;

    for (unsigned int i = 0; i < sizeof lead / sizeof lead[0] && at == 0 && words->count > 1; i++)
        at += strcmp(words->text[0], lead[i]) == 0;
    index = words->count > at ? msr_of(words->text[at]) : 0;
    if (index == 0)
        return CAPSET_OTHER;
    if (words->count - at == 3) {
        again = msr_of(words->text[at + 1]);
        if (again != index)
            return bad(why, size, "this is not the name of the MSR before it:", words->text[at + 1]);
        at++;
    }
    if (words->count - at != 2)
        return bad(why, size, "an MSR and one hexadecimal value are expected, not", words->text[words->count - 1]);
    if (!whole_hex(words->text[at + 1], &value))
        return bad(why, size, "not a hexadecimal number of at most 64 bits:", words->text[at + 1]);
    return put_msr(set, index, value, why, size);
}

static enum capset_take take_cpu(struct capset *set, const struct words *words, char *why, size_t size) {
    set->caps.cpu = 0;
    for (unsigned int i = 1; i < words->count; i++) {
        unsigned int bit = 0;
        char wanted[64], plain[64];

        plain_name(words->text[i], strlen(words->text[i]), wanted, sizeof wanted);
        for (; bit < CPU_NAMES; bit++) {
            plain_name(cpu_name[bit], strlen(cpu_name[bit]), plain, sizeof plain);
            if (strcmp(wanted, plain) == 0)
                break;
        }
        if (bit == CPU_NAMES)
            return bad(why, size, "no such CPU feature here:", words->text[i]);
        set->caps.cpu |= 1u << bit;
    }
    set->facts |= 1u << CAPSET_CPU;
    return CAPSET_TAKEN;
}

static enum capset_take take_width(struct capset *set, const char *word, char *why, size_t size) {
    char *end;
    unsigned long bits = strtoul(word, &end, 10);

    if (*end || end == word || bits < 32 || bits > 52)
        return bad(why, size, "not a decimal number from 32 to 52:", word);
    set->caps.physical_address_bits = (uint8_t)bits;
    set->facts |= 1u << CAPSET_PHYSICAL_ADDRESS_BITS;
    return CAPSET_TAKEN;
}

static enum capset_take take_fact(struct capset *set, const struct words *words, char *why, size_t size) {
    uint64_t *const at[CAPSET_FACTS] = {
        [CAPSET_DEBUGCTL] = &set->caps.debugctl_valid,   [CAPSET_PERF_GLOBAL_CTRL] = &set->caps.perf_global_ctrl_valid,
        [CAPSET_SPEC_CTRL] = &set->caps.spec_ctrl_valid, [CAPSET_RTIT_CTL] = &set->caps.rtit_ctl_valid,
        [CAPSET_LBR_CTL] = &set->caps.lbr_ctl_valid,
    };

    for (unsigned int fact = CAPSET_DEBUGCTL; fact < CAPSET_FACTS; fact++) {
        if (strcmp(words->text[0], fact_name[fact]) != 0)
            continue;
        if (fact == CAPSET_CPU)
            return take_cpu(set, words, why, size);
        if (words->count != 2)
            return bad(why, size, "one value is expected after", fact_name[fact]);
        if (fact == CAPSET_PHYSICAL_ADDRESS_BITS)
            return take_width(set, words->text[1], why, size);
        if (!whole_hex(words->text[1], at[fact]))
            return bad(why, size, "not a hexadecimal number of at most 64 bits:", words->text[1]);
        set->facts |= 1u << fact;
        return CAPSET_TAKEN;
    }
    return CAPSET_OTHER;
}

enum capset_take capset_take_line(struct capset *set, const char *line, char *why, size_t size) {
    struct words words;
    enum capset_take taken;

    if (!split(without_prefix(line), &words) || words.count == 0)
        return CAPSET_OTHER;
    taken = take_msr(set, &words, why, size);
    return taken == CAPSET_OTHER ? take_fact(set, &words, why, size) : taken;
}

/* -- whole sets
 * ----------------------------------------------------------------------------------------------------------------------
 */

static bool has(const struct nvmx_caps *caps, uint32_t msr, unsigned int bit) {
    return (caps->msr[msr - NVMX_MSR_VMX_FIRST] >> bit) & 1;
}

bool capset_finish(struct capset *set, char *why, size_t size) {
    static const struct {
        uint16_t msr_a, msr_b;
        uint8_t bit_a, bit_b;
    } exists[NVMX_CAP_MSRS] = {
#define CAP_MSR(index, name, msr_a, bit_a, msr_b, bit_b) [(index)-NVMX_MSR_VMX_FIRST] = {msr_a, msr_b, bit_a, bit_b},
#include <nvmx/vmx_msrs.def>
    };
    const struct nvmx_caps *unknown = &profiles[PERMISSIVE].caps;

    for (unsigned int place = 0; place < NVMX_CAP_MSRS; place++) {
        bool needed = exists[place].msr_a == 0 || has(&set->caps, exists[place].msr_a, exists[place].bit_a) ||
                      has(&set->caps, exists[place].msr_b, exists[place].bit_b);

        if (needed && !((set->msrs >> place) & 1)) {
            snprintf(why, size, "%s (%XH) is missing%s", msr_name[place], NVMX_MSR_VMX_FIRST + place,
                     exists[place].msr_a ? ", though other MSRs say that it exists" : "");
            return false;
        }
    }
    if (set->caps.msr[NVMX_CAP_BASIC] == 0) {
        snprintf(why, size, "IA32_VMX_BASIC is 0: no VMX");
        return false;
    }
#define UNKNOWN(fact, member)                                                                                          \
    if (!((set->facts >> (fact)) & 1))                                                                                 \
    set->caps.member = unknown->member
    UNKNOWN(CAPSET_FEATURE_CONTROL, feature_control);
    UNKNOWN(CAPSET_DEBUGCTL, debugctl_valid);
    UNKNOWN(CAPSET_PERF_GLOBAL_CTRL, perf_global_ctrl_valid);
    UNKNOWN(CAPSET_SPEC_CTRL, spec_ctrl_valid);
    UNKNOWN(CAPSET_RTIT_CTL, rtit_ctl_valid);
    UNKNOWN(CAPSET_LBR_CTL, lbr_ctl_valid);
    UNKNOWN(CAPSET_PHYSICAL_ADDRESS_BITS, physical_address_bits);
    UNKNOWN(CAPSET_CPU, cpu);
#undef UNKNOWN
    return true;
}

/* Lines that say nothing of capabilities are a dump's, if it is one. */
static int load_text(struct capset *set, const char *path) {
    struct input input;
    char why[200];
    bool is_log = false;
    size_t stray = 0;
    int status = input_read(&input, path);

    for (size_t i = 0; i < input.lines && status == CLI_OK; i++)
        is_log = is_log || strstr(input.line[i], "*** Guest State ***") || strstr(input.line[i], "nvmx: ") ||
                 strstr(input.line[i], "l1: ");
    for (size_t i = 0; i < input.lines && status == CLI_OK; i++) {
        const char *line = skip_blanks(input.line[i]);
        enum capset_take taken = capset_take_line(set, line, why, sizeof why);

        if (taken == CAPSET_BAD)
            status = input_error(&input, i + 1, "%s", why);
        else if (taken == CAPSET_OTHER && *line && *line != '#' && stray == 0)
            stray = i + 1;
    }
    if (status == CLI_OK && stray && !is_log)
        status = input_error(&input, stray, "not a capability MSR and its value: '%s'", tame(input.line[stray - 1]));
    if (status == CLI_OK && !capset_finish(set, why, sizeof why)) {
        fprintf(stderr, "nvmx: %s: %s\n", tame(input.name), why);
        status = CLI_USAGE;
    }
    input_free(&input);
    return status;
}

int capset_load(struct capset *set, const char *spec) {
    struct stat about;

    if (!strchr(spec, '/') && capset_profile(spec, set)) /* ./skylake_x is a file */
        return CLI_OK;
    *set = (struct capset){0};
    snprintf(set->name, sizeof set->name, "%s", strcmp(spec, "-") == 0 ? "stdin" : tame(spec));
    if (strcmp(spec, "-") != 0 && stat(spec, &about) != 0) {
        if (strchr(spec, '/')) {
            fprintf(stderr, "nvmx: %s: can't be opened: %s%s\n", tame(spec), strerror(errno),
                    strncmp(spec, "/dev/cpu/", 9) == 0 ? " (modprobe msr?)" : "");
            return CLI_SYSTEM;
        }
        fprintf(stderr, "nvmx: %s: neither a file nor a built-in set of capabilities (", tame(spec));
        for (unsigned int i = 0; i < PROFILES; i++)
            fprintf(stderr, "%s%s", i ? ", " : "", profiles[i].name);
        fprintf(stderr, ")\n");
        return CLI_USAGE;
    }
    if (strcmp(spec, "-") != 0 && S_ISCHR(about.st_mode) && strstr(spec, "msr"))
        return capdevice_read(set, spec);
    return load_text(set, spec);
}
