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
    int32_t size;       /* elements of a row */
    int32_t columns;    /* outputs */
    int32_t out_stride; /* from the outputs of the first row to those of the second */
    int32_t out_zero, low, high;
    int32_t wide;          /* sums or scales that need the slow requantization */
    int32_t each;          /* -1: a scale per column, 0: one for all */
    const int8_t *weights; /* [columns][size] */
    const int32_t *bias;
    const int32_t *mantissa;
    const int8_t *exponent;
} edgec_rows_s8;

/* Whether rows are taken in pairs; scratch is enough for it. */
static inline int edgec_in_pairs(const edgec_rows_s8 *p) {
    return p->wide == 0 && p->size <= EDGEC_MOST_PAIRED;
}

/* How sums are rounded, known where a kernel is compiled. */
typedef enum { EDGEC_TWICE, EDGEC_ONCE } edgec_rounding;

static EDGEC_INLINE int8_t edgec_finish_s8(
    const edgec_rows_s8 *p, int32_t sum, int32_t column, edgec_rounding rounding,
    edgec_range range) {
    const int32_t mantissa = p->mantissa[column & p->each];
    const int32_t exponent = p->exponent[column & p->each];
    const int32_t scaled = rounding == EDGEC_ONCE
                               ? edgec_scale_down_once(sum, mantissa, exponent)
                               : edgec_scale_down(sum, mantissa, exponent);
    return edgec_clamp_s8(scaled + p->out_zero, p->low, p->high, range);
}

/* A row where sums or scales need the slow requantization. */
static EDGEC_APART void edgec_wide_row_s8(
    const edgec_rows_s8 *p, const int8_t *row, int8_t *out, edgec_rounding rounding) {
    for (int32_t column = 0; column < p->columns; ++column) {
        const int8_t *weights = p->weights + column * p->size;
        const int32_t sum = edgec_dot_s8(row, weights, p->size, p->bias[column]);
        const int32_t mantissa = p->mantissa[column & p->each];
        const int32_t exponent = p->exponent[column & p->each];
        const int32_t scaled = rounding == EDGEC_ONCE ? edgec_scale_once(sum, mantissa, exponent)
                                                      : edgec_scale_wide(sum, mantissa, exponent);
        out[column] = (int8_t)edgec_clamp(scaled + p->out_zero, p->low, p->high);
    }
}

#if defined(EDGEC_HELIUM)
/* Bias and scale of four neighbouring columns. */
typedef struct {
    int32x4_t bias, mantissa, exponent;
} edgec_columns_4;

static inline edgec_columns_4 edgec_columns_from(const edgec_rows_s8 *p, int32_t column) {
    edgec_columns_4 four;
    four.bias = vldrwq_s32(p->bias + column);
    if (p->each != 0) {
        four.mantissa = vldrwq_s32(p->mantissa + column);
        four.exponent = vldrbq_s32(p->exponent + column);
    } else {
        four.mantissa = vdupq_n_s32(p->mantissa[0]);
        four.exponent = vdupq_n_s32(p->exponent[0]);
    }
    return four;
}

static inline void edgec_finish_4_s8(
    const edgec_rows_s8 *p, const edgec_columns_4 *four, int32x4_t sums, int8_t *out,
    edgec_rounding rounding) {
    const int32x4_t x = vaddq_s32(sums, four->bias);
    const int32x4_t scaled = rounding == EDGEC_ONCE
                                 ? edgec_scale_down_once_4(x, four->mantissa, four->exponent)
                                 : edgec_scale_down_4(x, four->mantissa, four->exponent);
    vstrbq_s32(out, edgec_clamp_4(scaled, p->out_zero, p->low, p->high));
}
#endif

static inline void edgec_one_row_s8(
    const edgec_rows_s8 *given, const int8_t *row, int8_t *out, edgec_rounding rounding) {
    if (given->wide != 0) {
        edgec_wide_row_s8(given, row, out, rounding);
        return;
    }
    /* a copy: stores to `out` could change `given`, as far as the compiler knows */
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int32_t column = 0;
    for (; column + 4 <= p->columns; column += 4) {
#if defined(EDGEC_HELIUM)
        const edgec_columns_4 four = edgec_columns_from(p, column);
        const int32x4_t sums = edgec_dot_4_s8(row, weights, p->size, p->size);
        edgec_finish_4_s8(p, &four, sums, out + column, rounding);
#else
        int32_t sums[4] = {
            p->bias[column], p->bias[column + 1], p->bias[column + 2], p->bias[column + 3]};
        edgec_dot_1x4_s8(row, weights, p->size, p->size, sums);
        for (int32_t i = 0; i < 4; ++i) {
            out[column + i] = edgec_finish_s8(p, sums[i], column + i, rounding, EDGEC_LIMITS);
        }
#endif
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t sum = edgec_dot_s8(row, weights, p->size, p->bias[column]);
        out[column] = edgec_finish_s8(p, sum, column, rounding, EDGEC_LIMITS);
        weights += p->size;
    }
}

/* Two rows made ready (edgec_pair_ready); `wide` is not set. */
static EDGEC_INLINE void edgec_two_rows_s8(
    const edgec_rows_s8 *given, const int8_t *rows, int8_t *out, edgec_rounding rounding,
    edgec_range range) {
    const edgec_rows_s8 copy = *given;
    const edgec_rows_s8 *const p = &copy;
    const int8_t *weights = p->weights;
    int8_t *second = out + p->out_stride;
    int32_t column = 0;
#if defined(EDGEC_HELIUM)
    for (; column + 4 <= p->columns; column += 4) {
        const edgec_columns_4 four = edgec_columns_from(p, column);
        const int32x4_t first_sums = edgec_dot_4_s8(rows, weights, p->size, p->size);
        edgec_finish_4_s8(p, &four, first_sums, out + column, rounding);
        const int32x4_t second_sums = edgec_dot_4_s8(rows + p->size, weights, p->size, p->size);
        edgec_finish_4_s8(p, &four, second_sums, second + column, rounding);
        weights += 4 * p->size;
    }
    for (; column < p->columns; ++column) {
        const int32_t bias = p->bias[column];
        out[column] = edgec_finish_s8(
            p, edgec_dot_s8(rows, weights, p->size, bias), column, rounding, range);
        second[column] = edgec_finish_s8(
            p, edgec_dot_s8(rows + p->size, weights, p->size, bias), column, rounding, range);
        weights += p->size;
    }
#else
    for (; column < p->columns; column += 2) {
        /* the last of an odd number is computed twice */
        const int32_t next = column + 1 < p->columns ? column + 1 : column;
        const int32_t bias0 = p->bias[column];
        const int32_t bias1 = p->bias[next];
        int32_t sums[2][2] = {{bias0, bias1}, {bias0, bias1}};
        edgec_dot_2x2_s8(rows, weights, (next - column) * p->size, p->size, sums);
        out[column] = edgec_finish_s8(p, sums[0][0], column, rounding, range);
        out[next] = edgec_finish_s8(p, sums[0][1], next, rounding, range);
        second[column] = edgec_finish_s8(p, sums[1][0], column, rounding, range);
        second[next] = edgec_finish_s8(p, sums[1][1], next, rounding, range);
        weights += 2 * p->size;
    }
#endif
}

#endif
