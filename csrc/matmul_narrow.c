/* The products of a layer with few outputs, float32, with AVX2; the contract is in npdp_kernels.h.
 *
 * A classifier's last layer has as many outputs as there are classes. BLAS copies the other, large factor for them, which
 * takes as long as to multiply. Here it is read where it lies, once, and what is narrow stays in the first-level cache:
 *
 *     a strip   5 rows x 16 columns of a result with few rows; along the depth: 5 numbers, each times a row of 16
 *     dots      2 rows x 5 columns of one with few columns: 10 dot products, 8 numbers of each at a time
 *
 * As in tiles.h the last of a row or column overlaps the one before, so that all are whole.
 *
 * Measured: docs/measurements.md.
 */
#include "internal.h"
#include "npdp_kernels.h"

#ifdef NPDP_WITH_X86
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) AVX2
/* DEEPEST: a strip goes down so many rows, each on another page of memory; the addresses of more are not at hand */
enum { STRIP_ROWS = 5, VECTOR = 8, STRIP_COLUMNS = 2 * VECTOR, PAIR = 2, DEEPEST = 1024 };

/* y[r][c] = sum of a(r, k) b[k][c]; a(r, k) is a[r * a_row + k * a_step], b and y have rows of `columns`. */
INLINE void multiply_strip(const float *a, size_t a_row, size_t a_step, const float *b, float *y, size_t depth,
                           size_t columns)
{
    __m256 sums[STRIP_ROWS][2];
    for (size_t r = 0; r < STRIP_ROWS; r++)
        sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    for (size_t k = 0; k < depth; k++) {
        const __m256 left = _mm256_loadu_ps(b + k * columns), right = _mm256_loadu_ps(b + k * columns + VECTOR);
#pragma GCC unroll 5
        for (size_t r = 0; r < STRIP_ROWS; r++) {
            const __m256 x = _mm256_set1_ps(a[r * a_row + k * a_step]);
            sums[r][0] = _mm256_fmadd_ps(x, left, sums[r][0]);
            sums[r][1] = _mm256_fmadd_ps(x, right, sums[r][1]);
        }
    }
#pragma GCC unroll 5
    for (size_t r = 0; r < STRIP_ROWS; r++) {
        _mm256_storeu_ps(y + r * columns, sums[r][0]);
        _mm256_storeu_ps(y + r * columns + VECTOR, sums[r][1]);
    }
}

static AVX2 int multiply_strips(const float *a, size_t a_row, size_t a_step, const float *b, float *y, size_t rows,
                                size_t depth, size_t columns)
{
    if (depth > DEEPEST)
        return 1;
    for (size_t c = 0; c < columns; c += STRIP_COLUMNS)
        for (size_t r = 0; r < rows; r += STRIP_ROWS) {
            const size_t row = within(r, rows, STRIP_ROWS), column = within(c, columns, STRIP_COLUMNS);
            multiply_strip(a + row * a_row, a_row, a_step, b + column, y + row * columns + column, depth, columns);
        }
    return 0;
}

int npdp_narrow_times_f32(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)
{
    return multiply_strips(x, in, 1, w, y, rows, in, out);
}

int npdp_narrow_transposed_times_f32(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    return multiply_strips(x, 1, in, g, w, in, rows, out);
}

INLINE float total(__m256 v)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/* y[r][c] = sum of g[r][k] w[c][k]; g and w have rows of `depth`, y of `columns`. */
INLINE void multiply_dots(const float *g, const float *w, float *y, size_t depth, size_t columns)
{
    __m256 sums[PAIR][STRIP_ROWS];
    for (size_t c = 0; c < STRIP_ROWS; c++)
        sums[0][c] = sums[1][c] = _mm256_setzero_ps();
    size_t k = 0;
#pragma GCC unroll 2
    for (; k + VECTOR <= depth; k += VECTOR) {
        const __m256 first = _mm256_loadu_ps(g + k), second = _mm256_loadu_ps(g + depth + k);
#pragma GCC unroll 5
        for (size_t c = 0; c < STRIP_ROWS; c++) {
            __m256 x = _mm256_loadu_ps(w + c * depth + k);
            __asm__("" : "+x"(x)); /* GCC would load it twice */
            sums[0][c] = _mm256_fmadd_ps(first, x, sums[0][c]);
            sums[1][c] = _mm256_fmadd_ps(second, x, sums[1][c]);
        }
    }
#pragma GCC unroll 2
    for (size_t r = 0; r < PAIR; r++)
#pragma GCC unroll 5
        for (size_t c = 0; c < STRIP_ROWS; c++) {
            float sum = total(sums[r][c]);
            for (size_t rest = k; rest < depth; rest++)
                sum += g[r * depth + rest] * w[c * depth + rest];
            y[r * columns + c] = sum;
        }
}

AVX2 int npdp_narrow_times_transposed_f32(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    for (size_t r = 0; r < rows; r += PAIR)
        for (size_t c = 0; c < in; c += STRIP_ROWS) {
            const size_t row = within(r, rows, PAIR), column = within(c, in, STRIP_ROWS);
            multiply_dots(g + row * out, w + column * out, x + row * in + column, out, in);
        }
    return 0;
}

#else

int npdp_narrow_times_f32(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)
{
    return (void)x, (void)w, (void)y, (void)rows, (void)in, (void)out, 1;
}

int npdp_narrow_times_transposed_f32(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    return (void)g, (void)w, (void)x, (void)rows, (void)in, (void)out, 1;
}

int npdp_narrow_transposed_times_f32(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    return (void)x, (void)g, (void)w, (void)rows, (void)in, (void)out, 1;
}

#endif
