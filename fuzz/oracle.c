/* SPDX-License-Identifier: MIT */
/*
 * What must hold of any vmcs02. Written from the SDM and from what "superset of both" means, not from lib/vmcs/merge*.c: intercepts are compared as
 * questions ("does an access to this port exit?"), not as bits.
 */
#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define BIT(n) (UINT64_C(1) << (n))

/* -- entry checks ----------------------------------------------------------------------------------------------------------------------- */

#define MOST_FAILURES 64u

/* Rows that read more than fields concern all groups (checks.h). */
static bool concerns(const struct nvmx_check_row *row, uint32_t groups) {
    return (row->groups & groups) != 0 || row->groups == NVMX_CHECK_ALL;
}

size_t fuzz_checks_agree(const struct nvmx_check_input *check, uint32_t groups, struct nvmx_check_failure *first) {
    struct nvmx_check_failure all[MOST_FAILURES], one;
    size_t count = nvmx_check_report(check, all, MOST_FAILURES);
    bool passes = nvmx_check_first(check, NVMX_CHECK_ALL, &one);
    FUZZ_HOLD(passes == (count == 0), "first and report disagree: %zu rows fail", count);
    if (count != 0) {
        FUZZ_HOLD(memcmp(&one, &all[0], sizeof(one)) == 0 || one.row == all[0].row, "first row %s, report's %s",
                  nvmx_check_row(one.row)->id, nvmx_check_row(all[0].row)->id);
        FUZZ_HOLD((one.vm_fail == 7 || one.vm_fail == 8) != (one.exit_reason == 33), "row %s has outcome %u and %u",
                  nvmx_check_row(one.row)->id, one.vm_fail, one.exit_reason);
        *first = all[0];
    }
    /* The first row of some groups is the first of the report that concerns them, or that reads more than fields. */
    size_t i = 0;
    while (i < count && i < MOST_FAILURES && !concerns(nvmx_check_row(all[i].row), groups))
        i++;
    if (count <= MOST_FAILURES) {
        passes = nvmx_check_first(check, groups, &one);
        FUZZ_HOLD(passes == (i == count), "groups %#x: %s", groups, passes ? "all pass" : nvmx_check_row(one.row)->id);
        FUZZ_HOLD(passes || one.row == all[i].row, "groups %#x: %s, not %s", groups, nvmx_check_row(one.row)->id,
                  nvmx_check_row(all[i].row)->id);
    }
    return count;
}

/* -- one VMCS as the CPU looks at it ------------------------------------------------------------------------------------------------------ */

/* Whose memory a VMCS's pointers lead to. */
struct view {
    const struct fuzz_machine *m;
    const uint64_t *field;
    bool l1; /* pointers are gpa1; else hpa */
};

static uint64_t secondary(const struct view *v) {
    return v->field[NVMX_F_PRIMARY_CONTROLS] & BIT(31) ? v->field[NVMX_F_SECONDARY_CONTROLS] : 0;
}

static uint64_t tertiary(const struct view *v) {
    return v->field[NVMX_F_PRIMARY_CONTROLS] & BIT(17) ? v->field[NVMX_F_TERTIARY_CONTROLS] : 0;
}

/* The page that a field leads to; NULL: no memory. A vmcs02 may lead to L1's pages and to those of page_alloc only. */
static const uint8_t *page_of(const struct view *v, enum nvmx_field slot) {
    const struct sim *sim = v->m->sim;
    uint64_t address = v->field[slot] & ~UINT64_C(0xfff);
    if (v->l1)
        return address < SIM_RAM_BYTES ? sim->ram + address : NULL;
    if (address >= SIM_HPA_OFFSET && address < SIM_HPA_OFFSET + SIM_RAM_BYTES)
        return sim->ram + (address - SIM_HPA_OFFSET);
    const uint8_t *page = sim_page(sim, address);
    FUZZ_HOLD(page != NULL, "%s of vmcs02 is %#llx, which is nobody's page", nvmx_field_info(slot)->name, U(address));
    return page;
}

/* Word `i` of 1024 of "access to port exits". */
static uint64_t io_word(const struct view *v, const uint8_t *const *page, unsigned int i) {
    uint64_t primary = v->field[NVMX_F_PRIMARY_CONTROLS], word;
    if (!(primary & BIT(25)))
        return primary & BIT(24) ? UINT64_MAX : 0;
    const uint8_t *at = page[i / 512];
    if (at == NULL)
        return UINT64_MAX;
    memcpy(&word, at + i % 512 * 8, sizeof(word));
    return word;
}

static uint64_t msr_word(const struct view *v, const uint8_t *page, unsigned int i) {
    uint64_t word;
    if (!(v->field[NVMX_F_PRIMARY_CONTROLS] & BIT(28)) || page == NULL)
        return UINT64_MAX;
    memcpy(&word, page + i * 8, sizeof(word));
    return word;
}

static bool page_fault_exits(const struct view *v, uint32_t error_code) {
    const uint64_t *f = v->field;
    bool same = (error_code & f[NVMX_F_PAGE_FAULT_ERROR_CODE_MASK]) == f[NVMX_F_PAGE_FAULT_ERROR_CODE_MATCH];
    return ((f[NVMX_F_EXCEPTION_BITMAP] & BIT(14)) != 0) == same;
}

/* -- intercepts: vmcs02 has what L1 and the host have ---------------------------------------------------------------------------------------- */

struct three {
    struct view l1, host, l2;
};

static void check_io(const struct three *t) {
    const struct view *all[3] = {&t->l1, &t->host, &t->l2};
    const uint8_t *page[3][2] = {{NULL}};
    for (unsigned int i = 0; i < 3; i++)
        if (all[i]->field[NVMX_F_PRIMARY_CONTROLS] & BIT(25)) {
            page[i][0] = page_of(all[i], NVMX_F_IO_BITMAP_A_ADDRESS);
            page[i][1] = page_of(all[i], NVMX_F_IO_BITMAP_B_ADDRESS);
        }
    for (unsigned int i = 0; i < 1024; i++) {
        uint64_t lost = (io_word(&t->l1, page[0], i) | io_word(&t->host, page[1], i)) & ~io_word(&t->l2, page[2], i);
        FUZZ_HOLD(lost == 0, "ports %#x on: intercepts %#llx are lost", i * 64, U(lost));
    }
}

/* Bits of word i that hardware virtualizes for an L2 with "virtualize x2APIC mode" (SDM 32.5): the MSRs are then not the host's. */
static uint64_t x2apic_bits(const struct view *l1, unsigned int i) {
    uint64_t controls = secondary(l1);
    if (!(controls & BIT(4)))
        return 0;
    if (i >= 32 && i < 36)
        return controls & BIT(8) ? UINT64_MAX : i == 32 ? BIT(8) : 0;
    return i == 288 ? BIT(8) | (controls & BIT(9) ? BIT(0x0b) | BIT(0x3f) : 0) : 0;
}

/* What vmcs01 virtualizes for L1 is none of the host's intercepts, and L2 would reach the processor's own. */
static uint64_t hosts_msrs(const struct view *host, const uint8_t *page, unsigned int i) {
    bool x2apic = (i >= 32 && i < 36) || (i >= 288 && i < 292);
    return x2apic && (secondary(host) & BIT(4)) ? UINT64_MAX : msr_word(host, page, i);
}

static void check_msrs(const struct three *t) {
    const struct view *all[3] = {&t->l1, &t->host, &t->l2};
    const uint8_t *page[3] = {NULL};
    for (unsigned int i = 0; i < 3; i++)
        if (all[i]->field[NVMX_F_PRIMARY_CONTROLS] & BIT(28))
            page[i] = page_of(all[i], NVMX_F_MSR_BITMAP_ADDRESS);
    for (unsigned int i = 0; i < 512; i++) {
        uint64_t host = hosts_msrs(&t->host, page[1], i) & ~x2apic_bits(&t->l1, i);
        uint64_t lost = (msr_word(&t->l1, page[0], i) | host) & ~msr_word(&t->l2, page[2], i);
        FUZZ_HOLD(lost == 0, "MSR bitmap, word %u: intercepts %#llx are lost", i, U(lost));
    }
}

static void check_exceptions(const struct three *t) {
    uint64_t either = t->l1.field[NVMX_F_EXCEPTION_BITMAP] | t->host.field[NVMX_F_EXCEPTION_BITMAP];
    uint64_t lost = either & ~t->l2.field[NVMX_F_EXCEPTION_BITMAP] & ~BIT(14);
    FUZZ_HOLD(lost == 0, "exceptions %#llx are lost", U(lost));
    for (uint32_t code = 0; code < 64; code++) {
        bool wanted = page_fault_exits(&t->l1, code) || page_fault_exits(&t->host, code);
        FUZZ_HOLD(!wanted || page_fault_exits(&t->l2, code), "page faults with error code %#x are lost", code);
    }
}

/* Does the CPU itself keep L2 from changing this bit? (SDM 25.8; CR0.PE and PG are free for an unrestricted guest) */
static uint64_t fixed_bits(const struct three *t, unsigned int cr) {
    const struct nvmx_caps *machine = &t->l1.m->sim->machine;
    uint64_t ones = machine->msr[cr == 0 ? NVMX_CAP_CR0_FIXED0 : NVMX_CAP_CR4_FIXED0];
    uint64_t zeros = ~machine->msr[cr == 0 ? NVMX_CAP_CR0_FIXED1 : NVMX_CAP_CR4_FIXED1];
    if (cr == 0 && secondary(&t->l2) & BIT(7))
        ones &= ~(BIT(31) | BIT(0));
    return ones | zeros;
}

static void check_control_register(const struct three *t, unsigned int cr, enum nvmx_field mask, enum nvmx_field shadow,
                                   enum nvmx_field guest) {
    uint64_t l1 = t->l1.field[mask], l2 = t->l2.field[mask];
    uint64_t lost = (l1 | (t->host.field[mask] & ~fixed_bits(t, cr))) & ~l2;
    FUZZ_HOLD(lost == 0, "CR%u: masked bits %#llx are lost", cr, U(lost));
    uint64_t wrong = (t->l2.field[shadow] ^ t->l1.field[shadow]) & l1;
    FUZZ_HOLD(wrong == 0, "CR%u: L2 reads bits %#llx not as L1 wants", cr, U(wrong));
    wrong = (t->l2.field[shadow] ^ t->l1.field[guest]) & l2 & ~l1;
    FUZZ_HOLD(wrong == 0, "CR%u: L2 reads bits %#llx not as it has them", cr, U(wrong));
}

/* -- controls ---------------------------------------------------------------------------------------------------------------------------------- */

#define PIN_EITHER (BIT(0) | BIT(3) | BIT(5))
#define PRIMARY_EITHER                                                                                                           \
    (BIT(7) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(15) | BIT(16) | BIT(19) | BIT(20) | BIT(23) | BIT(29) | BIT(30))
#define PRIMARY_L1 (BIT(2) | BIT(21) | BIT(22) | BIT(27))
#define SECONDARY_EITHER (BIT(2) | BIT(6) | BIT(10) | BIT(11) | BIT(15) | BIT(16) | BIT(28) | BIT(30) | BIT(31))
#define TERTIARY_EITHER BIT(0)
/* What keeps L1's PASIDs and addresses from the processor and from devices. */
#define SECONDARY_HOST BIT(21)
#define TERTIARY_HOST BIT(12)
#define SECONDARY_NEVER (BIT(14) | BIT(17) | BIT(18))
#define SECONDARY_L1 (BIT(0) | BIT(3) | BIT(4) | BIT(7) | BIT(8) | BIT(9) | BIT(12))
#define SECONDARY_BOTH (BIT(20) | BIT(27))

static void check_lost(const char *what, uint64_t wanted, uint64_t has) {
    FUZZ_HOLD((wanted & ~has) == 0, "%s: %#llx are lost (vmcs02 has %#llx)", what, U(wanted & ~has), U(has));
}

/* L1's TPR shadow is needed: not every access to CR8 exits, or L2 gets to the virtual-APIC page in another way. */
static bool uses_virtual_apic(const struct view *l1) {
    return (~l1->field[NVMX_F_PRIMARY_CONTROLS] & (BIT(19) | BIT(20))) != 0 || (secondary(l1) & (BIT(0) | BIT(4) | BIT(8) | BIT(9))) != 0;
}

/* vmcs02 has a TPR shadow that is nobody's: for user IPIs of L2, which the host's keeps L1 from. */
static bool keeps_user_ipis(const struct three *t) {
    bool uintr = t->l1.m->sim->machine.msr[NVMX_CAP_CR4_FIXED1] & BIT(25), host = t->host.field[NVMX_F_PRIMARY_CONTROLS] & BIT(21);
    return uintr && host && (!(t->l1.field[NVMX_F_PRIMARY_CONTROLS] & BIT(21)) || !uses_virtual_apic(&t->l1));
}

static void check_controls(const struct three *t) {
    const uint64_t *l1 = t->l1.field, *host = t->host.field, *l2 = t->l2.field;
    uint64_t primary = l2[NVMX_F_PRIMARY_CONTROLS], second = secondary(&t->l2);
    check_lost("pin-based", (l1[NVMX_F_PIN_BASED_CONTROLS] | host[NVMX_F_PIN_BASED_CONTROLS]) & PIN_EITHER, l2[NVMX_F_PIN_BASED_CONTROLS]);
    /* With a TPR shadow of L1's, CR8 is L1's virtual TPR: what the host wants of it does not count. */
    uint64_t not_the_hosts = l1[NVMX_F_PRIMARY_CONTROLS] & BIT(21) ? BIT(19) | BIT(20) : 0;
    check_lost("primary", (l1[NVMX_F_PRIMARY_CONTROLS] | (host[NVMX_F_PRIMARY_CONTROLS] & ~not_the_hosts)) & PRIMARY_EITHER, primary);
    uint64_t wishes = l1[NVMX_F_PRIMARY_CONTROLS];
    if (wishes & ~primary & BIT(21) && !uses_virtual_apic(&t->l1)) /* its page may be nowhere */
        wishes &= ~BIT(21);
    wishes |= keeps_user_ipis(t) ? BIT(21) : 0;
    FUZZ_HOLD(((primary ^ wishes) & PRIMARY_L1) == 0, "primary %#llx, L1's %#llx", U(primary), U(l1[NVMX_F_PRIMARY_CONTROLS]));
    if (!(l1[NVMX_F_PRIMARY_CONTROLS] & BIT(21)) && host[NVMX_F_PRIMARY_CONTROLS] & BIT(21))
        check_lost("CR8 without L1's TPR shadow", BIT(19) | BIT(20), primary);
    check_lost("secondary", (secondary(&t->l1) | secondary(&t->host)) & SECONDARY_EITHER, second);
    FUZZ_HOLD((second & SECONDARY_NEVER) == 0, "secondary %#llx has what L1 alone may have", U(second));
    FUZZ_HOLD(((second ^ (secondary(&t->l1) & secondary(&t->host))) & SECONDARY_BOTH) == 0, "secondary %#llx, L1's %#llx, the host's %#llx", U(second),
              U(secondary(&t->l1)), U(secondary(&t->host)));
    FUZZ_HOLD(((second ^ secondary(&t->l1)) & SECONDARY_L1) == 0, "secondary %#llx, L1's %#llx", U(second), U(secondary(&t->l1)));
    check_lost("tertiary", (tertiary(&t->l1) | tertiary(&t->host)) & TERTIARY_EITHER, tertiary(&t->l2));
    check_lost("secondary", secondary(&t->host) & SECONDARY_HOST, second);
    check_lost("tertiary", tertiary(&t->host) & TERTIARY_HOST, tertiary(&t->l2));
    FUZZ_HOLD(second & BIT(1), "L2 runs without EPT");
    if (host[NVMX_F_PRIMARY_CONTROLS] & BIT(15))
        FUZZ_HOLD(l2[NVMX_F_CR3_TARGET_COUNT] == 0, "CR3 targets though the host wants every MOV to CR3");
    else
        FUZZ_HOLD(l2[NVMX_F_CR3_TARGET_COUNT] <= l1[NVMX_F_CR3_TARGET_COUNT], "more CR3 targets than L1 has");
}

static void check_transitions(const struct three *t) {
    const uint64_t *l1 = t->l1.field, *host = t->host.field, *l2 = t->l2.field;
    uint64_t free_exit = BIT(22) | (host[NVMX_F_PIN_BASED_CONTROLS] & BIT(0) ? 0 : BIT(15));
    check_lost("VM-exit controls", host[NVMX_F_VM_EXIT_CONTROLS] & ~free_exit, l2[NVMX_F_VM_EXIT_CONTROLS]);
    check_lost("VM-entry controls", host[NVMX_F_VM_ENTRY_CONTROLS] & ~BIT(9), l2[NVMX_F_VM_ENTRY_CONTROLS]);
    FUZZ_HOLD(((l2[NVMX_F_VM_ENTRY_CONTROLS] ^ l1[NVMX_F_VM_ENTRY_CONTROLS]) & BIT(9)) == 0, "IA-32e mode guest is not as L1 has it");
    FUZZ_HOLD(((l2[NVMX_F_VM_EXIT_CONTROLS] ^ host[NVMX_F_VM_EXIT_CONTROLS]) & BIT(9)) == 0, "host address-space size is not the host's");
    FUZZ_HOLD((l2[NVMX_F_VM_EXIT_MSR_STORE_COUNT] | l2[NVMX_F_VM_EXIT_MSR_LOAD_COUNT] | l2[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT]) == 0,
              "vmcs02 has an MSR list that the host did not give it");
    FUZZ_HOLD(l2[NVMX_F_VMCS_LINK_POINTER] == NVMX_NO_ADDRESS, "vmcs02 has a link pointer, %#llx", U(l2[NVMX_F_VMCS_LINK_POINTER]));
}

/* -- pages ----------------------------------------------------------------------------------------------------------------------------------------- */

static void check_in_place(const struct three *t, bool used, enum nvmx_field slot) {
    uint64_t gpa1 = t->l1.field[slot], hpa = t->l2.field[slot];
    if (used)
        FUZZ_HOLD(gpa1 < SIM_RAM_BYTES && hpa == gpa1 + SIM_HPA_OFFSET, "%s: gpa1 %#llx became %#llx", nvmx_field_info(slot)->name,
                  U(gpa1), U(hpa));
}

/* The APIC-access page is a name: where L1 has nothing it is a page of the library's. */
static void check_access_page(const struct three *t) {
    uint64_t hpa = t->l2.field[NVMX_F_APIC_ACCESS_ADDRESS];
    if ((secondary(&t->l1) & BIT(0)) == 0 || (!t->l1.m->options.host_composes && sim_page(t->l1.m->sim, hpa) != NULL))
        return;
    check_in_place(t, true, NVMX_F_APIC_ACCESS_ADDRESS);
}

static void check_pages(const struct three *t) {
    const uint64_t *l1 = t->l1.field, *l2 = t->l2.field;
    uint64_t second = secondary(&t->l2), eptp02 = l2[NVMX_F_EPT_POINTER];
    check_in_place(t, (l2[NVMX_F_PRIMARY_CONTROLS] & BIT(21)) != 0 && !keeps_user_ipis(t), NVMX_F_VIRTUAL_APIC_ADDRESS);
    check_access_page(t);
    check_in_place(t, (l1[NVMX_F_PIN_BASED_CONTROLS] & BIT(7)) != 0, NVMX_F_POSTED_INTERRUPT_DESCRIPTOR_ADDRESS);
    if (t->l1.m->options.host_composes) {
        FUZZ_HOLD(eptp02 == t->l1.m->sim->eptp02_given, "L2 runs on %#llx, which the host did not give", U(eptp02));
    } else if (secondary(&t->l1) & BIT(1)) {
        FUZZ_HOLD(nvmx_eptp_valid(&t->l1.m->sim->machine, eptp02), "EPTP02 %#llx", U(eptp02));
        FUZZ_HOLD(sim_page(t->l1.m->sim, eptp02 & ~UINT64_C(0xfff)) != NULL, "EPTP02 %#llx is not the library's page", U(eptp02));
    } else {
        FUZZ_HOLD(eptp02 == SIM_EPTP01, "L2 without EPT runs on %#llx", U(eptp02));
    }
    if (second & BIT(23))
        FUZZ_HOLD(secondary(&t->l1) & BIT(1) ? sim_page(t->l1.m->sim, l2[NVMX_F_SPP_TABLE_POINTER]) != NULL
                                             : l2[NVMX_F_SPP_TABLE_POINTER] == t->host.field[NVMX_F_SPP_TABLE_POINTER],
                  "SPPTP02 %#llx is not the library's page, nor the host's", U(l2[NVMX_F_SPP_TABLE_POINTER]));
    if (second & BIT(5))
        FUZZ_HOLD(l2[NVMX_F_VPID] >= 2 && l2[NVMX_F_VPID] <= 5, "VPID02 %#llx is not of those the host gave", U(l2[NVMX_F_VPID]));
    if (second & BIT(13))
        FUZZ_HOLD(l2[NVMX_F_VM_FUNCTION_CONTROLS] == 0, "hardware would carry out VM functions");
    if (second & BIT(20))
        check_lost("XSS-exiting bitmap", secondary(&t->l1) & BIT(20) ? l1[NVMX_F_XSS_EXITING_BITMAP] : 0, l2[NVMX_F_XSS_EXITING_BITMAP]);
    if (second & BIT(15))
        check_lost("ENCLS-exiting bitmap", secondary(&t->l1) & BIT(15) ? l1[NVMX_F_ENCLS_EXITING_BITMAP] : 0,
                   l2[NVMX_F_ENCLS_EXITING_BITMAP]);
}

/* -- guest state, and the whole as the CPU checks it -------------------------------------------------------------------------------------------- */

/* An NMI that L1 injects while L2's NMIs are blocked, which only the host's virtual NMIs forbid: vmcs02 is entered without the blocking. */
static bool unblocks_for_nmi(const struct three *t) {
    return (t->l1.field[NVMX_F_VM_ENTRY_INTERRUPTION_INFO] & 0x80000700) == 0x80000200 &&
           (t->l2.field[NVMX_F_PIN_BASED_CONTROLS] & ~t->l1.field[NVMX_F_PIN_BASED_CONTROLS] & BIT(5));
}

static void check_guest_state(const struct three *t) {
    const struct nvmx_field_set *exists = &t->l1.m->exists;
    bool pae_without_ept = !(secondary(&t->l1) & BIT(1));
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++) {
        const struct nvmx_field_info *info = nvmx_field_info(slot);
        bool pdpte = slot >= NVMX_F_GUEST_PDPTE0 && slot <= NVMX_F_GUEST_PDPTE3;
        if (info->merge != NVMX_MERGE_COPY || !nvmx_set_has(exists, slot) || (pdpte && pae_without_ept))
            continue;
        if (slot == NVMX_F_PREEMPTION_TIMER_VALUE && (t->l1.m->options.deadline || !(t->l2.field[NVMX_F_PIN_BASED_CONTROLS] & BIT(6))))
            continue; /* the host counts, the processor has no such field; or it is off, so that no entry loads it (SDM 29.7.4) */
        uint64_t differs = slot == NVMX_F_GUEST_INTERRUPTIBILITY_STATE && unblocks_for_nmi(t) ? BIT(3) : 0;
        FUZZ_HOLD((t->l1.field[slot] & ~differs) == t->l2.field[slot], "%s: vmcs12 %#llx, vmcs02 %#llx", info->name, U(t->l1.field[slot]),
                  U(t->l2.field[slot]));
    }
}

/*
 * SDM 29.3.1.5 judges BS by IA32_DEBUGCTL as vmcs12 has it, loaded or not; vmcs02 always loads the one that L2 runs with. Where they differ in BTF and a trap
 * is held, no VMCS says so: hardware refuses vmcs02, and L1 gets a failed entry (SECURITY.md).
 */
static bool steps_by_another_debugctl(const struct three *t, uint16_t row) {
    return (row == NVMX_C_29_3_1_5_22 || row == NVMX_C_29_3_1_5_23) && !(t->l1.field[NVMX_F_VM_ENTRY_CONTROLS] & BIT(2)) &&
           ((t->l1.field[NVMX_F_GUEST_DEBUGCTL] ^ t->l2.field[NVMX_F_GUEST_DEBUGCTL]) & BIT(1));
}

/*
 * Without "load CET state" no entry looks at SSP: L2 has L1's, also a 32-bit L2 one beyond 4 GB. vmcs02 loads it, and hardware refuses that: the same
 * (SECURITY.md).
 */
static bool shadow_stack_beyond_l2(const struct three *t, uint16_t row) {
    return row == NVMX_C_29_3_1_4_10 && !(t->l1.field[NVMX_F_VM_ENTRY_CONTROLS] & BIT(20));
}

/* `still`: L1's memory is what it was at the entry. Else the virtual TPR may have become less than the TPR threshold since. */
static void check_as_cpu(const struct three *t, bool still) {
    uint64_t field[NVMX_FIELD_COUNT];
    struct nvmx_check_failure failure[MOST_FAILURES];
    struct nvmx_check_input check = {.field = field, .caps = &t->l1.m->sim->machine, .current_vmcs = UINT64_C(0xa00000000),
                                     .vmxon_pointer = UINT64_C(0xa00001000), .l1_long_mode = true};
    for (unsigned int slot = 0; slot < NVMX_FIELD_COUNT; slot++)
        field[slot] = sim_has_field(t->l1.m->sim, slot) ? t->l2.field[slot] : 0;
    if (!still)
        check.vtpr = 0xff;
    else if (field[NVMX_F_PRIMARY_CONTROLS] & BIT(21))
        check.vtpr = page_of(&t->l2, NVMX_F_VIRTUAL_APIC_ADDRESS)[0x80];
    size_t count = nvmx_check_report(&check, failure, MOST_FAILURES);
    for (size_t i = 0; i < count && i < MOST_FAILURES; i++) {
        const struct nvmx_check_row *row = nvmx_check_row(failure[i].row);
        /* The host-state area is the host's. */
        bool known = steps_by_another_debugctl(t, failure[i].row) || shadow_stack_beyond_l2(t, failure[i].row);
        FUZZ_HOLD(row->groups & 1u << NVMX_GROUP_HOST || known, "the CPU refuses vmcs02: %s: %s", row->id, row->rule);
    }
}

static struct three whole(const struct fuzz_machine *m, const uint64_t *field) {
    uint32_t which = nvmx_selected(m->sim->vcpu);
    struct three t = {
        .l1 = {m, field, true},
        .host = {m, m->sim->vmcs[NVMX_VMCS01].value, false},
        .l2 = {m, m->sim->vmcs[which].value, false},
    };
    FUZZ_HOLD(which >= NVMX_VMCS02_FIRST, "L2 is to run on VMCS %u", which);
    return t;
}

/* What vmcs12 loads on entry L2 has (SDM 29.3.2.1). An MSR-load list comes after it. */
static void check_loads(const struct three *t) {
    static const struct {
        uint8_t entry;
        enum nvmx_field slot;
    } rows[] = {
        {2, NVMX_F_GUEST_DR7},          {2, NVMX_F_GUEST_DEBUGCTL}, {13, NVMX_F_GUEST_PERF_GLOBAL_CTRL}, {14, NVMX_F_GUEST_PAT},
        {15, NVMX_F_GUEST_EFER},        {16, NVMX_F_GUEST_BNDCFGS}, {19, NVMX_F_GUEST_UINV},             {20, NVMX_F_GUEST_S_CET},
        {20, NVMX_F_GUEST_SSP},         {21, NVMX_F_GUEST_LBR_CTL}, {22, NVMX_F_GUEST_PKRS},             {24, NVMX_F_GUEST_SPEC_CTRL},
        {20, NVMX_F_GUEST_INTERRUPT_SSP_TABLE_ADDR},
    };
    const uint64_t *l1 = t->l1.field, *l2 = t->l2.field;
    for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]) && l1[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT] == 0; i++)
        if (l1[NVMX_F_VM_ENTRY_CONTROLS] & BIT(rows[i].entry)) {
            check_lost("VM-entry loads", BIT(rows[i].entry), l2[NVMX_F_VM_ENTRY_CONTROLS]);
            FUZZ_HOLD(l1[rows[i].slot] == l2[rows[i].slot], "%s: vmcs12 loads %#llx, vmcs02 %#llx", nvmx_field_info(rows[i].slot)->name,
                      U(l1[rows[i].slot]), U(l2[rows[i].slot]));
        }
    check_lost("VM-exit saves", l1[NVMX_F_VM_EXIT_CONTROLS] & (BIT(2) | BIT(18) | BIT(20) | BIT(30)), l2[NVMX_F_VM_EXIT_CONTROLS]);
}

/* RDTSC of a guest (SDM 28.3). */
static uint64_t tsc_read(const struct view *v, uint64_t tsc) {
    unsigned __int128 product = (unsigned __int128)tsc * v->field[NVMX_F_TSC_MULTIPLIER];
    if (!(v->field[NVMX_F_PRIMARY_CONTROLS] & BIT(3)))
        return tsc;
    return (secondary(v) & BIT(25) ? (uint64_t)(product >> 48) : tsc) + v->field[NVMX_F_TSC_OFFSET];
}

/* L2's TSC is what L1's controls make of L1's, but for rounding: where no factor is too large for the field, and L1's TSC has not wrapped. */
static void check_tsc(const struct three *t) {
    const uint64_t host_offset = t->host.field[NVMX_F_PRIMARY_CONTROLS] & BIT(3) ? t->host.field[NVMX_F_TSC_OFFSET] : 0;
    bool moderate = (int64_t)host_offset < INT64_MAX / 2 && (int64_t)host_offset > INT64_MIN / 2;
    bool scales = secondary(&t->l1) & BIT(25) && t->l1.field[NVMX_F_PRIMARY_CONTROLS] & BIT(3);
    moderate = moderate && (!scales || t->l1.field[NVMX_F_TSC_MULTIPLIER] < UINT64_C(1) << 52);
    for (uint64_t tsc = UINT64_C(1) << 40; moderate && tsc < UINT64_C(1) << 46; tsc = tsc * 3 + 1) {
        uint64_t of_l1 = tsc_read(&t->host, tsc);
        int64_t differs = (int64_t)(tsc_read(&t->l1, of_l1) - tsc_read(&t->l2, tsc));
        if (scales && of_l1 >> 63)
            continue;
        int64_t most = scales ? 64 + (int64_t)(t->l1.field[NVMX_F_TSC_MULTIPLIER] >> 48) : 2;
        FUZZ_HOLD(differs <= most && differs >= -most, "TSC %#llx: L2 reads %lld ticks more or less", U(tsc), (long long)differs);
    }
}

/* Virtual interrupts are L1's alone (SDM 32). */
static void check_virtual_interrupts(const struct three *t) {
    const uint64_t *l1 = t->l1.field, *l2 = t->l2.field;
    bool shadow = l1[NVMX_F_PRIMARY_CONTROLS] & BIT(21), delivery = secondary(&t->l1) & BIT(9);
    for (unsigned int i = 0; i < 4 && delivery; i++)
        FUZZ_HOLD(l1[NVMX_F_EOI_EXIT_BITMAP_0 + i] == l2[NVMX_F_EOI_EXIT_BITMAP_0 + i], "EOI-exit bitmap %u", i);
    if (shadow && !delivery)
        FUZZ_HOLD(l1[NVMX_F_TPR_THRESHOLD] == l2[NVMX_F_TPR_THRESHOLD], "TPR threshold");
    if (l1[NVMX_F_PIN_BASED_CONTROLS] & BIT(7))
        FUZZ_HOLD(l1[NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR] == l2[NVMX_F_POSTED_INTERRUPT_NOTIFICATION_VECTOR], "notification vector");
}

static void check_fields(const struct three *t) {
    check_loads(t);
    check_tsc(t);
    check_virtual_interrupts(t);
    check_controls(t);
    check_transitions(t);
    check_exceptions(t);
    check_control_register(t, 0, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW, NVMX_F_GUEST_CR0);
    check_control_register(t, 4, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW, NVMX_F_GUEST_CR4);
    check_pages(t);
    check_guest_state(t);
}

void fuzz_check_vmcs02_fields(const struct fuzz_machine *m, const uint64_t *field) {
    struct three t = whole(m, field);
    check_fields(&t);
    check_as_cpu(&t, false);
}

void fuzz_check_vmcs02(const struct fuzz_machine *m, const uint64_t *field) {
    struct three t = whole(m, field);
    check_fields(&t);
    check_io(&t);
    check_msrs(&t);
    check_as_cpu(&t, true);
}
