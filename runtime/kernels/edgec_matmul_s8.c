/* Matrix products on int8. */
#include <string.h>

#include "edgec_rows_s8.h"

void edgec_fully_connected_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out, int8_t *scratch) {
    edgec_rows_s8 rows = {0};
    rows.size = p->in_size;
    rows.columns = p->out_size;
    rows.out_stride = p->out_size;
    rows.out_zero = p->out_zero;
    rows.low = p->low;
    rows.high = p->high;
    rows.once = 1;
    rows.weights = p->weights;
    rows.bias = p->bias;
    rows.mantissa = p->scales.mantissa;
    rows.exponent = p->scales.exponent;
    int32_t row = 0;
    while (row < p->rows) {
        const int32_t count = row + 2 <= p->rows ? 2 : 1;
        if (p->rows == 1) {
            edgec_one_row_s8(&rows, in, out);
            return;
        }
        memcpy(scratch, in, (size_t)(count * p->in_size));
        if (count == 2) {
            edgec_two_rows_s8(&rows, scratch, out);
        } else {
            edgec_one_row_s8(&rows, scratch, out);
        }
        row += count;
        in += count * p->in_size;
        out += count * p->out_size;
    }
}

/* Weights with a zero point of their own, which files of old converters have. */
void edgec_fully_connected_asymmetric_s8(
    const edgec_fully_connected_s8_params *p, const int8_t *in, int8_t *out) {
    for (int32_t row = 0; row < p->rows; ++row) {
        const int8_t *weights = p->weights;
        for (int32_t o = 0; o < p->out_size; ++o) {
            int32_t sum = p->bias[o];
            for (int32_t i = 0; i < p->in_size; ++i) {
                sum += in[i] * (weights[i] - p->weight_zero);
            }
            weights += p->in_size;
            sum = edgec_scale_once(sum, p->scales.mantissa[o], p->scales.exponent[o]);
            *out++ = (int8_t)edgec_clamp(sum + p->out_zero, p->low, p->high);
        }
        in += p->in_size;
    }
}

static inline int8_t finish_product(const edgec_matmul_s8_params *p, int32_t sum) {
    const int32_t scaled = edgec_scale(sum, p->mantissa, p->exponent);
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

static void one_product(
    const edgec_matmul_s8_params *given, const int8_t *a, const int8_t *b, int8_t *out) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_matmul_s8_params copy = *given;
    const edgec_matmul_s8_params *const p = &copy;
    for (int32_t row = 0; row < p->rows; ++row) {
        const int8_t *left = a + row * p->a_row;
        int32_t column = 0;
        /* four columns share the elements of the row */
        for (; column + 4 <= p->columns; column += 4) {
            const int8_t *y0 = b + column * p->b_column;
            const int8_t *y1 = y0 + p->b_column;
            const int8_t *y2 = y1 + p->b_column;
            const int8_t *y3 = y2 + p->b_column;
            int32_t s0 = 0;
            int32_t s1 = 0;
            int32_t s2 = 0;
            int32_t s3 = 0;
            for (int32_t i = 0; i < p->inner; ++i) {
                const int32_t value = left[i * p->a_inner] - p->a_zero;
                const int32_t at = i * p->b_inner;
                s0 += value * (y0[at] - p->b_zero);
                s1 += value * (y1[at] - p->b_zero);
                s2 += value * (y2[at] - p->b_zero);
                s3 += value * (y3[at] - p->b_zero);
            }
            *out++ = finish_product(p, s0);
            *out++ = finish_product(p, s1);
            *out++ = finish_product(p, s2);
            *out++ = finish_product(p, s3);
        }
        for (; column < p->columns; ++column) {
            const int8_t *right = b + column * p->b_column;
            int32_t sum = 0;
            for (int32_t i = 0; i < p->inner; ++i) {
                sum += (left[i * p->a_inner] - p->a_zero) * (right[i * p->b_inner] - p->b_zero);
            }
            *out++ = finish_product(p, sum);
        }
    }
}

void edgec_matmul_s8(
    const edgec_matmul_s8_params *p, const int8_t *a, const int8_t *b, int8_t *out) {
    for (int32_t i = 0; i < p->batch[0]; ++i) {
        for (int32_t j = 0; j < p->batch[1]; ++j) {
            for (int32_t k = 0; k < p->batch[2]; ++k) {
                const int8_t *left =
                    a + i * p->a_batch[0] + j * p->a_batch[1] + k * p->a_batch[2];
                const int8_t *right =
                    b + i * p->b_batch[0] + j * p->b_batch[1] + k * p->b_batch[2];
                one_product(p, left, right, out);
                out += p->rows * p->columns;
            }
        }
    }
}
