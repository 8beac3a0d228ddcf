/* SGD and Adam: the optimiser's update in one pass, in place; the formulas are in npdp_kernels.h.
 *
 * NumPy needs a pass over memory for each operation and PyTorch nearly so; one pass is what makes this fast.
 * The tests inside the loops do not depend on i: the compiler takes them out and makes a loop for each case.
 */
#include <float.h>
#include <math.h>

#include "internal.h"
#include "npdp_kernels.h"

/* What is nearer to 0 than the smallest normal number becomes 0. Without it, state that fades away, of weights whose
 * gradient stays 0, ends among numbers on which arithmetic takes more than ten times as long, and stays there. */
#define FLUSHED(x, SMALLEST) (((x) < (SMALLEST)) & ((x) > -(SMALLEST)) ? 0 : (x))

#define DEFINE_SGD(name, real, SMALLEST)                                                                               \
    NPDP_CLONES int name(real *restrict param, const real *restrict grad, real *restrict velocity, size_t count,       \
                         real lr, real momentum, real keep, real weight_decay, int nesterov, int first)                \
    {                                                                                                                  \
        const size_t nbytes = count * sizeof(real);                                                                    \
        const int has_momentum = momentum != 0 && velocity != NULL, decays = weight_decay != 0;                        \
        if (npdp_overlap(param, grad, nbytes))                                                                         \
            return 1;                                                                                                  \
        if (has_momentum && (npdp_overlap(param, velocity, nbytes) || npdp_overlap(grad, velocity, nbytes)))           \
            return 1;                                                                                                  \
        for (size_t i = 0; i < count; i++) {                                                                           \
            real g = grad[i];                                                                                          \
            if (decays)                                                                                                \
                g = g + weight_decay * param[i];                                                                       \
            if (has_momentum) {                                                                                        \
                const real next = first ? g : momentum * velocity[i] + keep * g;                                       \
                velocity[i] = FLUSHED(next, SMALLEST);                                                                 \
                g = nesterov ? g + momentum * velocity[i] : velocity[i];                                               \
            }                                                                                                          \
            param[i] = param[i] - lr * g;                                                                              \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

#define DEFINE_ADAM(name, real, SQRT, SMALLEST)                                                                        \
    NPDP_CLONES int name(real *restrict param, const real *restrict grad, real *restrict m, real *restrict v,          \
                         size_t count, real step_size, real beta1, real rest1, real beta2, real rest2, real root2,     \
                         real eps, real l2, real shrink)                                                               \
    {                                                                                                                  \
        const size_t nbytes = count * sizeof(real);                                                                    \
        const int decays = l2 != 0;                                                                                    \
        if (npdp_overlap(param, grad, nbytes) || npdp_overlap(param, m, nbytes) || npdp_overlap(param, v, nbytes) ||   \
            npdp_overlap(grad, m, nbytes) || npdp_overlap(grad, v, nbytes) || npdp_overlap(m, v, nbytes))              \
            return 1;                                                                                                  \
        for (size_t i = 0; i < count; i++) {                                                                           \
            real g = grad[i];                                                                                          \
            if (decays)                                                                                                \
                g = g + l2 * param[i];                                                                                 \
            const real mean = beta1 * m[i] + rest1 * g, square = beta2 * v[i] + (rest2 * g) * g;                       \
            m[i] = FLUSHED(mean, SMALLEST);                                                                            \
            v[i] = FLUSHED(square, SMALLEST);                                                                          \
            param[i] = shrink * param[i] - (step_size * m[i]) / (SQRT(v[i]) / root2 + eps);                            \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

DEFINE_SGD(npdp_sgd_f32, float, FLT_MIN)
DEFINE_SGD(npdp_sgd_f64, double, DBL_MIN)

DEFINE_ADAM(npdp_adam_f32, float, sqrtf, FLT_MIN)
DEFINE_ADAM(npdp_adam_f64, double, sqrt, DBL_MIN)
