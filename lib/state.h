/* SPDX-License-Identifier: MIT */
/* Internal to lib/state*.c: writing and reading the blob of nvmx/state.h. */
#ifndef NVMX_LIB_STATE_H
#define NVMX_LIB_STATE_H

#include <nvmx/state.h>

#include "architecture.h"

/* A function with an array of all fields: its caller's frame must not grow by it (NVMX_STACK_BYTES). */
#define NOINLINE __attribute__((noinline))

#define STATE_MAGIC UINT64_C(0x54415453584d564e) /* "NVMXSTAT" */
#define STATE_HEADER_BYTES 24u
#define STATE_TRAILER_BYTES 8u
#define STATE_RECORD_HEAD 8u
#define STATE_ITEM_BYTES 16u
#define STATE_FLAG_CHECKSUM 1u
#define STATE_MAX_BYTES (1u << 20) /* no state comes near it; keeps 64-bit lengths out of the arithmetic */

/* -- state_format.c ------------------------------------------------------------------------------------------------------------- */

/* Appends; once it does not fit, nothing is written any more and `full` is set. */
struct state_writer {
    uint8_t *blob;
    size_t bytes;
    size_t at;
    size_t record; /* offset of the record that is open */
    bool full;
};

void state_begin(struct state_writer *w, void *blob, size_t bytes);
void state_open(struct state_writer *w, uint32_t tag);
void state_word(struct state_writer *w, uint64_t value);
void state_item(struct state_writer *w, uint32_t id, uint64_t value);
/* An item whose absence says 0. */
void state_item_unless_0(struct state_writer *w, uint32_t id, uint64_t value);
void state_close(struct state_writer *w);
/* Length and checksum. *used: how many bytes it is. */
enum nvmx_status state_end(struct state_writer *w, size_t *used);

/* Capabilities as items of a profile record. */
void state_put_profile(struct state_writer *w, const struct nvmx_caps *caps);
/* One item of a profile record into *caps. False: there is no such item, or its value can't be. */
bool state_take_profile(struct nvmx_caps *caps, uint32_t id, uint64_t value);

/* An item of a record; index < items. */
struct state_item {
    uint32_t id;
    uint32_t reserved;
    uint64_t value;
};
struct state_item state_item_at(const struct nvmx_state_record *record, uint32_t index);

/* Header, length, checksum. On success *end is where the records end. */
enum nvmx_state_reason state_frame(const void *blob, size_t bytes, size_t *end);

/* The record at *offset, whose records end at `end`; *offset moves to the next. False: there is none, or its length can't be. */
bool state_record(const uint8_t *blob, size_t end, uint64_t *offset, struct nvmx_state_record *out);

/* -- state_check.c -------------------------------------------------------------------------------------------------------------- */

/* A blob that passed all rules. Records point into it. */
struct state_view {
    struct nvmx_caps caps;
    bool has_profile;
    uint64_t vcpu[NVMX_STATE_VCPU_CURRENT + 1]; /* by NVMX_STATE_VCPU_; pointers NVMX_NO_ADDRESS where not there */
    struct nvmx_state_record vmcs[NVMX_VMCS02_MAX];
    uint32_t vmcs_count;
    uint32_t current; /* index in vmcs[]; vmcs_count: none */
    struct nvmx_state_record l2;
    bool has_l2;
};

enum nvmx_state_reason state_view(const void *blob, size_t bytes, const struct nvmx_vcpu *vcpu, struct state_view *view,
                                  struct nvmx_state_error *error);

/*
 * The slots of which L2's state in a vmcs02 consists: always[] in any case; the others as circumstances are. `exists`: the fields that L1
 * has.
 */
struct state_l2_fields {
    struct nvmx_field_set always;
    struct nvmx_field_set pdptes; /* there if L2 uses PAE paging, and only then */
    struct nvmx_field_set timer;  /* there if vmcs12 activates the preemption timer, and only then */
    struct nvmx_field_set gates;  /* there if vmcs02 loads them */
};
void state_l2_fields(const struct nvmx_field_set *exists, struct state_l2_fields *out);

/* Values of a record of VMCS fields by slot; the others become 0. */
void state_values(const struct nvmx_state_record *record, uint64_t *value);

/* One of them; 0 if it is not there. For functions that can't afford an array of all fields on a kernel's stack. */
uint64_t state_value(const struct nvmx_state_record *record, unsigned int slot);

/* The fields that a record names. */
void state_fields_of(const struct nvmx_state_record *record, struct nvmx_field_set *out);

/* Without a valid event the other fields of it mean nothing (SDM 27.8.3): they become 0. `value` by slot. */
void state_event_without_rest(uint64_t *value);

/* CR0, CR4 and EFER.LMA say PAE paging. */
static inline bool state_uses_pae(uint64_t cr0, uint64_t cr4, bool ia32e) {
    return (cr0 & CR0_PG) != 0 && (cr4 & CR4_PAE) != 0 && !ia32e;
}

#endif
