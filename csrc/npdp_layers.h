/* Kernels of layers, each one pass: the contract, for the C compiler and for cffi as npdp_kernels.h is. What it says of
 * every function holds here too. npdp/kernels/layers_reference.py says the same in NumPy and gives the same bits.
 *
 * exp, tanh and erf are those of functions.h. Sums over a row go in LANES: element i to lane i % LANES, in order, where
 * LANES is 64 bytes' worth (16 float32, 8 float64); then the upper half of the lanes is added to the lower half, until
 * one is left. So the width of a processor's vectors changes no bit. Sums over rows go from the first to the last.
 *
 * Arrays do not overlap, but where it says that one may be another.
 */
#ifndef NPDP_LAYERS_H
#define NPDP_LAYERS_H

#include <stddef.h>
#include <stdint.h>

/* y[i] = exp(x[i]), tanh, erf; at most 2 units in the last place off. y may be x. */
void npdp_exp_f32(const float *x, float *y, size_t count);
void npdp_exp_f64(const double *x, double *y, size_t count);
void npdp_tanh_f32(const float *x, float *y, size_t count);
void npdp_tanh_f64(const double *x, double *y, size_t count);
void npdp_erf_f32(const float *x, float *y, size_t count);
void npdp_erf_f64(const double *x, double *y, size_t count);

/* GELU, x P(X <= x) of a standard normal X, and its gradient times g[i]; with w = x, but within [-40, 40]:
 *   gelu        y = (0.5 x) (1 + erf(x sqrt(1/2)))
 *               gradient = g (0.5 (1 + erf(x sqrt(1/2))) + w (exp(-0.5 (x x)) / sqrt(2 pi)))
 *   gelu_tanh   y = x s
 *               gradient = g (s + (w (s (1 - s))) (a + 3 b (w w)))
 * where s = 1 / (1 + exp(-(x (a + b (x x))))), a = 2 sqrt(2 / pi), b = 0.044715 a; for 0.5 (1 + tanh(z)) is
 * 1 / (1 + exp(-2 z)). y may be x, gradient g or x. */
void npdp_gelu_f32(const float *x, float *y, size_t count);
void npdp_gelu_f64(const double *x, double *y, size_t count);
void npdp_gelu_tanh_f32(const float *x, float *y, size_t count);
void npdp_gelu_tanh_f64(const double *x, double *y, size_t count);
void npdp_gelu_gradient_f32(const float *g, const float *x, float *gradient, size_t count);
void npdp_gelu_gradient_f64(const double *g, const double *x, double *gradient, size_t count);
void npdp_gelu_tanh_gradient_f32(const float *g, const float *x, float *gradient, size_t count);
void npdp_gelu_tanh_gradient_f64(const double *g, const double *x, double *gradient, size_t count);

/* Layer norm of each row of x, (rows, width): with c = x - mean, rstd = 1 / sqrt(sum(c c) / width + eps),
 *   y = (c rstd) weight + bias.
 * The gradient, with n = (x - mean) rstd and h = g weight:
 *   gx = rstd ((h - sum(h) / width) - n (sum(h n) / width));  over rows: gweight = sum(g n), gbias = sum(g).
 * mean, rstd (rows,); weight, bias, gweight, gbias (width,). */
void npdp_layer_norm_f32(const float *x, const float *weight, const float *bias, float *y, float *mean, float *rstd,
                         size_t rows, size_t width, float eps);
void npdp_layer_norm_f64(const double *x, const double *weight, const double *bias, double *y, double *mean,
                         double *rstd, size_t rows, size_t width, double eps);
void npdp_layer_norm_gradient_f32(const float *g, const float *x, const float *weight, const float *mean,
                                  const float *rstd, float *gx, float *gweight, float *gbias, size_t rows,
                                  size_t width);
void npdp_layer_norm_gradient_f64(const double *g, const double *x, const double *weight, const double *mean,
                                  const double *rstd, double *gx, double *gweight, double *gbias, size_t rows,
                                  size_t width);

/* Softmax of each row of x, (rows, width): largest = max(x), y = exp(x - largest), total = sum(y), y = y (1 / total).
 * largest, totals (rows,): the row's log-sum-exp is largest + log(total); NaN where total is. width >= 1. y may be x.
 * The gradient, of y and its gradient g: gradient = y (g - sum(y g)). gradient may be g. */
void npdp_softmax_f32(const float *x, float *y, float *largest, float *totals, size_t rows, size_t width);
void npdp_softmax_f64(const double *x, double *y, double *largest, double *totals, size_t rows, size_t width);
void npdp_softmax_gradient_f32(const float *g, const float *y, float *gradient, size_t rows, size_t width);
void npdp_softmax_gradient_f64(const double *g, const double *y, double *gradient, size_t rows, size_t width);

/* Cross entropy of each row of logits, (rows, classes), which are read alone: no copy is made of them.
 *   largest = max(logits), totals = sum(exp(z)), spread = sum(z), chosen = z[label], where z = logits - largest.
 * largest is NaN where the total is. Where a label is not in [0, classes) it returns 1, and nothing is written.
 * classes >= 1.
 * The gradient of sum(share (log(total) - (1 - e) chosen - e spread / classes)) is, for each row,
 *   exp(z) (share / total) - share everywhere;  at the label less share at_label too.
 * Labels have been looked at. gradient may be logits. */
int npdp_cross_entropy_rows_f32(const float *logits, const int64_t *labels, float *largest, float *totals,
                                float *spread, float *chosen, size_t rows, size_t classes);
int npdp_cross_entropy_rows_f64(const double *logits, const int64_t *labels, double *largest, double *totals,
                                double *spread, double *chosen, size_t rows, size_t classes);
void npdp_cross_entropy_rows_gradient_f32(const float *logits, const int64_t *labels, const float *largest,
                                          const float *totals, const float *shares, float *gradient, size_t rows,
                                          size_t classes, float everywhere, float at_label);
void npdp_cross_entropy_rows_gradient_f64(const double *logits, const int64_t *labels, const double *largest,
                                          const double *totals, const double *shares, double *gradient, size_t rows,
                                          size_t classes, double everywhere, double at_label);

/* table[numbers[r]] += g[r], row by row, from the first to the last: an embedding's gradient. table is (any, width), g
 * (rows, width) and apart from it. Numbers are in table. */
void npdp_add_rows_f32(float *table, const int64_t *numbers, const float *g, size_t rows, size_t width);
void npdp_add_rows_f64(double *table, const int64_t *numbers, const double *g, size_t rows, size_t width);

#endif
