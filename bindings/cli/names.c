/* SPDX-License-Identifier: MIT */
/* Fields by name. */
#include <string.h>

#include "dump.h"

static const char *const identifier[NVMX_FIELD_COUNT] = {
#define FIELD(encoding, name, text, exists, group, merge, shadow) #name,
#include <nvmx/vmcs_fields.def>
#undef FIELD
};

static const struct {
    const char *name;
    uint8_t slot;
} aliases[] = {
#define ALIAS(name, field) {#name, NVMX_F_##field},
#include "names.def"
#undef ALIAS
};

const char *field_identifier(unsigned int slot) {
    return slot < NVMX_FIELD_COUNT ? identifier[slot] : NULL;
}

static bool is_called(unsigned int slot, const char *wanted) {
    const char *text = nvmx_field_info(slot)->name;
    char plain[128];

    plain_name(identifier[slot], strlen(identifier[slot]), plain, sizeof plain);
    if (strcmp(plain, wanted) == 0)
        return true;
    plain_name(text, strlen(text), plain, sizeof plain);
    return strcmp(plain, wanted) == 0;
}

int field_named(const char *name, size_t length) {
    char wanted[128];
    const char *short_name = wanted;

    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (strncmp(identifier[slot], name, length) == 0 && identifier[slot][length] == 0)
            return (int)slot;
    plain_name(name, length, wanted, sizeof wanted);
    if (strncmp(wanted, "nvmx_", 5) == 0)
        short_name += 5;
    if (strncmp(short_name, "vmcs_", 5) == 0 && strcmp(short_name, "vmcs_link_pointer") != 0)
        short_name += 5;
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        if (is_called(slot, short_name))
            return (int)slot;
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
        if (strcmp(aliases[i].name, short_name) == 0)
            return aliases[i].slot;
    return NVMX_FIELD_NONE;
}
