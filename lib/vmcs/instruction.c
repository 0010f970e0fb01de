/* SPDX-License-Identifier: MIT */
/*
 * VMX instructions of L1: the phases that all have in common, in the order of the SDM (33.3), and how they complete.
 *
 * A row per instruction says which phases apply. Everything that vmcs01 must tell is read in one batch, or two with a
 * memory operand, and everything that changes in it is written in one.
 */
#include "instruction.h"


#define DEBUGCTL_BTF        (UINT64_C(1) << 1)
#define PENDING_DEBUG_BS    (UINT64_C(1) << 14)

/* VM-entry interruption information (SDM 27.8.3): a hardware exception. */
#define ENTRY_EXCEPTION  0x80000300u
#define ENTRY_ERROR_CODE 0x800u

/* SDM 33.3; by the exit reasons of appendix C. */
static const struct instruction_row rows[] = {
    [18] = {.reason = 18, .effect = vmcall_effect},
    [19] = {.reason = 19, .operand = OPERAND_READ, .operand_bytes = 8, .effect = vmclear_effect},
    [20] = {.reason = 20, .enters = true, .effect = vmlaunch_effect},
    [21] = {.reason = 21, .operand = OPERAND_READ, .operand_bytes = 8, .effect = vmptrld_effect},
    [22] = {.reason = 22, .operand = OPERAND_WRITE, .operand_bytes = 8, .effect = vmptrst_effect},
    [23] =
        {.reason = 23, .operand = OPERAND_RM_WRITE, .has_reg2 = true, .before = vmread_before, .effect = vmread_effect},
    [24] = {.reason = 24, .enters = true, .effect = vmresume_effect},
    [25] = {.reason = 25,
            .operand = OPERAND_RM_READ,
            .has_reg2 = true,
            .before = vmwrite_before,
            .effect = vmwrite_effect},
    [26] = {.reason = 26, .effect = vmxoff_effect},
    [27] = {.reason = 27,
            .operand = OPERAND_READ,
            .operand_bytes = 8,
            .outside_vmx = true,
            .before = vmxon_before,
            .effect = vmxon_effect},
    [50] = {.reason = 50,
            .operand = OPERAND_READ,
            .operand_bytes = 16,
            .has_reg2 = true,
            .secondary_bit = 33,
            .ept_vpid_bit = 20,
            .before = invept_before,
            .effect = invept_effect},
    [53] = {.reason = 53,
            .operand = OPERAND_READ,
            .operand_bytes = 16,
            .has_reg2 = true,
            .secondary_bit = 37,
            .ept_vpid_bit = 32,
            .before = invvpid_before,
            .effect = invvpid_effect},
    [59] = {.reason = 59}, /* VMFUNC: #UD in VMX root operation and outside, at any CPL */
};

static const struct instruction_row *find_row(uint32_t basic_reason) {
    bool known = basic_reason < sizeof(rows) / sizeof(rows[0]) && rows[basic_reason].reason != 0;
    return known ? &rows[basic_reason] : NULL;
}

/* -- what vmcs01 says
 * ------------------------------------------------------------------------------------------------------- */

/* Read instruction_base[from] up to but without instruction_base[to]; the rest stays 0. */
static enum nvmx_status read_base(struct nvmx_vcpu *vcpu, struct instruction *in, unsigned int from, unsigned int to,
                                  uint32_t *information) {
    uint64_t value[BASE_COUNT] = {0};
    enum nvmx_status status = host_read_encoded(vcpu, to - from, &instruction_base[from], &value[from]);
    in->vcpu = vcpu;
    in->rip = value[BASE_RIP];
    in->rflags = value[BASE_RFLAGS];
    in->length = (uint32_t)value[BASE_LENGTH];
    in->rip_known = to > BASE_LENGTH;
    in->cs_access_rights = (uint32_t)value[BASE_CS_RIGHTS];
    in->ss_access_rights = (uint32_t)value[BASE_SS_RIGHTS];
    in->interruptibility = (uint32_t)value[BASE_INTERRUPTIBILITY];
    in->paging.long_mode = (value[BASE_ENTRY_CONTROLS] & ENTRY_IA32E) != 0;
    in->paging.mode64 = in->paging.long_mode && (in->cs_access_rights & RIGHTS_L) != 0;
    in->paging.smap_off = (in->rflags & RFLAGS_AC) != 0;
    *information = (uint32_t)value[BASE_INFO];
    batch_init(in->out);
    return status;
}

/* CR0 (and CR4) as L1 reads them, SDM 27.6.6. */
static enum nvmx_status read_crs(struct instruction *in) {
    static const uint8_t slots[] = {NVMX_F_GUEST_CR0, NVMX_F_CR0_GUEST_HOST_MASK, NVMX_F_CR0_READ_SHADOW,
                                    NVMX_F_GUEST_CR4, NVMX_F_CR4_GUEST_HOST_MASK, NVMX_F_CR4_READ_SHADOW};
    uint64_t v[6] = {0};
    enum nvmx_status status = host_read_many(in->vcpu, in->row->outside_vmx ? 6 : 3, slots, v);
    in->cr0 = (v[0] & ~v[1]) | (v[2] & v[1]);
    in->cr4 = (v[3] & ~v[4]) | (v[5] & v[4]);
    return status;
}

enum nvmx_status instruction_begin(struct nvmx_vcpu *vcpu, const struct instruction_row *row, struct instruction *in) {
    uint32_t information;
    unsigned int to = row->enters ? BASE_RIP : row->operand == OPERAND_NONE ? BASE_INFO : BASE_COUNT;
    in->row = row;
    in->fault.vector = -1;
    enum nvmx_status status = read_base(vcpu, in, 0, to, &information);
    if (status == NVMX_OK && (row->outside_vmx || !in->paging.long_mode)) {
        status = read_crs(in);
    }
    if (row->operand != OPERAND_NONE) {
        nvmx_decode_information(row->reason, information, 0, &in->operand);
    }
    return status;
}

/* -- phases
 * ------------------------------------------------------------------------------------------------------------------ */

uint32_t instruction_operand_bytes(const struct instruction *in) {
    return in->paging.mode64 ? 8 : 4;
}

struct verdict instruction_fault(struct instruction *in, int vector) {
    in->fault = (struct l1_fault){.vector = (int16_t)vector, .has_error_code = vector != VECTOR_UD};
    return VERDICT(FAULT, 0);
}

static bool operand_encodable(const struct instruction *in) {
    bool rm = in->row->operand == OPERAND_RM_READ || in->row->operand == OPERAND_RM_WRITE;
    if (in->row->operand == OPERAND_NONE) {
        return true;
    }
    return in->operand.is_register ? rm : in->operand.address_bits != 0;
}

static bool instruction_offered(const struct nvmx_vcpu *vcpu, const struct instruction_row *row) {
    const struct nvmx_caps *caps = &vcpu->vm->caps;
    return (row->secondary_bit == 0 || (caps->msr[NVMX_CAP_PROCBASED2] >> row->secondary_bit) & 1) &&
           (row->ept_vpid_bit == 0 || (caps->msr[NVMX_CAP_EPT_VPID] >> row->ept_vpid_bit) & 1);
}

static struct verdict phase_undefined(struct instruction *in) {
    const struct instruction_row *row = in->row;
    bool compatibility = in->paging.long_mode && !in->paging.mode64;
    bool real = !in->paging.long_mode && (in->cr0 & CR0_PE) == 0;
    bool allowed = row->outside_vmx ? in->vcpu->vm->expose && (in->cr4 & CR4_VMXE) : in->vcpu->mode == NVMX_MODE_ROOT;
    if (!allowed || real || compatibility || (in->rflags & RFLAGS_VM) || !operand_encodable(in) ||
        !instruction_offered(in->vcpu, row)) {
        return instruction_fault(in, VECTOR_UD);
    }
    return VERDICT(GO_ON, 0);
}

static struct verdict phase_privilege(struct instruction *in) {
    return (in->ss_access_rights & RIGHTS_DPL) != 0 ? instruction_fault(in, VECTOR_GP0) : VERDICT(GO_ON, 0);
}

static struct verdict phase_before(struct instruction *in) {
    if (in->row->has_reg2) {
        enum nvmx_status status = operand_register(in->vcpu, in->operand.reg2, &in->reg2);
        if (status != NVMX_OK) {
            return VERDICT(STOP, status);
        }
        if (!in->paging.mode64) {
            in->reg2 = (uint32_t)in->reg2;
        }
    }
    return in->row->before != NULL ? in->row->before(in) : VERDICT(GO_ON, 0);
}

static struct verdict access_verdict(enum l1_access access) {
    static const uint8_t kind[] = {[L1_ACCESS_DONE] = GO_ON, [L1_ACCESS_FAULT] = FAULT, [L1_ACCESS_RETRY] = RETRY};
    return VERDICT((enum verdict_kind)kind[access], 0);
}

static struct verdict register_operand(struct instruction *in) {
    if (in->row->operand == OPERAND_RM_READ) {
        enum nvmx_status status = operand_register(in->vcpu, in->operand.rm_register, &in->memory[0]);
        if (status != NVMX_OK) {
            return VERDICT(STOP, status);
        }
        if (!in->paging.mode64) {
            in->memory[0] = (uint32_t)in->memory[0];
        }
    }
    return VERDICT(GO_ON, 0);
}

/* Faults of the segment, for all; reading, for sources. Destinations are translated when they are written. */
static struct verdict phase_operand(struct instruction *in) {
    const struct instruction_row *row = in->row;
    const struct operand_access access = {
        .operand = &in->operand,
        .bytes = row->operand_bytes != 0 ? row->operand_bytes : instruction_operand_bytes(in),
        .write = row->operand == OPERAND_WRITE || row->operand == OPERAND_RM_WRITE,
    };
    if (row->operand == OPERAND_NONE) {
        return VERDICT(GO_ON, 0);
    }
    if (in->operand.is_register) {
        return register_operand(in);
    }
    enum nvmx_status status = operand_linear(in->vcpu, &access, &in->paging, &in->linear, &in->fault);
    if (status != NVMX_OK) {
        return VERDICT(STOP, status);
    }
    if (in->fault.vector >= 0) {
        return VERDICT(FAULT, 0);
    }
    if (access.write) {
        return VERDICT(GO_ON, 0);
    }
    return access_verdict(l1_linear_read(in->vcpu, &in->paging, in->linear, in->memory, access.bytes, &in->fault));
}

static struct verdict phase_effect(struct instruction *in) {
    return in->row->effect(in);
}

struct verdict instruction_store(struct instruction *in, uint64_t value, uint32_t bytes) {
    const uint8_t number = in->operand.rm_register;
    if (!in->operand.is_register) {
        return access_verdict(l1_linear_write(in->vcpu, &in->paging, in->linear, &value, bytes, &in->fault));
    }
    if (number == NVMX_RSP) {
        enum nvmx_status status = batch_put(in->vcpu, in->out, NVMX_F_GUEST_RSP, value);
        return status == NVMX_OK ? VERDICT(GO_ON, 0) : VERDICT(STOP, status);
    }
    in->vcpu->regs->gpr[number & 15] = value;
    return VERDICT(GO_ON, 0);
}

/* -- completion
 * -------------------------------------------------------------------------------------------------------------- */

/* The batch holds few enough fields that adding to it can't fail. */
static void put(struct instruction *in, enum nvmx_field slot, uint64_t value) {
    (void)batch_put(in->vcpu, in->out, slot, value);
}

/* A single-step trap is due after an instruction that ran with RFLAGS.TF, unless only branches are trapped
 * (SDM 27.4.2, 19.3.1.4). */
static enum nvmx_status note_single_step(struct instruction *in) {
    static const uint8_t slots[] = {NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, NVMX_F_GUEST_DEBUGCTL};
    uint64_t value[2];
    if ((in->rflags & RFLAGS_TF) == 0) {
        return NVMX_OK;
    }
    enum nvmx_status status = host_read_many(in->vcpu, 2, slots, value);
    if (status == NVMX_OK && (value[1] & DEBUGCTL_BTF) == 0) {
        put(in, NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS, value[0] | PENDING_DEBUG_BS);
    }
    return status;
}

/* End the instruction: RIP, RFLAGS (RF is clear after any instruction), blocking, single step. */
static enum nvmx_status advance(struct instruction *in, uint64_t rflags) {
    enum nvmx_status status = host_select(in->vcpu, in->vmcs);
    if (status == NVMX_OK && !in->rip_known) {
        uint64_t value[2];
        status = host_read_encoded(in->vcpu, 2, &instruction_base[BASE_RIP], value);
        if (status == NVMX_OK) {
            in->rip = value[0];
            in->length = (uint32_t)value[1];
        }
    }
    if (status == NVMX_OK) {
        status = note_single_step(in);
    }
    if (status != NVMX_OK) {
        return status;
    }
    uint64_t rip = in->rip + in->length;
    put(in, NVMX_F_GUEST_RIP, in->paging.mode64 ? rip : (uint32_t)rip);
    rflags &= ~RFLAGS_RF;
    if (rflags != in->rflags) {
        put(in, NVMX_F_GUEST_RFLAGS, rflags);
    }
    if (in->interruptibility & BLOCKING_STI_MOV_SS) {
        put(in, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, in->interruptibility & ~BLOCKING_STI_MOV_SS);
    }
    return batch_flush(in->vcpu, in->out);
}

static enum nvmx_next stopped(struct nvmx_vcpu *vcpu, enum nvmx_status status) {
    return stop(vcpu, NVMX_STOP_HOST, status);
}

enum nvmx_status instruction_end(struct instruction *in, uint64_t set_flags) {
    return advance(in, (in->rflags & ~RFLAGS_ARITHMETIC) | set_flags);
}

static enum nvmx_next complete(struct instruction *in, uint64_t set_flags) {
    enum nvmx_status status = instruction_end(in, set_flags);
    return status == NVMX_OK ? NVMX_ENTER : stopped(in->vcpu, status);
}

/* error 0: VMfailInvalid (SDM 33.2). */
static enum nvmx_next complete_fail(struct instruction *in, uint32_t error) {
    struct nvmx_vcpu *vcpu = in->vcpu;
    struct vmcs12 *current = vmcs12_current(vcpu);
    bool by_check = error == 7 || error == 8;
    if (error != 0 && current != NULL) {
        current->value[NVMX_F_VM_INSTRUCTION_ERROR] = error;
        nvmx_set_remove(&current->stale, NVMX_F_VM_INSTRUCTION_ERROR);
    } else {
        error = 0;
    }
    vcpu->counts.refused++;
    enum nvmx_next next = complete(in, error != 0 ? RFLAGS_ZF : RFLAGS_CF);
    host_trace(vcpu, NVMX_TRACE_VMFAIL, error, by_check ? vcpu->last_check : NVMX_CHECK_NONE);
    return next;
}

/* An injected event pushes RFLAGS as the field has it; a fault pushes RF set (SDM 19.3.1.1, 29.6.1.1). */
static enum nvmx_status put_event(struct nvmx_vcpu *vcpu, const struct l1_fault *fault, bool error_code) {
    struct batch out;
    uint64_t rflags;
    enum nvmx_status status = host_read(vcpu, NVMX_F_GUEST_RFLAGS, &rflags);
    if (status != NVMX_OK) {
        return status;
    }
    batch_init(&out);
    (void)batch_put(vcpu, &out, NVMX_F_GUEST_RFLAGS, rflags | RFLAGS_RF);
    (void)batch_put(vcpu, &out, NVMX_F_VM_ENTRY_INTERRUPTION_INFO,
                    ENTRY_EXCEPTION | (error_code ? ENTRY_ERROR_CODE : 0) | (uint8_t)fault->vector);
    if (error_code) {
        (void)batch_put(vcpu, &out, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE, fault->error_code);
    }
    return batch_flush(vcpu, &out);
}

/* A real-mode L1 gets no error code (SDM 27.8.3, 29.2.1.3). */
static enum nvmx_next raise(struct nvmx_vcpu *vcpu, const struct l1_fault *fault, bool error_code) {
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK && vcpu->vm->host.queue_exception != NULL) {
        vcpu->counts.callback[CB_QUEUE_EXCEPTION]++;
        vcpu->vm->host.queue_exception(vcpu->ctx, (uint8_t)fault->vector, error_code ? (int32_t)fault->error_code : -1);
    } else if (status == NVMX_OK) {
        status = put_event(vcpu, fault, error_code);
    }
    if (status != NVMX_OK) {
        return stopped(vcpu, status);
    }
    if (fault->vector == 14) {
        vcpu->regs->cr2 = fault->cr2;
    }
    vcpu->counts.refused++;
    host_trace(vcpu, NVMX_TRACE_FAULT, (uint64_t)fault->vector, error_code ? fault->error_code : 0);
    return NVMX_ENTER;
}

static enum nvmx_next finish(struct instruction *in, struct verdict verdict) {
    switch (verdict.kind) {
    case SUCCEED:
        return complete(in, 0);
    case FAIL_INVALID:
        return complete_fail(in, 0);
    case FAIL:
        return complete_fail(in, verdict.number);
    case FAULT:
        return raise(in->vcpu, &in->fault, in->fault.has_error_code);
    case RETRY:
        return NVMX_ENTER;
    case ENTERED:
        return (enum nvmx_next)verdict.number;
    default:
        return stopped(in->vcpu, (enum nvmx_status)verdict.number);
    }
}

struct verdict instruction_phases(struct instruction *in) {
    static const instruction_phase phases[] = {phase_privilege, phase_before, phase_operand, phase_effect};
    struct verdict verdict = {GO_ON, 0};
    for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]) && verdict.kind == GO_ON; i++) {
        verdict = phases[i](in);
    }
    return verdict;
}

static enum nvmx_next execute(struct nvmx_vcpu *vcpu, const struct instruction_row *row) {
    struct batch out;
    struct instruction in = {.out = &out};
    enum nvmx_status status = instruction_begin(vcpu, row, &in);
    if (status != NVMX_OK) {
        return stopped(vcpu, status);
    }
    vcpu->counts.emulated++;
    vcpu->l1_left.valid = false;
    struct verdict verdict = phase_undefined(&in);
    return finish(&in, verdict.kind == GO_ON ? instruction_phases(&in) : verdict);
}

enum nvmx_next instruction_conclude(struct nvmx_vcpu *vcpu, uint32_t basic_reason, struct verdict verdict) {
    struct batch out;
    struct instruction in = {.out = &out};
    vcpu->counts.emulated++;
    enum nvmx_status status = instruction_begin(vcpu, find_row(basic_reason), &in);
    return status == NVMX_OK ? finish(&in, verdict) : stopped(vcpu, status);
}

/* VMCALL is the host's first: most are hypercalls. See nvmx_vmcall. */
enum nvmx_next instruction_exit(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    const struct instruction_row *row = find_row(basic_reason);
    if (row == NULL || row->effect == vmcall_effect) {
        return NVMX_HOST;
    }
    if (basic_reason == NVMX_REASON_VMXOFF) {
        return instruction_vmxoff(vcpu);
    }
    if (row->effect == NULL) {
        vcpu->counts.emulated++;
        return l1_raise_ud(vcpu);
    }
    return execute(vcpu, row);
}

enum nvmx_next instruction_in_phases(struct nvmx_vcpu *vcpu, uint32_t basic_reason) {
    return execute(vcpu, find_row(basic_reason));
}

enum nvmx_next nvmx_vmcall(struct nvmx_vcpu *vcpu) {
    return execute(vcpu, &rows[18]);
}

/* -- for the rest of the library
 * ----------------------------------------------------------------------------------------------- */

static COLD enum nvmx_status skip_with_care(struct nvmx_vcpu *vcpu, uint32_t vmcs) {
    struct batch out;
    struct instruction in = {.out = &out, .vmcs = vmcs};
    uint32_t information;
    enum nvmx_status status = read_base(vcpu, &in, BASE_CS_RIGHTS, BASE_INFO, &information);
    return status == NVMX_OK ? advance(&in, in.rflags) : status;
}

/* Mostly RIP alone changes. Only where a carry reaches its upper half does the mode matter: outside 64-bit mode it has 32 bits. */
static enum nvmx_status skip(struct nvmx_vcpu *vcpu, uint32_t vmcs) {
    enum { SKIP_RIP, SKIP_LENGTH, SKIP_RFLAGS, SKIP_INTERRUPTIBILITY, SKIP_COUNT };
    static const uint32_t encoding[SKIP_COUNT] = {
        [SKIP_RIP] = NVMX_VMCS_GUEST_RIP,
        [SKIP_LENGTH] = NVMX_VMCS_VM_EXIT_INSTRUCTION_LENGTH,
        [SKIP_RFLAGS] = NVMX_VMCS_GUEST_RFLAGS,
        [SKIP_INTERRUPTIBILITY] = NVMX_VMCS_GUEST_INTERRUPTIBILITY_STATE,
    };
    uint64_t is[SKIP_COUNT];
    enum nvmx_status status = host_select(vcpu, vmcs);
    if (status == NVMX_OK) {
        status = host_read_encoded(vcpu, SKIP_COUNT, encoding, is);
    }
    if (RARE(status != NVMX_OK)) {
        return status;
    }
    uint64_t rip = is[SKIP_RIP] + is[SKIP_LENGTH];
    uint64_t unusual = (is[SKIP_RFLAGS] & (RFLAGS_TF | RFLAGS_RF)) | (is[SKIP_INTERRUPTIBILITY] & BLOCKING_STI_MOV_SS) |
                       (is[SKIP_RIP] ^ rip) >> 32;
    return RARE(unusual != 0) ? skip_with_care(vcpu, vmcs) : host_write(vcpu, NVMX_F_GUEST_RIP, rip);
}

enum nvmx_status l1_skip(struct nvmx_vcpu *vcpu) {
    return skip(vcpu, NVMX_VMCS01);
}

/* SDM 28.5.2: with the monitor trap flag an exit is pending after each instruction. Of this one hardware knows nothing: it is given the exit. */
enum nvmx_status l2_instruction_over(struct nvmx_vcpu *vcpu) {
    const bool traps = (vmcs12_current(vcpu)->value[NVMX_F_PRIMARY_CONTROLS] & PROC_MONITOR_TRAP) != 0;

    return RARE(traps) ? host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, EVENT_MTF) : NVMX_OK;
}

enum nvmx_status l2_skip(struct nvmx_vcpu *vcpu) {
    enum nvmx_status status = skip(vcpu, vcpu->selected);

    return status == NVMX_OK ? l2_instruction_over(vcpu) : status;
}

/* 0FH 01H C2H or C3H, as every assembler has it: prefixes that these take do nothing. */
#define VM_ENTRY_LENGTH 3u

enum nvmx_next vm_fail_valid(struct nvmx_vcpu *vcpu, uint32_t error) {
    struct batch out;
    struct instruction in = {.out = &out};
    uint32_t information;
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK) {
        status = read_base(vcpu, &in, BASE_CS_RIGHTS, BASE_INFO, &information);
    }
    if (status != NVMX_OK) {
        return stopped(vcpu, status);
    }
    if (vcpu->entry_pending == ENTRY_RESTORED) {
        in.length = VM_ENTRY_LENGTH; /* no exit of this vmcs01 was for it */
    }
    return complete_fail(&in, error);
}

enum nvmx_next l1_raise(struct nvmx_vcpu *vcpu, const struct l1_fault *fault) {
    uint64_t cr0 = CR0_PE;
    enum nvmx_status status = host_select(vcpu, NVMX_VMCS01);
    if (status == NVMX_OK && fault->has_error_code) {
        status = host_read(vcpu, NVMX_F_GUEST_CR0, &cr0);
    }
    if (status != NVMX_OK) {
        return stopped(vcpu, status);
    }
    return raise(vcpu, fault, fault->has_error_code && (cr0 & CR0_PE) != 0);
}

enum nvmx_next l1_raise_gp(struct nvmx_vcpu *vcpu) {
    return l1_raise(vcpu, &(struct l1_fault){.vector = VECTOR_GP0, .has_error_code = true});
}

enum nvmx_next l1_raise_ud(struct nvmx_vcpu *vcpu) {
    return l1_raise(vcpu, &(struct l1_fault){.vector = VECTOR_UD});
}
