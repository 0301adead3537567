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
    int32_t wide;          /* sums may exceed 2^30 */
    const int8_t *weights; /* [columns][size] */
    const int32_t *bias;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s8;

static inline int8_t edgec_finish_s8(const edgec_rows_s8 *p, int32_t sum, int32_t column) {
    const int32_t mantissa = p->mantissa[column];
    const int32_t exponent = p->exponent[column];
    int32_t scaled;
    if (p->once != 0) {
        scaled = edgec_scale_once(sum, mantissa, exponent);
    } else if (p->wide != 0) {
        scaled = edgec_scale_wide(sum, mantissa, exponent);
    } else {
        scaled = edgec_scale(sum, mantissa, exponent);
    }
    return (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
}

/* The same for four neighbouring columns. */
static inline void edgec_finish4_s8(
    const edgec_rows_s8 *p, const int32_t sums[4], int32_t column, int8_t *out) {
#if defined(EDGEC_HELIUM)
    if (p->once == 0 && p->wide == 0) {
        const int32x4_t exponent = vldrbq_s32(p->exponent + column);
        const int32x4_t zero = vdupq_n_s32(0);
        int32x4_t x = vshlq_s32(vldrwq_s32(sums), vmaxq_s32(exponent, zero));
        x = vqrdmulhq_s32(x, vldrwq_s32(p->mantissa + column));
        /* halves away from zero: one less before a shift that rounds halves upwards */
        x = vaddq_m_s32(x, x, vshrq_n_s32(x, 31), vcmpltq_s32(exponent, zero));
        x = vaddq_n_s32(vrshlq_s32(x, vminq_s32(exponent, zero)), p->out_zero);
        x = vminq_s32(vmaxq_s32(x, vdupq_n_s32(p->low)), vdupq_n_s32(p->high));
        vstrbq_s32(out + column, x);
        return;
    }
#endif
    for (int32_t i = 0; i < 4; ++i) {
        out[column + i] = edgec_finish_s8(p, sums[i], column + i);
    }
}

static inline void edgec_one_row_s8(const edgec_rows_s8 *given, const int8_t *row, int8_t *out) {
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int32_t column = 0;
    for (; column + 4 <= p->columns; column += 4) {
        int32_t sums[4] = {
            p->bias[column], p->bias[column + 1], p->bias[column + 2], p->bias[column + 3]};
        edgec_dot_1x4_s8(row, weights, p->size, sums);
        edgec_finish4_s8(p, sums, column, out);
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t sum = edgec_dot_s8(row, weights, p->size, p->bias[column]);
        out[column] = edgec_finish_s8(p, sum, column);
        weights += p->size;
    }
}

static inline void edgec_two_rows_s8(
    const edgec_rows_s8 *given, const int8_t *rows, int8_t *out) {
#if defined(EDGEC_HELIUM)
    /* four columns at once fill a vector of results, which pays more than sharing weights */
    edgec_one_row_s8(given, rows, out);
    edgec_one_row_s8(given, rows + given->size, out + given->out_stride);
#else
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
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
#endif
}

#endif
