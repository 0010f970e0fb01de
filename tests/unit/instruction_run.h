/* SPDX-License-Identifier: MIT */
/* One VMX instruction of L1 with operands of the test's choice, and what L1 sees of it. */
#ifndef INSTRUCTION_RUN_H
#define INSTRUCTION_RUN_H

#include <stdio.h>

#include "sim.h"
#include "vcpu.h"

#define RIP_BEFORE UINT64_C(0x100000)
#define LENGTH     4u

/* Instruction information (SDM 30.2.5). */
#define INFO_ADDRESS(bits)   ((bits) == 64 ? 2u << 7 : (bits) == 32 ? 1u << 7 : 0u)
#define INFO_SEGMENT(s)      ((uint32_t)(s) << 15)
#define INFO_INDEX(r, shift) ((uint32_t)(r) << 18 | (uint32_t)(shift))
#define INFO_NO_INDEX        (1u << 22)
#define INFO_BASE(r)         ((uint32_t)(r) << 23)
#define INFO_NO_BASE         (1u << 27)
#define INFO_REG2(r)         ((uint32_t)(r) << 28)
#define INFO_RM_REGISTER(r)  (1u << 10 | (uint32_t)(r) << 3)
#define INFO_DISPLACEMENT64  (INFO_ADDRESS(64) | INFO_SEGMENT(NVMX_DS) | INFO_NO_INDEX | INFO_NO_BASE)
#define INFO_DISPLACEMENT32  (INFO_ADDRESS(32) | INFO_SEGMENT(NVMX_DS) | INFO_NO_INDEX | INFO_NO_BASE)

enum {
    VMCALL = 18,
    VMCLEAR = 19,
    VMLAUNCH = 20,
    VMPTRLD = 21,
    VMPTRST = 22,
    VMREAD = 23,
    VMRESUME = 24,
    VMWRITE = 25,
    VMXOFF = 26,
    VMXON = 27,
    INVEPT = 50,
    INVVPID = 53,
    VMFUNC = 59,
};

/* What L1 sees. VALID and FAULT have a number: the VM-instruction error, the vector. */
enum seen { SEEN_SUCCEED = 0, SEEN_INVALID, SEEN_VALID, SEEN_FAULT, SEEN_AGAIN, SEEN_HOST, SEEN_STOP, SEEN_OTHER };

struct seen_outcome {
    enum seen seen;
    uint32_t number;
};

static inline bool same_outcome(struct seen_outcome a, struct seen_outcome b) {
    return a.seen == b.seen && a.number == b.number;
}

static inline struct seen_outcome outcome_after(struct sim *sim, enum nvmx_next next, uint64_t rip) {
    const uint64_t flags = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS) & 0x8d5;
    const uint64_t now = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    const struct vmcs12 *current = vmcs12_current(sim->vcpu);
    if (next != NVMX_ENTER) {
        return (struct seen_outcome){next == NVMX_HOST ? SEEN_HOST : SEEN_STOP, 0};
    }
    if (sim_fault_vector(sim) >= 0) {
        return (struct seen_outcome){now == rip ? SEEN_FAULT : SEEN_OTHER, (uint32_t)sim_fault_vector(sim)};
    }
    if (now == rip) {
        return (struct seen_outcome){SEEN_AGAIN, 0};
    }
    if (flags == 0x40 && current != NULL) {
        return (struct seen_outcome){SEEN_VALID, (uint32_t)current->value[NVMX_F_VM_INSTRUCTION_ERROR]};
    }
    return (struct seen_outcome){flags == 0 ? SEEN_SUCCEED : flags == 1 ? SEEN_INVALID : SEEN_OTHER, (uint32_t)flags};
}

/* Execute at L1's RIP, with all arithmetic flags set before. */
static inline struct seen_outcome run(struct sim *sim, uint32_t reason, uint32_t info, uint64_t qualification) {
    const uint64_t rip = sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RIP);
    sim_set(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS, sim_get(sim, NVMX_VMCS01, NVMX_F_GUEST_RFLAGS) | 0x8d5);
    enum nvmx_next next = sim_exit(sim, reason, qualification, info, LENGTH);
    if (next == NVMX_HOST && reason == VMCALL) {
        next = nvmx_vmcall(sim->vcpu);
    }
    struct seen_outcome seen = outcome_after(sim, next, rip);
    if (seen.seen != SEEN_SUCCEED && seen.seen != SEEN_OTHER) {
        seen.number = seen.seen == SEEN_INVALID ? 0 : seen.number;
    }
    return seen;
}

static inline const char *outcome_text(struct seen_outcome o, char text[40]) {
    static const char *const names[] = {"VMsucceed", "VMfailInvalid", "VMfailValid", "fault",
                                        "again",     "host",          "stop",        "other"};
    snprintf(text, 40, "%s %u", names[o.seen], o.number);
    return text;
}

#endif
