/* Rows of bytes, gathered and scaled in one pass, where NumPy needs one to gather, one to convert and one to divide. */
#include "internal.h"
#include "npdp_kernels.h"

/* The rows of a batch lie anywhere in memory: this many are on their way at once. */
enum { ROWS_AHEAD = 4 };

static inline void fetch_row(const uint8_t *row, size_t width)
{
    for (size_t at = 0; at < width; at += CACHE_LINE_BYTES)
        __builtin_prefetch(row + at);
}

NPDP_CLONES void npdp_scaled_rows_f32(float *restrict out, const uint8_t *raw, const int64_t *rows, size_t count,
                                      size_t width, float unit)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *row = raw + (size_t)rows[i] * width;
        if (i + ROWS_AHEAD < count)
            fetch_row(raw + (size_t)rows[i + ROWS_AHEAD] * width, width);
        for (size_t c = 0; c < width; c++)
            out[i * width + c] = (float)row[c] / unit;
    }
}
