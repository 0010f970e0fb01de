/* SPDX-License-Identifier: MIT */
/*
 * Moving L1 with its L2 to another machine, and checkpoints: a stream of frames over COM2. MOVE.md describes it bit by bit.
 *
 *     move_out.c     the machine where L1 runs: option `move-out`      dirty.c       which pages changed since they were sent
 *     move_in.c      the machine that it comes to: option `move-in`    move_cpu.c    CPUID, and what this CPU lacks
 *     move_link.c    COM2 and frames                                   move_state.c  the processor's state and COM1's
 */
#ifndef MOVE_H
#define MOVE_H

#include "host.h"

#define MOVE_VERSION       1u
#define MOVE_MAGIC         0x564d564eu /* "NVMV" */
#define MOVE_PAYLOAD_MAX   8192u
#define MOVE_BLOB_CHUNK    4096u
#define MOVE_BLOB_MAX      (256 * 1024u)
#define MOVE_TEXT_MAX      1024u

/* -- frames (move_link.c) ----------------------------------------------------------------------------------------- */

enum move_type {
    /* from the machine where L1 runs */
    MOVE_BEGIN = 1, /* struct move_begin */
    MOVE_PAGE = 2,  /* gpa1, 512 bits: which words are not 0; those words */
    MOVE_STATE = 3, /* struct move_state */
    MOVE_BLOB = 4,  /* offset; bytes of libnvmx's blob */
    MOVE_DONE = 5,  /* bytes of the blob: that was all */
    MOVE_GO = 6,    /* the VM is yours; nothing */
    /* to it */
    MOVE_REQUEST = 16, /* MOVE_VERSION, enum move_wish */
    MOVE_ACK = 17,     /* the sequence number of the frame that was dealt with; of MOVE_DONE: everything is here, checked, and can run */
    MOVE_REFUSE = 18,  /* text: why not */
    /* from the near end of the link itself */
    MOVE_LOST = 32, /* the other side is gone; nothing */
};

enum move_wish { MOVE_WISH_MOVE = 1, MOVE_WISH_COPY = 2 /* L1 goes on where it is */ };

struct move_frame {
    uint32_t magic, type;
    uint32_t length;   /* of the payload */
    uint32_t session;  /* chosen by the side that asks, at random: frames of an earlier session are not looked at */
    uint32_t sequence; /* of MOVE_BEGIN 1, then ascending by 1; else 0 */
    uint32_t crc;      /* CRC-32 (as in Ethernet) of all before it and of the payload */
};

enum move_receive { MOVE_NOTHING, MOVE_FRAME, MOVE_DAMAGED };

void move_link_init(void);
void move_link_send(uint32_t type, uint32_t session, uint32_t sequence, const void *payload, uint32_t bytes);
/* A frame, if its first byte is there within `patience` polls. What is no frame is skipped. */
enum move_receive move_link_receive(struct move_frame *frame, void *payload, uint64_t patience);

/* -- what the frames hold ----------------------------------------------------------------------------------------- */

#define MOVE_CPUID_MAX 96u

struct move_cpuid {
    uint32_t leaf, subleaf, eax, ebx, ecx, edx;
};

struct move_begin {
    uint32_t version, exposed; /* is L1 shown VMX? */
    uint64_t own_start, own_end;
    uint32_t regions, cpuids;
    uint32_t wish, reserved;
    uint64_t tsc;
    struct nvmx_caps caps; /* as L1 sees them */
    struct move_cpuid cpuid[MOVE_CPUID_MAX];
    struct { uint64_t start, end, type; } region[MEMORY_MAP_MAX];
};
_Static_assert(sizeof(struct move_begin) <= MOVE_PAYLOAD_MAX, "one frame");

#define MOVE_FIELDS_MAX 112u
#define MOVE_MSRS_MAX   48u
#define MOVE_APIC_MAX   16u
#define MOVE_XSAVE_MAX  4096u

struct move_state {
    struct nvmx_regs regs;
    uint64_t nmi_owed, tsc, xcr0, dr[4], dr6;
    uint32_t fields, msrs, xsave_bytes, reserved;
    uint32_t apic[MOVE_APIC_MAX];
    uint8_t com1[8]; /* divisor low, high, IER, LCR, MCR, SCR, FIFO on */
    uint8_t pic[8];  /* interrupt masks */
    struct { uint64_t encoding, value; } field[MOVE_FIELDS_MAX]; /* of vmcs01 */
    struct { uint64_t index, value; } msr[MOVE_MSRS_MAX];
    uint8_t xsave[MOVE_XSAVE_MAX] __attribute__((aligned(64)));
};
_Static_assert(sizeof(struct move_state) <= MOVE_PAYLOAD_MAX, "one frame");

/*
 * The processor's and COM1's state, of an L1 or L2 that does not run (move_state.c). NULL, or why it can't be carried. The TSC is taken at
 * the end.
 */
const char *move_state_save(struct cpu *cpu, struct move_state *state);
/* All of it but the TSC, which goes on from move_state_go. vmcs01 has been set up, and is selected. NULL, or what is wrong with it. */
const char *move_state_check(const struct move_state *state, uint32_t bytes);
const char *move_state_load(struct cpu *cpu, const struct move_state *state);
void move_state_go(const struct move_state *state);

/* All of CPUID as L1 sees it, as far as it does not change; false: more than fits. */
bool move_cpuid_save(struct move_begin *begin);
/* What L1 sees from now on. */
void move_cpuid_use(const struct move_begin *begin);
/*
 * What L1 saw and this machine lacks: a line for each on the console, and as much as fits in `text`. How many there are. `possible` is what a
 * VM of this machine may offer.
 */
uint32_t move_missing(const struct move_begin *begin, const struct nvmx_caps *possible, char *text, uint32_t room);
/* Append to text, which stays a string. */
void move_append(char *text, uint32_t room, const char *more);
void move_append_number(char *text, uint32_t room, uint64_t value, uint32_t base);

/* -- pages (dirty.c) ---------------------------------------------------------------------------------------------- */

/* From now on every page of L1 counts as changed. False: L0 has no memory for that. */
bool dirty_start(struct cpu *cpu);
/* How many pages have changed and were not taken. */
uint64_t dirty_left(void);
/* The next of them; from then on it is watched. NVMX_NO_ADDRESS: none. Starting over counts as a round. */
uint64_t dirty_take(struct cpu *cpu);
uint32_t dirty_rounds(void);
/* L1 stands still from now on: the pages that libnvmx holds, and hardware may have written to, count as changed. */
void dirty_settle(struct cpu *cpu);

#endif
