/* Lines of memory that products will need next, fetched to the second-level cache a few at a time while they multiply. */
#ifndef NPDP_AHEAD_H
#define NPDP_AHEAD_H

#include <stddef.h>

enum { LINE_FLOATS = 16 };

/* Row by row, `lines` of each; `each` time so many of them. They may lie beyond the end of an array: that does no harm. */
typedef struct {
    const float *at;
    size_t row, lines, line, each;
} ahead;

static inline __attribute__((always_inline)) void fetch(ahead *next)
{
    for (size_t i = 0; i < next->each; i++) {
        __builtin_prefetch(next->at + next->line * LINE_FLOATS, 0, 2);
        if (++next->line == next->lines) {
            next->line = 0;
            next->at += next->row;
        }
    }
}

#endif
