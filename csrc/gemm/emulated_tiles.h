/* What AMX's tiles do, for processors without: the same results, slowly. For tests (NPDP_EMULATED_TILES).
 *
 * A use that the processor would refuse ends the program. As there, numbers below the smallest normal one count as 0,
 * and even and odd halves of the pairs are summed apart.
 *
 * Source: Intel, 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.
 */
#ifndef NPDP_EMULATED_TILES_H
#define NPDP_EMULATED_TILES_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) emulated_loadconfig(from)
#define _tile_release() emulated_release()
#define _tile_zero(tile) memset(emulated(tile), 0, sizeof(emulated_tile))
#define _tile_loadd(tile, from, row) emulated_move(emulated(tile), 64, from, row)
#define _tile_stored(tile, to, row) emulated_move(to, row, emulated(tile), 64)
#define _tile_dpbf16ps(sums, a, b) emulated_dpbf16ps(emulated(sums), emulated(a), emulated(b))

typedef uint32_t emulated_tile[16][16];
static _Thread_local emulated_tile emulated_tiles[8];
static _Thread_local int emulated_is_configured;

static void *emulated(int tile)
{
    if (!emulated_is_configured)
        abort();
    return emulated_tiles[tile];
}

static void emulated_loadconfig(const void *from)
{
    uint8_t wanted[64] = {1}; /* palette 1; 8 tiles of 16 rows of 64 bytes */
    for (int tile = 0; tile < 8; tile++)
        wanted[16 + 2 * tile] = 64, wanted[48 + tile] = 16;
    if (emulated_is_configured || memcmp(from, wanted, sizeof wanted) != 0)
        abort();
    emulated_is_configured = 1;
}

static void emulated_release(void)
{
    emulated(0);
    emulated_is_configured = 0;
}

static void emulated_move(void *to, size_t to_row, const void *from, size_t from_row)
{
    for (size_t i = 0; i < 16; i++)
        memcpy((char *)to + i * to_row, (const char *)from + i * from_row, 64);
}

/* sums += a b, where a word is two bfloat16: the even one in its lower half, the odd one in its upper. */
__attribute__((target("avx512f"), noinline)) static void emulated_dpbf16ps(float *sums, uint32_t (*a)[16],
                                                                          uint32_t (*b)[16])
{
    const __m512i odd_half = _mm512_set1_epi32(-0x10000);
    const unsigned before = _mm_getcsr();
    _mm_setcsr(0x1f80 | _MM_FLUSH_ZERO_ON | 0x40 /* denormals are zeros */);
    __asm__ volatile("" ::: "memory"); /* arithmetic, whose factors are read, stays between */
    for (size_t i = 0; i < 16; i++, sums += 16) {
        __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
        for (size_t k = 0; k < 16; k++) {
            const __m512i x = _mm512_set1_epi32((int)a[i][k]), w = _mm512_loadu_si512(b[k]);
            even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                                   _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), even);
            odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, odd_half)),
                                  _mm512_castsi512_ps(_mm512_and_si512(w, odd_half)), odd);
        }
        _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), _mm512_add_ps(even, odd)));
    }
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(before);
}

#endif
