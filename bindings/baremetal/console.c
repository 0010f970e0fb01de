/* SPDX-License-Identifier: MIT */
#include "console.h"

#include <stdarg.h>

#include "host.h"
#include "x86.h"

enum {
    UART_DATA = COM1,
    UART_IER = COM1 + 1,
    UART_FCR = COM1 + 2,
    UART_LCR = COM1 + 3,
    UART_MCR = COM1 + 4,
    UART_LSR = COM1 + 5
};

#define LCR_8N1   3
#define LCR_DLAB  0x80
#define MCR_LOOP  0x10
#define LSR_READY 0x20 /* takes a character */
#define LSR_EMPTY 0x40 /* sent the last one */

/* A line that never becomes ready (no UART there: all ones reads as ready; a stuck one doesn't) must not stop L0. */
#define READY_TRIES 1000000u

void console_init(void) {
    outb(UART_IER, 0);
    outb(UART_LCR, LCR_DLAB | LCR_8N1);
    outb(UART_DATA, 1); /* divisor 1: 115200 */
    outb(UART_IER, 0);
    outb(UART_LCR, LCR_8N1);
    outb(UART_FCR, 7);
    outb(UART_MCR, 3);
}

static void wait_for(uint8_t status) {
    for (uint32_t i = 0; i < READY_TRIES && !(inb(UART_LSR) & status); i++) {
    }
}

static void put_raw(char c) {
    wait_for(LSR_READY);
    outb(UART_DATA, (uint8_t)c);
}

static void put(char c) {
    if (c == '\n')
        put_raw('\r');
    put_raw(c);
}

struct conversion {
    uint32_t width;
    bool left;
    char fill;
};

static void put_padded(const char *text, size_t length, const struct conversion *how) {
    size_t fill = how->width > length ? how->width - length : 0;

    if (!how->left)
        for (; fill; fill--)
            put(how->fill);
    for (size_t i = 0; i < length; i++)
        put(text[i]);
    for (; fill; fill--)
        put(' ');
}

static void put_number(uint64_t value, uint32_t base, bool negative, const struct conversion *how) {
    char digits[24];
    size_t at = sizeof digits;

    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative)
        digits[--at] = '-';
    put_padded(digits + at, sizeof digits - at, how);
}

static void put_signed(int64_t value, const struct conversion *how) {
    put_number(value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10, value < 0, how);
}

static void put_string(const char *text, const struct conversion *how) {
    size_t length = 0;

    if (!text)
        text = "(null)";
    while (text[length])
        length++;
    put_padded(text, length, how);
}

static void vprint(const char *format, va_list *arguments) {
    for (const char *p = format; *p; p++) {
        struct conversion how = {.fill = ' '};
        bool is_long = false;

        if (*p != '%') {
            put(*p);
            continue;
        }
        for (p++; *p == '0' || *p == '-'; p++)
            if (*p == '0')
                how.fill = '0';
            else
                how.left = true;
        for (; *p >= '0' && *p <= '9'; p++)
            how.width = how.width * 10 + (uint32_t)(*p - '0');
        for (; *p == 'l' || *p == 'z'; p++)
            is_long = true;
        if (*p == 's')
            put_string(va_arg(*arguments, const char *), &how);
        else if (*p == 'c')
            put((char)va_arg(*arguments, int));
        else if (*p == 'd')
            put_signed(is_long ? va_arg(*arguments, long) : va_arg(*arguments, int), &how);
        else if (*p == 'u' || *p == 'x')
            put_number(is_long ? va_arg(*arguments, unsigned long) : va_arg(*arguments, unsigned), *p == 'u' ? 10 : 16,
                       false, &how);
        else
            put(*p);
    }
}

static void print_borrowed(const char *prefix, const char *format, va_list *arguments) {
    uint8_t lcr = inb(UART_LCR), mcr = inb(UART_MCR);
    uint8_t ier;

    outb(UART_LCR, lcr & (uint8_t)~LCR_DLAB);
    outb(UART_MCR, mcr & (uint8_t)~MCR_LOOP); /* where L1 might just be looking for the UART */
    ier = inb(UART_IER);
    outb(UART_IER, 0);
    for (; *prefix; prefix++)
        put(*prefix);
    vprint(format, arguments);
    wait_for(LSR_EMPTY); /* the machine may be switched off next */
    outb(UART_IER, ier);
    outb(UART_MCR, mcr);
    outb(UART_LCR, lcr);
}

void print(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    print_borrowed("", format, &arguments);
    va_end(arguments);
}

void panic(const char *format, ...) {
    va_list arguments;

    processors_stop();
    va_start(arguments, format);
    print_borrowed("nvmx: fatal: ", format, &arguments);
    va_end(arguments);
    print("\n");
    crash_report(NULL);
    trace_print();
    power_off();
}
