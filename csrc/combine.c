/* combine: the sum, or other op, of k arrays in one pass over memory; and the same with the optimiser's update in it.
 *
 * Two arrays into two, what two ranks of a host do, is one loop. Otherwise a block that stays in the first-level cache
 * gathers the arrays one after the other, in their order, and goes where it is wanted: each array is read just once.
 */
#include <string.h>

#include "internal.h"
#include "npdp_kernels.h"

enum { BLOCK_BYTES = 4096 };

static void accumulate(int op, int dtype, void *dst, const void *src, size_t count)
{
#define CASES(OP, name)                                                                                                \
    case OP * 4 + NPDP_F32: npdp_##name##_f32(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_F64: npdp_##name##_f64(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_I32: npdp_##name##_i32(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_I64: npdp_##name##_i64(dst, src, count); break;
    switch (op * 4 + dtype) {
        CASES(NPDP_SUM, sum)
        CASES(NPDP_PROD, prod)
        CASES(NPDP_MIN, min)
        CASES(NPDP_MAX, max)
    }
}

/* The places of one array only meet the same places of another, so there is no dependence from one round to the next
 * (ivdep), also where a target is a source. */
#define DEFINE_PAIR(name, type)                                                                                        \
    static NPDP_CLONES void name(type *t0, type *t1, const type *s0, const type *s1, size_t count)                     \
    {                                                                                                                  \
        _Pragma("GCC ivdep") for (size_t i = 0; i < count; i++)                                                        \
        {                                                                                                              \
            const type sum = s0[i] + s1[i];                                                                            \
            t0[i] = sum;                                                                                               \
            t1[i] = sum;                                                                                               \
        }                                                                                                              \
    }
DEFINE_PAIR(pair_f32, float)
DEFINE_PAIR(pair_f64, double)

/* Gathers bytes [start, start + nbytes) of all sources in `block`. */
static void gather(unsigned char *block, int op, int dtype, const void *const *sources, size_t source_count,
                   size_t start, size_t nbytes)
{
    const size_t size = dtype == NPDP_F32 || dtype == NPDP_I32 ? 4 : 8;
    memcpy(block, (const unsigned char *)sources[0] + start, nbytes);
    for (size_t k = 1; k < source_count; k++)
        accumulate(op, dtype, block, (const unsigned char *)sources[k] + start, nbytes / size);
}

static size_t block_at(size_t start, size_t total)
{
    return total - start < BLOCK_BYTES ? total - start : BLOCK_BYTES;
}

void npdp_combine(int op, int dtype, void *const *targets, size_t target_count, const void *const *sources,
                  size_t source_count, size_t count)
{
    const size_t total = count * (dtype == NPDP_F32 || dtype == NPDP_I32 ? 4 : 8);
    _Alignas(64) unsigned char block[BLOCK_BYTES];

    if (op == NPDP_SUM && source_count == 2 && target_count == 2 && dtype == NPDP_F32)
        pair_f32(targets[0], targets[1], sources[0], sources[1], count);
    else if (op == NPDP_SUM && source_count == 2 && target_count == 2 && dtype == NPDP_F64)
        pair_f64(targets[0], targets[1], sources[0], sources[1], count);
    else
        for (size_t start = 0; start < total; start += BLOCK_BYTES) {
            gather(block, op, dtype, sources, source_count, start, block_at(start, total));
            for (size_t k = 0; k < target_count; k++)
                memcpy((unsigned char *)targets[k] + start, block, block_at(start, total));
        }
}

/* Asks for the lines of the parameters that are updated next: all ranks have read them, and where their cores have no
 * cache in common, a store would wait for each. A processor that does not know the instruction does nothing. */
static void fetch_to_write(const void *param, size_t start, size_t total)
{
#ifdef NPDP_WITH_X86
    const unsigned char *bytes = param;
    for (size_t i = start; i < total && i < start + BLOCK_BYTES; i += CACHE_LINE_BYTES)
        __asm__ volatile("prefetchw %0" : : "m"(bytes[i]));
#else
    (void)param, (void)start, (void)total;
#endif
}

static int any_overlaps(const void *const *sources, size_t source_count, const void *written, size_t nbytes)
{
    int found = 0;
    for (size_t k = 0; k < source_count; k++)
        found |= npdp_overlap(sources[k], written, nbytes);
    return found;
}

#define DEFINE_COMBINE_SGD(suffix, real, DTYPE)                                                                        \
    int npdp_combine_sgd_##suffix(const void *const *sources, size_t source_count, real *param, real *velocity,       \
                                   size_t count, real lr, real momentum, real keep, real weight_decay, int nesterov,   \
                                   int first)                                                                          \
    {                                                                                                                  \
        const size_t total = count * sizeof(real);                                                                     \
        if (any_overlaps(sources, source_count, param, total))                                                         \
            return 1;                                                                                                  \
        const int has_momentum = momentum != 0 && velocity != NULL;                                                    \
        if (has_momentum && (npdp_overlap(param, velocity, total) ||                                                   \
                             any_overlaps(sources, source_count, velocity, total)))                                    \
            return 1;                                                                                                  \
        _Alignas(64) unsigned char block[BLOCK_BYTES];                                                                 \
        for (size_t start = 0; start < total; start += BLOCK_BYTES) {                                                  \
            const size_t nbytes = block_at(start, total), at = start / sizeof(real);                                   \
            fetch_to_write(param, start + BLOCK_BYTES, total);                                                         \
            gather(block, NPDP_SUM, DTYPE, sources, source_count, start, nbytes);                                      \
            npdp_sgd_##suffix(param + at, (real *)(void *)block, has_momentum ? velocity + at : NULL,                  \
                              nbytes / sizeof(real), lr, momentum, keep, weight_decay, nesterov, first);               \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

#define DEFINE_COMBINE_ADAM(suffix, real, DTYPE)                                                                       \
    int npdp_combine_adam_##suffix(const void *const *sources, size_t source_count, real *param, real *m, real *v,    \
                                    size_t count, real step_size, real beta1, real rest1, real beta2, real rest2,      \
                                    real root2, real eps, real l2, real shrink)                                        \
    {                                                                                                                  \
        const size_t total = count * sizeof(real);                                                                     \
        if (npdp_overlap(param, m, total) || npdp_overlap(param, v, total) || npdp_overlap(m, v, total) ||             \
            any_overlaps(sources, source_count, param, total) || any_overlaps(sources, source_count, m, total) ||      \
            any_overlaps(sources, source_count, v, total))                                                             \
            return 1;                                                                                                  \
        _Alignas(64) unsigned char block[BLOCK_BYTES];                                                                 \
        for (size_t start = 0; start < total; start += BLOCK_BYTES) {                                                  \
            const size_t nbytes = block_at(start, total), at = start / sizeof(real);                                   \
            fetch_to_write(param, start + BLOCK_BYTES, total);                                                         \
            gather(block, NPDP_SUM, DTYPE, sources, source_count, start, nbytes);                                      \
            npdp_adam_##suffix(param + at, (real *)(void *)block, m + at, v + at, nbytes / sizeof(real), step_size,    \
                               beta1, rest1, beta2, rest2, root2, eps, l2, shrink);                                    \
        }                                                                                                              \
        return 0;                                                                                                      \
    }

DEFINE_COMBINE_SGD(f32, float, NPDP_F32)
DEFINE_COMBINE_SGD(f64, double, NPDP_F64)

DEFINE_COMBINE_ADAM(f32, float, NPDP_F32)
DEFINE_COMBINE_ADAM(f64, double, NPDP_F64)
