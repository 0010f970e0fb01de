/* SPDX-License-Identifier: MIT */
/*
 * The MSR lists of a VMCS: VM-entry load (SDM 29.4), VM-exit store (30.4), VM-exit load (30.6).
 *
 * An entry is 16 bytes: dword 0 index, dword 1 reserved, then the value; lists are aligned to 16, so no entry crosses a
 * page. MSRs of the library are answered here, all others by the host's msr_read and msr_write: see host.h and
 * README.md for what these callbacks do with MSRs that a VMCS field switches.
 */
#include "../vcpu.h"

#define ENTRY_BYTES 16u
#define PAGE_MASK   (uint64_t)(NVMX_PAGE_SIZE - 1)

#define MSR_BIOS_UPDT_TRIG      0x79u
#define MSR_BIOS_SIGN_ID        0x8bu
#define MSR_SMM_MONITOR_CTL     0x9bu
#define MSR_SMBASE              0x9eu
#define MSR_SYSENTER_CS         0x174u
#define MSR_SYSENTER_EIP        0x176u
#define MSR_S_CET               0x6a2u
#define MSR_INTERRUPT_SSP_TABLE 0x6a8u
#define MSR_UINTR_MISC          0x988u
#define MSR_FS_BASE             0xc0000100u
#define MSR_GS_BASE             0xc0000101u

/* The recommended maximum of a list is taken as a hard one (SDM A.6, IA32_VMX_MISC 27:25). */
static uint32_t list_max(const struct nvmx_vcpu *vcpu) {
    return 512 * ((uint32_t)(vcpu->vm->caps.msr[NVMX_CAP_MISC] >> 25 & 7) + 1);
}

static bool is_x2apic(uint32_t index) {
    return index >> 8 == 0x8;
}

/*
 * Rows C-29.4-01 to C-29.4-04: FS and GS base lie in the guest-state area; microcode MSRs are refused as
 * model-specific.
 */
static bool load_forbidden(uint32_t index) {
    if (index >= MSR_FS_BASE) {
        return index <= MSR_GS_BASE;
    }
    return is_x2apic(index) || index == MSR_SMM_MONITOR_CTL || index == MSR_SMBASE || index == MSR_BIOS_UPDT_TRIG ||
           index == MSR_BIOS_SIGN_ID;
}

/* A walk through a list. */
struct list {
    struct nvmx_vcpu *vcpu;
    struct vmcs12 *unsynced; /* whose entry list this is, until sync_msrs; else NULL */
    enum nvmx_status status; /* of sync_msrs, and of what vmcs02 gets */
    const struct vmcs12 *followed; /* whose entry list this is, if vmcs02 loads MSRs that vmcs01 does not; else NULL */
};

/* MSRs that a field of the guest-state area can hold: the host may carry out the load by a write to vmcs02. */
static bool may_be_field(uint32_t index) {
    if (index > MSR_EFER) {
        return false;
    }
    return (index >= MSR_SYSENTER_CS && index <= MSR_SYSENTER_EIP) || index == MSR_S_CET || index == MSR_INTERRUPT_SSP_TABLE ||
           index == MSR_UINTR_MISC || merge_gate_msr(index);
}

/* SDM 29.4: the list comes after what the entry loads from the guest-state area. */
static COLD bool load_followed(struct list *list, uint32_t index, uint64_t value) {
    if (!merge_msr_enters(list->vcpu, index, value) || host_msr_write(list->vcpu, index, value) != NVMX_OK) {
        return false;
    }
    list->status = merge_follow_msr(list->vcpu, list->followed, index, value);
    return list->status == NVMX_OK;
}

/* The actions: what is done with one entry. False: it fails. */
static inline bool load_entry(struct list *list, uint64_t *entry) {
    struct nvmx_vcpu *vcpu = list->vcpu;
    uint64_t index = __atomic_load_n(&entry[0], __ATOMIC_RELAXED);
    uint64_t value = __atomic_load_n(&entry[1], __ATOMIC_RELAXED);

    if (index > UINT32_MAX || load_forbidden((uint32_t)index)) {
        return false;
    }
    if (index <= NVMX_MSR_VMX_LAST) {
        enum nvmx_msr_result result = nvmx_wrmsr(vcpu, (uint32_t)index, value, false);
        if (result != NVMX_MSR_NOT_MINE) {
            return result == NVMX_MSR_DONE;
        }
    }
    if (may_be_field((uint32_t)index)) {
        if (list->unsynced != NULL) {
            list->status = sync_msrs(vcpu, list->unsynced);
        }
        if (list->status != NVMX_OK) {
            return false;
        }
        list->unsynced = NULL;
        watched_forget(vcpu);
    }
    return RARE(list->followed != NULL) ? load_followed(list, (uint32_t)index, value) : host_msr_write(vcpu, (uint32_t)index, value) == NVMX_OK;
}

static inline bool store_entry(struct list *list, uint64_t *entry) {
    struct nvmx_vcpu *vcpu = list->vcpu;
    uint64_t index = __atomic_load_n(&entry[0], __ATOMIC_RELAXED);
    uint64_t value = 0;

    if (index > UINT32_MAX || is_x2apic((uint32_t)index) || index == MSR_SMBASE) {
        return false;
    }
    enum nvmx_msr_result result = index <= NVMX_MSR_VMX_LAST ? nvmx_rdmsr(vcpu, (uint32_t)index, &value) : NVMX_MSR_NOT_MINE;
    if (result == NVMX_MSR_FAULT ||
        (result == NVMX_MSR_NOT_MINE && host_msr_read(vcpu, (uint32_t)index, &value) != NVMX_OK)) {
        return false;
    }
    __atomic_store_n(&entry[1], value, __ATOMIC_RELAXED);
    return true;
}

/* The entries that lie in one page, `count` of them from gpa1 on. How many went well. */
static inline __attribute__((always_inline)) uint32_t page_entries(struct list *list, uint64_t gpa1, uint32_t count, bool store) {
    uint64_t base = gpa1 & ~PAGE_MASK;
    uint32_t done = 0;
    uint8_t *page = host_map(list->vcpu, base, store ? NVMX_ACCESS_READ | NVMX_ACCESS_WRITE : NVMX_ACCESS_READ, NULL);

    if (page == NULL) {
        return 0;
    }
    uint64_t *entry = (uint64_t *)(void *)(page + (gpa1 & PAGE_MASK));
    while (done < count && (store ? store_entry(list, entry) : load_entry(list, entry))) {
        entry += ENTRY_BYTES / sizeof(*entry);
        done++;
    }
    host_unmap(list->vcpu, base, page, store && done > 0);
    return done;
}

static inline __attribute__((always_inline)) uint32_t walk_list(struct list *list, uint64_t gpa1, uint32_t count, bool store) {
    uint32_t max = list_max(list->vcpu);
    uint32_t most = count < max ? count : max;
    uint32_t done = 0;

    if (count != 0 && gpa1 % ENTRY_BYTES != 0) {
        return 1;
    }
    while (done < most) {
        uint64_t at = gpa1 + (uint64_t)done * ENTRY_BYTES;
        uint32_t room = (uint32_t)((NVMX_PAGE_SIZE - (at & PAGE_MASK)) / ENTRY_BYTES);
        uint32_t here = room < most - done ? room : most - done;
        uint32_t good = page_entries(list, at, here, store);

        done += good;
        if (good < here) {
            return done + 1;
        }
    }
    return done < count ? done + 1 : 0;
}

static __attribute__((noinline)) uint32_t load_list(struct list *list, uint64_t gpa1, uint32_t count) {
    return walk_list(list, gpa1, count, false);
}

uint32_t msr_list_load_for_entry(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint64_t gpa1, uint32_t count,
                                 enum nvmx_status *status) {
    struct list list = {.vcpu = vcpu, .unsynced = v, .followed = gates_alone(vcpu, v) != 0 ? v : NULL};
    uint32_t failing = load_list(&list, gpa1, count);

    *status = list.status;
    return failing;
}

uint32_t msr_list_load(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t count) {
    return load_list(&(struct list){.vcpu = vcpu}, gpa1, count);
}

uint32_t msr_list_store(struct nvmx_vcpu *vcpu, uint64_t gpa1, uint32_t count) {
    return walk_list(&(struct list){.vcpu = vcpu}, gpa1, count, true);
}
