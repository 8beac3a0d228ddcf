/* What the kernels share among themselves; not part of the contract. */
#ifndef NPDP_INTERNAL_H
#define NPDP_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "npdp_kernels.h"

/* Compiles a function once for each vector width; the loader picks the widest that the processor has. This needs
 * GCC and glibc; elsewhere the one plain version is used. Each gives the same bits. NPDP_ONE_VERSION switches it off. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__GLIBC__) && !defined(NPDP_ONE_VERSION)
#define NPDP_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define NPDP_CLONES
#endif

/* What the compiler can make; whether the processor has it is asked for at run time (processor.c). */
#if defined(__x86_64__) && defined(__GNUC__)
#define NPDP_WITH_X86
#if defined(__linux__) && !defined(__clang__) && __GNUC__ >= 11 && !defined(NPDP_WITHOUT_AMX)
#define NPDP_WITH_AMX
#endif
#endif

enum { CACHE_LINE_BYTES = 64 };

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many pieces of some length cover it. */
static inline size_t cover(size_t count, size_t length)
{
    return (count + length - 1) / length;
}

/* Where what begins at i lies, if it must not reach over the end. */
static inline size_t within(size_t i, size_t end, size_t length)
{
    return smaller(i, end - length);
}

/* Bytes of an element. */
static inline size_t item_bytes(int dtype)
{
    return dtype == NPDP_F32 || dtype == NPDP_I32 ? 4 : 8;
}

/* Whether two arrays of `nbytes` have a byte in common. */
static inline int npdp_overlap(const void *left, const void *right, size_t nbytes)
{
    const uintptr_t a = (uintptr_t)left, b = (uintptr_t)right;
    return (a < b ? b - a : a - b) < nbytes;
}

/* Whether all elements are finite (looking.c). */
int npdp_all_finite_f32(const float *x, size_t count);
int npdp_all_finite_f64(const double *x, size_t count);

/* What stands in for a product that the compiler cannot make: its caller makes it otherwise. */
#define NO_PRODUCT(name)                                                                                               \
    int name(const float *x, const float *w, float *y, size_t rows, size_t in, size_t out)                            \
    {                                                                                                                  \
        return (void)x, (void)w, (void)y, (void)rows, (void)in, (void)out, 1;                                          \
    }

#endif
