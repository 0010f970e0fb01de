/* SPDX-License-Identifier: MIT */
#ifndef MICRO_EPT_H
#define MICRO_EPT_H

/* Prints a JSON object: "ept", a list of operations of the composition alone. Returns an exit status. */
int ept_alone(void);

#endif
