/* SPDX-License-Identifier: MIT */
/* Which scenarios there are, which of them to run, and running one. */
#include "l2.h"
#include "scenarios.h"
#include "serial.h"

enum { MULTIBOOT_LOADED = 0x2badb002, INFO_COMMAND_LINE = 1u << 2, MAX_WORDS = 16, MAX_LINE = 256 };

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line;
};

static const struct scenario_list *const lists[] = {
    &scenarios_info, &scenarios_off, &scenarios_vmcs, &scenarios_instruction, &scenarios_register,
    &scenarios_exception, &scenarios_ept, &scenarios_ept_random, &scenarios_spp, &scenarios_controls, &scenarios_entry, &scenarios_event, &scenarios_apic,
    &scenarios_state, &scenarios_mode, &scenarios_smp,
};

static char line[MAX_LINE];
static const char *words[MAX_WORDS];
static uint32_t word_count;

void l1_main(uint32_t magic, const struct multiboot_info *info);

static bool starts_with(const char *text, const char *prefix) {
    while (*prefix != 0 && *text == *prefix) {
        text++;
        prefix++;
    }
    return *prefix == 0;
}

/* The image's own name, which some loaders pass as the first word. */
static bool is_image(const char *word) {
    for (; *word != 0 && *word != ' '; word++) {
        if (*word == '/' || starts_with(word, ".elf")) {
            return true;
        }
    }
    return false;
}

static void read_words(const char *text) {
    uint32_t n = 0;
    while (n < MAX_LINE - 1 && text[n] != 0) {
        line[n] = text[n];
        n++;
    }
    for (uint32_t i = 0; i < n && word_count < MAX_WORDS; i++) {
        if (line[i] == ' ') {
            line[i] = 0;
        } else if ((i == 0 || line[i - 1] == 0) && !(i == 0 && is_image(line))) {
            words[word_count++] = line + i;
        }
    }
}

static bool is_listing(void) {
    return word_count == 1 && starts_with(words[0], "list") && words[0][4] == 0;
}

static bool is_selected(const struct scenario *s) {
    for (uint32_t i = 0; i < word_count; i++) {
        if (starts_with(s->name, words[i])) {
            return true;
        }
    }
    return word_count == 0 && !s->only_by_name;
}

static bool is_offered(const struct scenario *s) {
    struct controls base = {0, s->kind == WITH_L2 ? PROC_SECONDARY : 0, s->kind == WITH_L2 ? PROC2_EPT : 0, 0, 0, 0};
    static const struct controls none;
    if (!controls_offered(&base, &none) || !controls_offered(&s->on, &s->off)) {
        report_skipped("a control");
    } else if ((s->misc & ~cap.misc) != 0 || (s->ept_vpid & ~cap.ept_vpid) != 0) {
        report_skipped("a capability");
    } else if (s->offered != 0 && !s->offered()) {
        report_skipped("a CPU feature");
    } else {
        return true;
    }
    return false;
}

static void run_with_l2(const struct scenario *s) {
    static struct l2 l2;
    l2_prepare(&l2, s);
    if (s->setup != 0) {
        s->setup(&l2);
    }
    if (s->body != 0) {
        s->body(&l2);
    }
    for (uint32_t i = 0; i < s->count; i++) {
        if (!l2_expect(&l2, &s->exits[i])) {
            step("rest", false, "%u exits not reached", s->count - 1 - i);
            return;
        }
        if (s->exits[i].then != 0) {
            s->exits[i].then(&l2);
        } else {
            then_skip(&l2);
        }
    }
    if (s->finish != 0) {
        s->finish(&l2);
    }
}

static void run(const struct scenario *s) {
    report_scenario(s->name);
    if (!is_offered(s)) {
        return;
    }
    if (s->kind == WITHOUT_VMX) {
        s->body(0);
        return;
    }
    if (!vmx_on()) {
        step("vmxon", false, "VMXON failed");
        return;
    }
    if (s->kind == IN_ROOT) {
        s->body(0);
    } else {
        run_with_l2(s);
    }
    vmx_off();
}

static uint32_t for_each(void (*action)(const struct scenario *)) {
    uint32_t done = 0;
    for (uint32_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        for (uint32_t k = 0; k < lists[i]->count; k++) {
            const struct scenario *s = &lists[i]->scenarios[k];
            if (is_listing() || is_selected(s)) {
                action(s);
                done++;
            }
        }
    }
    return done;
}

static void show(const struct scenario *s) {
    print("l1: scenario %s\n", s->name);
}

void l1_main(uint32_t magic, const struct multiboot_info *info) {
    serial_init();
    cpu_init();
    if (magic == MULTIBOOT_LOADED && (info->flags & INFO_COMMAND_LINE) != 0) {
        read_words((const char *)(uint64_t)info->command_line);
    }
    if (is_listing()) {
        for_each(show);
        power_off();
    }
    lapic_enable();
    vmx_discover();
    if (for_each(run) == 0) {
        report_scenario("start");
        step("select", false, "no scenario's name starts like '%s'", words[0]);
    }
    report_end();
    power_off();
}
