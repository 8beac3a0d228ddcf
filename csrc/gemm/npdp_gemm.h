/* The products of a linear layer, on one thread: the contract. Its readers are those of npdp_kernels.h.
 *
 * All arrays are C-contiguous and aligned to their element: x, its gradient too, is (rows, in), w (in, out), y and g
 * (rows, out), none of them empty. The result does not overlap the factors. NaN and infinities go where the sums take
 * them. With AVX-512, in whole tiles:
 *   times              y = x w                      rows >= 8,  out >= 32
 *   times_transposed   x = g w'                     rows >= 32, in >= 8
 *   transposed_times   w = x' g                     in >= 8,    out >= 32
 * and with AMX, for any sizes, as exact as adding up float32 products one by one is; but numbers below 2^-100 lose bits,
 * since their pieces (amx.c), and products of these, become 0 below the smallest normal number, 2^-126.
 * With AVX2 and FMA, in whole tiles, those of backward:
 *   avx2_times_transposed     x = g w'     rows >= 16, in >= 6
 *   avx2_transposed_times     w = x' g     in >= 6,    out >= 16
 * and, quick for a result that is narrow, in whole strips, with AVX-512; as avx2_narrow_... with AVX2, for half of 32 and 4:
 *   narrow_times              y = x w      rows >= 5, out >= 32
 *   narrow_times_transposed   x = g w'     rows >= 4, in >= 5
 *   narrow_transposed_times   w = x' g     in >= 5,   out >= 32
 * All but the narrow ones allocate memory for panels and free it; how large the cache is, they ask once. They return 0;
 * or 1 where the caller must make the product otherwise, and what is in the result then is of no use: there is no
 * memory for panels; a narrow result has few rows and a depth of more than 1024; or, with AMX, the result has an
 * infinity or NaN (some pieces have where float32 arithmetic does not). */
#ifndef NPDP_GEMM_H
#define NPDP_GEMM_H

#include <stddef.h>

/* The two factors, then the result. */
typedef int npdp_product(const float *, const float *, float *, size_t rows, size_t in, size_t out);
npdp_product npdp_times_f32, npdp_times_transposed_f32, npdp_transposed_times_f32;
npdp_product npdp_amx_times_f32, npdp_amx_times_transposed_f32, npdp_amx_transposed_times_f32;
npdp_product npdp_avx2_times_transposed_f32, npdp_avx2_transposed_times_f32;
npdp_product npdp_narrow_times_f32, npdp_narrow_times_transposed_f32, npdp_narrow_transposed_times_f32;
npdp_product npdp_avx2_narrow_times_f32, npdp_avx2_narrow_times_transposed_f32, npdp_avx2_narrow_transposed_times_f32;

#endif
