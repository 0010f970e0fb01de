/* SPDX-License-Identifier: MIT */
/* VMLAUNCH and VMRESUME of L1 past the instruction's own checks (SDM 29.2-29.5). */
#include "exits.h"

#include "ept/ept.h"

#include <string.h>

/* If one of these was written, rules are checked that also look at guest state which L2 may have changed. */
#define GROUPS_THAT_LOOK_FAR ((1u << NVMX_GROUP_CONTROL) | (1u << NVMX_GROUP_REGISTER) | (1u << NVMX_GROUP_SEGMENT))

static inline bool uses_pae_without_ept(const struct vmcs12 *v) {
    return (v->value[NVMX_F_GUEST_CR0] & CR0_PG) != 0 && (v->value[NVMX_F_GUEST_CR4] & CR4_PAE) != 0 &&
           (v->value[NVMX_F_VM_ENTRY_CONTROLS] & ENTRY_IA32E) == 0 && (secondary_controls(v) & PROC2_EPT) == 0;
}

/* The four PDPTEs at guest CR3, each byte read once: what is checked is what vmcs02 gets. */
static void read_pdptes(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, struct nvmx_check_input *in) {
    uint64_t gpa1 = v->value[NVMX_F_GUEST_CR3] & UINT64_C(0xffffffe0);

    in->pdpte_readable = l1_physical_read(vcpu, gpa1, &in->pdpte[0], 16) == NVMX_OK &&
                         l1_physical_read(vcpu, gpa1 + 16, &in->pdpte[2], 16) == NVMX_OK;
}

static void read_link(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, struct nvmx_check_input *in) {
    uint64_t gpa1 = v->value[NVMX_F_VMCS_LINK_POINTER];

    if (gpa1 != NVMX_NO_ADDRESS && gpa1 % NVMX_PAGE_SIZE == 0) {
        in->link_readable = l1_physical_read(vcpu, gpa1, &in->link_revision, 4) == NVMX_OK;
    }
}

/* SDM 29.2.1.1: the rule that compares VTPR with the TPR threshold applies, and VTPR decides. */
static inline bool compares_vtpr(const struct vmcs12 *v) {
    return (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_TPR_SHADOW) != 0 && (v->value[NVMX_F_TPR_THRESHOLD] & 15) != 0 &&
           (secondary_controls(v) & (PROC2_APIC_ACCESSES | PROC2_VIRTUAL_INTERRUPTS)) == 0;
}

static void read_vtpr(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, struct nvmx_check_input *in) {
    uint64_t page = v->value[NVMX_F_VIRTUAL_APIC_ADDRESS];

    if (compares_vtpr(v) && page % NVMX_PAGE_SIZE == 0) {
        in->vtpr = 0xff; /* if there is no memory */
        (void)l1_physical_read(vcpu, page + VTPR_OFFSET, &in->vtpr, 1);
    }
}

/* What the checks need besides the fields. */
static enum nvmx_status gather(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t groups, struct nvmx_check_input *in) {
    enum nvmx_status status = NVMX_OK;
    bool far = (groups & GROUPS_THAT_LOOK_FAR) != 0;
    /* A single step of L2 that waits for the end of blocking: BS depends on DEBUGCTL.BTF (SDM 29.3.1.5). */
    bool single_step =
        (v->value[NVMX_F_GUEST_RFLAGS] & RFLAGS_TF) != 0 && nvmx_set_has(&v->stale, NVMX_F_GUEST_DEBUGCTL);

    if (far || single_step || (uses_pae_without_ept(v) && nvmx_set_has(&v->stale, NVMX_F_GUEST_CR3))) {
        status = sync_all(vcpu, v);
    }
    memset(in, 0, sizeof(*in));
    in->field = v->value;
    in->caps = &vcpu->vm->caps;
    in->current_vmcs = v->gpa1;
    in->vmxon_pointer = vcpu->vmxon_pointer;
    /* L1's memory can change without a VMWRITE: the rules about it are checked at every entry. */
    read_link(vcpu, v, in);
    read_vtpr(vcpu, v, in);
    if (uses_pae_without_ept(v)) {
        read_pdptes(vcpu, v, in);
    }
    return status;
}

static enum nvmx_next refuse(struct nvmx_vcpu *vcpu, struct vmcs12 *v, const struct nvmx_check_failure *failure) {
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);

    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    vcpu->last_check = failure->row;
    if (failure->vm_fail != 0) {
        return vm_fail_valid(vcpu, failure->vm_fail);
    }
    return reflect_entry_failure(vcpu, v, failure->exit_reason, failure->qualification, false);
}

bool room_will_come(struct nvmx_vcpu *vcpu) {
    unsigned int user = vcpu->id * NVMX_VMCS02_MAX + (unsigned int)vcpu->current;

    return vcpu->vm->ept != NULL && ept_root_waits(vcpu->vm->ept, user);
}

/* What the host could not provide (a page, memory) L1 sees as a refused entry; vmcs12 is as it was, and L1 may try
 * again. What other vCPUs hold for a moment it does not hear of: it executes its instruction once more. */
static enum nvmx_next merge_failed(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);

    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    return room_will_come(vcpu) ? NVMX_ENTER : vm_fail_valid(vcpu, 7);
}

/* vmcs02 is ready: L2 is on. */
static inline enum nvmx_next go(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    vcpu->launching = !v->launched;
    v->launched = true;
    vcpu->mode = NVMX_MODE_L2;
    vcpu->entry_pending = true;
    timer_start(vcpu, v, v->value[NVMX_F_PREEMPTION_TIMER_VALUE]);
    host_speculation_barrier(vcpu, true);
    if (RARE(vcpu->traces)) {
        trace_record(vcpu, NVMX_TRACE_ENTER_L2, vcpu->launching ? NVMX_EXIT_VMLAUNCH : NVMX_EXIT_VMRESUME,
                     nvmx_set_has(&v->stale, NVMX_F_GUEST_RIP) ? 0 : v->value[NVMX_F_GUEST_RIP]);
    }
    return NVMX_ENTER;
}

/* The MSR-load list fails at this entry; or the host does, when MSRs may be loaded that neither VMfail nor a failed entry accounts for. */
static COLD enum nvmx_next loading_failed(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t failing,
                                          enum nvmx_status status) {
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    sync_msrs_lost(vcpu, v);
    v->plain = false;
    return reflect_entry_failure(vcpu, v, NVMX_EXIT_MSR_LOADING, failing, true);
}

/* The MSR-load list, then L2 is on. */
static inline enum nvmx_next load_and_go(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint32_t count = (uint32_t)v->value[NVMX_F_VM_ENTRY_MSR_LOAD_COUNT];

    if (RARE(count != 0)) {
        enum nvmx_status status;
        uint32_t failing = msr_list_load_for_entry(vcpu, v, v->value[NVMX_F_VM_ENTRY_MSR_LOAD_ADDRESS], count, &status);
        if (failing != 0) {
            return loading_failed(vcpu, v, failing, status);
        }
    }
    return go(vcpu, v);
}

/*
 * Do only rules remain that compare fields L1 has not written with each other? Those that look at anything else
 * (SDM 29.2.1.1 VTPR, 29.2.4, 29.3.1.5 the link pointer, 29.3.1.6) have nothing to look at here.
 */
static inline bool nothing_to_check(const struct vmcs12 *v, uint32_t groups, bool l1_long_mode) {
    return groups == 0 && l1_long_mode && (v->value[NVMX_F_VM_EXIT_CONTROLS] & EXIT_HOST_64) != 0 &&
           v->value[NVMX_F_VMCS_LINK_POINTER] == NVMX_NO_ADDRESS && !compares_vtpr(v) && !uses_pae_without_ept(v);
}

/* The checks of SDM 29.2 and 29.3.1. False: *next says what became of L1. `pdpte`: what PAE paging without EPT loads.
 */
static __attribute__((noinline)) bool passes_checks(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t groups,
                                                    bool l1_long_mode, uint64_t *pdpte, enum nvmx_next *next) {
    struct nvmx_check_input in;
    struct nvmx_check_failure failure;
    enum nvmx_status status = gather(vcpu, v, groups, &in);

    if (status != NVMX_OK) {
        *next = stop(vcpu, NVMX_STOP_HOST, status);
        return false;
    }
    in.l1_long_mode = l1_long_mode;
    if (!nvmx_check_first(&in, groups, &failure)) {
        *next = refuse(vcpu, v, &failure);
        return false;
    }
    v->checked = NVMX_CHECK_ALL;
    memcpy(pdpte, in.pdpte, sizeof(in.pdpte));
    return true;
}

/*
 * An entry after which nothing but RIP, RSP, an external interrupt and the EPTP has to reach vmcs02. `plain` says that the controls are such that no entry
 * checks, merges or loads anything that could have changed behind L1's VMWRITEs, and merge_needs_little that they left the
 * rest alone. Else enter_anew decides, and does the same in full.
 */
static bool plain(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    return nothing_to_check(v, 0, true) && (secondary_controls(v) & PROC2_EPT) != 0 && merge_is_plain(vcpu, v);
}

/* An external interrupt that the rules of the EVENT group (SDM 29.2.1.3, 29.3.1.4, 29.3.1.5) let pass, or no event at all. */
static inline bool event_passes(const struct vmcs12 *v) {
    uint64_t event = v->value[NVMX_F_VM_ENTRY_INTERRUPTION_INFO];

    return (event & EVENT_VALID) == 0 ||
           (event_is_vector_alone(event) && (v->value[NVMX_F_GUEST_RFLAGS] & RFLAGS_IF) != 0 &&
            (v->value[NVMX_F_GUEST_INTERRUPTIBILITY_STATE] & BLOCKING_STI_MOV_SS) == 0 &&
            v->value[NVMX_F_GUEST_ACTIVITY_STATE] == 0);
}

static inline bool little_to_do(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool l1_long_mode) {
    const uint32_t event = 1u << NVMX_GROUP_EVENT;

    return v->plain && (v->checked | event) == NVMX_CHECK_ALL && event_passes(v) && !vcpu->pages_changed &&
           l1_long_mode && (v->value[NVMX_F_GUEST_RFLAGS] & RFLAGS_TF) == 0 && merge_needs_little(vcpu, v);
}

/*
 * SDM 32.4.5: an EPTP that was used without this APIC-access page needs an INVEPT before it is used with it. Of an L1 without EPT it is EPTP01, on which L1
 * itself runs; and L1, which does not know, executes INVVPID at most.
 */
COLD void entry_forgets_ept01(struct nvmx_vcpu *vcpu, const struct vmcs12 *v) {
    if (vcpu->vm->host.ept02_root == NULL) {
        host_flush(vcpu, NVMX_FLUSH_EPT_HERE, v->image[NVMX_F_EPT_POINTER], 0);
    }
}

/* An entry that is not one of those that need little. */
static __attribute__((noinline)) enum nvmx_next enter_anew(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool l1_long_mode) {
    uint64_t pdpte[4];
    bool checked_anew = false;
    enum nvmx_next next;
    uint32_t groups = NVMX_CHECK_ALL & ~v->checked;

    /* Whether a single step of L2 is due depends on DEBUGCTL as the field has it, which L2 need not have run with
     * (SDM 29.3.1.5). */
    if (RARE((v->value[NVMX_F_GUEST_RFLAGS] & RFLAGS_TF) != 0)) {
        groups |= 1u << NVMX_GROUP_NONREGISTER;
    }
    if (!nothing_to_check(v, groups, l1_long_mode)) {
        checked_anew = true;
        if (!passes_checks(vcpu, v, groups, l1_long_mode, pdpte, &next)) {
            return next;
        }
    }
    enum nvmx_status status = merge_vmcs02(vcpu, v, checked_anew && uses_pae_without_ept(v) ? pdpte : NULL);
    if (status != NVMX_OK) {
        return merge_failed(vcpu);
    }
    if (RARE(has_apic_page_on_ept01(v))) {
        entry_forgets_ept01(vcpu, v);
    }
    v->plain = plain(vcpu, v);
    v->writes_more = v->rewritten_count != 0 || v->msr_words;
    return load_and_go(vcpu, v);
}

enum nvmx_next enter_l2(struct nvmx_vcpu *vcpu, bool l1_long_mode) {
    struct vmcs12 *v = vmcs12_current(vcpu);
    enum nvmx_status status = host_controls(vcpu);

    vcpu->l1_value_known = false;
    if (status == NVMX_OK && v->controls_merged && v->inherited_same != v->inherited_count) {
        status = merge_read_l1(vcpu, v);
    }
    if (status == NVMX_OK) {
        status = shadow_pull_for_entry(vcpu, v);
    }
    if (RARE(status != NVMX_OK)) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    vcpu->last_check = NVMX_CHECK_NONE;
    if (!little_to_do(vcpu, v, l1_long_mode)) {
        return enter_anew(vcpu, v, l1_long_mode);
    }
    v->checked = NVMX_CHECK_ALL;
    status = merge_little(vcpu, v);
    if (RARE(status != NVMX_OK)) {
        return merge_failed(vcpu);
    }
    return load_and_go(vcpu, v);
}
