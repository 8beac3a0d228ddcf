/* Factors of a product in pieces of 8 bits, packed for AMX's tiles; what it is for stands in amx.c.
 *
 * A float32 x is, exactly, high + middle + low, three bfloat16 numbers. A tile is 16 rows of 16 pairs of pieces. A panel is
 * 32 rows of a left factor, or 32 columns of a right one, by steps of 32 numbers of depth; a step is high, middle and low
 * of two tiles. Which numbers of depth make a pair does not matter as long as it is the same ones on both sides: here
 * those 16 apart. Beyond the ends of a factor there are zeros.
 */
#ifndef NPDP_PIECES_H
#define NPDP_PIECES_H

#include <immintrin.h>

#include "internal.h"

#define AMX __attribute__((target("avx512f,avx512bw,amx-tile,amx-bf16")))
#define INLINE static inline __attribute__((always_inline)) AMX
/* numbers; words of 32 bits in a tile, in a step of a panel, and in the sums of two panels */
enum { SIDE = 16, PANEL = 2 * SIDE, STEP = 2 * SIDE, ROW_BYTES = 4 * SIDE };
enum { HIGH, MIDDLE, LOW, PIECES, PRODUCTS = 6 };
enum { TILE = SIDE * SIDE, STEP_WORDS = PIECES * 2 * TILE, SUMS = 4 * TILE };

typedef struct {
    const float *numbers;
    size_t rows, columns;
    int down; /* the depth runs down its rows, else along them */
} factor;

static size_t panels_of(const factor *f)
{
    return cover(f->down ? f->columns : f->rows, PANEL);
}

static size_t steps_of(const factor *f)
{
    return cover(f->down ? f->rows : f->columns, STEP);
}

INLINE __mmask16 first(size_t count)
{
    return count >= SIDE ? 0xffff : (__mmask16)((1u << count) - 1);
}

/* 16 numbers of a row; 0 beyond the end. */
INLINE __m512 part(const factor *f, size_t r, size_t c)
{
    if (r >= f->rows || c >= f->columns)
        return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps(first(f->columns - c), f->numbers + r * f->columns + c);
}

/* To 8 significant bits. */
INLINE __m512 rounded(__m512 x)
{
    const __m512i up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    return _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-0x10000)));
}

/* The upper halves of a's and b's words. */
INLINE __m512i pair(__m512 a, __m512 b)
{
    const __m512i lower = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
    return _mm512_mask_mov_epi16(_mm512_castps_si512(b), 0x55555555, lower);
}

INLINE void split(__m512 a, __m512 b, uint32_t *to)
{
#pragma GCC unroll 3
    for (size_t piece = HIGH; piece < PIECES; piece++) {
        const __m512 from_a = piece < LOW ? rounded(a) : a, from_b = piece < LOW ? rounded(b) : b; /* 8 bits are left */
        _mm512_store_si512(to + piece * 2 * TILE, pair(from_a, from_b));
        a = _mm512_sub_ps(a, from_a);
        b = _mm512_sub_ps(b, from_b);
    }
}

INLINE void transpose(void *tile)
{
    uint32_t *words = tile;
    __m512i a[SIDE], b[SIDE];
    for (int i = 0; i < SIDE; i++)
        a[i] = _mm512_load_si512(words + SIDE * i);
    for (int i = 0; i < SIDE; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int i = 0; i < SIDE; i += 8)
        for (int j = i; j < i + 4; j++) {
            b[j] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x88);
            b[j + 4] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        _mm512_store_si512(words + SIDE * i, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_store_si512(words + SIDE * (i + 8), _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    }
}

/* Half of a step: from row (or column) n and depth k on. Its rows are n's in a left factor, and the depth's in a right one. */
INLINE void pack_half(const factor *f, int left, size_t n, size_t k, uint32_t *to)
{
    const size_t r = f->down ? k : n, c = f->down ? n : k;
    const size_t down = f->down ? SIDE : 0, along = SIDE - down; /* to the other of a pair */
    if (r + down + SIDE <= f->rows && c + along + SIDE <= f->columns) {
        const float *a = f->numbers + r * f->columns + c, *b = a + down * f->columns + along;
        for (size_t i = 0; i < SIDE; i++, a += f->columns, b += f->columns)
            split(_mm512_loadu_ps(a), _mm512_loadu_ps(b), to + i * SIDE);
    } else {
        for (size_t i = 0; i < SIDE; i++)
            split(part(f, r + i, c), part(f, r + down + i, c + along), to + i * SIDE);
    }
    if (left == f->down)
        for (size_t piece = 0; piece < PIECES; piece++)
            transpose(to + piece * 2 * TILE);
}

/* Steps of a panel, from step k on. */
static AMX void pack(const factor *f, int left, size_t panel, size_t k, size_t steps, uint32_t *to)
{
    for (size_t s = 0; s < steps; s++)
        for (size_t half = 0; half < 2; half++)
            pack_half(f, left, panel * PANEL + half * SIDE, (k + s) * STEP, to + s * STEP_WORDS + half * TILE);
}

#endif
