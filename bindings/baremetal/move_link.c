/* SPDX-License-Identifier: MIT */
/*
 * COM2, and frames on it. The other side sends the next frame when it has our answer: no more than one is on its way. The link must hold bytes back
 * while nobody reads them, as an emulated UART does; on a bare wire they would be lost, the frame damaged, and the move given up.
 */
#include "move.h"

#define COM2 0x2f8

enum { DATA = COM2, IER = COM2 + 1, FCR = COM2 + 2, LCR = COM2 + 3, MCR = COM2 + 4, LSR = COM2 + 5 };
#define LSR_RECEIVED   0x01
#define LSR_READY      0x20

#define READY_TRIES    (1u << 24)
#define WITHIN_A_FRAME (1u << 26) /* polls for its next byte */

static uint32_t crc_of_byte[256];

void move_link_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (uint32_t bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        crc_of_byte[i] = crc;
    }
    outb(IER, 0);
    outb(LCR, 0x83);
    outb(DATA, 1); /* divisor 1: 115200 */
    outb(IER, 0);
    outb(LCR, 3);
    outb(FCR, 0); /* no FIFO: a byte stays with the sender until there is room for it, however long L1 runs */
    outb(MCR, 3);
}

static uint32_t crc_add(uint32_t crc, const void *data, uint32_t bytes) {
    const uint8_t *byte = data;

    for (uint32_t i = 0; i < bytes; i++)
        crc = crc >> 8 ^ crc_of_byte[(crc ^ byte[i]) & 0xff];
    return crc;
}

static uint32_t crc_of(const struct move_frame *frame, const void *payload) {
    return ~crc_add(crc_add(~0u, frame, offsetof(struct move_frame, crc)), payload, frame->length);
}

static void send(const void *data, uint32_t bytes) {
    const uint8_t *byte = data;

    for (uint32_t i = 0; i < bytes; i++) {
        for (uint32_t tries = 0; tries < READY_TRIES && !(inb(LSR) & LSR_READY); tries++) {
        }
        outb(DATA, byte[i]);
    }
}

void move_link_send(uint32_t type, uint32_t session, uint32_t sequence, const void *payload, uint32_t bytes) {
    struct move_frame frame = {
        .magic = MOVE_MAGIC, .type = type, .length = bytes, .session = session, .sequence = sequence};

    frame.crc = crc_of(&frame, payload);
    send(&frame, sizeof frame);
    send(payload, bytes);
}

/* A UART that isn't there reads as FFH. */
static bool get(uint8_t *byte, uint64_t patience) {
    uint8_t status = 0;

    for (uint64_t i = 0; i < patience && !((status = inb(LSR)) & LSR_RECEIVED); i++) {
    }
    if (!(status & LSR_RECEIVED) || status == 0xff)
        return false;
    *byte = inb(DATA);
    return true;
}

static bool get_all(void *to, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++)
        if (!get((uint8_t *)to + i, WITHIN_A_FRAME))
            return false;
    return true;
}

enum move_receive move_link_receive(struct move_frame *frame, void *payload, uint64_t patience) {
    uint8_t byte;

    frame->magic = 0;
    while (frame->magic != MOVE_MAGIC) {
        if (!get(&byte, patience))
            return MOVE_NOTHING;
        frame->magic = frame->magic >> 8 | (uint32_t)byte << 24;
        patience = WITHIN_A_FRAME;
    }
    if (!get_all(&frame->type, sizeof *frame - sizeof frame->magic) || frame->length > MOVE_PAYLOAD_MAX ||
        !get_all(payload, frame->length) || frame->crc != crc_of(frame, payload))
        return MOVE_DAMAGED;
    return MOVE_FRAME;
}
