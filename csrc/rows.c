/* Rows added to those of a table; the contract is in npdp_layers.h. */
#include "internal.h"
#include "npdp_layers.h"

#define DEFINE_ADD_ROWS(name, real)                                                                                    \
    NPDP_CLONES void name(real *restrict table, const int64_t *numbers, const real *g, size_t rows, size_t width)      \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++, g += width) {                                                                \
            real *row = table + (size_t)numbers[r] * width;                                                            \
            for (size_t i = 0; i < width; i++)                                                                         \
                row[i] += g[i];                                                                                        \
        }                                                                                                              \
    }

DEFINE_ADD_ROWS(npdp_add_rows_f32, float)
DEFINE_ADD_ROWS(npdp_add_rows_f64, double)
