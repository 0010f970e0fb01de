/* SPDX-License-Identifier: MIT */
#include "serial.h"

#include "cpu.h"

enum { COM1 = 0x3f8, LINE_STATUS = COM1 + 5, THR_EMPTY = 0x20, ALL_SENT = 0x40, LONG_ENOUGH = 1000000 };

/* A UART that isn't there reads as FFH: everything looks sent, nothing hangs. */
static void wait_for(uint8_t bits) {
    for (uint32_t i = 0; i < LONG_ENOUGH && (inb(LINE_STATUS) & bits) != bits; i++) {
    }
}

void serial_init(void) {
    outb(COM1 + 1, 0);                  /* no interrupts */
    outb(COM1 + 3, 0x80);               /* divisor latch: 1 = 115200 baud */
    outb(COM1 + 0, 1);
    outb(COM1 + 1, 0);
    outb(COM1 + 3, 0x03);               /* 8N1 */
    outb(COM1 + 2, 0xc7);               /* FIFOs on and empty */
    outb(COM1 + 4, 0x03);
}

void serial_char(char c) {
    if (c == '\n') {
        serial_char('\r');
    }
    wait_for(THR_EMPTY);
    outb(COM1, (uint8_t)c);
}

void power_off(void) {
    static const char word[] = "Shutdown";
    wait_for(ALL_SENT);
    for (uint32_t i = 0; i < sizeof word - 1; i++) {
        outb(0x8900, (uint8_t)word[i]);
    }
    outw(0xb004, 0x2000);               /* ACPI PM1a_CNT, SLP_EN: Bochs, old QEMU; then QEMU's PIIX4 */
    outw(0x604, 0x2000);
    for (;;) {
        __asm__ volatile("cli\n\thlt");
    }
}
