/* SPDX-License-Identifier: MIT */
/*
 * Option `move-out`: who asks for it on COM2 gets L1, or a copy of it, while L1 and L2 run. A page or so goes at each exit; when few are left that
 * changed, L1 stops, the rest follows, and the other side says that it has all. Until then this side can go on at any time, and does so
 * if the link is lost. Then comes MOVE_GO: after that L1 never runs here again, whatever answer comes or does not come.
 */
#include <nvmx/state.h>

#include "console.h"
#include "move.h"

#define FEW_PAGES       24u
#define ROUNDS_MAX      8u
#define SCANNED_AT_ONCE 256u         /* pages looked at in one exit */
#define ANSWER_TICKS    (1ull << 36) /* of the TSC, until the other side counts as lost while L1 runs */
#define ANSWER_POLLS    (1ull << 28) /* of the UART, while it doesn't */

static struct {
    bool active, waiting, copying;
    uint32_t wish, session, sequence;
    uint64_t asked, pages; /* the TSC then; how many were sent */
    size_t blob_room;
    uint8_t *blob;
} out;

static uint8_t payload[MOVE_PAYLOAD_MAX] __attribute__((aligned(64)));

static void give_up(const char *why) {
    print("nvmx: move: %s: L1 goes on here\n", why);
    out.active = false;
    out.session = 0;
}

static void send(uint32_t type, const void *data, uint32_t bytes) {
    move_link_send(type, out.session, ++out.sequence, data, bytes);
    out.waiting = true;
    out.asked = rdmsr(MSR_TSC);
}

/* -- beginning ---------------------------------------------------------------------------------------------------- */

static bool fill_begin(struct cpu *cpu, struct move_begin *begin) {
    const struct memory_map *map = memory_map();

    memset(begin, 0, sizeof *begin);
    begin->version = MOVE_VERSION;
    begin->exposed = !options.hide_vmx;
    begin->own_start = memory_own()->start;
    begin->own_end = memory_own()->end;
    begin->wish = out.wish;
    begin->tsc = rdmsr(MSR_TSC);
    if (begin->exposed)
        begin->caps = *nvmx_l1_caps(cpu->vm);
    begin->regions = map->count;
    for (uint32_t i = 0; i < map->count; i++) {
        begin->region[i].start = map->region[i].start;
        begin->region[i].end = map->region[i].end;
        begin->region[i].type = map->region[i].type;
    }
    return move_cpuid_save(begin);
}

static void requested(struct cpu *cpu, const struct move_frame *frame) {
    uint32_t version, wish;

    if (frame->length != 8)
        return;
    memcpy(&version, payload, 4);
    memcpy(&wish, payload + 4, 4);
    if (out.session == frame->session)
        return; /* asked twice, or done */
    out.session = frame->session;
    out.sequence = 0;
    out.wish = wish;
    out.pages = 0;
    out.copying = false;
    out.active = true;
    if (version != MOVE_VERSION || (wish != MOVE_WISH_MOVE && wish != MOVE_WISH_COPY)) {
        give_up("asked for in a version that this L0 does not know");
    } else if (!fill_begin(cpu, (struct move_begin *)payload)) {
        give_up("this CPU has more CPUID leafs than fit");
    } else {
        print("nvmx: move: %s asked for\n", wish == MOVE_WISH_MOVE ? "a move" : "a checkpoint");
        send(MOVE_BEGIN, payload, sizeof(struct move_begin));
        return;
    }
    move_link_send(MOVE_REFUSE, frame->session, 0, "the other side can't", 20);
}

/* -- answers ------------------------------------------------------------------------------------------------------ */

static void refused(uint32_t length) {
    payload[length < MOVE_TEXT_MAX ? length : MOVE_TEXT_MAX] = 0;
    for (uint8_t *at = payload; *at; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    print("nvmx: move: the other side refuses: %s\n", (const char *)payload);
    give_up("refused");
}

static void answer(struct cpu *cpu, const struct move_frame *frame) {
    uint32_t sequence = 0;

    if (frame->type == MOVE_REQUEST) {
        requested(cpu, frame);
        return;
    }
    if (!out.active || (frame->type != MOVE_LOST && frame->session != out.session))
        return;
    if (frame->type == MOVE_LOST) {
        give_up("the link is lost");
    } else if (frame->type == MOVE_REFUSE) {
        refused(frame->length);
    } else if (frame->type == MOVE_ACK && frame->length == 4) {
        memcpy(&sequence, payload, 4);
        if (sequence == out.sequence)
            out.waiting = false;
    }
}

/* Look for an answer; true as long as the session goes on. */
static bool listen(struct cpu *cpu, uint64_t polls) {
    struct move_frame frame;

    switch (move_link_receive(&frame, payload, polls)) {
    case MOVE_FRAME:
        answer(cpu, &frame);
        break;
    case MOVE_DAMAGED:
        if (out.active)
            give_up("a damaged answer");
        break;
    case MOVE_NOTHING:
        if (out.active && polls > 1)
            give_up("no answer");
        break;
    }
    return out.active;
}

/* While L1 stands still. */
static bool wait_for_answer(struct cpu *cpu) {
    while (out.waiting)
        if (!listen(cpu, ANSWER_POLLS))
            return false;
    return true;
}

/* -- pages -------------------------------------------------------------------------------------------------------- */

/* Words that are 0 are not sent, nor pages of nothing else in the first round: the other side begins with zeroed memory. */
static bool send_page(uint64_t gpa1, bool first_round) {
    const uint64_t *word = phys_to_virt(ept01_hpa(gpa1));
    uint64_t *to = (uint64_t *)payload, *bits = to + 1;
    uint32_t count = 0;

    memset(to, 0, 72);
    to[0] = gpa1;
    for (uint32_t i = 0; i < 512; i++)
        if (word[i]) {
            bits[i / 64] |= 1ull << i % 64;
            to[9 + count++] = word[i];
        }
    if (!count && first_round)
        return false;
    out.pages++;
    send(MOVE_PAGE, payload, 72 + 8 * count);
    return true;
}

static void next_page(struct cpu *cpu) {
    for (uint32_t looked = 0; looked < SCANNED_AT_ONCE && dirty_left() > FEW_PAGES; looked++) {
        uint64_t gpa1 = dirty_take(cpu);

        if (send_page(gpa1, dirty_rounds() == 0))
            return;
    }
}

/* -- the end ------------------------------------------------------------------------------------------------------ */

static bool finish_pages(struct cpu *cpu) {
    uint64_t gpa1;

    dirty_settle(cpu);
    while ((gpa1 = dirty_take(cpu)) != NVMX_NO_ADDRESS)
        if (send_page(gpa1, false) && !wait_for_answer(cpu))
            return false;
    return true;
}

static bool finish_state(struct cpu *cpu) {
    struct move_state *state = (struct move_state *)payload;
    const char *why = move_state_save(cpu, state);

    if (why) {
        give_up(why);
        return false;
    }
    send(MOVE_STATE, state, sizeof *state);
    return wait_for_answer(cpu);
}

static bool finish_blob(struct cpu *cpu) {
    size_t bytes = 0;

    if (!out.blob) {
        out.blob_room = nvmx_state_size(cpu->vcpu);
        out.blob = pages_take(out.blob_room);
    }
    if (nvmx_state_save(cpu->vcpu, out.blob, out.blob_room, &bytes) != NVMX_OK || bytes > MOVE_BLOB_MAX) {
        give_up("libnvmx can't save its state");
        return false;
    }
    for (uint64_t at = 0; at < bytes; at += MOVE_BLOB_CHUNK) {
        uint32_t count = (uint32_t)(bytes - at < MOVE_BLOB_CHUNK ? bytes - at : MOVE_BLOB_CHUNK);

        memcpy(payload, &at, 8);
        memcpy(payload + 8, out.blob + at, count);
        send(MOVE_BLOB, payload, 8 + count);
        if (!wait_for_answer(cpu))
            return false;
    }
    memcpy(payload, &bytes, 8);
    send(MOVE_DONE, payload, 8);
    return wait_for_answer(cpu);
}

/* Nothing here leads back to L1. */
static _Noreturn void hand_over(struct cpu *cpu) {
    send(MOVE_GO, NULL, 0);
    print("nvmx: moved: L1 is the other side's now, and never runs here again\n");
    out.copying = false;
    while (out.waiting && listen(cpu, ANSWER_POLLS)) {
    }
    print(out.waiting ? "nvmx: move: the other side did not confirm that L1 runs there\n" : "nvmx: move: L1 runs there\n");
    power_off();
}

static void finish(struct cpu *cpu) {
    uint64_t before = out.pages;

    if (!finish_pages(cpu) || !finish_state(cpu) || !finish_blob(cpu))
        return;
    print("nvmx: move: %lu pages sent in %u rounds, %lu of them while L1 stood still\n", out.pages, dirty_rounds() + 1, out.pages - before);
    if (out.wish == MOVE_WISH_MOVE)
        hand_over(cpu);
    out.active = false;
    print("nvmx: checkpoint taken: L1 goes on\n");
}

void move_out(struct cpu *cpu) {
    if (!listen(cpu, 1))
        return;
    if (out.waiting) {
        if (rdmsr(MSR_TSC) - out.asked > ANSWER_TICKS)
            give_up("no answer");
        return;
    }
    if (!out.copying) {
        if (!dirty_start(cpu)) {
            give_up("L0 has too little memory to watch L1's; give it more with the option memory=MIB");
            return;
        }
        out.copying = true;
    }
    if (dirty_left() > FEW_PAGES && dirty_rounds() < ROUNDS_MAX)
        next_page(cpu);
    else
        finish(cpu);
}
