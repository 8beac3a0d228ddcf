/* The products of a linear layer with AVX-512: 16 of its 32 registers are a tile. */
#define _POSIX_C_SOURCE 200112L
#include "internal.h"
#include "npdp_gemm.h"

#ifdef NPDP_WITH_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f")))
#define NAMED(product) npdp_##product
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SPREAD _mm512_set1_ps
#define ZEROS _mm512_setzero_ps
#define ADD _mm512_add_ps
#define MULTIPLY_ADD _mm512_fmadd_ps
#define TOTAL _mm512_reduce_add_ps
enum { ROWS = 8, COLUMNS = 32, VECTOR = 16, DEEP = 512, TALL = 10, DOTS = 4 };
typedef __m512 vector;

#include "narrow.h"

/* What stays in the cache of a plain product, in numbers: of depth, or up to an eighth more; of w's columns; and of rows.
 * Few rows take so little time that half a width is multiplied while the other half comes. */
enum { DEPTH = 256, WIDTH = 512, BLOCK = 512, FEW_ROWS = 256 };

/* The block of w that is copied next, `deep` rows of it, while `rows` rows are multiplied by one of `width` columns. */
static ahead next_block(const float *w, size_t out, size_t deep, size_t width, size_t rows)
{
    const size_t lines = width / LINE_FLOATS, times = width / COLUMNS * cover(rows, ROWS) * (deep / UNROLL);
    return (ahead){w, out, lines, 0, cover(lines * deep, times)};
}

/* By blocks of rows of x, and of w, which is copied: these stay in the cache. Blocks are about equally deep: for a short one
 * every tile of the result would be read and written for little. */
TARGET int npdp_times_f32(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)
{
    const size_t width = rows <= FEW_ROWS ? WIDTH / 2 : WIDTH;
    const size_t deep = cover(cover(in, cover(in, DEPTH + DEPTH / 8)), UNROLL) * UNROLL;
    float *panels = floats(deep * (width + COLUMNS));
    if (panels == NULL)
        return 1;
    for (size_t first = 0; first < rows; first += BLOCK)
        for (size_t left = 0; left < out; left += width)
            for (size_t k = 0; k < in; k += deep) {
                const size_t depth = smaller(deep, in - k), right = smaller(left + width, out);
                const float *then = k + deep < in ? w + (k + deep) * out + left : w + left + width;
                ahead next = next_block(then, out, deep, width, smaller(BLOCK, rows - first));
                copy(panels, w + k * out, left, right, out, depth);
                for (size_t c = left; c < right; c += COLUMNS) {
                    const size_t column = within(c, out, COLUMNS);
                    for (size_t i = first; i < smaller(first + BLOCK, rows); i += ROWS) {
                        const size_t at = within(i, rows, ROWS);
                        float *to = y + at * out + column;
                        expect_tile(to, out);
                        const tile t = multiply(x + at * in + k, in, 1, panels + (c - left) * depth, depth, &next);
                        store_or_add(&t, to, out, k > 0, i - at, c - column);
                    }
                }
            }
    free(panels);
    return 0;
}

#else

NO_PRODUCT(npdp_times_f32)
NO_PRODUCT(npdp_times_transposed_f32)
NO_PRODUCT(npdp_transposed_times_f32)
NO_PRODUCT(npdp_narrow_times_f32)
NO_PRODUCT(npdp_narrow_times_transposed_f32)
NO_PRODUCT(npdp_narrow_transposed_times_f32)

#endif
