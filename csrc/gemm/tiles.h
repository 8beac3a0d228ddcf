/* Products of a linear layer, float32, by tiles; the contract is in npdp_gemm.h.
 *
 * They are made of tiles of ROWS x COLUMNS results, which stay in registers during one walk along the depth:
 *
 *     tile[r][c] += a(r, k) * panel[k][c]        ROWS numbers of one factor, each times a row of COLUMNS of the other
 *
 * A panel is as many columns of a factor, copied so that they lie as they are read; what is copied is read again and
 * again, and is so little that it stays in the second-level cache. The last tile of a row or column of tiles overlaps the
 * one before, so that all are whole: what both have is the same to the last bit.
 *
 * It is included once for each width of vectors, which says: TARGET, the processor; vector, VECTOR numbers, and LOAD, STORE,
 * SPREAD, ZEROS, ADD, MULTIPLY_ADD of it; ROWS, COLUMNS (two vectors); DEEP, what of the depth stays in the cache in a
 * product with x transposed; NAMED, how functions are called.
 *
 * Source: Goto and van de Geijn, Anatomy of high-performance matrix multiplication, 2008.
 * Measured: docs/measurements.md.
 */
#ifndef NPDP_TILES_H
#define NPDP_TILES_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ahead.h"
#include "internal.h"

#define INLINE static inline __attribute__((always_inline)) TARGET
enum { UNROLL = 8, GROUP = 8 * ROWS };

typedef struct {
    vector sums[ROWS][2];
} tile;

/* ---- a tile ---- */

INLINE void add_product(tile *t, const float *a, size_t a_row, const float *panel)
{
    const vector left = LOAD(panel), right = LOAD(panel + VECTOR);
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++) {
        const vector x = SPREAD(a[r * a_row]);
        t->sums[r][0] = MULTIPLY_ADD(x, left, t->sums[r][0]);
        t->sums[r][1] = MULTIPLY_ADD(x, right, t->sums[r][1]);
    }
}

/* a(r, k) is a[r * a_row + k * a_step]. */
INLINE tile multiply(const float *a, size_t a_row, size_t a_step, const float *panel, size_t depth, ahead *next)
{
    tile t;
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++)
        t.sums[r][0] = t.sums[r][1] = ZEROS();
    size_t k = 0;
    for (; k + UNROLL <= depth; k += UNROLL) {
#pragma GCC unroll 8
        for (size_t u = 0; u < UNROLL; u++)
            add_product(&t, a + (k + u) * a_step, a_row, panel + (k + u) * COLUMNS);
        if (next != NULL)
            fetch(next);
    }
    for (; k < depth; k++)
        add_product(&t, a + k * a_step, a_row, panel + k * COLUMNS);
    return t;
}

/* Fetches the lines that a tile will be written to. */
INLINE void expect_tile(const float *to, size_t row)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++) {
        __builtin_prefetch(to + r * row, 1, 3);
        __builtin_prefetch(to + r * row + VECTOR, 1, 3);
    }
}

INLINE void store(const tile *t, float *to, size_t row)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++) {
        STORE(to + r * row, t->sums[r][0]);
        STORE(to + r * row + VECTOR, t->sums[r][1]);
    }
}

INLINE void store_transposed(const tile *t, float *to, size_t row)
{
    float values[ROWS][COLUMNS];
    store(t, values[0], COLUMNS);
    for (size_t c = 0; c < COLUMNS; c++)
        for (size_t r = 0; r < ROWS; r++)
            to[c * row + r] = values[r][c];
}

INLINE void add(const tile *t, float *to, size_t row)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < ROWS; r++) {
        STORE(to + r * row, ADD(LOAD(to + r * row), t->sums[r][0]));
        float *right = to + r * row + VECTOR;
        STORE(right, ADD(LOAD(right), t->sums[r][1]));
    }
}

/* Stores or adds what no tile before has: without some of the first rows and columns. */
INLINE void store_or_add(const tile *t, float *to, size_t row, int adds, size_t rows_done, size_t columns_done)
{
    if (rows_done == 0 && columns_done == 0) {
        if (adds)
            add(t, to, row);
        else
            store(t, to, row);
        return;
    }
    float values[ROWS][COLUMNS];
    store(t, values[0], COLUMNS);
    for (size_t r = rows_done; r < ROWS; r++)
        for (size_t c = columns_done; c < COLUMNS; c++)
            to[r * row + c] = adds ? to[r * row + c] + values[r][c] : values[r][c];
}

/* ---- panels ---- */

/* How many numbers are copied at most: they fill half of the second-level cache. */
static size_t resident(void)
{
    static size_t numbers; /* the same whoever writes it */
    size_t known = __atomic_load_n(&numbers, __ATOMIC_RELAXED);
    if (known == 0) {
        long bytes = 0;
#ifdef __GLIBC__
        bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        known = (bytes > 0 ? (size_t)bytes : 1 << 20) / 2 / sizeof(float);
        __atomic_store_n(&numbers, known, __ATOMIC_RELAXED);
    }
    return known;
}

static float *floats(size_t count)
{
    void *memory;
    return posix_memalign(&memory, 64, count * sizeof(float)) ? NULL : memory;
}

/* Copies columns [left, right) of a matrix to panels, row by row, so that the processor sees how it goes on and fetches
 * ahead. */
static TARGET void copy(float *panels, const float *matrix, size_t left, size_t right, size_t row, size_t depth)
{
    for (size_t k = 0; k < depth; k++)
        for (size_t c = left; c < right; c += COLUMNS) {
            const float *from = matrix + k * row + within(c, row, COLUMNS);
            float *to = panels + (c - left) * depth + k * COLUMNS;
            STORE(to, LOAD(from));
            STORE(to + VECTOR, LOAD(from + VECTOR));
        }
}

/* panel[k][c] = from[c][k] */
static void copy_transposed(float *panel, const float *from, size_t row, size_t depth)
{
    for (size_t first = 0; first < depth; first += LINE_FLOATS) /* by cache lines, each of which is read once */
        for (size_t c = 0; c < COLUMNS; c++)
            for (size_t k = first; k < smaller(first + LINE_FLOATS, depth); k++)
                panel[k * COLUMNS + c] = from[c * row + k];
}

/* ---- the products of backward ---- */

/* Computes x transposed: w goes by as it lies, and panels are of g, by blocks of its rows. */
TARGET int NAMED(times_transposed_f32)(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    const size_t most = (resident() / out / COLUMNS + 1) * COLUMNS;
    const size_t block = cover(cover(rows, cover(rows, most)), COLUMNS) * COLUMNS; /* as much for each walk through w */
    float *panels = floats((smaller(block, rows) + COLUMNS) * out);
    if (panels == NULL)
        return 1;
    for (size_t first = 0; first < rows; first += block) {
        const size_t last = smaller(first + block, rows);
        for (size_t r = first; r < last; r += COLUMNS)
            copy_transposed(panels + (r - first) * out, g + within(r, rows, COLUMNS) * out, out, out);
        for (size_t i = 0; i < in; i += ROWS)
            for (size_t r = first; r < last; r += COLUMNS) {
                const size_t at = within(i, in, ROWS);
                float *to = x + within(r, rows, COLUMNS) * in + at;
                for (size_t c = 0; c < COLUMNS; c++)
                    __builtin_prefetch(to + c * in, 1, 3);
                const tile t = multiply(w + at * out, out, 1, panels + (r - first) * out, out, NULL);
                store_transposed(&t, to, in);
            }
    }
    free(panels);
    return 0;
}

/* Copies columns of x, ROWS to a panel, some panels at once so that cache lines are used up. */
static void copy_columns(float *a, const float *x, size_t first, size_t rows, size_t in)
{
    for (size_t k = 0; k < rows; k++)
        for (size_t i = first; i < smaller(first + GROUP, in); i += ROWS)
            memcpy(a + (i - first) * rows + k * ROWS, x + k * in + within(i, in, ROWS), ROWS * sizeof(float));
}

/* w (+)= x' g for some rows; panels are of g, by blocks of its columns. */
static TARGET void add_transposed_times(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out,
                                        int adds, size_t block, float *panels)
{
    float *a = panels + (smaller(block, out) + COLUMNS) * rows;
    for (size_t first = 0; first < out; first += block) {
        const size_t last = smaller(first + block, out);
        copy(panels, g, first, last, out, rows);
        for (size_t i = 0; i < in; i += ROWS) {
            const size_t at = within(i, in, ROWS);
            if (i % GROUP == 0)
                copy_columns(a, x, i, rows, in);
            for (size_t c = first; c < last; c += COLUMNS) {
                const size_t column = within(c, out, COLUMNS);
                float *to = w + at * out + column;
                expect_tile(to, out);
                const tile t = multiply(a + i % GROUP * rows, 1, ROWS, panels + (c - first) * rows, rows, NULL);
                store_or_add(&t, to, out, adds, i - at, c - column);
            }
        }
    }
}

TARGET int NAMED(transposed_times_f32)(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    const size_t most = smaller(rows, DEEP), block = (resident() / most / COLUMNS + 1) * COLUMNS;
    float *panels = floats((smaller(block, out) + COLUMNS + GROUP) * most);
    if (panels == NULL)
        return 1;
    for (size_t k = 0; k < rows; k += DEEP)
        add_transposed_times(x + k * in, g + k * out, w, smaller(DEEP, rows - k), in, out, k > 0, block, panels);
    free(panels);
    return 0;
}

#endif
