/* SPDX-License-Identifier: MIT */
/* The least ACPI that lets an operating system power off: RSDP, XSDT, FADT, FACS, and a DSDT with \_S5 (ACPI 6.5, chapters 5 and 7). */
#include <string.h>

#include "linux-guest.h"

#define HEADER_SIZE 36u
#define FADT_SIZE   244u
#define XSDT        (ACPI_ADDRESS + 0x100)
#define FADT        (ACPI_ADDRESS + 0x200)
#define DSDT        (ACPI_ADDRESS + 0x400)
#define FACS        (ACPI_ADDRESS + 0x500)
#define SCI         9u
/* Fixed feature flags: WBINVD works, C1 exists; buttons aren't fixed hardware. */
#define FADT_FLAGS 0x35u

static void put(uint8_t *memory, uint32_t address, uint64_t value, unsigned bytes) {
    memcpy(memory + address, &value, bytes);
}

static void set_checksum(uint8_t *memory, uint32_t address, uint32_t size, uint32_t place) {
    uint8_t sum = 0;
    for (uint32_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + memory[address + i]);
    }
    memory[address + place] = (uint8_t)(0 - sum);
}

/* Called last, when the body is complete. */
static void finish_table(uint8_t *memory, uint32_t address, const char *signature, uint32_t size, uint8_t revision) {
    memcpy(memory + address, signature, 4);
    put(memory, address + 4, size, 4);
    memory[address + 8] = revision;
    memcpy(memory + address + 10, "NVMX  LINUXGST", 14);
    put(memory, address + 24, 1, 4);
    memcpy(memory + address + 28, "NVMX", 4);
    put(memory, address + 32, 1, 4);
    set_checksum(memory, address, size, 9);
}

static void put_fadt(uint8_t *memory) {
    put(memory, FADT + 36, FACS, 4);
    put(memory, FADT + 40, DSDT, 4);
    put(memory, FADT + 46, SCI, 2);
    /* No SMI command: the machine is in ACPI mode from the beginning. */
    put(memory, FADT + 56, PORT_PM1_EVENT, 4);
    put(memory, FADT + 64, PORT_PM1_CONTROL, 4);
    memory[FADT + 88] = 4;
    memory[FADT + 89] = 2;
    put(memory, FADT + 96, 0xfff, 2);  /* no C2 */
    put(memory, FADT + 98, 0xffff, 2); /* no C3 */
    put(memory, FADT + 112, FADT_FLAGS, 4);
    finish_table(memory, FADT, "FACP", FADT_SIZE, 3);
}

static void put_dsdt(uint8_t *memory) {
    /* Name (\_S5, Package (4) {5, 5, 0, 0}) */
    static const uint8_t code[] = {0x08, '_', 'S', '5', '_', 0x12, 0x08, 4, 0x0a, SLEEP_TYPE_S5, 0x0a, SLEEP_TYPE_S5, 0, 0};
    memcpy(memory + DSDT + HEADER_SIZE, code, sizeof(code));
    finish_table(memory, DSDT, "DSDT", HEADER_SIZE + (uint32_t)sizeof(code), 2);
}

uint64_t put_acpi_tables(uint8_t *memory) {
    memcpy(memory + FACS, "FACS", 4);
    put(memory, FACS + 4, 64, 4);
    put_dsdt(memory);
    put_fadt(memory);
    put(memory, XSDT + HEADER_SIZE, FADT, 8);
    finish_table(memory, XSDT, "XSDT", HEADER_SIZE + 8, 1);
    memcpy(memory + ACPI_ADDRESS, "RSD PTR ", 8);
    memcpy(memory + ACPI_ADDRESS + 9, "NVMX  ", 6);
    memory[ACPI_ADDRESS + 15] = 2;
    put(memory, ACPI_ADDRESS + 20, 36, 4);
    put(memory, ACPI_ADDRESS + 24, XSDT, 8);
    set_checksum(memory, ACPI_ADDRESS, 20, 8);
    set_checksum(memory, ACPI_ADDRESS, 36, 32);
    return ACPI_ADDRESS;
}
