/* The ends of softmax's cross entropy, before and after exp; the contract is in npdp_kernels.h.
 *
 * What is worked on lies as (classes, rows): the loops along rows become vectors however few classes there are.
 */
#include "internal.h"
#include "npdp_kernels.h"

enum { ROWS = 256 }; /* whose scales are worked out at a time */

static int all_within(const int64_t *labels, size_t rows, size_t classes)
{
    int outside = 0;
    for (size_t r = 0; r < rows; r++)
        outside |= (uint64_t)labels[r] >= classes;
    return !outside;
}

#define DEFINE_SHIFTED_LOGITS(name, real)                                                                              \
    NPDP_CLONES int name(const real *logits, const int64_t *labels, real *restrict shifted, real *restrict chosen,     \
                         size_t rows, size_t classes)                                                                  \
    {                                                                                                                  \
        real *const largest = chosen;                                                                                  \
        if (!all_within(labels, rows, classes))                                                                        \
            return 1;                                                                                                  \
        for (size_t c = 0; c < classes; c++)                                                                           \
            for (size_t r = 0; r < rows; r++)                                                                          \
                shifted[c * rows + r] = logits[r * classes + c];                                                       \
        for (size_t r = 0; r < rows; r++)                                                                              \
            largest[r] = shifted[r];                                                                                   \
        for (size_t c = 1; c < classes; c++)                                                                           \
            for (size_t r = 0; r < rows; r++) {                                                                        \
                const real x = shifted[c * rows + r];                                                                  \
                largest[r] = ((x > largest[r]) | (x != x)) ? x : largest[r]; /* NaN stays */                           \
            }                                                                                                          \
        for (size_t c = 0; c < classes; c++)                                                                           \
            for (size_t r = 0; r < rows; r++)                                                                          \
                shifted[c * rows + r] -= largest[r];                                                                   \
        for (size_t r = 0; r < rows; r++)                                                                              \
            chosen[r] = shifted[(size_t)labels[r] * rows + r];                                                         \
        return 0;                                                                                                      \
    }

#define DEFINE_CROSS_ENTROPY_GRADIENT(name, real)                                                                      \
    NPDP_CLONES void name(const real *powers, const real *totals, const int64_t *labels, real *restrict gradient,      \
                          size_t rows, size_t classes, real share, real everywhere, real at_label)                     \
    {                                                                                                                  \
        real scales[ROWS];                                                                                             \
        for (size_t first = 0; first < rows; first += ROWS) {                                                          \
            const size_t count = smaller(ROWS, rows - first);                                                          \
            for (size_t i = 0; i < count; i++)                                                                         \
                scales[i] = share / totals[first + i];                                                                 \
            for (size_t c = 0; c < classes; c++)                                                                       \
                for (size_t i = 0, at = c * rows + first; i < count; i++, at++)                                        \
                    gradient[at] = powers[at] * scales[i] - everywhere;                                                \
        }                                                                                                              \
        for (size_t r = 0; r < rows; r++)                                                                              \
            gradient[(size_t)labels[r] * rows + r] -= at_label;                                                        \
    }

DEFINE_SHIFTED_LOGITS(npdp_shifted_logits_f32, float)
DEFINE_SHIFTED_LOGITS(npdp_shifted_logits_f64, double)
DEFINE_CROSS_ENTROPY_GRADIENT(npdp_cross_entropy_gradient_f32, float)
DEFINE_CROSS_ENTROPY_GRADIENT(npdp_cross_entropy_gradient_f64, double)
