/* SPDX-License-Identifier: MIT */
#include "exit.h"

#include "report.h"
#include "vmx.h"

/* Fields that are defined for some exits only. The qualification is cleared where it means nothing. */
enum { LENGTH = 1, LINEAR = 2, PHYSICAL = 4, MEMORY_FORM = 8, REGISTER2 = 16, RANDOM_FORM = 32, IDENTITY = 64,
       IO_FORM = 128 };

static const struct {
    const char *name;
    uint8_t defined;
} reasons[REASON_COUNT] = {
    [REASON_EXCEPTION_NMI] = {"exception or NMI", 0},
    [REASON_EXTERNAL_INTERRUPT] = {"external interrupt", 0},
    [REASON_TRIPLE_FAULT] = {"triple fault", 0},
    [REASON_INIT] = {"INIT signal", 0},
    [REASON_STARTUP] = {"start-up IPI", 0},
    [REASON_INTERRUPT_WINDOW] = {"interrupt window", 0},
    [REASON_NMI_WINDOW] = {"NMI window", 0},
    [REASON_TASK_SWITCH] = {"task switch", 0},
    [REASON_CPUID] = {"CPUID", LENGTH},
    [REASON_GETSEC] = {"GETSEC", LENGTH},
    [REASON_HLT] = {"HLT", LENGTH},
    [REASON_INVD] = {"INVD", LENGTH},
    [REASON_INVLPG] = {"INVLPG", LENGTH},
    [REASON_RDPMC] = {"RDPMC", LENGTH},
    [REASON_RDTSC] = {"RDTSC", LENGTH},
    [REASON_VMCALL] = {"VMCALL", LENGTH},
    [REASON_VMCLEAR] = {"VMCLEAR", LENGTH | MEMORY_FORM},
    [REASON_VMLAUNCH] = {"VMLAUNCH", LENGTH},
    [REASON_VMPTRLD] = {"VMPTRLD", LENGTH | MEMORY_FORM},
    [REASON_VMPTRST] = {"VMPTRST", LENGTH | MEMORY_FORM},
    [REASON_VMREAD] = {"VMREAD", LENGTH | MEMORY_FORM | REGISTER2},
    [REASON_VMRESUME] = {"VMRESUME", LENGTH},
    [REASON_VMWRITE] = {"VMWRITE", LENGTH | MEMORY_FORM | REGISTER2},
    [REASON_VMXOFF] = {"VMXOFF", LENGTH},
    [REASON_VMXON] = {"VMXON", LENGTH | MEMORY_FORM},
    [REASON_CR] = {"control register", LENGTH},
    [REASON_DR] = {"MOV DR", LENGTH},
    [REASON_IO] = {"I/O", LENGTH},
    [REASON_RDMSR] = {"RDMSR", LENGTH},
    [REASON_WRMSR] = {"WRMSR", LENGTH},
    [REASON_BAD_GUEST_STATE] = {"invalid guest state", 0},
    [REASON_MSR_LOADING] = {"MSR loading", 0},
    [REASON_MWAIT] = {"MWAIT", LENGTH},
    [REASON_MTF] = {"monitor trap flag", 0},
    [REASON_MONITOR] = {"MONITOR", LENGTH},
    [REASON_PAUSE] = {"PAUSE", LENGTH},
    [REASON_TPR_THRESHOLD] = {"TPR below threshold", 0},
    [REASON_APIC_ACCESS] = {"APIC access", 0},
    [REASON_VIRTUALIZED_EOI] = {"virtualized EOI", 0},
    [REASON_APIC_WRITE] = {"APIC write", 0},
    [REASON_GDTR_IDTR] = {"GDTR or IDTR", LENGTH | MEMORY_FORM | IDENTITY},
    [REASON_LDTR_TR] = {"LDTR or TR", LENGTH | MEMORY_FORM | IDENTITY},
    [REASON_EPT_VIOLATION] = {"EPT violation", LINEAR | PHYSICAL},
    [REASON_EPT_MISCONFIG] = {"EPT misconfiguration", PHYSICAL},
    [REASON_INVEPT] = {"INVEPT", LENGTH | MEMORY_FORM | REGISTER2},
    [REASON_RDTSCP] = {"RDTSCP", LENGTH},
    [REASON_PREEMPTION_TIMER] = {"preemption timer", 0},
    [REASON_INVVPID] = {"INVVPID", LENGTH | MEMORY_FORM | REGISTER2},
    [REASON_WBINVD] = {"WBINVD", LENGTH},
    [REASON_XSETBV] = {"XSETBV", LENGTH},
    [REASON_RDRAND] = {"RDRAND", LENGTH | RANDOM_FORM},
    [REASON_INVPCID] = {"INVPCID", LENGTH | MEMORY_FORM | REGISTER2},
    [REASON_VMFUNC] = {"VMFUNC", LENGTH},
    [REASON_RDSEED] = {"RDSEED", LENGTH | RANDOM_FORM},
    [REASON_PML_FULL] = {"page-modification log full", 0},
    [REASON_XSAVES] = {"XSAVES", LENGTH | MEMORY_FORM},
    [REASON_XRSTORS] = {"XRSTORS", LENGTH | MEMORY_FORM},
    [REASON_SPP] = {"SPP-related event", LINEAR | PHYSICAL},
    /* They have instruction information, too, but not in Bochs 3.0. */
    [REASON_UMWAIT] = {"UMWAIT", LENGTH},
    [REASON_TPAUSE] = {"TPAUSE", LENGTH},
};

#define ADVANCED_INFORMATION (1ul << 22)         /* of IA32_VMX_EPT_VPID_CAP */

enum { IO_IN = 1u << 3, IO_STRING = 1u << 4 };

struct exit_info exit_read(uint64_t code) {
    return (struct exit_info){
        .reason = (uint32_t)vmread(EXIT_REASON),
        .qualification = vmread(EXIT_QUALIFICATION),
        .length = vmread(EXIT_INSTRUCTION_LENGTH),
        .interruption = vmread(EXIT_INTERRUPTION_INFO),
        .error_code = vmread(EXIT_ERROR_CODE),
        .vectoring = vmread(IDT_VECTORING_INFO),
        .vectoring_error = vmread(IDT_VECTORING_ERROR),
        .instruction = vmread(EXIT_INSTRUCTION_INFO),
        .linear = vmread(GUEST_LINEAR_ADDRESS),
        .physical = vmread(GUEST_PHYSICAL_ADDRESS),
        .rip = (int64_t)(vmread(GUEST_RIP) - code),
    };
}

/* Scale, index and base mean something only if the operand is memory and has them (SDM tables 30-8 ff.). */
static uint64_t reduce_instruction(uint64_t info, uint8_t defined) {
    bool is_register = (info & 1u << 10) != 0;
    uint64_t keep = 1u << 10;
    if ((defined & IO_FORM) != 0) {
        return cap.io_info ? info & 0x38380 : 0;
    }
    if ((defined & RANDOM_FORM) != 0) {
        return info & 0x1878;
    }
    if ((defined & MEMORY_FORM) == 0) {
        return 0;
    }
    if (is_register) {
        keep |= 0x78;
    } else {
        keep |= 0x38380;                        /* address size, segment */
        keep |= 1u << 22 | 1u << 27;
        keep |= (info & 1u << 22) != 0 ? 0 : 0x3c0003;
        keep |= (info & 1u << 27) != 0 ? 0 : 0x7800000;
    }
    keep |= (defined & REGISTER2) != 0 ? 0xf0000000 : 0;
    keep |= (defined & IDENTITY) != 0 ? 0x30000000 : 0;
    return info & keep;
}

/* Error codes and, for software events, instruction lengths exist only with the event. */
static void reduce_event(uint64_t *info, uint64_t *error_code, uint64_t defined_bits) {
    if ((*info & 0x80000000) == 0) {
        *info = 0;
    }
    *info &= defined_bits;
    if ((*info & 0x800) == 0) {
        *error_code = 0;
    }
}

static bool is_software_event(uint64_t info) {
    uint64_t type = info >> 8 & 7;
    return (info & 0x80000000) != 0 && type >= 4 && type <= 6;
}

void exit_reduce(struct exit_info *e) {
    uint32_t basic = e->reason & 0xffff;
    uint8_t defined = basic < REASON_COUNT ? reasons[basic].defined : LENGTH;
    if ((e->reason & ENTRY_FAILURE) != 0) {
        *e = (struct exit_info){.reason = e->reason, .qualification = e->qualification, .rip = e->rip};
        return;
    }
    reduce_event(&e->interruption, &e->error_code, 0x80001fff);
    reduce_event(&e->vectoring, &e->vectoring_error, 0x80000fff);
    if (basic == REASON_EPT_VIOLATION) {
        bool said = (e->qualification & 0x180) == 0x180 && (cap.ept_vpid & ADVANCED_INFORMATION) != 0;
        e->advanced = said ? e->qualification >> 9 & 7 : 0;
        e->qualification &= 0x11bf;             /* 11:9 are apart, 6 needs MBEC, 15:13 newer features */
    }
    if (basic == REASON_PML_FULL) {
        e->qualification &= 0x11000;
    }
    if (basic == REASON_SPP) {
        e->qualification &= 0x11800;
    } else if (basic != REASON_EPT_VIOLATION || (e->qualification & 0x80) == 0) {
        bool string_io = basic == REASON_IO && (e->qualification & IO_STRING) != 0;
        bool lmsw_memory = basic == REASON_CR && (e->qualification & 0x70) == 0x70;
        e->linear = string_io || lmsw_memory ? e->linear : 0;
    }
    if ((defined & PHYSICAL) == 0) {
        e->physical = 0;
    }
    bool has_length = (defined & LENGTH) != 0 || is_software_event(e->vectoring) ||
                      (basic == REASON_EXCEPTION_NMI && is_software_event(e->interruption)) ||
                      (basic == REASON_TASK_SWITCH && (e->qualification >> 30 & 3) != 3);
    e->length = has_length ? e->length : 0;
    if (basic == REASON_IO && (e->qualification & IO_STRING) != 0) {
        /* The segment is defined for OUTS only. */
        defined = IO_FORM;
        e->instruction &= (e->qualification & IO_IN) != 0 ? ~0x38000ul : ~0ul;
    }
    e->instruction = reduce_instruction(e->instruction, defined);
}

bool exit_same(const struct exit_info *a, const struct exit_info *b) {
    return a->reason == b->reason && a->qualification == b->qualification && a->length == b->length &&
           a->interruption == b->interruption && a->error_code == b->error_code &&
           a->vectoring == b->vectoring && a->vectoring_error == b->vectoring_error &&
           a->instruction == b->instruction && a->linear == b->linear && a->physical == b->physical &&
           a->rip == b->rip;
}

static void print_field(const char *name, uint64_t value) {
    if (value != 0) {
        print(" %s %lx", name, value);
    }
}

void exit_print(const struct exit_info *e) {
    uint32_t basic = e->reason & 0xffff;
    const char *name = basic < REASON_COUNT ? reasons[basic].name : 0;
    print("%s %u (%s)", (e->reason & ENTRY_FAILURE) != 0 ? "entry failure" : "exit", basic, name ? name : "?");
    print_field("reason bits", e->reason & 0x7fff0000);
    print(" qual %lx", e->qualification);
    print_field("len", e->length);
    print_field("intr", e->interruption);
    print_field("error", e->error_code);
    print_field("vect", e->vectoring);
    print_field("verror", e->vectoring_error);
    print_field("info", e->instruction);
    print_field("linear", e->linear);
    print_field("phys", e->physical);
    print_field("paging", e->advanced);
    print(" at %ld", e->rip);
}
