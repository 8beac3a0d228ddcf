/* Softmax along rows, and cross entropy of rows of many classes; the contract is in npdp_layers.h.
 *
 * Of a row that is too long for the first-level cache, cross entropy works on BLOCK elements at a time.
 */
#include "functions.h"
#include "internal.h"
#include "lanes.h"
#include "npdp_layers.h"

enum { BLOCK = 512 };

static int all_within(const int64_t *labels, size_t rows, size_t classes)
{
    int outside = 0;
    for (size_t r = 0; r < rows; r++)
        outside |= (uint64_t)labels[r] >= classes;
    return !outside;
}

#define DEFINE_ROWS(suffix, real, bits, whole)                                                                         \
    /* Whole numbers in the order of the real ones, and back: compilers make vectors of their maximum alone. NaN is    \
     * above or below all; it makes NaN of the row's total in either case. */                                          \
    static inline whole ordered_##suffix(bits number)                                                                  \
    {                                                                                                                  \
        return (whole)(number ^ ((0 - (number >> (8 * sizeof(real) - 1))) >> 1));                                      \
    }                                                                                                                  \
    /* The largest of a row; +0 where zeros of both signs are. */                                                      \
    static inline real largest_##suffix(const real *x, size_t count)                                                   \
    {                                                                                                                  \
        whole most = ordered_##suffix(bits_of_##suffix(x[0]));                                                         \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const whole next = ordered_##suffix(bits_of_##suffix(x[i]));                                               \
            most = next > most ? next : most;                                                                          \
        }                                                                                                              \
        return of_bits_##suffix((bits)ordered_##suffix((bits)most)) + 0;                                               \
    }                                                                                                                  \
    NPDP_CLONES void npdp_softmax_##suffix(const real *x, real *y, real *restrict largest, real *restrict totals,      \
                                           size_t rows, size_t width)                                                  \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++, x += width, y += width) {                                                    \
            const real most = largest_##suffix(x, width);                                                              \
            _Pragma("GCC ivdep") for (size_t i = 0; i < width; i++)                                                    \
                y[i] = exp_##suffix(x[i] - most);                                                                      \
            const real total = sum_##suffix(y, width), scale = 1 / total;                                              \
            for (size_t i = 0; i < width; i++)                                                                         \
                y[i] *= scale;                                                                                         \
            largest[r] = total == total ? most : total;                                                                \
            totals[r] = total;                                                                                         \
        }                                                                                                              \
    }                                                                                                                  \
    NPDP_CLONES void npdp_softmax_gradient_##suffix(const real *g, const real *y, real *gradient, size_t rows,         \
                                                    size_t width)                                                      \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++, g += width, y += width, gradient += width) {                                 \
            const real along = dot_##suffix(y, g, width);                                                              \
            _Pragma("GCC ivdep") for (size_t i = 0; i < width; i++)                                                    \
                gradient[i] = y[i] * (g[i] - along);                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    NPDP_CLONES int npdp_cross_entropy_rows_##suffix(                                                                  \
        const real *logits, const int64_t *labels, real *restrict largest, real *restrict totals,                      \
        real *restrict spread, real *restrict chosen, size_t rows, size_t classes)                                     \
    {                                                                                                                  \
        if (!all_within(labels, rows, classes))                                                                        \
            return 1;                                                                                                  \
        real z[BLOCK] = {0}, power[BLOCK]; /* worked on up to whole LANES, used up to the row's end */                 \
        for (size_t r = 0; r < rows; r++, logits += classes) {                                                         \
            const real most = largest_##suffix(logits, classes);                                                       \
            lanes_##suffix sum = {{0}, {0}}, powers = sum;                                                             \
            size_t taken = 0, count = 0;                                                                               \
            for (size_t first = 0; first < classes; first += BLOCK) {                                                  \
                count = smaller(BLOCK, classes - first);                                                               \
                for (size_t i = 0; i < count; i++)                                                                     \
                    z[i] = logits[first + i] - most;                                                                   \
                for (size_t i = 0; i < cover(count, LANES_##suffix) * LANES_##suffix; i++)                             \
                    power[i] = exp_##suffix(z[i]);                                                                     \
                taken = add_whole_##suffix(&sum, z, count);                                                            \
                add_whole_##suffix(&powers, power, count);                                                             \
            }                                                                                                          \
            spread[r] = folded_##suffix(&sum, z + taken, count - taken);                                               \
            totals[r] = folded_##suffix(&powers, power + taken, count - taken);                                        \
            largest[r] = totals[r] == totals[r] ? most : totals[r];                                                    \
            chosen[r] = logits[labels[r]] - largest[r];                                                                \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    NPDP_CLONES void npdp_cross_entropy_rows_gradient_##suffix(                                                        \
        const real *logits, const int64_t *labels, const real *largest, const real *totals, const real *shares,        \
        real *gradient, size_t rows, size_t classes, real everywhere, real at_label)                                   \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++, logits += classes, gradient += classes) {                                    \
            const real most = largest[r], scale = shares[r] / totals[r], less = shares[r] * everywhere;                \
            _Pragma("GCC ivdep") for (size_t i = 0; i < classes; i++)                                                  \
                gradient[i] = exp_##suffix(logits[i] - most) * scale - less;                                           \
            gradient[labels[r]] -= shares[r] * at_label;                                                               \
        }                                                                                                              \
    }

DEFINE_ROWS(f32, float, uint32_t, int32_t)
DEFINE_ROWS(f64, double, uint64_t, int64_t)
