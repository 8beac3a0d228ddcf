/* Layer norm and its gradient, a row at a time: it stays in the first-level cache. The contract is in npdp_layers.h. */
#include <math.h>

#include "internal.h"
#include "lanes.h"
#include "npdp_layers.h"

#define DEFINE_LAYER_NORM(suffix, real, SQRT)                                                                          \
    NPDP_CLONES void npdp_layer_norm_##suffix(const real *x, const real *weight, const real *bias, real *restrict y,   \
                                              real *restrict mean, real *restrict rstd, size_t rows, size_t width,     \
                                              real eps)                                                                \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++, x += width, y += width) {                                                    \
            mean[r] = sum_##suffix(x, width) / (real)width;                                                            \
            for (size_t i = 0; i < width; i++)                                                                         \
                y[i] = x[i] - mean[r];                                                                                 \
            rstd[r] = 1 / SQRT(dot_##suffix(y, y, width) / (real)width + eps);                                         \
            for (size_t i = 0; i < width; i++)                                                                         \
                y[i] = y[i] * rstd[r] * weight[i] + bias[i];                                                           \
        }                                                                                                              \
    }

DEFINE_LAYER_NORM(f32, float, sqrtf)
DEFINE_LAYER_NORM(f64, double, sqrt)

#define DEFINE_GRADIENT(suffix, real)                                                                                  \
    NPDP_CLONES void npdp_layer_norm_gradient_##suffix(                                                                \
        const real *g, const real *x, const real *weight, const real *mean, const real *rstd, real *restrict gx,       \
        real *restrict gweight, real *restrict gbias, size_t rows, size_t width)                                       \
    {                                                                                                                  \
        for (size_t i = 0; i < width; i++)                                                                             \
            gweight[i] = gbias[i] = 0;                                                                                 \
        for (size_t r = 0; r < rows; r++, g += width, x += width, gx += width) {                                       \
            real *const normalized = gx;                                                                               \
            for (size_t i = 0; i < width; i++) {                                                                       \
                normalized[i] = (x[i] - mean[r]) * rstd[r];                                                            \
                gweight[i] += g[i] * normalized[i];                                                                    \
                gbias[i] += g[i];                                                                                      \
            }                                                                                                          \
            const real mean_h = dot_##suffix(g, weight, width) / (real)width;                                          \
            const real mean_hn = dot3_##suffix(g, weight, normalized, width) / (real)width;                            \
            for (size_t i = 0; i < width; i++)                                                                         \
                gx[i] = rstd[r] * (g[i] * weight[i] - mean_h - normalized[i] * mean_hn);                               \
        }                                                                                                              \
    }

DEFINE_GRADIENT(f32, float)
DEFINE_GRADIENT(f64, double)
