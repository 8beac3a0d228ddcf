/* Calls each kernel over many lengths and alignments, for the address and undefined-behaviour sanitizers to watch.
 *
 * Arrays come from malloc with their exact length, so that one element too many is seen, also where an offset shifts
 * the alignment. Values run through the awkward: extremes of integers, NaN, infinities, denormals. What comes out is
 * tested elsewhere, against NumPy; here is only looked at what C may not do. `make sanitize` builds and runs it.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "npdp_kernels.h"

enum { LONGEST = 100, LARGE = 4099, OFFSETS = 17 };

static unsigned long calls = 0, wrong = 0;

static void expect(int wanted, int got, const char *name, size_t count)
{
    calls++;
    if (wanted != got) {
        wrong++;
        fprintf(stderr, "%s, count %zu: status %d, wanted %d\n", name, count, got, wanted);
    }
}

static void *allocate(size_t nbytes)
{
    void *memory = malloc(nbytes > 0 ? nbytes : 1);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

/* Awkward values in turn; the start differs from array to array so that they meet each other. */
#define DEFINE_FILL(name, type, ...)                                                                                   \
    static type *name(size_t offset, size_t count, size_t start)                                                       \
    {                                                                                                                  \
        static const type values[] = {__VA_ARGS__};                                                                    \
        type *array = allocate((offset + count) * sizeof(type));                                                       \
        for (size_t i = 0; i < offset + count; i++)                                                                    \
            array[i] = values[(i * 7 + start) % (sizeof values / sizeof values[0])];                                   \
        return array;                                                                                                  \
    }

DEFINE_FILL(fill_f32, float, 0.0f, -0.0f, 1.5f, -3.25f, FLT_MAX, -FLT_MAX, FLT_MIN / 8, NAN, INFINITY, -INFINITY)
DEFINE_FILL(fill_f64, double, 0.0, -0.0, 1.5, -3.25, DBL_MAX, -DBL_MAX, DBL_MIN / 8, (double)NAN, (double)INFINITY)
DEFINE_FILL(fill_i32, int32_t, 0, 1, -1, INT32_MAX, INT32_MIN, 46341, -65536)
DEFINE_FILL(fill_i64, int64_t, 0, 1, -1, INT64_MAX, INT64_MIN, 3037000500, -4294967296)

#define CALL_ACCUMULATE(op, suffix, type)                                                                              \
    do {                                                                                                               \
        type *dst = fill_##suffix(offset, count, 0), *src = fill_##suffix(other, count, 3);                            \
        expect(0, npdp_##op##_##suffix(dst + offset, src + other, count), #op "_" #suffix, count);                     \
        expect(0, npdp_##op##_##suffix(dst + offset, dst + offset, count), #op "_" #suffix " on itself", count);       \
        if (offset > 0)                                                                                                \
            expect(count > offset, npdp_##op##_##suffix(dst, dst + offset, count), #op "_" #suffix " shifted", count); \
        free(dst);                                                                                                     \
        free(src);                                                                                                     \
    } while (0)

#define CALL_SGD(suffix, real, flags)                                                                                  \
    do {                                                                                                               \
        const real momentum = (flags)&1 ? (real)0.9 : 0, decay = (flags)&2 ? (real)0.01 : 0;                           \
        const int nesterov = (flags)&4 ? 1 : 0, first = (flags)&8 ? 1 : 0;                                             \
        real *param = fill_##suffix(offset, count, 0), *grad = fill_##suffix(other, count, 1);                         \
        real *velocity = momentum != 0 ? fill_##suffix(offset, count, 2) : NULL;                                       \
        real *v = velocity != NULL ? velocity + offset : NULL;                                                         \
        expect(0, npdp_sgd_##suffix(param + offset, grad + other, v, count, (real)0.1, momentum, 1, decay, nesterov,   \
                                    first),                                                                            \
               "sgd_" #suffix, count);                                                                                 \
        expect(count > 0, npdp_sgd_##suffix(param, param, v, count, (real)0.1, momentum, 1, decay, nesterov, first),   \
               "sgd_" #suffix " on itself", count);                                                                    \
        free(param);                                                                                                   \
        free(grad);                                                                                                    \
        free(velocity);                                                                                                \
    } while (0)

#define CALL_ADAM(suffix, real, l2, shrink)                                                                            \
    do {                                                                                                               \
        real *param = fill_##suffix(offset, count, 0), *grad = fill_##suffix(other, count, 1);                         \
        real *m = fill_##suffix(offset, count, 2), *v = fill_##suffix(other, count, 3);                                \
        expect(0, npdp_adam_##suffix(param + offset, grad + other, m + offset, v + other, count, (real)0.1,            \
                                     (real)0.9, (real)0.1, (real)0.99, (real)0.01, (real)0.1, (real)1e-8, l2, shrink), \
               "adam_" #suffix, count);                                                                                \
        expect(count > 0, npdp_adam_##suffix(param, grad, m, m, count, (real)0.1, (real)0.9, (real)0.1, (real)0.99,    \
                                             (real)0.01, (real)0.1, (real)1e-8, l2, shrink),                           \
               "adam_" #suffix " on itself", count);                                                                   \
        free(param);                                                                                                   \
        free(grad);                                                                                                    \
        free(m);                                                                                                       \
        free(v);                                                                                                       \
    } while (0)

#define CALL_ALL_TYPES(op)                                                                                             \
    do {                                                                                                               \
        CALL_ACCUMULATE(op, f32, float);                                                                               \
        CALL_ACCUMULATE(op, f64, double);                                                                              \
        CALL_ACCUMULATE(op, i32, int32_t);                                                                             \
        CALL_ACCUMULATE(op, i64, int64_t);                                                                             \
    } while (0)

static void call_accumulate(size_t count, size_t offset, size_t other)
{
    CALL_ALL_TYPES(sum);
    CALL_ALL_TYPES(prod);
    CALL_ALL_TYPES(min);
    CALL_ALL_TYPES(max);
}

static void call_updates(size_t count, size_t offset, size_t other)
{
    for (int flags = 0; flags < 16; flags++) {
        CALL_SGD(f32, float, flags);
        CALL_SGD(f64, double, flags);
    }
    CALL_ADAM(f32, float, 0.0f, 1.0f);
    CALL_ADAM(f32, float, 0.01f, 1.0f);
    CALL_ADAM(f32, float, 0.0f, 0.99f);
    CALL_ADAM(f64, double, 0.0, 1.0);
    CALL_ADAM(f64, double, 0.01, 1.0);
    CALL_ADAM(f64, double, 0.0, 0.99);
}

static void call_all(size_t count, size_t offset)
{
    const size_t other = (offset * 5 + count) % OFFSETS;
    call_accumulate(count, offset, other);
    call_updates(count, offset, other);
}

int main(void)
{
    for (size_t offset = 0; offset < OFFSETS; offset++) {
        for (size_t count = 0; count <= LONGEST; count++)
            call_all(count, offset);
        call_all(LARGE, offset);
    }
    printf("sanitize: %lu calls, %lu with a wrong status\n", calls, wrong);
    return wrong == 0 ? 0 : 1;
}
