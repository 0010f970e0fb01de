/* SPDX-License-Identifier: MIT */
/* Supervisor shadow stacks and other things of ept02 beside the reference walker (ept_stacks.c), for ept.c. */
#ifndef FUZZ_EPT_STACKS_H
#define FUZZ_EPT_STACKS_H

#include "ept_world.h"

struct fuzz_input;

/* A world with the capabilities of WORLD_CAPS_AD, WORLD_CAPS_ADVANCED and bit 23; operations from the input. */
void ept_stacks(struct world *w, struct fuzz_input *in);

#endif
