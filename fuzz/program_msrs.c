/* SPDX-License-Identifier: MIT */
/*
 * MSRs that a VMCS field holds and that the host may watch (nvmx_vcpu_config.watches_msrs): L1 and L2 write them, and each finds after a transition what the
 * SDM says (29.3.2.1, 30.5.1, 30.5.2), whatever the library remembers of them.
 */
#include "program.h"

#include "architecture.h"

#define LOAD_PAT_ENTRY  (UINT64_C(1) << 14)
#define LOAD_EFER_ENTRY (UINT64_C(1) << 15)
#define LOAD_PAT_EXIT   (UINT64_C(1) << 19)
#define LOAD_EFER_EXIT  (UINT64_C(1) << 21)
#define EFER_FREE       (EFER_NXE | 1) /* SCE; the others follow from L2's mode, or are its paging's */

/* -- writing --------------------------------------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t index;
    enum nvmx_field field;
} watched[] = {
    {0x174, NVMX_F_GUEST_SYSENTER_CS}, {0x175, NVMX_F_GUEST_SYSENTER_ESP}, {0x176, NVMX_F_GUEST_SYSENTER_EIP},
    {0x277, NVMX_F_GUEST_PAT},         {MSR_EFER, NVMX_F_GUEST_EFER},
};

static uint64_t memory_types(uint64_t value) {
    static const uint8_t type[] = {0, 1, 4, 5, 6, 7, 6, 7};
    uint64_t pat = 0;
    for (unsigned int i = 0; i < 8; i++)
        pat |= (uint64_t)type[value >> (8 * i) & 7] << (8 * i);
    return pat;
}

/* A value that WRMSR takes. */
static uint64_t as_wrmsr_takes_it(enum nvmx_field field, uint64_t now, uint64_t value) {
    switch (field) {
    case NVMX_F_GUEST_SYSENTER_CS:
        return value & UINT32_MAX;
    case NVMX_F_GUEST_PAT:
        return memory_types(value);
    case NVMX_F_GUEST_EFER:
        return (now & ~(uint64_t)EFER_FREE) | (value & EFER_FREE);
    default:
        return (uint64_t)((int64_t)(value << 16) >> 16);
    }
}

/* Where nobody watches, L2 writes only what nothing intercepts. */
bool do_wrmsr(struct model *o, enum nvmx_next *next) {
    unsigned int which = fuzz_u8(o->in) % 5;
    enum nvmx_field field = watched[which].field;
    uint64_t value = as_wrmsr_takes_it(field, sim_get(o->sim, nvmx_selected(o->sim->vcpu), field), fuzz_value(o->in));
    const struct nvmx_l2_exit_info exit = {.reason = 32, .instruction_length = 2};
    bool l2 = o->mode == NVMX_MODE_L2;
    *next = NVMX_ENTER;
    if (!sim_has_field(o->sim, field) || (l2 && o->pending && !o->m->options.watches_msrs))
        return false;
    o->sim->regs.gpr[NVMX_RCX] = watched[which].index;
    bool l1s = l2 && nvmx_l1_intercepts(o->sim->vcpu, &exit);
    if (l1s && !o->m->options.watches_msrs)
        return false;
    bool done = sim_wrmsr(o->sim, watched[which].index, value);
    FUZZ_HOLD(done != l1s, "WRMSR of %#x in mode %d: %s", watched[which].index, (int)o->mode, done ? "L1 does not see it" : "not the host's");
    o->pending = o->pending && !l2;
    *next = nvmx_stop_reason(o->sim->vcpu) != NVMX_STOP_NONE ? NVMX_STOP : NVMX_ENTER;
    fuzz_log("WRMSR of %#x: %#llx%s", watched[which].index, U(value), l1s ? ", which L1 intercepts" : "");
    return !done;
}

/* -- what is there then ------------------------------------------------------------------------------------------------------------------------ */

static bool knows(const struct region *r, enum nvmx_field slot) {
    return nvmx_set_has(&r->known, slot);
}

static void expect(const struct model *o, uint32_t which, enum nvmx_field slot, uint64_t value, const char *whose) {
    uint64_t has = sim_get(o->sim, which, slot);
    FUZZ_HOLD(has == value, "%s: %s has %#llx instead of %#llx", nvmx_field_info(slot)->name, whose, U(has), U(value));
}

/* L2 is about to run: what its entry does not load is L1's. IA32_EFER is so but for the bits that the entry sets by itself. */
void model_check_l2_msrs(const struct model *o) {
    const struct region *r = &o->region[o->current];
    uint32_t l2 = nvmx_selected(o->sim->vcpu);
    uint64_t host = sim_get(o->sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), entry = r->value[NVMX_F_VM_ENTRY_CONTROLS];
    bool ia32e = entry >> 9 & 1;
    if (!knows(r, NVMX_F_VM_ENTRY_CONTROLS))
        return;
    if (host & ~entry & LOAD_PAT_ENTRY)
        expect(o, l2, NVMX_F_GUEST_PAT, sim_get(o->sim, NVMX_VMCS01, NVMX_F_GUEST_PAT), "L2");
    if (host & ~entry & LOAD_EFER_ENTRY) {
        uint64_t set = EFER_LMA | (sim_get(o->sim, l2, NVMX_F_GUEST_CR0) & CR0_PG ? EFER_LME : 0);
        expect(o, l2, NVMX_F_GUEST_EFER, (sim_get(o->sim, NVMX_VMCS01, NVMX_F_GUEST_EFER) & ~set) | (ia32e ? set : 0), "L2");
    }
}

/* L1 has got an exit of L2, which left vmcs02 as in `before`: its host-state area, and of what that does not name L2's. */
void model_check_l1_msrs(const struct model *o, const uint64_t *before) {
    static const enum nvmx_field always[][2] = {{NVMX_F_GUEST_SYSENTER_CS, NVMX_F_HOST_SYSENTER_CS},
                                                {NVMX_F_GUEST_SYSENTER_ESP, NVMX_F_HOST_SYSENTER_ESP},
                                                {NVMX_F_GUEST_SYSENTER_EIP, NVMX_F_HOST_SYSENTER_EIP}};
    const struct region *r = &o->region[o->current];
    uint64_t host = sim_get(o->sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_CONTROLS), exit = r->value[NVMX_F_VM_EXIT_CONTROLS];
    for (unsigned int i = 0; i < 3; i++)
        if (knows(r, always[i][1]))
            expect(o, NVMX_VMCS01, always[i][0], r->value[always[i][1]], "L1");
    if (!knows(r, NVMX_F_VM_EXIT_CONTROLS))
        return;
    if (host & LOAD_PAT_ENTRY && (!(exit & LOAD_PAT_EXIT) || knows(r, NVMX_F_HOST_PAT)))
        expect(o, NVMX_VMCS01, NVMX_F_GUEST_PAT, exit & LOAD_PAT_EXIT ? r->value[NVMX_F_HOST_PAT] : before[NVMX_F_GUEST_PAT], "L1");
    if (host & LOAD_EFER_ENTRY && (!(exit & LOAD_EFER_EXIT) || knows(r, NVMX_F_HOST_EFER))) {
        uint64_t efer = exit & LOAD_EFER_EXIT ? r->value[NVMX_F_HOST_EFER] : before[NVMX_F_GUEST_EFER], lm = EFER_LMA | EFER_LME;
        expect(o, NVMX_VMCS01, NVMX_F_GUEST_EFER, (efer & ~lm) | (exit >> 9 & 1 ? lm : 0), "L1");
    }
}
