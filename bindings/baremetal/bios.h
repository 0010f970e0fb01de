/* SPDX-License-Identifier: MIT */
/* The block that bios.c puts into L1's conventional memory: bios_hook.S's code, then its data. Numbers that both share.
 */
#ifndef BIOS_H
#define BIOS_H

#define BIOS_BLOCK_BYTES 4096

/* Offsets from the block's start, which is offset 0 of a real-mode segment. */
#define BIOS_CODE_BYTES    256
#define BIOS_OLD_VECTOR    256 /* IP, CS of the handler that was there */
#define BIOS_BELOW_16M_KIB 260 /* RAM from 1 MiB on, to 16 MiB at most */
#define BIOS_ABOVE_16M_64K 262 /* RAM from 16 MiB on, in 64 KiB */
#define BIOS_ABOVE_1M_KIB  264 /* RAM from 1 MiB on, as far as 16 bits go */
#define BIOS_MAP_COUNT     266
#define BIOS_MAP           268 /* entries as E820 gives them */
#define BIOS_MAP_ENTRY     20

#endif
