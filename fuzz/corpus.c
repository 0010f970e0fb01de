/* SPDX-License-Identifier: MIT */
/*
 * Corpora as files of hexadecimal lines, seeds and the dictionary from the library's tables.
 *   fuzz-corpus seeds HARNESS         one input a line, on stdout
 *   fuzz-corpus dictionary HARNESS    for libFuzzer and AFL++, on stdout
 *   fuzz-corpus unpack FILE.hex DIR   a file for each line
 *   fuzz-corpus pack DIR              a line for each file, sorted, on stdout
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nvmx/exits.h>
#include <nvmx/vmcs.h>

#define MOST 4096u

void seeds_of_checks(void), seeds_of_features(const char *harness); /* corpus_checks.c, corpus_features.c */

static void line(const uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

static uint8_t low(size_t value) {
    return (uint8_t)(value & 0xff);
}

/* -- seeds ------------------------------------------------------------------------------------------------------------------------------------ */

/* profile, groups, host (nothing), then a change: field, how, value */
static void seeds_vmcs_state(void) {
    for (size_t slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        size_t which = slot < 29 ? slot + NVMX_FIELD_COUNT : slot; /* small numbers name the fields that decide the most */
        uint8_t flip[] = {low(slot), 0x7f, 0, low(which), 0x0e};
        uint8_t insist[] = {low(slot + 7), 0x01, 0, low(which), 0x81, 0x03, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0};
        if (which < 256) {
            line(flip, sizeof(flip));
            line(insist, sizeof(insist));
        }
    }
    for (size_t bundle = 0; bundle < 16; bundle++)
        for (size_t profile = 0; profile < 48; profile += 2) {
            uint8_t one[] = {low(profile), 0x7f, low(profile % 16 == 6 ? 0x20 : 0), low(0xf0 + bundle)};
            uint8_t two[] = {low(profile), 0x7f, 0, low(0xf0 + bundle), low(0xf0 + (bundle + 1 + profile / 2) % 16), low(0xf0 + (bundle + 5) % 16)};
            line(one, sizeof(one));
            line(two, sizeof(two));
        }
    for (size_t bundle = 0; bundle < 19; bundle++)
        for (size_t k = 1; k < 60; k++) {
            uint8_t change = low((bundle < 16 ? 0xf0u : 0xd8u) + bundle);
            uint8_t seed[] = {low(k % 2 ? 48 + bundle % 16 : k), 0xff, low(k), low(k % 5 == 4 ? 0x20 : 0), 1, 2, 3, 4, change, 0xfb};
            line(seed, sizeof(seed));
        }
    for (size_t field = 0; field < 5; field++)
        for (size_t bit = 0; bit < 32; bit++) {
            uint8_t seed[] = {low(bit * 5 % 48), 0x7f, 0, low(field), low(bit << 1), low(field + 5), low((bit + 1) << 1)};
            line(seed, sizeof(seed));
        }
    seeds_of_checks();
}

/* profile, host (nothing), reason, kinds of information, qualification, length, registers */
static void seeds_exits(void) {
    for (size_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
        uint8_t plain[] = {0, 0, low(reason), 0, 0, 0, 2, 1, 2, 3};
        uint8_t rich[] = {4, 0x45, 0xff, 0xff, 0xff, 0xff, 0x00, 0x40, 0, 0, 1, low(reason), 0x3f, 0, 0x21, 0x30, 0x00, 0x0e, 0x0b, 4, 0x0e, 0x0b, 0, 3, 5, 1, 5, 2};
        line(plain, sizeof(plain));
        line(rich, sizeof(rich));
        for (size_t bundle = 0; bundle < 16; bundle++) {
            uint8_t bundled[] = {low(bundle % 2 * 4), 0, low(reason), 0x60, 0, 0, 1, 4, 0x50, 1, 0, 0, 0x18, 4, 0, 0x10, 0, 0, 0, 0, 1, 0, low(0xf0 + bundle)};
            line(bundled, sizeof(bundled));
        }
    }
}

/* profile, then operations as program.c numbers them */
static void seeds_program(void) {
    static const uint8_t start[] = {0, 4, 1, 0, 2, 0, 12, 0, 9};       /* VMXON, VMCLEAR, VMPTRLD, a vmcs12, VMLAUNCH */
    static const uint8_t other[] = {1, 1, 2, 1, 12, 0, 9};             /* the same with the next VMCS */
    static const uint8_t ends[][8] = {{10, 2, 0, 10}, {5, 1, 6, 40, 7, 41, 0, 9}, {15, 0, 4, 2, 0, 10}, {1, 0, 9}, {14, 1, 10}, {4, 11, 1, 0, 30}};
    for (uint8_t profile = 0; profile < 12; profile++)
        for (size_t reason = 0; reason < 20; reason++) {
            uint8_t seed[64] = {profile};
            size_t at = 1;
            memcpy(seed + at, start, sizeof(start));
            at += sizeof(start);
            seed[at++] = 0;
            seed[at++] = low(reason);
            seed[at++] = 0x13;
            memset(seed + at, 3, 8);
            at += 8;
            if (reason % 3 == 0) {
                memcpy(seed + at, other, sizeof(other));
                at += sizeof(other);
            }
            if (reason % 4 == 1)
                seed[at++] = 240;
            memcpy(seed + at, ends[reason % 6], sizeof(ends[0]));
            line(seed, at + sizeof(ends[0]));
        }
    /* A vmcs12 with a bundle runs, exits for this reason, goes on; questions in each mode. */
    for (uint8_t bundle = 0; bundle < 16; bundle++)
        for (uint8_t reason = 0; reason < 80; reason++) {
            uint8_t seed[] = {low(bundle & 1u ? 4 : 0), 208, 1, reason, 0, 0, 0, 4, 1, 0, 2, 0, 12, 1, low(0xf0 + bundle), 9, 208, 9, reason, 0, 0,
                              0, low(128 + reason), 0x42, 0, 0x55, 4, low(reason & 15u), 10, 0, low(128 + reason * 3u % 80u), 0x60, 0, 0x80, 240, 1, 10, 4, 3, 208, 3, 2, 0, 0};
            line(seed, sizeof(seed));
        }
    for (uint8_t k = 0; k < 48; k++) { /* the k-th callback of a VMLAUNCH fails */
        uint8_t seed[] = {0, 0, 4, 1, 0, 2, 0, 12, 0, 14, 0x20, 9, k, 10, 9, 0, 0, 0};
        line(seed, sizeof(seed));
    }
}

/* Operations of three bytes. */
static void seeds_ept(void) {
    for (uint8_t world = 0; world < 112; world++) {
        uint8_t seed[1 + 3 * 190] = {world};
        for (size_t i = 1; i < sizeof(seed); i++)
            seed[i] = low(i % 3 == 0 && i % 4 == world % 4 ? 0xe0u : i * 37 + world * 11 + i / 3 * 5 + world / 14 * i * i);
        line(seed, sizeof(seed));
    }
}

static void seeds_state(void) {
    for (size_t profile = 0; profile < 24; profile++)
        for (uint8_t what = 0; what < 4; what++) {
            uint8_t seed[] = {low(profile), what, 0, 1, 0x10, 0x01, low(profile * 9)};
            line(seed, sizeof(seed));
        }
    for (size_t bundle = 0; bundle < 19; bundle++)
        for (size_t k = 0; k < 40; k++)
            for (uint8_t what = 1; what < 4; what++) { /* callbacks fail while it is saved, and while it is completed */
                uint8_t change = low((bundle < 16 ? 0xf0u : 0xd8u) + bundle);
                uint8_t saving[] = {low(40 + bundle), low(what | 0x18), change, 0, 0x80, 0, 0x80, low(k)};
                uint8_t completing[] = {low(40 + bundle), low(what | 0x48), change, 0, 0x80, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, low(k)};
                line(saving, sizeof(saving));
                line(completing, sizeof(completing));
            }
    for (size_t place = 0; place < 3000; place += 4)
        for (uint8_t what = 2; what < 4; what++) {
            uint8_t seed[] = {low(place % 64), low(what | 8), low(0xf0 + place / 4 % 16), 0, 0x80, 0, 0x80, low(place), low(place >> 8), 1, low(place % 255 + 1)};
            line(seed, sizeof(seed));
        }
}

static void seeds_decode(void) {
    static const uint8_t code[][8] = {{0x0f, 0xc7, 0x30}, {0xf3, 0x0f, 0xc7, 0x74, 0x24, 8}, {0x66, 0x0f, 0xc7, 0x30}, {0x0f, 0x78, 0xc8}, {0x0f, 0x79, 0xc8},
                                      {0x0f, 0xc7, 0x38}, {0x66, 0x0f, 0x38, 0x80, 0x08}, {0x66, 0x0f, 0x38, 0x81, 0x0d, 1, 2, 3}, {0x64, 0x67, 0x0f, 0x78, 0x04, 0x25}};
    for (uint8_t bits = 0; bits < 3; bits++)
        for (size_t i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
            uint8_t seed[18] = {bits, 0x10, 0x20};
            memcpy(seed + 3, code[i], sizeof(code[0]));
            line(seed, sizeof(seed));
        }
}

/* profile, host (nothing), no changes, then at which callback which place's byte becomes what */
static void seeds_race(void) {
    for (uint8_t profile = 0; profile < 24; profile += 3)
        for (uint8_t place = 0; place < 21; place++)
            for (uint8_t wait = 0; wait < 24; wait += 7) {
                uint8_t seed[] = {profile, 0, 0, wait, place, 8, 0, 3, 0x81, 0xff, 0, 0, 0x40, 0, 0, 0, 2, low(place + 1), 0x10, 0, 0x04, 1, 1, place, 0, 0, 0, 0xff};
                line(seed, sizeof(seed));
            }
}

/* what the vCPU does, room, then changes: place, value; places from F000H on are what is elsewhere */
static void seeds_kvm(void) {
    for (size_t bundle = 0; bundle < 19; bundle++)
        for (uint8_t what = 0; what < 5; what++)
            for (size_t more = 0x20; more < 0x40; more += 0x10) {
                uint8_t seed[] = {low(more + (what + 10 - more % 5) % 5), 0x10, 0, low((bundle < 16 ? 0xf0u : 0xd8u) + bundle), 1, 0x3e, 2, 0x22};
                line(seed, sizeof(seed));
            }
    for (uint8_t what = 0; what < 5; what++) {
        for (size_t at = 0; at < 128 + 1000; at += at < 40 ? 1 : 8) {
            uint8_t seed[] = {what, 0x10, 0, low(at), low(at >> 8), low(at * 7)};
            line(seed, sizeof(seed));
        }
        for (uint8_t which = 0; which < 12; which++) {
            uint8_t seed[] = {what, 0x80, 1, 0, 0xf0, which, 0x44, which, 1, 0, 0};
            line(seed, sizeof(seed));
        }
    }
}

/* profile, mode, reason, information, displacement, then changes */
static void seeds_operand(void) {
    for (uint8_t mode = 0; mode < 4; mode++)
        for (uint8_t reason = 0; reason < 10; reason++) {
            uint8_t plain[] = {low(mode * 8u + reason), low(mode & 1), reason};
            line(plain, sizeof(plain));
            for (uint8_t segment = 0; segment < 6; segment++) {
                uint32_t size = mode & 1 ? segment & 1u : 1u + (segment & 1u);
                uint32_t info = size << 7 | (uint32_t)segment << 15 | 3u << 18 | 6u << 23 | (mode & 2 ? 1u << 22 : 0) | (segment & 3u);
                uint8_t formed[] = {segment, low((mode & 1) | 2 | 4), reason, low(info), low(info >> 8), low(info >> 16), low(info >> 24), 1, 0, low(0x50 - segment),
                                    0xa3, 0, 8, 0xa6, 0, 16, low(2 + segment), 1, 0, 0x10};
                line(formed, sizeof(formed));
            }
            for (uint8_t what = 32; what < 64; what++) {
                uint8_t changed[] = {0, low(mode & 1), reason, low(what & 63), 0, low(what * 5u), low(what - 32u), 2, 0xff, 0xff, 0, 0};
                line(changed, sizeof(changed));
            }
            for (uint8_t entry = 0; entry < 24; entry++) {
                uint8_t tables[] = {0, low(mode & 1), reason, low(64 | (entry & 3u)), 0, low((entry & 7u) << 3 | 4), low(entry >> 2)};
                line(tables, sizeof(tables));
            }
        }
}

/* Bits of CR4 and EFER, and of entries of L1's tables, each with each; in 32-bit mode tables with entries of four bytes, and PDPTEs. */
static void seeds_operand_paging(void) {
    static const uint8_t cr4[] = {32, 4, 5, 7, 12, 20, 21, 24}, bits[] = {0, 1, 2, 5, 6, 7, 12, 21, 45, 51, 59, 62, 63};
    for (uint8_t reason = 0; reason < 10; reason += 3)
        for (size_t c = 0; c < sizeof(cr4); c++)
            for (size_t b = 0; b < sizeof(bits); b++)
                for (uint8_t table = 0; table < 3; table++) {
                    uint8_t plain[] = {48, 0, reason, 14, low(4u | (cr4[c] & 31u) << 3), low(cr4[c] >> 5u), low(64u | table), 0, low(4u | (bits[b] & 31u) << 3), low(bits[b] >> 5u),
                                       128, low(4 | 11 << 3), 0, low(table == 2 ? 12 : 30), low(4 | 16 << 3), 0};
                    uint8_t small[] = {low(c), 1, reason, 12, low(4 | 31 << 3), 0, 14, low(4u | (cr4[c] & 31u) << 3), low(cr4[c] >> 5u), low(64 | 0), 0, low(4u | (bits[b] & 31u) << 3),
                                       low(bits[b] >> 5u), 65, 2, 3, 0, 0, 0, 0, 7, 0x50, 0, 0};
                    line(plain, sizeof(plain) - (b % 2 ? 3 : 0));
                    line(plain, sizeof(plain) - 6);
                    line(small, sizeof(small));
                }
    for (size_t at = 0; at < 8; at++) /* operands that cross into the next page, whose table is another */
        for (uint8_t reason = 0; reason < 10; reason++) {
            uint8_t crossing[] = {low(at & 3), 4, reason, 2, low(0xfc + at), 0xff, 0x1f, 0, 64 | 2, 1, 4, 0};
            line(crossing, sizeof(crossing) - (at & 4 ? 4 : 0));
        }
}

static void seeds_operand_all(void) {
    seeds_operand();
    seeds_operand_paging();
}

/* firmware, changes of the machine, of the mask, machine and VM facts, vendor, memory, room, numbers */
static void seeds_model(void) {
    for (size_t bit = 0; bit < 64; bit++)
        for (size_t which = 0; which < 24; which += bit < 32 ? 1u : 3u) {
            uint8_t seed[] = {low(bit & 7), 1, low(which | (bit & 32)), 4, low(bit & 31), 1, low((which + bit) % 20), 4, low(bit & 31),
                              low(bit * 3 + 1), low(bit * 5 + 3), low(bit & 3), low(bit), 9, low(bit), low(which & 5), 2, 0x33, 0, 5, 0x80, 3, 7, low(bit), low(bit & 31)};
            line(seed, sizeof(seed));
        }
    for (size_t number = 0xc0; number < 0x100; number++)
        for (size_t offset = 0; offset < 16; offset++) {
            uint8_t seed[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low(number), low(offset), low(offset < 4 ? 0 : offset), low(offset * 7), low(offset & 7 ? 0 : 0xff)};
            line(seed, sizeof(seed));
        }
    for (size_t what = 0; what < 256; what++)
        for (size_t number = 0; number < 32; number += what & 1 ? 1u : 7u) {
            uint8_t seed[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low(what), low(number == 28 ? 77 : number == 21 ? 78 : number), low(what * 3), 9};
            line(seed, sizeof(seed));
        }
    for (size_t facts = 0; facts < 256; facts++)
        for (size_t vendor = 0; vendor < 4; vendor++) {
            uint8_t seed[] = {low(facts & 7), 0, 0, low(facts), low(255 - facts), low(vendor), low(facts / 8), low(facts), 0, 0, 3, 0x31, 0, 5, 0x80, low(facts), low(facts)};
            line(seed, sizeof(seed));
        }
}

/* Violations of ept12 with what L1 may make of them: #VE, a log, execution by mode; and the newest processors with all their controls. */
static void seeds_exits_more(void) {
    static const uint8_t bundle[] = {0, 2, 3, 4, 6, 15, 16, 17, 18};
    static const uint8_t qualification[] = {0x81, 0x82, 0x84, 0x01};
    for (size_t profile = 0; profile < 64; profile += profile < 48 ? 12u : 1u)
        for (size_t b = 0; b < sizeof(bundle); b++) {
            for (size_t q = 0; q < sizeof(qualification); q++)
                for (size_t page = 0; page < 3; page++) {
                    uint8_t change = low((bundle[b] < 16 ? 0xf0u : 0xd8u) + bundle[b]);
                    uint8_t seed[] = {low(profile), 0, 48, 0x21, 0, qualification[q], 0, 2, 0, 0x10, low(page == 1 ? 0x80 : page == 2 ? 0x20 : 0), 0, 0, 0x10, 0, 0, 0, 0,
                                      1, 2, 3, change, 0xf4};
                    line(seed, sizeof(seed));
                }
            for (size_t reason = 0; reason < NVMX_EXIT_REASONS; reason += b < 6 ? 7u : 1u) {
                uint8_t change = low((bundle[b] < 16 ? 0xf0u : 0xd8u) + bundle[b]);
                uint8_t seed[] = {low(profile), 0, low(reason), 0x20, 0x48, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 2, 3, change};
                line(seed, sizeof(seed));
            }
        }
}

/* Each reason with each control bit of the three groups turned; moves to and from each control register, under all masks; each exception; each callback failing. */
static void seeds_exits_controls(void) {
    for (size_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
        for (size_t bit = 0; bit < 96; bit++) {
            uint8_t seed[] = {low(bit % 2 ? 48 + reason % 16 : reason % 4), 0, low(reason), 0, 0, 0, 2, 1, 0, 3, 2, 62, low(bit / 32), low((bit & 31) << 1)};
            line(seed, sizeof(seed));
        }
        for (size_t at = 1; at < 16; at++)
            for (size_t bundle = 0; bundle < 19; bundle += 3) {
                uint8_t change = low((bundle < 16 ? 0xf0u : 0xd8u) + bundle);
                uint8_t seed[] = {low(bundle % 2 ? 48 + at : at & 7), 0, low(reason), 0x24, 0x81, 0, 0x0e, 0x0b, low(at << 4 | 2), 0, 0x10, 0, 0, 0x48, 0, 0, 0x48, 0, 1, 2, 3, change};
                line(seed, sizeof(seed));
            }
    }
    for (size_t access = 0; access < 64 * 16; access++) { /* cr, kind, register */
        size_t cr = access & 15, kind = access >> 4 & 3, number = access >> 6;
        for (size_t masked = 0; masked < 4; masked++) {
            uint8_t seed[] = {low(access & 3), 0, 28, 2, low(cr | kind << 4), low(number), 9, 0, 3, 0x21, 0x20, 0x33, 24, low(masked & 1), 6, 2, 25, low(masked & 1), 6, 2,
                              26, low(masked >> 1), 6, 2, 27, low(masked >> 1), 6, 2, 1, 30, 1, 32, 1, 38, 1, 40};
            if (cr < 9)
                line(seed, sizeof(seed));
        }
    }
    for (size_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) /* all primary controls that can be, and one of the secondary ones */
        for (size_t bit = 0; bit < 32; bit++) {
            uint8_t seed[] = {low(48 + (reason + bit) % 16), 0, low(reason), 0, low(bit * 8), low(bit & 1), 2, low(bit * 2), 1, low(bit), 1, 62, 1, 4, 1, 14, 1, 18, 1, 20, 1, 22, 1, 24, 1, 30, 1, 32, 1, 38,
                              1, 40, 1, 44, 1, 46, 1, 48, 1, 54, 1, 58, 1, 60, 1, 34, 2, low(bit << 1), low(bit & 1 ? 0xf1 : 2), low(bit << 1)};
            line(seed, sizeof(seed));
        }
    for (size_t vector = 0; vector < 32; vector++)
        for (size_t type = 2; type < 7; type++)
            for (size_t wanted = 0; wanted < 4; wanted++) { /* the exception bitmap all ones, page-fault masks */
                uint8_t seed[] = {low(vector), low(wanted == 3 ? 20 : 0), 0xff, 0xff, 0xff, 0xff, 7, 2, 0, 12, 0, 0, low(vector), low(type | 8), 2, 2, 1, 2, 3, 12, low(wanted & 1), 6, 2};
                line(seed, sizeof(seed) - (wanted == 3 ? 0 : 4));
            }
}

/* L2's own VMREADs and VMWRITEs: by register and in memory, in each mode, with paging of L2's own; and what else is carried out for L2. */
static void seeds_exits_l2(void) {
    static const uint8_t modes[][2] = {{0xf5, 0xf5}, {0xf5, 0xf7}, {0xf5, 0xf8}, {0xf5, 0xf9}, {0xf3, 0xf5}, {0xf4, 0xf5}};
    static const uint32_t info[] = {1u << 10 | 3u << 3, 2u << 7 | 3u << 15 | 1u << 22 | 1u << 27, 1u << 7 | 3u << 15 | 1u << 22 | 1u << 27, 2u << 7 | 2u << 15 | 1u << 22 | 5u << 23};
    static const uint16_t encoding[] = {0x6800, 0x681e, 0x2800, 0x2801, 0x4402, 0x7ffe, 0x4000};
    for (size_t profile = 0; profile < 64; profile += profile < 48 ? 12u : 1u)
        for (size_t mode = 0; mode < 6; mode++)
            for (size_t i = 0; i < 4; i++)
                for (size_t e = 0; e < 7; e++)
                    for (size_t write = 0; write < 2; write++) {
                        size_t page = e == 3 ? 0xff : e == 5 ? 0 : 0x10, fails = (profile + e) % 3 == 1 ? 1 + (profile * 7 + e + i) % 15 : 0;
                        uint8_t seed[] = {low(profile), 0, low(write ? 25 : 23), 0xa0, low(e == 3 ? 0xfd : 0), low(page), low(fails << 4 | 3), 0, 0, 0, 0, low(info[i]), low(info[i] >> 8),
                                          low(info[i] >> 16), low(info[i] >> 24 | 1u << 4), 0, 1, 1, low(encoding[e]), low(encoding[e] >> 8), 0, 5, modes[mode][0], modes[mode][1]};
                        line(seed, sizeof(seed));
                    }
    for (size_t profile = 48; profile < 64; profile++) /* VM functions; LMSW, CLTS; MSRs with values; XSAVES */
        for (size_t reason = 0; reason < NVMX_EXIT_REASONS; reason++)
            for (size_t rax = 0; rax < 3; rax++) {
                uint8_t function[] = {low(profile), 0, low(reason), 0, 0, 0, low((profile & 3) == 3 ? reason << 4 | 3 : 3), low(rax), low(rax == 2 ? 7 : rax), 3, 0xf2, low(rax == 1 ? 0xf4 : 0xea)};
                line(function, sizeof(function));
            }
}

static void seeds_exits_all(void) {
    seeds_exits_l2();
    seeds_exits();
    seeds_exits_more();
    seeds_exits_controls();
}

/* The newest processors, exits that the host gives, entries that hardware refuses. */
static void seeds_program_more(void) {
    for (size_t profile = 40; profile < 64; profile++)
        for (size_t bundle = 0; bundle < 19; bundle++)
            for (size_t way = 0; way < 4; way++) {
                uint8_t seed[] = {low(profile), 0, 0, 1, 0, 2, 0, 12, 1, low((bundle < 16 ? 0xf0u : 0xd8u) + bundle), 9, low(way == 0 ? 7 : way == 1 ? 0 : 4), low(way == 1 ? 128 + 31 : bundle * 4),
                                  0x21, 0, 0x48, 0, 0x48, 10, 7, low(bundle * 5), 0x13, 0, 0x81, 0, 0x20, 0, 0, 9, 240, 1, 10, 0, 0, 0, 4, 1};
                line(seed, sizeof(seed));
            }
}

/* Each operation of a program with each callback failing, and what L1 does after. */
static void seeds_program_failing(void) {
    static const uint8_t start[] = {0, 4, 1, 0, 1, 1, 1, 2, 2, 0};
    static const uint8_t operation[][4] = {{0, 4}, {1, 0}, {1, 1}, {2, 1}, {4}, {5, 40}, {7, 40, 0, 9}, {9}, {10}, {11, 2, 0, 0}, {27, 1, 6, 23}, {15}, {220}};
    static const uint8_t size[] = {2, 2, 2, 2, 1, 2, 4, 1, 1, 4, 4, 1, 1};
    static const uint8_t exits[] = {10, 0, 1, 2, 7, 8, 12, 28, 30, 31, 32, 48, 49, 52, 59, 23, 25, 62, 74};
    for (size_t k = 0; k < 40; k++) {
        for (size_t o = 0; o < sizeof(size); o++)
            for (size_t bundle = 0; bundle < 19; bundle += 2) {
                uint8_t seed[64] = {low(bundle % 4 ? 40 + bundle : o)}, *at = seed + 1;
                memcpy(at, start, sizeof(start));
                at += sizeof(start);
                *at++ = 12;
                *at++ = 1;
                *at++ = low((bundle < 16 ? 0xf0u : 0xd8u) + bundle);
                if (o == 8) /* VMRESUME wants a launched one */
                    memcpy(at, (uint8_t[]){9, 0, 128 + 32 + 10, 0}, 4), at += 4;
                *at++ = 14;
                *at++ = 0x20;
                memcpy(at, operation[o], size[o]);
                at += size[o];
                *at++ = low(k);
                memcpy(at, (uint8_t[]){2, 0, 5, 40, 9, 0, 0, 0, 10}, 9);
                line(seed, (size_t)(at + 9 - seed));
            }
        for (size_t e = 0; e < sizeof(exits); e++)
            for (size_t bundle = 0; bundle < 19; bundle += 2) {
                uint8_t seed[] = {low(bundle % 4 ? 40 + bundle : e), 0, 4, 1, 0, 2, 0, 12, 1, low((bundle < 16 ? 0xf0u : 0xd8u) + bundle), 9, 6, 0x20, 0,
                                  low(128 + (exits[e] + 32u) % 80u), 0x43, 0, 0x82, 0, 0x48, low(k), 4, 3, 10};
                line(seed, sizeof(seed));
            }
        for (size_t what = 0; what < 16; what++) {
            uint8_t seed[] = {low(what + k), 0, 4, 1, 0, 2, 0, 12, 2, low(0xf0 + k % 16), 0xfe, 9, 6, 0x20, 4, low(what), low(k % 24), 4, 15, 10};
            line(seed, sizeof(seed));
        }
    }
}

/* The host's calls, and events, before and after L2 was entered, by bundle. */
static void seeds_program_host(void) {
    for (size_t profile = 0; profile < 64; profile += 1)
        for (size_t bundle = 0; bundle < 19; bundle++) {
            uint8_t change = low((bundle < 16 ? 0xf0u : 0xd8u) + bundle);
            uint8_t seed[] = {low(profile), 220, 218, 0, 4, 218, 0, 4, 1, 0, 2, 0, 12, 1, change, 220, 219, 9, 216, 5, 217, 0xff, 0xff, 0, low(128 + 32 + 48), 0x43, 0, 0x82, 5, 5,
                              224, 0x80, 4, 1, 4, 2, 240, low(bundle & 1), 4, 4, 220, 10, 224, 0x85, 4, 8, 219, 0, 0, 0};
            line(seed, sizeof(seed));
        }
}

/* Events that wait for an L2 that is blocked, halted, about to take another; under what L1 wants. */
static void seeds_program_events(void) {
    static const uint8_t blocks[][3] = {{2, 0, 0}, {0, 0, 0}, {2, 1, 0}, {2, 2, 0}, {2, 8, 0}, {0, 8, 0}, {2, 0, 1}, {0, 0, 1}, {2, 0, 2}, {2, 0, 3}}; /* IF, blocking, activity */
    static const uint8_t wishes[] = {0xf0, 0xfd, 0xfe, 0xff, 0xea};
    static const uint16_t due[] = {0, 0x306, 0x050, 0x202, 0x700};
    static const uint8_t pending_debug = NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS;
    for (size_t b = 0; b < 10; b++)
        for (size_t w = 0; w < 5; w++)
            for (size_t d = 0; d < 5; d++)
                for (uint8_t what = 1; what < 32; what = low(what + (d == 0 ? 1u : 5u))) {
                    uint8_t seed[] = {low(w == 1 ? 49 + b * 4 % 16 : b % 4 + d * 4), 0, 4, 1, 0, 2, 0, 12, 7, wishes[w], 0, 12, 16, 1, 1, 2, blocks[b][0], 19, 1, 0, blocks[b][1], 18, 1, 0, blocks[b][2],
                                      13, 1, 2, low(due[d]), low(due[d] >> 8), 0, low(d ? 0x80 : 0), pending_debug, 1, 1, low(what & 1), low(what & 1 ? 0x10 : 0), 9, 4, what, 4, low(what >> 1), 217, 0, 1,
                                      4, 0, 0, 1, 0x40, 4, what, 10, 4, 3};
                    line(seed, sizeof(seed));
                }
}

static void seeds_program_all(void) {
    seeds_program_events();
    seeds_program();
    seeds_program_more();
    seeds_program_failing();
    seeds_program_host();
}

static void text_seed(uint8_t options, const char *text) {
    uint8_t seed[MOST] = {options};
    size_t length = strlen(text);
    memcpy(seed + 1, text, length);
    line(seed, 1 + length);
}

/* A word of the tables each; headings and lines of each format; capabilities; pairs from the input. */
static void seeds_explain(void) {
    static const char *const formats[] = {
        "VMCS 0x1, last attempted VM-entry on CPU 0\n*** Guest State ***\nCR0: actual=0x80050033, shadow=0x60000010, gh_mask=fffefff7\n"
        "CR4: actual=0x3726f0, shadow=0x3726e0, gh_mask=fffef871\nCR3 = 0x5000\nPDPTR0 = 0x1  PDPTR1 = 0x0\nRSP = 0x0  RIP = 0x1000\n"
        "RFLAGS=0x00000002         DR7 = 0x400\nSysenter RSP=0 CS:RIP=0010:0\nCS:   sel=0x0010, attr=0x0a09b, limit=0xffffffff, base=0x0\n"
        "GDTR:                           limit=0xffff, base=0x0\nEFER= 0x501 (effective)\nPAT = 0x7040600070406\n"
        "DebugCtl = 0x0  DebugExceptions = 0x0\nInterruptibility = 00000000  ActivityState = 00000000\nInterruptStatus = 0000\n",
        "*** Host State ***\nRIP = 0x1  RSP = 0x2\nCS=0010 SS=0018 DS=0000 ES=0000 FS=0000 GS=0000 TR=0040\nFSBase=0 GSBase=0 TRBase=0\n"
        "GDTBase=0 IDTBase=0\nCR0=80050033 CR3=5000 CR4=3726e0\nSysenter RSP=0 CS:RIP=0010:0\nEFER= 0xd01\nPAT = 0x7040600070406\n",
        "*** Control State ***\nCPUBased=0xb5a06dfa SecondaryExec=0x000004eb TertiaryExec=0x0\nPinBased=0x0000007f EntryControls=0000d1ff ExitControls=002befff\n"
        "ExceptionBitmap=00060042 PFECmask=00000000 PFECmatch=00000000\nVMEntry: intr_info=00000000 errcode=00000000 ilen=00000000\n"
        "VMExit: intr_info=00000000 errcode=00000000 ilen=00000003\n        reason=80000021 qualification=0000000000000000\n"
        "IDTVectoring: info=00000000 errcode=00000000\nTSC Offset = 0x0\nTPR Threshold = 0x00\nEPT pointer = 0x1e\nVirtual processor ID = 0x0001\n",
        "nvmx: VMCS 0 (vmcs01), after a failed entry\n  6800 GUEST_CR0 80000031\n  4000 PIN_BASED_CONTROLS 16\n",
        "(XEN) *** Guest State ***\n(XEN) CR0: actual=0x80050033, shadow=0x80050033, gh_mask=ffffffffffffffff\n(XEN) CR3 = 0x5000\n",
        "480 1\nphysical_address_bits 27\ncpu LONG_MODE\nGUEST_CR0 80000031\n", "l1_long_mode 1\nvtpr 10\npdpte0 1\n6800 1\n", "4000 1\n4001 1\n2001 5\n",
        "# a comment\n\nCR0 = 31\n",
    };
    for (uint8_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        for (unsigned int options = 0; options < 32; options = options * 2 + 1)
            text_seed(low(options | (i & 3u) << 5), formats[i]);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        char text[200];
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        uint8_t pair[] = {0x80 | 3, low(slot), 1, 0x34, 0x12, low(slot + 1), 4};
        snprintf(text, sizeof(text), "%x %s 1%c\n%s = %x\n", info->encoding, info->name, slot % 2 ? 'H' : ' ', info->name, slot);
        text_seed(low(slot & 31), text);
        line(pair, sizeof(pair));
    }
}

static const struct {
    const char *harness;
    void (*write)(void);
} seeds[] = {{"vmcs_state", seeds_vmcs_state}, {"exits", seeds_exits_all}, {"program", seeds_program_all}, {"ept", seeds_ept},
             {"state", seeds_state}, {"decode", seeds_decode}, {"race", seeds_race}, {"kvm", seeds_kvm}, {"explain", seeds_explain}, {"operand", seeds_operand_all}, {"model", seeds_model},
             {"vcpus", NULL}}; /* NULL: corpus_features.c has all */

static int write_seeds(const char *harness) {
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
        if (strcmp(seeds[i].harness, harness) == 0) {
            if (seeds[i].write != NULL)
                seeds[i].write();
            return seeds_of_features(harness), 0;
        }
    fprintf(stderr, "fuzz-corpus: no harness %s\n", harness);
    return 2;
}

/* What stands in dumps: the words of each format, and all names of fields. */
static int write_words(void) {
    static const char *const words[] = {
        "*** Guest State ***", "*** Host State ***", "*** Control State ***", "nvmx: VMCS 0 (", "(XEN) ", "actual=", "shadow=", "gh_mask=", "sel=", "attr=", "limit=", "base=",
        "MSR guest autoload:\\x0a", "msr=0x", "value=0x", "PDPTR0 = ", "Sysenter RSP=", "CS:RIP=", "EFER= ", " (effective)", "DebugCtl = ", "Interruptibility = ",
        "CPUBased=", "SecondaryExec=", "TertiaryExec=", "PinBased=", "EntryControls=", "ExitControls=", "ExceptionBitmap=", "VMEntry: intr_info=", "errcode=", "ilen=",
        "VMExit: ", "qualification=", "IDTVectoring: info=", "TSC Offset = ", "EPT pointer = ", "Virtual processor ID = ", "target", "\\x0a", "\\x0d\\x0a", "0x", "_", "H",
        "ffffffffffffffff", "physical_address_bits ", "cpu LONG_MODE", "480 ", "48b ", "[  1.2] ", "kvm_intel: ",
    };
    static const char *const aliases[] = {
#define ALIAS(name, slot) #name,
#include "../bindings/cli/names.def"
#undef ALIAS
    };
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        printf("\"%s\"\n", words[i]);
    for (size_t i = 0; i < sizeof(aliases) / sizeof(aliases[0]); i++)
        printf("\"%s\"\n", aliases[i]);
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        printf("\"%s\"\n\"%04x \"\n", nvmx_field_info(slot)->name, nvmx_field_info(slot)->encoding);
    return 0;
}

static int write_dictionary(void) {
    puts("# Field encodings, as 16-bit numbers. Made by fuzz-corpus from include/nvmx/vmcs_fields.def.");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        printf("\"\\x%02x\\x%02x\"\n", encoding & 0xff, encoding >> 8);
    }
    puts("# A change of one bit of a control field: field, how.");
    for (unsigned int field = 0; field < 5; field++)
        for (unsigned int bit = 0; bit < 32; bit++)
            printf("\"\\x%02x\\x%02x\"\n", field, bit << 1);
    puts("# Events.");
    for (unsigned int type = 0; type < 8; type++)
        printf("\"\\x0e\\x%02x\"\n\"\\x0e\\x%02x\"\n", type, type | 8);
    return 0;
}

/* -- packing ----------------------------------------------------------------------------------------------------------------------------------- */

static int unpack(const char *name, const char *folder) {
    static char text[2 * MOST + 2];
    FILE *in = fopen(name, "r");
    unsigned int number = 0;
    if (!in) {
        perror(name);
        return 2;
    }
    while (fgets(text, sizeof(text), in)) {
        char path[1024];
        snprintf(path, sizeof(path), "%s/seed-%05u", folder, number++);
        FILE *out = fopen(path, "wb");
        if (!out) {
            perror(path);
            fclose(in);
            return 2;
        }
        unsigned int byte;
        for (const char *at = text; sscanf(at, "%2x", &byte) == 1 && strlen(at) >= 2; at += 2)
            fputc((int)byte, out);
        fclose(out);
    }
    fclose(in);
    return 0;
}

static int is_file(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static int pack(const char *folder) {
    struct dirent **entries;
    int count = scandir(folder, &entries, is_file, alphasort);
    for (int i = 0; i < count; i++) {
        static uint8_t bytes[MOST];
        char path[1024];
        snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
        free(entries[i]);
        FILE *in = fopen(path, "rb");
        if (!in)
            continue;
        size_t size = fread(bytes, 1, sizeof(bytes), in);
        fclose(in);
        if (size != 0)
            line(bytes, size);
    }
    if (count < 0) {
        perror(folder);
        return 2;
    }
    free(entries);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "seeds") == 0)
        return write_seeds(argv[2]);
    if (argc == 3 && strcmp(argv[1], "dictionary") == 0)
        return strcmp(argv[2], "explain") == 0 ? write_words() : write_dictionary();
    if (argc == 4 && strcmp(argv[1], "unpack") == 0)
        return unpack(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], "pack") == 0)
        return pack(argv[2]);
    fputs("usage: fuzz-corpus seeds HARNESS | dictionary HARNESS | unpack FILE.hex DIR | pack DIR\n", stderr);
    return 2;
}
