/* SPDX-License-Identifier: MIT */
#ifndef MICRO_SCALING_H
#define MICRO_SCALING_H

/* Prints a JSON object: "vmcs12s", "memory", "cpus", each a list of points. Returns an exit status. */
int scaling(void);

#endif
