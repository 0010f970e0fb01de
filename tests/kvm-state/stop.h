/* SPDX-License-Identifier: MIT */
/* What guest.c and vmm.c agree on. */
#ifndef KVM_STATE_STOP_H
#define KVM_STATE_STOP_H

/* A dword written here is the number of a state. */
#define STOP_PORT      0x8a00
#define STOP_PORT_TEXT "0x8a00"

enum { STOP_OFF, STOP_ROOT, STOP_CURRENT, STOP_FIRST_L2 };

#endif
