/* Sums of a row in lanes, as npdp_layers.h says: element i goes to lane i % LANES, and the lanes are folded in halves.
 *
 * A lane begins at +0 and so is never -0: what a row has not got is left out as if it were 0. The lanes are two vectors
 * of 32 bytes, which stay in registers of AVX2 and of AVX-512; as one of 64 bytes they would lie in memory with AVX2.
 */
#ifndef NPDP_LANES_H
#define NPDP_LANES_H

#include <stddef.h>
#include <string.h>

enum { LANES_BYTES = 64, LANES_f32 = LANES_BYTES / sizeof(float), LANES_f64 = LANES_BYTES / sizeof(double) };

#define LOWER(suffix, x) (*(const half_##suffix *)(const void *)(x))
#define UPPER(suffix, x) LOWER(suffix, (x) + LANES_##suffix / 2)

#define DEFINE_LANES(suffix, real)                                                                                     \
    typedef real half_##suffix __attribute__((vector_size(LANES_BYTES / 2), aligned(sizeof(real)), may_alias));        \
    typedef real quarter_##suffix __attribute__((vector_size(LANES_BYTES / 4)));                                       \
    typedef struct {                                                                                                   \
        half_##suffix lower, upper;                                                                                    \
    } lanes_##suffix;                                                                                                  \
    static inline void add_##suffix(lanes_##suffix *sum, const real *x)                                                \
    {                                                                                                                  \
        sum->lower += LOWER(suffix, x);                                                                                \
        sum->upper += UPPER(suffix, x);                                                                                \
    }                                                                                                                  \
    /* The sum of all lanes, after those beyond the last whole LANES, `rest` of them, have been added. */              \
    static inline real folded_##suffix(lanes_##suffix *sum, const real *last, size_t rest)                             \
    {                                                                                                                  \
        if (rest > 0) {                                                                                                \
            real lanes[LANES_##suffix] = {0};                                                                          \
            for (size_t l = 0; l < rest; l++)                                                                          \
                lanes[l] = last[l];                                                                                    \
            add_##suffix(sum, lanes);                                                                                  \
        }                                                                                                              \
        const half_##suffix both = sum->lower + sum->upper;                                                            \
        quarter_##suffix first, second;                                                                                \
        memcpy(&first, &both, sizeof first);                                                                           \
        memcpy(&second, (const char *)&both + sizeof first, sizeof second);                                            \
        first += second;                                                                                               \
        if (LANES_##suffix == 8)                                                                                       \
            return first[0] + first[1];                                                                                \
        return (first[0] + first[LANES_##suffix / 8]) + (first[1] + first[LANES_##suffix * 3 / 16]);                   \
    }                                                                                                                  \
    /* Adds all whole LANES of x; returns how many elements these are. */                                              \
    static inline size_t add_whole_##suffix(lanes_##suffix *sum, const real *x, size_t count)                          \
    {                                                                                                                  \
        size_t i = 0;                                                                                                  \
        for (; i + LANES_##suffix <= count; i += LANES_##suffix)                                                       \
            add_##suffix(sum, x + i);                                                                                  \
        return i;                                                                                                      \
    }                                                                                                                  \
    static inline real sum_##suffix(const real *x, size_t count)                                                       \
    {                                                                                                                  \
        lanes_##suffix sum = {{0}, {0}};                                                                               \
        const size_t whole = add_whole_##suffix(&sum, x, count);                                                       \
        return folded_##suffix(&sum, x + whole, count - whole);                                                        \
    }                                                                                                                  \
    /* The sum of a b. */                                                                                              \
    static inline real dot_##suffix(const real *a, const real *b, size_t count)                                        \
    {                                                                                                                  \
        lanes_##suffix sum = {{0}, {0}};                                                                               \
        real last[LANES_##suffix];                                                                                     \
        size_t i = 0, rest = 0;                                                                                        \
        for (; i + LANES_##suffix <= count; i += LANES_##suffix) {                                                     \
            sum.lower += LOWER(suffix, a + i) * LOWER(suffix, b + i);                                                  \
            sum.upper += UPPER(suffix, a + i) * UPPER(suffix, b + i);                                                  \
        }                                                                                                              \
        for (; i < count; i++)                                                                                         \
            last[rest++] = a[i] * b[i];                                                                                \
        return folded_##suffix(&sum, last, rest);                                                                      \
    }                                                                                                                  \
    /* The sum of (a b) c. */                                                                                          \
    static inline real dot3_##suffix(const real *a, const real *b, const real *c, size_t count)                        \
    {                                                                                                                  \
        lanes_##suffix sum = {{0}, {0}};                                                                               \
        real last[LANES_##suffix];                                                                                     \
        size_t i = 0, rest = 0;                                                                                        \
        for (; i + LANES_##suffix <= count; i += LANES_##suffix) {                                                     \
            sum.lower += LOWER(suffix, a + i) * LOWER(suffix, b + i) * LOWER(suffix, c + i);                           \
            sum.upper += UPPER(suffix, a + i) * UPPER(suffix, b + i) * UPPER(suffix, c + i);                           \
        }                                                                                                              \
        for (; i < count; i++)                                                                                         \
            last[rest++] = a[i] * b[i] * c[i];                                                                         \
        return folded_##suffix(&sum, last, rest);                                                                      \
    }

DEFINE_LANES(f32, float)
DEFINE_LANES(f64, double)

#endif
