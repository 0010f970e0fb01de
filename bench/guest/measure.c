/* SPDX-License-Identifier: MIT */
#include "measure.h"

enum { MAX_WORDS = 32, MAX_LINE = 1024 };

uint64_t samples[ROUNDS];

static char line[MAX_LINE];
static const char *words[MAX_WORDS];
static uint32_t word_count;
static bool word_traces[MAX_WORDS];
static uint64_t timer_cost;

/* -- which rows ------------------------------------------------------------------------------------------------------------------ */

static bool starts_with(const char *text, const char *prefix) {
    while (*prefix != 0 && *text == *prefix) {
        text++;
        prefix++;
    }
    return *prefix == 0;
}

/* The image's own name, which some loaders pass as the first word. */
static bool is_image(const char *word) {
    for (; *word != 0; word++) {
        if (*word == '/' || starts_with(word, ".elf")) {
            return true;
        }
    }
    return false;
}

static void take_word(const char *word, bool is_first) {
    static const char trace[] = "trace=";

    if (*word == 0 || (is_first && is_image(word)) || word_count == MAX_WORDS) {
        return;
    }
    word_traces[word_count] = starts_with(word, trace);
    words[word_count] = word_traces[word_count] ? word + sizeof trace - 1 : word;
    word_count++;
}

void measure_words(const char *text) {
    uint32_t begin = 0;

    for (uint32_t i = 0; i < MAX_LINE - 1; i++) {
        line[i] = text[i];
        if (text[i] == ' ' || text[i] == 0) {
            line[i] = 0;
            take_word(line + begin, begin == 0);
            begin = i + 1;
        }
        if (text[i] == 0) {
            break;
        }
    }
}

bool measure_wanted(const char *name) {
    for (uint32_t i = 0; i < word_count; i++) {
        if (starts_with(name, words[i])) {
            return true;
        }
    }
    return word_count == 0;
}

bool measure_traced(const char *name) {
    for (uint32_t i = 0; i < word_count; i++) {
        if (word_traces[i] && starts_with(name, words[i]) && starts_with(words[i], name)) {
            return true;
        }
    }
    return false;
}

/* -- statistics ------------------------------------------------------------------------------------------------------------- */

static void sift(uint64_t *heap, uint32_t root, uint32_t count) {
    for (uint32_t child = 2 * root + 1; child < count; root = child, child = 2 * root + 1) {
        if (child + 1 < count && heap[child + 1] > heap[child]) {
            child++;
        }
        if (heap[root] >= heap[child]) {
            return;
        }
        uint64_t swap = heap[root];
        heap[root] = heap[child];
        heap[child] = swap;
    }
}

static void sort(uint64_t *values, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;) {
        sift(values, i, count);
    }
    for (uint32_t end = count; end-- > 1;) {
        uint64_t swap = values[0];
        values[0] = values[end];
        values[end] = swap;
        sift(values, 0, end);
    }
}

static uint64_t without_timer(uint64_t sample) {
    return sample > timer_cost ? sample - timer_cost : 0;
}

void print_differences(const char *name, uint32_t count, uint32_t per) {
    sort(samples, count);
    print("bench: %s %lu %lu %lu\n", name, samples[0] / per, samples[count / 2] / per, samples[count - 1] / per);
}

void print_row(const char *name, uint32_t count, uint32_t per) {
    for (uint32_t i = 0; i < count; i++) {
        samples[i] = without_timer(samples[i]);
    }
    print_differences(name, count, per);
}

void measure_timer(void) {
    uint64_t least = ~0ul;

    for (uint32_t i = 0; i < WARM_UP; i++) {
        uint64_t before = ticks();
        uint64_t cost = ticks() - before;
        least = cost < least ? cost : least;
    }
    timer_cost = least;
    print("bench: timer %lu %lu %lu\n", least, least, least);
}
