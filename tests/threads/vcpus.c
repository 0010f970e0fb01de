/* SPDX-License-Identifier: MIT */
/*
 * Several vCPUs of one VM enter, exit, invalidate, fault, are saved and restored in each other's place, reset and destroyed, each in a thread of its own, while
 * the host moves, takes and write-protects L1's memory, and a timer fires late. Built with ThreadSanitizer.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "vcpus.h"

#define EPTP12 (SIM_L1_EPT12 | 0x1eu)

static uint32_t chance(struct vcpu *vcpu, uint32_t limit) {
    return below(&vcpu->random, limit);
}

/* -- L1
 * --------------------------------------------------------------------------------------------------------------------------- */

static void write_field(struct vcpu *vcpu, uint32_t encoding, uint64_t value) {
    sim_vmwrite(vcpu->sim, encoding, value);
}

/* A vmcs12 with pages that vmcs02 uses in place, and a timer. */
static void make_vmcs12(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;
    uint64_t primary = 0, pin = 0;

    pthread_mutex_lock(&vcpu->vm->tables);
    sim_vmcs12(sim);
    pthread_mutex_unlock(&vcpu->vm->tables);
    write_field(vcpu, NVMX_VMCS_VIRTUAL_APIC_ADDRESS, L1_APIC(vcpu->id));
    write_field(vcpu, NVMX_VMCS_IO_BITMAP_A_ADDRESS, L1_IO_BITMAP(vcpu->id));
    write_field(vcpu, NVMX_VMCS_IO_BITMAP_B_ADDRESS, L1_IO_BITMAP(vcpu->id) + 0x1000u);
    if (sim_vmread(sim, NVMX_VMCS_PRIMARY_CONTROLS, &primary) == SIM_SUCCEED)
        write_field(vcpu, NVMX_VMCS_PRIMARY_CONTROLS, (primary & ~(UINT64_C(1) << 24)) | 1u << 21 | 1u << 25);
    write_field(vcpu, NVMX_VMCS_VPID, 1 + chance(vcpu, 6));
    if (chance(vcpu, 2) == 0 && sim_vmread(sim, NVMX_VMCS_PIN_BASED_CONTROLS, &pin) == SIM_SUCCEED) {
        write_field(vcpu, NVMX_VMCS_PIN_BASED_CONTROLS, pin | 1u << 6);
        write_field(vcpu, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 1 + chance(vcpu, 1000));
    }
}

static void start_l1(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;

    sim_region(sim, L1_VMXON(vcpu->id));
    sim_region(sim, L1_VMCS(vcpu->id, 0));
    sim_region(sim, L1_VMCS(vcpu->id, 1));
    if (sim_vmxon(sim, L1_VMXON(vcpu->id)) != SIM_SUCCEED)
        return;
    for (unsigned int n = 0; n < 2; n++)
        if (sim_vmclear(sim, L1_VMCS(vcpu->id, n)) == SIM_SUCCEED && sim_vmptrld(sim, L1_VMCS(vcpu->id, n)) == SIM_SUCCEED)
            make_vmcs12(vcpu);
}

/* Everything may fail that a failing callback makes fail; what comes out must be an answer that L1 knows. */
static void l1_does_something(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;
    uint64_t ignored;

    switch (chance(vcpu, 24)) {
    case 0:
        start_l1(vcpu);
        break;
    case 1:
        sim_vmclear(sim, L1_VMCS(vcpu->id, chance(vcpu, 2)));
        break;
    case 2:
    case 3:
        sim_vmptrld(sim, L1_VMCS(vcpu->id, chance(vcpu, 2)));
        break;
    case 4:
        sim_invept(sim, 1 + chance(vcpu, 2), EPTP12, 0);
        break;
    case 5:
        sim_invvpid(sim, chance(vcpu, 4), 1 + chance(vcpu, 6), 0x1000);
        break;
    case 6:
        sim_vmread(sim, NVMX_VMCS_GUEST_RIP, &ignored);
        break;
    case 7:
        write_field(vcpu, NVMX_VMCS_VPID, 1 + chance(vcpu, 6));
        break;
    case 8:
        write_field(vcpu, NVMX_VMCS_PREEMPTION_TIMER_VALUE, 1 + chance(vcpu, 1000));
        break;
    case 9:
        if (chance(vcpu, 4) == 0)
            sim_vmxoff(sim);
        break;
    case 10:
    case 11:
    case 12:
        vcpu->entries += sim_vmlaunch(sim) == SIM_L2;
        break;
    default:
        vcpu->entries += sim_vmresume(sim) == SIM_L2;
        break;
    }
}

/* -- L2, and what its processor reports
 * ------------------------------------------------------------------------------------------------ */

/* Until it gets through, or the exit is somebody's. */
static void l2_uses_memory(struct vcpu *vcpu) {
    uint64_t kind = UINT64_C(1) << chance(vcpu, 3);
    struct nvmx_l2_exit_info info = {.reason = 48, .guest_physical_address = (uint64_t)chance(vcpu, MOVING_PAGES) << 12};

    for (unsigned int attempt = 0; attempt < 1000; attempt++) {
        if (l2_accesses(vcpu, info.guest_physical_address, kind, &info.qualification)) {
            vcpu->accesses++;
            return;
        }
        vcpu->faults++;
        if (sim_exit_info(vcpu->sim, &info) != NVMX_ENTER)
            return;
        hear_of_changes(vcpu);
        if (sim_enter(vcpu->sim, NULL) != NVMX_ENTER || nvmx_mode(vcpu->sim->vcpu) != NVMX_MODE_L2)
            return;
    }
    if (vcpu->vm->sim->options.fail.one_in == 0)
        fail("vCPU %u: an access is tried again for ever", vcpu->id);
}

static void l2_does_something(struct vcpu *vcpu) {
    static const uint16_t reasons[] = {1, 7, 10, 10, 12, 28, 30, 49, 54, 52};
    struct nvmx_pending pending = {.nmi = chance(vcpu, 8) == 0, .init = chance(vcpu, 64) == 0};
    struct sim *sim = vcpu->sim;

    switch (chance(vcpu, 8)) {
    case 0:
        sim_exit(sim, reasons[chance(vcpu, sizeof(reasons) / sizeof(reasons[0]))], 0, 0, 2);
        break;
    case 1:
        if (sim_enter(sim, &pending) == NVMX_STOP)
            vcpu->stops++;
        break;
    default:
        l2_uses_memory(vcpu);
        break;
    }
}

/* What was asked for by `deadline` comes some time after it is due, also when nobody wants it any more. */
static void timer(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;

    sim->tsc += chance(vcpu, 2000);
    vcpu->deadline_fires = vcpu->deadline_fires || (sim->deadline != UINT64_MAX && sim->deadline != 0 && sim->tsc >= sim->deadline);
    if (!vcpu->deadline_fires || chance(vcpu, 4) != 0)
        return;
    vcpu->deadline_fires = false;
    vcpu->fired++;
    sim_exit(sim, 1, 0, 0, 0); /* the host's own interrupt */
}

/* -- threads
 * ----------------------------------------------------------------------------------------------------------------------- */

struct work {
    struct vcpu *vcpu;
    uint64_t operations;
};

/* Changes of memory come also between restoring and the first entry. */
static void move(struct vcpu *vcpu) {
    if (!vcpu_move(vcpu)) {
        start_l1(vcpu);
        return;
    }
    if (chance(vcpu, 2) == 0)
        hear_of_changes(vcpu);
    if (nvmx_stop_reason(vcpu->sim->vcpu) == NVMX_STOP_NONE)
        sim_enter(vcpu->sim, NULL);
}

static void one_operation(struct vcpu *vcpu) {
    struct sim *sim = vcpu->sim;
    uint32_t what = chance(vcpu, 1000);

    hear_of_changes(vcpu);
    if (nvmx_stop_reason(sim->vcpu) != NVMX_STOP_NONE || what < 2) {
        vcpu_destroy(vcpu);
        vcpu_make(vcpu);
        start_l1(vcpu);
        return;
    }
    if (what < 8) {
        move(vcpu);
        return;
    }
    if (what < 10) {
        nvmx_vcpu_reset(sim->vcpu);
        vcpu_power_up(vcpu);
        nvmx_vmcs01_changed(sim->vcpu);
        start_l1(vcpu);
        return;
    }
    timer(vcpu);
    if (nvmx_stop_reason(sim->vcpu) == NVMX_STOP_NONE && sim_enter(sim, NULL) == NVMX_ENTER) {
        if (nvmx_mode(sim->vcpu) == NVMX_MODE_L2)
            l2_does_something(vcpu);
        else
            l1_does_something(vcpu);
    }
}

static void *run_vcpu(void *argument) {
    struct work *work = argument;

    start_l1(work->vcpu);
    for (uint64_t i = 0; i < work->operations; i++)
        one_operation(work->vcpu);
    store(&work->vcpu->through, 1);
    while (load(&work->vcpu->vm->stop) == 0) { /* whoever changes memory still wants an answer */
        hear_of_changes(work->vcpu);
        sched_yield();
    }
    return NULL;
}

static void *run_host(void *argument) {
    struct vm *vm = argument;

    while (load(&vm->stop) == 0)
        host_changes(vm);
    return NULL;
}

static void run(unsigned int vcpus, uint64_t operations, uint32_t fails, uint64_t seed) {
    struct vm *vm = vm_new(vcpus, fails, seed);
    struct work work[VCPUS_MAX];
    pthread_t id[VCPUS_MAX], host;
    uint64_t entries = 0, accesses = 0, faults = 0, changes = 0, deaths = 0, fired = 0, moves = 0;

    vm->sim->options.fail.one_in = fails;
    pthread_create(&host, NULL, run_host, vm);
    for (unsigned int i = 0; i < vcpus; i++) {
        work[i] = (struct work){.vcpu = &vm->vcpu[i], .operations = operations / vcpus};
        pthread_create(&id[i], NULL, run_vcpu, &work[i]);
    }
    /* The last one that is through ends all. */
    for (bool all = false; !all; sched_yield()) {
        all = true;
        for (unsigned int i = 0; i < vcpus; i++)
            all = all && load(&vm->vcpu[i].through) != 0;
    }
    store(&vm->stop, 1);
    for (unsigned int i = 0; i < vcpus; i++) {
        pthread_join(id[i], NULL);
        entries += vm->vcpu[i].entries;
        accesses += vm->vcpu[i].accesses;
        faults += vm->vcpu[i].faults;
        changes += vm->vcpu[i].changes;
        deaths += vm->vcpu[i].deaths;
        fired += vm->vcpu[i].fired;
        moves += vm->vcpu[i].moves;
    }
    pthread_join(host, NULL);
    printf("%u vCPUs, callbacks fail: one in %u: %llu entries to L2, %llu accesses, %llu EPT violations, %llu changes of memory heard of, "
           "%llu vCPUs destroyed, %llu went on with another's state, %llu late timers\n",
           vcpus, fails, (unsigned long long)entries, (unsigned long long)accesses, (unsigned long long)faults, (unsigned long long)changes,
           (unsigned long long)deaths, (unsigned long long)moves, (unsigned long long)fired);
    if (entries < operations / 20 || accesses < operations / 10 || faults < operations / 100 || changes < operations / 1000 ||
        deaths < operations / 2000 || moves < operations / 1000 || fired == 0)
        fail("this shows nothing");
    vm_delete(vm);
}

#define OPERATIONS_FEW 10000u

int main(int argc, char **argv) {
    struct arguments a = arguments(argc, argv, OPERATIONS_FEW,
                                   "2 and by 4 vCPUs, without failing callbacks and with some");

    for (unsigned int vcpus = 2; vcpus <= VCPUS_MAX; vcpus += 2) {
        run(vcpus, a.operations, 0, a.seed);
        run(vcpus, a.operations, 50, a.seed + 1);
    }
    return 0;
}
