/* The layers' kernels (npdp_layers.h) over lengths and alignments, for the sanitizers to watch; see sanitize_main.c.
 *
 * `count` elements are also `count / width` rows of several widths: shorter than a sum's lanes, as long, and longer.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "npdp_layers.h"

unsigned long npdp_call_layers(size_t count, size_t offset);

#define DEFINE_CALLS(suffix, real, MOST)                                                                               \
    static real *fill_##suffix(size_t offset, size_t count)                                                            \
    {                                                                                                                  \
        static const real values[] = {0, -0.0f, 1.5f, -3.25f, MOST, -MOST, 1 / MOST, (real)NAN, (real)INFINITY, 7};    \
        real *array = malloc((offset + count) * sizeof(real) + 1);                                                     \
        if (array == NULL)                                                                                             \
            exit(1);                                                                                                   \
        for (size_t i = 0; i < offset + count; i++)                                                                    \
            array[i] = values[(i * 7 + count) % (sizeof values / sizeof values[0])];                                   \
        return array;                                                                                                  \
    }                                                                                                                  \
    static void call_elements_##suffix(const real *g, const real *x, real *y, size_t count)                            \
    {                                                                                                                  \
        npdp_exp_##suffix(x, y, count);                                                                                \
        npdp_tanh_##suffix(x, y, count);                                                                               \
        npdp_erf_##suffix(x, y, count);                                                                                \
        npdp_gelu_##suffix(x, y, count);                                                                               \
        npdp_gelu_tanh_##suffix(x, y, count);                                                                          \
        npdp_gelu_gradient_##suffix(g, x, y, count);                                                                   \
        npdp_gelu_tanh_gradient_##suffix(g, x, y, count);                                                              \
        npdp_tanh_##suffix(y, y, count);                                                                               \
    }                                                                                                                  \
    static void call_rows_##suffix(const real *g, const real *x, real *y, size_t rows, size_t width)                   \
    {                                                                                                                  \
        real *one = fill_##suffix(0, rows), *two = fill_##suffix(0, rows), *three = fill_##suffix(0, rows);            \
        real *four = fill_##suffix(0, rows), *weight = fill_##suffix(0, width), *bias = fill_##suffix(0, width);       \
        int64_t *labels = malloc((rows + 1) * sizeof(int64_t));                                                        \
        for (size_t r = 0; r < rows; r++)                                                                              \
            labels[r] = (int64_t)(r * 5 % width);                                                                      \
        npdp_layer_norm_##suffix(x, weight, bias, y, one, two, rows, width, (real)1e-5);                               \
        npdp_layer_norm_gradient_##suffix(g, x, weight, one, two, y, bias, weight, rows, width);                       \
        npdp_softmax_##suffix(x, y, one, two, rows, width);                                                            \
        npdp_softmax_##suffix(y, y, one, two, rows, width);                                                            \
        npdp_softmax_gradient_##suffix(g, y, y, rows, width);                                                          \
        if (npdp_cross_entropy_rows_##suffix(x, labels, one, two, three, four, rows, width))                           \
            abort();                                                                                                   \
        npdp_cross_entropy_rows_gradient_##suffix(x, labels, one, two, three, y, rows, width, (real)0.1, (real)0.4);   \
        for (size_t r = 0; r < rows; r++)                                                                              \
            labels[r] = (int64_t)(r / 2);                                                                              \
        npdp_add_rows_##suffix(y, labels, g, rows, width);                                                             \
        free(one), free(two), free(three), free(four), free(weight), free(bias), free(labels);                         \
    }                                                                                                                  \
    static void call_##suffix(size_t count, size_t offset)                                                             \
    {                                                                                                                  \
        static const size_t widths[] = {1, 3, 16, 29, 1500};                                                           \
        real *g = fill_##suffix(offset, count), *x = fill_##suffix(offset / 2, count), *y = fill_##suffix(1, count);   \
        call_elements_##suffix(g + offset, x + offset / 2, y + 1, count);                                              \
        for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)                                                  \
            call_rows_##suffix(g + offset, x + offset / 2, y + 1, count / widths[i], widths[i]);                       \
        free(g), free(x), free(y);                                                                                     \
    }

DEFINE_CALLS(f32, float, FLT_MAX)
DEFINE_CALLS(f64, double, DBL_MAX)

/* Returns the number of calls. */
unsigned long npdp_call_layers(size_t count, size_t offset)
{
    call_f32(count, offset);
    call_f64(count, offset);
    return 2 * (8 + 5 * 8);
}
