/* SPDX-License-Identifier: MIT */
/*
 * Pure functions of the model, on any capabilities: what L1 is offered, what is a subset of it, what is legal in CR0 and CR4, what stands in the way.
 *
 * Held: L1 is offered what the machine has and the mask grants, and nothing else; that is a subset of itself and of more, and what has a bit more is none;
 * a reason is given for each bit that is missing, and only for these; findings come once each, in order, as many as there is room for; a host is ready if
 * no finding is an error, and what a finding asks to be set repairs it; texts are there for any number.
 *
 * A VM and a vCPU of any description are made or refused.
 *
 * Input: what of the machine is other than the simulated one, what the mask lacks, facts, numbers, a description.
 */
#include <nvmx/exits.h>
#include <nvmx/readiness.h>
#include <nvmx/state.h>
#include <nvmx/state_kvm.h>
#include <string.h>

#include "fuzz.h"

#define U(value) ((unsigned long long)(value))
#define BIT(value, n) (((value) >> (n)) & 1)
#define GUARD 0xa7

static void change_caps(struct fuzz_input *in, struct nvmx_caps *caps, const char *whose) {
    uint8_t changes = fuzz_u8(in) % 16;
    for (uint8_t i = 0; i < changes; i++) {
        uint8_t which = fuzz_u8(in);
        uint64_t bits = fuzz_value(in);
        if (which % 32 < NVMX_CAP_MSRS) {
            caps->msr[which % 32] ^= which & 32 ? bits << 32 : bits;
            fuzz_log("%s: MSR %#x is %#llx", whose, 0x480u + which % 32u, U(caps->msr[which % 32]));
        } else if (which % 4 == 0) {
            caps->cpu ^= (uint32_t)bits;
        } else if (which % 4 == 1) {
            caps->physical_address_bits = (uint8_t)(32 + bits % 21);
        } else {
            caps->feature_control ^= bits;
        }
    }
}

/* A processor may have what it must have: allowed-0 settings and fixed bits are among the allowed-1 ones; TRUE MSRs allow no more to be 1 (SDM A.2-A.8). */
static void make_sane(struct nvmx_caps *caps) {
    caps->msr[NVMX_CAP_CR0_FIXED1] |= caps->msr[NVMX_CAP_CR0_FIXED0];
    caps->msr[NVMX_CAP_CR4_FIXED1] |= caps->msr[NVMX_CAP_CR4_FIXED0];
    caps->msr[NVMX_CAP_PROCBASED2] &= ~(uint64_t)UINT32_MAX;
    for (unsigned int i = 0; i < 4; i++) {
        uint64_t *plain = &caps->msr[NVMX_CAP_PINBASED + i], *exact = &caps->msr[NVMX_CAP_TRUE_PINBASED + i];
        *plain |= *plain << 32;
        *exact = (*plain & ~(uint64_t)UINT32_MAX) | (*exact & *plain & UINT32_MAX);
    }
}

/* -- capabilities ----------------------------------------------------------------------------------------------------------------------- */

/* SDM A.7, A.8 and 25.8. */
static void check_cr(const struct nvmx_caps *caps, unsigned int cr, uint64_t value, bool unrestricted) {
    uint64_t fixed0 = caps->msr[cr ? NVMX_CAP_CR4_FIXED0 : NVMX_CAP_CR0_FIXED0], fixed1 = caps->msr[cr ? NVMX_CAP_CR4_FIXED1 : NVMX_CAP_CR0_FIXED1];
    if (unrestricted && cr == 0)
        fixed0 &= ~UINT64_C(0x80000001);
    bool legal = (value & fixed0) == fixed0 && (value & ~fixed1) == 0;
    FUZZ_HOLD(nvmx_cr_fixed_ok(caps, cr, value, unrestricted) == legal, "CR%u = %#llx, fixed %#llx %#llx", cr, U(value), U(fixed0), U(fixed1));
}

static void check_canonical(const struct nvmx_caps *caps, uint64_t linear) {
    unsigned int bits = caps->cpu & NVMX_CPU_LA57 ? 57 : 48;
    uint64_t high = linear >> (bits - 1);
    FUZZ_HOLD(nvmx_is_canonical(caps, linear) == (high == 0 || high == UINT64_MAX >> (bits - 1)), "%#llx of %u bits", U(linear), bits);
}

/* A bit of a row says whether L1 has it; where it has not, why. */
static void check_reasons(const struct nvmx_caps *machine, const struct nvmx_caps *mask, const struct nvmx_caps *l1) {
    size_t row = 0;
    for (const struct nvmx_cap_bit *bit; (bit = nvmx_cap_bit(row)) != NULL; row++) {
        enum nvmx_cap_reason reason = nvmx_cap_bit_reason(row, machine, mask, l1);
        if (bit->width != 1 || (bit->msr >= 0x486 && bit->msr <= 0x489))
            continue;
        bool has = BIT(l1->msr[bit->msr - 0x480], bit->bit), there = BIT(machine->msr[bit->msr - 0x480], bit->bit);
        FUZZ_HOLD((reason == NVMX_CAP_OFFERED) == has, "MSR %#x, bit %u (%s): L1 %s it, reason %d", bit->msr, bit->bit, bit->name, has ? "has" : "lacks",
                  (int)reason);
        FUZZ_HOLD(reason != NVMX_CAP_NOT_ON_CPU || !there, "MSR %#x, bit %u is on the CPU", bit->msr, bit->bit);
    }
    FUZZ_HOLD(nvmx_cap_bit_reason(row, machine, mask, l1) == NVMX_CAP_NOT_ON_CPU, "past the last row");
}

/* Fields of which L1 may not have more than there is: a bit of VPID, EPT or VM functions. */
static void check_one_more(const struct nvmx_caps *l1, const struct nvmx_caps *most, uint8_t which) {
    static const uint8_t places[] = {NVMX_CAP_EPT_VPID, NVMX_CAP_VMFUNC, NVMX_CAP_PROCBASED3};
    struct nvmx_caps more = *l1;
    unsigned int place = places[which % 3];
    more.msr[place] |= UINT64_C(1) << (which / 4);
    if ((more.msr[place] & ~most->msr[place]) == 0)
        return;
    uint32_t msr = 0;
    FUZZ_HOLD(nvmx_caps_check_subset(&more, most, &msr) == NVMX_E_DENIED && msr != 0, "MSR %#x may be %#llx", 0x480u + place, U(more.msr[place]));
}

static void check_caps(struct fuzz_input *in, const struct nvmx_caps *machine, const struct nvmx_caps *mask) {
    struct nvmx_caps l1, most;
    enum nvmx_status status = nvmx_caps_for_l1(machine, mask, &l1);
    fuzz_log("offered: %s", nvmx_status_text(status));
    if (status != NVMX_OK)
        return;
    for (unsigned int which = 0; which < NVMX_CAP_MSRS; which++)
        if (which >= NVMX_CAP_PINBASED && which <= NVMX_CAP_ENTRY) {
            uint32_t must = nvmx_caps_must_be_1(&l1, (enum nvmx_cap)which), may = nvmx_caps_may_be_1(&l1, (enum nvmx_cap)which);
            FUZZ_HOLD((must & ~may) == 0, "controls of %#x must be 1 and may not: %#x", 0x480u + which, must & ~may);
        }
    check_reasons(machine, mask, &l1);
    FUZZ_HOLD(nvmx_caps_check_subset(&l1, &l1, NULL) == NVMX_OK, "what is offered is no subset of itself");
    if (nvmx_caps_for_l1(machine, NULL, &most) == NVMX_OK) {
        uint32_t msr = 0;
        FUZZ_HOLD(nvmx_caps_check_subset(&l1, &most, &msr) == NVMX_OK, "what the mask leaves is no subset: MSR %#x", msr);
        check_one_more(&l1, &most, fuzz_u8(in));
    }
    uint8_t what = fuzz_u8(in);
    check_cr(&l1, what & 4, fuzz_value(in), what & 1);
    check_canonical(&l1, fuzz_value(in));
}

/* -- readiness ------------------------------------------------------------------------------------------------------------------------------- */

static bool found(const struct nvmx_finding *all, size_t count, uint16_t id) {
    bool there = false;
    for (size_t i = 0; i < count; i++)
        there = there || all[i].id == id;
    return there;
}

/* The settings that repair findings do. */
static void repair(struct nvmx_readiness_facts facts, const struct nvmx_finding *all, size_t count) {
    struct nvmx_finding after[NVMX_FINDING_COUNT];
    for (size_t i = 0; i < count; i++) {
        if (all[i].setting == NVMX_SETTING_EXPOSE)
            facts.vm |= NVMX_VM_EXPOSE;
        else if (all[i].setting == NVMX_SETTING_MEMORY)
            facts.memory_bytes = all[i].value;
        else if (all[i].setting == NVMX_SETTING_MAC_SPOOFING)
            facts.vm |= NVMX_VM_MAC_SPOOFING;
    }
    size_t left = nvmx_readiness(&facts, after, NVMX_FINDING_COUNT);
    for (size_t i = 0; i < count; i++)
        FUZZ_HOLD(all[i].setting == NVMX_SETTING_NONE || !found(after, left, all[i].id), "%s is still so after its setting", all[i].name);
}

static void check_readiness(struct fuzz_input *in, const struct nvmx_caps *machine) {
    struct nvmx_finding all[NVMX_FINDING_COUNT], some[NVMX_FINDING_COUNT];
    struct nvmx_readiness_facts facts = {.size = sizeof(facts), .caps = *machine};
    facts.machine = fuzz_u8(in);
    facts.vm = fuzz_u8(in);
    facts.vendor = fuzz_u8(in) % 5u;
    facts.memory_bytes = fuzz_u8(in) * (UINT64_C(1) << 28);
    size_t room = fuzz_u8(in) % (NVMX_FINDING_COUNT + 1u), count = nvmx_readiness(&facts, all, NVMX_FINDING_COUNT);
    bool bad[2] = {false, false};
    FUZZ_HOLD(count <= NVMX_FINDING_COUNT, "%zu findings", count);
    for (size_t i = 0; i < count; i++) {
        fuzz_log("%s: %s", nvmx_severity_text((enum nvmx_severity)all[i].severity), all[i].name);
        FUZZ_HOLD(all[i].message && all[i].remedy && (i == 0 || all[i - 1].id < all[i].id), "finding %zu", i);
        bad[all[i].about & 1] = bad[all[i].about & 1] || all[i].severity == NVMX_ERROR;
    }
    for (unsigned int about = 0; about < 2; about++)
        FUZZ_HOLD(nvmx_is_ready(&facts, (enum nvmx_finding_about)about) == !bad[about], "ready, or not: about %u", about);
    memset(some, GUARD, sizeof(some));
    FUZZ_HOLD(nvmx_readiness(&facts, some, room) == count, "another number of findings with room for %zu", room);
    FUZZ_HOLD(memcmp(some, all, (room < count ? room : count) * sizeof(some[0])) == 0, "other findings with room for %zu", room);
    for (size_t i = room * sizeof(some[0]); i < sizeof(some); i++)
        FUZZ_HOLD(((const uint8_t *)some)[i] == GUARD, "byte %zu is written, there was room for %zu findings", i, room);
    repair(facts, all, count);
    facts.size--;
    FUZZ_HOLD(nvmx_readiness(&facts, NULL, 0) == 0 && !nvmx_is_ready(&facts, NVMX_ABOUT_VM), "facts of another size");
}

/* -- texts -------------------------------------------------------------------------------------------------------------------------------------- */

static void check_texts(uint32_t number) {
    const char *texts[] = {
        nvmx_status_text((enum nvmx_status)number), nvmx_state_reason_text((enum nvmx_state_reason)number), nvmx_kvm_note_text(number),
        nvmx_severity_text((enum nvmx_severity)number), nvmx_trace_event_text((enum nvmx_trace_event)number),
        nvmx_trace_handler_text((enum nvmx_trace_handler)number),
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        FUZZ_HOLD(texts[i] != NULL && texts[i][0] != 0, "text %zu of %u", i, number);
    FUZZ_HOLD(nvmx_exit_name((uint16_t)number) == NULL || nvmx_exit_name((uint16_t)number)[0] != 0, "name of exit %u", number);
}

/* -- making a VM and a vCPU of any description -------------------------------------------------------------------------------------------------- */

#define OFFERED (sizeof(struct nvmx_host) / sizeof(void (*)(void)))

/* VMX is hidden from L1: it has a processor without it (nvmx.h). */
static void check_hidden(struct sim *sim, struct nvmx_vm *vm, struct nvmx_vcpu *vcpu, uint8_t number) {
    static const uint8_t instructions[] = {19, 20, 21, 22, 23, 24, 25, 26, 27, 50, 53, 59};
    uint32_t regs[4] = {1, 2, 1u << 5 | 1u << 3, 4}, msr = 0x480u + number % 20u;
    uint64_t value = 7;
    nvmx_cpuid(vm, 1, regs);
    FUZZ_HOLD(regs[2] == 1u << 3, "CPUID.1 shows ECX %#x", regs[2]);
    FUZZ_HOLD(nvmx_rdmsr(vcpu, msr, &value) == NVMX_MSR_FAULT && nvmx_rdmsr(vcpu, 0x3a, &value) == NVMX_MSR_FAULT && nvmx_wrmsr(vcpu, 0x3a, 5, true) == NVMX_MSR_FAULT && value == 7,
              "an MSR of VMX is there");
    FUZZ_HOLD(nvmx_rdmsr(vcpu, 0x10, &value) == NVMX_MSR_NOT_MINE, "another MSR is taken");
    FUZZ_HOLD(nvmx_cr_allowed(vcpu, 0, 0) && nvmx_cr_allowed(vcpu, 4, 0x20) && !nvmx_cr_allowed(vcpu, 4, 0x2020) && nvmx_cr_allowed(vcpu, 3, value), "CR4.VMXE");
    uint32_t reason = instructions[number % sizeof(instructions)];
    sim_set(sim, NVMX_VMCS01, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, 0);
    sim->queued_vector = -1;
    enum nvmx_next next = nvmx_exit(vcpu, reason);
    FUZZ_HOLD(next == NVMX_ENTER && sim_fault_vector(sim) == 6, "exit %u of an L1 without VMX: %d, exception %d", reason, (int)next, sim_fault_vector(sim));
}

/* What L1 may write, and a restore (SDM 25.7, A). */
static void check_msr_writes(struct nvmx_vcpu *vcpu, uint8_t number) {
    uint64_t value = 0;
    uint32_t msr = 0x480u + number % 20u;
    FUZZ_HOLD(nvmx_wrmsr(vcpu, 0x3a, 2, true) == NVMX_MSR_FAULT && nvmx_wrmsr(vcpu, 0x3a, 4, true) == NVMX_MSR_DONE, "IA32_FEATURE_CONTROL");
    FUZZ_HOLD(nvmx_wrmsr(vcpu, 0x3a, 5, true) == NVMX_MSR_DONE && nvmx_wrmsr(vcpu, 0x3a, 1, false) == NVMX_MSR_FAULT, "IA32_FEATURE_CONTROL is locked");
    if (nvmx_rdmsr(vcpu, msr, &value) == NVMX_MSR_DONE)
        FUZZ_HOLD(nvmx_wrmsr(vcpu, msr, value, true) == NVMX_MSR_DONE && nvmx_wrmsr(vcpu, msr, value ^ 1, true) == NVMX_MSR_FAULT && nvmx_wrmsr(vcpu, msr, value, false) == NVMX_MSR_FAULT,
                  "MSR %#x is written", msr);
}

/* Some callbacks left out, sizes and numbers changed: it works, or is refused with the reason; and what was refused once works when it is put right. */
static void check_making(struct fuzz_input *in) {
    static _Alignas(64) uint8_t vm_memory[1 << 20], vcpu_memory[1 << 20];
    static struct sim *sim;
    sim = sim ? sim : sim_new(&(struct sim_options){.host_composes = true, .deadline = true});
    struct nvmx_host host = sim->host, good = sim->host;
    struct nvmx_vm_config vm_config = {.size = sizeof(vm_config), .ctx = &sim->vm_context, .machine = sim->machine, .expose = true};
    bool hidden;
    struct nvmx_vcpu_config vcpu_config = {.size = sizeof(vcpu_config), .ctx = &sim->vcpu_context, .regs = &sim->regs, .shadow_hpa = NVMX_NO_ADDRESS, .vmcs02_slots = 1};
    struct nvmx_vm *vm = NULL;
    struct nvmx_vcpu *vcpu = NULL;
    FUZZ_HOLD(nvmx_vm_size() <= sizeof(vm_memory) && nvmx_vcpu_size() <= sizeof(vcpu_memory), "there is not memory enough in this harness");
    FUZZ_HOLD(nvmx_vm_init(NULL, sizeof(vm_memory), &host, &vm_config, &vm) == NVMX_E_INVALID && nvmx_vm_init(vm_memory, sizeof(vm_memory), NULL, &vm_config, &vm) == NVMX_E_INVALID &&
                  nvmx_vm_init(vm_memory, sizeof(vm_memory), &host, NULL, &vm) == NVMX_E_INVALID && nvmx_vm_init(vm_memory, sizeof(vm_memory), &host, &vm_config, NULL) == NVMX_E_INVALID &&
                  nvmx_vm_init(vm_memory + 1, sizeof(vm_memory) - 1, &host, &vm_config, &vm) == NVMX_E_INVALID, "a VM without something");
    uint8_t what = fuzz_u8(in), number = fuzz_u8(in);
    struct nvmx_vmcs12_layout layout;
    vm_config.expose = number < 0xa0 || number >= 0xc0;
    nvmx_kvm_layout(&layout);
    if (number >= 0xc0) {
        layout.offset[number % NVMX_FIELD_COUNT] = fuzz_u16(in);
        layout.launch_state ^= number & 1 ? fuzz_u16(in) : 0;
        layout.revision ^= number & 2 ? 1u << 31 : 0;
        vm_config.layout = &layout;
    }
    if (what & 1) /* members are pointers from the second word on */
        memset((uint8_t *)&host + sizeof(void *) * (1 + number % (OFFERED - 1)), 0, sizeof(void *));
    if (what & 2)
        host.size = fuzz_u8(in) % 64u * 8u;
    if (what & 4)
        vm_config.size += number;
    if (what & 8)
        vcpu_config.vmcs02_slots = number % 12;
    if (what & 16)
        vcpu_config.id = number % 40u;
    if (what & 32)
        vcpu_config.vpid02_first = number, vcpu_config.vpid02_count = fuzz_u8(in) % 20;
    if (what & 64)
        vm_config.exact = &sim->machine;
    if (what & 128)
        vcpu_config.size -= number & 1;
    enum nvmx_status status = nvmx_vm_init(vm_memory + (what >> 7 & number >> 1), nvmx_vm_size() - (number == 77), &host, &vm_config, &vm);
    fuzz_log("a VM: %s", nvmx_status_text(status));
    FUZZ_HOLD(status == NVMX_OK || (what & 0xc7) != 0 || number == 77 || number >= 0xc0, "a good VM: %s", nvmx_status_text(status));
    if (status != NVMX_OK) {
        vm_config = (struct nvmx_vm_config){.size = sizeof(vm_config), .ctx = &sim->vm_context, .machine = sim->machine, .expose = number & 1};
        FUZZ_HOLD(nvmx_vm_init(vm_memory, nvmx_vm_size(), &good, &vm_config, &vm) == NVMX_OK, "a good VM after a bad one");
    }
    hidden = !vm_config.expose;
    FUZZ_HOLD(nvmx_vcpu_init(NULL, sizeof(vcpu_memory), vm, &vcpu_config, &vcpu) == NVMX_E_INVALID && nvmx_vcpu_init(vcpu_memory, sizeof(vcpu_memory), NULL, &vcpu_config, &vcpu) == NVMX_E_INVALID &&
                  nvmx_vcpu_init(vcpu_memory, sizeof(vcpu_memory), vm, NULL, &vcpu) == NVMX_E_INVALID && nvmx_vcpu_init(vcpu_memory, sizeof(vcpu_memory), vm, &vcpu_config, NULL) == NVMX_E_INVALID,
              "a vCPU without something");
    status = nvmx_vcpu_init(vcpu_memory, nvmx_vcpu_size() - (number == 78), vm, &vcpu_config, &vcpu);
    fuzz_log("a vCPU: %s", nvmx_status_text(status));
    FUZZ_HOLD(status == NVMX_OK || (what & 0xb8) != 0 || number == 78, "a good vCPU: %s", nvmx_status_text(status));
    if (status == NVMX_OK && (what & 3) == 0) { /* all callbacks are there */
        if (hidden)
            check_hidden(sim, vm, vcpu, number);
        else
            check_msr_writes(vcpu, number);
    }
    if (status == NVMX_OK)
        nvmx_vcpu_destroy(vcpu);
    nvmx_vm_destroy(vm);
    struct nvmx_trace_header header;
    nvmx_trace_header_init(&header, number, what);
    FUZZ_HOLD(header.record_bytes == sizeof(struct nvmx_trace_record), "a trace of records of %u bytes", header.record_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = fuzz_start(data, size);
    struct nvmx_caps machine, mask;
    sim_machine(&machine);
    memset(&mask, 0xff, sizeof(mask));
    machine.feature_control = fuzz_u8(&in);
    change_caps(&in, &machine, "machine");
    make_sane(&machine);
    change_caps(&in, &mask, "mask");
    check_readiness(&in, &machine);
    check_caps(&in, &machine, &mask);
    check_texts(fuzz_u8(&in));
    check_texts(1u << (fuzz_u8(&in) & 31));
    if (fuzz_more(&in))
        check_making(&in);
    return 0;
}
