/* SPDX-License-Identifier: MIT */
/* The capabilities of the machine itself, through Linux's MSR device and CPUID. */
#ifndef NVMX_CLI_CAPDEVICE_H
#define NVMX_CLI_CAPDEVICE_H

#include "capset.h"

/* CLI_OK, or a status after a message. The device is read as Linux's msr module offers it: 8 bytes at offset INDEX. */
int capdevice_read(struct capset *set, const char *path);

#endif
