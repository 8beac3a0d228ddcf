/* combine: the sum, or other op, of k arrays in one pass over memory; and the same with the optimiser's update in it.
 *
 * Each array is read just once, in their order. Sums are added up in registers, a few vectors at a time; two arrays into
 * two, what two ranks of a host do, is a loop of its own. Other ops gather the arrays in a block that stays in the
 * first-level cache and goes where it is wanted.
 */
#include <string.h>

#include "internal.h"
#include "npdp_kernels.h"

enum { BLOCK_BYTES = 4096, VECTOR_BYTES = 64, VECTORS = 4 };

static void accumulate(int op, int dtype, void *dst, const void *src, size_t count)
{
#define CASES(OP, name)                                                                                                \
    case OP * 4 + NPDP_F32: npdp_##name##_f32(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_F64: npdp_##name##_f64(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_I32: npdp_##name##_i32(dst, src, count); break;                                                 \
    case OP * 4 + NPDP_I64: npdp_##name##_i64(dst, src, count); break;
    switch (op * 4 + dtype) {
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

/* target[i] = source 0[from + i] + source 1[from + i] + ..., in this order; integers wrap, as unsigned ones do. */
#define DEFINE_SUM(suffix, type)                                                                                       \
    typedef type vector_##suffix __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(type)), may_alias));         \
    static NPDP_CLONES void sum_##suffix(void *const *targets, size_t target_count, const void *const *sources,        \
                                         size_t source_count, size_t from, size_t count)                               \
    {                                                                                                                  \
        enum { LENGTH = VECTOR_BYTES / sizeof(type) };                                                                 \
        size_t i = 0;                                                                                                  \
        for (; i + VECTORS * LENGTH <= count; i += VECTORS * LENGTH) {                                                 \
            vector_##suffix sums[VECTORS];                                                                             \
            _Pragma("GCC unroll 4") for (size_t v = 0; v < VECTORS; v++)                                               \
                sums[v] = *(const vector_##suffix *)((const type *)sources[0] + from + i + v * LENGTH);                \
            for (size_t k = 1; k < source_count; k++)                                                                  \
                _Pragma("GCC unroll 4") for (size_t v = 0; v < VECTORS; v++)                                           \
                    sums[v] += *(const vector_##suffix *)((const type *)sources[k] + from + i + v * LENGTH);           \
            for (size_t k = 0; k < target_count; k++)                                                                  \
                _Pragma("GCC unroll 4") for (size_t v = 0; v < VECTORS; v++)                                           \
                    *(vector_##suffix *)((type *)targets[k] + i + v * LENGTH) = sums[v];                               \
        }                                                                                                              \
        for (; i < count; i++) {                                                                                       \
            type sum = ((const type *)sources[0])[from + i];                                                           \
            for (size_t k = 1; k < source_count; k++)                                                                  \
                sum += ((const type *)sources[k])[from + i];                                                           \
            for (size_t k = 0; k < target_count; k++)                                                                  \
                ((type *)targets[k])[i] = sum;                                                                         \
        }                                                                                                              \
    }
DEFINE_SUM(f32, float)
DEFINE_SUM(f64, double)
DEFINE_SUM(i32, uint32_t)
DEFINE_SUM(i64, uint64_t)

static void add_up(int dtype, void *const *targets, size_t target_count, const void *const *sources,
                   size_t source_count, size_t count)
{
    switch (dtype) {
    case NPDP_F32: sum_f32(targets, target_count, sources, source_count, 0, count); break;
    case NPDP_F64: sum_f64(targets, target_count, sources, source_count, 0, count); break;
    case NPDP_I32: sum_i32(targets, target_count, sources, source_count, 0, count); break;
    case NPDP_I64: sum_i64(targets, target_count, sources, source_count, 0, count); break;
    }
}

/* Gathers bytes [start, start + nbytes) of all sources in `block`. */
static void gather(unsigned char *block, int op, int dtype, const void *const *sources, size_t source_count,
                   size_t start, size_t nbytes)
{
    memcpy(block, (const unsigned char *)sources[0] + start, nbytes);
    for (size_t k = 1; k < source_count; k++)
        accumulate(op, dtype, block, (const unsigned char *)sources[k] + start, nbytes / item_bytes(dtype));
}

static size_t block_at(size_t start, size_t total)
{
    return smaller(total - start, BLOCK_BYTES);
}

void npdp_combine(int op, int dtype, void *const *targets, size_t target_count, const void *const *sources,
                  size_t source_count, size_t count)
{
    const size_t total = count * item_bytes(dtype);
    _Alignas(64) unsigned char block[BLOCK_BYTES];

    if (op == NPDP_SUM && source_count == 2 && target_count == 2 && dtype == NPDP_F32)
        pair_f32(targets[0], targets[1], sources[0], sources[1], count);
    else if (op == NPDP_SUM && source_count == 2 && target_count == 2 && dtype == NPDP_F64)
        pair_f64(targets[0], targets[1], sources[0], sources[1], count);
    else if (op == NPDP_SUM)
        add_up(dtype, targets, target_count, sources, source_count, count);
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

#define DEFINE_COMBINE_SGD(suffix, real)                                                                               \
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
        int finite = 1;                                                                                                \
        for (size_t start = 0; start < total; start += BLOCK_BYTES) {                                                  \
            const size_t nbytes = block_at(start, total), at = start / sizeof(real);                                   \
            fetch_to_write(param, start + BLOCK_BYTES, total);                                                         \
            sum_##suffix((void *[]){block}, 1, sources, source_count, at, nbytes / sizeof(real));                      \
            finite &= npdp_all_finite_##suffix((const real *)(const void *)block, nbytes / sizeof(real));              \
            npdp_sgd_##suffix(param + at, (real *)(void *)block, has_momentum ? velocity + at : NULL,                  \
                              nbytes / sizeof(real), lr, momentum, keep, weight_decay, nesterov, first);               \
        }                                                                                                              \
        return finite ? 0 : NPDP_SUM_NOT_FINITE;                                                                       \
    }

#define DEFINE_COMBINE_ADAM(suffix, real)                                                                              \
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
        int finite = 1;                                                                                                \
        for (size_t start = 0; start < total; start += BLOCK_BYTES) {                                                  \
            const size_t nbytes = block_at(start, total), at = start / sizeof(real);                                   \
            fetch_to_write(param, start + BLOCK_BYTES, total);                                                         \
            sum_##suffix((void *[]){block}, 1, sources, source_count, at, nbytes / sizeof(real));                      \
            finite &= npdp_all_finite_##suffix((const real *)(const void *)block, nbytes / sizeof(real));              \
            npdp_adam_##suffix(param + at, (real *)(void *)block, m + at, v + at, nbytes / sizeof(real), step_size,    \
                               beta1, rest1, beta2, rest2, root2, eps, l2, shrink);                                    \
        }                                                                                                              \
        return finite ? 0 : NPDP_SUM_NOT_FINITE;                                                                       \
    }

DEFINE_COMBINE_SGD(f32, float)
DEFINE_COMBINE_SGD(f64, double)

DEFINE_COMBINE_ADAM(f32, float)
DEFINE_COMBINE_ADAM(f64, double)
