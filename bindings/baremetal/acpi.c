/* SPDX-License-Identifier: MIT */
/* The few things L0 wants of ACPI: where the tables are (for Linux), and how to switch the machine off. */
#include "console.h"
#include "host.h"

#define BIOS_START          0xe0000u
#define BIOS_END            0x100000u
#define EBDA_SEGMENT        0x40eu
#define RSDP_RSDT           16 /* 32-bit address of the RSDT */
#define TABLE_LENGTH        4
#define TABLE_HEADER        36
#define FADT_DSDT           40
#define FADT_PM1A_CONTROL   64
#define MADT_ENTRIES        44
#define MADT_LOCAL_APIC     0
#define MADT_LOCAL_X2APIC   9
#define SLEEP_ENABLE        (1u << 13)
#define SLEEP_TYPE_SHIFT    10
#define BOCHS_SHUTDOWN_PORT 0x8900

static struct {
    uint64_t rsdp, madt;
    uint16_t pm1a_control;
    uint8_t sleep_type_s5;
    bool has_s5;
    bool is_bochs;
} acpi;

static uint32_t read32(uint64_t hpa) {
    uint32_t value;

    memcpy(&value, phys_to_virt(hpa), sizeof value);
    return value;
}

static uint64_t find_rsdp(uint64_t start, uint64_t end) {
    for (uint64_t at = start; at + 20 <= end; at += 16) {
        const uint8_t *bytes = phys_to_virt(at);
        uint8_t sum = 0;

        if (memcmp(bytes, "RSD PTR ", 8))
            continue;
        for (uint32_t i = 0; i < 20; i++)
            sum = (uint8_t)(sum + bytes[i]);
        if (!sum)
            return at;
    }
    return 0;
}

static uint64_t find_table(uint64_t rsdt, const char *signature) {
    uint32_t length = read32(rsdt + TABLE_LENGTH);

    for (uint64_t at = rsdt + TABLE_HEADER; at + 4 <= rsdt + length && length < MIB; at += 4) {
        uint32_t table = read32(at);

        if (!memcmp(phys_to_virt(table), signature, 4))
            return table;
    }
    return 0;
}

/* \_S5 is a package whose first element is SLP_TYPa: NameOp "_S5_" PackageOp PkgLength NumElements (BytePrefix value |
 * 0 | 1 ...). */
static void read_s5(uint64_t dsdt) {
    uint32_t length = read32(dsdt + TABLE_LENGTH);
    const uint8_t *bytes = phys_to_virt(dsdt);

    if (length > 16 * MIB)
        return;
    for (uint32_t i = TABLE_HEADER; i + 12 < length; i++) {
        const uint8_t *p = bytes + i;

        if (memcmp(p, "_S5_", 4) || p[4] != 0x12)
            continue;
        p += 5;
        p += (p[0] >> 6) + 2; /* the package's length (1 to 4 bytes) and count */
        acpi.sleep_type_s5 = p[0] == 0x0a ? p[1] & 7 : p[0] & 7;
        acpi.has_s5 = true;
        return;
    }
}

void acpi_init(void) {
    uint64_t ebda = (uint64_t) * (const uint16_t *)phys_to_virt(EBDA_SEGMENT) << 4;
    uint64_t fadt;

    if (ebda)
        acpi.rsdp = find_rsdp(ebda, ebda + KIB);
    if (!acpi.rsdp)
        acpi.rsdp = find_rsdp(BIOS_START, BIOS_END);
    if (!acpi.rsdp)
        return;
    acpi.is_bochs = !memcmp((const char *)phys_to_virt(acpi.rsdp) + 9, "BOCHS ", 6);
    acpi.madt = find_table(read32(acpi.rsdp + RSDP_RSDT), "APIC");
    fadt = find_table(read32(acpi.rsdp + RSDP_RSDT), "FACP");
    if (!fadt)
        return;
    acpi.pm1a_control = (uint16_t)read32(fadt + FADT_PM1A_CONTROL);
    read_s5(read32(fadt + FADT_DSDT));
}

uint64_t acpi_rsdp(void) {
    return acpi.rsdp;
}

uint16_t acpi_pm1a_control(void) {
    return acpi.pm1a_control;
}

bool acpi_is_bochs(void) {
    return acpi.is_bochs;
}

uint32_t acpi_processors(uint32_t *id, uint32_t max) {
    uint64_t end = acpi.madt ? acpi.madt + read32(acpi.madt + TABLE_LENGTH) : 0;
    const uint8_t *entry;
    uint32_t count = 0;

    for (uint64_t at = acpi.madt + MADT_ENTRIES; acpi.madt && at + 8 <= end; at += entry[1]) {
        uint32_t flags, found;

        entry = phys_to_virt(at);
        if (entry[1] < 2)
            break;
        if (entry[0] == MADT_LOCAL_APIC && entry[1] >= 8) {
            flags = read32(at + 4);
            found = entry[3];
        } else if (entry[0] == MADT_LOCAL_X2APIC && entry[1] >= 16) {
            flags = read32(at + 8);
            found = read32(at + 4);
        } else {
            continue;
        }
        if (!(flags & 1))
            continue;
        if (count < max)
            id[count] = found;
        count++;
    }
    return count;
}

void power_off(void) {
    if (acpi.is_bochs)
        for (const char *p = "Shutdown"; *p; p++)
            outb(BOCHS_SHUTDOWN_PORT, (uint8_t)*p);
    if (acpi.pm1a_control && acpi.has_s5)
        outw(acpi.pm1a_control, (uint16_t)((uint32_t)acpi.sleep_type_s5 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE));
    for (;;)
        halt();
}
