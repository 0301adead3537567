/* Rows times weights on int8, where sums or scales need the slow requantization. */
#include "edgec_rows_s8.h"

void edgec_wide_row_s8(const edgec_rows_s8 *p, const int8_t *row, int8_t *out) {
    for (int32_t column = 0; column < p->columns; ++column) {
        const int8_t *weights = p->weights + column * p->size;
        const int32_t bias = edgec_bias(p->bias, p->bias_width, column);
        const int32_t sum = edgec_dot_s8(row, weights, p->size, bias);
        const int32_t scaled =
            edgec_scale_wide(sum, p->mantissa[column], p->exponent[column]);
        out[column] = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
    }
}
