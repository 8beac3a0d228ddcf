/* The products of a linear layer, float32, by the tiles of AMX; the contract is in npdp_gemm.h.
 *
 * AMX multiplies numbers of 8 significant bits (bfloat16) and adds up in float32. A float32 has 24 bits: it is, exactly,
 * the sum of three such numbers,
 *
 *     x = high + middle + low,      |middle| <= 2^-8 |x|,  |low| <= 2^-17 |x|
 *
 * so x w is the sum of nine products of pieces, each of which is exact. Six are added up; the others (middle times low,
 * low times middle, low times low) are together below 2^-24 |x| |w|, what a single rounding of float32 may lose. A tile
 * adds up two times 16 products by themselves before it adds them to the sum: the result is closer to the true one than
 * that of adding up float32 products one by one (tests/test_matmul.py). And six products by AMX take a third of the time that
 * one by AVX-512 does.
 *
 * Source: Henry, Tang and Heinecke, Leveraging the bfloat16 artificial intelligence datatype for higher-precision
 * computations, 2019. Measured: docs/measurements.md.
 */
#define _POSIX_C_SOURCE 200112L
#include <stdlib.h>

#include "internal.h"
#include "npdp_gemm.h"

#ifdef NPDP_WITH_AMX
#include "ahead.h"
#include "pieces.h"
#ifdef NPDP_EMULATED_TILES
#include "emulated_tiles.h"
#endif

/* What stays in the caches: steps of a panel at a time (first level); panels side by side, their steps, and sums
 * (second level). */
enum { CHUNK = 3, BLOCK = 16, KEPT_STEPS = 128, STRIP_SUMS = 192 };

/* One factor is kept, packed, while the other passes by, panel by panel. */
typedef struct {
    factor kept, passing;
    int passing_left;
    float *to;
    size_t rows, columns;
    int transposed; /* it is the transposed result that has the left factor's rows */
} product;

/* What a product works with: a block of the kept factor, a chunk of the passing one, and their sums. */
typedef struct {
    uint32_t *kept, *chunk;
    float *sums;
    size_t block, deep, strip; /* panels of the kept factor, their steps, panels of the passing one */
    __mmask16 not_finite;
} workshop;

/* Two tiles one after the other, or a pair of tiles of each factor into the 2 x 2 tiles of their sums. */
#define LOAD_TWO(one, other, from)                                                                                     \
    do {                                                                                                               \
        _tile_loadd(one, from, ROW_BYTES);                                                                             \
        _tile_loadd(other, (from) + TILE, ROW_BYTES);                                                                  \
    } while (0)
#define STORE_TWO(one, other, to)                                                                                      \
    do {                                                                                                               \
        _tile_stored(one, to, ROW_BYTES);                                                                              \
        _tile_stored(other, (to) + TILE, ROW_BYTES);                                                                   \
    } while (0)
#define LEFT(piece) LOAD_TWO(4, 5, left + (piece)*2 * TILE)
#define RIGHT(piece) LOAD_TWO(6, 7, right + (piece)*2 * TILE)
#define ADD_PRODUCTS                                                                                                   \
    do {                                                                                                               \
        _tile_dpbf16ps(0, 4, 6);                                                                                       \
        _tile_dpbf16ps(1, 4, 7);                                                                                       \
        _tile_dpbf16ps(2, 5, 6);                                                                                       \
        _tile_dpbf16ps(3, 5, 7);                                                                                       \
    } while (0)

/* The chunk of a panel from step k on, while `times` panels are multiplied. Some is fetched after each product of pieces. */
static ahead next_chunk(const factor *f, size_t panel, size_t k, size_t times)
{
    const size_t each = CHUNK * STEP * PANEL / SIDE / (times * CHUNK * PRODUCTS) + 1;
    if (f->down)
        return (ahead){f->numbers + k * STEP * f->columns + panel * PANEL, f->columns, PANEL / SIDE, 0, each};
    return (ahead){f->numbers + panel * PANEL * f->columns + k * STEP, f->columns, CHUNK * STEP / SIDE, 0, each};
}

/* Where sums will be written, while a panel is multiplied. */
static ahead next_result(const product *p, size_t r, size_t c)
{
    const size_t each = PANEL * PANEL / SIDE / (CHUNK * PRODUCTS) + 1;
    return (ahead){p->to + r * p->columns + c, p->columns, PANEL / SIDE, 0, each};
}

/* sums = or += a left panel times a right one. From one product of pieces to the next only one side changes. */
INLINE void multiply(const uint32_t *left, const uint32_t *right, size_t steps, float *sums, int adds, ahead *next)
{
    __asm__ volatile("" ::: "memory"); /* what is read was written before: GCC is not told by _tile_loadd */
    if (adds) {
        LOAD_TWO(0, 1, sums);
        LOAD_TWO(2, 3, sums + 2 * TILE);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t s = 0; s < steps; s++, left += STEP_WORDS, right += STEP_WORDS) {
        LEFT(HIGH);
        RIGHT(LOW);
        ADD_PRODUCTS;
        fetch(next);
        RIGHT(MIDDLE);
        ADD_PRODUCTS;
        fetch(next);
        LEFT(MIDDLE);
        ADD_PRODUCTS;
        fetch(next);
        RIGHT(HIGH);
        ADD_PRODUCTS;
        fetch(next);
        LEFT(LOW);
        ADD_PRODUCTS;
        fetch(next);
        LEFT(HIGH);
        ADD_PRODUCTS;
        fetch(next);
    }
    STORE_TWO(0, 1, sums);
    STORE_TWO(2, 3, sums + 2 * TILE);
}

/* Writes sums to the result, from row r and column c on; says which are infinite or no numbers. */
INLINE __mmask16 put(const product *p, float *sums, size_t r, size_t c)
{
    __mmask16 not_finite = 0;
    for (size_t t = 0; t < 4; t++) {
        float *tile = sums + t * TILE;
        const size_t row = r + (p->transposed ? t % 2 : t / 2) * SIDE, column = c + (p->transposed ? t / 2 : t % 2) * SIDE;
        if (row >= p->rows || column >= p->columns)
            continue;
        if (p->transposed)
            transpose(tile);
        for (size_t i = 0; i < smaller(SIDE, p->rows - row); i++) {
            const __m512 numbers = _mm512_load_ps(tile + i * SIDE);
            const __m512 zeros = _mm512_sub_ps(numbers, numbers); /* NaN where there is an infinity or NaN */
            not_finite |= _mm512_cmp_ps_mask(zeros, zeros, _CMP_UNORD_Q);
            _mm512_mask_storeu_ps(p->to + (row + i) * p->columns + column, first(p->columns - column), numbers);
        }
    }
    return not_finite;
}

/* One panel that passes, times a block of kept ones: `here` from panel `start` on, with `steps` of depth from step k on;
 * `last` writes the results. */
static AMX void pass(const product *p, workshop *w, size_t panel, size_t start, size_t here, size_t k, size_t steps,
                     float *sums, int last)
{
    const size_t apart = last && k == 0 && steps <= CHUNK ? 0 : SUMS; /* what is written at once needs no more room */
    for (size_t s = 0; s < steps; s += CHUNK) {
        const size_t chunk = smaller(CHUNK, steps - s);
        const int adds = k + s > 0, writes = last && s + chunk == steps;
        pack(&p->passing, p->passing_left, panel, k + s, chunk, w->chunk);
        ahead next = s + chunk < steps ? next_chunk(&p->passing, panel, k + s + chunk, here)
                                       : next_chunk(&p->passing, panel + 1, k, here);
        for (size_t i = 0; i < here; i++, sums += apart) {
            const uint32_t *kept = w->kept + (i * steps + s) * STEP_WORDS;
            const int by_columns = p->passing_left == p->transposed; /* panels that pass are columns of the result */
            const size_t r = (by_columns ? start + i : panel) * PANEL, c = (by_columns ? panel : start + i) * PANEL;
            if (writes)
                next = by_columns ? next_result(p, r + PANEL, c) : next_result(p, r, c + PANEL);
            multiply(p->passing_left ? w->chunk : kept, p->passing_left ? kept : w->chunk, chunk, sums, adds, &next);
            if (writes)
                w->not_finite |= put(p, sums, r, c);
        }
        sums -= here * apart;
    }
}

static AMX void pass_all(const product *p, workshop *w)
{
    const size_t panels = panels_of(&p->kept), passing = panels_of(&p->passing), all = steps_of(&p->kept);
    for (size_t start = 0; start < panels; start += w->block) {
        const size_t here = smaller(w->block, panels - start);
        for (size_t strip = 0; strip < passing; strip += w->strip)
            for (size_t k = 0; k < all; k += w->deep) {
                const size_t steps = smaller(w->deep, all - k);
                if (strip == 0 || w->deep < all) /* else they are kept from the strip before */
                    for (size_t i = 0; i < here; i++)
                        pack(&p->kept, !p->passing_left, start + i, k, steps, w->kept + i * steps * STEP_WORDS);
                for (size_t n = strip; n < smaller(strip + w->strip, passing); n++)
                    pass(p, w, n, start, here, k, steps, w->sums + (n - strip) * here * SUMS, k + steps == all);
            }
    }
}

static const struct {
    uint8_t palette, start_row, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} WHOLE_TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* A factor that passes is read along its rows. In `times` these run along its panels: a chunk of depth is read for many
 * panels, whose sums are kept. Elsewhere panels pass one by one, as deep as there is room for what is kept; where less deep
 * than that is enough, more panels are kept instead. */
static AMX int make(const product *p)
{
    const size_t panels = panels_of(&p->kept), all = steps_of(&p->kept);
    workshop w = {.block = smaller(panels, BLOCK)};
    w.deep = p->passing.down && !p->passing_left ? smaller(all, CHUNK) : smaller(all, KEPT_STEPS / w.block);
    if (p->passing_left)
        w.block = smaller(panels, KEPT_STEPS / w.deep);
    w.strip = smaller(panels_of(&p->passing), STRIP_SUMS / w.block + 1);
    const size_t words = (w.block * w.deep + CHUNK) * STEP_WORDS + w.block * w.strip * SUMS;
    void *memory;
    if (posix_memalign(&memory, 64, words * sizeof(uint32_t)))
        return 1;
    w.kept = memory;
    w.chunk = w.kept + w.block * w.deep * STEP_WORDS;
    w.sums = (float *)(w.chunk + CHUNK * STEP_WORDS);
    _tile_loadconfig(&WHOLE_TILES);
    pass_all(p, &w);
    _tile_release();
    free(memory);
    return w.not_finite != 0;
}

int npdp_amx_times_f32(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)
{
    return make(&(product){{x, rows, in, 0}, {w, in, out, 1}, 0, y, rows, out, 0});
}

/* Computes x transposed: w goes by as it lies. */
int npdp_amx_times_transposed_f32(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    return make(&(product){{g, rows, out, 0}, {w, in, out, 0}, 1, x, rows, in, 1});
}

int npdp_amx_transposed_times_f32(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    return make(&(product){{g, rows, out, 1}, {x, rows, in, 1}, 1, w, in, out, 0});
}

#else

NO_PRODUCT(npdp_amx_times_f32)
NO_PRODUCT(npdp_amx_times_transposed_f32)
NO_PRODUCT(npdp_amx_transposed_times_f32)

#endif
