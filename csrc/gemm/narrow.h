/* The products of a layer with few outputs, float32; the contract is in npdp_gemm.h.
 *
 * A classifier's last layer has as many outputs as there are classes. BLAS copies the other, large factor for them, which
 * takes as long as to multiply. Here it is read where it lies, once, and what is narrow stays in the first-level cache:
 *
 *     a strip   5 or TALL rows x 2 vectors of a result with few rows; along the depth: so many numbers, each times a row
 *               of two vectors
 *     dots      DOTS rows x 5 columns of one with few columns: dot products, a vector's numbers of each at a time
 *
 * As in tiles.h the last of a row or column overlaps the one before, so that all are whole.
 *
 * It includes tiles.h, and is included by who has said what that wants, and: TOTAL, the sum of a vector's numbers; TALL
 * and DOTS, as many as there are registers for.
 *
 * Measured: docs/measurements.md.
 */
#ifndef NPDP_NARROW_H
#define NPDP_NARROW_H

#include "tiles.h"

/* DEEPEST: a strip goes down so many rows, each on another page of memory; the addresses of more are not at hand */
enum { SHORT = 5, STRIP_COLUMNS = 2 * VECTOR, DEEPEST = 1024 };

/* y[r][c] = sum of a(r, k) b[k][c]; a(r, k) is a[r * a_row + k * a_step], b and y have rows of `columns`. */
INLINE void multiply_strip(size_t rows, const float *a, size_t a_row, size_t a_step, const float *b, float *y,
                           size_t depth, size_t columns)
{
    vector sums[TALL][2];
#pragma GCC unroll 10
    for (size_t r = 0; r < rows; r++)
        sums[r][0] = sums[r][1] = ZEROS();
    for (size_t k = 0; k < depth; k++) {
        const vector left = LOAD(b + k * columns), right = LOAD(b + k * columns + VECTOR);
#pragma GCC unroll 10
        for (size_t r = 0; r < rows; r++) {
            const vector x = SPREAD(a[r * a_row + k * a_step]);
            sums[r][0] = MULTIPLY_ADD(x, left, sums[r][0]);
            sums[r][1] = MULTIPLY_ADD(x, right, sums[r][1]);
        }
    }
#pragma GCC unroll 10
    for (size_t r = 0; r < rows; r++) {
        STORE(y + r * columns, sums[r][0]);
        STORE(y + r * columns + VECTOR, sums[r][1]);
    }
}

static TARGET int multiply_strips(const float *a, size_t a_row, size_t a_step, const float *b, float *y, size_t rows,
                                  size_t depth, size_t columns)
{
    if (depth > DEEPEST)
        return 1;
    for (size_t c = 0; c < columns; c += STRIP_COLUMNS) {
        const size_t column = within(c, columns, STRIP_COLUMNS);
        size_t r = 0;
        for (; r + TALL <= rows; r += TALL)
            multiply_strip(TALL, a + r * a_row, a_row, a_step, b + column, y + r * columns + column, depth, columns);
        for (; r < rows; r += SHORT) {
            const size_t row = within(r, rows, SHORT);
            multiply_strip(SHORT, a + row * a_row, a_row, a_step, b + column, y + row * columns + column, depth, columns);
        }
    }
    return 0;
}

int NAMED(narrow_times_f32)(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)
{
    return multiply_strips(x, in, 1, w, y, rows, in, out);
}

int NAMED(narrow_transposed_times_f32)(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    return multiply_strips(x, 1, in, g, w, in, rows, out);
}

/* y[r][c] = sum of g[r][k] w[c][k]; g and w have rows of `depth`, y of `columns`. */
INLINE void multiply_dots(const float *g, const float *w, float *y, size_t depth, size_t columns)
{
    vector sums[DOTS][SHORT];
#pragma GCC unroll 4
    for (size_t r = 0; r < DOTS; r++)
#pragma GCC unroll 5
        for (size_t c = 0; c < SHORT; c++)
            sums[r][c] = ZEROS();
    size_t k = 0;
#pragma GCC unroll 2
    for (; k + VECTOR <= depth; k += VECTOR) {
        vector left[DOTS];
#pragma GCC unroll 4
        for (size_t r = 0; r < DOTS; r++)
            left[r] = LOAD(g + r * depth + k);
#pragma GCC unroll 5
        for (size_t c = 0; c < SHORT; c++) {
            vector x = LOAD(w + c * depth + k);
            __asm__("" : "+v"(x)); /* GCC would load it again and again */
#pragma GCC unroll 4
            for (size_t r = 0; r < DOTS; r++)
                sums[r][c] = MULTIPLY_ADD(left[r], x, sums[r][c]);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < DOTS; r++)
#pragma GCC unroll 5
        for (size_t c = 0; c < SHORT; c++) {
            float sum = TOTAL(sums[r][c]);
            for (size_t rest = k; rest < depth; rest++)
                sum += g[r * depth + rest] * w[c * depth + rest];
            y[r * columns + c] = sum;
        }
}

TARGET int NAMED(narrow_times_transposed_f32)(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    for (size_t r = 0; r < rows; r += DOTS)
        for (size_t c = 0; c < in; c += SHORT) {
            const size_t row = within(r, rows, DOTS), column = within(c, in, SHORT);
            multiply_dots(g + row * out, w + column * out, x + row * in + column, out, in);
        }
    return 0;
}

#endif
