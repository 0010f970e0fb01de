/* SPDX-License-Identifier: MIT */
/* Records for nvmx_host.trace (nvmx/trace.h). Nothing here runs for a host without that callback. */
#include <nvmx/checks.h>
#include <nvmx/trace.h>

#include <string.h>

#include "vcpu.h"

static uint16_t since(uint64_t now, uint64_t *before) {
    uint64_t count = now - *before;

    *before = now;
    return count < UINT16_MAX ? (uint16_t)count : UINT16_MAX;
}

static void count_calls(struct nvmx_vcpu *vcpu, struct nvmx_trace_record *record) {
    const struct nvmx_counts *counts = &vcpu->counts;
    uint64_t calls = 0;

    for (unsigned int i = 0; i < sizeof(counts->callback) / sizeof(counts->callback[0]); i++) {
        calls += i != CB_TRACE ? counts->callback[i] : 0;
    }
    record->callbacks = since(calls, &vcpu->traced.callbacks);
    record->vmreads = since(counts->vmreads, &vcpu->traced.vmreads);
    record->vmwrites = since(counts->vmwrites, &vcpu->traced.vmwrites);
}

static void hand_over(struct nvmx_vcpu *vcpu, struct nvmx_trace_record *record) {
    record->version = NVMX_TRACE_VERSION;
    record->vcpu = (uint16_t)vcpu->id;
    record->number = vcpu->traced.number++;
    record->vmcs12 = vmcs12_pointer(vcpu);
    count_calls(vcpu, record);
    vcpu->counts.callback[CB_TRACE]++;
    vcpu->vm->host.trace(vcpu->ctx, record);
}

void trace_record(struct nvmx_vcpu *vcpu, enum nvmx_trace_event event, uint64_t a, uint64_t b) {
    const struct vmcs12 *v = vmcs12_current(vcpu);
    struct nvmx_trace_record record = {
        .event = (uint8_t)event, .reason = (uint32_t)a, .detail = b, .level = 1, .check_row = NVMX_CHECK_NONE};

    switch (event) {
    case NVMX_TRACE_ENTER_L2:
        record.handler = NVMX_TRACE_BY_L2;
        break;
    case NVMX_TRACE_REFLECT:
        record.level = 2;
        record.handler = NVMX_TRACE_BY_L1;
        record.interruption_info = (uint32_t)v->value[NVMX_F_VM_EXIT_INTERRUPTION_INFO];
        break;
    case NVMX_TRACE_VMFAIL:
        record.handler = NVMX_TRACE_BY_L1;
        record.check_row = (uint16_t)b;
        record.detail = 0;
        break;
    case NVMX_TRACE_ENTRY_FAIL:
        record.handler = NVMX_TRACE_BY_L1;
        record.check_row = (uint16_t)b;
        record.detail = v->value[NVMX_F_EXIT_QUALIFICATION];
        break;
    default:
        record.handler = NVMX_TRACE_BY_L1;
        break;
    }
    hand_over(vcpu, &record);
}

void trace_exit(struct nvmx_vcpu *vcpu, bool from_l2, uint32_t exit_reason, enum nvmx_next next) {
    struct nvmx_trace_record record = {.event = NVMX_TRACE_EXIT,
                                       .reason = exit_reason,
                                       .level = from_l2 ? 2 : 1,
                                       .handler = next == NVMX_HOST ? NVMX_TRACE_BY_HOST : NVMX_TRACE_BY_LIBRARY,
                                       .check_row = NVMX_CHECK_NONE};

    if (next == NVMX_STOP) {
        record.event = NVMX_TRACE_STOP;
        record.detail = vcpu->stop;
    }
    hand_over(vcpu, &record);
}

void nvmx_trace_header_init(struct nvmx_trace_header *out, uint64_t ticks_per_second, uint64_t lost) {
    memset(out, 0, sizeof(*out));
    memcpy(out->magic, NVMX_TRACE_MAGIC, sizeof(out->magic));
    out->version = NVMX_TRACE_VERSION;
    out->record_bytes = sizeof(struct nvmx_trace_record);
    out->ticks_per_second = ticks_per_second;
    out->lost = lost;
    out->check_rows = NVMX_CHECK_COUNT;
}

const char *nvmx_trace_event_text(uint32_t event) {
    static const char *const text[] = {
        [NVMX_TRACE_ENTER_L2] = "VM entry", [NVMX_TRACE_REFLECT] = "exit to L1",      [NVMX_TRACE_EXIT] = "exit",
        [NVMX_TRACE_VMFAIL] = "VMfail",     [NVMX_TRACE_ENTRY_FAIL] = "entry failed", [NVMX_TRACE_FAULT] = "fault",
        [NVMX_TRACE_STOP] = "stopped",
    };

    return event < sizeof(text) / sizeof(text[0]) && text[event] != NULL ? text[event] : "unknown event";
}

const char *nvmx_trace_handler_text(uint32_t handler) {
    static const char *const text[] = {
        [NVMX_TRACE_BY_HOST] = "host",
        [NVMX_TRACE_BY_LIBRARY] = "nvmx",
        [NVMX_TRACE_BY_L1] = "L1",
        [NVMX_TRACE_BY_L2] = "L2",
    };

    return handler < sizeof(text) / sizeof(text[0]) ? text[handler] : "unknown handler";
}
