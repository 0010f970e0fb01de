/* SPDX-License-Identifier: MIT */
/*
 * L1's memory changes while the library works: before and after any callback, as another vCPU of L1 would do it. The input says at which callback,
 * where, and to what.
 *
 * Held: what was checked is what is used. An L2 that runs has a vmcs02 that the CPU accepts and that holds the vmcs12 which the library has read, not
 * the one that memory holds by then; its bitmaps intercept what the host intercepts, whatever L1's are; ept02 leads to pages that ept01 gives L1, with
 * its rights at most; an MSR is written only if a list may write it; nothing stays mapped.
 *
 * Input: profile, host's controls, number of vmcs12's changes, these, then: how many callbacks later, which place, which byte, what.
 */
#include <string.h>

#include "fuzz.h"
#include "vcpu.h"

#define U(value) ((unsigned long long)(value))
#define EPT_VIOLATION 48u

/* -- changes at callbacks ------------------------------------------------------------------------------------------------------------------ */

static struct {
    struct sim *sim;
    struct fuzz_input *in;
    unsigned int wait; /* callbacks until the next change */
    unsigned int left; /* changes, so that every loop that looks twice ends */
} race;

/* Where L1 keeps what the library reads. */
static const uint64_t places[] = {
    SIM_L1_VMCS_A + VMCS_REGION_FIELDS, SIM_L1_VMCS_A, SIM_L1_MSR_BITMAP, SIM_L1_IO_BITMAP_A, SIM_L1_IO_BITMAP_B, SIM_L1_VIRTUAL_APIC + 0x80,
    SIM_L1_MSR_LISTS, SIM_L1_MSR_LISTS + 0x400, SIM_L1_MSR_LISTS + 0x800, SIM_L1_EPT12, SIM_L1_EPT12 + 0x1000, SIM_L1_EPT12 + 0x2000,
    SIM_L1_EPT12 + 0x3000, SIM_L1_PML4, SIM_L1_PML4 + 0x1000, SIM_L1_PML4 + 0x2000, SIM_L1_OPERAND, 0x20000, 0x25040, 0x22000, SIM_L1_VMCS_B,
};

static void change_now(void) {
    struct fuzz_input *in = race.in;
    fuzz_piece(in, FUZZ_OTHER);
    uint64_t place = places[fuzz_u8(in) % (sizeof(places) / sizeof(places[0]))];
    uint64_t offset = (uint64_t)(fuzz_u16(in) % 0x600u), gpa1 = (place + offset) & ~UINT64_C(7);
    uint64_t value = fuzz_value(in);
    sim_write64(race.sim, gpa1, value);
    fuzz_log("    memory at %#llx becomes %#llx", U(gpa1), U(value));
    race.left--;
    race.wait = fuzz_u8(in) % 24u;
}

static void tick(void) {
    if (race.in == NULL || !fuzz_more(race.in) || race.left == 0)
        return;
    if (race.wait != 0)
        race.wait--;
    else
        change_now();
}

static struct nvmx_host real;

static void *map_page(void *ctx, uint64_t gpa1, uint32_t access, uint64_t *hpa) {
    tick();
    return real.map_page(ctx, gpa1, access, hpa);
}

static void unmap_page(void *ctx, uint64_t gpa1, void *page, bool dirtied) {
    real.unmap_page(ctx, gpa1, page, dirtied);
    tick();
}

static enum nvmx_status vmcs_select(void *ctx, uint32_t which) {
    tick();
    return real.vmcs_select(ctx, which);
}

static enum nvmx_status vmcs_read(void *ctx, uint32_t count, const uint32_t *encoding, uint64_t *value) {
    tick();
    return real.vmcs_read(ctx, count, encoding, value);
}

static enum nvmx_status vmcs_write(void *ctx, uint32_t count, const uint32_t *encoding, const uint64_t *value) {
    tick();
    return real.vmcs_write(ctx, count, encoding, value);
}

static enum nvmx_status ept01_lookup(void *ctx, uint64_t gpa1, struct nvmx_ept01_mapping *out) {
    tick();
    return real.ept01_lookup(ctx, gpa1, out);
}

static void *page_alloc(void *ctx, uint64_t *hpa) {
    tick();
    return real.page_alloc(ctx, hpa);
}

/* MSRs that no list may load (SDM 29.4): FS and GS base, those of the APIC in x2APIC mode; of SMM; microcode. */
static enum nvmx_status msr_write(void *ctx, uint32_t index, uint64_t value) {
    tick();
    FUZZ_HOLD(index != 0xc0000100 && index != 0xc0000101 && index >> 8 != 8 && index != 0x9b && index != 0x79, "MSR %#x is loaded with %#llx",
              index, U(value));
    return real.msr_write(ctx, index, value);
}

static void race_host(struct nvmx_host *host) {
    if (host->map_page == map_page)
        return;
    real = *host;
    host->map_page = map_page;
    host->unmap_page = unmap_page;
    host->vmcs_select = vmcs_select;
    host->vmcs_read = vmcs_read;
    host->vmcs_write = vmcs_write;
    host->ept01_lookup = ept01_lookup;
    host->page_alloc = page_alloc;
    host->msr_write = msr_write;
}

/* -- what must hold of an L2 that runs ------------------------------------------------------------------------------------------------------- */

static void hold_nothing_of_the_hosts_is_lost(const struct fuzz_machine *m, const uint64_t *vmcs02, enum nvmx_field slot, uint64_t control,
                                              const uint8_t *hosts) {
    struct sim *sim = m->sim;
    const uint64_t *vmcs01 = sim->vmcs[NVMX_VMCS01].value;
    if (!(vmcs02[NVMX_F_PRIMARY_CONTROLS] & control) || !(vmcs01[NVMX_F_PRIMARY_CONTROLS] & control))
        return;
    uint64_t hpa = vmcs02[slot];
    const uint8_t *merged = sim_page(sim, hpa);
    if (merged == NULL) { /* L1's page in place: only if the host intercepts nothing by it */
        FUZZ_HOLD(hpa >= SIM_HPA_OFFSET && hpa < SIM_HPA_OFFSET + SIM_RAM_BYTES, "%s is %#llx", nvmx_field_info(slot)->name, U(hpa));
        for (size_t i = 0; i < NVMX_PAGE_SIZE; i++)
            FUZZ_HOLD(hosts[i] == 0, "%s is L1's page, and the host intercepts byte %zu", nvmx_field_info(slot)->name, i);
        return;
    }
    for (size_t i = 0; i < NVMX_PAGE_SIZE; i++) {
        bool x2apic = slot == NVMX_F_MSR_BITMAP_ADDRESS && (i % 2048 == 0x100 || (i % 2048 > 0x100 && i % 2048 < 0x120)) && i < 4096;
        FUZZ_HOLD(x2apic || (hosts[i] & ~merged[i]) == 0, "%s loses the host's byte %zu", nvmx_field_info(slot)->name, i);
    }
}

static void hold_bitmaps(const struct fuzz_machine *m, const uint64_t *vmcs02) {
    hold_nothing_of_the_hosts_is_lost(m, vmcs02, NVMX_F_MSR_BITMAP_ADDRESS, 1u << 28, m->sim->host_msr_bitmap);
    hold_nothing_of_the_hosts_is_lost(m, vmcs02, NVMX_F_IO_BITMAP_A_ADDRESS, 1u << 25, m->sim->host_io_bitmap[0]);
    hold_nothing_of_the_hosts_is_lost(m, vmcs02, NVMX_F_IO_BITMAP_B_ADDRESS, 1u << 25, m->sim->host_io_bitmap[1]);
}

/* Every leaf of ept02 leads where ept01 does. Tables are visited once a level deep; L2's addresses below 512 GiB. */
static void hold_table(const struct sim *sim, uint64_t table, unsigned int level) {
    const uint64_t *entry = sim_page(sim, table);
    FUZZ_HOLD(entry != NULL, "a table of ept02 at %#llx is not the library's", U(table));
    for (unsigned int i = 0; i < 512; i++) {
        uint64_t address = entry[i] & UINT64_C(0x000ffffffffff000);
        if ((entry[i] & 7) == 0)
            continue;
        if (level > 1 && !(entry[i] & 0x80)) {
            hold_table(sim, address, level - 1);
            continue;
        }
        address &= ~((UINT64_C(4096) << 9 * (level - 1)) - 1);
        FUZZ_HOLD(address >= SIM_HPA_OFFSET && address + (UINT64_C(4096) << 9 * (level - 1)) <= SIM_HPA_OFFSET + SIM_RAM_BYTES,
                  "ept02 leads to %#llx, level %u", U(address), level);
    }
}

static void hold_l2(const struct fuzz_machine *m) {
    const struct nvmx_vcpu *vcpu = m->sim->vcpu;
    const uint64_t *vmcs02 = m->sim->vmcs[nvmx_selected(vcpu)].value;
    uint64_t eptp02 = vmcs02[NVMX_F_EPT_POINTER], field[NVMX_FIELD_COUNT];
    memcpy(field, vcpu->vmcs12[vcpu->current].value, sizeof(field));
    fuzz_check_vmcs02_fields(m, field);
    hold_bitmaps(m, vmcs02);
    if (eptp02 != SIM_EPTP01 && !m->options.host_composes)
        hold_table(m->sim, eptp02 & ~UINT64_C(0xfff), (unsigned int)(eptp02 >> 3 & 7) + 1);
}

/* -- a run ------------------------------------------------------------------------------------------------------------------------------------- */

/* True: L2 runs. */
static bool enter(struct fuzz_machine *m, bool launch) {
    enum sim_outcome outcome = launch ? sim_vmlaunch(m->sim) : sim_vmresume(m->sim);
    fuzz_log("%s: %s", launch ? "VMLAUNCH" : "VMRESUME", sim_outcome_text(outcome));
    if (outcome == SIM_L2)
        hold_l2(m);
    return outcome == SIM_L2;
}

static bool alive(const struct sim *sim) {
    return nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE;
}

static void l2_touches(struct fuzz_machine *m, uint64_t gpa2) {
    struct nvmx_l2_exit_info exit = {.reason = EPT_VIOLATION, .qualification = 0x181 | (gpa2 & 2), .guest_physical_address = gpa2,
                                     .guest_linear_address = gpa2};
    if (sim_get(m->sim, m->sim->selected, NVMX_F_GUEST_ACTIVITY_STATE) != 0)
        return; /* an L2 that is halted touches nothing (SDM 29.3.1.5) */
    enum nvmx_next next = sim_exit_info(m->sim, &exit);
    fuzz_log("L2 touches %#llx: %d, mode %d", U(gpa2), (int)next, (int)nvmx_mode(m->sim->vcpu));
    if (next != NVMX_STOP && nvmx_mode(m->sim->vcpu) == NVMX_MODE_L2)
        hold_l2(m);
}

static void run(struct fuzz_machine *m) {
    static const uint64_t touched[] = {0x5002, 0x6000, 0x5002, 0x200000};
    struct sim *sim = m->sim;
    if (sim_vmptrld(sim, SIM_L1_VMCS_A) != SIM_SUCCEED || !enter(m, true))
        return;
    for (unsigned int i = 0; i < 4 && alive(sim) && nvmx_mode(sim->vcpu) == NVMX_MODE_L2; i++)
        l2_touches(m, touched[i]);
    if (alive(sim) && nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
        sim_exit(sim, 10, 0, 0, 2);
    if (alive(sim) && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT)
        sim_invept(sim, 1, SIM_L1_EPT12 | 0x1e, 0);
    if (alive(sim) && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT && enter(m, false) && alive(sim))
        l2_touches(m, 0x7002);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    struct fuzz_machine *m;
    uint64_t field[NVMX_FIELD_COUNT];
    race.in = NULL;
    m = fuzz_machine(fuzz_u8(&in));
    if (!m)
        return 0;
    race_host(&m->sim->vm->host);
    memcpy(m->sim->ram, m->low_memory, sizeof(m->low_memory)); /* L1's page tables and regions too */
    fuzz_host_controls(m, &in);
    memcpy(field, m->field, sizeof(field));
    struct nvmx_check_input check = {.field = field, .caps = nvmx_l1_caps(m->sim->vm), .current_vmcs = SIM_L1_VMCS_A,
                                     .vmxon_pointer = SIM_L1_VMXON, .l1_long_mode = true};
    fuzz_change_vmcs12(m, &in, &check, field, fuzz_u8(&in) % 8u);
    fuzz_load_vmcs12(m, field);
    FUZZ_HOLD(sim_vmclear(m->sim, SIM_L1_VMCS_A) == SIM_SUCCEED, "VMCLEAR");
    race.sim = m->sim;
    race.in = &in;
    race.left = 32;
    race.wait = fuzz_u8(&in) % 24u;
    run(m);
    race.in = NULL;
    return 0;
}
