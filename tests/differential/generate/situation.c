/* SPDX-License-Identifier: MIT */
/* What a vector comes to: its fields, the memory that checks read, and whether running it is safe. */
#include <string.h>

#include "generate.h"

#define BIT(value, bit) (((uint64_t)(value) >> (bit)) & 1)
#define F(name)         (s->field[NVMX_F_##name])

/* The 8 bytes at an address: what the vector pokes there, else what the states put there. */
uint64_t situation_memory(const struct world *w, const struct vector *v, uint64_t address) {
    for (unsigned int i = 0; i < v->changes; i++)
        if (v->change[i].place == address)
            return v->change[i].value;
    for (unsigned int i = w->states.pokes; i-- > 0;) {
        const struct diff_poke *p = &w->states.poke[i];

        if (address >= p->address && address < p->address + 8 * p->count)
            return p->value + (address - p->address) / 8 * p->step;
    }
    return 0;
}

static bool in_arena(uint64_t address) {
    return address >= DIFF_ARENA && address < DIFF_ARENA + DIFF_ARENA_SIZE;
}

/* The image puts revision identifiers there. */
static uint32_t revision(const struct world *w, uint64_t pointer) {
    const uint32_t own = (uint32_t)w->caps.l1.msr[NVMX_CAP_BASIC] & 0x7fffffff;

    if (pointer == DIFF_VMCS || pointer == DIFF_VMXON || pointer == DIFF_PLAIN_VMCS)
        return own;
    if (pointer == DIFF_SHADOW_VMCS)
        return own | 1u << 31;
    return pointer == DIFF_OTHER_VMCS ? own ^ 1 : 0;
}

void situation_init(struct situation *s, const struct world *w, const struct vector *v) {
    uint64_t pdpt;

    s->base = v->base;
    memcpy(s->field, w->states.field[v->base], sizeof s->field);
    for (unsigned int i = 0; i < v->changes; i++)
        if (v->change[i].place < NVMX_FIELD_COUNT)
            s->field[v->change[i].place] = v->change[i].value;
    pdpt = F(GUEST_CR3) & UINT64_C(0xffffffe0);
    s->in = (struct nvmx_check_input){
        .field = s->field,
        .caps = &w->caps.l1,
        .current_vmcs = DIFF_VMCS,
        .vmxon_pointer = DIFF_VMXON,
        .link_revision = revision(w, F(VMCS_LINK_POINTER)),
        .link_readable = F(VMCS_LINK_POINTER) < 0x20000000,
        .l1_long_mode = !(v->flags & DIFF_VECTOR_HOST32),
        .vtpr = (uint8_t)situation_memory(w, v, (F(VIRTUAL_APIC_ADDRESS) & ~UINT64_C(7)) + 0x80),
        .pdpte_readable = pdpt < 0x20000000,
    };
    for (unsigned int i = 0; i < 4; i++)
        s->in.pdpte[i] = in_arena(pdpt) ? situation_memory(w, v, pdpt + 8 * i) : 0;
}

/* -- is it safe? -------------------------------------------------------------------------------------------------------------------- */

static uint64_t secondary(const struct situation *s) {
    return BIT(F(PRIMARY_CONTROLS), 31) ? F(SECONDARY_CONTROLS) : 0;
}

static bool event(const struct situation *s) {
    return BIT(F(VM_ENTRY_INTERRUPTION_INFO), 31);
}

static bool own_page(uint64_t address) {
    return address >= DIFF_PAGES && address < DIFF_HOST_PML4 && (address & 0xfff) == 0;
}

static bool is_linear64(const struct situation *s) {
    return BIT(F(VM_ENTRY_CONTROLS), 9) && BIT(F(GUEST_CS_ACCESS_RIGHTS), 13);
}

/* An offset in L2's memory, or all ones for addresses that L2's page tables don't map. */
static uint64_t l2_offset(uint64_t linear) {
    if (linear < DIFF_L2_MEMORY)
        return linear;
    return linear >= DIFF_ARENA && linear < DIFF_ARENA + DIFF_L2_MEMORY ? linear - DIFF_ARENA : UINT64_MAX;
}

const char *situation_host_danger(const struct situation *s, const struct world *w) {
    const uint64_t *base = w->states.field[s->base];

    if (w->states.flags[s->base] & DIFF_VECTOR_HOST32 && (F(HOST_CR4) & 0x30) != 0x10)
        return "L1 would lose its paging mode";

    if (F(HOST_RIP) != base[NVMX_F_HOST_RIP] || F(HOST_RSP) != base[NVMX_F_HOST_RSP])
        return "L1 would lose its way";
    if ((F(HOST_CR3) & ~UINT64_C(0x18)) != base[NVMX_F_HOST_CR3])
        return "L1 would lose its page tables";
    if (F(VM_EXIT_MSR_LOAD_COUNT) != 0 && (F(VM_EXIT_MSR_LOAD_ADDRESS) != DIFF_MSR_LOAD || F(VM_EXIT_MSR_LOAD_COUNT) > 2))
        return "MSR-load list of unknown content on exit (VMX abort)";
    if (F(VM_EXIT_MSR_STORE_COUNT) != 0 && (F(VM_EXIT_MSR_STORE_ADDRESS) != DIFF_MSR_STORE || F(VM_EXIT_MSR_STORE_COUNT) > 2))
        return "MSR-store list of unknown content (VMX abort)";
    return NULL;
}

static const char *structure_danger(const struct situation *s) {
    const uint64_t proc = F(PRIMARY_CONTROLS), proc2 = secondary(s);
    const uint64_t entry_list = F(VM_ENTRY_MSR_LOAD_ADDRESS);

    if (BIT(proc, 25) && (!own_page(F(IO_BITMAP_A_ADDRESS)) || !own_page(F(IO_BITMAP_B_ADDRESS))))
        return "I/O bitmaps outside known memory";
    if (BIT(proc, 28) && !own_page(F(MSR_BITMAP_ADDRESS)))
        return "MSR bitmaps outside known memory";
    if (BIT(proc, 21) && F(VIRTUAL_APIC_ADDRESS) != DIFF_VIRTUAL_APIC)
        return "virtual-APIC page outside its own memory";
    if (BIT(proc2, 0) && !own_page(F(APIC_ACCESS_ADDRESS)))
        return "APIC-access page outside known memory";
    if (F(VM_ENTRY_MSR_LOAD_COUNT) != 0 &&
        (entry_list < DIFF_ENTRY_MSRS || entry_list + 16 * F(VM_ENTRY_MSR_LOAD_COUNT) > DIFF_ENTRY_MSRS + 16 * 11))
        return "MSR-load list of unknown content on entry";
    if (F(VMCS_LINK_POINTER) != NVMX_NO_ADDRESS && !own_page(F(VMCS_LINK_POINTER)))
        return "VMCS link pointer outside known memory";
    return NULL;
}

static const char *guest_danger(const struct situation *s) {
    const bool flat = is_linear64(s), ept = BIT(secondary(s), 1);
    const uint64_t root = F(GUEST_CR3) & ~UINT64_C(0xfff);
    const uint64_t code = flat ? F(GUEST_RIP) : (F(GUEST_CS_BASE) + F(GUEST_RIP)) & 0xffffffff;
    const uint64_t stack = flat ? F(GUEST_RSP) : (F(GUEST_SS_BASE) + F(GUEST_RSP)) & 0xffffffff;
    const uint64_t code_offset = l2_offset(code), stack_offset = l2_offset(stack);

    if (ept && (F(EPT_POINTER) & ~UINT64_C(0xfff)) != DIFF_EPT_PML4)
        return "EPT tables outside known memory";
    if (!ept && root != DIFF_ARENA + DIFF_L2_PML4 && root != DIFF_ARENA + DIFF_L2_PAE_PDPT && root != DIFF_ARENA + DIFF_L2_PD32)
        return "page tables of L2 outside known memory, without EPT";
    if (code_offset != UINT64_MAX && (code_offset < DIFF_L2_CODE || code_offset >= DIFF_L2_CODE_END - 16))
        return "L2 would run what is not code";
    if (stack_offset != UINT64_MAX && stack_offset < DIFF_L2_CODE_END + 64 &&
        (event(s) || BIT(secondary(s), 9) || F(GUEST_PENDING_DEBUG_EXCEPTIONS) != 0))
        return "L2 would push over its tables";
    if (F(EXCEPTION_BITMAP) != 0xffffffff || F(PAGE_FAULT_ERROR_CODE_MASK) != 0 || F(PAGE_FAULT_ERROR_CODE_MATCH) != 0)
        return "L2 would not exit";
    return NULL;
}

const char *situation_danger(const struct situation *s, const struct world *w) {
    const uint64_t activity = F(GUEST_ACTIVITY_STATE);
    const char *why = situation_host_danger(s, w);

    if (why == NULL)
        why = structure_danger(s);
    if (why == NULL)
        why = guest_danger(s);
    if (why == NULL && activity == 3)
        why = "nobody sends a SIPI";
    if (why == NULL && activity != 0 && !event(s) && !BIT(F(PIN_BASED_CONTROLS), 6))
        why = "nothing would end the halt";
    return why;
}

/* Control bits where the two CPUs answer differently by their capabilities. Entry to SMM (VM-entry controls 10 and 11) is refused by both. */
static bool beyond(const struct world *w, enum nvmx_cap which, uint64_t value) {
    const uint64_t may = nvmx_caps_may_be_1(&w->caps.cpu, which) & ~nvmx_caps_may_be_1(&w->caps.l1, which);
    const uint64_t must = nvmx_caps_must_be_1(&w->caps.l1, which) & ~nvmx_caps_must_be_1(&w->caps.cpu, which);
    const uint64_t same = which == NVMX_CAP_ENTRY ? 0xc00 : 0;

    return (value & may & ~same) != 0 || (~value & must) != 0;
}

bool situation_beyond_l1(const struct situation *s, const struct world *w) {
    return beyond(w, NVMX_CAP_PINBASED, F(PIN_BASED_CONTROLS)) || beyond(w, NVMX_CAP_PROCBASED, F(PRIMARY_CONTROLS)) ||
           beyond(w, NVMX_CAP_EXIT, F(VM_EXIT_CONTROLS)) || beyond(w, NVMX_CAP_ENTRY, F(VM_ENTRY_CONTROLS)) ||
           beyond(w, NVMX_CAP_PROCBASED2, F(SECONDARY_CONTROLS));
}
