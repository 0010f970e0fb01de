/* SPDX-License-Identifier: MIT */
/* The four functions that a freestanding compiler and libnvmx expect. */
#include "memory.h"

#include <stddef.h>
#include <stdint.h>

/* Eight bytes of anything, at any address. */
typedef uint64_t __attribute__((may_alias, aligned(1))) word;

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
    size_t i = 0;

    while (i + sizeof(uint64_t) <= bytes && *(const word *)(x + i) == *(const word *)(y + i))
        i += sizeof(uint64_t);
    for (; i < bytes; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}
