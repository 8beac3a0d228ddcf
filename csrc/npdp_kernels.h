/* The arithmetic of npdp in C: the contract.
 *
 * Two readers: the C compiler, and cffi, which takes these same lines (without those that start with '#') as
 * the binding. npdp/kernels/reference.py says the same in NumPy and gives the same bits, but
 * for a zero's sign in cross entropy.
 *
 * For every function:
 *   - arrays are contiguous, aligned to their element and `count` elements long, where no shape is given;
 *   - threads may call it at the same time, where none writes what another uses.
 *
 * For all but the last two parts (npdp_processor, npdp_has_fast_strings):
 *   - each element, in cross entropy each row, is worked on by itself, in the order of operations written here, every
 *     operation rounded to the array's type, scalars too: vector width, alignment and cutting into ranges change no
 *     bit;
 *   - it keeps no state and allocates nothing; NULL is fine for an array without elements;
 *   - accumulate, updates and combined updates return 0; or 1, having done nothing, where arrays overlap that must not.
 *     The others do not look for overlap: shifted_logits returns 1 for something else, the rest nothing.
 *
 * Cost of these: one pass over memory. Per element, reads and writes: accumulate 3, SGD with momentum 5, Adam 7.
 */
#ifndef NPDP_KERNELS_H
#define NPDP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* accumulate: dst[i] = dst[i] op src[i].
 * dst and src are the same array or do not overlap.
 * sum, prod: integers wrap. min, max: NaN in either gives NaN; of two equal values (+0 and -0) src is taken. */
int npdp_sum_f32(float *dst, const float *src, size_t count);
int npdp_sum_f64(double *dst, const double *src, size_t count);
int npdp_sum_i32(int32_t *dst, const int32_t *src, size_t count);
int npdp_sum_i64(int64_t *dst, const int64_t *src, size_t count);
int npdp_prod_f32(float *dst, const float *src, size_t count);
int npdp_prod_f64(double *dst, const double *src, size_t count);
int npdp_prod_i32(int32_t *dst, const int32_t *src, size_t count);
int npdp_prod_i64(int64_t *dst, const int64_t *src, size_t count);
int npdp_min_f32(float *dst, const float *src, size_t count);
int npdp_min_f64(double *dst, const double *src, size_t count);
int npdp_min_i32(int32_t *dst, const int32_t *src, size_t count);
int npdp_min_i64(int64_t *dst, const int64_t *src, size_t count);
int npdp_max_f32(float *dst, const float *src, size_t count);
int npdp_max_f64(double *dst, const double *src, size_t count);
int npdp_max_i32(int32_t *dst, const int32_t *src, size_t count);
int npdp_max_i64(int64_t *dst, const int64_t *src, size_t count);

/* SGD, as torch.optim.SGD does it. Changes param and velocity, not grad; the three do not overlap.
 *   g = grad[i]                                 where weight_decay != 0: + weight_decay * param[i]
 *   velocity[i] = momentum * velocity[i] + keep * g       on the first update: g
 *   g = velocity[i]                             nesterov: g + momentum * velocity[i]
 *   param[i] = param[i] - lr * g
 * The two lines of velocity only where momentum != 0 and velocity is not NULL; elsewhere it is not touched. A velocity
 * that is nearer to 0 than the smallest normal number is stored, and used, as 0.
 * keep is 1 - dampening; nesterov and first are 0 or 1. */
int npdp_sgd_f32(float *param, const float *grad, float *velocity, size_t count, float lr, float momentum, float keep,
                 float weight_decay, int nesterov, int first);
int npdp_sgd_f64(double *param, const double *grad, double *velocity, size_t count, double lr, double momentum,
                 double keep, double weight_decay, int nesterov, int first);

/* Adam and AdamW, as torch.optim does them. Changes param, m and v, not grad; the four do not overlap.
 *   g = grad[i]                                 where l2 != 0: + l2 * param[i]              (Adam)
 *   p = shrink * param[i]                       which is param[i] where shrink == 1         (AdamW)
 *   m[i] = beta1 * m[i] + rest1 * g
 *   v[i] = beta2 * v[i] + (rest2 * g) * g
 *   param[i] = p - (step_size * m[i]) / (sqrt(v[i]) / root2 + eps)
 * where, at update t = 1, 2, ...: rest1 = 1 - beta1, rest2 = 1 - beta2, step_size = lr / (1 - beta1^t),
 * root2 = sqrt(1 - beta2^t), and with weight decay: l2 = weight_decay, shrink = 1 (Adam)
 * or l2 = 0, shrink = 1 - lr * weight_decay (AdamW). m and v become 0 as velocity does. */
int npdp_adam_f32(float *param, const float *grad, float *m, float *v, size_t count, float step_size, float beta1,
                  float rest1, float beta2, float rest2, float root2, float eps, float l2, float shrink);
int npdp_adam_f64(double *param, const double *grad, double *m, double *v, size_t count, double step_size,
                  double beta1, double rest1, double beta2, double rest2, double root2, double eps, double l2,
                  double shrink);

/* combine: every target[i] = source 0[i] op source 1[i] op ... in this order; what ranks that share memory do.
 * A target is one of the sources or does not overlap any; targets do not overlap. Source and target arrays: at least one. */
enum { NPDP_F32, NPDP_F64, NPDP_I32, NPDP_I64 };
enum { NPDP_SUM, NPDP_PROD, NPDP_MIN, NPDP_MAX };
void npdp_combine(int op, int dtype, void *const *targets, size_t target_count, const void *const *sources,
                  size_t source_count, size_t count);

/* Where the first element is that is infinite or NaN; count where none is. */
size_t npdp_first_not_finite_f32(const float *x, size_t count);
size_t npdp_first_not_finite_f64(const double *x, size_t count);

/* combine's sum, the same bits, which looks at them: returns whether one of them is not finite. Then firsts[k] is the least
 * of what it was and `at` + the place of the first element of source k that is not; of none, as where a sum overflows, it
 * stays. */
int npdp_sum_looking_f32(void *const *targets, size_t target_count, const void *const *sources, size_t source_count,
                         size_t count, size_t at, size_t *firsts);
int npdp_sum_looking_f64(void *const *targets, size_t target_count, const void *const *sources, size_t source_count,
                         size_t count, size_t at, size_t *firsts);

/* The optimiser's update with the sum of the sources as the gradient, which is stored nowhere: the same bits as
 * combine and then the update. It returns 1, having done nothing, where parameters or state overlap each other or a
 * source; and NPDP_SUM_NOT_FINITE, having done all of it, where the sum has NaN or infinity in it. */
enum { NPDP_SUM_NOT_FINITE = 2 };
int npdp_combine_sgd_f32(const void *const *sources, size_t source_count, float *param, float *velocity, size_t count,
                          float lr, float momentum, float keep, float weight_decay, int nesterov, int first);
int npdp_combine_sgd_f64(const void *const *sources, size_t source_count, double *param, double *velocity,
                          size_t count, double lr, double momentum, double keep, double weight_decay, int nesterov,
                          int first);
int npdp_combine_adam_f32(const void *const *sources, size_t source_count, float *param, float *m, float *v,
                           size_t count, float step_size, float beta1, float rest1, float beta2, float rest2,
                           float root2, float eps, float l2, float shrink);
int npdp_combine_adam_f64(const void *const *sources, size_t source_count, double *param, double *m, double *v,
                           size_t count, double step_size, double beta1, double rest1, double beta2, double rest2,
                           double root2, double eps, double l2, double shrink);

/* The gradient of ReLU's input: g[i] where its output y[i] is above 0, else g[i] * 0. It does not overlap g and y. */
void npdp_relu_gradient_f32(float *gradient, const float *g, const float *y, size_t count);
void npdp_relu_gradient_f64(double *gradient, const double *g, const double *y, size_t count);

/* out[i][c] = raw[rows[i]][c] / unit; raw is (any, width), out (count, width) and apart from it. Rows are in raw. */
void npdp_scaled_rows_f32(float *out, const uint8_t *raw, const int64_t *rows, size_t count, size_t width, float unit);

/* Softmax's cross entropy, but for exp and log. Logits are (rows, classes), what is made of them (classes, rows), labels and
 * what there is one of a row (rows,). No result overlaps anything. A zero's sign may be another than NumPy's.
 *   shifted_logits           shifted[c][r] = logits[r][c] - the largest of row r; chosen[r] = shifted[labels[r]][r]. Where a
 *                            label is not in [0, classes) it returns 1, and nothing is written. classes >= 1
 *   cross_entropy_gradient   gradient[c][r] = powers[c][r] * (share / totals[r]) - everywhere; at a row's label less
 *                            at_label too. Labels have been looked at. */
int npdp_shifted_logits_f32(const float *logits, const int64_t *labels, float *shifted, float *chosen, size_t rows,
                            size_t classes);
int npdp_shifted_logits_f64(const double *logits, const int64_t *labels, double *shifted, double *chosen, size_t rows,
                            size_t classes);
void npdp_cross_entropy_gradient_f32(const float *powers, const float *totals, const int64_t *labels, float *gradient,
                                     size_t rows, size_t classes, float share, float everywhere, float at_label);
void npdp_cross_entropy_gradient_f64(const double *powers, const double *totals, const int64_t *labels,
                                     double *gradient, size_t rows, size_t classes, double share, double everywhere,
                                     double at_label);

/* Which products (gemm/npdp_gemm.h) this processor can do (and Linux allows), and whether it works on 512 bits at once:
 * flags. It must be called before any with AMX: it asks Linux to keep the tiles of this process's threads and children. */
enum { NPDP_HAS_AVX512 = 1, NPDP_HAS_AMX = 2, NPDP_WIDE_UNITS = 4, NPDP_HAS_AVX2 = 8 };
int npdp_processor(void);

/* Whether one string instruction copies as fast as vectors do; asked for once, since a virtual machine takes long to answer. */
int npdp_has_fast_strings(void);

#endif
