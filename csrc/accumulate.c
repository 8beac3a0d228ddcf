/* accumulate: dst[i] = dst[i] op src[i], what a rank does with a chunk that it received.
 *
 * One loop for all: four operations, four types. Bound by memory, so plain C that the compiler turns into vectors
 * is as fast as hand-written intrinsics. dst and src are not `restrict`, because accumulate(x, x) is allowed; the
 * compiler tests for it once, before the loop.
 */
#include "internal.h"
#include "npdp_kernels.h"

#define DEFINE_ACCUMULATE(name, type, OP)                                                                              \
    NPDP_CLONES int name(type *dst, const type *src, size_t count)                                                     \
    {                                                                                                                  \
        if (dst != src && npdp_overlap(dst, src, count * sizeof(type)))                                                \
            return 1;                                                                                                  \
        for (size_t i = 0; i < count; i++) {                                                                           \
            const type d = dst[i], s = src[i];                                                                         \
            dst[i] = OP(d, s);                                                                                         \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

/* Signed overflow is undefined in C, unsigned wraps: so integers are added and multiplied as unsigned. */
#define SUM(d, s) ((d) + (s))
#define PROD(d, s) ((d) * (s))
#define SUM_I32(d, s) ((int32_t)((uint32_t)(d) + (uint32_t)(s)))
#define SUM_I64(d, s) ((int64_t)((uint64_t)(d) + (uint64_t)(s)))
#define PROD_I32(d, s) ((int32_t)((uint32_t)(d) * (uint32_t)(s)))
#define PROD_I64(d, s) ((int64_t)((uint64_t)(d) * (uint64_t)(s)))

/* A comparison with NaN is false. So NaN in s is taken by itself, and NaN in d needs the second test; `|` and not
 * `||`, because two tests and a blend make a vector, and a branch does not. */
#define MIN(d, s) ((d) < (s) ? (d) : (s))
#define MAX(d, s) ((d) > (s) ? (d) : (s))
#define MIN_OR_NAN(d, s) (((d) < (s)) | ((d) != (d)) ? (d) : (s))
#define MAX_OR_NAN(d, s) (((d) > (s)) | ((d) != (d)) ? (d) : (s))

DEFINE_ACCUMULATE(npdp_sum_f32, float, SUM)
DEFINE_ACCUMULATE(npdp_sum_f64, double, SUM)
DEFINE_ACCUMULATE(npdp_sum_i32, int32_t, SUM_I32)
DEFINE_ACCUMULATE(npdp_sum_i64, int64_t, SUM_I64)

DEFINE_ACCUMULATE(npdp_prod_f32, float, PROD)
DEFINE_ACCUMULATE(npdp_prod_f64, double, PROD)
DEFINE_ACCUMULATE(npdp_prod_i32, int32_t, PROD_I32)
DEFINE_ACCUMULATE(npdp_prod_i64, int64_t, PROD_I64)

DEFINE_ACCUMULATE(npdp_min_f32, float, MIN_OR_NAN)
DEFINE_ACCUMULATE(npdp_min_f64, double, MIN_OR_NAN)
DEFINE_ACCUMULATE(npdp_min_i32, int32_t, MIN)
DEFINE_ACCUMULATE(npdp_min_i64, int64_t, MIN)

DEFINE_ACCUMULATE(npdp_max_f32, float, MAX_OR_NAN)
DEFINE_ACCUMULATE(npdp_max_f64, double, MAX_OR_NAN)
DEFINE_ACCUMULATE(npdp_max_i32, int32_t, MAX)
DEFINE_ACCUMULATE(npdp_max_i64, int64_t, MAX)
