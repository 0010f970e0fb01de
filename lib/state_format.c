/* SPDX-License-Identifier: MIT */
/* The blob of nested state: its frame, records and items (lib/STATE.md). Nothing here knows what they mean. */
#include "state.h"

#include <string.h>

#ifdef NVMX_HAVE_XXHASH
#define XXH_INLINE_ALL
#define XXH_VECTOR 0 /* scalar: the library touches no vector registers */
#include <xxhash.h>
#endif

/* -- little-endian words at any alignment ------------------------------------------------------------------------------------------- */

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t get64(const uint8_t *at) {
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

static void put64(uint8_t *at, uint64_t value) {
    for (unsigned int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* -- checksum ------------------------------------------------------------------------------------------------------------------------ */

/* XXH3-64 with seed 0. It tells damage, not malice. */
#ifdef NVMX_HAVE_XXHASH
#define FLAGS_WRITTEN STATE_FLAG_CHECKSUM

static uint64_t checksum(const uint8_t *blob, size_t bytes) {
    return XXH3_64bits(blob, bytes);
}

static bool checksum_right(const uint8_t *blob, size_t bytes, uint64_t stored) {
    return checksum(blob, bytes) == stored;
}
#else
#define FLAGS_WRITTEN 0u

static uint64_t checksum(const uint8_t *blob, size_t bytes) {
    (void)blob;
    (void)bytes;
    return 0;
}

/* Built without xxHash the library can't tell: all other rules hold all the same. */
static bool checksum_right(const uint8_t *blob, size_t bytes, uint64_t stored) {
    (void)blob;
    (void)bytes;
    (void)stored;
    return true;
}
#endif

/* -- writing --------------------------------------------------------------------------------------------------------------------------- */

void state_word(struct state_writer *w, uint64_t value) {
    if (w->full || w->bytes - w->at < 8) {
        w->full = true;
        return;
    }
    put64(w->blob + w->at, value);
    w->at += 8;
}

static void two_words(struct state_writer *w, uint32_t low, uint32_t high) {
    state_word(w, low | (uint64_t)high << 32);
}

void state_begin(struct state_writer *w, void *blob, size_t bytes) {
    *w = (struct state_writer){.blob = blob, .bytes = bytes};
    state_word(w, STATE_MAGIC);
    two_words(w, NVMX_STATE_VERSION, FLAGS_WRITTEN);
    state_word(w, 0); /* the length, known at the end */
}

void state_open(struct state_writer *w, uint32_t tag) {
    w->record = w->at;
    two_words(w, tag, 0);
}

void state_close(struct state_writer *w) {
    if (!w->full) {
        uint32_t tag = get32(w->blob + w->record);
        uint64_t length = w->at - w->record - STATE_RECORD_HEAD;

        put64(w->blob + w->record, tag | length << 32);
    }
}

void state_item(struct state_writer *w, uint32_t id, uint64_t value) {
    two_words(w, id, 0);
    state_word(w, value);
}

void state_item_unless_0(struct state_writer *w, uint32_t id, uint64_t value) {
    if (value != 0) {
        state_item(w, id, value);
    }
}

enum nvmx_status state_end(struct state_writer *w, size_t *used) {
    if (w->full || w->bytes - w->at < STATE_TRAILER_BYTES) {
        return NVMX_E_SIZE;
    }
    put64(w->blob + 16, w->at + STATE_TRAILER_BYTES);
    state_word(w, checksum(w->blob, w->at));
    *used = w->at;
    return NVMX_OK;
}

/* -- reading ----------------------------------------------------------------------------------------------------------------------------- */

enum nvmx_state_reason state_frame(const void *blob, size_t bytes, size_t *end) {
    const uint8_t *at = blob;

    if (bytes < STATE_HEADER_BYTES + STATE_TRAILER_BYTES) {
        return NVMX_STATE_TRUNCATED;
    }
    if (get64(at) != STATE_MAGIC) {
        return NVMX_STATE_MAGIC;
    }
    if (get32(at + 8) != NVMX_STATE_VERSION) {
        return NVMX_STATE_VERSION_NEWER;
    }
    uint32_t flags = get32(at + 12);
    uint64_t length = get64(at + 16);
    if (length > bytes || length > STATE_MAX_BYTES || length % 8 != 0 ||
        length < STATE_HEADER_BYTES + STATE_TRAILER_BYTES) {
        return NVMX_STATE_TRUNCATED;
    }
    *end = (size_t)length - STATE_TRAILER_BYTES;
    uint64_t stored = get64(at + *end);
    if ((flags & STATE_FLAG_CHECKSUM) != 0 && !checksum_right(at, *end, stored)) {
        return NVMX_STATE_CHECKSUM;
    }
    if ((flags & ~STATE_FLAG_CHECKSUM) != 0 || ((flags & STATE_FLAG_CHECKSUM) == 0 && stored != 0)) {
        return NVMX_STATE_RESERVED;
    }
    return NVMX_STATE_OK;
}

/* Bytes before the items of a record. */
static uint32_t head_bytes(uint32_t tag) {
    return tag == NVMX_STATE_TAG_VMCS || tag == NVMX_STATE_TAG_L2 ? 16 : 0;
}

bool state_record(const uint8_t *blob, size_t end, uint64_t *next, struct nvmx_state_record *out) {
    uint64_t offset = *next;

    if (offset < STATE_HEADER_BYTES || offset % 8 != 0 || offset > end || end - offset < STATE_RECORD_HEAD) {
        return false;
    }
    const uint8_t *at = blob + offset;
    uint32_t tag = get32(at), length = get32(at + 4), head = head_bytes(tag);

    if (length % 8 != 0 || length > end - offset - STATE_RECORD_HEAD || length < head) {
        return false;
    }
    *out = (struct nvmx_state_record){.tag = tag, .first = at + STATE_RECORD_HEAD + head, .offset = offset};
    if (head != 0) {
        out->head[0] = get64(at + STATE_RECORD_HEAD);
        out->head[1] = get64(at + STATE_RECORD_HEAD + 8);
    }
    out->items = (length - head) / STATE_ITEM_BYTES;
    *next = offset + STATE_RECORD_HEAD + length;
    /* Records that may be skipped have what form they like. */
    return (tag & 1) == 0 || (length - head) % STATE_ITEM_BYTES == 0;
}

bool nvmx_state_next(const void *blob, size_t bytes, uint64_t *offset, struct nvmx_state_record *out) {
    size_t end;

    if (state_frame(blob, bytes, &end) != NVMX_STATE_OK) {
        return false;
    }
    if (*offset == 0) {
        *offset = STATE_HEADER_BYTES;
    }
    return state_record(blob, end, offset, out);
}

struct state_item state_item_at(const struct nvmx_state_record *record, uint32_t index) {
    const uint8_t *at = (const uint8_t *)record->first + (size_t)index * STATE_ITEM_BYTES;

    return (struct state_item){get32(at), get32(at + 4), get64(at + 8)};
}

/* -- capabilities ------------------------------------------------------------------------------------------------------------------------ */

/* Items of a profile beside the capability MSRs: which bits of an MSR may be 1. */
static const struct {
    uint32_t id;
    uint32_t member;
} valid_bits[] = {
    {0x48, offsetof(struct nvmx_caps, spec_ctrl_valid)},         {0x1d9, offsetof(struct nvmx_caps, debugctl_valid)},
    {0x38f, offsetof(struct nvmx_caps, perf_global_ctrl_valid)}, {0x570, offsetof(struct nvmx_caps, rtit_ctl_valid)},
    {0x14ce, offsetof(struct nvmx_caps, lbr_ctl_valid)},
};
#define VALID_BITS (sizeof(valid_bits) / sizeof(valid_bits[0]))

static uint64_t *valid_bits_member(struct nvmx_caps *caps, uint32_t id) {
    for (size_t i = 0; i < VALID_BITS; i++) {
        if (valid_bits[i].id == id) {
            return (uint64_t *)(void *)((char *)caps + valid_bits[i].member);
        }
    }
    return NULL;
}

static void put_valid_bits(struct state_writer *w, const struct nvmx_caps *caps, uint32_t from, uint32_t to) {
    struct nvmx_caps copy = *caps;

    for (size_t i = 0; i < VALID_BITS; i++) {
        if (valid_bits[i].id >= from && valid_bits[i].id < to) {
            state_item_unless_0(w, valid_bits[i].id, *valid_bits_member(&copy, valid_bits[i].id));
        }
    }
}

void state_put_profile(struct state_writer *w, const struct nvmx_caps *caps) {
    put_valid_bits(w, caps, 0, NVMX_MSR_VMX_FIRST);
    for (uint32_t place = 0; place < NVMX_CAP_MSRS; place++) {
        state_item_unless_0(w, NVMX_MSR_VMX_FIRST + place, caps->msr[place]);
    }
    put_valid_bits(w, caps, NVMX_MSR_VMX_LAST, NVMX_STATE_PROFILE_CPU);
    state_item_unless_0(w, NVMX_STATE_PROFILE_CPU, caps->cpu);
    state_item_unless_0(w, NVMX_STATE_PROFILE_ADDRESS_BITS, caps->physical_address_bits);
}

bool state_take_profile(struct nvmx_caps *caps, uint32_t id, uint64_t value) {
    uint64_t *valid = valid_bits_member(caps, id);

    if (valid != NULL) {
        *valid = value;
        return true;
    }
    if (id >= NVMX_MSR_VMX_FIRST && id <= NVMX_MSR_VMX_LAST) {
        caps->msr[id - NVMX_MSR_VMX_FIRST] = value;
        return true;
    }
    if (id == NVMX_STATE_PROFILE_CPU && value <= UINT32_MAX) {
        caps->cpu = (uint32_t)value;
        return true;
    }
    if (id == NVMX_STATE_PROFILE_ADDRESS_BITS && value >= 32 && value <= 52) {
        caps->physical_address_bits = (uint8_t)value;
        return true;
    }
    return false;
}

/* -- text --------------------------------------------------------------------------------------------------------------------------------- */

const char *nvmx_state_reason_text(enum nvmx_state_reason reason) {
    static const char *const text[NVMX_STATE_REASON_COUNT] = {
        [NVMX_STATE_OK] = "good",
        [NVMX_STATE_TRUNCATED] = "the blob is cut short, or its length can't be",
        [NVMX_STATE_MAGIC] = "not a blob of nested VMX state",
        [NVMX_STATE_VERSION_NEWER] = "of a version that this library does not know",
        [NVMX_STATE_CHECKSUM] = "the checksum is wrong: the blob was damaged",
        [NVMX_STATE_RESERVED] = "bits that must be 0 are not",
        [NVMX_STATE_RECORD] = "a record has a wrong length or place, or there are too many of its kind",
        [NVMX_STATE_UNKNOWN_RECORD] = "a record that must be understood and is not",
        [NVMX_STATE_MISSING_RECORD] = "a record is missing",
        [NVMX_STATE_UNKNOWN_ITEM] = "an item that the record can't have",
        [NVMX_STATE_ITEM_ORDER] = "items are not in ascending order, or there twice",
        [NVMX_STATE_ITEM_VALUE] = "an item's value is out of range",
        [NVMX_STATE_NO_SUCH_FIELD] = "a VMCS field that the processor which L1 saw does not have",
        [NVMX_STATE_FIELD_WIDTH] = "a value wider than its VMCS field",
        [NVMX_STATE_FIELD_MISSING] = "a field of L2's state is missing",
        [NVMX_STATE_FIELD_EXTRA] = "a field that L2's state does not have",
        [NVMX_STATE_PROFILE] = "the capabilities that L1 saw contradict themselves",
        [NVMX_STATE_CAPABILITIES] = "L1 saw capabilities that this VM does not offer",
        [NVMX_STATE_EXPOSE] = "VMX is exposed to only one of the two VMs",
        [NVMX_STATE_MODE] = "what the blob holds does not fit the mode that it names",
        [NVMX_STATE_POINTER] = "a VMXON or VMCS pointer is misaligned or too wide",
        [NVMX_STATE_DUPLICATE] = "two VMX regions at the same address",
        [NVMX_STATE_NO_CURRENT] = "the current VMCS is not there",
        [NVMX_STATE_TOO_MANY] = "more active VMCSs than this virtual processor can hold",
        [NVMX_STATE_ENTRY_CHECK] = "L2's state and controls are not such that it could have been entered",
    };

    return (unsigned int)reason < NVMX_STATE_REASON_COUNT ? text[reason] : "unknown reason";
}
