/* SPDX-License-Identifier: MIT */
/* From the boot loader's information to L1's first instruction, and the loop of exits and entries. */
#include "callbacks.h"
#include "console.h"
#include "host.h"
#include "inline.h"
#include "l1.h"
#include "multiboot.h"
#include "versions.h"

#define TEXT_BYTES    16384
#define TRACE_RECORDS 2048

void host_main(uint32_t information); /* boot.S */

struct options options;
static char text[TEXT_BYTES]; /* the loader's strings, kept */
static struct boot_modules modules;

/* Of the boot processor. The stack grows down from the struct (entry.S) to a page that isn't mapped. */
static struct {
    uint8_t guard[PAGE_BYTES];
    uint8_t stack[CPU_STACK_BYTES];
    struct cpu cpu;
} boot_processor __attribute__((aligned(4096)));

/* -- boot --------------------------------------------------------------------------------------------------------- */

static const char *keep_string(uint32_t hpa) {
    static uint32_t used;
    const char *from = phys_to_virt(hpa);
    char *to = text + used;

    do {
        if (used == TEXT_BYTES)
            panic("the boot loader's command lines are too long");
        text[used++] = *from;
    } while (*from++);
    return to;
}

static bool is_word(const char *at, const char *word, size_t *length) {
    for (*length = 0; word[*length]; ++*length)
        if (at[*length] != word[*length])
            return false;
    return true;
}

static uint64_t read_number(const char *at, size_t *length) {
    uint64_t value = 0;

    for (; at[*length] >= '0' && at[*length] <= '9' && value < 1000000; ++*length)
        value = value * 10 + (uint64_t)(at[*length] - '0');
    return value;
}

static bool at_end(char c) {
    return !c || c == ' ';
}

/* N or N,SEED */
static void read_often(const char *at, size_t *length, uint32_t *often, uint64_t *seed) {
    *often = (uint32_t)read_number(at, length);
    if (at[*length] == ',') {
        ++*length;
        *seed = read_number(at, length);
    }
}

/* Nothing, or =N */
static void read_trace(const char *at, size_t *length) {
    options.trace = TRACE_RECORDS;
    if (at[*length] == '=') {
        ++*length;
        options.trace = (uint32_t)read_number(at, length);
    }
}

static void read_options(const char *at) {
    const char *first = at;

    while (*at) {
        size_t length = 0;

        if (*at == ' ') {
            at++;
            continue;
        }
        if (is_word(at, "stats", &length) && at_end(at[length]))
            options.stats = true;
        else if (is_word(at, "novmx", &length) && at_end(at[length]))
            options.hide_vmx = true;
        else if (is_word(at, "noshadow", &length) && at_end(at[length]))
            options.no_shadowing = true;
        else if (is_word(at, "noversions", &length) && at_end(at[length]))
            options.no_versions = true;
        else if (is_word(at, "move-out", &length) && at_end(at[length]))
            options.move_out = true;
        else if (is_word(at, "move-in", &length) && at_end(at[length]))
            options.move_in = true;
        else if (is_word(at, "memory=", &length))
            options.own_mib = read_number(at, &length);
        else if (is_word(at, "shake=", &length))
            read_often(at, &length, &options.shake, &options.shake_seed);
        else if (is_word(at, "trace", &length))
            read_trace(at, &length);
        else if (is_word(at, "resize=", &length))
            read_often(at, &length, &options.resize, &options.resize_seed);
        if (!at_end(at[length])) {
            for (length = 0; !at_end(at[length]); length++) {
            }
            if (at != first) /* the first word may be L0's own name */
                print("nvmx: unknown option at \"%s\"\n", at);
        }
        at += length;
    }
    options.watch = options.stats || options.shake || options.resize || options.move_out;
}

static void read_modules(const struct multiboot_info *info) {
    uint32_t count = info->flags & MULTIBOOT_INFO_MODULES ? info->module_count : 0;

    if (!count && options.move_in)
        return;
    if (!count)
        panic("nothing to run: the first boot module must be L1's image");
    if (count > MODULES_MAX)
        panic("more than %d boot modules", MODULES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct multiboot_module m;

        memcpy(&m, phys_to_virt(info->module_address + i * sizeof m), sizeof m);
        modules.module[i] = (struct boot_module){m.start, m.end, m.string ? keep_string(m.string) : ""};
        memory_reserve(m.start, m.end);
    }
    modules.count = count;
}

/* The loader's structures may lie anywhere: all of them are read before L0 moves. */
static void read_loader(uint32_t information) {
    struct multiboot_info info;

    memcpy(&info, phys_to_virt(information), sizeof info);
    memory_init(&info);
    if (info.flags & MULTIBOOT_INFO_COMMAND_LINE)
        read_options(keep_string(info.command_line));
    read_modules(&info);
}

/* -- the library -------------------------------------------------------------------------------------------------- */

static uint32_t cpu_facts(void) {
    struct cpuid extended = cpuid(0x80000001, 0), structured = cpuid(0, 0).eax >= 7 ? cpuid(7, 0) : (struct cpuid){0};
    struct cpuid more = structured.eax >= 1 ? cpuid(7, 1) : (struct cpuid){0};

    return NVMX_CPU_LONG_MODE | NVMX_CPU_NX | (extended.edx & 1u << 11 ? NVMX_CPU_SYSCALL : 0) |
           (structured.ecx & 1u << 16 ? NVMX_CPU_LA57 : 0) | (structured.ebx & 1u << 2 ? NVMX_CPU_SGX : 0) |
           (structured.ebx & 1u << 11 ? NVMX_CPU_RTM : 0) | (structured.edx & 1u << 5 ? NVMX_CPU_UINTR : 0) |
           (structured.ecx & 1u << 24 ? NVMX_CPU_BUS_LOCK_DEBUG : 0) | (more.eax & 1u << 26 ? NVMX_CPU_LAM : 0);
}

/* Bits that an MSR has if the processor says so: VM entries check them (SDM 29.2.2, 29.3.1.1), and L1's system sets what it finds. */
static uint64_t spec_ctrl_bits(const struct cpuid *structured) {
    struct cpuid more = structured->eax >= 2 ? cpuid(7, 2) : (struct cpuid){0};

    return (structured->edx & 1u << 26 ? 1 : 0) | (structured->edx & 1u << 27 ? 2 : 0) | (structured->edx & 1u << 31 ? 4 : 0) |
           (more.edx & 1u << 1 ? 0x18 : 0) | (more.edx & 1u << 2 ? 0x60 : 0) | (more.edx & 1u << 0 ? 0x80 : 0) |
           (more.edx & 1u << 3 ? 0x100 : 0) | (more.edx & 1u << 4 ? 0x400 : 0);
}

static uint64_t perf_global_ctrl_bits(void) {
    struct cpuid perf = cpuid(0, 0).eax >= 10 ? cpuid(10, 0) : (struct cpuid){0};
    uint64_t capabilities = 0, bits;

    if (!(perf.eax & 0xff))
        return 0;
    bits = ((1ull << (perf.eax >> 8 & 0xff)) - 1) | ((1ull << (perf.edx & 0x1f)) - 1) << 32;
    if (cpuid(1, 0).ecx & 1u << 15 && rdmsr_safe(MSR_PERF_CAPABILITIES, &capabilities))
        bits |= capabilities & 1u << 15 ? 1ull << 48 : 0; /* performance metrics */
    return bits;
}

static uint64_t lbr_ctl_bits(const struct cpuid *structured) {
    struct cpuid lbr;

    if (!(structured->edx & 1u << 19)) /* no architectural LBRs */
        return 0;
    lbr = cpuid(0x1c, 0);
    return 1 | (lbr.ebx & 1u << 0 ? 6 : 0) | (lbr.ebx & 1u << 1 ? 0x7f0000 : 0) | (lbr.ebx & 1u << 2 ? 8 : 0);
}

void host_read_machine(struct nvmx_caps *caps) {
    struct cpuid structured = cpuid(0, 0).eax >= 7 ? cpuid(7, 0) : (struct cpuid){0};

    for (uint32_t i = 0; i < NVMX_CAP_MSRS; i++)
        if (!rdmsr_safe(NVMX_MSR_VMX_FIRST + i, &caps->msr[i]))
            caps->msr[i] = 0;
    caps->feature_control = rdmsr(MSR_FEATURE_CONTROL);
    caps->debugctl_valid = 0x5fc3 | (structured.ecx & 1u << 24 ? 1u << 2 : 0) | (structured.ebx & 1u << 11 ? 1u << 15 : 0);
    caps->perf_global_ctrl_valid = perf_global_ctrl_bits();
    caps->spec_ctrl_valid = spec_ctrl_bits(&structured);
    caps->lbr_ctl_valid = lbr_ctl_bits(&structured);
    caps->physical_address_bits = (uint8_t)cpuid(0x80000008, 0).eax;
    caps->cpu = cpu_facts();
}

#define PROC3_ENABLES (1ull << 6 | 1ull << 9) /* "enable MSR-list instructions", "enable PBNDKB" */

enum nvmx_status host_make_vm(struct cpu *cpu, void *memory) {
    static struct nvmx_vm_config vm = {.size = sizeof vm};
    static struct nvmx_caps mask;
    static struct nvmx_host host;

    host = callbacks;
    host.trace = options.trace ? trace_keep : NULL;
    host.page_version = versions_on() ? page_version : NULL;

    host_read_machine(&vm.machine);
    mask = vm.machine;
    mask.msr[NVMX_CAP_PROCBASED3] &= ~PROC3_ENABLES; /* off in vmcs01: vmcs02 has of them what both have, so that L1 would ask in vain */
    vm.mask = &mask;
    vm.exact = move_caps();
    vm.expose = !options.hide_vmx;
    vm.passes_interrupts = true;
    vm.loads_on_entry = vmcs01_loads_on_entry();
    /* However L1 fills its ept12, ept02 leaves L0 the pages that it needs itself. */
    vm.ept_page_budget = (uint32_t)(pages_left() / 4 * 3);
    return nvmx_vm_init(memory, nvmx_vm_size(), &host, &vm, &cpu->vm);
}

/* The vCPU's own page, which stays where vmcs01 has it. */
static uint8_t *vmwrite_bitmap(struct cpu *cpu) {
    if (!vmx_has_secondary(PROC2_VMCS_SHADOWING))
        return NULL;
    return cpu->vmwrite_bitmap ? phys_to_virt(cpu->vmwrite_bitmap) : page_get_or_die(&cpu->vmwrite_bitmap, "a bitmap");
}

enum nvmx_status host_make_vcpu(struct cpu *cpu, void *memory) {
    uint64_t shadow_hpas[VMCS02_SLOTS];
    struct nvmx_vcpu_config vcpu = {
        .size = sizeof vcpu,
        .id = cpu->index,
        .ctx = cpu,
        .regs = &cpu->regs,
        .shadow_hpa = NVMX_NO_ADDRESS,
        .shadow_hpas = vmx_has_secondary(PROC2_VMCS_SHADOWING) ? shadow_hpas : NULL,
        .vmcs02_slots = VMCS02_SLOTS,
        .vpid02_first = vmx_has_secondary(PROC2_VPID) ? VPID01 + 1 : 0,
        .vpid02_count = vmx_has_secondary(PROC2_VPID) ? VPID02_COUNT : 0,
        .msr_bitmap = cpu->msr_bitmap.words,
        .io_bitmap = {cpu->io_bitmap[0].words, cpu->io_bitmap[1].words},
        .vmwrite_bitmap = vmwrite_bitmap(cpu),
        .watches_msrs = true,
    };

    for (uint32_t i = 0; i < VMCS02_SLOTS; i++)
        shadow_hpas[i] = cpu->slot[NVMX_VMCS_SHADOWS + i].hpa;
    return nvmx_vcpu_init(memory, nvmx_vcpu_size(), cpu->vm, &vcpu, &cpu->vcpu);
}

static void make_vm(struct cpu *cpu) {
    enum nvmx_status status = host_make_vm(cpu, pages_take(nvmx_vm_size()));

    if (status == NVMX_OK)
        status = host_make_vcpu(cpu, pages_take(nvmx_vcpu_size()));
    if (status != NVMX_OK)
        panic("libnvmx does not start: %s", nvmx_status_text(status));
}

/* What holds for every exit and entry from the first one on. */
static void cpu_take_care(struct cpu *cpu) {
    cpu->exit.several = cpu->entry.several = processors_count() > 1;
    cpu->exit.watched = options.watch;
}

void cpu_make(struct cpu *cpu) {
    const struct cpu *boot_cpu = &boot_processor.cpu;
    enum nvmx_status status;

    cpu_take_care(cpu);
    cpu->vm = boot_cpu->vm;
    cpu->msr_bitmap = boot_cpu->msr_bitmap;
    memcpy(cpu->io_bitmap, boot_cpu->io_bitmap, sizeof cpu->io_bitmap);
    status = host_make_vcpu(cpu, pages_take(nvmx_vcpu_size()));
    if (status != NVMX_OK)
        panic("libnvmx makes no vCPU %u: %s", cpu->index, nvmx_status_text(status));
}

/* -- exits and entries -------------------------------------------------------------------------------------------- */

/* VMXON and VMXOFF of L1 change what vmcs01 intercepts. Both leave vmcs01 selected. */
void follow_mode(struct cpu *cpu) {
    bool in_vmx_operation = nvmx_mode(cpu->vcpu) != NVMX_MODE_OFF;

    if (!RARELY(in_vmx_operation != cpu->l1_in_vmx_operation))
        return;
    cpu->l1_in_vmx_operation = in_vmx_operation;
    vmcs01_follow_mode(in_vmx_operation);
    if (in_vmx_operation)
        versions_forget_all();
    nvmx_vmcs01_changed(cpu->vcpu);
}

static _Noreturn __attribute__((cold)) void stop(struct cpu *cpu) {
    if (options.stats)
        stats_print();
    switch (nvmx_stop_reason(cpu->vcpu)) {
    case NVMX_STOP_VMX_ABORT:
        panic("L1 stopped: VMX abort");
    case NVMX_STOP_SHUTDOWN:
        panic("L1 shut down (triple fault)");
    default:
        panic("L1 can't go on: %s", nvmx_status_text(nvmx_stop_status(cpu->vcpu)));
    }
}

/* Events that came while L1 could not take them. */
static __attribute__((noinline, cold)) void deliver_owed(struct cpu *cpu) {
    struct nvmx_pending pending = {.nmi = cpu->entry.nmi_owed, .init = cpu->entry.init_owed};

    if (nvmx_mode(cpu->vcpu) == NVMX_MODE_L2) {
        if (nvmx_enter(cpu->vcpu, &pending) == NVMX_STOP)
            stop(cpu);
        cpu->entry.nmi_owed = pending.nmi;
        cpu->entry.init_owed = pending.init;
        return;
    }
    if (cpu->entry.init_owed && !nvmx_init_blocked(cpu->vcpu))
        processor_init(cpu);
    if (cpu->entry.nmi_owed)
        deliver_nmi(cpu);
    if (nvmx_enter(cpu->vcpu, NULL) == NVMX_STOP)
        stop(cpu);
}

/* Until the next exit the others have to reckon with what this processor caches, unless its guest does nothing but wait. */
static void be_in_guest(struct cpu *cpu) {
    bool waits = cpu->waits_for_startup;

    if (nvmx_mode(cpu->vcpu) == NVMX_MODE_L2)
        waits = vmcs_get(NVMX_VMCS_GUEST_ACTIVITY_STATE) == ACTIVITY_WAIT_FOR_SIPI;
    if (cpu->flush_due)
        flush_ept();
    cpu->flush_due = false;
    cpu->in_guest = !waits;
}

static __attribute__((noinline, cold)) void enter_with_care(struct cpu *cpu) {
    if (cpu->entry.split_due)
        versions_split(cpu);
    if (cpu->entry.nmi_owed || cpu->entry.init_owed)
        deliver_owed(cpu);
    else if (nvmx_enter(cpu->vcpu, NULL) == NVMX_STOP)
        stop(cpu);
    if (cpu->entry.several)
        be_in_guest(cpu);
}

/* An NMI that came meanwhile entry.S finds, and calls host_enter. */
static inline uint32_t enter(struct cpu *cpu) {
    if (RARELY(cpu->entry.any))
        enter_with_care(cpu);
    else if (RARELY(nvmx_enter(cpu->vcpu, NULL) == NVMX_STOP))
        stop(cpu);
    if (!RARELY(!cpu->slot[cpu->selected].launched))
        return 0;
    cpu->has_run = true;
    cpu->exit.launching = true;
    return 1;
}

static void count_exit(const struct cpu *cpu, bool from_l2, enum nvmx_next next) {
    bool reflected = from_l2 && next == NVMX_ENTER && nvmx_mode(cpu->vcpu) != NVMX_MODE_L2;

    stats_exit(from_l2, cpu->exit_reason,
               next == NVMX_HOST ? STATS_HOST
               : reflected       ? STATS_REFLECTED
                                 : STATS_EMULATED);
}

/* With the options `stats`, `shake`, `resize` and `move-out`. */
static __attribute__((noinline, cold)) void watched_exit(struct cpu *cpu) {
    bool from_l2 = nvmx_mode(cpu->vcpu) == NVMX_MODE_L2;
    enum nvmx_next next = nvmx_exit(cpu->vcpu, cpu->exit_reason);

    if (next == NVMX_STOP)
        stop(cpu);
    count_exit(cpu, from_l2, next);
    if (next == NVMX_HOST)
        handle_exit(cpu);
    follow_mode(cpu);
    if (options.shake)
        shake(cpu);
    if (options.resize)
        resize(cpu);
    if (options.move_out)
        move_out(cpu);
}

static inline void exited(struct cpu *cpu) {
    uint32_t reason = cpu->exit_reason;

    callbacks_left = CALLBACKS_PER_EXIT;
    switch (nvmx_exit(cpu->vcpu, reason)) {
    case NVMX_ENTER:
        if (RARELY(reason == REASON_VMXOFF || reason == REASON_VMXON))
            follow_mode(cpu);
        break;
    case NVMX_HOST:
        handle_exit(cpu);
        break;
    case NVMX_STOP:
        stop(cpu);
    }
}

uint32_t host_enter(struct cpu *cpu) {
    uint32_t launch;

    vm_lock(cpu);
    if (cpu->nmi_pending) {
        cpu->nmi_pending = 0;
        cpu->entry.nmi_owed = true;
    }
    launch = enter(cpu);
    vm_unlock();
    return launch;
}

/* Another processor wants this one out of its guest: nothing happened in the guest. */
static bool is_kick(struct cpu *cpu) {
    if (cpu->exit_reason != REASON_EXCEPTION_OR_NMI || !exit_is_nmi())
        return false;
    unblock_nmis();
    if (!cpu->kicked)
        return false;
    cpu->kicked = false;
    return true;
}

/* A start-up IPI counts as the last exit until another comes, but for an INIT signal right behind it. */
static void exited_with_care(struct cpu *cpu) {
    bool started_up = cpu->exit.started_up && cpu->exit_reason == REASON_INIT;
    bool l2_started_up = cpu->exit_reason == REASON_STARTUP && cpu->selected != NVMX_VMCS01;

    if (cpu->exit.nmi_window) {
        vmcs01_nmi_window(false);
        cpu->exit.nmi_window = false;
    }
    cpu->exit.started_up = started_up;
    if (cpu->exit.watched)
        watched_exit(cpu);
    else
        exited(cpu);
    if (started_up)
        cpu->exit.started_up = false;
    if (l2_started_up && cpu->index != 0 && acpi_is_bochs())
        processor_reset(cpu);
}

static __attribute__((noinline, cold)) uint32_t exit_with_care(struct cpu *cpu) {
    uint32_t launch;

    vm_lock(cpu);
    cpu->exit_reason = (uint32_t)vmcs_get(NVMX_VMCS_EXIT_REASON);
    /* An entry that failed leaves the launch state as it was (SDM 29.8). */
    if (cpu->exit.launching)
        cpu->slot[cpu->selected].launched = !(cpu->exit_reason & NVMX_EXIT_ENTRY_FAILURE);
    cpu->exit.launching = false;
    if (!cpu->exit.several || !is_kick(cpu))
        exited_with_care(cpu);
    launch = enter(cpu);
    vm_unlock();
    return launch;
}

uint32_t host_exit(struct cpu *cpu) {
    if (RARELY(cpu->exit.any))
        return exit_with_care(cpu);
    cpu->exit_reason = (uint32_t)vmcs_get(NVMX_VMCS_EXIT_REASON);
    exited(cpu);
    return enter(cpu);
}

uint32_t host_entry_failed(struct cpu *cpu, bool invalid) {
    uint32_t error = invalid ? 0 : (uint32_t)vmcs_get(NVMX_VMCS_VM_INSTRUCTION_ERROR);
    static bool reported;

    vm_lock(cpu);
    if (invalid || cpu->selected == NVMX_VMCS01)
        panic("entry to VMCS %u failed with VM-instruction error %u", cpu->selected, error);
    /* The processor refuses what the library's checks let pass: L1 can live with it, but it is worth a look. */
    print("nvmx: entry to VMCS %u (vmcs02) failed with VM-instruction error %u\n", cpu->selected, error);
    if (!reported)
        crash_report(NULL);
    reported = true;
    cpu->slot[cpu->selected].launched = false;
    cpu->exit.launching = false;
    if (nvmx_entry_refused(cpu->vcpu, error) == NVMX_STOP)
        stop(cpu);
    error = enter(cpu);
    vm_unlock();
    return error;
}

void host_main(uint32_t information) {
    struct cpu *cpu = &boot_processor.cpu;
    struct l1_start start = {.code_selector = 0x08, .data_selector = 0x10};

    cpu_use(cpu);
    console_init();
    read_loader(information);
    bios_take_block();
    memory_take_own(options.own_mib, (uintptr_t)boot_processor.guard);
    traps_init(cpu);
    acpi_init();
    mtrr_init();
    print("nvmx: L0 at 0x%lx-0x%lx\n", memory_own()->start, memory_own()->end);

    vmx_on(cpu);
    processors_start(cpu);
    cpu_take_care(cpu);
    if (options.shake && processors_count() > 1)
        panic("option shake works with one processor, and this machine has %u", processors_count());
    if ((options.move_in || options.move_out) && processors_count() > 1)
        panic("options move-in and move-out work with one processor, and this machine has %u", processors_count());
    versions_init();
    ept01_init();
    bios_hook();
    cpu->msr_bitmap = msr_bitmap01();
    io_bitmaps01(cpu->io_bitmap);
    trace_init();
    if (options.move_in || options.move_out)
        move_link_init();
    if (options.move_out)
        memory_clear();
    if (options.move_in) {
        move_in(cpu);
        vmx_run(cpu);
    }
    if (linux_is_image(&modules.module[0]))
        linux_load(&modules, &start);
    else
        multiboot_load(&modules, &start);
    make_vm(cpu);
    vmcs01_init(cpu, &start);
    processors_release();
    print("nvmx: starting L1 at 0x%x\n", start.eip);
    vmx_run(cpu);
}
