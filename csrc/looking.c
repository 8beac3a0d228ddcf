/* Looks for NaN and infinity: in an array, and in the sum of several before it is written.
 *
 * A number is not finite where its bits, but for the sign, are those of infinity or more. So the largest of these says it
 * for a block: one instruction a vector beside the load.
 *
 * A sum is looked at in blocks that stay in the first-level cache, while its sources are still there: a target may be one of
 * them, and who looks afterwards cannot tell whose NaN it was.
 */
#include <string.h>

#include "internal.h"
#include "npdp_kernels.h"

enum { BLOCK_BYTES = 4096 };

#define DEFINE_LOOK(suffix, real, bits, most, infinity)                                                                \
    static inline bits size_##suffix(real value)                                                                       \
    {                                                                                                                  \
        bits size;                                                                                                     \
        memcpy(&size, &value, sizeof size);                                                                            \
        return size & most;                                                                                            \
    }                                                                                                                  \
    NPDP_CLONES int npdp_all_finite_##suffix(const real *x, size_t count)                                              \
    {                                                                                                                  \
        bits largest = 0;                                                                                              \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const bits size = size_##suffix(x[i]);                                                                     \
            largest = size > largest ? size : largest;                                                                 \
        }                                                                                                              \
        return largest < infinity;                                                                                     \
    }                                                                                                                  \
    static NPDP_CLONES int pair_is_finite_##suffix(const real *x, const real *y, size_t count)                         \
    {                                                                                                                  \
        bits largest = 0;                                                                                              \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const bits size = size_##suffix(x[i] + y[i]);                                                              \
            largest = size > largest ? size : largest;                                                                 \
        }                                                                                                              \
        return largest < infinity;                                                                                     \
    }                                                                                                                  \
    size_t npdp_first_not_finite_##suffix(const real *x, size_t count)                                                 \
    {                                                                                                                  \
        enum { LENGTH = BLOCK_BYTES / sizeof(real) };                                                                  \
        size_t i = 0;                                                                                                  \
        while (i < count && npdp_all_finite_##suffix(x + i, smaller(count - i, LENGTH)))                               \
            i += smaller(count - i, LENGTH);                                                                           \
        while (i < count && size_##suffix(x[i]) < infinity)                                                            \
            i++;                                                                                                       \
        return i;                                                                                                      \
    }
DEFINE_LOOK(f32, float, int32_t, INT32_MAX, 0x7f800000)
DEFINE_LOOK(f64, double, int64_t, INT64_MAX, 0x7ff0000000000000)

/* Two arrays into two are looked at first, and then summed where they lie; else the sum is made in a block of its own. */
#define DEFINE_SUM_LOOKING(suffix, real, dtype)                                                                        \
    static int add_up_##suffix(real *block, const void *const *sources, size_t source_count, size_t start,             \
                               size_t length)                                                                          \
    {                                                                                                                  \
        memcpy(block, (const real *)sources[0] + start, length * sizeof(real));                                        \
        for (size_t k = 1; k < source_count; k++)                                                                      \
            npdp_sum_##suffix(block, (const real *)sources[k] + start, length);                                        \
        return npdp_all_finite_##suffix(block, length);                                                                \
    }                                                                                                                  \
    int npdp_sum_looking_##suffix(void *const *targets, size_t target_count, const void *const *sources,              \
                                  size_t source_count, size_t count, size_t at, size_t *firsts)                        \
    {                                                                                                                  \
        enum { LENGTH = BLOCK_BYTES / sizeof(real) };                                                                  \
        _Alignas(64) real block[LENGTH];                                                                               \
        const int pair = source_count == 2 && target_count == 2;                                                       \
        int found = 0;                                                                                                 \
        for (size_t start = 0; start < count; start += LENGTH) {                                                       \
            const size_t length = smaller(count - start, LENGTH);                                                      \
            const real *left = (const real *)sources[0] + start, *right = (const real *)sources[pair] + start;         \
            if (!(pair ? pair_is_finite_##suffix(left, right, length)                                                  \
                       : add_up_##suffix(block, sources, source_count, start, length))) {                              \
                found = 1;                                                                                             \
                for (size_t k = 0; k < source_count; k++) {                                                            \
                    const size_t i = npdp_first_not_finite_##suffix((const real *)sources[k] + start, length);         \
                    if (i < length)                                                                                    \
                        firsts[k] = smaller(firsts[k], at + start + i);                                                \
                }                                                                                                      \
            }                                                                                                          \
            if (pair)                                                                                                  \
                npdp_combine(NPDP_SUM, dtype, (void *[]){(real *)targets[0] + start, (real *)targets[1] + start}, 2,   \
                             (const void *[]){left, right}, 2, length);                                                \
            else                                                                                                       \
                for (size_t k = 0; k < target_count; k++)                                                              \
                    memcpy((real *)targets[k] + start, block, length * sizeof(real));                                  \
        }                                                                                                              \
        return found;                                                                                                  \
    }
DEFINE_SUM_LOOKING(f32, float, NPDP_F32)
DEFINE_SUM_LOOKING(f64, double, NPDP_F64)
