/* SPDX-License-Identifier: MIT */
/*
 * Seeds for what needs an input of its own: a 32-bit L1, bus locks, IA32_SPEC_CTRL behind L1's mask, CR3 targets, ports without bitmaps, supervisor shadow
 * stacks, hosts that compose ept02 or use themselves what L1 may use; VMs of any description; several processors.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void seeds_of_features(const char *harness);

static void print(const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

#define PRINT(...)                                                                                                               \
    do {                                                                                                                         \
        const uint8_t seed[] = {__VA_ARGS__};                                                                                    \
        print(seed, sizeof(seed));                                                                                               \
    } while (0)

#define FIRST_NEWEST 48u
#define PROFILES     64u
#define FIRST_HOST   0xfcu /* a host that composes, and one that demands */

static uint8_t low(size_t value) {
    return (uint8_t)value;
}

/* L1 outside of IA-32e mode: PDPTEs that are not there, that are, that are wrong; with bundles that such an L2 can have. */
static void small_l1(void) {
    static const uint8_t bundle[] = {0xf0, 0xf7, 0xf8, 0xf9, 0xfb, 0xff};
    for (size_t profile = 0; profile < PROFILES; profile++)
        for (size_t i = 0; i < sizeof(bundle); i++) {
            PRINT(low(0x80 | profile), 0, 0, 0, 0, 0, 0x7f, 0, bundle[i]);
            PRINT(low(0x80 | profile), 1, 0x20, 1, 0x30, 1, 0x40, 1, 0x50, low(profile * 2 + 1), 0x7f, 0, bundle[i]);
        }
}

/* An exit: reason, how it is told, qualification, length of the instruction (15: and a bus lock), RAX, RCX, RDX; then changes of vmcs12. */
static void exits_of_newest(uint8_t profile) {
    for (uint8_t reason = 0; reason < 86; reason++)
        PRINT(profile, 0, reason, 0, 0, 0, 0x0f, 0, 0, 0, 0xea);
    for (uint8_t rax = 0; rax < 4; rax++) {
        PRINT(profile, 0, 31, 0, 0, 0, 2, rax, 0x48, 0, 0xe8);
        PRINT(profile, 0, 32, 0, 0, 0, 2, rax, 0x48, 0, 0xe8);
        for (uint8_t reg = 0; reg < 16; reg += 5) { /* the immediate forms */
            PRINT(profile, 0, 84, 32, 0x48, 0, 9, 0, 0, 0, 0, low((size_t)reg << 3), 0, 0, 0, rax, rax, 0, 0xe8);
            PRINT(profile, 0, 85, 32, 0x48, 0, 9, 0, 0, 0, 0, low((size_t)reg << 3), 0, 0, 0, rax, rax, 0, 0xe8);
        }
    }
    PRINT(profile, 0, 32, 0, 0, 0, 2, 0xff, 0x48, 0, 0xe8, 0xf7); /* a fault in real mode */
}

static void exits_of_any(uint8_t profile) {
    static const uint8_t access[] = {0x00, 0x03, 0x04, 0x08, 0x13, 0x18, 0x20, 0x30};
    for (uint8_t count = 0; count < 5; count++)
        for (uint8_t rax = 0; rax < 3; rax++) /* MOV to CR3 with so many targets, L1's CR3-load exiting */
            PRINT(profile, 0, 28, 0, 3, 0, 3, rax, 0, 0, 1, 0x1e, 28, 1, 0, count);
    for (size_t i = 0; i < sizeof(access); i++)
        for (uint8_t bundle = 0xf7; bundle <= 0xf9; bundle++)
            PRINT(profile, 0, 28, 0, access[i], 0, 3, 0x31, 0, 0, bundle);
    for (uint8_t wrap = 0; wrap < 2; wrap++) { /* ports, with and without bitmaps or unconditional exits */
        PRINT(profile, 0, 30, 2, 3, 0, 0xff, wrap ? 0xff : 0x7f, 2, 0, 0, 0);
        PRINT(profile, 0, 30, 2, 3, 0, 0xff, wrap ? 0xff : 0x7f, 2, 0, 0, 0, 1, 0x30);
        PRINT(profile, 0, 30, 2, 3, 0, 0xff, wrap ? 0xff : 0x7f, 2, 0, 0, 0, 1, 0x32);
    }
}

static void exits(void) {
    for (unsigned int profile = FIRST_NEWEST; profile < PROFILES; profile++)
        exits_of_newest(low(profile));
    for (unsigned int host = FIRST_HOST; host < 256; host++)
        exits_of_newest(low(host));
    for (unsigned int profile = 0; profile < 256; profile += profile < PROFILES ? 4 : 31)
        exits_of_any(low(profile));
}

/* Leaves, tables, accesses of each kind; many roots; each wrong argument. */
static void stacks(void) {
    for (uint8_t how = 0; how < 16; how++)
        PRINT(0xf8, how, 29, how, 28, low(how * 16u), 30, low((size_t)how << 4), 35, 0x21);
    for (uint8_t world = 0; world < 64; world++) {
        uint8_t seed[82] = {0xf8, world};
        for (size_t i = 2; i < sizeof(seed); i++)
            seed[i] = low(i % 2 ? i * 53 + world * (size_t)29 + i * i : i % 4 ? 35 + (i + world) % 21 : (i * 3 + world) % 28);
        print(seed, sizeof(seed));
    }
}

/* The worlds with sub-page permissions, from 0xf0 to 0xf7. */
static void sub_pages(void) {
    for (uint8_t world = 0; world < 64; world++) {
        uint8_t seed[1 + 3 * 100] = {low(0xf0 + world % 8)};
        for (size_t i = 1; i < sizeof(seed); i++)
            seed[i] = low((uint32_t)((i + world * sizeof(seed)) * 2654435761u) >> 13);
        print(seed, sizeof(seed));
    }
}

static void programs(void) {
    for (unsigned int host = FIRST_HOST; host < 256; host++)
        for (uint8_t bundle = 0xf0; bundle != 0xeb; bundle = low(bundle == 0xff ? 0xe8u : bundle + 1u)) {
            PRINT(low(host), 0, 4, 1, 0, 2, 0, 12, 1, bundle, 9, 0, 128 + 48, 0x43, 0, 0x82, 0, 0x48, 4, 1, 10, 0, 0, 0, 27, 1, 6, 23, 10);
            PRINT(low(host), 221, 10, 0, 0, 4, 1, 0, 2, 0, 12, 1, bundle, 9, 221, 0, 221, 0, 0xff);
        }
}

/* MSRs that the host may watch, written by L1 and by L2 between entries, exits and resets; loaded by L1's controls, or not; saved, restored, refused in between. */
static void watched_msrs(void) {
    for (unsigned int profile = 0; profile < 64; profile++)
        for (uint8_t msr = 0; msr < 5; msr++) {
            uint8_t loads = low((profile + msr) * 5u), l2 = low(profile & 1 ? 27 : 5), other = low((msr + profile) % 5);
            PRINT(low(profile), 0, 4, 1, 0, 2, 0, 12, 5, 1, 56, 3, low(loads & 1 ? 38 : 0xfc), 3, low(loads & 2 ? 42 : 0xfc), 4, low(loads & 4 ? 28 : 0xfc), 4,
                  low(loads & 8 ? 30 : 0xfc), 223, msr, 1, 0x34, 0x12, 9, 0, 0, 0, 223, msr, 2, 0x78, 0x56, 0x34, 0x12, 10, 0, 0, 0, 10, 223, msr, 1, 0xff, 0x07, 0, 0, 0, 10, 0, 0, 0,
                  223, other, 0, 6, 10, 0, l2, 0, 240, 1, 10, 223, other, 0, 5, 0, 0, 0, 5, 200, 10, 0, 0, 0, 216, 0, 223, msr, 1, 1, 8, 10);
            PRINT(low(profile), 0, 4, 1, 1, 2, 1, 12, 2, 1, 56, 0xf0, 9, 223, msr, 1, 0x34, 0x12, 0, 0, 0, 1, 0, 2, 0, 12, 2, 1, 56, 3, low(msr & 1 ? 38 : 42), 9, 223, other, 1, 0x35,
                  0x12, 0, 0, 0, 2, 1, 10, 0, 0, 0, 222, 2, 0, 10, 0, 0, 0, 223, msr, 0, 7, 252, 0, 4, 2, 0, 12, 1, 0xf1, 9, 0, 0, 0, 10);
            PRINT(low(profile), 0, 4, 1, 0, 2, 0, 12, low(loads & 1), 3, low(loads & 2 ? 38 : 42), 9, 0, 0, 0, 10, 0, 0, 0, 10, 0, 0, 0, 10, 0, 0, 0, 223, msr, 1, 0x11, 0x22, 10, 0, 0, 0, 10,
                  0, 0, 0, 10, 0, 0, 0, 223, other, 1, 0x12, 0x21, 10, 0, 0, 0, 10);
        }
}

/* VMs of any description: what is wrong with it, a number; 16 bytes come before, all 0 for an unchanged machine and the first findings. VMX is hidden from 0xa0 to 0xbf. */
static void descriptions(void) {
    for (unsigned int what = 0; what < 256; what = what * 2 + (what == 0))
        for (unsigned int number = 0; number < 256; number++) {
            uint8_t seed[20] = {[16] = low(what), [17] = low(number), [18] = low(number * 7), [19] = 3};
            print(seed, sizeof(seed));
        }
}

/* Options, then steps of four bytes: three processors that begin, and then anything. */
static void several(void) {
    for (uint8_t options = 0; options < 64; options++) {
        uint8_t seed[1 + 4 * 120] = {options};
        for (size_t i = 1; i < sizeof(seed); i++) {
            size_t step = (i - 1) / 4, any = (uint32_t)((i + options * sizeof(seed)) * 2654435761u) >> 13;
            seed[i] = low((i - 1) % 4 != 0 ? any : step < 9 ? 48 + step % 3 : any % (options % 4 == 0 ? 84 : 69));
        }
        print(seed, sizeof(seed));
    }
}

void seeds_of_features(const char *harness) {
    if (strcmp(harness, "vmcs_state") == 0)
        small_l1();
    else if (strcmp(harness, "exits") == 0)
        exits();
    else if (strcmp(harness, "ept") == 0) {
        stacks();
        sub_pages();
    } else if (strcmp(harness, "program") == 0) {
        programs();
        watched_msrs();
    } else if (strcmp(harness, "model") == 0)
        descriptions();
    else if (strcmp(harness, "vcpus") == 0)
        several();
}
