/* SPDX-License-Identifier: MIT */
/*
 * Sequences of VMX instructions: each begins outside VMX operation with fresh VMCS regions, and ends in a line
 *   s NUMBER HASH    HASH of what every operation did: its fault, or flags, VM-instruction error and the value it gave
 */
#include "image.h"

struct probe {
    const char *name;
    const uint8_t *code64, *code32;
};
extern const struct probe probes[], probes_end[];

struct outcome {
    struct vmx_result result;
    uint64_t value;
};

static uint64_t memory_operand[2] __attribute__((aligned(16)));

/* The address of an operand of this kind; what is there is set to a and b if anything is. */
static uint64_t *operand(uint8_t form, uint64_t a, uint64_t b) {
    memory_operand[0] = a;
    memory_operand[1] = b;
    switch ((enum diff_place)form) {
    case DIFF_NOT_PRESENT:
        return (uint64_t *)L1_NOT_PRESENT;
    case DIFF_NON_CANONICAL:
        return (uint64_t *)L1_NON_CANONICAL;
    case DIFF_READ_ONLY:
        return (uint64_t *)L1_READ_ONLY;
    default:
        return memory_operand;
    }
}

static void host_tables(void) {
    write_cr3((uint64_t)l1_pml4);
}

/* VMLAUNCH or VMRESUME; L2, if it runs, comes back at its first instruction. The value is the exit. */
static struct outcome enter(const struct diff_operation *op) {
    const uint64_t launch = op->kind == DIFF_OP_VMLAUNCH;
    struct outcome out = {{{NO_FAULT, 0, 0, false}, 0, 0}, 0};
    fault_reset();
    catch_rip = (uint64_t)diff_faulted;
    const uint64_t flags = op->form != 0 ? diff_enter_mov_ss(launch) : diff_enter(launch);
    catch_rip = 0;
    if (flags != 0) {
        out.result = vmx_result(flags);
        return out;
    }
    out.value = host_check(false, false);
    struct exit_info e = exit_read(0);
    exit_reduce(&e);
    out.value = hash(hash(hash(out.value, e.reason), e.qualification), e.interruption);
    host_tables();
    return out;
}

static struct outcome fill(const struct module *m, uint64_t base) {
    struct outcome out = {{{NO_FAULT, 0, 0, false}, 0, 0}, 0};
    for (uint32_t i = 0; i < m->header->fields; i++) {
        if ((m->encodings[i] & DIFF_FIELD_WRITE) == 0) {
            continue;
        }
        out.result = vmx_vmwrite(m->encodings[i] & 0xffff, m->base[base][i]);
        if (out.result.fault.vector != NO_FAULT || out.result.flags != 0) {
            break;
        }
    }
    return out;
}

static struct fault rdmsr_checked(uint32_t index, uint64_t *value) {
    uint64_t flags;
    uint32_t low = 0, high = 0;
    fault_reset();
    __asm__ volatile(CATCHING("rdmsr") : "=&r"(flags), "=&d"(high), "=&a"(low) : "c"(index) : "memory", "cc");
    *value = last_fault.vector == NO_FAULT ? (uint64_t)high << 32 | low : 0;
    return last_fault;
}

static struct vmx_result faulted(struct fault fault) {
    return (struct vmx_result){fault, 0, 0};
}

static struct outcome in_ring0(const struct module *m, const struct diff_operation *op) {
    struct outcome out = {{{NO_FAULT, 0, 0, false}, 0, 0}, 0};
    uint64_t *const at = operand(op->form, op->a, 0);
    out.value = op->kind == DIFF_OP_VMREAD ? 0x5a5a5a5a5a5a5a5a : 0;
    switch ((enum diff_kind)op->kind) {
    case DIFF_OP_VMXON:
        out.result = vmx_vmxon(at);
        break;
    case DIFF_OP_VMXOFF:
        out.result = vmx_vmxoff();
        break;
    case DIFF_OP_VMCLEAR:
        out.result = vmx_vmclear(at);
        break;
    case DIFF_OP_VMPTRLD:
        out.result = vmx_vmptrld(at);
        break;
    case DIFF_OP_VMPTRST:
        out.result = vmx_vmptrst(at);
        out.value = memory_operand[0];
        break;
    case DIFF_OP_VMREAD:
        if (op->form == DIFF_REGISTER) {
            out.result = vmx_vmread(op->a, &out.value);
        } else {
            out.result = vmx_vmread_memory(op->a, operand(op->form, out.value, 0));
            out.value = memory_operand[0];
        }
        break;
    case DIFF_OP_VMWRITE:
        out.result = op->form == DIFF_REGISTER ? vmx_vmwrite(op->a, op->b)
                                               : vmx_vmwrite_memory(op->a, operand(op->form, op->b, 0));
        break;
    case DIFF_OP_VMLAUNCH:
    case DIFF_OP_VMRESUME:
        return enter(op);
    case DIFF_OP_VMCALL:
        out.result = vmx_vmcall();
        break;
    case DIFF_OP_VMFUNC:
        out.result = vmx_vmfunc();
        break;
    case DIFF_OP_INVEPT:
        out.result = vmx_invept(op->a, operand(op->form, op->b, op->c));
        break;
    case DIFF_OP_INVVPID:
        out.result = vmx_invvpid(op->a, operand(op->form, op->b, op->c));
        break;
    case DIFF_OP_CR0:
        out.result = faulted(write_cr0_catching(op->a));
        out.value = read_cr0();
        break;
    case DIFF_OP_CR4:
        out.result = faulted(write_cr4_catching(op->a));
        out.value = read_cr4();
        break;
    case DIFF_OP_REVISION:
        *(volatile uint32_t *)op->a = cap.revision ^ (uint32_t)op->b;
        break;
    case DIFF_OP_FILL:
        out = fill(m, op->a);
        break;
    case DIFF_OP_ERROR:
        out.result = vmx_vmread(INSTRUCTION_ERROR, &out.value);
        break;
    case DIFF_OP_RDMSR:
        out.result = faulted(rdmsr_checked((uint32_t)op->a, &out.value));
        break;
    case DIFF_OP_WRMSR:
        out.result = faulted(wrmsr_catching((uint32_t)op->a, op->b));
        break;
    case DIFF_OPS:
        break;
    }
    return out;
}

/* Outside ring 0 and 64-bit mode the instructions fault, which is all there is to see. */
static struct outcome elsewhere(const struct diff_operation *op) {
    static const struct {
        uint16_t cs, ss;
    } selectors[DIFF_MODES] = {
        [DIFF_MODE_COMPATIBILITY] = {SEL_CODE32, SEL_DATA},
        [DIFF_MODE_USER64] = {SEL_USER_CODE64, SEL_USER_DATA},
        [DIFF_MODE_USER32] = {SEL_USER_CODE32, SEL_USER_DATA},
    };
    const struct probe *p = &probes[op->kind];
    const bool wide = op->mode == DIFF_MODE_USER64;
    uint64_t *const at = operand(DIFF_MEMORY, op->a, 0);
    const struct fault fault =
        fault_in(selectors[op->mode].cs, selectors[op->mode].ss, wide ? p->code64 : p->code32, at);
    return (struct outcome){faulted(fault), 0};
}

static void fresh_regions(void) {
    for (uint32_t i = 0; i < DIFF_REGION_COUNT; i++) {
        uint64_t *region = (uint64_t *)(uint64_t)(DIFF_REGIONS + i * 0x1000);
        for (uint32_t k = 0; k < 512; k++) {
            region[k] = 0;
        }
        region[0] = cap.revision;
    }
}

static void run(const struct module *m, const struct diff_sequence *s, const struct diff_operation *op) {
    const bool dump = (m->header->flags & DIFF_DUMP) != 0 && s->number >= m->header->dump_from;
    uint64_t sum = HASH_START;
    fresh_regions();
    for (uint32_t i = 0; i < s->operations; i++) {
        const bool probe = op[i].mode != DIFF_MODE_64 && op[i].kind <= DIFF_OP_INVVPID;
        const struct outcome o = probe ? elsewhere(&op[i]) : in_ring0(m, &op[i]);
        const struct vmx_result *r = &o.result;
        if (dump) {
            print("o %x vector %x code %x cr2 %lx rf %u flags %lx error %u value %lx\n", i, r->fault.vector,
                  r->fault.error_code, r->fault.cr2, r->fault.rf, r->flags, r->error, o.value);
        }
        sum = hash(hash(hash(hash(sum, r->fault.vector), r->fault.error_code), r->fault.cr2), r->fault.rf);
        sum = hash(hash(hash(sum, r->flags), r->error), o.value);
    }
    vmx_vmxoff();
    write_cr0(DIFF_HOST_CR0);
    write_cr4(DIFF_HOST_CR4);
    print("s %x %x\n", s->number, hash_fold(sum));
}

void sequences_run(const struct module *m, const uint8_t *at) {
    l1_gdt[SEL_TSS / 8] = 0;
    cpu_init(); /* TR as at the start */
    __asm__ volatile("lidt %0" ::"m"(*(struct descriptor_table[]){{0xfff, DIFF_HOST_IDT}}));
    memcpy((void *)(uint64_t)DIFF_HOST_GDT, l1_gdt, sizeof l1_gdt);
    host_tables();
    for (uint32_t i = 0; i < m->header->sequences; i++) {
        const struct diff_sequence *s = (const struct diff_sequence *)at;
        const struct diff_operation *op = (const struct diff_operation *)(s + 1);
        run(m, s, op);
        at = (const uint8_t *)(op + s->operations);
    }
}
