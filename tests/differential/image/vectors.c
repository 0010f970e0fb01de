/* SPDX-License-Identifier: MIT */
/*
 * Entry vectors: a state into the VMCS, VMLAUNCH or VMRESUME, and a line with what came of it.
 *
 *   NUMBER F FLAGS ERROR HASH                 VMfail; HASH of all fields afterwards
 *   NUMBER E REASON QUALIFICATION HASH HOST   VM exit or entry failure; HOST: hash of what was loaded into L1
 *   NUMBER X VECTOR ERROR                     the instruction faulted
 *   NUMBER W ENCODING FLAGS ERROR             a VMWRITE of the state failed
 */
#include "image.h"

#define REVISION_SHADOW 0x80000000u
enum { POKES_MAX = 8, ALL_FIELDS_EVERY = 8 };

static uint64_t current[DIFF_FIELDS_MAX]; /* what the VMCS holds, by place */
static uint64_t wanted[DIFF_FIELDS_MAX];
static uint16_t place_of[0x8000];         /* place + 1 of an encoding */
static bool launched, known;
static struct {
    uint64_t *address;
    uint64_t old;
} poked[POKES_MAX];
static uint32_t pokes;

static uint64_t value_of(uint32_t encoding) {
    return place_of[encoding] == 0 ? 0 : current[place_of[encoding] - 1];
}

static bool prepare(const struct module *m) {
    for (uint32_t i = 0; i < m->header->fields; i++) {
        place_of[m->encodings[i] & 0x7fff] = (uint16_t)(i + 1);
    }
    uint64_t pointer = DIFF_VMXON;
    *(uint32_t *)pointer = cap.revision;
    *(uint32_t *)(uint64_t)DIFF_VMCS = cap.revision;
    *(uint32_t *)(uint64_t)DIFF_PLAIN_VMCS = cap.revision;
    *(uint32_t *)(uint64_t)DIFF_SHADOW_VMCS = cap.revision | REVISION_SHADOW;
    *(uint32_t *)(uint64_t)DIFF_OTHER_VMCS = cap.revision ^ 1;
    write_cr4(DIFF_HOST_CR4);
    struct vmx_result result = vmx_vmxon(&pointer);
    return result.fault.vector == NO_FAULT && result.flags == 0;
}

static bool start_over(void) {
    uint64_t pointer = DIFF_VMCS;
    launched = false;
    return vmx_vmclear(&pointer).flags == 0 && vmx_vmptrld(&pointer).flags == 0;
}

/* The state of this vector: its base with its changes; pokes go to memory at once. */
static void compose(const struct module *m, const struct diff_vector *v, const struct diff_change *change) {
    memcpy(wanted, m->base[v->base], m->header->fields * sizeof wanted[0]);
    pokes = 0;
    for (uint32_t i = 0; i < v->changes; i++) {
        if (change[i].place < DIFF_ARENA) {
            wanted[change[i].place] = change[i].value;
        } else if (pokes < POKES_MAX) {
            poked[pokes].address = (uint64_t *)(uint64_t)change[i].place;
            poked[pokes].old = *poked[pokes].address;
            *poked[pokes++].address = change[i].value;
        }
    }
}

static void restore_memory(void) {
    while (pokes > 0) {
        pokes--;
        *poked[pokes].address = poked[pokes].old;
    }
}

static bool write_state(const struct module *m, uint32_t number) {
    for (uint32_t i = 0; i < m->header->fields; i++) {
        if ((m->encodings[i] & DIFF_FIELD_WRITE) == 0 || (known && current[i] == wanted[i])) {
            continue;
        }
        struct vmx_result result = vmx_vmwrite(m->encodings[i] & 0xffff, wanted[i]);
        if (result.fault.vector != NO_FAULT || result.flags != 0) {
            print("%x W %x %lx %x\n", number, m->encodings[i] & 0xffff, result.flags, result.error);
            known = false;
            return false;
        }
        current[i] = wanted[i];
    }
    known = true;
    return true;
}

/* Access rights, base and limit of an unusable segment register are saved in part only (SDM 30.3.2). */
static uint64_t segment_mask(uint32_t encoding) {
    enum { ES, CS, SS, DS, FS, GS, LDTR, TR };
    const uint32_t kind = encoding & 0x7f00, number = (encoding & 0xff) >> 1;
    uint32_t segment = number;
    if (kind == 0x4800) {
        segment = number >= 10 ? number - 10 : number;
    } else if (kind == 0x6800) {
        segment = number - 3;
    }
    if (segment > LDTR || (kind == 0x4800 && (number == 8 || number == 9)) ||
        (value_of(GUEST_ES_ACCESS + 2 * segment) & 0x10000) == 0) {
        return ~0ul;
    }
    if (kind == 0x4800 && number >= 10) {
        return 0x10f00 | (segment == CS ? 0xe000 : 0) | (segment == SS ? 0x60 : 0);
    }
    if (segment == CS || (kind == 0x6800 && (segment == FS || segment == GS))) {
        return ~0ul;
    }
    return kind == 0x6800 && (segment == SS || segment == DS || segment == ES) ? ~0xfffffffful : 0;
}

/* Bits that the SDM defines for a field after this vector; `exited`: guest state was saved. */
static uint64_t defined(uint32_t encoding, bool exited) {
    if (!exited) {
        return ~0ul;
    }
    if (encoding >= 0x280a && encoding <= 0x2810) { /* PDPTEs: only with PAE paging and EPT (SDM 30.3.1) */
        bool pae = (value_of(GUEST_CR0) & CR0_PG) != 0 && (value_of(GUEST_CR4) & 0x20) != 0 &&
                   (value_of(ENTRY_CONTROLS) & ENTRY_IA32E) == 0;
        bool ept = (value_of(PROC_CONTROLS) & PROC_SECONDARY) != 0 && (value_of(PROC2_CONTROLS) & PROC2_EPT) != 0;
        return pae && ept ? ~0ul : 0;
    }
    if ((encoding >= 0x4800 && encoding <= 0x4822) || (encoding >= 0x6806 && encoding <= 0x6812)) {
        return segment_mask(encoding);
    }
    return ~0ul;
}

/* Can what came of the vector have changed the field? After an exit guest state, the VM-entry controls and the injected event. */
static bool may_change(uint32_t encoding, bool exited) {
    return exited && ((encoding & 0xc00) == 0x800 || encoding == ENTRY_CONTROLS || encoding == ENTRY_INTERRUPTION_INFO);
}

/* `all`: look also at what must not have changed. */
static uint64_t read_state(const struct module *m, bool all, bool exited, bool dump) {
    uint64_t sum = HASH_START;
    for (uint32_t i = 0; i < m->header->fields; i++) {
        if (all || may_change(m->encodings[i] & 0xffff, exited)) {
            current[i] = vmread((enum vmcs_field)(m->encodings[i] & 0xffff));
        }
    }
    for (uint32_t i = 0; i < m->header->fields; i++) {
        uint64_t mask = defined(m->encodings[i] & 0xffff, exited);
        if ((m->encodings[i] & DIFF_FIELD_HASH) == 0) {
            continue;
        }
        if (dump) {
            print("d %x %lx\n", m->encodings[i] & 0xffff, current[i] & mask);
        }
        sum = hash(sum, current[i] & mask);
    }
    return sum;
}

static uint64_t hash_exit(uint64_t sum, const struct exit_info *e, bool dump) {
    const uint64_t values[] = {e->length, e->interruption, e->error_code, e->vectoring, e->vectoring_error,
                               e->instruction, e->linear, e->physical};
    static const char *const names[] = {"length", "interruption", "error_code", "vectoring", "vectoring_error",
                                        "instruction", "linear", "physical"};
    for (uint32_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        if (dump) {
            print("x %s %lx\n", names[i], values[i]);
        }
        sum = hash(sum, values[i]);
    }
    return sum;
}

static void enter(const struct module *m, const struct diff_vector *v) {
    const bool dump = (m->header->flags & DIFF_DUMP) != 0 && v->number >= m->header->dump_from;
    const bool all = dump || v->number % ALL_FIELDS_EVERY == 0;
    fault_reset();
    catch_rip = (uint64_t)diff_faulted;
    const bool host32 = (v->flags & DIFF_VECTOR_HOST32) != 0;
    const uint64_t flags = host32 ? diff_enter32() : diff_enter(!launched);
    catch_rip = 0;
    if (last_fault.vector != NO_FAULT) {
        print("%x X %x %x\n", v->number, last_fault.vector, last_fault.error_code);
        known = false;
        return;
    }
    if (flags != 0) {
        struct vmx_result result = vmx_result(flags);
        const uint64_t sum = read_state(m, all, false, dump);
        print("%x F %lx %x %x\n", v->number, result.flags, result.error, hash_fold(sum));
        return;
    }
    const uint64_t host = host_check(dump, host32);
    struct exit_info e = exit_read(0);
    const bool failed = (e.reason & ENTRY_FAILURE) != 0;
    uint64_t sum = read_state(m, all, !failed, dump);
    exit_reduce(&e);
    if (!failed) {
        launched = !host32;
        sum = hash_exit(sum, &e, dump);
    }
    print("%x E %x %lx %x %x\n", v->number, e.reason, e.qualification, hash_fold(sum), hash_fold(host));
}

const uint8_t *vectors_run(const struct module *m, const uint8_t *at) {
    if (!prepare(m) || !start_over()) {
        report_fatal("VMXON, VMCLEAR or VMPTRLD failed");
    }
    for (uint32_t i = 0; i < m->header->vectors; i++) {
        const struct diff_vector *v = (const struct diff_vector *)at;
        const struct diff_change *change = (const struct diff_change *)(v + 1);
        compose(m, v, change);
        if (!(launched && (v->flags & DIFF_VECTOR_HOST32) == 0 && (v->flags & DIFF_VECTOR_RESUME) != 0) && !start_over()) {
            report_fatal("VMCLEAR or VMPTRLD failed at vector %x", v->number);
        }
        if (write_state(m, v->number)) {
            enter(m, v);
        }
        restore_memory();
        at = (const uint8_t *)(change + v->changes);
    }
    vmx_vmxoff();
    return at;
}
