/* SPDX-License-Identifier: MIT */
/* Included before all else by the sources of bindings/baremetal that run in a program: physical addresses are the program's own, and INVEPT is the test's. */
#ifndef REPLACE_H
#define REPLACE_H

#include "layout.h"
#undef DIRECT_MAP
#define DIRECT_MAP 0
#include "x86.h"

bool model_invept(uint64_t type, uint64_t eptp);
#define invept model_invept

#endif
