/* SPDX-License-Identifier: MIT */
/* nvmx state show: what a blob holds, record by record and field by field. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "dump.h"
#include "explain.h"
#include "print.h"
#include "statefile.h"

#define REGION_BYTES NVMX_PAGE_SIZE
#define SHADOW_BIT   0x80000000u

/* One way to say things, as text or as JSON. */
struct out {
    struct json json;
    bool as_json;
};

static void open_part(struct out *out, const char *key, const char *title) {
    if (out->as_json)
        json_object(&out->json, key);
    else
        printf("%s%s%s\n", ink(INK_BOLD), title, ink(INK_PLAIN));
}

static void close_part(struct out *out) {
    if (out->as_json)
        json_end(&out->json);
}

static void put_text(struct out *out, const char *key, const char *name, const char *text) {
    if (out->as_json)
        json_string(&out->json, key, text);
    else
        printf("  %-30s %s\n", name, text);
}

static void put_hex(struct out *out, const char *key, const char *name, uint64_t value) {
    if (out->as_json)
        json_hex(&out->json, key, value);
    else
        printf("  %-30s %" PRIX64 "H\n", name, value);
}

static void put_pointer(struct out *out, const char *key, const char *name, uint64_t value) {
    if (value == NVMX_NO_ADDRESS)
        put_text(out, key, name, out->as_json ? NULL : "none");
    else
        put_hex(out, key, name, value);
}

static void put_field(struct out *out, uint32_t encoding, uint64_t value) {
    int slot = nvmx_field_find(encoding, NULL);
    char text[32], name[80];

    if (slot == NVMX_FIELD_NONE) {
        snprintf(name, sizeof name, "%04" PRIX32 "H (no such field)", encoding);
        put_hex(out, name, name, value);
        return;
    }
    if (out->as_json) {
        json_hex(&out->json, field_identifier((unsigned int)slot), value);
        return;
    }
    value_text((unsigned int)slot, value, text, sizeof text);
    printf("  %04" PRIX32 "H %-52s %s\n", encoding, nvmx_field_info((unsigned int)slot)->name, text);
}

/* -- nvmx's own
 * -------------------------------------------------------------------------------------------------------------- */

static uint64_t word_at(const uint8_t *at, unsigned int bytes) {
    uint64_t value = 0;

    for (unsigned int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static uint32_t item_id(const struct nvmx_state_record *record, uint32_t i) {
    return (uint32_t)word_at((const uint8_t *)record->first + 16 * (size_t)i, 4);
}

static uint64_t item_value(const struct nvmx_state_record *record, uint32_t i) {
    return word_at((const uint8_t *)record->first + 16 * (size_t)i + 8, 8);
}

static void put_profile_item(struct out *out, uint32_t id, uint64_t value) {
    char key[40];

    if (id == NVMX_STATE_PROFILE_CPU)
        snprintf(key, sizeof key, "cpu features");
    else if (id == NVMX_STATE_PROFILE_ADDRESS_BITS)
        snprintf(key, sizeof key, "physical-address width");
    else if (id >= NVMX_MSR_VMX_FIRST && id <= NVMX_MSR_VMX_LAST)
        snprintf(key, sizeof key, "%XH %s", id, capset_msr_name(id - NVMX_MSR_VMX_FIRST));
    else
        snprintf(key, sizeof key, "valid bits of MSR %XH", id);
    put_hex(out, key, key, value);
}

static const char *mode_text(uint64_t mode) {
    static const char *const text[] = {"VMX off", "VMX root operation (L1)", "L2 runs"};

    return mode < sizeof text / sizeof text[0] ? text[mode] : "unknown";
}

static const char *stop_text(uint64_t stop) {
    static const char *const text[] = {"no", "VMX abort", "shutdown"};

    return stop < sizeof text / sizeof text[0] ? text[stop] : "unknown";
}

static void put_processor_item(struct out *out, uint32_t id, uint64_t value) {
    switch (id) {
    case NVMX_STATE_VCPU_MODE:
        put_text(out, "mode", "mode", mode_text(value));
        break;
    case NVMX_STATE_VCPU_STOP:
        put_text(out, "stopped", "stopped", stop_text(value));
        break;
    case NVMX_STATE_VCPU_FEATURE_CONTROL:
        put_hex(out, "feature_control", "IA32_FEATURE_CONTROL", value);
        break;
    case NVMX_STATE_VCPU_VMXON_POINTER:
        put_pointer(out, "vmxon_pointer", "VMXON pointer", value);
        break;
    case NVMX_STATE_VCPU_CURRENT:
        put_pointer(out, "current_vmcs", "current-VMCS pointer", value);
        break;
    default:
        put_hex(out, "unknown", "unknown item", value);
        break;
    }
}

static void title_of(const struct nvmx_state_record *record, char *out, size_t size) {
    uint64_t flags = record->head[record->tag == NVMX_STATE_TAG_VMCS];

    switch (record->tag) {
    case NVMX_STATE_TAG_PROFILE:
        snprintf(out, size, "what L1 sees");
        break;
    case NVMX_STATE_TAG_VCPU:
        snprintf(out, size, "processor");
        break;
    case NVMX_STATE_TAG_VMCS:
        snprintf(out, size, "VMCS %" PRIX64 "H (%s%s)", record->head[0],
                 flags & NVMX_STATE_VMCS_LAUNCHED ? "launched" : "clear",
                 flags & NVMX_STATE_VMCS_SHADOW ? ", shadow VMCS" : "");
        break;
    case NVMX_STATE_TAG_L2:
        snprintf(out, size, "L2%s%s%s%s", flags & NVMX_STATE_L2_ENTRY_PENDING ? ", entry pending" : "",
                 flags & NVMX_STATE_L2_LAUNCHING ? " (VMLAUNCH)" : "",
                 flags & NVMX_STATE_L2_IA32E ? ", IA-32e mode" : "",
                 flags & NVMX_STATE_L2_BUS_LOCK ? ", a bus lock to be told" : "");
        break;
    default:
        snprintf(out, size, "record with tag %" PRIu32, record->tag);
        break;
    }
}

static void put_record(struct out *out, const struct nvmx_state_record *record) {
    char title[80];

    title_of(record, title, sizeof title);
    open_part(out, NULL, title);
    if (out->as_json) {
        json_number(&out->json, "tag", record->tag);
        json_string(&out->json, "what", title);
        json_object(&out->json, "items");
    }
    for (uint32_t i = 0; i < record->items; i++) {
        if (record->tag == NVMX_STATE_TAG_PROFILE)
            put_profile_item(out, item_id(record, i), item_value(record, i));
        else if (record->tag == NVMX_STATE_TAG_VCPU)
            put_processor_item(out, item_id(record, i), item_value(record, i));
        else
            put_field(out, item_id(record, i), item_value(record, i));
    }
    if (out->as_json)
        json_end(&out->json);
    close_part(out);
}

static void show_own(struct out *out, const struct statefile *file) {
    struct nvmx_state_record record;
    uint64_t offset = 0;

    if (out->as_json) {
        json_number(&out->json, "version", file->size >= 12 ? word_at(file->bytes + 8, 4) : 0);
        json_array(&out->json, "records");
    }
    while (nvmx_state_next(file->bytes, file->size, &offset, &record))
        put_record(out, &record);
    if (out->as_json)
        json_end(&out->json);
}

/* -- KVM's
 * ----------------------------------------------------------------------------------------------------------------------
 */

static const struct {
    uint32_t bit;
    const char *name;
} flag_names[] = {{1, "guest mode (L2 runs)"}, {2, "entry pending"}, {4, "enlightened VMCS"}, {8, "MTF exit pending"}};

static void flags_text(uint32_t flags, char *out, size_t size) {
    size_t used = 0;

    snprintf(out, size, "none");
    for (size_t i = 0; i < sizeof flag_names / sizeof flag_names[0]; i++)
        if (flags & flag_names[i].bit && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", flag_names[i].name);
}

static void put_region(struct out *out, const char *key, const char *title, const uint8_t *region) {
    static const unsigned int width[] = {2, 8, 4, 8};
    struct nvmx_vmcs12_layout layout;

    nvmx_kvm_layout(&layout);
    open_part(out, key, title);
    put_hex(out, "revision", "revision identifier", word_at(region, 4) & ~(uint64_t)SHADOW_BIT);
    put_text(out, "shadow", "shadow VMCS", word_at(region, 4) & SHADOW_BIT ? "yes" : "no");
    put_text(out, "launch_state", "launch state", word_at(region + layout.launch_state, 4) ? "launched" : "clear");
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        uint32_t encoding = nvmx_field_info(slot)->encoding;
        uint64_t value = layout.offset[slot] ? word_at(region + layout.offset[slot], width[encoding >> 13 & 3]) : 0;

        if (value != 0)
            put_field(out, encoding, value);
    }
    close_part(out);
}

static void show_kvm(struct out *out, const struct statefile *file) {
    struct kvm_header header;
    char flags[120];
    size_t regions;

    if (!kvm_header(file, &header))
        return;
    regions = ((header.size < file->size ? header.size : file->size) - NVMX_KVM_STATE_HEADER) / REGION_BYTES;
    flags_text(header.flags, flags, sizeof flags);
    open_part(out, "header", "header");
    put_text(out, "format", "format", header.format == 0 ? "VMX" : "SVM");
    put_text(out, "flags", "flags", flags);
    put_hex(out, "size", "size", header.size);
    if (header.format == 0) {
        put_pointer(out, "vmxon_pointer", "VMXON pointer", header.vmxon);
        put_pointer(out, "current_vmcs", "current-VMCS pointer", header.vmcs12);
        put_hex(out, "smm_flags", "SMM flags", header.smm_flags);
        if (header.vmx_flags & 1)
            put_hex(out, "preemption_timer_deadline", "preemption-timer deadline", header.deadline);
    }
    close_part(out);
    if (header.format != 0 || header.vmcs12 == NVMX_NO_ADDRESS)
        return;
    if (regions >= 1)
        put_region(out, "vmcs12", "vmcs12 (fields that are not 0)", file->bytes + NVMX_KVM_STATE_HEADER);
    if (regions >= 2)
        put_region(out, "shadow_vmcs12", "shadow VMCS (fields that are not 0)",
                   file->bytes + NVMX_KVM_STATE_HEADER + REGION_BYTES);
}

/* -- both
 * ------------------------------------------------------------------------------------------------------------------------
 */

static const char *kind_text(const struct statefile *file) {
    return file->kind == STATE_OWN ? "nvmx" : "KVM";
}

void state_show_text(const struct statefile *file) {
    struct out out = {.as_json = false};

    printf("%s: nested state of %s, %zu bytes\n", tame(file->path), kind_text(file), file->size);
    if (file->kind == STATE_OWN)
        show_own(&out, file);
    else
        show_kvm(&out, file);
}

void state_show_json(const struct statefile *file) {
    struct out out = {.as_json = true};

    json_object(&out.json, NULL);
    json_string(&out.json, "file", file->path);
    json_string(&out.json, "kind", kind_text(file));
    json_number(&out.json, "bytes", file->size);
    if (file->kind == STATE_OWN)
        show_own(&out, file);
    else
        show_kvm(&out, file);
    json_end(&out.json);
}
