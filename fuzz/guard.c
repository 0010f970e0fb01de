/* SPDX-License-Identifier: MIT */
/*
 * The simulated host takes rights away from pages that the library does not hold. mprotect costs more than all the rest of an input, so
 * in the fuzzers its place is taken by AddressSanitizer's poison; without AddressSanitizer pages stay accessible. (The unit tests use mprotect.)
 */
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "nvmx/types.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_POISON 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(HAVE_POISON)
#define HAVE_POISON 1
#endif
#ifdef HAVE_POISON
#include <sanitizer/asan_interface.h>
#endif

int fuzz_mprotect(void *page, size_t bytes, int rights);

#define KNOWN 65536u /* pages: a power of two, far more than all machines of a process touch */

/* First use of a page: accessible for good. */
static int open_up(void *page, size_t bytes) {
    static uintptr_t known[KNOWN];
    uintptr_t number = (uintptr_t)page / NVMX_PAGE_SIZE;
    for (size_t i = 0, at = number * 0x9e3779b1u % KNOWN; i < 64; i++, at = (at + 1) % KNOWN) {
        if (known[at] == number)
            return 0;
        if (known[at] == 0) {
            known[at] = number;
            break;
        }
    }
    return (int)syscall(SYS_mprotect, page, bytes, PROT_READ | PROT_WRITE);
}

int fuzz_mprotect(void *page, size_t bytes, int rights) {
    if (rights == PROT_NONE) {
#ifdef HAVE_POISON
        __asan_poison_memory_region(page, bytes);
#endif
        return 0;
    }
    int result = open_up(page, bytes);
#ifdef HAVE_POISON
    __asan_unpoison_memory_region(page, bytes);
#endif
    return result;
}
