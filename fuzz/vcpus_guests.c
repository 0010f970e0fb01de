/* SPDX-License-Identifier: MIT */
/* What L1's processors execute, what L2 accesses, and what each of them may see then (SDM 27.11, 31.4). */
#include "vcpus.h"

#include <string.h>

#define ADDRESS UINT64_C(0x000ffffffffff000)

/* Of the first tree without and with accessed and dirty flags; of the second. */
const uint64_t eptp12_of[EPTPS] = {TREE(0) | 0x1e, TREE(0) | 0x5e, TREE(1) | 0x1e, TREE(1) | 0x5e};

/* -- VMX operation -------------------------------------------------------------------------------------------- */

static struct region *current(struct cpu *c) {
    int which = l1_of(c)->current;
    return which >= 0 && which < (int)REGIONS ? &world.region[which] : NULL;
}

static void unknown_from_now(unsigned int l1, bool gone) {
    for (unsigned int i = 0; i < REGIONS; i++) {
        struct region *r = &world.region[i];
        if (r->active != (int)l1)
            continue;
        r->known = false;
        r->active = gone ? NONE : r->active;
    }
}

void forget(struct cpu *c) {
    struct l1 *l1 = l1_of(c);
    l1->mode = nvmx_mode(c->sim->vcpu);
    l1->current = l1->mode == NVMX_MODE_OFF ? NONE : (int)REGIONS;
    unknown_from_now(c->l1, false);
}

void l1_is_off(struct cpu *c) {
    l1_of(c)->mode = NVMX_MODE_OFF;
    l1_of(c)->current = NONE;
    unknown_from_now(c->l1, true);
}

/* Its host makes it anew. */
static void stopped(struct cpu *c, const char *what) {
    FUZZ_HOLD(world.failed, "%s stops the vCPU: %s", what, nvmx_status_text(nvmx_stop_status(c->sim->vcpu)));
    vcpu_destroy(c);
    l1_is_off(c);
    vcpu_make(c);
}

/* Without a VPID every VM entry and exit drops what the processor keeps (SDM 31.4.3.1). */
static void transition(struct cpu *c) {
    for (unsigned int i = 0; i < TLB; i++)
        if (c->tlb[i].vpid02 == 0)
            c->tlb[i].valid = false;
}

static void leave(struct cpu *c) {
    c->in_guest = false;
    transition(c);
}

static void note_failures(const struct cpu *c) {
    world.failed = world.failed || c->sim->failed || world.sim->failed;
}

/* The processor reads and writes the virtual-APIC page by its hpa: it is where the host has the page now, and may be written. */
static void hold_apic(struct cpu *c) {
    const struct region *r = current(c);
    if (r == NULL || !r->known)
        return;
    unsigned int target = APIC_TARGET((unsigned int)(r - world.region));
    uint64_t hpa = sim_get(c->sim, nvmx_selected(c->sim->vcpu), NVMX_F_VIRTUAL_APIC_ADDRESS);
    FUZZ_HOLD(hpa == FRAME_HPA + (world.ept01[target] & ADDRESS) && (world.ept01[target] & 2) != 0,
              "L2 of L1 %u has its virtual-APIC page at %#llx, and page %u of L1 is %#llx", c->l1, U(hpa), target, U(world.ept01[target]));
}

/* True: the guest runs, in the mode that the model has. */
static bool enter(struct cpu *c) {
    if (c->in_guest)
        return true;
    enum nvmx_next next = sim_enter(c->sim, NULL);
    note_failures(c);
    if (next == NVMX_STOP) {
        stopped(c, "entering");
        return false;
    }
    if (nvmx_mode(c->sim->vcpu) != l1_of(c)->mode || world.failed) {
        FUZZ_HOLD(world.failed, "processor %u is in mode %d, not %d", c->l1, (int)nvmx_mode(c->sim->vcpu),
                  (int)l1_of(c)->mode);
        forget(c);
        return false;
    }
    if (l1_of(c)->mode == NVMX_MODE_L2)
        hold_apic(c);
    transition(c);
    c->in_guest = true;
    return true;
}

/* After an instruction: true if it is as expected, and did what it is for. */
static bool expect(struct cpu *c, const char *what, enum sim_outcome expected, enum sim_outcome got) {
    leave(c);
    note_failures(c);
    fuzz_log("L1 %u %s: %s%s", c->l1, what, sim_outcome_text(got), world.failed ? " (a callback failed)" : "");
    if (got == SIM_STOPPED) {
        stopped(c, what);
        return false;
    }
    if (world.failed) {
        forget(c);
        return false;
    }
    FUZZ_HOLD(got == expected, "L1 %u %s: %s instead of %s", c->l1, what, sim_outcome_text(got),
              sim_outcome_text(expected));
    return true;
}

/* -- instructions of L1 --------------------------------------------------------------------------------------- */

static void do_vmxon(struct cpu *c) {
    if (expect(c, "VMXON", SIM_SUCCEED, sim_vmxon(c->sim, L1_VMXON(c->l1))))
        l1_of(c)->mode = NVMX_MODE_ROOT;
}

static void do_vmxoff(struct cpu *c) {
    if (expect(c, "VMXOFF", SIM_SUCCEED, sim_vmxoff(c->sim))) {
        l1_of(c)->mode = NVMX_MODE_OFF;
        l1_of(c)->current = NONE;
    }
}

/* A VMCS that is active elsewhere must not be touched (SDM 27.11.1). */
static int some_region(struct cpu *c) {
    unsigned int first = fuzz_u8(world.in) % REGIONS;
    for (unsigned int i = 0; i < REGIONS; i++) {
        unsigned int which = (first + i) % REGIONS;
        if (world.region[which].active == NONE || world.region[which].active == (int)c->l1)
            return (int)which;
    }
    return NONE;
}

static void do_vmptrld(struct cpu *c) {
    int which = some_region(c);
    if (which == NONE)
        return;
    world.region[which].active = (int)c->l1;
    if (expect(c, "VMPTRLD", SIM_SUCCEED, sim_vmptrld(c->sim, REGION((unsigned int)which))))
        l1_of(c)->current = which;
}

static bool clear(struct cpu *c, int which) {
    struct region *r = &world.region[which];
    r->active = (int)c->l1; /* until it is done */
    if (!expect(c, "VMCLEAR", SIM_SUCCEED, sim_vmclear(c->sim, REGION((unsigned int)which))))
        return false;
    if (l1_of(c)->current == which)
        l1_of(c)->current = NONE;
    r->active = NONE;
    r->launched = false;
    return true;
}

static void do_vmclear(struct cpu *c) {
    int which = some_region(c);
    if (which != NONE)
        (void)clear(c, which);
}

/* L1 copies a VMCS that it has in store over one that it cleared. */
static void do_renew(struct cpu *c) {
    int which = some_region(c);
    if (which == NONE || !clear(c, which))
        return;
    fill_region((unsigned int)which);
}

static bool write(struct cpu *c, uint32_t encoding, uint64_t value) {
    sim_set(c->sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    return expect(c, "VMWRITE", SIM_SUCCEED, sim_vmwrite(c->sim, encoding, value));
}

static void do_tag(struct cpu *c) {
    uint64_t value = (uint64_t)fuzz_u8(world.in) << 8 | 1;
    if (write(c, NVMX_VMCS_GUEST_SYSENTER_ESP, value))
        current(c)->tag = value;
}

static void do_read_tag(struct cpu *c) {
    const struct region *r = current(c);
    uint64_t value = 0;
    if (expect(c, "VMREAD", SIM_SUCCEED, sim_vmread(c->sim, NVMX_VMCS_GUEST_SYSENTER_ESP, &value)) && r->known)
        FUZZ_HOLD(value == r->tag, "L1 %u reads %#llx from VMCS %d, not %#llx", c->l1, U(value), l1_of(c)->current,
                  U(r->tag));
}

#define ENABLE_VPID (1u << 5)

static void do_vpid(struct cpu *c) {
    struct region *r = current(c);
    uint64_t vpid = fuzz_u8(world.in) % (VPIDS + 1), secondary = 0;
    if (!expect(c, "VMREAD", SIM_SUCCEED, sim_vmread(c->sim, NVMX_VMCS_SECONDARY_CONTROLS, &secondary)))
        return;
    secondary = vpid != 0 ? secondary | ENABLE_VPID : secondary & ~(uint64_t)ENABLE_VPID;
    if (write(c, NVMX_VMCS_SECONDARY_CONTROLS, secondary) && (vpid == 0 || write(c, NVMX_VMCS_VPID, vpid)))
        r->vpid12 = vpid;
    else
        r->known = false;
}

static void do_eptp(struct cpu *c) {
    unsigned int which = fuzz_u8(world.in) % EPTPS;
    if (write(c, NVMX_VMCS_EPT_POINTER, eptp12_of[which]))
        current(c)->eptp = which;
}

static void do_entry(struct cpu *c, bool wrong) {
    struct region *r = current(c);
    bool launch = r->launched == wrong;
    if (!r->known)
        return;
    if (!expect(c, launch ? "VMLAUNCH" : "VMRESUME", wrong ? SIM_FAIL_VALID : SIM_L2,
                launch ? sim_vmlaunch(c->sim) : sim_vmresume(c->sim)) ||
        wrong)
        return;
    uint64_t tag = sim_get(c->sim, nvmx_selected(c->sim->vcpu), NVMX_F_GUEST_SYSENTER_ESP);
    FUZZ_HOLD(tag == r->tag, "L2 of VMCS %d starts with %#llx, not %#llx", l1_of(c)->current, U(tag), U(r->tag));
    r->launched = true;
    l1_of(c)->mode = NVMX_MODE_L2;
    l1_of(c)->entered = world.now;
}

static void do_invept(struct cpu *c) {
    uint8_t what = fuzz_u8(world.in);
    if (!expect(c, "INVEPT", SIM_SUCCEED,
                sim_invept(c->sim, 1 + (what & 1), what & 1 ? 0 : eptp12_of[what >> 1 & 3], 0)))
        return;
    if (what & 1)
        l1_of(c)->invept_all = world.now;
    else
        l1_of(c)->invept[tree_of(what >> 1 & 3)] = world.now;
}

static void do_invvpid(struct cpu *c) {
    uint8_t type = fuzz_u8(world.in) % 4, page = fuzz_u8(world.in) % PAGES;
    uint64_t vpid = 1 + fuzz_u8(world.in) % VPIDS;
    struct l1 *l1 = l1_of(c);
    if (!expect(c, "INVVPID", SIM_SUCCEED, sim_invvpid(c->sim, type, vpid, (uint64_t)page * NVMX_PAGE_SIZE)))
        return;
    if (type == 0)
        l1->invvpid_page[vpid][page] = world.now;
    else if (type == 2)
        l1->invvpid_all = world.now;
    else
        l1->invvpid[vpid] = world.now; /* nothing here is global */
}

/* L1 asks which VMCS is current, where the model has lost it. */
static bool find_current(struct cpu *c) {
    struct l1 *l1 = l1_of(c);
    uint64_t pointer = 0;
    if (l1->current != (int)REGIONS)
        return true;
    if (!expect(c, "VMPTRST", SIM_SUCCEED, sim_vmptrst(c->sim, &pointer)))
        return false;
    l1->current = pointer == NVMX_NO_ADDRESS ? NONE : (int)((pointer - REGION(0)) / 0x1000);
    FUZZ_HOLD(l1->current == NONE || (current(c) != NULL && current(c)->active == (int)c->l1),
              "the current-VMCS pointer of L1 %u is %#llx", c->l1, U(pointer));
    return true;
}

void l1_step(struct cpu *c, uint8_t what) {
    if (!enter(c))
        return;
    sim_set(c->sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    sim_set(c->sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    if (l1_of(c)->mode == NVMX_MODE_OFF) {
        do_vmxon(c);
        return;
    }
    if (!find_current(c))
        return;
    sim_set(c->sim, NVMX_VMCS01, NVMX_F_GUEST_RIP, SIM_L1_CODE);
    if (current(c) == NULL && what >= 6)
        what = 5;
    switch (what) {
    case 0:
        do_vmclear(c);
        break;
    case 1:
        do_renew(c);
        break;
    case 2:
        do_invept(c);
        break;
    case 3:
        do_invvpid(c);
        break;
    case 4:
        if (fuzz_u8(world.in) % 8 == 0)
            do_vmxoff(c);
        else
            do_invept(c);
        break;
    case 5:
        do_vmptrld(c);
        break;
    case 6:
        do_tag(c);
        break;
    case 7:
        do_read_tag(c);
        break;
    case 8:
        do_vpid(c);
        break;
    case 9:
        do_eptp(c);
        break;
    default:
        do_entry(c, what == 10);
        break;
    }
}

/* -- L2's accesses -------------------------------------------------------------------------------------------- */

struct access {
    struct cpu *c;
    const struct region *r;
    uint64_t page, kind;
    uint64_t vpid02, eptp02;
};

static unsigned int tree(const struct access *a) {
    return tree_of(a->r->eptp);
}

static bool grants(uint64_t leaf, uint64_t kind) {
    return (leaf & 3) != 2 && (leaf & kind) != 0;
}

static uint64_t target_of(uint64_t leaf) {
    return ((leaf & ADDRESS) - TARGET_GPA1) / NVMX_PAGE_SIZE;
}

static uint64_t last_invept(const struct access *a) {
    const struct l1 *l1 = l1_of(a->c);
    return l1->invept[tree(a)] > l1->invept_all ? l1->invept[tree(a)] : l1->invept_all;
}

/* An entry of ept02 is what ept12's is, or was since this processor's last INVEPT, or violation here; and never more than ept01's. */
static bool may_be(const struct access *a, uint64_t hpa, uint64_t rights) {
    const struct leaf *leaf = &world.leaf[tree(a)][a->page];
    uint64_t violated = l1_of(a->c)->violated[a->r->eptp][a->page];
    uint64_t since = violated > last_invept(a) ? violated : last_invept(a);
    for (unsigned int i = CHANGES; i-- > 0;) {
        uint64_t value = leaf->was[i].value, entry01 = world.ept01[target_of(value)];
        if (hpa == FRAME_HPA + (entry01 & ADDRESS) && (rights & ~(value & entry01 & 7)) == 0)
            return true;
        if (leaf->was[i].time <= since)
            return false;
    }
    return true; /* too long ago */
}

/* What the processor kept may not outlive what L1 and the host dropped. */
static void may_still_be(const struct access *a, const struct translation *t) {
    const struct l1 *l1 = l1_of(a->c);
    uint64_t owner = world.owner[(t->hpa - FRAME_HPA) / NVMX_PAGE_SIZE], vpid12 = a->r->vpid12;
    FUZZ_HOLD(owner != NOBODY && (world.ept01[owner] & a->kind) != 0,
              "L2 of L1 %u reaches page %llu, which the host has taken", a->c->l1, U(a->page));
    FUZZ_HOLD(t->l1 == (int)a->c->l1 && t->vpid12 == vpid12,
              "L2 of L1 %u with VPID %llu uses a translation of L1 %d's VPID %llu", a->c->l1, U(vpid12), t->l1,
              U(t->vpid12));
    FUZZ_HOLD(vpid12 != 0 || t->born >= l1->entered, "L2 without a VPID uses a translation of before its VM entry");
    FUZZ_HOLD(vpid12 == 0 || (t->born > l1->invvpid_all && t->born > l1->invvpid[vpid12] &&
                              t->born > l1->invvpid_page[vpid12][a->page]),
              "L2 of L1 %u uses a translation of page %llu that INVVPID of VPID %llu has dropped", a->c->l1, U(a->page),
              U(vpid12));
    FUZZ_HOLD(t->born > last_invept(a), "L2 of L1 %u uses a translation of page %llu that INVEPT has dropped", a->c->l1,
              U(a->page));
}

static bool same_tags(const struct access *a, const struct translation *t) {
    return t->valid && t->page == a->page && t->vpid02 == a->vpid02 && t->eptp02 == a->eptp02;
}

static bool hits(const struct access *a) {
    for (unsigned int i = 0; i < TLB; i++) {
        const struct translation *t = &a->c->tlb[i];
        if (!same_tags(a, t) || (t->rights & a->kind) == 0)
            continue;
        may_still_be(a, t);
        return true;
    }
    return false;
}

/* Accessed and dirty flags of ept12, where they are on and L1 has nothing left to invalidate. */
static void flags_are_set(const struct access *a) {
    const struct leaf *leaf = &world.leaf[tree(a)][a->page];
    uint64_t entry = sim_read64(world.sim, TREE(tree(a)) + 0x3000 + a->page * 8);
    if ((a->r->eptp & 1) && !leaf->flags_lost && leaf->was[CHANGES - 1].time <= last_invept(a))
        FUZZ_HOLD((entry & 0x100) && (a->kind != 2 || (entry & 0x200)),
                  "the entry of page %llu is %#llx after an access of kind %llu", U(a->page), U(entry), U(a->kind));
}

static bool through_ept02(const struct access *a, uint64_t *rights) {
    struct cpu *c = a->c;
    uint64_t hpa;
    if (!walk_ept02(c, a->page, &hpa, rights) || (*rights & a->kind) == 0)
        return false;
    FUZZ_HOLD(may_be(a, hpa, *rights),
              "L2 of L1 %u has page %llu at %#llx with rights %llu, and neither ept12 nor ept01 says so", c->l1,
              U(a->page), U(hpa), U(*rights));
    flags_are_set(a);
    c->tlb[c->next++ % TLB] = (struct translation){.valid = true,
                                                   .vpid02 = a->vpid02,
                                                   .eptp02 = a->eptp02,
                                                   .page = a->page,
                                                   .hpa = hpa,
                                                   .rights = *rights,
                                                   .born = world.now,
                                                   .l1 = (int)c->l1,
                                                   .vpid12 = a->r->vpid12};
    return true;
}

/* The exit, with what the processor drops for it (SDM 31.4.3.1). */
static enum nvmx_next violation(struct cpu *c, const struct access *a, uint64_t rights) {
    struct nvmx_l2_exit_info info = {.reason = 48,
                                     .qualification = 0x180 | a->kind | (rights & 7) << 3,
                                     .guest_linear_address = a->page * NVMX_PAGE_SIZE,
                                     .guest_physical_address = a->page * NVMX_PAGE_SIZE};
    for (unsigned int i = 0; i < TLB; i++)
        if (same_tags(a, &c->tlb[i]))
            c->tlb[i].valid = false;
    leave(c);
    enum nvmx_next next = sim_exit_info(c->sim, &info);
    note_failures(c);
    world.leaf[tree(a)][a->page].flags_lost |= world.failed;
    fuzz_log("L2 of L1 %u: violation at page %llu, kind %llu: %s, mode %d%s", c->l1, U(a->page), U(a->kind),
             next == NVMX_HOST ? "the host's" : "enter", (int)nvmx_mode(c->sim->vcpu),
             world.failed ? " (a callback failed)" : "");
    return next;
}

/* It is the host's if ept01 is in the way, and the host gives what is missing. */
static void host_gives(const struct access *a) {
    uint64_t target = target_of(leaf_now(tree(a), a->page));
    FUZZ_HOLD(world.failed || (world.ept01[target] & a->kind) == 0, "the host is asked for page %llu, which it grants",
              U(target));
    FUZZ_HOLD(world.failed || nvmx_host_fault_gpa1(a->c->sim->vcpu) / NVMX_PAGE_SIZE * NVMX_PAGE_SIZE ==
                                  TARGET_GPA1 + target * NVMX_PAGE_SIZE,
              "the host is asked for %#llx", U(nvmx_host_fault_gpa1(a->c->sim->vcpu)));
    give(target);
}

static void do_access(struct cpu *c) {
    struct access a = {
        .c = c, .r = current(c), .page = fuzz_u8(world.in) % PAGES, .kind = UINT64_C(1) << fuzz_u8(world.in) % 3};
    bool resolved = false;
    for (unsigned int attempt = 0; attempt < 4 && enter(c); attempt++) {
        uint32_t which = nvmx_selected(c->sim->vcpu);
        uint64_t rights = 0;
        a.eptp02 = sim_get(c->sim, which, NVMX_F_EPT_POINTER) & ADDRESS;
        a.vpid02 =
            sim_get(c->sim, which, NVMX_F_SECONDARY_CONTROLS) & ENABLE_VPID ? sim_get(c->sim, which, NVMX_F_VPID) : 0;
        if (hits(&a) || through_ept02(&a, &rights))
            return;
        FUZZ_HOLD(!resolved || world.failed, "page %llu was resolved, and L2 can't use it", U(a.page));
        enum nvmx_next next = violation(c, &a, rights);
        if (next == NVMX_STOP) {
            stopped(c, "a violation");
            return;
        }
        if (nvmx_mode(c->sim->vcpu) != NVMX_MODE_L2) {
            FUZZ_HOLD(world.failed || !grants(leaf_now(tree(&a), a.page), a.kind),
                      "L1 %u gets a violation for page %llu, which it grants", c->l1, U(a.page));
            l1_of(c)->mode = nvmx_mode(c->sim->vcpu);
            if (world.failed)
                forget(c);
            else if ((leaf_now(tree(&a), a.page) & 3) != 2) /* a misconfiguration invalidates nothing */
                l1_of(c)->violated[a.r->eptp][a.page] = world.now;
            return;
        }
        if (next == NVMX_HOST)
            host_gives(&a);
        else
            resolved = true;
    }
}

static void do_exit(struct cpu *c, uint32_t reason) {
    leave(c);
    enum nvmx_next next = sim_exit(c->sim, reason, 0, 0, 2);
    note_failures(c);
    fuzz_log("L2 of L1 %u exits with reason %u, mode %d", c->l1, reason, (int)nvmx_mode(c->sim->vcpu));
    if (next == NVMX_STOP)
        stopped(c, "an exit");
    else if (world.failed)
        forget(c);
    else
        FUZZ_HOLD(nvmx_mode(c->sim->vcpu) == NVMX_MODE_ROOT, "L2 goes on after an exit with reason %u", reason);
    l1_of(c)->mode = nvmx_mode(c->sim->vcpu);
}

static void do_init(struct cpu *c) {
    struct nvmx_pending pending = {.init = true};
    leave(c);
    enum nvmx_next next = sim_enter(c->sim, &pending);
    note_failures(c);
    fuzz_log("INIT for L1 %u", c->l1);
    if (next == NVMX_STOP) {
        stopped(c, "INIT");
        return;
    }
    FUZZ_HOLD(world.failed || nvmx_mode(c->sim->vcpu) == NVMX_MODE_ROOT, "L2 goes on after INIT");
    l1_of(c)->mode = nvmx_mode(c->sim->vcpu);
    if (world.failed)
        forget(c);
}

void l2_step(struct cpu *c, uint8_t what) {
    const struct region *r = current(c);
    bool lost = r == NULL || !r->known;
    if (!enter(c))
        return;
    if (lost || what == 0)
        do_exit(c, 10);
    else if (what == 1)
        do_exit(c, 18);
    else if (what == 2)
        do_init(c);
    else
        do_access(c);
}
