/* SPDX-License-Identifier: MIT */
/* COM1, and the way out of the machine. */
#ifndef L1_SERIAL_H
#define L1_SERIAL_H

void serial_init(void);
void serial_char(char c);
void power_off(void) __attribute__((noreturn));

#endif
