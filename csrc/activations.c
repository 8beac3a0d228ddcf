/* Gradients of activations in one pass, where NumPy needs one to compare and one to multiply. */
#include "internal.h"
#include "npdp_kernels.h"

#define DEFINE_RELU_GRADIENT(name, real)                                                                               \
    NPDP_CLONES void name(real *restrict gradient, const real *g, const real *y, size_t count)                         \
    {                                                                                                                  \
        for (size_t i = 0; i < count; i++)                                                                             \
            gradient[i] = g[i] * (real)(y[i] > 0);                                                                     \
    }

DEFINE_RELU_GRADIENT(npdp_relu_gradient_f32, float)
DEFINE_RELU_GRADIENT(npdp_relu_gradient_f64, double)
