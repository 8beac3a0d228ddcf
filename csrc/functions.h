/* exp, tanh and erf of one number, for loops that the compiler turns into vectors: no calls, no branches.
 *
 *   exp(x) = 2^k (1 + r + r^2 P(r))             k = x / ln 2, rounded; r = x - k ln 2, |r| <= ln 2 / 2, in two steps,
 *                                               for ln 2 is not exact (Cody and Waite, 1980)
 *   tanh(x) = x + x x^2 H(x^2)                  where |x| < 0.55
 *           = 1 - 2 / (exp(2 |x|) + 1)          elsewhere, with x's sign
 *   erf(x) = x + x S(x^2)                       where |x| < 1
 *          = 1 - exp(-(|x| + |x| T(|x|)))       elsewhere, with x's sign
 *
 * P, H, S, T are polynomials of least error (Remez), below a tenth of a unit in the result's last place. All results
 * are at most 2 units off (1.0, 1.4 and 1.4 were found), NaN for NaN, and right at infinity; npdp/kernels/functions.py
 * does the same operations.
 */
#ifndef NPDP_FUNCTIONS_H
#define NPDP_FUNCTIONS_H

#include <stdint.h>
#include <string.h>

static const float EXP_f32[] = {0.49999994f, 0.16666515f, 0.041668087f, 0.0083692968f, 0.0013838239f};
static const float TANH_f32[] = {-0.33333316f, 0.13332544f, -0.053847548f, 0.021050714f, -0.0062428494f};
static const float ERF_f32[] = {0.12837917f,   -0.37612626f,    0.11283579f,   -0.026853347f,
                                0.0051871622f, -0.00079978531f, 7.8069032e-05f};
static const float TAIL_f32[] = {0.1286485f,     0.63515127f,     0.10623693f,    -0.023762079f,
                                 0.0036424433f, -0.00032279186f, 1.1229039e-05f};

static const double EXP_f64[] = {0.5000000000000011,     0.16666666666666405,    0.04166666666652737,
                                 0.008333333333497808,   0.0013888888944468653,  0.00019841269501357495,
                                 2.4801492136817482e-05, 2.7557589166131155e-06, 2.763062063676235e-07,
                                 2.4999780552505882e-08};
static const double TANH_f64[] = {-0.33333333333332316,   0.13333333333168707,     -0.05396825387607851,
                                  0.021869485974787186,   -0.008863194503882595,   0.0035917196956794227,
                                  -0.001453216746903537,  0.0005791369842716378,   -0.00021030234479730507,
                                  5.102143865829893e-05};
static const double ERF_f64[] = {0.12837916709551256,    -0.3761263890318352,     0.11283791670944185,
                                 -0.02686617064311145,   0.005223977606118397,    -0.0008548325929312908,
                                 0.0001205529357691112,  -1.4924712303200864e-05, 1.6447131596542416e-06,
                                 -1.6206314020901686e-07, 1.3710981784571833e-08, -7.77947147084308e-10};
static const double TAIL_f64[] = {
    0.12837920019419782,     0.6366193749371223,     0.10277484563377288,     -0.019136353364488073,
    -0.00018965215395640452, 0.0016602118379677926,  -0.0005388853777769153,  -3.178823536997048e-05,
    0.00011647159993898058,  -6.742170931379016e-05, 2.5280810903970266e-05,  -7.08528878298098e-06,
    1.5415775237122743e-06,  -2.615364736092547e-07, 3.409975599613889e-08,   -3.307312662339013e-09,
    2.249171981123249e-10,   -9.569593938168303e-12, 1.9159829678985367e-13};

/* What differs between the types. SHIFTER: added to a number and subtracted again, it leaves the number rounded, and in
 * between the last bits are that whole number. LN2_HIGH has so few bits that k times it is exact. */
enum { FRACTION_BITS_f32 = 23, FRACTION_BITS_f64 = 52 };
#define SHIFTER_f32 12582912.0f
#define SHIFTER_f64 6755399441055744.0
#define BIAS_f32 127
#define BIAS_f64 1023
#define SHIFTER_LESS_BIAS_f32 (0x4b400000u - 2 * BIAS_f32)
#define SHIFTER_LESS_BIAS_f64 (0x4338000000000000u - 2 * BIAS_f64)
#define LOG2_E_f32 1.44269504f
#define LOG2_E_f64 1.4426950408889634
#define LN2_HIGH_f32 0.693359375f
#define LN2_HIGH_f64 0.693147180369123816490
#define LN2_LOW_f32 -2.12194440e-4f
#define LN2_LOW_f64 1.90821492927058770002e-10
#define SIGN_f32 0x80000000u
#define SIGN_f64 0x8000000000000000u
/* Beyond these exp is 0 or infinite, and tanh and erf are 1. */
#define LEAST_f32 -104.0f
#define LEAST_f64 -746.0
#define MOST_f32 89.0f
#define MOST_f64 710.0
#define TANH_IS_1_f32 10.0f
#define TANH_IS_1_f64 20.0
#define ERF_IS_1_f32 4.0f
#define ERF_IS_1_f64 6.0

#define TERMS(polynomial) (int)(sizeof polynomial / sizeof polynomial[0])

#define DEFINE_FUNCTIONS(suffix, real, bits)                                                                           \
    static inline bits bits_of_##suffix(real x)                                                                        \
    {                                                                                                                  \
        bits same;                                                                                                     \
        memcpy(&same, &x, sizeof same);                                                                                \
        return same;                                                                                                   \
    }                                                                                                                  \
    static inline real of_bits_##suffix(bits same)                                                                     \
    {                                                                                                                  \
        real x;                                                                                                        \
        memcpy(&x, &same, sizeof x);                                                                                   \
        return x;                                                                                                      \
    }                                                                                                                  \
    /* A number that is not negative, with the sign of x. */                                                           \
    static inline real signed_##suffix(real size, real x)                                                              \
    {                                                                                                                  \
        return of_bits_##suffix(bits_of_##suffix(size) | (bits_of_##suffix(x) & SIGN_##suffix));                       \
    }                                                                                                                  \
    static inline real polynomial_##suffix(const real *coefficients, int terms, real x)                                \
    {                                                                                                                  \
        real sum = coefficients[terms - 1];                                                                            \
        _Pragma("GCC unroll 32") for (int i = terms - 2; i >= 0; i--)                                                  \
            sum = sum * x + coefficients[i];                                                                           \
        return sum;                                                                                                    \
    }                                                                                                                  \
    /* exp(x) = 2^k y: returns y and leaves k, to which SHIFTER is added. */                                           \
    static inline real reduced_##suffix(real x, real *shifted)                                                         \
    {                                                                                                                  \
        *shifted = x * LOG2_E_##suffix + SHIFTER_##suffix;                                                             \
        const real k = *shifted - SHIFTER_##suffix;                                                                    \
        const real r = (x - k * LN2_HIGH_##suffix) - k * LN2_LOW_##suffix;                                             \
        return 1 + (r + r * r * polynomial_##suffix(EXP_##suffix, TERMS(EXP_##suffix), r));                            \
    }                                                                                                                  \
    /* 2^k may be too large or small for the type where the result is not: so in two factors, 2^(k/2) each. */         \
    static inline real exp_##suffix(real x)                                                                            \
    {                                                                                                                  \
        real shifted;                                                                                                  \
        const real above = x < LEAST_##suffix ? LEAST_##suffix : x;                                                    \
        const real within = above > MOST_##suffix ? MOST_##suffix : above;                                             \
        const real y = reduced_##suffix(within, &shifted);                                                             \
        const bits both = bits_of_##suffix(shifted) - SHIFTER_LESS_BIAS_##suffix, one = both >> 1, other = both - one; \
        return y * of_bits_##suffix(one << FRACTION_BITS_##suffix) *                                                   \
               of_bits_##suffix(other << FRACTION_BITS_##suffix);                                                      \
    }                                                                                                                  \
    /* exp where it is a normal number: the same in fewer steps. */                                                    \
    static inline real normal_exp_##suffix(real x)                                                                     \
    {                                                                                                                  \
        real shifted;                                                                                                  \
        const real y = reduced_##suffix(x, &shifted);                                                                  \
        const bits exponent = bits_of_##suffix(shifted) - (SHIFTER_LESS_BIAS_##suffix + BIAS_##suffix);                \
        return y * of_bits_##suffix(exponent << FRACTION_BITS_##suffix);                                               \
    }                                                                                                                  \
    static inline real tanh_##suffix(real x)                                                                           \
    {                                                                                                                  \
        const real size = of_bits_##suffix(bits_of_##suffix(x) & ~SIGN_##suffix), square = size * size;                \
        const real within = size > TANH_IS_1_##suffix ? TANH_IS_1_##suffix : size;                                     \
        const real far = 1 - 2 / (normal_exp_##suffix(2 * within) + 1);                                                \
        const real near = size + size * (square * polynomial_##suffix(TANH_##suffix, TERMS(TANH_##suffix), square));   \
        return signed_##suffix(size < (real)0.55 ? near : far, x);                                                     \
    }                                                                                                                  \
    static inline real erf_##suffix(real x)                                                                            \
    {                                                                                                                  \
        const real size = of_bits_##suffix(bits_of_##suffix(x) & ~SIGN_##suffix);                                      \
        const real within = size > ERF_IS_1_##suffix ? ERF_IS_1_##suffix : size;                                       \
        const real tail = within + within * polynomial_##suffix(TAIL_##suffix, TERMS(TAIL_##suffix), within);          \
        const real far = 1 - normal_exp_##suffix(-tail);                                                               \
        const real near = within + within * polynomial_##suffix(ERF_##suffix, TERMS(ERF_##suffix), within * within);   \
        return signed_##suffix(within < 1 ? near : far, x);                                                            \
    }

DEFINE_FUNCTIONS(f32, float, uint32_t)
DEFINE_FUNCTIONS(f64, double, uint64_t)

#endif
