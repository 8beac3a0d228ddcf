/* The products of a layer's backward with AVX2: 12 of its 16 registers are a tile. */
#define _POSIX_C_SOURCE 200112L
#include "internal.h"
#include "npdp_kernels.h"

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
enum { ROWS = 6, COLUMNS = 16, VECTOR = 8, DEEP = 256 };
typedef __m256 vector;

#include "tiles.h"

#else

int npdp_avx2_times_transposed_f32(const float *g, const float *w, float *x, size_t rows, size_t in, size_t out)
{
    return (void)g, (void)w, (void)x, (void)rows, (void)in, (void)out, 1;
}

int npdp_avx2_transposed_times_f32(const float *x, const float *g, float *w, size_t rows, size_t in, size_t out)
{
    return (void)x, (void)g, (void)w, (void)rows, (void)in, (void)out, 1;
}

#endif
