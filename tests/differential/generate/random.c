/* SPDX-License-Identifier: MIT */
#include "generate.h"

/* splitmix64: any seed is good, also numbers in a row. */
uint64_t random_next(struct random *r) {
    uint64_t value = r->state += UINT64_C(0x9e3779b97f4a7c15);

    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

void random_init(struct random *r, uint64_t seed, uint64_t number) {
    r->state = seed * UINT64_C(0xd1342543de82ef95) + number;
    r->state = random_next(r);
}

unsigned int random_below(struct random *r, unsigned int below) {
    return (unsigned int)((random_next(r) >> 32) % below);
}
