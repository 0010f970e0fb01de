/* SPDX-License-Identifier: MIT */
/* The four functions that a freestanding compiler and libnvmx expect. */
#include "memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    void *result = to;
    size_t words = bytes / 8;

    bytes %= 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t bytes) {
    unsigned char *t = to;
    const unsigned char *f = from;

    if (t <= f || t >= f + bytes)
        return memcpy(to, from, bytes);
    t += bytes - 1;
    f += bytes - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(t), "+S"(f), "+c"(bytes) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    void *result = to;
    size_t words = bytes / 8;

    bytes %= 8;
    __asm__ volatile("rep stosq"
                     : "+D"(to), "+c"(words)
                     : "a"(0x0101010101010101ull * (unsigned char)value)
                     : "memory");
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, size_t bytes) {
    const unsigned char *x = a, *y = b;
    size_t words = bytes / 8;
    bool same = true;

    /* RSI and RDI end behind the words that are compared: at what follows, or behind the two that differ. */
    if (words != 0)
        __asm__ volatile("repe cmpsq" : "=@cce"(same), "+S"(x), "+D"(y), "+c"(words) : : "memory");
    size_t left = same ? bytes % 8 : 8;
    x -= same ? 0 : 8;
    y -= same ? 0 : 8;
    for (size_t i = 0; i < left; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}
