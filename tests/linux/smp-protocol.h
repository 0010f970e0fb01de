/* SPDX-License-Identifier: MIT */
/* What kvm-smp.c and the code that its two vCPUs run (smp-guest.S) have agreed upon. Plain numbers: both C and assembler read it. */
#ifndef SMP_PROTOCOL_H
#define SMP_PROTOCOL_H

/* Guest-physical addresses; both vCPUs stay in real mode. The code starts at a page, which the start-up IPI names. */
#define SMP_MEMORY  0x100000
#define SMP_CODE    0x8000
#define SMP_STACK0  0x7000
#define SMP_STACK1  0x6000
#define SMP_WORDS   0x9000  /* what they share: 32 bits each */
#define SMP_MOVING  0xa000  /* a page whose memory user space exchanges */
#define SMP_TOUCHED 0x20000 /* pages that both write to */
#define SMP_PAGES   112

/* Offsets from SMP_WORDS. */
#define WORD_ONLINE   0  /* vCPU 1 has started */
#define WORD_TURN     4  /* whose turn it is, and how many were taken */
#define WORD_SUM      8  /* locked additions of both */
#define WORD_IPIS     12 /* interrupts taken: vCPU 0, vCPU 1 */
#define WORD_SEEN     20 /* last number that vCPU 1 saw in the moving page */
#define WORD_FINISHED 24 /* vCPU 1 is through */
#define WORD_STALE    28 /* numbers that went backwards */

#define TURNS         1000 /* of each */
#define ADDITIONS     5000 /* of each */
#define IPIS          50   /* to each */
#define MOVES         40

#define PORT_RESULT   0x504 /* out, 32 bits, by vCPU 0: one word after the other, then PORT_END */
#define PORT_END      0x508
#define IPI_VECTOR    0x40

#endif
