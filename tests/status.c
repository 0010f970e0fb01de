/* SPDX-License-Identifier: MIT */
/* Prints the table of features of README.md, from the table that decides what L1 is offered. */
#include <nvmx/caps.h>
#include <stdio.h>
#include <string.h>

static const struct {
    uint16_t msr;
    const char *what;
} groups[] = {
    {0x480, "basic information"},   {0x481, "pin-based controls"},   {0x482, "primary controls"}, {0x48b, "secondary controls"},
    {0x492, "tertiary controls"},   {0x483, "VM-exit controls"},     {0x493, "secondary VM-exit controls"},
    {0x484, "VM-entry controls"},   {0x485, "miscellaneous"},        {0x48c, "EPT and VPID"},     {0x491, "VM functions"},
};

static void print_names(uint16_t msr, bool emulated) {
    const struct nvmx_cap_bit *bit;
    const char *separator = "";
    for (size_t row = 0; (bit = nvmx_cap_bit(row)) != NULL; row++) {
        if (bit->msr != msr || (bit->emulated != 0) != emulated || strncmp(bit->name, "Reserved (", 10) == 0)
            continue;
        printf("%s%s", separator, bit->name);
        separator = "; ";
    }
    if (*separator == 0)
        printf("-");
}

int main(void) {
    printf("| | offered to L1 where the machine has it | not offered yet |\n|---|---|---|\n");
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        printf("| %XH, %s | ", groups[i].msr, groups[i].what);
        print_names(groups[i].msr, true);
        printf(" | ");
        print_names(groups[i].msr, false);
        printf(" |\n");
    }
    return 0;
}
