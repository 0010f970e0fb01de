/* SPDX-License-Identifier: MIT */
/* Which pages of L1 were written since libnvmx asked last: nvmx_host.page_version (versions.c). */
#ifndef VERSIONS_H
#define VERSIONS_H

#include <stdbool.h>
#include <stdint.h>

struct cpu;

/* In an entry of ept01, ignored by processors: L2 may reach the page. */
#define EPT01_OF_L2 (1ull << 52)

/* A page that is asked about. Each has one place, by its address; a later one takes it. */
#define WATCHED 1024u
struct watched {
    uint64_t page;   /* gpa1 | watched_tag; else it is not watched any more */
    uint64_t *entry; /* of ept01 */
    uint64_t number;
};
extern struct watched watched[WATCHED];
extern uint64_t watched_tag; /* below 4096 */
extern uint64_t watched_together; /* the number of all that are watched, or 0: there will be another */

static inline struct watched *watched_at(uint64_t gpa1) {
    return &watched[gpa1 / 4096 % WATCHED];
}

/* L0 wrote to the page at gpa1 (aligned), or it is another one now. */
static inline void versions_forget(uint64_t gpa1) {
    struct watched *w = watched_at(gpa1);

    if (w->page == (gpa1 | watched_tag))
        w->page = watched_together = 0;
}
/* Anything may have been written. */
void versions_forget_all(void);

/* Once vmx_on has run, before ept01 is used: does this host know which pages are written? */
void versions_init(void);
bool versions_on(void);
/* The callback; any number of times in an exit. */
uint64_t page_version(void *ctx, uint64_t gpa1);
/* This address was looked up, whose page has this entry of ept01 for itself: L2 may get it. */
void versions_of_l2(uint64_t *entry, uint64_t gpa1);
/* With entry.split_due, before nvmx_enter. */
void versions_split(struct cpu *cpu);
/* Before a 4-KiB page of a larger mapping is changed: else nothing of that mapping can be watched any more. Not in a callback. */
void versions_split_at(struct cpu *cpu, uint64_t gpa1);

#endif
