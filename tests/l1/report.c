/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <stddef.h>

#include "serial.h"

static const char *scenario_name = "start";
static uint32_t steps, failures;

static void print_number(uint64_t value, uint32_t base, uint32_t width, char pad) {
    char digits[20];
    uint32_t n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0 && n < sizeof digits);
    for (uint32_t i = n; i < width; i++) {
        serial_char(pad);
    }
    while (n > 0) {
        serial_char(digits[--n]);
    }
}

/* %s %c %d %u %x %ld %lu %lx, and a field width with or without leading zero for numbers. */
static void print_list(const char *format, va_list list) {
    for (; *format != 0; format++) {
        if (*format != '%') {
            serial_char(*format);
            continue;
        }
        format++;
        char pad = *format == '0' ? '0' : ' ';
        uint32_t width = 0;
        for (; *format >= '0' && *format <= '9'; format++) {
            width = width * 10 + (uint32_t)(*format - '0');
        }
        bool wide = *format == 'l';
        format += wide ? 1 : 0;
        if (*format == 's') {
            for (const char *s = va_arg(list, const char *); *s != 0; s++) {
                serial_char(*s);
            }
        } else if (*format == 'c') {
            serial_char((char)va_arg(list, int));
        } else if (*format == 'd') {
            int64_t value = wide ? va_arg(list, int64_t) : va_arg(list, int32_t);
            if (value < 0) {
                serial_char('-');
            }
            print_number(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10, width, pad);
        } else {
            uint64_t value = wide ? va_arg(list, uint64_t) : va_arg(list, uint32_t);
            print_number(value, *format == 'u' ? 10 : 16, width, pad);
        }
    }
}

void print(const char *format, ...) {
    va_list list;
    va_start(list, format);
    print_list(format, list);
    va_end(list);
}

void report_scenario(const char *name) {
    scenario_name = name;
}

void report_skipped(const char *why) {
    print("l1: %s: skipped: not offered (%s)\n", scenario_name, why);
}

void step_begin(const char *name, bool ok) {
    steps++;
    failures += ok ? 0 : 1;
    print("l1: %s.%s: %s: ", scenario_name, name, ok ? "ok" : "FAIL");
}

void step(const char *name, bool ok, const char *format, ...) {
    va_list list;
    step_begin(name, ok);
    va_start(list, format);
    print_list(format, list);
    va_end(list);
    print("\n");
}

bool step_equal(const char *name, uint64_t value, uint64_t expected) {
    if (value == expected) {
        step(name, true, "%lx", value);
    } else {
        step(name, false, "%lx, expected %lx", value, expected);
    }
    return value == expected;
}

void report_end(void) {
    print("l1: %u steps, %u failed\n", steps, failures);
}

void report_fatal(const char *format, ...) {
    va_list list;
    print("l1: %s: fatal: ", scenario_name);
    va_start(list, format);
    print_list(format, list);
    va_end(list);
    print("\n");
    failures++;
    report_end();
    power_off();
}
