/* SPDX-License-Identifier: MIT */
#include "check_states.h"

#define REVISION 0x1234567u

static uint64_t allowed(uint32_t must, uint32_t may) {
    return (uint64_t)may << 32 | must;
}

/* Default1 controls (SDM A.3-A.5); of those, MOV-CR3 exiting and the debug controls may be 0. */
void check_caps_init(struct nvmx_caps *caps) {
    *caps = (struct nvmx_caps){
        .debugctl_valid = 0x1c3,
        .perf_global_ctrl_valid = UINT64_C(0x70000000f),
        .spec_ctrl_valid = 7,
        .rtit_ctl_valid = 0x3fff,
        .lbr_ctl_valid = 0x7f000f,
        .physical_address_bits = 39,
        .cpu = NVMX_CPU_LONG_MODE | NVMX_CPU_SGX | NVMX_CPU_RTM | NVMX_CPU_NX | NVMX_CPU_SYSCALL,
    };
    caps->msr[NVMX_CAP_BASIC] = REVISION | UINT64_C(4096) << 32 | UINT64_C(6) << 50 | UINT64_C(3) << 54;
    caps->msr[NVMX_CAP_PINBASED] = allowed(0x16, 0xff);
    caps->msr[NVMX_CAP_PROCBASED] = allowed(0x0401e172, ~(1u | 1u << 18));
    caps->msr[NVMX_CAP_EXIT] = allowed(0x36dff, ~(1u << 24));
    caps->msr[NVMX_CAP_ENTRY] = allowed(0x11ff, 0x1ffffff);
    caps->msr[NVMX_CAP_TRUE_PINBASED] = allowed(0x16, 0xff);
    caps->msr[NVMX_CAP_TRUE_PROCBASED] = allowed(0x04006172, ~(1u | 1u << 18));
    caps->msr[NVMX_CAP_TRUE_EXIT] = allowed(0x36dfb, ~(1u << 24));
    caps->msr[NVMX_CAP_TRUE_ENTRY] = allowed(0x11fb, 0x1ffffff);
    caps->msr[NVMX_CAP_PROCBASED2] = allowed(0, ~(1u << 29));
    caps->msr[NVMX_CAP_PROCBASED3] = 0x13ff;
    caps->msr[NVMX_CAP_EXIT2] = 0xf;
    caps->msr[NVMX_CAP_VMFUNC] = 1;
    caps->msr[NVMX_CAP_MISC] = 7u << 6 | 4u << 16;
    caps->msr[NVMX_CAP_EPT_VPID] = UINT64_C(0xf0106374141);
    caps->msr[NVMX_CAP_CR0_FIXED0] = 0x80000021;
    caps->msr[NVMX_CAP_CR0_FIXED1] = 0xffffffff;
    caps->msr[NVMX_CAP_CR4_FIXED0] = 0x2000;
    caps->msr[NVMX_CAP_CR4_FIXED1] = UINT64_C(0x100f77fff);
}

static void controls_init(uint64_t *field) {
    field[NVMX_F_PIN_BASED_CONTROLS] = 0x16;
    field[NVMX_F_PRIMARY_CONTROLS] = 0x8401e172;
    field[NVMX_F_SECONDARY_CONTROLS] = 1u << 1;
    field[NVMX_F_VM_EXIT_CONTROLS] = 0x36dff | 1u << 9;
    field[NVMX_F_VM_ENTRY_CONTROLS] = 0x11ff | 1u << 9 | 1u << 15;
    field[NVMX_F_EPT_POINTER] = 0x101e;
}

static void host_init(uint64_t *field) {
    field[NVMX_F_HOST_CR0] = 0x80010021;
    field[NVMX_F_HOST_CR3] = 0x5000;
    field[NVMX_F_HOST_CR4] = 0x2020;
    field[NVMX_F_HOST_CS_SELECTOR] = 0x08;
    field[NVMX_F_HOST_SS_SELECTOR] = 0x10;
    field[NVMX_F_HOST_TR_SELECTOR] = 0x18;
    field[NVMX_F_HOST_TR_BASE] = UINT64_C(0xffffffff80002000);
    field[NVMX_F_HOST_GDTR_BASE] = UINT64_C(0xffffffff80003000);
    field[NVMX_F_HOST_IDTR_BASE] = UINT64_C(0xffffffff80004000);
    field[NVMX_F_HOST_RIP] = UINT64_C(0xffffffff81000000);
}

static void segment(uint64_t *field, unsigned int number, uint64_t selector, uint64_t base, uint64_t limit, uint64_t rights) {
    field[NVMX_F_GUEST_ES_SELECTOR + number] = selector;
    field[NVMX_F_GUEST_ES_BASE + number] = base;
    field[NVMX_F_GUEST_ES_LIMIT + number] = limit;
    field[NVMX_F_GUEST_ES_ACCESS_RIGHTS + number] = rights;
}

/* ES CS SS DS FS GS LDTR TR, in the order of their encodings */
static void segments_init(uint64_t *field, uint64_t code_rights) {
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, 0x10, 0, 0xffffffff, 0xc093);
    segment(field, 1, 0x08, 0, 0xffffffff, code_rights);
    segment(field, 6, 0, 0, 0, 0x10000);
    segment(field, 7, 0x18, 0x8000, 0x67, 0x8b);
}

static void guest_init(uint64_t *field) {
    field[NVMX_F_GUEST_CR0] = 0x80010021;
    field[NVMX_F_GUEST_CR3] = 0x4000;
    field[NVMX_F_GUEST_CR4] = 0x2020;
    field[NVMX_F_GUEST_EFER] = 0xd01;
    field[NVMX_F_GUEST_DR7] = 0x400;
    field[NVMX_F_GUEST_GDTR_LIMIT] = 0xff;
    field[NVMX_F_GUEST_IDTR_LIMIT] = 0xfff;
    field[NVMX_F_GUEST_RIP] = 0x401000;
    field[NVMX_F_GUEST_RFLAGS] = 2;
    field[NVMX_F_VMCS_LINK_POINTER] = NVMX_NO_ADDRESS;
    segments_init(field, 0xa09b);
}

static void leave_ia32e(uint64_t *field) {
    field[NVMX_F_VM_ENTRY_CONTROLS] &= ~(UINT64_C(1) << 9);
    field[NVMX_F_GUEST_EFER] = 0;
}

static void real_init(uint64_t *field) {
    leave_ia32e(field);
    field[NVMX_F_SECONDARY_CONTROLS] |= 1u << 7;
    field[NVMX_F_GUEST_CR0] = 0x20;
    field[NVMX_F_GUEST_CR4] = 0x2000;
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, 0, 0, 0xffff, 0x93);
    segment(field, 1, 0xf000, 0xffff0000, 0xffff, 0x93);
    segment(field, 7, 0, 0, 0xffff, 0x8b);
    field[NVMX_F_GUEST_RIP] = 0xfff0;
}

static void pae_init(uint64_t *field) {
    leave_ia32e(field);
    field[NVMX_F_SECONDARY_CONTROLS] = 0;
    segments_init(field, 0xc09b);
}

static void v86_init(uint64_t *field) {
    leave_ia32e(field);
    field[NVMX_F_GUEST_CR4] = 0x2000;
    field[NVMX_F_GUEST_RFLAGS] = 0x23002;
    for (unsigned int number = 0; number < 6; number++)
        segment(field, number, 0x1000 + number, (0x1000 + number) << 4, 0xffff, 0xf3);
    field[NVMX_F_GUEST_RIP] = 0x100;
}

static void host32_init(struct check_state *state) {
    uint64_t *field = state->field;

    pae_init(field);
    state->in.l1_long_mode = false;
    field[NVMX_F_VM_EXIT_CONTROLS] &= ~(UINT64_C(1) << 9);
    field[NVMX_F_HOST_CR4] = 0x2000;
    field[NVMX_F_HOST_TR_BASE] = 0x2000;
    field[NVMX_F_HOST_GDTR_BASE] = 0x3000;
    field[NVMX_F_HOST_IDTR_BASE] = 0x4000;
    field[NVMX_F_HOST_RIP] = 0x100000;
    field[NVMX_F_GUEST_CR4] = 0x2000;
}

void check_state_init(struct check_state *state, enum check_base base) {
    *state = (struct check_state){0};
    check_caps_init(&state->caps);
    state->in = (struct nvmx_check_input){
        .field = state->field,
        .caps = &state->caps,
        .current_vmcs = 0x2000,
        .vmxon_pointer = 0x1000,
        .link_revision = REVISION,
        .link_readable = true,
        .l1_long_mode = true,
        .pdpte = {0x6001, 0x7001, 0, 0},
        .pdpte_readable = true,
    };
    controls_init(state->field);
    host_init(state->field);
    guest_init(state->field);
    if (base == REAL)
        real_init(state->field);
    else if (base == PAE)
        pae_init(state->field);
    else if (base == V86)
        v86_init(state->field);
    else if (base == HOST32)
        host32_init(state);
}

static void change(struct check_state *state, const struct change *c) {
    switch ((enum change_kind)c->kind) {
    case CHANGE_NONE:
        break;
    case CHANGE_SET:
        state->field[c->place] = c->value;
        break;
    case CHANGE_OR:
        state->field[c->place] |= c->value;
        break;
    case CHANGE_CLEAR:
        state->field[c->place] &= ~c->value;
        break;
    case CHANGE_CAP_OR:
        state->caps.msr[c->place] |= c->value;
        break;
    case CHANGE_CAP_CLEAR:
        state->caps.msr[c->place] &= ~c->value;
        break;
    case CHANGE_CPU_OR:
        state->caps.cpu |= (uint32_t)c->value;
        break;
    case CHANGE_CPU_CLEAR:
        state->caps.cpu &= ~(uint32_t)c->value;
        break;
    case CHANGE_VTPR:
        state->in.vtpr = (uint8_t)c->value;
        break;
    case CHANGE_REVISION:
        state->in.link_revision = (uint32_t)c->value;
        break;
    case CHANGE_READABLE:
        state->in.link_readable = c->value != 0;
        break;
    case CHANGE_PDPTE:
        state->in.pdpte[c->place] = c->value;
        break;
    case CHANGE_PDPTE_READABLE:
        state->in.pdpte_readable = c->value != 0;
        break;
    }
}

void check_state_change(struct check_state *state, const struct change *changes, unsigned int max) {
    for (unsigned int i = 0; i < max && changes[i].kind != CHANGE_NONE; i++)
        change(state, &changes[i]);
}
