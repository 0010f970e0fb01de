/* SPDX-License-Identifier: MIT */
/* Who gets an exit of L2: L1 by its controls, bitmaps and masks, or the host (SDM 28.1, 28.2). Every reason once each way: route_rows.c. */
#include "exits/exits.h"
#include "machine.h"

/* The routing looks at vmcs12 as it is: a control is set there without the checks that an entry would make. */
static struct vmcs12 *current(struct sim *sim) {
    return &sim->vcpu->vmcs12[sim->vcpu->current];
}

/* Who gets it: by hardware's exit, and by nvmx_l1_intercepts before it, which must agree. */
static void routes_to(struct sim *sim, const struct nvmx_l2_exit_info *info, bool l1, const char *what) {
    cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2, "%s", what);
    bool asked = nvmx_l1_intercepts(sim->vcpu, info);
    enum nvmx_next next = sim_exit_info(sim, info);
    bool reflected = next == NVMX_ENTER && nvmx_mode(sim->vcpu) == NVMX_MODE_ROOT;

    cr_expect_eq(asked, l1, "%s: nvmx_l1_intercepts says %d, reason %u", what, asked, info->reason);
    cr_expect_eq(reflected, l1, "%s: reflected %d (next %d), reason %u", what, reflected, (int)next, info->reason);
    if (next == NVMX_HOST)
        cr_expect_eq(sim->selected, NVMX_VMCS02_FIRST, "%s: the VMCS that exited stays selected", what);
    if (reflected)
        resume(sim);
}

static uint64_t *control(struct sim *sim, uint32_t encoding) {
    return &current(sim)->value[nvmx_field_find(encoding, NULL)];
}

/* Secondary controls count only if the primary ones activate them. */
Test(route, inactive_secondary_controls) {
    struct sim *sim = l2_running(NULL);
    struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_WBINVD};
    *control(sim, NVMX_VMCS_SECONDARY_CONTROLS) |= 1u << 6;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &info));
    *control(sim, NVMX_VMCS_PRIMARY_CONTROLS) &= ~(UINT64_C(1) << 31);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &info));
    sim_free(sim);
}

/* What the table does not know is the host's, and outside L2 nothing is L1's. */
Test(route, unknown_reasons) {
    struct sim *sim = l2_running(NULL);
    static const uint32_t unknown[] = {86, 87, 255, 0x7fff, 0xffff};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        routes_to(sim, &(struct nvmx_l2_exit_info){.reason = unknown[i]}, false, "unknown");
        cr_expect_eq(nvmx_l2_exit(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = unknown[i]}), NVMX_HOST);
        cr_expect_str_eq(nvmx_exit_name(unknown[i]), "unknown");
    }
    l2_leaves(sim);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_CPUID}));
    cr_expect_eq(nvmx_l2_exit(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_CPUID}), NVMX_HOST);
    sim_free(sim);
}

Test(route, pause_and_apic_write) {
    struct sim *sim = l2_running(NULL);
    uint64_t *primary = control(sim, NVMX_VMCS_PRIMARY_CONTROLS),
             *secondary = control(sim, NVMX_VMCS_SECONDARY_CONTROLS);
    struct nvmx_l2_exit_info pause = {.reason = NVMX_EXIT_PAUSE}, write = {.reason = NVMX_EXIT_APIC_WRITE};
    uint64_t p = *primary & ~(UINT64_C(1) << 30), s = *secondary & ~UINT64_C(0x700);

    *primary = p, *secondary = s;
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &pause) || nvmx_l1_intercepts(sim->vcpu, &write));
    *primary = p | 1u << 30;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &pause));
    *primary = p, *secondary = s | 1u << 10;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &pause) && !nvmx_l1_intercepts(sim->vcpu, &write));
    for (unsigned int bit = 8; bit < 10; bit++) {
        *secondary = s | 1u << bit;
        cr_expect(nvmx_l1_intercepts(sim->vcpu, &write) && !nvmx_l1_intercepts(sim->vcpu, &pause));
    }
    sim_free(sim);
}

/* SDM 28.5.2: the pending exit that L1 injects needs no control. */
Test(route, injected_monitor_trap) {
    struct sim *sim = l1_ready(NULL);
    l1_writes(sim, NVMX_VMCS_VM_ENTRY_INTERRUPTION_INFO, 0x80000700);
    launch(sim);
    routes_to(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_MONITOR_TRAP_FLAG}, true, "injected");
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_MONITOR_TRAP_FLAG}),
                  "once");
    sim_free(sim);
}

/* SDM 28.1.3: EDX:EAX, IA32_XSS and the bitmap must have a bit in common. */
Test(route, xsaves) {
    struct sim *sim = l2_running(NULL);
    static const struct {
        uint64_t asked, xss, bitmap;
        bool l1;
    } rows[] = {
        {0x100, 0x100, 0x100, true},
        {0x100, 0x100, 0x200, false},
        {0x100, 0, 0x100, false},
        {0, 0x100, 0x100, false},
        {UINT64_C(1) << 62, UINT64_C(1) << 62, UINT64_C(3) << 62, true},
    };
    *control(sim, NVMX_VMCS_SECONDARY_CONTROLS) |= 1u << 20;
    for (size_t i = 0; i < COUNT(rows); i++) {
        sim->regs.gpr[NVMX_RDX] = rows[i].asked >> 32 | UINT64_C(0xabc) << 40;
        sim->regs.gpr[NVMX_RAX] = (uint32_t)rows[i].asked | UINT64_C(0xabc) << 40;
        sim_msr(sim, 0xda0)->value = rows[i].xss;
        *control(sim, NVMX_VMCS_XSS_EXITING_BITMAP) = rows[i].bitmap;
        for (uint32_t reason = NVMX_EXIT_XSAVES; reason <= NVMX_EXIT_XRSTORS; reason++)
            cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = reason}), rows[i].l1,
                         "row %zu", i);
    }
    sim_msr(sim, 0xda0)->refuse_read = true;
    sim->regs.gpr[NVMX_RAX] = 0x100;
    *control(sim, NVMX_VMCS_XSS_EXITING_BITMAP) = 0x100;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_XSAVES}),
              "an unknown IA32_XSS counts as all ones");
    sim->regs.gpr[NVMX_RAX] = 0;
    sim->regs.gpr[NVMX_RDX] = 0;
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_XSAVES}),
                  "nothing asked for");
    sim->regs.gpr[NVMX_RAX] = 0x100;
    *control(sim, NVMX_VMCS_SECONDARY_CONTROLS) &= ~(UINT64_C(1) << 20);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_XSAVES}),
                  "no such instruction");
    sim_free(sim);
}

/* SDM 28.1.3 ENCLS: a bit for each leaf function below 63, and one for all others. */
Test(route, encls) {
    struct sim *sim = l2_running(NULL);
    static const struct {
        uint64_t leaf, bitmap;
        bool l1;
    } rows[] = {{0, 1, true},
                {1, 1, false},
                {62, UINT64_C(1) << 62, true},
                {63, UINT64_C(1) << 63, true},
                {1000, UINT64_C(1) << 63, true},
                {1000, UINT64_MAX >> 1, false},
                {UINT64_C(5) << 32, 1, true}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct nvmx_l2_exit_info info = {.reason = NVMX_EXIT_ENCLS};
        sim->regs.gpr[NVMX_RAX] = rows[i].leaf;
        *control(sim, NVMX_VMCS_ENCLS_EXITING_BITMAP) = rows[i].bitmap;
        *control(sim, NVMX_VMCS_SECONDARY_CONTROLS) |= 1u << 15;
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), rows[i].l1, "row %zu", i);
        *control(sim, NVMX_VMCS_SECONDARY_CONTROLS) &= ~(UINT64_C(1) << 15);
        cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &info));
    }
    sim_free(sim);
}

/* -- exceptions and interrupts
 * ------------------------------------------------------------------------------------------------ */

static struct nvmx_l2_exit_info exception(uint32_t vector, uint32_t type, uint32_t error_code) {
    return (struct nvmx_l2_exit_info){
        .reason = NVMX_EXIT_EXCEPTION_OR_NMI,
        .interruption_info = EVENT_VALID | type << 8 | vector | (vector == 14 ? EVENT_ERROR_CODE : 0),
        .interruption_error_code = error_code,
    };
}

Test(route, exceptions_by_bitmap) {
    struct sim *sim = l2_running(NULL);
    for (uint32_t vector = 0; vector < 32; vector++) {
        struct nvmx_l2_exit_info info = exception(vector, vector == 3 ? 6 : 3, 0);
        *control(sim, NVMX_VMCS_EXCEPTION_BITMAP) = 1u << vector;
        routes_to(sim, &info, true, "wanted");
        *control(sim, NVMX_VMCS_EXCEPTION_BITMAP) = ~(1u << vector);
        routes_to(sim, &info, false, "not wanted");
    }
    sim_free(sim);
}

/* SDM 28.2: bit 14 as it is if error code AND mask equals match, else inverted. */
Test(route, page_faults_by_mask_and_match) {
    struct sim *sim = l2_running(NULL);
    static const uint32_t codes[] = {0, 1, 2, 4, 0x11, 0x15, 0x8000, 0xffffffff};
    for (uint32_t bit = 0; bit < 2; bit++)
        for (size_t mask = 0; mask < COUNT(codes); mask++)
            for (size_t match = 0; match < COUNT(codes); match++)
                for (size_t code = 0; code < COUNT(codes); code++) {
                    struct nvmx_l2_exit_info info = exception(14, 3, codes[code]);
                    *control(sim, NVMX_VMCS_EXCEPTION_BITMAP) = bit << 14;
                    *control(sim, NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MASK) = codes[mask];
                    *control(sim, NVMX_VMCS_PAGE_FAULT_ERROR_CODE_MATCH) = codes[match];
                    bool equal = (codes[code] & codes[mask]) == codes[match];
                    cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), equal == (bit != 0),
                                 "mask %#x match %#x code %#x", codes[mask], codes[match], codes[code]);
                }
    sim_free(sim);
}

/* A machine check that the host intercepts is the host's; an NMI or interrupt that it owns it keeps, and delivers by
 * nvmx_enter. */
Test(route, events_that_the_host_owns) {
    struct nvmx_l2_exit_info nmi = exception(2, 2, 0), machine_check = exception(18, 3, 0);
    struct nvmx_l2_exit_info interrupt = {.reason = NVMX_EXIT_EXTERNAL_INTERRUPT, .interruption_info = 0x80000030};

    for (unsigned int owns = 0; owns < 2; owns++) {
        for (unsigned int wants = 0; wants < 2; wants++) {
            struct sim *sim = l1_ready(&(struct sim_options){.external_interrupts = owns});
            l1_sets(sim, NVMX_VMCS_PIN_BASED_CONTROLS, wants ? 9 : 0);
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, wants ? 1u << 18 : 0);
            if (owns)
                host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << 18);
            launch(sim);
            const struct nvmx_l2_exit_info *events[] = {&nmi, &interrupt, &machine_check};
            for (size_t i = 0; i < COUNT(events); i++) {
                cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, events[i]), wants, "event %zu: vmcs12 decides", i);
                enum nvmx_next next = sim_exit_info(sim, events[i]);
                cr_expect_eq(next, wants && !owns ? NVMX_ENTER : NVMX_HOST, "event %zu owned %u wanted %u", i, owns,
                             wants);
                if (next == NVMX_ENTER) {
                    cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), events[i]->interruption_info);
                    resume(sim);
                }
            }
            sim_free(sim);
        }
    }
}

/*
 * SDM 7.15, 10.1.2.3: an alignment check without CR0.AM, RFLAGS.AC and CPL 3 is a split lock. A host that has its processor detect those intercepts #AC, and
 * keeps such: L1's processor has no such feature. What L2 asked for is L1's, and all where the host does not intercept it.
 */
Test(route, split_locks_that_the_host_detects) {
    const struct nvmx_l2_exit_info info = exception(17, 3, 0);
    for (unsigned int k = 0; k < 16; k++) {
        bool host = k & 1, am = k & 2, ac = k & 4, user = k & 8;
        struct sim *sim = l1_ready(NULL);
        l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, 1u << 17);
        if (host)
            host_sets(sim, NVMX_F_EXCEPTION_BITMAP, 1u << 17);
        launch(sim);
        sim_set(sim, sim->selected, NVMX_F_GUEST_CR0, (vmcs02(sim, NVMX_F_GUEST_CR0) & ~(uint64_t)CR0_AM) | (am ? CR0_AM : 0));
        sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 2 | (ac ? RFLAGS_AC : 0));
        sim_set(sim, sim->selected, NVMX_F_GUEST_SS_ACCESS_RIGHTS, user ? 0xc0f3 : 0xc093);
        bool split = !am || !ac || !user;
        cr_expect_eq(sim_exit_info(sim, &info), host && split ? NVMX_HOST : NVMX_ENTER, "%u", k);
        cr_expect_eq(nvmx_mode(sim->vcpu), host && split ? NVMX_MODE_L2 : NVMX_MODE_ROOT, "%u", k);
        if (host && split) { /* an L1 that has the feature from the host, gets it from the host */
            cr_expect(nvmx_l1_intercepts(sim->vcpu, &info));
            cr_expect_eq(nvmx_l2_exit(sim->vcpu, &info), NVMX_ENTER);
        }
        cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), info.interruption_info, "%u", k);
        sim_free(sim);
    }
}

/* -- control registers
 * ----------------------------------------------------------------------------------------------------------- */

static struct nvmx_l2_exit_info cr_access(uint64_t qualification) {
    return (struct nvmx_l2_exit_info){.reason = NVMX_EXIT_CONTROL_REGISTER, .qualification = qualification};
}

static bool l1_wants_mov_to(struct sim *sim, unsigned int cr, uint64_t value) {
    sim->regs.gpr[9] = value;
    struct nvmx_l2_exit_info info = cr_access(cr | 9u << 8);
    return nvmx_l1_intercepts(sim->vcpu, &info);
}

Test(route, mov_to_cr0_and_cr4) {
    struct sim *sim = l2_running(NULL);
    static const struct {
        unsigned int cr;
        uint32_t mask, shadow;
    } crs[] = {
        {0, NVMX_VMCS_CR0_GUEST_HOST_MASK, NVMX_VMCS_CR0_READ_SHADOW},
        {4, NVMX_VMCS_CR4_GUEST_HOST_MASK, NVMX_VMCS_CR4_READ_SHADOW},
    };
    for (size_t i = 0; i < COUNT(crs); i++) {
        *control(sim, crs[i].mask) = UINT64_C(0x8000000f0);
        *control(sim, crs[i].shadow) = UINT64_C(0x800000050);
        cr_expect_not(l1_wants_mov_to(sim, crs[i].cr, UINT64_C(0x800000050)));
        cr_expect_not(l1_wants_mov_to(sim, crs[i].cr, UINT64_C(0x80000ff5f)), "only masked bits count");
        cr_expect(l1_wants_mov_to(sim, crs[i].cr, UINT64_C(0x800000051) ^ 0x10));
        cr_expect(l1_wants_mov_to(sim, crs[i].cr, 0x50), "high bits count in 64-bit mode");
    }
    sim_set(sim, sim->selected, NVMX_F_GUEST_RSP, UINT64_C(0x8000000a0));
    struct nvmx_l2_exit_info from_rsp = cr_access(0 | 4u << 8);
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &from_rsp), "RSP is in the VMCS");
    sim_set(sim, sim->selected, NVMX_F_GUEST_RSP, UINT64_C(0x800000050));
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &from_rsp));
    sim_free(sim);
}

/* Outside 64-bit mode the instruction has 32-bit operands. */
Test(route, mov_to_cr_with_32_bit_operands) {
    struct sim *sim = l2_running(NULL);
    *control(sim, NVMX_VMCS_CR0_GUEST_HOST_MASK) = UINT64_MAX;
    *control(sim, NVMX_VMCS_CR0_READ_SHADOW) = 0x80000031;
    sim_set(sim, sim->selected, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xc09b);
    cr_expect_not(l1_wants_mov_to(sim, 0, UINT64_C(0xdead000080000031)));
    sim_set(sim, sim->selected, NVMX_F_GUEST_CS_ACCESS_RIGHTS, 0xa09b);
    cr_expect(l1_wants_mov_to(sim, 0, UINT64_C(0xdead000080000031)));
    sim_free(sim);
}

Test(route, cr3_and_its_targets) {
    struct sim *sim = l2_running(NULL);
    uint64_t *primary = control(sim, NVMX_VMCS_PRIMARY_CONTROLS), p = *primary & ~(UINT64_C(3) << 15);
    for (uint32_t i = 0; i < 4; i++)
        *control(sim, NVMX_VMCS_CR3_TARGET_VALUE_0 + 2 * i) = 0x1000 * (i + 1);
    for (uint64_t targets = 0; targets <= 4; targets++) {
        *control(sim, NVMX_VMCS_CR3_TARGET_COUNT) = targets;
        for (uint64_t value = 1; value <= 5; value++) {
            *primary = p | 1u << 15;
            cr_expect_eq(l1_wants_mov_to(sim, 3, 0x1000 * value), value > targets, "%lu targets, value %lu", targets,
                         value);
            *primary = p;
            cr_expect_not(l1_wants_mov_to(sim, 3, 0x1000 * value));
        }
    }
    struct nvmx_l2_exit_info from = cr_access(3 | 1u << 4);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &from));
    *primary = p | 1u << 16;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &from));
    sim_free(sim);
}

Test(route, cr8) {
    struct sim *sim = l2_running(NULL);
    uint64_t *primary = control(sim, NVMX_VMCS_PRIMARY_CONTROLS), p = *primary & ~(UINT64_C(3) << 19);
    for (unsigned int bits = 0; bits < 4; bits++) {
        struct nvmx_l2_exit_info from = cr_access(8 | 1u << 4);
        *primary = p | bits << 19;
        cr_expect_eq(l1_wants_mov_to(sim, 8, 3), bits & 1);
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &from), bits >> 1);
    }
    sim_free(sim);
}

/* There are no others: what no processor reports is the host's, whatever L1 wants. */
Test(route, control_registers_that_do_not_exist) {
    struct sim *sim = l2_running(NULL);
    *control(sim, NVMX_VMCS_PRIMARY_CONTROLS) |= 1u << 15 | 1u << 16 | 1u << 19 | 1u << 20;
    *control(sim, NVMX_VMCS_CR0_GUEST_HOST_MASK) = *control(sim, NVMX_VMCS_CR4_GUEST_HOST_MASK) = UINT64_MAX;
    for (unsigned int cr = 1; cr < 16; cr++) {
        struct nvmx_l2_exit_info to = cr_access(cr), from = cr_access(cr | 1u << 4);
        if (cr == 3 || cr == 4 || cr == 8)
            continue;
        routes_to(sim, &to, false, "MOV to CR");
        routes_to(sim, &from, false, "MOV from CR");
    }
    sim_free(sim);
}

/* SDM 28.1.3: CLTS by bit 3; LMSW by bits 3:1, and by bit 0 only where it would be set. */
Test(route, clts_and_lmsw) {
    struct sim *sim = l2_running(NULL);
    for (uint64_t mask = 0; mask < 16; mask++)
        for (uint64_t shadow = 0; shadow < 16; shadow++) {
            struct nvmx_l2_exit_info clts = cr_access(2u << 4);
            *control(sim, NVMX_VMCS_CR0_GUEST_HOST_MASK) = mask;
            *control(sim, NVMX_VMCS_CR0_READ_SHADOW) = shadow;
            cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &clts), (mask & 8) && (shadow & 8), "CLTS %lu %lu", mask,
                         shadow);
            for (uint64_t source = 0; source < 16; source++) {
                struct nvmx_l2_exit_info lmsw = cr_access(3u << 4 | source << 16);
                bool wanted = false;
                for (unsigned int bit = 1; bit < 4; bit++)
                    wanted = wanted || (((mask >> bit) & 1) && ((shadow ^ source) >> bit & 1));
                wanted = wanted || ((mask & 1) && (source & 1) && !(shadow & 1));
                cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &lmsw), wanted, "LMSW %lu %lu %lu", mask, shadow, source);
            }
        }
    sim_free(sim);
}

/* -- ports
 * -------------------------------------------------------------------------------------------------------------------------
 */

static struct nvmx_l2_exit_info port_access(uint32_t port, uint32_t bytes) {
    return (struct nvmx_l2_exit_info){.reason = NVMX_EXIT_IO_INSTRUCTION,
                                      .qualification = (uint64_t)port << 16 | (bytes - 1)};
}

static void set_port_bit(struct sim *sim, uint32_t port, bool set) {
    uint64_t at = (port >> 15 ? SIM_L1_IO_BITMAP_B : SIM_L1_IO_BITMAP_A) + (port & 0x7fff) / 8;
    uint8_t byte = sim->ram[at];
    byte = (uint8_t)(set ? byte | 1u << (port % 8) : byte & ~(1u << (port % 8)));
    sim_write(sim, at, &byte, 1);
}

static void use_io_bitmaps(struct sim *sim) {
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_A_ADDRESS, SIM_L1_IO_BITMAP_A);
    l1_writes(sim, NVMX_VMCS_IO_BITMAP_B_ADDRESS, SIM_L1_IO_BITMAP_B);
    l1_clears(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 24);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 25);
}

Test(route, ports_without_bitmaps) {
    struct sim *sim = l2_running(NULL);
    uint64_t *primary = control(sim, NVMX_VMCS_PRIMARY_CONTROLS);
    struct nvmx_l2_exit_info info = port_access(0x3f8, 1);
    *primary = (*primary & ~(UINT64_C(3) << 24)) | 1u << 24;
    cr_expect(nvmx_l1_intercepts(sim->vcpu, &info));
    *primary &= ~(UINT64_C(3) << 24);
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &info));
    sim_free(sim);
}

/* Any port of the access counts, across the two bitmaps too; "unconditional" does not count beside bitmaps. */
Test(route, ports_by_bitmap) {
    struct sim *sim = l1_ready(NULL);
    static const uint32_t ports[] = {0, 7, 8, 0x3f8, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfff8};
    static const uint32_t sizes[] = {1, 2, 4};
    use_io_bitmaps(sim);
    l1_sets(sim, NVMX_VMCS_PRIMARY_CONTROLS, 1u << 24);
    launch(sim);
    for (size_t p = 0; p < COUNT(ports); p++) {
        set_port_bit(sim, ports[p], true);
        for (uint32_t first = ports[p] < 4 ? 0 : ports[p] - 4; first <= ports[p] + 1; first++)
            for (size_t s = 0; s < COUNT(sizes); s++) {
                struct nvmx_l2_exit_info info = port_access(first, sizes[s]);
                bool hit = ports[p] >= first && ports[p] < first + sizes[s];
                cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), hit, "bit %#x, %u bytes at %#x", ports[p], sizes[s],
                             first);
            }
        set_port_bit(sim, ports[p], false);
    }
    sim_free(sim);
}

/* SDM 28.1.3: an access that wraps around the 16-bit space exits whatever the bitmaps say. */
Test(route, ports_that_wrap) {
    struct sim *sim = l1_ready(NULL);
    use_io_bitmaps(sim);
    launch(sim);
    static const struct {
        uint32_t port, bytes;
        bool l1;
    } rows[] = {{0xffff, 1, false}, {0xffff, 2, true}, {0xfffe, 2, false}, {0xfffd, 4, true}, {0xfffc, 4, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct nvmx_l2_exit_info info = port_access(rows[i].port, rows[i].bytes);
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &info), rows[i].l1, "row %zu", i);
    }
    sim_free(sim);
}

/* A bitmap page without memory behind it reads as all ones. */
Test(route, bitmaps_without_memory) {
    struct sim *sim = l1_ready(NULL);
    use_io_bitmaps(sim);
    sim_ept01(sim, SIM_L1_IO_BITMAP_A, 0x1000, 0, 12, 0, 0);
    sim_ept01(sim, SIM_L1_MSR_BITMAP, 0x1000, 0, 12, 0, 0);
    launch(sim);
    struct nvmx_l2_exit_info port = port_access(0x80, 1), other = port_access(0x8080, 1);
    routes_to(sim, &port, true, "port");
    cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &other));
    sim->regs.gpr[NVMX_RCX] = 0x174;
    routes_to(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_RDMSR}, true, "MSR");
    sim_free(sim);
}

/* -- MSRs
 * -------------------------------------------------------------------------------------------------------------------------------
 */

static bool l1_wants_msr(struct sim *sim, uint32_t index, bool write) {
    struct nvmx_l2_exit_info info = {.reason = write ? NVMX_EXIT_WRMSR : NVMX_EXIT_RDMSR};
    sim->regs.gpr[NVMX_RCX] = index | UINT64_C(0xabc) << 32;
    return nvmx_l1_intercepts(sim->vcpu, &info);
}

/* SDM 27.6.9: four halves of a page, by range and by direction; all other indexes exit. */
Test(route, msrs_by_bitmap) {
    struct sim *sim = l2_running(NULL);
    static const struct {
        uint32_t index, byte;
    } rows[] = {{0, 0},
                {0x174, 0x174 / 8},
                {0x1fff, 0x3ff},
                {0xc0000000, 0x400},
                {0xc0000102, 0x400 + 0x102 / 8},
                {0xc0001fff, 0x7ff}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int direction = 0; direction < 2; direction++) {
            uint8_t bit = (uint8_t)(1u << (rows[i].index % 8)), none = 0;
            sim_write(sim, SIM_L1_MSR_BITMAP + rows[i].byte + direction * 0x800, &bit, 1);
            cr_expect_eq(l1_wants_msr(sim, rows[i].index, false), direction == 0, "MSR %#x", rows[i].index);
            cr_expect_eq(l1_wants_msr(sim, rows[i].index, true), direction == 1, "MSR %#x", rows[i].index);
            sim_write(sim, SIM_L1_MSR_BITMAP + rows[i].byte + direction * 0x800, &none, 1);
        }
        cr_expect_not(l1_wants_msr(sim, rows[i].index, false) || l1_wants_msr(sim, rows[i].index, true));
    }
    static const uint32_t outside[] = {0x2000, 0x40000000, 0xbfffffff, 0xc0002000, 0xffffffff};
    for (size_t i = 0; i < COUNT(outside); i++)
        cr_expect(l1_wants_msr(sim, outside[i], false) && l1_wants_msr(sim, outside[i], true), "MSR %#x", outside[i]);
    *control(sim, NVMX_VMCS_PRIMARY_CONTROLS) &= ~(UINT64_C(1) << 28);
    cr_expect(l1_wants_msr(sim, 0x174, false), "without bitmaps all exit");
    sim_free(sim);
}

/* -- what nobody wants
 * ----------------------------------------------------------------------------------------------------------------------
 */

static bool exits_in_vmcs02(struct sim *sim, uint32_t index, bool write) {
    const uint8_t *page = sim_page(sim, vmcs02(sim, NVMX_F_MSR_BITMAP_ADDRESS));
    if ((vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) >> 28 & 1) == 0)
        return true;
    return bitmap_test(page, bitmap_msr_bit(index, write));
}

/* The first access exits, is let through, and from then on does not exit any more. */
Test(route, an_msr_that_nobody_wants_is_let_through) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    launch(sim);
    cr_expect(exits_in_vmcs02(sim, 0x174, false), "cold");
    sim->regs.gpr[NVMX_RCX] = 0x174;
    cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), 0x1000, "L2 executes it again");
    cr_expect_not(exits_in_vmcs02(sim, 0x174, false), "hot");
    cr_expect(exits_in_vmcs02(sim, 0x480, false), "the host's intercepts stay");
    cr_expect(exits_in_vmcs02(sim, 0x174, true), "the other direction is another word");

    uint8_t bit = 1u << (0x174 % 8);
    l2_leaves(sim);
    sim_write(sim, SIM_L1_MSR_BITMAP + 0x174 / 8, &bit, 1);
    resume(sim);
    cr_expect(exits_in_vmcs02(sim, 0x174, false), "L1 wants it now");
    routes_to(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_RDMSR}, true, "L1 wants it now");
    sim_free(sim);
}

/* What the host intercepts is the host's, whatever was learned. */
Test(route, an_msr_that_the_host_wants) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    launch(sim);
    sim->regs.gpr[NVMX_RCX] = 0x3a;
    routes_to(sim, &(struct nvmx_l2_exit_info){.reason = NVMX_EXIT_RDMSR}, false, "IA32_FEATURE_CONTROL");
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    sim_free(sim);
}

/*
 * vmcs02 uses no MSR bitmap, or an I/O bitmap of ones, since L1's had no memory behind it when it was merged. L1's bitmap is back and does not want
 * the access: it is not tried again and again, and it is not the host's either.
 */
Test(route, bitmaps_that_come_back) {
    static const uint64_t gone[] = {SIM_L1_MSR_BITMAP, SIM_L1_IO_BITMAP_B};
    static const struct nvmx_l2_exit_info accesses[] = {
        {.reason = NVMX_EXIT_RDMSR},
        {.reason = NVMX_EXIT_IO_INSTRUCTION, .qualification = UINT64_C(0x8080) << 16},
    };
    for (size_t i = 0; i < COUNT(gone); i++) {
        struct sim *sim = l1_ready(NULL);
        host_gives_bitmaps(sim);
        if (i == 1)
            host_sets(sim, NVMX_F_PRIMARY_CONTROLS, vmcs01(sim, NVMX_F_PRIMARY_CONTROLS) & ~(UINT64_C(1) << 25));
        use_io_bitmaps(sim);
        launch(sim);
        sim->regs.gpr[NVMX_RCX] = 0x174;
        if (i == 0)
            cr_assert_eq(sim_exit_info(sim, &accesses[i]), NVMX_ENTER);
        l2_leaves(sim);
        sim_ept01(sim, gone[i], 0x1000, 0, 12, 0, 0);
        nvmx_memory_changed(sim->vcpu, gone[i], 0x1000);
        resume(sim);
        uint32_t used = i == 0 ? PROC_MSR_BITMAPS : PROC_IO_BITMAPS;
        cr_assert_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & used, i == 0 ? 0 : used);
        cr_assert(i == 0 || bitmap_test(sim_page(sim, vmcs02(sim, NVMX_F_IO_BITMAP_B_ADDRESS)), 0x80));
        sim_ept01(sim, gone[i], 0x1000, SIM_HPA_OFFSET + gone[i], 12, 7, 6);
        cr_assert_eq(sim_exit_info(sim, &accesses[i]), NVMX_ENTER, "row %zu", i);
        cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
        cr_assert_eq(sim_enter(sim, NULL), NVMX_ENTER);
        cr_expect_eq(vmcs02(sim, NVMX_F_PRIMARY_CONTROLS) & used, used, "row %zu: in use again", i);
        cr_expect_not(i == 1 && bitmap_test(sim_page(sim, vmcs02(sim, NVMX_F_IO_BITMAP_B_ADDRESS)), 0x80));
        sim_free(sim);
    }
}

Test(route, a_port_that_nobody_wants_is_let_through) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    use_io_bitmaps(sim);
    launch(sim);
    struct nvmx_l2_exit_info info = port_access(0x7ffe, 4);
    cr_assert_eq(sim_exit_info(sim, &info), NVMX_ENTER);
    cr_expect_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
    for (uint32_t port = 0x7ffe; port < 0x8002; port++) {
        const void *page = sim_page(sim, vmcs02(sim, (enum nvmx_field)(NVMX_F_IO_BITMAP_A_ADDRESS + (port >> 15))));
        cr_expect_not(bitmap_test(page, port & 0x7fff), "port %#x", port);
    }
    sim->host_io_bitmap[0][0x60 / 8] = 1;
    info = port_access(0x60, 1);
    cr_expect_eq(sim_exit_info(sim, &info), NVMX_HOST, "the host's");
    sim_free(sim);
}

/* More hot words than are listed: all words are merged. */
Test(route, many_learned_words) {
    struct sim *sim = l1_ready(NULL);
    host_gives_bitmaps(sim);
    launch(sim);
    for (uint32_t index = 0; index < 0x1fff; index += 64) {
        if (index == 0 || index == 0x480)
            continue; /* words with IA32_FEATURE_CONTROL and capabilities */
        sim->regs.gpr[NVMX_RCX] = index;
        cr_assert_eq(sim_exit(sim, NVMX_EXIT_RDMSR, 0, 0, 2), NVMX_ENTER, "MSR %#x", index);
        cr_assert_not(exits_in_vmcs02(sim, index, false), "MSR %#x", index);
    }
    cr_expect(exits_in_vmcs02(sim, 0x3a, false) && exits_in_vmcs02(sim, 0x48b, false), "the host's intercepts stay");
    sim_free(sim);
}

/* SDM 33.3, INVEPT and INVVPID: #UD comes before the VM exit, on a processor without EPT or VPIDs. */
Test(route, l2_has_no_instruction_that_l1_has_not) {
    static const struct {
        uint32_t reason;
        unsigned int secondary; /* that L1 lacks */
    } rows[] = {{NVMX_EXIT_INVEPT, 33}, {NVMX_EXIT_INVVPID, 37}};

    for (size_t i = 0; i < COUNT(rows); i++) {
        for (unsigned int exits = 0; exits < 2; exits++) {
            struct nvmx_caps mask;
            sim_machine(&mask);
            mask.msr[NVMX_CAP_PROCBASED2] &= ~(UINT64_C(1) << rows[i].secondary);
            struct sim_options options = {.mask = &mask};
            struct sim *sim = l1_ready(&options);
            l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, exits << 6);
            launch(sim);
            struct nvmx_l2_exit_info info = {.reason = rows[i].reason, .instruction_length = 5};
            uint64_t rip = vmcs02(sim, NVMX_F_GUEST_RIP);

            cr_expect_not(nvmx_l1_intercepts(sim->vcpu, &info), "reason %u", rows[i].reason);
            cr_expect_eq(sim_exit_info(sim, &info), NVMX_ENTER);
            if (exits) {
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXCEPTION_OR_NMI);
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000306);
                cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RIP), rip);
            } else {
                cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_L2);
                cr_expect_eq(vmcs02(sim, NVMX_F_VM_ENTRY_INTERRUPTION_INFO), 0x80000306);
                cr_expect_eq(vmcs02(sim, NVMX_F_GUEST_RIP), rip);
                cr_expect(vmcs02(sim, NVMX_F_GUEST_RFLAGS) & 0x10000, "a fault sets RF");
            }
            sim_free(sim);
        }
    }
}

/* As the bare-metal host does it with the #GP of an RDMSR that L1 lets through: asked first, then given to whom it belongs. */
Test(route, an_exception_that_the_host_has_for_l2) {
    for (unsigned int exits = 0; exits < 2; exits++) {
        struct sim *sim = l1_ready(NULL);
        const struct nvmx_l2_exit_info fault = {.reason = NVMX_EXIT_EXCEPTION_OR_NMI, .interruption_info = 0x80000b0d, .interruption_error_code = 0};
        l1_writes(sim, NVMX_VMCS_EXCEPTION_BITMAP, exits << 13);
        launch(sim);
        cr_expect_eq(nvmx_l1_intercepts(sim->vcpu, &fault), exits);
        if (exits) {
            sim_set(sim, sim->selected, NVMX_F_GUEST_RFLAGS, 0x10002);
            cr_expect_eq(nvmx_l2_exit(sim->vcpu, &fault), NVMX_ENTER);
            cr_assert_eq(nvmx_mode(sim->vcpu), NVMX_MODE_ROOT);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_EXIT_REASON), NVMX_EXIT_EXCEPTION_OR_NMI);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_VM_EXIT_INTERRUPTION_INFO), 0x80000b0d);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_GUEST_RFLAGS), 0x10002);
            cr_expect_eq(l1_reads(sim, NVMX_VMCS_IDT_VECTORING_INFO), 0);
        }
        sim_free(sim);
    }
}
