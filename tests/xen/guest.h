/* SPDX-License-Identifier: MIT */
/* Where things are in the domain's memory: dom0.c and guest.S share it. */
#ifndef GUEST_H
#define GUEST_H

#define GUEST_START        0x100000
#define GUEST_MEMORY_START 0x200000
#define GUEST_MEMORY_END   0x800000 /* all of the domain's memory */

#endif
