/* SPDX-License-Identifier: MIT */
/*
 * Events while L2 runs: what the host has for L1 or for L2, and events in flight.
 *
 * A host that passes interrupts and NMIs through to L1 has nothing pending here; hardware and vmcs12's controls, which
 * are in vmcs02, do it all.
 */
#include "exits.h"

#include <nvmx/state.h>

#define TYPE_SOFTWARE_FIRST 4u
#define TYPE_SOFTWARE_LAST 6u
#define EVENT_NMI (EVENT_VALID | (EVENT_TYPE_NMI << 8) | 2u)
#define EVENT_MASK 0x80000fffu /* valid, error code, type, vector */
#define NMI_UNBLOCKING (1u << 12)
#define VECTOR_DOUBLE_FAULT 8u

/* Pending debug exceptions that are one: a bus lock, an enabled breakpoint, a single step, RTM (SDM 29.7.3). The rest says what was met. */
#define DEBUG_DUE 0x15800u
#define ACTIVITY_SHUTDOWN 2u
#define ACTIVITY_WAIT_FOR_SIPI 3u

/* -- events in flight
 * -----------------------------------------------------------------------------------------------------------------------
 */

static enum nvmx_status set_nmi_blocking(struct nvmx_vcpu *vcpu, bool blocked) {
    uint64_t state;
    enum nvmx_status status = host_read(vcpu, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, &state);

    if (status == NVMX_OK && ((state & BLOCKING_NMI) != 0) != blocked) {
        status = host_write(vcpu, NVMX_F_GUEST_INTERRUPTIBILITY_STATE, state ^ BLOCKING_NMI);
    }
    return status;
}

/* What L2 runs with decides whether anything is said of it (SDM 30.2.1, 30.2.2): with "NMI exiting" alone IRET unblocks nothing. */
static bool unblocked_by_iret(const struct vmcs12 *v, const struct nvmx_l2_exit_info *info) {
    if ((v->image[NVMX_F_PIN_BASED_CONTROLS] & (PIN_NMI | PIN_VIRTUAL_NMIS)) == PIN_NMI) {
        return false;
    }
    switch (info->reason & 0xffff) {
    case NVMX_EXIT_EXCEPTION_OR_NMI:
        return (info->interruption_info & NMI_UNBLOCKING) != 0 &&
               (info->interruption_info & 0xff) != VECTOR_DOUBLE_FAULT;
    case NVMX_EXIT_EPT_VIOLATION:
    case NVMX_EXIT_PML_FULL:
    case NVMX_EXIT_SPP_EVENT:
    case NVMX_EXIT_INSTRUCTION_TIMEOUT:
        return (info->qualification & NMI_UNBLOCKING) != 0;
    default:
        return false;
    }
}

static enum nvmx_status requeue(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info) {
    uint32_t event = info->idt_vectoring_info & EVENT_MASK;
    enum nvmx_status status = host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, event);

    if (status == NVMX_OK && (event & EVENT_ERROR_CODE) != 0) {
        status = host_write(vcpu, NVMX_F_VM_ENTRY_EXCEPTION_ERROR_CODE, info->idt_vectoring_error_code);
    }
    if (status == NVMX_OK && EVENT_TYPE(event) >= TYPE_SOFTWARE_FIRST && EVENT_TYPE(event) <= TYPE_SOFTWARE_LAST) {
        uint64_t length = 0;
        status = host_read(vcpu, NVMX_F_VM_EXIT_INSTRUCTION_LENGTH, &length);
        if (status == NVMX_OK) {
            status = host_write(vcpu, NVMX_F_VM_ENTRY_INSTRUCTION_LENGTH, length);
        }
    }
    if (status == NVMX_OK && EVENT_TYPE(event) == EVENT_TYPE_NMI) {
        /* Delivery blocked NMIs already; the injection will do so again. */
        status = set_nmi_blocking(vcpu, false);
    }
    return status;
}

enum nvmx_status event_requeue(struct nvmx_vcpu *vcpu, const struct exit_row *row,
                               const struct nvmx_l2_exit_info *info) {
    if ((row->information & INFO_O) == 0) {
        return NVMX_OK;
    }
    if ((info->idt_vectoring_info & EVENT_VALID) != 0) {
        return requeue(vcpu, info);
    }
    /* SDM 30.2.3: IRET unblocked NMIs and then faulted; blocking comes back, since the IRET runs again. */
    return unblocked_by_iret(vmcs12_current(vcpu), info) ? set_nmi_blocking(vcpu, true) : NVMX_OK;
}

/* SDM 30.2.3, 30.3.4: an exit while an NMI is delivered finds NMIs blocked, and one of an IRET that had unblocked them does not. */
enum nvmx_status event_not_requeued(struct nvmx_vcpu *vcpu, const struct nvmx_l2_exit_info *info) {
    uint32_t event = info->idt_vectoring_info;

    if ((event & EVENT_VALID) != 0) {
        return EVENT_TYPE(event) == EVENT_TYPE_NMI ? set_nmi_blocking(vcpu, true) : NVMX_OK;
    }
    return unblocked_by_iret(vmcs12_current(vcpu), info) ? set_nmi_blocking(vcpu, false) : NVMX_OK;
}

/* -- what the host has pending
 * ---------------------------------------------------------------------------------------------------------------- */

static bool l1_exits_on(const struct vmcs12 *v, uint32_t pin) {
    return (v->value[NVMX_F_PIN_BASED_CONTROLS] & pin) != 0;
}

/* Ask vmcs02 for an exit as soon as L2 can take the event, or leave. */
static enum nvmx_status request_window(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t window) {
    if ((vcpu->window_requested & window) != 0) {
        return NVMX_OK;
    }
    vcpu->window_requested |= window;
    return host_write(vcpu, NVMX_F_PRIMARY_CONTROLS, v->image[NVMX_F_PRIMARY_CONTROLS] | vcpu->window_requested);
}

/*
 * Without a preemption timer: the monitor trap flag ends what is delivered before L2's first instruction, too (SDM 28.5.2); without that the event waits until
 * L2 can take interrupts.
 */
static COLD enum nvmx_status exit_soon(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    bool traps = (nvmx_caps_may_be_1(&vcpu->vm->machine, NVMX_CAP_PROCBASED) & PROC_MONITOR_TRAP) != 0;

    return request_window(vcpu, v, traps ? PROC_MONITOR_TRAP : PROC_INTERRUPT_WINDOW);
}

/*
 * An event is injected with this entry, which L2 takes first (SDM 29.6); only then does anything else count. The
 * preemption timer at 0 makes L2 exit right after. vmcs12's own timer value waits in saved_timer.
 */
static enum nvmx_status exit_at_once(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    bool l1_uses = (v->image[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0;
    uint32_t offered = nvmx_caps_may_be_1(&vcpu->vm->machine, NVMX_CAP_PINBASED);
    enum nvmx_status status = NVMX_OK;

    if ((offered & PIN_PREEMPTION_TIMER) == 0) {
        return exit_soon(vcpu, v);
    }
    if (vcpu->timer_forced) {
        return NVMX_OK;
    }
    if (l1_uses) {
        status = host_read(vcpu, NVMX_F_PREEMPTION_TIMER_VALUE, &vcpu->saved_timer);
    }
    if (status == NVMX_OK) {
        status = host_write(vcpu, NVMX_F_PREEMPTION_TIMER_VALUE, 0);
    }
    if (status == NVMX_OK) {
        status =
            host_write(vcpu, NVMX_F_PIN_BASED_CONTROLS, v->image[NVMX_F_PIN_BASED_CONTROLS] | PIN_PREEMPTION_TIMER);
        vcpu->timer_forced = status == NVMX_OK;
    }
    return status;
}

static enum nvmx_status end_forced_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    bool l1_uses = (v->image[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0;
    enum nvmx_status status = host_write(vcpu, NVMX_F_PIN_BASED_CONTROLS, v->image[NVMX_F_PIN_BASED_CONTROLS]);

    if (status == NVMX_OK && l1_uses) {
        status = host_write(vcpu, NVMX_F_PREEMPTION_TIMER_VALUE, vcpu->saved_timer);
    }
    vcpu->timer_forced = false;
    return status;
}

enum nvmx_status event_end(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    enum nvmx_status status = vcpu->timer_forced ? end_forced_exit(vcpu, v) : NVMX_OK;

    if (status == NVMX_OK && vcpu->window_requested != 0) {
        status = host_write(vcpu, NVMX_F_PRIMARY_CONTROLS, v->image[NVMX_F_PRIMARY_CONTROLS]);
        vcpu->window_requested = 0;
    }
    return status;
}

enum nvmx_status event_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, bool *handled) {
    uint64_t not_l1s = vcpu->window_requested & ~v->value[NVMX_F_PRIMARY_CONTROLS];

    *handled = (vcpu->timer_forced && reason == NVMX_EXIT_PREEMPTION_TIMER) ||
               (reason == NVMX_EXIT_INTERRUPT_WINDOW && (not_l1s & PROC_INTERRUPT_WINDOW) != 0) ||
               (reason == NVMX_EXIT_MONITOR_TRAP_FLAG && (not_l1s & PROC_MONITOR_TRAP) != 0) ||
               (reason == NVMX_EXIT_NMI_WINDOW && (not_l1s & PROC_NMI_WINDOW) != 0);
    return event_end(vcpu, v);
}

enum nvmx_next reflect_without_exit(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t information,
                                    const struct nvmx_l2_exit_info *info) {
    enum nvmx_status status = event_end(vcpu, v);

    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    struct nvmx_l2_exit_info with = *info;
    with.reason = bus_lock_noted(vcpu, v, info->reason);
    nvmx_set_remove(&v->known, NVMX_F_VM_ENTRY_INTERRUPTION_INFO);
    return reflect(vcpu, v, information & ~INFO_INSTRUCTION, &with);
}

/* L2's own readiness for an event. */
struct readiness {
    uint64_t entry_info;
    uint64_t interruptibility;
    uint64_t rflags;
    uint64_t activity;
    uint64_t debug;
    bool timer_over; /* vmcs12's preemption timer */
};

static enum nvmx_status read_readiness(struct nvmx_vcpu *vcpu, const struct vmcs12 *v, struct readiness *r) {
    static const uint8_t slots[] = {
        NVMX_F_VM_ENTRY_INTERRUPTION_INFO,
        NVMX_F_GUEST_INTERRUPTIBILITY_STATE,
        NVMX_F_GUEST_RFLAGS,
        NVMX_F_GUEST_ACTIVITY_STATE,
        NVMX_F_GUEST_PENDING_DEBUG_EXCEPTIONS,
        NVMX_F_PREEMPTION_TIMER_VALUE,
    };
    uint64_t value[6];
    bool timer = (v->image[NVMX_F_PIN_BASED_CONTROLS] & PIN_PREEMPTION_TIMER) != 0;
    enum nvmx_status status = host_read_many(vcpu, timer ? 6 : 5, slots, value);

    if (status == NVMX_OK) {
        *r = (struct readiness){.entry_info = value[0],
                                .interruptibility = value[1],
                                .rflags = value[2],
                                .activity = value[3],
                                .debug = value[4],
                                .timer_over = timer && !vcpu->timer_forced && value[5] == 0};
    }
    return status;
}

static enum nvmx_status inject(struct nvmx_vcpu *vcpu, struct readiness *r, uint32_t event) {
    r->entry_info = event;
    return host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, event);
}

static enum nvmx_status inject_nmi(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct readiness *r,
                                   struct nvmx_pending *pending) {
    if ((r->interruptibility & (BLOCKING_STI_MOV_SS | BLOCKING_NMI)) != 0) {
        /* NMI-window exiting needs virtual NMIs; without them the next exit has to do. */
        bool can_wait = (v->image[NVMX_F_PIN_BASED_CONTROLS] & PIN_VIRTUAL_NMIS) != 0;
        return can_wait ? request_window(vcpu, v, PROC_NMI_WINDOW) : NVMX_OK;
    }
    pending->nmi = false;
    return inject(vcpu, r, EVENT_NMI);
}

static int acknowledge(struct nvmx_vcpu *vcpu) {
    if (vcpu->vm->host.ack_interrupt == NULL) {
        return -1;
    }
    vcpu->counts.callback[CB_ACK_INTERRUPT]++;
    return vcpu->vm->host.ack_interrupt(vcpu->ctx);
}

static enum nvmx_status inject_interrupt(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct readiness *r) {
    if ((r->interruptibility & BLOCKING_STI_MOV_SS) != 0 || (r->rflags & RFLAGS_IF) == 0) {
        return request_window(vcpu, v, PROC_INTERRUPT_WINDOW);
    }
    int vector = acknowledge(vcpu);
    return vector < 0 ? NVMX_OK : inject(vcpu, r, EVENT_VALID | ((uint32_t)vector & 0xff));
}

/* An exit for an event of L1's; nothing else happened in L2. */
static enum nvmx_next reflect_event(struct nvmx_vcpu *vcpu, struct vmcs12 *v, uint32_t reason, uint32_t event,
                                    uint64_t qualification) {
    struct nvmx_l2_exit_info info = {.reason = reason, .interruption_info = event, .qualification = qualification};

    return reflect_without_exit(vcpu, v, exit_row(reason)->information, &info);
}

static enum nvmx_next reflect_interrupt(struct nvmx_vcpu *vcpu, struct vmcs12 *v) {
    uint32_t event = 0;

    if ((v->value[NVMX_F_VM_EXIT_CONTROLS] & EXIT_ACKNOWLEDGE) != 0) {
        int vector = acknowledge(vcpu);
        if (vector < 0) {
            return NVMX_ENTER;
        }
        event = EVENT_VALID | ((uint32_t)vector & 0xff);
    }
    return reflect_event(vcpu, v, NVMX_EXIT_EXTERNAL_INTERRUPT, event, 0);
}

static enum nvmx_next go_on(struct nvmx_vcpu *vcpu, enum nvmx_status status) {
    return status == NVMX_OK ? NVMX_ENTER : stop(vcpu, NVMX_STOP_HOST, status);
}

/* With "NMI exiting" but without virtual NMIs blocking by NMI is the processor's own, and holds an exit off (SDM 28.2).
 */
static bool nmi_exits(const struct vmcs12 *v, const struct readiness *r) {
    return l1_exits_on(v, PIN_NMI) && (l1_exits_on(v, PIN_VIRTUAL_NMIS) || (r->interruptibility & BLOCKING_NMI) == 0);
}

/* -- what hardware does first: L2 leaves, or takes it, as soon as it is entered ------------------------------------------------------------------ */

/* SDM 29.7.7: the exit by the TPR threshold that L1's VM entry finds due. Without memory vmcs02 has no virtual-APIC page. */
static bool threshold_first(const struct nvmx_vcpu *vcpu, const struct vmcs12 *v, const struct readiness *r) {
    const uint8_t *page = v->pin[PIN_VIRTUAL_APIC].page;
    uint32_t secondary = secondary_controls(v);

    if (!vcpu->entry_pending || page == NULL || (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_TPR_SHADOW) == 0 ||
        (secondary & (PROC2_APIC_ACCESSES | PROC2_VIRTUAL_INTERRUPTS)) != PROC2_APIC_ACCESSES || r->activity >= ACTIVITY_SHUTDOWN) {
        return false;
    }
    return (v->value[NVMX_F_TPR_THRESHOLD] & 15) > __atomic_load_n(&page[VTPR_OFFSET], __ATOMIC_RELAXED) >> 4;
}

static bool debug_trap_first(const struct readiness *r) {
    return (r->debug & DEBUG_DUE) != 0 && (r->interruptibility & BLOCKING_MOV_SS) == 0 && r->activity < ACTIVITY_SHUTDOWN;
}

/* L1's window exits come right before the event that they are about (SDM 28.2). */
static bool nmi_window_first(const struct vmcs12 *v, const struct readiness *r) {
    return (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_NMI_WINDOW) != 0 &&
           (r->interruptibility & (BLOCKING_STI_MOV_SS | BLOCKING_NMI)) == 0;
}

static bool interrupt_window_first(const struct vmcs12 *v, const struct readiness *r) {
    return (v->value[NVMX_F_PRIMARY_CONTROLS] & PROC_INTERRUPT_WINDOW) != 0 && (r->rflags & RFLAGS_IF) != 0 &&
           (r->interruptibility & BLOCKING_STI_MOV_SS) == 0;
}

static enum nvmx_next deliver_interrupt(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct readiness *r,
                                        const struct nvmx_pending *pending) {
    if (!pending->interrupt) {
        return NVMX_ENTER;
    }
    /* An NMI that was injected just now ends shutdown too. */
    if ((r->entry_info & EVENT_VALID) != 0) {
        return go_on(vcpu, exit_at_once(vcpu, v));
    }
    if (r->activity == ACTIVITY_SHUTDOWN || interrupt_window_first(v, r)) {
        return NVMX_ENTER;
    }
    return l1_exits_on(v, PIN_EXTERNAL_INTERRUPT) ? reflect_interrupt(vcpu, v)
                                                  : go_on(vcpu, inject_interrupt(vcpu, v, r));
}

/* NMI, interrupt. An NMI that L2 can't take yet holds no interrupt off. */
static enum nvmx_next deliver_events(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct readiness *r,
                                     struct nvmx_pending *pending) {
    if (nmi_window_first(v, r)) {
        return NVMX_ENTER;
    }
    if (pending->nmi && nmi_exits(v, r)) {
        pending->nmi = false;
        return reflect_event(vcpu, v, NVMX_EXIT_EXCEPTION_OR_NMI, EVENT_NMI, 0);
    }
    if (pending->nmi && !l1_exits_on(v, PIN_NMI)) {
        enum nvmx_status status = inject_nmi(vcpu, v, r, pending);
        if (status != NVMX_OK) {
            return stop(vcpu, NVMX_STOP_HOST, status);
        }
    }
    return deliver_interrupt(vcpu, v, r, pending);
}

/*
 * In the SDM's order (7.9, 28.2, 29.6, 29.7): what the entry injects; a bus lock that L1 has not heard of; the TPR threshold; INIT; a pending MTF exit, which
 * is injected too but comes after INIT; debug traps; the preemption timer; NMI window, NMI; interrupt window, interrupt.
 */
static enum nvmx_next deliver_in_order(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct readiness *r,
                                       struct nvmx_pending *pending) {
    bool injects = (r->entry_info & EVENT_VALID) != 0;
    bool trap_flag = injects && EVENT_TYPE(r->entry_info) == EVENT_TYPE_OTHER;

    if (injects && !trap_flag) {
        return go_on(vcpu, exit_at_once(vcpu, v));
    }
    if (vcpu->bus_lock) {
        return reflect_event(vcpu, v, NVMX_EXIT_BUS_LOCK, 0, 0);
    }
    if (threshold_first(vcpu, v, r)) {
        return trap_flag ? NVMX_ENTER : go_on(vcpu, exit_at_once(vcpu, v)); /* L2 leaves by the one or the other */
    }
    if (pending->init) {
        pending->init = false;
        return reflect_event(vcpu, v, NVMX_EXIT_INIT_SIGNAL, 0, 0);
    }
    if (trap_flag) {
        return NVMX_ENTER;
    }
    if (debug_trap_first(r)) {
        return go_on(vcpu, exit_at_once(vcpu, v));
    }
    if (vcpu->timer_runs && timer_remainder(vcpu) == 0) {
        return reflect_event(vcpu, v, NVMX_EXIT_PREEMPTION_TIMER, 0, 0);
    }
    return r->timer_over ? NVMX_ENTER : deliver_events(vcpu, v, r, pending);
}

/* SDM 28.2, 29.7.2: waiting for a start-up IPI L2 takes nothing else; a SIPI that finds it in another state is dropped. */
static enum nvmx_next deliver(struct nvmx_vcpu *vcpu, struct vmcs12 *v, struct nvmx_pending *pending) {
    bool timer_over = vcpu->timer_runs && timer_remainder(vcpu) == 0;
    struct readiness r;
    enum nvmx_status status;

    if (!pending->init && !pending->sipi && !pending->nmi && !pending->interrupt && !timer_over && !vcpu->bus_lock) {
        return NVMX_ENTER;
    }
    status = read_readiness(vcpu, v, &r);
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    bool has_sipi = pending->sipi;
    pending->sipi = false;
    if (r.activity == ACTIVITY_WAIT_FOR_SIPI) {
        return has_sipi ? reflect_event(vcpu, v, NVMX_EXIT_STARTUP_IPI, 0, pending->sipi_vector) : NVMX_ENTER;
    }
    if (!pending->init && !pending->nmi && !pending->interrupt && !timer_over && !vcpu->bus_lock) {
        return NVMX_ENTER;
    }
    return deliver_in_order(vcpu, v, &r, pending);
}

static COLD enum nvmx_status end_step(struct nvmx_vcpu *vcpu) {
    static const uint8_t slots[] = {NVMX_F_GUEST_RIP, NVMX_F_VM_ENTRY_INTERRUPTION_INFO};
    uint64_t value[2];
    enum nvmx_status status = host_read_many(vcpu, 2, slots, value);

    if (status == NVMX_OK && step_is_over(vcpu, value[0], value[1])) {
        status = host_write(vcpu, NVMX_F_VM_ENTRY_INTERRUPTION_INFO, EVENT_MTF);
    }
    return status;
}

/* What the host did since L2's exit, before L2 goes on. The windows that were requested since stay so, should vmcs02's primary controls be written anew. */
static enum nvmx_status catch_up(struct nvmx_vcpu *vcpu, struct vmcs12 *v, bool step_with_host) {
    const bool merges = vcpu->vmcs01_changed || vcpu->pages_changed;
    enum nvmx_status status = step_with_host ? end_step(vcpu) : NVMX_OK;

    if (status == NVMX_OK && vcpu->vmcs01_changed) {
        status = merge_vmcs01_again(vcpu, v);
        vcpu->vmcs01_changed = status != NVMX_OK;
        if (status == NVMX_OK && has_apic_page_on_ept01(v)) {
            entry_forgets_ept01(vcpu, v);
        }
    }
    if (status == NVMX_OK && vcpu->pages_changed) {
        status = merge_pages_again(vcpu, v);
        vcpu->pages_changed = status != NVMX_OK;
    }
    if (status == NVMX_OK && merges && vcpu->window_requested != 0) {
        status = host_write(vcpu, NVMX_F_PRIMARY_CONTROLS, v->image[NVMX_F_PRIMARY_CONTROLS] | vcpu->window_requested);
    }
    return status;
}

static COLD enum nvmx_next enter_with_care(struct nvmx_vcpu *vcpu, struct nvmx_pending *pending) {
    struct vmcs12 *v = vmcs12_current(vcpu);

    if (vcpu->stop != NVMX_STOP_NONE) {
        return NVMX_STOP;
    }
    enum nvmx_status status = vcpu->restore_pending ? nvmx_state_complete(vcpu) : NVMX_OK;
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    bool step_with_host = vcpu->step_with_host;
    vcpu->step_with_host = false;
    if (vcpu->mode != NVMX_MODE_L2) {
        vcpu->vmcs01_changed = false; /* L1's next entry reads vmcs01 */
        return NVMX_ENTER;
    }
    status = catch_up(vcpu, v, step_with_host);
    if (status != NVMX_OK) {
        return stop(vcpu, NVMX_STOP_HOST, status);
    }
    struct nvmx_pending none = {0};
    return deliver(vcpu, v, pending != NULL ? pending : &none);
}

enum nvmx_next nvmx_enter(struct nvmx_vcpu *vcpu, struct nvmx_pending *pending) {
    return RARE(vcpu->care != 0 || pending != NULL) ? enter_with_care(vcpu, pending) : NVMX_ENTER;
}
