/* SPDX-License-Identifier: MIT */
/*
 * Option `move-in`: this machine has no image to start; its L1 comes over COM2. Everything in the stream is checked; what breaks a rule ends it, and
 * nothing of it has run. L1 runs when MOVE_GO has come, and not before.
 */
#include <nvmx/state.h>

#include "console.h"
#include "l1.h"
#include "move.h"

#define ASK_AGAIN_POLLS (1ull << 20)
#define SILENCE_POLLS   (1ull << 30)

enum stage { WAITING, PAGES, STATE, COMPLETE };

static struct {
    enum stage stage;
    uint32_t session, sequence;
    uint64_t pages;
    uint32_t blob_bytes;
    struct move_begin begin;
    struct move_state state;
    uint8_t blob[MOVE_BLOB_MAX] __attribute__((aligned(8)));
} in;

static uint8_t payload[MOVE_PAYLOAD_MAX] __attribute__((aligned(64)));

const struct nvmx_caps *move_caps(void) {
    return in.stage != WAITING && in.begin.exposed ? &in.begin.caps : NULL;
}

static _Noreturn void refuse(const char *why) {
    uint32_t length = 0;

    while (why[length])
        length++;
    move_link_send(MOVE_REFUSE, in.session, 0, why, length);
    panic("move: %s; nothing of it has run here", why);
}

/* -- MOVE_BEGIN --------------------------------------------------------------------------------------------------- */

static const char *check_memory(void) {
    const struct memory_map *map = memory_map();

    if (in.begin.regions != map->count)
        return "this machine's memory map differs: give it as much memory as the other one (boot --memory)";
    for (uint32_t i = 0; i < map->count; i++)
        if (in.begin.region[i].start != map->region[i].start || in.begin.region[i].end != map->region[i].end ||
            in.begin.region[i].type != map->region[i].type)
            return "this machine's memory map differs: give it as much memory as the other one (boot --memory)";
    if (in.begin.own_start != memory_own()->start || in.begin.own_end != memory_own()->end)
        return "L0 has another place here: give it the same option memory=MIB";
    return NULL;
}

static const char *check_cpu(struct cpu *cpu, void *vm, void *vcpu) {
    static char text[MOVE_TEXT_MAX] = "this machine lacks what L1 saw: ";
    static struct nvmx_caps possible;
    enum nvmx_status status;

    options.hide_vmx = !in.begin.exposed;
    status = host_make_vm(cpu, vm);
    if (status == NVMX_OK && in.begin.exposed)
        possible = *nvmx_l1_caps(cpu->vm);
    if (status == NVMX_OK)
        nvmx_vm_destroy(cpu->vm);
    if (move_missing(&in.begin, &possible, text, sizeof text))
        return text;
    in.stage = PAGES;
    if (host_make_vm(cpu, vm) != NVMX_OK)
        return "libnvmx does not make a VM with the capabilities that L1 saw";
    return host_make_vcpu(cpu, vcpu) == NVMX_OK ? NULL : "libnvmx does not start";
}

static void clear_memory(void) {
    for (uint64_t gpa1 = memory_usable_from(0); gpa1 < memory_direct_end(); gpa1 = memory_usable_from(gpa1 + PAGE_BYTES))
        memset(phys_to_virt(gpa1), 0, PAGE_BYTES);
}

static const char *begin(struct cpu *cpu, uint32_t bytes) {
    const char *why;

    if (in.stage != WAITING || bytes != sizeof in.begin)
        return "the stream does not begin as it must";
    memcpy(&in.begin, payload, sizeof in.begin);
    if (in.begin.version != MOVE_VERSION)
        return "the stream has a version that this L0 does not know";
    if (in.begin.cpuids > MOVE_CPUID_MAX || in.begin.exposed > 1)
        return "the stream does not begin as it must";
    why = check_memory();
    if (!why)
        why = check_cpu(cpu, pages_take(nvmx_vm_size()), pages_take(nvmx_vcpu_size()));
    if (why)
        return why;
    move_cpuid_use(&in.begin);
    clear_memory();
    print("nvmx: move: L1 is coming\n");
    return NULL;
}

/* -- the rest ----------------------------------------------------------------------------------------------------- */

static const char *page(uint32_t bytes) {
    const uint64_t *from = (const uint64_t *)payload, *bits = from + 1;
    uint32_t count = 0;
    uint64_t *word;

    if (in.stage != PAGES || bytes < 72 || from[0] % PAGE_BYTES || from[0] >= memory_direct_end() ||
        !memory_is_usable(from[0], from[0] + PAGE_BYTES))
        return "a page where L1 has no memory";
    for (uint32_t i = 0; i < 512; i++)
        count += bits[i / 64] >> i % 64 & 1;
    if (bytes != 72 + 8 * count)
        return "a page of a wrong length";
    word = phys_to_virt(from[0]);
    from += 9;
    for (uint32_t i = 0; i < 512; i++)
        word[i] = bits[i / 64] >> i % 64 & 1 ? *from++ : 0;
    in.pages++;
    return NULL;
}

static const char *state(uint32_t bytes) {
    const char *why = move_state_check((const struct move_state *)payload, bytes);

    if (in.stage != PAGES)
        return "the processor's state where it must not be";
    if (why)
        return why;
    memcpy(&in.state, payload, sizeof in.state);
    in.stage = STATE;
    return NULL;
}

static const char *blob(uint32_t bytes) {
    uint64_t at;

    memcpy(&at, payload, 8);
    if (in.stage != STATE || bytes < 8 || at != in.blob_bytes || bytes - 8 > MOVE_BLOB_MAX - in.blob_bytes)
        return "nested state where it must not be";
    memcpy(in.blob + at, payload + 8, bytes - 8);
    in.blob_bytes += bytes - 8;
    return NULL;
}

static const char *restore(struct cpu *cpu) {
    static char text[MOVE_TEXT_MAX] = "the nested state is refused: ";
    struct nvmx_state_error error;

    if (nvmx_state_restore(cpu->vcpu, in.blob, in.blob_bytes, &error) != NVMX_STATE_OK) {
        move_append(text, sizeof text, nvmx_state_reason_text(error.reason));
        move_append(text, sizeof text, ", detail ");
        move_append_number(text, sizeof text, error.detail, 16);
        return text;
    }
    follow_mode(cpu);
    return nvmx_state_complete(cpu->vcpu) == NVMX_OK ? NULL : "libnvmx can't complete the nested state";
}

/* Everything that can fail is done before the answer. */
static const char *done(struct cpu *cpu, uint32_t bytes) {
    static const struct l1_start none;
    const char *why;
    uint64_t expected;

    memcpy(&expected, payload, 8);
    if (in.stage != STATE || bytes != 8 || expected != in.blob_bytes)
        return "the stream ends too early";
    vmcs01_init(cpu, &none);
    why = move_state_load(cpu, &in.state);
    if (!why)
        why = restore(cpu);
    if (!why)
        in.stage = COMPLETE;
    return why;
}

static const char *take(struct cpu *cpu, const struct move_frame *frame) {
    switch (frame->type) {
    case MOVE_BEGIN:
        return begin(cpu, frame->length);
    case MOVE_PAGE:
        return page(frame->length);
    case MOVE_STATE:
        return state(frame->length);
    case MOVE_BLOB:
        return blob(frame->length);
    case MOVE_DONE:
        return done(cpu, frame->length);
    case MOVE_GO:
        return in.stage == COMPLETE ? NULL : "told to go before everything was there";
    default:
        return "a frame of an unknown kind";
    }
}

static void ask(void) {
    const uint32_t request[2] = {MOVE_VERSION, MOVE_WISH_MOVE};

    move_link_send(MOVE_REQUEST, in.session, 0, request, sizeof request);
}

/* The next frame of this session. */
static void receive(struct move_frame *frame) {
    for (;;) {
        switch (move_link_receive(frame, payload, in.stage == WAITING ? ASK_AGAIN_POLLS : SILENCE_POLLS)) {
        case MOVE_NOTHING:
            if (in.stage != WAITING)
                refuse("the other side is silent");
            ask();
            continue;
        case MOVE_DAMAGED:
            refuse("the stream is damaged");
        case MOVE_FRAME:
            break;
        }
        if (frame->type == MOVE_LOST)
            refuse("the link is lost before L1 was given away");
        if (frame->session != in.session)
            continue;
        if (frame->type == MOVE_REFUSE)
            refuse("the other side gives it up");
        if (frame->sequence != ++in.sequence)
            refuse("a frame is missing");
        return;
    }
}

void move_in(struct cpu *cpu) {
    struct move_frame frame = {0};

    in.session = (uint32_t)(rdmsr(MSR_TSC) * 0x9e3779b97f4a7c15ull >> 32);
    print("nvmx: move: asking for an L1 on COM2\n");
    ask();
    while (frame.type != MOVE_GO) {
        const char *why;

        receive(&frame);
        why = take(cpu, &frame);
        if (why)
            refuse(why);
        move_link_send(MOVE_ACK, in.session, 0, &frame.sequence, 4);
    }
    print("nvmx: move: L1 goes on here after %lu pages\n", in.pages);
    move_state_go(&in.state);
}
