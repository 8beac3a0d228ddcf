/* The products of a layer's backward with AVX2, and those of one with few outputs: 12 of its 16 registers are a tile. */
#define _POSIX_C_SOURCE 200112L
#include "internal.h"
#include "npdp_gemm.h"

#ifdef NPDP_WITH_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define NAMED(product) npdp_avx2_##product
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SPREAD _mm256_set1_ps
#define ZEROS _mm256_setzero_ps
#define ADD _mm256_add_ps
#define MULTIPLY_ADD _mm256_fmadd_ps
enum { ROWS = 6, COLUMNS = 16, VECTOR = 8, DEEP = 256, TALL = 5, DOTS = 2 };
typedef __m256 vector;

static inline __attribute__((always_inline)) TARGET float total(vector v)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
#define TOTAL total

#include "narrow.h"

#else

NO_PRODUCT(npdp_avx2_times_transposed_f32)
NO_PRODUCT(npdp_avx2_transposed_times_f32)
NO_PRODUCT(npdp_avx2_narrow_times_f32)
NO_PRODUCT(npdp_avx2_narrow_times_transposed_f32)
NO_PRODUCT(npdp_avx2_narrow_transposed_times_f32)

#endif
