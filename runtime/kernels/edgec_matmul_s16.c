/* Matrix products on int16. */
#include <string.h>

#include "edgec_rows_s16.h"

void edgec_fully_connected_s16(
    const edgec_fully_connected_s16_params *p, const int16_t *in, int16_t *out, void *scratch) {
    int16_t *const copy = (int16_t *)scratch;
    edgec_rows_s16 rows = {0};
    rows.size = p->in_size;
    rows.columns = p->out_size;
    rows.out_stride = p->out_size;
    rows.low = p->low;
    rows.high = p->high;
    rows.wide = p->wide;
    rows.each = p->scales_each != 0 ? -1 : 0;
    rows.weights = p->weights;
    rows.bias = p->bias;
    rows.bias_high = p->bias_high;
    rows.mantissa = p->scales.mantissa;
    rows.exponent = p->scales.exponent;
    const int32_t together = edgec_rows_in_pairs(&rows) ? 2 : 1;
    for (int32_t row = 0; row < p->rows;) {
        const int32_t count = p->rows - row < together ? p->rows - row : together;
        for (int32_t i = 0; i < count; ++i) {
            int16_t *to = copy + i * p->in_size;
            memcpy(to, in, (size_t)p->in_size * sizeof *in);
            edgec_row_ready(to, p->in_size);
            in += p->in_size;
        }
        if (count == 2) {
            edgec_two_rows_s16(&rows, copy, out);
        } else {
            edgec_one_row_s16(&rows, copy, out);
        }
        row += count;
        out += count * p->out_size;
    }
}

/* a . b, both dense. */
static int64_t dot(const int16_t *a, const int16_t *b, int32_t size) {
    int64_t sum = 0;
    int32_t i = 0;
    for (; i < size; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* One matrix times another, where rows of the first are dense: four columns of the second are
 * gathered. */
static void dense_product(
    const edgec_matmul_s16_params *p, const int16_t *a, const int16_t *b, int16_t *out,
    int16_t *columns) {
    for (int32_t column = 0; column < p->columns; column += 4) {
        const int32_t width = p->columns - column < 4 ? p->columns - column : 4;
        for (int32_t j = 0; j < width; ++j) {
            const int16_t *from = b + (column + j) * p->b_column;
            int16_t *to = columns + j * p->inner;
            for (int32_t i = 0; i < p->inner; ++i) {
                to[i] = from[i * p->b_inner];
            }
        }
        for (int32_t row = 0; row < p->rows; ++row) {
            int16_t *to = out + row * p->columns + column;
            for (int32_t j = 0; j < width; ++j) {
                const int64_t sum = dot(a + row * p->a_row, columns + j * p->inner, p->inner);
                const int32_t scaled = edgec_scale_long(sum, p->mantissa, p->exponent);
                to[j] = edgec_clamp_s16(scaled, p->low, p->high);
            }
        }
    }
}

static void any_product(
    const edgec_matmul_s16_params *p, const int16_t *a, const int16_t *b, int16_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        for (int32_t column = 0; column < p->columns; ++column) {
            const int16_t *left = a + row * p->a_row;
            const int16_t *right = b + column * p->b_column;
            int64_t sum = 0;
            for (int32_t i = 0; i < p->inner; ++i) {
                sum += left[i * p->a_inner] * right[i * p->b_inner];
            }
            const int32_t scaled = edgec_scale_long(sum, p->mantissa, p->exponent);
            *out++ = edgec_clamp_s16(scaled, p->low, p->high);
        }
    }
}

void edgec_matmul_s16(
    const edgec_matmul_s16_params *p, const int16_t *a, const int16_t *b, int16_t *out,
    void *scratch) {
    for (int32_t i = 0; i < p->batch[0]; ++i) {
        for (int32_t j = 0; j < p->batch[1]; ++j) {
            for (int32_t k = 0; k < p->batch[2]; ++k) {
                const int16_t *left =
                    a + i * p->a_batch[0] + j * p->a_batch[1] + k * p->a_batch[2];
                const int16_t *right =
                    b + i * p->b_batch[0] + j * p->b_batch[1] + k * p->b_batch[2];
                if (p->a_inner == 1) {
                    dense_product(p, left, right, out, (int16_t *)scratch);
                } else {
                    any_product(p, left, right, out);
                }
                out += p->rows * p->columns;
            }
        }
    }
}
