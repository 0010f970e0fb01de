/* SPDX-License-Identifier: MIT */
/* COM1 of the guest: a 16450 whose receiver hears nothing. Each line that is sent comes on stdout behind "L2: ". */
#include <stdio.h>

#include "linux-guest.h"

#define DIVISOR_LATCH      0x80u
#define LOOPBACK           0x10u
#define ENABLE_EMPTY       0x02u
#define LINE_STATUS_EMPTY  0x60u
#define NOTHING_PENDING    0x01u
#define TRANSMITTER_EMPTY  0x02u
#define MODEM_LINES_PRESENT 0xb0u /* CTS, DSR, DCD */

enum { DATA, INTERRUPT_ENABLE, INTERRUPT_ID, LINE_CONTROL, MODEM_CONTROL, LINE_STATUS, MODEM_STATUS, SCRATCH };

static struct {
    uint8_t enable, line_control, modem_control, scratch, divisor[2];
    bool emptied; /* the transmitter became empty, and nobody has been told */
    bool in_line;
} uart;

static void send(uint8_t letter) {
    if (letter == '\r') {
        return;
    }
    if (!uart.in_line) {
        fputs("L2: ", stdout);
        uart.in_line = true;
    }
    putchar(letter);
    if (letter == '\n') {
        uart.in_line = false;
        fflush(stdout);
    }
}

void uart_flush(void) {
    if (uart.in_line) {
        send('\n');
    }
}

bool uart_line(void) {
    return (uart.enable & ENABLE_EMPTY) != 0 && uart.emptied;
}

static uint8_t interrupt_id(void) {
    if (!uart_line()) {
        return NOTHING_PENDING;
    }
    uart.emptied = false;
    return TRANSMITTER_EMPTY;
}

/* In loopback the outputs of the modem control come back as its inputs. */
static uint8_t modem_status(void) {
    uint8_t out = uart.modem_control;
    if ((out & LOOPBACK) == 0) {
        return MODEM_LINES_PRESENT;
    }
    return (uint8_t)((out & 2u) << 3 | (out & 1u) << 5 | (out & 4u) << 4 | (out & 8u) << 4);
}

uint8_t uart_read(unsigned offset) {
    bool latch = (uart.line_control & DIVISOR_LATCH) != 0;
    switch (offset) {
    case DATA:
        return latch ? uart.divisor[0] : 0;
    case INTERRUPT_ENABLE:
        return latch ? uart.divisor[1] : uart.enable;
    case INTERRUPT_ID:
        return interrupt_id();
    case LINE_CONTROL:
        return uart.line_control;
    case MODEM_CONTROL:
        return uart.modem_control;
    case LINE_STATUS:
        return LINE_STATUS_EMPTY;
    case MODEM_STATUS:
        return modem_status();
    default:
        return uart.scratch;
    }
}

void uart_write(unsigned offset, uint8_t value) {
    bool latch = (uart.line_control & DIVISOR_LATCH) != 0;
    switch (offset) {
    case DATA:
        if (latch) {
            uart.divisor[0] = value;
        } else if ((uart.modem_control & LOOPBACK) == 0) {
            send(value);
            uart.emptied = true;
        }
        break;
    case INTERRUPT_ENABLE:
        if (latch) {
            uart.divisor[1] = value;
        } else {
            /* Enabling it while the transmitter is empty asks at once. */
            uart.emptied = uart.emptied || (~uart.enable & value & ENABLE_EMPTY) != 0;
            uart.enable = value & 0x0f;
        }
        break;
    case LINE_CONTROL:
        uart.line_control = value;
        break;
    case MODEM_CONTROL:
        uart.modem_control = value & 0x1f;
        break;
    case SCRATCH:
        uart.scratch = value;
        break;
    default: /* no FIFO; status registers can't be written */
        break;
    }
}
