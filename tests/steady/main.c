/* SPDX-License-Identifier: MIT */
/* Command line: PROGRAM [NUMBER]. Ends with a line "exit-status: N", and switches off. */
#include "steady.h"

#include "report.h"
#include "serial.h"
#include "vmx.h"

enum { MULTIBOOT_LOADED = 0x2badb002, INFO_COMMAND_LINE = 1u << 2 };

struct multiboot_info {
    uint32_t flags, mem_lower, mem_upper, boot_device, command_line;
};

void l1_main(uint32_t magic, const struct multiboot_info *info);

static const struct {
    const char *name;
    void (*run)(uint64_t);
    uint64_t number;
} programs[] = {
    {"count", count_run, 400},
    {"trust", trust_run, 1000},
};

static uint32_t failures;

void must(int ok, const char *what) {
    if (!ok) {
        failures++;
        print("l1: FAIL: %s\n", what);
    }
}

/* The word at *at, and behind the blanks that follow it. */
static bool is_word(const char **at, const char *word) {
    const char *p = *at;
    for (; *word != 0; word++, p++) {
        if (*p != *word) {
            return false;
        }
    }
    if (*p != 0 && *p != ' ') {
        return false;
    }
    while (*p == ' ') {
        p++;
    }
    *at = p;
    return true;
}

static uint64_t number_at(const char *at, uint64_t otherwise) {
    uint64_t value = 0;
    if (*at < '0' || *at > '9') {
        return otherwise;
    }
    for (; *at >= '0' && *at <= '9'; at++) {
        value = value * 10 + (uint64_t)(*at - '0');
    }
    return value;
}

/* Some loaders pass the image's name first. */
static void run(const char *line) {
    for (; *line != 0; line++) {
        for (uint32_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
            if (is_word(&line, programs[i].name)) {
                programs[i].run(number_at(line, programs[i].number));
                return;
            }
        }
        while (line[0] != 0 && line[1] != 0 && line[0] != ' ') {
            line++;
        }
    }
    must(0, "no such program");
}

void l1_main(uint32_t magic, const struct multiboot_info *info) {
    bool has_line = magic == MULTIBOOT_LOADED && (info->flags & INFO_COMMAND_LINE) != 0;
    serial_init();
    cpu_init();
    vmx_discover();
    if (vmx_on()) {
        run(has_line ? (const char *)(uint64_t)info->command_line : "");
        vmx_off();
    } else {
        must(0, "VMXON failed");
    }
    print("exit-status: %u\n", failures != 0);
    power_off();
}
