/* SPDX-License-Identifier: MIT */
/* INVEPT, INVVPID. */
#include "instruction_tlb.h"

/* What L1 has of them (vm->invept_types, invvpid_types), the instruction itself is there. */
static struct verdict check_type(const struct instruction *in, uint8_t types) {
    return in->reg2 < 8 && ((types >> in->reg2) & 1) != 0 ? VERDICT(GO_ON, 0) : VERDICT(FAIL, 28);
}

struct verdict invept_before(struct instruction *in) {
    return check_type(in, in->vcpu->vm->invept_types);
}

struct verdict invept_effect(struct instruction *in) {
    return invept_descriptor(in->vcpu, in->reg2, in->memory[0]);
}

struct verdict invvpid_before(struct instruction *in) {
    return check_type(in, in->vcpu->vm->invvpid_types);
}

struct verdict invvpid_effect(struct instruction *in) {
    return invvpid_descriptor(in->vcpu, in->reg2, in->memory[0], in->memory[1]);
}
