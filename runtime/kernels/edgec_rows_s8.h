/* One or two rows times a matrix of weights, requantized: the heart of convolutions and linear
 * layers.
 *
 * The zero point of the input is in the bias (bias[o] - zero * sum of weights[o]), so that the
 * inner loop multiplies plain int8; what lies in the padding counts as the zero point.
 */
#ifndef EDGEC_ROWS_S8_H
#define EDGEC_ROWS_S8_H

#include "edgec_dot_s8.h"
#include "edgec_fixed_point.h"
#include "edgec_kernels.h"

typedef struct {
    int32_t size;          /* elements of a row */
    int32_t columns;       /* outputs */
    int32_t out_stride;    /* from the outputs of the first row to those of the second */
    int32_t out_zero, low, high;
    int32_t once;          /* rounding of FULLY_CONNECTED */
    const int8_t *weights; /* [columns][size] */
    const int32_t *bias;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s8;

static inline int8_t edgec_finish_s8(const edgec_rows_s8 *p, int32_t sum, int32_t column) {
    const int32_t scaled = p->once != 0
                               ? edgec_scale_once(sum, p->mantissa[column], p->exponent[column])
                               : edgec_scale(sum, p->mantissa[column], p->exponent[column]);
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

static inline void edgec_two_rows_s8(const edgec_rows_s8 *p, const int8_t *rows, int8_t *out) {
    const int8_t *weights = p->weights;
    int8_t *second = out + p->out_stride;
    int32_t column = 0;
    for (; column + 2 <= p->columns; column += 2) {
        const int32_t bias0 = p->bias[column];
        const int32_t bias1 = p->bias[column + 1];
        int32_t sums[2][2] = {{bias0, bias1}, {bias0, bias1}};
        edgec_dot_2x2_s8(rows, rows + p->size, weights, weights + p->size, p->size, sums);
        out[column] = edgec_finish_s8(p, sums[0][0], column);
        out[column + 1] = edgec_finish_s8(p, sums[0][1], column + 1);
        second[column] = edgec_finish_s8(p, sums[1][0], column);
        second[column + 1] = edgec_finish_s8(p, sums[1][1], column + 1);
        weights += 2 * p->size;
    }
    if (column < p->columns) {
        const int32_t bias = p->bias[column];
        out[column] = edgec_finish_s8(p, edgec_dot_s8(rows, weights, p->size, bias), column);
        second[column] =
            edgec_finish_s8(p, edgec_dot_s8(rows + p->size, weights, p->size, bias), column);
    }
}

static inline void edgec_one_row_s8(const edgec_rows_s8 *p, const int8_t *row, int8_t *out) {
    const int8_t *weights = p->weights;
    int32_t column = 0;
    for (; column + 4 <= p->columns; column += 4) {
        int32_t sums[4];
        for (int32_t i = 0; i < 4; ++i) {
            sums[i] = p->bias[column + i];
        }
        edgec_dot_1x4_s8(row, weights, p->size, sums);
        for (int32_t i = 0; i < 4; ++i) {
            out[column + i] = edgec_finish_s8(p, sums[i], column + i);
        }
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t sum = edgec_dot_s8(row, weights, p->size, p->bias[column]);
        out[column] = edgec_finish_s8(p, sum, column);
        weights += p->size;
    }
}

#endif
