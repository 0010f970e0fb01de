/* SPDX-License-Identifier: MIT */
/*
 * An entry after which little has to reach vmcs02, as after most exits: RIP and RSP, what is written at each entry, an external interrupt, the preemption
 * timer, an EPTP. Which vmcs12s have such entries merge_is_plain says after a full merge (merge.c); all else that an entry may have to do makes it one again.
 */
#include "merge.h"

#define WORD(slot) ((slot) / 64)
#define BIT(slot)  (UINT64_C(1) << ((slot) % 64))
#define LITTLE     (BIT(NVMX_F_GUEST_RIP) | BIT(NVMX_F_GUEST_RSP))
_Static_assert(WORD(NVMX_F_GUEST_RIP) == WORD(NVMX_F_GUEST_RSP), "one word of the dirty set");

/* Nothing that each entry writes is stale, or becomes so by an exit, and VPID02 stays until it is taken away (merge_pages.c). */
bool merge_is_plain(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    uint64_t stale = 0;

    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        stale |= v->inherited.word[w] & (v->stale.word[w] | (v->saved.word[w] & ~v->learned.word[w]));
    }
    for (unsigned int i = 0; i < v->rewritten_count; i++) {
        stale |= nvmx_set_has(&v->stale, v->rewritten[i]) ? 1 : 0;
    }
    return stale == 0 && v->pages_alone && merge_pages_ready(vcpu, v);
}

/* What may be dirty at an entry that needs little. */
static inline uint64_t little_word(unsigned int word) {
    return (word == WORD(NVMX_F_GUEST_RIP) ? LITTLE : 0) |
           (word == WORD(NVMX_F_VM_ENTRY_INTERRUPTION_INFO) ? BIT(NVMX_F_VM_ENTRY_INTERRUPTION_INFO) : 0) |
           (word == WORD(NVMX_F_EPT_POINTER) ? BIT(NVMX_F_EPT_POINTER) : 0);
}

#define TIMER NVMX_F_PREEMPTION_TIMER_VALUE

/* No exit saves it: then it is written at each entry anyhow. */
static inline bool timer_is_rewritten(const struct vmcs12 *v) {
    return ((v->refreshed.word[WORD(TIMER)] & ~v->saved.word[WORD(TIMER)]) & BIT(TIMER)) != 0;
}

/* An event counts only while it is valid, and is written whenever it is. An EPTP has been checked when it was written. */
bool merge_needs_little(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    const uint64_t beside_timer = v->dirty.word[WORD(TIMER)] & ~little_word(WORD(TIMER));
    uint64_t others = 0;

#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        others |= w != WORD(TIMER) ? v->dirty.word[w] & ~little_word(w) : 0;
    }
    if ((others | beside_timer) != 0 && (others != 0 || beside_timer != BIT(TIMER) || !timer_is_rewritten(v))) {
        return false;
    }
    return (v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] & EVENT_VALID) == 0 && nvmx_set_has(&v->known, NVMX_F_VM_ENTRY_INTERRUPTION_INFO) &&
           (RARE(nvmx_set_has(&v->dirty, NVMX_F_EPT_POINTER)) || merge_ept_ready(vcpu)) &&
           (!v->writes_more || !v->msr_words || merge_msr_words(vcpu, v));
}

/* A batch with room for what an entry that needs little writes. */
struct little {
    uint32_t count;
    uint32_t encoding[GATES_MAX + 13];
    uint64_t value[GATES_MAX + 13];
};

static inline void little_put(struct little *l, uint32_t encoding, uint64_t value) {
    l->encoding[l->count] = encoding;
    l->value[l->count++] = value;
}

static inline void little_put_dirty(struct little *l, struct vmcs12 *v, unsigned int slot, uint32_t encoding) {
    if ((v->dirty.word[WORD(slot)] & BIT(slot)) != 0) {
        v->image[slot] = v->value[slot];
        little_put(l, encoding, v->value[slot]);
    }
}

/* L1's value may be the one that the last exit found in vmcs02. */
static inline void little_put_inherited(const struct nvmx_vcpu *vcpu, struct little *l, const struct vmcs12 *v) {
    for (uint32_t i = v->inherited_same; i < v->inherited_count; i++) {
        unsigned int gate = v->inherited_gate[i];
        uint64_t value = inherited_value(vcpu, v, i);

        if (((v->gates_found >> gate) & 1) == 0 || v->found[gate] != value) {
            little_put(l, v->inherited_encoding[i], value);
        }
    }
}

static __attribute__((noinline)) void little_put_rewritten(struct little *l, struct vmcs12 *v) {
    for (unsigned int i = 0; i < v->rewritten_count; i++) {
        little_put(l, field_encoding[v->rewritten[i]], v->value[v->rewritten[i]]);
    }
}

static void little_put_changed(struct little *l, struct vmcs12 *v, unsigned int slot, uint64_t value) {
    if (!nvmx_set_has(&v->known, slot) || v->image[slot] != value) {
        v->image[slot] = value;
        nvmx_set_add(&v->known, slot);
        little_put(l, field_encoding[slot], value);
    }
}

static COLD enum nvmx_status little_put_root(struct nvmx_vcpu *vcpu, struct little *l, struct vmcs12 *v) {
    struct merge_roots roots;
    enum nvmx_status status = merge_root_of(vcpu, v, v->value[NVMX_F_EPT_POINTER], &roots);

    if (status == NVMX_OK) {
        little_put_changed(l, v, NVMX_F_EPT_POINTER, roots.eptp02);
        if (roots.spp) {
            little_put_changed(l, v, NVMX_F_SPP_TABLE_POINTER, roots.spptp02);
        }
    }
    return status;
}

enum nvmx_status merge_little(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    struct little l;
    enum nvmx_status status = NVMX_OK;

    l.count = 0;
    if (RARE(nvmx_set_has(&v->dirty, NVMX_F_EPT_POINTER))) {
        status = little_put_root(vcpu, &l, v);
    }
    if (status == NVMX_OK) {
        status = host_select_vmcs02(vcpu, (uint32_t)vcpu->current);
    }
    little_put_inherited(vcpu, &l, v);
    if (v->writes_more) {
        little_put_rewritten(&l, v);
    }
    little_put_dirty(&l, v, NVMX_F_GUEST_RIP, NVMX_VMCS_GUEST_RIP);
    little_put_dirty(&l, v, NVMX_F_GUEST_RSP, NVMX_VMCS_GUEST_RSP);
    if ((v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] & EVENT_VALID) != 0) {
        v->image[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] = v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];
        little_put(&l, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO]);
    }
    v->gates_found = 0;
    if (status == NVMX_OK && l.count != 0) {
        status = host_write_encoded(vcpu, l.count, l.encoding, l.value);
    }
    vcpu->l1_value_known = false;
    if (RARE(status != NVMX_OK)) {
        v->known = (struct nvmx_field_set){{0}};
        v->inherited_same = 0;
        v->controls_merged = v->plain = false;
        return status;
    }
#pragma GCC unroll 4
    for (unsigned int w = 0; w < NVMX_FIELD_SET_WORDS; w++) {
        if (little_word(w) != 0) {
            v->dirty.word[w] = 0;
        }
    }
    return NVMX_OK;
}
