/* SPDX-License-Identifier: MIT */
/*
 * Which information an exit comes with: the SDM's own lists, field by field, against the rows of exits.def, which are exit by exit. That each field that a
 * row names arrives in L1 is in reflect.c. Of what comes in SMM only (I/O SMIs) the rows say nothing.
 */
#include "exits/exits.h"
#include "machine.h"

#define LIST(name, ...) static const uint8_t name[] = {__VA_ARGS__}

/* SDM 30.2.1: not cleared. */
LIST(qualification, 0, 4, 9, 14, 19, 21, 22, 23, 25, 27, 28, 29, 30, 32, 33, 34, 36, 44, 45, 46, 47, 48, 50, 53, 54, 56, 58, 62, 63, 64, 66, 72, 73, 75,
     78, 79, 84, 85);
/* SDM 30.2.1: LMSW with a memory operand, INS and OUTS, EPT violations, SPP-related events. */
LIST(linear_address, 28, 30, 48, 66);
LIST(physical_address, 48, 49, 66);
/* SDM 30.2.2: exceptions and NMIs, external interrupts that are acknowledged. */
LIST(interruption_info, 0, 1);
/* SDM 30.2.4: exits that can happen while an event is delivered. */
LIST(vectoring_info, 0, 9, 44, 48, 49, 62, 66, 75);
/* SDM 30.2.5: instructions; and software interrupts and exceptions, or what comes while they are delivered. 49 is not among them, but the value
 * need not be what it was before. */
LIST(instruction_length, 0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 36, 39, 40, 44, 46, 47, 48,
     49, 50, 51, 53, 54, 55, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 76, 77, 84, 85);
/* SDM 30.2.5: INS and OUTS; operands in memory; operands in registers. */
LIST(instruction_info, 19, 21, 22, 23, 25, 27, 30, 46, 47, 50, 53, 57, 58, 61, 63, 64, 67, 68, 69, 84, 85);
LIST(msr_data, 79);

static const struct {
    const char *what;
    const uint8_t *reasons;
    size_t count;
    uint8_t information;
} lists[] = {
    {"exit qualification", qualification, sizeof(qualification), INFO_Q},
    {"guest-linear address", linear_address, sizeof(linear_address), INFO_L},
    {"guest-physical address", physical_address, sizeof(physical_address), INFO_P},
    {"VM-exit interruption information", interruption_info, sizeof(interruption_info), INFO_V},
    {"IDT-vectoring information", vectoring_info, sizeof(vectoring_info), INFO_O},
    {"instruction length", instruction_length, sizeof(instruction_length), INFO_N},
    {"instruction information", instruction_info, sizeof(instruction_info), INFO_I},
    {"MSR data", msr_data, sizeof(msr_data), INFO_D},
};

Test(exit_information, rows_say_what_the_sdm_says) {
    for (size_t i = 0; i < COUNT(lists); i++) {
        bool listed[NVMX_EXIT_REASONS] = {false};

        for (size_t k = 0; k < lists[i].count; k++)
            listed[lists[i].reasons[k]] = true;
        for (uint32_t reason = 0; reason < NVMX_EXIT_REASONS; reason++) {
            const struct exit_row *row = exit_row(reason);
            cr_expect_eq((row->information & lists[i].information) != 0, listed[reason], "reason %u: %s", reason, lists[i].what);
        }
    }
}
