/* exp, tanh, erf of arrays, and GELU, which is made of them; the contract is in npdp_layers.h.
 *
 * An element's result only meets the same place of what is read, so there is no dependence from one round to the next
 * (ivdep), also in place.
 */
#include "functions.h"
#include "internal.h"
#include "npdp_layers.h"

#define DEFINE_OF_ONE(name, real, OF)                                                                                  \
    NPDP_CLONES void name(const real *x, real *y, size_t count)                                                        \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++)                                                        \
            y[i] = OF(x[i]);                                                                                           \
    }

#define DEFINE_OF_TWO(name, real, OF)                                                                                  \
    NPDP_CLONES void name(const real *g, const real *x, real *gradient, size_t count)                                  \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++)                                                        \
            gradient[i] = g[i] * OF(x[i]);                                                                             \
    }

/* Beyond BOUND GELU is x or 0; without it, infinity times 0 would make NaN of a gradient. */
#define BOUND 40
#define SQRT_HALF 0.70710678118654752
#define NORMAL_AT_0 0.3989422804014327 /* 1 / sqrt(2 pi) */
#define A 1.5957691216057308            /* 2 sqrt(2 / pi) */
#define B 0.07135481627260025           /* 0.044715 A */
#define THREE_B 0.21406444881780073

#define DEFINE_GELU(suffix, real)                                                                                      \
    static inline real within_##suffix(real x)                                                                         \
    {                                                                                                                  \
        const real above = x < -BOUND ? -BOUND : x;                                                                    \
        return above > BOUND ? BOUND : above;                                                                          \
    }                                                                                                                  \
    static inline real below_##suffix(real x)                                                                          \
    {                                                                                                                  \
        return 1 + erf_##suffix(x * (real)SQRT_HALF);                                                                  \
    }                                                                                                                  \
    static inline real logistic_##suffix(real x)                                                                       \
    {                                                                                                                  \
        return 1 / (1 + exp_##suffix(-(x * ((real)A + (real)B * (x * x)))));                                           \
    }                                                                                                                  \
    static inline real gelu_##suffix(real x)                                                                           \
    {                                                                                                                  \
        return (real)0.5 * x * below_##suffix(x);                                                                      \
    }                                                                                                                  \
    static inline real gelu_tanh_##suffix(real x)                                                                      \
    {                                                                                                                  \
        return x * logistic_##suffix(x);                                                                               \
    }                                                                                                                  \
    static inline real gelu_slope_##suffix(real x)                                                                     \
    {                                                                                                                  \
        const real density = exp_##suffix((real)-0.5 * (x * x)) * (real)NORMAL_AT_0;                                   \
        return (real)0.5 * below_##suffix(x) + within_##suffix(x) * density;                                           \
    }                                                                                                                  \
    static inline real gelu_tanh_slope_##suffix(real x)                                                                \
    {                                                                                                                  \
        const real w = within_##suffix(x), s = logistic_##suffix(x);                                                   \
        return s + w * (s * (1 - s)) * ((real)A + (real)THREE_B * (w * w));                                            \
    }

DEFINE_GELU(f32, float)
DEFINE_GELU(f64, double)

#define DEFINE_ALL(suffix, real)                                                                                       \
    DEFINE_OF_ONE(npdp_exp_##suffix, real, exp_##suffix)                                                               \
    DEFINE_OF_ONE(npdp_tanh_##suffix, real, tanh_##suffix)                                                             \
    DEFINE_OF_ONE(npdp_erf_##suffix, real, erf_##suffix)                                                               \
    DEFINE_OF_ONE(npdp_gelu_##suffix, real, gelu_##suffix)                                                             \
    DEFINE_OF_ONE(npdp_gelu_tanh_##suffix, real, gelu_tanh_##suffix)                                                   \
    DEFINE_OF_TWO(npdp_gelu_gradient_##suffix, real, gelu_slope_##suffix)                                              \
    DEFINE_OF_TWO(npdp_gelu_tanh_gradient_##suffix, real, gelu_tanh_slope_##suffix)

DEFINE_ALL(f32, float)
DEFINE_ALL(f64, double)
